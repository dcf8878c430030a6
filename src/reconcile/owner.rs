//! Pure: who controls whom.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::object::{Key, Object};

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

/// The one reference with `controller: true`.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The key of the controlling owner of a kind, in the object's own namespace.
pub fn controller_key<K: Object>(meta: &ObjectMeta) -> Option<Key> {
    let owner = controller_of(meta)?;
    let row = K::OBJECT_KIND.row();
    // Only the group counts: an owner written as another version is the same owner.
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (owner.kind == row.name && group == row.group)
        .then(|| Key::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

/// `deletionTimestamp` is set.
pub fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}
