//! The table of cases.

use super::linear;
use crate::ops::testing::{Case, input};

/// Odd extents, single rows and columns, fours, many rows, with and without bias.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, inputs, outputs) in [
        (3, 5, 7),
        (1, 17, 1),
        (16, 1, 3),
        (2, 67, 33),
        (0, 4, 5),
        (40, 36, 68),
        (600, 4, 8),
    ] {
        let tensors = vec![
            input([n, inputs]),
            input([inputs, outputs]),
            input([outputs]),
        ];
        let name = format!("{n} rows, {inputs} to {outputs}");
        cases.push(Case::new(name.clone(), tensors[..2].to_vec(), |r, v| {
            vec![linear(r, v[0], v[1], None)]
        }));
        cases.push(Case::new(name + ", bias", tensors, |r, v| {
            vec![linear(r, v[0], v[1], Some(v[2]))]
        }));
    }
    cases
}
