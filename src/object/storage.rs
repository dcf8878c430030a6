//! Pure: the words of storage that the volume controller, the scheduler, admission and the nodes
//! share: who provisions, what the annotations and finalizers are called, which node a volume is on.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PodSpec};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Provisions a folder below the data directory of a node's daemon.
pub const LOCAL_PATH: &str = "ballast.dev/local-path";
/// Provisions a volume of a node's Docker engine.
pub const DOCKER_VOLUME: &str = "ballast.dev/docker-volume";
/// Kubernetes' word for a class whose volumes people write.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The CSI driver's name under which a volume of the Docker engine stands in a PersistentVolume;
/// its `volumeHandle` is the volume's name.
pub const DOCKER_VOLUME_DRIVER: &str = "docker-volume.ballast.dev";

/// On a claim: the node on which its volume is to be made. The scheduler's word.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: who is to make its volume.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// On a volume: who made it, and so who may remove what it holds.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: both halves of the binding are written.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or volume: its half of the binding was not a person's choice.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a class: claims that name none get this one.
pub const IS_DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// The classes that every cluster begins with.
pub const BUILT_IN_CLASSES: [&str; 2] = ["local-path", "docker-volume"];

/// Holds a claim while a pod that is not over uses it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Holds a volume while it is bound to a claim.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// The label by which a volume names its node.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The mode in which volumes and claims are when they say nothing, and the one that runs.
pub const FILESYSTEM: &str = "Filesystem";
pub const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";
pub const READ_WRITE_ONCE_POD: &str = "ReadWriteOncePod";

/// An annotation's value; an empty one is none.
pub fn annotation<'m>(meta: &'m ObjectMeta, name: &str) -> Option<&'m str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str).filter(|text| !text.is_empty())
}

/// Whether the nodes' agents make and remove volumes of this provisioner.
pub fn is_ours(provisioner: &str) -> bool {
    matches!(provisioner, LOCAL_PATH | DOCKER_VOLUME)
}

/// Whether claims that name no class get this one.
pub fn is_default(class: &StorageClass) -> bool {
    annotation(&class.metadata, IS_DEFAULT_CLASS) == Some("true")
}

/// The class for claims that name none: of several the newest, then the first by name, as in
/// Kubernetes.
pub fn default_class<'c>(
    classes: impl IntoIterator<Item = &'c StorageClass>,
) -> Option<&'c StorageClass> {
    let age = |class: &StorageClass| class.metadata.creation_timestamp.as_ref().map(|at| at.0);
    classes.into_iter().filter(|class| is_default(class)).min_by(|one, other| {
        age(other).cmp(&age(one)).then_with(|| one.metadata.name.cmp(&other.metadata.name))
    })
}

/// The class that a claim names; `Some("")` asks for volumes without one, `None` for the default.
pub fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref()
}

/// The volume that a claim names.
pub fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// The names of the claims that a pod's volumes are.
pub fn claims_of(spec: &PodSpec) -> Vec<String> {
    let volumes = spec.volumes.iter().flatten();
    let claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    let mut names: Vec<String> = claims.map(|claim| claim.claim_name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The one node a volume is on, where its affinity says just that: `kubernetes.io/hostname In [node]`.
pub fn node_of(volume: &PersistentVolume) -> Option<&str> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let [term] = affinity.required.as_ref()?.node_selector_terms.as_slice() else { return None };
    if term.match_fields.as_ref().is_some_and(|fields| !fields.is_empty()) {
        return None;
    }
    match term.match_expressions.as_deref()? {
        [one] if one.key == HOSTNAME && one.operator == "In" => match one.values.as_deref()? {
            [node] => Some(node),
            _ => None,
        },
        _ => None,
    }
}

/// The provisioner of ours that made a volume.
pub fn provisioner_of(volume: &PersistentVolume) -> Option<&str> {
    annotation(&volume.metadata, PROVISIONED_BY).filter(|name| is_ours(name))
}

/// Whether a volume says that it is this very claim's: an older claim of the name is another.
pub fn is_held_by(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(holder) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return false;
    };
    holder.name == claim.metadata.name
        && holder.namespace == claim.metadata.namespace
        && holder.uid.as_deref().is_some_and(|uid| Some(uid) == claim.metadata.uid.as_deref())
}

/// Whether a volume is kept for a claim: it is the claim's, or it names the claim and no uid.
pub fn is_kept_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(holder) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return false;
    };
    let uid = holder.uid.as_deref().unwrap_or_default();
    holder.name == claim.metadata.name
        && holder.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// Whether a claim is bound, and to this volume: both halves are written and name each other.
pub fn is_bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    volume_of(claim) == volume.metadata.name.as_deref()
        && annotation(&claim.metadata, BIND_COMPLETED).is_some()
        && is_held_by(volume, claim)
}

/// `RWO,ROX`, as `kubectl` shows access modes.
pub fn modes_text(modes: &[String]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        (READ_WRITE_ONCE_POD, "RWOP"),
    ];
    let named = known.iter().filter(|(mode, _)| modes.iter().any(|asked| asked == mode));
    named.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(affinity: Value, claim: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v"},
            "spec": {"nodeAffinity": {"required": affinity}, "claimRef": claim}}))
        .expect("decodes")
    }

    #[test]
    fn a_volume_is_on_the_one_node_that_it_names() {
        let on = |terms: Value| {
            let volume = volume(json!({"nodeSelectorTerms": terms}), Value::Null);
            node_of(&volume).map(str::to_owned)
        };
        let host = |values: &[&str]| json!({"key": HOSTNAME, "operator": "In", "values": values});
        assert_eq!(on(json!([{"matchExpressions": [host(&["n1"])]}])).as_deref(), Some("n1"));
        assert_eq!(on(json!([{"matchExpressions": [host(&["n1", "n2"])]}])), None);
        let zone = json!({"key": "zone", "operator": "In", "values": ["a"]});
        assert_eq!(on(json!([{"matchExpressions": [host(&["n1"]), zone]}])), None);
        assert_eq!(on(json!([{"matchExpressions": [zone]}])), None);
        assert_eq!(on(json!([])), None);
    }

    #[test]
    fn a_binding_has_two_halves_that_name_each_other() {
        let claim = |uid: &str, volume: &str, done: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "a", "uid": uid,
                "annotations": {BIND_COMPLETED: done}}, "spec": {"volumeName": volume}}))
            .expect("decodes")
        };
        let held = volume(
            json!({"nodeSelectorTerms": []}),
            json!({"namespace": "a", "name": "c", "uid": "1"}),
        );
        assert!(is_bound(&claim("1", "v", "yes"), &held));
        assert!(!is_bound(&claim("2", "v", "yes"), &held), "another incarnation");
        assert!(
            !is_bound(&claim("1", "w", "yes"), &held) && !is_bound(&claim("1", "v", ""), &held)
        );
        let named =
            volume(json!({"nodeSelectorTerms": []}), json!({"namespace": "a", "name": "c"}));
        assert!(!is_held_by(&named, &claim("1", "v", "yes")), "reserved by name only");
        assert!(
            is_kept_for(&named, &claim("1", "", "")) && !is_kept_for(&held, &claim("2", "", ""))
        );
    }

    #[test]
    fn the_newest_default_class_counts() {
        let class = |name: &str, second: u8, default: &str| -> StorageClass {
            serde_json::from_value(json!({"metadata": {"name": name,
                "creationTimestamp": format!("2026-01-01T00:00:0{second}Z"),
                "annotations": {IS_DEFAULT_CLASS: default}}, "provisioner": LOCAL_PATH}))
            .expect("decodes")
        };
        let all = [class("c", 1, "true"), class("b", 2, "true"), class("a", 2, "true")];
        let name = |class: Option<&StorageClass>| class.and_then(|own| own.metadata.name.clone());
        assert_eq!(name(default_class(&all)).as_deref(), Some("a"));
        assert_eq!(name(default_class(&[class("c", 1, "false")])), None);
        let modes = ["ReadWriteMany", "ReadWriteOnce"].map(str::to_owned);
        assert_eq!(modes_text(&modes), "RWO,RWX");
    }
}
