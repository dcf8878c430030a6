//! Our rules beside those that a real kube-proxy made from the same Services and EndpointSlices:
//! every packet must meet the same fate. kube-proxy's own text, walked, is the oracle.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use ballast::network::book::Book;
use ballast::network::chain_name::ChainNames;
use ballast::network::packet::{End, Fate, Host, Packet, walk};
use ballast::network::rule::{Ports, Protocol};
use ballast::network::ruleset::NodeFacts;
use ballast::network::service_port::{service_facts, slice_endpoints, slice_service};
use ballast::network::tables::Tables;
use ballast::object::Object;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

/// Recordings that are walked, and the one that is not.
const RECORDINGS: [(&str, &str); 3] = [
    ("iptables.txt", "walked as the oracle"),
    (
        "nftables.txt",
        "left out: rules are made with iptables, whose nft variant loads the same text",
    ),
    ("services.json", "what both sides are made of"),
];

#[test]
fn every_recording_of_kube_proxy_is_walked() {
    assert_eq!(crate::golden::names("proxy"), RECORDINGS.map(|(file, _)| file));
}

/// What this version refuses by name at admission, so that no rules are made for it.
const LEFT_OUT: [(&str, &str); 1] = [("nodeport-local", "externalTrafficPolicy: Local")];
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PODS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(172, 17, 0, 2), Ipv4Addr::new(172, 17, 0, 3), Ipv4Addr::new(172, 17, 0, 9)];
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn recorded() -> (Vec<Service>, Vec<EndpointSlice>, Tables) {
    let text = include_str!("../golden/proxy/services.json");
    let value: Value = serde_json::from_str(text).expect("the recording is JSON");
    let items = |name: &str| value[name]["items"].clone();
    (
        serde_json::from_value(items("services")).expect("Services"),
        serde_json::from_value(items("endpointslices")).expect("EndpointSlices"),
        Tables::parse_save(include_str!("../golden/proxy/iptables.txt")),
    )
}

fn ours(services: &[Service], slices: &[EndpointSlice]) -> Tables {
    let node = NodeFacts {
        pod_range: "172.17.0.0/16".parse().expect("a network"),
        node_range: "172.17.0.0/16".parse().expect("a network"),
        addresses: BTreeSet::from([NODE]),
        service_range: "10.97.0.0/16".parse().expect("a network"),
        node_ports: Ports { first: 30000, last: 32767 },
        bridge_filtered: true,
        docker_user: false,
    };
    let mut book = Book::new(ChainNames::default_installation(), node);
    book.reset_services(services.iter().map(|service| (service.key(), service_facts(service))));
    book.reset_slices(
        slices
            .iter()
            .filter_map(|slice| Some((slice.key(), slice_service(slice)?, slice_endpoints(slice)))),
    );
    Tables::of_ruleset(book.ruleset())
}

/// What a client and an endpoint can tell: where it went, how often, and from whom it seemed to be.
fn told(fates: &[Fate]) -> BTreeSet<(End, u64, bool)> {
    let share = |fate: &Fate| (fate.chance * 1e6).round() as u64;
    fates.iter().map(|fate| (fate.end, share(fate), fate.masqueraded)).collect()
}

#[test]
fn every_packet_meets_the_fate_that_kube_proxy_gives_it() {
    let (services, slices, theirs) = recorded();
    let ours = ours(&services, &slices);
    let host = Host { addresses: vec![NODE] };
    let mut compared = 0;
    for service in &services {
        let name = service.metadata.name.as_deref().expect("a name");
        if LEFT_OUT.iter().any(|(left_out, _)| *left_out == name) {
            continue;
        }
        for port in service_facts(service).ports {
            let by_address = SocketAddrV4::new(port.cluster_ip, port.port);
            let by_node = port.node_port.map(|number| SocketAddrV4::new(NODE, number));
            for destination in [Some(by_address), by_node].into_iter().flatten() {
                for source in PODS.into_iter().chain([CLIENT, NODE]) {
                    let packet =
                        Packet { source, destination, protocol: port.protocol, in_interface: None };
                    let wanted = told(&walk(&theirs, &packet, &host));
                    let got = told(&walk(&ours, &packet, &host));
                    assert_eq!(got, wanted, "{name}: {packet:?}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared >= 60, "the recording was walked: {compared}");
}

#[test]
fn services_without_rules_of_theirs_have_none_of_ours() {
    let (services, slices, theirs) = recorded();
    let ours = ours(&services, &slices);
    let host = Host { addresses: vec![NODE] };
    for (address, port) in [("10.97.10.99", 80), ("10.97.10.1", 81), ("192.0.2.2", 31999)] {
        let destination = SocketAddrV4::new(address.parse().expect("an address"), port);
        let packet =
            Packet { source: PODS[0], destination, protocol: Protocol::Tcp, in_interface: None };
        assert_eq!(told(&walk(&ours, &packet, &host)), told(&walk(&theirs, &packet, &host)));
    }
    let headless = services.iter().find(|one| one.metadata.name.as_deref() == Some("headless"));
    assert!(service_facts(headless.expect("it is recorded")).ports.is_empty());
}
