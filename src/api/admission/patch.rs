//! Pure: the three patches, applied to a stored object as JSON. What comes out is decoded and
//! admitted like an update.

use serde_json::{Map, Value};

use super::strategic::{self, StrategicError};
use crate::object::{ApiError, Kind, Patch, Reason};

/// `maxJSONPatchOperations` of the reference server.
const MOST_OPERATIONS: usize = 10_000;
/// Copies can double a document with every operation; an object is at most 1.5 MB
/// (`etcd`'s limit), and so is what a patch may make of it.
const LARGEST_RESULT: usize = 3 * 1024 * 1024;

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
    for operation in operations.iter() {
        let grows = matches!(operation, json_patch::PatchOperation::Copy(_));
        json_patch::patch(&mut patched, std::slice::from_ref(operation))
            .map_err(|_| unprocessable(String::new()))?;
        if grows && patched.to_string().len() > LARGEST_RESULT {
            let message = "the patched object is too large";
            return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
        }
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
    fn a_status_patch_moves_the_status_only() {
        let object = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"x": 1}});
        let patched = json!({"metadata": {"name": "b", "resourceVersion": "2"}, "spec": {}, "status": {"y": 1}});
        assert_eq!(
            keep_all_but_status(&object, &patched),
            json!({"metadata": {"name": "a", "resourceVersion": "2"}, "spec": {"x": 1}, "status": {"y": 1}})
        );
    }
}
