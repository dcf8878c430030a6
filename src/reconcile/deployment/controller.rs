//! Observes the caches, performs the plan, reports the status of one Deployment.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use serde_json::{Map, Value, json};
use tracing::{debug, info};

use crate::clock::Clock;
use crate::object::selector::Selector;
use crate::object::{Cluster, DeleteOptions, Key, Note, Object, Patch};
use crate::reconcile::adoption::settle;
use crate::reconcile::claim::claims;
use crate::reconcile::deployment::fenceposts::{Strategy, Wanted};
use crate::reconcile::deployment::revision::{REVISION, Sets, same_template};
use crate::reconcile::deployment::rollout_plan::{
    Adjustment, RolloutPlan, Scale, Step, View, plan,
};
use crate::reconcile::deployment::status::{Occurred, report};
use crate::reconcile::engine::{Engine, Failed, Next, Reconcile};
use crate::reconcile::expectation::Expectation;
use crate::reconcile::kept::revision_of;
use crate::reconcile::metrics::Vitals;
use crate::reconcile::owner::{controller_key, controller_of};
use crate::reconcile::pod_state::is_finished;
use crate::reconcile::watches::Watches;
use crate::task::Tasks;

/// Starts the controller, until the stop signal.
pub fn run<C: Cluster>(cluster: C, watches: &Watches, vitals: Vitals, clock: Clock, tasks: &Tasks) {
    let deployments = watches.deployments.clone();
    let owners = watches.replica_sets.waking(move |set: &ReplicaSet| {
        match controller_of(&set.metadata) {
            Some(_) => controller_key::<Deployment>(set).into_iter().collect(),
            None => {
                // An orphan concerns every Deployment that would adopt it.
                let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
                let all = deployments.in_namespace(namespace).into_iter();
                all.filter(|candidate| {
                    selector_of(candidate).is_some_and(|selector| {
                        selector.matches_optional(set.metadata.labels.as_ref())
                    })
                })
                .map(|candidate| candidate.key())
                .collect::<Vec<Key>>()
            }
        }
    });
    let reconciler = Deployments {
        cluster: cluster.clone(),
        watches: watches.clone(),
        clock,
        expectations: Mutex::default(),
    };
    Engine::new(&watches.deployments, vitals)
        .needs(&watches.replica_sets)
        .needs(&watches.pods)
        .wake(owners)
        .run(cluster, tasks, reconciler);
}

/// `None` where the selector selects everything or is none.
fn selector_of(deployment: &Deployment) -> Option<Selector> {
    let selector = Selector::of_label_selector(&deployment.spec.as_ref()?.selector).ok()?;
    (!selector.is_everything()).then_some(selector)
}

/// What the last pass wrote, of both kinds.
#[derive(Clone, Debug)]
struct Written {
    replica_sets: Expectation,
    /// The revision of the Deployment's own last write; 0 for none.
    deployment: u64,
}

struct Deployments<C> {
    cluster: C,
    watches: Watches,
    clock: Clock,
    expectations: Mutex<HashMap<Key, Written>>,
}

impl<C: Cluster> Reconcile for Deployments<C> {
    type Object = Deployment;

    const NAME: &'static str = "deployment-controller";

    async fn reconcile(&self, deployment: Arc<Deployment>) -> Result<Next, Failed> {
        let now = self.clock.now();
        if let Some(expires) = self.waiting(&deployment.key(), now) {
            return Ok(Next::at(expires, now));
        }
        let Some(selector) = selector_of(&deployment) else {
            return self.selects_everything(&deployment).await;
        };
        let mut sets = self.observe(&deployment, &selector).await?;
        let running = self.running(&deployment, &sets);
        let decided =
            plan(&View { deployment: &deployment, replica_sets: &sets, running: &running });
        if let Some(waits_for) = &decided.waits_for {
            debug!(deployment = %deployment.key(), waits_for, "rollout waits");
        }
        let mut written = Written { replica_sets: Expectation::new(now), deployment: 0 };
        let performed = self.perform(&deployment, &decided, &mut sets, &mut written).await;
        let reported = match &performed {
            Ok(occurred) | Err((occurred, _)) => {
                self.report(
                    &deployment,
                    &sets,
                    occurred,
                    decided.judges_progress,
                    now,
                    &mut written,
                )
                .await
            }
        };
        if !written.replica_sets.is_empty() || written.deployment > 0 {
            self.expectations().insert(deployment.key(), written);
        }
        performed.map_err(|(_, failed)| failed)?;
        reported
    }

    fn forget(&self, key: &Key) {
        self.expectations().remove(key);
    }
}

impl<C: Cluster> Deployments<C> {
    /// Until when nothing may be planned: the caches do not show our last pass yet.
    fn waiting(&self, key: &Key, now: Timestamp) -> Option<Timestamp> {
        let mut expectations = self.expectations();
        let written = expectations.get(key)?;
        let sets = &self.watches.replica_sets;
        let is_leaving = |key: &Key, uid: &str| {
            sets.get(key)
                .is_none_or(|set| set.uid() != uid || set.metadata.deletion_timestamp.is_some())
        };
        let expected = &written.replica_sets;
        let deployment_seen =
            self.watches.deployments.has_seen(written.deployment) || now >= expected.expires();
        let sets_seen = expected.is_met(|revision| sets.has_seen(revision), is_leaving, now);
        if deployment_seen && sets_seen {
            expectations.remove(key);
            return None;
        }
        Some(expected.expires())
    }

    async fn selects_everything(&self, deployment: &Deployment) -> Result<Next, Failed> {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        self.note(Note::warning, deployment, "SelectingAll", message.to_owned());
        let mut status = deployment.status.clone().unwrap_or_default();
        status.observed_generation = deployment.metadata.generation;
        self.write_status(deployment, &status).await?;
        Ok(Next::OnChange)
    }

    async fn observe(
        &self,
        deployment: &Deployment,
        selector: &Selector,
    ) -> Result<Vec<Arc<ReplicaSet>>, Failed> {
        let sets = &self.watches.replica_sets;
        let mut candidates = sets.owned_by(deployment.uid());
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        candidates.extend(sets.orphans_of(namespace));
        settle(&self.cluster, deployment, claims(deployment, selector, candidates)).await
    }

    /// Pods that have not ended, by ReplicaSet; only `Recreate` needs them.
    fn running(
        &self,
        deployment: &Deployment,
        sets: &[Arc<ReplicaSet>],
    ) -> BTreeMap<String, usize> {
        if Wanted::of(deployment).strategy != Strategy::Recreate {
            return BTreeMap::new();
        }
        let running = |set: &Arc<ReplicaSet>| {
            let pods = self.watches.pods.owned_by(set.uid());
            (set.uid().to_owned(), pods.iter().filter(|pod| !is_finished(pod)).count())
        };
        sets.iter().map(running).collect()
    }

    /// Step after step, the first failure ends it; `sets` are afterwards as they were stored.
    async fn perform(
        &self,
        deployment: &Deployment,
        plan: &RolloutPlan,
        sets: &mut Vec<Arc<ReplicaSet>>,
        written: &mut Written,
    ) -> Result<Occurred, (Occurred, Failed)> {
        let mut occurred = Occurred::Nothing;
        for step in &plan.steps {
            let stored = match step {
                Step::Create { replica_set, reason } => {
                    let created = self.create(deployment, replica_set, reason, written).await;
                    let (now_occurred, result) = match created {
                        Ok(created) => (Occurred::Created(replica_set.key().name), Ok(created)),
                        Err((failed, told)) => (told, Err(failed)),
                    };
                    occurred = now_occurred;
                    result
                }
                Step::Adjust(adjustment) => self.adjust(deployment, adjustment).await.map(Some),
                Step::Remove { key, uid, resource_version, reason } => {
                    let options = DeleteOptions {
                        uid: Some(uid.clone()),
                        resource_version: Some(resource_version.clone()),
                        ..DeleteOptions::default()
                    };
                    let removed = self.remove(deployment, key, &options, reason).await;
                    written.replica_sets.deleted.insert(uid.clone(), key.clone());
                    sets.retain(|set| set.uid() != uid);
                    removed.map(|()| None)
                }
                Step::SetRevision { revision } => {
                    self.set_revision(deployment, revision, written).await.map(|()| None)
                }
            };
            match stored {
                Ok(Some(stored)) => {
                    let expected = &mut written.replica_sets;
                    expected.written = expected.written.max(revision_of(&*stored));
                    sets.retain(|set| set.uid() != stored.uid());
                    sets.push(stored);
                }
                Ok(None) => {}
                Err(failed) => return Err((occurred, failed)),
            }
        }
        Ok(occurred)
    }

    /// The name may be taken: by our own ReplicaSet that the cache does not show yet, or by another
    /// template with the same hash; then the collision count is raised and the next pass makes
    /// another name.
    async fn create(
        &self,
        deployment: &Deployment,
        replica_set: &ReplicaSet,
        reason: &str,
        written: &mut Written,
    ) -> Result<Option<Arc<ReplicaSet>>, (Failed, Occurred)> {
        let name = replica_set.key().name;
        let source = match self.cluster.create(replica_set).await {
            Ok(created) => {
                let size = created.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
                info!(deployment = %deployment.key(), replica_set = name, size, reason, "replica set created");
                if size > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {size}");
                    self.note(Note::normal, deployment, "ScalingReplicaSet", message);
                }
                return Ok(Some(created));
            }
            Err(source) => source,
        };
        if source.is_conflict() {
            // The Deployment is gone or going, and the cache does not show it yet: nothing has failed.
            return Err((Failed { step: "create replica set", source }, Occurred::Nothing));
        }
        if !source.is_already_exists() {
            let message = format!("Failed to create new replica set \"{name}\": {source}");
            self.note(Note::warning, deployment, "ReplicaSetCreateError", message);
            let told = Occurred::CreateFailed { name, message: source.to_string() };
            return Err((Failed { step: "create replica set", source }, told));
        }
        match self.cluster.get::<ReplicaSet>(&replica_set.key()).await {
            Ok(taken) if is_ours(deployment, &taken) => Ok(Some(taken)),
            Ok(_) => {
                let count = deployment.status.as_ref().and_then(|status| status.collision_count);
                let patch = Patch::Merge(json!({
                    "metadata": {"uid": deployment.metadata.uid},
                    "status": {"collisionCount": count.unwrap_or_default() + 1},
                }));
                let raised =
                    self.cluster.patch_status::<Deployment>(&deployment.key(), &patch).await;
                match raised {
                    Ok(stored) => {
                        written.deployment = written.deployment.max(revision_of(&*stored));
                        info!(deployment = %deployment.key(), replica_set = name, "name taken, collision count raised");
                        Err((Failed { step: "create replica set", source }, Occurred::Nothing))
                    }
                    Err(source) => {
                        let step = "raise the collision count";
                        Err((Failed { step, source }, Occurred::Nothing))
                    }
                }
            }
            Err(source) => {
                Err((Failed { step: "read the taken replica set", source }, Occurred::Nothing))
            }
        }
    }

    async fn adjust(
        &self,
        deployment: &Deployment,
        adjustment: &Adjustment,
    ) -> Result<Arc<ReplicaSet>, Failed> {
        let Adjustment {
            key,
            uid,
            resource_version,
            scale,
            annotations,
            min_ready_seconds,
            reason,
        } = adjustment;
        let mut spec = Map::new();
        if let Some(scale) = scale {
            spec.insert("replicas".to_owned(), scale.to.into());
        }
        if let Some(seconds) = min_ready_seconds {
            spec.insert("minReadySeconds".to_owned(), (*seconds).into());
        }
        let mut body = json!({"metadata": {
            "uid": uid, "resourceVersion": resource_version, "annotations": annotations,
        }});
        if !spec.is_empty() {
            body["spec"] = Value::Object(spec);
        }
        let stored = self
            .cluster
            .patch::<ReplicaSet>(key, &Patch::Merge(body))
            .await
            .map_err(Failed::at("change replica set"))?;
        if let Some(Scale { from, to }) = scale {
            info!(deployment = %deployment.key(), replica_set = key.name, from, to, reason, "replica set scaled");
            let direction = if to > from { "up" } else { "down" };
            let message =
                format!("Scaled {direction} replica set {} from {from} to {to}", key.name);
            self.note(Note::normal, deployment, "ScalingReplicaSet", message);
        } else {
            info!(deployment = %deployment.key(), replica_set = key.name, reason, "replica set changed");
        }
        Ok(stored)
    }

    async fn remove(
        &self,
        deployment: &Deployment,
        key: &Key,
        options: &DeleteOptions,
        reason: &str,
    ) -> Result<(), Failed> {
        match self.cluster.delete::<ReplicaSet>(key, options).await {
            Ok(()) => {
                info!(deployment = %deployment.key(), replica_set = key.name, reason, "replica set removed");
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(source) => Err(Failed { step: "remove replica set", source }),
        }
    }

    async fn set_revision(
        &self,
        deployment: &Deployment,
        revision: &str,
        written: &mut Written,
    ) -> Result<(), Failed> {
        let patch = Patch::Merge(json!({"metadata": {
            "uid": deployment.metadata.uid, "annotations": {REVISION: revision},
        }}));
        let stored = self
            .cluster
            .patch::<Deployment>(&deployment.key(), &patch)
            .await
            .map_err(Failed::at("write the revision"))?;
        written.deployment = written.deployment.max(revision_of(&*stored));
        Ok(())
    }

    async fn report(
        &self,
        deployment: &Deployment,
        sets: &[Arc<ReplicaSet>],
        occurred: &Occurred,
        judges_progress: bool,
        now: Timestamp,
        written: &mut Written,
    ) -> Result<Next, Failed> {
        let told = Sets::of(deployment, sets);
        let all: Vec<&ReplicaSet> = told.all().collect();
        let reported = report(deployment, &all, told.new, occurred, judges_progress, now);
        // A collision raised in this pass stands in the store, not in the view this status is made of.
        if deployment.status.as_ref() != Some(&reported.status) {
            let revision = self.write_status(deployment, &reported.status).await?;
            written.deployment = written.deployment.max(revision);
        }
        Ok(match reported.look_at {
            Some(at) => Next::at(at, now),
            None => Next::OnChange,
        })
    }

    /// Answers the revision. Nobody else writes this status, and every pass waits until its cache
    /// shows the last one's, so that the uid is precondition enough; `null` takes a field away. The
    /// collision count is raised elsewhere and left alone here.
    async fn write_status(
        &self,
        deployment: &Deployment,
        status: &DeploymentStatus,
    ) -> Result<u64, Failed> {
        let patch = Patch::Merge(json!({
            "metadata": {"uid": deployment.metadata.uid},
            "status": {
                "observedGeneration": status.observed_generation,
                "replicas": status.replicas,
                "updatedReplicas": status.updated_replicas,
                "readyReplicas": status.ready_replicas,
                "availableReplicas": status.available_replicas,
                "unavailableReplicas": status.unavailable_replicas,
                "terminatingReplicas": status.terminating_replicas,
                "conditions": status.conditions,
            },
        }));
        match self.cluster.patch_status::<Deployment>(&deployment.key(), &patch).await {
            Ok(stored) => Ok(revision_of(&*stored)),
            Err(error) if error.is_not_found() => Ok(0),
            Err(source) => Err(Failed { step: "write the status", source }),
        }
    }

    fn note(
        &self,
        make: fn(&Deployment, &'static str, &'static str, String) -> Note,
        about: &Deployment,
        reason: &'static str,
        message: String,
    ) {
        self.cluster.note(make(about, Self::NAME, reason, message));
    }

    fn expectations(&self) -> MutexGuard<'_, HashMap<Key, Written>> {
        self.expectations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Deployment controls it and wants its template.
fn is_ours(deployment: &Deployment, taken: &ReplicaSet) -> bool {
    let owned = controller_of(&taken.metadata).is_some_and(|owner| owner.uid == deployment.uid());
    let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
    let has = taken.spec.as_ref().and_then(|spec| spec.template.as_ref());
    owned && wanted.zip(has).is_some_and(|(wanted, has)| same_template(wanted, has))
}
