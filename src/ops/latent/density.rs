//! Log-densities of given latents, and of images under a Normal decoder.

use std::sync::Arc;

use super::gaussian::{Gaussian, Law, check, elements, per_sample};
use super::{cpu, cuda};
use crate::ensure_shape;
use crate::ops::{ACTIVATION_FLOPS, Backward, Op, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `log_p[n]` from `(params, x)`.
#[derive(Debug)]
pub(crate) struct LogProb {
    /// How parameters become a distribution.
    pub law: Law,
    /// Whether `x` is an image in [0, 1], whose density is that of `2 x - 1`.
    pub image: bool,
}

/// `(dparams, dx)` from `(params, x, dlog_p)`.
///
/// With `d = (x - mu) / sigma` and the slopes of the parameters: `dm = dlog_p d / sigma`, `ds = dlog_p (d^2 - 1) / sigma`,
/// `dx = -dlog_p d / sigma`, doubled for images.
#[derive(Debug)]
pub(super) struct LogProbGrad {
    /// As in [`LogProb`].
    pub law: Law,
    /// As in [`LogProb`].
    pub image: bool,
}

/// The point whose density is asked for.
fn point<T: Real>(image: bool, x: T) -> T {
    if image { x + x - T::one() } else { x }
}

impl Op for LogProb {
    const NAME: &'static str = "normal_log_prob";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[params, x] = shapes.inputs else {
            return Err(ShapeError("takes parameters and points".into()));
        };
        check(params, x)?;
        Ok(vec![per_sample(x)])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (params, x, shape) = (io.input(0), io.input(1), io.input_shape(0));
        let log_p = io.out();
        log_p.fill(T::zero());
        for e in elements(shape) {
            let p = Gaussian::new(self.law, params[e.mu], params[e.log_sigma]);
            log_p[e.n] += p.log_density((point(self.image, x[e.z]) - p.mu) / p.sigma);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::log_prob(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::log_prob(self, cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let op = LogProbGrad {
            law: self.law,
            image: self.image,
        };
        let inputs = [cx.inputs[0], cx.inputs[1], cx.cotangent(0)];
        let gradients = cx.recorder.record(Arc::new(op), &inputs, &[]);
        (0..2).map(|i| cx.wanted(i, || gradients[i])).collect()
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (4.0 * ACTIVATION_FLOPS + 8.0) * shapes.inputs[1].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for LogProbGrad {
    const NAME: &'static str = "normal_log_prob_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[params, x, dlog_p] = shapes.inputs else {
            return Err(ShapeError("takes parameters, points and dlog_p".into()));
        };
        check(params, x)?;
        ensure_shape!(dlog_p == per_sample(x), "dlog_p has shape {dlog_p}");
        Ok(vec![params, x])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (params, x, dlog_p) = (io.input(0), io.input(1), io.input(2));
        for e in elements(io.input_shape(0)) {
            let p = Gaussian::new(self.law, params[e.mu], params[e.log_sigma]);
            let d = (point(self.image, x[e.z]) - p.mu) / p.sigma;
            let scale = dlog_p[e.n] / p.sigma;
            let dparams = io.output(0);
            dparams[e.mu] = scale * d * p.mu_slope;
            dparams[e.log_sigma] = scale * (d * d - T::one()) * p.sigma_slope;
            let dx = -scale * d;
            io.output(1)[e.z] = if self.image { dx + dx } else { dx };
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::log_prob_grad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::log_prob_grad(self, cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (3.0 * ACTIVATION_FLOPS + 14.0) * shapes.outputs[1].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
