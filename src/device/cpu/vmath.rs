//! Vectorised elementary functions in f32.
//!
//! Each has a form on one vector, `f(s, x)`, to be inlined into kernels, and [`apply`] runs any of them over a slice. Errors in
//! units in the last place against f64, over the ranges that the tests sweep (|x| up to 200), FMA instruction sets; the portable
//! fallback, which rounds products, may add one:
//!
//! | function | error | beyond the range |
//! |---|---|---|
//! | exp | 1.5 ulp | 0 below -87, infinity above 88.72 |
//! | sigmoid | 6 ulp, 3.5 above -20 | stays at 1.6e-38 below -87 |
//! | swish | 6.5 ulp, 4 above -20 | |
//! | swish' | 4 ulp of max(1, abs x) | |
//! | tanh | 2 ulp | |
//! | softplus | 3 ulp | |
//! | ln | 1.5 ulp | denormals count as 0 |
//! | elu | 2 ulp | |
//!
//! NaN gives NaN. Swish of minus infinity is minus infinity times a tiny number, hence minus infinity; its limit would be 0.

use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has few enough bits that its product with an exponent is exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;
/// 1.5 * 2^23: adding it rounds to an integer, which then stands in the low mantissa bits.
const MAGIC: f32 = 12_582_912.0;
/// Above this, e^-x and its reciprocal both stay normal numbers.
const EXP_MIN: f32 = -87.0;
const EXP_MAX: f32 = 88.722_83;

/// e^r for |r| <= ln(2) / 2: 1 + r + r^2 q(r), near-minimax, relative error 3.1e-9.
#[inline(always)]
fn exp_reduced<S: Simd>(s: S, r: S::V) -> S::V {
    let q = s.fma(r, s.splat(0.001_381_459_4), s.splat(0.008_368_717));
    let q = s.fma(r, q, s.splat(0.041_668_39));
    let q = s.fma(r, q, s.splat(0.166_665_21));
    let q = s.fma(r, q, s.splat(0.499_999_93));
    let q = s.fma(r, q, s.splat(1.0));
    s.fma(r, q, s.splat(1.0))
}

/// e^-r one degree lower, relative error 1.05e-7: for the logistic function, where it is diluted by the 1 beside it.
#[inline(always)]
fn exp_neg_reduced<S: Simd>(s: S, r: S::V) -> S::V {
    let q = s.fma(r, s.splat(-0.008_312_525), s.splat(0.041_890_164));
    let q = s.fma(r, q, s.splat(-0.166_671_15));
    let q = s.fma(r, q, s.splat(0.499_992_3));
    let q = s.fma(r, q, s.splat(-1.0));
    s.fma(r, q, s.splat(1.0))
}

/// e^x.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let c = s.max(s.splat(EXP_MIN), s.min(s.splat(EXP_MAX), x));
    let t = s.fma(c, s.splat(LOG2_E), s.splat(MAGIC));
    let n = s.sub(t, s.splat(MAGIC));
    let r = s.fnma(n, s.splat(LN2_LO), s.fnma(n, s.splat(LN2_HI), c));
    let y = s.scale_by_magic(exp_reduced(s, r), t);
    let y = s.select_gt(x, s.splat(EXP_MIN), y, s.max(s.splat(0.0), x));
    s.select_gt(x, s.splat(EXP_MAX), s.splat(f32::INFINITY), y)
}

/// 1 + e^-c for `c` in [-87, 87].
#[inline(always)]
fn one_plus_exp_neg<S: Simd>(s: S, c: S::V) -> S::V {
    let t = s.fnma(c, s.splat(LOG2_E), s.splat(MAGIC));
    let n = s.sub(t, s.splat(MAGIC));
    let r = if S::FUSED {
        // One exact product suffices: ln 2 as f32 is off by only 2e-9.
        s.fma(n, s.splat(std::f32::consts::LN_2), c)
    } else {
        s.fma(n, s.splat(LN2_LO), s.fma(n, s.splat(LN2_HI), c))
    };
    s.add(s.splat(1.0), s.scale_by_magic(exp_neg_reduced(s, r), t))
}

/// The logistic function of finite `x`; NaN gives an unspecified value.
#[inline(always)]
fn logistic<S: Simd>(s: S, x: S::V) -> S::V {
    let c = s.max(s.splat(EXP_MIN), s.min(s.splat(-EXP_MIN), x));
    s.recip(one_plus_exp_neg(s, c))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let c = s.max(s.splat(EXP_MIN), s.min(s.splat(-EXP_MIN), x));
    // The product is zero, or NaN where `x` is.
    s.recip(s.fma(c, s.splat(0.0), one_plus_exp_neg(s, c)))
}

/// x sigmoid(x).
#[inline(always)]
pub fn swish<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, logistic(s, x))
}

/// Swish and its derivative `sigmoid(x) (1 + x (1 - sigmoid(x)))`.
#[inline(always)]
pub fn swish_and_grad<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let sig = logistic(s, x);
    let y = s.mul(x, sig);
    (y, s.add(sig, s.fnma(y, sig, y)))
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let z = s.mul(x, x);
    let p = s.fma(z, s.splat(-5.704_988_7e-3), s.splat(2.063_909e-2));
    let p = s.fma(z, p, s.splat(-5.373_971_6e-2));
    let p = s.fma(z, p, s.splat(1.333_144_2e-1));
    let p = s.fma(z, p, s.splat(-3.333_328e-1));
    let small = s.fma(s.mul(x, z), p, x);
    let a = s.abs(x);
    let e = exp(s, s.add(a, a));
    let large = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    let large = s.select_gt(x, s.splat(0.0), large, s.sub(s.splat(0.0), large));
    s.select_gt(a, s.splat(0.625), large, small)
}

/// Natural logarithm.
#[inline(always)]
pub fn ln<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let (e, m) = (s.exponent(x), s.mantissa(x));
    let root2 = s.splat(std::f32::consts::SQRT_2);
    let e = s.select_gt(m, root2, s.add(e, one), e);
    let m = s.select_gt(m, root2, s.mul(m, s.splat(0.5)), m);
    let f = s.sub(m, one);
    let z = s.mul(f, f);
    let mut p = s.splat(7.037_683_6e-2);
    for c in [
        -1.151_461e-1,
        1.167_699_8e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = s.fma(p, f, s.splat(c));
    }
    let y = s.mul(s.mul(p, f), z);
    let y = s.fma(e, s.splat(LN2_LO), y);
    let y = s.fnma(z, s.splat(0.5), y);
    let y = s.fma(e, s.splat(LN2_HI), s.add(f, y));
    // Zero, negative numbers, NaN, and infinity.
    let below = s.select_gt(
        s.splat(0.0),
        x,
        s.splat(f32::NAN),
        s.min(s.splat(f32::NEG_INFINITY), x),
    );
    let y = s.select_gt(x, s.splat(f32::MIN_POSITIVE.next_down()), y, below);
    s.select_gt(x, s.splat(f32::MAX), x, y)
}

/// ln(1 + e^x).
#[inline(always)]
pub fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let e = exp(s, s.sub(s.splat(0.0), s.abs(x)));
    let u = s.add(one, e);
    // ln(1 + e) with the rounding error of 1 + e put back.
    let log1p = s.add(ln(s, u), s.div(s.sub(e, s.sub(u, one)), u));
    s.add(s.max(s.splat(0.0), x), log1p)
}

/// `x` for positive, e^x - 1 for others.
#[inline(always)]
pub fn elu<S: Simd>(s: S, x: S::V) -> S::V {
    let c = s.max(s.splat(EXP_MIN), s.min(s.splat(0.0), x));
    let t = s.fma(c, s.splat(LOG2_E), s.splat(MAGIC));
    let n = s.sub(t, s.splat(MAGIC));
    let r = s.fnma(n, s.splat(LN2_LO), s.fnma(n, s.splat(LN2_HI), c));
    let mut q = s.splat(1.987_569_1e-4);
    for k in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        q = s.fma(q, r, s.splat(k));
    }
    let expm1 = s.fma(q, s.mul(r, r), r);
    let scale = s.scale_by_magic(s.splat(1.0), t);
    s.select_gt(
        x,
        s.splat(0.0),
        x,
        s.fma(scale, expm1, s.sub(scale, s.splat(1.0))),
    )
}

/// Derivative of [`elu`] at `x`.
#[inline(always)]
pub fn elu_grad<S: Simd>(s: S, x: S::V) -> S::V {
    s.select_gt(x, s.splat(0.0), s.splat(1.0), exp(s, x))
}

/// Functions [`apply`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// e^x.
    Exp,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x sigmoid(x).
    Swish,
    /// Derivative of swish.
    SwishGrad,
    /// Hyperbolic tangent.
    Tanh,
    /// ln(1 + e^x).
    Softplus,
    /// Natural logarithm.
    Ln,
    /// `x` for positive, e^x - 1 for others.
    Elu,
    /// Derivative of elu.
    EluGrad,
}

struct Map {
    function: Function,
    x: *const f32,
    y: *mut f32,
    len: usize,
}

impl Kernel for Map {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        macro_rules! sweep {
            ($f:expr) => {{
                let mut i = 0;
                while i < self.len {
                    let n = (self.len - i).min(S::LANES);
                    // SAFETY: `i + n <= len`, and both pointers are valid for `len` elements (see `apply_raw`).
                    unsafe {
                        let x = s.load_upto(self.x.add(i), n);
                        s.store_upto(self.y.add(i), n, $f(s, x));
                    }
                    i += S::LANES;
                }
            }};
        }
        #[inline(always)]
        fn swish_grad<S: Simd>(s: S, x: S::V) -> S::V {
            swish_and_grad(s, x).1
        }
        match self.function {
            Function::Exp => sweep!(exp),
            Function::Sigmoid => sweep!(sigmoid),
            Function::Swish => sweep!(swish),
            Function::SwishGrad => sweep!(swish_grad),
            Function::Tanh => sweep!(tanh),
            Function::Softplus => sweep!(softplus),
            Function::Ln => sweep!(ln),
            Function::Elu => sweep!(elu),
            Function::EluGrad => sweep!(elu_grad),
        }
    }
}

/// Elements a task of [`apply`] takes.
const CHUNK: usize = 16 * 1024;
/// Cost estimate of one element.
const FLOPS_PER_ELEMENT: u64 = 24;

/// `x` may equal `y`'s start: each element is read before it is written.
fn apply_raw(function: Function, x: *const f32, y: Shared<'_>, len: usize) {
    struct Source(*const f32);
    // SAFETY: a read-only view of a slice that outlives the loop.
    unsafe impl Sync for Source {}
    // SAFETY: as above.
    unsafe impl Send for Source {}
    impl Source {
        fn at(&self, i: usize) -> *const f32 {
            self.0.wrapping_add(i)
        }
    }
    let (x, isa) = (Source(x), simd::isa());
    parallel::for_each(len.div_ceil(CHUNK), len as u64 * FLOPS_PER_ELEMENT, |i| {
        let start = i * CHUNK;
        simd::dispatch(
            isa,
            Map {
                function,
                x: x.at(start),
                y: y.at(start),
                len: CHUNK.min(len - start),
            },
        );
    });
}

/// `y[i] = f(x[i])`.
///
/// # Panics
/// If the lengths differ.
pub fn apply(function: Function, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    apply_raw(function, x.as_ptr(), Shared::new(y), x.len());
}

/// `x[i] = f(x[i])`.
pub fn apply_in_place(function: Function, x: &mut [f32]) {
    let len = x.len();
    let shared = Shared::new(x);
    apply_raw(function, shared.at(0), shared, len);
}

#[cfg(test)]
#[path = "vmath_tests.rs"]
mod tests;
