//! Observes the caches and performs the plan for one claim or one volume; makes the built-in classes.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::object::storage::{class_of, default_class, is_kept_for, volume_of};
use crate::object::{Cluster, Key, Note, Object, Scope, reference};
use crate::reconcile::cache::Cache;
use crate::reconcile::engine::{Engine, Failed, Next, Reconcile};
use crate::reconcile::indexed::{Seen, key_of, of_claim};
use crate::reconcile::metrics::Vitals;
use crate::reconcile::persistent_volume::{built_in, claim_plan, volume_plan};
use crate::reconcile::pod_outline::{PodOutline, outline};
use crate::reconcile::watches::Watches;
use crate::task::Tasks;

/// The name of the reference's controller, in Events.
const COMPONENT: &str = "persistentvolume-controller";
/// Between two tries to make a class.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts both controllers and the keeper of the built-in classes, until the stop signal.
pub fn run<C: Cluster>(cluster: C, watches: &Watches, vitals: Vitals, clock: Clock, tasks: &Tasks) {
    run_claims(&cluster, watches, vitals.clone(), tasks);
    run_volumes(&cluster, watches, vitals, clock, tasks);
    let (classes, stop) = (watches.storage_classes.clone(), tasks.stop().clone());
    tasks.spawn("storage classes", async move {
        tokio::select! {
            biased;
            // Cancel safe: a class that is half made is made, or not.
            () = stop.cancelled() => {}
            () = keep_classes(cluster, classes) => stop.cancelled().await,
        }
    });
}

fn run_claims<C: Cluster>(cluster: &C, watches: &Watches, vitals: Vitals, tasks: &Tasks) {
    let by_pod = watches.pods.waking(|pod: &PodOutline| pod.claim_keys().collect::<Vec<Key>>());
    let claims = watches.claims.clone();
    let by_volume = watches.volumes.waking(move |volume: &PersistentVolume| {
        let spec = volume.spec.as_ref();
        match spec.and_then(|spec| spec.claim_ref.as_ref()) {
            Some(claim) => vec![key_of(claim)],
            // Free: it may be for anybody, or what a bound one has lost.
            None => concerned(&claims, |claim| {
                claim_plan::is_unbound(claim) || volume_of(claim) == volume.metadata.name.as_deref()
            }),
        }
    });
    let claims = watches.claims.clone();
    let by_class = watches.storage_classes.waking(move |class: &StorageClass| {
        concerned(&claims, |claim| {
            let named = class_of(claim);
            claim_plan::is_unbound(claim)
                && (named.is_none() || named == class.metadata.name.as_deref())
        })
    });
    // A claim that names a volume which another claim has is told by that volume's change.
    let claims = watches.claims.clone();
    let by_named = watches.volumes.waking(move |volume: &PersistentVolume| {
        concerned(&claims, |claim| {
            volume.metadata.name.is_some() && volume_of(claim) == volume.metadata.name.as_deref()
        })
    });
    Engine::new(&watches.claims, vitals)
        .needs(&watches.volumes)
        .needs(&watches.storage_classes)
        .needs(&watches.pods)
        .wake(by_pod)
        .wake(by_volume)
        .wake(by_class)
        .wake(by_named)
        .run(cluster.clone(), tasks, Claims { cluster: cluster.clone(), watches: watches.clone() });
}

fn concerned(
    claims: &Cache<PersistentVolumeClaim>,
    is_concerned: impl Fn(&PersistentVolumeClaim) -> bool,
) -> Vec<Key> {
    let all = claims.all();
    all.iter().filter(|claim| is_concerned(claim)).map(|claim| claim.key()).collect()
}

fn run_volumes<C: Cluster>(
    cluster: &C,
    watches: &Watches,
    vitals: Vitals,
    clock: Clock,
    tasks: &Tasks,
) {
    let volumes = watches.volumes.clone();
    let by_claim = watches.claims.waking(move |claim: &PersistentVolumeClaim| {
        let held = volumes.under(&of_claim(&claim.key()));
        held.iter().map(|volume| volume.key()).collect::<Vec<Key>>()
    });
    Engine::new(&watches.volumes, vitals).needs(&watches.claims).wake(by_claim).run(
        cluster.clone(),
        tasks,
        Volumes { cluster: cluster.clone(), watches: watches.clone(), clock },
    );
}

struct Claims<C> {
    cluster: C,
    watches: Watches,
}

impl<C: Cluster> Reconcile for Claims<C> {
    type Object = PersistentVolumeClaim;

    const NAME: &'static str = "persistentvolumeclaim-controller";

    async fn reconcile(&self, claim: Arc<PersistentVolumeClaim>) -> Result<Next, Failed> {
        let key = claim.key();
        let pods = self.watches.pods.under(&of_claim(&key));
        let volumes = self.watches.volumes.all();
        let classes = self.watches.storage_classes.all();
        let named = class_of(&claim).filter(|name| !name.is_empty());
        let class = named.and_then(|name| self.watches.storage_classes.get(&Key::cluster(name)));
        let default = default_class(classes.iter().map(|class| &**class));
        let waiting = pods.iter().find(|pod| pod.node.is_empty() && !pod.is_deleting);
        let plan = claim_plan::plan(&claim_plan::View {
            claim: &claim,
            volumes: &volumes,
            class: class.as_deref(),
            default_class: default.and_then(|class| class.metadata.name.as_deref()),
            is_used: pods.iter().any(|pod| pod.uses_claims()),
            waiting_pod: waiting.map(|pod| &*pod.name),
        });
        for (severity, reason, message) in plan.said {
            let about = reference(&*claim);
            self.cluster.note(Note { about, severity, reason, message, component: COMPONENT });
        }
        match plan.step {
            Some(step) => self.perform(&key, step).await,
            None => Ok(Next::OnChange),
        }
    }
}

impl<C: Cluster> Claims<C> {
    /// One write; what it changes wakes the claim again.
    async fn perform(&self, key: &Key, step: claim_plan::Step) -> Result<Next, Failed> {
        use claim_plan::Step;
        match step {
            Step::HoldVolume { volume, reason } => {
                let held = self.cluster.update(&*volume).await;
                let held = held.map_err(Failed::at("hold volume"))?;
                info!(claim = %key, volume = held.key().name, reason, "volume held");
            }
            Step::Update { claim, reason } => {
                self.cluster.update(&*claim).await.map_err(Failed::at("update claim"))?;
                info!(claim = %key, reason, "claim written");
            }
            Step::Status { claim, reason } => {
                let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
                if phase == Some("Lost") && self.is_volume_there(&claim).await? {
                    return Ok(Next::After(PAUSE));
                }
                let written = self.cluster.update_status(&*claim).await;
                let written = written.map_err(Failed::at("update claim status"))?;
                let phase = written.status.as_ref().and_then(|status| status.phase.as_deref());
                info!(claim = %key, phase, reason, "claim status written");
            }
            Step::Unprotect { claim } => {
                if self.is_used_after_all(key).await? {
                    debug!(claim = %key, "a pod uses the claim after all");
                    return Ok(Next::After(PAUSE));
                }
                match self.cluster.update(&*claim).await {
                    Err(error) if error.is_not_found() => {}
                    written => {
                        written.map_err(Failed::at("unprotect claim"))?;
                        info!(claim = %key, "claim let go");
                    }
                }
            }
        }
        Ok(Next::OnChange)
    }

    /// Asked of the store: the cache of the volumes may be behind that of the claims.
    async fn is_volume_there(&self, claim: &PersistentVolumeClaim) -> Result<bool, Failed> {
        let Some(name) = volume_of(claim) else { return Ok(false) };
        match self.cluster.get::<PersistentVolume>(&Key::cluster(name)).await {
            Ok(volume) => Ok(is_kept_for(&volume, claim)),
            Err(error) if error.is_not_found() => Ok(false),
            Err(source) => Err(Failed { step: "get volume", source }),
        }
    }

    /// Asked of the store: a pod may have been bound since the cache was told.
    async fn is_used_after_all(&self, key: &Key) -> Result<bool, Failed> {
        let own = key.clone();
        let uses = move |pod: &Arc<Pod>| {
            let pod = outline(pod);
            pod.uses_claims() && pod.claim_keys().any(|claim| claim == own)
        };
        let scope = Scope::namespace(key.namespace.as_str());
        let all = self.cluster.list_keeping(&scope, uses).await;
        Ok(all.map_err(Failed::at("list pods"))?.contains(&true))
    }
}

struct Volumes<C> {
    cluster: C,
    watches: Watches,
    clock: Clock,
}

impl<C: Cluster> Reconcile for Volumes<C> {
    type Object = PersistentVolume;

    const NAME: &'static str = "persistentvolume-controller";

    async fn reconcile(&self, volume: Arc<PersistentVolume>) -> Result<Next, Failed> {
        use volume_plan::Step;
        let name = volume.key().name;
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).map(key_of);
        let found = claim.as_ref().and_then(|key| self.watches.claims.get(key));
        match volume_plan::plan(&volume, found.as_deref(), self.clock.now()) {
            None => {}
            Some(Step::Update { volume, reason }) => {
                self.cluster.update(&*volume).await.map_err(Failed::at("update volume"))?;
                info!(volume = name, reason, "volume written");
            }
            Some(Step::Status { volume: changed, reason }) => {
                let phase = changed.status.as_ref().and_then(|status| status.phase.as_deref());
                // What is Released may be removed: only what the store itself says counts.
                if phase == Some("Released") && self.is_claimed_after_all(&volume).await? {
                    return Ok(Next::After(PAUSE));
                }
                let written = self.cluster.update_status(&*changed).await;
                written.map_err(Failed::at("update volume status"))?;
                info!(volume = name, phase, reason, "volume status written");
            }
            Some(Step::Unprotect { volume: last }) => {
                if self.is_claimed_after_all(&volume).await? {
                    return Ok(Next::After(PAUSE));
                }
                match self.cluster.update(&*last).await {
                    Err(error) if error.is_not_found() => {}
                    written => {
                        written.map_err(Failed::at("unprotect volume"))?;
                        info!(volume = name, "volume let go");
                    }
                }
            }
        }
        Ok(Next::OnChange)
    }
}

impl<C: Cluster> Volumes<C> {
    async fn is_claimed_after_all(&self, volume: &PersistentVolume) -> Result<bool, Failed> {
        let Some(key) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).map(key_of)
        else {
            return Ok(false);
        };
        match self.cluster.get::<PersistentVolumeClaim>(&key).await {
            Ok(claim) => Ok(volume_plan::is_claimed(volume, Some(&claim))),
            Err(error) if error.is_not_found() => Ok(false),
            Err(source) => Err(Failed { step: "get claim", source }),
        }
    }
}

/// Makes the built-in classes where they are missing: at the beginning, and when one was deleted.
async fn keep_classes<C: Cluster>(cluster: C, classes: Cache<StorageClass>) {
    classes.synced().await;
    let mut changes = std::pin::pin!(classes.changes());
    while let Some(seen) = changes.next().await {
        if matches!(seen, Seen::Changed { after: Some(_), .. }) {
            continue;
        }
        for class in built_in::classes() {
            while classes.get(&class.key()).is_none() {
                let name = class.key().name;
                match cluster.create(&class).await {
                    Ok(_) => info!(class = name, "storage class created"),
                    Err(error) if error.is_already_exists() => {}
                    Err(error) => {
                        warn!(class = name, %error, "creating a storage class failed");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                }
                break;
            }
        }
    }
}
