//! The hermetic tests: parallel, without Docker, without root.

mod store;
mod tidy;
