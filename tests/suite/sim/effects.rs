//! Counts effects on the world, and ends a life after the n-th: a crash at every point where the
//! daemon could die between two changes of the world. Asks the schedule of faults at every call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ballast::object::Kind;
use tokio_util::sync::CancellationToken;

use super::fault::{Fault, Schedule, Struck};

/// Shared by everything that changes the simulated world. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Effects(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    count: AtomicU64,
    crash_after: u64,
    crashed: CancellationToken,
    log: Mutex<Vec<String>>,
    schedule: Mutex<Schedule>,
}

impl Effects {
    /// A life that ends after the effect number `crash_after` (`u64::MAX`: never).
    pub fn new(crash_after: u64) -> Self {
        Self::with_faults(crash_after, Schedule::default())
    }

    /// The same, with faults.
    pub fn with_faults(crash_after: u64, schedule: Schedule) -> Self {
        Self(Arc::new(Inner {
            count: AtomicU64::new(0),
            crash_after,
            crashed: CancellationToken::new(),
            log: Mutex::default(),
            schedule: Mutex::new(schedule),
        }))
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
        if self.has_crashed() {
            std::future::pending::<()>().await;
        }
    }

    pub fn has_crashed(&self) -> bool {
        self.0.crashed.is_cancelled()
    }

    /// Whether a fault strikes this call.
    pub fn strikes(&self, fault: Fault, place: &str) -> bool {
        let strikes = self.schedule().strikes(fault, place);
        if strikes {
            self.0.log.lock().expect("no panic inside").push(format!("  {fault:?}: {place}"));
        }
        strikes
    }

    /// Whether a watch that begins now is late to its end.
    pub fn begins_late(&self, kind: Kind) -> bool {
        self.schedule().begins_late(kind)
    }

    /// Counts a fault that was decided earlier.
    pub fn struck_again(&self, fault: Fault) {
        self.schedule().count(fault);
    }

    /// How often each fault has struck.
    pub fn struck(&self) -> Struck {
        self.schedule().struck().clone()
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.0.schedule.lock().expect("no panic inside")
    }

    /// Resolves when the fatal effect has happened. Cancel safe.
    pub async fn crash(&self) {
        self.0.crashed.cancelled().await;
    }

    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::SeqCst)
    }

    /// Every effect and fault of this life, in order.
    pub fn log(&self) -> Vec<String> {
        self.0.log.lock().expect("no panic inside").clone()
    }
}
