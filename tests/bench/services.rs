//! Loading 100, 1,000 and 5,000 Services of three endpoints each, and one changed endpoint among
//! them, beside rules of kube-proxy's shape (a chain a service and a chain an endpoint, no comments,
//! as it writes them for large clusters) restored by the same program. Every measurement has a
//! network namespace of its own; the rounds are interleaved. Needs root.
//!
//! A load begins with what the network room has in memory. A changed endpoint goes the whole way: an
//! EndpointSlice is written to a durable store, and *to the packet* ends when the restore has
//! answered: from then on the kernel sends new connections to the new endpoint. *Read back* is the
//! check that follows it. The room runs as in the daemon, with its looks at the kernel every 2 s and
//! every 30 s, which a change may have to wait for: the p99 shows them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::network::book::Book;
use ballast::network::chain_name::ChainNames;
use ballast::network::drift::NodeName;
use ballast::network::iptables::Iptables;
use ballast::network::programmer::{Look, Programmer};
use ballast::network::rule::{Ports, Protocol};
use ballast::network::ruleset::NodeFacts;
use ballast::network::service_port::{EndpointFacts, PortFacts, ServiceFacts};
use ballast::network::{self, NetworkOptions, NetworkStatus, Publisher};
use ballast::object::drift::Layer;
use ballast::object::ledger::Ledger;
use ballast::object::ports::Withdrawal;
use ballast::object::{Cluster as _, Key};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::cluster::{Cluster, object};
use crate::report::Report;

const SIZES: [usize; 3] = [100, 1000, 5000];
const LOADS: usize = 3;
/// Loading kube-proxy's shape costs minutes at the largest size.
const LARGE: usize = 5000;
const CHANGES: usize = 30;
const ENDPOINTS: usize = 3;
/// Writers that fill the store.
const WRITERS: usize = 64;
const VARIANTS: [(&str, &str); 2] = [("nf_tables", "iptables-nft"), ("legacy", "iptables-legacy")];

pub fn run(report: &mut Report) {
    for (variant, program) in VARIANTS {
        for size in SIZES {
            let row = |what: &str| format!("{variant}, {size} services: {what}");
            let loads = if size >= LARGE { 1 } else { LOADS };
            for round in 0..loads {
                let took = in_namespace(move || load(variant, size));
                report.milliseconds(&row("load"), [took]);
                let changes = if round == 0 { CHANGES } else { 0 };
                let (took, changes) = in_namespace(move || kube_proxy(program, size, changes));
                report.milliseconds(&row("load, kube-proxy's shape"), [took]);
                report.milliseconds(&row("one endpoint, kube-proxy's partial restore"), changes);
            }
            let (packets, read_back) = in_namespace(move || changes(variant, size));
            report.milliseconds(&row("one stored slice, to the packet"), packets);
            report.milliseconds(&row("one stored slice, with reading back"), read_back);
        }
    }
}

/// On a thread in a fresh network namespace, which goes with the thread and its children.
fn in_namespace<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(move || {
        // SAFETY: NEWNET leaves the table of open files shared, which is what could go wrong.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("the services benchmark needs root");
        work()
    })
    .join()
    .expect("a measurement does not panic")
}

fn cluster_ip(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 43, 0, 1)) + number as u32)
}

/// Spread over 200 nodes of 75 pods: the first node is this one.
fn endpoint(service: usize, index: usize) -> SocketAddrV4 {
    let pod = service * ENDPOINTS + index;
    SocketAddrV4::new(Ipv4Addr::new(10, 42, (pod / 75 % 256) as u8, (pod % 75 + 2) as u8), 8080)
}

fn moved(round: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, (100 + round) as u8), 8080)
}

fn slice(service: usize, first: SocketAddrV4) -> Vec<EndpointFacts> {
    let rest = (1..ENDPOINTS).map(|index| endpoint(service, index));
    let facts = std::iter::once(first).chain(rest).map(|address| EndpointFacts {
        port: String::new(),
        protocol: Protocol::Tcp,
        address,
        ready: true,
        serving: true,
        terminating: false,
    });
    facts.collect()
}

fn key(service: usize) -> Key {
    Key::new("default", format!("s{service}"))
}

/// From the room's book to the kernel, and read back.
fn load(variant: &str, size: usize) -> Duration {
    let kernel = Iptables::of_variant(variant).expect("one of two words");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let node = NodeFacts {
        pod_range: "10.42.0.0/16".parse().expect("a network"),
        node_range: "10.42.0.0/24".parse().expect("a network"),
        addresses: BTreeSet::new(),
        service_range: "10.43.0.0/16".parse().expect("a network"),
        node_ports: Ports { first: 30000, last: 32767 },
        bridge_filtered: true,
        docker_user: false,
    };
    let names = ChainNames::default_installation();
    let mut book = Book::new(names.clone(), node);
    for service in 0..size {
        let port = PortFacts {
            name: String::new(),
            protocol: Protocol::Tcp,
            cluster_ip: cluster_ip(service),
            port: 80,
            node_port: None,
        };
        let facts = ServiceFacts { uid: String::new(), heal: true, ports: vec![port] };
        book.set_service(key(service), Some(facts));
        let endpoints = slice(service, endpoint(service, 0));
        book.set_slice(key(service), Some((key(service), endpoints)));
    }
    let publisher = Publisher::default();
    let ledger = Ledger::new(Layer::Network);
    let mut programmer = Programmer::new(kernel, names, "ballast0".to_owned(), ledger, publisher);
    let name = NodeName { name: "n1".to_owned(), uid: String::new() };
    let begun = Instant::now();
    runtime
        .block_on(programmer.pass(&mut book, &name, Look::Full, Timestamp::UNIX_EPOCH))
        .expect("root may program");
    begun.elapsed()
}

/// One endpoint of one service moves, again and again: from the write of its slice to the packet,
/// and until the chain was read back.
fn changes(variant: &str, size: usize) -> (Vec<Duration>, Vec<Duration>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let folder = tempfile::tempdir_in(".").expect("a folder on this disk");
        let cluster = Cluster::open(folder.path());
        let mut times = fill_and_change(&cluster, variant, size).await;
        cluster.close().await;
        // The first starts what later changes find running.
        times.0.remove(0);
        times.1.remove(0);
        times
    })
}

async fn fill_and_change(
    cluster: &Cluster,
    variant: &str,
    size: usize,
) -> (Vec<Duration>, Vec<Duration>) {
    let admin = cluster.api.local(Identity::Admin);
    let node = json!({"metadata": {"name": "n1"}});
    admin.create::<Node>(&object(node)).await.expect("a node");
    stream::iter(0..size)
        .for_each_concurrent(WRITERS, |service| {
            let admin = &admin;
            async move {
                admin.create(&service_of(service)).await.expect("a service");
                admin.create(&slice_of(service, endpoint(service, 0))).await.expect("a slice");
            }
        })
        .await;
    let options = NetworkOptions::new("n1", ChainNames::default_installation(), "ballast0");
    let rules = network::run(
        cluster.api.local(Identity::Network { node: "n1".to_owned() }),
        Iptables::of_variant(variant).expect("one of two words"),
        options,
        Clock::wall(),
        &cluster.tasks,
    );
    let mut status = rules.watch_status();
    let is_loaded = |status: &NetworkStatus| matches!(status, NetworkStatus::Programmed { services, .. } if *services == size);
    status.wait_for(is_loaded).await.expect("the room lives");
    let middle = size / 2;
    let mut current = admin.get::<EndpointSlice>(&key(middle)).await.expect("it is stored");
    let mut before = endpoint(middle, 0);
    let (mut packets, mut read_back) = (Vec::new(), Vec::new());
    for round in 0..=CHANGES {
        let after = moved(round);
        let mut changed = (*current).clone();
        changed.endpoints = slice_of(middle, after).endpoints;
        let (begun, at) = (Instant::now(), Timestamp::now());
        current = admin.update(&changed).await.expect("it is stored");
        // The old endpoint's place in the chain is the new one's: one restore does both.
        rules.withdrawn(*before.ip()).await;
        packets.push(begun.elapsed());
        // Not merely the next pass that ends: that may be one from before the change.
        let is_read_back = |status: &NetworkStatus| matches!(status, NetworkStatus::Programmed { verified, .. } if *verified > at);
        status.wait_for(is_read_back).await.expect("the room lives");
        read_back.push(begun.elapsed());
        before = after;
    }
    (packets, read_back)
}

fn service_of(number: usize) -> Service {
    object(json!({
        "metadata": {"name": format!("s{number}"), "namespace": "default"},
        "spec": {"clusterIP": cluster_ip(number), "ports": [{"port": 80, "targetPort": 8080}]},
    }))
}

fn slice_of(number: usize, first: SocketAddrV4) -> EndpointSlice {
    let rest = (1..ENDPOINTS).map(|index| endpoint(number, index));
    let endpoints: Vec<_> = std::iter::once(first)
        .chain(rest)
        .map(|address| json!({"addresses": [address.ip()], "conditions": {"ready": true}}))
        .collect();
    object(json!({
        "metadata": {"name": format!("s{number}"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }))
}

/// The time of a full restore, and of partial ones as kube-proxy makes them: the service's chain and
/// the new endpoint's written, the old endpoint's removed.
fn kube_proxy(program: &str, size: usize, changes: usize) -> (Duration, Vec<Duration>) {
    let text = kube_proxy_text(size);
    let begun = Instant::now();
    restore(program, &text);
    let load = begun.elapsed();
    let service = size / 2;
    let mut before = endpoint(service, 0);
    let times = (0..changes).map(|round| {
        let (mut chains, mut rules) = (String::new(), String::new());
        let after = moved(round);
        let endpoints = slice(service, after);
        let begun = Instant::now();
        kube_proxy_service(service, &endpoints, &mut chains, &mut rules, Some(after));
        let gone = separate(service, before);
        let text = format!("*nat\n{chains}:{gone} - [0:0]\n{rules}-X {gone}\nCOMMIT\n");
        restore(program, &text);
        before = after;
        begun.elapsed()
    });
    (load, times.collect())
}

fn kube_proxy_text(size: usize) -> String {
    let (mut chains, mut rules) = (String::from(":KUBE-SERVICES - [0:0]\n"), String::new());
    for service in 0..size {
        let address = cluster_ip(service);
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport 80 -j {}",
            service_chain(service)
        );
        let endpoints = slice(service, endpoint(service, 0));
        kube_proxy_service(service, &endpoints, &mut chains, &mut rules, None);
    }
    rules.push_str("-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n");
    format!("*nat\n{chains}{rules}COMMIT\n")
}

/// A service's chain and its endpoints' chains; with `only`, of the endpoints' only that one's.
fn kube_proxy_service(
    service: usize,
    endpoints: &[EndpointFacts],
    chains: &mut String,
    rules: &mut String,
    only: Option<SocketAddrV4>,
) {
    let chain = service_chain(service);
    let address = cluster_ip(service);
    let _ = writeln!(chains, ":{chain} - [0:0]");
    let _ = writeln!(
        rules,
        "-A {chain} ! -s 10.42.0.0/16 -d {address}/32 -p tcp -m tcp --dport 80 -j MARK --or-mark 0x4000"
    );
    for (index, endpoint) in endpoints.iter().enumerate() {
        let separate = separate(service, endpoint.address);
        let remaining = endpoints.len() - index;
        let chance = if remaining > 1 {
            format!("-m statistic --mode random --probability {:.10} ", 1.0 / remaining as f64)
        } else {
            String::new()
        };
        let _ = writeln!(rules, "-A {chain} {chance}-j {separate}");
        if only.is_none_or(|only| only == endpoint.address) {
            let (ip, to) = (endpoint.address.ip(), endpoint.address);
            let _ = writeln!(chains, ":{separate} - [0:0]");
            let _ = writeln!(rules, "-A {separate} -s {ip}/32 -j MARK --or-mark 0x4000");
            let _ = writeln!(rules, "-A {separate} -p tcp -m tcp -j DNAT --to-destination {to}");
        }
    }
}

fn service_chain(service: usize) -> String {
    format!("KUBE-SVC-{service:016}")
}

fn separate(service: usize, endpoint: SocketAddrV4) -> String {
    format!("KUBE-SEP-{service:06}{:08X}", u32::from(*endpoint.ip()))
}

fn restore(program: &str, text: &str) {
    let mut child = Command::new(format!("{program}-restore"))
        .args(["-w", "5", "--noflush"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("iptables is installed");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    assert!(child.wait().expect("it ends").success(), "{program}-restore refused the text");
}
