//! The decoded form that the interpreter runs: registers are dense slots, immediates are slots of a constant
//! pool, labels are instruction indices, and every modifier is checked.

/// A register slot: 32-bit (also holds 8 and 16 bits, zero-extended), 64-bit or predicate bank, or a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reg(u32);

impl Reg {
    /// The `_` destination, and the absent operand.
    pub const NONE: Reg = Reg(u32::MAX);
    const WIDE: u32 = 1 << 31;
    const CONST: u32 = 1 << 30;
    const PRED: u32 = 1 << 29;

    pub fn narrow(index: usize) -> Reg {
        Reg(index as u32)
    }
    pub fn wide(index: usize) -> Reg {
        Reg(index as u32 | Reg::WIDE)
    }
    pub fn constant(index: usize, wide: bool) -> Reg {
        Reg(index as u32 | Reg::CONST | if wide { Reg::WIDE } else { 0 })
    }
    pub fn pred(index: usize) -> Reg {
        Reg(index as u32 | Reg::PRED)
    }
    #[inline]
    pub fn is_none(self) -> bool {
        self == Reg::NONE
    }
    #[inline]
    pub fn is_wide(self) -> bool {
        self.0 & Reg::WIDE != 0
    }
    #[inline]
    pub fn is_const(self) -> bool {
        self.0 & Reg::CONST != 0
    }
    #[inline]
    pub fn is_pred(self) -> bool {
        self.0 & Reg::PRED != 0
    }
    #[inline]
    pub fn index(self) -> usize {
        (self.0 & (Reg::PRED - 1)) as usize
    }
}

/// A predicate operand: slot and whether it is negated. Slot 0 is always true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pred {
    pub index: u16,
    pub negated: bool,
}

impl Pred {
    pub const TRUE: Pred = Pred {
        index: 0,
        negated: false,
    };
}

/// A scalar type of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
}

impl Ty {
    pub fn named(name: &str) -> Option<Ty> {
        Some(match name {
            "pred" => Ty::Pred,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::BF16,
            "bf16x2" => Ty::BF16x2,
            "tf32" => Ty::TF32,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            _ => return None,
        })
    }

    /// Size in bytes; predicates have none.
    pub fn bytes(self) -> u32 {
        match self {
            Ty::Pred => 0,
            Ty::B8 | Ty::U8 | Ty::S8 => 1,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::BF16 => 2,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F16x2 | Ty::BF16x2 | Ty::TF32 | Ty::F32 => 4,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 8,
        }
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn is_float(self) -> bool {
        matches!(
            self,
            Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2 | Ty::TF32 | Ty::F32 | Ty::F64
        )
    }
}

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

/// How an operand takes part, for [`Op::visit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Copied or computed with: an unwritten source makes an unwritten result.
    Source,
    /// Decides an address, a branch or what other threads see: must have been written.
    Observed,
    Destination,
}

impl Op {
    /// Calls `visit` for every operand that is a register (predicates too, constants and absent ones not).
    pub fn visit(&self, mut visit: impl FnMut(Reg, Role)) {
        use Role::{Destination as D, Observed as O, Source as S};
        let mut see = |reg: Reg, role: Role| {
            if !reg.is_none() && !reg.is_const() {
                visit(reg, role);
            }
        };
        let pred = |p: Pred| {
            if p.index == 0 {
                Reg::NONE
            } else {
                Reg::pred(p.index as usize)
            }
        };
        match self {
            Op::Jump { .. } | Op::Bra { .. } | Op::Exit | Op::Trap | Op::Nop | Op::Nanosleep => {}
            Op::CpAsyncCommit | Op::CpAsyncWait { .. } | Op::Fence { .. } => {}
            Op::BranchIndexed { index, .. } => see(*index, O),
            Op::Clock { d } | Op::Activemask { d } => see(*d, D),
            Op::Mov { d, a }
            | Op::Cvta { d, a, .. }
            | Op::Count { d, a, .. }
            | Op::Cvt { d, a, .. } => {
                see(*a, S);
                see(*d, D);
            }
            Op::Testp { d, a, .. } | Op::Isspacep { d, a, .. } => {
                see(*a, S);
                see(*d, D);
            }
            Op::Movmatrix { d, a } => {
                see(*a, O);
                see(*d, D);
            }
            Op::Pack { d, parts, .. } => {
                parts.iter().for_each(|r| see(*r, S));
                see(*d, D);
            }
            Op::Unpack { d, a, .. } => {
                see(*a, S);
                d.iter().for_each(|r| see(*r, D));
            }
            Op::Int { d, a, b, c, e, .. } => {
                [a, b, c, e].into_iter().for_each(|r| see(*r, S));
                see(*d, D);
            }
            Op::Carrying { d, a, b, c, .. }
            | Op::MulWide { d, a, b, c, .. }
            | Op::Prmt { d, a, b, c, .. }
            | Op::Shf { d, a, b, c, .. }
            | Op::Lop3 { d, a, b, c, .. }
            | Op::Dp4a { d, a, b, c, .. }
            | Op::Float { d, a, b, c, .. }
            | Op::Slct { d, a, b, c, .. } => {
                [a, b, c].into_iter().for_each(|r| see(*r, S));
                see(*d, D);
            }
            Op::Approx { d, a, b, .. } | Op::CvtPack { d, a, b, .. } => {
                see(*a, S);
                see(*b, S);
                see(*d, D);
            }
            Op::Setp {
                a,
                b,
                d,
                q,
                combine,
                ..
            } => {
                see(*a, S);
                see(*b, S);
                see(combine.map_or(Reg::NONE, |(_, p)| pred(p)), S);
                see(*d, D);
                see(*q, D);
            }
            Op::Set {
                d, a, b, combine, ..
            } => {
                see(*a, S);
                see(*b, S);
                see(combine.map_or(Reg::NONE, |(_, p)| pred(p)), S);
                see(*d, D);
            }
            // Which of the two is taken matters, so selp gets its own treatment in the interpreter.
            Op::Selp { d, a, b, p } => {
                see(*a, S);
                see(*b, S);
                see(pred(*p), S);
                see(*d, D);
            }
            Op::Logic { d, a, b, .. } => {
                see(pred(*a), S);
                see(pred(*b), S);
                see(*d, D);
            }
            Op::CopyPred { d, a } => {
                see(pred(*a), S);
                see(*d, D);
            }
            Op::Ld { d, addr, .. } | Op::LdMatrix { d, addr, .. } => {
                see(addr.base, O);
                d.iter().for_each(|r| see(*r, D));
            }
            Op::St {
                space: Space::Local,
                s,
                addr,
                ..
            } => {
                see(addr.base, O);
                s.iter().for_each(|r| see(*r, S));
            }
            Op::St { s, addr, .. } | Op::StMatrix { s, addr, .. } => {
                see(addr.base, O);
                s.iter().for_each(|r| see(*r, O));
            }
            Op::Atom { d, addr, b, c, .. } => {
                [addr.base, *b, *c].into_iter().for_each(|r| see(r, O));
                see(*d, D);
            }
            Op::CpAsync {
                dst,
                src,
                src_bytes,
                ignore,
                ..
            } => {
                [dst.base, src.base, *src_bytes]
                    .into_iter()
                    .for_each(|r| see(r, O));
                see(ignore.map_or(Reg::NONE, pred), O);
            }
            Op::Mma(mma) => {
                mma.a
                    .iter()
                    .chain(&mma.b)
                    .chain(&mma.c)
                    .for_each(|r| see(*r, O));
                mma.d.iter().for_each(|r| see(*r, D));
            }
            Op::Bar {
                id, count, kind, ..
            } => {
                see(*id, O);
                see(*count, O);
                if let BarKind::Red { d, pred: p, .. } = kind {
                    see(pred(*p), O);
                    see(*d, D);
                }
            }
            Op::BarWarp { mask } => see(*mask, O),
            Op::Shfl {
                d,
                p,
                a,
                b,
                c,
                mask,
                ..
            } => {
                see(*a, S);
                [b, c, mask].into_iter().for_each(|r| see(*r, O));
                see(*d, D);
                see(*p, D);
            }
            Op::Vote { d, a, mask, .. } => {
                see(pred(*a), O);
                see(*mask, O);
                see(*d, D);
            }
            Op::Match { d, p, a, mask, .. } => {
                see(*a, O);
                see(*mask, O);
                see(*d, D);
                see(*p, D);
            }
            Op::Redux { d, a, mask, .. } => {
                see(*a, O);
                see(*mask, O);
                see(*d, D);
            }
        }
    }

    /// The class under which the counters put it.
    pub fn class(&self) -> &'static str {
        match self {
            Op::Jump { .. } | Op::Bra { .. } | Op::BranchIndexed { .. } | Op::Exit | Op::Trap => {
                "control"
            }
            Op::Nop
            | Op::Nanosleep
            | Op::Clock { .. }
            | Op::Activemask { .. }
            | Op::Fence { .. } => "other",
            Op::Mov { .. }
            | Op::Pack { .. }
            | Op::Unpack { .. }
            | Op::Selp { .. }
            | Op::Slct { .. } => "move",
            Op::Cvta { .. } | Op::Isspacep { .. } | Op::CopyPred { .. } | Op::Movmatrix { .. } => {
                "move"
            }
            Op::Int { .. } | Op::Carrying { .. } | Op::MulWide { .. } | Op::Count { .. } => {
                "integer"
            }
            Op::Prmt { .. } | Op::Shf { .. } | Op::Lop3 { .. } | Op::Dp4a { .. } => "integer",
            Op::Setp { .. } | Op::Set { .. } | Op::Logic { .. } | Op::Testp { .. } => "compare",
            Op::Float { ty: Ty::F64, .. } => "f64",
            Op::Float { ty: Ty::F32, .. } => "f32",
            Op::Float { .. } => "f16",
            Op::Approx { .. } => "special-function",
            Op::Cvt { .. } | Op::CvtPack { .. } => "convert",
            Op::Ld { space, .. } => match space {
                Space::Global => "global-load",
                Space::Shared => "shared-load",
                Space::Local => "local-load",
                Space::Param => "param-load",
                Space::Const => "const-load",
                Space::Generic => "generic-load",
            },
            Op::St { space, .. } => match space {
                Space::Global => "global-store",
                Space::Shared => "shared-store",
                Space::Local => "local-store",
                _ => "generic-store",
            },
            Op::Atom {
                space: Space::Shared,
                ..
            } => "shared-atomic",
            Op::Atom { .. } => "global-atomic",
            Op::CpAsync { .. } | Op::CpAsyncCommit | Op::CpAsyncWait { .. } => "async-copy",
            Op::LdMatrix { .. } => "ldmatrix",
            Op::StMatrix { .. } => "stmatrix",
            Op::Mma(_) => "mma",
            Op::Bar { .. } | Op::BarWarp { .. } => "barrier",
            Op::Shfl { .. } => "shuffle",
            Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } => "vote",
        }
    }

    /// Unit and floating-point operations per active lane (for `mma` per warp, divided by 32).
    pub fn flops(&self) -> Option<(&'static str, u64)> {
        let unit = |ty: Ty| match ty {
            Ty::F64 => "f64",
            Ty::F32 => "f32",
            _ => "f16",
        };
        match self {
            Op::Float { f, ty, .. } => {
                let width = if matches!(ty, Ty::F16x2 | Ty::BF16x2) {
                    2
                } else {
                    1
                };
                let each = match f {
                    FloatFn::Fma | FloatFn::FmaRelu => 2,
                    FloatFn::Add | FloatFn::Sub | FloatFn::Mul => 1,
                    FloatFn::Div | FloatFn::Rcp | FloatFn::Sqrt => 1,
                    _ => return None,
                };
                Some((unit(*ty), each * width))
            }
            Op::Approx { ty, .. } => Some((unit(*ty), 1)),
            Op::Mma(mma) => {
                let unit = match mma.a_ty {
                    MmaTy::F16 | MmaTy::BF16 => "f16-tensor",
                    MmaTy::TF32 => "tf32-tensor",
                    MmaTy::F64 => "f64-tensor",
                    MmaTy::S8 | MmaTy::U8 => return None,
                };
                Some((unit, (2 * mma.m * mma.n * mma.k / 32) as u64))
            }
            _ => None,
        }
    }
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
