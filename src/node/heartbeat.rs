//! Tells the cluster that this node lives and what it offers: the Node object and its Lease.
//!
//! The kubelet's numbers: Lease of 40 s renewed every 10 s; the status computed every 10 s, written
//! on change or every 5 min.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    Namespace, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::node::agent::{Agent, EngineState};
use crate::node::capacity::{Engine, allocatable, capacity};
use crate::node::care::CareSettings;
use crate::node::devices;
use crate::node::eviction::Pressure;
use crate::node::pod_status::time;
use crate::node::runtime::Runtime;
use crate::object::{ApiError, Cluster, Key, Object, condition};
use crate::task::caught_async;

const RENEW: Duration = Duration::from_secs(10);
/// After a write that met another one: the node life cycle answers each of ours with its taints.
const SOON: Duration = Duration::from_millis(100);
const LEASE_SECONDS: i32 = 40;
const REPORT: SignedDuration = SignedDuration::from_secs(300);
const LEASES: &str = "kube-node-lease";

/// Until the tasks stop. A beat that fails is tried again after a second.
pub async fn run<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    let mut engine = agent.engine.subscribe();
    let mut pressures = agent.pressures.subscribe();
    loop {
        let beaten = caught_async(beat(&agent)).await;
        let beaten =
            beaten.unwrap_or_else(|panic| Err(ApiError::internal(format!("panicked: {panic}"))));
        let rest = match beaten {
            Ok(told) => {
                (agent.options.beat)("node heartbeat");
                if told { RENEW } else { SOON }
            }
            Err(error) => {
                warn!(%error, "heartbeat not written");
                Duration::from_secs(1)
            }
        };
        // Cancel safe, all four. A change of the engine's state, or of pressure, is told at once.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            changed = engine.changed() => if changed.is_err() { return },
            changed = pressures.changed() => if changed.is_err() { return },
            () = sleep(rest) => {}
        }
    }
}

/// Answers whether the Node says what is so.
async fn beat<C: Cluster, R: Runtime>(agent: &Agent<C, R>) -> Result<bool, ApiError> {
    agent.look_for_address();
    let node = register(agent).await?;
    let state = agent.engine.borrow().clone();
    let disk = rustix::fs::statvfs(&agent.options.data_dir).ok();
    let disk_bytes = disk.map(|disk| disk.f_blocks * disk.f_frsize);
    let now = agent.clock.now();
    let gpus = match &state {
        EngineState::Ready(engine) => &*engine.gpus,
        _ => &[],
    };
    let devices = devices::offered(&agent.options.devices, gpus);
    let resources = devices::counted(&agent.options.resources, &devices);
    let seen = Seen {
        engine: state.clone(),
        host_ip: agent.host_ip(),
        node_name: &agent.options.node_name,
        host_ids: host_ids(),
        disk_bytes,
        resources: &resources,
        pressures: agent.pressures.borrow().clone(),
        care: &agent.options.care.settings,
    };
    let status = node_status(&node, &seen, now);
    let mut told = true;
    if knows_better(&seen.engine, node.status.as_ref())
        && is_news(node.status.as_ref(), &status, now)
    {
        let mut changed = (*node).clone();
        changed.status = Some(status);
        match agent.cluster.update_status(&changed).await {
            Ok(_) => {}
            // Somebody wrote the Node in between: the next beat sees it.
            Err(error) if error.is_conflict() => told = false,
            Err(error) => return Err(error),
        }
    }
    renew(agent, &node).await.map(|()| told)
}

/// A daemon that has just started has not asked the engine yet: what its predecessor said stands until
/// it has, or every restart would take the node from the scheduler.
fn knows_better(engine: &EngineState, stored: Option<&NodeStatus>) -> bool {
    let conditions = stored.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    *engine != EngineState::Unknown || condition::find(conditions, "Ready").is_none()
}

async fn register<C: Cluster, R: Runtime>(agent: &Agent<C, R>) -> Result<Arc<Node>, ApiError> {
    let options = &agent.options;
    let key = Key::cluster(&options.node_name);
    let architecture = agent.engine().map(|engine| engine.architecture.clone());
    let wanted = [
        ("kubernetes.io/hostname", Some(options.node_name.clone())),
        ("kubernetes.io/os", Some("linux".to_owned())),
        ("kubernetes.io/arch", architecture),
    ];
    let labels = wanted.into_iter().filter_map(|(label, value)| Some((label.to_owned(), value?)));
    let range = options.pod_range.to_string();
    let mut node = match agent.cluster.get::<Node>(&key).await {
        Ok(node) => (*node).clone(),
        Err(error) if error.is_not_found() => {
            let node = Node {
                metadata: ObjectMeta {
                    name: Some(options.node_name.clone()),
                    labels: Some(labels.collect()),
                    ..ObjectMeta::default()
                },
                spec: Some(NodeSpec {
                    pod_cidr: Some(range.clone()),
                    pod_cidrs: Some(vec![range]),
                    ..NodeSpec::default()
                }),
                ..Node::default()
            };
            info!(node = %options.node_name, "node registered");
            return agent.cluster.create(&node).await;
        }
        Err(error) => return Err(error),
    };
    let before = node.clone();
    node.metadata.labels.get_or_insert_default().extend(labels);
    let spec = node.spec.get_or_insert_default();
    spec.pod_cidrs = Some(vec![range.clone()]);
    spec.pod_cidr = Some(range);
    if node == before { Ok(Arc::new(node)) } else { agent.cluster.update(&node).await }
}

/// `(machine id, boot id)`
fn host_ids() -> (String, String) {
    let read = |path: &str| {
        std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    (read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"))
}

/// What a status is made of.
struct Seen<'a> {
    engine: EngineState,
    host_ip: Ipv4Addr,
    node_name: &'a str,
    /// Of the machine, and of this boot.
    host_ids: (String, String),
    disk_bytes: Option<u64>,
    resources: &'a BTreeMap<String, i64>,
    pressures: BTreeSet<Pressure>,
    care: &'a CareSettings,
}

/// Type, status, reason and message.
type Condition = (&'static str, &'static str, &'static str, String);

/// The kubelet's words.
fn pressure_conditions(under: &BTreeSet<Pressure>) -> [Condition; 3] {
    [
        (
            Pressure::Memory,
            "MemoryPressure",
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        (
            Pressure::Disk,
            "DiskPressure",
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        (
            Pressure::Pid,
            "PIDPressure",
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
    ]
    .map(|(pressure, kind, yes, no)| {
        let holds = under.contains(&pressure);
        let ((reason, message), status) = if holds { (yes, "True") } else { (no, "False") };
        (kind, status, reason, message.to_owned())
    })
}

/// Whether containers outlive the engine's daemon. What Kubernetes takes for granted of a runtime is a
/// setting of Docker's.
fn live_restore(engine: &Engine) -> Condition {
    if engine.live_restore {
        let message = "containers run on while dockerd is stopped or restarted".to_owned();
        return ("LiveRestore", "True", "LiveRestoreEnabled", message);
    }
    let message = "every container stops when dockerd stops or crashes: write \"live-restore\": true into /etc/docker/daemon.json and run `systemctl reload docker` (an engine in swarm mode cannot have it)";
    ("LiveRestore", "False", "LiveRestoreDisabled", message.to_owned())
}

fn node_status(node: &Node, seen: &Seen<'_>, now: Timestamp) -> NodeStatus {
    let (machine_id, boot_id) = &seen.host_ids;
    let mut status = node.status.clone().unwrap_or_default();
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    status.addresses = Some(vec![
        address("InternalIP", seen.host_ip.to_string()),
        address("Hostname", seen.node_name.to_owned()),
    ]);
    let mut told: Vec<Condition> = pressure_conditions(&seen.pressures).into();
    let ready: Condition = match &seen.engine {
        EngineState::Ready(engine) => {
            told.push(live_restore(engine));
            let offered = capacity(engine, seen.disk_bytes, seen.resources);
            status.allocatable = Some(allocatable(&offered, seen.care));
            status.capacity = Some(offered);
            status.node_info = Some(NodeSystemInfo {
                machine_id: machine_id.clone(),
                system_uuid: machine_id.clone(),
                boot_id: boot_id.clone(),
                kernel_version: engine.kernel.clone(),
                os_image: engine.os_image.clone(),
                container_runtime_version: format!("docker://{}", engine.version),
                kubelet_version: concat!("v1.36.0+ballast-", env!("CARGO_PKG_VERSION")).to_owned(),
                kube_proxy_version: concat!("v1.36.0+ballast-", env!("CARGO_PKG_VERSION"))
                    .to_owned(),
                operating_system: "linux".to_owned(),
                architecture: engine.architecture.clone(),
                swap: None,
            });
            ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned())
        }
        EngineState::Away(why) => {
            let message = format!("container runtime is down: {why}");
            ("Ready", "False", "KubeletNotReady", message)
        }
        EngineState::Unknown => {
            let message = "container runtime status check may not have completed yet";
            ("Ready", "False", "KubeletNotReady", message.to_owned())
        }
    };
    told.push(ready);
    let conditions = status.conditions.get_or_insert_default();
    for (kind, status, reason, message) in told {
        let new = NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(time(now)),
            last_transition_time: Some(time(now)),
        };
        condition::set(conditions, new);
    }
    status
}

/// Whether anything but the heartbeat times differs, or the last write is old.
fn is_news(stored: Option<&NodeStatus>, new: &NodeStatus, now: Timestamp) -> bool {
    let Some(stored) = stored else { return true };
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    let heartbeat = stored
        .conditions
        .iter()
        .flatten()
        .filter_map(|condition| condition.last_heartbeat_time.as_ref())
        .map(|time| time.0)
        .max();
    timeless(stored) != timeless(new) || heartbeat.is_none_or(|at| now.duration_since(at) >= REPORT)
}

async fn renew<C: Cluster, R: Runtime>(agent: &Agent<C, R>, node: &Node) -> Result<(), ApiError> {
    let key = Key::new(LEASES, &agent.options.node_name);
    // Microseconds, as the kind's times have them.
    let now = agent.clock.now();
    let now = MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now));
    let spec = LeaseSpec {
        holder_identity: Some(agent.options.node_name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(now),
        ..LeaseSpec::default()
    };
    match agent.cluster.get::<Lease>(&key).await {
        Ok(stored) => {
            let mut lease = (*stored).clone();
            lease.spec = Some(spec);
            match agent.cluster.update(&lease).await {
                Err(error) if !error.is_conflict() => Err(error),
                _ => Ok(()),
            }
        }
        Err(error) if error.is_not_found() => {
            let owner = OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: agent.options.node_name.clone(),
                uid: node.uid().to_owned(),
                ..OwnerReference::default()
            };
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(key.name.clone()),
                    namespace: Some(key.namespace.clone()),
                    owner_references: Some(vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: Some(spec),
            };
            match agent.cluster.create(&lease).await {
                Err(error) if error.is_not_found() => make_namespace(agent).await,
                Err(error) if error.is_already_exists() => Ok(()),
                other => other.map(|_| ()),
            }
        }
        Err(error) => Err(error),
    }
}

/// The Lease itself follows with the next beat.
async fn make_namespace<C: Cluster, R: Runtime>(agent: &Agent<C, R>) -> Result<(), ApiError> {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(LEASES.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    match agent.cluster.create(&namespace).await {
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(ApiError::internal("the namespace of leases was just made")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_away_makes_the_node_unready_and_keeps_what_it_offered() {
        let (ids, care) = ((String::new(), String::new()), CareSettings::default());
        let none = BTreeMap::new();
        let seen = |engine: &EngineState| Seen {
            engine: engine.clone(),
            host_ip: Ipv4Addr::new(192, 0, 2, 2),
            node_name: "n1",
            host_ids: ids.clone(),
            disk_bytes: None,
            resources: &none,
            pressures: BTreeSet::new(),
            care: &care,
        };
        let at = |second| Timestamp::from_second(second).expect("a time");
        let engine = Engine { cpus: 2, memory: 1 << 30, ..Engine::default() };
        let mut node = Node::default();
        let up = EngineState::Ready(Arc::new(engine));
        let first = node_status(&node, &seen(&up), at(100));
        assert!(is_news(None, &first, at(100)));
        let (starting, never) = (EngineState::Unknown, NodeStatus::default());
        assert!(!knows_better(&starting, Some(&first)) && knows_better(&starting, Some(&never)));
        assert!(knows_better(&up, Some(&first)) && knows_better(&starting, None));
        node.status = Some(first.clone());
        let same = node_status(&node, &seen(&up), at(110));
        assert!(!is_news(Some(&first), &same, at(110)));
        assert!(is_news(Some(&first), &same, at(401)));

        let away = EngineState::Away("no socket".into());
        let down = node_status(&node, &seen(&away), at(120));
        assert!(is_news(Some(&first), &down, at(120)));
        assert_eq!(down.capacity, first.capacity);
        let ready = condition::find(down.conditions.as_deref().unwrap_or_default(), "Ready");
        let ready = ready.expect("the condition");
        let message = Some("container runtime is down: no socket");
        assert_eq!((&*ready.status, ready.message.as_deref()), ("False", message));
        assert_eq!(ready.last_transition_time, Some(time(at(120))));
        let list = down.conditions.as_deref().unwrap_or_default();
        let restores = condition::find(list, "LiveRestore").expect("what was known stays");
        assert_eq!(restores.status, "False");
        assert!(
            restores.message.as_ref().is_some_and(|text| text.contains("\"live-restore\": true"))
        );

        let pressed = Seen { pressures: [Pressure::Disk].into(), ..seen(&up) };
        let pressed = node_status(&node, &pressed, at(130));
        let list = pressed.conditions.as_deref().unwrap_or_default();
        let disk = condition::find(list, "DiskPressure").expect("the condition");
        assert_eq!(
            (&*disk.status, disk.reason.as_deref()),
            ("True", Some("KubeletHasDiskPressure"))
        );
    }
}
