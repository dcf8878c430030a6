//! The caches that the controllers share: one watch a kind for the whole room.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::object::Cluster;
use crate::reconcile::cache::Cache;
use crate::reconcile::indexed::{
    no_terms, pod_terms, replica_set_terms, service_terms, slice_terms, volume_terms,
};
use crate::reconcile::pod_outline::{Outlines, PodOutline};
use crate::task::Tasks;

/// Every cache of the room. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watches {
    /// By owner, orphanhood, label and claim; of each the outline.
    pub pods: Cache<PodOutline>,
    /// By owner and orphanhood.
    pub replica_sets: Cache<ReplicaSet>,
    pub deployments: Cache<Deployment>,
    /// By the first entry of the selector.
    pub services: Cache<Service>,
    /// By the label that names the Service.
    pub endpoint_slices: Cache<EndpointSlice>,
    pub claims: Cache<PersistentVolumeClaim>,
    /// By the claim that it is kept for.
    pub volumes: Cache<PersistentVolume>,
    pub storage_classes: Cache<StorageClass>,
}

impl Watches {
    /// Begins to follow all of them, until the stop signal.
    pub fn follow<C: Cluster>(cluster: &C, tasks: &Tasks) -> Self {
        let outlines = Mutex::new(Outlines::default());
        let outline = move |pod: &Arc<Pod>| {
            Arc::new(outlines.lock().unwrap_or_else(PoisonError::into_inner).of(pod))
        };
        Self {
            pods: Cache::follow_keeping(cluster, pod_terms, outline, tasks),
            replica_sets: Cache::follow(cluster, replica_set_terms, tasks),
            deployments: Cache::follow(cluster, no_terms, tasks),
            services: Cache::follow(cluster, service_terms, tasks),
            endpoint_slices: Cache::follow(cluster, slice_terms, tasks),
            claims: Cache::follow(cluster, no_terms, tasks),
            volumes: Cache::follow(cluster, volume_terms, tasks),
            storage_classes: Cache::follow(cluster, no_terms, tasks),
        }
    }
}
