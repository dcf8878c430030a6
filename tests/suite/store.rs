//! The store through its public door: what holds for one write, one list, one watch, one file.

use std::sync::Arc;
use std::time::Duration;

use ballast::object::{Key, Kind};
use ballast::store::{
    ChangeType, Draft, Event, Expect, Header, ListPage, ListRequest, Record, Sqlite, SqliteOptions,
    Store, StoreError, Transaction, WatchItem, Write, WriterMode,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use tempfile::TempDir;

fn inline(keep_changes: u64) -> SqliteOptions {
    SqliteOptions { writer: WriterMode::Inline, keep_changes }
}

fn thread(keep_changes: u64) -> SqliteOptions {
    SqliteOptions { writer: WriterMode::Thread, keep_changes }
}

fn folder() -> TempDir {
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
    let mut header = Header { uid: "u".to_owned(), ..Header::default() };
    header.labels.insert("app".to_owned(), app.to_owned());
    header
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
        assert!(String::from_utf8_lossy(&created.body).contains(&text));
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
        let last = String::from_utf8_lossy(&deleted.body).into_owned();
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
