//! A store, an API over it and the tasks that serve it, as the daemon composes them.

use std::path::Path;

use ballast::api::{Api, ApiOptions, IdSource};
use ballast::clock::Clock;
use ballast::store::{Sqlite, SqliteOptions};
use ballast::task::{AllDone, Tasks};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub struct Cluster {
    pub api: Api<Sqlite>,
    pub tasks: Tasks,
    store: Sqlite,
    done: AllDone,
}

impl Cluster {
    /// Durable, in this folder: choose one on the disk that counts.
    pub fn open(folder: &Path) -> Self {
        let store = Sqlite::open(&folder.join("store.db"), SqliteOptions::default());
        let store = store.expect("a new store opens");
        let (tasks, done) = Tasks::new();
        let options = ApiOptions {
            service_range: "10.43.0.0/16".parse().expect("a range"),
            node_ports: 30_000..=32_767,
            clock: Clock::wall(),
            secret_key: [7; 32],
            ids: IdSource::seeded(1),
            privileges: std::sync::Arc::default(),
        };
        Self { api: Api::new(store.clone(), options, &tasks), tasks, store, done }
    }

    pub fn store(&self) -> &Sqlite {
        &self.store
    }

    pub async fn close(self) {
        self.tasks.stop().cancel();
        drop((self.api, self.tasks));
        self.done.wait().await;
        self.store.close().await;
    }
}

pub fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of the kind")
}
