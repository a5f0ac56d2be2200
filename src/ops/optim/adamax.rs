//! Adamax as NVAE uses it: no correction of the infinity norm, and eps inside its maximum.
//!
//! `g += weight_decay p; m = beta1 m + (1 - beta1) g; u = max(beta2 u, |g| + eps); p -= lr / (1 - beta1^t) m / u`.

use std::sync::Arc;

use super::{Piece, arguments, check, correction, cuda, is_no_step, update};
use crate::device::cpu::simd::{self, Kernel, Simd};
use crate::device::cpu::slices::{load, store};
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// Constants of Adamax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamaxSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the infinity norm.
    pub beta2: f64,
    /// Added to `|g|`.
    pub eps: f64,
    /// L2 coefficient.
    pub weight_decay: f64,
}

impl Default for AdamaxSettings {
    /// The published stage 1.
    fn default() -> Self {
        AdamaxSettings {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-3,
            weight_decay: 3e-4,
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Adamax(pub(super) AdamaxSettings);

/// Moves all parameters by one step.
///
/// `params`, `m` (first moments) and `u` (infinity norms) are states, each list in the order and with the shapes of `grads`;
/// `learning_rate` and `t` (1 in the first step, 0 to leave everything as it is) are scalars.
#[expect(
    clippy::too_many_arguments,
    reason = "four lists, two scalars: no two of them belong together"
)]
pub fn adamax(
    r: &dyn Recorder,
    params: &[Var],
    grads: &[Var],
    m: &[Var],
    u: &[Var],
    learning_rate: Var,
    t: Var,
    settings: AdamaxSettings,
) {
    let (inputs, updates) = arguments([params, m, u], grads, learning_rate, t);
    r.record(Arc::new(Adamax(settings)), &inputs, &updates);
}

impl Op for Adamax {
    const NAME: &'static str = "adamax";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        check(shapes)?;
        Ok(Vec::new())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let s = self.0;
        let count = io.updates.len() / 3;
        let (learning_rate, t) = (io.input(count)[0], io.input(count + 1)[0]);
        if is_no_step(t) {
            return;
        }
        let rate = learning_rate / correction(s.beta1, t);
        let (params, moments) = io.updates.split_at_mut(count);
        let (first, norms) = moments.split_at_mut(count);
        for (k, (p, _)) in params.iter_mut().enumerate() {
            let (g, m, u) = (io.inputs[k].0, &mut *first[k].0, &mut *norms[k].0);
            for i in 0..p.len() {
                let g = g[i] + T::of(s.weight_decay) * p[i];
                m[i] = T::of(s.beta1) * m[i] + T::of(1.0 - s.beta1) * g;
                u[i] = (T::of(s.beta2) * u[i]).max(g.abs() + T::of(s.eps));
                p[i] -= rate * m[i] / u[i];
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        let (settings, isa) = (self.0, simd::isa());
        let count = io.updates.len() / 3;
        let (learning_rate, t) = (io.input(count)[0], io.input(count + 1)[0]);
        if is_no_step(t) {
            return;
        }
        let rate = learning_rate / correction(settings.beta1, t);
        update(io, |piece| {
            let kernel = Native {
                settings,
                rate,
                piece,
            };
            simd::dispatch(isa, kernel);
        });
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::adamax(self, cx.shapes).into()
    }

    /// It has no outputs, so nobody asks.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let elements: usize = shapes.inputs.iter().map(Shape::len).sum();
        Cost {
            flops: 11.0 * elements as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

/// The update of one piece.
struct Native<'a, 'b> {
    settings: AdamaxSettings,
    rate: f32,
    piece: &'a mut Piece<'b>,
}

impl Kernel for Native<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let splat = |v: f64| s.splat(v as f32);
        let AdamaxSettings {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.settings;
        let (decay, eps, rate) = (splat(weight_decay), splat(eps), s.splat(self.rate));
        let (beta1, fresh, beta2) = (splat(beta1), splat(1.0 - beta1), splat(beta2));
        let Piece {
            g,
            p,
            first,
            second,
        } = self.piece;
        for at in (0..p.len()).step_by(S::LANES) {
            let old = load(s, p, at);
            let g = s.fma(decay, old, load(s, g, at));
            let m = s.fma(beta1, load(s, first, at), s.mul(fresh, g));
            let u = s.max(s.mul(beta2, load(s, second, at)), s.add(s.abs(g), eps));
            store(s, first, at, m);
            store(s, second, at, u);
            store(s, p, at, s.fnma(rate, s.div(m, u), old));
        }
    }
}
