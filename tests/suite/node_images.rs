//! Images on a node, as pods see them (pulls that are shared, private registries, what is told), and the
//! node's care for its disk and memory, over the real API with a node's own rights.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ballast::clock::Clock;
use ballast::node::NodeOptions;
use ballast::node::care::{Care, CareSettings, ReadSignals};
use ballast::node::eviction::{Reading, Readings, Signal, Threshold};
use ballast::object::{Cluster, DeleteOptions, Key, Scope, condition};
use k8s_openapi::api::core::v1::{Event, Node, Pod, Secret};
use serde_json::{Value, json};

use crate::fixture::{PATIENCE, object};
use crate::node::{NoNetwork, World, is_ready, waiting};
use crate::sim::fake_runtime::FakeRuntime;

const PRIVATE: &str = "private.example/team/app:v1";
const FAR: &str = "far.example/app:v2";

fn engine() -> FakeRuntime {
    FakeRuntime::new(Clock::wall())
        .with_image("app:v1")
        .with_registry_image(FAR)
        .with_private_image(PRIVATE, "ann")
}

/// The Events about a pod, as `reason message`.
async fn told(world: &World, key: &Key) -> Vec<String> {
    let all = world.cluster.list::<Event>(&Scope::all()).await.expect("a list").items;
    let about = all.iter().filter(|event| event.involved_object.name.as_ref() == Some(&key.name));
    let line = |event: &Arc<Event>| {
        let (reason, message) = (event.reason.clone(), event.message.clone());
        format!("{} {}", reason.unwrap_or_default(), message.unwrap_or_default())
    };
    about.map(line).collect()
}

async fn until_told(world: &World, key: &Key, words: &str) {
    let begin = Instant::now();
    loop {
        let told = told(world, key).await;
        if told.iter().any(|line| line.starts_with(words)) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "nobody says {words:?} of {key}: {told:#?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A pod with these pull Secrets.
async fn pod(world: &World, name: &str, image: &str, secrets: &[&str]) -> Key {
    let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "n1", "imagePullSecrets": secrets,
            "containers": [{"name": "web", "image": image}]}});
    world.cluster.create::<Pod>(&object(pod)).await.expect("a pod");
    Key::new("default", name)
}

async fn secret(world: &World, name: &str, registry: &str, user: &str) {
    let config = json!({"auths": {registry: {"username": user, "password": "hunter2"}}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config.to_string()}});
    world.cluster.create::<Secret>(&object(secret)).await.expect("a secret");
}

fn fails(pod: &Pod) -> bool {
    matches!(waiting(pod).as_deref(), Some("ErrImagePull" | "ImagePullBackOff"))
}

#[tokio::test]
async fn one_pull_serves_every_pod_that_waits_and_each_is_told() {
    let world = World::on(engine(), false).await;
    world.engine.set_slow_image(FAR, true);
    let (one, two) = (pod(&world, "one", FAR, &[]).await, pod(&world, "two", FAR, &[]).await);
    for key in [&one, &two] {
        until_told(&world, key, "Pulling Pulling image \"far.example/app:v2\"").await;
    }
    world.engine.set_slow_image(FAR, false);
    for key in [&one, &two] {
        world.until(key, "ready", is_ready).await;
        until_told(&world, key, "Pulled Successfully pulled image \"far.example/app:v2\" in ")
            .await;
    }
    assert_eq!(world.engine.pulls(), [(FAR.to_owned(), None)]);
    let told = told(&world, &one).await;
    let sentence = told.iter().find(|line| line.starts_with("Pulled")).expect("told above");
    assert!(sentence.ends_with(" including waiting). Image size: 104857600 bytes."), "{sentence}");
    // A third one finds it.
    let third = pod(&world, "third", FAR, &[]).await;
    until_told(
        &world,
        &third,
        "Pulled Container image \"far.example/app:v2\" already present on machine",
    )
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_private_image_is_pulled_with_the_pods_own_secrets_alone() {
    let world = World::on(engine(), false).await;
    secret(&world, "ours", "*.example/team", "ann").await;
    secret(&world, "wrong", "private.example", "bob").await;
    let nobody = pod(&world, "nobody", PRIVATE, &[]).await;
    world.until(&nobody, "refused", fails).await;
    let words = "Failed Failed to pull image \"private.example/team/app:v1\": denied";
    until_told(&world, &nobody, words).await;
    until_told(&world, &nobody, "Failed Error: ErrImagePull").await;
    let bob = pod(&world, "bob", PRIVATE, &["wrong"]).await;
    world.until(&bob, "refused", fails).await;
    // The others' failures are not waited for: each of its credentials is tried in turn.
    let ann = pod(&world, "ann", PRIVATE, &["wrong", "ours"]).await;
    world.until(&ann, "ready", is_ready).await;
    let as_whom: Vec<Option<String>> =
        world.engine.pulls().into_iter().map(|(_, user)| user).collect();
    let user = |name: &str| Some(name.to_owned());
    assert_eq!(as_whom, [None, user("bob"), user("bob"), user("ann")]);
    world.end().await;
}

#[tokio::test]
async fn a_missing_secret_is_told_and_one_that_comes_is_tried_at_once() {
    let world = World::on(engine(), false).await;
    let key = pod(&world, "early", PRIVATE, &["ours", "never"]).await;
    let words = "FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (ours, never); attempting to pull the image may not succeed.";
    until_told(&world, &key, words).await;
    world.until(&key, "refused", fails).await;
    secret(&world, "ours", "private.example", "ann").await;
    // No back-off of what was tried without it.
    world.until(&key, "ready", is_ready).await;
    assert_eq!(world.engine.pulls().len(), 2);
    world.end().await;
}

#[tokio::test]
async fn a_failed_pull_is_told_as_kubernetes_tells_it() {
    let world = World::on(engine(), false).await;
    let key = pod(&world, "none", "far.example/none:v1", &[]).await;
    let backs_off = |pod: &Pod| waiting(pod).as_deref() == Some("ImagePullBackOff");
    let pod = world.until(&key, "backing off", backs_off).await;
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let state = status.and_then(|all| all[0].state.clone()).and_then(|state| state.waiting);
    assert_eq!(
        state.and_then(|waiting| waiting.message).as_deref(),
        Some(
            "Back-off pulling image \"far.example/none:v1\": ErrImagePull: manifest for far.example/none:v1 not found"
        )
    );
    until_told(&world, &key, "BackOff Back-off pulling image \"far.example/none:v1\"").await;
    until_told(&world, &key, "Failed Error: ImagePullBackOff").await;
    world.end().await;
}

/// What a test says the host's disk and memory are: available bytes of 1000 each.
#[derive(Clone, Default)]
struct Host(Arc<Mutex<Readings>>);

/// A disk that is full as long as an image is there of which nothing runs.
fn filled_by(engine: &FakeRuntime, image: &'static str) -> ReadSignals {
    let engine = engine.clone();
    Arc::new(move |_, _| {
        let is_there = engine.stored_images().iter().any(|stored| stored == image);
        let is_used = engine.containers().iter().any(|one| one.settings.image == image);
        let full = is_there && !is_used;
        let available = if full { 149 } else { 500 };
        Readings::from([(Signal::ImagefsAvailable, Reading { available, capacity: 1000 })])
    })
}

/// A world on a host that tells this of itself.
async fn world_on(engine: FakeRuntime, signals: ReadSignals) -> World {
    let mut settings = CareSettings::default();
    // Of readings of 1000 bytes.
    settings.eviction.0.insert(Signal::MemoryAvailable, Threshold::Amount(100));
    settings.image_gc.least_age = jiff::SignedDuration::ZERO;
    let care = Care { settings, signals: Some(signals) };
    let change = |options: NodeOptions| NodeOptions { care, ..options };
    World::as_told(engine, change, Arc::new(NoNetwork)).await
}

impl Host {
    fn set(&self, signal: Signal, available: u64) {
        let reading = Reading { available, capacity: 1000 };
        self.0.lock().expect("no panic inside").insert(signal, reading);
    }

    fn signals(&self) -> ReadSignals {
        let host = self.clone();
        Arc::new(move |_, _| host.0.lock().expect("no panic inside").clone())
    }
}

async fn until_node_says(world: &World, kind: &str, reason: &str) {
    let begin = Instant::now();
    loop {
        let node = world.cluster.get::<Node>(&Key::cluster("n1")).await;
        let status = node.ok().and_then(|node| node.status.clone()).unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let found = condition::find(&conditions, kind).and_then(|c| c.reason.clone());
        if found.as_deref() == Some(reason) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{kind} is {found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn gone(world: &World, image: &str) {
    let begin = Instant::now();
    while world.engine.stored_images().contains(&image.to_owned()) {
        assert!(begin.elapsed() < PATIENCE, "{:?}", world.engine.stored_images());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_full_disk_costs_unused_images_that_the_node_pulled_and_no_other() {
    let engine = engine().with_registry_image("far.example/used:v1").with_image("theirs:v1");
    let signals = filled_by(&engine, FAR);
    let world = world_on(engine, signals).await;
    let used = pod(&world, "used", "far.example/used:v1", &[]).await;
    world.until(&used, "ready", is_ready).await;
    // Below 15 % as soon as it is gone, and nothing but its image goes: no pod does.
    let unused = pod(&world, "unused", FAR, &[]).await;
    world.until(&unused, "ready", is_ready).await;
    let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    world.cluster.delete::<Pod>(&unused, &options).await.expect("deleted");
    let begin = Instant::now();
    while world.engine.containers().iter().any(|one| one.settings.image == FAR) {
        assert!(begin.elapsed() < PATIENCE, "its containers stay");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    gone(&world, FAR).await;
    let left = world.engine.stored_images();
    for image in ["far.example/used:v1", "theirs:v1", "app:v1"] {
        assert!(left.contains(&image.to_owned()), "{left:?}");
    }
    until_node_says(&world, "DiskPressure", "KubeletHasDiskPressure").await;
    let still = world.cluster.get::<Pod>(&used).await.expect("the pod");
    let phase = still.status.as_ref().and_then(|status| status.phase.as_deref());
    assert_eq!(phase, Some("Running"), "nobody was evicted");
    world.end().await;
}

#[tokio::test]
async fn memory_pressure_evicts_one_pod_and_the_one_that_uses_more_than_it_asked_for() {
    let host = Host::default();
    host.set(Signal::MemoryAvailable, 900);
    let world = world_on(engine().with_image("big:v1"), host.signals()).await;
    world.engine.set_usage("big:v1", 64 << 20);
    let ask = json!({"requests": {"memory": "128Mi"}});
    let modest = world.pod("modest", json!({"image": "big:v1", "resources": ask})).await;
    let small = world.pod("small", json!({"image": "app:v1"})).await;
    let greedy = world.pod("greedy", json!({"image": "big:v1"})).await;
    for key in [&modest, &small, &greedy] {
        world.until(key, "ready", is_ready).await;
    }
    until_node_says(&world, "MemoryPressure", "KubeletHasSufficientMemory").await;
    host.set(Signal::MemoryAvailable, 99);
    let evicted = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        status.phase.as_deref() == Some("Failed") && status.reason.as_deref() == Some("Evicted")
    };
    let pod = world.until(&greedy, "evicted", evicted).await;
    host.set(Signal::MemoryAvailable, 900);
    let status = pod.status.clone().unwrap_or_default();
    let message = "The node was low on resource: memory. Threshold quantity: 100, available: 99. Container web was using 64Mi, request is 0, has larger consumption of memory. ";
    assert_eq!(status.message.as_deref(), Some(message));
    let conditions = status.conditions.unwrap_or_default();
    let target = condition::find(&conditions, "DisruptionTarget").expect("the condition");
    assert_eq!(target.reason.as_deref(), Some("TerminationByKubelet"));
    until_told(&world, &greedy, "Evicted The node was low on resource: memory. ").await;
    until_node_says(&world, "MemoryPressure", "KubeletHasInsufficientMemory").await;
    let begin = Instant::now();
    let runs = || {
        let all = world.engine.containers();
        all.iter().any(|one| one.is_running() && one.identity.pod_name == "greedy")
    };
    while runs() {
        assert!(begin.elapsed() < PATIENCE, "it still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for key in [&modest, &small] {
        let pod = world.cluster.get::<Pod>(key).await.expect("the pod");
        assert!(is_ready(&pod), "{key} was let be");
    }
    // What a pod that was evicted ends with is no reason to forget why it went.
    let pod = world.cluster.get::<Pod>(&greedy).await.expect("the pod");
    assert!(evicted(&pod));
    world.end().await;
}
