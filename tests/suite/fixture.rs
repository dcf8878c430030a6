//! What tests over the real API stand on: an API with a store of its own, gone with the test, the
//! objects they begin with, and how they wait.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ballast::api::{Api, ApiOptions, IdSource, Identity, Local};
use ballast::clock::Clock;
use ballast::object::{Cluster, Object, Scope};
use ballast::store::{Sqlite, SqliteOptions, WriterMode};
use ballast::task::{AllDone, Tasks};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use serde_json::{Value, json};
use tokio_util::sync::DropGuard;

use crate::watchdog::watch;

/// Longer than anything here takes: a condition that never comes fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The range that the golden answers were recorded with.
const GOLDEN_SERVICES: &str = "10.97.0.0/16";
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// An API over a store of its own, gone with the test.
pub struct Fixture {
    pub api: Api<Sqlite>,
    pub store: Sqlite,
    pub tasks: Tasks,
    done: AllDone,
    _stop: DropGuard,
    folder: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        Self::ranging(GOLDEN_SERVICES, NODE_PORTS)
    }

    /// With other addresses for Services.
    pub fn ranging(services: &str, node_ports: RangeInclusive<u16>) -> Self {
        let keep_changes = SqliteOptions::default().keep_changes;
        Self::with(Clock::wall(), WriterMode::Thread, keep_changes, services, node_ports)
    }

    /// Written inline on the runtime, so that a paused clock stays paused.
    pub fn at(clock: Clock) -> Self {
        let keep_changes = SqliteOptions::default().keep_changes;
        Self::with(clock, WriterMode::Inline, keep_changes, GOLDEN_SERVICES, NODE_PORTS)
    }

    /// With a history of so many changes.
    pub fn keeping(keep_changes: u64) -> Self {
        Self::with(Clock::wall(), WriterMode::Thread, keep_changes, GOLDEN_SERVICES, NODE_PORTS)
    }

    fn with(
        clock: Clock,
        writer: WriterMode,
        keep_changes: u64,
        services: &str,
        node_ports: RangeInclusive<u16>,
    ) -> Self {
        watch();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = SqliteOptions { writer, keep_changes };
        let store = Sqlite::open(&folder.path().join("store.db"), options).expect("opens");
        let (tasks, done) = Tasks::new();
        let options = ApiOptions {
            service_range: services.parse().expect("a range"),
            node_ports,
            clock,
            secret_key: [7; 32],
            ids: IdSource::seeded(1),
            privileges: Arc::default(),
        };
        let api = Api::new(store.clone(), options, &tasks);
        let _stop = tasks.stop().clone().drop_guard();
        Self { api, store, tasks, done, _stop, folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn local(&self, who: Identity) -> Local<Sqlite> {
        self.api.local(who)
    }

    pub fn admin(&self) -> Local<Sqlite> {
        self.local(Identity::Admin)
    }

    /// Some namespaces are there from the start; these are there now.
    pub async fn namespaces(&self, names: &[&str]) {
        for name in names {
            let namespace: Namespace = object(json!({"metadata": {"name": name}}));
            if let Err(error) = self.admin().create(&namespace).await {
                assert!(error.is_already_exists(), "{error}");
            }
        }
    }

    /// Stops, and waits until every task is gone. None of them had died.
    pub async fn end(self) {
        let Self { api, store, tasks, done, _stop, folder } = self;
        assert_eq!(tasks.died(), 0, "a task died");
        tasks.stop().cancel();
        drop((api, store, tasks));
        tokio::time::timeout(PATIENCE, done.wait()).await.expect("every task ends");
        drop(folder);
    }
}

pub fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the test's object decodes")
}

pub fn pod(name: &str) -> Pod {
    object(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}}))
}

pub fn config(name: &str, value: &str) -> ConfigMap {
    object(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"}, "data": {"a": value}}))
}

pub fn deployment(name: &str, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

/// Waits until what is stored satisfies `holds`, looking again after every change of the kind.
pub async fn until<K: Object>(
    cluster: &impl Cluster,
    what: &str,
    holds: impl Fn(&[Arc<K>]) -> bool,
) {
    let mut changes = std::pin::pin!(cluster.watch::<K>(Scope::all()));
    let wait = async {
        loop {
            let all = cluster.list::<K>(&Scope::all()).await.expect("lists");
            if holds(&all.items) {
                return;
            }
            changes.next().await.expect("a watch never ends");
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never: {what}");
}
