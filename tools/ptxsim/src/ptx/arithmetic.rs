//! Decoding of integer, floating-point, logic and comparison instructions.

use super::decode::{Fit, Mods};
use super::function::Function;
use super::isa::{Bool, Carry, Cmp, CountFn, IntFn, Op, Pred, Reg, TestKind, Ty};
use super::parse::{Operand, Statement};

use Ty::{B16, B32, B64, BF16, BF16x2, F16, F16x2, F32, F64, S16, S32, S64, U16, U32, U64};

const INTEGERS: [Ty; 6] = [U16, U32, U64, S16, S32, S64];

impl<'a> Function<'a> {
    /// Sources of one type.
    fn sources<const N: usize>(
        &mut self,
        operands: &[Operand<'a>],
        ty: Ty,
    ) -> Result<[Reg; N], String> {
        let mut regs = [Reg::NONE; N];
        for (reg, operand) in regs.iter_mut().zip(operands) {
            *reg = self.source(operand, ty, Fit::Exact)?;
        }
        Ok(regs)
    }

    /// Destination and up to three sources, all of one type.
    pub(super) fn same_type(
        &mut self,
        s: &Statement<'a>,
        sources: usize,
        ty: Ty,
    ) -> Result<(Reg, [Reg; 3]), String> {
        let operands = self.count(s, sources + 1, sources + 1)?;
        let regs = self.sources(&operands[1..], ty)?;
        Ok((self.destination(&operands[0], ty, Fit::Exact)?, regs))
    }

    /// Decodes an arithmetic instruction; `None` if the opcode is of another kind.
    pub fn decode_arithmetic(
        &mut self,
        s: &Statement<'a>,
        mods: &mut Mods<'a>,
    ) -> Result<Option<Op>, String> {
        let float = s
            .modifiers
            .iter()
            .rev()
            .find_map(|word| Ty::named(word))
            .is_some_and(Ty::is_float);
        Ok(Some(match s.opcode {
            "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt" | "min" | "max"
            | "abs" | "neg" | "copysign" | "ex2" | "lg2" | "rsqrt" | "sin" | "cos" | "tanh"
                if float =>
            {
                self.float(s, mods)?
            }
            "add" | "sub" | "addc" | "subc" => self.add_sub(s, mods)?,
            "mul" | "mad" | "madc" => self.multiply(s, mods)?,
            "mul24" | "mad24" => {
                let high = mods.need("a half", &[("lo", false), ("hi", true)])?;
                let ty = mods.ty(&[U32, S32])?;
                let (f, n) = match (s.opcode, high) {
                    ("mul24", false) => (IntFn::Mul24Lo, 2),
                    ("mul24", true) => (IntFn::Mul24Hi, 2),
                    (_, false) => (IntFn::Mad24Lo, 3),
                    (_, true) => (IntFn::Mad24Hi, 3),
                };
                self.integer(s, f, n, ty)?
            }
            "sad" => {
                let ty = mods.ty(&INTEGERS)?;
                self.integer(s, IntFn::Sad, 3, ty)?
            }
            "div" | "rem" | "min" | "max" => {
                let f = match s.opcode {
                    "div" => IntFn::Div,
                    "rem" => IntFn::Rem,
                    "min" => IntFn::Min,
                    _ => IntFn::Max,
                };
                let ty = mods.ty(&INTEGERS)?;
                self.integer(s, f, 2, ty)?
            }
            "abs" | "neg" => {
                let ty = mods.ty(&[S16, S32, S64])?;
                self.integer(
                    s,
                    if s.opcode == "abs" {
                        IntFn::Abs
                    } else {
                        IntFn::Neg
                    },
                    1,
                    ty,
                )?
            }
            "and" | "or" | "xor" | "not" | "cnot" => self.logic(s, mods)?,
            "shl" | "shr" => {
                let ty = if s.opcode == "shl" {
                    mods.ty(&[B16, B32, B64])?
                } else {
                    mods.ty(&[B16, B32, B64, U16, U32, U64, S16, S32, S64])?
                };
                let [d, a, b] = self.count(s, 3, 3)? else {
                    return Err("three operands are needed".into());
                };
                let f = if s.opcode == "shl" {
                    IntFn::Shl
                } else {
                    IntFn::Shr
                };
                let (a, b) = (
                    self.source(a, ty, Fit::Exact)?,
                    self.source(b, U32, Fit::Exact)?,
                );
                Op::Int {
                    f,
                    ty,
                    d: self.destination(d, ty, Fit::Exact)?,
                    a,
                    b,
                    c: Reg::NONE,
                    e: Reg::NONE,
                }
            }
            "popc" | "clz" | "bfind" => {
                let shift = s.opcode == "bfind" && mods.flag("shiftamt");
                let allowed: &[Ty] = if s.opcode == "bfind" {
                    &[U32, U64, S32, S64]
                } else {
                    &[B32, B64]
                };
                let ty = mods.ty(allowed)?;
                let f = match s.opcode {
                    "popc" => CountFn::Popc,
                    "clz" => CountFn::Clz,
                    _ if shift => CountFn::BfindShift,
                    _ => CountFn::Bfind,
                };
                let [d, a] = self.count(s, 2, 2)? else {
                    return Err("two operands are needed".into());
                };
                let a = self.source(a, ty, Fit::Exact)?;
                Op::Count {
                    f,
                    ty,
                    d: self.destination(d, U32, Fit::Exact)?,
                    a,
                }
            }
            "brev" => {
                let ty = mods.ty(&[B32, B64])?;
                self.integer(s, IntFn::Brev, 1, ty)?
            }
            "bfe" => {
                let ty = mods.ty(&[U32, U64, S32, S64])?;
                let [d, a, b, c] = self.count(s, 4, 4)? else {
                    return Err("four operands are needed".into());
                };
                let a = self.source(a, ty, Fit::Exact)?;
                let [b, c] = self.sources(&[b.clone(), c.clone()], U32)?;
                Op::Int {
                    f: IntFn::Bfe,
                    ty,
                    d: self.destination(d, ty, Fit::Exact)?,
                    a,
                    b,
                    c,
                    e: Reg::NONE,
                }
            }
            "bfi" => {
                let ty = mods.ty(&[B32, B64])?;
                let [d, a, b, c, e] = self.count(s, 5, 5)? else {
                    return Err("five operands are needed".into());
                };
                let [a, b] = self.sources(&[a.clone(), b.clone()], ty)?;
                let [c, e] = self.sources(&[c.clone(), e.clone()], U32)?;
                Op::Int {
                    f: IntFn::Bfi,
                    ty,
                    d: self.destination(d, ty, Fit::Exact)?,
                    a,
                    b,
                    c,
                    e,
                }
            }
            "prmt" => {
                mods.ty(&[B32])?;
                let modes = [
                    ("f4e", 1),
                    ("b4e", 2),
                    ("rc8", 3),
                    ("ecl", 4),
                    ("ecr", 5),
                    ("rc16", 6),
                ];
                let mode = mods.pick(&modes).unwrap_or(0);
                let (d, [a, b, c]) = self.same_type(s, 3, B32)?;
                Op::Prmt { mode, d, a, b, c }
            }
            "shf" => {
                let left = mods.need("a direction", &[("l", true), ("r", false)])?;
                let wrap = mods.need("a mode", &[("wrap", true), ("clamp", false)])?;
                mods.ty(&[B32])?;
                let (d, [a, b, c]) = self.same_type(s, 3, B32)?;
                Op::Shf {
                    left,
                    wrap,
                    d,
                    a,
                    b,
                    c,
                }
            }
            "lop3" => {
                mods.ty(&[B32])?;
                let [d, a, b, c, Operand::Integer(lut)] = self.count(s, 5, 5)? else {
                    return Err("lop3 needs four operands and a table".into());
                };
                let [a, b, c] = self.sources(&[a.clone(), b.clone(), c.clone()], B32)?;
                let lut = u8::try_from(*lut).map_err(|_| format!("{lut} is no table of lop3"))?;
                Op::Lop3 {
                    lut,
                    d: self.destination(d, B32, Fit::Exact)?,
                    a,
                    b,
                    c,
                }
            }
            "dp4a" => {
                let signed_a = mods.ty(&[U32, S32])? == S32;
                let signed_b = mods.ty(&[U32, S32])? == S32;
                let (d, [a, b, c]) = self.same_type(s, 3, U32)?;
                Op::Dp4a {
                    signed_a,
                    signed_b,
                    d,
                    a,
                    b,
                    c,
                }
            }
            "setp" => self.setp(s, mods)?,
            "set" => self.set(s, mods)?,
            "selp" => {
                let ty = mods.ty(&[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64])?;
                let [d, a, b, p] = self.count(s, 4, 4)? else {
                    return Err("selp takes four operands".into());
                };
                let [a, b] = self.sources(&[a.clone(), b.clone()], ty)?;
                let p = self.predicate_operand(p)?;
                Op::Selp {
                    d: self.destination(d, ty, Fit::Exact)?,
                    a,
                    b,
                    p,
                }
            }
            "slct" => {
                let ftz = mods.flag("ftz");
                let ty = mods.ty(&[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64])?;
                let by = mods.ty(&[S32, F32])?;
                let [d, a, b, c] = self.count(s, 4, 4)? else {
                    return Err("slct takes four operands".into());
                };
                let [a, b] = self.sources(&[a.clone(), b.clone()], ty)?;
                let c = self.source(c, by, Fit::Exact)?;
                Op::Slct {
                    float: by == F32,
                    ftz,
                    d: self.destination(d, ty, Fit::Exact)?,
                    a,
                    b,
                    c,
                }
            }
            "testp" => {
                let what = mods.need(
                    "a test",
                    &[
                        ("finite", TestKind::Finite),
                        ("infinite", TestKind::Infinite),
                        ("number", TestKind::Number),
                        ("notanumber", TestKind::NotANumber),
                        ("normal", TestKind::Normal),
                        ("subnormal", TestKind::Subnormal),
                    ],
                )?;
                let ty = mods.ty(&[F32, F64])?;
                let [d, a] = self.count(s, 2, 2)? else {
                    return Err("testp takes two operands".into());
                };
                let a = self.source(a, ty, Fit::Exact)?;
                Op::Testp {
                    what,
                    ty,
                    d: self.destination(d, Ty::Pred, Fit::Exact)?,
                    a,
                }
            }
            _ => return Ok(None),
        }))
    }

    fn integer(
        &mut self,
        s: &Statement<'a>,
        f: IntFn,
        sources: usize,
        ty: Ty,
    ) -> Result<Op, String> {
        let (d, [a, b, c]) = self.same_type(s, sources, ty)?;
        Ok(Op::Int {
            f,
            ty,
            d,
            a,
            b,
            c,
            e: Reg::NONE,
        })
    }

    fn add_sub(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let saturate = mods.flag("sat");
        let output = mods.flag("cc");
        let input = s.opcode.ends_with('c');
        let add = s.opcode.starts_with("add");
        if output || input {
            let ty = mods.ty(&[U32, S32, U64, S64])?;
            let (d, [a, b, c]) = self.same_type(s, 2, ty)?;
            let f = if add { IntFn::Add } else { IntFn::Sub };
            return Ok(Op::Carrying {
                f,
                ty,
                carry: Carry { input, output },
                d,
                a,
                b,
                c,
            });
        }
        let ty = if saturate {
            mods.ty(&[S32])?
        } else {
            mods.ty(&INTEGERS)?
        };
        let f = match (add, saturate) {
            (true, false) => IntFn::Add,
            (true, true) => IntFn::AddSat,
            (false, false) => IntFn::Sub,
            (false, true) => IntFn::SubSat,
        };
        self.integer(s, f, 2, ty)
    }

    fn multiply(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let half = mods.need("a half", &[("lo", 0), ("hi", 1), ("wide", 2)])?;
        let saturate = mods.flag("sat");
        let output = mods.flag("cc");
        let input = s.opcode == "madc";
        let ty = mods.ty(&INTEGERS)?;
        let sources = if s.opcode == "mul" { 2 } else { 3 };
        if half == 2 {
            let result = match ty {
                U16 => U32,
                S16 => S32,
                U32 => U64,
                S32 => S64,
                _ => return Err("a wide product of 64 bits does not exist".into()),
            };
            let operands = self.count(s, sources + 1, sources + 1)?;
            let [a, b] = self.sources(&operands[1..3], ty)?;
            let c = match operands.get(3) {
                Some(c) => self.source(c, result, Fit::Exact)?,
                None => Reg::NONE,
            };
            return Ok(Op::MulWide {
                ty,
                d: self.destination(&operands[0], result, Fit::Exact)?,
                a,
                b,
                c,
            });
        }
        let f = match (sources, half, saturate) {
            (2, 0, false) => IntFn::MulLo,
            (2, 1, false) => IntFn::MulHi,
            (3, 0, false) => IntFn::MadLo,
            (3, 1, false) => IntFn::MadHi,
            (3, 1, true) if ty == S32 => IntFn::MadHiSat,
            _ => return Err(".sat does not exist for this product".into()),
        };
        if input || output {
            if !matches!(ty, U32 | S32 | U64 | S64) || sources == 2 {
                return Err("carries exist for 32 and 64 bits only".into());
            }
            let (d, [a, b, c]) = self.same_type(s, 3, ty)?;
            return Ok(Op::Carrying {
                f,
                ty,
                carry: Carry { input, output },
                d,
                a,
                b,
                c,
            });
        }
        self.integer(s, f, sources, ty)
    }

    fn logic(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let ty = mods.ty(&[Ty::Pred, B16, B32, B64])?;
        let (f, sources, boolean) = match s.opcode {
            "and" => (IntFn::And, 2, Some(Bool::And)),
            "or" => (IntFn::Or, 2, Some(Bool::Or)),
            "xor" => (IntFn::Xor, 2, Some(Bool::Xor)),
            "not" => (IntFn::Not, 1, None),
            _ => (IntFn::Cnot, 1, None),
        };
        if ty != Ty::Pred {
            return self.integer(s, f, sources, ty);
        }
        let operands = self.count(s, sources + 1, sources + 1)?;
        let d = self.destination(&operands[0], Ty::Pred, Fit::Exact)?;
        let a = self.predicate_operand(&operands[1])?;
        match boolean {
            Some(f) => Ok(Op::Logic {
                f,
                d,
                a,
                b: self.predicate_operand(&operands[2])?,
            }),
            None if f == IntFn::Not => Ok(Op::CopyPred {
                d,
                a: Pred {
                    negated: !a.negated,
                    ..a
                },
            }),
            None => Err("cnot has no form for predicates".into()),
        }
    }

    fn comparison(&mut self, mods: &mut Mods<'a>) -> Result<(Cmp, Option<Bool>), String> {
        let cmp = mods.need(
            "a comparison",
            &[
                ("eq", Cmp::Eq),
                ("ne", Cmp::Ne),
                ("lt", Cmp::Lt),
                ("le", Cmp::Le),
                ("gt", Cmp::Gt),
                ("ge", Cmp::Ge),
                // Unsigned integers have names of their own.
                ("lo", Cmp::Lt),
                ("ls", Cmp::Le),
                ("hi", Cmp::Gt),
                ("hs", Cmp::Ge),
                ("equ", Cmp::Equ),
                ("neu", Cmp::Neu),
                ("ltu", Cmp::Ltu),
                ("leu", Cmp::Leu),
                ("gtu", Cmp::Gtu),
                ("geu", Cmp::Geu),
                ("num", Cmp::Num),
                ("nan", Cmp::Nan),
            ],
        )?;
        Ok((
            cmp,
            mods.pick(&[("and", Bool::And), ("or", Bool::Or), ("xor", Bool::Xor)]),
        ))
    }

    fn compared(&self, cmp: Cmp, ty: Ty) -> Result<(), String> {
        use Cmp::{Eq, Equ, Geu, Gtu, Leu, Ltu, Nan, Ne, Neu, Num};
        let unordered = matches!(cmp, Equ | Neu | Ltu | Leu | Gtu | Geu | Num | Nan);
        let bits = matches!(ty, B16 | B32 | B64);
        if (unordered && !ty.is_float()) || (bits && !matches!(cmp, Eq | Ne)) {
            return Err(format!("comparison {cmp:?} does not exist for .{ty:?}"));
        }
        Ok(())
    }

    fn setp(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let (cmp, combine) = self.comparison(mods)?;
        let ftz = mods.flag("ftz");
        let ty = mods.ty(&[
            B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, BF16, F16x2, BF16x2, F32, F64,
        ])?;
        self.compared(cmp, ty)?;
        let sources = if combine.is_some() { 3 } else { 2 };
        let operands = self.count(s, sources + 1, sources + 1)?;
        let (d, q) = self.pair(&operands[0], Ty::Pred)?;
        let [a, b] = self.sources(&operands[1..3], ty)?;
        let combine = match combine {
            Some(f) => Some((f, self.predicate_operand(&operands[3])?)),
            None => None,
        };
        if matches!(ty, F16x2 | BF16x2) && combine.is_some() {
            return Err("combined comparisons of packed halves are not supported".into());
        }
        Ok(Op::Setp {
            cmp,
            ty,
            ftz,
            a,
            b,
            d,
            q,
            combine,
        })
    }

    fn set(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let (cmp, combine) = self.comparison(mods)?;
        let ftz = mods.flag("ftz");
        let result = mods.ty(&[U32, S32, F32])?;
        let ty = mods.ty(&[
            B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, BF16, F32, F64,
        ])?;
        self.compared(cmp, ty)?;
        let sources = if combine.is_some() { 3 } else { 2 };
        let operands = self.count(s, sources + 1, sources + 1)?;
        let [a, b] = self.sources(&operands[1..3], ty)?;
        let combine = match combine {
            Some(f) => Some((f, self.predicate_operand(&operands[3])?)),
            None => None,
        };
        let d = self.destination(&operands[0], result, Fit::Exact)?;
        Ok(Op::Set {
            cmp,
            ty,
            ftz,
            float: result == F32,
            d,
            a,
            b,
            combine,
        })
    }
}
