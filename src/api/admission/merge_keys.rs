//! Pure: the published merge keys of the built-in kinds, in one table for both merges. A strategic
//! merge goes by `x-kubernetes-patch-merge-key` and `x-kubernetes-patch-strategy`, server-side apply
//! by `x-kubernetes-list-type`, `x-kubernetes-list-map-keys` and `x-kubernetes-map-type`, all of
//! Kubernetes' own API description (1.36; `applyconfigurations/internal` of client-go has the same
//! in one document). A list that is not here is replaced whole by the one and atomic to the other;
//! a map that is not here is merged field by field.

use crate::object::Kind;

/// How a strategic merge patch's list meets the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListStrategy {
    Replace,
    /// Elements are maps; those with the same value under this key are merged.
    MergeBy(&'static str),
    /// Elements are texts or numbers; the patch's are added.
    MergeValues,
}

/// What of a list one field manager can own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// The list as one value.
    Atomic,
    /// Each element; elements are texts or numbers.
    Set,
    /// Each field of each element; elements are maps, told apart by these fields together.
    Map(&'static [MapKey]),
    /// Each element as one value; elements are maps, told apart by these fields together.
    MapOfAtomic(&'static [MapKey]),
}

/// One of the fields that tell the elements of a list apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapKey {
    pub name: &'static str,
    /// What the field is where an element leaves it out.
    pub default: Option<&'static str>,
}

use ListStrategy::{MergeBy, MergeValues, Replace};
use ListType::{Map, MapOfAtomic, Set};

/// Path below the part that the table is of, and what both merges do there.
type Row = (&'static str, ListStrategy, ListType);

const fn key(name: &'static str) -> MapKey {
    MapKey { name, default: None }
}

const PROTOCOL: MapKey = MapKey { name: "protocol", default: Some("TCP") };
const NAME: ListType = Map(&[key("name")]);
const TYPE: ListType = Map(&[key("type")]);
const IP: ListType = Map(&[key("ip")]);

/// Of every object.
const METADATA: &[Row] = &[
    ("metadata.ownerReferences", MergeBy("uid"), MapOfAtomic(&[key("uid")])),
    ("metadata.finalizers", MergeValues, Set),
];

/// Of pods, and of templates below `spec.template`.
const POD: &[Row] = &[
    ("spec.containers", MergeBy("name"), NAME),
    ("spec.initContainers", MergeBy("name"), NAME),
    ("spec.ephemeralContainers", MergeBy("name"), NAME),
    ("spec.volumes", MergeBy("name"), NAME),
    ("spec.imagePullSecrets", MergeBy("name"), MapOfAtomic(&[key("name")])),
    ("spec.hostAliases", MergeBy("ip"), IP),
    (
        "spec.topologySpreadConstraints",
        MergeBy("topologyKey"),
        Map(&[key("topologyKey"), key("whenUnsatisfiable")]),
    ),
    ("spec.resourceClaims", MergeBy("name"), NAME),
    ("spec.resources.claims", Replace, NAME),
    ("spec.schedulingGates", MergeBy("name"), NAME),
    ("status.conditions", MergeBy("type"), TYPE),
    ("status.podIPs", MergeBy("ip"), IP),
    ("status.hostIPs", MergeBy("ip"), ListType::Atomic),
    ("status.resourceClaimStatuses", MergeBy("name"), NAME),
];

/// Of every container, init container and ephemeral container.
const CONTAINER: &[Row] = &[
    ("env", MergeBy("name"), NAME),
    ("ports", MergeBy("containerPort"), Map(&[key("containerPort"), PROTOCOL])),
    ("volumeMounts", MergeBy("mountPath"), Map(&[key("mountPath")])),
    ("volumeDevices", MergeBy("devicePath"), Map(&[key("devicePath")])),
    ("resources.claims", Replace, NAME),
];

const SERVICE: &[Row] = &[
    ("spec.ports", MergeBy("port"), Map(&[key("port"), PROTOCOL])),
    ("status.conditions", MergeBy("type"), TYPE),
];

const NODE: &[Row] = &[
    ("spec.podCIDRs", MergeValues, Set),
    ("status.conditions", MergeBy("type"), TYPE),
    ("status.addresses", MergeBy("type"), TYPE),
];

/// Deployments, ReplicaSets, Namespaces and claims.
const CONDITIONS: &[Row] = &[("status.conditions", MergeBy("type"), TYPE)];

/// Maps of pods that are one value to server-side apply.
const POD_ATOMIC: &[&str] = &[
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    "spec.nodeSelector",
    "spec.topologySpreadConstraints.labelSelector",
    "spec.volumes.cephfs.secretRef",
    "spec.volumes.cinder.secretRef",
    "spec.volumes.csi.nodePublishSecretRef",
    "spec.volumes.ephemeral.volumeClaimTemplate.spec.dataSource",
    "spec.volumes.ephemeral.volumeClaimTemplate.spec.selector",
    "spec.volumes.flexVolume.secretRef",
    "spec.volumes.iscsi.secretRef",
    "spec.volumes.rbd.secretRef",
    "spec.volumes.scaleIO.secretRef",
    "spec.volumes.storageos.secretRef",
];

const CONTAINER_ATOMIC: &[&str] = &[
    "env.valueFrom.configMapKeyRef",
    "env.valueFrom.fieldRef",
    "env.valueFrom.fileKeyRef",
    "env.valueFrom.resourceFieldRef",
    "env.valueFrom.secretKeyRef",
];

const TEMPLATE: &str = "spec.template.";

/// The path inside a container, if it is inside one.
fn in_container(path: &str) -> Option<&str> {
    let containers = ["spec.containers.", "spec.initContainers.", "spec.ephemeralContainers."];
    containers.iter().find_map(|prefix| path.strip_prefix(prefix))
}

fn row(kind: Kind, path: &str) -> Option<&'static Row> {
    let own = |table: &'static [Row], path: &str| table.iter().find(|row| row.0 == path);
    let of_pod = |path: &str| match in_container(path) {
        Some(inside) => own(CONTAINER, inside),
        None => own(POD, path),
    };
    own(METADATA, path).or_else(|| match kind {
        Kind::Pod => of_pod(path),
        Kind::Deployment | Kind::ReplicaSet => match path.strip_prefix(TEMPLATE) {
            Some(inside) => own(METADATA, inside).or_else(|| of_pod(inside)),
            None => own(CONDITIONS, path),
        },
        Kind::Service => own(SERVICE, path),
        Kind::Node => own(NODE, path),
        Kind::Namespace | Kind::PersistentVolumeClaim => own(CONDITIONS, path),
        _ => None,
    })
}

/// The strategy of the list at a path of field names, list indexes left out:
/// `spec.template.spec.containers.env`.
pub fn list_strategy(kind: Kind, path: &str) -> ListStrategy {
    row(kind, path).map_or(Replace, |row| row.1)
}

/// What server-side apply takes the list at such a path for.
pub fn list_type(kind: Kind, path: &str) -> ListType {
    row(kind, path).map_or(ListType::Atomic, |row| row.2)
}

/// Whether the map at such a path is one value to server-side apply.
pub fn is_atomic_map(kind: Kind, path: &str) -> bool {
    let of_pod = |path: &str| match in_container(path) {
        Some(inside) => CONTAINER_ATOMIC.contains(&inside),
        None => POD_ATOMIC.contains(&path),
    };
    match kind {
        Kind::Pod => of_pod(path),
        Kind::Deployment | Kind::ReplicaSet => match path.strip_prefix(TEMPLATE) {
            Some(inside) => of_pod(inside),
            None => path == "spec.selector",
        },
        Kind::Service => path == "spec.selector",
        Kind::Event => matches!(path, "involvedObject" | "related"),
        Kind::PersistentVolumeClaim => matches!(path, "spec.selector" | "spec.dataSource"),
        Kind::PersistentVolume => path == "spec.nodeAffinity.required",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_the_keys_of_pods() {
        let by = |kind, path| list_strategy(kind, path);
        assert_eq!(by(Kind::Pod, "spec.containers.env"), MergeBy("name"));
        assert_eq!(
            by(Kind::Deployment, "spec.template.spec.initContainers.ports"),
            MergeBy("containerPort")
        );
        assert_eq!(by(Kind::Deployment, "spec.containers"), Replace);
        assert_eq!(by(Kind::Pod, "spec.tolerations"), Replace);
        assert_eq!(by(Kind::ConfigMap, "metadata.finalizers"), MergeValues);
        assert_eq!(by(Kind::Pod, "spec.containers.command"), Replace);
    }

    #[test]
    fn apply_has_types_of_its_own() {
        const PORT: &[MapKey] = &[key("containerPort"), PROTOCOL];
        let ports = list_type(Kind::Deployment, "spec.template.spec.containers.ports");
        assert_eq!(ports, Map(PORT));
        assert_eq!(list_type(Kind::Pod, "status.hostIPs"), ListType::Atomic);
        assert_eq!(list_type(Kind::Pod, "spec.tolerations"), ListType::Atomic);
        assert_eq!(list_type(Kind::Secret, "metadata.finalizers"), Set);
        assert!(is_atomic_map(Kind::Deployment, "spec.selector"));
        assert!(is_atomic_map(Kind::Deployment, "spec.template.spec.nodeSelector"));
        assert!(is_atomic_map(Kind::Pod, "spec.initContainers.env.valueFrom.secretKeyRef"));
        assert!(!is_atomic_map(Kind::Pod, "spec.containers.resources.limits"));
        assert!(!is_atomic_map(Kind::ConfigMap, "data"));
        assert!(is_atomic_map(Kind::PersistentVolumeClaim, "spec.selector"));
        assert!(!is_atomic_map(Kind::PersistentVolume, "spec.claimRef"), "granular by its marker");
    }
}
