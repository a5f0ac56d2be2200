//! Decoding of warp-wide instructions and barriers.

use super::decode::{Fit, Mods};
use super::function::Function;
use super::isa::{AtomFn, BarKind, Mma, MmaTy, Op, Pred, Reg, ShflMode, Ty, VoteMode};
use super::parse::{Operand, Statement};

use Ty::{B16, B32, F16, F32, F64, S32, U32};

impl<'a> Function<'a> {
    /// Decodes a warp-wide instruction; `None` if the opcode is of another kind.
    pub fn decode_warp(
        &mut self,
        s: &Statement<'a>,
        mods: &mut Mods<'a>,
    ) -> Result<Option<Op>, String> {
        Ok(Some(match s.opcode {
            "bar" | "barrier" => self.barrier(s, mods)?,
            "shfl" => self.shuffle(s, mods)?,
            "vote" => self.vote(s, mods)?,
            "match" => {
                sync(mods, s.opcode)?;
                let all = mods.need("a mode", &[("any", false), ("all", true)])?;
                let ty = mods.ty(&[B32, Ty::B64])?;
                let [d, a, mask] = self.count(s, 3, 3)? else {
                    return Err("match takes three operands".into());
                };
                let (d, p) = self.pair(d, B32)?;
                if !p.is_none() && !all {
                    return Err("match.any has no predicate".into());
                }
                let a = self.source(a, ty, Fit::Exact)?;
                Op::Match {
                    all,
                    d,
                    p,
                    a,
                    mask: self.source(mask, B32, Fit::Exact)?,
                }
            }
            "redux" => {
                sync(mods, s.opcode)?;
                let f = mods.need(
                    "an operation",
                    &[
                        ("add", AtomFn::Add),
                        ("min", AtomFn::Min),
                        ("max", AtomFn::Max),
                        ("and", AtomFn::And),
                        ("or", AtomFn::Or),
                        ("xor", AtomFn::Xor),
                    ],
                )?;
                let logic = matches!(f, AtomFn::And | AtomFn::Or | AtomFn::Xor);
                let ty = if logic {
                    mods.ty(&[B32])?
                } else {
                    mods.ty(&[U32, S32])?
                };
                let [d, a, mask] = self.count(s, 3, 3)? else {
                    return Err("redux takes three operands".into());
                };
                let a = self.source(a, ty, Fit::Exact)?;
                let mask = self.source(mask, B32, Fit::Exact)?;
                Op::Redux {
                    f,
                    signed: ty == S32,
                    d: self.destination(d, ty, Fit::Exact)?,
                    a,
                    mask,
                }
            }
            "activemask" => {
                mods.ty(&[B32])?;
                let operands = self.count(s, 1, 1)?;
                Op::Activemask {
                    d: self.destination(&operands[0], B32, Fit::Exact)?,
                }
            }
            "ldmatrix" | "stmatrix" => self.matrix(s, mods)?,
            "movmatrix" => {
                sync(mods, s.opcode)?;
                mods.need("its form", &[("aligned", ())])?;
                mods.need("its form", &[("m8n8", ())])?;
                mods.need("its form", &[("trans", ())])?;
                mods.ty(&[B16])?;
                let [d, a] = self.count(s, 2, 2)? else {
                    return Err("movmatrix takes two operands".into());
                };
                let a = self.source(a, B32, Fit::Exact)?;
                Op::Movmatrix {
                    d: self.destination(d, B32, Fit::Exact)?,
                    a,
                }
            }
            "mma" => self.mma(s, mods)?,
            _ => return Ok(None),
        }))
    }

    fn barrier(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        if mods.flag("warp") {
            sync(mods, s.opcode)?;
            let operands = self.count(s, 1, 1)?;
            return Ok(Op::BarWarp {
                mask: self.source(&operands[0], B32, Fit::Exact)?,
            });
        }
        if s.opcode == "barrier" && mods.flag("cluster") {
            return self.cluster_barrier(s, mods);
        }
        mods.flag("cta");
        let kind = mods.need("its kind", &[("sync", 0), ("arrive", 1), ("red", 2)])?;
        let aligned = mods.flag("aligned") || s.opcode == "bar";
        if kind < 2 {
            let operands = self.count(s, 1 + kind, 2)?;
            let id = self.source(&operands[0], U32, Fit::Exact)?;
            let count = match operands.get(1) {
                Some(count) => self.source(count, U32, Fit::Exact)?,
                None => Reg::NONE,
            };
            let kind = if kind == 0 {
                BarKind::Sync
            } else {
                BarKind::Arrive
            };
            return Ok(Op::Bar {
                id,
                count,
                kind,
                aligned,
            });
        }
        let modes = [
            ("popc", VoteMode::Popc),
            ("and", VoteMode::All),
            ("or", VoteMode::Any),
        ];
        let mode = mods.need("an operation", &modes)?;
        let ty = mods.ty(&[if mode == VoteMode::Popc {
            U32
        } else {
            Ty::Pred
        }])?;
        let operands = self.count(s, 3, 4)?;
        let d = self.destination(&operands[0], ty, Fit::Exact)?;
        let id = self.source(&operands[1], U32, Fit::Exact)?;
        let count = if operands.len() == 4 {
            self.source(&operands[2], U32, Fit::Exact)?
        } else {
            Reg::NONE
        };
        let pred = self.predicate_operand(&operands[operands.len() - 1])?;
        Ok(Op::Bar {
            id,
            count,
            kind: BarKind::Red { mode, d, pred },
            aligned,
        })
    }

    fn shuffle(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        sync(mods, s.opcode)?;
        let modes = [
            ("up", ShflMode::Up),
            ("down", ShflMode::Down),
            ("bfly", ShflMode::Bfly),
            ("idx", ShflMode::Idx),
        ];
        let mode = mods.need("a mode", &modes)?;
        mods.ty(&[B32])?;
        let [d, a, b, c, mask] = self.count(s, 5, 5)? else {
            return Err("shfl.sync takes five operands".into());
        };
        let (d, p) = self.pair(d, B32)?;
        let a = self.source(a, B32, Fit::Exact)?;
        let b = self.source(b, B32, Fit::Exact)?;
        let c = self.source(c, B32, Fit::Exact)?;
        Ok(Op::Shfl {
            mode,
            d,
            p,
            a,
            b,
            c,
            mask: self.source(mask, B32, Fit::Exact)?,
        })
    }

    fn vote(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        sync(mods, s.opcode)?;
        let modes = [
            ("all", VoteMode::All),
            ("any", VoteMode::Any),
            ("uni", VoteMode::Uni),
            ("ballot", VoteMode::Ballot),
        ];
        let mode = mods.need("a mode", &modes)?;
        let ty = mods.ty(&[if mode == VoteMode::Ballot {
            B32
        } else {
            Ty::Pred
        }])?;
        let [d, a, mask] = self.count(s, 3, 3)? else {
            return Err("vote.sync takes three operands".into());
        };
        let a: Pred = self.predicate_operand(a)?;
        let mask = self.source(mask, B32, Fit::Exact)?;
        Ok(Op::Vote {
            mode,
            d: self.destination(d, ty, Fit::Exact)?,
            a,
            mask,
        })
    }

    fn matrix(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        sync(mods, s.opcode)?;
        mods.need("its form", &[("aligned", ())])?;
        mods.need("its shape", &[("m8n8", ())])?;
        let count = mods.need("a count", &[("x1", 1), ("x2", 2), ("x4", 4)])?;
        let transposed = mods.flag("trans");
        mods.pick(&[("shared", ()), ("shared::cta", ())]);
        mods.ty(&[B16])?;
        let operands = self.count(s, 2, 2)?;
        let load = s.opcode == "ldmatrix";
        let (values, address) = if load {
            (&operands[0], &operands[1])
        } else {
            (&operands[1], &operands[0])
        };
        let parts = Self::parts(values);
        if parts.len() != count as usize {
            return Err(format!("{count} registers are needed, not {}", parts.len()));
        }
        let addr = self.address(address)?;
        let mut regs = [Reg::NONE; 4];
        for (reg, part) in regs.iter_mut().zip(parts) {
            *reg = if load {
                self.destination(part, B32, Fit::Exact)?
            } else {
                self.source(part, B32, Fit::Exact)?
            };
        }
        Ok(if load {
            Op::LdMatrix {
                count,
                transposed,
                d: regs,
                addr,
            }
        } else {
            Op::StMatrix {
                count,
                transposed,
                s: regs,
                addr,
            }
        })
    }

    pub(super) fn fragment(
        &mut self,
        operand: &Operand<'a>,
        n: usize,
        ty: Ty,
        to: bool,
    ) -> Result<Vec<Reg>, String> {
        let parts = Self::parts(operand);
        if parts.len() != n {
            return Err(format!(
                "a fragment of {n} registers is needed, not {}",
                parts.len()
            ));
        }
        parts
            .iter()
            .map(|part| {
                if to {
                    self.destination(part, ty, Fit::Exact)
                } else {
                    self.source(part, ty, Fit::Exact)
                }
            })
            .collect()
    }

    fn mma(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        sync(mods, s.opcode)?;
        mods.need("its form", &[("aligned", ())])?;
        let (m, n, k) = mods.need(
            "a shape",
            &[
                ("m16n8k4", (16, 8, 4)),
                ("m16n8k8", (16, 8, 8)),
                ("m16n8k16", (16, 8, 16)),
                ("m16n8k32", (16, 8, 32)),
                ("m8n8k4", (8, 8, 4)),
                ("m8n8k16", (8, 8, 16)),
            ],
        )?;
        mods.need("a layout", &[("row", ())])?;
        mods.need("a layout", &[("col", ())])?;
        let saturate = mods.flag("satfinite");
        let d_ty = mods.ty(&[F16, F32, F64, S32])?;
        let types = [Ty::F16, Ty::BF16, Ty::TF32, Ty::F64, Ty::S8, Ty::U8];
        let (a_ty, b_ty) = (mods.ty(&types)?, mods.ty(&types)?);
        let acc = mods.ty(&[F16, F32, F64, S32])?;
        let element = |ty: Ty| match ty {
            Ty::F16 => MmaTy::F16,
            Ty::BF16 => MmaTy::BF16,
            Ty::TF32 => MmaTy::TF32,
            Ty::F64 => MmaTy::F64,
            Ty::S8 => MmaTy::S8,
            _ => MmaTy::U8,
        };
        let (a_ty, b_ty) = (element(a_ty), element(b_ty));
        let exists = d_ty == acc
            && matches!(
                (a_ty, b_ty, acc, (m, k)),
                (MmaTy::F16, MmaTy::F16, F16 | F32, (16, 8 | 16))
                    | (MmaTy::BF16, MmaTy::BF16, F32, (16, 8 | 16))
                    | (MmaTy::TF32, MmaTy::TF32, F32, (16, 4 | 8))
                    | (MmaTy::F64, MmaTy::F64, F64, (8, 4))
                    | (
                        MmaTy::S8 | MmaTy::U8,
                        MmaTy::S8 | MmaTy::U8,
                        S32,
                        (16, 16 | 32) | (8, 16)
                    )
            );
        if !exists || (saturate && acc != S32) {
            return Err(format!("mma m{m}n{n}k{k} does not exist for these types"));
        }
        let element_bytes = match a_ty {
            MmaTy::F16 | MmaTy::BF16 => 2,
            MmaTy::TF32 => 4,
            MmaTy::F64 => 8,
            MmaTy::S8 | MmaTy::U8 => 1,
        };
        let input = if a_ty == MmaTy::F64 { F64 } else { B32 };
        let per_reg = input.bytes() as usize / element_bytes;
        let acc_reg = if acc == F16 { B32 } else { acc };
        let acc_count = m * n / 32 / if acc == F16 { 2 } else { 1 };
        let operands = self.count(s, 4, 4)?;
        let d = self.fragment(&operands[0], acc_count, acc_reg, true)?;
        let a = self.fragment(&operands[1], m * k / 32 / per_reg, input, false)?;
        let b = self.fragment(&operands[2], n * k / 32 / per_reg, input, false)?;
        let c = self.fragment(&operands[3], acc_count, acc_reg, false)?;
        Ok(Op::Mma(Box::new(Mma {
            m,
            n,
            k,
            a_ty,
            b_ty,
            acc,
            saturate,
            d,
            a,
            b,
            c,
        })))
    }
}

fn sync(mods: &mut Mods<'_>, opcode: &str) -> Result<(), String> {
    if mods.flag("sync") {
        return Ok(());
    }
    Err(format!(
        "{opcode} exists in its .sync form only since compute capability 7.0"
    ))
}
