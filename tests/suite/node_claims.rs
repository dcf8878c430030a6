//! Claims from their writing to their end: the API, the volume controller, the scheduler and a node's
//! agent, each with its own rights, on an engine in memory.

use std::fs;
use std::time::{Duration, Instant};

use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::node::runtime::EngineVolumes;
use ballast::object::{Cluster, DeleteOptions, Key, Object, Scope};
use ballast::reconcile::{self, scheduler};
use ballast::task::Tasks;
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use crate::fixture::{PATIENCE, object};
use crate::node::{World, is_ready};
use crate::sim::fake_runtime::FakeRuntime;

/// Until something is so; the last refusal is told.
async fn await_that(what: &str, mut holds: impl AsyncFnMut() -> Result<(), String>) {
    let begin = Instant::now();
    loop {
        match holds().await {
            Ok(()) => return,
            Err(why) => assert!(begin.elapsed() < PATIENCE, "{what}: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn claim(name: &str, class: &str) -> PersistentVolumeClaim {
    object(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}))
}

fn pod(name: &str, claim: &str) -> Pod {
    object(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "web", "image": "app:v1",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}}))
}

async fn volumes(world: &World) -> Vec<Value> {
    let all = world.cluster.list::<PersistentVolume>(&Scope::all()).await.expect("a list");
    all.items.iter().map(|volume| serde_json::to_value(&**volume).expect("JSON")).collect()
}

#[tokio::test]
async fn a_claim_is_made_where_its_pod_runs_and_goes_after_it() {
    let engine = FakeRuntime::new(Clock::wall()).with_image("app:v1");
    let mut world = World::on(engine, false).await;
    let (tasks, done) = Tasks::new();
    reconcile::run(world.local(Identity::Controllers), Clock::wall(), &tasks);
    scheduler::run(world.local(Identity::Scheduler), Clock::wall(), &tasks);
    for (name, class) in [("folder", "local-path"), ("cache", "docker-volume")] {
        world.cluster.create(&claim(name, class)).await.expect("it is admitted");
        world.cluster.create(&pod(name, name)).await.expect("it is admitted");
        world.until(&Key::new("default", name), "ready", is_ready).await;
    }
    let all = volumes(&world).await;
    assert_eq!(all.len(), 2, "{all:?}");
    for volume in &all {
        assert_eq!(volume["status"]["phase"], "Bound");
        assert_eq!(volume["spec"]["claimRef"]["namespace"], "default");
    }
    let of = |claim: &str| {
        let volume = all.iter().find(|volume| volume["spec"]["claimRef"]["name"] == claim);
        volume.and_then(|volume| volume["metadata"]["name"].as_str()).expect("one").to_owned()
    };
    let (folder, cache) = (world.folder().join("volumes").join(of("folder")), of("cache"));
    fs::write(folder.join("file"), "kept").expect("it is a directory");
    assert!(world.engine.volume(&cache).await.expect("answers").is_some());
    let events = world.cluster.list::<Event>(&Scope::all()).await.expect("a list");
    let told = |reason: &str| {
        let of_claim = events.items.iter().filter(|event| event.reason.as_deref() == Some(reason));
        of_claim.filter_map(|event| event.involved_object.name.clone()).collect::<Vec<_>>()
    };
    let mut succeeded = told("ProvisioningSucceeded");
    succeeded.sort();
    assert_eq!(succeeded, ["cache", "folder"]);

    // A second run of the agent makes nothing anew.
    let before = world.engine.started().len();
    world.restart(|_| {}).await;
    assert_eq!(world.engine.started().len(), before);
    assert_eq!(fs::read_to_string(folder.join("file")).expect("there"), "kept");

    // A claim waits for its pod, and its volume for the claim.
    for name in ["folder", "cache"] {
        let key = Key::new("default", name);
        let options = DeleteOptions::default();
        world.cluster.delete::<PersistentVolumeClaim>(&key, &options).await.expect("taken");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(volumes(&world).await.len(), 2, "their pods run");
    assert!(folder.join("file").exists());
    for name in ["folder", "cache"] {
        let key = Key::new("default", name);
        world.cluster.delete::<Pod>(&key, &DeleteOptions::default()).await.expect("taken");
    }
    await_that("everything is gone", async || {
        let left = volumes(&world).await;
        let claims = world.cluster.list::<PersistentVolumeClaim>(&Scope::all()).await;
        let claims = claims.expect("a list").items.len();
        match left.is_empty() && claims == 0 {
            true => Ok(()),
            false => Err(format!("{claims} claims, {left:?}")),
        }
    })
    .await;
    assert!(!folder.exists());
    assert!(world.engine.volume(&cache).await.expect("answers").is_none());
    tasks.stop().cancel();
    drop(tasks);
    done.wait().await;
    world.end().await;
}

/// A pod that says itself where it runs is on the node before its claim is bound.
#[tokio::test]
async fn a_pod_waits_on_its_node_for_a_claim_that_is_not_there() {
    let engine = FakeRuntime::new(Clock::wall()).with_image("app:v1");
    let world = World::on(engine, false).await;
    let mut own = pod("own", "none");
    own.spec.get_or_insert_default().node_name = Some("n1".to_owned());
    world.cluster.create(&own).await.expect("it is admitted");
    let sentence = "error processing PVC default/none: failed to fetch PVC from API server: persistentvolumeclaims \"none\" not found";
    await_that("the reason is told", async || {
        let events = world.cluster.list::<Event>(&Scope::all()).await.expect("a list");
        let mut told = events.items.iter().filter_map(|event| event.message.clone());
        if told.any(|message| message.ends_with(sentence)) {
            Ok(())
        } else {
            Err(format!("{:?}", events.items.len()))
        }
    })
    .await;
    let stored = world.cluster.get::<Pod>(&own.key()).await.expect("it is there");
    assert_eq!(crate::node::waiting(&stored).as_deref(), Some("ContainerCreating"));
    assert!(world.engine.started().iter().all(|name| !name.contains("_web_")));
    world.end().await;
}
