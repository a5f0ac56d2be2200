//! IEEE arithmetic in integers: any rounding, any of the binary formats. The interpreter uses it where the host
//! has no instruction: directed roundings, halves, and conversions that narrow.

use crate::ptx::isa::Round;

/// A binary interchange format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    exponent_bits: u32,
    fraction_bits: u32,
}

pub(crate) const F16: Format = Format {
    exponent_bits: 5,
    fraction_bits: 10,
};
pub(crate) const BF16: Format = Format {
    exponent_bits: 8,
    fraction_bits: 7,
};
pub(crate) const TF32: Format = Format {
    exponent_bits: 8,
    fraction_bits: 10,
};
pub(crate) const F32: Format = Format {
    exponent_bits: 8,
    fraction_bits: 23,
};
pub(crate) const F64: Format = Format {
    exponent_bits: 11,
    fraction_bits: 52,
};

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    fn infinity(self, negative: bool) -> u64 {
        self.sign(negative) | ((1 << self.exponent_bits) - 1) << self.fraction_bits
    }

    fn sign(self, negative: bool) -> u64 {
        u64::from(negative) << (self.exponent_bits + self.fraction_bits)
    }

    /// The NaN that PTX arithmetic yields.
    pub fn nan(self) -> u64 {
        match self.fraction_bits {
            52 => 0x7ff8_0000_0000_0000,
            // All ones but the sign.
            _ => (1 << (self.exponent_bits + self.fraction_bits)) - 1,
        }
    }

    pub fn is_nan(self, bits: u64) -> bool {
        bits & !self.sign(true) > self.infinity(false)
    }
}

/// Zero, finite (mantissa times two to the exponent), infinite or NaN.
#[derive(Debug, Clone, Copy)]
enum Value {
    Zero,
    Finite { mantissa: u128, exponent: i32 },
    Infinite,
    Nan,
}

fn unpack(bits: u64, format: Format) -> (bool, Value) {
    let negative = bits & format.sign(true) != 0;
    let fraction = bits & ((1 << format.fraction_bits) - 1);
    let exponent = (bits >> format.fraction_bits) as i32 & ((1 << format.exponent_bits) - 1);
    let unit = 1 - format.bias() - format.fraction_bits as i32;
    let value = if exponent == (1 << format.exponent_bits) - 1 {
        if fraction == 0 {
            Value::Infinite
        } else {
            Value::Nan
        }
    } else if exponent == 0 {
        if fraction == 0 {
            Value::Zero
        } else {
            Value::Finite {
                mantissa: u128::from(fraction),
                exponent: unit,
            }
        }
    } else {
        let mantissa = u128::from(fraction | 1 << format.fraction_bits);
        Value::Finite {
            mantissa,
            exponent: unit + exponent - 1,
        }
    };
    (negative, value)
}

/// Whether the magnitude is rounded away from zero, given the bits cut off against half a unit.
fn rounds_up(round: Round, negative: bool, odd: bool, cut: u128, half: u128, sticky: bool) -> bool {
    let inexact = cut != 0 || sticky;
    match round {
        Round::Nearest => cut > half || (cut == half && half != 0 && (sticky || odd)),
        Round::NearestAway => cut >= half && half != 0,
        Round::Zero => false,
        Round::Up => inexact && !negative,
        Round::Down => inexact && negative,
    }
}

/// Rounds `mantissa` times two to the `exponent` (plus a little if `sticky`) into a format.
fn pack(
    negative: bool,
    mantissa: u128,
    exponent: i32,
    sticky: bool,
    format: Format,
    round: Round,
) -> u64 {
    if mantissa == 0 && !sticky {
        return format.sign(negative);
    }
    let bits = 128 - mantissa.leading_zeros() as i32;
    let precision = format.fraction_bits as i32 + 1;
    let smallest = 1 - format.bias() - format.fraction_bits as i32;
    let mut unit = (exponent + bits - precision).max(smallest);
    let shift = unit - exponent;
    let mut kept;
    if shift > 0 {
        let (cut, half) = if shift > 127 {
            // All of it is cut and is less than half a unit.
            kept = 0;
            (u128::from(mantissa != 0), 2)
        } else {
            kept = mantissa >> shift;
            (mantissa & ((1 << shift) - 1), 1 << (shift - 1))
        };
        kept += u128::from(rounds_up(round, negative, kept & 1 == 1, cut, half, sticky));
    } else {
        kept = mantissa << -shift;
        kept += u128::from(rounds_up(round, negative, kept & 1 == 1, 0, 0, sticky));
    }
    if kept == 1 << precision {
        kept >>= 1;
        unit += 1;
    }
    if kept < 1 << format.fraction_bits {
        return format.sign(negative) | kept as u64;
    }
    let biased = unit + format.fraction_bits as i32 + format.bias();
    if biased >= (1 << format.exponent_bits) - 1 {
        let to_infinity = match round {
            Round::Nearest | Round::NearestAway => true,
            Round::Zero => false,
            Round::Up => !negative,
            Round::Down => negative,
        };
        return format.infinity(negative) - u64::from(!to_infinity);
    }
    let fraction = kept as u64 & ((1 << format.fraction_bits) - 1);
    format.sign(negative) | (biased as u64) << format.fraction_bits | fraction
}

/// Shifts the top bit to bit 125, which leaves room for a carry and for bits to cancel.
fn normalise(mantissa: u128, exponent: i32) -> (u128, i32) {
    let shift = mantissa.leading_zeros() as i32 - 2;
    if shift >= 0 {
        (mantissa << shift, exponent - shift)
    } else {
        (mantissa >> -shift, exponent - shift)
    }
}

/// `a * b + c` with one rounding.
pub(crate) fn fma(a: u64, b: u64, c: u64, format: Format, round: Round) -> u64 {
    let ((na, a), (nb, b), (nc, c)) = (unpack(a, format), unpack(b, format), unpack(c, format));
    let np = na != nb;
    let product = match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => return format.nan(),
        (Value::Infinite, Value::Zero) | (Value::Zero, Value::Infinite) => return format.nan(),
        (Value::Infinite, _) | (_, Value::Infinite) => Value::Infinite,
        (Value::Zero, _) | (_, Value::Zero) => Value::Zero,
        (
            Value::Finite {
                mantissa: ma,
                exponent: ea,
            },
            Value::Finite {
                mantissa: mb,
                exponent: eb,
            },
        ) => Value::Finite {
            mantissa: ma * mb,
            exponent: ea + eb,
        },
    };
    match (product, c) {
        (_, Value::Nan) => format.nan(),
        (Value::Infinite, Value::Infinite) if np != nc => format.nan(),
        (Value::Infinite, _) => format.infinity(np),
        (_, Value::Infinite) => format.infinity(nc),
        (Value::Zero, Value::Zero) => format.sign(if np == nc { np } else { round == Round::Down }),
        (Value::Zero, Value::Finite { mantissa, exponent }) => {
            pack(nc, mantissa, exponent, false, format, round)
        }
        (Value::Finite { mantissa, exponent }, Value::Zero) => {
            pack(np, mantissa, exponent, false, format, round)
        }
        (
            Value::Finite {
                mantissa: mp,
                exponent: ep,
            },
            Value::Finite {
                mantissa: mc,
                exponent: ec,
            },
        ) => {
            let (p, c) = (normalise(mp, ep), normalise(mc, ec));
            let ((big, e, negative), (small, es, other)) = if (p.1, p.0) >= (c.1, c.0) {
                ((p.0, p.1, np), (c.0, c.1, nc))
            } else {
                ((c.0, c.1, nc), (p.0, p.1, np))
            };
            let distance = (e - es) as u32;
            let (aligned, sticky) = if distance > 127 {
                (0, true)
            } else {
                (
                    small >> distance,
                    distance > 0 && small & ((1 << distance) - 1) != 0,
                )
            };
            if negative == other {
                return pack(negative, big + aligned, e, sticky, format, round);
            }
            // What is cut off the smaller one makes the difference a little less than big - aligned.
            let difference = big - aligned - u128::from(sticky);
            if difference == 0 && !sticky {
                return format.sign(round == Round::Down);
            }
            pack(negative, difference, e, sticky, format, round)
        }
        (Value::Nan, _) => format.nan(),
    }
}

/// `a + b`.
pub(crate) fn add(a: u64, b: u64, format: Format, round: Round) -> u64 {
    fma(a, one(format), b, format, round)
}

/// `a * b`.
pub(crate) fn mul(a: u64, b: u64, format: Format, round: Round) -> u64 {
    // Adding a zero of the product's own sign changes nothing, not even the sign of a zero product.
    let zero = (a ^ b) & format.sign(true);
    fma(a, b, zero, format, round)
}

/// 1.0.
pub(crate) fn one(format: Format) -> u64 {
    (format.bias() as u64) << format.fraction_bits
}

/// `a / b`.
pub(crate) fn div(a: u64, b: u64, format: Format, round: Round) -> u64 {
    let ((na, a), (nb, b)) = (unpack(a, format), unpack(b, format));
    let negative = na != nb;
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => format.nan(),
        (Value::Infinite, Value::Infinite) | (Value::Zero, Value::Zero) => format.nan(),
        (Value::Infinite, _) | (_, Value::Zero) => format.infinity(negative),
        (Value::Zero, _) | (_, Value::Infinite) => format.sign(negative),
        (
            Value::Finite {
                mantissa: ma,
                exponent: ea,
            },
            Value::Finite {
                mantissa: mb,
                exponent: eb,
            },
        ) => {
            let (ma, ea) = normalise(ma, ea);
            pack(negative, ma / mb, ea - eb, ma % mb != 0, format, round)
        }
    }
}

/// The square root.
pub(crate) fn sqrt(a: u64, format: Format, round: Round) -> u64 {
    match unpack(a, format) {
        (_, Value::Nan) => format.nan(),
        (_, Value::Zero) => a,
        (true, _) => format.nan(),
        (false, Value::Infinite) => a,
        (false, Value::Finite { mantissa, exponent }) => {
            let (mut mantissa, mut exponent) = normalise(mantissa, exponent);
            if exponent % 2 != 0 {
                mantissa <<= 1;
                exponent -= 1;
            }
            let root = mantissa.isqrt();
            pack(
                false,
                root,
                exponent / 2,
                root * root != mantissa,
                format,
                round,
            )
        }
    }
}

/// Converts between formats.
pub(crate) fn convert(a: u64, from: Format, to: Format, round: Round) -> u64 {
    match unpack(a, from) {
        (_, Value::Nan) => to.nan(),
        (negative, Value::Zero) => to.sign(negative),
        (negative, Value::Infinite) => to.infinity(negative),
        (negative, Value::Finite { mantissa, exponent }) => {
            pack(negative, mantissa, exponent, false, to, round)
        }
    }
}

/// Converts an integer.
pub(crate) fn from_integer(negative: bool, magnitude: u64, to: Format, round: Round) -> u64 {
    pack(negative, u128::from(magnitude), 0, false, to, round)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few thousand bit patterns with the corners among them, from a fixed linear congruence.
    fn patterns() -> Vec<u64> {
        let mut list = vec![
            0,
            1,
            0x8000_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0x0080_0000,
            0x7f7f_ffff,
        ];
        let mut state = 12345u64;
        for _ in 0..300 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            list.push(state >> 32);
            // Exponents near 1, where additions cancel.
            list.push((state >> 32 & 0x807f_ffff) | 0x3f80_0000);
        }
        list
    }

    fn same(ours: u64, host: f32) -> bool {
        if host.is_nan() {
            F32.is_nan(ours)
        } else {
            ours as u32 == host.to_bits()
        }
    }

    #[test]
    fn agrees_with_the_host_to_nearest() {
        let list = patterns();
        for (i, a) in list.iter().enumerate() {
            for b in list.iter().skip(i % 7).step_by(7) {
                let c = list[(i * 31 + *b as usize) % list.len()];
                let (x, y, z) = (
                    f32::from_bits(*a as u32),
                    f32::from_bits(*b as u32),
                    f32::from_bits(c as u32),
                );
                let r = Round::Nearest;
                assert!(same(add(*a, *b, F32, r), x + y), "{x} + {y}");
                assert!(same(mul(*a, *b, F32, r), x * y), "{x} * {y}");
                assert!(same(div(*a, *b, F32, r), x / y), "{x} / {y}");
                assert!(
                    same(fma(*a, *b, c, F32, r), x.mul_add(y, z)),
                    "{x} * {y} + {z}"
                );
            }
            assert!(same(
                sqrt(*a, F32, Round::Nearest),
                f32::from_bits(*a as u32).sqrt()
            ));
        }
    }

    #[test]
    fn f64_agrees_with_the_host() {
        let list = patterns();
        for (i, a) in list.iter().enumerate() {
            let a = a << 32 | list[(i * 17) % list.len()];
            let b = list[(i * 13 + 5) % list.len()] << 32 | 12345;
            let (x, y) = (f64::from_bits(a), f64::from_bits(b));
            let check = |ours: u64, host: f64| {
                assert!(
                    if host.is_nan() {
                        F64.is_nan(ours)
                    } else {
                        ours == host.to_bits()
                    },
                    "{x} {y}"
                );
            };
            check(add(a, b, F64, Round::Nearest), x + y);
            check(mul(a, b, F64, Round::Nearest), x * y);
            check(div(a, b, F64, Round::Nearest), x / y);
            check(sqrt(a, F64, Round::Nearest), x.sqrt());
            check(fma(a, b, a, F64, Round::Nearest), x.mul_add(y, x));
            let single = x as f32;
            let ours = convert(a, F64, F32, Round::Nearest);
            assert!(if single.is_nan() {
                F32.is_nan(ours)
            } else {
                ours as u32 == single.to_bits()
            });
        }
    }

    #[test]
    fn directed_roundings_bracket_the_result() {
        let third = |round| f32::from_bits(div(one(F32), 0x4040_0000, F32, round) as u32);
        assert_eq!(third(Round::Down).to_bits(), 0x3eaa_aaaa);
        assert_eq!(third(Round::Zero).to_bits(), 0x3eaa_aaaa);
        assert_eq!(third(Round::Up).to_bits(), 0x3eaa_aaab);
        // 1 + 2^-60 rounds up to the next float, and overflow respects the direction.
        let tiny = u64::from(2f32.powi(-60).to_bits());
        assert_eq!(add(one(F32), tiny, F32, Round::Up), 0x3f80_0001);
        assert_eq!(
            add(one(F32), tiny | 0x8000_0000, F32, Round::Zero),
            0x3f7f_ffff
        );
        assert_eq!(mul(0x7f7f_ffff, 0x4000_0000, F32, Round::Zero), 0x7f7f_ffff);
        assert_eq!(mul(0x7f7f_ffff, 0x4000_0000, F32, Round::Up), 0x7f80_0000);
        // x - x is -0 only when rounding down.
        assert_eq!(
            add(one(F32), one(F32) | 0x8000_0000, F32, Round::Down),
            0x8000_0000
        );
        assert_eq!(
            add(one(F32), one(F32) | 0x8000_0000, F32, Round::Nearest),
            0
        );
    }

    #[test]
    fn halves_agree_with_an_independent_conversion() {
        for bits in patterns() {
            let x = f32::from_bits(bits as u32);
            if x.is_nan() {
                continue;
            }
            let ours = convert(u64::from(bits as u32), F32, F16, Round::Nearest);
            assert_eq!(ours as u16, half::f16::from_f32(x).to_bits(), "{x}");
            let ours = convert(u64::from(bits as u32), F32, BF16, Round::Nearest);
            assert_eq!(ours as u16, half::bf16::from_f32(x).to_bits(), "{x}");
        }
        assert_eq!(convert(1, F32, F16, Round::Up), 1);
        assert_eq!(convert(1, F32, F16, Round::Nearest), 0);
    }
}
