//! The shape of the file, and the only way it is opened.
//!
//! A file is looked at before it is opened for writing: what a newer version or another program
//! wrote is refused and not touched. Migrations are numbered; each is one transaction together with
//! its number, so that a crash leaves the version before or the version after.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

/// SQLite before 3.51.3 can lose a commit when a WAL is reset while a checkpoint runs.
const OLDEST_SQLITE: i32 = 3_051_003;

/// `BLST`, at byte 68 of the file: a store of ours and no other program's.
const APPLICATION_ID: u32 = 0x424c_5354;

/// Version n is reached by running the first n. Append, never change one that was released. A new
/// kind comes with a migration, if only an empty one: a version without the kind would leave its
/// objects out instead of refusing the store.
const MIGRATIONS: &[&str] = &["
    -- Every write, and at the same time the objects: a row is live as long as no later row names it
    -- as its previous one. So a write costs one appended row, and its body is stored once.
    CREATE TABLE log (
        revision  INTEGER PRIMARY KEY,
        kind      INTEGER NOT NULL,            -- discriminant of Kind
        namespace TEXT NOT NULL,
        name      TEXT NOT NULL,
        change    INTEGER NOT NULL,            -- 0 created, 1 updated, 2 deleted
        ends      INTEGER NOT NULL,            -- 1: the last row of its transaction
        previous  INTEGER,                     -- the revision of the state that this one replaces
        header    TEXT,                        -- JSON; NULL when deleted
        body      BLOB                         -- JSON; NULL when deleted
    ) STRICT;
    -- What is superseded or deleted up to this revision is forgotten.
    CREATE TABLE floor (only INTEGER PRIMARY KEY CHECK (only = 0), revision INTEGER NOT NULL) STRICT;
    INSERT INTO floor VALUES (0, 0);
", "
    -- The kind Inventory.
", "
    -- The kinds PersistentVolume, PersistentVolumeClaim and StorageClass.
"];

/// Why a store does not open. Nothing was changed on disk, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "SQLite {found} is too old, {needed} is needed: older ones can lose a commit \
         (WAL reset); build with the bundled SQLite"
    )]
    OldSqlite { found: String, needed: &'static str },
    #[error(
        "{path} was written by a newer version (schema {found}, this version knows {known}): \
         start that version, or move the file away to begin anew from Git; nothing was changed"
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error(
        "{path} is not a Ballast store: point the data directory somewhere else; nothing was changed"
    )]
    Foreign { path: PathBuf },
    #[error("{path} is open in another process: stop that one first")]
    InUse { path: PathBuf },
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("SQLite cannot {operation} {path}")]
    Sqlite { operation: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error("the store's thread does not start")]
    Thread(#[source] io::Error),
}

/// Whether the SQLite that is linked in is new enough.
///
/// # Errors
/// [`OpenError::OldSqlite`], naming both versions.
pub fn sqlite_version_ok() -> Result<(), OpenError> {
    new_enough(rusqlite::version_number(), rusqlite::version())
}

/// The SQLite that is linked in, as `3.54.1`.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

fn new_enough(number: i32, version: &str) -> Result<(), OpenError> {
    if number >= OLDEST_SQLITE {
        return Ok(());
    }
    Err(OpenError::OldSqlite { found: version.to_owned(), needed: "3.51.3" })
}

/// Held, it keeps a store ours.
#[derive(Debug)]
pub struct StoreLock(File);

impl Drop for StoreLock {
    /// Said, not left to the closing of the file: a program that is just being started has a copy of
    /// every open file until it runs, and would keep the lock for as long.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// The store's lock without the store: nobody opens it while the answer is held. For who removes it.
///
/// # Errors
/// [`OpenError::InUse`]; the lock's file cannot be made.
pub fn hold(path: &Path) -> Result<StoreLock, OpenError> {
    lock(path)
}

/// A store's file, opened for writing and migrated, and the lock that keeps it ours.
pub(super) fn open(path: &Path) -> Result<(Connection, StoreLock), OpenError> {
    sqlite_version_ok()?;
    // First the lock: who holds it may be a newer version that is about to migrate.
    let lock = lock(path)?;
    refuse_what_is_not_ours(path)?;
    create_private(path)?;
    let failed =
        |operation| move |source| OpenError::Sqlite { operation, path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(failed("open"))?;
    migrate(&mut connection).map_err(failed("migrate"))?;
    Ok((connection, lock))
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let version: usize =
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))? as usize;
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", index as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Secrets stand in the file, so nobody else may read it; SQLite gives its other files the same
/// mode. The folder is synced: a store whose name is lost with the power is lost whole.
fn create_private(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { operation: "create", path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    folder.sync_all().map_err(failed)
}

/// An advisory lock on a file beside the store: two daemons on one store would each answer from an
/// index of its own. Not on the store itself: closing any descriptor of that would drop SQLite's
/// own locks.
fn lock(path: &Path) -> Result<StoreLock, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let failed = |source| OpenError::Io { operation: "lock", path: lock_path.clone(), source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(StoreLock(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Looks at the file without changing it.
fn refuse_what_is_not_ours(path: &Path) -> Result<(), OpenError> {
    let Some(mark) = read_mark(path)? else { return Ok(()) };
    if mark.version > MIGRATIONS.len() as u32 && mark.application == APPLICATION_ID {
        let known = MIGRATIONS.len() as u32;
        return Err(OpenError::Newer { path: path.to_owned(), found: mark.version, known });
    }
    // A crash before the first migration leaves an empty database without mark: that one is ours.
    if mark.application != APPLICATION_ID && !mark.empty {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    Ok(())
}

/// Who wrote the file.
struct Mark {
    application: u32,
    version: u32,
    /// It holds no table.
    empty: bool,
}

/// `None` when there is no file yet, or an empty one.
fn read_mark(path: &Path) -> Result<Option<Mark>, OpenError> {
    let failed = |source| OpenError::Io { operation: "read", path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // The database header (sqlite.org/fileformat2.html, 1.3); the b-tree page of the schema follows
    // at byte 100, its number of cells at 103.
    let mut head = Vec::new();
    file.by_ref().take(105).read_to_end(&mut head).map_err(failed)?;
    if head.is_empty() {
        return Ok(None);
    }
    if head.len() < 105 || !head.starts_with(b"SQLite format 3\0") {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    let number =
        |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    // Where a crash left a log of changes, only SQLite can tell what the header is by now.
    if fs::metadata(wal).is_ok_and(|log| log.len() > 0) {
        return read_mark_through_log(path).map(Some).map_err(|source| OpenError::Sqlite {
            operation: "read",
            path: path.to_owned(),
            source,
        });
    }
    let cells = u16::from_be_bytes([head[103], head[104]]);
    Ok(Some(Mark { version: number(60), application: number(68), empty: cells == 0 }))
}

/// A connection that may not write does not checkpoint either: store and log stay as they are.
fn read_mark_through_log(path: &Path) -> rusqlite::Result<Mark> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    Ok(Mark {
        application: number("application_id")?.cast_unsigned(),
        version: number("user_version")?.cast_unsigned(),
        empty: tables == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlite_below_the_floor_is_refused() {
        assert!(sqlite_version_ok().is_ok());
        assert!(new_enough(3_051_003, "3.51.3").is_ok());
        let refused = new_enough(3_051_002, "3.51.2").expect_err("too old");
        assert!(refused.to_string().starts_with("SQLite 3.51.2 is too old, 3.51.3 is needed"));
    }

    #[test]
    fn a_new_kind_is_a_new_version() {
        let kinds = crate::object::Kind::all().count();
        assert_eq!((MIGRATIONS.len(), kinds), (3, 17), "append a migration with each new kind");
    }

    #[test]
    fn a_crash_before_the_first_migration_is_no_foreign_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let connection = Connection::open(&path).expect("opens");
        connection.pragma_update(None, "journal_mode", "WAL").expect("switches");
        drop(connection);
        assert!(fs::metadata(&path).expect("exists").len() > 0);
        open(&path).expect("is migrated");
    }

    #[test]
    fn a_second_opener_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let first = open(&path).expect("opens");
        assert!(matches!(open(&path), Err(OpenError::InUse { .. })));
        drop(first);
        open(&path).expect("opens again");
    }
}
