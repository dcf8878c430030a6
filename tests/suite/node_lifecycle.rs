//! Lost nodes over the real API, in process and in virtual time.

use std::sync::Arc;
use std::time::Duration;

use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::object::{Cluster, Key, Object, Patch, condition, taint};
use ballast::reconcile::Vitals;
use ballast::reconcile::node_lifecycle::{self, Settings};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, object, until};
use crate::scheduler::{join, node};

/// Renews a node's Lease every second, as its agent would.
async fn renew(cluster: impl Cluster, node: String, clock: Clock, stop: CancellationToken) {
    let key = Key::new("kube-node-lease", node.as_str());
    let lease: Lease = object(json!({"metadata": {"name": node, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": 40}}));
    cluster.create(&lease).await.expect("created");
    while !stop.is_cancelled() {
        let renewed = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(clock.now());
        let patch = Patch::Merge(json!({"spec": {"renewTime": renewed}}));
        cluster.patch::<Lease>(&key, &patch).await.expect("renewed");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn taints(nodes: &[Arc<Node>], name: &str) -> Vec<String> {
    let node = nodes.iter().find(|node| node.key().name == name).expect("it is there");
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_loses_its_pods_and_comes_back_clean() {
    let clock = Clock::tokio(Timestamp::from_second(1_800_000_000).expect("in range"));
    let fixture = Fixture::at(clock);
    let admin = fixture.admin();
    let silence = CancellationToken::new();
    for name in ["a", "b", "c"] {
        join(&admin, &node(name, "4", 10)).await;
        let stop = if name == "c" { silence.clone() } else { CancellationToken::new() };
        fixture.tasks.spawn_short("agent", renew(admin.clone(), name.to_owned(), clock, stop));
    }
    let pod: Pod = object(json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}], "tolerations": [
            {"key": taint::UNREACHABLE, "operator": "Exists", "effect": taint::NO_EXECUTE,
                "tolerationSeconds": 30}]}}));
    let pod = admin.create(&pod).await.expect("created");
    admin.bind(&pod.key(), pod.uid(), "c").await.expect("bound");
    let ready = Patch::Strategic(json!({"status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True"}]}}));
    admin.patch_status::<Pod>(&pod.key(), &ready).await.expect("ready");

    let local = fixture.local(Identity::Controllers);
    node_lifecycle::run(local, Settings::default(), Vitals::default(), clock, &fixture.tasks);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let all = admin.list::<Node>(&ballast::object::Scope::all()).await.expect("lists");
    assert!(taints(&all.items, "c").is_empty(), "a minute of heartbeats changes nothing");

    silence.cancel();
    let lost_at = clock.now();
    until::<Node>(&admin, "the node is lost", |nodes| {
        taints(nodes, "c")
            == [
                "node.kubernetes.io/unreachable:NoSchedule",
                "node.kubernetes.io/unreachable:NoExecute",
            ]
    })
    .await;
    let noticed = clock.now().duration_since(lost_at).as_secs();
    assert!((49..=53).contains(&noticed), "after the grace of 50 s, not after {noticed}");
    until::<Pod>(&admin, "nobody vouches for its pod", |pods| {
        let status = pods[0].status.as_ref().expect("it has one");
        !condition::is_true(status.conditions.as_deref().unwrap_or_default(), "Ready")
    })
    .await;
    until::<Pod>(&admin, "its pod is evicted", |pods| {
        pods[0].metadata.deletion_timestamp.is_some()
    })
    .await;
    let evicted = clock.now().duration_since(lost_at).as_secs();
    assert!((79..=84).contains(&evicted), "30 s after the taint, not after {evicted}");

    let again = CancellationToken::new();
    let key = Key::new("kube-node-lease", "c");
    admin.delete::<Lease>(&key, &Default::default()).await.expect("made anew");
    fixture.tasks.spawn_short("agent", renew(admin.clone(), "c".to_owned(), clock, again));
    let back = Patch::Strategic(json!({"status": {"conditions": [
        {"type": "Ready", "status": "True"}]}}));
    admin.patch_status::<Node>(&Key::cluster("c"), &back).await.expect("it says it is ready");
    until::<Node>(&admin, "it comes back clean", |nodes| taints(nodes, "c").is_empty()).await;
    fixture.tasks.stop().cancel();
}
