//! `POST /webhook/<source>`: a push says "look again". The signature is checked over the raw body,
//! and that is all that is done with the body: what is true, the fetch decides. A source without a
//! secret has no webhook.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Limited};
use serde_json::json;
use sha2::Sha256;
use tracing::{debug, warn};

use crate::api::reply::{error_reply, value_reply};
use crate::api::verbs::Api;
use crate::object::{ApiError, Reason};
use crate::store::Store;

/// GitHub caps payloads at 25 MB but a push of a few commits is kilobytes; the body is only hashed.
pub const LARGEST_BODY: usize = 1024 * 1024;

const SIGNATURE: &str = "x-hub-signature-256";

/// For the whole body, however slowly it comes.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Answers one delivery: 404 where the hook is off, 401 on a bad signature, 202 with an id.
pub(crate) async fn deliver<S: Store>(
    api: &Api<S>,
    source: &str,
    method: &Method,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let response = match judged(api, source, method, headers, body).await {
        Ok(id) => value_reply(StatusCode::ACCEPTED, &json!({"id": id, "source": source})),
        Err(error) => error_reply(&error),
    };
    api.metrics().delivered(response.status());
    response
}

async fn judged<S: Store>(
    api: &Api<S>,
    source: &str,
    method: &Method,
    headers: &HeaderMap,
    body: Body,
) -> Result<String, ApiError> {
    if method != Method::POST {
        return Err(ApiError::new(Reason::MethodNotAllowed, "a webhook is delivered with POST"));
    }
    let off = || {
        ApiError::new(
            Reason::NotFound,
            format!(
                "no webhook for source {source:?}: it has no secret, or there is no such source"
            ),
        )
    };
    let secret = api.webhook_secret(source).ok_or_else(off)?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    let least = announced.unwrap_or(0).max(body.size_hint().lower());
    if least > LARGEST_BODY as u64 {
        return Err(too_large());
    }
    // Before the body is read: a delivery that cannot be right costs nothing.
    let signature = signature(headers)?;
    let reading = tokio::time::timeout(BODY_TIME, hashed(&secret, body));
    let mac = reading.await.map_err(|_| {
        ApiError::bad_request(format!("the body took longer than {} s", BODY_TIME.as_secs()))
    })??;
    // Constant time: how much of a guess was right cannot be measured.
    mac.verify_slice(&signature).map_err(|_| {
        warn!(source, "webhook delivery with a wrong signature");
        unauthorized("the signature is not this source's secret over this body")
    })?;
    let id = api.options().ids.uid();
    let wake = api.wake().ok_or_else(|| {
        ApiError::new(Reason::ServiceUnavailable, "the sync is not running yet, deliver again")
    })?;
    if !wake.wake(source) {
        return Err(off());
    }
    debug!(source, id, "webhook delivery wakes the sync");
    Ok(id)
}

/// The keyed hash of the body. Each piece is hashed as it comes and dropped: a stranger with many
/// connections fills no memory before the signature is known to be wrong.
async fn hashed(secret: &[u8], body: Body) -> Result<Hmac<Sha256>, ApiError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    let mut body = std::pin::pin!(Limited::new(body, LARGEST_BODY));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|failure| {
            if failure.is::<http_body_util::LengthLimitError>() {
                too_large()
            } else {
                ApiError::bad_request("the body ended early")
            }
        })?;
        if let Some(piece) = frame.data_ref() {
            mac.update(piece);
        }
    }
    Ok(mac)
}

/// Exactly one `sha256=` and 64 hex digits. Two headers are an attempt at something: refused.
fn signature(headers: &HeaderMap) -> Result<Vec<u8>, ApiError> {
    let mut all = headers.get_all(SIGNATURE).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(unauthorized("one X-Hub-Signature-256 header is needed"));
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("sha256="))
        .filter(|digits| digits.len() == 64)
        .and_then(|digits| hex::decode(digits).ok())
        .ok_or_else(|| {
            unauthorized(
                "X-Hub-Signature-256 is sha256= and 64 hex digits; set the secret on both sides",
            )
        })
}

fn unauthorized(why: &str) -> ApiError {
    ApiError::new(Reason::Unauthorized, why)
}

fn too_large() -> ApiError {
    ApiError::new(
        Reason::RequestEntityTooLarge,
        format!("a webhook's body is at most {LARGEST_BODY} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_one_whole_signature_is_one() {
        let good = "ab".repeat(32);
        for (values, fine) in [
            (vec![], false),
            (vec![format!("sha256={good}")], true),
            (vec![format!("sha256={}", good.to_uppercase())], true),
            (vec![format!("sha256={good}"), format!("sha256={good}")], false),
            (vec![good.clone()], false),
            (vec![format!("sha1={good}")], false),
            (vec![format!("SHA256={good}")], false),
            (vec!["sha256=".to_owned()], false),
            (vec![format!("sha256={}", &good[..62])], false),
            (vec![format!("sha256={good}00")], false),
            (vec![format!("sha256={}zz", &good[..62])], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(SIGNATURE, HeaderValue::from_str(value).expect("a header"));
            }
            assert_eq!(signature(&headers).is_ok(), fine, "{values:?}");
        }
    }
}
