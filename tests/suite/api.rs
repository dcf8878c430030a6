//! The inner skin: every verb of `Cluster` and `Transact` over a real store.

use std::collections::BTreeMap;
use std::sync::Arc;

use ballast::api::Identity;
use ballast::object::source::SOURCE_ANNOTATION;
use ballast::object::{
    ApplySet, Change, Cluster, DeleteOptions, Key, Kind, Note, Object, Patch, Propagation, Reason,
    Scope, SetAction, SetWrite, Transact,
};
use ballast::store::Store;
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service};
use serde_json::{Value, json};

use crate::fixture::{Fixture, config, deployment, object, pod};

async fn next<K: Object>(
    changes: &mut (impl Stream<Item = Change<Arc<K>>> + Unpin),
) -> Change<Arc<K>> {
    tokio::time::timeout(std::time::Duration::from_secs(20), changes.next())
        .await
        .expect("a change comes")
        .expect("a watch never ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_life_in_process() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let created = admin.create(&pod("web-1")).await.expect("created");
    assert!(!created.uid().is_empty());
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(admin.create(&pod("web-1")).await.unwrap_err().reason, Reason::AlreadyExists);
    let key = Key::new("default", "web-1");
    let stored = admin.get::<Pod>(&key).await.expect("there");
    assert_eq!(*stored, *created, "what a create answers is what is stored");

    let scheduler = fixture.local(Identity::Scheduler);
    scheduler.bind(&key, created.uid(), "n1").await.expect("bound");
    assert!(scheduler.bind(&key, created.uid(), "n2").await.unwrap_err().is_conflict());

    let agent = fixture.local(Identity::NodeAgent { node: "n1".into() });
    let mut running = (*agent.get::<Pod>(&key).await.expect("there")).clone();
    running.status.get_or_insert_default().phase = Some("Running".into());
    running.spec.as_mut().expect("a spec").node_name = Some("elsewhere".into());
    let after = agent.update_status(&running).await.expect("the node's own pod");
    assert_eq!(after.spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
    let again = agent.update_status(&*after).await.expect("nothing to write");
    assert_eq!(again.metadata.resource_version, after.metadata.resource_version);
    let other = fixture.local(Identity::NodeAgent { node: "n2".into() });
    assert_eq!(other.update_status(&*after).await.unwrap_err().reason, Reason::Forbidden);

    // A bound pod gets its grace; the agent ends it.
    admin.delete::<Pod>(&key, &DeleteOptions::default()).await.expect("accepted");
    let going = admin.get::<Pod>(&key).await.expect("still there");
    assert_eq!(going.metadata.deletion_grace_period_seconds, Some(30));
    let end = DeleteOptions {
        uid: Some(created.uid().into()),
        grace_seconds: Some(0),
        ..DeleteOptions::default()
    };
    agent.delete::<Pod>(&key, &end).await.expect("gone");
    assert!(admin.get::<Pod>(&key).await.unwrap_err().is_not_found());
    assert!(admin.delete::<Pod>(&key, &end).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_and_patches_swap_on_the_version() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let first = admin.create(&config("m", "1")).await.expect("created");
    let mut stale = (*first).clone();
    let second = admin.update(&config("m", "2")).await.expect("unconditional");
    stale.data.as_mut().unwrap().insert("a".into(), "3".into());
    assert!(admin.update(&stale).await.unwrap_err().is_conflict());
    let key = first.key();
    let merge = Patch::Merge(json!({"data": {"b": "3", "a": null}}));
    let patched = admin.patch::<ConfigMap>(&key, &merge).await.expect("patched");
    assert_eq!(patched.data, Some(BTreeMap::from([("b".to_owned(), "3".to_owned())])));
    let version = second.metadata.resource_version.clone();
    let stale = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "data": {"c": "1"}}));
    assert!(admin.patch::<ConfigMap>(&key, &stale).await.unwrap_err().is_conflict());
    let wrong = Patch::Merge(json!({"metadata": {"uid": "other"}, "data": {"c": "1"}}));
    assert!(admin.patch::<ConfigMap>(&key, &wrong).await.unwrap_err().is_conflict());
    let steps = Patch::Json(json!([{"op": "test", "path": "/data/b", "value": "3"},
        {"op": "add", "path": "/data/c", "value": "4"}]));
    let patched = admin.patch::<ConfigMap>(&key, &steps).await.expect("patched");
    assert_eq!(patched.data.as_ref().unwrap().len(), 2);

    // Sixteen writers of one object: none is lost.
    let writers = (0..16).map(|index| {
        let (admin, key) = (admin.clone(), key.clone());
        let name = format!("w{index}");
        tokio::spawn(async move {
            let mut data = serde_json::Map::new();
            data.insert(name, json!("x"));
            admin.patch::<ConfigMap>(&key, &Patch::Merge(json!({"data": data}))).await
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.expect("no panic").expect("patched");
    }
    assert_eq!(admin.get::<ConfigMap>(&key).await.unwrap().data.as_ref().unwrap().len(), 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_the_state_and_says_what_leaves_its_scope() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let mut labelled = config("a", "1");
    labelled.metadata.labels = Some(BTreeMap::from([("tier".to_owned(), "x".to_owned())]));
    admin.create(&labelled).await.expect("created");
    admin.create(&config("other", "1")).await.expect("created");
    let scope = Scope { labels: Some("tier=x".into()), ..Scope::namespace("default") };
    let mut changes = Box::pin(admin.watch::<ConfigMap>(scope.clone()));
    let Change::Reset(items) = next(&mut changes).await else { panic!("the state comes first") };
    assert_eq!(items.len(), 1);
    assert_eq!(admin.list::<ConfigMap>(&scope).await.expect("listed").items.len(), 1);

    labelled.data.as_mut().unwrap().insert("a".into(), "2".into());
    admin.update(&labelled).await.expect("updated");
    assert!(
        matches!(next(&mut changes).await, Change::Applied(map) if map.data.as_ref().unwrap()["a"] == "2")
    );
    // Leaving the selector is gone, entering it is new.
    labelled.metadata.labels = None;
    admin.update(&labelled).await.expect("updated");
    assert!(
        matches!(next(&mut changes).await, Change::Deleted(map) if map.metadata.name.as_deref() == Some("a"))
    );
    labelled.metadata.labels = Some(BTreeMap::from([("tier".to_owned(), "x".to_owned())]));
    admin.update(&labelled).await.expect("updated");
    assert!(matches!(next(&mut changes).await, Change::Applied(_)));
    admin.delete::<ConfigMap>(&labelled.key(), &DeleteOptions::default()).await.expect("gone");
    assert!(matches!(next(&mut changes).await, Change::Deleted(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_hold_their_content() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let mut elsewhere = config("m", "1");
    elsewhere.metadata.namespace = Some("team".into());
    assert!(admin.create(&elsewhere).await.unwrap_err().is_not_found());
    let team: Namespace = object(json!({"metadata": {"name": "team"}}));
    admin.create(&team).await.expect("created");
    admin.create(&elsewhere).await.expect("created");
    let controllers = fixture.local(Identity::Controllers);
    let key = Key::cluster("team");
    controllers.delete::<Namespace>(&key, &DeleteOptions::default()).await.expect("accepted");
    elsewhere.metadata.name = Some("late".into());
    let refused = admin.create(&elsewhere).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Forbidden);
    assert_eq!(
        refused.message,
        "configmaps \"late\" is forbidden: unable to create new content in namespace team because it is being terminated"
    );
    let mut emptied = (*controllers.get::<Namespace>(&key).await.expect("going")).clone();
    emptied.spec.get_or_insert_default().finalizers = None;
    controllers.update(&emptied).await.expect("let go");
    assert!(admin.get::<Namespace>(&key).await.unwrap_err().is_not_found());
    let refused =
        admin.delete::<Namespace>(&Key::cluster("default"), &DeleteOptions::default()).await;
    assert_eq!(refused.unwrap_err().reason, Reason::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_and_propagation_becomes_one() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let set: ReplicaSet = object(json!({"metadata": {"name": "s", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": {
            "metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}));
    let key = admin.create(&set).await.expect("created").key();
    let foreground =
        DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    admin.delete::<ReplicaSet>(&key, &foreground).await.expect("accepted");
    let going = admin.get::<ReplicaSet>(&key).await.expect("held");
    assert_eq!(going.metadata.finalizers, Some(vec!["foregroundDeletion".to_owned()]));
    let mut released = (*going).clone();
    released.metadata.finalizers = None;
    admin.update(&released).await.expect("let go");
    assert!(admin.get::<ReplicaSet>(&key).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_scale_and_services_get_addresses_of_their_own() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let web: Deployment = object(deployment("web", "i:1"));
    let key = admin.create(&web).await.expect("created").key();
    admin.scale::<Deployment>(&key, 5, None).await.expect("scaled");
    let scaled = admin.get::<Deployment>(&key).await.unwrap();
    assert_eq!(scaled.spec.as_ref().unwrap().replicas, Some(5));
    assert_eq!(scaled.metadata.generation, Some(2));
    assert!(admin.scale::<Deployment>(&key, 6, Some("1")).await.unwrap_err().is_conflict());
    assert_eq!(
        admin.scale::<Deployment>(&key, -1, None).await.unwrap_err().reason,
        Reason::Invalid
    );

    let service = |name: &str, spec: Value| -> Service {
        object(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}))
    };
    let creates = (0..40).map(|index| {
        let service =
            service(&format!("s{index}"), json!({"type": "NodePort", "ports": [{"port": 80}]}));
        let admin = admin.clone();
        async move { admin.create(&service).await.expect("created") }
    });
    let made = futures::future::join_all(creates).await;
    let mut addresses: Vec<String> = made
        .iter()
        .map(|service| service.spec.as_ref().unwrap().cluster_ip.clone().expect("allocated"))
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 40, "no address twice");
    assert!(!addresses.iter().any(|address| address.starts_with("10.97.0.")), "{addresses:?}");
    let taken = service("late", json!({"clusterIP": addresses[0], "ports": [{"port": 80}]}));
    let refused = admin.create(&taken).await.unwrap_err();
    assert!(refused.message.contains("provided IP is already allocated"), "{refused}");
    // An update keeps what the manifest leaves out.
    let same = service("s0", json!({"type": "NodePort", "ports": [{"port": 81}]}));
    let updated = admin.update(&same).await.expect("updated");
    assert_eq!(
        updated.spec.as_ref().unwrap().cluster_ip,
        made[0].spec.as_ref().unwrap().cluster_ip
    );
}

fn apply(kind: Kind, manifest: Value) -> SetWrite {
    let meta = &manifest["metadata"];
    let key = Key {
        namespace: meta["namespace"].as_str().unwrap_or_default().to_owned(),
        name: meta["name"].as_str().expect("a name").to_owned(),
    };
    SetWrite::Apply {
        kind,
        key,
        manifest,
        previous_labels: vec![],
        previous_annotations: vec![],
        adopt: false,
    }
}

fn in_team(mut manifest: Value) -> Value {
    manifest["metadata"]["namespace"] = json!("team");
    manifest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_enters_whole_or_not_at_all() {
    let fixture = Fixture::new();
    let sync = fixture.local(Identity::Sync);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    let set = ApplySet {
        source: "web".into(),
        writes: vec![
            apply(Kind::Namespace, namespace.clone()),
            apply(Kind::Deployment, in_team(deployment("web", "i:1"))),
        ],
        ..ApplySet::default()
    };
    let dry = sync.apply_set(&set, true).await.expect("would be entered");
    assert!(dry.iter().all(|outcome| outcome.action == SetAction::Created));
    assert!(
        sync.get::<Namespace>(&Key::cluster("team")).await.is_err(),
        "a dry run enters nothing"
    );

    let outcomes = sync.apply_set(&set, false).await.expect("entered");
    let version = |outcome: &ballast::object::SetOutcome| -> u64 {
        outcome.after.as_ref().unwrap()["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    assert_eq!(version(&outcomes[0]) + 1, version(&outcomes[1]), "consecutive revisions");
    assert_eq!(
        outcomes[1].after.as_ref().unwrap()["metadata"]["annotations"][SOURCE_ANNOTATION],
        "web"
    );
    let again = sync.apply_set(&set, false).await.expect("entered");
    assert!(again.iter().all(|outcome| outcome.action == SetAction::Unchanged), "{again:?}");

    // Every problem at once, and nothing of the good part enters.
    let mut bad = in_team(deployment("bad", "i:1"));
    bad["spec"]["replicas"] = json!(-1);
    let mut unknown = in_team(deployment("unknown", "i:1"));
    unknown["spec"]["replicaz"] = json!(1);
    let broken = ApplySet {
        source: "web".into(),
        writes: vec![
            apply(Kind::Deployment, bad),
            apply(Kind::Deployment, in_team(deployment("good", "i:1"))),
            apply(Kind::Deployment, unknown),
            apply(Kind::ConfigMap, json!({"metadata": {"name": "m", "namespace": "nowhere"}})),
        ],
        ..ApplySet::default()
    };
    let problems = sync.apply_set(&broken, false).await.expect_err("refused");
    assert_eq!(problems.iter().map(|problem| problem.write).collect::<Vec<_>>(), [0, 2, 3]);
    assert!(problems[1].error.message.contains("spec.replicaz"), "{:?}", problems[1]);
    assert!(sync.get::<Deployment>(&Key::new("team", "good")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_makes_no_system_namespace() {
    let fixture = Fixture::new();
    let sync = fixture.local(Identity::Sync);
    let set = ApplySet {
        source: "web".into(),
        writes: vec![apply(
            Kind::ConfigMap,
            json!({"metadata": {"name": "m", "namespace": "default"}}),
        )],
        ..ApplySet::default()
    };
    let revision = fixture.store.revision();
    let dry = sync.apply_set(&set, true).await.expect("would be entered");
    assert_eq!(dry[0].action, SetAction::Created);
    assert_eq!(fixture.store.revision(), revision, "nothing is written");
    sync.apply_set(&set, false).await.expect("entered");
    assert!(sync.get::<Namespace>(&Key::cluster("default")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_changes_its_own_objects_and_keeps_what_the_cluster_added() {
    let fixture = Fixture::new();
    let sync = fixture.local(Identity::Sync);
    let admin = fixture.admin();
    let mut manifest = deployment("web", "i:1");
    manifest["metadata"]["labels"] = json!({"mine": "1", "old": "1"});
    let set = |manifest: Value, adopt: bool| {
        let mut write = apply(Kind::Deployment, manifest);
        if let SetWrite::Apply { previous_labels, adopt: taken, .. } = &mut write {
            *previous_labels = vec!["mine".into(), "old".into()];
            *taken = adopt;
        }
        ApplySet { source: "web".into(), writes: vec![write], ..ApplySet::default() }
    };
    sync.apply_set(&set(manifest.clone(), false), false).await.expect("entered");
    let key = Key::new("default", "web");
    let theirs = Patch::Merge(json!({"metadata": {"labels": {"theirs": "1"},
        "annotations": {"deployment.kubernetes.io/revision": "1"}}}));
    admin.patch::<Deployment>(&key, &theirs).await.expect("patched");
    manifest["metadata"]["labels"] = json!({"mine": "2"});
    let outcomes = sync.apply_set(&set(manifest.clone(), false), false).await.expect("entered");
    assert_eq!(outcomes[0].action, SetAction::Updated);
    let stored = admin.get::<Deployment>(&key).await.unwrap();
    let labels = stored.metadata.labels.clone().unwrap();
    assert_eq!(labels.get("mine").map(String::as_str), Some("2"));
    assert!(labels.contains_key("theirs") && !labels.contains_key("old"));
    assert!(
        stored
            .metadata
            .annotations
            .as_ref()
            .unwrap()
            .contains_key("deployment.kubernetes.io/revision")
    );

    let foreign = ApplySet { source: "other".into(), ..set(manifest.clone(), false) };
    let problems = sync.apply_set(&foreign, false).await.expect_err("not theirs");
    assert!(problems[0].error.message.contains("belongs to source web"), "{:?}", problems[0]);
    let adopted = ApplySet { source: "other".into(), ..set(manifest, true) };
    sync.apply_set(&adopted, false).await.expect("adopted");

    // Only this incarnation, only while it is ours.
    let delete = |source: &str, uid: &str| ApplySet {
        source: source.into(),
        writes: vec![SetWrite::Delete {
            kind: Kind::Deployment,
            key: key.clone(),
            uid: uid.into(),
        }],
        ..ApplySet::default()
    };
    let uid = stored.uid().to_owned();
    for set in [delete("web", &uid), delete("other", "another-uid")] {
        let outcomes = sync.apply_set(&set, false).await.expect("nothing to do");
        assert_eq!(outcomes[0].action, SetAction::Unchanged);
    }
    let outcomes = sync.apply_set(&delete("other", &uid), false).await.expect("deleted");
    assert_eq!(outcomes[0].action, SetAction::Deleted);
    assert!(admin.get::<Deployment>(&key).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_wins_against_writers_of_status() {
    let fixture = Fixture::new();
    let sync = fixture.local(Identity::Sync);
    let manifests: Vec<Value> =
        (0..30).map(|index| deployment(&format!("d{index}"), "i:1")).collect();
    let set = |image: &str| ApplySet {
        source: "web".into(),
        writes: manifests
            .iter()
            .map(|manifest| {
                let mut manifest = manifest.clone();
                manifest["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
                apply(Kind::Deployment, manifest)
            })
            .collect(),
        ..ApplySet::default()
    };
    sync.apply_set(&set("i:1"), false).await.expect("entered");
    let controllers = fixture.local(Identity::Controllers);
    let writer = tokio::spawn(async move {
        for round in 1..20 {
            for index in 0..30 {
                let key = Key::new("default", format!("d{index}"));
                let patch = Patch::Merge(json!({"status": {"observedGeneration": round}}));
                controllers.patch_status::<Deployment>(&key, &patch).await.expect("patched");
            }
        }
    });
    for round in 2..6 {
        sync.apply_set(&set(&format!("i:{round}")), false).await.expect("entered");
    }
    writer.await.expect("no panic");
    for index in 0..30 {
        let key = Key::new("default", format!("d{index}"));
        let stored = sync.get::<Deployment>(&key).await.unwrap();
        assert_eq!(stored.metadata.generation, Some(5));
        assert_eq!(stored.status.as_ref().unwrap().observed_generation, Some(19));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_become_events_that_count() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let pod = admin.create(&pod("web-1")).await.expect("created");
    for _ in 0..3 {
        admin.note(Note::warning(&*pod, "node-agent", "BackOff", "back-off restarting"));
    }
    admin.note(Note::normal(&*pod, "scheduler", "Scheduled", "assigned"));
    let scope = Scope::fields("involvedObject.name=web-1,type=Warning");
    let mut changes = Box::pin(admin.watch::<Event>(scope));
    loop {
        let events = match next(&mut changes).await {
            Change::Reset(events) => events,
            Change::Applied(event) => vec![event],
            Change::Deleted(_) => panic!("events stay for an hour"),
        };
        if events.iter().any(|event| event.count == Some(3)) {
            assert_eq!(events[0].reason.as_deref(), Some("BackOff"));
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_hashed_for_everyone_but_those_who_need_them() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let secret: Secret = object(json!({"metadata": {"name": "s", "namespace": "default"},
        "stringData": {"password": "hunter2"}}));
    let key = admin.create(&secret).await.expect("created").key();
    let clear = |secret: &Arc<Secret>| {
        secret.data.as_ref().is_some_and(|data| data["password"].0 == b"hunter2")
    };
    assert!(clear(&admin.get::<Secret>(&key).await.unwrap()));
    let agent = fixture.local(Identity::NodeAgent { node: "n1".into() });
    let rooms = [
        fixture.local(Identity::Reader),
        fixture.local(Identity::Web),
        fixture.local(Identity::Controllers),
        fixture.local(Identity::Network { node: "n1".into() }),
    ];
    for room in &rooms {
        let seen = room.get::<Secret>(&key).await.unwrap();
        assert!(!clear(&seen));
        assert!(seen.data.as_ref().unwrap()["password"].0.starts_with(b"hmac-sha256:"));
        assert!(!clear(&room.list::<Secret>(&Scope::all()).await.unwrap().items[0]));
        let mut changes = Box::pin(room.watch::<Secret>(Scope::all()));
        assert!(matches!(next(&mut changes).await, Change::Reset(all) if !clear(&all[0])));
    }
    // A node agent uses values: what it may not read is not there, never a hash in its place.
    let followed = Scope { namespace: Some("default".into()), ..Scope::fields("metadata.name=s") };
    let mut seen_by_agent = Box::pin(agent.watch::<Secret>(followed));
    assert!(matches!(next(&mut seen_by_agent).await, Change::Reset(all) if all.is_empty()));
    assert!(agent.get::<Secret>(&key).await.unwrap_err().is_not_found());
    assert!(agent.list::<Secret>(&Scope::all()).await.unwrap().items.is_empty());
    admin.update(&secret).await.expect("written again while nobody names it");
    // A pod on the node names it: its agent, and only its agent, reads it.
    let mut user = pod("user");
    user.spec.as_mut().unwrap().containers[0].env_from =
        Some(vec![object(json!({"secretRef": {"name": "s"}}))]);
    let user = admin.create(&user).await.expect("created");
    admin.bind(&user.key(), user.uid(), "n1").await.expect("bound");
    assert!(clear(&agent.get::<Secret>(&key).await.unwrap()));
    let labelled = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    admin.patch::<Secret>(&key, &labelled).await.expect("labelled");
    let Change::Applied(first) = next(&mut seen_by_agent).await else { panic!("a change") };
    assert!(clear(&first), "the first that it sees is in clear");
    let other = fixture.local(Identity::NodeAgent { node: "n2".into() });
    assert!(other.get::<Secret>(&key).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_room_writes_what_is_its_own() {
    let fixture = Fixture::new();
    let node: Node = object(json!({"metadata": {"name": "n1"}}));
    let agent = fixture.local(Identity::NodeAgent { node: "n1".into() });
    agent.create(&node).await.expect("its own node");
    let other: Node = object(json!({"metadata": {"name": "n2"}}));
    assert_eq!(agent.create(&other).await.unwrap_err().reason, Reason::Forbidden);
    for who in [Identity::Web, Identity::Reader, Identity::Scheduler] {
        let room = fixture.local(who);
        assert_eq!(room.create(&pod("p")).await.unwrap_err().reason, Reason::Forbidden);
        let refused = room.delete::<Node>(&Key::cluster("n1"), &DeleteOptions::default()).await;
        assert_eq!(refused.unwrap_err().reason, Reason::Forbidden);
    }
}

/// Kubernetes lets a few kinds' metadata through with a status (a Deployment's annotations); here a
/// status is a status for every kind, or its writers could change what a commit said.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_the_status_writes_the_status_only() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let made =
        admin.create::<Deployment>(&object(deployment("web", "i:1"))).await.expect("created");
    let mut told = (*made).clone();
    let forged = Some([("ballast.dev/source".to_owned(), "other".to_owned())].into());
    told.metadata.annotations.clone_from(&forged);
    told.metadata.labels = forged;
    told.metadata.finalizers = Some(vec!["example.com/held".into()]);
    told.spec.get_or_insert_default().replicas = Some(7);
    told.status.get_or_insert_default().replicas = Some(2);
    let stored = admin.update_status(&told).await.expect("written");
    let patch =
        Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 8},
        "status": {"readyReplicas": 1}}));
    let patched = admin.patch_status::<Deployment>(&made.key(), &patch).await.expect("patched");
    for after in [&stored, &patched] {
        let mut expected = made.metadata.clone();
        expected.resource_version.clone_from(&after.metadata.resource_version);
        assert_eq!(after.metadata, expected);
        assert_eq!(after.spec, made.spec);
    }
    let status = patched.status.clone().expect("a status");
    assert_eq!((status.replicas, status.ready_replicas), (Some(2), Some(1)));
}
