//! Reparameterised samples, alone or with their log-density.

use std::sync::Arc;

use super::gaussian::{Gaussian, Law, check, elements, per_sample};
use super::{cpu, cuda};
use crate::ensure_shape;
use crate::ops::{ACTIVATION_FLOPS, Backward, Op, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `z` or `(z, log_p)` from `(params, eps)`.
#[derive(Debug)]
pub(super) struct Sample {
    pub law: Law,
    /// Whether the log-density comes out too.
    pub density: bool,
}

/// `(dparams, deps)` from `(params, eps, dz, dlog_p?)`.
///
/// `deps = dz sigma - dlog_p eps`; with `dsigma = dz eps - dlog_p / sigma`, each times its slope: `dm = dz`, `ds = dsigma`.
#[derive(Debug)]
pub(super) struct SampleGrad {
    pub law: Law,
    /// Whether the log-density has a gradient too.
    pub density: bool,
}

impl Op for Sample {
    const NAME: &'static str = "latent_sample";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[params, eps] = shapes.inputs else {
            return Err(ShapeError("takes parameters and noise".into()));
        };
        check(params, eps)?;
        let mut outputs = vec![eps];
        outputs.extend(self.density.then(|| per_sample(eps)));
        Ok(outputs)
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (params, eps, shape) = (io.input(0), io.input(1), io.input_shape(0));
        if self.density {
            io.output(1).fill(T::zero());
        }
        for e in elements(shape) {
            let p = Gaussian::new(self.law, params[e.mu], params[e.log_sigma]);
            io.output(0)[e.z] = eps[e.z] * p.sigma + p.mu;
            if self.density {
                io.output(1)[e.n] += p.log_density(eps[e.z]);
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::sample(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::sample(self, cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let op = SampleGrad {
            law: self.law,
            density: self.density,
        };
        let mut inputs = cx.inputs.to_vec();
        inputs.extend((0..cx.outputs.len()).map(|i| cx.cotangent(i)));
        let gradients = cx.recorder.record(Arc::new(op), &inputs, &[]);
        (0..2).map(|i| cx.wanted(i, || gradients[i])).collect()
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (3.0 * ACTIVATION_FLOPS + 4.0) * shapes.outputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for SampleGrad {
    const NAME: &'static str = "latent_sample_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 3 + usize::from(self.density)
                && shapes.inputs[1] == shapes.inputs[2],
            "takes parameters, noise and the outputs' gradients, not {:?}",
            shapes.inputs
        );
        check(shapes.inputs[0], shapes.inputs[1])?;
        Ok(shapes.inputs[..2].to_vec())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (params, eps, dz) = (io.input(0), io.input(1), io.input(2));
        let dlog_p = self.density.then(|| io.input(3));
        for e in elements(io.input_shape(0)) {
            let p = Gaussian::new(self.law, params[e.mu], params[e.log_sigma]);
            let (eps, dz) = (eps[e.z], dz[e.z]);
            let dlog_p = dlog_p.map_or(T::zero(), |d| d[e.n]);
            let dparams = io.output(0);
            dparams[e.mu] = dz * p.mu_slope;
            dparams[e.log_sigma] = (dz * eps - dlog_p / p.sigma) * p.sigma_slope;
            io.output(1)[e.z] = dz * p.sigma - dlog_p * eps;
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::sample_grad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::sample_grad(self, cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (3.0 * ACTIVATION_FLOPS + 12.0) * shapes.outputs[1].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
