//! What the rules' comparison calls a Drift and what it heals when, pass by pass over a kernel in
//! memory and a clock of the test's own.

use std::net::Ipv4Addr;

use ballast::network::Publisher;
use ballast::network::book::Book;
use ballast::network::chain_name::ChainNames;
use ballast::network::drift::NodeName;
use ballast::network::kernel::Table;
use ballast::network::packet::{End, Host, Packet, walk};
use ballast::network::programmer::{Look, Programmer};
use ballast::network::rule::{ChainId, Ports, Protocol, Rule};
use ballast::network::ruleset::NodeFacts;
use ballast::network::service_port::{EndpointFacts, PortFacts, ServiceFacts};
use ballast::object::Key;
use ballast::object::drift::{Layer, Phase};
use ballast::object::ledger::{Ledger, LedgerWrite};
use jiff::Timestamp;

use crate::sim::fake_kernel::FakeKernel;

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);
const POD: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 4);

/// One node with one Service.
struct Node {
    book: Book,
    kernel: FakeKernel,
    programmer: Programmer<FakeKernel>,
}

impl Node {
    fn new(kernel: FakeKernel) -> Self {
        let names = ChainNames::default_installation();
        let facts = NodeFacts {
            pod_range: "10.42.0.0/16".parse().expect("a network"),
            node_range: "10.42.0.0/24".parse().expect("a network"),
            addresses: [Ipv4Addr::new(192, 0, 2, 1)].into(),
            service_range: "10.43.0.0/16".parse().expect("a network"),
            node_ports: Ports { first: 30000, last: 32767 },
            bridge_filtered: true,
            docker_user: false,
        };
        let mut book = Book::new(names.clone(), facts);
        let key = Key::new("default", "web");
        let port = PortFacts {
            name: "http".into(),
            protocol: Protocol::Tcp,
            cluster_ip: SERVICE,
            port: 80,
            node_port: None,
        };
        let service = ServiceFacts { uid: "u".into(), heal: true, ports: vec![port] };
        book.set_service(key.clone(), Some(service));
        let endpoint = EndpointFacts {
            port: "http".into(),
            protocol: Protocol::Tcp,
            address: std::net::SocketAddrV4::new(POD, 8080),
            ready: true,
            serving: true,
            terminating: false,
        };
        book.set_slice(Key::new("default", "web-1"), Some((key, vec![endpoint])));
        let ledger = Ledger::new(Layer::Network);
        let programmer =
            Programmer::new(kernel.clone(), names, "ballast0".into(), ledger, Publisher::default());
        Self { book, kernel, programmer }
    }

    /// `kind field phase action wanted-by`, one a written Drift.
    async fn pass(&mut self, look: Look, second: i64) -> Vec<String> {
        let now = Timestamp::from_second(1_800_000_000 + second).expect("in range");
        let node = NodeName { name: "n1".into(), uid: "nu".into() };
        let writes = self.programmer.pass(&mut self.book, &node, look, now).await;
        let line = |write: LedgerWrite| {
            let LedgerWrite::Put(drift) = write else { panic!("nothing is removed here") };
            let (spec, status) = (drift.spec, drift.status.expect("a status"));
            let wanted_by = spec.wanted_by.unwrap_or_default();
            let Phase::Open = status.phase else {
                return format!("{} {} {:?}", spec.object.kind, spec.field, status.action);
            };
            format!("{} {} {:?} {wanted_by}", spec.object.kind, spec.field, status.action)
        };
        writes.expect("the kernel in memory takes it").into_iter().map(line).collect()
    }

    fn chain(&self, table: Table, chain: &str) -> Vec<String> {
        let tables = self.kernel.tables();
        tables.rules(&ChainId::new(table, chain)).iter().map(ToString::to_string).collect()
    }

    fn service_works(&self) -> bool {
        let packet = Packet {
            source: Ipv4Addr::new(10, 42, 0, 7),
            destination: std::net::SocketAddrV4::new(SERVICE, 80),
            protocol: Protocol::Tcp,
            in_interface: None,
        };
        let fates = walk(&self.kernel.tables(), &packet, &Host::default());
        fates.iter().all(|fate| matches!(fate.end, End::Forwarded(to) if *to.ip() == POD))
    }
}

const QUIET: Vec<String> = Vec::new();

#[tokio::test]
async fn a_network_that_docker_makes_beside_ours_is_no_drift() {
    let mut node = Node::new(FakeKernel::new());
    assert_eq!(node.pass(Look::Full, 0).await, QUIET);
    let dockers = "-s 10.42.0.0/24 ! -o ballast0 -j MASQUERADE";
    node.kernel.write(Table::Nat, "POSTROUTING", |rules| rules.insert(0, Rule::parse(dockers)));
    assert_eq!(node.pass(Look::Canary, 2).await, QUIET);
    assert_eq!(node.pass(Look::Full, 30).await, QUIET);
    assert_eq!(node.chain(Table::Nat, "POSTROUTING"), [dockers, "-j BALLAST-POSTROUTING"]);
    // What could take our packets away is one, and goes behind ours.
    let taking = "-s 10.42.0.0/16 -j ACCEPT";
    node.kernel.write(Table::Nat, "POSTROUTING", |rules| rules.insert(0, Rule::parse(taking)));
    assert_eq!(
        node.pass(Look::Canary, 32).await,
        ["Node nat/POSTROUTING Healing ", "Node nat/POSTROUTING Healed"]
    );
    assert_eq!(node.chain(Table::Nat, "POSTROUTING")[0], "-j BALLAST-POSTROUTING");
}

#[tokio::test]
async fn docker_that_comes_later_moves_our_jump_without_a_drift() {
    let kernel = FakeKernel::new();
    kernel.write(Table::Filter, "FORWARD", Vec::clear);
    let mut node = Node::new(kernel);
    assert_eq!(node.pass(Look::Full, 0).await, QUIET);
    assert_eq!(node.chain(Table::Filter, "FORWARD"), ["-j BALLAST-FORWARD"]);
    node.kernel.write(Table::Filter, "FORWARD", |rules| {
        rules.insert(0, Rule::parse("-j DOCKER-USER"));
    });
    assert_eq!(node.pass(Look::Canary, 2).await, QUIET);
    assert_eq!(node.chain(Table::Filter, "FORWARD"), ["-j DOCKER-USER"]);
    assert_eq!(node.chain(Table::Filter, "DOCKER-USER")[0], "-j BALLAST-FORWARD");
}

#[tokio::test]
async fn a_fight_over_shared_chains_leaves_no_service_down_for_long() {
    let mut node = Node::new(FakeKernel::new());
    node.pass(Look::Full, 0).await;
    let flush = |node: &Node| node.kernel.write(Table::Nat, "BALLAST-SERVICES", Vec::clear);
    for round in 1..=3 {
        flush(&node);
        assert!(!node.service_works());
        let told = node.pass(Look::Canary, round * 2).await;
        let wanted = "Service nat/BALLAST-SERVICES Healing spec.ports[http]".to_owned();
        assert!(told.contains(&wanted), "{told:?}");
        assert!(node.service_works());
    }
    // The fourth time within ten minutes it is a fight: said, and healed half a minute after the last.
    flush(&node);
    let told = node.pass(Look::Canary, 8).await;
    let wanted = "Service nat/BALLAST-SERVICES Fighting spec.ports[http]".to_owned();
    assert!(told.contains(&wanted), "{told:?}");
    assert!(!node.service_works(), "two programs do not write the same chain in a loop");
    node.pass(Look::Canary, 35).await;
    assert!(!node.service_works());
    let told = node.pass(Look::Canary, 36).await;
    assert!(told.contains(&"Service nat/BALLAST-SERVICES Healed".to_owned()), "{told:?}");
    assert!(node.service_works());
    // It goes on like that, as long as the other side does.
    flush(&node);
    let told = node.pass(Look::Canary, 38).await;
    assert!(told.contains(&wanted), "{told:?}");
    node.pass(Look::Canary, 66).await;
    assert!(node.service_works());
}
