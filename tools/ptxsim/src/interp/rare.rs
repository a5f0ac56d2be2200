//! The less frequent instructions.

use super::cluster::Common;
use super::cvt::pack_pair;
use super::int::{self, Operands};
use super::machine::Worker;
use super::scalar::{self, Comparison, Rounding};
use super::warp::Warp;
use crate::memory::{CLUSTER_WINDOW, LOCAL_WINDOW, SHARED_WINDOW, WINDOW};
use crate::ptx::isa::{Inst, Op, Reg, Round, Space};

impl<'m> Worker<'m> {
    /// Executes what `step` leaves over.
    pub(super) fn step_rare(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        inst: &'m Inst,
        active: u32,
    ) {
        let k = &self.m.constants;
        let regs = &mut warp.regs;
        match &inst.op {
            Op::Carrying {
                f,
                ty,
                carry,
                d,
                a,
                b,
                c,
            } => {
                let o = Operands {
                    d: *d,
                    a: *a,
                    b: *b,
                    c: *c,
                };
                int::carrying(regs, k, *f, *ty, *carry, o, active);
            }
            Op::MulWide { ty, d, a, b, c } => {
                let o = Operands {
                    d: *d,
                    a: *a,
                    b: *b,
                    c: *c,
                };
                int::mul_wide(regs, k, *ty, o, active);
            }
            Op::Count { f, ty, d, a } => int::count(regs, k, *f, *ty, *d, *a, active),
            Op::Prmt { mode, d, a, b, c } => {
                int::prmt(
                    regs,
                    k,
                    *mode,
                    Operands {
                        d: *d,
                        a: *a,
                        b: *b,
                        c: *c,
                    },
                    active,
                );
            }
            Op::Shf {
                left,
                wrap,
                d,
                a,
                b,
                c,
            } => {
                int::shf(
                    regs,
                    k,
                    *left,
                    *wrap,
                    Operands {
                        d: *d,
                        a: *a,
                        b: *b,
                        c: *c,
                    },
                    active,
                );
            }
            Op::Lop3 { lut, d, a, b, c } => {
                int::lop3(
                    regs,
                    k,
                    *lut,
                    Operands {
                        d: *d,
                        a: *a,
                        b: *b,
                        c: *c,
                    },
                    active,
                );
            }
            Op::Dp4a {
                signed_a,
                signed_b,
                d,
                a,
                b,
                c,
            } => {
                let o = Operands {
                    d: *d,
                    a: *a,
                    b: *b,
                    c: *c,
                };
                int::dp4a(regs, k, (*signed_a, *signed_b), o, active);
            }
            Op::Approx {
                f,
                ty,
                ftz,
                sat,
                d,
                a,
                b,
            } => {
                let how = Rounding {
                    round: Round::Nearest,
                    ftz: *ftz,
                    sat: *sat,
                };
                let o = Operands {
                    d: *d,
                    a: *a,
                    b: *b,
                    c: Reg::NONE,
                };
                scalar::approx(regs, k, *f, *ty, how, o, active);
            }
            Op::Testp { what, ty, d, a } => scalar::testp(regs, k, *what, *ty, *d, *a, active),
            Op::CvtPack {
                to,
                round,
                relu,
                d,
                a,
                b,
            } => {
                let (a, b) = (*regs.r32(k, *a), *regs.r32(k, *b));
                let out = std::array::from_fn(|i| pack_pair(*to, *round, *relu, a[i], b[i]));
                regs.set32(*d, &out, active);
            }
            Op::Set {
                cmp,
                ty,
                ftz,
                float,
                d,
                a,
                b,
                combine,
            } => {
                let c = Comparison {
                    cmp: *cmp,
                    ty: *ty,
                    ftz: *ftz,
                    a: *a,
                    b: *b,
                    combine: *combine,
                };
                scalar::set(regs, k, c, *float, *d, active);
            }
            Op::Slct {
                float,
                ftz,
                d,
                a,
                b,
                c,
            } => {
                scalar::slct(
                    regs,
                    k,
                    *float,
                    *ftz,
                    Operands {
                        d: *d,
                        a: *a,
                        b: *b,
                        c: *c,
                    },
                    active,
                );
            }
            Op::CopyPred { d, a } => {
                let value = regs.pred(*a);
                regs.set_pred(*d, value, active);
            }
            Op::Pack {
                d,
                parts,
                part_bits,
            } => scalar::pack(regs, k, *d, parts, *part_bits, active),
            Op::Unpack { d, part_bits, a } => scalar::unpack(regs, k, d, *part_bits, *a, active),
            Op::Clock { d } => {
                let now = warp.executed;
                regs.set_any(*d, &[now; 32], active);
            }
            Op::Activemask { d } => regs.set32(*d, &[active; 32], active),
            Op::Cvta { d, a, delta } => {
                let out = regs.r64(k, *a).map(|v| v.wrapping_add(*delta));
                regs.set64(*d, &out, active);
            }
            Op::Isspacep { d, a, space } => {
                let window = |v: u64, from: u64, size: u64| (from..from + size).contains(&v);
                let cluster = |v: u64| window(v, SHARED_WINDOW, CLUSTER_WINDOW);
                let local = |v: u64| window(v, LOCAL_WINDOW, WINDOW);
                let within = |v: u64| match space {
                    Space::Shared => window(v, SHARED_WINDOW, WINDOW),
                    Space::Cluster => cluster(v),
                    Space::Local => local(v),
                    _ => !cluster(v) && !local(v),
                };
                let value = regs.r64(k, *a);
                let out = (0..32).fold(0, |m, i| m | u32::from(within(value[i])) << i);
                regs.set_pred(*d, out, active);
            }
            Op::Atom {
                space,
                f,
                ty,
                release,
                d,
                addr,
                b,
                c,
            } => {
                if *release {
                    self.fence(common, warp, active);
                }
                self.atomic(common, warp, *space, *f, *ty, *d, *addr, [*b, *c], active);
            }
            Op::CpAsync {
                bytes,
                dst,
                src,
                src_bytes,
                ignore,
            } => {
                self.async_copy(
                    common, warp, *bytes, *dst, *src, *src_bytes, *ignore, active,
                );
            }
            Op::CpAsyncCommit => self.commit_copies(warp, active),
            Op::CpAsyncWait { pending, all } => {
                self.wait_copies(common, warp, *pending, *all, active)
            }
            Op::StMatrix {
                count,
                transposed,
                s,
                addr,
            } => {
                self.store_matrix(common, warp, *count, *transposed, s, *addr, active);
            }
            Op::Movmatrix { d, a } => self.move_matrix(warp, *d, *a, active),
            Op::BarWarp { mask } => self.warp_barrier(common, warp, *mask, active),
            Op::Vote { mode, d, a, mask } => self.vote(warp, *mode, *d, *a, *mask, active),
            Op::Match { all, d, p, a, mask } => {
                self.match_lanes(warp, *all, *d, *p, *a, *mask, active)
            }
            Op::Redux {
                f,
                signed,
                d,
                a,
                mask,
            } => self.redux(warp, *f, *signed, *d, *a, *mask, active),
            Op::Fence { block_only } => {
                if let Some(shared) = &mut common.order.shared {
                    shared.clock.fence(warp.number, active, warp.live);
                }
                if self.m.blocks() > 1 && !block_only {
                    common.order.fence(warp.number, active, warp.live);
                }
                if !block_only {
                    self.fence(common, warp, active);
                }
            }
            // Everything else is handled in `step`, or does nothing.
            _ => {}
        }
    }
}
