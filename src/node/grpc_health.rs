//! One question of the gRPC health protocol (`grpc.health.v1.Health/Check`), as probes ask it:
//! without TLS, on a connection of its own. Sentences are the kubelet's (`probe/grpc/grpc.go`).

use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::{Error, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use crate::node::http_get::dial;
use crate::node::probe::Answer;

const PATH: &str = "/grpc.health.v1.Health/Check";
const AGENT: &str = concat!("kube-probe/", env!("CARGO_PKG_VERSION"));

/// Asks whether a service is served; the empty one is the whole server. The caller has the time.
pub async fn check(authority: &str, service: &str) -> Answer {
    let no_way = |error: &dyn std::fmt::Display| {
        Answer::Failure(format!("error: failed to connect service at \"{authority}\": {error}"))
    };
    let stream = match dial(authority).await {
        Ok(stream) => stream,
        Err(error) => return no_way(&error),
    };
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = match shaken {
        Ok(both) => both,
        Err(error) => return no_way(&error),
    };
    let origin = match Uri::try_from(format!("http://{authority}")) {
        Ok(origin) => origin,
        Err(error) => return no_way(&error),
    };
    let path = Uri::from_static(PATH).path_and_query().cloned().expect("it is a path");
    let asking = async {
        let mut client = Grpc::with_origin(Sender(sender), origin);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        client.unary(tonic::Request::new(service.to_owned()), path, Health).await
    };
    let (mut asking, mut connection) = (pin!(asking), pin!(connection));
    // Cancel safe: both are pinned here. A connection that ends first has handed over what it
    // read, so the call still gets its answer, or its own error.
    let answered = tokio::select! {
        biased;
        answered = &mut asking => answered,
        _ = &mut connection => asking.await,
    };
    match answered {
        Ok(answer) => judge(answer.into_inner()),
        Err(status) if status.code() == Code::Unimplemented => Answer::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Answer::Failure(format!("error: health rpc probe failed: {status}")),
    }
}

/// What a `ServingStatus` means.
fn judge(status: u64) -> Answer {
    let name = match status {
        1 => return Answer::Success,
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Answer::Failure(format!("service unhealthy (responded with \"{name}\")"))
}

struct Sender(http2::SendRequest<tonic::body::Body>);

impl tower::Service<Request<tonic::body::Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        self.0.send_request(request).boxed()
    }
}

/// `HealthCheckRequest{service = 1}` and `HealthCheckResponse{status = 1}`: one field each, so that
/// no compiler of protocol files is needed.
#[derive(Clone, Copy)]
struct Health;

impl Codec for Health {
    type Encode = String;
    type Decode = u64;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

/// Field 1, a text.
const SERVICE: u8 = 0x0a;

impl Encoder for Health {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, service: String, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if service.is_empty() {
            return Ok(());
        }
        into.put_u8(SERVICE);
        let mut length = service.len();
        while length >= 0x80 {
            into.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        into.put_u8(length as u8);
        into.put_slice(service.as_bytes());
        Ok(())
    }
}

impl Decoder for Health {
    type Item = u64;
    type Error = Status;

    /// 0 (`UNKNOWN`) where the field is absent.
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<u64>, Status> {
        status_of(from).map(Some).ok_or_else(|| Status::internal("the answer cannot be read"))
    }
}

/// Fields that a later protocol may have are passed over; `None`: it is no message.
fn status_of(from: &mut impl Buf) -> Option<u64> {
    let mut status = 0;
    while from.has_remaining() {
        let key = number(from)?;
        match key & 7 {
            0 => {
                let value = number(from)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => skip(from, 8)?,
            2 => {
                let length = number(from)?;
                skip(from, length)?;
            }
            5 => skip(from, 4)?,
            _ => return None,
        }
    }
    Some(status)
}

fn skip(from: &mut impl Buf, bytes: u64) -> Option<()> {
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= from.remaining())?;
    from.advance(bytes);
    Some(())
}

fn number(from: &mut impl Buf) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        if !from.has_remaining() {
            return None;
        }
        let byte = from.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::HeaderMap;
    use hyper::body::Frame;
    use hyper::service::service_fn;
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    fn answer(
        message: &[u8],
        code: &'static str,
    ) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>> {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
        framed.extend_from_slice(message);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(code));
        let frames = [Frame::data(Bytes::from(framed)), Frame::trailers(trailers)];
        let body = StreamBody::new(futures::stream::iter(frames.map(Ok)));
        let answer = Response::builder().header("content-type", "application/grpc");
        answer.body(body).expect("a response")
    }

    /// Serves `up`, has `down` and knows nothing else; whoever asks elsewhere is told so.
    async fn server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a client");
                let serve = service_fn(|request: Request<Incoming>| async {
                    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", PATH));
                    assert_eq!(request.headers()["user-agent"], AGENT);
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    let long = [&[SERVICE, 0x80 | 72, 1][..], &[b'x'; 200]].concat();
                    Ok::<_, Infallible>(match &body[5..] {
                        [] | b"\x0a\x02up" => answer(&[8, 1], "0"),
                        b"\x0a\x04down" => answer(&[8, 2], "0"),
                        b"\x0a\x04none" => answer(&[], "12"),
                        other if *other == long => answer(&[], "0"),
                        _ => answer(&[], "5"),
                    })
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = connection.serve_connection(TokioIo::new(stream), serve).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn only_a_service_that_serves_is_healthy() {
        let address = server().await;
        assert_eq!(check(&address, "").await, Answer::Success);
        assert_eq!(check(&address, "up").await, Answer::Success);
        let failure = async |service: &str| match check(&address, service).await {
            Answer::Failure(why) => why,
            other => panic!("{service}: {other:?}"),
        };
        assert_eq!(failure("down").await, "service unhealthy (responded with \"NOT_SERVING\")");
        let long = "x".repeat(200);
        assert_eq!(failure(&long).await, "service unhealthy (responded with \"UNKNOWN\")");
        assert!(
            failure("none").await.starts_with("error: this server does not implement the grpc")
        );
        assert!(failure("other").await.starts_with("error: health rpc probe failed: "));
        let closed = check("127.0.0.1:1", "").await;
        assert!(
            matches!(&closed, Answer::Failure(why) if why.starts_with("error: failed to connect")),
            "{closed:?}"
        );
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = status_of(&mut &bytes[..]);
        }
    }

    #[test]
    fn unknown_fields_are_passed_over() {
        let later: &[u8] = &[18, 2, b'o', b'k', 8, 1, 29, 0, 0, 0, 0, 33, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(status_of(&mut &later[..]), Some(1));
        assert_eq!(status_of(&mut &[8][..]), None);
        assert_eq!(status_of(&mut &[18, 9, 1][..]), None);
    }
}
