//! Dual averaging of the step size (Hoffman and Gelman, "The No-U-Turn Sampler", JMLR 2014, section 3.2).
//!
//! The step of the paper is that of the noise, `s = sqrt(eta)`: with the mean acceptance `a` of all chains at step `t`,
//!
//! - `H <- (1 - 1/(t + t0)) H + (target - a) / (t + t0)`,
//! - `ln s = mu - sqrt(t) / gamma H`, the step of the next iteration,
//! - `m <- t^-kappa ln s + (1 - t^-kappa) m`, whose exponential is the step after the warm-up,
//!
//! with `mu = ln(10 s_0)` and the paper's constants.

use std::sync::Arc;

use super::{cuda, probability};
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

const GAMMA: f64 = 0.05;
const T0: f64 = 10.0;
const KAPPA: f64 = 0.75;

/// Numbers of the averages' state: `H`, `m`, `t`, `mu`.
pub const AVERAGES: usize = 4;

/// The averages before the first step, for a first step size eta.
pub fn averages_from(step_size: f64) -> [f32; AVERAGES] {
    [0.0, 0.0, 0.0, (10.0 * step_size.sqrt()).ln() as f32]
}

/// The step size eta that the averages have come to; `None` before the first step.
pub fn averaged_step_size(averages: &[f32]) -> Option<f64> {
    (averages[2] > 0.0).then(|| (2.0 * f64::from(averages[1])).exp())
}

/// Updates eta and the averages from `(ln alpha, adapting)`.
#[derive(Debug)]
pub(super) struct Adapt {
    /// The acceptance to come to.
    pub(super) target: f64,
}

/// Moves the scalar state `step_size` (eta) towards the acceptance `target`, from the `log_alpha` `[n]` of a step; `averages` is a state of
/// [`AVERAGES`] numbers. Nothing changes where the scalar `adapting` is 0.
pub fn adapt(
    r: &dyn Recorder,
    log_alpha: Var,
    adapting: Var,
    step_size: Var,
    averages: Var,
    target: f64,
) {
    let inputs = [log_alpha, adapting];
    r.record(Arc::new(Adapt { target }), &inputs, &[step_size, averages]);
}

impl Op for Adapt {
    const NAME: &'static str = "mala_adapt";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let good = matches!((shapes.inputs, shapes.updates), (&[a, on], &[eta, averages])
            if a.rank() == 1 && !a.is_empty() && on.len() == 1 && eta.len() == 1 && averages == Shape::new(&[AVERAGES]));
        ensure_shape!(
            good,
            "takes ln alpha [n] and a scalar, with a scalar state and one of {AVERAGES} numbers, not {:?} with {:?}",
            shapes.inputs,
            shapes.updates
        );
        Ok(Vec::new())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        if io.input(1)[0] == T::zero() {
            return;
        }
        let log_alpha = io.input(0);
        let total: f64 = log_alpha.iter().map(|a| probability(a.f64())).sum();
        let [h, m, t, mu] = [0, 1, 2, 3].map(|i| io.update(1)[i].f64());
        let t = t + 1.0;
        let share = 1.0 / (t + T0);
        let h = (1.0 - share) * h + share * (self.target - total / log_alpha.len() as f64);
        let log_step = mu - t.sqrt() / GAMMA * h;
        let weight = t.powf(-KAPPA);
        let m = weight * log_step + (1.0 - weight) * m;
        io.update(0)[0] = T::of((2.0 * log_step).exp());
        let averages = io.update(1);
        for (to, value) in averages.iter_mut().zip([h, m, t]) {
            *to = T::of(value);
        }
    }

    /// One number a chain.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::adapt(self, cx.shapes).into()
    }

    /// It looks on; no gradient flows through it.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: 5.0 * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
