//! Pods of two containers, bound, running and ready, of 5.5 kB each as they are stored.

use std::ops::RangeInclusive;

use ballast::api::{Identity, Local};
use ballast::object::{Cluster as _, Key, Object, Patch};
use ballast::store::Sqlite;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde_json::{Value, json};

use crate::cluster::{Cluster, object};

/// Of a stored body.
const BYTES: RangeInclusive<usize> = 5_300..=5_700;
/// Environment variables of each container: they make the size.
const VARIABLES: usize = 24;
/// Writers that fill the store.
const WRITERS: usize = 64;
/// They are spread over so many namespaces.
const NAMESPACES: usize = 10;

/// Where the pod of this number is.
pub fn key(number: usize) -> Key {
    Key::new(format!("team-{}", number % NAMESPACES), format!("web-7f4cc58bfd-{number:05}"))
}

/// As a controller would send it.
pub fn pod(key: &Key) -> Value {
    let env: Vec<Value> = (0..VARIABLES)
        .map(|n| json!({"name": format!("SETTING_{n:02}"), "value": format!("value-of-{n:02}-for-web")}))
        .collect();
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example/team/web:v1.27.3", "env": env,
            "ports": [{"containerPort": 8080, "name": format!("{name}-http")}],
            "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}})
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": key.name, "namespace": key.namespace,
            "labels": {"app": "web", "pod-template-hash": "7f4cc58bfd", "team": key.namespace},
        },
        "spec": {"containers": [container("web"), container("side")]},
    })
}

fn status(number: usize) -> Patch {
    let ip = format!("10.42.{}.{}", number / 250 % 256, number % 250 + 2);
    let at = "2026-11-21T11:40:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": at});
    let container = |name: &str| {
        json!({"name": name, "ready": true, "started": true, "restartCount": 0,
            "image": "registry.example/team/web:v1.27.3",
            "imageID": format!("docker://sha256:{number:064x}"),
            "containerID": format!("docker://{number:064x}"),
            "state": {"running": {"startedAt": at}}})
    };
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    Patch::Merge(json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "192.0.2.1", "startTime": at,
        "conditions": conditions,
        "containerStatuses": [container("web"), container("side")],
    }}))
}

/// So many pods, and their namespaces.
pub async fn fill(cluster: &Cluster, many: usize) {
    let api = cluster.api.local(Identity::Admin);
    for number in 0..NAMESPACES {
        let name = key(number).namespace;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        api.create::<Namespace>(&object(namespace)).await.expect("a namespace");
    }
    let api = &api;
    stream::iter(0..many).for_each_concurrent(WRITERS, |number| run_one(api, number)).await;
    let last = api.get::<Pod>(&key(many - 1)).await.expect("a pod");
    let bytes = serde_json::to_vec(&*last).expect("serialises").len();
    assert!(BYTES.contains(&bytes), "a pod is {bytes} bytes");
}

async fn run_one(api: &Local<Sqlite>, number: usize) {
    let key = key(number);
    let pod = api.create::<Pod>(&object(pod(&key))).await.expect("a pod");
    api.bind(&key, pod.uid(), "n1").await.expect("bound");
    api.patch_status::<Pod>(&key, &status(number)).await.expect("running");
}
