//! `ballast reset` in the packet filter: what is ours is listed, shown, then removed. The plan is a
//! value made of what the kernel has; nothing else is touched.

use std::collections::BTreeSet;
use std::fmt;

use super::chain_name::ChainNames;
use super::kernel::{Kernel, KernelError};
use super::restore_text::{JumpStep, restore_text};
use super::rule::{ChainId, Table};
use super::ruleset::{Jump, Ruleset};
use super::ruleset_check::jumps_to_us;
use super::tables::Tables;

/// Everything in the kernel that belongs to one installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetPlan {
    /// Rules to our chains in chains of others; they go first.
    pub jumps: Vec<Jump>,
    pub chains: BTreeSet<ChainId>,
}

impl ResetPlan {
    pub fn is_empty(&self) -> bool {
        self.jumps.is_empty() && self.chains.is_empty()
    }
}

/// What a reset would remove.
pub fn plan(names: &ChainNames, actual: &Tables) -> ResetPlan {
    let jumps = jumps_to_us(names, actual);
    let chains = actual.chains.keys().filter(|id| names.owns(&id.name)).cloned();
    ResetPlan { jumps, chains: chains.collect() }
}

/// Removes what the plan names.
///
/// # Errors
/// The first step that failed; running it again goes on from there.
pub async fn perform<K: Kernel>(kernel: &K, plan: &ResetPlan) -> Result<(), KernelError> {
    for jump in &plan.jumps {
        kernel.jump(&JumpStep::Delete(jump.clone())).await?;
    }
    for table in Table::ALL {
        let chains: Vec<ChainId> =
            plan.chains.iter().filter(|chain| chain.table == table).cloned().collect();
        if !chains.is_empty() {
            kernel.restore(&restore_text(table, &Ruleset::default(), &[], &chains)).await?;
        }
    }
    Ok(())
}

/// One line a thing, for the question "remove this?".
impl fmt::Display for ResetPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for jump in &self.jumps {
            writeln!(f, "rule {}: {}", jump.from, jump.rule)?;
        }
        for chain in &self.chains {
            writeln!(f, "chain {chain}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::scene;

    #[test]
    fn only_what_is_ours_goes() {
        let mut book = scene::book(&[("web", &["10.42.0.4:8080"])]);
        let names = book.names().clone();
        let ours = book.ruleset().clone();
        let mut tables = Tables::of_ruleset(&ours);
        let foreign = Tables::parse_save(
            "*nat\n:DOCKER - [0:0]\n:BALLAST-d3m0aa-SERVICES - [0:0]\n-A OUTPUT -j BALLAST-d3m0aa-SERVICES\n-A OUTPUT -j DOCKER\n",
        );
        tables.chains.extend(foreign.chains);
        let plan = plan(&names, &tables);
        assert!(plan.chains.iter().eq(ours.chains.keys()));
        assert_eq!(plan.jumps.len(), ours.jumps.len() - 1, "OUTPUT was replaced by foreign rules");
        assert!(!plan.to_string().contains("d3m0aa") && !plan.to_string().contains("DOCKER"));
    }
}
