//! Pure: who was heard of when. The memory goes in by value and comes out by value.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{NodeCondition, Taint};

use crate::object::{condition, taint};

/// How long what may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Silence after which a node is lost (`node-monitor-grace-period`: 50 s since Kubernetes 1.32,
    /// five renewals of a Lease). A shorter one takes every Service of a host down when one durable
    /// write is late behind an image pull.
    pub grace: SignedDuration,
    /// The same for a node that has never reported a condition (kube-controller-manager
    /// `node-startup-grace-period`: 60 s).
    pub startup_grace: SignedDuration,
    /// How long a node may be missing before its pods are removed (pod GC quarantine: 40 s).
    pub quarantine: SignedDuration,
    /// Finished pods that are kept (`terminated-pod-gc-threshold`: 12,500).
    pub finished_pods: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: SignedDuration::from_secs(50),
            startup_grace: SignedDuration::from_secs(60),
            quarantine: SignedDuration::from_secs(40),
            finished_pods: 12_500,
        }
    }
}

/// A node and its Lease, as far as they matter here.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    pub name: String,
    pub uid: String,
    pub resource_version: Option<String>,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub conditions: Vec<NodeCondition>,
    /// The Lease's `renewTime`, by the clock of the node: compared with itself only.
    pub lease_renewed: Option<Timestamp>,
}

/// What a pass remembers for the next one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    heard: HashMap<String, Heard>,
    /// When a `NoExecute` taint without a time of its own was first seen.
    tainted: BTreeMap<(String, String), Timestamp>,
    last_pass: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    lease_renewed: Option<Timestamp>,
    status_sent: Option<Timestamp>,
    /// When one of the two last changed, by our clock.
    at: Timestamp,
}

impl Memory {
    /// Listens: a heartbeat is a Lease or a Ready condition with another time than before. A node
    /// seen for the first time counts as heard now, so that after our own start every node has its
    /// whole grace. If the last pass is longer ago than the grace, we slept (a suspended host, a
    /// stopped process): then everybody counts as heard now.
    pub fn listen(mut self, nodes: &[NodeFacts], settings: &Settings, now: Timestamp) -> Self {
        let slept = self.last_pass.is_some_and(|last| {
            let gap = now.duration_since(last);
            gap > settings.grace || gap.is_negative()
        });
        let mut heard = HashMap::with_capacity(nodes.len());
        for node in nodes {
            let ready = condition::find(&node.conditions, "Ready");
            let status_sent = ready.and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
            let new = Heard { lease_renewed: node.lease_renewed, status_sent, at: now };
            let old = self.heard.remove(&node.uid).filter(|old| {
                !slept && old.lease_renewed == new.lease_renewed && old.status_sent == status_sent
            });
            heard.insert(node.uid.clone(), old.unwrap_or(new));
        }
        let mut tainted = BTreeMap::new();
        for node in nodes {
            for taint in node.taints.iter().filter(|taint| taint.time_added.is_none()) {
                let name = (node.uid.clone(), taint.key.clone());
                let since = self.tainted.get(&name).copied().unwrap_or(now);
                tainted.insert(name, since);
            }
        }
        Self { heard, tainted, last_pass: Some(now) }
    }

    /// How long the node has been silent; zero for one that was never listened to.
    pub fn silence(&self, node: &NodeFacts, now: Timestamp) -> SignedDuration {
        self.heard.get(&node.uid).map_or(SignedDuration::ZERO, |heard| now.duration_since(heard.at))
    }

    /// Since when a `NoExecute` taint is on the node: its own time, else when it was first seen.
    pub fn tainted_since(&self, node: &NodeFacts, on: &Taint, now: Timestamp) -> Timestamp {
        debug_assert_eq!(on.effect, taint::NO_EXECUTE);
        let seen = self.tainted.get(&(node.uid.clone(), on.key.clone())).copied();
        on.time_added.as_ref().map(|time| time.0).or(seen).unwrap_or(now)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    pub fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
    }

    /// A node whose agent says that it is ready, with the Lease renewed at `renewed` seconds.
    pub fn node(name: &str, renewed: i64) -> NodeFacts {
        let ready = NodeCondition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            last_heartbeat_time: Some(Time(at(0))),
            ..NodeCondition::default()
        };
        NodeFacts {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            resource_version: Some("1".to_owned()),
            unschedulable: false,
            taints: Vec::new(),
            conditions: vec![ready],
            lease_renewed: Some(at(renewed)),
        }
    }

    fn listen(memory: Memory, renewed: i64, now: i64) -> Memory {
        memory.listen(&[node("a", renewed)], &Settings::default(), at(now))
    }

    fn silence(memory: &Memory, now: i64) -> i64 {
        memory.silence(&node("a", 0), at(now)).as_secs()
    }

    #[test]
    fn silence_is_counted_from_the_last_change_by_our_clock() {
        // The node's clock is years behind: only that its time moves counts.
        let memory = listen(Memory::default(), -900_000, 0);
        let memory = listen(memory, -900_000, 10);
        assert_eq!(silence(&memory, 10), 10);
        let memory = listen(memory, -899_990, 12);
        assert_eq!(silence(&memory, 20), 8);
    }

    #[test]
    fn a_time_in_which_we_slept_is_nobodys_silence() {
        let memory = listen(listen(Memory::default(), 0, 0), 0, 10);
        let memory = listen(memory, 0, 3600);
        assert_eq!(silence(&memory, 3600), 0);
        let memory = listen(memory, 0, 3500);
        assert_eq!(silence(&memory, 3500), 0, "the clock was set back");
    }

    #[test]
    fn a_taint_without_a_time_begins_when_it_is_seen() {
        let taint = Taint { key: "k".into(), effect: taint::NO_EXECUTE.into(), ..Taint::default() };
        let tainted = NodeFacts { taints: vec![taint.clone()], ..node("a", 0) };
        let settings = Settings::default();
        let memory = Memory::default().listen(std::slice::from_ref(&tainted), &settings, at(5));
        let memory = memory.listen(std::slice::from_ref(&tainted), &settings, at(9));
        assert_eq!(memory.tainted_since(&tainted, &taint, at(9)), at(5));
    }
}
