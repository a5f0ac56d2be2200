//! The table of cases.

use super::{LangevinNoise, annealed_update, langevin_update};
use crate::ops::testing::{Case, Input, input};
use crate::tensor::Shape;

/// Tensors of several shapes, noise drawn and given and scaled, a step size of zero.
pub fn cases() -> Vec<Case> {
    let shapes: [Shape; 3] = [[3, 5].into(), [2, 3, 3, 7].into(), [4, 32, 32, 3].into()];
    let tensors = || -> Vec<Input> { shapes.iter().map(|s| input(*s).fixed()).collect() };
    let mut cases = Vec::new();
    for step_size in [0.5, 8e-5, 0.0] {
        let scalar = input(Shape::SCALAR).values(&[step_size]).fixed();
        let drawn = [tensors(), vec![scalar.clone()]].concat();
        let given = [tensors(), vec![scalar], tensors()].concat();
        cases.push(Case::with_updates(
            format!("noise drawn, step size {step_size}"),
            drawn,
            tensors(),
            |r, x, s| {
                let noise = LangevinNoise::Philox { first_stream: 11 };
                langevin_update(r, s, &x[..3], x[3], noise);
                Vec::new()
            },
        ));
        cases.push(Case::with_updates(
            format!("noise given, step size {step_size}"),
            given,
            tensors(),
            |r, x, s| {
                langevin_update(r, s, &x[..3], x[3], LangevinNoise::Given(&x[4..]));
                Vec::new()
            },
        ));
    }
    let scalars = |step_size: f64, scale: f64| {
        [step_size, scale].map(|v| input(Shape::SCALAR).values(&[v]).fixed())
    };
    let [step_size, scale] = scalars(0.3, 0.25);
    cases.push(Case::with_updates(
        "noise drawn and scaled",
        [tensors(), vec![step_size, scale]].concat(),
        tensors(),
        |r, x, s| {
            let noise = LangevinNoise::Philox { first_stream: 11 };
            annealed_update(r, s, &x[..3], x[3], x[4], noise);
            Vec::new()
        },
    ));
    let [step_size, scale] = scalars(0.3, 3.0);
    cases.push(Case::with_updates(
        "noise given and scaled",
        [tensors(), vec![step_size], tensors(), vec![scale]].concat(),
        tensors(),
        |r, x, s| {
            let noise = LangevinNoise::Given(&x[4..7]);
            annealed_update(r, s, &x[..3], x[3], x[7], noise);
            Vec::new()
        },
    ));
    // From zeros without a gradient a step of size 1 is the noise itself, which has the same bits everywhere.
    let zeros = |extents: &[usize]| {
        let x = input(extents).fixed();
        let count = x.shape.len();
        x.values(&vec![0.0; count])
    };
    let zeros = [
        zeros(&[7, 3]),
        zeros(&[5, 401]),
        zeros(&[2, 31, 31, 3]),
        zeros(&[0, 4]),
    ];
    let scalar = input(Shape::SCALAR).values(&[1.0]).fixed();
    let alone = [&zeros[..], &[scalar]].concat();
    cases.push(
        Case::with_updates("noise alone", alone, zeros.to_vec(), |r, x, s| {
            let noise = LangevinNoise::Philox { first_stream: 3 };
            langevin_update(r, s, &x[..4], x[4], noise);
            Vec::new()
        })
        .tolerance(0.0),
    );
    cases
}
