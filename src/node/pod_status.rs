//! Pure: the whole PodStatus, from the pod, its instances, the worker's memory and the plan.
//!
//! Phases, reasons and messages are the kubelet's (`kubelet_pods.go` getPhase, `status/generate.go`).
//! `restartCount` is the attempt, and never decreases: an instance that somebody removed leaves its
//! count in the stored status. Times have whole seconds, as Kubernetes writes them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, LifecycleHandler, Pod, PodCondition, PodIP,
    PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::node::container_spec::qos_class;
use crate::node::ephemeral_plan;
use crate::node::image::Waiting;
use crate::node::instance::{Instance, Life, Role};
use crate::node::memory::{Memory, PostStart, Verdicts};
use crate::node::pod_plan::{self, PodPlan, View, stored_status};
use crate::node::probe::Verdict;
use crate::node::sidecar::is_sidecar;
use crate::node::termination_plan::{finished, overdue};
use crate::object::{condition, ephemeral_container};

/// Why a pod that ran longer than it may has failed.
pub const OVERDUE: &str = "Pod was active on the node longer than the specified deadline";

/// Whole seconds.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The status to store, given the node's own address.
pub fn pod_status(view: &View<'_>, plan: &PodPlan, host_ip: Ipv4Addr) -> PodStatus {
    let pod = view.pod;
    let spec = pod.spec.clone().unwrap_or_default();
    let stored = pod.status.clone().unwrap_or_default();
    let init = statuses(view, plan, &spec.init_containers.clone().unwrap_or_default(), Role::Init);
    let containers = statuses(view, plan, &spec.containers, Role::Container);
    let ephemeral = ephemeral_plan::statuses(statuses(
        view,
        plan,
        &ephemeral_container::containers(&spec).collect::<Vec<_>>(),
        Role::Ephemeral,
    ));
    let phase = phase(view, &spec, &init, &containers);
    let timed_out =
        phase == "Failed" && stored.phase.as_deref() != Some("Failed") && overdue(pod, view.now);
    let (reason, message) = match timed_out {
        true => (Some("DeadlineExceeded".to_owned()), Some(OVERDUE.to_owned())),
        false => (stored.reason.clone(), stored.message.clone()),
    };
    let ip = pod_ip(view.instances).map(|ip| ip.to_string());
    // A finished or ending pod keeps the address it had: its endpoints are told by it.
    let keeps =
        matches!(phase, "Succeeded" | "Failed") || pod.metadata.deletion_timestamp.is_some();
    let ip = if keeps { ip.or_else(|| stored.pod_ip.clone()) } else { ip };
    let conditions = conditions(view, &spec, &stored, phase, &init, &containers, ip.is_some());
    PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions),
        host_ip: Some(host_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: host_ip.to_string() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: stored.start_time.clone().or_else(|| Some(time(view.now))),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(containers),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        qos_class: Some(qos_class(pod).to_owned()),
        observed_generation: stored.observed_generation.and(pod.metadata.generation),
        ..stored
    }
}

fn statuses(
    view: &View<'_>,
    plan: &PodPlan,
    containers: &[Container],
    role: Role,
) -> Vec<ContainerStatus> {
    containers.iter().map(|container| container_status(view, plan, container, role)).collect()
}

fn running(instance: &Instance) -> ContainerState {
    let started_at = instance.started_at.map(time);
    ContainerState {
        running: Some(ContainerStateRunning { started_at }),
        ..ContainerState::default()
    }
}

fn waiting(waiting: &Waiting) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(waiting.reason.to_owned()),
            message: waiting.message.clone(),
        }),
        ..ContainerState::default()
    }
}

/// Of all messages of a pod together (kubelet `MaxPodTerminationMessageLogLength`).
const MESSAGES: usize = 12 * 1024;

fn terminated(view: &View<'_>, instance: &Instance) -> Option<ContainerState> {
    let ended = instance.ended()?;
    let words = view.memory.last_words.get(&instance.id).filter(|words| !words.is_empty());
    let message = match (ended.message, words) {
        (Some(message), Some(words)) => Some(format!("{message}: {words}")),
        (message, words) => message.or(words.cloned()),
    };
    let count = view.pod.spec.as_ref().map_or(1, |spec| {
        spec.containers.len() + spec.init_containers.as_deref().unwrap_or_default().len()
    });
    let message = message.map(|message| head(&message, MESSAGES / count.max(1)).to_owned());
    Some(ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(instance)),
            exit_code: ended.exit_code,
            finished_at: Some(time(ended.finished_at)),
            started_at: instance.started_at.map(time),
            reason: Some(ended.reason.to_owned()),
            message,
            signal: None,
        }),
        ..ContainerState::default()
    })
}

/// As much of a text as so many bytes hold.
fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn container_id(instance: &Instance) -> String {
    format!("docker://{}", instance.id)
}

/// The end of a container that ran, as far as was told, and is not there any more.
fn lost(stored: &ContainerStatus) -> Option<ContainerState> {
    stored.state.as_ref()?.running.as_ref()?;
    let message = "The container could not be located when the pod was deleted.  The container used to be Running";
    let end = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some(message.to_owned()),
        ..ContainerStateTerminated::default()
    };
    Some(ContainerState { terminated: Some(end), ..ContainerState::default() })
}

/// The states of a container that is not there any more and is not made again: the end that was told,
/// or an unknown one.
fn gone(
    view: &View<'_>,
    stored: Option<&ContainerStatus>,
) -> Option<(ContainerState, Option<ContainerState>)> {
    let (stored, phase) = (stored?, view.pod.status.as_ref()?.phase.as_deref());
    let ends = view.pod.metadata.deletion_timestamp.is_some();
    if !ends && !matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let told = stored.state.clone().filter(|state| state.terminated.is_some());
    Some(match told {
        Some(told) => (told, stored.last_state.clone()),
        None => (lost(stored)?, None),
    })
}

fn container_status(
    view: &View<'_>,
    plan: &PodPlan,
    container: &Container,
    role: Role,
) -> ContainerStatus {
    let name = &container.name;
    let stored = stored_status(view.pod, role, name);
    let mut attempts: Vec<&Instance> = view
        .instances
        .iter()
        .filter(|i| i.identity.role == role && i.identity.container == *name)
        .collect();
    attempts.sort_by_key(|instance| std::cmp::Reverse(instance.identity.attempt));
    let current = attempts.first().copied();
    // What is not started yet has no place of its own: the one before is what `lastState` tells.
    let before = attempts.iter().skip(1).find_map(|instance| terminated(view, instance));
    let stored_last = || {
        let status = stored?;
        let last = status.last_state.clone().filter(|state| state.terminated.is_some());
        let ended = status.state.clone().filter(|state| state.terminated.is_some());
        last.or(ended.filter(|_| current.is_none()))
    };
    // Until the first of a pod's containers is made, those with init containers before them say so.
    let spec = view.pod.spec.as_ref();
    let initializing = spec.is_some_and(|spec| spec.init_containers.iter().flatten().count() > 0);
    let default_wait = if initializing { Waiting::initializing() } else { Waiting::creating() };
    let wait = plan.waiting.get(name).filter(|wait| **wait != Waiting::creating());
    let (state, last) = match current {
        // The hook is part of the start: until it has ended, the container is not said to run.
        Some(instance)
            if instance.is_running() && !is_past_post_start(instance, container, view.memory) =>
        {
            (waiting(wait.unwrap_or(&default_wait)), before.or_else(stored_last))
        }
        Some(instance) if instance.is_running() => (running(instance), before.or_else(stored_last)),
        Some(instance) => match (terminated(view, instance), wait) {
            (Some(end), Some(wait)) => (waiting(wait), Some(end)),
            (Some(end), None) => (end, before.or_else(stored_last)),
            (None, wait) => (waiting(wait.unwrap_or(&default_wait)), before.or_else(stored_last)),
        },
        None => gone(view, stored).unwrap_or_else(|| {
            let last = stored.and_then(lost).or_else(stored_last);
            (waiting(wait.unwrap_or(&default_wait)), last)
        }),
    };
    let counted = current.map_or(0, |i| i32::try_from(i.identity.attempt).unwrap_or(i32::MAX));
    let restart_count = counted.max(stored.map_or(0, |status| status.restart_count));
    let started = current.is_some_and(|instance| is_started(instance, container, view.memory));
    let ready = match role {
        Role::Init if !is_sidecar(container) => {
            state.terminated.as_ref().is_some_and(|end| end.exit_code == 0)
        }
        _ => started && current.is_some_and(|i| is_ready(i, container, view.memory)),
    };
    ContainerStatus {
        name: name.clone(),
        state: Some(state),
        last_state: Some(last.unwrap_or_default()),
        ready,
        restart_count,
        image: container.image.clone().unwrap_or_default(),
        image_id: current.map_or_else(
            || stored.map(|status| status.image_id.clone()).unwrap_or_default(),
            |instance| instance.image_id.clone(),
        ),
        container_id: current
            .filter(|instance| instance.life != Life::Created || instance.ended().is_some())
            .map(container_id)
            .or_else(|| stored.and_then(|status| status.container_id.clone())),
        started: Some(started),
        stop_signal: container.lifecycle.as_ref().and_then(|own| own.stop_signal.clone()),
        ..ContainerStatus::default()
    }
}

/// The verdicts of an earlier run of the daemon, by instance, see [`Verdicts::of_status`].
pub fn known_verdicts(pod: &Pod, instances: &[Instance]) -> BTreeMap<String, Verdicts> {
    let members = instances.iter().filter(|one| one.identity.role != Role::Sandbox);
    let known = members.filter_map(|instance| {
        let status = stored_status(pod, instance.identity.role, &instance.identity.container)?;
        let same = status.container_id.as_deref() == Some(&*container_id(instance));
        same.then(|| (instance.id.clone(), Verdicts::of_status(status)))
    });
    known.collect()
}

fn verdicts<'a>(instance: &Instance, memory: &'a Memory) -> Option<&'a Verdicts> {
    memory.probes.get(&instance.id)
}

/// What runs in a container right after its start.
pub fn post_start(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.post_start.as_ref()
}

/// Whether its hook, if it has one, ended well.
pub fn is_past_post_start(instance: &Instance, container: &Container, memory: &Memory) -> bool {
    post_start(container).is_none()
        || memory.post_starts.get(&instance.id) == Some(&PostStart::Done)
}

/// The hooks that an earlier run of the daemon saw through: then the status told of a running
/// container. One that it did not see the end of is run again.
pub fn known_post_starts(pod: &Pod, instances: &[Instance]) -> BTreeMap<String, PostStart> {
    let members = instances.iter().filter(|one| one.identity.role != Role::Sandbox);
    let known = members.filter_map(|instance| {
        let status = stored_status(pod, instance.identity.role, &instance.identity.container)?;
        let same = status.container_id.as_deref() == Some(&*container_id(instance));
        let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
        (same && runs).then(|| (instance.id.clone(), PostStart::Done))
    });
    known.collect()
}

/// Running, and past its hook and its startup probe if it has one.
pub fn is_started(instance: &Instance, container: &Container, memory: &Memory) -> bool {
    let passed =
        || verdicts(instance, memory).and_then(|v| v.startup.as_ref()) == Some(&Verdict::Passed);
    instance.life == Life::Running
        && is_past_post_start(instance, container, memory)
        && (container.startup_probe.is_none() || passed())
}

fn is_ready(instance: &Instance, container: &Container, memory: &Memory) -> bool {
    container.readiness_probe.is_none()
        || verdicts(instance, memory).and_then(|v| v.readiness.as_ref()) == Some(&Verdict::Passed)
}

fn phase(
    view: &View<'_>,
    spec: &PodSpec,
    init: &[ContainerStatus],
    containers: &[ContainerStatus],
) -> &'static str {
    let stored = view.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match stored {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let runs =
        |instance: &Instance| instance.identity.role != Role::Sandbox && instance.is_running();
    if overdue(view.pod, view.now) && !finished(view.pod, view.instances) {
        // As every end: it is told when nothing runs any more.
        return if view.instances.iter().any(runs) { "Running" } else { "Failed" };
    }
    let terminated =
        |status: &ContainerStatus| status.state.as_ref().and_then(|state| state.terminated.clone());
    let last_end = |status: &ContainerStatus| {
        status.last_state.as_ref().and_then(|state| state.terminated.clone())
    };
    let never = spec.restart_policy.as_deref() == Some("Never");
    let wanted = spec.init_containers.as_deref().unwrap_or_default();
    let (sidecars, plain): (Vec<_>, Vec<_>) =
        init.iter().zip(wanted).partition(|(_, container)| is_sidecar(container));
    let init_failed = never
        && plain.iter().any(|(status, _)| terminated(status).is_some_and(|end| end.exit_code != 0));
    if init_failed {
        return "Failed";
    }
    let began = containers.iter().any(|status| {
        let state = status.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || last_end(status).is_some()
    });
    // One that was restarted is past its start: the pod does not go back for it.
    let starting = |status: &ContainerStatus| {
        status.started != Some(true) && terminated(status).or_else(|| last_end(status)).is_none()
    };
    let pending = plain.iter().any(|(status, _)| !status.ready)
        || sidecars.iter().any(|(status, _)| starting(status));
    if !began && pending {
        return "Pending";
    }
    let never_ran = |status: &ContainerStatus| {
        status.state.as_ref().is_some_and(|state| state.waiting.is_some())
            && last_end(status).is_none()
    };
    if containers.iter().any(never_ran) {
        return "Pending";
    }
    let always = !matches!(spec.restart_policy.as_deref(), Some("Never" | "OnFailure"));
    let ends: Vec<_> = containers.iter().filter_map(terminated).collect();
    // The pod is not over before its sidecars are.
    let runs = |status: &ContainerStatus| {
        status.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    if always || ends.len() < containers.len() || sidecars.iter().any(|(status, _)| runs(status)) {
        return "Running";
    }
    if ends.iter().all(|end| end.exit_code == 0) {
        "Succeeded"
    } else if never {
        "Failed"
    } else {
        "Running"
    }
}

/// A condition's status with its reason and message.
struct Verdict3(bool, Option<&'static str>, Option<String>);

/// `[a b]` as Go prints a list; `None`: it is empty.
fn named<'a>(names: impl Iterator<Item = &'a ContainerStatus>) -> Option<String> {
    let names: Vec<&str> = names.map(|status| &*status.name).collect();
    (!names.is_empty()).then(|| format!("[{}]", names.join(" ")))
}

/// Sidecars count as the pod's own containers do, and before them.
fn containers_ready(
    phase: &str,
    spec: &PodSpec,
    init: &[ContainerStatus],
    containers: &[ContainerStatus],
) -> Verdict3 {
    match phase {
        "Succeeded" => return Verdict3(false, Some("PodCompleted"), None),
        "Failed" => return Verdict3(false, Some("PodFailed"), None),
        _ => {}
    }
    let wanted = spec.init_containers.iter().flatten();
    let sidecars = init.iter().zip(wanted).filter(|(_, container)| is_sidecar(container));
    let all = sidecars.map(|(status, _)| status).chain(containers);
    match named(all.filter(|status| !status.ready)) {
        None => Verdict3(true, None, None),
        Some(names) => {
            let message = format!("containers with unready status: {names}");
            Verdict3(false, Some("ContainersNotReady"), Some(message))
        }
    }
}

fn initialized(
    phase: &str,
    spec: &PodSpec,
    init: &[ContainerStatus],
    containers: &[ContainerStatus],
) -> Verdict3 {
    let app_began = containers.iter().any(|status| status.container_id.is_some());
    if phase == "Succeeded" {
        return Verdict3(true, Some("PodCompleted"), None);
    }
    if app_began {
        return Verdict3(true, None, None);
    }
    let incomplete = init.iter().zip(spec.init_containers.iter().flatten());
    let incomplete = incomplete.filter(|(status, container)| match is_sidecar(container) {
        true => status.started != Some(true),
        false => !status.ready,
    });
    match named(incomplete.map(|(status, _)| status)) {
        None => Verdict3(true, None, None),
        Some(names) => {
            let message = format!("containers with incomplete status: {names}");
            Verdict3(false, Some("ContainersNotInitialized"), Some(message))
        }
    }
}

fn conditions(
    view: &View<'_>,
    spec: &PodSpec,
    stored: &PodStatus,
    phase: &str,
    init: &[ContainerStatus],
    containers: &[ContainerStatus],
    has_address: bool,
) -> Vec<PodCondition> {
    let before = stored.conditions.clone().unwrap_or_default();
    let containers_ready = containers_ready(phase, spec, init, containers);
    let initialized = initialized(phase, spec, init, containers);
    let missing_gates: Vec<&str> = spec
        .readiness_gates
        .iter()
        .flatten()
        .map(|gate| gate.condition_type.as_str())
        .filter(|gate| !condition::is_true(&before, gate))
        .collect();
    let ready = if containers_ready.0 && !missing_gates.is_empty() {
        let message = format!(
            "corresponding condition of pod readiness gate \"{}\" does not exist.",
            missing_gates[0]
        );
        Verdict3(false, Some("ReadinessGatesNotReady"), Some(message))
    } else {
        Verdict3(containers_ready.0, containers_ready.1, containers_ready.2.clone())
    };
    let has_sandbox = pod_plan::running_sandbox(view.instances).is_some() && has_address;
    let scheduled = condition::find(&before, "PodScheduled").cloned();
    let mut list = Vec::new();
    for (name, Verdict3(holds, reason, message)) in [
        ("PodReadyToStartContainers", Verdict3(has_sandbox, None, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict3(true, None, None)),
    ] {
        let old = condition::find(&before, name);
        let status = if holds { "True" } else { "False" };
        let new = PodCondition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: Some(time(view.now)),
            observed_generation: old.and_then(|old| old.observed_generation),
            ..PodCondition::default()
        };
        match (name, &scheduled) {
            ("PodScheduled", Some(scheduled)) => list.push(scheduled.clone()),
            _ => {
                // With the old one in place the transition time moves only with the status.
                list.extend(old.cloned());
                condition::set(&mut list, new);
            }
        }
    }
    let others = before.into_iter().filter(|old| condition::find(&list, &old.type_).is_none());
    let others: Vec<PodCondition> = others.collect();
    list.extend(others);
    list
}

/// The pod's address, as far as it is known.
pub fn pod_ip(instances: &[Instance]) -> Option<Ipv4Addr> {
    pod_plan::running_sandbox(instances)?.ip
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::capacity::Limits;
    use crate::node::pod_plan::plan;
    use crate::node::pod_plan::tests::{at, ended, grown, instance, pod, with_image};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn status(pod: &Pod, instances: &[Instance], memory: &Memory, second: i64) -> PodStatus {
        let limits = Limits::default();
        let view = View { pod, instances, memory, limits, now: at(second) };
        pod_status(&view, &plan(&view), HOST)
    }

    fn truth(status: &PodStatus, name: &str) -> String {
        let list = status.conditions.clone().unwrap_or_default();
        let found = condition::find(&list, name).expect("the condition");
        format!("{} {}", found.status, found.reason.clone().unwrap_or_default()).trim().to_owned()
    }

    #[test]
    fn a_running_pod_looks_as_a_real_kubelet_writes_it() {
        let pod = pod(json!({}));
        let instances =
            [instance(&pod, Role::Sandbox, "", 0), instance(&pod, Role::Container, "web", 0)];
        let status = status(&pod, &instances, &with_image(), 9);
        let types: Vec<_> = status.conditions.iter().flatten().map(|c| &*c.type_).collect();
        assert_eq!(
            types,
            [
                "PodReadyToStartContainers",
                "Initialized",
                "Ready",
                "ContainersReady",
                "PodScheduled"
            ]
        );
        assert!(status.conditions.iter().flatten().all(|c| c.status == "True"));
        assert_eq!(
            serde_json::to_value(&status.container_statuses).expect("JSON"),
            json!([{"name": "web", "state": {"running": {"startedAt": "1970-01-12T13:46:40Z"}},
            "lastState": {}, "ready": true, "restartCount": 0, "image": "web:1",
            "imageID": "sha256:1", "containerID": "docker://web-0", "started": true}])
        );
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(
            (status.pod_ip.as_deref(), status.host_ip.as_deref()),
            (Some("10.42.0.2"), Some("192.0.2.2"))
        );
        assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    }

    #[test]
    fn readiness_and_startup_probes_gate_ready() {
        let pod = pod(json!({"spec": {"containers": [{"name": "web", "image": "web:1",
        "readinessProbe": {"tcpSocket": {"port": 1}}, "startupProbe": {"tcpSocket": {"port": 1}}}]}}));
        let instances =
            [instance(&pod, Role::Sandbox, "", 0), instance(&pod, Role::Container, "web", 0)];
        let mut memory = with_image();
        let now = status(&pod, &instances, &memory, 1);
        assert_eq!(truth(&now, "Ready"), "False ContainersNotReady");
        assert_eq!(now.container_statuses.expect("one")[0].started, Some(false));
        let both = Verdicts {
            startup: Some(Verdict::Passed),
            readiness: Some(Verdict::Passed),
            liveness: None,
        };
        memory.probes.insert("web-0".into(), both);
        assert_eq!(truth(&status(&pod, &instances, &memory, 2), "Ready"), "True");
    }

    #[test]
    fn a_crash_loop_is_told_in_the_reference_words() {
        let pod = pod(json!({}));
        let mut memory = with_image();
        memory.back_offs.insert("web".into(), grown(&pod, "web", 5));
        let dead = ended(instance(&pod, Role::Container, "web", 1), 1, 6);
        let status = status(&pod, &[instance(&pod, Role::Sandbox, "", 0), dead], &memory, 7);
        let web = &status.container_statuses.as_ref().expect("one")[0];
        let waiting = web.state.as_ref().and_then(|s| s.waiting.clone()).expect("waiting");
        assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
        assert_eq!(
            waiting.message.as_deref(),
            Some("back-off 10s restarting failed container=web pod=p_n(u)")
        );
        assert_eq!(web.restart_count, 1);
        let last = web.last_state.as_ref().and_then(|s| s.terminated.clone()).expect("the end");
        assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
        assert_eq!(status.phase.as_deref(), Some("Running"));
    }

    #[test]
    fn ends_become_phases() {
        let run = |policy: &str, code: i32| {
            let pod = pod(json!({"spec": {"restartPolicy": policy}}));
            let dead = ended(instance(&pod, Role::Container, "web", 0), code, 1);
            let status =
                status(&pod, &[instance(&pod, Role::Sandbox, "", 0), dead], &with_image(), 2);
            format!("{} {}", status.phase.clone().expect("a phase"), truth(&status, "Ready"))
        };
        assert_eq!(run("Never", 0), "Succeeded False PodCompleted");
        assert_eq!(run("Never", 3), "Failed False PodFailed");
        assert_eq!(run("OnFailure", 0), "Succeeded False PodCompleted");
    }

    #[test]
    fn an_init_container_keeps_the_pod_pending() {
        let pod = pod(json!({"spec": {"initContainers": [{"name": "one", "image": "web:1"}]}}));
        let instances =
            [instance(&pod, Role::Sandbox, "", 0), instance(&pod, Role::Init, "one", 0)];
        let status = status(&pod, &instances, &with_image(), 1);
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        assert_eq!(truth(&status, "Initialized"), "False ContainersNotInitialized");
        let web = &status.container_statuses.as_ref().expect("one")[0];
        let reason = web.state.as_ref().and_then(|s| s.waiting.as_ref()?.reason.clone());
        assert_eq!(reason.as_deref(), Some("PodInitializing"));
    }

    #[test]
    fn a_container_that_was_taken_away_has_an_unknown_end() {
        let taken = |deleted: bool| {
            let mut fields = json!({"status": {"containerStatuses": [{"name": "web", "image": "",
                "imageID": "", "ready": true, "restartCount": 1, "containerID": "docker://x",
                "state": {"running": {"startedAt": "1970-01-01T00:00:00Z"}}}]}});
            if deleted {
                fields["metadata"] = json!({"deletionTimestamp": at(30).to_string()});
            }
            let pod = pod(fields);
            let status = status(&pod, &[], &with_image(), 1);
            let web = status.container_statuses.expect("one").remove(0);
            let reason = |state: Option<ContainerState>| {
                let end = state.and_then(|state| state.terminated)?;
                Some(format!("{} {}", end.exit_code, end.reason.unwrap_or_default()))
            };
            (reason(web.state), reason(web.last_state))
        };
        // What was told of an end stays, also when somebody removes its container.
        let over = pod(json!({"status": {"phase": "Succeeded", "containerStatuses": [{
            "name": "web", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}}));
        let web = status(&over, &[], &with_image(), 1).container_statuses.expect("one").remove(0);
        let end = web.state.and_then(|state| state.terminated).and_then(|end| end.reason);
        assert_eq!(end.as_deref(), Some("Completed"));
        let unknown = Some("137 ContainerStatusUnknown".to_owned());
        assert_eq!(taken(false), (None, unknown.clone()));
        assert_eq!(taken(true), (unknown, None));
    }

    #[test]
    fn last_words_are_told_within_their_bounds() {
        let pod = pod(json!({"spec": {"restartPolicy": "Never"}}));
        let dead = ended(instance(&pod, Role::Container, "web", 0), 1, 1);
        let mut memory = with_image();
        let message = |memory: &Memory, dead: &Instance| {
            let all = [instance(&pod, Role::Sandbox, "", 0), dead.clone()];
            let mut list = status(&pod, &all, memory, 2).container_statuses.expect("one");
            list.remove(0).state?.terminated?.message
        };
        assert_eq!(message(&memory, &dead), None);
        memory.last_words.insert("web-0".into(), "é".repeat(8192));
        assert_eq!(message(&memory, &dead).map(|text| text.len()), Some(MESSAGES));
        memory.last_words.insert("web-0".into(), "so long".into());
        let failed = Instance { error: "no such file".into(), ..dead };
        assert_eq!(message(&memory, &failed).as_deref(), Some("no such file: so long"));
    }

    #[test]
    fn sidecars_count_as_kubernetes_counts_them() {
        let pod = pod(json!({"spec": {"restartPolicy": "Never", "initContainers": [
            {"name": "mesh", "image": "web:1", "restartPolicy": "Always",
                "startupProbe": {"exec": {}}, "readinessProbe": {"exec": {}}},
            {"name": "setup", "image": "web:1"}]}}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let mesh = instance(&pod, Role::Init, "mesh", 0);
        let setup = ended(instance(&pod, Role::Init, "setup", 0), 0, 2);
        let web = instance(&pod, Role::Container, "web", 0);
        let mut memory = with_image();
        let told = |instances: &[Instance], memory: &Memory| {
            let now = status(&pod, instances, memory, 9);
            let init = now.init_container_statuses.as_ref().expect("two");
            format!(
                "{} | Initialized {} | ContainersReady {} | mesh {} {}",
                now.phase.clone().unwrap_or_default(),
                truth(&now, "Initialized"),
                truth(&now, "ContainersReady"),
                init[0].started == Some(true),
                init[0].ready
            )
        };
        let mut all = vec![sandbox, mesh.clone()];
        assert_eq!(
            told(&all, &memory),
            "Pending | Initialized False ContainersNotInitialized | ContainersReady False ContainersNotReady | mesh false false"
        );
        let mut verdicts = Verdicts { startup: Some(Verdict::Passed), ..Verdicts::default() };
        memory.probes.insert("mesh-0".into(), verdicts.clone());
        all.extend([setup, web.clone()]);
        assert_eq!(
            told(&all, &memory),
            "Running | Initialized True | ContainersReady False ContainersNotReady | mesh true false"
        );
        verdicts.readiness = Some(Verdict::Passed);
        memory.probes.insert("mesh-0".into(), verdicts);
        assert_eq!(
            told(&all, &memory),
            "Running | Initialized True | ContainersReady True | mesh true true"
        );
        // The pod is over when its sidecars are, and their exit codes say nothing about it.
        all[3] = ended(web, 0, 5);
        assert!(told(&all, &memory).starts_with("Running | "));
        all[1] = ended(mesh, 143, 6);
        assert_eq!(
            told(&all, &memory),
            "Succeeded | Initialized True PodCompleted | ContainersReady False PodCompleted | mesh false false"
        );
    }

    #[test]
    fn restart_counts_and_transition_times_never_go_back() {
        let pod = pod(
            json!({"status": {"containerStatuses": [{"name": "web", "image": "", "imageID": "",
        "ready": true, "restartCount": 4, "containerID": "docker://x"}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-02T00:00:00Z"}]}}),
        );
        let instances =
            [instance(&pod, Role::Sandbox, "", 0), instance(&pod, Role::Container, "web", 0)];
        let status = status(&pod, &instances, &with_image(), 1);
        assert_eq!(status.container_statuses.as_ref().expect("one")[0].restart_count, 4);
        let list = status.conditions.unwrap_or_default();
        let ready = condition::find(&list, "Ready").and_then(|c| c.last_transition_time.clone());
        assert_eq!(ready.map(|t| t.0.to_string()).as_deref(), Some("1970-01-02T00:00:00Z"));
    }
}
