//! Decoding of what came with compute capability 9.0: mbarriers, bulk copies and clusters; products of a warpgroup are in [`super::wgmma`].

use super::decode::{Fit, Mods};
use super::function::Function;
use super::isa::{Addr, Factor, Op, Reg, Ty, Wgmma};
use super::operands::Role;
use super::parse::{Operand, Statement};

use Ty::{B16, B32, B64, U32, U64};

/// The most that a wait for groups may leave on their way.
const MOST_PENDING: i64 = 7;

/// A bulk copy to shared memory, from global or the own block's; the mbarrier counts the bytes.
#[derive(Debug, Clone)]
pub(crate) struct BulkLoad {
    pub to: Addr,
    pub from: Addr,
    pub from_shared: bool,
    pub bytes: Reg,
    pub barrier: Addr,
    /// The blocks of the cluster that it goes to, each at the same offsets.
    pub blocks: Option<Reg>,
}

/// An instruction of compute capability 9.0.
#[derive(Debug, Clone)]
pub(crate) enum Hopper {
    MbarrierInit {
        at: Addr,
        count: Reg,
    },
    MbarrierInvalidate {
        at: Addr,
    },
    /// Arrives `count` times (once without), after `expect` more bytes are expected; yields the phase. `peers`: the mbarrier
    /// may be another block's.
    MbarrierArrive {
        d: Reg,
        at: Addr,
        count: Reg,
        expect: Reg,
        peers: bool,
    },
    /// Expects bytes, or has them come.
    MbarrierBytes {
        at: Addr,
        bytes: Reg,
        completes: bool,
        peers: bool,
    },
    /// Whether the phase of a state, or of a parity, is complete. `blocks`: the thread may be suspended until then.
    MbarrierWait {
        d: Reg,
        at: Addr,
        phase: Reg,
        parity: bool,
        blocks: bool,
    },
    BulkLoad(BulkLoad),
    /// Shared to global memory, in a group of the thread.
    BulkStore {
        to: Addr,
        from: Addr,
        bytes: Reg,
    },
    BulkCommit,
    /// Until the sources may be written again, at least.
    BulkWait {
        pending: u32,
    },
    /// What the thread wrote before is seen by the asynchronous proxy after.
    FenceProxy,
    FenceMbarrierInit,
    /// The address at the same offset in another block of the cluster; of `.shared::cluster` or generic.
    MapRank {
        d: Reg,
        a: Reg,
        rank: Reg,
        generic: bool,
    },
    /// The rank of the block that an address is in.
    RankOf {
        d: Reg,
        a: Reg,
    },
    ClusterArrive {
        releases: bool,
        aligned: bool,
    },
    ClusterWait {
        aligned: bool,
    },
    Elect {
        d: Reg,
        p: Reg,
        mask: Reg,
    },
    /// A request to the register allocator, which means nothing here.
    SetMaxRegisters,
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        pending: u32,
    },
    Wgmma(Wgmma),
}

impl Hopper {
    /// The least target, and whether it must be that very one in its `a` form.
    pub fn needs(&self) -> (u32, bool) {
        match self {
            Hopper::MbarrierInit { .. }
            | Hopper::MbarrierInvalidate { .. }
            | Hopper::MbarrierArrive { .. }
            | Hopper::MbarrierWait { blocks: false, .. } => (80, false),
            Hopper::SetMaxRegisters
            | Hopper::WgmmaFence
            | Hopper::WgmmaCommit
            | Hopper::WgmmaWait { .. }
            | Hopper::Wgmma(_) => (90, true),
            _ => (90, false),
        }
    }

    /// As [`Op::visit`].
    pub fn visit(&self, mut see: impl FnMut(Reg, Role)) {
        use Role::{Destination as D, Observed as O};
        match self {
            Hopper::MbarrierInit { at, count } => {
                see(at.base, O);
                see(*count, O);
            }
            Hopper::MbarrierInvalidate { at } => see(at.base, O),
            Hopper::MbarrierArrive {
                d,
                at,
                count,
                expect,
                ..
            } => {
                [at.base, *count, *expect]
                    .into_iter()
                    .for_each(|reg| see(reg, O));
                see(*d, D);
            }
            Hopper::MbarrierBytes { at, bytes, .. } => {
                see(at.base, O);
                see(*bytes, O);
            }
            Hopper::MbarrierWait { d, at, phase, .. } => {
                see(at.base, O);
                see(*phase, O);
                see(*d, D);
            }
            Hopper::BulkLoad(load) => {
                [load.to.base, load.from.base, load.bytes, load.barrier.base]
                    .into_iter()
                    .chain(load.blocks)
                    .for_each(|reg| see(reg, O));
            }
            Hopper::MapRank { d, a, rank, .. } => {
                see(*a, Role::Source);
                see(*rank, O);
                see(*d, D);
            }
            Hopper::RankOf { d, a } => {
                see(*a, O);
                see(*d, D);
            }
            Hopper::BulkStore { to, from, bytes } => {
                [to.base, from.base, *bytes]
                    .into_iter()
                    .for_each(|reg| see(reg, O));
            }
            Hopper::Elect { d, p, mask } => {
                see(*mask, O);
                see(*d, D);
                see(*p, D);
            }
            Hopper::Wgmma(w) => {
                // Whether the sums are read is known only when it runs.
                w.d.iter().for_each(|reg| see(*reg, Role::Source));
                w.d.iter().for_each(|reg| see(*reg, D));
                for factor in [&w.a, &w.b] {
                    match factor {
                        Factor::Registers(list) => list.iter().for_each(|reg| see(*reg, O)),
                        Factor::Shared { descriptor, .. } => see(*descriptor, O),
                    }
                }
                if w.accumulate.index != 0 {
                    see(Reg::pred(w.accumulate.index.into()), O);
                }
            }
            Hopper::BulkCommit
            | Hopper::BulkWait { .. }
            | Hopper::FenceProxy
            | Hopper::FenceMbarrierInit
            | Hopper::ClusterArrive { .. }
            | Hopper::ClusterWait { .. }
            | Hopper::SetMaxRegisters
            | Hopper::WgmmaFence
            | Hopper::WgmmaCommit
            | Hopper::WgmmaWait { .. } => {}
        }
    }

    /// As [`Op::class`].
    pub fn class(&self) -> &'static str {
        match self {
            Hopper::MbarrierInit { .. }
            | Hopper::MbarrierInvalidate { .. }
            | Hopper::MbarrierArrive { .. }
            | Hopper::MbarrierBytes { .. }
            | Hopper::MbarrierWait { .. } => "mbarrier",
            Hopper::MapRank { .. } | Hopper::RankOf { .. } => "integer",
            Hopper::ClusterArrive { .. } | Hopper::ClusterWait { .. } => "barrier",
            Hopper::BulkLoad(_)
            | Hopper::BulkStore { .. }
            | Hopper::BulkCommit
            | Hopper::BulkWait { .. } => "bulk-copy",
            Hopper::FenceProxy | Hopper::FenceMbarrierInit | Hopper::SetMaxRegisters => "other",
            Hopper::Elect { .. } => "vote",
            Hopper::WgmmaFence
            | Hopper::WgmmaCommit
            | Hopper::WgmmaWait { .. }
            | Hopper::Wgmma(_) => "wgmma",
        }
    }

    /// As [`Op::flops`]: of one of the 128 lanes.
    pub fn flops(&self) -> Option<(&'static str, u64)> {
        match self {
            Hopper::Wgmma(w) => Some(("f16-tensor", 16 * w.n as u64)),
            _ => None,
        }
    }
}

pub(super) fn wrap(op: Hopper) -> Op {
    Op::Hopper(Box::new(op))
}

/// Takes out the state space of the own block's shared memory; whether it was there.
fn shared(mods: &mut Mods<'_>) -> bool {
    (mods.pick(&[("shared::cta", ()), ("shared", ())])).is_some()
}

pub(super) fn aligned(mods: &mut Mods<'_>) -> Result<(), String> {
    mods.need("its form", &[("sync", ())])?;
    mods.need("its form", &[("aligned", ())])
}

pub(super) fn pending(operand: &Operand<'_>) -> Result<u32, String> {
    match operand {
        Operand::Integer(n) if (0..=MOST_PENDING).contains(&(*n as i64)) => Ok(*n as u32),
        other => Err(format!(
            "{other:?} is no number of groups up to {MOST_PENDING}"
        )),
    }
}

impl<'a> Function<'a> {
    /// Decodes an instruction of this kind; `None` if the opcode is of another.
    pub fn decode_hopper(
        &mut self,
        s: &Statement<'a>,
        mods: &mut Mods<'a>,
    ) -> Result<Option<Op>, String> {
        Ok(Some(match s.opcode {
            "mbarrier" => self.mbarrier(s, mods)?,
            "elect" => {
                mods.need("its form", &[("sync", ())])?;
                let [d, mask] = self.count(s, 2, 2)? else {
                    return Err("elect.sync takes two operands".into());
                };
                let (d, p) = self.pair(d, B32)?;
                let mask = self.source(mask, B32, Fit::Exact)?;
                wrap(Hopper::Elect { d, p, mask })
            }
            "setmaxnreg" => {
                mods.need("a direction", &[("inc", ()), ("dec", ())])?;
                aligned(mods)?;
                mods.ty(&[U32])?;
                match self.count(s, 1, 1)? {
                    [Operand::Integer(n)] if (24..=256).contains(n) && n % 8 == 0 => {
                        wrap(Hopper::SetMaxRegisters)
                    }
                    other => {
                        return Err(format!(
                            "setmaxnreg takes a multiple of 8 from 24 to 256, not {other:?}"
                        ));
                    }
                }
            }
            "mapa" => {
                let generic = !mods.flag("shared::cluster");
                let ty = mods.ty(&[U32, U64])?;
                let [d, a, rank] = self.count(s, 3, 3)? else {
                    return Err("mapa takes three operands".into());
                };
                let a = self.source(a, ty, Fit::Exact)?;
                let rank = self.source(rank, U32, Fit::Exact)?;
                let d = self.destination(d, ty, Fit::Exact)?;
                wrap(Hopper::MapRank {
                    d,
                    a,
                    rank,
                    generic,
                })
            }
            "getctarank" => {
                mods.flag("shared::cluster");
                let ty = mods.ty(&[U32, U64])?;
                let [d, a] = self.count(s, 2, 2)? else {
                    return Err("getctarank takes two operands".into());
                };
                let a = self.source(a, ty, Fit::Exact)?;
                let d = self.destination(d, U32, Fit::Exact)?;
                wrap(Hopper::RankOf { d, a })
            }
            "wgmma" => self.wgmma(s, mods)?,
            _ => return Ok(None),
        }))
    }

    fn mbarrier(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        let kinds = [
            ("init", 0),
            ("inval", 1),
            ("arrive", 2),
            ("expect_tx", 3),
            ("test_wait", 4),
            ("try_wait", 5),
            ("complete_tx", 6),
        ];
        // `arrive.expect_tx` is an arrival first.
        let arrives = mods.flag("arrive");
        let kind = if arrives {
            2
        } else {
            mods.need("its kind", &kinds)?
        };
        let expects = arrives && mods.flag("expect_tx");
        let waits = matches!(kind, 4 | 5);
        let parity = waits && mods.flag("parity");
        mods.pick(&[("relaxed", ()), ("release", ()), ("acquire", ())]);
        mods.pick(&[("cta", ()), ("cluster", ())]);
        // Arrivals and bytes may be counted at another block's mbarrier, by a generic address too.
        let named = matches!(kind, 2 | 3 | 6) && mods.flag("shared::cluster");
        let peers = matches!(kind, 2 | 3 | 6) && (named || !shared(mods));
        if !peers {
            shared(mods);
        }
        mods.ty(&[B64])?;
        let optional = |this: &mut Self, operand: Option<&Operand<'a>>| match operand {
            Some(operand) => this.source(operand, U32, Fit::Exact),
            None => Ok(Reg::NONE),
        };
        Ok(wrap(match kind {
            0 => {
                let operands = self.count(s, 2, 2)?;
                Hopper::MbarrierInit {
                    at: self.address(&operands[0])?,
                    count: self.source(&operands[1], U32, Fit::Exact)?,
                }
            }
            1 => {
                let operands = self.count(s, 1, 1)?;
                Hopper::MbarrierInvalidate {
                    at: self.address(&operands[0])?,
                }
            }
            2 => {
                let operands = self.count(s, if expects { 3 } else { 2 }, 3)?;
                let d = self.destination(&operands[0], B64, Fit::Exact)?;
                if named && !d.is_none() {
                    return Err("an arrival in .shared::cluster yields no state".into());
                }
                let at = self.address(&operands[1])?;
                let last = optional(self, operands.get(2))?;
                let (count, expect) = if expects {
                    (Reg::NONE, last)
                } else {
                    (last, Reg::NONE)
                };
                Hopper::MbarrierArrive {
                    d,
                    at,
                    count,
                    expect,
                    peers,
                }
            }
            3 | 6 => {
                let operands = self.count(s, 2, 2)?;
                Hopper::MbarrierBytes {
                    at: self.address(&operands[0])?,
                    bytes: self.source(&operands[1], U32, Fit::Exact)?,
                    completes: kind == 6,
                    peers,
                }
            }
            _ => {
                // A fourth operand of try_wait bounds the time.
                let operands = self.count(s, 3, if kind == 5 { 4 } else { 3 })?;
                optional(self, operands.get(3))?;
                let ty = if parity { U32 } else { B64 };
                Hopper::MbarrierWait {
                    d: self.destination(&operands[0], Ty::Pred, Fit::Exact)?,
                    at: self.address(&operands[1])?,
                    phase: self.source(&operands[2], ty, Fit::Exact)?,
                    parity,
                    blocks: kind == 5,
                }
            }
        }))
    }

    /// `cp.async.bulk`, after those two words.
    pub fn bulk_copy(&mut self, s: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        if mods.flag("commit_group") {
            self.count(s, 0, 0)?;
            return Ok(wrap(Hopper::BulkCommit));
        }
        if mods.flag("wait_group") {
            mods.flag("read");
            let operands = self.count(s, 1, 1)?;
            let pending = pending(&operands[0])?;
            return Ok(wrap(Hopper::BulkWait { pending }));
        }
        if mods.flag("tensor") {
            return Err("copies by tensor maps are not supported, only plain bulk copies".into());
        }
        if mods.flag("prefetch") {
            mods.flag("L2");
            mods.flag("global");
            let operands = self.count(s, 2, 2)?;
            self.address(&operands[0])?;
            self.source(&operands[1], U32, Fit::Exact)?;
            return Ok(Op::Nop);
        }
        // The first space is the destination's.
        let first = mods.find(|word| match word {
            "shared::cluster" => Some(true),
            "global" => Some(false),
            _ => None,
        });
        let load = first.ok_or("cp.async.bulk needs the space that is written")?;
        let hint = usize::from(mods.flag("L2::cache_hint"));
        if load {
            let spaces = [("global", false), ("shared::cta", true)];
            let from_shared = mods.need("the space that is read", &spaces)?;
            let how = "mbarrier::complete_tx::bytes";
            mods.need("how it is waited for", &[(how, ())])?;
            let multicast = !from_shared && mods.flag("multicast::cluster");
            let least = 4 + usize::from(multicast);
            let operands = self.count(s, least, least + hint)?;
            return Ok(wrap(Hopper::BulkLoad(BulkLoad {
                to: self.address(&operands[0])?,
                from: self.address(&operands[1])?,
                from_shared,
                bytes: self.source(&operands[2], U32, Fit::Exact)?,
                barrier: self.address(&operands[3])?,
                blocks: if multicast {
                    Some(self.source(&operands[4], B16, Fit::Exact)?)
                } else {
                    None
                },
            })));
        }
        mods.need("the space that is read", &[("shared::cta", ())])?;
        mods.need("how it is waited for", &[("bulk_group", ())])?;
        let operands = self.count(s, 3, 3 + hint)?;
        Ok(wrap(Hopper::BulkStore {
            to: self.address(&operands[0])?,
            from: self.address(&operands[1])?,
            bytes: self.source(&operands[2], U32, Fit::Exact)?,
        }))
    }

    /// `fence.proxy.async` and `fence.mbarrier_init`; `None` for other fences.
    pub fn hopper_fence(&mut self, mods: &mut Mods<'a>) -> Result<Option<Op>, String> {
        if mods.flag("mbarrier_init") {
            mods.need("its form", &[("release", ())])?;
            mods.need("a scope", &[("cluster", ())])?;
            return Ok(Some(wrap(Hopper::FenceMbarrierInit)));
        }
        if mods.flag("async") {
            mods.pick(&[("global", ()), ("shared::cta", ()), ("shared::cluster", ())]);
            return Ok(Some(wrap(Hopper::FenceProxy)));
        }
        Ok(None)
    }

    /// `barrier.cluster`, after those two words.
    pub fn cluster_barrier(
        &mut self,
        s: &Statement<'a>,
        mods: &mut Mods<'a>,
    ) -> Result<Op, String> {
        let arrives = mods.need("its kind", &[("arrive", true), ("wait", false)])?;
        self.count(s, 0, 0)?;
        if !arrives {
            mods.flag("acquire");
            let aligned = mods.flag("aligned");
            return Ok(wrap(Hopper::ClusterWait { aligned }));
        }
        let order = mods.pick(&[("release", true), ("relaxed", false)]);
        let aligned = mods.flag("aligned");
        let releases = order.unwrap_or(true);
        Ok(wrap(Hopper::ClusterArrive { releases, aligned }))
    }
}
