//! Pure: a Deployment's status and conditions, and when they have to be looked at again.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::object::{Object, condition};
use crate::reconcile::deployment::fenceposts::Wanted;
use crate::reconcile::deployment::proportional::total;
use crate::reconcile::deployment::revision::replicas_of;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// What this pass did that a condition tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occurred {
    Nothing,
    /// The new ReplicaSet of this name was created.
    Created(String),
    /// It could not be: the API's sentence.
    CreateFailed {
        name: String,
        message: String,
    },
}

/// The status of now, and when the progress deadline has to be looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    pub status: DeploymentStatus,
    pub look_at: Option<Timestamp>,
}

/// `sets` are all ReplicaSets as they are after this pass, `new` the one among them with the wanted
/// template. `judges_progress` is false while the Deployment is paused or only scaled.
pub fn report(
    deployment: &Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    occurred: &Occurred,
    judges_progress: bool,
    now: Timestamp,
) -> Reported {
    let wanted = Wanted::of(deployment);
    let old = deployment.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    if wanted.progress_deadline_seconds.is_some() {
        pause_or_resume(&mut conditions, &wanted, now);
        tell(&mut conditions, occurred, new, judges_progress, now);
    }
    let mut status = counts(deployment, sets, new);
    put(&mut conditions, availability(&status, &wanted, now));
    if judges_progress {
        judge_progress(&mut conditions, deployment, &old, &status, new, &wanted, now);
        take_over_failure(&mut conditions, sets, new);
    }
    let look_at = look_at(&conditions, &status, deployment, &wanted);
    status.conditions = Some(conditions);
    Reported { status, look_at: look_at.filter(|_| judges_progress) }
}

/// Updated, total and available are all as wanted, and the status is of this generation.
pub fn is_complete(
    wanted: &Wanted,
    status: Option<&DeploymentStatus>,
    deployment: &Deployment,
) -> bool {
    let Some(status) = status else { return false };
    let all = [status.updated_replicas, status.replicas, status.available_replicas];
    all.iter().all(|count| count.unwrap_or_default() == wanted.replicas)
        && status.observed_generation.unwrap_or_default()
            >= deployment.metadata.generation.unwrap_or_default()
}

fn counts(
    deployment: &Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| total(sets.iter().map(|set| count(set)));
    let has = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let available = sum(|set| {
        set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
    });
    let ready =
        sum(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default());
    let terminating = sum(|set| {
        set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or_default()
    });
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(total(sets.iter().map(|set| has(set)))),
        updated_replicas: nonzero(new.map_or(0, has)),
        ready_replicas: nonzero(ready),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((sum(replicas_of) - available).max(0)),
        terminating_replicas: Some(terminating),
        collision_count: deployment.status.as_ref().and_then(|status| status.collision_count),
        conditions: None,
    }
}

/// Counts of zero are left out, as the reference server's are.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn made(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The same status and reason again says nothing new: the old one stays, with its times.
fn put(conditions: &mut Vec<DeploymentCondition>, new: DeploymentCondition) {
    let same = condition::find(conditions, &new.type_)
        .is_some_and(|old| old.status == new.status && old.reason == new.reason);
    if !same {
        condition::set(conditions, new);
    }
}

fn reason(conditions: &[DeploymentCondition]) -> Option<&str> {
    condition::find(conditions, PROGRESSING).and_then(|condition| condition.reason.as_deref())
}

/// A rollout that is stuck already stays told as stuck.
fn pause_or_resume(conditions: &mut Vec<DeploymentCondition>, wanted: &Wanted, now: Timestamp) {
    match (wanted.paused, reason(conditions)) {
        (_, Some(TIMED_OUT)) | (true, Some(PAUSED)) => {}
        (true, _) => {
            let message = "Deployment is paused".to_owned();
            put(conditions, made(PROGRESSING, "Unknown", PAUSED, message, now));
        }
        (false, Some(PAUSED)) => {
            let message = "Deployment is resumed".to_owned();
            put(conditions, made(PROGRESSING, "Unknown", "DeploymentResumed", message, now));
        }
        (false, _) => {}
    }
}

fn tell(
    conditions: &mut Vec<DeploymentCondition>,
    occurred: &Occurred,
    new: Option<&ReplicaSet>,
    judges_progress: bool,
    now: Timestamp,
) {
    let (status, reason, message) = match occurred {
        Occurred::Created(name) => {
            ("True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\""))
        }
        Occurred::CreateFailed { name, message } => (
            "False",
            "ReplicaSetCreateError",
            format!("Failed to create new replica set \"{name}\": {message}"),
        ),
        // The clock of the deadline starts with the first condition.
        Occurred::Nothing => {
            let Some(new) = new else { return };
            if condition::find(conditions, PROGRESSING).is_some() || !judges_progress {
                return;
            }
            let message = format!("Found new replica set \"{}\"", new.key().name);
            ("True", "FoundNewReplicaSet", message)
        }
    };
    put(conditions, made(PROGRESSING, status, reason, message, now));
}

fn availability(status: &DeploymentStatus, wanted: &Wanted, now: Timestamp) -> DeploymentCondition {
    if status.available_replicas.unwrap_or_default() >= wanted.fewest_available() {
        let message = "Deployment has minimum availability.".to_owned();
        made(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        made(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    }
}

fn judge_progress(
    conditions: &mut Vec<DeploymentCondition>,
    deployment: &Deployment,
    old: &DeploymentStatus,
    status: &DeploymentStatus,
    new: Option<&ReplicaSet>,
    wanted: &Wanted,
    now: Timestamp,
) {
    let Some(deadline) = wanted.progress_deadline_seconds else {
        conditions.retain(|condition| condition.type_ != PROGRESSING);
        return;
    };
    let rests =
        status.replicas == status.updated_replicas && reason(conditions) == Some(NEW_SET_AVAILABLE);
    if rests {
        return;
    }
    let subject = new.map_or_else(
        || format!("Deployment \"{}\"", deployment.key().name),
        |new| format!("ReplicaSet \"{}\"", new.key().name),
    );
    if is_complete(wanted, Some(status), deployment) {
        let message = format!("{subject} has successfully progressed.");
        put(conditions, made(PROGRESSING, "True", NEW_SET_AVAILABLE, message, now));
    } else if has_progressed(old, status) {
        // Told again although nothing but the time changes: the deadline counts from here.
        let message = format!("{subject} is progressing.");
        condition::set(conditions, made(PROGRESSING, "True", "ReplicaSetUpdated", message, now));
    } else if has_timed_out(conditions, deadline, now) {
        let message = format!("{subject} has timed out progressing.");
        put(conditions, made(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

/// More updated, fewer old, more ready or more available pods than before.
fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |value: Option<i32>| value.unwrap_or_default();
    let outdated =
        |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

fn has_timed_out(conditions: &[DeploymentCondition], deadline: i32, now: Timestamp) -> bool {
    match reason(conditions) {
        None | Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        Some(_) => deadline_at(conditions, deadline).is_some_and(|at| at < now),
    }
}

fn deadline_at(conditions: &[DeploymentCondition], deadline: i32) -> Option<Timestamp> {
    let since = condition::find(conditions, PROGRESSING)?.last_update_time.as_ref()?.0;
    since.saturating_add(SignedDuration::from_secs(deadline.into())).ok()
}

/// A second after the deadline, as Kubernetes does: at the deadline itself it has not passed yet.
/// None is due where none can pass: the rollout is complete, has timed out, or was complete once
/// and has lost a pod since, which is no rollout (`judge_progress` leaves that condition alone).
fn look_at(
    conditions: &[DeploymentCondition],
    status: &DeploymentStatus,
    deployment: &Deployment,
    wanted: &Wanted,
) -> Option<Timestamp> {
    let deadline = wanted.progress_deadline_seconds?;
    let is_decided = matches!(reason(conditions), Some(TIMED_OUT | NEW_SET_AVAILABLE));
    if is_decided || is_complete(wanted, Some(status), deployment) {
        return None;
    }
    deadline_at(conditions, deadline)?.saturating_add(SignedDuration::from_secs(1)).ok()
}

/// The new ReplicaSet's failure over an old one's; none takes the condition away.
fn take_over_failure(
    conditions: &mut Vec<DeploymentCondition>,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
) {
    let failure = |set: &ReplicaSet| -> Option<ReplicaSetCondition> {
        let all = set.status.as_ref()?.conditions.as_ref()?;
        all.iter().find(|condition| condition.type_ == REPLICA_FAILURE).cloned()
    };
    let first = new.and_then(failure).or_else(|| sets.iter().find_map(|set| failure(set)));
    match first {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(failure) => put(
            conditions,
            DeploymentCondition {
                type_: failure.type_,
                status: failure.status,
                reason: failure.reason,
                message: failure.message,
                last_update_time: failure.last_transition_time.clone(),
                last_transition_time: failure.last_transition_time,
            },
        ),
    }
}
