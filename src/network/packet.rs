//! Pure: what the rules do to the first packet of a connection. Used by `ballast trace` and, as
//! the judge of every ruleset, by the tests.
//!
//! The walk follows the kernel: nat PREROUTING (or OUTPUT for the host's own packets), the routing
//! decision, filter INPUT, FORWARD or OUTPUT, nat POSTROUTING. Where a rule takes its packet by
//! chance the walk splits, so the answer is every possible fate with its probability.
//!
//! Known to be imprecise: a match that is not read (`recent`, `set`, `limit` …) counts as not
//! matching, and the fate says so; raw and mangle tables are not walked.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::Serialize;

use super::rule::{ChainId, Conntrack, Match, Protocol, Rule, State, Table, Target};
use super::tables::Tables;

/// Chains in chains: deeper than any sane ruleset; the kernel refuses loops itself.
const MAX_DEPTH: usize = 32;
/// Fates told apart: 250 endpoints a Service (the limit of Kubernetes' scalability) and some.
const MAX_FATES: usize = 1024;

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Packet {
    pub source: Ipv4Addr,
    pub destination: SocketAddrV4,
    pub protocol: Protocol,
    /// The interface it comes in by; `None`: unknown, no interface rule matches it.
    pub in_interface: Option<String>,
}

/// What the walk needs to know of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its own addresses. A packet from one of them starts at OUTPUT, one to them ends at INPUT.
    pub addresses: Vec<Ipv4Addr>,
}

impl Host {
    fn is_local(&self, address: Ipv4Addr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }
}

/// One possible end of the packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fate {
    /// 0 to 1; all fates of a packet add up to 1.
    pub chance: f64,
    pub end: End,
    /// The address that the receiver sees is not the sender's.
    pub masqueraded: bool,
    /// Every rule that took the packet, in order.
    pub steps: Vec<Step>,
    /// Matches that could not be judged on the way.
    pub unread: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// Sent on to this address.
    Forwarded(SocketAddrV4),
    /// Handed to a program on this host.
    Local(SocketAddrV4),
    /// Answered with an error: the client fails at once.
    Rejected,
    /// Silently gone: the client waits.
    Dropped,
}

/// A rule that took the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The built-in chain the packet was in.
    pub hook: String,
    pub chain: ChainId,
    /// Counted from 1, as iptables does; 0 is the chain's policy.
    pub number: usize,
    pub rule: String,
}

#[derive(Clone, Debug)]
struct Walk {
    chance: f64,
    destination: SocketAddrV4,
    original: SocketAddrV4,
    translated: bool,
    masqueraded: bool,
    mark: u32,
    steps: Vec<Step>,
    unread: Vec<String>,
}

/// How a walk leaves a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// At its end, or by RETURN.
    Through,
    Accepted,
    Dropped,
    Rejected,
}

struct Walker<'a> {
    tables: &'a Tables,
    packet: &'a Packet,
    host: &'a Host,
    hook: &'static str,
}

/// Every fate of a packet, the likeliest first (of equals, in order of addresses).
pub fn walk(tables: &Tables, packet: &Packet, host: &Host) -> Vec<Fate> {
    let start = Walk {
        chance: 1.0,
        destination: packet.destination,
        original: packet.destination,
        translated: false,
        masqueraded: false,
        mark: 0,
        steps: Vec::new(),
        unread: Vec::new(),
    };
    let from_host = host.is_local(packet.source);
    let entry = if from_host { "OUTPUT" } else { "PREROUTING" };
    let mut fates = Vec::new();
    let mut walker = Walker { tables, packet, host, hook: entry };
    for (walk, left) in walker.pass(Table::Nat, entry, start) {
        if left != Left::Through && left != Left::Accepted {
            fates.push(walk.end(left));
            continue;
        }
        let to_host = host.is_local(*walk.destination.ip());
        // What the host sends to itself goes out and comes in, by the loopback interface.
        let filters: &[&'static str] = match (from_host, to_host) {
            (true, true) => &["OUTPUT", "INPUT"],
            (true, false) => &["OUTPUT"],
            (false, true) => &["INPUT"],
            (false, false) => &["FORWARD"],
        };
        for walk in walker.filter(filters, walk, &mut fates) {
            let out = if to_host {
                vec![walk]
            } else {
                let passed = walker.pass(Table::Nat, "POSTROUTING", walk);
                passed.into_iter().map(|(walk, _)| walk).collect()
            };
            let end = if to_host { End::Local } else { End::Forwarded };
            fates.extend(out.into_iter().map(|walk| {
                let end = end(walk.destination);
                walk.fate(end)
            }));
        }
    }
    fates.sort_by(|one, other| {
        other.chance.total_cmp(&one.chance).then_with(|| one.end.cmp(&other.end))
    });
    fates
}

impl Walk {
    fn end(self, left: Left) -> Fate {
        let end = if left == Left::Rejected { End::Rejected } else { End::Dropped };
        self.fate(end)
    }

    fn fate(self, end: End) -> Fate {
        let Self { chance, masqueraded, steps, unread, .. } = self;
        Fate { chance, end, masqueraded, steps, unread }
    }
}

impl Walker<'_> {
    /// The filter hooks one after the other: who is let through goes on, the others end here.
    fn filter(&mut self, hooks: &[&'static str], walk: Walk, ends: &mut Vec<Fate>) -> Vec<Walk> {
        let mut through = vec![walk];
        for hook in hooks {
            for walk in std::mem::take(&mut through) {
                for (walk, left) in self.pass(Table::Filter, hook, walk) {
                    if left == Left::Accepted {
                        through.push(walk);
                    } else {
                        ends.push(walk.end(left));
                    }
                }
            }
        }
        through
    }

    /// One hook of one table, its policy included.
    fn pass(&mut self, table: Table, hook: &'static str, walk: Walk) -> Vec<(Walk, Left)> {
        self.hook = hook;
        let id = ChainId::new(table, hook);
        let mut ends = self.chain(&id, walk, 0);
        for (walk, left) in ends.iter_mut().filter(|(_, left)| *left == Left::Through) {
            *left = Left::Accepted;
            if *self.tables.policy(&id) == Target::Drop {
                *left = Left::Dropped;
                let rule = "policy DROP".to_owned();
                walk.steps.push(Step { hook: hook.into(), chain: id.clone(), number: 0, rule });
            }
        }
        ends
    }

    fn chain(&self, id: &ChainId, walk: Walk, depth: usize) -> Vec<(Walk, Left)> {
        let mut done = Vec::new();
        let mut here = vec![walk];
        for (index, rule) in self.tables.rules(id).iter().enumerate() {
            let mut next = Vec::new();
            for mut walk in std::mem::take(&mut here) {
                if !self.admits(rule, &mut walk) {
                    next.push(walk);
                    continue;
                }
                let chance: f64 = rule.matches.iter().map(Match::probability).product();
                if chance < 1.0 {
                    next.push(Walk { chance: walk.chance * (1.0 - chance), ..walk.clone() });
                    walk.chance *= chance;
                }
                walk.steps.push(Step {
                    hook: self.hook.to_owned(),
                    chain: id.clone(),
                    number: index + 1,
                    rule: rule.to_string(),
                });
                self.take(id, rule, walk, depth, &mut next, &mut done);
            }
            here = next;
            if here.is_empty() || done.len() > MAX_FATES {
                break;
            }
        }
        done.extend(here.into_iter().map(|walk| (walk, Left::Through)));
        done
    }

    /// Does what the rule says: the walk goes on in this chain (`next`) or leaves it (`done`).
    fn take(
        &self,
        id: &ChainId,
        rule: &Rule,
        mut walk: Walk,
        depth: usize,
        next: &mut Vec<Walk>,
        done: &mut Vec<(Walk, Left)>,
    ) {
        match &rule.target {
            Target::Nothing => next.push(walk),
            Target::Other(text) => {
                walk.unread.push(format!("-j {text}"));
                next.push(walk);
            }
            Target::SetMark { value, mask } => {
                walk.mark = (walk.mark & !mask) ^ value;
                next.push(walk);
            }
            Target::Accept => done.push((walk, Left::Accepted)),
            Target::Drop => done.push((walk, Left::Dropped)),
            Target::Reject => done.push((walk, Left::Rejected)),
            Target::Return => done.push((walk, Left::Through)),
            Target::Masquerade { .. } => {
                walk.masqueraded = true;
                done.push((walk, Left::Accepted));
            }
            Target::Dnat(to) => {
                walk.destination = *to;
                walk.translated = true;
                done.push((walk, Left::Accepted));
            }
            Target::Jump(chain) | Target::Goto(chain) => {
                if depth >= MAX_DEPTH {
                    walk.unread.push(format!("chain {chain}: nested too deep"));
                    next.push(walk);
                    return;
                }
                let back = matches!(rule.target, Target::Jump(_));
                for (walk, left) in self.chain(&ChainId::new(id.table, chain), walk, depth + 1) {
                    if left == Left::Through && back {
                        next.push(walk);
                    } else {
                        done.push((walk, left));
                    }
                }
            }
        }
    }

    fn admits(&self, rule: &Rule, walk: &mut Walk) -> bool {
        rule.matches.iter().all(|condition| self.holds(condition, walk))
    }

    fn holds(&self, condition: &Match, walk: &mut Walk) -> bool {
        let destination = *walk.destination.ip();
        match condition {
            Match::Source(net) => net.value.contains(&self.packet.source) != net.negated,
            Match::Destination(net) => net.value.contains(&destination) != net.negated,
            Match::InInterface(name) => {
                let same = self.packet.in_interface.as_deref().is_some_and(|have| {
                    name.value.strip_suffix('+').map_or(have == name.value, |p| have.starts_with(p))
                });
                self.packet.in_interface.is_some() && same != name.negated
            }
            // It notes the sender and always holds, where `--rcheck` asks for one noted before.
            Match::Other(text) if text.starts_with("-m recent --set") => true,
            Match::OutInterface(_) | Match::Other(_) => {
                walk.unread.push(condition.to_string());
                false
            }
            Match::Protocol(protocol) => *protocol == self.packet.protocol,
            Match::DestinationPort(protocol, ports) => {
                *protocol == self.packet.protocol
                    && ports.value.contains(walk.destination.port()) != ports.negated
            }
            Match::DestinationLocal(is) => self.host.is_local(destination) != is.negated,
            Match::SourceLocal(is) => self.host.is_local(self.packet.source) != is.negated,
            Match::Mark(is) => (walk.mark & is.value.1 == is.value.0) != is.negated,
            Match::Conntrack(conntrack) => tracked(conntrack, walk),
            Match::Probability(_) | Match::Comment(_) => true,
        }
    }
}

/// The walk's packet is the first of its connection: NEW, and DNAT once a rule translated it.
fn tracked(conntrack: &Conntrack, walk: &Walk) -> bool {
    let state = |state: &State| match state {
        State::New => true,
        State::Dnat => walk.translated,
        _ => false,
    };
    let states = conntrack
        .states
        .as_ref()
        .is_none_or(|states| states.value.iter().any(state) != states.negated);
    let destination = conntrack
        .original_destination
        .as_ref()
        .is_none_or(|net| net.value.contains(walk.original.ip()) != net.negated);
    let port = conntrack
        .original_port
        .as_ref()
        .is_none_or(|ports| ports.value.contains(walk.original.port()) != ports.negated);
    states && destination && port
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::network::book::Book;
    use crate::network::chain_name::ChainNames;
    use crate::network::scene;
    use crate::network::service_port::{EndpointFacts, ServiceFacts};
    use crate::object::Key;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
    const FAR_POD: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 9);
    const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

    fn host() -> Host {
        Host { addresses: vec![NODE, Ipv4Addr::new(10, 42, 0, 1)] }
    }

    fn send(tables: &Tables, source: Ipv4Addr, to: &str, protocol: Protocol) -> Vec<Fate> {
        let destination = to.parse().expect("ip:port");
        walk(tables, &Packet { source, destination, protocol, in_interface: None }, &host())
    }

    /// Docker 27 with policy DROP: what is not accepted before its chains is dropped.
    fn beside_docker(book: &mut Book) -> Tables {
        let mut tables = Tables::of_ruleset(book.ruleset());
        tables.policies.insert(ChainId::new(Table::Filter, "FORWARD"), Target::Drop);
        tables
    }

    #[test]
    fn a_node_port_is_masqueraded_and_passes_dockers_policy() {
        let mut book = scene::book(&[("web", &["10.42.0.4:8080", "10.42.0.5:8080"])]);
        let tables = beside_docker(&mut book);
        let fates = send(&tables, CLIENT, "192.0.2.1:30010", Protocol::Tcp);
        assert_eq!(fates.len(), 2);
        for fate in &fates {
            assert!(matches!(fate.end, End::Forwarded(_)) && fate.masqueraded, "{fate:?}");
            assert!((fate.chance - 0.5).abs() < 1e-9 && fate.unread.is_empty());
        }
        let direct = send(&tables, CLIENT, "10.42.0.4:8080", Protocol::Tcp);
        assert_eq!(direct[0].end, End::Dropped, "only service traffic is let through");
        let loopback = send(&tables, NODE, "127.0.0.1:30010", Protocol::Tcp);
        assert!(matches!(loopback[0].end, End::Local(_)), "no node ports on 127.0.0.1");
    }

    #[test]
    fn a_pod_that_meets_itself_is_masqueraded_and_no_other() {
        let mut book = scene::book(&[("web", &["10.42.0.2:8080", "10.42.0.5:8080"])]);
        let tables = beside_docker(&mut book);
        for fate in send(&tables, POD, "10.43.0.10:80", Protocol::Tcp) {
            let End::Forwarded(to) = fate.end else { panic!("{fate:?}") };
            assert_eq!(fate.masqueraded, *to.ip() == POD);
        }
    }

    /// What must happen to a packet, by the words of the specification and nothing else.
    struct Oracle<'a> {
        services: &'a BTreeMap<Key, ServiceFacts>,
        endpoints: &'a BTreeMap<Key, Vec<EndpointFacts>>,
    }

    #[derive(Debug, PartialEq)]
    enum Expected {
        NotOurs,
        Rejected,
        /// Evenly to these; the flag says masqueraded.
        Sent(BTreeSet<(SocketAddrV4, bool)>),
    }

    impl Oracle<'_> {
        fn judge(&self, source: Ipv4Addr, to: SocketAddrV4, protocol: Protocol) -> Expected {
            for (key, service) in self.services {
                for port in service.ports.iter().filter(|port| port.protocol == protocol) {
                    let by_address = port.cluster_ip == *to.ip() && port.port == to.port();
                    let by_node_port = *to.ip() == NODE && port.node_port == Some(to.port());
                    if !by_address && !by_node_port {
                        continue;
                    }
                    let all: Vec<&EndpointFacts> = self.endpoints[key]
                        .iter()
                        .filter(|one| one.port == port.name && one.protocol == protocol)
                        .collect();
                    let mut usable: Vec<&&EndpointFacts> =
                        all.iter().filter(|one| one.ready).collect();
                    if usable.is_empty() {
                        usable = all.iter().filter(|one| one.serving && one.terminating).collect();
                    }
                    if usable.is_empty() {
                        return Expected::Rejected;
                    }
                    let is_pod = source.octets()[..2] == [10, 42];
                    let sent = usable.iter().map(|one| {
                        let hairpin = *one.address.ip() == source;
                        (one.address, by_node_port || !is_pod || hairpin)
                    });
                    return Expected::Sent(sent.collect());
                }
            }
            Expected::NotOurs
        }
    }

    fn clusters() -> impl Strategy<Value = Vec<(ServiceFacts, Vec<EndpointFacts>)>> {
        let one = (scene::any_service(), scene::any_endpoints());
        proptest::collection::vec(one, 1..4).prop_map(|mut all| {
            // The API gives every service an address and node ports of its own.
            let mut node_ports = 30000..;
            for (host, (service, _)) in (20u8..).zip(&mut all) {
                let mut seen = BTreeSet::new();
                service.ports.retain(|port| seen.insert((port.protocol, port.port)));
                for port in &mut service.ports {
                    port.cluster_ip = Ipv4Addr::new(10, 43, 0, host);
                    port.node_port = port.node_port.and_then(|_| node_ports.next());
                }
            }
            all
        })
    }

    proptest! {
        #[test]
        fn every_packet_meets_the_fate_of_the_specification(
            cluster in clusters(),
            source in prop_oneof![Just(POD), Just(FAR_POD), Just(NODE), Just(CLIENT)],
            protocol in prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)],
            address in prop_oneof![
                (20u8..24).prop_map(|host| Ipv4Addr::new(10, 43, 0, host)),
                Just(NODE)
            ],
            port in prop_oneof![80u16..82, 30000u16..30004],
        ) {
            let (mut services, mut endpoints) = (BTreeMap::new(), BTreeMap::new());
            let mut book = Book::new(ChainNames::default_installation(), scene::node());
            for (index, (service, mine)) in cluster.into_iter().enumerate() {
                let key = Key::new("a", format!("s{index}"));
                book.set_service(key.clone(), Some(service.clone()));
                book.set_slice(key.clone(), Some((key.clone(), mine.clone())));
                services.insert(key.clone(), service);
                endpoints.insert(key, mine);
            }
            let tables = beside_docker(&mut book);
            let to = SocketAddrV4::new(address, port);
            let packet = Packet { source, destination: to, protocol, in_interface: None };
            let fates = walk(&tables, &packet, &host());
            let total: f64 = fates.iter().map(|fate| fate.chance).sum();
            prop_assert!((total - 1.0).abs() < 1e-6);
            match (Oracle { services: &services, endpoints: &endpoints }).judge(source, to, protocol) {
                Expected::Rejected => prop_assert_eq!(fates[0].end, End::Rejected),
                Expected::NotOurs => for fate in &fates {
                    let untouched = match fate.end {
                        End::Forwarded(end) | End::Local(end) => end == to,
                        End::Dropped => true,
                        End::Rejected => false,
                    };
                    prop_assert!(untouched, "{:?}", fate);
                },
                Expected::Sent(wanted) => {
                    let even = 1.0 / wanted.len() as f64;
                    let mut sent = BTreeSet::new();
                    for fate in &fates {
                        let End::Forwarded(end) = fate.end else { panic!("{fate:?}") };
                        prop_assert!((fate.chance - even).abs() < 1e-6, "even: {:?}", fate);
                        sent.insert((end, fate.masqueraded));
                    }
                    prop_assert_eq!(sent, wanted);
                }
            }
        }
    }
}
