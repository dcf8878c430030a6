//! Performs a ledger's writes: the one doer behind `sync`, `node` and `network`. It decides nothing.

use tracing::warn;

use crate::object::drift::Drift;
use crate::object::ledger::LedgerWrite;
use crate::object::{Cluster, DeleteOptions, Object};

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

/// Creates the Drift, or overwrites spec and status of the one that has its stable name. A Drift of
/// an object in a namespace that is being torn down is dropped: it goes with the namespace.
async fn put<C: Cluster>(cluster: &C, drift: &Drift) -> Result<(), crate::object::ApiError> {
    let mut stored = match cluster.get::<Drift>(&drift.key()).await {
        Ok(stored) => (*stored).clone(),
        Err(error) if error.is_not_found() => match cluster.create(drift).await {
            Ok(created) => (*created).clone(),
            Err(error)
                if matches!(
                    error.reason,
                    crate::object::Reason::Forbidden | crate::object::Reason::NotFound
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
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
