//! From a typed object to what the store takes: the header it indexes by, and the JSON text with
//! the place for the revision. Serialised once; no JSON value in between.

use std::any::Any;
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, Secret, Service};

use crate::api::admission::{Admit, addresses};
use crate::object::drift::{Drift, Layer, Phase};
use crate::object::json_text::member;
use crate::object::{ApiError, Object};
use crate::store::{Draft, Header, Pairs};

/// What the store must know of an object.
pub fn header_of<K: Admit>(object: &K) -> Header {
    let meta = object.metadata();
    Header {
        uid: meta.uid.clone().unwrap_or_default(),
        labels: meta.labels.as_ref().map(Pairs::from).unwrap_or_default(),
        fields: fields_of(object),
        owners: meta.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect(),
        deleting: meta.deletion_timestamp.is_some(),
        claims: addresses::claims(object),
    }
}

/// The selectable fields that are not empty; the kind table names all of them.
fn fields_of<K: Object>(object: &K) -> Pairs {
    let any: &dyn Any = object;
    let mut fields = BTreeMap::new();
    let mut put = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            fields.insert(name.to_owned(), value.to_owned());
        }
    };
    if let Some(pod) = any.downcast_ref::<Pod>() {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        put("spec.nodeName", spec.and_then(|spec| spec.node_name.as_deref()));
        put("spec.restartPolicy", spec.and_then(|spec| spec.restart_policy.as_deref()));
        put("spec.schedulerName", spec.and_then(|spec| spec.scheduler_name.as_deref()));
        put("spec.serviceAccountName", spec.and_then(|spec| spec.service_account_name.as_deref()));
        let host = spec.and_then(|spec| spec.host_network).unwrap_or(false);
        put("spec.hostNetwork", Some(if host { "true" } else { "false" }));
        put("status.phase", status.and_then(|status| status.phase.as_deref()));
        let pod_ip = status.and_then(|status| status.pod_ip.as_deref());
        put("status.podIP", pod_ip);
        put("status.podIPs", pod_ip);
        put(
            "status.nominatedNodeName",
            status.and_then(|status| status.nominated_node_name.as_deref()),
        );
    } else if let Some(namespace) = any.downcast_ref::<Namespace>() {
        put("status.phase", namespace.status.as_ref().and_then(|status| status.phase.as_deref()));
    } else if let Some(node) = any.downcast_ref::<Node>() {
        let off = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        put("spec.unschedulable", Some(if off { "true" } else { "false" }));
    } else if let Some(secret) = any.downcast_ref::<Secret>() {
        put("type", secret.type_.as_deref());
    } else if let Some(service) = any.downcast_ref::<Service>() {
        let spec = service.spec.as_ref();
        put("spec.clusterIP", spec.and_then(|spec| spec.cluster_ip.as_deref()));
        put("spec.type", spec.and_then(|spec| spec.type_.as_deref()));
    } else if let Some(event) = any.downcast_ref::<Event>() {
        let about = &event.involved_object;
        put("involvedObject.kind", about.kind.as_deref());
        put("involvedObject.namespace", about.namespace.as_deref());
        put("involvedObject.name", about.name.as_deref());
        put("involvedObject.uid", about.uid.as_deref());
        put("involvedObject.apiVersion", about.api_version.as_deref());
        put("involvedObject.resourceVersion", about.resource_version.as_deref());
        put("involvedObject.fieldPath", about.field_path.as_deref());
        put("reason", event.reason.as_deref());
        put("reportingComponent", event.reporting_component.as_deref());
        let source = event.source.as_ref().and_then(|source| source.component.as_deref());
        put("source", source.or(event.reporting_component.as_deref()));
        put("type", event.type_.as_deref());
    } else if let Some(set) = any.downcast_ref::<ReplicaSet>() {
        let replicas = set.status.as_ref().map_or(0, |status| status.replicas);
        put("status.replicas", Some(&replicas.to_string()));
    } else if let Some(drift) = any.downcast_ref::<Drift>() {
        put(
            "spec.layer",
            Some(match drift.spec.layer {
                Layer::Object => "object",
                Layer::Container => "container",
                Layer::Network => "network",
            }),
        );
        put("spec.class", Some(&format!("{:?}", drift.spec.class)));
        put(
            "status.phase",
            drift.status.as_ref().map(|status| match status.phase {
                Phase::Open => "Open",
                Phase::Closed => "Closed",
            }),
        );
    }
    Pairs::from(&fields)
}

/// The object as JSON text with an empty `metadata.resourceVersion`, and where it stands.
///
/// # Errors
/// `InternalError` where the object does not serialise, which none of our kinds does.
pub fn draft_of<K: Object>(object: &mut K) -> Result<Draft, ApiError> {
    object.metadata_mut().resource_version = Some(String::new());
    let json = serde_json::to_vec(object)
        .map_err(|error| ApiError::internal(format!("the object does not serialise: {error}")))?;
    let revision_at = revision_place(&json)
        .ok_or_else(|| ApiError::internal("the object serialises without a resourceVersion"))?;
    Ok(Draft { json, revision_at })
}

/// The byte between the quotes of the top level's `metadata.resourceVersion`. A search for the
/// text would do only until somebody writes it into an annotation; this walks the JSON.
fn revision_place(json: &[u8]) -> Option<usize> {
    let metadata = member(json, 0, b"metadata")?;
    let value = member(json, metadata, b"resourceVersion")?;
    (json.get(value) == Some(&b'"') && json.get(value + 1) == Some(&b'"')).then_some(value + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_the_metadatas_own_whatever_the_object_says() {
        let mut event = Event::default();
        event.metadata.name = Some("e".to_owned());
        event.involved_object.resource_version = Some(String::new());
        event.metadata.annotations = Some(BTreeMap::from([
            ("resourceVersion".to_owned(), String::new()),
            ("a\"\\".to_owned(), "{\"metadata\":{\"resourceVersion\":\"\"".to_owned()),
        ]));
        event.message = Some("[{,:\"".to_owned());
        let draft = draft_of(&mut event).expect("serialises");
        let mut json = draft.json.clone();
        json.splice(draft.revision_at..draft.revision_at, *b"42");
        let back: Event = serde_json::from_slice(&json).expect("still JSON");
        assert_eq!(back.metadata.resource_version.as_deref(), Some("42"));
        event.metadata.resource_version = Some("42".to_owned());
        assert_eq!(back, event);
    }

    #[test]
    fn every_kind_has_a_place() {
        for kind in crate::object::Kind::all() {
            crate::with_kind!(kind, K => {
                let mut object: K = sample::<K>();
                let draft = draft_of(&mut object).expect("every kind serialises");
                assert_eq!(&draft.json[draft.revision_at - 1..=draft.revision_at], b"\"\"");
            });
        }
    }

    fn sample<K: Object + Default>() -> K {
        K::default()
    }
}
