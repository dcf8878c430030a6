//! Pure: the pod that a ReplicaSet's template makes.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::Object;
use crate::reconcile::owner::controller_reference;

/// Named by the API: `<replica set>-` and five random characters. `None` without a template
/// (admission refuses such a ReplicaSet).
pub fn pod_of(replica_set: &ReplicaSet) -> Option<Pod> {
    let template = replica_set.spec.as_ref()?.template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", replica_set.key().name)),
            namespace: replica_set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(replica_set)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone().unwrap_or_default()),
        status: None,
    })
}
