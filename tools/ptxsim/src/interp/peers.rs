//! The blocks of a cluster: where their shared memory lies, what one may do to another's, and the cluster's barrier.
//!
//! A place in a cluster's shared memory is an offset in that of a block, with the block's rank plus one above the window's
//! bits. That is also the address that `mapa` makes. An address with nothing above the offset is one of the own block.
//!
//! A block may touch another's shared memory between two moments: when it knows that the other has begun (a barrier of the cluster, or
//! whatever orders an access of the other before), and when the other ends. An access must be ordered before the end of some warp of
//! the block that owns the memory, however the schedule happens to run them.

use std::collections::BTreeMap;

use super::cluster::{Cluster, Common};
use super::machine::{Site, Worker};
use super::race::Released;
use super::registers::lanes;
use super::warp::{State, Warp};
use crate::finding::{Access, FindingKind};
use crate::memory::{CLUSTER_BLOCKS, CLUSTER_WINDOW, SHARED_WINDOW, WINDOW, WINDOW_BITS};
use crate::ptx::isa::Reg;

/// Marks an address of the own block's window that only looks like a place in the cluster.
const NOWHERE: u64 = 1 << 40;
/// The rank of no block, for what `mapa` makes of a wrong one.
const NOBODY: u32 = 30;
/// The number of the cluster's barrier among those that a warp can wait at.
pub(crate) const CLUSTER_BARRIER: u32 = 16;
/// What stands for the cluster's barrier among the places of mbarriers, of which none is there.
const BARRIER_KEY: u64 = 0;

/// The place at the same offset in a block of the cluster.
pub(crate) fn place_in(rank: u32, address: u64) -> u64 {
    u64::from(rank + 1) << WINDOW_BITS | (address % WINDOW)
}

/// The rank of the block that a place is in.
pub(crate) fn rank_of(place: u64) -> u32 {
    ((place >> WINDOW_BITS) as u32).wrapping_sub(1)
}

fn looks_placed(address: u64) -> bool {
    (1..=u64::from(CLUSTER_BLOCKS)).contains(&(address >> WINDOW_BITS))
}

/// A place as the address within its block, which findings show.
pub(crate) fn shown(place: u64) -> u64 {
    if looks_placed(place) {
        place % WINDOW
    } else if looks_placed(place ^ NOWHERE) {
        place ^ NOWHERE
    } else {
        place
    }
}

/// A generic address of shared memory, or one within it, as the latter.
pub(crate) fn in_shared(address: u64) -> u64 {
    if (SHARED_WINDOW..SHARED_WINDOW + CLUSTER_WINDOW).contains(&address) {
        address - SHARED_WINDOW
    } else {
        address
    }
}

impl Warp {
    /// The place of an address in shared memory; `peers`: whether it may be in another block's.
    #[inline]
    pub fn shared(&self, address: u64, peers: bool) -> u64 {
        if address < WINDOW {
            place_in(self.cta, address)
        } else if peers || !looks_placed(address) {
            address
        } else {
            NOWHERE | address
        }
    }
}

/// What the blocks of a cluster know of each other.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// Blocks that have ended, by rank.
    ended: u32,
    /// By owner's rank, warp and lane: time and instruction of the lane's last access to that block's shared memory.
    visits: BTreeMap<[u32; 3], (u32, u32)>,
    /// Of the barrier, by warp: lanes that have arrived in this phase, and those that have not waited since they did.
    arrived: BTreeMap<u32, u32>,
    owing: BTreeMap<u32, u32>,
    /// Warps that wait.
    pub waiting: u32,
    /// What the arrivals of this phase, and of the complete ones, order.
    released: Released,
    complete: Released,
}

impl Peers {
    /// Whether a thread has arrived at the barrier in this phase.
    pub fn any_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }
}

impl Worker<'_> {
    /// A warp of the cluster as messages name it.
    pub fn warp_name(&self, number: u32) -> String {
        let warps = self.m.warps();
        if self.m.blocks() == 1 {
            format!("warp {number}")
        } else {
            let (rank, index) = (number / warps, number % warps);
            format!("warp {index} of block {rank} of the cluster")
        }
    }

    /// Whether bytes of shared memory are there for a lane to access.
    #[inline]
    pub fn has_shared(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        lane: usize,
        place: u64,
        bytes: u32,
        access: Access,
    ) -> bool {
        if !common.shared.exists(place, bytes) {
            self.shared_out_of_bounds(warp, lane, place, bytes, access);
            return false;
        }
        self.visit(common, warp, lane, place);
        true
    }

    /// Notes a lane's access to shared memory, if it is another block's.
    #[inline]
    pub fn visit(&mut self, common: &mut Common, warp: &Warp, lane: usize, place: u64) {
        let rank = rank_of(place);
        if self.m.check && rank != warp.cta {
            self.check_peer(common, warp, lane, rank);
            let visit = (common.order.now, warp.pc);
            let key = [rank, warp.number, lane as u32];
            common.peers.visits.insert(key, visit);
        }
    }

    /// Another block whose shared memory is accessed must have begun and not have ended.
    #[cold]
    pub fn check_peer(&mut self, common: &Common, warp: &Warp, lane: usize, rank: u32) {
        let warps = self.warps_of(rank);
        let why = if common.peers.ended >> rank & 1 == 1 {
            "has ended"
        } else if !common.order.knows(warp.number, warps) {
            "may not have begun: no barrier of the cluster before"
        } else {
            return;
        };
        self.report(warp.site(lane), FindingKind::ClusterMisuse, || {
            format!("access to shared memory of block {rank} of the cluster, which {why}")
        });
    }

    /// A block has ended: what others did to its shared memory must be before that.
    pub fn end_visits(&mut self, common: &mut Common, rank: u32) {
        common.peers.ended |= 1 << rank;
        let owners = self.warps_of(rank);
        let range = [rank, 0, 0]..[rank + 1, 0, 0];
        for ([_, number, lane], (time, pc)) in common.peers.visits.range(range) {
            let mut owners = owners.clone();
            if owners.any(|owner| common.order.is_before(owner, *number, *lane, *time)) {
                continue;
            }
            let warps = self.m.warps();
            let thread = number % warps * 32 + lane;
            let block = self.m.block_at(self.cluster, number / warps);
            let site = Site { pc: *pc, thread };
            self.report_of(block, site, FindingKind::ClusterMisuse, || {
                format!(
                    "block {rank} of the cluster may end before this access to its shared memory"
                )
            });
        }
    }

    /// `mapa`: the address at the same offset in the block of a rank.
    pub fn map_rank(
        &mut self,
        warp: &mut Warp,
        [d, a, rank]: [Reg; 3],
        generic: bool,
        active: u32,
    ) {
        let k = &self.m.constants;
        let (addresses, ranks) = (warp.regs.any(k, a), *warp.regs.r32(k, rank));
        let mut out = [0; 32];
        for lane in lanes(active) {
            let (address, rank, blocks) = (addresses[lane], ranks[lane], self.m.blocks());
            if rank >= blocks {
                self.report(warp.site(lane), FindingKind::ClusterMisuse, || {
                    format!("mapa with rank {rank} in a cluster of {blocks} blocks")
                });
            }
            let offset = if generic { in_shared(address) } else { address };
            let place = place_in(if rank < blocks { rank } else { NOBODY }, offset);
            out[lane] = if generic {
                SHARED_WINDOW + place
            } else {
                place
            };
        }
        warp.regs.set_any(d, &out, active);
    }

    /// `getctarank`: the rank of the block that an address of shared memory is in.
    pub fn rank_of_address(&mut self, warp: &mut Warp, [d, a]: [Reg; 2], active: u32) {
        let addresses = warp.regs.any(&self.m.constants, a);
        let out = addresses.map(|address| rank_of(warp.shared(in_shared(address), true)));
        warp.regs.set32(d, &out, active);
    }

    /// `barrier.cluster.arrive`; `releases`: whether what is before it is ordered.
    pub fn arrive_at_cluster(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        releases: bool,
        aligned: bool,
        active: u32,
    ) {
        self.check_aligned(warp, aligned, active);
        let owing = common.peers.owing.entry(warp.number).or_default();
        let twice = *owing & active;
        *owing |= active;
        *common.peers.arrived.entry(warp.number).or_default() |= active;
        if !self.m.check {
            return;
        }
        if twice != 0 {
            let site = warp.first_site(twice);
            self.report(site, FindingKind::ClusterMisuse, || {
                "barrier.cluster.arrive again, with no barrier.cluster.wait between".into()
            });
        }
        let mut released = std::mem::take(&mut common.peers.released);
        if releases {
            self.release(common, warp, active, &mut released, BARRIER_KEY);
        } else {
            common.order.release_fenced(warp.number, &mut released);
        }
        common.peers.released = released;
    }

    /// `barrier.cluster.wait`: the lanes whose phase is not complete are parked.
    pub fn wait_at_cluster(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        aligned: bool,
        active: u32,
    ) {
        self.check_aligned(warp, aligned, active);
        let owing = common.peers.owing.entry(warp.number).or_default();
        let missing = active & !*owing;
        *owing &= !active;
        if self.m.check && missing != 0 {
            let site = warp.first_site(missing);
            self.report(site, FindingKind::ClusterMisuse, || {
                "barrier.cluster.wait with no barrier.cluster.arrive before".into()
            });
        }
        let arrived = common.peers.arrived.get(&warp.number);
        let parked = active & arrived.copied().unwrap_or(0);
        if parked == 0 {
            self.pass_cluster(common, warp);
            warp.pc += 1;
            return;
        }
        self.park(common, warp, CLUSTER_BARRIER, parked);
    }

    fn check_aligned(&mut self, warp: &Warp, aligned: bool, active: u32) {
        let missing = warp.live & !active;
        if self.m.check && aligned && missing != 0 {
            self.report(warp.first_site(active), FindingKind::BarrierDivergence, || {
                format!("barrier.cluster in divergent code: lanes {missing:#010x} of the warp do not reach it")
            });
        }
    }

    /// A warp has waited for a phase of the cluster's barrier.
    fn pass_cluster(&mut self, common: &mut Common, warp: &Warp) {
        if self.m.check {
            let complete = std::mem::take(&mut common.peers.complete);
            self.acquire(common, warp, &complete, BARRIER_KEY);
            common.peers.complete = complete;
        }
    }

    /// Completes the cluster's barrier if all threads that live have arrived; whether it did.
    pub fn complete_cluster(&mut self, cluster: &mut Cluster) -> bool {
        let peers = &mut cluster.common.peers;
        let here = |warp: &Warp| {
            let arrived = peers.arrived.get(&warp.number).copied().unwrap_or(0);
            warp.state == State::Done || warp.live & !arrived == 0
        };
        if !peers.any_arrived() || !cluster.warps.iter().all(here) {
            return false;
        }
        self.counters.barriers += 1;
        peers.arrived.clear();
        let released = std::mem::take(&mut peers.released);
        peers.complete.join(&released);
        for index in lanes(std::mem::take(&mut peers.waiting)) {
            let warp = &mut cluster.warps[index];
            self.pass_cluster(&mut cluster.common, warp);
            warp.release();
        }
        true
    }
}
