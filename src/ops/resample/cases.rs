//! The table of cases.

use super::{Kind, Resample};
use crate::ops::record1;
use crate::ops::testing::{Case, input};

/// Odd and tiny images for each map.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Kind::AvgPool, Kind::Nearest, Kind::Bilinear] {
        for x in [
            [2, 7, 5, 3],
            [1, 4, 6, 17],
            [3, 2, 2, 1],
            [1, 3, 2, 33],
            [0, 4, 4, 2],
            [2, 5, 3, 8],
        ] {
            let name = format!("{kind:?} of {x:?}");
            cases.push(Case::new(name, vec![input(x)], move |r, v| {
                vec![record1(r, Resample(kind), v)]
            }));
        }
    }
    for kind in [Kind::Nearest, Kind::Bilinear] {
        for x in [[2, 1, 1, 3], [1, 1, 3, 2], [1, 5, 1, 1]] {
            let name = format!("{kind:?} of {x:?}");
            cases.push(Case::new(name, vec![input(x)], move |r, v| {
                vec![record1(r, Resample(kind), v)]
            }));
        }
    }
    cases
}
