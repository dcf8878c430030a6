//! Images on a node, as pods see them: pulls that are shared, private registries, and what is told, over
//! the real API with a node's own rights.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballast::clock::Clock;
use ballast::object::{Cluster, Key, Scope};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use serde_json::{Value, json};

use crate::fixture::{PATIENCE, object};
use crate::node::{World, is_ready, waiting};
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
