//! Deletes what nobody owns any more, and carries out foreground and orphaning deletions.
//!
//! Comes in: the metadata of every object of every kind. Goes out: deletions, owner references
//! taken off, and the finalizers `foregroundDeletion` and `orphan` taken off when their work is
//! done. Semantics are those of Kubernetes' `pkg/controller/garbagecollector`.
//!
//! The loop ([`controller`]): observe all watches into a [`graph::Graph`], which answers whose
//! situation may have changed; for each of those see what is known and what must be asked
//! ([`collection::sight`]), ask, decide ([`collection::plan`]), perform.
//!
//! Invariants: an owner counts as gone only after an uncached read said so, or said another uid;
//! an owner of a kind that is not known, or that cannot be named from where the dependent is,
//! never gets the dependent deleted; everything is written with uid and resourceVersion as
//! preconditions; nothing is judged before every kind was read once; cycles of owners end.
//!
//! Deliberately absent: the cache of absent owners (a read is a look-up in memory here), Events as
//! dependents (nobody owns them, they expire).

pub mod collection;
pub mod controller;
pub mod graph;
