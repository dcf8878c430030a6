//! One pass: what is wanted against what the kernel has, the difference performed and read back.
//!
//! It decides nothing: the plans are [`restore_text`](super::restore_text)'s, the findings
//! [`drift`](super::drift)'s. It keeps what was last programmed, so that one changed endpoint costs
//! one chain, not a reading of 25,000 rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use crate::object::ledger::{Ledger, LedgerWrite};

use super::book::Book;
use super::chain_name::ChainNames;
use super::drift::{Findings, NodeName, findings};
use super::kernel::{BridgeFacts, Kernel, KernelError, observe};
use super::metrics::Metrics;
use super::programmed::Publisher;
use super::restore_text::{Plan, Restore, owned, plan, plan_chains, plan_jumps, restore_text};
use super::rule::{ChainId, Rule, Table};
use super::ruleset::Ruleset;
use super::ruleset_check::{Difference, check, check_chains, check_jumps};
use super::tables::Tables;

/// Chains that are read back one by one; more of them and one whole table is cheaper (a listing of
/// one chain costs 40 ms among 5,000, the table 360 ms).
const READ_ONE_BY_ONE: usize = 8;
/// With no more chains than this the canary reads everything: some milliseconds.
const SMALL: usize = 200;

/// How much of the kernel a pass looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Nothing but the chains that it writes.
    Changes,
    /// Also the chains that every packet passes: whoever flushes takes them along.
    Canary,
    /// Everything.
    Full,
}

/// Programs one node's rules.
pub struct Programmer<K> {
    kernel: K,
    names: ChainNames,
    bridge: String,
    /// What was last programmed and verified. `None`: look at everything first.
    programmed: Option<Ruleset>,
    /// Chains that somebody changed and that are not to be healed: written only when what is wanted
    /// of them changes.
    left: BTreeSet<ChainId>,
    /// The kernel's generation before a look that found everything as it is wanted.
    calm: Option<u32>,
    verified: Timestamp,
    refused: Vec<String>,
    ledger: Ledger,
    published: Publisher,
    metrics: Metrics,
}

impl<K: Kernel> Programmer<K> {
    pub fn new(
        kernel: K,
        names: ChainNames,
        bridge: String,
        ledger: Ledger,
        published: Publisher,
    ) -> Self {
        Self {
            kernel,
            names,
            bridge,
            programmed: None,
            left: BTreeSet::new(),
            calm: None,
            verified: Timestamp::UNIX_EPOCH,
            refused: Vec::new(),
            ledger,
            published,
            metrics: Metrics::default(),
        }
    }

    /// Counts with these from now on.
    pub fn counting(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Pod addresses that the rules send new connections to.
    pub fn endpoints(&self) -> usize {
        self.published.addresses()
    }

    pub fn verified(&self) -> Timestamp {
        self.verified
    }

    /// What the host refused, each with its consequence.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Nothing is programmed and nothing can be: nobody needs to wait for a withdrawal.
    pub fn give_up(&mut self) {
        self.programmed = None;
        self.published.change(|now| now.reset(std::iter::empty()));
    }

    /// What was last programmed is not known for sure any more: the next pass looks at everything.
    pub fn doubt(&mut self) {
        self.programmed = None;
    }

    /// Makes the kernel what the book wants and answers the Drifts' writes.
    ///
    /// # Errors
    /// The kernel refused a step. What was done before stays; the next pass looks at everything.
    pub async fn pass(
        &mut self,
        book: &mut Book,
        node: &NodeName,
        look: Look,
        now: Timestamp,
    ) -> Result<Vec<LedgerWrite>, KernelError> {
        let outcome = self.try_pass(book, node, look, now).await;
        if outcome.is_err() {
            self.programmed = None;
        }
        outcome
    }

    async fn try_pass(
        &mut self,
        book: &mut Book,
        node: &NodeName,
        look: Look,
        now: Timestamp,
    ) -> Result<Vec<LedgerWrite>, KernelError> {
        // Asked before the rules are looked at: what is changed meanwhile is looked at the next time.
        let generation = if look == Look::Changes { None } else { self.kernel.generation().await };
        let untouched = generation.is_some() && generation == self.calm;
        let canary = look == Look::Canary && !untouched;
        let small = self.programmed.as_ref().is_none_or(|set| set.chains.len() <= SMALL);
        let mut full = look == Look::Full || self.programmed.is_none() || (canary && small);
        if canary && !full {
            full = self.canary_is_dead().await?;
        }
        // New jumps are judged beside the rules of others: that needs their chains.
        let jumps_changed =
            self.programmed.as_ref().is_some_and(|before| before.jumps != book.ruleset().jumps);
        let writes = if full || jumps_changed {
            self.full_pass(book, node, look, now).await?
        } else {
            self.changes(book, node, now).await?
        };
        match look {
            // Its own writes are looked at by the next canary.
            Look::Changes => {}
            Look::Canary if untouched && small => self.verified = now,
            // What is left as others made it is told with every look.
            Look::Canary | Look::Full => {
                self.calm = generation.filter(|_| self.left.is_empty());
            }
        }
        Ok(writes)
    }

    /// Writes what changed since the last pass; reads nothing but that. Its cost is that of the
    /// changed chains, however many others there are.
    async fn changes(
        &mut self,
        book: &mut Book,
        node: &NodeName,
        now: Timestamp,
    ) -> Result<Vec<LedgerWrite>, KernelError> {
        book.ruleset();
        let changed = book.take_changed();
        let wanted = book.ruleset();
        let mut before = self.programmed.take().unwrap_or_default();
        let mut plan = plan_chains(wanted, &before.chains, changed.iter());
        if plan.is_empty() {
            self.programmed = Some(before);
            return Ok(Vec::new());
        }
        self.perform(&mut plan, wanted, &before.chains).await?;
        let difference = self.read_back(&plan, wanted).await?;
        for chain in changed {
            self.left.remove(&chain);
            match wanted.chains.get(&chain) {
                Some(rules) => before.chains.insert(chain, rules.clone()),
                None => before.chains.remove(&chain),
            };
        }
        self.programmed = Some(before);
        if difference.is_some() {
            // Somebody was at it between our writing and our reading.
            return self.full_pass(book, node, Look::Full, now).await;
        }
        self.verified = now;
        // New pods have new ports on the bridge. After the rules: it is the slower part.
        self.note_bridge(self.kernel.prepare(&self.bridge).await);
        Ok(Vec::new())
    }

    /// Compares everything, heals what others changed, writes what is wanted anew.
    async fn full_pass(
        &mut self,
        book: &mut Book,
        node: &NodeName,
        look: Look,
        now: Timestamp,
    ) -> Result<Vec<LedgerWrite>, KernelError> {
        let mut facts = book.node().clone();
        if look == Look::Full || self.programmed.is_none() {
            let bridge = self.kernel.prepare(&self.bridge).await;
            facts.bridge_filtered = bridge.filtered;
            self.note_bridge(bridge);
        }
        let actual = observe(&self.kernel).await?;
        self.metrics.compared();
        facts.docker_user = docker_user(&actual);
        book.set_node(facts);
        let jumps = book.ruleset().jumps.clone();
        let mut found = Findings::default();
        if let Some(programmed) = &self.programmed {
            let mut differences = check(&self.names, programmed, &actual);
            // Docker came or went: the jump is wanted elsewhere now, and its old place is no drift.
            differences.retain(|one| one.jump().is_none_or(|jump| jumps.contains(jump)));
            found = findings(&differences, book, node, &self.ledger, self.verified, now);
            log_differences(&differences);
        }
        book.ruleset();
        // Everything is compared below.
        book.take_changed();
        let wanted = book.ruleset();
        self.left = still_left(&found.leave, self.programmed.as_ref(), wanted);
        let ours = owned(&self.names, &actual);
        let mut plan = plan(wanted, &ours, &self.left);
        plan.jumps = plan_jumps(&self.names, &wanted.jumps, &actual);
        plan.jumps.retain(|step| !self.left.contains(step.place()));
        let mut writes = self.ledger.observe(&found.examined, false, now);
        self.published.change(|now| now.reset(ours.values().map(|rules| rules.as_slice())));
        self.perform(&mut plan, wanted, &ours).await?;
        let difference = self.read_back(&plan, wanted).await?;
        self.programmed = Some(wanted.clone());
        if let Some(difference) = difference {
            // It stays what was programmed, so that the next look names what was changed.
            warn!(?difference, "rules differ right after they were written");
            return Ok(writes);
        }
        self.verified = now;
        if !found.examined.is_empty() {
            found.examined.iter_mut().for_each(|one| {
                one.differences.retain(|difference| {
                    self.left.iter().any(|chain| chain.to_string() == difference.field)
                });
            });
            writes.extend(self.ledger.observe(&found.examined, false, now));
        }
        Ok(writes)
    }

    async fn perform(
        &self,
        plan: &mut Plan,
        wanted: &Ruleset,
        before: &BTreeMap<ChainId, Arc<Vec<Rule>>>,
    ) -> Result<(), KernelError> {
        for restore in &mut plan.restores {
            self.restore(restore, wanted).await?;
            self.publish(restore, wanted, before);
            self.metrics.wrote(restore.table, restore.written.len(), restore.removed.len());
            info!(
                table = %restore.table,
                written = restore.written.len(),
                removed = restore.removed.len(),
                chain = restore.written.first().map(|chain| chain.name.as_str()),
                "rules written"
            );
        }
        for step in &plan.jumps {
            self.kernel.jump(step).await?;
            info!(?step, "jump set");
        }
        for flow in &plan.flows {
            // The rules are right; a client that keeps its old flow is the lesser evil.
            match self.kernel.forget(flow).await {
                Ok(()) => debug!(?flow, "stale udp flows forgotten"),
                Err(error) => warn!(?flow, %error, "stale udp flows not forgotten"),
            }
        }
        Ok(())
    }

    /// A chain that goes may still be led to by somebody's rule; the kernel then refuses all of the
    /// text. The rules matter more: they are written without the removal, which stays a difference.
    async fn restore(&self, restore: &mut Restore, wanted: &Ruleset) -> Result<(), KernelError> {
        let restoring = self.kernel.restore(&restore.text);
        let outcome = self.metrics.restore(restore.table, restoring).await;
        let Err(error @ KernelError::Failed { .. }) = outcome else { return outcome };
        if restore.removed.is_empty() {
            return Err(error);
        }
        warn!(%error, "rules not written together with a removal; written without");
        restore.removed.clear();
        restore.text = restore_text(restore.table, wanted, &restore.written, &[]);
        let restoring = self.kernel.restore(&restore.text);
        self.metrics.restore(restore.table, restoring).await
    }

    /// From here on the kernel sends new connections only where `wanted` says.
    fn publish(
        &self,
        restore: &Restore,
        wanted: &Ruleset,
        before: &BTreeMap<ChainId, Arc<Vec<Rule>>>,
    ) {
        self.published.change(|now| {
            for chain in restore.written.iter().chain(&restore.removed) {
                let rules = |chains: &BTreeMap<ChainId, Arc<Vec<Rule>>>| {
                    chains.get(chain).cloned().unwrap_or_default()
                };
                now.replace(&rules(before), &rules(&wanted.chains));
            }
        });
    }

    /// The first difference in the chains that the plan wrote.
    async fn read_back(
        &self,
        plan: &Plan,
        wanted: &Ruleset,
    ) -> Result<Option<Difference>, KernelError> {
        for restore in &plan.restores {
            let touched = || restore.written.iter().chain(&restore.removed);
            let names: Vec<String> = touched().map(|chain| chain.name.clone()).collect();
            let actual = if names.len() <= READ_ONE_BY_ONE {
                self.kernel.list(restore.table, &names).await?
            } else {
                self.kernel.save(restore.table).await?
            };
            let mut differences = check_chains(wanted, touched(), &actual);
            if !differences.is_empty() {
                return Ok(Some(differences.swap_remove(0)));
            }
        }
        Ok(None)
    }

    /// Whether somebody flushed: the jumps, or a chain that every service needs, are not as programmed.
    async fn canary_is_dead(&self) -> Result<bool, KernelError> {
        let Some(programmed) = &self.programmed else { return Ok(true) };
        let mut actual = Tables::default();
        let postrouting = ChainId::new(Table::Nat, self.names.postrouting());
        let forward = ChainId::new(Table::Filter, self.names.forward());
        for table in Table::ALL {
            let from = programmed.jumps.iter().map(|jump| &jump.from);
            let watched = from.chain([&postrouting, &forward]).filter(|chain| chain.table == table);
            let names: Vec<String> = watched.map(|chain| chain.name.clone()).collect();
            actual.chains.extend(self.kernel.list(table, &names).await?.chains);
        }
        let chains = check_chains(programmed, [&postrouting, &forward].into_iter(), &actual);
        Ok(!chains.is_empty() || !check_jumps(&self.names, &programmed.jumps, &actual).is_empty())
    }

    fn note_bridge(&mut self, facts: BridgeFacts) {
        if self.refused != facts.refused {
            for refused in &facts.refused {
                warn!(bridge = %self.bridge, refused, "kernel setting refused");
            }
            self.refused = facts.refused;
        }
    }
}

/// Docker's chain for other people's rules exists and packets reach it.
fn docker_user(actual: &Tables) -> bool {
    let forward = actual.rules(&ChainId::new(Table::Filter, "FORWARD"));
    forward.iter().any(|rule| rule.next_chain() == Some("DOCKER-USER"))
}

/// A chain that is left alone is left only as long as nothing new is wanted of it.
fn still_left(
    leave: &BTreeSet<ChainId>,
    programmed: Option<&Ruleset>,
    wanted: &Ruleset,
) -> BTreeSet<ChainId> {
    let same = |chain: &&ChainId| {
        programmed.is_some_and(|before| before.chains.get(*chain) == wanted.chains.get(*chain))
    };
    leave.iter().filter(same).cloned().collect()
}

fn log_differences(differences: &[Difference]) {
    if let Some(first) = differences.first() {
        warn!(count = differences.len(), ?first, "rules were changed by another program");
    }
}
