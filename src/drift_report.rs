//! Performs a ledger's writes: the one doer behind `sync`, `node` and `network`. It decides nothing.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tracing::warn;

use crate::object::drift::{Drift, Origin};
use crate::object::ledger::LedgerWrite;
use crate::object::source::Source;
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

/// Where the wanted value of an object comes from: up the controllers that made it, then into the
/// inventory of the source that put the first of them into the store. `None` for what no commit
/// wrote. Known to be imprecise: the line is that of the document, not of the field.
async fn origin<C: Cluster>(cluster: &C, drift: &Drift) -> Option<Origin> {
    let object = &drift.spec.object;
    let (mut kind, mut key) = (object.kind, Key::new(&object.namespace, &object.name));
    // Deployment, ReplicaSet, Pod: deeper ownership than this does not exist here.
    for _ in 0..4 {
        let Some(owner) = controller(cluster, kind, &key).await else { break };
        (kind, key.name) = owner;
    }
    let sources = cluster.list::<Source>(&Scope::all()).await.ok()?;
    sources.items.iter().find_map(|source| {
        let status = source.status.as_ref()?;
        let mut entries = status.inventory.iter();
        let entry = entries.find(|entry| entry.kind == kind && entry.key() == key)?;
        Some(Origin {
            source: source.metadata.name.clone()?,
            file: entry.file.clone(),
            line: entry.line,
            commit: status.applied.as_ref()?.id.clone(),
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
async fn put<C: Cluster>(cluster: &C, drift: &Drift) -> Result<(), ApiError> {
    let mut drift = drift.clone();
    if drift.spec.origin.is_none() {
        drift.spec.origin = origin(cluster, &drift).await;
    }
    let mut stored = match cluster.get::<Drift>(&drift.key()).await {
        Ok(stored) => (*stored).clone(),
        Err(error) if error.is_not_found() => match cluster.create(&drift).await {
            Ok(created) => (*created).clone(),
            Err(error) if matches!(error.reason, Reason::Forbidden | Reason::NotFound) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    if drift.spec.origin.is_none() {
        // The object is gone by now; where it came from is still known.
        drift.spec.origin.clone_from(&stored.spec.origin);
    }
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
