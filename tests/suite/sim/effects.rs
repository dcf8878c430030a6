//! Counts effects on the world, and ends a life after the n-th: a crash at every point where the
//! daemon could die between two changes of the world.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

/// Shared by everything that changes the simulated world. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Effects(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    count: AtomicU64,
    crash_after: u64,
    crashed: CancellationToken,
    log: Mutex<Vec<String>>,
    faults: Mutex<Option<Faults>>,
}

/// A schedule of passing faults, drawn from a seed.
#[derive(Debug)]
struct Faults {
    random: StdRng,
    /// One call in so many fails; 0 is never.
    one_in: u32,
    left: u32,
}

impl Effects {
    /// A life that ends after the effect number `crash_after` (`u64::MAX`: never).
    pub fn new(crash_after: u64) -> Self {
        Self(Arc::new(Inner {
            count: AtomicU64::new(0),
            crash_after,
            crashed: CancellationToken::new(),
            log: Mutex::default(),
            faults: Mutex::new(None),
        }))
    }

    /// From now on one call in `one_in` fails, `most` times in all: the world must be well again
    /// after the last.
    pub fn with_faults(self, seed: u64, one_in: u32, most: u32) -> Self {
        let random = StdRng::seed_from_u64(seed);
        *self.0.faults.lock().expect("no panic inside") =
            Some(Faults { random, one_in, left: most });
        self
    }

    /// Says that an effect has happened. Behind the fatal one nothing happens any more: the caller
    /// waits for ever, and the life is dropped with everything that waits.
    pub async fn happened(&self, what: impl FnOnce() -> String) {
        let number = self.0.count.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.log.lock().expect("no panic inside").push(format!("{number} {}", what()));
        if number >= self.0.crash_after {
            self.0.crashed.cancel();
            std::future::pending::<()>().await;
        }
    }

    /// Effects behind the crash never happen: the caller waits for ever before it makes one.
    pub async fn alive(&self) {
        if self.0.crashed.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether this call is to fail.
    pub fn fails(&self) -> bool {
        let mut faults = self.0.faults.lock().expect("no panic inside");
        let Some(faults) = faults.as_mut().filter(|faults| faults.left > 0 && faults.one_in > 0)
        else {
            return false;
        };
        let fails = faults.random.random_range(0..faults.one_in) == 0;
        faults.left -= u32::from(fails);
        fails
    }

    /// Resolves when the fatal effect has happened. Cancel safe.
    pub async fn crash(&self) {
        self.0.crashed.cancelled().await;
    }

    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::SeqCst)
    }

    /// Every effect of this life, in order.
    pub fn log(&self) -> Vec<String> {
        self.0.log.lock().expect("no panic inside").clone()
    }
}
