//! Does the steps of a pod's plan. It decides nothing: every step names what it acts on.
//!
//! Pulls, and the ends of containers (`perform_end.rs`), run beside the worker; the memory says that
//! they are under way, and their end wakes it. Making containers is done at once, as parallel as
//! their dependencies allow: members are created while their sandbox starts (creating one needs the
//! sandbox's id, only starting it needs its network), and their starts run side by side.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{join, join_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::node::agent::{Agent, PodCell, lock};
use crate::node::confinement::is_on_host_network;
use crate::node::container_spec::{self, ContainerSpec};
use crate::node::environment::needs_pod_ip;
use crate::node::host_name;
use crate::node::image::Waiting;
use crate::node::instance::{Instance, Life, Role, devices_of};
use crate::node::last_words;
use crate::node::memory::Failure;
use crate::node::pod_plan::{Action, Step};
use crate::node::pod_status::pod_ip;
use crate::node::pod_worker::{COMPONENT, Observed, directory};
use crate::node::profile;
use crate::node::pulls;
use crate::node::runtime::{Runtime, RuntimeError};
use crate::node::sidecar::field_path;
use crate::node::volume;
use crate::object::{Cluster, DeleteOptions, Note};

/// Containers of a pod that began before they had their host name, after which its sandbox is made for
/// it alone.
const UNNAMED: u32 = 2;
/// Before a failed stop or removal is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What the worker does next.
pub enum Performed {
    Changed,
    /// The pod's object is gone.
    Finished,
    EngineAway,
}

/// One pass' doing, with what it needs at hand.
pub(super) struct Doer<'a, C, R> {
    pub(super) agent: &'a Arc<Agent<C, R>>,
    pub(super) cell: &'a Arc<PodCell>,
    pub(super) observed: &'a Observed,
}

/// Does every action.
pub async fn perform<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    cell: &Arc<PodCell>,
    observed: &Observed,
    actions: &[Action],
) -> Performed {
    let doer = Doer { agent, cell, observed };
    let mut sandbox = None;
    let mut members = Vec::new();
    for action in actions {
        info!(step = ?action.step, reason = %action.reason, "step");
        match &action.step {
            Step::MakeSandbox { .. } | Step::StartSandbox { .. } => sandbox = Some(&action.step),
            Step::MakeMember { .. } | Step::StartMember { .. } => members.push(&action.step),
            Step::Pull { image } => pulls::begin(agent, cell, image),
            Step::Withdraw { ip } => doer.withdraw(*ip),
            Step::PostStart { id, container } => doer.post_start(id, container),
            Step::BeginEnd { id, container, grace_seconds } => {
                doer.begin_end(id, container, *grace_seconds, &action.reason);
            }
            Step::Stop { id, container, grace_seconds } => {
                doer.stop(id, container, *grace_seconds, &action.reason);
            }
            Step::Remove { id } => doer.remove(id),
            Step::Rename { id, name } => doer.rename(id, name),
            Step::Finish { uid } => return doer.finish(uid).await,
        }
    }
    if sandbox.is_none() && members.is_empty() {
        return Performed::Changed;
    }
    if let Some(Step::MakeSandbox { attempt }) = sandbox
        && !cell.memory().failures.contains_key("")
    {
        let site = agent.site(&observed.engine);
        agent.note_demand(&container_spec::sandbox(doer.pod(), &site, *attempt));
    }
    // Boxed: it holds every way of making containers at once, and would be moved about by value.
    let making = Box::pin(async {
        // Whoever was deleted while it waited for its turn needs none of it any more.
        let wanted = cell.pod().metadata.deletion_timestamp.is_none();
        if wanted { doer.make(sandbox, &members).await } else { Ok(()) }
    });
    match agent.making.take(making).await {
        Err(RuntimeError::Unreachable(_)) => Performed::EngineAway,
        _ => Performed::Changed,
    }
}

impl<C: Cluster, R: Runtime> Doer<'_, C, R> {
    pub(super) fn now(&self) -> Timestamp {
        self.agent.clock.now()
    }

    pub(super) fn pod(&self) -> &Pod {
        &self.observed.pod
    }

    fn normal(&self, reason: &'static str, message: String) {
        self.agent.cluster.note(Note::normal(self.pod(), COMPONENT, reason, message));
    }

    /// About one container.
    pub(super) fn normal_of(&self, container: &str, reason: &'static str, message: &str) {
        let note = Note::normal(self.pod(), COMPONENT, reason, message);
        self.agent.cluster.note(note.of_part(field_path(self.pod(), container)));
    }

    /// As [`Doer::normal_of`].
    fn warning_of(&self, container: &str, reason: &'static str, message: &str) {
        let note = Note::warning(self.pod(), COMPONENT, reason, message);
        self.agent.cluster.note(note.of_part(field_path(self.pod(), container)));
    }

    pub(super) fn warning(&self, reason: &'static str, message: String) {
        self.agent.cluster.note(Note::warning(self.pod(), COMPONENT, reason, message));
    }

    /// The sandbox, if this plan makes or starts one, and then its members.
    async fn make(&self, sandbox: Option<&Step>, members: &[&Step]) -> Result<(), RuntimeError> {
        let Some(step) = sandbox else {
            return self.join(None, pod_ip(&self.observed.instances), members).await;
        };
        if let Err(too_long) = host_name::in_kernel(self.pod()) {
            return self.sandbox_failed(RuntimeError::Other(too_long)).await;
        }
        if let Some(spare) = self.claim(step).await {
            return self.join(Some(&spare.id), spare.ip, members).await;
        }
        self.agent.making_sandboxes.take(self.make_whole(step, members)).await
    }

    /// A sandbox of the pod's own, and its members.
    async fn make_whole(&self, step: &Step, members: &[&Step]) -> Result<(), RuntimeError> {
        let (early, late): (Vec<&Step>, Vec<&Step>) =
            members.iter().partition(|step| !self.wants_address(step));
        let Some(id) = self.create_sandbox(step).await? else { return Ok(()) };
        let creating = join_all(early.iter().map(|step| self.create_member(step, Some(&id), None)));
        let (started, created) = join(self.start_sandbox(&id), creating).await;
        let Some(ip) = started? else { return Ok(()) };
        let early = early.into_iter().zip(created).map(|(step, created)| async move {
            match created? {
                Some(id) => self.start_member(step, &id).await,
                None => Ok(()),
            }
        });
        let late = late.into_iter().map(|step| {
            let id = &id;
            async move {
                match self.create_member(step, Some(id), ip).await? {
                    Some(id) => self.start_member(step, &id).await,
                    None => Ok(()),
                }
            }
        });
        let (early, late) = join(join_all(early), join_all(late)).await;
        early.into_iter().chain(late).collect()
    }

    /// The members of a sandbox that runs; `None` is the one that their steps name.
    async fn join(
        &self,
        sandbox: Option<&str>,
        ip: Option<Ipv4Addr>,
        members: &[&Step],
    ) -> Result<(), RuntimeError> {
        let all = members.iter().map(|step| async move {
            match self.create_member(step, sandbox, ip).await? {
                Some(id) => self.start_member(step, &id).await,
                None => Ok(()),
            }
        });
        join_all(all).await.into_iter().collect()
    }

    /// A sandbox that was made before this pod, now the pod's.
    async fn claim(&self, step: &Step) -> Option<Instance> {
        let Step::MakeSandbox { attempt } = step else { return None };
        if self.cell.memory().unnamed >= UNNAMED {
            return None;
        }
        let site = self.agent.site(&self.observed.engine);
        self.agent.claim_spare(&container_spec::sandbox(self.pod(), &site, *attempt)).await
    }

    /// The host name that the engine gives to members of this sandbox, where it is not the pod's.
    fn made_as(&self, sandbox: &str) -> Option<String> {
        lock(&self.agent.instances).get(sandbox).and_then(|sandbox| sandbox.made_as.clone())
    }

    fn wants_address(&self, step: &Step) -> bool {
        self.has_own_hosts_file() || self.container(step).is_some_and(needs_pod_ip)
    }

    pub(super) fn container(&self, step: &Step) -> Option<&Container> {
        let (Step::MakeMember { container, .. } | Step::StartMember { container, .. }) = step
        else {
            return None;
        };
        self.named(container)
    }

    pub(super) fn named(&self, container: &str) -> Option<&Container> {
        let spec = self.pod().spec.as_ref()?;
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let all = all.into_iter().chain(&self.observed.ephemeral);
        all.into_iter().find(|candidate| candidate.name == *container)
    }

    /// Creates one instance, or finds it where an earlier create's answer was lost: a name belongs
    /// to one attempt, so who has it is it. `None`: look again.
    async fn create(&self, mut spec: ContainerSpec) -> Result<Option<String>, RuntimeError> {
        let refuses = self.agent.refuses_negative_oom.load(Ordering::Relaxed);
        spec.oom_score_adj = spec.oom_score_adj.filter(|score| !refuses || *score >= 0);
        let made = self.agent.runtime.create(&spec).await;
        if let Ok(id) = &made {
            lock(&self.agent.instances).put(created(&spec, id.clone(), self.now()));
        }
        if !matches!(made, Err(RuntimeError::Unreachable(_))) {
            // Else it may be there all the same.
            self.agent.close_device_entry(&spec);
        }
        match made {
            Ok(id) => Ok(Some(id)),
            Err(RuntimeError::NameConflict(message)) => {
                let is_it = |found: &Instance| {
                    found.identity.pod_uid == spec.identity.pod_uid
                        && found.identity.installation == spec.identity.installation
                        && found.identity.attempt == spec.identity.attempt
                };
                match self.agent.runtime.inspect(&spec.name).await {
                    Ok(found) if is_it(&found) => {
                        let (id, made) = (found.id.clone(), found.life == Life::Created);
                        lock(&self.agent.instances).put(found);
                        Ok(made.then_some(id))
                    }
                    // It may well be ours.
                    Err(silence @ RuntimeError::Unreachable(_)) => Err(silence),
                    _ => Err(RuntimeError::Other(format!("{message}; it is not one of ours"))),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Starts one instance and notes what it is then. `named`: the host name that its sandbox has, and
    /// the one that it gets.
    async fn start(&self, id: &str, named: Option<(&str, &str)>) -> Result<Instance, RuntimeError> {
        lock(&self.agent.instances).begin_start(id);
        let started = match named {
            Some((from, to)) => self.agent.runtime.start_named(id, from, to).await,
            None => self.agent.runtime.start(id).await,
        };
        let seen = self.agent.runtime.inspect(id).await;
        lock(&self.agent.instances).end_start(id);
        match &seen {
            Ok(instance) => lock(&self.agent.instances).put(instance.clone()),
            Err(RuntimeError::NotFound(_)) => lock(&self.agent.instances).remove(id),
            Err(_) => {}
        }
        started?;
        seen
    }

    pub(super) fn failed(&self, container: &str, reason: &'static str, message: String) {
        let mut memory = self.cell.memory();
        let waiting = Waiting::new(reason, message);
        let failure = Failure::after(memory.failures.get(container), waiting, self.now());
        memory.failures.insert(container.to_owned(), failure);
    }

    async fn create_sandbox(&self, step: &Step) -> Result<Option<String>, RuntimeError> {
        let attempt = match step {
            Step::MakeSandbox { attempt } => *attempt,
            Step::StartSandbox { id } => return Ok(Some(id.clone())),
            _ => return Ok(None),
        };
        let mut site = self.agent.site(&self.observed.engine);
        if self.pod().spec.as_ref().is_some_and(|spec| spec.dns_config.is_some()) {
            site.resolver = profile::host_resolver(is_on_host_network(self.pod())).await;
        }
        let spec = container_spec::sandbox(self.pod(), &site, attempt);
        match self.create(spec).await {
            Err(error) => self.sandbox_failed(error).await.map(|()| None),
            created => created,
        }
    }

    async fn sandbox_failed(&self, error: RuntimeError) -> Result<(), RuntimeError> {
        if self.agent.is_away(&error).await {
            return Err(error);
        }
        warn!(%error, "sandbox not made");
        if let RuntimeError::NotFound(_) = error {
            // The pause image or our network was removed: the engine's loop makes both again.
            self.agent.engine_lost.notify_one();
        }
        let message = format!("Failed to create pod sandbox: {error}");
        self.warning("FailedCreatePodSandBox", message.clone());
        self.failed("", "ContainerCreating", message);
        Ok(())
    }

    /// The sandbox's address once it runs; outer `None`: it failed, look again later.
    async fn start_sandbox(&self, id: &str) -> Result<Option<Option<Ipv4Addr>>, RuntimeError> {
        match self.start(id, None).await {
            Ok(instance) => {
                self.cell.memory().failures.remove("");
                let of_host = is_on_host_network(self.pod()).then(|| self.agent.host_ip());
                Ok(Some(instance.ip.or(of_host)))
            }
            Err(error) => self.sandbox_failed(error).await.map(|()| None),
        }
    }

    /// `sandbox: None` is the one that the step names.
    async fn create_member(
        &self,
        step: &Step,
        sandbox: Option<&str>,
        ip: Option<Ipv4Addr>,
    ) -> Result<Option<String>, RuntimeError> {
        let (name, role, attempt, named) = match step {
            Step::StartMember { id, .. } => return Ok(self.made_before(step, id, ip).await),
            Step::MakeMember { container, role, attempt, sandbox, .. } => {
                (container, *role, *attempt, sandbox.as_deref())
            }
            _ => return Ok(None),
        };
        let (Some(container), Some(sandbox)) = (self.container(step), sandbox.or(named)) else {
            return Ok(None);
        };
        let made_as = self.made_as(sandbox);
        let mut resolved = match self.resolve(container, role, ip, made_as.is_some()).await {
            Ok(resolved) => resolved,
            Err(sentence) => {
                self.warning_of(name, "Failed", &format!("Error: {sentence}"));
                self.failed(name, "CreateContainerConfigError", sentence);
                return Ok(None);
            }
        };
        let file = last_words::file(&self.agent.options.data_dir, self.pod(), name, attempt);
        match last_words::prepare(&file, container, &resolved.mounts) {
            Ok(mount) => resolved.mounts.extend(mount),
            // The kubelet goes without as well.
            Err(error) => warn!(container = %name, %error, "termination message file not made"),
        }
        let image = container.image.as_deref().unwrap_or_default();
        if !self.cell.memory().pulled.remove(image) {
            let there = format!("Container image \"{image}\" already present on machine");
            self.normal("Pulled", there);
        }
        let site = self.agent.site(&self.observed.engine);
        let mut spec =
            container_spec::member(self.pod(), container, role, attempt, sandbox, &resolved, &site);
        if let Err(too_few) = self.agent.give_devices(&self.observed.engine, container, &mut spec) {
            self.warning_of(name, "Failed", &format!("Error: {too_few}"));
            self.failed(name, "CreateContainerConfigError", too_few);
            return Ok(None);
        }
        match self.create(spec).await {
            Ok(Some(id)) => {
                self.normal_of(name, "Created", "Container created");
                Ok(Some(id))
            }
            Ok(None) => Ok(None),
            Err(error) => self.member_failed(container, sandbox, error).await.map(|()| None),
        }
    }

    async fn member_failed(
        &self,
        container: &Container,
        sandbox: &str,
        error: RuntimeError,
    ) -> Result<(), RuntimeError> {
        if self.agent.is_away(&error).await {
            return Err(error);
        }
        match &error {
            // The image was removed since it was looked for, or the sandbox was: look at both again.
            RuntimeError::NotFound(message) if message.contains("image") => {
                let image = container.image.clone().unwrap_or_default();
                lock(&self.agent.images).see(&image, None);
            }
            RuntimeError::NotFound(_) => self.agent.refresh(sandbox).await,
            _ => {}
        }
        warn!(container = %container.name, %error, "container not created");
        self.warning_of(&container.name, "Failed", &format!("Error: {error}"));
        self.failed(&container.name, "CreateContainerError", error.to_string());
        Ok(())
    }

    /// A container of a sandbox that was made before the pod gets the pod's name while it starts.
    async fn start_with_name(&self, id: &str) -> Result<Instance, RuntimeError> {
        let joined = lock(&self.agent.instances).get(id).and_then(|one| one.joined.clone());
        let made_as = joined.and_then(|sandbox| self.made_as(&sandbox));
        let name = host_name::in_kernel(self.pod()).unwrap_or_default();
        let started = self.start(id, made_as.as_deref().map(|from| (from, &*name))).await;
        if made_as.is_some() && started.is_ok() {
            self.agent.spares.was_in_time();
            self.cell.memory().has_name.insert(id.to_owned(), true);
        }
        started
    }

    async fn start_member(&self, step: &Step, id: &str) -> Result<(), RuntimeError> {
        let Some(container) = self.container(step) else { return Ok(()) };
        let name = &container.name;
        let started = self.start_with_name(id).await;
        match started {
            Err(RuntimeError::Unnamed(why)) => return self.too_late(id, &why).await,
            Ok(_) => self.normal_of(name, "Started", "Container started"),
            Err(error) => {
                if self.agent.is_away(&error).await {
                    return Err(error);
                }
                let negative = container_spec::qos_class(self.pod()) == "Guaranteed"
                    && !self.agent.refuses_negative_oom.load(Ordering::Relaxed);
                if negative && refuses_oom_score(&error) {
                    return self.without_oom_score(id).await;
                }
                warn!(container = %name, %error, "container not started");
                self.warning_of(name, "Failed", &format!("Error: {error}"));
                match error {
                    RuntimeError::NotFound(_) => return Ok(()),
                    // It may still start; if not, it is started again and is no new attempt.
                    RuntimeError::Unreachable(why) => {
                        self.failed(name, "RunContainerError", why);
                        return Ok(());
                    }
                    _ => {}
                }
            }
        }
        // Started or failed: the attempt counts, and the next one waits for its back-off.
        let mut memory = self.cell.memory();
        memory.failures.remove(name);
        if let Step::MakeMember { back_off, heals, .. } = step {
            if let Some(back_off) = back_off {
                memory.back_offs.insert(name.clone(), back_off.clone());
            }
            if *heals {
                let now = self.now();
                memory.heals.entry(name.clone()).or_default().push_back(now);
            }
        }
        Ok(())
    }

    /// Its program may have seen the sandbox's name for its own: it is made anew at once, and is no
    /// restart. After a few times the pod gets a sandbox of its own.
    async fn too_late(&self, id: &str, why: &str) -> Result<(), RuntimeError> {
        warn!(%why, "container began without its host name, it is made anew");
        self.agent.spares.was_late(why);
        let often = {
            let mut memory = self.cell.memory();
            memory.unnamed = memory.unnamed.saturating_add(1);
            memory.unnamed >= UNNAMED
        };
        let sandbox = lock(&self.agent.instances).get(id).and_then(|one| one.joined.clone());
        for id in sandbox.filter(|_| often).iter().map(String::as_str).chain([id]) {
            lock(&self.agent.ended_by_us).insert(id.to_owned());
            self.agent.runtime.remove(id).await?;
            lock(&self.agent.instances).remove(id);
        }
        Ok(())
    }

    /// A host may not let us lower a process' score: the pod runs without it.
    async fn without_oom_score(&self, id: &str) -> Result<(), RuntimeError> {
        let known = self.agent.refuses_negative_oom.swap(true, Ordering::Relaxed);
        if !known {
            warn!("this host refuses a negative oom_score_adj, containers are made without");
        }
        let message = "this host refuses a negative oom_score_adj: the container is made without";
        self.warning("Degraded", message.to_owned());
        self.agent.runtime.remove(id).await?;
        lock(&self.agent.instances).remove(id);
        Ok(())
    }

    fn rename(&self, id: &str, name: &str) {
        let (agent, cell) = (self.agent.clone(), self.cell.clone());
        let (id, name) = (id.to_owned(), name.to_owned());
        self.cell.memory().renaming.insert(id.clone());
        self.agent.tasks.spawn_short("rename", async move {
            if let Err(error) = agent.runtime.rename(&id, &name).await {
                warn!(object = %cell.key, %name, %error, "container not renamed");
                agent.is_away(&error).await;
                sleep(RETRY).await;
            }
            agent.refresh(&id).await;
            cell.memory().renaming.remove(&id);
            cell.wake.notify_one();
        });
    }

    async fn finish(&self, uid: &str) -> Performed {
        let home = directory(self.agent, self.pod());
        // Most pods have a file or two of ours and no volumes: removing them costs less than another
        // thread, whose end the simulation could not repeat either.
        let has_volumes =
            ["volumes", "volume-subpaths"].iter().any(|part| home.join(part).exists());
        let cleared = if has_volumes {
            let clearing = tokio::task::spawn_blocking(move || volume::remove(&home));
            clearing.await.expect("removing volumes does not panic")
        } else {
            volume::remove(&home)
        };
        if let Err(error) = cleared {
            warn!(%error, "volumes not removed, the next relist tries again");
        }
        let options = DeleteOptions {
            uid: Some(uid.to_owned()),
            grace_seconds: Some(0),
            ..DeleteOptions::default()
        };
        match self.agent.cluster.delete::<Pod>(&self.cell.key, &options).await {
            Ok(()) => Performed::Finished,
            // Already gone, or another pod has its name now.
            Err(error) if error.is_not_found() || error.is_conflict() => Performed::Finished,
            Err(error) => {
                warn!(%error, "pod object not deleted");
                sleep(RETRY).await;
                Performed::Changed
            }
        }
    }
}

/// The words of runc; older ones say no more than that their child was gone while it wrote the score.
fn refuses_oom_score(error: &RuntimeError) -> bool {
    let text = error.to_string();
    ["oom_score_adj", "oom score", "final child's PID from pipe"]
        .iter()
        .any(|words| text.contains(words))
}

/// What a create makes known without asking again.
fn created(spec: &ContainerSpec, id: String, now: Timestamp) -> Instance {
    let joined = match &spec.network {
        container_spec::NetworkMode::Join(sandbox) => Some(sandbox.clone()),
        _ => None,
    };
    Instance {
        id,
        name: spec.name.clone(),
        identity: spec.identity.clone(),
        life: Life::Created,
        image_id: String::new(),
        exit_code: 0,
        oom_killed: false,
        error: String::new(),
        created_at: now,
        started_at: None,
        finished_at: None,
        ip: None,
        joined: joined.filter(|_| spec.identity.role != Role::Sandbox),
        made_as: None,
        devices: devices_of(&spec.labels()),
        is_detached: false,
        asked: spec.asked.clone(),
        settings: crate::node::instance::Settings {
            image: spec.image.clone(),
            env: spec.env.clone(),
            memory: spec.memory,
            memory_swap: spec.memory,
            cpu_shares: spec.cpu_shares,
            cpu_quota: spec.cpu_quota,
            restart_policy: "no".to_owned(),
            fields: None,
        },
    }
}
