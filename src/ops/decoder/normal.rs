//! Samples and means of the Normal decoder.

use std::sync::Arc;

use super::{cpu, cuda};
use crate::ensure_shape;
use crate::ops::latent::gaussian::{Gaussian, Law, check, elements};
use crate::ops::unary::Function;
use crate::ops::{
    ACTIVATION_FLOPS, Backward, Op, ShapeError, Shapes, Var, compulsory_bytes, record1,
};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `x = clamp(mu + sigma eps, -1, 1) / 2 + 1 / 2` from `(params, eps)`.
#[derive(Debug)]
pub(super) struct NormalSample;

/// `(dparams, deps)` from `(params, eps, dx)`; zero where the sample lies strictly outside [-1, 1].
#[derive(Debug)]
pub(super) struct NormalSampleGrad;

/// `mu` from `params`.
#[derive(Debug)]
pub(super) struct NormalMean;

/// `dparams` from `(params, dmu)`.
#[derive(Debug)]
pub(super) struct NormalMeanGrad;

/// Into [-1, 1]; what is not a number stays so.
pub(super) fn clamp_unit<T: Real>(x: T) -> T {
    if x > T::one() {
        T::one()
    } else if x < -T::one() {
        -T::one()
    } else {
        x
    }
}

impl Op for NormalSample {
    const NAME: &'static str = "normal_sample";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[params, eps] = shapes.inputs else {
            return Err(ShapeError("takes parameters and noise".into()));
        };
        check(params, eps)?;
        Ok(vec![eps])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (params, eps, shape) = (io.input(0), io.input(1), io.input_shape(0));
        let half = T::of(0.5);
        let x = io.out();
        for e in elements(shape) {
            let p = Gaussian::new(Law::at(1.0), params[e.mu], params[e.log_sigma]);
            x[e.z] = clamp_unit(p.mu + p.sigma * eps[e.z]) * half + half;
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::normal_sample(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::normal_sample(cx.shapes).into()
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let inputs = [cx.inputs[0], cx.inputs[1], cx.cotangent(0)];
        let gradients = (cx.recorder).record(Arc::new(NormalSampleGrad), &inputs, &[]);
        (0..2).map(|i| cx.wanted(i, || gradients[i])).collect()
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (3.0 * ACTIVATION_FLOPS + 6.0) * shapes.outputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for NormalSampleGrad {
    const NAME: &'static str = "normal_sample_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[params, eps, dx] = shapes.inputs else {
            return Err(ShapeError("takes parameters, noise and dx".into()));
        };
        check(params, eps)?;
        ensure_shape!(dx == eps, "dx has shape {dx}, the noise {eps}");
        Ok(vec![params, eps])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (params, eps, dx) = (io.input(0), io.input(1), io.input(2));
        for e in elements(io.input_shape(0)) {
            let p = Gaussian::new(Law::at(1.0), params[e.mu], params[e.log_sigma]);
            let eps = eps[e.z];
            let inside = (p.mu + p.sigma * eps).abs() <= T::one();
            let dz = if inside {
                T::of(0.5) * dx[e.z]
            } else {
                T::zero()
            };
            let dparams = io.output(0);
            dparams[e.mu] = dz * p.mu_slope;
            dparams[e.log_sigma] = dz * eps * p.sigma_slope;
            io.output(1)[e.z] = dz * p.sigma;
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::normal_sample_grad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::normal_sample_grad(cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (3.0 * ACTIVATION_FLOPS + 10.0) * shapes.outputs[1].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for NormalMean {
    const NAME: &'static str = "normal_mean";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[params] = shapes.inputs else {
            return Err(ShapeError("takes parameters".into()));
        };
        let mean = params.with_last(params.last() / 2);
        check(params, mean)?;
        Ok(vec![mean])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (params, shape) = (io.input(0), io.input_shape(0));
        let mu = io.out();
        for e in elements(shape) {
            mu[e.z] = Function::SoftClamp.value(params[e.mu]);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::normal_mean(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::normal_mean(cx.shapes).into()
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![cx.wanted(0, || {
            record1(
                cx.recorder,
                NormalMeanGrad,
                &[cx.inputs[0], cx.cotangent(0)],
            )
        })]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: ACTIVATION_FLOPS * shapes.outputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for NormalMeanGrad {
    const NAME: &'static str = "normal_mean_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[params, dmu] = shapes.inputs else {
            return Err(ShapeError("takes parameters and dmu".into()));
        };
        check(params, dmu)?;
        Ok(vec![params])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (params, dmu, shape) = (io.input(0), io.input(1), io.input_shape(0));
        let dparams = io.out();
        for e in elements(shape) {
            dparams[e.mu] = dmu[e.z] * Function::SoftClamp.derivative(params[e.mu]);
            dparams[e.log_sigma] = T::zero();
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::normal_mean_grad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::normal_mean_grad(cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (ACTIVATION_FLOPS + 1.0) * shapes.inputs[1].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::normal_sample;
    use crate::device::Device;
    use crate::device::host::Cpu;
    use crate::program::Noise;
    use crate::tape::Tape;

    /// The sample of a decoder with mean zero and sigma 1.01, and its gradient by the noise.
    fn sample_and_gradient(eps: f32) -> (f32, f32) {
        let tape = Tape::new();
        let params = tape.feed("params", [1, 1, 1, 2]);
        let noise = tape.feed("eps", [1, 1, 1, 1]);
        let x = normal_sample(&tape, params, noise);
        tape.output("x", x);
        tape.output("deps", tape.grad(x, &[noise])[0]);
        let mut cpu = Cpu::new();
        let program = cpu.prepare(tape.plan("test")).unwrap();
        cpu.feed(program, "eps", &[eps]).unwrap();
        cpu.run(program, Noise::default()).unwrap();
        let fetch = |cpu: &mut Cpu, name: &str| cpu.fetch(program, name).unwrap()[0];
        (fetch(&mut cpu, "x"), fetch(&mut cpu, "deps"))
    }

    #[test]
    fn the_gradient_is_whole_at_and_inside_the_bounds_and_zero_strictly_outside() {
        // 1.01 * EDGE is 1 exactly in f32; the next number up is outside.
        const EDGE: f32 = 0.990_099;
        assert_eq!(1.01f32 * EDGE, 1.0);
        assert_eq!(sample_and_gradient(EDGE), (1.0, 0.505));
        assert_eq!(sample_and_gradient(-EDGE), (0.0, 0.505));
        assert_eq!(sample_and_gradient(0.0), (0.5, 0.505));
        assert_eq!(sample_and_gradient(0.990_1), (1.0, 0.0));
        assert_eq!(sample_and_gradient(-0.990_1), (0.0, 0.0));
    }
}
