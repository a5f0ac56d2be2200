//! The table of cases.

use super::{normal, uniform};
use crate::ops::testing::Case;

/// Lengths beside the generator's blocks of four, and more numbers than a thread's share.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for extents in [
        vec![],
        vec![5],
        vec![3, 7, 1, 5],
        vec![70, 31, 16],
        vec![0, 4],
    ] {
        let normal_extents = extents.clone();
        // Every device gives the same bits, so nothing is tolerated.
        cases.push(
            Case::new(format!("normal {extents:?}"), vec![], move |r, _| {
                vec![normal(r, &normal_extents[..], 3)]
            })
            .tolerance(0.0),
        );
        cases.push(
            Case::new(format!("uniform {extents:?}"), vec![], move |r, _| {
                vec![uniform(r, &extents[..], 4)]
            })
            .tolerance(0.0),
        );
    }
    cases
}
