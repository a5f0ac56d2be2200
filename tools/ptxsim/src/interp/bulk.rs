//! Bulk copies, which the copy engine makes.
//!
//! Into shared memory (of one block of the cluster or of several): the source is read at once; the destination is written when a
//! thread waits for the mbarrier that counts the bytes. Out of shared memory: source and destination are accessed at once, and the source again when the thread
//! waits, so that what was changed in between shows as a race.

use std::rc::Rc;

use super::cluster::Common;
use super::global::GlobalAccess;
use super::machine::{Site, Worker};
use super::peers::{in_shared, place_in, rank_of};
use super::race::{Actor, ENGINE};
use super::registers::lanes;
use super::shared::SharedFault;
use super::warp::Warp;
use crate::finding::{Access, FindingKind};
use crate::ptx::isa::{Addr, BulkLoad, Reg};

/// Addresses and sizes are multiples of this.
const UNIT: u32 = 16;

/// A copy into shared memory on its way.
#[derive(Debug)]
pub(crate) struct Bulk {
    pub barrier: u64,
    pub to: u64,
    data: Rc<[u32]>,
    /// Who asked for it.
    pub block: u64,
    pub site: Site,
}

impl Bulk {
    pub fn bytes(&self) -> u32 {
        4 * self.data.len() as u32
    }
}

/// A copy out of shared memory on its way.
#[derive(Debug)]
struct Store {
    lane: u32,
    group: u32,
    from: u64,
    bytes: u32,
    pc: u32,
}

/// Copies of a warp's lanes out of shared memory.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    pending: Vec<Store>,
    committed: [u32; 32],
}

impl Stores {
    pub fn commit(&mut self, active: u32) {
        lanes(active).for_each(|lane| self.committed[lane] += 1);
    }

    /// Instruction and lane of a copy that was not waited for.
    pub fn unfinished(&self) -> Option<(u32, u32)> {
        self.pending.first().map(|store| (store.pc, store.lane))
    }
}

/// The engine as who reads for a warp: orders between its lanes do not concern it.
pub(crate) fn engine_of(warp: &Warp) -> Actor {
    Actor {
        interval: 0,
        ..warp.actor(0)
    }
}

impl Worker<'_> {
    /// Whether addresses (of shared and of global memory, or both of shared) and size are multiples of the unit.
    fn bulk_fits(&mut self, warp: &Warp, lane: usize, [to, from]: [u64; 2], bytes: u32) -> bool {
        if self.misaligned(warp, lane, to, UNIT, Access::Write)
            || self.misaligned(warp, lane, from, UNIT, Access::Read)
        {
            return false;
        }
        if bytes == 0 || !bytes.is_multiple_of(UNIT) {
            self.report(warp.site(lane), FindingKind::Misaligned, || {
                format!("a bulk copy of {bytes} bytes, which is no multiple of {UNIT}")
            });
            return false;
        }
        true
    }

    pub fn bulk_load(&mut self, common: &mut Common, warp: &Warp, load: &BulkLoad, active: u32) {
        let k = &self.m.constants;
        let [to, from, barrier] =
            [load.to, load.from, load.barrier].map(|addr| warp.regs.addresses(k, addr));
        let sizes = *warp.regs.r32(k, load.bytes);
        let masks = load.blocks.map(|mask| *warp.regs.r32(k, mask));
        for lane in lanes(active) {
            let (to, from, bytes) = (in_shared(to[lane]), from[lane], sizes[lane]);
            if !self.bulk_fits(warp, lane, [to, from], bytes) {
                continue;
            }
            let barrier = in_shared(barrier[lane]);
            let mut targets = match masks {
                None => vec![[to, barrier].map(|address| warp.shared(address, true))],
                Some(masks) => self.multicast(warp, lane, [to, barrier], masks[lane]),
            };
            targets.retain(|target| self.takes_copy(common, warp, lane, *target, bytes));
            if targets.is_empty() {
                continue;
            }
            let data = if load.from_shared {
                self.bulk_of_shared(common, warp, lane, from, bytes)
            } else {
                self.bulk_of_global(common, warp, lane, from, bytes)
            };
            let Some(data) = data else {
                continue;
            };
            let site = warp.site(lane);
            for [to, barrier] in targets {
                if self.m.check {
                    for at in (to..to + u64::from(bytes)).step_by(4) {
                        let Common { shared, order, .. } = common;
                        let fault = shared.begin_copy(at, warp.actor(lane), order);
                        if let Some(fault) = fault {
                            self.shared_fault(warp, lane, at, Access::Write, fault);
                        }
                    }
                }
                common.engines.bulk.push(Bulk {
                    barrier,
                    to,
                    data: Rc::clone(&data),
                    block: self.block,
                    site,
                });
            }
        }
    }

    /// The same addresses in the blocks that a mask names.
    fn multicast(
        &mut self,
        warp: &Warp,
        lane: usize,
        addresses: [u64; 2],
        mask: u32,
    ) -> Vec<[u64; 2]> {
        let blocks = self.m.blocks();
        let mask = mask & 0xffff;
        if mask == 0 || mask >> blocks != 0 {
            self.report(warp.site(lane), FindingKind::ClusterMisuse, || {
                format!("a copy to the blocks {mask:#b} of a cluster of {blocks}")
            });
        }
        let named = lanes(mask & ((1 << blocks) - 1));
        named
            .map(|rank| addresses.map(|address| place_in(rank as u32, address)))
            .collect()
    }

    /// Whether a copy can go to a place and be counted by an mbarrier.
    fn takes_copy(
        &mut self,
        common: &Common,
        warp: &Warp,
        lane: usize,
        [to, barrier]: [u64; 2],
        bytes: u32,
    ) -> bool {
        if !common.shared.exists(to, bytes) {
            self.shared_out_of_bounds(warp, lane, to, bytes, Access::Write);
            return false;
        }
        if self.m.check && rank_of(to) != warp.cta {
            self.check_peer(common, warp, lane, rank_of(to));
        }
        if !self.knows_mbarrier(common, warp, lane, barrier) {
            return false;
        }
        if rank_of(to) != rank_of(barrier) {
            self.misuse(warp, lane, barrier, || {
                "a bulk copy to one block of the cluster is counted by an mbarrier of another"
                    .into()
            });
        }
        if !common.engines.mbarriers[&barrier].shown {
            self.misuse(warp, lane, barrier, || {
                "the copy engine may not see this mbarrier: no fence.mbarrier_init or fence.proxy.async \
                 after its initialisation"
                    .into()
            });
        }
        true
    }

    fn bulk_of_global(
        &mut self,
        common: &Common,
        warp: &Warp,
        lane: usize,
        from: u64,
        bytes: u32,
    ) -> Option<Rc<[u32]>> {
        let Some(allocation) = self.locate(from, u64::from(bytes)) else {
            self.out_of_bounds(warp, lane, from, bytes, Access::Read);
            return None;
        };
        self.count_bulk(allocation, from, bytes, false);
        let mut access = GlobalAccess {
            allocation,
            address: from,
            bytes: 4,
            who: warp.actor(lane),
            order: &common.order,
            site: warp.site(lane),
            strong: false,
        };
        let mut data = Vec::with_capacity(bytes as usize / 4);
        for _ in 0..bytes / 4 {
            data.push(self.global_read(access, false));
            access.address += 4;
        }
        Some(data.into())
    }

    fn bulk_of_shared(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        lane: usize,
        from: u64,
        bytes: u32,
    ) -> Option<Rc<[u32]>> {
        let from = warp.shared(in_shared(from), false);
        if !common.shared.exists(from, bytes) {
            self.shared_out_of_bounds(warp, lane, from, bytes, Access::Read);
            return None;
        }
        self.counters.bulk_copies += 1;
        self.counters.bulk_bytes += u64::from(bytes);
        self.engine_reads(common, warp, from, bytes, warp.site(lane));
        let words = (from..from + u64::from(bytes)).step_by(4);
        Some(words.map(|at| common.shared.get(at, 4)).collect())
    }

    /// Ends the copies that an mbarrier counts.
    pub fn deliver(&mut self, common: &mut Common, barrier: u64) {
        let mut at = 0;
        while let Some(copy) = common.engines.bulk.get(at) {
            if copy.barrier != barrier {
                at += 1;
                continue;
            }
            let copy = common.engines.bulk.remove(at);
            let engine = Actor {
                warp: ENGINE,
                lane: 0,
                interval: 0,
            };
            for (word, value) in copy.data.iter().enumerate() {
                let address = copy.to + 4 * word as u64;
                if self.m.check {
                    let Common { shared, order, .. } = common;
                    shared.end_copy(address);
                    // Hazards were reported when the copy began.
                    let _ = shared.note_write(address, 4, *value, engine, order, false, true);
                }
                common.shared.put(address, 4, *value);
            }
            if self.m.check {
                let Common { engines, order, .. } = common;
                engines.release_copy(barrier, order, (copy.block, copy.site));
            }
            self.complete_bytes(common, barrier, copy.bytes());
        }
    }

    pub fn bulk_store(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        [to, from]: [Addr; 2],
        bytes: Reg,
        active: u32,
    ) {
        let k = &self.m.constants;
        let [to, from] = [to, from].map(|addr| warp.regs.addresses(k, addr));
        let sizes = *warp.regs.r32(k, bytes);
        for lane in lanes(active) {
            let (to, from, bytes) = (to[lane], in_shared(from[lane]), sizes[lane]);
            if !self.bulk_fits(warp, lane, [to, from], bytes) {
                continue;
            }
            let from = warp.shared(from, false);
            if !common.shared.exists(from, bytes) {
                self.shared_out_of_bounds(warp, lane, from, bytes, Access::Read);
                continue;
            }
            let Some(allocation) = self.locate(to, u64::from(bytes)) else {
                self.out_of_bounds(warp, lane, to, bytes, Access::Write);
                continue;
            };
            self.count_bulk(allocation, to, bytes, true);
            self.engine_reads(common, warp, from, bytes, warp.site(lane));
            let mut access = GlobalAccess {
                allocation,
                address: to,
                bytes: 4,
                who: warp.actor(lane),
                order: &common.order,
                site: warp.site(lane),
                strong: false,
            };
            for at in (from..from + u64::from(bytes)).step_by(4) {
                self.global_write(access, common.shared.get(at, 4));
                access.address += 4;
            }
            warp.bulk.pending.push(Store {
                lane: lane as u32,
                group: warp.bulk.committed[lane],
                from,
                bytes,
                pc: warp.pc,
            });
        }
    }

    /// Notes that an engine reads words for a warp, at an instruction.
    pub fn engine_reads(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        from: u64,
        bytes: u32,
        site: Site,
    ) {
        if !self.m.check {
            return;
        }
        let who = engine_of(warp);
        for at in (from..from + u64::from(bytes)).step_by(4) {
            let fault = common.shared.note_engine_read(at, who, &common.order);
            if let Some(fault) = fault {
                self.engine_fault(at, fault, site);
            }
        }
    }

    #[cold]
    fn engine_fault(&mut self, at: u64, fault: SharedFault, site: Site) {
        self.shared_fault_at(site, at, Access::Read, fault);
    }

    /// All but the last `pending` groups of each lane have read their sources.
    pub fn bulk_wait(&mut self, common: &mut Common, warp: &mut Warp, pending: u32, active: u32) {
        let committed = warp.bulk.committed;
        let done = |store: &Store| {
            let until = committed[store.lane as usize].saturating_sub(pending);
            active >> store.lane & 1 == 1 && store.group < until
        };
        let (ended, rest) = std::mem::take(&mut warp.bulk.pending)
            .into_iter()
            .partition(done);
        warp.bulk.pending = rest;
        let ended: Vec<Store> = ended;
        for store in ended {
            let thread = warp.index * 32 + store.lane;
            let site = Site {
                pc: store.pc,
                thread,
            };
            self.engine_reads(common, warp, store.from, store.bytes, site);
        }
    }
}
