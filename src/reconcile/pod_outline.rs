//! Pure: what the controllers keep of a pod. Decoded whole, a pod of two containers is 32 kB in memory
//! for 5.5 kB of JSON, and the type with every field empty is still 3 kB; what they decide by is below
//! 300 bytes, and it is all that their cache holds.
//!
//! Decisions are made on outlines only: what a write has answered is outlined first. A controller that
//! begins to look at another field names it here. What is the same for thousands of pods (labels,
//! owner, node, ports) is held once, by the [`Outlines`] that made them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use crate::object::storage::claims_of;
use crate::object::{Key, Pool, condition};
use crate::reconcile::kept::{Facts, Kept, Place, revision_of};
use crate::reconcile::replica_set::deletion_rank::DELETION_COST;

/// The parts of a pod that some controller's decision reads.
#[derive(Clone, Debug, PartialEq)]
pub struct PodOutline {
    pub namespace: Arc<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub revision: u64,
    pub labels: Arc<BTreeMap<String, String>>,
    pub owners: Arc<Owners>,
    pub created: Option<Timestamp>,
    /// It has a deletionTimestamp.
    pub is_deleting: bool,
    /// What deleting it costs, as an annotation says.
    pub deletion_cost: i32,
    /// The node it is bound to; empty for none.
    pub node: Arc<str>,
    /// Its name in a Service that is its subdomain.
    pub host: Option<Arc<Host>>,
    /// The ports that a Service may name.
    pub ports: Arc<[NamedPort]>,
    /// The claims that its volumes are; `None` for none, as of most pods.
    pub claims: Option<Arc<Vec<String>>>,
    pub phase: Phase,
    /// Its condition Ready is True.
    pub is_ready: bool,
    /// When it last became ready; `None` where it is not, or does not say.
    pub ready_since: Option<Timestamp>,
    /// The IPv4 address; a pod may have one of each family.
    pub address: Option<Ipv4Addr>,
    /// The most restarts of one regular container.
    pub restarts: i32,
    /// The most restarts of one restartable init container.
    pub sidecar_restarts: i32,
}

/// `status.phase`; a pod without one is Pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

/// A pod that has a hostname, where it counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    pub hostname: String,
    pub subdomain: String,
}

/// A container's port that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedPort {
    pub name: String,
    pub protocol: String,
    pub number: i32,
}

/// An object's owner references.
#[derive(Clone, Debug, PartialEq)]
pub struct Owners(pub Vec<OwnerReference>);

/// They are texts and flags: each equals itself.
impl Eq for Owners {}

impl Hash for Owners {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|owner| owner.uid.hash(state));
    }
}

impl PodOutline {
    /// The claims that it uses, by their keys.
    pub fn claim_keys(&self) -> impl Iterator<Item = Key> + '_ {
        let names = self.claims.iter().flat_map(|claims| claims.iter());
        names.map(|name| Key::new(&*self.namespace, name.as_str()))
    }

    /// Whether a node may have what it uses in its hands.
    pub fn uses_claims(&self) -> bool {
        !self.node.is_empty() && !matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    pub fn key(&self) -> Key {
        self.place().key()
    }
}

impl Kept for PodOutline {
    type Whole = Pod;

    fn place(&self) -> Place<'_> {
        Place { namespace: &self.namespace, name: &self.name }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            place: self.place(),
            uid: &self.uid,
            revision: self.revision,
            labels: Some(&self.labels),
            owners: &self.owners.0,
            is_deleting: self.is_deleting,
        }
    }

    fn of_whole(whole: Arc<Pod>) -> Arc<Self> {
        outline(&whole)
    }
}

/// The outline of a pod that comes alone, as the answer of a write: it shares nothing.
pub fn outline(pod: &Pod) -> Arc<PodOutline> {
    Arc::new(Outlines::default().of(pod))
}

/// Makes outlines, and holds once what many of them have in common.
#[derive(Debug, Default)]
pub struct Outlines {
    /// Namespaces and nodes.
    names: Pool<str>,
    labels: Pool<BTreeMap<String, String>>,
    owners: Pool<Owners>,
    hosts: Pool<Host>,
    ports: Pool<[NamedPort]>,
    claims: Pool<Vec<String>>,
}

impl Outlines {
    pub fn of(&mut self, pod: &Pod) -> PodOutline {
        let (none, no_spec, no_status) =
            (BTreeMap::new(), PodSpec::default(), PodStatus::default());
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref().unwrap_or(&no_spec);
        let status = pod.status.as_ref().unwrap_or(&no_status);
        let sidecars: Vec<&Container> =
            spec.init_containers.iter().flatten().filter(|one| is_sidecar(one)).collect();
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let ready = condition::find(conditions, "Ready").filter(|ready| ready.status == "True");
        let time = |time: &Time| time.0;
        PodOutline {
            namespace: self.names.share_ref(meta.namespace.as_deref().unwrap_or_default()),
            name: meta.name.as_deref().unwrap_or_default().into(),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            revision: revision_of(pod),
            labels: self.labels.share_clone(meta.labels.as_ref().unwrap_or(&none)),
            owners: self.owners.share(Owners(meta.owner_references.clone().unwrap_or_default())),
            created: meta.creation_timestamp.as_ref().map(time),
            is_deleting: meta.deletion_timestamp.is_some(),
            deletion_cost: deletion_cost(pod),
            node: self.names.share_ref(spec.node_name.as_deref().unwrap_or_default()),
            host: host(spec).map(|host| self.hosts.share(host)),
            ports: self.ports.share_ref(&named_ports(spec, &sidecars)),
            claims: Some(claims_of(spec))
                .filter(|claims| !claims.is_empty())
                .map(|claims| self.claims.share(claims)),
            phase: phase(status),
            is_ready: ready.is_some(),
            ready_since: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(time),
            address: address(status),
            restarts: restarts(status),
            sidecar_restarts: sidecar_restarts(status, &sidecars),
        }
    }
}

/// Restartable: it runs beside the regular containers.
fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// An annotation that is no integer counts as none, as in Kubernetes: admission has refused it.
fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get(DELETION_COST));
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A hostname counts in its own subdomain only.
fn host(spec: &PodSpec) -> Option<Host> {
    let hostname = spec.hostname.clone().filter(|hostname| !hostname.is_empty())?;
    Some(Host { hostname, subdomain: spec.subdomain.clone()? })
}

/// In the order in which a name is looked for: where two ports have it, the first counts.
fn named_ports(spec: &PodSpec, sidecars: &[&Container]) -> Vec<NamedPort> {
    let containers = spec.containers.iter().chain(sidecars.iter().copied());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        Some(NamedPort {
            name: port.name.clone()?,
            protocol: protocol(port.protocol.as_deref()).to_owned(),
            number: port.container_port,
        })
    });
    named.collect()
}

/// The protocol of a port, of a pod or of a Service.
pub fn protocol(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or("TCP")
}

fn phase(status: &PodStatus) -> Phase {
    match status.phase.as_deref() {
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some("Unknown") => Phase::Unknown,
        _ => Phase::Pending,
    }
}

fn address(status: &PodStatus) -> Option<Ipv4Addr> {
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    all.chain(status.pod_ip.as_deref()).find_map(|ip| ip.parse().ok())
}

fn restarts(status: &PodStatus) -> i32 {
    let counts = status.container_statuses.iter().flatten();
    counts.map(|container| container.restart_count).max().unwrap_or_default()
}

fn sidecar_restarts(status: &PodStatus, sidecars: &[&Container]) -> i32 {
    let sidecars: BTreeSet<&str> = sidecars.iter().map(|sidecar| sidecar.name.as_str()).collect();
    let counts = status.init_container_statuses.iter().flatten();
    let counts = counts.filter(|container| sidecars.contains(container.name.as_str()));
    counts.map(|container| container.restart_count).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::reconcile::indexed::pod_terms;

    fn one_of(values: Vec<Value>) -> impl Strategy<Value = Value> {
        prop::sample::select(values)
    }

    /// Pods with everything that a decision could depend on, and with what none does.
    fn any_pod() -> impl Strategy<Value = Value> {
        let meta = (
            one_of(vec![json!(null), json!("2026-01-01T00:00:00Z")]),
            one_of(vec![
                json!(null),
                json!({DELETION_COST: "-3", "other": "x"}),
                json!({DELETION_COST: "much"}),
                json!({"o": "x"}),
            ]),
            one_of(vec![
                json!(null),
                json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u-n"},
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u-r",
                        "controller": true, "blockOwnerDeletion": true}]),
            ]),
        );
        let spec = (
            one_of(vec![json!(null), json!("n1")]),
            one_of(vec![json!(null), json!(""), json!("h")]),
            one_of(vec![json!(null), json!("web")]),
            one_of(vec![
                json!(null),
                json!([{"containerPort": 80}]),
                json!([{"containerPort": 81, "name": "http"}, {"containerPort": 53, "protocol": "UDP", "name": "http"}]),
            ]),
        );
        let status = (
            one_of(
                ["Pending", "Running", "Succeeded", "Failed", "Unknown"].map(Value::from).to_vec(),
            ),
            one_of(vec![json!("True"), json!("False"), json!("Unknown")]),
            one_of(vec![
                json!([]),
                json!(["10.42.0.7"]),
                json!(["fd00::7", "10.42.0.7"]),
                json!(["fd00::7"]),
            ]),
            0..3,
            0..3,
        );
        (meta, spec, status).prop_map(|(meta, spec, status)| {
            let (deleted, annotations, owners) = meta;
            let (node, hostname, subdomain, ports) = spec;
            let (phase, is_ready, ips, restarts, sidecar_restarts) = status;
            let ips: Vec<Value> = ips.as_array().expect("a list").iter().map(|ip| json!({"ip": ip})).collect();
            let count = |name: &str, count: i32| json!({"name": name, "restartCount": count,
                "image": "i", "imageID": "i", "ready": true});
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "a", "uid": "u", "resourceVersion": "7",
                    "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web", "v": "1"},
                    "deletionTimestamp": deleted, "annotations": annotations, "ownerReferences": owners},
                "spec": {"nodeName": node, "hostname": hostname, "subdomain": subdomain,
                    "initContainers": [{"name": "once", "image": "i",
                            "ports": [{"containerPort": 70, "name": "once"}]},
                        {"name": "side", "image": "i", "restartPolicy": "Always",
                            "ports": [{"containerPort": 90, "name": "side"}]}],
                    "containers": [{"name": "c", "image": "i", "ports": ports,
                        "env": [{"name": "A", "value": "b"}]}]},
                "status": {"phase": phase, "podIP": ips.first().map(|ip| &ip["ip"]), "podIPs": ips,
                    "conditions": [{"type": "PodScheduled", "status": "True",
                            "lastTransitionTime": "2026-01-01T00:00:30Z"},
                        {"type": "Ready", "status": is_ready,
                            "lastTransitionTime": "2026-01-01T00:01:00Z"}],
                    "initContainerStatuses": [count("once", 9), count("side", sidecar_restarts)],
                    "containerStatuses": [count("c", restarts), count("d", 1)]},
            })
        })
    }

    fn of(pod: &Value) -> Arc<PodOutline> {
        outline(&serde_json::from_value(pod.clone()).expect("a pod"))
    }

    fn time(text: &str) -> Option<Timestamp> {
        Some(text.parse().expect("a time"))
    }

    proptest! {
        /// The document, read by its paths, says the same.
        #[test]
        fn it_says_what_the_pod_says(pod in any_pod()) {
            let kept = of(&pod);
            let (meta, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
            prop_assert_eq!(kept.key(), Key::new("a", "p"));
            prop_assert_eq!((&*kept.uid, kept.revision), ("u", 7));
            prop_assert_eq!(json!(*kept.labels), meta["labels"].clone());
            let owners = meta["ownerReferences"].as_array().cloned().unwrap_or_default();
            prop_assert_eq!(json!(kept.owners.0), json!(owners));
            prop_assert_eq!(kept.created, time("2026-01-01T00:00:00Z"));
            prop_assert_eq!(kept.is_deleting, meta["deletionTimestamp"].is_string());
            let cost = if meta["annotations"][DELETION_COST] == "-3" { -3 } else { 0 };
            prop_assert_eq!(kept.deletion_cost, cost);

            prop_assert_eq!(&*kept.node, spec["nodeName"].as_str().unwrap_or_default());
            let host = (spec["hostname"] == "h" && spec["subdomain"] == "web").then_some(("h", "web"));
            let kept_host = kept.host.as_ref().map(|host| (&*host.hostname, &*host.subdomain));
            prop_assert_eq!(kept_host, host);
            let all = spec["containers"][0]["ports"].as_array().into_iter().flatten();
            let all = all.chain(spec["initContainers"][1]["ports"].as_array().into_iter().flatten());
            let named: Vec<(&str, &str, i64)> = all
                .filter_map(|port| Some((port["name"].as_str()?, port["protocol"].as_str().unwrap_or("TCP"), port["containerPort"].as_i64()?)))
                .collect();
            let kept_ports: Vec<(&str, &str, i64)> =
                kept.ports.iter().map(|port| (&*port.name, &*port.protocol, port.number.into())).collect();
            prop_assert_eq!(kept_ports, named);

            prop_assert_eq!(json!(format!("{:?}", kept.phase)), status["phase"].clone());
            let is_ready = status["conditions"][1]["status"] == "True";
            prop_assert_eq!(kept.is_ready, is_ready);
            prop_assert_eq!(kept.ready_since, is_ready.then(|| time("2026-01-01T00:01:00Z")).flatten());
            let ips = status["podIPs"].as_array().expect("a list");
            let address = ips.iter().any(|ip| ip["ip"] == "10.42.0.7").then_some(Ipv4Addr::new(10, 42, 0, 7));
            prop_assert_eq!(kept.address, address);
            let count = |list: &str, index: usize| status[list][index]["restartCount"].as_i64().expect("a count");
            let restarts = count("containerStatuses", 0).max(count("containerStatuses", 1));
            prop_assert_eq!(i64::from(kept.restarts), restarts);
            prop_assert_eq!(i64::from(kept.sidecar_restarts), count("initContainerStatuses", 1));
        }
    }

    #[test]
    fn a_pod_that_says_nothing_is_pending_and_nowhere() {
        let kept = of(&json!({"apiVersion": "v1", "kind": "Pod"}));
        assert_eq!((kept.phase, &*kept.node, kept.address), (Phase::Pending, "", None));
        assert!(!kept.is_ready && !kept.is_deleting && kept.ports.is_empty());
        assert_eq!((kept.restarts, kept.sidecar_restarts, kept.deletion_cost), (0, 0, 0));
    }

    /// A pod of a ReplicaSet, as the API and a node's agent have made it.
    fn replica(name: &str) -> Pod {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("web-5d4f8c7b9-{name}"), "namespace": "production",
                "uid": "0b7c3f62-8f5e-4f0e-9d57-3f2b8a1c6d4e", "resourceVersion": "123456",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"},
                "annotations": {"a": "x".repeat(1000)},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9",
                    "uid": "5b0e6a3c-1f4d-4f5e-8a68-0f2b8a1c6d4e", "controller": true}]},
            "spec": {"nodeName": "n1", "hostname": "h", "subdomain": "web",
                "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}],
                    "env": (0..50).map(|n| json!({"name": format!("N{n}"), "value": "v"})).collect::<Vec<_>>()}]},
            "status": {"phase": "Running", "podIP": "10.42.0.7", "conditions": [{"type": "Ready",
                "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}]},
        }))
        .expect("a pod")
    }

    #[test]
    fn what_replicas_have_in_common_is_there_once() {
        let mut outlines = Outlines::default();
        let (one, other) = (outlines.of(&replica("aaaaa")), outlines.of(&replica("bbbbb")));
        assert_ne!(one, other);
        assert!(Arc::ptr_eq(&one.namespace, &other.namespace));
        assert!(Arc::ptr_eq(&one.labels, &other.labels));
        assert!(Arc::ptr_eq(&one.owners, &other.owners));
        assert!(Arc::ptr_eq(&one.node, &other.node));
        assert!(Arc::ptr_eq(&one.ports, &other.ports));
        let hosts = (one.host.as_ref().expect("one"), other.host.as_ref().expect("one"));
        assert!(Arc::ptr_eq(hosts.0, hosts.1));
        // Made alone it is the same.
        assert_eq!(one, *outline(&replica("aaaaa")));
        // Another owner with the same uid is another value all the same.
        let mut renamed = replica("ccccc");
        renamed.metadata.owner_references.as_mut().expect("owned")[0].controller = None;
        assert_ne!(one.owners, outlines.of(&renamed).owners);
    }

    /// Everything that the cache holds of one replica, its index included, at an allocator's and a
    /// B-tree's worst.
    #[test]
    fn a_replica_costs_the_cache_less_than_450_bytes() {
        /// What an allocation takes: a header, in steps of 16.
        fn allocated(bytes: usize) -> usize {
            (bytes + size_of::<usize>()).next_multiple_of(16).max(32)
        }
        let kept = Outlines::default().of(&replica("aaaaa"));
        let counts = 2 * size_of::<usize>();
        let own = allocated(counts + size_of::<PodOutline>())
            + allocated(kept.name.len())
            + allocated(kept.uid.len());
        // A leaf has room for 11 pointers and at least 5 in it, an inner node 12 edges more for at
        // least 5 of its own and 6 leaves.
        let leaf = allocated(11 * size_of::<usize>() + 16);
        let inner = allocated(23 * size_of::<usize>() + 16);
        let entry = (6 * leaf + inner).div_ceil(6 * 5 + 5);
        let sets = 1 + pod_terms(&kept).len();
        assert_eq!(sets, 4, "by key, by owner, by each of two labels");
        let all = own + sets * entry;
        assert!(all <= 450, "{own} bytes of its own and {sets} entries of {entry}: {all}");
    }
}
