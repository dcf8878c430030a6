//! Garbage collection and the end of namespaces over the real API, in process.

use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::object::{Cluster, DeleteOptions, Key, Object, Propagation, Scope};
use ballast::reconcile;
use ballast::task::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::fixture::{Fixture, object, until};

fn start(fixture: &Fixture) -> Tasks {
    let (tasks, _done) = Tasks::new();
    reconcile::run(fixture.local(Identity::Controllers), Clock::wall(), &tasks);
    tasks
}

/// A ConfigMap owned by others: ownership knows no kinds, and nobody else touches one.
async fn config(
    cluster: &impl Cluster,
    namespace: &str,
    name: &str,
    owners: &[&ConfigMap],
) -> ConfigMap {
    let references: Vec<OwnerReference> = owners
        .iter()
        .map(|owner| {
            object(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.key().name,
                "uid": owner.uid(), "blockOwnerDeletion": true}))
        })
        .collect();
    let mut config: ConfigMap =
        object(json!({"metadata": {"name": name, "namespace": namespace}, "data": {"a": "b"}}));
    config.metadata.owner_references = (!references.is_empty()).then_some(references);
    (*cluster.create(&config).await.expect("created")).clone()
}

async fn delete(cluster: &impl Cluster, config: &ConfigMap, propagation: Propagation) {
    let options = DeleteOptions {
        uid: Some(config.uid().to_owned()),
        propagation: Some(propagation),
        ..DeleteOptions::default()
    };
    cluster.delete::<ConfigMap>(&config.key(), &options).await.expect("accepted");
}

async fn until_left(cluster: &impl Cluster, names: &[&str]) {
    until::<ConfigMap>(cluster, &format!("left are {names:?}"), |configs| {
        let left: Vec<&str> =
            configs.iter().filter_map(|config| config.metadata.name.as_deref()).collect();
        left == names
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_follow_their_last_owner() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let tasks = start(&fixture);
    let first = config(&admin, "default", "first", &[]).await;
    let second = config(&admin, "default", "second", &[]).await;
    config(&admin, "default", "of-both", &[&first, &second]).await;
    let of_first = config(&admin, "default", "of-first", &[&first]).await;
    config(&admin, "default", "grandchild", &[&of_first]).await;
    delete(&admin, &first, Propagation::Background).await;
    until_left(&admin, &["of-both", "second"]).await;
    until::<ConfigMap>(&admin, "the lost reference is off", |configs| {
        let both = configs.iter().find(|config| config.key().name == "of-both");
        both.is_some_and(|c| c.metadata.owner_references.iter().flatten().count() == 1)
    })
    .await;
    delete(&admin, &second, Propagation::Background).await;
    until_left(&admin, &[]).await;
    tasks.stop().cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_nobody_watched_is_made_up_for() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let owner = config(&admin, "default", "owner", &[]).await;
    config(&admin, "default", "child", &[&owner]).await;
    delete(&admin, &owner, Propagation::Background).await;
    // The name is taken again, the uid is not.
    config(&admin, "default", "owner", &[]).await;
    let tasks = start(&fixture);
    until_left(&admin, &["owner"]).await;
    tasks.stop().cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreground_deletion_ends_from_the_leaves() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let owner = config(&admin, "default", "owner", &[]).await;
    let child = config(&admin, "default", "child", &[&owner]).await;
    config(&admin, "default", "grandchild", &[&child]).await;
    let mut changes = std::pin::pin!(admin.watch::<ConfigMap>(Scope::all()));
    // A watch begins with its first item: a deletion before that is no change to it.
    assert!(matches!(changes.next().await, Some(ballast::object::Change::Reset(_))));
    let tasks = start(&fixture);
    delete(&admin, &owner, Propagation::Foreground).await;
    let mut gone = Vec::new();
    while gone.len() < 3 {
        if let Some(ballast::object::Change::Deleted(config)) = changes.next().await {
            gone.push(config.key().name);
        }
    }
    assert_eq!(gone, ["grandchild", "child", "owner"]);
    tasks.stop().cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_owners_ends() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let one = config(&admin, "default", "one", &[]).await;
    let two = config(&admin, "default", "two", &[&one]).await;
    let mut circle = one.clone();
    circle.metadata.owner_references = Some(vec![object(json!({"apiVersion": "v1",
        "kind": "ConfigMap", "name": "two", "uid": two.uid(), "blockOwnerDeletion": true}))]);
    admin.update(&circle).await.expect("updated");
    let tasks = start(&fixture);
    delete(&admin, &one, Propagation::Foreground).await;
    until_left(&admin, &[]).await;
    tasks.stop().cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_stay_and_name_their_owner_no_more() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let tasks = start(&fixture);
    let owner = config(&admin, "default", "owner", &[]).await;
    config(&admin, "default", "child", &[&owner]).await;
    delete(&admin, &owner, Propagation::Orphan).await;
    until_left(&admin, &["child"]).await;
    let child = admin.get::<ConfigMap>(&Key::new("default", "child")).await.expect("it stays");
    assert_eq!(child.metadata.owner_references, None);
    tasks.stop().cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_in_another_namespace_is_none() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let tasks = start(&fixture);
    let elsewhere: Namespace = object(json!({"metadata": {"name": "elsewhere"}}));
    admin.create(&elsewhere).await.expect("created");
    let owner = config(&admin, "elsewhere", "owner", &[]).await;
    config(&admin, "default", "child", &[&owner]).await;
    until::<Event>(&admin, "an Event tells it", |events| {
        events.iter().any(|event| event.reason.as_deref() == Some("OwnerRefInvalidNamespace"))
    })
    .await;
    until_left(&admin, &["owner"]).await;
    tasks.stop().cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_ends_after_its_pods_and_takes_everything_along() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let tasks = start(&fixture);
    until::<Namespace>(&admin, "the default namespace exists", |namespaces| {
        namespaces.iter().any(|namespace| namespace.key().name == "default")
    })
    .await;
    admin.create(&object::<Namespace>(json!({"metadata": {"name": "team"}}))).await.expect("made");
    config(&admin, "team", "settings", &[]).await;
    let pod: Pod = object(json!({"metadata": {"name": "web", "namespace": "team"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}}));
    let pod = admin.create(&pod).await.expect("created");
    admin.bind(&pod.key(), pod.uid(), "n1").await.expect("bound");
    admin.delete::<Namespace>(&Key::cluster("team"), &DeleteOptions::default()).await.expect("ok");

    until::<Pod>(&admin, "the pod ends with its grace", |pods| {
        pods.iter().any(|pod| pod.metadata.deletion_grace_period_seconds == Some(30))
    })
    .await;
    until::<Namespace>(&admin, "the namespace says what it waits for", |namespaces| {
        namespaces.iter().any(|namespace| {
            let status = namespace.status.as_ref();
            let conditions = status.and_then(|status| status.conditions.as_deref());
            ballast::object::condition::is_true(
                conditions.unwrap_or_default(),
                "NamespaceContentRemaining",
            )
        })
    })
    .await;
    let settings = admin.get::<ConfigMap>(&Key::new("team", "settings")).await;
    assert!(settings.is_ok(), "what the pod uses stays as long as the pod");

    let end = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    admin.delete::<Pod>(&pod.key(), &end).await.expect("the agent has stopped it");
    until::<Namespace>(&admin, "the namespace ends", |namespaces| {
        namespaces.iter().all(|namespace| namespace.key().name != "team")
    })
    .await;
    assert!(admin.get::<ConfigMap>(&Key::new("team", "settings")).await.is_err());
    tasks.stop().cancel();
}
