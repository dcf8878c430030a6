//! Notes become Events, best effort: a bounded queue that never blocks and never fails its caller,
//! one task that writes what [`crate::api::event_plan`] lets through, many at once, and that
//! removes what has expired. An Event that cannot be written is dropped and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::api::body::{draft_of, header_of};
use crate::api::event_plan::{Correlation, EventStep, expired, last_counts};
use crate::api::verbs::{Api, store_error};
use crate::object::{ApiError, Key, Kind, Note, Object};
use crate::store::{Expect, ListRequest, Store, StoreError, Transaction, Write};
use crate::task::{caught, caught_async};

/// Notes that wait: 5,000 pods scheduled at once, at about 500 bytes each.
const QUEUE: usize = 8192;
/// Events written as one transaction.
const BATCH: usize = 128;
/// Between two searches for expired Events.
const EXPIRY: Duration = Duration::from_secs(60);

/// The caller's end: [`EventQueue::note`] returns at once.
#[derive(Clone, Debug)]
pub struct EventQueue {
    notes: mpsc::Sender<Note>,
    dropped: Arc<AtomicU64>,
}

impl EventQueue {
    /// The queue, and the end that [`run`] reads.
    pub fn new() -> (Self, mpsc::Receiver<Note>) {
        let (notes, receiver) = mpsc::channel(QUEUE);
        (Self { notes, dropped: Arc::default() }, receiver)
    }

    /// Records a note, or counts it as dropped where the queue is full.
    pub fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that found the queue full, or Events that could not be stored.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Writes Events until the daemon stops.
pub(crate) async fn run<S: Store>(
    api: Api<S>,
    mut notes: mpsc::Receiver<Note>,
    stop: CancellationToken,
) {
    let mut correlation = Correlation::default();
    let mut expiry = tokio::time::interval(EXPIRY);
    expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            // Cancel safe: a cancelled token stays cancelled.
            () = stop.cancelled() => return,
            // Cancel safe: a tick that was not taken comes again.
            _ = expiry.tick() => {
                shown(&api, 0, caught_async(expire(&api)).await);
            }
            // Cancel safe: notes not received stay in the channel.
            received = notes.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    stop.cancelled().await;
                    return;
                }
                let now = api.now();
                let steps: Vec<EventStep> = batch
                    .drain(..)
                    .filter_map(|note| {
                        let unique = format!("{:x}{}", now.as_nanosecond(), api.options().ids.suffix());
                        shown(&api, 1, caught(|| correlation.plan(&note, now, &unique)))
                    })
                    .collect();
                let count = steps.len() as u64;
                shown(&api, count, caught_async(write(&api, &steps)).await);
            }
        }
    }
}

/// Events are best effort: a panic over some costs those and no others.
fn shown<S: Store, T>(api: &Api<S>, count: u64, done: Result<T, String>) -> Option<T> {
    done.map_err(|panic| {
        error!(count, panic, "writing events panicked: they are dropped");
        api.events().dropped.fetch_add(count, Ordering::Relaxed);
    })
    .ok()
}

async fn write<S: Store>(api: &Api<S>, steps: &[EventStep]) {
    let counts = last_counts(steps);
    let mut writes = Vec::new();
    let mut namespaces: BTreeMap<Key, Write> = BTreeMap::new();
    for step in steps {
        let prepared = match step {
            EventStep::Drop => continue,
            EventStep::Create(event) => fresh(api, event, &counts, &mut namespaces).await,
            EventStep::Count { key, count, fallback } => {
                if counts.get(key) != Some(count) {
                    continue;
                }
                match counted(api, key, *count, fallback) {
                    Ok(Some(write)) => Ok(write),
                    // Made in this very batch, which writes its last count; else it has expired.
                    Ok(None) if creates(steps, key) => continue,
                    Ok(None) => fresh(api, fallback, &counts, &mut namespaces).await,
                    Err(failure) => Err(failure),
                }
            }
        };
        match prepared {
            Ok(write) => writes.push(write),
            Err(failure) => dropped(api, 1, &failure),
        }
    }
    if writes.is_empty() {
        return;
    }
    let all = writes.iter().chain(namespaces.values()).cloned().collect();
    match api.store().transact(Transaction { writes: all }).await {
        Ok(_) => {}
        // An Event that expired meanwhile, a namespace that changed: the others are not to blame.
        Err(failure) if is_one_writes(&failure) && writes.len() > 1 => {
            for write in writes {
                let namespace = Key::cluster(write.key().namespace.as_str());
                let check = namespaces.get(&namespace).cloned();
                let writes = std::iter::once(write).chain(check).collect();
                if let Err(failure) = api.store().transact(Transaction { writes }).await {
                    dropped(api, 1, &store_error(failure));
                }
            }
        }
        Err(failure) => dropped(api, writes.len() as u64, &store_error(failure)),
    }
}

/// Whether one write's precondition failed, and not the store.
fn is_one_writes(failure: &StoreError) -> bool {
    matches!(
        failure,
        StoreError::Stale { .. } | StoreError::Missing { .. } | StoreError::Exists { .. }
    )
}

fn creates(steps: &[EventStep], key: &Key) -> bool {
    steps.iter().any(|step| matches!(step, EventStep::Create(event) if event.key() == *key))
}

fn dropped<S: Store>(api: &Api<S>, count: u64, failure: &ApiError) {
    api.events().dropped.fetch_add(count, Ordering::Relaxed);
    debug!(count, %failure, "events not written");
}

async fn fresh<S: Store>(
    api: &Api<S>,
    event: &Event,
    counts: &BTreeMap<&Key, i32>,
    namespaces: &mut BTreeMap<Key, Write>,
) -> Result<Write, ApiError> {
    let mut new = event.clone();
    let key = new.key();
    if let Some(count) = counts.get(&key) {
        new.count = Some(*count);
    }
    if !namespaces.contains_key(&Key::cluster(key.namespace.as_str()))
        && let Some(check) = api.living_namespace::<Event>(&key, false).await?
    {
        namespaces.insert(Key::cluster(key.namespace.as_str()), check);
    }
    let mut new = api.admit_new(new)?;
    let header = header_of(&new);
    let draft = draft_of(&mut new)?;
    Ok(Write::Put { kind: Kind::Event, key, expect: Expect::Absent, draft, header })
}

/// The stored Event with its new count; `None` where it is gone.
fn counted<S: Store>(
    api: &Api<S>,
    key: &Key,
    count: i32,
    latest: &Event,
) -> Result<Option<Write>, ApiError> {
    let Some(record) = api.store().get(Kind::Event, key) else { return Ok(None) };
    let mut event = (*api.typed::<Event>(&record)?).clone();
    event.count = Some(count);
    // Of those that are combined the newest is told.
    event.message.clone_from(&latest.message);
    event.last_timestamp.clone_from(&latest.last_timestamp);
    let header = header_of(&event);
    let draft = draft_of(&mut event)?;
    let expect = Expect::Revision(record.revision);
    Ok(Some(Write::Put { kind: Kind::Event, key: key.clone(), expect, draft, header }))
}

/// Removes what nobody repeated for an hour, and what cannot be decoded any more.
async fn expire<S: Store>(api: &Api<S>) {
    let now = api.now();
    let request =
        ListRequest { namespace: None, limit: 0, after: None, at: None, select: &|_| true };
    let Ok(page) = api.store().list(Kind::Event, &request) else { return };
    let gone: Vec<Write> = page
        .items
        .iter()
        .filter(|record| api.typed::<Event>(record).map_or(true, |event| expired(&event, now)))
        .map(|record| Write::Delete {
            kind: Kind::Event,
            key: record.key.clone(),
            expect: Expect::Revision(record.revision),
        })
        .collect();
    let mut gone = gone.into_iter().peekable();
    while gone.peek().is_some() {
        let writes: Vec<Write> = gone.by_ref().take(BATCH).collect();
        if let Err(failure) = api.store().transact(Transaction { writes }).await {
            debug!(failure = %store_error(failure), "expired events not removed, trying again later");
            return;
        }
    }
}
