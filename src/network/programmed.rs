//! What the kernel's rules do right now, for others to ask: the node agent waits here before it
//! sends SIGTERM, `status` and the dashboard read whether Services are programmed.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::object::ports::{BoxFuture, Withdrawal};
use crate::signal::Signal;

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

/// What is programmed now, for everyone who asks.
#[derive(Debug, Default)]
pub struct Published {
    now: Mutex<Programmed>,
    /// The loop has ended: nobody will change anything any more.
    over: AtomicBool,
    changed: Signal,
}

impl Published {
    /// Whether it came to hold: `false` when the loop ended before. Cancel safe.
    pub async fn until(&self, holds: impl Fn(&Programmed) -> bool) -> bool {
        loop {
            let seen = self.changed.count();
            if holds(&self.now.lock().unwrap_or_else(PoisonError::into_inner)) {
                return true;
            }
            if self.over.load(Ordering::Acquire) {
                return false;
            }
            self.changed.raised_since(seen).await;
        }
    }
}

/// The loop's end of [`Published`].
#[derive(Debug, Default)]
pub struct Publisher(Arc<Published>);

impl Publisher {
    pub fn published(&self) -> Arc<Published> {
        self.0.clone()
    }

    /// How many addresses rules send new connections to.
    pub fn addresses(&self) -> usize {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner).rules.len()
    }

    pub fn change(&self, change: impl FnOnce(&mut Programmed)) {
        change(&mut self.0.now.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.raise();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
        self.0.changed.raise();
    }
}

/// What the rest of the daemon holds of the running loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NetworkHandle {
    pub(super) programmed: Arc<Published>,
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
        let programmed = self.programmed.clone();
        Box::pin(async move {
            // After the loop's end nobody will take the address out any more.
            programmed.until(|now| !now.reaches(pod_ip)).await;
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
        let publisher = Publisher::default();
        let programmed = publisher.published();
        let reaches = || programmed.now.lock().expect("no panic").reaches(pod);
        let (_keep, status) = watch::channel(NetworkStatus::Starting);
        let handle = NetworkHandle { programmed: programmed.clone(), status };
        assert!(reaches(), "nothing is known yet");
        publisher.change(|now| now.reset([&rules[..], &rules[..]].into_iter()));
        let waiting = tokio::spawn(handle.withdrawn(pod));
        tokio::task::yield_now().await;
        publisher.change(|now| now.replace(&rules, &[]));
        tokio::task::yield_now().await;
        assert!(reaches() && !waiting.is_finished());
        publisher.change(|now| now.replace(&rules, &[]));
        waiting.await.expect("it resolves");
        // With the loop everybody who waits is let go.
        publisher.change(|now| now.reset([&rules[..]].into_iter()));
        let waiting = tokio::spawn(handle.withdrawn(pod));
        tokio::task::yield_now().await;
        drop(publisher);
        waiting.await.expect("it resolves");
    }
}
