//! Pure: the order in which a write is admitted. The verbs call these functions and store what
//! they answer; what needs the whole cluster (addresses, revisions, the namespace) stays with them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;

use super::admit::{Admit, Fault, Faults};
use super::lifecycle::{self, Birth};
use super::quantities;
use crate::object::{ApiError, Kind, Reason};

/// What the world gives a create: all of it drawn by the caller.
#[derive(Clone, Copy, Debug)]
pub struct CreateContext<'a> {
    /// The namespace of the request; empty for a cluster-scoped kind.
    pub namespace: &'a str,
    pub birth: Birth<'a>,
}

impl<'a> CreateContext<'a> {
    pub fn new(namespace: &'a str, uid: &'a str, suffix: &'a str, now: Timestamp) -> Self {
        Self { namespace, birth: Birth { uid, now, suffix } }
    }
}

/// A new object, ready for the store but for a Service's addresses
/// ([`super::addresses::assign`] comes after this).
///
/// # Errors
/// BadRequest for a namespace that is not the request's, a set resourceVersion or a bad quantity;
/// Invalid with every field at fault, those that this version does not run behind the others.
pub fn admit_create<K: Admit>(object: K, context: &CreateContext<'_>) -> Result<K, ApiError> {
    let (object, mut faults) = kubernetes_create(object, context)?;
    faults.extend(object.unsupported());
    refuse(&object, faults)?;
    Ok(object)
}

/// The first step of [`admit_create`] alone: what the reference server makes of the object, and
/// everything it finds wrong with it. Golden answers are compared with this.
///
/// # Errors
/// As [`admit_create`], but for Invalid.
pub fn kubernetes_create<K: Admit>(
    mut object: K,
    context: &CreateContext<'_>,
) -> Result<(K, Faults), ApiError> {
    read_quantities(&mut object)?;
    match_namespace(&mut object, context.namespace)?;
    let version = object.metadata().resource_version.as_deref().unwrap_or_default();
    if !version.is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    lifecycle::begin(object.metadata_mut(), K::OBJECT_KIND, &context.birth);
    object.prepare_create();
    object.fill_defaults();
    let faults = object.faults();
    Ok((object, faults))
}

/// An update or the result of a patch, against the stored object. The result may be equal to `old`:
/// then nothing need be written. Ask [`lifecycle::removed_by_update`] before storing it.
///
/// # Errors
/// As [`admit_create`]. Fields that this version does not run are refused only when the stored object
/// does not have them already: a later version must be able to let them go.
pub fn admit_update<K: Admit>(object: K, old: &K) -> Result<K, ApiError> {
    let (object, mut faults) = kubernetes_update(object, old)?;
    if object != *old {
        let before = old.unsupported();
        faults.extend(object.unsupported().into_iter().filter(|fault| !before.contains(fault)));
    }
    refuse(&object, faults)?;
    Ok(object)
}

/// The first step of [`admit_update`] alone.
///
/// # Errors
/// As [`admit_update`], but for Invalid.
pub fn kubernetes_update<K: Admit>(mut object: K, old: &K) -> Result<(K, Faults), ApiError> {
    read_quantities(&mut object)?;
    match_uid(&object, old)?;
    let namespace = old.metadata().namespace.clone().unwrap_or_default();
    match_namespace(&mut object, &namespace)?;
    lifecycle::carry_over(object.metadata_mut(), old.metadata());
    object.prepare_update(old);
    object.fill_defaults();
    bump_generation(&mut object, old);
    let mut faults = lifecycle::update_faults(object.metadata(), old.metadata());
    faults.extend(object.update_faults(old));
    Ok((object, faults))
}

/// A write of the status subresource: everything else stays as stored.
///
/// # Errors
/// BadRequest for a bad quantity.
pub fn admit_status_update<K: Admit>(mut object: K, old: &K) -> Result<K, ApiError> {
    object.prepare_status_update(old);
    // Of all statuses only a Node's has quantities and defaults of its own; this is the write that
    // every pod makes several times, so nothing else is walked.
    if K::OBJECT_KIND == Kind::Node {
        read_quantities(&mut object)?;
        object.fill_defaults();
    }
    object.metadata_mut().resource_version.clone_from(&old.metadata().resource_version);
    Ok(object)
}

/// Every fault as the one error a client sees.
///
/// # Errors
/// When there is a fault.
pub fn refuse<K: Admit>(object: &K, faults: Faults) -> Result<(), ApiError> {
    if faults.is_empty() {
        return Ok(());
    }
    let name = object.metadata().name.as_deref().unwrap_or_default();
    let causes: Vec<StatusCause> = faults.iter().map(Fault::to_cause).collect();
    Err(ApiError::invalid(K::OBJECT_KIND, name, causes))
}

/// One more where the part that it counts differs.
pub fn bump_generation<K: Admit>(object: &mut K, old: &K) {
    if lifecycle::has_generation(K::OBJECT_KIND) && object.generation_differs(old) {
        let generation = old.metadata().generation.unwrap_or(0) + 1;
        object.metadata_mut().generation = Some(generation);
    }
}

/// A uid in an update is a precondition: the name may have been taken again.
fn match_uid<K: Admit>(object: &K, old: &K) -> Result<(), ApiError> {
    let (said, stored) = (object.uid(), old.uid());
    if said.is_empty() || said == stored {
        return Ok(());
    }
    let message = format!(
        "Operation cannot be fulfilled on {} \"{}\": Precondition failed: UID in precondition: {said}, UID in object meta: {stored}",
        K::OBJECT_KIND.qualified_resource(),
        old.metadata().name.as_deref().unwrap_or_default()
    );
    Err(ApiError::new(Reason::Conflict, message))
}

fn match_namespace<K: Admit>(object: &mut K, namespace: &str) -> Result<(), ApiError> {
    let meta = object.metadata_mut();
    if !K::OBJECT_KIND.row().namespaced {
        meta.namespace = None;
        return Ok(());
    }
    match meta.namespace.as_deref().unwrap_or_default() {
        "" => meta.namespace = Some(namespace.to_owned()),
        own if own == namespace => {}
        _ => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// Typed objects of rooms come without decoding: their quantities are read here.
/// Brings every quantity into its canonical form.
///
/// # Errors
/// BadRequest for one that is none.
pub fn read_quantities<K: Admit>(object: &mut K) -> Result<(), ApiError> {
    quantities::check(object).map_err(|sentence| {
        let row = K::OBJECT_KIND.row();
        ApiError::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: {sentence}",
            row.name, row.version
        ))
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use serde_json::json;

    use super::*;

    fn context<'a>() -> CreateContext<'a> {
        CreateContext::new("default", "uid-1", "abcde", "2026-01-01T00:00:00Z".parse().unwrap())
    }

    fn deployment() -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}))
        .unwrap()
    }

    #[test]
    fn a_write_of_the_same_is_no_write_and_a_change_is_a_generation() {
        let stored = admit_create(deployment(), &context()).unwrap();
        assert_eq!(stored.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(admit_update(deployment(), &stored).unwrap(), stored);
        let mut scaled = deployment();
        scaled.spec.as_mut().unwrap().replicas = Some(3);
        let scaled = admit_update(scaled, &stored).unwrap();
        assert_eq!(scaled.metadata.generation, Some(2));
        let mut status = scaled.clone();
        status.status.as_mut().unwrap().replicas = Some(2);
        status.spec = None;
        let status = admit_status_update(status, &scaled).unwrap();
        assert_eq!((&status.spec, status.metadata.generation), (&scaled.spec, Some(2)));
        assert_eq!(status.status.unwrap().replicas, Some(2));
    }

    #[test]
    fn requests_that_contradict_themselves_are_bad() {
        let elsewhere: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": "m", "namespace": "other"}}))
                .unwrap();
        let error = admit_create(elsewhere, &context()).unwrap_err();
        assert_eq!(error.reason.code(), 400);
        let stored: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": "m", "resourceVersion": "1"}}))
                .unwrap();
        assert_eq!(admit_create(stored, &context()).unwrap_err().reason.code(), 400);
        let nameless: Pod =
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}))
                .unwrap();
        let error = admit_create(nameless, &context()).unwrap_err();
        assert_eq!(
            error.message,
            "Pod \"\" is invalid: metadata.name: Required value: name or generateName is required"
        );
    }
}
