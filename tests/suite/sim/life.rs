//! A world that outlives the daemon, and the daemon's lives in it. A life is composed as
//! `daemon.rs` composes it, with the loop that reads Git replaced by one that applies the present
//! commit of the scenario. Dropping its tokio runtime is the crash: no destructor of the daemon gets
//! to do anything that a killed process would not have done either.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ballast::api::{Api, ApiOptions, IdSource, Identity, Local};
use ballast::clock::Clock;
use ballast::network::chain_name::ChainNames;
use ballast::network::{self, NetworkOptions};
use ballast::node::{self, HostAddress, NodeOptions};
use ballast::object::{Key, Kind, Transact};
use ballast::reconcile::{self, scheduler};
use ballast::store::{Sqlite, SqliteOptions, Store, WriterMode};
use ballast::task::Tasks;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tempfile::TempDir;

use super::effects::Effects;
use super::fake_kernel::FakeKernel;
use super::fake_runtime::FakeRuntime;
use super::faulty_kernel::FaultyKernel;
use super::faulty_runtime::FaultyRuntime;
use super::faulty_store::FaultyStore;
use super::scenario::{self, Step};
use super::state::State;

const NODE: &str = "n1";
/// How often the simulation looks, in virtual time.
const LOOK: Duration = Duration::from_millis(500);
/// Far longer than every back-off and timer on the way, in virtual time: then it never comes.
const PATIENCE: SignedDuration = SignedDuration::from_mins(15);
/// Between a crash and the next start.
const RESTART: SignedDuration = SignedDuration::from_secs(1);

/// What a daemon leaves behind when it dies: its file, the engine, the kernel, and the time.
pub struct World {
    folder: TempDir,
    pub engine: FakeRuntime,
    pub kernel: FakeKernel,
    now: Timestamp,
    lives: u64,
    seed: u64,
}

impl World {
    /// An empty host. Everything that the daemon draws by chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        crate::watchdog::watch();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let mut engine = FakeRuntime::new(Clock::wall());
        for image in Step::IMAGES {
            engine = engine.with_registry_image(image);
        }
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            engine,
            kernel: FakeKernel::new(),
            now,
            lives: 0,
            seed,
        }
    }

    /// Starts a daemon and follows `script` until it returns or the daemon has its crash: then it is
    /// `None`.
    ///
    /// # Errors
    /// What `script` says, or that a task of the daemon died.
    pub fn live<T>(
        &mut self,
        effects: &Effects,
        script: impl AsyncFnOnce(&Life) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        self.lives += 1;
        let (outcome, now) = runtime.block_on(async {
            let clock = Clock::tokio(self.now);
            self.engine.set_clock(clock);
            let (tasks, _) = Tasks::new();
            let life = Life::start(self, effects, clock, &tasks);
            let outcome = tokio::select! {
                biased;
                () = effects.crash() => Ok(None),
                () = tasks.stop().cancelled() => Err("a task of the daemon died".to_owned()),
                outcome = script(&life) => outcome.map(Some),
            };
            (outcome, clock.now())
        });
        drop(runtime);
        self.now = now + RESTART;
        outcome
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }
}

/// One run of the daemon.
pub struct Life {
    effects: Effects,
    clock: Clock,
    store: Sqlite,
    sync: Local<FaultyStore<Sqlite>>,
    engine: FakeRuntime,
    kernel: FakeKernel,
}

impl Life {
    fn start(world: &World, effects: &Effects, clock: Clock, tasks: &Tasks) -> Self {
        // Another draw in each life, as a new process would make it.
        let seed = world.seed.wrapping_mul(1000).wrapping_add(world.lives);
        let options = SqliteOptions { writer: WriterMode::Inline, ..SqliteOptions::default() };
        let store = Sqlite::open(&world.store(), options).expect("the store opens after a crash");
        let api_options = ApiOptions {
            service_range: "10.43.0.0/16".parse().expect("a range"),
            node_ports: 30_000..=32_767,
            clock,
            secret_key: [7; 32],
            ids: IdSource::seeded(seed),
            privileges: Arc::new(scenario::privileges()),
        };
        let faulty = FaultyStore::new(store.clone(), effects.clone());
        let api = Api::new(faulty, api_options, tasks);

        let names = ChainNames::default_installation();
        let network_options = NetworkOptions::new(NODE, names, "ballast0");
        let rules = network::run(
            api.local(Identity::Network { node: NODE.to_owned() }),
            FaultyKernel::new(world.kernel.clone(), effects.clone()),
            network_options,
            clock,
            tasks,
        );
        let agent = node::run(
            api.local(Identity::NodeAgent { node: NODE.to_owned() }),
            FaultyRuntime::new(world.engine.clone(), effects.clone()),
            node_options(world),
            rules,
            clock,
            tasks,
        );
        api.set_logs(agent);
        let controllers = reconcile::Options::default();
        reconcile::run_with(api.local(Identity::Controllers), controllers, clock, tasks);
        let scheduling = scheduler::Options { seed, ..scheduler::Options::default() };
        scheduler::run_with(api.local(Identity::Scheduler), scheduling, clock, tasks);
        Self {
            effects: effects.clone(),
            clock,
            store,
            sync: api.local(Identity::Sync),
            engine: world.engine.clone(),
            kernel: world.kernel.clone(),
        }
    }

    /// Applies the commit until the store has taken it, as a sync that polls would.
    pub async fn commit(&self, step: Step) -> Result<(), String> {
        let deadline = self.clock.now() + PATIENCE;
        loop {
            let set = step.commit(|kind, key| self.uid(kind, key));
            match self.sync.apply_set(&set, false).await {
                Ok(_) => return Ok(()),
                Err(problems) if self.clock.now() > deadline => {
                    return Err(format!("{step:?} is never applied: {problems:?}"));
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn uid(&self, kind: Kind, key: &Key) -> Option<String> {
        let record = self.store.get(kind, key)?;
        let object: Value = serde_json::from_slice(&record.body.text()).expect("bodies are JSON");
        Some(object["metadata"]["uid"].as_str().expect("stored objects have a uid").to_owned())
    }

    /// Waits until nothing has changed for `quiet` and the state is a `goal`.
    ///
    /// # Errors
    /// What is missing, when it does not come within fifteen virtual minutes.
    pub async fn settled(
        &self,
        quiet: Duration,
        goal: impl Fn(&State) -> Result<(), String>,
    ) -> Result<State, String> {
        let deadline = self.clock.now() + PATIENCE;
        let (mut last, mut since) = (self.effects.count(), Duration::ZERO);
        loop {
            tokio::time::sleep(LOOK).await;
            let count = self.effects.count();
            since = if count == last { since + LOOK } else { Duration::ZERO };
            last = count;
            let late = self.clock.now() > deadline;
            if since < quiet && !late {
                continue;
            }
            let state = State::read(&self.store, &self.engine, &self.kernel);
            match goal(&state) {
                Ok(()) if since >= quiet => return Ok(state),
                Ok(()) if late => return Err("it never comes to rest".to_owned()),
                Err(why) if late => return Err(why),
                _ => {}
            }
        }
    }
}

fn node_options(world: &World) -> NodeOptions {
    NodeOptions {
        node_name: NODE.to_owned(),
        installation: "default".to_owned(),
        prefix: "ballast".to_owned(),
        data_dir: world.folder.path().to_owned(),
        host_ip: HostAddress::Given(Ipv4Addr::new(192, 0, 2, 1)),
        pod_range: "10.42.0.0/24".parse().expect("a range"),
        network: "ballast".to_owned(),
        bridge: "ballast0".to_owned(),
        spare_sandboxes: 4,
        pids_limit: None,
        resources: Default::default(),
        devices: Default::default(),
        privileges: Arc::default(),
        hold: false,
        beat: Arc::new(|_| {}),
        metrics: ballast::node::Metrics::default(),
        care: ballast::node::care::Care::default(),
    }
}
