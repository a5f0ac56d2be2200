//! Sums over everything but the batch axis, and over everything: `y[n] = scale * sum_e x[n, e]`, `y = scale * sum x`.

pub mod cases;
mod columns;
mod cuda;

pub(in crate::ops) use columns::Columns;

use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::device::cpu::sums::row_sums;
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Reduce::NAME, Spread::NAME];

/// `y[n] = scale * sum_e x[n, e]`, or the same over all of `x`.
#[derive(Debug)]
struct Reduce {
    keep_batch: bool,
    scale: f64,
}

/// The transpose: `x[n, e] = scale * y[n]`.
#[derive(Debug)]
struct Spread {
    to: Shape,
    scale: f64,
}

/// Sums each sample: `[n, ...] -> [n]`.
pub fn sum_rows(r: &dyn Recorder, x: Var) -> Var {
    let op = Reduce {
        keep_batch: true,
        scale: 1.0,
    };
    record1(r, op, &[x])
}

/// The mean of all elements, a scalar.
pub fn mean(r: &dyn Recorder, x: Var) -> Var {
    let op = Reduce {
        keep_batch: false,
        scale: 1.0 / r.shape(x).len() as f64,
    };
    record1(r, op, &[x])
}

impl Op for Reduce {
    const NAME: &'static str = "reduce";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(shapes.inputs.len() == 1, "takes one tensor");
        if !self.keep_batch {
            return Ok(vec![Shape::SCALAR]);
        }
        ensure_shape!(shapes.inputs[0].rank() > 0, "a scalar has no batch axis");
        Ok(vec![Shape::new(&[shapes.inputs[0][0]])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let x = io.input(0);
        let y = io.out();
        let row = x.len() / y.len().max(1);
        for (n, y) in y.iter_mut().enumerate() {
            *y = T::of(self.scale) * x[n * row..][..row].iter().copied().sum();
        }
    }

    /// Totals in `f64`: these sums are losses and log-densities, of which small differences matter.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        let x = io.input(0);
        let y = io.out();
        let sums = row_sums(x, x.len() / y.len().max(1));
        y.fill(0.0);
        for (y, sum) in y.iter_mut().zip(sums) {
            *y = (self.scale * sum) as f32;
        }
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::reduce(self, cx.shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![cx.wanted(0, || {
            let op = Spread {
                to: cx.input_shape(0),
                scale: self.scale,
            };
            record1(cx.recorder, op, &[cx.cotangent(0)])
        })]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: shapes.inputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Spread {
    const NAME: &'static str = "reduce_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(shapes.inputs.len() == 1, "takes one tensor");
        Ok(vec![self.to])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let y = io.input(0);
        let x = io.out();
        let row = x.len() / y.len().max(1);
        for (n, y) in y.iter().enumerate() {
            x[n * row..][..row].fill(T::of(self.scale) * *y);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::spread(self, cx.shapes).into()
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![cx.wanted(0, || {
            let op = Reduce {
                keep_batch: cx.input_shape(0).rank() > 0,
                scale: self.scale,
            };
            record1(cx.recorder, op, &[cx.cotangent(0)])
        })]
    }
}
