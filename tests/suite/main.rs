//! The hermetic tests: parallel, without Docker, without root.

mod admission;
mod store;
mod tidy;
