//! A ReplicaSet keeps the number of its Pods.
//!
//! Comes in: ReplicaSets, and Pods by owner. Goes out: Pods created from the template and deleted in
//! the order of [`deletion_rank`], ownership taken and given up by selector and uid, the status.
//!
//! The loop: claim, [`plan`], create with slow start or delete, [`status`].
//!
//! Invariants: a pod that another controller owns is never touched; a delete names the uid; after a
//! write nothing is planned until the cache shows it (or five minutes have passed); a pass creates or
//! deletes at most 500; the first failing batch of creations ends the pass.
//!
//! Deliberately absent: knowledge of Deployments beyond "pods of one owner share nodes".

pub mod plan;

pub mod deletion_rank;
pub mod pod_template;
pub mod status;

pub mod controller;
