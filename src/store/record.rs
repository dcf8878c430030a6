//! One object as the store holds it.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::object::{Key, Kind, Object};
use crate::store::{Body, Header};

/// One object at one revision. Immutable; shared by the index, watches and lists.
#[derive(Debug)]
pub struct Record {
    pub kind: Kind,
    pub key: Key,
    /// The revision of the write that made this state.
    pub revision: u64,
    /// The whole object as JSON, `resourceVersion` included.
    pub body: Body,
    pub header: Arc<Header>,
    /// Decoded once for everyone who holds it at the same time, and dropped with the last of them.
    typed: Mutex<Option<Weak<dyn Any + Send + Sync>>>,
}

impl Record {
    pub fn new(
        kind: Kind,
        key: Key,
        revision: u64,
        body: impl Into<Body>,
        header: Arc<Header>,
    ) -> Self {
        let body = body.into();
        Self { kind, key, revision, body, header, typed: Mutex::new(None) }
    }

    /// The typed object; shared with every other holder.
    ///
    /// # Errors
    /// A body that this version cannot decode: the caller quarantines the object, it never panics.
    pub fn typed<K: Object>(&self) -> Result<Arc<K>, serde_json::Error> {
        self.typed_noting(|_| ())
    }

    /// As [`Record::typed`]; `decoded` is told of an object that nobody held, before anybody else
    /// can ask.
    ///
    /// # Errors
    /// As [`Record::typed`].
    pub fn typed_noting<K: Object>(
        &self,
        decoded: impl FnOnce(&Arc<K>),
    ) -> Result<Arc<K>, serde_json::Error> {
        let mut cached = self.typed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(alive) = cached.as_ref().and_then(Weak::upgrade)
            && let Ok(object) = alive.downcast::<K>()
        {
            return Ok(object);
        }
        let object: Arc<K> = Arc::new(serde_json::from_slice(&self.body.text())?);
        let erased: Arc<dyn Any + Send + Sync> = object.clone();
        *cached = Some(Arc::downgrade(&erased));
        decoded(&object);
        Ok(object)
    }

    /// Gives back what is left of a decoded object that nobody holds any more: as long as this one
    /// could be asked for it, its memory stays, and an empty Pod is 3 kB.
    pub fn let_go(&self) {
        let mut cached = self.typed.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.as_ref().is_some_and(|object| object.strong_count() == 0) {
            *cached = None;
        }
    }
}
