//! Pure: what an identity without the right to Secrets sees of them: keys, and a keyed hash in
//! place of every value. Equal values have equal hashes, so that a change is visible; the key is
//! the installation's own, so that a guess cannot be checked elsewhere.
//!
//! It is applied to the object, before any reply is made of it: JSON, Table, watch event, the
//! answer to a patch. There is no second way out. What such an identity may write is here too. `metadata.annotations` may repeat a manifest
//! (kubectl's last-applied): that one is dropped.

use std::any::Any;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use sha2::Sha256;

use crate::api::access::Identity;
use crate::object::{ApiError, Key, Kind, Object, Patch, Reason};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `hmac-sha256:` and 16 hex digits: 64 bits tell values apart and give nothing back.
pub fn keyed_hash(key: &[u8; 32], value: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(value);
    format!("hmac-sha256:{}", &hex::encode(mac.finalize().into_bytes())[..16])
}

/// A registry's credentials are JSON, and so is the hash in their place: what is shown is as valid as
/// what is stored, and can be tried.
const JSON_KEYS: [&str; 2] = [".dockerconfigjson", ".dockercfg"];

/// The Secret with hashes in place of its values. Its managed fields stay: they name keys, which
/// everybody sees.
pub fn hashed(secret: &Secret, key: &[u8; 32]) -> Secret {
    let mut view = secret.clone();
    let shown = |name: &str, value: &[u8]| {
        let hash = keyed_hash(key, value);
        match hash.split_once(':') {
            Some((method, digits)) if JSON_KEYS.contains(&name) => {
                format!("{{\"{method}\":\"{digits}\"}}")
            }
            _ => hash,
        }
    };
    for (name, value) in view.data.iter_mut().flatten() {
        *value = ByteString(shown(name, &value.0).into_bytes());
    }
    for (name, value) in view.string_data.iter_mut().flatten() {
        *value = shown(name, value.as_bytes());
    }
    if let Some(annotations) = &mut view.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    view
}

/// The object as it may be shown: a Secret hashed, every other kind untouched.
pub fn shown<K: Object>(object: Arc<K>, key: &[u8; 32]) -> Arc<K> {
    let any: &dyn Any = &*object;
    let Some(secret) = any.downcast_ref::<Secret>() else { return object };
    let view: Arc<dyn Any + Send + Sync> = Arc::new(hashed(secret, key));
    view.downcast::<K>().unwrap_or(object)
}

/// Who sees hashes would store them with an update, and could copy or test a value with a JSON
/// patch: such an identity changes a Secret's metadata alone, by a merge.
pub fn only_metadata(patch: &Patch) -> bool {
    let Patch::Merge(Value::Object(fields)) = patch else { return false };
    fields.keys().all(|field| matches!(field.as_str(), "metadata" | "kind" | "apiVersion"))
}

/// # Errors
/// `Forbidden` for a write of a Secret's values by who does not see them; a dry run meets none.
pub fn sighted<K: Object>(who: &Identity, key: &Key, dry_run: bool) -> Result<(), ApiError> {
    if K::OBJECT_KIND != Kind::Secret || who.sees_secrets() || dry_run {
        return Ok(());
    }
    Err(ApiError::new(
        Reason::Forbidden,
        format!(
            "secrets \"{}\" is forbidden: {} does not see its values and changes its metadata only, by a merge patch",
            key.name,
            who.name()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn no_value_survives_and_equal_values_stay_equal() {
        let data = ["a", "b", "c"].map(|name| {
            let value = if name == "c" { "other" } else { "hunter2" };
            (name.to_owned(), ByteString(value.as_bytes().to_vec()))
        });
        let mut secret = Secret { data: Some(BTreeMap::from(data)), ..Secret::default() };
        secret.metadata.annotations = Some(BTreeMap::from([(
            LAST_APPLIED.to_owned(),
            "{\"stringData\":{\"a\":\"hunter2\"}}".to_owned(),
        )]));
        let view = hashed(&secret, &[7; 32]);
        let text = serde_json::to_string(&view).expect("serialises");
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"));
        let data = view.data.expect("keys stay");
        assert_eq!(data["a"], data["b"]);
        assert_ne!(data["a"], data["c"]);
        assert_ne!(keyed_hash(&[7; 32], b"x"), keyed_hash(&[8; 32], b"x"));
    }
}
