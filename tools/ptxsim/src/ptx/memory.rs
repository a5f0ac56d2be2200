//! Decoding of loads, stores, atomics, asynchronous copies and fences.

use super::decode::{Fit, Mods};
use super::function::Function;
use super::isa::{AtomFn, Op, Reg, Space, Ty};
use super::parse::{Operand, Statement};

use Ty::{
    B8, B16, B32, B64, BF16, BF16x2, F16, F16x2, F32, F64, S8, S16, S32, S64, U8, U16, U32, U64,
};

const SPACES: [(&str, Space); 7] = [
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("shared::cluster", Space::Cluster),
    ("local", Space::Local),
    ("param", Space::Param),
    ("const", Space::Const),
];

/// Scopes, and whether they reach beyond the cluster.
const SCOPES: [(&str, bool); 4] = [
    ("cta", false),
    ("cluster", false),
    ("gpu", true),
    ("sys", true),
];

/// Cache operators and eviction priorities change no result.
fn cache_hints(mods: &mut Mods<'_>) {
    let hint = |word: &str| {
        matches!(word, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt")
            || word.starts_with("L1::")
            || (word.starts_with("L2::") && word != "L2::cache_hint")
    };
    while mods.find(|word| hint(word).then_some(())).is_some() {}
}

impl<'a> Function<'a> {
    /// Decodes an instruction on memory; `None` if the opcode is of another kind.
    pub fn decode_memory(
        &mut self,
        s: &Statement<'a>,
        mods: &mut Mods<'a>,
    ) -> Result<Option<Op>, String> {
        Ok(Some(match s.opcode {
            "ld" | "ldu" => self.load(s, mods)?,
            "st" => self.store(s, mods)?,
            "atom" | "red" => self.atomic(s, mods)?,
            "cp" => self.async_copy(s, mods)?,
            "membar" => {
                let block_only =
                    mods.need("a level", &[("cta", true), ("gl", false), ("sys", false)])?;
                self.count(s, 0, 0)?;
                Op::Fence { block_only }
            }
            "fence" => {
                self.count(s, 0, 0)?;
                if mods.flag("proxy") {
                    match self.hopper_fence(mods)? {
                        Some(op) => op,
                        None => {
                            mods.need("a proxy", &[("alias", ())])?;
                            Op::Nop
                        }
                    }
                } else if let Some(op) = self.hopper_fence(mods)? {
                    op
                } else {
                    mods.pick(&[("sc", ()), ("acq_rel", ())]);
                    let scope = [
                        ("cta", true),
                        ("cluster", false),
                        ("gpu", false),
                        ("sys", false),
                    ];
                    Op::Fence {
                        block_only: mods.need("a scope", &scope)?,
                    }
                }
            }
            "prefetch" | "prefetchu" | "discard" => {
                cache_hints(mods);
                mods.find(|word| matches!(word, "L1" | "L2").then_some(()));
                mods.pick(&SPACES);
                let operands = self.count(s, 1, 2)?;
                self.address(&operands[0])?;
                Op::Nop
            }
            _ => return Ok(None),
        }))
    }

    /// Takes `.volatile`, `.relaxed`, `.acquire`, `.release` and their scope; whether the access is strong, and whether it
    /// releases to the whole device.
    fn strength(mods: &mut Mods<'_>) -> (bool, bool) {
        mods.flag("weak");
        let kinds = [
            ("volatile", false),
            ("relaxed", false),
            ("acquire", false),
            ("release", true),
            ("mmio", false),
        ];
        let Some(release) = mods.pick(&kinds) else {
            return (false, false);
        };
        let device = mods.pick(&SCOPES).unwrap_or(true);
        (true, release && device)
    }

    fn lanes(mods: &mut Mods<'_>) -> usize {
        mods.pick(&[("v2", 2), ("v4", 4)]).unwrap_or(1)
    }

    fn memory_type(mods: &mut Mods<'_>, lanes: usize) -> Result<Ty, String> {
        let ty = mods.ty(&[
            B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F16, BF16, F32, F64,
        ])?;
        if ty.bytes() as usize * lanes > 16 {
            return Err("a vector access has 16 bytes at most".into());
        }
        Ok(ty)
    }

    fn load(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let (strong, _) = Self::strength(mods);
        let space = mods.pick(&SPACES).unwrap_or(Space::Generic);
        let cached = mods.flag("nc") || s.opcode == "ldu";
        cache_hints(mods);
        let hint = mods.flag("L2::cache_hint");
        let lanes = Self::lanes(mods);
        let ty = Self::memory_type(mods, lanes)?;
        let operands = self.count(s, 2, 2 + usize::from(hint))?;
        let parts = Self::parts(&operands[0]);
        if parts.len() != lanes {
            return Err(format!(
                "{lanes} destinations are needed, not {}",
                parts.len()
            ));
        }
        let mut d = [Reg::NONE; 4];
        for (reg, part) in d.iter_mut().zip(parts) {
            *reg = self.destination(part, ty, Fit::Wider)?;
        }
        let addr = self.address(&operands[1])?;
        let space = self.param_space(space, &operands[1]);
        Ok(Op::Ld {
            space,
            cached,
            bytes: ty.bytes(),
            signed: ty.is_signed(),
            strong,
            lanes: lanes as u32,
            d,
            addr,
        })
    }

    fn store(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let (strong, release) = Self::strength(mods);
        let space = mods.pick(&SPACES).unwrap_or(Space::Generic);
        cache_hints(mods);
        let hint = mods.flag("L2::cache_hint");
        let lanes = Self::lanes(mods);
        let ty = Self::memory_type(mods, lanes)?;
        let operands = self.count(s, 2, 2 + usize::from(hint))?;
        let space = self.param_space(space, &operands[0]);
        if matches!(space, Space::Param | Space::Const) {
            return Err("parameters and constants cannot be stored to".into());
        }
        let parts = Self::parts(&operands[1]);
        if parts.len() != lanes {
            return Err(format!("{lanes} sources are needed, not {}", parts.len()));
        }
        let mut values = [Reg::NONE; 4];
        for (reg, part) in values.iter_mut().zip(parts) {
            *reg = self.source(part, ty, Fit::Wider)?;
        }
        let addr = self.address(&operands[0])?;
        Ok(Op::St {
            space,
            bytes: ty.bytes(),
            strong,
            release,
            lanes: lanes as u32,
            s: values,
            addr,
        })
    }

    fn atomic(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let kinds = [
            ("relaxed", false),
            ("acquire", false),
            ("release", true),
            ("acq_rel", true),
        ];
        let release = mods.pick(&kinds).unwrap_or(false);
        let device = mods.pick(&SCOPES).unwrap_or(true);
        let space = mods.pick(&SPACES[..4]).unwrap_or(Space::Generic);
        let f = mods.need(
            "an operation",
            &[
                ("add", AtomFn::Add),
                ("min", AtomFn::Min),
                ("max", AtomFn::Max),
                ("and", AtomFn::And),
                ("or", AtomFn::Or),
                ("xor", AtomFn::Xor),
                ("exch", AtomFn::Exch),
                ("cas", AtomFn::Cas),
                ("inc", AtomFn::Inc),
                ("dec", AtomFn::Dec),
            ],
        )?;
        mods.flag("noftz");
        let hint = mods.flag("L2::cache_hint");
        let allowed: &[Ty] = match f {
            AtomFn::Add => &[U32, S32, U64, F16, F16x2, BF16, BF16x2, F32, F64],
            AtomFn::Min | AtomFn::Max => &[U32, S32, U64, S64],
            AtomFn::And | AtomFn::Or | AtomFn::Xor | AtomFn::Exch => &[B32, B64],
            AtomFn::Cas => &[B16, B32, B64],
            AtomFn::Inc | AtomFn::Dec => &[U32],
        };
        let ty = mods.ty(allowed)?;
        let red = s.opcode == "red";
        if red && matches!(f, AtomFn::Exch | AtomFn::Cas) {
            return Err("red has no exch and no cas".into());
        }
        let sources = if f == AtomFn::Cas { 2 } else { 1 };
        let first = usize::from(!red);
        let operands = self.count(
            s,
            first + 1 + sources,
            first + 1 + sources + usize::from(hint),
        )?;
        let d = if red {
            Reg::NONE
        } else {
            self.destination(&operands[0], ty, Fit::Exact)?
        };
        let addr = self.address(&operands[first])?;
        let b = self.source(&operands[first + 1], ty, Fit::Exact)?;
        let c = if sources == 2 {
            self.source(&operands[first + 2], ty, Fit::Exact)?
        } else {
            Reg::NONE
        };
        Ok(Op::Atom {
            space,
            f,
            ty,
            release: release && device,
            d,
            addr,
            b,
            c,
        })
    }

    fn async_copy(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        mods.need("its kind", &[("async", ())])?;
        if mods.flag("bulk") {
            return self.bulk_copy(s, mods);
        }
        if mods.flag("mbarrier") {
            return Err("cp.async.mbarrier.arrive is not supported".into());
        }
        if mods.flag("commit_group") {
            self.count(s, 0, 0)?;
            return Ok(Op::CpAsyncCommit);
        }
        if mods.flag("wait_all") {
            self.count(s, 0, 0)?;
            return Ok(Op::CpAsyncWait {
                pending: 0,
                all: true,
            });
        }
        if mods.flag("wait_group") {
            let [Operand::Integer(pending)] = self.count(s, 1, 1)? else {
                return Err("cp.async.wait_group needs a number of groups".into());
            };
            let pending =
                u32::try_from(*pending).map_err(|_| format!("{pending} groups are too many"))?;
            return Ok(Op::CpAsyncWait {
                pending,
                all: false,
            });
        }
        let through_l1 = mods.need("a cache operator", &[("ca", true), ("cg", false)])?;
        mods.need("the space written", &[("shared", ()), ("shared::cta", ())])?;
        mods.need("the space read", &[("global", ())])?;
        cache_hints(mods);
        let hint = mods.flag("L2::cache_hint");
        let operands = self.count(s, 3, 4 + usize::from(hint))?;
        let Operand::Integer(bytes @ (4 | 8 | 16)) = operands[2] else {
            return Err("cp.async copies 4, 8 or 16 bytes".into());
        };
        if !through_l1 && bytes != 16 {
            return Err("cp.async.cg copies 16 bytes".into());
        }
        let dst = self.address(&operands[0])?;
        let src = self.address(&operands[1])?;
        let (mut src_bytes, mut ignore) = (Reg::NONE, None);
        // With a cache policy at the end, a fourth operand of 64 bits is the policy.
        let fourth = if hint && operands.len() == 4 {
            None
        } else {
            operands.get(3)
        };
        match fourth {
            None => {}
            Some(operand @ Operand::Not(_)) => ignore = Some(self.predicate_operand(operand)?),
            Some(operand @ Operand::Name(name)) => match self.declared(name)? {
                Some(declared) if declared.reg.is_pred() => {
                    ignore = Some(self.predicate_operand(operand)?)
                }
                _ => src_bytes = self.source(operand, U32, Fit::Exact)?,
            },
            Some(operand) => src_bytes = self.source(operand, U32, Fit::Exact)?,
        }
        Ok(Op::CpAsync {
            bytes: bytes as u32,
            dst,
            src,
            src_bytes,
            ignore,
        })
    }
}
