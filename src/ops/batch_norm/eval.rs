//! Evaluation mode: the running statistics folded into one factor and one summand a channel, and their application.

use std::sync::Arc;

use super::{Activation, cpu, cuda, inverse_deviation, per_channel};
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `scale` and `shift` from `(gamma, beta, running_mean, running_var)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fold;

/// `dgamma = (dscale - dshift * mean) / sqrt(var + eps)` from `(dscale, dshift, mean, var)`; `dbeta` is `dshift`.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoldGrad;

/// `y = act(scale * x + shift)` from `(x, scale, shift)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScaleShift(pub Activation);

/// `dx = scale * dz`, `dz = dy * act'(scale * x + shift)`, from `(dy, x, scale, shift)`; without an activation from `(dy, scale)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScaleShiftDgrad(pub Activation);

/// `dscale = sum dz * x`, `dshift = sum dz`, from `(dy, x, scale, shift)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScaleShiftSums(pub Activation);

/// The factor and summand `[c]` that a batch norm in evaluation mode amounts to. Gradients reach `gamma` and `beta`.
pub fn batch_norm_fold(
    r: &dyn Recorder,
    gamma: Var,
    beta: Var,
    running_mean: Var,
    running_var: Var,
) -> (Var, Var) {
    let folded = r.record(
        Arc::new(Fold),
        &[gamma, beta, running_mean, running_var],
        &[],
    );
    (folded[0], folded[1])
}

/// `act(scale * x + shift)`, with one factor and summand a channel.
pub fn scale_shift(
    r: &dyn Recorder,
    x: Var,
    scale: Var,
    shift: Var,
    activation: Activation,
) -> Var {
    record1(r, ScaleShift(activation), &[x, scale, shift])
}

impl Op for Fold {
    const NAME: &'static str = "batch_norm_fold";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 4 && shapes.inputs.iter().all(|s| *s == shapes.inputs[0]),
            "takes gamma, beta, mean and variance of one shape, not {:?}",
            shapes.inputs
        );
        Ok(vec![shapes.inputs[0]; 2])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        for k in 0..io.input(0).len() {
            let [gamma, beta, mean, var] = [0, 1, 2, 3].map(|i| io.input(i)[k]);
            let scale = gamma * inverse_deviation(var);
            io.output(0)[k] = scale;
            io.output(1)[k] = beta - scale * mean;
        }
    }

    /// Runs once per parameter version.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::fold(cx.shapes).into()
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let (dscale, dshift) = (cx.cotangent(0), cx.cotangent(1));
        let inputs = [dscale, dshift, cx.inputs[2], cx.inputs[3]];
        vec![
            cx.wanted(0, || record1(cx.recorder, FoldGrad, &inputs)),
            cx.wanted(1, || dshift),
            None,
            None,
        ]
    }
}

impl Op for FoldGrad {
    const NAME: &'static str = "batch_norm_fold_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 4 && shapes.inputs.iter().all(|s| *s == shapes.inputs[0]),
            "takes dscale, dshift, mean and variance of one shape, not {:?}",
            shapes.inputs
        );
        Ok(vec![shapes.inputs[0]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        for k in 0..io.input(0).len() {
            let [dscale, dshift, mean, var] = [0, 1, 2, 3].map(|i| io.input(i)[k]);
            io.out()[k] = (dscale - dshift * mean) * inverse_deviation(var);
        }
    }

    /// A few hundred numbers.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::fold_dgrad(cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; 4]
    }
}

impl Op for ScaleShift {
    const NAME: &'static str = "scale_shift";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(shapes.inputs.len() == 3, "takes x, scale and shift");
        per_channel(shapes.inputs[0], &shapes.inputs[1..])?;
        Ok(vec![shapes.inputs[0]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, scale, shift) = (io.input(0), io.input(1), io.input(2));
        for (i, y) in io.out().iter_mut().enumerate() {
            let k = i % scale.len();
            *y = self.0.value(scale[k] * x[i] + shift[k]);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::scale_shift(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::scale_shift(self, cx.shapes).into()
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let (r, dy) = (cx.recorder, cx.cotangent(0));
        let &[x, scale, shift] = cx.inputs else {
            unreachable!("three inputs by the shape rule");
        };
        let dgrad = || match self.0 {
            Activation::None => record1(r, ScaleShiftDgrad(self.0), &[dy, scale]),
            _ => record1(r, ScaleShiftDgrad(self.0), &[dy, x, scale, shift]),
        };
        let sums = (cx.wants[1] || cx.wants[2]).then(|| {
            r.record(
                Arc::new(ScaleShiftSums(self.0)),
                &[dy, x, scale, shift],
                &[],
            )
        });
        let sum = |i: usize| {
            let sums = sums.as_ref().filter(|_| cx.wants[i]);
            sums.map(|s| s[i - 1])
        };
        vec![cx.wanted(0, dgrad), sum(1), sum(2)]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (2.0 + self.0.flops()) * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for ScaleShiftDgrad {
    const NAME: &'static str = "scale_shift_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let others = match self.0 {
            Activation::None => &shapes.inputs[1..],
            _ => {
                ensure_shape!(
                    shapes.inputs.len() == 4 && shapes.inputs[0] == shapes.inputs[1],
                    "takes dy and x of one shape, scale and shift, not {:?}",
                    shapes.inputs
                );
                &shapes.inputs[2..]
            }
        };
        per_channel(shapes.inputs[0], others)?;
        Ok(vec![shapes.inputs[0]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let dy = io.input(0);
        if self.0 == Activation::None {
            let scale = io.input(1);
            for (i, dx) in io.out().iter_mut().enumerate() {
                *dx = scale[i % scale.len()] * dy[i];
            }
            return;
        }
        let (x, scale, shift) = (io.input(1), io.input(2), io.input(3));
        for (i, dx) in io.out().iter_mut().enumerate() {
            let k = i % scale.len();
            *dx = scale[k] * dy[i] * self.0.derivative(scale[k] * x[i] + shift[k]);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::scale_shift_dgrad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::scale_shift_dgrad(self, cx.shapes).into()
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::scale_shift_dgrad_workspace(self, shapes.inputs[0])
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (3.0 + self.0.flops()) * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for ScaleShiftSums {
    const NAME: &'static str = "scale_shift_wgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 4 && shapes.inputs[0] == shapes.inputs[1],
            "takes dy and x of one shape, scale and shift, not {:?}",
            shapes.inputs
        );
        let c = per_channel(shapes.inputs[0], &shapes.inputs[2..])?;
        Ok(vec![c, c])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let [dy, x, scale, shift] = [0, 1, 2, 3].map(|i| io.input(i));
        let c = scale.len();
        for k in 0..c {
            let (mut dscale, mut dshift) = (T::zero(), T::zero());
            for (dy, x) in dy[k..].iter().zip(&x[k..]).step_by(c) {
                let dz = *dy * self.0.derivative(scale[k] * *x + shift[k]);
                dscale += dz * *x;
                dshift += dz;
            }
            io.output(0)[k] = dscale;
            io.output(1)[k] = dshift;
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::scale_shift_sums(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::scale_shift_sums(self, cx.shapes)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        crate::device::cpu::bn::backward_workspace(shapes.inputs[0].rows(), shapes.inputs[0].last())
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; 4]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (5.0 + self.0.flops()) * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
