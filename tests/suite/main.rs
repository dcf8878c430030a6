//! The hermetic tests: parallel, without Docker, without root.

mod admission;
mod api;
mod repository;
mod proxy;
mod store;
mod sync_git;
mod tidy;
