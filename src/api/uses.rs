//! Every use of an operator's rights is an Event about what it was used on; the audit log has its
//! line too (`gate/audit.rs`).

use std::any::Any;
use std::collections::BTreeSet;

use axum::http::request::Parts;
use k8s_openapi::api::core::v1::{EphemeralContainer, Namespace, ObjectReference, Pod, Secret};

use crate::api::access::Part;
use crate::api::admission::Admit;
use crate::api::gate::Session;
use crate::api::request::Target;
use crate::api::verbs::Api;
use crate::object::{Key, Kind, Note, Severity, reference};
use crate::store::{ListRequest, Store};

impl<S: Store> Api<S> {
    /// Records that somebody used an operator's rights. What streams into a container calls it
    /// before the stream begins, with the pod and with what is done to which container.
    pub fn note_use(&self, session: &Session, part: Part, about: ObjectReference, what: &str) {
        let reason = match part {
            Part::Exec => "Exec",
            Part::Attach => "Attach",
            Part::PortForward => "PortForward",
            Part::EphemeralContainers => "Debug",
            _ => "SecretRead",
        };
        let message = format!("{} {what}, from {}", session.who.name(), session.from.ip());
        let (severity, component) = (Severity::Normal, "api");
        self.events().note(Note { about, severity, reason, message, component });
    }

    /// After a write, of what is no ephemeral container too: who put which into a pod.
    pub(crate) fn note_ephemeral_containers<K: Admit>(
        &self,
        (parts, dry_run): (&Parts, bool),
        part: Part,
        old: Option<&K>,
        new: &K,
    ) {
        let session = parts.extensions.get::<Session>();
        let Some(session) = session.filter(|_| part.is_beside_git() && !dry_run) else { return };
        let list = |object: &K| -> Vec<EphemeralContainer> {
            let pod = (object as &dyn Any).downcast_ref::<Pod>();
            let spec = pod.and_then(|pod| pod.spec.as_ref());
            spec.and_then(|spec| spec.ephemeral_containers.clone()).unwrap_or_default()
        };
        let known = old.map(list).unwrap_or_default();
        for one in list(new).iter().filter(|one| known.iter().all(|old| old.name != one.name)) {
            let image = one.image.as_deref().unwrap_or_default();
            let mut what = format!("added ephemeral container {} of image {image:?}", one.name);
            if let Some(target) = &one.target_container_name {
                what.push_str(&format!(" beside the processes of container {target}"));
            }
            self.note_use(session, Part::EphemeralContainers, reference(new), &what);
        }
    }

    /// After a read of Secrets in clear: about the Secret, or about each namespace whose Secrets
    /// were listed or are watched.
    pub(crate) fn note_secrets_read(&self, session: &Session, target: &Target) {
        match target {
            Target::Object { key, .. } => {
                let Some(record) = self.store().get(Kind::Secret, key) else { return };
                let Ok(secret) = self.typed::<Secret>(&record) else { return };
                let what = "read the Secret in clear";
                self.note_use(session, Part::Whole, reference(&*secret), what);
            }
            Target::Collection { namespace, .. } => {
                for name in self.namespaces_with_secrets(namespace.as_deref()) {
                    let key = Key::cluster(name);
                    let Some(record) = self.store().get(Kind::Namespace, &key) else { continue };
                    let Ok(namespace) = self.typed::<Namespace>(&record) else { continue };
                    let what = "read the Secrets of the namespace in clear";
                    self.note_use(session, Part::Whole, reference(&*namespace), what);
                }
            }
            Target::Unknown => {}
        }
    }

    fn namespaces_with_secrets(&self, namespace: Option<&str>) -> BTreeSet<String> {
        let request = ListRequest { namespace, limit: 0, after: None, at: None, select: &|_| true };
        let page = self.store().list(Kind::Secret, &request).map(|page| page.items);
        let items = page.unwrap_or_default();
        items.iter().map(|record| record.key.namespace.clone()).collect()
    }
}
