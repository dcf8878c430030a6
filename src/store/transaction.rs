//! Pure: what a caller asks of the store, and how it is refused.

use super::draft::{Draft, Header};
use crate::object::{Key, Kind};

/// Writes that become durable and visible together, or not at all. Within it every write sees the
/// ones before it.
#[derive(Debug, Default)]
pub struct Transaction {
    pub writes: Vec<Write>,
}

#[derive(Clone, Debug)]
pub enum Write {
    Put {
        kind: Kind,
        key: Key,
        expect: Expect,
        draft: Draft,
        header: Header,
    },
    Delete {
        kind: Kind,
        key: Key,
        expect: Expect,
    },
    /// Writes nothing and gets no revision: only its precondition counts.
    Check {
        kind: Kind,
        key: Key,
        expect: Expect,
    },
}

impl Write {
    /// The object it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }
}

/// What must be true of the stored object for the whole transaction to happen. Later writes of a
/// transaction see the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    /// Exactly this revision.
    Revision(u64),
    Present,
}

/// Why the store did not do it. `write` is the index into the transaction's writes.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{kind} {key} exists already")]
    Exists { write: usize, kind: Kind, key: Key },
    #[error("{kind} {key} does not exist")]
    Missing { write: usize, kind: Kind, key: Key },
    #[error("{kind} {key} is at revision {current}")]
    Stale { write: usize, kind: Kind, key: Key, current: u64 },
    #[error("{claim} belongs to {holder_kind} {holder}")]
    Claimed { write: usize, claim: String, holder_kind: Kind, holder: Key },
    #[error("revision {asked} is compacted, the oldest is {floor}")]
    Compacted { asked: u64, floor: u64 },
    #[error("revision {asked} is not reached yet, the latest is {current}")]
    Future { asked: u64, current: u64 },
    /// The disk or SQLite failed: nothing of the transaction is durable.
    #[error("the store cannot write: {0}")]
    Write(String),
    /// The daemon is stopping.
    #[error("the store is closed")]
    Closed,
}
