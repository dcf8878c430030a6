//! What a restarted daemon makes of what it finds: the applied commit is kept true also when the
//! head is of no use, a changed path is a commit and not drift, and a source that was renamed or
//! dropped from the configuration leaves nothing without an owner.

use ballast::object::drift::Drift;
use ballast::object::source::{SOURCE_ANNOTATION, Source, SourceStatus};
use ballast::object::{Cluster, DeleteOptions, Key, Patch, Scope};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use crate::sync::{Scene, config};

fn applied(id: &str) -> impl Fn(&SourceStatus) -> bool + use<> {
    let id = id.to_owned();
    move |status| status.applied.as_ref().is_some_and(|commit| commit.id == id)
}

/// Somebody deletes one object and changes another while the daemon is away.
async fn damage(scene: &Scene) {
    let (a, b) = (Key::new("default", "a"), Key::new("default", "b"));
    scene.admin.delete::<ConfigMap>(&a, &DeleteOptions::default()).await.expect("deleted");
    let patch = Patch::Merge(json!({"data": {"of": "somebody"}}));
    scene.admin.patch::<ConfigMap>(&b, &patch).await.expect("patched");
}

async fn until_healed(scene: &Scene) {
    scene.until_object::<ConfigMap>(&Key::new("default", "a"), |_| true).await;
    scene
        .until_object::<ConfigMap>(&Key::new("default", "b"), |object| {
            object.data.as_ref().is_some_and(|data| data["of"] == "b")
        })
        .await;
}

async fn drifts(scene: &Scene) -> usize {
    scene.admin.list::<Drift>(&Scope::all()).await.expect("a list").items.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_applied_commit_is_healed_while_the_head_is_refused_held_or_unreachable() {
    let (a, b) = (config("a"), config("b"));
    let mut scene = Scene::with(&[("a.yaml", &a), ("b.yaml", &b)]).await;
    let good = scene.head();
    scene.until_applied(&good).await;

    let bad = scene.commit(&[("a.yaml", "kind: Nonsense\n"), ("b.yaml", &b)]).await;
    scene.until_refused(&bad).await;
    scene.stop().await;
    damage(&scene).await;
    scene.start("app", ".");
    until_healed(&scene).await;

    scene.commit(&[("README.md", "nothing here")]).await;
    scene.until("held", |status| status.held.is_some()).await;
    scene.stop().await;
    damage(&scene).await;
    scene.start("app", ".");
    until_healed(&scene).await;

    scene.stop().await;
    damage(&scene).await;
    let elsewhere = scene.origin.path().with_extension("elsewhere");
    std::fs::rename(scene.origin.path(), &elsewhere).expect("moved away");
    scene.start("app", ".");
    until_healed(&scene).await;
    let status = scene.until("not fetched", |status| status.fetch_error.is_some()).await;
    assert_eq!(status.applied.map(|commit| commit.id), Some(good));
    std::fs::rename(&elsewhere, scene.origin.path()).expect("moved back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_path_is_a_commit_and_no_drift() {
    let mut scene = Scene::new().await;
    let staging =
        config("a").replace("\ndata:", "\n  labels: {stage: staging}\ndata:\n  only: here");
    scene.origin.commit(&[("staging/a.yaml", &staging), ("prod/a.yaml", &config("a"))]);
    scene.start("app", "staging");
    scene.until_applied(&scene.head()).await;
    scene.stop().await;

    scene.start("app", "prod");
    let object = scene
        .until_object::<ConfigMap>(&Key::new("default", "a"), |object| {
            !object.data.as_ref().is_some_and(|data| data.contains_key("only"))
        })
        .await;
    assert_eq!(object.metadata.labels, None, "a label of the other path goes with it");
    assert_eq!(scene.inventory().await[0].file, "prod/a.yaml");
    assert_eq!(drifts(&scene).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_source_takes_its_objects_along() {
    let (a, b, c) = (config("a"), config("b"), config("c"));
    let mut scene = Scene::new().await;
    scene.origin.commit(&[("a.yaml", &a), ("b.yaml", &b), ("c.yaml", &c)]);
    scene.start("main", ".");
    scene.until_of("main", "applied", applied(&scene.head())).await;
    scene.stop().await;

    // Renamed, and in the same moment `c` leaves.
    let fewer = scene.origin.commit(&[("a.yaml", &a), ("b.yaml", &b)]);
    scene.start("app", ".");
    let status = scene
        .until("taken over", |status| applied(&fewer)(status) && status.formerly.is_empty())
        .await;
    assert_eq!((status.refused, status.held), (None, None));
    assert_eq!(scene.names::<ConfigMap>().await, ["default/a", "default/b"]);
    let object = scene.admin.get::<ConfigMap>(&Key::new("default", "a")).await.expect("there");
    let annotations = object.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations[SOURCE_ANNOTATION], "app");
    assert_eq!(scene.names::<Source>().await, ["app"]);

    // It is the owner now, of the same commit too.
    let last = scene.commit(&[("a.yaml", &a)]).await;
    scene.until_applied(&last).await;
    assert_eq!(scene.names::<ConfigMap>().await, ["default/a"]);
    assert_eq!(drifts(&scene).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_source_without_a_new_commit_is_the_owner_at_once() {
    let a = config("a");
    let mut scene = Scene::new().await;
    scene.origin.commit(&[("a.yaml", &a)]);
    scene.start("main", ".");
    scene.until_of("main", "applied", applied(&scene.head())).await;
    scene.stop().await;
    scene.start("app", ".");
    scene
        .until_object::<ConfigMap>(&Key::new("default", "a"), |object| {
            object.metadata.annotations.as_ref().is_some_and(|map| map[SOURCE_ANNOTATION] == "app")
        })
        .await;
    scene.until("settled", |status| status.formerly.is_empty() && status.converged.is_some()).await;
    assert_eq!(drifts(&scene).await, 0, "nobody changed anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_source_says_so_until_another_takes_over() {
    let mut scene = Scene::new().await;
    scene.origin.commit(&[
        ("a/one.yaml", &config("one")),
        ("b/two.yaml", &config("two")),
        ("c/README.md", "nothing yet"),
    ]);
    let head = scene.head();
    scene.start_all(&[("app", "a"), ("b", "b"), ("c", "c")]);
    for name in ["app", "b", "c"] {
        scene.until_of(name, "applied", applied(&head)).await;
    }
    scene.stop().await;

    scene.start("app", "a");
    let status = scene.until_of("b", "marked", |status| status.unfollowed.is_some()).await;
    let sentence = status.unfollowed.expect("marked");
    assert!(sentence.contains("its 1 objects run on"), "{sentence}");
    assert!(sentence.contains("formerly"), "{sentence}");
    assert_eq!(scene.names::<ConfigMap>().await, ["default/one", "default/two"]);
    // What has no objects is not kept.
    let gone = async {
        while scene.names::<Source>().await.contains(&"c".to_owned()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("gone");

    // Followed again it is as before.
    scene.stop().await;
    scene.start_all(&[("app", "a"), ("b", "b")]);
    scene.until_of("b", "followed", |status| status.unfollowed.is_none()).await;
    scene.stop().await;

    // Another takes over: what its commit does not have leaves.
    let heir =
        ballast::sync::SourceConfig { formerly: vec!["b".to_owned()], ..scene.config("app", "a") };
    scene.start_configs(vec![heir]);
    let gone = async {
        while scene.names::<ConfigMap>().await != ["default/one"] {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("removed");
    assert_eq!(scene.names::<Source>().await, ["app"]);
}
