//! The room `sync`.

pub mod diff;
pub mod document;
pub mod excerpt;
pub mod manifest;
pub mod order;
pub mod position;
pub mod render;
pub mod source;
mod spelling;
