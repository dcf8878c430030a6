//! What the tasks of one node share: the pods bound to it, what is known of their containers, and
//! the signals between them. Locks are held for the length of a lookup, never across an await.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::node::capacity::Engine;
use crate::node::care::Care;
use crate::node::claimed_volumes::Holders;
use crate::node::container_spec::Site;
use crate::node::device_book::DeviceBook;
use crate::node::environment::{Named, Place, Sources, named};
use crate::node::eviction::Pressure;
use crate::node::images::Images;
use crate::node::instances::Instances;
use crate::node::memory::Memory;
use crate::node::metrics::Metrics;
use crate::node::pulled_images::PulledFile;
use crate::node::pulls::PULLS;
use crate::node::resolver::Resolver;
use crate::node::runtime::{Runtime, RuntimeError};
use crate::node::spare_keeper::Spares;
use crate::node::turns::Turns;
use crate::node::volume_claims::Storage;
use crate::node::volume_keeper::Jobs;
use crate::object::drift::{DriftObject, Layer};
use crate::object::extended::DeviceClass;
use crate::object::ledger::{Examined, Ledger, LedgerWrite};
use crate::object::ports::Withdrawal;
use crate::object::privilege::Privileges;
use crate::object::{Cluster, Key, Object};
use crate::task::{Tasks, caught};

/// Batches of ledger writes under way: one a pass, and a pass differs seldom.
pub const DRIFT_QUEUE: usize = 1024;

/// How long after its start a node without an address is thought to be still booting.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(60);

/// Called after every completed pass, with the loop's name.
pub type Beat = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Where a node's address comes from.
#[derive(Clone, Copy, Debug)]
pub enum HostAddress {
    /// Written down by a person.
    Given(Ipv4Addr),
    /// Looked up again and again: at boot the daemon may be earlier than the network.
    Asked(fn() -> Option<Ipv4Addr>),
}

/// What a node is told at start.
#[derive(Clone)]
pub struct NodeOptions {
    pub node_name: String,
    /// Whose containers, network and directories they are.
    pub installation: String,
    /// Of the engine's container names.
    pub prefix: String,
    /// Volumes live in `<data_dir>/pods/<uid>`.
    pub data_dir: PathBuf,
    /// The node's address, as other hosts reach it.
    pub host_ip: HostAddress,
    /// The pods' addresses on this node.
    pub pod_range: Ipv4Net,
    /// The Docker network's name.
    pub network: String,
    /// The kernel interface behind it, at most 15 bytes.
    pub bridge: String,
    /// Sandboxes made before their pods, at most; 0 makes none.
    pub spare_sandboxes: usize,
    /// How many processes and threads one container may have; `None`: as many as the host has.
    pub pids_limit: Option<i64>,
    /// What else the node offers: devices, licences, by the name that pods ask for.
    pub resources: BTreeMap<String, i64>,
    /// Devices that are given to containers one by one, by the same names.
    pub devices: BTreeMap<String, DeviceClass>,
    /// What pods may have of this host, for what only shows on the host: where a path leads.
    pub privileges: Arc<Privileges>,
    /// Containers without a pod are left alone until the store holds a first commit: a fresh store
    /// knows no pods, also where the disk with the last one is merely not mounted.
    pub hold: bool,
    pub beat: Beat,
    /// What the agent counts with.
    pub metrics: Metrics,
    /// When images are collected and pods evicted.
    pub care: Care,
}

/// Whether the engine can be worked with.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineState {
    /// Not looked yet.
    Unknown,
    Ready(Arc<Engine>),
    /// Why not: nothing is done and no status is touched meanwhile.
    Away(String),
}

/// One pod bound to this node.
pub struct PodCell {
    pub uid: String,
    pub key: Key,
    pod: Mutex<Arc<Pod>>,
    pub memory: Mutex<Memory>,
    /// When the agent first saw it.
    pub since: Instant,
    /// Look again. Carries nothing.
    pub wake: Notify,
    /// The object is gone from the API.
    pub gone: AtomicBool,
}

impl HostAddress {
    fn now(self) -> Option<Ipv4Addr> {
        match self {
            Self::Given(address) => Some(address),
            Self::Asked(ask) => ask(),
        }
    }
}

impl PodCell {
    pub fn new(pod: Arc<Pod>) -> Arc<Self> {
        Arc::new(Self {
            uid: pod.uid().to_owned(),
            key: pod.key(),
            pod: Mutex::new(pod),
            memory: Mutex::default(),
            since: Instant::now(),
            wake: Notify::new(),
            gone: AtomicBool::new(false),
        })
    }

    pub fn pod(&self) -> Arc<Pod> {
        lock(&self.pod).clone()
    }

    /// Takes a newer state; an older one (a watch behind our own write) is ignored.
    pub fn set_pod(&self, pod: Arc<Pod>) {
        let revision = |pod: &Pod| {
            pod.metadata.resource_version.as_deref().and_then(|text| text.parse::<u64>().ok())
        };
        let mut current = lock(&self.pod);
        if revision(&pod) >= revision(&current) {
            *current = pod;
        }
    }

    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

/// A panic while a lock is held leaves plain values behind: they are as good as before it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// ConfigMaps, Secrets and Services as the watches told them.
#[derive(Default)]
pub struct Known {
    pub sources: Sources,
    pub services_known: bool,
    watches: BTreeMap<(bool, Key), CancellationToken>,
}

/// Pods whose containers are made at a time, and those among them that make a sandbox of their own. More
/// would be made side by side in the same time, and the first of them would be ready as late as the
/// last: a rolling update goes on with each that is ready.
const MAKING: usize = 5;
const MAKING_SANDBOXES: usize = 3;
/// Containers removed at a time: as many calls as the engine gets at once. With four, a hundred pods
/// take a tenth longer (BENCHMARKS.md (k)).
const REMOVING: usize = 8;

/// The shared state of one node's tasks.
pub struct Agent<C, R> {
    pub cluster: C,
    pub runtime: R,
    pub options: NodeOptions,
    pub withdrawal: Arc<dyn Withdrawal>,
    pub clock: Clock,
    pub tasks: Tasks,
    pub engine: watch::Sender<EngineState>,
    /// Wakes the engine's loop: a call found it unreachable.
    pub engine_lost: Notify,
    /// Pods whose containers are being made.
    pub making: Turns,
    /// Those among them that make a sandbox of their own.
    pub making_sandboxes: Turns,
    /// Containers that are being removed.
    pub removing: Turns,
    /// Devices of containers that are being made.
    pub device_book: DeviceBook,
    /// The sandboxes' image, by the engine's own id of it.
    pub sandbox_image: Mutex<String>,
    host_ip: Mutex<Ipv4Addr>,
    started: Instant,
    /// When it began.
    pub born: Timestamp,
    pub instances: Mutex<Instances>,
    pub images: Mutex<Images>,
    /// Which of them this node pulled.
    pub pulled: PulledFile,
    /// What the node runs out of.
    pub pressures: watch::Sender<BTreeSet<Pressure>>,
    /// Places for pulls at a time.
    pub pulls: Semaphore,
    pub known: Mutex<Known>,
    /// Claims, and what they may be bound to.
    pub storage: Mutex<Storage>,
    /// Look whether there is something to make or remove.
    pub storage_changed: Notify,
    pub jobs: Jobs,
    pub holders: Mutex<Holders>,
    /// By uid.
    pub pods: Mutex<BTreeMap<String, Arc<PodCell>>>,
    pub pods_known: AtomicBool,
    /// The store holds no commit yet, see [`NodeOptions::hold`].
    pub holds: AtomicBool,
    /// Containers whose holding was told.
    pub held: AtomicUsize,
    /// What events told of an instance's end, by id.
    pub causes: Mutex<BTreeMap<String, String>>,
    /// Instances that we ended ourselves: their end is no drift.
    pub ended_by_us: Mutex<HashSet<String>>,
    /// The host refused a negative `oom_score_adj` once.
    pub refuses_negative_oom: AtomicBool,
    pub spares: Spares,
    pub ledger: Mutex<Ledger>,
    pub drift_writes: mpsc::Sender<Vec<LedgerWrite>>,
}

impl<C: Cluster, R: Runtime> Agent<C, R> {
    #[allow(clippy::too_many_arguments)] // the composition root's parts, once
    pub fn new(
        cluster: C,
        runtime: R,
        options: NodeOptions,
        withdrawal: Arc<dyn Withdrawal>,
        clock: Clock,
        tasks: Tasks,
        drift_writes: mpsc::Sender<Vec<LedgerWrite>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            holds: AtomicBool::new(options.hold),
            held: AtomicUsize::new(0),
            host_ip: Mutex::new(options.host_ip.now().unwrap_or(Ipv4Addr::LOCALHOST)),
            pulled: PulledFile::open(&options.data_dir),
            cluster,
            runtime,
            options,
            withdrawal,
            clock,
            tasks,
            engine: watch::Sender::new(EngineState::Unknown),
            engine_lost: Notify::new(),
            making: Turns::of(MAKING),
            making_sandboxes: Turns::of(MAKING_SANDBOXES),
            removing: Turns::of(REMOVING),
            device_book: DeviceBook::default(),
            sandbox_image: Mutex::default(),
            started: Instant::now(),
            born: clock.now(),
            instances: Mutex::default(),
            images: Mutex::default(),
            pressures: watch::Sender::new(BTreeSet::new()),
            pulls: Semaphore::new(PULLS),
            known: Mutex::default(),
            storage: Mutex::default(),
            storage_changed: Notify::new(),
            jobs: Jobs::default(),
            holders: Mutex::default(),
            pods: Mutex::default(),
            pods_known: AtomicBool::new(false),
            causes: Mutex::default(),
            ended_by_us: Mutex::default(),
            refuses_negative_oom: AtomicBool::new(false),
            spares: Spares::default(),
            ledger: Mutex::new(Ledger::new(Layer::Container)),
            drift_writes,
        })
    }

    /// How long the agent has been there.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn engine(&self) -> Option<Arc<Engine>> {
        match &*self.engine.borrow() {
            EngineState::Ready(engine) => Some(engine.clone()),
            _ => None,
        }
    }

    pub fn site(&self, engine: &Engine) -> Site {
        Site {
            installation: self.options.installation.clone(),
            prefix: self.options.prefix.clone(),
            network: self.options.network.clone(),
            pause_image: lock(&self.sandbox_image).clone(),
            node_memory: engine.memory,
            pids_limit: self.options.pids_limit,
            resolver: Resolver::default(),
        }
    }

    /// What a pod may be told of where it is.
    pub fn place(&self, engine: &Engine, pod_ip: Option<Ipv4Addr>) -> Place {
        Place {
            node_name: self.options.node_name.clone(),
            host_ip: self.host_ip(),
            pod_ip,
            cpus: engine.cpus,
            memory: engine.memory,
        }
    }

    pub fn cell(&self, uid: &str) -> Option<Arc<PodCell>> {
        lock(&self.pods).get(uid).cloned()
    }

    pub fn cells(&self) -> Vec<Arc<PodCell>> {
        lock(&self.pods).values().cloned().collect()
    }

    pub fn wake(&self, uid: &str) {
        if let Some(cell) = self.cell(uid) {
            cell.wake.notify_one();
        }
    }

    pub fn wake_all(&self) {
        for cell in self.cells() {
            cell.wake.notify_one();
        }
    }

    /// The node's address; loopback as long as it has none.
    pub fn host_ip(&self) -> Ipv4Addr {
        *lock(&self.host_ip)
    }

    /// Looks whether the host has another address by now; every pod's status tells it.
    pub fn look_for_address(&self) {
        let Some(found) = self.options.host_ip.now() else { return };
        if std::mem::replace(&mut *lock(&self.host_ip), found) != found {
            info!(address = %found, "the node has another address");
            self.wake_all();
        }
    }

    /// Whether the node may get its address any moment: what is made with it now has it for life.
    pub fn waits_for_address(&self) -> bool {
        matches!(self.options.host_ip, HostAddress::Asked(_))
            && self.host_ip().is_loopback()
            && self.started.elapsed() < ADDRESS_PATIENCE
    }

    /// Whether the engine went away, after a call to it failed. One that answers a ping was only
    /// stuck with that one container (a mount that hangs, a process that cannot be killed): this is
    /// that pod's matter, and the others go on. Else workers wait until the engine's loop is through.
    pub async fn is_away(&self, error: &RuntimeError) -> bool {
        if !matches!(error, RuntimeError::Unreachable(_)) {
            return false;
        }
        let Err(why) = self.runtime.ping().await else {
            warn!(%error, "the engine answers, but not to this call");
            return self.engine().is_none();
        };
        let changed = self.engine.send_if_modified(|state| {
            let was_ready = matches!(state, EngineState::Ready(_));
            if was_ready {
                *state = EngineState::Away(why.to_string());
            }
            was_ready
        });
        if changed {
            self.engine_lost.notify_one();
        }
        true
    }

    /// Looks at one container again and notes what it is now.
    pub async fn refresh(&self, id: &str) {
        let pod_uid = lock(&self.instances).get(id).map(|known| known.identity.pod_uid.clone());
        match self.runtime.inspect(id).await {
            Ok(instance) => {
                let uid = instance.identity.pod_uid.clone();
                lock(&self.instances).put(instance);
                self.wake(&uid);
            }
            Err(RuntimeError::NotFound(_)) => {
                lock(&self.instances).remove(id);
                if let Some(uid) = pod_uid {
                    self.wake(&uid);
                }
            }
            Err(error) => {
                self.is_away(&error).await;
            }
        }
    }

    /// Tells the ledger what was compared and queues the writes that follow.
    pub fn compare(&self, examined: &[Examined], complete: bool) {
        let writes = lock(&self.ledger).observe(examined, complete, self.clock.now());
        self.write_drifts(writes);
    }

    /// Objects of open Drifts.
    pub fn open_drifts(&self) -> BTreeSet<DriftObject> {
        lock(&self.ledger).open().map(|drift| drift.spec.object.clone()).collect()
    }

    /// A pod is gone: what is open of it closes.
    pub fn forget_drifts(&self, object: &DriftObject) {
        let writes = lock(&self.ledger).forget_object(object, self.clock.now());
        self.write_drifts(writes);
    }

    fn write_drifts(&self, writes: Vec<LedgerWrite>) {
        if !writes.is_empty() && self.drift_writes.try_send(writes).is_err() {
            warn!("drift queue is full, a later pass writes it again");
        }
    }

    /// Sees to it that what a pod names is watched; answers whether all of it is known.
    pub fn follow(self: &Arc<Self>, named: &Named, needs_services: bool) -> bool {
        let mut known = lock(&self.known);
        let mut all = known.services_known || !needs_services;
        for key in &named.config_maps {
            all &= known.sources.config_maps.contains_key(key);
            let slot = known.watches.entry((false, key.clone()));
            slot.or_insert_with(|| {
                let stop = self.tasks.stop().child_token();
                self.tasks.spawn_short(
                    "config watch",
                    crate::node::config_watch::follow::<C, R, ConfigMap>(
                        self.clone(),
                        key.clone(),
                        stop.clone(),
                    ),
                );
                stop
            });
        }
        for key in &named.secrets {
            all &= known.sources.secrets.contains_key(key);
            let slot = known.watches.entry((true, key.clone()));
            slot.or_insert_with(|| {
                let stop = self.tasks.stop().child_token();
                self.tasks.spawn_short(
                    "config watch",
                    crate::node::config_watch::follow::<C, R, Secret>(
                        self.clone(),
                        key.clone(),
                        stop.clone(),
                    ),
                );
                stop
            });
        }
        all
    }

    /// Ends the watches of what no pod names any more. The pods are looked at under the lock that a
    /// new pod's worker needs to follow what it names: it cannot lose what it has just found.
    pub fn unfollow(&self) {
        let mut known = lock(&self.known);
        let names = || self.cells().iter().map(|cell| named(&cell.pod())).collect();
        // A pod that cannot be read makes its own worker panic; what it names is not known.
        let Ok(all): Result<Vec<Named>, String> = caught(names) else { return };
        let wanted = |(secret, key): &(bool, Key)| {
            all.iter().any(|of_pod| {
                let list = if *secret { &of_pod.secrets } else { &of_pod.config_maps };
                list.contains(key)
            })
        };
        let unwanted: Vec<(bool, Key)> =
            known.watches.keys().filter(|id| !wanted(id)).cloned().collect();
        for id in unwanted {
            if let Some(stop) = known.watches.remove(&id) {
                stop.cancel();
            }
            if id.0 {
                known.sources.secrets.remove(&id.1);
            } else {
                known.sources.config_maps.remove(&id.1);
            }
        }
    }

    pub fn sources(&self) -> Sources {
        lock(&self.known).sources.clone()
    }

    pub fn is_gone(cell: &PodCell) -> bool {
        cell.gone.load(Ordering::Relaxed)
    }
}
