//! The engine's calls that stop being HTTP (it calls them hijacked): a process's channels, by hyper;
//! and who is at the other end of its socket.
//!
//! bollard has these calls too, and tells a terminal's output from framed output by the first byte
//! of what it read last: what a terminal says that begins with a byte below 3 is lost, and so is what
//! follows. It also keeps a whole frame, of whatever length.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt};
use futures::{SinkExt, TryStreamExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::codec::{BytesCodec, FramedWrite};

use crate::node::docker_frames::{FrameError, Reading};
use crate::node::runtime::RuntimeError;
use crate::object::streams::{Input, Said};
use crate::telemetry::chain;

/// Read from the engine at a time: what moby itself copies at a time.
const PART: usize = 32 * 1024;
/// Of an answer that is an error.
const LONGEST_REFUSAL: usize = 64 * 1024;

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EngineAddress {
    Unix(PathBuf),
    Tcp(String),
}

impl EngineAddress {
    /// As DOCKER_HOST says it; `None` for what this version cannot stream over.
    pub fn of(host: &str) -> Option<Self> {
        if let Some(path) = host.strip_prefix("unix://") {
            return Some(Self::Unix(path.into()));
        }
        if host.starts_with('/') {
            return Some(Self::Unix(host.into()));
        }
        let authority = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://"))?;
        let authority = authority.split('/').next().unwrap_or(authority);
        let port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Some(Self::Tcp(if port { authority.to_owned() } else { format!("{authority}:2375") }))
    }

    /// What the process behind a Unix socket sees mounted. Where systemd opened the socket that is
    /// systemd: what it does not see, the engine that it started does not either.
    pub async fn mount_table(&self) -> Option<Vec<u8>> {
        let Self::Unix(socket) = self else { return None };
        let process = UnixStream::connect(socket).await.ok()?.peer_cred().ok()?.pid()?;
        tokio::fs::read(format!("/proc/{process}/mountinfo")).await.ok()
    }
}

/// What the engine answers to a hijacked call: bytes both ways.
pub(crate) struct Hijacked(Upgraded);

/// Sends a POST that the engine answers with a connection.
///
/// # Errors
/// What the engine refuses, as to any call; an engine that does not answer.
pub(crate) async fn hijack(
    address: &EngineAddress,
    path: &str,
    body: &Value,
) -> Result<Hijacked, RuntimeError> {
    let away = |error: std::io::Error| RuntimeError::Unreachable(error.to_string());
    match address {
        EngineAddress::Unix(socket) => {
            spoken(UnixStream::connect(socket).await.map_err(away)?, path, body).await
        }
        EngineAddress::Tcp(authority) => {
            let stream = TcpStream::connect(authority).await.map_err(away)?;
            // A keystroke is sent at once.
            stream.set_nodelay(true).map_err(away)?;
            spoken(stream, path, body).await
        }
    }
}

async fn spoken(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    body: &Value,
) -> Result<Hijacked, RuntimeError> {
    let lost = |error: hyper::Error| RuntimeError::Unreachable(chain(&error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let request = Request::post(path)
        .header(HOST, "docker")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "tcp")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|error| RuntimeError::Other(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return hyper::upgrade::on(response).await.map(Hijacked).map_err(lost);
        }
        let text = Limited::new(response.into_body(), LONGEST_REFUSAL).collect().await;
        let text = text.map(|whole| whole.to_bytes()).unwrap_or_default();
        Err(refusal(status, &text))
    };
    let (mut exchange, connection) =
        (std::pin::pin!(exchange), std::pin::pin!(connection.with_upgrades()));
    tokio::select! {
        biased;
        // Polled on below where the connection is done first: it is, when it is handed over.
        answer = exchange.as_mut() => answer,
        // Its failure is the exchange's too.
        _ = connection => exchange.await,
    }
}

fn refusal(status: StatusCode, text: &[u8]) -> RuntimeError {
    let said: Option<Value> = serde_json::from_slice(text).ok();
    let message = said.as_ref().and_then(|said| said["message"].as_str());
    let message = message.map_or_else(|| String::from_utf8_lossy(text).into_owned(), str::to_owned);
    match status.as_u16() {
        404 => RuntimeError::NotFound(message),
        409 => RuntimeError::NameConflict(message),
        401 | 403 => RuntimeError::Denied(message),
        502..=504 => RuntimeError::Unreachable(message),
        // It takes the call and hijacks nothing: no Docker Engine of a version that we know.
        200 => RuntimeError::Other("the engine answered without a stream".to_owned()),
        _ => RuntimeError::Other(message),
    }
}

impl Hijacked {
    /// The two directions. The engine ends what a process reads when the input is closed.
    pub fn split(
        self,
        reading: Reading,
    ) -> (Input<RuntimeError>, BoxStream<'static, Result<Said, RuntimeError>>) {
        let (reads, writes) = tokio::io::split(TokioIo::new(self.0));
        let input = FramedWrite::new(writes, BytesCodec::new());
        let input = SinkExt::<Bytes>::sink_map_err(input, |error: std::io::Error| lost(&error));
        (Box::pin(input), said(reads, reading).boxed())
    }
}

fn lost(error: &std::io::Error) -> RuntimeError {
    RuntimeError::Unreachable(format!("the engine ended a stream: {error}"))
}

/// Everything that is said, as it comes.
fn said(
    reads: ReadHalf<TokioIo<Upgraded>>,
    reading: Reading,
) -> impl futures::Stream<Item = Result<Said, RuntimeError>> + Send {
    let broken = |error: FrameError| RuntimeError::Other(error.to_string());
    let begin = (reads, reading, BytesMut::new());
    let parts = futures::stream::try_unfold(
        begin,
        move |(mut reads, mut reading, mut buffer)| async move {
            buffer.reserve(PART);
            let read = reads.read_buf(&mut buffer).await.map_err(|error| lost(&error))?;
            if read == 0 {
                reading.end().map_err(broken)?;
                return Ok(None);
            }
            let parts = reading.read(buffer.split().freeze()).map_err(broken)?;
            let parts = futures::stream::iter(parts.into_iter().map(Ok));
            Ok(Some((parts, (reads, reading, buffer))))
        },
    );
    parts.try_flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_listen_on_sockets_and_ports() {
        let of = EngineAddress::of;
        let socket = Some(EngineAddress::Unix("/run/docker.sock".into()));
        assert_eq!(of("unix:///run/docker.sock"), socket);
        assert_eq!(of("/run/docker.sock"), socket);
        assert_eq!(of("tcp://192.0.2.7:2376/"), Some(EngineAddress::Tcp("192.0.2.7:2376".into())));
        assert_eq!(of("http://engine"), Some(EngineAddress::Tcp("engine:2375".into())));
        assert_eq!(of("https://engine"), None);
        assert_eq!(of("ssh://engine"), None);
    }

    #[test]
    fn a_refusal_is_told_as_the_engine_says_it() {
        let text = br#"{"message":"container 7 is not running"}"#;
        let refused = refusal(StatusCode::CONFLICT, text);
        assert_eq!(refused, RuntimeError::NameConflict("container 7 is not running".into()));
        let refused = refusal(StatusCode::INTERNAL_SERVER_ERROR, b"plain");
        assert_eq!(refused, RuntimeError::Other("plain".into()));
    }
}
