//! Races between the threads of a block or a cluster, on shared or global memory. Warps are numbered through the cluster.
//!
//! Time is counted in completed barriers. `Order` knows, for each pair of warps, up to when the
//! other's accesses are ordered before one's own present; a cell knows who last accessed a location and when.
//! Within a warp, `bar.warp.sync` (and every barrier) starts a new interval, and two lanes' accesses in one
//! interval are unordered. A store of the value that is there already is no hazard.

use std::collections::BTreeMap;
use std::ops::Range;

use super::happens::{BlockClock, Clock};

/// The warp number under which the copy engine writes; blocks with bulk copies, and clusters, have fewer than 32 warps.
pub(crate) const ENGINE: u32 = 31;

/// What orders the accesses of a block's warps.
#[derive(Debug)]
pub(crate) struct Order {
    /// Completed barriers, plus one.
    pub now: u32,
    /// `seen[v][r]`: accesses of warp `r` at a time before this are ordered before warp `v`'s present.
    seen: Vec<[u32; 32]>,
    /// The least of `seen[v]` over the other warps.
    floor: [u32; 32],
    /// In kernels with mbarriers: accesses of some lanes of warp `r`, before a later time than `seen[v][r]`.
    part: Vec<[Part; 32]>,
    /// In kernels with mbarriers: the time at which the lanes of each warp last met.
    met: [u32; 32],
    /// Whether the kernel has mbarriers.
    mbarriers: bool,
    /// In kernels that order blocks by fences and atomics, what those order.
    pub clock: Option<Box<Clock>>,
    /// The same within the block, by its shared memory.
    pub shared: Option<Box<BlockClock>>,
    /// In clusters, by warp: what its fences have taken, for a relaxed arrival at the cluster's barrier.
    fenced: BTreeMap<u32, Released>,
}

impl Order {
    pub fn new() -> Order {
        Order {
            now: 1,
            seen: vec![[0; 32]; 32],
            floor: [0; 32],
            part: Vec::new(),
            met: [0; 32],
            mbarriers: false,
            clock: None,
            shared: None,
            fenced: BTreeMap::new(),
        }
    }

    pub fn reset(&mut self, fenced: bool, fenced_shared: bool, mbarriers: bool) {
        self.mbarriers = mbarriers;
        self.met = [1; 32];
        self.part.clear();
        if mbarriers {
            self.part.resize(32, [Part::default(); 32]);
        }
        self.clock = fenced.then(|| Box::new(Clock::new()));
        self.shared = fenced_shared.then(|| Box::new(BlockClock::new()));
        self.fenced.clear();
        self.now = 1;
        self.seen.fill([0; 32]);
        self.floor = [0; 32];
    }

    /// A warp arrives at a barrier and goes on: only what it did until now will be ordered.
    pub fn arrive(&mut self, warp: u32) -> Arrived {
        let arrived = Arrived {
            warp,
            time: self.now,
            tick: self.clock.as_mut().map_or(0, |c| c.meet(warp)),
            shared_tick: self.shared.as_mut().map_or(0, |s| s.clock.meet(warp)),
        };
        self.now += 1;
        arrived
    }

    /// Some lanes of a warp arrive at an mbarrier; `live` are those that it has.
    pub fn release(&mut self, warp: u32, lanes: u32, live: u32, to: &mut Released) {
        let w = warp as usize;
        let mut row = Released {
            before: self.seen[w],
            part: self.part[w],
        };
        if lanes & live == live {
            row.before[w] = self.now + 1;
        } else {
            row.before[w] = row.before[w].max(self.met[w]);
            row.part[w] = Part {
                before: self.now + 1,
                lanes,
            };
        }
        self.now += 1;
        to.join(&row);
    }

    /// Lanes of a warp fence.
    pub fn fence(&mut self, warp: u32, lanes: u32, live: u32) {
        let mut row = self.fenced.remove(&warp).unwrap_or_default();
        self.release(warp, lanes, live, &mut row);
        self.fenced.insert(warp, row);
    }

    /// A warp arrives at the cluster's barrier and orders only what its fences took, and that it has begun.
    pub fn release_fenced(&self, warp: u32, to: &mut Released) {
        let before = &mut to.before[warp as usize];
        *before = (*before).max(1);
        if let Some(row) = self.fenced.get(&warp) {
            to.join(row);
        }
    }

    /// Whether anything that one of the others did, if only that it began, is before a warp's present.
    pub fn knows(&self, warp: u32, mut others: Range<usize>) -> bool {
        let v = warp as usize;
        others.any(|r| self.seen[v][r] > 0 || self.part[v][r].before > 0)
    }

    /// Whether an access of a lane is before the present of warp `v`.
    pub fn is_before(&self, v: usize, warp: u32, lane: u32, time: u32) -> bool {
        !self.unordered(v as u32, time, 1 << warp, (warp as u8, 1 << lane))
    }

    /// The copy engine has written what an mbarrier waits for.
    pub fn release_engine(&mut self, to: &mut Released) {
        to.before[ENGINE as usize] = self.now + 1;
        self.now += 1;
    }

    /// A warp has waited for an mbarrier.
    pub fn acquire(&mut self, warp: u32, from: &Released, warps: usize) {
        let mut mine = Released {
            before: self.seen[warp as usize],
            part: self.part[warp as usize],
        };
        mine.join(from);
        self.seen[warp as usize] = mine.before;
        self.part[warp as usize] = mine.part;
        self.lower(warp as usize, warps);
    }

    /// Finds the floor of a warp anew.
    fn lower(&mut self, v: usize, warps: usize) {
        let engine = self.mbarriers.then_some(ENGINE as usize);
        let others = (0..warps).chain(engine).filter(|r| *r != v);
        self.floor[v] = others.map(|r| self.seen[v][r]).min().unwrap_or(u32::MAX);
    }

    /// The lanes of a warp have met.
    pub fn meet(&mut self, warp: u32) {
        if self.mbarriers {
            self.now += 1;
            self.met[warp as usize] = self.now;
        }
        let shared = self.shared.as_mut().map(|shared| &mut shared.clock);
        for clock in self.clock.as_deref_mut().into_iter().chain(shared) {
            clock.meet(warp);
        }
    }

    /// A barrier completed that the warps of `joined` took part in (waiting or, those of `early`, only arriving), and
    /// that those of `waited` waited at; the block has `warps` warps.
    pub fn barrier(&mut self, joined: u32, waited: u32, early: &[Arrived], warps: usize) {
        if let Some(clock) = &mut self.clock {
            let early: Vec<_> = early.iter().map(|a| (a.warp, a.tick)).collect();
            clock.barrier(joined, waited, &early, warps);
        }
        if let Some(shared) = &mut self.shared {
            let early: Vec<_> = early.iter().map(|a| (a.warp, a.shared_tick)).collect();
            shared.clock.barrier(joined, waited, &early, warps);
        }
        self.now += 1;
        let mut merged = [0u32; 32];
        for p in (0..warps).filter(|p| joined >> p & 1 == 1) {
            for (m, s) in merged.iter_mut().zip(&self.seen[p]) {
                *m = (*m).max(*s);
            }
        }
        for (r, m) in merged.iter_mut().enumerate() {
            if joined >> r & 1 == 1 {
                let arrived = early.iter().find(|a| a.warp as usize == r);
                *m = arrived.map_or(self.now, |a| (*m).max(a.time + 1));
            }
        }
        for v in (0..warps).filter(|v| waited >> v & 1 == 1) {
            for (s, m) in self.seen[v].iter_mut().zip(&merged) {
                *s = (*s).max(*m);
            }
            self.lower(v, warps);
            if self.mbarriers {
                self.met[v] = self.now;
            }
        }
    }

    /// Whether an access at `time` by one of `others` is not ordered before warp `v`'s present. `last`: of one of them, the
    /// lanes that accessed.
    fn unordered(&self, v: u32, time: u32, others: u32, last: (u8, u32)) -> bool {
        time >= self.floor[v as usize]
            && others != 0
            && (0..32).any(|r| {
                others >> r & 1 == 1
                    && time >= self.seen[v as usize][r]
                    && !self.in_part(v as usize, r, time, last)
            })
    }

    #[cold]
    fn in_part(&self, v: usize, r: usize, time: u32, (warp, lanes): (u8, u32)) -> bool {
        let part = self.part.get(v).map(|row| row[r]);
        part.is_some_and(|part| {
            time < part.before && (usize::from(warp) != r || lanes & !part.lanes == 0)
        })
    }
}

/// Accesses of some lanes of a warp, before a time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Part {
    before: u32,
    lanes: u32,
}

/// What arrivals at an mbarrier order: accesses of each warp before a time, and of some of its lanes before a later one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Released {
    before: [u32; 32],
    part: [Part; 32],
}

impl Released {
    pub fn join(&mut self, other: &Released) {
        for r in 0..32 {
            self.before[r] = self.before[r].max(other.before[r]);
            let (mine, theirs) = (&mut self.part[r], other.part[r]);
            if theirs.before > self.before[r] {
                // Lanes that arrived at different times are taken together, at the later one.
                let kept = if mine.before > self.before[r] {
                    mine.lanes
                } else {
                    0
                };
                *mine = Part {
                    before: mine.before.max(theirs.before),
                    lanes: kept | theirs.lanes,
                };
            }
        }
    }
}

/// When a warp arrived at a barrier that it does not wait at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    pub warp: u32,
    time: u32,
    /// The first tick after it on either clock.
    tick: u32,
    shared_tick: u32,
}

/// Who accesses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Actor {
    pub warp: u32,
    pub lane: u32,
    /// Number of the warp's present interval between warp-level syncs.
    pub interval: u32,
}

/// What an access collides with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hazard {
    pub kind: HazardKind,
    /// Between lanes of one warp.
    pub in_warp: bool,
    /// The earlier access was a `cp.async`.
    pub async_copy: bool,
    /// Warp of the earlier access.
    pub other: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HazardKind {
    ReadAfterWrite,
    WriteAfterRead,
    WriteAfterWrite,
}

/// The last accesses of one location.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cell {
    write_time: u32,
    read_time: u32,
    /// Warps that wrote (all the same value, or a race was reported) and read since then.
    writers: u32,
    readers: u32,
    /// Lanes of the last writing and the last reading warp, in the interval given.
    write_lanes: u32,
    read_lanes: u32,
    write_interval: u32,
    read_interval: u32,
    write_warp: u8,
    read_warp: u8,
    atomic: bool,
    async_copy: bool,
}

impl Cell {
    fn last_write(&self) -> (u8, u32) {
        (self.write_warp, self.write_lanes)
    }

    fn hazard(&self, kind: HazardKind, in_warp: bool, others: u32) -> Option<Hazard> {
        let async_copy = kind == HazardKind::ReadAfterWrite && self.async_copy;
        Some(Hazard {
            kind,
            in_warp,
            async_copy,
            other: others.trailing_zeros().min(31),
        })
    }

    /// Checks a read without recording it. A strong read (volatile, relaxed, ...) may meet strong writes.
    #[inline]
    pub fn check_read(&self, who: Actor, order: &Order, strong: bool) -> Option<Hazard> {
        if self.write_time == 0 || (strong && self.atomic) {
            return None;
        }
        let me = 1 << who.warp;
        if self.writers & me == 0 {
            let others = self.writers;
            if self.write_time >= order.floor[who.warp as usize]
                && order.unordered(who.warp, self.write_time, others, self.last_write())
            {
                return self.hazard(HazardKind::ReadAfterWrite, false, others);
            }
        } else if u32::from(self.write_warp) == who.warp
            && self.write_interval == who.interval
            && self.write_lanes >> who.lane & 1 == 0
        {
            return self.hazard(HazardKind::ReadAfterWrite, true, me);
        }
        None
    }

    #[inline]
    pub fn read(&mut self, who: Actor, order: &Order, strong: bool) -> Option<Hazard> {
        let hazard = self.check_read(who, order, strong);
        if strong {
            return hazard;
        }
        let me = 1 << who.warp;
        self.readers = if self.read_time == order.now {
            self.readers | me
        } else {
            me
        };
        self.read_time = order.now;
        let lane = 1 << who.lane;
        if u32::from(self.read_warp) == who.warp && self.read_interval == who.interval {
            self.read_lanes |= lane;
        } else {
            self.read_warp = who.warp as u8;
            self.read_interval = who.interval;
            self.read_lanes = lane;
        }
        hazard
    }

    /// Checks a write without recording it. `changes`: the value differs from what is there.
    #[inline]
    pub fn check_write(
        &self,
        who: Actor,
        order: &Order,
        changes: bool,
        atomic: bool,
    ) -> Option<Hazard> {
        if !changes {
            return None;
        }
        let me = 1u32 << who.warp;
        let lane = 1u32 << who.lane;
        if self.write_time != 0 && !(atomic && self.atomic) {
            let others = self.writers & !me;
            if order.unordered(who.warp, self.write_time, others, self.last_write()) {
                return self.hazard(HazardKind::WriteAfterWrite, false, others);
            }
            if u32::from(self.write_warp) == who.warp
                && self.write_interval == who.interval
                && self.write_lanes & !lane != 0
            {
                return self.hazard(HazardKind::WriteAfterWrite, true, me);
            }
        }
        if self.read_time != 0 {
            let others = self.readers & !me;
            let last = (self.read_warp, self.read_lanes);
            if order.unordered(who.warp, self.read_time, others, last) {
                return self.hazard(HazardKind::WriteAfterRead, false, others);
            }
            if u32::from(self.read_warp) == who.warp
                && self.read_interval == who.interval
                && self.read_lanes & !lane != 0
            {
                return self.hazard(HazardKind::WriteAfterRead, true, me);
            }
        }
        None
    }

    #[inline]
    pub fn write(
        &mut self,
        who: Actor,
        order: &Order,
        changes: bool,
        atomic: bool,
        async_copy: bool,
    ) -> Option<Hazard> {
        let hazard = self.check_write(who, order, changes, atomic);
        let me = 1 << who.warp;
        let same_time = self.write_time == order.now;
        self.atomic = atomic && (!same_time || self.atomic);
        self.writers = if same_time { self.writers | me } else { me };
        self.write_time = order.now;
        self.async_copy = async_copy;
        let lane = 1 << who.lane;
        if u32::from(self.write_warp) == who.warp && self.write_interval == who.interval {
            self.write_lanes |= lane;
        } else {
            self.write_warp = who.warp as u8;
            self.write_interval = who.interval;
            self.write_lanes = lane;
        }
        hazard
    }
}

/// Cells of global words (or bytes) that blocks accessed lately: a bounded table, so a hazard between accesses far
/// apart can be missed, but none is made up.
#[derive(Debug)]
pub(crate) struct RecentCells {
    /// Location, block (plus one) and cell.
    cells: Vec<(u64, u64, Cell)>,
    block: u64,
}

impl RecentCells {
    const BITS: u32 = 12;

    pub fn new() -> RecentCells {
        RecentCells {
            cells: vec![(0, 0, Cell::default()); 1 << RecentCells::BITS],
            block: 0,
        }
    }

    /// Turns to a block; the others' cells no longer count.
    pub fn enter(&mut self, block: u64) {
        self.block = block + 1;
    }

    /// The cell of an address, at word or byte granularity.
    #[inline]
    pub fn cell(&mut self, address: u64, byte: bool) -> &mut Cell {
        let location = address << 1 | u64::from(byte);
        let slot =
            (location.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - RecentCells::BITS)) as usize;
        let entry = &mut self.cells[slot];
        if entry.0 != location || entry.1 != self.block {
            *entry = (location, self.block, Cell::default());
        }
        &mut entry.2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(warp: u32, lane: u32) -> Actor {
        Actor {
            warp,
            lane,
            interval: 1,
        }
    }

    #[test]
    fn a_barrier_orders_what_it_joins() {
        let mut order = Order::new();
        let mut cell = Cell::default();
        assert_eq!(cell.write(actor(0, 0), &order, true, false, false), None);
        assert_eq!(
            cell.read(actor(1, 0), &order, false).map(|h| h.kind),
            Some(HazardKind::ReadAfterWrite)
        );
        order.barrier(0b11, 0b11, &[], 2);
        assert_eq!(cell.read(actor(1, 0), &order, false), None);
        let hazard = cell.write(actor(0, 0), &order, true, false, false);
        assert_eq!(hazard.map(|h| h.kind), Some(HazardKind::WriteAfterRead));
    }

    #[test]
    fn a_partial_barrier_orders_only_its_warps() {
        let mut order = Order::new();
        let mut cell = Cell::default();
        assert_eq!(cell.write(actor(0, 0), &order, true, false, false), None);
        order.barrier(0b011, 0b011, &[], 3);
        assert_eq!(cell.check_read(actor(1, 0), &order, false), None);
        assert!(cell.check_read(actor(2, 0), &order, false).is_some());
        // Order is transitive: 2 syncs with 1, which synced with 0.
        order.barrier(0b110, 0b110, &[], 3);
        assert_eq!(cell.check_read(actor(2, 0), &order, false), None);
    }

    #[test]
    fn an_arrival_orders_only_what_is_before_it() {
        let mut order = Order::new();
        let (mut before, mut after) = (Cell::default(), Cell::default());
        assert_eq!(before.write(actor(0, 0), &order, true, false, false), None);
        let arrived = order.arrive(0);
        assert_eq!(after.write(actor(0, 0), &order, true, false, false), None);
        order.barrier(0b11, 0b10, &[arrived], 2);
        assert_eq!(before.check_read(actor(1, 0), &order, false), None);
        assert!(after.check_read(actor(1, 0), &order, false).is_some());
    }

    #[test]
    fn the_same_value_and_atomics_are_no_race() {
        let order = Order::new();
        let mut cell = Cell::default();
        assert_eq!(cell.write(actor(0, 0), &order, true, false, false), None);
        assert_eq!(cell.write(actor(1, 0), &order, false, false, false), None);
        assert_eq!(cell.read(actor(0, 0), &order, false), None);
        assert_eq!(cell.read(actor(1, 0), &order, false), None);
        let mut counter = Cell::default();
        assert_eq!(counter.write(actor(0, 0), &order, true, true, false), None);
        assert_eq!(counter.write(actor(1, 3), &order, true, true, false), None);
        assert!(counter.read(actor(2, 0), &order, false).is_some());
    }

    #[test]
    fn lanes_of_a_warp_need_a_warp_sync() {
        let order = Order::new();
        let mut cell = Cell::default();
        assert_eq!(cell.write(actor(0, 5), &order, true, false, false), None);
        assert_eq!(cell.read(actor(0, 5), &order, false), None);
        assert!(
            cell.read(actor(0, 6), &order, false)
                .is_some_and(|h| h.in_warp)
        );
        let later = Actor {
            interval: 2,
            ..actor(0, 6)
        };
        assert_eq!(cell.read(later, &order, false), None);
    }
}
