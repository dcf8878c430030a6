//! The legacy `Endpoints` of the Services, made of their EndpointSlices: kubectl up to 1.30 describes a
//! Service with them and would print `<none>` for one that works, and people still type
//! `kubectl get endpoints`. They are got, listed and watched, and nobody writes one: nothing of them is
//! stored. What is theirs follows from two kinds at one revision, and so has that revision.

// What one is.
mod made;

// What follows of a change of what they are made of.
mod changes;

// How they are asked for.
mod reply;
mod watch;

pub(crate) use reply::{Wanted, answer, wanted};
