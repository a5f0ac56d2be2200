//! Calls of functions.
//!
//! Each group of lanes that calls gets a frame: its own local memory, and its own registers (the caller's are kept
//! where the function is already running). Of a warp's groups the one in the deepest call runs first, and within a
//! call the one with the smallest place; so the lanes of a call meet again when the last of them returns. Lanes that
//! call from different places do so one group after the other.

use super::cluster::Stop;
use super::machine::Worker;
use super::registers::{Saved, lanes};
use super::warp::Warp;
use crate::ptx::isa::Routine;

/// Calls in calls at most.
const DEPTH_LIMIT: u32 = 1024;
/// Local memory per thread at most, as on the chips.
const STACK_LIMIT: u32 = 512 << 10;
/// Registers that the calls of a warp keep at most (256 bytes each).
const SAVED_LIMIT: usize = 1 << 17;
/// Alignment of frames in bytes.
const FRAME_ALIGN: u32 = 16;
/// The rank of the kernel itself. A rank has the number of calls that are still possible above the frame's number,
/// so that deeper calls have smaller ones.
pub(crate) const KERNEL: u32 = DEPTH_LIMIT << 16;

/// A call that some lanes are in.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Index in `Code::routines`, and of the call in `Code::calls`.
    routine: usize,
    site: u32,
    /// Address and size in local memory.
    base: u32,
    bytes: u32,
    /// The lanes that are in it, and the key of where they go on.
    lanes: u32,
    return_to: u64,
    /// What an outer call of the same function had in its registers.
    saved: Option<Saved>,
}

impl Warp {
    fn frame(&self) -> Option<&Frame> {
        // The kernel itself has no frame.
        if self.rank == KERNEL {
            return None;
        }
        self.frames.get((self.rank & 0xffff) as usize)
    }

    /// Where the frame of the running lanes begins and ends in local memory.
    fn extent(&self) -> (u32, u32) {
        match self.frame() {
            Some(frame) => (frame.base, frame.base + frame.bytes),
            None => (0, self.local.kernel_bytes()),
        }
    }

    /// Copies an argument or a result, and where what is unwritten in it began.
    fn pass(&mut self, lane: usize, from: u32, to: u32, bytes: u32) {
        self.local.copy(lane, from, to, bytes);
        if !self.stored_origin.is_empty() {
            for at in 0..u64::from(bytes) {
                let origin = self.stored_origin.get(&(u64::from(from) + at)).copied();
                if let Some(origin) = origin {
                    self.stored_origin.insert(u64::from(to) + at, origin);
                }
            }
        }
    }

    /// Whether the bytes lie in the local memory of the running lanes.
    #[inline]
    pub fn owns_local(&self, address: u64, bytes: u32) -> bool {
        address.saturating_add(u64::from(bytes)) <= u64::from(self.extent().1)
    }
}

impl Worker<'_> {
    /// The active lanes call.
    pub fn call(&mut self, warp: &mut Warp, site: u32, active: u32) -> Result<(), Stop> {
        let code = self.m.code;
        let call = &code.calls[site as usize];
        let routine: &Routine = &code.routines[call.routine];
        let overflow = |what: String| {
            let at = warp.first_site(active);
            let name = &routine.name;
            Stop {
                pc: at.pc,
                thread: at.thread,
                message: format!("stack overflow in the call of {name}: {what}"),
            }
        };
        let left = warp.rank >> 16;
        if left == 0 {
            return Err(overflow(format!("more than {DEPTH_LIMIT} calls in calls")));
        }
        let (caller, end) = warp.extent();
        let base = end.next_multiple_of(FRAME_ALIGN);
        let top = base.saturating_add(routine.frame);
        if top > STACK_LIMIT {
            return Err(overflow(format!(
                "more than {STACK_LIMIT} bytes of local memory per thread"
            )));
        }
        let live = warp.live;
        let running = |frame: &&Frame| frame.routine == call.routine && frame.lanes & live != 0;
        let again = warp.frames.iter().filter(running).count();
        if again * routine.registers.len() > SAVED_LIMIT {
            return Err(overflow(format!(
                "more than {SAVED_LIMIT} registers to keep"
            )));
        }
        warp.local.reserve(top);
        warp.stored_origin.retain(|at, _| *at < u64::from(base));
        for lane in lanes(active) {
            warp.local.forget(lane, base, routine.frame);
            for part in &call.arguments {
                let (from, to) = (caller + part.caller, base + part.callee);
                warp.pass(lane, from, to, part.bytes);
            }
        }
        let saved = (again > 0).then(|| warp.regs.save(code, &routine.registers));
        warp.regs.forget(code, &routine.registers, active);
        warp.regs
            .set_written(code, routine.base, u64::from(base), active);
        let next = warp.pc + 1;
        let rest = warp.mask & !active;
        if rest != 0 {
            warp.put_aside(next, rest);
        }
        let frame = Frame {
            routine: call.routine,
            site,
            base,
            bytes: routine.frame,
            lanes: active,
            return_to: warp.key(next),
            saved,
        };
        let free = |frame: &Frame| frame.lanes & live == 0;
        // At most 32 lanes times the depth are in use, which 16 bits can number.
        let index = match warp.frames.iter().position(free) {
            Some(index) => {
                warp.frames[index] = frame;
                index
            }
            None => {
                warp.frames.push(frame);
                warp.frames.len() - 1
            }
        };
        warp.rank = (left - 1) << 16 | index as u32;
        warp.pc = routine.entry;
        warp.mask = active;
        Ok(())
    }

    /// The active lanes return.
    pub fn give_back(&mut self, warp: &mut Warp, active: u32) {
        let code = self.m.code;
        let index = (warp.rank & 0xffff) as usize;
        let rest = warp.mask & !active;
        if rest != 0 {
            warp.put_aside(warp.pc + 1, rest);
        }
        let frame = &mut warp.frames[index];
        frame.lanes &= !active;
        let (base, site, return_to) = (frame.base, frame.site, frame.return_to);
        let call = &code.calls[site as usize];
        let saved = if frame.lanes & warp.live == 0 {
            frame.saved.take()
        } else {
            frame.saved.clone()
        };
        warp.go(return_to);
        let (caller, _) = warp.extent();
        for lane in lanes(active) {
            for part in &call.results {
                let (from, to) = (base + part.callee, caller + part.caller);
                warp.pass(lane, from, to, part.bytes);
            }
        }
        if let Some(saved) = saved {
            let registers = &code.routines[call.routine].registers;
            warp.regs.restore(code, registers, &saved, active);
        }
        warp.put_aside_key(return_to, active);
        warp.take_next();
    }
}
