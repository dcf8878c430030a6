//! Where a Drift says its wanted value is written: looked up through the owners and the source's
//! inventory, once, when it opens or changes.

use std::collections::BTreeMap;

use ballast::api::{Identity, Local};
use ballast::drift_report;
use ballast::object::drift::{Class, Drift, DriftObject, Layer, Origin};
use ballast::object::inventory::{Inventory, InventoryEntry};
use ballast::object::ledger::{Difference, Examined, Ledger, Response};
use ballast::object::{Cluster, Key, Kind, Object, Scope};
use ballast::store::Sqlite;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::fixture::{Fixture, object};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("in range")
}

/// A Deployment, its ReplicaSet and one pod, as the controllers make them.
async fn web(admin: &Local<Sqlite>) -> DriftObject {
    let template = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": template});
    let owned = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
    let meta = |name: &str, owners: Value| {
        json!({"name": name, "namespace": "default", "labels": {"app": "web"},
            "ownerReferences": owners})
    };
    let deployment: Deployment = object(json!({"metadata": meta("web", json!([])), "spec": spec}));
    let deployment = admin.create(&deployment).await.expect("a Deployment");
    let owners = owned("Deployment", "web", deployment.uid());
    let set: ReplicaSet = object(json!({"metadata": meta("web-1", owners), "spec": spec}));
    let set = admin.create(&set).await.expect("a ReplicaSet");
    let owners = owned("ReplicaSet", "web-1", set.uid());
    let pod: Pod = object(json!({"metadata": meta("web-1-a", owners), "spec": template["spec"]}));
    let pod = admin.create(&pod).await.expect("a Pod");
    DriftObject {
        kind: Kind::Pod,
        namespace: "default".into(),
        name: "web-1-a".into(),
        uid: pod.uid().to_owned(),
    }
}

/// The inventory of a commit that has the image on `line`.
async fn applied(admin: &Local<Sqlite>, commit: &str, line: u32) {
    let entry = InventoryEntry {
        kind: Kind::Deployment,
        namespace: "default".into(),
        name: "web".into(),
        uid: String::new(),
        file: "web.yaml".into(),
        line: 1,
        labels: vec![],
        annotations: vec![],
        lines: BTreeMap::from([("spec.containers[web].image".to_owned(), line)]),
    };
    let inventory = Inventory::of("main", commit, vec![entry]);
    match admin.get::<Inventory>(&Key::cluster("main")).await {
        Ok(_) => admin.update(&inventory).await.expect("the next commit's"),
        Err(_) => admin.create(&inventory).await.expect("the first commit's"),
    };
}

fn wrong_image(object: &DriftObject, actual: &str) -> Examined {
    let difference = Difference {
        class: Class::WrongImage,
        field: "containers[web].image".into(),
        wanted_by: Some("spec.containers[web].image".into()),
        wanted: Some("web:1".into()),
        actual: Some(actual.into()),
        origin: None,
        since: None,
        cause: None,
        deadline: None,
        under_way: false,
        response: Response::Heal,
    };
    Examined {
        object: object.clone(),
        wanted_id: "web:1".into(),
        converged_before: true,
        differences: vec![difference],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_is_the_fields_own_and_looked_up_once() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let pod = web(&admin).await;
    applied(&admin, "c1", 35).await;
    let node = fixture.local(Identity::NodeAgent { node: "n1".to_owned() });
    let mut ledger = Ledger::new(Layer::Container);
    let mut pass = async |examined: Examined, second: i64| {
        let writes = ledger.observe(&[examined], false, at(second));
        assert!(!writes.is_empty());
        drift_report::perform(&node, writes).await;
        let stored = admin.list::<Drift>(&Scope::all()).await.expect("a list").items;
        assert_eq!(stored.len(), 1);
        (*stored[0]).clone()
    };
    let origin = |commit: &str, line| {
        let (source, file) = ("main".to_owned(), "web.yaml".to_owned());
        Some(Origin { source, file, line, commit: commit.to_owned() })
    };
    let opened = pass(wrong_image(&pod, "web:2"), 1).await;
    assert_eq!(opened.spec.origin, origin("c1", 35));
    // A confirmation does not look again, and neither does the end.
    applied(&admin, "c2", 36).await;
    let confirmed = pass(wrong_image(&pod, "web:2"), 20).await;
    assert_eq!(confirmed.status.as_ref().map(|status| status.last_seen.0), Some(at(20)));
    assert_eq!(confirmed.spec.origin, origin("c1", 35));
    let none = Examined { differences: vec![], ..wrong_image(&pod, "") };
    let closed = pass(none, 21).await;
    assert_eq!(closed.spec.origin, origin("c1", 35));
    // Opening again does, and so does a change.
    let again = pass(wrong_image(&pod, "web:2"), 22).await;
    assert_eq!(again.spec.origin, origin("c2", 36));
    applied(&admin, "c3", 37).await;
    let changed = pass(wrong_image(&pod, "web:3"), 23).await;
    assert_eq!(changed.spec.origin, origin("c3", 37));
}
