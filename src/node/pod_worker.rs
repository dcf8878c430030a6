//! One pod's loop: observe, plan, perform, report.
//!
//! A worker never waits for a container, a pull or a grace to end: it starts them, notes that it did
//! in its memory, and looks again when it is woken (Docker's events, the pod's watch, probes, an
//! ended step) or when its plan says so. While the engine is away it does nothing and leaves the
//! status as it is. A panic quarantines this pod and no other: its status is still told and it can be
//! deleted, and the whole pass is tried again with a growing pause.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::{Instant, sleep};
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::node::agent::{Agent, PodCell, lock};
use crate::node::capacity::Engine;
use crate::node::claimed_volumes;
use crate::node::confinement::addressed;
use crate::node::copies::{self, Sorted};
use crate::node::drift::{self, Look};
use crate::node::environment::named;
use crate::node::image::Waiting;
use crate::node::instance::Instance;
use crate::node::last_words;
use crate::node::memory::Memory;
use crate::node::misnamed;
use crate::node::needed_images::{all_containers, look_for_images};
use crate::node::perform::{self, Performed};
use crate::node::pod_plan::{self, PodPlan, View, plan};
use crate::node::pod_probes;
use crate::node::pod_status::{self, pod_status};
use crate::node::prober::Probers;
use crate::node::quarantine::Quarantine;
use crate::node::registry_credentials;
use crate::node::runtime::Runtime;
use crate::node::sidecar::field_path;
use crate::node::termination_plan::{finished, is_over, overdue};
use crate::node::volume;
use crate::node::volume_check::LastLook;
use crate::node::volume_files::{Content, Missing};
use crate::node::volume_plan::{self, VolumePlan};
use crate::node::volume_usage;
use crate::object::source::is_report_only;
use crate::object::{Cluster, Note, Object, ephemeral_container};
use crate::task::caught_async;

/// Who says so, in Events.
pub const COMPONENT: &str = "node-agent";
/// Passes in a row without a rest; more means that a step changes nothing that the plan sees.
const PASSES: u32 = 20;
pub const REST: Duration = Duration::from_secs(1);
/// The kubelet's pod sync period: a lost signal costs at most this.
const SYNC: Duration = Duration::from_secs(60);
/// A start that takes longer than this is told in the status while it runs.
const SLOW: Duration = Duration::from_millis(700);

/// What a worker keeps to itself.
#[derive(Default)]
struct Own {
    volumes: Option<Vec<VolumePlan>>,
    /// What was changed of their files.
    files: LastLook,
    /// They are told, and written anew with the next pass.
    rewrite: bool,
    report_only: bool,
    /// It is over, and they were removed.
    cleared: bool,
    /// The status of an earlier run of the daemon was taken up.
    took_up: bool,
    probers: Probers,
    /// That the pod's deadline has passed was told.
    told_overdue: bool,
    /// Waiting reasons already told as Events, by container.
    told: BTreeMap<String, Waiting>,
}

/// What one pass looks at.
pub struct Observed {
    pub pod: Arc<Pod>,
    pub instances: Vec<Instance>,
    /// Others with the pod's labels.
    pub copies: Vec<Instance>,
    pub memory: Memory,
    pub engine: Arc<Engine>,
    pub volumes: Vec<VolumePlan>,
    /// The pod's ephemeral containers, as containers.
    pub ephemeral: Vec<Container>,
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
    let mut quarantine: Option<Quarantine> = None;
    loop {
        let careful = quarantine.as_ref().is_some_and(|held| Instant::now() < held.until);
        let passing = async {
            if careful {
                careful_pass(&agent, &cell).await
            } else {
                pass(&agent, &cell, &mut own).await
            }
        };
        let passed = match caught_async(passing).instrument(span.clone()).await {
            Ok(passed) => passed,
            Err(why) => {
                say_quarantined(&agent, &cell, &why);
                // A careful pass follows a moment later; where that panics too, nothing does until
                // the whole one is tried again: no pod panics more than once a second.
                let left = |held: &Quarantine| held.until.saturating_duration_since(Instant::now());
                let pause = if careful { quarantine.as_ref().map_or(REST, left) } else { REST };
                if !careful {
                    quarantine = Some(Quarantine::after(quarantine.as_ref()));
                }
                tokio::select! {
                    biased;
                    () = agent.tasks.stop().cancelled() => return,
                    () = sleep(pause) => continue,
                }
            }
        };
        if !careful && quarantine.take().is_some() {
            info!(object = %cell.key, "pod released from quarantine");
        }
        let rest = match passed {
            Passed::Done => return,
            Passed::Again if in_a_row < PASSES => {
                in_a_row += 1;
                continue;
            }
            Passed::Again => REST,
            Passed::Rest(until) => until.map_or(SYNC, |until| {
                let left = until.duration_since(agent.clock.now());
                Duration::try_from(left).unwrap_or_default().clamp(Duration::from_millis(1), SYNC)
            }),
        };
        in_a_row = 0;
        let left = |held: &Quarantine| held.until.saturating_duration_since(Instant::now());
        let rest = quarantine.as_ref().map_or(rest, |held| rest.min(left(held)));
        // Cancel safe, all three.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            () = cell.wake.notified() => {}
            () = sleep(rest) => {}
        }
    }
}

/// Its containers run on as they are; the pod is shown.
fn say_quarantined<C: Cluster, R: Runtime>(agent: &Agent<C, R>, cell: &PodCell, why: &str) {
    error!(object = %cell.key, %why, "pod quarantined after a panic");
    let message = format!(
        "this pod made the node agent panic, it is left as it is and tried again later: {why}"
    );
    agent.cluster.note(Note::warning(&*cell.pod(), COMPONENT, "Quarantined", message));
}

/// What is still done for a pod in quarantine, with as little code as possible: its status follows
/// its containers, or traffic would go on to one that died; and a deleted one goes.
async fn careful_pass<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    cell: &Arc<PodCell>,
) -> Passed {
    if Agent::<C, R>::is_gone(cell) {
        return Passed::Done;
    }
    let Some(engine) = agent.engine() else { return Passed::Rest(None) };
    let Sorted { own: instances, copies } = copies::sort(lock(&agent.instances).of_pod(&cell.uid));
    let observed = Observed {
        pod: cell.pod(),
        instances: addressed(&cell.pod(), instances, agent.host_ip()),
        copies,
        memory: cell.memory().clone(),
        engine,
        volumes: Vec::new(),
        ephemeral: ephemeral(&cell.pod()),
        now: agent.clock.now(),
    };
    let plan = plan(&observed.view());
    if observed.pod.metadata.deletion_timestamp.is_none() {
        return report(agent, cell, &observed, &plan).await.unwrap_or(Passed::Rest(None));
    }
    if plan.actions.is_empty() {
        return Passed::Rest(plan.look_again);
    }
    after(perform::perform(agent, cell, &observed, &plan.actions).await, cell)
}

/// How a pass ends that did something.
fn after(performed: Performed, cell: &PodCell) -> Passed {
    match performed {
        Performed::Changed => Passed::Again,
        Performed::Finished => {
            cell.gone.store(true, std::sync::atomic::Ordering::Relaxed);
            Passed::Done
        }
        Performed::EngineAway => Passed::Rest(None),
    }
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
        return Passed::Rest(Some(agent.clock.now() + SignedDuration::from_secs(1)));
    };
    let mut plan = plan(&observed.view());
    let (of_pod, copies) = (&observed.instances, &observed.copies);
    let healing = copies::heal(of_pod, copies, &observed.memory, &agent.options.prefix);
    plan.actions.splice(0..0, healing);
    let compare_again = compare(agent, &observed, &plan);
    pod_probes::probe(agent, cell, &mut own.probers, &observed);
    tell(agent, own, &observed, &plan);
    let ends = observed.pod.metadata.deletion_timestamp.is_some();
    if ends && !observed.instances.is_empty() {
        // The last states of an ending pod are told before its containers are removed.
        report(agent, cell, &observed, &plan).await;
    }
    if plan.actions.is_empty() {
        if !ends {
            if std::mem::take(&mut own.rewrite) {
                return Passed::Again;
            }
            own.cleared = own.cleared || volume_usage::clear_finished(agent, &observed).await;
            let until = plan.look_again.into_iter().chain(compare_again).min();
            return report(agent, cell, &observed, &plan).await.unwrap_or(Passed::Rest(until));
        }
        return Passed::Rest(plan.look_again);
    }
    let mut performing = Box::pin(perform::perform(agent, cell, &observed, &plan.actions));
    // Cancel safe: the future is kept outside and polled again below.
    let performed = tokio::select! {
        biased;
        performed = &mut performing => performed,
        () = sleep(SLOW) => {
            if !ends {
                report(agent, cell, &observed, &plan).await;
            }
            performing.await
        }
    };
    after(performed, cell)
}

/// `None`: the engine did not answer, which may be its own matter or the question's.
async fn observe<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    cell: &Arc<PodCell>,
    own: &mut Own,
    engine: Arc<Engine>,
) -> Option<Observed> {
    let pod = cell.pod();
    let Sorted { own: instances, copies } = copies::sort(lock(&agent.instances).of_pod(&cell.uid));
    let instances = addressed(&pod, instances, agent.host_ip());
    let ends =
        pod.metadata.deletion_timestamp.is_some() || is_over(&pod, &instances, agent.clock.now());
    let mut unready = None;
    if !ends {
        look_for_images(agent, &pod, &instances).await?;
        unready = prepare(agent, own, &pod, &engine).await;
    } else {
        own.files = LastLook::default();
    }
    let home = &agent.options.data_dir;
    let unread = last_words::unread(&pod, &instances, &cell.memory().last_words);
    let read = last_words::read_all(&agent.runtime, home, unread).await;
    let unsure = misnamed::unsure(&instances, &cell.memory().has_name);
    let names = misnamed::read(&agent.runtime, &pod, unsure).await;
    let now = agent.clock.now();
    let mut memory = {
        let mut memory = cell.memory();
        memory.last_words.extend(read);
        memory.has_name.extend(names);
        memory.unready = unready;
        memory.settle(pod_plan::told_times(&pod, &instances), now);
        if !std::mem::replace(&mut own.took_up, true) {
            memory.probes.extend(pod_status::known_verdicts(&pod, &instances));
            memory.post_starts.extend(pod_status::known_post_starts(&pod, &instances));
        }
        let wanted = drift::wanted_id(&pod);
        match &memory.wanted {
            None => memory.wanted = drift::begun(&pod).map(|begun| (wanted, begun)),
            Some((before, _)) if *before == wanted => {}
            Some(_) => memory.wanted = Some((wanted, now)),
        }
        let alive: Vec<&str> = instances.iter().map(|instance| &*instance.id).collect();
        memory.probes.retain(|id, _| alive.contains(&&**id));
        memory.stop_by.retain(|id, _| alive.contains(&&**id));
        memory.endings.retain(|id, _| alive.contains(&&**id));
        memory.last_words.retain(|id, _| alive.contains(&&**id));
        memory.has_name.retain(|id, _| alive.contains(&&**id));
        memory.post_starts.retain(|id, _| alive.contains(&&**id));
        memory.clone()
    };
    memory.report_only |= is_report_only(&pod.metadata);
    let keyring = registry_credentials::keyring(&pod, &lock(&agent.known).sources);
    let mut images = lock(&agent.images);
    for image in &all_containers(&pod).filter_map(|one| one.image.clone()).collect::<Vec<_>>() {
        let means = keyring.as_ref().map(|keyring| keyring.lookup(image));
        let state = images.state(image, means.as_ref(), &cell.uid, now);
        memory.images.insert(image.clone(), state);
    }
    drop(images);
    own.report_only = memory.report_only;
    memory.changed_files = own.files.changed.clone();
    let volumes = own.volumes.clone().unwrap_or_default();
    let ephemeral = ephemeral(&pod);
    Some(Observed { pod, instances, copies, memory, engine, volumes, ephemeral, now })
}

fn ephemeral(pod: &Pod) -> Vec<Container> {
    pod.spec.iter().flat_map(ephemeral_container::containers).collect()
}

/// Makes the volumes what the sources say now. Answers why the pod must wait, if it must.
async fn prepare<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    own: &mut Own,
    pod: &Arc<Pod>,
    engine: &Engine,
) -> Option<Waiting> {
    let links = pod.spec.as_ref().is_none_or(|spec| spec.enable_service_links != Some(false));
    if !agent.follow(&named(pod), links) {
        return Some(Waiting::creating());
    }
    let (sources, place) = (agent.sources(), agent.place(engine, None));
    let content = Content { pod, sources: &sources, place: &place };
    let claimed = match claimed_volumes::claimed(agent, pod, own.volumes.is_some()) {
        Ok(claimed) => claimed,
        Err(Missing::Unknown) => return Some(Waiting::creating()),
        Err(Missing::Fault(sentence)) => return Some(mount_fault(sentence)),
    };
    let plans = match volume_plan::volumes(content, &claimed, &agent.options.data_dir) {
        Ok(plans) => plans,
        Err(Missing::Unknown) => return Some(Waiting::creating()),
        Err(Missing::Fault(sentence)) => return Some(mount_fault(sentence)),
    };
    if own.volumes.as_ref() == Some(&plans) {
        // The pass tells it before the next one writes the files anew.
        if own.files.again(&plans).await && !own.report_only {
            own.volumes = None;
            own.rewrite = true;
        }
        return None;
    }
    let first = match claimed_volumes::take(agent, pod, engine, &claimed, &plans).await {
        Ok(first) => first,
        Err(sentence) => return Some(mount_fault(sentence)),
    };
    if !plans.is_empty() {
        let (wanted, home) = (plans.clone(), agent.options.data_dir.clone());
        let made = tokio::task::spawn_blocking(move || volume::prepare(&wanted, &home)).await;
        match made.expect("preparing volumes does not panic") {
            Ok(degraded) => {
                for sentence in degraded {
                    warn!(%sentence, "volume degraded");
                    agent.cluster.note(Note::warning(&**pod, COMPONENT, "Degraded", sentence));
                }
            }
            Err(error) => return Some(mount_fault(error.to_string())),
        }
    }
    if let Err(sentence) = claimed_volumes::give(agent, pod, &plans, &first).await {
        return Some(mount_fault(sentence));
    }
    own.files.written();
    own.volumes = Some(plans);
    None
}

/// Shown as Kubernetes shows it (`ContainerCreating`); the sentence goes into an Event.
fn mount_fault(sentence: String) -> Waiting {
    Waiting { reason: "ContainerCreating", message: Some(sentence) }
}

/// Tells the ledger; answers when to compare again although nothing happened.
fn compare<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    observed: &Observed,
    plan: &PodPlan,
) -> Option<Timestamp> {
    let causes: BTreeMap<String, String> = {
        let causes = lock(&agent.causes);
        let of = |i: &Instance| causes.get(&i.id).map(|cause| (i.id.clone(), cause.clone()));
        observed.instances.iter().filter_map(of).collect()
    };
    let ended_by_us = lock(&agent.ended_by_us);
    let memory = &observed.memory;
    let view = observed.view();
    let look = Look {
        view: &view,
        waiting: &plan.waiting,
        causes: &causes,
        by_us: &|id| {
            ended_by_us.contains(id) || memory.stopping.contains(id) || memory.removing.contains(id)
        },
    };
    let mut examined = drift::examine(look);
    examined.differences.extend(drift::copied(look, &observed.copies));
    drop(ended_by_us);
    let again = drift::look_again(&view, &examined);
    agent.compare(&[examined], false);
    again
}

/// Events for reasons to wait that are new.
fn tell<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    own: &mut Own,
    observed: &Observed,
    plan: &PodPlan,
) {
    let late = overdue(&observed.pod, observed.now);
    if late && !finished(&observed.pod, &observed.instances) && !own.told_overdue {
        own.told_overdue = true;
        let (pod, reason) = (&*observed.pod, "DeadlineExceeded");
        agent.cluster.note(Note::normal(pod, COMPONENT, reason, pod_status::OVERDUE));
    }
    for (container, waiting) in &plan.waiting {
        if own.told.get(container) == Some(waiting) {
            continue;
        }
        own.told.insert(container.clone(), waiting.clone());
        let Some(message) = waiting.message.clone() else { continue };
        let part = || field_path(&observed.pod, container);
        let warn = |reason, message: String| {
            let note = Note::warning(&*observed.pod, COMPONENT, reason, message);
            agent.cluster.note(note.of_part(part()));
        };
        match waiting.reason {
            "CrashLoopBackOff" => {
                let (key, uid) = (observed.pod.key(), observed.pod.uid());
                let pod = format!("{}_{}({uid})", key.name, key.namespace);
                let message =
                    format!("Back-off restarting failed container {container} in pod {pod}");
                warn("BackOff", message);
            }
            "ImagePullBackOff" => {
                // Why stands in the status and in the failed pull's own Event.
                let short = message.split_once(": ErrImagePull").map_or(&*message, |(it, _)| it);
                let note = Note::normal(&*observed.pod, COMPONENT, "BackOff", short.to_owned());
                agent.cluster.note(note.of_part(part()));
            }
            "ContainerCreating" => {
                let note = Note::warning(&*observed.pod, COMPONENT, "FailedMount", message);
                agent.cluster.note(note);
            }
            "InvalidImageName" => warn("InspectFailed", message),
            "ErrImageNeverPull" => warn("ErrImageNeverPull", message),
            // The others were told where they happened.
            _ => {}
        }
        let of_image =
            ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"];
        if of_image.contains(&waiting.reason) {
            warn("Failed", format!("Error: {}", waiting.reason));
        }
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
    let status = pod_status(&observed.view(), plan, agent.host_ip());
    // A pass may begin with our own earlier write not yet in the watch: compare with the newest.
    let newest = cell.pod();
    if newest.status.as_ref() == Some(&status) {
        return None;
    }
    let mut pod = (*newest).clone();
    pod.status = Some(status);
    match agent.cluster.update_status(&pod).await {
        Ok(stored) => {
            agent.options.metrics.reported(&newest, &stored, cell.since.elapsed());
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
            Some(Passed::Rest(Some(agent.clock.now() + SignedDuration::from_secs(1))))
        }
    }
}

/// Where a pod's volumes are.
pub fn directory<C: Cluster, R: Runtime>(agent: &Agent<C, R>, pod: &Pod) -> PathBuf {
    volume_plan::pod_directory(&agent.options.data_dir, pod)
}
