//! The inverted bottleneck of NVAE's decoder in evaluation mode, its four batch norms folded into the weights:
//!
//! `a = swish(u w1 + b1)`, `d = swish(dwconv(a) + b_dw)`, `y = d w2 + b2`, where `u` is `x`, or `x` with each pixel four times.
//!
//! `x [n, h, w, ci]`, `w1 [ci, hidden]`, depthwise `[5, 5, hidden]` of stride 1, `w2 [hidden, co]`,
//! `y [n, h, w, co]`, or `[n, 2h, 2w, co]` with upsampling. The depthwise padding is zeros of `a`, not of `u`.
//! Neither `a` nor `d` is stored: the input gradient recomputes them. There is no gradient of the weights; training records the
//! parts one by one.

pub mod cases;
pub(super) mod cpu;
mod cuda;
mod fold;
pub(in crate::ops) mod fused;
mod reference;
mod sm90a;

pub use fold::{RawWeights, fold};

use super::{
    ACTIVATION_FLOPS, Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, fill,
    record1,
};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Pack::NAME, Fprop::NAME, Dgrad::NAME];

/// The folded weights of one bottleneck.
#[derive(Clone, Copy, Debug)]
pub struct MbconvWeights {
    /// Expansion `[ci, hidden]`.
    pub w1: Var,
    /// `[hidden]`.
    pub b1: Var,
    /// Depthwise `[5, 5, hidden]`.
    pub dw: Var,
    /// `[hidden]`.
    pub b_dw: Var,
    /// Projection `[hidden, co]`.
    pub w2: Var,
    /// `[co]`.
    pub b2: Var,
}

/// The extents that all kernels of a bottleneck share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channels {
    pub ci: usize,
    pub hidden: usize,
    pub k: usize,
    pub co: usize,
}

impl Channels {
    /// Elements of all weights together.
    fn weights(&self) -> usize {
        self.hidden * (self.ci + 1 + self.k * self.k + 1 + self.co) + self.co
    }

    /// FLOPs of the products and activations of one pass over `pixels` of `x` and `outer` of `y`.
    fn flops(&self, pixels: usize, outer: usize) -> f64 {
        let expand = 2.0 * self.ci as f64 + ACTIVATION_FLOPS;
        let rest = 2.0 * (self.k * self.k + self.co) as f64 + ACTIVATION_FLOPS;
        self.hidden as f64 * (pixels as f64 * expand + outer as f64 * rest)
    }
}

/// All weights in one tensor whose layout is the affair of the device that reads it: it is packed once per parameter version.
#[derive(Clone, Copy, Debug)]
struct Pack(Channels);

/// `y` from `(x, packed weights)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fprop {
    pub channels: Channels,
    pub upsample: bool,
}

/// `dx` from `(dy, x, packed weights)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dgrad(pub Fprop);

/// The bottleneck; with `upsample` every pixel of `x` stands for four.
///
/// # Panics
/// If the weights do not fit each other.
pub fn mbconv_eval(r: &dyn Recorder, x: Var, weights: MbconvWeights, upsample: bool) -> Var {
    let (channels, packed) = pack(r, weights);
    record1(r, Fprop { channels, upsample }, &[x, packed])
}

/// The weights as one tensor, and their extents.
pub(super) fn pack(r: &dyn Recorder, weights: MbconvWeights) -> (Channels, Var) {
    let MbconvWeights {
        w1,
        b1,
        dw,
        b_dw,
        w2,
        b2,
    } = weights;
    let [expand, window] = [w1, dw].map(|v| r.shape(v));
    let channels = Channels {
        ci: expand.dims()[0],
        hidden: expand.last(),
        k: window.dims()[0],
        co: r.shape(b2).len(),
    };
    let packed = record1(r, Pack(channels), &[w1, b1, dw, b_dw, w2, b2]);
    (channels, packed)
}

impl Fprop {
    fn grow(&self) -> usize {
        if self.upsample { 2 } else { 1 }
    }

    /// Checks `(x, packed)` and returns the shape of `y`.
    fn output(&self, x: Shape, packed: Shape) -> Result<Shape, ShapeError> {
        ensure_shape!(
            x.rank() == 4 && x.last() == self.channels.ci,
            "takes an image of {} channels, not {x}",
            self.channels.ci
        );
        let want = cpu::packed_len(&self.channels);
        ensure_shape!(
            packed.dims() == [want],
            "takes {want} packed weights, not {packed}"
        );
        let (grow, co) = (self.grow(), self.channels.co);
        Ok(Shape::new(&[x[0], grow * x[1], grow * x[2], co]))
    }

    fn flops(&self, x: Shape) -> f64 {
        let pixels = x.rows();
        self.channels
            .flops(pixels, self.grow() * self.grow() * pixels)
    }
}

impl Op for Pack {
    const NAME: &'static str = "mbconv_pack";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let Channels { ci, hidden, k, co } = self.0;
        let want: [Shape; 6] = [
            [ci, hidden].into(),
            [hidden].into(),
            [k, k, hidden].into(),
            [hidden].into(),
            [hidden, co].into(),
            [co].into(),
        ];
        ensure_shape!(
            shapes.inputs == want,
            "takes weights of shapes {want:?}, not {:?}",
            shapes.inputs
        );
        ensure_shape!(k == 5, "the depthwise window is 5x5, not {k}x{k}");
        Ok(vec![Shape::new(&[cpu::packed_len(&self.0)])])
    }

    /// One after the other; a device's own layout may take more room, which stays zero.
    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let inputs = io.inputs;
        let packed = io.out();
        packed.fill(T::zero());
        let mut at = 0;
        for (w, _) in inputs {
            packed[at..at + w.len()].copy_from_slice(w);
            at += w.len();
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::pack(self.0, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::pack(self.0, cx)
    }

    /// # Panics
    /// Always, where a gradient of a weight is asked for: this is the form for evaluation.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        panic!("the folded bottleneck has no gradient of its weights; record its parts to train it")
    }
}

impl Op for Fprop {
    const NAME: &'static str = "mbconv_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[x, packed] = shapes.inputs else {
            return Err(ShapeError("takes an image and packed weights".into()));
        };
        Ok(vec![self.output(x, packed)?])
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
        cpu::fprop_workspace(self, shapes.inputs[0])
    }

    /// With a gradient of the weights asked for, zeros go to [`Pack`], which refuses them.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let (r, dy) = (cx.recorder, cx.cotangent(0));
        let [x, packed] = [0, 1].map(|i| cx.inputs[i]);
        vec![
            cx.wanted(0, || record1(r, Dgrad(*self), &[dy, x, packed])),
            cx.wanted(1, || fill(r, cx.input_shape(1), 0.0)),
        ]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: self.flops(shapes.inputs[0]),
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Dgrad {
    const NAME: &'static str = "mbconv_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[dy, x, packed] = shapes.inputs else {
            return Err(ShapeError("takes dy, x and packed weights".into()));
        };
        let y = self.0.output(x, packed)?;
        ensure_shape!(dy == y, "dy is {dy}, the output {y}");
        Ok(vec![x])
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
        cpu::dgrad_workspace(&self.0, shapes.inputs[1])
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; 3]
    }

    /// The products of the gradient, as many as forward; recomputation is the kernel's choice and not counted.
    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: self.0.flops(shapes.inputs[1]),
            bytes: compulsory_bytes(shapes),
        }
    }
}
