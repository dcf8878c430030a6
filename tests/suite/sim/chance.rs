//! Chance that can be repeated. The order of std's hash maps, ours and the crates', hangs on keys that
//! every thread draws from the operating system when it first needs them: in a thread of the
//! simulation they come from a seed.
//!
//! The way in between is the C library's `getrandom`. The function of that name here stands before
//! it in this test binary, and gives all other threads what the kernel has.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io::Read;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs `work` in a thread of its own, in which the operating system's chance comes from `seed`.
pub fn seeded<T: Send>(seed: u64, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = scope.spawn(move || {
            SEED.set(Some(seed));
            work()
        });
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `getrandom(2)`, as the C library declares it.
///
/// # Safety
/// `buffer` is valid for writes of `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller's promise, which is that of the C function.
    let buffer = unsafe {
        buffer.write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer, length)
    };
    // While a thread ends its own values are gone: it is no thread of the simulation any more.
    match SEED.try_with(Cell::get).ok().flatten() {
        Some(seed) => {
            let mut state = seed;
            for chunk in buffer.chunks_mut(8) {
                let word = splitmix(&mut state).to_le_bytes();
                chunk.copy_from_slice(&word[..chunk.len()]);
            }
            SEED.set(Some(state));
        }
        None => {
            let device = std::fs::File::open("/dev/urandom");
            if device.and_then(|mut device| device.read_exact(buffer)).is_err() {
                return -1;
            }
        }
    }
    isize::try_from(length).expect("no buffer is that long")
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[test]
fn hash_maps_of_one_seed_have_one_order() {
    use std::collections::HashSet;
    let order =
        |seed| seeded(seed, || (0..100).collect::<HashSet<u32>>().into_iter().collect::<Vec<_>>());
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    let free = || std::thread::spawn(|| (0..100).collect::<HashSet<u32>>());
    let orders: Vec<Vec<u32>> =
        (0..2).map(|_| free().join().expect("it ends").into_iter().collect()).collect();
    assert_ne!(orders[0], orders[1], "outside of the simulation chance is chance");
}
