//! Pure: what the rules need to know of Services and EndpointSlices, and which endpoints count.
//!
//! Projections: a Service is a few kilobytes, what the rules read of it is a few dozen bytes. The
//! choice of endpoints is kube-proxy's (`pkg/proxy/topology.go`): the ready ones; if there is none,
//! those that still serve while they terminate.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::object::source::is_report_only;
use crate::object::{Key, Object};

use super::rule::Protocol;

/// The label that names a slice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A Service as the rules see it: addresses and ports. Headless and ExternalName Services have no
/// rules, hence no ports here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    pub uid: String,
    /// Somebody changed the rules and they are to be put back; else the change is only shown.
    pub heal: bool,
    pub ports: Vec<PortFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Empty for the only port of a Service.
    pub name: String,
    pub protocol: Protocol,
    pub cluster_ip: Ipv4Addr,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// One address of a slice with one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFacts {
    /// The name of the Service's port.
    pub port: String,
    pub protocol: Protocol,
    pub address: SocketAddrV4,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

/// What the rules need of a Service.
pub fn service_facts(service: &Service) -> ServiceFacts {
    let heal = !is_report_only(&service.metadata);
    ServiceFacts { uid: service.uid().to_owned(), heal, ports: ports(service) }
}

fn ports(service: &Service) -> Vec<PortFacts> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(cluster_ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok())
    else {
        return Vec::new();
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let has_node_ports = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(PortFacts {
            name: port.name.clone().unwrap_or_default(),
            protocol: Protocol::of_kubernetes(port.protocol.as_deref())?,
            cluster_ip,
            port: u16::try_from(port.port).ok()?,
            node_port: port
                .node_port
                .filter(|_| has_node_ports)
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port > 0),
        })
    });
    ports.collect()
}

/// The Service a slice belongs to; `None` for a slice that names none.
pub fn slice_service(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    Some(Key::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// Every (address, port) of a slice. An absent condition means ready, serving, not terminating, as
/// the EndpointSlice API says. Addresses that are not IPv4 are left out; of several addresses of
/// one endpoint the first counts, as in kube-proxy.
pub fn slice_endpoints(slice: &EndpointSlice) -> Vec<EndpointFacts> {
    let mut found = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let Some(ip) = endpoint.addresses.first().and_then(|text| text.parse::<Ipv4Addr>().ok())
        else {
            continue;
        };
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|all| all.ready).unwrap_or(true);
        let serving = conditions.and_then(|all| all.serving).unwrap_or(true);
        let terminating = conditions.and_then(|all| all.terminating).unwrap_or(false);
        for port in slice.ports.iter().flatten() {
            let number = port.port.and_then(|number| u16::try_from(number).ok());
            let protocol = Protocol::of_kubernetes(port.protocol.as_deref());
            let (Some(number), Some(protocol)) = (number, protocol) else { continue };
            found.push(EndpointFacts {
                port: port.name.clone().unwrap_or_default(),
                protocol,
                address: SocketAddrV4::new(ip, number),
                ready,
                serving,
                terminating,
            });
        }
    }
    found
}

/// Where new connections to a port go: in order of address, each once. An address that several
/// slices name is ready if one of them says so.
pub fn chosen<'a>(
    port: &PortFacts,
    endpoints: impl Iterator<Item = &'a EndpointFacts>,
) -> Vec<SocketAddrV4> {
    let (mut ready, mut last_resort) = (BTreeMap::new(), BTreeMap::new());
    for endpoint in endpoints {
        if endpoint.port != port.name || endpoint.protocol != port.protocol {
            continue;
        }
        if endpoint.ready {
            ready.insert(endpoint.address, ());
        } else if endpoint.serving && endpoint.terminating {
            last_resort.insert(endpoint.address, ());
        }
    }
    if ready.is_empty() { last_resort } else { ready }.into_keys().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(endpoints: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints,
        }))
        .expect("a slice")
    }

    fn port() -> PortFacts {
        PortFacts {
            name: String::new(),
            protocol: Protocol::Tcp,
            cluster_ip: Ipv4Addr::new(10, 43, 0, 9),
            port: 80,
            node_port: None,
        }
    }

    fn hosts(slice: &EndpointSlice) -> Vec<String> {
        let endpoints = slice_endpoints(slice);
        chosen(&port(), endpoints.iter()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ready_ones_first_then_those_that_still_serve() {
        let ending = json!({"addresses": ["10.42.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let broken = json!({"addresses": ["10.42.0.5"], "conditions": {"ready": false, "serving": false, "terminating": true}});
        let unready =
            json!({"addresses": ["10.42.0.6"], "conditions": {"ready": false, "serving": true}});
        let silent = json!({"addresses": ["10.42.0.7"]});
        assert_eq!(hosts(&slice(json!([ending, broken, unready, silent]))), ["10.42.0.7:8080"]);
        assert_eq!(hosts(&slice(json!([ending, broken, unready]))), ["10.42.0.4:8080"]);
        assert_eq!(hosts(&slice(json!([broken, unready]))), Vec::<String>::new());
    }

    #[test]
    fn services_without_an_address_have_no_rules() {
        let service = |spec| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "s", "annotations": {"ballast.dev/heal": "false"}}, "spec": spec}))
                .expect("a service")
        };
        let ports = json!([{"port": 80, "nodePort": 30080}]);
        let headless = service_facts(&service(json!({"clusterIP": "None", "ports": ports})));
        assert!(headless.ports.is_empty() && !headless.heal);
        let external =
            service_facts(&service(json!({"type": "ExternalName", "externalName": "x"})));
        assert!(external.ports.is_empty());
        let plain = service_facts(&service(json!({"clusterIP": "10.43.0.9", "ports": ports})));
        assert_eq!(plain.ports, [port()], "a ClusterIP service opens no node port");
    }
}
