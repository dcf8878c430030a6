//! What callers hold: reads answered from the published state, writes handed to the writer.

use std::collections::BTreeMap;
use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::object::{Key, Kind};
use crate::signal::Signal;
use crate::store::index::Index;
use crate::store::metrics::Metrics;
use crate::store::ring::{Found, Ring, Window};
use crate::store::sqlite::{ChangeLog, Disk, DiskError, Replayed};
use crate::store::watch::Watcher;
use crate::store::writer::{Answer, Message, QUEUE, Writer};
use crate::store::{
    Event, ListPage, ListRequest, OpenError, Record, Store, StoreError, Transaction, WatchItem,
};

/// How long a list can be continued: as long as etcd's default compaction lets Kubernetes.
const PIN_FOR: Duration = Duration::from_secs(300);
/// Lists that are continued at the same time, at different revisions; the oldest gives way.
const MOST_PINS: usize = 64;

/// Who performs the transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriterMode {
    /// A thread of its own, group commit, durable against power failure.
    #[default]
    Thread,
    /// Whoever calls, at once, without a thread and without waiting for the disk: for simulations,
    /// which decide themselves what happens when. Survives a killed process, not a power failure.
    Inline,
}

#[derive(Clone, Copy, Debug)]
pub struct SqliteOptions {
    pub writer: WriterMode,
    /// Revisions that the change log keeps at least for watches to resume from; at least 1.
    pub keep_changes: u64,
}

impl Default for SqliteOptions {
    /// 10,000 changes are what a Deployment of 1,000 replicas makes in two rollouts; with bodies of
    /// 5 kB 50 MB on disk.
    fn default() -> Self {
        Self { writer: WriterMode::Thread, keep_changes: 10_000 }
    }
}

/// The store in one SQLite file. Cheap to clone; the last clone that is dropped ends the writer
/// after everything queued is durable.
#[derive(Clone)]
pub struct Sqlite {
    shared: Arc<Shared>,
    door: Arc<Door>,
}

/// The way to the writer.
enum Door {
    Thread {
        /// `None` only while dropping.
        queue: Option<mpsc::Sender<Message>>,
        thread: Mutex<Option<JoinHandle<()>>>,
    },
    /// `None` once closed.
    Inline(Mutex<Option<Box<Writer>>>),
}

/// What readers, watchers and the writer share.
pub(super) struct Shared {
    published: RwLock<Published>,
    pins: Mutex<Pins>,
    changes: Mutex<ChangeLog>,
    /// Wakes the watchers of a kind, by discriminant.
    pub kind_changed: Vec<Signal>,
    /// Wakes watchers that wait for progress.
    pub any_changed: Signal,
    closed: AtomicBool,
    /// Disk reads of watches leave the runtime's threads; in a simulation nothing does.
    inline: bool,
    window: Window,
    pub metrics: Metrics,
    quarantined: usize,
}

/// What became visible last; replaced as a whole after each batch.
struct Published {
    index: Arc<Index>,
    ring: Ring,
    floor: u64,
}

/// What a watcher sees behind its position.
pub(super) enum Look {
    /// Everything up to `upto`; the store is at `revision`.
    Found { events: Vec<Arc<Event>>, upto: u64, revision: u64 },
    /// Only the change log knows; its next page ends at `upto`.
    OnDisk { upto: u64 },
}

impl Sqlite {
    /// Opens or creates the store, reads it into memory and starts its writer.
    ///
    /// # Errors
    /// A file that is not ours, is newer, is in use or cannot be read; see [`OpenError`]. A single
    /// unreadable object is no error: it is left out, logged and counted.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        Self::open_with(path, options, Window::USUAL)
    }

    /// With a ring so small that watches have to read from disk.
    pub(super) fn open_with(
        path: &Path,
        options: SqliteOptions,
        window: Window,
    ) -> Result<Self, OpenError> {
        let inline = options.writer == WriterMode::Inline;
        let disk = Disk::open(path, !inline)?;
        let loaded = disk.load(path)?;
        let shared = Arc::new(Shared {
            published: RwLock::new(Published {
                index: Arc::new(loaded.index.clone()),
                ring: Ring::new(loaded.index.revision, window),
                floor: loaded.floor,
            }),
            pins: Mutex::default(),
            changes: Mutex::new(ChangeLog::new(path)),
            kind_changed: Kind::all().map(|_| Signal::default()).collect(),
            any_changed: Signal::default(),
            closed: AtomicBool::new(false),
            inline,
            window,
            metrics: Metrics::new(),
            quarantined: loaded.quarantined,
        });
        shared.metrics.quarantined.set(loaded.quarantined as i64);
        shared.metrics.published(loaded.index.revision, loaded.floor);
        let keep = options.keep_changes.max(1);
        let writer = Writer::new(disk, shared.clone(), loaded, keep);
        let door = if inline {
            Door::Inline(Mutex::new(Some(Box::new(writer))))
        } else {
            let (queue, receiver) = mpsc::channel(QUEUE);
            let thread = writer.start(path, receiver)?;
            Door::Thread { queue: Some(queue), thread: Mutex::new(Some(thread)) }
        };
        Ok(Self { shared, door: Arc::new(door) })
    }

    /// Ends the store in order: what is queued becomes durable, the file is closed, watches end.
    /// Other clones answer [`StoreError::Closed`] to writes from then on and go on reading.
    pub async fn close(self) {
        match &*self.door {
            Door::Thread { queue, .. } => {
                let (reply, closed) = oneshot::channel();
                if let Some(queue) = queue
                    && queue.send(Message::Close { reply }).await.is_ok()
                {
                    // Fails only if the thread is gone, and then the file is closed too.
                    let _ = closed.await;
                }
            }
            Door::Inline(writer) => {
                let writer = writer.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(writer) = writer {
                    writer.finish();
                }
            }
        }
    }

    /// Objects on disk that could not be read when the store was opened. Each is in the log, with
    /// its revision; a new object of the same name takes its place.
    pub fn quarantined(&self) -> usize {
        self.shared.quarantined
    }

    /// Shows the store's own figures on `/metrics`, as `ballast_store_…`.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
    }

    /// The revision below which watches cannot resume.
    pub fn floor(&self) -> u64 {
        self.shared.read(|published| published.floor)
    }
}

impl Store for Sqlite {
    fn revision(&self) -> u64 {
        self.shared.read(|published| published.index.revision)
    }

    fn read(&self, kind: Kind, key: &Key) -> (u64, Option<Arc<Record>>) {
        self.shared
            .read(|published| (published.index.revision, published.index.get(kind, key).cloned()))
    }

    fn find(
        &self,
        kind: Kind,
        namespace: &str,
        select: &dyn Fn(&Record) -> bool,
    ) -> Option<Arc<Record>> {
        // The state is taken out first: whatever `select` costs, it holds no writer up.
        let latest = self.shared.read(|published| published.index.clone());
        latest.find(kind, namespace, select).cloned()
    }

    fn list(&self, kind: Kind, request: &ListRequest<'_>) -> Result<ListPage, StoreError> {
        let latest = self.shared.read(|published| published.index.clone());
        let pinned = self.shared.state_at(request.at, &latest)?;
        let page = pinned.as_ref().unwrap_or(&latest).list(kind, request);
        if page.remaining > 0 && pinned.is_none() {
            self.shared.pin(latest);
        }
        Ok(page)
    }

    fn list_both(
        &self,
        first: (Kind, &ListRequest<'_>),
        second: (Kind, &ListRequest<'_>),
    ) -> Result<(ListPage, ListPage), StoreError> {
        let latest = self.shared.read(|published| published.index.clone());
        let pinned = self.shared.state_at(first.1.at, &latest)?;
        let state = pinned.as_ref().unwrap_or(&latest);
        let pages = (state.list(first.0, first.1), state.list(second.0, second.1));
        if pages.0.remaining > 0 && pinned.is_none() {
            self.shared.pin(latest);
        }
        Ok(pages)
    }

    fn watch(
        &self,
        kind: Kind,
        from: Option<u64>,
    ) -> Result<BoxStream<'static, WatchItem>, StoreError> {
        let position = self.shared.position(from)?;
        Ok(Watcher::new(self.shared.clone(), kind, None, position).into_stream().boxed())
    }

    fn watch_both(
        &self,
        kinds: (Kind, Kind),
        from: Option<u64>,
    ) -> Result<BoxStream<'static, WatchItem>, StoreError> {
        let position = self.shared.position(from)?;
        let watcher = Watcher::new(self.shared.clone(), kinds.0, Some(kinds.1), position);
        Ok(watcher.into_stream().boxed())
    }

    /// Not cancel safe: once it waits for the answer the write happens, whoever listens.
    async fn transact(&self, transaction: Transaction) -> Answer {
        match &*self.door {
            Door::Thread { queue, .. } => {
                let (reply, answer) = oneshot::channel();
                let queue = queue.as_ref().ok_or(StoreError::Closed)?;
                queue
                    .send(Message::Transact { transaction, reply })
                    .await
                    .map_err(|_| StoreError::Closed)?;
                answer.await.unwrap_or(Err(StoreError::Closed))
            }
            Door::Inline(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(writer) = writer.as_mut() else { return Err(StoreError::Closed) };
                writer.commit(vec![transaction]).pop().unwrap_or(Err(StoreError::Closed))
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Self::Thread { queue, thread } = self {
            drop(queue.take());
            // Short: it only finishes what is queued. Who opens the file next finds it free.
            let thread = thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn read<T>(&self, look: impl FnOnce(&Published) -> T) -> T {
        look(&self.published.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a batch visible, all of it at once, and wakes who waits for it.
    pub fn publish(&self, index: Index, events: Vec<Arc<Event>>, floor: u64) {
        self.metrics.published(index.revision, floor);
        let index = Arc::new(index);
        let mut kinds = vec![false; self.kind_changed.len()];
        // What falls out is freed after the readers are let in again.
        let mut fallen = Vec::new();
        let replaced;
        {
            let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                kinds[event.record.kind as usize] = true;
                published.ring.push(event, &mut fallen);
            }
            replaced = mem::replace(&mut published.index, index);
            published.floor = floor;
        }
        drop((replaced, fallen));
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).forget_expired(Instant::now());
        for (signal, _) in self.kind_changed.iter().zip(kinds).filter(|(_, changed)| *changed) {
            signal.raise();
        }
        self.any_changed.raise();
    }

    /// Ends all watches once they have delivered what there is.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.kind_changed.iter().for_each(Signal::raise);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Where a watch begins.
    fn position(&self, from: Option<u64>) -> Result<u64, StoreError> {
        let (current, floor) = self.read(|published| (published.index.revision, published.floor));
        match from {
            None => Ok(current),
            Some(asked) if asked > current => Err(StoreError::Future { asked, current }),
            Some(asked) if asked < floor => Err(StoreError::Compacted { asked, floor }),
            Some(asked) => Ok(asked),
        }
    }

    /// The pinned state that a list asks for; `None` is the latest.
    fn state_at(&self, at: Option<u64>, latest: &Index) -> Result<Option<Arc<Index>>, StoreError> {
        match at {
            None => Ok(None),
            Some(asked) if asked == latest.revision => Ok(None),
            Some(asked) if asked > latest.revision => {
                Err(StoreError::Future { asked, current: latest.revision })
            }
            Some(asked) => self
                .pinned(asked)
                .map(Some)
                .ok_or(StoreError::Compacted { asked, floor: latest.revision }),
        }
    }

    /// The next events of a kind, and of one beside it, behind a position.
    pub fn look(&self, kind: Kind, beside: Option<Kind>, position: u64) -> Look {
        self.read(|published| {
            let revision = published.index.revision;
            let (mut found, mut upto) = (Vec::new(), revision);
            for kind in [Some(kind), beside].into_iter().flatten() {
                match published.ring.after(kind, position) {
                    Found::OlderThanRing => {
                        let upto = revision.min(position.saturating_add(self.window.page));
                        return Look::OnDisk { upto };
                    }
                    Found::Events { events, more } => {
                        if more && let Some(last) = events.last() {
                            upto = upto.min(last.record.revision);
                        }
                        found.push(events);
                    }
                }
            }
            Look::Found { events: in_one_order(found, upto), upto, revision }
        })
    }

    /// Changes of a kind, and of one beside it, from disk. Cancel safe: it only reads.
    pub async fn replay(
        shared: &Arc<Self>,
        kind: Kind,
        beside: Option<Kind>,
        after: u64,
        upto: u64,
    ) -> Result<Replayed, DiskError> {
        let read = move |shared: &Self| {
            shared.metrics.disk_reads.inc();
            let mut changes = shared.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let mut found = Vec::new();
            for kind in [Some(kind), beside].into_iter().flatten() {
                // Each sees whether the floor has passed the range: between the two it may have.
                match changes.replay(kind, after, upto)? {
                    Replayed::Events(events) => found.push(events),
                    other => return Ok(other),
                }
            }
            Ok(Replayed::Events(in_one_order(found, upto)))
        };
        if shared.inline {
            return read(shared);
        }
        let shared = shared.clone();
        // Fails when the runtime stops: the watch ends with it.
        tokio::task::spawn_blocking(move || read(&shared)).await.unwrap_or(Ok(Replayed::Unreadable))
    }

    fn pin(&self, index: Arc<Index>) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.pin(index, Instant::now());
    }

    fn pinned(&self, revision: u64) -> Option<Arc<Index>> {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.forget_expired(Instant::now());
        pins.0.get(&revision).map(|pin| pin.index.clone())
    }
}

/// The events of each kind, up to a revision, by revision. Of one kind they are in order already.
fn in_one_order(mut found: Vec<Vec<Arc<Event>>>, upto: u64) -> Vec<Arc<Event>> {
    if found.len() == 1 {
        return found.remove(0);
    }
    let mut events: Vec<_> = found.into_iter().flatten().collect();
    events.retain(|event| event.record.revision <= upto);
    events.sort_by_key(|event| event.record.revision);
    events
}

/// States that lists are continued from, by revision.
#[derive(Default)]
struct Pins(BTreeMap<u64, Pin>);

struct Pin {
    index: Arc<Index>,
    until: Instant,
}

impl Pins {
    fn pin(&mut self, index: Arc<Index>, now: Instant) {
        self.forget_expired(now);
        self.0.insert(index.revision, Pin { index, until: now + PIN_FOR });
        while self.0.len() > MOST_PINS {
            self.0.pop_first();
        }
    }

    fn forget_expired(&mut self, now: Instant) {
        if !self.0.is_empty() {
            self.0.retain(|_, pin| pin.until > now);
        }
    }
}
