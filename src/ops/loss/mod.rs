//! Softmax and cross-entropy of class scores, for the small classifier that judges samples.
//!
//! `softmax[n, k] = exp(x[n, k]) / sum_j exp(x[n, j])`; `loss[n] = -sum_k target[n, k] ln softmax[n, k]`.

pub mod cases;
mod cuda;

use super::{
    ACTIVATION_FLOPS, Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1,
};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[
    Softmax::NAME,
    SoftmaxGrad::NAME,
    CrossEntropy::NAME,
    CrossEntropyGrad::NAME,
];

/// `p = softmax(x)` over the innermost axis.
#[derive(Debug)]
struct Softmax;

/// `dx = p (dp - sum_k dp p)` from `(dp, p)`.
#[derive(Debug)]
struct SoftmaxGrad;

/// `loss[n]` from `(logits, target)`.
#[derive(Debug)]
struct CrossEntropy;

/// `dlogits[n, k] = dloss[n] (softmax[n, k] sum_j target[n, j] - target[n, k])` from `(dloss, logits, target)`.
#[derive(Debug)]
struct CrossEntropyGrad;

/// Class probabilities `[n, k]` from scores `[n, k]`.
pub fn softmax(r: &dyn Recorder, logits: Var) -> Var {
    record1(r, Softmax, &[logits])
}

/// Cross-entropy in nats per sample, `[n]`, of scores `[n, k]` against target probabilities `[n, k]`, which have no gradient.
pub fn softmax_cross_entropy(r: &dyn Recorder, logits: Var, target: Var) -> Var {
    record1(r, CrossEntropy, &[logits, target])
}

/// `ln sum exp` of a row.
pub(super) fn log_sum_exp<T: Real>(row: impl Iterator<Item = T> + Clone) -> T {
    let largest = row.clone().fold(T::neg_infinity(), T::max);
    largest + row.map(|x| (x - largest).exp()).sum::<T>().ln()
}

/// Rows of one tensor of rank 2, none if it is empty.
fn rows<T>(x: &[T], shape: Shape) -> std::slice::ChunksExact<'_, T> {
    x.chunks_exact(shape.last().max(1))
}

impl Op for Softmax {
    const NAME: &'static str = "softmax";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 1 && shapes.inputs[0].rank() == 2,
            "takes scores [n, k], not {:?}",
            shapes.inputs
        );
        Ok(shapes.inputs.to_vec())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, shape) = (io.input(0), io.input_shape(0));
        let width = shape.last().max(1);
        for (p, x) in io.out().chunks_exact_mut(width).zip(rows(x, shape)) {
            let total = log_sum_exp(x.iter().copied());
            p.iter_mut()
                .zip(x)
                .for_each(|(p, x)| *p = (*x - total).exp());
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::softmax(cx.shapes).into()
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![cx.wanted(0, || {
            record1(cx.recorder, SoftmaxGrad, &[cx.cotangent(0), cx.outputs[0]])
        })]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        per_score(shapes, ACTIVATION_FLOPS)
    }
}

impl Op for SoftmaxGrad {
    const NAME: &'static str = "softmax_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 2 && shapes.inputs[0] == shapes.inputs[1],
            "takes dp and p of one shape, not {:?}",
            shapes.inputs
        );
        Ok(vec![shapes.inputs[0]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dp, p, shape) = (io.input(0), io.input(1), io.input_shape(0));
        let width = shape.last().max(1);
        let tensors = io.out().chunks_exact_mut(width);
        for ((dx, dp), p) in tensors.zip(rows(dp, shape)).zip(rows(p, shape)) {
            let mean: T = dp.iter().zip(p).map(|(dp, p)| *dp * *p).sum();
            for ((dx, dp), p) in dx.iter_mut().zip(dp).zip(p) {
                *dx = *p * (*dp - mean);
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::softmax_grad(cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        per_score(shapes, 4.0)
    }
}

impl Op for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 2
                && shapes.inputs[0].rank() == 2
                && shapes.inputs[0] == shapes.inputs[1],
            "takes scores and target of one shape [n, k], not {:?}",
            shapes.inputs
        );
        Ok(vec![Shape::new(&[shapes.inputs[0][0]])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, target, shape) = (io.input(0), io.input(1), io.input_shape(0));
        let samples = rows(x, shape).zip(rows(target, shape));
        for (loss, (x, target)) in io.out().iter_mut().zip(samples) {
            let total = log_sum_exp(x.iter().copied());
            let pairs = x.iter().zip(target);
            *loss = pairs.map(|(x, target)| *target * (total - *x)).sum();
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::cross_entropy(cx.shapes).into()
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let logits = cx.wanted(0, || {
            record1(
                cx.recorder,
                CrossEntropyGrad,
                &[cx.cotangent(0), cx.inputs[0], cx.inputs[1]],
            )
        });
        vec![logits, None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        per_score(shapes, ACTIVATION_FLOPS + 2.0)
    }
}

impl Op for CrossEntropyGrad {
    const NAME: &'static str = "cross_entropy_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 3 && shapes.inputs[1] == shapes.inputs[2],
            "takes dloss, scores and target, not {:?}",
            shapes.inputs
        );
        Ok(vec![shapes.inputs[1]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dloss, x, target) = (io.input(0), io.input(1), io.input(2));
        let shape = io.input_shape(1);
        let samples = rows(x, shape).zip(rows(target, shape)).zip(dloss);
        let width = shape.last().max(1);
        for (dx, ((x, target), dloss)) in io.out().chunks_exact_mut(width).zip(samples) {
            let total = log_sum_exp(x.iter().copied());
            let mass: T = target.iter().copied().sum();
            for ((dx, x), target) in dx.iter_mut().zip(x).zip(target) {
                *dx = *dloss * ((*x - total).exp() * mass - *target);
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::cross_entropy_grad(cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        per_score(shapes, ACTIVATION_FLOPS + 4.0)
    }
}

/// The cost of so many FLOPs for each score; scores are the largest tensor of every kernel here.
fn per_score(shapes: Shapes<'_>, flops: f64) -> Cost {
    let scores = shapes.inputs.iter().map(Shape::len).max().unwrap_or(0);
    Cost {
        flops: flops * scores as f64,
        bytes: compulsory_bytes(shapes),
    }
}
