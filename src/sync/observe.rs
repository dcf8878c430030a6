//! Reads what is there, as far as a plan or a verdict depends on it. It decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::drift::{Drift, Phase};
use crate::object::inventory::InventoryEntry;
use crate::object::source::{SOURCE_ANNOTATION, SourceStatus};
use crate::object::{ApiError, Cluster, Key, Kind, Object, Scope};
use crate::sync::convergence;
use crate::sync::diff::{Live, Observed};
use crate::sync::render::ObjectSet;
use crate::with_kind;

/// The kinds that a namespace takes along and a person would miss.
const GUESTS: [Kind; 8] = [
    Kind::Deployment,
    Kind::ReplicaSet,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::PersistentVolumeClaim,
];

/// Everything a plan looks at.
///
/// # Errors
/// The first read that fails: half a view decides nothing.
pub async fn observe<C: Cluster>(
    cluster: &C,
    status: &SourceStatus,
    inventory: &[InventoryEntry],
    wanted: &ObjectSet,
) -> Result<Observed, ApiError> {
    let mut observed = Observed {
        applied: status.applied.as_ref().map(|commit| commit.id.clone()),
        formerly: status.formerly.clone(),
        inventory: inventory.to_vec(),
        ..Observed::default()
    };
    let known = inventory.iter().map(|entry| (entry.kind, entry.key()));
    let asked = wanted.objects.iter().map(|manifest| (manifest.kind, manifest.key.clone()));
    let ids: BTreeSet<(Kind, Key)> = known.chain(asked).collect();
    for (kind, key) in ids {
        if let Some(live) = live(cluster, kind, &key).await? {
            observed.live.insert((kind, key), live);
        }
    }
    let stays: BTreeSet<&str> = wanted
        .objects
        .iter()
        .filter(|manifest| manifest.kind == Kind::Namespace)
        .map(|manifest| manifest.key.name.as_str())
        .collect();
    let leaving = inventory
        .iter()
        .filter(|entry| entry.kind == Kind::Namespace && !stays.contains(entry.name.as_str()));
    for namespace in leaving {
        let guests = guests(cluster, &namespace.name, inventory).await?;
        observed.guests.insert(namespace.name.clone(), guests);
    }
    Ok(observed)
}

/// Who an object is and whom it names as its source; `None` when it is not there.
///
/// # Errors
/// The read that fails.
pub async fn live<C: Cluster>(
    cluster: &C,
    kind: Kind,
    key: &Key,
) -> Result<Option<Live>, ApiError> {
    let found = with_kind!(kind, K => {
        cluster.get::<K>(key).await.map(|object| live_of(k8s_openapi::Metadata::metadata(&*object)))
    });
    match found {
        Ok(live) => Ok(Some(live)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn live_of(meta: &ObjectMeta) -> Live {
    let annotations = meta.annotations.as_ref();
    Live {
        uid: meta.uid.clone().unwrap_or_default(),
        source: annotations.and_then(|map| map.get(SOURCE_ANNOTATION)).cloned(),
        deleting: meta.deletion_timestamp.is_some(),
    }
}

/// What lives in a namespace beside the inventory; what a controller made goes with its owner.
async fn guests<C: Cluster>(
    cluster: &C,
    namespace: &str,
    inventory: &[InventoryEntry],
) -> Result<Vec<String>, ApiError> {
    let ours: BTreeSet<(Kind, Key)> =
        inventory.iter().map(|entry| (entry.kind, entry.key())).collect();
    let (mut found, scope) = (Vec::new(), Scope::namespace(namespace));
    for kind in GUESTS {
        let guest = |meta: &ObjectMeta| {
            let key = Key::new(namespace, meta.name.clone().unwrap_or_default());
            let owned = meta.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
            let managed = meta.labels.as_ref().is_some_and(|labels| {
                labels.contains_key("endpointslice.kubernetes.io/managed-by")
            });
            // Kubernetes puts this one into every namespace.
            let usual = kind == Kind::ConfigMap && key.name == "kube-root-ca.crt";
            let id = (kind, key);
            (!owned && !managed && !usual && !ours.contains(&id))
                .then(|| format!("{kind} {}", id.1))
        };
        let guests = with_kind!(kind, K => {
            let of = |object: &Arc<K>| guest(k8s_openapi::Metadata::metadata(&**object));
            cluster.list_keeping::<K, _>(&scope, of).await?
        });
        found.extend(guests.into_iter().flatten());
    }
    Ok(found)
}

/// What keeps the inventory from having arrived, one sentence a workload.
///
/// # Errors
/// The first read that fails.
pub async fn waiting_for<C: Cluster>(
    cluster: &C,
    inventory: &[InventoryEntry],
) -> Result<Vec<String>, ApiError> {
    let mut sentences = Vec::new();
    for entry in inventory {
        let key = entry.key();
        if entry.uid.is_empty() {
            sentences.push(format!(
                "{} {key} waits until the earlier one of its name is gone",
                entry.kind
            ));
            continue;
        }
        let sentence = match entry.kind {
            Kind::Deployment => {
                judge::<C, Deployment>(cluster, &key, convergence::deployment).await?
            }
            Kind::ReplicaSet => {
                judge::<C, ReplicaSet>(cluster, &key, convergence::replica_set).await?
            }
            Kind::Pod => judge::<C, Pod>(cluster, &key, convergence::pod).await?,
            Kind::PersistentVolumeClaim => {
                judge::<C, PersistentVolumeClaim>(cluster, &key, convergence::claim).await?
            }
            Kind::PersistentVolume => {
                judge::<C, PersistentVolume>(cluster, &key, convergence::volume).await?
            }
            _ => None,
        };
        sentences.extend(sentence);
    }
    Ok(sentences)
}

async fn judge<C: Cluster, K: Object>(
    cluster: &C,
    key: &Key,
    verdict: fn(&K) -> Option<String>,
) -> Result<Option<String>, ApiError> {
    match cluster.get::<K>(key).await {
        Ok(object) => Ok(verdict(&object)),
        Err(error) if error.is_not_found() => {
            Ok(Some(format!("{} {key} is not in the store", K::OBJECT_KIND)))
        }
        Err(error) => Err(error),
    }
}

/// The open drifts that concern a source: those that name it, and those of any layer about objects
/// in the namespaces of its inventory that name no source.
///
/// # Errors
/// The list that fails.
pub async fn open_drifts<C: Cluster>(
    cluster: &C,
    source: &str,
    inventory: &[InventoryEntry],
) -> Result<u32, ApiError> {
    let namespaces: BTreeSet<&str> =
        inventory.iter().map(|entry| entry.namespace.as_str()).collect();
    let listing = cluster.list::<Drift>(&Scope::all()).await?;
    let open = listing.items.iter().filter(|drift| {
        let is_open = drift.status.as_ref().is_some_and(|status| status.phase == Phase::Open);
        is_open
            && match &drift.spec.origin {
                Some(origin) => origin.source == source,
                None => namespaces.contains(drift.spec.object.namespace.as_str()),
            }
    });
    Ok(u32::try_from(open.count()).unwrap_or(u32::MAX))
}

/// The uids that the store has for this source's objects, where they are live. What is on its way
/// out is not the commit's own any more.
pub fn known_uids(observed: &Observed, source: &str) -> BTreeMap<(Kind, Key), String> {
    let before: BTreeMap<(Kind, Key), &str> = observed
        .inventory
        .iter()
        .map(|entry| ((entry.kind, entry.key()), entry.uid.as_str()))
        .collect();
    observed
        .live
        .iter()
        .filter(|(id, live)| {
            let names_us = |owner: &String| owner == source || observed.formerly.contains(owner);
            let ours = live.source.as_ref().is_some_and(names_us)
                || before.get(id) == Some(&live.uid.as_str());
            ours && !live.deleting
        })
        .map(|(id, live)| (id.clone(), live.uid.clone()))
        .collect()
}
