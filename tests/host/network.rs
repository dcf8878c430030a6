//! Services over real iptables and real packets, without Docker: a node, two pods on its bridge and
//! a client outside, each a network namespace of the test's own.
//!
//! ```text
//! pod one 10.42.0.2 ─┐
//!                    ├─ ballast0 10.42.0.1 ─ node ─ up0 192.0.2.1 ── 192.0.2.7 client
//! pod two 10.42.0.3 ─┘
//! ```
//! The node forwards nothing by policy and has Docker's chain for other people's rules, as a host
//! with Docker has.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use ballast::network::book::Book;
use ballast::network::chain_name::ChainNames;
use ballast::network::drift::NodeName;
use ballast::network::iptables::Iptables;
use ballast::network::kernel::{JumpStep, KernelError, Table, observe};
use ballast::network::packet::{Host, walk};
use ballast::network::programmer::{Look, Programmer};
use ballast::network::rule::{ChainId, Ports, Protocol, Rule, Target};
use ballast::network::ruleset::{Jump, NodeFacts};
use ballast::network::service_port::{EndpointFacts, PortFacts, ServiceFacts};
use ballast::network::{Kernel, Publisher, reset, subnet, trace};
use ballast::object::Key;
use ballast::object::drift::{Action, Layer, Phase};
use ballast::object::ledger::{Ledger, LedgerWrite};
use jiff::Timestamp;
use tokio::time::timeout;

const ONE: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 3);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);
const NODE_PORT: u16 = 30080;
const PORT: u16 = 8080;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The namespaces; they go with the value.
struct Town {
    id: String,
}

impl Town {
    fn new(bridge_filtered: bool, iptables: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the host tests need root: sudo -E make host"
        );
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let town = Self { id: format!("bn{}-{number}", std::process::id()) };
        for place in ["node", "one", "two", "client"] {
            town.sh(&format!("ip netns add {}", town.space(place)));
            town.at(place, "ip link set lo up");
        }
        town.at("node", "ip link add ballast0 type bridge");
        town.at("node", "ip addr add 10.42.0.1/24 dev ballast0");
        town.at("node", "ip link set ballast0 up");
        town.pod("one", ONE);
        town.pod("two", TWO);
        let (node, client) = (town.space("node"), town.space("client"));
        town.sh(&format!("ip -n {node} link add up0 type veth peer name up1 netns {client}"));
        town.at("node", "ip addr add 192.0.2.1/24 dev up0");
        town.at("node", "ip link set up0 up");
        town.at("client", "ip addr add 192.0.2.7/24 dev up1");
        town.at("client", "ip link set up1 up");
        town.at("node", "ip route add default via 192.0.2.7");
        town.at("node", &format!("{iptables} -P FORWARD DROP"));
        town.at("node", &format!("{iptables} -N DOCKER-USER"));
        town.at("node", &format!("{iptables} -A FORWARD -j DOCKER-USER"));
        town.at("node", &format!("{iptables} -A FORWARD -i ballast0 -o ballast0 -j ACCEPT"));
        town.at("node", &format!("{iptables} -t nat -N DOCKER"));
        town.at(
            "node",
            &format!("{iptables} -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER"),
        );
        let value = if bridge_filtered { "1" } else { "0" };
        town.inside("node", move || {
            std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value)
                .expect("the kernel has br_netfilter");
        });
        town
    }

    fn pod(&self, name: &str, address: Ipv4Addr) {
        let (node, pod) = (self.space("node"), self.space(name));
        self.sh(&format!("ip -n {node} link add p{name} type veth peer name eth0 netns {pod}"));
        self.at("node", &format!("ip link set p{name} master ballast0 up"));
        self.at(name, &format!("ip addr add {address}/24 dev eth0"));
        self.at(name, "ip link set eth0 up");
        self.at(name, &format!("ip route add default via {GATEWAY}"));
        let name = name.to_owned();
        self.inside(&name.clone(), move || serve(name));
    }

    fn space(&self, place: &str) -> String {
        format!("{}-{place}", self.id)
    }

    fn sh(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = Command::new(words[0]).args(&words[1..]).output().expect("it starts");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command in a namespace.
    fn at(&self, place: &str, line: &str) -> String {
        self.sh(&format!("nsenter --net=/run/netns/{} {line}", self.space(place)))
    }

    /// Rust in a namespace: a thread that moves there first.
    fn inside<T: Send + 'static>(
        &self,
        place: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let space = File::open(format!("/run/netns/{}", self.space(place))).expect("it was added");
        thread::spawn(move || {
            enter(&space);
            work()
        })
        .join()
        .expect("what runs inside does not panic")
    }

    /// Who answers a connection, and whom it saw: `one 10.42.0.3`.
    fn ask(&self, from: &str, address: Ipv4Addr, port: u16) -> Result<String, ErrorKind> {
        self.inside(from, move || {
            let to = SocketAddrV4::new(address, port).into();
            let patience = Duration::from_secs(3);
            let mut stream =
                TcpStream::connect_timeout(&to, patience).map_err(|error| error.kind())?;
            stream.set_read_timeout(Some(patience)).expect("a valid time");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(|error| error.kind())?;
            Ok(answer)
        })
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        for place in ["node", "one", "two", "client"] {
            let _ = Command::new("ip").args(["netns", "del", &self.space(place)]).status();
        }
    }
}

fn enter(space: &File) {
    rustix::thread::move_into_link_name_space(
        space.as_fd(),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .expect("root may enter");
}

/// Answers every connection and datagram with its own name and the sender it sees; ends with the
/// process.
fn serve(name: String) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("a fresh namespace");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("a fresh namespace");
    let udp_name = name.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = write!(stream, "{name} {peer}");
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{udp_name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// The room under test, in the node's namespace.
struct Node {
    book: Book,
    programmer: Programmer<Iptables>,
    kernel: Iptables,
    runtime: tokio::runtime::Runtime,
    seconds: i64,
}

impl Node {
    /// Must be called, and stay, on a thread that is in the node's namespace.
    fn new(kernel: Iptables, names: ChainNames) -> Self {
        let facts = NodeFacts {
            pod_range: "10.42.0.0/16".parse().expect("a network"),
            node_range: "10.42.0.0/24".parse().expect("a network"),
            addresses: BTreeSet::from([NODE]),
            service_range: "10.43.0.0/16".parse().expect("a network"),
            node_ports: Ports { first: 30000, last: 32767 },
            bridge_filtered: true,
            docker_user: false,
        };
        let publisher = Publisher::default();
        let ledger = Ledger::new(Layer::Network);
        let bridge = "ballast0".to_owned();
        let programmer = Programmer::new(kernel.clone(), names.clone(), bridge, ledger, publisher);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        Self { book: Book::new(names, facts), programmer, kernel, runtime, seconds: 0 }
    }

    fn service(&mut self, endpoints: &[(Ipv4Addr, bool)]) {
        let port = |name: &str, protocol| PortFacts {
            name: name.to_owned(),
            protocol,
            cluster_ip: SERVICE,
            port: 80,
            node_port: Some(NODE_PORT),
        };
        let ports = vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)];
        let key = Key::new("default", "web");
        self.book.set_service(
            key.clone(),
            Some(ServiceFacts { uid: "u".to_owned(), heal: true, ports }),
        );
        let facts = endpoints.iter().flat_map(|(address, ready)| {
            [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)].map(|(port, protocol)| EndpointFacts {
                port: port.to_owned(),
                protocol,
                address: SocketAddrV4::new(*address, PORT),
                ready: *ready,
                serving: *ready,
                terminating: false,
            })
        });
        self.book.set_slice(Key::new("default", "web-1"), Some((key, facts.collect())));
    }

    fn pass(&mut self, look: Look) -> Vec<LedgerWrite> {
        self.seconds += 1;
        let now = Timestamp::from_second(1_800_000_000 + self.seconds).expect("in range");
        let node = NodeName { name: "n1".to_owned(), uid: "nu".to_owned() };
        let pass = self.programmer.pass(&mut self.book, &node, look, now);
        self.runtime.block_on(pass).expect("root may program")
    }
}

/// Runs a test on a thread in the node's namespace, with the host's own iptables.
fn on_node(bridge_filtered: bool, test: impl FnOnce(&Town) + Send + 'static) {
    on_node_of(Town::new(bridge_filtered, "iptables"), test);
}

fn on_node_of(town: Town, test: impl FnOnce(&Town) + Send + 'static) {
    let space = File::open(format!("/run/netns/{}", town.space("node"))).expect("it was added");
    let outcome = thread::spawn(move || {
        enter(&space);
        test(&town);
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn whole_service(town: &Town, kernel: Iptables, pods_see_each_other: bool) {
    let mut node = Node::new(kernel, ChainNames::default_installation());
    node.service(&[(ONE, true)]);
    node.pass(Look::Full);

    let seen = if pods_see_each_other { TWO } else { GATEWAY };
    assert_eq!(town.ask("two", SERVICE, 80), Ok(format!("one {seen}")), "from the other pod");
    assert!(town.ask("node", SERVICE, 80).is_ok_and(|answer| answer.starts_with("one ")));
    let itself = town.ask("one", SERVICE, 80);
    assert_eq!(itself, Ok(format!("one {GATEWAY}")), "a pod that reaches itself");
    let by_node_port = town.ask("client", NODE, NODE_PORT);
    assert_eq!(by_node_port, Ok(format!("one {GATEWAY}")), "from outside, by the node's address");
    assert!(town.ask("two", NODE, NODE_PORT).is_ok(), "a pod by the node's address");
    assert!(town.ask("node", NODE, NODE_PORT).is_ok(), "the node by its own address");
    assert!(town.ask("node", Ipv4Addr::LOCALHOST, NODE_PORT).is_err(), "never on 127.0.0.1");
    let direct = town.ask("client", ONE, PORT);
    assert!(direct.is_err(), "what is no service traffic keeps Docker's policy: {direct:?}");

    // Readiness: the second pod takes over, then both share.
    node.service(&[(ONE, false), (TWO, true)]);
    node.pass(Look::Changes);
    assert!(town.ask("client", NODE, NODE_PORT).is_ok_and(|answer| answer.starts_with("two ")));
    node.service(&[(ONE, true), (TWO, true)]);
    node.pass(Look::Changes);
    let answers: BTreeSet<String> =
        (0..40).filter_map(|_| town.ask("client", NODE, NODE_PORT).ok()).collect();
    assert_eq!(answers.len(), 2, "both within 40 connections: {answers:?}");

    // Without endpoints a client is told at once.
    node.service(&[(ONE, false), (TWO, false)]);
    node.pass(Look::Changes);
    for (from, address, port) in
        [("two", SERVICE, 80), ("node", SERVICE, 80), ("client", NODE, NODE_PORT)]
    {
        assert_eq!(town.ask(from, address, port), Err(ErrorKind::ConnectionRefused), "{from}");
    }
}

#[test]
fn services_work_where_the_bridge_was_filtered() {
    on_node(true, |town| whole_service(town, Iptables::new(), true));
}

#[test]
fn services_work_where_the_bridge_was_not_filtered() {
    on_node(false, |town| whole_service(town, Iptables::new(), true));
}

#[test]
fn services_work_where_the_host_keeps_the_bridge_unfiltered() {
    on_node(false, |town| whole_service(town, Iptables::keeping_sysctls(), false));
}

#[test]
fn services_work_where_docker_uses_the_legacy_variant() {
    on_node_of(Town::new(true, "iptables-legacy"), |town| {
        whole_service(town, Iptables::new(), true);
        let probe = Node::new(Iptables::new(), ChainNames::default_installation());
        let variant = probe.runtime.block_on(probe.kernel.probe());
        assert_eq!(variant.as_deref(), Ok("legacy"));
        assert!(!town.at("node", "iptables-nft-save").contains("BALLAST"));
    });
}

/// Only the legacy variant has a lock.
#[test]
fn a_program_that_hangs_with_the_lock_does_not_hold_up_the_jumps_for_good() {
    on_node_of(Town::new(true, "iptables-legacy"), |town| {
        let kernel = Iptables::of_variant("legacy").expect("a variant");
        let runtime = Node::new(kernel.clone(), ChainNames::default_installation()).runtime;
        let from = ChainId::new(Table::Nat, "PREROUTING");
        let step = JumpStep::MoveToFront(Jump { from, rule: Rule::always(Target::Return) });
        let lock = File::options().create(true).append(true).open("/run/xtables.lock");
        let lock = lock.expect("the lock's file");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
        let patience = Duration::from_secs(60);
        let held = runtime.block_on(async { timeout(patience, kernel.jump(&step)).await });
        drop(lock);
        let Ok(Err(KernelError::Failed { message, .. })) = &held else { panic!("{held:?}") };
        assert!(message.contains("lock"), "{message}");
        for _ in 0..2 {
            runtime.block_on(kernel.jump(&step)).expect("the lock is free");
            let rules = town.at("node", "iptables-legacy -t nat -S PREROUTING");
            assert_eq!(rules.matches("-j RETURN").count(), 1, "{rules}");
            assert_eq!(rules.lines().nth(1), Some("-A PREROUTING -j RETURN"));
        }
    });
}

#[test]
fn a_udp_client_that_never_stops_follows_its_endpoint() {
    on_node(true, |town| {
        let mut node = Node::new(Iptables::new(), ChainNames::default_installation());
        let space = File::open(format!("/run/netns/{}", town.space("two"))).expect("it was added");
        // One socket, one source port: one flow in conntrack from the first packet to the last.
        let socket = thread::spawn(move || {
            enter(&space);
            let socket = UdpSocket::bind((TWO, 5353)).expect("a free port");
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a valid time");
            socket
        })
        .join()
        .expect("it binds");
        let ask = || {
            let mut buffer = [0; 64];
            socket.send_to(b"?", (SERVICE, 80)).expect("a route");
            let (length, _) = socket.recv_from(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        node.service(&[(ONE, true)]);
        node.pass(Look::Full);
        assert_eq!(ask(), Some(format!("one {TWO}")));
        node.service(&[(TWO, true)]);
        node.pass(Look::Changes);
        assert_eq!(ask(), Some(format!("two {GATEWAY}")), "the old flow is forgotten");
    });
}

#[test]
fn a_flush_is_seen_healed_and_recorded() {
    on_node(true, |town| {
        let mut node = Node::new(Iptables::new(), ChainNames::default_installation());
        node.service(&[(ONE, true)]);
        node.pass(Look::Full);
        assert!(node.pass(Look::Canary).is_empty(), "nothing differs");
        town.at("node", "iptables -t nat -F");
        assert!(town.ask("client", NODE, NODE_PORT).is_err());
        let writes = node.pass(Look::Canary);
        assert!(town.ask("client", NODE, NODE_PORT).is_ok(), "healed");
        let statuses: Vec<(String, Phase, Action)> = writes
            .iter()
            .filter_map(|write| match write {
                LedgerWrite::Put(drift) => drift.status.as_ref().map(|status| {
                    (drift.spec.object.kind.to_string(), status.phase, status.action)
                }),
                LedgerWrite::Remove(_) => None,
            })
            .collect();
        for wanted in [
            ("Service".to_owned(), Phase::Open, Action::Healing),
            ("Service".to_owned(), Phase::Closed, Action::Healed),
            ("Node".to_owned(), Phase::Closed, Action::Healed),
        ] {
            assert!(statuses.contains(&wanted), "{wanted:?} in {statuses:?}");
        }
        assert!(node.pass(Look::Canary).is_empty(), "healed for good");
    });
}

#[test]
fn what_is_not_ours_stays_byte_for_byte() {
    on_node(true, |town| {
        let counterless = |text: String| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect::<Vec<_>>()
        };
        town.at("node", "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE");
        let before = counterless(town.at("node", "iptables-save"));
        let mut ours = Node::new(Iptables::new(), ChainNames::default_installation());
        let mut tour = Node::new(Iptables::new(), ChainNames::of_installation("tour"));
        ours.service(&[(ONE, true)]);
        ours.pass(Look::Full);
        let with_ours = counterless(town.at("node", "iptables-save"));
        tour.service(&[(TWO, true)]);
        tour.pass(Look::Full);
        assert!(ours.pass(Look::Full).is_empty(), "two installations leave each other alone");
        assert!(tour.pass(Look::Full).is_empty());

        let remove = |node: &mut Node| {
            let names = node.book.names().clone();
            let kernel = node.kernel.clone();
            node.runtime.block_on(async move {
                let tables = observe(&kernel).await.expect("root may read");
                let plan = reset::plan(&names, &tables);
                reset::perform(&kernel, &plan).await.expect("root may remove");
            });
        };
        remove(&mut tour);
        assert_eq!(counterless(town.at("node", "iptables-save")), with_ours);
        remove(&mut ours);
        assert_eq!(counterless(town.at("node", "iptables-save")), before);
    });
}

#[test]
fn the_walk_through_the_kernels_own_text_says_what_packets_do() {
    on_node(true, |_town| {
        let mut node = Node::new(Iptables::new(), ChainNames::default_installation());
        node.service(&[(ONE, true), (TWO, true)]);
        node.pass(Look::Full);
        let kernel = node.kernel.clone();
        let tables = node.runtime.block_on(observe(&kernel)).expect("root may read");
        let trie = std::fs::read_to_string("/proc/thread-self/net/fib_trie").expect("it is there");
        let host = Host { addresses: subnet::parse_local_addresses(&trie) };
        assert!(host.addresses.contains(&NODE) && host.addresses.contains(&GATEWAY), "{host:?}");
        let packet = trace::question("192.0.2.7", "192.0.2.1:30080", &host).expect("a question");
        let fates = walk(&tables, &packet, &host);
        assert_eq!(fates.len(), 2, "{fates:#?}");
        assert!(fates.iter().all(|fate| fate.masqueraded && (fate.chance - 0.5).abs() < 1e-6));
        let probe = node.runtime.block_on(node.kernel.probe());
        assert!(probe.is_ok(), "{probe:?}");
    });
}
