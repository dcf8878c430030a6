//! A program on kube-rs as somebody else would write it, over HTTPS with a kubeconfig: a watcher, a
//! reflector and a Controller, with nothing of ours in it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{Controller, WatchStreamExt};
use kube::{Client, Config, Resource, ResourceExt};
use tokio::runtime::Runtime;

/// Objects by name, each at its resourceVersion.
type Versions = BTreeMap<String, String>;

/// What the watcher has told.
#[derive(Clone, Debug, Default)]
struct Watched {
    pods: Versions,
    /// How often it began with everything, for lack of a place to go on from.
    beginnings: usize,
    /// How often its stream broke.
    breaks: usize,
}

/// The program under way.
pub struct Program {
    runtime: Option<Runtime>,
    client: Client,
    watched: Arc<Mutex<Watched>>,
    store: Store<Pod>,
    /// The newest generation of each Deployment that was reconciled.
    reconciled: Arc<Mutex<BTreeMap<String, i64>>>,
}

impl Program {
    pub fn start(kubeconfig: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            Client::try_from(config.expect("a config")).expect("a client")
        });
        let watched = Arc::<Mutex<Watched>>::default();
        runtime.spawn(watch(client.clone(), watched.clone()));
        let (store, writer) = reflector::store();
        let pods = Api::namespaced(client.clone(), "shop");
        // The way that new clients ask: no list, a watch that begins with everything.
        let streamed = watcher(pods, watcher::Config::default().streaming_lists());
        let reflected = streamed.default_backoff().reflect(writer).for_each(|_| async {});
        runtime.spawn(reflected);
        let reconciled = Arc::<Mutex<BTreeMap<String, i64>>>::default();
        runtime.spawn(control(client.clone(), reconciled.clone()));
        Self { runtime: Some(runtime), client, watched, store, reconciled }
    }

    /// Whether all three know what a list says now.
    pub fn agrees(&self) -> Result<(), String> {
        let (pods, deployments) = self.block_on(async {
            let of_shop = ListParams::default();
            let pods = Api::<Pod>::namespaced(self.client.clone(), "shop").list(&of_shop).await;
            let deployments = Api::<Deployment>::all(self.client.clone()).list(&of_shop).await;
            Ok::<_, kube::Error>((versions(pods?.items.iter()), deployments?.items))
        })?;
        let watched = self.watched.lock().expect("no panic inside").clone();
        let stored = self.store.state();
        let stored = versions(stored.iter().map(|pod| &**pod));
        let reconciled = self.reconciled.lock().expect("no panic inside").clone();
        let generations: BTreeMap<String, i64> = deployments
            .iter()
            .map(|one| (one.name_any(), one.metadata.generation.unwrap_or_default()))
            .collect();
        if watched.pods == pods && stored == pods && reconciled == generations {
            return Ok(());
        }
        Err(format!(
            "listed {pods:?} {generations:?}\nwatched {watched:?}\nreflected {stored:?}\nreconciled {reconciled:?}"
        ))
    }

    /// How often the watcher had to begin anew, and how often its stream broke.
    pub fn beginnings_and_breaks(&self) -> (usize, usize) {
        let watched = self.watched.lock().expect("no panic inside");
        (watched.beginnings, watched.breaks)
    }

    /// The code of a refused list.
    pub fn refusal(&self) -> Option<u16> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "shop");
        match self.runtime().block_on(pods.list(&ListParams::default())) {
            Err(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    fn block_on<T>(
        &self,
        asking: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, String> {
        self.runtime().block_on(asking).map_err(|error| error.to_string())
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("until it is dropped")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

async fn watch(client: Client, told: Arc<Mutex<Watched>>) {
    let pods: Api<Pod> = Api::namespaced(client, "shop");
    let mut events = watcher(pods, watcher::Config::default()).default_backoff().boxed();
    let mut beginning = Versions::new();
    while let Some(event) = events.next().await {
        let mut told = told.lock().expect("no panic inside");
        match event {
            Ok(Event::Init) => {
                (told.beginnings, beginning) = (told.beginnings + 1, BTreeMap::new())
            }
            Ok(Event::InitApply(pod)) => drop(beginning.insert(pod.name_any(), version(&pod))),
            Ok(Event::InitDone) => told.pods = std::mem::take(&mut beginning),
            Ok(Event::Apply(pod)) => drop(told.pods.insert(pod.name_any(), version(&pod))),
            Ok(Event::Delete(pod)) => drop(told.pods.remove(&pod.name_any())),
            Err(_) => told.breaks += 1,
        }
    }
}

async fn control(client: Client, reconciled: Arc<Mutex<BTreeMap<String, i64>>>) {
    let reconcile = |deployment: Arc<Deployment>, seen: Arc<Mutex<BTreeMap<String, i64>>>| async move {
        let generation = deployment.metadata.generation.unwrap_or_default();
        let mut seen = seen.lock().expect("no panic inside");
        let newest = seen.entry(deployment.name_any()).or_default();
        *newest = generation.max(*newest);
        Ok::<_, Infallible>(Action::await_change())
    };
    let replica_sets: Api<ReplicaSet> = Api::all(client.clone());
    Controller::new(Api::<Deployment>::all(client), watcher::Config::default())
        .owns(replica_sets, watcher::Config::default())
        .run(reconcile, |_, never, _| match *never {}, reconciled)
        .for_each(|_| async {})
        .await;
}

fn version(object: &impl Resource) -> String {
    object.resource_version().unwrap_or_default()
}

fn versions<'a>(pods: impl Iterator<Item = &'a Pod>) -> Versions {
    pods.map(|pod| (pod.name_any(), version(pod))).collect()
}
