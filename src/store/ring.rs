//! The latest changes, in memory, by kind: what live watches read.
//!
//! There is one copy for all watchers and none of their own: a watcher is a position, and a slow one
//! costs nothing. What falls out of the ring is still in the change log on disk.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::object::Kind;
use crate::store::Event;

/// How much of the history stays in memory, and how much of it a watch takes at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Bodies of all kinds together, with [`EVENT_BYTES`] each.
    pub bytes: usize,
    /// Events of one kind: small objects (Leases, Events) must not fill the budget with
    /// allocations.
    pub events: usize,
    /// Events taken at one look: a bound for the time that the ring stays locked.
    pub look: usize,
    /// Revisions replayed at one read from disk: a bound for the memory of a replaying watch.
    pub page: u64,
}

impl Window {
    /// 24 MiB are 4,500 pods of 5 kB, half a second of the fastest rollout. Most bodies are shared
    /// with the index, so that the memory that comes on top is less.
    /// 512 such bodies are 2.5 MB.
    pub const USUAL: Self = Self { bytes: 24 << 20, events: 4096, look: 256, page: 512 };
}

/// What an event costs beside its body: record, header, key and pointers, measured roughly.
const EVENT_BYTES: usize = 600;

/// Changes of all kinds, oldest first within each.
#[derive(Debug)]
pub(super) struct Ring {
    kinds: Vec<Changes>,
    bytes: usize,
    window: Window,
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
    /// Everything of the kind after the asked revision, at most a look.
    Events { events: Vec<Arc<Event>>, more: bool },
    /// The ring does not reach back so far.
    OlderThanRing,
}

impl Ring {
    /// An empty ring of a store at `revision`: everything before is only on disk.
    pub fn new(revision: u64, window: Window) -> Self {
        let kinds =
            Kind::all().map(|_| Changes { events: VecDeque::new(), dropped: revision }).collect();
        Self { kinds, bytes: 0, window }
    }

    /// Adds the next event; revisions ascend. What has to make room goes to `fallen`.
    pub fn push(&mut self, event: Arc<Event>, fallen: &mut Vec<Arc<Event>>) {
        let kind = event.record.kind as usize;
        self.bytes += weight(&event);
        self.kinds[kind].events.push_back(event);
        if self.kinds[kind].events.len() > self.window.events {
            fallen.extend(self.take_oldest_of(kind));
        }
        while self.bytes > self.window.bytes {
            let oldest = (0..self.kinds.len())
                .filter_map(|kind| Some((self.kinds[kind].events.front()?.record.revision, kind)))
                .min();
            let Some((_, kind)) = oldest else { break };
            fallen.extend(self.take_oldest_of(kind));
        }
    }

    fn take_oldest_of(&mut self, kind: usize) -> Option<Arc<Event>> {
        let event = self.kinds[kind].events.pop_front()?;
        self.kinds[kind].dropped = event.record.revision;
        self.bytes -= weight(&event);
        Some(event)
    }

    /// The next events of the kind after the revision.
    pub fn after(&self, kind: Kind, revision: u64) -> Found {
        let changes = &self.kinds[kind as usize];
        if revision < changes.dropped {
            return Found::OlderThanRing;
        }
        let start = changes.events.partition_point(|event| event.record.revision <= revision);
        let events: Vec<_> =
            changes.events.range(start..).take(self.window.look).cloned().collect();
        let more = start + events.len() < changes.events.len();
        Found::Events { events, more }
    }
}

fn weight(event: &Event) -> usize {
    EVENT_BYTES + event.record.body.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::object::Key;
    use crate::store::{ChangeType, Header, Record};

    const SMALL: Window = Window { bytes: 100_000, events: 10, look: 2, page: 1 };

    fn event(kind: Kind, revision: u64, bytes: usize) -> Arc<Event> {
        let header = Arc::new(Header::default());
        let body = Bytes::from(vec![b' '; bytes]);
        let record = Record::new(kind, Key::new("default", "a"), revision, body, header);
        let change = ChangeType::Updated;
        Arc::new(Event { change, record: Arc::new(record), previous: None, ends_transaction: true })
    }

    fn revisions(found: Found) -> Option<(Vec<u64>, bool)> {
        match found {
            Found::Events { events, more } => {
                Some((events.iter().map(|event| event.record.revision).collect(), more))
            }
            Found::OlderThanRing => None,
        }
    }

    #[test]
    fn a_position_before_the_ring_is_told_so() {
        let mut ring = Ring::new(10, SMALL);
        assert_eq!(revisions(ring.after(Kind::Pod, 9)), None);
        assert_eq!(revisions(ring.after(Kind::Pod, 10)), Some((vec![], false)));
        for revision in 11..15 {
            ring.push(event(Kind::Pod, revision, 1), &mut Vec::new());
        }
        assert_eq!(revisions(ring.after(Kind::Pod, 11)), Some((vec![12, 13], true)));
        assert_eq!(revisions(ring.after(Kind::Pod, 12)), Some((vec![13, 14], false)));
        assert_eq!(revisions(ring.after(Kind::Node, 11)), Some((vec![], false)));
    }

    #[test]
    fn too_many_events_push_out_the_oldest_of_their_kind() {
        let mut ring = Ring::new(0, SMALL);
        let mut fallen = Vec::new();
        ring.push(event(Kind::Pod, 1, 1), &mut fallen);
        for revision in 2..=SMALL.events as u64 + 3 {
            ring.push(event(Kind::Lease, revision, 1), &mut fallen);
        }
        assert_eq!(fallen.iter().map(|e| e.record.revision).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(revisions(ring.after(Kind::Lease, 2)), None);
        assert_eq!(revisions(ring.after(Kind::Lease, 3)), Some((vec![4, 5], true)));
        assert_eq!(revisions(ring.after(Kind::Pod, 0)), Some((vec![1], false)));
    }

    #[test]
    fn too_many_bytes_push_out_the_oldest_of_all() {
        let mut ring = Ring::new(0, SMALL);
        let mut fallen = Vec::new();
        ring.push(event(Kind::Lease, 1, 1), &mut fallen);
        ring.push(event(Kind::Pod, 2, SMALL.bytes / 2), &mut fallen);
        ring.push(event(Kind::Pod, 3, SMALL.bytes / 2), &mut fallen);
        assert_eq!(fallen.iter().map(|e| e.record.revision).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(revisions(ring.after(Kind::Lease, 1)), Some((vec![], false)));
        assert_eq!(revisions(ring.after(Kind::Pod, 1)), None);
    }
}
