//! The table of cases.

use super::{mean, sum_rows};
use crate::ops::testing::{Case, input};

/// Every rank, one row, one column, nothing.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for extents in [
        vec![3, 5, 7, 2],
        vec![1, 65],
        vec![9, 1],
        vec![4],
        vec![2, 40, 50, 9],
        vec![2, 3, 41, 37],
        vec![2, 0, 3],
    ] {
        let x = input(&extents[..]);
        cases.push(Case::new(
            format!("rows of {}", x.shape),
            vec![x.clone()],
            |r, x| vec![sum_rows(r, x[0])],
        ));
        if !x.shape.is_empty() {
            cases.push(Case::new(
                format!("mean of {}", x.shape),
                vec![x],
                |r, x| vec![mean(r, x[0])],
            ));
        }
    }
    cases
}
