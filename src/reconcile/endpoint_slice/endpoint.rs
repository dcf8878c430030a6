//! Pure: what one pod is to one Service: an endpoint, and the ports it is reached at.

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::reconcile::pod_outline::{PodOutline, protocol};
use crate::reconcile::pod_state::is_finished;

/// `None` for a pod that has ended or has no IPv4 address yet.
pub fn endpoint_of(service: &Service, pod: &PodOutline) -> Option<Endpoint> {
    if is_finished(pod) {
        return None;
    }
    let address = pod.address?;
    let publishes_unready =
        service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (pod.is_ready, pod.is_deleting);
    let name = service.metadata.name.as_deref();
    let host = pod.host.as_ref().filter(|host| Some(&*host.subdomain) == name);
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_unready || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: host.map(|host| host.hostname.clone()),
        node_name: (!pod.node.is_empty()).then(|| pod.node.to_string()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.to_string()),
            name: Some(pod.name.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// The Service's ports as they are on this pod, in the Service's order. A named target port that the
/// pod does not have is left out: another pod of the Service may have it.
pub fn ports_of(service: &Service, pod: &PodOutline) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let port = |port: &ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
            port: Some(target_port(port, pod)?),
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports.filter_map(port).collect()
}

fn target_port(port: &ServicePort, pod: &PodOutline) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let wanted = protocol(port.protocol.as_deref());
            let mut named = pod.ports.iter().filter(|named| named.name == *name);
            named.find(|named| named.protocol == wanted).map(|named| named.number)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::reconcile::pod_outline::outline;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "a"}, "spec": spec,
        }))
        .expect("a Service")
    }

    fn pod(ready: bool, deleting: bool, extra: Value) -> Arc<PodOutline> {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "a", "uid": "u"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [
                {"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            ]}]},
            "status": {"phase": "Running", "podIP": "10.42.0.7",
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        json_patch::merge(&mut pod, &extra);
        outline(&serde_json::from_value(pod).expect("a Pod"))
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let plain = service(json!({}));
        let publishing = service(json!({"publishNotReadyAddresses": true}));
        // (publishes, ready, deleting) -> (ready, serving, terminating)
        let cases = [
            (&plain, true, false, (true, true, false)),
            (&plain, false, false, (false, false, false)),
            (&plain, true, true, (false, true, true)),
            (&plain, false, true, (false, false, true)),
            (&publishing, false, false, (true, false, false)),
            (&publishing, false, true, (true, false, true)),
        ];
        for (service, ready, deleting, expected) in cases {
            let endpoint = endpoint_of(service, &pod(ready, deleting, json!({}))).expect("one");
            let is = endpoint.conditions.expect("all three are told");
            assert_eq!((is.ready, is.serving, is.terminating), {
                let (ready, serving, terminating) = expected;
                (Some(ready), Some(serving), Some(terminating))
            });
        }
    }

    #[test]
    fn pods_without_an_address_or_an_end_are_none() {
        let service = service(json!({}));
        for extra in [
            json!({"status": {"podIP": null}}),
            json!({"status": {"podIP": "fd00::7"}}),
            json!({"status": {"phase": "Failed"}}),
            json!({"status": {"phase": "Succeeded"}}),
        ] {
            assert_eq!(endpoint_of(&service, &pod(true, false, extra)), None);
        }
    }

    #[test]
    fn the_hostname_counts_in_its_own_subdomain_only() {
        let service = service(json!({}));
        let named = |subdomain| {
            let extra = json!({"spec": {"hostname": "p-0", "subdomain": subdomain}});
            endpoint_of(&service, &pod(true, false, extra)).expect("one").hostname
        };
        assert_eq!(named("web").as_deref(), Some("p-0"));
        assert_eq!(named("other"), None);
    }

    #[test]
    fn named_ports_are_resolved_on_the_pod() {
        let service = service(json!({"ports": [
            {"name": "a", "port": 80, "targetPort": "http", "protocol": "TCP"},
            {"name": "b", "port": 53, "targetPort": "dns", "protocol": "UDP"},
            {"name": "c", "port": 54, "targetPort": "dns", "protocol": "TCP"},
            {"name": "d", "port": 90},
        ]}));
        let ports = ports_of(&service, &pod(true, false, json!({})));
        let found: Vec<_> =
            ports.iter().map(|port| (port.name.as_deref().unwrap_or(""), port.port)).collect();
        assert_eq!(found, [("a", Some(8080)), ("b", Some(53)), ("d", Some(90))]);
    }
}
