//! The analytic divergence between two Normals.

use std::sync::Arc;

use super::gaussian::{Element, Gaussian, Law, elements, per_sample};
use super::{cpu, cuda};
use crate::ensure_shape;
use crate::ops::{ACTIVATION_FLOPS, Backward, Op, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// Which axis of the divergence is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// `[n]`: sums over everything else.
    Samples,
    /// `[c]`: sums over positions, the mean over samples.
    Channels,
}

/// The divergence from `(q, p)`.
#[derive(Debug)]
pub(super) struct Divergence(pub Keep);

/// `(dq, dp)` from `(q, p, dkl)`.
///
/// With `d = (mu_q - mu_p) / sigma_p` and the slopes of the parameters: `dm_q = -dm_p = dkl d / sigma_p`,
/// `ds_q = dkl (sigma_q / sigma_p^2 - 1 / sigma_q)`, `ds_p = dkl (1 - d^2 - (sigma_q / sigma_p)^2) / sigma_p`.
#[derive(Debug)]
pub(super) struct DivergenceGrad(pub Keep);

impl Keep {
    /// Where an element's divergence goes.
    pub fn index(self, e: Element) -> usize {
        match self {
            Keep::Samples => e.n,
            Keep::Channels => e.c,
        }
    }

    pub fn scale(self, params: Shape) -> f64 {
        match self {
            Keep::Samples => 1.0,
            Keep::Channels => 1.0 / params[0] as f64,
        }
    }

    pub fn output(self, params: Shape) -> Shape {
        match self {
            Keep::Samples => per_sample(params),
            Keep::Channels => Shape::new(&[params.last() / 2]),
        }
    }
}

fn normal<T: Real>(params: &[T], e: Element) -> Gaussian<T> {
    Gaussian::new(Law::at(1.0), params[e.mu], params[e.log_sigma])
}

fn check(q: Shape, p: Shape) -> Result<(), ShapeError> {
    ensure_shape!(
        q == p && q.rank() >= 2 && q.last().is_multiple_of(2),
        "takes parameters [n, .., 2 c] of one shape, not {q} and {p}"
    );
    Ok(())
}

impl Op for Divergence {
    const NAME: &'static str = "normal_kl";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[q, p] = shapes.inputs else {
            return Err(ShapeError("takes the parameters of q and p".into()));
        };
        check(q, p)?;
        Ok(vec![self.0.output(q)])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (q, p, shape) = (io.input(0), io.input(1), io.input_shape(0));
        let scale = T::of(self.0.scale(shape));
        let half = T::of(0.5);
        let kl = io.out();
        kl.fill(T::zero());
        for e in elements(shape) {
            let (q, p) = (normal(q, e), normal(p, e));
            let d = (q.mu - p.mu) / p.sigma;
            let ratio = q.sigma / p.sigma;
            kl[self.0.index(e)] += scale * (half * (d * d + ratio * ratio) - half - ratio.ln());
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::divergence(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::divergence(self.0, cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let inputs = [cx.inputs[0], cx.inputs[1], cx.cotangent(0)];
        let op = Arc::new(DivergenceGrad(self.0));
        let gradients = cx.recorder.record(op, &inputs, &[]);
        (0..2).map(|i| cx.wanted(i, || gradients[i])).collect()
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (7.0 * ACTIVATION_FLOPS + 8.0) * (shapes.inputs[0].len() / 2) as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for DivergenceGrad {
    const NAME: &'static str = "normal_kl_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[q, p, dkl] = shapes.inputs else {
            return Err(ShapeError("takes the parameters of q and p and dkl".into()));
        };
        check(q, p)?;
        ensure_shape!(dkl == self.0.output(q), "dkl has shape {dkl}");
        Ok(vec![q, p])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (q, p, dkl, shape) = (io.input(0), io.input(1), io.input(2), io.input_shape(0));
        let scale = T::of(self.0.scale(shape));
        for e in elements(shape) {
            let (q, p) = (normal(q, e), normal(p, e));
            let dkl = scale * dkl[self.0.index(e)];
            let d = (q.mu - p.mu) / p.sigma;
            let ratio = q.sigma / p.sigma;
            let dmu = dkl * d / p.sigma;
            let dq = io.output(0);
            dq[e.mu] = dmu * q.mu_slope;
            dq[e.log_sigma] = dkl * (ratio / p.sigma - T::one() / q.sigma) * q.sigma_slope;
            let dp = io.output(1);
            dp[e.mu] = -dmu * p.mu_slope;
            dp[e.log_sigma] = dkl * (T::one() - d * d - ratio * ratio) / p.sigma * p.sigma_slope;
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::divergence_grad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::divergence_grad(self.0, cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (6.0 * ACTIVATION_FLOPS + 20.0) * (shapes.inputs[0].len() / 2) as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
