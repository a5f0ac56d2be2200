//! What device-wide fences and atomics order, for kernels whose blocks (or warps) wait for each other through memory.
//!
//! Happens-before in the manner of vector clocks. A warp counts ticks: a new one begins at each of its fences and barriers.
//! A fence takes a [`Cover`]: the accesses that are before it, its own warp's and, by barriers, other warps' of the block.
//! A later atomic or strong store of the warp (or of a warp that has met it at a barrier since) leaves the cover at its
//! address; an atomic that yields a value, or a strong load, of that address takes up all that was left there. An access
//! is ordered before another block's present if a cover that the present knows of has it.
//!
//! More lenient than the memory model in three points: the side that takes up needs no fence, the lanes of a
//! warp take up together, and an address keeps what was left there when it is overwritten.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;

use super::cluster::Common;
use super::global::GlobalAccess;
use super::machine::Worker;
use super::warp::Warp;

/// Warps of a block at most.
const WARPS: usize = 32;
/// Addresses that a warp keeps apart; one that has taken up from more counts as knowing everything.
const ADDRESSES: usize = 2048;

/// Covers that one block leaves at one address and that are kept apart.
const COVERS: usize = 64;

/// When and by whom a word was accessed: launch, block, warp, lane and tick, as far as bits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub block: u64,
    pub warp: usize,
    pub lane: u32,
    tick: u32,
}

impl Stamp {
    const BLOCK: u64 = (1 << 18) - 1;
    const TICK: u32 = (1 << 20) - 1;

    /// A block's number as it stands in stamps.
    pub fn block(linear: u64) -> u64 {
        linear & Stamp::BLOCK
    }

    /// The stamp in these bits, if it is of the launch with that tag (16 bits, not 0).
    pub fn unpack(bits: u64, tag: u64) -> Option<Stamp> {
        (bits >> 48 == tag).then_some(Stamp {
            block: bits >> 30 & Stamp::BLOCK,
            warp: (bits >> 25 & 31) as usize,
            lane: (bits >> 20 & 31) as u32,
            tick: bits as u32 & Stamp::TICK,
        })
    }

    pub fn pack(self, tag: u64) -> u64 {
        tag << 48
            | self.block << 30
            | (self.warp as u64) << 25
            | u64::from(self.lane) << 20
            | u64::from(self.tick.min(Stamp::TICK))
    }
}

/// Accesses of a block that are before a fence, by warp: all lanes' before one tick, and some lanes' before a later one.
#[derive(Debug, Clone, PartialEq)]
struct Cover {
    before: [u32; WARPS],
    part: [u32; WARPS],
    lanes: [u32; WARPS],
}

impl Cover {
    const NONE: Cover = Cover {
        before: [0; WARPS],
        part: [0; WARPS],
        lanes: [0; WARPS],
    };

    fn join(&mut self, other: &Cover) {
        for warp in 0..WARPS {
            self.before[warp] = self.before[warp].max(other.before[warp]);
            if other.part[warp] > self.before[warp] {
                // Lanes that fenced at different ticks are taken together, at the later one.
                let mine = self.part[warp] > self.before[warp];
                self.lanes[warp] = other.lanes[warp] | if mine { self.lanes[warp] } else { 0 };
                self.part[warp] = self.part[warp].max(other.part[warp]);
            }
        }
    }

    fn has(&self, stamp: Stamp) -> bool {
        let Stamp { warp, tick, .. } = stamp;
        tick < self.before[warp]
            || (tick < self.part[warp] && self.lanes[warp] >> stamp.lane & 1 == 1)
    }
}

/// What was left at which addresses: the first so many covers of each.
#[derive(Debug, Clone, Default)]
struct Knowledge {
    lengths: BTreeMap<u64, usize>,
    everything: bool,
}

impl Knowledge {
    fn join(&mut self, other: &Knowledge) {
        self.everything |= other.everything;
        if self.everything {
            return self.lengths.clear();
        }
        for (address, length) in &other.lengths {
            self.learn(*address, *length);
        }
    }

    fn learn(&mut self, address: u64, length: usize) {
        if self.everything {
            return;
        }
        let known = self.lengths.entry(address).or_default();
        *known = (*known).max(length);
        if self.lengths.len() > ADDRESSES {
            self.lengths.clear();
            self.everything = true;
        }
    }
}

/// An address that blocks synchronise by.
#[derive(Debug, Default)]
struct Meeting {
    /// Covers left so far.
    length: usize,
    /// Per block, how many covers were there when it left one, and the join of all that it left.
    covers: HashMap<u64, Vec<(usize, Cover)>>,
    /// What those who left covers knew.
    inherited: Knowledge,
}

/// All addresses that the blocks of a launch synchronise by.
#[derive(Debug, Default)]
pub(crate) struct Meetings(HashMap<u64, Meeting>);

/// The warps of one block, or of a cluster, which counts as one block here.
#[derive(Debug)]
pub(crate) struct Clock {
    ticks: [u32; WARPS],
    /// `seen[v][r]`: accesses of warp `r` before this tick are before warp `v`'s present.
    seen: Box<[[u32; WARPS]; WARPS]>,
    /// Tick at which the lanes of each warp last met.
    since: [u32; WARPS],
    /// What each warp's atomics leave, and what it knew at its fence.
    fenced: Vec<Option<(Cover, Knowledge)>>,
    known: Vec<Knowledge>,
}

impl Clock {
    pub fn new() -> Clock {
        Clock {
            ticks: [1; WARPS],
            seen: Box::new([[0; WARPS]; WARPS]),
            since: [1; WARPS],
            fenced: vec![None; WARPS],
            known: vec![Knowledge::default(); WARPS],
        }
    }

    /// The stamp of an access that a lane makes now.
    pub fn stamp(&self, block: u64, warp: u32, lane: u32) -> Stamp {
        let block = Stamp::block(block);
        let warp = warp as usize;
        let tick = self.ticks[warp];
        Stamp {
            block,
            warp,
            lane,
            tick,
        }
    }

    /// The lanes of a warp have met; yields the tick that begins.
    pub fn meet(&mut self, warp: u32) -> u32 {
        let warp = warp as usize;
        self.ticks[warp] += 1;
        self.since[warp] = self.ticks[warp];
        self.ticks[warp]
    }

    /// A barrier of the warps `joined` completed, at which those of `waited` waited and those of `early` only
    /// arrived, before the tick given.
    pub fn barrier(&mut self, joined: u32, waited: u32, early: &[(u32, u32)], warps: usize) {
        let of = |set: u32| (0..warps.min(WARPS)).filter(move |w| set >> w & 1 == 1);
        let mut seen = [0; WARPS];
        let mut ends = [0; WARPS];
        let mut fenced: Option<(Cover, Knowledge)> = None;
        let mut known = Knowledge::default();
        for warp in of(joined) {
            for (all, one) in seen.iter_mut().zip(&self.seen[warp]) {
                *all = (*all).max(*one);
            }
            let arrived = early.iter().find(|(early, _)| *early as usize == warp);
            ends[warp] = match arrived {
                Some((_, tick)) => *tick,
                None => self.meet(warp as u32),
            };
            known.join(&self.known[warp]);
            if let Some((cover, knew)) = &self.fenced[warp] {
                let (all, all_knew) =
                    fenced.get_or_insert_with(|| (Cover::NONE, Knowledge::default()));
                all.join(cover);
                all_knew.join(knew);
            }
        }
        of(joined).for_each(|warp| seen[warp] = seen[warp].max(ends[warp]));
        for warp in of(waited) {
            for (mine, all) in self.seen[warp].iter_mut().zip(&seen) {
                *mine = (*mine).max(*all);
            }
            self.known[warp].join(&known);
            self.fenced[warp].clone_from(&fenced);
        }
    }

    /// A device-wide fence of some lanes; `live` are those that the warp has.
    pub fn fence(&mut self, warp: u32, lanes: u32, live: u32) {
        let warp = warp as usize;
        let mut cover = Cover::NONE;
        cover.before = self.seen[warp];
        let now = self.ticks[warp] + 1;
        if lanes & live == live {
            cover.before[warp] = now;
        } else {
            cover.before[warp] = self.since[warp];
            cover.part[warp] = now;
            cover.lanes[warp] = lanes;
        }
        self.ticks[warp] = now;
        let (all, knew) =
            self.fenced[warp].get_or_insert_with(|| (Cover::NONE, Knowledge::default()));
        all.join(&cover);
        knew.join(&self.known[warp]);
    }

    /// An atomic or strong store: leaves what the warp's last fence covers.
    pub fn leave(&self, meetings: &mut Meetings, block: u64, warp: u32, address: u64) {
        let Some((cover, knew)) = &self.fenced[warp as usize] else {
            return;
        };
        let meeting = meetings.0.entry(address).or_default();
        let mine = meeting.covers.entry(Stamp::block(block)).or_default();
        let mut joined = cover.clone();
        if let Some((_, before)) = mine.last() {
            joined.join(before);
            // A loop of atomics that waits leaves nothing new.
            if joined == *before {
                return meeting.inherited.join(knew);
            }
        }
        if mine.len() == COVERS {
            // The second oldest has the oldest too; it is taken to have been there as long.
            mine[1].0 = mine[0].0;
            mine.remove(0);
        }
        meeting.length += 1;
        mine.push((meeting.length, joined));
        meeting.inherited.join(knew);
    }

    /// An atomic that yields a value, or a strong load: takes up what was left.
    pub fn take_up(&mut self, meetings: &Meetings, warp: u32, address: u64) {
        let known = &mut self.known[warp as usize];
        let Some(meeting) = meetings.0.get(&address) else {
            return known.learn(address, 0);
        };
        if known.lengths.get(&address) == Some(&meeting.length) {
            return;
        }
        known.learn(address, meeting.length);
        known.join(&meeting.inherited);
    }

    /// Whether the warp has taken up what was left at the address, which orders the accesses to that address.
    pub fn has_met(&self, warp: u32, address: u64) -> bool {
        let known = &self.known[warp as usize];
        known.everything || known.lengths.contains_key(&address)
    }

    /// Whether the warp has fenced since its lanes met.
    pub fn has_fenced(&self, warp: u32) -> bool {
        self.ticks[warp as usize] > self.since[warp as usize]
    }

    /// Whether the access is before the present of a warp of block `block`.
    pub fn orders(&self, meetings: &Meetings, block: u64, warp: u32, access: Stamp) -> bool {
        let warp = warp as usize;
        if access.block == Stamp::block(block)
            && (access.warp == warp || access.tick < self.seen[warp][access.warp])
        {
            return true;
        }
        let known = &self.known[warp];
        known.everything
            || known.lengths.iter().any(|(address, length)| {
                let covers = meetings.0.get(address);
                let covers = covers.and_then(|meeting| meeting.covers.get(&access.block));
                covers.is_some_and(|covers| {
                    let reached = covers.partition_point(|(at, _)| at <= length);
                    reached > 0 && covers[reached - 1].1.has(access)
                })
            })
    }
}

/// What fences and atomics on shared memory order within a block.
#[derive(Debug)]
pub(crate) struct BlockClock {
    pub clock: Clock,
    meetings: Meetings,
}

impl BlockClock {
    pub fn new() -> BlockClock {
        BlockClock {
            clock: Clock::new(),
            meetings: Meetings::default(),
        }
    }

    pub fn leave(&mut self, warp: u32, address: u64) {
        self.clock.leave(&mut self.meetings, 0, warp, address);
    }

    pub fn take_up(&mut self, warp: u32, address: u64) {
        self.clock.take_up(&self.meetings, warp, address);
    }

    /// Whether the last access of a word is before the warp's present.
    pub fn orders(&self, warp: u32, access: Option<Stamp>) -> bool {
        access.is_some_and(|access| self.clock.orders(&self.meetings, 0, warp, access))
    }
}

impl Worker<'_> {
    /// Whether fences and atomics order the last write (or read) of the word before this access.
    pub fn is_ordered(&self, access: &GlobalAccess<'_>, wrote: bool, by_atomics_too: bool) -> bool {
        let Some(clock) = &access.order.clock else {
            return false;
        };
        let warp = access.who.warp;
        // Who has met others at an address comes after them there.
        if by_atomics_too && clock.has_met(warp, access.address) {
            return true;
        }
        let bits = access
            .allocation
            .stamp(access.offset(), wrote)
            .load(Relaxed);
        Stamp::unpack(bits, self.tag())
            .is_none_or(|stamp| clock.orders(&self.meetings, self.cluster, warp, stamp))
    }

    /// Keeps who accessed a word last. A reader that the present does not know of stays: it is the one to find.
    pub fn put_stamp(&self, access: &GlobalAccess<'_>, write: bool) {
        let Some(clock) = &access.order.clock else {
            return;
        };
        let (warp, lane) = (access.who.warp, access.who.lane);
        let cell = access.allocation.stamp(access.offset(), write);
        if !write
            && let Some(last) = Stamp::unpack(cell.load(Relaxed), self.tag())
            && !self.is_own(last, warp)
            && !clock.orders(&self.meetings, self.cluster, warp, last)
        {
            return;
        }
        let stamp = clock.stamp(self.cluster, warp, lane);
        cell.store(stamp.pack(self.tag()), Relaxed);
    }

    /// Whether a stamp is of the warp's own block.
    fn is_own(&self, stamp: Stamp, warp: u32) -> bool {
        let warps = self.m.warps();
        stamp.block == Stamp::block(self.cluster) && stamp.warp as u32 / warps == warp / warps
    }

    /// A device-wide fence.
    pub fn fence(&mut self, common: &mut Common, warp: &Warp, active: u32) {
        if let Some(clock) = &mut common.order.clock {
            clock.fence(warp.number, active, warp.live);
        }
    }

    /// An atomic or strong store at an address.
    pub fn leave(&mut self, common: &Common, warp: &Warp, address: u64) {
        if let Some(clock) = &common.order.clock {
            clock.leave(&mut self.meetings, self.cluster, warp.number, address);
        }
    }

    /// A strong load of an address, or an atomic that yields its value.
    pub fn take_up(&mut self, common: &mut Common, warp: &Warp, address: u64) {
        if let Some(clock) = &mut common.order.clock {
            clock.take_up(&self.meetings, warp.number, address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = !0;
    const FLAG: u64 = 64;

    #[test]
    fn a_fence_and_an_atomic_order_what_is_before_them() {
        let mut meetings = Meetings::default();
        let (mut writer, mut reader) = (Clock::new(), Clock::new());
        let before = writer.stamp(0, 0, 3);
        writer.fence(0, ALL, ALL);
        let after = writer.stamp(0, 0, 3);
        writer.leave(&mut meetings, 0, 0, FLAG);
        assert!(!reader.orders(&meetings, 1, 0, before));
        reader.take_up(&meetings, 0, FLAG);
        assert!(reader.orders(&meetings, 1, 0, before));
        assert!(!reader.orders(&meetings, 1, 0, after));
        // Another warp of the reader's block knows after a barrier.
        assert!(!reader.orders(&meetings, 1, 1, before));
        reader.barrier(0b11, 0b11, &[], 2);
        assert!(reader.orders(&meetings, 1, 1, before));
    }

    #[test]
    fn a_fence_covers_other_warps_only_by_a_barrier() {
        let mut meetings = Meetings::default();
        let (mut writer, mut reader) = (Clock::new(), Clock::new());
        let first = writer.stamp(0, 1, 0);
        writer.barrier(0b11, 0b11, &[], 2);
        let second = writer.stamp(0, 1, 0);
        writer.fence(0, 1, ALL);
        writer.leave(&mut meetings, 0, 0, FLAG);
        reader.take_up(&meetings, 0, FLAG);
        assert!(reader.orders(&meetings, 1, 0, first));
        assert!(!reader.orders(&meetings, 1, 0, second));
        // All fence, then a barrier, then one thread's atomic.
        writer.fence(1, ALL, ALL);
        writer.barrier(0b11, 0b11, &[], 2);
        writer.leave(&mut meetings, 0, 0, FLAG);
        reader.take_up(&meetings, 0, FLAG);
        assert!(reader.orders(&meetings, 1, 0, second));
    }

    #[test]
    fn one_lanes_fence_does_not_cover_the_others() {
        let mut meetings = Meetings::default();
        let (mut writer, mut reader) = (Clock::new(), Clock::new());
        let (own, other) = (writer.stamp(0, 0, 0), writer.stamp(0, 0, 1));
        writer.fence(0, 1, ALL);
        writer.leave(&mut meetings, 0, 0, FLAG);
        reader.take_up(&meetings, 0, FLAG);
        assert!(reader.orders(&meetings, 1, 0, own));
        assert!(!reader.orders(&meetings, 1, 0, other));
        writer.meet(0);
        writer.fence(0, 1, ALL);
        writer.leave(&mut meetings, 0, 0, FLAG);
        reader.take_up(&meetings, 0, FLAG);
        assert!(reader.orders(&meetings, 1, 0, other));
    }

    #[test]
    fn order_is_handed_on() {
        let mut meetings = Meetings::default();
        let (mut a, mut b, mut c) = (Clock::new(), Clock::new(), Clock::new());
        let write = a.stamp(0, 0, 0);
        a.fence(0, ALL, ALL);
        a.leave(&mut meetings, 0, 0, FLAG);
        b.take_up(&meetings, 0, FLAG);
        b.fence(0, ALL, ALL);
        b.leave(&mut meetings, 1, 0, FLAG + 4);
        c.take_up(&meetings, 0, FLAG + 4);
        assert!(c.orders(&meetings, 2, 0, write));
    }

    #[test]
    fn what_is_left_is_bounded() {
        let mut meetings = Meetings::default();
        let (mut writer, mut early, mut late) = (Clock::new(), Clock::new(), Clock::new());
        let first = writer.stamp(0, 0, 0);
        writer.fence(0, ALL, ALL);
        writer.leave(&mut meetings, 0, 0, FLAG);
        writer.leave(&mut meetings, 0, 0, FLAG);
        assert_eq!(meetings.0[&FLAG].length, 1);
        early.take_up(&meetings, 0, FLAG);
        let mut last = first;
        for _ in 0..3 * COVERS {
            last = writer.stamp(0, 0, 0);
            writer.fence(0, ALL, ALL);
            writer.leave(&mut meetings, 0, 0, FLAG);
        }
        assert_eq!(meetings.0[&FLAG].covers[&0].len(), COVERS);
        late.take_up(&meetings, 0, FLAG);
        assert!(late.orders(&meetings, 1, 0, last));
        assert!(early.orders(&meetings, 1, 0, first) && !early.orders(&meetings, 1, 0, last));
    }

    #[test]
    fn a_stamp_survives_packing_and_not_another_launch() {
        let clock = Clock::new();
        let stamp = clock.stamp(77, 31, 30);
        assert_eq!(Stamp::unpack(stamp.pack(9), 9), Some(stamp));
        assert_eq!(Stamp::unpack(stamp.pack(9), 8), None);
    }
}
