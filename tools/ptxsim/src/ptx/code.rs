//! The decoded code of a kernel: its instructions, what is known of each, its registers, constants and variables.

use super::isa::Op;
use super::types::{Pred, Reg};

/// A special register that is constant for a thread's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicShared,
    TotalShared,
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    /// `%cluster_ctarank` and `%cluster_nctarank`.
    ClusterRank,
    ClusterBlocks,
    ClusterId(u8),
    NClusterId(u8),
    ExplicitCluster,
}

/// An instruction with its guard.
#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub op: Op,
    pub guard: Pred,
}

/// What the interpreter needs of an instruction only now and then.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    /// Line in the PTX file.
    pub line: u32,
    /// Index into the module's source locations plus 1; 0 for none.
    pub loc: u32,
    pub class: &'static str,
    pub flops: Option<(&'static str, u64)>,
    /// Results of the special-function unit per active lane.
    pub special_functions: u64,
    /// Written-ness slots of the sources that propagate, of those that must be written, and of the destinations.
    pub sources: Box<[u32]>,
    pub observed: Box<[u32]>,
    pub destinations: Box<[u32]>,
}

/// A variable in shared memory. The simulator leaves gaps between variables, so that an index just past one is
/// found; each gap is a multiple of 128 bytes, which keeps every byte in its bank.
#[derive(Debug, Clone)]
pub(crate) struct SharedVar {
    pub name: String,
    pub offset: u32,
    pub size: u32,
}

/// A device function as linked into a kernel. Its parameters, results, variables and the arguments of its own calls lie
/// in a frame of local memory.
#[derive(Debug, Clone)]
pub(crate) struct Routine {
    pub name: String,
    /// First instruction.
    pub entry: u32,
    /// Bytes of a frame.
    pub frame: u32,
    /// Holds the address of the frame.
    pub base: Reg,
    /// All registers that the function declares: each call has its own.
    pub registers: Vec<Reg>,
}

/// Bytes that a call copies between the frames of caller and callee, as offsets in them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Move {
    pub caller: u32,
    pub callee: u32,
    pub bytes: u32,
}

/// A call: whom, and what is copied there and back.
#[derive(Debug, Clone)]
pub(crate) struct CallSite {
    /// Index in [`Code::routines`].
    pub routine: usize,
    pub arguments: Vec<Move>,
    pub results: Vec<Move>,
}

/// The decoded code of a kernel and of the functions that it calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Code {
    pub insts: Vec<Inst>,
    pub meta: Vec<Meta>,
    /// Register slots per bank.
    pub narrow: usize,
    pub wide: usize,
    pub preds: usize,
    pub constants32: Vec<u32>,
    pub constants64: Vec<u64>,
    /// 64-bit constants that are addresses of module variables: constant, variable, addend.
    pub relocations: Vec<(usize, usize, i64)>,
    /// Constants that are addresses in dynamic shared memory; empty once the code is finished.
    pub dynamic_constants: Vec<Reg>,
    pub specials: Vec<(Special, usize)>,
    pub shared_vars: Vec<SharedVar>,
    /// Bytes of shared memory that the kernel declares.
    pub static_shared: u32,
    /// Where dynamic shared memory begins, gaps between variables included.
    pub dynamic_offset: u32,
    /// Bytes of local memory of the kernel itself, without the functions' frames.
    pub local_bytes: u32,
    pub routines: Vec<Routine>,
    pub calls: Vec<CallSite>,
    /// Results depend on the order of blocks even in a correct kernel (atomics that return, float atomics, ...).
    pub ordered: bool,
    /// There are mbarriers or bulk copies; engines (`wgmma`, bulk stores) read shared memory; there are `wgmma`.
    pub mbarriers: bool,
    pub engines: bool,
    pub wgmma: bool,
}
