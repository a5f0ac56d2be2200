//! Every fused form against its unfused parts: equal numbers, to rounding, for values and for gradients.

use super::activation::{Activation, activate};
use super::batch_norm::{batch_norm_fold, batch_norm_train, scale_shift};
use super::binary::{add, combine, mul, sum_to};
use super::conv2d::{Extras, Geometry, conv2d, conv2d_activated, conv2d_fused, conv2d_joined};
use super::dwconv::dwconv;
use super::layout::{concat, reshape};
use super::linear::linear;
use super::mbconv::{RawWeights, fold, mbconv_eval};
use super::resample::{avg_pool2, nearest2};
use super::residual_block::cases::{block, tensors};
use super::squeeze_excite::squeeze_excite;
use super::testing::{Case, Input, TOLERANCE, compare, input};
use super::unary::{Function, affine, unary};
use super::{Recorder, Var};
use crate::device::host::Cpu;
use crate::tape::Tape;

/// What double precision leaves of two ways to sum the same numbers.
const EXACT: f64 = 1e-12;

type Build = fn(&dyn Recorder, &[Var], &[Var]) -> Var;

/// Runs both forms on the same numbers, with values, gradients and changed states as results.
fn same(inputs: &[Input], states: &[Input], fused: Build, parts: Build) {
    let case = |name: &str, build: Build| {
        Case::with_updates(name, inputs.to_vec(), states.to_vec(), move |r, v, s| {
            vec![build(r, v, s)]
        })
    };
    let (fused, parts) = (case("fused", fused), case("parts", parts));
    for tapes in [Case::value_tape as fn(&Case) -> Tape, Case::gradient_tape] {
        let (f, p) = (tapes(&fused), tapes(&parts));
        let exact = fused
            .run_f64(&f)
            .unwrap()
            .into_iter()
            .zip(parts.run_f64(&p).unwrap());
        let native = fused
            .run(&f, &mut Cpu::new())
            .unwrap()
            .into_iter()
            .zip(parts.run(&p, &mut Cpu::new()).unwrap());
        let pairs = exact
            .map(|p| (p, EXACT))
            .chain(native.map(|p| (p, TOLERANCE)));
        for ((f, p), tolerance) in pairs {
            if let Err(e) = compare(p.shape, &f.data, &p.data, tolerance) {
                panic!("{}: {e}", p.name);
            }
        }
    }
}

#[test]
fn convolution_of_an_activation_plus_a_residual() {
    let inputs = [
        input([2, 7, 5, 3]),
        input([3, 3, 3, 17]),
        input([17]),
        input([2, 7, 5, 17]),
    ];
    macro_rules! with {
        ($activation:expr) => {
            same(
                &inputs,
                &[],
                |r, v, _| {
                    let extras = Extras {
                        bias: Some(v[2]),
                        residual: Some(v[3]),
                    };
                    conv2d_fused(r, v[0], $activation, v[1], extras, Geometry::same(3))
                },
                |r, v, _| {
                    let a = activate(r, v[0], $activation);
                    add(r, conv2d(r, a, v[1], Some(v[2]), Geometry::same(3)), v[3])
                },
            )
        };
    }
    with!(Activation::None);
    with!(Activation::Swish);
    with!(Activation::LipSwish);
    with!(Activation::Elu);
}

#[test]
fn pointwise_convolution_of_an_activation() {
    same(
        &[input([3, 5, 3, 17]), input([1, 1, 17, 6])],
        &[],
        |r, v, _| {
            conv2d_fused(
                r,
                v[0],
                Activation::LipSwish,
                v[1],
                Extras::default(),
                Geometry::same(1),
            )
        },
        |r, v, _| {
            conv2d(
                r,
                activate(r, v[0], Activation::LipSwish),
                v[1],
                None,
                Geometry::same(1),
            )
        },
    );
}

#[test]
fn convolution_of_two_images_side_by_side() {
    same(
        &[
            input([2, 5, 3, 17]),
            input([2, 5, 3, 4]),
            input([1, 1, 21, 6]),
            input([6]),
        ],
        &[],
        |r, v, _| conv2d_joined(r, v[0], v[1], v[2], v[3]),
        |r, v, _| {
            let joined = concat(r, &[v[0], v[1]], 3);
            conv2d(r, joined, v[2], Some(v[3]), Geometry::same(1))
        },
    );
}

#[test]
fn batch_norm_with_its_activation() {
    let inputs = [input([3, 5, 7, 6]), input([6]), input([6])];
    let states = [input([6]), input([6]).within(0.5, 2.0)];
    same(
        &inputs,
        &states,
        |r, v, s| batch_norm_train(r, v[0], v[1], v[2], s[0], s[1], Activation::Swish),
        |r, v, s| {
            let y = batch_norm_train(r, v[0], v[1], v[2], s[0], s[1], Activation::None);
            activate(r, y, Activation::Swish)
        },
    );
    same(
        &inputs,
        &[],
        |r, v, _| scale_shift(r, v[0], v[1], v[2], Activation::Swish),
        |r, v, _| activate(r, add(r, mul(r, v[0], v[1]), v[2]), Activation::Swish),
    );
}

/// Batch norm in training mode against its formula in elementary ops, whose gradient goes through the moments.
#[test]
fn batch_norm_by_its_formula() {
    same(
        &[input([3, 5, 2, 6]), input([6]), input([6])],
        &[input([6]), input([6]).within(0.5, 2.0)],
        |r, v, s| batch_norm_train(r, v[0], v[1], v[2], s[0], s[1], Activation::Swish),
        |r, v, s| {
            // The states change as in the fused form; its result is not used.
            batch_norm_train(r, v[0], v[1], v[2], s[0], s[1], Activation::None);
            let mean = affine(r, sum_to(r, v[0], [6].into()), 1.0 / 30.0, 0.0);
            let centered = combine(r, 1.0, v[0], -1.0, mean);
            let squares = sum_to(r, unary(r, Function::Square, centered), [6].into());
            let var = affine(r, squares, 1.0 / 30.0, super::batch_norm::EPSILON);
            // 1 / sqrt(v) = exp(-ln(v) / 2)
            let inverse = unary(
                r,
                Function::Exp,
                affine(r, unary(r, Function::Ln, var), -0.5, 0.0),
            );
            let y = add(r, mul(r, centered, mul(r, inverse, v[1])), v[2]);
            activate(r, y, Activation::Swish)
        },
    );
}

#[test]
fn squeeze_excite_with_its_residual() {
    same(
        &[
            input([2, 5, 3, 17]),
            input([17, 4]),
            input([4]),
            input([4, 17]),
            input([17]),
            input([2, 5, 3, 17]),
        ],
        &[],
        |r, v, _| squeeze_excite(r, v[0], v[1], v[2], v[3], v[4], Some((v[5], 0.1))),
        |r, v, _| {
            let sums = reshape(r, sum_to(r, v[0], [2, 1, 1, 17].into()), [2, 17]);
            let mean = affine(r, sums, 1.0 / 15.0, 0.0);
            let inner = unary(r, Function::Relu, linear(r, mean, v[1], Some(v[2])));
            let gate = unary(r, Function::Sigmoid, linear(r, inner, v[3], Some(v[4])));
            let branch = mul(r, v[0], reshape(r, gate, [2, 1, 1, 17]));
            combine(r, 0.1, branch, 1.0, v[5])
        },
    );
}

#[test]
fn residual_block_of_an_energy_network() {
    fn in_parts(r: &dyn Recorder, v: &[Var], down: bool) -> Var {
        let lip_swish = |x: Var| unary(r, Function::LipSwish, x);
        let a = lip_swish(v[0]);
        let h = lip_swish(conv2d(r, a, v[1], Some(v[2]), Geometry::same(3)));
        let h = conv2d(r, h, v[3], Some(v[4]), Geometry::same(3));
        let skip = match v.get(5) {
            Some(w) => conv2d(r, a, *w, None, Geometry::same(1)),
            None => a,
        };
        let sum = add(r, h, skip);
        lip_swish(if down { avg_pool2(r, sum) } else { sum })
    }
    same(
        &tensors([2, 7, 6, 3], 5, true),
        &[],
        |r, v, _| block(r, v, true).after,
        |r, v, _| in_parts(r, v, true),
    );
    same(
        &tensors([1, 5, 4, 6], 6, false),
        &[],
        |r, v, _| block(r, v, false).after,
        |r, v, _| in_parts(r, v, false),
    );
}

#[test]
fn convolution_with_the_activation_of_its_sums() {
    same(
        &[input([2, 5, 4, 3]), input([3, 3, 3, 6]), input([6])],
        &[],
        |r, v, _| {
            let of = Activation::LipSwish;
            let (y, a) = conv2d_activated(r, v[0], v[1], Some(v[2]), of, Geometry::same(3));
            add(r, y, a)
        },
        |r, v, _| {
            let y = conv2d(r, v[0], v[1], Some(v[2]), Geometry::same(3));
            add(r, y, activate(r, y, Activation::LipSwish))
        },
    );
}

/// The image, three convolutions, four batch norms of (gamma, beta, mean, variance); `ci`, `hidden` and `co` channels.
fn bottleneck(ci: usize, hidden: usize, co: usize) -> Vec<Input> {
    let mut inputs = vec![
        input([2, 5, 3, ci]),
        input([1, 1, ci, hidden]).fixed(),
        input([5, 5, hidden]).within(-0.5, 0.5).fixed(),
        input([1, 1, hidden, co]).fixed(),
    ];
    for c in [ci, hidden, hidden, co] {
        inputs.extend(
            [
                input([c]),
                input([c]),
                input([c]),
                input([c]).within(0.5, 2.0),
            ]
            .map(Input::fixed),
        );
    }
    inputs
}

/// Factor and summand of batch norm `i`.
fn norm(r: &dyn Recorder, v: &[Var], i: usize) -> (Var, Var) {
    let v = &v[4 + 4 * i..];
    batch_norm_fold(r, v[0], v[1], v[2], v[3])
}

fn folded(r: &dyn Recorder, v: &[Var], upsample: bool) -> Var {
    let raw = RawWeights {
        norms: [0, 1, 2, 3].map(|i| norm(r, v, i)),
        expand: v[1],
        depthwise: v[2],
        project: v[3],
    };
    mbconv_eval(r, v[0], fold(r, raw), upsample)
}

fn in_parts(r: &dyn Recorder, v: &[Var], x: Var) -> Var {
    let normalized = |x: Var, i: usize, activation: Activation| {
        let (scale, shift) = norm(r, v, i);
        scale_shift(r, x, scale, shift, activation)
    };
    let x = normalized(x, 0, Activation::None);
    let a = normalized(
        conv2d(r, x, v[1], None, Geometry::same(1)),
        1,
        Activation::Swish,
    );
    let d = normalized(dwconv(r, a, v[2], 1, 2), 2, Activation::Swish);
    normalized(
        conv2d(r, d, v[3], None, Geometry::same(1)),
        3,
        Activation::None,
    )
}

#[test]
fn bottleneck_with_folded_batch_norms() {
    same(
        &bottleneck(3, 18, 5),
        &[],
        |r, v, _| folded(r, v, false),
        |r, v, _| in_parts(r, v, v[0]),
    );
    same(
        &bottleneck(4, 12, 2),
        &[],
        |r, v, _| folded(r, v, true),
        |r, v, _| in_parts(r, v, nearest2(r, v[0])),
    );
}

#[test]
#[should_panic(expected = "no gradient of its weights")]
fn the_folded_bottleneck_refuses_a_weight_gradient() {
    let tape = Tape::new();
    let inputs: Vec<Var> = (bottleneck(3, 6, 3).iter().enumerate())
        .map(|(i, x)| tape.feed(&format!("x{i}"), x.shape))
        .collect();
    let y = folded(&tape, &inputs, false);
    tape.grad(y, &[inputs[1]]);
}
