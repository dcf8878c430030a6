//! Pure: what the page says, decided from objects and the time.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::object::age::human_age;
use crate::object::drift::{Class, Drift, Layer, Phase};
use crate::object::selector::Selector;
use crate::object::source::{Commit, Problem, Source};
use crate::object::{Pool, condition};

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
    pub nodes: Vec<NodeFacts>,
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

/// A Deployment, or a ReplicaSet or Pod that stands in Git by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub ready: i32,
    pub desired: i32,
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
pub struct NodeFacts {
    pub name: String,
    pub tone: Tone,
    /// `Ready`, or why it is not.
    pub state: String,
    pub engine: String,
    pub address: String,
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
    pub replica_sets: Vec<Arc<ReplicaSet>>,
    pub pods: Vec<PodSeen>,
    pub services: Vec<Arc<Service>>,
    pub nodes: Vec<Arc<Node>>,
    pub drifts: Vec<Arc<Drift>>,
}

/// What the page needs of a pod.
#[derive(Clone, Debug)]
pub struct PodSeen {
    namespace: String,
    /// Shared: replicas have the same.
    labels: Arc<Labels>,
    facts: PodFacts,
    /// Its own row, where it stands in Git by itself.
    row: Option<Box<Workload>>,
}

pub type Labels = BTreeMap<String, String>;

impl PodSeen {
    pub fn of(pod: &Pod, labels: &mut Pool<Labels>, now: Timestamp) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: labels.share(pod.metadata.labels.clone().unwrap_or_default()),
            facts: pod_facts(pod),
            row: stands_alone(&pod.metadata).then(|| Box::new(pod_row(pod, now))),
        }
    }
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
        workloads: workloads(observed, now),
        open_drifts: of_phase(Phase::Open),
        closed_drifts,
        services: observed.services.iter().map(|service| service_facts(service)).collect(),
        nodes: observed.nodes.iter().map(|node| node_facts(node)).collect(),
    }
}

fn workloads(observed: &Observed, now: Timestamp) -> Vec<Workload> {
    let pods = &observed.pods;
    let deployments = observed.deployments.iter().map(|one| deployment_row(one, pods, now));
    let sets = observed.replica_sets.iter().filter(|set| stands_alone(&set.metadata));
    let sets = sets.map(|one| replica_set_row(one, pods, now));
    let alone = pods.iter().filter_map(|pod| pod.row.as_deref().cloned());
    deployments.chain(sets).chain(alone).collect()
}

fn stands_alone(meta: &ObjectMeta) -> bool {
    !meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true))
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
            _ if status.unfollowed.is_some() => Tone::Stale,
            (Some(_), _) => Tone::Bad,
            (None, None) => Tone::Waiting,
            (None, Some(_)) => Tone::Good,
        },
        line: head(&status.fetched),
        age: status.fetch_tried_at.as_ref().map_or_else(
            || age(&status.fetched),
            |time| format!("checked {} ago", human_age(time.0, now)),
        ),
        detail: status.unfollowed.iter().chain(&status.fetch_error).cloned().collect(),
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
            .chain(status.delayed.iter().map(|why| format!("the fetched commit waits: {why}")))
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

fn deployment_row(deployment: &Deployment, pods: &[PodSeen], now: Timestamp) -> Workload {
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
    let spec = deployment.spec.as_ref();
    Workload {
        kind: "Deployment",
        namespace: deployment.metadata.namespace.clone().unwrap_or_default(),
        name: deployment.metadata.name.clone().unwrap_or_default(),
        ready,
        desired,
        images: images(spec.and_then(|spec| spec.template.spec.as_ref())),
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
        pods: pods_of(&deployment.metadata, spec.map(|spec| &spec.selector), pods),
        age: age_of(&deployment.metadata, now),
    }
}

fn replica_set_row(set: &ReplicaSet, pods: &[PodSeen], now: Timestamp) -> Workload {
    let spec = set.spec.as_ref();
    let desired = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let template = spec.and_then(|spec| spec.template.as_ref());
    Workload {
        kind: "ReplicaSet",
        namespace: set.metadata.namespace.clone().unwrap_or_default(),
        name: set.metadata.name.clone().unwrap_or_default(),
        ready,
        desired,
        images: images(template.and_then(|template| template.spec.as_ref())),
        tone: if ready == desired { Tone::Good } else { Tone::Waiting },
        message: format!("{ready} of {desired} ready"),
        pods: pods_of(&set.metadata, spec.map(|spec| &spec.selector), pods),
        age: age_of(&set.metadata, now),
    }
}

fn pod_row(pod: &Pod, now: Timestamp) -> Workload {
    let facts = pod_facts(pod);
    let done = facts.phase == "Succeeded";
    Workload {
        kind: "Pod",
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: facts.name.clone(),
        ready: i32::from(facts.ready),
        desired: i32::from(!done),
        images: images(pod.spec.as_ref()),
        tone: match facts.phase.as_str() {
            "Failed" => Tone::Bad,
            _ if facts.ready || done => Tone::Good,
            _ => Tone::Waiting,
        },
        message: if facts.ready { "ready".to_owned() } else { facts.phase.clone() },
        pods: vec![facts],
        age: age_of(&pod.metadata, now),
    }
}

fn images(spec: Option<&PodSpec>) -> Vec<String> {
    let containers = spec.into_iter().flat_map(|spec| &spec.containers);
    containers.filter_map(|container| container.image.clone()).collect()
}

fn pods_of(meta: &ObjectMeta, selector: Option<&LabelSelector>, pods: &[PodSeen]) -> Vec<PodFacts> {
    let selector = selector.and_then(|selector| Selector::of_label_selector(selector).ok());
    let selector = selector.unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let mine = |pod: &&PodSeen| {
        pod.namespace == namespace && !selector.is_everything() && selector.matches(&pod.labels)
    };
    pods.iter().filter(mine).map(|pod| pod.facts.clone()).collect()
}

fn age_of(meta: &ObjectMeta, now: Timestamp) -> String {
    meta.creation_timestamp.as_ref().map_or_else(String::new, |time| human_age(time.0, now))
}

fn node_facts(node: &Node) -> NodeFacts {
    let status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ready = condition::find(&conditions, "Ready");
    let is_ready = ready.is_some_and(|ready| ready.status == "True");
    let why = ready.map_or_else(
        || "it has not said anything yet".to_owned(),
        |ready| ready.message.clone().or_else(|| ready.reason.clone()).unwrap_or_default(),
    );
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    NodeFacts {
        name: node.metadata.name.clone().unwrap_or_default(),
        tone: match (is_ready, cordoned) {
            (false, _) => Tone::Bad,
            (true, true) => Tone::Waiting,
            (true, false) => Tone::Good,
        },
        state: match (is_ready, cordoned) {
            (false, _) => format!("not ready: {why}"),
            (true, true) => "ready, takes no new pods".to_owned(),
            (true, false) => "ready".to_owned(),
        },
        engine: status.node_info.map(|info| info.container_runtime_version).unwrap_or_default(),
        address: status
            .addresses
            .iter()
            .flatten()
            .find(|address| address.type_ == "InternalIP")
            .map(|address| address.address.clone())
            .unwrap_or_default(),
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
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).expect("an object"))
    }

    #[test]
    fn what_stands_in_git_by_itself_has_a_row_and_what_is_owned_has_none() {
        let owner = |kind: &str| {
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o",
            "uid": "u", "controller": true}])
        };
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "image": "web:1"}]}});
        let set = |name: &str, owners| {
            object::<ReplicaSet>(json!({"metadata": {"name": name, "namespace": "n",
                "ownerReferences": owners}, "spec": {"replicas": 2,
                "selector": {"matchLabels": {"a": "b"}}, "template": template},
                "status": {"replicas": 2, "readyReplicas": 1}}))
        };
        let pod = |name: &str, owners, phase: &str| {
            let pod = object::<Pod>(json!({"metadata": {"name": name, "namespace": "n",
                "labels": {"a": "b"}, "ownerReferences": owners},
                "spec": {"containers": [{"name": "c", "image": "job:1"}]},
                "status": {"phase": phase}}));
            PodSeen::of(&pod, &mut Pool::default(), at(0))
        };
        let none = || json!([]);
        let observed = Observed {
            replica_sets: vec![set("mine", none()), set("owned", owner("Deployment"))],
            pods: vec![
                pod("mine-x", owner("ReplicaSet"), "Running"),
                pod("done", none(), "Succeeded"),
                pod("broken", none(), "Failed"),
            ],
            ..Observed::default()
        };
        let told = facts(&observed, at(0)).workloads;
        let rows: Vec<_> = told
            .iter()
            .map(|row| (row.kind, row.name.as_str(), row.ready, row.desired, row.tone))
            .collect();
        assert_eq!(
            rows,
            [
                ("ReplicaSet", "mine", 1, 2, Tone::Waiting),
                ("Pod", "done", 0, 0, Tone::Good),
                ("Pod", "broken", 0, 1, Tone::Bad),
            ]
        );
        assert_eq!(told[0].images, ["web:1"]);
        assert_eq!(told[0].pods.len(), 3);
    }

    #[test]
    fn a_node_says_why_it_is_not_ready() {
        let node = |status: &str, spec| {
            object::<Node>(json!({"metadata": {"name": "n1"}, "spec": spec, "status": {
                "conditions": [{"type": "Ready", "status": status,
                    "message": "the container engine is unreachable"}],
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}))
        };
        let told = |status, spec| node_facts(&node(status, spec));
        let away = told("False", json!({}));
        assert_eq!(away.tone, Tone::Bad);
        assert_eq!(away.state, "not ready: the container engine is unreachable");
        assert_eq!(told("True", json!({})).state, "ready");
        assert_eq!(told("True", json!({"unschedulable": true})).tone, Tone::Waiting);
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
