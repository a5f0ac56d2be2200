//! Moves, floating-point arithmetic, conversions, comparisons and selections on 32 lanes.

use std::cmp::Ordering;

use super::cvt::{self, How};
use super::float::{
    approx_small, approx32, approx64, f32_op, f64_op, flush, fma_lanes, small_op, test,
};
use super::int::Operands;
use super::registers::{Constants, Lanes32, Registers};
use super::soft;
use crate::ptx::isa::{ApproxFn, Bool, Cmp, FloatFn, Pred, Reg, Round, TestKind, Ty};

/// `mov`.
pub(crate) fn mov(r: &mut Registers, k: &Constants, d: Reg, a: Reg, mask: u32) {
    if d.is_none() {
    } else if d.is_wide() {
        let value = r.any(k, a);
        r.set64(d, &value, mask);
    } else {
        let value = *r.r32(k, a);
        r.set32(d, &value, mask);
    }
}

/// `mov` from parts to a whole, the first part lowest.
pub(crate) fn pack(
    r: &mut Registers,
    k: &Constants,
    d: Reg,
    parts: &[Reg; 4],
    bits: u32,
    mask: u32,
) {
    let mut out = [0u64; 32];
    for (i, part) in parts.iter().filter(|part| !part.is_none()).enumerate() {
        let value = r.any(k, *part);
        for lane in 0..32 {
            out[lane] |= (value[lane] & ((1 << bits) - 1)) << (bits * i as u32);
        }
    }
    r.set_any(d, &out, mask);
}

/// `mov` from a whole to its parts.
pub(crate) fn unpack(r: &mut Registers, k: &Constants, d: &[Reg; 4], bits: u32, a: Reg, mask: u32) {
    let value = r.any(k, a);
    for (i, part) in d.iter().enumerate() {
        if bits * (i as u32) < 64 {
            let out = value.map(|v| v >> (bits * i as u32) & ((1 << bits) - 1));
            r.set_any(*part, &out, mask);
        }
    }
}

#[inline(always)]
fn lanes3(a: &Lanes32, b: &Lanes32, c: &Lanes32, f: impl Fn(u32, u32, u32) -> u32) -> Lanes32 {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i], c[i]);
    }
    out
}

/// How a floating-point instruction rounds and clamps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounding {
    pub round: Round,
    pub ftz: bool,
    pub sat: bool,
}

/// Floating-point arithmetic.
pub(crate) fn float(
    r: &mut Registers,
    k: &Constants,
    f: FloatFn,
    ty: Ty,
    how: Rounding,
    o: Operands,
    mask: u32,
) {
    let Rounding { round, ftz, sat } = how;
    if ty == Ty::F64 {
        let get = |reg: Reg| {
            if reg.is_none() {
                [0; 32]
            } else {
                *r.r64(k, reg)
            }
        };
        let (a, b, c) = (get(o.a), get(o.b), get(o.c));
        let out = std::array::from_fn(|i| f64_op(f, round, a[i], b[i], c[i]));
        r.set64(o.d, &out, mask);
        return;
    }
    let absent = [0; 32];
    let get = |reg: Reg| {
        if reg.is_none() {
            &absent
        } else {
            r.r32(k, reg)
        }
    };
    let (a, b, c) = (get(o.a), get(o.b), get(o.c));
    let nearest = Round::Nearest;
    let out = match (ty, f) {
        (Ty::F32, FloatFn::Fma) if round == nearest && !sat => {
            let mut out = [0; 32];
            if ftz {
                fma_lanes(&a.map(flush), &b.map(flush), &c.map(flush), &mut out);
                out = out.map(flush);
            } else {
                fma_lanes(a, b, c, &mut out);
            }
            out
        }
        // Constants in place of variables leave a short loop each.
        (Ty::F32, FloatFn::Add) if round == nearest && !ftz && !sat => {
            lanes3(a, b, c, |x, y, z| {
                f32_op(FloatFn::Add, Round::Nearest, false, false, x, y, z)
            })
        }
        (Ty::F32, FloatFn::Sub) if round == nearest && !ftz && !sat => {
            lanes3(a, b, c, |x, y, z| {
                f32_op(FloatFn::Sub, Round::Nearest, false, false, x, y, z)
            })
        }
        (Ty::F32, FloatFn::Mul) if round == nearest && !ftz && !sat => {
            lanes3(a, b, c, |x, y, z| {
                f32_op(FloatFn::Mul, Round::Nearest, false, false, x, y, z)
            })
        }
        (Ty::F32, _) => lanes3(a, b, c, |x, y, z| f32_op(f, round, ftz, sat, x, y, z)),
        _ => lanes3(a, b, c, |x, y, z| small_op(f, ty, ftz, sat, x, y, z)),
    };
    r.set32(o.d, &out, mask);
}

/// Approximate functions.
pub(crate) fn approx(
    r: &mut Registers,
    k: &Constants,
    f: ApproxFn,
    ty: Ty,
    how: Rounding,
    o: Operands,
    mask: u32,
) {
    if ty == Ty::F64 {
        let out = r.r64(k, o.a).map(|a| approx64(f, a));
        r.set64(o.d, &out, mask);
        return;
    }
    let a = *r.r32(k, o.a);
    let b = if o.b.is_none() {
        [0; 32]
    } else {
        *r.r32(k, o.b)
    };
    let active = |i: usize| mask >> i & 1 == 1;
    let out = std::array::from_fn(|i| match ty {
        _ if !active(i) => 0,
        Ty::F32 => approx32(f, how.ftz, how.sat, a[i], b[i]),
        _ => approx_small(f, ty, a[i]),
    });
    r.set32(o.d, &out, mask);
}

/// `testp`.
pub(crate) fn testp(
    r: &mut Registers,
    k: &Constants,
    what: TestKind,
    ty: Ty,
    d: Reg,
    a: Reg,
    mask: u32,
) {
    let value = r.any(k, a);
    let out = (0..32).fold(0, |m, i| m | u32::from(test(what, ty, value[i])) << i);
    r.set_pred(d, out, mask);
}

/// `cvt`.
pub(crate) fn convert(
    r: &mut Registers,
    k: &Constants,
    to: Ty,
    from: Ty,
    how: How,
    [d, a]: [Reg; 2],
    mask: u32,
) {
    let plain = how.round == Round::Nearest && !how.sat && !how.ftz;
    match (from, to) {
        (Ty::S32, Ty::F32) if plain => {
            let out = r.any(k, a).map(|v| (v as i32 as f32).to_bits());
            r.set32(d, &out, mask);
        }
        (Ty::U32, Ty::F32) if plain => {
            let out = r.any(k, a).map(|v| (v as u32 as f32).to_bits());
            r.set32(d, &out, mask);
        }
        (Ty::U32, Ty::U64) | (Ty::U64, Ty::U32) if !how.sat => {
            let out = r.any(k, a).map(|v| v & 0xffff_ffff);
            r.set_any(d, &out, mask);
        }
        (Ty::S32, Ty::S64) => {
            let out = r.any(k, a).map(|v| v as i32 as i64 as u64);
            r.set_any(d, &out, mask);
        }
        _ => {
            let value = r.any(k, a);
            let out = std::array::from_fn(|i| {
                if mask >> i & 1 == 1 {
                    cvt::convert(to, from, how, value[i])
                } else {
                    0
                }
            });
            r.set_any(d, &out, mask);
        }
    }
}

#[inline(always)]
fn mask_of<T: Copy>(a: &[T; 32], b: &[T; 32], f: impl Fn(T, T) -> bool) -> u32 {
    let mut out = 0;
    for i in 0..32 {
        out |= u32::from(f(a[i], b[i])) << i;
    }
    out
}

fn compare_ordered<T: Copy + PartialOrd>(cmp: Cmp, a: &[T; 32], b: &[T; 32]) -> u32 {
    match cmp {
        Cmp::Eq => mask_of(a, b, |x, y| x == y),
        Cmp::Ne => mask_of(a, b, |x, y| x.partial_cmp(&y).is_some_and(Ordering::is_ne)),
        Cmp::Lt => mask_of(a, b, |x, y| x < y),
        Cmp::Le => mask_of(a, b, |x, y| x <= y),
        Cmp::Gt => mask_of(a, b, |x, y| x > y),
        Cmp::Ge => mask_of(a, b, |x, y| x >= y),
        // Incomparable values, that is NaN, make these true.
        Cmp::Equ => mask_of(a, b, |x, y| x.partial_cmp(&y).is_none_or(Ordering::is_eq)),
        Cmp::Neu => mask_of(a, b, |x, y| x != y),
        Cmp::Ltu => !mask_of(a, b, |x, y| x >= y),
        Cmp::Leu => !mask_of(a, b, |x, y| x > y),
        Cmp::Gtu => !mask_of(a, b, |x, y| x <= y),
        Cmp::Geu => !mask_of(a, b, |x, y| x < y),
        Cmp::Num => mask_of(a, b, |x, y| x.partial_cmp(&y).is_some()),
        Cmp::Nan => mask_of(a, b, |x, y| x.partial_cmp(&y).is_none()),
    }
}

/// A comparison of 32 lanes.
fn compare(r: &Registers, k: &Constants, cmp: Cmp, ty: Ty, ftz: bool, a: Reg, b: Reg) -> u32 {
    let small = |reg: Reg, format| {
        let convert = |v: u32| {
            f64::from_bits(soft::convert(
                u64::from(v & 0xffff),
                format,
                soft::F64,
                Round::Nearest,
            ))
        };
        r.r32(k, reg).map(convert)
    };
    match ty {
        Ty::S16 => compare_ordered(
            cmp,
            &r.r32(k, a).map(|v| v as i16),
            &r.r32(k, b).map(|v| v as i16),
        ),
        Ty::U16 | Ty::B16 => compare_ordered(
            cmp,
            &r.r32(k, a).map(|v| v as u16),
            &r.r32(k, b).map(|v| v as u16),
        ),
        Ty::S32 => compare_ordered(
            cmp,
            &r.r32(k, a).map(|v| v as i32),
            &r.r32(k, b).map(|v| v as i32),
        ),
        Ty::S64 => compare_ordered(
            cmp,
            &r.r64(k, a).map(|v| v as i64),
            &r.r64(k, b).map(|v| v as i64),
        ),
        Ty::U64 | Ty::B64 => compare_ordered(cmp, r.r64(k, a), r.r64(k, b)),
        Ty::F64 => compare_ordered(
            cmp,
            &r.r64(k, a).map(f64::from_bits),
            &r.r64(k, b).map(f64::from_bits),
        ),
        Ty::F32 => {
            let value = |v: u32| f32::from_bits(if ftz { flush(v) } else { v });
            compare_ordered(cmp, &r.r32(k, a).map(value), &r.r32(k, b).map(value))
        }
        Ty::F16 | Ty::F16x2 => compare_ordered(cmp, &small(a, soft::F16), &small(b, soft::F16)),
        Ty::BF16 | Ty::BF16x2 => compare_ordered(cmp, &small(a, soft::BF16), &small(b, soft::BF16)),
        _ => compare_ordered(cmp, r.r32(k, a), r.r32(k, b)),
    }
}

pub(crate) fn boolean(f: Bool, a: u32, b: u32) -> u32 {
    match f {
        Bool::And => a & b,
        Bool::Or => a | b,
        Bool::Xor => a ^ b,
    }
}

/// A comparison as decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    pub cmp: Cmp,
    pub ty: Ty,
    pub ftz: bool,
    pub a: Reg,
    pub b: Reg,
    pub combine: Option<(Bool, Pred)>,
}

/// `setp`: `q` gets the opposite of the comparison, combined alike.
pub(crate) fn setp(r: &mut Registers, k: &Constants, c: Comparison, d: Reg, q: Reg, mask: u32) {
    let low = compare(r, k, c.cmp, c.ty, c.ftz, c.a, c.b);
    if matches!(c.ty, Ty::F16x2 | Ty::BF16x2) {
        // The two predicates are those of the two halves.
        let format = if c.ty == Ty::F16x2 {
            soft::F16
        } else {
            soft::BF16
        };
        let upper = |reg: Reg| {
            let convert = |v: u32| {
                f64::from_bits(soft::convert(
                    u64::from(v >> 16),
                    format,
                    soft::F64,
                    Round::Nearest,
                ))
            };
            r.r32(k, reg).map(convert)
        };
        let high = compare_ordered(c.cmp, &upper(c.a), &upper(c.b));
        r.set_pred(d, low, mask);
        r.set_pred(q, high, mask);
        return;
    }
    let with = |value: u32| {
        c.combine
            .map_or(value, |(f, p)| boolean(f, value, r.pred(p)))
    };
    let (p_value, q_value) = (with(low), with(!low));
    r.set_pred(d, p_value, mask);
    r.set_pred(q, q_value, mask);
}

/// `set`.
pub(crate) fn set(r: &mut Registers, k: &Constants, c: Comparison, float: bool, d: Reg, mask: u32) {
    let holds = compare(r, k, c.cmp, c.ty, c.ftz, c.a, c.b);
    let holds = c
        .combine
        .map_or(holds, |(f, p)| boolean(f, holds, r.pred(p)));
    let yes = if float { 1f32.to_bits() } else { !0 };
    let out = std::array::from_fn(|i| if holds >> i & 1 == 1 { yes } else { 0 });
    r.set32(d, &out, mask);
}

/// `selp`.
pub(crate) fn selp(
    r: &mut Registers,
    k: &Constants,
    d: Reg,
    a: Reg,
    b: Reg,
    choice: u32,
    mask: u32,
) {
    if d.is_wide() {
        let (a, b) = (*r.r64(k, a), *r.r64(k, b));
        let out = std::array::from_fn(|i| if choice >> i & 1 == 1 { a[i] } else { b[i] });
        r.set64(d, &out, mask);
    } else {
        let (a, b) = (*r.r32(k, a), *r.r32(k, b));
        let out = std::array::from_fn(|i| if choice >> i & 1 == 1 { a[i] } else { b[i] });
        r.set_any(d, &out.map(u64::from), mask);
    }
}

/// `slct`: `a` where `c >= 0` (or -0), `b` where it is negative or NaN.
pub(crate) fn slct(
    r: &mut Registers,
    k: &Constants,
    float: bool,
    ftz: bool,
    o: Operands,
    mask: u32,
) {
    let c = *r.r32(k, o.c);
    let choice = (0..32).fold(0, |m, i| {
        let bits = if ftz { flush(c[i]) } else { c[i] };
        let at_least_zero = if float {
            f32::from_bits(bits) >= 0.0
        } else {
            c[i] as i32 >= 0
        };
        m | u32::from(at_least_zero) << i
    });
    selp(r, k, o.d, o.a, o.b, choice, mask);
}
