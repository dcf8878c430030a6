//! The latest state of every object, and who holds which claim, as one persistent value.
//!
//! A clone costs a few pointers: the writer works on its own, publishes clones, and a continue
//! token keeps one. Neighbouring versions share everything that did not change.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{HashMap, OrdSet};

use crate::object::{Key, Kind};
use crate::store::precondition::State;
use crate::store::{ListPage, ListRequest, Record};

/// A record ordered by its key. A set of these instead of a map: the key is in the record already,
/// and a tree node that is copied then copies pointers, not strings.
#[derive(Clone, Debug)]
struct ByKey(Arc<Record>);

impl Borrow<Key> for ByKey {
    fn borrow(&self) -> &Key {
        &self.0.key
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// Every object at one revision.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// The last revision entered.
    pub revision: u64,
    /// By the kind's discriminant.
    kinds: Vec<OrdSet<ByKey>>,
    claims: HashMap<String, Arc<Record>>,
}

impl Index {
    pub fn new(revision: u64) -> Self {
        let kinds = Kind::all().map(|_| OrdSet::new()).collect();
        Self { revision, kinds, claims: HashMap::new() }
    }

    pub fn get(&self, kind: Kind, key: &Key) -> Option<&Arc<Record>> {
        self.kinds[kind as usize].get(key).map(|found| &found.0)
    }

    /// Enters a record and gives back the one it replaces.
    pub fn put(&mut self, record: Arc<Record>) -> Option<Arc<Record>> {
        self.revision = self.revision.max(record.revision);
        let replaced = self.kinds[record.kind as usize].insert(ByKey(record.clone()));
        let replaced = replaced.map(|found| found.0);
        if let Some(replaced) = &replaced {
            self.release(replaced);
        }
        for claim in &record.header.claims {
            self.claims.insert(claim.clone(), record.clone());
        }
        replaced
    }

    /// Takes a record out at the revision of its deletion.
    pub fn remove(&mut self, kind: Kind, key: &Key, revision: u64) -> Option<Arc<Record>> {
        self.revision = self.revision.max(revision);
        let removed = self.kinds[kind as usize].remove(key)?.0;
        self.release(&removed);
        Some(removed)
    }

    /// A claim that another object took earlier in the same transaction stays with that one.
    fn release(&mut self, record: &Record) {
        for claim in &record.header.claims {
            let holder = self.claims.get(claim);
            if holder.is_some_and(|holder| (holder.kind, &holder.key) == (record.kind, &record.key))
            {
                self.claims.remove(claim);
            }
        }
    }

    pub fn find(
        &self,
        kind: Kind,
        namespace: &str,
        select: &dyn Fn(&Record) -> bool,
    ) -> Option<&Arc<Record>> {
        let first = Key::new(namespace, "");
        self.kinds[kind as usize]
            .range::<_, Key>((Bound::Included(&first), Bound::Unbounded))
            .map(|found| &found.0)
            .take_while(|record| record.key.namespace == namespace)
            .find(|record| select(record))
    }

    /// One page, as [`ListRequest`] asks; the revision it is asked at is this one's.
    pub fn list(&self, kind: Kind, request: &ListRequest<'_>) -> ListPage {
        let first = request.namespace.map(|namespace| Key::new(namespace, ""));
        let start = match (request.after, &first) {
            (Some(after), Some(first)) if after < first => Bound::Included(first),
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(first)) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        let mut selected = self.kinds[kind as usize]
            .range::<_, Key>((start, Bound::Unbounded))
            .map(|found| &found.0)
            .take_while(|record| {
                request.namespace.is_none_or(|asked| asked == record.key.namespace)
            })
            .filter(|record| (request.select)(record));
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let items = selected.by_ref().take(limit).cloned().collect();
        ListPage { revision: self.revision, items, remaining: selected.count() }
    }
}

impl State for Index {
    fn revision(&self, kind: Kind, key: &Key) -> Option<u64> {
        self.get(kind, key).map(|record| record.revision)
    }

    fn holder(&self, claim: &str) -> Option<(Kind, &Key)> {
        self.claims.get(claim).map(|record| (record.kind, &record.key))
    }
}
