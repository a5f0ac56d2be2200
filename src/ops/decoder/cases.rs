//! The table of cases.

use super::{
    bernoulli_log_prob, dmol_log_prob, dmol_mean, dmol_sample, normal_log_prob,
    normal_log_prob_clamped, normal_mean, normal_sample,
};
use crate::ops::testing::{Case, Input, input};
use crate::tensor::Shape;

/// One and three colours, odd and large images, one to twenty components, samples inside and outside the image's range, every branch of the discretised logistic.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for extents in [[2, 3, 5, 6], [3, 1, 1, 2], [2, 32, 32, 6], [0, 2, 2, 2]] {
        let params = input(extents).within(-3.0, 3.0);
        let shape = params.shape;
        let image = input(shape.with_last(shape.last() / 2)).within(0.0, 1.0);
        let noise = input(image.shape);
        let scored = vec![params.clone(), image];
        cases.push(Case::new(
            format!("normal density {shape}"),
            scored.clone(),
            |r, x| vec![normal_log_prob(r, x[0], x[1])],
        ));
        cases.push(Case::new(
            format!("clamped normal density {shape}"),
            scored,
            |r, x| vec![normal_log_prob_clamped(r, x[0], x[1])],
        ));
        cases.push(Case::new(
            format!("normal sample {shape}"),
            vec![params.clone(), noise],
            |r, x| vec![normal_sample(r, x[0], x[1])],
        ));
        cases.push(Case::new(
            format!("normal mean {shape}"),
            vec![params],
            |r, x| vec![normal_mean(r, x[0])],
        ));
    }
    for (extents, crop) in [
        ([2, 5, 7, 1], 0),
        ([2, 5, 7, 3], 2),
        ([2, 32, 32, 1], 2),
        ([1, 2, 2, 1], 1),
        ([1, 30, 31, 3], 4),
    ] {
        cases.push(Case::new(
            format!("bernoulli {extents:?}, border {crop}"),
            vec![
                input(extents).within(-9.0, 9.0),
                input(extents).within(0.0, 1.0),
            ],
            move |r, x| vec![bernoulli_log_prob(r, x[0], x[1], crop)],
        ));
    }
    for (extents, bits) in [
        ([2, 3, 5, 30], 8),
        ([1, 4, 4, 100], 5),
        ([1, 1, 3, 10], 8),
        ([2, 9, 9, 10], 8),
        ([1, 2, 3, 200], 8),
    ] {
        let shape = Shape::from(extents);
        let logits = input(shape).within(-4.0, 2.0);
        cases.push(Case::new(
            format!("mixture {shape}, {bits} bits"),
            vec![logits.clone(), levels(shape.with_last(3), bits)],
            move |r, x| vec![dmol_log_prob(r, x[0], x[1], bits)],
        ));
        for temperature in [1.0, 0.7] {
            let uniforms = |channels| input(shape.with_last(channels)).within(1e-5, 0.999).fixed();
            cases.push(Case::new(
                format!("mixture sample {shape} at {temperature}"),
                vec![
                    logits.clone().fixed(),
                    uniforms(shape.last() / 10),
                    uniforms(3),
                ],
                move |r, x| vec![dmol_sample(r, x[0], x[1], x[2], temperature)],
            ));
        }
        cases.push(Case::new(
            format!("mixture mean {shape}"),
            vec![logits.fixed()],
            |r, x| vec![dmol_mean(r, x[0])],
        ));
    }
    // One component, one pixel each: narrow bins far from their value, and log scales below their floor.
    let narrow = |mean: f64, log_scale: f64| -> Vec<f64> {
        let mut pixel = vec![0.3];
        pixel.extend(
            [0.0, 1.0, 2.0]
                .map(|c| [mean + 0.1 * c, log_scale, 0.2 * c])
                .as_flattened(),
        );
        pixel
    };
    for (mean, log_scale) in [(0.9, -5.0), (-0.9, -4.0), (0.2, -8.0), (0.1, -0.5)] {
        cases.push(Case::new(
            format!("one logistic at {mean}, log scale {log_scale}"),
            vec![
                input([4, 1, 1, 10]).values(&narrow(mean, log_scale).repeat(4)),
                levels([4, 1, 1, 3].into(), 8),
            ],
            |r, x| vec![dmol_log_prob(r, x[0], x[1], 8)],
        ));
    }
    cases
}

/// Images that hold both ends of the range and some levels between.
fn levels(shape: Shape, bits: u32) -> Input {
    let highest = f64::from(bits).exp2() - 1.0;
    let level = |i: usize| (i as f64 * 0.37).fract() * 1.4 - 0.2;
    let values: Vec<f64> = (0..shape.len())
        .map(|i| (level(i).clamp(0.0, 1.0) * highest).round() / highest)
        .collect();
    input(shape).values(&values).fixed()
}
