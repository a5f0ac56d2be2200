use super::*;
use crate::device::cpu::simd::{available, with_limit};

fn sigmoid64(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn reference(function: Function, x: f64) -> f64 {
    match function {
        Function::Exp => x.exp(),
        Function::Sigmoid => sigmoid64(x),
        Function::Swish => x * sigmoid64(x),
        Function::SwishGrad => sigmoid64(x) * (1.0 + x * (1.0 - sigmoid64(x))),
        Function::Tanh => x.tanh(),
        Function::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        Function::Ln => x.ln(),
        Function::Elu => {
            if x > 0.0 {
                x
            } else {
                x.exp_m1()
            }
        }
        Function::EluGrad => {
            if x > 0.0 {
                1.0
            } else {
                x.exp()
            }
        }
    }
}

/// Distance in units in the last place of the exact value, or of `floor` where that is larger.
fn ulps(got: f32, exact: f64, floor: f64) -> f64 {
    let scale = exact.abs().max(floor).max(f64::from(f32::MIN_POSITIVE));
    let ulp = 2f64.powi(scale.log2().floor() as i32 - 23);
    (f64::from(got) - exact).abs() / ulp
}

/// Function, error bound, smallest magnitude that errors are measured against.
const BOUNDS: [(Function, f64, f64); 9] = [
    (Function::Exp, 1.5, 0.0),
    (Function::Sigmoid, 6.0, 0.0),
    (Function::Swish, 6.5, 0.0),
    (Function::SwishGrad, 4.0, 0.0),
    (Function::Tanh, 2.0, 0.0),
    (Function::Softplus, 3.0, 0.0),
    (Function::Ln, 1.5, 0.0),
    (Function::Elu, 2.0, 0.0),
    (Function::EluGrad, 1.5, 0.0),
];

fn sweep() -> Vec<f32> {
    let mut xs: Vec<f32> = (-400_000..=400_000)
        .map(|i| i as f32 * (200.0 / 400_000.0))
        .collect();
    xs.extend((-300_000..=300_000).map(|i| i as f32 * (2.0 / 300_000.0)));
    xs.extend((-126..127).flat_map(|e| [1.0f32, -1.0, 1.37, -1.83].map(|m| m * 2f32.powi(e))));
    xs
}

#[test]
fn errors_stay_within_the_stated_bounds() {
    let xs = sweep();
    let mut ys = vec![0.0; xs.len()];
    for isa in available() {
        for (function, bound, floor) in BOUNDS {
            let bound = bound + if isa == simd::Isa::Portable { 1.0 } else { 0.0 };
            with_limit(isa, || apply(function, &xs, &mut ys));
            let mut worst = (0.0, 0.0, 0.0);
            for (&x, &y) in xs.iter().zip(&ys) {
                let exact = reference(function, f64::from(x));
                if exact.is_nan() {
                    assert!(y.is_nan(), "{isa:?} {function:?}({x}) = {y}");
                    continue;
                }
                if exact.abs() > f64::from(f32::MAX) || exact.is_infinite() {
                    assert_eq!(y.abs(), f32::INFINITY, "{isa:?} {function:?}({x})");
                    assert_eq!(y > 0.0, exact > 0.0);
                    continue;
                }
                // The documented floor: below -87 the exponential is no normal number any more.
                if exact.abs() < 1.7e-38 * f64::from(x.abs().max(1.0)) {
                    assert!(
                        f64::from(y.abs()) < 1.7e-38 * f64::from(x.abs().max(1.0)),
                        "{isa:?} {function:?}({x}) = {y}"
                    );
                    continue;
                }
                let floor = if function == Function::SwishGrad {
                    f64::from(x.abs()).max(1.0)
                } else {
                    floor
                };
                let error = ulps(y, exact, floor);
                assert!(!error.is_nan());
                // The reduction's single product costs the logistic function accuracy only far to the left.
                let error = if x > -20.0 && matches!(function, Function::Sigmoid | Function::Swish)
                {
                    error + 2.5
                } else {
                    error
                };
                if error > worst.0 {
                    worst = (error, x, y);
                }
            }
            assert!(
                worst.0 <= bound,
                "{isa:?} {function:?}: {} ulp at {:e} (got {:e})",
                worst.0,
                worst.1,
                worst.2
            );
        }
    }
}

#[test]
fn specials() {
    let inf = f32::INFINITY;
    let cases = [
        (Function::Exp, [0.0, inf, 1.0]),
        (Function::Sigmoid, [1.6e-38, 1.0, 0.5]),
        (Function::Swish, [-inf, inf, 0.0]),
        (Function::Tanh, [-1.0, 1.0, 0.0]),
        (Function::Softplus, [0.0, inf, std::f32::consts::LN_2]),
        (Function::Ln, [f32::NAN, inf, -inf]),
        (Function::Elu, [-1.0, inf, 0.0]),
        (Function::EluGrad, [0.0, 1.0, 1.0]),
    ];
    let nan_with_payload = f32::from_bits(0x7fc0_1235);
    for isa in available() {
        for (function, expected) in cases {
            let mut y = [0.0; 5];
            with_limit(isa, || {
                apply(
                    function,
                    &[-inf, inf, 0.0, f32::NAN, nan_with_payload],
                    &mut y,
                )
            });
            for (got, want) in y.iter().zip(expected) {
                let close = (got - want).abs() <= 1e-6 * want.abs().max(1e-32);
                assert!(
                    got == &want || (got.is_nan() && want.is_nan()) || close,
                    "{isa:?} {function:?}: {y:?}"
                );
            }
            assert!(
                y[3].is_nan() && y[4].is_nan(),
                "{isa:?} {function:?}: {y:?}"
            );
        }
    }
}

#[test]
fn lengths_in_place_and_threads_agree() {
    for len in [0, 1, 3, 15, 16, 17, CHUNK - 1, CHUNK + 1, 12 * CHUNK + 5] {
        let x: Vec<f32> = (0..len).map(|i| (i % 1000) as f32 * 0.01 - 5.0).collect();
        let mut y = vec![0.0; len];
        apply(Function::Swish, &x, &mut y);
        let mut z = x.clone();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        pool.install(|| apply_in_place(Function::Swish, &mut z));
        assert_eq!(y, z);
    }
}
