//! The decoded form that the interpreter runs: registers are dense slots, immediates are slots of a constant
//! pool, labels are instruction indices, and every modifier is checked.

pub(crate) use super::types::{Pred, Reg, Ty};

/// Integer operations whose operands and result have one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntFn {
    Add,
    AddSat,
    Sub,
    SubSat,
    MulLo,
    MulHi,
    MadLo,
    MadHi,
    MadHiSat,
    Mul24Lo,
    Mad24Lo,
    Mul24Hi,
    Mad24Hi,
    Sad,
    Div,
    Rem,
    Abs,
    Neg,
    Min,
    Max,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Shl,
    Shr,
    Brev,
    Bfe,
    Bfi,
}

/// Operations that yield an `.u32` from 32 or 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CountFn {
    Popc,
    Clz,
    Bfind,
    BfindShift,
}

/// Floating-point operations with IEEE results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatFn {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
    Min,
    Max,
    MinNan,
    MaxNan,
    Abs,
    Neg,
    Copysign,
    /// `testp`-free relu forms of fma.
    FmaRelu,
}

/// Functions that are approximate on a GPU; here correctly rounded through f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApproxFn {
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Sin,
    Cos,
    Tanh,
    Div,
}

/// Rounding of a floating-point result or of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    Zero,
    Down,
    Up,
}

/// Comparisons; the `u` forms are true for NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Boolean operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bool {
    And,
    Or,
    Xor,
}

/// State spaces of loads, stores and atomics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// Base register (or constant) plus an offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addr {
    pub base: Reg,
    pub offset: i64,
}

/// Modes of `shfl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// Modes of `vote` and `barrier.red`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
    Popc,
}

/// Operations of `atom`, `red` and `redux`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomFn {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// Element types of `mma` operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MmaTy {
    F16,
    BF16,
    TF32,
    F64,
    S8,
    U8,
}

/// `mma.sync`: shape, types and fragments. Unused fragment registers are [`Reg::NONE`].
#[derive(Debug, Clone)]
pub(crate) struct Mma {
    pub n: usize,
    pub m: usize,
    pub k: usize,
    pub a_ty: MmaTy,
    pub b_ty: MmaTy,
    /// Type of C and D.
    pub acc: Ty,
    pub saturate: bool,
    pub d: Vec<Reg>,
    pub a: Vec<Reg>,
    pub b: Vec<Reg>,
    pub c: Vec<Reg>,
}

/// What a barrier instruction does besides arriving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarKind {
    Sync,
    Arrive,
    /// Reduces `pred` over the threads: and/or into a predicate, popc into a register.
    Red {
        mode: VoteMode,
        d: Reg,
        pred: Pred,
    },
}

/// Carry handling of extended-precision integer operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carry {
    pub input: bool,
    pub output: bool,
}

/// A decoded instruction.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Inserted where the order of blocks breaks a fall-through; not counted.
    Jump {
        to: u32,
    },
    Bra {
        to: u32,
    },
    BranchIndexed {
        index: Reg,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    Nop,
    Nanosleep,
    Mov {
        d: Reg,
        a: Reg,
    },
    /// Reads a clock: instructions executed by the warp so far.
    Clock {
        d: Reg,
    },
    Activemask {
        d: Reg,
    },
    Pack {
        d: Reg,
        parts: [Reg; 4],
        part_bits: u32,
    },
    Unpack {
        d: [Reg; 4],
        part_bits: u32,
        a: Reg,
    },
    Int {
        f: IntFn,
        ty: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        e: Reg,
    },
    Carrying {
        f: IntFn,
        ty: Ty,
        carry: Carry,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    MulWide {
        ty: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Count {
        f: CountFn,
        ty: Ty,
        d: Reg,
        a: Reg,
    },
    Prmt {
        mode: u8,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Shf {
        left: bool,
        wrap: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Lop3 {
        lut: u8,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Dp4a {
        signed_a: bool,
        signed_b: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Float {
        f: FloatFn,
        ty: Ty,
        round: Round,
        ftz: bool,
        sat: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Approx {
        f: ApproxFn,
        ty: Ty,
        ftz: bool,
        sat: bool,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    Testp {
        what: TestKind,
        ty: Ty,
        d: Reg,
        a: Reg,
    },
    Cvt {
        to: Ty,
        from: Ty,
        round: Round,
        integral: bool,
        ftz: bool,
        sat: bool,
        relu: bool,
        d: Reg,
        a: Reg,
    },
    CvtPack {
        to: Ty,
        round: Round,
        relu: bool,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    Setp {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
        a: Reg,
        b: Reg,
        d: Reg,
        q: Reg,
        combine: Option<(Bool, Pred)>,
    },
    /// `set`: all ones (or 1.0) where the comparison holds.
    Set {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
        float: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        combine: Option<(Bool, Pred)>,
    },
    Selp {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Pred,
    },
    Slct {
        float: bool,
        ftz: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Logic {
        f: Bool,
        d: Reg,
        a: Pred,
        b: Pred,
    },
    CopyPred {
        d: Reg,
        a: Pred,
    },
    Cvta {
        d: Reg,
        a: Reg,
        delta: u64,
    },
    Isspacep {
        d: Reg,
        a: Reg,
        space: Space,
    },
    Ld {
        space: Space,
        cached: bool,
        bytes: u32,
        signed: bool,
        strong: bool,
        lanes: u32,
        d: [Reg; 4],
        addr: Addr,
    },
    St {
        space: Space,
        bytes: u32,
        strong: bool,
        lanes: u32,
        s: [Reg; 4],
        addr: Addr,
    },
    Atom {
        space: Space,
        f: AtomFn,
        ty: Ty,
        acquire_release: bool,
        d: Reg,
        addr: Addr,
        b: Reg,
        c: Reg,
    },
    CpAsync {
        bytes: u32,
        dst: Addr,
        src: Addr,
        src_bytes: Reg,
        ignore: Option<Pred>,
    },
    CpAsyncCommit,
    CpAsyncWait {
        pending: u32,
        all: bool,
    },
    LdMatrix {
        count: u32,
        transposed: bool,
        d: [Reg; 4],
        addr: Addr,
    },
    StMatrix {
        count: u32,
        transposed: bool,
        s: [Reg; 4],
        addr: Addr,
    },
    Movmatrix {
        d: Reg,
        a: Reg,
    },
    Mma(Box<Mma>),
    Bar {
        id: Reg,
        count: Reg,
        kind: BarKind,
        aligned: bool,
    },
    BarWarp {
        mask: Reg,
    },
    Shfl {
        mode: ShflMode,
        d: Reg,
        p: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        mask: Reg,
    },
    Vote {
        mode: VoteMode,
        d: Reg,
        a: Pred,
        mask: Reg,
    },
    Match {
        all: bool,
        d: Reg,
        p: Reg,
        a: Reg,
        mask: Reg,
    },
    Redux {
        f: AtomFn,
        signed: bool,
        d: Reg,
        a: Reg,
        mask: Reg,
    },
    Fence {
        block_only: bool,
    },
}

/// What `testp` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TestKind {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

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

/// The decoded code of a kernel.
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
    pub local_bytes: u32,
    /// Results depend on the order of blocks even in a correct kernel (atomics that return, float atomics, ...).
    pub ordered: bool,
}
