//! The store through its public door: what holds for one write, one list, one watch, one file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ballast::object::{Key, Kind};
use ballast::store::{
    ChangeType, Draft, Event, Expect, Header, ListPage, ListRequest, OpenError, Record, Sqlite,
    SqliteOptions, Store, StoreError, Transaction, WatchItem, Write, WriterMode,
};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tempfile::TempDir;

fn inline(keep_changes: u64) -> SqliteOptions {
    SqliteOptions { writer: WriterMode::Inline, keep_changes }
}

fn thread(keep_changes: u64) -> SqliteOptions {
    SqliteOptions { writer: WriterMode::Thread, keep_changes }
}

fn folder() -> TempDir {
    crate::watchdog::watch();
    tempfile::tempdir().expect("a folder")
}

fn open(folder: &TempDir, options: SqliteOptions) -> Sqlite {
    Sqlite::open(&folder.path().join("store.db"), options).expect("opens")
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// A body whose only content is its name, its namespace and `text`.
fn draft(key: &Key, text: &str) -> Draft {
    let head = r#"{"metadata":{"resourceVersion":""#;
    let name = format!("{head}\",\"name\":\"{}\"}},\"text\":\"{text}\"}}", key.name);
    Draft { json: name.into_bytes(), revision_at: head.len() }
}

fn labelled(app: &str) -> Header {
    Header {
        uid: "u".to_owned(),
        labels: [("app", app)].into_iter().collect(),
        ..Header::default()
    }
}

fn put(kind: Kind, key: &Key, expect: Expect, text: &str) -> Write {
    let draft = draft(key, text);
    Write::Put { kind, key: key.clone(), expect, draft, header: labelled(text) }
}

fn delete(kind: Kind, key: &Key, expect: Expect) -> Write {
    Write::Delete { kind, key: key.clone(), expect }
}

async fn write(store: &Sqlite, write: Write) -> Result<Arc<Record>, StoreError> {
    Ok(transact(store, vec![write]).await?.remove(0))
}

async fn transact(store: &Sqlite, writes: Vec<Write>) -> Result<Vec<Arc<Record>>, StoreError> {
    store.transact(Transaction { writes }).await
}

fn list(store: &Sqlite, kind: Kind) -> ListPage {
    let all = |_: &Record| true;
    let request = ListRequest { namespace: None, limit: 0, after: None, at: None, select: &all };
    store.list(kind, &request).expect("the latest can be listed")
}

/// `(change, name, revision, ends)` of the next `count` events; progress is left out.
async fn events(
    watch: &mut BoxStream<'static, WatchItem>,
    count: usize,
) -> Vec<(ChangeType, String, u64, bool)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match next(watch).await {
            WatchItem::Event(event) => seen.push(row(&event)),
            WatchItem::Progress(_) => {}
            WatchItem::Lost => panic!("lost after {seen:?}"),
        }
    }
    seen
}

fn row(event: &Event) -> (ChangeType, String, u64, bool) {
    let record = &event.record;
    (event.change, record.key.name.clone(), record.revision, event.ends_transaction)
}

async fn next(watch: &mut BoxStream<'static, WatchItem>) -> WatchItem {
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, watch.next()).await.expect("an item comes").expect("goes on")
}

#[tokio::test]
async fn a_write_is_answered_as_stored_and_compared_by_revision() {
    let folder = folder();
    for options in [inline(100), thread(100)] {
        let store = open(&folder, options);
        let name = key(&format!("a-{:?}", options.writer).to_lowercase());
        let created =
            write(&store, put(Kind::Pod, &name, Expect::Absent, "one")).await.expect("ok");
        assert_eq!(created.revision, store.revision());
        let text = format!("\"resourceVersion\":\"{}\"", created.revision);
        assert!(String::from_utf8_lossy(&created.body.text()).contains(&text));
        assert!(Arc::ptr_eq(&created, &store.get(Kind::Pod, &name).expect("is there")));
        assert!(store.get(Kind::ConfigMap, &name).is_none());

        let again = write(&store, put(Kind::Pod, &name, Expect::Absent, "one")).await;
        assert!(matches!(again, Err(StoreError::Exists { write: 0, .. })));
        let stale = write(&store, put(Kind::Pod, &name, Expect::Revision(1), "two")).await;
        assert!(
            matches!(stale, Err(StoreError::Stale { current, .. }) if current == created.revision)
        );
        assert_eq!(store.revision(), created.revision, "a refusal uses no revision");

        let at = Expect::Revision(created.revision);
        let updated = write(&store, put(Kind::Pod, &name, at, "two")).await.expect("ok");
        assert_eq!(updated.revision, created.revision + 1);
        let deleted = write(&store, delete(Kind::Pod, &name, Expect::Present)).await.expect("ok");
        assert_eq!(deleted.revision, updated.revision + 1);
        let last = String::from_utf8_lossy(&deleted.body.text()).into_owned();
        assert!(last.contains(&format!("\"resourceVersion\":\"{}\"", deleted.revision)));
        assert!(last.contains("two"), "the last state");
        assert!(store.get(Kind::Pod, &name).is_none());
        store.close().await;
    }
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let folder = folder();
    let store = open(&folder, thread(100));
    let (a, b) = (key("a"), key("b"));
    let before = store.revision();
    let refused = transact(
        &store,
        vec![
            put(Kind::Pod, &a, Expect::Absent, "x"),
            put(Kind::Service, &b, Expect::Absent, "x"),
            Write::Check { kind: Kind::Node, key: Key::cluster("n"), expect: Expect::Present },
        ],
    )
    .await;
    assert!(matches!(refused, Err(StoreError::Missing { write: 2, kind: Kind::Node, .. })));
    assert_eq!(store.revision(), before);
    assert!(store.get(Kind::Pod, &a).is_none());

    let records = transact(
        &store,
        vec![
            Write::Check { kind: Kind::Pod, key: b.clone(), expect: Expect::Absent },
            put(Kind::Pod, &a, Expect::Absent, "x"),
            put(Kind::Service, &b, Expect::Absent, "x"),
            delete(Kind::Pod, &a, Expect::Present),
        ],
    )
    .await
    .expect("allowed");
    let revisions: Vec<u64> = records.iter().map(|record| record.revision).collect();
    assert_eq!(revisions, [before + 1, before + 2, before + 3]);
    assert_eq!(store.revision(), before + 3);
    assert!(transact(&store, vec![]).await.expect("nothing is allowed").is_empty());
    assert_eq!(store.revision(), before + 3);
}

#[tokio::test]
async fn a_watch_cut_inside_a_transaction_resumes_without_loss() {
    for options in [inline(100), thread(100)] {
        let folder = folder();
        let store = open(&folder, options);
        let start = store.revision();
        let mut watch = store.watch(Kind::Pod, Some(start)).expect("watches");
        let writes = ["a", "b", "c"].map(|n| put(Kind::Pod, &key(n), Expect::Absent, "x")).into();
        transact(&store, writes).await.expect("allowed");
        let created =
            |name: &str, after, ends| (ChangeType::Created, name.to_owned(), start + after, ends);
        let all = [created("a", 1, false), created("b", 2, false), created("c", 3, true)];
        assert_eq!(events(&mut watch, 1).await, all[..1]);
        drop(watch);
        let mut resumed = store.watch(Kind::Pod, Some(start + 1)).expect("resumes");
        assert_eq!(events(&mut resumed, 2).await, all[1..]);
        drop(resumed);

        store.close().await;
        let store = open(&folder, options);
        assert_eq!(store.revision(), start + 3);
        let mut resumed = store.watch(Kind::Pod, Some(start + 1)).expect("resumes from disk");
        assert_eq!(events(&mut resumed, 2).await, all[1..]);
        let d = write(&store, put(Kind::Pod, &key("d"), Expect::Absent, "x")).await.expect("ok");
        assert_eq!(d.revision, start + 4, "revisions go on where they were");
        assert_eq!(events(&mut resumed, 1).await, [created("d", 4, true)]);
    }
}

#[tokio::test]
async fn a_store_keeps_what_it_was_told() {
    let folder = folder();
    let store = open(&folder, thread(100));
    for name in ["b", "a", "c"] {
        write(&store, put(Kind::Secret, &key(name), Expect::Absent, name)).await.expect("ok");
    }
    write(&store, delete(Kind::Secret, &key("c"), Expect::Present)).await.expect("ok");
    let a = write(&store, put(Kind::Secret, &key("a"), Expect::Present, "new")).await.expect("ok");
    drop(store);
    let store = open(&folder, thread(100));
    let page = list(&store, Kind::Secret);
    let names: Vec<&str> = page.items.iter().map(|record| record.key.name.as_str()).collect();
    assert_eq!((names, page.revision), (vec!["a", "b"], a.revision));
    assert_eq!(page.items[0].body, a.body);
    assert_eq!(page.items[0].header, a.header);
    assert_eq!(page.items[0].revision, a.revision);
    assert_eq!(store.quarantined(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_continued_list_stays_at_its_revision_for_five_minutes() {
    let folder = folder();
    let store = open(&folder, inline(1000));
    for number in 0..10 {
        let key = Key::new(format!("ns-{}", number % 2), format!("p{number}"));
        write(&store, put(Kind::Pod, &key, Expect::Absent, "old")).await.expect("ok");
    }
    let all = |_: &Record| true;
    let page = |namespace, after: Option<&Key>, at| {
        let request = ListRequest { namespace, limit: 2, after, at, select: &all };
        store.list(Kind::Pod, &request)
    };
    let first = page(Some("ns-1"), None, None).expect("lists");
    assert_eq!((first.items.len(), first.remaining), (2, 3));
    let mut names: Vec<String> = first.items.iter().map(|r| r.key.name.clone()).collect();
    let mut after = first.items.last().map(|record| record.key.clone());
    while let Some(last) = after {
        let gone = Key::new("ns-1", "p9");
        write(&store, put(Kind::Pod, &gone, Expect::Present, "new")).await.expect("ok");
        let next = page(Some("ns-1"), Some(&last), Some(first.revision)).expect("goes on");
        assert_eq!(next.revision, first.revision);
        assert!(next.items.iter().all(|r| String::from_utf8_lossy(&r.body.text()).contains("old")));
        names.extend(next.items.iter().map(|record| record.key.name.clone()));
        after = next.items.last().filter(|_| next.remaining > 0).map(|r| r.key.clone());
    }
    assert_eq!(names, ["p1", "p3", "p5", "p7", "p9"]);

    let last = key("p1");
    tokio::time::advance(Duration::from_secs(299)).await;
    assert!(page(None, Some(&last), Some(first.revision)).is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    let expired = page(None, Some(&last), Some(first.revision));
    assert!(matches!(expired, Err(StoreError::Compacted { asked, .. }) if asked == first.revision));
    let future = page(None, None, Some(store.revision() + 1));
    assert!(matches!(future, Err(StoreError::Future { .. })));
}

/// What is made of two kinds: both of one state, and their changes in one order, from disk, from memory
/// and across the two.
#[tokio::test]
async fn two_kinds_are_listed_and_watched_together() {
    let folder = folder();
    let mut store = open(&folder, inline(10_000));
    let mut written = Vec::new();
    for number in 0..700 {
        if number == 300 {
            store.close().await;
            store = open(&folder, inline(10_000));
        }
        let key = key(&format!("o{number}"));
        let kinds = [Kind::Service, Kind::Pod, Kind::EndpointSlice, Kind::Service];
        // Each transaction has a third kind's change in it, some of them behind the others.
        let kinds = &kinds[number % 3..=number % 3 + number % 2];
        let mut writes: Vec<Write> =
            kinds.iter().map(|kind| put(*kind, &key, Expect::Absent, "x")).collect();
        writes.push(put(Kind::Lease, &key, Expect::Absent, "x"));
        for record in transact(&store, writes).await.expect("ok") {
            if matches!(record.kind, Kind::Service | Kind::EndpointSlice) {
                written.push((record.kind, record.revision));
            }
        }
    }
    assert!(written.len() > 600, "{}", written.len());
    let kinds = (Kind::Service, Kind::EndpointSlice);
    for from in [0, 1, written[250].1 - 1, written[250].1, written[600].1, store.revision()] {
        let mut watch = store.watch_both(kinds, Some(from)).expect("watches");
        let (mut seen, mut reached) = (Vec::new(), from);
        while reached < store.revision() {
            match next(&mut watch).await {
                WatchItem::Event(event) => {
                    assert!(event.record.revision > reached.min(from), "{from}");
                    seen.push((event.record.kind, event.record.revision));
                }
                WatchItem::Progress(revision) => reached = revision,
                WatchItem::Lost => panic!("nothing is compacted here"),
            }
        }
        let wanted: Vec<_> = written.iter().filter(|(_, at)| *at > from).copied().collect();
        assert_eq!(seen, wanted, "from {from}");
    }
    // Live, of each of the two, and of no other.
    let mut watch = store.watch_both(kinds, None).expect("watches");
    for kind in [Kind::Lease, Kind::EndpointSlice, Kind::Pod, Kind::Service] {
        write(&store, put(kind, &key("live"), Expect::Absent, "x")).await.expect("ok");
    }
    let live = events(&mut watch, 2).await;
    assert_eq!(live[1].2 - live[0].2, 2, "{live:?}");

    let all = |_: &Record| true;
    let of = |limit, at| ListRequest { namespace: None, limit, after: None, at, select: &all };
    let both = |limit, at| {
        store.list_both((Kind::Service, &of(limit, at)), (Kind::EndpointSlice, &of(0, None)))
    };
    let (services, slices) = both(1, None).expect("lists");
    assert_eq!((services.revision, services.items.len()), (slices.revision, 1));
    let late = put(Kind::EndpointSlice, &key("late"), Expect::Absent, "x");
    write(&store, late).await.expect("ok");
    let (_, then) = both(1, Some(slices.revision)).expect("pinned");
    assert_eq!((then.revision, then.items.len()), (slices.revision, slices.items.len()));
    assert_eq!(both(0, None).expect("lists").1.items.len(), slices.items.len() + 1);
    assert!(matches!(both(0, Some(1)), Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn below_the_floor_a_watch_is_refused_and_above_it_nothing_is_missing() {
    let folder = folder();
    let mut store = open(&folder, inline(64));
    for round in 0..100 {
        for name in ["a", "b", "c"] {
            let key = key(name);
            let text = format!("{round}");
            let expect = if round == 0 { Expect::Absent } else { Expect::Present };
            write(&store, put(Kind::Pod, &key, expect, &text)).await.expect("ok");
        }
        write(&store, put(Kind::Node, &Key::cluster("n"), Expect::Absent, "x")).await.expect("ok");
        write(&store, delete(Kind::Node, &Key::cluster("n"), Expect::Present)).await.expect("ok");
    }
    for _ in 0..2 {
        let (floor, revision) = (store.floor(), store.revision());
        assert!(revision - floor >= 64 && revision - floor <= 64 + 64 / 8);
        let refused = store.watch(Kind::Pod, Some(floor - 1)).err();
        assert!(matches!(refused, Some(StoreError::Compacted { asked, floor: told })
            if asked == floor - 1 && told == floor));
        assert!(matches!(
            store.watch(Kind::Pod, Some(revision + 1)).err(),
            Some(StoreError::Future { .. })
        ));
        let (mut pods, mut nodes) = (
            store.watch(Kind::Pod, Some(floor)).expect("watches"),
            store.watch(Kind::Node, Some(floor)).expect("watches"),
        );
        let pods = drain(&mut pods);
        let nodes = drain(&mut nodes);
        let mut seen: Vec<u64> =
            pods.iter().chain(&nodes).map(|event| event.record.revision).collect();
        seen.sort_unstable();
        assert_eq!(seen, (floor + 1..=revision).collect::<Vec<_>>());
        drop(store);
        store = open(&folder, inline(64));
        assert_eq!((store.floor(), store.revision()), (floor, revision));
    }
    drop(store);
    let file = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
    let rows: u64 = file
        .query_row("SELECT count(*) FROM log", (), |row| row.get::<_, i64>(0))
        .expect("counts") as u64;
    assert!(rows <= 64 + 64 / 8 + 3, "{rows} rows: what was superseded is gone from disk");
}

/// Everything that is there without waiting; fails on `Lost`.
fn drain(watch: &mut BoxStream<'static, WatchItem>) -> Vec<Arc<Event>> {
    let mut seen = Vec::new();
    while let Some(item) = watch.next().now_or_never() {
        match item {
            Some(WatchItem::Event(event)) => seen.push(event),
            Some(WatchItem::Progress(_)) => {}
            Some(WatchItem::Lost) | None => panic!("the watch ended after {} events", seen.len()),
        }
    }
    seen
}

#[tokio::test]
async fn an_object_that_leaves_a_selector_is_known_also_after_a_restart() {
    let folder = folder();
    for options in [inline(100), thread(100)] {
        let name = key(&format!("{:?}", options.writer).to_lowercase());
        let store = open(&folder, options);
        let start = store.revision();
        write(&store, put(Kind::Pod, &name, Expect::Absent, "red")).await.expect("ok");
        write(&store, put(Kind::Pod, &name, Expect::Present, "blue")).await.expect("ok");
        write(&store, delete(Kind::Pod, &name, Expect::Present)).await.expect("ok");
        let app = |header: Option<&Arc<Header>>| {
            header.and_then(|h| h.labels.get("app")).map(str::to_owned)
        };
        let mut store = Some(store);
        for _ in 0..2 {
            let open_store = store.take().unwrap_or_else(|| open(&folder, options));
            let mut watch = open_store.watch(Kind::Pod, Some(start)).expect("watches");
            let mut seen = Vec::new();
            while seen.len() < 3 {
                if let WatchItem::Event(event) = next(&mut watch).await {
                    let record = &event.record;
                    seen.push((
                        event.change,
                        app(Some(&record.header)),
                        app(event.previous.as_ref()),
                    ));
                    let text = format!("\"resourceVersion\":\"{}\"", record.revision);
                    assert!(String::from_utf8_lossy(&record.body.text()).contains(&text));
                }
            }
            let (red, blue) = (Some("red".to_owned()), Some("blue".to_owned()));
            assert_eq!(
                seen,
                [
                    (ChangeType::Created, red.clone(), None),
                    (ChangeType::Updated, blue.clone(), red),
                    (ChangeType::Deleted, blue.clone(), blue),
                ]
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn progress_names_ends_of_transactions_at_most_once_a_second() {
    let folder = folder();
    let store = open(&folder, inline(1000));
    let mut watch = store.watch(Kind::Pod, None).expect("watches");
    let started = tokio::time::Instant::now();
    let mut ends = Vec::new();
    let mut progress = Vec::new();
    for number in 0..40 {
        let writes = vec![
            put(Kind::Pod, &key(&format!("p{number}")), Expect::Absent, "x"),
            put(Kind::Service, &key(&format!("s{number}")), Expect::Absent, "x"),
        ];
        ends.push(transact(&store, writes).await.expect("ok")[1].revision);
        let until = tokio::time::Instant::now() + Duration::from_millis(100);
        while let Ok(item) = tokio::time::timeout_at(until, watch.next()).await {
            match item.expect("goes on") {
                WatchItem::Event(event) => assert!(!event.ends_transaction),
                WatchItem::Progress(revision) => progress.push(revision),
                WatchItem::Lost => panic!("nobody is slow here"),
            }
        }
    }
    let seconds = started.elapsed().as_secs() as usize;
    assert!(progress.len() >= seconds && progress.len() <= seconds + 1, "{progress:?}");
    assert!(progress.iter().all(|revision| ends.contains(revision)), "{progress:?} of {ends:?}");
    assert!(progress.is_sorted());
    while progress.last() != ends.last() {
        let WatchItem::Progress(revision) = next(&mut watch).await else { panic!("all was told") };
        progress.push(revision);
    }
}

#[tokio::test]
async fn a_slow_watch_is_served_from_disk_and_lost_only_to_compaction() {
    let folder = folder();
    let store = open(&folder, inline(6000));
    let start = store.revision();
    let mut slow = store.watch(Kind::Pod, None).expect("watches");
    let mut slower = store.watch(Kind::Pod, None).expect("watches");
    let name = key("a");
    write(&store, put(Kind::Pod, &name, Expect::Absent, "x")).await.expect("ok");
    let many = |count| {
        let writes = (0..count).map(|_| put(Kind::Pod, &name, Expect::Present, "x")).collect();
        transact(&store, writes)
    };
    many(5500).await.expect("ok");
    let seen: Vec<u64> = drain(&mut slow).iter().map(|event| event.record.revision).collect();
    assert_eq!(seen, (start + 1..=start + 5501).collect::<Vec<_>>());
    for _ in 0..20 {
        many(500).await.expect("ok");
    }
    assert!(matches!(next(&mut slower).await, WatchItem::Lost));
    assert!(slower.next().await.is_none());
}

#[tokio::test]
async fn closing_ends_watches_and_refuses_writes() {
    for options in [inline(100), thread(100)] {
        let folder = folder();
        let store = open(&folder, options);
        let other = store.clone();
        let mut watch = store.watch(Kind::Pod, None).expect("watches");
        write(&store, put(Kind::Pod, &key("a"), Expect::Absent, "x")).await.expect("ok");
        store.close().await;
        assert_eq!(events(&mut watch, 1).await.len(), 1, "what happened is still told");
        assert!(watch.next().await.is_none());
        let refused = write(&other, put(Kind::Pod, &key("b"), Expect::Absent, "x")).await;
        assert!(matches!(refused, Err(StoreError::Closed)));
        assert!(other.get(Kind::Pod, &key("a")).is_some());
        open(&folder, options).close().await;
    }
}

#[tokio::test]
async fn claims_are_exclusive_also_after_a_restart() {
    let folder = folder();
    let claiming = |name: &str, expect, claims: &[&str]| {
        let claims = claims.iter().map(|&claim| claim.to_owned()).collect();
        let header = Header { claims, ..Header::default() };
        let key = key(name);
        let draft = draft(&key, "x");
        Write::Put { kind: Kind::Service, key, expect, draft, header }
    };
    let (ip, port) = ("clusterip/10.43.0.5", "nodeport/tcp/30080");
    let store = open(&folder, thread(100));
    write(&store, claiming("a", Expect::Absent, &[ip, port])).await.expect("free");
    drop(store);
    let store = open(&folder, thread(100));
    let refused = write(&store, claiming("b", Expect::Absent, &[port])).await;
    assert!(matches!(refused, Err(StoreError::Claimed { holder, .. }) if holder == key("a")));
    write(&store, claiming("a", Expect::Present, &[ip])).await.expect("keeps its own");
    write(&store, claiming("b", Expect::Absent, &[port])).await.expect("given up by a");
    write(&store, delete(Kind::Service, &key("a"), Expect::Present)).await.expect("ok");
    write(&store, claiming("c", Expect::Absent, &[ip])).await.expect("free after the deletion");
}

#[tokio::test]
async fn a_newer_store_is_refused_and_not_touched() {
    let folder = folder();
    let path = folder.path().join("store.db");
    let store = open(&folder, inline(100));
    write(&store, put(Kind::Pod, &key("a"), Expect::Absent, "x")).await.expect("ok");
    store.close().await;
    // Once with the newer number in the file, once with it in the log that a crash left behind.
    for in_log in [false, true] {
        let newer = rusqlite::Connection::open(&path).expect("opens");
        newer.pragma_update(None, "wal_autocheckpoint", 0).expect("set");
        newer.pragma_update(None, "user_version", 1000 + i32::from(in_log)).expect("set");
        let crashed = tempfile::tempdir().expect("a folder");
        let kept = if in_log {
            copy_as_after_a_crash(folder.path(), crashed.path());
            assert!(crashed.path().join("store.db-wal").exists());
            crashed.path()
        } else {
            newer.close().expect("closes");
            folder.path()
        };
        let bytes = |name: &str| fs::read(kept.join(name)).ok();
        let before = (bytes("store.db"), bytes("store.db-wal"));
        let refused = Sqlite::open(&kept.join("store.db"), thread(100)).err().expect("refused");
        assert!(matches!(refused, OpenError::Newer { known: 3, .. }), "{refused}");
        assert!(refused.to_string().contains("was written by a newer version"));
        assert!(before == (bytes("store.db"), bytes("store.db-wal")), "it was touched");
    }
}

#[test]
fn another_programs_file_is_refused_and_not_touched() {
    let folder = folder();
    let path = folder.path().join("store.db");
    let other = rusqlite::Connection::open(&path).expect("opens");
    other.execute_batch("CREATE TABLE theirs (a); PRAGMA user_version = 7").expect("creates");
    other.close().expect("closes");
    let text = folder.path().join("notes.txt");
    fs::write(&text, "x".repeat(4096)).expect("writes");
    for path in [path, text] {
        let before = fs::read(&path).expect("reads");
        let refused = Sqlite::open(&path, thread(100)).err().expect("refused");
        assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
        assert_eq!(before, fs::read(&path).expect("reads"));
    }
}

#[tokio::test]
async fn an_unreadable_object_is_left_out_and_gives_way_to_a_new_one() {
    let folder = folder();
    let path = folder.path().join("store.db");
    let store = open(&folder, thread(100));
    for name in ["fine", "header", "body", "kind"] {
        write(&store, put(Kind::Pod, &key(name), Expect::Absent, "x")).await.expect("ok");
    }
    let revision = store.revision();
    store.close().await;
    let damage = rusqlite::Connection::open(&path).expect("opens");
    damage
        .execute_batch(
            "UPDATE log SET header = '{\"uid\":' WHERE name = 'header';
             UPDATE log SET body = x'ff00' WHERE name = 'body';
             UPDATE log SET kind = 200 WHERE name = 'kind';",
        )
        .expect("damages");
    damage.close().expect("closes");

    let store = open(&folder, thread(100));
    assert_eq!((store.quarantined(), store.revision()), (3, revision));
    let names: Vec<String> =
        list(&store, Kind::Pod).items.iter().map(|record| record.key.name.clone()).collect();
    assert_eq!(names, ["fine"]);
    let mut watch = store.watch(Kind::Pod, Some(revision - 4)).expect("above the floor");
    assert!(matches!(next(&mut watch).await, WatchItem::Lost), "a gap is never silent");
    for name in ["header", "body"] {
        write(&store, put(Kind::Pod, &key(name), Expect::Absent, "y")).await.expect("ok");
    }
    store.close().await;
    let store = open(&folder, thread(100));
    assert_eq!((store.quarantined(), list(&store, Kind::Pod).items.len()), (1, 3));
}

#[tokio::test]
async fn after_a_crash_at_any_write_everything_answered_is_there() {
    let (folder, crashed) = (folder(), folder());
    let store = open(&folder, thread(20));
    let mut expected = BTreeMap::new();
    for number in 0..120_u32 {
        let name = key(&format!("p{}", number % 7));
        if expected.contains_key(&name) && number % 5 == 0 {
            write(&store, delete(Kind::Pod, &name, Expect::Present)).await.expect("ok");
            expected.remove(&name);
        } else {
            let expect =
                if expected.contains_key(&name) { Expect::Present } else { Expect::Absent };
            let text = format!("{number}");
            let record = write(&store, put(Kind::Pod, &name, expect, &text)).await.expect("ok");
            expected.insert(name, (record.revision, record.body.clone()));
        }
        copy_as_after_a_crash(folder.path(), crashed.path());
        let again = open(&crashed, inline(20));
        assert_eq!((again.revision(), again.floor()), (store.revision(), store.floor()));
        let found: BTreeMap<_, _> = list(&again, Kind::Pod)
            .items
            .iter()
            .map(|record| (record.key.clone(), (record.revision, record.body.clone())))
            .collect();
        assert_eq!(found, expected);
        let next = write(&again, put(Kind::Node, &key("n"), Expect::Absent, "x")).await;
        assert_eq!(next.expect("ok").revision, store.revision() + 1);
        drop(again);
        for name in ["store.db", "store.db-wal", "store.db-shm"] {
            let _ = fs::remove_file(crashed.path().join(name));
        }
    }
}

/// What a crash leaves: the two files as they are while the store is open.
fn copy_as_after_a_crash(from: &Path, to: &Path) {
    for name in ["store.db", "store.db-wal"] {
        if let Ok(bytes) = fs::read(from.join(name)) {
            fs::write(to.join(name), bytes).expect("is copied");
        }
    }
}

/// Set for the process that is going to be killed: the folder to write to.
const KILLED_IN: &str = "BALLAST_TEST_KILLED_IN";

/// Four writers, each answered write a line. In the process that is going to be killed without end.
#[test]
fn writers_tell_every_answered_write() {
    let killed_in = std::env::var_os(KILLED_IN);
    let own = folder();
    let path = killed_in.as_deref().map_or(own.path(), Path::new).join("store.db");
    let rounds = if killed_in.is_some() { u32::MAX } else { 20 };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = Sqlite::open(&path, thread(100)).expect("opens");
    let told = runtime.block_on(async {
        let writers = (0..4).map(|writer| {
            let store = store.clone();
            async move {
                let mut told = 0;
                for round in 0..rounds {
                    let name = key(&format!("w{writer}-{round}"));
                    let record = write(&store, put(Kind::Pod, &name, Expect::Absent, "x")).await;
                    println!("answered {} {}", name.name, record.expect("ok").revision);
                    told += 1;
                }
                told
            }
        });
        futures::future::join_all(writers).await
    });
    assert_eq!(told, [20; 4]);
    assert_eq!(list(&store, Kind::Pod).items.len(), 80);
}

/// Name and revision of a whole line; the kill may cut the last one.
fn answered(line: &str) -> Option<(String, u64)> {
    let mut words = line.strip_suffix('\n')?.split("answered ").nth(1)?.split(' ');
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

#[test]
fn a_killed_process_loses_nothing_that_it_answered() {
    let folder = folder();
    for round in 1..=3 {
        let inside = folder.path().join(format!("{round}"));
        fs::create_dir(&inside).expect("a folder");
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "store::writers_tell_every_answered_write", "--nocapture"])
            .env(KILLED_IN, &inside)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut told = BTreeMap::new();
        while told.len() < 150 * round {
            let mut line = String::new();
            assert!(output.read_line(&mut line).expect("text") > 0, "it writes until it is killed");
            told.extend(answered(&line));
        }
        child.kill().expect("is killed");
        child.wait().expect("is gone");
        let mut rest = String::new();
        output.read_to_string(&mut rest).expect("text");
        told.extend(rest.split_inclusive('\n').filter_map(answered));
        let store = Sqlite::open(&inside.join("store.db"), thread(100)).expect("opens");
        for (name, revision) in &told {
            let record = store.get(Kind::Pod, &key(name)).expect("was answered");
            assert_eq!(record.revision, *revision);
        }
        assert!(Some(&store.revision()) >= told.values().max());
    }
}

#[tokio::test]
async fn a_batch_that_the_disk_refuses_changes_nothing() {
    for options in [inline(100), thread(100)] {
        let folder = folder();
        let store = open(&folder, options);
        write(&store, put(Kind::Pod, &key("a"), Expect::Absent, "x")).await.expect("ok");
        let before = store.revision();
        let mut watch = store.watch(Kind::Pod, None).expect("watches");
        // Another connection makes SQLite refuse rows as a full disk would.
        let disk = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
        let full = "CREATE TRIGGER full BEFORE INSERT ON log WHEN NEW.name = 'c'
                    BEGIN SELECT RAISE(ABORT, 'no space left'); END";
        disk.execute_batch(full).expect("creates");
        let writes = vec![
            put(Kind::Pod, &key("a"), Expect::Present, "y"),
            put(Kind::Pod, &key("b"), Expect::Absent, "y"),
            put(Kind::Pod, &key("c"), Expect::Absent, "y"),
        ];
        let refused = transact(&store, writes).await;
        assert!(matches!(refused, Err(StoreError::Write(reason)) if reason == "no space left"));
        assert_eq!(store.revision(), before);
        let text = |store: &Sqlite| {
            let pods = list(store, Kind::Pod).items;
            pods[0].header.labels.get("app").expect("every one has it").to_owned()
        };
        assert_eq!((list(&store, Kind::Pod).items.len(), text(&store)), (1, "x".to_owned()));
        disk.execute_batch("DROP TRIGGER full").expect("drops");
        let b = write(&store, put(Kind::Pod, &key("b"), Expect::Absent, "z")).await.expect("ok");
        assert!(b.revision > before + 3, "no revision of a failed batch is used again");
        let seen = events(&mut watch, 1).await;
        assert_eq!(seen, [(ChangeType::Created, "b".to_owned(), b.revision, true)]);
        drop(store);
        let store = open(&folder, options);
        assert_eq!(store.revision(), b.revision);
        assert_eq!((list(&store, Kind::Pod).items.len(), text(&store)), (2, "x".to_owned()));
    }
}

#[tokio::test]
async fn a_draft_without_a_place_for_the_revision_is_refused() {
    let folder = folder();
    let store = open(&folder, thread(100));
    let broken = |revision_at| Write::Put {
        kind: Kind::Pod,
        key: key("a"),
        expect: Expect::Absent,
        draft: Draft { json: b"{}".to_vec(), revision_at },
        header: Header::default(),
    };
    for revision_at in [0, 1, 2, 3, usize::MAX] {
        let refused = write(&store, broken(revision_at)).await;
        assert!(matches!(refused, Err(StoreError::Write(_))));
    }
    write(&store, put(Kind::Pod, &key("a"), Expect::Absent, "x")).await.expect("goes on");
}

#[tokio::test]
async fn the_store_tells_its_figures() {
    let folder = folder();
    let store = open(&folder, thread(100));
    let mut registry = prometheus_client::registry::Registry::default();
    store.register(&mut registry);
    let writes = ["a", "b", "c"].map(|n| put(Kind::Pod, &key(n), Expect::Absent, "x")).into();
    transact(&store, writes).await.expect("ok");
    let watch = store.watch(Kind::Pod, None).expect("watches");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    for line in [
        "ballast_store_writes_total 3",
        "ballast_store_batch_writes_count 1",
        "ballast_store_commit_seconds_count 1",
        "ballast_store_watches 1",
        "ballast_store_revision 4",
        "ballast_store_quarantined_objects 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    drop(watch);
    text.clear();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    assert!(text.contains("ballast_store_watches 0\n"));
    assert!(text.contains("ballast_store_compactions_total 0\n"), "{text}");
    // The history is longer than it is kept.
    for number in 0..150 {
        write(&store, put(Kind::Pod, &key(&format!("n{number}")), Expect::Absent, "x"))
            .await
            .expect("written");
    }
    text.clear();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    let figure = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in\n{text}")).parse().expect("a number")
    };
    let floor = figure("ballast_store_floor_revision");
    assert!(floor > 0.0 && figure("ballast_store_compactions_total") > 0.0, "{text}");
    assert!(figure("ballast_store_compacted_revisions_total") > 0.0);
}
