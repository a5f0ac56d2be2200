//! The table of cases.

use super::{Function, unary};
use crate::ops::testing::{Case, input};

/// Every function on odd lengths; ranges keep clear of kinks, where central differences mean nothing.
pub fn cases() -> Vec<Case> {
    let smooth = [
        Function::Swish,
        Function::LipSwish,
        Function::Sigmoid,
        Function::Softplus,
        Function::SoftClamp,
        Function::Exp,
        Function::Square,
        Function::Affine {
            scale: -0.3,
            shift: 2.0,
        },
    ];
    let mut cases = Vec::new();
    for f in smooth {
        cases.push(Case::new(
            format!("{f:?}"),
            vec![input([3, 7, 5])],
            move |r, x| vec![unary(r, f, x[0])],
        ));
        cases.push(Case::new(
            format!("{f:?} of nothing"),
            vec![input([0, 4])],
            move |r, x| vec![unary(r, f, x[0])],
        ));
    }
    cases.push(Case::new(
        "more than a chunk",
        vec![input([5, 4001])],
        |r, x| vec![unary(r, Function::Swish, x[0])],
    ));
    for f in [
        Function::Swish,
        Function::LipSwish,
        Function::Elu,
        Function::Relu,
        Function::Affine {
            scale: -0.3,
            shift: 2.0,
        },
    ] {
        // Kinks are no business of a copy in bf16 either.
        let x = input([2, 5, 3, 8]).within(0.1, 3.0);
        cases.push(Case::new(
            format!("{f:?} of an image"),
            vec![x],
            move |r, x| vec![unary(r, f, x[0])],
        ));
    }
    for (f, low, high) in [
        (Function::Elu, 0.1, 3.0),
        (Function::Elu, -4.0, -0.1),
        (Function::Relu, 0.1, 3.0),
        (Function::Relu, -4.0, -0.1),
        (Function::Ln, 0.2, 9.0),
    ] {
        cases.push(Case::new(
            format!("{f:?} in [{low}, {high}]"),
            vec![input([4, 9]).within(low, high)],
            move |r, x| vec![unary(r, f, x[0])],
        ));
    }
    for f in [
        Function::Swish,
        Function::Elu,
        Function::SoftClamp,
        Function::Softplus,
        Function::Sigmoid,
    ] {
        let far = [-200.0, -90.0, -20.0, 20.0, 90.0, 200.0];
        cases.push(Case::new(
            format!("{f:?} far out"),
            vec![input([6]).values(&far)],
            move |r, x| vec![unary(r, f, x[0])],
        ));
    }
    cases
}
