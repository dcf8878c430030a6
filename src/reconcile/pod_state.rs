//! Pure: what a controller concludes from a pod's outline.

use jiff::{SignedDuration, Timestamp};

use crate::reconcile::pod_outline::{Phase, PodOutline};

/// Succeeded or Failed: it will never run again.
pub fn is_finished(pod: &PodOutline) -> bool {
    matches!(pod.phase, Phase::Succeeded | Phase::Failed)
}

/// Neither finished nor being deleted: it counts as a replica.
pub fn is_active(pod: &PodOutline) -> bool {
    !is_finished(pod) && !pod.is_deleting
}

/// Being deleted and not finished yet.
pub fn is_terminating(pod: &PodOutline) -> bool {
    !is_finished(pod) && pod.is_deleting
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
pub fn availability(pod: &PodOutline, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !pod.is_ready {
        return Availability::NotReady;
    }
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    // A Ready condition without a time is taken as new, as in Kubernetes: not available, and no time known.
    let Some(since) = pod.ready_since else { return Availability::NotReady };
    let at = since.saturating_add(SignedDuration::from_secs(min_ready_seconds.into()));
    match at {
        Ok(at) if at <= now => Availability::Available,
        Ok(at) => Availability::At(at),
        Err(_) => Availability::NotReady,
    }
}
