//! Which probes of a pod are asked at present, and where their answers go: into the worker's memory
//! and into Events.

use std::sync::Arc;

use crate::node::agent::{Agent, PodCell};
use crate::node::memory::Verdicts;
use crate::node::pod_plan::latest;
use crate::node::pod_status::{is_past_post_start, is_started, pod_ip};
use crate::node::pod_worker::{COMPONENT, Observed};
use crate::node::probe::{ProbeKind, Verdict, probes};
use crate::node::prober::{Asked, Probers, Told};
use crate::node::runtime::Runtime;
use crate::node::sidecar::{field_path, lasting};
use crate::object::{Cluster, Note};

/// Keeps the probes of running instances asked.
pub fn probe<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    cell: &Arc<PodCell>,
    probers: &mut Probers,
    observed: &Observed,
) {
    let pod = &observed.pod;
    let ends = pod.metadata.deletion_timestamp.is_some();
    let ip = pod_ip(&observed.instances);
    let mut wanted = Vec::new();
    for (role, container) in pod.spec.iter().flat_map(lasting) {
        let instance = latest(&observed.instances, role, &container.name)
            .filter(|instance| instance.is_running());
        let (Some(instance), Some(pod_ip)) = (instance, ip) else { continue };
        if !is_past_post_start(instance, container, &observed.memory) {
            continue;
        }
        let started = is_started(instance, container, &observed.memory);
        let ends = ends || observed.memory.endings.contains_key(&instance.id);
        for (kind, probe) in probes(container) {
            // Liveness and startup end with the deletion, readiness goes on (kubelet prober).
            let asked = match kind {
                ProbeKind::Startup => !started && !ends,
                ProbeKind::Liveness => started && !ends,
                ProbeKind::Readiness => started,
            };
            if asked {
                let told = observed.memory.probes.get(&instance.id);
                let told = told.and_then(|told| match kind {
                    ProbeKind::Startup => told.startup.as_ref(),
                    ProbeKind::Liveness => told.liveness.as_ref(),
                    ProbeKind::Readiness => told.readiness.as_ref(),
                });
                wanted.push(Asked {
                    instance: &instance.id,
                    started_at: instance.started_at,
                    kind,
                    passed: told == Some(&Verdict::Passed),
                    probe,
                    container,
                    pod_ip,
                });
            }
        }
    }
    let (listener, teller) = (cell.clone(), agent.clone());
    let tell: Arc<dyn Fn(Told) + Send + Sync> = Arc::new(move |told| {
        if let Some(why) = &told.failure {
            let message = format!("{} probe failed: {why}", told.kind.name());
            let note = Note::warning(&*listener.pod(), COMPONENT, "Unhealthy", message);
            teller.cluster.note(note.of_part(field_path(&listener.pod(), &told.container)));
        }
        if let Some(what) = &told.warning {
            let message = format!("{} probe warning: {what}", told.kind.name());
            let note = Note::warning(&*listener.pod(), COMPONENT, "ProbeWarning", message);
            teller.cluster.note(note.of_part(field_path(&listener.pod(), &told.container)));
        }
        if let Some(verdict) = told.verdict {
            hear(&listener, &told.instance, told.kind, verdict);
        }
    });
    let times = (agent.born, observed.now);
    probers.keep(&wanted, &agent.runtime, &agent.tasks, times, &tell);
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
