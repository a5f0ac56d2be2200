//! Batch normalisation over all axes but the channels, with the activation that follows it.
//!
//! Training: `y = act(gamma * (x - mean) / sqrt(var + eps) + beta)`, with mean and biased variance of this batch; the running
//! statistics move by 0.05 towards the mean and the *unbiased* variance. Evaluation: `y = act(scale * x + shift)` with
//! `scale = gamma / sqrt(running_var + eps)`, `shift = beta - scale * running_mean`, which hold as long as the parameters do.
//!
//! `x` and `y` `[.., c]`, everything else `[c]`. The moments, and the sums of the gradient, are kernels of their own: several
//! devices that share a batch reduce them in between.

pub mod cases;
mod cpu;
mod cuda;
mod eval;
mod train;

pub use super::activation::Activation;
pub use eval::{batch_norm_fold, scale_shift};
pub use train::batch_norm_train;

use super::Op;
use super::ShapeError;
use crate::ensure_shape;
use crate::real::Real;
use crate::tensor::Shape;

/// Added to a variance before its root is taken.
pub const EPSILON: f64 = 1e-5;

/// How far the running statistics move towards those of a batch.
pub const MOMENTUM: f64 = 0.05;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[
    train::Moments::NAME,
    train::Track::NAME,
    train::Normalize::NAME,
    train::Sums::NAME,
    train::Dgrad::NAME,
    eval::Fold::NAME,
    eval::FoldGrad::NAME,
    eval::ScaleShift::NAME,
    eval::ScaleShiftDgrad::NAME,
    eval::ScaleShiftSums::NAME,
];

/// `1 / sqrt(var + eps)`.
fn inverse_deviation<T: Real>(var: T) -> T {
    T::one() / (var + T::of(EPSILON)).sqrt()
}

/// Checks that `x` comes with tensors of one number per channel.
fn per_channel(x: Shape, others: &[Shape]) -> Result<Shape, ShapeError> {
    ensure_shape!(x.rank() >= 2, "takes a tensor [.., c], not {x}");
    let c = Shape::new(&[x.last()]);
    ensure_shape!(
        others.iter().all(|s| *s == c),
        "takes {c} numbers for the channels of {x}, not {others:?}"
    );
    Ok(c)
}
