//! Pure: the defaults of every kind but pods, and what a new or updated object begins with.

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentStatus, ReplicaSet, ReplicaSetStatus, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, NamespaceStatus, Node, Secret, Service, ServicePort, ServiceSpec,
    ServiceStatus,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod_defaults::{fill_template, or_text};
use super::quantities;

/// The label by which selectors find a namespace by its name.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Held by the namespace's controller until the content is gone.
const NAMESPACE_FINALIZER: &str = "kubernetes";
/// Three hours, of `sessionAffinity: ClientIP`.
const SESSION_SECONDS: i32 = 10_800;

pub fn fill_deployment(deployment: &mut Deployment) {
    let spec = deployment.spec.get_or_insert_default();
    spec.replicas.get_or_insert(1);
    spec.revision_history_limit.get_or_insert(10);
    spec.progress_deadline_seconds.get_or_insert(600);
    spec.min_ready_seconds.take_if(|seconds| *seconds == 0);
    spec.paused.take_if(|paused| !*paused);
    let strategy = spec.strategy.get_or_insert_default();
    or_text(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let rolling: &mut RollingUpdateDeployment = strategy.rolling_update.get_or_insert_default();
        let quarter = || IntOrString::String("25%".to_owned());
        rolling.max_unavailable.get_or_insert_with(quarter);
        rolling.max_surge.get_or_insert_with(quarter);
    }
    fill_template(&mut spec.template);
}

pub fn fill_replica_set(set: &mut ReplicaSet) {
    let spec = set.spec.get_or_insert_default();
    spec.replicas.get_or_insert(1);
    spec.min_ready_seconds.take_if(|seconds| *seconds == 0);
    fill_template(spec.template.get_or_insert_default());
}

pub fn begin_deployment(deployment: &mut Deployment) {
    deployment.status = Some(DeploymentStatus::default());
}

pub fn begin_replica_set(set: &mut ReplicaSet) {
    set.status = Some(ReplicaSetStatus::default());
}

pub fn fill_namespace(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) {
        namespace
            .metadata
            .labels
            .get_or_insert_default()
            .insert(NAMESPACE_NAME_LABEL.to_owned(), name);
    }
}

pub fn begin_namespace(namespace: &mut Namespace) {
    let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|name| name == NAMESPACE_FINALIZER) {
        finalizers.push(NAMESPACE_FINALIZER.to_owned());
    }
    namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), conditions: None });
}

pub fn fill_node(node: &mut Node) {
    node.spec.get_or_insert_default();
    quantities::each(node, &mut quantities::canonical);
    if let Some(status) = &mut node.status
        && status.allocatable.is_none()
    {
        status.allocatable.clone_from(&status.capacity);
    }
}

pub fn fill_config_map(map: &mut ConfigMap) {
    map.data.take_if(|data| data.is_empty());
    map.binary_data.take_if(|data| data.is_empty());
}

/// `stringData` is write-only: it goes over `data`.
pub fn fill_secret(secret: &mut Secret) {
    or_text(&mut secret.type_, "Opaque");
    for (key, text) in secret.string_data.take().into_iter().flatten() {
        secret.data.get_or_insert_default().insert(key, ByteString(text.into_bytes()));
    }
    secret.data.take_if(|data| data.is_empty());
}

pub fn fill_endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
        or_text(&mut port.protocol, "TCP");
    }
}

pub fn fill_service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    or_text(&mut spec.session_affinity, "None");
    or_text(&mut spec.type_, "ClusterIP");
    drop_empty_service_fields(spec);
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let config = spec.session_affinity_config.get_or_insert_default();
        config.client_ip.get_or_insert_default().timeout_seconds.get_or_insert(SESSION_SECONDS);
    } else if spec.session_affinity.as_deref() == Some("None") {
        spec.session_affinity_config = None;
    }
    spec.ports.iter_mut().flatten().for_each(fill_service_port);
    let kind = spec.type_.as_deref().unwrap_or_default();
    let outside = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && spec.external_ips.is_some());
    if kind == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    if outside {
        or_text(&mut spec.external_traffic_policy, "Cluster");
    }
    if matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer" | "ClusterIP")) {
        or_text(&mut spec.internal_traffic_policy, "Cluster");
        or_text(&mut spec.ip_family_policy, "SingleStack");
        spec.ip_families.get_or_insert_with(|| vec!["IPv4".to_owned()]);
    }
}

fn fill_service_port(port: &mut ServicePort) {
    or_text(&mut port.protocol, "TCP");
    let unset = match &port.target_port {
        None => true,
        Some(IntOrString::Int(number)) => *number == 0,
        Some(IntOrString::String(name)) => name.is_empty(),
    };
    if unset {
        port.target_port = Some(IntOrString::Int(port.port));
    }
    port.name.take_if(|name| name.is_empty());
    port.node_port.take_if(|number| *number == 0);
}

fn drop_empty_service_fields(spec: &mut ServiceSpec) {
    spec.cluster_ip.take_if(|address| address.is_empty());
    spec.cluster_ips.take_if(|list| list.is_empty());
    spec.external_ips.take_if(|list| list.is_empty());
    spec.external_name.take_if(|name| name.is_empty());
    spec.external_traffic_policy.take_if(|policy| policy.is_empty());
    spec.ip_families.take_if(|list| list.is_empty());
    spec.load_balancer_source_ranges.take_if(|list| list.is_empty());
    spec.ports.take_if(|list| list.is_empty());
    spec.selector.take_if(|map| map.is_empty());
    spec.publish_not_ready_addresses.take_if(|set| !*set);
}

/// `clusterIP` and the first of `clusterIPs` are one value; a create may name either.
pub fn begin_service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    drop_empty_service_fields(spec);
    if let (Some(address), None) = (&spec.cluster_ip, &spec.cluster_ips) {
        spec.cluster_ips = Some(vec![address.clone()]);
    }
    service.status =
        Some(ServiceStatus { load_balancer: Some(Default::default()), ..ServiceStatus::default() });
}

/// What a client may leave out of a Service's update, and what goes with a change of type
/// (`normalizeClusterIPs`, `patchAllocatedValues`, `dropTypeDependentFields`).
pub fn carry_over_service(service: &mut Service, old: &Service) {
    service.status.clone_from(&old.status);
    let spec = service.spec.get_or_insert_default();
    drop_empty_service_fields(spec);
    let nothing = ServiceSpec::default();
    let old = old.spec.as_ref().unwrap_or(&nothing);
    align_cluster_ips(spec, old);
    let (was, is) = (ServiceNeeds::of(old), ServiceNeeds::of(spec));
    if was.cluster_ip && is.cluster_ip {
        if spec.cluster_ip.is_none() {
            spec.cluster_ip.clone_from(&old.cluster_ip);
        }
        if spec.cluster_ips.is_none() && spec.cluster_ip == old.cluster_ip {
            spec.cluster_ips.clone_from(&old.cluster_ips);
        }
    } else if was.cluster_ip && spec.cluster_ips == old.cluster_ips {
        spec.cluster_ip = None;
        spec.cluster_ips = None;
    }
    if was.cluster_ip && !is.cluster_ip {
        drop_same(&mut spec.ip_families, &old.ip_families);
        drop_same(&mut spec.ip_family_policy, &old.ip_family_policy);
        drop_same(&mut spec.internal_traffic_policy, &old.internal_traffic_policy);
    }
    if was.node_ports && is.node_ports {
        keep_node_ports(spec, old);
    } else if was.node_ports && node_ports(spec) == node_ports(old) {
        spec.ports.iter_mut().flatten().for_each(|port| port.node_port = None);
    }
    if was.outside && !is.outside {
        drop_same(&mut spec.external_traffic_policy, &old.external_traffic_policy);
    }
    if old.type_.as_deref() == Some("LoadBalancer") && spec.type_.as_deref() != Some("LoadBalancer")
    {
        drop_same(
            &mut spec.allocate_load_balancer_node_ports,
            &old.allocate_load_balancer_node_ports,
        );
    }
}

fn drop_same<T: PartialEq>(new: &mut Option<T>, old: &Option<T>) {
    if new == old {
        *new = None;
    }
}

/// A client that knows only one of the two fields changes both with it.
fn align_cluster_ips(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if spec.cluster_ip == old.cluster_ip {
        if spec.cluster_ips.is_none() && old.cluster_ips.is_some() {
            spec.cluster_ip = None;
        }
        return;
    }
    if spec.cluster_ips == old.cluster_ips || spec.cluster_ips.is_none() {
        spec.cluster_ips = spec.cluster_ip.clone().map(|address| vec![address]);
    }
}

/// What a Service's type asks for.
struct ServiceNeeds {
    cluster_ip: bool,
    node_ports: bool,
    outside: bool,
}

impl ServiceNeeds {
    fn of(spec: &ServiceSpec) -> Self {
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let node_ports = kind == "NodePort"
            || (kind == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false));
        Self {
            cluster_ip: matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | ""),
            node_ports,
            outside: node_ports
                || kind == "LoadBalancer"
                || (kind == "ClusterIP" && spec.external_ips.is_some()),
        }
    }
}

fn node_ports(spec: &ServiceSpec) -> Vec<i32> {
    let mut all: Vec<i32> =
        spec.ports.iter().flatten().filter_map(|port| port.node_port).filter(|p| *p != 0).collect();
    all.sort_unstable();
    all
}

/// A port without a number keeps the one that its name had, unless another port took it.
fn keep_node_ports(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let mut used = node_ports(spec);
    for port in spec.ports.iter_mut().flatten() {
        if port.node_port.unwrap_or(0) != 0 {
            continue;
        }
        let name = |port: &ServicePort| port.name.clone().unwrap_or_default();
        let before = old.ports.iter().flatten().find(|old| name(old) == name(port));
        if let Some(number) = before.and_then(|before| before.node_port)
            && !used.contains(&number)
        {
            port.node_port = Some(number);
            used.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        let mut service: Service =
            serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
        fill_service(&mut service);
        service
    }

    #[test]
    fn an_update_may_leave_out_what_was_allocated() {
        let old = service(
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30001}]}),
        );
        let mut new = service(json!({"type": "NodePort",
            "ports": [{"name": "b", "port": 81}, {"name": "c", "port": 82}]}));
        carry_over_service(&mut new, &old);
        let spec = new.spec.unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(spec.cluster_ips, Some(vec!["10.0.0.1".to_owned()]));
        let ports: Vec<_> = spec.ports.unwrap().iter().map(|port| port.node_port).collect();
        assert_eq!(ports, [Some(30001), None]);
    }

    #[test]
    fn a_change_of_type_lets_addresses_go() {
        let old = service(
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80, "nodePort": 30000}]}),
        );
        let mut new = old.clone();
        new.spec.as_mut().unwrap().type_ = Some("ClusterIP".into());
        carry_over_service(&mut new, &old);
        let spec = new.spec.unwrap();
        assert_eq!(spec.ports.unwrap()[0].node_port, None);
        assert_eq!(spec.external_traffic_policy, None);
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn string_data_goes_over_data() {
        let mut secret: Secret = serde_json::from_value(
            json!({"data": {"a": "MQ=="}, "stringData": {"a": "2", "b": "3"}}),
        )
        .unwrap();
        fill_secret(&mut secret);
        let data = secret.data.unwrap();
        assert_eq!((&data["a"].0[..], &data["b"].0[..]), (&b"2"[..], &b"3"[..]));
        assert!(secret.string_data.is_none());
    }
}
