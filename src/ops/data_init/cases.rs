//! The table of cases.

use super::data_init;
use crate::ops::testing::{Case, input};

/// With and without a bias, an offset far above the deviation, few and many positions, a matrix.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, y) in [
        ("image", input([2, 3, 5, 7])),
        ("offset", input([2, 4, 4, 3]).within(50.0, 51.0)),
        ("two positions", input([1, 2, 1, 5])),
        ("matrix", input([9, 4])),
        ("many positions", input([2, 40, 20, 3]).within(3.0, 5.0)),
        ("many positions and channels", input([4, 8, 9, 64])),
    ] {
        let channels = input([y.shape.last()]);
        cases.push(Case::with_updates(
            format!("{name}, bias"),
            vec![y.clone().fixed()],
            vec![channels.clone(), channels.clone()],
            |r, x, s| {
                data_init(r, x[0], Some(s[0]), s[1]);
                Vec::new()
            },
        ));
        cases.push(Case::with_updates(
            format!("{name}, no bias"),
            vec![y.fixed()],
            vec![channels],
            |r, x, s| {
                data_init(r, x[0], None, s[0]);
                Vec::new()
            },
        ));
    }
    cases
}
