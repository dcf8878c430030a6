//! The room `node`.
