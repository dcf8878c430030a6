//! The paths of OpenAPI. The documents follow from the binary alone: each is made when it is first
//! asked for, and kept.

use std::sync::OnceLock;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::api::reply::{json_reply, value_reply};
use crate::api::{openapi, openapi_protobuf};

/// A document of version 3 with the hash that its address carries, so that clients keep it.
struct Document {
    place: String,
    hash: String,
    body: Bytes,
}

static VERSION_3: OnceLock<Vec<Document>> = OnceLock::new();
static VERSION_2: OnceLock<Bytes> = OnceLock::new();
static VERSION_2_PROTOBUF: OnceLock<Bytes> = OnceLock::new();

/// The answer for a path; `None` where there is nothing of that name.
pub(crate) fn answer(path: &str, query: &str, accept: &str) -> Option<Response> {
    match path.trim_end_matches('/') {
        "/openapi/v2" if accept.contains(openapi_protobuf::ASKED) => {
            let body = VERSION_2_PROTOBUF
                .get_or_init(|| openapi_protobuf::encoded(&openapi::version_2()).into());
            let mut response = json_reply(StatusCode::OK, body.clone());
            let media = HeaderValue::from_static(openapi_protobuf::ANSWERED);
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            Some(response)
        }
        "/openapi/v2" => {
            let body = VERSION_2.get_or_init(|| text(&openapi::version_2()));
            Some(json_reply(StatusCode::OK, body.clone()))
        }
        "/openapi/v3" => Some(value_reply(StatusCode::OK, &index())),
        path => {
            let place = path.strip_prefix("/openapi/v3/")?;
            let document = version_3().iter().find(|document| document.place == place)?;
            let mut response = json_reply(StatusCode::OK, document.body.clone());
            if query.split('&').any(|pair| pair.strip_prefix("hash=") == Some(&document.hash)) {
                // Another document has another hash, and so another address.
                let for_ever = HeaderValue::from_static("public, immutable, max-age=31536000");
                response.headers_mut().insert(header::CACHE_CONTROL, for_ever);
            }
            Some(response)
        }
    }
}

fn version_3() -> &'static [Document] {
    VERSION_3.get_or_init(|| {
        let document = |place: String| {
            let body = text(&openapi::version_3(&place));
            let hash = hex::encode_upper(Sha512::digest(&body));
            Document { place, hash, body }
        };
        openapi::places().into_iter().map(document).collect()
    })
}

fn index() -> Value {
    let place = |document: &Document| {
        let address = format!("/openapi/v3/{}?hash={}", document.place, document.hash);
        (document.place.clone(), json!({"serverRelativeURL": address}))
    };
    json!({"paths": version_3().iter().map(place).collect::<Map<_, _>>()})
}

fn text(document: &Value) -> Bytes {
    document.to_string().into()
}
