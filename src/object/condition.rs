//! Pure: conditions with Kubernetes' rule for times: `lastTransitionTime` moves only with the status.

use k8s_openapi::api::apps::v1::DeploymentCondition;
use k8s_openapi::api::core::v1::{NamespaceCondition, NodeCondition, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What the kinds' condition types have in common.
pub trait Condition: Clone + PartialEq {
    fn name(&self) -> &str;
    fn status(&self) -> &str;
    fn transition(&self) -> Option<&Time>;
    fn set_transition(&mut self, at: Option<Time>);
}

macro_rules! conditions {
    ($($kind:ident),*) => { $(impl Condition for $kind {
        fn name(&self) -> &str { &self.type_ }
        fn status(&self) -> &str { &self.status }
        fn transition(&self) -> Option<&Time> { self.last_transition_time.as_ref() }
        fn set_transition(&mut self, at: Option<Time>) { self.last_transition_time = at; }
    })* };
}
conditions!(PodCondition, DeploymentCondition, NodeCondition, NamespaceCondition);

/// Puts a condition in its type's place, or at the end. The transition time given with it is used
/// only if the status changes; the order of the others stays.
pub fn set<C: Condition>(conditions: &mut Vec<C>, mut new: C) {
    match conditions.iter_mut().find(|old| old.name() == new.name()) {
        Some(old) => {
            if old.status() == new.status() {
                new.set_transition(old.transition().cloned());
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

pub fn find<'a, C: Condition>(conditions: &'a [C], name: &str) -> Option<&'a C> {
    conditions.iter().find(|condition| condition.name() == name)
}

/// Whether the condition is there and `True`.
pub fn is_true<C: Condition>(conditions: &[C], name: &str) -> bool {
    find(conditions, name).is_some_and(|condition| condition.status() == "True")
}
