//! Clients that stop reading: each is given up after its time, and holds neither a connection nor
//! memory beyond it; a watch that has nothing to say is left alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use ballast::api::server::{Limits, Surface, bind, serve};
use ballast::object::Cluster;
use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::fixture::{Fixture, config, object};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection at a time, given up after a moment: whoever comes second is answered only when
/// the first one is gone.
fn limits() -> Limits {
    Limits {
        connections: 1,
        header_time: Duration::from_millis(300),
        stall_time: Duration::from_millis(300),
        ..Limits::new(Surface::Everything)
    }
}

async fn listen(fixture: &Fixture, router: Router, limits: Limits) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().expect("an address"), Surface::Everything);
    let listener = listener.await.expect("binds");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, router, limits, fixture.tasks.clone()));
    address
}

/// Asks, and reads nothing. It is being answered then: a connection that does nothing would lose its
/// place to the next one.
async fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    let mut stream = socket.connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.peek(&mut [0]).await.expect("the answer begins");
    stream
}

/// Until the server has a connection free: the answer to a second client.
async fn answered(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer));
    reading.await.expect("the connection before is given up").expect("read");
    answer
}

/// More than all buffers of two sockets together.
async fn fill(fixture: &Fixture) {
    let admin = fixture.admin();
    for number in 0..48 {
        let map: ConfigMap = object(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("c{number}"), "namespace": "default"},
            "data": {"a": "x".repeat(500_000)}}));
        admin.create(&map).await.expect("a big ConfigMap");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_a_watch_that_nobody_reads_are_given_up() {
    let fixture = Fixture::new();
    fill(&fixture).await;
    let mut registry = prometheus_client::registry::Registry::default();
    fixture.api.metrics().register(&mut registry);
    let limits = Limits { metrics: fixture.api.metrics().clone(), ..limits() };
    let address = listen(&fixture, fixture.api.router(), limits).await;
    for (given_up, path) in [(1, "/api/v1/configmaps"), (2, "/api/v1/configmaps?watch=true")] {
        let unread = ask(address, path).await;
        assert!(answered(address, "/healthz").await.starts_with("HTTP/1.1 200"), "{path}");
        drop(unread);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        let line = format!("ballast_api_slow_readers_total {given_up}");
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_watch_outlives_every_patience() {
    let fixture = Fixture::new();
    fill(&fixture).await;
    let limits = Limits { connections: 2, ..limits() };
    let address = listen(&fixture, fixture.api.router(), limits).await;
    let admin = fixture.admin();
    let revision = admin.create(&config("one", "1")).await.expect("created");
    let revision = revision.metadata.resource_version.clone().expect("a revision");
    let path = format!("/api/v1/configmaps?watch=true&resourceVersion={revision}");
    let mut watch = BufReader::new(ask(address, &path).await);
    let mut line = String::new();
    watch.read_line(&mut line).await.expect("the watch begins");
    // Beside it one that is given up: more time than the patience has gone by.
    let unread = ask(address, "/api/v1/configmaps").await;
    assert!(answered(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    drop(unread);
    admin.create(&config("two", "2")).await.expect("created");
    let news = async {
        while !line.contains("\"name\":\"two\"") {
            line.clear();
            assert!(watch.read_line(&mut line).await.expect("still open") > 0, "it was closed");
        }
    };
    tokio::time::timeout(PATIENCE, news).await.expect("the watch goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_read_is_not_made() {
    let fixture = Fixture::new();
    let made = Arc::new(AtomicUsize::new(0));
    let counted = made.clone();
    let endless = get(move || async move {
        let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
        let chunks = futures::stream::repeat(chunk).map(move |chunk| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(chunk)
        });
        Body::from_stream(chunks)
    });
    let router = fixture.api.router().merge(Router::new().route("/endless", endless));
    let address = listen(&fixture, router, limits()).await;
    let unread = ask(address, "/endless").await;
    assert!(answered(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    // The kernel's buffers hold some megabytes; nothing was made for anybody beyond them.
    let mebibytes = made.load(Ordering::Relaxed) * 64 / 1024;
    assert!(mebibytes < 32, "{mebibytes} MiB for a client that reads nothing");
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_asks_nothing_more_is_closed() {
    let fixture = Fixture::new();
    let address = listen(&fixture, fixture.api.router(), limits()).await;
    let mut kept = ask(address, "/healthz").await;
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, kept.read_to_end(&mut answer));
    reading.await.expect("the server closes it").expect("read");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}
