//! Pure: whether a workload, claim or volume of a commit has arrived. `None` is yes; otherwise one sentence that says
//! what is still missing, from the status that its controller wrote.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

use crate::object::{Object, condition, counted};

/// A Deployment has arrived when its controller has seen this generation, every replica is of the
/// new template and available, and no old one is left (`kubectl rollout status`' rule).
pub fn deployment(object: &Deployment) -> Option<String> {
    let title = format!("Deployment {}", object.key());
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    if object.metadata.deletion_timestamp.is_some() {
        return Some(format!("{title} is being deleted"));
    }
    if status.observed_generation.unwrap_or(0) < object.metadata.generation.unwrap_or(0) {
        return Some(format!("{title} waits for its controller"));
    }
    let wanted = spec.replicas.unwrap_or(1);
    let (updated, all) = (status.updated_replicas.unwrap_or(0), status.replicas.unwrap_or(0));
    let available = status.available_replicas.unwrap_or(0);
    let sentence = if updated < wanted {
        let paused = if spec.paused == Some(true) { " (paused)" } else { "" };
        format!("{title}: {updated} of {wanted} replicas updated{paused}")
    } else if all > updated {
        let old = usize::try_from(all - updated).unwrap_or_default();
        format!("{title}: {} not yet gone", counted(old, "old replica"))
    } else if available < wanted {
        format!("{title}: {available} of {wanted} replicas available")
    } else {
        return None;
    };
    let conditions = status.conditions.unwrap_or_default();
    let why = condition::find(&conditions, "Progressing")
        .filter(|condition| condition.status == "False")
        .or_else(|| condition::find(&conditions, "ReplicaFailure"))
        .and_then(|condition| condition.message.clone());
    Some(match why {
        Some(why) => format!("{sentence}: {why}"),
        None => sentence,
    })
}

/// A ReplicaSet that a commit names itself.
pub fn replica_set(object: &ReplicaSet) -> Option<String> {
    let title = format!("ReplicaSet {}", object.key());
    let wanted = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = object.status.clone().unwrap_or_default();
    let available = status.available_replicas.unwrap_or(0);
    if object.metadata.deletion_timestamp.is_some() {
        Some(format!("{title} is being deleted"))
    } else if status.observed_generation.unwrap_or(0) < object.metadata.generation.unwrap_or(0) {
        Some(format!("{title} waits for its controller"))
    } else if available < wanted {
        Some(format!("{title}: {available} of {wanted} replicas available"))
    } else if status.replicas > wanted {
        Some(format!("{title}: {} replicas too many", status.replicas - wanted))
    } else {
        None
    }
}

/// A pod that a commit names itself: ready, or done.
pub fn pod(object: &Pod) -> Option<String> {
    let title = format!("Pod {}", object.key());
    let status = object.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    if object.metadata.deletion_timestamp.is_some() {
        return Some(format!("{title} is being deleted"));
    }
    let conditions = status.conditions.unwrap_or_default();
    if phase == "Succeeded" || condition::is_true(&conditions, "Ready") {
        return None;
    }
    let why = condition::find(&conditions, "PodScheduled")
        .filter(|condition| condition.status == "False")
        .or_else(|| condition::find(&conditions, "Ready"))
        .and_then(|condition| condition.message.clone());
    let phase = if phase.is_empty() { "Pending".to_owned() } else { phase };
    Some(match why {
        Some(why) => format!("{title} is {phase}, not ready: {why}"),
        None => format!("{title} is {phase}, not ready"),
    })
}

/// A claim has arrived also while it is Pending: it may wait for its first consumer, which says itself
/// what it waits for. One that has lost its volume has lost what was on it.
pub fn claim(object: &PersistentVolumeClaim) -> Option<String> {
    let title = format!("PersistentVolumeClaim {}", object.key());
    if object.metadata.deletion_timestamp.is_some() {
        return Some(format!("{title} is being deleted"));
    }
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    (phase == Some("Lost")).then(|| format!("{title} is Lost: its volume is gone or another's"))
}

/// A volume that could not be removed after its claim says why.
pub fn volume(object: &PersistentVolume) -> Option<String> {
    let title = format!("PersistentVolume {}", object.key());
    if object.metadata.deletion_timestamp.is_some() {
        return Some(format!("{title} is being deleted"));
    }
    let status = object.status.as_ref().filter(|own| own.phase.as_deref() == Some("Failed"))?;
    let why = status.message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    Some(format!("{title} is Failed{why}"))
}

/// Pods that are ready, of those that are wanted. While a Deployment rolls, old ones count as ready:
/// they serve; the sentence beside it says what is still missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    pub ready: i32,
    pub wanted: i32,
}

pub fn pods_of_deployment(object: &Deployment) -> Pods {
    let wanted = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = object.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    Pods { ready: ready.min(wanted), wanted }
}

pub fn pods_of_replica_set(object: &ReplicaSet) -> Pods {
    let wanted = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = object.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    Pods { ready: ready.min(wanted), wanted }
}

pub fn pods_of_pod(object: &Pod) -> Pods {
    Pods { ready: i32::from(pod(object).is_none()), wanted: 1 }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::serde_json::{Value, from_value, json};

    use super::*;

    fn waits(spec: Value, status: Value) -> Option<String> {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "web", "generation": 2},
            "spec": spec, "status": status});
        deployment(&from_value(object).expect("a deployment"))
    }

    #[test]
    fn a_deployment_arrives_with_its_last_old_replica() {
        let spec = json!({"replicas": 2, "selector": {}, "template": {}});
        let rows = [
            (json!({}), Some("Deployment web/a waits for its controller")),
            (
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1}),
                Some("Deployment web/a: 1 of 2 replicas updated"),
            ),
            (
                json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 3}),
                Some("Deployment web/a: 1 old replica not yet gone"),
            ),
            (
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}),
                Some("Deployment web/a: 1 of 2 replicas available"),
            ),
            (
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}),
                None,
            ),
        ];
        for (status, expected) in rows {
            assert_eq!(waits(spec.clone(), status).as_deref(), expected);
        }
        let zero = json!({"replicas": 0, "selector": {}, "template": {}});
        assert_eq!(waits(zero, json!({"observedGeneration": 2})), None);
    }

    #[test]
    fn a_claim_may_wait_and_is_not_lost() {
        let says = |phase: &str| {
            let object =
                json!({"metadata": {"name": "c", "namespace": "a"}, "status": {"phase": phase}});
            claim(&from_value(object).expect("a claim"))
        };
        assert_eq!((says("Pending"), says("Bound")), (None, None));
        let lost = "PersistentVolumeClaim a/c is Lost: its volume is gone or another's";
        assert_eq!(says("Lost").as_deref(), Some(lost));
        let failed = json!({"metadata": {"name": "v"},
            "status": {"phase": "Failed", "message": "the folder is busy"}});
        assert_eq!(
            volume(&from_value(failed).expect("a volume")).as_deref(),
            Some("PersistentVolume v is Failed: the folder is busy")
        );
    }

    #[test]
    fn old_pods_that_serve_count_up_to_what_is_wanted() {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
            "spec": {"replicas": 3, "selector": {}, "template": {}}, "status": {"readyReplicas": 4}});
        let object: Deployment = from_value(object).expect("a deployment");
        assert_eq!(pods_of_deployment(&object), Pods { ready: 3, wanted: 3 });
        assert_eq!(pods_of_deployment(&Deployment::default()), Pods { ready: 0, wanted: 1 });
    }

    #[test]
    fn a_pod_is_ready_or_says_why_not() {
        let waits = |status: Value| {
            let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": status});
            pod(&from_value(object).expect("a pod"))
        };
        assert_eq!(waits(json!({})).as_deref(), Some("Pod a is Pending, not ready"));
        let unscheduled = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]});
        assert_eq!(
            waits(unscheduled).as_deref(),
            Some("Pod a is Pending, not ready: 0/1 nodes are available")
        );
        assert_eq!(
            waits(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})),
            None
        );
        assert_eq!(waits(json!({"phase": "Succeeded"})), None);
    }
}
