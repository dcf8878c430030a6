//! Pure: the second step of admission: what this version of Ballast does with every field that
//! Kubernetes would accept. Nothing is accepted and ignored: a field runs, or it is harmless to
//! leave it aside and the table says why, or it is refused by name.

use serde_json::Value;

use super::admit::{Admit, Fault, FaultType, Faults};
use super::supported_table::ROWS;
use crate::object::Kind;

/// One field, or a whole subtree where nothing below it is decided apart.
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
    /// A whole object of the kind, without the pod template inside it.
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
    ROWS.iter()
}

/// The fields of an object that this version does not run.
pub fn refusals<K: Admit>(object: &K) -> Faults {
    let Ok(value) = serde_json::to_value(object) else { return Faults::new() };
    refusals_of(K::OBJECT_KIND, &value)
}

fn refusals_of(kind: Kind, object: &Value) -> Faults {
    let mut faults = Faults::new();
    let prefix = match kind {
        Kind::Pod => Some("spec"),
        Kind::ReplicaSet | Kind::Deployment => Some("spec.template.spec"),
        _ => None,
    };
    let pod_spec = match kind {
        Kind::Pod => object.pointer("/spec"),
        _ => object.pointer("/spec/template/spec"),
    };
    for row in table() {
        let (root, prefix) = match (row.part, prefix, pod_spec) {
            (Part::PodSpec, Some(prefix), Some(spec)) => (spec, prefix),
            (Part::Object(of), ..) if of == kind => (object, ""),
            _ => continue,
        };
        match row.support {
            Support::Runs | Support::Harmless(_) => {}
            Support::Only(values, reason) => {
                each_at(root, row.path, prefix, &mut |field, value| {
                    let text = value.to_string();
                    if !is_nothing(value) && !values.contains(&text.as_str()) {
                        faults.push(refusal(
                            field,
                            &format!("{reason} (runs: {})", values.join(", ")),
                        ));
                    }
                });
            }
            Support::Refused(reason) => {
                each_at(root, row.path, prefix, &mut |field, value| {
                    if !is_nothing(value) {
                        faults.push(refusal(field, reason));
                    }
                });
            }
        }
    }
    faults
}

fn refusal(field: String, reason: &str) -> Fault {
    let detail = format!("this version of Ballast does not run this field: {reason}");
    Fault { field, fault: FaultType::Forbidden, detail, value: String::new() }
}

/// What Kubernetes itself cannot tell from an absent field.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Calls `visit` for every value at a row's path, with the full path of each.
fn each_at(root: &Value, path: &str, prefix: &str, visit: &mut dyn FnMut(String, &Value)) {
    let (step, rest) = match path.split_once('.') {
        Some((step, rest)) => (step, Some(rest)),
        None => (path, None),
    };
    let (name, list) = match step.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (step, false),
    };
    let Some(value) = root.get(name) else { return };
    let field = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    let mut go = |value: &Value, field: String| match rest {
        Some(rest) => each_at(value, rest, &field, visit),
        None => visit(field, value),
    };
    if !list {
        return go(value, field);
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        go(item, format!("{field}[{index}]"));
    }
}
