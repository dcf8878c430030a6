//! Follows one ConfigMap or Secret that a pod of this node names, and no other: a node may read
//! nothing else.

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use tokio_util::sync::CancellationToken;

use crate::node::agent::{Agent, Known, lock};
use crate::node::environment::named;
use crate::node::runtime::Runtime;
use crate::object::{Change, Cluster, Key, Object, Scope};
use crate::task::caught;

/// A kind that pods are configured from.
pub trait Config: Object {
    fn note(known: &mut Known, key: &Key, object: Option<Arc<Self>>);
    fn is_named(pod: &k8s_openapi::api::core::v1::Pod, key: &Key) -> bool;
}

impl Config for ConfigMap {
    fn note(known: &mut Known, key: &Key, object: Option<Arc<Self>>) {
        known.sources.config_maps.insert(key.clone(), object);
    }
    fn is_named(pod: &k8s_openapi::api::core::v1::Pod, key: &Key) -> bool {
        named(pod).config_maps.contains(key)
    }
}

impl Config for Secret {
    fn note(known: &mut Known, key: &Key, object: Option<Arc<Self>>) {
        known.sources.secrets.insert(key.clone(), object);
    }
    fn is_named(pod: &k8s_openapi::api::core::v1::Pod, key: &Key) -> bool {
        named(pod).secrets.contains(key)
    }
}

/// Notes every state of the object and wakes the pods that name it, until stopped.
pub async fn follow<C: Cluster, R: Runtime, K: Config>(
    agent: Arc<Agent<C, R>>,
    key: Key,
    stop: CancellationToken,
) {
    let scope = Scope {
        namespace: Some(key.namespace.clone()),
        labels: None,
        fields: Some(format!("metadata.name={}", key.name)),
    };
    let mut changes = pin!(agent.cluster.watch::<K>(scope));
    loop {
        // Cancel safe: a stream's next takes nothing when it is dropped.
        let change = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            change = changes.next() => change,
        };
        let object = match change {
            Some(Change::Reset(list)) => list.into_iter().find(|object| object.key() == key),
            Some(Change::Applied(object)) => Some(object),
            Some(Change::Deleted(_)) => None,
            None => return,
        };
        {
            let mut known = lock(&agent.known);
            // Nobody keeps it up to date from here on.
            if stop.is_cancelled() {
                return;
            }
            K::note(&mut known, &key, object);
        }
        for cell in agent.cells() {
            // A pod that cannot be read makes its own worker panic, and is quarantined there.
            if caught(|| K::is_named(&cell.pod(), &key)).unwrap_or(true) {
                cell.wake.notify_one();
            }
        }
    }
}
