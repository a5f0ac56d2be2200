//! `y = sum_i max_c |x_i[c]|`: the batch-norm regulariser.

use std::sync::Arc;

use super::cuda;
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `y` from `x_0 .. x_k`.
#[derive(Debug)]
pub(super) struct MaxAbsSum;

/// `dx_i[c] = dy sign(x_i[c]) / ties` where `|x_i[c]|` is the largest of its tensor, else zero, from `(dy, x_0 .. x_k)`.
///
/// Elements that share the largest absolute value share the gradient: after initialisation every gain is 1.
#[derive(Debug)]
pub(super) struct MaxAbsSumGrad;

/// The largest absolute value, a scalar.
pub fn max_abs(r: &dyn Recorder, x: Var) -> Var {
    max_abs_sum(r, &[x])
}

/// The sum over tensors of each one's largest absolute value, a scalar, in one node.
pub fn max_abs_sum(r: &dyn Recorder, x: &[Var]) -> Var {
    record1(r, MaxAbsSum, x)
}

fn largest<T: Real>(x: &[T]) -> T {
    x.iter().fold(T::zero(), |m, x| m.max(x.abs()))
}

impl Op for MaxAbsSum {
    const NAME: &'static str = "max_abs_sum";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            !shapes.inputs.is_empty() && shapes.inputs.iter().all(|s| !s.is_empty()),
            "takes tensors with elements, not {:?}",
            shapes.inputs
        );
        Ok(vec![Shape::SCALAR])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        io.out()[0] = io.inputs.iter().map(|(x, _)| largest(x)).sum();
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::max_abs_sum(cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let mut inputs = vec![cx.cotangent(0)];
        inputs.extend_from_slice(cx.inputs);
        let gradients = cx.recorder.record(Arc::new(MaxAbsSumGrad), &inputs, &[]);
        gradients.into_iter().map(Some).collect()
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: shapes.inputs.iter().map(Shape::len).sum::<usize>() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for MaxAbsSumGrad {
    const NAME: &'static str = "max_abs_sum_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(shapes.inputs.len() > 1, "takes dy and the tensors");
        Ok(shapes.inputs[1..].to_vec())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, tensors) = (io.input(0)[0], &io.inputs[1..]);
        for ((dx, _), (x, _)) in io.outputs.iter_mut().zip(tensors) {
            let largest = largest(x);
            let ties = x.iter().filter(|x| x.abs() == largest).count();
            let share = dy / T::of(ties as f64);
            for (dx, x) in dx.iter_mut().zip(*x) {
                *dx = if x.abs() == largest && largest > T::zero() {
                    share * x.signum()
                } else {
                    T::zero()
                };
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::max_abs_sum_grad(cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }
}
