//! Writes what was chosen for claims, and takes it back.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use crate::object::storage::SELECTED_NODE;
use crate::object::{ApiError, Cluster, Object, Patch};
use crate::reconcile::persistent_volume::claim_plan::held;
use crate::reconcile::scheduler::storage::{Assignment, Choice};

/// Each claim gets its volume, guarded by the volume's revision, or its node, guarded by the claim's
/// uid. What was written before a failure stays: it is seen when the pod is tried again.
///
/// # Errors
/// The first write that fails.
pub async fn assign<C: Cluster>(cluster: &C, assignments: &[Assignment]) -> Result<(), ApiError> {
    for assignment in assignments {
        let claim = &assignment.claim;
        match (&assignment.what, &assignment.volume) {
            (Choice::Volume(_), Some(volume)) => {
                cluster.update(&held(claim, volume)).await?;
            }
            (Choice::Volume(_), None) => {}
            (Choice::Node(node), _) => select(cluster, claim, json!(node)).await?,
        }
    }
    Ok(())
}

/// The node makes no volume for these: another may be chosen.
///
/// # Errors
/// The first write that fails.
pub async fn give_up<C: Cluster>(
    cluster: &C,
    claims: &[Arc<PersistentVolumeClaim>],
) -> Result<(), ApiError> {
    for claim in claims {
        match select(cluster, claim, Value::Null).await {
            Err(error) if error.is_not_found() => {}
            written => written?,
        }
    }
    Ok(())
}

async fn select<C: Cluster>(
    cluster: &C,
    claim: &PersistentVolumeClaim,
    node: Value,
) -> Result<(), ApiError> {
    let patch = json!({"metadata": {"uid": claim.uid(), "annotations": {SELECTED_NODE: node}}});
    cluster.patch::<PersistentVolumeClaim>(&claim.key(), &Patch::Merge(patch)).await.map(drop)
}
