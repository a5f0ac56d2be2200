//! The instructions of compute capability 9.0, each to where it is executed.

use std::collections::HashMap;

use super::block::{Block, Common, Stop};
use super::bulk::Bulk;
use super::machine::{Site, Worker};
use super::mbarrier::Mbarrier;
use super::registers::lanes;
use super::warp::Warp;
use super::wgmma::Together;
use crate::finding::FindingKind;
use crate::ptx::isa::{Hopper, Reg};

/// What the engines of a block have to do with its warps.
#[derive(Debug, Default)]
pub(crate) struct Engines {
    pub mbarriers: HashMap<u64, Mbarrier>,
    /// Bulk copies into shared memory on their way.
    pub bulk: Vec<Bulk>,
    /// What the warps of each warpgroup execute together.
    pub groups: [Together; 8],
}

impl Worker<'_> {
    /// Executes an instruction and moves on; returns the lanes whose result counts as written.
    pub fn hopper(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        op: &Hopper,
        active: u32,
    ) -> Result<u32, Stop> {
        let mut ok = active;
        match op {
            Hopper::MbarrierInit { at, count } => {
                self.init_mbarrier(common, warp, *at, *count, active);
            }
            Hopper::MbarrierInvalidate { at } => {
                self.invalidate_mbarrier(common, warp, *at, active);
            }
            Hopper::MbarrierArrive {
                d,
                at,
                count,
                expect,
            } => self.arrive_mbarrier(common, warp, *d, *at, [*count, *expect], active),
            Hopper::MbarrierExpect { at, bytes } => {
                self.expect_mbarrier(common, warp, *at, *bytes, active);
            }
            Hopper::MbarrierWait {
                d,
                at,
                phase,
                parity,
                blocks,
            } => {
                if !self.wait_mbarrier(common, warp, *d, *at, *phase, *parity, *blocks, active) {
                    // Suspended: it is tried again when the phase is complete.
                    return Ok(active);
                }
            }
            Hopper::BulkLoad {
                to,
                from,
                bytes,
                barrier,
            } => self.bulk_load(common, warp, [*to, *from, *barrier], *bytes, active),
            Hopper::BulkStore { to, from, bytes } => {
                self.bulk_store(common, warp, [*to, *from], *bytes, active);
            }
            Hopper::BulkCommit => warp.bulk.commit(active),
            Hopper::BulkWait { pending } => self.bulk_wait(common, warp, *pending, active),
            Hopper::FenceProxy => {
                common.shared.proxy_fence(warp.index, active);
                common.engines.show_mbarriers(warp.index, active);
            }
            Hopper::FenceMbarrierInit => common.engines.show_mbarriers(warp.index, active),
            Hopper::Elect { d, p, mask } => self.elect(warp, *d, *p, *mask, active),
            Hopper::SetMaxRegisters => {
                self.together(common, warp, [0; 2], active, "setmaxnreg");
            }
            Hopper::WgmmaFence => {
                self.together(common, warp, [0; 2], active, "wgmma.fence");
                warp.wgmma.fence(warp.executed);
            }
            Hopper::WgmmaCommit => {
                self.together(common, warp, [0; 2], active, "wgmma.commit_group");
                warp.wgmma.commit();
            }
            Hopper::WgmmaWait { pending } => {
                self.together(common, warp, [0; 2], active, "wgmma.wait_group");
                self.wait_wgmma(common, warp, *pending);
            }
            Hopper::Wgmma(wgmma) => ok = self.wgmma(common, warp, wgmma, active)?,
        }
        warp.pc += 1;
        Ok(ok)
    }

    /// `elect.sync`: the first of the lanes named.
    fn elect(&mut self, warp: &mut Warp, d: Reg, p: Reg, mask: Reg, active: u32) {
        let members = *warp.regs.r32(&self.m.constants, mask);
        self.check_members(warp, active, &members, "elect");
        let first = lanes(active).next().unwrap_or(0);
        let leader = (members[first] & active).trailing_zeros().min(31);
        warp.regs.set32(d, &[leader; 32], active);
        warp.regs.set_pred(p, 1 << leader, active);
    }

    /// What a block must not leave behind when its threads have ended.
    pub fn end_block(&mut self, block: &Block) {
        if !self.m.check {
            return;
        }
        let engines = &block.common.engines;
        for copy in &engines.bulk {
            self.report(copy.site, FindingKind::AsyncCopyNotWaited, || {
                "the block ends while this bulk copy is on its way".into()
            });
        }
        for warp in &block.warps {
            if let Some((pc, lane)) = warp.bulk.unfinished() {
                let thread = warp.index * 32 + lane;
                let site = Site { pc, thread };
                self.report(site, FindingKind::AsyncCopyNotWaited, || {
                    "the thread ends before this bulk copy has read shared memory".into()
                });
            }
        }
        for (index, group) in engines.groups.iter().enumerate() {
            if let Some((pc, warps)) = group.unfinished() {
                let thread = 128 * index as u32 + 32 * warps.trailing_zeros();
                self.report(
                    Site { pc, thread },
                    FindingKind::WarpgroupDivergence,
                    || format!("only warps {warps:#06b} of the warpgroup execute this"),
                );
            }
        }
    }
}
