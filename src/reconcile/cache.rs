//! One watch of one kind, kept as an indexed cache and fanned out to every controller that looks at
//! the kind. An object is decoded once, by the API's inner skin, and it, or what is kept of it, is shared
//! as `Arc`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use futures::{Stream, StreamExt, stream};
use tokio::sync::broadcast;
use tracing::{debug, error};

use crate::object::selector::{Requirement, Selector};
use crate::object::{Cluster, Key, Object, Scope};
use crate::reconcile::indexed::{self, Indexed, Seen, Terms};
use crate::reconcile::kept::Kept;
use crate::signal::Signal;
use crate::task::{Tasks, caught};

/// Changes a subscriber may be behind before it is told to look at everything anew, which costs it
/// some milliseconds with 5,000 objects: half a second of the fastest rollout. The slots are there
/// from the start, 48 bytes each for every kind.
const FAN_OUT: usize = 4096;
/// Changes whose keys are woken together: an owner of thousands is named once, not once a pod.
const WAKES: usize = 1024;

/// The objects of one kind as far as the watch has told. Cheap to clone; only ever behind, never wrong.
#[derive(Debug)]
pub struct Cache<T: Kept>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T: Kept> {
    index: RwLock<Indexed<T>>,
    seen: broadcast::Sender<Seen<T>>,
    is_synced: AtomicBool,
    synced: Signal,
}

impl<T: Kept> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Object> Cache<K> {
    /// Begins to follow the cluster, until the stop signal. `terms` is what it can be asked by.
    pub fn follow<C: Cluster>(cluster: &C, terms: Terms<K>, tasks: &Tasks) -> Self {
        Self::follow_keeping(cluster, terms, Arc::clone, tasks)
    }
}

impl<T: Kept> Cache<T> {
    /// As [`Cache::follow`]; of each object it keeps what `keep` makes of it.
    pub fn follow_keeping<C: Cluster>(
        cluster: &C,
        terms: Terms<T>,
        keep: impl Fn(&Arc<T::Whole>) -> Arc<T> + Send + Sync + 'static,
        tasks: &Tasks,
    ) -> Self {
        let cache = Self(Arc::new(Shared {
            index: RwLock::new(Indexed::new(terms)),
            seen: broadcast::Sender::new(FAN_OUT),
            is_synced: AtomicBool::new(false),
            synced: Signal::default(),
        }));
        let (fed, stop, changes) =
            (cache.clone(), tasks.stop().clone(), cluster.watch_keeping(Scope::all(), keep));
        tasks.spawn("cache", async move {
            let mut changes = std::pin::pin!(changes);
            loop {
                let change = tokio::select! {
                    biased;
                    // Cancel safe: nothing is lost by not waiting.
                    () = stop.cancelled() => return,
                    // Cancel safe: a stream's `next` takes nothing before it is ready.
                    change = changes.next() => change,
                };
                match change {
                    Some(change) => fed.take_up(change),
                    None => {
                        // The watch ends only with the cluster, that is at the daemon's end.
                        debug!(kind = %T::Whole::OBJECT_KIND, "watch ended");
                        stop.cancelled().await;
                        return;
                    }
                }
            }
        });
        cache
    }

    fn take_up(&self, change: crate::object::Change<Arc<T>>) {
        let seen = self.0.index.write().unwrap_or_else(PoisonError::into_inner).apply(change);
        for one in seen {
            // Nobody listening is no error: the index is what counts.
            let _ = self.0.seen.send(one);
        }
        if !self.0.is_synced.swap(true, Ordering::AcqRel) {
            self.0.synced.raise();
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Indexed<T>> {
        self.0.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the first list has been taken up. Cancel safe.
    pub async fn synced(&self) {
        let never = self.0.synced.count();
        if !self.0.is_synced.load(Ordering::Acquire) {
            self.0.synced.raised_since(never).await;
        }
    }

    /// Whether a write of this kind that was answered with `revision` is in the cache. Until it is,
    /// a controller must not count its own creations as missing.
    pub fn has_seen(&self, revision: u64) -> bool {
        self.index().revision() >= revision
    }

    pub fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.index().get(key).cloned()
    }

    /// In key order.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.index().all().cloned().collect()
    }

    pub fn keys(&self) -> Vec<Key> {
        self.index().all().map(|object| object.place().key()).collect()
    }

    /// In key order.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        self.index().in_namespace(namespace).cloned().collect()
    }

    /// What a uid controls, in key order. The cache's terms must contain ownership.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<T>> {
        self.under(&indexed::owned_by(uid))
    }

    /// What nobody controls in a namespace. The cache's terms must contain ownership.
    pub fn orphans_of(&self, namespace: &str) -> Vec<Arc<T>> {
        self.under(&indexed::orphans_of(namespace))
    }

    /// What stands under a term of [`indexed`], in key order.
    pub fn under(&self, term: &str) -> Vec<Arc<T>> {
        self.index().under(term).cloned().collect()
    }

    /// What a selector selects in a namespace, in key order. Asks the label index by the selector's
    /// rarest `key in (one value)`; only a selector without one scans the namespace. The cache's
    /// terms must contain labels.
    pub fn selected(&self, namespace: &str, selector: &Selector) -> Vec<Arc<T>> {
        let index = self.index();
        let rarest = selector
            .requirements
            .iter()
            .filter_map(|requirement| match requirement {
                Requirement::In(label, values) if values.len() == 1 => {
                    Some(indexed::labelled(namespace, label, &values[0]))
                }
                _ => None,
            })
            .min_by_key(|term| index.count_under(term));
        let matches = |object: &&Arc<T>| selector.matches_optional(object.facts().labels);
        match rarest {
            Some(term) => index.under(&term).filter(matches).cloned().collect(),
            None => index.in_namespace(namespace).filter(matches).cloned().collect(),
        }
    }

    /// Every change from now on, in order; the first item is [`Seen::All`]. What a change tells is in
    /// the cache already. A subscriber that falls too far behind is told `All` and goes on.
    pub fn changes(&self) -> impl Stream<Item = Seen<T>> + Send + 'static + use<T> {
        let receiver = self.0.seen.subscribe();
        let first = stream::iter([Seen::All]);
        first.chain(stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(seen) => Some((seen, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Seen::All, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        }))
    }

    /// The keys (of another kind) that a change of this kind may concern: `concerned` of the state
    /// before and of the state after; after a loss, of every object that is here. Of the changes that
    /// are there at the same time, each key comes once.
    pub fn waking<F, I>(
        &self,
        concerned: F,
    ) -> impl Stream<Item = Key> + Send + 'static + use<T, F, I>
    where
        F: Fn(&T) -> I + Send + 'static,
        I: IntoIterator<Item = Key>,
    {
        let cache = self.clone();
        let of = move |object: &Arc<T>| -> Vec<Key> {
            caught(|| concerned(object).into_iter().collect()).unwrap_or_else(|panic| {
                error!(kind = %T::Whole::OBJECT_KIND, object = %object.place().key(), panic, "object quarantined: it wakes nobody");
                Vec::new()
            })
        };
        self.changes().ready_chunks(WAKES).flat_map(move |changes| {
            let mut keys = Vec::new();
            for seen in &changes {
                match seen {
                    Seen::All => keys.extend(cache.all().iter().flat_map(&of)),
                    changed => keys.extend(changed.states().flat_map(&of)),
                }
            }
            keys.sort();
            keys.dedup();
            stream::iter(keys)
        })
    }
}
