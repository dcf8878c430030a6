//! Pure: what a controller has done and its caches do not show yet. Until they do, it must not decide
//! again: it would create what it has created.
//!
//! Kubernetes counts events; we have something better: every write answers the revision it was
//! written at, and a cache that has seen this revision has seen the write. A deletion answers none:
//! it is seen when the object is gone, or shows its deletionTimestamp.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::object::Key;

/// After this long a controller believes its cache again, whatever is missing (`ExpectationsTimeout`
/// of Kubernetes, 5 min).
pub const EXPIRES: SignedDuration = SignedDuration::from_mins(5);

/// The effects of one pass that a cache has to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// The highest revision written; 0 for none.
    pub written: u64,
    /// Deleted objects by uid.
    pub deleted: BTreeMap<String, Key>,
    pub since: Timestamp,
}

impl Expectation {
    pub fn new(since: Timestamp) -> Self {
        Self { written: 0, deleted: BTreeMap::new(), since }
    }

    pub fn is_empty(&self) -> bool {
        self.written == 0 && self.deleted.is_empty()
    }

    /// When it is given up.
    pub fn expires(&self) -> Timestamp {
        self.since.saturating_add(EXPIRES).unwrap_or(Timestamp::MAX)
    }

    /// `seen` is the cache's revision; `is_leaving` whether the cache shows an incarnation as gone or
    /// going.
    pub fn is_met(
        &self,
        seen: impl Fn(u64) -> bool,
        is_leaving: impl Fn(&Key, &str) -> bool,
        now: Timestamp,
    ) -> bool {
        now >= self.expires()
            || (seen(self.written) && self.deleted.iter().all(|(uid, key)| is_leaving(key, uid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_for_the_revision_and_for_every_deletion_but_not_for_ever() {
        let now = Timestamp::UNIX_EPOCH;
        let mut expected = Expectation::new(now);
        expected.written = 9;
        expected.deleted.insert("u".into(), Key::new("a", "x"));
        let (all, none) = (|_: u64| true, |_: u64| false);
        assert!(!expected.is_met(none, |_, _| true, now));
        assert!(!expected.is_met(all, |_, _| false, now));
        assert!(expected.is_met(all, |_, uid| uid == "u", now));
        assert!(expected.is_met(none, |_, _| false, now + EXPIRES));
    }
}
