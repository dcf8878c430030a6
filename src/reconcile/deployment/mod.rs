//! A Deployment rolls its Pods from one template to the next by scaling ReplicaSets.
//!
//! Comes in: Deployments, and ReplicaSets by owner (for `Recreate` also their Pods). Goes out:
//! ReplicaSets created, scaled, annotated and removed; the status; the revision annotation.
//!
//! The loop: claim, [`rollout_plan`], perform, [`status`]. The arithmetic is Kubernetes' own
//! ([`fenceposts`], [`proportional`], [`revision`]).
//!
//! Invariants: a pass scales either up or down, never both. Every write of a ReplicaSet names the
//! resourceVersion it was planned on, and a pass waits until the caches show the writes of the last.
//! The pods of all ReplicaSets never exceed wanted plus surge, and those available never fall below
//! wanted minus unavailable by our doing: no pass scales on a status that was made for an earlier
//! spec. Going back to an earlier template uses its ReplicaSet again. A paused Deployment changes no
//! template, but scales.
//!
//! Deliberately absent: `rollbackTo` (deprecated since apps/v1; a revert is a commit), watching Pods (a
//! ReplicaSet's status tells when its last pod is gone).

pub mod rollout_plan;

pub mod fenceposts;
pub mod new_replica_set;
pub mod proportional;
pub mod revision;
pub mod status;

pub mod controller;
