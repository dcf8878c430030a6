//! Pure: the three patches, applied to a stored object as JSON. What comes out is decoded and
//! admitted like an update.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails;
use serde_json::{Map, Value};

use super::field_path::{FieldPath, quoted};
use super::strategic::{self, StrategicError};
use crate::object::{ApiError, Kind, Patch, Reason};

/// `maxJSONPatchOperations` of the reference server.
const MOST_OPERATIONS: usize = 10_000;
/// Copies can double a document with every operation: this much in all is copied, in bytes of JSON,
/// twice what an object may have (`etcd`'s limit of 1.5 MB).
const LARGEST_COPIES: usize = 3 * 1024 * 1024;

/// The patched object. Labels and other values that a merge sets to null are gone.
///
/// # Errors
/// BadRequest for what is no patch, Invalid for a JSON patch that does not fit the object (a `test`
/// that fails among them), UnsupportedMediaType for a strategic merge on our own kinds.
pub fn apply(kind: Kind, object: &Value, patch: &Patch) -> Result<Value, ApiError> {
    match patch {
        Patch::Merge(patch) => {
            let Value::Object(_) = patch else {
                return Err(ApiError::bad_request(
                    "error decoding patch: a merge patch is a JSON object",
                ));
            };
            let mut patched = object.clone();
            json_patch::merge(&mut patched, patch);
            Ok(patched)
        }
        Patch::Json(patch) => json(object, patch),
        Patch::Strategic(patch) => match kind {
            Kind::Source | Kind::Inventory | Kind::Drift => Err(ApiError::new(
                Reason::UnsupportedMediaType,
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json",
            )),
            _ => strategic::merge(kind, object, patch).map_err(|error| match error {
                StrategicError::ListOfLists | StrategicError::NoMergeKey { .. } => {
                    unprocessable(error.to_string())
                }
                other => ApiError::bad_request(other.to_string()),
            }),
        },
    }
}

/// The refusal of a patch that names fields twice or fields which the kind does not have, under
/// `fieldValidation=Strict`.
pub fn too_strict(patched: &Value, patch: &Patch, told: &[String]) -> ApiError {
    let value = match patch {
        Patch::Strategic(patch) => go_text(patch),
        Patch::Merge(_) | Patch::Json(_) => patched.to_string(),
    };
    let sentence = format!("strict decoding error: {}", told.join(", "));
    let cause = FieldPath::root("patch").invalid(quoted(&value), sentence).to_cause();
    let message =
        format!(" \"\" is invalid: patch: {}", cause.message.as_deref().unwrap_or_default());
    let details = StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() };
    ApiError { details: Some(Box::new(details)), ..ApiError::new(Reason::Invalid, message) }
}

/// As Go prints a map: `map[data:map[a:1]]`.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" "))
        }
        Value::Object(fields) => {
            let pair = |(name, value): (&String, &Value)| format!("{name}:{}", go_text(value));
            format!("map[{}]", fields.iter().map(pair).collect::<Vec<_>>().join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A status subresource's patch changes the status only, whatever it says beside.
pub fn keep_all_but_status(object: &Value, patched: &Value) -> Value {
    let mut kept = object.clone();
    if let (Value::Object(kept), Value::Object(patched)) = (&mut kept, patched) {
        match patched.get("status") {
            Some(status) => kept.insert("status".to_owned(), status.clone()),
            None => kept.remove("status"),
        };
        for precondition in ["resourceVersion", "uid"] {
            let said = patched.get("metadata").and_then(|meta| meta.get(precondition));
            let meta = kept.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
            if let (Some(said), Some(meta)) = (said, meta.as_object_mut()) {
                meta.insert(precondition.to_owned(), said.clone());
            }
        }
    }
    kept
}

fn json(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if operations.len() > MOST_OPERATIONS {
        let message = format!(
            "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
            operations.len()
        );
        return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
    }
    let mut patched = object.clone();
    let mut copied = 0;
    for operation in operations.iter() {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            // Of what is copied, not of the whole: ten thousand copies of nothing cost nothing.
            copied +=
                patched.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > LARGEST_COPIES {
                let message = "the patched object is too large";
                return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
            }
        }
        // Without the crate's way back, which panics where it fails: this is a copy already.
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|_| unprocessable(String::new()))?;
    }
    Ok(patched)
}

/// The reference server says no more than this about a JSON patch, and the same before a strategic
/// merge's own sentence.
fn unprocessable(detail: String) -> ApiError {
    let mut message = "the server rejected our request due to an error in our request".to_owned();
    if !detail.is_empty() {
        message = format!("{message}: {detail}");
    }
    let details = Some(Box::default());
    ApiError { details, ..ApiError::new(Reason::Invalid, message) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map() -> Value {
        json!({"data": {"a": "1", "b": "3"}})
    }

    #[test]
    fn the_three_patches() {
        let merge = Patch::Merge(json!({"data": {"a": null, "c": "4"}}));
        assert_eq!(
            apply(Kind::ConfigMap, &map(), &merge).unwrap(),
            json!({"data": {"b": "3", "c": "4"}})
        );
        let json = Patch::Json(json!([{"op": "test", "path": "/data/b", "value": "3"},
            {"op": "add", "path": "/data/c", "value": "4"}]));
        assert_eq!(apply(Kind::ConfigMap, &map(), &json).unwrap()["data"]["c"], "4");
        let strategic = Patch::Strategic(json!({"data": {"a": null}}));
        assert_eq!(
            apply(Kind::ConfigMap, &map(), &strategic).unwrap(),
            json!({"data": {"b": "3"}})
        );
        assert_eq!(apply(Kind::Drift, &map(), &strategic).unwrap_err().reason.code(), 415);
    }

    #[test]
    fn a_patch_that_does_not_fit_is_refused_whole() {
        let test = Patch::Json(json!([{"op": "test", "path": "/data/b", "value": "x"}]));
        let error = apply(Kind::ConfigMap, &map(), &test).unwrap_err();
        assert_eq!(
            (error.reason.code(), error.message.as_str()),
            (422, "the server rejected our request due to an error in our request")
        );
        assert_eq!(
            apply(Kind::ConfigMap, &map(), &Patch::Json(json!({}))).unwrap_err().reason.code(),
            400
        );
        assert_eq!(
            apply(Kind::ConfigMap, &map(), &Patch::Merge(json!([]))).unwrap_err().reason.code(),
            400
        );
        let doubling: Vec<Value> = (0..64)
            .map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/x{n}")}))
            .collect();
        let error =
            apply(Kind::ConfigMap, &map(), &Patch::Json(Value::Array(doubling))).unwrap_err();
        assert_eq!(error.reason.code(), 413);
    }

    #[test]
    fn a_strict_refusal_quotes_as_the_reference_does() {
        let told = ["unknown field \"dta\"".to_owned()];
        let patch = json!({"dta": {"a": [1, "x", null]}});
        let error = too_strict(&json!({"dta": {}}), &Patch::Merge(patch.clone()), &told);
        assert_eq!(
            error.message,
            " \"\" is invalid: patch: Invalid value: \"{\\\"dta\\\":{}}\": strict decoding error: unknown field \"dta\""
        );
        let error = too_strict(&json!({}), &Patch::Strategic(patch), &told);
        assert!(error.message.contains("Invalid value: \"map[dta:map[a:[1 x <nil>]]]\": strict"));
    }

    #[test]
    fn a_status_patch_moves_the_status_only() {
        let object = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"x": 1}});
        let patched = json!({"metadata": {"name": "b", "resourceVersion": "2"}, "spec": {}, "status": {"y": 1}});
        assert_eq!(
            keep_all_but_status(&object, &patched),
            json!({"metadata": {"name": "a", "resourceVersion": "2"}, "spec": {"x": 1}, "status": {"y": 1}})
        );
    }
}
