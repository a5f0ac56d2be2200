//! The table of cases.

use super::{softmax, softmax_cross_entropy};
use crate::ops::testing::{Case, input};

/// Odd class counts, one class, scores far apart, targets that are probabilities, no sample.
pub fn cases() -> Vec<Case> {
    let far = [80.0, -80.0, 3.0, -90.0, 90.0, 91.0];
    let mut cases = Vec::new();
    for (name, scores) in [
        ("10 classes", input([5, 10])),
        ("one class", input([3, 1])),
        ("many classes", input([9, 70])),
        ("far apart", input([2, 3]).values(&far)),
        ("nothing", input([0, 4])),
    ] {
        let target = input(scores.shape).within(0.0, 1.0).fixed();
        cases.push(Case::new(
            format!("softmax, {name}"),
            vec![scores.clone()],
            |r, x| vec![softmax(r, x[0])],
        ));
        cases.push(Case::new(
            format!("cross-entropy, {name}"),
            vec![scores, target],
            |r, x| vec![softmax_cross_entropy(r, x[0], x[1])],
        ));
    }
    cases
}
