//! Registers, predicates and scalar types.

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
