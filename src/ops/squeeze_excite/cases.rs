//! The table of cases.

use super::squeeze_excite;
use crate::ops::testing::{Case, input};

/// Odd images and channel counts, with and without the residual sum.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (x, hidden) in [
        ([3, 4, 5, 8], 4),
        ([2, 7, 5, 17], 4),
        ([2, 1, 1, 3], 5),
        ([1, 3, 2, 1], 1),
        ([2, 3, 5, 66], 4),
        ([0, 3, 2, 4], 4),
        // More than one slice of pixels on a GPU.
        ([1, 22, 21, 36], 4),
    ] {
        let c = x[3];
        // Away from the ReLU's kink, where central differences mean nothing: half the hidden units on each side.
        let sides: Vec<f64> = (0..hidden)
            .map(|j| if j % 2 == 0 { 20.0 } else { -20.0 })
            .collect();
        let tensors = vec![
            input(x),
            input([c, hidden]).within(-0.2, 0.2),
            input([hidden]).values(&sides),
            input([hidden, c]).within(-0.1, 0.1),
            input([c]),
            input(x),
        ];
        let alone = tensors[..5].to_vec();
        cases.push(Case::new(
            format!("{x:?}, {hidden} hidden"),
            alone,
            |r, v| vec![squeeze_excite(r, v[0], v[1], v[2], v[3], v[4], None)],
        ));
        let name = format!("{x:?}, {hidden} hidden, residual");
        cases.push(Case::new(name, tensors, |r, v| {
            let skip = Some((v[5], 0.1));
            vec![squeeze_excite(r, v[0], v[1], v[2], v[3], v[4], skip)]
        }));
    }
    cases
}
