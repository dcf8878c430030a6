//! Pure: where the kernel differs from the [`Ruleset`] that is wanted, chain by chain and rule by
//! rule. Only our own chains and the rules that lead to them are looked at; a rule of somebody
//! else's is never a difference.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::chain_name::ChainNames;
use super::rule::{ChainId, Rule, Table, Target};
use super::ruleset::{Jump, Ruleset};
use super::tables::Tables;

/// One difference. `wanted` and `actual` are the texts a person compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    ChainMissing {
        chain: ChainId,
    },
    /// A chain of ours that nothing wants any more.
    ChainExtra {
        chain: ChainId,
    },
    RuleMissing {
        chain: ChainId,
        rule: Rule,
    },
    RuleExtra {
        chain: ChainId,
        rule: Rule,
    },
    /// The same rules in another order: the first that stands elsewhere.
    RuleMoved {
        chain: ChainId,
        rule: Rule,
    },
    JumpMissing {
        jump: Jump,
    },
    /// Behind a rule of somebody else's that could take its packets, or there twice.
    JumpNotFirst {
        jump: Jump,
    },
    /// Our jump in a chain where it is not wanted.
    JumpExtra {
        jump: Jump,
    },
}

impl Difference {
    /// The rule it is about, where that is one of ours in a chain of ours.
    pub fn rule(&self) -> Option<&Rule> {
        match self {
            Self::RuleMissing { rule, .. }
            | Self::RuleExtra { rule, .. }
            | Self::RuleMoved { rule, .. } => Some(rule),
            _ => None,
        }
    }

    /// The jump of ours that is not where it was programmed.
    pub fn jump(&self) -> Option<&Jump> {
        match self {
            Self::JumpMissing { jump } | Self::JumpNotFirst { jump } => Some(jump),
            _ => None,
        }
    }

    /// The chain it is in.
    pub fn chain(&self) -> &ChainId {
        match self {
            Self::ChainMissing { chain }
            | Self::ChainExtra { chain }
            | Self::RuleMissing { chain, .. }
            | Self::RuleExtra { chain, .. }
            | Self::RuleMoved { chain, .. } => chain,
            Self::JumpMissing { jump } | Self::JumpNotFirst { jump } | Self::JumpExtra { jump } => {
                &jump.from
            }
        }
    }
}

/// Everything that differs, in order of chains.
pub fn check(names: &ChainNames, wanted: &Ruleset, actual: &Tables) -> Vec<Difference> {
    let mut found = Vec::new();
    for (id, rules) in &wanted.chains {
        match actual.chains.get(id) {
            None => found.push(Difference::ChainMissing { chain: id.clone() }),
            Some(there) => found.extend(compare(id, rules, there)),
        }
    }
    let extra =
        actual.chains.keys().filter(|id| names.owns(&id.name) && !wanted.chains.contains_key(id));
    found.extend(extra.map(|id| Difference::ChainExtra { chain: id.clone() }));
    found.extend(check_jumps(names, &wanted.jumps, actual));
    found
}

/// As [`check`], for some chains only (after a restore that touched them, or as the canary).
pub fn check_chains<'a>(
    wanted: &Ruleset,
    chains: impl Iterator<Item = &'a ChainId>,
    actual: &Tables,
) -> Vec<Difference> {
    let mut found = Vec::new();
    for id in chains {
        match (wanted.chains.get(id), actual.chains.get(id)) {
            (Some(_), None) => found.push(Difference::ChainMissing { chain: id.clone() }),
            (None, Some(_)) => found.push(Difference::ChainExtra { chain: id.clone() }),
            (Some(rules), Some(there)) => found.extend(compare(id, rules, there)),
            (None, None) => {}
        }
    }
    found
}

fn compare(chain: &ChainId, wanted: &Arc<Vec<Rule>>, actual: &Arc<Vec<Rule>>) -> Vec<Difference> {
    if Arc::ptr_eq(wanted, actual) || wanted == actual {
        return Vec::new();
    }
    let mut balance: BTreeMap<String, (i64, &Rule)> = BTreeMap::new();
    for rule in wanted.iter() {
        balance.entry(rule.to_string()).or_insert((0, rule)).0 += 1;
    }
    for rule in actual.iter() {
        balance.entry(rule.to_string()).or_insert((0, rule)).0 -= 1;
    }
    let mut found: Vec<Difference> = Vec::new();
    for (count, rule) in balance.into_values() {
        let (chain, rule) = (chain.clone(), rule.clone());
        if count > 0 {
            found.push(Difference::RuleMissing { chain, rule });
        } else if count < 0 {
            found.push(Difference::RuleExtra { chain, rule });
        }
    }
    if found.is_empty() {
        let moved = wanted.iter().zip(actual.iter()).find(|(one, other)| one != other);
        found.extend(
            moved.map(|(rule, _)| Difference::RuleMoved {
                chain: chain.clone(),
                rule: rule.clone(),
            }),
        );
    }
    found
}

/// The jumps among `wanted` that are missing or not in front, and rules to our chains from chains
/// that are nobody's business of ours. What may stand in front: see [`may_stand_before`].
pub fn check_jumps(names: &ChainNames, wanted: &[Jump], actual: &Tables) -> Vec<Difference> {
    let mut found = Vec::new();
    for jump in wanted {
        let rules = actual.rules(&jump.from);
        let places: Vec<usize> = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| **rule == jump.rule)
            .map(|(at, _)| at)
            .collect();
        let in_front = |at: usize| rules[..at].iter().all(|rule| may_stand_before(rule, jump));
        match places.as_slice() {
            [] => found.push(Difference::JumpMissing { jump: jump.clone() }),
            [at] if in_front(*at) => {}
            _ => found.push(Difference::JumpNotFirst { jump: jump.clone() }),
        }
    }
    // One of our own jumps where it is not wanted any more (FORWARD, once DOCKER-USER is there).
    let misplaced = jumps_to_us(names, actual).into_iter().filter(|there| {
        wanted.iter().any(|jump| jump.rule == there.rule)
            && !wanted.iter().any(|jump| jump == there)
    });
    found.extend(misplaced.map(|jump| Difference::JumpExtra { jump }));
    found
}

/// Whether a rule in front of our jump leaves every packet's fate as it were behind it.
///
/// - A rule of another installation of Ballast takes none of our packets.
/// - A rule that only counts or logs takes none at all.
/// - In POSTROUTING our chain either masquerades a packet or lets it pass on: a packet that somebody
///   masquerades before us is masqueraded behind us too. Docker puts such a rule in front for every
///   network that is made, the pods' own included.
///
/// Elsewhere the order matters: a foreign rule could translate, accept or drop what is sent to a
/// Service.
fn may_stand_before(rule: &Rule, jump: &Jump) -> bool {
    let is_postrouting = jump.from.table == Table::Nat && jump.from.name == "POSTROUTING";
    match &rule.target {
        Target::Nothing => true,
        Target::Other(target) => target.split(' ').next() == Some("LOG"),
        Target::Masquerade { .. } => is_postrouting,
        _ => rule.next_chain().is_some_and(ChainNames::any_installation),
    }
}

/// Every rule in a chain of somebody else's that leads to one of ours.
pub fn jumps_to_us(names: &ChainNames, actual: &Tables) -> Vec<Jump> {
    let foreign = actual.chains.iter().filter(|(id, _)| !names.owns(&id.name));
    let leading = foreign.flat_map(|(id, rules)| {
        let to_us =
            rules.iter().filter(|rule| rule.next_chain().is_some_and(|chain| names.owns(chain)));
        to_us.map(|rule| Jump { from: id.clone(), rule: rule.clone() })
    });
    leading.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::rule::Table;
    use crate::network::scene;

    fn edited(edit: impl FnOnce(&mut Tables, &ChainNames)) -> Vec<Difference> {
        let mut book = scene::book(&[("web", &["10.42.0.4:8080", "10.42.0.5:8080"])]);
        let names = book.names().clone();
        let wanted = book.ruleset().clone();
        let mut actual = Tables::of_ruleset(&wanted);
        assert_eq!(check(&names, &wanted, &actual), []);
        edit(&mut actual, &names);
        check(&names, &wanted, &actual)
    }

    fn prerouting() -> ChainId {
        ChainId::new(Table::Nat, "PREROUTING")
    }

    #[test]
    fn flushed_moved_and_added_rules_are_named() {
        let found = edited(|actual, names| {
            let hairpin = ChainId::new(Table::Nat, names.hairpin());
            actual.chains.insert(hairpin, Arc::default());
            let forward = ChainId::new(Table::Filter, names.forward());
            let mut rules = actual.rules(&forward).to_vec();
            rules.swap(0, 1);
            actual.chains.insert(forward, Arc::new(rules));
        });
        assert!(
            matches!(
                found.as_slice(),
                [
                    Difference::RuleMissing { .. },
                    Difference::RuleMissing { .. },
                    Difference::RuleMoved { .. }
                ]
            ),
            "{found:?}"
        );
        let extra = edited(|actual, names| {
            let forward = ChainId::new(Table::Filter, names.forward());
            let mut rules = actual.rules(&forward).to_vec();
            rules.push(Rule::parse("-j DROP"));
            actual.chains.insert(forward, Arc::new(rules));
        });
        assert!(
            matches!(extra.as_slice(), [Difference::RuleExtra { rule, .. }] if rule.to_string() == "-j DROP")
        );
    }

    #[test]
    fn a_jump_behind_a_foreign_rule_is_not_first() {
        let with = |text: &'static str| {
            edited(move |actual, _| {
                let mut rules = actual.rules(&prerouting()).to_vec();
                rules.insert(0, Rule::parse(text));
                actual.chains.insert(prerouting(), Arc::new(rules));
            })
        };
        assert!(matches!(with("-j DOCKER").as_slice(), [Difference::JumpNotFirst { .. }]));
        assert_eq!(with("-j BALLAST-d3m0aa-SERVICES"), [], "another installation may be in front");
        assert!(matches!(
            with("-j BALLAST-SERVICES").as_slice(),
            [Difference::JumpNotFirst { .. }]
        ));
        let behind_a_users_rule = with("-d 192.0.2.4/32 -j BALLAST-SERVICES");
        assert_eq!(behind_a_users_rule, [], "it leads to us, and is the user's own");
    }

    #[test]
    fn only_what_could_take_our_packets_may_not_stand_in_front() {
        let before = |chain: &'static str, text: &'static str| {
            edited(move |actual, _| {
                let (table, name) = chain.split_once('/').expect("table/chain");
                let table = if table == "nat" { Table::Nat } else { Table::Filter };
                let chain = ChainId::new(table, name);
                let mut rules = actual.rules(&chain).to_vec();
                rules.insert(0, Rule::parse(text));
                actual.chains.insert(chain, Arc::new(rules));
            })
        };
        let dockers = "-s 10.42.0.0/24 ! -o ballast0 -j MASQUERADE";
        assert_eq!(before("nat/POSTROUTING", dockers), []);
        assert_eq!(before("filter/FORWARD", "-s 192.0.2.9/32"), []);
        assert_eq!(before("nat/PREROUTING", "-p tcp -j LOG --log-prefix x"), []);
        for (chain, text) in [
            ("nat/POSTROUTING", "-s 10.42.0.0/24 -j ACCEPT"),
            ("nat/POSTROUTING", "-s 10.42.0.0/24 -j SNAT --to-source 192.0.2.1"),
            ("nat/POSTROUTING", "-j DOCKER_POSTROUTING"),
            ("nat/PREROUTING", "-m addrtype --dst-type LOCAL -j DOCKER"),
            ("filter/INPUT", "-j LOGGING"),
            ("filter/FORWARD", "-d 10.42.0.0/24 -j DROP"),
        ] {
            let found = before(chain, text);
            assert!(matches!(&found[..], [Difference::JumpNotFirst { .. }]), "{text}: {found:?}");
        }
    }

    #[test]
    fn chains_of_another_installation_are_not_ours() {
        let found = edited(|actual, _| {
            let foreign = ChainId::new(Table::Nat, "BALLAST-d3m0aa-SERVICES");
            actual.chains.insert(foreign, Arc::default());
            let stale = ChainId::new(Table::Nat, "BALLAST-SVC-AAAAAAAAAAAAAAAA");
            actual.chains.insert(stale, Arc::default());
        });
        assert!(matches!(found.as_slice(),
            [Difference::ChainExtra { chain }] if chain.name == "BALLAST-SVC-AAAAAAAAAAAAAAAA"));
    }
}
