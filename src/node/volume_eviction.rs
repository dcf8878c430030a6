//! Pure: which bounds on a pod's disk the node holds, and how a pod that broke one is told.
//!
//! The kubelet's words and numbers (`pkg/kubelet/eviction/eviction_manager.go`, local storage): the
//! pod ends as Failed with the reason Evicted, its containers within a second, and whoever owns it
//! makes another. What was decided stands in the pod's status, so a restart of the daemon in between
//! changes nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodStatus};

use crate::node::pod_status::time;
use crate::node::sidecar::{is_sidecar, lasting};
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

/// What a pod's containers may write beside its volumes, `limits.ephemeral-storage`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskLimits {
    /// Of the whole pod: bytes, and as it is told.
    all: Option<(u64, String)>,
    /// By container.
    containers: BTreeMap<String, (u64, String)>,
}

impl DiskLimits {
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.containers.is_empty()
    }

    /// The kubelet's sentence of the first limit that is passed: the pod's before a container's, as it
    /// looks. `used` are the bytes of each container's layer and log, `shared` those of the pod's
    /// own directory.
    pub fn passed(&self, used: &BTreeMap<String, u64>, shared: u64) -> Option<String> {
        let all = used.values().fold(shared, |sum, bytes| sum.saturating_add(*bytes));
        if let Some((limit, written)) = &self.all
            && all > *limit
        {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {written}. "
            ));
        }
        self.containers.iter().find_map(|(name, (limit, written))| {
            let passes = used.get(name).is_some_and(|bytes| bytes > limit);
            passes.then(|| {
                format!(
                    "Container {name} exceeded its local ephemeral storage limit \"{written}\". "
                )
            })
        })
    }
}

fn disk_limit(container: &Container) -> Option<Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    Quantity::parse(&limits.get("ephemeral-storage")?.0).ok()
}

/// The limits of a pod that runs. The pod's own is the sum of its containers' (`PodLimits` of
/// `component-helpers/resource`): those that run beside each other, or one init container with the
/// sidecars before it, whichever is more. A container without a limit adds nothing to it, and what it
/// writes counts all the same.
pub fn disk_limits(pod: &Pod) -> DiskLimits {
    let mut limits = DiskLimits::default();
    let Some(spec) = pod.spec.as_ref().filter(|_| !is_over(pod)) else { return limits };
    let bytes = |limit: Quantity| u64::try_from(limit.units()).ok();
    let lasts = lasting(spec).filter_map(|(_, one)| Some((one, disk_limit(one)?)));
    for (container, limit) in lasts {
        // Of 0 the kubelet makes no bound of a container, but one of the pod.
        if let Some(bytes) = bytes(limit).filter(|bytes| *bytes > 0) {
            limits.containers.insert(container.name.clone(), (bytes, limit.to_string()));
        }
    }
    let mut beside: Option<Quantity> = None;
    let mut most: Option<Quantity> = None;
    for init in spec.init_containers.iter().flatten() {
        let Some(limit) = disk_limit(init) else { continue };
        let sum = beside.map_or(limit, |before| before + limit);
        if is_sidecar(init) {
            beside = Some(sum);
        }
        most = most.max(Some(sum));
    }
    for limit in spec.containers.iter().filter_map(disk_limit) {
        beside = Some(beside.map_or(limit, |before| before + limit));
    }
    let all = most.max(beside);
    limits.all = all.and_then(|all| Some((bytes(all)?, all.to_string())));
    limits
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}

/// The bounds of a pod that runs; none of one that is over or goes.
pub fn bounds(pod: &Pod) -> Vec<Bound> {
    if is_over(pod) {
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
    fn what_containers_write_is_bounded_one_by_one_and_together() {
        let own = |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}});
        let mut sidecar = own("log", "1Mi");
        sidecar["restartPolicy"] = json!("Always");
        let spec = |containers: serde_json::Value| json!({"spec": {"containers": containers}});
        let passed = |pod: &Pod, used: &[(&str, u64)], shared| {
            let used = used.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
            disk_limits(pod).passed(&used, shared)
        };
        let one = pod(spec(json!([own("a", "1Mi")])));
        let whole = |limit: &str| {
            Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
            ))
        };
        assert_eq!(passed(&one, &[("a", 1 << 20)], 0), None, "as much as it may");
        assert_eq!(passed(&one, &[("a", 1 << 20)], 1), whole("1Mi"));
        // Two with a limit, a third without, and a sidecar.
        let mut many = spec(json!([own("a", "1Mi"), own("b", "2Mi"), {"name": "c"}]));
        many["spec"]["initContainers"] = json!([sidecar, own("init", "3Mi")]);
        let many = pod(many);
        let told = passed(&many, &[("a", (1 << 20) + 1), ("b", 1)], 0);
        let sentence = "Container a exceeded its local ephemeral storage limit \"1Mi\". ";
        assert_eq!(told.as_deref(), Some(sentence));
        assert!(passed(&many, &[("log", 2 << 20)], 0).is_some_and(|told| told.contains("log")));
        assert_eq!(passed(&many, &[("c", 4 << 20)], 0), None, "the others leave it room");
        assert_eq!(passed(&many, &[("c", (4 << 20) + 1)], 0), whole("4Mi"));
        // An init container needs more than all that run later.
        let mut first = spec(json!([own("a", "1Mi")]));
        first["spec"]["initContainers"] = json!([sidecar, own("init", "3Mi")]);
        assert_eq!(passed(&pod(first), &[("init", (4 << 20) + 1)], 0), whole("4Mi"));
        assert!(disk_limits(&pod(spec(json!([{"name": "a"}])))).is_empty());
        let mut over = one.clone();
        over.status = Some(evicted_status(&over, "full. ", at(0)));
        assert!(disk_limits(&over).is_empty());
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
