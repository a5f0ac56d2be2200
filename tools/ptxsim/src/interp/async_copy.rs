//! `cp.async`: the source is read at once, the destination written when the copy is waited for, so that a missing
//! wait shows.

use super::cluster::Common;
use super::global::GlobalAccess;
use super::machine::Worker;
use super::registers::lanes;
use super::shared::SharedFault;
use super::warp::{Copies, Copy, Warp};
use crate::finding::Access;
use crate::ptx::isa::{Addr, Pred, Reg};

impl Worker<'_> {
    /// Issues one copy per lane.
    #[allow(clippy::too_many_arguments)]
    pub fn async_copy(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        bytes: u32,
        dst: Addr,
        src: Addr,
        src_bytes: Reg,
        ignore: Option<Pred>,
        mask: u32,
    ) {
        let m = self.m;
        let to = warp.regs.addresses(&m.constants, dst);
        let from = warp.regs.addresses(&m.constants, src);
        let lengths = if src_bytes.is_none() {
            [bytes; 32]
        } else {
            *warp.regs.r32(&m.constants, src_bytes)
        };
        let ignored = ignore.map_or(0, |p| warp.regs.pred(p));
        let wanted = |lane: usize| {
            if ignored >> lane & 1 == 1 {
                0
            } else {
                lengths[lane].min(bytes)
            }
        };
        let reading = lanes(mask)
            .filter(|lane| wanted(*lane) > 0)
            .fold(0, |all, lane| all | 1 << lane);
        if reading != 0 {
            self.count_global(&from, reading, bytes, false);
        }
        self.count_shared(&to, mask, bytes);
        if warp.copies.is_empty() {
            warp.copies.resize_with(32, Copies::default);
        }
        for lane in lanes(mask) {
            let (to, from) = (to[lane], from[lane]);
            if self.misaligned(warp, lane, to, bytes, Access::Write)
                || (wanted(lane) > 0 && self.misaligned(warp, lane, from, bytes, Access::Read))
            {
                continue;
            }
            let to = warp.shared(to, false);
            if !self.has_shared(common, warp, lane, to, bytes, Access::Write) {
                continue;
            }
            let length = wanted(lane);
            let mut data = [0u32; 4];
            if length > 0 {
                let Some(allocation) = self.locate(from, u64::from(length)) else {
                    self.out_of_bounds(warp, lane, from, length, Access::Read);
                    continue;
                };
                let mut access = GlobalAccess {
                    allocation,
                    address: from,
                    bytes: 4,
                    who: warp.actor(lane),
                    order: &common.order,
                    site: warp.site(lane),
                    strong: false,
                };
                for at in (0..length).step_by(4) {
                    let word = &mut data[(at / 4) as usize];
                    if length - at >= 4 {
                        access.bytes = 4;
                        *word = self.global_read(access, false);
                        access.address += 4;
                    } else {
                        access.bytes = 1;
                        for byte in 0..length - at {
                            *word |= self.global_read(access, false) << (8 * byte);
                            access.address += 1;
                        }
                    }
                }
            }
            if m.check {
                for at in (to..to + u64::from(bytes)).step_by(4) {
                    if let Some(fault) =
                        common
                            .shared
                            .begin_copy(at, warp.actor(lane), &common.order)
                    {
                        self.shared_fault(warp, lane, at, Access::Write, fault);
                    }
                }
            }
            let pc = warp.pc;
            let copies = &mut warp.copies[lane];
            copies.pending.push_back(Copy {
                destination: to,
                bytes,
                data,
                group: copies.committed,
                pc,
            });
        }
    }

    /// `cp.async.commit_group`
    pub fn commit_copies(&mut self, warp: &mut Warp, mask: u32) {
        if warp.copies.is_empty() {
            warp.copies.resize_with(32, Copies::default);
        }
        lanes(mask).for_each(|lane| warp.copies[lane].committed += 1);
    }

    /// `cp.async.wait_group` (all but the last `pending` groups) and `wait_all` (uncommitted copies too).
    pub fn wait_copies(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        pending: u32,
        all: bool,
        mask: u32,
    ) {
        if warp.copies.is_empty() {
            return;
        }
        for lane in lanes(mask) {
            let until = warp.copies[lane].committed.saturating_sub(pending);
            while let Some(copy) = warp.copies[lane].pending.front().copied() {
                if !all && copy.group >= until {
                    break;
                }
                warp.copies[lane].pending.pop_front();
                for (i, at) in (copy.destination..copy.destination + u64::from(copy.bytes))
                    .step_by(4)
                    .enumerate()
                {
                    if self.m.check {
                        common.shared.end_copy(at);
                        let (actor, value) = (warp.actor(lane), copy.data[i]);
                        let fault = common.shared.note_write(
                            at,
                            4,
                            value,
                            actor,
                            &common.order,
                            false,
                            true,
                        );
                        // Read hazards were reported when the copy began.
                        if let Some(fault @ SharedFault::Race(_)) = fault {
                            let waiting = std::mem::replace(&mut warp.pc, copy.pc);
                            self.shared_fault(warp, lane, at, Access::Write, fault);
                            warp.pc = waiting;
                        }
                    }
                    common.shared.put(at, 4, copy.data[i]);
                }
            }
        }
    }
}
