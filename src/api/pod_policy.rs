//! What a namespace and the daemon's operator allow of pods: the two keys. The decisions are
//! `admission/pod_security.rs` and `admission/second_key.rs`; here stands whom they are asked of.
//!
//! Kubernetes refuses pods and only warns of templates. A template is refused here too, when a commit
//! or a person writes it: the author of a commit must learn it from the commit. What the controllers
//! copy of a template is judged as pods, as in Kubernetes.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use tracing::info;

use crate::api::access::Identity;
use crate::api::admission::Admit;
use crate::api::admission::pod_security::{
    ENFORCE, Level, LevelVersion, Policy, Subject, Violation, policy, sentence, violations,
};
use crate::api::admission::second_key::{Missing, missing};
use crate::api::admission::supported::subject;
use crate::api::verbs::Api;
use crate::object::privilege::TO_ALLOW;
use crate::object::{ApiError, Key, Kind};
use crate::store::Store;

/// The labels of a namespace, as they are or as a commit makes them.
pub(crate) type NamespaceLabels = BTreeMap<String, String>;

impl<S: Store> Api<S> {
    /// Of a stored namespace; none where there is none.
    pub(crate) fn namespace_labels(&self, namespace: &str) -> NamespaceLabels {
        let record = self.store().get(Kind::Namespace, &Key::cluster(namespace));
        let pairs = record.iter().flat_map(|record| record.header.labels.iter());
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// # Errors
    /// `Forbidden` for a pod or template that its namespace's policy or the daemon does not allow, and
    /// for a volume that the daemon does not.
    pub(crate) fn enforce<K: Admit>(
        &self,
        who: &Identity,
        object: &K,
        labels: &NamespaceLabels,
    ) -> Result<(), ApiError> {
        if let Some(volume) = (object as &dyn Any).downcast_ref() {
            return self.enforce_volume(who, volume);
        }
        let Some(subject) = subject(object) else { return Ok(()) };
        if K::OBJECT_KIND != Kind::Pod && *who == Identity::Controllers {
            return Ok(());
        }
        let key = object.key();
        let (policy, _) = policy(labels);
        let found = violations(policy.enforce, &subject);
        let missing = missing(&self.options().privileges, &key.namespace, &subject);
        if found.is_empty() && missing.is_empty() {
            return Ok(());
        }
        let baseline = LevelVersion { level: Level::Baseline, ..policy.enforce };
        let is_strict = policy.enforce.level == Level::Restricted;
        let fits_baseline = is_strict && violations(baseline, &subject).is_empty();
        let weaker = if fits_baseline { "baseline" } else { "privileged" };
        let refusal = Refusal { namespace: &key.namespace, policy, found, missing, weaker };
        Err(ApiError::forbidden(K::OBJECT_KIND, &key.name, &refusal.sentence(), refusal.causes()))
    }

    /// As [`Api::enforce`] for what a stored object becomes, where its pod or template changed.
    ///
    /// # Errors
    /// As [`Api::enforce`].
    pub(crate) fn enforce_change<K: Admit>(
        &self,
        who: &Identity,
        object: &K,
        old: &K,
    ) -> Result<(), ApiError> {
        let is_volume = K::OBJECT_KIND == Kind::PersistentVolume;
        if !is_volume && subject(object).map(|new| new.spec) == subject(old).map(|old| old.spec) {
            return Ok(());
        }
        self.enforce(who, object, &self.namespace_labels(&object.key().namespace))
    }

    /// What is told of a pod or template that is taken all the same, as `Warning` headers.
    pub(crate) fn policy_warnings<K: Admit>(&self, object: &K, old: Option<&K>) -> Vec<String> {
        let Some(new) = subject(object) else { return Vec::new() };
        if old.and_then(subject).is_some_and(|old| old.spec == new.spec) {
            return Vec::new();
        }
        let (policy, _) = policy(&self.namespace_labels(&object.key().namespace));
        would_violate(policy, &new).1.into_iter().collect()
    }

    /// The log lines of a write that its namespace's other levels would not have.
    pub(crate) fn audit_policy<K: Admit>(
        &self,
        object: &K,
        old: Option<&K>,
        labels: &NamespaceLabels,
    ) {
        let Some(new) = subject(object) else { return };
        if old.and_then(subject).is_some_and(|old| old.spec == new.spec) {
            return;
        }
        let (audit, warning) = would_violate(policy(labels).0, &new);
        let (kind, key) = (K::OBJECT_KIND, object.key());
        if let Some(violation) = audit {
            info!(%kind, %key, violation, "an object is written against the audit policy");
        }
        if let Some(violation) = warning {
            info!(%kind, %key, violation, "an object is written that its namespace warns of");
        }
    }
}

/// What the audit and the warn level say, in Kubernetes' words.
fn would_violate(policy: Policy, subject: &Subject<'_>) -> (Option<String>, Option<String>) {
    let told = |asked| {
        let found = violations(asked, subject);
        (!found.is_empty()).then(|| sentence("would violate", asked, &found))
    };
    (told(policy.audit), told(policy.warn))
}

/// Why a pod or template is refused.
struct Refusal<'a> {
    namespace: &'a str,
    policy: Policy,
    found: Vec<Violation>,
    missing: Vec<Missing>,
    /// The strictest level that would take it.
    weaker: &'static str,
}

impl Refusal<'_> {
    /// All of it, Kubernetes' own words first.
    fn sentence(&self) -> String {
        let by_policy = (!self.found.is_empty())
            .then(|| sentence("violates", self.policy.enforce, &self.found));
        let whats: Vec<&str> = self.missing.iter().map(|missing| missing.what.as_str()).collect();
        let by_daemon = (!whats.is_empty()).then(|| self.daemon(&whats.join(", ")));
        let whys: Vec<String> = by_policy.into_iter().chain(by_daemon).collect();
        let label = (!self.found.is_empty()).then(|| self.label());
        let flags: BTreeSet<&str> =
            self.missing.iter().filter_map(|missing| missing.flag.as_deref()).collect();
        let flags = (!flags.is_empty())
            .then(|| start_with(&flags.into_iter().collect::<Vec<_>>().join(" ")));
        let hows: Vec<String> = label.into_iter().chain(flags).collect();
        // What nobody may has no way out: then none is told.
        let is_hopeless = self.missing.iter().any(|missing| missing.flag.is_none());
        match hows.join(", and ") {
            how if !how.is_empty() && !is_hopeless => format!("{}{TO_ALLOW}{how}", whys.join("; ")),
            _ => whys.join("; "),
        }
    }

    /// One a field, each with its own way out.
    fn causes(&self) -> Vec<StatusCause> {
        let by_policy = self.found.iter().map(|violation| {
            let why = sentence("violates", self.policy.enforce, std::slice::from_ref(violation));
            cause(&violation.field, format!("{why}{TO_ALLOW}{}", self.label()))
        });
        let by_daemon = self.missing.iter().map(|missing| {
            let why = self.daemon(&missing.what);
            let how = missing.flag.as_deref().map(|flag| format!("{TO_ALLOW}{}", start_with(flag)));
            cause(&missing.field, format!("{why}{}", how.unwrap_or_default()))
        });
        by_policy.chain(by_daemon).collect()
    }

    fn daemon(&self, what: &str) -> String {
        format!("the daemon does not allow namespace \"{}\" {what}", self.namespace)
    }

    /// The first key: a weaker level, where the fields stay as they are.
    fn label(&self) -> String {
        format!("label namespace {} {ENFORCE}: {} in Git", self.namespace, self.weaker)
    }
}

fn start_with(flags: &str) -> String {
    format!("start the daemon with {flags} (or allow: in its config file)")
}

fn cause(field: &str, message: String) -> StatusCause {
    StatusCause {
        field: Some(field.to_owned()),
        message: Some(message),
        reason: Some("FieldValueForbidden".to_owned()),
    }
}
