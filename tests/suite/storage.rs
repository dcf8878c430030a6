//! Claims, volumes and storage classes over the real API: the volume controller and the scheduler,
//! with agents that provision as a node's does; what a commit may write; what kubectl shows.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use ballast::api::{Identity, Local};
use ballast::clock::Clock;
use ballast::object::storage::{
    BIND_COMPLETED, PROVISIONED_BY, SELECTED_NODE, annotation, is_bound, is_ours, node_of,
    provisioner_of, volume_of,
};
use ballast::object::{
    ApplySet, Change, Cluster, DeleteOptions, Key, Kind, Object, Patch, Reason, Scope, SetWrite,
    Transact,
};
use ballast::reconcile::{self, scheduler};
use ballast::store::Sqlite;
use ballast::task::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use crate::api_http::ask;
use crate::fixture::{Fixture, object, until};
use crate::kubectl_world::World;
use crate::scheduler::{join, node};
use crate::sync::Scene;

type Home = Local<Sqlite>;

fn on(node: &str) -> Value {
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}})
}

fn claim(name: &str, class: Option<&str>) -> PersistentVolumeClaim {
    object(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": "1Gi"}}}}))
}

fn volume(name: &str, node: &str, class: &str, size: &str) -> PersistentVolume {
    object(json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": size}, "storageClassName": class,
        "local": {"path": format!("/srv/{name}")}, "nodeAffinity": on(node)}}))
}

fn class(name: &str, mode: &str) -> StorageClass {
    object(json!({"metadata": {"name": name}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": mode}))
}

fn pod(name: &str, claim: &str) -> Pod {
    object(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {
        "containers": [{"name": "c", "image": "i:1",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}}))
}

fn home(name: &str) -> Key {
    Key::new("default", name)
}

/// Two nodes, the controllers and the scheduler.
struct Cell {
    fixture: Fixture,
    admin: Home,
}

impl Cell {
    async fn new() -> Self {
        Self::with(scheduler::Options::default()).await
    }

    async fn with(options: scheduler::Options) -> Self {
        let fixture = Fixture::new();
        let admin = fixture.admin();
        fixture.namespaces(&["default"]).await;
        for name in ["n1", "n2"] {
            let mut node = node(name, "4", 110);
            node.metadata.labels =
                Some([("kubernetes.io/hostname".to_owned(), name.to_owned())].into());
            join(&admin, &node).await;
        }
        let cell = Self { fixture, admin };
        reconcile::run(
            cell.fixture.local(Identity::Controllers),
            Clock::wall(),
            &cell.fixture.tasks,
        );
        let options = scheduler::Options { seed: 1, ..options };
        let scheduler = cell.fixture.local(Identity::Scheduler);
        scheduler::run_with(scheduler, options, Clock::wall(), &cell.fixture.tasks);
        until::<StorageClass>(&cell.admin, "both classes are there", |all| all.len() == 2).await;
        cell
    }

    async fn end(self) {
        let Self { fixture, admin } = self;
        drop(admin);
        fixture.end().await;
    }

    /// A node's agent, as far as volumes go.
    fn provision(&self, node: &'static str) {
        let agent = self.fixture.local(Identity::NodeAgent { node: node.to_owned() });
        provision(agent, node, &self.fixture.tasks);
    }

    async fn until_claim(&self, what: &str, holds: impl Fn(&PersistentVolumeClaim) -> bool) {
        until::<PersistentVolumeClaim>(&self.admin, what, |all| all.iter().any(|own| holds(own)))
            .await;
    }

    async fn phase_of(&self, name: &str, phase: &str) {
        until::<PersistentVolume>(&self.admin, &format!("{name} is {phase}"), |all| {
            all.iter().any(|own| {
                own.metadata.name.as_deref() == Some(name)
                    && own.status.as_ref().and_then(|own| own.phase.as_deref()) == Some(phase)
            })
        })
        .await;
    }

    async fn until_said(&self, reason: &str, message: &str) {
        until::<Event>(&self.admin, message, |all| {
            all.iter().any(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.message.as_deref().is_some_and(|said| said.contains(message))
            })
        })
        .await;
    }

    async fn end_pod(&self, name: &str) {
        let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
        self.admin.delete::<Pod>(&home(name), &options).await.expect("the pod goes");
    }

    async fn node_of_pod(&self, name: &str) -> Option<String> {
        let pod = self.admin.get::<Pod>(&home(name)).await.expect("there");
        pod.spec.as_ref().and_then(|spec| spec.node_name.clone())
    }

    async fn until_bound(&self, names: &[&str]) {
        until::<Pod>(&self.admin, "the pods are bound", |all| {
            names.iter().all(|name| {
                all.iter().any(|pod| {
                    pod.key().name == *name
                        && pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
                })
            })
        })
        .await;
    }
}

/// Makes volumes for the claims that are selected for the node, and removes what is released.
fn provision(agent: Home, node: &'static str, tasks: &Tasks) {
    let stop = tasks.stop().clone();
    tasks.spawn("provisioner", async move {
        let mut claims = std::pin::pin!(agent.watch::<PersistentVolumeClaim>(Scope::all()));
        let mut volumes = std::pin::pin!(agent.watch::<PersistentVolume>(Scope::all()));
        loop {
            tokio::select! {
                biased;
                // All cancel safe: a stream's next takes nothing before it is ready.
                () = stop.cancelled() => return,
                Some(change) = claims.next() => {
                    let seen = match change {
                        Change::Reset(all) => all,
                        Change::Applied(one) => vec![one],
                        Change::Deleted(_) => Vec::new(),
                    };
                    for claim in seen {
                        make(&agent, node, &claim).await;
                    }
                }
                Some(change) = volumes.next() => {
                    let seen = match change {
                        Change::Reset(all) => all,
                        Change::Applied(one) => vec![one],
                        Change::Deleted(_) => Vec::new(),
                    };
                    for volume in seen {
                        remove(&agent, node, &volume).await;
                    }
                }
            }
        }
    });
}

async fn make(agent: &Home, node: &str, claim: &PersistentVolumeClaim) {
    let is_asked = annotation(&claim.metadata, SELECTED_NODE) == Some(node)
        && volume_of(claim).is_none()
        && claim.metadata.deletion_timestamp.is_none();
    let spec = claim.spec.clone().unwrap_or_default();
    let Some(name) = spec.storage_class_name.filter(|_| is_asked) else { return };
    let class = agent.get::<StorageClass>(&Key::cluster(name.as_str())).await.expect("a class");
    if !is_ours(&class.provisioner) {
        return;
    }
    let own = format!("pvc-{}", claim.uid());
    let volume: PersistentVolume = object(json!({
        "metadata": {"name": own, "annotations": {PROVISIONED_BY: class.provisioner}},
        "spec": {"accessModes": spec.access_modes, "storageClassName": name,
            "capacity": {"storage": spec.resources.and_then(|own| own.requests)
                .and_then(|mut requests| requests.remove("storage"))},
            "persistentVolumeReclaimPolicy": class.reclaim_policy, "volumeMode": "Filesystem",
            "local": {"path": format!("/srv/ballast/volumes/{own}")}, "nodeAffinity": on(node),
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace, "name": claim.metadata.name,
                "uid": claim.metadata.uid}}}));
    match agent.create(&volume).await {
        Err(error) if error.is_already_exists() => {}
        made => drop(made.expect("an agent may make volumes of its node")),
    }
}

async fn remove(agent: &Home, node: &str, volume: &PersistentVolume) {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let policy =
        volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if node_of(volume) == Some(node)
        && provisioner_of(volume).is_some()
        && (phase, policy) == (Some("Released"), Some("Delete"))
        && volume.metadata.deletion_timestamp.is_none()
    {
        let options =
            DeleteOptions { uid: volume.metadata.uid.clone(), ..DeleteOptions::default() };
        agent
            .delete::<PersistentVolume>(&volume.key(), &options)
            .await
            .expect("an agent may remove volumes of its node");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gets_a_volume_on_the_node_of_its_first_pod_and_gives_it_back() {
    let cell = Cell::new().await;
    cell.provision("n1");
    cell.provision("n2");
    let made = cell.admin.create(&claim("data", None)).await.expect("created");
    let class = made.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    assert_eq!(class, Some("local-path"), "the default class");
    cell.until_said("WaitForFirstConsumer", "waiting for first consumer").await;
    for name in ["one", "two"] {
        cell.admin.create(&pod(name, "data")).await.expect("created");
    }
    cell.until_bound(&["one", "two"]).await;
    let place = cell.node_of_pod("one").await;
    assert_eq!(cell.node_of_pod("two").await, place, "two pods with one claim");
    let bound = cell.admin.get::<PersistentVolumeClaim>(&home("data")).await.expect("there");
    let name = volume_of(&bound).expect("a volume").to_owned();
    let volume = cell.admin.get::<PersistentVolume>(&Key::cluster(name.as_str())).await;
    let volume = volume.expect("there");
    assert!(is_bound(&bound, &volume), "a pod is bound only when its claims are");
    assert_eq!(node_of(&volume).map(str::to_owned), place);
    cell.until_claim("it says so", |claim| {
        let status = claim.status.clone().unwrap_or_default();
        let amount = status.capacity.and_then(|mut own| own.remove("storage"));
        status.phase.as_deref() == Some("Bound")
            && amount.is_some_and(|amount| amount.0 == "1Gi")
            && status.access_modes.is_some_and(|modes| modes == ["ReadWriteOnce"])
    })
    .await;
    cell.phase_of(&name, "Bound").await;

    // It stays as long as a pod has it, then all of it goes.
    let none = DeleteOptions::default();
    cell.admin.delete::<PersistentVolumeClaim>(&home("data"), &none).await.expect("goes");
    cell.end_pod("one").await;
    cell.until_claim("it is going", |claim| claim.metadata.deletion_timestamp.is_some()).await;
    cell.admin.create(&pod("three", "data")).await.expect("created");
    cell.until_said("FailedScheduling", "persistentvolumeclaim \"data\" is being deleted").await;
    let there = cell.admin.get::<PersistentVolumeClaim>(&home("data")).await;
    assert!(there.is_ok(), "a pod has it");
    cell.end_pod("two").await;
    until::<PersistentVolumeClaim>(&cell.admin, "the claim is gone", |all| all.is_empty()).await;
    until::<PersistentVolume>(&cell.admin, "the volume is gone", |all| all.is_empty()).await;
    cell.until_said("FailedScheduling", "persistentvolumeclaim \"data\" not found").await;
    cell.admin.create(&claim("data", Some("docker-volume"))).await.expect("created");
    cell.until_bound(&["three"]).await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_there_is_taken_first_and_kept_after_its_claim() {
    let cell = Cell::new().await;
    cell.admin.create(&class("by-hand", "WaitForFirstConsumer")).await.expect("created");
    for (name, size) in [("big", "9Gi"), ("fits", "2Gi"), ("small", "500Mi")] {
        cell.admin.create(&volume(name, "n2", "by-hand", size)).await.expect("created");
        cell.phase_of(name, "Available").await;
    }
    cell.admin.create(&claim("data", Some("by-hand"))).await.expect("created");
    cell.admin.create(&pod("web", "data")).await.expect("created");
    cell.until_bound(&["web"]).await;
    assert_eq!(cell.node_of_pod("web").await.as_deref(), Some("n2"));
    cell.phase_of("fits", "Bound").await;
    // Another pod of it finds the same node, and no other.
    let mut elsewhere = pod("elsewhere", "data");
    elsewhere.spec.as_mut().expect("a spec").node_selector =
        Some([("kubernetes.io/hostname".to_owned(), "n1".to_owned())].into());
    cell.admin.create(&elsewhere).await.expect("created");
    cell.until_said(
        "FailedScheduling",
        "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) didn't match Pod's node affinity/selector.",
    )
    .await;
    cell.end_pod("elsewhere").await;
    cell.end_pod("web").await;
    let none = DeleteOptions::default();
    cell.admin.delete::<PersistentVolumeClaim>(&home("data"), &none).await.expect("goes");
    cell.phase_of("fits", "Released").await;
    // A new claim of the same name is another one.
    cell.admin.create(&claim("data", Some("by-hand"))).await.expect("created");
    cell.admin.create(&pod("again", "data")).await.expect("created");
    cell.until_bound(&["again"]).await;
    cell.phase_of("big", "Bound").await;
    let kept = cell.admin.get::<PersistentVolume>(&Key::cluster("fits")).await.expect("there");
    assert_eq!(kept.status.as_ref().and_then(|own| own.phase.as_deref()), Some("Released"));
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_says_what_it_waits_for_and_a_pod_too() {
    let cell = Cell::new().await;
    cell.admin.create(&class("now", "Immediate")).await.expect("created");
    cell.admin.create(&claim("classless", Some(""))).await.expect("created");
    cell.until_said(
        "FailedBinding",
        "no persistent volumes available for this claim and no storage class is set",
    )
    .await;
    cell.admin.create(&claim("stranger", Some("gold"))).await.expect("created");
    cell.until_said("ProvisioningFailed", "storageclass.storage.k8s.io \"gold\" not found").await;
    cell.admin.create(&claim("waits", Some("now"))).await.expect("created");
    cell.admin.create(&pod("early", "waits")).await.expect("created");
    cell.until_said(
        "FailedScheduling",
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    )
    .await;
    cell.admin.create(&volume("late", "n1", "now", "1Gi")).await.expect("created");
    cell.until_bound(&["early"]).await;
    assert_eq!(cell.node_of_pod("early").await.as_deref(), Some("n1"));
    // A bound claim whose volume is taken away past everybody is lost, and says so.
    let none = DeleteOptions::default();
    cell.admin.delete::<PersistentVolume>(&Key::cluster("late"), &none).await.expect("goes");
    let bare = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let gone = cell.admin.patch::<PersistentVolume>(&Key::cluster("late"), &bare).await;
    gone.expect("forced");
    cell.until_claim("it is lost", |claim| {
        claim.status.as_ref().and_then(|own| own.phase.as_deref()) == Some("Lost")
    })
    .await;
    cell.until_said("ClaimLost", "Bound claim has lost its PersistentVolume.").await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_may_take_a_built_in_class_over_and_none_is_missing_for_long() {
    let cell = Cell::new().await;
    let none = DeleteOptions::default();
    let docker = Key::cluster("docker-volume");
    cell.admin.delete::<StorageClass>(&docker, &none).await.expect("goes");
    until::<StorageClass>(&cell.admin, "it is there again", |all| all.len() == 2).await;
    let manifest = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local-path",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "false"}},
        "provisioner": "ballast.dev/local-path", "volumeBindingMode": "WaitForFirstConsumer"});
    let write = SetWrite::Apply {
        kind: Kind::StorageClass,
        key: Key::cluster("local-path"),
        manifest,
        previous_labels: Vec::new(),
        previous_annotations: Vec::new(),
        adopt: false,
    };
    let set = ApplySet { source: "main".to_owned(), writes: vec![write], ..ApplySet::default() };
    let sync = cell.fixture.local(Identity::Sync);
    sync.apply_set(&set, false).await.expect("it belongs to who names it first");
    drop(sync);
    let made = cell.admin.create(&claim("data", None)).await.expect("created");
    assert_eq!(made.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()), None);
    cell.until_said("FailedBinding", "no storage class is set").await;
    let mut gold = class("gold", "WaitForFirstConsumer");
    gold.metadata.annotations = Some(
        [("storageclass.kubernetes.io/is-default-class".to_owned(), "true".to_owned())].into(),
    );
    cell.admin.create(&gold).await.expect("created");
    cell.until_claim("it gets the default that there is now", |claim| {
        claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) == Some("gold")
    })
    .await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_makes_no_volume() {
    let cell = Cell::new().await;
    cell.provision("n2");
    cell.admin.create(&claim("data", None)).await.expect("created");
    let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "n9"}}});
    let patched =
        cell.admin.patch::<PersistentVolumeClaim>(&home("data"), &Patch::Merge(selected)).await;
    patched.expect("as if n9 had been there");
    let mut first = pod("web", "data");
    first.spec.as_mut().expect("a spec").node_selector =
        Some([("kubernetes.io/hostname".to_owned(), "n2".to_owned())].into());
    cell.admin.create(&first).await.expect("created");
    cell.until_bound(&["web"]).await;
    cell.until_claim("it is on n2", |claim| {
        annotation(&claim.metadata, SELECTED_NODE) == Some("n2")
            && annotation(&claim.metadata, BIND_COMPLETED).is_some()
    })
    .await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_makes_no_volume_in_time_is_given_up() {
    // Ten minutes in the product, as kube-scheduler's.
    let volumes_within = Duration::from_millis(400);
    let cell =
        Cell::with(scheduler::Options { volumes_within, ..scheduler::Options::default() }).await;
    cell.admin.create(&claim("data", None)).await.expect("created");
    cell.admin.create(&pod("web", "data")).await.expect("created");
    cell.until_claim("a node is chosen", |claim| {
        annotation(&claim.metadata, SELECTED_NODE).is_some()
    })
    .await;
    cell.until_said("FailedScheduling", "binding volumes: context deadline exceeded").await;
    cell.until_claim("it is given up", |claim| {
        annotation(&claim.metadata, SELECTED_NODE).is_none()
    })
    .await;
    assert_eq!(cell.node_of_pod("web").await, None);
    // Whichever is chosen next.
    cell.provision("n1");
    cell.provision("n2");
    cell.until_bound(&["web"]).await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_provisions_on_its_node_and_nobody_else_does() {
    let fixture = Fixture::new();
    let agent = fixture.local(Identity::NodeAgent { node: "n1".to_owned() });
    let made = |name: &str, node: &str| {
        let mut volume = volume(name, node, "s", "1Gi");
        volume.metadata.annotations =
            Some([(PROVISIONED_BY.to_owned(), "ballast.dev/local-path".to_owned())].into());
        volume
    };
    agent.create(&made("own", "n1")).await.expect("its own node's");
    for theirs in [made("theirs", "n2"), volume("by-hand", "n1", "s", "1Gi")] {
        let refused = agent.create(&theirs).await.expect_err("not its own");
        assert_eq!(refused.reason, Reason::Forbidden, "{refused}");
        fixture.admin().create(&theirs).await.expect("somebody wrote it");
        let name = theirs.key();
        let refused = agent.delete::<PersistentVolume>(&name, &DeleteOptions::default()).await;
        assert_eq!(refused.expect_err("not its own").reason, Reason::Forbidden);
    }
    let failed = Patch::Merge(json!({"status": {"phase": "Failed", "message": "busy"}}));
    let key = Key::cluster("own");
    agent.patch_status::<PersistentVolume>(&key, &failed).await.expect("it says so");
    let moved = Patch::Merge(json!({"spec": {"local": {"path": "/etc"}}}));
    assert!(agent.patch::<PersistentVolume>(&key, &moved).await.is_err());
    agent.delete::<PersistentVolume>(&key, &DeleteOptions::default()).await.expect("it goes");
    drop(agent);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_a_commit_needs_the_daemons_key() {
    let fixture = Fixture::new();
    let router = fixture.api.router();
    let tried = |change: Value| {
        let router = router.clone();
        async move {
            let mut body = serde_json::to_value(volume("v", "n1", "s", "1Gi")).expect("JSON");
            json_patch::merge(&mut body, &change);
            let path = "/api/v1/persistentvolumes?dryRun=All";
            let json_type = [("content-type", "application/json")];
            let answer = ask(&router, Method::POST, path, &json_type, body.to_string()).await;
            assert_eq!(answer.code, StatusCode::FORBIDDEN);
            answer.json()["message"].as_str().expect("a message").to_owned()
        }
    };
    assert_eq!(
        tried(json!({})).await,
        "persistentvolumes \"v\" is forbidden: the daemon does not allow every namespace the host path /srv/v, and any claim may take the volume; to allow it: name the claim in spec.claimRef and allow its namespace, or start the daemon with --allow-host-path *:/srv/v (or allow: in its config file)"
    );
    let kept = json!({"spec": {"claimRef": {"namespace": "shop", "name": "c"}}});
    assert_eq!(
        tried(kept).await,
        "persistentvolumes \"v\" is forbidden: the daemon does not allow namespace \"shop\" the host path /srv/v; to allow it: start the daemon with --allow-host-path shop:/srv/v (or allow: in its config file)"
    );
    let docker = json!({"spec": {"local": null, "claimRef": {"namespace": "shop", "name": "c"},
        "csi": {"driver": "docker-volume.ballast.dev", "volumeHandle": "files"}}});
    assert!(tried(docker).await.contains("namespace \"shop\" the host's Docker volume files; to allow it: start the daemon with --allow-privileged shop"));
    drop(router);
    fixture.end().await;
}

const CLAIM: &str = "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: default}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_controllers_write_into_a_committed_claim_is_no_drift() {
    let scene = Scene::with(&[("data.yaml", CLAIM)]).await;
    scene.until_applied(&scene.head()).await;
    let key = home("data");
    let bind = Patch::Merge(json!({"metadata": {"annotations": {BIND_COMPLETED: "yes",
        SELECTED_NODE: "n1"}}, "spec": {"volumeName": "v", "storageClassName": "s"}}));
    scene.admin.patch::<PersistentVolumeClaim>(&key, &bind).await.expect("bound");
    // A commit that changes a label and names no volume leaves the binding as it is.
    let labelled = CLAIM.replace("{name: data,", "{name: data, labels: {a: b},");
    let second = scene.commit(&[("data.yaml", &labelled)]).await;
    scene.until_applied(&second).await;
    let claim = scene
        .until_object::<PersistentVolumeClaim>(&key, |claim| claim.metadata.labels.is_some())
        .await;
    assert_eq!(volume_of(&claim), Some("v"));
    assert_eq!(annotation(&claim.metadata, SELECTED_NODE), Some("n1"));
    let wider = CLAIM.replace("1Gi", "2Gi");
    let refused = scene.commit(&[("data.yaml", &wider)]).await;
    let told = scene.until_refused(&refused).await;
    assert!(told[0].contains("spec is immutable after creation"), "{told:?}");
    // Removed from Git, it goes when nobody holds it.
    let gone = scene.commit(&[("x.yaml", &crate::sync::config("x"))]).await;
    scene.until_applied(&gone).await;
    let going: Arc<PersistentVolumeClaim> = scene
        .until_object(&key, |claim: &PersistentVolumeClaim| {
            claim.metadata.deletion_timestamp.is_some()
        })
        .await;
    assert_eq!(going.metadata.finalizers, Some(vec!["kubernetes.io/pvc-protection".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_storage() {
    let world = World::new().await;
    world.prints(&[
        (
            "get pvc",
            &[
                "NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS",
                "data Bound pvc-1 1Gi RWO local-path",
            ],
        ),
        ("get persistentvolumeclaims -o wide", &["VOLUMEMODE", "Filesystem"]),
        (
            "get pv",
            &[
                "RECLAIM POLICY STATUS CLAIM STORAGECLASS",
                "pvc-1 1Gi RWO Delete Bound default/data local-path",
            ],
        ),
        (
            "get sc",
            &["local-path (default) ballast.dev/local-path Delete WaitForFirstConsumer false"],
        ),
        (
            "describe pvc data",
            &[
                "Status: Bound",
                "Volume: pvc-1",
                "StorageClass: local-path",
                "Finalizers: [kubernetes.io/pvc-protection]",
            ],
        ),
        (
            "describe pv pvc-1",
            &[
                "Claim: default/data",
                "Reclaim Policy: Delete",
                "kubernetes.io/hostname in [n1]",
                "Path: /srv/volumes/pvc-1",
            ],
        ),
        (
            "describe sc local-path",
            &[
                "IsDefaultClass: Yes",
                "Provisioner: ballast.dev/local-path",
                "VolumeBindingMode: WaitForFirstConsumer",
            ],
        ),
        ("explain pvc.spec.accessModes", &["desired access modes"]),
        ("explain pv.spec.local.path", &["FIELD: path"]),
        ("explain sc.provisioner", &["provisioner indicates the type of the provisioner"]),
        ("wait --for=jsonpath={.status.phase}=Bound pvc/data --timeout=20s", &["condition met"]),
        (
            "get pvc,pv,sc -A",
            &[
                "persistentvolumeclaim/data",
                "persistentvolume/pvc-1",
                "storageclass.storage.k8s.io/local-path",
            ],
        ),
        (
            "api-resources --api-group=storage.k8s.io",
            &["storageclasses sc storage.k8s.io/v1 false StorageClass"],
        ),
    ]);
    world.fixture.end().await;
}
