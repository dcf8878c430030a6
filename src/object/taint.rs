//! Pure: taints of nodes, and which tolerations of pods bear them (`ToleratesTaint` of
//! `k8s.io/component-helpers`). Read by the scheduler's filter and by eviction.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Set on a node whose Ready condition is False.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Set on a node whose agent is silent: Ready is Unknown.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Set on a node with `spec.unschedulable` (`kubectl cordon`).
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// No new pod comes without a toleration; running ones stay.
pub const NO_SCHEDULE: &str = "NoSchedule";
/// As `NoSchedule`, where another node is as good.
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
/// As `NoSchedule`, and running pods leave when their toleration's seconds are over.
pub const NO_EXECUTE: &str = "NoExecute";

/// A pod's tolerations, in its order, as a value that a [`Pool`](crate::object::Pool) can share: most
/// pods have the same two.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tolerations(pub Vec<Toleration>);

/// Texts and whole numbers: every value equals itself.
impl Eq for Tolerations {}

impl Hash for Tolerations {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for one in &self.0 {
            let Toleration { key, operator, value, effect, toleration_seconds } = one;
            (key, operator, value, effect, toleration_seconds).hash(state);
        }
    }
}

impl Deref for Tolerations {
    type Target = [Toleration];

    fn deref(&self) -> &[Toleration] {
        &self.0
    }
}

/// Whether a toleration bears a taint: the effect matches or is empty, the key matches or is
/// empty with `Exists`, and the value matches or is not asked. An operator that is unknown bears
/// nothing.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or_default();
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// The first toleration, in the pod's order, that bears a taint.
pub fn tolerating<'a>(tolerations: &'a [Toleration], taint: &Taint) -> Option<&'a Toleration> {
    tolerations.iter().find(|toleration| tolerates(toleration, taint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn empty_parts_of_a_toleration_match_everything() {
        let taint = Taint {
            key: "disk".into(),
            value: Some("slow".into()),
            effect: NO_SCHEDULE.into(),
            time_added: None,
        };
        for (given, bears) in [
            (toleration("disk", "Equal", "slow", NO_SCHEDULE), true),
            (toleration("disk", "", "slow", ""), true),
            (toleration("disk", "Exists", "", NO_SCHEDULE), true),
            (toleration("", "Exists", "", ""), true),
            (toleration("", "Equal", "slow", ""), false),
            (toleration("disk", "Equal", "fast", ""), false),
            (toleration("disk", "Equal", "slow", NO_EXECUTE), false),
            (toleration("other", "Exists", "", ""), false),
            (toleration("disk", "Near", "slow", ""), false),
        ] {
            assert_eq!(tolerates(&given, &taint), bears, "{given:?}");
        }
    }
}
