use super::*;
use crate::device::cpu::testing::{assert_close, everywhere, noise};
use proptest::prelude::*;

fn activation64(activation: Activation, x: f64) -> f64 {
    let swish = |x: f64| x / (1.0 + (-x).exp());
    match activation {
        Activation::None => x,
        Activation::Swish => swish(x),
        Activation::LipSwish => swish(x) / 1.1,
        Activation::Elu => {
            if x > 0.0 {
                x
            } else {
                x.exp_m1()
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    transposed: bool,
    packed: bool,
    pad: usize,
    bias: bool,
    accumulate: bool,
    residual: bool,
    pre: bool,
    activation: Activation,
}

fn check(case: Case) {
    let Case { m, n, k, pad, .. } = case;
    let (lda, ldb, ldc) = (if case.transposed { m } else { k } + pad, n + pad, n + pad);
    let a = noise(if case.transposed { k } else { m } * lda, 1);
    let b = noise(k * ldb, 2);
    let bias = noise(n, 3);
    let residual = noise(m * ldc, 4);
    let c0 = noise(m * ldc, 5);
    let alpha = case.residual.then_some(0.1f32);
    let a_view = if case.transposed {
        Lhs {
            data: &a,
            row_stride: 1,
            k_stride: lda,
        }
    } else {
        Lhs {
            data: &a,
            row_stride: lda,
            k_stride: 1,
        }
    };
    let mut packed = vec![f32::NAN; packed_len(k, n)];
    pack(k, n, &b, ldb, 1, &mut packed);
    let mut want = Vec::new();
    for i in 0..m {
        for j in 0..ldc {
            if j >= n {
                want.push(f64::from(c0[i * ldc + j]));
                continue;
            }
            let mut acc = if case.accumulate {
                f64::from(c0[i * ldc + j])
            } else {
                0.0
            };
            for kk in 0..k {
                acc += f64::from(a[i * a_view.row_stride + kk * a_view.k_stride])
                    * f64::from(b[kk * ldb + j]);
            }
            if case.bias && !case.accumulate {
                acc += f64::from(bias[j]);
            }
            let mut v = acc;
            if case.residual {
                v = f64::from(0.1f32) * v + f64::from(residual[i * ldc + j]);
            }
            want.push(activation64(case.activation, v));
        }
    }
    let run = || {
        let mut c = c0.clone();
        let mut pre = vec![0.0; m * ldc];
        let rhs = if case.packed {
            Rhs::Packed(&packed)
        } else {
            Rhs::Rows {
                data: &b,
                stride: ldb,
            }
        };
        let epilogue = Epilogue {
            bias: (case.bias && !case.accumulate).then_some(&bias[..]),
            alpha,
            residual: case.residual.then_some(&residual[..]),
            activation: case.activation,
            pre_activation: case.pre.then_some(&mut pre[..]),
            accumulate: case.accumulate,
            ..Epilogue::default()
        };
        gemm(m, n, k, a_view, rhs, &mut c, ldc, epilogue);
        if case.pre {
            for (i, (p, c)) in pre.iter().zip(&c).enumerate() {
                if i % ldc < n {
                    let want = activation64(case.activation, f64::from(*p));
                    assert!((want - f64::from(*c)).abs() < 1e-5, "pre-activation at {i}");
                }
            }
        }
        c
    };
    let tolerance = 2e-7 * (k as f64 + 8.0);
    everywhere(run, |c| {
        assert_close(c, &want, tolerance, 2e-6, &format!("{case:?}"))
    });
}

#[test]
fn every_tile_size() {
    for m in (1..=30).chain([64]) {
        for n in [1, 2, 6, 8, 15, 16, 17, 31, 32, 33, 40, 48, 64] {
            check(Case {
                m,
                n,
                k: 5,
                transposed: m % 2 == 0,
                packed: n % 2 == 0,
                pad: 0,
                bias: true,
                accumulate: false,
                residual: false,
                pre: false,
                activation: Activation::None,
            });
        }
    }
}

#[test]
fn large_enough_for_several_tasks() {
    for (m, n, k) in [(256, 96, 96), (16, 1000, 300), (513, 40, 64)] {
        for packed in [false, true] {
            let activation = Activation::Swish;
            check(Case {
                m,
                n,
                k,
                transposed: false,
                packed,
                pad: 0,
                bias: true,
                accumulate: false,
                residual: true,
                pre: true,
                activation,
            });
        }
    }
}

#[test]
fn empty_products() {
    gemm(
        0,
        3,
        2,
        Lhs::rows(&[], 2),
        Rhs::Rows {
            data: &[0.0; 6],
            stride: 3,
        },
        &mut [],
        3,
        Epilogue::default(),
    );
    let mut c = [7.0; 4];
    gemm(
        2,
        2,
        0,
        Lhs::rows(&[], 0),
        Rhs::Rows {
            data: &[],
            stride: 2,
        },
        &mut c,
        2,
        Epilogue::default(),
    );
    assert_eq!(c, [0.0; 4]);
}

#[test]
fn packing_transposes() {
    let src: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let mut dst = vec![f32::NAN; packed_len(3, 2)];
    // Two rows of three, taken as their 3 x 2 transpose.
    pack(3, 2, &src, 1, 3, &mut dst);
    for k in 0..3 {
        assert_eq!(&dst[k * PANEL..k * PANEL + 2], &[k as f32, k as f32 + 3.0]);
        assert!(
            dst[k * PANEL + 2..(k + 1) * PANEL]
                .iter()
                .all(|&x| x == 0.0)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_geometry(
        m in 1usize..40, n in 1usize..70, k in 0usize..50, transposed: bool, packed: bool, pad in 0usize..3,
        bias: bool, accumulate: bool, residual: bool, pre: bool, act in 0usize..4,
    ) {
        let activation = [Activation::None, Activation::Swish, Activation::LipSwish, Activation::Elu][act];
        check(Case { m, n, k, transposed, packed, pad, bias, accumulate, residual, pre, activation });
    }
}
