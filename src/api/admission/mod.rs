//! Pure: what a write becomes before it is stored.
//!
//! Two steps. First Kubernetes' own: defaults, validation, the life cycle of metadata. Golden
//! answers of a real API server are compared with this step. Then [`Admit::unsupported`]: a table
//! of every field that says whether this version runs it, finds it harmless, or refuses it by name.

mod admit;

pub use admit::{Admit, Fault, FaultType, Faults};
