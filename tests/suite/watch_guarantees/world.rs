//! What is watched: a store and the API over it, closed and opened again now and then, and writers
//! who tell what they committed.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use ballast::api::{Api, ApiOptions, IdSource};
use ballast::clock::Clock;
use ballast::object::{Key, Kind};
use ballast::store::{
    Draft, Expect, Header, Sqlite, SqliteOptions, Store, Transaction, Write, WriterMode,
};
use ballast::task::Tasks;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde_json::json;

use super::history::{Facts, Written};

pub const KINDS: [Kind; 3] = [Kind::Pod, Kind::ConfigMap, Kind::Node];
pub const NAMESPACES: [&str; 2] = ["red", "blue"];
pub const APPS: [&str; 4] = ["", "a", "b", "c"];
pub const NODES: [&str; 3] = ["", "n1", "n2"];
/// Objects of a kind and namespace.
pub const NAMES: usize = 6;

/// How time goes: in a run on a paused clock by itself, as soon as everybody waits.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub unit: Duration,
    /// Whether a wait means that nothing more can be done: on a paused clock.
    pub paused: bool,
}

impl Pace {
    /// Gives everybody else time: none to `most` units.
    pub async fn pause(self, chance: &mut StdRng, most: u32) {
        match self.unit * chance.random_range(0..=most) {
            Duration::ZERO => tokio::task::yield_now().await,
            some => tokio::time::sleep(some).await,
        }
    }
}

/// The server from one start to the next stop.
pub struct Life {
    pub store: Sqlite,
    pub router: Router,
    tasks: Tasks,
}

impl Life {
    pub fn begin(folder: &Path, pace: Pace, keep_changes: u64) -> Self {
        let writer = if pace.paused { WriterMode::Inline } else { WriterMode::Thread };
        let options = SqliteOptions { writer, keep_changes };
        let store = Sqlite::open(&folder.join("store.db"), options).expect("opens");
        let (tasks, _done) = Tasks::new();
        let options = ApiOptions {
            service_range: "10.43.0.0/16".parse().expect("a range"),
            node_ports: 30_000..=32_767,
            clock: Clock::wall(),
            secret_key: [7; 32],
            ids: IdSource::seeded(1),
            privileges: Arc::default(),
        };
        let router = Api::new(store.clone(), options, &tasks).router();
        Self { store, router, tasks }
    }

    /// As a daemon stops: open answers end, then the file is closed.
    pub async fn end(&self) {
        self.tasks.stop().cancel();
        self.store.clone().close().await;
    }
}

/// All that writers committed: each transaction with its revisions.
pub type Ledger = Mutex<Vec<(Vec<Written>, Vec<u64>)>>;

/// Writes transactions of one to five objects each.
pub async fn write(
    life: Arc<Life>,
    ledger: Arc<Ledger>,
    pace: Pace,
    mut chance: StdRng,
    count: usize,
) {
    for _ in 0..count {
        let (writes, told) = transaction(&life.store, &mut chance);
        // Another writer may have been quicker: then there is nothing, and nothing may be told.
        if let Ok(records) = life.store.transact(Transaction { writes }).await {
            let revisions = records.iter().map(|record| record.revision).collect();
            ledger.lock().unwrap_or_else(PoisonError::into_inner).push((told, revisions));
        }
        pace.pause(&mut chance, 3).await;
    }
}

fn one<T: Copy>(chance: &mut StdRng, of: &[T]) -> T {
    of[chance.random_range(0..of.len())]
}

fn transaction(store: &Sqlite, chance: &mut StdRng) -> (Vec<Write>, Vec<Written>) {
    let (mut writes, mut told) = (Vec::new(), Vec::<Written>::new());
    for _ in 0..chance.random_range(1..=5) {
        let kind = one(chance, &KINDS);
        let name = format!("o{}", chance.random_range(0..NAMES));
        let key = match kind.row().namespaced {
            true => Key::new(one(chance, &NAMESPACES), name),
            false => Key::cluster(name),
        };
        if told.iter().any(|earlier| earlier.kind == kind && earlier.key == key) {
            continue;
        }
        let current = store.get(kind, &key);
        let expect = match &current {
            None => Expect::Absent,
            Some(record) => Expect::Revision(record.revision),
        };
        let tag = format!("{:016x}", chance.next_u64());
        if current.is_some() && chance.random_ratio(1, 4) {
            writes.push(Write::Delete { kind, key: key.clone(), expect });
            told.push(Written { kind, key, tag, facts: None });
            continue;
        }
        let facts = Facts {
            app: one(chance, &APPS).to_owned(),
            node: if kind == Kind::Pod { one(chance, &NODES).to_owned() } else { String::new() },
        };
        let (draft, header) = object(kind, &key, &tag, &facts);
        writes.push(Write::Put { kind, key: key.clone(), expect, draft, header });
        told.push(Written { kind, key, tag, facts: Some(facts) });
    }
    (writes, told)
}

fn object(kind: Kind, key: &Key, tag: &str, facts: &Facts) -> (Draft, Header) {
    const HERE: &str = "@here@";
    let mut header = Header::default();
    let mut body = json!({"apiVersion": kind.api_version(), "kind": kind.row().name,
        "metadata": {"name": key.name, "resourceVersion": HERE, "annotations": {"tag": tag}}});
    if kind.row().namespaced {
        body["metadata"]["namespace"] = json!(key.namespace);
    }
    if !facts.app.is_empty() {
        body["metadata"]["labels"] = json!({"app": facts.app});
        header.labels = [("app", &facts.app)].into_iter().collect();
    }
    if !facts.node.is_empty() {
        body["spec"] = json!({"nodeName": facts.node});
        header.fields = [("spec.nodeName", &facts.node)].into_iter().collect();
    }
    let text = body.to_string();
    let revision_at = text.find(HERE).expect("just written");
    (Draft { json: text.replace(HERE, "").into_bytes(), revision_at }, header)
}
