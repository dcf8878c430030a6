//! The sign of life of one source's loop, which `/readyz` listens to: it beats in every turn, and
//! while a fetch runs.
//!
//! A completed fetch is no measure of life: a source that is polled once an hour, or whose server is
//! away, is followed all the same, and how far it is behind stands in its status. Each source beats by
//! a name of its own, so that one that hangs is not hidden by the others.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Called with the loop's name.
pub type Beat = Arc<dyn Fn(&str) + Send + Sync>;

/// Between two beats while something long runs.
const EVERY: Duration = Duration::from_secs(10);

/// What the loop of a source beats as.
pub fn loop_name(source: &str) -> String {
    format!("sync {source}")
}

pub struct Pulse {
    name: String,
    beat: Option<Beat>,
}

impl Pulse {
    pub fn new(source: &str, beat: Option<Beat>) -> Self {
        Self { name: loop_name(source), beat }
    }

    pub fn beat(&self) {
        if let Some(beat) = &self.beat {
            beat(&self.name);
        }
    }

    /// Beats while `work` runs, for at most `limit`: what outlives its own deadline hangs, and that
    /// must be seen.
    pub async fn during<T>(&self, limit: Duration, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let end = Instant::now() + limit;
        loop {
            // Cancel safe: the work is only borrowed, and goes on in the next turn.
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = sleep(EVERY), if Instant::now() < end => self.beat(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_fetch_beats_and_one_that_hangs_stops_beating() {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let ear = heard.clone();
        let beat: Beat = Arc::new(move |name| ear.lock().expect("no panic").push(name.to_owned()));
        let pulse = Pulse::new("shop", Some(beat));
        let limit = Duration::from_secs(100);
        assert_eq!(pulse.during(limit, async { 7 }).await, 7);
        assert!(heard.lock().expect("no panic").is_empty(), "what is short says nothing");
        pulse.during(limit, sleep(Duration::from_secs(45))).await;
        assert_eq!(*heard.lock().expect("no panic"), ["sync shop"; 4]);
        pulse.during(limit, sleep(Duration::from_secs(3600))).await;
        assert_eq!(heard.lock().expect("no panic").len(), 4 + 10);
    }
}
