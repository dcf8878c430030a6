//! Pure: which addresses pods get, and whether they collide with what the host already routes to.
//!
//! The cluster has one pod range (default 10.42.0.0/16) cut into one /24 a node: 254 addresses, one
//! of them the bridge's own. A range that overlaps a route of the host is refused at start: a pod
//! there would hide a real neighbour.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// 10.42.0.0/16: 256 nodes of 254 addresses; K3s' range, which few offices use.
pub const DEFAULT_POD_RANGE: &str = "10.42.0.0/16";
/// A node's share, as a prefix length: 254 addresses hold Kubernetes' 110 pods twice over.
pub const NODE_PREFIX: u8 = 24;

/// A route of the host, out of `/proc/net/route`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub interface: String,
    pub network: Ipv4Net,
}

/// Two ranges that must not meet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error(
        "the {what} range {range} overlaps the route to {} on {}: choose another range",
        route.network, route.interface
    )]
    Route { what: &'static str, range: Ipv4Net, route: Route },
    #[error("the pod range {pods} overlaps the service range {services}: choose another one")]
    Ranges { pods: Ipv4Net, services: Ipv4Net },
    #[error("the pod range {0} has no room for a node's /24: it must be a /24 or larger")]
    TooSmall(Ipv4Net),
}

/// The `index`-th node's range; `None` past the last one.
pub fn node_range(cluster: Ipv4Net, index: usize) -> Option<Ipv4Net> {
    cluster.subnets(NODE_PREFIX).ok()?.nth(index)
}

/// The bridge's own address: the first of the node's range, every pod's gateway.
pub fn gateway(node: Ipv4Net) -> Option<Ipv4Addr> {
    node.hosts().next()
}

/// The lowest node range that nobody has. `None`: the cluster range is used up.
pub fn free_node_range(cluster: Ipv4Net, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    cluster
        .subnets(NODE_PREFIX)
        .ok()?
        .find(|range| !taken.iter().any(|other| overlap(*range, *other)))
}

/// Every reason why these ranges cannot be used on this host. Routes on `own_interface` (our
/// bridge, left by an earlier run) and default routes do not count.
pub fn range_faults(
    pods: Ipv4Net,
    services: Ipv4Net,
    routes: &[Route],
    own_interface: &str,
) -> Vec<SubnetError> {
    let mut faults = Vec::new();
    if pods.prefix_len() > NODE_PREFIX {
        faults.push(SubnetError::TooSmall(pods));
    }
    if overlap(pods, services) {
        faults.push(SubnetError::Ranges { pods, services });
    }
    for (what, range) in [("pod", pods), ("service", services)] {
        let foreign = routes.iter().filter(|route| {
            route.interface != own_interface
                && route.network.prefix_len() > 0
                && overlap(range, route.network)
        });
        faults.extend(foreign.map(|route| SubnetError::Route {
            what,
            range,
            route: route.clone(),
        }));
    }
    faults
}

/// Reads `/proc/net/route`: a header, then tab-separated columns with addresses as little-endian
/// hexadecimal. A line that is none is left out.
pub fn parse_routes(proc_net_route: &str) -> Vec<Route> {
    proc_net_route.lines().skip(1).filter_map(parse_route).collect()
}

fn parse_route(line: &str) -> Option<Route> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let address = |column: usize| {
        u32::from_str_radix(columns.get(column)?, 16)
            .ok()
            .map(|number| Ipv4Addr::from(number.to_le_bytes()))
    };
    let network = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
    Some(Route { interface: (*columns.first()?).to_owned(), network: network.trunc() })
}

/// The host's own addresses, out of `/proc/net/fib_trie`: leaves that a line `/32 host LOCAL`
/// follows. Loopback is left out.
pub fn parse_local_addresses(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut found = std::collections::BTreeSet::new();
    let mut leaf = None;
    for line in fib_trie.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.filter(|address| !address.is_loopback()));
        }
    }
    found.into_iter().collect()
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010010AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000010AC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        wg0\t00802A0A\t00000000\t0001\t0\t0\t0\t0080FFFF\t0\t0\t0\n\
        nonsense\n";

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    #[test]
    fn routes_are_read_and_default_routes_do_not_collide() {
        let routes = parse_routes(ROUTES);
        let networks: Vec<String> = routes.iter().map(|route| route.network.to_string()).collect();
        assert_eq!(networks, ["0.0.0.0/0", "172.16.0.0/24", "10.42.128.0/17"]);
        let faults = range_faults(net("10.42.0.0/16"), net("10.43.0.0/16"), &routes, "ballast0");
        assert_eq!(
            faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "the pod range 10.42.0.0/16 overlaps the route to 10.42.128.0/17 on wg0: choose another range"
            ]
        );
        assert_eq!(range_faults(net("10.42.0.0/16"), net("10.43.0.0/16"), &routes, "wg0"), []);
        assert_eq!(range_faults(net("10.42.0.0/25"), net("10.42.0.0/24"), &[], "x").len(), 2);
    }

    #[test]
    fn own_addresses_are_the_local_leaves() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
            Local:\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 172.16.0.2\n\
            \x20       /32 host LOCAL\n     |-- 172.16.0.255\n        /32 link BROADCAST\n";
        assert_eq!(parse_local_addresses(trie), [Ipv4Addr::new(172, 16, 0, 2)]);
    }

    #[test]
    fn every_node_gets_its_own_range() {
        let cluster = net("10.42.0.0/16");
        assert_eq!(node_range(cluster, 3), Some(net("10.42.3.0/24")));
        assert_eq!(node_range(cluster, 256), None);
        assert_eq!(gateway(net("10.42.3.0/24")), Some(Ipv4Addr::new(10, 42, 3, 1)));
        let taken = [net("10.42.0.0/24"), net("10.42.2.0/24")];
        assert_eq!(free_node_range(cluster, &taken), Some(net("10.42.1.0/24")));
    }
}
