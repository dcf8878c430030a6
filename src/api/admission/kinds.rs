//! Pure: each kind's admission, as a list of who judges it. The rules stand in the files called.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Namespace, Node, Pod, PodStatus, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::admit::{Admit, Faults};
use super::{
    cluster_validation as cluster, config_map_validation as data, defaults, pod_defaults,
    pod_validation, service_validation, supported, workload_validation as workload,
};
use crate::object::drift::Drift;
use crate::object::source::Source;

/// Of the Deployment controller: `revision`, `desired-replicas`, `max-replicas`.
const OWN_ANNOTATIONS: &str = "deployment.kubernetes.io/";

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
    fn unsupported(&self) -> Faults {
        supported::refusals(self)
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
    /// keeps it.
    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
        let bound = old.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let node = &mut self.spec.get_or_insert_default().node_name;
        if node.as_deref().unwrap_or_default().is_empty() {
            *node = bound;
        }
    }
    /// The quality class follows the spec for ever: a status without it keeps it.
    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata = kept_metadata(&self.metadata, &old.metadata);
        let class = old.status.as_ref().and_then(|status| status.qos_class.clone());
        let status = self.status.get_or_insert_default();
        status.qos_class = class.or(status.qos_class.take());
    }
    fn generation_differs(&self, old: &Self) -> bool {
        self.spec != old.spec
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
    fn unsupported(&self) -> Faults {
        supported::refusals(self)
    }
    fn prepare_create(&mut self) {
        defaults::begin_deployment(self);
    }
    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }
    /// As in the reference server, the controller writes its revision annotation with the status.
    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        let annotations = self.metadata.annotations.take();
        self.metadata = kept_metadata(&self.metadata, &old.metadata);
        self.metadata.annotations = annotations.filter(|map| !map.is_empty());
    }
    /// Annotations count too: they are copied to the ReplicaSets. The controller's own do not: it
    /// writes them beside its status, and a rollout is one generation.
    fn generation_differs(&self, old: &Self) -> bool {
        let counted = |deployment: &Self| -> Vec<(String, String)> {
            let all = deployment.metadata.annotations.clone().unwrap_or_default();
            all.into_iter().filter(|(key, _)| !key.starts_with(OWN_ANNOTATIONS)).collect()
        };
        self.spec != old.spec || counted(self) != counted(old)
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
    fn unsupported(&self) -> Faults {
        supported::refusals(self)
    }
    fn prepare_create(&mut self) {
        defaults::begin_replica_set(self);
    }
    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }
    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata = kept_metadata(&self.metadata, &old.metadata);
    }
    fn generation_differs(&self, old: &Self) -> bool {
        self.spec != old.spec
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
    fn unsupported(&self) -> Faults {
        supported::refusals(self)
    }
    fn prepare_create(&mut self) {
        defaults::begin_service(self);
    }
    fn prepare_update(&mut self, old: &Self) {
        defaults::carry_over_service(self, old);
    }
    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata = kept_metadata(&self.metadata, &old.metadata);
    }
    fn generation_differs(&self, _old: &Self) -> bool {
        false
    }
}

impl Admit for Namespace {
    fn fill_defaults(&mut self) {
        defaults::fill_namespace(self);
    }
    fn faults(&self) -> Faults {
        cluster::namespace(self)
    }
    fn update_faults(&self, _old: &Self) -> Faults {
        cluster::namespace(self)
    }
    fn unsupported(&self) -> Faults {
        supported::refusals(self)
    }
    fn prepare_create(&mut self) {
        defaults::begin_namespace(self);
    }
    /// `spec.finalizers` may only shrink, and only while the namespace is going: the controller
    /// that emptied it clears them (the reference server has a subresource of its own for that).
    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
        let held = |namespace: &Self| {
            namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default()
        };
        let (before, asked) = (held(old), held(self));
        let kept: Vec<String> = if old.metadata.deletion_timestamp.is_some() {
            before.into_iter().filter(|name| asked.contains(name)).collect()
        } else {
            before
        };
        let spec = self.spec.get_or_insert_default();
        spec.finalizers = (!kept.is_empty()).then_some(kept);
    }
    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata = kept_metadata(&self.metadata, &old.metadata);
    }
    fn generation_differs(&self, _old: &Self) -> bool {
        false
    }
}

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
    fn unsupported(&self) -> Faults {
        supported::refusals(self)
    }
    /// A node registers itself with its first status.
    fn prepare_create(&mut self) {}
    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }
    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata = kept_metadata(&self.metadata, &old.metadata);
    }
    fn generation_differs(&self, _old: &Self) -> bool {
        false
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
    fn update_faults(&self, _old: &Self) -> Faults {
        cluster::source(self)
    }
    fn unsupported(&self) -> Faults {
        Faults::new()
    }
    fn prepare_create(&mut self) {
        self.status = None;
    }
    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }
    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata = kept_metadata(&self.metadata, &old.metadata);
    }
    fn generation_differs(&self, old: &Self) -> bool {
        self.spec != old.spec
    }
}

impl Admit for Drift {
    fn fill_defaults(&mut self) {}
    fn faults(&self) -> Faults {
        cluster::drift(self)
    }
    fn update_faults(&self, _old: &Self) -> Faults {
        cluster::drift(self)
    }
    fn unsupported(&self) -> Faults {
        Faults::new()
    }
    fn prepare_create(&mut self) {
        self.status = None;
    }
    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }
    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata = kept_metadata(&self.metadata, &old.metadata);
    }
    fn generation_differs(&self, old: &Self) -> bool {
        self.spec != old.spec
    }
}

/// Kinds without a status: their whole body is what a client writes.
macro_rules! without_status {
    ($kind:ty, $fill:path, $faults:path, $update:path, $generation:expr) => {
        impl Admit for $kind {
            fn fill_defaults(&mut self) {
                $fill(self);
            }
            fn faults(&self) -> Faults {
                $faults(self)
            }
            fn update_faults(&self, old: &Self) -> Faults {
                $update(self, old)
            }
            fn unsupported(&self) -> Faults {
                supported::refusals(self)
            }
            fn prepare_create(&mut self) {}
            fn prepare_update(&mut self, _old: &Self) {}
            fn prepare_status_update(&mut self, old: &Self) {
                *self = old.clone();
            }
            fn generation_differs(&self, old: &Self) -> bool {
                let differs: fn(&Self, &Self) -> bool = $generation;
                differs(self, old)
            }
        }
    };
}

fn nothing_to_fill<K>(_object: &mut K) {}

fn event_update(new: &Event, _old: &Event) -> Faults {
    cluster::event(new)
}

fn lease_update(new: &Lease, _old: &Lease) -> Faults {
    cluster::lease(new)
}

without_status!(
    ConfigMap,
    defaults::fill_config_map,
    data::config_map,
    data::config_map_update,
    |_, _| false
);
without_status!(Secret, defaults::fill_secret, data::secret, data::secret_update, |_, _| false);
without_status!(Event, nothing_to_fill, cluster::event, event_update, |_, _| false);
without_status!(Lease, nothing_to_fill, cluster::lease, lease_update, |_, _| false);
without_status!(
    EndpointSlice,
    defaults::fill_endpoint_slice,
    cluster::endpoint_slice,
    cluster::endpoint_slice_update,
    |new, old| {
        let body = |slice: &EndpointSlice| (slice.endpoints.clone(), slice.ports.clone());
        body(new) != body(old)
    }
);

/// A write of the status leaves the metadata as stored; only its precondition is the client's.
fn kept_metadata(new: &ObjectMeta, old: &ObjectMeta) -> ObjectMeta {
    ObjectMeta { resource_version: new.resource_version.clone(), ..old.clone() }
}
