//! The instructions of compute capability 9.0, each to where it is executed.

use std::collections::HashMap;

use super::bulk::Bulk;
use super::cluster::{Cluster, Common, Stop};
use super::machine::{Site, Worker};
use super::mbarrier::Mbarrier;
use super::peers::rank_of;
use super::registers::lanes;
use super::warp::{State, Warp};
use super::wgmma::Together;
use crate::finding::FindingKind;
use crate::ptx::isa::{Hopper, Reg};

/// What the engines of a cluster's blocks have to do with their warps.
#[derive(Debug, Default)]
pub(crate) struct Engines {
    /// By their place in the cluster.
    pub mbarriers: HashMap<u64, Mbarrier>,
    /// Bulk copies into shared memory on their way.
    pub bulk: Vec<Bulk>,
    /// What the warps of each warpgroup execute together: those of the first block, of the second, ...
    pub groups: Vec<Together>,
}

/// Warpgroups that a block can have.
pub(crate) const GROUPS: usize = 8;

impl Engines {
    pub fn reset(&mut self, blocks: usize) {
        self.mbarriers.clear();
        self.bulk.clear();
        self.groups.resize_with(GROUPS * blocks, Together::default);
        self.groups.iter_mut().for_each(Together::clear);
    }
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
                peers,
            } => {
                let counts = [*count, *expect];
                self.arrive_mbarrier(common, warp, *d, *at, counts, *peers, active);
            }
            Hopper::MbarrierBytes {
                at,
                bytes,
                completes,
                peers,
            } => self.count_bytes(common, warp, *at, *bytes, *completes, *peers, active),
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
            Hopper::BulkLoad(load) => self.bulk_load(common, warp, load, active),
            Hopper::BulkStore { to, from, bytes } => {
                self.bulk_store(common, warp, [*to, *from], *bytes, active);
            }
            Hopper::BulkCommit => warp.bulk.commit(active),
            Hopper::BulkWait { pending } => self.bulk_wait(common, warp, *pending, active),
            Hopper::FenceProxy => {
                common.shared.proxy_fence(warp.number, active);
                common.engines.show_mbarriers(warp.number, active);
            }
            Hopper::FenceMbarrierInit => {
                common.engines.show_mbarriers(warp.number, active);
                if self.m.blocks() > 1 {
                    common.order.fence(warp.number, active, warp.live);
                }
            }
            Hopper::MapRank {
                d,
                a,
                rank,
                generic,
            } => self.map_rank(warp, [*d, *a, *rank], *generic, active),
            Hopper::RankOf { d, a } => self.rank_of_address(warp, [*d, *a], active),
            Hopper::ClusterArrive { releases, aligned } => {
                self.arrive_at_cluster(common, warp, *releases, *aligned, active);
            }
            Hopper::ClusterWait { aligned } => {
                self.wait_at_cluster(common, warp, *aligned, active);
                return Ok(active);
            }
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

    /// A warp has ended. If it was the last of its block: what that must not leave behind.
    pub fn end_warp(&mut self, cluster: &mut Cluster, index: usize) {
        let rank = cluster.warps[index].cta;
        let warps = &cluster.warps[self.warps_of(rank)];
        if !self.m.check || warps.iter().any(|warp| warp.state != State::Done) {
            return;
        }
        let engines = &cluster.common.engines;
        for copy in engines.bulk.iter().filter(|copy| rank_of(copy.to) == rank) {
            self.report_of(
                copy.block,
                copy.site,
                FindingKind::AsyncCopyNotWaited,
                || "the block ends while this bulk copy is on its way".into(),
            );
        }
        for (bytes, (block, site)) in engines.unexpected(rank) {
            self.report_of(block, site, FindingKind::MbarrierMisuse, || {
                format!("{bytes} bytes of copies came to an mbarrier that does not expect them")
            });
        }
        for warp in warps {
            if let Some((pc, lane)) = warp.bulk.unfinished() {
                let thread = warp.index * 32 + lane;
                let site = Site { pc, thread };
                self.report(site, FindingKind::AsyncCopyNotWaited, || {
                    "the thread ends before this bulk copy has read shared memory".into()
                });
            }
        }
        let groups = &engines.groups[GROUPS * rank as usize..][..GROUPS];
        for (index, group) in groups.iter().enumerate() {
            if let Some((pc, warps)) = group.unfinished() {
                let thread = 128 * index as u32 + 32 * warps.trailing_zeros();
                self.report(
                    Site { pc, thread },
                    FindingKind::WarpgroupDivergence,
                    || format!("only warps {warps:#06b} of the warpgroup execute this"),
                );
            }
        }
        self.end_visits(&mut cluster.common, rank);
    }
}
