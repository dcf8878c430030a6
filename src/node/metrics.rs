//! What the node agent tells about itself on `/metrics`, as `ballast_node_…`. Names follow the
//! kubelet's where it counts the same.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::measure::{Counters, Timers, at_zero, label, quick, quick_timers, result, slow};
use crate::node::runtime::RuntimeError;

/// Counted whether or not anybody registered them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pod_start: Histogram,
    restarts: Counter,
    sandboxes: Counters<1>,
    spares: Gauge,
    pulls: Counters<1>,
    pull: Histogram,
    operations: Counters<2>,
    operation_seconds: Timers<1>,
    relist: Histogram,
    volumes: Counters<2>,
    leftover_volumes: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let pulls = Counters::default();
        at_zero(&pulls, "result", &["ok", "failed"]);
        let sandboxes = Counters::default();
        let volumes: Counters<2> = Counters::default();
        for operation in ["provision", "delete"] {
            for result in ["ok", "failed"] {
                drop(
                    volumes
                        .get_or_create(&[label("operation", operation), label("result", result)]),
                );
            }
        }
        at_zero(&sandboxes, "result", &["spare", "none_left", "not_plain", "off"]);
        Self {
            pod_start: slow(),
            restarts: Counter::default(),
            sandboxes,
            spares: Gauge::default(),
            pulls,
            pull: slow(),
            operations: Counters::default(),
            operation_seconds: quick_timers(),
            relist: quick(),
            volumes,
            leftover_volumes: Gauge::default(),
        }
    }
}

impl Metrics {
    /// A pod's status was written; `since` the agent first saw the pod. The first time that it runs is
    /// its start (the kubelet's `pod_start_duration_seconds`).
    pub(super) fn reported(&self, before: &Pod, after: &Pod, since: Duration) {
        if !is_running(before) && is_running(after) {
            self.pod_start.observe(since.as_secs_f64());
        }
    }

    /// A pod's container was made once more.
    pub(super) fn restarted(&self) {
        self.restarts.inc();
    }

    /// A pod got a sandbox: a spare one, or a new one for this reason.
    pub(super) fn sandbox(&self, result: &'static str) {
        self.sandboxes.get_or_create(&[label("result", result)]).inc();
    }

    pub(super) fn spares(&self, count: usize) {
        self.spares.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn pulled<T>(&self, pulled: &Result<T, RuntimeError>, took: Duration) {
        self.pulls.get_or_create(&[label("result", result(pulled))]).inc();
        self.pull.observe(took.as_secs_f64());
    }

    /// All containers were listed and inspected.
    pub(super) fn listed(&self, took: Duration) {
        self.relist.observe(took.as_secs_f64());
    }

    /// One call of the engine was answered, or given up.
    pub(super) fn called<T>(
        &self,
        operation: &'static str,
        answer: &Result<T, RuntimeError>,
        took: Duration,
    ) {
        let of_operation = label("operation", operation);
        let labels = [of_operation.clone(), label("result", word(answer))];
        self.operations.get_or_create(&labels).inc();
        self.operation_seconds.get_or_create(&[of_operation]).observe(took.as_secs_f64());
    }

    /// A volume was made for a claim (`provision`), or its data removed (`delete`), or it failed.
    pub(super) fn volume<T, E>(&self, operation: &'static str, done: &Result<T, E>) {
        let labels = [label("operation", operation), label("result", result(done))];
        self.volumes.get_or_create(&labels).inc();
    }

    pub(super) fn leftover_volumes(&self, count: usize) {
        self.leftover_volumes.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Puts them under their names.
    pub fn register(&self, registry: &mut Registry) {
        let node = registry.sub_registry_with_prefix("ballast_node");
        node.register(
            "pod_start_seconds",
            "Time from when the agent first saw a pod until it told that the pod runs, pulls included",
            self.pod_start.clone(),
        );
        node.register(
            "container_restarts",
            "Containers of pods made once more, after an end or a change",
            self.restarts.clone(),
        );
        node.register(
            "pod_sandboxes",
            "Sandboxes that pods got: spare ones, or new ones because none was left, because the pod asks something of its sandbox, or because spares are off",
            self.sandboxes.clone(),
        );
        node.register("spare_sandboxes", "Sandboxes made before their pods", self.spares.clone());
        node.register("image_pulls", "Pulls of images, by result", self.pulls.clone());
        node.register(
            "image_pull_seconds",
            "Time a pull took, failed ones included",
            self.pull.clone(),
        );
        node.register(
            "runtime_operations",
            "Calls of the container engine: ok, not_found, conflict, denied, unreachable (no answer in time), unnamed (started too fast for its host name) or failed",
            self.operations.clone(),
        );
        node.register(
            "runtime_operation_seconds",
            "Time until the engine answered; of logs and events, until they began",
            self.operation_seconds.clone(),
        );
        node.register(
            "relist_seconds",
            "Time to list and inspect all containers of the installation",
            self.relist.clone(),
        );
        node.register(
            "volume_operations",
            "Volumes made for claims (provision) and removed with their data (delete), by result",
            self.volumes.clone(),
        );
        node.register(
            "leftover_volumes",
            "Directories below the data directory's volumes that no PersistentVolume speaks of: kept until a person removes them",
            self.leftover_volumes.clone(),
        );
    }
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running")
}

fn word<T>(answer: &Result<T, RuntimeError>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(RuntimeError::NotFound(_)) => "not_found",
        Err(RuntimeError::NameConflict(_)) => "conflict",
        Err(RuntimeError::Denied(_)) => "denied",
        Err(RuntimeError::Unreachable(_)) => "unreachable",
        Err(RuntimeError::Unnamed(_)) => "unnamed",
        Err(RuntimeError::Other(_)) => "failed",
    }
}
