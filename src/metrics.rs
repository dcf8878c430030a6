//! Everything on `/metrics`, under one registry. A room counts with a handle of its own that it is
//! given at its start, and knows nothing of the others or of who shows the figures; METRICS.md lists
//! the families, and a test compares it with this registry.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::api::Api;
use crate::process_metrics::Process;
use crate::state_metrics::ClusterState;
use crate::store::{Sqlite, Store};
use crate::{network, node, reconcile, sync};

/// What the rooms count with. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Rooms {
    pub sync: sync::Metrics,
    /// Controllers and scheduler.
    pub reconcile: reconcile::Metrics,
    pub node: node::Metrics,
    pub network: network::Metrics,
}

/// Puts all of it under its names.
pub fn registry<S: Store>(
    store: &Sqlite,
    api: &Api<S>,
    rooms: &Rooms,
    state: &ClusterState,
) -> Registry {
    let mut registry = Registry::default();
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("ballast_build", "The version that runs", version);
    registry.register_collector(Box::new(Process::of_this_machine()));
    registry.register_collector(Box::new(state.clone()));
    rooms.sync.register(&mut registry);
    store.register(&mut registry);
    api.metrics().register(&mut registry);
    rooms.reconcile.register(&mut registry);
    rooms.node.register(&mut registry);
    rooms.network.register(&mut registry);
    registry
}
