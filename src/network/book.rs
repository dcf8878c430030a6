//! Pure: the book of all Services and endpoints, from which the [`Ruleset`] is kept up to date.
//!
//! One changed EndpointSlice recomputes one Service: its own chains, and the shared chains only if
//! its part of them changed. With 5,000 services that is the difference between microseconds and a
//! tenth of a second. The tests compare every step with a book built from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::object::Key;

use super::chain_name::ChainNames;
use super::rule::{ChainId, Rule, Table};
use super::ruleset::{
    NodeFacts, Ruleset, ServiceRules, fixed_chains, hairpin_chain, jumps, service_rules,
    services_chain,
};
use super::service_port::{EndpointFacts, PortFacts, ServiceFacts};

/// Whom a chain or a rule in a shared chain belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Service(Key),
    /// Shared by all services of this node.
    Node,
}

/// All that is known, and what follows from it.
#[derive(Debug)]
pub struct Book {
    names: ChainNames,
    node: NodeFacts,
    services: BTreeMap<Key, ServiceFacts>,
    /// By service, then by slice.
    endpoints: BTreeMap<Key, BTreeMap<Key, Vec<EndpointFacts>>>,
    /// The service that a slice was last filed under.
    slice_services: BTreeMap<Key, Key>,
    rules: BTreeMap<Key, ServiceRules>,
    owners: BTreeMap<ChainId, Key>,
    /// How many services send to an address of this node: HAIRPIN's list.
    local_targets: BTreeMap<Ipv4Addr, usize>,
    ruleset: Ruleset,
    stale: Stale,
    /// Chains that may differ from when [`Book::take_changed`] was last asked.
    changed: BTreeSet<ChainId>,
}

/// What the next [`Book::ruleset`] must recompute.
#[derive(Debug, Default)]
struct Stale {
    services: BTreeSet<Key>,
    shared: Shared,
}

#[derive(Debug, Default)]
struct Shared {
    fixed: bool,
    dispatch: bool,
    node_ports: bool,
    reject: bool,
    hairpin: bool,
}

impl Shared {
    fn all() -> Self {
        Self { fixed: true, dispatch: true, node_ports: true, reject: true, hairpin: true }
    }
}

impl Book {
    pub fn new(names: ChainNames, node: NodeFacts) -> Self {
        Self {
            names,
            node,
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            slice_services: BTreeMap::new(),
            rules: BTreeMap::new(),
            owners: BTreeMap::new(),
            local_targets: BTreeMap::new(),
            ruleset: Ruleset::default(),
            stale: Stale { shared: Shared::all(), ..Stale::default() },
            changed: BTreeSet::new(),
        }
    }

    pub fn names(&self) -> &ChainNames {
        &self.names
    }

    pub fn node(&self) -> &NodeFacts {
        &self.node
    }

    /// The node's facts changed: every shared chain may.
    pub fn set_node(&mut self, node: NodeFacts) {
        if self.node != node {
            self.node = node;
            self.stale.shared = Shared::all();
            self.recount_local_targets();
        }
    }

    /// A Service as it is now; `None`: it is gone.
    pub fn set_service(&mut self, key: Key, facts: Option<ServiceFacts>) {
        let same = self.services.get(&key) == facts.as_ref();
        if same {
            return;
        }
        match facts {
            Some(facts) => self.services.insert(key.clone(), facts),
            None => self.services.remove(&key),
        };
        self.stale.services.insert(key);
    }

    /// A slice as it is now, filed under its Service; `None`: it is gone, or names no Service.
    pub fn set_slice(&mut self, slice: Key, contents: Option<(Key, Vec<EndpointFacts>)>) {
        let before = self.slice_services.get(&slice).cloned();
        let service_now = contents.as_ref().map(|(service, _)| service.clone());
        if let Some(service) = before.filter(|before| Some(before) != service_now.as_ref()) {
            self.slice_services.remove(&slice);
            if let Some(slices) = self.endpoints.get_mut(&service) {
                slices.remove(&slice);
                if slices.is_empty() {
                    self.endpoints.remove(&service);
                }
            }
            self.stale.services.insert(service);
        }
        let Some((service, endpoints)) = contents else { return };
        let slices = self.endpoints.entry(service.clone()).or_default();
        if slices.get(&slice) != Some(&endpoints) {
            slices.insert(slice.clone(), endpoints);
            self.slice_services.insert(slice, service.clone());
            self.stale.services.insert(service);
        }
    }

    /// All Services at once: whoever is not among them is gone.
    pub fn reset_services(&mut self, services: impl Iterator<Item = (Key, ServiceFacts)>) {
        let fresh: BTreeMap<Key, ServiceFacts> = services.collect();
        let gone: Vec<Key> =
            self.services.keys().filter(|key| !fresh.contains_key(key)).cloned().collect();
        gone.into_iter().for_each(|key| self.set_service(key, None));
        fresh.into_iter().for_each(|(key, facts)| self.set_service(key, Some(facts)));
    }

    /// All slices at once, see [`Book::set_slice`].
    pub fn reset_slices(&mut self, slices: impl Iterator<Item = (Key, Key, Vec<EndpointFacts>)>) {
        let fresh: BTreeMap<Key, (Key, Vec<EndpointFacts>)> =
            slices.map(|(slice, service, endpoints)| (slice, (service, endpoints))).collect();
        let gone: Vec<Key> =
            self.slice_services.keys().filter(|key| !fresh.contains_key(key)).cloned().collect();
        gone.into_iter().for_each(|slice| self.set_slice(slice, None));
        fresh.into_iter().for_each(|(slice, contents)| self.set_slice(slice, Some(contents)));
    }

    pub fn service(&self, key: &Key) -> Option<&ServiceFacts> {
        self.services.get(key)
    }

    /// What a slice says, and the Service that it is filed under.
    pub fn slice(&self, slice: &Key) -> Option<(Key, Vec<EndpointFacts>)> {
        let service = self.slice_services.get(slice)?;
        Some((service.clone(), self.endpoints.get(service)?.get(slice)?.clone()))
    }

    /// Services that have rules, in order.
    pub fn services(&self) -> impl Iterator<Item = (&Key, &ServiceFacts)> {
        self.services.iter().filter(|(_, facts)| !facts.ports.is_empty())
    }

    /// Everything that is wanted now.
    pub fn ruleset(&mut self) -> &Ruleset {
        for key in std::mem::take(&mut self.stale.services) {
            self.recompute(&key);
        }
        let shared = std::mem::take(&mut self.stale.shared);
        self.reassemble(&shared);
        &self.ruleset
    }

    /// The chains that [`Book::ruleset`] has touched since this was last asked: whoever programmed
    /// the rest before need not look at it again.
    pub fn take_changed(&mut self) -> BTreeSet<ChainId> {
        std::mem::take(&mut self.changed)
    }

    fn recompute(&mut self, key: &Key) {
        let before = self.rules.remove(key).unwrap_or_default();
        let after = match self.services.get(key) {
            Some(facts) => {
                let slices = self.endpoints.get(key);
                let endpoints = slices.into_iter().flat_map(BTreeMap::values).flatten();
                service_rules(&self.names, key, facts, endpoints)
            }
            None => ServiceRules::default(),
        };
        for (chain, _) in &before.chains {
            self.ruleset.chains.remove(chain);
            self.owners.remove(chain);
            self.changed.insert(chain.clone());
        }
        for (chain, rules) in &after.chains {
            self.ruleset.chains.insert(chain.clone(), rules.clone());
            self.owners.insert(chain.clone(), key.clone());
            self.changed.insert(chain.clone());
        }
        let shared = &mut self.stale.shared;
        shared.dispatch |= before.dispatch != after.dispatch;
        shared.node_ports |= before.node_ports != after.node_ports;
        shared.reject |= before.reject != after.reject;
        if before.targets != after.targets {
            self.count_targets(&before, false);
            self.count_targets(&after, true);
        }
        if self.services.contains_key(key) {
            self.rules.insert(key.clone(), after);
        }
    }

    fn count_targets(&mut self, rules: &ServiceRules, add: bool) {
        for target in &rules.targets {
            let address = *target.ip();
            if !self.node.node_range.contains(&address) && !self.node.addresses.contains(&address) {
                continue;
            }
            let count = self.local_targets.entry(address).or_default();
            if add {
                *count += 1;
                self.stale.shared.hairpin |= *count == 1;
            } else {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.local_targets.remove(&address);
                    self.stale.shared.hairpin = true;
                }
            }
        }
    }

    fn recount_local_targets(&mut self) {
        self.local_targets.clear();
        let rules = std::mem::take(&mut self.rules);
        rules.values().for_each(|rules| self.count_targets(rules, true));
        self.rules = rules;
    }

    fn reassemble(&mut self, shared: &Shared) {
        let (names, node) = (&self.names, &self.node);
        let mut put = |table, name: String, rules: Vec<Rule>| {
            let chain = ChainId::new(table, name);
            self.changed.insert(chain.clone());
            self.ruleset.chains.insert(chain, Arc::new(rules));
        };
        let all = || self.rules.values();
        if shared.dispatch {
            let rules = services_chain(names, node, all().flat_map(|rules| &rules.dispatch));
            put(Table::Nat, names.services(), rules);
        }
        if shared.node_ports {
            let rules = all().flat_map(|rules| &rules.node_ports).cloned().collect();
            put(Table::Nat, names.node_ports(), rules);
        }
        if shared.reject {
            let rules = all().flat_map(|rules| &rules.reject).cloned().collect();
            put(Table::Filter, names.reject(), rules);
        }
        if shared.hairpin {
            let rules = hairpin_chain(node, self.local_targets.keys().copied());
            put(Table::Nat, names.hairpin(), rules);
        }
        if shared.fixed {
            for (chain, rules) in fixed_chains(names, node) {
                put(chain.table, chain.name, rules);
            }
            self.ruleset.jumps = jumps(names, node);
        }
    }

    /// Whose chain this is. A chain that belongs to no Service is the node's.
    pub fn owner(&self, chain: &ChainId) -> Owner {
        self.owners.get(chain).map_or(Owner::Node, |key| Owner::Service(key.clone()))
    }

    /// Whose rule this is, in a chain that all services share. Linear: asked for drifts only.
    pub fn rule_owner(&self, chain: &ChainId, rule: &Rule) -> Owner {
        if let Owner::Service(key) = self.owner(chain) {
            return Owner::Service(key);
        }
        let has = |rules: &ServiceRules| {
            [&rules.dispatch, &rules.node_ports, &rules.reject]
                .iter()
                .any(|list| list.contains(rule))
        };
        let found = self.rules.iter().find(|(_, rules)| has(rules));
        found.map_or(Owner::Node, |(key, _)| Owner::Service(key.clone()))
    }

    /// The fields of its Service that want a chain, or a rule in a chain that all services share.
    /// Linear, as [`Book::rule_owner`].
    pub fn wanted_by(&self, chain: &ChainId, rule: Option<&Rule>) -> Vec<String> {
        let own = self.owners.get(chain);
        let shared = || match self.rule_owner(chain, rule?) {
            Owner::Service(key) => Some(key),
            Owner::Node => None,
        };
        let Some(key) = own.cloned().or_else(shared) else { return Vec::new() };
        let Some(facts) = self.services.get(&key) else { return Vec::new() };
        let endpoints =
            || self.endpoints.get(&key).into_iter().flat_map(BTreeMap::values).flatten();
        let wants = |port: &&PortFacts| {
            let alone = ServiceFacts { ports: vec![(*port).clone()], ..facts.clone() };
            let rules = service_rules(&self.names, &key, &alone, endpoints());
            if own.is_some() {
                return rules.chains.iter().any(|(id, _)| id == chain);
            }
            let shared = [&rules.dispatch, &rules.node_ports, &rules.reject];
            rule.is_some_and(|rule| shared.iter().any(|list| list.contains(rule)))
        };
        facts.ports.iter().filter(wants).map(port_path).collect()
    }
}

/// `spec.ports[http]`; the only port of a Service may have no name, then by its number.
fn port_path(port: &PortFacts) -> String {
    if port.name.is_empty() {
        format!("spec.ports[{}]", port.port)
    } else {
        format!("spec.ports[{}]", port.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::scene;

    #[derive(Clone, Debug)]
    enum Act {
        Service(u8, Option<ServiceFacts>),
        Slice(u8, Option<(u8, Vec<EndpointFacts>)>),
        Filtered(bool),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0u8..4, proptest::option::of(scene::any_service()))
                .prop_map(|(key, facts)| Act::Service(key, facts)),
            (0u8..6, proptest::option::of((0u8..4, scene::any_endpoints())))
                .prop_map(|(slice, contents)| Act::Slice(slice, contents)),
            any::<bool>().prop_map(Act::Filtered),
        ]
    }

    fn key(number: u8) -> Key {
        Key::new("a", format!("s{number}"))
    }

    proptest! {
        /// Every step leaves what a book built from nothing would have.
        #[test]
        fn step_by_step_is_as_from_nothing(acts in proptest::collection::vec(act(), 1..25)) {
            let names = ChainNames::default_installation();
            let mut book = Book::new(names.clone(), scene::node());
            let mut before = BTreeMap::new();
            for act in acts {
                match act {
                    Act::Service(number, facts) => book.set_service(key(number), facts),
                    Act::Slice(slice, contents) => book.set_slice(
                        key(slice),
                        contents.map(|(service, endpoints)| (key(service), endpoints)),
                    ),
                    Act::Filtered(bridge_filtered) => {
                        book.set_node(NodeFacts { bridge_filtered, ..scene::node() });
                    }
                }
                let mut fresh = Book::new(names.clone(), book.node().clone());
                fresh.reset_services(book.services.clone().into_iter());
                let slices: Vec<_> = book
                    .endpoints
                    .iter()
                    .flat_map(|(service, slices)| slices.iter().map(move |(slice, endpoints)| {
                        (slice.clone(), service.clone(), endpoints.clone())
                    }))
                    .collect();
                fresh.reset_slices(slices.into_iter());
                prop_assert_eq!(book.ruleset(), fresh.ruleset());
                let now = book.ruleset().chains.clone();
                let changed = book.take_changed();
                let all: BTreeSet<&ChainId> = now.keys().chain(before.keys()).collect();
                for chain in all {
                    let same = now.get(chain) == before.get(chain);
                    prop_assert!(same || changed.contains(chain), "{} changed", chain);
                }
                before = now;
            }
        }
    }

    #[test]
    fn rules_in_shared_chains_have_owners() {
        let mut book = scene::book(&[("web", &["10.42.0.4:8080"]), ("idle", &[])]);
        book.ruleset();
        let services = ChainId::new(Table::Nat, book.names().services());
        let dispatch = book.rules[&Key::new("default", "web")].dispatch[0].clone();
        assert_eq!(
            book.rule_owner(&services, &dispatch),
            Owner::Service(Key::new("default", "web"))
        );
        assert_eq!(book.owner(&services), Owner::Node);
    }
}
