//! Starts a node's tasks and feeds them: the pods bound to it, the engine's events and relists, the
//! Services for environments, and the writer of drifts.

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::drift_report;
use crate::node::agent::{Agent, DRIFT_QUEUE, EngineState, NodeOptions, PodCell, lock};
use crate::node::capacity::Engine;
use crate::node::environment::{Named, named};
use crate::node::leftovers;
use crate::node::logs::{AgentLogs, NodeHandle};
use crate::node::pause_image::pause_image;
use crate::node::runtime::{EventAction, NetworkSpec, Runtime, RuntimeError, RuntimeEvent};
use crate::node::{heartbeat, pod_worker, volume};
use crate::object::drift::{Drift, Layer};
use crate::object::ledger::{Ledger, LedgerWrite};
use crate::object::ports::Withdrawal;
use crate::object::{Change, Cluster, Key, Object, Scope};
use crate::task::Tasks;

/// A lost event costs at most this long.
const RELIST: Duration = Duration::from_secs(30);
/// Between two tries to reach an engine that is away.
const RECONNECT: Duration = Duration::from_secs(1);

/// Runs the node agent until the tasks stop. Answers at once: an engine that is away is waited for.
pub fn run<C: Cluster, R: Runtime>(
    cluster: C,
    runtime: R,
    options: NodeOptions,
    withdrawal: Arc<dyn Withdrawal>,
    clock: Clock,
    tasks: &Tasks,
) -> Arc<NodeHandle> {
    let (writes, queue) = mpsc::channel(DRIFT_QUEUE);
    let agent = Agent::new(cluster, runtime, options, withdrawal, clock, tasks.clone(), writes);
    tasks.spawn("node drift", write_drifts(agent.clone(), queue));
    tasks.spawn("node services", follow_services(agent.clone()));
    tasks.spawn("node engine", follow_engine(agent.clone()));
    tasks.spawn("node pods", follow_pods(agent.clone()));
    tasks.spawn("node heartbeat", heartbeat::run(agent.clone()));
    Arc::new(NodeHandle::new(AgentLogs(Arc::downgrade(&agent))))
}

async fn write_drifts<C: Cluster, R: Runtime>(
    agent: Arc<Agent<C, R>>,
    mut queue: mpsc::Receiver<Vec<LedgerWrite>>,
) {
    loop {
        // Cancel safe, both.
        tokio::select! {
            () = agent.tasks.stop().cancelled() => return,
            Some(writes) = queue.recv() => drift_report::perform(&agent.cluster, writes).await,
        }
    }
}

async fn follow_services<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    let mut changes = pin!(agent.cluster.watch::<Service>(Scope::all()));
    loop {
        // Cancel safe: a stream's next takes nothing when it is dropped.
        let change = tokio::select! {
            () = agent.tasks.stop().cancelled() => return,
            change = changes.next() => change,
        };
        let Some(change) = change else { return };
        let mut known = lock(&agent.known);
        let services = &mut known.sources.services;
        let first = match change {
            Change::Reset(list) => {
                *services = list;
                !std::mem::replace(&mut known.services_known, true)
            }
            Change::Applied(service) => {
                services.retain(|old| old.key() != service.key());
                services.push(service);
                false
            }
            Change::Deleted(service) => {
                services.retain(|old| old.key() != service.key());
                false
            }
        };
        drop(known);
        // Later changes reach the next container only, as in Kubernetes.
        if first {
            agent.wake_all();
        }
    }
}

async fn follow_pods<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    // What an earlier run of the daemon left open is known before anything is compared.
    restore_ledger(&agent).await;
    let scope = Scope::fields(format!("spec.nodeName={}", agent.options.node_name));
    let mut changes = pin!(agent.cluster.watch::<Pod>(scope));
    loop {
        // Cancel safe: a stream's next takes nothing when it is dropped.
        let change = tokio::select! {
            () = agent.tasks.stop().cancelled() => return,
            change = changes.next() => change,
        };
        match change {
            None => return,
            Some(Change::Applied(pod)) => take(&agent, pod),
            Some(Change::Deleted(pod)) => {
                if let Some(cell) = agent.cell(pod.uid()) {
                    forget(&agent, &cell);
                }
            }
            Some(Change::Reset(list)) => {
                let uids: HashSet<&str> = list.iter().map(|pod| pod.uid()).collect();
                for cell in agent.cells() {
                    if !uids.contains(&*cell.uid) {
                        forget(&agent, &cell);
                    }
                }
                for pod in list {
                    take(&agent, pod);
                }
                agent.pods_known.store(true, Ordering::Relaxed);
                remove_leftovers(&agent);
            }
        }
        (agent.options.beat)("node pods");
    }
}

async fn restore_ledger<C: Cluster, R: Runtime>(agent: &Agent<C, R>) {
    match agent.cluster.list::<Drift>(&Scope::all()).await {
        Ok(stored) => {
            let drifts = stored.items.iter().map(|drift| &**drift);
            *lock(&agent.ledger) = Ledger::restore(Layer::Container, drifts);
        }
        Err(error) => warn!(%error, "earlier drifts not read"),
    }
}

/// A pod that is new or changed.
fn take<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>, pod: Arc<Pod>) {
    if let Some(cell) = agent.cell(pod.uid()) {
        cell.set_pod(pod);
        cell.wake.notify_one();
        return;
    }
    let cell = PodCell::new(pod);
    lock(&agent.pods).insert(cell.uid.clone(), cell.clone());
    agent.tasks.spawn_short("pod", pod_worker::work(agent.clone(), cell.clone()));
    if cell.pod().metadata.owner_references.is_some() {
        let asker = agent.clone();
        agent.tasks.spawn_short("owners", async move { ask_owners(&asker, &cell).await });
    }
}

/// A pod whose object is gone: its worker ends, and what it left is removed.
fn forget<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>, cell: &Arc<PodCell>) {
    cell.gone.store(true, Ordering::Relaxed);
    cell.wake.notify_one();
    lock(&agent.pods).remove(&cell.uid);
    remove_leftovers(agent);
}

/// Removes containers of ours without a pod. Does nothing before both sides were listed whole.
fn remove_leftovers<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>) {
    if !agent.pods_known.load(Ordering::Relaxed) || agent.engine().is_none() {
        return;
    }
    let pods: BTreeSet<String> = lock(&agent.pods).keys().cloned().collect();
    let found: Vec<_> = {
        let instances = lock(&agent.instances);
        let ours = leftovers::leftovers(instances.iter(), &agent.options.installation, &pods);
        ours.into_iter().cloned().collect()
    };
    for instance in found {
        let ending = lock(&agent.ended_by_us).insert(instance.id.clone());
        if instance.is_running() && ending {
            agent.compare(&[leftovers::examine(&instance, agent.clock.now())], false);
        }
        let agent = agent.clone();
        agent.tasks.clone().spawn_short("leftover", async move {
            info!(container = %instance.name, reason = "its pod is gone", "container removed");
            match agent.runtime.remove(&instance.id).await {
                Ok(()) => lock(&agent.instances).remove(&instance.id),
                Err(error) => {
                    warn!(container = %instance.name, %error, "leftover not removed");
                    agent.heard(&error);
                }
            }
            lock(&agent.ended_by_us).remove(&instance.id);
        });
    }
}

/// Keeps the engine's state, its events and the relists, and reconnects when it was away.
async fn follow_engine<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    let stop = agent.tasks.stop().clone();
    let mut told: Option<String> = None;
    loop {
        let why = match connect(&agent).await {
            Ok((engine, events)) => {
                info!(version = %engine.version, "container engine is ready");
                told = None;
                agent.engine.send_replace(EngineState::Ready(Arc::new(engine)));
                remove_leftovers(&agent);
                agent.wake_all();
                // Cancel safe: dropping the stream closes its connection, the next one relists.
                let why = tokio::select! {
                    () = stop.cancelled() => return,
                    why = listen(&agent, events) => why,
                };
                if why.is_none() {
                    continue;
                }
                why.unwrap_or_default()
            }
            Err(error) => error.to_string(),
        };
        if told.as_ref() != Some(&why) {
            warn!(%why, "container engine is away: nothing is changed until it answers");
            told = Some(why.clone());
        }
        agent.engine.send_replace(EngineState::Away(why));
        (agent.options.beat)("node engine");
        // Cancel safe, both.
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(RECONNECT) => {}
        }
    }
}

type Events = BoxStream<'static, Result<RuntimeEvent, RuntimeError>>;

/// Everything that must be there before a pod can be made; then one whole list.
async fn connect<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
) -> Result<(Engine, Events), RuntimeError> {
    let (options, runtime) = (&agent.options, &agent.runtime);
    let since = agent.clock.now();
    let engine = runtime.engine().await?;
    let events = runtime.events(&options.installation, since).await?;
    let pause = pause_image();
    if runtime.image(&pause.id).await?.is_none() {
        info!(image = %pause.id, "sandbox image loaded");
        runtime.load(pause.archive.clone()).await?;
    }
    let network = NetworkSpec {
        name: options.network.clone(),
        bridge: options.bridge.clone(),
        subnet: options.pod_range,
        installation: options.installation.clone(),
    };
    runtime.ensure_network(&network).await?;
    relist(agent).await?;
    Ok((engine, events))
}

/// Until the engine is away: why; `None`: something we rely on was removed, connect again.
async fn listen<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    mut events: Events,
) -> Option<String> {
    let mut relists = interval(RELIST);
    relists.set_missed_tick_behavior(MissedTickBehavior::Delay);
    relists.reset();
    loop {
        // Cancel safe, all three; the work is done outside of the select.
        let event = tokio::select! {
            event = events.next() => Some(event),
            _ = relists.tick() => None,
            () = agent.engine_lost.notified() => return None,
        };
        match event {
            Some(Some(Ok(event))) => hear(agent, event),
            Some(Some(Err(error))) => return Some(error.to_string()),
            Some(None) => return Some("its event stream ended".to_owned()),
            None => {
                if let Err(error) = relist(agent).await {
                    return Some(error.to_string());
                }
                tidy_up(agent).await;
                (agent.options.beat)("node engine");
            }
        }
    }
}

/// Compares what is known with one whole list, and wakes the pods that differ.
async fn relist<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>) -> Result<(), RuntimeError> {
    let mark = lock(&agent.instances).mark();
    let list = agent.runtime.list(&agent.options.installation).await?;
    let changed = lock(&agent.instances).replace(list, mark);
    for uid in &changed {
        agent.wake(uid);
    }
    debug!(changed = changed.len(), "containers listed");
    Ok(())
}

/// Forgets what nobody needs any more.
async fn tidy_up<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>) {
    remove_leftovers(agent);
    let cells = agent.cells();
    let mut all = Named::default();
    let mut images = HashSet::new();
    for cell in &cells {
        let pod = cell.pod();
        let of_pod = named(&pod);
        all.config_maps.extend(of_pod.config_maps);
        all.secrets.extend(of_pod.secrets);
        let spec = pod.spec.iter();
        let containers = spec
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        images.extend(containers.filter_map(|container| container.image.clone()));
    }
    agent.unfollow(&all);
    lock(&agent.images).retain(|image, state| state.pulling || images.contains(image));
    {
        let instances = lock(&agent.instances);
        lock(&agent.causes).retain(|id, _| instances.get(id).is_some());
        lock(&agent.ended_by_us).retain(|id| instances.get(id).is_some());
    }
    for cell in cells.iter().filter(|cell| cell.pod().metadata.owner_references.is_some()) {
        ask_owners(agent, cell).await;
    }
    let kept: HashSet<String> = lock(&agent.pods)
        .keys()
        .cloned()
        .chain(lock(&agent.instances).iter().map(|instance| instance.identity.pod_uid.clone()))
        .collect();
    let home = agent.options.data_dir.join("pods");
    let sweep = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(home).into_iter().flatten().flatten() {
            if !kept.contains(&*entry.file_name().to_string_lossy())
                && let Err(error) = volume::remove(&entry.path())
            {
                warn!(path = %entry.path().display(), %error, "volumes of a gone pod not removed");
            }
        }
    });
    sweep.await.expect("sweeping does not panic");
}

/// Notes what an event tells and looks at the container again. The event itself is only a signal:
/// what is true, the inspect says.
fn hear<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>, event: RuntimeEvent) {
    let id = event.container_id;
    let by_us = lock(&agent.ended_by_us).contains(&id);
    let at = crate::node::pod_status::time(event.at).0;
    match event.action {
        EventAction::Killed { signal } => {
            if !by_us {
                let cause = format!("docker kill (signal {signal}) at {at}");
                lock(&agent.causes).insert(id, cause);
            }
            return;
        }
        EventAction::OutOfMemory => {
            lock(&agent.causes).insert(id, format!("out of memory at {at}"));
            return;
        }
        EventAction::Removed => {
            lock(&agent.instances).remove(&id);
            agent.wake(&event.pod_uid);
            return;
        }
        EventAction::Started => {
            let instances = lock(&agent.instances);
            if instances.is_starting(&id) || instances.get(&id).is_some_and(|i| i.is_running()) {
                return;
            }
        }
        EventAction::Died { .. } | EventAction::Changed => {}
    }
    let agent = agent.clone();
    agent.tasks.clone().spawn_short("refresh", async move { agent.refresh(&id).await });
}

/// Whether an owner (ReplicaSet, its Deployment) has healing switched off. An owner that cannot be
/// read says nothing.
async fn ask_owners<C: Cluster, R: Runtime>(agent: &Agent<C, R>, cell: &PodCell) {
    let owner_of = |references: &Option<Vec<_>>, kind: &str| {
        let list: &Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>> =
            references;
        list.iter().flatten().find(|owner| owner.kind == kind).map(|owner| owner.name.clone())
    };
    let off = |annotations: &Option<std::collections::BTreeMap<String, String>>| {
        let written = annotations.as_ref().and_then(|map| map.get("ballast.dev/heal"));
        written.is_some_and(|value| value == "false")
    };
    let pod = cell.pod();
    let mut report_only = false;
    if let Some(name) = owner_of(&pod.metadata.owner_references, "ReplicaSet")
        && let Ok(set) = agent.cluster.get::<ReplicaSet>(&Key::new(&cell.key.namespace, name)).await
    {
        report_only |= off(&set.metadata.annotations);
        if let Some(name) = owner_of(&set.metadata.owner_references, "Deployment")
            && let Ok(deployment) =
                agent.cluster.get::<Deployment>(&Key::new(&cell.key.namespace, name)).await
        {
            report_only |= off(&deployment.metadata.annotations);
        }
    }
    let changed = {
        let mut memory = cell.memory();
        std::mem::replace(&mut memory.report_only, report_only) != report_only
    };
    if changed {
        cell.wake.notify_one();
    }
}
