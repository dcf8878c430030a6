//! A request's body: read whole within its bounds, and taken for what its content type says; and the
//! manner of a write, which stands beside it in the query.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use crate::api::admission::FieldValidation;
use crate::api::document_text::{self, Document};
use crate::api::large_bodies::Turn;
use crate::api::query::{self, Query};
use crate::api::routes::plain;
use crate::api::write_options::{WriteOptions, WriteVerb, body_dry_run};
use crate::object::{ApiError, DeleteOptions, Patch, Reason};

/// `MaxRequestBodyBytes` of the reference server: 3 MiB.
const LARGEST_BODY: usize = 3 * 1024 * 1024;
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// For a whole body, however slowly it comes.
const BODY_TIME: Duration = Duration::from_secs(60);

/// A body, whole, within its limit and its time; a large one when it is its turn.
///
/// # Errors
/// `RequestEntityTooLarge`, or `BadRequest` for one that ended early or never.
pub(crate) async fn whole(parts: &Parts, body: Body) -> Result<Vec<u8>, ApiError> {
    let reading = Limited::new(body, LARGEST_BODY).collect();
    let read = tokio::time::timeout(BODY_TIME, reading).await.map_err(|_| {
        ApiError::bad_request(format!("the body took longer than {} s", BODY_TIME.as_secs()))
    })?;
    let collected = read.map_err(|failure| {
        if failure.is::<http_body_util::LengthLimitError>() {
            ApiError::new(
                Reason::RequestEntityTooLarge,
                format!("Request entity too large: limit is {LARGEST_BODY}"),
            )
        } else {
            ApiError::bad_request("the body ended early")
        }
    })?;
    let bytes = collected.to_bytes();
    if let Some(turn) = parts.extensions.get::<Arc<Turn>>() {
        turn.take(bytes.len()).await;
    }
    Ok(bytes.to_vec())
}

/// A JSON body.
///
/// # Errors
/// `UnsupportedMediaType` for another content type, `BadRequest` for what is no JSON.
pub(crate) async fn document(parts: &Parts, body: Body) -> Result<Document, ApiError> {
    match media_type(&parts.headers) {
        "" | "application/json" => {}
        PROTOBUF => return Err(unread_protobuf()),
        _ => return Err(unsupported_media()),
    }
    let bytes = whole(parts, body).await?;
    document_text::json(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is no JSON document: {error}")))
}

/// What a PATCH brings.
pub(crate) enum PatchBody {
    /// With the fields that its text names twice.
    Patch(Patch, Vec<String>),
    /// A configuration to apply.
    Apply(Document),
}

/// A patch of the kind that its content type names, and its manner.
///
/// # Errors
/// As [`document`], and [`write_options`].
pub(crate) async fn change(
    parts: &Parts,
    body: Body,
) -> Result<(PatchBody, WriteOptions), ApiError> {
    let undecoded =
        |error: &dyn Display| ApiError::bad_request(format!("error decoding patch: {error}"));
    let media = media_type(&parts.headers);
    if media == "application/apply-patch+yaml" {
        let options = write_options(parts, WriteVerb::Apply)?;
        let bytes = whole(parts, body).await?;
        // Most of what comes as YAML is JSON (kubectl, every client library), which is quicker read.
        let document = match document_text::json(&bytes) {
            Ok(document) => document,
            Err(_) => document_text::yaml(&bytes).map_err(|error| undecoded(&error))?,
        };
        if !document.value.is_object() {
            return Err(undecoded(&"the configuration is no object"));
        }
        return Ok((PatchBody::Apply(document), options));
    }
    let make = match media {
        "application/merge-patch+json" => Patch::Merge,
        "application/json-patch+json" => Patch::Json,
        "application/strategic-merge-patch+json" => Patch::Strategic,
        _ => return Err(unsupported_media()),
    };
    let options = write_options(parts, WriteVerb::Patch)?;
    let bytes = whole(parts, body).await?;
    let Document { value, mut twice } =
        document_text::json(&bytes).map_err(|error| undecoded(&error))?;
    let patch = make(value);
    if matches!(patch, Patch::Json(_)) {
        twice.iter_mut().for_each(|told| told.insert_str(0, "json patch "));
    }
    Ok((PatchBody::Patch(patch, twice), options))
}

/// What an applied text names twice, as warnings.
///
/// # Errors
/// `BadRequest` under `fieldValidation=Strict`.
pub(crate) fn applied_twice(
    document: &Document,
    validation: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Strict if !document.twice.is_empty() => {
            let told = document.twice.join(", ");
            Err(ApiError::bad_request(format!("error strict decoding patch: {told}")))
        }
        FieldValidation::Strict | FieldValidation::Warn => Ok(document.twice.clone()),
    }
}

fn media_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split(';').next())
        .map_or("", str::trim)
}

pub(crate) fn is_protobuf(headers: &HeaderMap) -> bool {
    media_type(headers) == PROTOBUF
}

/// `kubectl create configmap` and its like send protobuf and have no flag against it; `apply -f` and
/// `create -f` send what they were given.
fn unread_protobuf() -> ApiError {
    plain(
        Reason::UnsupportedMediaType,
        "protobuf is read in the bodies of kubectl auth only: send application/json, as kubectl apply -f and create -f do",
    )
}

fn unsupported_media() -> ApiError {
    plain(Reason::UnsupportedMediaType, "415: Unsupported Media Type")
}

/// A DELETE's options, from its body or its query; the body wins, as in the reference server. Beside
/// them whether it is a dry run.
///
/// # Errors
/// `BadRequest` or `Invalid` for options that cannot be.
pub(crate) async fn delete_options(
    query: &Query,
    parts: &Parts,
    body: Body,
) -> Result<(DeleteOptions, bool), ApiError> {
    let manner = write_options(parts, WriteVerb::Delete)?;
    let bytes = whole(parts, body).await?;
    if is_protobuf(&parts.headers) && !bytes.is_empty() {
        return Err(unread_protobuf());
    }
    let document: Value = if bytes.iter().all(u8::is_ascii_whitespace) {
        Value::Null
    } else {
        let read = document_text::json(&bytes).map_err(|error| {
            ApiError::bad_request(format!("the delete options are no JSON: {error}"))
        })?;
        read.value
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut propagation = query::propagation(document["propagationPolicy"].as_str())?;
    if document["orphanDependents"] == json!(true) {
        propagation = Some(crate::object::Propagation::Orphan);
    }
    let options = DeleteOptions {
        uid: text(&document["preconditions"]["uid"]),
        resource_version: text(&document["preconditions"]["resourceVersion"]),
        propagation: propagation.or(query.propagation),
        grace_seconds: document["gracePeriodSeconds"].as_i64().or(query.grace_seconds),
    };
    let said: Vec<&str> = document["dryRun"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|word| word.as_str().unwrap_or_default())
        .collect();
    Ok((options, body_dry_run(&said)? || manner.dry_run))
}

/// The manner of this write.
///
/// # Errors
/// `Invalid` for parameters that cannot be.
pub(crate) fn write_options(parts: &Parts, verb: WriteVerb) -> Result<WriteOptions, ApiError> {
    let pairs = query::pairs(parts.uri.query().unwrap_or_default());
    let agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    WriteOptions::parse(verb, &pairs, agent.unwrap_or_default())
}
