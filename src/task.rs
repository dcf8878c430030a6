//! The one function that spawns. A task that dies is logged and counted and ends the daemon in
//! order, never silently gone; a task that returns after the stop signal is simply done. What a loop
//! does about one object runs under [`caught`]: a panic there is that object's alone.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, error_span};

/// Spawns tasks that share one stop signal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    stop: CancellationToken,
    died: Arc<AtomicU64>,
    /// Held by every task: the receiver sees the end when the last one is gone.
    alive: mpsc::Sender<()>,
}

/// Waits for every task of a [`Tasks`].
#[derive(Debug)]
pub struct AllDone(mpsc::Receiver<()>);

impl Tasks {
    pub fn new() -> (Self, AllDone) {
        // One slot: nothing is ever sent, the channel only counts its senders.
        let (alive, done) = mpsc::channel(1);
        (Self { stop: CancellationToken::new(), died: Arc::default(), alive }, AllDone(done))
    }

    /// The signal every loop selects on. Cancel safe.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Tasks that ended by panic or without the stop signal.
    pub fn died(&self) -> u64 {
        self.died.load(Ordering::Relaxed)
    }

    /// Runs `future` until it returns. If it returns before the stop signal, or panics, the whole
    /// process is asked to stop: half a daemon is worse than a restart, which touches no workload.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let (stop, died, alive) = (self.stop.clone(), self.died.clone(), self.alive.clone());
        let task = tokio::spawn(future.instrument(error_span!("task", name)));
        tokio::spawn(async move {
            let outcome = task.await;
            let ended_early = !stop.is_cancelled();
            match outcome {
                Err(failure) => error!(task = name, %failure, "task died"),
                Ok(()) if ended_early => error!(task = name, "task ended before the stop signal"),
                Ok(()) => {}
            }
            if ended_early {
                died.fetch_add(1, Ordering::Relaxed);
                stop.cancel();
            }
            drop(alive);
        });
    }

    /// Runs `future` in the background; it may end whenever it is done. A panic is logged and
    /// counted, and ends nothing else: for one request, one pod, one event.
    pub fn spawn_short(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let (died, alive) = (self.died.clone(), self.alive.clone());
        let task = tokio::spawn(future.instrument(error_span!("task", name)));
        tokio::spawn(async move {
            if let Err(failure) = task.await {
                error!(task = name, %failure, "task died");
                died.fetch_add(1, Ordering::Relaxed);
            }
            drop(alive);
        });
    }
}

/// Runs `work`; a panic becomes its message. What `work` was changing may be left half changed: the
/// caller must be content with that, or throw it away.
///
/// # Errors
/// What the panic said.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| panic_text(&*payload))
}

/// As [`caught`], for a future.
///
/// # Errors
/// What the panic said.
pub async fn caught_async<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|payload| panic_text(&*payload))
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

impl AllDone {
    /// Resolves when every task is gone and every clone of the [`Tasks`] is dropped.
    pub async fn wait(mut self) {
        while self.0.recv().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| -> u8 { panic!("no {}", "way") }), Err("no way".to_owned()));
        assert_eq!(caught_async(async { 7 }).await, Ok(7));
        let work = async {
            tokio::task::yield_now().await;
            panic!("late")
        };
        assert_eq!(caught_async::<u8>(work).await, Err("late".to_owned()));
    }
}
