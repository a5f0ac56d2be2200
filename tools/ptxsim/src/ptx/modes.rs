//! What the modifiers of an opcode select: functions, roundings, comparisons, spaces, modes.

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
    /// Of the own block.
    Shared,
    /// Shared memory of the cluster's blocks.
    Cluster,
    Local,
    Param,
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

/// Carry handling of extended-precision integer operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carry {
    pub input: bool,
    pub output: bool,
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
