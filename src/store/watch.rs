//! A watch: a position in the history that moves forward.
//!
//! A watcher owns no buffer. It is woken without payload, looks what came after its position, first
//! in the ring and, where that does not reach back far enough (after a restart, or when the watcher
//! was slow), page by page in the change log on disk. So there is neither gap nor duplicate between
//! the two, and a slow watcher costs the others nothing; it is lost only when compaction passes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error};

use crate::object::Kind;
use crate::store::reader::{Look, Shared};
use crate::store::sqlite::Replayed;
use crate::store::{Event, WatchItem};

/// Between two progress reports, for bookmarks.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How often the signals had been raised before a look.
#[derive(Clone, Copy)]
struct Seen {
    kind: u64,
    beside: u64,
    any: u64,
}

pub(super) struct Watcher {
    shared: Arc<Shared>,
    kind: Kind,
    /// A second kind, whose changes are told in one order with the first one's.
    beside: Option<Kind>,
    /// Everything of the kinds up to this revision is in `ready` or delivered.
    position: u64,
    /// The last revision told that ends a transaction.
    announced: u64,
    next_progress: Instant,
    ready: VecDeque<WatchItem>,
    over: bool,
}

impl Watcher {
    /// Watches a kind, and another one beside it, from behind `position`.
    pub fn new(shared: Arc<Shared>, kind: Kind, beside: Option<Kind>, position: u64) -> Self {
        shared.metrics.watches.inc();
        Self {
            shared,
            kind,
            beside,
            position,
            announced: position,
            next_progress: Instant::now(),
            ready: VecDeque::new(),
            over: false,
        }
    }

    /// The items, one after the other. Cancel safe: what was taken from the ring waits in `ready`.
    pub fn into_stream(self) -> impl Stream<Item = WatchItem> + Send {
        futures::stream::unfold(self, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        })
    }

    async fn next(&mut self) -> Option<WatchItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            if self.over {
                return None;
            }
            // Before the look: a change after it wakes the wait below.
            let count = |kind: Kind| self.shared.kind_changed[kind as usize].count();
            let seen = Seen {
                kind: count(self.kind),
                beside: self.beside.map_or(0, count),
                any: self.shared.any_changed.count(),
            };
            match self.shared.look(self.kind, self.beside, self.position) {
                Look::Found { events, upto, revision } => {
                    self.take(events, upto);
                    if self.ready.is_empty() && !self.report_progress(revision) {
                        if self.shared.is_closed() {
                            return None;
                        }
                        self.wait(revision, seen).await;
                    }
                }
                Look::OnDisk { upto } => self.replay(upto).await,
            }
        }
    }

    fn take(&mut self, events: Vec<Arc<Event>>, upto: u64) {
        self.position = upto;
        if let Some(last) = events.iter().rev().find(|event| event.ends_transaction) {
            self.announced = self.announced.max(last.record.revision);
        }
        self.ready.extend(events.into_iter().map(WatchItem::Event));
    }

    /// Whether there was something to report and it was time.
    fn report_progress(&mut self, revision: u64) -> bool {
        if revision <= self.announced || Instant::now() < self.next_progress {
            return false;
        }
        self.announced = revision;
        self.next_progress = Instant::now() + PROGRESS_EVERY;
        self.ready.push_back(WatchItem::Progress(revision));
        true
    }

    /// Until there may be something to see. All arms are cancel safe: they take nothing out of
    /// anywhere, the look after it decides. Other kinds' writes wake only a watcher that has
    /// nothing left to report; one that has waits for the time to do so.
    async fn wait(&self, revision: u64, seen: Seen) {
        if revision > self.announced {
            tokio::select! {
                biased;
                () = self.changed(seen) => {}
                () = sleep_until(self.next_progress) => {}
            }
        } else {
            tokio::select! {
                biased;
                () = self.changed(seen) => {}
                () = self.shared.any_changed.raised_since(seen.any) => {}
            }
        }
    }

    /// Until a kind that is watched changes. Cancel safe.
    async fn changed(&self, seen: Seen) {
        let changed = |kind: Kind| &self.shared.kind_changed[kind as usize];
        match self.beside {
            None => changed(self.kind).raised_since(seen.kind).await,
            // Both arms are cancel safe: they only wait.
            Some(beside) => tokio::select! {
                biased;
                () = changed(self.kind).raised_since(seen.kind) => {}
                () = changed(beside).raised_since(seen.beside) => {}
            },
        }
    }

    async fn replay(&mut self, upto: u64) {
        let (kind, beside, after) = (self.kind, self.beside, self.position);
        match Shared::replay(&self.shared, kind, beside, after, upto).await {
            Ok(Replayed::Events(events)) => self.take(events, upto),
            Ok(Replayed::Compacted) => {
                debug!(kind = %self.kind, position = self.position, "watch is lost to compaction");
                self.lose();
            }
            Ok(Replayed::Unreadable) => self.lose(),
            Err(failure) => {
                error!(kind = %self.kind, %failure, "changes cannot be read from disk");
                self.lose();
            }
        }
    }

    fn lose(&mut self) {
        self.shared.metrics.lost_watches.inc();
        self.over = true;
        self.ready.push_back(WatchItem::Lost);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.metrics.watches.dec();
    }
}
