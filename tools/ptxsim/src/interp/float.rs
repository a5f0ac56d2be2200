//! Floating-point instructions, one scalar at a time, and the vector leaf for fma.

use super::soft::{self, Format};
use crate::ptx::isa::{ApproxFn, FloatFn, Round, TestKind, Ty};

/// The NaN that f32 arithmetic yields on a GPU.
pub(crate) const NAN32: u32 = 0x7fff_ffff;

#[inline]
pub(crate) fn canonical(value: f32) -> u32 {
    if value.is_nan() {
        NAN32
    } else {
        value.to_bits()
    }
}

/// Replaces a subnormal by the zero of its sign.
#[inline]
pub(crate) fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

/// Clamps to [0, 1]; NaN becomes 0.
#[inline]
fn saturate(bits: u32) -> u32 {
    let value = f32::from_bits(bits);
    // Written so that NaN and -0 become +0.
    if value > 0.0 {
        value.min(1.0).to_bits()
    } else {
        0
    }
}

/// An f32 operation. Inlined so that a constant `f` leaves one arm.
#[inline(always)]
pub(crate) fn f32_op(
    f: FloatFn,
    round: Round,
    ftz: bool,
    sat: bool,
    a: u32,
    b: u32,
    c: u32,
) -> u32 {
    let (a, b, c) = if ftz {
        (flush(a), flush(b), flush(c))
    } else {
        (a, b, c)
    };
    let (x, y, z) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
    let nearest = round == Round::Nearest;
    let wide = |v: u32| u64::from(v);
    let result = match f {
        FloatFn::Add if nearest => canonical(x + y),
        FloatFn::Sub if nearest => canonical(x - y),
        FloatFn::Mul if nearest => canonical(x * y),
        FloatFn::Fma | FloatFn::FmaRelu if nearest => canonical(x.mul_add(y, z)),
        FloatFn::Div if nearest => canonical(x / y),
        FloatFn::Rcp if nearest => canonical(1.0 / x),
        FloatFn::Sqrt if nearest => canonical(x.sqrt()),
        FloatFn::Add => soft::add(wide(a), wide(b), soft::F32, round) as u32,
        FloatFn::Sub => soft::add(wide(a), wide(b ^ 0x8000_0000), soft::F32, round) as u32,
        FloatFn::Mul => soft::mul(wide(a), wide(b), soft::F32, round) as u32,
        FloatFn::Fma | FloatFn::FmaRelu => {
            soft::fma(wide(a), wide(b), wide(c), soft::F32, round) as u32
        }
        FloatFn::Div => soft::div(wide(a), wide(b), soft::F32, round) as u32,
        FloatFn::Rcp => soft::div(soft::one(soft::F32), wide(a), soft::F32, round) as u32,
        FloatFn::Sqrt => soft::sqrt(wide(a), soft::F32, round) as u32,
        FloatFn::Min | FloatFn::Max | FloatFn::MinNan | FloatFn::MaxNan => {
            min_max(f, wide(a), wide(b), soft::F32, 31) as u32
        }
        FloatFn::Abs => a & 0x7fff_ffff,
        FloatFn::Neg => a ^ 0x8000_0000,
        FloatFn::Copysign => (b & 0x7fff_ffff) | (a & 0x8000_0000),
    };
    let result = if ftz { flush(result) } else { result };
    if sat { saturate(result) } else { result }
}

/// Minimum and maximum: -0 is less than +0; of a number and a NaN the number, or NaN in the `.NaN` forms.
fn min_max(f: FloatFn, a: u64, b: u64, format: Format, sign_bit: u32) -> u64 {
    let propagate = matches!(f, FloatFn::MinNan | FloatFn::MaxNan);
    match (format.is_nan(a), format.is_nan(b)) {
        (true, true) => return format.nan(),
        (true, false) => return if propagate { format.nan() } else { b },
        (false, true) => return if propagate { format.nan() } else { a },
        (false, false) => {}
    }
    // Sign and magnitude as an integer that orders like the numbers, -0 before +0.
    let key = |bits: u64| {
        let magnitude = (bits & ((1 << sign_bit) - 1)) as i64;
        if bits >> sign_bit & 1 == 1 {
            -magnitude - 1
        } else {
            magnitude
        }
    };
    let less = key(a) < key(b);
    if less == matches!(f, FloatFn::Min | FloatFn::MinNan) {
        a
    } else {
        b
    }
}

/// An f64 operation.
#[inline]
pub(crate) fn f64_op(f: FloatFn, round: Round, a: u64, b: u64, c: u64) -> u64 {
    let (x, y, z) = (f64::from_bits(a), f64::from_bits(b), f64::from_bits(c));
    let nearest = round == Round::Nearest;
    match f {
        FloatFn::Add if nearest => (x + y).to_bits(),
        FloatFn::Sub if nearest => (x - y).to_bits(),
        FloatFn::Mul if nearest => (x * y).to_bits(),
        FloatFn::Fma | FloatFn::FmaRelu if nearest => x.mul_add(y, z).to_bits(),
        FloatFn::Div if nearest => (x / y).to_bits(),
        FloatFn::Rcp if nearest => (1.0 / x).to_bits(),
        FloatFn::Sqrt if nearest => x.sqrt().to_bits(),
        FloatFn::Add => soft::add(a, b, soft::F64, round),
        FloatFn::Sub => soft::add(a, b ^ 1 << 63, soft::F64, round),
        FloatFn::Mul => soft::mul(a, b, soft::F64, round),
        FloatFn::Fma | FloatFn::FmaRelu => soft::fma(a, b, c, soft::F64, round),
        FloatFn::Div => soft::div(a, b, soft::F64, round),
        FloatFn::Rcp => soft::div(soft::one(soft::F64), a, soft::F64, round),
        FloatFn::Sqrt => soft::sqrt(a, soft::F64, round),
        FloatFn::Min | FloatFn::Max | FloatFn::MinNan | FloatFn::MaxNan => {
            min_max(f, a, b, soft::F64, 63)
        }
        FloatFn::Abs => a & !(1 << 63),
        FloatFn::Neg => a ^ 1 << 63,
        FloatFn::Copysign => (b & !(1 << 63)) | (a & 1 << 63),
    }
}

/// A half or bfloat operation on 16 bits.
fn half_op(f: FloatFn, format: Format, ftz: bool, sat: bool, a: u32, b: u32, c: u32) -> u32 {
    let subnormal = |v: u32| {
        if ftz && v & 0x7c00 == 0 {
            v & 0x8000
        } else {
            v
        }
    };
    let [a, b, c] = [a, b, c].map(|v| u64::from(subnormal(v & 0xffff)));
    let round = Round::Nearest;
    let result = match f {
        FloatFn::Add => soft::add(a, b, format, round),
        FloatFn::Sub => soft::add(a, b ^ 0x8000, format, round),
        FloatFn::Mul => soft::mul(a, b, format, round),
        FloatFn::Fma => soft::fma(a, b, c, format, round),
        FloatFn::FmaRelu => {
            let value = soft::fma(a, b, c, format, round);
            if format.is_nan(value) || value & 0x8000 == 0 {
                value
            } else {
                0
            }
        }
        FloatFn::Min | FloatFn::Max | FloatFn::MinNan | FloatFn::MaxNan => {
            min_max(f, a, b, format, 15)
        }
        FloatFn::Abs => a & 0x7fff,
        FloatFn::Neg => a ^ 0x8000,
        FloatFn::Copysign => (b & 0x7fff) | (a & 0x8000),
        // The decoder lets no half form of these through.
        FloatFn::Div | FloatFn::Rcp | FloatFn::Sqrt => format.nan(),
    };
    let result = subnormal(result as u32);
    if !sat {
        return result;
    }
    if format.is_nan(u64::from(result)) || result & 0x8000 != 0 {
        0
    } else {
        result.min(soft::one(format) as u32)
    }
}

/// An operation on `.f16`, `.bf16` or their packed pairs.
pub(crate) fn small_op(f: FloatFn, ty: Ty, ftz: bool, sat: bool, a: u32, b: u32, c: u32) -> u32 {
    let format = if matches!(ty, Ty::F16 | Ty::F16x2) {
        soft::F16
    } else {
        soft::BF16
    };
    let low = half_op(f, format, ftz, sat, a, b, c);
    if matches!(ty, Ty::F16 | Ty::BF16) {
        return low;
    }
    low | half_op(f, format, ftz, sat, a >> 16, b >> 16, c >> 16) << 16
}

/// An approximate function: computed in f64 and rounded once.
pub(crate) fn approx32(f: ApproxFn, ftz: bool, sat: bool, a: u32, b: u32) -> u32 {
    let (a, b) = if ftz { (flush(a), flush(b)) } else { (a, b) };
    let (x, y) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
    let value = match f {
        ApproxFn::Ex2 => x.exp2(),
        ApproxFn::Lg2 => x.log2(),
        ApproxFn::Rcp => 1.0 / x,
        // Like the hardware, -0 gives -infinity.
        ApproxFn::Rsqrt if x == 0.0 => 1.0 / x,
        ApproxFn::Rsqrt => 1.0 / x.sqrt(),
        ApproxFn::Sqrt => x.sqrt(),
        ApproxFn::Sin => x.sin(),
        ApproxFn::Cos => x.cos(),
        ApproxFn::Tanh => x.tanh(),
        ApproxFn::Div => x / y,
    };
    let result = canonical(value as f32);
    let result = if ftz { flush(result) } else { result };
    if sat { saturate(result) } else { result }
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.f64`.
pub(crate) fn approx64(f: ApproxFn, a: u64) -> u64 {
    let x = f64::from_bits(a);
    match f {
        ApproxFn::Rsqrt if x == 0.0 => (1.0 / x).to_bits(),
        ApproxFn::Rsqrt => (1.0 / x.sqrt()).to_bits(),
        _ => (1.0 / x).to_bits(),
    }
}

/// `ex2` and `tanh` of halves.
pub(crate) fn approx_small(f: ApproxFn, ty: Ty, a: u32) -> u32 {
    let format = if matches!(ty, Ty::F16 | Ty::F16x2) {
        soft::F16
    } else {
        soft::BF16
    };
    let one = |bits: u32| {
        let x = f64::from_bits(soft::convert(
            u64::from(bits & 0xffff),
            format,
            soft::F64,
            Round::Nearest,
        ));
        let value = if f == ApproxFn::Tanh {
            x.tanh()
        } else {
            x.exp2()
        };
        soft::convert(value.to_bits(), soft::F64, format, Round::Nearest) as u32
    };
    if matches!(ty, Ty::F16 | Ty::BF16) {
        one(a)
    } else {
        one(a) | one(a >> 16) << 16
    }
}

/// `testp`.
pub(crate) fn test(what: TestKind, ty: Ty, bits: u64) -> bool {
    let value = if ty == Ty::F64 {
        f64::from_bits(bits)
    } else {
        f64::from(f32::from_bits(bits as u32))
    };
    let normal = if ty == Ty::F64 {
        value.is_normal()
    } else {
        f32::from_bits(bits as u32).is_normal()
    };
    match what {
        TestKind::Finite => value.is_finite(),
        TestKind::Infinite => value.is_infinite(),
        TestKind::Number => !value.is_nan(),
        TestKind::NotANumber => value.is_nan(),
        TestKind::Normal => normal,
        TestKind::Subnormal => value.is_finite() && value != 0.0 && !normal,
    }
}

/// `a * b + c` to nearest on 32 lanes.
pub(crate) fn fma_lanes(a: &[u32; 32], b: &[u32; 32], c: &[u32; 32], out: &mut [u32; 32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the call needs AVX2 and FMA, which were just found; it touches only the borrowed arrays, for
        // the length of the call.
        unsafe { fma_lanes_x86(a, b, c, out) };
        return;
    }
    fma_each(a, b, c, out);
}

#[inline(always)]
fn fma_each(a: &[u32; 32], b: &[u32; 32], c: &[u32; 32], out: &mut [u32; 32]) {
    for i in 0..32 {
        out[i] =
            canonical(f32::from_bits(a[i]).mul_add(f32::from_bits(b[i]), f32::from_bits(c[i])));
    }
}

/// With the features on, the loop compiles to fused instructions instead of calls.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma_lanes_x86(a: &[u32; 32], b: &[u32; 32], c: &[u32; 32], out: &mut [u32; 32]) {
    fma_each(a, b, c, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_and_max_follow_ptx_on_nan_and_zero() {
        let nan = 0x7fc0_0000;
        let op = |f, a, b| f32_op(f, Round::Nearest, false, false, a, b, 0);
        assert_eq!(op(FloatFn::Min, nan, 0x3f80_0000), 0x3f80_0000);
        assert_eq!(op(FloatFn::MinNan, nan, 0x3f80_0000), NAN32);
        assert_eq!(op(FloatFn::Max, nan, nan), NAN32);
        assert_eq!(op(FloatFn::Min, 0, 0x8000_0000), 0x8000_0000);
        assert_eq!(op(FloatFn::Max, 0x8000_0000, 0), 0);
    }

    #[test]
    fn flush_and_saturate() {
        assert_eq!(
            f32_op(FloatFn::Add, Round::Nearest, true, false, 1, 0x8000_0001, 0),
            0
        );
        assert_eq!(
            f32_op(
                FloatFn::Mul,
                Round::Nearest,
                true,
                false,
                0x0080_0000,
                0x3f00_0000,
                0
            ),
            0
        );
        assert_eq!(
            f32_op(
                FloatFn::Mul,
                Round::Nearest,
                false,
                false,
                0x0080_0000,
                0x3f00_0000,
                0
            ),
            0x0040_0000
        );
        assert_eq!(
            f32_op(FloatFn::Add, Round::Nearest, false, true, 0x4000_0000, 0, 0),
            0x3f80_0000
        );
        assert_eq!(
            f32_op(FloatFn::Add, Round::Nearest, false, true, NAN32, 0, 0),
            0
        );
    }

    #[test]
    fn the_vector_leaf_equals_the_scalar() {
        let value =
            |i: usize, k: u32| (i as u32).wrapping_mul(2654435761).wrapping_mul(k) ^ 0x3f00_0000;
        let a: [u32; 32] = std::array::from_fn(|i| value(i, 3));
        let b: [u32; 32] = std::array::from_fn(|i| value(i, 5));
        let c: [u32; 32] = std::array::from_fn(|i| value(i, 7));
        let mut out = [0; 32];
        fma_lanes(&a, &b, &c, &mut out);
        for i in 0..32 {
            assert_eq!(
                out[i],
                f32_op(FloatFn::Fma, Round::Nearest, false, false, a[i], b[i], c[i])
            );
        }
    }
}
