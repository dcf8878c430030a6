//! The loop: three watches in, writes out. It decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::object::{
    ApiError, Change, Cluster, DeleteOptions, Key, Kind, Note, Object, Patch, Scope, condition,
    reference_to,
};
use crate::reconcile::metrics::{Ended, Vitals};
use crate::reconcile::node_lifecycle::eviction::{self, PodFacts, PodStep, Shared};
use crate::reconcile::node_lifecycle::heartbeat::{Memory, NodeFacts, Settings};
use crate::reconcile::node_lifecycle::pod_gc::{self, Missing, Removal};
use crate::reconcile::node_lifecycle::verdict::{self, Health, Step};
use crate::reconcile::quarantine::Quarantine;
use crate::task::{Tasks, caught, caught_async};

const LOOP: &str = "node lifecycle";
const COMPONENT: &str = "node-lifecycle";
/// Where node agents renew their Leases.
const LEASES: &str = "kube-node-lease";
/// A pass at least this often (upstream 5 s; ours is a fifth, for a fifth of the grace).
const PERIOD: Duration = Duration::from_secs(1);
/// After a write or a refused one: look at what became of it.
const SOON: Duration = Duration::from_millis(100);
/// Pods are searched for leftovers this often (`podgc`: 20 s).
const POD_GC_PERIOD: Duration = Duration::from_secs(20);
/// Writes under way at once.
const IN_FLIGHT: usize = 32;
/// Changes taken from a watch before the next pass.
const CHANGES: usize = 4096;

/// Starts the loop, until the stop signal.
pub fn run<C: Cluster>(
    cluster: C,
    settings: Settings,
    vitals: Vitals,
    clock: Clock,
    tasks: &Tasks,
) {
    let stop = tasks.stop().clone();
    vitals.metrics.follow(LOOP);
    let lifecycle = Lifecycle {
        cluster,
        settings,
        clock,
        nodes: BTreeMap::new(),
        leases: BTreeMap::new(),
        pods: BTreeMap::new(),
        known: Known::default(),
        memory: Memory::default(),
        missing: Missing::new(),
        pod_gc_at: Instant::now(),
        quarantine: Quarantine::default(),
    };
    tasks.spawn(LOOP, async move {
        // Cancel safe: every write carries its preconditions and the next start looks anew.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = lifecycle.follow(vitals) => {}
        }
    });
}

/// A node's name and its Lease's renewTime.
type Renewal = (String, Option<Timestamp>);

fn renewal(lease: &Arc<Lease>) -> Renewal {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
    (lease.key().name, renewed.map(|time| time.0))
}

/// Which watches have told their first whole state: before, nobody is judged.
#[derive(Default)]
struct Known {
    nodes: bool,
    leases: bool,
    pods: bool,
}

struct Lifecycle<C> {
    cluster: C,
    settings: Settings,
    clock: Clock,
    nodes: BTreeMap<String, NodeFacts>,
    /// Node name to the Lease's renewTime.
    leases: BTreeMap<String, Option<Timestamp>>,
    /// By node name, then by uid; the empty name holds pods without a node.
    pods: BTreeMap<Arc<str>, BTreeMap<Arc<str>, PodFacts>>,
    known: Known,
    memory: Memory,
    missing: Missing,
    pod_gc_at: Instant,
    quarantine: Quarantine,
}

impl<C: Cluster> Lifecycle<C> {
    async fn follow(mut self, vitals: Vitals) {
        let all = Scope::all;
        let nodes = self.cluster.watch_keeping(all(), |node: &Arc<Node>| facts(node));
        let leases = self.cluster.watch_keeping(Scope::namespace(LEASES), renewal);
        // Nobody waits for it: only this task takes from the watch.
        let shared = Mutex::new(Shared::default());
        let pods = self.cluster.watch_keeping(all(), move |pod: &Arc<Pod>| {
            PodFacts::of(pod, &mut shared.lock().unwrap_or_else(PoisonError::into_inner))
        });
        let (mut nodes, mut leases, mut pods) =
            (pin!(nodes.fuse()), pin!(leases.fuse()), pin!(pods.fuse()));
        let mut pass_at = Instant::now();
        loop {
            // All cancel safe: a stream's next takes nothing before it is ready.
            tokio::select! {
                biased;
                Some(change) = nodes.next() => {
                    self.see_nodes(change);
                    pass_at = pass_at.min(Instant::now() + SOON);
                }
                Some(change) = leases.next() => self.see_leases(change),
                Some(change) = pods.next() => self.see_pods(change),
                () = tokio::time::sleep_until(pass_at) => {}
            }
            for _ in 0..CHANGES {
                let Some(Some(change)) = pods.next().now_or_never() else { break };
                self.see_pods(change);
            }
            if !(self.known.nodes && self.known.leases && self.known.pods) {
                pass_at = Instant::now() + PERIOD;
                continue;
            }
            if pass_at <= Instant::now() {
                let begun = Instant::now();
                let (ended, pause) = self.pass().await;
                vitals.metrics.reconciled(LOOP, ended, begun.elapsed());
                vitals.metrics.quarantined(LOOP, self.quarantine.held());
                vitals.beat(LOOP);
                pass_at = Instant::now() + pause;
            }
        }
    }

    fn see_nodes(&mut self, change: Change<NodeFacts>) {
        match change {
            Change::Reset(nodes) => {
                self.nodes = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
                self.known.nodes = true;
            }
            Change::Applied(node) => {
                self.nodes.insert(node.name.clone(), node);
            }
            Change::Deleted(node) => {
                self.nodes.remove(&node.name);
            }
        }
    }

    fn see_leases(&mut self, change: Change<Renewal>) {
        match change {
            Change::Reset(leases) => {
                self.leases = leases.into_iter().collect();
                self.known.leases = true;
            }
            Change::Applied((node, renewed)) => {
                self.leases.insert(node, renewed);
            }
            Change::Deleted((node, _)) => {
                self.leases.remove(&node);
            }
        }
    }

    fn see_pods(&mut self, change: Change<PodFacts>) {
        match change {
            Change::Reset(pods) => {
                self.pods.clear();
                pods.into_iter().for_each(|pod| self.take_pod(pod));
                self.known.pods = true;
            }
            Change::Applied(pod) => self.take_pod(pod),
            Change::Deleted(pod) => self.drop_pod(&pod.node, &pod.uid),
        }
    }

    fn take_pod(&mut self, pod: PodFacts) {
        if !pod.node.is_empty() {
            // It may have been without a node until now; from one node to another none goes.
            self.drop_pod("", &pod.uid);
        }
        self.pods.entry(pod.node.clone()).or_default().insert(pod.uid.clone(), pod);
    }

    fn drop_pod(&mut self, node: &str, uid: &str) {
        if let Some(pods) = self.pods.get_mut(node) {
            pods.remove(uid);
            if pods.is_empty() {
                self.pods.remove(node);
            }
        }
    }

    /// One pass; answers how it ended, and how long the next one may wait.
    async fn pass(&mut self) -> (Ended, Duration) {
        let now = self.clock.now();
        for node in self.nodes.values_mut() {
            node.lease_renewed = self.leases.get(&node.name).copied().flatten();
        }
        let nodes: Vec<NodeFacts> = self.nodes.values().cloned().collect();
        self.memory = std::mem::take(&mut self.memory).listen(&nodes, &self.settings, now);
        let healths: Vec<Health> = nodes
            .iter()
            .map(|node| verdict::health(node, &self.memory, &self.settings, now))
            .collect();
        let disrupted = verdict::is_disrupted(&healths);
        let (mut node_steps, mut pod_steps, mut pause) = (Vec::new(), Vec::new(), PERIOD);
        let mut ended = Ended::Done;
        for (node, health) in nodes.iter().zip(healths) {
            let decided = caught(|| {
                let here = self.pods.get(node.name.as_str()).into_iter().flat_map(BTreeMap::values);
                let pods = eviction::plan(node, health, disrupted, here, &self.memory, now);
                (verdict::plan(node, health, disrupted, now), pods)
            });
            let (steps, (evictions, again)) = match decided {
                Ok(decided) => decided,
                Err(panic) => {
                    self.set_aside(vec![(node_reference(node), panic)]);
                    ended = Ended::Panicked;
                    continue;
                }
            };
            node_steps.extend(steps.into_iter().map(|step| (node.clone(), step)));
            pod_steps.extend(evictions);
            if let Some(again) = again {
                let left = Duration::try_from(again.duration_since(now)).unwrap_or_default();
                pause = pause.min(left + Duration::from_millis(1));
            }
        }
        let mut removals = self.removals(now);
        node_steps.retain(|(node, _)| !self.quarantine.holds(&node.uid));
        pod_steps.retain(|step| !self.quarantine.holds(step.uid()));
        removals.retain(|removal| !self.quarantine.holds(&removal.uid));
        let idle = node_steps.is_empty() && pod_steps.is_empty() && removals.is_empty();
        let performed = self.perform(node_steps, pod_steps, removals).await;
        let sound = !performed.failed && performed.panics.is_empty();
        if !performed.panics.is_empty() {
            ended = Ended::Panicked;
        } else if performed.failed && ended == Ended::Done {
            ended = Ended::Failed;
        }
        self.set_aside(performed.panics);
        // What was written is looked at soon; what cannot be written is not hammered at.
        let pause = match (idle, sound) {
            (true, _) => pause,
            (false, true) => SOON,
            (false, false) => PERIOD,
        };
        (ended, pause)
    }

    fn removals(&mut self, now: Timestamp) -> Vec<Removal> {
        if self.pod_gc_at > Instant::now() {
            return Vec::new();
        }
        self.pod_gc_at = Instant::now() + POD_GC_PERIOD;
        let names: BTreeSet<&str> = self.nodes.keys().map(String::as_str).collect();
        let pods = self.pods.values().flat_map(BTreeMap::values);
        let (removals, missing) = pod_gc::plan(pods, &names, &self.missing, &self.settings, now);
        self.missing = missing;
        removals
    }

    fn set_aside(&mut self, panics: Vec<(ObjectReference, String)>) {
        for (about, panic) in panics {
            self.quarantine.set_aside(&self.cluster, about, COMPONENT, &panic);
        }
    }

    async fn perform(
        &self,
        nodes: Vec<(NodeFacts, Step)>,
        pods: Vec<PodStep>,
        removals: Vec<Removal>,
    ) -> Performed {
        let mut performed = Performed::default();
        // Conditions and taints of one node one after the other: both carry its resourceVersion,
        // so the second is refused and comes with the next pass.
        for (node, step) in &nodes {
            let done = caught_async(change_node(&self.cluster, node, step)).await;
            performed.take((node_reference(node), done));
        }
        let changes = stream::iter(pods).map(|step| async move {
            let done = caught_async(change_pod(&self.cluster, &step, self.clock)).await;
            (reference_to(Kind::Pod, step.key(), step.uid()), done)
        });
        let changes = changes.buffer_unordered(IN_FLIGHT);
        let removals = stream::iter(removals).map(|removal| async move {
            let done = caught_async(remove(&self.cluster, &removal)).await;
            (reference_to(Kind::Pod, &removal.key, &removal.uid), done)
        });
        let mut all = pin!(changes.chain(removals.buffer_unordered(IN_FLIGHT)));
        while let Some(done) = all.next().await {
            performed.take(done);
        }
        performed
    }
}

/// What became of a pass's writes.
#[derive(Default)]
struct Performed {
    /// A write failed for another reason than that its object had changed.
    failed: bool,
    panics: Vec<(ObjectReference, String)>,
}

impl Performed {
    /// A write refused because its object changed needs nothing: the next pass decides anew.
    fn take(&mut self, (about, done): (ObjectReference, Result<Result<(), ApiError>, String>)) {
        let (kind, name) = (about.kind.as_deref(), about.name.as_deref());
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_conflict() || error.is_not_found() => {
                debug!(kind, name, %error, "object changed meanwhile");
            }
            Ok(Err(error)) => {
                warn!(kind, name, %error, "changing an object failed");
                self.failed = true;
            }
            Err(panic) => self.panics.push((about, panic)),
        }
    }
}

fn node_reference(node: &NodeFacts) -> ObjectReference {
    reference_to(Kind::Node, &Key::cluster(node.name.as_str()), &node.uid)
}

fn facts(node: &Node) -> NodeFacts {
    let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
    NodeFacts {
        name: node.key().name,
        uid: node.uid().to_owned(),
        resource_version: node.metadata.resource_version.clone(),
        unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
        taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
        conditions: status.and_then(|status| status.conditions.clone()).unwrap_or_default(),
        lease_renewed: None,
    }
}

async fn change_node<C: Cluster>(
    cluster: &C,
    node: &NodeFacts,
    step: &Step,
) -> Result<(), ApiError> {
    let key = Key::cluster(node.name.clone());
    let metadata = json!({"uid": node.uid, "resourceVersion": node.resource_version});
    match step {
        Step::SetConditions { conditions, reason } => {
            let patch = json!({"metadata": metadata, "status": {"conditions": conditions}});
            let node = cluster.patch_status::<Node>(&key, &Patch::Merge(patch)).await?;
            info!(node = %key, reason, "node is lost");
            let message = format!("Node {key} status is now: NodeNotReady");
            cluster.note(Note::warning(&*node, COMPONENT, "NodeNotReady", message));
        }
        Step::SetTaints { taints, reason } => {
            let patch = json!({"metadata": metadata, "spec": {"taints": taints}});
            cluster.patch::<Node>(&key, &Patch::Merge(patch)).await?;
            let shown = taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect));
            let taints = shown.collect::<Vec<_>>().join(", ");
            info!(node = %key, reason, taints, "node's taints changed");
        }
    }
    Ok(())
}

async fn change_pod<C: Cluster>(cluster: &C, step: &PodStep, clock: Clock) -> Result<(), ApiError> {
    match step {
        PodStep::MarkNotReady { key, uid } => {
            let mut pod = Pod::clone(&*cluster.get::<Pod>(key).await?);
            let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
            if pod.metadata.uid.as_deref() != Some(&**uid)
                || !condition::is_true(conditions, "Ready")
            {
                return Ok(());
            }
            let not_ready = PodCondition {
                type_: "Ready".to_owned(),
                status: "False".to_owned(),
                last_transition_time: Some(Time(clock.now())),
                reason: Some("NodeNotReady".to_owned()),
                ..PodCondition::default()
            };
            condition::set(conditions, not_ready);
            let pod = cluster.update_status(&pod).await?;
            info!(pod = %key, "pod is not ready: its node is lost");
            let message = "Node is not ready";
            cluster.note(Note::warning(&*pod, COMPONENT, "NodeNotReady", message));
        }
        PodStep::Evict { key, uid, taint } => {
            let pod = cluster.get::<Pod>(key).await?;
            let options = DeleteOptions { uid: Some(uid.to_string()), ..DeleteOptions::default() };
            cluster.delete::<Pod>(key, &options).await?;
            info!(pod = %key, taint, "pod evicted");
            let message = format!("Marking for deletion Pod {key}");
            cluster.note(Note::normal(&*pod, COMPONENT, "TaintManagerEviction", message));
        }
    }
    Ok(())
}

async fn remove<C: Cluster>(cluster: &C, removal: &Removal) -> Result<(), ApiError> {
    if let Some(node) = &removal.unless_node {
        match cluster.get::<Node>(&Key::cluster(&**node)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let options = DeleteOptions {
        uid: Some(removal.uid.to_string()),
        grace_seconds: Some(0),
        ..DeleteOptions::default()
    };
    cluster.delete::<Pod>(&removal.key, &options).await?;
    info!(pod = %removal.key, reason = removal.reason, "pod removed");
    Ok(())
}
