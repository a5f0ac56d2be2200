//! Decoding of conversions and of instructions about address spaces.

use super::decode::{Fit, Mods};
use super::function::Function;
use super::isa::{Op, Round, Space, Ty};
use super::parse::Statement;
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW};

use Ty::{B32, BF16, BF16x2, F16, F16x2, F32, F64, S8, S16, S32, S64, TF32, U8, U16, U32, U64};

const SCALARS: [Ty; 12] = [U8, U16, U32, U64, S8, S16, S32, S64, F16, BF16, F32, F64];

impl<'a> Function<'a> {
    /// Decodes a conversion; `None` if the opcode is of another kind.
    pub fn decode_conversion(
        &mut self,
        s: &Statement<'a>,
        mods: &mut Mods<'a>,
    ) -> Result<Option<Op>, String> {
        Ok(Some(match s.opcode {
            "cvt" => self.cvt(s, mods)?,
            "cvta" => self.cvta(s, mods)?,
            "isspacep" => {
                let spaces = [
                    ("global", Space::Global),
                    ("shared", Space::Shared),
                    ("local", Space::Local),
                ];
                let longer = [
                    ("const", Space::Const),
                    ("shared::cta", Space::Shared),
                    ("shared::cluster", Space::Cluster),
                ];
                let space = match mods.pick(&longer) {
                    Some(space) => space,
                    None => mods.need("a state space", &spaces)?,
                };
                let [d, a] = self.count(s, 2, 2)? else {
                    return Err("isspacep takes two operands".into());
                };
                let a = self.source(a, U64, Fit::Exact)?;
                Op::Isspacep {
                    d: self.destination(d, Ty::Pred, Fit::Exact)?,
                    a,
                    space,
                }
            }
            _ => return Ok(None),
        }))
    }

    fn cvta(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let to = mods.flag("to");
        let space = mods.need(
            "a state space",
            &[
                ("global", 0),
                ("const", 0),
                ("param", u64::MAX),
                ("shared", SHARED_WINDOW),
                ("shared::cta", SHARED_WINDOW),
                ("shared::cluster", SHARED_WINDOW),
                ("local", LOCAL_WINDOW),
            ],
        )?;
        if space == u64::MAX {
            return Err("generic addresses of parameters are not supported".into());
        }
        mods.ty(&[U64])?;
        let [d, a] = self.count(s, 2, 2)? else {
            return Err("cvta takes two operands".into());
        };
        let a = self.source(a, U64, Fit::Exact)?;
        let delta = if to { space.wrapping_neg() } else { space };
        Ok(Op::Cvta {
            d: self.destination(d, U64, Fit::Exact)?,
            a,
            delta,
        })
    }

    fn cvt(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let integral = mods.pick(&[
            ("rni", Round::Nearest),
            ("rzi", Round::Zero),
            ("rmi", Round::Down),
            ("rpi", Round::Up),
        ]);
        let round = mods.pick(&super::floats::ROUNDINGS);
        let (ftz, sat, relu) = (mods.flag("ftz"), mods.flag("sat"), mods.flag("relu"));
        let to = mods.ty(&[
            U8, U16, U32, U64, S8, S16, S32, S64, F16, BF16, F32, F64, F16x2, BF16x2, TF32,
        ])?;
        let from = mods.ty(&SCALARS)?;
        let no = |why: &str| Err(format!("cvt from .{from:?} to .{to:?} {why}"));
        if matches!(to, F16x2 | BF16x2) {
            let Some(round @ (Round::Nearest | Round::Zero)) = round else {
                return no("needs .rn or .rz");
            };
            if from != F32 || sat || ftz {
                return no("does not exist in this form");
            }
            let [d, a, b] = self.count(s, 3, 3)? else {
                return no("takes three operands");
            };
            let (a, b) = (
                self.source(a, F32, Fit::Exact)?,
                self.source(b, F32, Fit::Exact)?,
            );
            return Ok(Op::CvtPack {
                to,
                round,
                relu,
                d: self.destination(d, B32, Fit::Exact)?,
                a,
                b,
            });
        }
        let [d, a] = self.count(s, 2, 2)? else {
            return no("takes two operands");
        };
        let (to_float, from_float) = (to.is_float(), from.is_float());
        if to == TF32 {
            if from != F32
                || !matches!(
                    round,
                    Some(Round::NearestAway | Round::Nearest | Round::Zero)
                )
                || sat
                || ftz
            {
                return no("does not exist in this form: use cvt.rna.tf32.f32");
            }
        } else {
            if round == Some(Round::NearestAway) {
                return no("has no .rna");
            }
            if ftz && to != F32 && from != F32 {
                return no("has no .ftz");
            }
            let narrowing = from_float
                && to_float
                && (to.bytes() < from.bytes() || (to == BF16 && from == F16));
            match (from_float, to_float) {
                (true, false) if integral.is_none() || round.is_some() => {
                    return no("needs an integer rounding: .rni .rzi .rmi .rpi");
                }
                (false, true) if round.is_none() || integral.is_some() => {
                    return no("needs a rounding: .rn .rz .rm .rp");
                }
                (true, true) if narrowing && (round.is_none() || integral.is_some()) => {
                    return no("needs a rounding: .rn .rz .rm .rp");
                }
                (true, true) if !narrowing && round.is_some() && to != from => {
                    return no("is exact and has no rounding");
                }
                (false, false) if round.is_some() || integral.is_some() => {
                    return no("has no rounding");
                }
                _ => {}
            }
            if relu && !(narrowing && from == F32) {
                return no("has no .relu");
            }
        }
        let a = self.source(a, from, Fit::Wider)?;
        let d = self.destination(d, to, Fit::Wider)?;
        // Same-size conversions with a plain rounding, as older compilers wrote them, are integral too.
        let round_value = integral.or(round).unwrap_or(Round::Nearest);
        let integral = integral.is_some();
        Ok(Op::Cvt {
            to,
            from,
            round: round_value,
            integral,
            ftz,
            sat,
            relu,
            d,
            a,
        })
    }
}
