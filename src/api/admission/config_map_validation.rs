//! Pure: what is wrong with a ConfigMap or Secret.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::admit::{Fault, Faults};
use super::field_path::{FieldPath, quoted};
use super::metadata_validation as metadata;
use crate::object::Kind;

/// All values of one object together, in bytes.
const SIZE_LIMIT: usize = 1024 * 1024;
const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// The key of a value: it becomes a file name or a variable's source.
pub fn data_key_faults(key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if key.len() > 253 {
        faults.push("must be no more than 253 characters".to_owned());
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        faults.push(KEY.to_owned());
    }
    match key {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

pub fn config_map(map: &ConfigMap) -> Faults {
    let mut faults = metadata::faults(&map.metadata, Kind::ConfigMap);
    let mut size = 0;
    let path = FieldPath::root("data");
    for (key, value) in map.data.iter().flatten() {
        faults.extend(path.key(key).each_invalid(key, data_key_faults(key)));
        if map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
            let detail = "duplicate of key present in binaryData";
            faults.push(path.key(key).invalid(quoted(key), detail));
        }
        size += value.len();
    }
    let path = FieldPath::root("binaryData");
    for (key, value) in map.binary_data.iter().flatten() {
        faults.extend(path.key(key).each_invalid(key, data_key_faults(key)));
        size += value.0.len();
    }
    if size > SIZE_LIMIT {
        faults.push(FieldPath::root("").too_long(SIZE_LIMIT));
    }
    faults
}

pub fn config_map_update(new: &ConfigMap, old: &ConfigMap) -> Faults {
    let mut faults = Faults::new();
    if old.immutable == Some(true) {
        faults.extend(must_stay("immutable", new.immutable == Some(true)));
        faults.extend(must_stay("data", new.data == old.data));
        faults.extend(must_stay("binaryData", new.binary_data == old.binary_data));
    }
    faults.extend(config_map(new));
    faults
}

fn must_stay(field: &str, same: bool) -> Option<Fault> {
    (!same).then(|| FieldPath::root(field).forbidden(IMMUTABLE))
}

pub fn secret(secret: &Secret) -> Faults {
    let mut faults = metadata::faults(&secret.metadata, Kind::Secret);
    let path = FieldPath::root("data");
    let mut size = 0;
    for (key, value) in secret.data.iter().flatten() {
        faults.extend(path.key(key).each_invalid(key, data_key_faults(key)));
        size += value.0.len();
    }
    if size > SIZE_LIMIT {
        faults.push(path.too_long(SIZE_LIMIT));
    }
    let has = |key: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(key));
    match secret.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            let named = secret.metadata.annotations.as_ref().and_then(|all| all.get(annotation));
            if named.is_none_or(String::is_empty) {
                let path = FieldPath::root("metadata");
                faults.push(path.child("annotations").key(annotation).required(""));
            }
        }
        "kubernetes.io/dockerconfigjson" => {
            faults.extend(json_value(secret, ".dockerconfigjson", &path));
        }
        "kubernetes.io/dockercfg" => faults.extend(json_value(secret, ".dockercfg", &path)),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            faults.push(path.key("username").required(""));
            faults.push(path.key("password").required(""));
        }
        "kubernetes.io/ssh-auth" if !has("ssh-privatekey") => {
            faults.push(path.key("ssh-privatekey").required(""));
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    faults.push(path.key(key).required(""));
                }
            }
        }
        _ => {}
    }
    faults
}

fn json_value(secret: &Secret, key: &str, path: &FieldPath<'_>) -> Option<Fault> {
    let Some(value) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return Some(path.key(key).required(""));
    };
    let parsed: Result<serde_json::Map<String, serde_json::Value>, _> =
        serde_json::from_slice(&value.0);
    // Neither the value nor serde's sentence, which quotes it: an error is no place for a password.
    let redacted = "\"<secret contents redacted>\"".to_owned();
    parsed.is_err().then(|| path.key(key).invalid(redacted, "invalid JSON"))
}

pub fn secret_update(new: &Secret, old: &Secret) -> Faults {
    let mut faults = Faults::new();
    if new.type_ != old.type_ {
        let value = quoted(new.type_.as_deref().unwrap_or_default());
        faults.push(FieldPath::root("type").invalid(value, "field is immutable"));
    }
    if old.immutable == Some(true) {
        faults.extend(must_stay("immutable", new.immutable == Some(true)));
        faults.extend(must_stay("data", new.data == old.data));
    }
    faults.extend(secret(new));
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_file_names() {
        for good in ["a", "A_b-c.d", "...a".trim_start_matches('.')] {
            assert!(data_key_faults(good).is_empty(), "{good}");
        }
        for bad in ["", ".", "..", "..a", "a/b", "a b"] {
            assert!(!data_key_faults(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn immutable_data_stays_and_size_is_bounded() {
        let map = |data: serde_json::Value| -> ConfigMap {
            serde_json::from_value(json!({"metadata": {"name": "m", "namespace": "d"},
                "immutable": true, "data": data}))
            .unwrap()
        };
        let (old, new) = (map(json!({"a": "1"})), map(json!({"a": "2"})));
        assert_eq!(config_map_update(&new, &old)[0].field, "data");
        assert!(config_map_update(&old, &old).is_empty());
        let big = map(json!({"a": "x".repeat(SIZE_LIMIT + 1)}));
        let cause = config_map(&big)[0].to_cause();
        assert_eq!(cause.message.as_deref(), Some("Too long: may not be more than 1048576 bytes"));
    }

    #[test]
    fn typed_secrets_have_their_keys() {
        let secret_of = |kind: &str| -> Secret {
            serde_json::from_value(
                json!({"metadata": {"name": "s", "namespace": "d"}, "type": kind}),
            )
            .unwrap()
        };
        assert_eq!(secret(&secret_of("kubernetes.io/tls")).len(), 2);
        assert_eq!(secret(&secret_of("kubernetes.io/dockerconfigjson")).len(), 1);
        assert_eq!(secret(&secret_of("Opaque")).len(), 0);
        assert_eq!(secret_update(&secret_of("a"), &secret_of("b"))[0].field, "type");
    }
}
