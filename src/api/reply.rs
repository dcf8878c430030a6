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
use crate::api::list_body::{Item, ListBody};
use crate::api::table::{self, Include};
use crate::api::table_cells::Tabular;
use crate::api::table_columns;
use crate::api::verbs::{Api, RecordPage};
use crate::object::{ApiError, Kind, Object};
use crate::store::{Record, Store};
use crate::with_kind;

/// The form that a request's `Accept` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    record: &Arc<Record>,
) -> Result<Bytes, ApiError> {
    if record.kind != Kind::Secret {
        return Ok(record.body.to_bytes());
    }
    let secret = api.shown::<k8s_openapi::api::core::v1::Secret>(who, record)?;
    written_bytes(&*secret)
}

/// A typed object as JSON text; the caller has redacted it.
///
/// # Errors
/// None of our kinds fails to serialise.
pub(crate) fn written_bytes<K: Object>(object: &K) -> Result<Bytes, ApiError> {
    serde_json::to_vec(object).map(Bytes::from).map_err(unwritten)
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
pub fn partial(object: &[u8]) -> Result<Bytes, ApiError> {
    let parsed: MetadataOnly<'_> = serde_json::from_slice(object)
        .map_err(|error| ApiError::internal(format!("the object has no metadata: {error}")))?;
    Ok(format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{META_VERSION}\",\"metadata\":{}}}",
        parsed.metadata.get()
    )
    .into())
}

/// A stored object as a Table of one row; `columns` is false for all but the first event of a watch.
///
/// # Errors
/// An object that this version cannot decode.
pub(crate) fn table_of<S: Store>(
    api: &Api<S>,
    who: &Identity,
    record: &Arc<Record>,
    include: Include,
    columns: bool,
) -> Result<Vec<u8>, ApiError> {
    let meta =
        ListMeta { resource_version: Some(record.revision.to_string()), ..ListMeta::default() };
    let row = row_of(api, who, record, include)?;
    one_row(record.kind, &meta, columns, &row)
}

fn one_row(kind: Kind, meta: &ListMeta, columns: bool, row: &[u8]) -> Result<Vec<u8>, ApiError> {
    let mut text = table::head(meta, table_columns::columns(kind), columns).map_err(unwritten)?;
    text.extend(row);
    text.extend(b"]}");
    Ok(text)
}

fn row_of<S: Store>(
    api: &Api<S>,
    who: &Identity,
    record: &Arc<Record>,
    include: Include,
) -> Result<Vec<u8>, ApiError> {
    with_kind!(record.kind, K => {
        let object = api.shown::<K>(who, record)?;
        table::row_text(object.cells(api.now()), &*object, include).map_err(unwritten)
    })
}

fn unwritten(error: serde_json::Error) -> ApiError {
    ApiError::internal(format!("the object does not serialise: {error}"))
}

/// Objects rendered between two turns of the runtime: a few milliseconds where each is decoded.
const AT_A_TURN: usize = 64;

/// A list in the form asked for.
///
/// What cannot be decoded has no row, and a Secret like that cannot be hashed: it is left out, logged
/// and counted, and the rest is answered.
///
/// # Errors
/// None of the heads fails to serialise.
pub(crate) async fn list_reply<S: Store>(
    api: &Api<S>,
    who: &Identity,
    kind: Kind,
    page: &RecordPage,
    form: Form,
    include: Include,
) -> Result<Response, ApiError> {
    let meta = page.meta();
    let head = match form {
        Form::Table => table::head(&meta, table_columns::columns(kind), true).map_err(unwritten)?,
        Form::Json => list_head(&format!("{}List", kind.row().name), &kind.api_version(), &meta),
        Form::Metadata => list_head("PartialObjectMetadataList", META_VERSION, &meta),
    };
    let item = |record: &Arc<Record>| match form {
        Form::Json if kind != Kind::Secret => Ok(Item::Stored(record.clone())),
        Form::Json => object_bytes(api, who, record).map(Item::Text),
        Form::Table => row_of(api, who, record, include).map(|row| Item::Text(row.into())),
        Form::Metadata => {
            object_bytes(api, who, record).and_then(|bytes| partial(&bytes)).map(Item::Text)
        }
    };
    let mut items = Vec::with_capacity(page.items.len());
    for turn in page.items.chunks(AT_A_TURN) {
        items.extend(turn.iter().filter_map(|record| item(record).ok()));
        // A list of everything as a Table takes a tenth of a second: watches go on meanwhile.
        tokio::task::yield_now().await;
    }
    Ok(json_reply(StatusCode::OK, Body::new(ListBody::new(head.into(), items))))
}

/// A list of objects that are JSON text already.
pub(crate) fn list_of(kind: &str, version: &str, meta: &ListMeta, items: Vec<Bytes>) -> Body {
    let items = items.into_iter().map(Item::Text).collect();
    Body::new(ListBody::new(list_head(kind, version, meta).into(), items))
}

/// A list up to the bracket that its items stand in.
fn list_head(kind: &str, version: &str, meta: &ListMeta) -> Vec<u8> {
    let meta = serde_json::to_string(meta).unwrap_or_else(|_| "{}".to_owned());
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{meta},\"items\":[")
        .into_bytes()
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
        Form::Table => Body::from(table_of(api, who, record, include, true)?),
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
        Form::Json => bytes,
        Form::Metadata => partial(&bytes)?,
        Form::Table => {
            let meta = ListMeta {
                resource_version: object.metadata().resource_version.clone(),
                ..ListMeta::default()
            };
            let cells = object.cells(api.now());
            let row = table::row_text(cells, &*object, Include::Metadata).map_err(unwritten)?;
            one_row(K::OBJECT_KIND, &meta, true, &row)?.into()
        }
    };
    Ok(json_reply(code, body))
}
