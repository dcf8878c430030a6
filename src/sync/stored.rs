//! What a source keeps in the store from one run to the next: its Source, and its Inventory.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::object::drift::{Drift, Layer};
use crate::object::inventory::{Inventory, InventoryEntry};
use crate::object::source::{Source, SourceStatus};
use crate::object::{ApiError, Cluster, DeleteOptions, Key, Object, Scope};
use crate::sync::source::SourceConfig;
use crate::sync::succession;

/// The store is in the same process: what fails now hardly lasts.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Makes the Source say what is configured, takes over the earlier ones whose heir it is, and answers
/// it as it is stored, with its inventory.
///
/// # Errors
/// The first read or write that fails.
pub async fn take_up<C: Cluster>(
    cluster: &C,
    wanted: &Source,
    configured: &[SourceConfig],
) -> Result<(Arc<Source>, Vec<InventoryEntry>), ApiError> {
    let key = wanted.key();
    let source = match cluster.get::<Source>(&key).await {
        Ok(stored) if stored.spec == wanted.spec => stored,
        Ok(stored) => {
            let mut changed = (*stored).clone();
            changed.spec = wanted.spec.clone();
            cluster.update(&changed).await?
        }
        Err(error) if error.is_not_found() => cluster.create(wanted).await?,
        Err(error) => return Err(error),
    };
    let mut objects = inventory(cluster, &key).await?;
    let mut status = source.status.clone().unwrap_or_default();
    let mut taken_over = Vec::new();
    for earlier in cluster.list::<Source>(&Scope::all()).await?.items {
        let heir = succession::heir(&earlier, configured);
        if heir.is_some_and(|heir| heir.name == key.name) {
            let theirs = inventory(cluster, &earlier.key()).await?;
            succession::inherit(&mut status, &mut objects, &earlier, theirs);
            taken_over.push(earlier);
        }
    }
    if taken_over.is_empty() {
        return Ok((source, objects));
    }
    // The earlier ones go last: cut short, it is simply done again.
    let commit = status.applied.as_ref().map_or("", |commit| &commit.id);
    write_inventory(cluster, Inventory::of(&key.name, commit, objects.clone())).await?;
    let source = write_status(cluster, &key, &status).await?;
    for earlier in taken_over {
        let name = earlier.key().name;
        info!(earlier = %name, objects = objects.len(), "objects of an earlier source taken over");
        remove(cluster, &earlier).await?;
    }
    Ok((source, objects))
}

/// Says on every Source that nobody follows that this is so; one without objects goes. Tried until it
/// works.
pub async fn mark_left_behind<C: Cluster>(cluster: &C, configured: &[SourceConfig]) {
    while let Err(error) = try_to_mark(cluster, configured).await {
        warn!(%error, "sources that nobody follows not marked, trying again");
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

async fn try_to_mark<C: Cluster>(cluster: &C, configured: &[SourceConfig]) -> Result<(), ApiError> {
    for source in cluster.list::<Source>(&Scope::all()).await?.items {
        if !succession::is_left_behind(&source, configured) {
            continue;
        }
        let key = source.key();
        // Nothing compares its objects with Git any more.
        for drift in cluster.list::<Drift>(&Scope::all()).await?.items {
            let origin = drift.spec.origin.as_ref();
            if drift.spec.layer == Layer::Object
                && origin.is_some_and(|origin| origin.source == key.name)
            {
                delete::<C, Drift>(cluster, &drift).await?;
            }
        }
        let objects = inventory(cluster, &key).await?.len();
        if objects == 0 {
            remove(cluster, &source).await?;
            continue;
        }
        let mut status = source.status.clone().unwrap_or_default();
        let sentence = succession::left_behind(objects);
        if status.unfollowed.as_ref() != Some(&sentence) {
            warn!(source = %key.name, objects, "source is followed no more: {sentence}");
            status.unfollowed = Some(sentence);
            status.converged = None;
            write_status(cluster, &key, &status).await?;
        }
    }
    Ok(())
}

/// The Source goes last: as long as it is there, its inventory is looked for.
async fn remove<C: Cluster>(cluster: &C, source: &Source) -> Result<(), ApiError> {
    match cluster.get::<Inventory>(&source.key()).await {
        Ok(inventory) => delete::<C, Inventory>(cluster, &inventory).await?,
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    delete::<C, Source>(cluster, source).await
}

async fn delete<C: Cluster, K: Object>(cluster: &C, object: &K) -> Result<(), ApiError> {
    let only = DeleteOptions { uid: Some(object.uid().to_owned()), ..DeleteOptions::default() };
    match cluster.delete::<K>(&object.key(), &only).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Empty where there is none.
///
/// # Errors
/// The read fails.
pub async fn inventory<C: Cluster>(
    cluster: &C,
    key: &Key,
) -> Result<Vec<InventoryEntry>, ApiError> {
    match cluster.get::<Inventory>(key).await {
        Ok(stored) => Ok(stored.objects.clone()),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// # Errors
/// The read or the write fails.
pub async fn write_status<C: Cluster>(
    cluster: &C,
    key: &Key,
    status: &SourceStatus,
) -> Result<Arc<Source>, ApiError> {
    let mut source = (*cluster.get::<Source>(key).await?).clone();
    source.status = Some(status.clone());
    cluster.update_status(&source).await
}

/// # Errors
/// The read or the write fails.
pub async fn write_inventory<C: Cluster>(cluster: &C, wanted: Inventory) -> Result<(), ApiError> {
    match cluster.get::<Inventory>(&wanted.key()).await {
        Ok(stored) => {
            let metadata = stored.metadata.clone();
            cluster.update(&Inventory { metadata, ..wanted }).await?;
        }
        Err(error) if error.is_not_found() => {
            cluster.create(&wanted).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
