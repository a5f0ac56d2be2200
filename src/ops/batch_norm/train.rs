//! Training mode: moments of the batch, normalisation, and its gradient in two passes.

use std::sync::Arc;

use super::{Activation, MOMENTUM, cpu, cuda, inverse_deviation, per_channel};
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `mean[c]` and biased `var[c]` of `x`: two passes, so that a mean far above the deviation costs no digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments;

/// Moves the running mean and variance towards those of a batch of `count` numbers a channel, from `(mean, var)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Track {
    pub count: usize,
}

/// `y` from `(x, mean, var, gamma, beta)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Normalize(pub Activation);

/// First pass of the gradient: `dbeta = sum dz`, `dgamma = sum dz * xhat` with `dz = dy * act'(z)`, from `(dy, x, mean, var,
/// gamma, beta)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums(pub Activation);

/// Second pass: `dx = gamma / sqrt(var + eps) * (dz - dbeta / m - xhat * dgamma / m)`, from `(dy, x, mean, var, gamma, beta,
/// dbeta, dgamma)`; the moments' own dependence on `x` is in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dgrad(pub Activation);

/// Batch normalisation with the statistics of this batch, which the running ones follow.
pub fn batch_norm_train(
    r: &dyn Recorder,
    x: Var,
    gamma: Var,
    beta: Var,
    running_mean: Var,
    running_var: Var,
    activation: Activation,
) -> Var {
    let moments = r.record(Arc::new(Moments), &[x], &[]);
    let shape = r.shape(x);
    let track = Track {
        count: shape.rows(),
    };
    r.record(Arc::new(track), &moments, &[running_mean, running_var]);
    let inputs = [x, moments[0], moments[1], gamma, beta];
    record1(r, Normalize(activation), &inputs)
}

/// One channel's numbers.
struct Channel<T> {
    mean: T,
    /// `1 / sqrt(var + eps)`.
    inverse: T,
    gamma: T,
    beta: T,
}

impl<T: Real> Channel<T> {
    /// Of channel `k`, where inputs `first..first + 4` are `(mean, var, gamma, beta)`.
    fn of(io: &Io<'_, T>, first: usize, k: usize) -> Self {
        Channel {
            mean: io.input(first)[k],
            inverse: inverse_deviation(io.input(first + 1)[k]),
            gamma: io.input(first + 2)[k],
            beta: io.input(first + 3)[k],
        }
    }

    fn normalized(&self, x: T) -> T {
        (x - self.mean) * self.inverse
    }

    /// `dz`, the gradient before the activation.
    fn inner(&self, activation: Activation, dy: T, x: T) -> T {
        dy * activation.derivative(self.gamma * self.normalized(x) + self.beta)
    }
}

impl Op for Moments {
    const NAME: &'static str = "batch_norm_moments";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[x] = shapes.inputs else {
            return Err(ShapeError("takes one tensor".into()));
        };
        ensure_shape!(
            x.rows() > 1,
            "{x} has {} numbers a channel, and a variance needs two",
            x.rows()
        );
        let c = per_channel(x, &[])?;
        Ok(vec![c, c])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, shape) = (io.input(0), io.input_shape(0));
        let (c, count) = (shape.last(), T::of(shape.rows() as f64));
        for k in 0..c {
            let channel = || x[k..].iter().step_by(c);
            let mean = channel().copied().sum::<T>() / count;
            let squares: T = channel().map(|x| (*x - mean) * (*x - mean)).sum();
            io.output(0)[k] = mean;
            io.output(1)[k] = squares / count;
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::moments(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::moments(cx.shapes)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::moments_workspace(shapes.inputs[0])
    }

    /// The gradient of [`Normalize`] holds what goes through the moments; nothing else reads them but [`Track`].
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: 4.0 * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Track {
    const NAME: &'static str = "batch_norm_track";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let both: Vec<&Shape> = shapes.inputs.iter().chain(shapes.updates).collect();
        ensure_shape!(
            shapes.inputs.len() == 2
                && shapes.updates.len() == 2
                && both.iter().all(|s| *s == both[0]),
            "takes a mean and a variance and moves two states of their shape, not {both:?}"
        );
        Ok(Vec::new())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let unbiased = T::of(self.count as f64) / T::of(self.count as f64 - 1.0);
        let (keep, take) = (T::of(1.0 - MOMENTUM), T::of(MOMENTUM));
        for (i, factor) in [T::one(), unbiased].into_iter().enumerate() {
            let batch = io.input(i);
            for (running, batch) in io.update(i).iter_mut().zip(batch) {
                *running = keep * *running + take * factor * *batch;
            }
        }
    }

    /// A few hundred numbers.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::track(self, cx.shapes).into()
    }

    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None, None]
    }
}

impl Op for Normalize {
    const NAME: &'static str = "batch_norm_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 5,
            "takes x, mean, var, gamma and beta"
        );
        per_channel(shapes.inputs[0], &shapes.inputs[1..])?;
        Ok(vec![shapes.inputs[0]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, c) = (io.input(0), io.input_shape(0).last());
        for k in 0..c {
            let channel = Channel::of(io, 1, k);
            for (y, x) in io.out()[k..]
                .iter_mut()
                .step_by(c)
                .zip(x[k..].iter().step_by(c))
            {
                *y = self
                    .0
                    .value(channel.gamma * channel.normalized(*x) + channel.beta);
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::normalize(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::normalize(self, cx.shapes).into()
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::normalize_workspace(shapes.inputs[0])
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let &[x, mean, var, gamma, beta] = cx.inputs else {
            unreachable!("five inputs by the shape rule");
        };
        let (r, dy) = (cx.recorder, cx.cotangent(0));
        let sums = r.record(
            Arc::new(Sums(self.0)),
            &[dy, x, mean, var, gamma, beta],
            &[],
        );
        let (dbeta, dgamma) = (sums[0], sums[1]);
        let dgrad = || {
            let inputs = [dy, x, mean, var, gamma, beta, dbeta, dgamma];
            record1(r, Dgrad(self.0), &inputs)
        };
        vec![
            cx.wanted(0, dgrad),
            None,
            None,
            cx.wanted(3, || dgamma),
            cx.wanted(4, || dbeta),
        ]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (2.0 + self.0.flops()) * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Sums {
    const NAME: &'static str = "batch_norm_wgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 6 && shapes.inputs[0] == shapes.inputs[1],
            "takes dy and x of one shape, mean, var, gamma and beta, not {:?}",
            shapes.inputs
        );
        let c = per_channel(shapes.inputs[0], &shapes.inputs[2..])?;
        Ok(vec![c, c])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, x, c) = (io.input(0), io.input(1), io.input_shape(0).last());
        for k in 0..c {
            let channel = Channel::of(io, 2, k);
            let (mut dbeta, mut dgamma) = (T::zero(), T::zero());
            for (dy, x) in dy[k..].iter().zip(&x[k..]).step_by(c) {
                let dz = channel.inner(self.0, *dy, *x);
                dbeta += dz;
                dgamma += dz * channel.normalized(*x);
            }
            io.output(0)[k] = dbeta;
            io.output(1)[k] = dgamma;
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::sums(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::sums(self, cx.shapes)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::sums_workspace(shapes.inputs[0])
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (6.0 + self.0.flops()) * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Dgrad {
    const NAME: &'static str = "batch_norm_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 8 && shapes.inputs[0] == shapes.inputs[1],
            "takes dy and x of one shape, mean, var, gamma, beta and their two sums, not {:?}",
            shapes.inputs
        );
        per_channel(shapes.inputs[0], &shapes.inputs[2..])?;
        Ok(vec![shapes.inputs[0]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, x, shape) = (io.input(0), io.input(1), io.input_shape(0));
        let (c, count) = (shape.last(), T::of(shape.rows() as f64));
        for k in 0..c {
            let channel = Channel::of(io, 2, k);
            let (dbeta, dgamma) = (io.input(6)[k], io.input(7)[k]);
            let pairs = dy[k..].iter().zip(&x[k..]).step_by(c);
            for (dx, (dy, x)) in io.out()[k..].iter_mut().step_by(c).zip(pairs) {
                let dz = channel.inner(self.0, *dy, *x);
                let centered = dz - (dbeta + channel.normalized(*x) * dgamma) / count;
                *dx = channel.gamma * channel.inverse * centered;
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dgrad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dgrad(self, cx.shapes).into()
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::normalize_workspace(shapes.inputs[0])
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (8.0 + self.0.flops()) * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
