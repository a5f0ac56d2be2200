//! The table of cases.

use super::{MbconvWeights, mbconv_eval};
use crate::ops::testing::{Case, Input, input};

/// `(x, hidden, co, upsample)`: images smaller than the window and larger than a GPU's tile of 8x8, odd channel counts and fours.
const ROWS: [([usize; 4], usize, usize, bool); 22] = [
    ([2, 7, 5, 3], 6, 3, false),
    ([1, 4, 6, 5], 17, 4, false),
    ([2, 1, 1, 3], 9, 2, false),
    ([1, 5, 3, 1], 3, 1, false),
    ([1, 8, 7, 8], 48, 8, false),
    ([2, 3, 5, 4], 12, 3, true),
    ([1, 1, 1, 3], 5, 17, true),
    ([1, 4, 3, 2], 34, 5, true),
    ([1, 11, 9, 4], 36, 8, false),
    ([1, 5, 6, 4], 40, 12, true),
    // For kernels that keep the hidden channels on the chip: tiles of 16x8 and 8x16 pixels, every width of sums, an upsampled one beside.
    ([1, 9, 17, 16], 32, 16, false),
    ([2, 7, 8, 32], 64, 48, false),
    ([1, 16, 16, 80], 32, 144, false),
    ([1, 5, 6, 32], 32, 96, false),
    ([1, 4, 10, 144], 32, 16, false),
    ([1, 3, 4, 16], 32, 16, true),
    // Three tiles each way: the middle one has neighbours on all sides.
    ([1, 17, 35, 16], 32, 16, false),
    // For those of compute capability 9.0: several slices, tiles that hang over the border, every width, pixels beside a tile.
    ([1, 9, 16, 64], 192, 64, false),
    ([2, 5, 8, 128], 64, 128, false),
    ([1, 2, 9, 256], 128, 256, false),
    ([1, 18, 17, 64], 64, 64, false),
    ([1, 3, 34, 128], 128, 128, false),
];

fn tensors(x: [usize; 4], hidden: usize, co: usize) -> Vec<Input> {
    vec![
        input(x),
        input([x[3], hidden]).within(-1.0, 1.0).fixed(),
        input([hidden]).fixed(),
        input([5, 5, hidden]).within(-0.5, 0.5).fixed(),
        input([hidden]).fixed(),
        input([hidden, co]).within(-0.5, 0.5).fixed(),
        input([co]).fixed(),
    ]
}

/// Value and input gradient; the weights have none.
pub fn cases() -> Vec<Case> {
    ROWS.into_iter()
        .map(|(x, hidden, co, upsample)| {
            let up = if upsample { ", upsampled" } else { "" };
            let name = format!("{x:?}, {hidden} hidden, to {co}{up}");
            Case::new(name, tensors(x, hidden, co), move |r, v| {
                let weights = MbconvWeights {
                    w1: v[1],
                    b1: v[2],
                    dw: v[3],
                    b_dw: v[4],
                    w2: v[5],
                    b2: v[6],
                };
                vec![mbconv_eval(r, v[0], weights, upsample)]
            })
        })
        .collect()
}
