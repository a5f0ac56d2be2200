//! Activations that a kernel applies on the fly, before or after its own computation.

use super::unary::{Function, unary};
use super::{ACTIVATION_FLOPS, Recorder, Var};
use crate::real::Real;

/// The activations that fused kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x` itself.
    None,
    /// `x * sigma(x)`.
    Swish,
    /// `x * sigma(x) / 1.1`.
    LipSwish,
    /// `x` for `x > 0`, else `exp(x) - 1`.
    Elu,
}

impl Activation {
    /// The element-wise op of the same formula.
    pub fn function(self) -> Option<Function> {
        match self {
            Activation::None => None,
            Activation::Swish => Some(Function::Swish),
            Activation::LipSwish => Some(Function::LipSwish),
            Activation::Elu => Some(Function::Elu),
        }
    }

    /// `act(x)`.
    pub fn value<T: Real>(self, x: T) -> T {
        self.function().map_or(x, |f| f.value(x))
    }

    /// `act'(x)`.
    pub fn derivative<T: Real>(self, x: T) -> T {
        self.function().map_or(T::one(), |f| f.derivative(x))
    }

    /// The number by which GPU kernels know it: `activate` in `kernels/functions.cuh`.
    pub fn code(self) -> u32 {
        match self {
            Activation::None => 0,
            Activation::Swish => 1,
            Activation::LipSwish => 2,
            Activation::Elu => 3,
        }
    }

    /// FLOPs per element, for cost rules.
    pub fn flops(self) -> f64 {
        match self {
            Activation::None => 0.0,
            _ => ACTIVATION_FLOPS,
        }
    }
}

/// The activation as native kernels call it.
impl From<Activation> for crate::device::cpu::gemm::Activation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::None => Self::None,
            Activation::Swish => Self::Swish,
            Activation::LipSwish => Self::LipSwish,
            Activation::Elu => Self::Elu,
        }
    }
}

/// The activation as a node of its own; nothing for [`Activation::None`].
pub fn activate(r: &dyn Recorder, x: Var, activation: Activation) -> Var {
    activation.function().map_or(x, |f| unary(r, f, x))
}
