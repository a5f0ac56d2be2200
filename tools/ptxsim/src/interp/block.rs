//! A block: its warps, shared memory and barriers, and the order in which its warps run.

use std::sync::atomic::Ordering::Relaxed;

use super::barrier::Barrier;
use super::hopper::Engines;
use super::machine::{Machine, Site, Worker};
use super::race::Order;
use super::shared::Shared;
use super::warp::{State, Warp};
use super::wgmma::Together;
use crate::finding::FindingKind;

/// What the warps of a block share.
#[derive(Debug)]
pub(crate) struct Common {
    pub shared: Shared,
    pub order: Order,
    pub barriers: Vec<Barrier>,
    pub engines: Engines,
}

/// A block that is run.
#[derive(Debug)]
pub(crate) struct Block {
    pub warps: Vec<Warp>,
    pub common: Common,
    pub linear: u64,
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

impl Block {
    pub fn new() -> Block {
        let barriers = vec![Barrier::default(); 16];
        let common = Common {
            shared: Shared::default(),
            order: Order::new(),
            barriers,
            engines: Engines::default(),
        };
        Block {
            warps: Vec::new(),
            common,
            linear: 0,
            random: Random(0),
            turn: 0,
            spent: 0,
        }
    }

    /// Sets up a block to run from the start.
    pub fn reset(&mut self, m: &Machine<'_>, linear: u64) {
        self.linear = linear;
        let warps = m.threads.div_ceil(32) as usize;
        self.warps.resize_with(warps, Warp::default);
        for (index, warp) in self.warps.iter_mut().enumerate() {
            warp.reset(m, index as u32, linear);
        }
        self.common.shared.reset(m.code, m.dynamic_shared, m.check);
        self.common.order.reset(
            m.check && m.fenced,
            m.check && m.fenced_shared,
            m.code.mbarriers,
        );
        self.common.barriers.fill(Barrier::default());
        self.common.engines.mbarriers.clear();
        self.common.engines.bulk.clear();
        (self.common.engines.groups.iter_mut()).for_each(Together::clear);
        self.random = Random(m.shuffle.unwrap_or(0) ^ linear.wrapping_mul(0xd6e8_feb8_6659_fd93));
        self.turn = 0;
    }

    /// Runs the block's warps in turn, for about `budget` instructions; true when all have ended.
    pub fn run(&mut self, worker: &mut Worker<'_>, budget: u64) -> Result<bool, Stop> {
        worker.enter(self.linear);
        self.spent = BLOCK_COST;
        let done = self.turns(worker, budget)?;
        let m = worker.m;
        if m.launch_limit != 0 {
            let total = m.spent.fetch_add(self.spent, Relaxed) + self.spent;
            if total > m.launch_limit {
                let (limit, warp) = (m.launch_limit, &self.warps[self.turn]);
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
                    worker.end_block(self);
                    return Ok(true);
                }
                if worker.complete_barriers(self) {
                    continue;
                }
                let (kind, stop) = self.deadlock();
                if worker.m.check {
                    let site = Site {
                        pc: stop.pc,
                        thread: stop.thread,
                    };
                    worker.report(site, kind, || stop.message.clone());
                }
                return Err(stop);
            };
            let turn = if worker.m.shuffle.is_some() {
                1 + self.random.below(400)
            } else {
                TURN
            };
            let warp = &mut self.warps[index];
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
            if self
                .common
                .barriers
                .iter()
                .any(|barrier| barrier.arrived != 0)
            {
                worker.complete_barriers(self);
            }
            if self.spent >= budget && self.warps.iter().any(|warp| warp.state != State::Done) {
                return Ok(false);
            }
        }
    }

    fn deadlock(&self) -> (FindingKind, Stop) {
        let find = |which: fn(&State) -> bool| self.warps.iter().find(|warp| which(&warp.state));
        let waiting = find(|state| matches!(state, State::Waiting(_)));
        let polling = find(|state| matches!(state, State::Polling(..)));
        let (pc, thread) = polling
            .or(waiting)
            .map_or((0, 0), |warp| (warp.pc, warp.index * 32));
        let (kind, message) = match polling {
            Some(_) => (
                FindingKind::MbarrierMisuse,
                "deadlock: the phase of the mbarrier that this waits for is never complete",
            ),
            None => (
                FindingKind::BarrierDivergence,
                "deadlock: the threads that this barrier waits for never arrive",
            ),
        };
        let message = message.into();
        let stop = Stop {
            pc,
            thread,
            message,
        };
        (kind, stop)
    }
}
