//! The table of cases.

use super::{concat, reshape, slice};
use crate::ops::testing::{Case, input};

/// Each axis, uneven parts, ends and middles.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (axis, parts) in [
        (3, [[2, 3, 5, 4], [2, 3, 5, 1], [2, 3, 5, 17]]),
        (2, [[2, 3, 1, 4], [2, 3, 7, 4], [2, 3, 2, 4]]),
        (1, [[2, 1, 3, 4], [2, 5, 3, 4], [2, 2, 3, 4]]),
        (0, [[1, 5, 3, 2], [4, 5, 3, 2], [2, 5, 3, 2]]),
    ] {
        let tensors = parts.map(input).to_vec();
        cases.push(Case::new(
            format!("concat along {axis}"),
            tensors,
            move |r, v| vec![concat(r, v, axis)],
        ));
    }
    // In eights where they are stored as bf16, which a part from outside is not.
    for outside in [false, true] {
        let parts = [[2, 3, 5, 8], [2, 3, 5, 24], [2, 3, 5, 16]].map(input);
        let mut parts = parts.to_vec();
        if outside {
            parts[1] = parts[1].clone().fixed();
        }
        let name = format!("concat of eights, one from outside: {outside}");
        cases.push(Case::new(name, parts, |r, v| vec![concat(r, v, 3)]));
    }
    for (axis, start, len) in [(3, 8, 16), (1, 1, 2)] {
        let name = format!("{start}..{} of axis {axis} in eights", start + len);
        cases.push(Case::new(name, vec![input([2, 4, 3, 32])], move |r, v| {
            vec![slice(r, v[0], axis, start, len)]
        }));
    }
    cases.push(Case::new(
        "an image turned in eights",
        vec![input([2, 3, 4, 8])],
        |r, v| vec![reshape(r, v[0], [2, 4, 3, 8])],
    ));
    for (axis, start, len) in [
        (3, 0, 3),
        (3, 4, 3),
        (3, 2, 1),
        (2, 1, 2),
        (1, 2, 3),
        (0, 1, 1),
        (3, 0, 7),
        (1, 4, 0),
    ] {
        let name = format!("{start}..{} of axis {axis}", start + len);
        cases.push(Case::new(name, vec![input([2, 5, 3, 7])], move |r, v| {
            vec![slice(r, v[0], axis, start, len)]
        }));
    }
    cases.push(Case::new(
        "one tensor cut in two",
        vec![input([3, 2, 2, 6])],
        |r, v| vec![slice(r, v[0], 3, 0, 2), slice(r, v[0], 3, 2, 4)],
    ));
    for (from, to) in [
        (vec![2, 3, 4, 5], vec![2, 60]),
        (vec![7, 1, 1, 3], vec![7, 3]),
        (vec![1], vec![]),
        (vec![0, 3], vec![3, 0]),
    ] {
        let name = format!("{from:?} as {to:?}");
        cases.push(Case::new(
            name,
            vec![input(from.as_slice())],
            move |r, v| vec![reshape(r, v[0], to.as_slice())],
        ));
    }
    cases
}
