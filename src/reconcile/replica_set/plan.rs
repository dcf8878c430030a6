//! Pure: how many pods to create, or which to delete, in one pass.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::ReplicaSet;

use crate::object::Key;
use crate::reconcile::owner::is_deleting;
use crate::reconcile::pod_outline::PodOutline;
use crate::reconcile::pod_state::is_active;
use crate::reconcile::replica_set::deletion_rank::{self, Neighbours};

/// Creations or deletions of one pass (`BurstReplicas` of Kubernetes): the next pass has a fresh view.
pub const BURST: usize = 500;

/// Four times what a pass costs for each pod that it looks at.
const REST_A_POD: SignedDuration = SignedDuration::from_micros(5);
/// A shorter rest is none: up to 200 pods nobody waits.
const LEAST_REST: SignedDuration = SignedDuration::from_millis(1);
/// No rest is longer: that of 200,000 pods.
pub const MOST_REST: SignedDuration = SignedDuration::from_secs(1);

/// How long a ReplicaSet is left alone after a pass that had nothing to create or delete. A pass looks
/// at every pod, and every pod tells of itself at least three times: with thousands of them, and no
/// rest, passes would be all that the daemon does until the last pod is ready.
pub fn rest(pods: usize) -> Option<SignedDuration> {
    let rest = REST_A_POD * i32::try_from(pods).unwrap_or(i32::MAX);
    (rest >= LEAST_REST).then_some(rest.min(MOST_REST))
}

/// What one pass does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// As many as wanted, or the ReplicaSet itself is being deleted.
    Nothing,
    /// Create pods, in batches of 1, 2, 4, …: a template that nothing accepts fails once, not 500 times.
    Create {
        batches: Vec<usize>,
        reason: String,
    },
    Delete(Vec<Deletion>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    pub key: Key,
    /// Only this incarnation.
    pub uid: String,
    pub reason: String,
}

/// `pods` are all that the ReplicaSet has claimed, in any state; `neighbours` the active pods of its
/// owner on each node (needed only where pods are too many).
pub fn plan(
    replica_set: &ReplicaSet,
    pods: &[Arc<PodOutline>],
    neighbours: &Neighbours<'_>,
    now: Timestamp,
) -> Plan {
    if is_deleting(&replica_set.metadata) {
        return Plan::Nothing;
    }
    let active: Vec<&Arc<PodOutline>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let wanted = wanted(replica_set);
    let have = active.len();
    if have < wanted {
        let count = (wanted - have).min(BURST);
        return Plan::Create {
            batches: slow_start(count),
            reason: format!("{have} of {wanted} pods"),
        };
    }
    if have == wanted {
        return Plan::Nothing;
    }
    let count = (have - wanted).min(BURST);
    let deletions = deletion_rank::first(&active, neighbours, count, now);
    let deletion = |pod: &&Arc<PodOutline>| Deletion {
        key: pod.key(),
        uid: pod.uid.to_string(),
        reason: format!("{have} pods, {wanted} wanted: {}", deletion_rank::reason(pod)),
    };
    Plan::Delete(deletions.into_iter().map(deletion).collect())
}

/// `spec.replicas`; absent is 1, as its default.
pub fn wanted(replica_set: &ReplicaSet) -> usize {
    let replicas = replica_set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or_default()
}

/// 1, 2, 4, … and the rest.
pub fn slow_start(count: usize) -> Vec<usize> {
    let mut batches = Vec::new();
    let (mut left, mut batch) = (count, 1);
    while left > 0 {
        let next = batch.min(left);
        batches.push(next);
        left -= next;
        batch *= 2;
    }
    batches
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;
    use k8s_openapi::api::core::v1::{Pod, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    use super::*;
    use crate::reconcile::pod_outline::outline;

    fn replica_set(replicas: i32) -> ReplicaSet {
        ReplicaSet {
            spec: Some(ReplicaSetSpec { replicas: Some(replicas), ..ReplicaSetSpec::default() }),
            ..ReplicaSet::default()
        }
    }

    fn pods(count: usize, phase: &str) -> Vec<Arc<PodOutline>> {
        let pod = |index| {
            outline(&Pod {
                metadata: ObjectMeta {
                    name: Some(format!("p{index}")),
                    uid: Some(format!("{phase}-{index}")),
                    ..ObjectMeta::default()
                },
                status: Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() }),
                spec: None,
            })
        };
        (0..count).map(pod).collect()
    }

    fn planned(replicas: i32, pods: &[Arc<PodOutline>]) -> Plan {
        plan(&replica_set(replicas), pods, &Neighbours::new(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn only_many_pods_make_it_rest() {
        assert_eq!(rest(0), None);
        assert_eq!(rest(199), None);
        assert_eq!(rest(5000), Some(SignedDuration::from_millis(25)));
        assert_eq!(rest(1_000_000), Some(MOST_REST));
    }

    #[test]
    fn creations_start_slowly_and_stop_at_the_burst() {
        assert_eq!(slow_start(10), [1, 2, 4, 3]);
        assert_eq!(slow_start(0), [] as [usize; 0]);
        let Plan::Create { batches, reason } = planned(5000, &[]) else { panic!("creates") };
        assert_eq!(batches.iter().sum::<usize>(), BURST);
        assert_eq!(reason, "0 of 5000 pods");
    }

    #[test]
    fn finished_and_leaving_pods_do_not_count() {
        let mut all = pods(3, "Failed");
        let mut leaving = (*pods(1, "Running")[0]).clone();
        leaving.is_deleting = true;
        all.push(Arc::new(leaving));
        assert_eq!(
            planned(1, &all),
            Plan::Create { batches: vec![1], reason: "0 of 1 pods".into() }
        );
    }

    #[test]
    fn the_surplus_goes_with_uid_and_reason() {
        let mut all = pods(2, "Running");
        all.extend(pods(1, "Pending"));
        assert_eq!(planned(3, &all), Plan::Nothing);
        let Plan::Delete(deletions) = planned(2, &all) else { panic!("deletes") };
        assert_eq!(deletions.len(), 1);
        assert_eq!(deletions[0].uid, "Pending-0");
        assert_eq!(deletions[0].reason, "3 pods, 2 wanted: not bound to a node");
        let Plan::Delete(burst) = planned(0, &pods(700, "Running")) else { panic!("deletes") };
        assert_eq!(burst.len(), BURST);
    }

    #[test]
    fn a_replica_set_that_is_being_deleted_does_nothing() {
        let mut going = replica_set(3);
        going.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(plan(&going, &[], &Neighbours::new(), Timestamp::UNIX_EPOCH), Plan::Nothing);
    }
}
