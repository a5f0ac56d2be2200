//! What must not depend on the machine: every case on every instruction set, and the same bits on any number of threads.

use super::activation::Activation;
use super::batch_norm::{batch_norm_train, scale_shift};
use super::conv2d::{Extras, Geometry, conv2d_fused};
use super::dwconv::dwconv;
use super::linear::linear;
use super::mbconv::{MbconvWeights, mbconv_eval};
use super::registry::entries;
use super::resample::{avg_pool2, bilinear2, nearest2};
use super::squeeze_excite::squeeze_excite;
use super::testing::{Case, input};
use super::unary::swish;
use crate::device::cpu::simd;
use crate::device::host::Cpu;

#[test]
fn every_case_passes_on_every_instruction_set() {
    for isa in simd::available() {
        for entry in entries() {
            for case in (entry.cases)() {
                simd::with_limit(isa, || {
                    let device = || Cpu::new();
                    let outcome = (case.check_values(&mut device()))
                        .and_then(|()| case.check_gradients(&mut device()));
                    if let Err(e) = outcome {
                        panic!("{isa:?}, {}: {e}", entry.folder);
                    }
                });
            }
        }
    }
}

/// Cases large enough that their work is shared among threads.
fn large() -> Vec<Case> {
    let image = [6, 29, 31, 20];
    let mut cases = vec![
        Case::new(
            "conv2d",
            vec![
                input(image),
                input([3, 3, 20, 24]),
                input([24]),
                input([6, 29, 31, 24]),
            ],
            |r, v| {
                let extras = Extras {
                    bias: Some(v[2]),
                    residual: Some(v[3]),
                };
                vec![conv2d_fused(
                    r,
                    v[0],
                    Activation::Swish,
                    v[1],
                    extras,
                    Geometry::same(3),
                )]
            },
        ),
        Case::new("dwconv", vec![input(image), input([5, 5, 20])], |r, v| {
            vec![dwconv(r, v[0], v[1], 1, 2)]
        }),
        Case::with_updates(
            "batch norm",
            vec![input(image), input([20]), input([20])],
            vec![input([20]), input([20])],
            |r, v, s| {
                vec![batch_norm_train(
                    r,
                    v[0],
                    v[1],
                    v[2],
                    s[0],
                    s[1],
                    Activation::Swish,
                )]
            },
        ),
        Case::new(
            "scale and shift",
            vec![input(image), input([20]), input([20])],
            |r, v| vec![scale_shift(r, v[0], v[1], v[2], Activation::Swish)],
        ),
        Case::new(
            "squeeze-excite",
            vec![
                input(image),
                input([20, 4]),
                input([4]),
                input([4, 20]),
                input([20]),
                input(image),
            ],
            |r, v| {
                vec![squeeze_excite(
                    r,
                    v[0],
                    v[1],
                    v[2],
                    v[3],
                    v[4],
                    Some((v[5], 0.1)),
                )]
            },
        ),
        Case::new(
            "linear",
            vec![input([300, 130]), input([130, 70]), input([70])],
            |r, v| vec![linear(r, v[0], v[1], Some(v[2]))],
        ),
        Case::new("swish", vec![input(image)], |r, v| vec![swish(r, v[0])]),
        Case::new("resampling", vec![input(image)], |r, v| {
            vec![avg_pool2(r, v[0]), nearest2(r, v[0]), bilinear2(r, v[0])]
        }),
    ];
    for upsample in [false, true] {
        let weights = [
            [20, 60].as_slice(),
            &[60],
            &[5, 5, 60],
            &[60],
            &[60, 20],
            &[20],
        ];
        let tensors = std::iter::once(input(image))
            .chain(weights.map(|w| input(w).within(-0.2, 0.2).fixed()))
            .collect();
        cases.push(Case::new(
            format!("mbconv, upsample {upsample}"),
            tensors,
            move |r, v| {
                let weights = MbconvWeights {
                    w1: v[1],
                    b1: v[2],
                    dw: v[3],
                    b_dw: v[4],
                    w2: v[5],
                    b2: v[6],
                };
                vec![mbconv_eval(r, v[0], weights, upsample)]
            },
        ));
    }
    cases
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let bits = |case: &Case| -> Vec<u64> {
        let run = |tape| case.run(&tape, &mut Cpu::new()).unwrap();
        let results = run(case.value_tape())
            .into_iter()
            .chain(run(case.gradient_tape()));
        results.flat_map(|t| t.data).map(f64::to_bits).collect()
    };
    let pools = [1, 2, 5].map(|n| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build()
            .unwrap()
    });
    for case in large() {
        let [one, rest @ ..] = pools.each_ref().map(|pool| pool.install(|| bits(&case)));
        for (other, threads) in rest.iter().zip([2, 5]) {
            assert!(
                one == *other,
                "{}: {threads} threads change a bit",
                case.name
            );
        }
    }
}
