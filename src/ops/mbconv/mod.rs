//! The inverted bottleneck of NVAE's decoder in evaluation mode, its four batch norms folded into the weights:
//!
//! `a = swish(u w1 + b1)`, `d = swish(dwconv(a) + b_dw)`, `y = d w2 + b2`, where `u` is `x`, or `x` with each pixel four times.
//!
//! `x [n, h, w, ci]`, `w1 [ci, hidden]`, depthwise `[k, k, hidden]` of odd `k` and stride 1, `w2 [hidden, co]`,
//! `y [n, h, w, co]`, or `[n, 2h, 2w, co]` with upsampling. The depthwise padding is zeros of `a`, not of `u`.
//! Neither `a` nor `d` is stored: the input gradient recomputes them. There is no gradient of the weights; training records the
//! parts one by one.

pub mod cases;
mod cpu;
mod fold;
mod reference;

pub use fold::{Norm, RawWeights, fold};

use super::{
    ACTIVATION_FLOPS, Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1,
};
use crate::ensure_shape;
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Fprop::NAME, Dgrad::NAME];

/// The folded weights of one bottleneck.
#[derive(Clone, Copy, Debug)]
pub struct MbconvWeights {
    /// Expansion `[ci, hidden]`.
    pub w1: Var,
    /// `[hidden]`.
    pub b1: Var,
    /// Depthwise `[k, k, hidden]`.
    pub dw: Var,
    /// `[hidden]`.
    pub b_dw: Var,
    /// Projection `[hidden, co]`.
    pub w2: Var,
    /// `[co]`.
    pub b2: Var,
}

/// `y` from `(x, w1, b1, dw, b_dw, w2, b2)`.
#[derive(Clone, Copy, Debug)]
struct Fprop {
    upsample: bool,
}

/// `dx` from `(dy, x, w1, b1, dw, b_dw, w2)`.
#[derive(Clone, Copy, Debug)]
struct Dgrad {
    upsample: bool,
}

/// The bottleneck; with `upsample` every pixel of `x` stands for four.
pub fn mbconv_eval(r: &dyn Recorder, x: Var, weights: MbconvWeights, upsample: bool) -> Var {
    let MbconvWeights {
        w1,
        b1,
        dw,
        b_dw,
        w2,
        b2,
    } = weights;
    record1(r, Fprop { upsample }, &[x, w1, b1, dw, b_dw, w2, b2])
}

/// Checks `(x, w1, b1, dw, b_dw, w2)` and returns the shape of `y`.
fn output(upsample: bool, shapes: &[Shape]) -> Result<Shape, ShapeError> {
    let &[x, w1, b1, dw, b_dw, w2] = shapes else {
        return Err(ShapeError("takes an image and its weights".into()));
    };
    ensure_shape!(
        x.rank() == 4 && w1.rank() == 2 && w1[0] == x[3],
        "takes an image [n, h, w, c] and an expansion [c, hidden], not {x} and {w1}"
    );
    let hidden = Shape::new(&[w1[1]]);
    ensure_shape!(
        dw.rank() == 3 && dw[0] == dw[1] && dw[0] % 2 == 1 && dw.last() == w1[1],
        "the depthwise weights are {dw}, not [k, k, {}] with an odd k",
        w1[1]
    );
    ensure_shape!(
        b1 == hidden && b_dw == hidden && w2.rank() == 2 && w2[0] == w1[1],
        "b1 {b1}, b_dw {b_dw} and w2 {w2} do not fit {hidden} hidden channels"
    );
    let grow = if upsample { 2 } else { 1 };
    Ok(Shape::new(&[x[0], grow * x[1], grow * x[2], w2[1]]))
}

/// FLOPs of the products and activations of a forward pass.
fn forward_flops(upsample: bool, x: Shape, w1: Shape, dw: Shape, w2: Shape) -> f64 {
    let pixels = x.rows() as f64;
    let outer = if upsample { 4.0 * pixels } else { pixels };
    let expand = pixels * (2.0 * w1.len() as f64 + ACTIVATION_FLOPS * w1[1] as f64);
    let depthwise = outer * (2.0 * dw.len() as f64 + ACTIVATION_FLOPS * w1[1] as f64);
    expand + depthwise + outer * 2.0 * w2.len() as f64
}

impl Op for Fprop {
    const NAME: &'static str = "mbconv_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 7,
            "takes 7 tensors, not {}",
            shapes.inputs.len()
        );
        let y = output(self.upsample, &shapes.inputs[..6])?;
        let b2 = shapes.inputs[6];
        ensure_shape!(b2.dims() == [y.last()], "b2 is {b2}, the output {y}");
        Ok(vec![y])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        reference::fprop(self.upsample, io);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::fprop(self, io);
    }

    /// # Panics
    /// If a gradient of a weight is asked for: this is the form for evaluation.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        assert!(
            !cx.wants[1..].contains(&true),
            "the folded bottleneck has no gradient of its weights; record its parts to train it"
        );
        let of = Dgrad {
            upsample: self.upsample,
        };
        let mut inputs = vec![cx.cotangent(0)];
        inputs.extend(&cx.inputs[..6]);
        let mut gradients = vec![None; 7];
        gradients[0] = cx.wanted(0, || record1(cx.recorder, of, &inputs));
        gradients
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let [x, w1, dw, w2] = [0, 1, 3, 5].map(|i| shapes.inputs[i]);
        Cost {
            flops: forward_flops(self.upsample, x, w1, dw, w2),
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Dgrad {
    const NAME: &'static str = "mbconv_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 7,
            "takes 7 tensors, not {}",
            shapes.inputs.len()
        );
        let y = output(self.upsample, &shapes.inputs[1..])?;
        let dy = shapes.inputs[0];
        ensure_shape!(dy == y, "dy is {dy}, the output {y}");
        Ok(vec![shapes.inputs[1]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        reference::dgrad(self.upsample, io);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dgrad(self, io);
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; 7]
    }

    /// The products of the gradient, as many as forward; recomputation is the kernel's choice and not counted.
    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let [x, w1, dw, w2] = [1, 2, 4, 6].map(|i| shapes.inputs[i]);
        Cost {
            flops: forward_flops(self.upsample, x, w1, dw, w2),
            bytes: compulsory_bytes(shapes),
        }
    }
}
