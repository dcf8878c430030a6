//! Keeps a node's spare sandboxes, and gives them to pods.
//!
//! A claim is a rename: the spare gets the name that the pod's own sandbox would have, and from then on
//! every list and every inspect tells it as that pod's ([`Identity::of`](crate::node::instance::Identity::of)).
//! The engine renames at once or not at all, so that after a crash a spare is somebody's or nobody's.
//!
//! Before the first one is given away it is proved on this host that a container of it gets its pod's
//! host name in time: the first spare teaches where starting containers are seen, and the next is
//! started in that way. Where this fails, pods get sandboxes of their own, and a log line says why.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::node::agent::{Agent, lock};
use crate::node::container_spec::{self, ContainerSpec};
use crate::node::instance::{Instance, Role};
use crate::node::runtime::{Runtime, RuntimeError};
use crate::node::spares::{Churn, Next, next};
use crate::object::Cluster;
use crate::task::caught_async;

/// A lost signal, and the end of a burst, cost at most this.
const TICK: Duration = Duration::from_secs(5);
/// The first look of a run: the next push may be about to come.
const FIRST: Duration = Duration::from_millis(500);
/// Pods come first: a spare is made when nobody waits for the engine, or after this long.
const GIVE_WAY: Duration = Duration::from_secs(30);
/// After a spare that could not be made.
const RETRY: Duration = Duration::from_secs(10);
/// Names that were too late, in a row, after which there are no spares on this host.
const TOO_OFTEN: u32 = 3;

/// Whether a container can be named while it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Proof {
    #[default]
    None,
    /// Seen how; not tried.
    Learnt,
    Proved,
    /// It fails here.
    Failed,
}

/// What the keeper and the pods' workers share.
#[derive(Debug, Default)]
pub struct Spares {
    churn: Mutex<Churn>,
    /// Being given to a pod.
    claimed: Mutex<HashSet<String>>,
    proof: Mutex<Proof>,
    late: Mutex<u32>,
    wake: Notify,
    told: AtomicBool,
}

impl Spares {
    fn is_proved(&self) -> bool {
        *lock(&self.proof) == Proof::Proved
    }

    /// A container began before it had its name: this happens where the host is far too busy, or
    /// always.
    pub fn was_late(&self, why: &str) {
        let mut late = lock(&self.late);
        *late += 1;
        if *late >= TOO_OFTEN {
            *lock(&self.proof) = Proof::Failed;
            self.say_off(why);
        }
    }

    pub fn was_in_time(&self) {
        *lock(&self.late) = 0;
    }

    fn say_off(&self, why: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            warn!(%why, "no spare sandboxes on this host: every pod waits for one of its own");
        }
    }
}

impl<C: Cluster, R: Runtime> Agent<C, R> {
    /// A pod asks for the sandbox that `wanted` describes. Told before the pod waits for its turn: of a
    /// burst all are counted that came at once, not as many as are made in that time.
    pub fn note_demand(&self, wanted: &ContainerSpec) {
        let Some(engine) = self.engine() else { return };
        if self.options.spare_sandboxes > 0 && container_spec::is_plain(wanted, &self.site(&engine))
        {
            lock(&self.spares.churn).note(self.age());
        }
    }

    /// Gives a spare to the pod whose sandbox `wanted` describes. `None`: it needs one of its own.
    pub async fn claim_spare(&self, wanted: &ContainerSpec) -> Option<Instance> {
        let metrics = &self.options.metrics;
        let engine = self.engine()?;
        if self.options.spare_sandboxes == 0 || *lock(&self.spares.proof) == Proof::Failed {
            metrics.sandbox("off");
            return None;
        }
        if !container_spec::is_plain(wanted, &self.site(&engine)) {
            metrics.sandbox("not_plain");
            return None;
        }
        let claimed = match self.spares.is_proved().then(|| self.take_spare()).flatten() {
            Some(spare) => self.rename_spare(spare, wanted).await,
            None => None,
        };
        metrics.sandbox(if claimed.is_some() { "spare" } else { "none_left" });
        self.spares.wake.notify_one();
        claimed
    }

    /// The oldest one that runs, for the caller alone.
    fn take_spare(&self) -> Option<Instance> {
        let instances = lock(&self.instances);
        let mut claimed = lock(&self.spares.claimed);
        claimed.retain(|id| instances.get(id).is_some_and(|one| one.identity.role == Role::Spare));
        let free = instances.iter().filter(|one| {
            one.identity.role == Role::Spare
                && one.life == crate::node::instance::Life::Running
                && one.ip.is_some()
                && one.made_as.is_some()
                && !claimed.contains(&one.id)
        });
        let oldest = free.min_by_key(|one| one.created_at).cloned()?;
        claimed.insert(oldest.id.clone());
        Some(oldest)
    }

    async fn rename_spare(&self, spare: Instance, wanted: &ContainerSpec) -> Option<Instance> {
        if let Err(error) = self.runtime.rename(&spare.id, &wanted.name).await {
            // It may have got the name although no answer came: then the next list tells it, and a
            // create of that name is refused.
            warn!(%error, spare = %spare.name, "spare sandbox not claimed");
            self.refresh(&spare.id).await;
            lock(&self.spares.claimed).remove(&spare.id);
            return None;
        }
        // Not from the list any more: it may have died since.
        match self.runtime.inspect(&spare.id).await {
            Ok(seen) if seen.is_running() && seen.identity.pod_uid == wanted.identity.pod_uid => {
                lock(&self.instances).put(seen.clone());
                Some(seen)
            }
            Ok(seen) => {
                lock(&self.instances).put(seen);
                None
            }
            Err(error) => {
                warn!(%error, spare = %spare.name, "claimed sandbox not seen");
                None
            }
        }
    }
}

/// Runs until the tasks stop.
pub async fn keep<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    let mut pause = FIRST;
    loop {
        // Cancel safe, all three.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            () = agent.spares.wake.notified() => {}
            () = sleep(pause) => {}
        }
        pause = TICK;
        let again = loop {
            // Cancel safe: what was begun is found by its label again.
            tokio::select! {
                biased;
                () = agent.tasks.stop().cancelled() => return,
                stepped = caught_async(step(&agent)) => match stepped {
                    Ok(Ok(true)) => {}
                    Ok(Ok(false)) => break Duration::ZERO,
                    Ok(Err(error)) => {
                        debug!(%error, "spare sandboxes not kept");
                        agent.is_away(&error).await;
                        break RETRY;
                    }
                    Err(panic) => {
                        warn!(panic, "panicked over the spare sandboxes, tried again later");
                        break RETRY;
                    }
                },
            }
        };
        // Cancel safe, both.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            () = sleep(again) => {}
        }
    }
}

/// One thing to do; answers whether there may be another.
async fn step<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>) -> Result<bool, RuntimeError> {
    let Some(engine) = agent.engine() else { return Ok(false) };
    // A fresh store, or one that was not read yet, says nothing of what the node will need.
    if !agent.pods_known.load(Ordering::Relaxed) || agent.holds.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let spares = &agent.spares;
    let failed = *lock(&spares.proof) == Proof::Failed;
    let limit = if failed { 0 } else { agent.options.spare_sandboxes };
    let proof = lock(&spares.proof).clone();
    if limit > 0
        && proof == Proof::None
        && let Some(running) = any_running(agent)
    {
        learn(agent, &running).await?;
        return Ok(true);
    }
    let target = lock(&spares.churn).target(limit, agent.age());
    let (decided, count) = {
        let instances = lock(&agent.instances);
        let claimed = lock(&spares.claimed);
        let all = instances.iter().filter(|one| !claimed.contains(&one.id)).collect::<Vec<_>>();
        let count = all.iter().filter(|one| one.identity.role == Role::Spare).count();
        (next(all.iter().copied(), target), count)
    };
    agent.options.metrics.spares(count);
    match decided {
        // Those of an earlier run of the daemon are enough, but nothing is proved yet: one more.
        Next::Nothing if limit == 0 || proof != Proof::Learnt => Ok(false),
        Next::Remove(id) => {
            lock(&agent.ended_by_us).insert(id.clone());
            agent.runtime.remove(&id).await?;
            lock(&agent.instances).remove(&id);
            lock(&agent.ended_by_us).remove(&id);
            Ok(true)
        }
        Next::Make | Next::Nothing => {
            agent.making.quiet(Instant::now() + GIVE_WAY).await;
            // One is made at a time, and no two at the same one.
            let name = format!("spare-{:x}", agent.clock.now().as_microsecond());
            make(agent, &container_spec::spare(&agent.site(&engine), &name)).await?;
            Ok(true)
        }
    }
}

async fn make<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    spec: &ContainerSpec,
) -> Result<(), RuntimeError> {
    let (runtime, spares) = (&agent.runtime, &agent.spares);
    let proof = lock(&spares.proof).clone();
    let id = runtime.create(spec).await?;
    let made_as = spec.hostname.as_deref().unwrap_or_default();
    let started = match proof {
        Proof::Learnt => runtime.start_named(&id, made_as, &format!("{made_as}-named")).await,
        _ => runtime.start(&id).await,
    };
    match started {
        Ok(()) if proof == Proof::Learnt => {
            info!("spare sandboxes are kept");
            *lock(&spares.proof) = Proof::Proved;
        }
        Ok(()) => {}
        Err(error) => {
            if let RuntimeError::Unnamed(why) = &error {
                spares.was_late(why);
            }
            runtime.remove(&id).await?;
            return Err(error);
        }
    }
    if proof == Proof::None {
        // The first container on this engine: it taught how others are seen, and proved nothing.
        let learnt = learn(agent, &id).await;
        runtime.remove(&id).await?;
        return learnt;
    }
    let seen = runtime.inspect(&id).await?;
    lock(&agent.instances).put(seen);
    Ok(())
}

fn any_running<C: Cluster, R: Runtime>(agent: &Agent<C, R>) -> Option<String> {
    lock(&agent.instances).iter().find(|one| one.is_running()).map(|one| one.id.clone())
}

async fn learn<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    running: &str,
) -> Result<(), RuntimeError> {
    let learnt = agent.runtime.learn_from(running).await;
    *lock(&agent.spares.proof) = match &learnt {
        Ok(()) => Proof::Learnt,
        // It ended meanwhile, or the engine is away: asked again.
        Err(RuntimeError::Other(why)) if !why.contains("not running") => {
            agent.spares.say_off(why);
            Proof::Failed
        }
        Err(_) => Proof::None,
    };
    learnt
}
