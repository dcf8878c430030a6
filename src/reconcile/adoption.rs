//! Performs claims: adopts orphans and releases what is selected no more.

use std::sync::Arc;

use tracing::info;

use crate::object::{Cluster, Object};
use crate::reconcile::claim::{self, Claims};
use crate::reconcile::engine::Failed;
use crate::reconcile::owner::is_deleting;

/// Answers everything that is the owner's after this: what it owned, and what it adopted. The owner
/// is read again, uncached, before it adopts: one that was deleted or made anew meanwhile must not.
pub async fn settle<C: Cluster, O: Object, K: Object>(
    cluster: &C,
    owner: &O,
    claims: Claims<K>,
) -> Result<Vec<Arc<K>>, Failed> {
    let Claims { mut owned, adopt, release } = claims;
    for object in release {
        match cluster.patch::<K>(&object.key(), &claim::release(owner.uid(), &*object)).await {
            Ok(_) => {
                info!(owner = %owner.key(), kind = %K::OBJECT_KIND, object = %object.key(), "released");
            }
            Err(error) if error.is_not_found() => {}
            Err(source) => return Err(Failed { step: "release", source }),
        }
    }
    if adopt.is_empty() {
        return Ok(owned);
    }
    let fresh = match cluster.get::<O>(&owner.key()).await {
        Ok(fresh) => fresh,
        Err(error) if error.is_not_found() => return Ok(owned),
        Err(source) => return Err(Failed { step: "read the owner again", source }),
    };
    if fresh.uid() != owner.uid() || is_deleting(fresh.metadata()) {
        return Ok(owned);
    }
    for object in adopt {
        match cluster.patch::<K>(&object.key(), &claim::adoption(owner, &*object)).await {
            Ok(adopted) => {
                info!(owner = %owner.key(), kind = %K::OBJECT_KIND, object = %object.key(), "adopted");
                owned.push(adopted);
            }
            Err(error) if error.is_not_found() => {}
            Err(source) => return Err(Failed { step: "adopt", source }),
        }
    }
    Ok(owned)
}
