//! Pure: each kind's admission, as a list of who judges it. The rules stand in the files called.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodStatus,
    PodTemplateSpec, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::admit::{Admit, Faults, Parts};
use super::{
    cluster_validation as cluster, config_map_validation as data, defaults, ephemeral_validation,
    pod_defaults, pod_validation, service_validation, storage_defaults,
    storage_validation as storage, warnings, workload_validation as workload,
};
use crate::object::drift::Drift;
use crate::object::inventory::Inventory;
use crate::object::source::Source;

/// Of the Deployment controller: `revision`, `desired-replicas`, `max-replicas`.
const OWN_ANNOTATIONS: &str = "deployment.kubernetes.io/";

/// Kinds with a spec and a status.
macro_rules! with_status {
    ($($kind:ty),*) => { $(impl Parts for $kind {
        fn keep_status(&mut self, old: &Self) {
            self.status.clone_from(&old.status);
        }
        fn keep_all_but_status(&mut self, old: &Self) {
            self.spec.clone_from(&old.spec);
            self.metadata = kept_metadata(&self.metadata, &old.metadata);
        }
        fn spec_differs(&self, old: &Self) -> bool {
            self.spec != old.spec
        }
    })* };
}

/// Kinds without a status: their whole body is what a client writes.
macro_rules! without_status {
    ($($kind:ty),*) => { $(impl Parts for $kind {
        fn keep_status(&mut self, _old: &Self) {}
        fn keep_all_but_status(&mut self, old: &Self) {
            *self = old.clone();
        }
        fn spec_differs(&self, old: &Self) -> bool {
            self != old
        }
    })* };
}

with_status!(
    Deployment,
    Drift,
    Namespace,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    ReplicaSet,
    Service,
    Source
);
without_status!(ConfigMap, EndpointSlice, Event, Inventory, Lease, Secret, StorageClass);

/// A write of the status leaves the metadata as stored; only its precondition is the client's.
fn kept_metadata(new: &ObjectMeta, old: &ObjectMeta) -> ObjectMeta {
    ObjectMeta { resource_version: new.resource_version.clone(), ..old.clone() }
}

/// Of a new workload, and of a change that its generation counts.
fn of_workload(
    meta: &ObjectMeta,
    template: Option<&PodTemplateSpec>,
    old: Option<&ObjectMeta>,
) -> Vec<String> {
    if old.is_some_and(|old| old.generation == meta.generation) {
        return Vec::new();
    }
    let name = match old {
        None => warnings::of_name(meta, "Pod names and hostnames"),
        Some(_) => None,
    };
    name.into_iter().chain(template.into_iter().flat_map(warnings::of_template)).collect()
}

impl Admit for Pod {
    fn fill_defaults(&mut self) {
        pod_defaults::fill_pod(self);
    }
    fn faults(&self) -> Faults {
        pod_validation::new_pod(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        pod_validation::pod_update(self, old)
    }
    fn prepare_create(&mut self) {
        let class = pod_defaults::qos_class(self.spec.get_or_insert_default());
        self.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(class.to_owned()),
            ..PodStatus::default()
        });
    }
    /// Where the pod runs is the scheduler's word: an update that leaves it out, as a manifest does,
    /// keeps it. So do ephemeral containers, which have a door of their own.
    fn prepare_update(&mut self, old: &Self) {
        self.keep_status(old);
        let bound = old.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let node = &mut self.spec.get_or_insert_default().node_name;
        if node.as_deref().unwrap_or_default().is_empty() {
            *node = bound;
        }
        let spec = self.spec.get_or_insert_default();
        ephemeral_validation::keep(spec, old.spec.as_ref());
    }
    /// People make pods by hand and change them seldom: a change is told nothing of.
    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let (None, Some(spec)) = (old, &self.spec) else { return Vec::new() };
        let name = warnings::of_name(&self.metadata, "the Pod's hostname");
        name.into_iter().chain(warnings::of_pod(&self.metadata, spec)).collect()
    }
    /// The quality class follows the spec for ever: a status without it keeps it.
    fn prepare_status_update(&mut self, old: &Self) {
        self.keep_all_but_status(old);
        let class = old.status.as_ref().and_then(|status| status.qos_class.clone());
        let status = self.status.get_or_insert_default();
        status.qos_class = class.or(status.qos_class.take());
    }
}

impl Admit for Deployment {
    fn fill_defaults(&mut self) {
        defaults::fill_deployment(self);
    }
    fn faults(&self) -> Faults {
        workload::deployment(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        workload::deployment_update(self, old)
    }
    fn prepare_create(&mut self) {
        defaults::begin_deployment(self);
    }
    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().map(|spec| &spec.template);
        of_workload(&self.metadata, template, old.map(|old| &old.metadata))
    }
    /// Annotations count too: they are copied to the ReplicaSets. The controller's own do not: a
    /// rollout is one generation.
    fn generation_differs(&self, old: &Self) -> bool {
        let counted = |deployment: &Self| -> Vec<(String, String)> {
            let all = deployment.metadata.annotations.clone().unwrap_or_default();
            all.into_iter().filter(|(key, _)| !key.starts_with(OWN_ANNOTATIONS)).collect()
        };
        self.spec_differs(old) || counted(self) != counted(old)
    }
}

impl Admit for ReplicaSet {
    fn fill_defaults(&mut self) {
        defaults::fill_replica_set(self);
    }
    fn faults(&self) -> Faults {
        workload::replica_set(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        workload::replica_set_update(self, old)
    }
    fn prepare_create(&mut self) {
        defaults::begin_replica_set(self);
    }
    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().and_then(|spec| spec.template.as_ref());
        of_workload(&self.metadata, template, old.map(|old| &old.metadata))
    }
}

impl Admit for Service {
    fn fill_defaults(&mut self) {
        defaults::fill_service(self);
    }
    fn faults(&self) -> Faults {
        service_validation::service(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        service_validation::service_update(self, old)
    }
    fn prepare_create(&mut self) {
        defaults::begin_service(self);
    }
    fn prepare_update(&mut self, old: &Self) {
        defaults::carry_over_service(self, old);
    }
    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        warnings::of_service(self)
    }
}

impl Admit for Namespace {
    fn fill_defaults(&mut self) {
        defaults::fill_namespace(self);
    }
    fn faults(&self) -> Faults {
        cluster::namespace(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        cluster::namespace_update(self, old)
    }
    fn prepare_create(&mut self) {
        defaults::begin_namespace(self);
    }
    /// `spec.finalizers` stay as stored: a manifest does not name them, and committed again while its
    /// namespace is going it must not end the delete with the content still there. Who emptied it
    /// clears them on a way of its own (`keep_namespace_finalizers` of `api/write.rs`; the reference
    /// server has a subresource for that).
    fn prepare_update(&mut self, old: &Self) {
        self.keep_status(old);
        let held = old.spec.as_ref().and_then(|spec| spec.finalizers.clone());
        self.spec.get_or_insert_default().finalizers = held;
    }
}

/// A node registers itself with its first status.
impl Admit for Node {
    fn fill_defaults(&mut self) {
        defaults::fill_node(self);
    }
    fn faults(&self) -> Faults {
        cluster::node(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        cluster::node_update(self, old)
    }
}

impl Admit for Source {
    fn fill_defaults(&mut self) {
        if self.spec.path.is_empty() {
            ".".clone_into(&mut self.spec.path);
        }
    }
    fn faults(&self) -> Faults {
        cluster::source(self)
    }
    fn prepare_create(&mut self) {
        self.status = None;
    }
}

impl Admit for Drift {
    fn faults(&self) -> Faults {
        cluster::drift(self)
    }
    fn prepare_create(&mut self) {
        self.status = None;
    }
}

impl Admit for Inventory {
    fn faults(&self) -> Faults {
        cluster::inventory(self)
    }
}

impl Admit for PersistentVolumeClaim {
    fn fill_defaults(&mut self) {
        storage_defaults::fill_claim(self);
    }
    fn faults(&self) -> Faults {
        storage::claim(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        storage::claim_update(self, old)
    }
    fn prepare_create(&mut self) {
        storage_defaults::begin_claim(self);
    }
    fn keep_unnamed(&mut self, old: &Self) {
        storage_defaults::keep_binding_of_claim(self, old);
    }
}

impl Admit for PersistentVolume {
    fn fill_defaults(&mut self) {
        storage_defaults::fill_volume(self);
    }
    fn faults(&self) -> Faults {
        storage::volume(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        storage::volume_update(self, old)
    }
    fn prepare_create(&mut self) {
        storage_defaults::begin_volume(self);
    }
    fn keep_unnamed(&mut self, old: &Self) {
        storage_defaults::keep_binding_of_volume(self, old);
    }
}

impl Admit for StorageClass {
    fn fill_defaults(&mut self) {
        storage_defaults::fill_class(self);
    }
    fn faults(&self) -> Faults {
        storage::class(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        storage::class_update(self, old)
    }
}

impl Admit for ConfigMap {
    fn fill_defaults(&mut self) {
        defaults::fill_config_map(self);
    }
    fn faults(&self) -> Faults {
        data::config_map(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        data::config_map_update(self, old)
    }
}

impl Admit for Secret {
    fn fill_defaults(&mut self) {
        defaults::fill_secret(self);
    }
    fn faults(&self) -> Faults {
        data::secret(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        data::secret_update(self, old)
    }
}

impl Admit for Event {
    fn faults(&self) -> Faults {
        cluster::event(self)
    }
}

impl Admit for Lease {
    fn faults(&self) -> Faults {
        cluster::lease(self)
    }
}

impl Admit for EndpointSlice {
    fn fill_defaults(&mut self) {
        defaults::fill_endpoint_slice(self);
    }
    fn faults(&self) -> Faults {
        cluster::endpoint_slice(self)
    }
    fn update_faults(&self, old: &Self) -> Faults {
        cluster::endpoint_slice_update(self, old)
    }
    /// Its addresses and ports; a label is none of them.
    fn generation_differs(&self, old: &Self) -> bool {
        self.endpoints != old.endpoints || self.ports != old.ports
    }
}
