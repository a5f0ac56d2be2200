//! Data-dependent initialisation of a weight-normalised convolution.
//!
//! From `y = conv(x, w / (|w| + 1e-5))` without bias, over all but the channel axis: `m` the mean, `s` five times the standard
//! deviation with the unbiased estimator; then `bias = -m / (s + 1e-5)` and `log_weight_norm = -ln(s + 1e-5)`.

pub mod cases;
mod cuda;

use std::sync::Arc;

use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[DataInit::NAME];

/// How many standard deviations of `y` become one.
const SPREAD: f64 = 5.0;
/// Added to the spread before it divides.
const FLOOR: f64 = 1e-5;

/// Updates `(log_weight_norm)` or `(log_weight_norm, bias)` from `y`.
#[derive(Debug)]
struct DataInit;

/// Sets a convolution's states from what it makes of the first batch.
///
/// `y` `[.., c]` is the convolution's output without bias, computed with [`super::weight_norm::normalized`] weights; `bias` and
/// `log_weight_norm` are states `[c]`. Nodes recorded later see the new values.
pub fn data_init(r: &dyn Recorder, y: Var, bias: Option<Var>, log_weight_norm: Var) {
    let mut updates = vec![log_weight_norm];
    updates.extend(bias);
    r.record(Arc::new(DataInit), &[y], &updates);
}

impl Op for DataInit {
    const NAME: &'static str = "data_init";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 1 && shapes.inputs[0].rows() >= 2,
            "takes a tensor of at least two positions, not {:?}",
            shapes.inputs
        );
        let channels = Shape::new(&[shapes.inputs[0].last()]);
        ensure_shape!(
            matches!(shapes.updates.len(), 1 | 2) && shapes.updates.iter().all(|s| *s == channels),
            "updates states of shape {channels}, not {:?}",
            shapes.updates
        );
        Ok(Vec::new())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (y, shape) = (io.input(0), io.input_shape(0));
        let (channels, rows) = (shape.last(), T::of(shape.rows() as f64));
        for c in 0..channels {
            let column = y.iter().skip(c).step_by(channels).copied();
            let mean = column.clone().sum::<T>() / rows;
            let squares: T = column.map(|y| (y - mean) * (y - mean)).sum();
            let scale = T::of(SPREAD) * (squares / (rows - T::one())).sqrt() + T::of(FLOOR);
            io.update(0)[c] = -scale.ln();
            if let Some((bias, _)) = io.updates.get_mut(1) {
                bias[c] = -mean / scale;
            }
        }
    }

    /// Runs once in a training: only exactness matters. Two passes over rows, sums in `f64`.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        let (y, shape) = (io.input(0), io.input_shape(0));
        let (channels, rows) = (shape.last(), shape.rows() as f64);
        let mut mean = vec![0.0f64; channels];
        let mut squares = vec![0.0f64; channels];
        for row in y.chunks_exact(channels) {
            (mean.iter_mut().zip(row)).for_each(|(sum, y)| *sum += f64::from(*y));
        }
        mean.iter_mut().for_each(|sum| *sum /= rows);
        for row in y.chunks_exact(channels) {
            for ((sum, y), mean) in squares.iter_mut().zip(row).zip(&mean) {
                *sum += (f64::from(*y) - mean).powi(2);
            }
        }
        for (c, (mean, squares)) in mean.into_iter().zip(squares).enumerate() {
            let scale = SPREAD * (squares / (rows - 1.0)).sqrt() + FLOOR;
            io.update(0)[c] = -scale.ln() as f32;
            if let Some((bias, _)) = io.updates.get_mut(1) {
                bias[c] = (-mean / scale) as f32;
            }
        }
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::data_init(cx.shapes)
    }

    /// It has no outputs, so nobody asks.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: 4.0 * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
