//! Pure: how a change of `replicas` in mid-rollout is spread over the ReplicaSets that have pods.
//!
//! Each gets its share of the new size by the share it had of the old (`max-replicas` as an earlier
//! pass wrote it), rounded half away from zero and bounded by what is left to give; the largest comes
//! first and takes the remainder. Among equals the newest is first when growing, the oldest when shrinking.

use std::cmp::Reverse;

/// One ReplicaSet that has replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<T> {
    pub name: T,
    /// `spec.replicas`, above 0.
    pub replicas: i32,
    /// The annotation `max-replicas`, where it is there.
    pub most_before: Option<i32>,
    /// Its place in the order of age, 0 the oldest.
    pub age_order: usize,
}

/// The new sizes, in the order of distribution. `most` is the most pods there may be now (wanted plus
/// surge; 0 when none are wanted); `status_replicas` stands in where the annotation is missing.
pub fn spread<T: Clone>(
    parts: &[Part<T>],
    wanted: i32,
    most: i32,
    status_replicas: i32,
) -> Vec<(T, i32)> {
    let allowed = if wanted > 0 { most } else { 0 };
    if allowed == 0 {
        // Said apart: the total below is only as large as a count can be.
        return parts.iter().map(|part| (part.name.clone(), 0)).collect();
    }
    let to_add = allowed - total(parts.iter().map(|part| part.replicas));
    let mut parts: Vec<&Part<T>> = parts.iter().collect();
    if to_add > 0 {
        parts.sort_by_key(|part| (Reverse(part.replicas), Reverse(part.age_order)));
    } else {
        parts.sort_by_key(|part| (Reverse(part.replicas), part.age_order));
    }
    let mut added = 0;
    let mut sizes = Vec::with_capacity(parts.len());
    for part in parts {
        let share = share(part, wanted, most, status_replicas, to_add, added);
        added += share;
        sizes.push((part.name.clone(), part.replicas + share));
    }
    if let Some((_, largest)) = sizes.first_mut() {
        *largest = (*largest + to_add - added).max(0);
    }
    sizes
}

/// Counts added up; a sum beyond the largest count is the largest.
pub fn total(counts: impl Iterator<Item = i32>) -> i32 {
    counts.fold(0, i32::saturating_add)
}

fn share<T>(
    part: &Part<T>,
    wanted: i32,
    most: i32,
    status_replicas: i32,
    to_add: i32,
    added: i32,
) -> i32 {
    if part.replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(part, wanted, most, status_replicas);
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction<T>(part: &Part<T>, wanted: i32, most: i32, status_replicas: i32) -> i32 {
    if wanted == 0 {
        return -part.replicas;
    }
    let before = part.most_before.filter(|count| *count != 0).unwrap_or(status_replicas);
    if before == 0 {
        // Nothing to measure by: the remainder will go to the largest.
        return 0;
    }
    let (scaled, before) = (i64::from(part.replicas) * i64::from(most), i64::from(before));
    // Both are positive: half away from zero is half up.
    let rounded = (2 * scaled + before).div_euclid(2 * before);
    i32::try_from(rounded).unwrap_or(i32::MAX).saturating_sub(part.replicas)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(
        name: &'static str,
        replicas: i32,
        most_before: i32,
        age_order: usize,
    ) -> Part<&'static str> {
        Part { name, replicas, most_before: Some(most_before), age_order }
    }

    #[test]
    fn shares_follow_the_old_shares_and_the_largest_takes_the_rest() {
        // 10 wanted, surge 3, in the middle of a rollout 8 old, 5 new; now 20 wanted, surge 5.
        let parts = [part("old", 8, 13, 0), part("new", 5, 13, 1)];
        assert_eq!(spread(&parts, 20, 25, 13), [("old", 15), ("new", 10)]);
        // And down to 5 wanted, surge 2.
        assert_eq!(spread(&parts, 5, 7, 13), [("old", 4), ("new", 3)]);
        assert_eq!(spread(&parts, 0, 0, 13), [("old", 0), ("new", 0)]);
        // Among equals the newest grows first, the oldest shrinks first.
        let equal = [part("old", 5, 10, 0), part("new", 5, 10, 1)];
        assert_eq!(spread(&equal, 11, 11, 10), [("new", 6), ("old", 5)]);
        assert_eq!(spread(&equal, 9, 9, 10), [("old", 4), ("new", 5)]);
    }

    #[test]
    fn counts_beyond_the_largest_are_the_largest() {
        let parts = [part("old", i32::MAX, i32::MAX, 0), part("new", 7, i32::MAX, 1)];
        let sizes = spread(&parts, i32::MAX, i32::MAX, 0);
        assert_eq!(total(sizes.iter().map(|(_, size)| *size)), i32::MAX);
        assert_eq!(spread(&parts, 0, 0, 0), [("old", 0), ("new", 0)]);
    }

    proptest! {
        /// The sizes add up to what is allowed, none is negative, and none moves against the direction.
        #[test]
        fn nothing_is_lost(
            sizes in proptest::collection::vec((1_i32..40, proptest::option::of(0_i32..200)), 2..6),
            wanted in 0_i32..100,
            surge in 0_i32..30,
            status_replicas in 0_i32..200,
        ) {
            let parts: Vec<Part<usize>> = sizes
                .iter()
                .enumerate()
                .map(|(name, (replicas, most_before))| Part {
                    name, replicas: *replicas, most_before: *most_before, age_order: name,
                })
                .collect();
            let before: i32 = parts.iter().map(|part| part.replicas).sum();
            let allowed = if wanted == 0 { 0 } else { wanted + surge };
            let after = spread(&parts, wanted, wanted + surge, status_replicas);
            let total: i32 = after.iter().map(|(_, size)| size).sum();
            prop_assert_eq!(after.len(), parts.len());
            prop_assert!(after.iter().all(|(_, size)| *size >= 0));
            // When shrinking, a largest that would go below zero stops there.
            prop_assert!(total == allowed || (allowed < before && total > allowed && after[0].1 == 0));
        }
    }
}
