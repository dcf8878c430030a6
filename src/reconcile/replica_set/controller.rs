//! Observes the caches, performs the plan, reports the status of one ReplicaSet.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tracing::info;

use crate::clock::Clock;
use crate::object::selector::Selector;
use crate::object::{ApiError, Cluster, DeleteOptions, Key, Note, Object, Patch};
use crate::reconcile::adoption::settle;
use crate::reconcile::claim::claims;
use crate::reconcile::engine::{Engine, Failed, Next, Reconcile};
use crate::reconcile::expectation::Expectation;
use crate::reconcile::kept::{Kept, revision_of};
use crate::reconcile::metrics::Vitals;
use crate::reconcile::owner::{controller_key, controller_of};
use crate::reconcile::pod_outline::PodOutline;
use crate::reconcile::pod_state::is_active;
use crate::reconcile::replica_set::deletion_rank::neighbours;
use crate::reconcile::replica_set::plan::{Deletion, MOST_REST, Plan, plan, rest, wanted};
use crate::reconcile::replica_set::pod_template::pod_of;
use crate::reconcile::replica_set::status::{Attempt, ReplicaFailure, report};
use crate::reconcile::watches::Watches;
use crate::task::Tasks;

/// Writes under way at the same time: enough to fill one group commit of the store.
const WRITES: usize = 64;

/// Starts the controller, until the stop signal.
pub fn run<C: Cluster>(cluster: C, watches: &Watches, vitals: Vitals, clock: Clock, tasks: &Tasks) {
    let replica_sets = watches.replica_sets.clone();
    let owners = watches.pods.waking(move |pod: &PodOutline| match pod.facts().controller() {
        Some(_) => controller_key::<ReplicaSet>(pod).into_iter().collect(),
        None => {
            // An orphan concerns every ReplicaSet that would adopt it.
            let all = replica_sets.in_namespace(&pod.namespace).into_iter();
            all.filter(|candidate| {
                selector_of(candidate).is_some_and(|selector| selector.matches(&pod.labels))
            })
            .map(|candidate| candidate.key())
            .collect::<Vec<Key>>()
        }
    });
    let reconciler = ReplicaSets {
        cluster: cluster.clone(),
        watches: watches.clone(),
        clock,
        expectations: Mutex::default(),
        resting: Mutex::default(),
    };
    Engine::new(&watches.replica_sets, vitals)
        .needs(&watches.pods)
        .wake(owners)
        .run(cluster, tasks, reconciler);
}

/// `None` where the selector selects everything or is none: such a ReplicaSet owns nothing
/// (admission refuses it).
fn selector_of(replica_set: &ReplicaSet) -> Option<Selector> {
    let selector = Selector::of_label_selector(&replica_set.spec.as_ref()?.selector).ok()?;
    (!selector.is_everything()).then_some(selector)
}

struct ReplicaSets<C> {
    cluster: C,
    watches: Watches,
    clock: Clock,
    expectations: Mutex<HashMap<Key, Expectation>>,
    /// Until when a ReplicaSet of many pods is left alone, see [`rest`].
    resting: Mutex<HashMap<Key, Timestamp>>,
}

impl<C: Cluster> Reconcile for ReplicaSets<C> {
    type Object = ReplicaSet;

    const NAME: &'static str = "replicaset-controller";

    async fn reconcile(&self, replica_set: Arc<ReplicaSet>) -> Result<Next, Failed> {
        let now = self.clock.now();
        let key = replica_set.key();
        let until = self.resting().get(&key).copied();
        // A rest that is longer than any was begun before somebody turned the clock back.
        let until = until.filter(|until| until.duration_since(now) <= MOST_REST);
        let at = |time: Option<Timestamp>| match time {
            Some(time) => Next::at(time, now),
            None => Next::OnChange,
        };
        if until.is_some_and(|until| now < until) {
            return Ok(at(until));
        }
        let waiting = self.waiting(&key, now);
        let pods = self.observe(&replica_set).await?;
        let performed = match waiting {
            Some(_) => Ok(false),
            None => self.perform(&replica_set, &pods, now).await,
        };
        let attempt = match &performed {
            // The ReplicaSet is gone or going, and the cache does not show it yet: nothing has failed.
            Err(failed) if failed.source.is_conflict() => Attempt::Waited,
            Err(failed) => Attempt::Failed(failure(&replica_set, &pods, failed)),
            Ok(_) if waiting.is_some() => Attempt::Waited,
            Ok(_) => Attempt::Succeeded,
        };
        let leaving = self.leaving(&key);
        let reported = report(&replica_set, &pods, &leaving, &attempt, now);
        self.report(&replica_set, &reported.status).await?;
        let changed = performed?;
        match rest(pods.len()).filter(|_| !changed) {
            Some(rest) => self.resting().insert(key, self.clock.now() + rest),
            None => self.resting().remove(&key),
        };
        Ok(at(reported.next_available).or(at(waiting)))
    }

    fn forget(&self, key: &Key) {
        self.expectations().remove(key);
        self.resting().remove(key);
    }
}

impl<C: Cluster> ReplicaSets<C> {
    /// Until when nothing may be planned: the cache does not show our last pass yet.
    fn waiting(&self, key: &Key, now: Timestamp) -> Option<Timestamp> {
        let mut expectations = self.expectations();
        let expected = expectations.get(key)?;
        let pods = &self.watches.pods;
        let is_leaving = |key: &Key, uid: &str| {
            pods.get(key).is_none_or(|pod| *pod.uid != *uid || pod.is_deleting)
        };
        if expected.is_met(|revision| pods.has_seen(revision), is_leaving, now) {
            expectations.remove(key);
            return None;
        }
        Some(expected.expires())
    }

    /// The uids of pods that were deleted but may still look alive in the cache.
    fn leaving(&self, key: &Key) -> BTreeSet<String> {
        let expectations = self.expectations();
        let deleted = expectations.get(key).map(|expected| expected.deleted.keys().cloned());
        deleted.into_iter().flatten().collect()
    }

    /// Every pod that is the ReplicaSet's, in any state.
    async fn observe(&self, replica_set: &ReplicaSet) -> Result<Vec<Arc<PodOutline>>, Failed> {
        let Some(selector) = selector_of(replica_set) else { return Ok(Vec::new()) };
        let pods = &self.watches.pods;
        let mut candidates = pods.owned_by(replica_set.uid());
        let namespace = replica_set.metadata.namespace.as_deref().unwrap_or_default();
        candidates.extend(pods.orphans_of(namespace));
        settle(&self.cluster, replica_set, claims(replica_set, &selector, candidates)).await
    }

    /// Whether it created or deleted anything.
    async fn perform(
        &self,
        replica_set: &ReplicaSet,
        pods: &[Arc<PodOutline>],
        now: Timestamp,
    ) -> Result<bool, Failed> {
        let surplus = pods.len() > wanted(replica_set);
        let related = if surplus { self.related(replica_set) } else { Vec::new() };
        let neighbours = neighbours(related.iter().map(|pod| &**pod));
        let mut expected = Expectation::new(now);
        let result = match plan(replica_set, pods, &neighbours, now) {
            Plan::Nothing => Ok(()),
            Plan::Create { batches, reason } => {
                self.create(replica_set, batches, &reason, &mut expected).await
            }
            Plan::Delete(deletions) => self.delete(replica_set, deletions, &mut expected).await,
        };
        let changed = !expected.is_empty();
        if changed {
            self.expectations().insert(replica_set.key(), expected);
        }
        result.map(|()| changed)
    }

    /// The pods of every ReplicaSet of the same owner, for the rule of doubled-up pods.
    fn related(&self, replica_set: &ReplicaSet) -> Vec<Arc<PodOutline>> {
        let pods = &self.watches.pods;
        match controller_of(&replica_set.metadata) {
            None => pods.owned_by(replica_set.uid()),
            Some(owner) => {
                let siblings = self.watches.replica_sets.owned_by(&owner.uid).into_iter();
                siblings.flat_map(|sibling| pods.owned_by(sibling.uid())).collect()
            }
        }
    }

    /// Batch after batch; the first with a failure is the last.
    async fn create(
        &self,
        replica_set: &ReplicaSet,
        batches: Vec<usize>,
        reason: &str,
        expected: &mut Expectation,
    ) -> Result<(), Failed> {
        let Some(pod) = pod_of(replica_set) else { return Ok(()) };
        for batch in batches {
            let writes = stream::iter(0..batch).map(|_| {
                let (cluster, pod) = (self.cluster.clone(), pod.clone());
                async move { cluster.create(&pod).await }
            });
            let results: Vec<Result<Arc<Pod>, ApiError>> =
                writes.buffer_unordered(WRITES).collect().await;
            let mut failed = None;
            for result in results {
                match result {
                    Ok(created) => {
                        expected.written = expected.written.max(revision_of(&*created));
                        let pod = created.key().name;
                        info!(replica_set = %replica_set.key(), pod, reason, "pod created");
                        let message = format!("Created pod: {pod}");
                        self.note(Note::normal, replica_set, "SuccessfulCreate", message);
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(source) = failed {
                if !source.is_conflict() {
                    let message = format!("Error creating: {source}");
                    self.note(Note::warning, replica_set, "FailedCreate", message);
                }
                return Err(Failed { step: "create pod", source });
            }
        }
        Ok(())
    }

    async fn delete(
        &self,
        replica_set: &ReplicaSet,
        deletions: Vec<Deletion>,
        expected: &mut Expectation,
    ) -> Result<(), Failed> {
        let writes = stream::iter(deletions).map(|deletion| {
            let cluster = self.cluster.clone();
            async move {
                let options =
                    DeleteOptions { uid: Some(deletion.uid.clone()), ..DeleteOptions::default() };
                let result = cluster.delete::<Pod>(&deletion.key, &options).await;
                (deletion, result)
            }
        });
        let results: Vec<(Deletion, Result<(), ApiError>)> =
            writes.buffer_unordered(WRITES).collect().await;
        let mut failed = None;
        for (Deletion { key, uid, reason }, result) in results {
            match result {
                Ok(()) => {
                    info!(replica_set = %replica_set.key(), pod = key.name, reason, "pod deleted");
                    let message = format!("Deleted pod: {}", key.name);
                    self.note(Note::normal, replica_set, "SuccessfulDelete", message);
                    expected.deleted.insert(uid, key);
                }
                // Gone already; a conflict says that the name is another incarnation's now.
                Err(error) if error.is_not_found() || error.is_conflict() => {
                    expected.deleted.insert(uid, key);
                }
                Err(source) => failed = Some(Failed { step: "delete pod", source }),
            }
        }
        if let Some(failed) = &failed {
            let message = format!("Error deleting: {}", failed.source);
            self.note(Note::warning, replica_set, "FailedDelete", message);
        }
        failed.map_or(Ok(()), Err)
    }

    fn note(
        &self,
        make: fn(&ReplicaSet, &'static str, &'static str, String) -> Note,
        about: &ReplicaSet,
        reason: &'static str,
        message: String,
    ) {
        self.cluster.note(make(about, Self::NAME, reason, message));
    }

    /// Nobody else writes this status and every pass is made of a later view than the one before, so
    /// that the uid is precondition enough; `null` takes a field away that is not in the new status.
    async fn report(
        &self,
        replica_set: &ReplicaSet,
        status: &k8s_openapi::api::apps::v1::ReplicaSetStatus,
    ) -> Result<(), Failed> {
        if replica_set.status.as_ref() == Some(status) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({
            "metadata": {"uid": replica_set.metadata.uid},
            "status": {
                "replicas": status.replicas,
                "fullyLabeledReplicas": status.fully_labeled_replicas,
                "readyReplicas": status.ready_replicas,
                "availableReplicas": status.available_replicas,
                "terminatingReplicas": status.terminating_replicas,
                "observedGeneration": status.observed_generation,
                "conditions": status.conditions,
            },
        }));
        match self.cluster.patch_status::<ReplicaSet>(&replica_set.key(), &patch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(source) => Err(Failed { step: "write the status", source }),
        }
    }

    fn expectations(&self) -> MutexGuard<'_, HashMap<Key, Expectation>> {
        self.expectations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<Key, Timestamp>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(replica_set: &ReplicaSet, pods: &[Arc<PodOutline>], failed: &Failed) -> ReplicaFailure {
    let active = pods.iter().filter(|pod| is_active(pod)).count();
    let reason = if active < wanted(replica_set) { "FailedCreate" } else { "FailedDelete" };
    ReplicaFailure { reason, message: failed.source.to_string() }
}
