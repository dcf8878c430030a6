//! Judges nodes by their heartbeat, and moves pods away from those that are lost.
//!
//! Comes in: nodes, their Leases (`kube-node-lease/<node>`) and the pods on them. Goes out: a
//! node's conditions set to `Unknown` when its agent is silent, taints that follow the conditions,
//! the `Ready` condition of pods nobody vouches for any more, evictions by `NoExecute` taints and
//! tolerationSeconds, and the removal of pods whose node does not exist.
//!
//! The loop ([`controller`]): observe three watches into plain maps; every second, and at once
//! when a node changes, plan with the pure files below and perform.
//!
//! Invariants: silence is measured with our own clock from the last *change* of a heartbeat, never
//! by comparing clocks of two machines; a time in which we did not run is nobody's silence; when
//! every node, or every node but one of several, is lost, the fault is assumed to be ours and no
//! pod is evicted; a pod is deleted for want of its node only after an uncached read.
//!
//! Deliberately absent: zones, and the rate limit of evictions (one node in 10 s upstream): a
//! cluster of some dozen nodes that loses more than half of them does not evict at all.
//!
//! Reading order: what a heartbeat says, what follows for the node, what follows for its pods.

pub mod controller;
pub mod eviction;
pub mod heartbeat;
pub mod pod_gc;
pub mod verdict;

pub use controller::run;
pub use heartbeat::Settings;
