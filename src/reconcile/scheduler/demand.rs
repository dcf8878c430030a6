//! Pure: what a pod asks of a node, worked out once a pod instead of once a node, and held once for
//! all replicas that ask the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use crate::object::quantity::Quantity;
use crate::object::selector::{Requirement, Selector};
use crate::object::storage::claims_of;
use crate::object::taint::Tolerations;
use crate::object::{Key, Object, Pool};

/// A container without a CPU request counts as this much when nodes are compared, so that such
/// pods spread too (kube-scheduler `DefaultMilliCPURequest`). Never counted in the filter.
const SCORED_CPU_MILLIS: i64 = 100;
/// As above, for memory: 200 MB (kube-scheduler `DefaultMemoryRequest`).
const SCORED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Sums of resources; every addition saturates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Amounts {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    /// By resource name, for what is none of the above.
    pub extended: BTreeMap<String, i64>,
}

/// A port of the host that a pod takes for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub port: i32,
    /// `TCP` when the pod says nothing.
    pub protocol: String,
    /// `0.0.0.0` is every address of the host.
    pub ip: String,
}

/// What a pod takes from the node it is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Footprint {
    /// Counted by the filter: what the pod says.
    pub requests: Amounts,
    /// Counted by the score: what it says, or a default.
    pub scored_cpu_millis: i64,
    pub scored_memory_bytes: i64,
    pub ports: Vec<HostPort>,
    /// The claims that its volumes are; none, of most pods.
    pub claims: Vec<Key>,
    /// A hash of the controller's uid: pods of one owner spread. A collision of two owners costs
    /// a slightly worse spread, nothing else.
    pub owner: Option<u64>,
}

/// One alternative of a node affinity: all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Term {
    labels: Selector,
    fields: Selector,
    /// An empty term, or one with an operator that is none, selects no node.
    impossible: bool,
}

/// A pod that looks for a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    pub key: Key,
    pub uid: Arc<str>,
    pub template: Arc<Template>,
}

/// Everything that a pod asks, who it is excepted: the replicas of one owner ask the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Template {
    /// Higher goes first.
    pub priority: i32,
    pub footprint: Arc<Footprint>,
    pub tolerations: Tolerations,
    pub node_selector: Selector,
    /// Alternatives: one must hold. `None` asks nothing.
    pub required: Option<Vec<Term>>,
    /// Weight and term; the weights of the terms that hold are added.
    pub preferred: Vec<(i64, Term)>,
    pub images: Vec<String>,
}

/// What demands and charges have in common, each once.
#[derive(Debug, Default)]
pub struct Shared {
    templates: Pool<Template>,
    footprints: Pool<Footprint>,
}

/// What a pod is to the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It looks for a node, and we are whom it asks.
    Waits,
    /// It takes its share of this node.
    Bound(&'a str),
    /// It is done, and takes nothing from any node.
    Over,
    /// It has no node and is not to get one from us now: another scheduler's, gated, or going away.
    Aside,
}

/// The name that a pod carries when it says nothing of a scheduler.
const OUR_NAME: &str = "default-scheduler";

impl<'a> Standing<'a> {
    pub fn of(pod: &'a Pod) -> Self {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Self::Over;
        }
        let Some(spec) = &pod.spec else { return Self::Aside };
        if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
            return Self::Bound(node);
        }
        let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == OUR_NAME);
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        if ours && !gated && pod.metadata.deletion_timestamp.is_none() {
            Self::Waits
        } else {
            Self::Aside
        }
    }
}

impl Demand {
    pub fn of(pod: &Pod, shared: &mut Shared) -> Self {
        let template = Template::of(pod, shared);
        Self { key: pod.key(), uid: pod.uid().into(), template: shared.templates.share(template) }
    }
}

impl Template {
    fn of(pod: &Pod, shared: &mut Shared) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity
            .and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = affinity
            .and_then(|node| node.preferred_during_scheduling_ignored_during_execution.as_ref());
        Self {
            priority: spec.priority.unwrap_or(0),
            footprint: Footprint::of(pod, shared),
            tolerations: Tolerations(spec.tolerations.clone().unwrap_or_default()),
            node_selector: spec.node_selector.as_ref().map(Selector::of_map).unwrap_or_default(),
            required: required
                .map(|selector| selector.node_selector_terms.iter().map(Term::of).collect()),
            preferred: preferred
                .into_iter()
                .flatten()
                .map(|term| (i64::from(term.weight), Term::of(&term.preference)))
                .collect(),
            images: spec
                .containers
                .iter()
                .filter_map(|container| container.image.as_deref().map(with_tag))
                .collect(),
        }
    }
}

impl Footprint {
    pub fn of(pod: &Pod, shared: &mut Shared) -> Arc<Self> {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let owner = pod
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| fnv1a(owner.uid.as_bytes()));
        let scored = pod_requests(spec, |container| {
            let mut amounts = asked(container);
            let says = |name: &str| requests(container).is_some_and(|map| map.contains_key(name));
            if !says("cpu") {
                amounts.cpu_millis = SCORED_CPU_MILLIS;
            }
            if !says("memory") {
                amounts.memory_bytes = SCORED_MEMORY_BYTES;
            }
            amounts
        });
        shared.footprints.share(Self {
            requests: pod_requests(spec, asked),
            scored_cpu_millis: scored.cpu_millis,
            scored_memory_bytes: scored.memory_bytes,
            ports: host_ports(spec),
            claims: claims(pod, spec),
            owner,
        })
    }
}

impl Amounts {
    /// Reads the wire's map. An amount that is none (admission refuses it) counts as endless: it
    /// fits nowhere, instead of everywhere.
    pub fn of(map: &BTreeMap<String, WireQuantity>) -> Self {
        let mut amounts = Self::default();
        for (name, quantity) in map {
            let parsed = Quantity::parse(&quantity.0);
            let units = parsed.map_or(i64::MAX, Quantity::units);
            match name.as_str() {
                "cpu" => amounts.cpu_millis = parsed.map_or(i64::MAX, Quantity::millis),
                "memory" => amounts.memory_bytes = units,
                "ephemeral-storage" => amounts.ephemeral_bytes = units,
                "pods" => {}
                _ => {
                    amounts.extended.insert(name.clone(), units);
                }
            }
        }
        amounts
    }

    pub fn add(&mut self, other: &Amounts) {
        self.combine(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Amounts) {
        self.combine(other, i64::saturating_sub);
        self.extended.retain(|_, amount| *amount != 0);
    }

    /// The larger of the two, resource by resource.
    pub fn raise_to(&mut self, other: &Amounts) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Amounts, join: impl Fn(i64, i64) -> i64) {
        self.cpu_millis = join(self.cpu_millis, other.cpu_millis);
        self.memory_bytes = join(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = join(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_insert(0);
            *mine = join(*mine, *amount);
        }
    }
}

impl HostPort {
    /// Whether both cannot be taken on one host: same port and protocol, and an address in common.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == "0.0.0.0" || other.ip == "0.0.0.0")
    }
}

impl Term {
    pub fn of(term: &NodeSelectorTerm) -> Self {
        let labels = compile(term.match_expressions.as_deref().unwrap_or_default());
        let fields = compile(term.match_fields.as_deref().unwrap_or_default());
        match (labels, fields) {
            (Some(labels), Some(fields)) if !labels.is_everything() || !fields.is_everything() => {
                Self { labels, fields, impossible: false }
            }
            _ => Self { impossible: true, ..Self::default() },
        }
    }

    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.impossible
            && self.labels.matches(labels)
            && self.fields.matches_by(&|key| (key == "metadata.name").then_some(name))
    }
}

fn compile(requirements: &[NodeSelectorRequirement]) -> Option<Selector> {
    let one = |requirement: &NodeSelectorRequirement| {
        let key = requirement.key.clone();
        let values = requirement.values.clone().unwrap_or_default();
        let bound = || values.first().and_then(|value| value.parse::<i64>().ok());
        Some(match requirement.operator.as_str() {
            "In" => Requirement::In(key, values),
            "NotIn" => Requirement::NotIn(key, values),
            "Exists" => Requirement::Exists(key),
            "DoesNotExist" => Requirement::DoesNotExist(key),
            "Gt" => Requirement::Greater(key, bound()?),
            "Lt" => Requirement::Less(key, bound()?),
            _ => return None,
        })
    };
    Some(Selector { requirements: requirements.iter().map(one).collect::<Option<_>>()? })
}

fn requests(container: &Container) -> Option<&BTreeMap<String, WireQuantity>> {
    container.resources.as_ref()?.requests.as_ref()
}

fn asked(container: &Container) -> Amounts {
    requests(container).map(Amounts::of).unwrap_or_default()
}

/// The reference's rule (`component-helpers/resource.PodRequests`): containers and sidecars run at
/// the same time and are added; each plain init container runs alone beside the sidecars started
/// before it, so the pod needs the larger of the two. Overhead comes on top.
fn pod_requests(spec: &PodSpec, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut running = Amounts::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let (mut sidecars, mut starting) = (Amounts::default(), Amounts::default());
    for container in spec.init_containers.iter().flatten() {
        let mut alone = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&alone);
            sidecars.add(&alone);
            starting.raise_to(&sidecars);
        } else {
            alone.add(&sidecars);
            starting.raise_to(&alone);
        }
    }
    running.raise_to(&starting);
    if let Some(overhead) = &spec.overhead {
        running.add(&Amounts::of(overhead));
    }
    running
}

fn claims(pod: &Pod, spec: &PodSpec) -> Vec<Key> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    claims_of(spec).into_iter().map(|name| Key::new(namespace, name)).collect()
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            let protocol = port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
            Some(HostPort { port: number, protocol: protocol.to_owned(), ip: ip.to_owned() })
        })
        .collect()
}

/// `nginx` as nodes report it: `nginx:latest`.
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    let seed = 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(spec: serde_json::Value) -> Arc<Template> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
        Demand::of(&serde_json::from_value(pod).expect("a pod"), &mut Shared::default()).template
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn init_containers_raise_the_request_and_sidecars_add_to_it() {
        let mut sidecar = container("300m");
        sidecar["restartPolicy"] = json!("Always");
        let cpu = |init: Vec<serde_json::Value>| {
            let spec = json!({"containers": [container("100m"), container("100m")],
                "initContainers": init});
            template(spec).footprint.requests.cpu_millis
        };
        assert_eq!(cpu(vec![]), 200);
        assert_eq!(cpu(vec![container("150m")]), 200);
        assert_eq!(cpu(vec![container("1"), container("150m")]), 1000);
        assert_eq!(cpu(vec![sidecar.clone()]), 500);
        assert_eq!(cpu(vec![sidecar.clone(), container("1")]), 1300);
        assert_eq!(cpu(vec![container("1"), sidecar]), 1000);
    }

    #[test]
    fn a_silent_container_counts_only_in_the_score() {
        let spec = json!({"containers": [{"name": "a"}, container("0")]});
        let footprint = &template(spec).footprint;
        assert_eq!(footprint.requests, Amounts::default());
        assert_eq!(footprint.scored_cpu_millis, 100);
        assert_eq!(footprint.scored_memory_bytes, 2 * 200 * 1024 * 1024);
    }

    #[test]
    fn an_unreadable_request_fits_nowhere() {
        let footprint =
            &template(json!({"containers": [container("many"), container("1")]})).footprint;
        assert_eq!(footprint.requests.cpu_millis, i64::MAX);
    }

    #[test]
    fn host_ports_conflict_by_wildcard() {
        let port = |ip: &str| HostPort { port: 80, protocol: "TCP".into(), ip: ip.into() };
        assert!(port("0.0.0.0").conflicts(&port("10.0.0.1")));
        assert!(port("10.0.0.1").conflicts(&port("0.0.0.0")));
        assert!(!port("10.0.0.2").conflicts(&port("10.0.0.1")));
        let udp = HostPort { protocol: "UDP".into(), ..port("0.0.0.0") };
        assert!(!udp.conflicts(&port("0.0.0.0")));
        let spec = json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 1, "hostPort": 80}, {"containerPort": 2}]}]});
        assert_eq!(template(spec).footprint.ports, [port("0.0.0.0")]);
    }

    #[test]
    fn replicas_ask_the_same_and_it_is_held_once() {
        let mut shared = Shared::default();
        let mut read = |name: &str, owner: &str, image: &str| {
            let owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner,
                "uid": owner, "controller": true}]);
            let spec = json!({"containers": [{"name": "c", "image": image,
                    "resources": {"requests": {"cpu": "1", "example.com/gpu": "1"}}}],
                "nodeSelector": {"disk": "fast"},
                "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 300}]});
            let meta =
                json!({"name": name, "namespace": "n", "uid": name, "ownerReferences": owners});
            let pod = json!({"metadata": meta, "spec": spec});
            Demand::of(&serde_json::from_value(pod).expect("a pod"), &mut shared)
        };
        let (one, two) = (read("a", "r", "web:1"), read("b", "r", "web:1"));
        assert!(Arc::ptr_eq(&one.template, &two.template));
        assert_ne!(one, two);
        let newer = read("c", "r", "web:2");
        assert_ne!(one.template, newer.template);
        assert!(Arc::ptr_eq(&one.template.footprint, &newer.template.footprint));
        let other = read("d", "s", "web:1");
        assert_ne!(one.template.footprint, other.template.footprint, "owners spread apart");
        assert!(size_of::<Demand>() <= 72, "{} bytes", size_of::<Demand>());
    }

    #[test]
    fn an_empty_term_selects_no_node() {
        let labels = BTreeMap::from([("cores".to_owned(), "8".to_owned())]);
        let term = |value| Term::of(&serde_json::from_value(value).expect("a term"));
        let expression = |operator: &str| json!({"matchExpressions": [{"key": "cores", "operator": operator, "values": ["4"]}]});
        assert!(!term(json!({})).matches("n", &labels));
        assert!(term(expression("Gt")).matches("n", &labels));
        assert!(!term(expression("Lt")).matches("n", &labels));
        assert!(!term(expression("Near")).matches("n", &labels));
        let field =
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]});
        assert!(term(field.clone()).matches("n", &labels));
        assert!(!term(field).matches("m", &labels));
    }

    #[test]
    fn a_pod_is_ours_when_it_waits_for_nobody_else() {
        let standing = |pod: serde_json::Value| {
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            format!("{:?}", Standing::of(&pod))
        };
        assert_eq!(standing(json!({"spec": {"schedulerName": "default-scheduler"}})), "Waits");
        assert_eq!(standing(json!({"spec": {"schedulerName": "mine"}})), "Aside");
        assert_eq!(standing(json!({"spec": {"schedulingGates": [{"name": "g"}]}})), "Aside");
        assert_eq!(standing(json!({"spec": {"nodeName": "a"}})), "Bound(\"a\")");
        let over = json!({"spec": {"nodeName": "a"}, "status": {"phase": "Succeeded"}});
        assert_eq!(standing(over), "Over");
    }

    #[test]
    fn images_carry_their_tag() {
        assert_eq!(with_tag("nginx"), "nginx:latest");
        assert_eq!(with_tag("host:5000/nginx"), "host:5000/nginx:latest");
        assert_eq!(with_tag("nginx:1.27"), "nginx:1.27");
        assert_eq!(with_tag("nginx@sha256:ab"), "nginx@sha256:ab");
    }
}
