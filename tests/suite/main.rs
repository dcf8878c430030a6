//! The hermetic tests: parallel, without Docker, without root.

mod admission;
mod api;
mod api_golden;
mod api_http;
mod garbage;
mod network_loop;
mod node;
mod node_lifecycle;
mod proxy;
mod reconcile;
mod repository;
mod scheduler;
mod sim;
mod store;
mod supported;
mod sync;
mod sync_git;
mod sync_inputs;
mod tidy;
