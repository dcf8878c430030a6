//! A revisioned history of objects in one SQLite file, and an index of the latest state in memory.
//!
//! Comes in: transactions with preconditions. Goes out: records, consistent lists at one revision,
//! watches without gap or duplicate. The store knows kinds and keys but no object's meaning: bodies
//! are JSON bytes, and what it needs to know of them stands in the [`Header`].
//!
//! Invariants: one writer; a write is answered after it is durable and published; every write of a
//! transaction gets a revision of its own, consecutive, and all of them become visible at once;
//! lists and bookmarks name only revisions that end a transaction; a revision is never used twice.
//!
//! The loop: the writer takes what has arrived, checks each transaction against the latest state
//! ([`precondition`]), appends the rows of all that are allowed in one durable SQLite transaction,
//! publishes index and changes together, answers, and wakes the watches. Reads never wait for it.
//!
//! On disk there is one table, the log of all writes. A row is an object's latest state until a
//! later row names it as its previous one; compaction removes superseded rows up to the floor. So a
//! body is written once, and the state before each change is there for selectors as long as the
//! change itself.
//!
//! Deliberately absent: clocks, authorisation, defaults, selectors' syntax. Those are the API's.

// The nouns, and the decision whether a transaction may happen.
mod body;
mod draft;
mod pairs;
mod record;
mod transaction;

mod precondition;

// What is in memory: the latest state, the latest changes.
mod index;
mod ring;

// What is on disk: its shape, what is done with it, how far back it reaches.
mod compaction;
mod schema;
mod sqlite;

// Who does it: the one writer, the watches, and the door to both.
mod metrics;
mod reader;
mod watch;
mod writer;

#[cfg(test)]
mod model;

pub use body::Body;
pub use draft::{Draft, Header};
pub use pairs::Pairs;
pub use reader::{Sqlite, SqliteOptions, WriterMode};
pub use record::Record;
pub use schema::{OpenError, StoreLock, hold, sqlite_version, sqlite_version_ok};
pub use transaction::{Expect, StoreError, Transaction, Write};

use std::future::Future;
use std::sync::Arc;

use futures::stream::BoxStream;

use crate::object::{Key, Kind};

/// What the API needs of a store, small enough that etcd can stand behind it one day.
pub trait Store: Clone + Send + Sync + 'static {
    /// The last published revision; always one that ends a transaction.
    fn revision(&self) -> u64;

    /// The object, and the revision of the state it was read in.
    fn read(&self, kind: Kind, key: &Key) -> (u64, Option<Arc<Record>>);

    fn get(&self, kind: Kind, key: &Key) -> Option<Arc<Record>> {
        self.read(kind, key).1
    }

    /// The first record of a namespace that is selected. It ends there and pins nothing.
    fn find(
        &self,
        kind: Kind,
        namespace: &str,
        select: &dyn Fn(&Record) -> bool,
    ) -> Option<Arc<Record>>;

    /// # Errors
    /// [`StoreError::Compacted`] when `at` is pinned no more, [`StoreError::Future`] when it is not
    /// reached yet.
    fn list(&self, kind: Kind, request: &ListRequest<'_>) -> Result<ListPage, StoreError>;

    /// Two lists of one state, the first one's: what is made of objects of two kinds is made of both as
    /// they were at the same time. `at` and the pin are the first request's.
    ///
    /// # Errors
    /// As [`Store::list`].
    fn list_both(
        &self,
        first: (Kind, &ListRequest<'_>),
        second: (Kind, &ListRequest<'_>),
    ) -> Result<(ListPage, ListPage), StoreError>;

    /// Everything after `from`, in order, without gap or duplicate. `from: None` begins with now;
    /// to list and then watch, list first and watch from the list's revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] below the floor, [`StoreError::Future`] above the revision.
    fn watch(
        &self,
        kind: Kind,
        from: Option<u64>,
    ) -> Result<BoxStream<'static, WatchItem>, StoreError>;

    /// The same of two kinds, in one order.
    ///
    /// # Errors
    /// As [`Store::watch`].
    fn watch_both(
        &self,
        kinds: (Kind, Kind),
        from: Option<u64>,
    ) -> Result<BoxStream<'static, WatchItem>, StoreError>;

    /// All writes or none, in order, at consecutive revisions. Answers one record a put or delete, in
    /// order, as stored (for a delete: the last state, at the revision of its deletion); checks
    /// answer none.
    ///
    /// # Errors
    /// The first write whose precondition fails; nothing is written then.
    fn transact(
        &self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Vec<Arc<Record>>, StoreError>> + Send;
}

/// One page of a list.
pub struct ListRequest<'a> {
    /// `None` is every namespace.
    pub namespace: Option<&'a str>,
    /// 0 is no limit.
    pub limit: usize,
    /// The last key of the page before; its page continues behind it.
    pub after: Option<&'a Key>,
    /// The revision to read at: `None` is the latest; a continued list names its first page's.
    pub at: Option<u64>,
    /// Which records count.
    pub select: &'a (dyn Fn(&Record) -> bool + Sync),
}

#[derive(Clone, Debug)]
pub struct ListPage {
    /// The revision the whole list is read at; pinned for five minutes when there is more.
    pub revision: u64,
    /// In key order.
    pub items: Vec<Arc<Record>>,
    /// How many selected records follow this page; 0 ends the list.
    pub remaining: usize,
}

/// What a watch says.
#[derive(Clone, Debug)]
pub enum WatchItem {
    Event(Arc<Event>),
    /// Nothing of what is watched is missing up to this revision, which ends a transaction. Sent after
    /// each transaction that other kinds wrote, at most once a second, for bookmarks.
    Progress(u64),
    /// The watcher fell behind the compaction floor and lost events: the stream ends here, list
    /// again. (A stream that ends without it: the store is closed.)
    Lost,
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    pub change: ChangeType,
    /// The new state; for `Deleted` the last state, its body at the revision of the deletion.
    pub record: Arc<Record>,
    /// The header before: an object that leaves a watch's selector is `Deleted` to that watch.
    pub previous: Option<Arc<Header>>,
    /// The last event of its transaction: only here may a bookmark stand.
    pub ends_transaction: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeType {
    Created,
    Updated,
    Deleted,
}
