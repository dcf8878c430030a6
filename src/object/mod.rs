//! Pure: the words everyone shares.
//!
//! Comes in: nothing. Goes out: the kind table, keys, selectors, quantities, conditions, our own
//! kinds Source, Inventory and Drift, the error every request may answer, and the traits through which the
//! rooms speak ([`Cluster`], [`Transact`], the [`ports`], [`streams::Streams`]). Every file here is pure: no client, no
//! clock, no log, no lock. What does IO with these words lives in the room that owns the IO.
//!
//! Reading order: [`kind`] says what exists, [`cluster`] what can be done with it.

pub mod age;
pub mod cluster;
pub mod condition;
mod counted;
pub mod decode;
pub mod drift;
pub mod ephemeral_container;
mod error;
pub mod extended;
pub mod go_text;
pub mod host_path;
pub mod int_or_percent;
pub mod inventory;
pub mod json_text;
mod key;
pub mod kind;
pub mod ledger;
pub mod name;
mod note;
mod own_version;
pub mod owner;
pub mod pace;
pub mod ports;
pub mod privilege;
pub mod quantity;
pub mod selector;
pub mod shared;
pub mod source;
pub mod storage;
pub mod streams;
pub mod taint;
pub mod template_hash;
pub mod yaml;

pub use cluster::{
    ApplySet, Change, Cluster, DeleteOptions, Listing, Patch, Propagation, Scope, SetAction,
    SetOutcome, SetProblem, SetWrite, Transact,
};
pub use counted::counted;
pub use error::{ApiError, Reason};
pub use key::Key;
pub use kind::{Kind, Object};
pub use note::{Note, Severity, reference, reference_to};
pub use own_version::{DriftWord, InventoryWord, OwnVersion, SourceWord};
pub use shared::Pool;
