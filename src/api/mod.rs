//! The room `api`.

pub mod admission;
pub(crate) mod discovery;
pub(crate) mod table;
pub(crate) mod table_cells;
mod table_columns;
mod table_pod;
