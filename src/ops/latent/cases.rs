//! The table of cases.

use super::{
    kl, kl_per_channel, log_prob, log_ratio, log_ratio_per_channel, sample, sample_log_prob,
};
use crate::ops::testing::{Case, input};

/// Odd and tiny latents, matrices, temperatures, parameters far into the soft clamp, an empty batch.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (extents, width) in [
        (vec![2, 3, 5, 14], 2.0),
        (vec![1, 1, 1, 2], 2.0),
        (vec![3, 40], 6.0),
        (vec![2, 16, 16, 40], 3.0),
        // More than a block sums: pieces, and their totals.
        (vec![1, 21, 20, 40], 3.0),
        (vec![0, 2, 2, 4], 2.0),
    ] {
        let params = input(&extents[..]).within(-width, width);
        let z = input(params.shape.with_last(params.shape.last() / 2));
        for temperature in [1.0, 0.7] {
            let both = vec![params.clone(), z.clone()];
            let name = |what: &str| format!("{what} {} at {temperature}", params.shape);
            cases.push(Case::new(name("sample"), both.clone(), move |r, x| {
                vec![sample(r, x[0], x[1], temperature)]
            }));
            cases.push(Case::new(
                name("sample and density"),
                both.clone(),
                move |r, x| {
                    let (z, log_p) = sample_log_prob(r, x[0], x[1], temperature);
                    vec![z, log_p]
                },
            ));
            cases.push(Case::new(name("density"), both, move |r, x| {
                vec![log_prob(r, x[0], x[1], temperature)]
            }));
        }
        let two = vec![params.clone(), params.clone()];
        cases.push(Case::new(
            format!("divergence {}", params.shape),
            two.clone(),
            |r, x| vec![kl(r, x[0], x[1])],
        ));
        let four = vec![params.clone(), z.clone(), params.clone(), z.clone()];
        cases.push(Case::new(
            format!("ratio {}", params.shape),
            four.clone(),
            |r, x| vec![log_ratio(r, x[0], x[1], x[2], x[3])],
        ));
        if !params.shape.is_empty() {
            cases.push(Case::new(
                format!("ratio per channel {}", params.shape),
                four,
                |r, x| vec![log_ratio_per_channel(r, x[0], x[1], x[2], x[3])],
            ));
            cases.push(Case::new(
                format!("divergence per channel {}", params.shape),
                two,
                |r, x| vec![kl_per_channel(r, x[0], x[1])],
            ));
        }
    }
    cases
}
