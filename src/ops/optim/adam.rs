//! Adam with the per-element gradient clip of stage 2 (from IGEBM, Du and Mordatch, 2019).
//!
//! From the second step on, with `v` and `t` as the previous step left them:
//! `bound = sigmas sqrt(v / (1 - beta2^t)) + floor; g = clamp(g, -bound, bound)`. Then, with this step's `t`,
//! `g += weight_decay p; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;`
//! `p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)`.

use std::sync::Arc;

use super::{Piece, arguments, check, correction, cuda, is_no_step, update};
use crate::device::cpu::simd::{self, Kernel, Simd};
use crate::device::cpu::slices::{load, store};
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// Bounds of a gradient element from its second moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Standard deviations allowed.
    pub sigmas: f64,
    /// Added to them.
    pub floor: f64,
}

impl Default for Clip {
    /// The published stage 2.
    fn default() -> Self {
        Clip {
            sigmas: 3.0,
            floor: 0.1,
        }
    }
}

/// Constants of Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// L2 coefficient.
    pub weight_decay: f64,
    /// The clip before the step, if any.
    pub clip: Option<Clip>,
}

impl Default for AdamSettings {
    /// The published stage 2.
    fn default() -> Self {
        AdamSettings {
            beta1: 0.99,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 3e-5,
            clip: Some(Clip::default()),
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct AdamClip(pub(super) AdamSettings);

/// The clip alone: outputs from `(g_0 .. g_k, v_0 .. v_k, t)`.
#[derive(Debug)]
pub(super) struct ClippedGradients {
    pub(super) clip: Clip,
    pub(super) beta2: f64,
}

/// Moves all parameters by one step.
///
/// `params`, `m` and `v` (first and second moments) are states, each list in the order and with the shapes of `grads`;
/// `learning_rate` and `t` (1 in the first step, 0 to leave everything as it is) are scalars.
#[expect(
    clippy::too_many_arguments,
    reason = "four lists, two scalars: no two of them belong together"
)]
pub fn adam_clip(
    r: &dyn Recorder,
    params: &[Var],
    grads: &[Var],
    m: &[Var],
    v: &[Var],
    learning_rate: Var,
    t: Var,
    settings: AdamSettings,
) {
    let (inputs, updates) = arguments([params, m, v], grads, learning_rate, t);
    r.record(Arc::new(AdamClip(settings)), &inputs, &updates);
}

/// What [`adam_clip`] makes of the gradients before it uses them, for those who want to look. Recorded before it: `v` and `t` mean
/// the same as there.
pub fn clipped_gradients(
    r: &dyn Recorder,
    grads: &[Var],
    v: &[Var],
    t: Var,
    clip: Clip,
    beta2: f64,
) -> Vec<Var> {
    let inputs = [grads, v, &[t]].concat();
    r.record(Arc::new(ClippedGradients { clip, beta2 }), &inputs, &[])
}

impl Clip {
    /// The factor of `sqrt(v)` in the bound at step `t`; `None` in the first step, which has no moments yet.
    fn scale<T: Real>(self, beta2: f64, t: T) -> Option<T> {
        let before = t - T::one();
        (before > T::zero()).then(|| T::of(self.sigmas) / correction(beta2, before).sqrt())
    }

    /// One element, clipped; `scale` as [`Clip::scale`] has it. What is not a number stays so.
    fn apply<T: Real>(self, g: T, v: T, scale: Option<T>) -> T {
        let Some(scale) = scale else { return g };
        let bound = scale * v.sqrt() + T::of(self.floor);
        if g > bound {
            bound
        } else if g < -bound {
            -bound
        } else {
            g
        }
    }
}

impl Op for AdamClip {
    const NAME: &'static str = "adam_clip";

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
        let correction = correction(s.beta2, t);
        let (params, moments) = io.updates.split_at_mut(count);
        let (first, second) = moments.split_at_mut(count);
        for (k, (p, _)) in params.iter_mut().enumerate() {
            let (g, m, v) = (io.inputs[k].0, &mut *first[k].0, &mut *second[k].0);
            for i in 0..p.len() {
                let g = s
                    .clip
                    .map_or(g[i], |clip| clip.apply(g[i], v[i], clip.scale(s.beta2, t)));
                let g = g + T::of(s.weight_decay) * p[i];
                m[i] = T::of(s.beta1) * m[i] + T::of(1.0 - s.beta1) * g;
                v[i] = T::of(s.beta2) * v[i] + T::of(1.0 - s.beta2) * g * g;
                p[i] -= rate * m[i] / ((v[i] / correction).sqrt() + T::of(s.eps));
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
        let root = correction(settings.beta2, t).sqrt();
        let clip = (settings.clip)
            .and_then(|clip| Some((clip.scale(settings.beta2, t)?, clip.floor as f32)));
        update(io, |piece| {
            let kernel = Native {
                settings,
                rate,
                root,
                clip,
                piece,
            };
            simd::dispatch(isa, kernel);
        });
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::adam_clip(self, cx.shapes).into()
    }

    /// It has no outputs, so nobody asks.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let elements: usize = shapes.inputs.iter().map(Shape::len).sum();
        Cost {
            flops: 20.0 * elements as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for ClippedGradients {
    const NAME: &'static str = "clipped_gradients";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let Some((t, tensors)) = shapes.inputs.split_last() else {
            return Err(ShapeError("takes gradients, second moments and t".into()));
        };
        let (grads, v) = tensors.split_at(tensors.len() / 2);
        ensure_shape!(
            grads == v && t.len() == 1,
            "takes gradients and second moments of equal shapes and t, not {:?}",
            shapes.inputs
        );
        Ok(grads.to_vec())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let count = io.outputs.len();
        let scale = self.clip.scale(self.beta2, io.input(2 * count)[0]);
        for (k, (clipped, _)) in io.outputs.iter_mut().enumerate() {
            let (g, v) = (io.inputs[k].0, io.inputs[count + k].0);
            for ((clipped, g), v) in clipped.iter_mut().zip(g).zip(v) {
                *clipped = self.clip.apply(*g, *v, scale);
            }
        }
    }

    /// Nobody is in a hurry to look at gradients.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::clipped_gradients(self, cx.shapes).into()
    }

    /// It looks at gradients; none flows through it.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }
}

/// The update of one piece.
struct Native<'a, 'b> {
    settings: AdamSettings,
    rate: f32,
    /// The root of `1 - beta2^t`.
    root: f32,
    /// Factor of `sqrt(v)` and summand of the bound.
    clip: Option<(f32, f32)>,
    piece: &'a mut Piece<'b>,
}

impl Kernel for Native<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let splat = |v: f64| s.splat(v as f32);
        let AdamSettings {
            beta1,
            beta2,
            eps,
            weight_decay,
            ..
        } = self.settings;
        let (decay, eps) = (splat(weight_decay), splat(eps));
        let (rate, to_unbiased) = (s.splat(self.rate), s.splat(1.0 / self.root));
        let (beta1, fresh1) = (splat(beta1), splat(1.0 - beta1));
        let (beta2, fresh2) = (splat(beta2), splat(1.0 - beta2));
        let zero = s.splat(0.0);
        let Piece {
            g,
            p,
            first,
            second,
        } = self.piece;
        for at in (0..p.len()).step_by(S::LANES) {
            let (old, v) = (load(s, p, at), load(s, second, at));
            let mut g = load(s, g, at);
            if let Some((scale, floor)) = self.clip {
                let bound = s.fma(s.splat(scale), s.sqrt(v), s.splat(floor));
                // `min` and `max` give their second operand where it is not a number.
                g = s.max(s.sub(zero, bound), s.min(bound, g));
            }
            let g = s.fma(decay, old, g);
            let m = s.fma(beta1, load(s, first, at), s.mul(fresh1, g));
            let v = s.fma(beta2, v, s.mul(fresh2, s.mul(g, g)));
            let divisor = s.fma(s.sqrt(v), to_unbiased, eps);
            store(s, first, at, m);
            store(s, second, at, v);
            store(s, p, at, s.fnma(rate, s.div(m, divisor), old));
        }
    }
}
