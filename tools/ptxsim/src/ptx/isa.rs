//! The decoded form that the interpreter runs: registers are dense slots, immediates are slots of a constant
//! pool, labels are instruction indices, and every modifier is checked.

pub(crate) use super::code::{CallSite, Code, Inst, Meta, Move, Routine, SharedVar, Special};
pub(crate) use super::hopper::{BulkLoad, Hopper};
pub(crate) use super::modes::{
    ApproxFn, AtomFn, Bool, Carry, Cmp, CountFn, FloatFn, IntFn, MmaTy, Round, ShflMode, Space,
    TestKind, VoteMode,
};
pub(crate) use super::types::{Pred, Reg, Ty};
pub(crate) use super::wgmma::{Factor, Wgmma};

/// Base register (or constant) plus an offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addr {
    pub base: Reg,
    pub offset: i64,
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
    /// Calls a function; what goes where stands in [`Code::calls`].
    Call {
        site: u32,
    },
    /// Returns from a function.
    Return,
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
        /// Orders what is before it for the whole device.
        release: bool,
        lanes: u32,
        s: [Reg; 4],
        addr: Addr,
    },
    Atom {
        space: Space,
        f: AtomFn,
        ty: Ty,
        /// Orders what is before it for the whole device.
        release: bool,
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
    /// What came with compute capability 9.0.
    Hopper(Box<Hopper>),
}
