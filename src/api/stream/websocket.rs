//! WebSockets (RFC 6455): the handshake that a client asks for, and a client of exec or attach made of
//! the connection.

use std::io;

use axum::http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method};
use bytes::Bytes;
use futures::future::ready;
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::api::stream::channels::Version;
use crate::api::stream::client::{Client, Heard, Told};
use crate::api::stream::upgrade::Connection;
use crate::object::ApiError;

/// Of one message of a client's, which is kept whole. kubectl sends 32 KiB at a time; who hands a file
/// to a library in one piece sends that. The reference server takes 32 MiB: 256 streams of one
/// identity would hold 8 GiB of a host, so they hold 1 GiB at most.
pub(crate) const LONGEST_MESSAGE: usize = 4 << 20;
/// Read at a time; allocated for each connection.
const READ_BUFFER: usize = 16 * 1024;

/// A WebSocket over a client's connection.
pub(crate) type Socket = WebSocketStream<Connection>;

/// What was agreed on.
#[derive(Debug)]
pub(crate) struct Handshake {
    accept: String,
    /// The subprotocol: the client's first that is spoken here.
    pub protocol: &'static str,
}

/// Whether a request asks for a WebSocket.
pub(crate) fn asked(headers: &HeaderMap) -> bool {
    says(headers, &UPGRADE, "websocket") && says(headers, &CONNECTION, "upgrade")
}

/// Whether one of a header's words is this one.
fn says(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name).any(|said| said.eq_ignore_ascii_case(word))
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).map(str::trim)
}

impl Handshake {
    /// # Errors
    /// `BadRequest` for another version of WebSockets, a missing key, and where no protocol of the
    /// client's is spoken.
    pub fn of(parts: &Parts, spoken: &[&'static str]) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        if parts.method != Method::GET {
            return Err(ApiError::bad_request("a WebSocket is asked for with GET"));
        }
        if !says(headers, &SEC_WEBSOCKET_VERSION, "13") {
            return Err(ApiError::bad_request("missing or bad WebSocket Version: 13 is spoken"));
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| ApiError::bad_request("missing Sec-WebSocket-Key"))?;
        let offered: Vec<&str> = words(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
        let mut known =
            offered.iter().filter_map(|offer| spoken.iter().find(|known| *known == offer));
        let Some(protocol) = known.next() else {
            return Err(ApiError::bad_request(format!(
                "requested protocol(s) are not supported: [{}]; supports [{}]",
                offered.join(" "),
                spoken.join(" ")
            )));
        };
        Ok(Self { accept: derive_accept_key(key.as_bytes()), protocol })
    }

    /// What the 101 says beside the upgrade itself.
    pub fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        let accept = HeaderValue::from_str(&self.accept).expect("base64 is a header's value");
        let protocol = HeaderValue::from_static(self.protocol);
        [(SEC_WEBSOCKET_ACCEPT, accept), (SEC_WEBSOCKET_PROTOCOL, protocol)]
    }
}

/// The socket over a connection that was switched.
pub(crate) async fn socket(connection: Connection) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // Each message goes out by itself: whoever waits for it sets the pace.
        .write_buffer_size(0)
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// A client that speaks one of the channel protocols.
pub(crate) fn client(socket: Socket, version: Version) -> Client {
    let (sink, stream) = socket.split();
    let heard = stream.filter_map(move |message| ready(heard(version, message)));
    let telling = sink.sink_map_err(gone).with(|told: Told| {
        let message = match &told {
            Told::Alive => Message::Ping(Bytes::new()),
            // client-go takes any other code, and none, for a failure.
            Told::End => {
                let reason = Default::default();
                Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason }))
            }
            told => Message::Binary(Version::told(told).unwrap_or_default()),
        };
        ready(Ok::<_, io::Error>(message))
    });
    // Nothing is heard after a fault, and nothing after the end.
    let heard = heard.scan(false, |over, word| {
        let last = matches!(word, Heard::Fault(_));
        ready((!std::mem::replace(over, last)).then_some(word))
    });
    Client { heard: heard.boxed(), telling: Box::pin(telling) }
}

fn gone(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::ConnectionReset, other),
    }
}

/// Pings are answered by the library; a close ends the stream.
fn heard(version: Version, message: Result<Message, Error>) -> Option<Heard> {
    match message {
        Ok(Message::Binary(bytes)) => version.heard(bytes),
        // The Python client sends what is text as text.
        Ok(Message::Text(text)) => version.heard(text.into()),
        Ok(_) => None,
        Err(Error::Capacity(_)) => Some(Heard::Fault(format!(
            "a message has {LONGEST_MESSAGE} bytes at most: send it in parts"
        ))),
        Err(error @ (Error::Protocol(_) | Error::Utf8(_))) => Some(Heard::Fault(error.to_string())),
        // The connection is gone: the stream ends.
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    const SPOKEN: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

    fn request(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    const ASKED: [(&str, &str); 4] = [
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn agreed(protocols: &[&str]) -> Result<Handshake, ApiError> {
        let offers = protocols.iter().map(|offer| ("Sec-WebSocket-Protocol", *offer));
        let headers: Vec<_> = ASKED.into_iter().chain(offers).collect();
        Handshake::of(&request(&headers), &SPOKEN)
    }

    #[test]
    fn the_clients_first_protocol_that_is_spoken_is_agreed_on() {
        let both = agreed(&["v4.channel.k8s.io, v5.channel.k8s.io"]).expect("agreed");
        assert_eq!(both.protocol, "v4.channel.k8s.io");
        let two = agreed(&["v9.channel.k8s.io", "v5.channel.k8s.io"]).expect("agreed");
        assert_eq!(two.protocol, "v5.channel.k8s.io");
        let headers = two.headers();
        // RFC 6455's own example.
        assert_eq!(headers[0].1, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(headers[1].1, "v5.channel.k8s.io");
        for none in [&["base64.channel.k8s.io"][..], &[]] {
            let refused = agreed(none).expect_err("not spoken").message;
            let words = "supports [v5.channel.k8s.io v4.channel.k8s.io]";
            assert!(refused.ends_with(words), "{refused}");
        }
    }

    #[test]
    fn what_is_no_websocket_is_refused() {
        assert!(asked(&request(&ASKED).headers));
        assert!(!asked(&request(&ASKED[..1]).headers));
        assert!(!asked(&request(&[("Upgrade", "SPDY/3.1"), ASKED[1]]).headers));
        let protocol = ("Sec-WebSocket-Protocol", "v5.channel.k8s.io");
        for left_out in [2, 3] {
            let mut headers = ASKED.to_vec();
            headers.remove(left_out);
            headers.push(protocol);
            assert!(Handshake::of(&request(&headers), &SPOKEN).is_err(), "{left_out}");
        }
        let mut parts = request(&[&ASKED[..], &[protocol]].concat());
        parts.method = Method::POST;
        assert!(Handshake::of(&parts, &SPOKEN).is_err());
    }
}
