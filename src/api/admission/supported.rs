//! Pure: the second step of admission: what this version of Ballast does with every field that
//! Kubernetes would accept. Nothing is accepted and ignored: a field runs, or it is harmless to
//! leave it aside and the table says why, or it is refused by name.
//!
//! The table is `supported_table`; what no table can say (dangerous host paths, image references,
//! resources that no node offers) is `supported_values`. A test walks the types and holds the table
//! against every field they have.

use std::any::Any;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::admit::{Admit, Fault, Faults};
use super::field_path::FieldPath;
use super::pod_security::Subject;
use super::supported_table::GROUPS;
use super::supported_values as values;
use crate::object::Kind;

/// One field, or a whole subtree that is decided at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub part: Part,
    /// Inside the part: `containers[].ports[].hostIP`.
    pub path: &'static str,
    pub support: Support,
}

/// Which objects a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The spec of a pod and of every pod template.
    PodSpec,
    /// A whole object of the kind, without the pod's spec inside it.
    Object(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Runs,
    /// Accepted, stored and not acted on; the reason says why nobody is deceived.
    Harmless(&'static str),
    /// These values (as JSON) run, and absence; any other is refused.
    Only(&'static [&'static str], &'static str),
    Refused(&'static str),
}

/// Every row, for ARCHITECTURE.md and for the tests.
pub fn table() -> impl Iterator<Item = &'static Row> {
    GROUPS.iter().flat_map(|group| group.iter())
}

/// The fields of an object that this version does not run.
pub fn refusals<K: Admit>(object: &K) -> Faults {
    // Our own kinds have no rows: an inventory of thousands of objects is not written out for it.
    if matches!(K::OBJECT_KIND, Kind::Source | Kind::Inventory | Kind::Drift) {
        return Faults::new();
    }
    let Ok(value) = serde_json::to_value(object) else { return Faults::new() };
    let mut faults = Faults::new();
    let groups = GROUPS.iter().filter(|group| group[0].part == Part::Object(K::OBJECT_KIND));
    for row in groups.flat_map(|group| group.iter()) {
        judge(row, &value, None, &mut faults);
    }
    let Some(Subject { spec, at, .. }) = subject(object) else {
        faults.extend(values::object_refusals(object));
        return faults;
    };
    let root = FieldPath::root(at);
    if let Some(value) = value.pointer(&format!("/{}", at.replace('.', "/"))) {
        let groups = GROUPS.iter().filter(|group| group[0].part == Part::PodSpec);
        for row in groups.flat_map(|group| group.iter()) {
            judge(row, value, Some(&root), &mut faults);
        }
    }
    faults.extend(values::pod_refusals(spec, &root));
    faults
}

/// The pod inside an object: itself, or a workload's template.
pub fn subject<K: Admit>(object: &K) -> Option<Subject<'_>> {
    let object = object as &dyn Any;
    if let Some(pod) = object.downcast_ref::<Pod>() {
        return Some(Subject { meta: Some(&pod.metadata), spec: pod.spec.as_ref()?, at: "spec" });
    }
    let template = if let Some(set) = object.downcast_ref::<ReplicaSet>() {
        set.spec.as_ref()?.template.as_ref()?
    } else {
        &object.downcast_ref::<Deployment>()?.spec.as_ref()?.template
    };
    Some(Subject {
        meta: template.metadata.as_ref(),
        spec: template.spec.as_ref()?,
        at: "spec.template.spec",
    })
}

fn judge(row: &Row, root: &Value, prefix: Option<&FieldPath<'_>>, faults: &mut Faults) {
    match row.support {
        Support::Runs | Support::Harmless(_) => {}
        Support::Only(fine, reason) => {
            each_at(root, row.path, prefix, &mut |field, value| {
                // A `false` is a word here: `hostUsers: false` asks for what nobody would do.
                let is_silent = *value != Value::Bool(false) && is_nothing(value);
                if !is_silent && !fine.contains(&value.to_string().as_str()) {
                    let reason = format!("{reason} (runs: {})", fine.join(", "));
                    faults.push(refusal(field, &reason));
                }
            });
        }
        Support::Refused(reason) => each_at(root, row.path, prefix, &mut |field, value| {
            if !is_nothing(value) {
                faults.push(refusal(field, reason));
            }
        }),
    }
}

/// The one sentence in which a field is refused.
pub fn refusal(field: &FieldPath<'_>, reason: &str) -> Fault {
    field.forbidden(format!("this version of Ballast does not run it: {reason}"))
}

/// What Kubernetes itself cannot tell from an absent field, or what asks for nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Calls `visit` for every value at a row's path, with the full path of each.
fn each_at(
    root: &Value,
    path: &str,
    prefix: Option<&FieldPath<'_>>,
    visit: &mut dyn FnMut(&FieldPath<'_>, &Value),
) {
    let (step, rest) = match path.split_once('.') {
        Some((step, rest)) => (step, Some(rest)),
        None => (path, None),
    };
    let (name, list) = match step.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (step, false),
    };
    let Some(value) = root.get(name) else { return };
    let field = match prefix {
        Some(prefix) => prefix.child(name),
        None => FieldPath::root(name),
    };
    let mut go = |value: &Value, field: &FieldPath<'_>| match rest {
        Some(rest) => each_at(value, rest, Some(field), visit),
        None => visit(field, value),
    };
    if !list {
        return go(value, &field);
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        go(item, &field.index(index));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_default_is_always_fine_and_a_refusal_names_the_place() {
        let pod = |spec: Value| -> Vec<String> {
            let mut pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
            pod.fill_defaults();
            refusals(&pod).into_iter().map(|fault| fault.field).collect()
        };
        let container = json!({"name": "c", "image": "i", "stdinOnce": false,
            "volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": ""}]});
        assert_eq!(
            pod(json!({"containers": [container], "hostNetwork": false, "hostAliases": [],
                "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"})),
            Vec::<String>::new()
        );
        assert_eq!(pod(json!({"containers": [container], "hostUsers": false})), ["spec.hostUsers"]);
        assert!(pod(json!({"containers": [container], "hostUsers": true})).is_empty());
        let container = json!({"name": "c", "image": "i", "lifecycle": {"preStop": {"tcpSocket": {"port": 1}}},
            "volumeDevices": [{"name": "v", "devicePath": "/dev/a"}]});
        assert_eq!(
            pod(json!({"containers": [container], "hostUsers": false, "runtimeClassName": "x"})),
            [
                "spec.containers[0].volumeDevices",
                "spec.containers[0].lifecycle.preStop.tcpSocket",
                "spec.hostUsers",
                "spec.runtimeClassName",
            ]
        );
    }

    #[test]
    fn no_path_is_decided_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for row in table() {
            assert!(seen.insert(format!("{:?} {}", row.part, row.path)), "{} twice", row.path);
        }
        assert!(GROUPS.iter().all(|group| group.iter().all(|row| row.part == group[0].part)));
    }
}
