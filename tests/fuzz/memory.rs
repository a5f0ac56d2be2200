//! An allocator that counts what a thread holds, so that a reader which believes a hostile size is found even if the memory is
//! never touched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes that this thread holds, and the most that it held since [`reset`]. Signed: a thread may free what another took.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(change: isize) {
    // While a thread ends its count is gone, and nobody asks for it any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now.saturating_add(change);
        held.set((now, most.max(now)));
    });
}

fn signed(size: usize) -> isize {
    isize::try_from(size).unwrap_or(isize::MAX)
}

// SAFETY: every call is passed to the system's allocator as it came, which keeps the contract; counting touches no memory but a
// thread-local cell that needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's layout, as the caller vouches for it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: `at` came from `System` by the calls here, with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(signed(size).saturating_sub(signed(layout.size())));
        // SAFETY: as above; the caller vouches that `size` is not zero and does not overflow.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Starts counting anew on this thread.
pub fn reset() {
    HELD.with(|held| held.set((0, 0)));
}

/// The most bytes that this thread held at once since [`reset`], beyond what it held then.
pub fn most() -> usize {
    usize::try_from(HELD.with(Cell::get).1).unwrap_or(0)
}

#[test]
fn what_is_taken_is_counted_and_what_is_freed_no_longer() {
    reset();
    let block = vec![0u8; 1 << 20];
    let more = [block.clone(), block].concat();
    let taken = most();
    assert!((4 << 20..5 << 20).contains(&taken), "{taken}");
    drop(more);
    drop(Vec::<u8>::with_capacity(1 << 20));
    assert_eq!(most(), taken, "the two halves were gone by then");
}
