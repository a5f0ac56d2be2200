//! Conversions, one scalar at a time.

use super::float::flush;
use super::soft::{self, Format};
use crate::ptx::isa::{Round, Ty};

fn format(ty: Ty) -> Format {
    match ty {
        Ty::F16 | Ty::F16x2 => soft::F16,
        Ty::BF16 | Ty::BF16x2 => soft::BF16,
        Ty::F64 => soft::F64,
        _ => soft::F32,
    }
}

/// Sign- or zero-extends the low bits of a register to the type's full value.
fn extend(bits: u64, ty: Ty) -> i128 {
    match ty {
        Ty::S8 => i128::from(bits as i8),
        Ty::S16 => i128::from(bits as i16),
        Ty::S32 => i128::from(bits as i32),
        Ty::S64 => i128::from(bits as i64),
        Ty::U8 | Ty::B8 => i128::from(bits as u8),
        Ty::U16 | Ty::B16 => i128::from(bits as u16),
        Ty::U64 | Ty::B64 => i128::from(bits),
        _ => i128::from(bits as u32),
    }
}

fn range(ty: Ty) -> (i128, i128) {
    let bits = ty.bytes() * 8;
    if ty.is_signed() {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

/// Rounds to an integral value.
pub(crate) fn integral(value: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => value.round_ties_even(),
        Round::NearestAway => value.round(),
        Round::Zero => value.trunc(),
        Round::Down => value.floor(),
        Round::Up => value.ceil(),
    }
}

/// The modifiers of a conversion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub round: Round,
    /// The rounding is to an integral value (`.rni`, ...).
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
}

/// `cvt`: from the bits of one type to the bits of another. A signed result is sign-extended to 64 bits, as a
/// wider destination register wants it.
pub(crate) fn convert(to: Ty, from: Ty, how: How, bits: u64) -> u64 {
    match (from.is_float(), to.is_float()) {
        (false, false) => {
            let value = extend(bits, from);
            let (low, high) = range(to);
            let value = if how.sat {
                value.clamp(low, high)
            } else {
                value
            };
            extend(value as u64, to) as u64
        }
        (false, true) => {
            let value = extend(bits, from);
            let result = soft::from_integer(
                value < 0,
                value.unsigned_abs() as u64,
                format(to),
                how.round,
            );
            clamp_unit(result, to, how.sat)
        }
        (true, false) => {
            let flushed = if how.ftz && from == Ty::F32 {
                u64::from(flush(bits as u32))
            } else {
                bits
            };
            let value = f64::from_bits(soft::convert(
                flushed,
                format(from),
                soft::F64,
                Round::Nearest,
            ));
            let (low, high) = range(to);
            if value.is_nan() {
                let wide = from == Ty::F64 || matches!(to, Ty::S64 | Ty::U64);
                return if wide {
                    extend(1 << (to.bytes() * 8 - 1), to) as u64
                } else {
                    0
                };
            }
            let value = integral(value, how.round);
            // The bounds of 64 bits are no f64, but `as` saturates to them.
            (value as i128).clamp(low, high) as u64
        }
        (true, true) => float_to_float(to, from, how, bits),
    }
}

fn clamp_unit(bits: u64, ty: Ty, sat: bool) -> u64 {
    if !sat {
        return bits;
    }
    let format = format(ty);
    let negative = bits >> (ty.bytes() * 8 - 1) & 1 == 1;
    if negative || format.is_nan(bits) {
        0
    } else {
        bits.min(soft::one(format))
    }
}

fn float_to_float(to: Ty, from: Ty, how: How, bits: u64) -> u64 {
    let bits = if how.ftz && from == Ty::F32 {
        u64::from(flush(bits as u32))
    } else {
        bits
    };
    if to == Ty::TF32 {
        let rounded = soft::convert(bits, soft::F32, soft::TF32, how.round);
        let value = if soft::TF32.is_nan(rounded) {
            u64::from(super::float::NAN32)
        } else {
            rounded << 13
        };
        return if how.relu && value >> 31 == 1 {
            0
        } else {
            value
        };
    }
    let result = if how.integral {
        let value = f64::from_bits(soft::convert(bits, format(from), soft::F64, Round::Nearest));
        // Exact in the narrower format, because rounding to an integer leaves no more bits than before.
        soft::convert(
            integral(value, how.round).to_bits(),
            soft::F64,
            format(to),
            Round::Nearest,
        )
    } else if to == from {
        if format(from).is_nan(bits) {
            format(to).nan()
        } else {
            bits
        }
    } else {
        soft::convert(bits, format(from), format(to), how.round)
    };
    let result = if how.ftz && to == Ty::F32 {
        u64::from(flush(result as u32))
    } else {
        result
    };
    if how.relu && result >> (to.bytes() * 8 - 1) & 1 == 1 {
        return 0;
    }
    clamp_unit(result, to, how.sat)
}

/// `cvt.rn.f16x2.f32 d, a, b`: `a` goes to the upper half.
pub(crate) fn pack_pair(to: Ty, round: Round, relu: bool, a: u32, b: u32) -> u32 {
    let how = How {
        round,
        integral: false,
        ftz: false,
        sat: false,
        relu,
    };
    let half = if to == Ty::F16x2 { Ty::F16 } else { Ty::BF16 };
    let one = |bits: u32| convert(half, Ty::F32, how, u64::from(bits)) as u32;
    one(a) << 16 | one(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(round: Round) -> How {
        How {
            round,
            integral: false,
            ftz: false,
            sat: false,
            relu: false,
        }
    }

    fn f32_to(to: Ty, round: Round, value: f32) -> u64 {
        convert(
            to,
            Ty::F32,
            How {
                integral: true,
                ..how(round)
            },
            u64::from(value.to_bits()),
        )
    }

    #[test]
    fn float_to_integer_rounds_and_clamps() {
        assert_eq!(f32_to(Ty::S32, Round::Nearest, 2.5), 2);
        assert_eq!(f32_to(Ty::S32, Round::Zero, -2.7) as i32, -2);
        assert_eq!(f32_to(Ty::S32, Round::Down, -2.1) as i32, -3);
        assert_eq!(f32_to(Ty::U32, Round::Up, 2.1), 3);
        assert_eq!(f32_to(Ty::U8, Round::Nearest, 300.0), 255);
        assert_eq!(f32_to(Ty::S32, Round::Nearest, 1e20) as i32, i32::MAX);
        assert_eq!(
            f32_to(Ty::S64, Round::Nearest, f32::INFINITY) as i64,
            i64::MAX
        );
        assert_eq!(f32_to(Ty::U64, Round::Nearest, f32::INFINITY), u64::MAX);
        assert_eq!(f32_to(Ty::U32, Round::Nearest, -1.0), 0);
        assert_eq!(f32_to(Ty::S32, Round::Nearest, f32::NAN), 0);
        assert_eq!(f32_to(Ty::S64, Round::Nearest, f32::NAN), 1 << 63);
    }

    #[test]
    fn integer_to_float_honours_every_rounding() {
        let up = convert(Ty::F32, Ty::U32, how(Round::Up), 0x0100_0001);
        let down = convert(Ty::F32, Ty::U32, how(Round::Down), 0x0100_0001);
        assert_eq!(
            (up, down),
            (
                u64::from(16777218f32.to_bits()),
                u64::from(16777216f32.to_bits())
            )
        );
        assert_eq!(
            convert(Ty::F32, Ty::S32, how(Round::Nearest), -3i32 as u32 as u64),
            u64::from((-3f32).to_bits())
        );
    }

    #[test]
    fn integers_widen_narrow_and_saturate() {
        assert_eq!(
            convert(Ty::S32, Ty::S8, how(Round::Nearest), 0x80),
            -128i64 as u64
        );
        assert_eq!(convert(Ty::U32, Ty::U8, how(Round::Nearest), 0x1ff), 0xff);
        let sat = How {
            sat: true,
            ..how(Round::Nearest)
        };
        assert_eq!(convert(Ty::S8, Ty::S32, sat, 1000), 127);
        assert_eq!(convert(Ty::U8, Ty::S32, sat, -5i32 as u32 as u64), 0);
    }

    #[test]
    fn tf32_keeps_ten_bits_and_rounds_ties_away() {
        let tie = 0x3f80_1000;
        assert_eq!(
            convert(Ty::TF32, Ty::F32, how(Round::NearestAway), tie),
            0x3f80_2000
        );
        assert_eq!(
            convert(Ty::TF32, Ty::F32, how(Round::Zero), 0x3f80_1fff),
            0x3f80_0000
        );
    }

    #[test]
    fn pairs_put_the_first_source_on_top() {
        let packed = pack_pair(
            Ty::BF16x2,
            Round::Nearest,
            false,
            1f32.to_bits(),
            2f32.to_bits(),
        );
        assert_eq!(packed, 0x3f80_4000);
        assert_eq!(
            pack_pair(
                Ty::F16x2,
                Round::Nearest,
                true,
                (-1f32).to_bits(),
                1f32.to_bits()
            ),
            0x3c00
        );
    }
}
