//! The table of cases.

use super::{Activation, batch_norm_fold, batch_norm_train, scale_shift};
use crate::ops::testing::{Case, Input, input};

const SHAPES: [[usize; 4]; 9] = [
    [3, 7, 5, 3],
    [2, 5, 3, 17],
    [5, 1, 1, 1],
    [2, 1, 3, 33],
    [4, 9, 7, 6],
    // More than one slice of rows on a GPU, in fours and not; more channels than a block is wide.
    [2, 23, 19, 6],
    [3, 23, 20, 12],
    [2, 3, 1, 8],
    [2, 1, 2, 133],
];

const ACTIVATIONS: [Activation; 3] = [Activation::None, Activation::Swish, Activation::LipSwish];

fn statistics(c: usize) -> Vec<Input> {
    vec![input([c]), input([c]).within(0.1, 3.0)]
}

/// Training, folding and evaluation for each activation on odd shapes; a mean far above the deviation.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for x in SHAPES {
        let c = x[3];
        for activation in ACTIVATIONS {
            cases.push(Case::with_updates(
                format!("train {x:?}, {activation:?}"),
                vec![input(x), input([c]), input([c])],
                statistics(c),
                move |r, v, s| {
                    vec![batch_norm_train(
                        r, v[0], v[1], v[2], s[0], s[1], activation,
                    )]
                },
            ));
            cases.push(Case::new(
                format!("scale and shift {x:?}, {activation:?}"),
                vec![input(x), input([c]), input([c])],
                move |r, v| vec![scale_shift(r, v[0], v[1], v[2], activation)],
            ));
        }
        let mut folded = vec![input(x), input([c]), input([c])];
        folded.extend(statistics(c).into_iter().map(Input::fixed));
        cases.push(Case::new(format!("folded {x:?}"), folded, |r, v| {
            let (scale, shift) = batch_norm_fold(r, v[1], v[2], v[3], v[4]);
            vec![scale_shift(r, v[0], scale, shift, Activation::Swish)]
        }));
    }
    // Positive arguments only: ELU has a kink in its second derivative at 0.
    cases.push(Case::new(
        "scale and shift, ELU",
        vec![
            input([2, 3, 5, 7]).within(0.1, 2.0),
            input([7]).within(0.1, 1.0),
            input([7]).within(0.1, 1.0),
        ],
        |r, v| vec![scale_shift(r, v[0], v[1], v[2], Activation::Elu)],
    ));
    cases.push(Case::with_updates(
        "train, ELU above 0",
        vec![
            input([2, 3, 5, 7]),
            input([7]).within(0.1, 0.5),
            input([7]).within(2.0, 3.0),
        ],
        statistics(7),
        |r, v, s| {
            vec![batch_norm_train(
                r,
                v[0],
                v[1],
                v[2],
                s[0],
                s[1],
                Activation::Elu,
            )]
        },
    ));
    // The mean is 170 deviations away, and half a unit in its last place is already 7e-6 deviations.
    cases.push(
        Case::with_updates(
            "train, offset",
            vec![
                input([4, 5, 7, 6]).within(99.0, 101.0),
                input([6]),
                input([6]),
            ],
            statistics(6),
            |r, v, s| {
                vec![batch_norm_train(
                    r,
                    v[0],
                    v[1],
                    v[2],
                    s[0],
                    s[1],
                    Activation::Swish,
                )]
            },
        )
        .tolerance(1e-4),
    );
    cases
}
