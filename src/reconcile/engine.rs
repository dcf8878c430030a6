//! Runs a controller: kube-runtime's `Controller` (queue, deduplication, one run a key) fed by our
//! shared caches, with every run under `catch_unwind`.
//!
//! Controllers get keys, not objects: kube-runtime's store holds only names, the objects are in the
//! [`Cache`] once. An object whose reconcile panics is quarantined: an Event and an error in the log
//! tell it, it is tried again after a minute, doubling to 1000 s, or at once when it has changed; all
//! other objects go on.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::object::{ApiError, Cluster, Key, Note, Object, reference};
use crate::reconcile::cache::Cache;
use crate::reconcile::indexed::Seen;
use crate::reconcile::kept::Kept;
use crate::reconcile::metrics::{Ended, Metrics, Vitals};
use crate::reconcile::retry;
use crate::task::{Tasks, caught_async};

/// Every key is looked at again this often, whatever the watches say: a lost event costs latency,
/// never correctness.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// How often an idle controller says that it is alive; readiness allows several of these.
const BEAT: Duration = Duration::from_secs(5);
/// Reconciles of one controller at the same time; they mostly wait for durable writes.
const CONCURRENCY: u16 = 16;

/// "I completed a pass", called with the loop's name.
pub type Beat = Arc<dyn Fn(&'static str) + Send + Sync>;

/// What a successful reconcile says about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing to do until something changes.
    OnChange,
    /// Look again after this long, or when something changes.
    After(Duration),
}

impl Next {
    /// Looks again at `when`. A time that has passed is a second from now: whatever computed it
    /// did so again on every pass, and a pass that changes nothing must not follow itself at once
    /// (Kubernetes' `requeueStuckDeployment` rate-limits the same case).
    pub fn at(when: Timestamp, now: Timestamp) -> Self {
        match Duration::try_from(when - now) {
            Ok(left) if !left.is_zero() => Self::After(left),
            _ => Self::After(Duration::from_secs(1)),
        }
    }

    /// The earlier of both.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(one), Self::After(two)) => Self::After(one.min(two)),
            (Self::OnChange, later) | (later, Self::OnChange) => later,
        }
    }
}

/// A step of a reconcile that the API refused; the key is tried again with back-off.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct Failed {
    /// `create pod`
    pub step: &'static str,
    pub source: ApiError,
}

impl Failed {
    /// For `map_err`: says which step it was.
    pub fn at(step: &'static str) -> impl FnOnce(ApiError) -> Self {
        move |source| Self { step, source }
    }
}

/// One controller's decisions about one object.
pub trait Reconcile: Send + Sync + 'static {
    /// The kind whose keys are reconciled.
    type Object: Object;

    /// `replicaset-controller`: names the loop, and the component of its Events.
    const NAME: &'static str;

    /// Brings one object one step nearer. Never runs twice at the same time for one key; never waits.
    /// `object` is the cache's latest.
    fn reconcile(
        &self,
        object: Arc<Self::Object>,
    ) -> impl Future<Output = Result<Next, Failed>> + Send;

    /// The object is gone; what is remembered of it may be forgotten.
    fn forget(&self, _key: &Key) {}
}

/// A controller's wiring, before it runs.
pub struct Engine<K: Object> {
    main: Cache<K>,
    wakes: SelectAll<BoxStream<'static, Key>>,
    needs: Vec<BoxFuture<'static, ()>>,
    vitals: Vitals,
}

/// kube-runtime's stand-in for an object: its name and namespace.
type Handle<K> = PartialObjectMeta<K>;

impl<K: Object + kube::Resource<DynamicType = (), Scope: Send + Sync>> Engine<K> {
    /// Every change of an object of `main` reconciles it.
    pub fn new(main: &Cache<K>, vitals: Vitals) -> Self {
        Self { main: main.clone(), wakes: SelectAll::new(), needs: Vec::new(), vitals }
    }

    /// Keys that have to be looked at because something else changed; see [`Cache::waking`].
    pub fn wake(mut self, keys: impl Stream<Item = Key> + Send + 'static) -> Self {
        self.wakes.push(keys.boxed());
        self
    }

    /// No reconcile runs before this cache has its first list.
    pub fn needs<T: Kept>(mut self, cache: &Cache<T>) -> Self {
        let cache = cache.clone();
        self.needs.push(async move { cache.synced().await }.boxed());
        self
    }

    /// Runs until the stop signal; reconciles that run then are allowed to end.
    pub fn run<C: Cluster, R: Reconcile<Object = K>>(
        self,
        cluster: C,
        tasks: &Tasks,
        reconciler: R,
    ) {
        let stop = tasks.stop().clone();
        let Self { main, wakes, needs, vitals } = self;
        vitals.metrics.follow(R::NAME);
        let reconciler = Arc::new(reconciler);
        let (reader, writer) = reflector::store::<Handle<K>>();
        let handles = handles(main.clone(), needs, writer, reconciler.clone());
        let again = stream::unfold((), |()| async {
            tokio::time::sleep(LOOK_AGAIN).await;
            Some(((), ()))
        });
        let runs = Controller::for_shared_stream(handles, reader)
            .reconcile_on(wakes.map(|key| object_ref::<K>(&key)))
            .reconcile_all_on(again)
            .with_config(Config::default().concurrency(CONCURRENCY))
            .graceful_shutdown_on(stop.clone().cancelled_owned());
        let (metrics, troubles) = (vitals.metrics.clone(), Mutex::default());
        let guarded = Arc::new(Guarded { cluster, main, reconciler, metrics, troubles });
        tasks.spawn(R::NAME, async move {
            let runs = runs.run(
                |handle: Arc<Handle<K>>, guarded: Arc<Guarded<C, R>>| async move {
                    Ok::<_, Infallible>(guarded.reconcile(key_of(&handle.metadata)).await)
                },
                |_, never, _| match *never {},
                guarded,
            );
            let mut runs = std::pin::pin!(runs);
            let mut alive = tokio::time::interval(BEAT);
            loop {
                tokio::select! {
                    biased;
                    // Cancel safe: a tick that is not taken comes again.
                    _ = alive.tick() => vitals.beat(R::NAME),
                    // Cancel safe: a stream's `next` takes nothing before it is ready.
                    run = runs.next() => match run {
                        Some(Ok(_)) => vitals.beat(R::NAME),
                        // A wake-up for an object that is gone, or not here yet: it wakes itself then.
                        Some(Err(nothing)) => debug!(%nothing, "nothing to reconcile"),
                        None => return,
                    },
                }
            }
        });
    }
}

/// Fills kube-runtime's store by hand, and yields what has to be reconciled. The store counts as
/// ready, and reconciles begin, only when every needed cache has its first list.
fn handles<R: Reconcile>(
    main: Cache<R::Object>,
    needs: Vec<BoxFuture<'static, ()>>,
    mut writer: reflector::store::Writer<Handle<R::Object>>,
    reconciler: Arc<R>,
) -> impl Stream<Item = Arc<Handle<R::Object>>> + Send + 'static
where
    R::Object: kube::Resource<DynamicType = (), Scope: Send + Sync>,
{
    let changes = main.changes();
    let synced = main.clone();
    let ready = async move {
        synced.synced().await;
        futures::future::join_all(needs).await;
        changes
    };
    ready.flatten_stream().flat_map(move |seen| {
        let mut woken = Vec::new();
        match seen {
            Seen::All => {
                writer.apply_watcher_event(&watcher::Event::Init);
                for key in main.keys() {
                    let handle = handle_of::<R::Object>(&key);
                    writer.apply_watcher_event(&watcher::Event::InitApply(handle.clone()));
                    woken.push(Arc::new(handle));
                }
                writer.apply_watcher_event(&watcher::Event::InitDone);
            }
            Seen::Changed { after: Some(object), .. } => {
                let handle = handle_of::<R::Object>(&object.key());
                writer.apply_watcher_event(&watcher::Event::Apply(handle.clone()));
                woken.push(Arc::new(handle));
            }
            Seen::Changed { before, after: None } => {
                if let Some(object) = before {
                    let key = object.key();
                    let handle = handle_of::<R::Object>(&key);
                    writer.apply_watcher_event(&watcher::Event::Delete(handle));
                    reconciler.forget(&key);
                }
            }
        }
        stream::iter(woken)
    })
}

fn handle_of<K>(key: &Key) -> Handle<K> {
    let namespace = (!key.namespace.is_empty()).then(|| key.namespace.clone());
    let metadata = ObjectMeta { name: Some(key.name.clone()), namespace, ..ObjectMeta::default() };
    PartialObjectMeta { types: None, metadata, _phantom: std::marker::PhantomData }
}

fn object_ref<K: kube::Resource<DynamicType = ()>>(key: &Key) -> ObjectRef<Handle<K>> {
    let object_ref = ObjectRef::new(&key.name);
    if key.namespace.is_empty() { object_ref } else { object_ref.within(&key.namespace) }
}

fn key_of(meta: &ObjectMeta) -> Key {
    Key {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// A reconciler whose failures and panics are remembered.
struct Guarded<C, R: Reconcile> {
    cluster: C,
    main: Cache<R::Object>,
    reconciler: Arc<R>,
    metrics: Metrics,
    troubles: Mutex<HashMap<Key, Trouble>>,
}

#[derive(Clone, Debug)]
enum Trouble {
    Failing {
        failures: u32,
    },
    /// Not touched before `until`, unless the object is another state than the one that panicked.
    Quarantined {
        panics: u32,
        until: Instant,
        state: (Option<String>, Option<String>),
    },
}

impl<C: Cluster, R: Reconcile> Guarded<C, R> {
    async fn reconcile(&self, key: Key) -> Action {
        let Some(object) = self.main.get(&key) else {
            self.forget_trouble(&key);
            return Action::await_change();
        };
        let before = self.troubles().get(&key).cloned();
        if let Some(Trouble::Quarantined { until, state, .. }) = &before {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() && *state == state_of(&*object) {
                return Action::requeue(left);
            }
        }
        let run = async { self.reconciler.reconcile(object.clone()).await };
        let begun = Instant::now();
        let ran = caught_async(run).await;
        let ended = match &ran {
            Ok(Ok(_)) => Ended::Done,
            Ok(Err(failed)) if failed.source.is_conflict() => Ended::Conflict,
            Ok(Err(_)) => Ended::Failed,
            Err(_) => Ended::Panicked,
        };
        self.metrics.reconciled(R::NAME, ended, begun.elapsed());
        match ran {
            Ok(Ok(next)) => {
                if before.is_some() {
                    self.forget_trouble(&key);
                }
                match next {
                    Next::OnChange => Action::await_change(),
                    Next::After(delay) => Action::requeue(delay),
                }
            }
            Ok(Err(failed)) => self.failed(key, before, &failed),
            Err(panic) => self.panicked(key, before, &object, &panic),
        }
    }

    fn failed(&self, key: Key, before: Option<Trouble>, failed: &Failed) -> Action {
        let failures = match before {
            Some(Trouble::Failing { failures }) => failures.saturating_add(1),
            _ => 1,
        };
        let delay = retry::after_failures(failures);
        if failed.source.is_conflict() {
            // Somebody else wrote first: the cache will tell, nothing is wrong.
            debug!(controller = R::NAME, object = %key, %failed, "stale view");
        } else {
            warn!(controller = R::NAME, object = %key, %failed, failures, ?delay, "reconcile failed");
        }
        self.note_trouble(key, Trouble::Failing { failures });
        Action::requeue(delay)
    }

    fn panicked(
        &self,
        key: Key,
        before: Option<Trouble>,
        object: &R::Object,
        panic: &str,
    ) -> Action {
        let panics = match before {
            Some(Trouble::Quarantined { panics, .. }) => panics.saturating_add(1),
            _ => 1,
        };
        let delay = retry::after_panics(panics);
        error!(controller = R::NAME, object = %key, panic, panics, ?delay, "object quarantined");
        self.cluster.note(Note::quarantined(reference(object), R::NAME, panic, Some(delay)));
        let until = Instant::now() + delay;
        let state = state_of(object);
        self.note_trouble(key, Trouble::Quarantined { panics, until, state });
        Action::requeue(delay)
    }

    fn note_trouble(&self, key: Key, trouble: Trouble) {
        let is = matches!(trouble, Trouble::Quarantined { .. });
        let before = self.troubles().insert(key, trouble);
        if is || matches!(before, Some(Trouble::Quarantined { .. })) {
            self.count_quarantined();
        }
    }

    fn forget_trouble(&self, key: &Key) {
        let before = self.troubles().remove(key);
        if let Some(Trouble::Quarantined { .. }) = before {
            self.count_quarantined();
        }
    }

    fn count_quarantined(&self) {
        let troubles = self.troubles();
        let aside = troubles.values().filter(|one| matches!(one, Trouble::Quarantined { .. }));
        self.metrics.quarantined(R::NAME, aside.count());
    }

    fn troubles(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells one state of an object from another, as far as a controller's decision goes: the uid,
/// and the generation where the kind has one (a status write makes no difference), else the revision.
fn state_of<K: Object>(object: &K) -> (Option<String>, Option<String>) {
    let meta = object.metadata();
    let generation = meta.generation.map(|generation| generation.to_string());
    (meta.uid.clone(), generation.or_else(|| meta.resource_version.clone()))
}
