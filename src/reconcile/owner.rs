//! Pure: who controls whom.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub use crate::object::owner::controller_of;
use crate::object::owner::{kind_of, place_of};
use crate::object::{Key, Object};
use crate::reconcile::kept::Kept;

/// The reference that makes `owner` the controller of an object, and a foreground deletion of the
/// owner wait for it.
pub fn controller_reference<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::OBJECT_KIND.api_version(),
        kind: K::OBJECT_KIND.row().name.to_owned(),
        name: owner.key().name,
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The key of the controlling owner of a kind, in the object's own namespace.
pub fn controller_key<K: Object>(owned: &impl Kept) -> Option<Key> {
    let facts = owned.facts();
    let owner = facts.controller()?;
    let kind = kind_of(owner).filter(|kind| *kind == K::OBJECT_KIND)?;
    place_of(kind, owner, facts.place.namespace)
}

/// `deletionTimestamp` is set.
pub fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}
