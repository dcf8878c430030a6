//! Pure: a Service's addresses: which ones it holds, which it still needs, and which are chosen.
//!
//! The store guards every claim: two Services never hold one address, whatever was chosen here. The
//! caller tells what is taken at the moment; when the store refuses a claim all the same, it asks again.

use std::any::Any;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::admit::{Admit, Faults};
use super::field_path::{FieldPath, shown};

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// ClusterIPs; the network's own and the broadcast address are never given.
    pub services: Ipv4Net,
    /// Kubernetes' default is 30000-32767.
    pub node_ports: RangeInclusive<u16>,
}

/// What an object has to itself in the whole store; empty for every kind but Service.
pub fn claims<K: Admit>(object: &K) -> Vec<String> {
    let Some(service) = (object as &dyn Any).downcast_ref::<Service>() else { return Vec::new() };
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut claims: Vec<String> = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter(|ip| *ip != "None")
        .map(|ip| ip_claim(ip))
        .collect();
    for port in spec.ports.iter().flatten() {
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            let claim = port_claim(port.protocol.as_deref().unwrap_or("TCP"), number);
            if !claims.contains(&claim) {
                claims.push(claim);
            }
        }
    }
    claims
}

/// `clusterip/10.43.0.5`
pub fn ip_claim(address: &str) -> String {
    format!("clusterip/{address}")
}

/// `nodeport/tcp/30080`
pub fn port_claim(protocol: &str, number: i32) -> String {
    format!("nodeport/{}/{number}", protocol.to_lowercase())
}

/// Gives a Service every address it needs and checks those it names. Other kinds pass untouched.
/// `held` are the claims of the stored object: it keeps them, also when the ranges have changed since
/// (as in Kubernetes, where only a new Service gets a new address). `taken` answers for claims of
/// other objects only; `random` is drawn once an address.
///
/// # Errors
/// The reference server's faults: outside the range, held by another Service, or none left.
pub fn assign<K: Admit>(
    object: &mut K,
    ranges: &Ranges,
    held: &[String],
    taken: &dyn Fn(&str) -> bool,
    random: &mut dyn FnMut() -> u64,
) -> Result<(), Faults> {
    let Some(service) = (object as &mut dyn Any).downcast_mut::<Service>() else { return Ok(()) };
    let Some(spec) = service.spec.as_mut() else { return Ok(()) };
    let kind = spec.type_.clone().unwrap_or_default();
    let mut faults = Faults::new();
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        cluster_ip(spec, ranges.services, held, taken, random, &mut faults);
    }
    let wants_ports = kind == "NodePort"
        || (kind == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false));
    if wants_ports {
        node_ports(spec, &ranges.node_ports, held, taken, random, &mut faults);
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn cluster_ip(
    spec: &mut ServiceSpec,
    range: Ipv4Net,
    held: &[String],
    taken: &dyn Fn(&str) -> bool,
    random: &mut dyn FnMut() -> u64,
    faults: &mut Faults,
) {
    let root = FieldPath::root("spec");
    let field = root.child("clusterIPs");
    let named = spec.cluster_ips.clone().unwrap_or_default();
    if named.is_empty() {
        match free_address(range, taken, random()) {
            Some(address) => {
                spec.cluster_ip = Some(address.to_string());
                spec.cluster_ips = Some(vec![address.to_string()]);
            }
            None => {
                let detail = "failed to allocate a serviceIP: range is full";
                faults.push(field.invalid(shown(&named), detail));
            }
        }
        return;
    }
    for address in named.iter().filter(|address| *address != "None") {
        // What is no IPv4 address is a fault of its own in validation, or refused in the second step.
        let Ok(parsed) = address.parse::<Ipv4Addr>() else { continue };
        let claim = ip_claim(address);
        let why = if !is_usable(range, parsed) && !held.contains(&claim) {
            format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            )
        } else if taken(&claim) {
            "provided IP is already allocated".to_owned()
        } else {
            continue;
        };
        let detail = format!("failed to allocate IP {address}: {why}");
        faults.push(field.invalid(shown(&named), detail));
    }
}

/// Inside the range, and neither the network's own address nor the last one.
fn is_usable(range: Ipv4Net, address: Ipv4Addr) -> bool {
    range.contains(&address) && address != range.network() && address != range.broadcast()
}

/// The first free address from a random place on, round the range once.
fn free_address(range: Ipv4Net, taken: &dyn Fn(&str) -> bool, random: u64) -> Option<Ipv4Addr> {
    let first = u64::from(u32::from(range.network())) + 1;
    let usable = u64::from(u32::from(range.broadcast())).saturating_sub(first);
    round(usable, random)
        .filter_map(|offset| u32::try_from(first + offset).ok().map(Ipv4Addr::from))
        .find(|address| !taken(&ip_claim(&address.to_string())))
}

fn node_ports(
    spec: &mut ServiceSpec,
    range: &RangeInclusive<u16>,
    held: &[String],
    taken: &dyn Fn(&str) -> bool,
    random: &mut dyn FnMut() -> u64,
    faults: &mut Faults,
) {
    let root = FieldPath::root("spec");
    let list = root.child("ports");
    let mut own: Vec<String> = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let Some(number) = port.node_port.filter(|number| *number != 0) else { continue };
        let claim = port_claim(port.protocol.as_deref().unwrap_or("TCP"), number);
        let inside = u16::try_from(number).is_ok_and(|number| range.contains(&number));
        let path = list.index(index);
        let field = path.child("nodePort");
        if !inside && !held.contains(&claim) {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            );
            faults.push(field.invalid(number.to_string(), detail));
        } else if taken(&claim) {
            let detail = "provided port is already allocated";
            faults.push(field.invalid(number.to_string(), detail));
        }
        own.push(claim);
    }
    let (first, count) = (u64::from(*range.start()), range.len() as u64);
    for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
        if port.node_port.unwrap_or(0) != 0 {
            continue;
        }
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let free = round(count, random())
            .filter_map(|offset| i32::try_from(first + offset).ok())
            .map(|number| (number, port_claim(&protocol, number)))
            .find(|(_, claim)| !taken(claim) && !own.contains(claim));
        match free {
            Some((number, claim)) => {
                port.node_port = Some(number);
                own.push(claim);
            }
            None => {
                let path = list.index(index);
                let detail = "failed to allocate a nodePort: range is full";
                faults.push(path.child("nodePort").invalid("0".to_owned(), detail));
            }
        }
    }
}

/// Every offset below `count` once, beginning at a random one.
fn round(count: u64, random: u64) -> impl Iterator<Item = u64> {
    let start = random.checked_rem(count).unwrap_or(0);
    (start..count).chain(0..start)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn ranges() -> Ranges {
        Ranges { services: "10.97.0.0/16".parse().unwrap(), node_ports: 30000..=30001 }
    }

    fn service(spec: serde_json::Value) -> Service {
        let mut service: Service =
            serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
        service.prepare_create();
        service.fill_defaults();
        service
    }

    fn nobody(_claim: &str) -> bool {
        false
    }

    #[test]
    fn a_service_gets_what_its_type_needs() {
        let mut own = service(json!({"type": "NodePort", "ports": [
            {"name": "a", "port": 80}, {"name": "b", "port": 81}]}));
        assign(&mut own, &ranges(), &[], &nobody, &mut || 1).unwrap();
        assert_eq!(
            claims(&own),
            ["clusterip/10.97.0.2", "nodeport/tcp/30001", "nodeport/tcp/30000"]
        );
        let before = own.clone();
        assign(&mut own, &ranges(), &[], &nobody, &mut || 7).unwrap();
        assert_eq!(own, before, "what is assigned stays");

        let mut headless = service(json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        assign(&mut headless, &ranges(), &[], &nobody, &mut || 1).unwrap();
        assert_eq!(claims(&headless), Vec::<String>::new());
        let mut external = service(json!({"type": "ExternalName", "externalName": "a.b"}));
        assign(&mut external, &ranges(), &[], &nobody, &mut || 1).unwrap();
        assert!(external.spec.unwrap().cluster_ip.is_none());
    }

    #[test]
    fn what_is_outside_or_taken_is_refused_in_the_references_words() {
        let fault = |spec: serde_json::Value, taken: &dyn Fn(&str) -> bool| {
            let mut service = service(spec);
            let faults = assign(&mut service, &ranges(), &[], taken, &mut || 0).unwrap_err();
            faults[0].to_cause().message.unwrap()
        };
        assert_eq!(
            fault(json!({"clusterIP": "10.1.1.1"}), &nobody),
            "Invalid value: [\"10.1.1.1\"]: failed to allocate IP 10.1.1.1: the provided IP (10.1.1.1) is not in the valid range. The range of valid IPs is 10.97.0.0/16"
        );
        assert_eq!(
            fault(json!({"clusterIP": "10.97.1.1"}), &|_| true),
            "Invalid value: [\"10.97.1.1\"]: failed to allocate IP 10.97.1.1: provided IP is already allocated"
        );
        assert_eq!(
            fault(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}), &nobody),
            "Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30001"
        );
        let all = |claim: &str| claim.starts_with("nodeport");
        let text = fault(json!({"type": "NodePort", "ports": [{"port": 1}]}), &all);
        assert!(text.ends_with("range is full"), "{text}");
    }

    #[test]
    fn what_is_held_is_kept_outside_the_ranges_and_nothing_else() {
        let spec = json!({"type": "NodePort", "clusterIP": "10.1.1.1", "clusterIPs": ["10.1.1.1"],
            "ports": [{"name": "a", "port": 80, "nodePort": 80}]});
        let held = [ip_claim("10.1.1.1"), port_claim("TCP", 80)];
        let mut own = service(spec.clone());
        assert_eq!(assign(&mut own, &ranges(), &held, &nobody, &mut || 0), Ok(()));
        assert_eq!(claims(&own), held);
        for other in [&held[..1], &held[1..]] {
            let faults = assign(&mut service(spec.clone()), &ranges(), other, &nobody, &mut || 0);
            assert_eq!(faults.map_err(|faults| faults.len()), Err(1));
        }
    }

    #[test]
    fn every_address_of_a_range_is_given_once() {
        let range: Ipv4Net = "10.0.0.0/29".parse().unwrap();
        let mut given = BTreeSet::new();
        while let Some(address) = {
            let taken = |claim: &str| given.contains(claim);
            free_address(range, &taken, 5)
        } {
            given.insert(ip_claim(&address.to_string()));
        }
        assert_eq!(given.len(), 6);
    }
}
