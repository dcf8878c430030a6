//! The listener: what a stranger's connection may cost. Handshakes and heads and their time are
//! bounded, connections are counted and end where nobody reads, and a stop lets running answers end.
//! Whose a request is and what it may use is the gate's matter (`gate/`).

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::FutureExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::api::gate::allowance::Share;
use crate::api::gate::connections::{Connections, Place};
use crate::api::gate::credential::Fingerprint;
use crate::api::gate::passage::{Entry, Gate, GateOptions, Peer};
use crate::api::metrics::Metrics;
use crate::api::stall::Stalling;
use crate::api::unread::Watched;
use crate::clock::Clock;
use crate::task::Tasks;

/// What a listener is for decides who may reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Everything, to everybody on this machine: loopback only.
    Everything,
    /// Everything, behind TLS and credentials: any address.
    Secured,
    /// The webhook alone: may be public, its deliveries are signed.
    WebhookOnly,
}

/// The bounds of one listener.
#[derive(Clone, Debug)]
pub struct Limits {
    pub surface: Surface,
    /// Open connections; a watch holds one. The next ones take the places of those that do nothing,
    /// or wait in the kernel's queue.
    pub connections: usize,
    /// What one identity may use of them.
    pub share: Share,
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
                // A few dozen nodes with a dozen watches each, people with dashboards and
                // `kubectl -w`, and as many again.
                Surface::Everything | Surface::Secured => 1024,
                // A delivery takes milliseconds, and a forge sends a handful at once.
                Surface::WebhookOnly => 64,
            },
            share: share(surface),
            header_bytes: 16 * 1024,
            header_time: Duration::from_secs(10),
            // Half of what a reverse proxy allows by default (nginx's send_timeout).
            stall_time: Duration::from_secs(30),
            stop_time: Duration::from_secs(5),
            metrics: Metrics::default(),
        }
    }
}

/// What one identity may use.
fn share(surface: Surface) -> Share {
    let (per_second, streams) = match surface {
        // Ten times what client-go allows itself (50 a second); a quarter of the connections.
        Surface::Secured => (500.0, 256),
        // Everybody on this machine is one identity: its dashboards, its Prometheus, its people.
        Surface::Everything | Surface::WebhookOnly => (10_000.0, 768),
    };
    Share {
        per_second,
        burst: 2.0 * per_second,
        // With the bound for a list of everything, 50 ms of a core, whoever asks next on two cores
        // waits 0.4 s at most for another one's.
        at_once: 16,
        streams,
        patience: Duration::from_secs(10),
    }
}

/// Why a listener was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "{0} can be reached from other machines and is not served without TLS: listen on 127.0.0.1, or let TLS on"
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
/// A public address for everything without TLS, or one that is taken.
pub async fn bind(address: SocketAddr, surface: Surface) -> Result<TcpListener, ListenError> {
    if surface == Surface::Everything && !address.ip().is_loopback() {
        return Err(ListenError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })
}

/// Serves without TLS and without an audit log: everybody on this machine, or webhooks.
///
/// # Panics
/// With the limits of a secured surface, which has no listener without a gate.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, tasks: Tasks) {
    let entry = match limits.surface {
        Surface::Everything => Entry::Loopback,
        Surface::WebhookOnly => Entry::Webhook,
        Surface::Secured => panic!("a secured surface is served behind a gate of its own"),
    };
    let (share, clock) = (limits.share, Clock::wall());
    let gate = Gate::new(GateOptions { entry, audit: None, share, clock });
    serve_behind(gate, listener, router, limits, tasks).await;
}

/// Serves until the stop signal; running answers have [`Limits::stop_time`] to end then. Each
/// connection is a task.
pub async fn serve_behind(
    gate: Gate,
    listener: TcpListener,
    router: Router,
    limits: Limits,
    tasks: Tasks,
) {
    let stop = tasks.stop().clone();
    let connections = Connections::new(limits.connections);
    let limits = Arc::new(limits);
    loop {
        let accepted = tokio::select! {
            biased;
            // Cancel safe: a cancelled token stays cancelled.
            () = stop.cancelled() => break,
            // Cancel safe: a connection that was not accepted stays queued.
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(failure) => {
                // Out of descriptors: accepting again at once would spin.
                warn!(%failure, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = tokio::select! {
            biased;
            // Cancel safe: a cancelled token stays cancelled.
            () = stop.cancelled() => break,
            // Cancel safe: a place that was not taken is free.
            place = connections.enter(address.ip()) => place,
        };
        let connection = Connection {
            gate: gate.clone(),
            router: router.clone(),
            limits: limits.clone(),
            address,
            place: Arc::new(place),
            stop: stop.clone(),
        };
        tasks.spawn_short("connection", async move {
            // A panic is this connection's: the client sees it close, the daemon is none the worse.
            let ended = AssertUnwindSafe(connection.run(stream)).catch_unwind().await;
            if ended.is_err() {
                error!("a request panicked, its connection was closed");
            }
        });
    }
}

/// One connection, from the handshake on.
struct Connection {
    gate: Gate,
    router: Router,
    limits: Arc<Limits>,
    address: SocketAddr,
    place: Arc<Place>,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Small answers and watch lines go out at once.
        let _ = stream.set_nodelay(true);
        let given_up = self.limits.metrics.given_up().clone();
        let stream = Stalling::new(stream, self.limits.stall_time)
            .counting(given_up)
            .keeping(self.place.clone());
        let close = self.place.close.clone();
        let Some(tls) = self.gate.tls().cloned() else {
            return self.speak(stream, None).await;
        };
        let handshake = tokio::time::timeout(self.limits.header_time, tls.accept(stream));
        let shaken = tokio::select! {
            biased;
            // Cancel safe: a cancelled token stays cancelled.
            () = close.cancelled() => return,
            // Cancel safe: a cancelled token stays cancelled.
            () = self.stop.cancelled() => return,
            // Dropped only with the connection.
            shaken = handshake => shaken,
        };
        match shaken {
            Ok(Ok((stream, certificate))) => self.speak(stream, certificate).await,
            Ok(Err(failure)) => debug!(from = %self.address, %failure, "no TLS handshake"),
            Err(_) => debug!(from = %self.address, "the TLS handshake took too long"),
        }
    }

    /// HTTP/1: no second protocol, no stream to reset.
    async fn speak(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        certificate: Option<Fingerprint>,
    ) {
        let Self { gate, router, limits, address, place, stop } = self;
        let close = place.close.clone();
        let peer = Peer { address, certificate, place };
        let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (gate, router, peer) = (gate.clone(), router.clone(), peer.clone());
            async move {
                let (head, body) = request.into_parts();
                let (body, end) = Watched::new(body);
                let request = hyper::Request::from_parts(head, Body::new(body));
                let answered = gate.answer(&peer, router, request).await;
                Ok::<_, std::convert::Infallible>(end.told(answered))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time)
            .max_buf_size(limits.header_bytes)
            .serve_connection(TokioIo::new(stream), answer)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            biased;
            // Cancel safe: a cancelled token stays cancelled.
            () = close.cancelled() => return,
            // Cancel safe: a cancelled token stays cancelled.
            () = stop.cancelled() => None,
            // Polled on below, or dropped with the connection.
            ended = connection.as_mut() => Some(ended),
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(limits.stop_time, connection).await {
                    Ok(ended) => ended,
                    Err(_) => {
                        return debug!(from = %address, "still open at the end of the stop time");
                    }
                }
            }
        };
        if let Err(failure) = ended {
            debug!(from = %address, %failure, "connection ended early");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_public_address_is_for_the_webhook_or_behind_tls() {
        let public: SocketAddr = "0.0.0.0:0".parse().expect("an address");
        assert!(matches!(
            bind(public, Surface::Everything).await,
            Err(ListenError::NotLoopback(_))
        ));
        assert!(bind(public, Surface::WebhookOnly).await.is_ok());
        assert!(bind(public, Surface::Secured).await.is_ok());
    }
}
