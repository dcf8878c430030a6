//! Pure: what is wrong with a pod's words about itself: `fieldRef` and `resourceFieldRef`, in
//! variables and in files.

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, ObjectFieldSelector, ResourceFieldSelector,
};

use super::admit::{Fault, Faults};
use super::field_path::{FieldPath, quoted};
use super::metadata_validation::qualified_name_faults;
use super::volume_validation::{mode_fault, reserved_path};
use crate::object::quantity::Quantity;

/// What a variable may tell, beside one label or annotation.
pub const VARIABLES: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What a file may tell, beside one label or annotation.
const FILES: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const PARTS_OF_CPU: [&str; 2] = ["1m", "1"];
const UNITS: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub fn field_ref_faults(
    reference: &ObjectFieldSelector,
    supported: &[&str],
    path: &FieldPath<'_>,
) -> Faults {
    let (field, path) = (reference.field_path.as_str(), path.child("fieldPath"));
    if field.is_empty() {
        return vec![path.required("")];
    }
    if supported.contains(&field) {
        return Faults::new();
    }
    for map in ["metadata.labels", "metadata.annotations"] {
        let key = field.strip_prefix(map).and_then(|rest| rest.strip_prefix("['"));
        if let Some(key) = key.and_then(|rest| rest.strip_suffix("']")) {
            return path.each_invalid(field, qualified_name_faults(&key.to_lowercase()));
        }
    }
    if VARIABLES.contains(&field) || FILES.contains(&field) {
        return vec![path.not_supported(field, supported)];
    }
    let detail = format!("error converting fieldPath: field label not supported: {field}");
    vec![path.invalid(quoted(field), detail)]
}

/// A file is no container's own: it must say whose resources it tells.
pub fn resource_ref_faults(
    reference: &ResourceFieldSelector,
    of_file: bool,
    path: &FieldPath<'_>,
) -> Faults {
    let mut faults = Faults::new();
    let resource = reference.resource.as_str();
    let huge = ["limits.hugepages-", "requests.hugepages-"];
    let known = RESOURCES.contains(&resource) || huge.iter().any(|own| resource.starts_with(own));
    if of_file && reference.container_name.as_deref().unwrap_or_default().is_empty() {
        faults.push(path.child("containerName").required(""));
    } else if resource.is_empty() {
        faults.push(path.child("resource").required(""));
    } else if !known {
        faults.push(path.child("resource").not_supported(resource, &RESOURCES));
    }
    faults.extend(divisor_fault(reference, path));
    faults
}

fn divisor_fault(reference: &ResourceFieldSelector, path: &FieldPath<'_>) -> Option<Fault> {
    let divisor = &reference.divisor.as_ref()?.0;
    if Quantity::parse(divisor).is_ok_and(Quantity::is_zero) {
        return None;
    }
    let (_, name) = reference.resource.split_once('.')?;
    let (fine, of): (&[&str], &str) = match name {
        "cpu" if PARTS_OF_CPU.contains(&divisor.as_str()) => return None,
        "cpu" => (&PARTS_OF_CPU, "cpu"),
        "memory" | "ephemeral-storage" if UNITS.contains(&divisor.as_str()) => return None,
        "memory" => (&UNITS, "memory"),
        "ephemeral-storage" => (&UNITS, "local ephemeral storage"),
        _ => return None,
    };
    // The reference server joins two words by "and", and more by commas.
    let list = fine.join(if fine.len() == 2 { " and " } else { ", " });
    let detail = format!("only divisor's values {list} are supported with the {of} resource");
    Some(path.child("divisor").invalid(quoted(&reference.resource), detail))
}

/// The files of a downwardAPI volume, or of such a part of a projected one.
pub fn file_faults(files: Option<&[DownwardAPIVolumeFile]>, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let list = path.child("items");
    for (index, file) in files.unwrap_or_default().iter().enumerate() {
        let path = list.index(index);
        faults.extend(reserved_path(&file.path, &path.child("path")));
        match (&file.field_ref, &file.resource_field_ref) {
            (Some(field), resource) => {
                faults.extend(field_ref_faults(field, &FILES, &path.child("fieldRef")));
                if resource.is_some() {
                    let detail =
                        "fieldRef and resourceFieldRef can not be specified simultaneously";
                    faults.push(path.invalid(quoted("resource"), detail));
                }
            }
            (None, Some(resource)) => {
                let path = path.child("resourceFieldRef");
                faults.extend(resource_ref_faults(resource, true, &path));
            }
            (None, None) => {
                faults.push(path.required("one of fieldRef and resourceFieldRef is required"));
            }
        }
        faults.extend(mode_fault(file.mode, &path.child("mode")));
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of_resource(reference: Value, of_file: bool) -> Vec<String> {
        let reference = serde_json::from_value(reference).unwrap();
        let faults = resource_ref_faults(&reference, of_file, &FieldPath::root("r"));
        faults.into_iter().map(|fault| format!("{} {}", fault.field, fault.detail)).collect()
    }

    #[test]
    fn a_divisor_is_one_of_those_that_kubernetes_knows() {
        let told = |resource: &str, divisor: &str| {
            of_resource(json!({"resource": resource, "divisor": divisor}), false)
        };
        for (resource, divisor) in [
            ("limits.cpu", "0"),
            ("limits.cpu", "1m"),
            ("requests.memory", "1Mi"),
            ("requests.ephemeral-storage", "1G"),
        ] {
            assert!(told(resource, divisor).is_empty(), "{resource} {divisor}");
        }
        assert_eq!(
            told("limits.cpu", "2"),
            ["r.divisor only divisor's values 1m and 1 are supported with the cpu resource"]
        );
        assert_eq!(told("limits.memory", "1m").len(), 1);
        assert_eq!(told("limits.disk", "1").len(), 1);
        assert_eq!(of_resource(json!({"resource": "limits.cpu"}), true), ["r.containerName "]);
    }

    #[test]
    fn a_file_tells_one_thing_that_does_not_change_with_the_node() {
        let of_file = |file: Value| -> Vec<String> {
            let files: Vec<DownwardAPIVolumeFile> =
                serde_json::from_value(json!([file])).expect("a file");
            let faults = file_faults(Some(&files), &FieldPath::root("v"));
            faults.into_iter().map(|fault| fault.field).collect()
        };
        let field = |path: &str| json!({"path": "f", "fieldRef": {"fieldPath": path}});
        for fine in ["metadata.labels", "metadata.annotations['a/b']", "metadata.uid"] {
            assert!(of_file(field(fine)).is_empty(), "{fine}");
        }
        for bad in ["status.podIP", "spec.nodeName", "metadata.labels['a b']", "none", ""] {
            assert_eq!(of_file(field(bad)), ["v.items[0].fieldRef.fieldPath"], "{bad}");
        }
        assert_eq!(of_file(json!({"path": "f"})), ["v.items[0]"]);
        assert_eq!(
            of_file(json!({"path": "../f", "mode": 512,
            "fieldRef": {"fieldPath": "metadata.name"}})),
            ["v.items[0].path", "v.items[0].mode"]
        );
    }
}
