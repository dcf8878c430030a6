//! Says how far long work is: a fetch, and the world on its way to the applied commit. Short work
//! says nothing; long work says so soon, then every few seconds, and when it is done. The lines are
//! log lines, on a terminal too: they stand among those of the other rooms.

use std::cell::RefCell;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;
use tracing::info;

use crate::object::inventory::InventoryEntry;
use crate::object::pace::Pace;
use crate::object::source::Convergence;
use crate::object::{Cluster, Kind};
use crate::sync::convergence::{self, Pods};
use crate::sync::git::Received;

/// What a fetch is to tell its progress to.
pub fn fetching() -> impl Fn(Received) {
    let (begun, pace) = (Instant::now(), RefCell::new(Pace::default()));
    move |Received { objects, of, bytes }| {
        if pace.borrow_mut().is_due(begun.elapsed()) {
            info!(objects, of, mebibytes = bytes / (1024 * 1024), "fetching");
        }
    }
}

/// The way of one source's commit into the world.
#[derive(Debug, Default)]
pub struct Arrival {
    under_way: Option<(Instant, Pace)>,
}

impl Arrival {
    /// The world is not there yet; the verdict says what is missing.
    pub async fn tell<C: Cluster>(
        &mut self,
        cluster: &C,
        inventory: &[InventoryEntry],
        verdict: &Convergence,
    ) {
        let (since, pace) = self.under_way.get_or_insert_with(|| (Instant::now(), Pace::default()));
        if !pace.is_due(since.elapsed()) {
            return;
        }
        let Pods { ready, wanted } = pods(cluster, inventory).await;
        let Convergence { waiting_for, open_drifts, .. } = verdict;
        let first = waiting_for.first().map_or("", String::as_str);
        info!(pods_ready = ready, of = wanted, open_drifts, first, "waiting for convergence");
    }

    /// The world is there.
    pub fn done(&mut self) {
        let seconds = self.under_way.take().map_or(0.0, |(since, _)| since.elapsed().as_secs_f32());
        info!(seconds, "converged: the world matches the applied commit");
    }
}

/// What cannot be read counts for nothing: the sentences tell why.
async fn pods<C: Cluster>(cluster: &C, inventory: &[InventoryEntry]) -> Pods {
    let mut sum = Pods::default();
    for entry in inventory {
        let key = entry.key();
        let part = match entry.kind {
            Kind::Deployment => {
                cluster.get::<Deployment>(&key).await.map(|it| convergence::pods_of_deployment(&it))
            }
            Kind::ReplicaSet => cluster
                .get::<ReplicaSet>(&key)
                .await
                .map(|it| convergence::pods_of_replica_set(&it)),
            Kind::Pod => cluster.get::<Pod>(&key).await.map(|it| convergence::pods_of_pod(&it)),
            _ => continue,
        };
        let part = part.unwrap_or_default();
        sum.ready += part.ready;
        sum.wanted += part.wanted;
    }
    sum
}
