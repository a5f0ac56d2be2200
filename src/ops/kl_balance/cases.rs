//! The table of cases.

use super::kl_balance;
use crate::ops::testing::{Case, Input, input};
use crate::tensor::Shape;

/// Weights depend on the KL terms but are constants in the gradient, so central differences agree with it only where they cannot
/// change: for a single group, and from a coefficient of 1 on. The folder's own test looks at the rest.
pub fn cases() -> Vec<Case> {
    let coefficient = |c: f64| input(Shape::SCALAR).values(&[c]).fixed();
    let three = |fixed: bool| -> Vec<Input> {
        (0..3)
            .map(|_| {
                let kl = input([5]).within(-0.5, 40.0);
                if fixed { kl.fixed() } else { kl }
            })
            .collect()
    };
    let many: Vec<Input> = (0..11)
        .map(|_| input([40]).within(-0.5, 9.0).fixed())
        .collect();
    let both = |r: &dyn crate::ops::Recorder, x: &[crate::ops::Var]| {
        let (coefficient, kl) = x.split_last().expect("a coefficient");
        let (balanced, weights) =
            kl_balance(r, kl, &[1.0, 2.5, 4.0].repeat(4)[..kl.len()], *coefficient);
        vec![balanced, weights]
    };
    vec![
        Case::new(
            "many groups, balanced",
            [many, vec![coefficient(0.9)]].concat(),
            both,
        ),
        Case::new(
            "three groups, balanced",
            [three(true), vec![coefficient(0.3)]].concat(),
            both,
        ),
        Case::new(
            "three groups, plain",
            [three(false), vec![coefficient(1.0)]].concat(),
            both,
        ),
        Case::new(
            "one group, balanced",
            vec![input([7]), coefficient(0.01)],
            both,
        ),
    ]
}
