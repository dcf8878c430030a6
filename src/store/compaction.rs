//! Pure: how far the change log reaches back, and how it is shortened a little at a time.
//!
//! The floor is the revision up to which superseded states and deletions are forgotten. It follows
//! the writes in small steps within their own transactions, so that no write ever waits for a long
//! deletion and no timer is needed: a store that nobody writes to needs no compaction.

/// Rows that one step looks at, at most (reliability.md 2: small batches, at most 20 ms).
pub(super) const STEP: u64 = 500;

/// The next floor, if the log is a whole step longer than `keep` revisions. `keep` is at least one:
/// the newest row stays, for it remembers the revision counter.
pub(super) fn next_floor(revision: u64, floor: u64, keep: u64) -> Option<u64> {
    let keep = keep.max(1);
    let step = (keep / 8).clamp(1, STEP);
    let excess = revision.saturating_sub(floor).saturating_sub(keep);
    (excess >= step).then(|| floor + excess.min(STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_what_was_promised_and_steps_are_small() {
        for keep in [0, 1, 7, 100, 10_000] {
            let mut floor = 0;
            for revision in 0..30_000 {
                if let Some(next) = next_floor(revision, floor, keep) {
                    assert!(next > floor && next - floor <= STEP);
                    assert!(revision - next >= keep.max(1));
                    floor = next;
                }
                assert!(revision - floor <= keep.max(1) + STEP);
            }
        }
    }

    #[test]
    fn a_log_that_grew_long_is_shortened_step_by_step() {
        assert_eq!(next_floor(100_000, 0, 1000), Some(STEP));
        assert_eq!(next_floor(1499, 500, 1000), None);
    }
}
