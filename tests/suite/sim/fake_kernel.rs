//! A packet filter in memory, as strict as the kernel's: a restore is taken whole or not at all, a
//! rule cannot lead to a chain that is not there, and a chain that something leads to cannot go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ballast::network::kernel::{BridgeFacts, Flow, JumpStep, Kernel, KernelError, Table, Tables};
use ballast::network::rule::{ChainId, Rule};

/// Outlives the daemons of a simulation, as a kernel does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FakeKernel(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    tables: Tables,
    forgotten: Vec<Flow>,
    /// How often a table was read.
    reads: u64,
    /// Counted up by every change.
    generation: u32,
}

const BUILT_IN: [(Table, &str); 7] = [
    (Table::Nat, "PREROUTING"),
    (Table::Nat, "INPUT"),
    (Table::Nat, "OUTPUT"),
    (Table::Nat, "POSTROUTING"),
    (Table::Filter, "INPUT"),
    (Table::Filter, "FORWARD"),
    (Table::Filter, "OUTPUT"),
];

impl FakeKernel {
    /// Docker's rules and nothing else.
    pub fn new() -> Self {
        let mut tables = Tables::default();
        for (table, chain) in BUILT_IN {
            tables.chains.insert(ChainId::new(table, chain), Arc::default());
        }
        let docker = Tables::parse_save(
            "*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\n",
        );
        tables.chains.extend(docker.chains);
        tables.policies.extend(docker.policies);
        Self(Arc::new(Mutex::new(State { tables, forgotten: Vec::new(), reads: 0, generation: 1 })))
    }

    /// What is in it, to walk packets through and to compare.
    pub fn tables(&self) -> Tables {
        self.0.lock().expect("no panic inside").tables.clone()
    }

    /// The flows that conntrack was told to forget, in order.
    pub fn forgotten(&self) -> Vec<Flow> {
        self.0.lock().expect("no panic inside").forgotten.clone()
    }

    /// How often a table was read.
    pub fn reads(&self) -> u64 {
        self.0.lock().expect("no panic inside").reads
    }

    /// Somebody else writes a chain.
    pub fn write(&self, table: Table, chain: &str, edit: impl FnOnce(&mut Vec<Rule>)) {
        let mut state = self.0.lock().expect("no panic inside");
        state.generation += 1;
        let rules = state.tables.chains.entry(ChainId::new(table, chain)).or_default();
        edit(Arc::make_mut(rules));
    }

    /// `iptables -t TABLE -F`: somebody else empties every chain.
    pub fn flush(&self, table: Table) {
        let mut state = self.0.lock().expect("no panic inside");
        state.generation += 1;
        let chains = state.tables.chains.iter_mut().filter(|(id, _)| id.table == table);
        chains.for_each(|(_, rules)| *rules = Arc::default());
    }
}

fn failed(message: String) -> KernelError {
    KernelError::Failed { program: "iptables-restore".to_owned(), message }
}

/// One `*table … COMMIT` block.
fn restored(before: &Tables, text: &str) -> Result<Tables, KernelError> {
    let mut lines = text.lines();
    let table = match lines.next() {
        Some("*nat") => Table::Nat,
        Some("*filter") => Table::Filter,
        other => return Err(failed(format!("line 1: no table: {other:?}"))),
    };
    let mut chains: BTreeMap<ChainId, Vec<Rule>> =
        before.chains.iter().map(|(id, rules)| (id.clone(), rules.to_vec())).collect();
    let mut committed = false;
    for line in lines {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words.as_slice() {
            [chain, "-", _] if chain.starts_with(':') => {
                chains.insert(ChainId::new(table, &chain[1..]), Vec::new());
            }
            ["-A", chain, rule] => {
                let rule = Rule::parse(rule);
                let next = rule.next_chain().map(|next| ChainId::new(table, next));
                if next.is_some_and(|next| !chains.contains_key(&next)) {
                    return Err(failed(format!("no such chain: {line}")));
                }
                match chains.get_mut(&ChainId::new(table, *chain)) {
                    Some(rules) => rules.push(rule),
                    None => return Err(failed(format!("no such chain: {line}"))),
                }
            }
            ["-X", chain] => {
                let id = ChainId::new(table, *chain);
                let led_to = chains.iter().any(|(from, rules)| {
                    from.table == table && rules.iter().any(|rule| rule.next_chain() == Some(chain))
                });
                if led_to || chains.remove(&id).is_none_or(|rules| !rules.is_empty()) {
                    return Err(failed(format!("chain is busy or not there: {line}")));
                }
            }
            ["COMMIT"] => committed = true,
            _ => return Err(failed(format!("not understood: {line}"))),
        }
    }
    if !committed {
        return Err(failed("no COMMIT".to_owned()));
    }
    let chains = chains.into_iter().map(|(id, rules)| (id, Arc::new(rules))).collect();
    Ok(Tables { chains, policies: before.policies.clone() })
}

impl Kernel for FakeKernel {
    async fn probe(&self) -> Result<String, KernelError> {
        Ok("memory".to_owned())
    }

    async fn prepare(&self, _bridge: &str) -> BridgeFacts {
        BridgeFacts { filtered: true, refused: Vec::new() }
    }

    async fn generation(&self) -> Option<u32> {
        Some(self.0.lock().expect("no panic inside").generation)
    }

    async fn save(&self, table: Table) -> Result<Tables, KernelError> {
        self.0.lock().expect("no panic inside").reads += 1;
        let mut tables = self.tables();
        tables.chains.retain(|id, _| id.table == table);
        tables.policies.retain(|id, _| id.table == table);
        Ok(tables)
    }

    async fn list(&self, table: Table, chains: &[String]) -> Result<Tables, KernelError> {
        let mut tables = self.save(table).await?;
        tables.chains.retain(|id, _| chains.contains(&id.name));
        Ok(tables)
    }

    async fn restore(&self, text: &str) -> Result<(), KernelError> {
        let mut state = self.0.lock().expect("no panic inside");
        state.tables = restored(&state.tables, text)?;
        state.generation += 1;
        Ok(())
    }

    async fn jump(&self, step: &JumpStep) -> Result<(), KernelError> {
        let mut state = self.0.lock().expect("no panic inside");
        state.generation += 1;
        let (jump, insert) = match step {
            JumpStep::Insert(jump) | JumpStep::MoveToFront(jump) => (jump, true),
            JumpStep::Delete(jump) => (jump, false),
        };
        let Some(rules) = state.tables.chains.get_mut(&jump.from) else {
            return Err(failed(format!("no such chain: {}", jump.from)));
        };
        let mut after: Vec<Rule> =
            rules.iter().filter(|rule| **rule != jump.rule).cloned().collect();
        if insert {
            after.insert(0, jump.rule.clone());
        }
        *rules = Arc::new(after);
        Ok(())
    }

    async fn forget(&self, flow: &Flow) -> Result<(), KernelError> {
        self.0.lock().expect("no panic inside").forgotten.push(*flow);
        Ok(())
    }
}
