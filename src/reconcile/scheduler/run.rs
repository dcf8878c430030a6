//! The loop: watches in, bindings and reasons out. It decides nothing: what a pod is to us says
//! [`Standing`], where it goes [`place`], when it is tried the [`Queue`].

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::object::{
    ApiError, Change, Cluster, Kind, Note, Object, Scope, Severity, condition, reference,
    reference_to,
};
use crate::reconcile::engine::Beat;
use crate::reconcile::metrics::Metrics;
use crate::reconcile::scheduler::demand::{Demand, Standing};
use crate::reconcile::scheduler::filter::before_any;
use crate::reconcile::scheduler::placement::{Placement, place};
use crate::reconcile::scheduler::queue::{Cause, Needs, Queue};
use crate::reconcile::scheduler::sighting::{Cursed, Is, Observer, Read, Sighting};
use crate::reconcile::scheduler::snapshot::Snapshot;
use crate::reconcile::scheduler::storage::{Assignment, Storage};
use crate::reconcile::scheduler::volume_waits::{LONGEST_VOLUMES, WaitsForVolumes};
use crate::task::{Tasks, caught};

const COMPONENT: &str = "scheduler";
/// Bindings and reports under way at once: four group commits of 64 writers, so that the store's
/// writer always finds a full batch.
const IN_FLIGHT: usize = 256;
/// Pods placed before the watches are looked at again: some milliseconds.
const BATCH: usize = 64;
/// Changes taken from a watch before the next pods are placed.
const CHANGES: usize = 1024;
/// How often an idle scheduler says that it is alive.
const BEAT: Duration = Duration::from_secs(5);
/// Tries to write one condition when somebody else writes the same pod.
const REPORT_TRIES: usize = 3;

/// What the composition root may want otherwise.
#[derive(Clone)]
pub struct Options {
    /// Draws among equally good nodes; a simulation gives its own.
    pub seed: u64,
    /// "I completed a pass", called with the loop's name.
    pub beat: Beat,
    /// What it counts with.
    pub metrics: Metrics,
    /// How long a node may take to make a pod's volumes before another one is tried.
    pub volumes_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: rand::random(),
            beat: Arc::new(|_| {}),
            metrics: Metrics::default(),
            volumes_within: LONGEST_VOLUMES,
        }
    }
}

/// Starts the scheduler, until the stop signal.
pub fn run<C: Cluster>(cluster: C, clock: Clock, tasks: &Tasks) {
    run_with(cluster, Options::default(), clock, tasks);
}

/// As [`run`], with options.
pub fn run_with<C: Cluster>(cluster: C, options: Options, clock: Clock, tasks: &Tasks) {
    let (answers, outcomes) = mpsc::unbounded_channel();
    let scheduler = Scheduler {
        cluster,
        clock,
        tasks: tasks.clone(),
        random: StdRng::seed_from_u64(options.seed),
        beat: options.beat,
        metrics: options.metrics,
        volumes_within: options.volumes_within,
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        storage: Storage::default(),
        waits: HashMap::new(),
        start: 0,
        nodes_known: false,
        pods_known: false,
        storage_known: [false; 3],
        reports: VecDeque::new(),
        in_flight: 0,
        answers,
    };
    tasks.spawn("scheduler", scheduler.follow(outcomes));
}

pub(super) struct Scheduler<C> {
    pub(super) cluster: C,
    pub(super) clock: Clock,
    tasks: Tasks,
    random: StdRng,
    beat: Beat,
    metrics: Metrics,
    pub(super) volumes_within: Duration,
    pub(super) snapshot: Snapshot,
    pub(super) queue: Queue,
    pub(super) storage: Storage,
    /// Pods that have a node and wait for their volumes there, by uid.
    pub(super) waits: HashMap<Arc<str>, WaitsForVolumes>,
    /// Where the next search begins.
    start: usize,
    /// Whether the first whole state has arrived: before, nothing is placed.
    nodes_known: bool,
    pods_known: bool,
    /// Of claims, volumes and classes.
    storage_known: [bool; 3],
    reports: VecDeque<Report>,
    in_flight: usize,
    /// Unbounded, but never more than [`IN_FLIGHT`] are under way.
    answers: mpsc::UnboundedSender<Outcome>,
}

/// A reason that is to be written to a pod.
struct Report {
    demand: Arc<Demand>,
    message: Arc<str>,
}

/// What became of something that was done in the background.
struct Outcome {
    demand: Arc<Demand>,
    what: Effect,
    /// `None` when the task died: it may or may not have happened.
    result: Option<Result<(), ApiError>>,
}

#[derive(Clone)]
pub(super) enum Effect {
    Bind {
        node: String,
    },
    Report,
    /// What was chosen for the pod's claims is written.
    Assign {
        assignments: Vec<Assignment>,
    },
    /// What was chosen is taken back: the node does not make it.
    GiveUp,
}

/// Sends the outcome even when its task dies.
struct Answer {
    to: mpsc::UnboundedSender<Outcome>,
    outcome: Option<Outcome>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            // The receiver is gone only when the scheduler is.
            let _ = self.to.send(outcome);
        }
    }
}

impl<C: Cluster> Scheduler<C> {
    async fn follow(mut self, mut outcomes: mpsc::UnboundedReceiver<Outcome>) {
        let stop = self.tasks.stop().clone();
        let mut nodes = pin!(self.cluster.watch::<Node>(Scope::all()).fuse());
        // Nobody waits for it: only this task takes from the watch.
        let observer = Mutex::new(Observer::default());
        let see =
            move |pod: &Arc<Pod>| observer.lock().unwrap_or_else(PoisonError::into_inner).see(pod);
        let mut pods = pin!(self.cluster.watch_keeping(Scope::all(), see).fuse());
        let mut claims = pin!(self.cluster.watch::<PersistentVolumeClaim>(Scope::all()).fuse());
        let mut volumes = pin!(self.cluster.watch::<PersistentVolume>(Scope::all()).fuse());
        let mut classes = pin!(self.cluster.watch::<StorageClass>(Scope::all()).fuse());
        let mut beat_at = Instant::now();
        loop {
            let (busy, pause) = (self.is_busy(), self.pause());
            tokio::select! {
                biased;
                // All cancel safe: a stream's or channel's next takes nothing before it is ready,
                // and the rest only wait.
                () = stop.cancelled() => return,
                Some(change) = nodes.next() => self.see_nodes(change),
                Some(change) = claims.next() => self.see_claims(change),
                Some(change) = volumes.next() => self.see_volumes(change),
                Some(change) = classes.next() => self.see_classes(change),
                Some(change) = pods.next() => self.see_pods(change),
                Some(outcome) = outcomes.recv() => self.settle(outcome),
                () = tokio::task::yield_now(), if busy => {}
                () = tokio::time::sleep(pause), if !busy => {}
            }
            for _ in 0..CHANGES {
                let Some(Some(change)) = nodes.next().now_or_never() else { break };
                self.see_nodes(change);
            }
            for _ in 0..CHANGES {
                let Some(Some(change)) = pods.next().now_or_never() else { break };
                self.see_pods(change);
            }
            while let Ok(outcome) = outcomes.try_recv() {
                self.settle(outcome);
            }
            self.look_after_volumes();
            self.work();
            let active = self.queue.active();
            self.metrics.pending(active, self.queue.len() - active);
            if beat_at <= Instant::now() {
                (self.beat)("scheduler");
                beat_at = Instant::now() + BEAT / 2;
            }
        }
    }

    /// Whether every watch has told its whole state.
    pub(super) fn is_informed(&self) -> bool {
        self.nodes_known && self.pods_known && self.storage_known == [true; 3]
    }

    fn is_busy(&self) -> bool {
        self.is_informed()
            && self.in_flight < IN_FLIGHT
            && (self.queue.has_active() || !self.reports.is_empty())
    }

    /// Until the next pod is due, and never longer than a beat.
    fn pause(&self) -> Duration {
        let due = self.queue.next_due().map_or(BEAT, |due| {
            let left = due.duration_since(self.clock.now());
            // A millisecond more: timers round down, and being early costs another turn.
            Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1)
        });
        due.min(BEAT / 2)
    }

    fn see_nodes(&mut self, change: Change<Arc<Node>>) {
        let now = self.clock.now();
        match change {
            Change::Reset(nodes) => {
                let keys: Vec<String> = nodes.iter().map(|node| node.key().name).collect();
                self.snapshot.keep_nodes(&keys.iter().map(String::as_str).collect::<BTreeSet<_>>());
                for node in &nodes {
                    self.apply_node(node);
                }
                self.nodes_known = true;
                self.queue.wake(Cause::NodeChanged, now);
            }
            Change::Applied(node) => {
                if self.apply_node(&node) {
                    self.queue.wake(Cause::NodeChanged, now);
                }
            }
            // Parked pods count this node among those that refused them: their sentence changes.
            Change::Deleted(node) => {
                self.snapshot.forget_node(&node.key().name);
                self.queue.wake(Cause::NodeChanged, now);
            }
        }
    }

    /// Whether pods may fit that did not. On a node that makes us panic nothing is placed.
    fn apply_node(&mut self, node: &Node) -> bool {
        caught(|| self.snapshot.apply_node(node)).unwrap_or_else(|panic| {
            let name = node.key().name;
            error!(node = name, panic, "node quarantined: no pod is placed on it");
            self.snapshot.forget_node(&name);
            self.cluster.note(Note::quarantined(reference(node), COMPONENT, &panic, None));
            true
        })
    }

    fn see_claims(&mut self, change: Change<Arc<PersistentVolumeClaim>>) {
        self.storage.see_claims(change);
        self.storage_changed(0);
    }

    fn see_volumes(&mut self, change: Change<Arc<PersistentVolume>>) {
        self.storage.see_volumes(change);
        self.storage_changed(1);
    }

    fn see_classes(&mut self, change: Change<Arc<StorageClass>>) {
        self.storage.see_classes(change);
        self.storage_changed(2);
    }

    fn storage_changed(&mut self, which: usize) {
        self.storage_known[which] = true;
        self.queue.wake(Cause::StorageChanged, self.clock.now());
    }

    fn see_pods(&mut self, change: Change<Sighting>) {
        match change {
            Change::Reset(pods) => {
                let here: HashSet<&str> = pods.iter().map(|pod| &*pod.uid).collect();
                let known = self.queue.uids().chain(self.snapshot.charged());
                let gone: Vec<Arc<str>> =
                    known.filter(|uid| !here.contains(&***uid)).cloned().collect();
                for uid in gone {
                    self.forget(&uid);
                }
                for pod in pods {
                    self.see_pod(pod);
                }
                self.pods_known = true;
            }
            Change::Applied(pod) => self.see_pod(pod),
            Change::Deleted(pod) => self.forget(&pod.uid),
        }
    }

    fn see_pod(&mut self, Sighting { uid, is }: Sighting) {
        match is {
            Is::Bound { node, footprint } => {
                self.queue.remove(&uid);
                if self.snapshot.node_of(&uid) == Some(&*node) {
                    // What a bound pod asks cannot change: admission refuses it.
                    self.snapshot.confirm(&uid);
                } else if let Some(footprint) = self.readable(footprint) {
                    self.snapshot.charge(uid, &node, footprint, false);
                }
            }
            Is::Over => self.forget(&uid),
            // A pod whose binding is under way or answered still looks unbound for a moment.
            Is::Waits { .. } if self.snapshot.is_assumed(&uid) => {}
            Is::Waits { demand, reported } => {
                if let Some(demand) = self.readable(demand) {
                    self.queue.add(demand, reported.as_deref(), self.clock.now());
                }
            }
            Is::Aside => {
                self.queue.remove(&uid);
                if self.waits.remove(&uid).is_some() {
                    self.forget(&uid);
                }
            }
        }
    }

    /// `None`, and shown, when reading the pod panicked: it is not placed until it changes.
    fn readable<T>(&self, read: Read<T>) -> Option<T> {
        read.map_err(|cursed| {
            let Cursed { key, about, panic } = *cursed;
            error!(pod = %key, panic, "pod quarantined: it is not placed");
            self.cluster.note(Note::quarantined(about, COMPONENT, &panic, None));
        })
        .ok()
    }

    /// The pod takes nothing and wants nothing any more.
    fn forget(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.waits.remove(uid);
        if self.snapshot.release(uid) {
            self.queue.wake(Cause::PodLeft, self.clock.now());
        }
    }

    /// Places and reports as long as there is room for effects, one batch at most.
    fn work(&mut self) {
        for _ in 0..BATCH {
            if !self.is_informed() || self.in_flight >= IN_FLIGHT {
                return;
            }
            if let Some(demand) = self.queue.take(self.clock.now()) {
                self.place(demand);
            } else if let Some(report) = self.reports.pop_front() {
                self.report(report);
            } else {
                return;
            }
        }
    }

    fn place(&mut self, demand: Arc<Demand>) {
        let random = self.random.next_u64();
        let (snapshot, storage, start) = (&self.snapshot, &self.storage, self.start);
        let claims = &demand.template.footprint.claims;
        let wanted = match claims.is_empty() {
            true => None,
            false => match storage.wanted(claims, |claim| snapshot.is_used(claim)) {
                Ok(wanted) => Some(wanted),
                Err(why) => {
                    let message = before_any(snapshot.nodes().len(), &why);
                    self.metrics.attempted("unschedulable");
                    return self.park(demand, Needs::Nodes, message);
                }
            },
        };
        let of_claims = wanted.as_ref().map(|wanted| (storage, wanted));
        let decision = match caught(|| place(snapshot, &demand, of_claims, start, random)) {
            Ok(decision) => decision,
            Err(panic) => {
                error!(pod = %demand.key, panic, "pod quarantined: it is parked");
                self.metrics.attempted("error");
                let message = "the scheduler panicked on this pod and tries again in 5 minutes";
                self.park(demand, Needs::Nodes, message.to_owned());
                return;
            }
        };
        let assignments = match (&decision.placement, &wanted) {
            (Placement::Node { name, .. }, Some(wanted)) if wanted.waits() => {
                snapshot.node(name).and_then(|node| storage.assignments(wanted, node))
            }
            _ => None,
        };
        self.start = self.start.wrapping_add(decision.examined);
        match decision.placement {
            Placement::Node { name, feasible } => {
                debug!(pod = %demand.key, node = name, feasible, "pod placed");
                // Assumed before it is true: the next pod must not be promised the same room.
                let footprint = demand.template.footprint.clone();
                self.snapshot.charge(demand.uid.clone(), &name, footprint, true);
                match assignments {
                    Some(assignments) => self.wait_for_volumes(demand, name, assignments),
                    None => self.bind(demand, name),
                }
            }
            Placement::Unschedulable { message, refusals } => {
                let about_room = refusals.keys().any(|refusal| refusal.is_about_room());
                let needs = if about_room { Needs::Room } else { Needs::Nodes };
                self.metrics.attempted("unschedulable");
                self.give_up_gone_nodes(&demand);
                self.park(demand, needs, message);
            }
        }
    }

    fn park(&mut self, demand: Arc<Demand>, needs: Needs, message: String) {
        debug!(pod = %demand.key, message, "pod fits nowhere");
        self.queue.park(&demand.uid, needs, self.clock.now());
        if let Some(message) = self.queue.report(&demand.uid, &message) {
            self.reports.push_back(Report { demand, message });
        }
    }

    pub(super) fn bind(&mut self, demand: Arc<Demand>, node: String) {
        let cluster = self.cluster.clone();
        self.start_effect(demand, Effect::Bind { node: node.clone() }, async move |demand| {
            cluster.bind(&demand.key, &demand.uid, &node).await
        });
    }

    fn report(&mut self, report: Report) {
        let (cluster, clock) = (self.cluster.clone(), self.clock);
        self.start_effect(report.demand, Effect::Report, async move |demand| {
            write_reason(&cluster, &demand, &report.message, clock).await
        });
    }

    pub(super) fn start_effect<F>(
        &mut self,
        demand: Arc<Demand>,
        what: Effect,
        effect: impl FnOnce(Arc<Demand>) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), ApiError>> + Send,
    {
        self.in_flight += 1;
        let outcome = Outcome { demand: demand.clone(), what, result: None };
        let mut answer = Answer { to: self.answers.clone(), outcome: Some(outcome) };
        self.tasks.spawn_short("scheduler effect", async move {
            let result = effect(demand).await;
            if let Some(outcome) = &mut answer.outcome {
                outcome.result = Some(result);
            }
        });
    }

    fn settle(&mut self, outcome: Outcome) {
        self.in_flight -= 1;
        let demand = outcome.demand;
        match (outcome.what, outcome.result) {
            (Effect::Bind { node }, Some(Ok(()))) => {
                info!(pod = %demand.key, node, "pod bound");
                self.metrics.attempted("scheduled");
                self.queue.remove(&demand.uid);
                let message = format!("Successfully assigned {} to {node}", demand.key);
                self.cluster.note(note(&demand, Severity::Normal, "Scheduled", message));
            }
            (Effect::Bind { node }, failed) => {
                self.metrics.attempted("error");
                // What happened is not known for sure: the watch will show it. Until then the room
                // is given back and the pod is tried again, and a second binding is refused.
                if self.snapshot.is_assumed(&demand.uid) {
                    self.snapshot.release(&demand.uid);
                    self.queue.wake(Cause::PodLeft, self.clock.now());
                }
                self.queue.back_off(&demand.uid);
                match failed {
                    Some(Err(error)) if error.is_not_found() || error.is_conflict() => {
                        debug!(pod = %demand.key, node, %error, "pod is gone or bound already");
                    }
                    Some(Err(error)) => {
                        warn!(pod = %demand.key, node, %error, "binding a pod failed");
                        let message = format!("binding rejected: {error}");
                        let reason = "FailedScheduling";
                        self.cluster.note(note(&demand, Severity::Warning, reason, message));
                    }
                    _ => warn!(pod = %demand.key, node, "binding a pod died"),
                }
            }
            (Effect::Assign { assignments }, Some(Ok(()))) => {
                info!(pod = %demand.key, claims = assignments.len(), "volumes chosen");
                self.storage.confirm(&assignments);
            }
            (Effect::Assign { assignments }, failed) => {
                // What was written all the same is told by the watches; the pod is looked at again.
                self.storage.take_back(&assignments);
                if let Some(Err(error)) = failed {
                    debug!(pod = %demand.key, %error, "choosing volumes failed");
                }
            }
            (Effect::GiveUp, Some(Ok(()))) => {
                info!(pod = %demand.key, "the node of a volume is given up");
            }
            (Effect::GiveUp, failed) => {
                if let Some(Err(error)) = failed {
                    warn!(pod = %demand.key, %error, "giving up the node of a volume failed");
                }
            }
            (Effect::Report, Some(Ok(()))) => {}
            (Effect::Report, failed) => {
                self.queue.forget_report(&demand.uid);
                if let Some(Err(error)) = failed {
                    warn!(pod = %demand.key, %error, "reporting why a pod waits failed");
                }
            }
        }
    }
}

/// Writes `PodScheduled=False` and the Event, to this incarnation and only while it has no node.
async fn write_reason<C: Cluster>(
    cluster: &C,
    demand: &Demand,
    message: &str,
    clock: Clock,
) -> Result<(), ApiError> {
    let mut refused = None;
    for _ in 0..REPORT_TRIES {
        let stored = match cluster.get::<Pod>(&demand.key).await {
            Err(error) if error.is_not_found() => return Ok(()),
            stored => stored?,
        };
        if stored.uid() != &*demand.uid || Standing::of(&stored) != Standing::Waits {
            return Ok(());
        }
        let mut pod = Pod::clone(&stored);
        let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
        let unschedulable = PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("Unschedulable".to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(Time(clock.now())),
            observed_generation: stored.metadata.generation,
            ..PodCondition::default()
        };
        condition::set(conditions, unschedulable);
        match cluster.update_status(&pod).await {
            Err(error) if error.is_conflict() => refused = Some(error),
            written => {
                written?;
                let message = message.to_owned();
                cluster.note(note(demand, Severity::Warning, "FailedScheduling", message));
                return Ok(());
            }
        }
    }
    Err(refused.expect("the loop ends only after a conflict"))
}

pub(super) fn note(
    demand: &Demand,
    severity: Severity,
    reason: &'static str,
    message: String,
) -> Note {
    let about = reference_to(Kind::Pod, &demand.key, &demand.uid);
    Note { about, severity, reason, message, component: COMPONENT }
}
