//! Decoding of floating-point arithmetic.

use super::decode::Mods;
use super::function::Function;
use super::isa::{ApproxFn, FloatFn, Op, Round, Ty};
use super::parse::Statement;

use Ty::{BF16, BF16x2, F16, F16x2, F32, F64};

pub(super) const ROUNDINGS: [(&str, Round); 5] = [
    ("rn", Round::Nearest),
    ("rz", Round::Zero),
    ("rm", Round::Down),
    ("rp", Round::Up),
    ("rna", Round::NearestAway),
];

impl<'a> Function<'a> {
    /// Everything with a floating-point type, approximate functions included.
    pub(super) fn float(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let approximate = mods.flag("approx");
        let full = mods.flag("full");
        let (ftz, sat) = (mods.flag("ftz"), mods.flag("sat"));
        let round = mods.pick(&ROUNDINGS[..4]);
        let nan = mods.flag("NaN");
        let xorsign = mods.flag("xorsign");
        let relu = mods.flag("relu");
        let ty = mods.ty(&[F16, F16x2, BF16, BF16x2, F32, F64])?;
        let small = !matches!(ty, F32 | F64);
        if xorsign {
            return Err(".xorsign is not supported".into());
        }
        if (ftz && !approximate && matches!(ty, F64 | BF16 | BF16x2))
            || (sat && matches!(ty, F64 | BF16 | BF16x2))
        {
            return Err(format!(".ftz and .sat do not exist for .{ty:?}"));
        }
        if small && !matches!(round, None | Some(Round::Nearest)) {
            return Err(format!(".{ty:?} has .rn only"));
        }
        let approx = match s.opcode {
            "ex2" => Some(ApproxFn::Ex2),
            "lg2" => Some(ApproxFn::Lg2),
            "rsqrt" => Some(ApproxFn::Rsqrt),
            "sin" => Some(ApproxFn::Sin),
            "cos" => Some(ApproxFn::Cos),
            "tanh" => Some(ApproxFn::Tanh),
            "rcp" if approximate => Some(ApproxFn::Rcp),
            "sqrt" if approximate => Some(ApproxFn::Sqrt),
            "div" if approximate || full => Some(ApproxFn::Div),
            _ => None,
        };
        if let Some(f) = approx {
            let allowed = match f {
                ApproxFn::Rcp | ApproxFn::Rsqrt => matches!(ty, F32 | F64),
                ApproxFn::Tanh | ApproxFn::Ex2 => ty != F64,
                _ => ty == F32,
            };
            if !(approximate || full) || !allowed || round.is_some() || sat || relu || nan {
                return Err(format!("this form of {} does not exist", s.opcode));
            }
            let sources = if f == ApproxFn::Div { 2 } else { 1 };
            let (d, [a, b, _]) = self.same_type(s, sources, ty)?;
            return Ok(Op::Approx {
                f,
                ty,
                ftz,
                sat,
                d,
                a,
                b,
            });
        }
        if approximate || full {
            return Err(format!("{} has no approximate form", s.opcode));
        }
        let (f, sources, rounds) = match s.opcode {
            "add" => (FloatFn::Add, 2, true),
            "sub" => (FloatFn::Sub, 2, true),
            "mul" => (FloatFn::Mul, 2, true),
            "fma" | "mad" if relu => (FloatFn::FmaRelu, 3, true),
            "fma" | "mad" => (FloatFn::Fma, 3, true),
            "div" => (FloatFn::Div, 2, true),
            "rcp" => (FloatFn::Rcp, 1, true),
            "sqrt" => (FloatFn::Sqrt, 1, true),
            "min" => (if nan { FloatFn::MinNan } else { FloatFn::Min }, 2, false),
            "max" => (if nan { FloatFn::MaxNan } else { FloatFn::Max }, 2, false),
            "abs" => (FloatFn::Abs, 1, false),
            "neg" => (FloatFn::Neg, 1, false),
            _ => (FloatFn::Copysign, 2, false),
        };
        let needs_round = matches!(
            f,
            FloatFn::Fma | FloatFn::FmaRelu | FloatFn::Div | FloatFn::Rcp | FloatFn::Sqrt
        );
        if needs_round && round.is_none() {
            return Err(format!(
                "{} needs a rounding: one of .rn .rz .rm .rp",
                s.opcode
            ));
        }
        if (!rounds && (round.is_some() || sat))
            || (nan && !matches!(f, FloatFn::MinNan | FloatFn::MaxNan))
        {
            return Err(format!("this form of {} does not exist", s.opcode));
        }
        if (relu && !(f == FloatFn::FmaRelu && small))
            || (small
                && matches!(
                    f,
                    FloatFn::Div | FloatFn::Rcp | FloatFn::Sqrt | FloatFn::Copysign
                ))
        {
            return Err(format!(
                "this form of {} does not exist for .{ty:?}",
                s.opcode
            ));
        }
        let (d, [a, b, c]) = self.same_type(s, sources, ty)?;
        Ok(Op::Float {
            f,
            ty,
            round: round.unwrap_or(Round::Nearest),
            ftz,
            sat,
            d,
            a,
            b,
            c,
        })
    }
}
