//! The replay buffer on disk: a FIFO of fixed-size f32 records that a checkpoint need not copy.
//!
//! Two files. `<name>.ring` holds slots of one record each, and nothing else. `<name>.ring.journal` is a small file,
//! replaced atomically, that lists **marks**: for a moment in the past, which slots held the live records, oldest
//! first, with a CRC-32 of each. A slot that any mark names is never written again until that mark is released, so a
//! mark can be returned to after any crash, exactly, however much was written since:
//!
//! 1. [`Ring::append`] writes into free slots only: those in neither the live window nor a mark.
//! 2. [`Ring::mark`] syncs the slots, then the journal. The returned number goes into the checkpoint.
//! 3. When that checkpoint is durable, [`Ring::release_before`] gives up the older marks.
//! 4. [`Ring::open`] with a checkpoint's number, and [`Ring::roll_back`], make that mark the live window again. Opening
//!    also gives up all other marks: a crash may have come before step 3.
//!
//! How many slots: `capacity` for the live window, and as many again as are appended between two marks, at most
//! another `capacity`: then the live window and one mark have no slot in common, and no more can be in use. So a
//! buffer of C records takes at most twice its size on disk, whatever the interval; the file is sparse until used.

use super::atomic::replace_file;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What can go wrong with a ring file.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The file system refused.
    #[error("replay buffer {}: {source}{}", path.display(), super::way_out(source))]
    Io {
        /// Ring file or journal.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The files are damaged or of another run.
    #[error("replay buffer {} cannot be used: {detail}", path.display())]
    Corrupt {
        /// Ring file or journal.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// No such mark.
    #[error("replay buffer {}: there is no mark {mark}; marks: {known:?}", path.display())]
    NoMark {
        /// Ring file.
        path: PathBuf,
        /// The number asked for.
        mark: u64,
        /// Those there are.
        known: Vec<u64>,
    },
    /// No free slot.
    #[error(
        "replay buffer {}: all slots are held; save a checkpoint before more is appended (room was made for {room} \
         records between two checkpoints)",
        path.display()
    )]
    Full {
        /// Ring file.
        path: PathBuf,
        /// Slots beyond the capacity.
        room: usize,
    },
    /// A record of the wrong length or an index beyond the live window.
    #[error("replay buffer: {0}")]
    Usage(String),
}

/// The shape of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingSpec {
    /// f32 values of one record.
    pub record: usize,
    /// Records that are live at most; an append beyond drops the oldest.
    pub capacity: usize,
    /// Slots in the file.
    pub slots: usize,
}

impl RingSpec {
    /// A ring of `capacity` records with room for `between_marks` appends between two marks (checkpoints).
    pub fn new(record: usize, capacity: usize, between_marks: usize) -> Self {
        Self {
            record,
            capacity,
            slots: capacity + between_marks.clamp(1, capacity.max(1)),
        }
    }
}

/// A live record: where it lies and what its bytes must sum to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    slot: u32,
    crc: u32,
}

/// A moment that can be returned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Records appended up to then.
    head: u64,
    /// Live records, oldest first.
    window: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Journal {
    format: u32,
    spec: RingSpec,
    marks: Vec<Mark>,
}

const JOURNAL_FORMAT: u32 = 1;

/// An open ring. One process at a time may write to it.
#[derive(Debug)]
pub struct Ring {
    path: PathBuf,
    journal: PathBuf,
    file: File,
    spec: RingSpec,
    /// Records ever appended along the current line of history.
    head: u64,
    live: VecDeque<Entry>,
    marks: Vec<Mark>,
    /// How many of live window and marks name each slot.
    holders: Vec<u32>,
    /// Where the search for a free slot goes on.
    cursor: usize,
}

impl Ring {
    /// Makes an empty ring in place of any that stood there. Its first mark, number 0, is the empty window.
    ///
    /// # Errors
    /// Files that cannot be written; a shape without records or beyond 2^32 slots.
    pub fn create(path: &Path, spec: RingSpec) -> Result<Self, RingError> {
        if spec.record == 0
            || spec.capacity == 0
            || spec.slots <= spec.capacity
            || u32::try_from(spec.slots).is_err()
        {
            return Err(RingError::Usage(format!("{spec:?} is not a ring")));
        }
        let bytes =
            byte_length(spec).ok_or_else(|| RingError::Usage(format!("{spec:?} is too large")))?;
        let journal = journal_of(path);
        // Without its journal a ring is nothing, so the old journal goes before the old slots do.
        match std::fs::remove_file(&journal) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(&journal)(error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(io_error(path))?;
        file.set_len(bytes).map_err(io_error(path))?;
        let mut ring = Self {
            path: path.into(),
            journal,
            file,
            spec,
            head: 0,
            live: VecDeque::new(),
            marks: Vec::new(),
            holders: vec![0; spec.slots],
            cursor: 0,
        };
        ring.mark()?;
        Ok(ring)
    }

    /// Opens a ring for going on from a mark; what was appended later is gone, and so are all other marks. It gets more slots if
    /// the interval between checkpoints has become longer since it was made; it keeps those it has if that became shorter.
    ///
    /// # Errors
    /// Missing or damaged files, another shape than expected, no such mark.
    pub fn open(path: &Path, spec: RingSpec, mark: u64) -> Result<Self, RingError> {
        Self::open_beside(path, spec, mark, mark)
    }

    /// The same, with an earlier mark `kept` that can still be returned to. Two marks and the live window may have no slot in common,
    /// so there is room for one more capacity.
    ///
    /// # Errors
    /// As [`Ring::open`].
    pub fn open_beside(
        path: &Path,
        spec: RingSpec,
        mark: u64,
        kept: u64,
    ) -> Result<Self, RingError> {
        let mut ring = Self::load(path, spec, OpenOptions::new().read(true).write(true))?;
        ring.position(kept)?;
        let beside = if kept == mark { 0 } else { spec.capacity };
        ring.grow(spec.slots + beside)?;
        ring.roll_back(mark)?;
        ring.keep_marks(&[kept, mark])?;
        Ok(ring)
    }

    /// Opens a ring for reading, as it was at a mark, beside a process that may be writing. It can take no records.
    ///
    /// # Errors
    /// As [`Ring::open`].
    pub fn view(path: &Path, spec: RingSpec, mark: u64) -> Result<Self, RingError> {
        let mut ring = Self::load(path, spec, OpenOptions::new().read(true))?;
        let position = ring.position(mark)?;
        ring.restore(position);
        Ok(ring)
    }

    fn load(path: &Path, spec: RingSpec, access: &OpenOptions) -> Result<Self, RingError> {
        let journal_path = journal_of(path);
        let corrupt = |path: &Path, detail: String| RingError::Corrupt {
            path: path.into(),
            detail,
        };
        let text = std::fs::read_to_string(&journal_path).map_err(io_error(&journal_path))?;
        let journal: Journal = serde_json::from_str(&text)
            .map_err(|error| corrupt(&journal_path, error.to_string()))?;
        if journal.format != JOURNAL_FORMAT {
            return Err(corrupt(
                &journal_path,
                format!("its format is {}, not {JOURNAL_FORMAT}", journal.format),
            ));
        }
        let made = journal.spec;
        if (made.record, made.capacity) != (spec.record, spec.capacity) {
            return Err(corrupt(
                path,
                format!(
                    "it holds {} records of {} values, and this run wants {} of {}",
                    made.capacity, made.record, spec.capacity, spec.record
                ),
            ));
        }
        // How many slots there are is the ring's own affair.
        let spec = made;
        if !journal.marks.is_sorted_by_key(|mark| mark.head) {
            return Err(corrupt(&journal_path, "its marks are not in order".into()));
        }
        let file = access.open(path).map_err(io_error(path))?;
        let found = file.metadata().map_err(io_error(path))?.len();
        // It may be longer: growing gives it its new length before the journal tells of it.
        if byte_length(spec).is_none_or(|wanted| found < wanted) {
            return Err(corrupt(
                path,
                format!("it has {found} bytes where {:?} belong", byte_length(spec)),
            ));
        }
        for mark in &journal.marks {
            let mut seen = vec![false; spec.slots];
            let sound = mark.window.len() <= spec.capacity
                && mark.window.len() as u64 <= mark.head
                && mark.window.iter().all(|entry| {
                    seen.get_mut(entry.slot as usize)
                        .is_some_and(|seen| !std::mem::replace(seen, true))
                });
            if !sound {
                return Err(corrupt(
                    &journal_path,
                    format!("mark {} names impossible slots", mark.head),
                ));
            }
        }
        Ok(Self {
            path: path.into(),
            journal: journal_path,
            file,
            spec,
            head: 0,
            live: VecDeque::new(),
            marks: journal.marks,
            holders: vec![0; spec.slots],
            cursor: 0,
        })
    }

    /// Makes sure that there are so many slots.
    fn grow(&mut self, slots: usize) -> Result<(), RingError> {
        if slots <= self.spec.slots {
            return Ok(());
        }
        let spec = RingSpec { slots, ..self.spec };
        let bytes = byte_length(spec).filter(|_| u32::try_from(slots).is_ok());
        let bytes = bytes.ok_or_else(|| RingError::Usage(format!("{spec:?} is too large")))?;
        self.file.set_len(bytes).map_err(io_error(&self.path))?;
        self.holders.resize(slots, 0);
        self.spec = spec;
        self.write_journal()
    }

    /// Live records.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether no record is live.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Records ever appended, dropped ones included.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Numbers of the marks that can be returned to, ascending.
    pub fn marks(&self) -> impl Iterator<Item = u64> {
        self.marks.iter().map(|mark| mark.head)
    }

    /// Appends a record; at capacity the oldest is dropped.
    ///
    /// # Errors
    /// A record of the wrong length, no free slot, a full disk.
    pub fn append(&mut self, record: &[f32]) -> Result<(), RingError> {
        if record.len() != self.spec.record {
            return Err(RingError::Usage(format!(
                "a record has {} values, not {}",
                self.spec.record,
                record.len()
            )));
        }
        // At capacity the oldest leaves, and its slot is free unless a mark names it too.
        let leaving = if self.live.len() == self.spec.capacity {
            self.live.front().copied()
        } else {
            None
        };
        let slots = self.spec.slots;
        let free = (0..slots)
            .map(|step| (self.cursor + step) % slots)
            .find(|&slot| {
                let by_leaving = leaving.is_some_and(|oldest| oldest.slot as usize == slot);
                self.holders[slot] == u32::from(by_leaving)
            })
            .ok_or_else(|| RingError::Full {
                path: self.path.clone(),
                room: slots - self.spec.capacity,
            })?;
        let bytes: &[u8] = bytemuck::cast_slice(record);
        self.seek(free)
            .and_then(|()| self.file.write_all(bytes))
            .map_err(io_error(&self.path))?;
        if let Some(oldest) = leaving {
            self.live.pop_front();
            self.holders[oldest.slot as usize] -= 1;
        }
        self.cursor = (free + 1) % slots;
        self.holders[free] += 1;
        self.live.push_back(Entry {
            slot: free as u32,
            crc: checksum(bytes),
        });
        self.head += 1;
        Ok(())
    }

    /// Reads live record `index`, counted from the oldest, and checks it.
    ///
    /// # Errors
    /// No such record, a buffer of the wrong length, damaged bytes.
    pub fn read(&mut self, index: usize, record: &mut [f32]) -> Result<(), RingError> {
        let entry = *self.live.get(index).ok_or_else(|| {
            RingError::Usage(format!(
                "there is no record {index}: {} are live",
                self.live.len()
            ))
        })?;
        if record.len() != self.spec.record {
            return Err(RingError::Usage(format!(
                "a record has {} values, not {}",
                self.spec.record,
                record.len()
            )));
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(record);
        self.seek(entry.slot as usize)
            .and_then(|()| self.file.read_exact(bytes))
            .map_err(io_error(&self.path))?;
        if checksum(bytes) != entry.crc {
            return Err(RingError::Corrupt {
                path: self.path.clone(),
                detail: format!("record {index} (slot {}) is damaged", entry.slot),
            });
        }
        Ok(())
    }

    /// Makes the present durable and returnable; returns its number, for the checkpoint.
    ///
    /// # Errors
    /// A file system that refuses; the earlier marks are then as they were.
    pub fn mark(&mut self) -> Result<u64, RingError> {
        if self.marks.last().is_some_and(|mark| mark.head == self.head) {
            return Ok(self.head);
        }
        // Records first: a mark must never name bytes that are not there.
        self.file.sync_data().map_err(io_error(&self.path))?;
        let window: Vec<Entry> = self.live.iter().copied().collect();
        for entry in &window {
            self.holders[entry.slot as usize] += 1;
        }
        self.marks.push(Mark {
            head: self.head,
            window,
        });
        self.write_journal().inspect_err(|_| {
            // Without its line in the journal it is no mark.
            if let Some(mark) = self.marks.pop() {
                release(&mut self.holders, &mark);
            }
        })?;
        Ok(self.head)
    }

    /// Gives up the marks before number `mark`: call it when the checkpoint that holds `mark` is durable.
    ///
    /// # Errors
    /// No such mark; a journal that cannot be written.
    pub fn release_before(&mut self, mark: u64) -> Result<(), RingError> {
        self.position(mark)?;
        self.release_unless(|head| head >= mark)
    }

    /// Gives up all marks but these. Beside two that differ, as when the best checkpoint is saved between two that are due, the live
    /// window needs slots of its own: the ring grows to three windows.
    ///
    /// # Errors
    /// As [`Ring::release_before`].
    pub fn keep_marks(&mut self, kept: &[u64]) -> Result<(), RingError> {
        for mark in kept {
            self.position(*mark)?;
        }
        self.release_unless(|head| kept.contains(&head))?;
        match self.marks.len() {
            0 | 1 => Ok(()),
            marks => self.grow((marks + 1) * self.spec.capacity),
        }
    }

    fn release_unless(&mut self, kept: impl Fn(u64) -> bool) -> Result<(), RingError> {
        let before = self.marks.clone();
        self.marks.retain(|mark| kept(mark.head));
        // The journal goes first: a slot may be written again only when no journal names it any more.
        if let Err(error) = self.write_journal() {
            self.marks = before;
            return Err(error);
        }
        for mark in before.iter().filter(|mark| !kept(mark.head)) {
            release(&mut self.holders, mark);
        }
        Ok(())
    }

    /// Goes back to a mark; later marks and everything appended since are gone.
    ///
    /// # Errors
    /// No such mark; a journal that cannot be written.
    pub fn roll_back(&mut self, mark: u64) -> Result<(), RingError> {
        let position = self.position(mark)?;
        let later = self.marks.split_off(position + 1);
        if !later.is_empty()
            && let Err(error) = self.write_journal()
        {
            self.marks.extend(later);
            return Err(error);
        }
        self.restore(position);
        Ok(())
    }

    /// Makes the mark at that position the live window.
    fn restore(&mut self, position: usize) {
        self.head = self.marks[position].head;
        self.live = self.marks[position].window.iter().copied().collect();
        self.holders.fill(0);
        let marked = self.marks.iter().flat_map(|mark| &mark.window);
        for entry in marked.chain(&self.live) {
            self.holders[entry.slot as usize] += 1;
        }
        // So that the same history writes the same file again.
        self.cursor = self
            .live
            .back()
            .map_or(0, |entry| (entry.slot as usize + 1) % self.spec.slots);
    }

    fn position(&self, mark: u64) -> Result<usize, RingError> {
        self.marks
            .iter()
            .position(|known| known.head == mark)
            .ok_or_else(|| RingError::NoMark {
                path: self.path.clone(),
                mark,
                known: self.marks().collect(),
            })
    }

    fn seek(&mut self, slot: usize) -> io::Result<()> {
        let position = slot as u64 * self.spec.record as u64 * size_of::<f32>() as u64;
        self.file.seek(SeekFrom::Start(position)).map(|_| ())
    }

    fn write_journal(&self) -> Result<(), RingError> {
        let journal = Journal {
            format: JOURNAL_FORMAT,
            spec: self.spec,
            marks: self.marks.clone(),
        };
        let text = serde_json::to_vec(&journal)
            .map_err(io::Error::other)
            .map_err(io_error(&self.journal))?;
        replace_file(&self.journal, &text).map_err(io_error(&self.journal))
    }
}

fn release(holders: &mut [u32], mark: &Mark) {
    for entry in &mark.window {
        holders[entry.slot as usize] -= 1;
    }
}

fn journal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".journal");
    name.into()
}

fn byte_length(spec: RingSpec) -> Option<u64> {
    (spec.slots as u64)
        .checked_mul(spec.record as u64)?
        .checked_mul(size_of::<f32>() as u64)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RingError {
    let path = path.to_path_buf();
    move |source| RingError::Io { path, source }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
