//! The part of the loop that waits: pods whose node is chosen and whose claims are not bound yet.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use tokio::time::Instant;
use tracing::debug;

use crate::object::{Cluster, Severity};
use crate::reconcile::scheduler::demand::Demand;
use crate::reconcile::scheduler::queue::Cause;
use crate::reconcile::scheduler::run::{Effect, Scheduler, note};
use crate::reconcile::scheduler::storage::{Assignment, Readiness};
use crate::reconcile::scheduler::volume_writes;

/// How long a node may take to make volumes before another is tried (kube-scheduler
/// `bindTimeoutSeconds`).
pub(super) const LONGEST_VOLUMES: Duration = Duration::from_secs(600);

/// A pod whose room is held while its claims are bound.
pub(super) struct WaitsForVolumes {
    demand: Arc<Demand>,
    node: String,
    since: Instant,
}

impl<C: Cluster> Scheduler<C> {
    /// The pod has its node; what its claims get there is written first, and waited for.
    pub(super) fn wait_for_volumes(
        &mut self,
        demand: Arc<Demand>,
        node: String,
        assignments: Vec<Assignment>,
    ) {
        let since = Instant::now();
        let waits = WaitsForVolumes { demand: demand.clone(), node, since };
        self.waits.insert(demand.uid.clone(), waits);
        if assignments.is_empty() {
            return;
        }
        self.storage.choose(&assignments);
        let cluster = self.cluster.clone();
        let what = Effect::Assign { assignments: assignments.clone() };
        self.start_effect(demand, what, async move |_| {
            volume_writes::assign(&cluster, &assignments).await
        });
    }

    /// Binds the pods whose claims are all bound; those whose choice does not hold look for a node
    /// again. A node that makes a volume for too long is given up.
    pub(super) fn look_after_volumes(&mut self) {
        if self.waits.is_empty() || !self.is_informed() {
            return;
        }
        let found: Vec<(Arc<str>, Readiness)> = self
            .waits
            .iter()
            .map(|(uid, waits)| {
                let claims = &waits.demand.template.footprint.claims;
                let node = self.snapshot.node(&waits.node);
                let readiness =
                    node.map_or(Readiness::Broken, |node| self.storage.readiness(claims, node));
                let is_late = waits.since.elapsed() > self.volumes_within;
                let is_over = is_late && readiness == Readiness::NotYet;
                (uid.clone(), if is_over { Readiness::Broken } else { readiness })
            })
            .filter(|(_, readiness)| *readiness != Readiness::NotYet)
            .collect();
        for (uid, readiness) in found {
            let Some(waits) = self.waits.remove(&uid) else { continue };
            if readiness == Readiness::Ready {
                self.bind(waits.demand, waits.node);
                continue;
            }
            if waits.since.elapsed() > self.volumes_within {
                let message = "binding volumes: context deadline exceeded".to_owned();
                let reason = "FailedScheduling";
                self.cluster.note(note(&waits.demand, Severity::Warning, reason, message));
                self.give_up(&waits.demand, |node| node == waits.node);
            }
            debug!(pod = %waits.demand.key, node = waits.node, "volumes do not come");
            self.snapshot.release(&uid);
            self.queue.wake(Cause::PodLeft, self.clock.now());
            self.queue.back_off(&uid);
        }
    }

    /// A node that is gone makes no volume.
    pub(super) fn give_up_gone_nodes(&mut self, demand: &Arc<Demand>) {
        if demand.template.footprint.claims.is_empty() {
            return;
        }
        let snapshot = &self.snapshot;
        let claims = self
            .storage
            .selected(&demand.template.footprint.claims, |node| snapshot.node(node).is_none());
        self.take_back(demand, claims);
    }

    fn give_up(&mut self, demand: &Arc<Demand>, is_given_up: impl Fn(&str) -> bool) {
        let claims = self.storage.selected(&demand.template.footprint.claims, is_given_up);
        self.take_back(demand, claims);
    }

    fn take_back(&mut self, demand: &Arc<Demand>, claims: Vec<Arc<PersistentVolumeClaim>>) {
        if claims.is_empty() {
            return;
        }
        let cluster = self.cluster.clone();
        self.start_effect(demand.clone(), Effect::GiveUp, async move |_| {
            volume_writes::give_up(&cluster, &claims).await
        });
    }
}
