//! Starts the controllers.

use std::sync::Arc;

use crate::clock::Clock;
use crate::object::Cluster;
use crate::reconcile::engine::Beat;
use crate::reconcile::metrics::{Metrics, Vitals};
use crate::reconcile::watches::Watches;
use crate::reconcile::{
    deployment, endpoint_slice, garbage, namespace, node_lifecycle, persistent_volume, replica_set,
};
use crate::task::Tasks;

/// What the composition root may want otherwise.
#[derive(Clone)]
pub struct Options {
    /// "I completed a pass", called with the loop's name after every pass and every few seconds when idle.
    pub beat: Beat,
    /// When a node is lost, and what becomes of its pods.
    pub nodes: node_lifecycle::Settings,
    /// What the controllers count with.
    pub metrics: Metrics,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            beat: Arc::new(|_| {}),
            nodes: node_lifecycle::Settings::default(),
            metrics: Metrics::default(),
        }
    }
}

/// Starts all controllers but the scheduler (it has an identity of its own), until the stop signal.
pub fn run<C: Cluster>(cluster: C, clock: Clock, tasks: &Tasks) {
    run_with(cluster, Options::default(), clock, tasks);
}

/// As [`run`], with options.
pub fn run_with<C: Cluster>(cluster: C, options: Options, clock: Clock, tasks: &Tasks) {
    let watches = Watches::follow(&cluster, tasks);
    let Options { beat, nodes, metrics } = options;
    let vitals = Vitals { beat, metrics };
    namespace::controller::run(cluster.clone(), vitals.clone(), clock, tasks);
    node_lifecycle::run(cluster.clone(), nodes, vitals.clone(), clock, tasks);
    garbage::controller::run(cluster.clone(), vitals.clone(), tasks);
    deployment::controller::run(cluster.clone(), &watches, vitals.clone(), clock, tasks);
    replica_set::controller::run(cluster.clone(), &watches, vitals.clone(), clock, tasks);
    endpoint_slice::controller::run(cluster.clone(), &watches, vitals.clone(), clock, tasks);
    persistent_volume::controller::run(cluster, &watches, vitals, clock, tasks);
}
