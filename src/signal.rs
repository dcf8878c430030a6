//! A signal without payload that many wait for: "look again".
//!
//! Not tokio's `watch`, which wakes its waiters in an order drawn by chance: here they are woken in
//! the order in which they began to wait, so that a simulated run can be repeated.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Signal {
    raised: AtomicU64,
    notify: Notify,
}

impl Signal {
    /// Wakes everyone who waits, and everyone who looked before now and begins to wait.
    pub fn raise(&self) {
        self.raised.fetch_add(1, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// To be asked before a look; what is raised after it ends [`Signal::raised_since`].
    pub fn count(&self) -> u64 {
        self.raised.load(Ordering::Acquire)
    }

    /// Cancel safe.
    pub async fn raised_since(&self, count: u64) {
        loop {
            // Begun before the count is read: a raise in between wakes it.
            let notified = self.notify.notified();
            if self.count() != count {
                return;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn waiters_are_woken_in_their_order_and_no_raise_is_lost() {
        let (signal, woken) = (Arc::new(Signal::default()), Arc::new(Mutex::new(Vec::new())));
        let before = signal.count();
        for waiter in 0..20 {
            let (signal, woken) = (signal.clone(), woken.clone());
            tokio::spawn(async move {
                signal.raised_since(before).await;
                woken.lock().expect("no panic").push(waiter);
            });
        }
        tokio::task::yield_now().await;
        assert!(woken.lock().expect("no panic").is_empty());
        signal.raise();
        tokio::task::yield_now().await;
        assert_eq!(*woken.lock().expect("no panic"), (0..20).collect::<Vec<_>>());
        // Raised between the look and the wait.
        signal.raised_since(before).await;
    }
}
