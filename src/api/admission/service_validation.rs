//! Pure: what is wrong with a Service (`ValidateService`), except what only the whole cluster
//! knows: that is `addresses`'.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::admit::Faults;
use super::field_path::{FieldPath, quoted, shown};
use super::metadata_validation as metadata;
use crate::object::Kind;
use crate::object::name::{label_faults, subdomain_faults};

/// `sessionAffinityConfig.clientIP.timeoutSeconds`: a day.
const LONGEST_SESSION_SECONDS: i32 = 86_400;

pub fn service(service: &Service) -> Faults {
    let mut faults = metadata::faults(&service.metadata, Kind::Service);
    let path = FieldPath::root("spec");
    let nothing = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&nothing);
    let kind = spec.type_.as_deref().unwrap_or_default();
    let headless = is_headless(spec);
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless && kind != "ExternalName" {
        faults.push(path.child("ports").required(""));
    }
    faults.extend(type_faults(spec, kind, &path));
    let mut names = Vec::new();
    let list = path.child("ports");
    for (index, port) in ports.iter().enumerate() {
        faults.extend(port_faults(port, ports.len() > 1, &mut names, &list.index(index)));
    }
    if let Some(selector) = &spec.selector {
        faults.extend(metadata::labels(Some(selector), &path.child("selector")));
    }
    faults.extend(affinity_faults(spec, &path));
    faults.extend(cluster_ip_faults(spec, kind, &path));
    faults.extend(external_faults(spec, kind, &path));
    faults.extend(node_port_faults(spec, kind, &path));
    faults.extend(duplicate_ports(ports, &path));
    faults
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.as_ref().is_some_and(|list| *list == ["None"])
}

fn type_faults(spec: &ServiceSpec, kind: &str, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    match kind {
        "LoadBalancer" | "NodePort" => {
            if is_headless(spec) {
                let value = quoted(spec.cluster_ip.as_deref().unwrap_or_default());
                let detail = format!("may not be set to 'None' for {kind} services");
                faults.push(path.child("clusterIPs").index(0).invalid(value, detail));
            }
        }
        "ExternalName" => {
            if spec.cluster_ips.is_some() || spec.cluster_ip.is_some() {
                let detail = "may not be set for ExternalName services";
                faults.push(path.child("clusterIPs").forbidden(detail));
            }
            let name = spec.external_name.as_deref().unwrap_or_default();
            let field = path.child("externalName");
            if name.is_empty() {
                faults.push(field.required(""));
            } else {
                // A trailing dot is a fully qualified name and allowed.
                let bare = name.strip_suffix('.').unwrap_or(name);
                faults.extend(field.each_invalid(name, subdomain_faults(bare)));
            }
        }
        "ClusterIP" => {}
        "" => faults.push(path.child("type").required("")),
        other => {
            let supported = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
            faults.push(path.child("type").not_supported(other, &supported));
        }
    }
    faults
}

fn port_faults<'s>(
    port: &'s ServicePort,
    needs_name: bool,
    names: &mut Vec<&'s str>,
    path: &FieldPath<'_>,
) -> Faults {
    let mut faults = Faults::new();
    let name = port.name.as_deref().unwrap_or_default();
    let field = path.child("name");
    if name.is_empty() {
        if needs_name {
            faults.push(field.required(""));
        }
    } else {
        faults.extend(field.each_invalid(name, label_faults(name)));
        if names.contains(&name) {
            faults.push(field.duplicate(quoted(name)));
        }
        names.push(name);
    }
    faults.extend(port_number(port.port, &path.child("port")));
    let protocol = port.protocol.as_deref().unwrap_or_default();
    if protocol.is_empty() {
        faults.push(path.child("protocol").required(""));
    } else if !matches!(protocol, "SCTP" | "TCP" | "UDP") {
        faults.push(path.child("protocol").not_supported(protocol, &["SCTP", "TCP", "UDP"]));
    }
    let target = port.target_port.clone().unwrap_or_default();
    faults.extend(port_reference(&target, &path.child("targetPort")));
    if let Some(protocol) = port.app_protocol.as_deref() {
        let sentences = metadata::qualified_name_faults(protocol);
        faults.extend(path.child("appProtocol").each_invalid(protocol, sentences));
    }
    faults
}

/// `must be between 1 and 65535, inclusive`
pub fn port_number(number: i32, path: &FieldPath<'_>) -> Faults {
    if (1..=65_535).contains(&number) {
        return Faults::new();
    }
    vec![path.invalid(number.to_string(), "must be between 1 and 65535, inclusive")]
}

/// A port's number, or the name that a container gave it.
pub fn port_reference(port: &IntOrString, path: &FieldPath<'_>) -> Faults {
    match port {
        IntOrString::Int(number) => port_number(*number, path),
        IntOrString::String(name) => path.each_invalid(name, port_name_faults(name)),
    }
}

/// An IANA service name.
pub fn port_name_faults(name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.len() > 15 {
        faults.push("must be no more than 15 characters".to_owned());
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        faults
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

fn affinity_faults(spec: &ServiceSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let affinity = spec.session_affinity.as_deref().unwrap_or_default();
    match affinity {
        "" => faults.push(path.child("sessionAffinity").required("")),
        "None" => {
            if spec.session_affinity_config.is_some() {
                let detail = "must not be set when session affinity is None";
                faults.push(path.child("sessionAffinityConfig").forbidden(detail));
            }
        }
        "ClientIP" => {
            let config = spec.session_affinity_config.as_ref();
            let seconds = config
                .and_then(|config| config.client_ip.as_ref())
                .and_then(|ip| ip.timeout_seconds);
            let field = path.child("sessionAffinityConfig");
            let field = field.child("clientIP");
            let field = field.child("timeoutSeconds");
            match seconds {
                None => faults.push(
                    path.child("sessionAffinityConfig")
                        .required("when session affinity type is ClientIP"),
                ),
                Some(seconds) if !(1..=LONGEST_SESSION_SECONDS).contains(&seconds) => {
                    let detail =
                        format!("must be greater than 0 and less than {LONGEST_SESSION_SECONDS}");
                    faults.push(field.invalid(seconds.to_string(), detail));
                }
                Some(_) => {}
            }
        }
        other => {
            let field = path.child("sessionAffinity");
            faults.push(field.not_supported(other, &["ClientIP", "None"]));
        }
    }
    faults
}

fn cluster_ip_faults(spec: &ServiceSpec, kind: &str, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    if kind == "ExternalName" {
        return faults;
    }
    if let Some(policy) = spec.ip_family_policy.as_deref() {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !supported.contains(&policy) {
            faults.push(path.child("ipFamilyPolicy").not_supported(policy, &supported));
        }
    }
    let families = path.child("ipFamilies");
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        if !matches!(family.as_str(), "IPv4" | "IPv6") {
            faults.push(families.index(index).not_supported(family, &["IPv4", "IPv6"]));
        }
    }
    let addresses = spec.cluster_ips.as_deref().unwrap_or_default();
    let list = path.child("clusterIPs");
    if let Some(first) = spec.cluster_ip.as_deref()
        && addresses.first().map(String::as_str) != Some(first)
    {
        faults.push(list.invalid(shown(&addresses), "first value must match `clusterIP`"));
    }
    for (index, address) in addresses.iter().enumerate() {
        if address == "None" && addresses.len() == 1 {
            continue;
        }
        let field = list.index(index);
        if let Err(sentence) = ip_address(address) {
            faults.push(field.invalid(quoted(address), sentence));
        }
    }
    if addresses.len() > 2 {
        faults.push(list.invalid(shown(&addresses), "may only hold up to 2 values"));
    }
    faults
}

/// # Errors
/// The reference server's sentence for text that is no canonical address.
pub fn ip_address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse().map_err(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
}

fn external_faults(spec: &ServiceSpec, kind: &str, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let list = path.child("externalIPs");
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        let field = list.index(index);
        match ip_address(address) {
            Err(sentence) => faults.push(field.invalid(quoted(address), sentence)),
            Ok(address) => {
                faults.extend(
                    special_address(address)
                        .map(|s| field.invalid(quoted(&address.to_string()), s)),
                );
            }
        }
    }
    let outside = matches!(kind, "NodePort" | "LoadBalancer") || spec.external_ips.is_some();
    let field = path.child("externalTrafficPolicy");
    match spec.external_traffic_policy.as_deref().unwrap_or_default() {
        "" if outside && kind != "ExternalName" => faults.push(field.required("")),
        "" => {}
        policy if !outside => faults.push(
            field.invalid(quoted(policy), "may only be set for externally-accessible services"),
        ),
        "Cluster" | "Local" => {}
        policy => faults.push(field.not_supported(policy, &["Cluster", "Local"])),
    }
    if let Some(policy) = spec.internal_traffic_policy.as_deref()
        && !matches!(policy, "Cluster" | "Local")
    {
        faults
            .push(path.child("internalTrafficPolicy").not_supported(policy, &["Cluster", "Local"]));
    }
    if spec.load_balancer_source_ranges.is_some() && kind != "LoadBalancer" {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        faults.push(path.child("loadBalancerSourceRanges").forbidden(detail));
    }
    if spec.allocate_load_balancer_node_ports.is_some() && kind != "LoadBalancer" {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        faults.push(path.child("allocateLoadBalancerNodePorts").forbidden(detail));
    }
    faults
}

/// Addresses that no endpoint and no externalIP may have (`ValidateNonSpecialIP`).
pub fn special_address(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || (address.segments()[0] & 0xff0f) == 0xff02
        }
    };
    if address.is_unspecified() {
        return Some("may not be unspecified (0.0.0.0 or ::)");
    }
    if address.is_loopback() {
        return Some("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    link_local.then_some(
        "may not be in the link-local range (169.254.0.0/16, fe80::/10) or the link-local multicast range (224.0.0.0/24, ff02::/10)",
    )
}

fn node_port_faults(spec: &ServiceSpec, kind: &str, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let list = path.child("ports");
    let mut seen: BTreeMap<(i32, &str), usize> = BTreeMap::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let Some(number) = port.node_port.filter(|number| *number != 0) else { continue };
        let path = list.index(index);
        let field = path.child("nodePort");
        if matches!(kind, "ClusterIP" | "ExternalName") {
            let detail = format!("may not be used when `type` is '{kind}'");
            faults.push(field.forbidden(detail));
            continue;
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if seen.insert((number, protocol), index).is_some() {
            faults.push(field.duplicate(number.to_string()));
        }
    }
    faults
}

/// Two ports of a Service that a packet could not tell apart.
fn duplicate_ports(ports: &[ServicePort], path: &FieldPath<'_>) -> Faults {
    let list = path.child("ports");
    let mut faults = Faults::new();
    for (index, port) in ports.iter().enumerate() {
        let same = |other: &ServicePort| other.port == port.port && other.protocol == port.protocol;
        if ports[..index].iter().any(same) {
            let value = serde_json::json!({
                "port": port.port, "protocol": port.protocol.as_deref().unwrap_or_default()});
            faults.push(list.index(index).duplicate(value.to_string()));
        }
    }
    faults
}

/// The new state, and addresses that are not the client's to change.
pub fn service_update(new: &Service, old: &Service) -> Faults {
    let mut faults = Faults::new();
    let nothing = ServiceSpec::default();
    let (is, was) = (new.spec.as_ref().unwrap_or(&nothing), old.spec.as_ref().unwrap_or(&nothing));
    let keeps = |spec: &ServiceSpec| spec.type_.as_deref() != Some("ExternalName");
    let before = was.cluster_ips.as_deref().unwrap_or_default();
    let after = is.cluster_ips.as_deref().unwrap_or_default();
    if keeps(is) && keeps(was) && before.first().is_some_and(|old| after.first() != Some(old)) {
        let path = FieldPath::root("spec");
        let list = path.child("clusterIPs");
        faults.push(list.index(0).invalid(shown(&after), "may not change once set"));
    }
    faults.extend(service(new));
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn faults_of(spec: Value) -> Vec<String> {
        let mut object: Service = serde_json::from_value(
            json!({"metadata": {"name": "s", "namespace": "default"}, "spec": spec}),
        )
        .unwrap();
        super::super::defaults::begin_service(&mut object);
        super::super::defaults::fill_service(&mut object);
        service(&object).iter().map(|fault| fault.field.clone()).collect()
    }

    #[test]
    fn ports_are_named_numbered_and_told_apart() {
        let ports = |ports: Value| faults_of(json!({"ports": ports}));
        assert_eq!(ports(json!([{"port": 80}])), Vec::<String>::new());
        assert_eq!(ports(json!([{"port": 0}])), ["spec.ports[0].port", "spec.ports[0].targetPort"]);
        assert_eq!(
            ports(json!([{"port": 1, "targetPort": "\"; -j ACCEPT"}])),
            ["spec.ports[0].targetPort"]
        );
        assert_eq!(
            ports(json!([{"name": "a", "port": 1}, {"name": "a", "port": 2}])),
            ["spec.ports[1].name"]
        );
        assert_eq!(
            ports(json!([{"name": "a", "port": 1}, {"name": "b", "port": 1}])),
            ["spec.ports[1]"]
        );
        assert_eq!(ports(json!([{"port": 1, "protocol": "ICMP"}])), ["spec.ports[0].protocol"]);
        assert_eq!(ports(json!([{"port": 1, "nodePort": 30000}])), ["spec.ports[0].nodePort"]);
    }

    #[test]
    fn addresses_have_a_shape() {
        let with = |field: &str, value: Value| {
            let mut spec = json!({"ports": [{"port": 80}]});
            spec[field] = value;
            faults_of(spec)
        };
        assert_eq!(with("clusterIP", json!("300.1.1.1")), ["spec.clusterIPs[0]"]);
        assert_eq!(with("clusterIP", json!("None")), Vec::<String>::new());
        assert_eq!(with("externalIPs", json!(["127.0.0.1"])), ["spec.externalIPs[0]"]);
        assert_eq!(with("sessionAffinity", json!("Sticky")), ["spec.sessionAffinity"]);
        assert_eq!(with("type", json!("Magic")), ["spec.type"]);
        assert_eq!(with("ipFamilies", json!(["IPv5"])), ["spec.ipFamilies[0]"]);
        assert_eq!(
            faults_of(json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]})),
            ["spec.clusterIPs[0]"]
        );
    }
}
