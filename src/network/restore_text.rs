//! Pure: from what the kernel has to what is wanted: the [`Plan`], with the very text that
//! `iptables-restore --noflush` reads.
//!
//! A `:CHAIN - [0:0]` line makes the chain, or empties it if it is there; chains that are not named
//! stay as they are, whoever owns them. So the text holds only the chains that differ, complete,
//! and the kernel takes all of one table or nothing.
//!
//! Order: nat before filter, so that a Service that gets its first endpoint is reachable before its
//! rejection goes; jumps after the chains they lead to; removal of chains after the rules that led
//! there, in the same text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::chain_name::ChainNames;
use super::rule::{ChainId, Match, Protocol, Rule, Table};
use super::ruleset::{Jump, Ruleset, targets};
use super::ruleset_check::{Difference, check_jumps};
use super::tables::Tables;

/// What to do to the kernel, in this order. Empty: nothing differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub restores: Vec<Restore>,
    pub jumps: Vec<JumpStep>,
    /// Connections that remember an endpoint or a void that is gone.
    pub flows: Vec<Flow>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.restores.is_empty() && self.jumps.is_empty() && self.flows.is_empty()
    }
}

/// One atomic change of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    pub table: Table,
    /// Chains written anew.
    pub written: Vec<ChainId>,
    /// Chains that go.
    pub removed: Vec<ChainId>,
    pub text: String,
}

/// One change in a chain that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JumpStep {
    /// Put it in front of all others; it is not there.
    Insert(Jump),
    /// Take every copy out, then put one in front.
    MoveToFront(Jump),
    Delete(Jump),
}

impl JumpStep {
    /// The chain that it changes.
    pub fn place(&self) -> &ChainId {
        match self {
            Self::Insert(jump) | Self::MoveToFront(jump) | Self::Delete(jump) => &jump.from,
        }
    }
}

/// UDP has no end of a connection: conntrack would send a busy client's packets to where they went
/// before, for as long as the client keeps sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// Flows that were translated to an endpoint that is gone.
    ToEndpoint(SocketAddrV4),
    /// Flows to a service address that had no endpoint until now, hence were not translated.
    ToService(SocketAddrV4),
    /// The same for a node port.
    ToNodePort(u16),
}

/// Our part of what the kernel has: the chains that `names` owns.
pub fn owned(names: &ChainNames, actual: &Tables) -> BTreeMap<ChainId, Arc<Vec<Rule>>> {
    let ours = actual.chains.iter().filter(|(id, _)| names.owns(&id.name));
    ours.map(|(id, rules)| (id.clone(), rules.clone())).collect()
}

/// What turns `actual` (our chains in the kernel) into `wanted`. Chains in `leave` stay as they are:
/// somebody changed them, and their Service is report-only.
pub fn plan(
    wanted: &Ruleset,
    actual: &BTreeMap<ChainId, Arc<Vec<Rule>>>,
    leave: &BTreeSet<ChainId>,
) -> Plan {
    let all: BTreeSet<&ChainId> = wanted.chains.keys().chain(actual.keys()).collect();
    plan_chains(wanted, actual, all.into_iter().filter(|chain| !leave.contains(*chain)))
}

/// As [`plan`], where only `chains` can differ.
pub fn plan_chains<'a>(
    wanted: &Ruleset,
    actual: &BTreeMap<ChainId, Arc<Vec<Rule>>>,
    chains: impl Iterator<Item = &'a ChainId>,
) -> Plan {
    let mut by_table: BTreeMap<Table, (Vec<ChainId>, Vec<ChainId>)> = BTreeMap::new();
    for id in chains {
        let (written, removed) = by_table.entry(id.table).or_default();
        match (wanted.chains.get(id), actual.get(id)) {
            (Some(rules), Some(there)) if Arc::ptr_eq(there, rules) || there == rules => {}
            (Some(_), _) => written.push(id.clone()),
            (None, Some(_)) => removed.push(id.clone()),
            (None, None) => {}
        }
    }
    let mut plan = Plan::default();
    for (table, (written, removed)) in by_table {
        if !written.is_empty() || !removed.is_empty() {
            let text = restore_text(table, wanted, &written, &removed);
            plan.restores.push(Restore { table, written, removed, text });
        }
    }
    plan.flows = stale_flows(wanted, actual, &plan.restores);
    plan
}

/// What puts the jumps right, see [`check_jumps`].
pub fn plan_jumps(names: &ChainNames, wanted: &[Jump], actual: &Tables) -> Vec<JumpStep> {
    check_jumps(names, wanted, actual)
        .into_iter()
        .filter_map(|difference| match difference {
            Difference::JumpMissing { jump } => Some(JumpStep::Insert(jump)),
            Difference::JumpNotFirst { jump } => Some(JumpStep::MoveToFront(jump)),
            Difference::JumpExtra { jump } => Some(JumpStep::Delete(jump)),
            _ => None,
        })
        .collect()
}

/// The text for one table. `removed` chains are emptied with the others and deleted at the end,
/// when nothing leads to them any more.
pub fn restore_text(
    table: Table,
    wanted: &Ruleset,
    written: &[ChainId],
    removed: &[ChainId],
) -> String {
    let mut text = format!("*{table}\n");
    for chain in written.iter().chain(removed) {
        let _ = writeln!(text, ":{} - [0:0]", chain.name);
    }
    for chain in written {
        for rule in wanted.chains.get(chain).into_iter().flat_map(|rules| rules.iter()) {
            let _ = writeln!(text, "-A {} {rule}", chain.name);
        }
    }
    for chain in removed {
        let _ = writeln!(text, "-X {}", chain.name);
    }
    text.push_str("COMMIT\n");
    text
}

/// UDP endpoints that are in a chain now and will not be, and UDP services that get their first.
fn stale_flows(
    wanted: &Ruleset,
    actual: &BTreeMap<ChainId, Arc<Vec<Rule>>>,
    restores: &[Restore],
) -> Vec<Flow> {
    let mut flows = BTreeSet::new();
    let mut fresh: BTreeSet<&str> = BTreeSet::new();
    for chain in restores.iter().flat_map(|restore| restore.written.iter().chain(&restore.removed))
    {
        let before = actual.get(chain).map_or(&[][..], |rules| rules.as_slice());
        let after = wanted.chains.get(chain).map_or(&[][..], |rules| rules.as_slice());
        let kept: BTreeSet<SocketAddrV4> = targets(after).collect();
        if before.iter().any(is_udp) {
            let gone = targets(before).filter(|target| !kept.contains(target));
            flows.extend(gone.map(Flow::ToEndpoint));
        } else if after.iter().any(is_udp) {
            fresh.insert(&chain.name);
        }
    }
    if !fresh.is_empty() {
        let leading = wanted.chains.values().flat_map(|rules| rules.iter()).filter(|rule| {
            is_udp(rule) && rule.next_chain().is_some_and(|chain| fresh.contains(chain))
        });
        flows.extend(leading.filter_map(first_sent_to));
    }
    flows.into_iter().collect()
}

fn is_udp(rule: &Rule) -> bool {
    rule.matches.contains(&Match::Protocol(Protocol::Udp))
}

/// What a dispatch rule compares a packet with.
fn first_sent_to(rule: &Rule) -> Option<Flow> {
    let port = rule.matches.iter().find_map(|condition| match condition {
        Match::DestinationPort(_, ports) => Some(ports.value.first),
        _ => None,
    })?;
    let address: Option<Ipv4Addr> = rule.matches.iter().find_map(|condition| match condition {
        Match::Destination(net) => Some(net.value.addr()),
        _ => None,
    });
    Some(match address {
        Some(address) => Flow::ToService(SocketAddrV4::new(address, port)),
        None => Flow::ToNodePort(port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::scene;
    use crate::network::service_port::EndpointFacts;
    use crate::object::Key;

    fn udp_book(endpoints: &[&str]) -> crate::network::book::Book {
        let mut book = scene::book(&[]);
        let key = Key::new("default", "dns");
        let mut service = scene::service(53, Some(30053));
        service.ports[0].protocol = Protocol::Udp;
        book.set_service(key.clone(), Some(service));
        let endpoints = endpoints
            .iter()
            .map(|address| EndpointFacts { protocol: Protocol::Udp, ..scene::ready(address) });
        book.set_slice(Key::new("default", "dns-1"), Some((key, endpoints.collect())));
        book
    }

    #[test]
    fn one_endpoint_writes_one_chain() {
        let mut book = scene::book(&[("web", &["10.42.3.4:8080"]), ("api", &["10.42.3.5:8080"])]);
        let before = book.ruleset().clone();
        let key = Key::new("default", "web");
        let moved = vec![scene::ready("10.42.3.9:8080")];
        book.set_slice(Key::new("default", "web-1"), Some((key, moved)));
        let plan = plan(book.ruleset(), &before.chains, &BTreeSet::new());
        let [restore] = plan.restores.as_slice() else { panic!("one table: {plan:?}") };
        let [chain] = restore.written.as_slice() else { panic!("one chain: {restore:?}") };
        let chain = &chain.name;
        assert_eq!(
            restore.text,
            format!(
                "*nat\n:{chain} - [0:0]\n-A {chain} -p tcp -j DNAT --to-destination 10.42.3.9:8080\nCOMMIT\n"
            )
        );
        assert!(plan.flows.is_empty() && plan.jumps.is_empty());
    }

    #[test]
    fn a_service_that_goes_takes_its_chain_along() {
        let mut book = scene::book(&[("web", &["10.42.3.4:8080"])]);
        let before = book.ruleset().clone();
        book.set_service(Key::new("default", "web"), None);
        let plan = plan(book.ruleset(), &before.chains, &BTreeSet::new());
        let text = &plan.restores[0].text;
        assert_eq!(plan.restores[0].removed.len(), 1);
        let name = &plan.restores[0].removed[0].name;
        assert!(
            text.contains(&format!(":{name} - [0:0]\n"))
                && text.contains(&format!("-X {name}\nCOMMIT"))
        );
    }

    #[test]
    fn udp_flows_to_gone_endpoints_and_to_former_voids_are_stale() {
        let none = BTreeSet::new();
        let two = udp_book(&["10.42.0.4:53", "10.42.0.5:53"]).ruleset().clone();
        let one = udp_book(&["10.42.0.5:53"]).ruleset().clone();
        let zero = udp_book(&[]).ruleset().clone();
        let gone = Flow::ToEndpoint("10.42.0.4:53".parse().expect("ip:port"));
        assert_eq!(plan(&one, &two.chains, &none).flows, [gone]);
        assert_eq!(plan(&zero, &two.chains, &none).flows.len(), 2);
        assert_eq!(
            plan(&one, &zero.chains, &none).flows,
            [Flow::ToService("10.43.0.53:80".parse().expect("ip:port")), Flow::ToNodePort(30053)]
        );
        assert!(plan(&two, &one.chains, &none).flows.is_empty(), "more endpoints void nothing");
    }

    #[test]
    fn jumps_are_put_in_front() {
        let mut book = scene::book(&[]);
        let names = book.names().clone();
        let wanted = book.ruleset().clone();
        let steps = plan_jumps(&names, &wanted.jumps, &Tables::default());
        assert_eq!(steps.len(), 6);
        assert!(steps.iter().all(|step| matches!(step, JumpStep::Insert(_))));
        let stale =
            Tables::parse_save("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j BALLAST-FORWARD\n");
        let mut beside_docker = wanted.jumps.clone();
        beside_docker[5].from.name = "DOCKER-USER".to_owned();
        let steps = plan_jumps(&names, &beside_docker, &stale);
        assert!(matches!(&steps[5..], [JumpStep::Insert(_), JumpStep::Delete(_)]), "{steps:?}");
    }
}
