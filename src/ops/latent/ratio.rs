//! The ratio of a latent's densities: what a divergence is estimated by where flows leave no closed form.

use std::sync::Arc;

use super::cuda;
use super::gaussian::{Element, Gaussian, Law, elements};
use super::kl::Keep;
use crate::ensure_shape;
use crate::ops::{ACTIVATION_FLOPS, Backward, Op, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::{Real, cast};
use crate::tensor::Shape;

/// `log q(z_0) - log p(z)` from `(q, eps, p, z)`, with `z_0 = eps sigma_q + mu_q`.
///
/// The difference is taken for each element: both densities are much larger than it.
#[derive(Debug)]
pub(super) struct LogRatio(pub Keep);

/// `(dq, deps, dp, dz)` from `(q, eps, p, z, dratio)`.
///
/// With `d = (z - mu_p) / sigma_p` and the slopes of the parameters: `ds_q = -dratio / sigma_q`, `deps = -dratio eps`,
/// `dz = -dm_p = dratio d / sigma_p`, `ds_p = dratio (1 - d^2) / sigma_p`.
#[derive(Debug)]
pub(super) struct LogRatioGrad(Keep);

fn normal<T: Real>(params: &[T], e: Element) -> Gaussian<T> {
    Gaussian::new(Law::at(1.0), params[e.mu], params[e.log_sigma])
}

fn check(shapes: &[Shape]) -> Result<(), ShapeError> {
    let &[q, eps, p, z] = shapes else {
        return Err(ShapeError("takes q, its noise, p and the latents".into()));
    };
    ensure_shape!(
        q == p && eps == z,
        "takes parameters of one shape, not {q} and {p}, and noise and latents of one, not {eps} and {z}"
    );
    super::gaussian::check(q, z)
}

/// The ratios, accumulated in `A`.
fn ratios<T: Real, A: Real>(keep: Keep, io: &mut Io<'_, T>) {
    let [q, eps, p, z] = [0, 1, 2, 3].map(|i| io.input(i));
    let shape = io.input_shape(0);
    let half = T::of(0.5);
    let mut sums = vec![A::zero(); io.output_shape(0).len()];
    for e in elements(shape) {
        let (q, p) = (normal(q, e), normal(p, e));
        let d = (z[e.z] - p.mu) / p.sigma;
        let ratio = half * (d * d - eps[e.z] * eps[e.z]) + (p.sigma / q.sigma).ln();
        sums[keep.index(e)] += cast::<T, A>(ratio);
    }
    let scale = A::of(keep.scale(shape));
    for (to, sum) in io.out().iter_mut().zip(sums) {
        *to = cast(scale * sum);
    }
}

impl Op for LogRatio {
    const NAME: &'static str = "normal_log_ratio";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        check(shapes.inputs)?;
        Ok(vec![self.0.output(shapes.inputs[0])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        ratios::<T, T>(self.0, io);
    }

    /// Accumulates in `f64`: the elements cancel each other.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        ratios::<f32, f64>(self.0, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::log_ratio(self.0, cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let inputs = [cx.inputs, &[cx.cotangent(0)]].concat();
        let gradients = (cx.recorder).record(Arc::new(LogRatioGrad(self.0)), &inputs, &[]);
        (0..4).map(|i| cx.wanted(i, || gradients[i])).collect()
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (6.0 * ACTIVATION_FLOPS + 8.0) * shapes.inputs[1].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for LogRatioGrad {
    const NAME: &'static str = "normal_log_ratio_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let [forward @ .., dratio] = shapes.inputs else {
            return Err(ShapeError(
                "takes the arguments of the ratio and dratio".into(),
            ));
        };
        check(forward)?;
        ensure_shape!(
            *dratio == self.0.output(forward[0]),
            "dratio has shape {dratio}"
        );
        Ok(forward.to_vec())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let [q, eps, p, z, dratio] = [0, 1, 2, 3, 4].map(|i| io.input(i));
        let shape = io.input_shape(0);
        let scale = T::of(self.0.scale(shape));
        let [(dq, _), (deps, _), (dp, _), (dz, _)] = &mut *io.outputs else {
            unreachable!("four outputs by the shape rule");
        };
        for e in elements(shape) {
            let (q, p) = (normal(q, e), normal(p, e));
            let dratio = scale * dratio[self.0.index(e)];
            let d = (z[e.z] - p.mu) / p.sigma;
            dq[e.mu] = T::zero();
            dq[e.log_sigma] = -dratio / q.sigma * q.sigma_slope;
            deps[e.z] = -dratio * eps[e.z];
            dz[e.z] = dratio * d / p.sigma;
            dp[e.mu] = -dz[e.z] * p.mu_slope;
            dp[e.log_sigma] = dratio * (T::one() - d * d) / p.sigma * p.sigma_slope;
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::log_ratio_grad(self.0, cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (6.0 * ACTIVATION_FLOPS + 14.0) * shapes.inputs[1].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
