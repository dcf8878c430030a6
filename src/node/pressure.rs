//! Looks every ten seconds whether the node runs out of something, says so on the Node, and evicts a pod
//! where nothing else helps. `eviction.rs` decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::node::agent::{Agent, PodCell, lock};
use crate::node::care::ReadSignals;
use crate::node::eviction::{Candidate, Pressure, Pressures, Reading, Signal, message, rank};
use crate::node::image_care::{collect, read, tell};
use crate::node::instance::{Life, Role};
use crate::node::pod_worker::{COMPONENT, directory};
use crate::node::runtime::Runtime;
use crate::node::termination_plan::is_over;
use crate::node::volume_eviction::evicted_status;
use crate::node::volume_usage::below;
use crate::object::{Cluster, Note};
use crate::task::caught_async;

/// The kubelet's `monitoringInterval`.
const PERIOD: Duration = Duration::from_secs(10);
/// The kubelet's `podCleanupTimeout`: nobody else goes while an evicted pod still ends.
const CLEAN_UP: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Watch {
    pressures: Pressures,
    /// The pod that went last, and when.
    last: Option<(String, Instant)>,
}

/// Until the tasks stop.
pub async fn run<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>, signals: ReadSignals) {
    let mut passes = interval(PERIOD);
    passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    loop {
        // Cancel safe, both.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            _ = passes.tick() => {}
        }
        if let Err(panic) = caught_async(pass(&agent, &signals, &mut watch)).await {
            error!(panic, "looking for pressure panicked: it is tried again later");
        }
    }
}

async fn pass<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    signals: &ReadSignals,
    watch: &mut Watch,
) {
    // An engine that is away ends no container, and where its files are is not known.
    let Some(engine) = agent.engine() else { return };
    let thresholds = &agent.options.care.settings.eviction;
    let mut readings = read(agent, signals, &engine).await;
    let mut met = thresholds.met(&readings);
    say(agent, watch, &met);
    let Some(first) = met.first() else { return };
    info!(signal = first.name(), "the node is low on a resource");
    tell(
        agent,
        Note::warning,
        "EvictionThresholdMet",
        format!("Attempting to reclaim {}", first.resource()),
    );
    if met.iter().any(|signal| signal.pressure() == Pressure::Disk) {
        match collect(agent, u64::MAX).await {
            Ok(0) => {}
            Ok(freed) => {
                let message = format!("Removed unused images of {freed} bytes: the disk was full");
                tell(agent, Note::normal, "ImageGCSucceeded", message);
                readings = read(agent, signals, &engine).await;
                met = thresholds.met(&readings);
            }
            Err(why) => warn!(%why, "images not collected"),
        }
    }
    let Some(signal) = met.first().copied() else { return };
    let ends = |(uid, at): &(String, Instant)| {
        at.elapsed() < CLEAN_UP && lock(&agent.instances).of_pod(uid).iter().any(|i| i.is_running())
    };
    if watch.last.as_ref().is_some_and(ends) {
        return;
    }
    let reading = readings.get(&signal).copied().unwrap_or_default();
    watch.last = evict_one(agent, signal, reading).await.map(|uid| (uid, Instant::now()));
}

/// Tells the Node's conditions, and an Event for each that is new.
fn say<C: Cluster, R: Runtime>(agent: &Agent<C, R>, watch: &mut Watch, met: &[Signal]) {
    let now = watch.pressures.take(met, agent.clock.now());
    let before = agent.pressures.borrow().clone();
    for pressure in now.symmetric_difference(&before) {
        let reason = match (pressure, now.contains(pressure)) {
            (Pressure::Memory, true) => "NodeHasInsufficientMemory",
            (Pressure::Memory, false) => "NodeHasSufficientMemory",
            (Pressure::Disk, true) => "NodeHasDiskPressure",
            (Pressure::Disk, false) => "NodeHasNoDiskPressure",
            (Pressure::Pid, true) => "NodeHasInsufficientPID",
            (Pressure::Pid, false) => "NodeHasSufficientPID",
        };
        let message = format!("Node {} status is now: {reason}", agent.options.node_name);
        tell(agent, Note::normal, reason, message);
    }
    // The heartbeat is woken by a change.
    agent.pressures.send_if_modified(|told| {
        let changed = *told != now;
        *told = now;
        changed
    });
}

/// Answers the uid of the pod that goes.
async fn evict_one<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    signal: Signal,
    reading: Reading,
) -> Option<String> {
    let mut candidates = Vec::new();
    for cell in agent.cells() {
        let pod = cell.pod();
        let instances = lock(&agent.instances).of_pod(&cell.uid);
        if pod.metadata.deletion_timestamp.is_some() || is_over(&pod, &instances, agent.clock.now())
        {
            continue;
        }
        let members = instances.iter().filter(|one| one.identity.role != Role::Sandbox);
        let running = members.filter(|one| one.life == Life::Running);
        let mut usage = BTreeMap::new();
        for one in running {
            let used = used(agent, &one.id, signal).await;
            usage.insert(one.identity.container.clone(), used);
        }
        // What runs nothing holds nothing that its end would give back.
        if usage.is_empty() {
            continue;
        }
        let shared = match signal.pressure() {
            Pressure::Disk => below(&directory(agent, &pod)).await,
            _ => 0,
        };
        candidates.push(Candidate { pod, usage, shared });
    }
    let thresholds = &agent.options.care.settings.eviction;
    for candidate in rank(signal, candidates) {
        let uid = candidate.pod.metadata.uid.clone().unwrap_or_default();
        let Some(cell) = agent.cell(&uid) else { continue };
        if evict(agent, &cell, message(signal, reading, thresholds, &candidate)).await {
            return Some(uid);
        }
    }
    warn!(signal = signal.name(), "nothing can be evicted");
    None
}

/// What cannot be measured is `None`: it goes first.
async fn used<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    id: &str,
    signal: Signal,
) -> Option<u64> {
    match signal.pressure() {
        Pressure::Memory => agent.runtime.usage(id).await.ok().map(|usage| usage.memory_bytes),
        Pressure::Pid => agent.runtime.usage(id).await.ok().map(|usage| usage.processes),
        Pressure::Disk => agent.runtime.disk_usage(id).await.ok(),
    }
}

/// The pod is Failed from here on, whatever becomes of the daemon; its worker ends the containers.
async fn evict<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    cell: &Arc<PodCell>,
    message: String,
) -> bool {
    let evicted = evicted(&cell.pod(), &message, agent.clock.now());
    match agent.cluster.update_status(&evicted).await {
        Ok(stored) => {
            warn!(pod = %cell.key, %message, "pod evicted");
            agent.cluster.note(Note::warning(&*stored, COMPONENT, "Evicted", message));
            cell.set_pod(stored);
            cell.wake.notify_one();
            true
        }
        Err(error) => {
            warn!(pod = %cell.key, %error, "pod not evicted");
            false
        }
    }
}

fn evicted(pod: &Pod, message: &str, now: Timestamp) -> Pod {
    Pod { status: Some(evicted_status(pod, message, now)), ..pod.clone() }
}
