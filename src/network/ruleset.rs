//! Pure: Services, their endpoints and the node's facts become a [`Ruleset`], the whole of what
//! Ballast wants in iptables. Whoever asks "what rules does a Service make" reads [`service_rules`].
//!
//! ```text
//! nat    PREROUTING, OUTPUT ─▶ SERVICES     clients that are no pods are marked; then one rule a
//!                                           service port: to its address ─▶ SVC-<hash>;
//!                                           last: to any address of this host ─▶ NODEPORTS
//!        NODEPORTS                          a node port: mark, then ─▶ SVC-<hash>
//!        SVC-<hash>                         flat: one DNAT an endpoint, by even chance
//!        POSTROUTING ─▶ POSTROUTING         marked ─▶ MASQUERADE; a pod that reaches a pod of this
//!                                           node through a service ─▶ HAIRPIN
//!        HAIRPIN                            a pod that reached itself is masqueraded
//! filter INPUT, OUTPUT ─▶ REJECT            service ports without endpoints
//!        DOCKER-USER or FORWARD ─▶ FORWARD  REJECT, then service traffic is accepted before
//!                                           Docker's own rules drop it
//! ```
//!
//! Why flat, without kube-proxy's chain an endpoint: loading chains costs more than linear time in
//! the kernel (5,000 services: 0.4 s flat, 9.5 s with a chain an endpoint). Why HAIRPIN works on
//! addresses and not on marks: in a flat chain nothing stands between the choice of an endpoint
//! and its DNAT, and only pods of this node can meet themselves, so the list is short.
//!
//! Known limits: IPv4 only. Session affinity and traffic policy `Local` are refused by admission.
//! Node ports answer on every address of the host but 127.0.0.0/8: `route_localnet` stays 0.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::Ipv4Net;

use crate::object::Key;

use super::chain_name::ChainNames;
use super::rule::{ChainId, Conntrack, Is, Match, Ports, Protocol, Rule, State, Table, Target};
use super::service_port::{EndpointFacts, PortFacts, ServiceFacts, chosen};

/// The bit that says "masquerade this": not one of kube-proxy's (0x4000, 0x8000), Tailscale's
/// (0xff0000), Cilium's (0x0f00) or Calico's (the upper half), so that they can share a host.
pub const MARK: u32 = 0x2000;

/// What the rules depend on beside Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// The whole cluster's pods.
    pub pod_range: Ipv4Net,
    /// This node's pods.
    pub node_range: Ipv4Net,
    /// This node's own addresses, where an endpoint may be the node itself.
    pub addresses: BTreeSet<Ipv4Addr>,
    pub service_range: Ipv4Net,
    pub node_ports: Ports,
    /// Packets between two pods of the bridge pass iptables (`bridge-nf-call-iptables`). Where they
    /// do not, a reply would come back untranslated, so such traffic is masqueraded.
    pub bridge_filtered: bool,
    /// Docker's chain for other people's rules exists; our acceptance goes there.
    pub docker_user: bool,
}

/// One rule in a chain that is not ours, in front of everything there: it leads to our chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// `nat/PREROUTING`
    pub from: ChainId,
    pub rule: Rule,
}

/// Everything that is wanted, in both tables. Cloning it shares the chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub chains: BTreeMap<ChainId, Arc<Vec<Rule>>>,
    pub jumps: Vec<Jump>,
}

/// The rules of one Service, each where it belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRules {
    /// Into SERVICES.
    pub dispatch: Vec<Rule>,
    /// Into NODEPORTS.
    pub node_ports: Vec<Rule>,
    /// Into REJECT.
    pub reject: Vec<Rule>,
    /// The service's own chains.
    pub chains: Vec<(ChainId, Arc<Vec<Rule>>)>,
    /// Where its connections can go.
    pub targets: BTreeSet<SocketAddrV4>,
}

/// The rules of one Service. A port with endpoints gets a chain and the rules that lead there; a
/// port without gets a rejection, so that clients fail at once and do not hang.
pub fn service_rules<'a>(
    names: &ChainNames,
    key: &Key,
    service: &ServiceFacts,
    endpoints: impl Iterator<Item = &'a EndpointFacts> + Clone,
) -> ServiceRules {
    let mut rules = ServiceRules::default();
    for port in &service.ports {
        let targets = chosen(port, endpoints.clone());
        if targets.is_empty() {
            reject(port, &mut rules.reject);
            continue;
        }
        let name = names.service(key, &port.name, port.protocol);
        let there = || Target::Jump(name.clone());
        rules.dispatch.push(Rule::new(to_address(port), there()));
        if let Some(node_port) = port.node_port {
            rules.node_ports.push(Rule::new(to_port(port.protocol, node_port), mark()));
            rules.node_ports.push(Rule::new(to_port(port.protocol, node_port), there()));
        }
        let chain = Arc::new(even_choice(port.protocol, &targets));
        rules.chains.push((ChainId::new(Table::Nat, name), chain));
        rules.targets.extend(targets);
    }
    rules
}

fn reject(port: &PortFacts, rules: &mut Vec<Rule>) {
    rules.push(Rule::new(to_address(port), Target::Reject));
    if let Some(node_port) = port.node_port {
        let mut matches = to_port(port.protocol, node_port);
        matches.insert(1, Match::DestinationLocal(Is::yes(())));
        rules.push(Rule::new(matches, Target::Reject));
    }
}

/// One DNAT an endpoint: the first of n with chance 1/n, the next of the rest with 1/(n-1), the last
/// always, which is an even choice.
fn even_choice(protocol: Protocol, targets: &[SocketAddrV4]) -> Vec<Rule> {
    let rules = targets.iter().enumerate().map(|(index, target)| {
        let remaining = targets.len() - index;
        let mut matches = vec![Match::Protocol(protocol)];
        if remaining > 1 {
            matches.push(Match::one_of(remaining));
        }
        Rule::new(matches, Target::Dnat(*target))
    });
    rules.collect()
}

fn to_address(port: &PortFacts) -> Vec<Match> {
    let mut matches = vec![Match::Destination(Is::yes(port.cluster_ip.into()))];
    matches.extend(to_port(port.protocol, port.port));
    matches
}

fn to_port(protocol: Protocol, port: u16) -> Vec<Match> {
    vec![Match::Protocol(protocol), Match::DestinationPort(protocol, Is::yes(Ports::one(port)))]
}

fn mark() -> Target {
    Target::SetMark { value: MARK, mask: MARK }
}

/// SERVICES: `dispatch` between the mark and the node ports.
pub fn services_chain<'a>(
    names: &ChainNames,
    node: &NodeFacts,
    dispatch: impl Iterator<Item = &'a Rule>,
) -> Vec<Rule> {
    // Replies to a client outside the pod network must come back through this host.
    let outside = vec![
        Match::Source(Is::not(node.pod_range)),
        Match::Destination(Is::yes(node.service_range)),
    ];
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let local = vec![Match::Destination(Is::not(loopback)), Match::DestinationLocal(Is::yes(()))];
    let mut rules = vec![Rule::new(outside, mark())];
    rules.extend(dispatch.cloned());
    rules.push(Rule::new(local, Target::Jump(names.node_ports())));
    rules
}

/// HAIRPIN: of all targets those that live on this node.
pub fn hairpin_chain(node: &NodeFacts, targets: impl Iterator<Item = Ipv4Addr>) -> Vec<Rule> {
    let local: BTreeSet<Ipv4Addr> = targets
        .filter(|target| node.node_range.contains(target) || node.addresses.contains(target))
        .collect();
    let to_itself = |address: Ipv4Addr| {
        vec![Match::Source(Is::yes(address.into())), Match::Destination(Is::yes(address.into()))]
    };
    local.into_iter().map(|address| Rule::new(to_itself(address), masquerade())).collect()
}

/// The chains that no Service changes.
pub fn fixed_chains(names: &ChainNames, node: &NodeFacts) -> Vec<(ChainId, Vec<Rule>)> {
    vec![
        (ChainId::new(Table::Nat, names.postrouting()), postrouting(names, node)),
        (
            ChainId::new(Table::Nat, names.masquerade()),
            vec![
                Rule::always(Target::SetMark { value: 0, mask: MARK }),
                Rule::always(masquerade()),
            ],
        ),
        (ChainId::new(Table::Filter, names.forward()), forward(names, node)),
    ]
}

fn masquerade() -> Target {
    Target::Masquerade { random_fully: true }
}

fn postrouting(names: &ChainNames, node: &NodeFacts) -> Vec<Rule> {
    let translated = || Match::Conntrack(Conntrack::state(State::Dnat));
    let same_bridge = vec![
        Match::Source(Is::yes(node.node_range)),
        Match::Destination(Is::yes(node.node_range)),
        translated(),
    ];
    let back_on_the_bridge = if node.bridge_filtered {
        Rule::new(vec![translated()], Target::Jump(names.hairpin()))
    } else {
        Rule::new(same_bridge, masquerade())
    };
    vec![
        Rule::new(vec![Match::Mark(Is::yes((MARK, MARK)))], Target::Jump(names.masquerade())),
        back_on_the_bridge,
    ]
}

/// Accepts what belongs to a connection through a service, in both directions: by the address or
/// port it was first sent to. Published ports of other containers keep the rules that their owner
/// put into DOCKER-USER.
fn forward(names: &ChainNames, node: &NodeFacts) -> Vec<Rule> {
    let by_address = Match::Conntrack(Conntrack {
        original_destination: Some(Is::yes(node.service_range)),
        ..Conntrack::state(State::Dnat)
    });
    let by_node_port = || {
        Match::Conntrack(Conntrack {
            original_port: Some(Is::yes(node.node_ports)),
            ..Conntrack::state(State::Dnat)
        })
    };
    let new = Match::Conntrack(Conntrack::state(State::New));
    vec![
        Rule::new(vec![new], Target::Jump(names.reject())),
        Rule::new(vec![by_address], Target::Accept),
        Rule::new(
            vec![Match::Destination(Is::yes(node.pod_range)), by_node_port()],
            Target::Accept,
        ),
        Rule::new(vec![Match::Source(Is::yes(node.pod_range)), by_node_port()], Target::Accept),
    ]
}

/// The rules in chains of others that lead to ours.
pub fn jumps(names: &ChainNames, node: &NodeFacts) -> Vec<Jump> {
    let jump = |table, from: &str, matches, to| Jump {
        from: ChainId::new(table, from),
        rule: Rule::new(matches, Target::Jump(to)),
    };
    let new = || vec![Match::Conntrack(Conntrack::state(State::New))];
    let forward_from = if node.docker_user { "DOCKER-USER" } else { "FORWARD" };
    vec![
        jump(Table::Nat, "PREROUTING", vec![], names.services()),
        jump(Table::Nat, "OUTPUT", vec![], names.services()),
        jump(Table::Nat, "POSTROUTING", vec![], names.postrouting()),
        jump(Table::Filter, "INPUT", new(), names.reject()),
        jump(Table::Filter, "OUTPUT", new(), names.reject()),
        jump(Table::Filter, forward_from, vec![], names.forward()),
    ]
}

/// Every DNAT target in a chain.
pub fn targets(rules: &[Rule]) -> impl Iterator<Item = SocketAddrV4> + '_ {
    rules.iter().filter_map(|rule| match rule.target {
        Target::Dnat(target) => Some(target),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::scene;

    #[test]
    fn a_service_with_two_endpoints() {
        let rules = scene::web(&["10.42.0.4:8080", "10.42.0.5:8080"]);
        let text = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
        let chain = &rules.chains[0].0.name;
        assert_eq!(
            text(&rules.dispatch),
            [format!("-d 10.43.0.9/32 -p tcp -m tcp --dport 80 -j {chain}")]
        );
        assert_eq!(
            text(&rules.node_ports),
            [
                "-p tcp -m tcp --dport 30080 -j MARK --set-xmark 0x2000/0x2000".to_owned(),
                format!("-p tcp -m tcp --dport 30080 -j {chain}"),
            ]
        );
        assert_eq!(
            text(&rules.chains[0].1),
            [
                "-p tcp -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.42.0.4:8080",
                "-p tcp -j DNAT --to-destination 10.42.0.5:8080",
            ]
        );
        assert!(rules.reject.is_empty());
    }

    #[test]
    fn a_service_without_endpoints_is_rejected_on_both_addresses() {
        let rules = scene::web(&[]);
        let text: Vec<String> = rules.reject.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "-d 10.43.0.9/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
                "-p tcp -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j REJECT --reject-with icmp-port-unreachable",
            ]
        );
        assert!(rules.chains.is_empty() && rules.dispatch.is_empty());
    }

    #[test]
    fn a_host_that_does_not_filter_its_bridge_masquerades_there() {
        let names = ChainNames::default_installation();
        let node = NodeFacts { bridge_filtered: false, ..scene::node() };
        let (_, rules) = fixed_chains(&names, &node).swap_remove(0);
        assert_eq!(
            rules[1].to_string(),
            "-s 10.42.0.0/24 -d 10.42.0.0/24 -m conntrack --ctstate DNAT -j MASQUERADE --random-fully"
        );
    }
}
