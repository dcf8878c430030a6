//! One pod's loop: observe, plan, perform, report.
//!
//! A worker never waits for a container, a pull or a grace to end: it starts them, notes that it did
//! in its memory, and looks again when it is woken (Docker's events, the pod's watch, probes, an
//! ended step) or when its plan says so. While the engine is away it does nothing and leaves the
//! status as it is. A panic quarantines this pod and no other.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::sleep;
use tracing::{Instrument, debug, error, info_span, warn};

use crate::node::agent::{Agent, PodCell, lock};
use crate::node::capacity::Engine;
use crate::node::drift;
use crate::node::environment::named;
use crate::node::image::Waiting;
use crate::node::instance::{Instance, Role};
use crate::node::memory::{Memory, Verdicts};
use crate::node::perform::{self, Performed};
use crate::node::pod_plan::{self, PodPlan, View, latest, plan};
use crate::node::pod_status::{is_started, pod_ip, pod_status};
use crate::node::probe::{ProbeKind, Verdict, probes};
use crate::node::prober::{Asked, Probers, Told};
use crate::node::runtime::Runtime;
use crate::node::volume;
use crate::node::volume_plan::{self, Missing, VolumePlan};
use crate::object::{Cluster, Note, Object};

/// Who says so, in Events.
pub const COMPONENT: &str = "node-agent";
/// Passes in a row without a rest; more means that a step changes nothing that the plan sees.
const PASSES: u32 = 20;
const REST: Duration = Duration::from_secs(1);
/// The kubelet's pod sync period: a lost signal costs at most this.
const SYNC: Duration = Duration::from_secs(60);
/// A start that takes longer than this is told in the status while it runs.
const SLOW: Duration = Duration::from_millis(700);

/// What a worker keeps to itself.
#[derive(Default)]
struct Own {
    volumes: Option<Vec<VolumePlan>>,
    probers: Probers,
    /// Waiting reasons already told as Events, by container.
    told: BTreeMap<String, Waiting>,
}

/// What one pass looks at.
pub struct Observed {
    pub pod: Arc<Pod>,
    pub instances: Vec<Instance>,
    pub memory: Memory,
    pub engine: Arc<Engine>,
    pub volumes: Vec<VolumePlan>,
    pub now: Timestamp,
}

impl Observed {
    pub fn view(&self) -> View<'_> {
        View {
            pod: &self.pod,
            instances: &self.instances,
            memory: &self.memory,
            limits: self.engine.limits,
            now: self.now,
        }
    }
}

/// How a pass ended.
enum Passed {
    /// Something was done: look at once.
    Again,
    /// Nothing to do until a signal, or this time.
    Rest(Option<Timestamp>),
    /// The pod is gone.
    Done,
}

/// Runs until the pod is gone or the daemon stops.
pub async fn work<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>, cell: Arc<PodCell>) {
    let span = info_span!("pod", object = %cell.key);
    let mut own = Own::default();
    let mut in_a_row = 0;
    loop {
        let pass = AssertUnwindSafe(pass(&agent, &cell, &mut own)).catch_unwind();
        let rest = match pass.instrument(span.clone()).await {
            Ok(Passed::Done) => return,
            Ok(Passed::Again) if in_a_row < PASSES => {
                in_a_row += 1;
                continue;
            }
            Ok(Passed::Again) => REST,
            Ok(Passed::Rest(until)) => until.map_or(SYNC, |until| {
                let left = until.duration_since(agent.clock.now());
                Duration::try_from(left).unwrap_or_default().clamp(Duration::from_millis(1), SYNC)
            }),
            Err(panic) => {
                quarantine(&agent, &cell, panic.as_ref());
                return;
            }
        };
        in_a_row = 0;
        // Cancel safe, all three.
        tokio::select! {
            () = cell.wake.notified() => {}
            () = sleep(rest) => {}
            () = agent.tasks.stop().cancelled() => return,
        }
    }
}

/// Its containers run on as they are; the pod is shown and not touched until the daemon restarts or
/// the pod is replaced.
fn quarantine<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    cell: &PodCell,
    panic: &(dyn std::any::Any + Send),
) {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let why = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    error!(object = %cell.key, %why, "pod quarantined after a panic");
    let message = format!("this pod made the node agent panic and is left as it is: {why}");
    agent.cluster.note(Note::warning(&*cell.pod(), COMPONENT, "Quarantined", message));
}

async fn pass<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    cell: &Arc<PodCell>,
    own: &mut Own,
) -> Passed {
    if Agent::<C, R>::is_gone(cell) {
        return Passed::Done;
    }
    let Some(engine) = agent.engine() else {
        debug!("the engine is away, nothing is done");
        return Passed::Rest(None);
    };
    let Some(observed) = observe(agent, cell, own, engine).await else {
        return Passed::Rest(None);
    };
    let plan = plan(&observed.view());
    compare(agent, &observed);
    probe(agent, cell, own, &observed);
    tell(agent, own, &observed, &plan);
    let ends = observed.pod.metadata.deletion_timestamp.is_some();
    if ends && !observed.instances.is_empty() {
        // The last states of an ending pod are told before its containers are removed.
        report(agent, cell, &observed, &plan).await;
    }
    if plan.actions.is_empty() {
        if !ends {
            return report(agent, cell, &observed, &plan)
                .await
                .unwrap_or(Passed::Rest(plan.look_again));
        }
        return Passed::Rest(plan.look_again);
    }
    let performing = perform::perform(agent, cell, &observed, &plan.actions);
    let mut performing = std::pin::pin!(performing);
    // Cancel safe: the future is pinned outside and polled again below.
    let performed = tokio::select! {
        performed = &mut performing => performed,
        () = sleep(SLOW) => {
            if !ends {
                report(agent, cell, &observed, &plan).await;
            }
            performing.await
        }
    };
    match performed {
        Performed::Changed => Passed::Again,
        Performed::Finished => {
            cell.gone.store(true, std::sync::atomic::Ordering::Relaxed);
            Passed::Done
        }
        Performed::EngineAway => Passed::Rest(None),
    }
}

/// `None`: the engine went away while it was asked.
async fn observe<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    cell: &Arc<PodCell>,
    own: &mut Own,
    engine: Arc<Engine>,
) -> Option<Observed> {
    let pod = cell.pod();
    let instances = lock(&agent.instances).of_pod(&cell.uid);
    let ends = pod.metadata.deletion_timestamp.is_some() || pod_plan::finished(&pod, &instances);
    let mut unready = None;
    if !ends {
        look_for_images(agent, &pod, &instances).await?;
        unready = prepare(agent, own, &pod).await;
    }
    let mut memory = {
        let mut memory = cell.memory();
        memory.unready = unready;
        let alive: Vec<&str> = instances.iter().map(|instance| &*instance.id).collect();
        memory.probes.retain(|id, _| alive.contains(&&**id));
        memory.clone()
    };
    let annotation = pod.metadata.annotations.as_ref().and_then(|a| a.get("ballast.dev/heal"));
    memory.report_only |= annotation.is_some_and(|value| value == "false");
    let images = lock(&agent.images);
    for image in all_containers(&pod).filter_map(|container| container.image.as_ref()) {
        if let Some(state) = images.get(image) {
            memory.images.insert(image.clone(), state.clone());
        }
    }
    drop(images);
    let volumes = own.volumes.clone().unwrap_or_default();
    Some(Observed { pod, instances, memory, engine, volumes, now: agent.clock.now() })
}

fn all_containers(pod: &Pod) -> impl Iterator<Item = &k8s_openapi::api::core::v1::Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Asks the engine for the images of containers that are going to be made and are not known to be
/// there. `None`: it went away.
async fn look_for_images<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    pod: &Pod,
    instances: &[Instance],
) -> Option<()> {
    for container in all_containers(pod) {
        let Some(image) = &container.image else { continue };
        let runs = [Role::Container, Role::Init].into_iter().any(|role| {
            latest(instances, role, &container.name)
                .is_some_and(|i| i.is_running() || i.ended().is_some_and(|e| e.exit_code == 0))
        });
        let known = lock(&agent.images)
            .get(image)
            .is_some_and(|state| state.pulling || matches!(state.present, Some(Some(_))));
        if runs || known {
            continue;
        }
        match agent.runtime.image(image).await {
            Ok(facts) => {
                let mut images = lock(&agent.images);
                images.entry(image.clone()).or_default().present =
                    Some(facts.map(|facts| facts.id));
            }
            Err(error @ crate::node::runtime::RuntimeError::Unreachable(_)) => {
                agent.heard(&error);
                return None;
            }
            // An engine that cannot read the name: the plan says so of an invalid one.
            Err(error) => debug!(%image, %error, "image not found"),
        }
    }
    Some(())
}

/// Makes the volumes what the sources say now. Answers why the pod must wait, if it must.
async fn prepare<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    own: &mut Own,
    pod: &Arc<Pod>,
) -> Option<Waiting> {
    let links = pod.spec.as_ref().is_none_or(|spec| spec.enable_service_links != Some(false));
    if !agent.follow(&named(pod), links) {
        return Some(Waiting::creating());
    }
    let plans = match volume_plan::volumes(pod, &agent.sources(), &agent.options.data_dir) {
        Ok(plans) => plans,
        Err(Missing::Unknown) => return Some(Waiting::creating()),
        Err(Missing::Fault(sentence)) => return Some(mount_fault(sentence)),
    };
    if own.volumes.as_ref() == Some(&plans) {
        return None;
    }
    if !plans.is_empty() {
        let wanted = plans.clone();
        let made = tokio::task::spawn_blocking(move || volume::prepare(&wanted)).await;
        match made.expect("preparing volumes does not panic") {
            Ok(()) => {}
            Err(error) => return Some(mount_fault(error.to_string())),
        }
    }
    own.volumes = Some(plans);
    None
}

/// Shown as Kubernetes shows it (`ContainerCreating`); the sentence goes into an Event.
fn mount_fault(sentence: String) -> Waiting {
    Waiting { reason: "ContainerCreating", message: Some(sentence) }
}

fn compare<C: Cluster, R: Runtime>(agent: &Agent<C, R>, observed: &Observed) {
    let causes: BTreeMap<String, String> = {
        let causes = lock(&agent.causes);
        let of = |i: &Instance| causes.get(&i.id).map(|cause| (i.id.clone(), cause.clone()));
        observed.instances.iter().filter_map(of).collect()
    };
    let ended_by_us = lock(&agent.ended_by_us);
    let memory = &observed.memory;
    let examined = drift::examine(&observed.view(), &causes, &|id| {
        ended_by_us.contains(id) || memory.stopping.contains(id) || memory.removing.contains(id)
    });
    drop(ended_by_us);
    agent.compare(&[examined], false);
}

/// Keeps the probes of running instances asked.
fn probe<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    cell: &Arc<PodCell>,
    own: &mut Own,
    observed: &Observed,
) {
    let pod = &observed.pod;
    let ends = pod.metadata.deletion_timestamp.is_some();
    let ip = pod_ip(pod, &observed.instances, agent.options.host_ip);
    let mut wanted = Vec::new();
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let instance = latest(&observed.instances, Role::Container, &container.name)
            .filter(|instance| instance.is_running());
        let (Some(instance), Some(pod_ip)) = (instance, ip) else { continue };
        let started = is_started(instance, container, &observed.memory);
        for (kind, probe) in probes(container) {
            // Liveness and startup end with the deletion, readiness goes on (kubelet prober).
            let asked = match kind {
                ProbeKind::Startup => !started && !ends,
                ProbeKind::Liveness => started && !ends,
                ProbeKind::Readiness => started,
            };
            if asked {
                wanted.push(Asked { instance: &instance.id, kind, probe, container, pod_ip });
            }
        }
    }
    let (listener, teller) = (cell.clone(), agent.clone());
    let tell: Arc<dyn Fn(Told) + Send + Sync> = Arc::new(move |told| {
        if let Some(why) = &told.failure {
            let message = format!("{} probe failed: {why}", told.kind.name());
            let note = Note::warning(&*listener.pod(), COMPONENT, "Unhealthy", message);
            teller.cluster.note(note);
        }
        if let Some(verdict) = told.verdict {
            hear(&listener, &told.instance, told.kind, verdict);
        }
    });
    own.probers.keep(&wanted, &agent.runtime, &agent.tasks, &tell);
}

fn hear(cell: &PodCell, instance: &str, kind: ProbeKind, verdict: Verdict) {
    let mut memory = cell.memory();
    let verdicts: &mut Verdicts = memory.probes.entry(instance.to_owned()).or_default();
    let slot = match kind {
        ProbeKind::Startup => &mut verdicts.startup,
        ProbeKind::Liveness => &mut verdicts.liveness,
        ProbeKind::Readiness => &mut verdicts.readiness,
    };
    *slot = Some(verdict);
    drop(memory);
    cell.wake.notify_one();
}

/// Events for reasons to wait that are new.
fn tell<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    own: &mut Own,
    observed: &Observed,
    plan: &PodPlan,
) {
    for (container, waiting) in &plan.waiting {
        if own.told.get(container) == Some(waiting) {
            continue;
        }
        own.told.insert(container.clone(), waiting.clone());
        let Some(message) = waiting.message.clone() else { continue };
        let (reason, message) = match waiting.reason {
            "CrashLoopBackOff" | "ImagePullBackOff" => {
                let message = message.replacen("back-off", "Back-off", 1);
                ("BackOff", message)
            }
            "ContainerCreating" => ("FailedMount", message),
            "InvalidImageName" => ("InspectFailed", message),
            "ErrImageNeverPull" => ("ErrImageNeverPull", message),
            // Those were told where they happened.
            _ => continue,
        };
        agent.cluster.note(Note::warning(&*observed.pod, COMPONENT, reason, message));
    }
    own.told.retain(|container, _| plan.waiting.contains_key(container));
}

/// Writes the status if it differs from the stored one. `Some`: how the pass must end instead.
async fn report<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    cell: &PodCell,
    observed: &Observed,
    plan: &PodPlan,
) -> Option<Passed> {
    let status = pod_status(&observed.view(), plan, agent.options.host_ip);
    // A pass may begin with our own earlier write not yet in the watch: compare with the newest.
    let newest = cell.pod();
    if newest.status.as_ref() == Some(&status) {
        return None;
    }
    let mut pod = (*newest).clone();
    pod.status = Some(status);
    match agent.cluster.update_status(&pod).await {
        Ok(stored) => {
            cell.set_pod(stored);
            None
        }
        Err(error) if error.is_conflict() => {
            match agent.cluster.get::<Pod>(&cell.key).await {
                Ok(current) if current.uid() == cell.uid => {
                    cell.set_pod(current);
                    Some(Passed::Again)
                }
                // Gone, or another of its name: the watch ends this worker.
                _ => None,
            }
        }
        Err(error) if error.is_not_found() => None,
        Err(error) => {
            warn!(%error, "status not written");
            Some(Passed::Rest(Some(agent.clock.now() + jiff::SignedDuration::from_secs(1))))
        }
    }
}

/// Where a pod's volumes are.
pub fn directory<C: Cluster, R: Runtime>(agent: &Agent<C, R>, pod: &Pod) -> PathBuf {
    volume_plan::pod_directory(&agent.options.data_dir, pod)
}
