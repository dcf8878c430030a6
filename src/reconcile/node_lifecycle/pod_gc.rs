//! Pure: which pods nobody will ever finish: those whose node does not exist, those that were
//! never bound and are to go, and the oldest of too many finished ones (`pkg/controller/podgc`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::object::Key;
use crate::reconcile::node_lifecycle::eviction::PodFacts;
use crate::reconcile::node_lifecycle::heartbeat::Settings;

/// A pod to remove, without grace.
#[derive(Clone, Debug, PartialEq)]
pub struct Removal {
    pub key: Key,
    pub uid: Arc<str>,
    /// Only if an uncached read says that this node does not exist.
    pub unless_node: Option<Arc<str>>,
    pub reason: &'static str,
}

/// Since when nodes that pods name have been missing. State in by value, out by value.
pub type Missing = BTreeMap<Arc<str>, Timestamp>;

pub fn plan<'a>(
    pods: impl Iterator<Item = &'a PodFacts> + Clone,
    nodes: &BTreeSet<&str>,
    missing: &Missing,
    settings: &Settings,
    now: Timestamp,
) -> (Vec<Removal>, Missing) {
    let mut still_missing = Missing::new();
    let mut removals = Vec::new();
    for pod in pods.clone() {
        if pod.node.is_empty() {
            if pod.deleting {
                removals.push(removal(pod, None, "it was never bound and is to go"));
            }
        } else if !nodes.contains(&*pod.node) {
            let since = *still_missing
                .entry(pod.node.clone())
                .or_insert_with(|| missing.get(&pod.node).copied().unwrap_or(now));
            if now.duration_since(since) >= settings.quarantine {
                removals.push(removal(pod, Some(pod.node.clone()), "its node does not exist"));
            }
        }
    }
    let mut finished: Vec<&PodFacts> = pods.filter(|pod| pod.over && !pod.deleting).collect();
    let surplus = finished.len().saturating_sub(settings.finished_pods);
    if surplus > 0 {
        finished.sort_by(|one, other| (one.created, &one.key).cmp(&(other.created, &other.key)));
        let oldest = finished.into_iter().take(surplus);
        removals.extend(oldest.map(|pod| removal(pod, None, "too many finished pods")));
    }
    (removals, still_missing)
}

fn removal(pod: &PodFacts, unless_node: Option<Arc<str>>, reason: &'static str) -> Removal {
    Removal { key: pod.key.clone(), uid: pod.uid.clone(), unless_node, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::node_lifecycle::eviction::tests::pod;
    use crate::reconcile::node_lifecycle::heartbeat::tests::at;

    fn names(removals: &[Removal]) -> Vec<&str> {
        removals.iter().map(|removal| removal.key.name.as_str()).collect()
    }

    #[test]
    fn a_vanished_nodes_pods_go_after_the_quarantine() {
        let pods = [pod("p", "gone", vec![]), pod("q", "here", vec![])];
        let (nodes, settings) = (BTreeSet::from(["here"]), Settings::default());
        let (removals, missing) = plan(pods.iter(), &nodes, &Missing::new(), &settings, at(0));
        assert!(removals.is_empty());
        let (removals, missing) = plan(pods.iter(), &nodes, &missing, &settings, at(39));
        assert!(removals.is_empty());
        let (removals, _) = plan(pods.iter(), &nodes, &missing, &settings, at(40));
        assert_eq!(names(&removals), ["p"]);
        assert_eq!(removals[0].unless_node.as_deref(), Some("gone"));
        let back = BTreeSet::from(["here", "gone"]);
        let (_, missing) = plan(pods.iter(), &back, &missing, &settings, at(40));
        assert!(missing.is_empty(), "its quarantine begins anew");
    }

    #[test]
    fn the_oldest_finished_pods_go_first() {
        let finished = |name: &str, created: i64| PodFacts {
            over: true,
            created: Some(at(created)),
            ..pod(name, "here", vec![])
        };
        let pods = [finished("new", 9), finished("old", 1), finished("older", 0)];
        let settings = Settings { finished_pods: 1, ..Settings::default() };
        let nodes = BTreeSet::from(["here"]);
        let (removals, _) = plan(pods.iter(), &nodes, &Missing::new(), &settings, at(9));
        assert_eq!(names(&removals), ["older", "old"]);
    }

    #[test]
    fn a_pod_that_never_got_a_node_can_go() {
        let pods = [PodFacts { deleting: true, ..pod("p", "", vec![]) }, pod("q", "", vec![])];
        let settings = Settings::default();
        let (removals, _) = plan(pods.iter(), &BTreeSet::new(), &Missing::new(), &settings, at(0));
        assert_eq!(names(&removals), ["p"]);
    }
}
