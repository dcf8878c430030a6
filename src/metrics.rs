//! The cluster's state as Prometheus gauges, read every fifteen seconds like everyone else reads it:
//! through `Cluster`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use k8s_openapi::api::apps::v1::Deployment;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::object::drift::{Drift, Phase};
use crate::object::source::Source;
use crate::object::{ApiError, Cluster, Scope};

/// Prometheus' usual scrape interval: figures are never older than two scrapes.
const INTERVAL: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSource {
    source: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfDrift {
    layer: String,
    class: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfDeployment {
    namespace: String,
    deployment: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfVersion {
    version: String,
}

/// The gauges of the whole cluster. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    drifts: Family<OfDrift, Gauge>,
    fetched: Family<OfSource, Gauge<f64, AtomicU64>>,
    applied: Family<OfSource, Gauge<f64, AtomicU64>>,
    converged: Family<OfSource, Gauge>,
    problems: Family<OfSource, Gauge>,
    held: Family<OfSource, Gauge>,
    wanted: Family<OfDeployment, Gauge>,
    ready: Family<OfDeployment, Gauge>,
}

/// Registers every gauge under its name.
pub fn register(registry: &mut Registry) -> Metrics {
    let metrics = Metrics::default();
    registry.register(
        "ballast_drifts_open",
        "Differences between Git and the world that are open",
        metrics.drifts.clone(),
    );
    registry.register(
        "ballast_source_fetched_timestamp_seconds",
        "When the branch's head was last fetched",
        metrics.fetched.clone(),
    );
    registry.register(
        "ballast_source_applied_timestamp_seconds",
        "When the commit that the store holds was applied",
        metrics.applied.clone(),
    );
    registry.register(
        "ballast_source_converged",
        "1 when the world matches the applied commit",
        metrics.converged.clone(),
    );
    registry.register(
        "ballast_source_problems",
        "Problems of the newest commit, which is therefore not applied",
        metrics.problems.clone(),
    );
    registry.register(
        "ballast_source_held",
        "1 when the newest commit waits for a confirmation",
        metrics.held.clone(),
    );
    registry.register(
        "ballast_deployment_replicas_wanted",
        "Replicas that Git asks for",
        metrics.wanted.clone(),
    );
    registry.register(
        "ballast_deployment_replicas_ready",
        "Replicas that are ready",
        metrics.ready.clone(),
    );
    let build: Family<OfVersion, Gauge> = Family::default();
    build.get_or_create(&OfVersion { version: env!("CARGO_PKG_VERSION").to_owned() }).set(1);
    registry.register("ballast_build_info", "1, with the version as a label", build);
    metrics
}

impl Metrics {
    /// Replaces every figure by what was read: what is gone disappears.
    fn set(&self, sources: &[Arc<Source>], drifts: &[Arc<Drift>], deployments: &[Arc<Deployment>]) {
        self.drifts.clear();
        for drift in drifts
            .iter()
            .filter(|drift| drift.status.as_ref().is_some_and(|status| status.phase == Phase::Open))
        {
            let labels = OfDrift {
                layer: format!("{:?}", drift.spec.layer).to_lowercase(),
                class: format!("{:?}", drift.spec.class),
            };
            self.drifts.get_or_create(&labels).inc();
        }
        for family in [&self.converged, &self.problems, &self.held] {
            family.clear();
        }
        self.fetched.clear();
        self.applied.clear();
        for source in sources {
            let labels = OfSource { source: source.metadata.name.clone().unwrap_or_default() };
            let status = source.status.clone().unwrap_or_default();
            if status.unfollowed.is_some() {
                continue;
            }
            if let Some(commit) = &status.fetched {
                self.fetched.get_or_create(&labels).set(commit.at.0.as_millisecond() as f64 / 1e3);
            }
            if let Some(commit) = &status.applied {
                self.applied.get_or_create(&labels).set(commit.at.0.as_millisecond() as f64 / 1e3);
            }
            self.converged
                .get_or_create(&labels)
                .set(i64::from(status.converged.is_some_and(|verdict| verdict.converged)));
            self.problems
                .get_or_create(&labels)
                .set(i64::try_from(status.problems.len()).unwrap_or(i64::MAX));
            self.held.get_or_create(&labels).set(i64::from(status.held.is_some()));
        }
        self.wanted.clear();
        self.ready.clear();
        for deployment in deployments {
            let meta = &deployment.metadata;
            let labels = OfDeployment {
                namespace: meta.namespace.clone().unwrap_or_default(),
                deployment: meta.name.clone().unwrap_or_default(),
            };
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let ready =
                deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            self.wanted.get_or_create(&labels).set(i64::from(wanted));
            self.ready.get_or_create(&labels).set(i64::from(ready));
        }
    }
}

/// Reads the cluster until the stop signal. Both arms are cancel safe: a tick and a token.
pub async fn follow<C: Cluster>(cluster: C, metrics: Metrics, stop: CancellationToken) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = refresh(&cluster, &metrics).await {
            debug!(%error, "figures not refreshed");
        }
    }
}

async fn refresh<C: Cluster>(cluster: &C, metrics: &Metrics) -> Result<(), ApiError> {
    let all = Scope::all();
    let sources = cluster.list::<Source>(&all).await?.items;
    let drifts = cluster.list::<Drift>(&all).await?.items;
    metrics.set(&sources, &drifts, &cluster.list::<Deployment>(&all).await?.items);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_disappears() {
        let mut registry = Registry::default();
        let metrics = register(&mut registry);
        let text = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
            text
        };
        let mut source = Source::default();
        source.metadata.name = Some("main".into());
        metrics.set(&[Arc::new(source)], &[], &[]);
        assert!(text(&registry).contains("ballast_source_converged{source=\"main\"} 0"));
        metrics.set(&[], &[], &[]);
        assert!(!text(&registry).contains("source=\"main\""));
    }
}
