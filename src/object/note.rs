//! Pure: what a room wants recorded as an Event. The API makes the Event object of it: it sets
//! times, counts repetitions and bounds the flood (25 at once an object, then one in 300 s, as
//! client-go's recorder does).

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;

use crate::object::{Key, Kind, Object};

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

    /// About a part of the object, by its path: `spec.containers{web}`.
    #[must_use]
    pub fn of_part(mut self, field_path: String) -> Self {
        self.about.field_path = Some(field_path);
        self
    }

    /// An object that made us panic, and how long it is left alone; `None`: until it changes.
    pub fn quarantined(
        about: ObjectReference,
        component: &'static str,
        panic: &str,
        pause: Option<Duration>,
    ) -> Self {
        let pause = pause.map(|pause| format!("for {} s, or ", pause.as_secs()));
        let message = format!(
            "The {component} panicked on this object ({panic}). It is left alone {}until it \
             changes; please report this.",
            pause.unwrap_or_default()
        );
        let severity = Severity::Warning;
        Self { about, severity, reason: "Quarantined", message, component }
    }
}

/// How an Event names an object of which only this is known.
pub fn reference_to(kind: Kind, key: &Key, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(kind.api_version()),
        kind: Some(kind.row().name.to_owned()),
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
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
