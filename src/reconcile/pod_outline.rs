//! Pure: what the controllers keep of a pod. Decoded whole, a pod of two containers is 32 kB in memory
//! for 5.5 kB of JSON; what they decide by is a tenth of that, and it is all that their cache holds.
//!
//! Still a [`Pod`], so that every decision reads the same of a pod from the cache and of one that a
//! write has just answered; never to be written back, for most of it is not there. A controller that
//! begins to look at another field names it here: the test below compares its decisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::reconcile::replica_set::deletion_rank::DELETION_COST;

/// The parts of a pod that some controller's decision reads.
pub fn outline(pod: &Arc<Pod>) -> Arc<Pod> {
    Arc::new(Pod {
        metadata: metadata(&pod.metadata),
        spec: pod.spec.as_ref().map(spec),
        status: pod.status.as_ref().map(status),
    })
}

/// Whose it is, what selects it, how old it is, whether it goes; and what deleting it costs.
fn metadata(meta: &ObjectMeta) -> ObjectMeta {
    let cost = meta.annotations.as_ref().and_then(|all| all.get_key_value(DELETION_COST));
    ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        labels: meta.labels.clone(),
        annotations: cost.map(|(name, value)| BTreeMap::from([(name.clone(), value.clone())])),
        owner_references: meta.owner_references.clone(),
        creation_timestamp: meta.creation_timestamp.clone(),
        deletion_timestamp: meta.deletion_timestamp.clone(),
        ..ObjectMeta::default()
    }
}

/// Where it is, and the ports that a Service may name.
fn spec(spec: &PodSpec) -> PodSpec {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.as_deref().unwrap_or_default().iter().filter(sidecar);
    let sidecars: Vec<Container> = sidecars.map(container).collect();
    let named =
        |container: &&Container| container.ports.iter().flatten().any(|port| port.name.is_some());
    PodSpec {
        node_name: spec.node_name.clone(),
        hostname: spec.hostname.clone(),
        subdomain: spec.subdomain.clone(),
        containers: spec.containers.iter().filter(named).map(container).collect(),
        init_containers: (!sidecars.is_empty()).then_some(sidecars),
        ..PodSpec::default()
    }
}

fn container(container: &Container) -> Container {
    Container {
        name: container.name.clone(),
        ports: container.ports.clone(),
        restart_policy: container.restart_policy.clone(),
        ..Container::default()
    }
}

/// How far it is, where it is reached, and how often it was restarted.
fn status(status: &PodStatus) -> PodStatus {
    PodStatus {
        phase: status.phase.clone(),
        pod_ip: status.pod_ip.clone(),
        pod_ips: status.pod_ips.clone(),
        conditions: status.conditions.as_deref().map(ready),
        container_statuses: status.container_statuses.as_deref().map(restarted),
        init_container_statuses: status.init_container_statuses.as_deref().map(restarted),
        ..PodStatus::default()
    }
}

fn ready(conditions: &[PodCondition]) -> Vec<PodCondition> {
    let ready = conditions.iter().filter(|condition| condition.type_ == "Ready");
    let state = ready.map(|condition| PodCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        last_transition_time: condition.last_transition_time.clone(),
        ..PodCondition::default()
    });
    state.collect()
}

fn restarted(statuses: &[ContainerStatus]) -> Vec<ContainerStatus> {
    let restarted = statuses.iter().filter(|container| container.restart_count > 0);
    let counts = restarted.map(|container| ContainerStatus {
        name: container.name.clone(),
        restart_count: container.restart_count,
        ..ContainerStatus::default()
    });
    counts.collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Service;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::reconcile::endpoint_slice::endpoint::{endpoint_of, ports_of};
    use crate::reconcile::indexed::pod_terms;
    use crate::reconcile::pod_state::{availability, is_active, is_terminating};
    use crate::reconcile::replica_set::deletion_rank::{Neighbours, rank, reason};

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn one_of(values: Vec<Value>) -> impl Strategy<Value = Value> {
        prop::sample::select(values)
    }

    /// Pods with everything that a decision could depend on, and with what none does.
    fn any_pod() -> impl Strategy<Value = Pod> {
        let meta = (
            one_of(vec![json!(null), json!("2026-01-01T00:00:00Z")]),
            one_of(vec![
                json!(null),
                json!({DELETION_COST: "-3", "other": "x"}),
                json!({"o": "x"}),
            ]),
            one_of(vec![
                json!(null),
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": "r", "uid": "u-r", "controller": true}]),
            ]),
        );
        let spec = (
            one_of(vec![json!(null), json!("n1")]),
            one_of(vec![json!(null), json!("web")]),
            one_of(vec![
                json!(null),
                json!([{"containerPort": 80}]),
                json!([{"containerPort": 81, "name": "http"}, {"containerPort": 53, "protocol": "UDP", "name": "http"}]),
            ]),
        );
        let status = (
            one_of(vec![json!(null), json!("Pending"), json!("Running"), json!("Failed")]),
            one_of(vec![json!(null), json!("True"), json!("False")]),
            one_of(vec![json!(null), json!("10.42.0.7"), json!("fd00::7")]),
            0..3,
            0..3,
        );
        (meta, spec, status).prop_map(|(meta, spec, status)| {
            let (deleted, annotations, owners) = meta;
            let (node, subdomain, ports) = spec;
            let (phase, is_ready, ip, restarts, sidecar_restarts) = status;
            let ips = ip.as_str().map(|ip| vec![json!({"ip": ip})]);
            let count = |name: &str, count: i32| json!({"name": name, "restartCount": count,
                "image": "i", "imageID": "i", "ready": true});
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "a", "uid": "u", "resourceVersion": "7",
                    "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web", "v": "1"},
                    "deletionTimestamp": deleted, "annotations": annotations, "ownerReferences": owners},
                "spec": {"nodeName": node, "hostname": "h", "subdomain": subdomain,
                    "initContainers": [{"name": "once", "image": "i"},
                        {"name": "side", "image": "i", "restartPolicy": "Always",
                            "ports": [{"containerPort": 90, "name": "side"}]}],
                    "containers": [{"name": "c", "image": "i", "ports": ports,
                        "env": [{"name": "A", "value": "b"}]}]},
                "status": {"phase": phase, "podIP": ip, "podIPs": ips,
                    "conditions": [{"type": "PodScheduled", "status": "True"},
                        {"type": "Ready", "status": is_ready.as_str().unwrap_or("Unknown"),
                            "lastTransitionTime": "2026-01-01T00:01:00Z"}],
                    "initContainerStatuses": [count("once", 9), count("side", sidecar_restarts)],
                    "containerStatuses": [count("c", restarts)]},
            }))
            .expect("a pod")
        })
    }

    proptest! {
        #[test]
        fn every_decision_is_the_same(pod in any_pod()) {
            let (whole, kept) = (Arc::new(pod.clone()), outline(&Arc::new(pod)));
            let none = Neighbours::new();
            prop_assert_eq!(rank(&kept, &none, NOW), rank(&whole, &none, NOW));
            prop_assert_eq!(reason(&kept), reason(&whole));
            prop_assert_eq!(availability(&kept, 5, NOW), availability(&whole, 5, NOW));
            prop_assert_eq!(is_active(&kept), is_active(&whole));
            prop_assert_eq!(is_terminating(&kept), is_terminating(&whole));
            prop_assert_eq!(pod_terms(&kept), pod_terms(&whole));
            let service: Service = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "a"},
                "spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 90, "targetPort": "side"},
                    {"port": 53, "protocol": "UDP", "targetPort": "http"}, {"port": 1, "targetPort": 2}]},
            })).expect("a Service");
            prop_assert_eq!(endpoint_of(&service, &kept), endpoint_of(&service, &whole));
            prop_assert_eq!(ports_of(&service, &kept), ports_of(&service, &whole));
            let owners = |pod: &Pod| pod.metadata.owner_references.clone();
            prop_assert_eq!(owners(&kept), owners(&whole));
        }
    }

    #[test]
    fn what_makes_a_pod_large_is_left_out() {
        let env: Vec<Value> =
            (0..50).map(|n| json!({"name": format!("N{n}"), "value": "v"})).collect();
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "annotations": {"a": "x".repeat(1000)}, "managedFields": [{"manager": "m"}]},
            "spec": {"containers": [{"name": "c", "image": "i", "env": env}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "ready": true,
                "restartCount": 0, "image": "i", "imageID": "i", "containerID": "x".repeat(100)}]},
        }))
        .expect("a pod");
        let kept = serde_json::to_string(&*outline(&Arc::new(pod))).expect("serialises");
        assert!(kept.len() < 300, "{kept}");
    }
}
