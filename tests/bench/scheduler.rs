//! Pods placed a second, 10,000 pods on 1,000 nodes, without Docker. The shapes of nodes and pods
//! are those of Kubernetes' `scheduler_perf` (`SchedulingBasic`: 680 pods/s with 5,000 nodes is its
//! threshold). First the decisions alone, then the whole loop with durable bindings.

use std::sync::Arc;
use std::time::Instant;

use ballast::reconcile::scheduler::demand::Demand;
use ballast::reconcile::scheduler::placement::{Placement, place};
use ballast::reconcile::scheduler::snapshot::Snapshot;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use crate::report::Report;

const NODES: usize = 1000;
const PODS: usize = 10_000;
/// Pods of one ReplicaSet.
const REPLICAS: usize = 100;
const ROUNDS: usize = 5;

pub fn run(report: &mut Report) {
    for _ in 0..ROUNDS {
        decisions(report, "decisions", |_| json!({}));
        decisions(
            report,
            "decisions, half of the nodes selected",
            |_| json!({"nodeSelector": {"half": "0"}}),
        );
        decisions(report, "decisions, one pod of a hundred fits nowhere", |number| {
            let selector = if number % 100 == 0 { json!({"half": "none"}) } else { json!({}) };
            json!({"nodeSelector": selector})
        });
    }
}

pub fn node(number: usize) -> Node {
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": format!("node-{number}"), "labels": {
            "kubernetes.io/hostname": format!("node-{number}"),
            "half": (number % 2).to_string(),
        }},
        "status": {
            "allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"},
            "capacity": {"cpu": "4", "memory": "32Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }))
    .expect("a node")
}

pub fn pod(number: usize, more: &serde_json::Value) -> Pod {
    let set = format!("set-{}", number / REPLICAS);
    let mut spec = json!({"containers": [{"name": "web", "image": "example/web:v1",
        "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]});
    json_patch::merge(&mut spec, more);
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": "default",
            "uid": format!("pod-{number}"), "ownerReferences": [{"apiVersion": "apps/v1",
                "kind": "ReplicaSet", "name": set, "uid": set, "controller": true}]},
        "spec": spec,
    }))
    .expect("a pod")
}

/// One round: every pod is read, placed and assumed, one after the other.
fn decisions(report: &mut Report, name: &str, more: impl Fn(usize) -> serde_json::Value) {
    let mut snapshot = Snapshot::default();
    for number in 0..NODES {
        snapshot.apply_node(&node(number));
    }
    let pods: Vec<Pod> = (0..PODS).map(|number| pod(number, &more(number))).collect();
    let (mut start, mut placed) = (0, 0_usize);
    let begun = Instant::now();
    for (number, pod) in pods.iter().enumerate() {
        let demand = Demand::of(pod);
        // The golden ratio's bits: any spread-out numbers do.
        let random = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let decision = place(&snapshot, &demand, start, random);
        start += decision.examined;
        if let Placement::Node { name, .. } = decision.placement {
            snapshot.charge(&demand.uid, &name, Arc::new(demand.footprint), true);
            placed += 1;
        }
    }
    report.sample(name, "pods/s", PODS as f64 / begun.elapsed().as_secs_f64());
    assert!(placed >= PODS - PODS / 100, "only {placed} pods found a node");
}
