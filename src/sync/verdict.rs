//! Looks whether the store still is what the applied commit says, and puts it right: the dry run of
//! the whole set tells what differs, the ledger decides what is a Drift, and the heal is the same
//! set for the objects that differ.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::drift_report;
use crate::object::ledger::{Examined, Ledger, Response};
use crate::object::{SetOutcome, Transact};
use crate::sync::apply;
use crate::sync::diff::Step;
use crate::sync::drift::{self, Wish};
use crate::sync::manifest::Manifest;

/// Objects that cannot be put back are left out of the next try; after this many tries the rest
/// waits for the next look.
const TRIES: usize = 4;

/// Compares, reports and heals once.
pub async fn look<C: Transact>(
    cluster: &C,
    wish: Wish<'_>,
    steps: &[Step],
    ledger: &mut Ledger,
    now: Timestamp,
) {
    let Some(examined) = examine(cluster, wish, steps).await else { return };
    drift_report::perform(cluster, ledger.observe(&examined, true, now)).await;
    let heal: Vec<Step> = steps
        .iter()
        .zip(&examined)
        .filter(|(_, examined)| is_to_heal(ledger, examined, now))
        .map(|(step, _)| step.clone())
        .collect();
    if heal.is_empty() {
        return;
    }
    let set = apply::set_of(wish.source, &heal, None);
    match apply::perform(cluster, &heal, &set, false).await {
        Ok(outcomes) => {
            for outcome in outcomes {
                info!(object = %format!("{} {}", outcome.kind, outcome.key), "object put back");
            }
        }
        Err(error) => {
            warn!(?error, "objects not put back");
            return;
        }
    }
    // Looking again at once closes what the heal has put right.
    if let Some(examined) = examine(cluster, wish, steps).await {
        drift_report::perform(cluster, ledger.observe(&examined, true, now)).await;
    }
}

fn is_to_heal(ledger: &Ledger, examined: &Examined, now: Timestamp) -> bool {
    !examined.differences.is_empty()
        && examined.differences.iter().all(|difference| {
            difference.response == Response::Heal
                && ledger.may_heal(&examined.object, &difference.field, now)
        })
}

/// Every object of the commit as it is; `None` when nothing can be told now.
async fn examine<C: Transact>(
    cluster: &C,
    wish: Wish<'_>,
    steps: &[Step],
) -> Option<Vec<Examined>> {
    let mut stuck: BTreeMap<usize, String> = BTreeMap::new();
    for _ in 0..TRIES {
        let indexes: Vec<usize> =
            (0..steps.len()).filter(|index| !stuck.contains_key(index)).collect();
        let part: Vec<Step> = indexes.iter().map(|index| steps[*index].clone()).collect();
        let set = apply::set_of(wish.source, &part, None);
        match cluster.apply_set(&set, true).await {
            Ok(outcomes) => return Some(join(wish, steps, &indexes, &outcomes, &stuck)),
            Err(problems) => {
                for problem in problems {
                    let index = *indexes.get(problem.write)?;
                    stuck.insert(index, problem.error.message);
                }
            }
        }
    }
    None
}

fn join(
    wish: Wish<'_>,
    steps: &[Step],
    indexes: &[usize],
    outcomes: &[SetOutcome],
    stuck: &BTreeMap<usize, String>,
) -> Vec<Examined> {
    let by_index: BTreeMap<usize, &SetOutcome> =
        indexes.iter().copied().zip(outcomes.iter()).collect();
    let examined = steps.iter().enumerate().filter_map(|(index, step)| {
        let manifest = manifest_of(step)?;
        match (by_index.get(&index), stuck.get(&index)) {
            (Some(outcome), _) => Some(drift::examine(wish, manifest, outcome)),
            (None, Some(why)) => Some(drift::stuck(wish, manifest, why)),
            (None, None) => None,
        }
    });
    examined.collect()
}

fn manifest_of(step: &Step) -> Option<&Manifest> {
    match step {
        Step::Apply { manifest, .. } => Some(manifest),
        Step::Prune { .. } => None,
    }
}
