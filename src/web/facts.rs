//! Pure: what the page says, decided from objects and the time.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::object::age::human_age;
use crate::object::condition;
use crate::object::drift::{Class, Drift, Layer, Phase};
use crate::object::source::{Commit, Problem, Source};

/// A verdict older than this is shown as stale: twice the interval it is computed in, at least.
const STALE_SECONDS: i64 = 60;

/// Everything on the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub sources: Vec<SourceFacts>,
    pub workloads: Vec<Workload>,
    pub open_drifts: Vec<DriftFacts>,
    pub closed_drifts: Vec<DriftFacts>,
    pub services: Vec<ServiceFacts>,
}

/// How a fact looks: never the only carrier of its meaning, the words say it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Waiting,
    Bad,
    Stale,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    pub title: &'static str,
    pub tone: Tone,
    /// `a1b2c3d Scale the frontend`
    pub line: String,
    /// `12s ago`
    pub age: String,
    pub detail: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SourceFacts {
    pub name: String,
    pub url: String,
    pub branch: String,
    pub path: String,
    pub facts: [Fact; 3],
    pub problems: Vec<Problem>,
    pub held: Option<(String, Vec<String>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub namespace: String,
    pub name: String,
    pub ready: i32,
    pub desired: i32,
    pub updated: i32,
    pub images: Vec<String>,
    pub tone: Tone,
    pub message: String,
    pub pods: Vec<PodFacts>,
    pub age: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    pub name: String,
    pub ready: bool,
    pub phase: String,
    pub restarts: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceFacts {
    pub namespace: String,
    pub name: String,
    pub address: String,
    pub ports: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DriftFacts {
    pub object: String,
    pub layer: &'static str,
    pub class: &'static str,
    pub field: String,
    pub wanted: String,
    pub actual: String,
    pub origin: String,
    pub cause: String,
    pub action: String,
    pub since: String,
    pub count: u32,
}

/// The objects the page is made of.
#[derive(Debug, Default)]
pub struct Observed {
    pub sources: Vec<Arc<Source>>,
    pub deployments: Vec<Arc<Deployment>>,
    pub pods: Vec<Arc<Pod>>,
    pub services: Vec<Arc<Service>>,
    pub drifts: Vec<Arc<Drift>>,
}

/// What to say about what was read.
pub fn facts(observed: &Observed, now: Timestamp) -> Facts {
    let of_phase = |phase| {
        let mut chosen: Vec<&Arc<Drift>> = observed
            .drifts
            .iter()
            .filter(|drift| drift.status.as_ref().is_some_and(|status| status.phase == phase))
            .collect();
        chosen.sort_by_key(|drift| {
            std::cmp::Reverse(drift.status.as_ref().map(|status| status.last_seen.0))
        });
        chosen.into_iter().map(|drift| drift_facts(drift, now)).collect::<Vec<_>>()
    };
    let mut closed_drifts = of_phase(Phase::Closed);
    closed_drifts.truncate(20);
    Facts {
        sources: observed.sources.iter().map(|source| source_facts(source, now)).collect(),
        workloads: observed
            .deployments
            .iter()
            .map(|deployment| workload(deployment, &observed.pods, now))
            .collect(),
        open_drifts: of_phase(Phase::Open),
        closed_drifts,
        services: observed.services.iter().map(|service| service_facts(service)).collect(),
    }
}

fn source_facts(source: &Source, now: Timestamp) -> SourceFacts {
    let status = source.status.clone().unwrap_or_default();
    let head = |commit: &Option<Commit>| {
        commit.as_ref().map_or_else(
            || "nothing yet".to_owned(),
            |commit| format!("{} {}", short(&commit.id), commit.subject),
        )
    };
    let age = |commit: &Option<Commit>| {
        commit
            .as_ref()
            .map_or_else(String::new, |commit| format!("{} ago", human_age(commit.at.0, now)))
    };
    let fetched = Fact {
        title: "Fetched",
        tone: match (&status.fetch_error, &status.fetched) {
            (Some(_), _) => Tone::Bad,
            (None, None) => Tone::Waiting,
            (None, Some(_)) => Tone::Good,
        },
        line: head(&status.fetched),
        age: status.fetch_tried_at.as_ref().map_or_else(
            || age(&status.fetched),
            |time| format!("checked {} ago", human_age(time.0, now)),
        ),
        detail: status.fetch_error.iter().cloned().collect(),
    };
    let behind = status.fetched.as_ref().map(|commit| &commit.id)
        != status.applied.as_ref().map(|commit| &commit.id);
    let applied = Fact {
        title: "Applied",
        tone: match () {
            () if status.refused.is_some() || status.held.is_some() => Tone::Bad,
            () if behind => Tone::Waiting,
            () => Tone::Good,
        },
        line: head(&status.applied),
        age: age(&status.applied),
        detail: status
            .refused
            .iter()
            .map(|commit| {
                format!(
                    "{} was refused: {} problems; the applied commit runs on",
                    short(&commit.id),
                    status.problems.len()
                )
            })
            .collect(),
    };
    SourceFacts {
        name: source.metadata.name.clone().unwrap_or_default(),
        url: source.spec.url.clone(),
        branch: source.spec.branch.clone(),
        path: source.spec.path.clone(),
        facts: [fetched, applied, converged_fact(source, now)],
        problems: status.problems,
        held: status.held.map(|held| (held.reason, held.removes)),
    }
}

fn converged_fact(source: &Source, now: Timestamp) -> Fact {
    let verdict = source.status.as_ref().and_then(|status| status.converged.as_ref());
    let Some(verdict) = verdict else {
        return Fact {
            title: "Converged",
            tone: Tone::Waiting,
            line: "not known yet".to_owned(),
            age: String::new(),
            detail: Vec::new(),
        };
    };
    let stale = now.duration_since(verdict.checked_at.0) > SignedDuration::from_secs(STALE_SECONDS);
    let word = if verdict.converged { "the world matches" } else { "not yet" };
    Fact {
        title: "Converged",
        tone: match (stale, verdict.converged, verdict.open_drifts) {
            (true, _, _) => Tone::Stale,
            (false, true, _) => Tone::Good,
            (false, false, 0) => Tone::Waiting,
            (false, false, _) => Tone::Bad,
        },
        line: format!("{} {word}", short(&verdict.commit)),
        age: if stale {
            format!("stale: checked {} ago", human_age(verdict.checked_at.0, now))
        } else {
            format!("for {}", human_age(verdict.since.0, now))
        },
        detail: verdict.waiting_for.clone(),
    }
}

fn workload(deployment: &Deployment, pods: &[Arc<Pod>], now: Timestamp) -> Workload {
    let status = deployment.status.clone().unwrap_or_default();
    let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let (ready, updated) =
        (status.ready_replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
    let conditions = status.conditions.unwrap_or_default();
    let observed = status.observed_generation == deployment.metadata.generation;
    let failed = condition::find(&conditions, "Progressing")
        .filter(|progressing| progressing.status == "False");
    let whole = observed
        && ready == desired
        && updated == desired
        && status.replicas.unwrap_or(0) == desired;
    let selector = deployment
        .spec
        .as_ref()
        .and_then(|spec| crate::object::selector::Selector::of_label_selector(&spec.selector).ok())
        .unwrap_or_default();
    let mine = |pod: &&Arc<Pod>| {
        pod.metadata.namespace == deployment.metadata.namespace
            && !selector.is_everything()
            && selector.matches_optional(pod.metadata.labels.as_ref())
    };
    Workload {
        namespace: deployment.metadata.namespace.clone().unwrap_or_default(),
        name: deployment.metadata.name.clone().unwrap_or_default(),
        ready,
        desired,
        updated,
        images: deployment
            .spec
            .iter()
            .flat_map(|spec| spec.template.spec.iter())
            .flat_map(|spec| spec.containers.iter())
            .filter_map(|container| container.image.clone())
            .collect(),
        tone: match (failed.is_some(), whole) {
            (true, _) => Tone::Bad,
            (false, true) => Tone::Good,
            (false, false) => Tone::Waiting,
        },
        message: match (failed, whole) {
            (Some(progressing), _) => progressing.message.clone().unwrap_or_default(),
            (None, true) => "all replicas are ready".to_owned(),
            (None, false) => format!("{ready} of {desired} ready, {updated} updated"),
        },
        pods: pods.iter().filter(mine).map(|pod| pod_facts(pod)).collect(),
        age: deployment
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or_else(String::new, |time| human_age(time.0, now)),
    }
}

fn pod_facts(pod: &Pod) -> PodFacts {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let waiting = containers
        .iter()
        .find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let phase = status.phase.unwrap_or_else(|| "Unknown".to_owned());
    PodFacts {
        name: pod.metadata.name.clone().unwrap_or_default(),
        ready: condition::is_true(&status.conditions.unwrap_or_default(), "Ready"),
        phase: if pod.metadata.deletion_timestamp.is_some() {
            "Terminating".to_owned()
        } else {
            waiting.unwrap_or(phase)
        },
        restarts: containers.iter().map(|container| container.restart_count).sum(),
    }
}

fn service_facts(service: &Service) -> ServiceFacts {
    let spec = service.spec.clone().unwrap_or_default();
    let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let node_port =
            port.node_port.map_or_else(String::new, |node_port| format!(":{node_port}"));
        format!("{}{node_port}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP"))
    };
    ServiceFacts {
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        name: service.metadata.name.clone().unwrap_or_default(),
        address: spec.cluster_ip.unwrap_or_else(|| "none".to_owned()),
        ports: spec.ports.unwrap_or_default().iter().map(port).collect::<Vec<_>>().join(", "),
    }
}

fn drift_facts(drift: &Drift, now: Timestamp) -> DriftFacts {
    let spec = &drift.spec;
    let status = drift.status.as_ref();
    let object = crate::object::Key::new(spec.object.namespace.clone(), spec.object.name.clone());
    DriftFacts {
        object: format!("{} {object}", spec.object.kind),
        layer: match spec.layer {
            Layer::Object => "object",
            Layer::Container => "container",
            Layer::Network => "network",
        },
        class: match spec.class {
            Class::Missing => "missing",
            Class::Extra => "extra",
            Class::Changed => "changed",
            Class::Stopped => "stopped",
            Class::WrongImage => "wrong image",
            Class::NotReady => "not ready",
        },
        field: spec.field.clone(),
        wanted: spec.wanted.clone().unwrap_or_else(|| "nothing".to_owned()),
        actual: spec.actual.clone().unwrap_or_else(|| "nothing".to_owned()),
        origin: spec.origin.as_ref().map_or_else(String::new, |origin| {
            format!("{}:{}@{}", origin.file, origin.line, short(&origin.commit))
        }),
        cause: status.and_then(|status| status.cause.clone()).unwrap_or_default(),
        action: status.map_or_else(String::new, |status| {
            let word = format!("{:?}", status.action).to_lowercase();
            status
                .message
                .as_ref()
                .map_or_else(|| word.clone(), |message| format!("{word}: {message}"))
        }),
        since: status.map_or_else(String::new, |status| human_age(status.since.0, now)),
        count: status.map_or(1, |status| status.count),
    }
}

/// The first seven characters of a commit's id.
fn short(id: &str) -> String {
    id.chars().take(7).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::source::{Convergence, SourceStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    #[test]
    fn an_old_verdict_is_stale_and_a_refused_commit_is_bad() {
        let verdict = Convergence {
            converged: true,
            since: Time(at(0)),
            checked_at: Time(at(0)),
            commit: "abcdef0123".into(),
            waiting_for: vec![],
            open_drifts: 0,
        };
        let commit = Commit {
            id: "1234567890".into(),
            subject: "Break it".into(),
            author: String::new(),
            at: Time(at(0)),
        };
        let status = SourceStatus {
            converged: Some(verdict),
            refused: Some(commit),
            ..SourceStatus::default()
        };
        let source = Source { status: Some(status), ..Source::default() };
        let fresh = source_facts(&source, at(10));
        assert_eq!(fresh.facts[2].tone, Tone::Good);
        assert_eq!(fresh.facts[1].tone, Tone::Bad);
        assert_eq!(source_facts(&source, at(100)).facts[2].tone, Tone::Stale);
    }
}
