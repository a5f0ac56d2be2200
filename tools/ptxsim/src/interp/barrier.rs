//! Barriers of a block.

use super::cluster::{Cluster, Common};
use super::machine::{Site, Worker};
use super::peers::CLUSTER_BARRIER;
use super::race::Arrived;
use super::registers::lanes;
use super::warp::{State, Warp};
use crate::finding::FindingKind;
use crate::ptx::isa::{BarKind, Reg, VoteMode};

/// Barriers that a block has.
pub(crate) const BARRIERS: u32 = 16;

/// A barrier between completions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Barrier {
    /// Warps that arrived, and those of them that wait.
    pub arrived: u32,
    pub waiting: u32,
    /// Threads expected, if the instruction says so.
    pub expected: Option<u32>,
    /// Where the first warp arrived, and whether another arrived elsewhere.
    pub pc: u32,
    pub thread: u32,
    pub mixed: bool,
    /// Warps that arrived without waiting.
    early: Vec<Arrived>,
    /// Of `barrier.red`: votes so far, voters, and where the waiting warps want the result.
    votes: u32,
    voters: u32,
    results: Vec<(u32, VoteMode, Reg, u32)>,
}

/// A barrier instruction with its operands read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub id: u32,
    pub expected: Option<u32>,
    pub kind: BarKind,
    pub aligned: bool,
}

impl Worker<'_> {
    /// The active lanes of a warp reach a barrier. An error stops the launch.
    pub fn arrive(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        at: Arrival,
        active: u32,
    ) -> Result<(), String> {
        if at.id >= BARRIERS {
            return Err(format!(
                "barrier {} does not exist: there are {BARRIERS}",
                at.id
            ));
        }
        let barrier = &mut common.barriers[(warp.cta * BARRIERS + at.id) as usize];
        if let BarKind::Red { mode, d, pred } = at.kind {
            barrier.votes += (warp.regs.pred(pred) & active).count_ones();
            barrier.voters += active.count_ones();
            barrier.results.push((warp.number, mode, d, active));
        }
        if self.m.check && at.aligned && active != warp.live {
            let missing = warp.live & !active;
            self.report(warp.first_site(active), FindingKind::BarrierDivergence, || {
                format!("barrier in divergent code: lanes {missing:#010x} of the warp do not reach it")
            });
        }
        if barrier.arrived == 0 {
            barrier.pc = warp.pc;
            barrier.thread = warp.index * 32;
            barrier.expected = at.expected;
        } else if barrier.pc != warp.pc {
            barrier.mixed = true;
        }
        let next = warp.pc + 1;
        if at.kind == BarKind::Arrive {
            barrier.arrived |= 1 << warp.number;
            // A warp that comes again before the barrier completes is kept once.
            if barrier.early.iter().all(|a| a.warp != warp.number) {
                barrier.early.push(common.order.arrive(warp.number));
            }
            warp.pc = next;
            return Ok(());
        }
        self.park(common, warp, at.id, active);
        Ok(())
    }

    /// Lanes of a warp wait at a barrier; the others go on.
    pub fn park(&mut self, common: &mut Common, warp: &mut Warp, barrier: u32, parked: u32) {
        let (site, next) = (warp.pc, warp.pc + 1);
        warp.parked.push((warp.key(next), parked));
        warp.barrier = barrier;
        warp.mask &= !parked;
        if warp.mask != 0 {
            warp.pc = next;
        } else if !warp.take_next() {
            warp.pc = site;
            self.wait(common, warp);
        }
    }

    /// All live lanes of the warp are parked: the warp waits.
    pub fn wait(&mut self, common: &mut Common, warp: &mut Warp) {
        warp.state = State::Waiting(warp.barrier);
        if warp.barrier == CLUSTER_BARRIER {
            common.peers.waiting |= 1 << warp.number;
            return;
        }
        let barrier = &mut common.barriers[(warp.cta * BARRIERS + warp.barrier) as usize];
        barrier.arrived |= 1 << warp.number;
        barrier.waiting |= 1 << warp.number;
    }

    /// Completes what barriers can be completed; whether there was one.
    pub fn complete_barriers(&mut self, cluster: &mut Cluster) -> bool {
        let mut any = self.complete_cluster(cluster);
        for index in 0..cluster.common.barriers.len() {
            let barrier = &cluster.common.barriers[index];
            if barrier.arrived == 0 {
                continue;
            }
            let block = self.warps_of(index as u32 / BARRIERS);
            let running = cluster.warps[block]
                .iter()
                .filter(|w| w.state != State::Done)
                .fold(0u32, |m, w| m | 1 << w.number);
            let complete = match barrier.expected {
                Some(threads) => barrier.arrived.count_ones() * 32 >= threads,
                None => running & !barrier.arrived == 0,
            };
            // Arrivals alone release nobody; they wait for the ones to come.
            if !complete || (barrier.waiting == 0 && running != 0) {
                continue;
            }
            any = true;
            let barrier = std::mem::take(&mut cluster.common.barriers[index]);
            self.complete(cluster, &barrier, index as u32 / BARRIERS);
        }
        any
    }

    fn complete(&mut self, cluster: &mut Cluster, barrier: &Barrier, rank: u32) {
        let block = self.warps_of(rank);
        self.enter(&cluster.warps[block.start]);
        self.counters.barriers += 1;
        if self.m.check && barrier.expected.is_none() {
            let site = Site {
                pc: barrier.pc,
                thread: barrier.thread,
            };
            let gone: u32 = cluster.warps[block]
                .iter()
                .map(|w| (w.born & !w.live).count_ones())
                .sum();
            if gone > 0 {
                self.report(site, FindingKind::BarrierDivergence, || {
                    format!(
                        "barrier that {gone} threads of the block never reach: they have exited"
                    )
                });
            }
            if barrier.mixed {
                self.report(site, FindingKind::BarrierDivergence, || {
                    "barrier in divergent code: warps of the block wait at different barrier instructions".into()
                });
            }
        }
        cluster.common.order.barrier(
            barrier.arrived,
            barrier.waiting,
            &barrier.early,
            cluster.warps.len(),
        );
        for (warp, mode, d, active) in &barrier.results {
            let (yes, all) = (barrier.votes, barrier.voters);
            let regs = &mut cluster.warps[*warp as usize].regs;
            match mode {
                VoteMode::Popc => regs.set32(*d, &[yes; 32], *active),
                VoteMode::All => regs.set_pred(*d, if yes == all { !0 } else { 0 }, *active),
                _ => regs.set_pred(*d, if yes > 0 { !0 } else { 0 }, *active),
            }
        }
        for index in lanes(barrier.waiting) {
            cluster.warps[index].release();
        }
    }
}

/// The operands of a barrier instruction, of the first active lane.
pub(crate) fn arrival(
    worker: &Worker<'_>,
    warp: &Warp,
    [id, count]: [Reg; 2],
    kind: BarKind,
    aligned: bool,
    active: u32,
) -> Arrival {
    let lane = lanes(active).next().unwrap_or(0);
    let value = |reg: Reg| warp.regs.any(&worker.m.constants, reg)[lane] as u32;
    let expected = if count.is_none() {
        None
    } else {
        Some(value(count))
    };
    Arrival {
        id: value(id),
        expected,
        kind,
        aligned,
    }
}
