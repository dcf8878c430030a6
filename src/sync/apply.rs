//! Performs a plan: one set for the whole commit, with the Source's status and inventory in the same
//! transaction, and the faults that admission found brought back to file, line and column.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;

use crate::object::inventory::Inventory;
use crate::object::privilege::TO_ALLOW;
use crate::object::source::{Problem, SourceStatus};
use crate::object::{
    ApiError, ApplySet, Key, Kind, Reason, SetAction, SetOutcome, SetProblem, SetWrite, Transact,
};
use crate::sync::commit::{self, Read};
use crate::sync::diff::{self, Observed, Step};
use crate::sync::manifest::Manifest;
use crate::sync::observe;

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

/// The set of a plan's steps, in their order. `formerly` are the sources that this one took over.
pub fn set_of(source: &str, formerly: &[String], steps: &[Step]) -> ApplySet {
    ApplySet {
        source: source.to_owned(),
        formerly: formerly.to_vec(),
        writes: steps.iter().map(write_of).collect(),
    }
}

/// The same, and with it what the source then holds and says.
pub fn set_of_commit(
    source: &str,
    formerly: &[String],
    steps: &[Step],
    inventory: &Inventory,
    status: &SourceStatus,
) -> ApplySet {
    let value = |value: serde_json::Result<Value>| value.expect("the keys are strings only");
    let object = value(serde_json::to_value(inventory));
    let status = value(serde_json::to_value(status));
    let mut set = set_of(source, formerly, steps);
    let key = Key::cluster(source);
    set.writes.push(SetWrite::Own { kind: Kind::Inventory, key: key.clone(), object });
    set.writes.push(SetWrite::Status { kind: Kind::Source, key, status });
    set
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
        Err(problems) => Err(match judge(steps, &problems) {
            ApplyError::Refused(_) => {
                ApplyError::Refused(told(cluster, &set.source, steps, &problems).await)
            }
            later => later,
        }),
    }
}

/// Every problem that is the commit's own, at its place. One about an object of another source names
/// that source's place too, which admission does not know.
async fn told<C: Transact>(
    cluster: &C,
    source: &str,
    steps: &[Step],
    problems: &[SetProblem],
) -> Vec<Problem> {
    let mut all = Vec::new();
    for problem in problems.iter().filter(|problem| ending_namespace(&problem.error).is_none()) {
        let claimed = match steps.get(problem.write) {
            Some(Step::Apply { manifest, .. }) if problem.error.reason == Reason::Conflict => {
                claimed(cluster, source, manifest).await
            }
            _ => None,
        };
        match claimed {
            Some(claimed) => all.push(claimed),
            None => all.extend(locate(steps, problem)),
        }
    }
    all
}

async fn claimed<C: Transact>(cluster: &C, source: &str, manifest: &Manifest) -> Option<Problem> {
    let live = observe::live(cluster, manifest.kind, &manifest.key).await.ok().flatten()?;
    let owner = live.source.filter(|owner| owner != source)?;
    let other = cluster.get::<Inventory>(&Key::cluster(&owner)).await.ok();
    let mut entries = other.iter().flat_map(|other| other.objects.iter());
    let place = entries
        .find(|entry| entry.kind == manifest.kind && entry.key() == manifest.key)
        .map(|entry| format!(", which declares it at {}:{}", entry.file, entry.line))
        .unwrap_or_default();
    let message = format!("{} belongs to source {owner}{place}", manifest.title());
    let mut problem = manifest.problem("metadata.name", message);
    problem.hint = format!(
        "remove it from one of the two; if {owner} is configured no more, name it under formerly of this source"
    );
    Some(problem)
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
    let set = set_of(source, &observed.formerly, &entering);
    let mut problems = read.problems.clone();
    if let Err(found) = cluster.apply_set(&set, true).await {
        let complete = read.problems.is_empty();
        let own = found.into_iter().filter(|problem| complete || !problem.error.is_not_found());
        problems.extend(told(cluster, source, &entering, &own.collect::<Vec<_>>()).await);
    }
    commit::sort(&mut problems);
    problems
}

/// A full queue or a failing disk is not the commit's fault, nor a namespace that an earlier commit
/// removed and that is still ending. A conflict is: it is the API's word for an object that belongs
/// to another source or to none; lost races it has settled itself.
fn judge(steps: &[Step], problems: &[SetProblem]) -> ApplyError {
    let passing = |error: &ApiError| {
        matches!(
            error.reason,
            Reason::TooManyRequests
                | Reason::ServiceUnavailable
                | Reason::InternalError
                | Reason::Timeout
        ) || ending_namespace(error).is_some()
    };
    // What left between the look and the removal is gone: the next look sees it so.
    let left = |problem: &SetProblem| {
        problem.error.is_not_found() && matches!(steps.get(problem.write), Some(Step::Prune { .. }))
    };
    if problems.iter().all(|problem| passing(&problem.error) || left(problem)) {
        let waits = problems.iter().find_map(|problem| ending_namespace(&problem.error));
        let first = problems.first().map(|problem| problem.error.message.clone());
        let waits =
            waits.map(|namespace| format!("{namespace}: the commit enters when it is gone"));
        return ApplyError::Later(waits.or(first).unwrap_or_default());
    }
    ApplyError::Refused(problems.iter().flat_map(|problem| locate(steps, problem)).collect())
}

/// Nothing can be created in a namespace that is ending; when it is gone, it can be made anew.
/// Answers "namespace x is being terminated".
fn ending_namespace(error: &ApiError) -> Option<&str> {
    let causes = error.details.as_ref()?.causes.as_deref()?;
    let ending = |cause: &&StatusCause| cause.reason.as_deref() == Some("NamespaceTerminating");
    causes.iter().find(ending)?.message.as_deref()
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
                let field = as_written(manifest, cause.field.as_deref().unwrap_or_default());
                let message = cause.message.as_deref().unwrap_or_default();
                let (what, hint) = message.split_once(TO_ALLOW).unwrap_or((message, ""));
                Problem { hint: hint.to_owned(), ..manifest.problem(field, what) }
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

/// The field as the manifest has it: admission makes a list of a Service's one address, and tells a
/// fault by the list.
fn as_written<'a>(manifest: &Manifest, field: &'a str) -> &'a str {
    let (one, list) = ("spec.clusterIP", "spec.clusterIPs");
    let is_written = |field: &str| manifest.positions.written(field).is_some();
    let is_list =
        field == list || field.strip_prefix(list).is_some_and(|rest| rest.starts_with('['));
    if is_list && is_written(one) && !is_written(list) { one } else { field }
}

/// Counts the objects, the source's own left out.
pub fn count(outcomes: &[SetOutcome]) -> Counts {
    let mut counts = Counts::default();
    let own = |kind: Kind| matches!(kind, Kind::Source | Kind::Inventory);
    for outcome in outcomes.iter().filter(|outcome| !own(outcome.kind)) {
        match outcome.action {
            SetAction::Created => counts.created += 1,
            SetAction::Updated => counts.updated += 1,
            SetAction::Unchanged => counts.unchanged += 1,
            SetAction::Deleted => counts.deleted += 1,
        }
    }
    counts
}
