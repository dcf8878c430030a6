//! The room `api`.

pub mod admission;
