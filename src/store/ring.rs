//! The latest changes, in memory, by kind: what live watches read.
//!
//! There is one copy for all watchers and none of their own: a watcher is a position, and a slow one
//! costs nothing. What falls out of the ring is still in the change log on disk.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::object::Kind;
use crate::store::Event;

/// Bodies in the ring, all kinds together: 24 MiB are 5,000 pods of 5 kB. Most are shared with the
/// index, so that the memory that comes on top is less.
const MOST_BYTES: usize = 24 << 20;
/// Events of one kind: small objects (Leases, Events) must not fill the budget with allocations.
const MOST_EVENTS: usize = 4096;
/// What an event costs beside its body: record, header, key and pointers, measured roughly.
const EVENT_BYTES: usize = 600;

/// Changes of all kinds, oldest first within each.
#[derive(Debug)]
pub(super) struct Ring {
    kinds: Vec<Changes>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Changes {
    events: VecDeque<Arc<Event>>,
    /// Changes up to this revision may be missing.
    dropped: u64,
}

/// What a look into the ring finds.
#[derive(Debug)]
pub(super) enum Found {
    /// Everything of the kind after the asked revision, up to [`Ring::after`]'s limit.
    Events { events: Vec<Arc<Event>>, more: bool },
    /// The ring does not reach back so far.
    OlderThanRing,
}

impl Ring {
    /// An empty ring of a store at `revision`: everything before is only on disk.
    pub fn new(revision: u64) -> Self {
        let kinds =
            Kind::all().map(|_| Changes { events: VecDeque::new(), dropped: revision }).collect();
        Self { kinds, bytes: 0 }
    }

    /// Adds the next event; revisions ascend.
    pub fn push(&mut self, event: Arc<Event>) {
        let kind = event.record.kind as usize;
        self.bytes += weight(&event);
        self.kinds[kind].events.push_back(event);
        if self.kinds[kind].events.len() > MOST_EVENTS {
            self.drop_oldest_of(kind);
        }
        while self.bytes > MOST_BYTES {
            let oldest = (0..self.kinds.len())
                .filter_map(|kind| Some((self.kinds[kind].events.front()?.record.revision, kind)))
                .min();
            let Some((_, kind)) = oldest else { break };
            self.drop_oldest_of(kind);
        }
    }

    fn drop_oldest_of(&mut self, kind: usize) {
        if let Some(event) = self.kinds[kind].events.pop_front() {
            self.kinds[kind].dropped = event.record.revision;
            self.bytes -= weight(&event);
        }
    }

    /// At most `limit` events of the kind after the revision.
    pub fn after(&self, kind: Kind, revision: u64, limit: usize) -> Found {
        let changes = &self.kinds[kind as usize];
        if revision < changes.dropped {
            return Found::OlderThanRing;
        }
        let start = changes.events.partition_point(|event| event.record.revision <= revision);
        let events: Vec<_> = changes.events.range(start..).take(limit).cloned().collect();
        let more = start + events.len() < changes.events.len();
        Found::Events { events, more }
    }
}

fn weight(event: &Event) -> usize {
    EVENT_BYTES + event.record.body.len()
}
