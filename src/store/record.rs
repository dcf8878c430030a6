//! One object as the store holds it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::object::{Key, Kind, Object};

/// What the store must know of an object without decoding it. Extracted by the API at each write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub uid: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The kind's selectable fields (`spec.nodeName`), absent ones as empty strings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
    /// Uids of the owners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// `deletionTimestamp` is set.
    #[serde(default)]
    pub deleting: bool,
    /// What this object has to itself in the whole store (`clusterip/10.43.0.5`,
    /// `nodeport/tcp/30080`): a second record with the same claim is refused by the transaction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
}

/// A body on its way into the store: JSON text with `"resourceVersion":""` at a known place, into
/// which the writer puts the revision that the write gets.
#[derive(Clone, Debug)]
pub struct Draft {
    /// JSON text; the quotes of the empty resourceVersion stand around `revision_at`.
    pub json: Vec<u8>,
    /// Byte offset between the two quotes.
    pub revision_at: usize,
}

/// One object at one revision. Immutable; shared by the index, watches and lists.
#[derive(Debug)]
pub struct Record {
    pub kind: Kind,
    pub key: Key,
    /// The revision of the write that made this state.
    pub revision: u64,
    /// The whole object as JSON, `resourceVersion` included.
    pub body: Bytes,
    pub header: Arc<Header>,
    /// Decoded once for everyone who holds it at the same time, and dropped with the last of them.
    typed: Mutex<Option<Weak<dyn Any + Send + Sync>>>,
}

impl Record {
    pub fn new(kind: Kind, key: Key, revision: u64, body: Bytes, header: Arc<Header>) -> Self {
        Self { kind, key, revision, body, header, typed: Mutex::new(None) }
    }

    /// The typed object; shared with every other holder.
    ///
    /// # Errors
    /// A body that this version cannot decode: the caller quarantines the object, it never panics.
    pub fn typed<K: Object>(&self) -> Result<Arc<K>, serde_json::Error> {
        let mut cached = self.typed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(alive) = cached.as_ref().and_then(Weak::upgrade)
            && let Ok(object) = alive.downcast::<K>()
        {
            return Ok(object);
        }
        let object: Arc<K> = Arc::new(serde_json::from_slice(&self.body)?);
        let erased: Arc<dyn Any + Send + Sync> = object.clone();
        *cached = Some(Arc::downgrade(&erased));
        Ok(object)
    }
}
