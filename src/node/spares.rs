//! Pure: how many spare sandboxes a node keeps. A spare is a sandbox made before the pod that will have
//! it: its network namespace and its address are the slow half of a pod's start.
//!
//! As many are kept as pods asked for one within ten seconds at the busiest moment of the last ten minutes,
//! at least one and at most the operator's limit: a rolling update of four finds four, and a node where
//! nothing happens keeps one (some 10 MiB: the engine's own process beside each container).

use std::collections::VecDeque;
use std::time::Duration;

use crate::node::instance::{Instance, Life, Role};

/// Pods that begin within this time are one burst: about what a spare takes to be made anew, when
/// others are being made too.
const BURST: Duration = Duration::from_secs(10);
/// How long a burst is remembered: somebody who pushes mostly pushes again.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Beginnings remembered: more than any limit.
const MOST: usize = 256;

/// The sandboxes that pods asked for. Times count from any one beginning.
#[derive(Debug, Default)]
pub struct Churn {
    asked: VecDeque<Duration>,
}

impl Churn {
    /// A pod that could have had a spare asked for a sandbox.
    pub fn note(&mut self, now: Duration) {
        if self.asked.len() == MOST {
            self.asked.pop_front();
        }
        self.asked.push_back(now);
    }

    /// How many spares to keep.
    pub fn target(&mut self, limit: usize, now: Duration) -> usize {
        self.asked.retain(|at| now.saturating_sub(*at) < REMEMBERED);
        let within = |from: &Duration| {
            self.asked.iter().filter(|at| *at >= from && **at - *from < BURST).count()
        };
        self.asked.iter().map(within).max().unwrap_or(0).max(1).min(limit)
    }
}

/// What the keeper of the spares does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Nothing,
    Make,
    /// By id: one too many, or one that is of no use.
    Remove(String),
}

/// Decides over all containers of the installation. Dead ones go first; one that a container joined is
/// nobody's spare, whatever its name says.
pub fn next<'a>(all: impl Iterator<Item = &'a Instance> + Clone, target: usize) -> Next {
    let is_joined = |id: &str| all.clone().any(|one| one.joined.as_deref() == Some(id));
    let spares = all.clone().filter(|one| one.identity.role == Role::Spare && !is_joined(&one.id));
    let (usable, useless): (Vec<_>, Vec<_>) = spares.partition(|one| one.life == Life::Running);
    if let Some(dead) = useless.first() {
        return Next::Remove(dead.id.clone());
    }
    if usable.len() > target {
        let newest = usable.iter().max_by_key(|one| one.created_at);
        return newest.map_or(Next::Nothing, |one| Next::Remove(one.id.clone()));
    }
    if usable.len() < target { Next::Make } else { Next::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pod_plan::tests::{at, instance, pod};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn as_many_as_the_busiest_ten_seconds_asked_for() {
        let mut churn = Churn::default();
        assert_eq!(churn.target(8, seconds(5)), 1, "nothing happened yet");
        for second in [100, 101, 109, 110, 130] {
            churn.note(seconds(second));
        }
        assert_eq!(churn.target(8, seconds(131)), 3);
        assert_eq!(churn.target(2, seconds(131)), 2, "the limit");
        assert_eq!(churn.target(0, seconds(131)), 0, "switched off");
        assert_eq!(churn.target(8, seconds(705)), 2, "two of the burst are forgotten");
        assert_eq!(churn.target(8, seconds(5000)), 1, "given back when idle");
        for _ in 0..10_000 {
            churn.note(seconds(6000));
        }
        assert_eq!(churn.target(1000, seconds(6000)), MOST);
    }

    #[test]
    fn the_dead_go_first_and_what_is_joined_stays() {
        let pod = pod(serde_json::json!({}));
        let spare = |id: &str, life, second| {
            let mut one = instance(&pod, Role::Sandbox, "", 0);
            one.identity.role = Role::Spare;
            (one.id, one.life, one.created_at) = (id.to_owned(), life, at(second));
            one
        };
        let decide = |all: &[Instance], target| next(all.iter(), target);
        let two = [spare("a", Life::Running, 1), spare("b", Life::Running, 2)];
        assert_eq!(decide(&two, 2), Next::Nothing);
        assert_eq!(decide(&two, 3), Next::Make);
        assert_eq!(decide(&two, 1), Next::Remove("b".into()));
        for life in [Life::Created, Life::Exited, Life::Paused] {
            let dead = [two[0].clone(), spare("c", life, 3)];
            assert_eq!(decide(&dead, 3), Next::Remove("c".into()), "{life:?}");
        }
        // Somebody renamed a sandbox in use: it is not counted and not removed.
        let mut member = instance(&pod, Role::Container, "web", 0);
        member.joined = Some("b".into());
        let all = [two[0].clone(), two[1].clone(), member];
        assert_eq!(decide(&all, 1), Next::Nothing);
        assert_eq!(decide(&all, 0), Next::Remove("a".into()));
    }
}
