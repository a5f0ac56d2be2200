//! What a launch shares between host threads, and what each host thread has of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::findings::{Findings, Record};
use super::happens::Meetings;
use super::race::RecentCells;
use super::registers::Constants;
use super::warp::{Warp, position};
use crate::counters::Counters;
use crate::finding::{Access, FindingKind};
use crate::memory::{Allocation, Memory};
use crate::ptx::isa::Code;

/// A launch, read-only while it runs.
pub(crate) struct Machine<'m> {
    pub code: &'m Code,
    pub constants: Constants,
    pub params: &'m [u8],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Whether kernel or launch says so.
    pub explicit_cluster: bool,
    pub threads: u32,
    pub dynamic_shared: u32,
    pub static_shared: u32,
    pub sms: u32,
    pub memory: &'m Memory,
    /// Live allocations by address.
    pub allocations: Vec<Arc<Allocation>>,
    /// Number of this launch (never 0).
    pub launch: u32,
    pub check: bool,
    /// Blocks run one after another (or interleaved in a fixed way) on one host thread. Otherwise they run on
    /// several threads, and the launch is undone and repeated serially if they turn out to depend on each other.
    pub serial: bool,
    /// The kernel orders blocks by fences and atomics, so plain accesses across blocks can be ordered too.
    pub fenced: bool,
    /// The kernel orders warps by fences and atomics on shared memory.
    pub fenced_shared: bool,
    pub instruction_limit: u64,
    pub launch_limit: u64,
    /// Instructions executed so far, towards `launch_limit`.
    pub spent: AtomicU64,
    pub shuffle: Option<u64>,
    /// Set when a thread finds that blocks depend on each other, or when the launch is stopped.
    pub abort: AtomicBool,
    /// Numbers the entries of all undo logs.
    pub sequence: AtomicU64,
}

impl Machine<'_> {
    /// Blocks that a cluster has.
    pub fn blocks(&self) -> u32 {
        self.cluster.iter().product()
    }

    /// Warps that a block has.
    pub fn warps(&self) -> u32 {
        self.threads.div_ceil(32)
    }

    /// Warps that a cluster has.
    pub fn all_warps(&self) -> usize {
        (self.blocks() * self.warps()) as usize
    }

    /// The block of that rank in a cluster, as its number in row order.
    pub fn block_at(&self, cluster: u64, rank: u32) -> u64 {
        let clusters = std::array::from_fn(|axis| self.grid[axis] / self.cluster[axis]);
        let (first, within) = (
            position(cluster, clusters),
            position(u64::from(rank), self.cluster),
        );
        let [x, y, z] = std::array::from_fn(|i| u64::from(first[i] * self.cluster[i] + within[i]));
        let [gx, gy, _] = self.grid.map(u64::from);
        (z * gy + y) * gx + x
    }
}

/// What a word held before the launch first wrote it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Undo {
    pub sequence: u64,
    pub allocation: u32,
    pub offset: u64,
    pub word: u32,
    pub written: u8,
    /// Which bytes of the word the entry is about, as bits.
    pub bytes: u8,
}

/// A host thread's share of a launch.
pub(crate) struct Worker<'m> {
    pub m: &'m Machine<'m>,
    pub findings: Findings,
    /// Per instruction: times issued, and active lanes over them.
    pub issued: Vec<[u64; 2]>,
    pub counters: Counters,
    pub undo: Vec<Undo>,
    pub recent: RecentCells,
    /// The block that runs, its rank in the cluster, and the cluster.
    pub block: u64,
    pub cta: u32,
    pub cluster: u64,
    /// Its number in race cells, from 1.
    pub block_id: u64,
    /// The addresses that blocks synchronise by: see `Machine::fenced`.
    pub meetings: Meetings,
    /// Index of the allocation that the last access was in.
    pub hint: usize,
}

impl<'m> Worker<'m> {
    /// The warps of a block, as numbers in the cluster.
    pub fn warps_of(&self, rank: u32) -> std::ops::Range<usize> {
        let warps = self.m.warps() as usize;
        warps * rank as usize..warps * (rank as usize + 1)
    }

    pub fn new(m: &'m Machine<'m>) -> Worker<'m> {
        Worker {
            m,
            findings: Findings::default(),
            issued: vec![[0; 2]; m.code.insts.len()],
            counters: Counters::default(),
            undo: Vec::new(),
            recent: RecentCells::new(),
            block: 0,
            cta: 0,
            cluster: 0,
            block_id: 1,
            meetings: Meetings::default(),
            hint: 0,
        }
    }

    /// Turns to the block of a warp.
    pub fn enter(&mut self, warp: &Warp) {
        self.block = warp.block;
        self.cta = warp.cta;
        self.recent.enter(warp.block);
        self.block_id = warp.block % super::global::BLOCK_IDS + 1;
    }

    /// The allocation that holds `bytes` bytes from `address`.
    #[inline]
    pub fn locate(&mut self, address: u64, bytes: u64) -> Option<&'m Allocation> {
        let list = &self.m.allocations;
        if let Some(last) = list.get(self.hint)
            && last.contains(address, bytes)
        {
            return Some(last);
        }
        let index = list.partition_point(|a| a.base <= address).checked_sub(1)?;
        if !list[index].contains(address, bytes) {
            return None;
        }
        self.hint = index;
        Some(&list[index])
    }

    /// Reports a finding about a memory access.
    pub fn report_access(
        &mut self,
        at: Site,
        kind: FindingKind,
        access: Access,
        address: u64,
        describe: impl FnOnce() -> (String, Option<(String, i64)>),
    ) {
        let block = self.block;
        self.findings.add((at.pc, kind), block, || {
            let (message, place) = describe();
            let (access, address) = (Some(access), Some(address));
            Record {
                block,
                thread: at.thread,
                access,
                address,
                place,
                message,
                count: 1,
            }
        });
    }

    /// Reports any other finding.
    pub fn report(&mut self, at: Site, kind: FindingKind, describe: impl FnOnce() -> String) {
        self.report_of(self.block, at, kind, describe);
    }

    /// The same of any block.
    pub fn report_of(
        &mut self,
        block: u64,
        at: Site,
        kind: FindingKind,
        describe: impl FnOnce() -> String,
    ) {
        self.findings.add((at.pc, kind), block, || Record {
            block,
            thread: at.thread,
            access: None,
            address: None,
            place: None,
            message: describe(),
            count: 1,
        });
    }

    /// Gives up the parallel attempt.
    pub fn give_up(&self) {
        self.m.abort.store(true, Relaxed);
    }
}

/// Instruction and thread of a finding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    pub pc: u32,
    pub thread: u32,
}
