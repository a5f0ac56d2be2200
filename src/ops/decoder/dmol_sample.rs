//! Samples and means of a mixture of logistics.
//!
//! A sample takes the component that maximises `pi / t - ln(-ln u)` and the values `mean + exp(log_scale) / t logit(u')`: the
//! published sampler divides by the temperature `t`. Each colour is clamped to [-1, 1] before it shifts the next.

use super::cuda;
use super::logistic::{LOG_SCALE_FLOOR, Layout};
use super::normal::clamp_unit;
use crate::ensure_shape;
use crate::ops::loss::log_sum_exp;
use crate::ops::{ACTIVATION_FLOPS, Backward, Op, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `x` from `(logits, u_gumbel, u)`.
#[derive(Debug)]
pub(super) struct DmolSample {
    pub temperature: f64,
}

/// `x` from `logits`.
#[derive(Debug)]
pub(super) struct DmolMean;

/// The image values of a pixel from colours that do not know each other yet and coefficients.
fn chain<T: Real>(x: [T; 3], c: [T; 3]) -> [T; 3] {
    let red = clamp_unit(x[0]);
    let green = clamp_unit(x[1] + c[0] * red);
    let blue = clamp_unit(x[2] + c[1] * red + c[2] * green);
    let half = T::of(0.5);
    [red, green, blue].map(|y| y * half + half)
}

fn check(logits: Shape) -> Result<usize, ShapeError> {
    ensure_shape!(
        logits.rank() == 4 && logits.last() >= 10 && logits.last().is_multiple_of(10),
        "takes logits [n, h, w, 10 m], not {logits}"
    );
    Ok(logits.last() / 10)
}

impl Op for DmolSample {
    const NAME: &'static str = "dmol_sample";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[logits, u_gumbel, u] = shapes.inputs else {
            return Err(ShapeError(
                "takes logits and two tensors of uniforms".into(),
            ));
        };
        let components = check(logits)?;
        ensure_shape!(
            u_gumbel == logits.with_last(components) && u == logits.with_last(3),
            "logits {logits} take uniforms {} and {}, not {u_gumbel} and {u}",
            logits.with_last(components),
            logits.with_last(3)
        );
        Ok(vec![u])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (logits, u_gumbel, u) = (io.input(0), io.input(1), io.input(2));
        let channels = io.input_shape(0).last();
        let at = Layout::of_channels(channels);
        let t = T::of(self.temperature);
        let uniforms = u_gumbel.chunks_exact(at.components).zip(u.chunks_exact(3));
        let pixels = logits.chunks_exact(channels).zip(uniforms);
        for (x, (logits, (u_gumbel, u))) in io.out().chunks_exact_mut(3).zip(pixels) {
            let score = |k: usize| logits[k] / t - (-u_gumbel[k].ln()).ln();
            let k =
                (1..at.components).fold(0, |best, k| if score(k) > score(best) { k } else { best });
            let value = |colour: usize| {
                let scale = logits[at.log_scale(colour, k)]
                    .max(T::of(LOG_SCALE_FLOOR))
                    .exp();
                let u = u[colour];
                logits[at.mean(colour, k)] + scale / t * (u.ln() - (T::one() - u).ln())
            };
            let c = [0, 1, 2].map(|colour| logits[at.coefficient(colour, k)].tanh());
            x.copy_from_slice(&chain([0, 1, 2].map(value), c));
        }
    }

    /// Runs once an image, not once a step: the plain loop will do.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dmol_sample(self, cx.shapes).into()
    }

    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        panic!("{} has no gradient", Self::NAME);
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let (components, values) = (shapes.inputs[1].len(), shapes.outputs[0].len());
        Cost {
            flops: (2.0 * components as f64 + 4.0 * values as f64) * ACTIVATION_FLOPS,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for DmolMean {
    const NAME: &'static str = "dmol_mean";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[logits] = shapes.inputs else {
            return Err(ShapeError("takes logits".into()));
        };
        check(logits)?;
        Ok(vec![logits.with_last(3)])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (logits, channels) = (io.input(0), io.input_shape(0).last());
        let at = Layout::of_channels(channels);
        let pixels = logits.chunks_exact(channels);
        for (x, logits) in io.out().chunks_exact_mut(3).zip(pixels) {
            let mass = log_sum_exp(logits[..at.components].iter().copied());
            let average = |number: &dyn Fn(usize) -> T| -> T {
                (0..at.components)
                    .map(|k| (logits[k] - mass).exp() * number(k))
                    .sum()
            };
            let means = [0, 1, 2].map(|colour| average(&|k| logits[at.mean(colour, k)]));
            let c = [0, 1, 2].map(|colour| average(&|k| logits[at.coefficient(colour, k)].tanh()));
            x.copy_from_slice(&chain(means, c));
        }
    }

    /// Runs once an image, not once a step: the plain loop will do.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dmol_mean(cx.shapes).into()
    }

    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        panic!("{} has no gradient", Self::NAME);
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: ACTIVATION_FLOPS * 0.5 * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
