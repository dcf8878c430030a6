//! Pure: `ballast trace`: a packet's walk through the rules, told to a person.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::Serialize;

use super::chain_name::ChainNames;
use super::packet::{End, Fate, Host, Packet, walk};
use super::rule::Protocol;
use super::service_port::ServiceFacts;
use super::tables::Tables;
use crate::object::Key;

/// The answer, for people (`Display`) and for programs (JSON).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    pub packet: Packet,
    pub fates: Vec<Fate>,
    /// What the service chains are called by people: `default/web:http`.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
}

/// A question that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("{0:?} is no IPv4 address: give a pod's or a client's address, or `host`")]
    From(String),
    #[error("{0:?} is not address:port, with /udp behind it for UDP: 10.43.0.10:80")]
    To(String),
    #[error("the host has no address to send from")]
    NoHostAddress,
}

/// Reads `<from> <to:port>[/udp]`; `host` is this host itself.
///
/// # Errors
/// The side that cannot be read.
pub fn question(from: &str, to: &str, host: &Host) -> Result<Packet, TraceError> {
    let source = match from {
        "host" | "node" => *host.addresses.first().ok_or(TraceError::NoHostAddress)?,
        text => text.parse::<Ipv4Addr>().map_err(|_| TraceError::From(text.to_owned()))?,
    };
    let bad = || TraceError::To(to.to_owned());
    let (address, protocol) = to.split_once('/').unwrap_or((to, "tcp"));
    Ok(Packet {
        source,
        destination: address.parse::<SocketAddrV4>().map_err(|_| bad())?,
        protocol: Protocol::of_text(protocol).ok_or_else(bad)?,
        in_interface: None,
    })
}

/// What people call the chains of these services.
pub fn labels<'a>(
    names: &ChainNames,
    services: impl Iterator<Item = (&'a Key, &'a ServiceFacts)>,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, service) in services {
        for port in &service.ports {
            let chain = names.service(key, &port.name, port.protocol);
            let name = if port.name.is_empty() { port.port.to_string() } else { port.name.clone() };
            labels.insert(chain, format!("{key}:{name}/{}", port.protocol));
        }
    }
    labels
}

/// Walks the packet. `labels` may be empty.
pub fn trace(
    tables: &Tables,
    packet: Packet,
    host: &Host,
    labels: BTreeMap<String, String>,
) -> Trace {
    Trace { fates: walk(tables, &packet, host), packet, labels }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet { source, destination, protocol, .. } = &self.packet;
        writeln!(f, "{source} -> {destination}/{protocol}")?;
        for fate in &self.fates {
            writeln!(f)?;
            writeln!(f, "{:>5.1} %  {}", fate.chance * 100.0, self.sentence(fate))?;
            for step in &fate.steps {
                let label = self.labels.get(&step.chain.name);
                let label = label.map(|label| format!("  ({label})")).unwrap_or_default();
                let place = format!("{} {}", step.chain, step.number);
                writeln!(f, "    {:<12} {place:<38} {}{label}", step.hook, step.rule)?;
            }
            for unread in &fate.unread {
                writeln!(f, "    not judged, taken as not matching: {unread}")?;
            }
        }
        Ok(())
    }
}

impl Trace {
    fn sentence(&self, fate: &Fate) -> String {
        let seen = if fate.masqueraded { ", which sees this host as the sender" } else { "" };
        match fate.end {
            End::Forwarded(to) if to == self.packet.destination => {
                format!("goes on to {to} untranslated{seen}: no rule of a service took it")
            }
            End::Forwarded(to) => format!("reaches {to}{seen}"),
            End::Local(to) => format!("reaches a program of this host at {to}"),
            End::Rejected => "is rejected: the client gets an error at once".to_owned(),
            End::Dropped => "is dropped: the client waits in vain".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::scene;

    #[test]
    fn the_walk_is_told_with_chances_chains_and_names() {
        let mut book = scene::book(&[("web", &["10.42.0.4:8080", "10.42.0.5:8080"])]);
        let labels = labels(book.names(), book.services());
        let tables = Tables::of_ruleset(book.ruleset());
        let host = Host { addresses: vec![Ipv4Addr::new(192, 0, 2, 1)] };
        let packet = question("10.42.1.7", "10.43.0.10:80", &host).expect("a question");
        let told = trace(&tables, packet, &host, labels).to_string();
        assert!(told.starts_with("10.42.1.7 -> 10.43.0.10:80/tcp\n"), "{told}");
        assert!(told.contains(" 50.0 %  reaches 10.42.0.4:8080\n"), "{told}");
        assert!(told.contains("(default/web:80/tcp)"), "{told}");
        let node_port = question("198.51.100.1", "192.0.2.1:30010", &host).expect("a question");
        let told = trace(&tables, node_port, &host, BTreeMap::new()).to_string();
        assert!(told.contains("which sees this host as the sender"), "{told}");
    }

    #[test]
    fn questions_that_are_none_say_what_is_one() {
        let host = Host::default();
        assert!(matches!(question("web", "10.43.0.1:80", &host), Err(TraceError::From(_))));
        assert!(matches!(question("10.0.0.1", "10.43.0.1", &host), Err(TraceError::To(_))));
        assert!(matches!(question("10.0.0.1", "10.43.0.1:80/sctp", &host), Err(TraceError::To(_))));
        assert_eq!(question("host", "10.43.0.1:80", &host), Err(TraceError::NoHostAddress));
        let udp = question("10.0.0.1", "10.43.0.1:53/udp", &host).expect("a question");
        assert_eq!(udp.protocol, Protocol::Udp);
    }
}
