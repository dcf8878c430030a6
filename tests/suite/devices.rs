//! GPUs by device requests: the node agent and its Docker client against an engine over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::node::NodeOptions;
use ballast::object::extended::DeviceClass;
use ballast::object::{Cluster, DeleteOptions, Key};
use ballast::task::{AllDone, Tasks};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use serde_json::{Value, json};

use crate::fake_docker::FakeDocker;
use crate::fixture::{Fixture, PATIENCE, object, until};
use crate::node::{NoNetwork, node_options};

fn start(fixture: &Fixture, engine: &FakeDocker) -> (Tasks, AllDone) {
    let class = |driver: &str, kind: &str, ids: &[&str]| DeviceClass {
        driver: driver.to_owned(),
        capabilities: vec![kind.to_owned()],
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
    };
    let devices = BTreeMap::from([
        ("nvidia.com/gpu".to_owned(), class("nvidia", "gpu", &["GPU-a", "GPU-b"])),
        ("example.com/card".to_owned(), class("none", "card", &["0"])),
    ]);
    let options = NodeOptions { devices, ..node_options(fixture.folder()) };
    let (tasks, done) = Tasks::new();
    let agent = fixture.local(Identity::NodeAgent { node: "n1".to_owned() });
    ballast::node::run(agent, engine.client(), options, Arc::new(NoNetwork), Clock::wall(), &tasks);
    (tasks, done)
}

fn pod(name: &str, limits: &Value) -> Pod {
    object(json!({"metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 1, "containers": [
            {"name": "web", "image": "app:v1", "resources": {"limits": limits}}]}}))
}

fn waiting(pod: &Pod) -> (String, String) {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.container_statuses.as_ref());
    let state = all.and_then(|all| all[0].state.clone()).unwrap_or_default();
    let told = state.waiting.map(|waiting| (waiting.reason, waiting.message));
    let (reason, message) = told.unwrap_or_default();
    (reason.unwrap_or_default(), message.unwrap_or_default())
}

async fn asked_by(engine: &FakeDocker, pods: &[&str]) -> BTreeMap<String, Value> {
    let begun = Instant::now();
    loop {
        let asked = engine.device_requests();
        if asked.keys().map(String::as_str).collect::<Vec<_>>() == pods {
            return asked;
        }
        assert!(begun.elapsed() < PATIENCE, "{asked:?} is not of {pods:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ids(asked: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let of = |request: &Value| request[0]["DeviceIDs"][0].as_str().expect("an id").to_owned();
    asked.values().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_gpu_is_given_to_one_container_and_given_back() {
    let fixture = Fixture::new();
    fixture.namespaces(&["default", "kube-node-lease"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let engine = FakeDocker::start(folder.path().to_owned(), None, 1).await;
    let (tasks, done) = start(&fixture, &engine);
    let cluster = fixture.admin();
    until::<Node>(&cluster, "they are counted", |nodes| {
        let status = nodes.first().and_then(|node| node.status.as_ref());
        let capacity = status.and_then(|status| status.capacity.clone()).unwrap_or_default();
        let count = |name: &str| capacity.get(name).map(|count| count.0.clone());
        (count("nvidia.com/gpu").as_deref(), count("example.com/card").as_deref())
            == (Some("2"), Some("1"))
    })
    .await;
    // Both at a time, and a third that finds none.
    let gpu = json!({"nvidia.com/gpu": "1"});
    let [one, two] = ["one", "two"].map(|name| pod(name, &gpu));
    let (first, second) = tokio::join!(cluster.create(&one), cluster.create(&two));
    first.and(second).expect("created");
    let asked = asked_by(&engine, &["one", "two"]).await;
    assert_eq!(ids(&asked), ["GPU-a", "GPU-b"].map(str::to_owned).into());
    let request = &asked["one"][0];
    assert_eq!(
        (&request["Driver"], &request["Capabilities"]),
        (&json!("nvidia"), &json!([["gpu"]]))
    );
    assert!(request["Count"].is_null(), "the node chooses: {request}");
    cluster.create(&pod("late", &gpu)).await.expect("created");
    let sentence =
        "requested number of devices unavailable for nvidia.com/gpu. Requested: 1, Available: 0";
    until::<Pod>(&cluster, "it waits", |pods| {
        let late = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some("late"));
        late.map(|pod| waiting(pod))
            == Some(("CreateContainerConfigError".to_owned(), sentence.to_owned()))
    })
    .await;
    // Another run of the agent knows who has which.
    tasks.stop().cancel();
    drop(tasks);
    done.wait().await;
    let (tasks, done) = start(&fixture, &engine);
    cluster
        .delete::<Pod>(&Key::new("default", "one"), &DeleteOptions::default())
        .await
        .expect("deleted");
    let after = asked_by(&engine, &["late", "two"]).await;
    assert_eq!(after["two"], asked["two"]);
    assert_eq!(after["late"][0]["DeviceIDs"], asked["one"][0]["DeviceIDs"]);
    // What the engine says of a driver that it has not.
    cluster.create(&pod("card", &json!({"example.com/card": "1"}))).await.expect("created");
    until::<Event>(&cluster, "it is told", |events| {
        events.iter().any(|event| {
            let told = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("Failed")
                && told
                    .contains("could not select device driver \"none\" with capabilities: [[card]]")
        })
    })
    .await;
    assert_eq!(engine.doubles(), Vec::<String>::new());
    tasks.stop().cancel();
    drop(tasks);
    done.wait().await;
    drop(cluster);
    fixture.end().await;
}

#[tokio::test]
async fn a_gpu_is_asked_for_as_kubernetes_demands() {
    let fixture = Fixture::new();
    fixture.namespaces(&["default"]).await;
    let cluster = fixture.admin();
    let refused = async |resources: Value| {
        let mut asked = pod("p", &json!({}));
        asked.spec.as_mut().expect("a spec").containers[0].resources =
            Some(serde_json::from_value(resources).expect("resources"));
        cluster.create(&asked).await.expect_err("refused").message
    };
    let half = refused(json!({"limits": {"nvidia.com/gpu": "500m"}})).await;
    assert!(half.contains("must be an integer"), "{half}");
    let other = json!({"limits": {"nvidia.com/gpu": "2"}, "requests": {"nvidia.com/gpu": "1"}});
    let other = refused(other).await;
    assert!(other.contains("must be equal to nvidia.com/gpu limit of 2"), "{other}");
    let alone = refused(json!({"requests": {"nvidia.com/gpu": "1"}})).await;
    assert!(alone.contains("Limit must be set for non overcommitable resources"), "{alone}");
    drop(cluster);
    fixture.end().await;
}
