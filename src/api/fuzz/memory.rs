//! What a thread holds of memory: the allocator of the unit tests counts, so that an input whose
//! reading costs more than its share is found like one that panics.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// What the thread allocated less what it freed, and the most that this was since the mark.
    /// What another thread frees is counted there; nobody here hands memory over.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held at once beside what was there before it.
pub fn held_by<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let done = work();
    let (_, most) = HELD.get();
    (done, usize::try_from(most - before).unwrap_or(0))
}

fn count(change: isize) {
    // While a thread ends its own values are gone.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now.wrapping_add(change);
        held.set((now, most.max(now)));
    });
}

fn size(layout: Layout) -> isize {
    // A layout is never larger than that.
    isize::try_from(layout.size()).unwrap_or(isize::MAX)
}

// SAFETY: every call goes to the system's allocator as it came; beside it a cell of the thread's own
// is changed, which allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-size(layout));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, wanted: usize) -> *mut u8 {
        count(isize::try_from(wanted).unwrap_or(isize::MAX) - size(layout));
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, wanted) }
    }
}

#[test]
fn what_is_held_is_counted_and_what_is_freed_is_not() {
    let (_, held) = held_by(|| {
        let large = vec![1_u8; 3_000_000];
        drop(large);
        vec![1_u8; 1_000_000]
    });
    assert!((3_000_000..3_100_000).contains(&held), "{held}");
}
