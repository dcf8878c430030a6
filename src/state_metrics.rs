//! The cluster's state as Prometheus gauges, read every fifteen seconds like everyone else reads it:
//! through `Cluster`. A family is a row of [`FAMILIES`]; every look replaces all figures, so that what
//! is gone disappears without anybody clearing it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::object::drift::{Class, Drift, Layer, Phase};
use crate::object::source::{Source, SourceStatus};
use crate::object::{ApiError, Cluster, Scope};

/// Prometheus' usual scrape interval: figures are never older than two scrapes.
const INTERVAL: Duration = Duration::from_secs(15);

/// What one look saw.
#[derive(Default)]
struct Seen {
    sources: Vec<Arc<Source>>,
    drifts: Vec<Arc<Drift>>,
    deployments: Vec<Arc<Deployment>>,
}

/// One series: labels and value.
type Sample = (Vec<(&'static str, String)>, f64);

/// One gauge with labels, and how it is computed.
struct Family {
    name: &'static str,
    help: &'static str,
    read: fn(&Seen) -> Vec<Sample>,
}

const FAMILIES: &[Family] = &[
    Family {
        name: "ballast_drifts_open",
        help: "Differences between Git and the world that are open.",
        read: open_drifts,
    },
    Family {
        name: "ballast_source_fetched_timestamp_seconds",
        help: "When the branch's head was last fetched.",
        read: |seen| {
            of_sources(seen, |status| status.fetched.as_ref().map(|commit| seconds(commit.at.0)))
        },
    },
    Family {
        name: "ballast_source_applied_timestamp_seconds",
        help: "When the commit that the store holds was applied.",
        read: |seen| {
            of_sources(seen, |status| status.applied.as_ref().map(|commit| seconds(commit.at.0)))
        },
    },
    Family {
        name: "ballast_source_converged",
        help: "1 when the world matches the applied commit.",
        read: |seen| {
            let converged = |status: &SourceStatus| {
                status.converged.as_ref().is_some_and(|verdict| verdict.converged)
            };
            of_sources(seen, |status| Some(one(converged(status))))
        },
    },
    Family {
        name: "ballast_source_problems",
        help: "Problems of the newest commit, which is therefore not applied.",
        read: |seen| of_sources(seen, |status| Some(status.problems.len() as f64)),
    },
    Family {
        name: "ballast_source_held",
        help: "1 when the newest commit waits for a confirmation.",
        read: |seen| of_sources(seen, |status| Some(one(status.held.is_some()))),
    },
    Family {
        name: "ballast_deployment_replicas_wanted",
        help: "Replicas that Git asks for.",
        read: |seen| {
            of_deployments(seen, |one| one.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
        },
    },
    Family {
        name: "ballast_deployment_replicas_ready",
        help: "Replicas that are ready.",
        read: |seen| {
            let ready = |one: &Deployment| one.status.as_ref().and_then(|s| s.ready_replicas);
            of_deployments(seen, |one| ready(one).unwrap_or(0))
        },
    },
];

/// Of every layer and class there is a series, at 0 where nothing is open: an alert on a series that
/// is not there never fires.
fn open_drifts(seen: &Seen) -> Vec<Sample> {
    let is_open = |drift: &&Arc<Drift>| {
        drift.status.as_ref().is_some_and(|status| status.phase == Phase::Open)
    };
    let open: Vec<_> = seen.drifts.iter().filter(is_open).collect();
    let mut samples = Vec::new();
    for layer in [Layer::Object, Layer::Container, Layer::Network] {
        for class in [
            Class::Missing,
            Class::Extra,
            Class::Changed,
            Class::Stopped,
            Class::WrongImage,
            Class::NotReady,
        ] {
            let count =
                open.iter().filter(|one| one.spec.layer == layer && one.spec.class == class);
            let layer = format!("{layer:?}").to_lowercase();
            let labels = vec![("layer", layer), ("class", format!("{class:?}"))];
            samples.push((labels, count.count() as f64));
        }
    }
    samples
}

/// A figure of every source that is followed.
fn of_sources(seen: &Seen, figure: impl Fn(&SourceStatus) -> Option<f64>) -> Vec<Sample> {
    let unread = SourceStatus::default();
    let sources = seen.sources.iter().filter_map(|source| {
        let status = source.status.as_ref().unwrap_or(&unread);
        let value = figure(status).filter(|_| status.unfollowed.is_none())?;
        Some((vec![("source", name(&source.metadata))], value))
    });
    sources.collect()
}

fn of_deployments(seen: &Seen, figure: impl Fn(&Deployment) -> i32) -> Vec<Sample> {
    let deployments = seen.deployments.iter().map(|deployment| {
        let meta = &deployment.metadata;
        let namespace = meta.namespace.clone().unwrap_or_default();
        let labels = vec![("namespace", namespace), ("deployment", name(meta))];
        (labels, f64::from(figure(deployment)))
    });
    deployments.collect()
}

fn name(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

fn one(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// The figures of the last look, a list for each of [`FAMILIES`]. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ClusterState(Arc<RwLock<Vec<Vec<Sample>>>>);

impl ClusterState {
    fn show(&self, seen: &Seen) {
        let samples = FAMILIES.iter().map(|family| (family.read)(seen)).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = samples;
    }

    /// Reads the cluster until the stop signal. Both arms are cancel safe: a tick and a token.
    pub async fn follow<C: Cluster>(self, cluster: C, stop: CancellationToken) {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            if let Err(error) = self.look(&cluster).await {
                debug!(%error, "figures not refreshed");
            }
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// The list that fails; the figures of the look before stay.
    pub async fn look<C: Cluster>(&self, cluster: &C) -> Result<(), ApiError> {
        let all = Scope::all();
        let seen = Seen {
            sources: cluster.list::<Source>(&all).await?.items,
            drifts: cluster.list::<Drift>(&all).await?.items,
            deployments: cluster.list::<Deployment>(&all).await?.items,
        };
        self.show(&seen);
        Ok(())
    }
}

impl Collector for ClusterState {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (family, samples) in FAMILIES.iter().zip(shown.iter()) {
            if samples.is_empty() {
                continue;
            }
            let (name, help) = (family.name, family.help);
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn what_is_gone_disappears() {
        let state = ClusterState::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(state.clone()));
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            text
        };
        assert_eq!(text(), "# EOF\n", "nothing is told before the first look");
        let mut source = Source::default();
        source.metadata.name = Some("main".into());
        state.show(&Seen { sources: vec![Arc::new(source)], ..Seen::default() });
        assert!(text().contains("ballast_source_converged{source=\"main\"} 0"));
        state.show(&Seen::default());
        assert!(!text().contains("source=\"main\""));
        let zero = "ballast_drifts_open{layer=\"network\",class=\"Extra\"} 0";
        assert!(text().contains(zero), "{}", text());
    }

    #[test]
    fn open_drifts_are_counted_by_layer_and_class() {
        let drift = |phase| {
            let status = crate::object::drift::DriftStatus {
                phase,
                ..serde_json::from_value(serde_json::json!({
                    "phase": "Open", "since": "2026-01-01T00:00:00Z",
                    "lastSeen": "2026-01-01T00:00:00Z", "count": 1, "action": "Healing"
                }))
                .expect("a status")
            };
            Arc::new(Drift { status: Some(status), ..Drift::default() })
        };
        let drifts = vec![drift(Phase::Open), drift(Phase::Open), drift(Phase::Closed)];
        let samples = open_drifts(&Seen { drifts, ..Seen::default() });
        let counted: Vec<&Sample> = samples.iter().filter(|(_, value)| *value > 0.0).collect();
        let labels = vec![("layer", "object".to_owned()), ("class", "Changed".to_owned())];
        assert_eq!(counted, [&(labels, 2.0)]);
    }
}
