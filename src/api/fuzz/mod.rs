//! Mutation fuzzing on stable Rust: what the outer skin reads from strangers (URLs, headers, bodies,
//! patches, selectors) is taken from `tests/golden/`, changed at random, and held against oracles
//! that say more than "it did not panic".
//!
//! Comes in: a corpus of requests that real clients sent, and a time. Goes out: nothing, or the
//! smallest input that breaks an oracle, printed as Rust, so that it becomes a scene beside the code
//! it broke. The loop: [`run`] draws a case, mutates ([`mutate`]), asks the oracle, shrinks what fails.
//!
//! `cargo test --lib` runs a hundred cases of each, always the same; `make fuzz SECONDS=600` runs
//! each file's targets for its time, from a seed that is printed. proptest is the source of chance and shrinks; a fuzzer
//! that follows coverage (libFuzzer under bolero or cargo-fuzz) wants nightly Rust.
//!
//! Deliberately absent: the store and the sync, whose own properties stand beside them.

// How a case is drawn, run, bounded and told.
mod corpus;
mod memory;
mod mutate;
mod run;

// What is fuzzed, from text to the whole skin.
mod selectors;

mod requests;

mod bodies;

mod patches;

mod applies;

mod answers;
