//! Pure: which bounds on a pod's disk the node holds, and how a pod that broke one is told.
//!
//! The kubelet's words and numbers (`pkg/kubelet/eviction/eviction_manager.go`, local storage): the
//! pod ends as Failed with the reason Evicted, its containers within a second, and whoever owns it
//! makes another. What was decided stands in the pod's status, so a restart of the daemon in between
//! changes nothing.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use crate::node::pod_status::time;
use crate::object::condition;
use crate::object::quantity::Quantity;

/// Status and Event.
pub const EVICTED: &str = "Evicted";
/// The kubelet's `immediateEvictionGracePeriodSeconds`.
pub const GRACE_SECONDS: i64 = 1;

/// An emptyDir with a `sizeLimit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub volume: String,
    pub bytes: u64,
    /// As the manifest has it.
    pub written: String,
}

impl Bound {
    /// The kubelet's sentence, with its space at the end.
    pub fn sentence(&self) -> String {
        let Self { volume, written, .. } = self;
        format!("Usage of EmptyDir volume \"{volume}\" exceeds the limit \"{written}\". ")
    }
}

/// The bounds of a pod that runs; none of one that is over or goes.
pub fn bounds(pod: &Pod) -> Vec<Bound> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    if over || pod.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let bound = volumes.filter_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let bytes = Quantity::parse(&limit.0).ok()?.units();
        // Of 0 the kubelet makes no bound either.
        let bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)?;
        Some(Bound { volume: volume.name.clone(), bytes, written: limit.0.clone() })
    });
    bound.collect()
}

/// Whether the node ended this pod: its containers have no grace of their own then.
pub fn is_evicted(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_some_and(|status| {
        status.phase.as_deref() == Some("Failed") && status.reason.as_deref() == Some(EVICTED)
    })
}

/// The status by which it is evicted.
pub fn evicted_status(pod: &Pod, message: &str, now: Timestamp) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    status.phase = Some("Failed".to_owned());
    status.reason = Some(EVICTED.to_owned());
    status.message = Some(message.to_owned());
    let target = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("TerminationByKubelet".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(time(now)),
        ..PodCondition::default()
    };
    condition::set(status.conditions.get_or_insert_default(), target);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::instance::Role;
    use crate::node::pod_plan::tests::{at, instance, pod, told, with_image};
    use serde_json::json;

    #[test]
    fn bounds_are_those_of_a_pod_that_runs() {
        let volumes = json!({"spec": {"volumes": [
            {"name": "a", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "b", "emptyDir": {}},
            {"name": "c", "emptyDir": {"sizeLimit": "0"}},
            {"name": "d", "emptyDir": {"sizeLimit": "1k", "medium": "Memory"}}]}});
        let mut one = pod(volumes);
        let told: Vec<String> = bounds(&one).iter().map(Bound::sentence).collect();
        assert_eq!(
            told,
            [
                "Usage of EmptyDir volume \"a\" exceeds the limit \"1Mi\". ",
                "Usage of EmptyDir volume \"d\" exceeds the limit \"1k\". ",
            ]
        );
        assert_eq!(bounds(&one)[0].bytes, 1 << 20);
        one.status = Some(evicted_status(&one, "full. ", at(0)));
        assert!(bounds(&one).is_empty());
    }

    #[test]
    fn an_evicted_pod_ends_within_a_second_and_starts_nothing() {
        let mut pod = pod(json!({"spec": {"terminationGracePeriodSeconds": 600}}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let web = instance(&pod, Role::Container, "web", 0);
        pod.status = Some(evicted_status(&pod, "full. ", at(0)));
        assert!(is_evicted(&pod));
        let plan = told(&pod, &[sandbox, web], &with_image(), 1);
        assert!(plan.contains("Stop { id: \"web-0\", container: \"web\", grace_seconds: 1 }"));
        assert!(!plan.contains("Make"), "{plan}");
    }
}
