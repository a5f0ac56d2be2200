//! The table of cases.

use super::dwconv;
use crate::ops::testing::{Case, input};

/// Windows of 3, 5 and 11, strides 1 and 2, images smaller than the window and larger than a GPU's tile, odd sizes and channel counts.
pub fn cases() -> Vec<Case> {
    let rows: &[(&str, [usize; 4], usize, usize)] = &[
        ("5x5", [2, 7, 5, 3], 5, 1),
        ("5x5, 17 channels", [1, 9, 7, 17], 5, 1),
        ("5x5, 66 channels", [1, 6, 7, 66], 5, 1),
        ("5x5, 36 channels, three tiles", [2, 9, 21, 36], 5, 1),
        ("5x5, 16 channels on one pixel", [2, 1, 1, 16], 5, 1),
        ("3x3, 40 channels, six tiles", [1, 10, 33, 40], 3, 1),
        ("5x5 on one pixel", [2, 1, 1, 1], 5, 1),
        ("5x5 on a small image", [1, 2, 3, 3], 5, 1),
        ("5x5 stride 2, odd", [2, 7, 5, 3], 5, 2),
        ("5x5 stride 2, even", [1, 8, 6, 17], 5, 2),
        ("5x5 stride 2 on one pixel", [1, 1, 1, 3], 5, 2),
        ("3x3", [1, 5, 7, 17], 3, 1),
        ("11x11", [1, 7, 5, 3], 11, 1),
        ("11x11 stride 2", [1, 9, 13, 5], 11, 2),
        ("no image at all", [0, 7, 5, 3], 5, 1),
    ];
    rows.iter()
        .map(|&(what, x, k, stride)| {
            let tensors = vec![input(x), input([k, k, x[3]])];
            Case::new(what, tensors, move |r, v| {
                vec![dwconv(r, v[0], v[1], stride, k / 2)]
            })
        })
        .collect()
}
