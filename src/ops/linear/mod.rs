//! Fully connected layer: `y[n, o] = b[o] + sum over i of x[n, i] w[i, o]`.
//!
//! `x [n, in]`, `w [in, out]`, `b [out]`, `y [n, out]`.

pub mod cases;
mod cpu;
mod cuda;

use super::binary::sum_to;
use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Fprop::NAME, Dgrad::NAME, Wgrad::NAME];

/// The forward pass: `y` from `(x, w[, b])`.
#[derive(Debug)]
struct Fprop {
    bias: bool,
}

/// `dx = dy w^T`, from `(dy, w)`.
#[derive(Debug)]
struct Dgrad;

/// `dw = x^T dy`, from `(x, dy)`.
#[derive(Debug)]
struct Wgrad;

/// `x w + b`.
pub fn linear(r: &dyn Recorder, x: Var, w: Var, bias: Option<Var>) -> Var {
    let op = Fprop {
        bias: bias.is_some(),
    };
    let inputs: Vec<Var> = [x, w].into_iter().chain(bias).collect();
    record1(r, op, &inputs)
}

/// `dy w^T`.
pub(super) fn dgrad(r: &dyn Recorder, dy: Var, w: Var) -> Var {
    record1(r, Dgrad, &[dy, w])
}

/// `x^T dy`.
pub(super) fn wgrad(r: &dyn Recorder, x: Var, dy: Var) -> Var {
    record1(r, Wgrad, &[x, dy])
}

fn products(rows: usize, w: Shape) -> f64 {
    2.0 * rows as f64 * w.len() as f64
}

impl Op for Fprop {
    const NAME: &'static str = "linear_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let (x, w) = match (self.bias, shapes.inputs) {
            (false, &[x, w]) => (x, w),
            (true, &[x, w, b]) => {
                ensure_shape!(
                    b.rank() == 1 && b.len() == w.last(),
                    "the bias is {b}, the weights {w}"
                );
                (x, w)
            }
            _ => return Err(ShapeError("takes x, w and perhaps a bias".into())),
        };
        ensure_shape!(
            x.rank() == 2 && w.rank() == 2 && x[1] == w[0],
            "takes x [n, in] and w [in, out], not {x} and {w}"
        );
        Ok(vec![Shape::new(&[x[0], w[1]])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, w) = (io.input(0), io.input(1));
        let bias = self.bias.then(|| io.input(2));
        let [inputs, outputs] = [io.input_shape(1)[0], io.input_shape(1)[1]];
        for (i, y) in io.out().iter_mut().enumerate() {
            let (n, o) = (i / outputs, i % outputs);
            *y = (0..inputs)
                .map(|i| x[n * inputs + i] * w[i * outputs + o])
                .sum::<T>()
                + bias.map_or(T::zero(), |b| b[o]);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::fprop(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::fprop(self.bias, cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let (r, dy) = (cx.recorder, cx.cotangent(0));
        let mut gradients = vec![
            cx.wanted(0, || dgrad(r, dy, cx.inputs[1])),
            cx.wanted(1, || wgrad(r, cx.inputs[0], dy)),
        ];
        if self.bias {
            gradients.push(cx.wanted(2, || sum_to(r, dy, cx.input_shape(2))));
        }
        gradients
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(shapes.inputs[0][0], shapes.inputs[1]),
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Dgrad {
    const NAME: &'static str = "linear_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[dy, w] = shapes.inputs else {
            return Err(ShapeError("takes dy and w".into()));
        };
        ensure_shape!(
            dy.rank() == 2 && w.rank() == 2 && dy[1] == w[1],
            "takes dy [n, out] and w [in, out], not {dy} and {w}"
        );
        Ok(vec![Shape::new(&[dy[0], w[0]])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, w) = (io.input(0), io.input(1));
        let [inputs, outputs] = [io.input_shape(1)[0], io.input_shape(1)[1]];
        for (i, dx) in io.out().iter_mut().enumerate() {
            let (n, i) = (i / inputs, i % inputs);
            *dx = (0..outputs)
                .map(|o| dy[n * outputs + o] * w[i * outputs + o])
                .sum();
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::dgrad(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::dgrad(cx)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::dgrad_workspace(shapes)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None, None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(shapes.inputs[0][0], shapes.inputs[1]),
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for Wgrad {
    const NAME: &'static str = "linear_wgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[x, dy] = shapes.inputs else {
            return Err(ShapeError("takes x and dy".into()));
        };
        ensure_shape!(
            x.rank() == 2 && dy.rank() == 2 && x[0] == dy[0],
            "takes x [n, in] and dy [n, out], not {x} and {dy}"
        );
        Ok(vec![Shape::new(&[x[1], dy[1]])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, dy) = (io.input(0), io.input(1));
        let (x_shape, outputs) = (io.input_shape(0), io.input_shape(1)[1]);
        let [rows, inputs] = [x_shape[0], x_shape[1]];
        for (j, dw) in io.out().iter_mut().enumerate() {
            let (i, o) = (j / outputs, j % outputs);
            *dw = (0..rows)
                .map(|n| x[n * inputs + i] * dy[n * outputs + o])
                .sum();
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::wgrad(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::wgrad(cx)
    }

    /// Second derivatives are never asked for.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None, None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(shapes.inputs[0][0], shapes.outputs[0]),
            bytes: compulsory_bytes(shapes),
        }
    }
}
