//! A warp's register file: one array of 32 lanes per register.

use crate::ptx::isa::{Addr, Code, Pred, Reg};

pub(crate) type Lanes32 = [u32; 32];
pub(crate) type Lanes64 = [u64; 32];

/// Iterates over the set bits of a lane mask.
#[inline]
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        (rest != 0).then(|| {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            lane
        })
    })
}

/// A launch's constants, spread over lanes once.
#[derive(Debug, Default)]
pub(crate) struct Constants {
    pub narrow: Vec<Lanes32>,
    pub wide: Vec<Lanes64>,
}

/// What some registers held, and which lanes of them were written.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    values: Vec<Lanes64>,
    written: Vec<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Registers {
    narrow: Vec<Lanes32>,
    wide: Vec<Lanes64>,
    preds: Vec<u32>,
    /// Which lanes of each register something wrote: 32-bit, 64-bit, predicates.
    pub written: Vec<u32>,
}

impl Registers {
    /// All registers unwritten, for a new warp.
    pub fn reset(&mut self, code: &Code) {
        self.narrow.clear();
        self.narrow.resize(code.narrow, [0; 32]);
        self.wide.clear();
        self.wide.resize(code.wide, [0; 32]);
        self.preds.clear();
        self.preds.resize(code.preds, 0);
        self.preds[0] = !0;
        self.written.clear();
        self.written.resize(code.narrow + code.wide + code.preds, 0);
        self.written[code.narrow + code.wide..][..2].fill(!0);
    }

    /// Sets a register that has its value from the warp's start on.
    pub fn preset(&mut self, slot: usize, value: Lanes32) {
        self.narrow[slot] = value;
        self.written[slot] = !0;
    }

    #[inline]
    pub fn r32<'a>(&'a self, k: &'a Constants, reg: Reg) -> &'a Lanes32 {
        if reg.is_const() {
            &k.narrow[reg.index()]
        } else {
            &self.narrow[reg.index()]
        }
    }

    #[inline]
    pub fn r64<'a>(&'a self, k: &'a Constants, reg: Reg) -> &'a Lanes64 {
        if reg.is_const() {
            &k.wide[reg.index()]
        } else {
            &self.wide[reg.index()]
        }
    }

    /// A register of either bank, zero-extended.
    #[inline]
    pub fn any(&self, k: &Constants, reg: Reg) -> Lanes64 {
        if reg.is_wide() {
            *self.r64(k, reg)
        } else {
            self.r32(k, reg).map(u64::from)
        }
    }

    #[inline]
    pub fn pred(&self, pred: Pred) -> u32 {
        let value = self.preds[usize::from(pred.index)];
        if pred.negated { !value } else { value }
    }

    #[inline]
    pub fn set32(&mut self, reg: Reg, value: &Lanes32, mask: u32) {
        if reg.is_none() {
            return;
        }
        let slot = &mut self.narrow[reg.index()];
        if mask == !0 {
            *slot = *value;
        } else {
            for lane in 0..32 {
                let keep = (mask >> lane & 1).wrapping_sub(1);
                slot[lane] = (slot[lane] & keep) | (value[lane] & !keep);
            }
        }
    }

    #[inline]
    pub fn set64(&mut self, reg: Reg, value: &Lanes64, mask: u32) {
        if reg.is_none() {
            return;
        }
        let slot = &mut self.wide[reg.index()];
        if mask == !0 {
            *slot = *value;
        } else {
            for lane in 0..32 {
                let keep = u64::from(mask >> lane & 1).wrapping_sub(1);
                slot[lane] = (slot[lane] & keep) | (value[lane] & !keep);
            }
        }
    }

    /// Sets a register of either bank from 64-bit values.
    #[inline]
    pub fn set_any(&mut self, reg: Reg, value: &Lanes64, mask: u32) {
        if reg.is_none() {
        } else if reg.is_wide() {
            self.set64(reg, value, mask);
        } else {
            self.set32(reg, &value.map(|v| v as u32), mask);
        }
    }

    /// Sets the lanes of a predicate.
    #[inline]
    pub fn set_pred(&mut self, reg: Reg, value: u32, mask: u32) {
        if !reg.is_none() {
            let slot = &mut self.preds[reg.index()];
            *slot = (*slot & !mask) | (value & mask);
        }
    }

    /// The addresses of a memory operand.
    #[inline]
    pub fn addresses(&self, k: &Constants, addr: Addr) -> Lanes64 {
        let mut list = self.any(k, addr.base);
        if addr.offset != 0 {
            list.iter_mut()
                .for_each(|a| *a = a.wrapping_add(addr.offset as u64));
        }
        list
    }

    fn slot(code: &Code, reg: Reg) -> usize {
        let bank = if reg.is_pred() {
            code.narrow + code.wide
        } else if reg.is_wide() {
            code.narrow
        } else {
            0
        };
        bank + reg.index()
    }

    /// Copies registers of a function.
    pub fn save(&self, code: &Code, list: &[Reg]) -> Saved {
        let value = |reg: &Reg| {
            if reg.is_pred() {
                let bits = self.preds[reg.index()];
                std::array::from_fn(|lane| u64::from(bits >> lane & 1))
            } else if reg.is_wide() {
                self.wide[reg.index()]
            } else {
                self.narrow[reg.index()].map(u64::from)
            }
        };
        Saved {
            values: list.iter().map(value).collect(),
            written: list
                .iter()
                .map(|reg| self.written[Registers::slot(code, *reg)])
                .collect(),
        }
    }

    /// Puts lanes of registers back.
    pub fn restore(&mut self, code: &Code, list: &[Reg], saved: &Saved, mask: u32) {
        for ((reg, value), was) in list.iter().zip(&saved.values).zip(&saved.written) {
            if reg.is_pred() {
                let bits = (0..32).fold(0, |all, lane| all | (value[lane] as u32 & 1) << lane);
                self.set_pred(*reg, bits, mask);
            } else {
                self.set_any(*reg, value, mask);
            }
            let written = &mut self.written[Registers::slot(code, *reg)];
            *written = (*written & !mask) | (was & mask);
        }
    }

    /// Lanes of registers count as never written.
    pub fn forget(&mut self, code: &Code, list: &[Reg], mask: u32) {
        for reg in list {
            self.written[Registers::slot(code, *reg)] &= !mask;
        }
    }

    /// Sets lanes of a 64-bit register and marks them as written.
    pub fn set_written(&mut self, code: &Code, reg: Reg, value: u64, mask: u32) {
        self.set64(reg, &[value; 32], mask);
        self.written[Registers::slot(code, reg)] |= mask;
    }

    /// Whether, per lane, the register was written.
    pub fn is_written(&self, slot: u32) -> u32 {
        self.written[slot as usize]
    }
}
