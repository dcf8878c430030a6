//! The loop: metadata of all kinds in, steps performed. It decides nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::object::{
    ApiError, Change, Cluster, DeleteOptions, Key, Kind, Note, Patch, Scope, Severity, reference_to,
};
use crate::reconcile::garbage::collection::{Action, Owner, Sight, Step, plan, sight};
use crate::reconcile::garbage::graph::{Graph, Shared, Vertex};
use crate::reconcile::metrics::{Ended, Vitals};
use crate::reconcile::quarantine::Quarantine;
use crate::reconcile::retry;
use crate::task::{Tasks, caught, caught_async};
use crate::with_kind;

const LOOP: &str = "garbage collector";
/// Objects looked at at the same time; they mostly wait for durable writes
/// (kube-controller-manager `concurrent-gc-syncs`: 20).
const IN_FLIGHT: usize = 32;
/// Everything that is owned is looked at again this often, whatever the watches say.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// How often an idle collector says that it is alive.
const BEAT: Duration = Duration::from_secs(2);
/// Changes taken from the watches before the next objects are looked at.
const CHANGES: usize = 1024;

/// Starts the collector, until the stop signal.
pub fn run<C: Cluster>(cluster: C, vitals: Vitals, tasks: &Tasks) {
    let stop = tasks.stop().clone();
    vitals.metrics.follow(LOOP);
    let collector = Collector {
        cluster,
        vitals,
        graph: Graph::default(),
        unknown: followed().collect(),
        dirty: BTreeSet::new(),
        looking: HashSet::new(),
        failures: HashMap::new(),
        later: BTreeSet::new(),
        quarantine: Quarantine::default(),
    };
    tasks.spawn(LOOP, async move {
        // Cancel safe: every write carries its preconditions and the next start looks anew.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = collector.follow() => {}
        }
    });
}

/// Events are nobody's and many.
fn followed() -> impl Iterator<Item = Kind> {
    Kind::all().filter(|kind| *kind != Kind::Event)
}

enum Seen {
    Reset(Kind, Vec<Vertex>),
    Applied(Vertex),
    Deleted(Arc<str>),
}

struct Collector<C> {
    cluster: C,
    vitals: Vitals,
    graph: Graph,
    /// Kinds whose first whole state has not arrived: until then nobody is judged.
    unknown: HashSet<Kind>,
    dirty: BTreeSet<Arc<str>>,
    looking: HashSet<Arc<str>>,
    /// How often in a row a look failed.
    failures: HashMap<Arc<str>, u32>,
    later: BTreeSet<(Instant, Arc<str>)>,
    quarantine: Quarantine,
}

/// The end of one look: at what, and what came of it, or what the panic said.
type Looked = (ObjectReference, Result<Result<(), ApiError>, String>);

impl<C: Cluster> Collector<C> {
    async fn follow(mut self) {
        let mut seen: SelectAll<BoxStream<'static, Seen>> =
            followed().map(|kind| watch(&self.cluster, kind)).collect();
        let mut looks: FuturesUnordered<BoxFuture<'static, Looked>> = FuturesUnordered::new();
        let mut everything_at = Instant::now() + LOOK_AGAIN;
        loop {
            let wake_at = self.later.first().map_or(everything_at, |(due, _)| *due);
            let wake_at = wake_at.min(everything_at).min(Instant::now() + BEAT);
            // All cancel safe: a stream's next takes nothing before it is ready.
            tokio::select! {
                biased;
                // Before the changes, which may never pause and are taken below too.
                Some(looked) = looks.next() => self.settle(looked),
                Some(change) = seen.next() => self.see(change),
                () = tokio::time::sleep_until(wake_at) => {}
            }
            for _ in 0..CHANGES {
                let Some(Some(change)) = seen.next().now_or_never() else { break };
                self.see(change);
            }
            let now = Instant::now();
            if everything_at <= now {
                self.dirty.extend(self.graph.all().cloned());
                everything_at = now + LOOK_AGAIN;
            }
            while self.later.first().is_some_and(|(due, _)| *due <= now) {
                self.dirty.extend(self.later.pop_first().map(|(_, uid)| uid));
            }
            while looks.len() < IN_FLIGHT {
                let Some(look) = self.next_look() else { break };
                looks.push(look);
            }
            self.vitals.metrics.quarantined(LOOP, self.quarantine.held());
            self.vitals.metrics.queued(LOOP, self.dirty.len());
            self.vitals.beat(LOOP);
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Reset(kind, vertices) => {
                let here: HashSet<&str> = vertices.iter().map(|v| &*v.uid).collect();
                let known = self.graph.of_kind(kind);
                let gone: Vec<Arc<str>> =
                    known.filter(|uid| !here.contains(&***uid)).cloned().collect();
                for uid in gone {
                    self.dirty.extend(self.graph.remove(&uid));
                }
                for vertex in vertices {
                    self.dirty.extend(self.graph.apply(vertex));
                }
                self.unknown.remove(&kind);
            }
            Seen::Applied(vertex) => self.dirty.extend(self.graph.apply(vertex)),
            Seen::Deleted(uid) => {
                self.dirty.extend(self.graph.remove(&uid));
                self.failures.remove(&uid);
            }
        }
    }

    /// The next object that something may have to be done about.
    fn next_look(&mut self) -> Option<BoxFuture<'static, Looked>> {
        if !self.unknown.is_empty() {
            return None;
        }
        let candidates = self.dirty.iter().filter(|uid| !self.looking.contains(*uid));
        let (mut idle, mut found) = (Vec::new(), None);
        for uid in candidates {
            match caught(|| sight(&self.graph, uid)) {
                Ok(None) => idle.push(uid.clone()),
                Ok(Some(sight)) => {
                    found = Some(Ok(sight));
                    break;
                }
                Err(panic) => {
                    found = Some(Err((uid.clone(), panic)));
                    break;
                }
            }
        }
        for uid in idle {
            self.dirty.remove(&uid);
        }
        let sight = match found? {
            Ok(sight) => sight,
            Err((uid, panic)) => {
                self.dirty.remove(&uid);
                self.vitals.metrics.reconciled(LOOP, Ended::Panicked, Duration::ZERO);
                let about = self
                    .graph
                    .get(&uid)
                    .map(|vertex| reference_to(vertex.kind, &vertex.key, &vertex.uid));
                let panicked = (about.unwrap_or_default(), Err(panic));
                return Some(std::future::ready(panicked).boxed());
            }
        };
        let about = reference_to(sight.kind, &sight.key, &sight.uid);
        self.dirty.remove(&sight.uid);
        self.looking.insert(sight.uid.clone());
        let (cluster, metrics) = (self.cluster.clone(), self.vitals.metrics.clone());
        let looking = async move {
            let begun = Instant::now();
            let looked = caught_async(look(&cluster, &sight)).await;
            let ended = match &looked {
                Ok(Ok(())) => Ended::Done,
                Ok(Err(failure)) if failure.is_conflict() => Ended::Conflict,
                Ok(Err(_)) => Ended::Failed,
                Err(_) => Ended::Panicked,
            };
            metrics.reconciled(LOOP, ended, begun.elapsed());
            (about, looked)
        };
        Some(looking.boxed())
    }

    fn settle(&mut self, (about, looked): Looked) {
        let uid: Arc<str> = about.uid.as_deref().unwrap_or_default().into();
        self.looking.remove(&uid);
        let delay = match looked {
            Ok(Ok(())) => {
                self.failures.remove(&uid);
                return;
            }
            Ok(Err(failure)) => {
                let failures = self.count_failure(&uid);
                if failure.is_conflict() {
                    debug!(uid = &*uid, error = %failure, "object changed meanwhile");
                } else {
                    warn!(uid = &*uid, error = %failure, "collecting an object failed");
                }
                retry::after_failures(failures)
            }
            Err(panic) => {
                self.quarantine.set_aside(&self.cluster, about, "garbage-collector", &panic)
            }
        };
        self.later.insert((Instant::now() + delay, uid));
    }

    fn count_failure(&mut self, uid: &Arc<str>) -> u32 {
        let failures = self.failures.entry(uid.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        *failures
    }
}

fn watch<C: Cluster>(cluster: &C, kind: Kind) -> BoxStream<'static, Seen> {
    // Of a kind: another's objects have other owners. One task takes from the watch, so nobody waits.
    let shared = Mutex::new(Shared::default());
    with_kind!(kind, K => {
        cluster
            .watch_keeping::<K, Vertex>(Scope::all(), move |object| {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                Vertex::of(kind, &object.metadata, &mut shared)
            })
            .map(move |change| match change {
                Change::Reset(vertices) => Seen::Reset(kind, vertices),
                Change::Applied(vertex) => Seen::Applied(vertex),
                Change::Deleted(vertex) => Seen::Deleted(vertex.uid),
            })
            .boxed()
    })
}

/// Asks what must be asked, decides, performs.
async fn look<C: Cluster>(cluster: &C, sight: &Sight) -> Result<(), ApiError> {
    for sentence in &sight.invalid {
        cluster.note(invalid_owner(sight, sentence));
    }
    let Some(item) = read(cluster, sight.kind, &sight.key).await? else { return Ok(()) };
    if item.uid != sight.uid {
        return Ok(());
    }
    let mut owners = sight.owners.clone();
    for question in &sight.questions {
        let answer = match read(cluster, question.kind, &question.key).await? {
            Some(owner) if *owner.uid != *question.uid => Owner::Absent,
            Some(owner) if owner.awaits_dependents() => Owner::Waiting,
            Some(_) => Owner::Present,
            None => Owner::Absent,
        };
        owners.insert(question.uid.clone(), answer);
    }
    let dependents =
        if sight.list_dependents { list_dependents(cluster, sight).await? } else { Vec::new() };
    for step in plan(&item, &owners, sight, &dependents) {
        perform(cluster, &step).await?;
    }
    Ok(())
}

async fn read<C: Cluster>(cluster: &C, kind: Kind, key: &Key) -> Result<Option<Vertex>, ApiError> {
    with_kind!(kind, K => match cluster.get::<K>(key).await {
        Ok(object) => Ok(Some(Vertex::of(kind, &object.metadata, &mut Shared::default()))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    })
}

/// Every object that names the one in sight as owner, read uncached.
async fn list_dependents<C: Cluster>(cluster: &C, sight: &Sight) -> Result<Vec<Vertex>, ApiError> {
    let (mut dependents, mut shared) = (Vec::new(), Shared::default());
    for kind in followed() {
        let scope = match sight.key.namespace.as_str() {
            "" => Scope::all(),
            namespace if kind.row().namespaced => Scope::namespace(namespace),
            // A cluster-scoped object cannot have a namespaced owner.
            _ => continue,
        };
        with_kind!(kind, K => {
            let of_ours = |object: &Arc<K>| {
                let vertex = Vertex::of(kind, &object.metadata, &mut shared);
                vertex.is_owned_by(&sight.uid).then_some(vertex)
            };
            let found = cluster.list_keeping::<K, _>(&scope, of_ours).await?;
            dependents.extend(found.into_iter().flatten());
        });
    }
    Ok(dependents)
}

async fn perform<C: Cluster>(cluster: &C, step: &Step) -> Result<(), ApiError> {
    let (kind, key) = (step.kind, &step.key);
    let done = match &step.action {
        Action::Delete(propagation) => {
            let options = DeleteOptions {
                uid: Some(step.uid.to_string()),
                resource_version: step.revision.map(|revision| revision.to_string()),
                propagation: Some(*propagation),
                grace_seconds: None,
            };
            with_kind!(kind, K => cluster.delete::<K>(key, &options).await)
        }
        Action::SetOwners(owners) => {
            patch(cluster, step, json!({"ownerReferences": or_null(json!(owners))})).await
        }
        Action::SetFinalizers(finalizers) => {
            patch(cluster, step, json!({"finalizers": or_null(json!(finalizers))})).await
        }
    };
    match done {
        Ok(()) => {
            let what = match &step.action {
                Action::Delete(_) => "delete",
                Action::SetOwners(_) => "set owners",
                Action::SetFinalizers(_) => "set finalizers",
            };
            info!(%kind, object = %key, step = what, reason = step.reason, "object collected");
            Ok(())
        }
        // Somebody was faster: what was wanted is so.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// An empty list is an absent field.
fn or_null(list: Value) -> Value {
    if list.as_array().is_some_and(Vec::is_empty) { Value::Null } else { list }
}

async fn patch<C: Cluster>(cluster: &C, step: &Step, mut metadata: Value) -> Result<(), ApiError> {
    metadata["uid"] = json!(&*step.uid);
    if let Some(revision) = step.revision {
        metadata["resourceVersion"] = json!(revision.to_string());
    }
    let patch = Patch::Merge(json!({"metadata": metadata}));
    with_kind!(step.kind, K => cluster.patch::<K>(&step.key, &patch).await.map(|_| ()))
}

fn invalid_owner(sight: &Sight, sentence: &str) -> Note {
    Note {
        about: reference_to(sight.kind, &sight.key, &sight.uid),
        severity: Severity::Warning,
        reason: "OwnerRefInvalidNamespace",
        message: sentence.to_owned(),
        component: "garbage-collector",
    }
}
