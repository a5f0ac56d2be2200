//! The table of cases.

use super::{Activation, Extras, Geometry, conv2d, conv2d_fused};
use crate::ops::testing::{Case, input};

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
