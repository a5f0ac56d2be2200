//! `ldmatrix`, `stmatrix`, `movmatrix` and `mma.sync`.
//!
//! Fragments: with `group = lane / 4`, `slot = lane % 4` and `e` elements per register, register `r` of A holds row
//! `group + 8 * (r % 2)`, columns `e * slot + 4 * e * (r / 2)` and on; register `r` of B holds rows
//! `e * slot + 4 * e * r` and on of column `group`; C and D hold columns `2 * slot` and the next, of rows `group`
//! and `group + 8`.

use super::cluster::Common;
use super::float::canonical;
use super::machine::Worker;
use super::registers::{Lanes32, Lanes64, lanes};
use super::soft;
use super::warp::Warp;
use crate::finding::Access;
use crate::ptx::isa::{Addr, Mma, MmaTy, Reg, Round, Ty};

impl Worker<'_> {
    /// Rows of 16 bytes at the addresses of lanes `8 * j` and on make matrix `j`.
    #[allow(clippy::too_many_arguments)]
    pub fn load_matrix(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        count: u32,
        transposed: bool,
        d: &[Reg; 4],
        addr: Addr,
        mask: u32,
    ) {
        self.check_full(warp, mask, "ldmatrix");
        let addresses = warp.regs.addresses(&self.m.constants, addr);
        let used = mask & (!0 >> (32 - 8 * count));
        self.count_ldmatrix(&addresses, used);
        let mut rows = [[0u16; 8]; 32];
        for lane in lanes(used) {
            let address = addresses[lane];
            if self.misaligned(warp, lane, address, 16, Access::Read) {
                continue;
            }
            let address = warp.shared(address, false);
            if !self.has_shared(common, warp, lane, address, 16, Access::Read) {
                continue;
            }
            for i in 0..4 {
                let at = address + 4 * i as u64;
                let word = common.shared.get(at, 4);
                rows[lane][2 * i] = word as u16;
                rows[lane][2 * i + 1] = (word >> 16) as u16;
                if self.m.check {
                    let fault =
                        common
                            .shared
                            .note_read(at, 4, warp.actor(lane), &common.order, false);
                    if let Some(fault) = fault {
                        self.shared_fault(warp, lane, at, Access::Read, fault);
                    }
                }
            }
        }
        for (matrix, reg) in d.iter().enumerate().take(count as usize) {
            let row = |r: usize| &rows[8 * matrix + r];
            let value: Lanes32 = std::array::from_fn(|lane| {
                let (group, slot) = (lane / 4, 2 * (lane % 4));
                let (low, high) = if transposed {
                    (row(slot)[group], row(slot + 1)[group])
                } else {
                    (row(group)[slot], row(group)[slot + 1])
                };
                u32::from(high) << 16 | u32::from(low)
            });
            warp.regs.set32(*reg, &value, mask);
        }
    }

    /// The inverse of [`Worker::load_matrix`].
    #[allow(clippy::too_many_arguments)]
    pub fn store_matrix(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        count: u32,
        transposed: bool,
        s: &[Reg; 4],
        addr: Addr,
        mask: u32,
    ) {
        self.check_full(warp, mask, "stmatrix");
        let addresses = warp.regs.addresses(&self.m.constants, addr);
        let used = mask & (!0 >> (32 - 8 * count));
        self.count_ldmatrix(&addresses, used);
        let mut rows = [[0u16; 8]; 32];
        for (matrix, reg) in s.iter().enumerate().take(count as usize) {
            let value = *warp.regs.r32(&self.m.constants, *reg);
            for (lane, word) in value.iter().enumerate() {
                let (group, slot) = (lane / 4, 2 * (lane % 4));
                for (half, bits) in [(0, *word as u16), (1, (*word >> 16) as u16)] {
                    let (r, c) = if transposed {
                        (slot + half, group)
                    } else {
                        (group, slot + half)
                    };
                    rows[8 * matrix + r][c] = bits;
                }
            }
        }
        for lane in lanes(used) {
            let address = addresses[lane];
            if self.misaligned(warp, lane, address, 16, Access::Write) {
                continue;
            }
            let address = warp.shared(address, false);
            if !self.has_shared(common, warp, lane, address, 16, Access::Write) {
                continue;
            }
            for i in 0..4 {
                let word = u32::from(rows[lane][2 * i + 1]) << 16 | u32::from(rows[lane][2 * i]);
                self.shared_write(common, warp, lane, address + 4 * i as u64, 4, word, false);
            }
        }
    }

    /// `movmatrix`: transposes an 8x8 matrix spread over the warp.
    pub fn move_matrix(&mut self, warp: &mut Warp, d: Reg, a: Reg, mask: u32) {
        self.check_full(warp, mask, "movmatrix");
        let value = *warp.regs.r32(&self.m.constants, a);
        let element =
            |row: usize, column: usize| value[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
        let out: Lanes32 = std::array::from_fn(|lane| {
            let (group, slot) = (lane / 4, 2 * (lane % 4));
            element(slot + 1, group) << 16 | element(slot, group)
        });
        warp.regs.set32(d, &out, mask);
    }

    /// `mma.sync`.
    pub fn mma(&mut self, warp: &mut Warp, mma: &Mma, mask: u32) {
        self.check_full(warp, mask, "mma");
        let k = &self.m.constants;
        let fragment = |regs: &[Reg]| -> Vec<Lanes64> {
            regs.iter().map(|reg| warp.regs.any(k, *reg)).collect()
        };
        let (a, b, c) = (fragment(&mma.a), fragment(&mma.b), fragment(&mma.c));
        let out = multiply(mma, &a, &b, &c);
        for (reg, value) in mma.d.iter().zip(&out) {
            warp.regs.set_any(*reg, value, mask);
        }
    }
}

/// Element `i` of a register of a fragment, exactly.
fn element(ty: MmaTy, bits: u64, i: usize) -> f64 {
    let half = (bits >> (16 * i)) & 0xffff;
    match ty {
        MmaTy::F16 => f64::from_bits(soft::convert(half, soft::F16, soft::F64, Round::Nearest)),
        MmaTy::BF16 => f64::from(f32::from_bits((half as u32) << 16)),
        // The unit does not see the lowest 13 bits.
        MmaTy::TF32 => f64::from(f32::from_bits(bits as u32 & 0xffff_e000)),
        MmaTy::F64 => f64::from_bits(bits),
        MmaTy::S8 => f64::from((bits >> (8 * i)) as i8),
        MmaTy::U8 => f64::from((bits >> (8 * i)) as u8),
    }
}

/// D = A B + C. Products are exact; the sum is formed in f64 and rounded once to the type of D (in f64 form by fma).
fn multiply(mma: &Mma, a: &[Lanes64], b: &[Lanes64], c: &[Lanes64]) -> Vec<Lanes64> {
    let e = match mma.a_ty {
        MmaTy::F16 | MmaTy::BF16 => 2,
        MmaTy::TF32 | MmaTy::F64 => 1,
        MmaTy::S8 | MmaTy::U8 => 4,
    };
    let mut left = [[0f64; 32]; 16];
    let mut right = [[0f64; 8]; 32];
    for lane in 0..32 {
        let (group, slot) = (lane / 4, lane % 4);
        for (r, reg) in a.iter().enumerate() {
            for i in 0..e {
                left[group + 8 * (r % 2)][e * slot + i + 4 * e * (r / 2)] =
                    element(mma.a_ty, reg[lane], i);
            }
        }
        for (r, reg) in b.iter().enumerate() {
            for i in 0..e {
                right[e * slot + i + 4 * e * r][group] = element(mma.b_ty, reg[lane], i);
            }
        }
    }
    let mut sums = [[0f64; 8]; 16];
    if mma.acc != Ty::F64 {
        for (sum, row) in sums.iter_mut().zip(&left).take(mma.m) {
            for (x, column) in row.iter().zip(&right).take(mma.k) {
                for n in 0..8 {
                    sum[n] += x * column[n];
                }
            }
        }
    }
    let mut out = vec![[0u64; 32]; mma.d.len()];
    for lane in 0..32 {
        let (group, slot) = (lane / 4, lane % 4);
        for (r, reg) in out.iter_mut().enumerate() {
            if mma.acc == Ty::F16 {
                let row = group + 8 * r;
                for half in 0..2 {
                    let old = c[r][lane] >> (16 * half) & 0xffff;
                    let old =
                        f64::from_bits(soft::convert(old, soft::F16, soft::F64, Round::Nearest));
                    let sum = sums[row][2 * slot + half] + old;
                    reg[lane] |= soft::convert(sum.to_bits(), soft::F64, soft::F16, Round::Nearest)
                        << (16 * half);
                }
                continue;
            }
            let (row, column) = (group + 8 * (r / 2), 2 * slot + r % 2);
            let old = c[r][lane];
            reg[lane] = match mma.acc {
                Ty::F32 => {
                    let sum = sums[row][column] + f64::from(f32::from_bits(old as u32));
                    u64::from(canonical(sum as f32))
                }
                Ty::F64 => {
                    let products = left[row].iter().zip(&right).take(mma.k);
                    products
                        .fold(f64::from_bits(old), |sum, (x, y)| x.mul_add(y[column], sum))
                        .to_bits()
                }
                // Whole numbers below 2^53: exact.
                _ => {
                    let sum = sums[row][column] as i64 + i64::from(old as i32);
                    let wrapped = sum as i32;
                    let clamped = sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
                    u64::from((if mma.saturate { clamped } else { wrapped }) as u32)
                }
            };
        }
    }
    out
}
