//! The composition root: what starts in which order, and what stops in which.
//!
//! Start. First it is made sure that nobody else is: the installation's lock, then the data
//! directory's mark. The store next, because everything is read from it; the API over it; the listener as
//! soon as the API stands, so that `/readyz` can tell what is still missing. Then the rooms, each
//! with an identity of its own: network before node, because the node agent asks the network before
//! it ends a container; controllers, scheduler and sync last, because they make work for the others.
//!
//! Stop. One signal to every task. Containers, rules and the Docker network stay: a restart or an
//! upgrade of the daemon touches no workload. Loops end at their next wait; the listener finishes
//! what it is answering; then the store is closed, and only then the process ends. A task that died
//! ends the daemon in the same order, with an error: half a daemon is worse than a restart.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::SignedDuration;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::api::gate::audit::{Audit, Kept};
use crate::api::gate::credential_file::Credentials;
use crate::api::gate::passage::{Entry, Gate, GateOptions};
use crate::api::gate::served::Served;
use crate::api::gate::tls::{Certificate, Tls};
use crate::api::server::{self, Limits, Surface};
use crate::api::{Api, ApiOptions, IdSource, Identity};
use crate::clock::Clock;
use crate::config::{Config, SourceSettings, TlsSettings};
use crate::home::{self, Wish};
use crate::installation::{self, Names};
use crate::metrics::{self, Rooms};
use crate::network::iptables::Iptables;
use crate::network::{self, NetworkOptions, subnet};
use crate::node::care::{Care, ReadSignals};
use crate::node::docker::Docker;
use crate::node::{self, HostAddress, NodeOptions};
use crate::reconcile::{self, scheduler};
use crate::state_metrics::ClusterState;
use crate::store::{Sqlite, SqliteOptions};
use crate::sync::{self, SourceConfig, SyncOptions};
use crate::task::Tasks;
use crate::web;

/// A stopping daemon that still has tasks after this long is ended: nothing it holds needs more.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// A loop that beats at least every 30 s by design and is silent for this long is not reconciling.
const LOOP_PATIENCE: SignedDuration = SignedDuration::from_secs(120);

/// Runs until SIGTERM, SIGINT or the death of a task.
///
/// # Errors
/// What keeps the daemon from starting, with the next step; or that a task died.
pub async fn run(config: Config) -> Result<()> {
    // Until this function is left: the last thing that happens.
    let _lock = installation::lock(&config.installation, &config.docker)?;
    raise_descriptors();
    let names = Names::of(&config.installation);
    refuse_overlaps(&config, &names)?;
    let node_name = node_name(&config)?;
    let clock = Clock::wall();
    let secret_key = secret_key(&config.data_dir)?;
    let (tasks, all_done) = Tasks::new();

    let store = Sqlite::open(&config.data_dir.join("store.db"), SqliteOptions::default())
        .with_context(|| format!("cannot open the store in {}", config.data_dir.display()))?;
    let options = ApiOptions {
        service_range: config.service_cidr,
        node_ports: config.node_ports.clone(),
        clock,
        secret_key,
        ids: IdSource::random(),
        privileges: Arc::new(config.privileges.clone()),
    };
    let api = Api::new(store.clone(), options, &tasks);
    for source in &config.sources {
        if let Some(secret) = &source.webhook_secret {
            api.set_webhook_secret(&source.name, secret.as_bytes())?;
        }
    }
    let beat = api.beats().beat();
    for name in ["node heartbeat", "network", "scheduler"] {
        api.beats().expect(name, LOOP_PATIENCE);
    }
    for source in &config.sources {
        api.beats().expect(&sync::loop_name(&source.name), LOOP_PATIENCE);
    }
    let rooms = Rooms::default();
    serve(&config, &api, &store, &rooms, clock, &tasks).await?;

    let kernel = Iptables::new();
    let network_options = NetworkOptions {
        pod_range: config.pod_cidr,
        node_range: node_range(&config),
        service_range: config.service_cidr,
        node_ports: config.node_ports.clone(),
        beat: beat.clone(),
        metrics: rooms.network.clone(),
        hold: true,
        ..NetworkOptions::new(&node_name, names.chains.clone(), &names.bridge)
    };
    let network_identity = Identity::Network { node: node_name.clone() };
    let rules = network::run(api.local(network_identity), kernel, network_options, clock, &tasks);

    let docker = Docker::new(&config.docker);
    let node_options = NodeOptions {
        metrics: rooms.node.clone(),
        ..node_options(&config, &node_name, &names, beat.clone())
    };
    let agent_identity = Identity::NodeAgent { node: node_name };
    let agent = node::run(api.local(agent_identity), docker, node_options, rules, clock, &tasks);
    api.set_logs(agent.clone());
    api.set_usages(agent.clone());
    api.set_streams(agent);

    let controllers = reconcile::Options {
        beat: beat.clone(),
        metrics: rooms.reconcile.clone(),
        ..reconcile::Options::default()
    };
    reconcile::run_with(api.local(Identity::Controllers), controllers, clock, &tasks);
    let scheduling = scheduler::Options {
        beat: beat.clone(),
        metrics: rooms.reconcile,
        ..scheduler::Options::default()
    };
    scheduler::run_with(api.local(Identity::Scheduler), scheduling, clock, &tasks);

    let sources = config.sources.iter().map(source_config).collect();
    let sync_options = SyncOptions {
        data_dir: config.data_dir.clone(),
        secret_key,
        beat: Some(beat),
        metrics: rooms.sync,
    };
    api.set_wake(sync::run(api.local(Identity::Sync), sources, sync_options, clock, &tasks));

    until_stopped(&tasks).await?;
    let died = tasks.died();
    tasks.stop().cancel();
    drop((api, tasks));
    if tokio::time::timeout(STOP_PATIENCE, all_done.wait()).await.is_err() {
        error!(seconds = STOP_PATIENCE.as_secs(), "tasks did not end in time");
    }
    store.close().await;
    info!("stopped: containers and rules stay as they are");
    if died > 0 {
        bail!(
            "{died} task(s) died, see the log above; start the daemon again: no workload is touched"
        );
    }
    Ok(())
}

/// The API and the dashboard, behind a gate; the webhook alone on its own listener.
async fn serve(
    config: &Config,
    api: &Api<Sqlite>,
    store: &Sqlite,
    rooms: &Rooms,
    clock: Clock,
    tasks: &Tasks,
) -> Result<()> {
    let state = ClusterState::default();
    api.set_registry(Arc::new(metrics::registry(store, api, rooms, &state)));
    tasks.spawn("metrics", state.follow(api.local(Identity::Reader), tasks.stop().clone()));

    let router = api.router().merge(web::router(api.local(Identity::Web), clock));
    let surface = if config.tls.is_some() { Surface::Secured } else { Surface::Everything };
    let listener = server::bind(config.listen, surface).await?;
    let port = listener.local_addr().map_or(config.listen.port(), |bound| bound.port());
    let metrics = api.metrics().clone();
    let limits = Limits { metrics: metrics.clone(), ..Limits::new(surface) };
    let audit = Audit::open(&config.data_dir, Kept::default(), tasks)
        .await
        .context("cannot open the audit log in the data directory")?;
    let entry = entry(config, clock, tasks)?;
    let gate = Gate::new(GateOptions { entry, audit: Some(audit), share: limits.share, clock });
    let served = served(config, port);
    served.write(&config.data_dir).context("cannot write into the data directory")?;
    info!(server = served.server, operator = served.operator, "serving the API and the dashboard");
    let serving = server::serve_behind(gate, listener, router, limits, tasks.clone());
    tasks.spawn("listener", serving);
    if let Some(address) = config.webhook_listen {
        let listener = server::bind(address, Surface::WebhookOnly).await?;
        info!(%address, "serving webhooks alone");
        let limits = Limits { metrics, ..Limits::new(Surface::WebhookOnly) };
        let router = api.webhook_router();
        tasks.spawn("webhooks", server::serve(listener, router, limits, tasks.clone()));
    }
    Ok(())
}

/// Who comes in: everybody on this machine, or behind TLS whoever has a credential.
fn entry(config: &Config, clock: Clock, tasks: &Tasks) -> Result<Entry> {
    let Some(settings) = &config.tls else { return Ok(Entry::Loopback) };
    let certificate = match settings {
        TlsSettings::Own { names } => {
            let mut all = vec![config.host_name.clone(), "localhost".to_owned()];
            all.extend(["127.0.0.1", "::1"].map(str::to_owned));
            all.extend(reached_at(config));
            all.extend(names.iter().cloned());
            all.sort();
            all.dedup();
            Certificate::Own { names: all }
        }
        TlsSettings::Given { certificate, key } => {
            Certificate::Given { certificate: certificate.clone(), key: key.clone() }
        }
    };
    let tls = Tls::new(&config.data_dir, certificate, clock)?;
    tasks.spawn("certificate", tls.clone().follow(tasks.stop().clone()));
    let credentials = Credentials::new(&config.data_dir, clock);
    tasks.spawn("credentials", credentials.clone().follow(tasks.stop().clone()));
    Ok(Entry::Secured { tls, credentials, operator: config.operator })
}

/// The address by which other machines reach the listener; `None` where there is no route yet.
fn reached_at(config: &Config) -> Option<String> {
    let listen = config.listen.ip();
    if !listen.is_unspecified() {
        return Some(listen.to_string());
    }
    config.node_address.or_else(own_address).map(|address| address.to_string())
}

/// What `ballast kubeconfig` on this host is to know.
fn served(config: &Config, port: u16) -> Served {
    let first_name = match &config.tls {
        Some(TlsSettings::Own { names }) => names.iter().find(|name| !name.contains('*')).cloned(),
        _ => None,
    };
    let host = first_name.or_else(|| reached_at(config)).unwrap_or_else(|| "127.0.0.1".to_owned());
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    Served {
        server: format!("{scheme}://{host}:{port}"),
        tls: config.tls.is_some(),
        own_authority: matches!(config.tls, Some(TlsSettings::Own { .. })),
        operator: config.operator,
    }
}

/// Waits for a signal or for a task's death. Every arm is cancel safe.
async fn until_stopped(tasks: &Tasks) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        biased;
        _ = terminate.recv() => info!("stopping: SIGTERM"),
        _ = interrupt.recv() => info!("stopping: interrupted"),
        () = tasks.stop().cancelled() => error!("stopping: a task died"),
    }
    Ok(())
}

/// As many descriptors as the host allows: 1,024, which many hosts begin with, are the listener's
/// connections alone.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(failure) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        warn!(%failure, ?current, "the limit of open descriptors stays as it is");
    }
}

/// Takes the data directory, and answers the name that this node has in it.
fn node_name(config: &Config) -> Result<String> {
    let wish = Wish {
        installation: &config.installation,
        node_name: config.node_name.as_deref(),
        host_name: &config.host_name,
    };
    let mark = home::open(&config.data_dir, wish)?;
    if config.node_name.is_none() && mark.node_name != config.host_name {
        let (node, host) = (&mark.node_name, &config.host_name);
        warn!(%node, %host, "the host has another name than at the first start; the node keeps its own");
    }
    Ok(mark.node_name)
}

/// Address ranges that a route of this host already uses would cut the host off from it.
fn refuse_overlaps(config: &Config, names: &Names) -> Result<()> {
    let routes =
        subnet::parse_routes(&std::fs::read_to_string("/proc/net/route").unwrap_or_default());
    let faults = subnet::range_faults(config.pod_cidr, config.service_cidr, &routes, &names.bridge);
    if faults.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
    bail!(
        "the address ranges cannot be used on this host; choose others with --pod-cidr and --service-cidr:\n{}",
        lines.join("\n")
    )
}

/// One node in this version: the first /24 of the range.
fn node_range(config: &Config) -> ipnet::Ipv4Net {
    subnet::node_range(config.pod_cidr, 0).expect("the config has a range of a /24 at least")
}

fn node_options(
    config: &Config,
    node_name: &str,
    names: &Names,
    beat: Arc<dyn Fn(&'static str) + Send + Sync>,
) -> NodeOptions {
    NodeOptions {
        node_name: node_name.to_owned(),
        installation: config.installation.clone(),
        prefix: names.network.clone(),
        data_dir: config.data_dir.clone(),
        host_ip: config.node_address.map_or(HostAddress::Asked(own_address), HostAddress::Given),
        pod_range: node_range(config),
        network: names.network.clone(),
        bridge: names.bridge.clone(),
        spare_sandboxes: config.spare_sandboxes,
        pids_limit: (config.pids_limit > 0).then_some(config.pids_limit),
        resources: config.resources.clone(),
        devices: config.devices.clone(),
        privileges: Arc::new(config.privileges.clone()),
        hold: true,
        beat,
        metrics: node::Metrics::default(),
        care: Care { settings: config.care.clone(), signals: signals(&config.docker) },
    }
}

/// `None`: the engine is on another host, of which nothing can be read here.
fn signals(docker: &str) -> Option<ReadSignals> {
    let local = docker.starts_with("unix://") || docker.starts_with('/');
    local.then(|| Arc::new(node::signals::of_this_host) as ReadSignals)
}

/// The address this host would send from: the kernel's choice, no packet is sent. `None` as long as
/// there is no route, as before the network is up.
fn own_address() -> Option<Ipv4Addr> {
    // 192.0.2.0/24 is for documentation: it is routed by the default route and never a neighbour.
    let chosen = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    match chosen {
        Ok(SocketAddr::V4(address)) if !address.ip().is_unspecified() => Some(*address.ip()),
        _ => None,
    }
}

fn source_config(source: &SourceSettings) -> SourceConfig {
    SourceConfig {
        name: source.name.clone(),
        url: source.url.clone(),
        branch: source.branch.clone(),
        path: source.path.clone(),
        poll_seconds: u32::try_from(source.poll.as_secs()).unwrap_or(u32::MAX),
        access: source.access.clone(),
        formerly: source.formerly.clone(),
    }
}

/// The key behind the hashes that stand in for Secrets' values: made once, readable by root alone.
fn secret_key(data_dir: &Path) -> Result<[u8; 32]> {
    let path = data_dir.join("secret.key");
    match std::fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            anyhow::anyhow!("{} is damaged: remove it, a new one is made", path.display())
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key: [u8; 32] = rand::random();
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(&key)?;
            file.sync_all()?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
