//! Empties namespaces that are to go, and sees that `default` exists.
//!
//! Comes in: namespaces, and the content of those with a deletionTimestamp. Goes out: deletions,
//! the conditions that say what is still there, and at last the namespace without `kubernetes` in
//! its `spec.finalizers`.
//!
//! The contract with the API: a delete of a Namespace sets deletionTimestamp and the phase
//! `Terminating` and keeps the object while `spec.finalizers` is not empty; from then on nothing
//! new is created in it; an `update` of the Namespace whose `spec.finalizers` is empty, with the
//! resourceVersion of the state it was decided on, removes the object.
//!
//! The loop ([`controller`]): for every namespace that is to go, list what is in it, decide with
//! [`teardown::plan`], perform, look again.
//!
//! Invariants: owners of pods are told to go before the pods, so that nobody makes new ones; pods
//! end with their own grace; what pods use goes after the last pod; a namespace ends only when a
//! list of every kind was empty and none failed.
//!
//! Deliberately absent: discovery of kinds (the table of kinds is all there is; its conditions are
//! written because people and tools read them).

pub mod controller;
pub mod teardown;
