//! The store as the simulation sees it: every transaction is an effect, some fail, and watches lose
//! their place, as a slow watcher or a compaction would make them.

use std::sync::Arc;

use ballast::object::{Key, Kind};
use ballast::store::{
    ListPage, ListRequest, Record, Store, StoreError, Transaction, WatchItem, Write,
};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::effects::Effects;

#[derive(Clone)]
pub struct FaultyStore<S> {
    store: S,
    effects: Effects,
}

impl<S: Store> FaultyStore<S> {
    pub fn new(store: S, effects: Effects) -> Self {
        Self { store, effects }
    }
}

fn describe(transaction: &Transaction) -> String {
    let words = transaction.writes.iter().map(|write| match write {
        Write::Put { kind, key, .. } => format!("put {kind} {key}"),
        Write::Delete { kind, key, .. } => format!("delete {kind} {key}"),
        Write::Check { kind, key, .. } => format!("check {kind} {key}"),
    });
    format!("store: {}", words.collect::<Vec<_>>().join(", "))
}

/// Events and leases go on for ever and decide nothing: they are not points to crash at.
fn counts(transaction: &Transaction) -> bool {
    transaction.writes.iter().any(|write| match write {
        Write::Put { kind, .. } | Write::Delete { kind, .. } => {
            !matches!(kind, Kind::Event | Kind::Lease)
        }
        Write::Check { .. } => false,
    })
}

impl<S: Store> Store for FaultyStore<S> {
    fn revision(&self) -> u64 {
        self.store.revision()
    }

    fn get(&self, kind: Kind, key: &Key) -> Option<Arc<Record>> {
        self.store.get(kind, key)
    }

    fn list(&self, kind: Kind, request: &ListRequest<'_>) -> Result<ListPage, StoreError> {
        self.store.list(kind, request)
    }

    fn watch(
        &self,
        kind: Kind,
        from: Option<u64>,
    ) -> Result<BoxStream<'static, WatchItem>, StoreError> {
        let effects = self.effects.clone();
        let inner = self.store.watch(kind, from)?;
        // A dropped event is a Lost that ends the stream: the watcher lists again, late.
        let cut = inner.scan(false, move |lost, item| {
            let answer = if *lost {
                None
            } else if matches!(item, WatchItem::Event(_)) && effects.fails() {
                *lost = true;
                Some(WatchItem::Lost)
            } else {
                Some(item)
            };
            futures::future::ready(answer)
        });
        Ok(cut.boxed())
    }

    async fn transact(&self, transaction: Transaction) -> Result<Vec<Arc<Record>>, StoreError> {
        self.effects.alive().await;
        let (counts, what) = (counts(&transaction), describe(&transaction));
        if counts && self.effects.fails() {
            return Err(StoreError::Write("injected: the disk is full for a moment".to_owned()));
        }
        let answer = self.store.transact(transaction).await?;
        if counts {
            self.effects.happened(|| what).await;
        }
        Ok(answer)
    }
}
