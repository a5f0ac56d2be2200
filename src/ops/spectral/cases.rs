//! The table of cases.

use super::{max_abs, max_abs_sum, sigma, sigma_sum};
use crate::ops::testing::{Case, Input, input};

/// Iterated until `u` and `v` are singular vectors the gradient is that of the singular value, which central differences see;
/// after few iterations only values and states are compared.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for extents in [
        vec![3, 3, 4, 5],
        vec![1, 1, 3, 9],
        vec![5, 5, 6],
        vec![2, 17],
        vec![4, 1],
    ] {
        let w = input(&extents[..]);
        let u = start(w.shape.last());
        for iterations in [1, 4] {
            cases.push(Case::with_updates(
                format!("{}, {iterations} iterations", w.shape),
                vec![w.clone().fixed()],
                vec![u.clone()],
                move |r, x, u| vec![sigma(r, x[0], u[0], iterations)],
            ));
        }
        cases.push(Case::with_updates(
            format!("{}, converged", w.shape),
            vec![w],
            vec![u],
            |r, x, u| vec![sigma(r, x[0], u[0], 400)],
        ));
    }
    cases.push(Case::with_updates(
        "three weights, converged",
        vec![input([3, 3, 2, 3]), input([7, 2]), input([3, 3, 33])],
        vec![start(3), start(2), start(33)],
        |r, x, u| vec![sigma_sum(r, x, u, 800)],
    ));
    cases.push(Case::with_updates(
        "three weights, 4 iterations",
        vec![
            input([3, 3, 20, 30]).fixed(),
            input([7, 2]).fixed(),
            input([5, 5, 33]).fixed(),
        ],
        vec![start(30), start(2), start(33)],
        |r, x, u| vec![sigma_sum(r, x, u, 4)],
    ));
    // Some too large for one block: columns beside a block's threads, fewer and more than them.
    for iterations in [1, 4] {
        cases.push(Case::with_updates(
            format!("large weights, {iterations} iterations"),
            vec![
                input([3, 3, 33, 70]).fixed(),
                input([7, 2]).fixed(),
                input([60, 300]).fixed(),
                input([3000, 3]).fixed(),
                input([40, 256]).fixed(),
            ],
            vec![start(70), start(2), start(300), start(3), start(256)],
            move |r, x, u| vec![sigma_sum(r, x, u, iterations)],
        ));
    }
    cases.push(Case::with_updates(
        "zeros",
        vec![input([3, 4]).values(&[0.0; 12]).fixed()],
        vec![start(4)],
        |r, x, u| vec![sigma(r, x[0], u[0], 4)],
    ));
    for extents in [vec![1], vec![7], vec![35]] {
        cases.push(Case::new(
            format!("largest of {extents:?}"),
            vec![input(&extents[..])],
            |r, x| vec![max_abs(r, x[0])],
        ));
    }
    cases.push(Case::new(
        "sum of largest",
        vec![input([6]), input([3]).values(&[-2.0, 1.0, 0.5]), input([1])],
        |r, x| vec![max_abs_sum(r, x)],
    ));
    cases
}

/// A state that no singular vector of the cases is orthogonal to.
fn start(len: usize) -> Input {
    input([len]).within(0.1, 1.0)
}
