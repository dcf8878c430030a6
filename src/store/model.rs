//! The store against a dull model: a map of the latest state and a list of everything that happened.
//!
//! Random transactions, restarts, crashes, lists and watches; the ring is so small that watches
//! change between memory and disk all the time, and the log so short that compaction runs.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::object::{Key, Kind};
use crate::store::ring::Window;
use crate::store::{
    ChangeType, Draft, Event, Expect, Header, ListRequest, Pairs, Record, Sqlite, SqliteOptions,
    Store, StoreError, Transaction, WatchItem, Write, WriterMode,
};

const KINDS: [Kind; 2] = [Kind::Pod, Kind::Service];
const TINY: Window = Window { bytes: 5000, events: 4, look: 2, page: 3 };

#[derive(Clone, Debug)]
enum Op {
    Transact(Vec<Asked>),
    /// Close and open again; `crash` opens what the files hold without closing first.
    Restart {
        crash: bool,
    },
    /// Every page of a list, with a write between any two pages.
    Pages {
        kind: usize,
        namespace: Option<usize>,
        limit: usize,
    },
    /// Takes some items from one of the watches.
    Take {
        watch: usize,
        items: usize,
    },
    /// Drops a watch and resumes it where it was told it may.
    Cut {
        watch: usize,
        at_progress: bool,
    },
}

#[derive(Clone, Debug)]
struct Asked {
    kind: usize,
    key: (usize, usize),
    expect: Expected,
    verb: Verb,
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    Absent,
    Present,
    Current,
    Old,
}

#[derive(Clone, Debug)]
enum Verb {
    Put { app: u8, claim: Option<u8> },
    Delete,
    Check,
}

fn asked() -> impl Strategy<Value = Asked> {
    let expect = prop_oneof![
        3 => Just(Expected::Absent),
        4 => Just(Expected::Present),
        3 => Just(Expected::Current),
        1 => Just(Expected::Old),
    ];
    let verb = prop_oneof![
        6 => (0..3_u8, option::weighted(0.2, 0..3_u8))
            .prop_map(|(app, claim)| Verb::Put { app, claim }),
        2 => Just(Verb::Delete),
        1 => Just(Verb::Check),
    ];
    (0..2_usize, (0..2_usize, 0..3_usize), expect, verb)
        .prop_map(|(kind, key, expect, verb)| Asked { kind, key, expect, verb })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => vec(asked(), 1..2).prop_map(Op::Transact),
        6 => vec(asked(), 1..6).prop_map(Op::Transact),
        1 => any::<bool>().prop_map(|crash| Op::Restart { crash }),
        1 => (0..2_usize, option::of(0..2_usize), 1..4_usize)
            .prop_map(|(kind, namespace, limit)| Op::Pages { kind, namespace, limit }),
        4 => (0..4_usize, 1..8_usize).prop_map(|(watch, items)| Op::Take { watch, items }),
        2 => (0..4_usize, any::<bool>())
            .prop_map(|(watch, at_progress)| Op::Cut { watch, at_progress }),
    ]
}

fn key((namespace, name): (usize, usize)) -> Key {
    Key::new(format!("ns-{namespace}"), format!("name-{name}"))
}

fn draft(key: &Key, app: u8) -> Draft {
    let head = r#"{"metadata":{"resourceVersion":""#;
    let json = format!("{head}\",\"name\":\"{}\"}},\"app\":{app}}}", key.name).into_bytes();
    Draft { json, revision_at: head.len() }
}

fn body(key: &Key, app: u8, revision: u64) -> String {
    let name = &key.name;
    format!(
        "{{\"metadata\":{{\"resourceVersion\":\"{revision}\",\"name\":\"{name}\"}},\"app\":{app}}}"
    )
}

/// What the model knows of an object.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    revision: u64,
    app: u8,
    claim: Option<u8>,
}

type State = BTreeMap<(Kind, Key), Known>;

/// What the model says of a change, and what a watch must say.
#[derive(Clone, Debug, PartialEq)]
struct Happened {
    revision: u64,
    change: ChangeType,
    kind: Kind,
    key: Key,
    body: String,
    app: String,
    previous: Option<String>,
    ends: bool,
}

impl Happened {
    fn of(event: &Event) -> Self {
        let record = &event.record;
        let app_of = |header: &Header| header.labels.get("app").expect("all have it").to_owned();
        Self {
            revision: record.revision,
            change: event.change,
            kind: record.kind,
            key: record.key.clone(),
            body: String::from_utf8(record.body.text().into_owned()).expect("text"),
            app: app_of(&record.header),
            previous: event.previous.as_ref().map(|header| app_of(header)),
            ends: event.ends_transaction,
        }
    }
}

/// The dull one.
#[derive(Default)]
struct Model {
    state: State,
    log: Vec<Happened>,
    revision: u64,
}

impl Model {
    /// The transaction, resolved to real expectations, and what must come of it: the revisions, or
    /// a word for the refusal with the index of the write.
    fn transact(&mut self, asked: &[Asked]) -> (Transaction, Result<Vec<u64>, (String, usize)>) {
        let mut state = self.state.clone();
        let (mut log, mut writes, mut refusal) = (Vec::new(), Vec::new(), None);
        let mut revision = self.revision;
        for (index, one) in asked.iter().enumerate() {
            let (kind, key) = (KINDS[one.kind], key(one.key));
            let id = (kind, key.clone());
            let current = state.get(&id).cloned();
            let expect = match (one.expect, &current) {
                (Expected::Absent, _) => Expect::Absent,
                (Expected::Present, _) => Expect::Present,
                (Expected::Current, Some(known)) => Expect::Revision(known.revision),
                (Expected::Current, None) => Expect::Absent,
                (Expected::Old, _) => Expect::Revision(0),
            };
            let mut refuse = |word: &str| {
                refusal.get_or_insert((word.to_owned(), index));
            };
            match (expect, &current, &one.verb) {
                (Expect::Absent, Some(_), _) => refuse("exists"),
                (Expect::Present | Expect::Revision(_), None, _)
                | (Expect::Absent, None, Verb::Delete) => refuse("missing"),
                (Expect::Revision(wanted), Some(known), _) if wanted != known.revision => {
                    refuse("stale");
                }
                _ => {}
            }
            let write = match one.verb {
                Verb::Check => Write::Check { kind, key, expect },
                Verb::Delete => {
                    if let Some(known) = current {
                        revision += 1;
                        log.push(happened(ChangeType::Deleted, &id, revision, known.app, &state));
                        state.remove(&id);
                    }
                    Write::Delete { kind, key, expect }
                }
                Verb::Put { app, claim } => {
                    revision += 1;
                    let change = match current {
                        Some(_) => ChangeType::Updated,
                        None => ChangeType::Created,
                    };
                    log.push(happened(change, &id, revision, app, &state));
                    state.insert(id, Known { revision, app, claim });
                    let labels = Pairs::from_iter([("app", app.to_string())]);
                    let mut header = Header { labels, ..Header::default() };
                    header.claims.extend(claim.map(|claim| format!("port/{claim}")));
                    let draft = draft(&key, app);
                    Write::Put { kind, key, expect, draft, header }
                }
            };
            writes.push(write);
        }
        let transaction = Transaction { writes };
        let shared = |one: &Asked| {
            let claim = state.get(&(KINDS[one.kind], key(one.key))).and_then(|known| known.claim);
            claim.is_some() && state.values().filter(|known| known.claim == claim).count() > 1
        };
        let is_put = |one: &Asked| matches!(one.verb, Verb::Put { .. });
        let claimed = asked.iter().position(|one| is_put(one) && shared(one));
        if let Some(refusal) = refusal.or(claimed.map(|index| ("claimed".to_owned(), index))) {
            return (transaction, Err(refusal));
        }
        if let Some(last) = log.last_mut() {
            last.ends = true;
        }
        let revisions = log.iter().map(|happened| happened.revision).collect();
        (self.state, self.revision) = (state, revision);
        self.log.extend(log);
        (transaction, Ok(revisions))
    }

    fn after(&self, kind: Kind, position: u64) -> Vec<Happened> {
        let later = |one: &&Happened| one.kind == kind && one.revision > position;
        self.log.iter().filter(later).cloned().collect()
    }

    fn ends_transaction(&self, revision: u64) -> bool {
        // The first revision stands before any transaction.
        revision == 1 || self.log.iter().any(|one| one.revision == revision && one.ends)
    }
}

fn happened(
    change: ChangeType,
    (kind, key): &(Kind, Key),
    revision: u64,
    app: u8,
    state: &State,
) -> Happened {
    let previous = state.get(&(*kind, key.clone())).map(|known| known.app.to_string());
    Happened {
        revision,
        change,
        kind: *kind,
        key: key.clone(),
        body: body(key, app, revision),
        app: app.to_string(),
        previous,
        ends: false,
    }
}

fn word(error: &StoreError) -> (String, usize) {
    let (word, write) = match error {
        StoreError::Exists { write, .. } => ("exists", write),
        StoreError::Missing { write, .. } => ("missing", write),
        StoreError::Stale { write, .. } => ("stale", write),
        StoreError::Claimed { write, .. } => ("claimed", write),
        other => panic!("no refusal: {other}"),
    };
    (word.to_owned(), *write)
}

/// A watch, and where it stands.
struct Watching {
    kind: Kind,
    stream: BoxStream<'static, WatchItem>,
    /// Everything up to here was delivered.
    position: u64,
    /// The last revision that it was told a bookmark may name.
    bookmark: u64,
}

impl Watching {
    fn begin(store: &Sqlite, kind: Kind, position: u64) -> Result<Self, StoreError> {
        let stream = store.watch(kind, Some(position))?;
        Ok(Self { kind, stream, position, bookmark: position })
    }

    /// Takes up to `items` of what is there without waiting, each as the model says. A watch may be
    /// lost only when the floor is above it; then it begins anew, as a client would that lists.
    fn take(&mut self, store: &Sqlite, model: &Model, items: usize) {
        let mut expected = model.after(self.kind, self.position).into_iter();
        for _ in 0..items {
            match self.stream.next().now_or_never() {
                None => {
                    assert_eq!(expected.next(), None, "reliable: nothing is held back");
                    return;
                }
                Some(Some(WatchItem::Event(event))) => {
                    // Ordered, unique, without gap: exactly the model's next one.
                    assert_eq!(Some(Happened::of(&event)), expected.next());
                    self.position = event.record.revision;
                    if event.ends_transaction {
                        self.bookmark = self.position;
                    }
                }
                Some(Some(WatchItem::Progress(revision))) => {
                    assert!(model.ends_transaction(revision), "bookmarks stand at ends only");
                    assert!(revision > self.bookmark, "progress is progress");
                    let missing = expected.clone().find(|one| one.revision <= revision);
                    assert_eq!(missing, None, "bookmarkable: nothing up to it is missing");
                    (self.position, self.bookmark) = (revision, revision);
                }
                Some(Some(WatchItem::Lost)) => {
                    assert!(self.position < store.floor(), "lost only to compaction");
                    *self = Self::begin(store, self.kind, store.revision()).expect("is now");
                    return;
                }
                Some(None) => panic!("the watch ended"),
            }
        }
    }
}

/// Store and model side by side.
struct Pair {
    folder: tempfile::TempDir,
    generation: usize,
    keep: u64,
    store: Sqlite,
    model: Model,
    watches: Vec<Watching>,
}

impl Pair {
    fn new(keep: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("0")).expect("a folder");
        let store = open(&folder, 0, keep);
        let model = Model { revision: store.revision(), ..Model::default() };
        let watches = (0..4)
            .map(|number| Watching::begin(&store, KINDS[number % 2], 1).expect("watches"))
            .collect();
        Self { folder, generation: 0, keep, store, model, watches }
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Transact(asked) => self.transact(&asked).await,
            Op::Restart { crash } => self.restart(crash),
            Op::Pages { kind, namespace, limit } => self.pages(kind, namespace, limit).await,
            Op::Take { watch, items } => self.watches[watch].take(&self.store, &self.model, items),
            Op::Cut { watch, at_progress } => self.resume(watch, at_progress),
        }
        self.compare();
    }

    async fn transact(&mut self, asked: &[Asked]) {
        let (transaction, expected) = self.model.transact(asked);
        let answer = self.store.transact(transaction).await;
        let answer = answer
            .map(|records| records.iter().map(|record| record.revision).collect::<Vec<_>>())
            .map_err(|error| word(&error));
        assert_eq!(answer, expected);
    }

    fn compare(&self) {
        assert_eq!(self.store.revision(), self.model.revision);
        for kind in KINDS {
            let page = self.store.list(kind, &request(None, 0, None, None)).expect("lists");
            assert_eq!(page.revision, self.model.revision);
            assert_eq!(page.remaining, 0);
            assert_eq!(seen(&page.items), expected(&self.model.state, kind, None));
            for record in &page.items {
                let found = self.store.get(kind, &record.key).expect("is listed");
                assert!(Arc::ptr_eq(&found, record));
            }
        }
        let floor = self.store.floor();
        let length = self.model.revision - floor;
        assert!(length <= self.keep + self.keep / 8 + 10, "{length} revisions are kept");
    }

    /// Every page of a list is of one revision, whatever is written between.
    async fn pages(&mut self, kind: usize, namespace: Option<usize>, limit: usize) {
        let state = self.model.state.clone();
        let namespace = namespace.map(|number| format!("ns-{number}"));
        let (mut all, mut at, mut after) = (Vec::new(), None, None::<Key>);
        loop {
            let request = request(namespace.as_deref(), limit, after.as_ref(), at);
            let page = self.store.list(KINDS[kind], &request).expect("is pinned");
            assert_eq!(page.revision, *at.get_or_insert(page.revision));
            all.extend(seen(&page.items));
            let whole = expected(&state, KINDS[kind], namespace.as_deref());
            assert_eq!(all.len() + page.remaining, whole.len());
            if page.remaining == 0 {
                assert_eq!(all, whole);
                return;
            }
            after = page.items.last().map(|record| record.key.clone());
            let verb = Verb::Put { app: 0, claim: None };
            let any = if state.is_empty() { Expected::Absent } else { Expected::Current };
            self.transact(&[Asked { kind, key: (0, 0), expect: any, verb }]).await;
        }
    }

    fn restart(&mut self, crash: bool) {
        for watch in &mut self.watches {
            watch.take(&self.store, &self.model, 3);
        }
        let old = self.folder.path().join(self.generation.to_string());
        self.generation += 1;
        let new = self.folder.path().join(self.generation.to_string());
        fs::create_dir(&new).expect("a folder");
        if !crash {
            self.watches
                .iter_mut()
                .for_each(|watch| watch.stream = futures::stream::empty().boxed());
            let closing = self.store.clone().close().now_or_never();
            assert!(closing.is_some(), "closes at once without a thread");
        }
        for name in ["store.db", "store.db-wal"] {
            if let Ok(bytes) = fs::read(old.join(name)) {
                fs::write(new.join(name), bytes).expect("is copied");
            }
        }
        self.store = open(&self.folder, self.generation, self.keep);
        for watch in 0..self.watches.len() {
            self.resume(watch, false);
        }
    }

    fn resume(&mut self, watch: usize, at_progress: bool) {
        let Watching { kind, position, bookmark, .. } = self.watches[watch];
        let from = if at_progress { bookmark } else { position };
        let floor = self.store.floor();
        self.watches[watch] = match Watching::begin(&self.store, kind, from) {
            Ok(resumed) => {
                assert!(from >= floor);
                resumed
            }
            Err(StoreError::Compacted { asked, floor: told }) => {
                assert!(asked == from && from < floor && told == floor);
                Watching::begin(&self.store, kind, self.store.revision()).expect("is now")
            }
            Err(other) => panic!("does not resume: {other}"),
        };
    }

    /// From every revision that is kept, a watch tells exactly the rest.
    fn watch_from_everywhere(&mut self) {
        let (floor, revision) = (self.store.floor(), self.model.revision);
        for kind in KINDS {
            assert!(matches!(
                self.store.watch(kind, Some(revision + 1)).err(),
                Some(StoreError::Future { .. })
            ));
            if let Some(below) = floor.checked_sub(1) {
                let refused = self.store.watch(kind, Some(below)).err();
                assert!(matches!(refused, Some(StoreError::Compacted { .. })));
            }
            for from in floor..=revision {
                let mut watch = Watching::begin(&self.store, kind, from).expect("is kept");
                watch.take(&self.store, &self.model, usize::MAX);
                assert!(watch.position == revision || watch.bookmark == revision);
            }
        }
    }
}

fn open(folder: &tempfile::TempDir, generation: usize, keep_changes: u64) -> Sqlite {
    let options = SqliteOptions { writer: WriterMode::Inline, keep_changes };
    let path = folder.path().join(generation.to_string()).join("store.db");
    Sqlite::open_with(&path, options, TINY).expect("opens")
}

fn request<'a>(
    namespace: Option<&'a str>,
    limit: usize,
    after: Option<&'a Key>,
    at: Option<u64>,
) -> ListRequest<'a> {
    ListRequest { namespace, limit, after, at, select: &|_| true }
}

fn seen(items: &[Arc<Record>]) -> Vec<(Key, u64, String)> {
    items
        .iter()
        .map(|record| {
            let body = String::from_utf8(record.body.text().into_owned()).expect("text");
            (record.key.clone(), record.revision, body)
        })
        .collect()
}

fn expected(state: &State, kind: Kind, namespace: Option<&str>) -> Vec<(Key, u64, String)> {
    state
        .iter()
        .filter(|((of, key), _)| *of == kind && namespace.is_none_or(|n| n == key.namespace))
        .map(|((_, key), known)| {
            (key.clone(), known.revision, body(key, known.app, known.revision))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(keep in 1..60_u64, ops in vec(op(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut pair = Pair::new(keep);
            for op in ops {
                pair.run(op).await;
            }
            pair.watch_from_everywhere();
        });
    }
}

/// Four writers and four watches that are cut and resumed, on threads: each watch sees every change
/// once, in order, and every transaction's changes side by side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_miss_nothing_while_writers_race() {
    const WRITES: u64 = 150;
    let folder = tempfile::tempdir().expect("a folder");
    let options = SqliteOptions { writer: WriterMode::Thread, keep_changes: 100_000 };
    let path = folder.path().join("store.db");
    let store = Sqlite::open_with(&path, options, TINY).expect("opens");
    let start = store.revision();
    let end = start + 4 * WRITES * 2;
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        async move {
            for round in 0..WRITES {
                let writes = ["first", "second"].map(|name| {
                    let key = Key::new(format!("{writer}"), name);
                    let draft = draft(&key, 0);
                    let expect = if round == 0 { Expect::Absent } else { Expect::Present };
                    Write::Put { kind: Kind::Pod, key, expect, draft, header: Header::default() }
                });
                store.transact(Transaction { writes: writes.into() }).await.expect("is written");
            }
        }
    });
    let watches = (0..4_u64).map(|watcher| {
        let store = store.clone();
        async move {
            let (mut position, mut seen) = (start, Vec::new());
            while position < end {
                let mut watch = store.watch(Kind::Pod, Some(position)).expect("resumes");
                // Cut after a number that is different for each, odd ones inside transactions.
                for _ in 0..(7 + watcher * 10) {
                    match watch.next().await.expect("goes on") {
                        WatchItem::Event(event) => {
                            position = event.record.revision;
                            seen.push(event);
                        }
                        WatchItem::Progress(revision) => position = position.max(revision),
                        WatchItem::Lost => panic!("nothing is compacted here"),
                    }
                    if position == end {
                        break;
                    }
                }
            }
            seen
        }
    });
    let (_, seen) =
        tokio::join!(futures::future::join_all(writers), futures::future::join_all(watches));
    for events in seen {
        let revisions: Vec<u64> = events.iter().map(|event| event.record.revision).collect();
        assert_eq!(revisions, (start + 1..=end).collect::<Vec<_>>());
        for pair in events.chunks(2) {
            assert_eq!(pair[0].record.key.namespace, pair[1].record.key.namespace);
            assert_eq!((pair[0].ends_transaction, pair[1].ends_transaction), (false, true));
        }
    }
}
