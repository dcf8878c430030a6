//! Pure: what is read of a YAML text, for every room that reads one: the dialect, and the budget
//! that a hostile text runs into.

use serde_saphyr::options::{DuplicateKeyPolicy, Options};

/// 4 MiB a file, 200,000 nodes: 1,000 Deployments of a usual size are 1.5 MB and 60,000 nodes.
pub const MAX_NODES: usize = 200_000;
/// The deepest field Kubernetes knows is at 20.
pub const MAX_DEPTH: usize = 48;

/// YAML as Kubernetes reads it (1.1 booleans and octals), without tags of other people's. What a key
/// that stands twice means is the reader's to say: a manifest that has one is refused, a request is
/// warned of it.
pub fn reading(duplicate_keys: DuplicateKeyPolicy) -> Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: duplicate_keys,
        reject_unsupported_tags: true,
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
            max_alias_expansions_per_anchor: 1_000,
        },
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: 5_000,
            max_anchors: 5_000,
            max_merge_keys: 1_000,
            max_total_scalar_bytes: 8 * 1024 * 1024,
        },
    }
}
