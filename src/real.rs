//! The number type of the plain reference kernels: `f32` or `f64`.

use std::fmt;
use std::iter::Sum;
use std::ops::{AddAssign, DivAssign, MulAssign, SubAssign};

/// A floating-point type that reference kernels compute in.
///
/// In `f32` a reference is the oracle of the native kernel; in `f64` it is the oracle of the gradient rules
/// (central differences) and of both.
pub trait Real:
    num_traits::Float
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
    + Default
    + fmt::Debug
    + fmt::Display
    + Send
    + Sync
    + 'static
{
    /// The nearest value to a constant of a formula.
    fn of(value: f64) -> Self;
    /// The value as `f64`, exactly.
    fn f64(self) -> f64;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
    fn f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn f64(self) -> f64 {
        self
    }
}

/// Converts from one number type to the other.
pub fn cast<A: Real, B: Real>(value: A) -> B {
    B::of(value.f64())
}
