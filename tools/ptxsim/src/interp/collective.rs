//! Warp-wide exchange: shuffles, votes, matches, reductions, warp barriers.

use super::cluster::Common;
use super::machine::Worker;
use super::registers::{Lanes32, lanes};
use super::warp::Warp;
use crate::finding::FindingKind;
use crate::ptx::isa::{AtomFn, Pred, Reg, ShflMode, VoteMode};

impl Worker<'_> {
    /// Checks that the lanes which a `.sync` instruction's masks name are here, and that each lane names itself.
    pub fn check_members(&mut self, warp: &Warp, active: u32, members: &Lanes32, what: &str) {
        if !self.m.check {
            return;
        }
        for lane in lanes(active) {
            let member = members[lane];
            let missing = member & warp.live & !active;
            if member >> lane & 1 == 0 {
                self.report(warp.site(lane), FindingKind::WrongMask, || {
                    format!("{what} by lane {lane}, which its mask {member:#010x} does not name")
                });
            }
            if missing != 0 {
                self.report(warp.site(lane), FindingKind::WarpDivergence, || {
                    format!("{what} with mask {member:#010x} in divergent code: lanes {missing:#010x} are elsewhere")
                });
                // One report per instruction is enough: the lanes share it.
                return;
            }
        }
    }

    /// Checks that all 32 lanes take part in an `.aligned` instruction on matrices.
    pub fn check_full(&mut self, warp: &Warp, active: u32, what: &str) {
        if self.m.check && active != !0 {
            self.report(warp.first_site(active), FindingKind::WarpDivergence, || {
                format!("{what} with lanes {active:#010x} only; all 32 must take part")
            });
        }
    }

    /// `shfl.sync`; returns the lanes whose result came from a lane that takes part and had a value.
    #[allow(clippy::too_many_arguments)]
    pub fn shuffle(
        &mut self,
        warp: &mut Warp,
        mode: ShflMode,
        d: Reg,
        p: Reg,
        [a, b, c, mask]: [Reg; 4],
        active: u32,
        written: u32,
    ) -> u32 {
        let k = &self.m.constants;
        let (a, b) = (*warp.regs.r32(k, a), *warp.regs.r32(k, b));
        let (c, members) = (*warp.regs.r32(k, c), *warp.regs.r32(k, mask));
        self.check_members(warp, active, &members, "shuffle");
        let mut out = [0; 32];
        let (mut in_range, mut ok) = (0u32, 0u32);
        for lane in 0..32u32 {
            let i = lane as usize;
            let (by, clamp, segment) = (b[i] & 31, c[i] & 31, c[i] >> 8 & 31);
            let most = (lane & segment) | (clamp & !segment);
            let least = lane & segment;
            let (from, inside) = match mode {
                ShflMode::Up => (
                    lane.wrapping_sub(by),
                    (lane as i32 - by as i32) >= most as i32,
                ),
                ShflMode::Down => (lane + by, lane + by <= most),
                ShflMode::Bfly => (lane ^ by, lane ^ by <= most),
                ShflMode::Idx => (least | (by & !segment), least | (by & !segment) <= most),
            };
            let from = if inside { from } else { lane };
            out[i] = a[from as usize];
            in_range |= u32::from(inside) << lane;
            let valid = active & members[i] & written;
            ok |= (valid >> from & 1) << lane;
        }
        warp.regs.set32(d, &out, active);
        warp.regs.set_pred(p, in_range, active);
        ok & active
    }

    /// `vote.sync`.
    pub fn vote(
        &mut self,
        warp: &mut Warp,
        mode: VoteMode,
        d: Reg,
        a: Pred,
        mask: Reg,
        active: u32,
    ) {
        let members = *warp.regs.r32(&self.m.constants, mask);
        self.check_members(warp, active, &members, "vote");
        let votes = warp.regs.pred(a);
        let (mut ballot, mut verdict) = ([0; 32], 0);
        for lane in lanes(active) {
            let group = members[lane] & active;
            let yes = votes & group;
            ballot[lane] = yes;
            let holds = match mode {
                VoteMode::All => yes == group,
                VoteMode::Any => yes != 0,
                _ => yes == group || yes == 0,
            };
            verdict |= u32::from(holds) << lane;
        }
        if mode == VoteMode::Ballot {
            warp.regs.set32(d, &ballot, active);
        } else {
            warp.regs.set_pred(d, verdict, active);
        }
    }

    /// `match.any.sync` and `match.all.sync`.
    #[allow(clippy::too_many_arguments)]
    pub fn match_lanes(
        &mut self,
        warp: &mut Warp,
        all: bool,
        d: Reg,
        p: Reg,
        a: Reg,
        mask: Reg,
        active: u32,
    ) {
        let members = *warp.regs.r32(&self.m.constants, mask);
        self.check_members(warp, active, &members, "match");
        let values = warp.regs.any(&self.m.constants, a);
        let (mut out, mut same) = ([0; 32], 0u32);
        for lane in lanes(active) {
            let group = members[lane] & active;
            let equal = lanes(group)
                .filter(|l| values[*l] == values[lane])
                .fold(0, |m, l| m | 1 << l);
            out[lane] = if !all || equal == group { equal } else { 0 };
            same |= u32::from(equal == group) << lane;
        }
        warp.regs.set32(d, &out, active);
        warp.regs.set_pred(p, same, active);
    }

    /// `redux.sync`.
    #[allow(clippy::too_many_arguments)]
    pub fn redux(
        &mut self,
        warp: &mut Warp,
        f: AtomFn,
        signed: bool,
        d: Reg,
        a: Reg,
        mask: Reg,
        active: u32,
    ) {
        let members = *warp.regs.r32(&self.m.constants, mask);
        self.check_members(warp, active, &members, "redux");
        let values = *warp.regs.r32(&self.m.constants, a);
        let mut out = [0; 32];
        for lane in lanes(active) {
            let group = lanes(members[lane] & active).map(|l| values[l]);
            out[lane] = group
                .reduce(|x, y| match f {
                    AtomFn::Min if signed => (x as i32).min(y as i32) as u32,
                    AtomFn::Max if signed => (x as i32).max(y as i32) as u32,
                    AtomFn::Min => x.min(y),
                    AtomFn::Max => x.max(y),
                    AtomFn::And => x & y,
                    AtomFn::Or => x | y,
                    AtomFn::Xor => x ^ y,
                    _ => x.wrapping_add(y),
                })
                .unwrap_or(0);
        }
        warp.regs.set32(d, &out, active);
    }

    /// `bar.warp.sync`: orders the lanes' memory accesses.
    pub fn warp_barrier(&mut self, common: &mut Common, warp: &mut Warp, mask: Reg, active: u32) {
        let members = *warp.regs.r32(&self.m.constants, mask);
        self.check_members(warp, active, &members, "__syncwarp");
        warp.interval += 1;
        common.order.meet(warp.number);
    }
}
