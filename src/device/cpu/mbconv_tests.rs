use super::*;
use crate::device::cpu::testing::{assert_close, everywhere, noise};
use proptest::prelude::*;

fn swish(x: f64) -> (f64, f64) {
    let s = 1.0 / (1.0 + (-x).exp());
    (x * s, s * (1.0 + x * (1.0 - s)))
}

/// The layers one after another in f64: output and input gradient.
fn reference(
    g: &MbConvGeometry,
    x: &[f32],
    w: &MbConvWeights<'_>,
    dy: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let (oh, ow, scale, k, r) = (g.oh(), g.ow(), g.scale(), KERNEL, RADIUS as i64);
    let (mut out, mut grad) = (Vec::new(), vec![0.0; g.x_len()]);
    for n in 0..g.n {
        let source = |y: usize, x: usize| ((n * g.h + y / scale) * g.w + x / scale) * g.cin;
        let at = |y: usize, x: usize, c: usize| (y * ow + x) * g.hidden + c;
        let pixels = || (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x)));
        let mut u1 = vec![0.0f64; oh * ow * g.hidden];
        for (y, xx) in pixels() {
            for c in 0..g.hidden {
                u1[at(y, xx, c)] = f64::from(w.expand_bias[c])
                    + (0..g.cin)
                        .map(|i| {
                            f64::from(x[source(y, xx) + i]) * f64::from(w.expand[i * g.hidden + c])
                        })
                        .sum::<f64>();
            }
        }
        let neighbours = |y: usize, xx: usize| {
            (0..k * k).filter_map(move |tap| {
                let (iy, ix) = (
                    y as i64 + (tap / k) as i64 - r,
                    xx as i64 + (tap % k) as i64 - r,
                );
                (iy >= 0 && ix >= 0 && iy < oh as i64 && ix < ow as i64).then_some((
                    tap,
                    iy as usize,
                    ix as usize,
                ))
            })
        };
        let mut du1 = vec![0.0f64; oh * ow * g.hidden];
        for (y, xx) in pixels() {
            let mut row: Vec<f64> = w.project_bias.iter().map(|&b| f64::from(b)).collect();
            for c in 0..g.hidden {
                let u2 = f64::from(w.depthwise_bias[c])
                    + neighbours(y, xx)
                        .map(|(t, iy, ix)| {
                            swish(u1[at(iy, ix, c)]).0 * f64::from(w.depthwise[t * g.hidden + c])
                        })
                        .sum::<f64>();
                let (v, slope) = swish(u2);
                let mut d = 0.0;
                for (o, sum) in row.iter_mut().enumerate() {
                    let p = f64::from(w.project[c * g.cout + o]);
                    *sum += v * p;
                    d += p * f64::from(dy[((n * oh + y) * ow + xx) * g.cout + o]);
                }
                for (t, iy, ix) in neighbours(y, xx) {
                    du1[at(iy, ix, c)] += d
                        * slope
                        * f64::from(w.depthwise[t * g.hidden + c])
                        * swish(u1[at(iy, ix, c)]).1;
                }
            }
            out.extend(row);
        }
        for (y, xx) in pixels() {
            for i in 0..g.cin {
                grad[source(y, xx) + i] += (0..g.hidden)
                    .map(|c| du1[at(y, xx, c)] * f64::from(w.expand[i * g.hidden + c]))
                    .sum::<f64>();
            }
        }
    }
    (out, grad)
}

fn check(g: MbConvGeometry) {
    let scaled = |len: usize, seed: u64, fan: usize| -> Vec<f32> {
        noise(len, seed)
            .iter()
            .map(|v| v * (3.0 / fan as f32).sqrt())
            .collect()
    };
    let taps = TAPS;
    let (expand, depthwise) = (
        scaled(g.cin * g.hidden, 1, g.cin),
        scaled(taps * g.hidden, 2, taps),
    );
    let project = scaled(g.hidden * g.cout, 3, g.hidden);
    let (b1, b2, b3) = (noise(g.hidden, 4), noise(g.hidden, 5), noise(g.cout, 6));
    let weights = MbConvWeights {
        expand: &expand,
        expand_bias: &b1,
        depthwise: &depthwise,
        depthwise_bias: &b2,
        project: &project,
        project_bias: &b3,
    };
    let (x, dy) = (noise(g.x_len(), 7), noise(g.y_len(), 8));
    let (y64, dx64) = reference(&g, &x, &weights, &dy);
    let mut packed = vec![f32::NAN; packed_len(&g)];
    pack(&g, &weights, &mut packed);
    let residual = noise(g.y_len(), 9);
    let want: Vec<f64> = y64
        .iter()
        .zip(&residual)
        .map(|(y, r)| f64::from(0.1f32) * y + f64::from(*r))
        .collect();
    let run = || {
        let mut y = vec![f32::NAN; g.y_len()];
        let mut workspace = vec![f32::NAN; forward_workspace(&g)];
        let epilogue = Epilogue {
            alpha: Some(0.1),
            residual: Some(&residual),
            ..Epilogue::default()
        };
        forward(&g, &x, &packed, &mut y, epilogue, &mut workspace);
        y
    };
    everywhere(run, |y| {
        assert_close(y, &want, 3e-6, 3e-6, &format!("forward {g:?}"))
    });
    let start = noise(g.x_len(), 10);
    let want: Vec<f64> = dx64
        .iter()
        .zip(&start)
        .map(|(d, s)| d + f64::from(*s))
        .collect();
    let run = || {
        let mut dx = start.clone();
        let mut workspace = vec![f32::NAN; backward_workspace(&g)];
        let epilogue = Epilogue {
            accumulate: true,
            ..Epilogue::default()
        };
        backward(&g, &x, &packed, &dy, &mut dx, epilogue, &mut workspace);
        dx
    };
    everywhere(run, |dx| {
        assert_close(dx, &want, 3e-5, 1e-5, &format!("backward {g:?}"))
    });
}

#[test]
fn the_models_cells() {
    for upsample in [false, true] {
        check(MbConvGeometry {
            n: 2,
            h: 8,
            w: 8,
            cin: 16,
            hidden: 96,
            cout: 16,
            upsample,
        });
        check(MbConvGeometry {
            n: 1,
            h: 16,
            w: 16,
            cin: 16,
            hidden: 48,
            cout: 32,
            upsample,
        });
    }
}

#[test]
fn odd_sizes() {
    for upsample in [false, true] {
        {
            for (h, w) in [(1, 1), (7, 5), (2, 19)] {
                for (cin, hidden, cout) in [(1, 6, 1), (3, 18, 17), (17, 51, 3)] {
                    check(MbConvGeometry {
                        n: 2,
                        h,
                        w,
                        cin,
                        hidden,
                        cout,
                        upsample,
                    });
                }
            }
        }
    }
}

#[test]
fn large_images_are_cut_into_bands() {
    for upsample in [false, true] {
        let g = MbConvGeometry {
            n: 1,
            h: 49,
            w: 6,
            cin: 3,
            hidden: 20,
            cout: 4,
            upsample,
        };
        assert!(g.bands() > 1);
        check(g);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_geometry(
        n in 1usize..3, h in 1usize..9, w in 1usize..20, cin in 1usize..20, hidden in 1usize..70, cout in 1usize..20, upsample: bool,
    ) {
        check(MbConvGeometry { n, h, w, cin, hidden, cout, upsample });
    }
}
