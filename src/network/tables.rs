//! Pure: what is in the kernel: chains with their rules and the policies of the built-in ones, read
//! from the text of `iptables-save` or `iptables -S`, or made from a [`Ruleset`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rule::{ChainId, Rule, Table, Target};
use super::ruleset::Ruleset;

/// Chains and policies. Tables that Ballast does not use (raw, mangle, security) are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub chains: BTreeMap<ChainId, Arc<Vec<Rule>>>,
    /// Of the built-in chains; only `Accept` and `Drop` exist.
    pub policies: BTreeMap<ChainId, Target>,
}

impl Tables {
    /// Reads `iptables-save`, of one table or of all. It cannot fail: a line that is no table,
    /// chain or rule is a comment.
    pub fn parse_save(text: &str) -> Self {
        let mut tables = Self::default();
        let mut building: BTreeMap<ChainId, Vec<Rule>> = BTreeMap::new();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.as_str() == name);
            } else if let (Some(table), Some(declared)) = (table, line.strip_prefix(':')) {
                let mut words = declared.split_whitespace();
                let id = ChainId::new(table, words.next().unwrap_or_default());
                tables.set_policy(&id, words.next().unwrap_or("-"));
                building.entry(id).or_default();
            } else if let Some(table) = table {
                read_append(table, line, &mut building);
            }
        }
        tables.chains = share(building);
        tables
    }

    /// Reads `iptables -S [CHAIN]` of one table.
    pub fn parse_listing(table: Table, text: &str) -> Self {
        let mut tables = Self::default();
        let mut building: BTreeMap<ChainId, Vec<Rule>> = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("-N"), Some(chain)) => {
                    building.entry(ChainId::new(table, chain)).or_default();
                }
                (Some("-P"), Some(chain)) => {
                    let id = ChainId::new(table, chain);
                    tables.set_policy(&id, words.next().unwrap_or("-"));
                    building.entry(id).or_default();
                }
                _ => read_append(table, line, &mut building),
            }
        }
        tables.chains = share(building);
        tables
    }

    /// A host that has nothing but these rules, with every policy on accept.
    pub fn of_ruleset(ruleset: &Ruleset) -> Self {
        let mut building: BTreeMap<ChainId, Vec<Rule>> = BTreeMap::new();
        for jump in &ruleset.jumps {
            building.entry(jump.from.clone()).or_default().push(jump.rule.clone());
        }
        let mut tables = Self { chains: share(building), ..Self::default() };
        tables.chains.extend(ruleset.chains.iter().map(|(id, rules)| (id.clone(), rules.clone())));
        tables
    }

    pub fn rules(&self, chain: &ChainId) -> &[Rule] {
        self.chains.get(chain).map_or(&[], |rules| rules.as_slice())
    }

    /// What becomes of a packet at the end of a built-in chain.
    pub fn policy(&self, chain: &ChainId) -> &Target {
        self.policies.get(chain).unwrap_or(&Target::Accept)
    }

    fn set_policy(&mut self, chain: &ChainId, word: &str) {
        let policy = match word {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            _ => return,
        };
        self.policies.insert(chain.clone(), policy);
    }
}

/// `[12:34] -A CHAIN …` or `-A CHAIN …`
fn read_append(table: Table, line: &str, chains: &mut BTreeMap<ChainId, Vec<Rule>>) {
    let line = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, rest)) => rest,
        None => line,
    };
    let Some(rest) = line.strip_prefix("-A ") else { return };
    let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
    chains.entry(ChainId::new(table, chain)).or_default().push(Rule::parse(rule));
}

fn share(chains: BTreeMap<ChainId, Vec<Rule>>) -> BTreeMap<ChainId, Arc<Vec<Rule>>> {
    chains.into_iter().map(|(id, rules)| (id, Arc::new(rules))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_and_a_listing_say_the_same() {
        let save = "# Generated\n*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n\
            [7:420] -A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\n*raw\n:X - [0:0]\n";
        let listing = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n";
        let tables = Tables::parse_save(save);
        assert_eq!(tables, Tables::parse_listing(Table::Filter, listing));
        let forward = ChainId::new(Table::Filter, "FORWARD");
        assert_eq!(tables.policy(&forward), &Target::Drop);
        assert_eq!(tables.rules(&forward)[0].next_chain(), Some("DOCKER-USER"));
        assert_eq!(tables.chains.len(), 2, "raw is not ours to read");
    }
}
