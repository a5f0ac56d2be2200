//! The log-probability of an image under a mixture of discretised logistics.
//!
//! For a pixel and component `k`, with `y = 2 x - 1` and coefficients `c = tanh(.)`: the means of green and blue depend on the
//! true values before them, `m_G = mean_1 + c_0 y_R`, `m_B = mean_2 + c_1 y_R + c_2 y_G`. Colours are independent given those;
//! `log_p = logsumexp_k(log_softmax(pi)_k + sum over colours)`, summed over pixels.

use super::logistic::{Bin, Layout, bin};
use super::{cpu, cuda};
use crate::ensure_shape;
use crate::ops::loss::log_sum_exp;
use crate::ops::{
    ACTIVATION_FLOPS, Backward, Op, ShapeError, Shapes, Var, compulsory_bytes, record1,
};
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// `log_p[n]` from `(logits, x)`.
#[derive(Debug)]
pub(super) struct Dmol {
    pub bits: u32,
}

/// `dlogits` from `(logits, x, dlog_p)`.
#[derive(Debug)]
pub(super) struct DmolGrad {
    pub bits: u32,
}

/// FLOPs of one component of one colour: five logistic functions or their kin, and some arithmetic.
const BIN_FLOPS: f64 = 5.0 * ACTIVATION_FLOPS + 20.0;

/// The number of steps between the lowest and the highest value.
fn levels<T: Real>(bits: u32) -> T {
    T::of(f64::from(bits).exp2() - 1.0)
}

/// A pixel's values in [-1, 1].
fn pixel<T: Real>(x: &[T]) -> [T; 3] {
    [0, 1, 2].map(|c| x[c] + x[c] - T::one())
}

/// The bins of one component's colours, and its coefficients.
fn component<T: Real>(logits: &[T], y: [T; 3], k: usize, levels: T) -> ([Bin<T>; 3], [T; 3]) {
    let at = Layout::of_channels(logits.len());
    let c = [0, 1, 2].map(|colour| logits[at.coefficient(colour, k)].tanh());
    let shift = [T::zero(), c[0] * y[0], c[1] * y[0] + c[2] * y[1]];
    let bins = [0, 1, 2].map(|colour| {
        let mean = logits[at.mean(colour, k)] + shift[colour];
        bin(y[colour], mean, logits[at.log_scale(colour, k)], levels)
    });
    (bins, c)
}

fn score<T: Real>(logits: &[T], k: usize, bins: &[Bin<T>; 3]) -> T {
    logits[k] + bins[0].log_p + bins[1].log_p + bins[2].log_p
}

/// The log-probability of one pixel.
pub(super) fn log_prob<T: Real>(bits: u32, logits: &[T], x: &[T]) -> T {
    let components = Layout::of_channels(logits.len()).components;
    let y = pixel(x);
    let scores: Vec<T> = (0..components)
        .map(|k| score(logits, k, &component(logits, y, k, levels(bits)).0))
        .collect();
    log_sum_exp(scores.iter().copied()) - log_sum_exp(logits[..components].iter().copied())
}

/// The gradient of `dlog_p` times the log-probability of one pixel.
pub(super) fn gradient<T: Real>(bits: u32, logits: &[T], x: &[T], dlog_p: T, dlogits: &mut [T]) {
    let at = Layout::of_channels(logits.len());
    let y = pixel(x);
    let components: Vec<_> = (0..at.components)
        .map(|k| component(logits, y, k, levels(bits)))
        .collect();
    let scores: Vec<T> = (components.iter().enumerate())
        .map(|(k, (bins, _))| score(logits, k, bins))
        .collect();
    let evidence = log_sum_exp(scores.iter().copied());
    let mass = log_sum_exp(logits[..at.components].iter().copied());
    for (k, (bins, c)) in components.iter().enumerate() {
        let responsibility = (scores[k] - evidence).exp();
        dlogits[k] = dlog_p * (responsibility - (logits[k] - mass).exp());
        let weight = dlog_p * responsibility;
        for (colour, bin) in bins.iter().enumerate() {
            dlogits[at.mean(colour, k)] = weight * bin.by_mean;
            dlogits[at.log_scale(colour, k)] = weight * bin.by_log_scale;
        }
        let [_, green, blue] = bins.map(|bin| weight * bin.by_mean);
        let slopes = [green * y[0], blue * y[0], blue * y[1]];
        for (colour, slope) in slopes.into_iter().enumerate() {
            let tanh_slope = T::one() - c[colour] * c[colour];
            dlogits[at.coefficient(colour, k)] = slope * tanh_slope;
        }
    }
}

fn check(logits: Shape, x: Shape) -> Result<(), ShapeError> {
    ensure_shape!(
        logits.rank() == 4
            && logits.last() >= 10
            && logits.last().is_multiple_of(10)
            && logits.with_last(3) == x,
        "takes logits [n, h, w, 10 m] and RGB images [n, h, w, 3], not {logits} and {x}"
    );
    Ok(())
}

fn cost(shapes: Shapes<'_>) -> Cost {
    let bins = shapes.inputs[1].len() * (shapes.inputs[0].last() / 10);
    Cost {
        flops: BIN_FLOPS * bins as f64,
        bytes: compulsory_bytes(shapes),
    }
}

impl Op for Dmol {
    const NAME: &'static str = "dmol_log_prob";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[logits, x] = shapes.inputs else {
            return Err(ShapeError("takes logits and images".into()));
        };
        check(logits, x)?;
        Ok(vec![Shape::new(&[x[0]])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (logits, x, shape) = (io.input(0), io.input(1), io.input_shape(0));
        let log_p = io.out();
        log_p.fill(T::zero());
        let positions = (shape[1] * shape[2]).max(1);
        let pixels = logits.chunks_exact(shape.last()).zip(x.chunks_exact(3));
        for (p, (logits, x)) in pixels.enumerate() {
            log_p[p / positions] += log_prob(self.bits, logits, x);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dmol(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dmol(self, cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        assert!(
            !cx.wants[1],
            "{} has no gradient with respect to images",
            Self::NAME
        );
        let op = DmolGrad { bits: self.bits };
        let inputs = [cx.inputs[0], cx.inputs[1], cx.cotangent(0)];
        vec![Some(record1(cx.recorder, op, &inputs)), None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        cost(shapes)
    }
}

impl Op for DmolGrad {
    const NAME: &'static str = "dmol_log_prob_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[logits, x, dlog_p] = shapes.inputs else {
            return Err(ShapeError("takes logits, images and dlog_p".into()));
        };
        check(logits, x)?;
        ensure_shape!(dlog_p == Shape::new(&[x[0]]), "dlog_p has shape {dlog_p}");
        Ok(vec![logits])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (logits, x, dlog_p) = (io.input(0), io.input(1), io.input(2));
        let (shape, bits) = (io.input_shape(0), self.bits);
        let channels = shape.last();
        let positions = (shape[1] * shape[2]).max(1);
        let pixels = logits.chunks_exact(channels).zip(x.chunks_exact(3));
        let gradients = io.out().chunks_exact_mut(channels);
        for (p, (dlogits, (logits, x))) in gradients.zip(pixels).enumerate() {
            gradient(bits, logits, x, dlog_p[p / positions], dlogits);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dmol_grad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dmol_grad(self, cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        cost(shapes)
    }
}
