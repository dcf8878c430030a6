//! Pure: from a JSON value to a typed object, strictly: k8s-openapi's types ignore unknown fields
//! and default missing required ones, so both are found here, with their paths.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Something in a document that the type does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeFault {
    /// `spec.template.spec.containers[0].image`; empty is the document itself.
    pub path: String,
    pub what: DecodeFaultKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeFaultKind {
    /// The type has no such field.
    UnknownField,
    /// The value cannot be the field's type; serde's sentence.
    WrongType(String),
}

/// A decoded object beside the fields that its type does not know.
#[derive(Debug)]
pub struct Decoded<T> {
    pub object: T,
    /// Paths of unknown fields, in document order.
    pub unknown: Vec<String>,
}

/// Values of wrong type that are looked for in one document before the rest is left unsaid.
const MOST_FAULTS: usize = 32;

/// # Errors
/// Every unknown field, then every value that cannot be its field's type: a value that cannot be is
/// taken out and the document read again, so that one mistake does not hide the others.
pub fn decode<T: DeserializeOwned>(value: &Value) -> Result<Decoded<T>, Vec<DecodeFault>> {
    let (mut path, message, mut unknown) = match attempt::<T>(value) {
        Ok(decoded) => return Ok(decoded),
        Err(refused) => refused,
    };
    let mut wrong = vec![(path.clone(), message)];
    let mut rest = value.clone();
    while wrong.len() < MOST_FAULTS && take_out(&mut rest, &path) {
        match attempt::<T>(&rest) {
            Ok(decoded) => {
                unknown = decoded.unknown;
                break;
            }
            Err((next, _, _)) if wrong.iter().any(|(known, _)| *known == next) => break,
            Err((next, message, seen)) => {
                unknown = seen;
                path.clone_from(&next);
                wrong.push((next, message));
            }
        }
    }
    let unknown =
        unknown.into_iter().map(|path| DecodeFault { path, what: DecodeFaultKind::UnknownField });
    let wrong = wrong
        .into_iter()
        .map(|(path, message)| DecodeFault { path, what: DecodeFaultKind::WrongType(message) });
    Err(unknown.chain(wrong).collect())
}

/// Where the first value of wrong type is, what serde says of it, and the unknown fields before it.
type Refused = (String, String, Vec<String>);

fn attempt<T: DeserializeOwned>(value: &Value) -> Result<Decoded<T>, Refused> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let result =
        serde_ignored::deserialize(tracked, |path| unknown.push(plain_path(&path.to_string())));
    match result {
        Ok(object) => Ok(Decoded { object, unknown }),
        Err(error) => Err((plain_path(&track.path().to_string()), error.to_string(), unknown)),
    }
}

/// Removes the field at a plain path, or empties the list's element there. `false` when there is
/// nothing at that path: the document itself is of the wrong type.
fn take_out(value: &mut Value, path: &str) -> bool {
    let split = path.rfind(['.', '[']);
    let (parent, last) = split.map_or(("", path), |at| path.split_at(at));
    let Some(parent) = value.pointer_mut(&pointer(parent)) else { return false };
    let key = last.trim_matches(['.', '[', ']']);
    match parent {
        Value::Object(fields) => fields.remove(key).is_some(),
        Value::Array(items) => {
            let item = key.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            item.map(|item| *item = Value::Object(serde_json::Map::new())).is_some()
        }
        _ => false,
    }
}

/// `a[0].b` as RFC 6901 writes it.
fn pointer(path: &str) -> String {
    let words = path.split(['.', '[', ']']).filter(|word| !word.is_empty());
    words.map(|word| format!("/{word}")).collect()
}

/// Both crates' paths (`a.?.0.b`, `a[0].b`) as Kubernetes writes them: `a[0].b`.
fn plain_path(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    for part in path.split('.').filter(|part| *part != "?" && !part.is_empty()) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            plain.push('[');
            plain.push_str(part);
            plain.push(']');
        } else {
            if !plain.is_empty() {
                plain.push('.');
            }
            plain.push_str(part);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_and_wrong_types_carry_their_paths() {
        let document = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"nmae": "x"},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "a", "imagee": "b"}]}}}});
        let decoded = decode::<Deployment>(&document).expect("types are right");
        assert_eq!(decoded.unknown, ["metadata.nmae", "spec.template.spec.containers[0].imagee"]);

        let source = json!({"apiVersion": "ballast.dev/v1alpha1", "kind": "Source", "metadata": {},
            "spec": {"url": "u", "branch": "b", "path": ".", "pollSeconds": 1, "x": 1}});
        let decoded = decode::<crate::object::source::Source>(&source).expect("types are right");
        assert_eq!(decoded.unknown, ["spec.x"]);

        let document =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": true}});
        let faults = decode::<Deployment>(&document).expect_err("a boolean is no count");
        assert_eq!(faults[0].path, "spec.replicas");
    }

    #[test]
    fn one_wrong_type_does_not_hide_the_others() {
        let document = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "three", "selector": {},
            "template": {"spec": {"containers": [{"name": 1, "imagee": "b"}, "x"]}}}});
        let faults = decode::<Deployment>(&document).expect_err("two are wrong");
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        let container = "spec.template.spec.containers[0]";
        assert_eq!(
            paths,
            [
                format!("{container}.imagee").as_str(),
                "spec.replicas",
                format!("{container}.name").as_str(),
                "spec.template.spec.containers[1]"
            ]
        );
    }
}
