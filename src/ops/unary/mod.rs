//! Element-wise functions of one tensor: `y = f(x)`, any shape; `dx = dy * f'(x)`.

pub mod cases;
mod cpu;
mod cuda;

pub(crate) use cpu::{soft_clamp, soft_clamp_slope};

use super::{
    ACTIVATION_FLOPS, Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1,
};
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel, Narrow};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[Unary::NAME, UnaryGrad::NAME];

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `x * sigma(x)`.
    Swish,
    /// `x * sigma(x) / 1.1`, the 1-Lipschitz swish of the energy networks.
    LipSwish,
    /// `x` for `x > 0`, else `exp(x) - 1`.
    Elu,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `ln(1 + exp(x))`.
    Softplus,
    /// `5 tanh(x / 5)`, NVAE's soft clamp of distribution parameters.
    SoftClamp,
    /// `exp(x)`.
    Exp,
    /// `ln(x)`.
    Ln,
    /// `x^2`.
    Square,
    /// `scale * x + shift`, with constants.
    Affine {
        /// Factor.
        scale: f64,
        /// Summand.
        shift: f64,
    },
}

impl Function {
    /// `f(x)`.
    pub fn value<T: Real>(self, x: T) -> T {
        match self {
            Function::Swish => x * sigmoid(x),
            Function::LipSwish => x * sigmoid(x) / T::of(1.1),
            Function::Elu if x > T::zero() => x,
            Function::Elu => x.exp_m1(),
            Function::Relu => x.max(T::zero()),
            Function::Sigmoid => sigmoid(x),
            Function::Softplus => x.max(T::zero()) + (-x.abs()).exp().ln_1p(),
            Function::SoftClamp => T::of(5.0) * (x / T::of(5.0)).tanh(),
            Function::Exp => x.exp(),
            Function::Ln => x.ln(),
            Function::Square => x * x,
            Function::Affine { scale, shift } => T::of(scale) * x + T::of(shift),
        }
    }

    /// `f'(x)`.
    pub fn derivative<T: Real>(self, x: T) -> T {
        let one = T::one();
        match self {
            Function::Swish => swish_derivative(x),
            Function::LipSwish => swish_derivative(x) / T::of(1.1),
            Function::Elu | Function::Relu if x > T::zero() => one,
            Function::Elu => x.exp(),
            Function::Relu => T::zero(),
            Function::Sigmoid => sigmoid(x) * sigmoid(-x),
            Function::Softplus => sigmoid(x),
            Function::SoftClamp => {
                // 1 - tanh^2 as 4e / (1 + e)^2 with e = exp(-2|u|): no cancellation far out.
                let e = (-x.abs() * T::of(0.4)).exp();
                T::of(4.0) * e / ((one + e) * (one + e))
            }
            Function::Exp => x.exp(),
            Function::Ln => one / x,
            Function::Square => x + x,
            Function::Affine { scale, .. } => T::of(scale),
        }
    }

    fn flops(self) -> f64 {
        match self {
            Function::Relu | Function::Square => 1.0,
            Function::Affine { .. } => 2.0,
            _ => ACTIVATION_FLOPS,
        }
    }
}

/// The logistic function, without overflow on either side.
pub fn sigmoid<T: Real>(x: T) -> T {
    let e = (-x.abs()).exp();
    if x < T::zero() {
        e / (T::one() + e)
    } else {
        T::one() / (T::one() + e)
    }
}

fn swish_derivative<T: Real>(x: T) -> T {
    let s = sigmoid(x);
    s * (T::one() + x * sigmoid(-x))
}

/// `y = f(x)`.
#[derive(Debug)]
struct Unary(Function);

/// `dx = dy * f'(x)` from `(dy, x)`.
#[derive(Debug)]
struct UnaryGrad(Function);

/// Applies a function to each element.
pub fn unary(r: &dyn Recorder, f: Function, x: Var) -> Var {
    record1(r, Unary(f), &[x])
}

/// `dy f'(x)`: the gradient of [`unary`].
pub(super) fn slope(r: &dyn Recorder, f: Function, dy: Var, x: Var) -> Var {
    record1(r, UnaryGrad(f), &[dy, x])
}

/// `x * sigma(x)`.
pub fn swish(r: &dyn Recorder, x: Var) -> Var {
    unary(r, Function::Swish, x)
}

/// `scale * x + shift`, with constants.
pub fn affine(r: &dyn Recorder, x: Var, scale: f64, shift: f64) -> Var {
    unary(r, Function::Affine { scale, shift }, x)
}

impl Op for Unary {
    const NAME: &'static str = "unary";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(shapes.inputs.len() == 1, "takes one tensor");
        Ok(shapes.inputs.to_vec())
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let x = io.input(0);
        for (y, x) in io.out().iter_mut().zip(x) {
            *y = self.0.value(*x);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::value(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::value(self.0, cx).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::narrow(self.0, cx)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![cx.wanted(0, || {
            slope(cx.recorder, self.0, cx.cotangent(0), cx.inputs[0])
        })]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: self.0.flops() * shapes.outputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}

impl Op for UnaryGrad {
    const NAME: &'static str = "unary_dgrad";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        ensure_shape!(
            shapes.inputs.len() == 2 && shapes.inputs[0] == shapes.inputs[1],
            "takes dy and x of one shape, not {:?}",
            shapes.inputs
        );
        Ok(vec![shapes.inputs[0]])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (dy, x) = (io.input(0), io.input(1));
        for ((dx, dy), x) in io.out().iter_mut().zip(dy).zip(x) {
            *dx = *dy * self.0.derivative(*x);
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::derivative(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::derivative(self.0, cx).into()
    }

    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        cuda::narrow(self.0, cx)
    }

    /// Second derivatives are never asked for: the energy gradient is a first derivative, and no gradient flows through a chain.
    fn grad(&self, _: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None, None]
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: (self.0.flops() + 1.0) * shapes.outputs[0].len() as f64,
            bytes: compulsory_bytes(shapes),
        }
    }
}
