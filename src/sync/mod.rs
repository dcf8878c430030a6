//! The room `sync`.

pub mod apply;
pub mod convergence;
pub mod diff;
pub mod document;
pub mod drift;
pub mod excerpt;
pub mod git;
pub mod inventory;
mod known_hosts;
pub mod manifest;
pub mod order;
pub mod position;
pub mod render;
pub mod source;
pub mod source_status;
mod spelling;
pub mod tree;
mod trigger;
