//! Services become packets: iptables rules on this node.
//!
//! Comes in: Services, EndpointSlices and the node's own Node object. Goes out: rules in the
//! kernel, Drifts of the layer `network`, and the answer to "can a new connection still reach this
//! pod?" ([`Withdrawal`](crate::object::ports::Withdrawal), for the node agent's SIGTERM).
//!
//! The loop ([`run`]): a batch of changes is entered into the [`book`]; the book's [`ruleset`] is
//! compared with what was last programmed; the [`restore_text`] of the chains that differ is given
//! to the kernel, one atomic restore a table; the changed chains are read back and checked
//! ([`ruleset_check`]). Every 2 s a canary looks at the chains that lead to all others, unless the
//! kernel says that nobody changed any rule since (`generation.rs`); every 30 s everything is compared:
//! what somebody else changed becomes a [`drift`] and is put back.
//!
//! Invariants: only chains that [`chain_name`] owns and the jumps to them are ever written; rules
//! hold no text of a user's; nothing is removed when the daemon stops, so Services outlive it
//! ([`reset`] removes). Without root or NET_ADMIN the loop says so and programs nothing.
//!
//! Deliberately absent: IPv6, nftables maps, session affinity and traffic policy `Local` (admission
//! refuses both), node ports on 127.0.0.1 (it would need `route_localnet`), DNS.

pub mod chain_name;
pub mod rule;
mod rule_text;
pub mod ruleset;
pub mod service_port;
pub mod subnet;

pub mod book;
pub mod restore_text;
pub mod ruleset_check;
pub mod tables;

pub mod drift;
pub mod packet;
pub mod reset;
pub mod trace;

mod bridge;
mod generation;
pub mod iptables;
pub mod kernel;
mod metrics;
mod programmed;
pub mod programmer;
mod restore_session;
mod run;

#[cfg(test)]
mod scene;

pub use kernel::Kernel;
pub use metrics::Metrics;
pub use programmed::{NetworkHandle, NetworkStatus, Programmed, Publisher};
pub use run::{NetworkOptions, run};
