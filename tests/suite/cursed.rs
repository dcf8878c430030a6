//! Loops that are no controllers of the engine: an object that makes one panic is set aside and
//! shown, and neither the loop nor the daemon ends. The panic comes from a cluster that cannot be
//! asked about objects named `cursed`.

use std::sync::Arc;
use std::time::Duration;

use ballast::api::{Identity, Local};
use ballast::clock::Clock;
use ballast::object::{
    ApiError, ApplySet, Change, Cluster, DeleteOptions, Key, Kind, Listing, Note, Object, Patch,
    Scope, SetOutcome, SetProblem, Transact,
};
use ballast::reconcile::node_lifecycle::{self, Settings};
use ballast::reconcile::{Vitals, garbage, namespace};
use ballast::store::Sqlite;
use ballast::sync::{Access, SourceConfig, SourceUrl, SyncOptions};
use futures::Stream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node};
use serde_json::json;

use crate::fixture::{Fixture, config, object, until};
use crate::repository::Origin;
use crate::scheduler::{join, node};

/// Panics whenever it is asked for, or told to change, an object named `cursed`.
#[derive(Clone)]
pub struct Cursed(Local<Sqlite>);

fn ask(key: &Key) {
    assert_ne!(key.name, "cursed", "the object is cursed");
}

impl Cluster for Cursed {
    async fn get<K: Object>(&self, key: &Key) -> Result<Arc<K>, ApiError> {
        ask(key);
        self.0.get(key).await
    }

    async fn list<K: Object>(&self, scope: &Scope) -> Result<Listing<K>, ApiError> {
        self.0.list(scope).await
    }

    fn watch_keeping<K: Object, T: Send + 'static>(
        &self,
        scope: Scope,
        keep: impl Fn(&Arc<K>) -> T + Send + Sync + 'static,
    ) -> impl Stream<Item = Change<T>> + Send + 'static {
        self.0.watch_keeping(scope, keep)
    }

    async fn create<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        self.0.create(object).await
    }

    async fn update<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        ask(&object.key());
        self.0.update(object).await
    }

    async fn update_status<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        ask(&object.key());
        self.0.update_status(object).await
    }

    async fn patch<K: Object>(&self, key: &Key, patch: &Patch) -> Result<Arc<K>, ApiError> {
        ask(key);
        self.0.patch(key, patch).await
    }

    async fn patch_status<K: Object>(&self, key: &Key, patch: &Patch) -> Result<Arc<K>, ApiError> {
        ask(key);
        self.0.patch_status(key, patch).await
    }

    async fn scale<K: Object>(
        &self,
        key: &Key,
        replicas: i32,
        resource_version: Option<&str>,
    ) -> Result<(), ApiError> {
        ask(key);
        self.0.scale::<K>(key, replicas, resource_version).await
    }

    async fn bind(&self, pod: &Key, uid: &str, node: &str) -> Result<(), ApiError> {
        ask(pod);
        self.0.bind(pod, uid, node).await
    }

    async fn delete<K: Object>(&self, key: &Key, options: &DeleteOptions) -> Result<(), ApiError> {
        ask(key);
        self.0.delete::<K>(key, options).await
    }

    fn note(&self, note: Note) {
        self.0.note(note);
    }
}

impl Transact for Cursed {
    async fn apply_set(
        &self,
        set: &ApplySet,
        dry_run: bool,
    ) -> Result<Vec<SetOutcome>, Vec<SetProblem>> {
        self.0.apply_set(set, dry_run).await
    }
}

fn fixture() -> (Fixture, Clock) {
    let clock = Clock::tokio(Timestamp::from_second(1_800_000_000).expect("in range"));
    (Fixture::at(clock), clock)
}

/// An Event shows the quarantine of the cursed object of a kind.
async fn until_shown(admin: &impl Cluster, kind: Kind) {
    until::<Event>(admin, "the quarantine is shown", |events| {
        events.iter().any(|event| {
            let about = &event.involved_object;
            event.reason.as_deref() == Some("Quarantined")
                && about.kind.as_deref() == Some(kind.row().name)
                && about.name.as_deref() == Some("cursed")
                && event.message.as_deref().unwrap_or_default().contains("the object is cursed")
        })
    })
    .await;
}

/// What `/metrics` shows of a loop.
pub fn figures(vitals: &Vitals) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    vitals.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    text
}

#[tokio::test(start_paused = true)]
async fn a_cursed_namespace_waits_and_every_other_one_ends() {
    let (fixture, clock) = fixture();
    let admin = fixture.admin();
    let cursed = Cursed(fixture.local(Identity::Controllers));
    let vitals = Vitals::default();
    namespace::controller::run(cursed, vitals.clone(), clock, &fixture.tasks);
    for name in ["cursed", "sound"] {
        let made: Namespace = object(json!({"metadata": {"name": name}}));
        admin.create(&made).await.expect("created");
        let key = Key::cluster(name);
        admin.delete::<Namespace>(&key, &DeleteOptions::default()).await.expect("accepted");
    }
    until_shown(&admin, Kind::Namespace).await;
    until::<Namespace>(&admin, "the sound one is gone", |all| {
        all.iter().all(|namespace| namespace.key().name != "sound")
    })
    .await;
    let figures = figures(&vitals);
    for line in [
        "ballast_reconcile_quarantined_objects{controller=\"namespace\"} 1",
        "ballast_reconciles_total{controller=\"namespace\",result=\"panicked\"} 1",
    ] {
        assert!(figures.lines().any(|found| found == line), "{line} in\n{figures}");
    }
    assert_eq!(fixture.tasks.died(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cursed_node_is_set_aside_and_every_other_one_is_judged() {
    let (fixture, clock) = fixture();
    let admin = fixture.admin();
    for name in ["cursed", "lost", "lost-too"] {
        join(&admin, &node(name, "4", 10)).await;
    }
    let cursed = Cursed(fixture.local(Identity::Controllers));
    node_lifecycle::run(cursed, Settings::default(), Vitals::default(), clock, &fixture.tasks);
    // Nobody renews a Lease: all of them are lost.
    until_shown(&admin, Kind::Node).await;
    until::<Node>(&admin, "the others are lost", |nodes| {
        let tainted = |node: &&Arc<Node>| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            taints.is_some_and(|taints| taints.iter().any(|t| t.key.ends_with("unreachable")))
        };
        nodes.iter().filter(tainted).count() == 2
    })
    .await;
    // It is tried again, and shown again, after its minute.
    tokio::time::sleep(Duration::from_secs(70)).await;
    until::<Event>(&admin, "it was tried again", |events| {
        events.iter().any(|event| {
            event.reason.as_deref() == Some("Quarantined")
                && event.message.as_deref().unwrap_or_default().contains("for 120 s")
        })
    })
    .await;
    assert_eq!(fixture.tasks.died(), 0);
}

#[tokio::test(start_paused = true)]
async fn cursed_garbage_stays_and_all_other_garbage_goes() {
    let (fixture, _) = fixture();
    let admin = fixture.admin();
    let owner = admin.create(&config("owner", "x")).await.expect("created");
    for name in ["cursed", "sound"] {
        let mut owned = config(name, "x");
        owned.metadata.owner_references = Some(vec![object(json!({"apiVersion": "v1",
            "kind": "ConfigMap", "name": "owner", "uid": owner.uid()}))]);
        admin.create(&owned).await.expect("created");
    }
    let cursed = Cursed(fixture.local(Identity::Controllers));
    garbage::controller::run(cursed, Vitals::default(), &fixture.tasks);
    let options = DeleteOptions::default();
    admin.delete::<ConfigMap>(&owner.key(), &options).await.expect("deleted");
    until_shown(&admin, Kind::ConfigMap).await;
    until::<ConfigMap>(&admin, "the sound one is gone", |all| {
        all.iter().map(|one| one.key().name).eq(["cursed".to_owned()])
    })
    .await;
    assert_eq!(fixture.tasks.died(), 0);
}

#[tokio::test]
async fn a_cursed_source_is_shown_and_every_other_one_is_followed() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let (origin, folder) = (Origin::new(), tempfile::tempdir().expect("a folder"));
    origin.commit(&[("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n")]);
    let source = |name: &str| SourceConfig {
        name: name.to_owned(),
        url: SourceUrl::parse(&origin.path().to_string_lossy()).expect("a path"),
        branch: "main".to_owned(),
        path: ".".to_owned(),
        poll_seconds: 3600,
        access: Access::default(),
        formerly: Vec::new(),
    };
    let options = SyncOptions {
        data_dir: folder.path().to_owned(),
        secret_key: [7; 32],
        beat: None,
        metrics: ballast::sync::Metrics::default(),
    };
    let cursed = Cursed(fixture.local(Identity::Sync));
    let sources = vec![source("cursed"), source("sound")];
    let _sync = ballast::sync::run(cursed, sources, options, Clock::wall(), &fixture.tasks);
    until_shown(&admin, Kind::Source).await;
    until::<ConfigMap>(&admin, "the sound one is applied", |all| all.len() == 1).await;
    assert_eq!(fixture.tasks.died(), 0);
}
