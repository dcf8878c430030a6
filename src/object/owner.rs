//! Pure: who controls an object, as its own metadata says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::object::{Key, Kind};

/// The one reference with `controller: true`.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    controller_among(meta.owner_references.as_deref().unwrap_or_default())
}

/// As [`controller_of`], where the references are at hand without the rest.
pub fn controller_among(references: &[OwnerReference]) -> Option<&OwnerReference> {
    references.iter().find(|owner| owner.controller == Some(true))
}

/// The kind that a reference names; `None` for one that this cluster does not have. Only the group
/// counts: an owner written as another version is the same owner.
pub fn kind_of(reference: &OwnerReference) -> Option<Kind> {
    let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
    Kind::all().find(|kind| kind.row().name == reference.kind && kind.row().group == group)
}

/// Where an owner has to be, seen from an object in `namespace` (empty: a cluster-scoped object).
/// `None`: a namespaced owner of a cluster-scoped object, which is nowhere.
pub fn place_of(kind: Kind, reference: &OwnerReference, namespace: &str) -> Option<Key> {
    match (kind.row().namespaced, namespace) {
        (false, _) => Some(Key::cluster(reference.name.as_str())),
        (true, "") => None,
        (true, namespace) => Some(Key::new(namespace, reference.name.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(api_version: &str, kind: &str) -> OwnerReference {
        OwnerReference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: "o".to_owned(),
            uid: "u".to_owned(),
            ..OwnerReference::default()
        }
    }

    #[test]
    fn an_owner_is_found_by_group_and_kind_where_it_has_to_be() {
        let set = reference("apps/v1beta1", "ReplicaSet");
        assert_eq!(kind_of(&set), Some(Kind::ReplicaSet));
        assert_eq!(kind_of(&reference("v1", "ReplicaSet")), None);
        assert_eq!(kind_of(&reference("example.com/v1", "Widget")), None);
        assert_eq!(place_of(Kind::ReplicaSet, &set, "a"), Some(Key::new("a", "o")));
        assert_eq!(place_of(Kind::ReplicaSet, &set, ""), None);
        assert_eq!(place_of(Kind::Node, &reference("v1", "Node"), "a"), Some(Key::cluster("o")));
    }

    #[test]
    fn a_controller_is_the_reference_that_says_so() {
        let mut meta = ObjectMeta {
            owner_references: Some(vec![reference("v1", "Service"), reference("v1", "Node")]),
            ..ObjectMeta::default()
        };
        assert_eq!(controller_of(&meta), None);
        meta.owner_references.as_mut().expect("two")[1].controller = Some(true);
        assert_eq!(controller_of(&meta).map(|owner| &*owner.kind), Some("Node"));
    }
}
