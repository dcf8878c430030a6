//! What the kernel's rules do right now, for others to ask: the node agent waits here before it
//! sends SIGTERM, `status` and the dashboard read whether Services are programmed.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::object::ports::{BoxFuture, Withdrawal};

use super::rule::Rule;
use super::ruleset::targets;

/// The addresses that programmed rules send new connections to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// `false` until the first pass: an earlier run's rules may send anywhere.
    known: bool,
    /// Rules an address.
    rules: HashMap<Ipv4Addr, usize>,
}

impl Programmed {
    /// Starts anew from all chains there are.
    pub fn reset<'a>(&mut self, chains: impl Iterator<Item = &'a [Rule]>) {
        self.known = true;
        self.rules.clear();
        chains.for_each(|rules| self.add(rules));
    }

    /// One chain was written over.
    pub fn replace(&mut self, before: &[Rule], after: &[Rule]) {
        for target in targets(before) {
            if let Some(count) = self.rules.get_mut(target.ip()) {
                *count -= 1;
                if *count == 0 {
                    self.rules.remove(target.ip());
                }
            }
        }
        self.add(after);
    }

    fn add(&mut self, rules: &[Rule]) {
        for target in targets(rules) {
            *self.rules.entry(*target.ip()).or_default() += 1;
        }
    }

    /// Whether a new connection may still be sent to the address.
    pub fn reaches(&self, address: Ipv4Addr) -> bool {
        !self.known || self.rules.contains_key(&address)
    }
}

/// Whether Services work on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkStatus {
    /// The first pass is not over.
    Starting,
    Programmed {
        services: usize,
        /// When the rules were last known to be right.
        verified: Timestamp,
        /// `nf_tables` or `legacy`.
        variant: String,
        /// What the host refused, each with its consequence.
        degraded: Vec<String>,
    },
    /// Pods run, Services do not; the sentence says what to do.
    NotProgrammed { why: String },
}

/// What the rest of the daemon holds of the running loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NetworkHandle {
    pub(super) programmed: watch::Receiver<Programmed>,
    pub(super) status: watch::Receiver<NetworkStatus>,
}

impl NetworkHandle {
    pub fn status(&self) -> NetworkStatus {
        self.status.borrow().clone()
    }

    /// Follows the status.
    pub fn watch_status(&self) -> watch::Receiver<NetworkStatus> {
        self.status.clone()
    }
}

impl Withdrawal for NetworkHandle {
    fn withdrawn(&self, pod_ip: Ipv4Addr) -> BoxFuture<()> {
        let mut programmed = self.programmed.clone();
        Box::pin(async move {
            // An error is the end of the loop: nobody will take the address out any more.
            let _ = programmed.wait_for(|now| !now.reaches(pod_ip)).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_withdrawn_when_the_last_rule_to_it_is_gone() {
        let pod = Ipv4Addr::new(10, 42, 0, 4);
        let rules = [Rule::parse("-p tcp -j DNAT --to-destination 10.42.0.4:80")];
        let (sender, programmed) = watch::channel(Programmed::default());
        let (_keep, status) = watch::channel(NetworkStatus::Starting);
        let handle = NetworkHandle { programmed, status };
        assert!(sender.borrow().reaches(pod), "nothing is known yet");
        sender.send_modify(|now| now.reset([&rules[..], &rules[..]].into_iter()));
        let waiting = tokio::spawn(handle.withdrawn(pod));
        sender.send_modify(|now| now.replace(&rules, &[]));
        assert!(sender.borrow().reaches(pod) && !waiting.is_finished());
        sender.send_modify(|now| now.replace(&rules, &[]));
        waiting.await.expect("it resolves");
    }
}
