//! One watcher: it lists, watches, is cut, resumes, and notes what happens to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use ballast::object::Key;
use ballast::store::{ChangeType, ListRequest, Store, StoreError, WatchItem};
use futures::StreamExt;
use futures::stream::BoxStream;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt;

use super::history::{Change, History, Log, Note, Told};
use super::world::{Life, Pace};

/// Through which door it watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The store's own watch, of a whole kind.
    Store,
    /// The router's, in one of the forms that tell each object's revision.
    Http { metadata_only: bool },
}

/// What a stream says.
enum Item {
    Told(Told),
    Bookmark { revision: u64, initial_end: bool },
    Lost,
}

type Items = BoxStream<'static, Item>;

/// How the beginning of a watch was answered.
enum Begun {
    Open(Items),
    Gone,
}

pub struct Watcher {
    pub history: History,
    pub way: Way,
    pub pace: Pace,
    pub chance: StdRng,
    pub lives: watch::Receiver<Option<Arc<Life>>>,
    /// The whole log, once nothing more is written.
    pub end: watch::Receiver<Option<Arc<Log>>>,
}

/// So many looks at a quiet watch, after the last write, before a watcher gives up.
const LOOKS: u32 = 40;

impl Watcher {
    /// Watches until everything that was written has come.
    pub async fn run(mut self) -> History {
        let mut looks = 0;
        let mut position = None;
        loop {
            let life = self.life().await;
            if let Some(reached) = position
                && let Some(log) = self.end.borrow().clone()
            {
                let last = log.relevant(&self.history.interest).last().map(|told| told.revision);
                looks += 1;
                if last.is_none_or(|last| reached >= last) || looks > LOOKS {
                    return self.history;
                }
            }
            let begun = match position {
                None => self.begin(&life).await,
                Some(from) => self.open(&life, from).await.map(|items| (from, items)),
            };
            position = match begun {
                Some((from, items)) => self.follow(&life, from, items).await,
                None => None,
            };
            let most = if self.chance.random_ratio(1, 20) { 400 } else { 10 };
            if self.end.borrow().is_none() && self.chance.random_ratio(1, 3) {
                self.pace.pause(&mut self.chance, most).await;
            }
        }
    }

    /// The server, once it runs.
    async fn life(&mut self) -> Arc<Life> {
        let life = self.lives.wait_for(Option::is_some).await.expect("the world stands");
        life.clone().expect("just seen")
    }

    fn note(&mut self, note: Note) {
        self.history.notes.push(note);
    }

    /// From nothing: a list and a watch from its revision, or a watch that begins with the state.
    /// `None` where a stop or a compaction came in between.
    async fn begin(&mut self, life: &Life) -> Option<(u64, Items)> {
        let streams = self.history.bookmarks && matches!(self.way, Way::Http { .. });
        if streams && self.chance.random_bool(0.5) {
            let asked = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
            let floor = life.store.floor();
            let Begun::Open(mut items) = self.ask(life, asked).await else {
                panic!("a watch from no revision is never too old");
            };
            let mut state = BTreeMap::new();
            while let Some(item) = items.next().await {
                match item {
                    Item::Told(told) => {
                        assert_eq!(told.change, Change::Added, "the state is added");
                        state.insert(told.key, told.revision);
                    }
                    Item::Bookmark { revision, initial_end } => {
                        assert!(initial_end, "the first bookmark ends the state");
                        self.note(Note::Listed { revision, items: state });
                        self.note(Note::Opened { from: revision, floor });
                        return Some((revision, items));
                    }
                    Item::Lost => panic!("nothing can be lost yet"),
                }
            }
            return None;
        }
        let (revision, items) = self.list(life).await;
        self.note(Note::Listed { revision, items });
        if self.chance.random_ratio(1, 4) {
            self.pace.pause(&mut self.chance, 5).await;
        }
        self.open(life, revision).await.map(|items| (revision, items))
    }

    async fn list(&mut self, life: &Life) -> (u64, BTreeMap<Key, u64>) {
        if self.way == Way::Store {
            let request =
                ListRequest { namespace: None, limit: 0, after: None, at: None, select: &|_| true };
            let page = life.store.list(self.history.interest.kind, &request).expect("lists");
            let items = page.items.iter().map(|one| (one.key.clone(), one.revision));
            return (page.revision, items.collect());
        }
        let (limit, mut items) = (self.chance.random_range(1..8), BTreeMap::new());
        let mut token = String::new();
        loop {
            let path = format!("{}limit={limit}{token}", self.path());
            let response = self.get(life, &path).await;
            assert_eq!(response.status(), 200, "{path}");
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("read");
            let page: Value = serde_json::from_slice(&body).expect("JSON");
            for item in page["items"].as_array().expect("items") {
                let (key, revision, _) = named(item);
                items.insert(key, revision);
            }
            let meta = &page["metadata"];
            match meta["continue"].as_str() {
                Some(next) if !next.is_empty() => token = format!("&continue={next}"),
                _ => return (number(&meta["resourceVersion"]), items),
            }
            // So that the pages are not read in one moment.
            self.pace.pause(&mut self.chance, 1).await;
        }
    }

    /// From a revision, where the history reaches back to it.
    async fn open(&mut self, life: &Life, from: u64) -> Option<Items> {
        let floor = life.store.floor();
        let begun = match self.way {
            Way::Store => match life.store.watch(self.history.interest.kind, Some(from)) {
                Ok(items) => Begun::Open(items.map(of_store).boxed()),
                Err(StoreError::Compacted { .. }) => Begun::Gone,
                Err(other) => panic!("does not open: {other}"),
            },
            Way::Http { .. } => self.ask(life, &format!("&resourceVersion={from}")).await,
        };
        match begun {
            Begun::Open(items) => {
                self.note(Note::Opened { from, floor });
                Some(items)
            }
            Begun::Gone => {
                self.note(Note::Refused { from, floor: life.store.floor() });
                None
            }
        }
    }

    fn path(&self) -> String {
        let interest = &self.history.interest;
        let namespace = interest.namespace.as_ref().map(|name| format!("namespaces/{name}/"));
        let plural = interest.kind.row().plural;
        format!("/api/v1/{}{plural}?{}&", namespace.unwrap_or_default(), interest.query())
    }

    async fn get(&self, life: &Life, path: &str) -> axum::response::Response {
        let form = if path.contains("limit=") { "List" } else { "" };
        let accept = match self.way {
            Way::Http { metadata_only: true } => {
                &format!("application/json;as=PartialObjectMetadata{form};v=v1;g=meta.k8s.io")
            }
            _ => "application/json",
        };
        let request = Request::get(path).header(header::ACCEPT, accept).body(Body::empty());
        life.router.clone().oneshot(request.expect("a request")).await.expect("infallible")
    }

    async fn ask(&mut self, life: &Life, how: &str) -> Begun {
        let mut path = format!("{}watch=1{how}", self.path());
        if self.history.bookmarks {
            path.push_str("&allowWatchBookmarks=true");
        }
        if self.chance.random_ratio(1, 3) {
            path.push_str(&format!("&timeoutSeconds={}", self.chance.random_range(3..30)));
        }
        let response = self.get(life, &path).await;
        match response.status().as_u16() {
            200 => Begun::Open(lines(response.into_body()).map(of_line).boxed()),
            410 => Begun::Gone,
            other => panic!("{path}: {other}"),
        }
    }

    /// Takes what comes until the watch is cut; where it can be resumed from.
    async fn follow(&mut self, life: &Life, from: u64, mut items: Items) -> Option<u64> {
        let mut position = from;
        let slow = self.chance.random_ratio(1, 8);
        let mut left: u32 = self.chance.random_range(1..60);
        loop {
            if left == 0 && self.end.borrow().is_none() {
                self.note(Note::Cut);
                return Some(position);
            }
            left = left.saturating_sub(1);
            let visible = life.store.revision();
            // Longer than the store waits to tell its progress.
            let patience = self.pace.unit * self.chance.random_range(3..30);
            let item = tokio::select! {
                biased;
                // Cancel safe: `StreamExt::next` takes nothing before it is ready.
                item = items.next() => item,
                // Cancel safe: a timer.
                () = tokio::time::sleep(patience) => {
                    if self.pace.paused {
                        self.note(Note::Quiet { visible });
                    }
                    self.note(Note::Cut);
                    return Some(position);
                }
            };
            match item {
                Some(Item::Told(told)) => {
                    position = told.revision;
                    self.note(Note::Told { told, visible: life.store.revision() });
                }
                Some(Item::Bookmark { revision, initial_end }) => {
                    assert!(!initial_end, "the state ends once");
                    position = revision;
                    self.note(Note::Bookmark(revision));
                }
                Some(Item::Lost) => {
                    self.note(Note::Lost { floor: life.store.floor() });
                    return None;
                }
                None => {
                    self.note(Note::Cut);
                    return Some(position);
                }
            }
            if slow {
                self.pace.pause(&mut self.chance, 12).await;
            }
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).expect("a revision")
}

/// Key, revision and tag of an object.
fn named(object: &Value) -> (Key, u64, String) {
    let meta = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let key = Key { namespace: text(&meta["namespace"]), name: text(&meta["name"]) };
    (key, number(&meta["resourceVersion"]), text(&meta["annotations"]["tag"]))
}

fn of_store(item: WatchItem) -> Item {
    match item {
        WatchItem::Event(event) => {
            let body = serde_json::from_slice(&event.record.body.text()).expect("a body is JSON");
            let (key, revision, tag) = named(&body);
            assert_eq!((&key, revision), (&event.record.key, event.record.revision));
            let change = match event.change {
                ChangeType::Created => Change::Added,
                ChangeType::Updated => Change::Modified,
                ChangeType::Deleted => Change::Deleted,
            };
            Item::Told(Told { change, revision, key, tag })
        }
        WatchItem::Progress(revision) => Item::Bookmark { revision, initial_end: false },
        WatchItem::Lost => Item::Lost,
    }
}

/// Each line of a body, however it was cut into frames.
fn lines(body: Body) -> impl futures::Stream<Item = Vec<u8>> {
    let begun = (body.into_data_stream(), Vec::<u8>::new());
    futures::stream::unfold(begun, |(mut frames, mut text)| async move {
        loop {
            if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let rest = text.split_off(end + 1);
                return Some((text, (frames, rest)));
            }
            let Some(frame) = frames.next().await else {
                assert_eq!(text, b"", "a watch ends behind a line");
                return None;
            };
            text.extend(frame.expect("a body in one process does not break"));
        }
    })
}

fn of_line(line: Vec<u8>) -> Item {
    let line: Value = serde_json::from_slice(&line).expect("a line is JSON");
    let object = &line["object"];
    let change = match line["type"].as_str().expect("a type") {
        "ADDED" => Change::Added,
        "MODIFIED" => Change::Modified,
        "DELETED" => Change::Deleted,
        "BOOKMARK" => {
            let end = &object["metadata"]["annotations"]["k8s.io/initial-events-end"];
            let revision = number(&object["metadata"]["resourceVersion"]);
            return Item::Bookmark { revision, initial_end: end == "true" };
        }
        "ERROR" => {
            assert_eq!(object["code"], 410, "{object}");
            return Item::Lost;
        }
        other => panic!("no type of event: {other}"),
    };
    let (key, revision, tag) = named(object);
    Item::Told(Told { change, revision, key, tag })
}
