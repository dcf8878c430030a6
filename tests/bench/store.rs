//! Durable writes of 2 kB a second with 1 and 64 writers, how long they take, and how long after
//! its answer a write reaches watchers. The peer is SQLite itself: the same rows in a bare loop with
//! `synchronous=FULL`, one a transaction (what 1 writer can reach) and 64 (what 64 can).
//!
//! And how long the store takes to open with 10,000 objects and as many changes behind them. For
//! rates p99 is the best round.

use std::path::Path;
use std::time::{Duration, Instant};

use ballast::object::{Key, Kind};
use ballast::store::{
    Draft, Expect, Header, Sqlite, SqliteOptions, Store, Transaction, WatchItem, Write,
};
use futures::StreamExt;
use tokio::runtime::Runtime;

use crate::report::Report;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
const BODY_BYTES: usize = 2048;
/// Objects that the writes of one writer go round, so that most are updates.
const OBJECTS: usize = 100;
const WATCHERS: usize = 100;

pub fn run(report: &mut Report) {
    let runtime = Runtime::new().expect("a runtime");
    for _ in 0..ROUNDS {
        report.sample("raw SQLite, 1 row a transaction", "writes/s", raw(1));
        runtime.block_on(ours(report, "1 writer", 1, 0));
        report.sample("raw SQLite, 64 rows a transaction", "writes/s", raw(64));
        runtime.block_on(ours(report, "64 writers", 64, 0));
        runtime.block_on(ours(report, "1 writer, 100 watchers", 1, WATCHERS));
        runtime.block_on(ours(report, "64 writers, 100 watchers", 64, WATCHERS));
    }
    runtime.block_on(opening(report));
}

fn draft(key: &Key) -> Draft {
    let head = r#"{"metadata":{"resourceVersion":""#;
    let mut json = format!("{head}\",\"name\":\"{}\"}},\"text\":\"", key.name).into_bytes();
    // Not one repeated letter: nothing on the way may win by compressing it.
    json.extend((json.len()..BODY_BYTES - 2).map(|at| b'a' + (at * at % 26) as u8));
    json.extend(b"\"}");
    Draft { json, revision_at: head.len() }
}

/// Rows a second.
fn raw(rows_a_transaction: usize) -> f64 {
    let folder = tempfile::tempdir_in(".").expect("a folder on this disk");
    let connection = rusqlite::Connection::open(folder.path().join("raw.db")).expect("opens");
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE log (revision INTEGER PRIMARY KEY, namespace TEXT, name TEXT, body BLOB);",
        )
        .expect("is set up");
    let body = draft(&Key::new("default", "raw")).json;
    let mut insert = connection
        .prepare("INSERT INTO log (namespace, name, body) VALUES ('default', 'raw', ?1)")
        .expect("prepares");
    let (start, mut rows) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        connection.execute_batch("BEGIN").expect("begins");
        for _ in 0..rows_a_transaction {
            insert.execute([&body]).expect("inserts");
        }
        connection.execute_batch("COMMIT").expect("commits");
        rows += rows_a_transaction;
    }
    rows as f64 / start.elapsed().as_secs_f64()
}

/// One round of our store: each writer sends its next write when the last one is answered.
async fn ours(report: &mut Report, name: &str, writers: usize, watchers: usize) {
    let folder = tempfile::tempdir_in(".").expect("a folder on this disk");
    let store = open(folder.path());
    let start = Instant::now();
    let watching: Vec<_> = (0..watchers).map(|_| tokio::spawn(arrivals(store.clone()))).collect();
    let writing: Vec<_> = (0..writers)
        .map(|writer| tokio::spawn(write_for_a_round(store.clone(), writer, start)))
        .collect();
    let mut answers = Vec::new();
    for writer in writing {
        answers.extend(writer.await.expect("writes"));
    }
    let seconds = start.elapsed().as_secs_f64();
    report.sample(&format!("{name}: rate"), "writes/s", answers.len() as f64 / seconds);
    let latencies = answers.iter().map(|(_, asked, answered)| *answered - *asked);
    report.milliseconds(&format!("{name}: answer"), latencies);
    let log = std::fs::metadata(folder.path().join("store.db-wal")).map_or(0, |log| log.len());
    assert!(log <= 64 << 20, "{log} bytes of WAL: checkpoints do not keep up");
    report.sample(&format!("{name}: WAL"), "MiB", log as f64 / f64::from(1 << 20));
    store.close().await;
    answers.sort_by_key(|(revision, ..)| *revision);
    let mut lags = Vec::new();
    for watcher in watching {
        for (revision, arrived) in watcher.await.expect("watches") {
            let index = answers.binary_search_by_key(&revision, |(revision, ..)| *revision);
            let (_, _, answered) = answers[index.expect("every event was a write")];
            lags.push(arrived.saturating_duration_since(answered));
        }
    }
    if watchers > 0 {
        assert_eq!(lags.len(), answers.len() * watchers, "every watcher saw every write");
        report.milliseconds(&format!("{name}: watch behind answer"), lags);
    }
}

fn open(folder: &Path) -> Sqlite {
    Sqlite::open(&folder.join("store.db"), SqliteOptions::default()).expect("opens")
}

/// Each object written twice, then opened again and again.
async fn opening(report: &mut Report) {
    const MANY: usize = 10_000;
    let folder = tempfile::tempdir_in(".").expect("a folder on this disk");
    let store = open(folder.path());
    for expect in [Expect::Absent, Expect::Present] {
        for hundred in 0..MANY / 100 {
            let writes = (0..100).map(|one| {
                let key = Key::new("default", format!("object-{hundred}-{one}"));
                let (draft, header) = (draft(&key), Header::default());
                Write::Put { kind: Kind::ConfigMap, key, expect, draft, header }
            });
            let transaction = Transaction { writes: writes.collect() };
            store.transact(transaction).await.expect("is written");
        }
    }
    store.close().await;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let store = open(folder.path());
        report.milliseconds("open 10,000 objects", [start.elapsed()]);
        store.close().await;
    }
}

/// Revision, when asked, when answered.
async fn write_for_a_round(
    store: Sqlite,
    writer: usize,
    start: Instant,
) -> Vec<(u64, Instant, Instant)> {
    let mut answers = Vec::new();
    let keys: Vec<Key> = (0..OBJECTS)
        .map(|object| Key::new("default", format!("object-{writer}-{object}")))
        .collect();
    let mut revisions = vec![None; OBJECTS];
    let header = Header { uid: "0123".to_owned(), ..Header::default() };
    while start.elapsed() < ROUND {
        let object = answers.len() % OBJECTS;
        let (key, header) = (keys[object].clone(), header.clone());
        let draft = draft(&key);
        let expect = revisions[object].map_or(Expect::Absent, Expect::Revision);
        let asked = Instant::now();
        let write = Write::Put { kind: Kind::ConfigMap, key, expect, draft, header };
        let stored = store.transact(Transaction { writes: vec![write] }).await.expect("is written");
        revisions[object] = Some(stored[0].revision);
        answers.push((stored[0].revision, asked, Instant::now()));
    }
    answers
}

/// When each change reached a watcher, until the store is closed.
async fn arrivals(store: Sqlite) -> Vec<(u64, Instant)> {
    // From the beginning: the first writes may be there before this task runs.
    let mut watch = store.watch(Kind::ConfigMap, Some(1)).expect("watches");
    drop(store);
    let mut seen = Vec::new();
    while let Some(item) = watch.next().await {
        match item {
            WatchItem::Event(event) => {
                seen.push((event.record.revision, Instant::now()));
            }
            WatchItem::Progress(_) => {}
            WatchItem::Lost => panic!("a watcher was lost"),
        }
    }
    seen
}
