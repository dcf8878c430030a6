//! Pure: what the API must reach in a room, and one room in another, as traits. They are
//! implemented there and handed over by `daemon`, so that no room imports another (law 1).

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::object::{ApiError, Key};

/// A future that a trait object can return.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// `kubectl logs`' parameters, with Kubernetes' meanings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// The container's name; `None` only where the pod has one container.
    pub container: Option<String>,
    pub follow: bool,
    /// The instance before the running one.
    pub previous: bool,
    /// Seconds back from now.
    pub since_seconds: Option<i64>,
    /// RFC 3339.
    pub since_time: Option<String>,
    pub timestamps: bool,
    pub tail_lines: Option<i64>,
    pub limit_bytes: Option<i64>,
}

/// Reads containers' logs; implemented by `node`.
pub trait Logs: Send + Sync + 'static {
    fn logs(
        &self,
        pod: Key,
        query: LogQuery,
    ) -> BoxFuture<Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError>>;
}

/// Wakes a source's sync; implemented by `sync`, called by the webhook. It carries no payload on
/// purpose: the fetch decides what is true.
pub trait WakeSync: Send + Sync + 'static {
    /// `false` when no source has that name.
    fn wake(&self, source: &str) -> bool;
}

/// Knows what the rules of this node let through; implemented by `network`.
pub trait Withdrawal: Send + Sync + 'static {
    /// Resolves when no programmed rule sends a new connection to the pod's address any more.
    /// The caller bounds the wait (2 s, ARCHITECTURE.md section 5).
    fn withdrawn(&self, pod_ip: std::net::Ipv4Addr) -> BoxFuture<()>;
}
