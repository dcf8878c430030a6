//! The whole control plane in one simulated world: real store, API, controllers, scheduler, node
//! agent and network loop over an engine and a kernel in memory, with a clock that the simulation
//! turns. A *life* is one run of the daemon; the world outlives it.
//!
//! The reference run deploys, scales, rolls and deletes. It is repeated with a crash after the n-th
//! effect for every n, and with random crashes and faults from many seeds: every step must end in
//! the same state as the undisturbed one, nothing twice, nothing lost.
//!
//! A seed decides everything: the crash, the schedule of faults, uids, names, the scheduler's draws,
//! the order of hash maps ([`chance`]), and with them which task runs first; a failing seed fails again
//! in the same way. That holds for code that leaves the rest to no chance either: a `select!` says
//! `biased`, whoever waits for a signal is woken in turn ([`ballast::signal`]), and nothing leaves the
//! runtime's thread. Known to remain: kube-runtime's look at all keys, once in five minutes of a life,
//! comes in an order of its own.
//!
//! Deliberately absent: Git (a commit is applied as the sync would), power failures (the store's own
//! tests), probes, volumes and more than one node.

// The world: what the daemon acts on, and what may go wrong with it.
pub mod fake_kernel;
mod fake_process;
pub mod fake_runtime;

pub mod chance;
mod effects;
mod fault;
mod faulty_kernel;
mod faulty_runtime;
mod faulty_store;

// The daemon in it, and how its work is told from another's.
mod life;
mod scenario;
mod state;

mod crashes;
mod lateness;
