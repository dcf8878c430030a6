//! Pure: the ReplicaSet that a Deployment's template makes.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::Object;
use crate::object::template_hash::template_hash;
use crate::reconcile::deployment::fenceposts::Wanted;
use crate::reconcile::deployment::revision::{DESIRED, HASH_LABEL, MAX, annotation_changes};
use crate::reconcile::owner::controller_reference;

/// Named `<deployment>-<hash>`; the hash is also in its labels, its selector and its pods' labels, so
/// that two ReplicaSets of one Deployment never select each other's pods. `None` without a spec
/// (admission refuses such a Deployment).
pub fn new_replica_set(
    deployment: &Deployment,
    wanted: &Wanted,
    replicas: i32,
    revision: i64,
) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let hashed = |labels: Option<&BTreeMap<String, String>>| {
        let mut labels = labels.cloned().unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        labels
    };
    let mut template = spec.template.clone();
    let labels = hashed(template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()));
    template.metadata.get_or_insert_default().labels = Some(labels.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels = Some(hashed(selector.match_labels.as_ref()));
    let mut annotations = annotation_changes(deployment, None, revision);
    annotations.insert(DESIRED.to_owned(), wanted.replicas.to_string());
    annotations.insert(MAX.to_owned(), wanted.most().to_string());
    Some(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.key().name)),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    })
}
