//! Pure: which ReplicaSet carries the wanted template, the revisions, and which old ones may go.
//!
//! The new ReplicaSet is the oldest one whose template equals the Deployment's, not the one with the
//! right hash in its name: going back to an earlier template uses its ReplicaSet again.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use crate::object::Object;
use crate::reconcile::deployment::fenceposts::Wanted;
use crate::reconcile::owner::is_deleting;

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Characters of the history annotation (`maxRevHistoryLengthInChars` of Kubernetes).
const HISTORY_LENGTH: usize = 2000;

/// What a Deployment says of itself alone: not copied to its ReplicaSets. The last is ours: a
/// ReplicaSet does not come from a commit.
const NOT_COPIED: [&str; 7] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
    "ballast.dev/source",
];

/// A Deployment's ReplicaSets, told apart.
#[derive(Clone, Debug)]
pub struct Sets<'a> {
    /// The one with the wanted template.
    pub new: Option<&'a ReplicaSet>,
    /// All others, oldest first.
    pub old: Vec<&'a ReplicaSet>,
}

impl<'a> Sets<'a> {
    pub fn of(deployment: &Deployment, replica_sets: &'a [Arc<ReplicaSet>]) -> Self {
        let mut all: Vec<&ReplicaSet> = replica_sets.iter().map(|set| &**set).collect();
        all.sort_by_key(|set| birth(set));
        let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
        let at = all.iter().position(|set| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            wanted.zip(template).is_some_and(|(wanted, template)| same_template(wanted, template))
        });
        let new = at.map(|at| all.remove(at));
        Self { new, old: all }
    }

    /// Old ones first, oldest first; the new one last.
    pub fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> {
        self.old.iter().copied().chain(self.new)
    }

    /// One above every old revision.
    pub fn next_revision(&self) -> i64 {
        self.old.iter().map(|set| revision_of(set)).max().unwrap_or_default() + 1
    }
}

/// Age, then name: the order in which ReplicaSets came.
pub fn birth(set: &ReplicaSet) -> (Option<Timestamp>, String) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.key().name)
}

/// Equal but for the hash label. An absent field and an empty one are the same, as in Kubernetes'
/// semantic equality; defaults are filled in on both sides, by admission.
pub fn same_template(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    let plain = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove(HASH_LABEL);
        }
        template
    };
    let (one, other) = (plain(one), plain(other));
    if one == other {
        return true;
    }
    // Different images or commands are the usual case, and cheap to see.
    let images = |template: &PodTemplateSpec| -> Vec<Option<String>> {
        let containers = template.spec.iter().flat_map(|spec| &spec.containers);
        containers.map(|container| container.image.clone()).collect()
    };
    if images(&one) != images(&other) {
        return false;
    }
    let value = |template: &PodTemplateSpec| {
        without_empty(serde_json::to_value(template).expect("a pod template has string keys only"))
    };
    value(&one) == value(&other)
}

fn without_empty(value: Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key, without_empty(value)))
                .filter(|(_, value)| !is_empty(value))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_empty).collect()),
        plain => plain,
    }
}

fn annotation<'a>(annotations: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    annotations.and_then(|annotations| annotations.get(key)).map(String::as_str)
}

/// A ReplicaSet's revision; 0 for none.
pub fn revision_of(set: &ReplicaSet) -> i64 {
    let text = annotation(set.metadata.annotations.as_ref(), REVISION);
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A count that an earlier pass wrote on a ReplicaSet.
pub fn count_of(set: &ReplicaSet, key: &str) -> Option<i32> {
    annotation(set.metadata.annotations.as_ref(), key)?.parse().ok()
}

/// The two counts that proportional scaling needs, where they differ from what the ReplicaSet says.
pub fn count_changes(set: &ReplicaSet, wanted: &Wanted) -> BTreeMap<String, String> {
    [(DESIRED, wanted.replicas), (MAX, wanted.most())]
        .into_iter()
        .filter(|(key, count)| count_of(set, key) != Some(*count))
        .map(|(key, count)| (key.to_owned(), count.to_string()))
        .collect()
}

/// What the new ReplicaSet's annotations have to become, as far as they differ: the Deployment's own,
/// a revision above all old ones, and the history of its earlier revisions.
pub fn annotation_changes(
    deployment: &Deployment,
    existing: Option<&ReplicaSet>,
    next_revision: i64,
) -> BTreeMap<String, String> {
    let have = existing.and_then(|set| set.metadata.annotations.as_ref());
    let mut changes: BTreeMap<String, String> = deployment
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        .filter(|(key, value)| annotation(have, key) != Some(value.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let current = existing.map(revision_of).unwrap_or_default();
    // It may be greater already: the old ones it was counted against may be gone.
    if current < next_revision {
        changes.insert(REVISION.to_owned(), next_revision.to_string());
        if let Some(old) = annotation(have, REVISION) {
            changes.insert(HISTORY.to_owned(), history(annotation(have, HISTORY), old));
        }
    }
    changes
}

/// The earlier revisions and one more; the earliest go when it gets too long.
fn history(earlier: Option<&str>, revision: &str) -> String {
    let mut all: Vec<&str> = earlier.into_iter().flat_map(|text| text.split(',')).collect();
    all.retain(|text| !text.is_empty());
    all.push(revision);
    while all.len() > 1 && all.join(",").len() > HISTORY_LENGTH {
        all.remove(0);
    }
    all.join(",")
}

/// The old ReplicaSets beyond the limit, lowest revision first. One that still has pods, or whose
/// status is of an earlier spec, counts but stays.
pub fn beyond_history<'a>(old: &[&'a ReplicaSet], limit: usize) -> Vec<&'a ReplicaSet> {
    let mut sets: Vec<&ReplicaSet> =
        old.iter().copied().filter(|set| !is_deleting(&set.metadata)).collect();
    let surplus = sets.len().saturating_sub(limit);
    sets.sort_by_key(|set| (revision_of(set), birth(set)));
    sets.into_iter().take(surplus).filter(|set| is_empty_and_observed(set)).collect()
}

fn is_empty_and_observed(set: &ReplicaSet) -> bool {
    let pods = set.status.as_ref().map_or(0, |status| status.replicas);
    pods == 0 && replicas_of(set) == 0 && is_observed(set)
}

/// `spec.replicas`; absent is 1, as its default.
pub fn replicas_of(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether the status was made for the spec as it is now.
pub fn is_observed(set: &ReplicaSet) -> bool {
    let observed = set.status.as_ref().and_then(|status| status.observed_generation);
    set.metadata.generation.unwrap_or_default() <= observed.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{ReplicaSetSpec, ReplicaSetStatus};
    use serde_json::json;

    use super::*;

    fn template(image: &str, extra: Value) -> PodTemplateSpec {
        let mut spec = json!({"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image, "resources": {}}]}});
        json_patch::merge(&mut spec, &extra);
        serde_json::from_value(spec).expect("a template")
    }

    fn set(name: &str, seconds: i64, image: &str, annotations: Value) -> Arc<ReplicaSet> {
        let mut set: ReplicaSet = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "annotations": annotations},
        }))
        .expect("a ReplicaSet");
        set.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                Timestamp::from_second(seconds).expect("in range"),
            ));
        set.spec = Some(ReplicaSetSpec {
            replicas: Some(0),
            template: Some(template(image, json!({"metadata": {"labels": {HASH_LABEL: name}}}))),
            ..ReplicaSetSpec::default()
        });
        set.status = Some(ReplicaSetStatus::default());
        Arc::new(set)
    }

    fn deployment(image: &str) -> Deployment {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "annotations": {REVISION: "7", "team": "a", "ballast.dev/source": "s"}},
            "spec": {"selector": {}, "template": {}},
        }))
        .expect("a Deployment");
        deployment.spec.as_mut().expect("a spec").template = template(image, json!({}));
        deployment
    }

    #[test]
    fn the_oldest_equal_template_is_the_new_one() {
        let sets = [
            set("c", 30, "web:1", json!({REVISION: "1"})),
            set("b", 20, "web:2", json!({REVISION: "2"})),
            set("a", 40, "web:1", json!({REVISION: "3"})),
        ];
        let found = Sets::of(&deployment("web:1"), &sets);
        assert_eq!(found.new.expect("found").key().name, "c");
        let old: Vec<String> = found.old.iter().map(|set| set.key().name).collect();
        assert_eq!(old, ["b", "a"]);
        assert_eq!(found.next_revision(), 4);
        assert!(Sets::of(&deployment("web:9"), &sets).new.is_none());
    }

    #[test]
    fn absent_and_empty_are_the_same() {
        let one = template("web:1", json!({"spec": {"securityContext": {}, "volumes": []}}));
        assert!(same_template(&one, &template("web:1", json!({}))));
        let other = template(
            "web:1",
            json!({"spec": {"containers": [{"name": "web", "image": "web:1", "args": ["x"]}]}}),
        );
        assert!(!same_template(&one, &other));
        let annotated =
            template("web:1", json!({"metadata": {"annotations": {"restartedAt": "now"}}}));
        assert!(!same_template(&one, &annotated));
    }

    #[test]
    fn going_back_raises_the_revision_and_writes_history() {
        let old = set("a", 1, "web:1", json!({REVISION: "1", HISTORY: "", "team": "a"}));
        let changes = annotation_changes(&deployment("web:1"), Some(&old), 3);
        assert_eq!(
            changes,
            BTreeMap::from([
                (HISTORY.to_owned(), "1".to_owned()),
                (REVISION.to_owned(), "3".to_owned()),
            ])
        );
        let again = set("a", 1, "web:1", json!({REVISION: "3", HISTORY: "1", "team": "a"}));
        let changes = annotation_changes(&deployment("web:1"), Some(&again), 5);
        assert_eq!(changes[HISTORY], "1,3");
        // Nothing to do when it is the latest already.
        assert_eq!(annotation_changes(&deployment("web:1"), Some(&again), 3), BTreeMap::new());
        // A new one gets the Deployment's annotations but not what the Deployment says of itself.
        let first = annotation_changes(&deployment("web:1"), None, 1);
        assert_eq!(
            first,
            BTreeMap::from([
                (REVISION.to_owned(), "1".to_owned()),
                ("team".to_owned(), "a".to_owned()),
            ])
        );
    }

    #[test]
    fn the_history_keeps_its_length() {
        let long = (1..700).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let text = history(Some(&long), "700");
        assert!(text.len() <= HISTORY_LENGTH && text.ends_with(",700") && !text.starts_with("1,"));
    }

    #[test]
    fn only_empty_old_sets_beyond_the_limit_go() {
        let mut busy = (*set("b", 2, "web:2", json!({REVISION: "2"}))).clone();
        busy.status.as_mut().expect("a status").replicas = 1;
        let sets = [
            set("c", 3, "web:3", json!({REVISION: "3"})),
            Arc::new(busy),
            set("a", 9, "web:1", json!({REVISION: "1"})),
        ];
        let old: Vec<&ReplicaSet> = sets.iter().map(|set| &**set).collect();
        let names = |limit| -> Vec<String> {
            beyond_history(&old, limit).iter().map(|set| set.key().name).collect()
        };
        assert_eq!(names(3), [] as [&str; 0]);
        assert_eq!(names(2), ["a"]);
        // The second in line is `b`, which has a pod: it stays, and nobody goes in its place.
        assert_eq!(names(1), ["a"]);
        assert_eq!(names(0), ["a", "c"]);
    }
}
