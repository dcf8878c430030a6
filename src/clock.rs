//! The one place that reads the wall clock. Everything that decides takes `now` as an argument;
//! everything that loops gets a [`Clock`] from the composition root.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Tells what time it is. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    Wall,
    /// Follows tokio's clock, which a test pauses and turns forward.
    Tokio {
        base: Timestamp,
        started: Instant,
    },
}

impl Clock {
    /// The host's clock.
    pub fn wall() -> Self {
        Self(Source::Wall)
    }

    /// `base`, and from there on as fast as tokio's clock: for simulations with a paused clock.
    pub fn tokio(base: Timestamp) -> Self {
        Self(Source::Tokio { base, started: Instant::now() })
    }

    pub fn now(&self) -> Timestamp {
        match self.0 {
            Source::Wall => Timestamp::now(),
            Source::Tokio { base, started } => {
                base + SignedDuration::try_from(started.elapsed()).unwrap_or(SignedDuration::MAX)
            }
        }
    }
}
