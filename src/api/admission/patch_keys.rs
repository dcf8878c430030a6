//! Pure: the published patch keys of the built-in kinds (`x-kubernetes-patch-merge-key` and
//! `x-kubernetes-patch-strategy` of Kubernetes' own API description): how a strategic merge treats
//! each list. A list that is not here is replaced whole.

use crate::object::Kind;

/// How a patch's list meets the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListStrategy {
    Replace,
    /// Elements are maps; those with the same value under this key are merged.
    MergeBy(&'static str),
    /// Elements are texts or numbers; the patch's are added.
    MergeValues,
}

use ListStrategy::{MergeBy, MergeValues};

/// Of every object.
const METADATA: &[(&str, ListStrategy)] =
    &[("metadata.ownerReferences", MergeBy("uid")), ("metadata.finalizers", MergeValues)];

/// Of pods, and of templates below `spec.template`.
const POD: &[(&str, ListStrategy)] = &[
    ("spec.containers", MergeBy("name")),
    ("spec.initContainers", MergeBy("name")),
    ("spec.ephemeralContainers", MergeBy("name")),
    ("spec.volumes", MergeBy("name")),
    ("spec.imagePullSecrets", MergeBy("name")),
    ("spec.hostAliases", MergeBy("ip")),
    ("spec.topologySpreadConstraints", MergeBy("topologyKey")),
    ("spec.resourceClaims", MergeBy("name")),
    ("spec.schedulingGates", MergeBy("name")),
    ("status.conditions", MergeBy("type")),
    ("status.podIPs", MergeBy("ip")),
    ("status.hostIPs", MergeBy("ip")),
    ("status.resourceClaimStatuses", MergeBy("name")),
];

/// Of every container, init container and ephemeral container.
const CONTAINER: &[(&str, ListStrategy)] = &[
    ("env", MergeBy("name")),
    ("ports", MergeBy("containerPort")),
    ("volumeMounts", MergeBy("mountPath")),
    ("volumeDevices", MergeBy("devicePath")),
];

const SERVICE: &[(&str, ListStrategy)] =
    &[("spec.ports", MergeBy("port")), ("status.conditions", MergeBy("type"))];

const NODE: &[(&str, ListStrategy)] = &[
    ("spec.podCIDRs", MergeValues),
    ("status.conditions", MergeBy("type")),
    ("status.addresses", MergeBy("type")),
];

/// Deployments, ReplicaSets and Namespaces.
const CONDITIONS: &[(&str, ListStrategy)] = &[("status.conditions", MergeBy("type"))];

/// The strategy of the list at a path of field names, list indexes left out:
/// `spec.template.spec.containers.env`.
pub fn list_strategy(kind: Kind, path: &str) -> ListStrategy {
    let own = |table: &[(&str, ListStrategy)], path: &str| {
        table.iter().find(|(known, _)| *known == path).map(|(_, strategy)| *strategy)
    };
    let of_pod = |path: &str| {
        let containers = ["spec.containers.", "spec.initContainers.", "spec.ephemeralContainers."];
        match containers.iter().find_map(|prefix| path.strip_prefix(prefix)) {
            Some(inside) => own(CONTAINER, inside),
            None => own(POD, path),
        }
    };
    let found = own(METADATA, path).or_else(|| match kind {
        Kind::Pod => of_pod(path),
        Kind::Deployment | Kind::ReplicaSet => match path.strip_prefix("spec.template.") {
            Some(inside) => own(METADATA, inside).or_else(|| of_pod(inside)),
            None => own(CONDITIONS, path),
        },
        Kind::Service => own(SERVICE, path),
        Kind::Node => own(NODE, path),
        Kind::Namespace => own(CONDITIONS, path),
        _ => None,
    });
    found.unwrap_or(ListStrategy::Replace)
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
        assert_eq!(by(Kind::Deployment, "spec.containers"), ListStrategy::Replace);
        assert_eq!(by(Kind::Pod, "spec.tolerations"), ListStrategy::Replace);
        assert_eq!(by(Kind::ConfigMap, "metadata.finalizers"), MergeValues);
        assert_eq!(by(Kind::Pod, "spec.containers.command"), ListStrategy::Replace);
    }
}
