//! Pure: an ephemeral container's one life in a running pod.
//!
//! The kubelet's rules (`kuberuntime_manager.go` computePodActions, `kuberuntime_container.go`
//! getTargetID): it is started as soon as the sandbox runs, also where init containers fail, and never
//! again; nothing else of the pod takes notice of it. Who names a target sees its processes.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodSpec};

use crate::node::instance::{Instance, Life, Role};
use crate::node::pod_plan::{
    PodPlan, Step, View, latest, make, ready_to_make, remove, stored_status,
};
use crate::object::ephemeral_container::containers;

/// Starts those that never ran. `sandbox` runs, or this plan starts it.
pub fn start(view: &View<'_>, spec: &PodSpec, sandbox: &str, plan: &mut PodPlan) {
    for container in containers(spec) {
        match latest(view.instances, Role::Ephemeral, &container.name) {
            Some(made) if made.life != Life::Created || made.ended().is_some() => {}
            // Made, and the daemon stopped before it was started; the sandbox may be another one.
            Some(made) if made.joined.as_deref() != Some(sandbox) => {
                remove(view, made, "its sandbox is gone", plan);
            }
            Some(made) => {
                if ready_to_make(view, &container, plan) {
                    let (container, id) = (container.name, made.id.clone());
                    plan.act(Step::StartMember { container, id }, "it was made, not started");
                }
            }
            // Somebody removed it: it has had its life.
            None if has_run(view.pod, &container.name) => {}
            None => make(view, &container, Role::Ephemeral, Some(sandbox), None, false, plan),
        }
    }
}

fn has_run(pod: &Pod, name: &str) -> bool {
    let stored = stored_status(pod, Role::Ephemeral, name);
    stored.is_some_and(|status| status.container_id.is_some())
}

/// The instance whose processes an ephemeral container sees; `None`: it names none, or sees those of
/// the whole pod or host anyway.
///
/// # Errors
/// The kubelet's sentence where the target does not run.
pub fn target(pod: &Pod, instances: &[Instance], name: &str) -> Result<Option<String>, String> {
    let Some(spec) = &pod.spec else { return Ok(None) };
    let shares = [spec.share_process_namespace, spec.host_pid].contains(&Some(true));
    let mut all = spec.ephemeral_containers.iter().flatten();
    let own = all.find(|one| one.name == name);
    let target = own.and_then(|one| one.target_container_name.as_deref());
    let Some(target) = target.filter(|target| !target.is_empty() && !shares) else {
        return Ok(None);
    };
    let of = |role| latest(instances, role, target).filter(|instance| instance.is_running());
    match of(Role::Container).or_else(|| of(Role::Init)) {
        Some(running) => Ok(Some(running.id.clone())),
        None => Err(format!("unable to find target container {target}")),
    }
}

/// As they are told: nothing waits for an ephemeral container to be ready or started, and what was
/// removed has ended.
pub fn statuses(mut all: Vec<ContainerStatus>) -> Vec<ContainerStatus> {
    for status in &mut all {
        let last = status.last_state.replace(ContainerState::default());
        let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
        if waits && status.container_id.is_some() {
            status.state = last;
        }
        (status.ready, status.started) = (false, None);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use k8s_openapi::api::core::v1::PodStatus;
    use serde_json::{Value, json};

    use super::*;
    use crate::node::capacity::Limits;
    use crate::node::memory::Memory;
    use crate::node::pod_plan::plan;
    use crate::node::pod_plan::tests::{at, ended, instance, pod, told, with_image};
    use crate::node::pod_status::pod_status;

    const MAKE: &str = "MakeMember { container: \"debugger\", role: Ephemeral, attempt: 0, sandbox: Some(\"sandbox-0\"), back_off: None, heals: false } because it does not exist";

    fn debugged(extra: Value) -> Pod {
        let mut fields = json!({"spec": {"ephemeralContainers": [
            {"name": "debugger", "image": "web:1", "targetContainerName": "web"}]}});
        json_patch::merge(&mut fields, &extra);
        pod(fields)
    }

    fn running(pod: &Pod) -> Vec<Instance> {
        vec![instance(pod, Role::Sandbox, "", 0), instance(pod, Role::Container, "web", 0)]
    }

    fn debugger(pod: &Pod) -> Instance {
        instance(pod, Role::Ephemeral, "debugger", 0)
    }

    fn status(pod: &Pod, instances: &[Instance], memory: &Memory) -> PodStatus {
        let limits = Limits::default();
        let view = View { pod, instances, memory, limits, now: at(5) };
        pod_status(&view, &plan(&view), Ipv4Addr::LOCALHOST)
    }

    #[test]
    fn it_is_started_once_and_never_again() {
        let (pod, memory) = (debugged(json!({})), with_image());
        let mut all = running(&pod);
        let waits = format!("{MAKE}\ndebugger: ContainerCreating");
        assert_eq!(told(&pod, &all, &memory, 0), waits);
        all.push(debugger(&pod));
        assert_eq!(told(&pod, &all, &memory, 0), "");
        for code in [0, 1] {
            all[2] = ended(debugger(&pod), code, 3);
            assert_eq!(told(&pod, &all, &memory, 4), "", "code {code}");
        }
        // Its image is not compared, and it is nobody's drift.
        all[2].identity.spec_hash = "v1:other".into();
        assert_eq!(told(&pod, &all, &memory, 4), "");
        // The daemon stopped between its making and its start.
        all[2] = Instance { life: Life::Created, started_at: None, ..debugger(&pod) };
        assert_eq!(
            told(&pod, &all, &memory, 4),
            "StartMember { container: \"debugger\", id: \"debugger-0\" } because it was made, not started"
        );
        all[2].joined = Some("sandbox-before".into());
        assert_eq!(
            told(&pod, &all, &memory, 4),
            "Remove { id: \"debugger-0\" } because its sandbox is gone"
        );
    }

    #[test]
    fn a_failing_init_container_does_not_keep_it_away_and_no_sandbox_does() {
        let pod =
            debugged(json!({"spec": {"initContainers": [{"name": "first", "image": "web:1"}]}}));
        let failing = ended(instance(&pod, Role::Init, "first", 0), 1, 2);
        let all = [instance(&pod, Role::Sandbox, "", 0), failing];
        assert!(told(&pod, &all, &with_image(), 3).starts_with(MAKE));
        let first = told(&pod, &[], &with_image(), 0);
        assert!(first.starts_with("MakeSandbox") && !first.contains("debugger"), "{first}");
    }

    #[test]
    fn who_was_removed_has_had_its_life() {
        let ran = json!({"status": {"ephemeralContainerStatuses": [{"name": "debugger",
            "image": "web:1", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": "docker://gone", "state": {"running": {}}, "lastState": {}}]}});
        let (pod, memory) = (debugged(ran), with_image());
        let all = running(&pod);
        assert_eq!(told(&pod, &all, &memory, 0), "");
        let told = status(&pod, &all, &memory).ephemeral_container_statuses.expect("one");
        let end = told[0].state.as_ref().and_then(|state| state.terminated.clone()).expect("ended");
        assert_eq!(end.reason.as_deref(), Some("ContainerStatusUnknown"));
    }

    #[test]
    fn it_is_told_and_nothing_else_of_the_pod_changes() {
        let (pod, memory) = (debugged(json!({})), with_image());
        let mut all = running(&pod);
        let before = status(&pod, &all, &memory);
        let waiting = |status: &PodStatus| {
            let own = &status.ephemeral_container_statuses.as_ref().expect("one")[0];
            own.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.clone())
        };
        assert_eq!(waiting(&before).as_deref(), Some("ContainerCreating"));
        all.push(debugger(&pod));
        let with = status(&pod, &all, &memory);
        let own = with.ephemeral_container_statuses.clone().expect("one").remove(0);
        assert!(own.state.expect("a state").running.is_some());
        assert_eq!((own.ready, own.started, own.restart_count), (false, None, 0));
        assert_eq!(own.container_id.as_deref(), Some("docker://debugger-0"));
        all[2] = ended(debugger(&pod), 7, 4);
        let after = status(&pod, &all, &memory);
        let own = after.ephemeral_container_statuses.clone().expect("one").remove(0);
        let end = own.state.expect("a state").terminated.expect("an end");
        assert_eq!((end.exit_code, end.reason.as_deref()), (7, Some("Error")));
        for other in [with, after] {
            assert_eq!((&other.phase, &other.conditions), (&before.phase, &before.conditions));
            assert_eq!(other.container_statuses, before.container_statuses);
        }
    }

    #[test]
    fn its_target_is_what_runs_by_that_name() {
        let pod = debugged(json!({}));
        let all = running(&pod);
        assert_eq!(target(&pod, &all, "debugger"), Ok(Some("web-0".to_owned())));
        let down = [all[0].clone(), ended(all[1].clone(), 1, 1)];
        let sentence = "unable to find target container web".to_owned();
        assert_eq!(target(&pod, &down, "debugger"), Err(sentence));
        for shared in ["shareProcessNamespace", "hostPID"] {
            let pod = debugged(json!({"spec": {shared: true}}));
            assert_eq!(target(&pod, &down, "debugger"), Ok(None), "{shared}");
        }
    }

    #[test]
    fn it_ends_with_its_pod() {
        let deletion = json!({"metadata": {"deletionTimestamp": at(30).to_string(),
            "deletionGracePeriodSeconds": 30}});
        let (pod, memory) = (debugged(deletion), with_image());
        let memory = Memory { withdrawal: crate::node::memory::Withdrawn::Done, ..memory };
        let mut all = running(&pod);
        all.push(debugger(&pod));
        let plan = told(&pod, &all, &memory, 0);
        assert!(plan.contains("Stop { id: \"debugger-0\""), "{plan}");
        assert!(plan.contains("Stop { id: \"web-0\""), "{plan}");
        // A finished pod waits for nobody who looks into it.
        let done = debugged(json!({"spec": {"restartPolicy": "Never"}}));
        let mut all = running(&done);
        all[1] = ended(all[1].clone(), 0, 1);
        all.push(debugger(&done));
        let plan = told(&done, &all, &with_image(), 2);
        assert!(plan.starts_with("Stop { id: \"debugger-0\""), "{plan}");
        assert_eq!(status(&done, &all, &with_image()).phase.as_deref(), Some("Succeeded"));
    }
}
