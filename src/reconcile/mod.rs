//! Objects beget objects: the controllers that turn a Deployment into ReplicaSets, a ReplicaSet into
//! Pods, a Service into EndpointSlices; and those that bind, expire and tear down.
//!
//! Comes in: one shared watch a kind, as an indexed cache ([`cache`]). Goes out: writes through
//! [`crate::object::Cluster`], Events, statuses. Every controller is a folder; its `controller.rs` is thin (observe,
//! perform, report), everything that decides is pure and stands beside it.
//!
//! The loop: a change of any object that a controller looks at wakes the key that it may concern
//! ([`engine`]); kube-runtime's `Controller` deduplicates the keys and runs one reconcile a key at a
//! time; a reconcile reads the caches, plans, performs, writes the status, and says when to look again.
//! A wake-up carries no payload, and every key is looked at again on a timer.
//!
//! Invariants: a cache is only ever behind, never wrong: what it decides is guarded by uid or
//! resourceVersion, or waits until the cache has caught up with our own writes
//! ([`cache::Cache::has_seen`]). A reconcile that panics quarantines its object and stops nothing else.
//! Nothing waits inside a reconcile.
//!
//! Deliberately absent: leader election (one process decides), a home-made work queue, finalizers and
//! Events of kube-runtime (they write past the API's inner skin).

pub mod kept;

pub mod indexed;

pub mod cache;
mod metrics;
pub mod quarantine;
pub mod retry;

pub mod engine;
pub mod watches;

pub mod adoption;
pub mod claim;
pub mod expectation;
pub mod owner;
pub mod pod_outline;
pub mod pod_state;

pub mod deployment;
pub mod endpoint_slice;
pub mod persistent_volume;
pub mod replica_set;

pub mod scheduler;

pub mod garbage;
pub mod namespace;
pub mod node_lifecycle;

mod run;

pub use metrics::{Metrics, Vitals};
pub use run::{Options, run, run_with};
