//! Pure: what a write becomes before it is stored.
//!
//! Two steps. First Kubernetes' own: defaults, validation, the life cycle of metadata. Golden
//! answers of a real API server are compared with this step. Then [`Admit::unsupported`]: a table
//! of every field that says whether this version runs it, finds it harmless, or refuses it by name.
//!
//! Comes in: a body as JSON or an object of a room, and what the world gives it (time, a uid, random
//! numbers, what is taken). Goes out: the object as it is to be stored, or one error with every field
//! at fault. Nothing here knows the store, and nothing here waits.
//!
//! Beside the two steps stands the policy for pods ([`pod_security`], [`second_key`]): it depends on the
//! namespace and on the daemon's config, so the verbs ask for it themselves (`api/pod_policy.rs`).
//!
//! Invariants: defaults are idempotent; an update that changes nothing equals the stored object; a
//! fault's words are the reference server's wherever it has words.
//!
//! Deliberately absent: authorisation, resourceVersions (the store's), field managers (`api/apply/`),
//! quotas and webhooks.
//!
//! Reading order: [`sequence`] is the order of a write, [`body`] what comes before it, [`kinds`] who
//! judges which kind, then the rules.

mod admit;
pub mod body;
pub mod sequence;

mod kinds;
pub mod lifecycle;

mod defaults;
mod pod_defaults;
mod quantities;
mod storage_defaults;

mod field_path;
mod metadata_validation;

mod cluster_validation;
mod config_map_validation;
mod confinement_validation;
mod container_validation;
mod difference;
mod downward_validation;
pub mod ephemeral_validation;
mod pod_validation;
mod probe_validation;
mod service_validation;
mod stop_signal;
mod storage_validation;
mod volume_validation;
mod workload_validation;

mod warnings;

pub mod addresses;

pub mod merge_keys;
pub mod patch;
mod strategic;

pub mod pod_security;
mod pod_security_baseline;
mod pod_security_restricted;
pub mod second_key;

pub mod supported;
mod supported_storage;
mod supported_table;
mod supported_values;

pub use admit::{Admit, Fault, FaultType, Faults};
pub(crate) use body::go_package;
pub use body::{Body, FieldValidation, decode_body, decode_text};
pub(crate) use field_path::quoted;
pub use sequence::{CreateContext, admit_create, admit_status_update, admit_update, refuse};
