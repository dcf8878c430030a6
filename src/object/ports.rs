//! Pure: what the API must reach in a room, and one room in another, as traits. They are
//! implemented there and handed over by `daemon`, so that no room imports another (law 1).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

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

/// What a container or a host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Billionths of a core, as a mean over the report's window.
    pub cpu_nanocores: u64,
    /// Bytes that could not be taken back under pressure: the working set.
    pub memory_bytes: u64,
}

/// What the containers of a pod use, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUsage {
    pub pod: Key,
    pub containers: Vec<(String, Usage)>,
}

/// What one node and its pods use.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageReport {
    /// When it was measured.
    pub at: Timestamp,
    /// The time over which rates are means.
    pub window_seconds: f64,
    pub node: String,
    /// `None` where the host does not tell.
    pub node_usage: Option<Usage>,
    pub pods: Vec<PodUsage>,
}

/// Measures what runs; implemented by `node`, asked by `kubectl top`. The answer takes about a second:
/// a rate needs two looks.
pub trait Usages: Send + Sync + 'static {
    fn usage(&self) -> BoxFuture<Result<Arc<UsageReport>, ApiError>>;
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
