//! What is agreed on before SPDY is spoken (`apimachinery/pkg/util/httpstream`): the request names
//! protocols in `X-Stream-Protocol-Version`, the 101 the one of them that is spoken.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::object::{ApiError, Reason};

const PROTOCOLS: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What a 101 has to say of the protocol.
pub(crate) type Answer = Option<(HeaderName, HeaderValue)>;

/// Whether `protocol` is spoken with this client, and how that is said. A client that names none is
/// older than the header (Kubernetes 1.0).
///
/// # Errors
/// `BadRequest` for an upgrade to something else; `Forbidden` where the client names only other
/// protocols.
pub(crate) fn agreed(headers: &HeaderMap, protocol: &'static str) -> Result<Answer, ApiError> {
    if !words(headers, header::UPGRADE).any(|word| word.eq_ignore_ascii_case("SPDY/3.1")) {
        let why = "unable to upgrade: missing upgrade headers in request: SPDY/3.1 and WebSockets are spoken here";
        return Err(ApiError::bad_request(why));
    }
    let named: Vec<&str> = words(headers, PROTOCOLS).collect();
    if named.contains(&protocol) {
        return Ok(Some((PROTOCOLS, HeaderValue::from_static(protocol))));
    }
    if named.is_empty() {
        return Ok(None);
    }
    let named = named.join(" ");
    Err(ApiError::new(
        Reason::Forbidden,
        format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{named}], server accepts [{protocol}]"
        ),
    ))
}

fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(upgrade: &'static str, protocols: &[&'static str]) -> Result<Answer, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
        for protocol in protocols {
            headers.append(PROTOCOLS, HeaderValue::from_static(protocol));
        }
        agreed(&headers, "v4.channel.k8s.io").map_err(|error| error.message)
    }

    #[test]
    fn what_both_speak_is_agreed_on() {
        let told = Ok(Some((PROTOCOLS, HeaderValue::from_static("v4.channel.k8s.io"))));
        assert_eq!(asking("SPDY/3.1", &["v5.channel.k8s.io", "v4.channel.k8s.io"]), told);
        assert_eq!(asking("spdy/3.1", &["v5.channel.k8s.io, v4.channel.k8s.io"]), told);
        assert_eq!(asking("SPDY/3.1", &[]), Ok(None));
        let refused = "unable to upgrade: unable to negotiate protocol: client supports [a b], server accepts [v4.channel.k8s.io]";
        assert_eq!(asking("SPDY/3.1", &["a", "b"]), Err(refused.to_owned()));
        assert!(asking("h2c", &["v4.channel.k8s.io"]).is_err());
    }
}
