//! What a reply looks like: JSON, a Table, or metadata alone, as the request's `Accept` asks; and
//! errors as Status objects. Every object that leaves here went through [`object_bytes`], which
//! hashes Secrets for those who may not read them.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::api::access::Identity;
use crate::api::table::{Include, table};
use crate::api::table_cells::Tabular;
use crate::api::verbs::{Api, RecordPage};
use crate::object::{ApiError, Kind, Object};
use crate::store::{Record, Store};
use crate::with_kind;

/// The form that a request's `Accept` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Table,
    Metadata,
}

/// Of objects that are cut to their metadata.
pub(crate) const META_VERSION: &str = "meta.k8s.io/v1";

/// A JSON reply.
pub fn json_reply(code: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// A serialised value as a JSON reply.
pub fn value_reply(code: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json_reply(code, body),
        Err(error) => error_reply(&ApiError::internal(format!("the reply: {error}"))),
    }
}

/// The `Status` of a failed request.
pub fn error_reply(error: &ApiError) -> Response {
    error_reply_continued(error, None)
}

/// As [`error_reply`], with a token that the client may go on with.
pub fn error_reply_continued(error: &ApiError, continued: Option<&str>) -> Response {
    let code =
        StatusCode::from_u16(error.reason.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value_reply(code, &status_value(error, continued));
    let retry = error.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The wire form of an error; `metadata` is always there, as the reference server writes it.
pub fn status_value(error: &ApiError, continued: Option<&str>) -> Value {
    let mut status = serde_json::to_value(error.to_status()).unwrap_or_default();
    status["metadata"] = match continued {
        Some(token) => json!({"continue": token}),
        None => json!({}),
    };
    status
}

/// An object as this identity may see it, as JSON text. A body that this version cannot decode is
/// still shown raw; a Secret never is.
///
/// # Errors
/// A Secret that cannot be decoded cannot be hashed.
pub(crate) fn object_bytes<S: Store>(
    api: &Api<S>,
    who: &Identity,
    record: &Record,
) -> Result<Bytes, ApiError> {
    if record.kind != Kind::Secret {
        return Ok(record.body.clone());
    }
    let secret = api.shown::<k8s_openapi::api::core::v1::Secret>(who, record)?;
    written_bytes(&*secret)
}

/// A typed object as JSON text; the caller has redacted it.
///
/// # Errors
/// None of our kinds fails to serialise.
pub(crate) fn written_bytes<K: Object>(object: &K) -> Result<Bytes, ApiError> {
    serde_json::to_vec(object)
        .map(Bytes::from)
        .map_err(|error| ApiError::internal(format!("the object does not serialise: {error}")))
}

#[derive(Deserialize)]
struct MetadataOnly<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// An object's metadata as a `PartialObjectMetadata`.
///
/// # Errors
/// A body without metadata.
pub fn partial(object: &[u8]) -> Result<Vec<u8>, ApiError> {
    let parsed: MetadataOnly<'_> = serde_json::from_slice(object)
        .map_err(|error| ApiError::internal(format!("the object has no metadata: {error}")))?;
    Ok(format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{META_VERSION}\",\"metadata\":{}}}",
        parsed.metadata.get()
    )
    .into_bytes())
}

/// A Table of stored objects; `columns` is false for all but the first event of a watch.
pub(crate) fn table_of<S: Store>(
    api: &Api<S>,
    who: &Identity,
    kind: Kind,
    meta: &ListMeta,
    records: &[Arc<Record>],
    shape: (Include, bool),
) -> Value {
    let (include, columns) = shape;
    with_kind!(kind, K => {
        let objects = api.all_shown::<K>(who, records);
        table(meta, &objects, include, columns, api.now())
    })
}

fn join(out: &mut Vec<u8>, items: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend(item.as_ref());
    }
}

/// A list in the form asked for.
///
/// # Errors
/// As [`object_bytes`].
pub(crate) fn list_reply<S: Store>(
    api: &Api<S>,
    who: &Identity,
    kind: Kind,
    page: &RecordPage,
    form: Form,
    include: Include,
) -> Result<Response, ApiError> {
    let meta = ListMeta {
        resource_version: Some(page.revision.to_string()),
        continue_: page.continued.clone(),
        remaining_item_count: page.remaining.and_then(|count| i64::try_from(count).ok()),
        ..ListMeta::default()
    };
    let body = match form {
        Form::Table => {
            let table = table_of(api, who, kind, &meta, &page.items, (include, true));
            return Ok(value_reply(StatusCode::OK, &table));
        }
        Form::Json => {
            let name = format!("{}List", kind.row().name);
            let items = bodies(api, who, &page.items);
            list_of(&name, &kind.api_version(), &meta, &items)
        }
        Form::Metadata => {
            let items: Vec<Vec<u8>> = bodies(api, who, &page.items)
                .iter()
                .map(|body| partial(body))
                .collect::<Result<_, _>>()?;
            list_of("PartialObjectMetadataList", META_VERSION, &meta, &items)
        }
    };
    Ok(json_reply(StatusCode::OK, body))
}

/// A Secret that cannot be decoded cannot be hashed: it is left out, logged and counted, and the
/// rest is answered.
fn bodies<S: Store>(api: &Api<S>, who: &Identity, records: &[Arc<Record>]) -> Vec<Bytes> {
    records.iter().filter_map(|record| object_bytes(api, who, record).ok()).collect()
}

fn list_of(kind: &str, version: &str, meta: &ListMeta, items: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let meta = serde_json::to_string(meta).unwrap_or_else(|_| "{}".to_owned());
    let mut out = format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{meta},\"items\":["
    )
    .into_bytes();
    join(&mut out, items);
    out.extend(b"]}");
    out
}

/// One stored object in the form asked for.
///
/// # Errors
/// As [`object_bytes`].
pub(crate) fn record_reply<S: Store>(
    api: &Api<S>,
    who: &Identity,
    record: &Arc<Record>,
    form: Form,
    include: Include,
) -> Result<Response, ApiError> {
    let body = match form {
        Form::Json => Body::from(object_bytes(api, who, record)?),
        Form::Metadata => Body::from(partial(&object_bytes(api, who, record)?)?),
        Form::Table => {
            let meta = ListMeta {
                resource_version: Some(record.revision.to_string()),
                ..ListMeta::default()
            };
            let one = std::slice::from_ref(record);
            let table = table_of(api, who, record.kind, &meta, one, (include, true));
            return Ok(value_reply(StatusCode::OK, &table));
        }
    };
    Ok(json_reply(StatusCode::OK, body))
}

/// A written object in the form asked for; the verbs answer what the identity may see.
///
/// # Errors
/// As [`written_bytes`].
pub(crate) fn written_reply<S: Store, K: Tabular>(
    api: &Api<S>,
    code: StatusCode,
    object: Arc<K>,
    form: Form,
) -> Result<Response, ApiError> {
    let bytes = written_bytes(&*object)?;
    let body = match form {
        Form::Json => bytes.to_vec(),
        Form::Metadata => partial(&bytes)?,
        Form::Table => {
            let meta = ListMeta {
                resource_version: object.metadata().resource_version.clone(),
                ..ListMeta::default()
            };
            let table = table(&meta, &[object], Include::Metadata, true, api.now());
            return Ok(value_reply(code, &table));
        }
    };
    Ok(json_reply(code, body))
}
