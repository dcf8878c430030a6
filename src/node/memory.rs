//! Pure: what a pod's worker remembers between two passes. A restart of the daemon loses all of it,
//! and nothing in it may be needed for correctness then: what must survive stands in labels.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::node::image::{ImageState, Waiting};
use crate::node::probe::Verdict;
use crate::node::restart::BackOff;

/// The memory of one pod's worker, as the plan sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// By image reference.
    pub images: BTreeMap<String, ImageState>,
    /// By container: the crash-loop series.
    pub back_offs: BTreeMap<String, BackOff>,
    /// By container (empty: the sandbox): what went wrong before there was an instance to ask.
    pub failures: BTreeMap<String, Failure>,
    /// Why volumes, ConfigMaps or Secrets are not ready yet; the pod waits.
    pub unready: Option<Waiting>,
    /// Ids with a stop under way.
    pub stopping: BTreeSet<String>,
    /// Ids with a removal under way.
    pub removing: BTreeSet<String>,
    pub withdrawal: Withdrawn,
    /// By instance id.
    pub probes: BTreeMap<String, Verdicts>,
    /// By container: when a change from outside was healed by making the container anew.
    pub heals: BTreeMap<String, VecDeque<Timestamp>>,
    /// Shown only: an annotation `ballast.dev/heal: "false"` on the pod or an owner.
    pub report_only: bool,
}

/// Whether the network still sends new connections to the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Withdrawn {
    #[default]
    NotAsked,
    Asked,
    Done,
}

/// The probes' last words on one instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    pub startup: Option<Verdict>,
    pub liveness: Option<Verdict>,
    pub readiness: Option<Verdict>,
}

/// A create or start that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub waiting: Waiting,
    pub at: Timestamp,
    /// In a row.
    pub count: u32,
}

impl Failure {
    /// One more failure in a row.
    pub fn after(before: Option<&Failure>, waiting: Waiting, at: Timestamp) -> Self {
        Self { waiting, at, count: before.map_or(1, |failure| failure.count + 1) }
    }

    /// 1 s doubling to the kubelet's 10 s (its sync error back-off): most such failures are
    /// answered by a human, the rest are short.
    pub fn retry_at(&self) -> Timestamp {
        let seconds = 1_i64.checked_shl(self.count.saturating_sub(1)).unwrap_or(10).min(10);
        self.at + SignedDuration::from_secs(seconds)
    }
}
