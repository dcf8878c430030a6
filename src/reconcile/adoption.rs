//! Performs claims: adopts orphans and releases what is selected no more.

use std::sync::Arc;

use tracing::info;

use crate::object::{Cluster, Object};
use crate::reconcile::claim::{self, Claims};
use crate::reconcile::engine::Failed;

/// Answers everything that is the owner's after this: what it owned, and what it adopted. An owner
/// that was deleted or made anew meanwhile adopts nothing: the API refuses the reference to it.
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
