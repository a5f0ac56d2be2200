//! A warp: registers, local memory, and where its lanes are.

use std::collections::{HashMap, VecDeque};

use super::bulk::Stores;
use super::call::{Frame, KERNEL};
use super::local::Local;
use super::machine::{Machine, Site};
use super::mbarrier::Phase;
use super::race::Actor;
use super::registers::{Lanes32, Registers, lanes};
use super::wgmma::Products;
use crate::ptx::isa::{Meta, Special};

/// What a warp is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum State {
    #[default]
    Running,
    /// Waits at the barrier of that number.
    Waiting(u32),
    /// Waits for a phase of the mbarrier at that address, to execute the same instruction again.
    Polling(u64, Phase),
    Done,
}

/// A `cp.async` of one lane on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy {
    pub destination: u64,
    pub bytes: u32,
    pub data: [u32; 4],
    /// Group that it was committed to, or will be.
    pub group: u32,
    pub pc: u32,
}

/// Copies on their way and groups committed, per lane.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    pub pending: VecDeque<Copy>,
    pub committed: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Warp {
    /// Its number in the block, and in the cluster.
    pub index: u32,
    pub number: u32,
    /// Its block's rank in the cluster, and number in row order.
    pub cta: u32,
    pub block: u64,
    pub regs: Registers,
    pub state: State,
    /// The lanes that run, and where.
    pub pc: u32,
    pub mask: u32,
    /// The call that the running lanes are in: see [`super::call`].
    pub rank: u32,
    /// Calls that lanes are in.
    pub frames: Vec<Frame>,
    /// Other groups of lanes by their keys, the smallest last.
    pub pending: Vec<(u64, u32)>,
    /// Groups that wait at a barrier which the rest of the warp has not reached.
    pub parked: Vec<(u64, u32)>,
    /// The barrier that the parked groups wait at.
    pub barrier: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// Lanes that existed at the start.
    pub born: u32,
    /// Number of the interval between warp-level syncs.
    pub interval: u32,
    pub executed: u64,
    /// Where the unwritten value in a register first came up.
    pub origin: HashMap<u32, u32>,
    /// The same for what was stored to local memory, by address; and for what was just loaded from there.
    pub stored_origin: HashMap<u64, u32>,
    pub local_origin: Option<u32>,
    pub copies: Vec<Copies>,
    pub bulk: Stores,
    pub wgmma: Products,
    /// It asked for something that is not there yet: another warp's turn.
    pub gives_way: bool,
    pub local: Local,
}

impl Warp {
    /// Sets the warp up: its number within a cluster, and that of the cluster.
    pub fn reset(&mut self, m: &Machine<'_>, number: u32, cluster: u64) {
        let index = number % m.warps();
        (self.number, self.index) = (number, index);
        self.cta = number / m.warps();
        self.block = m.block_at(cluster, self.cta);
        self.regs.reset(m.code);
        self.state = State::Running;
        self.pc = 0;
        self.rank = KERNEL;
        self.frames.clear();
        let threads = (m.threads - index * 32).min(32);
        self.born = if threads == 32 {
            !0
        } else {
            (1 << threads) - 1
        };
        self.live = self.born;
        self.mask = self.born;
        self.pending.clear();
        self.parked.clear();
        self.interval = 1;
        self.executed = 0;
        self.origin.clear();
        self.stored_origin.clear();
        self.local_origin = None;
        self.copies.clear();
        self.bulk = Stores::default();
        if m.code.wgmma {
            self.wgmma.reset(m.code.narrow);
        }
        self.local.reset(m.code);
        let block = position(self.block, m.grid);
        for (special, slot) in &m.code.specials {
            let value = self.special(m, *special, block);
            self.regs.preset(*slot, value);
        }
    }

    fn special(&self, m: &Machine<'_>, special: Special, block: [u32; 3]) -> Lanes32 {
        let first = self.index * 32;
        let [x, y, _] = m.block;
        let dims = |list: [u32; 3], axis: u8| [list[axis as usize]; 32];
        match special {
            Special::Tid(0) => std::array::from_fn(|lane| (first + lane as u32) % x),
            Special::Tid(1) => std::array::from_fn(|lane| (first + lane as u32) / x % y),
            Special::Tid(_) => std::array::from_fn(|lane| (first + lane as u32) / x / y),
            Special::Ntid(axis) => dims(m.block, axis),
            Special::Ctaid(axis) => dims(block, axis),
            Special::Nctaid(axis) => dims(m.grid, axis),
            Special::LaneId => std::array::from_fn(|lane| lane as u32),
            Special::WarpId => [self.index; 32],
            Special::NWarpId => [m.warps(); 32],
            Special::SmId => [(self.block % u64::from(m.sms)) as u32; 32],
            Special::NSmId => [m.sms; 32],
            Special::GridId => [m.launch; 32],
            Special::LaneMaskEq => std::array::from_fn(|lane| 1 << lane),
            Special::LaneMaskLt => std::array::from_fn(|lane| (1 << lane) - 1),
            Special::LaneMaskLe => std::array::from_fn(|lane| !0 >> (31 - lane)),
            Special::LaneMaskGt => std::array::from_fn(|lane| !(!0 >> (31 - lane))),
            Special::LaneMaskGe => std::array::from_fn(|lane| !((1 << lane) - 1)),
            Special::ClusterCtaid(axis) => [block[axis as usize] % m.cluster[axis as usize]; 32],
            Special::ClusterNctaid(axis) => dims(m.cluster, axis),
            Special::ClusterRank => [self.cta; 32],
            Special::ClusterBlocks => [m.blocks(); 32],
            Special::ClusterId(axis) => [block[axis as usize] / m.cluster[axis as usize]; 32],
            Special::NClusterId(axis) => [m.grid[axis as usize] / m.cluster[axis as usize]; 32],
            Special::ExplicitCluster => [u32::from(m.explicit_cluster); 32],
            Special::DynamicShared => [m.dynamic_shared; 32],
            Special::TotalShared => [m.static_shared + m.dynamic_shared; 32],
        }
    }

    /// Where the first unwritten source of the instruction at `pc` began.
    pub fn source_origin(&self, meta: &Meta, pc: u32, active: u32) -> u32 {
        let unwritten = |slot: &&u32| active & !self.regs.is_written(**slot) != 0;
        // A register that is source and destination is marked already, and may have no origin of its own.
        let mut sources = meta.sources.iter().filter(unwritten);
        sources
            .find_map(|slot| self.origin.get(slot).copied())
            .unwrap_or(pc)
    }

    /// The site of a lane at the present instruction.
    pub fn site(&self, lane: usize) -> Site {
        Site {
            pc: self.pc,
            thread: self.index * 32 + lane as u32,
        }
    }

    pub fn first_site(&self, mask: u32) -> Site {
        self.site(lanes(mask).next().unwrap_or(0))
    }

    pub fn actor(&self, lane: usize) -> Actor {
        Actor {
            warp: self.number,
            lane: lane as u32,
            interval: self.interval,
        }
    }

    /// The key of a place in the running lanes' call: groups with the smallest run first.
    #[inline]
    pub fn key(&self, pc: u32) -> u64 {
        u64::from(self.rank) << 32 | u64::from(pc)
    }

    /// Adds a group of lanes that goes on at `pc` of the same call.
    pub fn put_aside(&mut self, pc: u32, mask: u32) {
        self.put_aside_key(self.key(pc), mask);
    }

    pub fn put_aside_key(&mut self, key: u64, mask: u32) {
        if let Some((_, group)) = self.pending.iter_mut().find(|(at, _)| *at == key) {
            *group |= mask;
            return;
        }
        let at = self.pending.partition_point(|(other, _)| *other > key);
        self.pending.insert(at, (key, mask));
    }

    /// Turns to a place.
    #[inline]
    pub fn go(&mut self, key: u64) {
        self.rank = (key >> 32) as u32;
        self.pc = key as u32;
    }

    /// Turns to the lanes with the smallest place; false if there are none to run.
    pub fn take_next(&mut self) -> bool {
        match self.pending.pop() {
            Some((key, mask)) => {
                self.go(key);
                self.mask = mask;
                true
            }
            None => {
                self.mask = 0;
                false
            }
        }
    }

    /// Lets the parked lanes go on after a barrier.
    pub fn release(&mut self) {
        self.state = State::Running;
        self.interval += 1;
        for (key, mask) in std::mem::take(&mut self.parked) {
            self.put_aside_key(key, mask);
        }
        if self.mask == 0 {
            self.take_next();
        }
    }
}

/// Coordinates of a linear index, the first running fastest.
pub(crate) fn position(linear: u64, extent: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = extent.map(u64::from);
    [
        (linear % x) as u32,
        (linear / x % y) as u32,
        (linear / x / y) as u32,
    ]
}
