//! Decides which node runs a pod, and binds it there.
//!
//! Comes in: pods without a node that name `default-scheduler`, and nodes. Goes out: bindings, the
//! condition `PodScheduled=False` with the reason nobody could take the pod, and the Events
//! `Scheduled` and `FailedScheduling`.
//!
//! The loop ([`run`]): observe both watches into a [`snapshot::Snapshot`] and a [`queue::Queue`];
//! plan one pod at a time with [`placement::place`]; perform by *assuming* the placement in the
//! snapshot and binding in the background, many at once; report what could not be placed. A pod
//! is placed on what is promised, not on what is confirmed: the assumption ends when the watch
//! shows the pod bound or gone, or when the binding is refused.
//!
//! Invariants: the sum of requests on a node never exceeds its allocatable, assumptions included;
//! a binding names the pod's uid; a message is written only when it differs from the last one; a
//! pod that makes the decision panic is parked and shown, and stops nobody else.
//!
//! Deliberately absent: preemption, inter-pod affinity, topology constraints beside the spread by
//! owner (refused by admission). `PodScheduled=True` is the API's: it sets it as it binds.
//!
//! A pod with claims goes where its volumes are ([`storage`]). Claims that wait for it get a volume of the
//! node, or the node's word to make one, when the node is chosen ([`volume_writes`]); the pod keeps its
//! room there and is bound when all of them are.
//!
//! Reading order: what a pod asks, what the nodes have, who can, who should, the decision, when,
//! what a watch keeps of a pod, what its volumes say, the loop.

pub mod demand;
pub mod filter;
pub mod placement;
pub mod queue;
pub mod run;
pub mod score;
pub mod sighting;
pub mod snapshot;
pub mod storage;
mod volume_waits;
mod volume_writes;

pub use run::{Options, run, run_with};
