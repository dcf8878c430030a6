//! Bound pods become containers.
pub mod capacity;
pub mod container_spec;
pub mod docker;
pub mod drift;
pub mod environment;
pub mod image;
pub mod instance;
pub mod leftovers;
pub mod memory;
pub mod pause_image;
pub mod pod_plan;
pub mod pod_status;
pub mod probe;
pub mod restart;
pub mod runtime;
pub mod volume;
pub mod volume_plan;
