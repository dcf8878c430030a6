//! Pure: what an identity without the right to Secrets sees of them: keys, and a keyed hash in
//! place of every value. Equal values have equal hashes, so that a change is visible; the key is
//! the installation's own, so that a guess cannot be checked elsewhere.
//!
//! It is applied to the object, before any reply is made of it: JSON, Table, watch event, the
//! answer to a patch. There is no second way out. `metadata.annotations` may repeat a manifest
//! (kubectl's last-applied): that one is dropped.

use std::any::Any;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use sha2::Sha256;

use crate::object::Object;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `hmac-sha256:` and 16 hex digits: 64 bits tell values apart and give nothing back.
pub fn keyed_hash(key: &[u8; 32], value: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(value);
    format!("hmac-sha256:{}", &hex::encode(mac.finalize().into_bytes())[..16])
}

/// The Secret with hashes in place of its values.
pub fn hashed(secret: &Secret, key: &[u8; 32]) -> Secret {
    let mut view = secret.clone();
    for value in view.data.iter_mut().flat_map(|data| data.values_mut()) {
        *value = ByteString(keyed_hash(key, &value.0).into_bytes());
    }
    for value in view.string_data.iter_mut().flat_map(|data| data.values_mut()) {
        *value = keyed_hash(key, value.as_bytes());
    }
    if let Some(annotations) = &mut view.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    view.metadata.managed_fields = None;
    view
}

/// The object as it may be shown: a Secret hashed, every other kind untouched.
pub fn shown<K: Object>(object: Arc<K>, key: &[u8; 32]) -> Arc<K> {
    let any: &dyn Any = &*object;
    let Some(secret) = any.downcast_ref::<Secret>() else { return object };
    let view: Arc<dyn Any + Send + Sync> = Arc::new(hashed(secret, key));
    view.downcast::<K>().unwrap_or(object)
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
