//! Pure: what is wrong with an object's metadata, with labels, annotations and label selectors
//! (`apimachinery/pkg/api/validation`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference,
};

use super::admit::{Fault, Faults};
use super::field_path::{FieldPath, quoted, shown};
use super::lifecycle::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use crate::object::Kind;
use crate::object::name::{dns1035_faults, label_faults, subdomain_faults};

/// All annotations of an object together, keys and values, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Everything wrong with `metadata`, in the reference server's order.
pub fn faults(meta: &ObjectMeta, kind: Kind) -> Faults {
    let root = FieldPath::root("metadata");
    let mut faults = Faults::new();
    if let Some(prefix) = meta.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
        let path = root.child("generateName");
        // A trailing dash is fine in a prefix: something follows it.
        let masked = format!("{}a", prefix.strip_suffix('-').unwrap_or(prefix));
        faults.extend(path.each_invalid(prefix, name_faults(kind, &masked)));
    }
    let name = meta.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        faults.push(root.child("name").required("name or generateName is required"));
    } else {
        faults.extend(root.child("name").each_invalid(name, name_faults(kind, name)));
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    match (kind.row().namespaced, namespace.is_empty()) {
        (true, true) => faults.push(root.child("namespace").required("")),
        (true, false) => {
            faults.extend(root.child("namespace").each_invalid(namespace, label_faults(namespace)));
        }
        (false, false) => {
            faults.push(root.child("namespace").forbidden("not allowed on this type"));
        }
        (false, true) => {}
    }
    if let Some(generation) = meta.generation.filter(|generation| *generation < 0) {
        let detail = "must be greater than or equal to 0";
        faults.push(root.child("generation").invalid(generation.to_string(), detail));
    }
    faults.extend(labels(meta.labels.as_ref(), &root.child("labels")));
    faults.extend(annotations(meta.annotations.as_ref(), &root.child("annotations")));
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    faults.extend(owner_references(owners, &root.child("ownerReferences")));
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    faults.extend(finalizer_faults(finalizers, &root.child("finalizers")));
    faults
}

/// The shape of a kind's names.
fn name_faults(kind: Kind, name: &str) -> Vec<String> {
    match kind {
        Kind::Namespace => label_faults(name),
        // RelaxedServiceNameValidation is on by default since 1.36, but a name must stay a DNS-1035
        // label to be a host name for old clients; the strict rule is the reference's own for years.
        Kind::Service => dns1035_faults(name),
        _ => subdomain_faults(name),
    }
}

/// Labels of an object, a template or a node selector.
pub fn labels(labels: Option<&BTreeMap<String, String>>, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    for (key, value) in labels.into_iter().flatten() {
        faults.extend(path.each_invalid(key, qualified_name_faults(key)));
        faults.extend(path.each_invalid(value, label_value_faults(value)));
    }
    faults
}

/// Annotations of an object or a template.
pub fn annotations(annotations: Option<&BTreeMap<String, String>>, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let mut total = 0;
    for (key, value) in annotations.into_iter().flatten() {
        faults.extend(path.each_invalid(key, qualified_name_faults(&key.to_lowercase())));
        total += key.len() + value.len();
    }
    if total > ANNOTATIONS_LIMIT {
        faults.push(path.too_long(ANNOTATIONS_LIMIT));
    }
    faults
}

/// `example.com/MyName`: an optional subdomain and a name of at most 63.
pub fn qualified_name_faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(
                    subdomain_faults(prefix).into_iter().map(|s| format!("prefix part {s}")),
                );
            }
            *name
        }
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push("name part must be no more than 63 characters".to_owned());
    }
    if !is_qualified(name) {
        faults.push(format!("name part {QUALIFIED}"));
    }
    faults
}

/// Empty, or what a qualified name's last part may be.
pub fn label_value_faults(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 63 {
        faults.push("must be no more than 63 characters".to_owned());
    }
    if !value.is_empty() && !is_qualified(value) {
        faults.push(LABEL_VALUE.to_owned());
    }
    faults
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_qualified(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn owner_references(owners: &[OwnerReference], path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let mut controller: Option<&OwnerReference> = None;
    for owner in owners {
        if owner.api_version.is_empty() {
            let detail = "version must not be empty";
            faults.push(path.child("apiVersion").invalid(quoted(&owner.api_version), detail));
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                faults.push(path.child(field).invalid(quoted(value), "must not be empty"));
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            faults.push(path.invalid(shown(owner), detail));
        }
        if owner.controller != Some(true) {
            continue;
        }
        match controller {
            None => controller = Some(owner),
            Some(first) => faults.push(path.invalid(
                shown(&owners),
                format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    first.name, owner.name
                ),
            )),
        }
    }
    faults
}

fn finalizer_faults(finalizers: &[String], path: &FieldPath<'_>) -> Faults {
    /// `standardFinalizers` of the reference server.
    const STANDARD: [&str; 3] = ["kubernetes", ORPHAN_FINALIZER, FOREGROUND_FINALIZER];
    let mut faults = Faults::new();
    for finalizer in finalizers {
        faults.extend(path.each_invalid(finalizer, qualified_name_faults(finalizer)));
        if !finalizer.contains('/') && !STANDARD.contains(&finalizer.as_str()) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            faults.push(path.invalid(quoted(finalizer), detail));
        }
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN_FINALIZER) && has(FOREGROUND_FINALIZER) {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        faults.push(path.invalid(shown(&finalizers), detail));
    }
    faults
}

/// The selector of a workload (`ValidateLabelSelector`).
pub fn selector(selector: &LabelSelector, path: &FieldPath<'_>) -> Faults {
    let mut faults = labels(selector.match_labels.as_ref(), &path.child("matchLabels"));
    let expressions = path.child("matchExpressions");
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        faults.extend(requirement(expression, &expressions.index(index)));
    }
    faults
}

fn requirement(expression: &LabelSelectorRequirement, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let values = expression.values.as_deref().unwrap_or_default();
    match expression.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => faults.push(
            path.child("values").required("must be specified when `operator` is 'In' or 'NotIn'"),
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => faults.push(
            path.child("values")
                .forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => faults
            .push(path.child("operator").invalid(quoted(other), "not a valid selector operator")),
    }
    let key = path.child("key");
    faults.extend(key.each_invalid(&expression.key, qualified_name_faults(&expression.key)));
    let list = path.child("values");
    for (index, value) in values.iter().enumerate() {
        faults.extend(list.index(index).each_invalid(value, label_value_faults(value)));
    }
    faults
}

/// `must be greater than or equal to 0`, for every count and duration in seconds.
pub fn not_negative(value: Option<i64>, path: &FieldPath<'_>) -> Option<Fault> {
    value
        .filter(|value| *value < 0)
        .map(|value| path.invalid(value.to_string(), "must be greater than or equal to 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualified_names_and_values() {
        for good in ["a", "A.b-c_d", "example.com/Name", "1"] {
            assert_eq!(qualified_name_faults(good), Vec::<String>::new(), "{good}");
        }
        for bad in ["", "-a", "a b", "/a", "a/", "a/b/c", "UP.com/a", "é"] {
            assert!(!qualified_name_faults(bad).is_empty(), "{bad}");
        }
        assert!(label_value_faults("").is_empty());
        assert_eq!(label_value_faults(&"a".repeat(64)).len(), 1);
        assert!(!label_value_faults("a/b").is_empty());
    }

    #[test]
    fn metadata_is_judged_field_by_field() {
        let meta = ObjectMeta {
            name: Some("a".repeat(254)),
            namespace: Some("x".into()),
            annotations: Some([("k".to_owned(), "v".repeat(ANNOTATIONS_LIMIT))].into()),
            finalizers: Some(vec!["short".into(), "orphan".into(), "foregroundDeletion".into()]),
            owner_references: Some(vec![OwnerReference {
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        };
        let fields: Vec<String> =
            faults(&meta, Kind::Pod).into_iter().map(|fault| fault.field).collect();
        assert_eq!(
            fields,
            [
                "metadata.name",
                "metadata.annotations",
                "metadata.ownerReferences.apiVersion",
                "metadata.ownerReferences.kind",
                "metadata.ownerReferences.name",
                "metadata.ownerReferences.uid",
                "metadata.finalizers",
                "metadata.finalizers",
            ]
        );
    }

    #[test]
    fn selectors_need_the_values_their_operators_ask_for() {
        let path = FieldPath::root("spec");
        let with = |operator: &str, values: &[&str]| {
            let expression = LabelSelectorRequirement {
                key: "k".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            };
            requirement(&expression, &path).len()
        };
        assert_eq!(with("In", &["a"]), 0);
        assert_eq!(with("In", &[]), 1);
        assert_eq!(with("Exists", &["a"]), 1);
        assert_eq!(with("Near", &[]), 1);
        assert_eq!(with("NotIn", &["a b"]), 1);
    }
}
