//! Pure: what to do next about one pod, from the pod, its instances and the worker's memory.
//!
//! The kubelet's rules (`kuberuntime_manager.go` computePodActions): a sandbox that is gone takes
//! all its members with it, and they are made anew; init containers run in order, once a sandbox,
//! and sidecars among them are kept running from then on; a container whose spec hash changed is
//! made anew whatever the restart policy; a failed liveness or startup probe kills, and then the
//! restart policy counts. One dead instance a container stays, for `logs --previous`. How a deleted
//! or finished pod ends is in `termination_plan.rs`.
//!
//! Steps of one plan are done in order; members of a sandbox made in the same plan join it. A step
//! names ids: whoever performs it has no choice left.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};

use crate::node::capacity::Limits;
use crate::node::container_spec::is_outdated;
use crate::node::drift;
use crate::node::ephemeral_plan;
use crate::node::image::{self, ImageDecision, ImageState, Waiting};
use crate::node::instance::{Instance, Life, Role};
use crate::node::memory::{Memory, PostStart};
use crate::node::pod_status::{is_past_post_start, is_started, post_start};
use crate::node::probe::Verdict;
use crate::node::restart::{self, BackOff, go_duration};
use crate::node::sidecar::{is_sidecar, restart_policy};
use crate::node::termination_plan::{
    LEAST_GRACE_SECONDS, deadline, end, grace, is_over, terminate, wind_down,
};
use crate::object::Object;
use crate::object::ephemeral_container::every_name;

/// Everything a decision about a pod looks at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub pod: &'a Pod,
    /// Every instance of ours with the pod's uid.
    pub instances: &'a [Instance],
    pub memory: &'a Memory,
    pub limits: Limits,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Pull {
        image: String,
    },
    /// Create and start.
    MakeSandbox {
        attempt: u32,
    },
    /// One that was created, and the daemon stopped before it was started.
    StartSandbox {
        id: String,
    },
    /// Create and start. `sandbox: None` is the one that this plan makes or starts.
    MakeMember {
        container: String,
        role: Role,
        attempt: u32,
        sandbox: Option<String>,
        /// The crash-loop series after this restart.
        back_off: Option<BackOff>,
        /// It replaces one that was changed from outside.
        heals: bool,
    },
    StartMember {
        container: String,
        id: String,
    },
    /// Run the hook after its start.
    PostStart {
        id: String,
        container: String,
    },
    /// Ask the network to send nothing more to this address.
    Withdraw {
        ip: Option<Ipv4Addr>,
    },
    /// From now on its grace runs, and it is told to stop when it is its turn.
    BeginEnd {
        id: String,
        container: String,
        grace_seconds: i64,
    },
    Stop {
        id: String,
        container: String,
        grace_seconds: i64,
    },
    Remove {
        id: String,
    },
    /// Give it the name again that its labels ask for.
    Rename {
        id: String,
        name: String,
    },
    /// Delete the pod's object, this incarnation only.
    Finish {
        uid: String,
    },
}

/// A step and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    pub step: Step,
    pub reason: String,
}

/// What to do, what containers wait for, and when to look again although nothing happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodPlan {
    pub actions: Vec<Action>,
    /// By container: why it has no running instance.
    pub waiting: BTreeMap<String, Waiting>,
    pub look_again: Option<Timestamp>,
}

impl PodPlan {
    pub(super) fn act(&mut self, step: Step, reason: impl Into<String>) {
        self.actions.push(Action { step, reason: reason.into() });
    }

    fn wait(&mut self, container: &str, waiting: Waiting, until: Option<Timestamp>) {
        self.waiting.insert(container.to_owned(), waiting);
        if let Some(until) = until {
            self.look_again_at(until);
        }
    }

    pub(super) fn look_again_at(&mut self, at: Timestamp) {
        self.look_again = Some(self.look_again.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Every time that a decision takes from what others wrote, for [`Memory::settle`].
pub fn told_times(pod: &Pod, instances: &[Instance]) -> Vec<Timestamp> {
    let made = pod.metadata.creation_timestamp.iter().map(|at| at.0);
    let of = |one: &Instance| [Some(one.created_at), one.finished_at].into_iter().flatten();
    made.chain(instances.iter().flat_map(of)).collect()
}

/// The instance with the highest attempt.
pub fn latest<'a>(instances: &'a [Instance], role: Role, container: &str) -> Option<&'a Instance> {
    instances
        .iter()
        .filter(|i| i.identity.role == role && i.identity.container == container)
        .max_by_key(|i| i.identity.attempt)
}

/// The sandbox that members join: the latest, if it runs.
pub fn running_sandbox(instances: &[Instance]) -> Option<&Instance> {
    latest(instances, Role::Sandbox, "").filter(|sandbox| sandbox.is_running())
}

/// Whether an end with this code is the last one.
pub(super) fn stays_down(policy: &str, exit_code: i32) -> bool {
    policy == "Never" || (policy == "OnFailure" && exit_code == 0)
}

/// Decides.
pub fn plan(view: &View<'_>) -> PodPlan {
    let mut plan = PodPlan::default();
    let Some(spec) = &view.pod.spec else { return plan };
    if view.pod.metadata.deletion_timestamp.is_some() {
        terminate(view, spec, &mut plan);
        return plan;
    }
    if is_over(view.pod, view.instances, view.now) {
        wind_down(view, spec, &mut plan);
        clean_up(view, None, &mut plan);
        return plan;
    }
    if let Some(deadline) = deadline(view.pod) {
        plan.look_again_at(deadline);
    }
    match sandbox(view, &mut plan) {
        Sandbox::Wait => {
            for name in every_name(spec) {
                plan.waiting.entry(name.to_owned()).or_insert_with(Waiting::creating);
            }
        }
        Sandbox::New => members(view, spec, None, &mut plan),
        Sandbox::There(id) => {
            ephemeral_plan::start(view, spec, &id, &mut plan);
            members(view, spec, Some(&id), &mut plan);
        }
    }
    clean_up(view, running_sandbox(view.instances), &mut plan);
    plan
}

enum Sandbox {
    /// Nothing can be started in this pass.
    Wait,
    /// This plan makes it.
    New,
    /// It runs, or this plan starts it: what was made in it before is still its own.
    There(String),
}

fn sandbox(view: &View<'_>, plan: &mut PodPlan) -> Sandbox {
    let last = latest(view.instances, Role::Sandbox, "");
    if let Some(running) = last.filter(|sandbox| sandbox.is_running()) {
        let is_other = was_restarted(running, view.instances) || is_cut_off(running);
        if is_other && !view.memory.report_only {
            let reason = "Pod sandbox changed, it will be killed and re-created.";
            stop(view, running, LEAST_GRACE_SECONDS, reason, plan);
            return Sandbox::Wait;
        }
        return Sandbox::There(running.id.clone());
    }
    if view.memory.report_only && last.is_none() && has_run(view.pod) {
        // Somebody removed it. One that ended (a reboot, a crash) is restarted as always.
        return Sandbox::Wait;
    }
    // Members of a dead sandbox hold a network namespace without an interface: they go first, or
    // the new ones would run beside them.
    let orphans: Vec<&Instance> = view
        .instances
        .iter()
        .filter(|i| i.identity.role != Role::Sandbox && i.is_running())
        .collect();
    for orphan in &orphans {
        stop(view, orphan, LEAST_GRACE_SECONDS, "its sandbox is gone", plan);
    }
    if !orphans.is_empty() {
        return Sandbox::Wait;
    }
    if let Some(failure) = view.memory.failures.get("")
        && view.now < failure.retry_at()
    {
        for container in view.pod.spec.iter().flat_map(|spec| &spec.containers) {
            plan.wait(&container.name, failure.waiting.clone(), Some(failure.retry_at()));
        }
        return Sandbox::Wait;
    }
    match last.filter(|sandbox| sandbox.life == Life::Created && sandbox.error.is_empty()) {
        Some(created) => {
            plan.act(Step::StartSandbox { id: created.id.clone() }, "it was made, not started");
            return Sandbox::There(created.id.clone());
        }
        None => {
            let attempt = last.map_or(0, |sandbox| sandbox.identity.attempt + 1);
            let reason =
                if last.is_some() { "the sandbox is gone" } else { "the pod has no sandbox" };
            plan.act(Step::MakeSandbox { attempt }, reason);
        }
    }
    Sandbox::New
}

/// Whether somebody started this running sandbox again after it had ended: it has another network
/// namespace than the members that run since before. We never start one twice, so only such a
/// sandbox runs and has an end; times alone would take a clock that stepped back for it.
pub fn was_restarted(sandbox: &Instance, instances: &[Instance]) -> bool {
    let before =
        |member: &Instance| member.started_at.is_some_and(|at| Some(at) < sandbox.started_at);
    sandbox.is_running()
        && sandbox.finished_at.is_some()
        && instances.iter().any(|member| {
            member.is_running() && member.joined.as_ref() == Some(&sandbox.id) && before(member)
        })
}

/// Whether somebody took a running sandbox off the pods' network: the kubelet too makes anew a pod
/// whose sandbox has no address. Of one that the engine tells only vaguely nothing is known.
pub fn is_cut_off(sandbox: &Instance) -> bool {
    sandbox.is_running() && sandbox.started_at.is_some() && sandbox.is_detached
}

/// Whether any container of the pod is known to have run.
pub fn has_run(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|status| status.container_id.is_some())
}

/// Starts, restarts or stops what lives in the sandbox (`None`: the one this plan makes).
fn members(view: &View<'_>, spec: &PodSpec, sandbox: Option<&str>, plan: &mut PodPlan) {
    let in_sandbox =
        |instance: &&Instance| sandbox.is_some() && instance.joined.as_deref() == sandbox;
    let app_began = view
        .instances
        .iter()
        .filter(in_sandbox)
        .any(|instance| instance.identity.role == Role::Container);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let present = |container: &Container| {
        latest(view.instances, Role::Init, &container.name).filter(in_sandbox)
    };
    // What was made last says how far the pod came: a sidecar before it that ended since is
    // started again, and nobody waits for it (kubelet computeInitContainerActions).
    let made = init.iter().rposition(|container| present(container).is_some());
    let place = if app_began { init.len() } else { made.unwrap_or(0) };
    for (index, container) in init.iter().enumerate() {
        let (present, stays) = (present(container), is_sidecar(container));
        let passed = match present {
            _ if index < place => true,
            Some(instance) if stays => is_started(instance, container, view.memory),
            Some(instance) => instance.ended().is_some_and(|end| end.exit_code == 0),
            None => false,
        };
        if stays || !passed {
            member(view, spec, container, Role::Init, present, sandbox, plan);
        }
        if !passed {
            for later in init[index + 1..].iter().chain(&spec.containers) {
                plan.waiting.entry(later.name.clone()).or_insert_with(Waiting::initializing);
            }
            return;
        }
    }
    let mut held_up = false;
    for container in &spec.containers {
        let present = latest(view.instances, Role::Container, &container.name)
            .filter(|instance| in_sandbox(instance));
        if held_up && !present.is_some_and(Instance::is_running) {
            plan.waiting.entry(container.name.clone()).or_insert_with(Waiting::creating);
            continue;
        }
        member(view, spec, container, Role::Container, present, sandbox, plan);
        held_up |= holds_up(view, container, plan);
    }
}

/// The hook after a container's start: until it has ended, the containers after it are not made
/// (the kubelet starts a pod's containers one after the other, and a hook is part of a start).
fn holds_up(view: &View<'_>, container: &Container, plan: &PodPlan) -> bool {
    let is_made = |action: &Action| {
        matches!(&action.step, Step::MakeMember { container: name, .. }
            | Step::StartMember { container: name, .. } if *name == container.name)
    };
    let present = latest(view.instances, Role::Container, &container.name);
    let runs = present.filter(|instance| instance.is_running());
    post_start(container).is_some()
        && (plan.actions.iter().any(is_made)
            || runs.is_some_and(|instance| !is_past_post_start(instance, container, view.memory)))
}

/// One container: `present` is its latest instance in the present sandbox.
fn member(
    view: &View<'_>,
    spec: &PodSpec,
    container: &Container,
    role: Role,
    present: Option<&Instance>,
    sandbox: Option<&str>,
    plan: &mut PodPlan,
) {
    let name = &container.name;
    let Some(instance) = present else {
        return make(view, container, role, sandbox, None, false, plan);
    };
    let outdated = is_outdated(container, &instance.identity.spec_hash, &instance.settings.image);
    let stays = role == Role::Container || is_sidecar(container);
    let foreign = stays
        && drift::may_heal(view.memory, name, view.now)
        && (has_another_name(view, instance)
            || !drift::changed_settings(container, instance, view.limits).is_empty());
    if instance.is_running() {
        if view.memory.endings.contains_key(&instance.id) {
            let reason = format!("Stopping container {name}");
            return end(view, spec, instance, grace(spec), true, &reason, plan);
        }
        if !is_past_post_start(instance, container, view.memory) {
            return after_start(view, spec, container, instance, plan);
        }
        let verdicts = view.memory.probes.get(&instance.id);
        let failed =
            |verdict: Option<&Option<Verdict>>| matches!(verdict, Some(Some(Verdict::Failed(_))));
        let (why, probe) = if outdated {
            ("definition changed, will be restarted", None)
        } else if failed(verdicts.map(|v| &v.startup)) {
            ("failed startup probe, will be restarted", container.startup_probe.as_ref())
        } else if failed(verdicts.map(|v| &v.liveness)) {
            ("failed liveness probe, will be restarted", container.liveness_probe.as_ref())
        } else if foreign {
            ("was changed from outside, will be made anew", None)
        } else {
            return;
        };
        // A probe's own grace counts for the end that this probe causes, and for no other.
        let own_grace = probe.and_then(|probe| probe.termination_grace_period_seconds);
        let grace = own_grace.map_or(grace(spec), |seconds| seconds.max(1));
        let message = match role {
            Role::Init => {
                format!("Init container {name} {}", why.trim_end_matches(", will be restarted"))
            }
            _ => format!("Container {name} {why}"),
        };
        return end(view, spec, instance, grace, true, &message, plan);
    }
    let Some(ended) = instance.ended() else {
        if ready_to_make(view, container, plan) {
            let step = Step::StartMember { container: name.clone(), id: instance.id.clone() };
            plan.act(step, "it was made, not started");
        }
        return;
    };
    if outdated {
        return make(view, container, role, sandbox, None, false, plan);
    }
    if stays_down(restart_policy(spec, role, container), ended.exit_code) {
        return;
    }
    if foreign {
        return make(view, container, role, sandbox, None, true, plan);
    }
    let series = &restart::stable_key(view.pod, container);
    let before = view.memory.back_offs.get(name);
    let ended_at = view.memory.counted(ended.finished_at);
    if let Some(until) = before.and_then(|b| b.holds(series, ended_at, view.now)) {
        let delay = before.map_or(SignedDuration::ZERO, |back_off| back_off.delay);
        let key = view.pod.key();
        let message = format!(
            "back-off {} restarting failed container={name} pod={}_{}({})",
            go_duration(delay),
            key.name,
            key.namespace,
            view.pod.uid()
        );
        return plan.wait(name, Waiting::new("CrashLoopBackOff", message), Some(until));
    }
    let back_off = BackOff::grown(before, series, ended_at, view.now);
    make(view, container, role, sandbox, Some(back_off), false, plan);
}

/// Whether a container whose sandbox was made before the pod has the sandbox's host name. The engine
/// gave it that when somebody started it again (we never start one twice, so only such a one runs and
/// has an end), or when the daemon was killed between its start and its name.
fn has_another_name(view: &View<'_>, instance: &Instance) -> bool {
    let sandbox = running_sandbox(view.instances);
    let seen = view.memory.has_name.get(&instance.id) == Some(&false);
    instance.is_running()
        && (seen || instance.finished_at.is_some())
        && sandbox.is_some_and(|sandbox| sandbox.made_as.is_some())
}

/// A running container whose hook has not ended well yet.
fn after_start(
    view: &View<'_>,
    spec: &PodSpec,
    container: &Container,
    instance: &Instance,
    plan: &mut PodPlan,
) {
    let name = &container.name;
    match view.memory.post_starts.get(&instance.id) {
        None => {
            let step = Step::PostStart { id: instance.id.clone(), container: name.clone() };
            plan.act(step, "it has a hook after its start");
            plan.wait(name, Waiting::creating(), None);
        }
        Some(PostStart::Running) => plan.wait(name, Waiting::creating(), None),
        Some(PostStart::Failed) => {
            plan.wait(name, Waiting::new("PostStartHookError", "PostStartHook failed"), None);
            end(view, spec, instance, grace(spec), true, "FailedPostStartHook", plan);
        }
        Some(PostStart::Done) => {}
    }
}

/// Whether nothing stands in the way of making a container; else says what does.
pub(super) fn ready_to_make(view: &View<'_>, container: &Container, plan: &mut PodPlan) -> bool {
    if let Some(waiting) = &view.memory.unready {
        plan.wait(&container.name, waiting.clone(), None);
        return false;
    }
    if let Some(failure) = view.memory.failures.get(&container.name)
        && view.now < failure.retry_at()
    {
        plan.wait(&container.name, failure.waiting.clone(), Some(failure.retry_at()));
        return false;
    }
    true
}

/// Makes a container that is not there, when its image is.
pub(super) fn make(
    view: &View<'_>,
    container: &Container,
    role: Role,
    sandbox: Option<&str>,
    back_off: Option<BackOff>,
    heals: bool,
    plan: &mut PodPlan,
) {
    let name = &container.name;
    let image = container.image.clone().unwrap_or_default();
    let unknown = ImageState::default();
    let state = view.memory.images.get(&image).unwrap_or(&unknown);
    let last = latest(view.instances, role, name);
    let begun = view.pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |at| at.0);
    let needed_since = view.memory.counted(last.map_or(begun, |instance| instance.created_at));
    match image::decide(container, state, needed_since, view.now) {
        ImageDecision::Ready => {}
        ImageDecision::Pull => {
            let step = Step::Pull { image };
            if !plan.actions.iter().any(|action| action.step == step) {
                plan.act(step, "the image is needed");
            }
            return plan.wait(name, Waiting::creating(), None);
        }
        ImageDecision::Wait { waiting, until } => return plan.wait(name, waiting, until),
    }
    if !ready_to_make(view, container, plan) {
        return;
    }
    let stored = stored_status(view.pod, role, name);
    // An instance that somebody removed leaves its count in the stored status only.
    let counted = stored
        .filter(|status| status.container_id.is_some())
        .and_then(|status| u32::try_from(status.restart_count + 1).ok());
    let attempt = last.map(|i| i.identity.attempt + 1).into_iter().chain(counted).max();
    if view.memory.report_only && attempt.is_some() && last.is_none() {
        return;
    }
    let reason = match last.and_then(Instance::ended) {
        Some(ended) => format!("it ended with code {}", ended.exit_code),
        None => "it does not exist".to_owned(),
    };
    let step = Step::MakeMember {
        container: name.clone(),
        role,
        attempt: attempt.unwrap_or(0),
        sandbox: sandbox.map(str::to_owned),
        back_off,
        heals,
    };
    plan.waiting.insert(name.clone(), Waiting::creating());
    plan.act(step, reason);
}

/// The status the API holds of a container.
pub fn stored_status<'a>(pod: &'a Pod, role: Role, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let list = match role {
        Role::Init => status.init_container_statuses.as_ref(),
        Role::Ephemeral => status.ephemeral_container_statuses.as_ref(),
        _ => status.container_statuses.as_ref(),
    };
    list?.iter().find(|status| status.name == container)
}

pub(super) fn stop(
    view: &View<'_>,
    instance: &Instance,
    grace_seconds: i64,
    reason: &str,
    plan: &mut PodPlan,
) {
    // A deletion with a shorter grace than the stop that is under way is told to the engine too.
    let by = view.now + SignedDuration::from_secs(grace_seconds + 1);
    let is_shorter = view.memory.stop_by.get(&instance.id).is_some_and(|before| by < *before);
    if !view.memory.stopping.contains(&instance.id) || is_shorter {
        let step = Step::Stop {
            id: instance.id.clone(),
            container: instance.identity.container.clone(),
            grace_seconds,
        };
        plan.act(step, reason);
    }
}

pub(super) fn remove(view: &View<'_>, instance: &Instance, reason: &str, plan: &mut PodPlan) {
    if !view.memory.removing.contains(&instance.id) {
        plan.act(Step::Remove { id: instance.id.clone() }, reason);
    }
}

/// Keeps the latest instance of a container and the one before; of sandboxes the present one.
fn clean_up(view: &View<'_>, sandbox: Option<&Instance>, plan: &mut PodPlan) {
    let mut by_container: BTreeMap<(Role, &str), Vec<&Instance>> = BTreeMap::new();
    for instance in view.instances {
        let identity = &instance.identity;
        by_container.entry((identity.role, &identity.container)).or_default().push(instance);
    }
    for ((role, _), mut instances) in by_container {
        instances.sort_by_key(|instance| std::cmp::Reverse(instance.identity.attempt));
        let kept = if role == Role::Sandbox { 1 } else { 2 };
        // Somebody started an earlier attempt again: it would run beside the present one.
        for twin in instances.iter().skip(1).filter(|i| role != Role::Sandbox && i.is_running()) {
            stop(view, twin, LEAST_GRACE_SECONDS, "a later attempt took its place", plan);
        }
        for old in instances.into_iter().skip(kept) {
            let is_current = sandbox.is_some_and(|sandbox| sandbox.id == old.id);
            if !is_current && (!old.is_running() || role == Role::Sandbox) {
                remove(view, old, "a later attempt took its place", plan);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::node::container_spec;
    use crate::node::instance::{Identity, Settings};
    use crate::object::ephemeral_container::every_container;
    use serde_json::json;

    pub(crate) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("a time")
    }

    pub(crate) fn pod(mut extra: serde_json::Value) -> Pod {
        let mut spec = json!({"containers": [{"name": "web", "image": "web:1"}]});
        if let Some(fields) = extra.get_mut("spec").map(serde_json::Value::take) {
            json_patch::merge(&mut spec, &fields);
        }
        let mut whole =
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
        for part in ["metadata", "status"] {
            if let Some(fields) = extra.get(part) {
                json_patch::merge(&mut whole, &json!({part: fields}));
            }
        }
        serde_json::from_value(whole).expect("a pod")
    }

    /// The series of a container that was restarted for the first time.
    pub(crate) fn grown(pod: &Pod, container: &str, second: i64) -> BackOff {
        let spec = pod.spec.as_ref().expect("a spec");
        let own = every_container(spec).find(|own| own.name == container).expect("it is there");
        BackOff::grown(None, &restart::stable_key(pod, &own), at(second), at(second))
    }

    pub(crate) fn instance(pod: &Pod, role: Role, container: &str, attempt: u32) -> Instance {
        let spec = pod.spec.as_ref().expect("a spec");
        let all: Vec<Container> = every_container(spec).map(std::borrow::Cow::into_owned).collect();
        let made_of = all.iter().find(|c| c.name == container);
        let settings = match made_of {
            Some(container) => container_spec::wanted_settings(container),
            None => Settings { restart_policy: "no".into(), ..Settings::default() },
        };
        let id = format!("{}-{attempt}", if container.is_empty() { "sandbox" } else { container });
        let identity = Identity {
            installation: "i".into(),
            pod_uid: "u".into(),
            pod_namespace: "n".into(),
            pod_name: "p".into(),
            container: container.into(),
            role,
            attempt,
            spec_hash: made_of.map_or_else(container_spec::sandbox_hash, container_spec::spec_hash),
        };
        Instance {
            name: identity.engine_name("ballast"),
            id,
            identity,
            life: Life::Running,
            image_id: "sha256:1".into(),
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            created_at: at(0),
            started_at: Some(at(0)),
            finished_at: None,
            ip: (role == Role::Sandbox).then_some(Ipv4Addr::new(10, 42, 0, 2)),
            joined: (role != Role::Sandbox).then(|| "sandbox-0".into()),
            made_as: None,
            devices: Default::default(),
            is_detached: false,
            settings,
            asked: None,
        }
    }

    pub(crate) fn ended(mut instance: Instance, code: i32, second: i64) -> Instance {
        instance.life = Life::Exited;
        instance.exit_code = code;
        instance.finished_at = Some(at(second));
        instance
    }

    pub(crate) fn with_image() -> Memory {
        let present =
            ImageState { present: Some(Some("sha256:1".into())), ..ImageState::default() };
        Memory { images: [("web:1".to_owned(), present)].into(), ..Memory::default() }
    }

    /// `step because reason`, one a line.
    pub(crate) fn told(pod: &Pod, instances: &[Instance], memory: &Memory, second: i64) -> String {
        let limits = Limits { memory: true, swap: true, cpu_quota: true, cpu_shares: true };
        let view = View { pod, instances, memory, limits, now: at(second) };
        let plan = plan(&view);
        let mut lines: Vec<String> =
            plan.actions.iter().map(|a| format!("{:?} because {}", a.step, a.reason)).collect();
        let waits = plan.waiting.iter().map(|(name, wait)| format!("{name}: {}", wait.reason));
        lines.extend(waits);
        lines.join("\n")
    }

    #[test]
    fn a_new_pod_gets_sandbox_and_container_in_one_plan() {
        let pod = pod(json!({}));
        assert_eq!(
            told(&pod, &[], &with_image(), 0),
            "MakeSandbox { attempt: 0 } because the pod has no sandbox\n\
         MakeMember { container: \"web\", role: Container, attempt: 0, sandbox: None, back_off: None, heals: false } because it does not exist\n\
         web: ContainerCreating"
        );
    }

    #[test]
    fn an_absent_image_is_pulled_while_the_sandbox_is_made() {
        let pod = pod(json!({}));
        let absent = ImageState { present: Some(None), ..ImageState::default() };
        let memory = Memory { images: [("web:1".to_owned(), absent)].into(), ..Memory::default() };
        let plan = told(&pod, &[], &memory, 0);
        assert!(
            plan.contains("MakeSandbox") && plan.contains("Pull") && !plan.contains("MakeMember")
        );
    }

    #[test]
    fn a_running_pod_is_left_alone() {
        let pod = pod(json!({}));
        let instances =
            [instance(&pod, Role::Sandbox, "", 0), instance(&pod, Role::Container, "web", 0)];
        assert_eq!(told(&pod, &instances, &with_image(), 0), "");
    }

    #[test]
    fn what_was_made_but_not_started_is_started_not_made_again() {
        let pod = pod(json!({}));
        let sandbox = Instance { life: Life::Created, ..instance(&pod, Role::Sandbox, "", 0) };
        let plan = told(&pod, &[sandbox], &with_image(), 0);
        assert!(plan.starts_with("StartSandbox { id: \"sandbox-0\" }"), "{plan}");
        let member = Instance {
            life: Life::Created,
            started_at: None,
            ..instance(&pod, Role::Container, "web", 0)
        };
        let sandbox = Instance { life: Life::Created, ..instance(&pod, Role::Sandbox, "", 0) };
        let plan = told(&pod, &[sandbox, member.clone()], &with_image(), 0);
        assert!(!plan.contains("MakeMember"), "{plan}");
        assert!(plan.contains("StartMember { container: \"web\", id: \"web-0\" }"), "{plan}");
        let instances = [instance(&pod, Role::Sandbox, "", 0), member];
        let plan = told(&pod, &instances, &with_image(), 0);
        assert!(plan.starts_with("StartMember { container: \"web\", id: \"web-0\" }"), "{plan}");
    }

    #[test]
    fn init_containers_run_one_after_the_other() {
        let pod = pod(json!({"spec": {"initContainers": [
        {"name": "one", "image": "web:1"}, {"name": "two", "image": "web:1"}]}}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let running = [sandbox.clone(), instance(&pod, Role::Init, "one", 0)];
        let waits = "two: PodInitializing\nweb: PodInitializing";
        assert_eq!(told(&pod, &running, &with_image(), 0), waits);
        let done = [sandbox, ended(instance(&pod, Role::Init, "one", 0), 0, 1)];
        let plan = told(&pod, &done, &with_image(), 1);
        assert!(plan.starts_with("MakeMember { container: \"two\", role: Init"), "{plan}");
    }

    #[test]
    fn a_sidecar_is_waited_for_until_it_has_started_and_is_kept_running() {
        let pod = pod(json!({"spec": {"restartPolicy": "Never", "initContainers": [
            {"name": "mesh", "image": "web:1", "restartPolicy": "Always",
                "startupProbe": {"exec": {}}, "livenessProbe": {"exec": {}}},
            {"name": "setup", "image": "web:1"}]}}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let mesh = instance(&pod, Role::Init, "mesh", 0);
        let begun = [sandbox.clone(), mesh.clone()];
        let waits = "setup: PodInitializing\nweb: PodInitializing";
        assert_eq!(told(&pod, &begun, &with_image(), 0), waits);
        let mut memory = with_image();
        let said = |startup: Verdict, liveness: Option<Verdict>| crate::node::memory::Verdicts {
            startup: Some(startup),
            liveness,
            readiness: None,
        };
        let no = || Verdict::Failed("no".into());
        memory.probes.insert("mesh-0".into(), said(no(), None));
        let plan = told(&pod, &begun, &memory, 0);
        assert!(plan.contains("because Init container mesh failed startup probe\n"), "{plan}");
        memory.probes.insert("mesh-0".into(), said(Verdict::Passed, None));
        let plan = told(&pod, &begun, &memory, 0);
        assert!(plan.starts_with("MakeMember { container: \"setup\", role: Init"), "{plan}");

        // Its end blocks nobody who is further on, and it is started again, as one of `Always`.
        let down = ended(mesh.clone(), 3, 5);
        let setup = instance(&pod, Role::Init, "setup", 0);
        let plan = told(&pod, &[sandbox.clone(), down.clone(), setup.clone()], &memory, 5);
        assert!(
            plan.starts_with("MakeMember { container: \"mesh\", role: Init, attempt: 1"),
            "{plan}"
        );
        memory.back_offs.insert("mesh".into(), grown(&pod, "mesh", 5));
        let done = ended(setup, 0, 6);
        let plan = told(&pod, &[sandbox.clone(), down.clone(), done.clone()], &memory, 6);
        assert!(plan.starts_with("MakeMember { container: \"web\", role: Container"), "{plan}");
        assert!(plan.contains("mesh: CrashLoopBackOff"), "{plan}");
        let web = instance(&pod, Role::Container, "web", 0);
        let all = [sandbox.clone(), down, done.clone(), web.clone()];
        assert_eq!(told(&pod, &all, &memory, 6), "mesh: CrashLoopBackOff");
        assert!(
            told(&pod, &all, &memory, 15).contains("container: \"mesh\", role: Init, attempt: 1")
        );
        // A plain init container is not run again beside them.
        let without = [sandbox.clone(), mesh.clone(), web.clone()];
        assert_eq!(told(&pod, &without, &memory, 6), "");
        memory.probes.insert("mesh-0".into(), said(Verdict::Passed, Some(no())));
        let plan = told(&pod, &[sandbox, mesh, done, web], &memory, 6);
        assert!(plan.contains("because Init container mesh failed liveness probe"), "{plan}");
    }

    #[test]
    fn a_hook_after_the_start_belongs_to_it() {
        let pod = pod(json!({"spec": {"containers": [
            {"name": "web", "image": "web:1", "lifecycle": {"postStart": {"exec": {"command": ["/x"]}}}},
            {"name": "side", "image": "web:1"}]}}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let plan = told(&pod, std::slice::from_ref(&sandbox), &with_image(), 0);
        assert!(
            plan.contains("container: \"web\"") && !plan.contains("container: \"side\""),
            "{plan}"
        );
        let running = [sandbox.clone(), instance(&pod, Role::Container, "web", 0)];
        let waits = "side: ContainerCreating\nweb: ContainerCreating";
        assert_eq!(
            told(&pod, &running, &with_image(), 0),
            format!(
                "PostStart {{ id: \"web-0\", container: \"web\" }} because it has a hook after its start\n{waits}"
            )
        );
        let mut memory = with_image();
        memory.post_starts.insert("web-0".into(), PostStart::Running);
        assert_eq!(told(&pod, &running, &memory, 0), waits);
        memory.post_starts.insert("web-0".into(), PostStart::Done);
        let plan = told(&pod, &running, &memory, 0);
        assert!(plan.starts_with("MakeMember { container: \"side\""), "{plan}");
        memory.post_starts.insert("web-0".into(), PostStart::Failed);
        let plan = told(&pod, &running, &memory, 0);
        assert!(plan.contains("grace_seconds: 30 } because FailedPostStartHook\n"), "{plan}");
        assert!(plan.contains("web: PostStartHookError"), "{plan}");
        // Those that run already are not held up by one that starts again.
        let side = instance(&pod, Role::Container, "side", 0);
        let changed = Instance {
            identity: crate::node::instance::Identity {
                spec_hash: format!("{}0", side.identity.spec_hash),
                ..side.identity.clone()
            },
            ..side
        };
        memory.post_starts.insert("web-0".into(), PostStart::Running);
        let plan = told(&pod, &[&running[..], &[changed]].concat(), &memory, 0);
        assert!(plan.contains("Container side definition changed"), "{plan}");
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_second_waits_ten_seconds() {
        let pod = pod(json!({}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let first = [sandbox.clone(), ended(instance(&pod, Role::Container, "web", 0), 1, 5)];
        let plan = told(&pod, &first, &with_image(), 5);
        assert!(plan.contains("attempt: 1") && plan.contains("it ended with code 1"), "{plan}");
        let mut memory = with_image();
        memory.back_offs.insert("web".into(), grown(&pod, "web", 5));
        let second = [sandbox, ended(instance(&pod, Role::Container, "web", 1), 1, 6)];
        assert_eq!(told(&pod, &second, &memory, 7), "web: CrashLoopBackOff");
        assert!(told(&pod, &second, &memory, 16).contains("attempt: 2"));
    }

    #[test]
    fn restart_policies_decide_which_ends_are_final() {
        let run = |policy: &str, code: i32| {
            let pod = pod(json!({"spec": {"restartPolicy": policy}}));
            let sandbox = instance(&pod, Role::Sandbox, "", 0);
            told(
                &pod,
                &[sandbox, ended(instance(&pod, Role::Container, "web", 0), code, 1)],
                &with_image(),
                1,
            )
        };
        assert!(run("Always", 0).contains("MakeMember"));
        assert!(run("OnFailure", 1).contains("MakeMember"));
        assert!(
            run("OnFailure", 0)
                .contains("Remove { id: \"sandbox-0\" } because the pod is finished")
        );
        assert!(run("Never", 1).contains("the pod is finished"));
    }

    #[test]
    fn a_dead_sandbox_takes_its_members_with_it() {
        let pod = pod(json!({}));
        let dead = ended(instance(&pod, Role::Sandbox, "", 0), 137, 9);
        let member = instance(&pod, Role::Container, "web", 0);
        let plan = told(&pod, &[dead.clone(), member.clone()], &with_image(), 9);
        assert!(plan.starts_with("Stop { id: \"web-0\""), "{plan}");
        let plan = told(&pod, &[dead, ended(member, 137, 10)], &with_image(), 10);
        assert!(
            plan.starts_with("MakeSandbox { attempt: 1 } because the sandbox is gone"),
            "{plan}"
        );
        assert!(plan.contains(
            "MakeMember { container: \"web\", role: Container, attempt: 1, sandbox: None"
        ));
    }

    #[test]
    fn a_failed_liveness_probe_kills_and_a_changed_setting_makes_anew() {
        let pod = pod(json!({}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let member = instance(&pod, Role::Container, "web", 0);
        let mut memory = with_image();
        let failed = crate::node::memory::Verdicts {
            liveness: Some(Verdict::Failed("no".into())),
            ..Default::default()
        };
        memory.probes.insert("web-0".into(), failed);
        let plan = told(&pod, &[sandbox.clone(), member.clone()], &memory, 0);
        assert!(plan.contains("failed liveness probe"), "{plan}");
        assert!(plan.contains("grace_seconds: 30"), "{plan}");

        let mut changed = member;
        changed.settings.memory = 1 << 20;
        let plan = told(&pod, &[sandbox.clone(), changed.clone()], &with_image(), 0);
        assert!(plan.contains("changed from outside"), "{plan}");
        let plan = told(&pod, &[sandbox.clone(), ended(changed.clone(), 143, 1)], &with_image(), 1);
        assert!(plan.contains("heals: true"), "{plan}");
        let report = Memory { report_only: true, ..with_image() };
        assert_eq!(told(&pod, &[sandbox, changed], &report, 0), "");
    }

    #[test]
    fn a_probes_own_grace_counts_for_the_end_it_causes() {
        let pod = pod(json!({"spec": {"containers": [{"name": "web", "image": "web:1",
            "startupProbe": {"exec": {}},
            "livenessProbe": {"exec": {}, "terminationGracePeriodSeconds": 7}}]}}));
        let instances =
            [instance(&pod, Role::Sandbox, "", 0), instance(&pod, Role::Container, "web", 0)];
        let grace_after = |verdicts: crate::node::memory::Verdicts| {
            let mut memory = with_image();
            memory.probes.insert("web-0".into(), verdicts);
            told(&pod, &instances, &memory, 0)
        };
        let no = || Some(Verdict::Failed("no".into()));
        let plan =
            grace_after(crate::node::memory::Verdicts { liveness: no(), ..Default::default() });
        assert!(plan.contains("grace_seconds: 7"), "{plan}");
        let plan =
            grace_after(crate::node::memory::Verdicts { startup: no(), ..Default::default() });
        assert!(plan.contains("grace_seconds: 30"), "{plan}");
    }

    #[test]
    fn a_removed_container_comes_back_with_a_higher_attempt() {
        let pod = pod(
            json!({"status": {"containerStatuses": [{"name": "web", "image": "", "imageID": "",
        "ready": true, "restartCount": 2, "containerID": "docker://x"}]}}),
        );
        let plan = told(&pod, &[instance(&pod, Role::Sandbox, "", 0)], &with_image(), 0);
        assert!(plan.contains("attempt: 3"), "{plan}");
    }

    #[test]
    fn one_dead_instance_a_container_is_kept() {
        let pod = pod(json!({}));
        let instances = [
            instance(&pod, Role::Sandbox, "", 0),
            ended(instance(&pod, Role::Container, "web", 0), 1, 1),
            ended(instance(&pod, Role::Container, "web", 1), 1, 2),
            instance(&pod, Role::Container, "web", 2),
        ];
        assert_eq!(
            told(&pod, &instances, &with_image(), 3),
            "Remove { id: \"web-0\" } because a later attempt took its place"
        );
    }

    #[test]
    fn an_earlier_attempt_that_somebody_started_again_is_stopped() {
        let pod = pod(json!({}));
        let instances = [
            instance(&pod, Role::Sandbox, "", 0),
            instance(&pod, Role::Container, "web", 0),
            instance(&pod, Role::Container, "web", 1),
        ];
        assert_eq!(
            told(&pod, &instances, &with_image(), 3),
            "Stop { id: \"web-0\", container: \"web\", grace_seconds: 2 } because a later attempt took its place"
        );
    }

    #[test]
    fn failures_and_missing_config_wait_with_their_reason() {
        let pod = pod(json!({}));
        let sandbox = [instance(&pod, Role::Sandbox, "", 0)];
        let mut memory = with_image();
        let waiting = Waiting::new("CreateContainerConfigError", "configmap \"c\" not found");
        memory.failures.insert(
            "web".into(),
            crate::node::memory::Failure::after(None, waiting.clone(), at(0)),
        );
        assert_eq!(told(&pod, &sandbox, &memory, 0), "web: CreateContainerConfigError");
        assert!(told(&pod, &sandbox, &memory, 1).contains("MakeMember"));
        memory.unready = Some(Waiting::creating());
        assert_eq!(told(&pod, &sandbox, &memory, 1), "web: ContainerCreating");
    }

    #[test]
    fn report_only_leaves_alone_what_was_changed_or_taken_and_nothing_else() {
        let report = Memory { report_only: true, ..with_image() };
        let pod = pod(json!({"status": {"containerStatuses": [{"name": "web", "image": "",
            "imageID": "", "ready": true, "restartCount": 0, "containerID": "docker://web-0"}]}}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let member = instance(&pod, Role::Container, "web", 0);
        // Changed, or taken away: shown, not healed.
        let mut changed = member.clone();
        changed.settings.memory = 1 << 20;
        assert_eq!(told(&pod, &[sandbox.clone(), changed], &report, 0), "");
        assert_eq!(told(&pod, &[], &report, 0), "web: ContainerCreating");
        let plan = told(&pod, std::slice::from_ref(&sandbox), &report, 0);
        assert!(!plan.contains("MakeMember"), "{plan}");
        // An end of its own, and a host that went down: the restart policy counts as always.
        let dead = ended(member.clone(), 1, 5);
        let plan = told(&pod, &[sandbox.clone(), dead.clone()], &report, 5);
        assert!(plan.contains("MakeMember") && plan.contains("attempt: 1"), "{plan}");
        let plan = told(&pod, &[ended(sandbox.clone(), 255, 5), dead], &report, 5);
        assert!(plan.contains("MakeSandbox") && plan.contains("MakeMember"), "{plan}");
        // A probe's stop is followed by a start.
        let mut failing = report.clone();
        let verdict = crate::node::memory::Verdicts {
            liveness: Some(Verdict::Failed("no".into())),
            ..Default::default()
        };
        failing.probes.insert("web-0".into(), verdict);
        let plan = told(&pod, &[sandbox.clone(), member.clone()], &failing, 5);
        assert!(plan.contains("failed liveness probe"), "{plan}");
        let plan = told(&pod, &[sandbox, ended(member, 137, 6)], &failing, 6);
        assert!(plan.contains("MakeMember"), "{plan}");
    }

    #[test]
    fn a_sandbox_that_somebody_restarted_is_made_anew_with_its_members() {
        let pod = pod(json!({}));
        let first = instance(&pod, Role::Sandbox, "", 0);
        // It ended once and was started again: another network namespace than its members joined.
        let restarted =
            Instance { started_at: Some(at(6)), finished_at: Some(at(5)), ..first.clone() };
        let member = instance(&pod, Role::Container, "web", 0);
        let instances = [restarted.clone(), member.clone()];
        assert_eq!(
            told(&pod, &instances, &with_image(), 7),
            "Stop { id: \"sandbox-0\", container: \"\", grace_seconds: 2 } because Pod sandbox changed, it will be killed and re-created.\n\
             web: ContainerCreating"
        );
        let report = Memory { report_only: true, ..with_image() };
        assert_eq!(told(&pod, &instances, &report, 7), "");
        // Then it goes as with any dead sandbox: members out, and all of it anew.
        let dead = ended(restarted.clone(), 143, 8);
        let plan = told(&pod, &[dead.clone(), member.clone()], &with_image(), 8);
        assert!(plan.contains("Stop { id: \"web-0\"") && !plan.contains("Make"), "{plan}");
        let plan = told(&pod, &[dead, ended(member.clone(), 0, 9)], &with_image(), 9);
        assert!(plan.contains("MakeSandbox { attempt: 1 }"), "{plan}");
        // What was started after it is in its network; and a clock that stepped back restarts nothing.
        let late = Instance { started_at: Some(at(8)), ..member.clone() };
        assert_eq!(told(&pod, &[restarted, late], &with_image(), 9), "");
        let ahead = Instance { started_at: Some(at(3600)), ..first };
        assert_eq!(told(&pod, &[ahead, member], &with_image(), 9), "");
    }

    #[test]
    fn a_container_under_its_spare_sandboxs_host_name_is_made_anew() {
        let pod = pod(json!({}));
        let mut sandbox = instance(&pod, Role::Sandbox, "", 0);
        let member = instance(&pod, Role::Container, "web", 0);
        let mut memory = with_image();
        memory.has_name.insert("web-0".into(), false);
        // Its sandbox has the pod's own name.
        assert_eq!(told(&pod, &[sandbox.clone(), member.clone()], &memory, 5), "");
        sandbox.made_as = Some("spare-1".into());
        let plan = told(&pod, &[sandbox.clone(), member.clone()], &memory, 5);
        assert!(plan.contains("web was changed from outside, will be made anew"), "{plan}");
        memory.has_name.insert("web-0".into(), true);
        assert_eq!(told(&pod, &[sandbox, member], &memory, 5), "");
    }

    #[test]
    fn a_clock_that_stepped_back_neither_pulls_for_ever_nor_prolongs_a_wait() {
        let mut pod =
            pod(json!({"spec": {"containers": [{"name": "web", "image": "web:latest"}]}}));
        pod.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(3000)));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let made = Instance { created_at: at(3299), ..instance(&pod, Role::Container, "web", 1) };
        let instances = [sandbox, ended(made, 1, 3300)];
        let mut image =
            ImageState { present: Some(Some("sha256:1".into())), ..ImageState::default() };
        let mut memory = Memory::default();
        let before = BackOff { updated_at: at(3298), ..grown(&pod, "web", 3295) };
        memory.back_offs.insert("web".into(), before);
        let mut look = |image: &ImageState, second: i64| {
            let mut image = image.clone();
            image.settle(at(second));
            memory.images = [("web:latest".to_owned(), image)].into();
            memory.settle(told_times(&pod, &instances), at(second));
            told(&pod, &instances, &memory, second)
        };
        // The step: it is second 0 again. The back-off of 10 s is one from now on.
        assert_eq!(look(&image, 0), "web: CrashLoopBackOff");
        assert_eq!(look(&image, 9), "web: CrashLoopBackOff");
        assert!(look(&image, 10).contains("Pull"));
        // One pull is enough.
        image.pulled_at = Some(at(12));
        let plan = look(&image, 13);
        assert!(plan.contains("MakeMember") && !plan.contains("Pull"), "{plan}");
        // One of before the step was for an attempt before this one.
        image.pulled_at = Some(at(3290));
        assert!(look(&image, 14).contains("Pull"));

        let mut memory = Memory::default();
        let waiting = Waiting::new("CreateContainerError", "no");
        let failure = crate::node::memory::Failure::after(None, waiting, at(3300));
        memory.failures.insert("web".into(), failure);
        memory.settle([], at(0));
        assert_eq!(memory.failures["web"].retry_at(), at(1));
    }

    #[test]
    fn settings_that_we_compute_differently_today_make_nothing_anew() {
        let pod = pod(json!({"spec": {"containers": [{"name": "web", "image": "web:1",
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
            "env": [{"name": "A", "value": "b"}]}]}}));
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let today = instance(&pod, Role::Container, "web", 0);
        // Made by a version with other arithmetic, and as it was made.
        let mut earlier = today.clone();
        earlier.settings.cpu_shares += 7;
        earlier.settings.memory_swap *= 2;
        earlier.settings.env = vec!["A=$(b)".into()];
        earlier.asked = Some(earlier.settings.clone());
        assert_eq!(told(&pod, &[sandbox.clone(), earlier.clone()], &with_image(), 0), "");
        // Changed since: to what this version would ask for is a change as well.
        earlier.settings = today.settings.clone();
        let plan = told(&pod, &[sandbox.clone(), earlier], &with_image(), 0);
        assert!(plan.contains("changed from outside"), "{plan}");
        // Made before there was a label: judged by the manifest, whose numbers are written down here
        // because another value would restart every such container.
        assert_eq!(told(&pod, &[sandbox, today.clone()], &with_image(), 0), "");
        let Settings { memory, memory_swap, cpu_shares, cpu_quota, env, .. } = today.settings;
        assert_eq!((memory, memory_swap, cpu_shares, cpu_quota), (64 << 20, 64 << 20, 512, 50_000));
        assert_eq!(env, ["A=b"]);
    }
}
