//! Pods placed a second, 10,000 pods on 1,000 nodes, without Docker. The shapes of nodes and pods
//! are those of Kubernetes' `scheduler_perf` (`SchedulingBasic`: 680 pods/s with 5,000 nodes is its
//! threshold). First the decisions alone, then the whole loop with durable bindings.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use ballast::api::{Identity, Local};
use ballast::clock::Clock;
use ballast::object::{Change, Cluster as _, Object, Scope};
use ballast::reconcile::scheduler;
use ballast::reconcile::scheduler::demand::{Demand, Shared};
use ballast::reconcile::scheduler::placement::{Placement, place};
use ballast::reconcile::scheduler::snapshot::Snapshot;
use ballast::store::Sqlite;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::cluster::Cluster;
use crate::report::Report;

const NODES: usize = 1000;
const PODS: usize = 10_000;
/// Pods of one ReplicaSet.
const REPLICAS: usize = 100;
const ROUNDS: usize = 5;
/// Each stores 21,000 objects first.
const DURABLE_ROUNDS: usize = 3;
/// Writers that fill the store.
const WRITERS: usize = 64;

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
    let runtime = Runtime::new().expect("a runtime");
    for _ in 0..DURABLE_ROUNDS {
        runtime.block_on(durable(report));
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

/// One round of decisions: every pod is read, placed and assumed, one after the other.
fn decisions(report: &mut Report, name: &str, more: impl Fn(usize) -> serde_json::Value) {
    let mut snapshot = Snapshot::default();
    for number in 0..NODES {
        snapshot.apply_node(&node(number));
    }
    let pods: Vec<Pod> = (0..PODS).map(|number| pod(number, &more(number))).collect();
    let (mut start, mut placed, mut shared) = (0, 0_usize, Shared::default());
    let begun = Instant::now();
    for (number, pod) in pods.iter().enumerate() {
        let demand = Demand::of(pod, &mut shared);
        // The golden ratio's bits: any spread-out numbers do.
        let random = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let decision = place(&snapshot, &demand, None, start, random);
        start += decision.examined;
        if let Placement::Node { name, .. } = decision.placement {
            snapshot.charge(demand.uid, &name, demand.template.footprint.clone(), true);
            placed += 1;
        }
    }
    report.sample(name, "pods/s", PODS as f64 / begun.elapsed().as_secs_f64());
    assert!(placed >= PODS - PODS / 100, "only {placed} pods found a node");
}

/// One round of the whole loop: 10,000 pods wait in the store, the scheduler starts, and the clock
/// stops when a watch has shown the last one bound.
async fn durable(report: &mut Report) {
    let folder = tempfile::tempdir_in(".").expect("a folder on this disk");
    let cluster = Cluster::open(folder.path());
    let admin = cluster.api.local(Identity::Admin);
    stream::iter((0..NODES).map(node))
        .for_each_concurrent(WRITERS, |node| fill_node(admin.clone(), node))
        .await;
    // A pod enters the store only while its controller is there.
    let mut sets = Vec::new();
    for number in 0..PODS.div_ceil(REPLICAS) {
        let labels = json!({"app": format!("set-{number}")});
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": format!("set-{number}"), "namespace": "default"},
            "spec": {"replicas": REPLICAS, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "web", "image": "example/web:v1"}]}}},
        }))
        .expect("a ReplicaSet");
        sets.push(admin.create(&set).await.expect("the ReplicaSet is stored").uid().to_owned());
    }
    let begun = Instant::now();
    stream::iter((0..PODS).map(|number| (number, pod(number, &json!({})))))
        .for_each_concurrent(WRITERS, |(number, mut pod)| {
            let admin = admin.clone();
            pod.metadata.uid = None;
            for owner in pod.metadata.owner_references.iter_mut().flatten() {
                owner.uid.clone_from(&sets[number / REPLICAS]);
            }
            async move {
                admin.create(&pod).await.expect("the pod is stored");
            }
        })
        .await;
    let created = PODS as f64 / begun.elapsed().as_secs_f64();
    report.sample("pods created durably, for comparison", "pods/s", created);

    let begun = Instant::now();
    let scheduler = cluster.api.local(Identity::Scheduler);
    let changes = admin.watch::<Pod>(Scope::all());
    scheduler::run(scheduler, Clock::wall(), &cluster.tasks);
    all_bound(changes).await;
    let rate = PODS as f64 / begun.elapsed().as_secs_f64();
    report.sample("pods bound durably", "pods/s", rate);
    drop(admin);
    cluster.close().await;
}

async fn all_bound(changes: impl Stream<Item = Change<Arc<Pod>>>) {
    let mut changes = std::pin::pin!(changes);
    let mut bound = HashSet::new();
    while bound.len() < PODS {
        let seen = match changes.next().await.expect("a watch never ends") {
            Change::Reset(pods) => pods,
            Change::Applied(pod) => vec![pod],
            Change::Deleted(pod) => panic!("{} is gone", pod.key()),
        };
        let is_bound =
            |pod: &&Arc<Pod>| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        bound.extend(seen.iter().filter(is_bound).map(|pod| pod.key()));
    }
}

async fn fill_node(cluster: Local<Sqlite>, node: Node) {
    let created = cluster.create(&node).await.expect("the node is stored");
    let mut said = (*created).clone();
    said.status = node.status;
    cluster.update_status(&said).await.expect("the node says what it has");
}
