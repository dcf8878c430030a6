//! Pure: what a room wants recorded as an Event. The API makes the Event object of it: it sets
//! times, counts repetitions and bounds the flood (25 at once an object, then one in 300 s, as
//! client-go's recorder does).

use k8s_openapi::api::core::v1::ObjectReference;

use crate::object::Object;

/// One thing that happened to one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The object it happened to.
    pub about: ObjectReference,
    pub severity: Severity,
    /// `Scheduled`, `BackOff`: one word people grep for.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
    /// Who says so: `scheduler`, `node-agent`.
    pub component: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

impl Note {
    pub fn normal<K: Object>(
        about: &K,
        component: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            about: reference(about),
            severity: Severity::Normal,
            reason,
            message: message.into(),
            component,
        }
    }

    pub fn warning<K: Object>(
        about: &K,
        component: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            about: reference(about),
            severity: Severity::Warning,
            reason,
            message: message.into(),
            component,
        }
    }
}

/// How an Event names an object.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::OBJECT_KIND.api_version()),
        kind: Some(K::OBJECT_KIND.row().name.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}
