//! Pure: containers of ours whose pod is gone.
//!
//! Only containers with this installation's label are ever looked at (the list filters by it, and
//! this file checks it again): what somebody else runs on the engine is not ours to touch.

use std::collections::BTreeSet;

use crate::node::instance::{Instance, Role};
use crate::object::Kind;
use crate::object::drift::{Class, DriftObject};
use crate::object::ledger::{Difference, Examined, Response};

/// What is to be removed. `pods` are the uids bound to this node, as one whole list told them:
/// called with anything less, this would remove what lives.
pub fn leftovers<'a>(
    instances: impl IntoIterator<Item = &'a Instance>,
    installation: &str,
    pods: &BTreeSet<String>,
) -> Vec<&'a Instance> {
    instances
        .into_iter()
        .filter(|instance| instance.identity.installation == installation)
        // Spare sandboxes have no pod yet; their keeper counts them (`spares.rs`).
        .filter(|instance| instance.identity.role != Role::Spare)
        .filter(|instance| !pods.contains(&instance.identity.pod_uid))
        .collect()
}

/// The pod that it was of, as the ledger names it.
pub fn drift_object(instance: &Instance) -> DriftObject {
    let identity = &instance.identity;
    DriftObject {
        kind: Kind::Pod,
        namespace: identity.pod_namespace.clone(),
        name: identity.pod_name.clone(),
        uid: identity.pod_uid.clone(),
    }
}

/// The leftovers of one pod (at least one), as the ledger sees them: each that still runs is a field
/// of its own.
pub fn examine(of_pod: &[&Instance], now: jiff::Timestamp) -> Examined {
    let extra = |instance: &Instance| {
        let container = instance.identity.container.as_str();
        let what = if container.is_empty() { "sandbox" } else { container };
        Difference {
            class: Class::Extra,
            field: format!("containers[{what}]"),
            wanted_by: None,
            wanted: None,
            actual: Some(instance.name.clone()),
            origin: None,
            since: instance.started_at,
            cause: Some("its pod is gone".to_owned()),
            deadline: Some(now),
            under_way: false,
            response: Response::Restart,
        }
    };
    Examined {
        object: drift_object(of_pod[0]),
        wanted_id: String::new(),
        converged_before: false,
        differences: of_pod.iter().copied().filter(|one| one.is_running()).map(extra).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pod_plan::tests::{at, instance, pod};
    use crate::object::drift::Layer;
    use crate::object::ledger::Ledger;

    #[test]
    fn only_ours_and_only_without_a_pod() {
        let pod = pod(serde_json::json!({}));
        let ours = instance(&pod, Role::Container, "web", 0);
        let mut theirs = ours.clone();
        theirs.identity.installation = "another".into();
        let all = [ours, theirs];
        let found = leftovers(&all, "i", &BTreeSet::new());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].identity.installation, "i");
        assert!(leftovers(&all, "i", &["u".to_owned()].into()).is_empty());
    }

    #[test]
    fn every_leftover_of_a_pod_is_told_until_it_is_gone() {
        let pod = pod(serde_json::json!({}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let web = instance(&pod, Role::Container, "web", 0);
        let mut ledger = Ledger::new(Layer::Container);
        let both = ledger.observe(&[examine(&[&sandbox, &web], at(0))], false, at(0));
        assert_eq!((both.len(), ledger.open().count()), (2, 2));
        // One is removed, and the other is still there.
        ledger.observe(&[examine(&[&sandbox], at(1))], false, at(1));
        let open: Vec<_> = ledger.open().map(|drift| &*drift.spec.field).collect();
        assert_eq!(open, ["containers[sandbox]"]);
        ledger.forget_object(&drift_object(&sandbox), at(2));
        assert_eq!(ledger.open().count(), 0);
    }
}
