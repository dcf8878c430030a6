//! Ballast keeps Docker hosts true to a Git branch. ARCHITECTURE.md is the map; every folder's
//! `mod.rs` is its own page.

pub mod object;

pub mod access_commands;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod drift_report;
pub mod home;
pub mod host_commands;
pub mod installation;
pub mod measure;
pub mod metrics;
pub mod offline;
pub mod offline_commands;
pub mod offline_report;
pub mod process_metrics;
pub mod ranges;
pub mod signal;
pub mod state_metrics;
pub mod task;
pub mod telemetry;

pub mod api;
pub mod network;
pub mod node;
pub mod reconcile;
pub mod store;
pub mod sync;
pub mod web;
