//! Shared memory of a cluster's blocks: bytes, which of them exist and were written, and the race cells. Its addresses are places in the
//! cluster: see [`super::peers`].

use std::collections::HashMap;

use super::happens::Stamp;
use super::peers::{rank_of, shown};
use super::race::{Actor, Cell, ENGINE, Hazard, HazardKind, Order};
use crate::memory::{WINDOW, WINDOW_BITS};
use crate::ptx::isa::{Code, SharedVar};

/// Low four bits: bytes of the word that something wrote; high four: bytes that belong to a variable.
const WRITTEN: u8 = 0x0f;

/// Marks the words of an mbarrier in [`Shared::in_flight`].
const MBARRIER: u16 = 1 << 15;

#[derive(Debug, Default)]
pub(crate) struct Shared {
    words: Vec<u32>,
    state: Vec<u8>,
    cells: Vec<Cell>,
    /// Cells of single bytes, made at the first access of fewer than four bytes.
    byte_cells: Vec<Cell>,
    /// Asynchronous copies on their way to each word; [`MBARRIER`] if it belongs to an mbarrier.
    in_flight: Vec<u16>,
    /// In kernels whose engines read shared memory: how many proxy fences the lane that wrote each word needs to
    /// have executed, its warp and its number from the top; 0 for what needs no fence.
    marks: Vec<u32>,
    /// Proxy fences executed, by warp and lane.
    fences: Vec<[u32; 32]>,
    /// Last read and last write of each word, in kernels that order warps by fences and atomics.
    stamps: HashMap<u64, [Option<Stamp>; 2]>,
    /// Of each block, whose words follow those of the block before.
    bytes: u32,
    blocks: u64,
    check: bool,
}

/// What is wrong with an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharedFault {
    Unwritten,
    InFlight,
    /// The word belongs to an mbarrier.
    Mbarrier,
    /// An engine reads what this warp wrote with no proxy fence after.
    NoProxyFence(u32),
    Race(Hazard),
}

impl Shared {
    /// Empty shared memory for new blocks.
    pub fn reset(&mut self, code: &Code, dynamic: u32, blocks: usize, check: bool) {
        self.bytes = code.dynamic_offset + dynamic;
        self.blocks = blocks as u64;
        self.check = check;
        let of_block = self.bytes.div_ceil(4) as usize;
        let words = of_block * blocks;
        self.words.clear();
        self.words.resize(words, 0);
        self.state.clear();
        self.state.resize(words, 0);
        let dynamic_part = SharedVar {
            name: String::new(),
            offset: code.dynamic_offset,
            size: dynamic,
        };
        for var in code.shared_vars.iter().chain([&dynamic_part]) {
            for byte in var.offset..var.offset + var.size {
                self.state[(byte / 4) as usize] |= 0x10 << (byte % 4);
            }
        }
        for block in 1..blocks {
            self.state.copy_within(..of_block, block * of_block);
        }
        self.in_flight.clear();
        self.marks.clear();
        self.fences.clear();
        self.stamps.clear();
        self.byte_cells.clear();
        self.cells.clear();
        if check {
            self.in_flight.resize(words, 0);
            self.cells.resize(words, Cell::default());
            if code.engines {
                self.marks.resize(words, 0);
                self.fences.resize(32, [0; 32]);
            }
        }
    }

    /// The index of the word that holds the byte at a place that exists.
    #[inline]
    fn word(&self, place: u64) -> usize {
        rank_of(place) as usize * self.bytes.div_ceil(4) as usize + (place % WINDOW / 4) as usize
    }

    /// Makes the eight bytes an mbarrier, or plain memory again that nothing wrote.
    pub fn set_mbarrier(&mut self, address: u64, on: bool) {
        let first = self.word(address);
        for word in first..first + 2 {
            if self.check {
                self.in_flight[word] = if on { MBARRIER } else { 0 };
            }
            self.state[word] &= !WRITTEN;
        }
    }

    /// Checks, without recording it, that a word is as another may read it.
    pub fn check_word(&self, address: u64, who: Actor, order: &Order) -> Option<Hazard> {
        self.cells[self.word(address)].check_read(who, order, false)
    }

    /// `fence.proxy.async` of some lanes.
    pub fn proxy_fence(&mut self, warp: u32, lanes: u32) {
        if let Some(counts) = self.fences.get_mut(warp as usize) {
            for (lane, count) in counts.iter_mut().enumerate() {
                *count += lanes >> lane & 1;
            }
        }
    }

    fn fault_of(flight: u16) -> SharedFault {
        if flight & MBARRIER != 0 {
            SharedFault::Mbarrier
        } else {
            SharedFault::InFlight
        }
    }

    /// Checks and records that an engine reads a word for a warp.
    pub fn note_engine_read(
        &mut self,
        address: u64,
        who: Actor,
        order: &Order,
    ) -> Option<SharedFault> {
        let fault = self.note_read(address, 4, who, order, false);
        let mark = self.marks[self.word(address)];
        let (warp, lane, count) = (mark >> 5 & 31, mark & 31, mark >> 10);
        let unfenced = mark != 0 && self.fences[warp as usize][lane as usize] < count;
        fault.or(unfenced.then_some(SharedFault::NoProxyFence(warp)))
    }

    /// Whether all bytes belong to one variable or another. Accesses are aligned and have 1, 2 or a multiple of
    /// 4 bytes.
    #[inline]
    pub fn exists(&self, address: u64, bytes: u32) -> bool {
        let inside = (1..=self.blocks).contains(&(address >> WINDOW_BITS))
            && address % WINDOW + u64::from(bytes) <= u64::from(self.bytes);
        if !inside {
            return false;
        }
        let first = self.word(address);
        if bytes >= 4 {
            self.state[first..first + (bytes / 4) as usize]
                .iter()
                .all(|s| s & !WRITTEN == 0xf0)
        } else {
            let need = (0x10 << (address % 4)) * ((1 << bytes) - 1);
            u32::from(self.state[first]) & need == need
        }
    }

    /// One word, or 1 or 2 bytes of it in the low bits.
    #[inline]
    pub fn get(&self, address: u64, bytes: u32) -> u32 {
        let word = self.words[self.word(address)];
        if bytes >= 4 {
            word
        } else {
            word >> (8 * (address % 4)) & ((1 << (8 * bytes)) - 1)
        }
    }

    #[inline]
    pub fn put(&mut self, address: u64, bytes: u32, value: u32) {
        let at = self.word(address);
        if bytes >= 4 {
            self.words[at] = value;
            self.state[at] |= WRITTEN;
        } else {
            let shift = 8 * (address % 4) as u32;
            let mask = ((1u32 << (8 * bytes)) - 1) << shift;
            self.words[at] = (self.words[at] & !mask) | (value << shift & mask);
            self.state[at] |= ((1 << bytes) - 1) << (address % 4);
        }
    }

    /// Whether something wrote all of a word, or of 1 or 2 bytes.
    pub fn was_written(&self, address: u64, bytes: u32) -> bool {
        let state = self.state[self.word(address)];
        if bytes >= 4 {
            state & WRITTEN == WRITTEN
        } else {
            let need = ((1u32 << bytes) - 1) << (address % 4);
            u32::from(state) & need == need
        }
    }

    fn byte_cells(&mut self) -> &mut [Cell] {
        if self.byte_cells.is_empty() {
            self.byte_cells
                .resize(self.words.len() * 4, Cell::default());
        }
        &mut self.byte_cells
    }

    /// Leaves a hazard out that fences and atomics order, and keeps who accessed the word.
    fn ordered(
        &mut self,
        hazard: Option<Hazard>,
        address: u64,
        who: Actor,
        order: &Order,
        write: bool,
    ) -> Option<Hazard> {
        let Some(clock) = &order.shared else {
            return hazard;
        };
        let stamps = self.stamps.entry(address / 4).or_default();
        let is_ordered = |hazard: &Hazard| {
            let wrote = hazard.kind != HazardKind::WriteAfterRead;
            !hazard.in_warp && clock.orders(who.warp, stamps[usize::from(wrote)])
        };
        let hazard = hazard.filter(|hazard| !is_ordered(hazard));
        // A reader that the present does not know of stays: it is the one to find.
        let last = stamps[usize::from(write)];
        if write || last.is_none() || clock.orders(who.warp, last) {
            stamps[usize::from(write)] = Some(clock.clock.stamp(0, who.warp, who.lane));
        }
        hazard
    }

    /// Checks and records a read of one word or less.
    #[inline]
    pub fn note_read(
        &mut self,
        address: u64,
        bytes: u32,
        who: Actor,
        order: &Order,
        strong: bool,
    ) -> Option<SharedFault> {
        let word = self.word(address);
        if self.in_flight[word] != 0 {
            return Some(Shared::fault_of(self.in_flight[word]));
        }
        let mut hazard;
        if bytes >= 4 {
            hazard = self.cells[word].read(who, order, strong);
            if !self.byte_cells.is_empty() {
                // Byte cells know of writes by bytes; the read itself is recorded for the word.
                let bytes = &self.byte_cells[word * 4..word * 4 + 4];
                hazard = hazard.or_else(|| {
                    bytes
                        .iter()
                        .find_map(|cell| cell.check_read(who, order, strong))
                });
            }
        } else {
            hazard = self.cells[word].check_read(who, order, strong);
            let at = 4 * word + (address % 4) as usize;
            for cell in &mut self.byte_cells()[at..at + bytes as usize] {
                hazard = cell.read(who, order, strong).or(hazard);
            }
        }
        if order.shared.is_some() && !strong {
            hazard = self.ordered(hazard, address, who, order, false);
        }
        match hazard {
            Some(hazard) => Some(SharedFault::Race(hazard)),
            None if !self.was_written(address, bytes) => Some(SharedFault::Unwritten),
            None => None,
        }
    }

    /// Checks and records a write of one word or less, before [`Shared::put`].
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub fn note_write(
        &mut self,
        address: u64,
        bytes: u32,
        value: u32,
        who: Actor,
        order: &Order,
        atomic: bool,
        async_copy: bool,
    ) -> Option<SharedFault> {
        let word = self.word(address);
        if self.in_flight[word] != 0 && !async_copy {
            return Some(Shared::fault_of(self.in_flight[word]));
        }
        if !self.marks.is_empty() {
            self.marks[word] = match who.warp {
                ENGINE => 0,
                // One fence more than the lane has executed makes the word safe.
                w => (self.fences[w as usize][who.lane as usize] + 1) << 10 | w << 5 | who.lane,
            };
        }
        let changes = self.get(address, bytes) != value || !self.was_written(address, bytes);
        let mut hazard;
        if bytes >= 4 {
            hazard = self.cells[word].write(who, order, changes, atomic, async_copy);
            if !self.byte_cells.is_empty() {
                let bytes = &self.byte_cells[word * 4..word * 4 + 4];
                hazard = hazard.or_else(|| {
                    bytes
                        .iter()
                        .find_map(|c| c.check_write(who, order, changes, atomic))
                });
            }
        } else {
            hazard = self.cells[word].check_write(who, order, changes, atomic);
            let at = 4 * word + (address % 4) as usize;
            for cell in &mut self.byte_cells()[at..at + bytes as usize] {
                hazard = cell
                    .write(who, order, changes, atomic, async_copy)
                    .or(hazard);
            }
        }
        if order.shared.is_some() {
            hazard = self.ordered(hazard, address, who, order, true);
        }
        hazard.map(SharedFault::Race)
    }

    /// A `cp.async` to this word begins: the earlier accesses must be ordered before it.
    pub fn begin_copy(&mut self, address: u64, who: Actor, order: &Order) -> Option<SharedFault> {
        let word = self.word(address);
        if self.in_flight[word] & MBARRIER != 0 {
            return Some(SharedFault::Mbarrier);
        }
        let hazard = self.cells[word].check_write(who, order, true, false);
        let bytes = self
            .byte_cells
            .get(word * 4..word * 4 + 4)
            .unwrap_or_default();
        let hazard = hazard.or_else(|| {
            bytes
                .iter()
                .find_map(|c| c.check_write(who, order, true, false))
        });
        self.in_flight[word] = self.in_flight[word].saturating_add(1);
        hazard.map(SharedFault::Race)
    }

    /// The copy to this word has been waited for.
    pub fn end_copy(&mut self, address: u64) {
        let word = self.word(address);
        let word = &mut self.in_flight[word];
        if *word & MBARRIER == 0 {
            *word = word.saturating_sub(1);
        }
    }
}

/// Names the variable that a place is in or behind, and the offset from its start; for the block of that rank.
pub(crate) fn describe(code: &Code, cta: u32, place: u64) -> (String, i64) {
    let address = shown(place);
    let (mut name, offset) = variable(code, address);
    if address != place && rank_of(place) != cta && place >> WINDOW_BITS < 1 << 8 {
        name += &format!(" of block {} of the cluster", rank_of(place));
    }
    (name, offset)
}

fn variable(code: &Code, address: u64) -> (String, i64) {
    let before = |var: &&SharedVar| u64::from(var.offset) <= address;
    if code.shared_vars.is_empty() || address >= u64::from(code.dynamic_offset) {
        return (
            "dynamic shared memory".into(),
            address.wrapping_sub(u64::from(code.dynamic_offset)) as i64,
        );
    }
    // An address in the gap in front of a variable is more likely meant for that one.
    let next = code
        .shared_vars
        .iter()
        .find(|var| u64::from(var.offset) > address && u64::from(var.offset) - address <= 16);
    let last = code.shared_vars.iter().rev().find(before);
    let inside = last.filter(|var| address < u64::from(var.offset) + u64::from(var.size) + 64);
    match inside.or(next).or(last) {
        Some(var) => (
            format!("shared {}", var.name),
            address.wrapping_sub(u64::from(var.offset)) as i64,
        ),
        None => ("shared memory".into(), address as i64),
    }
}
