//! What has to be alive for an object to enter the store, as preconditions of the same transaction:
//! its namespace, and its controller.
//!
//! A controller decides from a cache that is behind. Without the second precondition it would make
//! children of an owner that is deleted already, and adopt orphans for it: the garbage collector
//! would then delete what was meant to stay. Kubernetes reads the owner again before it adopts, which
//! leaves a gap, and creates without asking; here the write itself is refused.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, StatusCause, StatusDetails};

use crate::api::access::Identity;
use crate::api::admission::Admit;
use crate::api::verbs::Api;
use crate::api::write::SYSTEM_NAMESPACES;
use crate::api::write_options::WriteOptions;
use crate::object::owner::{controller_of, kind_of, place_of};
use crate::object::{ApiError, Key, Kind, Object, Reason};
use crate::store::{Expect, Store, Write};

impl<S: Store> Api<S> {
    /// The precondition that the object's namespace exists and is not ending, for the same
    /// transaction; none for a cluster-scoped object. A dry run makes no system namespace: it would
    /// be there.
    pub(crate) async fn living_namespace<K: Admit>(
        &self,
        key: &Key,
        dry_run: bool,
    ) -> Result<Option<Write>, ApiError> {
        let kind = K::OBJECT_KIND;
        if !kind.row().namespaced {
            return Ok(None);
        }
        let name = &key.namespace;
        if name.is_empty() {
            return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
        }
        let namespace = Key::cluster(name.as_str());
        let found = match self.store().get(Kind::Namespace, &namespace) {
            None if SYSTEM_NAMESPACES.contains(&name.as_str()) => {
                if dry_run {
                    return Ok(None);
                }
                let mut new = Namespace::default();
                new.metadata.name = Some(name.clone());
                let options = WriteOptions::default();
                match Box::pin(self.create(&Identity::Admin, &new, &options)).await {
                    Err(error) if !error.is_already_exists() => return Err(error),
                    _ => self.store().get(Kind::Namespace, &namespace),
                }
            }
            found => found,
        };
        let record = found.ok_or_else(|| ApiError::not_found(Kind::Namespace, name))?;
        if record.header.deleting {
            return Err(terminating(kind, key));
        }
        Ok(Some(Write::Check {
            kind: Kind::Namespace,
            key: namespace,
            expect: Expect::Revision(record.revision),
        }))
    }

    /// The precondition that the controller which an object gets (with `old`: one that it did not
    /// have) is there, in this incarnation, and not being deleted, for the same transaction; none
    /// where nobody controls it, or somebody of a kind that this cluster does not have.
    ///
    /// # Errors
    /// `Conflict`: the caller's view of the controller is behind.
    pub(crate) fn living_controller<K: Object>(
        &self,
        new: &K,
        old: Option<&K>,
    ) -> Result<Option<Write>, ApiError> {
        let Some(controller) = controller_of(new.metadata()) else { return Ok(None) };
        let before = old.and_then(|old| controller_of(old.metadata()));
        if before.is_some_and(|before| before.uid == controller.uid) {
            return Ok(None);
        }
        let namespace = new.metadata().namespace.as_deref().unwrap_or_default();
        let place = kind_of(controller)
            .and_then(|kind| Some((kind, place_of(kind, controller, namespace)?)));
        let Some((kind, key)) = place else { return Ok(None) };
        let found = self.store().get(kind, &key);
        let alive =
            found.filter(|owner| owner.header.uid == controller.uid && !owner.header.deleting);
        let owner = alive.ok_or_else(|| not_controlled(new, controller))?;
        Ok(Some(Write::Check { kind, key, expect: Expect::Revision(owner.revision) }))
    }
}

fn not_controlled<K: Object>(object: &K, controller: &OwnerReference) -> ApiError {
    let meta = object.metadata();
    let name = meta.name.as_deref().or(meta.generate_name.as_deref()).unwrap_or_default();
    let mut error = ApiError::conflict(K::OBJECT_KIND, name);
    error.message = format!(
        "Operation cannot be fulfilled on {} \"{name}\": its controller, {} \"{}\" with uid {}, is gone or being deleted; read the controller again",
        K::OBJECT_KIND.qualified_resource(),
        controller.kind,
        controller.name,
        controller.uid
    );
    error
}

fn terminating(kind: Kind, key: &Key) -> ApiError {
    let namespace = &key.namespace;
    let row = kind.row();
    let mut error = ApiError::new(
        Reason::Forbidden,
        format!(
            "{} \"{}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
            kind.qualified_resource(),
            key.name
        ),
    );
    error.details = Some(Box::new(StatusDetails {
        name: Some(key.name.clone()),
        group: (!row.group.is_empty()).then(|| row.group.to_owned()),
        kind: Some(row.plural.to_owned()),
        causes: Some(vec![StatusCause {
            reason: Some("NamespaceTerminating".to_owned()),
            message: Some(format!("namespace {namespace} is being terminated")),
            field: Some("metadata.namespace".to_owned()),
        }]),
        ..StatusDetails::default()
    }));
    error
}
