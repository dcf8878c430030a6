//! Pure: which pods go first when there are too many (`ActivePodsWithRanks` of Kubernetes).
//!
//! Earlier is deleted first: (1) not bound; (2) Pending, Unknown, Running; (3) not ready; (4) lower
//! `controller.kubernetes.io/pod-deletion-cost`; (5) more active pods of the same owner on its node;
//! (6) ready for a shorter time; (7) more restarts; (8) created later. Times are compared in powers
//! of two of nanoseconds, so that a rollout does not always hit the same generation of pods; (9) the uid.
//!
//! One deviation: in Kubernetes two pods whose ready times differ within one power of two are compared
//! by uid at once, and two with equal times by (7); that order is not transitive. Here the same power
//! of two goes on to (7) and (8), and the uid comes last: a total order, with the same answer wherever
//! (7) and (8) are equal.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::object::Object;
use crate::reconcile::pod_state::{is_active, is_ready, node_name, phase, ready_since};

/// An annotation; the cache keeps it.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A pod's place; lower goes first. The fields stand in the order of the rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    bound: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    neighbours: Reverse<usize>,
    /// Unknown first, then the shorter time.
    ready_for: Option<i64>,
    restarts: Reverse<i32>,
    sidecar_restarts: Reverse<i32>,
    /// Unknown first, then the younger.
    age: Option<i64>,
    uid: String,
}

/// Active pods of the same owner on each node.
pub type Neighbours<'a> = BTreeMap<&'a str, usize>;

/// Counts the active pods on each node.
pub fn neighbours<'a>(related: impl IntoIterator<Item = &'a Pod>) -> Neighbours<'a> {
    let mut count = Neighbours::new();
    for pod in related.into_iter().filter(|pod| is_active(pod)) {
        *count.entry(node_name(pod)).or_default() += 1;
    }
    count
}

pub fn rank(pod: &Pod, neighbours: &Neighbours<'_>, now: Timestamp) -> Rank {
    let ready = is_ready(pod);
    let (restarts, sidecar_restarts) = restarts(pod);
    Rank {
        bound: !node_name(pod).is_empty(),
        phase: match phase(pod) {
            "Unknown" => 1,
            "Running" => 2,
            _ => 0,
        },
        ready,
        cost: deletion_cost(pod),
        neighbours: Reverse(neighbours.get(node_name(pod)).copied().unwrap_or_default()),
        ready_for: ready.then(|| ready_since(pod)).flatten().map(|since| power_of_two(since, now)),
        restarts: Reverse(restarts),
        sidecar_restarts: Reverse(sidecar_restarts),
        age: pod.metadata.creation_timestamp.as_ref().map(|time| power_of_two(time.0, now)),
        uid: pod.uid().to_owned(),
    }
}

/// Why this pod and not another, as far as its own state says it.
pub fn reason(pod: &Pod) -> &'static str {
    if node_name(pod).is_empty() {
        "not bound to a node"
    } else if phase(pod) != "Running" {
        "not running yet"
    } else if !is_ready(pod) {
        "not ready"
    } else if deletion_cost(pod) != 0 {
        "by its pod-deletion-cost"
    } else {
        "by neighbours, time and restarts"
    }
}

/// The first `count` of the order.
pub fn first<'a, P: AsRef<Pod>>(
    pods: &'a [P],
    neighbours: &Neighbours<'_>,
    count: usize,
    now: Timestamp,
) -> Vec<&'a P> {
    let mut ranked: Vec<(Rank, &P)> =
        pods.iter().map(|pod| (rank(pod.as_ref(), neighbours, now), pod)).collect();
    ranked.sort_by(|(one, _), (other, _)| one.cmp(other));
    ranked.into_iter().take(count).map(|(_, pod)| pod).collect()
}

/// An annotation that is no integer counts as none, as in Kubernetes: admission has refused it.
fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get(DELETION_COST));
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The power of two that a duration in nanoseconds falls into; -1 for none or the future.
fn power_of_two(since: Timestamp, now: Timestamp) -> i64 {
    let nanoseconds = now.as_nanosecond() - since.as_nanosecond();
    if nanoseconds.cmp(&0) == Ordering::Greater {
        i64::from(127 - nanoseconds.leading_zeros())
    } else {
        -1
    }
}

/// The most restarts of one container, of the regular ones and of the restartable init containers.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: BTreeSet<&str> = init
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let regular =
        status.container_statuses.iter().flatten().map(|container| container.restart_count);
    let sidecar = status.init_container_statuses.iter().flatten();
    let sidecar = sidecar
        .filter(|container| sidecars.contains(container.name.as_str()))
        .map(|container| container.restart_count);
    (regular.max().unwrap_or_default(), sidecar.max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;
    use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn ago(seconds: i64) -> Time {
        Time(NOW - SignedDuration::from_secs(seconds))
    }

    #[derive(Clone, Debug)]
    struct Made {
        node: &'static str,
        phase: &'static str,
        ready_seconds: Option<i64>,
        cost: Option<i32>,
        restarts: i32,
        age_seconds: i64,
    }

    const OLD: Made = Made {
        node: "n1",
        phase: "Running",
        ready_seconds: Some(5000),
        cost: None,
        restarts: 0,
        age_seconds: 5100,
    };

    fn pod(uid: &str, made: &Made) -> Arc<Pod> {
        let ready = made.ready_seconds.map(|seconds| PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(ago(seconds)),
            ..PodCondition::default()
        });
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(uid.into()),
                uid: Some(uid.into()),
                creation_timestamp: Some(ago(made.age_seconds)),
                annotations: made
                    .cost
                    .map(|cost| BTreeMap::from([(DELETION_COST.to_owned(), cost.to_string())])),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { node_name: Some(made.node.into()), ..PodSpec::default() }),
            status: Some(PodStatus {
                phase: Some(made.phase.into()),
                conditions: ready.map(|ready| vec![ready]),
                container_statuses: Some(vec![ContainerStatus {
                    restart_count: made.restarts,
                    ..ContainerStatus::default()
                }]),
                ..PodStatus::default()
            }),
        })
    }

    /// Each rule alone, the expected victim first.
    #[test]
    fn every_rule_decides_where_those_before_it_are_equal() {
        let cases: [(&str, Made, Made); 8] = [
            ("unbound", Made { node: "", ..OLD }, OLD),
            ("pending", Made { phase: "Pending", ..OLD }, Made { phase: "Unknown", ..OLD }),
            ("unknown", Made { phase: "Unknown", ..OLD }, OLD),
            ("not ready", Made { ready_seconds: None, ..OLD }, OLD),
            ("cost", Made { cost: Some(-5), ..OLD }, OLD),
            ("ready for less", Made { ready_seconds: Some(5), ..OLD }, OLD),
            ("restarts", Made { restarts: 3, ..OLD }, OLD),
            ("younger", Made { age_seconds: 5, ..OLD }, OLD),
        ];
        for (rule, victim, stays) in cases {
            // The uids say the opposite, so that only the rule can decide.
            let (victim, stays) = (pod("z", &victim), pod("a", &stays));
            let none = Neighbours::new();
            let pods = [stays, victim];
            let order = first(&pods, &none, 2, NOW).into_iter().map(|pod| pod.uid());
            assert_eq!(order.collect::<Vec<_>>(), ["z", "a"], "{rule}");
        }
    }

    #[test]
    fn doubled_up_pods_go_before_single_ones_and_before_time_counts() {
        let lonely = pod("a", &Made { node: "n2", ready_seconds: Some(1), ..OLD });
        let pods = [pod("x", &OLD), pod("y", &OLD), lonely];
        let count = neighbours(pods.iter().map(|pod| &**pod));
        let order: Vec<_> = first(&pods, &count, 3, NOW).into_iter().map(|pod| pod.uid()).collect();
        assert_eq!(order, ["x", "y", "a"]);
    }

    #[test]
    fn times_within_one_power_of_two_do_not_count() {
        // 5000 s and 6000 s are both between 2^42 and 2^43 ns.
        let pods = [
            pod("b", &Made { ready_seconds: Some(5000), ..OLD }),
            pod("a", &Made { ready_seconds: Some(6000), ..OLD }),
        ];
        let order: Vec<_> =
            first(&pods, &Neighbours::new(), 1, NOW).into_iter().map(|pod| pod.uid()).collect();
        assert_eq!(order, ["a"]);
    }

    fn any_made() -> impl Strategy<Value = Made> {
        let node = prop_oneof![Just(""), Just("n1"), Just("n2")];
        let phase = prop_oneof![Just("Pending"), Just("Unknown"), Just("Running")];
        let ready = proptest::option::of(0_i64..20);
        let cost = proptest::option::of(-1..2);
        (node, phase, ready, cost, 0..2, 0_i64..20).prop_map(
            |(node, phase, ready_seconds, cost, restarts, age_seconds)| Made {
                node,
                phase,
                ready_seconds,
                cost,
                restarts,
                age_seconds,
            },
        )
    }

    /// Kubernetes' `Less`, rule by rule, for pairs whose ready times are not within one power of two.
    fn upstream_less(one: &Pod, other: &Pod, count: &Neighbours<'_>) -> Option<bool> {
        let ordinal =
            |pod: &Pod| ["Pending", "Unknown", "Running"].iter().position(|p| *p == phase(pod));
        if node_name(one) != node_name(other)
            && (node_name(one).is_empty() || node_name(other).is_empty())
        {
            return Some(node_name(one).is_empty());
        }
        if ordinal(one) != ordinal(other) {
            return Some(ordinal(one) < ordinal(other));
        }
        if is_ready(one) != is_ready(other) {
            return Some(!is_ready(one));
        }
        if deletion_cost(one) != deletion_cost(other) {
            return Some(deletion_cost(one) < deletion_cost(other));
        }
        if count.get(node_name(one)) != count.get(node_name(other)) {
            return Some(count.get(node_name(one)) > count.get(node_name(other)));
        }
        if let (Some(a), Some(b)) = (ready_since(one), ready_since(other))
            && a != b
        {
            let (a, b) = (power_of_two(a, NOW), power_of_two(b, NOW));
            return (a != b).then_some(a < b);
        }
        if restarts(one) != restarts(other) {
            return Some(restarts(one) > restarts(other));
        }
        None
    }

    proptest! {
        /// Sorting by the rank agrees with every pairwise rule of Kubernetes that is transitive.
        #[test]
        fn the_order_is_total_and_agrees_with_upstream(made in proptest::collection::vec(any_made(), 1..12)) {
            let pods: Vec<Arc<Pod>> =
                made.iter().enumerate().map(|(index, made)| pod(&format!("u{index:02}"), made)).collect();
            let count = neighbours(pods.iter().map(|pod| &**pod));
            let sorted = first(&pods, &count, pods.len(), NOW);
            prop_assert_eq!(sorted.len(), pods.len());
            for (index, earlier) in sorted.iter().enumerate() {
                for later in &sorted[index + 1..] {
                    prop_assert!(rank(earlier, &count, NOW) < rank(later, &count, NOW));
                    prop_assert_ne!(upstream_less(later, earlier, &count), Some(true));
                }
            }
        }
    }
}
