//! The scheduler over the real API, in process.

use std::collections::BTreeMap;

use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::object::{Cluster, DeleteOptions, Key, Object, condition};
use ballast::reconcile::scheduler;
use ballast::task::Tasks;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use serde_json::{Value, json};

use crate::fixture::{Fixture, object, until};

pub fn node(name: &str, cpu: &str, pods: u32) -> Node {
    object(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": pods.to_string()},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }))
}

/// Creates a node and says what it has, as its agent would.
pub async fn join(cluster: &impl Cluster, node: &Node) {
    let created = cluster.create(node).await.expect("the node is created");
    let mut said = (*created).clone();
    said.status = node.status.clone();
    cluster.update_status(&said).await.expect("the node says what it has");
}

fn pod(name: &str, cpu: &str, more: Value) -> Pod {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i:1",
            "resources": {"requests": {"cpu": cpu}}}]},
    });
    json_patch::merge(&mut pod["spec"], &more);
    object(pod)
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn start(fixture: &Fixture) -> Tasks {
    let (tasks, _done) = Tasks::new();
    let local = fixture.local(Identity::Scheduler);
    let options = scheduler::Options { seed: 1, ..scheduler::Options::default() };
    scheduler::run_with(local, options, Clock::wall(), &tasks);
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_where_it_fits() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    join(&admin, &node("small", "500m", 10)).await;
    join(&admin, &node("big", "4", 10)).await;
    let tasks = start(&fixture);
    admin.create(&pod("web", "1", json!({}))).await.expect("created");
    until::<Pod>(&admin, "the pod is bound", |pods| node_of(&pods[0]) == Some("big")).await;
    let bound = admin.get::<Pod>(&Key::new("default", "web")).await.expect("there");
    let conditions = bound.status.as_ref().and_then(|status| status.conditions.clone());
    assert!(condition::is_true(&conditions.expect("bound pods have one"), "PodScheduled"));
    until::<Event>(&admin, "an Event tells it", |events| {
        events.iter().any(|event| {
            event.reason.as_deref() == Some("Scheduled")
                && event.message.as_deref() == Some("Successfully assigned default/web to big")
        })
    })
    .await;
    tasks.stop().cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_and_is_bound_when_a_node_comes() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let mut tainted = node("tainted", "8", 10);
    tainted.spec.get_or_insert_default().taints =
        Some(object(json!([{"key": "team", "value": "a", "effect": "NoSchedule"}])));
    join(&admin, &tainted).await;
    join(&admin, &node("small", "500m", 10)).await;
    let tasks = start(&fixture);
    admin.create(&pod("web", "2", json!({}))).await.expect("created");
    let sentence = "0/2 nodes are available: 1 Insufficient cpu, \
                    1 node(s) had untolerated taint {team: a}.";
    until::<Pod>(&admin, "the pod says why it waits", |pods| {
        let conditions = pods[0].status.as_ref().and_then(|status| status.conditions.as_deref());
        condition::find(conditions.unwrap_or_default(), "PodScheduled").is_some_and(|said| {
            said.status == "False"
                && said.reason.as_deref() == Some("Unschedulable")
                && said.message.as_deref() == Some(sentence)
        })
    })
    .await;
    until::<Event>(&admin, "an Event tells it", |events| {
        events.iter().any(|event| {
            event.reason.as_deref() == Some("FailedScheduling")
                && event.message.as_deref() == Some(sentence)
        })
    })
    .await;
    join(&admin, &node("big", "4", 10)).await;
    until::<Pod>(&admin, "the pod is bound", |pods| node_of(&pods[0]) == Some("big")).await;
    tasks.stop().cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_fill_to_the_brim_and_never_over_it_also_after_a_restart() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    for number in 0..4 {
        join(&admin, &node(&format!("n{number}"), "2", 110)).await;
    }
    let mut tasks = start(&fixture);
    for number in 0..40 {
        admin.create(&pod(&format!("p{number}"), "200m", json!({}))).await.expect("created");
        if number == 20 {
            // What the first one assumed and bound, the second reads from the store.
            tasks.stop().cancel();
            tasks = start(&fixture);
        }
    }
    let full = |pods: &[std::sync::Arc<Pod>]| {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for node in pods.iter().filter_map(|pod| node_of(pod)) {
            *count.entry(node.to_owned()).or_insert(0) += 1;
        }
        assert!(count.values().all(|pods| *pods <= 10), "{count:?}");
        count.values().sum::<usize>() == 40
    };
    until::<Pod>(&admin, "all pods are bound", full).await;

    admin.create(&pod("late", "100m", json!({}))).await.expect("created");
    let late = Key::new("default", "late");
    until::<Pod>(&admin, "the late pod waits", |pods| {
        let pod = pods.iter().find(|pod| pod.key() == late).expect("it is there");
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        condition::find(conditions.unwrap_or_default(), "PodScheduled")
            .is_some_and(|said| said.status == "False")
    })
    .await;
    let end = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    admin.delete::<Pod>(&Key::new("default", "p7"), &end).await.expect("gone");
    until::<Pod>(&admin, "the late pod takes its room", |pods| {
        pods.iter().any(|pod| pod.key() == late && node_of(pod).is_some())
    })
    .await;
    tasks.stop().cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_others_are_left_alone() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    join(&admin, &node("n", "4", 110)).await;
    let tasks = start(&fixture);
    let theirs = admin.create(&pod("theirs", "100m", json!({"schedulerName": "mine"}))).await;
    admin.create(&pod("ours", "100m", json!({}))).await.expect("created");
    until::<Pod>(&admin, "ours is bound", |pods| {
        pods.iter().any(|pod| pod.key().name == "ours" && node_of(pod).is_some())
    })
    .await;
    if theirs.is_ok() {
        let theirs = admin.get::<Pod>(&Key::new("default", "theirs")).await.expect("there");
        assert_eq!(node_of(&theirs), None);
    }
    tasks.stop().cancel();
}
