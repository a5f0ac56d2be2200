//! The table of cases.

use super::{assign, stop_gradient};
use crate::ops::binary::add;
use crate::ops::testing::{Case, input};

/// A write that a later node reads, and a stop. Central differences see through both, so their inputs are fixed; the folder's own
/// test looks at the gradient.
pub fn cases() -> Vec<Case> {
    vec![
        Case::with_updates(
            "write, then read",
            vec![input([3, 5]).fixed()],
            vec![input([3, 5])],
            |r, x, s| {
                assign(r, s[0], x[0]);
                vec![add(r, s[0], x[0])]
            },
        ),
        Case::new("stop", vec![input([7]).fixed()], |r, x| {
            vec![stop_gradient(r, x[0])]
        }),
    ]
}
