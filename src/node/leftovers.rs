//! Pure: containers of ours whose pod is gone.
//!
//! Only containers with this installation's label are ever looked at (the list filters by it, and
//! this file checks it again): what somebody else runs on the engine is not ours to touch.

use std::collections::BTreeSet;

use crate::node::instance::Instance;
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
        .filter(|instance| !pods.contains(&instance.identity.pod_uid))
        .collect()
}

/// A leftover that still runs, as the ledger sees it.
pub fn examine(instance: &Instance, now: jiff::Timestamp) -> Examined {
    let identity = &instance.identity;
    let what = if identity.container.is_empty() { "sandbox" } else { identity.container.as_str() };
    Examined {
        object: DriftObject {
            kind: Kind::Pod,
            namespace: identity.pod_namespace.clone(),
            name: identity.pod_name.clone(),
            uid: identity.pod_uid.clone(),
        },
        wanted_id: String::new(),
        converged_before: false,
        differences: vec![Difference {
            class: Class::Extra,
            field: format!("containers[{what}]"),
            wanted: None,
            actual: Some(instance.name.clone()),
            origin: None,
            since: instance.started_at,
            cause: Some("its pod is gone".to_owned()),
            deadline: Some(now),
            response: Response::Heal,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::instance::Role;
    use crate::node::pod_plan::tests::{instance, pod};

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
}
