//! Scenes that the tests of this folder share: a node, a few services, and strategies for more.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;

use crate::object::Key;

use super::book::Book;
use super::chain_name::ChainNames;
use super::rule::{Ports, Protocol};
use super::ruleset::{NodeFacts, ServiceRules, service_rules};
use super::service_port::{EndpointFacts, PortFacts, ServiceFacts};

pub fn node() -> NodeFacts {
    NodeFacts {
        pod_range: "10.42.0.0/16".parse().expect("a network"),
        node_range: "10.42.0.0/24".parse().expect("a network"),
        addresses: BTreeSet::from([Ipv4Addr::new(192, 0, 2, 1)]),
        service_range: "10.43.0.0/16".parse().expect("a network"),
        node_ports: Ports { first: 30000, last: 32767 },
        bridge_filtered: true,
        docker_user: false,
    }
}

pub fn ready(address: &str) -> EndpointFacts {
    EndpointFacts {
        port: String::new(),
        protocol: Protocol::Tcp,
        address: address.parse().expect("ip:port"),
        ready: true,
        serving: true,
        terminating: false,
    }
}

pub fn service(host: u8, node_port: Option<u16>) -> ServiceFacts {
    let port = PortFacts {
        name: String::new(),
        protocol: Protocol::Tcp,
        cluster_ip: Ipv4Addr::new(10, 43, 0, host),
        port: 80,
        node_port,
    };
    ServiceFacts { uid: format!("uid-{host}"), heal: true, ports: vec![port] }
}

/// The rules of `default/web` at 10.43.0.9:80 and node port 30080.
pub fn web(endpoints: &[&str]) -> ServiceRules {
    let endpoints: Vec<EndpointFacts> = endpoints.iter().map(|address| ready(address)).collect();
    let names = ChainNames::default_installation();
    service_rules(&names, &Key::new("default", "web"), &service(9, Some(30080)), endpoints.iter())
}

/// Services at 10.43.0.10, 10.43.0.11 … port 80, node ports 30010, 30011 …
pub fn book(services: &[(&str, &[&str])]) -> Book {
    let mut book = Book::new(ChainNames::default_installation(), node());
    for (host, (name, endpoints)) in (10u8..).zip(services) {
        let key = Key::new("default", *name);
        book.set_service(key.clone(), Some(service(host, Some(30000 + u16::from(host)))));
        let endpoints = endpoints.iter().map(|address| ready(address)).collect();
        book.set_slice(Key::new("default", format!("{name}-1")), Some((key, endpoints)));
    }
    book
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

/// One or two ports; the API allocates addresses and node ports once, so the caller keeps services
/// apart by their address.
pub fn any_service() -> impl Strategy<Value = ServiceFacts> {
    let port = (protocol(), 80u16..82, proptest::option::of(30000u16..30003));
    (proptest::collection::vec(port, 0..3), 1u8..5).prop_map(|(ports, host)| {
        let mut facts = service(host, None);
        facts.ports = ports
            .into_iter()
            .enumerate()
            .map(|(index, (protocol, port, node_port))| PortFacts {
                name: format!("p{index}"),
                protocol,
                cluster_ip: Ipv4Addr::new(10, 43, 0, host),
                port,
                node_port,
            })
            .collect();
        facts
    })
}

/// Up to five endpoints, on this node and on others, in every condition.
pub fn any_endpoints() -> impl Strategy<Value = Vec<EndpointFacts>> {
    let endpoint = (0usize..2, protocol(), 0u8..2, 2u8..6, any::<(bool, bool, bool)>());
    let endpoint = endpoint.prop_map(|(port, protocol, node, host, conditions)| EndpointFacts {
        port: format!("p{port}"),
        protocol,
        address: SocketAddrV4::new(Ipv4Addr::new(10, 42, node, host), 8080),
        ready: conditions.0,
        serving: conditions.1,
        terminating: conditions.2,
    });
    proptest::collection::vec(endpoint, 0..6)
}
