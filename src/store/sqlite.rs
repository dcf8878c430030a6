//! What is done with the file: append a batch, shorten the log, read it back. No decisions.
//!
//! Three connections at most: the writer's, one for watches that replay old changes, one for
//! checkpoints, so that neither of the two makes a write wait.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Row, params};
use tracing::error;

use crate::object::{Key, Kind};
use crate::store::body::Values;
use crate::store::draft::restamp;
use crate::store::index::Index;
use crate::store::{Body, ChangeType, Event, Header, OpenError, Record, schema};

/// SQLite or the disk failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("a header does not become JSON: {0}")]
    Header(#[from] serde_json::Error),
}

/// One row to append.
#[derive(Debug)]
pub(super) struct Entry {
    pub event: Arc<Event>,
    /// The revision of the row that this one supersedes.
    pub previous: Option<u64>,
}

/// The connection that writes.
#[derive(Debug)]
pub(super) struct Disk {
    connection: Connection,
    header: Vec<u8>,
    /// Freed when the connection is gone.
    _lock: schema::StoreLock,
}

/// What a store holds when it is opened.
#[derive(Debug)]
pub(super) struct Loaded {
    pub index: Index,
    pub floor: u64,
    /// Rows that cannot be read, by key where that much is known: the next write of the key
    /// supersedes them.
    pub quarantine: HashMap<(Kind, Key), u64>,
    pub quarantined: usize,
    /// What the bodies have in common.
    pub values: Values,
}

/// An empty store stands at revision 1 as etcd's does: 0 means "any" to clients.
const FIRST_REVISION: u64 = 1;

impl Disk {
    /// `durable: false` leaves the moment of writing to the operating system: a killed process
    /// loses nothing, a power failure may. For simulations.
    pub fn open(path: &Path, durable: bool) -> Result<Self, OpenError> {
        let (connection, lock) = schema::open(path)?;
        let set = || -> rusqlite::Result<()> {
            if durable {
                connection.pragma_update(None, "wal_autocheckpoint", 0)?;
            } else {
                connection.pragma_update(None, "synchronous", "OFF")?;
            }
            // 2 MiB: the log is appended to, reads come from the index.
            connection.pragma_update(None, "cache_size", -2048)
        };
        set().map_err(failed("set up", path))?;
        Ok(Self { connection, header: Vec::new(), _lock: lock })
    }

    /// Reads everything back, newest rows first, so that a superseded row is known as such before
    /// it comes. Bodies of superseded rows are not read.
    pub fn load(&self, path: &Path) -> Result<Loaded, OpenError> {
        self.load_rows().map_err(failed("read", path))
    }

    fn load_rows(&self) -> rusqlite::Result<Loaded> {
        let floor = read_floor(&self.connection)?;
        let mut loaded = Loaded {
            index: Index::new(FIRST_REVISION),
            floor,
            quarantine: HashMap::new(),
            quarantined: 0,
            values: Values::default(),
        };
        let mut superseded = HashSet::new();
        let mut statement = self.connection.prepare(
            "SELECT revision, kind, namespace, name, header, body, previous, change \
             FROM log ORDER BY revision DESC",
        )?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let revision = row.get::<_, i64>(0)?.cast_unsigned();
            loaded.index.revision = loaded.index.revision.max(revision);
            if let Ok(Some(previous)) = row.get::<_, Option<i64>>(6) {
                superseded.insert(previous.cast_unsigned());
            }
            let deleted = row.get_ref(7)?.as_i64() == Ok(ChangeType::Deleted.number());
            if superseded.remove(&revision) || deleted {
                continue;
            }
            let share = |text| Body::sharing(text, &mut loaded.values);
            match read_record(row, revision, share) {
                // Newest first: an older row of the same key is what an unreadable one left over.
                Ok(record) if loaded.index.get(record.kind, &record.key).is_some() => {}
                Ok(record) => {
                    loaded.index.put(Arc::new(record));
                }
                Err(reason) => {
                    error!(revision, reason, "stored object is unreadable and left out");
                    loaded.quarantined += 1;
                    if let Ok((kind, key)) = read_name(row) {
                        loaded.quarantine.insert((kind, key), revision);
                    }
                }
            }
        }
        Ok(loaded)
    }

    /// Appends the rows and raises the floor in one durable transaction. On an error nothing of it
    /// happened.
    pub fn append(
        &mut self,
        entries: &[Entry],
        floor: Option<(u64, u64)>,
    ) -> Result<(), DiskError> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO log \
                 (revision, kind, namespace, name, change, ends, previous, header, body) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            for Entry { event, previous } in entries {
                let record = &event.record;
                let (header, body) = if event.change == ChangeType::Deleted {
                    (None, None)
                } else {
                    self.header.clear();
                    serde_json::to_writer(&mut self.header, &*record.header)?;
                    (std::str::from_utf8(&self.header).ok(), Some(record.body.text()))
                };
                insert.execute(params![
                    record.revision.cast_signed(),
                    record.kind as u8,
                    record.key.namespace,
                    record.key.name,
                    event.change.number(),
                    event.ends_transaction,
                    previous.map(u64::cast_signed),
                    header,
                    body
                ])?;
            }
        }
        if let Some((from, to)) = floor {
            compact(&transaction, from, to)?;
        }
        Ok(transaction.commit()?)
    }

    /// Moves what is committed into the database file, as far as nobody reads older pages.
    pub fn checkpoint(&self) -> Result<Checkpointed, DiskError> {
        Ok(checkpoint(&self.connection, "PASSIVE")?)
    }

    /// The last checkpoint: everything into the database file, and the log emptied.
    pub fn finish(&self) -> Result<(), DiskError> {
        checkpoint(&self.connection, "TRUNCATE")?;
        Ok(())
    }
}

/// Forgets what changes up to `to` superseded, and deletions up to there. What `previous` names of
/// later changes stays: it is the labels and fields that those changes' watchers ask for.
fn compact(connection: &Connection, from: u64, to: u64) -> rusqlite::Result<()> {
    let (from, to) = (from.cast_signed(), to.cast_signed());
    let mut superseded = connection.prepare_cached(
        "DELETE FROM log WHERE revision IN \
         (SELECT previous FROM log WHERE revision > ?1 AND revision <= ?2 AND previous IS NOT NULL)",
    )?;
    superseded.execute([from, to])?;
    let mut deletions = connection
        .prepare_cached("DELETE FROM log WHERE revision > ?1 AND revision <= ?2 AND change = 2")?;
    deletions.execute([from, to])?;
    connection.prepare_cached("UPDATE floor SET revision = ?1")?.execute([to])?;
    Ok(())
}

/// The connection that checkpoints beside the writer.
#[derive(Debug)]
pub(super) struct Checkpointer(Connection);

/// How far a checkpoint came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpointed {
    /// Pages in the log.
    pub pages: u64,
    /// Of these, pages not yet in the database file.
    pub left: u64,
}

impl Checkpointer {
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = Connection::open(path).map_err(failed("open", path))?;
        Ok(Self(connection))
    }

    pub fn run(&self) -> Result<Checkpointed, DiskError> {
        Ok(checkpoint(&self.0, "PASSIVE")?)
    }
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<Checkpointed> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |row| {
        // -1 where there is no log yet.
        let pages = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        let done = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
        Ok(Checkpointed { pages, left: pages.saturating_sub(done) })
    })
}

/// Reads old changes for watches. Opened when the first one asks.
#[derive(Debug)]
pub(super) struct ChangeLog {
    path: PathBuf,
    connection: Option<Connection>,
}

/// What replaying gives.
#[derive(Debug)]
pub(super) enum Replayed {
    /// Every change of the kind in the asked range, in order.
    Events(Vec<Arc<Event>>),
    /// The floor is above the range's start by now.
    Compacted,
    /// A row of the range cannot be read: whoever needs it has to list.
    Unreadable,
}

impl ChangeLog {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connection: None }
    }

    /// The changes of a kind after `after`, up to and with `upto`.
    pub fn replay(&mut self, kind: Kind, after: u64, upto: u64) -> Result<Replayed, DiskError> {
        if self.connection.is_none() {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            self.connection = Some(Connection::open_with_flags(&self.path, flags)?);
        }
        let Some(connection) = &mut self.connection else { return Ok(Replayed::Unreadable) };
        // Floor and rows in one read transaction: a compaction between the two would be a gap.
        let transaction = connection.transaction()?;
        if read_floor(&transaction)? > after {
            return Ok(Replayed::Compacted);
        }
        let mut statement = transaction.prepare_cached(
            "SELECT l.revision, l.kind, l.namespace, l.name, l.header, l.body, \
                    l.change, l.ends, p.header, p.body \
             FROM log l LEFT JOIN log p ON p.revision = l.previous \
             WHERE l.revision > ?1 AND l.revision <= ?2 AND l.kind = ?3 ORDER BY l.revision",
        )?;
        let mut rows =
            statement.query(params![after.cast_signed(), upto.cast_signed(), kind as u8])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            match read_event(row) {
                Ok(event) => events.push(Arc::new(event)),
                Err(reason) => {
                    error!(%kind, after, upto, reason, "stored change is unreadable");
                    return Ok(Replayed::Unreadable);
                }
            }
        }
        Ok(Replayed::Events(events))
    }
}

fn read_floor(connection: &Connection) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached("SELECT revision FROM floor")?;
    statement.query_row((), |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
}

fn failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(rusqlite::Error) -> OpenError + use<'a> {
    move |source| OpenError::Sqlite { operation, path: path.to_owned(), source }
}

/// Columns 1 to 3.
fn read_name(row: &Row<'_>) -> Result<(Kind, Key), String> {
    let kind: u8 = row.get(1).map_err(|error| error.to_string())?;
    let kind = Kind::of_number(kind).ok_or_else(|| format!("no kind has the number {kind}"))?;
    Ok((kind, Key { namespace: read_text(row, 2)?, name: read_text(row, 3)? }))
}

/// Columns 1 to 5: name, header, body.
fn read_record(
    row: &Row<'_>,
    revision: u64,
    body: impl FnOnce(Vec<u8>) -> Body,
) -> Result<Record, String> {
    let (kind, key) = read_name(row)?;
    let header = read_header(row, 4)?;
    let body = body(read_body(row, 5)?);
    Ok(Record::new(kind, key, revision, body, Arc::new(header)))
}

fn read_event(row: &Row<'_>) -> Result<Event, String> {
    let number = |at| row.get::<_, i64>(at).map_err(|error| error.to_string());
    let revision = number(0)?.cast_unsigned();
    let change = ChangeType::of_number(number(6)?).ok_or("no change has this number")?;
    let ends_transaction = number(7)? == 1;
    let (record, previous) = match change {
        ChangeType::Created => (read_record(row, revision, Body::whole)?, None),
        ChangeType::Updated => {
            (read_record(row, revision, Body::whole)?, Some(Arc::new(read_header(row, 8)?)))
        }
        ChangeType::Deleted => {
            let (kind, key) = read_name(row)?;
            let header = Arc::new(read_header(row, 8)?);
            let body = restamp(&read_body(row, 9)?, revision);
            (Record::new(kind, key, revision, Body::whole(body), header.clone()), Some(header))
        }
    };
    Ok(Event { change, record: Arc::new(record), previous, ends_transaction })
}

fn read_text(row: &Row<'_>, column: usize) -> Result<String, String> {
    let value = row.get_ref(column).map_err(|error| error.to_string())?;
    Ok(value.as_str().map_err(|error| error.to_string())?.to_owned())
}

fn read_header(row: &Row<'_>, column: usize) -> Result<Header, String> {
    let value = row.get_ref(column).map_err(|error| error.to_string())?;
    let text = value.as_str().map_err(|error| error.to_string())?;
    serde_json::from_str(text).map_err(|error| format!("header: {error}"))
}

/// The text is checked, the JSON is not: it is decoded when somebody asks for the object.
fn read_body(row: &Row<'_>, column: usize) -> Result<Vec<u8>, String> {
    let value = row.get_ref(column).map_err(|error| error.to_string())?;
    let bytes = value.as_blob().map_err(|error| error.to_string())?;
    std::str::from_utf8(bytes).map_err(|error| format!("body: {error}"))?;
    Ok(bytes.to_vec())
}

impl ChangeType {
    /// As the log stores it.
    fn number(self) -> i64 {
        match self {
            Self::Created => 0,
            Self::Updated => 1,
            Self::Deleted => 2,
        }
    }

    fn of_number(number: i64) -> Option<Self> {
        [Self::Created, Self::Updated, Self::Deleted]
            .into_iter()
            .find(|change| change.number() == number)
    }
}
