//! The loop: lists in, deletions out. It decides nothing.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::object::{
    ApiError, Change, Cluster, DeleteOptions, Key, Kind, Object, Patch, Propagation, Scope,
    reference_to,
};
use crate::reconcile::metrics::{Ended, Vitals};
use crate::reconcile::namespace::teardown::{Content, FINALIZER, Step, is_held, plan};
use crate::reconcile::quarantine::Quarantine;
use crate::task::{Tasks, caught_async};
use crate::with_kind;

const LOOP: &str = "namespace";
/// Where objects go that name no namespace: it always exists.
const DEFAULT: &str = "default";
/// After a pass that did something: what comes next may be ready.
const SOON: Duration = Duration::from_millis(100);
/// While content ends by itself, and after a failure: pods take their grace.
const PATIENTLY: Duration = Duration::from_secs(1);
/// How often an idle loop says that it is alive.
const BEAT: Duration = Duration::from_secs(2);
/// Deletions under way at once.
const IN_FLIGHT: usize = 32;

/// Starts the loop, until the stop signal.
pub fn run<C: Cluster>(cluster: C, vitals: Vitals, clock: Clock, tasks: &Tasks) {
    let stop = tasks.stop().clone();
    vitals.metrics.follow(LOOP);
    let namespaces = Namespaces {
        cluster,
        clock,
        names: BTreeMap::new(),
        known: false,
        going: BTreeMap::new(),
        failures: BTreeMap::new(),
        quarantine: Quarantine::default(),
    };
    tasks.spawn(LOOP, async move {
        // Cancel safe: every write carries its preconditions and the next start looks anew.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = namespaces.follow(vitals) => {}
        }
    });
}

struct Namespaces<C> {
    cluster: C,
    clock: Clock,
    /// With the uid of each.
    names: BTreeMap<String, String>,
    /// Whether the first whole state has arrived.
    known: bool,
    /// When to look again at a namespace that is to go.
    going: BTreeMap<String, Instant>,
    /// What failed in a namespace's last pass.
    failures: BTreeMap<String, Vec<String>>,
    quarantine: Quarantine,
}

impl<C: Cluster> Namespaces<C> {
    async fn follow(mut self, vitals: Vitals) {
        let mut changes = pin!(self.cluster.watch::<Namespace>(Scope::all()).fuse());
        loop {
            let next = self.going.values().min().copied();
            let wake_at = next.unwrap_or_else(|| Instant::now() + BEAT).min(Instant::now() + BEAT);
            // All cancel safe: a stream's next takes nothing before it is ready.
            tokio::select! {
                biased;
                Some(change) = changes.next() => self.see(change),
                () = tokio::time::sleep_until(wake_at) => {}
            }
            while let Some(Some(change)) = changes.next().now_or_never() {
                self.see(change);
            }
            if self.known && !self.names.contains_key(DEFAULT) {
                self.make_default().await;
            }
            let now = Instant::now();
            let due = self.going.iter().filter(|(_, at)| **at <= now);
            for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                let begun = Instant::now();
                let (ended, pause) = match caught_async(self.pass(&name)).await {
                    Ok(pause) if self.has_failed(&name) => (Ended::Failed, pause),
                    Ok(pause) => (Ended::Done, pause),
                    Err(panic) => (Ended::Panicked, Some(self.set_aside(&name, &panic))),
                };
                vitals.metrics.reconciled(LOOP, ended, begun.elapsed());
                match pause {
                    Some(pause) => self.going.insert(name, Instant::now() + pause),
                    None => self.going.remove(&name),
                };
            }
            vitals.metrics.quarantined(LOOP, self.quarantine.held());
            vitals.metrics.queued(LOOP, self.going.len());
            vitals.beat(LOOP);
        }
    }

    fn see(&mut self, change: Change<Arc<Namespace>>) {
        match change {
            Change::Reset(namespaces) => {
                self.names.clear();
                self.going.clear();
                for namespace in &namespaces {
                    self.take(namespace);
                }
                self.known = true;
            }
            Change::Applied(namespace) => self.take(&namespace),
            Change::Deleted(namespace) => {
                let name = namespace.key().name;
                self.names.remove(&name);
                self.going.remove(&name);
                self.failures.remove(&name);
            }
        }
    }

    fn take(&mut self, namespace: &Arc<Namespace>) {
        let name = namespace.key().name;
        if namespace.metadata.deletion_timestamp.is_some() && is_held(namespace) {
            // Our own writes of its conditions come by here too: they must not hurry the pass.
            self.going.entry(name.clone()).or_insert_with(Instant::now);
        }
        self.names.insert(name, namespace.uid().to_owned());
    }

    /// Whether something failed in its last pass.
    fn has_failed(&self, name: &str) -> bool {
        self.failures.get(name).is_some_and(|failed| !failed.is_empty())
    }

    /// Its end waits; every other namespace's goes on.
    fn set_aside(&mut self, name: &str, panic: &str) -> Duration {
        let uid = self.names.get(name).map(String::as_str).unwrap_or_default();
        let about = reference_to(Kind::Namespace, &Key::cluster(name), uid);
        self.quarantine.set_aside(&self.cluster, about, LOOP, panic)
    }

    async fn make_default(&mut self) {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(DEFAULT.to_owned());
        match self.cluster.create(&namespace).await {
            Ok(_) => info!(namespace = DEFAULT, "namespace created"),
            Err(error) if error.is_already_exists() => {}
            Err(error) => {
                warn!(namespace = DEFAULT, %error, "creating a namespace failed");
                return;
            }
        }
        // The watch tells its uid.
        self.names.insert(DEFAULT.to_owned(), String::new());
    }

    /// One pass over a namespace that is to go; answers how long the next one waits, `None` when
    /// there is none.
    async fn pass(&mut self, name: &str) -> Option<Duration> {
        let key = Key::cluster(name);
        let namespace = match self.cluster.get::<Namespace>(&key).await {
            Ok(namespace) => namespace,
            Err(error) if error.is_not_found() => return None,
            Err(error) => {
                warn!(namespace = name, %error, "reading a namespace failed");
                return Some(PATIENTLY);
            }
        };
        // A failed deletion of the last pass is said, but what holds up the end is a failed list.
        let (content, mut failures) = list(&self.cluster, name).await;
        let unread = !failures.is_empty();
        if !content.is_empty() {
            failures.extend(self.failures.remove(name).unwrap_or_default());
        }
        let steps = plan(&namespace, &content, &failures, self.clock.now());
        if steps.is_empty() {
            debug!(namespace = name, left = content.len(), "namespace waits for its content");
            return is_held(&namespace).then_some(PATIENTLY);
        }
        let failed = perform(&self.cluster, &namespace, steps).await;
        let pause = if failed.is_empty() && !unread { SOON } else { PATIENTLY };
        self.failures.insert(name.to_owned(), failed);
        Some(pause)
    }
}

/// Everything in a namespace, and what could not be listed.
async fn list<C: Cluster>(cluster: &C, namespace: &str) -> (Vec<Content>, Vec<String>) {
    let scope = Scope::namespace(namespace);
    let (mut content, mut failures) = (Vec::new(), Vec::new());
    for kind in Kind::all().filter(|kind| kind.row().namespaced) {
        with_kind!(kind, K => {
            let of = |object: &Arc<K>| Content {
                kind,
                key: object.key(),
                uid: object.uid().to_owned(),
                deleting: object.metadata.deletion_timestamp.is_some(),
                finalizers: object.metadata.finalizers.clone().unwrap_or_default(),
            };
            match cluster.list_keeping::<K, _>(&scope, of).await {
                Ok(found) => content.extend(found),
                Err(error) => failures.push(format!("{}: {error}", kind.row().plural)),
            }
        });
    }
    (content, failures)
}

/// Carries the steps out; answers what failed.
async fn perform<C: Cluster>(cluster: &C, namespace: &Namespace, steps: Vec<Step>) -> Vec<String> {
    let done = stream::iter(steps).map(|step| async move {
        let (what, done) = match &step {
            Step::Delete { kind, key, uid } => {
                let options = DeleteOptions {
                    uid: Some(uid.clone()),
                    propagation: Some(Propagation::Background),
                    ..DeleteOptions::default()
                };
                let done = with_kind!(*kind, K => cluster.delete::<K>(key, &options).await);
                (format!("{} {}", kind.row().plural, key.name), done)
            }
            Step::SetConditions(conditions) => {
                let patch = json!({
                    "metadata": {"uid": namespace.uid()},
                    "status": {"conditions": conditions},
                });
                let patch = Patch::Merge(patch);
                let done = cluster.patch_status::<Namespace>(&namespace.key(), &patch).await;
                ("conditions".to_owned(), done.map(|_| ()))
            }
            Step::Finalize => ("finalizers".to_owned(), finalize(cluster, namespace).await),
        };
        match done {
            Ok(()) => None,
            // Gone already, or changed meanwhile: the next pass looks anew.
            Err(error) if error.is_not_found() || error.is_conflict() => None,
            Err(error) => {
                warn!(namespace = %namespace.key(), what, %error, "emptying a namespace failed");
                Some(format!("{what}: {error}"))
            }
        }
    });
    let failed: Vec<Option<String>> = done.buffer_unordered(IN_FLIGHT).collect().await;
    failed.into_iter().flatten().collect()
}

/// Takes our finalizer off this very state of the namespace: it ends.
async fn finalize<C: Cluster>(cluster: &C, namespace: &Namespace) -> Result<(), ApiError> {
    let mut ending = namespace.clone();
    if let Some(finalizers) = ending.spec.get_or_insert_default().finalizers.as_mut() {
        finalizers.retain(|name| name != FINALIZER);
    }
    cluster.update(&ending).await?;
    info!(namespace = %namespace.key(), "namespace ended");
    Ok(())
}
