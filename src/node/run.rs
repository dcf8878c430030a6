//! Starts a node's tasks and feeds them: the pods bound to it, the engine's events and relists, the
//! Services for environments, and the writer of drifts.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{Fuse, FusedFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::drift_report;
use crate::node::agent::{Agent, DRIFT_QUEUE, EngineState, NodeOptions, PodCell, lock};
use crate::node::capacity::Engine;
use crate::node::environment::named;
use crate::node::instance::Instance;
use crate::node::leftovers;
use crate::node::logs::{AgentLogs, NodeHandle};
use crate::node::measured::Measured;
use crate::node::owners::{self, Asked};
use crate::node::pod_worker::COMPONENT;
use crate::node::runtime::{EventAction, NetworkSpec, Runtime, RuntimeError, RuntimeEvent};
use crate::node::streams::AgentStreams;
use crate::node::usage::AgentUsage;
use crate::node::{
    drift, heartbeat, image_care, pause_image, pod_worker, pressure, relist, spare_keeper, volume,
    volume_keeper, volume_usage,
};
use crate::object::drift::{Drift, Layer};
use crate::object::ephemeral_container::every_container;
use crate::object::ledger::{Ledger, LedgerWrite};
use crate::object::ports::Withdrawal;
use crate::object::source::{Source, first_commit};
use crate::object::{Change, Cluster, Note, Object, Scope};
use crate::task::{Tasks, caught, caught_async};

/// A lost event costs at most this long.
const RELIST: Duration = Duration::from_secs(30);
/// A hung engine says nothing, and its event stream does not end: it is asked, and asked again before
/// it counts as away, so that one that is only busy does not. With both answers' time it is known
/// after 9 s at the latest.
const PING: Duration = Duration::from_secs(5);
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
    let runtime = Measured::new(runtime, options.metrics.clone());
    let agent = Agent::new(cluster, runtime, options, withdrawal, clock, tasks.clone(), writes);
    tasks.spawn("node drift", write_drifts(agent.clone(), queue));
    tasks.spawn("node services", follow_services(agent.clone()));
    tasks.spawn("node engine", follow_engine(agent.clone()));
    tasks.spawn("node pods", follow_pods(agent.clone()));
    tasks.spawn("node heartbeat", heartbeat::run(agent.clone()));
    tasks.spawn("node spares", spare_keeper::keep(agent.clone()));
    tasks.spawn("node volume usage", volume_usage::run(agent.clone()));
    tasks.spawn("node storage", volume_keeper::follow(agent.clone()));
    tasks.spawn("node volumes", volume_keeper::keep(agent.clone()));
    if let Some(signals) = agent.options.care.signals.clone() {
        tasks.spawn("node images", image_care::run(agent.clone(), signals.clone()));
        tasks.spawn("node pressure", pressure::run(agent.clone(), signals));
    }
    if agent.options.hold {
        tasks.spawn_short("node hold", let_go(agent.clone()));
    }
    let weak = Arc::downgrade(&agent);
    Arc::new(NodeHandle::new(
        AgentLogs(weak.clone()),
        AgentUsage::new(weak.clone()),
        AgentStreams(weak),
    ))
}

/// Ends the hold with the first commit.
async fn let_go<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    // Cancel safe, both.
    tokio::select! {
        biased;
        () = agent.tasks.stop().cancelled() => return,
        () = first_commit(&agent.cluster) => {}
    }
    agent.holds.store(false, Ordering::Relaxed);
    remove_leftovers(&agent);
}

async fn write_drifts<C: Cluster, R: Runtime>(
    agent: Arc<Agent<C, R>>,
    mut queue: mpsc::Receiver<Vec<LedgerWrite>>,
) {
    loop {
        // Cancel safe, both.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            Some(writes) = queue.recv() => {
                let writing = drift_report::perform(&agent.cluster, writes);
                shown("writing drifts", caught_async(writing).await);
            }
        }
    }
}

async fn follow_services<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    let mut changes = pin!(agent.cluster.watch::<Service>(Scope::all()));
    loop {
        // Cancel safe: a stream's next takes nothing when it is dropped.
        let change = tokio::select! {
            biased;
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
    // A store that has a commit is known as such before anything is told to be held.
    if has_commit(&agent).await {
        agent.holds.store(false, Ordering::Relaxed);
    }
    let scope = Scope::fields(format!("spec.nodeName={}", agent.options.node_name));
    let mut changes = pin!(agent.cluster.watch::<Pod>(scope));
    loop {
        // Cancel safe: a stream's next takes nothing when it is dropped.
        let change = tokio::select! {
            biased;
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
                // Pods that went while the daemon was away have no worker that could close theirs.
                for object in agent.open_drifts() {
                    if !uids.contains(&*object.uid) {
                        agent.forget_drifts(&object);
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

async fn has_commit<C: Cluster, R: Runtime>(agent: &Agent<C, R>) -> bool {
    let sources = agent.cluster.list::<Source>(&Scope::all()).await;
    sources.is_ok_and(|all| all.items.iter().any(|source| source.has_applied()))
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
        agent.tasks.spawn_short("owners", async move {
            owners::ask(&asker, &cell, &mut Asked::default()).await;
        });
    }
}

/// A pod whose object is gone: its worker ends, and what it left is removed.
fn forget<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>, cell: &Arc<PodCell>) {
    cell.gone.store(true, Ordering::Relaxed);
    cell.wake.notify_one();
    lock(&agent.pods).remove(&cell.uid);
    agent.forget_drifts(&drift::drift_object(&cell.pod()));
    agent.let_go_of_claims(&cell.pod());
    let left = named(&cell.pod());
    if !left.config_maps.is_empty() || !left.secrets.is_empty() {
        // At once: with the last pod that names a Secret goes the right to read it, and what was
        // known of it must not meet the next pod.
        agent.unfollow();
    }
    remove_leftovers(agent);
}

/// A panic of what belongs to no pod: told, and tried again with the loop's timer. What belongs to
/// one pod is quarantined with its worker.
fn shown<T>(what: &str, done: Result<T, String>) -> Option<T> {
    done.map_err(|panic| error!(what, panic, "panicked: it is tried again later")).ok()
}

/// Removes containers of ours without a pod. Does nothing before both sides were listed whole.
fn remove_leftovers<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>) {
    shown("looking for leftovers", caught(|| find_leftovers(agent)));
}

fn find_leftovers<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>) {
    if !agent.pods_known.load(Ordering::Relaxed) || agent.engine().is_none() {
        return;
    }
    // The containers first: a pod that comes in between is known when it is looked for, while with
    // the pods first its new containers would seem to be nobody's.
    let all: Vec<Instance> = lock(&agent.instances).iter().cloned().collect();
    let pods: BTreeSet<String> = lock(&agent.pods).keys().cloned().collect();
    let found = leftovers::leftovers(&all, &agent.options.installation, &pods);
    let found: Vec<Instance> = found.into_iter().cloned().collect();
    if agent.holds.load(Ordering::Relaxed) {
        return say_held(agent, found.len());
    }
    let mut by_pod: BTreeMap<&str, Vec<&Instance>> = BTreeMap::new();
    for instance in &found {
        by_pod.entry(&instance.identity.pod_uid).or_default().push(instance);
    }
    for (uid, of_pod) in by_pod {
        // What is being removed is told once: it dies by our hand from here on.
        let fresh = |one: &&Instance| lock(&agent.ended_by_us).insert(one.id.clone());
        let fresh: Vec<&Instance> = of_pod.iter().copied().filter(fresh).collect();
        if fresh.iter().any(|one| one.is_running()) {
            agent.compare(&[leftovers::examine(&of_pod, agent.clock.now())], false);
        }
        for instance in of_pod {
            let removing = remove_leftover(agent.clone(), uid.to_owned(), instance.clone());
            agent.tasks.spawn_short("leftover", removing);
        }
    }
}

async fn remove_leftover<C: Cluster, R: Runtime>(
    agent: Arc<Agent<C, R>>,
    uid: String,
    instance: Instance,
) {
    info!(container = %instance.name, reason = "its pod is gone", "container removed");
    match agent.runtime.remove(&instance.id).await {
        Ok(()) => {
            lock(&agent.instances).remove(&instance.id);
            let left = lock(&agent.instances).of_pod(&uid);
            if left.is_empty() {
                agent.forget_drifts(&leftovers::drift_object(&instance));
            } else {
                let left: Vec<&Instance> = left.iter().collect();
                agent.compare(&[leftovers::examine(&left, agent.clock.now())], false);
            }
        }
        Err(error) => {
            warn!(container = %instance.name, %error, "leftover not removed");
            agent.is_away(&error).await;
        }
    }
    lock(&agent.ended_by_us).remove(&instance.id);
}

/// Once for each number of them: a store that should hold their pods is a person's matter.
fn say_held<C: Cluster, R: Runtime>(agent: &Agent<C, R>, containers: usize) {
    if agent.held.swap(containers, Ordering::Relaxed) == containers || containers == 0 {
        return;
    }
    warn!(
        containers,
        "the store is new and knows no pod of these containers: they run on until a commit is applied"
    );
    let message = format!(
        "{containers} containers of this installation have no pod in the new store: they run on until a commit is applied. If the data directory is lost or not mounted, stop the daemon and bring it back"
    );
    let node = Node {
        metadata: ObjectMeta {
            name: Some(agent.options.node_name.clone()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    agent.cluster.note(Note::warning(&node, COMPONENT, "ContainersHeld", message));
}

/// Keeps the engine's state, its events and the relists, and reconnects when it was away.
async fn follow_engine<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    let stop = agent.tasks.stop().clone();
    let mut told: Option<String> = None;
    loop {
        let connected = shown("connecting to the engine", caught_async(connect(&agent)).await);
        let panicked = || Err(RuntimeError::Other("the node agent panicked over it".to_owned()));
        let why = match connected.unwrap_or_else(panicked) {
            Ok((engine, events)) => {
                info!(version = %engine.version, "container engine is ready");
                told = None;
                agent.engine.send_replace(EngineState::Ready(Arc::new(engine)));
                remove_leftovers(&agent);
                agent.wake_all();
                // Cancel safe: dropping the stream closes its connection, the next one relists.
                let why = tokio::select! {
                    biased;
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
            biased;
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
    *lock(&agent.sandbox_image) = pause_image::provide(runtime).await?;
    let network = NetworkSpec {
        name: options.network.clone(),
        bridge: options.bridge.clone(),
        subnet: options.pod_range,
        installation: options.installation.clone(),
    };
    runtime.ensure_network(&network).await?;
    relist(agent, None).await?;
    Ok((engine, events))
}

/// Until the engine is away: why; `None`: something we rely on was removed, connect again.
async fn listen<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    mut events: Events,
) -> Option<String> {
    let mut relists = interval(RELIST);
    let mut round = 0;
    relists.set_missed_tick_behavior(MissedTickBehavior::Delay);
    relists.reset();
    // Beside the events: a container that cannot be inspected costs a list five seconds.
    let mut listing = pin!(Fuse::terminated());
    let mut pings = interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    let mut pinging = pin!(Fuse::terminated());
    loop {
        // Cancel safe, all six: list and ping are pinned outside, the rest takes nothing when dropped.
        tokio::select! {
            biased;
            () = agent.engine_lost.notified() => return None,
            // All four before the events: they may never pause.
            answered = &mut pinging => if let Err(error) = answered {
                let error: RuntimeError = error;
                return Some(error.to_string());
            },
            _ = pings.tick(), if pinging.is_terminated() => {
                pinging.set(answers(&agent.runtime).fuse());
            }
            listed = &mut listing => {
                if let Some(Err(error)) = shown::<Result<(), RuntimeError>>("a relist", listed) {
                    return Some(error.to_string());
                }
                shown("tidying up", caught_async(tidy_up(agent)).await);
                (agent.options.beat)("node engine");
            }
            _ = relists.tick(), if listing.is_terminated() => {
                round += 1;
                listing.set(caught_async(relist(agent, Some(round))).fuse());
            }
            event = events.next() => match event {
                Some(Ok(event)) => {
                    shown("an event of the engine", caught(|| hear(agent, event)));
                }
                Some(Err(error)) => return Some(error.to_string()),
                None => return Some("its event stream ended".to_owned()),
            },
        }
    }
}

async fn answers<R: Runtime>(runtime: &R) -> Result<(), RuntimeError> {
    if runtime.ping().await.is_ok() { Ok(()) } else { runtime.ping().await }
}

/// Compares what is known with one whole list, and wakes the pods that differ. `round`: how many lists
/// there were since the engine's events are followed; `None`: not yet, and nothing is known.
async fn relist<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    round: Option<u64>,
) -> Result<(), RuntimeError> {
    let mark = lock(&agent.instances).mark();
    let is_known = |seen: &Instance| {
        round.is_some_and(|round| {
            relist::is_known(lock(&agent.instances).get(&seen.id), seen, round)
        })
    };
    let list = agent.runtime.list(&agent.options.installation, &is_known).await?;
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
    forget_gone(agent);
    agent.unfollow();
    let cells = agent.cells();
    let mut images = HashSet::new();
    for cell in &cells {
        let pod = cell.pod();
        let containers = pod.spec.iter().flat_map(every_container);
        images.extend(containers.filter_map(|container| container.image.clone()));
    }
    lock(&agent.images).retain(|image| images.contains(image));
    {
        let instances = lock(&agent.instances);
        lock(&agent.causes).retain(|id, _| instances.get(id).is_some());
        lock(&agent.ended_by_us).retain(|id| instances.get(id).is_some());
    }
    let mut asked = Asked::default();
    for cell in cells.iter().filter(|cell| cell.pod().metadata.owner_references.is_some()) {
        owners::ask(agent, cell, &mut asked).await;
    }
    if !agent.options.data_dir.join("pods").exists() {
        return;
    }
    let sweeper = agent.clone();
    let sweep = tokio::task::spawn_blocking(move || sweep_volumes(&sweeper));
    sweep.await.expect("sweeping does not panic");
}

/// Closes the Drifts of pods that are gone with everything they had: a pass that was under way when
/// its pod went may have opened one after the others were closed.
fn forget_gone<C: Cluster, R: Runtime>(agent: &Agent<C, R>) {
    if !agent.pods_known.load(Ordering::Relaxed) {
        return;
    }
    for object in agent.open_drifts() {
        let known = lock(&agent.pods).contains_key(&object.uid)
            || !lock(&agent.instances).of_pod(&object.uid).is_empty();
        if !known {
            agent.forget_drifts(&object);
        }
    }
}

/// Removes the volumes of pods that are gone.
fn sweep_volumes<C: Cluster, R: Runtime>(agent: &Agent<C, R>) {
    // Before the first whole list every pod would seem to be gone.
    if !agent.pods_known.load(Ordering::Relaxed) {
        return;
    }
    let is_used = |uid: &str| {
        lock(&agent.pods).contains_key(uid) || !lock(&agent.instances).of_pod(uid).is_empty()
    };
    for (path, error) in volume::sweep(&agent.options.data_dir.join("pods"), is_used) {
        warn!(path = %path.display(), %error, "volumes of a gone pod not removed");
    }
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
