//! How long a pod is left alone that made its worker panic.

use std::time::Duration;

use tokio::time::Instant;

use crate::node::pod_worker::REST;

/// As long as the longest crash-loop back-off: what panics once mostly does so again.
const LONGEST_QUARANTINE: Duration = Duration::from_secs(300);

/// What a panic leads to.
pub struct Quarantine {
    /// 1 s doubling to 5 min.
    pub pause: Duration,
    /// When the whole pass is tried again.
    pub until: Instant,
}

impl Quarantine {
    pub fn after(before: Option<&Quarantine>) -> Self {
        let pause = before.map_or(REST, |before| (before.pause * 2).min(LONGEST_QUARANTINE));
        Self { pause, until: Instant::now() + REST + pause }
    }
}
