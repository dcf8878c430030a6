//! Pure: what a pod's worker remembers between two passes. A restart of the daemon loses all of it,
//! and nothing in it may be needed for correctness then: what must survive stands in labels.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ContainerStatus;

use crate::node::image::{ImageState, Waiting};
use crate::node::probe::Verdict;
use crate::node::restart::BackOff;

/// The memory of one pod's worker, as the plan sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// By image reference.
    pub images: BTreeMap<String, ImageState>,
    /// Images whose pull was told to this pod, and of which no container was made since.
    pub pulled: BTreeSet<String>,
    /// By container: the crash-loop series.
    pub back_offs: BTreeMap<String, BackOff>,
    /// By container (empty: the sandbox): what went wrong before there was an instance to ask.
    pub failures: BTreeMap<String, Failure>,
    /// Why volumes, ConfigMaps or Secrets are not ready yet; the pod waits.
    pub unready: Option<Waiting>,
    /// By instance id: what an ended container left to be read.
    pub last_words: BTreeMap<String, String>,
    /// By instance id: how far the hook after its start came.
    pub post_starts: BTreeMap<String, PostStart>,
    /// By instance id: what ends, and is not told to stop yet.
    pub endings: BTreeMap<String, Ending>,
    /// Ids with a stop under way.
    pub stopping: BTreeSet<String>,
    /// By id: when the engine ends what was told to stop.
    pub stop_by: BTreeMap<String, Timestamp>,
    /// Ids with a removal under way.
    pub removing: BTreeSet<String>,
    pub withdrawal: Withdrawn,
    /// By instance id.
    pub probes: BTreeMap<String, Verdicts>,
    /// Files of volumes that somebody changed on the host, as fields.
    pub changed_files: Vec<String>,
    /// Ids with a rename under way.
    pub renaming: BTreeSet<String>,
    /// Containers that began before they had the pod's host name.
    pub unnamed: u32,
    /// By id of a running container whose sandbox was made before the pod: whether it has the pod's
    /// host name.
    pub has_name: BTreeMap<String, bool>,
    /// By container: when a change from outside was healed by making the container anew.
    pub heals: BTreeMap<String, VecDeque<Timestamp>>,
    /// Shown only: an annotation `ballast.dev/heal: "false"` on the pod or an owner.
    pub report_only: bool,
    /// `progressDeadlineSeconds` of the Deployment behind the pod.
    pub progress_deadline: Option<SignedDuration>,
    /// What is wanted of the pod (`drift::wanted_id`), and since when.
    pub wanted: Option<(String, Timestamp)>,
    /// Times of instances, or of the pod, that lay in the future when they were first seen, and when
    /// that was: see [`Memory::settle`].
    pub stepped: BTreeMap<Timestamp, Timestamp>,
}

impl Memory {
    /// What is later than `now` counts as now: the clock stepped back, or the engine's is ahead, and
    /// a back-off from such a time would last as long as the step. `told` are the times that others
    /// wrote: they cannot be put right, so it is remembered what stands for them.
    pub fn settle(&mut self, told: impl IntoIterator<Item = Timestamp>, now: Timestamp) {
        let told: BTreeSet<Timestamp> = told.into_iter().collect();
        self.stepped.retain(|at, _| told.contains(at));
        for at in told.into_iter().filter(|at| *at > now) {
            self.stepped.entry(at).or_insert(now);
        }
        let failures = self.failures.values_mut().map(|failure| &mut failure.at);
        let back_offs = self.back_offs.values_mut().map(|back_off| &mut back_off.updated_at);
        let heals = self.heals.values_mut().flatten();
        for at in self.stepped.values_mut().chain(failures).chain(back_offs).chain(heals) {
            *at = (*at).min(now);
        }
    }

    /// The time that stands for one that others wrote.
    pub fn counted(&self, at: Timestamp) -> Timestamp {
        self.stepped.get(&at).copied().unwrap_or(at)
    }
}

/// A container's postStart hook; unknown: it was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostStart {
    Running,
    Done,
    Failed,
}

/// A container whose end has begun: its hook runs, or it waits for its turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// When its grace is over.
    pub until: Timestamp,
    /// Its preStop hook has not ended.
    pub hook_runs: bool,
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

impl Verdicts {
    /// As an earlier run of the daemon left them in the status of this very instance: a restart of
    /// the daemon makes no ready container unready until its probe is asked again.
    pub fn of_status(status: &ContainerStatus) -> Self {
        let passed = |holds: bool| holds.then_some(Verdict::Passed);
        Self {
            startup: passed(status.started == Some(true)),
            liveness: None,
            readiness: passed(status.ready),
        }
    }
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
        Self { waiting, at, count: before.map_or(1, |failure| failure.count.saturating_add(1)) }
    }

    /// 1 s doubling to the kubelet's 10 s (its sync error back-off): most such failures are
    /// answered by a human, the rest are short.
    pub fn retry_at(&self) -> Timestamp {
        let seconds = if self.count > 4 { 10 } else { 1 << self.count.saturating_sub(1) };
        self.at + SignedDuration::from_secs(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_number_of_failures_puts_the_next_try_off_or_overflows(count in any::<u32>()) {
            let at = Timestamp::from_second(1_000_000).expect("a time");
            let before = Failure { waiting: Waiting::creating(), at, count };
            let after = Failure::after(Some(&before), Waiting::creating(), at);
            for failure in [before, after] {
                let wait = failure.retry_at().duration_since(at).as_secs();
                prop_assert!((1..=10).contains(&wait), "{wait} s after {} failures", failure.count);
            }
        }
    }

    #[test]
    fn failures_are_tried_again_after_1_2_4_8_and_then_every_10_seconds() {
        let at = Timestamp::from_second(1_000_000).expect("a time");
        let mut failure: Option<Failure> = None;
        let mut waits = Vec::new();
        for _ in 0..100 {
            let next = Failure::after(failure.as_ref(), Waiting::creating(), at);
            waits.push(next.retry_at().duration_since(at).as_secs());
            failure = Some(next);
        }
        assert_eq!(waits[..5], [1, 2, 4, 8, 10]);
        assert!(waits[4..].iter().all(|wait| *wait == 10), "{waits:?}");
    }
}
