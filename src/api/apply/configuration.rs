//! Pure: whether what somebody applies is a configuration of the kind, and what of it this request
//! is about.

use serde_json::{Map, Value};

use super::structured::{Structure, join};
use crate::api::access::Part;
use crate::api::admission::merge_keys::ListType;
use crate::object::decode::{DecodeFaultKind, decode};
use crate::object::{ApiError, Object, Reason};

/// # Errors
/// BadRequest for another kind or version and for managed fields in it; for a field that the kind
/// does not have, a wrong type or an element that cannot be told from others the reference server's
/// 500.
pub fn check<K: Object>(config: &Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    let row = K::OBJECT_KIND.row();
    let word = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (word("apiVersion"), word("kind"));
    let qualified = |version: &str, kind: &str| {
        let slash = if version.contains('/') { "" } else { "/" };
        format!("{slash}{version}, Kind={kind}")
    };
    if version != K::OBJECT_KIND.api_version() || kind != row.name {
        return Err(ApiError::bad_request(format!(
            "invalid object type: {}",
            qualified(version, kind)
        )));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|entries| !entries.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let mut faults = undeclared::<K>(config);
    elements(Structure { kind: K::OBJECT_KIND }, config, "", "", &mut faults);
    let told = match faults.as_slice() {
        [] => return Ok(()),
        [only] => only.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let object = format!("{namespace}/{name}; {}", qualified(version, kind));
    let message = format!("failed to create typed patch object ({object}): {told}");
    Err(ApiError::new(Reason::Unknown, message))
}

/// What the kind does not have, at its place: `.spec.containers[name="web"].imagee: field not declared in schema`.
fn undeclared<K: Object>(config: &Value) -> Vec<String> {
    let structure = Structure { kind: K::OBJECT_KIND };
    let place = |path: &str| place(structure, config, path);
    let unknown = |path: &String| format!("{}: field not declared in schema", place(path));
    match decode::<K>(config) {
        Ok(decoded) => decoded.unknown.iter().map(unknown).collect(),
        Err(faults) => faults
            .iter()
            .filter_map(|fault| match &fault.what {
                DecodeFaultKind::UnknownField => Some(unknown(&fault.path)),
                // A configuration is a part of an object: what it leaves out is not missing.
                DecodeFaultKind::WrongType(sentence) if sentence.starts_with("missing field") => {
                    None
                }
                DecodeFaultKind::WrongType(sentence) => {
                    Some(format!("{}: {sentence}", place(&fault.path)))
                }
            })
            .collect(),
    }
}

/// `spec.containers[0].image` as apply names it, elements by their keys.
fn place(structure: Structure, config: &Value, path: &str) -> String {
    let (mut out, mut names, mut at) = (String::new(), String::new(), Some(config));
    for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
        let index = part.strip_suffix(']').and_then(|number| number.parse::<usize>().ok());
        match index {
            Some(index) => {
                at = at.and_then(|list| list.get(index));
                match at.and_then(|item| structure.element(&names, item).ok()) {
                    Some(element) => out.push_str(&element.to_string()),
                    None => out.push_str(&format!("[{index}]")),
                }
            }
            None => {
                at = at.and_then(|map| map.get(part));
                names = join(&names, part);
                out.push_str(&format!(".{part}"));
            }
        }
    }
    out
}

/// Elements without their keys, and keys that stand twice.
fn elements(
    structure: Structure,
    value: &Value,
    path: &str,
    place: &str,
    faults: &mut Vec<String>,
) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                elements(structure, value, &join(path, name), &format!("{place}.{name}"), faults);
            }
        }
        Value::Array(items) if structure.list(path) != ListType::Atomic => {
            let mut seen = std::collections::BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let element = match structure.element(path, item) {
                    Ok(element) => element,
                    Err(problem) => {
                        faults.push(format!("{place}: element {index}: {problem}"));
                        return;
                    }
                };
                let inside = format!("{place}{element}");
                if !seen.insert(element.clone()) {
                    faults.push(format!("{place}: duplicate entries for key {element}"));
                }
                elements(structure, item, path, &inside, faults);
            }
        }
        _ => {}
    }
}

/// The part of a configuration that a request through this part of the object is about: the status
/// is applied by itself, as it is written by itself.
pub fn about<K: Object>(config: &Value, part: Part) -> Value {
    let Value::Object(fields) = config else { return config.clone() };
    if part == Part::Status {
        let mut status = Map::new();
        for name in ["apiVersion", "kind", "status"] {
            status.extend(fields.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        let meta = fields.get("metadata").and_then(Value::as_object);
        let identity = ["name", "namespace", "uid", "resourceVersion"];
        let kept = meta.into_iter().flatten().filter(|(name, _)| identity.contains(&name.as_str()));
        let kept: Map<String, Value> = kept.map(|(k, v)| (k.clone(), v.clone())).collect();
        status.insert("metadata".to_owned(), Value::Object(kept));
        return Value::Object(status);
    }
    let mut rest = fields.clone();
    if K::OBJECT_KIND.row().has_status {
        rest.remove("status");
    }
    Value::Object(rest)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use serde_json::json;

    use super::*;

    fn message<K: Object>(config: Value) -> (u16, String) {
        let error = check::<K>(&config, "default", "g").unwrap_err();
        (error.reason.code(), error.message)
    }

    #[test]
    fn what_is_no_configuration_is_told() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "g"}});
        assert_eq!(check::<ConfigMap>(&map, "default", "g"), Ok(()));
        let other = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
        assert_eq!(
            message::<ConfigMap>(other),
            (400, "invalid object type: apps/v1, Kind=Deployment".to_owned())
        );
        assert_eq!(message::<ConfigMap>(json!({})).1, "invalid object type: /, Kind=");
        let mut managed = map.clone();
        managed["metadata"]["managedFields"] = json!([]);
        assert_eq!(message::<ConfigMap>(managed).1, "metadata.managedFields must be nil");
        let mut unknown = map;
        unknown["dta"] = json!({});
        assert_eq!(
            message::<ConfigMap>(unknown),
            (500, "failed to create typed patch object (default/g; /v1, Kind=ConfigMap): .dta: field not declared in schema".to_owned())
        );
    }

    #[test]
    fn elements_have_keys_and_stand_once() {
        let pod = |containers: Value| {
            let pod =
                json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers}});
            let text = message::<Pod>(pod).1;
            text.split("Kind=Pod): ").nth(1).expect("a fault").to_owned()
        };
        assert_eq!(
            pod(json!([{"name": "a", "imagee": "x"}])),
            ".spec.containers[name=\"a\"].imagee: field not declared in schema"
        );
        assert_eq!(
            pod(json!([{"image": "x"}])),
            ".spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)"
        );
        assert_eq!(
            pod(json!([{"name": "a"}, {"name": "a"}])),
            ".spec.containers: duplicate entries for key [name=\"a\"]"
        );
    }

    #[test]
    fn a_status_is_applied_by_itself() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p",
            "labels": {"a": "1"}}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        assert_eq!(
            about::<Pod>(&pod, Part::Status),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "status": {"phase": "Running"}})
        );
        assert_eq!(about::<Pod>(&pod, Part::Whole).get("status"), None);
    }
}
