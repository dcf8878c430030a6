//! Pure: what a controller wants to know of a pod.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use crate::object::condition;

/// `status.phase`; a pod without one is Pending.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Succeeded or Failed: it will never run again.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted: it counts as a replica.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Being deleted and not finished yet.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// The node it is bound to; empty for none.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    condition::find(conditions, "Ready").filter(|ready| ready.status == "True")
}

pub fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some()
}

/// When it last became ready; `None` where it is not, or does not say.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    ready_condition(pod)?.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether a pod serves, and if not yet, when it will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    NotReady,
    /// Ready, but for less than `minReadySeconds`: available at this time if nothing happens.
    At(Timestamp),
    Available,
}

/// Available is Ready for at least `min_ready_seconds`.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    // A Ready condition without a time is taken as new, as in Kubernetes: not available, and no time known.
    let Some(since) = ready_since(pod) else { return Availability::NotReady };
    let at = since.saturating_add(SignedDuration::from_secs(min_ready_seconds.into()));
    match at {
        Ok(at) if at <= now => Availability::Available,
        Ok(at) => Availability::At(at),
        Err(_) => Availability::NotReady,
    }
}
