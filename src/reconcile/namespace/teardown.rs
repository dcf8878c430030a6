//! Pure: what of a namespace goes next, and what is said meanwhile
//! (`pkg/controller/namespace/deletion`, with its ordered deletion).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::object::{Key, Kind, condition};

/// The finalizer that the API puts on every namespace.
pub const FINALIZER: &str = "kubernetes";

/// One object in the namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    pub kind: Kind,
    pub key: Key,
    pub uid: String,
    pub deleting: bool,
    pub finalizers: Vec<String>,
}

/// What goes in which order: 0 makes pods, 1 is pods, 2 is what pods use and everything else.
fn stage(kind: Kind) -> u8 {
    match kind {
        Kind::Deployment | Kind::ReplicaSet => 0,
        Kind::Pod => 1,
        _ => 2,
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Delete {
        kind: Kind,
        key: Key,
        uid: String,
    },
    /// Replaces the status' conditions.
    SetConditions(Vec<NamespaceCondition>),
    /// Takes our finalizer off: the namespace ends.
    Finalize,
}

/// What is to be done now about a namespace that is to go. `failures` are the sentences of lists
/// and deletions that failed in the last pass: what could not be listed may still be there.
pub fn plan(
    namespace: &Namespace,
    content: &[Content],
    failures: &[String],
    now: Timestamp,
) -> Vec<Step> {
    if namespace.metadata.deletion_timestamp.is_none() || !is_held(namespace) {
        return Vec::new();
    }
    let mut steps: Vec<Step> = content
        .iter()
        .filter(|object| !object.deleting && stage(object.kind) <= open_stage(content))
        .map(|object| Step::Delete {
            kind: object.kind,
            key: object.key.clone(),
            uid: object.uid.clone(),
        })
        .collect();
    let old = namespace.status.as_ref().and_then(|status| status.conditions.clone());
    let mut conditions = old.clone().unwrap_or_default();
    for new in sentences(content, failures, now) {
        condition::set(&mut conditions, new);
    }
    if content.is_empty() && failures.is_empty() {
        // Nobody would read the conditions of a namespace that is gone the next moment.
        steps.push(Step::Finalize);
    } else if Some(&conditions) != old.as_ref() {
        steps.push(Step::SetConditions(conditions));
    }
    steps
}

/// The last stage that may go now: pods once all that makes them is told to go, the rest once both
/// are gone.
fn open_stage(content: &[Content]) -> u8 {
    let makers = || content.iter().filter(|object| stage(object.kind) == 0);
    if makers().any(|object| !object.deleting) {
        0
    } else if content.iter().any(|object| stage(object.kind) < 2) {
        1
    } else {
        2
    }
}

/// Whether our finalizer is on it.
pub fn is_held(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    finalizers.is_some_and(|finalizers| finalizers.iter().any(|name| name == FINALIZER))
}

/// All five conditions, in the reference's order and words.
fn sentences(content: &[Content], failures: &[String], now: Timestamp) -> Vec<NamespaceCondition> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for object in content {
        let row = object.kind.row();
        *kinds.entry(format!("{}.{}", row.plural, row.group)).or_insert(0) += 1;
        for finalizer in &object.finalizers {
            *finalizers.entry(finalizer).or_insert(0) += 1;
        }
    }
    let counted = |what: &str, count: &usize| format!("{what} has {count} resource instances");
    let kinds: Vec<String> = kinds.iter().map(|(what, count)| counted(what, count)).collect();
    let held = |what: &&str, count: &usize| format!("{what} in {count} resource instances");
    let finalizers: Vec<String> =
        finalizers.iter().map(|(what, count)| held(what, count)).collect();
    let failed = format!(
        "Failed to delete all resource types, {} remaining: {}",
        failures.len(),
        failures.join(", ")
    );
    let remaining = format!("Some resources are remaining: {}", kinds.join(", "));
    let holding = format!(
        "Some content in the namespace has finalizers remaining: {}",
        finalizers.join(", ")
    );
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            None,
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!failures.is_empty()).then_some(("ContentDeletionFailed", failed.as_str())),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            (!kinds.is_empty()).then_some(("SomeResourcesRemain", remaining.as_str())),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty()).then_some(("SomeFinalizersRemain", holding.as_str())),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
    .into_iter()
    .map(|(name, bad, good)| {
        let (reason, message) = bad.unwrap_or(good);
        NamespaceCondition {
            type_: name.to_owned(),
            status: if bad.is_some() { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(Time(now)),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn going() -> Namespace {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]},
        }))
        .expect("a namespace")
    }

    fn content(kind: Kind, name: &str, deleting: bool) -> Content {
        let key = Key::new("n", name);
        Content { kind, key, uid: format!("{name}-uid"), deleting, finalizers: vec![] }
    }

    fn deleted(content: &[Content]) -> Vec<String> {
        let steps = plan(&going(), content, &[], Timestamp::UNIX_EPOCH);
        let names = steps.into_iter().filter_map(|step| match step {
            Step::Delete { key, .. } => Some(key.name),
            _ => None,
        });
        names.collect()
    }

    #[test]
    fn what_makes_pods_goes_first_and_what_they_use_last() {
        let all = |makers_going: bool| {
            [
                content(Kind::ConfigMap, "config", false),
                content(Kind::Pod, "pod", false),
                content(Kind::ReplicaSet, "set", makers_going),
            ]
        };
        assert_eq!(deleted(&all(false)), ["set"]);
        assert_eq!(deleted(&all(true)), ["pod"]);
        let ending = [content(Kind::ConfigMap, "config", false), content(Kind::Pod, "pod", true)];
        assert_eq!(deleted(&ending), [] as [&str; 0]);
        assert_eq!(deleted(&[content(Kind::ConfigMap, "config", false)]), ["config"]);
    }

    #[test]
    fn an_empty_namespace_ends_and_one_that_could_not_be_read_does_not() {
        let end = plan(&going(), &[], &[], Timestamp::UNIX_EPOCH);
        assert_eq!(end, [Step::Finalize]);
        let failures = ["pods: the store is closed".to_owned()];
        let steps = plan(&going(), &[], &failures, Timestamp::UNIX_EPOCH);
        let [Step::SetConditions(conditions)] = steps.as_slice() else { panic!("{steps:?}") };
        assert!(condition::is_true(conditions, "NamespaceDeletionContentFailure"));

        let mut ended = going();
        ended.spec = None;
        assert_eq!(plan(&ended, &[], &[], Timestamp::UNIX_EPOCH), []);
        let mut stays = going();
        stays.metadata.deletion_timestamp = None;
        assert_eq!(plan(&stays, &[], &[], Timestamp::UNIX_EPOCH), []);
    }

    #[test]
    fn the_conditions_count_what_is_left() {
        let mut held = content(Kind::Deployment, "web", true);
        held.finalizers = vec!["example.com/hold".into()];
        let left = [held, content(Kind::Pod, "p", true), content(Kind::Pod, "q", true)];
        let steps = plan(&going(), &left, &[], Timestamp::UNIX_EPOCH);
        let [Step::SetConditions(conditions)] = steps.as_slice() else { panic!("{steps:?}") };
        let message = |name| {
            condition::find(conditions, name).and_then(|c| c.message.clone()).unwrap_or_default()
        };
        assert_eq!(
            message("NamespaceContentRemaining"),
            "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        let mut said = going();
        said.status.get_or_insert_default().conditions = Some(conditions.clone());
        let later = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(5);
        assert_eq!(plan(&said, &left, &[], later), [], "nothing is said twice");
    }
}
