use super::*;
use crate::device::cpu::gemm::Activation;
use crate::device::cpu::testing::{assert_close, everywhere, noise};
use crate::device::cpu::wgrad::{wgrad, wgrad_workspace};
use proptest::prelude::*;

/// Calls `f(x index, weight index, y index)` for every product of the convolution.
fn products(g: &ConvGeometry, mut f: impl FnMut(usize, usize, usize)) {
    let (oh, ow, ci, co) = (g.oh(), g.ow(), g.cin / g.groups, g.cout / g.groups);
    for (n, oy, ox) in
        (0..g.n).flat_map(|n| (0..oh).flat_map(move |y| (0..ow).map(move |x| (n, y, x))))
    {
        for (ky, kx) in (0..g.kh).flat_map(|y| (0..g.kw).map(move |x| (y, x))) {
            let iy = (oy * g.stride + ky * g.dilation) as i64 - i64::from(g.pad[0][0]);
            let ix = (ox * g.stride + kx * g.dilation) as i64 - i64::from(g.pad[1][0]);
            if iy < 0 || ix < 0 || iy >= g.h as i64 || ix >= g.w as i64 {
                continue;
            }
            for c in 0..ci {
                for o in 0..g.cout {
                    let xi =
                        ((n * g.h + iy as usize) * g.w + ix as usize) * g.cin + o / co * ci + c;
                    f(
                        xi,
                        ((ky * g.kw + kx) * ci + c) * g.cout + o,
                        ((n * oh + oy) * ow + ox) * g.cout + o,
                    );
                }
            }
        }
    }
}

fn check(g: ConvGeometry) {
    let (x, w, dy) = (
        noise(g.x_len(), 1),
        noise(g.weight_len(), 2),
        noise(g.y_len(), 3),
    );
    let bias = noise(g.cout, 4);
    let residual = noise(g.y_len(), 5);
    let mut y64 = vec![0.0; g.y_len()];
    let mut dx64 = vec![0.0; g.x_len()];
    let mut dw64 = vec![0.0; g.weight_len()];
    products(&g, |xi, wi, yi| {
        y64[yi] += f64::from(x[xi]) * f64::from(w[wi]);
        dx64[xi] += f64::from(dy[yi]) * f64::from(w[wi]);
        dw64[wi] += f64::from(dy[yi]) * f64::from(x[xi]);
    });
    let tolerance = 1e-6 * ((g.kh * g.kw * (g.cin + g.cout)) as f64).sqrt().max(8.0);
    let mut packed = vec![f32::NAN; fprop_packed_len(&g)];
    pack_fprop(&g, &w, &mut packed);
    let want: Vec<f64> = (0..g.y_len())
        .map(|i| {
            let v =
                f64::from(0.5f32) * (y64[i] + f64::from(bias[i % g.cout])) + f64::from(residual[i]);
            v / (1.0 + (-v).exp())
        })
        .collect();
    for weights in [ConvWeights::Hwio(&w), ConvWeights::Packed(&packed)] {
        let run = || {
            let mut y = vec![f32::NAN; g.y_len()];
            let mut workspace = vec![f32::NAN; fprop_workspace(&g)];
            let epilogue = Epilogue {
                bias: Some(&bias),
                alpha: Some(0.5),
                residual: Some(&residual),
                activation: Activation::Swish,
                ..Epilogue::default()
            };
            fprop(&g, &x, weights, &mut y, epilogue, &mut workspace);
            y
        };
        everywhere(run, |y| {
            assert_close(y, &want, tolerance, 1e-6, &format!("fprop {g:?}"))
        });
    }
    let mut flipped = vec![f32::NAN; dgrad_packed_len(&g)];
    pack_dgrad(&g, &w, &mut flipped);
    let run = || {
        let mut dx = vec![f32::NAN; g.x_len()];
        let mut workspace = vec![f32::NAN; dgrad_workspace(&g)];
        dgrad(
            &g,
            &dy,
            &flipped,
            &mut dx,
            Epilogue::default(),
            &mut workspace,
        );
        dx
    };
    everywhere(run, |dx| {
        assert_close(dx, &dx64, tolerance, 1e-6, &format!("dgrad {g:?}"))
    });
    let start = noise(g.weight_len(), 6);
    let reduction = 1e-6 * ((g.n * g.oh() * g.ow()) as f64).sqrt().max(8.0);
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

fn plain(n: usize, h: usize, w: usize, cin: usize, cout: usize, k: usize) -> ConvGeometry {
    let p = (k as i32 - 1) / 2;
    ConvGeometry {
        n,
        h,
        w,
        cin,
        cout,
        kh: k,
        kw: k,
        stride: 1,
        dilation: 1,
        groups: 1,
        pad: [[p, p]; 2],
    }
}

#[test]
fn the_models_convolutions() {
    let stem = plain(2, 7, 5, 3, 17, 3);
    let one = plain(3, 7, 5, 17, 6, 1);
    let same = plain(2, 16, 16, 16, 40, 3);
    let one_pixel = plain(1, 1, 1, 3, 1, 3);
    for g in [stem, one, same, one_pixel] {
        check(g);
        check(ConvGeometry { stride: 2, ..g });
        check(ConvGeometry {
            dilation: 2,
            pad: [[2, 2]; 2],
            ..g
        });
    }
}

#[test]
fn shifted_strided_slices() {
    // The four 1x1 stride-2 convolutions of a factorised reduction: negative padding takes rows or columns from 1 on.
    for lo in [[0, 0], [-1, -1], [0, -1], [-1, 0]] {
        let pad = [[lo[0], 0], [lo[1], 0]];
        check(ConvGeometry {
            stride: 2,
            pad,
            ..plain(2, 8, 6, 16, 4, 1)
        });
    }
}

#[test]
fn several_tasks() {
    check(plain(9, 16, 16, 16, 33, 3));
    check(ConvGeometry {
        stride: 2,
        ..plain(3, 33, 20, 18, 32, 3)
    });
    check(ConvGeometry {
        groups: 8,
        ..plain(2, 16, 16, 48, 48, 5)
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn any_geometry(
        n in 1usize..3, h in 1usize..10, w in 1usize..10, ci in 1usize..6, co in 1usize..20, kh in 1usize..5, kw in 1usize..5,
        stride in 1usize..4, dilation in 1usize..3, groups in 1usize..4, pad in proptest::array::uniform4(-2i32..4),
    ) {
        let g = ConvGeometry {
            n, h, w, cin: ci * groups, cout: co * groups, kh, kw, stride, dilation, groups,
            pad: [[pad[0], pad[1]], [pad[2], pad[3]]],
        };
        // The last output must not read beyond what cropping leaves; an empty output is a no-op.
        check(g);
    }
}
