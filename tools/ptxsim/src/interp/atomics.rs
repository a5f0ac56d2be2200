//! Atomics on shared and global memory.

use super::cluster::Common;
use super::float::{f32_op, f64_op, flush, small_op};
use super::global::GlobalAccess;
use super::machine::Worker;
use super::registers::lanes;
use super::warp::Warp;
use crate::finding::Access;
use crate::memory::{CLUSTER_WINDOW, SHARED_WINDOW};
use crate::ptx::isa::{Addr, AtomFn, FloatFn, Reg, Round, Space, Ty};

/// What is in memory after an atomic.
fn apply(f: AtomFn, ty: Ty, global: bool, old: u64, b: u64, c: u64) -> u64 {
    let narrow = |x: u64| x as u32;
    match f {
        AtomFn::Add => match ty {
            Ty::F32 => {
                // On global memory f32 atomics flush subnormals; on shared memory they do not.
                let sum = f32_op(
                    FloatFn::Add,
                    Round::Nearest,
                    global,
                    false,
                    narrow(old),
                    narrow(b),
                    0,
                );
                u64::from(if global { flush(sum) } else { sum })
            }
            Ty::F64 => f64_op(FloatFn::Add, Round::Nearest, old, b, 0),
            Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2 => u64::from(small_op(
                FloatFn::Add,
                ty,
                false,
                false,
                narrow(old),
                narrow(b),
                0,
            )),
            Ty::U64 => old.wrapping_add(b),
            _ => u64::from(narrow(old).wrapping_add(narrow(b))),
        },
        AtomFn::Min | AtomFn::Max => {
            let less = match ty {
                Ty::S32 => (narrow(old) as i32) < narrow(b) as i32,
                Ty::S64 => (old as i64) < b as i64,
                _ => old < b,
            };
            if less == (f == AtomFn::Min) { old } else { b }
        }
        AtomFn::And => old & b,
        AtomFn::Or => old | b,
        AtomFn::Xor => old ^ b,
        AtomFn::Exch => b,
        AtomFn::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomFn::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomFn::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}

impl Worker<'_> {
    /// Executes `atom` or `red`; the lanes go one after the other.
    #[allow(clippy::too_many_arguments)]
    pub fn atomic(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        space: Space,
        f: AtomFn,
        ty: Ty,
        d: Reg,
        addr: Addr,
        [b, c]: [Reg; 2],
        mask: u32,
    ) {
        let m = self.m;
        let addresses = warp.regs.addresses(&m.constants, addr);
        let b = warp.regs.any(&m.constants, b);
        let c = if c.is_none() {
            [0; 32]
        } else {
            warp.regs.any(&m.constants, c)
        };
        let bytes = ty.bytes();
        let limit = if bytes == 8 {
            u64::MAX
        } else {
            (1 << (8 * bytes)) - 1
        };
        let mut out = [0u64; 32];
        for lane in lanes(mask) {
            let mut address = addresses[lane];
            let (b, c) = (b[lane] & limit, c[lane] & limit);
            let window = (SHARED_WINDOW..SHARED_WINDOW + CLUSTER_WINDOW).contains(&address);
            let shared = matches!(space, Space::Shared | Space::Cluster)
                || (space == Space::Generic && window);
            if shared && space == Space::Generic {
                address -= SHARED_WINDOW;
            }
            if self.misaligned(warp, lane, address, bytes, Access::Atomic) {
                continue;
            }
            if shared {
                self.counters.shared_atomics += 1;
                let address = warp.shared(address, space != Space::Shared);
                if !self.has_shared(common, warp, lane, address, bytes, Access::Atomic) {
                    continue;
                }
                let part = bytes.min(4);
                let mut old = u64::from(common.shared.get(address, part));
                if bytes == 8 {
                    old |= u64::from(common.shared.get(address + 4, 4)) << 32;
                }
                if m.check && !common.shared.was_written(address, part) {
                    let fault = super::shared::SharedFault::Unwritten;
                    self.shared_fault(warp, lane, address, Access::Atomic, fault);
                }
                let new = apply(f, ty, false, old, b, c);
                for half in 0..bytes.div_ceil(4) {
                    let word = (new >> (32 * half)) as u32;
                    self.shared_write(
                        common,
                        warp,
                        lane,
                        address + 4 * u64::from(half),
                        part,
                        word,
                        true,
                    );
                }
                if !d.is_none()
                    && let Some(clock) = &mut common.order.shared
                {
                    clock.take_up(warp.number, address);
                }
                out[lane] = old;
            } else {
                self.counters.global_atomics += 1;
                let Some(allocation) = self.locate(address, u64::from(bytes)) else {
                    self.out_of_bounds(warp, lane, address, bytes, Access::Atomic);
                    continue;
                };
                let access = GlobalAccess {
                    allocation,
                    address,
                    bytes: bytes.min(4),
                    who: warp.actor(lane),
                    order: &common.order,
                    site: warp.site(lane),
                    strong: false,
                };
                out[lane] =
                    self.global_atomic(access, bytes == 8, |old| apply(f, ty, true, old, b, c));
                if !d.is_none() {
                    self.take_up(common, warp, address);
                }
                self.leave(common, warp, address);
            }
        }
        warp.regs.set_any(d, &out, mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inc_and_dec_wrap_at_the_bound() {
        assert_eq!(apply(AtomFn::Inc, Ty::U32, true, 4, 5, 0), 5);
        assert_eq!(apply(AtomFn::Inc, Ty::U32, true, 5, 5, 0), 0);
        assert_eq!(apply(AtomFn::Dec, Ty::U32, true, 0, 5, 0), 5);
        assert_eq!(apply(AtomFn::Dec, Ty::U32, true, 9, 5, 0), 5);
        assert_eq!(apply(AtomFn::Dec, Ty::U32, true, 3, 5, 0), 2);
    }

    #[test]
    fn minimum_respects_the_sign() {
        let minus_one = u64::from(u32::MAX);
        assert_eq!(
            apply(AtomFn::Min, Ty::S32, true, 1, minus_one, 0),
            minus_one
        );
        assert_eq!(apply(AtomFn::Min, Ty::U32, true, 1, minus_one, 0), 1);
        assert_eq!(apply(AtomFn::Cas, Ty::B32, true, 7, 7, 9), 9);
        assert_eq!(apply(AtomFn::Cas, Ty::B32, true, 8, 7, 9), 8);
    }

    #[test]
    fn only_global_f32_adds_flush() {
        assert_eq!(apply(AtomFn::Add, Ty::F32, true, 1, 1, 0), 0);
        assert_eq!(apply(AtomFn::Add, Ty::F32, false, 1, 1, 0), 2);
    }
}
