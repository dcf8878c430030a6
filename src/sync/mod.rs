//! A commit becomes objects.
//!
//! Comes in: a repository, branch and path to follow (`SourceConfig`), and "look again" signals: a
//! moved branch, a webhook, a timer. Goes out: one transaction a commit through
//! [`Transact`](crate::object::Transact), with the Source's status and inventory in it; Drifts of the
//! object layer; the verdict whether the world matches.
//!
//! The loop, one task a source ([`run`]): *observe* the branch's head, the commit's manifests and the
//! live objects; *plan* ([`diff`]); *perform* ([`apply`]); *report* ([`source_status`]).
//!
//! Invariants: a commit enters whole or not at all, and every problem of it is told at once with
//! file, line and column; the last good commit runs on while a newer one is refused or held; only
//! what this source owns is removed (inventory and uid); removing most of it waits for a
//! confirmation; a path that does not exist is an error, never an empty set; no credential and no
//! value of a Secret stands in a message.
//!
//! Deliberately absent: a work tree (so links, hooks, filters and submodules cannot act), templates
//! and decryption (commit what is rendered), waiting for health between objects.

// What is followed, and how its files are read.
pub mod access;
pub mod git;
mod mirror_folder;
pub mod objects;
pub mod source;
pub mod tree;
mod trigger;

// How a server is spoken to.
mod https;
mod ssh;
pub mod wire;
mod wire_fault;

// From a file to the set of objects that a commit wants.
pub mod commit;
pub mod document;
pub mod excerpt;
pub mod manifest;
pub mod order;
pub mod position;
pub mod render;
mod spelling;
mod type_fault;

// From the set to the store.
pub mod apply;
pub mod diff;
mod field_lines;
pub mod inventory;
pub mod observe;
mod stored;
pub mod succession;

// What is told.
mod announce;
pub mod convergence;
pub mod drift;
mod progress;
pub mod source_status;
pub mod verdict;

mod handle;
mod metrics;
mod pulse;
mod run;

pub use access::{Access, TokenFrom};
pub use handle::SyncHandle;
pub use metrics::Metrics;
pub use pulse::loop_name;
pub use run::{SyncOptions, run};
pub use source::{SourceConfig, SourceUrl};
