//! The blocks that run together: their warps, shared memory and barriers, and the order in which the warps run.

use std::sync::atomic::Ordering::Relaxed;

use super::barrier::{BARRIERS, Barrier};
use super::hopper::Engines;
use super::machine::{Machine, Site, Worker};
use super::peers::Peers;
use super::race::Order;
use super::shared::Shared;
use super::warp::{State, Warp};
use crate::finding::FindingKind;

/// What the warps of a cluster share.
#[derive(Debug)]
pub(crate) struct Common {
    /// Of all blocks.
    pub shared: Shared,
    pub order: Order,
    /// Those of the first block, of the second, ...
    pub barriers: Vec<Barrier>,
    pub engines: Engines,
    pub peers: Peers,
}

/// A cluster that is run; in most launches one block.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Those of the first block, of the second, ...
    pub warps: Vec<Warp>,
    pub common: Common,
    /// Its number in row order.
    number: u64,
    random: Random,
    /// The warp whose turn it is.
    turn: usize,
    /// Instructions executed in this run, and what a run costs besides.
    spent: u64,
}

/// Why a launch stops in the middle.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub pc: u32,
    pub thread: u32,
    pub message: String,
}

/// What setting up a block counts as, in instructions.
const BLOCK_COST: u64 = 64;

/// Instructions a warp runs before another gets its turn, unless it waits or ends first. Long, because a switch
/// costs cache; finite, so that warps which wait for each other through memory get on.
const TURN: u64 = 200_000;

/// A generator for the shuffled order (SplitMix64).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

impl Cluster {
    pub fn new() -> Cluster {
        let common = Common {
            shared: Shared::default(),
            order: Order::new(),
            barriers: Vec::new(),
            engines: Engines::default(),
            peers: Peers::default(),
        };
        Cluster {
            warps: Vec::new(),
            common,
            number: 0,
            random: Random(0),
            turn: 0,
            spent: 0,
        }
    }

    /// Sets up a cluster to run from the start.
    pub fn reset(&mut self, m: &Machine<'_>, number: u64) {
        self.number = number;
        self.warps.resize_with(m.all_warps(), Warp::default);
        for (index, warp) in self.warps.iter_mut().enumerate() {
            warp.reset(m, index as u32, number);
        }
        let common = &mut self.common;
        let blocks = m.blocks() as usize;
        (common.shared).reset(m.code, m.dynamic_shared, blocks, m.check);
        common.order.reset(
            m.check && m.fenced,
            m.check && m.fenced_shared,
            m.code.mbarriers || blocks > 1,
        );
        common.barriers.clear();
        (common.barriers).resize(BARRIERS as usize * blocks, Barrier::default());
        common.engines.reset(blocks);
        common.peers = Peers::default();
        self.random = Random(m.shuffle.unwrap_or(0) ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        self.turn = 0;
    }

    /// Runs the warps in turn, for about `budget` instructions; true when all have ended.
    pub fn run(&mut self, worker: &mut Worker<'_>, budget: u64) -> Result<bool, Stop> {
        worker.cluster = self.number;
        self.spent = BLOCK_COST * u64::from(worker.m.blocks());
        let done = self.turns(worker, budget)?;
        let m = worker.m;
        if m.launch_limit != 0 {
            let total = m.spent.fetch_add(self.spent, Relaxed) + self.spent;
            if total > m.launch_limit {
                let (limit, warp) = (m.launch_limit, &self.warps[self.turn]);
                worker.enter(warp);
                return Err(Stop {
                    pc: warp.pc,
                    thread: warp.index * 32,
                    message: format!(
                        "launch limit: all warps executed {limit} instructions and go on"
                    ),
                });
            }
        }
        Ok(done)
    }

    fn turns(&mut self, worker: &mut Worker<'_>, budget: u64) -> Result<bool, Stop> {
        loop {
            let count = self.warps.len();
            let first = self.turn;
            let running = |index: &usize| match self.warps[*index].state {
                State::Running => true,
                State::Polling(address, phase) => self.common.engines.ready(address, phase),
                State::Waiting(_) | State::Done => false,
            };
            let next = if worker.m.shuffle.is_some() {
                let candidates: Vec<usize> = (0..count).filter(running).collect();
                match candidates.len() as u64 {
                    0 => None,
                    n => Some(candidates[self.random.below(n) as usize]),
                }
            } else {
                (first..count).chain(0..first).find(running)
            };
            let Some(index) = next else {
                if self.warps.iter().all(|warp| warp.state == State::Done) {
                    return Ok(true);
                }
                if worker.complete_barriers(self) {
                    continue;
                }
                return Err(self.deadlock(worker));
            };
            let turn = if worker.m.shuffle.is_some() {
                1 + self.random.below(400)
            } else {
                TURN
            };
            let warp = &mut self.warps[index];
            worker.enter(warp);
            warp.state = State::Running;
            let before = warp.executed;
            worker.run_warp(&mut self.common, warp, turn.min(budget))?;
            self.spent += self.warps[index].executed - before;
            self.turn = if self.warps[index].state == State::Running {
                index + 1
            } else {
                index
            };
            if self.turn >= count {
                self.turn = 0;
            }
            if self.warps[index].state == State::Done {
                worker.end_warp(self, index);
            }
            let arrived = |barrier: &Barrier| barrier.arrived != 0;
            if self.common.barriers.iter().any(arrived) || self.common.peers.any_arrived() {
                worker.complete_barriers(self);
            }
            if self.spent >= budget && self.warps.iter().any(|warp| warp.state != State::Done) {
                return Ok(false);
            }
        }
    }

    /// No warp can go on: reports where the first of them is.
    fn deadlock(&self, worker: &mut Worker<'_>) -> Stop {
        let find = |which: fn(&State) -> bool| self.warps.iter().find(|warp| which(&warp.state));
        let waiting = find(|state| matches!(state, State::Waiting(_)));
        let polling = find(|state| matches!(state, State::Polling(..)));
        let (kind, message) = match polling.map(|warp| warp.state) {
            Some(State::Polling(address, _)) => (
                FindingKind::MbarrierMisuse,
                format!(
                    "deadlock: the phase of the mbarrier that this waits for is never complete{}",
                    self.common.engines.missing(address)
                ),
            ),
            _ => (
                FindingKind::BarrierDivergence,
                "deadlock: the threads that this barrier waits for never arrive".into(),
            ),
        };
        let (mut pc, mut thread) = (0, 0);
        if let Some(warp) = polling.or(waiting) {
            worker.enter(warp);
            (pc, thread) = (warp.pc, warp.index * 32);
        }
        if worker.m.check {
            worker.report(Site { pc, thread }, kind, || message.clone());
        }
        Stop {
            pc,
            thread,
            message,
        }
    }
}
