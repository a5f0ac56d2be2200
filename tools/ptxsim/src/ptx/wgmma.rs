//! Decoding of `wgmma`, the matrix products of a warpgroup.

use super::decode::{Fit, Mods};
use super::function::Function;
use super::hopper::{Hopper, aligned, pending, wrap};
use super::isa::{MmaTy, Op, Pred, Reg, Ty};
use super::parse::{Operand, Statement};

use Ty::{B32, B64, F32};

/// A factor of a `wgmma`: its fragment in registers, or a descriptor of where it lies in shared memory.
#[derive(Debug, Clone)]
pub(crate) enum Factor {
    Registers(Vec<Reg>),
    Shared {
        descriptor: Reg,
        /// Whether neighbours in memory are neighbours along M or N, not along K.
        across: bool,
    },
}

/// `wgmma.mma_async` of 64 x `n` x 16.
#[derive(Debug, Clone)]
pub(crate) struct Wgmma {
    pub n: usize,
    pub ty: MmaTy,
    pub d: Vec<Reg>,
    pub a: Factor,
    pub b: Factor,
    /// Whether D is added to.
    pub accumulate: Pred,
    pub negate: [bool; 2],
}

impl<'a> Function<'a> {
    /// Decodes `wgmma` and what goes with it.
    pub(super) fn wgmma(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let kinds = [
            ("fence", 0),
            ("commit_group", 1),
            ("wait_group", 2),
            ("mma_async", 3),
        ];
        let kind = mods.need("its kind", &kinds)?;
        aligned(mods)?;
        match kind {
            0 => {
                self.count(s, 0, 0)?;
                return Ok(wrap(Hopper::WgmmaFence));
            }
            1 => {
                self.count(s, 0, 0)?;
                return Ok(wrap(Hopper::WgmmaCommit));
            }
            2 => {
                let operands = self.count(s, 1, 1)?;
                let pending = pending(&operands[0])?;
                return Ok(wrap(Hopper::WgmmaWait { pending }));
            }
            _ => {}
        }
        let n = mods.find(|word| {
            let n: usize = word
                .strip_prefix("m64n")?
                .strip_suffix("k16")?
                .parse()
                .ok()?;
            (n.is_multiple_of(8) && (8..=256).contains(&n)).then_some(n)
        });
        let n = n.ok_or("wgmma is known for m64nNk16 here, N a multiple of 8 up to 256")?;
        mods.ty(&[F32])?;
        let ty = mods.ty(&[Ty::F16, Ty::BF16])?;
        if mods.ty(&[Ty::F16, Ty::BF16])? != ty {
            return Err("both factors of a wgmma have one type".into());
        }
        let operands = &s.operands;
        let registers = matches!(operands.get(1), Some(Operand::Vector(_)));
        let operands = {
            let count = if registers { 7 } else { 8 };
            self.count(s, count, count).map(|_| operands)?
        };
        let flag = |operand: &Operand<'a>, off: i64, on: i64| match operand {
            Operand::Integer(n) if *n as i64 == off => Ok(false),
            Operand::Integer(n) if *n as i64 == on => Ok(true),
            other => Err(format!("{other:?} is neither {off} nor {on}")),
        };
        let d = self.fragment(&operands[0], n / 2, F32, true)?;
        let b = Factor::Shared {
            descriptor: self.source(&operands[2], B64, Fit::Exact)?,
            across: flag(&operands[operands.len() - 1], 0, 1)?,
        };
        let a = if registers {
            Factor::Registers(self.fragment(&operands[1], 4, B32, false)?)
        } else {
            Factor::Shared {
                descriptor: self.source(&operands[1], B64, Fit::Exact)?,
                across: flag(&operands[6], 0, 1)?,
            }
        };
        Ok(wrap(Hopper::Wgmma(Wgmma {
            n,
            ty: if ty == Ty::F16 {
                MmaTy::F16
            } else {
                MmaTy::BF16
            },
            d,
            a,
            b,
            accumulate: self.predicate_operand(&operands[3])?,
            negate: [flag(&operands[4], 1, -1)?, flag(&operands[5], 1, -1)?],
        })))
    }
}
