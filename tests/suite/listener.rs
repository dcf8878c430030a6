//! What strangers and wild clients cost the others: ten thousand connections, handshakes and heads
//! that never end, more requests and watches than one identity's share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ballast::api::gate::allowance::Share;
use ballast::api::gate::tls::Certificate;
use ballast::api::server::{Limits, Surface, bind, serve};
use ballast::cli::GrantedRole;
use ballast::object::Cluster;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::access::Secured;
use crate::fixture::{Fixture, PATIENCE, config, pod};

const CROWD: usize = 10_000;

fn own() -> Certificate {
    Certificate::Own { names: vec!["localhost".into(), "127.0.0.1".into()] }
}

/// Both ends of every connection are this process's.
fn many_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = (CROWD + 4000) as u64;
    assert!(maximum.is_none_or(|most| most >= wanted), "at least {wanted} descriptors: ulimit -Hn");
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

async fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    let connections = futures::stream::iter(0..CROWD).map(|_| TcpStream::connect(address));
    let connections = connections.buffer_unordered(64).filter_map(|made| async { made.ok() });
    tokio::time::timeout(PATIENCE, connections.collect()).await.expect("all are accepted")
}

/// How many the server has not closed.
async fn open(crowd: &[TcpStream]) -> usize {
    let mut byte = [0];
    let is_open = |stream: &&TcpStream| {
        let read = stream.try_read(&mut byte);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    crowd.iter().filter(is_open).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_leave_the_others_unharmed() {
    many_descriptors();
    // Nothing that a silent connection could run out of: the crowd stays as long as it may.
    let limits = Limits { header_time: PATIENCE, ..Limits::new(Surface::Secured) };
    let served = Secured::with(false, limits, own()).await;
    let client = served.client(GrantedRole::Viewer, "ada").await;
    let pods: Api<Pod> = Api::all(client);
    // What was open before goes on: a watch is busy.
    let watch = pods.watch(&kube::api::WatchParams::default(), "0").await.expect("watches");
    let mut watch = Box::pin(watch);
    let crowd = crowd(served.address).await;
    assert!(crowd.len() > CROWD / 2, "{} connected", crowd.len());
    for _ in 0..20 {
        let begun = tokio::time::Instant::now();
        pods.list(&ListParams::default()).await.expect("listed");
        // A handshake and a list, on a machine that does other things too.
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert!(
            served.ask("GET /healthz", "Host: localhost\r\n").await.starts_with("HTTP/1.1 200")
        );
    }
    let few = async {
        while open(&crowd).await > 1024 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, few).await.expect("no more than the listener's places");
    served.fixture.admin().create(&pod("p")).await.expect("created");
    let news = tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch lives");
    assert!(news.is_some_and(|news| news.is_ok()));
    drop((crowd, watch));
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crowd_is_one_addresss_and_loses_its_own_places() {
    let fixture = Fixture::new();
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = bind(any, Surface::Everything).await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let limits = Limits { connections: 8, ..Limits::new(Surface::Everything) };
    let serving = serve(listener, fixture.api.router(), limits, fixture.tasks.clone());
    fixture.tasks.spawn("listener", serving);
    // Ada from an address of her own, idle between two requests of one connection.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0).into()).expect("bound");
    let mut ada = socket.connect(address).await.expect("connects");
    let mut answer = [0; 4096];
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    ada.write_all(request).await.expect("sent");
    assert!(ada.read(&mut answer).await.expect("answered") > 0);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut one = TcpStream::connect(address).await.expect("connects");
        one.write_all(b"GET /hea").await.expect("sent");
        crowd.push(one);
    }
    let few = async {
        while open(&crowd).await > 7 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, few).await.expect("the places are few");
    ada.write_all(request).await.expect("sent");
    let got = ada.read(&mut answer).await.expect("her connection lives");
    assert!(answer[..got].starts_with(b"HTTP/1.1 200"));
    drop((ada, crowd));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_and_heads_that_never_end_are_ended() {
    let limits =
        Limits { header_time: Duration::from_millis(300), ..Limits::new(Surface::Secured) };
    let served = Secured::with(false, limits, own()).await;
    // A first byte of TLS and no more; plain HTTP; nothing.
    for beginning in [&b"\x16"[..], b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b""] {
        let mut stream = TcpStream::connect(served.address).await.expect("connects");
        stream.write_all(beginning).await.expect("sent");
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(PATIENCE, reading).await.expect("the server hangs up");
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{beginning:?}");
    }
    // Half a head over TLS; and one of a byte now and then.
    let mut stream = served.connect().await.expect("connects");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: lo").await.expect("sent");
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(PATIENCE, reading).await.expect("the server hangs up");
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    let mut stream = served.connect().await.expect("connects");
    let begun = tokio::time::Instant::now();
    while stream.write_all(b"G").await.is_ok() && stream.flush().await.is_ok() {
        assert!(begun.elapsed() < PATIENCE, "a drip is never ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A head that is too long is refused, a body that is too long is not read.
    let long = format!("Host: localhost\r\nX: {}\r\n", "x".repeat(1 << 20));
    let stream = served.connect().await.expect("connects");
    let (mut reading, mut writing) = tokio::io::split(stream);
    let request = format!("GET /healthz HTTP/1.1\r\n{long}\r\n");
    let _ = writing.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut answer)).await.expect("ended");
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    let token = served.token(GrantedRole::Viewer, "ada");
    let announced = format!(
        "Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000000000\r\n"
    );
    let answer = served.ask("POST /api/v1/namespaces/default/pods", &announced).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    served.fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_identity_has_its_share_and_no_more() {
    let share = Share {
        per_second: 0.001,
        burst: 4.0,
        at_once: 16,
        streams: 1,
        patience: Duration::from_secs(1),
    };
    let limits = Limits { share, ..Limits::new(Surface::Secured) };
    let served = Secured::with(false, limits, own()).await;
    let large = config("large", &"value ".repeat(30_000));
    served.fixture.admin().create(&large).await.expect("created");
    let head = |token: &str| format!("Host: localhost\r\nAuthorization: Bearer {token}\r\n");
    let eve = head(&served.token(GrantedRole::Viewer, "eve"));
    let ada = head(&served.token(GrantedRole::Viewer, "ada"));
    let watch = "GET /api/v1/pods?watch=true HTTP/1.1";
    let mut watching = served.connect().await.expect("connects");
    let request = format!("{watch}\r\n{eve}\r\n");
    watching.write_all(request.as_bytes()).await.expect("sent");
    let mut begun = [0; 12];
    watching.read_exact(&mut begun).await.expect("it begins");
    assert_eq!(&begun, b"HTTP/1.1 200");
    let second = served.ask("GET /api/v1/pods?watch=true", &eve).await;
    assert!(second.starts_with("HTTP/1.1 429"), "one stream at a time: {second}");
    assert!(served.ask("GET /api/v1/pods", &eve).await.starts_with("HTTP/1.1 200"));
    // Compressed, a list has no length, and is no stream for that.
    let large = format!("{eve}Accept-Encoding: gzip\r\nConnection: close\r\n\r\n");
    let mut zipped = served.connect().await.expect("connects");
    let request = format!("GET /api/v1/configmaps HTTP/1.1\r\n{large}");
    zipped.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    zipped.read_to_end(&mut answer).await.expect("read");
    let head = String::from_utf8_lossy(&answer[..answer.len().min(500)]).to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("encoding: gzip"), "{head}");
    let fourth = served.ask("GET /api/v1/pods", &eve).await;
    assert!(fourth.starts_with("HTTP/1.1 429"), "{fourth}");
    assert!(fourth.to_lowercase().contains("retry-after: 1"), "{fourth}");
    assert!(fourth.contains("\"reason\":\"TooManyRequests\""), "{fourth}");
    for _ in 0..2 {
        assert!(served.ask("GET /api/v1/pods", &ada).await.starts_with("HTTP/1.1 200"));
    }
    drop(watching);
    served.fixture.end().await;
}
