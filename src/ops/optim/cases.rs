//! The table of cases.

use super::{AdamSettings, AdamaxSettings, Clip, adam_clip, adamax, clipped_gradients};
use crate::ops::testing::{Case, Input, input};
use crate::tensor::Shape;

/// No step, first and later steps, small and large tensors beside each other, with and without clip and decay.
pub fn cases() -> Vec<Case> {
    let shapes: [Shape; 4] = [
        [3, 3, 5, 7].into(),
        [1].into(),
        [129].into(),
        [40, 1000].into(),
    ];
    let inputs = |t: f64| -> Vec<Input> {
        let gradients = shapes.iter().map(|s| input(*s).fixed());
        let scalars = [0.01, t].map(|v| input(Shape::SCALAR).values(&[v]).fixed());
        gradients.chain(scalars).collect()
    };
    // Second moments small enough for the clip to bite on some elements.
    let states = || -> Vec<Input> {
        let moments = |high: f64| shapes.iter().map(move |s| input(*s).within(0.0, high));
        moments(2.0)
            .chain(moments(0.5))
            .chain(moments(0.3))
            .collect()
    };
    let mut cases = Vec::new();
    for t in [0.0, 1.0, 2.0, 7000.0] {
        cases.push(Case::with_updates(
            format!("adamax, step {t}"),
            inputs(t),
            states(),
            |r, x, s| {
                let settings = AdamaxSettings::default();
                adamax(r, &s[..4], &x[..4], &s[4..8], &s[8..], x[4], x[5], settings);
                Vec::new()
            },
        ));
        for clip in [None, Some(Clip::default())] {
            let settings = AdamSettings {
                clip,
                ..AdamSettings::default()
            };
            cases.push(Case::with_updates(
                format!("adam, {clip:?}, step {t}"),
                inputs(t),
                states(),
                move |r, x, s| {
                    adam_clip(r, &s[..4], &x[..4], &s[4..8], &s[8..], x[4], x[5], settings);
                    Vec::new()
                },
            ));
        }
        let moments = shapes.iter().map(|s| input(*s).within(0.0, 0.3).fixed());
        let step = input(Shape::SCALAR).values(&[t]).fixed();
        let gradients = shapes.iter().map(|s| input(*s).fixed());
        cases.push(Case::new(
            format!("clipped gradients, step {t}"),
            gradients.chain(moments).chain([step]).collect(),
            |r, x| clipped_gradients(r, &x[..4], &x[4..8], x[8], Clip::default(), 0.999),
        ));
    }
    cases
}
