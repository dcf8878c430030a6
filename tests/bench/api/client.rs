//! One kept connection that asks and reads, with nothing in between that could cost more than what
//! is measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub struct Client {
    sender: SendRequest<Body>,
    address: SocketAddr,
}

/// An answer that was read to its end.
pub struct Answer {
    pub took: Duration,
    pub bytes: usize,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a listener");
        stream.set_nodelay(true).expect("a TCP stream");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(async move {
            // Ends with its client.
            let _ = connection.await;
        });
        Self { sender, address }
    }

    /// Sends; the head of the answer is there, its body is still to come.
    pub async fn send(&mut self, mut request: Request<Body>) -> Response<Incoming> {
        let host = self.address.to_string().parse().expect("a header");
        request.headers_mut().insert("host", host);
        self.sender.ready().await.expect("the connection is open");
        self.sender.send_request(request).await.expect("an answer")
    }

    /// Until the last byte of a GET's answer.
    pub async fn get(&mut self, uri: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.timed(request.body(Body::empty()).expect("a request"), StatusCode::OK).await
    }

    pub async fn timed(&mut self, request: Request<Body>, code: StatusCode) -> Answer {
        let begun = Instant::now();
        let response = self.send(request).await;
        assert_eq!(response.status(), code);
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.expect("the answer goes on").data_ref().map_or(0, Bytes::len);
        }
        Answer { took: begun.elapsed(), bytes }
    }

    /// The whole answer, for the floor to give again.
    pub async fn whole(&mut self, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
        let (parts, body) = self.send(request).await.into_parts();
        let bytes = body.collect().await.expect("an answer").to_bytes();
        (parts.status, parts.headers, bytes)
    }
}
