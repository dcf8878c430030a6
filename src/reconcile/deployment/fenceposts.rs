//! Pure: what a Deployment asks for, with its percentages resolved.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::object::int_or_percent::{Rounding, resolve};

/// Kubernetes' default of maxSurge and maxUnavailable, for a Deployment that admission has not seen.
const QUARTER: &str = "25%";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    RollingUpdate,
    Recreate,
}

/// The spec, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub replicas: i32,
    pub strategy: Strategy,
    /// Pods above `replicas`; 0 for Recreate.
    pub surge: i32,
    /// Pods that may be missing, at most `replicas`; 0 for Recreate.
    pub unavailable: i32,
    pub min_ready_seconds: i32,
    /// Seconds without progress until the rollout counts as stuck; `None` is never.
    pub progress_deadline_seconds: Option<i32>,
    /// Old ReplicaSets to keep; `None` is all.
    pub history_limit: Option<usize>,
    pub paused: bool,
}

impl Wanted {
    pub fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let recreate =
            strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"));
        let (surge, unavailable) = if recreate {
            (0, 0)
        } else {
            fenceposts(
                rolling.and_then(|rolling| rolling.max_surge.as_ref()),
                rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
                replicas,
            )
        };
        // The greatest integer is "not set", as in Kubernetes.
        let limited = |limit: Option<i32>| limit.filter(|limit| *limit != i32::MAX);
        Self {
            replicas,
            strategy: if recreate { Strategy::Recreate } else { Strategy::RollingUpdate },
            surge,
            unavailable: unavailable.min(replicas),
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default(),
            progress_deadline_seconds: limited(
                spec.and_then(|spec| spec.progress_deadline_seconds),
            ),
            history_limit: limited(spec.and_then(|spec| spec.revision_history_limit))
                .and_then(|limit| usize::try_from(limit).ok()),
            paused: spec.and_then(|spec| spec.paused).unwrap_or_default(),
        }
    }

    /// The most pods there may be: the ReplicaSets carry it as an annotation, for proportional scaling.
    pub fn most(&self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    /// The fewest available pods there should be.
    pub fn fewest_available(&self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// (surge, unavailable): surge rounds up, unavailable down; both 0 would never move, so that one may
/// be unavailable then (`ResolveFenceposts`).
pub fn fenceposts(
    surge: Option<&IntOrString>,
    unavailable: Option<&IntOrString>,
    replicas: i32,
) -> (i32, i32) {
    let quarter = IntOrString::String(QUARTER.to_owned());
    let count = |value: Option<&IntOrString>, rounding| {
        resolve(value.unwrap_or(&quarter), replicas, rounding).unwrap_or_default().max(0)
    };
    match (count(surge, Rounding::Up), count(unavailable, Rounding::Down)) {
        (0, 0) => (0, 1),
        both => both,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_examples() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        let cases = [
            (10, text("25%"), text("25%"), (3, 2)),
            (1, text("25%"), text("25%"), (1, 0)),
            (3, IntOrString::Int(0), text("10%"), (0, 1)),
            (2, text("0%"), text("25%"), (0, 1)),
            (5, IntOrString::Int(2), IntOrString::Int(0), (2, 0)),
        ];
        for (replicas, surge, unavailable, expected) in cases {
            assert_eq!(fenceposts(Some(&surge), Some(&unavailable), replicas), expected);
        }
        assert_eq!(fenceposts(None, None, 4), (1, 1));
    }
}
