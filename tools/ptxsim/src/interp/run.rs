//! The loop that runs a warp.

use super::access::Transfer;
use super::barrier::arrival;
use super::cluster::{Common, Stop};
use super::cvt::How;
use super::int::{self, Operands};
use super::machine::{Site, Worker};
use super::registers::lanes;
use super::scalar::{self, Comparison, Rounding};
use super::warp::{State, Warp};
use crate::finding::FindingKind;
use crate::ptx::isa::{Bool, Inst, Meta, Op, Pred, Reg, Space};

impl<'m> Worker<'m> {
    /// Runs a warp for `turn` instructions, or until it waits or ends.
    pub fn run_warp(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        turn: u64,
    ) -> Result<(), Stop> {
        let code = self.m.code;
        let limit = if self.m.instruction_limit == 0 {
            u64::MAX
        } else {
            self.m.instruction_limit
        };
        let until = warp.executed.saturating_add(turn);
        warp.gives_way = false;
        while warp.executed < until && warp.state == State::Running && !warp.gives_way {
            // The lanes with the smallest place run; those at the same place join.
            if let Some((key, mask)) = warp.pending.last().copied()
                && warp.key(warp.pc) >= key
            {
                warp.pending.pop();
                let now = warp.key(warp.pc);
                if now == key {
                    warp.mask |= mask;
                } else {
                    let mask_now = std::mem::replace(&mut warp.mask, mask);
                    warp.go(key);
                    warp.put_aside_key(now, mask_now);
                }
                continue;
            }
            let pc = warp.pc as usize;
            let inst = &code.insts[pc];
            if let Op::Jump { to } = inst.op {
                warp.pc = to;
                continue;
            }
            if warp.executed >= limit {
                let Site { pc, thread } = warp.first_site(warp.mask);
                let message =
                    format!("instruction limit: a warp executed {limit} instructions and goes on");
                return Err(Stop {
                    pc,
                    thread,
                    message,
                });
            }
            warp.executed += 1;
            let active = warp.mask & warp.regs.pred(inst.guard);
            let issued = &mut self.issued[pc];
            issued[0] += 1;
            issued[1] += u64::from(active.count_ones());
            if !self.m.check {
                self.step(common, warp, inst, active, active)?;
                continue;
            }
            let meta = &code.meta[pc];
            if code.wgmma && active != 0 {
                self.check_registers(warp, inst, meta);
            }
            let mut ok = active;
            for slot in &meta.sources {
                ok &= warp.regs.is_written(*slot);
            }
            for slot in &meta.observed {
                // A guard is read by all lanes, the rest by those that it lets through.
                let bad = active & !warp.regs.is_written(*slot);
                if bad != 0 {
                    self.unwritten(warp, *slot, bad);
                }
            }
            if inst.guard.index != 0 {
                let slot = (code.narrow + code.wide + usize::from(inst.guard.index)) as u32;
                let bad = warp.mask & !warp.regs.is_written(slot);
                if bad != 0 {
                    self.unwritten(warp, slot, bad);
                }
            }
            let ok = self.step(common, warp, inst, active, ok)?;
            for slot in &meta.destinations {
                let written = &mut warp.regs.written[*slot as usize];
                *written = (*written & !active) | ok;
            }
            if ok != active {
                self.remember_origin(warp, meta, pc as u32, active);
            }
        }
        Ok(())
    }

    /// The result of the instruction at `pc` is not written: keeps where that began.
    #[cold]
    fn remember_origin(&self, warp: &mut Warp, meta: &Meta, pc: u32, active: u32) {
        let origin = match warp.local_origin.take() {
            Some(stored) => stored,
            None => warp.source_origin(meta, pc, active),
        };
        for slot in &meta.destinations {
            // A register that is its own source keeps the older place.
            if !meta.sources.contains(slot) || !warp.origin.contains_key(slot) {
                warp.origin.insert(*slot, origin);
            }
        }
    }

    /// An unwritten value decides something. Reported where it came up first; then it counts as written.
    #[cold]
    pub(super) fn unwritten(&mut self, warp: &mut Warp, slot: u32, lanes_bad: u32) {
        let here = warp.first_site(lanes_bad);
        let origin = warp.origin.get(&slot).copied().unwrap_or(here.pc);
        let code = self.m.code;
        let (kind, what) = match &code.insts[origin as usize].op {
            Op::Shfl { .. } => (
                FindingKind::ShuffleFromInactive,
                "value shuffled from a lane that exited or takes no part",
            ),
            Op::Ld {
                space: Space::Local | Space::Generic,
                ..
            } if origin != here.pc => (
                FindingKind::UnwrittenLocal,
                "value of local memory that nothing wrote",
            ),
            _ => (
                FindingKind::UnwrittenRegister,
                "value of a register that nothing wrote",
            ),
        };
        let site = Site { pc: origin, ..here };
        let used = code.meta[here.pc as usize].line;
        for _ in lanes(lanes_bad) {
            self.report(site, kind, || format!("{what}, used at PTX line {used}"));
        }
        warp.regs.written[slot as usize] |= lanes_bad;
    }

    /// Executes an instruction and moves on. `ok`: the active lanes whose sources were all written. Returns those
    /// whose result counts as written.
    #[inline]
    fn step(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        inst: &'m Inst,
        active: u32,
        ok: u32,
    ) -> Result<u32, Stop> {
        let k = &self.m.constants;
        let mut ok = ok;
        // Branches and exits with no lane fall through like everything else.
        if active == 0 {
            warp.pc += 1;
            return Ok(0);
        }
        match &inst.op {
            Op::Bra { to } => {
                let stay = warp.mask & !active;
                if stay == 0 {
                    warp.pc = *to;
                } else {
                    self.counters.divergent_branches += 1;
                    let next = warp.pc + 1;
                    let (run, wait) = if *to < next {
                        ((*to, active), (next, stay))
                    } else {
                        ((next, stay), (*to, active))
                    };
                    (warp.pc, warp.mask) = run;
                    warp.put_aside(wait.0, wait.1);
                }
                return Ok(ok);
            }
            Op::BranchIndexed { index, targets } => {
                self.branch_indexed(warp, *index, targets, active)?;
                return Ok(ok);
            }
            Op::Call { site } => {
                self.call(warp, *site, active)?;
                return Ok(ok);
            }
            Op::Return => {
                self.give_back(warp, active);
                return Ok(ok);
            }
            Op::Exit => {
                warp.live &= !active;
                warp.mask &= !active;
                if warp.mask != 0 {
                    warp.pc += 1;
                } else if !warp.take_next() {
                    if warp.parked.is_empty() {
                        warp.state = State::Done;
                    } else {
                        self.wait(common, warp);
                    }
                }
                return Ok(ok);
            }
            Op::Trap => {
                let Site { pc, thread } = warp.first_site(active);
                self.report(Site { pc, thread }, FindingKind::Trap, || {
                    "trap was executed".into()
                });
                return Err(Stop {
                    pc,
                    thread,
                    message: "trap was executed".into(),
                });
            }
            Op::Bar {
                id,
                count,
                kind,
                aligned,
            } => {
                let at = arrival(self, warp, [*id, *count], *kind, *aligned, active);
                let site = warp.first_site(active);
                self.arrive(common, warp, at, active)
                    .map_err(|message| Stop {
                        pc: site.pc,
                        thread: site.thread,
                        message,
                    })?;
                return Ok(ok);
            }
            Op::Mov { d, a } => scalar::mov(&mut warp.regs, k, *d, *a, active),
            Op::Int {
                f,
                ty,
                d,
                a,
                b,
                c,
                e,
            } => {
                let o = Operands {
                    d: *d,
                    a: *a,
                    b: *b,
                    c: *c,
                };
                int::int(&mut warp.regs, k, *f, *ty, o, *e, active);
            }
            Op::Float {
                f,
                ty,
                round,
                ftz,
                sat,
                d,
                a,
                b,
                c,
            } => {
                let how = Rounding {
                    round: *round,
                    ftz: *ftz,
                    sat: *sat,
                };
                let o = Operands {
                    d: *d,
                    a: *a,
                    b: *b,
                    c: *c,
                };
                scalar::float(&mut warp.regs, k, *f, *ty, how, o, active);
            }
            Op::Ld {
                space,
                cached,
                bytes,
                signed,
                strong,
                lanes,
                d,
                addr,
            } => {
                let t = Transfer {
                    space: *space,
                    bytes: *bytes,
                    lanes: *lanes as usize,
                    strong: *strong,
                    release: false,
                    cached: *cached,
                    addr: *addr,
                };
                ok = self.load(common, warp, t, *signed, d, active);
            }
            Op::St {
                space,
                bytes,
                strong,
                release,
                lanes,
                s,
                addr,
            } => {
                let t = Transfer {
                    space: *space,
                    bytes: *bytes,
                    lanes: *lanes as usize,
                    strong: *strong,
                    release: *release,
                    cached: false,
                    addr: *addr,
                };
                self.store(common, warp, t, s, active, ok);
            }
            Op::Setp {
                cmp,
                ty,
                ftz,
                a,
                b,
                d,
                q,
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
                scalar::setp(&mut warp.regs, k, c, *d, *q, active);
            }
            Op::Shfl {
                mode,
                d,
                p,
                a,
                b,
                c,
                mask,
            } => {
                ok = self.shuffle(warp, *mode, *d, *p, [*a, *b, *c, *mask], active, ok);
            }
            Op::Selp { d, a, b, p } => {
                ok = self.select(warp, [*d, *a, *b], *p, active);
            }
            Op::Logic { f, d, a, b } => {
                ok = self.pred_op(warp, *f, *d, *a, *b, active);
            }
            Op::Cvt {
                to,
                from,
                round,
                integral,
                ftz,
                sat,
                relu,
                d,
                a,
            } => {
                let how = How {
                    round: *round,
                    integral: *integral,
                    ftz: *ftz,
                    sat: *sat,
                    relu: *relu,
                };
                scalar::convert(&mut warp.regs, k, *to, *from, how, [*d, *a], active);
            }
            Op::Mma(mma) => self.mma(warp, mma, active),
            Op::LdMatrix {
                count,
                transposed,
                d,
                addr,
            } => {
                self.load_matrix(common, warp, *count, *transposed, d, *addr, active);
            }
            Op::Hopper(op) => return self.hopper(common, warp, op, active),
            _ => self.step_rare(common, warp, inst, active),
        }
        warp.pc += 1;
        Ok(ok)
    }

    /// `selp`: only the operand that is taken has to be written.
    fn select(&mut self, warp: &mut Warp, [d, a, b]: [Reg; 3], p: Pred, active: u32) -> u32 {
        let choice = warp.regs.pred(p);
        let code = self.m.code;
        let written = |reg: Reg| {
            if reg.is_const() {
                return !0;
            }
            let base = if reg.is_wide() { code.narrow } else { 0 };
            warp.regs.is_written((base + reg.index()) as u32)
        };
        let decided = warp
            .regs
            .is_written((code.narrow + code.wide + usize::from(p.index)) as u32);
        let ok = active & decided & ((choice & written(a)) | (!choice & written(b)));
        scalar::selp(&mut warp.regs, &self.m.constants, d, a, b, choice, active);
        ok
    }

    /// Logic on predicates: one written operand can decide alone.
    fn pred_op(&mut self, warp: &mut Warp, f: Bool, d: Reg, a: Pred, b: Pred, active: u32) -> u32 {
        let base = self.m.code.narrow + self.m.code.wide;
        let written = |p: Pred| warp.regs.is_written((base + usize::from(p.index)) as u32);
        let (va, vb) = (warp.regs.pred(a), warp.regs.pred(b));
        let (wa, wb) = (written(a), written(b));
        let decided = match f {
            Bool::And => (wa & !va) | (wb & !vb),
            Bool::Or => (wa & va) | (wb & vb),
            Bool::Xor => 0,
        };
        warp.regs.set_pred(d, scalar::boolean(f, va, vb), active);
        active & (decided | (wa & wb))
    }

    fn branch_indexed(
        &mut self,
        warp: &mut Warp,
        index: Reg,
        targets: &[u32],
        active: u32,
    ) -> Result<(), Stop> {
        let index = *warp.regs.r32(&self.m.constants, index);
        let stay = warp.mask & !active;
        let mut groups: Vec<(u32, u32)> = Vec::new();
        if stay != 0 {
            groups.push((warp.pc + 1, stay));
        }
        for lane in lanes(active) {
            let Some(to) = targets.get(index[lane] as usize) else {
                let Site { pc, thread } = warp.site(lane);
                let message = format!(
                    "brx.idx with index {} of {} targets",
                    index[lane],
                    targets.len()
                );
                return Err(Stop {
                    pc,
                    thread,
                    message,
                });
            };
            match groups.iter_mut().find(|(pc, _)| pc == to) {
                Some((_, mask)) => *mask |= 1 << lane,
                None => groups.push((*to, 1 << lane)),
            }
        }
        self.counters.divergent_branches += u64::from(groups.len() > 1);
        groups
            .into_iter()
            .for_each(|(pc, mask)| warp.put_aside(pc, mask));
        warp.take_next();
        Ok(())
    }
}
