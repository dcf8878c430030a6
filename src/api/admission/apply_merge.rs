//! Pure: how a manifest of a commit meets the stored object (`SetWrite::Apply`).
//!
//! Git is the truth for all that a manifest may say: spec and data are replaced, so that what leaves
//! the manifest leaves the object. What the cluster adds (status, addresses, the node of a pod,
//! finalizers, owner references, labels and annotations that no commit set) is kept.

use serde_json::{Map, Value};

use crate::object::source::SOURCE_ANNOTATION;
use crate::object::{ApiError, Key, Kind};

/// What of an earlier commit the object still carries, and who applies now.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    /// Written as the annotation `ballast.dev/source`.
    pub source: &'a str,
    /// Keys that an earlier commit set.
    pub previous_labels: &'a [String],
    pub previous_annotations: &'a [String],
}

/// Metadata that no manifest decides.
const NOT_FROM_GIT: [&str; 9] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
    "generateName",
];

/// The object as it is to be created (`stored` is `None`) or updated, ready to be decoded and
/// admitted. A Service's addresses are carried over by the admission of the update.
pub fn merged(
    kind: Kind,
    stored: Option<&Value>,
    manifest: &Value,
    applied: &Applied<'_>,
) -> Value {
    let nothing = Map::new();
    let manifest = manifest.as_object().unwrap_or(&nothing);
    let meta = manifest.get("metadata").and_then(Value::as_object).unwrap_or(&nothing);
    let mut object: Map<String, Value> =
        manifest.iter().filter(|(key, _)| *key != "status").map(owned).collect();
    let Some(stored) = stored.and_then(Value::as_object) else {
        let mut meta = meta.clone();
        meta.retain(|key, _| !NOT_FROM_GIT.contains(&key.as_str()));
        name_source(&mut meta, applied.source);
        object.insert("metadata".to_owned(), Value::Object(meta));
        return Value::Object(object);
    };
    let mut kept = stored.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for (field, previous) in
        [("labels", applied.previous_labels), ("annotations", applied.previous_annotations)]
    {
        three_way(&mut kept, meta, field, previous);
    }
    name_source(&mut kept, applied.source);
    object.insert("metadata".to_owned(), Value::Object(kept));
    if let Some(status) = stored.get("status") {
        object.insert("status".to_owned(), status.clone());
    }
    for field in ["apiVersion", "kind"] {
        if let Some(value) = stored.get(field) {
            object.insert(field.to_owned(), value.clone());
        }
    }
    if kind == Kind::Pod {
        keep_node(&mut object, stored);
    }
    Value::Object(object)
}

fn owned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

/// Keys of an earlier commit that this one has no more go; the manifest's are set; foreign ones stay.
fn three_way(
    kept: &mut Map<String, Value>,
    meta: &Map<String, Value>,
    field: &str,
    previous: &[String],
) {
    let nothing = Map::new();
    let wanted = meta.get(field).and_then(Value::as_object).unwrap_or(&nothing);
    let mut map = kept.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
    map.retain(|key, _| wanted.contains_key(key) || !previous.contains(key));
    map.extend(wanted.iter().map(owned));
    if map.is_empty() {
        kept.remove(field);
    } else {
        kept.insert(field.to_owned(), Value::Object(map));
    }
}

fn name_source(meta: &mut Map<String, Value>, source: &str) {
    let annotations = meta.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(SOURCE_ANNOTATION.to_owned(), Value::from(source));
    }
}

/// The scheduler's decision is the cluster's.
fn keep_node(object: &mut Map<String, Value>, stored: &Map<String, Value>) {
    let node = stored.get("spec").and_then(|spec| spec.get("nodeName"));
    if let (Some(node), Some(Value::Object(spec))) = (node, object.get_mut("spec")) {
        spec.entry("nodeName").or_insert_with(|| node.clone());
    }
}

/// The source that put the object into the store; `None` for one that no source did.
pub fn source_of(stored: &Value) -> Option<&str> {
    stored.get("metadata")?.get("annotations")?.get(SOURCE_ANNOTATION)?.as_str()
}

/// # Errors
/// A Conflict that names the other owner, unless the commit says that it takes the object over.
pub fn check_owner(
    kind: Kind,
    key: &Key,
    stored: &Value,
    source: &str,
    adopt: bool,
) -> Result<(), ApiError> {
    let owner = source_of(stored);
    if adopt || owner == Some(source) {
        return Ok(());
    }
    let whose = match owner {
        Some(other) => format!("it belongs to source {other:?}"),
        None => "it was not made by any source".to_owned(),
    };
    let what = format!("{whose}; remove it there, or let source {source:?} adopt it");
    Err(ApiError::precondition(kind, key, &what))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOBODY: [String; 0] = [];

    fn applied<'a>(labels: &'a [String], annotations: &'a [String]) -> Applied<'a> {
        Applied { source: "main", previous_labels: labels, previous_annotations: annotations }
    }

    #[test]
    fn a_new_object_is_the_manifest_with_its_source() {
        let manifest = json!({"apiVersion": "v1", "kind": "ConfigMap", "status": {"x": 1},
            "metadata": {"name": "m", "uid": "forged", "resourceVersion": "7"}, "data": {"a": "1"}});
        assert_eq!(
            merged(Kind::ConfigMap, None, &manifest, &applied(&NOBODY, &NOBODY)),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"},
                "metadata": {"name": "m", "annotations": {"ballast.dev/source": "main"}}})
        );
    }

    #[test]
    fn git_decides_what_it_says_and_the_cluster_keeps_its_own() {
        let stored = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "uid": "u", "finalizers": ["x/y"],
                "labels": {"old": "1", "foreign": "2", "both": "3"},
                "annotations": {"ballast.dev/source": "main", "note": "gone"}},
            "spec": {"nodeName": "n1", "containers": [], "hostname": "gone"}, "status": {"phase": "Running"}});
        let manifest = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"both": "4", "new": "5"}}, "spec": {"containers": []}});
        let labels = ["old".to_owned(), "both".to_owned()];
        let annotations = ["note".to_owned()];
        let object = merged(Kind::Pod, Some(&stored), &manifest, &applied(&labels, &annotations));
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "uid": "u", "finalizers": ["x/y"],
                    "labels": {"foreign": "2", "both": "4", "new": "5"},
                    "annotations": {"ballast.dev/source": "main"}},
                "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running"}})
        );
    }

    #[test]
    fn nothing_is_stolen_silently() {
        let key = Key::new("default", "m");
        let with = |annotations: Value| json!({"metadata": {"annotations": annotations}});
        let theirs = with(json!({"ballast.dev/source": "other"}));
        let check =
            |stored: &Value, adopt| check_owner(Kind::ConfigMap, &key, stored, "main", adopt);
        assert!(check(&theirs, false).unwrap_err().message.contains("\"other\""));
        assert!(check(&with(json!({})), false).is_err());
        assert!(check(&theirs, true).is_ok());
        assert!(check(&with(json!({"ballast.dev/source": "main"})), false).is_ok());
    }
}
