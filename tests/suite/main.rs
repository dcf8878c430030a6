//! The hermetic tests: parallel, without Docker, without root.

mod admission;
mod api;
<<<<<<< HEAD
#[path = "sim/fake_runtime.rs"]
mod fake_runtime;
=======
mod api_golden;
mod api_http;
>>>>>>> 9d87c91 (api: the HTTP skin is compared with golden answers and driven by a kube::Client)
mod garbage;
mod node;
mod node_lifecycle;
mod proxy;
mod reconcile;
mod repository;
mod scheduler;
mod store;
mod supported;
mod sync;
mod sync_git;
mod sync_inputs;
mod tidy;
