//! Integer, logic and bit instructions on 32 lanes.

use super::registers::{Constants, Lanes32, Registers};
use crate::ptx::isa::{Carry, CountFn, IntFn, Reg, Ty};

/// Operands of a three-source instruction.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub d: Reg,
    pub a: Reg,
    pub b: Reg,
    pub c: Reg,
}

#[inline(always)]
fn map32(
    r: &mut Registers,
    k: &Constants,
    o: Operands,
    mask: u32,
    f: impl Fn(u32, u32, u32) -> u32,
) {
    let absent = [0; 32];
    let a = r.r32(k, o.a);
    let b = if o.b.is_none() {
        &absent
    } else {
        r.r32(k, o.b)
    };
    let c = if o.c.is_none() {
        &absent
    } else {
        r.r32(k, o.c)
    };
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i], c[i]);
    }
    r.set32(o.d, &out, mask);
}

#[inline(always)]
fn map64(
    r: &mut Registers,
    k: &Constants,
    o: Operands,
    mask: u32,
    f: impl Fn(u64, u64, u64) -> u64,
) {
    // Shift amounts and the like are 32-bit registers beside 64-bit ones.
    let get = |reg: Reg| {
        if reg.is_none() {
            [0; 32]
        } else {
            r.any(k, reg)
        }
    };
    let (a, b, c) = (get(o.a), get(o.b), get(o.c));
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i], c[i]);
    }
    r.set64(o.d, &out, mask);
}

/// Runs a closure on operands read as the native type of `ty`.
macro_rules! typed {
    ($r:expr, $k:expr, $o:expr, $mask:expr, $ty:expr, |$a:ident, $b:ident, $c:ident| $body:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => map32($r, $k, $o, $mask, |$a, $b, $c| {
                let ($a, $b, $c) = ($a as u16, $b as u16, $c as u16);
                let _ = ($b, $c);
                u32::from(($body) as u16)
            }),
            Ty::S16 => map32($r, $k, $o, $mask, |$a, $b, $c| {
                let ($a, $b, $c) = ($a as i16, $b as i16, $c as i16);
                let _ = ($b, $c);
                u32::from(($body) as u16)
            }),
            Ty::S32 => map32($r, $k, $o, $mask, |$a, $b, $c| {
                let ($a, $b, $c) = ($a as i32, $b as i32, $c as i32);
                let _ = ($b, $c);
                ($body) as u32
            }),
            Ty::U64 | Ty::B64 => map64($r, $k, $o, $mask, |$a, $b, $c| {
                let _ = ($b, $c);
                $body
            }),
            Ty::S64 => map64($r, $k, $o, $mask, |$a, $b, $c| {
                let ($a, $b, $c) = ($a as i64, $b as i64, $c as i64);
                let _ = ($b, $c);
                ($body) as u64
            }),
            _ => map32($r, $k, $o, $mask, |$a, $b, $c| {
                let _ = ($b, $c);
                $body
            }),
        }
    };
}

/// The upper half of a product.
trait High {
    fn high(self, other: Self) -> Self;
}

macro_rules! high {
    ($($narrow:ty, $wide:ty);*) => {$(
        impl High for $narrow {
            #[inline(always)]
            fn high(self, other: Self) -> Self {
                ((<$wide>::from(self) * <$wide>::from(other)) >> <$narrow>::BITS) as $narrow
            }
        }
    )*};
}
high!(u16, u32; i16, i32; u32, u64; i32, i64; u64, u128; i64, i128);

/// Bits of a bit-field instruction: position and length are 8 bits of their registers.
fn bfe(value: u64, start: u32, length: u32, ty: Ty) -> u64 {
    let width = ty.bytes() * 8;
    let (start, length) = (start & 0xff, length & 0xff);
    let signed = ty.is_signed();
    // Bits past the top, and the sign of a signed field, come from the most significant bit in the field.
    let top = (start + length).saturating_sub(1).min(width - 1);
    let fill = signed && length > 0 && value >> top & 1 == 1;
    let mut out = if fill { u64::MAX } else { 0 };
    for i in 0..length.min(width) {
        let at = start + i;
        let bit = if at < width {
            value >> at & 1
        } else {
            u64::from(fill)
        };
        out = (out & !(1 << i)) | bit << i;
    }
    if width == 32 { out & 0xffff_ffff } else { out }
}

fn bfi(field: u64, base: u64, start: u32, length: u32, width: u32) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    let mut out = base;
    for i in 0..length {
        let at = start + i;
        if at >= width || i >= width {
            break;
        }
        out = (out & !(1 << at)) | (field >> i & 1) << at;
    }
    out
}

fn shift_left(value: u64, by: u64, width: u32) -> u64 {
    if by >= u64::from(width) {
        0
    } else {
        value << by
    }
}

/// An integer instruction with operands of one type (shift amounts and bit positions are 32-bit).
pub(crate) fn int(
    r: &mut Registers,
    k: &Constants,
    f: IntFn,
    ty: Ty,
    o: Operands,
    e: Reg,
    mask: u32,
) {
    let width = ty.bytes() * 8;
    match f {
        // The hot ones first, on the bits: the sign does not matter.
        IntFn::Add if width == 32 => map32(r, k, o, mask, |a, b, _| a.wrapping_add(b)),
        IntFn::Sub if width == 32 => map32(r, k, o, mask, |a, b, _| a.wrapping_sub(b)),
        IntFn::MulLo if width == 32 => map32(r, k, o, mask, |a, b, _| a.wrapping_mul(b)),
        IntFn::MadLo if width == 32 => {
            map32(r, k, o, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c))
        }
        IntFn::Add => typed!(r, k, o, mask, ty, |a, b, c| a.wrapping_add(b)),
        IntFn::Sub => typed!(r, k, o, mask, ty, |a, b, c| a.wrapping_sub(b)),
        IntFn::AddSat => map32(r, k, o, mask, |a, b, _| {
            (a as i32).saturating_add(b as i32) as u32
        }),
        IntFn::SubSat => map32(r, k, o, mask, |a, b, _| {
            (a as i32).saturating_sub(b as i32) as u32
        }),
        IntFn::MulLo => typed!(r, k, o, mask, ty, |a, b, c| a.wrapping_mul(b)),
        IntFn::MulHi => typed!(r, k, o, mask, ty, |a, b, c| a.high(b)),
        IntFn::MadLo => typed!(r, k, o, mask, ty, |a, b, c| a
            .wrapping_mul(b)
            .wrapping_add(c)),
        IntFn::MadHi => typed!(r, k, o, mask, ty, |a, b, c| a.high(b).wrapping_add(c)),
        IntFn::MadHiSat => {
            map32(r, k, o, mask, |a, b, c| {
                (a as i32).high(b as i32).saturating_add(c as i32) as u32
            });
        }
        IntFn::Mul24Lo | IntFn::Mad24Lo | IntFn::Mul24Hi | IntFn::Mad24Hi => {
            let high = matches!(f, IntFn::Mul24Hi | IntFn::Mad24Hi);
            let signed = ty == Ty::S32;
            map32(r, k, o, mask, |a, b, c| {
                let extend = |v: u32| {
                    if signed {
                        i64::from((v << 8) as i32 >> 8)
                    } else {
                        i64::from(v & 0xff_ffff)
                    }
                };
                let product = extend(a) * extend(b);
                ((if high { product >> 16 } else { product }) as u32).wrapping_add(c)
            });
        }
        IntFn::Sad => typed!(r, k, o, mask, ty, |a, b, c| c.wrapping_add(if a > b {
            a.wrapping_sub(b)
        } else {
            b.wrapping_sub(a)
        })),
        // Division by zero gives all ones, as on the GPUs; PTX leaves it open.
        IntFn::Div => typed!(r, k, o, mask, ty, |a, b, c| if b == 0 {
            !b
        } else {
            a.wrapping_div(b)
        }),
        IntFn::Rem => typed!(r, k, o, mask, ty, |a, b, c| if b == 0 {
            a
        } else {
            a.wrapping_rem(b)
        }),
        IntFn::Abs => match ty {
            Ty::S16 => map32(r, k, o, mask, |a, _, _| {
                u32::from((a as i16).wrapping_abs() as u16)
            }),
            Ty::S64 => map64(r, k, o, mask, |a, _, _| (a as i64).wrapping_abs() as u64),
            _ => map32(r, k, o, mask, |a, _, _| (a as i32).wrapping_abs() as u32),
        },
        IntFn::Neg => typed!(r, k, o, mask, ty, |a, b, c| a.wrapping_neg()),
        IntFn::Min => typed!(r, k, o, mask, ty, |a, b, c| a.min(b)),
        IntFn::Max => typed!(r, k, o, mask, ty, |a, b, c| a.max(b)),
        IntFn::And => typed!(r, k, o, mask, ty, |a, b, c| a & b),
        IntFn::Or => typed!(r, k, o, mask, ty, |a, b, c| a | b),
        IntFn::Xor => typed!(r, k, o, mask, ty, |a, b, c| a ^ b),
        IntFn::Not => typed!(r, k, o, mask, ty, |a, b, c| !a),
        IntFn::Cnot => match width {
            64 => map64(r, k, o, mask, |a, _, _| u64::from(a == 0)),
            16 => map32(r, k, o, mask, |a, _, _| u32::from(a as u16 == 0)),
            _ => map32(r, k, o, mask, |a, _, _| u32::from(a == 0)),
        },
        // The amount is a u32 of its own and is not wrapped: 32 or more shifts everything out.
        IntFn::Shl => match width {
            64 => map64(r, k, o, mask, |a, b, _| shift_left(a, b, 64)),
            16 => map32(
                r,
                k,
                o,
                mask,
                |a, b, _| if b > 15 { 0 } else { (a << b) & 0xffff },
            ),
            _ => map32(r, k, o, mask, |a, b, _| if b > 31 { 0 } else { a << b }),
        },
        IntFn::Shr => match ty {
            Ty::S16 => map32(r, k, o, mask, |a, b, _| {
                u32::from((a as i16 >> b.min(15)) as u16)
            }),
            Ty::S32 => map32(r, k, o, mask, |a, b, _| (a as i32 >> b.min(31)) as u32),
            Ty::S64 => map64(r, k, o, mask, |a, b, _| (a as i64 >> b.min(63)) as u64),
            Ty::U64 | Ty::B64 => map64(r, k, o, mask, |a, b, _| if b > 63 { 0 } else { a >> b }),
            Ty::U16 | Ty::B16 => map32(
                r,
                k,
                o,
                mask,
                |a, b, _| if b > 15 { 0 } else { (a & 0xffff) >> b },
            ),
            _ => map32(r, k, o, mask, |a, b, _| if b > 31 { 0 } else { a >> b }),
        },
        IntFn::Brev => match width {
            64 => map64(r, k, o, mask, |a, _, _| a.reverse_bits()),
            _ => map32(r, k, o, mask, |a, _, _| a.reverse_bits()),
        },
        IntFn::Bfe => match width {
            64 => map64(r, k, o, mask, |a, b, c| bfe(a, b as u32, c as u32, ty)),
            _ => map32(r, k, o, mask, |a, b, c| bfe(u64::from(a), b, c, ty) as u32),
        },
        IntFn::Bfi => {
            let length = *r.r32(k, e);
            let (a, b, c) = (r.any(k, o.a), r.any(k, o.b), r.any(k, o.c));
            let out = std::array::from_fn(|i| bfi(a[i], b[i], c[i] as u32, length[i], width));
            r.set_any(o.d, &out, mask);
        }
    }
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`; the carry flag is predicate 1.
pub(crate) fn carrying(
    r: &mut Registers,
    k: &Constants,
    f: IntFn,
    ty: Ty,
    carry: Carry,
    o: Operands,
    mask: u32,
) {
    let flag = Reg::pred(1);
    let old = r.pred(crate::ptx::isa::Pred {
        index: 1,
        negated: false,
    });
    let get = |reg: Reg| {
        if reg.is_none() {
            [0; 32]
        } else {
            r.any(k, reg)
        }
    };
    let (a, b, c) = (get(o.a), get(o.b), get(o.c));
    let width = ty.bytes() * 8;
    let limit = u128::MAX >> (128 - width);
    let mut carried = 0u32;
    let out = std::array::from_fn(|i| {
        let extend = |v: u64| match ty {
            Ty::S32 => i128::from(v as i32),
            Ty::S64 => i128::from(v as i64),
            _ => i128::from(v),
        };
        let product = extend(a[i]).wrapping_mul(extend(b[i])) as u128;
        let (x, y) = match f {
            IntFn::MadLo => (product & limit, u128::from(c[i])),
            IntFn::MadHi => (product >> width & limit, u128::from(c[i])),
            _ => (u128::from(a[i]), u128::from(b[i])),
        };
        let extra = u128::from(carry.input && old >> i & 1 == 1);
        // For subtraction the flag is the borrow.
        let (sum, out) = if f == IntFn::Sub {
            (x.wrapping_sub(y).wrapping_sub(extra), x < y + extra)
        } else {
            (x + y + extra, x + y + extra > limit)
        };
        carried |= u32::from(out) << i;
        (sum & limit) as u64
    });
    r.set_any(o.d, &out, mask);
    if carry.output {
        r.set_pred(flag, carried, mask);
    }
}

/// `mul.wide` and `mad.wide`.
pub(crate) fn mul_wide(r: &mut Registers, k: &Constants, ty: Ty, o: Operands, mask: u32) {
    let (a, b) = (*r.r32(k, o.a), *r.r32(k, o.b));
    match ty {
        Ty::U16 | Ty::S16 => map32(r, k, o, mask, |a, b, c| {
            let product = if ty == Ty::S16 {
                (i32::from(a as i16) * i32::from(b as i16)) as u32
            } else {
                a * b
            };
            product.wrapping_add(c)
        }),
        _ => {
            let c = if o.c.is_none() {
                [0; 32]
            } else {
                *r.r64(k, o.c)
            };
            let mut out = [0u64; 32];
            if ty == Ty::S32 {
                for i in 0..32 {
                    out[i] = (i64::from(a[i] as i32) * i64::from(b[i] as i32))
                        .wrapping_add(c[i] as i64) as u64;
                }
            } else {
                for i in 0..32 {
                    out[i] = (u64::from(a[i]) * u64::from(b[i])).wrapping_add(c[i]);
                }
            }
            r.set64(o.d, &out, mask);
        }
    }
}

/// `popc`, `clz`, `bfind`.
pub(crate) fn count(
    r: &mut Registers,
    k: &Constants,
    f: CountFn,
    ty: Ty,
    d: Reg,
    a: Reg,
    mask: u32,
) {
    let width = ty.bytes() * 8;
    let out: Lanes32 = r.any(k, a).map(|v| match f {
        CountFn::Popc => v.count_ones(),
        CountFn::Clz => v.leading_zeros() - (64 - width),
        CountFn::Bfind | CountFn::BfindShift => {
            // Of a negative number the highest zero is looked for.
            let v = match ty {
                Ty::S32 if (v as i32) < 0 => u64::from(!(v as u32)),
                Ty::S64 if (v as i64) < 0 => !v,
                _ => v,
            };
            match v.checked_ilog2() {
                None => u32::MAX,
                Some(at) if f == CountFn::BfindShift => width - 1 - at,
                Some(at) => at,
            }
        }
    });
    r.set32(d, &out, mask);
}

/// `prmt` of two words with selector `s`.
fn permute(mode: u8, a: u32, b: u32, s: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |selector: u32| {
        let byte = bytes[(selector & 7) as usize];
        // The top bit of a selector replicates the sign.
        if selector & 8 != 0 {
            if byte & 0x80 != 0 { 0xff } else { 0 }
        } else {
            byte
        }
    };
    let n = s & 3;
    let selectors: [u32; 4] = match mode {
        0 => return u32::from_le_bytes(std::array::from_fn(|i| pick(s >> (4 * i)))),
        1 => [n, n + 1, n + 2, n + 3],
        2 => [
            n,
            n.wrapping_sub(1) & 7,
            n.wrapping_sub(2) & 7,
            n.wrapping_sub(3) & 7,
        ],
        3 => [n; 4],
        4 => [n, n.max(1), n.max(2), 3],
        5 => [0, n.min(1), n.min(2), n],
        _ => {
            let low = 2 * (s & 1);
            [low, low + 1, low, low + 1]
        }
    };
    u32::from_le_bytes(selectors.map(|i| bytes[(i & 7) as usize]))
}

/// `prmt`.
pub(crate) fn prmt(r: &mut Registers, k: &Constants, mode: u8, o: Operands, mask: u32) {
    map32(r, k, o, mask, |a, b, s| permute(mode, a, b, s));
}

/// `shf`: `b` holds the upper word.
pub(crate) fn shf(
    r: &mut Registers,
    k: &Constants,
    left: bool,
    wrap: bool,
    o: Operands,
    mask: u32,
) {
    map32(r, k, o, mask, |a, b, c| {
        let by = if wrap { c & 31 } else { c.min(32) };
        let value = u64::from(b) << 32 | u64::from(a);
        if left {
            ((value << by) >> 32) as u32
        } else {
            (value >> by) as u32
        }
    });
}

/// `lop3`.
pub(crate) fn lop3(r: &mut Registers, k: &Constants, lut: u8, o: Operands, mask: u32) {
    map32(r, k, o, mask, |a, b, c| {
        (0..8).filter(|i| lut >> i & 1 == 1).fold(0, |out, i| {
            let term = |v: u32, bit: u8| if i >> bit & 1 == 1 { v } else { !v };
            out | (term(a, 2) & term(b, 1) & term(c, 0))
        })
    });
}

/// `dp4a`.
pub(crate) fn dp4a(r: &mut Registers, k: &Constants, signed: (bool, bool), o: Operands, mask: u32) {
    map32(r, k, o, mask, |a, b, c| {
        let byte = |v: u8, signed: bool| {
            if signed {
                i32::from(v as i8)
            } else {
                i32::from(v)
            }
        };
        let pairs = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
        let dot: i32 = pairs
            .map(|(x, y)| byte(x, signed.0) * byte(y, signed.1))
            .sum();
        c.wrapping_add(dot as u32)
    });
}
