//! What the checker reports.

use std::fmt;

use serde::Serialize;

/// The kinds of defect that the checker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// An access outside every live allocation, or across an allocation's end.
    OutOfBounds,
    /// An address that is no multiple of the access size.
    Misaligned,
    /// A read of global memory that nothing wrote.
    UnwrittenGlobal,
    /// A read of shared memory that nothing wrote since the block began.
    UnwrittenShared,
    /// A value from local memory that nothing wrote was used.
    UnwrittenLocal,
    /// A value from a register that nothing wrote was used.
    UnwrittenRegister,
    /// Two warps access one shared byte with no barrier between, and one of them writes.
    SharedRace,
    /// Two lanes of one warp access one shared byte with no `__syncwarp` between, and one of them writes.
    SharedRaceInWarp,
    /// Two threads of one block access one global byte with no barrier between, and one of them writes.
    GlobalRace,
    /// Two blocks access one global byte, and at least one of them changes it.
    GlobalRaceAcrossBlocks,
    /// A barrier that not every thread of the block reaches.
    BarrierDivergence,
    /// A warp-wide instruction (mma, ldmatrix, shuffle, vote, ...) that not every named lane reaches.
    WarpDivergence,
    /// A lane executes a `.sync` instruction whose mask does not name it.
    WrongMask,
    /// A value shuffled from a lane that has exited or does not take part was used.
    ShuffleFromInactive,
    /// Shared memory that a `cp.async` fills was accessed before the copy was waited for.
    AsyncCopyNotWaited,
    /// Data of a `cp.async` was read by another thread with no barrier after the wait.
    AsyncCopyNoBarrier,
    /// An mbarrier that is not initialised, or has more arrivals or bytes than it can count; its bytes used otherwise; a wait
    /// that never ends.
    MbarrierMisuse,
    /// `wgmma` or a bulk copy reads shared memory that a thread wrote with no `fence.proxy.async` after.
    NoProxyFence,
    /// Registers of a `wgmma` used before it was waited for, or written with no `wgmma.fence` before it.
    WgmmaRegisters,
    /// An instruction of a warpgroup that its four warps do not execute together.
    WarpgroupDivergence,
    /// Shared memory of another block of the cluster that may not have begun or may have ended; a rank or a mask outside the cluster;
    /// arrivals and waits at the cluster's barrier that do not alternate.
    ClusterMisuse,
    /// `trap` was executed.
    Trap,
}

impl FindingKind {
    /// The stable name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::OutOfBounds => "out-of-bounds",
            FindingKind::Misaligned => "misaligned",
            FindingKind::UnwrittenGlobal => "unwritten-global",
            FindingKind::UnwrittenShared => "unwritten-shared",
            FindingKind::UnwrittenLocal => "unwritten-local",
            FindingKind::UnwrittenRegister => "unwritten-register",
            FindingKind::SharedRace => "shared-race",
            FindingKind::SharedRaceInWarp => "shared-race-in-warp",
            FindingKind::GlobalRace => "global-race",
            FindingKind::GlobalRaceAcrossBlocks => "global-race-across-blocks",
            FindingKind::BarrierDivergence => "barrier-divergence",
            FindingKind::WarpDivergence => "warp-divergence",
            FindingKind::WrongMask => "wrong-mask",
            FindingKind::ShuffleFromInactive => "shuffle-from-inactive",
            FindingKind::AsyncCopyNotWaited => "async-copy-not-waited",
            FindingKind::AsyncCopyNoBarrier => "async-copy-no-barrier",
            FindingKind::MbarrierMisuse => "mbarrier-misuse",
            FindingKind::NoProxyFence => "no-proxy-fence",
            FindingKind::WgmmaRegisters => "wgmma-registers",
            FindingKind::WarpgroupDivergence => "warpgroup-divergence",
            FindingKind::ClusterMisuse => "cluster-misuse",
            FindingKind::Trap => "trap",
        }
    }
}

/// Whether a finding's access reads, writes or does both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An atomic.
    Atomic,
}

/// A place in the CUDA source, from `.loc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceLocation {
    /// File name as the compiler was given it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 if unknown.
    pub column: u32,
    /// The (mangled) function, if it was inlined here.
    pub function: Option<String>,
}

/// One defect at one site (an instruction of a kernel); the first occurrence is described, the rest counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Kernel name.
    pub kernel: String,
    /// PTX file.
    pub ptx_file: String,
    /// Line in the PTX file, from 1.
    pub ptx_line: u32,
    /// The place in the source, innermost inlined function first; empty without line information.
    pub source: Vec<SourceLocation>,
    /// Block index of the first occurrence.
    pub block: [u32; 3],
    /// Thread index of the first occurrence.
    pub thread: [u32; 3],
    /// Read, write or atomic, for memory accesses.
    pub access: Option<Access>,
    /// Address (in its own state space for shared and local memory), for memory accesses.
    pub address: Option<u64>,
    /// The allocation, variable or state space that the address belongs to or is nearest to.
    pub allocation: Option<String>,
    /// Offset of the address from the start of that allocation; negative in front of it.
    pub offset: Option<i64>,
    /// One sentence for people.
    pub message: String,
    /// How many lanes did this at this site in the launch.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bx, by, bz] = self.block;
        let [tx, ty, tz] = self.thread;
        write!(
            f,
            "{}: {} [{}] at {}:{}",
            self.kernel,
            self.message,
            self.kind.name(),
            self.ptx_file,
            self.ptx_line
        )?;
        for (depth, place) in self.source.iter().enumerate() {
            let word = if depth == 0 { "," } else { ", inlined at" };
            write!(f, "{word} {}:{}", place.file, place.line)?;
        }
        write!(f, ", block ({bx},{by},{bz}) thread ({tx},{ty},{tz})")?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        if let (Some(allocation), Some(offset)) = (&self.allocation, self.offset) {
            write!(
                f,
                " = {allocation} {} {} bytes",
                if offset < 0 { '-' } else { '+' },
                offset.unsigned_abs()
            )?;
        }
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        Ok(())
    }
}
