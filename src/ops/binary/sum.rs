//! Sums: of many tensors of one shape, over the axes that a broadcast repeated, and the broadcast itself.

use super::{broadcasts, cpu, cuda, for_each_pair};
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, record1};
use crate::program::Io;
use crate::program::gpu::{GpuContext, GpuKernel, Narrow};
use crate::real::Real;
use crate::tensor::Shape;

/// `y = x_0 + x_1 + ...`, in this order.
#[derive(Debug)]
pub(super) struct SumOf;

/// `y[j] = sum of x[i] over all i that broadcast j`.
#[derive(Debug)]
pub(super) struct SumTo(pub(super) Shape);

/// `y[i] = x[j]` where `j` broadcasts to `i`.
#[derive(Debug)]
pub(super) struct BroadcastTo(pub(super) Shape);

/// The sum of tensors of one shape; of one tensor, itself.
pub fn sum_of(r: &dyn Recorder, parts: &[Var]) -> Var {
    match parts {
        [only] => *only,
        _ => record1(r, SumOf, parts),
    }
}

/// Sums over the axes that broadcasting `shape` to `x`'s shape repeats.
pub fn sum_to(r: &dyn Recorder, x: Var, shape: Shape) -> Var {
    if r.shape(x) == shape {
        return x;
    }
    record1(r, SumTo(shape), &[x])
}

/// Repeats `x` along missing axes and axes of extent 1.
pub fn broadcast_to(r: &dyn Recorder, x: Var, shape: Shape) -> Var {
    if r.shape(x) == shape {
        return x;
    }
    record1(r, BroadcastTo(shape), &[x])
}

impl Op for SumOf {
    const NAME: &'static str = "sum_of";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(!shapes.inputs.is_empty(), "takes at least one tensor");
        let first = shapes.inputs[0];
        ensure_shape!(
            shapes.inputs.iter().all(|s| *s == first),
            "takes tensors of one shape, not {:?}",
            shapes.inputs
        );
        Ok(vec![first])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let inputs = io.inputs;
        for (i, y) in io.out().iter_mut().enumerate() {
            *y = inputs.iter().map(|(x, _)| x[i]).sum();
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::sum_of(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::sum_of(cx).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::narrow_sum(cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        cx.wants
            .iter()
            .map(|w| w.then(|| cx.cotangent(0)))
            .collect()
    }
}

impl Op for SumTo {
    const NAME: &'static str = "sum_to";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 1 && broadcasts(self.0, shapes.inputs[0]),
            "{} is no broadcast of {}",
            shapes.inputs[0],
            self.0
        );
        Ok(vec![self.0])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, shape) = (io.input(0), io.input_shape(0));
        let y = io.out();
        y.fill(T::zero());
        for_each_pair(shape, self.0, |i, j| y[j] += x[i]);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::sum_to(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::sum_to(cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![cx.wanted(0, || {
            broadcast_to(cx.recorder, cx.cotangent(0), cx.input_shape(0))
        })]
    }
}

impl Op for BroadcastTo {
    const NAME: &'static str = "broadcast_to";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 1 && broadcasts(shapes.inputs[0], self.0),
            "{} cannot be broadcast to {}",
            shapes.inputs[0],
            self.0
        );
        Ok(vec![self.0])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, shape) = (io.input(0), io.input_shape(0));
        let y = io.out();
        for_each_pair(self.0, shape, |i, j| y[i] = x[j]);
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::broadcast_to(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::broadcast_to(cx.shapes).into()
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![cx.wanted(0, || {
            sum_to(cx.recorder, cx.cotangent(0), cx.input_shape(0))
        })]
    }
}
