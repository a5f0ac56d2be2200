//! Fixed-cut parallel loops.
//!
//! A kernel cuts its work into tasks by geometry, never by thread count; [`for_each`] runs them on the current rayon pool,
//! or on the caller when the whole job is smaller than what waking a worker costs. Either way the same tasks run with the same
//! inputs, so results do not depend on the number of threads.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

/// Work below this many floating-point operations (about 15 microseconds of one core) stays on the calling thread. Unit tests send
/// everything to the pool.
const MIN_PARALLEL_FLOPS: u64 = if cfg!(test) { 1 } else { 2_000_000 };

/// Upper limit of scratch slots a kernel asks for; also the largest number of threads one kernel call can use when its tasks
/// need scratch memory.
pub const MAX_SLOTS: usize = 32;

/// Elements of a cache line; a workspace that is cut at line boundaries has this many to spare.
pub const ALIGN: usize = 16;

/// Runs `task(0) .. task(n - 1)`, each once, in any order, with denormals flushed.
///
/// `flops` is the estimated cost of the whole loop. It decides between the pool and the caller by size alone.
pub fn for_each(n: usize, flops: u64, task: impl Fn(usize) + Sync + Send) {
    use rayon::prelude::*;
    if n <= 1 || flops < MIN_PARALLEL_FLOPS || rayon::current_num_threads() == 1 {
        let _guard = FlushDenormals::enter();
        (0..n).for_each(task);
    } else {
        (0..n).into_par_iter().with_max_len(1).for_each(|i| {
            let _guard = FlushDenormals::enter();
            task(i);
        });
    }
}

/// Number of scratch slots for `tasks` tasks.
pub const fn slots(tasks: usize) -> usize {
    if tasks < MAX_SLOTS { tasks } else { MAX_SLOTS }
}

/// Runs `tasks` tasks; `task(slot, i)` has slot `slot < slots(tasks)` to itself while it runs.
///
/// A thread keeps to one slot, so the scratch memory in use stays in its cache. Which slot a task gets is not determined: tasks must write
/// scratch before they read it.
pub fn for_each_slot(tasks: usize, flops: u64, task: impl Fn(usize, usize) + Sync + Send) {
    let free = FreeSlots::new(slots(tasks));
    for_each(tasks, flops, |i| {
        let slot = free.take();
        task(slot.index, i);
    });
}

/// Slots as bits: one means taken.
struct FreeSlots {
    taken: AtomicU32,
    count: usize,
}

struct Slot<'a> {
    owner: &'a FreeSlots,
    index: usize,
}

impl FreeSlots {
    fn new(count: usize) -> Self {
        debug_assert!(count <= MAX_SLOTS);
        Self {
            taken: AtomicU32::new(0),
            count,
        }
    }

    /// Takes the thread's usual slot if it is free, else the next free one; waits where more threads than slots compete.
    fn take(&self) -> Slot<'_> {
        let start = rayon::current_thread_index().unwrap_or(0);
        loop {
            for i in 0..self.count {
                let index = (start + i) % self.count;
                let bit = 1 << index;
                if self.taken.load(Ordering::Relaxed) & bit == 0
                    && self.taken.fetch_or(bit, Ordering::Acquire) & bit == 0
                {
                    return Slot { owner: self, index };
                }
            }
            // A holder runs on another thread and never waits for this one.
            std::thread::yield_now();
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.owner
            .taken
            .fetch_and(!(1 << self.index), Ordering::Release);
    }
}

/// The `i`-th of `parts` balanced consecutive ranges that cover `0..n`.
pub fn chunk(n: usize, parts: usize, i: usize) -> std::ops::Range<usize> {
    let (base, rem) = (n / parts, n % parts);
    let start = i * base + i.min(rem);
    start..start + base + usize::from(i < rem)
}

/// A mutable slice that tasks of one loop share, each writing its own part.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    ptr: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: `Shared` only hands out pointers and sub-slices through `unsafe` methods whose callers promise disjoint use;
// `f32` itself may be sent and shared.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Borrows `slice` for the length of a loop.
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self {
            ptr: slice.as_mut_ptr(),
            len: slice.len(),
            owner: PhantomData,
        }
    }

    /// Borrows `slice` from its first 64-byte boundary on: a vector of 16 lanes then stays in one cache line. Up to [`ALIGN`]
    /// elements are skipped.
    pub fn aligned(slice: &'a mut [f32]) -> Self {
        let skip = slice.as_ptr().align_offset(4 * ALIGN).min(slice.len());
        Self::new(&mut slice[skip..])
    }

    /// Pointer to element `offset`, for writes inside the borrowed slice.
    #[inline(always)]
    pub fn at(&self, offset: usize) -> *mut f32 {
        debug_assert!(offset <= self.len);
        // SAFETY: `offset <= len` holds for every caller in this module tree (checked in debug builds), so the result stays
        // inside or one past the allocation.
        unsafe { self.ptr.add(offset) }
    }

    /// Elements `start .. start + len`.
    ///
    /// # Safety
    /// No other task may touch these elements while the returned slice lives.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start + len <= self.len);
        // SAFETY: in bounds by the assertion; exclusive by this function's contract; the borrow of the original slice lasts `'a`.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}

/// Sets flush-to-zero and denormals-are-zero for the current thread until dropped.
///
/// On processors other than x86-64 it does nothing.
pub struct FlushDenormals {
    #[cfg(target_arch = "x86_64")]
    saved: u32,
    not_send: PhantomData<*const ()>,
}

impl FlushDenormals {
    /// Enters the flushing mode; the previous mode returns on drop.
    #[cfg(target_arch = "x86_64")]
    pub fn enter() -> Self {
        let mut saved = 0u32;
        // SAFETY: stores the thread's own MXCSR into a live local.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &mut saved, options(nostack, preserves_flags))
        };
        const FTZ_DAZ: u32 = (1 << 15) | (1 << 6);
        load_mxcsr(saved | FTZ_DAZ);
        Self {
            saved,
            not_send: PhantomData,
        }
    }

    /// Enters the flushing mode; the previous mode returns on drop.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn enter() -> Self {
        Self {
            not_send: PhantomData,
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for FlushDenormals {
    fn drop(&mut self) {
        load_mxcsr(self.saved);
    }
}

#[cfg(target_arch = "x86_64")]
fn load_mxcsr(value: u32) {
    // SAFETY: loads a value read from MXCSR with at most the two denormal bits changed, so no reserved bit is set and no exception
    // is unmasked; the rounding mode stays as it was.
    unsafe {
        std::arch::asm!("ldmxcsr [{}]", in(reg) &value, options(nostack, readonly, preserves_flags))
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn chunks_cover_once() {
        for n in [0, 1, 5, 31, 32, 33, 100] {
            for parts in 1..9 {
                let all: Vec<usize> = (0..parts).flat_map(|i| chunk(n, parts, i)).collect();
                assert_eq!(all, (0..n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn every_task_runs_once_and_slots_are_exclusive() {
        for flops in [0, u64::MAX] {
            let hits: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            let busy: Vec<AtomicUsize> = (0..MAX_SLOTS).map(|_| AtomicUsize::new(0)).collect();
            // More threads than slots.
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(MAX_SLOTS + 3)
                .build()
                .unwrap();
            pool.install(|| {
                for_each_slot(100, flops, |slot, i| {
                    assert_eq!(busy[slot].fetch_add(1, Ordering::SeqCst), 0);
                    hits[i].fetch_add(1, Ordering::SeqCst);
                    busy[slot].fetch_sub(1, Ordering::SeqCst);
                })
            });
            assert!(hits.iter().all(|h| h.load(Ordering::SeqCst) == 1));
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn denormals_are_flushed_only_inside() {
        let tiny = std::hint::black_box(f32::MIN_POSITIVE);
        let half = std::hint::black_box(0.5f32);
        {
            let _guard = FlushDenormals::enter();
            assert_eq!(std::hint::black_box(std::hint::black_box(tiny) * half), 0.0);
        }
        assert!(std::hint::black_box(std::hint::black_box(tiny) * half) > 0.0);
    }
}
