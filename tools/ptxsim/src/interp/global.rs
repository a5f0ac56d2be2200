//! Global memory: values, written bytes, and races between blocks.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::machine::{Site, Undo, Worker};
use super::race::{Actor, Hazard, HazardKind, Order};
use crate::finding::{Access, FindingKind};
use crate::memory::Allocation;

/// Blocks are numbered modulo this in race cells: 23 bits, without 0 (none) and the last (several).
pub(crate) const BLOCK_IDS: u64 = (1 << 23) - 2;
const SEVERAL: u64 = (1 << 23) - 1;

/// Who accessed a word in a launch: 16 bits of the launch's number, whether all writes were atomic, the writing
/// block and the reading block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct BlockCell {
    atomic: bool,
    writer: u64,
    reader: u64,
}

impl BlockCell {
    fn unpack(bits: u64, tag: u64) -> BlockCell {
        if bits >> 48 != tag {
            return BlockCell::default();
        }
        BlockCell {
            atomic: bits >> 47 & 1 == 1,
            writer: bits >> 24 & SEVERAL,
            reader: bits & SEVERAL,
        }
    }

    fn pack(self, tag: u64) -> u64 {
        tag << 48 | u64::from(self.atomic) << 47 | self.writer << 24 | self.reader
    }
}

/// How two blocks collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Collision {
    None,
    /// The outcome may depend on which block is first, but the program is not wrong for that (atomics).
    Dependent,
    /// `other` is the other block's number in row order, if only one comes into question.
    Race {
        other: Option<u64>,
        other_wrote: bool,
    },
}

/// One access of a lane to global memory, of one word or less, with all it takes to judge it.
#[derive(Clone, Copy)]
pub(crate) struct GlobalAccess<'a> {
    pub allocation: &'a Allocation,
    pub address: u64,
    /// 1, 2 or 4.
    pub bytes: u32,
    pub who: Actor,
    pub order: &'a Order,
    pub site: Site,
    /// Volatile, relaxed, acquire or release.
    pub strong: bool,
}

impl GlobalAccess<'_> {
    pub fn offset(&self) -> u64 {
        self.address - self.allocation.base
    }

    /// The bits of the word's written mask that the access covers.
    fn bits(&self) -> u8 {
        (((1u32 << self.bytes) - 1) << (self.address % 4)) as u8
    }

    fn shift(&self) -> u32 {
        8 * (self.address % 4) as u32
    }

    fn value_mask(&self) -> u32 {
        if self.bytes == 4 {
            !0
        } else {
            (1 << (8 * self.bytes)) - 1
        }
    }

    fn describe(&self) -> Option<(String, i64)> {
        Some((self.allocation.label.clone(), self.offset() as i64))
    }
}

/// The block behind a number in a cell.
fn block_of(id: u64) -> Option<u64> {
    (id != SEVERAL).then(|| id - 1)
}

impl<'m> Worker<'m> {
    pub fn tag(&self) -> u64 {
        // 1 to 0xffff: `Memory::next_launch` clears the cells when this starts over.
        u64::from((self.m.launch - 1) % 0xffff + 1)
    }

    /// Updates a cell until no other thread interferes; without `record` only judges.
    fn update(
        &self,
        cell: &AtomicU64,
        record: bool,
        mut change: impl FnMut(BlockCell) -> (BlockCell, Collision),
    ) -> Collision {
        let tag = self.tag();
        let mut old = cell.load(Relaxed);
        loop {
            let before = BlockCell::unpack(old, tag);
            let (after, collision) = change(before);
            let new = after.pack(tag);
            if new == old || !record {
                return collision;
            }
            if self.m.serial {
                cell.store(new, Relaxed);
                return collision;
            }
            match cell.compare_exchange_weak(old, new, SeqCst, Relaxed) {
                Ok(_) => return collision,
                Err(now) => old = now,
            }
        }
    }

    fn on_read(&self, cell: &AtomicU64, record: bool, strong: bool) -> Collision {
        let me = self.block_id;
        self.update(cell, record, |mut c| {
            let foreign = c.writer != 0 && c.writer != me;
            let collision = if !foreign {
                Collision::None
            } else if c.atomic || strong || (c.writer == SEVERAL && !self.m.fenced) {
                Collision::Dependent
            } else {
                Collision::Race {
                    other: block_of(c.writer),
                    other_wrote: true,
                }
            };
            if !strong {
                c.reader = if c.reader == 0 || c.reader == me {
                    me
                } else {
                    SEVERAL
                };
            }
            (c, collision)
        })
    }

    fn on_write(&self, cell: &AtomicU64, record: bool, changes: bool, atomic: bool) -> Collision {
        let me = self.block_id;
        self.update(cell, record, |mut c| {
            let foreign_writer = c.writer != 0 && c.writer != me;
            let foreign_reader = c.reader != 0 && c.reader != me;
            let collision = if foreign_writer && atomic && c.atomic {
                Collision::None
            } else if foreign_writer && (changes || atomic || c.atomic) {
                if atomic && c.writer == SEVERAL && c.atomic {
                    Collision::None
                } else {
                    Collision::Race {
                        other: block_of(c.writer),
                        other_wrote: true,
                    }
                }
            } else if foreign_reader && changes {
                if atomic {
                    Collision::Dependent
                } else {
                    Collision::Race {
                        other: block_of(c.reader),
                        other_wrote: false,
                    }
                }
            } else {
                Collision::None
            };
            c.atomic = atomic && (c.writer == 0 || c.atomic);
            c.writer = if c.writer == 0 || c.writer == me {
                me
            } else {
                SEVERAL
            };
            (c, collision)
        })
    }

    /// Runs `judge` on the cell of the word, or on those of the bytes for a narrower access, and on the other kind
    /// where that exists.
    fn collide(
        &self,
        access: &GlobalAccess<'_>,
        judge: impl Fn(&Worker<'m>, &AtomicU64, bool) -> Collision,
    ) -> Collision {
        let offset = access.offset();
        if access.bytes == 4 {
            let word = &access.allocation.races()[(offset / 4) as usize];
            let collision = judge(self, word, true);
            let Some(bytes) = access.allocation.byte_races_if_any() else {
                return collision;
            };
            let first = offset as usize;
            bytes[first..bytes.len().min(first + 4)]
                .iter()
                .fold(collision, |so_far, cell| {
                    let touched = cell.load(Relaxed) >> 48 == self.tag();
                    let found = if touched {
                        judge(self, cell, true)
                    } else {
                        Collision::None
                    };
                    if so_far == Collision::None {
                        found
                    } else {
                        so_far
                    }
                })
        } else {
            let bytes = &access.allocation.byte_races()
                [offset as usize..(offset + u64::from(access.bytes)) as usize];
            let mut collision = Collision::None;
            for cell in bytes {
                let found = judge(self, cell, true);
                collision = if collision == Collision::None {
                    found
                } else {
                    collision
                };
            }
            let word = &access.allocation.races()[(offset / 4) as usize];
            if word.load(Relaxed) >> 48 == self.tag() {
                let found = judge(self, word, false);
                collision = if collision == Collision::None {
                    found
                } else {
                    collision
                };
            }
            collision
        }
    }

    fn handle(&mut self, collision: Collision, access: &GlobalAccess<'_>, kind: Access) {
        let Collision::Race { other, other_wrote } = collision else {
            if collision == Collision::Dependent && !self.m.serial {
                self.give_up();
            }
            return;
        };
        if !self.m.serial {
            self.give_up();
            return;
        }
        if self.is_ordered(access, other_wrote, true) {
            return;
        }
        let (bytes, fenced, alone) = (access.bytes, self.m.fenced, self.m.blocks() == 1);
        self.report_access(
            access.site,
            FindingKind::GlobalRaceAcrossBlocks,
            kind,
            access.address,
            || {
                let what = match (kind, other_wrote) {
                    (Access::Read, _) => "reads what another block wrote in this launch",
                    (_, true) => "changes what another block wrote in this launch",
                    (_, false) => "changes what another block read in this launch",
                };
                let which = match other {
                    Some(other) => format!(" (block number {other} in row order)"),
                    None => String::new(),
                };
                let order = match (fenced, alone) {
                    (false, _) => "",
                    (true, true) => ", and no fence with an atomic orders the two",
                    (true, false) => {
                        ", and neither a fence with an atomic nor a barrier of the cluster orders the two"
                    }
                };
                (
                    format!("{bytes}-byte access {what}{which}{order}"),
                    access.describe(),
                )
            },
        );
    }

    fn in_block(&mut self, hazard: Option<Hazard>, access: &GlobalAccess<'_>, kind: Access) {
        let Some(hazard) = hazard else { return };
        let wrote = hazard.kind != HazardKind::WriteAfterRead;
        let ordered = if hazard.in_warp {
            // Lanes of a warp that hand a lock to each other are not told apart.
            let clock = &access.order.clock;
            clock
                .as_ref()
                .is_some_and(|c| c.has_fenced(access.who.warp))
        } else {
            self.is_ordered(access, wrote, false)
        };
        if ordered {
            return;
        }
        self.report_access(
            access.site,
            FindingKind::GlobalRace,
            kind,
            access.address,
            || {
                let what = match hazard.kind {
                    HazardKind::ReadAfterWrite => "reads what",
                    HazardKind::WriteAfterRead => "changes what",
                    HazardKind::WriteAfterWrite => "overwrites with another value what",
                };
                let did = if hazard.kind == HazardKind::WriteAfterRead {
                    "read"
                } else {
                    "wrote"
                };
                let who = if hazard.in_warp {
                    format!("another lane of this warp {did} with no __syncwarp between")
                } else {
                    format!(
                        "warp {} of this block {did} with no barrier between",
                        hazard.other
                    )
                };
                (
                    format!("global memory race: {what} {who}"),
                    access.describe(),
                )
            },
        );
    }

    /// Loads one word or less. `cached`: through the read-only path, where only other blocks' writes matter.
    #[inline]
    pub fn global_read(&mut self, access: GlobalAccess<'_>, cached: bool) -> u32 {
        let offset = access.offset();
        let value =
            access.allocation.word(offset).load(Relaxed) >> access.shift() & access.value_mask();
        if !self.m.check {
            return value;
        }
        let bits = access.bits();
        if access.allocation.written(offset).load(Relaxed) & bits != bits {
            self.report_access(
                access.site,
                FindingKind::UnwrittenGlobal,
                Access::Read,
                access.address,
                || {
                    (
                        "read of global memory that nothing wrote".into(),
                        access.describe(),
                    )
                },
            );
        }
        let strong = access.strong;
        let collision = self.collide(&access, |worker, cell, record| {
            worker.on_read(cell, record, strong)
        });
        if collision != Collision::None {
            self.handle(collision, &access, Access::Read);
        }
        if !cached {
            let cell = self.recent.cell(access.address & !3, false);
            let mut hazard = if access.bytes == 4 {
                cell.read(access.who, access.order, strong)
            } else {
                cell.check_read(access.who, access.order, strong)
            };
            if access.bytes < 4 {
                for byte in access.address..access.address + u64::from(access.bytes) {
                    hazard = self
                        .recent
                        .cell(byte, true)
                        .read(access.who, access.order, strong)
                        .or(hazard);
                }
            }
            self.in_block(hazard, &access, Access::Read);
        }
        if !strong {
            self.put_stamp(&access, false);
        }
        value
    }

    /// Records a write before it happens; `changes` says whether the value is a new one.
    fn note_write(&mut self, access: &GlobalAccess<'_>, changes: bool, atomic: bool) {
        if !self.m.serial {
            self.remember(access);
        }
        let collision = self.collide(access, |worker, cell, record| {
            worker.on_write(cell, record, changes, atomic)
        });
        let kind = if atomic && !access.strong {
            Access::Atomic
        } else {
            Access::Write
        };
        if collision != Collision::None {
            self.handle(collision, access, kind);
        }
        let mut hazard = if access.bytes == 4 {
            self.recent.cell(access.address & !3, false).write(
                access.who,
                access.order,
                changes,
                atomic,
                false,
            )
        } else {
            self.recent.cell(access.address & !3, false).check_write(
                access.who,
                access.order,
                changes,
                atomic,
            )
        };
        if access.bytes < 4 {
            for byte in access.address..access.address + u64::from(access.bytes) {
                let cell = self.recent.cell(byte, true);
                hazard = cell
                    .write(access.who, access.order, changes, atomic, false)
                    .or(hazard);
            }
        }
        // A plain read beside atomics of the same block is a common way to look ahead; it is no finding.
        if !atomic || hazard.is_none_or(|h| h.kind != HazardKind::WriteAfterRead) {
            self.in_block(hazard, access, kind);
        }
        self.put_stamp(access, true);
    }

    /// Keeps what is about to be overwritten, if this launch has not written it yet.
    fn remember(&mut self, access: &GlobalAccess<'_>) {
        let (offset, tag) = (access.offset(), self.tag());
        let fresh = |cell: &AtomicU64| BlockCell::unpack(cell.load(SeqCst), tag).writer == 0;
        // The old value is read before the cell says that the launch wrote it, and every thread marks the cell
        // before it stores, so what is read here was there before the launch.
        let word = access.allocation.word(offset).load(SeqCst);
        let written = access.allocation.written(offset).load(SeqCst);
        let is_fresh = if access.bytes == 4 {
            fresh(&access.allocation.races()[(offset / 4) as usize])
        } else {
            let cells = &access.allocation.byte_races()
                [offset as usize..(offset + u64::from(access.bytes)) as usize];
            cells.iter().any(fresh)
        };
        if is_fresh {
            let sequence = self.m.sequence.fetch_add(1, Relaxed);
            let allocation = self.hint as u32;
            self.undo.push(Undo {
                sequence,
                allocation,
                offset: offset & !3,
                word,
                written,
                bytes: access.bits(),
            });
        }
    }

    /// Stores one word or less.
    #[inline]
    pub fn global_write(&mut self, access: GlobalAccess<'_>, value: u32) {
        let offset = access.offset();
        let (bits, shift, mask) = (access.bits(), access.shift(), access.value_mask());
        let word = access.allocation.word(offset);
        let written = access.allocation.written(offset);
        if self.m.check {
            let old = word.load(Relaxed) >> shift & mask;
            let changes = old != value & mask || written.load(Relaxed) & bits != bits;
            self.note_write(&access, changes, access.strong);
        }
        if access.bytes == 4 {
            word.store(value, Relaxed);
            written.store(0xf, Relaxed);
        } else {
            let insert = |old: u32| Some((old & !(mask << shift)) | (value & mask) << shift);
            // The closure always returns Some: the update cannot fail.
            let _ = word.fetch_update(Relaxed, Relaxed, insert);
            written.fetch_or(bits, Relaxed);
        }
    }

    /// Applies an atomic to 2, 4 or 8 bytes; `f` maps the old bits to the new. Returns the old bits.
    pub fn global_atomic(
        &mut self,
        access: GlobalAccess<'_>,
        wide: bool,
        f: impl Fn(u64) -> u64,
    ) -> u64 {
        let words = if wide { 2 } else { 1 };
        let mut old = 0u64;
        for i in 0..words {
            let offset = access.offset() + 4 * i;
            let part = GlobalAccess {
                address: access.address + 4 * i,
                strong: false,
                ..access
            };
            old |= u64::from(
                part.allocation.word(offset).load(Relaxed) >> part.shift() & part.value_mask(),
            ) << (32 * i);
            if self.m.check {
                let bits = part.bits();
                if part.allocation.written(offset).load(Relaxed) & bits != bits {
                    self.report_access(
                        part.site,
                        FindingKind::UnwrittenGlobal,
                        Access::Atomic,
                        part.address,
                        || {
                            (
                                "atomic on global memory that nothing wrote".into(),
                                part.describe(),
                            )
                        },
                    );
                }
                self.note_write(&part, true, true);
            }
        }
        if wide || access.bytes < 4 {
            // Only a serial launch gets here with other threads' accesses possible: see `launch`.
            let new = f(old);
            for i in 0..words {
                let offset = access.offset() + 4 * i;
                let (shift, mask) = (access.shift(), access.value_mask());
                let value = (new >> (32 * i)) as u32 & mask;
                let insert = |word: u32| Some((word & !(mask << shift)) | value << shift);
                let _ = access
                    .allocation
                    .word(offset)
                    .fetch_update(Relaxed, Relaxed, insert);
                access
                    .allocation
                    .written(offset)
                    .fetch_or(access.bits(), Relaxed);
            }
            return old;
        }
        let word = access.allocation.word(access.offset());
        let update = word.fetch_update(SeqCst, Relaxed, |value| Some(f(u64::from(value)) as u32));
        access
            .allocation
            .written(access.offset())
            .store(0xf, Relaxed);
        u64::from(update.unwrap_or(old as u32))
    }
}
