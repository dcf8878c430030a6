//! Pure: the Endpoints of a Service: what its slices say, in the older form.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::table_cells::{age, first, name};

/// Its row of a Table.
pub(super) fn cells(one: &Endpoints, now: Timestamp) -> Vec<Value> {
    let subsets = one.subsets.iter().flatten();
    let ready: Vec<String> = subsets
        .flat_map(|subset| {
            let addresses = subset.addresses.iter().flatten();
            let at = move |port: Option<i32>| {
                addresses.clone().map(move |address| match port {
                    Some(port) => format!("{}:{port}", address.ip),
                    None => address.ip.clone(),
                })
            };
            match &subset.ports {
                // A headless Service may have no port.
                None => at(None).collect::<Vec<_>>(),
                Some(ports) => ports.iter().flat_map(|port| at(Some(port.port))).collect(),
            }
        })
        .collect();
    // Subsets of addresses that are not ready yet alone: an empty cell, as the reference has it.
    let told = if one.subsets.is_none() { "<none>".to_owned() } else { first(&ready) };
    vec![name(&one.metadata), json!(told), age(&one.metadata, now)]
}

/// One subset for all slices of the same ports. Without a revision: that is the state's.
pub(super) fn endpoints(service: &Service, slices: &[Arc<EndpointSlice>]) -> Endpoints {
    let meta = &service.metadata;
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let ports: Vec<EndpointPort> = slice.ports.iter().flatten().filter_map(port).collect();
        let ports = (!ports.is_empty()).then_some(ports);
        let place = subsets.iter().position(|subset| subset.ports == ports).unwrap_or_else(|| {
            subsets.push(EndpointSubset { ports, ..EndpointSubset::default() });
            subsets.len() - 1
        });
        let subset = &mut subsets[place];
        for endpoint in slice.endpoints.iter().flatten() {
            // Absent means ready, in the words of the slice's own documentation.
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let list =
                if is_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            list.get_or_insert_default().extend(address(endpoint));
        }
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    for list in subsets.iter_mut().flat_map(|subset| {
        [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten()
    }) {
        list.sort_by_key(|address| address.ip.parse::<IpAddr>().ok());
    }
    Endpoints {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.as_deref().map(uid),
            labels: meta.labels.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

/// One of its own, the same as long as the Service is: clients keep objects by their uids, and one that
/// is deleted and made again is another one. RFC 9562 leaves version 8 to who makes it.
fn uid(service: &str) -> String {
    let mut hash: [u8; 32] = Sha256::digest(format!("endpoints/{service}")).into();
    hash[6] = hash[6] & 0x0f | 0x80;
    hash[8] = hash[8] & 0x3f | 0x80;
    let text = hex::encode(&hash[..16]);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

fn port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> Option<EndpointPort> {
    Some(EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.port?,
        protocol: port.protocol.clone(),
    })
}

/// The first address: the others of one endpoint are the same to every client.
fn address(endpoint: &Endpoint) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        hostname: endpoint.hostname.clone(),
        ip: endpoint.addresses.first()?.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(value: Value) -> Arc<EndpointSlice> {
        Arc::new(serde_json::from_value(value).expect("a slice"))
    }

    #[test]
    fn slices_of_the_same_ports_are_one_subset() {
        let of = |port: i32, endpoints: Value| {
            slice(json!({"addressType": "IPv4", "metadata": {"name": "s"},
                "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
                "endpoints": endpoints}))
        };
        let ready =
            |ip: &str, ready: bool| json!({"addresses": [ip], "conditions": {"ready": ready}});
        let slices = [
            of(80, json!([ready("10.0.0.1", true), ready("10.0.0.2", false)])),
            of(80, json!([{"addresses": ["10.0.0.3"]}])),
            of(81, json!([ready("10.0.0.4", true)])),
            of(82, json!([])),
        ];
        let mut service = Service::default();
        service.metadata.name = Some("web".to_owned());
        let subsets = endpoints(&service, &slices).subsets.expect("subsets");
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            list.iter().flatten().map(|address| address.ip.clone()).collect()
        };
        assert_eq!(subsets.len(), 2);
        assert_eq!(ips(&subsets[0].addresses), ["10.0.0.1", "10.0.0.3"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.0.0.2"]);
        assert_eq!(subsets[1].ports.as_ref().expect("ports")[0].port, 81);
        assert_eq!(endpoints(&service, &[]).subsets, None);
    }

    #[test]
    fn it_has_a_uid_of_its_own() {
        let of = |uid: &str| {
            let mut service = Service::default();
            service.metadata.uid = Some(uid.to_owned());
            endpoints(&service, &[]).metadata.uid.expect("a uid")
        };
        let one = of("6f1d1c0e-0000-4000-8000-000000000001");
        assert_eq!(one, of("6f1d1c0e-0000-4000-8000-000000000001"));
        assert_ne!(one, of("6f1d1c0e-0000-4000-8000-000000000002"));
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(one[14..].starts_with('8') && "89ab".contains(&one[19..20]), "{one}");
    }
}
