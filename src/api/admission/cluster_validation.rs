//! Pure: what is wrong with the kinds of the cluster itself: Namespace, Node, Event, Lease,
//! EndpointSlice, and our own Source, Inventory and Drift.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Taint};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::admit::Faults;
use super::field_path::{FieldPath, quoted};
use super::metadata_validation as metadata;
use super::metadata_validation::{label_value_faults, not_negative, qualified_name_faults};
use super::pod_security::policy;
use super::service_validation::special_address;
use crate::object::Kind;
use crate::object::drift::Drift;
use crate::object::inventory::Inventory;
use crate::object::name::label_faults;
use crate::object::quantity::Quantity;
use crate::object::source::Source;

/// Endpoints of one slice, and addresses of one endpoint.
const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;

pub fn namespace(namespace: &Namespace) -> Faults {
    let mut faults = metadata::faults(&namespace.metadata, Kind::Namespace);
    let path = FieldPath::root("spec");
    let list = path.child("finalizers");
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    for (index, name) in finalizers.into_iter().flatten().enumerate() {
        faults.extend(list.index(index).each_invalid(name, qualified_name_faults(name)));
    }
    faults.extend(policy_faults(namespace));
    faults
}

/// Labels of the pods' policy that were wrong before stay as they are.
pub fn namespace_update(new: &Namespace, old: &Namespace) -> Faults {
    let (mut faults, before) = (namespace(new), policy_faults(old));
    faults.retain(|fault| !before.contains(fault));
    faults
}

fn policy_faults(namespace: &Namespace) -> Faults {
    namespace.metadata.labels.as_ref().map(|labels| policy(labels).1).unwrap_or_default()
}

pub fn node(node: &Node) -> Faults {
    let mut faults = metadata::faults(&node.metadata, Kind::Node);
    let path = FieldPath::root("spec");
    if let Some(spec) = &node.spec {
        faults.extend(taint_faults(spec.taints.as_deref().unwrap_or_default(), &path));
        let list = path.child("podCIDRs");
        for (index, range) in spec.pod_cidrs.iter().flatten().enumerate() {
            if range.parse::<IpNet>().is_err() {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                faults.push(list.index(index).invalid(quoted(range), detail));
            }
        }
    }
    let status = FieldPath::root("status");
    for (field, list) in [
        ("capacity", node.status.as_ref().and_then(|status| status.capacity.as_ref())),
        ("allocatable", node.status.as_ref().and_then(|status| status.allocatable.as_ref())),
    ] {
        let path = status.child(field);
        for (name, amount) in list.into_iter().flatten() {
            if Quantity::parse(&amount.0).is_ok_and(Quantity::is_negative) {
                let detail = "must be greater than or equal to 0";
                faults.push(path.key(name).invalid(quoted(&amount.0), detail));
            }
        }
    }
    faults
}

fn taint_faults(taints: &[Taint], path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let list = path.child("taints");
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = list.index(index);
        faults
            .extend(path.child("key").each_invalid(&taint.key, qualified_name_faults(&taint.key)));
        let value = taint.value.as_deref().unwrap_or_default();
        let sentences = label_value_faults(value);
        if !sentences.is_empty() {
            faults.push(path.child("value").invalid(quoted(value), sentences.join(";")));
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if taint.effect.is_empty() {
            faults.push(path.child("effect").required(""));
        } else if !effects.contains(&taint.effect.as_str()) {
            faults.push(path.child("effect").not_supported(&taint.effect, &effects));
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            let value = serde_json::json!({"key": taint.key, "effect": taint.effect}).to_string();
            faults.push(path.duplicate(value));
        }
    }
    faults
}

pub fn node_update(new: &Node, old: &Node) -> Faults {
    let mut faults = node(new);
    let ranges = |node: &Node| {
        node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default()
    };
    let before = ranges(old);
    if !before.is_empty() && before != ranges(new) {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        let path = FieldPath::root("spec");
        faults.push(path.child("podCIDRs").forbidden(detail));
    }
    faults
}

pub fn event(event: &Event) -> Faults {
    let mut faults = metadata::faults(&event.metadata, Kind::Event);
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    let about = event.involved_object.namespace.as_deref().unwrap_or_default();
    let path = FieldPath::root("involvedObject");
    // An event about a cluster-scoped object lives in `default`.
    let fits = if about.is_empty() { own == "default" } else { own == about };
    if !fits {
        let detail = "does not match event.namespace";
        faults.push(path.child("namespace").invalid(quoted(about), detail));
    }
    faults
}

pub fn lease(lease: &Lease) -> Faults {
    let mut faults = metadata::faults(&lease.metadata, Kind::Lease);
    let Some(spec) = &lease.spec else { return faults };
    let path = FieldPath::root("spec");
    if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
        let field = path.child("leaseDurationSeconds");
        faults.push(field.invalid(seconds.to_string(), "must be greater than 0"));
    }
    let transitions = spec.lease_transitions.map(i64::from);
    faults.extend(not_negative(transitions, &path.child("leaseTransitions")));
    faults
}

pub fn endpoint_slice(slice: &EndpointSlice) -> Faults {
    let mut faults = metadata::faults(&slice.metadata, Kind::EndpointSlice);
    let types = ["FQDN", "IPv4", "IPv6"];
    let path = FieldPath::root("addressType");
    if slice.address_type.is_empty() {
        faults.push(path.required(""));
    } else if !types.contains(&slice.address_type.as_str()) {
        faults.push(path.not_supported(&slice.address_type, &types));
    }
    let path = FieldPath::root("endpoints");
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > MOST_ENDPOINTS {
        faults.push(path.too_many(endpoints.len(), MOST_ENDPOINTS));
        return faults;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        faults.extend(endpoint_faults(endpoint, &slice.address_type, &path.index(index)));
    }
    faults.extend(endpoint_ports(slice.ports.as_deref().unwrap_or_default()));
    faults
}

fn endpoint_faults(endpoint: &Endpoint, address_type: &str, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let list = path.child("addresses");
    if endpoint.addresses.is_empty() {
        faults.push(list.required("must contain at least 1 address"));
    } else if endpoint.addresses.len() > MOST_ADDRESSES {
        faults.push(list.too_many(endpoint.addresses.len(), MOST_ADDRESSES));
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let path = list.index(index);
        let parsed: Option<IpAddr> = match address_type {
            "IPv4" => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "IPv6" => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => continue,
        };
        let sentence = match parsed {
            None if address_type == "IPv4" => Some("must be an IPv4 address"),
            None => Some("must be an IPv6 address"),
            Some(parsed) => special_address(parsed),
        };
        faults.extend(sentence.map(|sentence| path.invalid(quoted(address), sentence)));
    }
    if let Some(name) = endpoint.hostname.as_deref() {
        faults.extend(path.child("hostname").each_invalid(name, label_faults(name)));
    }
    faults
}

fn endpoint_ports(ports: &[EndpointPort]) -> Faults {
    let mut faults = Faults::new();
    let list = FieldPath::root("ports");
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = list.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            faults.extend(path.child("name").each_invalid(name, label_faults(name)));
        }
        if !names.insert(name) {
            faults.push(path.child("name").duplicate(quoted(name)));
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !matches!(protocol, "SCTP" | "TCP" | "UDP") {
            faults.push(path.child("protocol").not_supported(protocol, &["SCTP", "TCP", "UDP"]));
        }
    }
    faults
}

pub fn endpoint_slice_update(new: &EndpointSlice, old: &EndpointSlice) -> Faults {
    let mut faults = endpoint_slice(new);
    if new.address_type != old.address_type {
        let path = FieldPath::root("addressType");
        faults.push(path.invalid(quoted(&new.address_type), "field is immutable"));
    }
    faults
}

pub fn source(source: &Source) -> Faults {
    let mut faults = metadata::faults(&source.metadata, Kind::Source);
    let path = FieldPath::root("spec");
    for (field, value) in [("url", &source.spec.url), ("branch", &source.spec.branch)] {
        if value.is_empty() {
            faults.push(path.child(field).required(""));
        }
    }
    let folder = &source.spec.path;
    if folder.starts_with('/') || folder.split('/').any(|part| part == "..") {
        let detail = "must be a path inside the repository";
        faults.push(path.child("path").invalid(quoted(folder), detail));
    }
    faults
}

pub fn inventory(inventory: &Inventory) -> Faults {
    metadata::faults(&inventory.metadata, Kind::Inventory)
}

pub fn drift(drift: &Drift) -> Faults {
    let mut faults = metadata::faults(&drift.metadata, Kind::Drift);
    let path = FieldPath::root("spec");
    if drift.spec.field.is_empty() {
        faults.push(path.child("field").required(""));
    }
    if drift.spec.object.name.is_empty() {
        faults.push(path.child("object").child("name").required(""));
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slices_hold_addresses_of_their_type_that_a_pod_can_have() {
        let faults_of = |address: &str| {
            let slice: EndpointSlice = serde_json::from_value(json!({
                "metadata": {"name": "s", "namespace": "d"}, "addressType": "IPv4",
                "endpoints": [{"addresses": [address]}],
                "ports": [{"name": "a", "protocol": "TCP", "port": 1}]}))
            .unwrap();
            endpoint_slice(&slice).len()
        };
        assert_eq!(faults_of("10.42.0.2"), 0);
        for bad in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "::1", "x"] {
            assert_eq!(faults_of(bad), 1, "{bad}");
        }
    }

    #[test]
    fn leases_taints_and_events() {
        let lease_of: Lease = serde_json::from_value(json!({
            "metadata": {"name": "l", "namespace": "d"}, "spec": {"leaseDurationSeconds": 0}}))
        .unwrap();
        assert_eq!(lease(&lease_of)[0].field, "spec.leaseDurationSeconds");
        let node_of: Node = serde_json::from_value(json!({"metadata": {"name": "n"},
            "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"},
                {"key": "b", "effect": "Maybe"}], "podCIDRs": ["x"]}}))
        .unwrap();
        let fields: Vec<String> = node(&node_of).into_iter().map(|fault| fault.field).collect();
        assert_eq!(fields, ["spec.taints[1]", "spec.taints[2].effect", "spec.podCIDRs[0]"]);
        let event_of: Event = serde_json::from_value(json!({
            "metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": "b"}}))
        .unwrap();
        assert_eq!(event(&event_of).len(), 1);
    }
}
