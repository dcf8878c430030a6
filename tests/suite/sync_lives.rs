//! Objects outlive commits and die between them: what is made anew is still known, what is still
//! ending is waited for, and a namespace that is asked for again is not let go too early.

use std::time::Duration;

use ballast::object::drift::Drift;
use ballast::object::inventory::Inventory;
use ballast::object::{Cluster, DeleteOptions, Key, Object, Scope};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};

use crate::sync::{DEPLOYMENT, NAMESPACE, Scene, config};

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - name: a
    image: example/a:1
";

/// As the namespace controller does when nothing is left in it.
async fn let_go(scene: &Scene, name: &str) {
    let namespace = scene.admin.get::<Namespace>(&Key::cluster(name)).await.expect("there");
    let mut namespace = (*namespace).clone();
    assert!(namespace.metadata.deletion_timestamp.is_some(), "it is ending");
    namespace.spec.get_or_insert_default().finalizers = None;
    scene.admin.update(&namespace).await.expect("let go");
}

async fn drifts(scene: &Scene) -> Vec<String> {
    let listing = scene.admin.list::<Drift>(&Scope::all()).await.expect("a list");
    let show = |drift: &Drift| format!("{} {}", drift.spec.object.name, drift.spec.field);
    listing.items.iter().map(|drift| show(drift)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_back_is_still_pruned_when_it_leaves() {
    let scene = Scene::with(&[("a.yaml", &config("a")), ("b.yaml", &config("b"))]).await;
    scene.until_applied(&scene.head()).await;
    let key = Key::new("default", "a");
    let first = scene.admin.get::<ConfigMap>(&key).await.expect("there").uid().to_owned();
    scene.admin.delete::<ConfigMap>(&key, &DeleteOptions::default()).await.expect("deleted");
    scene.wake();
    let second = scene.until_object::<ConfigMap>(&key, |object| object.uid() != first).await;
    // The inventory knows the one that is there now.
    scene
        .until_object::<Inventory>(&Key::cluster("app"), |inventory| {
            inventory.objects.iter().any(|entry| entry.uid == second.uid())
        })
        .await;
    let left = scene.commit(&[("b.yaml", &config("b"))]).await;
    scene.until_applied(&left).await;
    assert_eq!(scene.names::<ConfigMap>().await, ["default/b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_still_ending_is_made_anew_and_pruned_later() {
    let with_pod = [("a.yaml", config("a")), ("p.yaml", POD.to_owned())];
    let with_pod = with_pod.each_ref().map(|(path, text)| (*path, text.as_str()));
    let scene = Scene::with(&with_pod).await;
    scene.until_applied(&scene.head()).await;
    let key = Key::new("default", "p");
    let first = scene.admin.get::<Pod>(&key).await.expect("there").uid().to_owned();
    scene.admin.bind(&key, &first, "n1").await.expect("bound");

    // It left, and its grace runs; then the commit is taken back, with another image.
    let without = scene.commit(&with_pod[..1]).await;
    scene.until_applied(&without).await;
    let ending = scene.admin.get::<Pod>(&key).await.expect("its grace runs");
    assert!(ending.metadata.deletion_timestamp.is_some());
    let changed = POD.replace("image: example/a:1", "image: example/a:1\n    env: [{name: A}]");
    let again = scene.commit(&[with_pod[0], ("p.yaml", &changed)]).await;
    let status = scene.until_applied(&again).await;
    assert_eq!((status.refused, status.problems), (None, vec![]), "it is no change of the old pod");
    let same = scene.admin.get::<Pod>(&key).await.expect("its grace runs");
    assert_eq!(ending.metadata.resource_version, same.metadata.resource_version);
    let waits = scene
        .until("waiting for the pod", |status| {
            let verdict = status.converged.as_ref();
            verdict.is_some_and(|verdict| verdict.commit == again && !verdict.converged)
        })
        .await;
    let waits = waits.converged.expect("judged").waiting_for;
    assert!(waits.iter().any(|line| line.contains("Pod default/p")), "{waits:?}");

    // The node agent confirms; nobody wakes the sync.
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    scene.admin.delete::<Pod>(&key, &now).await.expect("gone");
    let second = scene.until_object::<Pod>(&key, |pod| pod.uid() != first).await;
    assert!(second.spec.as_ref().is_some_and(|spec| spec.containers[0].env.is_some()));
    assert_eq!(drifts(&scene).await, Vec::<String>::new(), "nobody changed anything");

    let without = scene.commit(&with_pod[..1]).await;
    scene.until_applied(&without).await;
    assert_eq!(scene.names::<Pod>().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_source_took_along_is_put_back_and_pruned_when_it_leaves() {
    let mut scene = Scene::new().await;
    let guest = |name: &str| config(name).replace("metadata:\n", "metadata:\n  namespace: shop\n");
    scene.origin.commit(&[
        ("a/ns.yaml", NAMESPACE),
        ("a/own.yaml", &config("own")),
        ("b/one.yaml", &guest("one")),
        ("b/two.yaml", &guest("two")),
    ]);
    scene.start_all(&[("a", "a")]);
    let first = scene.head();
    let applied = |id: &str| {
        let id = id.to_owned();
        move |status: &ballast::object::source::SourceStatus| {
            status.applied.as_ref().is_some_and(|commit| commit.id == id)
        }
    };
    scene.until_of("a", "applied", applied(&first)).await;
    scene.stop().await;
    scene.start_all(&[("a", "a"), ("b", "b")]);
    scene.until_of("b", "applied", applied(&first)).await;

    // Whatever took the objects away: they come back as others.
    for name in ["one", "two"] {
        let key = Key::new("shop", name);
        scene.admin.delete::<ConfigMap>(&key, &DeleteOptions::default()).await.expect("deleted");
    }
    scene.wake();
    for name in ["one", "two"] {
        scene.until_object::<ConfigMap>(&Key::new("shop", name), |_| true).await;
    }
    let fewer = scene
        .commit(&[
            ("a/ns.yaml", NAMESPACE),
            ("a/own.yaml", &config("own")),
            ("b/two.yaml", &guest("two")),
        ])
        .await;
    scene.until_of("b", "applied", applied(&fewer)).await;
    assert_eq!(scene.names::<ConfigMap>().await, ["default/own", "shop/two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_still_ending_delays_the_commit_and_refuses_nothing() {
    let whole = [("ns.yaml", NAMESPACE), ("web.yaml", DEPLOYMENT)];
    let a = config("a");
    let scene = Scene::with(&[whole[0], whole[1], ("a.yaml", &a)]).await;
    scene.until_applied(&scene.head()).await;
    let gone = scene.commit(&[("a.yaml", &a)]).await;
    scene.until_applied(&gone).await;

    let back = scene.commit(&[whole[0], whole[1], ("a.yaml", &a)]).await;
    let status = scene.until("delayed", |status| status.delayed.is_some()).await;
    assert_eq!((status.refused, status.problems, status.held), (None, vec![], None));
    let why = status.delayed.expect("delayed");
    assert!(why.contains("namespace shop is being terminated"), "{why}");
    assert_eq!(status.applied.map(|commit| commit.id), Some(gone));

    let_go(&scene, "shop").await;
    let status = scene.until_applied(&back).await;
    assert_eq!((status.delayed, status.refused), (None, None));
    assert_eq!(scene.names::<Deployment>().await, ["shop/web"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_committed_again_while_it_ends_is_not_let_go() {
    let a = config("a");
    let scene = Scene::with(&[("ns.yaml", NAMESPACE), ("a.yaml", &a)]).await;
    scene.until_applied(&scene.head()).await;
    let key = Key::cluster("shop");
    let first = scene.admin.get::<Namespace>(&key).await.expect("there").uid().to_owned();
    let gone = scene.commit(&[("a.yaml", &a)]).await;
    scene.until_applied(&gone).await;

    let back = scene.commit(&[("ns.yaml", NAMESPACE), ("a.yaml", &a)]).await;
    scene.until_applied(&back).await;
    let ending = scene.admin.get::<Namespace>(&key).await.expect("its content is not gone yet");
    assert_eq!(ending.uid(), first);
    assert!(ending.spec.as_ref().and_then(|spec| spec.finalizers.as_ref()).is_some());

    let_go(&scene, "shop").await;
    scene.until_object::<Namespace>(&key, |namespace| namespace.uid() != first).await;
    assert_eq!(drifts(&scene).await, Vec::<String>::new());
    // And it is still ours: what leaves now is removed.
    let gone = scene.commit(&[("a.yaml", &a)]).await;
    scene.until_applied(&gone).await;
    let namespace = scene.admin.get::<Namespace>(&key).await.expect("ending");
    assert!(namespace.metadata.deletion_timestamp.is_some());
    tokio::time::timeout(Duration::from_secs(5), let_go(&scene, "shop")).await.expect("let go");
}
