//! The table of cases.

use super::{Activated, BlockWeights, residual_block};
use crate::ops::testing::{Case, Input, input};
use crate::ops::unary::{Function, unary};
use crate::ops::{Recorder, Var};

/// The tensors of a block: its input before the activation, and weights with a skip's where there is one.
pub(in crate::ops) fn tensors(x: [usize; 4], cout: usize, skip: bool) -> Vec<Input> {
    let cin = x[3];
    let mut tensors = vec![
        input(x),
        input([3, 3, cin, cout]).within(-0.5, 0.5),
        input([cout]),
        input([3, 3, cout, cout]).within(-0.5, 0.5),
        input([cout]),
    ];
    tensors.extend(skip.then(|| input([1, 1, cin, cout])));
    tensors
}

/// The block of [`tensors`], its input activated.
pub(in crate::ops) fn block(r: &dyn Recorder, v: &[Var], down: bool) -> Activated {
    let x = Activated {
        before: v[0],
        after: unary(r, Function::LipSwish, v[0]),
    };
    let weights = BlockWeights {
        w1: v[1],
        b1: v[2],
        w2: v[3],
        b2: v[4],
        skip: v.get(5).copied(),
    };
    residual_block(r, x, weights, down)
}

/// With and without skip and pooling; odd extents and channels, channels in fours, more pixels than a tile has.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, x, cout, skip, down) in [
        ("as it is", [2, 5, 4, 3], 3, false, false),
        ("as it is, in fours", [1, 9, 8, 20], 20, false, false),
        ("wider", [2, 3, 5, 3], 5, true, false),
        ("wider, in fours", [1, 7, 11, 4], 36, true, false),
        ("halved", [2, 6, 4, 3], 3, true, true),
        ("halved, odd", [1, 7, 5, 3], 4, true, true),
        ("halved, in fours", [2, 9, 10, 20], 36, true, true),
        ("halved to one pixel", [1, 2, 3, 4], 4, true, true),
    ] {
        let both = move |r: &dyn Recorder, v: &[Var]| {
            let y = block(r, v, down);
            vec![y.before, y.after]
        };
        cases.push(Case::new(what, tensors(x, cout, skip), both));
    }
    // Only what it is before the activation, or after it, has a gradient.
    cases.push(Case::new(
        "after the activation alone",
        tensors([1, 4, 6, 4], 4, false),
        |r, v| vec![block(r, v, false).after],
    ));
    cases.push(Case::new(
        "two of them",
        tensors([1, 6, 4, 4], 4, true),
        |r, v| {
            let first = block(r, v, true);
            let weights = BlockWeights {
                w1: v[1],
                b1: v[2],
                w2: v[3],
                b2: v[4],
                skip: None,
            };
            vec![residual_block(r, first, weights, false).before]
        },
    ));
    cases
}
