//! The table of cases.

use super::{Activation, Extras, Geometry, conv2d, conv2d_activated, conv2d_fused, conv2d_joined};
use crate::ops::binary::add;
use crate::ops::testing::{Case, input};
use crate::ops::unary::{Function, unary};

/// `(what, x, w, geometry)`: tiny and odd images, few and odd channels, strides, dilation, groups, crops.
fn plain() -> Vec<(&'static str, [usize; 4], [usize; 4], Geometry)> {
    vec![
        ("1x1", [2, 7, 5, 3], [1, 1, 3, 17], Geometry::same(1)),
        (
            "1x1 on one pixel",
            [1, 1, 1, 17],
            [1, 1, 17, 3],
            Geometry::same(1),
        ),
        (
            "1x1 stride 2",
            [2, 5, 3, 4],
            [1, 1, 4, 5],
            Geometry::same(1).strided(2),
        ),
        ("3x3", [2, 7, 5, 3], [3, 3, 3, 17], Geometry::same(3)),
        (
            "3x3 on one pixel",
            [1, 1, 1, 1],
            [3, 3, 1, 1],
            Geometry::same(3),
        ),
        (
            "3x3 on one column",
            [1, 6, 1, 2],
            [3, 3, 2, 3],
            Geometry::same(3),
        ),
        (
            "3x3 to one channel",
            [2, 5, 4, 17],
            [3, 3, 17, 1],
            Geometry::same(3),
        ),
        (
            "3x3 from one channel",
            [2, 5, 4, 1],
            [3, 3, 1, 17],
            Geometry::same(3),
        ),
        ("3x3 wide", [1, 9, 6, 33], [3, 3, 33, 34], Geometry::same(3)),
        (
            "3x3 stride 2, odd",
            [2, 7, 5, 5],
            [3, 3, 5, 6],
            Geometry::same(3).strided(2),
        ),
        (
            "3x3 stride 2, even",
            [1, 8, 6, 3],
            [3, 3, 3, 17],
            Geometry::same(3).strided(2),
        ),
        (
            "3x3 dilation 2",
            [2, 7, 5, 3],
            [3, 3, 3, 4],
            Geometry::same(3).dilated(2),
        ),
        (
            "3x3 dilation 2, small",
            [1, 2, 3, 4],
            [3, 3, 4, 4],
            Geometry::same(3).dilated(2),
        ),
        (
            "3x3 stride 2 dilation 2",
            [1, 7, 5, 3],
            [3, 3, 3, 5],
            Geometry::same(3).strided(2).dilated(2),
        ),
        (
            "5x5 in 8 groups",
            [1, 7, 5, 24],
            [5, 5, 3, 16],
            Geometry::same(5).grouped(8),
        ),
        (
            "3x3 stride 2 in 8 groups",
            [2, 5, 7, 16],
            [3, 3, 2, 8],
            Geometry::same(3).strided(2).grouped(8),
        ),
        (
            "shifted by (1, 0)",
            [2, 6, 4, 5],
            [1, 1, 5, 3],
            Geometry::shifted(1, 0),
        ),
        (
            "shifted by (1, 1)",
            [1, 4, 6, 3],
            [1, 1, 3, 17],
            Geometry::shifted(1, 1),
        ),
        (
            "3x3 uneven padding",
            [1, 5, 6, 3],
            [3, 3, 3, 4],
            Geometry {
                pad: [[2, 0], [-1, 1]],
                ..Geometry::same(3)
            },
        ),
        // Channels in fours, which GPUs move at once; more columns than their narrow tile has, and more pixels than one part of dw.
        (
            "1x1 in fours",
            [3, 5, 7, 20],
            [1, 1, 20, 68],
            Geometry::same(1),
        ),
        (
            "3x3 in fours",
            [1, 9, 8, 20],
            [3, 3, 20, 36],
            Geometry::same(3),
        ),
        // Several images in a tile, more than one chunk of channels, more columns than a tile.
        (
            "3x3 on small images",
            [5, 8, 7, 36],
            [3, 3, 36, 72],
            Geometry::same(3),
        ),
        (
            "3x3 stride 2 in fours",
            [2, 9, 7, 36],
            [3, 3, 36, 12],
            Geometry::same(3).strided(2),
        ),
        (
            "3x2 stride 3 dilation 2 in fours, cropped",
            [1, 14, 11, 8],
            [3, 2, 8, 4],
            Geometry {
                pad: [[3, -1], [-2, 4]],
                ..Geometry::same(1).strided(3).dilated(2)
            },
        ),
        (
            "2x2 stride 4 dilation 6, taps of one phase",
            [1, 13, 15, 4],
            [2, 2, 4, 4],
            Geometry {
                pad: [[1, 2], [0, 3]],
                ..Geometry::same(1).strided(4).dilated(6)
            },
        ),
        (
            "3x3, many pixels",
            [2, 19, 17, 3],
            [3, 3, 3, 5],
            Geometry::same(3),
        ),
        (
            "3x3 in fours, many pixels",
            [1, 25, 23, 4],
            [3, 3, 4, 8],
            Geometry::same(3),
        ),
        (
            "3x3 in 2 groups, many pixels",
            [1, 24, 23, 4],
            [3, 3, 2, 4],
            Geometry::same(3).grouped(2),
        ),
    ]
}

/// Both the sums and an activation of them, with gradients of both and of one alone.
fn activated() -> Vec<Case> {
    let tensors = |c: usize| vec![input([2, 5, 4, 3]), input([3, 3, 3, c]), input([c])];
    let both = |r: &dyn crate::ops::Recorder, v: &[crate::ops::Var]| {
        conv2d_activated(
            r,
            v[0],
            v[1],
            Some(v[2]),
            Activation::LipSwish,
            Geometry::same(3),
        )
    };
    vec![
        Case::new("before and after lip-swish", tensors(5), move |r, v| {
            let (y, after) = both(r, v);
            vec![y, after]
        }),
        Case::new("after lip-swish, in fours", tensors(8), move |r, v| {
            vec![both(r, v).1]
        }),
        Case::new(
            "after swish, in groups",
            vec![input([1, 4, 5, 4]), input([3, 3, 2, 6])],
            |r, v| {
                let geometry = Geometry::same(3).grouped(2);
                vec![conv2d_activated(r, v[0], v[1], None, Activation::Swish, geometry).1]
            },
        ),
    ]
}

/// Two images side by side: even and odd channels, more columns than a tile has, one pixel.
fn joined() -> Vec<Case> {
    let shapes = [
        ("odd channels", [2, 3, 5, 7], 3, 5),
        ("channels in fours", [1, 9, 8, 36], 20, 36),
        ("more pixels than a tile", [1, 13, 11, 128], 12, 132),
        ("one pixel", [1, 1, 1, 4], 1, 3),
    ];
    let case = |(what, x, c2, cout): (&str, [usize; 4], usize, usize)| {
        let [n, h, w, cx] = x;
        let tensors = vec![
            input(x),
            input([n, h, w, c2]),
            input([1, 1, cx + c2, cout]),
            input([cout]),
        ];
        Case::new(format!("joined, {what}"), tensors, |r, v| {
            vec![conv2d_joined(r, v[0], v[1], v[2], v[3])]
        })
    };
    let mut cases: Vec<Case> = shapes.into_iter().map(case).collect();
    // The gradient of one of them alone.
    for fixed in 0..2 {
        let mut tensors = vec![
            input([2, 3, 4, 20]),
            input([2, 3, 4, 8]),
            input([1, 1, 28, 12]),
            input([12]),
        ];
        tensors[fixed] = tensors[fixed].clone().fixed();
        cases.push(Case::new(
            format!("joined, no gradient of image {fixed}"),
            tensors,
            |r, v| vec![conv2d_joined(r, v[0], v[1], v[2], v[3])],
        ));
    }
    cases
}

/// An image that something reads after the convolution: its gradient is there when that of the convolution is made.
fn gradients_that_begin_from_another() -> Vec<Case> {
    let tensors = |c: usize, weights: [usize; 4]| {
        vec![
            input([2, 5, 3, c]),
            input(weights),
            input([2, 5, 3, weights[3]]),
        ]
    };
    let later = |r: &dyn crate::ops::Recorder, x| unary(r, Function::Square, x);
    let mut cases = Vec::new();
    for (what, pre, c) in [
        ("of lip-swish", Activation::LipSwish, 3),
        ("in fours", Activation::None, 20),
    ] {
        let weights = [3, 3, c, c];
        cases.push(Case::new(
            format!("3x3 {what}, its input read again"),
            tensors(c, weights),
            move |r, v| {
                let extras = Extras {
                    bias: None,
                    residual: Some(v[2]),
                };
                let y = conv2d_fused(r, v[0], pre, v[1], extras, Geometry::same(3));
                vec![add(r, y, later(r, v[0]))]
            },
        ));
    }
    cases.push(Case::new(
        "in 2 groups, its input read again",
        vec![input([1, 4, 5, 6]), input([3, 3, 3, 6])],
        move |r, v| {
            let y = conv2d(r, v[0], v[1], None, Geometry::same(3).grouped(2));
            vec![add(r, y, later(r, v[0]))]
        },
    ));
    for c in [5, 20] {
        cases.push(Case::new(
            format!("joined, {c} channels, its first image read again"),
            vec![
                input([2, 3, 4, c]),
                input([2, 3, 4, 4]),
                input([1, 1, c + 4, c]),
                input([c]),
            ],
            move |r, v| {
                let y = conv2d_joined(r, v[0], v[1], v[2], v[3]);
                vec![add(r, y, later(r, v[0]))]
            },
        ));
    }
    cases
}

/// Every geometry with a bias, some without; then the fused forms.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, x, w, geometry) in plain() {
        let tensors = vec![input(x), input(w), input([w[3]])];
        cases.push(Case::new(what, tensors, move |r, v| {
            vec![conv2d(r, v[0], v[1], Some(v[2]), geometry)]
        }));
    }
    cases.push(Case::new(
        "without bias",
        vec![input([1, 4, 3, 5]), input([3, 3, 5, 6])],
        |r, v| vec![conv2d(r, v[0], v[1], None, Geometry::same(3))],
    ));
    cases.push(Case::new(
        "no image at all",
        vec![input([0, 4, 3, 5]), input([3, 3, 5, 6])],
        |r, v| vec![conv2d(r, v[0], v[1], None, Geometry::same(3))],
    ));
    for (what, pre, geometry, x, w, y) in [
        (
            "3x3 of swish",
            Activation::Swish,
            Geometry::same(3),
            [2, 5, 7, 17],
            [3, 3, 17, 3],
            [2, 5, 7, 3],
        ),
        (
            "1x1 of lip-swish",
            Activation::LipSwish,
            Geometry::same(1),
            [2, 3, 5, 3],
            [1, 1, 3, 5],
            [2, 3, 5, 5],
        ),
        (
            "3x3 in fours, of lip-swish",
            Activation::LipSwish,
            Geometry::same(3),
            [1, 6, 7, 20],
            [3, 3, 20, 36],
            [1, 6, 7, 36],
        ),
        (
            "3x3 stride 2 of swish",
            Activation::Swish,
            Geometry::same(3).strided(2),
            [1, 7, 5, 4],
            [3, 3, 4, 5],
            [1, 4, 3, 5],
        ),
        (
            "shifted, of swish",
            Activation::Swish,
            Geometry::shifted(0, 1),
            [2, 4, 6, 3],
            [1, 1, 3, 4],
            [2, 2, 3, 4],
        ),
        (
            "3x3, residual",
            Activation::None,
            Geometry::same(3),
            [2, 5, 4, 3],
            [3, 3, 3, 4],
            [2, 5, 4, 4],
        ),
    ] {
        let tensors = vec![input(x), input(w), input([w[3]]), input(y)];
        cases.push(Case::new(
            format!("{what} and residual"),
            tensors,
            move |r, v| {
                let extras = Extras {
                    bias: Some(v[2]),
                    residual: Some(v[3]),
                };
                vec![conv2d_fused(r, v[0], pre, v[1], extras, geometry)]
            },
        ));
    }
    cases.extend(joined());
    cases.extend(activated());
    cases.extend(gradients_that_begin_from_another());
    // ELU's second derivative jumps at 0, where central differences mean nothing: stay on one side.
    for (low, high) in [(0.1, 2.0), (-2.0, -0.1)] {
        cases.push(Case::new(
            format!("3x3 of ELU in [{low}, {high}], residual, no bias"),
            vec![
                input([1, 4, 5, 3]).within(low, high),
                input([3, 3, 3, 5]),
                input([1, 4, 5, 5]),
            ],
            |r, v| {
                let extras = Extras {
                    bias: None,
                    residual: Some(v[2]),
                };
                vec![conv2d_fused(
                    r,
                    v[0],
                    Activation::Elu,
                    v[1],
                    extras,
                    Geometry::same(3),
                )]
            },
        ));
    }
    cases
}
