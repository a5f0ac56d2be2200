//! A residual block of an energy network as one op (SPEC section 5), with `f` Lip-swish and 3x3 convolutions that keep the size:
//!
//! `h = conv(a, w1) + b1`, `p' = pool(conv(f(h), w2) + skip(a)) + b2`, `a' = f(p')`.
//!
//! `a [n, h, w, cin]`, `w1 [3, 3, cin, cout]`, `w2 [3, 3, cout, cout]`, `h [n, h, w, cout]`. The skip is `a` itself, or a 1x1 convolution
//! with `ws [1, 1, cin, cout]`. Where the block halves the resolution, `pool` is the mean of 2x2 pixels, an odd last row or column left
//! out; elsewhere it does nothing.
//!
//! The block also takes `p`, of which `a = f(p)` was made, and its gradient goes to `p`: what travels between blocks is then the gradient
//! before the activation, and no slope asks for a pass of its own. Two launches forward and two back: `f(h)` is scratch, the skip's
//! products run in the sums of the second convolution, and those of its gradient in the sums of the first one's.
//!
//! Both `p'` and `a'` are stored rather than `f` taken of what a convolution reads: a 3x3 window reads each number nine times, and nine
//! exponentials cost an H200 more than four bytes written once.

pub mod cases;
mod cpu;
mod cuda;
mod reference;

use std::sync::Arc;

use super::activation::Activation;
use super::binary::{sum_of, sum_to};
use super::conv2d::{self, Geometry};
use super::resample::avg_pool2_dgrad;
use super::unary::{Function, slope};
use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Fprop::NAME, Dgrad::NAME];

/// The activation of the energy networks.
const ACTIVATION: Activation = Activation::LipSwish;

/// A tensor before and after the activation: `after = f(before)`.
#[derive(Clone, Copy, Debug)]
pub struct Activated {
    /// What gradients go to.
    pub before: Var,
    /// What is read.
    pub after: Var,
}

/// The weights of a block.
#[derive(Clone, Copy, Debug)]
pub struct BlockWeights {
    /// `[3, 3, cin, cout]`.
    pub w1: Var,
    /// `[cout]`.
    pub b1: Var,
    /// `[3, 3, cout, cout]`.
    pub w2: Var,
    /// `[cout]`.
    pub b2: Var,
    /// `[1, 1, cin, cout]`, unless the skip is the input itself.
    pub skip: Option<Var>,
}

/// `(p', a', h)` from `(p, a, w1, b1, w2, b2[, ws], packed w1, packed w2[, packed ws])`.
#[derive(Clone, Copy, Debug)]
struct Fprop {
    /// Whether it halves the resolution.
    down: bool,
    /// Whether the skip is a convolution.
    skip: bool,
}

/// `(dp, dh)` from `(dp', p, h, packed w1, packed w2[, packed ws])`:
/// `dh = f'(h) conv^T(pool^T(dp'), w2)`, `dp = f'(p) (conv^T(dh, w1) + skip^T(pool^T(dp')))`.
#[derive(Clone, Copy, Debug)]
struct Dgrad(Fprop);

/// A residual block of an energy network.
///
/// # Panics
/// If the weights do not fit each other and the input.
pub fn residual_block(
    r: &dyn Recorder,
    x: Activated,
    weights: BlockWeights,
    down: bool,
) -> Activated {
    let BlockWeights {
        w1,
        b1,
        w2,
        b2,
        skip,
    } = weights;
    let op = Fprop {
        down,
        skip: skip.is_some(),
    };
    let packed = [w1, w2].into_iter().chain(skip);
    let packed = packed.map(|w| conv2d::packed(r, Geometry::same(1), w));
    let inputs: Vec<Var> = [x.before, x.after, w1, b1, w2, b2]
        .into_iter()
        .chain(skip)
        .chain(packed)
        .collect();
    let outputs = r.record(Arc::new(op), &inputs, &[]);
    Activated {
        before: outputs[0],
        after: outputs[1],
    }
}

impl Fprop {
    /// The index of the first packed weights among the inputs.
    fn packed(&self) -> usize {
        6 + usize::from(self.skip)
    }

    /// The shape of `p'` for an `h` of this shape.
    fn output(&self, h: Shape) -> Shape {
        if self.down {
            Shape::new(&[h[0], h[1] / 2, h[2] / 2, h[3]])
        } else {
            h
        }
    }

    /// FLOPs of the products of one direction, and of activations or slopes.
    fn flops(&self, p: Shape, h: Shape) -> f64 {
        let (cin, cout, pixels) = (p.last() as f64, h.last() as f64, h.rows() as f64);
        let skip = if self.skip { cin } else { 0.0 };
        // Products of the pixels that pooling drops are counted as if they were made.
        let products = 2.0 * pixels * cout * (9.0 * cin + 9.0 * cout + skip);
        let activations = ACTIVATION.flops() * (h.len() + p.len()) as f64;
        products + activations
    }
}

impl Op for Fprop {
    const NAME: &'static str = "residual_block_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let (&[p, a, w1, b1, w2, b2, ref rest @ ..], true) = (
            shapes.inputs,
            shapes.inputs.len() == 8 + 2 * usize::from(self.skip),
        ) else {
            return Err(ShapeError(format!(
                "takes a tensor before and after its activation, four or five weights and packed ones, not {:?}",
                shapes.inputs
            )));
        };
        let (skip, packed) = rest.split_at(usize::from(self.skip));
        let skip = skip.first().copied();
        ensure_shape!(
            p.rank() == 4 && p == a && p.last() > 0,
            "takes an image before and after its activation, not {p} and {a}"
        );
        let (cin, cout) = (p.last(), w1.last());
        ensure_shape!(
            cout > 0 && w1.dims() == [3, 3, cin, cout] && w2.dims() == [3, 3, cout, cout],
            "weights {w1} and {w2} do not fit an image {p}"
        );
        ensure_shape!(
            b1.dims() == [cout] && b2.dims() == [cout],
            "biases {b1} and {b2} do not fit {cout} channels"
        );
        ensure_shape!(
            skip.map_or(cin == cout && !self.down, |w| w.dims() == [1, 1, cin, cout]),
            "a skip from {cin} to {cout} channels cannot have weights {skip:?}"
        );
        let weights = [w1, w2].into_iter().chain(skip);
        ensure_shape!(
            weights
                .zip(packed)
                .all(|(w, packed)| packed.dims() == [conv2d::packed_len(w, 1)]),
            "packed weights {packed:?} do not fit {w1}, {w2} and {skip:?}"
        );
        let h = p.with_last(cout);
        let out = self.output(h);
        ensure_shape!(out[1] > 0 && out[2] > 0, "{p} is too small to be pooled");
        Ok(vec![out, out, h])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        reference::fprop(self, io);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::fprop(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::fprop(self, cx)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::fprop_workspace(self, shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let (r, h) = (cx.recorder, cx.outputs[2]);
        let [p, a, w1, b1, w2, b2] = [0, 1, 2, 3, 4, 5].map(|i| cx.inputs[i]);
        let through = cx.cotangents[1].map(|da| slope(r, Function::LipSwish, da, cx.outputs[0]));
        let parts: Vec<Var> = cx.cotangents[0].into_iter().chain(through).collect();
        let dout = sum_of(r, &parts);
        let mut gradients = vec![None; cx.inputs.len()];
        if cx.wants[0] || cx.wants[2] || cx.wants[3] {
            let same = Geometry::same(3);
            let packed = &cx.inputs[self.packed()..];
            let inputs: Vec<Var> = [dout, p, h].iter().chain(packed).copied().collect();
            let both = r.record(Arc::new(Dgrad(*self)), &inputs, &[]);
            let dh = both[1];
            gradients[0] = cx.wanted(0, || both[0]);
            gradients[2] = cx.wanted(2, || {
                conv2d::weight_gradient(r, same, Activation::None, a, dh, r.shape(w1))
            });
            gradients[3] = cx.wanted(3, || sum_to(r, dh, r.shape(b1)));
        }
        if cx.wants[4] || cx.wants[5] || self.skip && cx.wants[6] {
            let ds = match self.down {
                true => avg_pool2_dgrad(r, dout, r.shape(h)),
                false => dout,
            };
            gradients[4] = cx.wanted(4, || {
                conv2d::weight_gradient(r, Geometry::same(3), ACTIVATION, h, ds, r.shape(w2))
            });
            gradients[5] = cx.wanted(5, || sum_to(r, dout, r.shape(b2)));
            if self.skip {
                let shape = cx.input_shape(6);
                gradients[6] = cx.wanted(6, || {
                    conv2d::weight_gradient(r, Geometry::same(1), Activation::None, a, ds, shape)
                });
            }
        }
        gradients
    }

    /// What `a` was made of is not read.
    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let p = shapes.inputs[0];
        Cost {
            flops: self.flops(p, shapes.outputs[2]),
            bytes: compulsory_bytes(shapes)
                - conv2d::bytes(p.len())
                - conv2d::packed_bytes(shapes, self.packed()..shapes.inputs.len()),
        }
    }
}

impl Op for Dgrad {
    const NAME: &'static str = "residual_block_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let count = 5 + usize::from(self.0.skip);
        ensure_shape!(
            shapes.inputs.len() == count,
            "takes {count} tensors, not {}",
            shapes.inputs.len()
        );
        let (dout, p, h) = (shapes.inputs[0], shapes.inputs[1], shapes.inputs[2]);
        ensure_shape!(
            h == p.with_last(h.last()) && dout == self.0.output(h),
            "takes the gradient of a block's output, its input and its inner tensor, not {:?}",
            shapes.inputs
        );
        Ok(vec![p, h])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        reference::dgrad(&self.0, io);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dgrad(&self.0, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dgrad(&self.0, cx)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::dgrad_workspace(&self.0, shapes)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let (p, h) = (shapes.inputs[1], shapes.inputs[2]);
        let (cin, cout) = (p.last(), h.last());
        let skip = if self.0.skip { cin } else { 0 };
        let weights = cout * (9 * cin + 9 * cout + skip);
        Cost {
            flops: self.0.flops(p, h),
            bytes: compulsory_bytes(shapes) - conv2d::packed_bytes(shapes, 3..shapes.inputs.len())
                + conv2d::bytes(weights),
        }
    }
}
