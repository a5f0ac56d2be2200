//! The table of cases.

use super::{GateWeights, residual_cell};
use crate::ops::mbconv::MbconvWeights;
use crate::ops::testing::{Case, input};

/// `(x, hidden, units)`: odd channel counts, images smaller than the window, and for kernels that keep the hidden channels on the chip one
/// tile and several of them, hanging over the border, at every width of sums, and the same for those of compute
/// capability 9.0, at every width and with pixels beside a tile.
const ROWS: [([usize; 4], usize, usize); 13] = [
    ([2, 7, 5, 3], 6, 4),
    ([2, 1, 1, 4], 9, 1),
    ([1, 4, 6, 5], 17, 4),
    ([2, 9, 8, 12], 36, 4),
    ([2, 5, 4, 16], 32, 4),
    ([2, 9, 17, 48], 32, 5),
    ([2, 16, 6, 80], 32, 5),
    ([1, 9, 16, 144], 32, 9),
    ([2, 9, 12, 64], 64, 5),
    ([1, 18, 17, 64], 128, 4),
    ([3, 5, 9, 128], 128, 5),
    ([1, 3, 34, 128], 64, 4),
    ([1, 9, 16, 256], 128, 4),
];

/// `(x, hidden, co, units)` of cells that double the resolution, in the same manner.
const ENLARGING: [([usize; 4], usize, usize, usize); 6] = [
    ([2, 3, 5, 6], 5, 3, 4),
    ([1, 1, 1, 8], 12, 4, 1),
    ([2, 4, 3, 32], 32, 16, 4),
    ([1, 9, 5, 96], 64, 48, 4),
    ([1, 8, 17, 32], 32, 80, 5),
    ([1, 7, 11, 160], 32, 128, 5),
];

/// Value and input gradient; the weights have none.
pub fn cases() -> Vec<Case> {
    let same = (ROWS.into_iter()).map(|(x, hidden, units)| case(x, hidden, x[3], units, false));
    let enlarging = ENLARGING.into_iter();
    same.chain(enlarging.map(|(x, hidden, co, units)| case(x, hidden, co, units, true)))
        .collect()
}

fn case(x: [usize; 4], hidden: usize, co: usize, units: usize, enlarges: bool) -> Case {
    // Away from the ReLU's kink, where central differences mean nothing.
    let sides: Vec<f64> = (0..units)
        .map(|j| if j % 2 == 0 { 20.0 } else { -20.0 })
        .collect();
    let mut tensors = vec![
        input(x),
        input([x[3], hidden]).within(-1.0, 1.0).fixed(),
        input([hidden]).fixed(),
        input([5, 5, hidden]).within(-0.5, 0.5).fixed(),
        input([hidden]).fixed(),
        input([hidden, co]).within(-0.5, 0.5).fixed(),
        input([co]).fixed(),
        input([co, units]).within(-0.2, 0.2).fixed(),
        input([units]).values(&sides).fixed(),
        input([units, co]).within(-0.1, 0.1).fixed(),
        input([co]).fixed(),
    ];
    if enlarges {
        tensors.push(input([1, 1, x[3], co]).within(-0.5, 0.5).fixed());
    }
    let up = if enlarges {
        format!(" to {co}, doubled")
    } else {
        String::new()
    };
    let name = format!("{x:?}{up}, {hidden} hidden, {units} units");
    Case::new(name, tensors, |r, v| {
        let weights = MbconvWeights {
            w1: v[1],
            b1: v[2],
            dw: v[3],
            b_dw: v[4],
            w2: v[5],
            b2: v[6],
        };
        let gate = GateWeights {
            w0: v[7],
            b0: v[8],
            w2: v[9],
            b2: v[10],
        };
        // A factor at which an error in the branch shows.
        vec![residual_cell(
            r,
            v[0],
            weights,
            gate,
            v.get(11).copied(),
            0.5,
        )]
    })
}
