//! The hermetic tests: parallel, without Docker, without root. They drive
//! the kubectls of the machine, over loopback.

mod admission;
mod api;
mod api_golden;
mod api_http;
mod api_negotiation;
mod bad_inputs;
mod bad_repositories;
mod command_line;
mod cursed;
mod dashboard;
mod docker;
mod drift_report;
mod exposition;
mod fixture;
mod garbage;
mod git_server;
mod golden;
mod kubectl;
mod kubectl_requests;
mod kubectl_world;
mod living;
mod metrics;
mod network_drift;
mod network_loop;
mod node;
mod node_lifecycle;
mod proxy;
mod reconcile;
mod repository;
mod scheduler;
mod sim;
mod slow_readers;
mod store;
mod supported;
mod sync;
mod sync_git;
mod sync_https;
mod sync_inputs;
mod sync_lives;
mod sync_restart;
mod sync_services;
mod sync_ssh;
mod tidy;
#[path = "../watchdog.rs"]
mod watchdog;
