//! Pure: the container layer of drift: what the engine runs against what the pods say.
//!
//! Compared are existence, whether it runs and is ready, and the settings that can change from outside
//! ([`Settings`]). Not compared: what a host may refuse (`oom_score_adj`, a limit its control groups
//! cannot hold), and environment that ConfigMaps, Secrets or Services filled in when the container
//! was made: by Kubernetes' rule a later change of those reaches the next container only.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::node::capacity::Limits;
use crate::node::container_spec::{self, is_outdated};
use crate::node::copies;
use crate::node::image::Waiting;
use crate::node::instance::{Instance, Life, Role, Settings};
use crate::node::memory::Memory;
use crate::node::pod_plan::{self, View};
use crate::node::pod_status::is_started;
use crate::node::probe::Verdict;
use crate::node::restart;
use crate::node::sidecar::{is_sidecar, lasting, restart_policy};
use crate::node::termination_plan::is_over;
use crate::object::drift::{Class, DriftObject};
use crate::object::ledger::{Difference, Examined, FIGHT_HEALS, FIGHT_SECONDS, Response};
use crate::object::{Kind, Object, condition};

/// A start that is not done after this long is a Drift, where no Deployment says otherwise: the
/// default of its `progressDeadlineSeconds`.
const START_DEADLINE: SignedDuration = SignedDuration::from_secs(600);

/// One setting that is not what the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// `env[A]`, `resources.limits.memory`
    pub field: String,
    pub wanted: String,
    pub actual: String,
}

/// Every setting that differs, as far as the host can hold it.
pub fn changed(wanted: &Settings, actual: &Settings, limits: Limits) -> Vec<Changed> {
    let mut found = Vec::new();
    let mut differ = |field: &str, wanted: String, actual: String| {
        if wanted != actual {
            found.push(Changed { field: field.to_owned(), wanted, actual });
        }
    };
    if limits.memory {
        let of = |bytes: i64| if bytes > 0 { bytes.to_string() } else { "unlimited".to_owned() };
        differ("resources.limits.memory", of(wanted.memory), of(actual.memory));
        if limits.swap && wanted.memory > 0 && wanted.memory == actual.memory {
            differ("memory+swap", of(wanted.memory_swap), of(actual.memory_swap));
        }
    }
    if limits.cpu_shares {
        differ("cpu shares", wanted.cpu_shares.to_string(), actual.cpu_shares.to_string());
    }
    if limits.cpu_quota {
        let of = |quota: i64| {
            if quota > 0 { format!("{quota}us/100ms") } else { "unlimited".to_owned() }
        };
        differ("resources.limits.cpu", of(wanted.cpu_quota), of(actual.cpu_quota));
    }
    differ("restart policy", wanted.restart_policy.clone(), actual.restart_policy.clone());
    let actual_env: BTreeMap<&str, &str> =
        actual.env.iter().filter_map(|pair| pair.split_once('=')).collect();
    for (name, value) in wanted.env.iter().filter_map(|pair| pair.split_once('=')) {
        let actual = actual_env.get(name).copied().unwrap_or("(none)");
        differ(&format!("env[{name}]"), value.to_owned(), actual.to_owned());
    }
    if let (Some(wanted), Some(actual)) = (&wanted.fields, &actual.fields) {
        let text =
            |value: &str| if value.is_empty() { "(none)".to_owned() } else { value.to_owned() };
        for (field, value) in wanted {
            differ(field, text(value), text(actual.get(field).map_or("", String::as_str)));
        }
    }
    found
}

/// What a container's running instance has in place of what it was made with. What the manifest says
/// counts only for those that were made before that stood in a label.
pub fn changed_settings(
    container: &Container,
    instance: &Instance,
    limits: Limits,
) -> Vec<Changed> {
    match &instance.asked {
        Some(asked) => changed(asked, &instance.settings, limits),
        None => changed(&container_spec::wanted_settings(container), &instance.settings, limits),
    }
}

/// Whether making this container anew once more would only feed a fight.
pub fn may_heal(memory: &Memory, container: &str, now: Timestamp) -> bool {
    let recent =
        |at: &&Timestamp| now.duration_since(**at) < SignedDuration::from_secs(FIGHT_SECONDS);
    !memory.report_only
        && memory
            .heals
            .get(container)
            .is_none_or(|times| times.iter().filter(recent).count() < FIGHT_HEALS)
}

/// The pod as the ledger names it.
pub fn drift_object(pod: &Pod) -> DriftObject {
    let key = pod.key();
    DriftObject {
        kind: Kind::Pod,
        namespace: key.namespace,
        name: key.name,
        uid: pod.uid().to_owned(),
    }
}

/// Identifies the wanted state: of a stored pod only the images can change.
pub fn wanted_id(pod: &Pod) -> String {
    let containers = pod.spec.iter().flat_map(lasting).map(|(_, container)| container);
    containers.map(|c| c.image.as_deref().unwrap_or_default()).collect::<Vec<_>>().join(",")
}

/// When this pod became this node's to run: it was bound, or made here.
pub fn begun(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    let scheduled = condition::find(conditions.unwrap_or_default(), "PodScheduled")
        .filter(|scheduled| scheduled.status == "True")
        .and_then(|scheduled| scheduled.last_transition_time.as_ref());
    scheduled.or(pod.metadata.creation_timestamp.as_ref()).map(|at| at.0)
}

/// What one comparison looks at.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    pub view: &'a View<'a>,
    /// By container: why it has no running instance, as the plan says.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// What the engine's events told, by instance id.
    pub causes: &'a BTreeMap<String, String>,
    /// Whether we ended that instance, or are ending it: its end is no drift.
    pub by_us: &'a dyn Fn(&str) -> bool,
}

/// One pod's comparison.
///
/// A container is one field, `containers[web]`, from its absence to its readiness: a Drift that
/// opens because it was killed closes when its successor is ready. Its settings are fields of their
/// own. Before a pod was ready once, everything is progress until the deadline of its start.
pub fn examine(look: Look<'_>) -> Examined {
    let pod = look.view.pod;
    let examined = |converged_before, differences| Examined {
        object: drift_object(pod),
        wanted_id: wanted_id(pod),
        converged_before,
        differences,
    };
    let finished = is_over(pod, look.view.instances, look.view.now);
    let Some(spec) = &pod.spec else { return examined(false, Vec::new()) };
    if finished || pod.metadata.deletion_timestamp.is_some() {
        return examined(false, Vec::new());
    }
    let mut differences = Vec::new();
    match first_init(look.view, spec) {
        Some(container) => differences.extend(init(look, container)),
        None => {
            for (role, container) in lasting(spec) {
                let policy = restart_policy(spec, role, container);
                differences.extend(compare(look, role, container, policy));
            }
        }
    }
    differences.extend(sandbox(look));
    differences.extend(renamed(look));
    let files = look.view.memory.changed_files.iter();
    differences.extend(files.map(|field| Difference {
        class: Class::Changed,
        wanted: Some("as its source says".to_owned()),
        actual: Some("other content, mode or owner".to_owned()),
        cause: Some("it was changed on the host".to_owned()),
        ..difference(look, field.clone(), from_outside(look, Response::Heal))
    }));
    let stored = |(role, container): (Role, &Container)| {
        let status = pod_plan::stored_status(pod, role, &container.name);
        status.is_some_and(|s| s.ready && container.image.as_ref() == Some(&s.image))
    };
    examined(lasting(spec).all(stored), differences)
}

/// What lost its name, by which an attempt is found again.
fn renamed(look: Look<'_>) -> impl Iterator<Item = Difference> {
    let instances = look.view.instances.iter().filter(|one| !copies::is_named(one));
    instances.map(move |one| Difference {
        class: Class::Changed,
        wanted: Some(one.identity.engine_name("…").replacen("…_", "", 1)),
        actual: Some(one.name.clone()),
        cause: Some("it was renamed: docker rename".to_owned()),
        ..difference(look, format!("{}.name", place(one)), from_outside(look, Response::Heal))
    })
}

/// Containers that carry the pod's labels and are not the pod's.
pub fn copied<'a>(
    look: Look<'a>,
    copies: &'a [Instance],
) -> impl Iterator<Item = Difference> + use<'a> {
    copies.iter().map(move |copy| Difference {
        class: Class::Extra,
        wanted_by: None,
        actual: Some(copy.name.clone()),
        since: copy.started_at,
        cause: Some(
            "it carries the labels of this pod's container, and another one is it".to_owned(),
        ),
        deadline: None,
        ..difference(
            look,
            format!("{}.copies[{}]", place(copy), copy.name),
            from_outside(look, Response::Heal),
        )
    })
}

/// The field that an instance is: `containers[web]`.
fn place(instance: &Instance) -> String {
    let name = &instance.identity.container;
    match instance.identity.role {
        Role::Sandbox | Role::Spare => "sandbox".to_owned(),
        Role::Init => format!("initContainers[{name}]"),
        Role::Container => format!("containers[{name}]"),
        Role::Ephemeral => format!("ephemeralContainers[{name}]"),
    }
}

/// What is wrong with the sandbox of a pod that has one, or had.
fn sandbox(look: Look<'_>) -> Option<Difference> {
    let (field, instances) = ("sandbox".to_owned(), look.view.instances);
    let Some(sandbox) = pod_plan::latest(instances, Role::Sandbox, "") else {
        return pod_plan::has_run(look.view.pod).then(|| Difference {
            class: Class::Missing,
            wanted: Some("running".to_owned()),
            cause: Some("it was removed".to_owned()),
            ..difference(look, field, from_outside(look, Response::Restart))
        });
    };
    if sandbox.started_at.is_none() || (look.by_us)(&sandbox.id) {
        return None;
    }
    if sandbox.ended().is_some() {
        return Some(stopped(look, field, sandbox));
    }
    if pod_plan::is_cut_off(sandbox) {
        return Some(Difference {
            class: Class::Changed,
            wanted: Some("attached to the pods' network".to_owned()),
            actual: Some("no network".to_owned()),
            cause: Some("it was disconnected: docker network disconnect".to_owned()),
            ..difference(look, format!("{field}.network"), from_outside(look, Response::Heal))
        });
    }
    pod_plan::was_restarted(sandbox, instances).then(|| Difference {
        class: Class::Changed,
        wanted: Some("the network that its containers joined".to_owned()),
        actual: Some("another network".to_owned()),
        since: sandbox.started_at,
        cause: Some("it was restarted".to_owned()),
        ..difference(look, field, from_outside(look, Response::Heal))
    })
}

/// The init container that the pod is at, as long as none of its containers was made.
fn first_init<'a>(view: &View<'_>, spec: &'a PodSpec) -> Option<&'a Container> {
    let began = view.instances.iter().any(|one| one.identity.role == Role::Container);
    let completed = |container: &&Container| {
        let Some(latest) = pod_plan::latest(view.instances, Role::Init, &container.name) else {
            return false;
        };
        match is_sidecar(container) {
            true => is_started(latest, container, view.memory),
            false => latest.ended().is_some_and(|end| end.exit_code == 0),
        }
    };
    let mut containers = spec.init_containers.iter().flatten();
    if began { None } else { containers.find(|container| !completed(container)) }
}

fn init(look: Look<'_>, container: &Container) -> Option<Difference> {
    let field = format!("initContainers[{}]", container.name);
    let latest = pod_plan::latest(look.view.instances, Role::Init, &container.name);
    match latest {
        Some(instance) if instance.ended().is_some() => Some(stopped(look, field, instance)),
        Some(instance) => Some(Difference {
            class: Class::NotReady,
            wanted: Some(if is_sidecar(container) { "started" } else { "completed" }.to_owned()),
            actual: Some("running".to_owned()),
            since: instance.started_at,
            ..difference(look, field, Response::Restart)
        }),
        None => Some(missing(look, field, Role::Init, container)),
    }
}

fn compare(
    look: Look<'_>,
    role: Role,
    container: &Container,
    restart_policy: &str,
) -> Vec<Difference> {
    let view = look.view;
    let list = if role == Role::Init { "initContainers" } else { "containers" };
    let field = format!("{list}[{}]", container.name);
    let Some(instance) = pod_plan::latest(view.instances, role, &container.name) else {
        return vec![missing(look, field, role, container)];
    };
    let by_us = (look.by_us)(&instance.id);
    if let Some(ended) = instance.ended() {
        let stays_down = match restart_policy {
            "Never" => true,
            "OnFailure" => ended.exit_code == 0,
            _ => false,
        };
        if stays_down {
            return Vec::new();
        }
        // Ours: its successor is what is wanted next, and no drift opens for the time between.
        let (under_way, deadline) = if by_us { (true, None) } else { (false, deadline(view)) };
        return vec![Difference { under_way, deadline, ..stopped(look, field, instance) }];
    }
    let mut found = Vec::new();
    if is_outdated(container, &instance.identity.spec_hash, &instance.settings.image) {
        found.push(Difference {
            class: Class::WrongImage,
            wanted: container.image.clone(),
            actual: Some(instance.settings.image.clone()),
            ..difference(look, format!("{field}.image"), Response::Heal)
        });
    } else {
        let changed = changed_settings(container, instance, view.limits);
        found.extend(changed.into_iter().map(|changed| Difference {
            class: Class::Changed,
            wanted: Some(changed.wanted),
            actual: Some(changed.actual),
            ..difference(
                look,
                format!("{field}.{}", changed.field),
                from_outside(look, Response::Heal),
            )
        }));
    }
    found.extend(not_ready(look, field, container, instance, by_us));
    found
}

/// What is done about a change from outside. Only such are left alone where healing is off: ends,
/// probes and a new image are followed by what always follows them.
fn from_outside(look: Look<'_>, response: Response) -> Response {
    if look.view.memory.report_only {
        Response::Report("healing is off: annotation ballast.dev/heal is \"false\"".to_owned())
    } else {
        response
    }
}

/// A difference of this pod with nothing said yet.
fn difference(look: Look<'_>, field: String, response: Response) -> Difference {
    Difference {
        class: Class::Changed,
        wanted_by: Some(wanted_by(&field)),
        field,
        wanted: None,
        actual: None,
        origin: None,
        since: None,
        cause: None,
        deadline: deadline(look.view),
        under_way: false,
        response,
    }
}

/// The manifest's own field behind one that the engine has under another name.
fn wanted_by(field: &str) -> String {
    let path = match field.rsplit_once('.') {
        Some((container, "memory+swap")) => format!("{container}.resources.limits.memory"),
        Some((container, "cpu shares")) => format!("{container}.resources.requests.cpu"),
        Some((container, "restart policy")) => container.to_owned(),
        _ if field == "sandbox" => return "spec".to_owned(),
        _ => field.to_owned(),
    };
    format!("spec.{path}")
}

/// Until when a pod that was never ready is on its way.
fn deadline(view: &View<'_>) -> Option<Timestamp> {
    let memory = view.memory;
    let patience = memory.progress_deadline.unwrap_or(START_DEADLINE);
    // A pod whose image was changed in place starts anew with it.
    let since = memory.wanted.as_ref().map(|(_, since)| *since).or_else(|| begun(view.pod))?;
    since.checked_add(patience).ok()
}

fn missing(look: Look<'_>, field: String, role: Role, container: &Container) -> Difference {
    let waiting = look.waiting.get(&container.name);
    // One that was there once was taken away; else it is on its first way.
    let stored = pod_plan::stored_status(look.view.pod, role, &container.name);
    let was_there = stored.is_some_and(|status| status.container_id.is_some());
    let restart = Response::Restart;
    let response = if was_there { from_outside(look, restart) } else { restart };
    Difference {
        class: Class::Missing,
        wanted_by: Some(format!("{}.image", wanted_by(&field))),
        wanted: container.image.clone(),
        actual: waiting.map(|waiting| waiting.reason.to_owned()),
        cause: waiting.and_then(|waiting| waiting.message.clone()),
        ..difference(look, field, response)
    }
}

fn stopped(look: Look<'_>, field: String, instance: &Instance) -> Difference {
    let ended = instance.ended();
    let told = look.causes.get(&instance.id).cloned();
    let cause = told.or_else(|| {
        let ended = ended.as_ref()?;
        Some(match (ended.reason, &ended.message) {
            ("OOMKilled", _) => "out of memory".to_owned(),
            ("ContainerCannotRun", Some(message)) => message.clone(),
            _ => format!("exited with code {}", ended.exit_code),
        })
    });
    let waits = look.waiting.get(&instance.identity.container);
    let actual = ended.as_ref().map(|ended| match waits {
        Some(waiting) if waiting.message.is_some() => {
            format!("exited ({}), {}", ended.exit_code, waiting.reason)
        }
        _ => format!("exited ({})", ended.exit_code),
    });
    Difference {
        class: Class::Stopped,
        wanted: Some("running".to_owned()),
        actual,
        since: ended.map(|ended| ended.finished_at),
        cause,
        ..difference(look, field, Response::Restart)
    }
}

/// Why a running container is not what is wanted yet; `None`: it is ready, and stays up.
fn not_ready(
    look: Look<'_>,
    field: String,
    container: &Container,
    instance: &Instance,
    by_us: bool,
) -> Option<Difference> {
    let memory = look.view.memory;
    let verdicts = memory.probes.get(&instance.id).cloned().unwrap_or_default();
    let started = is_started(instance, container, memory);
    let role = instance.identity.role;
    let stored = pod_plan::stored_status(look.view.pod, role, &container.name);
    // What was ready until now began to differ now; else it has not been ready since its start.
    let since = instance.started_at.filter(|_| stored.is_none_or(|status| !status.ready));
    let base = |probe: &str, actual: &str, response| Difference {
        class: Class::NotReady,
        wanted_by: Some(format!("{}{probe}", wanted_by(&field))),
        wanted: Some("ready".to_owned()),
        actual: Some(actual.to_owned()),
        since,
        ..difference(look, field.clone(), response)
    };
    // A new attempt has the whole time of a start, however old its pod is.
    let patience = memory.progress_deadline.unwrap_or(START_DEADLINE);
    let own = instance.started_at.and_then(|at| at.checked_add(patience).ok());
    let starting = |probe, actual| Difference {
        under_way: true,
        deadline: own.max(deadline(look.view)),
        ..base(probe, actual, Response::Restart)
    };
    if by_us {
        let stopping = base("", "being stopped", Response::Restart);
        return Some(Difference { under_way: true, deadline: None, ..stopping });
    }
    match instance.life {
        Life::Paused => {
            let why = "it was paused from outside: docker unpause".to_owned();
            return Some(base("", "paused", Response::Report(why)));
        }
        Life::Created => return Some(starting("", "created, not started")),
        Life::Running | Life::Exited => {}
    }
    if let Some(Verdict::Failed(why)) = &verdicts.liveness {
        let cause = Some(format!("liveness probe failed: {why}"));
        let failing = base(".livenessProbe", "running, not alive", Response::Restart);
        return Some(Difference { cause, ..failing });
    }
    if !started {
        return Some(starting(".startupProbe", "running, not started"));
    }
    match &verdicts.readiness {
        _ if container.readiness_probe.is_none() => {}
        Some(Verdict::Passed) => {}
        Some(Verdict::Failed(why)) => {
            let cause = Some(format!("readiness probe failed: {why}"));
            let response = Response::Report(
                "it runs and is not restarted for this: look at its logs, or commit a revert"
                    .to_owned(),
            );
            return Some(Difference { cause, ..base(".readinessProbe", "not ready", response) });
        }
        None => return Some(starting(".readinessProbe", "running, not ready yet")),
    }
    // The second restart in a row is a loop: it is over when the container stays up for its
    // back-off, or a crash every few seconds would be as many healed Drifts.
    let back_off = memory.back_offs.get(&container.name)?;
    let stays = back_off.updated_at + back_off.delay;
    let loops = back_off.delay > restart::FIRST && look.view.now < stays;
    loops.then(|| {
        let again = base("", "running again", Response::Restart);
        Difference { under_way: true, deadline: None, ..again }
    })
}

/// When a comparison can come out otherwise although nothing happened.
pub fn look_again(view: &View<'_>, examined: &Examined) -> Option<Timestamp> {
    let deadlines = examined.differences.iter().filter_map(|difference| difference.deadline);
    let back_offs = view.memory.back_offs.values().map(|one| one.updated_at + one.delay);
    deadlines.chain(back_offs).filter(|at| *at > view.now).min()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::node::image::{ImageState, PullFailure};
    use crate::node::memory::Verdicts;
    use crate::node::pod_plan::tests::{at, ended, grown, instance, pod, with_image};
    use crate::node::pod_status::{known_verdicts, pod_status};
    use crate::node::restart::BackOff;
    use crate::object::drift::Layer;
    use crate::object::ledger::{Ledger, LedgerWrite};

    #[test]
    fn a_limit_the_host_cannot_hold_is_no_drift() {
        let wanted = Settings { memory: 64, memory_swap: 64, ..Settings::default() };
        let actual = Settings::default();
        assert_eq!(changed(&wanted, &actual, Limits::default()), []);
        let limits = Limits { memory: true, swap: true, ..Limits::default() };
        let found = changed(&wanted, &actual, limits);
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].wanted, &*found[0].actual), ("64", "unlimited"));
    }

    #[test]
    fn only_variables_of_the_manifest_are_compared() {
        let wanted = Settings { env: vec!["A=1".into()], ..Settings::default() };
        let actual =
            Settings { env: vec!["PATH=/bin".into(), "A=2".into()], ..Settings::default() };
        let found = changed(&wanted, &actual, Limits::default());
        assert_eq!(found.iter().map(|c| &*c.field).collect::<Vec<_>>(), ["env[A]"]);
    }

    /// One pod, pass by pass, as the ledger takes it.
    struct Story {
        pod: Pod,
        memory: Memory,
        ledger: Ledger,
        by_us: Vec<&'static str>,
    }

    impl Story {
        /// Made at second 0, with a readiness probe and a minute to be ready.
        fn new() -> Self {
            let pod = pod(json!({"metadata": {"creationTimestamp": at(0).to_string()},
                "spec": {"containers": [{"name": "web", "image": "web:1",
                    "readinessProbe": {"tcpSocket": {"port": 1}}}]}}));
            let memory =
                Memory { progress_deadline: Some(SignedDuration::from_secs(60)), ..with_image() };
            Self { pod, memory, ledger: Ledger::new(Layer::Container), by_us: Vec::new() }
        }

        fn sandbox(&self) -> Instance {
            instance(&self.pod, Role::Sandbox, "", 0)
        }

        fn web(&self, attempt: u32, started: i64) -> Instance {
            let web = instance(&self.pod, Role::Container, "web", attempt);
            Instance { started_at: Some(at(started)), ..web }
        }

        fn says(&mut self, attempt: u32, readiness: Verdict) {
            let verdicts = Verdicts { readiness: Some(readiness), ..Verdicts::default() };
            self.memory.probes.insert(format!("web-{attempt}"), verdicts);
        }

        /// What the ledger writes, a line a Drift.
        fn pass(&mut self, instances: &[Instance], second: i64) -> Vec<String> {
            let (pod, memory, limits) = (&self.pod, &self.memory, Limits::default());
            let view = View { pod, instances, memory, limits, now: at(second) };
            let plan = pod_plan::plan(&view);
            let look = Look {
                view: &view,
                waiting: &plan.waiting,
                causes: &BTreeMap::new(),
                by_us: &|id| self.by_us.contains(&id),
            };
            let writes = self.ledger.observe(&[examine(look)], false, at(second));
            let line = |write: &LedgerWrite| {
                let LedgerWrite::Put(drift) = write else { panic!("nothing is removed here") };
                let (spec, status) = (&drift.spec, drift.status.as_ref().expect("a status"));
                let actual = spec.actual.clone().unwrap_or_default();
                let cause = status.cause.clone().unwrap_or_default();
                format!(
                    "{:?} {:?} {:?} {}: {actual} ({cause})",
                    status.phase, status.action, spec.class, spec.field
                )
            };
            writes.iter().map(line).collect()
        }
    }

    const QUIET: Vec<String> = Vec::new();

    #[test]
    fn a_pod_that_is_not_ready_within_its_deadline_is_a_drift() {
        let mut story = Story::new();
        let instances = [story.sandbox(), story.web(0, 1)];
        story.says(0, Verdict::Failed("connection refused".into()));
        assert_eq!(story.pass(&instances, 59), QUIET);
        assert_eq!(
            story.pass(&instances, 60),
            [
                "Open Reported NotReady containers[web]: not ready (readiness probe failed: connection refused)"
            ]
        );
        let open = story.ledger.open().next().expect("one").clone();
        assert_eq!(open.spec.wanted_by.as_deref(), Some("spec.containers[web].readinessProbe"));
        assert_eq!(open.status.expect("a status").since.0, at(1));
        story.says(0, Verdict::Passed);
        let closed = story.pass(&instances, 61);
        assert!(closed[0].starts_with("Closed Resolved NotReady"), "{closed:?}");
        // It was ready once: the next time needs no deadline.
        story.says(0, Verdict::Failed("connection refused".into()));
        let opened = story.pass(&instances, 62);
        assert!(opened[0].starts_with("Open Reported NotReady"), "{opened:?}");
    }

    #[test]
    fn a_bare_pod_has_ten_minutes_from_its_binding() {
        let mut story = Story::new();
        story.memory.progress_deadline = None;
        story.pod = pod(json!({"metadata": {"creationTimestamp": at(0).to_string()},
            "status": {"conditions": [{"type": "PodScheduled", "status": "True",
                "lastTransitionTime": at(100).to_string()}]}}));
        assert_eq!(story.pass(&[], 699), QUIET);
        assert_eq!(
            story.pass(&[], 700),
            ["Open Healing Missing containers[web]: ContainerCreating ()"]
        );
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named_after_the_deadline() {
        let mut story = Story::new();
        let failure = PullFailure {
            at: at(55),
            message: "no such host".into(),
            back_off: BackOff::grown(None, "web:1", at(55), at(55)),
        };
        let state =
            ImageState { present: Some(None), failure: Some(failure), ..ImageState::default() };
        story.memory.images.insert("web:1".into(), state);
        let instances = [story.sandbox()];
        assert_eq!(story.pass(&instances, 59), QUIET);
        let opened = story.pass(&instances, 60);
        assert!(
            opened[0].starts_with(
                "Open Healing Missing containers[web]: ImagePullBackOff (Back-off pulling image"
            ),
            "{opened:?}"
        );
    }

    #[test]
    fn a_crash_loop_is_one_drift_until_it_stays_up() {
        let mut story = Story::new();
        story.pod = pod(json!({"metadata": {"creationTimestamp": at(0).to_string()}}));
        let (sandbox, up) = (story.sandbox(), SignedDuration::from_secs(20));
        let dead = ended(story.web(1, 30), 1, 31);
        let delay = SignedDuration::from_secs(80);
        let back_off = BackOff { delay, ..grown(&story.pod, "web", 30) };
        story.memory.back_offs.insert("web".into(), back_off);
        assert_eq!(story.pass(&[sandbox.clone(), dead.clone()], 59), QUIET);
        assert_eq!(
            story.pass(&[sandbox.clone(), dead], 60),
            [
                "Open Healing Stopped containers[web]: exited (1), CrashLoopBackOff (exited with code 1)"
            ]
        );
        let back_off = BackOff { delay: up, ..grown(&story.pod, "web", 62) };
        story.memory.back_offs.insert("web".into(), back_off);
        let again = [sandbox, story.web(2, 62)];
        assert_eq!(story.pass(&again, 63), QUIET, "it runs for a second only so far");
        let closed = story.pass(&again, 82);
        assert!(closed[0].starts_with("Closed Healed Stopped"), "{closed:?}");
    }

    #[test]
    fn a_killed_container_is_healed_when_its_successor_is_ready() {
        let mut story = Story::new();
        let sandbox = story.sandbox();
        story.says(0, Verdict::Passed);
        assert_eq!(story.pass(&[sandbox.clone(), story.web(0, 1)], 2), QUIET);
        let dead = ended(story.web(0, 1), 137, 3);
        assert_eq!(
            story.pass(&[sandbox.clone(), dead.clone()], 3),
            ["Open Healing Stopped containers[web]: exited (137) (exited with code 137)"]
        );
        let starting = [sandbox.clone(), dead.clone(), story.web(1, 4)];
        assert_eq!(story.pass(&starting, 5), QUIET);
        story.says(1, Verdict::Passed);
        let closed = story.pass(&starting, 6);
        assert!(closed[0].starts_with("Closed Healed Stopped"), "{closed:?}");
    }

    #[test]
    fn a_restart_for_its_liveness_is_one_drift_with_its_cause() {
        let mut story = Story::new();
        let sandbox = story.sandbox();
        story.says(0, Verdict::Passed);
        assert_eq!(story.pass(&[sandbox.clone(), story.web(0, 1)], 2), QUIET);
        let verdicts = story.memory.probes.get_mut("web-0").expect("it was told");
        verdicts.liveness = Some(Verdict::Failed("timeout".into()));
        assert_eq!(
            story.pass(&[sandbox.clone(), story.web(0, 1)], 3),
            [
                "Open Healing NotReady containers[web]: running, not alive (liveness probe failed: timeout)"
            ]
        );
        story.by_us = vec!["web-0"];
        assert_eq!(story.pass(&[sandbox.clone(), story.web(0, 1)], 4), QUIET);
        let dead = ended(story.web(0, 1), 143, 5);
        assert_eq!(story.pass(&[sandbox.clone(), dead.clone()], 5), QUIET);
        let next = [sandbox, dead, story.web(1, 6)];
        assert_eq!(story.pass(&next, 6), QUIET);
        story.says(1, Verdict::Passed);
        assert!(story.pass(&next, 7)[0].starts_with("Closed Healed NotReady"));
    }

    #[test]
    fn what_we_end_ourselves_opens_no_drift() {
        let mut story = Story::new();
        let sandbox = story.sandbox();
        story.says(0, Verdict::Passed);
        assert_eq!(story.pass(&[sandbox.clone(), story.web(0, 1)], 2), QUIET);
        story.by_us = vec!["web-0"];
        assert_eq!(story.pass(&[sandbox.clone(), story.web(0, 1)], 100), QUIET);
        let dead = ended(story.web(0, 1), 143, 101);
        assert_eq!(story.pass(&[sandbox.clone(), dead.clone()], 101), QUIET);
        let next = [sandbox, dead, story.web(1, 102)];
        assert_eq!(story.pass(&next, 103), QUIET, "a new attempt has a whole start's time");
        assert!(story.pass(&next, 162)[0].starts_with("Open Healing NotReady"));
    }

    #[test]
    fn another_image_is_progress_from_when_it_was_asked_for() {
        let mut story = Story::new();
        let instances = [story.sandbox(), story.web(0, 1)];
        story.says(0, Verdict::Passed);
        assert_eq!(story.pass(&instances, 2), QUIET);
        story.pod.spec.as_mut().expect("a spec").containers[0].image = Some("web:2".into());
        story.memory.wanted = Some((wanted_id(&story.pod), at(100)));
        assert_eq!(story.pass(&instances, 159), QUIET);
        assert!(story.pass(&instances, 160)[0].contains("WrongImage containers[web].image: web:1"));
    }

    #[test]
    fn an_init_container_that_fails_or_hangs_is_the_one_named() {
        let mut story = Story::new();
        story.pod = pod(json!({"metadata": {"creationTimestamp": at(0).to_string()},
            "spec": {"initContainers": [{"name": "first", "image": "web:1"}]}}));
        let first = instance(&story.pod, Role::Init, "first", 0);
        let running = [story.sandbox(), first.clone()];
        assert_eq!(
            story.pass(&running, 60),
            ["Open Healing NotReady initContainers[first]: running ()"]
        );
        let failed = [story.sandbox(), ended(first, 3, 61)];
        let changed = story.pass(&failed, 61);
        assert_eq!(
            changed,
            ["Open Healing Stopped initContainers[first]: exited (3) (exited with code 3)"]
        );
    }

    #[test]
    fn a_restart_of_the_daemon_opens_nothing() {
        let mut story = Story::new();
        let instances = [story.sandbox(), story.web(0, 1)];
        let ready = |second: i64, memory: &Memory, pod: &Pod| {
            let limits = Limits::default();
            let view = View { pod, instances: &instances, memory, limits, now: at(second) };
            let host = std::net::Ipv4Addr::LOCALHOST;
            pod_status(&view, &pod_plan::plan(&view), host)
        };
        story.says(0, Verdict::Passed);
        story.pod.status = Some(ready(2, &story.memory, &story.pod));
        // Another run of the daemon, long after.
        story.ledger = Ledger::new(Layer::Container);
        story.memory.probes = known_verdicts(&story.pod, &instances);
        assert_eq!(story.pass(&instances, 1000), QUIET);
        let after = ready(1000, &story.memory, &story.pod);
        assert_eq!(Some(&after), story.pod.status.as_ref(), "nor does it make a pod unready");
        let other = Instance { id: "another".into(), ..story.web(0, 1) };
        assert!(known_verdicts(&story.pod, &[other]).is_empty());
    }

    #[test]
    fn report_only_reports_what_comes_from_outside_and_nothing_else() {
        let mut story = Story::new();
        story.memory.report_only = true;
        let sandbox = story.sandbox();
        story.says(0, Verdict::Passed);
        assert_eq!(story.pass(&[sandbox.clone(), story.web(0, 1)], 2), QUIET);
        let mut changed = story.web(0, 1);
        changed.settings.restart_policy = "always".into();
        let opened = story.pass(&[sandbox.clone(), changed], 3);
        assert!(opened[0].starts_with("Open Reported Changed containers[web]"), "{opened:?}");
        // An end is followed by a restart as always, and so its Drift says.
        let told = story.pass(&[sandbox, ended(story.web(0, 1), 1, 4)], 4);
        let opened = told.iter().find(|line| line.contains("Stopped")).expect("it is told");
        assert!(opened.starts_with("Open Healing Stopped containers[web]"), "{told:?}");
    }

    #[test]
    fn a_sandbox_that_was_restarted_or_removed_is_told() {
        let mut story = Story::new();
        let (sandbox, web) = (story.sandbox(), story.web(0, 1));
        story.says(0, Verdict::Passed);
        assert_eq!(story.pass(&[sandbox.clone(), web.clone()], 2), QUIET);
        let again = Instance { started_at: Some(at(5)), finished_at: Some(at(4)), ..sandbox };
        assert_eq!(
            story.pass(&[again, web.clone()], 6),
            ["Open Healing Changed sandbox: another network (it was restarted)"]
        );
        story.pod = pod(json!({"status": {"containerStatuses": [{"name": "web", "image": "web:1",
            "imageID": "", "ready": true, "restartCount": 0, "containerID": "docker://web-0"}]}}));
        let told = story.pass(&[web], 7);
        assert!(told[0].starts_with("Open Healing Missing sandbox"), "{told:?}");
    }
}
