//! The one writer: plans each transaction against the latest state, writes a batch durably, then
//! publishes it, then answers.
//!
//! Transactions that arrive while a batch is being written form the next batch (group commit): one
//! `fsync` for all of them, no waiting for company.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, warn};

use crate::object::{Key, Kind};
use crate::store::body::Values;
use crate::store::compaction::next_floor;
use crate::store::draft::restamp;
use crate::store::index::Index;
use crate::store::precondition::{Effect, plan};
use crate::store::reader::Shared;
use crate::store::sqlite::{Checkpointer, Disk, Entry, Loaded};
use crate::store::{Body, ChangeType, Event, OpenError, Record, StoreError, Transaction, Write};

/// Writes of one batch, unless a single transaction is larger. At 25,000 rows/s a full batch takes
/// 20 ms (reliability.md 4.2).
const BATCH_WRITES: usize = 512;
/// Transactions that wait for the writer; who comes then waits for a place in the queue.
pub(super) const QUEUE: usize = 1024;
/// After so many bytes the checkpointer is woken: SQLite's own habit is 1000 pages of 4 kB.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// A log of so many pages (32 MiB) is brought to its end by the writer, after the checkpointer has
/// done the bulk, so that it begins anew at its start instead of growing under constant load.
const LONG_LOG_PAGES: u64 = 8192;

pub(super) type Answer = Result<Vec<Arc<Record>>, StoreError>;

/// What the writer's thread is told.
#[derive(Debug)]
pub(super) enum Message {
    Transact {
        transaction: Transaction,
        reply: oneshot::Sender<Answer>,
    },
    /// Answered when everything before is durable and the file is closed.
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// The writer's own state; see [`Writer::commit`].
pub(super) struct Writer {
    disk: Disk,
    shared: Arc<Shared>,
    /// Equals the published state between batches.
    index: Index,
    next_revision: u64,
    floor: u64,
    keep_changes: u64,
    /// Unreadable rows that the next write of their key supersedes.
    quarantine: HashMap<(Kind, Key), u64>,
    checkpoints: Option<Checkpoints>,
    /// What bodies have in common.
    values: Values,
}

impl Writer {
    pub fn new(disk: Disk, shared: Arc<Shared>, loaded: Loaded, keep_changes: u64) -> Self {
        let Loaded { index, floor, quarantine, values, .. } = loaded;
        let next_revision = index.revision + 1;
        Self {
            disk,
            shared,
            index,
            next_revision,
            floor,
            keep_changes,
            quarantine,
            checkpoints: None,
            values,
        }
    }

    /// One batch: every transaction is planned in order, the allowed ones are written together and
    /// published together. The answers stand in the order of the transactions.
    pub fn commit(&mut self, transactions: Vec<Transaction>) -> Vec<Answer> {
        let before = self.index.clone();
        let mut entries = Vec::with_capacity(transactions.len());
        let answers: Vec<Answer> = transactions
            .into_iter()
            .map(|transaction| self.enter(transaction, &mut entries))
            .collect();
        if entries.is_empty() {
            return answers;
        }
        let floor = next_floor(self.index.revision, self.floor, self.keep_changes);
        let started = Instant::now();
        if let Err(failure) = self.disk.append(&entries, floor.map(|next| (self.floor, next))) {
            // The revisions are not used again: whether the disk kept anything is not known.
            error!(%failure, writes = entries.len(), "batch is not written");
            self.shared.metrics.failed();
            self.index = before;
            let refused = || Err(StoreError::Write(failure.to_string()));
            return answers.iter().map(|_| refused()).collect();
        }
        self.shared.metrics.committed(entries.len(), started.elapsed());
        if let Some(floor) = floor {
            self.shared.metrics.compacted(floor - self.floor);
            self.floor = floor;
        }
        for entry in &entries {
            self.quarantine.remove(&(entry.event.record.kind, entry.event.record.key.clone()));
        }
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.note(&entries, &self.disk);
        }
        let events = entries.into_iter().map(|entry| entry.event).collect();
        self.shared.publish(self.index.clone(), events, self.floor);
        answers
    }

    /// Plans one transaction and enters it into the index; `entries` gets its rows.
    fn enter(&mut self, transaction: Transaction, entries: &mut Vec<Entry>) -> Answer {
        let effects = plan(&transaction.writes, &self.index, self.next_revision)?;
        let unsound = transaction.writes.iter().any(|write| match write {
            Write::Put { draft, .. } => !draft.is_sound(),
            Write::Delete { .. } | Write::Check { .. } => false,
        });
        if unsound {
            return Err(StoreError::Write("the draft has no place for its revision".to_owned()));
        }
        let count = effects.iter().filter(|effect| **effect != Effect::Nothing).count();
        let mut records = Vec::with_capacity(count);
        for write in transaction.writes {
            let Some((change, record, replaced)) = self.apply(write) else { continue };
            records.push(record.clone());
            let previous = match &replaced {
                Some(replaced) => Some(replaced.revision),
                None if self.quarantine.is_empty() => None,
                None => self.quarantine.get(&(record.kind, record.key.clone())).copied(),
            };
            let event = Event {
                change,
                record,
                previous: replaced.map(|replaced| replaced.header.clone()),
                ends_transaction: records.len() == count,
            };
            entries.push(Entry { event: Arc::new(event), previous });
        }
        Ok(records)
    }

    /// One allowed write, with the record it replaces. `None` for a check.
    fn apply(&mut self, write: Write) -> Option<(ChangeType, Arc<Record>, Option<Arc<Record>>)> {
        let revision = self.next_revision;
        let (change, record, replaced) = match write {
            Write::Check { .. } => return None,
            Write::Put { kind, key, draft, header, .. } => {
                let body = Body::sharing(draft.stamp(revision), &mut self.values);
                let record = Arc::new(Record::new(kind, key, revision, body, Arc::new(header)));
                let replaced = self.index.put(record.clone());
                let change =
                    if replaced.is_some() { ChangeType::Updated } else { ChangeType::Created };
                (change, record, replaced)
            }
            Write::Delete { kind, key, .. } => {
                let last = self.index.remove(kind, &key, revision)?;
                let text = restamp(&last.body.text(), revision);
                let body = Body::sharing(text, &mut self.values);
                let record = Record::new(kind, key, revision, body, last.header.clone());
                (ChangeType::Deleted, Arc::new(record), Some(last))
            }
        };
        self.next_revision += 1;
        Some((change, record, replaced))
    }

    /// The last act: everything into the database file.
    pub fn finish(self) {
        if let Err(failure) = self.disk.finish() {
            warn!(%failure, "last checkpoint is left to the next start");
        }
    }

    /// Starts the thread that owns the writer. It ends when every sender is gone, or on
    /// [`Message::Close`].
    pub fn start(
        mut self,
        path: &Path,
        queue: mpsc::Receiver<Message>,
    ) -> Result<thread::JoinHandle<()>, OpenError> {
        self.checkpoints = Some(Checkpoints::start(path)?);
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || self.run(queue))
            .map_err(OpenError::Thread)
    }

    fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut arrived = Vec::with_capacity(QUEUE);
        while queue.blocking_recv_many(&mut arrived, QUEUE) > 0 {
            let mut messages = arrived.drain(..).peekable();
            while messages.peek().is_some() {
                let (mut transactions, mut replies, mut writes) = (Vec::new(), Vec::new(), 0);
                let mut close = None;
                while writes < BATCH_WRITES && close.is_none() {
                    match messages.next() {
                        Some(Message::Transact { transaction, reply }) => {
                            writes += transaction.writes.len();
                            transactions.push(transaction);
                            replies.push(reply);
                        }
                        Some(Message::Close { reply }) => close = Some(reply),
                        None => break,
                    }
                }
                for (reply, answer) in replies.into_iter().zip(self.commit(transactions)) {
                    // Who asked may be gone; the write happened all the same.
                    let _ = reply.send(answer);
                }
                if let Some(reply) = close {
                    // First refuse what comes now, then say that the file is closed.
                    queue.close();
                    self.finish();
                    let _ = reply.send(());
                    return;
                }
            }
        }
        self.finish();
    }
}

/// However the writer ends, watches end with it: nothing can come any more.
impl Drop for Writer {
    fn drop(&mut self) {
        if thread::panicking() {
            error!("writer died: nothing can be written until the daemon is started again");
        }
        self.shared.close();
    }
}

/// Checkpoints beside the writer: `fsync` of the database file takes milliseconds that no write
/// should wait for.
struct Checkpoints {
    wake: SyncSender<()>,
    /// Pages in the log after the last checkpoint, if it is done to its end or nearly so.
    log_pages: Arc<AtomicU64>,
    bytes: u64,
}

impl Checkpoints {
    fn start(path: &Path) -> Result<Self, OpenError> {
        let checkpointer = Checkpointer::open(path)?;
        // One slot: a wake-up while one waits already says nothing new.
        let (wake, woken) = sync_channel(1);
        let log_pages = Arc::new(AtomicU64::new(0));
        let pages = log_pages.clone();
        thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .spawn(move || {
                while let Ok(()) = woken.recv() {
                    match checkpointer.run() {
                        Ok(done) => pages.store(done.pages, Ordering::Release),
                        Err(failure) => warn!(%failure, "checkpoint fails and is tried again"),
                    }
                }
            })
            .map_err(OpenError::Thread)?;
        Ok(Self { wake, log_pages, bytes: 0 })
    }

    /// After a batch.
    fn note(&mut self, entries: &[Entry], disk: &Disk) {
        const ROW: u64 = 200;
        self.bytes +=
            entries.iter().map(|entry| entry.event.record.body.len() as u64 + ROW).sum::<u64>();
        if self.log_pages.load(Ordering::Acquire) > LONG_LOG_PAGES {
            self.log_pages.store(0, Ordering::Release);
            match disk.checkpoint() {
                Ok(done) => {
                    debug!(pages = done.pages, left = done.left, "log is brought to its end")
                }
                Err(failure) => warn!(%failure, "checkpoint fails and is tried again"),
            }
        } else if self.bytes > CHECKPOINT_BYTES {
            self.bytes = 0;
            // Full means that it is woken already.
            let _ = self.wake.try_send(());
        }
    }
}
