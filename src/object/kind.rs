//! Pure: the table of kinds, the one place that says what Ballast serves.
//!
//! Every room that needs to know a kind's group, plural, scope, short names or selectable fields
//! reads it here: routes, discovery, the store's index, manifests, ownership. Adding a kind begins
//! with a row (CONTRIBUTING.md tells the rest).

use std::fmt;
use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret,
    Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::object::drift::Drift;
use crate::object::inventory::Inventory;
use crate::object::source::Source;

/// A kind that Ballast stores and serves. The discriminants are written to disk: append, never reorder.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[repr(u8)]
pub enum Kind {
    Namespace = 0,
    Node = 1,
    Pod = 2,
    ConfigMap = 3,
    Secret = 4,
    Service = 5,
    Event = 6,
    ReplicaSet = 7,
    Deployment = 8,
    EndpointSlice = 9,
    Lease = 10,
    Source = 11,
    Drift = 12,
    Inventory = 13,
    PersistentVolume = 14,
    PersistentVolumeClaim = 15,
    StorageClass = 16,
}

/// What the API machinery needs to know of a kind.
#[derive(Debug)]
pub struct KindRow {
    pub kind: Kind,
    /// `Pod`
    pub name: &'static str,
    /// Empty for the core group.
    pub group: &'static str,
    /// `v1`
    pub version: &'static str,
    /// `pods`
    pub plural: &'static str,
    /// `pod`
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    /// `all` puts the kind into `kubectl get all`.
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// `/status` is a subresource: updates of the object leave the status, and the reverse.
    pub has_status: bool,
    /// `/scale` is a subresource.
    pub has_scale: bool,
    /// Field selectors beside `metadata.name` and `metadata.namespace`, as the reference server has them.
    pub selectable: &'static [&'static str],
}

const fn row(
    kind: Kind,
    name: &'static str,
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> KindRow {
    KindRow {
        kind,
        name,
        group,
        version,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: true,
        has_status: false,
        has_scale: false,
        selectable: &[],
    }
}

/// Indexed by discriminant.
static TABLE: [KindRow; 17] = [
    KindRow {
        namespaced: false,
        has_status: true,
        short_names: &["ns"],
        selectable: &["status.phase"],
        ..row(Kind::Namespace, "Namespace", "", "v1", "namespaces", "namespace")
    },
    KindRow {
        namespaced: false,
        has_status: true,
        short_names: &["no"],
        selectable: &["spec.unschedulable"],
        ..row(Kind::Node, "Node", "", "v1", "nodes", "node")
    },
    KindRow {
        has_status: true,
        short_names: &["po"],
        categories: &["all"],
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ..row(Kind::Pod, "Pod", "", "v1", "pods", "pod")
    },
    KindRow {
        short_names: &["cm"],
        ..row(Kind::ConfigMap, "ConfigMap", "", "v1", "configmaps", "configmap")
    },
    KindRow { selectable: &["type"], ..row(Kind::Secret, "Secret", "", "v1", "secrets", "secret") },
    KindRow {
        has_status: true,
        short_names: &["svc"],
        categories: &["all"],
        selectable: &["spec.clusterIP", "spec.type"],
        ..row(Kind::Service, "Service", "", "v1", "services", "service")
    },
    KindRow {
        short_names: &["ev"],
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ..row(Kind::Event, "Event", "", "v1", "events", "event")
    },
    KindRow {
        has_status: true,
        has_scale: true,
        short_names: &["rs"],
        categories: &["all"],
        selectable: &["status.replicas"],
        ..row(Kind::ReplicaSet, "ReplicaSet", "apps", "v1", "replicasets", "replicaset")
    },
    KindRow {
        has_status: true,
        has_scale: true,
        short_names: &["deploy"],
        categories: &["all"],
        ..row(Kind::Deployment, "Deployment", "apps", "v1", "deployments", "deployment")
    },
    row(
        Kind::EndpointSlice,
        "EndpointSlice",
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        "endpointslice",
    ),
    row(Kind::Lease, "Lease", "coordination.k8s.io", "v1", "leases", "lease"),
    KindRow {
        namespaced: false,
        has_status: true,
        short_names: &["src"],
        ..row(Kind::Source, "Source", "ballast.dev", "v1alpha1", "sources", "source")
    },
    KindRow {
        has_status: true,
        short_names: &["dr"],
        selectable: &["spec.layer", "spec.class", "status.phase"],
        ..row(Kind::Drift, "Drift", "ballast.dev", "v1alpha1", "drifts", "drift")
    },
    KindRow {
        namespaced: false,
        short_names: &["inv"],
        ..row(Kind::Inventory, "Inventory", "ballast.dev", "v1alpha1", "inventories", "inventory")
    },
    KindRow {
        namespaced: false,
        has_status: true,
        short_names: &["pv"],
        ..row(
            Kind::PersistentVolume,
            "PersistentVolume",
            "",
            "v1",
            "persistentvolumes",
            "persistentvolume",
        )
    },
    KindRow {
        has_status: true,
        short_names: &["pvc"],
        ..row(
            Kind::PersistentVolumeClaim,
            "PersistentVolumeClaim",
            "",
            "v1",
            "persistentvolumeclaims",
            "persistentvolumeclaim",
        )
    },
    KindRow {
        namespaced: false,
        short_names: &["sc"],
        ..row(
            Kind::StorageClass,
            "StorageClass",
            "storage.k8s.io",
            "v1",
            "storageclasses",
            "storageclass",
        )
    },
];

impl Kind {
    /// Every kind, in table order.
    pub fn all() -> impl Iterator<Item = Kind> {
        TABLE.iter().map(|row| row.kind)
    }

    pub fn row(self) -> &'static KindRow {
        &TABLE[self as usize]
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(self) -> String {
        let row = self.row();
        if row.group.is_empty() {
            row.version.to_owned()
        } else {
            format!("{}/{}", row.group, row.version)
        }
    }

    /// The kind a manifest names, if it is one that Ballast serves.
    pub fn of_manifest(api_version: &str, kind: &str) -> Option<Kind> {
        Self::all().find(|candidate| {
            candidate.row().name == kind && candidate.api_version() == api_version
        })
    }

    /// The kind behind a URL's group, version and plural.
    pub fn of_resource(group: &str, version: &str, plural: &str) -> Option<Kind> {
        TABLE
            .iter()
            .find(|row| row.group == group && row.version == version && row.plural == plural)
            .map(|row| row.kind)
    }

    /// The kind stored under a discriminant; `None` was written by a newer version.
    pub fn of_number(number: u8) -> Option<Kind> {
        TABLE.get(usize::from(number)).map(|row| row.kind)
    }

    /// `pods`, `deployments.apps`: how the reference server names a resource in messages.
    pub fn qualified_resource(self) -> String {
        let row = self.row();
        if row.group.is_empty() {
            row.plural.to_owned()
        } else {
            format!("{}.{}", row.plural, row.group)
        }
    }

    /// `Pod`, `Deployment.apps`: how the reference server names a kind in messages.
    pub fn qualified_kind(self) -> String {
        let row = self.row();
        if row.group.is_empty() {
            row.name.to_owned()
        } else {
            format!("{}.{}", row.name, row.group)
        }
    }
}

/// `Pod`
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().name)
    }
}

/// A typed kind. `kube`'s own `Resource` follows from the two k8s-openapi traits, so that
/// kube-runtime's controllers and a `kube::Client` take every one of them.
pub trait Object:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + PartialEq
    + Send
    + Sync
    + 'static
{
    const OBJECT_KIND: Kind;

    /// `namespace/name` out of the metadata.
    fn key(&self) -> super::Key {
        let meta = self.metadata();
        super::Key {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// The uid; empty before the API has stored the object.
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }
}

macro_rules! objects {
    ($($kind:ident),*) => { $(impl Object for $kind { const OBJECT_KIND: Kind = Kind::$kind; })* };
}
objects!(
    Namespace,
    Node,
    Pod,
    ConfigMap,
    Secret,
    Service,
    Event,
    ReplicaSet,
    Deployment,
    EndpointSlice,
    Lease,
    Source,
    Drift,
    Inventory,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass
);

/// Runs a body with `$K` bound to the type of a kind: the bridge from a URL or a manifest, which
/// know a [`Kind`], to code that is generic over [`Object`].
#[macro_export]
macro_rules! with_kind {
    ($kind:expr, $K:ident => $body:expr) => {
        match $kind {
            $crate::object::Kind::Namespace => {
                type $K = ::k8s_openapi::api::core::v1::Namespace;
                $body
            }
            $crate::object::Kind::Node => {
                type $K = ::k8s_openapi::api::core::v1::Node;
                $body
            }
            $crate::object::Kind::Pod => {
                type $K = ::k8s_openapi::api::core::v1::Pod;
                $body
            }
            $crate::object::Kind::ConfigMap => {
                type $K = ::k8s_openapi::api::core::v1::ConfigMap;
                $body
            }
            $crate::object::Kind::Secret => {
                type $K = ::k8s_openapi::api::core::v1::Secret;
                $body
            }
            $crate::object::Kind::Service => {
                type $K = ::k8s_openapi::api::core::v1::Service;
                $body
            }
            $crate::object::Kind::Event => {
                type $K = ::k8s_openapi::api::core::v1::Event;
                $body
            }
            $crate::object::Kind::ReplicaSet => {
                type $K = ::k8s_openapi::api::apps::v1::ReplicaSet;
                $body
            }
            $crate::object::Kind::Deployment => {
                type $K = ::k8s_openapi::api::apps::v1::Deployment;
                $body
            }
            $crate::object::Kind::EndpointSlice => {
                type $K = ::k8s_openapi::api::discovery::v1::EndpointSlice;
                $body
            }
            $crate::object::Kind::Lease => {
                type $K = ::k8s_openapi::api::coordination::v1::Lease;
                $body
            }
            $crate::object::Kind::Source => {
                type $K = $crate::object::source::Source;
                $body
            }
            $crate::object::Kind::Drift => {
                type $K = $crate::object::drift::Drift;
                $body
            }
            $crate::object::Kind::Inventory => {
                type $K = $crate::object::inventory::Inventory;
                $body
            }
            $crate::object::Kind::PersistentVolume => {
                type $K = ::k8s_openapi::api::core::v1::PersistentVolume;
                $body
            }
            $crate::object::Kind::PersistentVolumeClaim => {
                type $K = ::k8s_openapi::api::core::v1::PersistentVolumeClaim;
                $body
            }
            $crate::object::Kind::StorageClass => {
                type $K = ::k8s_openapi::api::storage::v1::StorageClass;
                $body
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_indexed_by_discriminant() {
        for (index, kind) in Kind::all().enumerate() {
            assert_eq!(kind as usize, index);
            assert_eq!(Kind::of_manifest(&kind.api_version(), kind.row().name), Some(kind));
        }
    }

    #[test]
    fn typed_kinds_agree_with_their_rows() {
        fn check<K: Object>() {
            let row = (K::OBJECT_KIND.row().name, K::OBJECT_KIND.api_version());
            assert_eq!(row, (<K as k8s_openapi::Resource>::KIND, K::API_VERSION.to_owned()));
        }
        check::<Pod>();
        check::<Deployment>();
        check::<EndpointSlice>();
        check::<Lease>();
        check::<Source>();
        check::<Drift>();
        check::<Inventory>();
        check::<PersistentVolume>();
        check::<PersistentVolumeClaim>();
        check::<StorageClass>();
    }
}
