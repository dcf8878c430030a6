//! Pods of one ReplicaSet brought to Ready a second: created, bound and reported Running and Ready,
//! each a durable write of its own, with admission on and Events on but not awaited. The runtime is
//! fake: it binds every pod and runs it at once.

use std::time::{Duration, Instant};

use ballast::api::{Identity, Local};
use ballast::clock::Clock;
use ballast::object::{Change, Cluster as _, Key, Object, Patch, Scope};
use ballast::reconcile;
use ballast::store::Sqlite;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use serde_json::{Value, json};

use crate::cluster::{Cluster, object};
use crate::report::Report;

const ROUNDS: usize = 3;
/// Pods that the fake runtime works on at the same time.
const RUNTIME_WRITES: usize = 256;

pub fn run(report: &mut Report) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for _ in 0..ROUNDS {
        for replicas in [1000, 5000] {
            let took = runtime.block_on(one(replicas));
            let rate = f64::from(replicas) / took.as_secs_f64();
            report.sample(&format!("{replicas} pods of one ReplicaSet to Ready"), "pods/s", rate);
        }
    }
}

async fn one(replicas: i32) -> Duration {
    let folder = tempfile::tempdir_in(".").expect("a folder on this disk");
    let whole = Cluster::open(folder.path());
    let cluster = whole.api.local(Identity::Admin);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
    cluster.create::<Namespace>(&object(namespace)).await.expect("a namespace");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    cluster.create::<Node>(&object(node)).await.expect("a node");
    reconcile::run(whole.api.local(Identity::Controllers), Clock::wall(), &whole.tasks);
    let (node, stop) = (cluster.clone(), whole.tasks.stop().clone());
    whole.tasks.spawn("fake runtime", async move {
        tokio::select! {
            // Cancel safe: the round ends here.
            () = stop.cancelled() => {}
            () = fake_runtime(node) => {}
        }
    });
    let env: Vec<Value> =
        (0..10).map(|n| json!({"name": format!("NAME_{n}"), "value": "value"})).collect();
    let container = |name: &str| json!({"name": name, "image": "example/web:v1", "env": env});
    let set = object::<ReplicaSet>(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "many", "namespace": "bench"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "many"}},
            "template": {
                "metadata": {"labels": {"app": "many"}},
                "spec": {"containers": [container("web"), container("side")]},
            },
        },
    }));
    let begun = Instant::now();
    cluster.create(&set).await.expect("a ReplicaSet");
    until_ready(&cluster, replicas).await;
    let took = begun.elapsed();
    drop(cluster);
    whole.close().await;
    took
}

async fn until_ready(cluster: &Local<Sqlite>, replicas: i32) {
    let mut changes = std::pin::pin!(cluster.watch::<ReplicaSet>(Scope::namespace("bench")));
    while let Some(change) = changes.next().await {
        if let Change::Applied(set) = change {
            let ready = set.status.as_ref().and_then(|status| status.ready_replicas);
            if ready == Some(replicas) {
                return;
            }
        }
    }
    unreachable!("a watch does not end");
}

async fn fake_runtime(cluster: Local<Sqlite>) {
    let pods = cluster.watch::<Pod>(Scope::namespace("bench")).flat_map(|change| {
        futures::stream::iter(match change {
            Change::Reset(pods) => pods,
            Change::Applied(pod) => vec![pod],
            Change::Deleted(_) => Vec::new(),
        })
    });
    let cluster = &cluster;
    pods.for_each_concurrent(RUNTIME_WRITES, |pod| async move {
        let key: Key = pod.key();
        let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if !bound {
            cluster.bind(&key, pod.uid(), "n1").await.expect("bound");
        } else if phase != Some("Running") {
            let now = Timestamp::now();
            let status = Patch::Merge(json!({"status": {
                "phase": "Running", "podIP": "10.42.0.2", "podIPs": [{"ip": "10.42.0.2"}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
            }}));
            cluster.patch_status::<Pod>(&key, &status).await.expect("running");
        }
    })
    .await;
}
