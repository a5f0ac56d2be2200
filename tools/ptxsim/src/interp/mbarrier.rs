//! mbarriers: counters of arrivals and bytes in shared memory, that threads wait for.
//!
//! An mbarrier counts phases. One is complete when all arrivals that it expects have come and all bytes that were announced
//! have been copied; then the next begins. A wait names a phase by its parity or by what an arrival yielded.
//!
//! What a thread did before it arrived is ordered before whoever waited for that phase (`Order::release`, `acquire`).

use super::cluster::Common;
use super::hopper::Engines;
use super::machine::{Site, Worker};
use super::peers::{in_shared, rank_of, shown};
use super::race::{Order, Released};
use super::registers::lanes;
use super::shared::{SharedFault, describe};
use super::warp::{State, Warp};
use crate::finding::{Access, FindingKind};
use crate::ptx::isa::{Addr, Reg};

/// The most arrivals or bytes that an mbarrier counts.
const MOST: u32 = (1 << 20) - 1;
/// Bytes of an mbarrier.
const BYTES: u32 = 8;

#[derive(Debug, Clone)]
pub(crate) struct Mbarrier {
    /// Arrivals of a phase, and those still to come in this one.
    expected: u32,
    pending: u32,
    /// Bytes announced and not yet copied.
    bytes: i64,
    /// Phases complete.
    phase: u64,
    /// Warp (of the cluster) and lane that initialised it, and whether a fence has shown it to the engines.
    by: (u32, u32),
    pub shown: bool,
    /// What the arrivals of this phase, and of the complete ones, order.
    arrived: Released,
    complete: Released,
    /// Block and instruction of the copy that came last.
    copied: Option<(u64, Site)>,
}

/// The phase that a wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The latest with that parity.
    Parity(u32),
    Number(u64),
}

impl Mbarrier {
    fn ready(&self, phase: Phase) -> bool {
        match phase {
            Phase::Parity(parity) => (self.phase & 1) as u32 != parity & 1,
            Phase::Number(number) => self.phase > number,
        }
    }

    /// Ends the phase if nothing is missing.
    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.expected;
            let arrived = std::mem::take(&mut self.arrived);
            self.complete.join(&arrived);
        }
    }
}

impl Engines {
    /// Whether a suspended warp has something to do: its phase is complete, or copies would tell.
    pub fn ready(&self, address: u64, phase: Phase) -> bool {
        let barrier = self.mbarriers.get(&address);
        barrier.is_none_or(|barrier| barrier.ready(phase))
            || self.bulk.iter().any(|copy| copy.barrier == address)
    }

    /// Why the phase of an mbarrier is not complete, as far as bytes are concerned; a clause or nothing.
    pub fn missing(&self, address: u64) -> String {
        match self.mbarriers.get(&address).map_or(0, |b| b.bytes) {
            0 => String::new(),
            bytes @ 1.. => format!("; {bytes} of the bytes that it expects have not come"),
            bytes => format!("; {} bytes came that it does not expect", -bytes),
        }
    }

    /// What the arrivals of the present phase order, to be put back.
    fn take_arrived(&mut self, address: u64) -> Released {
        let barrier = self.mbarriers.get_mut(&address);
        barrier.map_or_else(Released::default, |b| std::mem::take(&mut b.arrived))
    }

    fn put_arrived(&mut self, address: u64, released: Released) {
        if let Some(barrier) = self.mbarriers.get_mut(&address) {
            barrier.arrived = released;
        }
    }

    /// The copy engine has written what an mbarrier waits for, as that block asked it to there.
    pub fn release_copy(&mut self, address: u64, order: &mut Order, asked: (u64, Site)) {
        if let Some(barrier) = self.mbarriers.get_mut(&address) {
            order.release_engine(&mut barrier.arrived);
            barrier.copied = Some(asked);
        }
    }

    /// Mbarriers of a block to which more bytes come than they expect: how many, and who asked for the last copy.
    pub fn unexpected(&self, rank: u32) -> Vec<(i64, (u64, Site))> {
        let mut list = Vec::new();
        for (place, barrier) in self.mbarriers.iter().filter(|(p, _)| rank_of(**p) == rank) {
            let (mut bytes, mut asked) = (barrier.bytes, barrier.copied);
            for copy in self.bulk.iter().filter(|copy| copy.barrier == *place) {
                bytes -= i64::from(copy.bytes());
                asked = Some((copy.block, copy.site));
            }
            list.extend(asked.filter(|_| bytes < 0).map(|asked| (-bytes, asked)));
        }
        list
    }

    /// Lanes of a warp have fenced: the engines see the mbarriers that they initialised.
    pub fn show_mbarriers(&mut self, warp: u32, active: u32) {
        for barrier in self.mbarriers.values_mut() {
            barrier.shown |= barrier.by.0 == warp && active >> barrier.by.1 & 1 == 1;
        }
    }
}

impl Worker<'_> {
    pub fn misuse(
        &mut self,
        warp: &Warp,
        lane: usize,
        address: u64,
        what: impl FnOnce() -> String,
    ) {
        let code = self.m.code;
        let kind = FindingKind::MbarrierMisuse;
        let site = warp.site(lane);
        self.report_access(site, kind, Access::Atomic, shown(address), || {
            (what(), Some(describe(code, warp.cta, address)))
        });
    }

    /// Whether the address is one of an mbarrier that the lane knows to be initialised.
    pub fn knows_mbarrier(
        &mut self,
        common: &Common,
        warp: &Warp,
        lane: usize,
        address: u64,
    ) -> bool {
        if !common.engines.mbarriers.contains_key(&address) {
            self.misuse(warp, lane, address, || {
                "use of an mbarrier that is not initialised".into()
            });
            return false;
        }
        if self.m.check {
            let actor = warp.actor(lane);
            if let Some(hazard) = common.shared.check_word(address, actor, &common.order) {
                self.shared_fault(warp, lane, address, Access::Read, SharedFault::Race(hazard));
            }
        }
        true
    }

    pub fn init_mbarrier(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        at: Addr,
        count: Reg,
        active: u32,
    ) {
        let addresses = warp.regs.addresses(&self.m.constants, at);
        let counts = *warp.regs.r32(&self.m.constants, count);
        for lane in lanes(active) {
            let (address, count) = (in_shared(addresses[lane]), counts[lane]);
            if self.misaligned(warp, lane, address, BYTES, Access::Atomic) {
                continue;
            }
            let address = warp.shared(address, false);
            if !self.has_shared(common, warp, lane, address, BYTES, Access::Atomic) {
                continue;
            }
            if count == 0 || count > MOST {
                self.misuse(warp, lane, address, || {
                    format!("an mbarrier of {count} arrivals; 1 to {MOST} are possible")
                });
            }
            if common.engines.mbarriers.contains_key(&address) {
                self.misuse(warp, lane, address, || {
                    "an mbarrier is initialised again, with no mbarrier.inval between".into()
                });
                common.shared.set_mbarrier(address, false);
            }
            for word in [address, address + 4] {
                self.shared_write(common, warp, lane, word, 4, count, false);
            }
            common.shared.set_mbarrier(address, true);
            let barrier = Mbarrier {
                expected: count,
                pending: count,
                bytes: 0,
                phase: 0,
                by: (warp.number, lane as u32),
                shown: false,
                arrived: Released::default(),
                complete: Released::default(),
                copied: None,
            };
            common.engines.mbarriers.insert(address, barrier);
        }
    }

    pub fn invalidate_mbarrier(&mut self, common: &mut Common, warp: &Warp, at: Addr, active: u32) {
        let addresses = warp.regs.addresses(&self.m.constants, at);
        for lane in lanes(active) {
            let address = warp.shared(in_shared(addresses[lane]), false);
            if self.knows_mbarrier(common, warp, lane, address) {
                common.engines.mbarriers.remove(&address);
                common.shared.set_mbarrier(address, false);
            }
        }
    }

    /// The key of a place in the cluster among the addresses that blocks synchronise by.
    fn meeting_key(&self, place: u64) -> u64 {
        1 << 63 | self.cluster << 32 | place
    }

    /// Orders what lanes of a warp did before whoever acquires `released`, which was left at that place.
    pub fn release(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        lanes: u32,
        released: &mut Released,
        place: u64,
    ) {
        (common.order).release(warp.number, lanes, warp.live, released);
        if let Some(shared) = &mut common.order.shared {
            shared.clock.fence(warp.number, lanes, warp.live);
            shared.leave(warp.number, place);
        }
        self.fence(common, warp, lanes);
        self.leave(common, warp, self.meeting_key(place));
    }

    /// A warp has waited for what was released at that place.
    pub fn acquire(&mut self, common: &mut Common, warp: &Warp, released: &Released, place: u64) {
        (common.order).acquire(warp.number, released, self.m.all_warps());
        if let Some(shared) = &mut common.order.shared {
            shared.take_up(warp.number, place);
        }
        self.take_up(common, warp, self.meeting_key(place));
    }

    #[allow(clippy::too_many_arguments)]
    pub fn arrive_mbarrier(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        d: Reg,
        at: Addr,
        [count, expect]: [Reg; 2],
        peers: bool,
        active: u32,
    ) {
        let k = &self.m.constants;
        let addresses = warp.regs.addresses(k, at);
        let addresses = addresses.map(|address| warp.shared(in_shared(address), peers));
        let or = |reg: Reg, absent: u32| {
            if reg.is_none() {
                [absent; 32]
            } else {
                *warp.regs.r32(k, reg)
            }
        };
        let (counts, bytes) = (or(count, 1), or(expect, 0));
        let mut states = [0u64; 32];
        let mut rest = active;
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let address = addresses[first];
            let same = |lane: &usize| addresses[*lane] == address;
            let group = lanes(rest)
                .filter(same)
                .fold(0, |all, lane| all | 1 << lane);
            rest &= !group;
            if !self.knows_mbarrier(common, warp, first, address) {
                continue;
            }
            if self.m.check {
                lanes(group).for_each(|lane| self.visit(common, warp, lane, address));
                let mut released = common.engines.take_arrived(address);
                self.release(common, warp, group, &mut released, address);
                common.engines.put_arrived(address, released);
            }
            for lane in lanes(group) {
                let expected = bytes[lane];
                self.expect(common, warp, lane, address, expected);
                let Some(barrier) = common.engines.mbarriers.get_mut(&address) else {
                    continue;
                };
                states[lane] = barrier.phase;
                let (count, pending) = (counts[lane], barrier.pending);
                barrier.pending = pending.saturating_sub(count);
                barrier.settle();
                if count == 0 || count > pending {
                    self.misuse(warp, lane, address, || {
                        format!("{count} arrivals at an mbarrier that expects {pending} more")
                    });
                }
            }
        }
        warp.regs.set64(d, &states, active);
    }

    fn expect(&mut self, common: &mut Common, warp: &Warp, lane: usize, address: u64, bytes: u32) {
        let Some(barrier) = common.engines.mbarriers.get_mut(&address) else {
            return;
        };
        barrier.bytes += i64::from(bytes);
        let now = barrier.bytes;
        if now > i64::from(MOST) {
            self.misuse(warp, lane, address, || {
                format!("an mbarrier expects {now} bytes; {MOST} are the most")
            });
        }
    }

    /// `mbarrier.expect_tx` alone, or `mbarrier.complete_tx`.
    #[allow(clippy::too_many_arguments)]
    pub fn count_bytes(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        at: Addr,
        bytes: Reg,
        completes: bool,
        peers: bool,
        active: u32,
    ) {
        let addresses = warp.regs.addresses(&self.m.constants, at);
        let bytes = *warp.regs.r32(&self.m.constants, bytes);
        for lane in lanes(active) {
            let address = warp.shared(in_shared(addresses[lane]), peers);
            if !self.knows_mbarrier(common, warp, lane, address) {
                continue;
            }
            self.visit(common, warp, lane, address);
            if completes {
                self.complete_bytes(common, address, bytes[lane]);
            } else {
                self.expect(common, warp, lane, address, bytes[lane]);
            }
        }
    }

    /// Bytes that the mbarrier waits for have come.
    pub fn complete_bytes(&mut self, common: &mut Common, address: u64, bytes: u32) {
        let Some(barrier) = common.engines.mbarriers.get_mut(&address) else {
            return;
        };
        barrier.bytes -= i64::from(bytes);
        barrier.settle();
    }

    /// Waits or asks; false if the warp is suspended.
    #[allow(clippy::too_many_arguments)]
    pub fn wait_mbarrier(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        d: Reg,
        at: Addr,
        phase: Reg,
        parity: bool,
        blocks: bool,
        active: u32,
    ) -> bool {
        let addresses = warp.regs.addresses(&self.m.constants, at);
        let addresses = addresses.map(|address| warp.shared(in_shared(address), false));
        let phases = warp.regs.any(&self.m.constants, phase);
        let wanted = |lane: usize| {
            if parity {
                Phase::Parity(phases[lane] as u32)
            } else {
                Phase::Number(phases[lane])
            }
        };
        let first = lanes(active).next().unwrap_or(0);
        let (mut ready, mut uniform) = (0u32, true);
        for lane in lanes(active) {
            let address = addresses[lane];
            uniform &= address == addresses[first] && wanted(lane) == wanted(first);
            if !self.knows_mbarrier(common, warp, lane, address) {
                // Goes on, so that the launch ends.
                ready |= 1 << lane;
                continue;
            }
            self.deliver(common, address);
            let barrier = &common.engines.mbarriers[&address];
            if barrier.ready(wanted(lane)) {
                ready |= 1 << lane;
                // The lanes take up together.
                let again = lane != first && address == addresses[first] && ready >> first & 1 == 1;
                if self.m.check && !again {
                    let complete = barrier.complete.clone();
                    self.acquire(common, warp, &complete, address);
                }
            }
        }
        if blocks && ready == 0 && uniform {
            warp.state = State::Polling(addresses[first], wanted(first));
            return false;
        }
        // Who asks in a loop lets the others get on.
        warp.gives_way |= ready != active;
        warp.regs.set_pred(d, ready, active);
        true
    }
}
