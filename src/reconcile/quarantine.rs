//! Remembers which objects made a loop panic, and until when each is left alone: for the loops that
//! are no [`engine`](crate::reconcile::engine) controllers.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::time::Instant;
use tracing::error;

use crate::object::{Cluster, Note};
use crate::reconcile::retry;

/// By uid.
#[derive(Debug, Default)]
pub struct Quarantine(BTreeMap<String, Aside>);

#[derive(Debug)]
struct Aside {
    panics: u32,
    until: Instant,
}

impl Quarantine {
    /// Whether the object is left alone now.
    pub fn holds(&self, uid: &str) -> bool {
        self.0.get(uid).is_some_and(|aside| aside.until > Instant::now())
    }

    /// How many objects are left alone now.
    pub fn held(&self) -> usize {
        let now = Instant::now();
        self.0.values().filter(|aside| aside.until > now).count()
    }

    /// Sets an object aside that has just made the loop panic, and shows it: an error in the log, an
    /// Event on the object. Answers how long it is left alone: a minute, doubling to 1000 s.
    pub fn set_aside<C: Cluster>(
        &mut self,
        cluster: &C,
        about: ObjectReference,
        name: &'static str,
        panic: &str,
    ) -> Duration {
        let now = Instant::now();
        // Who has been quiet for this long begins anew, and objects that are gone are forgotten.
        self.0.retain(|_, aside| aside.until + retry::LONGEST_DELAY > now);
        let uid = about.uid.clone().unwrap_or_default();
        let aside = self.0.entry(uid).or_insert(Aside { panics: 0, until: now });
        aside.panics = aside.panics.saturating_add(1);
        let pause = retry::after_panics(aside.panics);
        aside.until = now + pause;
        let (kind, object) = (about.kind.as_deref(), about.name.as_deref());
        error!(name, kind, object, panic, ?pause, "object quarantined");
        cluster.note(Note::quarantined(about, name, panic, Some(pause)));
        pause
    }
}
