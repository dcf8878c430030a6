//! The store as the simulation sees it: every transaction is an effect, some are refused, some find
//! that another writer was faster, and watches are late or lose their place.

use std::sync::Arc;

use ballast::object::{Key, Kind};
use ballast::store::{
    Draft, Expect, ListPage, ListRequest, Record, Store, StoreError, Transaction, WatchItem, Write,
};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::effects::Effects;
use super::fault::{Fault, LATE};

/// Changes that a late watch has on their way.
const UNDER_WAY: usize = 4096;

#[derive(Clone)]
pub struct FaultyStore<S> {
    store: S,
    effects: Effects,
}

impl<S: Store> FaultyStore<S> {
    pub fn new(store: S, effects: Effects) -> Self {
        Self { store, effects }
    }

    /// Another writer is faster: what this transaction replaces gets another revision first.
    async fn interfere(&self, transaction: &Transaction, place: &str) -> Result<(), StoreError> {
        let replaces = transaction.writes.iter().find_map(|write| match write {
            Write::Put { kind, key, expect: Expect::Revision(revision), .. }
            | Write::Delete { kind, key, expect: Expect::Revision(revision) } => {
                self.store.get(*kind, key).filter(|record| record.revision == *revision)
            }
            _ => None,
        });
        let Some(record) = replaces else { return Ok(()) };
        if !self.effects.strikes(Fault::Conflict, place) {
            return Ok(());
        }
        let (kind, key) = (record.kind, record.key.clone());
        let expect = Expect::Revision(record.revision);
        let header = (*record.header).clone();
        let put = Write::Put { kind, key, expect, draft: same(&record), header };
        self.store.transact(Transaction { writes: vec![put] }).await.map(drop)
    }
}

/// The object as it is, on its way to a new revision.
fn same(record: &Record) -> Draft {
    let body = record.body.text();
    let body = std::str::from_utf8(&body).expect("bodies are JSON text");
    let name = "\"resourceVersion\":\"";
    let found = format!("{name}{}\"", record.revision);
    let at = body.find(&found).expect("every body carries its revision") + name.len();
    let rest = at + found.len() - name.len() - 1;
    Draft { json: format!("{}{}", &body[..at], &body[rest..]).into_bytes(), revision_at: at }
}

fn describe(transaction: &Transaction) -> String {
    let words = transaction.writes.iter().map(|write| match write {
        Write::Put { kind, key, expect: Expect::Absent, .. } => format!("create {kind} {key}"),
        Write::Put { kind, key, .. } => format!("put {kind} {key}"),
        Write::Delete { kind, key, .. } => format!("delete {kind} {key}"),
        Write::Check { kind, key, .. } => format!("check {kind} {key}"),
    });
    format!("store: {}", words.collect::<Vec<_>>().join(", "))
}

/// Events, and renewals of a Lease, go on for ever and decide nothing: they are not points to crash
/// at.
fn counts(transaction: &Transaction) -> bool {
    transaction.writes.iter().any(|write| match write {
        Write::Put { kind, expect, .. } => match kind {
            Kind::Event => false,
            Kind::Lease => *expect == Expect::Absent,
            _ => true,
        },
        Write::Delete { kind, .. } => *kind != Kind::Event,
        Write::Check { .. } => false,
    })
}

/// `put Pod`: where a schedule draws.
fn place(transaction: &Transaction) -> String {
    transaction.writes.first().map_or_else(String::new, |write| match write {
        Write::Put { kind, .. } => format!("put {kind}"),
        Write::Delete { kind, .. } => format!("delete {kind}"),
        Write::Check { kind, .. } => format!("check {kind}"),
    })
}

impl<S: Store> Store for FaultyStore<S> {
    fn revision(&self) -> u64 {
        self.store.revision()
    }

    fn read(&self, kind: Kind, key: &Key) -> (u64, Option<Arc<Record>>) {
        self.store.read(kind, key)
    }

    fn find(
        &self,
        kind: Kind,
        namespace: &str,
        select: &dyn Fn(&Record) -> bool,
    ) -> Option<Arc<Record>> {
        self.store.find(kind, namespace, select)
    }

    fn list(&self, kind: Kind, request: &ListRequest<'_>) -> Result<ListPage, StoreError> {
        self.store.list(kind, request)
    }

    fn list_both(
        &self,
        first: (Kind, &ListRequest<'_>),
        second: (Kind, &ListRequest<'_>),
    ) -> Result<(ListPage, ListPage), StoreError> {
        self.store.list_both(first, second)
    }

    /// Of what the listener serves alone, which no simulation does: without faults.
    fn watch_both(
        &self,
        kinds: (Kind, Kind),
        from: Option<u64>,
    ) -> Result<BoxStream<'static, WatchItem>, StoreError> {
        self.store.watch_both(kinds, from)
    }

    fn watch(
        &self,
        kind: Kind,
        from: Option<u64>,
    ) -> Result<BoxStream<'static, WatchItem>, StoreError> {
        let inner = self.store.watch(kind, from)?;
        let place = format!("watch {kind}");
        let (effects, at) = (self.effects.clone(), place.clone());
        // A dropped event is a Lost that ends the stream: the watcher lists again.
        let cut = inner.scan(false, move |lost, item| {
            let answer = if *lost {
                None
            } else if matches!(item, WatchItem::Event(_)) && effects.strikes(Fault::WatchLost, &at)
            {
                *lost = true;
                Some(WatchItem::Lost)
            } else {
                Some(item)
            };
            futures::future::ready(answer)
        });
        let (effects, always) = (self.effects.clone(), self.effects.begins_late(kind));
        // Everything is taken at once and told in its order: one late change holds up those behind it.
        let late = cut.map(move |item| {
            let is_event = matches!(item, WatchItem::Event(_));
            let late = is_event && (always || effects.strikes(Fault::WatchLate, &place));
            if is_event && always {
                effects.struck_again(Fault::WatchLate);
            }
            async move {
                if late {
                    tokio::time::sleep(LATE).await;
                }
                item
            }
        });
        Ok(late.buffered(UNDER_WAY).boxed())
    }

    async fn transact(&self, transaction: Transaction) -> Result<Vec<Arc<Record>>, StoreError> {
        self.effects.alive().await;
        if !counts(&transaction) {
            return self.store.transact(transaction).await;
        }
        let (what, place) = (describe(&transaction), place(&transaction));
        if self.effects.strikes(Fault::StoreRefuses, &place) {
            return Err(StoreError::Write("injected: the disk is full for a moment".to_owned()));
        }
        self.interfere(&transaction, &place).await?;
        let answer = self.store.transact(transaction).await?;
        self.effects.happened(|| what).await;
        Ok(answer)
    }
}
