//! The device address space: allocations with unowned addresses on both sides, and per byte whether anything
//! wrote it. Words are atomics, so that host threads can run blocks on one memory without `unsafe`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytemuck::allocation::{try_zeroed_slice_box, zeroed_slice_box};
use thiserror::Error;

/// Generic addresses of shared memory begin here.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000_0000;
/// Generic addresses of local memory begin here.
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
/// Size of either window in bytes.
pub(crate) const WINDOW: u64 = 1 << WINDOW_BITS;
pub(crate) const WINDOW_BITS: u32 = 24;
/// Blocks that a cluster can have on every chip that has clusters.
pub(crate) const CLUSTER_BLOCKS: u32 = 8;
/// Size of the window of shared memory with those of a cluster's blocks behind it.
pub(crate) const CLUSTER_WINDOW: u64 = WINDOW << 4;
/// First device address; below lie the windows of shared and local memory, and null.
const FIRST_ADDRESS: u64 = 0x1000_0000_0000;
/// Device addresses end here (47 bits, as on the GPUs).
const LAST_ADDRESS: u64 = 0x7fff_0000_0000;
/// Alignment of every allocation in bytes, that of `cudaMalloc`.
const ALIGNMENT: u64 = 512;
/// Least number of unowned bytes after an allocation.
const RED_ZONE: u64 = 1 << 20;
/// Freed allocations that findings can still name.
const FREED_REMEMBERED: usize = 4096;

/// Why the address space refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// The byte limit would be passed.
    #[error(
        "out of device memory: {requested} bytes asked for {label:?}, {used} of {limit} in use"
    )]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// What for.
        label: String,
        /// Bytes in use.
        used: u64,
        /// Byte limit of this memory.
        limit: u64,
    },
    /// The address is in no live allocation.
    #[error("device address {address:#x} is in no allocation{nearest}")]
    UnknownAddress {
        /// The address.
        address: u64,
        /// What is near, as a clause.
        nearest: String,
    },
    /// The range passes the end of its allocation.
    #[error("{bytes} bytes at offset {offset} pass the end of {label:?}, which has {size} bytes")]
    OutOfRange {
        /// Offset in the allocation.
        offset: u64,
        /// Length of the range.
        bytes: u64,
        /// Label of the allocation.
        label: String,
        /// Size of the allocation.
        size: u64,
    },
}

/// A live allocation, as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationInfo {
    /// First address.
    pub base: u64,
    /// Size in bytes, exactly as asked for.
    pub bytes: u64,
    /// The label that findings show.
    pub label: String,
}

/// One allocation with its shadow.
pub(crate) struct Allocation {
    pub base: u64,
    pub bytes: u64,
    pub label: String,
    words: Box<[AtomicU32]>,
    /// Four bits per word: which of its bytes something wrote.
    written: Box<[AtomicU8]>,
    /// Per word, who accessed it in the present launch (see `global::RaceCell`); made by the first checked launch.
    races: OnceLock<Box<[AtomicU64]>>,
    /// The same per byte; made by the first checked access of fewer than four bytes.
    byte_races: OnceLock<Box<[AtomicU64]>>,
    /// Per word, stamps of the last read and the last write; made by the first launch that orders blocks by fences.
    stamps: OnceLock<Box<[AtomicU64]>>,
    /// Per 32-byte sector, the last launch that loaded it and the last that stored to it.
    sectors: OnceLock<Box<[AtomicU32]>>,
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Allocation({:#x}, {} bytes, {:?})",
            self.base, self.bytes, self.label
        )
    }
}

impl Allocation {
    /// None if the host has not that much memory.
    fn new(base: u64, bytes: u64, label: String) -> Option<Allocation> {
        let words = bytes.div_ceil(4) as usize;
        Some(Allocation {
            base,
            bytes,
            label,
            words: try_zeroed_slice_box(words).ok()?,
            written: try_zeroed_slice_box(words).ok()?,
            races: OnceLock::new(),
            byte_races: OnceLock::new(),
            stamps: OnceLock::new(),
            sectors: OnceLock::new(),
        })
    }

    /// Whether `bytes` bytes from `address` all lie inside.
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address >= self.base && address.saturating_add(bytes) <= self.base + self.bytes
    }

    /// Per word, who accessed it in the present launch.
    pub fn races(&self) -> &[AtomicU64] {
        self.races
            .get_or_init(|| zeroed_slice_box(self.words.len()))
    }

    /// Marks a 32-byte sector as loaded or stored in a launch; true the first time.
    pub fn touch_sector(&self, index: usize, launch: u32, store: bool) -> bool {
        let sectors = self
            .sectors
            .get_or_init(|| zeroed_slice_box(2 * self.bytes.div_ceil(32) as usize));
        // A plain load first: most sectors are touched again and again.
        let sector = &sectors[2 * index + usize::from(store)];
        sector.load(Relaxed) != launch && sector.swap(launch, Relaxed) != launch
    }

    /// Per byte, who accessed it alone or in pairs in the present launch.
    pub fn byte_races(&self) -> &[AtomicU64] {
        self.byte_races
            .get_or_init(|| zeroed_slice_box(self.bytes as usize))
    }

    /// The stamp of the last read of the word at `offset`, or of the last write.
    pub fn stamp(&self, offset: u64, write: bool) -> &AtomicU64 {
        let stamps = self
            .stamps
            .get_or_init(|| zeroed_slice_box(2 * self.words.len()));
        &stamps[(offset / 4) as usize * 2 + usize::from(write)]
    }

    /// As `byte_races`, if anything made them.
    pub fn byte_races_if_any(&self) -> Option<&[AtomicU64]> {
        self.byte_races.get().map(|cells| &**cells)
    }

    pub fn forget_races(&self) {
        let kinds = [&self.races, &self.byte_races, &self.stamps];
        let cells = kinds.into_iter().filter_map(OnceLock::get);
        cells.for_each(|cells| cells.iter().for_each(|cell| cell.store(0, Relaxed)));
    }

    /// The word that holds the byte at `offset`.
    #[inline]
    pub fn word(&self, offset: u64) -> &AtomicU32 {
        &self.words[(offset / 4) as usize]
    }

    /// The written bits of the word that holds the byte at `offset`.
    #[inline]
    pub fn written(&self, offset: u64) -> &AtomicU8 {
        &self.written[(offset / 4) as usize]
    }

    /// Puts back some bytes of a word, and whether they were written.
    pub fn restore(&self, offset: u64, word: u32, written: u8, bytes: u8) {
        for at in (0..4).filter(|at| bytes >> at & 1 == 1) {
            self.put(
                offset + at,
                (word >> (8 * at)) as u8,
                written >> at & 1 == 1,
            );
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            let at = offset + i as u64;
            *byte = (self.word(at).load(Relaxed) >> (8 * (at % 4))) as u8;
        }
    }

    /// Stores one byte and, unless `written` is false, marks it.
    fn put(&self, offset: u64, byte: u8, written: bool) {
        let shift = 8 * (offset % 4);
        let bit = 1u8 << (offset % 4);
        let replace = |word: u32| Some((word & !(0xff << shift)) | u32::from(byte) << shift);
        // The closure always returns Some: the update cannot fail.
        let _ = self.word(offset).fetch_update(Relaxed, Relaxed, replace);
        if written {
            self.written(offset).fetch_or(bit, Relaxed);
        } else {
            self.written(offset).fetch_and(!bit, Relaxed);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            match rest.split_first_chunk::<4>() {
                Some((chunk, tail)) if at.is_multiple_of(4) => {
                    self.word(at).store(u32::from_le_bytes(*chunk), Relaxed);
                    self.written(at).store(0xf, Relaxed);
                    at += 4;
                    rest = tail;
                }
                _ => {
                    self.put(at, rest[0], true);
                    at += 1;
                    rest = &rest[1..];
                }
            }
        }
    }
}

struct Space {
    live: BTreeMap<u64, Arc<Allocation>>,
    freed: BTreeMap<u64, AllocationInfo>,
    next: u64,
    used: u64,
    peak: u64,
}

/// A device's memory. All methods take `&self` and can be called from several threads.
pub struct Memory {
    space: RwLock<Space>,
    limit: u64,
    launches: AtomicU32,
}

impl Memory {
    /// An empty memory that holds at most `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Memory {
        let space = Space {
            live: BTreeMap::new(),
            freed: BTreeMap::new(),
            next: FIRST_ADDRESS,
            used: 0,
            peak: 0,
        };
        Memory {
            space: RwLock::new(space),
            limit: limit_bytes,
            launches: AtomicU32::new(0),
        }
    }

    // A panic while the lock is held cannot leave the map half changed, so a poisoned lock is usable.
    fn space(&self) -> RwLockReadGuard<'_, Space> {
        self.space
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn space_mut(&self) -> RwLockWriteGuard<'_, Space> {
        self.space
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Allocates exactly `bytes` bytes at an address that is a multiple of 512, with unowned addresses on both
    /// sides; addresses are never used twice. The content is zero and counts as never written.
    pub fn alloc(&self, bytes: u64, label: &str) -> Result<u64, MemoryError> {
        let mut space = self.space_mut();
        let refused = |used| MemoryError::OutOfMemory {
            requested: bytes,
            label: label.to_owned(),
            used,
            limit: self.limit,
        };
        if bytes > self.limit.saturating_sub(space.used) {
            return Err(refused(space.used));
        }
        let base = space.next;
        let gap = RED_ZONE.max(bytes / 2);
        let next = base
            .saturating_add(bytes)
            .saturating_add(gap)
            .next_multiple_of(ALIGNMENT);
        if next >= LAST_ADDRESS {
            return Err(refused(space.used));
        }
        let Some(allocation) = Allocation::new(base, bytes, label.to_owned()) else {
            return Err(refused(space.used));
        };
        space.next = next;
        space.used += bytes;
        space.peak = space.peak.max(space.used);
        space.live.insert(base, Arc::new(allocation));
        Ok(base)
    }

    /// Frees the allocation that begins at `address`.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut space = self.space_mut();
        let Some(allocation) = space.live.remove(&address) else {
            drop(space);
            return Err(self.unknown(address));
        };
        space.used -= allocation.bytes;
        let info = AllocationInfo {
            base: address,
            bytes: allocation.bytes,
            label: allocation.label.clone(),
        };
        space.freed.insert(address, info);
        if space.freed.len() > FREED_REMEMBERED {
            space.freed.pop_first();
        }
        Ok(())
    }

    fn unknown(&self, address: u64) -> MemoryError {
        let nearest = match self.nearest(address) {
            Some((label, offset)) => format!(" (offset {offset} from {label})"),
            None => String::new(),
        };
        MemoryError::UnknownAddress { address, nearest }
    }

    fn range(&self, address: u64, bytes: u64) -> Result<(Arc<Allocation>, u64), MemoryError> {
        let found = self
            .space()
            .live
            .range(..=address)
            .next_back()
            .map(|(_, a)| Arc::clone(a));
        let allocation = match found {
            // The end address itself belongs to an empty range only.
            Some(a)
                if address < a.base + a.bytes || (bytes == 0 && address == a.base + a.bytes) =>
            {
                a
            }
            _ => return Err(self.unknown(address)),
        };
        let offset = address - allocation.base;
        if bytes > allocation.bytes - offset {
            let label = allocation.label.clone();
            return Err(MemoryError::OutOfRange {
                offset,
                bytes,
                label,
                size: allocation.bytes,
            });
        }
        Ok((allocation, offset))
    }

    /// Copies device bytes to the host.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let (allocation, offset) = self.range(address, out.len() as u64)?;
        allocation.read(offset, out);
        Ok(())
    }

    /// Copies host bytes to the device and marks them as written.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let (allocation, offset) = self.range(address, data.len() as u64)?;
        allocation.write(offset, data);
        Ok(())
    }

    /// Writes `pattern` `count` times, one after the other (memset with 1, 2 or 4 byte patterns).
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = (pattern.len() as u64).saturating_mul(count);
        let (allocation, offset) = self.range(address, bytes)?;
        // A chunk that is a multiple of a word keeps the stores whole.
        let chunk = pattern.repeat(4096);
        let mut done = 0;
        while done < bytes {
            let now = (bytes - done).min(chunk.len() as u64);
            allocation.write(offset + done, &chunk[..now as usize]);
            done += now;
        }
        Ok(())
    }

    /// Copies within the device, and with each byte whether it was ever written. The ranges may overlap.
    pub fn copy(&self, destination: u64, source: u64, bytes: u64) -> Result<(), MemoryError> {
        let (from, from_offset) = self.range(source, bytes)?;
        let (to, to_offset) = self.range(destination, bytes)?;
        let one = |i: u64| {
            let at = from_offset + i;
            let byte = (from.word(at).load(Relaxed) >> (8 * (at % 4))) as u8;
            to.put(
                to_offset + i,
                byte,
                from.written(at).load(Relaxed) >> (at % 4) & 1 == 1,
            );
        };
        if from_offset % 4 == 0 && to_offset % 4 == 0 && !Arc::ptr_eq(&from, &to) {
            let whole = bytes / 4 * 4;
            for i in (0..whole).step_by(4) {
                to.word(to_offset + i)
                    .store(from.word(from_offset + i).load(Relaxed), Relaxed);
                to.written(to_offset + i)
                    .store(from.written(from_offset + i).load(Relaxed), Relaxed);
            }
            (whole..bytes).for_each(one);
        } else if destination <= source {
            (0..bytes).for_each(one);
        } else {
            (0..bytes).rev().for_each(one);
        }
        Ok(())
    }

    /// Makes a range count as never written again, without changing its bytes.
    pub fn forget_written(&self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        let (allocation, offset) = self.range(address, bytes)?;
        for at in offset..offset + bytes {
            allocation.written(at).fetch_and(!(1 << (at % 4)), Relaxed);
        }
        Ok(())
    }

    /// The live allocation that `address` lies in.
    pub fn allocation_of(&self, address: u64) -> Option<AllocationInfo> {
        let space = self.space();
        let (_, a) = space.live.range(..=address).next_back()?;
        let inside = address < a.base + a.bytes || address == a.base;
        inside.then(|| AllocationInfo {
            base: a.base,
            bytes: a.bytes,
            label: a.label.clone(),
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.space().used
    }

    /// The most bytes that were ever in use at once.
    pub fn peak(&self) -> u64 {
        self.space().peak
    }

    /// The byte limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// All live allocations, in address order.
    pub fn leaks(&self) -> Vec<AllocationInfo> {
        let space = self.space();
        space
            .live
            .values()
            .map(|a| AllocationInfo {
                base: a.base,
                bytes: a.bytes,
                label: a.label.clone(),
            })
            .collect()
    }

    /// The live allocations, in address order.
    pub(crate) fn live(&self) -> Vec<Arc<Allocation>> {
        self.space().live.values().cloned().collect()
    }

    /// A number for the next launch, never 0. Every 65,535 launches the race cells are cleared, because they
    /// hold 16 bits of it.
    pub(crate) fn next_launch(&self) -> u32 {
        let number = self.launches.fetch_add(1, Relaxed).wrapping_add(1);
        if number % 0xffff == 1 {
            self.live().iter().for_each(|a| a.forget_races());
        }
        number
    }

    /// The allocation nearest to an address (freed ones too), and the address's offset from its start.
    pub(crate) fn nearest(&self, address: u64) -> Option<(String, i64)> {
        let space = self.space();
        let distance = |base: u64, bytes: u64| {
            if address < base {
                base - address
            } else {
                address.saturating_add(1).saturating_sub(base + bytes)
            }
        };
        let below = space.live.range(..=address).next_back();
        let above = space
            .live
            .range((Bound::Excluded(address), Bound::Unbounded))
            .next();
        let live = below
            .into_iter()
            .chain(above)
            .map(|(_, a)| (distance(a.base, a.bytes), a.base, a.label.clone()));
        let freed = space.freed.range(..=address).next_back();
        let freed = freed
            .filter(|(_, a)| distance(a.base, a.bytes) == 0)
            .map(|(_, a)| (0, a.base, format!("{} (freed)", a.label)));
        live.chain(freed)
            .filter(|(distance, ..)| *distance <= 1 << 32)
            .min_by_key(|(distance, ..)| *distance)
            .map(|(_, base, label)| (label, address.wrapping_sub(base) as i64))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} of {} bytes used)", self.used(), self.limit)
    }
}
