//! Performs claims: adopts orphans and releases what is selected no more.

use std::sync::Arc;

use tracing::info;

use crate::object::{Cluster, Object};
use crate::reconcile::claim::{self, Claims};
use crate::reconcile::engine::Failed;
use crate::reconcile::kept::Kept;

/// Answers everything that is the owner's after this: what it owned, and what it adopted. An owner
/// that was deleted or made anew meanwhile adopts nothing: the API refuses the reference to it.
pub async fn settle<C: Cluster, O: Object, T: Kept>(
    cluster: &C,
    owner: &O,
    claims: Claims<T>,
) -> Result<Vec<Arc<T>>, Failed> {
    let kind = T::Whole::OBJECT_KIND;
    let Claims { mut owned, adopt, release } = claims;
    for object in release {
        let key = object.place().key();
        match cluster.patch::<T::Whole>(&key, &claim::release(owner.uid(), &*object)).await {
            Ok(_) => info!(owner = %owner.key(), %kind, object = %key, "released"),
            Err(error) if error.is_not_found() => {}
            Err(source) => return Err(Failed { step: "release", source }),
        }
    }
    for object in adopt {
        let key = object.place().key();
        match cluster.patch::<T::Whole>(&key, &claim::adoption(owner, &*object)).await {
            Ok(adopted) => {
                info!(owner = %owner.key(), %kind, object = %key, "adopted");
                owned.push(T::of_whole(adopted));
            }
            Err(error) if error.is_not_found() => {}
            Err(source) => return Err(Failed { step: "adopt", source }),
        }
    }
    Ok(owned)
}
