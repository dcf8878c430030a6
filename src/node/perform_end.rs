//! Does the steps at the two ends of a running container: the hook after its start, the wait for the
//! network, the hook before its end, the stop, the removal. All of it runs beside the worker; the
//! memory says that it is under way, and its end wakes the worker.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Lifecycle, LifecycleHandler, Pod};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::node::agent::lock;
use crate::node::hook::{self, Hook, HookError};
use crate::node::last_words;
use crate::node::memory::{Ending, PostStart, Withdrawn};
use crate::node::perform::{Doer, RETRY};
use crate::node::pod_status::pod_ip;
use crate::node::pod_worker::COMPONENT;
use crate::node::runtime::Runtime;
use crate::node::sidecar::field_path;
use crate::object::{Cluster, Note};

/// How long SIGTERM waits for the network (ARCHITECTURE.md, section 5).
const WITHDRAWAL: Duration = Duration::from_secs(2);
/// What ended takes nothing but disk: who is waited for comes first. A removal is work for the engine
/// too, and a rolling update needs one for each that it makes. Longer than the leaving pods of an update
/// of thirty are there while it lasts (BENCHMARKS.md (b)).
const GIVE_WAY: Duration = Duration::from_secs(8);
/// Where a successor waits until the pod is gone, or whoever deleted it.
const GIVE_WAY_AWAITED: Duration = Duration::from_secs(2);

/// How long the removal of a deleted pod's containers gives way to pods that are being made. A
/// ReplicaSet counts a leaving pod no more; everybody else waits for its name, its volume or its place.
fn give_way(pod: &Pod) -> Duration {
    match pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "ReplicaSet") {
        true => GIVE_WAY,
        false => GIVE_WAY_AWAITED,
    }
}

impl<C: Cluster, R: Runtime> Doer<'_, C, R> {
    pub(super) fn withdraw(&self, ip: Option<std::net::Ipv4Addr>) {
        self.cell.memory().withdrawal = Withdrawn::Asked;
        let (agent, cell) = (self.agent.clone(), self.cell.clone());
        self.agent.tasks.spawn_short("withdrawal", async move {
            if let Some(ip) = ip {
                let withdrawn = agent.withdrawal.withdrawn(ip);
                if timeout(WITHDRAWAL, withdrawn).await.is_err() {
                    warn!(object = %cell.key, %ip, "endpoint not withdrawn in time, stopping anyway");
                }
            }
            cell.memory().withdrawal = Withdrawn::Done;
            cell.wake.notify_one();
        });
    }

    pub(super) fn begin_end(&self, id: &str, container: &str, grace_seconds: i64, reason: &str) {
        let hook = self.hook(id, container, |lifecycle| lifecycle.pre_stop.as_ref());
        let ending = Ending {
            until: self.now() + SignedDuration::from_secs(grace_seconds),
            hook_runs: hook.is_some(),
        };
        self.cell.memory().endings.insert(id.to_owned(), ending);
        lock(&self.agent.ended_by_us).insert(id.to_owned());
        self.normal_of(container, "Killing", reason);
        let Some(hook) = hook else { return };
        let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(1));
        let part = field_path(self.pod(), container);
        let (agent, cell, id) = (self.agent.clone(), self.cell.clone(), id.to_owned());
        self.run_hook(async move {
            let ran = timeout(grace, hook.run(&agent.runtime, grace)).await;
            if let Ok(Err(why)) = ran {
                warn!(object = %cell.key, %why, "preStop hook failed");
                // What the hook said may be a secret: it is not told in an Event.
                let message = "PreStopHook failed";
                let note = Note::warning(&*cell.pod(), COMPONENT, "FailedPreStopHook", message);
                agent.cluster.note(note.of_part(part));
            }
            if let Some(ending) = cell.memory().endings.get_mut(&id) {
                ending.hook_runs = false;
            }
            cell.wake.notify_one();
        });
    }

    pub(super) fn post_start(&self, id: &str, container: &str) {
        let hook = self.hook(id, container, |lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return };
        self.cell.memory().post_starts.insert(id.to_owned(), PostStart::Running);
        let part = field_path(self.pod(), container);
        let (agent, cell, id) = (self.agent.clone(), self.cell.clone(), id.to_owned());
        self.run_hook(async move {
            let ran = hook.run(&agent.runtime, hook::NO_LIMIT).await;
            let after = match ran {
                Ok(()) => Some(PostStart::Done),
                // Nothing is known of it: it is run again.
                Err(HookError::Unknown(why)) => {
                    warn!(object = %cell.key, %why, "postStart hook lost");
                    sleep(RETRY).await;
                    None
                }
                Err(HookError::Failed(why)) => {
                    warn!(object = %cell.key, %why, "postStart hook failed");
                    let (reason, message) = ("FailedPostStartHook", "PostStartHook failed");
                    let note = Note::warning(&*cell.pod(), COMPONENT, reason, message);
                    agent.cluster.note(note.of_part(part));
                    Some(PostStart::Failed)
                }
            };
            match after {
                Some(after) => cell.memory().post_starts.insert(id, after),
                None => cell.memory().post_starts.remove(&id),
            };
            cell.wake.notify_one();
        });
    }

    /// A daemon that stops waits for no hook: the next one begins it again.
    fn run_hook(&self, running: impl Future<Output = ()> + Send + 'static) {
        let stop = self.agent.tasks.stop().clone();
        self.agent.tasks.spawn_short("hook", async move {
            // Cancel safe: a hook that is cut off has told nothing yet.
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = running => {}
            }
        });
    }

    fn hook(
        &self,
        id: &str,
        container: &str,
        which: impl Fn(&Lifecycle) -> Option<&LifecycleHandler>,
    ) -> Option<Hook> {
        let container = self.named(container)?;
        Some(Hook {
            instance: id.to_owned(),
            handler: which(container.lifecycle.as_ref()?)?.clone(),
            container: container.clone(),
            pod_ip: pod_ip(&self.observed.instances),
        })
    }

    pub(super) fn stop(&self, id: &str, container: &str, grace_seconds: i64, reason: &str) {
        let began = {
            let mut memory = self.cell.memory();
            let by = self.now() + SignedDuration::from_secs(grace_seconds);
            memory.stop_by.insert(id.to_owned(), by);
            !memory.stopping.insert(id.to_owned()) || memory.endings.contains_key(id)
        };
        lock(&self.agent.ended_by_us).insert(id.to_owned());
        if !began && !container.is_empty() {
            self.normal_of(container, "Killing", reason);
        }
        let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(1));
        let (agent, cell) = (self.agent.clone(), self.cell.clone());
        let (id, container) = (id.to_owned(), container.to_owned());
        self.agent.tasks.spawn_short("stop", async move {
            if let Err(error) = agent.runtime.stop(&id, grace).await {
                warn!(object = %cell.key, %container, %error, "container not stopped");
                agent.is_away(&error).await;
                sleep(RETRY).await;
            }
            agent.refresh(&id).await;
            cell.memory().stopping.remove(&id);
            cell.wake.notify_one();
        });
    }

    pub(super) fn remove(&self, id: &str) {
        self.cell.memory().removing.insert(id.to_owned());
        lock(&self.agent.ended_by_us).insert(id.to_owned());
        let (agent, cell, id) = (self.agent.clone(), self.cell.clone(), id.to_owned());
        let ends = self.pod().metadata.deletion_timestamp.is_some();
        let until = Instant::now() + if ends { give_way(self.pod()) } else { Duration::ZERO };
        self.agent.tasks.spawn_short("remove", async move {
            let removed = loop {
                agent.making.quiet(until).await;
                // Looked at again when it is its turn: between two waves of an update all that wait
                // would begin in the one quiet moment.
                let removing = async {
                    let now = !agent.making.is_busy() || Instant::now() >= until;
                    if now { Some(agent.runtime.remove(&id).await) } else { None }
                };
                if let Some(removed) = agent.removing.take(removing).await {
                    break removed;
                }
            };
            match removed {
                Ok(()) => {
                    let known = lock(&agent.instances).get(&id).map(|one| one.identity.clone());
                    if let Some(identity) = known.filter(|_| !ends) {
                        let file = last_words::file_of(&agent.options.data_dir, &identity);
                        let _ = std::fs::remove_file(file);
                    }
                    lock(&agent.instances).remove(&id);
                    lock(&agent.causes).remove(&id);
                    lock(&agent.ended_by_us).remove(&id);
                }
                Err(error) => {
                    warn!(object = %cell.key, %id, %error, "container not removed");
                    agent.is_away(&error).await;
                    sleep(RETRY).await;
                }
            }
            cell.memory().removing.remove(&id);
            cell.wake.notify_one();
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_waited_for_is_removed_sooner() {
        let of = |owners| -> Pod {
            let meta = json!({"name": "web-1", "ownerReferences": owners});
            serde_json::from_value(json!({"metadata": meta})).expect("a pod")
        };
        let owner =
            |kind| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "a", "uid": "u"}]);
        assert_eq!(give_way(&of(owner("ReplicaSet"))), GIVE_WAY);
        for waits in [owner("StatefulSet"), owner("DaemonSet"), owner("Job"), json!(null)] {
            assert_eq!(give_way(&of(waits)), GIVE_WAY_AWAITED);
        }
    }
}
