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

/// # Errors
/// The first value that cannot be its field's type, after the unknown fields before it.
pub fn decode<T: DeserializeOwned>(value: &Value) -> Result<Decoded<T>, Vec<DecodeFault>> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| {
        // Our own kinds carry `kind` as serde's tag, which reads it and still reports it as ignored.
        let path = plain_path(&path.to_string());
        if path != "kind" {
            unknown.push(path);
        }
    });
    match result {
        Ok(object) => Ok(Decoded { object, unknown }),
        Err(error) => {
            let path = plain_path(&track.path().to_string());
            let mut faults: Vec<DecodeFault> = unknown
                .into_iter()
                .map(|path| DecodeFault { path, what: DecodeFaultKind::UnknownField })
                .collect();
            faults.push(DecodeFault { path, what: DecodeFaultKind::WrongType(error.to_string()) });
            Err(faults)
        }
    }
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
}
