//! Pure: a ReplicaSet's status, and when it will change by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::object::selector::Selector;
use crate::reconcile::pod_outline::PodOutline;
use crate::reconcile::pod_state::{Availability, availability, is_active, is_terminating};

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The status of now, and the next time at which a ready pod becomes available.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    pub status: ReplicaSetStatus,
    pub next_available: Option<Timestamp>,
}

/// Why the number of pods could not be reached in this pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFailure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    pub message: String,
}

/// What this pass tried to reach the number of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Nothing: it waits for its cache. The failure condition stays as it is.
    Waited,
    Succeeded,
    Failed(ReplicaFailure),
}

/// `pods` are all that the ReplicaSet has claimed; those whose uid is in `leaving` were deleted by us
/// but the cache does not show it yet: a status that observed a spec must not count what that spec
/// has removed, or a rollout takes it for available.
pub fn report(
    replica_set: &ReplicaSet,
    pods: &[Arc<PodOutline>],
    leaving: &BTreeSet<String>,
    attempt: &Attempt,
    now: Timestamp,
) -> Reported {
    let spec = replica_set.spec.as_ref();
    let template = spec.and_then(|spec| spec.template.as_ref());
    let labels = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let fully = labels.map(Selector::of_map).unwrap_or_default();
    let min_ready_seconds = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let (mut replicas, mut fully_labeled, mut ready, mut available) = (0, 0, 0, 0);
    let mut next_available: Option<Timestamp> = None;
    let left = |pod: &&Arc<PodOutline>| leaving.contains(&*pod.uid);
    for pod in pods.iter().filter(|pod| is_active(pod) && !left(pod)) {
        replicas += 1;
        fully_labeled += i32::from(fully.matches(&pod.labels));
        ready += i32::from(pod.is_ready);
        match availability(pod, min_ready_seconds, now) {
            Availability::NotReady => {}
            Availability::Available => available += 1,
            Availability::At(at) => {
                next_available = Some(next_available.map_or(at, |earlier| earlier.min(at)));
            }
        }
    }
    let terminating =
        pods.iter().filter(|pod| is_terminating(pod) || is_active(pod) && left(pod)).count();
    let status = ReplicaSetStatus {
        replicas,
        fully_labeled_replicas: nonzero(fully_labeled),
        ready_replicas: nonzero(ready),
        available_replicas: nonzero(available),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: replica_set.metadata.generation,
        conditions: conditions(replica_set, attempt, now),
    };
    Reported { status, next_available }
}

/// Counts of zero are left out, as the reference server's are.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// An existing failure keeps its words and its time while the failure lasts, as in Kubernetes.
fn conditions(
    replica_set: &ReplicaSet,
    attempt: &Attempt,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let old = replica_set.status.as_ref().and_then(|status| status.conditions.clone());
    let mut conditions = old.unwrap_or_default();
    let stands = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match attempt {
        Attempt::Waited => {}
        Attempt::Succeeded => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Attempt::Failed(_) if stands => {}
        Attempt::Failed(failure) => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now)),
        }),
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::SignedDuration;
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;
    use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus, PodTemplateSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::reconcile::pod_outline::outline;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn labels(version: &str) -> Option<BTreeMap<String, String>> {
        Some(BTreeMap::from([("app".into(), "web".into()), ("v".into(), version.into())]))
    }

    fn pod(version: &str, ready_seconds: Option<i64>, deleting: bool) -> Arc<PodOutline> {
        let ready = ready_seconds.map(|seconds| PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(NOW - SignedDuration::from_secs(seconds))),
            ..PodCondition::default()
        });
        outline(&Pod {
            metadata: ObjectMeta {
                labels: labels(version),
                deletion_timestamp: deleting.then_some(Time(NOW)),
                ..ObjectMeta::default()
            },
            status: Some(PodStatus {
                phase: Some("Running".into()),
                conditions: ready.map(|ready| vec![ready]),
                ..PodStatus::default()
            }),
            spec: None,
        })
    }

    fn replica_set(min_ready_seconds: i32) -> ReplicaSet {
        ReplicaSet {
            metadata: ObjectMeta { generation: Some(4), ..ObjectMeta::default() },
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: Some(min_ready_seconds),
                template: Some(PodTemplateSpec {
                    metadata: Some(ObjectMeta { labels: labels("1"), ..ObjectMeta::default() }),
                    spec: None,
                }),
                ..ReplicaSetSpec::default()
            }),
            status: None,
        }
    }

    #[test]
    fn ready_for_long_enough_is_available_and_the_rest_says_when() {
        let pods = [
            pod("1", Some(30), false),
            pod("1", Some(4), false),
            pod("2", None, false),
            pod("1", Some(99), true),
        ];
        let reported = report(&replica_set(10), &pods, &BTreeSet::new(), &Attempt::Succeeded, NOW);
        assert_eq!(
            reported.status,
            ReplicaSetStatus {
                replicas: 3,
                fully_labeled_replicas: Some(2),
                ready_replicas: Some(2),
                available_replicas: Some(1),
                terminating_replicas: Some(1),
                observed_generation: Some(4),
                conditions: None,
            }
        );
        assert_eq!(reported.next_available, Some(NOW + SignedDuration::from_secs(6)));
    }

    #[test]
    fn a_failure_stays_as_first_told_until_it_is_over() {
        let failed = |message: &str| {
            Attempt::Failed(ReplicaFailure { reason: "FailedCreate", message: message.into() })
        };
        let mut set = replica_set(0);
        set.status = Some(report(&set, &[], &BTreeSet::new(), &failed("no"), NOW).status);
        let later = NOW + SignedDuration::from_secs(60);
        for attempt in [failed("still no"), Attempt::Waited] {
            assert_eq!(
                set.status.as_ref(),
                Some(&report(&set, &[], &BTreeSet::new(), &attempt, later).status)
            );
        }
        assert_eq!(
            report(&set, &[], &BTreeSet::new(), &Attempt::Succeeded, later).status.conditions,
            None
        );
    }
}
