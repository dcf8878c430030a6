//! Pure: the Service addresses and node ports of an installation, and what its daemon allows of pods. An
//! address is right or wrong only for one daemon's ranges, a hostPath only for one daemon's allow-list:
//! `validate` and `plan`, which judge for it, say where theirs came from.

use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::object::privilege::{self, Privileges, WrittenAll};

/// What k3s uses, and no common home or office network.
pub const SERVICE_CIDR: &str = "10.43.0.0/16";
/// Kubernetes' range, outside Linux' ephemeral ports.
pub const NODE_PORTS: &str = "30000-32767";

/// As a config file, a flag or a running daemon writes them; what is absent comes from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    #[serde(default)]
    pub service_cidr: Option<String>,
    #[serde(default)]
    pub node_ports: Option<String>,
    #[serde(default)]
    pub allow: WrittenAll,
}

/// The ranges that admission decides with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    pub services: Ipv4Net,
    pub node_ports: RangeInclusive<u16>,
    /// Of all who say something: each only adds.
    pub privileges: Privileges,
    /// One sentence: which, and where they came from.
    pub note: String,
}

impl Default for Ranges {
    fn default() -> Self {
        choose(&[]).expect("the defaults are ranges")
    }
}

/// The first that says a range wins; each comes with its name (`of /etc/ballast.yaml`).
///
/// # Errors
/// Every range that is none, by its field.
pub fn choose(written: &[(String, Written)]) -> Result<Ranges, Vec<String>> {
    let first = |field: fn(&Written) -> Option<&String>, default: &str| {
        let said = written
            .iter()
            .find_map(|(origin, ranges)| field(ranges).map(|text| (text.clone(), origin.clone())));
        said.unwrap_or_else(|| (default.to_owned(), "the default".to_owned()))
    };
    let (cidr, cidr_origin) = first(|ranges| ranges.service_cidr.as_ref(), SERVICE_CIDR);
    let (range, ports_origin) = first(|ranges| ranges.node_ports.as_ref(), NODE_PORTS);
    let mut faults = Vec::new();
    let services = network("serviceCidr", &cidr, &mut faults);
    let node_ports = ports(&range, &mut faults);
    let mut allow = WrittenAll::new();
    for (_, ranges) in written {
        privilege::add(&mut allow, &ranges.allow);
    }
    let privileges = Privileges::read(allow, Vec::new(), &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let note = if cidr_origin == ports_origin {
        format!("judged by Service range {services} and node ports {range} ({cidr_origin})")
    } else {
        format!(
            "judged by Service range {services} ({cidr_origin}) and node ports {range} ({ports_origin})"
        )
    };
    Ok(Ranges { services, node_ports, privileges, note })
}

/// An IPv4 network; what is none is a fault of `field`.
pub fn network(field: &str, text: &str, faults: &mut Vec<String>) -> Ipv4Net {
    text.parse::<Ipv4Net>().map(|network| network.trunc()).unwrap_or_else(|_| {
        faults.push(format!("{field}: {text:?} is no IPv4 network such as 10.42.0.0/16"));
        Ipv4Net::default()
    })
}

/// A range of ports; what is none is a fault of `nodePorts`.
pub fn ports(text: &str, faults: &mut Vec<String>) -> RangeInclusive<u16> {
    let bounds =
        text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    match bounds {
        Some((low, high)) if 0 < low && low <= high => low..=high,
        _ => {
            faults.push(format!("nodePorts: {text:?} is no range such as {NODE_PORTS}"));
            0..=0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(cidr: Option<&str>, ports: Option<&str>) -> Written {
        let (service_cidr, node_ports) = (cidr.map(Into::into), ports.map(Into::into));
        Written { service_cidr, node_ports, ..Written::default() }
    }

    #[test]
    fn the_first_who_says_it_wins_and_is_named() {
        let flags = ("given".to_owned(), written(Some("10.50.0.0/16"), None));
        let daemon =
            ("of the daemon".to_owned(), written(Some("10.60.0.0/16"), Some("31000-31999")));
        let ranges = choose(&[flags, daemon.clone()]).expect("ranges");
        assert_eq!(
            ranges.note,
            "judged by Service range 10.50.0.0/16 (given) and node ports 31000-31999 (of the daemon)"
        );
        assert_eq!(ranges.node_ports, 31_000..=31_999);
        let ranges = choose(&[daemon]).expect("ranges");
        assert_eq!(
            ranges.note,
            "judged by Service range 10.60.0.0/16 and node ports 31000-31999 (of the daemon)"
        );
        assert_eq!(
            Ranges::default().note,
            "judged by Service range 10.43.0.0/16 and node ports 30000-32767 (the default)"
        );
        let faults =
            choose(&[("x".to_owned(), written(Some("ten"), Some("9-3")))]).expect_err("no ranges");
        assert_eq!(faults.len(), 2, "{faults:?}");
    }
}
