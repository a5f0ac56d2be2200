//! Copies of states, and the way back.

use std::sync::Arc;

use super::cuda;
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var};
use crate::program::Io;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::real::Real;
use crate::tensor::Shape;

/// `copy_k = state_k`.
#[derive(Debug)]
pub(super) struct Keep;

/// `state_k = copy_k` where `apply` is 0; from `(copy_0 .. copy_k, apply)`.
#[derive(Debug)]
pub(super) struct PutBack;

/// Copies of states as they are now, whatever later nodes write to them. None for none.
pub fn keep(r: &dyn Recorder, states: &[Var]) -> Vec<Var> {
    match states {
        [] => Vec::new(),
        _ => r.record(Arc::new(Keep), states, &[]),
    }
}

/// Makes states like their copies if `apply`, a scalar, is 0; leaves them alone otherwise.
pub fn put_back(r: &dyn Recorder, states: &[Var], copies: &[Var], apply: Var) {
    if !states.is_empty() {
        r.record(Arc::new(PutBack), &[copies, &[apply]].concat(), states);
    }
}

impl Op for Keep {
    const NAME: &'static str = "guard_keep";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        Ok(shapes.inputs.to_vec())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        for ((to, _), (from, _)) in io.outputs.iter_mut().zip(io.inputs) {
            to.copy_from_slice(from);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::keep(cx.shapes).into()
    }

    /// Nobody differentiates what was.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }
}

impl Op for PutBack {
    const NAME: &'static str = "guard_put_back";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let copies = shapes.inputs.split_last();
        ensure_shape!(
            copies.is_some_and(|(apply, copies)| apply.len() == 1 && copies == shapes.updates),
            "takes a copy of each of {:?} and a scalar, not {:?}",
            shapes.updates,
            shapes.inputs
        );
        Ok(Vec::new())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        if io.input(io.updates.len())[0] != T::zero() {
            return;
        }
        for ((to, _), (from, _)) in io.updates.iter_mut().zip(io.inputs) {
            to.copy_from_slice(from);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::put_back(cx.shapes).into()
    }

    /// It has no outputs, so nobody asks.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }
}
