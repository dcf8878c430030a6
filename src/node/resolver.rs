//! Pure: how a pod resolves names, from its policy, its own settings and the host's `resolv.conf`.
//!
//! There is no cluster DNS yet, so `ClusterFirst` and `ClusterFirstWithHostNet` begin as `Default` does:
//! with what the host resolves by. A pod's own settings come on top, as the kubelet merges them
//! (`network/dns/dns.go`): servers and search paths are added once each, an option of the same name
//! replaces the host's. A pod that has none gets what the engine gives every container.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

/// The kubelet's bounds: glibc looks at no more servers, and Kubernetes takes no longer list.
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    /// `ndots:2`, `use-vc`
    pub options: Vec<String>,
}

/// The host's; of two lists of search paths the later counts. A server on the loopback is the host's
/// alone: a pod would ask itself.
pub fn parse(text: &str, for_host: bool) -> Resolver {
    let mut read = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let owned = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                let fits = address.filter(|address| for_host || !address.is_loopback());
                read.servers.extend(fits.map(|address| address.to_string()));
            }
            Some("search" | "domain") => read.searches = owned(words),
            Some("options") => read.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    read
}

/// What a pod's sandbox is given; `None`: what the engine gives every container.
pub fn of_pod(spec: &PodSpec, host: &Resolver) -> Option<Resolver> {
    let is_alone = spec.dns_policy.as_deref() == Some("None");
    let own = spec.dns_config.as_ref();
    if own.is_none() && !is_alone {
        return None;
    }
    let mut merged = if is_alone { Resolver::default() } else { host.clone() };
    let Some(own) = own else { return Some(merged) };
    add(&mut merged.servers, own.nameservers.iter().flatten(), MOST_SERVERS);
    add(&mut merged.searches, own.searches.iter().flatten(), MOST_SEARCHES);
    for option in own.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        let same = |written: &String| written.split(':').next() == Some(name);
        merged.options.retain(|written| !same(written));
        merged.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        });
    }
    Some(merged)
}

fn add<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>, most: usize) {
    for word in more {
        if !list.contains(word) {
            list.push(word.clone());
        }
    }
    list.truncate(most);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HOST: &str = "# made by a person\ndomain old.example\nsearch a.example b.example\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver x\noptions ndots:1 edns0\n";

    fn told(policy: &str, config: Value) -> Option<String> {
        let spec: PodSpec = serde_json::from_value(
            json!({"containers": [], "dnsPolicy": policy, "dnsConfig": config}),
        )
        .expect("a spec");
        let resolver = of_pod(&spec, &parse(HOST, false))?;
        let list = |words: Vec<String>| words.join(" ");
        let Resolver { servers, searches, options } = resolver;
        Some(format!("{} | {} | {}", list(servers), list(searches), list(options)))
    }

    #[test]
    fn a_pod_without_words_of_its_own_resolves_as_the_engine_does() {
        for policy in ["ClusterFirst", "ClusterFirstWithHostNet", "Default"] {
            assert_eq!(told(policy, Value::Null), None, "{policy}");
        }
    }

    #[test]
    fn its_own_words_come_on_top_of_the_hosts() {
        let config = json!({"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"],
            "searches": ["b.example", "c.example"],
            "options": [{"name": "ndots", "value": "5"}, {"name": "use-vc"}]});
        let merged =
            "192.0.2.1 192.0.2.2 192.0.2.3 | a.example b.example c.example | edns0 ndots:5 use-vc";
        assert_eq!(told("ClusterFirst", config.clone()).as_deref(), Some(merged));
        assert_eq!(
            told("Default", json!({"searches": []})).as_deref(),
            Some("192.0.2.1 | a.example b.example | ndots:1 edns0")
        );
        let alone = "192.0.2.1 192.0.2.2 192.0.2.3 | b.example c.example | ndots:5 use-vc";
        assert_eq!(told("None", config).as_deref(), Some(alone));
        assert_eq!(parse(HOST, true).servers, ["127.0.0.53", "192.0.2.1"]);
    }
}
