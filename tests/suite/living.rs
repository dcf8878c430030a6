//! An object gets only a controller that is alive: in the same transaction, whoever asks.

use ballast::object::{Cluster, DeleteOptions, Key, Object, Patch, Propagation, Reason};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::fixture::{Fixture, object};

fn replica_set(name: &str) -> ReplicaSet {
    object(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}))
}

fn pod(name: &str, owners: Value) -> Pod {
    object(json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "web"},
        "ownerReferences": owners}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}))
}

fn controlled_by(set: &ReplicaSet) -> Value {
    json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set.key().name,
        "uid": set.uid(), "controller": true, "blockOwnerDeletion": true}])
}

#[tokio::test]
async fn an_object_gets_only_a_controller_that_is_alive() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let refused = async |pod: Pod, what: &str| {
        let error = admin.create(&pod).await.expect_err(what);
        assert_eq!(error.reason, Reason::Conflict, "{what}: {error}");
        assert!(error.message.contains("read the controller again"), "{what}: {error}");
    };
    let alive = admin.create(&replica_set("alive")).await.expect("created");
    admin.create(&pod("child", controlled_by(&alive))).await.expect("its controller is there");
    let mut other = controlled_by(&alive);
    other[0]["uid"] = json!("another-incarnation");
    refused(pod("late", other.clone()), "another incarnation has the name").await;

    let going = admin.create(&replica_set("going")).await.expect("created");
    let options =
        DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    admin.delete::<ReplicaSet>(&going.key(), &options).await.expect("it waits for its dependents");
    refused(pod("late", controlled_by(&going)), "the controller is being deleted").await;

    let gone = admin.create(&replica_set("gone")).await.expect("created");
    admin.delete::<ReplicaSet>(&gone.key(), &DeleteOptions::default()).await.expect("deleted");
    refused(pod("late", controlled_by(&gone)), "the controller is gone").await;

    // Adoption is the same write, only later.
    let orphan = admin.create(&pod("orphan", json!([]))).await.expect("created");
    let adopt = |owners: Value| {
        Patch::Merge(json!({"metadata": {"uid": orphan.uid(), "ownerReferences": owners}}))
    };
    let error = admin.patch::<Pod>(&orphan.key(), &adopt(controlled_by(&gone))).await;
    assert_eq!(error.expect_err("nobody is there").reason, Reason::Conflict);
    let adopted = admin.patch::<Pod>(&orphan.key(), &adopt(controlled_by(&alive))).await;
    adopted.expect("its controller is there");

    // What has its controller keeps it, and may be written when the controller goes.
    admin.delete::<ReplicaSet>(&alive.key(), &DeleteOptions::default()).await.expect("deleted");
    let label = Patch::Merge(json!({"metadata": {"labels": {"late": "yes"}}}));
    admin.patch::<Pod>(&Key::new("default", "child"), &label).await.expect("still its own");

    // An owner that does not control is the garbage collector's to judge, and so is a kind that
    // this cluster does not have.
    other[0]["controller"] = json!(false);
    admin.create(&pod("owned", other)).await.expect("no controller");
    let foreign = json!([{"apiVersion": "example.com/v1", "kind": "Widget", "name": "w",
        "uid": "w1", "controller": true}]);
    admin.create(&pod("foreign", foreign)).await.expect("nobody can tell");
}
