//! `kubectl top`: asks the engine and the host what is used, when somebody wants to know. Nothing is
//! measured otherwise, so that an idle daemon stays idle.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::node::agent::{Agent, lock};
use crate::node::instance::{Instance, Life, Role};
use crate::node::runtime::{Runtime, UsageSample};
use crate::node::usage_report::{Look, host_sample, report};
use crate::object::ports::{BoxFuture, UsageReport, Usages};
use crate::object::{ApiError, Cluster, Key, Reason};

/// Between the two looks of a rate, as in `docker stats`; the first one's own time counts.
const WINDOW: Duration = Duration::from_secs(1);
/// A report is told again for so long (metrics-server measures every 15 s): whoever asks in a loop
/// costs no more than that.
const FRESH: SignedDuration = SignedDuration::from_secs(10);
/// Questions to the engine at a time: Engine 20.10 measures all containers once a second and lets each
/// question wait for that, so that a node's 110 pods are asked about at once.
const CONCURRENCY: usize = 128;

/// Weak: what the API holds must not keep the agent's tasks from being done when the daemon stops.
pub(crate) struct AgentUsage<C, R> {
    agent: Weak<Agent<C, R>>,
    /// Locked while it is measured: who asks meanwhile gets the same report.
    last: Arc<Mutex<Option<Arc<UsageReport>>>>,
}

impl<C: Cluster, R: Runtime> AgentUsage<C, R> {
    pub(crate) fn new(agent: Weak<Agent<C, R>>) -> Self {
        Self { agent, last: Arc::default() }
    }
}

impl<C: Cluster, R: Runtime> Usages for AgentUsage<C, R> {
    fn usage(&self) -> BoxFuture<Result<Arc<UsageReport>, ApiError>> {
        let (agent, last) = (self.agent.upgrade(), self.last.clone());
        Box::pin(async move {
            let agent = agent.ok_or_else(|| {
                ApiError::new(Reason::ServiceUnavailable, "the node agent is stopping")
            })?;
            let mut last = last.lock().await;
            let now = agent.clock.now();
            if let Some(report) = last.as_ref()
                && now.duration_since(report.at) < FRESH
            {
                return Ok(report.clone());
            }
            let measured = Arc::new(measured(&agent).await);
            *last = Some(measured.clone());
            Ok(measured)
        })
    }
}

async fn measured<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>) -> UsageReport {
    let pods: Vec<(Key, Vec<Instance>)> = agent
        .cells()
        .iter()
        .map(|cell| (cell.key.clone(), lock(&agent.instances).of_pod(&cell.uid)))
        .collect();
    let running = pods.iter().flat_map(|(_, instances)| instances);
    let running =
        running.filter(|one| one.life == Life::Running && one.identity.role != Role::Sandbox);
    let running: Vec<String> = running.map(|instance| instance.id.clone()).collect();
    let begun = Instant::now();
    let first = look(agent, running.clone()).await;
    sleep_until(begun + WINDOW).await;
    let second = look(agent, running).await;
    let mut report = report(&agent.options.node_name, &pods, &first, &second);
    // The host's files may be hidden from us; the report is of now all the same.
    report.at = agent.clock.now();
    report
}

async fn look<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>, running: Vec<String>) -> Look {
    let agent = agent.clone();
    let host = host(agent.clock.now());
    let asked = running.into_iter().map(move |id| ask(agent.clone(), id));
    let answers = futures::stream::iter(asked).buffer_unordered(CONCURRENCY);
    Look { host, containers: answers.filter_map(std::future::ready).collect().await }
}

/// A container that cannot be asked is left out: it may be gone already.
async fn ask<C: Cluster, R: Runtime>(
    agent: Arc<Agent<C, R>>,
    id: String,
) -> Option<(String, UsageSample)> {
    let sample = agent.runtime.usage(&id).await.ok()?;
    Some((id, sample))
}

fn host(now: Timestamp) -> Option<UsageSample> {
    // Both are made in memory by the kernel: reading them waits for nothing.
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    host_sample(&stat, &memory, now)
}
