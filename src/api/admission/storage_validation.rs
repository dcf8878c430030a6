//! Pure: what is wrong with a claim, a volume or a storage class (`ValidatePersistentVolumeSpec`,
//! `ValidatePersistentVolumeClaimSpec`, `ValidateStorageClass`), and what of each may change.

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::Value;

use super::admit::{Fault, Faults};
use super::difference;
use super::field_path::{FieldPath, quoted, shown};
use super::metadata_validation as metadata;
use super::metadata_validation::qualified_name_faults;
use super::pod_validation::{node_selector, one_of};
use super::volume_validation::{backstep_fault, host_path};
use crate::object::Kind;
use crate::object::name::subdomain_faults;
use crate::object::quantity::Quantity;
use crate::object::storage::READ_WRITE_ONCE_POD;

const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", READ_WRITE_ONCE_POD];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
/// The longest name of a CSI driver.
const LONGEST_DRIVER: usize = 63;

pub fn claim(claim: &PersistentVolumeClaim) -> Faults {
    let mut faults = metadata::faults(&claim.metadata, Kind::PersistentVolumeClaim);
    let nothing = PersistentVolumeClaimSpec::default();
    let spec = claim.spec.as_ref().unwrap_or(&nothing);
    let path = FieldPath::root("spec");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        faults.push(path.child("accessModes").required("at least 1 access mode is required"));
    }
    if let Some(selector) = &spec.selector {
        faults.extend(metadata::selector(selector, &path.child("selector")));
    }
    faults.extend(access_modes(modes, &path.child("accessModes")));
    let resources = path.child("resources");
    let storage = resources.key("storage");
    match requested(spec) {
        None => faults.push(storage.required("")),
        Some(amount) => faults.extend(positive(amount, &storage)),
    }
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    faults.extend(class_name(class, &path.child("storageClassName")));
    if let Some(mode) = spec.volume_mode.as_deref() {
        faults.extend(volume_mode(mode, &path.child("volumeMode")));
    }
    faults
}

fn requested(spec: &PersistentVolumeClaimSpec) -> Option<&Text> {
    spec.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// What a claim asks for stays: a volume's name and a class that was not named may be added once.
pub fn claim_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Faults {
    let mut faults = claim(new);
    let root = FieldPath::root("spec");
    let (before, after) = (old.spec.clone().unwrap_or_default(), new.spec.clone());
    let mut after = after.unwrap_or_default();
    if before.volume_name.as_deref().unwrap_or_default().is_empty() {
        after.volume_name.clone_from(&before.volume_name);
    }
    if before.storage_class_name.is_none() {
        after.storage_class_name = None;
    }
    let status = old.status.clone().unwrap_or_default();
    let amount = |text: Option<&Text>| text.and_then(|text| Quantity::parse(&text.0).ok());
    let (was, is) = (amount(requested(&before)), amount(requested(&after)));
    let is_bound = status.phase.as_deref() == Some("Bound");
    if (is_bound || was == is)
        && let Some(requests) = after.resources.as_mut().and_then(|own| own.requests.as_mut())
    {
        let stored = before.resources.as_ref().and_then(|own| own.requests.as_ref());
        requests.clone_from(stored.unwrap_or(&Default::default()));
    }
    if after != before {
        faults.push(root.forbidden(format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
            difference::changed_lines(&before, &after, "spec")
        )));
    }
    if let (true, Some(was), Some(is)) = (is_bound, was, is) {
        let path = root.child("resources");
        let path = path.child("requests");
        let path = path.child("storage");
        // The two cases have different words in Kubernetes; neither volume of ours can be resized.
        if is > was {
            faults.push(path.forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"));
        } else if is < was {
            faults.push(path.forbidden("field can not be less than status.capacity"));
        }
    }
    faults
}

pub fn volume(volume: &PersistentVolume) -> Faults {
    let mut faults = metadata::faults(&volume.metadata, Kind::PersistentVolume);
    let nothing = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&nothing);
    let path = FieldPath::root("spec");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        faults.push(path.child("accessModes").required(""));
    }
    faults.extend(access_modes(modes, &path.child("accessModes")));
    faults.extend(capacity(spec, &path.child("capacity")));
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    if !matches!(policy, "" | "Delete" | "Recycle" | "Retain") {
        let field = path.child("persistentVolumeReclaimPolicy");
        faults.push(field.not_supported(policy, &["Delete", "Recycle", "Retain"]));
    }
    let affinity = path.child("nodeAffinity");
    if let Some(own) = &spec.node_affinity {
        match &own.required {
            Some(required) => faults.extend(node_selector(required, &affinity.child("required"))),
            None => faults.push(
                affinity.child("required").required("must specify required node constraints"),
            ),
        }
    }
    faults.extend(source(spec, &path));
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    faults.extend(class_name(class, &path.child("storageClassName")));
    if let Some(mode) = spec.volume_mode.as_deref() {
        faults.extend(volume_mode(mode, &path.child("volumeMode")));
    }
    faults
}

fn capacity(spec: &PersistentVolumeSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let amounts = spec.capacity.clone().unwrap_or_default();
    if amounts.is_empty() {
        faults.push(path.required(""));
    }
    if !amounts.contains_key("storage") || amounts.len() > 1 {
        let mut fault = path.not_supported("", &["storage"]);
        fault.value = shown(&amounts);
        faults.push(fault);
    }
    for (name, amount) in &amounts {
        let path = path.key(name);
        if Quantity::parse(&amount.0).is_ok_and(Quantity::is_negative) {
            faults.push(path.invalid(quoted(&amount.0), "must be a valid resource quantity"));
        }
        faults.extend(positive(amount, &path));
    }
    faults
}

/// The fields of a volume's spec that are none of its sources.
const BESIDE_THE_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// The sources that a spec names, as the wire does.
fn sources(spec: &PersistentVolumeSpec) -> Vec<(String, Value)> {
    let value = serde_json::to_value(spec).unwrap_or_default();
    let Value::Object(fields) = value else { return Vec::new() };
    fields.into_iter().filter(|(name, _)| !BESIDE_THE_SOURCE.contains(&name.as_str())).collect()
}

/// Those that never run are judged by name in the second step.
fn source(spec: &PersistentVolumeSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let named = sources(spec);
    for (name, _) in named.iter().skip(1) {
        faults.push(path.child(name).forbidden("may not specify more than 1 volume type"));
    }
    if named.is_empty() {
        faults.push(path.required("must specify a volume type"));
    }
    if let Some(source) = &spec.host_path {
        faults.extend(host_path(source, &path.child("hostPath")));
    }
    if let Some(source) = &spec.local {
        let field = path.child("local");
        let field = field.child("path");
        match source.path.as_str() {
            "" => faults.push(field.required("")),
            written => faults.extend(backstep_fault(written, &field)),
        }
        if spec.node_affinity.is_none() {
            let detail = "Local volume requires node affinity";
            faults.push(path.child("nodeAffinity").required(detail));
        }
    }
    if let Some(source) = &spec.csi {
        let at = path.child("csi");
        faults.extend(driver_name(&source.driver, &at.child("driver")));
        if source.volume_handle.is_empty() {
            faults.push(at.child("volumeHandle").required(""));
        }
    }
    faults
}

fn driver_name(name: &str, path: &FieldPath<'_>) -> Faults {
    if name.is_empty() {
        return vec![path.required("")];
    }
    let mut faults = Faults::new();
    if name.len() > LONGEST_DRIVER {
        faults.push(path.too_long(LONGEST_DRIVER));
    }
    faults.extend(path.each_invalid(name, subdomain_faults(&name.to_lowercase())));
    faults
}

/// Where a volume's bytes are stays for ever.
pub fn volume_update(new: &PersistentVolume, old: &PersistentVolume) -> Faults {
    let mut faults = volume(new);
    let nothing = PersistentVolumeSpec::default();
    let of = |volume: &PersistentVolume| volume.spec.clone().unwrap_or(nothing.clone());
    let (before, after) = (of(old), of(new));
    let path = FieldPath::root("spec");
    let as_map = |spec: &PersistentVolumeSpec| -> serde_json::Map<String, Value> {
        sources(spec).into_iter().collect()
    };
    let (was, is) = (as_map(&before), as_map(&after));
    if was != is {
        faults.push(path.child("persistentvolumesource").forbidden(format!(
            "spec.persistentvolumesource is immutable after creation\n{}",
            difference::changed_lines(&was, &is, "spec")
        )));
    }
    // Kubernetes names both fields without their `spec`, so that nobody finds the place.
    if before.volume_mode != after.volume_mode {
        let value = shown(&after.volume_mode);
        faults.push(path.child("volumeMode").invalid(value, "field is immutable"));
    }
    if before.node_affinity.is_some() && before.node_affinity != after.node_affinity {
        let value = shown(&after.node_affinity);
        faults.push(path.child("nodeAffinity").invalid(value, "field is immutable"));
    }
    faults
}

pub fn class(class: &StorageClass) -> Faults {
    let mut faults = metadata::faults(&class.metadata, Kind::StorageClass);
    let path = FieldPath::root("provisioner");
    if class.provisioner.is_empty() {
        faults.push(path.required(""));
    } else {
        let sentences = qualified_name_faults(&class.provisioner.to_lowercase());
        faults.extend(path.each_invalid(&class.provisioner, sentences));
    }
    if let Some(policy) = class.reclaim_policy.as_deref()
        && !matches!(policy, "" | "Delete" | "Retain")
    {
        let path = FieldPath::root("reclaimPolicy");
        faults.push(path.not_supported(policy, &["Delete", "Retain"]));
    }
    let mode = class.volume_binding_mode.as_deref().unwrap_or_default();
    let modes = ["Immediate", "WaitForFirstConsumer"];
    faults.extend(one_of(mode, &modes, &FieldPath::root("volumeBindingMode")));
    let list = FieldPath::root("allowedTopologies");
    for (index, term) in class.allowed_topologies.iter().flatten().enumerate() {
        let path = list.index(index);
        let list = path.child("matchLabelExpressions");
        for (index, expression) in term.match_label_expressions.iter().flatten().enumerate() {
            let path = list.index(index);
            let key = path.child("key");
            faults
                .extend(key.each_invalid(&expression.key, qualified_name_faults(&expression.key)));
            if expression.values.is_empty() {
                faults.push(path.child("values").required(""));
            }
        }
    }
    faults
}

pub fn class_update(new: &StorageClass, old: &StorageClass) -> Faults {
    let mut faults = class(new);
    for (field, same) in [
        ("parameters", new.parameters == old.parameters),
        ("provisioner", new.provisioner == old.provisioner),
        ("reclaimPolicy", new.reclaim_policy == old.reclaim_policy),
    ] {
        if !same {
            let path = FieldPath::root(field);
            faults.push(path.forbidden(format!("updates to {field} are forbidden.")));
        }
    }
    if new.volume_binding_mode != old.volume_binding_mode {
        let value = shown(&new.volume_binding_mode);
        faults.push(FieldPath::root("volumeBindingMode").invalid(value, "field is immutable"));
    }
    faults
}

fn access_modes(modes: &[String], path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let is_known = |mode: &&String| ACCESS_MODES.contains(&mode.as_str());
    for mode in modes.iter().filter(|mode| !is_known(mode)) {
        faults.push(path.not_supported(mode, &ACCESS_MODES));
    }
    let known = || modes.iter().filter(is_known);
    if known().any(|mode| mode == READ_WRITE_ONCE_POD)
        && known().any(|mode| mode != READ_WRITE_ONCE_POD)
    {
        faults.push(path.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
    faults
}

fn volume_mode(mode: &str, path: &FieldPath<'_>) -> Option<Fault> {
    (!VOLUME_MODES.contains(&mode)).then(|| path.not_supported(mode, &VOLUME_MODES))
}

fn class_name(name: &str, path: &FieldPath<'_>) -> Faults {
    if name.is_empty() { Faults::new() } else { path.each_invalid(name, subdomain_faults(name)) }
}

fn positive(amount: &Text, path: &FieldPath<'_>) -> Option<Fault> {
    let parsed = Quantity::parse(&amount.0).ok()?;
    (parsed <= Quantity::ZERO).then(|| path.invalid(quoted(&amount.0), "must be greater than zero"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::admission::Admit;

    fn told(faults: Faults) -> Vec<String> {
        let cause = |fault: &Fault| {
            let cause = fault.to_cause();
            let message = cause.message.unwrap_or_default();
            format!("{}: {}", cause.field.unwrap_or_default(), message.replace('\n', " "))
        };
        faults.iter().map(cause).collect()
    }

    fn claim_of(change: Value) -> PersistentVolumeClaim {
        let mut object = json!({"metadata": {"name": "c", "namespace": "a"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        json_patch::merge(&mut object, &change);
        let mut claim: PersistentVolumeClaim = serde_json::from_value(object).expect("decodes");
        claim.fill_defaults();
        claim
    }

    fn volume_of(change: Value) -> PersistentVolume {
        let mut object = json!({"metadata": {"name": "v"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "local": {"path": "/srv/v"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In",
                    "values": ["n1"]}]}]}}}});
        json_patch::merge(&mut object, &change);
        let mut volume: PersistentVolume = serde_json::from_value(object).expect("decodes");
        volume.fill_defaults();
        volume
    }

    fn class_of(change: Value) -> StorageClass {
        let mut object =
            json!({"metadata": {"name": "s"}, "provisioner": "ballast.dev/local-path"});
        json_patch::merge(&mut object, &change);
        let mut class: StorageClass = serde_json::from_value(object).expect("decodes");
        class.fill_defaults();
        class
    }

    #[test]
    fn a_claim_says_how_much_and_how() {
        assert_eq!(told(claim(&claim_of(json!({})))), Vec::<String>::new());
        let bad = json!({"spec": {"accessModes": ["ReadWriteOncePod", "ReadWriteMany", "Mine"],
            "resources": {"requests": {"storage": "0"}}, "storageClassName": "A_b",
            "volumeMode": "Tape", "selector": {"matchLabels": {"a b": "c"}}}});
        let fields: Vec<String> =
            claim(&claim_of(bad)).into_iter().map(|fault| fault.field).collect();
        assert_eq!(
            fields,
            [
                "spec.selector.matchLabels",
                "spec.accessModes",
                "spec.accessModes",
                "spec.resources[storage]",
                "spec.storageClassName",
                "spec.volumeMode",
            ]
        );
        let nothing = claim_of(json!({"spec": {"accessModes": null, "resources": null}}));
        assert_eq!(
            told(claim(&nothing)),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ]
        );
    }

    #[test]
    fn what_a_claim_asks_for_stays() {
        let old = claim_of(json!({}));
        let with = |spec: Value| claim_of(json!({"spec": spec}));
        let named = with(json!({"volumeName": "v", "storageClassName": "s"}));
        assert_eq!(told(claim_update(&named, &old)), Vec::<String>::new());
        let same = with(json!({"resources": {"requests": {"storage": "1073741824"}}}));
        assert_eq!(told(claim_update(&same, &old)), Vec::<String>::new());
        assert_eq!(
            told(claim_update(&with(json!({"volumeName": "w", "storageClassName": "s"})), &named)),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims -spec.volumeName: \"v\" +spec.volumeName: \"w\""
            ]
        );
        let more = with(json!({"resources": {"requests": {"storage": "2Gi"}}}));
        assert_eq!(claim_update(&more, &old)[0].field, "spec");
        let bound = claim_of(json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}));
        assert_eq!(
            told(claim_update(&more, &bound)),
            [
                "spec.resources.requests.storage: Forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
            ]
        );
        let less = with(json!({"resources": {"requests": {"storage": "1Mi"}}}));
        assert_eq!(
            told(claim_update(&less, &bound)),
            [
                "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
            ]
        );
    }

    #[test]
    fn a_volume_has_one_source_and_a_node() {
        assert_eq!(told(volume(&volume_of(json!({})))), Vec::<String>::new());
        let bad = json!({"spec": {"accessModes": [], "capacity": {"cpu": "-1"},
            "persistentVolumeReclaimPolicy": "Burn", "nodeAffinity": null,
            "hostPath": {"path": "/a/../b"}, "local": {"path": ""}}});
        assert_eq!(
            told(volume(&volume_of(bad))),
            [
                "spec.accessModes: Required value",
                "spec.capacity: Unsupported value: {\"cpu\":\"-1\",\"storage\":\"1Gi\"}: supported values: \"storage\"",
                "spec.capacity[cpu]: Invalid value: \"-1\": must be a valid resource quantity",
                "spec.capacity[cpu]: Invalid value: \"-1\": must be greater than zero",
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Burn\": supported values: \"Delete\", \"Recycle\", \"Retain\"",
                "spec.local: Forbidden: may not specify more than 1 volume type",
                "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.local.path: Required value",
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ]
        );
        let none = volume_of(json!({"spec": {"local": null}}));
        assert_eq!(told(volume(&none)), ["spec: Required value: must specify a volume type"]);
        let csi = volume_of(
            json!({"spec": {"local": null, "csi": {"driver": "a b", "volumeHandle": ""}}}),
        );
        let fields: Vec<String> = volume(&csi).into_iter().map(|fault| fault.field).collect();
        assert_eq!(fields, ["spec.csi.driver", "spec.csi.volumeHandle"]);
    }

    #[test]
    fn the_bytes_of_a_volume_stay_where_they_are() {
        let old = volume_of(json!({}));
        let moved = volume_of(json!({"spec": {"local": {"path": "/srv/w"}}}));
        assert_eq!(
            told(volume_update(&moved, &old)),
            [
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation -spec.local.path: \"/srv/v\" +spec.local.path: \"/srv/w\""
            ]
        );
        let mut elsewhere = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]}}}});
        assert_eq!(volume_update(&volume_of(elsewhere.take()), &old)[0].field, "spec.nodeAffinity");
        let held = volume_of(json!({"spec": {"claimRef": {"namespace": "a", "name": "c"},
            "persistentVolumeReclaimPolicy": "Retain", "capacity": {"storage": "2Gi"}}}));
        assert_eq!(told(volume_update(&held, &old)), Vec::<String>::new());
    }

    #[test]
    fn a_class_says_who_provisions_for_ever() {
        let old = class_of(json!({}));
        assert_eq!(told(class(&old)), Vec::<String>::new());
        let bad = json!({"provisioner": "", "reclaimPolicy": "Recycle", "volumeBindingMode": "Later",
            "allowedTopologies": [{"matchLabelExpressions": [{"key": "a b", "values": []}]}]});
        let fields: Vec<String> =
            class(&class_of(bad)).into_iter().map(|fault| fault.field).collect();
        assert_eq!(
            fields,
            [
                "provisioner",
                "reclaimPolicy",
                "volumeBindingMode",
                "allowedTopologies[0].matchLabelExpressions[0].key",
                "allowedTopologies[0].matchLabelExpressions[0].values",
            ]
        );
        let other = json!({"provisioner": "ballast.dev/docker-volume", "reclaimPolicy": "Retain",
            "parameters": {"a": "b"}, "volumeBindingMode": "WaitForFirstConsumer"});
        assert_eq!(
            told(class_update(&class_of(other), &old)),
            [
                "parameters: Forbidden: updates to parameters are forbidden.",
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
                "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
            ]
        );
    }
}
