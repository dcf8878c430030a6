//! Pure: the decision. A snapshot and a pod in, a node or the reasons against all of them out.

use std::collections::BTreeMap;

use crate::reconcile::scheduler::demand::Demand;
use crate::reconcile::scheduler::filter::{Refusal, refusals, sentence};
use crate::reconcile::scheduler::score::scores;
use crate::reconcile::scheduler::snapshot::Snapshot;
use crate::reconcile::scheduler::storage::{Storage, Wanted};

/// Below this many nodes all are looked at (kube-scheduler `minFeasibleNodesToFind`).
const ENOUGH_NODES: usize = 100;

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    Node {
        name: String,
        /// How many nodes could have taken it, among those that were looked at.
        feasible: usize,
    },
    Unschedulable {
        /// What people read in the pod's condition and Event.
        message: String,
        /// On how many nodes a reason spoke against it.
        refusals: BTreeMap<Refusal, usize>,
    },
}

/// A placement, and how far the search went: the next one starts behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub placement: Placement,
    /// Nodes looked at.
    pub examined: usize,
}

/// Chooses the node with the best score among those that can take the pod.
///
/// The search starts at node `start` (modulo) and ends when enough nodes were found
/// ([`enough_nodes`]), so that over many pods every node is looked at equally often. Nodes with
/// the same score are drawn from by `random`. `claims` are those of a pod that has some.
pub fn place(
    snapshot: &Snapshot,
    demand: &Demand,
    claims: Option<(&Storage, &Wanted<'_>)>,
    start: usize,
    random: u64,
) -> Decision {
    let nodes = snapshot.nodes();
    let enough = enough_nodes(nodes.len());
    let mut counts: BTreeMap<Refusal, usize> = BTreeMap::new();
    let mut feasible = Vec::with_capacity(enough);
    let mut examined = 0;
    while examined < nodes.len() && feasible.len() < enough {
        let place = (start % nodes.len() + examined) % nodes.len();
        let mut against = refusals(&demand.template, &nodes[place]);
        if let Some((storage, wanted)) = claims
            && against.is_empty()
        {
            against.extend(storage.refusal(wanted, &nodes[place]));
        }
        if against.is_empty() {
            feasible.push(place);
        }
        for refusal in against {
            *counts.entry(refusal).or_insert(0) += 1;
        }
        examined += 1;
    }
    let placement = match best(snapshot, demand, &feasible, random) {
        Some(place) => {
            Placement::Node { name: nodes[place].name.clone(), feasible: feasible.len() }
        }
        None => {
            Placement::Unschedulable { message: sentence(nodes.len(), &counts), refusals: counts }
        }
    };
    Decision { placement, examined }
}

/// How many nodes that can take a pod are enough to compare: all below 100, else 50 % less one
/// percent for every 125 nodes, at least 5 % and at least 100 (kube-scheduler `schedule_one.go`).
pub fn enough_nodes(nodes: usize) -> usize {
    if nodes < ENOUGH_NODES {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ENOUGH_NODES)
}

fn best(snapshot: &Snapshot, demand: &Demand, feasible: &[usize], random: u64) -> Option<usize> {
    if let [only] = feasible {
        return Some(*only);
    }
    let scores = scores(snapshot, &demand.template, feasible);
    let highest = scores.iter().max()?;
    let ties = scores.iter().filter(|score| *score == highest).count();
    let drawn = usize::try_from(random % u64::try_from(ties).ok()?).ok()?;
    let tied = feasible.iter().zip(&scores).filter(|(_, score)| *score == highest);
    tied.map(|(place, _)| *place).nth(drawn)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Pod};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::reconcile::scheduler::demand::{HostPort, Shared};
    use crate::reconcile::scheduler::snapshot::tests::node;

    fn pod(name: &str, cpu_millis: i64, memory_mib: i64, port: i32, color: Option<&str>) -> Pod {
        let ports = json!([{"containerPort": 80, "hostPort": port}]);
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {
                "nodeSelector": color.map(|color| json!({"color": color})),
                "containers": [{"name": "c", "ports": if port > 0 { ports } else { json!([]) },
                    "resources": {"requests": {"cpu": format!("{cpu_millis}m"),
                        "memory": format!("{memory_mib}Mi")}}}],
            },
        }))
        .expect("a pod")
    }

    fn demand(pod: &Pod) -> Demand {
        Demand::of(pod, &mut Shared::default())
    }

    #[test]
    fn the_search_is_as_wide_as_the_references() {
        for (nodes, enough) in [
            (0, 0),
            (3, 3),
            (99, 99),
            (100, 100),
            (200, 100),
            (1000, 420),
            (5000, 500),
            (20000, 1000),
        ] {
            assert_eq!(enough_nodes(nodes), enough, "{nodes}");
        }
    }

    #[test]
    fn reasons_of_all_nodes_are_counted() {
        let mut snapshot = Snapshot::default();
        for (name, cpu) in [("a", "100m"), ("b", "8"), ("c", "8")] {
            let mut node = node(name, cpu, "1Gi", 10);
            if name != "a" {
                let taint = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
                node.spec.get_or_insert_default().taints =
                    Some(serde_json::from_value(taint).expect("taints"));
            }
            snapshot.apply_node(&node);
        }
        let decision = place(&snapshot, &demand(&pod("p", 1000, 0, 0, None)), None, 0, 0);
        let Placement::Unschedulable { message, .. } = decision.placement else {
            panic!("no node can take it")
        };
        assert_eq!(
            message,
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {k: v}."
        );
        assert_eq!(decision.examined, 3);
    }

    #[test]
    fn equal_nodes_are_drawn_by_the_given_number() {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b", "c"] {
            snapshot.apply_node(&node(name, "4", "4Gi", 10));
        }
        let drawn = |random| place(&snapshot, &demand(&pod("p", 1, 1, 0, None)), None, 0, random);
        let names: Vec<_> = (0..4)
            .map(|random| match drawn(random).placement {
                Placement::Node { name, feasible: 3 } => name,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["a", "b", "c", "a"]);
    }

    #[test]
    fn the_search_goes_round() {
        let mut snapshot = Snapshot::default();
        for number in 0..150 {
            snapshot.apply_node(&node(&format!("n{number}"), "4", "4Gi", 10));
        }
        let decision = place(&snapshot, &demand(&pod("p", 1, 1, 0, None)), None, 120, 0);
        assert_eq!(decision.examined, 100);
        assert_eq!(decision.placement, Placement::Node { name: "n120".into(), feasible: 100 });
    }

    /// What the oracle knows of one pod.
    #[derive(Clone, Debug)]
    struct Asked {
        cpu: i64,
        memory: i64,
        port: i32,
        color: Option<&'static str>,
    }

    #[derive(Clone, Debug)]
    struct Has {
        cpu: i64,
        memory: i64,
        pods: i64,
        color: &'static str,
    }

    fn wire(name: &str, has: &Has) -> Node {
        let memory = format!("{}Mi", has.memory);
        let mut node = node(name, &format!("{}m", has.cpu), &memory, has.pods);
        let labels = node.metadata.labels.get_or_insert_default();
        labels.insert("color".into(), has.color.into());
        node
    }

    /// Brute force over every pod that is on the node.
    fn fits(has: &Has, here: &[&Asked], asked: &Asked) -> bool {
        let cpu: i64 = here.iter().map(|pod| pod.cpu).sum();
        let memory: i64 = here.iter().map(|pod| pod.memory).sum();
        i64::try_from(here.len()).expect("few") < has.pods
            && (asked.cpu == 0 || cpu + asked.cpu <= has.cpu)
            && (asked.memory == 0 || memory + asked.memory <= has.memory)
            && (asked.port == 0 || here.iter().all(|pod| pod.port != asked.port))
            && asked.color.is_none_or(|color| color == has.color)
    }

    fn color() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("red"), Just("blue")]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_pod_goes_where_it_fits_and_waits_only_where_nothing_does(
            nodes in prop::collection::vec(
                (0_i64..4000, 0_i64..2000, 0_i64..6, color())
                    .prop_map(|(cpu, memory, pods, color)| Has { cpu, memory, pods, color }), 0..6),
            pods in prop::collection::vec(
                (0_i64..1500, 0_i64..900, 0_i32..4, prop::option::of(color()), any::<u64>(), any::<bool>())
                    .prop_map(|(cpu, memory, port, color, random, leaves)| {
                        (Asked { cpu, memory, port, color }, random, leaves)
                    }), 1..30),
        ) {
            let mut snapshot = Snapshot::default();
            for (number, has) in nodes.iter().enumerate() {
                snapshot.apply_node(&wire(&number.to_string(), has));
            }
            let mut placed: Vec<(String, usize, Asked)> = Vec::new();
            for (number, (asked, random, leaves)) in pods.iter().enumerate() {
                let uid = format!("p{number}");
                let pod = pod(&uid, asked.cpu, asked.memory, asked.port, asked.color);
                let demand = demand(&pod);
                let here = |node: usize| -> Vec<&Asked> {
                    placed.iter().filter(|(_, on, _)| *on == node).map(|(_, _, a)| a).collect()
                };
                let start = usize::try_from(random % 7).expect("small");
                let decision = place(&snapshot, &demand, None, start, *random);
                let open: Vec<usize> =
                    (0..nodes.len()).filter(|node| fits(&nodes[*node], &here(*node), asked)).collect();
                match decision.placement {
                    Placement::Node { name, feasible } => {
                        let node: usize = name.parse().expect("our own name");
                        prop_assert!(open.contains(&node), "{name} cannot take it");
                        prop_assert_eq!(feasible, open.len());
                        snapshot.charge(&*uid, &name, demand.template.footprint.clone(), true);
                        placed.push((uid, node, asked.clone()));
                    }
                    Placement::Unschedulable { refusals, .. } => {
                        prop_assert!(open.is_empty(), "{open:?} could have taken it");
                        prop_assert!(refusals.values().sum::<usize>() >= nodes.len());
                    }
                }
                if *leaves && !placed.is_empty() {
                    let (gone, _, _) = placed.remove(placed.len() / 2);
                    prop_assert!(snapshot.release(&gone));
                }
            }
            for (number, _) in nodes.iter().enumerate() {
                let promised = &snapshot.node(&number.to_string()).expect("known").promised;
                let here: Vec<&Asked> =
                    placed.iter().filter(|(_, on, _)| *on == number).map(|(_, _, a)| a).collect();
                prop_assert_eq!(promised.requests.cpu_millis, here.iter().map(|a| a.cpu).sum::<i64>());
                let ports: Vec<i32> = here.iter().map(|a| a.port).filter(|p| *p > 0).collect();
                let kept: Vec<&HostPort> = promised.ports.keys().collect();
                prop_assert_eq!(kept.len(), ports.len());
            }
        }
    }
}
