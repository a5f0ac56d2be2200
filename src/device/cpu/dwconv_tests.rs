use super::*;
use crate::device::cpu::testing::{assert_close, everywhere, noise};
use proptest::prelude::*;

/// Calls `f(x index, weight index, y index)` for every product.
fn products(g: &ConvGeometry, mut f: impl FnMut(usize, usize, usize)) {
    let (oh, ow) = (g.oh(), g.ow());
    for n in 0..g.n {
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            for (ky, kx) in (0..g.kh).flat_map(|y| (0..g.kw).map(move |x| (y, x))) {
                let iy = (oy * g.stride + ky * g.dilation) as i64 - i64::from(g.pad[0][0]);
                let ix = (ox * g.stride + kx * g.dilation) as i64 - i64::from(g.pad[1][0]);
                if iy >= 0 && ix >= 0 && iy < g.h as i64 && ix < g.w as i64 {
                    for c in 0..g.cin {
                        let xi = ((n * g.h + iy as usize) * g.w + ix as usize) * g.cin + c;
                        f(
                            xi,
                            (ky * g.kw + kx) * g.cin + c,
                            ((n * oh + oy) * ow + ox) * g.cin + c,
                        );
                    }
                }
            }
        }
    }
}

fn check(g: ConvGeometry) {
    let (x, w, dy, bias) = (
        noise(g.x_len(), 1),
        noise(weight_len(&g), 2),
        noise(g.y_len(), 3),
        noise(g.cin, 4),
    );
    let mut y64: Vec<f64> = (0..g.y_len()).map(|i| f64::from(bias[i % g.cin])).collect();
    let mut dx64 = vec![0.0; g.x_len()];
    let mut dw64 = vec![0.0; weight_len(&g)];
    products(&g, |xi, wi, yi| {
        y64[yi] += f64::from(x[xi]) * f64::from(w[wi]);
        dx64[xi] += f64::from(dy[yi]) * f64::from(w[wi]);
        dw64[wi] += f64::from(dy[yi]) * f64::from(x[xi]);
    });
    let y64: Vec<f64> = y64.into_iter().map(|v| v / (1.0 + (-v).exp())).collect();
    let run = || {
        let mut y = vec![f32::NAN; g.y_len()];
        let mut workspace = vec![f32::NAN; fprop_workspace(&g)];
        fprop(
            &g,
            &x,
            &w,
            Some(&bias),
            Activation::Swish,
            &mut y,
            &mut workspace,
        );
        y
    };
    everywhere(run, |y| {
        assert_close(y, &y64, 1e-5, 1e-6, &format!("fprop {g:?}"))
    });
    let run = || {
        let mut dx = vec![f32::NAN; g.x_len()];
        let mut workspace = vec![f32::NAN; dgrad_workspace(&g)];
        dgrad(&g, &dy, &w, &mut dx, &mut workspace);
        dx
    };
    everywhere(run, |dx| {
        assert_close(dx, &dx64, 1e-5, 1e-6, &format!("dgrad {g:?}"))
    });
    let start = noise(weight_len(&g), 5);
    let reduction = 2e-6 * ((g.n * g.oh() * g.ow()) as f64).sqrt().max(8.0);
    for accumulate in [false, true] {
        let want: Vec<f64> = dw64
            .iter()
            .zip(&start)
            .map(|(d, s)| d + if accumulate { f64::from(*s) } else { 0.0 })
            .collect();
        let run = || {
            let mut dw = start.clone();
            let mut workspace = vec![f32::NAN; wgrad_workspace(&g)];
            wgrad(&g, &x, &dy, &mut dw, accumulate, &mut workspace);
            dw
        };
        everywhere(run, |dw| {
            assert_close(dw, &want, reduction, 1e-6, &format!("wgrad {g:?}"))
        });
    }
}

fn same(n: usize, h: usize, w: usize, c: usize, k: usize, stride: usize) -> ConvGeometry {
    let p = (k as i32 - 1) / 2;
    ConvGeometry {
        n,
        h,
        w,
        cin: c,
        cout: c,
        kh: k,
        kw: k,
        stride,
        dilation: 1,
        groups: c,
        pad: [[p, p]; 2],
    }
}

#[test]
fn the_models_filters() {
    for k in [3, 5, 11] {
        for stride in [1, 2] {
            for c in [1, 3, 16, 17, 33, 96] {
                check(same(2, 7, 5, c, k, stride));
            }
            check(same(1, 1, 1, 3, k, stride));
            check(same(3, 16, 31, 48, k, stride));
        }
    }
}

#[test]
fn tall_images_are_cut_into_bands() {
    check(same(1, 150, 19, 32, 5, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn any_geometry(
        n in 1usize..3, h in 1usize..12, w in 1usize..20, c in 1usize..40, square: bool, k in 1usize..6, kw in 1usize..6,
        stride in 1usize..4, dilation in 1usize..3, pad in proptest::array::uniform4(-2i32..5),
    ) {
        let kw = if square { k } else { kw };
        check(ConvGeometry {
            n, h, w, cin: c, cout: c, kh: k, kw, stride, dilation, groups: c, pad: [[pad[0], pad[1]], [pad[2], pad[3]]],
        });
    }
}
