//! Waits for a Git server within bounds. libgit2 blocks its thread in every read and write; behind
//! each of them stands one wait here, which ends when the daemon stops, when the server is silent
//! for too long, when the whole fetch takes too long, and when it brings too much. So nothing that
//! a server does or leaves undone holds a source up for longer than [`Patience::whole`].

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::sync::wire_fault::WireFault;

/// The bounds of one fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Without a byte from the server for this long, it is gone. 30 s: a server that prepares a
    /// large pack says so every 5 s (`uploadpack.keepAlive`).
    pub silence: Duration,
    /// The whole fetch. 10 min: [`Patience::most_bytes`] at 35 Mbit/s.
    pub whole: Duration,
    /// What one fetch may bring, 2 GiB.
    pub most_bytes: usize,
    /// What the list of references may be, 32 MiB: libgit2 holds all of them in memory. 400,000
    /// references are as large as this.
    pub most_bytes_of_references: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(30),
            whole: Duration::from_secs(600),
            most_bytes: 2 * 1024 * 1024 * 1024,
            most_bytes_of_references: 32 * 1024 * 1024,
        }
    }
}

/// One conversation with one server.
pub struct Wire {
    /// `host:port`, for sentences.
    server: String,
    /// Of this conversation alone: the thread that asks drives it while it waits, and with the
    /// conversation every connection of it is gone.
    runtime: Runtime,
    stop: CancellationToken,
    patience: Patience,
    deadline: Instant,
    received: AtomicUsize,
    /// libgit2 passes on a text at best; what ended the conversation is kept here.
    fault: Mutex<Option<WireFault>>,
}

impl Wire {
    /// # Errors
    /// The system gives no more descriptors.
    pub fn new(server: String, patience: Patience, stop: CancellationToken) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            server,
            runtime,
            stop,
            deadline: Instant::now() + patience.whole,
            patience,
            received: AtomicUsize::new(0),
            fault: Mutex::new(None),
        })
    }

    /// `host:port`
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Blocks until `future` is done or a bound is reached, whichever comes first.
    ///
    /// # Errors
    /// The future's fault or the bound; either is kept for [`Wire::fault`].
    pub fn wait<T>(
        &self,
        future: impl Future<Output = Result<T, WireFault>>,
    ) -> Result<T, WireFault> {
        let Patience { silence, whole, .. } = self.patience;
        let server = || self.server.clone();
        let result = self.runtime.block_on(async {
            // Cancel safe: what loses is the end of the conversation.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(WireFault::Stopped),
                () = tokio::time::sleep_until(self.deadline) => {
                    Err(WireFault::TooSlow { server: server(), patience: whole })
                }
                done = tokio::time::timeout(silence, future) => {
                    done.unwrap_or_else(|_| Err(WireFault::Silent { server: server(), silence }))
                }
            }
        });
        result.map_err(|fault| self.end(fault))
    }

    /// Waits for what is over already, such as a killed program: nothing but a second bounds it.
    pub fn reap<T>(&self, future: impl Future<Output = T>) {
        let bounded = async { tokio::time::timeout(Duration::from_secs(1), future).await };
        let _ = self.runtime.block_on(bounded);
    }

    /// Counts what came. `references` while the server lists them.
    ///
    /// # Errors
    /// [`WireFault::TooMuch`].
    pub fn count(&self, bytes: usize, references: bool) -> Result<(), WireFault> {
        let all = self.received.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let (most, hint) = if references {
            let hint = "its list of branches and tags is not read; delete those that nobody needs";
            (self.patience.most_bytes_of_references, hint)
        } else {
            (self.patience.most_bytes, "follow a smaller repository, or one without large files")
        };
        if all <= most {
            return Ok(());
        }
        Err(self.end(WireFault::TooMuch { server: self.server.clone(), most, hint }))
    }

    /// Notes why the conversation ended; the first reason is the reason.
    pub fn end(&self, fault: WireFault) -> WireFault {
        let mut kept = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_or_insert(fault).clone()
    }

    /// Why the conversation ended, if it ended early.
    pub fn fault(&self) -> Option<WireFault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// As libgit2's streams want it. The text is not shown: [`Wire::fault`] is.
impl From<WireFault> for io::Error {
    fn from(fault: WireFault) -> Self {
        io::Error::other(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(patience: Patience, stop: &CancellationToken) -> Wire {
        Wire::new("git.example:443".to_owned(), patience, stop.clone()).expect("a runtime")
    }

    #[test]
    fn every_wait_ends() {
        let short = Duration::from_millis(20);
        let (never, stop) = (std::future::pending, CancellationToken::new());
        let silent = wire(Patience { silence: short, ..Patience::default() }, &stop);
        let fault = silent.wait::<()>(never()).expect_err("silence");
        assert!(matches!(fault, WireFault::Silent { .. }), "{fault}");
        assert_eq!(silent.fault(), Some(fault));

        let slow = wire(Patience { whole: short, ..Patience::default() }, &stop);
        assert!(matches!(slow.wait::<()>(never()), Err(WireFault::TooSlow { .. })));

        let stopped = wire(Patience::default(), &stop);
        stop.cancel();
        assert_eq!(stopped.wait::<()>(never()), Err(WireFault::Stopped));
    }

    #[test]
    fn what_comes_is_counted() {
        let patience =
            Patience { most_bytes: 10, most_bytes_of_references: 3, ..Patience::default() };
        let stop = CancellationToken::new();
        let counted = wire(patience, &stop);
        assert_eq!(counted.count(3, true), Ok(()));
        assert_eq!(counted.count(7, false), Ok(()));
        assert!(matches!(counted.count(1, false), Err(WireFault::TooMuch { most: 10, .. })));
        let listed = wire(patience, &stop);
        assert!(matches!(listed.count(4, true), Err(WireFault::TooMuch { most: 3, .. })));
    }
}
