//! Pure: how a pod's containers come to their end.
//!
//! The kubelet's rules (`kuberuntime_container.go` killContainer, `termination_order.go`): a deleted
//! pod, and one that has nothing left to run, ends all its containers at once, but its sidecars wait
//! for their turn. A preStop hook runs before SIGTERM, of all containers at once, and begins while the
//! network is asked to send nothing more; it and the wait eat
//! the grace, and at least 2 s of it remain between SIGTERM and SIGKILL. Afterwards what is left is removed: of a deleted pod everything and then its object, of
//! a finished one the sandbox.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, PodSpec};

use crate::node::container_spec::is_outdated;
use crate::node::instance::{Instance, Life, Role};
use crate::node::memory::Withdrawn;
use crate::node::pod_plan::{
    PodPlan, Step, View, latest, remove, running_sandbox, stays_down, stop,
};
use crate::node::sidecar::{container_of, may_stop, restart_policy};
use crate::node::volume_eviction;
use crate::object::Object;

/// The kubelet's least time between SIGTERM and SIGKILL.
pub const LEAST_GRACE_SECONDS: i64 = 2;
/// Kubernetes' default `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Whether the pod has nothing left to run: every container ended for good, or an init container
/// failed for good, or that was written into its status before. Its sidecars may run still.
pub fn finished(pod: &Pod, instances: &[Instance]) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return true;
    }
    let Some(spec) = &pod.spec else { return false };
    let init_failed = |container: &Container| {
        let policy = restart_policy(spec, Role::Init, container);
        let end = latest(instances, Role::Init, &container.name).and_then(Instance::ended);
        policy == "Never" && end.is_some_and(|end| end.exit_code != 0)
    };
    let is_down = |container: &Container| {
        let policy = restart_policy(spec, Role::Container, container);
        latest(instances, Role::Container, &container.name).is_some_and(|instance| {
            !is_outdated(container, &instance.identity.spec_hash, &instance.settings.image)
                && instance.ended().is_some_and(|ended| stays_down(policy, ended.exit_code))
        })
    };
    let mut init = spec.init_containers.iter().flatten();
    init.any(init_failed) || spec.containers.iter().all(is_down)
}

/// Until when the pod may be active, counted from its start on the node (kubelet
/// `active_deadline.go`).
pub fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    started.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Whether the pod has run longer than it may.
pub fn overdue(pod: &Pod, now: Timestamp) -> bool {
    deadline(pod).is_some_and(|deadline| now >= deadline)
}

/// Whether nothing of the pod is to be started any more.
pub fn is_over(pod: &Pod, instances: &[Instance], now: Timestamp) -> bool {
    finished(pod, instances) || overdue(pod, now)
}

/// A finished pod: what still runs ends, and then its sandbox goes.
pub fn wind_down(view: &View<'_>, spec: &PodSpec, plan: &mut PodPlan) {
    // What an evicted pod holds is needed now (kubelet: immediateEvictionGracePeriodSeconds).
    let evicted = volume_eviction::is_evicted(view.pod);
    let grace_seconds = if evicted { volume_eviction::GRACE_SECONDS } else { grace(spec) };
    if end_all(view, spec, grace_seconds, plan) {
        return;
    }
    for sandbox in view.instances.iter().filter(|instance| instance.is_running()) {
        remove(view, sandbox, "the pod is finished", plan);
    }
}

/// A deleted pod: withdraw, stop, remove, and only then let the object go.
pub fn terminate(view: &View<'_>, spec: &PodSpec, plan: &mut PodPlan) {
    if members(view).any(Instance::is_running) {
        match view.memory.withdrawal {
            Withdrawn::NotAsked => {
                let ip = running_sandbox(view.instances).and_then(|sandbox| sandbox.ip);
                plan.act(Step::Withdraw { ip }, "the pod is deleted");
                begin_hooks(view, spec, plan);
            }
            Withdrawn::Asked => begin_hooks(view, spec, plan),
            Withdrawn::Done => {
                end_all(view, spec, remaining_grace(view, spec), plan);
            }
        }
        return;
    }
    for instance in view.instances {
        remove(view, instance, "the pod is deleted", plan);
    }
    if view.instances.is_empty() {
        let step = Step::Finish { uid: view.pod.uid().to_owned() };
        plan.act(step, "its containers are gone");
    }
}

/// A hook waits for nobody: it may be what tells others that the container closes. Only SIGTERM waits
/// until nothing new is sent to it.
fn begin_hooks(view: &View<'_>, spec: &PodSpec, plan: &mut PodPlan) {
    for instance in members(view).filter(|one| one.life == Life::Running) {
        let begun = view.memory.endings.contains_key(&instance.id)
            || view.memory.stopping.contains(&instance.id);
        if begun || container_of(spec, instance).and_then(pre_stop).is_none() {
            continue;
        }
        let name = instance.identity.container.clone();
        let reason = format!("Stopping container {name}");
        let grace_seconds = remaining_grace(view, spec);
        let step = Step::BeginEnd { id: instance.id.clone(), container: name, grace_seconds };
        plan.act(step, reason);
    }
}

fn members<'a>(view: &View<'a>) -> impl Iterator<Item = &'a Instance> + use<'a> {
    view.instances.iter().filter(|instance| instance.identity.role != Role::Sandbox)
}

/// Ends every container, each in its turn; answers whether any runs still.
fn end_all(view: &View<'_>, spec: &PodSpec, grace_seconds: i64, plan: &mut PodPlan) -> bool {
    let running: Vec<&Instance> = members(view).filter(|instance| instance.is_running()).collect();
    for instance in &running {
        let reason = format!("Stopping container {}", instance.identity.container);
        let in_turn = may_stop(spec, view.instances, instance);
        end(view, spec, instance, grace_seconds, in_turn, &reason, plan);
    }
    !running.is_empty()
}

/// Ends one running container; `in_turn`: those that end before it have ended.
pub fn end(
    view: &View<'_>,
    spec: &PodSpec,
    instance: &Instance,
    grace_seconds: i64,
    in_turn: bool,
    reason: &str,
    plan: &mut PodPlan,
) {
    if view.memory.stopping.contains(&instance.id) {
        return stop(view, instance, grace_seconds, reason, plan);
    }
    let Some(ending) = view.memory.endings.get(&instance.id) else {
        // Nothing can be run in a container that is paused.
        let hook = container_of(spec, instance).and_then(pre_stop);
        if in_turn && (hook.is_none() || instance.life != Life::Running) {
            return stop(view, instance, grace_seconds, reason, plan);
        }
        let step = Step::BeginEnd {
            id: instance.id.clone(),
            container: instance.identity.container.clone(),
            grace_seconds,
        };
        return plan.act(step, reason);
    };
    // A deletion with a shorter grace counts from now, and so does all of it where the clock
    // stepped back.
    let until = ending.until.min(view.now + SignedDuration::from_secs(grace_seconds));
    if (!in_turn || ending.hook_runs) && view.now < until {
        return plan.look_again_at(until);
    }
    let left = until.duration_since(view.now).as_secs().max(LEAST_GRACE_SECONDS);
    stop(view, instance, left, reason, plan);
}

/// What runs in a container before it is told to stop.
pub fn pre_stop(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.pre_stop.as_ref()
}

/// The grace of an end that is not the pod's deletion.
pub fn grace(spec: &PodSpec) -> i64 {
    spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS).max(1)
}

/// The whole grace when the stop follows the deletion at once (the wait for the network is not the
/// container's fault); what is left of it when the daemon was away in between.
fn remaining_grace(view: &View<'_>, spec: &PodSpec) -> i64 {
    let meta = &view.pod.metadata;
    let whole = meta.deletion_grace_period_seconds.unwrap_or(grace(spec)).max(1);
    let left = meta
        .deletion_timestamp
        .as_ref()
        .map_or(whole, |deadline| deadline.0.duration_since(view.now).as_secs());
    if left + 4 >= whole { whole } else { left.clamp(LEAST_GRACE_SECONDS, whole.max(2)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::node::capacity::Limits;
    use crate::node::memory::{Ending, Memory};
    use crate::node::pod_plan::tests::{at, ended, instance, pod, told, with_image};
    use crate::node::pod_plan::{Action, plan};
    use crate::node::sidecar::{is_sidecar, lasting};

    #[test]
    fn deletion_withdraws_stops_removes_and_finishes() {
        let pod = pod(
            json!({"metadata": {"deletionTimestamp": at(30).to_string(), "deletionGracePeriodSeconds": 30}}),
        );
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let member = instance(&pod, Role::Container, "web", 0);
        let running = [sandbox.clone(), member.clone()];
        let mut memory = with_image();
        assert!(told(&pod, &running, &memory, 0).starts_with("Withdraw { ip: Some(10.42.0.2) }"));
        memory.withdrawal = Withdrawn::Asked;
        assert_eq!(told(&pod, &running, &memory, 0), "");
        memory.withdrawal = Withdrawn::Done;
        let plan = told(&pod, &running, &memory, 1);
        assert!(
            plan.starts_with("Stop { id: \"web-0\", container: \"web\", grace_seconds: 30 }"),
            "{plan}"
        );
        // The daemon was away for most of the grace.
        assert!(told(&pod, &running, &memory, 25).contains("grace_seconds: 5"));
        let down = [sandbox, ended(member, 0, 2)];
        let plan = told(&pod, &down, &memory, 2);
        assert!(
            plan.contains("Remove { id: \"sandbox-0\" }")
                && plan.contains("Remove { id: \"web-0\" }")
        );
        assert!(told(&pod, &[], &memory, 3).starts_with("Finish { uid: \"u\" }"));
    }

    #[test]
    fn a_hook_begins_beside_the_withdrawal_and_sigterm_waits_for_it() {
        let pod = pod(json!({"metadata": {"deletionTimestamp": at(30).to_string(),
                "deletionGracePeriodSeconds": 30},
            "spec": {"containers": [{"name": "web", "image": "web:1",
                "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]}}));
        let all = [instance(&pod, Role::Sandbox, "", 0), instance(&pod, Role::Container, "web", 0)];
        let mut memory = with_image();
        let begin = "BeginEnd { id: \"web-0\", container: \"web\", grace_seconds: 30 } because Stopping container web";
        assert_eq!(
            told(&pod, &all, &memory, 0),
            format!("Withdraw {{ ip: Some(10.42.0.2) }} because the pod is deleted\n{begin}")
        );
        memory.withdrawal = Withdrawn::Asked;
        assert_eq!(told(&pod, &all, &memory, 0), begin);
        memory.endings.insert("web-0".into(), Ending { until: at(30), hook_runs: true });
        assert_eq!(told(&pod, &all, &memory, 1), "");
        // It has ended, and the network has not answered yet.
        memory.endings.insert("web-0".into(), Ending { until: at(30), hook_runs: false });
        assert_eq!(told(&pod, &all, &memory, 1), "");
        memory.withdrawal = Withdrawn::Done;
        let plan = told(&pod, &all, &memory, 2);
        assert!(plan.starts_with("Stop { id: \"web-0\""), "{plan}");
    }

    /// A pod of `web` with two sidecars and everything running.
    fn with_sidecars(extra: serde_json::Value) -> (Pod, Vec<Instance>) {
        let mut fields = json!({"spec": {"initContainers": [
            {"name": "first", "image": "web:1", "restartPolicy": "Always"},
            {"name": "setup", "image": "web:1"},
            {"name": "second", "image": "web:1", "restartPolicy": "Always"}]}});
        json_patch::merge(&mut fields, &extra);
        let pod = pod(fields);
        let instances = vec![
            instance(&pod, Role::Sandbox, "", 0),
            instance(&pod, Role::Init, "first", 0),
            ended(instance(&pod, Role::Init, "setup", 0), 0, 0),
            instance(&pod, Role::Init, "second", 0),
            instance(&pod, Role::Container, "web", 0),
        ];
        (pod, instances)
    }

    #[test]
    fn sidecars_end_after_the_others_the_last_started_first() {
        let (pod, mut all) = with_sidecars(json!({"metadata": {
            "deletionTimestamp": at(30).to_string(), "deletionGracePeriodSeconds": 30}}));
        let mut memory = Memory { withdrawal: Withdrawn::Done, ..with_image() };
        assert_eq!(
            told(&pod, &all, &memory, 0),
            "BeginEnd { id: \"first-0\", container: \"first\", grace_seconds: 30 } because Stopping container first\n\
             BeginEnd { id: \"second-0\", container: \"second\", grace_seconds: 30 } because Stopping container second\n\
             Stop { id: \"web-0\", container: \"web\", grace_seconds: 30 } because Stopping container web"
        );
        for id in ["first-0", "second-0"] {
            memory.endings.insert(id.into(), Ending { until: at(30), hook_runs: false });
        }
        memory.stopping.insert("web-0".into());
        assert_eq!(told(&pod, &all, &memory, 5), "");
        // The wait eats their grace.
        all[4] = ended(all[4].clone(), 0, 10);
        let stop = |name: &str, grace: i64| {
            format!(
                "Stop {{ id: \"{name}-0\", container: \"{name}\", grace_seconds: {grace} }} because Stopping container {name}"
            )
        };
        assert_eq!(told(&pod, &all, &memory, 10), stop("second", 20));
        all[3] = ended(all[3].clone(), 143, 12);
        assert_eq!(told(&pod, &all, &memory, 12), stop("first", 18));
        // Who never comes to its turn has the least grace when all of it is over.
        let (_, all) = with_sidecars(json!({}));
        let late = told(&pod, &all, &memory, 30);
        assert_eq!(late, format!("{}\n{}", stop("first", 2), stop("second", 2)));
    }

    #[test]
    fn a_pod_whose_own_containers_are_done_ends_its_sidecars() {
        let (pod, mut all) = with_sidecars(json!({"spec": {"restartPolicy": "OnFailure"}}));
        all[4] = ended(all[4].clone(), 1, 5);
        assert!(told(&pod, &all, &with_image(), 5).contains("MakeMember { container: \"web\""));
        all[4] = ended(all[4].clone(), 0, 5);
        assert!(finished(&pod, &all));
        let plan = told(&pod, &all, &with_image(), 5);
        assert!(plan.contains("Stop { id: \"second-0\"") && !plan.contains("Remove"), "{plan}");
        assert!(plan.contains("BeginEnd { id: \"first-0\""), "{plan}");
        // A sidecar's own end is nobody's failure, and it is not started again.
        all[3] = ended(all[3].clone(), 143, 6);
        assert!(!told(&pod, &all, &with_image(), 6).contains("Make"));
        all[1] = ended(all[1].clone(), 143, 6);
        let plan = told(&pod, &all, &with_image(), 6);
        assert_eq!(plan, "Remove { id: \"sandbox-0\" } because the pod is finished");
    }

    #[test]
    fn a_second_deletion_shortens_the_first_ones_grace() {
        let deleted = |seconds: i64, at_second: i64| {
            pod(json!({"metadata": {"deletionGracePeriodSeconds": seconds,
                "deletionTimestamp": at(at_second + seconds).to_string()}}))
        };
        let all = |pod: &Pod| {
            [instance(pod, Role::Sandbox, "", 0), instance(pod, Role::Container, "web", 0)]
        };
        let first = deleted(30, 0);
        let mut memory = Memory { withdrawal: Withdrawn::Done, ..with_image() };
        assert!(told(&first, &all(&first), &memory, 0).contains("grace_seconds: 30"));
        memory.stopping.insert("web-0".into());
        memory.stop_by.insert("web-0".into(), at(30));
        for second in 0..40 {
            assert_eq!(told(&first, &all(&first), &memory, second), "", "second {second}");
        }
        let second = deleted(1, 10);
        assert!(told(&second, &all(&second), &memory, 10).contains("grace_seconds: 1 }"));
        memory.stop_by.insert("web-0".into(), at(11));
        assert_eq!(told(&second, &all(&second), &memory, 10), "");
    }

    #[test]
    fn a_pod_past_its_deadline_winds_down_and_has_failed() {
        let with = |phase: &str| {
            pod(json!({"spec": {"activeDeadlineSeconds": 60},
                "status": {"phase": phase, "startTime": at(0).to_string()}}))
        };
        let (pod, memory) = (with("Running"), with_image());
        let all = [instance(&pod, Role::Sandbox, "", 0), instance(&pod, Role::Container, "web", 0)];
        let limits = Limits::default();
        let look = |instances: &[Instance], second: i64| {
            let view = View { pod: &pod, instances, memory: &memory, limits, now: at(second) };
            let plan = plan(&view);
            let host = std::net::Ipv4Addr::LOCALHOST;
            let status = crate::node::pod_status::pod_status(&view, &plan, host);
            (plan, status.phase.unwrap_or_default(), status.reason, status.message)
        };
        let (early, phase, reason, _) = look(&all, 59);
        assert_eq!((early.actions, early.look_again), (Vec::new(), Some(at(60))));
        assert_eq!((&*phase, reason), ("Running", None));
        // It is said to have failed when its containers are down.
        let (late, phase, reason, _) = look(&all, 60);
        assert_eq!(late.actions[0].reason, "Stopping container web");
        assert_eq!((&*phase, reason), ("Running", None));
        let down = [all[0].clone(), ended(all[1].clone(), 143, 61)];
        let (late, phase, reason, message) = look(&down, 61);
        assert!(matches!(late.actions[..], [Action { step: Step::Remove { .. }, .. }]));
        assert_eq!((&*phase, reason.as_deref()), ("Failed", Some("DeadlineExceeded")));
        let words = "Pod was active on the node longer than the specified deadline";
        assert_eq!(message.as_deref(), Some(words));
        assert_eq!(told(&with("Succeeded"), &down[1..], &memory, 99), "");
    }

    #[test]
    fn a_hook_before_the_end_eats_the_grace() {
        let with_hook = |extra: serde_json::Value| {
            let mut fields = json!({"spec": {"containers": [{"name": "web", "image": "web:1",
                "livenessProbe": {"exec": {}, "terminationGracePeriodSeconds": 9},
                "lifecycle": {"preStop": {"exec": {"command": ["/bye"]}}}}]}});
            json_patch::merge(&mut fields, &extra);
            pod(fields)
        };
        let pod = with_hook(json!({"metadata": {
            "deletionTimestamp": at(30).to_string(), "deletionGracePeriodSeconds": 30}}));
        let all = [instance(&pod, Role::Sandbox, "", 0), instance(&pod, Role::Container, "web", 0)];
        let mut memory = Memory { withdrawal: Withdrawn::Done, ..with_image() };
        let begin = "BeginEnd { id: \"web-0\", container: \"web\", grace_seconds: 30 } because Stopping container web";
        assert_eq!(told(&pod, &all, &memory, 0), begin);
        let ending = |hook_runs| Ending { until: at(30), hook_runs };
        memory.endings.insert("web-0".into(), ending(true));
        assert_eq!(told(&pod, &all, &memory, 29), "");
        let stop = |grace: i64| {
            format!(
                "Stop {{ id: \"web-0\", container: \"web\", grace_seconds: {grace} }} because Stopping container web"
            )
        };
        assert_eq!(told(&pod, &all, &memory, 30), stop(2));
        memory.endings.insert("web-0".into(), ending(false));
        assert_eq!(told(&pod, &all, &memory, 12), stop(18));
        assert_eq!(told(&pod, &all, &memory, 29), stop(2));
        // One that is paused cannot run it.
        memory.endings.clear();
        let paused = [all[0].clone(), Instance { life: Life::Paused, ..all[1].clone() }];
        assert_eq!(told(&pod, &paused, &memory, 0), stop(30));

        // A container that its probe ends says good-bye as well, once, whatever the probe says then.
        let pod = with_hook(json!({}));
        let mut memory = with_image();
        let failed = crate::node::memory::Verdicts {
            liveness: Some(crate::node::probe::Verdict::Failed("no".into())),
            ..Default::default()
        };
        memory.probes.insert("web-0".into(), failed);
        let plan = told(&pod, &all, &memory, 0);
        assert!(
            plan.contains("grace_seconds: 9 } because Container web failed liveness"),
            "{plan}"
        );
        memory.probes.clear();
        memory.endings.insert("web-0".into(), Ending { until: at(9), hook_runs: false });
        assert_eq!(told(&pod, &all, &memory, 4), stop(5));
    }

    /// One pod's world: whatever is asked for happens at once, and time is told.
    struct World {
        pod: Pod,
        instances: Vec<Instance>,
        memory: Memory,
        now: i64,
        /// Containers that were ready for their successors once in this sandbox.
        passed: std::collections::BTreeSet<String>,
    }

    impl World {
        fn new(init: &[u8], own: usize, policy: &str) -> Self {
            let init = init.iter().enumerate().map(|(index, kind)| match kind {
                0 => json!({"name": format!("i{index}"), "image": "web:1"}),
                _ => json!({"name": format!("i{index}"), "image": "web:1",
                    "restartPolicy": "Always"}),
            });
            let own = (0..own).map(|index| json!({"name": format!("c{index}"), "image": "web:1"}));
            let pod = pod(json!({"spec": {"restartPolicy": policy,
                "initContainers": init.collect::<Vec<_>>(),
                "containers": own.collect::<Vec<_>>()}}));
            let passed = std::collections::BTreeSet::new();
            Self { pod, instances: Vec::new(), memory: with_image(), now: 0, passed }
        }

        fn spec(&self) -> PodSpec {
            self.pod.spec.clone().expect("a spec")
        }

        fn runs(&self, role: Role, name: &str) -> bool {
            latest(&self.instances, role, name).is_some_and(Instance::is_running)
        }

        /// One pass: what it asks for is checked against the rules and done.
        fn pass(&mut self) -> bool {
            let limits = Limits::default();
            let view = View {
                pod: &self.pod,
                instances: &self.instances,
                memory: &self.memory,
                limits,
                now: at(self.now),
            };
            let actions = plan(&view).actions;
            for action in &actions {
                self.does(&action.step);
            }
            actions.iter().any(|action| matches!(action.step, Step::Finish { .. }))
        }

        fn does(&mut self, step: &Step) {
            match step {
                Step::MakeSandbox { attempt } => {
                    self.instances.push(instance(&self.pod, Role::Sandbox, "", *attempt));
                }
                Step::MakeMember { container, role, attempt, back_off, .. } => {
                    self.may_start(*role, container);
                    if let Some(back_off) = back_off {
                        self.memory.back_offs.insert(container.clone(), back_off.clone());
                    }
                    self.instances.push(instance(&self.pod, *role, container, *attempt));
                    let spec = self.spec();
                    let mut init = spec.init_containers.iter().flatten();
                    if init.any(|one| one.name == *container && is_sidecar(one)) {
                        self.passed.insert(container.clone());
                    }
                }
                Step::Withdraw { .. } => self.memory.withdrawal = Withdrawn::Done,
                Step::BeginEnd { id, grace_seconds, .. } => {
                    let until = at(self.now + grace_seconds);
                    self.memory.endings.insert(id.clone(), Ending { until, hook_runs: false });
                }
                Step::Stop { id, .. } => {
                    self.may_be_stopped(id);
                    let _ = self.memory.stopping.insert(id.clone());
                }
                Step::Remove { id } => self.instances.retain(|one| one.id != *id),
                Step::Finish { .. } => assert!(self.instances.is_empty()),
                other => panic!("nothing asks for {other:?}"),
            }
        }

        fn may_start(&self, role: Role, name: &str) {
            assert!(!self.runs(role, name), "{name} twice");
            let spec = self.spec();
            let mut init = spec.init_containers.iter().flatten();
            let before: Vec<&Container> = match role {
                Role::Init => init.take_while(|one| one.name != name).collect(),
                _ => init.by_ref().collect(),
            };
            for one in before {
                assert!(self.passed.contains(&one.name), "{name} before {}", one.name);
            }
        }

        fn may_be_stopped(&self, id: &str) {
            let spec = self.spec();
            let one = self.instances.iter().find(|one| one.id == id).expect("it is there");
            assert!(one.is_running(), "{id} is down already");
            let over = self.memory.endings.get(id).is_some_and(|end| at(self.now) >= end.until);
            if one.identity.role != Role::Init || over {
                return;
            }
            let after =
                lasting(&spec).skip_while(|(_, other)| other.name != one.identity.container);
            for (role, later) in after.skip(1) {
                assert!(!self.runs(role, &later.name), "{id} before {}", later.name);
            }
        }

        /// A running container ends.
        fn end(&mut self, which: usize, code: i32) {
            let running: Vec<usize> = (0..self.instances.len())
                .filter(|at| {
                    let one = &self.instances[*at];
                    one.is_running() && one.identity.role != Role::Sandbox
                })
                .collect();
            let Some(index) = running.get(which % running.len().max(1)) else { return };
            let one = &mut self.instances[*index];
            let name = one.identity.container.clone();
            one.life = Life::Exited;
            one.exit_code = code;
            one.finished_at = Some(at(self.now));
            self.memory.stopping.remove(&one.id);
            self.memory.endings.remove(&one.id);
            if code == 0 {
                self.passed.insert(name);
            }
        }
    }

    proptest! {
        /// Whatever ends when: nothing starts before what it waits for, no container runs twice, no
        /// sidecar stops before those that may need it, and a deleted pod goes.
        #[test]
        fn order_is_kept_at_both_ends(
            init in prop::collection::vec(0..2_u8, 0..5),
            own in 1..4_usize,
            policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
            events in prop::collection::vec((0..8_usize, 0..2_i32, 0..40_i64), 0..40),
        ) {
            let mut world = World::new(&init, own, policy);
            for (which, code, seconds) in events {
                for _ in 0..3 {
                    world.pass();
                }
                world.now += seconds;
                world.end(which, code);
            }
            let deadline = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(world.now + 30));
            world.pod.metadata.deletion_timestamp = Some(deadline);
            world.pod.metadata.deletion_grace_period_seconds = Some(30);
            let mut gone = false;
            for _ in 0..60 {
                gone |= world.pass();
                world.now += 1;
                // Each that was told to stop does so a while later.
                let told: Vec<String> = world.memory.stopping.iter().cloned().collect();
                let index = told.first().and_then(|id| {
                    let running = world.instances.iter().filter(|one| {
                        one.is_running() && one.identity.role != Role::Sandbox
                    });
                    running.map(|one| &one.id).position(|other| other == id)
                });
                if let Some(index) = index {
                    world.end(index, 143);
                }
            }
            prop_assert!(gone, "{:?}", world.instances);
        }
    }
}
