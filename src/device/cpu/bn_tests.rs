use super::*;
use crate::device::cpu::testing::{assert_close, everywhere, noise};
use proptest::prelude::*;

fn activation64(activation: Activation, x: f64) -> (f64, f64) {
    let s = 1.0 / (1.0 + (-x).exp());
    let (y, d) = (x * s, s * (1.0 + x * (1.0 - s)));
    match activation {
        Activation::None => (x, 1.0),
        Activation::Swish => (y, d),
        Activation::LipSwish => (y / 1.1, d / 1.1),
        Activation::Elu => (
            if x > 0.0 { x } else { x.exp_m1() },
            if x > 0.0 { 1.0 } else { x.exp() },
        ),
    }
}

/// Mean and biased variance per channel.
fn moments64(rows: usize, c: usize, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let column = |ch: usize| (0..rows).map(move |r| f64::from(x[r * c + ch]));
    let mean: Vec<f64> = (0..c)
        .map(|ch| column(ch).sum::<f64>() / rows as f64)
        .collect();
    let variance = (0..c)
        .map(|ch| column(ch).map(|v| (v - mean[ch]).powi(2)).sum::<f64>() / rows as f64)
        .collect();
    (mean, variance)
}

fn check(rows: usize, c: usize, activation: Activation, offset: f32) {
    let what = format!("{rows} x {c} {activation:?} offset {offset}");
    let x: Vec<f32> = noise(rows * c, 1)
        .iter()
        .map(|v| 2.0 * v + offset)
        .collect();
    let (dy, gamma, beta) = (noise(rows * c, 2), noise(c, 3), noise(c, 4));
    let (mean64, variance64) = moments64(rows, c, &x);
    let run = || {
        let (mut mean, mut variance) = (vec![f32::NAN; c], vec![f32::NAN; c]);
        moments(
            rows,
            c,
            &x,
            &mut mean,
            &mut variance,
            &mut vec![f32::NAN; moments_workspace(rows, c)],
        );
        mean.extend(variance);
        mean
    };
    let want: Vec<f64> = mean64.iter().chain(&variance64).copied().collect();
    // The variance of values around 1000 would be lost altogether in E[x^2] - E[x]^2.
    everywhere(run, |got| {
        assert_close(
            got,
            &want,
            2e-7 * f64::from(offset.abs() + 10.0),
            2e-6,
            &what,
        )
    });

    let mean: Vec<f32> = mean64.iter().map(|&m| m as f32).collect();
    let inv_std: Vec<f32> = variance64
        .iter()
        .map(|v| (1.0 / (v + 1e-5).sqrt()) as f32)
        .collect();
    for training in [true, false] {
        let affine = Affine {
            mean: training.then_some(&mean[..]),
            inv_std: training.then_some(&inv_std[..]),
            gamma: &gamma,
            beta: &beta,
        };
        let hat = |i: usize| {
            if training {
                (f64::from(x[i]) - f64::from(mean[i % c])) * f64::from(inv_std[i % c])
            } else {
                f64::from(x[i])
            }
        };
        let argument = |i: usize| hat(i) * f64::from(gamma[i % c]) + f64::from(beta[i % c]);
        let want: Vec<f64> = (0..rows * c)
            .map(|i| activation64(activation, argument(i)).0)
            .collect();
        let run = || {
            let mut y = vec![f32::NAN; rows * c];
            forward(rows, c, &x, &affine, activation, &mut y);
            y
        };
        let tolerance = if training {
            3e-6
        } else {
            3e-6 + 2e-7 * f64::from(offset.abs())
        };
        everywhere(run, |y| assert_close(y, &want, tolerance, 3e-6, &what));
        let g: Vec<f64> = (0..rows * c)
            .map(|i| f64::from(dy[i]) * activation64(activation, argument(i)).1)
            .collect();
        let (mut dgamma, mut dbeta) = (vec![0.0; c], vec![0.0; c]);
        for (i, g) in g.iter().enumerate() {
            dbeta[i % c] += g;
            dgamma[i % c] += g * hat(i);
        }
        let scale = |i: usize| {
            f64::from(gamma[i % c])
                * if training {
                    f64::from(inv_std[i % c])
                } else {
                    1.0
                }
        };
        let dx: Vec<f64> = (0..rows * c)
            .map(|i| {
                let correction = if training {
                    (dbeta[i % c] + hat(i) * dgamma[i % c]) / rows as f64
                } else {
                    0.0
                };
                scale(i) * (g[i] - correction)
            })
            .collect();
        let run = || {
            let mut out = vec![f32::NAN; rows * c];
            if training {
                let (mut dg, mut db) = (vec![f32::NAN; c], vec![f32::NAN; c]);
                let mut workspace = vec![f32::NAN; backward_workspace(rows, c)];
                backward(
                    rows,
                    c,
                    &x,
                    &dy,
                    &affine,
                    activation,
                    &mut out,
                    &mut dg,
                    &mut db,
                    &mut workspace,
                );
                out.extend(dg);
                out.extend(db);
            } else {
                backward_constant(rows, c, &x, &dy, &affine, activation, &mut out);
            }
            out
        };
        let mut want = dx;
        if training {
            want.extend(dgamma);
            want.extend(dbeta);
        }
        // With few rows the deviation can be tiny and its inverse large.
        let largest = inv_std.iter().copied().fold(1.0f32, f32::max);
        let tolerance = 1e-5 * f64::from(largest) * (rows as f64).sqrt().max(1.0);
        everywhere(run, |got| {
            assert_close(
                got,
                &want,
                tolerance,
                1e-5,
                &format!("{what} training {training}"),
            )
        });
    }
}

const ACTIVATIONS: [Activation; 4] = [
    Activation::None,
    Activation::Swish,
    Activation::LipSwish,
    Activation::Elu,
];

#[test]
fn training_and_evaluation() {
    for activation in ACTIVATIONS {
        for (rows, c) in [(2, 1), (35, 3), (64, 17), (1000, 16), (4096, 33)] {
            check(rows, c, activation, 0.5);
        }
    }
}

#[test]
fn variance_survives_a_large_mean() {
    for rows in [7, 130, 5000] {
        let x: Vec<f32> = noise(rows * 3, 9).iter().map(|v| v + 1000.0).collect();
        let (_, want) = moments64(rows, 3, &x);
        let run = || {
            let (mut mean, mut variance) = (vec![0.0; 3], vec![0.0; 3]);
            moments(
                rows,
                3,
                &x,
                &mut mean,
                &mut variance,
                &mut vec![f32::NAN; moments_workspace(rows, 3)],
            );
            variance
        };
        everywhere(run, |v| assert_close(v, &want, 0.0, 1e-5, "variance"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_geometry(rows in 2usize..300, c in 1usize..50, act in 0usize..4) {
        check(rows, c, ACTIVATIONS[act], 0.1);
    }
}
