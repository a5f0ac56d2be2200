//! Native kernels: the formulas on vectors.

use super::{Function, Unary, UnaryGrad};
use crate::device::cpu::pointwise::{self, Lanes};
use crate::device::cpu::simd::Simd;
use crate::device::cpu::vmath;
use crate::program::Io;

/// `f(x)`.
#[derive(Clone, Copy)]
struct Value(Function);

/// `dy * f'(x)`.
#[derive(Clone, Copy)]
struct Slope(Function);

/// 1 / 1.1 of Lip-swish.
const LIP: f32 = 1.0 / 1.1;

impl Lanes<1> for Value {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::V; 1]) -> S::V {
        match self.0 {
            Function::Swish => vmath::swish(s, x),
            Function::LipSwish => s.mul(s.splat(LIP), vmath::swish(s, x)),
            Function::Elu => vmath::elu(s, x),
            Function::Relu => s.max(s.splat(0.0), x),
            Function::Sigmoid => vmath::sigmoid(s, x),
            Function::Softplus => vmath::softplus(s, x),
            Function::SoftClamp => {
                let fifth = s.mul(x, s.splat(0.2));
                s.mul(s.splat(5.0), vmath::tanh(s, fifth))
            }
            Function::Exp => vmath::exp(s, x),
            Function::Ln => vmath::ln(s, x),
            Function::Square => s.mul(x, x),
            Function::Affine { scale, shift } => {
                s.fma(x, s.splat(scale as f32), s.splat(shift as f32))
            }
        }
    }
}

impl Lanes<2> for Slope {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [dy, x]: [S::V; 2]) -> S::V {
        let slope = match self.0 {
            Function::Swish => vmath::swish_and_grad(s, x).1,
            Function::LipSwish => s.mul(s.splat(LIP), vmath::swish_and_grad(s, x).1),
            Function::Elu => vmath::elu_grad(s, x),
            Function::Relu => s.select_gt(x, s.splat(0.0), s.splat(1.0), s.splat(0.0)),
            Function::Sigmoid => {
                let minus = s.sub(s.splat(0.0), x);
                s.mul(vmath::sigmoid(s, x), vmath::sigmoid(s, minus))
            }
            Function::Softplus => vmath::sigmoid(s, x),
            Function::SoftClamp => {
                // As in the reference: 4e / (1 + e)^2 with e = exp(-2|x| / 5).
                let e = vmath::exp(s, s.mul(s.abs(x), s.splat(-0.4)));
                let r = s.div(s.splat(2.0), s.add(s.splat(1.0), e));
                s.mul(e, s.mul(r, r))
            }
            Function::Exp => vmath::exp(s, x),
            Function::Ln => s.div(s.splat(1.0), x),
            Function::Square => s.add(x, x),
            Function::Affine { scale, .. } => s.splat(scale as f32),
        };
        s.mul(dy, slope)
    }
}

pub(super) fn value(op: &Unary, io: &mut Io<'_, f32>) {
    let x = io.input(0);
    pointwise::map([x], io.out(), Value(op.0));
}

pub(super) fn derivative(op: &UnaryGrad, io: &mut Io<'_, f32>) {
    let (dy, x) = (io.input(0), io.input(1));
    pointwise::map([dy, x], io.out(), Slope(op.0));
}
