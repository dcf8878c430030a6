//! The Kubernetes-compatible API: the only door to the store, with two skins.
//!
//! Comes in: requests, each of one identity; in process through [`Local`], over HTTP through
//! [`routes`]. Goes out: objects, lists, watches, Tables, and errors in the reference server's
//! words. Loop: none; a request is authorised, admitted, stored and answered. Only Events have a
//! task of their own, because nobody waits for them.
//!
//! Invariants: nothing enters the store unadmitted; a write is answered when it is durable; an
//! identity without the right to Secrets sees keyed hashes in every form of reply; people change
//! nothing over the served listener, which is decided before a body is read (a dry run's is read);
//! what comes over it has passed the [`gate`].
//!
//! Deliberately absent: custom resources, aggregation, RBAC objects. Who may do what is a table in [`access`].

pub mod access;
pub mod admission;
mod body;
mod document_text;
pub mod ids;
mod query;
mod selector_text;

mod default_class;
mod living;
mod ownership;
mod pod_policy;
mod recent;
mod service_addresses;
mod transact;
pub mod verbs;
mod volume_policy;
mod write;
mod write_options;

mod apply;
mod apply_verb;

mod event_plan;
pub mod events;
mod secret_names;
pub mod secret_view;

pub mod health;
pub mod local;
mod metrics;

mod absent;
mod compression;
mod drift_reply;
mod endpoints;
pub mod gate;
mod large_bodies;
mod list_body;
mod negotiation;
mod openapi;
mod openapi_protobuf;
mod openapi_reply;
mod protobuf;
pub mod remote;
mod reply;
mod request;
mod request_body;
mod reviews;
pub mod routes;
pub mod server;
mod stall;
mod stream;
mod subresources;
mod unread;
mod usage_reply;
mod uses;
mod warning_headers;
mod watch_lines;
mod watch_reply;
pub mod webhook;

#[cfg(test)]
mod fuzz;

pub(crate) mod discovery;
pub(crate) mod table;
pub(crate) mod table_cells;
mod table_columns;
mod table_pod;
mod table_storage;

pub use access::Identity;
pub use ids::IdSource;
pub use local::Local;
pub use metrics::Metrics;
pub use verbs::{Api, ApiOptions};
pub use write::SYSTEM_NAMESPACES;
