//! Pure: the way over from `kubectl apply`, which keeps what it applied in an annotation, to
//! server-side apply by the same tool (`lastAppliedManager` and `lastAppliedUpdater`).

use serde_json::Value;

use super::field_set::FieldSet;
use super::structured::Structure;

/// The name that kubectl applies by. Who applies by another has not written the annotation.
const KUBECTL: &str = "kubectl";
const POINTER: &str = "/metadata/annotations";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The fields that kubectl applied on the client's side and that are still so: it may take them over
/// without a conflict, from whichever of its names they belong to.
pub fn taken_over(structure: Structure, manager: &str, live: &Value) -> FieldSet {
    let text = live.pointer(POINTER).and_then(|all| all.get(ANNOTATION)).and_then(Value::as_str);
    let (KUBECTL, Some(text)) = (manager, text) else { return FieldSet::default() };
    let Ok(applied) = serde_json::from_str::<Value>(text) else { return FieldSet::default() };
    if !applied.is_object() || applied.get("apiVersion") != live.get("apiVersion") {
        return FieldSet::default();
    }
    let told = structure.compare(&applied, live);
    let said = structure.fields_of(&applied);
    said.difference(&told.modified).difference(&told.added).difference(&told.removed)
}

/// Where the object has the annotation, kubectl's apply brings it up to date, so that the client-side
/// apply that may follow begins with the truth.
pub fn renew(manager: &str, object: &mut Value, config: &Value) {
    let annotations = object.pointer_mut(POINTER).and_then(Value::as_object_mut);
    let held = annotations.and_then(|all| all.get_mut(ANNOTATION));
    let (KUBECTL, Some(held)) = (manager, held) else { return };
    if held.as_str().unwrap_or_default().is_empty() {
        return;
    }
    let mut applied = config.clone();
    if let Some(all) = applied.pointer_mut(POINTER).and_then(Value::as_object_mut) {
        all.remove(ANNOTATION);
    }
    *held = Value::String(format!("{applied}\n"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::field_set::path_text;
    use super::*;
    use crate::object::Kind;

    const MAP: Structure = Structure { kind: Kind::ConfigMap };

    fn live() -> Value {
        let applied = json!({"apiVersion": "v1", "data": {"a": "1", "b": "2"}}).to_string();
        json!({"apiVersion": "v1", "metadata": {"annotations": {ANNOTATION: applied}},
            "data": {"a": "1", "b": "changed since"}})
    }

    #[test]
    fn what_is_still_as_applied_is_taken_over_by_kubectl_alone() {
        let mine = taken_over(MAP, "kubectl", &live());
        let paths: Vec<String> = mine.paths().iter().map(|path| path_text(path)).collect();
        assert_eq!(paths, [".apiVersion", ".data.a"]);
        assert!(taken_over(MAP, "t1", &live()).is_empty());
        assert!(taken_over(MAP, "kubectl", &json!({"data": {"a": "1"}})).is_empty());
    }

    #[test]
    fn the_annotation_follows_kubectl_alone() {
        let config = json!({"apiVersion": "v1", "data": {"a": "3"}});
        let mut object = live();
        renew("t1", &mut object, &config);
        assert_eq!(object, live());
        renew("kubectl", &mut object, &config);
        assert_eq!(
            object["metadata"]["annotations"][ANNOTATION],
            json!("{\"apiVersion\":\"v1\",\"data\":{\"a\":\"3\"}}\n")
        );
        let mut without = json!({"metadata": {}});
        renew("kubectl", &mut without, &config);
        assert_eq!(without, json!({"metadata": {}}));
    }
}
