//! The dashboard: one page rendered on the server, read-only.
//!
//! Comes in: Sources, workloads, Services, Nodes and Drifts, read through `Cluster` as the reader that every
//! visitor is. Goes out: HTML without scripts, under a policy that forbids them, so that nothing a
//! repository or a container says can run in a visitor's browser.
//!
//! Loop: none. A request reads the cluster, [`facts`] decides what is to be said, [`page`] says it.
//! The page reloads itself every five seconds.

mod facts;
mod page;
mod routes;

pub use routes::router;
