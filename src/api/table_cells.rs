//! Pure: one row of `kubectl get`, cell by cell as the reference server's printers write it
//! (kubernetes `pkg/printers/internalversion/printers.go`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Event, Namespace, Node, Secret, Service, ServicePort,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use serde_json::{Value, json};

use crate::object::Object;
use crate::object::age::human_age;
use crate::object::drift::Drift;
use crate::object::inventory::Inventory;
use crate::object::source::{Commit, Source};

const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";
/// Endpoints shown before ` + 2 more...`.
const MOST_ENDPOINTS: usize = 3;
/// A verdict older than this is not shown as true or false.
const STALE_SECONDS: i64 = 60;

/// A kind with a table.
pub trait Tabular: Object {
    /// In the order of `table_columns::columns`.
    fn cells(&self, now: Timestamp) -> Vec<Value>;
}

pub(super) fn name(meta: &ObjectMeta) -> Value {
    json!(meta.name.as_deref().unwrap_or_default())
}

pub(super) fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    json!(ago(meta.creation_timestamp.as_ref(), now))
}

pub(super) fn ago(time: Option<&Time>, now: Timestamp) -> String {
    time.map_or_else(|| UNKNOWN.to_owned(), |time| human_age(time.0, now))
}

/// The text, or `<none>` for an absent or empty one.
pub(super) fn or_none(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or(NONE).to_owned()
}

fn labels_text(labels: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<String> =
        labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

/// `app=web,tier in (a,b),!legacy`, as `metav1.FormatLabelSelector`.
pub fn selector_text(selector: &LabelSelector) -> String {
    let mut parts: Vec<String> = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    for expression in selector.match_expressions.iter().flatten() {
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort();
        let key = &expression.key;
        parts.push(match expression.operator.as_str() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        });
    }
    parts.sort_by(|a, b| a.trim_start_matches('!').cmp(b.trim_start_matches('!')));
    if parts.is_empty() { NONE.to_owned() } else { parts.join(",") }
}

fn containers_text(containers: Option<&Vec<Container>>) -> [Value; 2] {
    let join = |field: fn(&Container) -> &str| {
        containers.into_iter().flatten().map(field).collect::<Vec<_>>().join(",")
    };
    [
        json!(join(|container| &container.name)),
        json!(join(|container| container.image.as_deref().unwrap_or_default())),
    ]
}

impl Tabular for Namespace {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let phase =
            self.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        vec![name(&self.metadata), json!(phase), age(&self.metadata, now)]
    }
}

impl Tabular for Node {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
        let mut words = vec![match ready.map(|condition| condition.status.as_str()) {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }];
        if self.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
            words.push("SchedulingDisabled");
        }
        let roles: Vec<&str> = self
            .metadata
            .labels
            .iter()
            .flatten()
            .filter_map(|(key, value)| {
                let role =
                    key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty());
                role.or_else(|| {
                    (key == "kubernetes.io/role" && !value.is_empty()).then_some(value.as_str())
                })
            })
            .collect();
        let address = |kind: &str| {
            let found = status.addresses.iter().flatten().find(|address| address.type_ == kind);
            json!(or_none(found.map(|address| address.address.as_str())))
        };
        let facts = status.node_info.unwrap_or_default();
        let or_unknown =
            |text: &str| if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() };
        let kernel = if facts.architecture.is_empty() {
            or_unknown(&facts.kernel_version)
        } else {
            format!("{} ({})", or_unknown(&facts.kernel_version), facts.architecture)
        };
        vec![
            name(&self.metadata),
            json!(words.join(",")),
            json!(or_none(Some(&roles.join(",")))),
            age(&self.metadata, now),
            json!(facts.kubelet_version),
            address("InternalIP"),
            address("ExternalIP"),
            json!(or_unknown(&facts.os_image)),
            json!(kernel),
            json!(or_unknown(&facts.container_runtime_version)),
        ]
    }
}

impl Tabular for ConfigMap {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let count = self.data.as_ref().map_or(0, BTreeMap::len)
            + self.binary_data.as_ref().map_or(0, BTreeMap::len);
        vec![name(&self.metadata), json!(count), age(&self.metadata, now)]
    }
}

impl Tabular for Secret {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let count = self.data.as_ref().map_or(0, BTreeMap::len);
        vec![
            name(&self.metadata),
            json!(self.type_.as_deref().unwrap_or_default()),
            json!(count),
            age(&self.metadata, now),
        ]
    }
}

impl Tabular for Service {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let kind = spec.type_.clone().unwrap_or_default();
        let ingress: Vec<String> = self
            .status
            .iter()
            .flat_map(|status| status.load_balancer.iter())
            .flat_map(|balancer| balancer.ingress.iter().flatten())
            .filter_map(|entry| entry.ip.clone().or_else(|| entry.hostname.clone()))
            .collect();
        let external = spec.external_ips.unwrap_or_default();
        let external_text = match kind.as_str() {
            "ExternalName" => spec.external_name.unwrap_or_default(),
            "LoadBalancer" if ingress.is_empty() && external.is_empty() => "<pending>".to_owned(),
            "LoadBalancer" => ingress.into_iter().chain(external).collect::<Vec<_>>().join(","),
            _ if external.is_empty() => NONE.to_owned(),
            _ => external.join(","),
        };
        vec![
            name(&self.metadata),
            json!(kind),
            json!(or_none(spec.cluster_ip.as_deref())),
            json!(external_text),
            json!(ports_text(&spec.ports.unwrap_or_default())),
            age(&self.metadata, now),
            json!(labels_text(spec.selector.as_ref())),
        ]
    }
}

fn ports_text(ports: &[ServicePort]) -> String {
    let port = |port: &ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.node_port.filter(|node_port| *node_port > 0) {
            Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
            None => format!("{}/{protocol}", port.port),
        }
    };
    or_none(Some(&ports.iter().map(port).collect::<Vec<_>>().join(",")))
}

impl Tabular for Event {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let micro = self.event_time.as_ref().map(|time| Time(time.0));
        let first = self.first_timestamp.clone().or_else(|| micro.clone());
        let series = self
            .series
            .as_ref()
            .and_then(|series| series.last_observed_time.as_ref())
            .map(|time| Time(time.0));
        let last = series.or_else(|| self.last_timestamp.clone()).or_else(|| first.clone());
        let count = self
            .series
            .as_ref()
            .and_then(|series| series.count)
            .or(self.count)
            .filter(|count| *count > 0)
            .unwrap_or(1);
        let about = &self.involved_object;
        let mut object = about.kind.clone().unwrap_or_default().to_lowercase();
        if let Some(about_name) = about.name.as_deref().filter(|name| !name.is_empty()) {
            object = format!("{object}/{about_name}");
        }
        let source = self.source.clone().unwrap_or_default();
        let component = source
            .component
            .filter(|text| !text.is_empty())
            .or_else(|| self.reporting_component.clone())
            .unwrap_or_default();
        let host = source
            .host
            .filter(|text| !text.is_empty())
            .or_else(|| self.reporting_instance.clone().filter(|text| !text.is_empty()));
        let source = host.map_or_else(|| component.clone(), |host| format!("{component}, {host}"));
        vec![
            json!(ago(last.as_ref(), now)),
            json!(self.type_.as_deref().unwrap_or_default()),
            json!(self.reason.as_deref().unwrap_or_default()),
            json!(object),
            json!(about.field_path.as_deref().unwrap_or_default()),
            json!(source),
            json!(self.message.as_deref().unwrap_or_default().trim()),
            json!(ago(first.as_ref(), now)),
            json!(count),
            name(&self.metadata),
        ]
    }
}

impl Tabular for ReplicaSet {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let template = spec.template.and_then(|template| template.spec);
        let [containers, images] = containers_text(template.as_ref().map(|spec| &spec.containers));
        vec![
            name(&self.metadata),
            json!(spec.replicas.unwrap_or(0)),
            json!(status.replicas),
            json!(status.ready_replicas.unwrap_or(0)),
            age(&self.metadata, now),
            containers,
            images,
            json!(selector_text(&spec.selector)),
        ]
    }
}

impl Tabular for Deployment {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let Some(spec) = self.spec.clone() else { return vec![name(&self.metadata)] };
        let status = self.status.clone().unwrap_or_default();
        let [containers, images] =
            containers_text(spec.template.spec.as_ref().map(|spec| &spec.containers));
        vec![
            name(&self.metadata),
            json!(format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0))),
            json!(status.updated_replicas.unwrap_or(0)),
            json!(status.available_replicas.unwrap_or(0)),
            age(&self.metadata, now),
            containers,
            images,
            json!(selector_text(&spec.selector)),
        ]
    }
}

impl Tabular for EndpointSlice {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let ports: Vec<String> = self
            .ports
            .iter()
            .flatten()
            .map(|port| port.port.map_or_else(|| "*".to_owned(), |port| port.to_string()))
            .collect();
        let ports_text = if ports.is_empty() { "<unset>".to_owned() } else { first(&ports) };
        let endpoints: Vec<String> = self
            .endpoints
            .iter()
            .flatten()
            .flat_map(|endpoint| endpoint.addresses.iter().cloned())
            .collect();
        let endpoints_text =
            if endpoints.is_empty() { "<unset>".to_owned() } else { first(&endpoints) };
        vec![
            name(&self.metadata),
            json!(self.address_type),
            json!(ports_text),
            json!(endpoints_text),
            age(&self.metadata, now),
        ]
    }
}

/// The first three, and how many more there are.
pub(super) fn first(all: &[String]) -> String {
    let shown = all.iter().take(MOST_ENDPOINTS).cloned().collect::<Vec<_>>().join(",");
    if all.len() > MOST_ENDPOINTS {
        format!("{shown} + {} more...", all.len() - MOST_ENDPOINTS)
    } else {
        shown
    }
}

impl Tabular for Lease {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let holder =
            self.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        vec![name(&self.metadata), json!(holder), age(&self.metadata, now)]
    }
}

impl Tabular for Source {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let commit = |commit: &Option<Commit>| {
            commit.as_ref().map_or_else(
                || NONE.to_owned(),
                |commit| format!("{:.7} {}", commit.id, commit.subject),
            )
        };
        let converged = match &status.converged {
            Some(verdict)
                if now.duration_since(verdict.checked_at.0).as_secs() <= STALE_SECONDS =>
            {
                if verdict.converged { "True" } else { "False" }
            }
            _ => "Unknown",
        };
        let problem = match () {
            () if status.unfollowed.is_some() => "followed no more".to_owned(),
            () if status.refused.is_some() => {
                format!("refused: {} problems", status.problems.len())
            }
            () if status.held.is_some() => "held: would remove too much".to_owned(),
            () if status.fetch_error.is_some() => "not fetched".to_owned(),
            () if status.delayed.is_some() => "delayed".to_owned(),
            () => NONE.to_owned(),
        };
        vec![
            name(&self.metadata),
            json!(commit(&status.applied)),
            json!(commit(&status.fetched).split(' ').next()),
            json!(converged),
            json!(problem),
            age(&self.metadata, now),
            json!(self.spec.url),
            json!(self.spec.branch),
            json!(self.spec.path),
        ]
    }
}

impl Tabular for Inventory {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name(&self.metadata),
            json!(format!("{:.7}", self.commit)),
            json!(self.objects.len()),
            age(&self.metadata, now),
        ]
    }
}

impl Tabular for Drift {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let status = self.status.as_ref();
        let origin = spec
            .origin
            .as_ref()
            .map(|origin| format!("{}:{}@{:.7}", origin.file, origin.line, origin.commit));
        vec![
            name(&self.metadata),
            json!(format!("{}/{}", spec.object.kind.row().singular, spec.object.name)),
            json!(format!("{:?}", spec.layer).to_lowercase()),
            json!(format!("{:?}", spec.class)),
            json!(spec.field),
            json!(
                status.map_or_else(|| UNKNOWN.to_owned(), |status| format!("{:?}", status.action))
            ),
            json!(
                status.map_or_else(|| UNKNOWN.to_owned(), |status| format!("{:?}", status.phase))
            ),
            json!(ago(status.map(|status| &status.since), now)),
            json!(or_none(spec.wanted.as_deref())),
            json!(or_none(spec.actual.as_deref())),
            json!(or_none(origin.as_deref())),
            json!(or_none(status.and_then(|status| status.cause.as_deref()))),
        ]
    }
}
