//! Wakes the loops from outside: a hook called. A wake-up carries nothing and is never lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::object::ports::WakeSync;

/// Wakes the loops.
pub struct SyncHandle {
    wakers: BTreeMap<String, Arc<Waker>>,
}

/// Wakes the loop of one source.
#[derive(Default)]
pub struct Waker {
    pub wake: Arc<Notify>,
    /// A hook called, not a timer or a watch.
    pub hooked: AtomicBool,
}

impl SyncHandle {
    pub fn new(wakers: BTreeMap<String, Arc<Waker>>) -> Self {
        Self { wakers }
    }
}

impl WakeSync for SyncHandle {
    fn wake(&self, source: &str) -> bool {
        let Some(waker) = self.wakers.get(source) else { return false };
        waker.hooked.store(true, Ordering::Relaxed);
        waker.wake.notify_one();
        true
    }
}
