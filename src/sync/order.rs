//! Pure: in which order objects enter the store and leave it.

use crate::object::{Key, Kind};

/// Namespaces, then storage (classes, volumes) and what pods read and mount (claims, ConfigMaps,
/// Secrets), then Services, so that a new pod finds its environment complete, then workloads. The store takes a commit as one, so nothing breaks
/// without the order; it is what a watcher and a reader of the plan sees.
pub fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Namespace => 0,
        Kind::StorageClass => 1,
        Kind::PersistentVolume => 2,
        Kind::ConfigMap | Kind::Secret | Kind::PersistentVolumeClaim => 3,
        Kind::Service | Kind::EndpointSlice => 4,
        Kind::Pod | Kind::ReplicaSet | Kind::Deployment => 5,
        // Never committed by people; last, so that a new kind without a rank breaks nothing.
        Kind::Node | Kind::Event | Kind::Lease | Kind::Source | Kind::Inventory | Kind::Drift => 6,
    }
}

/// Sorts for entering: by rank, then namespace, then name.
pub fn sort_for_apply<T>(items: &mut [T], id: impl Fn(&T) -> (Kind, Key)) {
    items.sort_by_cached_key(|item| {
        let (kind, key) = id(item);
        (rank(kind), kind, key)
    });
}

/// Sorts for leaving: the reverse, so that workloads go before what they read, and a namespace last.
pub fn sort_for_prune<T>(items: &mut [T], id: impl Fn(&T) -> (Kind, Key)) {
    sort_for_apply(items, id);
    items.reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_come_first_and_leave_last() {
        let wanted = [
            Kind::Namespace,
            Kind::StorageClass,
            Kind::PersistentVolume,
            Kind::PersistentVolumeClaim,
            Kind::Service,
            Kind::Deployment,
        ];
        let mut kinds = wanted.to_vec();
        sort_for_prune(&mut kinds, |kind| (*kind, Key::default()));
        assert!(kinds.iter().rev().eq(&wanted));
        sort_for_apply(&mut kinds, |kind| (*kind, Key::default()));
        assert_eq!(kinds, wanted);
    }
}
