//! Weight normalisation of convolution weights: with `v = w * mask` and `o` the output channel (the innermost axis),
//! `y[.., o] = v[.., o] exp(log_weight_norm[o]) / (|v[.., o]| + 1e-5)`, the norm over one filter.
//!
//! Backward, with `gain` the factor above and `dot = sum dy v` of a filter: `dlog_weight_norm = gain dot`,
//! `dw = mask (gain dy - gain dot / ((|v| + 1e-5) |v|) v)`; a filter of zeros takes the first term alone.

pub mod cases;
mod cpu;
mod cuda;

use std::sync::Arc;

use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[WeightNorm::NAME, WeightNormGrad::NAME];

/// Added to a filter's norm.
const FLOOR: f64 = 1e-5;

/// Which optional tensors follow the weight among the inputs, in this order.
#[derive(Clone, Copy, Debug)]
struct Parts {
    log_weight_norm: bool,
    mask: bool,
}

/// `y` from `(w, log_weight_norm?, mask?)`.
#[derive(Debug)]
struct WeightNorm(Parts);

/// `(dw, dlog_weight_norm?)` from `(dy, w, log_weight_norm?, mask?)`.
#[derive(Debug)]
struct WeightNormGrad(Parts);

/// The effective weight of a convolution.
///
/// `w` `[.., cout]`, `log_weight_norm` `[cout]`; `mask`, of `w`'s shape and without a gradient, is for autoregressive convolutions.
pub fn weight_norm(r: &dyn Recorder, w: Var, log_weight_norm: Var, mask: Option<Var>) -> Var {
    let parts = Parts {
        log_weight_norm: true,
        mask: mask.is_some(),
    };
    let mut inputs = vec![w, log_weight_norm];
    inputs.extend(mask);
    record1(r, WeightNorm(parts), &inputs)
}

/// `w / (|w| + 1e-5)`, the weight that data-dependent initialisation looks through.
pub fn normalized(r: &dyn Recorder, w: Var) -> Var {
    let parts = Parts {
        log_weight_norm: false,
        mask: false,
    };
    record1(r, WeightNorm(parts), &[w])
}

impl Parts {
    fn check(self, inputs: &[Shape]) -> Result<(), ShapeError> {
        let count = 1 + usize::from(self.log_weight_norm) + usize::from(self.mask);
        ensure_shape!(
            inputs.len() == count && inputs[0].rank() > 0,
            "takes a weight [.., cout] and its {} companions, not {inputs:?}",
            count - 1
        );
        let channels = Shape::new(&[inputs[0].last()]);
        ensure_shape!(
            !self.log_weight_norm || inputs[1] == channels,
            "log_weight_norm has shape {}, not {channels}",
            inputs[1]
        );
        ensure_shape!(
            !self.mask || inputs[count - 1] == inputs[0],
            "the mask has shape {}, not that of the weight",
            inputs[count - 1]
        );
        Ok(())
    }

    /// The optional tensors of a kernel whose first input after the weight is `next`.
    fn tensors<'a, T: Copy>(
        self,
        io: &Io<'a, T>,
        next: usize,
    ) -> (Option<&'a [T]>, Option<&'a [T]>) {
        let mask_at = next + usize::from(self.log_weight_norm);
        (
            self.log_weight_norm.then(|| io.input(next)),
            self.mask.then(|| io.input(mask_at)),
        )
    }
}

/// The elements of filter `o`, as indices.
fn filter(shape: Shape, o: usize) -> impl Iterator<Item = usize> + Clone {
    (o..shape.len()).step_by(shape.last())
}

impl Op for WeightNorm {
    const NAME: &'static str = "weight_norm";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        self.0.check(shapes.inputs)?;
        Ok(vec![shapes.inputs[0]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (w, shape) = (io.input(0), io.input_shape(0));
        let (log_weight_norm, mask) = self.0.tensors(io, 1);
        let v = |i: usize| mask.map_or(w[i], |m| w[i] * m[i]);
        let y = io.out();
        for o in 0..shape.last() {
            let norm = filter(shape, o).map(|i| v(i) * v(i)).sum::<T>().sqrt();
            let gain = log_weight_norm.map_or(T::one(), |l| l[o].exp()) / (norm + T::of(FLOOR));
            for i in filter(shape, o) {
                y[i] = gain * v(i);
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::forward(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::forward(self.0, cx.shapes)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::workspace(shapes.inputs[0].last())
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let mut inputs = vec![cx.cotangent(0)];
        inputs.extend_from_slice(cx.inputs);
        let op = Arc::new(WeightNormGrad(self.0));
        let mut gradients: Vec<_> = (cx.recorder.record(op, &inputs, &[]).into_iter())
            .map(Some)
            .collect();
        if self.0.mask {
            gradients.push(None);
        }
        gradients
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: 3.0 * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for WeightNormGrad {
    const NAME: &'static str = "weight_norm_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let [dy, rest @ ..] = shapes.inputs else {
            return Err(ShapeError("takes dy first".into()));
        };
        self.0.check(rest)?;
        ensure_shape!(*dy == rest[0], "dy has shape {dy}, the weight {}", rest[0]);
        let channels = Shape::new(&[dy.last()]);
        let mut outputs = vec![*dy];
        outputs.extend(self.0.log_weight_norm.then_some(channels));
        Ok(outputs)
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, w, shape) = (io.input(0), io.input(1), io.input_shape(1));
        let (log_weight_norm, mask) = self.0.tensors(io, 2);
        let v = |i: usize| mask.map_or(w[i], |m| w[i] * m[i]);
        for o in 0..shape.last() {
            let norm = filter(shape, o).map(|i| v(i) * v(i)).sum::<T>().sqrt();
            let dot: T = filter(shape, o).map(|i| dy[i] * v(i)).sum();
            let divisor = norm + T::of(FLOOR);
            let gain = log_weight_norm.map_or(T::one(), |l| l[o].exp()) / divisor;
            let radial = if norm > T::zero() {
                gain * dot / (divisor * norm)
            } else {
                T::zero()
            };
            let dw = io.output(0);
            for i in filter(shape, o) {
                let whole = gain * dy[i] - radial * v(i);
                dw[i] = mask.map_or(whole, |m| whole * m[i]);
            }
            if self.0.log_weight_norm {
                io.output(1)[o] = gain * dot;
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::backward(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::backward(self.0, cx.shapes)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::workspace(shapes.inputs[0].last())
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: 8.0 * shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
