//! Bulk copies, which the copy engine makes.
//!
//! Into shared memory: the source is read at once; the destination is written when a thread waits for the mbarrier that counts
//! the bytes. Out of shared memory: source and destination are accessed at once, and the source again when the thread
//! waits, so that what was changed in between shows as a race.

use super::block::Common;
use super::global::GlobalAccess;
use super::machine::{Site, Worker};
use super::mbarrier::in_shared;
use super::race::{Actor, ENGINE};
use super::registers::lanes;
use super::shared::SharedFault;
use super::warp::Warp;
use crate::finding::{Access, FindingKind};
use crate::ptx::isa::{Addr, Reg};

/// Addresses and sizes are multiples of this.
const UNIT: u32 = 16;

/// A copy into shared memory on its way.
#[derive(Debug)]
pub(crate) struct Bulk {
    pub barrier: u64,
    to: u64,
    data: Vec<u32>,
    pub site: Site,
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
    /// Whether addresses and size fit, and the shared ones exist.
    fn bulk_fits(
        &mut self,
        common: &Common,
        warp: &Warp,
        lane: usize,
        [shared, global]: [u64; 2],
        bytes: u32,
        loads: bool,
    ) -> bool {
        let (of_shared, of_global) = if loads {
            (Access::Write, Access::Read)
        } else {
            (Access::Read, Access::Write)
        };
        if self.misaligned(warp, lane, shared, UNIT, of_shared)
            || self.misaligned(warp, lane, global, UNIT, of_global)
        {
            return false;
        }
        if bytes == 0 || !bytes.is_multiple_of(UNIT) {
            self.report(warp.site(lane), FindingKind::Misaligned, || {
                format!("a bulk copy of {bytes} bytes, which is no multiple of {UNIT}")
            });
            return false;
        }
        if !common.shared.exists(shared, bytes) {
            self.shared_out_of_bounds(warp, lane, shared, bytes, of_shared);
            return false;
        }
        true
    }

    pub fn bulk_load(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        [to, from, barrier]: [Addr; 3],
        bytes: Reg,
        active: u32,
    ) {
        let k = &self.m.constants;
        let [to, from, barrier] = [to, from, barrier].map(|addr| warp.regs.addresses(k, addr));
        let sizes = *warp.regs.r32(k, bytes);
        for lane in lanes(active) {
            let (to, from, bytes) = (in_shared(to[lane]), from[lane], sizes[lane]);
            let barrier = in_shared(barrier[lane]);
            if !self.bulk_fits(common, warp, lane, [to, from], bytes, true)
                || !self.knows_mbarrier(common, warp, lane, barrier)
            {
                continue;
            }
            if !common.engines.mbarriers[&barrier].shown {
                self.misuse(warp, lane, barrier, || {
                    "the copy engine may not see this mbarrier: no fence.mbarrier_init or fence.proxy.async \
                     after its initialisation"
                        .into()
                });
            }
            let Some(allocation) = self.locate(from, u64::from(bytes)) else {
                self.out_of_bounds(warp, lane, from, bytes, Access::Read);
                continue;
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
            if self.m.check {
                for at in (to..to + u64::from(bytes)).step_by(4) {
                    let fault = common
                        .shared
                        .begin_copy(at, warp.actor(lane), &common.order);
                    if let Some(fault) = fault {
                        self.shared_fault(warp, lane, at, Access::Write, fault);
                    }
                }
            }
            let site = warp.site(lane);
            common.engines.bulk.push(Bulk {
                barrier,
                to,
                data,
                site,
            });
        }
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
            self.complete_bytes(common, barrier, 4 * copy.data.len() as u32);
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
            if !self.bulk_fits(common, warp, lane, [from, to], bytes, false) {
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
