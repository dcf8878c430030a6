//! Pure: which pods have to leave a node, and when.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use crate::object::taint::Tolerations;
use crate::object::{Key, Object, Pool, condition, taint};
use crate::reconcile::node_lifecycle::heartbeat::{Memory, NodeFacts};
use crate::reconcile::node_lifecycle::verdict::Health;

/// A pod as far as its node's fate concerns it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    pub key: Key,
    pub uid: Arc<str>,
    /// Empty where it has none.
    pub node: Arc<str>,
    pub tolerations: Arc<Tolerations>,
    pub created: Option<Timestamp>,
    /// Its condition Ready is True.
    pub ready: bool,
    /// Succeeded or Failed.
    pub over: bool,
    /// It has a deletionTimestamp.
    pub deleting: bool,
}

/// What pods have in common, each once.
#[derive(Debug, Default)]
pub struct Shared {
    nodes: Pool<str>,
    tolerations: Pool<Tolerations>,
}

/// What is to be done about one pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodStep {
    /// Its agent is silent, so nobody vouches for its readiness: it gets no traffic any more.
    MarkNotReady { key: Key, uid: Arc<str> },
    /// A taint that it does not bear, or not any longer: deleted with its grace.
    Evict { key: Key, uid: Arc<str>, taint: String },
}

impl PodStep {
    pub fn key(&self) -> &Key {
        let (Self::MarkNotReady { key, .. } | Self::Evict { key, .. }) = self;
        key
    }

    pub fn uid(&self) -> &str {
        let (Self::MarkNotReady { uid, .. } | Self::Evict { uid, .. }) = self;
        uid
    }
}

impl PodFacts {
    pub fn of(pod: &Pod, shared: &mut Shared) -> Self {
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let phase = status.and_then(|status| status.phase.as_deref());
        let conditions = status.and_then(|status| status.conditions.as_deref());
        let node = spec.and_then(|spec| spec.node_name.as_deref());
        let tolerations = spec.and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        Self {
            key: pod.key(),
            uid: pod.uid().into(),
            node: shared.nodes.share_ref(node.unwrap_or_default()),
            tolerations: shared.tolerations.share(Tolerations(tolerations)),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            ready: condition::is_true(conditions.unwrap_or_default(), "Ready"),
            over: matches!(phase, Some("Succeeded" | "Failed")),
            deleting: pod.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// What is to be done now about the pods on a node, and when to look again at those that stay for
/// a while. A disrupted cluster evicts nobody, whatever the taints say, and takes no pod out of its
/// Services: when every node is silent at once the fault is ours, and the containers most likely
/// answer. (The reference does mark them; with one node that is an outage made by a slow disk.)
pub fn plan<'a>(
    node: &NodeFacts,
    health: Health,
    disrupted: bool,
    pods: impl Iterator<Item = &'a PodFacts>,
    memory: &Memory,
    now: Timestamp,
) -> (Vec<PodStep>, Option<Timestamp>) {
    let taints: Vec<(&Taint, Timestamp)> = node
        .taints
        .iter()
        .filter(|taint| taint.effect == taint::NO_EXECUTE && !disrupted)
        .map(|taint| (taint, memory.tainted_since(node, taint, now)))
        .collect();
    let (mut steps, mut again) = (Vec::new(), None::<Timestamp>);
    for pod in pods.filter(|pod| !pod.over) {
        if health == Health::Silent && pod.ready && !disrupted {
            steps.push(PodStep::MarkNotReady { key: pod.key.clone(), uid: pod.uid.clone() });
        }
        if pod.deleting {
            continue;
        }
        let Some((due, taint)) = end_of_stay(&pod.tolerations, &taints) else { continue };
        if due <= now {
            let (key, uid) = (pod.key.clone(), pod.uid.clone());
            steps.push(PodStep::Evict { key, uid, taint: taint.key.clone() });
        } else {
            again = Some(again.map_or(due, |earlier| earlier.min(due)));
        }
    }
    (steps, again)
}

/// When the first taint's patience ends, and which one's: at once for a taint that is not borne,
/// after its seconds for one that is borne for a while. `None` may stay for ever.
fn end_of_stay<'a>(
    tolerations: &[Toleration],
    taints: &[(&'a Taint, Timestamp)],
) -> Option<(Timestamp, &'a Taint)> {
    let ends = taints.iter().filter_map(|(taint, since)| {
        match taint::tolerating(tolerations, taint) {
            None => Some((*since, *taint)),
            Some(bears) => {
                // Nought and less are at once, as in the reference.
                let stay = SignedDuration::from_secs(bears.toleration_seconds?.max(0));
                Some((since.saturating_add(stay).unwrap_or(Timestamp::MAX), *taint))
            }
        }
    });
    ends.min_by_key(|(due, _)| *due)
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::reconcile::node_lifecycle::heartbeat::tests::{at, node};

    pub fn pod(name: &str, node: &str, tolerations: Vec<Toleration>) -> PodFacts {
        PodFacts {
            key: Key::new("n", name),
            uid: format!("{name}-uid").into(),
            node: node.into(),
            tolerations: Arc::new(Tolerations(tolerations)),
            created: Some(at(0)),
            ready: false,
            over: false,
            deleting: false,
        }
    }

    fn bears(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(taint::NO_EXECUTE.to_owned()),
            toleration_seconds: seconds,
            value: None,
        }
    }

    fn lost() -> NodeFacts {
        let taint = Taint {
            key: taint::UNREACHABLE.to_owned(),
            effect: taint::NO_EXECUTE.to_owned(),
            time_added: Some(Time(at(100))),
            value: None,
        };
        NodeFacts { taints: vec![taint], ..node("a", 0) }
    }

    fn evicted(pods: &[PodFacts], disrupted: bool, now: i64) -> (Vec<String>, Option<Timestamp>) {
        let memory = Memory::default();
        let (steps, again) =
            plan(&lost(), Health::Silent, disrupted, pods.iter(), &memory, at(now));
        let names = steps.into_iter().map(|step| match step {
            PodStep::Evict { key, .. } => key.name,
            PodStep::MarkNotReady { key, .. } => format!("{} is not ready", key.name),
        });
        (names.collect(), again)
    }

    #[test]
    fn what_pods_have_in_common_is_held_once() {
        let mut shared = Shared::default();
        let mut read = |name: &str, node: Option<&str>, seconds: i64| {
            let spec = PodSpec {
                node_name: node.map(str::to_owned),
                tolerations: Some(vec![bears(taint::UNREACHABLE, Some(seconds))]),
                ..PodSpec::default()
            };
            let mut pod = Pod { spec: Some(spec), ..Pod::default() };
            pod.metadata.name = Some(name.to_owned());
            PodFacts::of(&pod, &mut shared)
        };
        let (one, two) = (read("p", Some("a"), 30), read("q", Some("a"), 30));
        assert!(Arc::ptr_eq(&one.tolerations, &two.tolerations));
        assert!(Arc::ptr_eq(&one.node, &two.node));
        let waits = read("r", None, 31);
        assert_eq!((&*waits.node, waits.tolerations[0].toleration_seconds), ("", Some(31)));
        assert!(size_of::<PodFacts>() <= 120, "{} bytes", size_of::<PodFacts>());
    }

    #[test]
    fn pods_leave_when_their_patience_ends() {
        let pods = [
            pod("at-once", "a", vec![]),
            pod("later", "a", vec![bears(taint::UNREACHABLE, Some(30))]),
            pod("never", "a", vec![bears(taint::UNREACHABLE, None)]),
            pod("first-counts", "a", vec![bears("", Some(300)), bears("", None)]),
            PodFacts { deleting: true, ..pod("going", "a", vec![]) },
            PodFacts { over: true, ..pod("over", "a", vec![]) },
        ];
        assert_eq!(evicted(&pods, false, 100), (vec!["at-once".into()], Some(at(130))));
        let (gone, again) = evicted(&pods, false, 130);
        assert_eq!((gone, again), (vec!["at-once".into(), "later".into()], Some(at(400))));
        assert_eq!(evicted(&pods, true, 1000), (vec![], None), "a disrupted cluster waits");
    }

    #[test]
    fn a_silent_nodes_pods_are_not_ready() {
        let ready = PodFacts { ready: true, ..pod("p", "a", vec![bears("", None)]) };
        assert_eq!(evicted(std::slice::from_ref(&ready), false, 100).0, ["p is not ready"]);
        assert_eq!(evicted(&[ready], true, 100).0, [""; 0], "nobody is left to vouch for anything");
    }
}
