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
use crate::sync::inventory::is_ending;
use crate::sync::manifest::Manifest;
use crate::task::caught;

/// Objects that cannot be put back are left out of the next try; after this many tries the rest
/// waits for the next look.
const TRIES: usize = 4;

/// The applied commit's wish, for comparing: its entering steps, as if applied again.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The full id.
    pub commit: String,
    pub steps: Vec<Step>,
}

impl Applied {
    pub fn of(commit: &str, manifests: &[Manifest]) -> Self {
        let keys = |manifest: &Manifest, field: &str| {
            let map = manifest.value["metadata"][field].as_object();
            map.map(|map| map.keys().cloned().collect()).unwrap_or_default()
        };
        let step = |manifest: &Manifest| Step::Apply {
            manifest: manifest.clone(),
            previous_labels: keys(manifest, "labels"),
            previous_annotations: keys(manifest, "annotations"),
            // Ours since it was applied, whatever its annotation says now.
            adopt: true,
            reason: "as applied",
        };
        Self { commit: commit.to_owned(), steps: manifests.iter().map(step).collect() }
    }
}

/// Compares, reports and heals once; answers what was made or changed.
pub async fn look<C: Transact>(
    cluster: &C,
    wish: Wish<'_>,
    steps: &[Step],
    ledger: &mut Ledger,
    now: Timestamp,
) -> Vec<SetOutcome> {
    let Some(looked) = examine(cluster, wish, steps).await else { return Vec::new() };
    drift_report::perform(cluster, ledger.observe(&looked.examined, true, now)).await;
    let heal: Vec<Step> = looked
        .indexes
        .iter()
        .zip(&looked.examined)
        .filter(|(_, examined)| is_to_heal(ledger, examined, now))
        .map(|(index, _)| steps[*index].clone())
        .collect();
    if heal.is_empty() {
        return Vec::new();
    }
    let set = apply::set_of(wish.source, &[], &heal);
    let outcomes = match apply::perform(cluster, &heal, &set, false).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            warn!(?error, "objects not put back");
            return Vec::new();
        }
    };
    for outcome in &outcomes {
        info!(object = %format!("{} {}", outcome.kind, outcome.key), "object put back");
    }
    // Looking again at once closes what the heal has put right.
    if let Some(looked) = examine(cluster, wish, steps).await {
        drift_report::perform(cluster, ledger.observe(&looked.examined, true, now)).await;
    }
    outcomes
}

fn is_to_heal(ledger: &Ledger, examined: &Examined, now: Timestamp) -> bool {
    !examined.differences.is_empty()
        && examined.differences.iter().all(|difference| {
            difference.response == Response::Heal
                && ledger.may_heal(&examined.object, &difference.field, now)
        })
}

/// What one look saw, beside the index of each one's step.
#[derive(Default)]
struct Looked {
    indexes: Vec<usize>,
    examined: Vec<Examined>,
}

/// Every object of the commit as it is; `None` when nothing can be told now.
async fn examine<C: Transact>(cluster: &C, wish: Wish<'_>, steps: &[Step]) -> Option<Looked> {
    let mut stuck: BTreeMap<usize, String> = BTreeMap::new();
    for _ in 0..TRIES {
        let indexes: Vec<usize> =
            (0..steps.len()).filter(|index| !stuck.contains_key(index)).collect();
        let part: Vec<Step> = indexes.iter().map(|index| steps[*index].clone()).collect();
        let set = apply::set_of(wish.source, &[], &part);
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
) -> Looked {
    let by_index: BTreeMap<usize, &SetOutcome> =
        indexes.iter().copied().zip(outcomes.iter()).collect();
    let mut looked = Looked::default();
    for (index, step) in steps.iter().enumerate() {
        let Some(manifest) = manifest_of(step) else { continue };
        let examined = match (by_index.get(&index), stuck.get(&index)) {
            // It neither is what the commit wants nor can be made so: it is looked at when it is
            // gone.
            (Some(outcome), _) if outcome.before.as_deref().is_some_and(is_ending) => continue,
            // One object that cannot be compared is shown as such; the others are compared.
            (Some(outcome), _) => caught(|| drift::examine(wish, manifest, outcome))
                .unwrap_or_else(|panic| {
                    drift::stuck(wish, manifest, &format!("comparing it panicked: {panic}"))
                }),
            (None, Some(why)) => drift::stuck(wish, manifest, why),
            (None, None) => continue,
        };
        looked.indexes.push(index);
        looked.examined.push(examined);
    }
    looked
}

fn manifest_of(step: &Step) -> Option<&Manifest> {
    match step {
        Step::Apply { manifest, .. } => Some(manifest),
        Step::Prune { .. } => None,
    }
}
