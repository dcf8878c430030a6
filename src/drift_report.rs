//! Performs a ledger's writes: the one doer behind `sync`, `node` and `network`. It decides nothing.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tracing::warn;

use crate::object::drift::{Drift, DriftSpec, Origin, Phase};
use crate::object::inventory::Inventory;
use crate::object::ledger::LedgerWrite;
use crate::object::{ApiError, Cluster, DeleteOptions, Key, Kind, Object, Reason, Scope};

/// Makes the stored Drifts what the ledger says. A failed write is logged and left: the next pass
/// that still sees the difference writes it again.
pub async fn perform<C: Cluster>(cluster: &C, writes: Vec<LedgerWrite>) {
    for write in writes {
        let result = match &write {
            LedgerWrite::Put(drift) => put(cluster, drift).await,
            LedgerWrite::Remove(key) => {
                match cluster.delete::<Drift>(key, &DeleteOptions::default()).await {
                    Err(error) if error.is_not_found() => Ok(()),
                    other => other,
                }
            }
        };
        if let Err(error) = result {
            warn!(%error, "drift not written");
        }
    }
}

/// Where the wanted value of a field comes from: up the controllers that made its object, then into
/// the inventory of the source that put the first of them into the store. `None` for what no commit
/// wrote.
async fn origin<C: Cluster>(cluster: &C, drift: &Drift) -> Option<Origin> {
    let object = &drift.spec.object;
    if object.kind == Kind::Node {
        return None;
    }
    let field = drift.spec.wanted_by.as_ref().unwrap_or(&drift.spec.field);
    let (mut kind, mut key) = (object.kind, Key::new(&object.namespace, &object.name));
    // Deployment, ReplicaSet, Pod: deeper ownership than this does not exist here.
    for _ in 0..4 {
        let Some(owner) = controller(cluster, kind, &key).await else { break };
        (kind, key.name) = owner;
    }
    let inventories = cluster.list::<Inventory>(&Scope::all()).await.ok()?;
    inventories.items.iter().find_map(|inventory| {
        let mut entries = inventory.objects.iter();
        let entry = entries.find(|entry| entry.kind == kind && entry.key() == key)?;
        Some(Origin {
            source: inventory.metadata.name.clone()?,
            file: entry.file.clone(),
            line: entry.line_of(field),
            commit: inventory.commit.clone(),
        })
    })
}

/// The kind and name of the object that controls this one.
async fn controller<C: Cluster>(cluster: &C, kind: Kind, key: &Key) -> Option<(Kind, String)> {
    let meta = match kind {
        Kind::Pod => cluster.get::<Pod>(key).await.ok()?.metadata.clone(),
        Kind::ReplicaSet => cluster.get::<ReplicaSet>(key).await.ok()?.metadata.clone(),
        Kind::EndpointSlice => cluster.get::<EndpointSlice>(key).await.ok()?.metadata.clone(),
        _ => return None,
    };
    let owner = meta.owner_references?.into_iter().find(|owner| owner.controller == Some(true))?;
    Some((Kind::of_manifest(&owner.api_version, &owner.kind)?, owner.name))
}

/// Creates the Drift, or overwrites spec and status of the one that has its stable name. A Drift of
/// an object in a namespace that is being torn down is dropped: it goes with the namespace.
///
/// Where it comes from is looked up when it opens or changes, not when it is confirmed or closed.
async fn put<C: Cluster>(cluster: &C, drift: &Drift) -> Result<(), ApiError> {
    let mut drift = drift.clone();
    let stored = match cluster.get::<Drift>(&drift.key()).await {
        Ok(stored) => Some(stored),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    if drift.spec.origin.is_none() {
        let known = stored.as_ref().and_then(|stored| stored.spec.origin.clone());
        let is_news = stored.as_ref().is_none_or(|stored| is_news(stored, &drift));
        let found = if is_news { origin(cluster, &drift).await } else { None };
        // The object may be gone by now; where it came from is still known.
        drift.spec.origin = found.or(known);
    }
    let mut stored = match stored {
        Some(stored) => (*stored).clone(),
        None => match cluster.create(&drift).await {
            Ok(created) => (*created).clone(),
            Err(error) if matches!(error.reason, Reason::Forbidden | Reason::NotFound) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        },
    };
    if stored.spec != drift.spec {
        stored.spec = drift.spec.clone();
        stored = (*cluster.update(&stored).await?).clone();
    }
    if stored.status != drift.status {
        stored.status.clone_from(&drift.status);
        cluster.update_status(&stored).await?;
    }
    Ok(())
}

/// Whether a Drift opens again, or says something else than the stored one.
fn is_news(stored: &Drift, drift: &Drift) -> bool {
    let is_open =
        |drift: &Drift| drift.status.as_ref().is_some_and(|status| status.phase == Phase::Open);
    let same =
        stored.spec == DriftSpec { origin: stored.spec.origin.clone(), ..drift.spec.clone() };
    !same || (is_open(drift) && !is_open(stored))
}
