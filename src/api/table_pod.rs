//! Pure: a pod's row, whose STATUS column people read before anything else (kubernetes `printPod`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};
use serde_json::{Value, json};

use super::table_cells::{Tabular, age, name, or_none};
use crate::object::condition;

/// What the containers' states add up to.
#[derive(Debug, Default)]
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i32,
    /// When the last container ended before it was restarted.
    last_restart: Option<Timestamp>,
}

impl Tabular for Pod {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let unknown = PodStatus::default();
        let status = self.status.as_ref().unwrap_or(&unknown);
        let summary = summarise(self, status);
        let restarts = match summary.last_restart.filter(|_| summary.restarts > 0) {
            Some(at) => {
                format!("{} ({} ago)", summary.restarts, crate::object::age::human_age(at, now))
            }
            None => summary.restarts.to_string(),
        };
        let address = status
            .pod_ips
            .iter()
            .flatten()
            .map(|entry| entry.ip.as_str())
            .next()
            .or(status.pod_ip.as_deref());
        let gates =
            self.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref()).map(|gates| {
                let conditions = status.conditions.as_deref().unwrap_or_default();
                let met = gates
                    .iter()
                    .filter(|gate| condition::is_true(conditions, &gate.condition_type))
                    .count();
                format!("{met}/{}", gates.len())
            });
        vec![
            name(&self.metadata),
            json!(format!("{}/{}", summary.ready, summary.total)),
            json!(summary.reason),
            json!(restarts),
            age(&self.metadata, now),
            json!(or_none(address)),
            json!(or_none(self.spec.as_ref().and_then(|spec| spec.node_name.as_deref()))),
            json!(or_none(status.nominated_node_name.as_deref())),
            json!(or_none(gates.as_deref())),
        ]
    }
}

fn summarise(pod: &Pod, status: &PodStatus) -> Summary {
    let spec = pod.spec.as_ref();
    let mut summary = Summary {
        reason: status
            .reason
            .clone()
            .filter(|reason| !reason.is_empty())
            .or_else(|| status.phase.clone())
            .unwrap_or_default(),
        total: spec.map_or(0, |spec| {
            let init = spec.init_containers.iter().flatten();
            spec.containers.len() + init.filter(|one| is_sidecar(one)).count()
        }),
        ..Summary::default()
    };
    let scheduling_gated = status.conditions.iter().flatten().any(|known| {
        known.type_ == "PodScheduled" && known.reason.as_deref() == Some("SchedulingGated")
    });
    if scheduling_gated {
        summary.reason = "SchedulingGated".to_owned();
    }
    let init = spec.and_then(|spec| spec.init_containers.as_deref());
    let init = init.unwrap_or_default();
    // A sidecar that restarts, or that has ended with its pod, is in nobody's way any more.
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let blocked = read_init(init, status, &mut summary);
    if !blocked || condition::is_true(conditions, "Initialized") {
        read_containers(init, status, &mut summary);
    }
    let deleted = pod.metadata.deletion_timestamp.is_some();
    if deleted && status.reason.as_deref() == Some("NodeLost") {
        summary.reason = "Unknown".to_owned();
    } else if deleted && !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        summary.reason = "Terminating".to_owned();
    }
    summary
}

/// It runs beside the pod's own containers.
fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// Whether an init container is still in the way; then it names the pod's state.
fn read_init(wanted: &[Container], status: &PodStatus, summary: &mut Summary) -> bool {
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        count_restarts(container, summary);
        let stays = wanted.iter().any(|one| one.name == container.name && is_sidecar(one));
        if stays && container.started == Some(true) {
            summary.ready += usize::from(container.ready);
            continue;
        }
        let state = container.state.as_ref();
        if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
            if ended.exit_code == 0 {
                continue;
            }
            summary.reason = match ended.reason.as_deref().filter(|reason| !reason.is_empty()) {
                Some(reason) => format!("Init:{reason}"),
                None => ended.signal.filter(|signal| *signal != 0).map_or_else(
                    || format!("Init:ExitCode:{}", ended.exit_code),
                    |signal| format!("Init:Signal:{signal}"),
                ),
            };
            return true;
        }
        let waiting = state
            .and_then(|state| state.waiting.as_ref()?.reason.as_deref())
            .filter(|reason| !reason.is_empty() && *reason != "PodInitializing");
        summary.reason = waiting.map_or_else(
            || format!("Init:{index}/{}", wanted.len()),
            |reason| format!("Init:{reason}"),
        );
        return true;
    }
    false
}

fn read_containers(init: &[Container], status: &PodStatus, summary: &mut Summary) {
    summary.restarts = 0;
    summary.last_restart = None;
    for container in status.init_container_statuses.iter().flatten() {
        if init.iter().any(|one| one.name == container.name && is_sidecar(one)) {
            count_restarts(container, summary);
        }
    }
    let mut has_running = false;
    for container in status.container_statuses.iter().flatten().rev() {
        count_restarts(container, summary);
        let state = container.state.as_ref();
        let waiting = state.and_then(|state| state.waiting.as_ref()?.reason.as_deref());
        if let Some(reason) = waiting.filter(|reason| !reason.is_empty()) {
            summary.reason = reason.to_owned();
        } else if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
            summary.reason = match ended.reason.as_deref().filter(|reason| !reason.is_empty()) {
                Some(reason) => reason.to_owned(),
                None => ended.signal.filter(|signal| *signal != 0).map_or_else(
                    || format!("ExitCode:{}", ended.exit_code),
                    |signal| format!("Signal:{signal}"),
                ),
            };
        } else if container.ready && state.is_some_and(|state| state.running.is_some()) {
            has_running = true;
            summary.ready += 1;
        }
    }
    // A finished container beside a running one does not make the pod finished.
    if summary.reason == "Completed" && has_running {
        let ready = condition::is_true(status.conditions.as_deref().unwrap_or_default(), "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn count_restarts(container: &ContainerStatus, summary: &mut Summary) {
    summary.restarts += container.restart_count;
    let ended = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref())
        .and_then(|ended| ended.finished_at.as_ref());
    summary.last_restart = summary.last_restart.max(ended.map(|time| time.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pod: serde_json::Value) -> Vec<String> {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let now = "2026-01-01T00:10:00Z".parse().expect("a time");
        pod.cells(now).iter().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn a_crashing_container_names_the_pods_status() {
        let cells = row(
            json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}}}]}}),
        );
        assert_eq!(cells[..5], ["p", "0/1", "CrashLoopBackOff", "3 (5m ago)", "10m"]);
    }

    #[test]
    fn init_containers_and_deletion_come_first() {
        let cells = row(
            json!({"metadata": {"name": "p"}, "spec": {"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "c"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
                {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}}}]}}),
        );
        assert_eq!(cells[1..4], ["0/1", "Init:1/2", "0"]);
        let cells = row(
            json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": []}, "status": {"phase": "Running"}}),
        );
        assert_eq!(cells[2], "Terminating");
        assert_eq!(
            crate::api::table_cells::ago(None, "2026-01-01T00:00:00Z".parse().expect("a time")),
            "<unknown>"
        );
    }
}
