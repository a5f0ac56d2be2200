//! What an instruction reads and writes, and how the counters class it.

use super::isa::{BarKind, FloatFn, MmaTy, Op, Pred, Reg, Space, Ty};

/// How an operand takes part, for [`Op::visit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Copied or computed with: an unwritten source makes an unwritten result.
    Source,
    /// Decides an address, a branch or what other threads see: must have been written.
    Observed,
    Destination,
}

impl Op {
    /// Calls `visit` for every operand that is a register (predicates too, constants and absent ones not).
    pub fn visit(&self, mut visit: impl FnMut(Reg, Role)) {
        use Role::{Destination as D, Observed as O, Source as S};
        let mut see = |reg: Reg, role: Role| {
            if !reg.is_none() && !reg.is_const() {
                visit(reg, role);
            }
        };
        let pred = |p: Pred| {
            if p.index == 0 {
                Reg::NONE
            } else {
                Reg::pred(p.index as usize)
            }
        };
        match self {
            Op::Jump { .. } | Op::Bra { .. } | Op::Exit | Op::Trap | Op::Nop | Op::Nanosleep => {}
            Op::Call { .. } | Op::Return => {}
            Op::CpAsyncCommit | Op::CpAsyncWait { .. } | Op::Fence { .. } => {}
            Op::BranchIndexed { index, .. } => see(*index, O),
            Op::Clock { d } | Op::Activemask { d } => see(*d, D),
            Op::Mov { d, a }
            | Op::Cvta { d, a, .. }
            | Op::Count { d, a, .. }
            | Op::Cvt { d, a, .. } => {
                see(*a, S);
                see(*d, D);
            }
            Op::Testp { d, a, .. } | Op::Isspacep { d, a, .. } => {
                see(*a, S);
                see(*d, D);
            }
            Op::Movmatrix { d, a } => {
                see(*a, O);
                see(*d, D);
            }
            Op::Pack { d, parts, .. } => {
                parts.iter().for_each(|r| see(*r, S));
                see(*d, D);
            }
            Op::Unpack { d, a, .. } => {
                see(*a, S);
                d.iter().for_each(|r| see(*r, D));
            }
            Op::Int { d, a, b, c, e, .. } => {
                [a, b, c, e].into_iter().for_each(|r| see(*r, S));
                see(*d, D);
            }
            Op::Carrying { d, a, b, c, .. }
            | Op::MulWide { d, a, b, c, .. }
            | Op::Prmt { d, a, b, c, .. }
            | Op::Shf { d, a, b, c, .. }
            | Op::Lop3 { d, a, b, c, .. }
            | Op::Dp4a { d, a, b, c, .. }
            | Op::Float { d, a, b, c, .. }
            | Op::Slct { d, a, b, c, .. } => {
                [a, b, c].into_iter().for_each(|r| see(*r, S));
                see(*d, D);
            }
            Op::Approx { d, a, b, .. } | Op::CvtPack { d, a, b, .. } => {
                see(*a, S);
                see(*b, S);
                see(*d, D);
            }
            Op::Setp {
                a,
                b,
                d,
                q,
                combine,
                ..
            } => {
                see(*a, S);
                see(*b, S);
                see(combine.map_or(Reg::NONE, |(_, p)| pred(p)), S);
                see(*d, D);
                see(*q, D);
            }
            Op::Set {
                d, a, b, combine, ..
            } => {
                see(*a, S);
                see(*b, S);
                see(combine.map_or(Reg::NONE, |(_, p)| pred(p)), S);
                see(*d, D);
            }
            // Which of the two is taken matters, so selp gets its own treatment in the interpreter.
            Op::Selp { d, a, b, p } => {
                see(*a, S);
                see(*b, S);
                see(pred(*p), S);
                see(*d, D);
            }
            Op::Logic { d, a, b, .. } => {
                see(pred(*a), S);
                see(pred(*b), S);
                see(*d, D);
            }
            Op::CopyPred { d, a } => {
                see(pred(*a), S);
                see(*d, D);
            }
            Op::Ld { d, addr, .. } | Op::LdMatrix { d, addr, .. } => {
                see(addr.base, O);
                d.iter().for_each(|r| see(*r, D));
            }
            Op::St {
                space: Space::Local,
                s,
                addr,
                ..
            } => {
                see(addr.base, O);
                s.iter().for_each(|r| see(*r, S));
            }
            Op::St { s, addr, .. } | Op::StMatrix { s, addr, .. } => {
                see(addr.base, O);
                s.iter().for_each(|r| see(*r, O));
            }
            Op::Atom { d, addr, b, c, .. } => {
                [addr.base, *b, *c].into_iter().for_each(|r| see(r, O));
                see(*d, D);
            }
            Op::CpAsync {
                dst,
                src,
                src_bytes,
                ignore,
                ..
            } => {
                [dst.base, src.base, *src_bytes]
                    .into_iter()
                    .for_each(|r| see(r, O));
                see(ignore.map_or(Reg::NONE, pred), O);
            }
            Op::Mma(mma) => {
                mma.a
                    .iter()
                    .chain(&mma.b)
                    .chain(&mma.c)
                    .for_each(|r| see(*r, O));
                mma.d.iter().for_each(|r| see(*r, D));
            }
            Op::Bar {
                id, count, kind, ..
            } => {
                see(*id, O);
                see(*count, O);
                if let BarKind::Red { d, pred: p, .. } = kind {
                    see(pred(*p), O);
                    see(*d, D);
                }
            }
            Op::BarWarp { mask } => see(*mask, O),
            Op::Shfl {
                d,
                p,
                a,
                b,
                c,
                mask,
                ..
            } => {
                see(*a, S);
                [b, c, mask].into_iter().for_each(|r| see(*r, O));
                see(*d, D);
                see(*p, D);
            }
            Op::Vote { d, a, mask, .. } => {
                see(pred(*a), O);
                see(*mask, O);
                see(*d, D);
            }
            Op::Match { d, p, a, mask, .. } => {
                see(*a, O);
                see(*mask, O);
                see(*d, D);
                see(*p, D);
            }
            Op::Redux { d, a, mask, .. } => {
                see(*a, O);
                see(*mask, O);
                see(*d, D);
            }
            Op::Hopper(hopper) => hopper.visit(see),
        }
    }

    /// The class under which the counters put it.
    pub fn class(&self) -> &'static str {
        match self {
            Op::Jump { .. } | Op::Bra { .. } | Op::BranchIndexed { .. } | Op::Exit | Op::Trap => {
                "control"
            }
            Op::Call { .. } | Op::Return => "control",
            Op::Nop
            | Op::Nanosleep
            | Op::Clock { .. }
            | Op::Activemask { .. }
            | Op::Fence { .. } => "other",
            Op::Mov { .. }
            | Op::Pack { .. }
            | Op::Unpack { .. }
            | Op::Selp { .. }
            | Op::Slct { .. } => "move",
            Op::Cvta { .. } | Op::Isspacep { .. } | Op::CopyPred { .. } | Op::Movmatrix { .. } => {
                "move"
            }
            Op::Int { .. } | Op::Carrying { .. } | Op::MulWide { .. } | Op::Count { .. } => {
                "integer"
            }
            Op::Prmt { .. } | Op::Shf { .. } | Op::Lop3 { .. } | Op::Dp4a { .. } => "integer",
            Op::Setp { .. } | Op::Set { .. } | Op::Logic { .. } | Op::Testp { .. } => "compare",
            Op::Float { ty: Ty::F64, .. } => "f64",
            Op::Float { ty: Ty::F32, .. } => "f32",
            Op::Float { .. } => "f16",
            Op::Approx { .. } => "special-function",
            Op::Cvt { .. } | Op::CvtPack { .. } => "convert",
            Op::Ld { space, .. } => match space {
                Space::Global => "global-load",
                Space::Shared | Space::Cluster => "shared-load",
                Space::Local => "local-load",
                Space::Param => "param-load",
                Space::Const => "const-load",
                Space::Generic => "generic-load",
            },
            Op::St { space, .. } => match space {
                Space::Global => "global-store",
                Space::Shared | Space::Cluster => "shared-store",
                Space::Local => "local-store",
                _ => "generic-store",
            },
            Op::Atom {
                space: Space::Shared | Space::Cluster,
                ..
            } => "shared-atomic",
            Op::Atom { .. } => "global-atomic",
            Op::CpAsync { .. } | Op::CpAsyncCommit | Op::CpAsyncWait { .. } => "async-copy",
            Op::LdMatrix { .. } => "ldmatrix",
            Op::StMatrix { .. } => "stmatrix",
            Op::Mma(_) => "mma",
            Op::Bar { .. } | Op::BarWarp { .. } => "barrier",
            Op::Shfl { .. } => "shuffle",
            Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } => "vote",
            Op::Hopper(hopper) => hopper.class(),
        }
    }

    /// Unit and floating-point operations per active lane (for `mma` per warp, divided by 32).
    pub fn flops(&self) -> Option<(&'static str, u64)> {
        let unit = |ty: Ty| match ty {
            Ty::F64 => "f64",
            Ty::F32 => "f32",
            _ => "f16",
        };
        match self {
            Op::Float { f, ty, .. } => {
                let width = if matches!(ty, Ty::F16x2 | Ty::BF16x2) {
                    2
                } else {
                    1
                };
                let each = match f {
                    FloatFn::Fma | FloatFn::FmaRelu => 2,
                    FloatFn::Add | FloatFn::Sub | FloatFn::Mul => 1,
                    FloatFn::Div | FloatFn::Rcp | FloatFn::Sqrt => 1,
                    _ => return None,
                };
                Some((unit(*ty), each * width))
            }
            Op::Approx { ty, .. } => Some((unit(*ty), 1)),
            Op::Mma(mma) => {
                let unit = match mma.a_ty {
                    MmaTy::F16 | MmaTy::BF16 => "f16-tensor",
                    MmaTy::TF32 => "tf32-tensor",
                    MmaTy::F64 => "f64-tensor",
                    MmaTy::S8 | MmaTy::U8 => return None,
                };
                Some((unit, (2 * mma.m * mma.n * mma.k / 32) as u64))
            }
            Op::Hopper(hopper) => hopper.flops(),
            _ => None,
        }
    }

    /// Results of the special-function unit per active lane: IEEE division, reciprocal and root begin with one.
    pub fn special_functions(&self) -> u64 {
        match self {
            Op::Approx { ty, .. } => match ty {
                Ty::F16x2 | Ty::BF16x2 => 2,
                _ => 1,
            },
            Op::Float {
                f: FloatFn::Div | FloatFn::Rcp | FloatFn::Sqrt,
                ..
            } => 1,
            _ => 0,
        }
    }
}
