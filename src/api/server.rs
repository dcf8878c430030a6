//! The listener: what a stranger's connection may cost. Headers and their time are bounded,
//! connections are counted and end where nobody reads, a browser that was sent here by a foreign
//! page is refused by its `Host`, and a stop lets running answers end.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, error, warn};

use crate::api::metrics::Metrics;
use crate::api::reply::error_reply;
use crate::api::stall::Stalling;
use crate::object::{ApiError, Reason};
use crate::task::Tasks;

/// What a listener is for decides who may reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Everything: loopback only, until there is TLS.
    Everything,
    /// The webhook alone: may be public, its deliveries are signed.
    WebhookOnly,
}

/// The bounds of one listener.
#[derive(Clone, Debug)]
pub struct Limits {
    pub surface: Surface,
    /// Open connections; a watch holds one. The next ones wait in the kernel's queue.
    pub connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// For a request's head to be there.
    pub header_time: Duration,
    /// For a client to read on, where an answer waits for it.
    pub stall_time: Duration,
    /// For running answers to end after the stop signal.
    pub stop_time: Duration,
    /// Where clients that do not read are counted.
    pub metrics: Metrics,
}

impl Limits {
    /// The bounds that the daemon uses.
    pub fn new(surface: Surface) -> Self {
        Self {
            surface,
            connections: match surface {
                // A few people with dashboards and `kubectl -w`, and room for ten times as many.
                Surface::Everything => 512,
                // A delivery takes milliseconds, and a forge sends a handful at once.
                Surface::WebhookOnly => 64,
            },
            header_bytes: 16 * 1024,
            header_time: Duration::from_secs(10),
            // Half of what a reverse proxy allows by default (nginx's send_timeout).
            stall_time: Duration::from_secs(30),
            stop_time: Duration::from_secs(5),
            metrics: Metrics::default(),
        }
    }
}

/// Why a listener was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "{0} can be reached from other machines and there is no TLS yet: listen on 127.0.0.1, and use --webhook-listen for a public webhook"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// Opens a listener, if its surface may be reached there.
///
/// # Errors
/// A public address for anything but the webhook, or one that is taken.
pub async fn bind(address: SocketAddr, surface: Surface) -> Result<TcpListener, ListenError> {
    if surface == Surface::Everything && !address.ip().is_loopback() {
        return Err(ListenError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })
}

/// Serves until the stop signal, then lets running answers end. Each connection is a task.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, tasks: Tasks) {
    let stop = tasks.stop().clone();
    let slots = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let abandon = CancellationToken::new();
    loop {
        let slot = tokio::select! {
            biased;
            // Cancel safe: a cancelled token stays cancelled.
            () = stop.cancelled() => break,
            // Cancel safe: a permit that was not taken stays.
            slot = Arc::clone(&slots).acquire_owned() => slot.expect("nobody closes the semaphore"),
        };
        let accepted = tokio::select! {
            biased;
            // Cancel safe: a cancelled token stays cancelled.
            () = stop.cancelled() => break,
            // Cancel safe: a connection that was not accepted stays queued.
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(failure) => {
                // Out of descriptors: accepting again at once would spin.
                warn!(%failure, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = graceful.watch(connection(stream, router.clone(), &limits));
        // A panic is this connection's: the client sees it close, the daemon is none the worse.
        let connection = AssertUnwindSafe(connection).catch_unwind();
        let abandoned = abandon.clone();
        tasks.spawn_short("connection", async move {
            tokio::select! {
                biased;
                // Cancel safe: a cancelled token stays cancelled.
                () = abandoned.cancelled() => {}
                // Dropped only when the daemon stops, and then it may end anywhere.
                ended = connection => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(failure)) => debug!(%failure, "connection ended early"),
                    Err(_) => error!("a request panicked, its connection was closed"),
                }
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.stop_time, graceful.shutdown()).await.is_err() {
        debug!("connections were still open at the end of the stop time");
    }
    abandon.cancel();
}

/// One HTTP/1 connection: no second protocol, no stream to reset.
fn connection(
    stream: TcpStream,
    router: Router,
    limits: &Limits,
) -> impl GracefulConnection<Error = hyper::Error> + Send + use<> {
    // Small answers and watch lines go out at once.
    let _ = stream.set_nodelay(true);
    let stream =
        Stalling::new(stream, limits.stall_time).counting(limits.metrics.given_up().clone());
    let check_host = limits.surface == Surface::Everything;
    let answer = move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            if check_host && !is_local(&request) {
                return Ok(error_reply(&ApiError::new(
                    Reason::Forbidden,
                    "this Host is not served here: ask for localhost or a loopback address",
                )));
            }
            router.oneshot(request.map(Body::new)).await
        }
    };
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.header_bytes)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
}

/// Whether the request was meant for this machine. A page of a foreign site can make a browser
/// connect to loopback (DNS rebinding), but not lie in the `Host` header.
fn is_local<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let named = request.uri().authority().map(axum::http::uri::Authority::as_str);
    let all_local = [host.to_str().ok(), named.or(host.to_str().ok())];
    all_local.into_iter().all(|text| text.is_some_and(is_local_name))
}

/// `localhost`, `*.localhost` (RFC 6761) or a loopback address, with or without a port.
fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        // A bare IPv6 address has colons and no port.
        _ if host.parse::<IpAddr>().is_ok() => host,
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in [
            "localhost",
            "LOCALHOST:7440",
            "127.0.0.1:7440",
            "[::1]:7440",
            "::1",
            "web.localhost",
            "127.9.9.9",
        ] {
            assert!(is_local_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:7440",
            "localhost.evil.example",
            "10.0.0.1",
            "127.0.0.1.nip.io",
            "[::2]:80",
            "0.0.0.0",
        ] {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[tokio::test]
    async fn a_public_address_is_for_the_webhook_alone() {
        let public: SocketAddr = "0.0.0.0:0".parse().expect("an address");
        assert!(matches!(
            bind(public, Surface::Everything).await,
            Err(ListenError::NotLoopback(_))
        ));
        assert!(bind(public, Surface::WebhookOnly).await.is_ok());
    }
}
