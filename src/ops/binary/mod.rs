//! Element-wise functions of two tensors, the second broadcast to the first: `c = f(a, b)`; and sums of many tensors.
//!
//! Broadcasting follows the usual rule, with one restriction: `b` may be smaller than `a`, never the other way round.
//! Axes are aligned at the innermost one; an axis of `b` that is missing or has extent 1 is repeated.

pub mod cases;
mod cpu;
mod cuda;
mod runs;
mod sum;

pub use sum::{broadcast_to, sum_of, sum_to};

use super::unary::affine;
use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel, Narrow};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::{MAX_RANK, Shape};

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[
    Binary::NAME,
    sum::SumOf::NAME,
    sum::SumTo::NAME,
    sum::BroadcastTo::NAME,
];

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `alpha a + beta b`, with constants.
    Combine {
        /// Factor of `a`.
        alpha: f64,
        /// Factor of `b`.
        beta: f64,
    },
    /// `a b`.
    Mul,
    /// `a / b`.
    Div,
}

impl Function {
    fn value<T: Real>(self, a: T, b: T) -> T {
        match self {
            Function::Combine { alpha, beta } => T::of(alpha) * a + T::of(beta) * b,
            Function::Mul => a * b,
            Function::Div => a / b,
        }
    }
}

/// `c = f(a, b)`.
#[derive(Debug)]
struct Binary(Function);

/// `alpha a + beta b`.
pub fn combine(r: &dyn Recorder, alpha: f64, a: Var, beta: f64, b: Var) -> Var {
    record1(r, Binary(Function::Combine { alpha, beta }), &[a, b])
}

/// `a + b` as an op, for those that are made of others.
pub(super) fn sum() -> impl Op {
    Binary(Function::Combine {
        alpha: 1.0,
        beta: 1.0,
    })
}

/// `a + b`.
pub fn add(r: &dyn Recorder, a: Var, b: Var) -> Var {
    combine(r, 1.0, a, 1.0, b)
}

/// `a - b`.
pub fn sub(r: &dyn Recorder, a: Var, b: Var) -> Var {
    combine(r, 1.0, a, -1.0, b)
}

/// `a b`.
pub fn mul(r: &dyn Recorder, a: Var, b: Var) -> Var {
    record1(r, Binary(Function::Mul), &[a, b])
}

/// `a / b`.
pub fn div(r: &dyn Recorder, a: Var, b: Var) -> Var {
    record1(r, Binary(Function::Div), &[a, b])
}

/// For each axis of `of`, how far apart its neighbours are in a tensor of shape `small`: 0 where it repeats.
fn strides(small: Shape, of: Shape) -> [usize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    let missing = of.rank() - small.rank();
    let mut step = 1;
    for axis in (0..small.rank()).rev() {
        if small[axis] != 1 {
            strides[missing + axis] = step;
        }
        step *= small[axis];
    }
    strides
}

fn broadcasts(small: Shape, to: Shape) -> bool {
    small.rank() <= to.rank()
        && (small.dims().iter().rev().zip(to.dims().iter().rev())).all(|(s, t)| s == t || *s == 1)
}

/// Calls `visit(element of big, element of small)` for every element of `big`, in order.
fn for_each_pair(big: Shape, small: Shape, mut visit: impl FnMut(usize, usize)) {
    let strides = strides(small, big);
    let mut index = [0; MAX_RANK];
    for element in 0..big.len() {
        let at: usize = (0..big.rank())
            .map(|axis| index[axis] * strides[axis])
            .sum();
        visit(element, at);
        for axis in (0..big.rank()).rev() {
            index[axis] += 1;
            if index[axis] < big[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

impl Op for Binary {
    const NAME: &'static str = "binary";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let &[a, b] = shapes.inputs else {
            return Err(ShapeError("takes two tensors".into()));
        };
        ensure_shape!(broadcasts(b, a), "{b} cannot be broadcast to {a}");
        Ok(vec![a])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (a, b) = (io.input(0), io.input(1));
        let (shape_a, shape_b) = (io.input_shape(0), io.input_shape(1));
        let c = io.out();
        for_each_pair(shape_a, shape_b, |i, j| c[i] = self.0.value(a[i], b[j]));
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::binary(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::binary(self.0, cx).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::narrow(cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let (r, a, b) = (cx.recorder, cx.inputs[0], cx.inputs[1]);
        let dc = cx.cotangent(0);
        let to_b = |g: Var| sum_to(r, g, cx.input_shape(1));
        let scaled = |factor: f64, v: Var| {
            if factor == 1.0 {
                v
            } else {
                affine(r, v, factor, 0.0)
            }
        };
        match self.0 {
            Function::Combine { alpha, beta } => vec![
                cx.wanted(0, || scaled(alpha, dc)),
                cx.wanted(1, || scaled(beta, to_b(dc))),
            ],
            Function::Mul => vec![
                cx.wanted(0, || mul(r, dc, b)),
                cx.wanted(1, || to_b(mul(r, dc, a))),
            ],
            Function::Div => vec![
                cx.wanted(0, || div(r, dc, b)),
                cx.wanted(1, || {
                    let quotient = div(r, mul(r, dc, cx.outputs[0]), b);
                    affine(r, to_b(quotient), -1.0, 0.0)
                }),
            ],
        }
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        let flops = match self.0 {
            Function::Combine { .. } => 2.0,
            Function::Mul | Function::Div => 1.0,
        };
        Cost {
            flops: flops * shapes.outputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
