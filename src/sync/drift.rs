//! Pure: drift of the object layer. The stored object is compared with what applying the applied
//! commit again would make of it (the dry run of the very same code), so that defaults, allocated
//! addresses and foreign labels are no drift, and what differs is exactly what a heal puts right:
//! the heal is that same set without `dry_run`.
//!
//! Status, Events and Leases are no part of a manifest and never drift.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::object::drift::{Class, DriftObject, Origin};
use crate::object::ledger::{Difference, Examined, Response};
use crate::object::source::HEAL_ANNOTATION;
use crate::object::{Key, Kind, SetAction, SetOutcome};
use crate::sync::inventory::annotation;
use crate::sync::manifest::Manifest;

/// What the store itself writes into an object at every change.
const NOT_WANTED: &[&str] =
    &["metadata.resourceVersion", "metadata.generation", "metadata.managedFields", "status"];
/// Characters of a value that a Drift shows.
const SHOWN: usize = 200;
/// Fields of one object that are told apart; beyond them the object differs as a whole.
const MOST_FIELDS: usize = 50;

/// Whose wish is examined.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    pub source: &'a str,
    /// The full id of the applied commit.
    pub commit: &'a str,
    /// Keys the hashes that stand in for values of Secrets.
    pub secret_key: &'a [u8; 32],
    /// What the commit has not made yet, because an earlier object of the name is still ending:
    /// making it is progress, no drift.
    pub unmade: &'a BTreeSet<(Kind, Key)>,
}

/// One object: what the commit says and what applying it again would do.
pub fn examine(wish: Wish<'_>, manifest: &Manifest, outcome: &SetOutcome) -> Examined {
    let mut fields = Vec::new();
    match (outcome.action, &outcome.before, &outcome.after) {
        (SetAction::Created, _, _) => fields.push(Field {
            path: ".".to_owned(),
            class: Class::Missing,
            wanted: Some("present".to_owned()),
            actual: None,
        }),
        (SetAction::Updated, Some(before), Some(after)) => {
            let show = |path: &str, value: &Value| shown(wish, manifest, path, value);
            compare("", Some(before), Some(after), &show, &mut fields);
            if fields.is_empty() || fields.len() > MOST_FIELDS {
                let what = format!("{} fields differ", fields.len().max(1));
                let whole = Field {
                    path: ".".to_owned(),
                    class: Class::Changed,
                    wanted: None,
                    actual: Some(what),
                };
                fields = vec![whole];
            }
        }
        _ => {}
    }
    let differences =
        fields.into_iter().map(|field| difference(wish, manifest, field, None)).collect();
    Examined {
        object: object_of(manifest),
        wanted_id: wanted_id(manifest),
        // The commit stood in the store when it was applied, but for what it waits with: what
        // differs now came later.
        converged_before: !wish.unmade.contains(&(manifest.kind, manifest.key.clone())),
        differences,
    }
}

/// An object that cannot be put back as the commit says.
pub fn stuck(wish: Wish<'_>, manifest: &Manifest, why: &str) -> Examined {
    let field = Field {
        path: ".".to_owned(),
        class: Class::Changed,
        wanted: Some("as committed".to_owned()),
        actual: Some("differs".to_owned()),
    };
    Examined {
        object: object_of(manifest),
        wanted_id: wanted_id(manifest),
        converged_before: true,
        differences: vec![difference(wish, manifest, field, Some(why.to_owned()))],
    }
}

/// Every incarnation of a name has the same Drift: the uid is left out of the identity, because a
/// missing object has none.
fn object_of(manifest: &Manifest) -> DriftObject {
    DriftObject {
        kind: manifest.kind,
        namespace: manifest.key.namespace.clone(),
        name: manifest.key.name.clone(),
        uid: String::new(),
    }
}

fn wanted_id(manifest: &Manifest) -> String {
    hex::encode(&Sha256::digest(manifest.value.to_string())[..8])
}

struct Field {
    path: String,
    class: Class,
    wanted: Option<String>,
    actual: Option<String>,
}

fn difference(
    wish: Wish<'_>,
    manifest: &Manifest,
    field: Field,
    stuck: Option<String>,
) -> Difference {
    let line = match field.path.as_str() {
        "." => manifest.line(),
        path => manifest.positions.value(path).line,
    };
    let response = if annotation(&manifest.value, HEAL_ANNOTATION) == Some("false") {
        Response::Report(format!("{HEAL_ANNOTATION} is \"false\" on this object"))
    } else if let Some(why) = stuck {
        Response::Report(format!("cannot be put back: {why}"))
    } else {
        Response::Heal
    };
    Difference {
        class: field.class,
        field: field.path,
        wanted_by: None,
        wanted: field.wanted,
        actual: field.actual,
        origin: Some(Origin {
            source: wish.source.to_owned(),
            file: manifest.file.to_string(),
            line,
            commit: wish.commit.to_owned(),
        }),
        since: None,
        cause: None,
        deadline: None,
        under_way: false,
        response,
    }
}

fn shown(wish: Wish<'_>, manifest: &Manifest, path: &str, value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if manifest.kind == Kind::Secret && (path.starts_with("data") || path.starts_with("stringData"))
    {
        return keyed_hash(wish.secret_key, &text);
    }
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// As every reply of the API shows a value, so that both can be compared by eye.
fn keyed_hash(key: &[u8; 32], encoded: &str) -> String {
    let value = STANDARD.decode(encoded).unwrap_or_else(|_| encoded.as_bytes().to_vec());
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(&value);
    format!("hmac-sha256:{}", &hex::encode(mac.finalize().into_bytes())[..16])
}

/// Walks both objects down to the values that differ; `actual` is stored, `wanted` is to be.
fn compare(
    path: &str,
    actual: Option<&Value>,
    wanted: Option<&Value>,
    show: &impl Fn(&str, &Value) -> String,
    out: &mut Vec<Field>,
) {
    if actual == wanted || NOT_WANTED.contains(&path) {
        return;
    }
    match (actual, wanted) {
        (Some(Value::Object(actual)), Some(Value::Object(wanted))) => {
            let mut names: Vec<&String> = actual.keys().chain(wanted.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&inner, actual.get(name), wanted.get(name), show, out);
            }
        }
        (Some(Value::Array(actual)), Some(Value::Array(wanted))) => {
            for index in 0..actual.len().max(wanted.len()) {
                let inner = format!("{path}[{index}]");
                compare(&inner, actual.get(index), wanted.get(index), show, out);
            }
        }
        _ => out.push(Field {
            path: path.to_owned(),
            class: match (actual, wanted) {
                (None, _) => Class::Missing,
                (_, None) => Class::Extra,
                _ => Class::Changed,
            },
            wanted: wanted.map(|value| show(path, value)),
            actual: actual.map(|value| show(path, value)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::sync::manifest::parse;
    use crate::sync::source::SourceFile;

    static NOTHING: BTreeSet<(Kind, Key)> = BTreeSet::new();
    static WISH: Wish<'static> =
        Wish { source: "app", commit: "c1", secret_key: &[7; 32], unmade: &NOTHING };

    fn manifest(text: &str) -> Manifest {
        let file = SourceFile {
            path: "a.yaml".into(),
            blob: String::new(),
            bytes: text.as_bytes().into(),
        };
        parse(&file).manifests.remove(0)
    }

    fn outcome(manifest: &Manifest, before: Option<Value>, after: Value) -> SetOutcome {
        let action = match &before {
            None => SetAction::Created,
            Some(before) if *before == after => SetAction::Unchanged,
            Some(_) => SetAction::Updated,
        };
        SetOutcome {
            kind: manifest.kind,
            key: Key::new("default", "a"),
            action,
            before: before.map(Arc::new),
            after: Some(Arc::new(after)),
        }
    }

    fn seen(text: &str, before: Option<Value>, after: Value) -> Vec<String> {
        let manifest = manifest(text);
        let examined = examine(WISH, &manifest, &outcome(&manifest, before, after));
        let show = |difference: Difference| {
            let origin = difference.origin.map(|origin| format!("{}:{}", origin.file, origin.line));
            format!(
                "{:?} {} wanted {} actual {} at {}",
                difference.class,
                difference.field,
                difference.wanted.unwrap_or_default(),
                difference.actual.unwrap_or_default(),
                origin.unwrap_or_default()
            )
        };
        examined.differences.into_iter().map(show).collect()
    }

    const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  replicas: 3\n  selector: {}\n  template:\n    spec:\n      containers:\n      - name: a\n        image: b\n";

    #[test]
    fn fields_are_told_with_the_line_that_wants_them() {
        let before = json!({"metadata": {"resourceVersion": "5", "labels": {"x": "y"}}, "status": {"replicas": 1},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"image": "c"}, {"image": "z"}]}}}});
        let after = json!({"metadata": {"resourceVersion": "6"},
            "spec": {"replicas": 3, "template": {"spec": {"containers": [{"image": "b"}]}}}});
        assert_eq!(
            seen(DEPLOYMENT, Some(before), after),
            [
                "Extra metadata.labels wanted  actual {\"x\":\"y\"} at a.yaml:3",
                "Changed spec.replicas wanted 3 actual 1 at a.yaml:5",
                "Changed spec.template.spec.containers[0].image wanted b actual c at a.yaml:11",
                "Extra spec.template.spec.containers[1] wanted  actual {\"image\":\"z\"} at a.yaml:9",
            ]
        );
    }

    #[test]
    fn a_missing_object_and_an_equal_one() {
        assert_eq!(
            seen(DEPLOYMENT, None, json!({})),
            ["Missing . wanted present actual  at a.yaml:1"]
        );
        assert_eq!(seen(DEPLOYMENT, Some(json!({"a": 1})), json!({"a": 1})), Vec::<String>::new());
    }

    #[test]
    fn secrets_are_compared_by_keyed_hashes() {
        let text =
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {key: hunter2}\n";
        let seen =
            seen(text, Some(json!({"data": {"key": "b2xk"}})), json!({"data": {"key": "bmV3"}}));
        assert!(seen[0].starts_with("Changed data.key wanted hmac-sha256:"), "{seen:?}");
        assert!(!seen[0].contains("bmV3") && !seen[0].contains("b2xk"));
    }

    #[test]
    fn an_annotation_makes_it_report_only() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {ballast.dev/heal: 'false'}}\n";
        let manifest = manifest(text);
        let outcome = outcome(&manifest, Some(json!({"data": {"a": "1"}})), json!({}));
        let examined = examine(WISH, &manifest, &outcome);
        assert!(
            matches!(&examined.differences[0].response, Response::Report(why) if why.contains("false"))
        );
    }
}
