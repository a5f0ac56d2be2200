//! Regularisers of stage 1 and stage 2: the sum of the largest singular values of weights, and of the largest gains of batch
//! norms.
//!
//! A weight `[.., cout]` is taken as `W` of shape `[cout, rest]`; stored row-major as `[rest, cout]` it is `W` transposed. From
//! the state `u`, repeated: `v = norm(W^T u)`, `u = norm(W v)`, with `norm(x) = x / max(|x|, 1e-3)`; then `sigma = u^T W v`.
//! `u` and `v` are constants in the gradient: `dW = dsigma u v^T`.

pub mod cases;
mod cpu;
mod cuda;
mod max_abs;

use std::sync::Arc;

pub use max_abs::{max_abs, max_abs_sum};

use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[
    SigmaSum::NAME,
    SigmaSumGrad::NAME,
    max_abs::MaxAbsSum::NAME,
    max_abs::MaxAbsSumGrad::NAME,
];

/// Vectors shorter than this are divided by it instead of their norm.
const NORM_FLOOR: f64 = 1e-3;

/// `(sum of sigma, u_0 .. u_k, v_0 .. v_k)` from weights `w_0 .. w_k`; updates their states `u`.
///
/// The states are copied out because later nodes may change them before the gradient reads them.
#[derive(Debug)]
struct SigmaSum {
    iterations: usize,
}

/// `dw_i = dsum v_i u_i^T` from `(dsum, u_0 .. u_k, v_0 .. v_k)`.
#[derive(Debug)]
struct SigmaSumGrad {
    weights: Vec<Shape>,
}

/// The largest singular value of one weight as `iterations` power iterations see it: [`sigma_sum`] of one.
pub fn sigma(r: &dyn Recorder, w: Var, u: Var, iterations: usize) -> Var {
    sigma_sum(r, &[w], &[u], iterations)
}

/// The sum of the largest singular values of many weights, a scalar, in one node.
///
/// `w[i]` `[.., cout]` are effective weights, `u[i]` states `[cout]` that the iterations start from and leave improved; a new state
/// holds a random vector of norm 1. At least one iteration.
pub fn sigma_sum(r: &dyn Recorder, w: &[Var], u: &[Var], iterations: usize) -> Var {
    r.record(Arc::new(SigmaSum { iterations }), w, u)[0]
}

/// Divides by the norm, or by its floor.
fn normalize<T: Real>(x: &mut [T]) {
    let norm = x.iter().map(|x| *x * *x).sum::<T>().sqrt();
    let divisor = norm.max(T::of(NORM_FLOOR));
    x.iter_mut().for_each(|x| *x /= divisor);
}

impl Op for SigmaSum {
    const NAME: &'static str = "spectral_sigma";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(self.iterations > 0, "needs at least one power iteration");
        ensure_shape!(
            !shapes.inputs.is_empty() && shapes.inputs.len() == shapes.updates.len(),
            "takes as many weights as states, not {} and {}",
            shapes.inputs.len(),
            shapes.updates.len()
        );
        for (w, u) in shapes.inputs.iter().zip(shapes.updates) {
            ensure_shape!(
                w.rank() > 0 && *u == Shape::new(&[w.last()]),
                "the state of a weight {w} has shape {u}"
            );
        }
        let left = shapes.updates.iter().copied();
        let right = shapes.inputs.iter().map(|w| Shape::new(&[w.rows()]));
        Ok([Shape::SCALAR]
            .into_iter()
            .chain(left)
            .chain(right)
            .collect())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let weights = io.inputs;
        let mut total = T::zero();
        for (i, (w, shape)) in weights.iter().enumerate() {
            let (rows, columns) = (shape.rows(), shape.last());
            let row = |r: usize| &w[r * columns..][..columns];
            let u = &mut *io.updates[i].0;
            let v = &mut *io.outputs[1 + weights.len() + i].0;
            let transposed = |u: &[T], v: &mut [T]| {
                for (r, v) in v.iter_mut().enumerate() {
                    *v = row(r).iter().zip(u).map(|(w, u)| *w * *u).sum();
                }
            };
            for _ in 0..self.iterations {
                transposed(u, v);
                normalize(v);
                u.fill(T::zero());
                for (r, v) in v.iter().enumerate() {
                    u.iter_mut().zip(row(r)).for_each(|(u, w)| *u += *w * *v);
                }
                normalize(u);
            }
            total += (0..rows)
                .map(|r| v[r] * row(r).iter().zip(&*u).map(|(w, u)| *w * *u).sum::<T>())
                .sum::<T>();
            io.outputs[1 + i].0.copy_from_slice(u);
        }
        io.output(0)[0] = total;
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::sigma_sum(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::sigma_sum(self, cx.shapes)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        // A vector like each `u`, so that weights can be worked on side by side.
        shapes.updates.iter().map(Shape::len).sum()
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let weights = (0..cx.inputs.len()).map(|i| cx.input_shape(i)).collect();
        let mut inputs = vec![cx.cotangent(0)];
        inputs.extend_from_slice(&cx.outputs[1..]);
        let op = Arc::new(SigmaSumGrad { weights });
        let gradients = cx.recorder.record(op, &inputs, &[]);
        gradients.into_iter().map(Some).collect()
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let elements: usize = shapes.inputs.iter().map(Shape::len).sum();
        Cost {
            flops: (4 * self.iterations + 2) as f64 * elements as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for SigmaSumGrad {
    const NAME: &'static str = "spectral_sigma_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 1 + 2 * self.weights.len(),
            "takes the sum's gradient and two vectors a weight, not {} tensors",
            shapes.inputs.len()
        );
        Ok(self.weights.clone())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dsum, vectors) = (io.input(0)[0], &io.inputs[1..]);
        let (left, right) = vectors.split_at(self.weights.len());
        for (((dw, shape), (u, _)), (v, _)) in io.outputs.iter_mut().zip(left).zip(right) {
            for (dw, v) in dw.chunks_exact_mut(shape.last().max(1)).zip(*v) {
                for (dw, u) in dw.iter_mut().zip(*u) {
                    *dw = dsum * *v * *u;
                }
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::sigma_sum_grad(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::sigma_sum_grad(self, cx.shapes).into()
    }

    /// Second derivatives are never asked for.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let elements: usize = shapes.outputs.iter().map(Shape::len).sum();
        Cost {
            flops: 2.0 * elements as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
