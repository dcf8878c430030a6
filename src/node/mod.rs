//! Bound pods become containers.
//!
//! Comes in: the pods bound to this node, the ConfigMaps, Secrets and Services they use, and what
//! the container engine tells (events, and a relist on a timer). Goes out: containers, PodStatus,
//! Events, the Node with its Lease, Drifts of the container layer, logs, streams into containers.
//!
//! Every pod has a worker of its own: it observes, plans ([`pod_plan`], pure), performs, reports
//! ([`pod_status`], pure). What is known of containers is rebuilt from their labels: a restart of
//! the daemon restarts no container and makes no duplicate, for an attempt's name is always the same.
//!
//! Invariants: a container without this installation's label is never touched; an engine that does
//! not answer is unknown, not empty: nothing is done and no status changes; `restartCount` never
//! decreases; SIGTERM follows the withdrawal of the endpoint, or 2 s; a pod's object goes after its
//! containers.
//!
//! Deliberately absent: Docker's restart policies (back-off and order are ours), packet rules (room
//! `network`), deciding where a pod runs (room `reconcile`).
//!
//! Reading order: [`instance`] and [`container_spec`] are the words, [`pod_plan`] decides.

pub mod instance;

pub mod confinement;
pub mod container_spec;
pub mod copies;
pub mod devices;
pub mod environment;
mod ephemeral_plan;
pub mod eviction;
mod host_name;
pub mod resolver;
pub mod volume_claims;
pub mod volume_files;
pub mod volume_plan;
pub mod volume_provision;

pub mod image;
pub mod image_gc;
pub mod images;
pub mod memory;
pub mod sidecar;
pub mod volume_eviction;

pub mod pod_plan;
pub mod termination_plan;

pub mod pod_status;
pub mod probe;
pub mod registry_credentials;
pub mod restart;

pub mod capacity;
pub mod care;
pub mod drift;
pub mod hosts_file;
pub mod leftovers;
pub mod spares;
pub mod usage_report;

mod turns;

pub mod docker;
mod docker_frames;
mod docker_images;
mod docker_projection;
mod docker_translation;
mod docker_volumes;
pub mod engine_volumes;
mod hijack;
mod owners;
pub mod pause_image;
pub mod runtime;

mod agent;
mod claimed_volumes;
mod config_watch;
mod device_book;
mod grpc_health;
mod heartbeat;
mod hook;
mod http_get;
mod image_care;
mod instances;
mod last_words;
mod logs;
mod measured;
mod metrics;
mod misnamed;
mod needed_images;
mod perform;
mod perform_end;
mod perform_resolve;
mod pod_network;
mod pod_probes;
mod pod_worker;
mod pressure;
mod prober;
mod profile;
mod pull_progress;
mod pulled_images;
mod pulls;
mod quarantine;
mod relist;
pub mod reset;
mod run;
pub mod signals;
mod spare_keeper;
mod streams;
mod usage;
mod uts;
mod volume;
mod volume_check;
mod volume_folder;
mod volume_keeper;
mod volume_mount_table;
mod volume_owner;
mod volume_subpath;
mod volume_usage;
mod volume_writer;

pub use agent::{Beat, HostAddress, NodeOptions};
pub use logs::NodeHandle;
pub use metrics::Metrics;
pub use run::run;
pub use runtime::Runtime;
