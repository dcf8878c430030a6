//! The whole control plane in one simulated world: real store, API, controllers, scheduler, node
//! agent and network loop over an engine and a kernel in memory, with a clock that the simulation
//! turns. A *life* is one run of the daemon; the world outlives it.
//!
//! The reference run deploys, scales, rolls and deletes. It is repeated with a crash after the n-th
//! effect for every n, and with random crashes and faults from many seeds: every step must end in
//! the same state as the undisturbed one, nothing twice, nothing lost.
//!
//! A seed decides the crash, the schedule of faults, uids, names and the scheduler's draws. It does
//! not decide which of several ready tasks tokio runs first, nor the order of std's hash maps: a
//! failure that hangs on those may need its seed more than once to come back.
//!
//! Deliberately absent: Git (a commit is applied as the sync would), power failures (the store's own
//! tests), probes, volumes and more than one node.

// The world: what the daemon acts on, and what may go wrong with it.
pub mod fake_kernel;
pub mod fake_runtime;

mod effects;
mod faulty_kernel;
mod faulty_runtime;
mod faulty_store;

// The daemon in it, and how its work is told from another's.
mod life;
mod scenario;
mod state;

mod crashes;
