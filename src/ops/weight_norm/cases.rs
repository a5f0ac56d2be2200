//! The table of cases.

use super::{normalized, weight_norm};
use crate::ops::testing::{Case, input};

/// Odd, wide and long weights, one filter, two weights per filter, masks that hide whole filters, weights of zero.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for extents in [
        vec![3, 3, 5, 7],
        vec![1, 1, 3, 1],
        vec![1, 1, 2, 6],
        vec![5, 5, 9],
        vec![4, 150],
        vec![3, 3, 2, 8],
        vec![3, 3, 20, 30],
        vec![2, 64, 128],
    ] {
        let w = input(&extents[..]);
        let log_weight_norm = input([w.shape.last()]);
        cases.push(Case::new(
            format!("{}", w.shape),
            vec![w.clone(), log_weight_norm.clone()],
            |r, x| vec![weight_norm(r, x[0], x[1], None)],
        ));
        let bits: Vec<f64> = (0..w.shape.len()).map(|i| f64::from(i % 3 != 1)).collect();
        let mask = input(w.shape).values(&bits).fixed();
        cases.push(Case::new(
            format!("{} under a mask", w.shape),
            vec![w.clone(), log_weight_norm, mask],
            |r, x| vec![weight_norm(r, x[0], x[1], Some(x[2]))],
        ));
        cases.push(Case::new(
            format!("{} without a gain", w.shape),
            vec![w],
            |r, x| vec![normalized(r, x[0])],
        ));
    }
    // A filter of zeros bends within a step of central differences.
    cases.push(Case::new(
        "zeros",
        vec![input([3, 2]).values(&[0.0; 6]).fixed(), input([2])],
        |r, x| vec![weight_norm(r, x[0], x[1], None)],
    ));
    cases
}
