//! Server-side apply: who owns which field of an object, and what an applied configuration makes of
//! it. All pure.
//!
//! Comes in: the stored object as JSON, what is applied or was written, who writes. Goes out: the
//! object to be decoded and admitted, `metadata.managedFields`, or the conflicts. The algorithms are
//! those of Kubernetes' `structured-merge-diff`, for which Rust has no crate.
//!
//! Invariants: an apply that says what it said changes nothing, not even a time; a field conflicts
//! exactly if it would change and another manager owns it; what a manager says no more goes only if
//! nobody else owns it.
//!
//! Deliberately absent: conversion between versions (each kind has one), and changes of a list's type
//! after objects were stored.
//!
//! Reading order: [`field_set`] is the set in `FieldsV1`, [`structured`] an object as fields,
//! [`owners`] what writes make of `managedFields`, [`configuration`] what may be applied,
//! [`last_applied`] the way over from `kubectl apply`, [`tracking`] the door's own calls.

mod configuration;
mod conflict;
pub(super) mod field_set;
mod last_applied;
mod owners;
mod structured;
pub mod tracking;

pub use owners::Writer;
