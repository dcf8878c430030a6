//! Performs a plan: one set for the whole commit, with the Source's status and inventory in the same
//! transaction, and the faults that admission found brought back to file, line and column.

use serde_json::Value;

use crate::object::source::Problem;
use crate::object::{
    ApplySet, Key, Kind, Reason, SetAction, SetOutcome, SetProblem, SetWrite, Transact,
};
use crate::sync::commit::{self, Read};
use crate::sync::diff::{self, Observed, Step};
use crate::sync::manifest::Manifest;

/// Why a commit did not enter the store. Nothing of it did.
#[derive(Debug, Clone, PartialEq)]
pub enum ApplyError {
    /// The commit is at fault: every problem, at its place.
    Refused(Vec<Problem>),
    /// The store or a race is: try again.
    Later(String),
}

/// What changed, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub created: usize,
    pub updated: usize,
    pub unchanged: usize,
    pub deleted: usize,
}

/// The set of a plan's steps, in their order; the status comes last.
pub fn set_of(source: &str, steps: &[Step], status: Option<Value>) -> ApplySet {
    let mut writes: Vec<SetWrite> = steps.iter().map(write_of).collect();
    if let Some(status) = status {
        writes.push(SetWrite::Status { kind: Kind::Source, key: Key::cluster(source), status });
    }
    ApplySet { source: source.to_owned(), writes }
}

fn write_of(step: &Step) -> SetWrite {
    match step {
        Step::Apply { manifest, previous_labels, previous_annotations, adopt, .. } => {
            SetWrite::Apply {
                kind: manifest.kind,
                key: manifest.key.clone(),
                manifest: (*manifest.value).clone(),
                previous_labels: previous_labels.clone(),
                previous_annotations: previous_annotations.clone(),
                adopt: *adopt,
            }
        }
        Step::Prune { entry, uid, .. } => {
            SetWrite::Delete { kind: entry.kind, key: entry.key(), uid: uid.clone() }
        }
    }
}

/// Enters the set, or says why not.
///
/// # Errors
/// See [`ApplyError`]; nothing is written then.
pub async fn perform<C: Transact>(
    cluster: &C,
    steps: &[Step],
    set: &ApplySet,
    dry_run: bool,
) -> Result<Vec<SetOutcome>, ApplyError> {
    match cluster.apply_set(set, dry_run).await {
        Ok(outcomes) => Ok(outcomes),
        Err(problems) => Err(judge(steps, &problems)),
    }
}

/// Every problem of a commit that has some: those of reading it, and what admission says to the
/// objects that could be read. What those miss because a file with problems holds it (their
/// namespace) is no problem of its own.
pub async fn every_problem<C: Transact>(
    cluster: &C,
    source: &str,
    read: &Read,
    observed: &Observed,
) -> Vec<Problem> {
    let plan = diff::plan(source, &read.set, observed);
    let entering: Vec<Step> =
        plan.steps.into_iter().filter(|step| matches!(step, Step::Apply { .. })).collect();
    let set = set_of(source, &entering, None);
    let mut problems = read.problems.clone();
    if let Err(found) = cluster.apply_set(&set, true).await {
        let complete = read.problems.is_empty();
        let own = found.iter().filter(|problem| complete || !problem.error.is_not_found());
        problems.extend(own.flat_map(|problem| locate(&entering, problem)));
    }
    commit::sort(&mut problems);
    problems
}

/// A full queue or a failing disk is not the commit's fault. A conflict is: it is the API's word for
/// an object that belongs to another source or to none; lost races it has settled itself.
fn judge(steps: &[Step], problems: &[SetProblem]) -> ApplyError {
    let passing = |reason: Reason| {
        matches!(
            reason,
            Reason::TooManyRequests
                | Reason::ServiceUnavailable
                | Reason::InternalError
                | Reason::Timeout
        )
    };
    // What left between the look and the removal is gone: the next look sees it so.
    let left = |problem: &SetProblem| {
        problem.error.is_not_found() && matches!(steps.get(problem.write), Some(Step::Prune { .. }))
    };
    if problems.iter().all(|problem| passing(problem.error.reason) || left(problem)) {
        let message =
            problems.first().map_or_else(String::new, |problem| problem.error.message.clone());
        return ApplyError::Later(message);
    }
    ApplyError::Refused(problems.iter().flat_map(|problem| locate(steps, problem)).collect())
}

/// One problem a field at fault, at the field's place in the manifest.
pub fn locate(steps: &[Step], problem: &SetProblem) -> Vec<Problem> {
    match steps.get(problem.write) {
        Some(Step::Apply { manifest, .. }) => locate_in(manifest, problem),
        Some(Step::Prune { entry, .. }) => vec![Problem {
            file: entry.file.clone(),
            object: format!("{} {}", entry.kind, entry.key()),
            message: format!("cannot be removed: {}", problem.error.message),
            ..Problem::default()
        }],
        None => vec![Problem {
            object: "Source".to_owned(),
            message: problem.error.message.clone(),
            ..Problem::default()
        }],
    }
}

fn locate_in(manifest: &Manifest, problem: &SetProblem) -> Vec<Problem> {
    let causes = problem.error.details.as_ref().and_then(|details| details.causes.as_deref());
    match causes {
        Some(causes) if !causes.is_empty() => causes
            .iter()
            .map(|cause| {
                let field = cause.field.clone().unwrap_or_default();
                manifest.problem(&field, cause.message.clone().unwrap_or_default())
            })
            .collect(),
        _ => {
            let mut located = manifest.problem("", problem.error.message.clone());
            if problem.error.reason == Reason::NotFound && !manifest.key.namespace.is_empty() {
                located = manifest.problem("metadata.namespace", problem.error.message.clone());
                located.hint = format!("commit a Namespace named {}", manifest.key.namespace);
            }
            vec![located]
        }
    }
}

/// Counts the objects, the Source's own status left out.
pub fn count(outcomes: &[SetOutcome]) -> Counts {
    let mut counts = Counts::default();
    for outcome in outcomes.iter().filter(|outcome| outcome.kind != Kind::Source) {
        match outcome.action {
            SetAction::Created => counts.created += 1,
            SetAction::Updated => counts.updated += 1,
            SetAction::Unchanged => counts.unchanged += 1,
            SetAction::Deleted => counts.deleted += 1,
        }
    }
    counts
}
