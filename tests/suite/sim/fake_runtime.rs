//! A container engine in memory: containers, images, one address range, an event stream. It keeps
//! the engine's own promises (a name is taken once, a member needs its sandbox running, a container
//! that ended stays until it is removed) and refuses what the engine would refuse. Faults and crashes
//! are put around it by `faulty_runtime.rs`; it outlives the daemon's lives.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ballast::clock::Clock;
use ballast::node::capacity::{Engine, Limits};
use ballast::node::container_spec::{ContainerSpec, NetworkMode};
use ballast::node::instance::{
    Identity, Instance, Life, Listed, MADE_AS, Role, Settings, devices_of,
};
use ballast::node::runtime::{
    EngineVolume, EngineVolumes, EventAction, ExecOutcome, ImageFacts, IsKnown, LogOptions,
    NetworkSpec, Pull, Runtime, RuntimeError, RuntimeEvent, StoredImage, UsageSample, VolumeWish,
};
use ballast::object::streams::{Channels, Process, Said, TerminalSize};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};

use crate::sim::fake_process;

/// Events kept for a slow listener; one that is slower still is cut off, as the engine does it.
const EVENTS: usize = 4096;
/// Bytes of every image.
pub const IMAGE_SIZE: i64 = 100 << 20;

/// Cheap to clone: every clone is the same engine.
#[derive(Clone)]
pub struct FakeRuntime(Arc<Inner>);

struct Inner {
    /// Another one in each of the daemon's lives.
    clock: Mutex<Clock>,
    state: Mutex<State>,
    events: broadcast::Sender<(String, RuntimeEvent)>,
    /// What main processes say, by container; `None` at their end.
    said: broadcast::Sender<(String, Option<Bytes>)>,
    /// Slow pulls look again.
    let_go: Notify,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<String, Instance>,
    images: BTreeSet<String>,
    /// What a registry would give, and to which user alone.
    registry: BTreeMap<String, Option<String>>,
    /// Bytes of memory and of disk that containers of an image use.
    usage: HashMap<String, u64>,
    /// Pulls of these last until they are let go.
    slow_images: BTreeSet<String>,
    /// Every pull that was begun, and as whom.
    pulls: Vec<(String, Option<String>)>,
    networks: HashMap<String, NetworkSpec>,
    volumes: BTreeMap<String, EngineVolume>,
    /// By container: the paths and volumes that it has.
    mounts: BTreeMap<String, BTreeSet<String>>,
    made: u64,
    away: bool,
    /// So many lists make the caller panic.
    cursed_lists: u32,
    /// What a probe runs inside a container ends with 1.
    commands_fail: bool,
    /// Containers of which the engine can tell nothing.
    stuck: BTreeSet<String>,
    /// Making a container of this image panics.
    poison: Option<String>,
    /// Every container that was ever started, by engine name: one twice is a duplicate.
    started: Vec<String>,
    /// By id of a container whose sandbox was made before its pod.
    host_names: BTreeMap<String, String>,
    /// Containers whose start said that their name came too late.
    too_late: BTreeSet<String>,
    /// By id of a container that began under its sandbox's host name: its pod's uid.
    unnamed: BTreeMap<String, String>,
    /// Of the terminals of commands and main processes.
    sizes: Vec<TerminalSize>,
    /// What must never be: two containers at once that stand for the same one of a pod.
    doubles: Vec<String>,
}

/// What a container is named that began too soon.
pub const TOO_LATE: &str = "too late";

impl FakeRuntime {
    pub fn new(clock: Clock) -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        let (said, _) = broadcast::channel(EVENTS);
        Self(Arc::new(Inner {
            clock: Mutex::new(clock),
            state: Mutex::default(),
            events,
            said,
            let_go: Notify::new(),
        }))
    }

    /// An image that is there without a pull.
    pub fn with_image(self, reference: &str) -> Self {
        self.state().images.insert(reference.to_owned());
        self
    }

    /// An image that a pull finds.
    pub fn with_registry_image(self, reference: &str) -> Self {
        self.state().registry.insert(reference.to_owned(), None);
        self
    }

    /// An image that a pull of this user finds.
    pub fn with_private_image(self, reference: &str, user: &str) -> Self {
        self.state().registry.insert(reference.to_owned(), Some(user.to_owned()));
        self
    }

    /// Pulls of this image hang from now on, or go on.
    pub fn set_slow_image(&self, reference: &str, slow: bool) {
        let mut state = self.state();
        if slow {
            state.slow_images.insert(reference.to_owned());
        } else {
            state.slow_images.remove(reference);
        }
        drop(state);
        self.0.let_go.notify_waiters();
    }

    /// Bytes of memory and of disk that containers of this image use from now on.
    pub fn set_usage(&self, image: &str, bytes: u64) {
        self.state().usage.insert(image.to_owned(), bytes);
    }

    /// Every pull that was begun, and as whom.
    pub fn pulls(&self) -> Vec<(String, Option<String>)> {
        self.state().pulls.clone()
    }

    /// References of the images that are there.
    pub fn stored_images(&self) -> Vec<String> {
        self.state().images.iter().cloned().collect()
    }

    /// Unreachable from now on, or back again: what runs goes on running.
    pub fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// So many lists make the caller panic, from now on.
    pub fn curse_lists(&self, lists: u32) {
        self.state().cursed_lists = lists;
    }

    /// Commands inside containers fail from now on, or succeed again.
    pub fn set_commands_fail(&self, fail: bool) {
        self.state().commands_fail = fail;
    }

    /// No call about this container is answered from now on, or again.
    pub fn set_stuck(&self, id: &str, stuck: bool) {
        let mut state = self.state();
        if stuck {
            state.stuck.insert(id.to_owned());
        } else {
            state.stuck.remove(id);
        }
    }

    /// Who makes a container of this image panics.
    pub fn set_poison(&self, image: Option<&str>) {
        self.state().poison = image.map(str::to_owned);
    }

    /// Everything there is, by id.
    pub fn containers(&self) -> Vec<Instance> {
        self.state().containers.values().cloned().collect()
    }

    /// Engine names in the order they were started.
    pub fn started(&self) -> Vec<String> {
        self.state().started.clone()
    }

    /// `docker kill`, or a process that ends by itself (`signal: None`).
    pub fn end(&self, id: &str, exit_code: i32, signal: Option<&str>) {
        let mut state = self.state();
        if let Some(signal) = signal
            && let Some(instance) = state.containers.get(id)
        {
            self.tell(instance, EventAction::Killed { signal: signal.to_owned() });
        }
        self.exit(&mut state, id, exit_code);
    }

    /// A main process says something to whoever is attached.
    pub fn say(&self, id: &str, words: &str) {
        let _ = self.0.said.send((id.to_owned(), Some(Bytes::copy_from_slice(words.as_bytes()))));
    }

    /// How many are attached to main processes.
    pub fn attached(&self) -> usize {
        self.0.said.receiver_count()
    }

    /// Every size that a terminal was given.
    pub fn sizes(&self) -> Vec<TerminalSize> {
        self.state().sizes.clone()
    }

    /// By id of a container that began under the host name of its sandbox, its pod's uid: it is made
    /// anew, which is one more start and one more restart than without the crash between the two.
    pub fn unnamed(&self) -> BTreeMap<String, String> {
        self.state().unnamed.clone()
    }

    /// The host name of each running container whose sandbox was made before its pod.
    pub fn host_name_of(&self, id: &str) -> Option<String> {
        self.state().host_names.get(id).cloned()
    }

    /// Every start beside a running container of the same pod and name.
    pub fn doubles(&self) -> Vec<String> {
        self.state().doubles.clone()
    }

    /// The engine outlives a simulated daemon; its time is the present life's.
    pub fn set_clock(&self, clock: Clock) {
        *self.0.clock.lock().expect("no panic inside") = clock;
    }

    fn now(&self) -> Timestamp {
        self.0.clock.lock().expect("no panic inside").now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic inside")
    }

    /// The state, unless the engine is away.
    fn answer(&self) -> Result<MutexGuard<'_, State>, RuntimeError> {
        let state = self.state();
        if state.away {
            return Err(RuntimeError::Unreachable("the engine is away".to_owned()));
        }
        Ok(state)
    }

    fn tell(&self, instance: &Instance, action: EventAction) {
        let event = RuntimeEvent {
            container_id: instance.id.clone(),
            pod_uid: instance.identity.pod_uid.clone(),
            action,
            at: self.now(),
        };
        let _ = self.0.events.send((instance.identity.installation.clone(), event));
    }

    /// Ends a running container.
    fn exit(&self, state: &mut State, id: &str, exit_code: i32) {
        let now = self.now();
        let Some(instance) = state.containers.get_mut(id).filter(|i| i.is_running()) else {
            return;
        };
        instance.life = Life::Exited;
        instance.exit_code = exit_code;
        instance.finished_at = Some(now);
        instance.ip = None;
        self.tell(instance, EventAction::Died { exit_code });
        let _ = self.0.said.send((id.to_owned(), None));
    }

    /// A running container, in the engine's words where it does not run.
    fn enterable(&self, id: &str) -> Result<(), RuntimeError> {
        let state = self.answer()?;
        refuse_stuck(&state, id)?;
        match state.containers.get(id) {
            Some(instance) if instance.is_running() => Ok(()),
            Some(_) => Err(RuntimeError::NameConflict(format!("container {id} is not running"))),
            None => Err(no_such(id)),
        }
    }

    fn resized(&self) -> impl Fn(TerminalSize) -> Result<(), RuntimeError> + Send + Sync + 'static {
        let engine = self.clone();
        move |size| {
            engine.answer()?.sizes.push(size);
            Ok(())
        }
    }
}

fn no_such(id: &str) -> RuntimeError {
    RuntimeError::NotFound(format!("No such container: {id}"))
}

/// A container in whose lock something hangs: the engine answers to everything else.
/// As much of a container as an engine's list tells.
fn vague(one: &Instance) -> Instance {
    Instance {
        oom_killed: false,
        error: String::new(),
        started_at: None,
        finished_at: None,
        is_detached: false,
        settings: one.asked.clone().unwrap_or_default(),
        ..one.clone()
    }
}

fn refuse_stuck(state: &State, id: &str) -> Result<(), RuntimeError> {
    if state.stuck.contains(id) {
        return Err(RuntimeError::Unreachable(format!("{id} did not answer within 5 s")));
    }
    Ok(())
}

fn image_id(reference: &str) -> String {
    if reference.starts_with("sha256:") {
        reference.to_owned()
    } else {
        format!("sha256:{reference}")
    }
}

/// The first address that no running container has; .0 is the range, .1 the bridge.
fn free_address(state: &State, network: &NetworkSpec) -> Option<Ipv4Addr> {
    let taken: BTreeSet<Ipv4Addr> = state.containers.values().filter_map(|i| i.ip).collect();
    network.subnet.hosts().skip(1).find(|ip| !taken.contains(ip))
}

impl EngineVolumes for FakeRuntime {
    async fn volume(&self, name: &str) -> Result<Option<EngineVolume>, RuntimeError> {
        self.answer().map(|state| state.volumes.get(name).cloned())
    }

    async fn volumes(&self, installation: &str) -> Result<Vec<EngineVolume>, RuntimeError> {
        let state = self.answer()?;
        let ours = |volume: &&EngineVolume| volume.installation.as_deref() == Some(installation);
        Ok(state.volumes.values().filter(ours).cloned().collect())
    }

    async fn make_volume(&self, wish: &VolumeWish) -> Result<EngineVolume, RuntimeError> {
        let made = EngineVolume {
            name: wish.name.clone(),
            driver: "local".to_owned(),
            installation: Some(wish.installation.clone()),
            claim: Some(wish.claim.clone()),
            ..EngineVolume::default()
        };
        Ok(self.answer()?.volumes.entry(wish.name.clone()).or_insert(made).clone())
    }

    async fn remove_volume(&self, name: &str) -> Result<(), RuntimeError> {
        let mut state = self.answer()?;
        if let Some(by) = state.mounts.values().position(|sources| sources.contains(name)) {
            return Err(RuntimeError::NameConflict(format!("volume is in use: {by}")));
        }
        state.volumes.remove(name);
        Ok(())
    }

    async fn mounting(&self, source: &str) -> Result<Vec<String>, RuntimeError> {
        let state = self.answer()?;
        let has = |id: &&String| state.mounts.get(*id).is_some_and(|all| all.contains(source));
        Ok(state.containers.keys().filter(has).cloned().collect())
    }
}

impl Runtime for FakeRuntime {
    async fn ping(&self) -> Result<(), RuntimeError> {
        self.answer().map(|_| ())
    }

    async fn engine(&self) -> Result<Engine, RuntimeError> {
        self.answer().map(|_| Engine {
            version: "fake".to_owned(),
            api_version: "1.41".to_owned(),
            cpus: 64,
            memory: 256 << 30,
            kernel: "6.0".to_owned(),
            os_image: "memory".to_owned(),
            architecture: "amd64".to_owned(),
            limits: Limits { memory: true, swap: true, cpu_quota: true, cpu_shares: true },
            live_restore: true,
            data_root: "/no/such/engine".to_owned(),
            app_armor: false,
            gpus: Vec::new(),
        })
    }

    async fn list(
        &self,
        installation: &str,
        is_known: IsKnown<'_>,
    ) -> Result<Listed, RuntimeError> {
        let mut state = self.answer()?;
        if let Some(left) = state.cursed_lists.checked_sub(1) {
            state.cursed_lists = left;
            drop(state);
            panic!("the list is cursed");
        }
        let ours = state.containers.values().filter(|i| i.identity.installation == installation);
        let mut listed = Listed::default();
        for one in ours {
            let seen = vague(one);
            if state.stuck.contains(&one.id) || is_known(&seen) {
                listed.vague.push(seen);
            } else {
                listed.instances.push(one.clone());
            }
        }
        Ok(listed)
    }

    async fn inspect(&self, id: &str) -> Result<Instance, RuntimeError> {
        let state = self.answer()?;
        let by_name = || state.containers.values().find(|instance| instance.name == id);
        let found = state.containers.get(id).or_else(by_name).cloned();
        let found = found.ok_or_else(|| no_such(id))?;
        refuse_stuck(&state, &found.id)?;
        Ok(found)
    }

    async fn process(&self, id: &str) -> Result<i64, RuntimeError> {
        // It has none: nothing in memory is a process.
        self.answer().and_then(|_| Err(no_such(id)))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        let mut state = self.answer()?;
        if state.poison.as_ref() == Some(&spec.image) {
            drop(state);
            panic!("{} is poison", spec.image);
        }
        if let Some(holder) = state.containers.values().find(|i| i.name == spec.name) {
            return Err(RuntimeError::NameConflict(format!(
                "Conflict. The container name \"/{}\" is already in use by container \"{}\".",
                spec.name, holder.id
            )));
        }
        let known = |image: &String| *image == spec.image || image_id(image) == spec.image;
        if !state.images.iter().any(known) {
            return Err(RuntimeError::NotFound(format!("No such image: {}", spec.image)));
        }
        let joined = match &spec.network {
            NetworkMode::Join(sandbox) if !state.containers.contains_key(sandbox) => {
                return Err(no_such(sandbox));
            }
            NetworkMode::Join(sandbox) => Some(sandbox.clone()),
            NetworkMode::Bridge(name) if !state.networks.contains_key(name) => {
                return Err(RuntimeError::NotFound(format!("network {name} not found")));
            }
            NetworkMode::Bridge(_) | NetworkMode::Host => None,
        };
        state.made += 1;
        let id = format!("c{:06}", state.made);
        let instance = Instance {
            id: id.clone(),
            name: spec.name.clone(),
            identity: spec.identity.clone(),
            life: Life::Created,
            image_id: image_id(&spec.image),
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            created_at: self.now(),
            started_at: None,
            finished_at: None,
            ip: None,
            joined,
            made_as: spec.labels().get(MADE_AS).cloned(),
            devices: devices_of(&spec.labels()),
            is_detached: false,
            asked: spec.asked.clone(),
            settings: Settings {
                image: spec.image.clone(),
                env: spec.env.clone(),
                memory: spec.memory,
                memory_swap: spec.memory,
                cpu_shares: spec.cpu_shares,
                cpu_quota: spec.cpu_quota,
                restart_policy: "no".to_owned(),
                fields: None,
            },
        };
        state.containers.insert(id.clone(), instance);
        let sources = spec.mounts.iter().map(|mount| mount.source.clone()).collect();
        state.mounts.insert(id.clone(), sources);
        Ok(id)
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.answer()?;
        let instance = state.containers.get(id).cloned().ok_or_else(|| no_such(id))?;
        refuse_stuck(&state, id)?;
        if instance.is_running() {
            return Ok(());
        }
        if let Some(sandbox) = &instance.joined
            && !state.containers.get(sandbox).is_some_and(Instance::is_running)
        {
            return Err(RuntimeError::Other(format!(
                "cannot join network of a non running container: {sandbox}"
            )));
        }
        let ip = match instance.identity.role {
            Role::Sandbox | Role::Spare => {
                let network = state.networks.values().next().cloned();
                network.and_then(|network| free_address(&state, &network))
            }
            _ => None,
        };
        let now = self.now();
        let twin = state.containers.values().find(|other| {
            other.is_running()
                && other.identity.role != Role::Spare
                && other.identity.pod_uid == instance.identity.pod_uid
                && other.identity.container == instance.identity.container
        });
        if let Some(twin) = twin {
            let double = format!("{} started beside {}", instance.name, twin.name);
            state.doubles.push(double);
        }
        state.started.push(instance.name.clone());
        let made_as = instance.joined.as_ref().and_then(|sandbox| state.containers.get(sandbox));
        if let Some(made_as) = made_as.and_then(|sandbox| sandbox.made_as.clone()) {
            state.host_names.insert(id.to_owned(), made_as);
            state.unnamed.insert(id.to_owned(), instance.identity.pod_uid.clone());
        }
        let instance = state.containers.get_mut(id).expect("it was there above");
        instance.life = Life::Running;
        instance.started_at = Some(now);
        instance.ip = ip;
        self.tell(instance, EventAction::Started);
        Ok(())
    }

    async fn start_named(&self, id: &str, _from: &str, to: &str) -> Result<(), RuntimeError> {
        self.start(id).await?;
        let mut state = self.state();
        if to == TOO_LATE {
            state.too_late.insert(id.to_owned());
            return Err(RuntimeError::Unnamed("injected".to_owned()));
        }
        state.unnamed.remove(id);
        state.host_names.insert(id.to_owned(), to.to_owned());
        Ok(())
    }

    async fn host_name(&self, id: &str) -> Result<String, RuntimeError> {
        let state = self.answer()?;
        state.host_names.get(id).cloned().ok_or_else(|| no_such(id))
    }

    async fn learn_from(&self, id: &str) -> Result<(), RuntimeError> {
        let state = self.answer()?;
        state.containers.get(id).map(|_| ()).ok_or_else(|| no_such(id))
    }

    async fn rename(&self, id: &str, name: &str) -> Result<(), RuntimeError> {
        let mut state = self.answer()?;
        if state.containers.values().any(|other| other.name == name) {
            return Err(RuntimeError::NameConflict(format!("the name {name} is in use")));
        }
        let instance = state.containers.get_mut(id).ok_or_else(|| no_such(id))?;
        instance.name = name.to_owned();
        if let Some(identity) = Identity::of(&instance.identity.to_labels(), name) {
            instance.identity = identity;
        }
        self.tell(instance, EventAction::Changed);
        Ok(())
    }

    async fn stop(&self, id: &str, _grace: Duration) -> Result<(), RuntimeError> {
        let mut state = self.answer()?;
        refuse_stuck(&state, id)?;
        // Everything in memory ends at once on SIGTERM.
        self.exit(&mut state, id, 0);
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.answer()?;
        refuse_stuck(&state, id)?;
        let runs = state.containers.get(id).filter(|one| one.is_running()).cloned();
        if let Some(one) = runs.filter(|_| state.too_late.remove(id)) {
            // It is made anew, which is neither a restart nor one more that was ever started.
            state.unnamed.remove(id);
            if let Some(last) = state.started.iter().rposition(|name| *name == one.name) {
                state.started.remove(last);
            }
        }
        self.exit(&mut state, id, 137);
        state.mounts.remove(id);
        if let Some(instance) = state.containers.remove(id) {
            self.tell(&instance, EventAction::Removed);
        }
        Ok(())
    }

    async fn ensure_network(&self, network: &NetworkSpec) -> Result<Ipv4Addr, RuntimeError> {
        let mut state = self.answer()?;
        state.networks.insert(network.name.clone(), network.clone());
        Ok(network.subnet.hosts().next().expect("a range has hosts"))
    }

    async fn remove_network(&self, name: &str) -> Result<(), RuntimeError> {
        self.answer()?.networks.remove(name);
        Ok(())
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageFacts>, RuntimeError> {
        let state = self.answer()?;
        let pause = ballast::node::pause_image::pause_image();
        let layers = if reference == pause.tag { vec![pause.layer.clone()] } else { Vec::new() };
        let (size, user) = (IMAGE_SIZE, String::new());
        let facts = || ImageFacts { id: image_id(reference), layers, size, user };
        Ok(state.images.contains(reference).then(facts))
    }

    async fn pull(&self, pull: &Pull) -> Result<(), RuntimeError> {
        let reference = &pull.reference;
        let user = pull.credentials.as_ref().map(|credentials| credentials.username.clone());
        self.answer()?.pulls.push((reference.clone(), user.clone()));
        loop {
            let let_go = {
                let mut state = self.answer()?;
                let needed = state.registry.get(reference);
                let needed = needed.ok_or_else(|| {
                    RuntimeError::NotFound(format!("manifest for {reference} not found"))
                })?;
                if needed.is_some() && *needed != user {
                    return Err(RuntimeError::Denied(format!("denied: {reference} is private")));
                }
                let let_go = self.0.let_go.notified();
                if !state.slow_images.contains(reference) {
                    state.images.insert(reference.clone());
                    return Ok(());
                }
                let_go
            };
            let_go.await;
        }
    }

    async fn images(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        let state = self.answer()?;
        let stored = |reference: &String| StoredImage {
            id: image_id(reference),
            names: vec![reference.clone()],
            size: IMAGE_SIZE,
            used: state.containers.values().any(|one| one.image_id == image_id(reference)),
        };
        Ok(state.images.iter().map(stored).collect())
    }

    async fn remove_image(&self, name: &str) -> Result<(), RuntimeError> {
        let mut state = self.answer()?;
        if !state.containers.values().any(|one| one.image_id == image_id(name)) {
            state.images.retain(|image| image != name && image_id(image) != name);
        }
        Ok(())
    }

    async fn load(&self, _archive: Bytes) -> Result<(), RuntimeError> {
        // The one archive that is ever loaded is the sandbox's. As in the containerd image store, the
        // engine gives it an id that nobody could compute from the archive.
        let tag = ballast::node::pause_image::pause_image().tag;
        self.answer()?.images.insert(tag.to_owned());
        Ok(())
    }

    async fn logs(
        &self,
        id: &str,
        _options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError> {
        let instance = self.inspect(id).await?;
        let line = Bytes::from(format!("{} says nothing\n", instance.name));
        Ok(futures::stream::iter([Ok(line)]).boxed())
    }

    async fn usage(&self, id: &str) -> Result<UsageSample, RuntimeError> {
        let instance = self.inspect(id).await?;
        let at = self.now();
        let started = instance.started_at.ok_or_else(|| no_such(id))?;
        // A quarter of a core, always.
        let nanos = u64::try_from(at.duration_since(started).as_nanos()).unwrap_or(0);
        let memory_bytes = self.state().usage.get(&instance.settings.image).copied();
        let memory_bytes = memory_bytes.unwrap_or(1 << 20);
        Ok(UsageSample { at, cpu_nanos: nanos / 4, memory_bytes, processes: 1 })
    }

    async fn disk_usage(&self, id: &str) -> Result<u64, RuntimeError> {
        let instance = self.inspect(id).await?;
        Ok(self.state().usage.get(&instance.settings.image).copied().unwrap_or(1 << 20))
    }

    async fn exec(
        &self,
        id: &str,
        _command: &[String],
        _limit: Duration,
    ) -> Result<ExecOutcome, RuntimeError> {
        let commands_fail = self.state().commands_fail;
        let fails = commands_fail || !self.inspect(id).await?.is_running();
        Ok(ExecOutcome::Ended { exit_code: i64::from(fails), output: String::new() })
    }

    async fn enter(
        &self,
        id: &str,
        command: &[String],
        channels: Channels,
    ) -> Result<Process<RuntimeError>, RuntimeError> {
        self.enterable(id)?;
        Ok(fake_process::command(command, channels, self.resized()))
    }

    async fn attach(
        &self,
        id: &str,
        channels: Channels,
    ) -> Result<Process<RuntimeError>, RuntimeError> {
        self.enterable(id)?;
        let begin = (self.0.said.subscribe(), id.to_owned());
        let output = futures::stream::unfold(begin, |(mut said, id)| async move {
            loop {
                match said.recv().await {
                    Ok((of, Some(words))) if of == id => {
                        return Some((Ok(Said::Stdout(words)), (said, id)));
                    }
                    Ok((of, None)) if of == id => return None,
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        });
        // The main process answers what it is told.
        let (said, id) = (self.0.said.clone(), id.to_owned());
        let input = futures::sink::unfold((said, id), |(said, id), bytes: Bytes| async move {
            let _ = said.send((id.clone(), Some(bytes)));
            Ok((said, id))
        });
        let resized = self.resized();
        let terminal = channels.tty;
        Ok(Process {
            input: Box::pin(input),
            output: output.boxed(),
            resize: Box::new(move |size| {
                let no_terminal = || RuntimeError::Other("it has no terminal".to_owned());
                let given = if terminal { resized(size) } else { Err(no_terminal()) };
                futures::future::ready(given).boxed()
            }),
            ended: futures::future::ok(None).boxed(),
        })
    }

    async fn events(
        &self,
        installation: &str,
        _since: Timestamp,
    ) -> Result<BoxStream<'static, Result<RuntimeEvent, RuntimeError>>, RuntimeError> {
        drop(self.answer()?);
        let begin = (self.clone(), self.0.events.subscribe(), installation.to_owned());
        let events = futures::stream::unfold(begin, |(engine, mut events, installation)| async {
            loop {
                match events.recv().await {
                    Ok((of, event)) if of == installation && !engine.state().away => {
                        return Some((Ok(event), (engine, events, installation)));
                    }
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        });
        Ok(events.boxed())
    }
}
