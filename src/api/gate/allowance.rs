//! What one identity may use of the listener at a time, so that a client that runs wild is told so
//! and nobody else notices: requests a second, requests at once, open streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The bounds of each identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Requests a second, in the long run.
    pub per_second: f64,
    /// Requests that may come at once after a pause.
    pub burst: f64,
    /// Requests that are being answered. The next ones wait for [`Share::patience`].
    pub at_once: usize,
    /// Open watches, logs and streams into containers.
    pub streams: usize,
    /// For one's own earlier requests to be answered.
    pub patience: Duration,
}

/// Why a request is turned away with a 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    Rate,
    AtOnce,
    Streams,
}

/// A bucket of requests that fills with time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Takes one; whether there was one.
    fn take(&mut self, share: &Share, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + elapsed * share.per_second).min(share.burst);
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// One identity's.
#[derive(Debug)]
pub(crate) struct Allowance {
    share: Share,
    bucket: Mutex<Bucket>,
    at_once: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Allowance {
    fn new(share: Share) -> Self {
        Self {
            share,
            bucket: Mutex::new(Bucket { left: share.burst, at: Instant::now() }),
            at_once: Arc::new(Semaphore::new(share.at_once)),
            streams: Arc::new(Semaphore::new(share.streams)),
        }
    }

    /// A place among those that are answered.
    pub async fn request(&self) -> Result<OwnedSemaphorePermit, Excess> {
        let enough = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(&self.share, Instant::now())
        };
        if !enough {
            return Err(Excess::Rate);
        }
        let place = Arc::clone(&self.at_once).acquire_owned();
        match tokio::time::timeout(self.share.patience, place).await {
            Ok(place) => Ok(place.expect("nobody closes the semaphore")),
            Err(_) => Err(Excess::AtOnce),
        }
    }

    /// A place among the open streams; there is no waiting for one, they last for hours.
    pub fn stream(&self) -> Result<OwnedSemaphorePermit, Excess> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Excess::Streams)
    }
}

/// Everybody's. There is one entry a credential: who has none shares one.
#[derive(Debug)]
pub(crate) struct Allowances {
    share: Share,
    of: Mutex<HashMap<String, Arc<Allowance>>>,
}

impl Allowances {
    pub fn new(share: Share) -> Self {
        Self { share, of: Mutex::default() }
    }

    pub fn of(&self, name: &str) -> Arc<Allowance> {
        let mut all = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(name) {
            return known.clone();
        }
        let new = Arc::new(Allowance::new(self.share));
        all.insert(name.to_owned(), new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share() -> Share {
        Share {
            per_second: 10.0,
            burst: 3.0,
            at_once: 2,
            streams: 1,
            patience: Duration::from_secs(5),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_used_up_and_comes_back_with_time() {
        let ada = Allowances::new(share()).of("ada");
        for _ in 0..3 {
            drop(ada.request().await.expect("within the burst"));
        }
        assert_eq!(ada.request().await.err(), Some(Excess::Rate));
        tokio::time::advance(Duration::from_millis(100)).await;
        drop(ada.request().await.expect("one more"));
        assert_eq!(ada.request().await.err(), Some(Excess::Rate));
        tokio::time::advance(Duration::from_secs(3600)).await;
        for _ in 0..3 {
            drop(ada.request().await.expect("never more than the burst"));
        }
        assert_eq!(ada.request().await.err(), Some(Excess::Rate));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_runs_wild_leaves_the_others_theirs() {
        let all = Allowances::new(share());
        let (ada, eve) = (all.of("ada"), all.of("eve"));
        let held = (eve.request().await.expect("first"), eve.request().await.expect("second"));
        let begun = Instant::now();
        assert_eq!(eve.request().await.err(), Some(Excess::AtOnce));
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        drop(ada.request().await.expect("hers is free"));
        drop(held);
        drop(eve.request().await.expect("answered meanwhile"));
        let open = eve.stream().expect("the one stream");
        assert_eq!(all.of("eve").stream().err(), Some(Excess::Streams));
        drop(open);
        drop(eve.stream().expect("free again"));
    }
}
