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
use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::reconcile::pod_outline::{Phase, PodOutline};
use crate::reconcile::pod_state::is_active;

/// An annotation; the cache keeps what it says.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A pod's place; lower goes first. The fields stand in the order of the rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank<'a> {
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
    uid: &'a str,
}

/// Active pods of the same owner on each node.
pub type Neighbours<'a> = BTreeMap<&'a str, usize>;

/// Counts the active pods on each node.
pub fn neighbours<'a>(related: impl IntoIterator<Item = &'a PodOutline>) -> Neighbours<'a> {
    let mut count = Neighbours::new();
    for pod in related.into_iter().filter(|pod| is_active(pod)) {
        *count.entry(&*pod.node).or_default() += 1;
    }
    count
}

pub fn rank<'a>(pod: &'a PodOutline, neighbours: &Neighbours<'_>, now: Timestamp) -> Rank<'a> {
    Rank {
        bound: !pod.node.is_empty(),
        phase: match pod.phase {
            Phase::Unknown => 1,
            Phase::Running => 2,
            Phase::Pending | Phase::Succeeded | Phase::Failed => 0,
        },
        ready: pod.is_ready,
        cost: pod.deletion_cost,
        neighbours: Reverse(neighbours.get(&*pod.node).copied().unwrap_or_default()),
        ready_for: pod.ready_since.map(|since| power_of_two(since, now)),
        restarts: Reverse(pod.restarts),
        sidecar_restarts: Reverse(pod.sidecar_restarts),
        age: pod.created.map(|created| power_of_two(created, now)),
        uid: &pod.uid,
    }
}

/// Why this pod and not another, as far as its own state says it.
pub fn reason(pod: &PodOutline) -> &'static str {
    if pod.node.is_empty() {
        "not bound to a node"
    } else if pod.phase != Phase::Running {
        "not running yet"
    } else if !pod.is_ready {
        "not ready"
    } else if pod.deletion_cost != 0 {
        "by its pod-deletion-cost"
    } else {
        "by neighbours, time and restarts"
    }
}

/// The first `count` of the order.
pub fn first<'a, P: AsRef<PodOutline>>(
    pods: &'a [P],
    neighbours: &Neighbours<'_>,
    count: usize,
    now: Timestamp,
) -> Vec<&'a P> {
    let mut ranked: Vec<(Rank<'_>, &P)> =
        pods.iter().map(|pod| (rank(pod.as_ref(), neighbours, now), pod)).collect();
    ranked.sort_by(|(one, _), (other, _)| one.cmp(other));
    ranked.into_iter().take(count).map(|(_, pod)| pod).collect()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;
    use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use proptest::prelude::*;

    use super::*;
    use crate::reconcile::pod_outline::outline;

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

    fn pod(uid: &str, made: &Made) -> Arc<PodOutline> {
        let ready = made.ready_seconds.map(|seconds| PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(ago(seconds)),
            ..PodCondition::default()
        });
        outline(&Pod {
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
            let order = first(&pods, &none, 2, NOW).into_iter().map(|pod| &*pod.uid);
            assert_eq!(order.collect::<Vec<_>>(), ["z", "a"], "{rule}");
        }
    }

    #[test]
    fn doubled_up_pods_go_before_single_ones_and_before_time_counts() {
        let lonely = pod("a", &Made { node: "n2", ready_seconds: Some(1), ..OLD });
        let pods = [pod("x", &OLD), pod("y", &OLD), lonely];
        let count = neighbours(pods.iter().map(|pod| &**pod));
        let order: Vec<_> = first(&pods, &count, 3, NOW).into_iter().map(|pod| &*pod.uid).collect();
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
            first(&pods, &Neighbours::new(), 1, NOW).into_iter().map(|pod| &*pod.uid).collect();
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
    fn upstream_less(one: &PodOutline, other: &PodOutline, count: &Neighbours<'_>) -> Option<bool> {
        let phases = [Phase::Pending, Phase::Unknown, Phase::Running];
        let ordinal = |pod: &PodOutline| phases.iter().position(|phase| *phase == pod.phase);
        if one.node != other.node && (one.node.is_empty() || other.node.is_empty()) {
            return Some(one.node.is_empty());
        }
        if ordinal(one) != ordinal(other) {
            return Some(ordinal(one) < ordinal(other));
        }
        if one.is_ready != other.is_ready {
            return Some(!one.is_ready);
        }
        if one.deletion_cost != other.deletion_cost {
            return Some(one.deletion_cost < other.deletion_cost);
        }
        if count.get(&*one.node) != count.get(&*other.node) {
            return Some(count.get(&*one.node) > count.get(&*other.node));
        }
        if let (Some(a), Some(b)) = (one.ready_since, other.ready_since)
            && a != b
        {
            let (a, b) = (power_of_two(a, NOW), power_of_two(b, NOW));
            return (a != b).then_some(a < b);
        }
        let restarts = |pod: &PodOutline| (pod.restarts, pod.sidecar_restarts);
        if restarts(one) != restarts(other) {
            return Some(restarts(one) > restarts(other));
        }
        None
    }

    proptest! {
        /// Sorting by the rank agrees with every pairwise rule of Kubernetes that is transitive.
        #[test]
        fn the_order_is_total_and_agrees_with_upstream(made in proptest::collection::vec(any_made(), 1..12)) {
            let pods: Vec<Arc<PodOutline>> =
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
