//! The hermetic tests: parallel, without Docker, without root.

mod admission;
mod api;
mod proxy;
mod repository;
mod store;
mod supported;
mod sync_git;
mod tidy;
