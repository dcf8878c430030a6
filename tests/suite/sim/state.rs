//! What the world is when a step has converged, as lines that can be compared: objects, containers
//! and rules. What chance draws (uids, suffixes of names, addresses) and what time writes is left
//! out; that addresses agree with each other is checked instead.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ballast::network::ruleset;
use ballast::node::instance::{Instance, Role};
use ballast::object::Kind;
use ballast::store::{ListRequest, Record, Sqlite, Store};
use serde_json::{Value, json};

use super::fake_kernel::FakeKernel;
use super::fake_runtime::FakeRuntime;

/// Lines, and how often each is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(BTreeMap<String, usize>);

impl State {
    pub fn read(store: &Sqlite, engine: &FakeRuntime, kernel: &FakeKernel) -> Self {
        let mut state = Self::default();
        let unnamed = engine.unnamed();
        for kind in Kind::all() {
            for mut object in list(store, kind) {
                if kind == Kind::Pod {
                    forget_restarts(&mut object, &unnamed);
                }
                if let Some(line) = line(kind, &object) {
                    state.add(line);
                }
            }
        }
        let mut containers = engine.containers();
        // As many as there was to do lately: nobody's, and no part of the outcome.
        containers.retain(|one| one.identity.role != Role::Spare);
        containers.retain(|one| one.is_running() || !unnamed.contains_key(&one.id));
        for instance in &containers {
            state.add(container(instance));
            let is_member = instance.is_running() && instance.joined.is_some();
            let name = engine.host_name_of(&instance.id).filter(|_| is_member);
            if let Some(name) = name.filter(|name| *name != instance.identity.pod_name) {
                state.add(format!("{} runs under the host name {name}", instance.name));
            }
        }
        // Of a sandbox it is chance whether it was started for its pod or before it.
        let of_pods = |name: &&String| !name.contains("_POD_") && !name.contains("_SPARE_");
        let started = engine.started().iter().filter(of_pods).count();
        state.add(format!("ever started: {}", started - unnamed.len().min(started)));
        state.add_addresses(store, &containers, kernel);
        state.add_rules(kernel);
        state
    }

    /// How many lines begin so.
    pub fn count(&self, beginning: &str) -> usize {
        self.0.iter().filter(|(line, _)| line.starts_with(beginning)).map(|(_, n)| n).sum()
    }

    /// How many lines hold this.
    pub fn count_holding(&self, part: &str) -> usize {
        self.0.iter().filter(|(line, _)| line.contains(part)).map(|(_, n)| n).sum()
    }

    /// What is different in `self` from `wanted`, a line each; empty where nothing is.
    pub fn difference(&self, wanted: &Self) -> String {
        let lines = self.0.keys().chain(wanted.0.keys().filter(|line| !self.0.contains_key(*line)));
        let told = lines.filter_map(|line| {
            let of = |state: &Self| state.0.get(line).copied().unwrap_or(0);
            (of(self) != of(wanted))
                .then(|| format!("  {} × (wanted {}) {line}\n", of(self), of(wanted)))
        });
        told.collect()
    }

    fn add(&mut self, line: String) {
        *self.0.entry(line).or_default() += 1;
    }

    /// Running sandboxes, pods' statuses, endpoints and rules must name the same addresses.
    fn add_addresses(&mut self, store: &Sqlite, containers: &[Instance], kernel: &FakeKernel) {
        let mut sandboxes: Vec<Ipv4Addr> = containers.iter().filter_map(|one| one.ip).collect();
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let pods = list(store, Kind::Pod);
        let mut pods: Vec<Ipv4Addr> =
            pods.iter().filter_map(|pod| address(&pod["status"]["podIP"])).collect();
        let mut endpoints: Vec<Ipv4Addr> = list(store, Kind::EndpointSlice)
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
            .filter_map(|endpoint| address(&endpoint["addresses"][0]))
            .collect();
        let tables = kernel.tables();
        let mut rules: Vec<Ipv4Addr> = tables
            .chains
            .values()
            .flat_map(|rules| ruleset::targets(rules).collect::<Vec<_>>())
            .map(|target| *target.ip())
            .collect();
        for list in [&mut sandboxes, &mut pods, &mut endpoints, &mut rules] {
            list.sort();
        }
        if sandboxes != pods || pods != endpoints || endpoints != rules {
            self.add(format!(
                "addresses differ: sandboxes {sandboxes:?}, pods {pods:?}, endpoints {endpoints:?}, rules {rules:?}"
            ));
        }
    }

    /// Every rule, with a pod's address as `POD`.
    fn add_rules(&mut self, kernel: &FakeKernel) {
        for (chain, rules) in kernel.tables().chains {
            self.add(format!("chain {chain}"));
            for rule in rules.iter() {
                let rule = rule.to_string();
                let words = rule.split(' ').map(|word| if is_pod(word) { "POD" } else { word });
                self.add(format!("rule {chain} {}", words.collect::<Vec<_>>().join(" ")));
            }
        }
    }
}

/// `10.42.0.7/32`, `10.42.0.7:8080`
fn is_pod(word: &str) -> bool {
    word.starts_with("10.42.0.") && !word.ends_with("/24") && !word.ends_with("/16")
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(line, count)| writeln!(f, "  {count} × {line}"))
    }
}

fn list(store: &Sqlite, kind: Kind) -> Vec<Value> {
    let select = |_: &Record| true;
    let request = ListRequest { namespace: None, limit: 0, after: None, at: None, select: &select };
    let page = store.list(kind, &request).expect("the latest state is there");
    page.items
        .iter()
        .map(|record| serde_json::from_slice(&record.body.text()).expect("JSON"))
        .collect()
}

/// A generated name without its five letters of chance.
fn stem(name: &str) -> String {
    format!("{}-*", name.rsplit_once('-').map_or(name, |(stem, _)| stem))
}

fn name(kind: Kind, object: &Value) -> String {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    let generated = matches!(kind, Kind::Pod | Kind::EndpointSlice);
    let name = if generated { stem(name) } else { name.to_owned() };
    let going = if meta["deletionTimestamp"].is_null() { "" } else { " (going)" };
    format!("{kind} {}/{name}{going}", meta["namespace"].as_str().unwrap_or_default())
}

fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter().any(|one| one["type"] == condition && one["status"] == "True")
    })
}

/// Those of containers that began under another host name, and are made anew for that.
fn forget_restarts(pod: &mut Value, unnamed: &BTreeMap<String, String>) {
    let of_pod = unnamed.values().filter(|uid| pod["metadata"]["uid"] == **uid).count();
    if let Some(count) = pod.pointer_mut("/status/containerStatuses/0/restartCount") {
        *count = json!(count.as_i64().unwrap_or_default() - i64::try_from(of_pod).expect("few"));
    }
}

/// `None`: decides nothing, or is never the same twice.
fn line(kind: Kind, object: &Value) -> Option<String> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let facts = match kind {
        Kind::Event | Kind::Lease => return None,
        Kind::Drift if status["phase"] == "Closed" => return None,
        Kind::Drift => json!([spec["object"]["kind"], spec["class"], spec["field"], status]),
        Kind::Node => {
            // A list that has become empty says the same as none.
            let taints = spec["taints"].as_array().cloned().unwrap_or_default();
            json!({ "ready": is_true(object, "Ready"), "taints": taints })
        }
        Kind::Namespace => status["phase"].clone(),
        Kind::ConfigMap | Kind::Secret => object["data"].clone(),
        Kind::Service | Kind::Source => spec.clone(),
        Kind::Inventory => object["commit"].clone(),
        Kind::StorageClass => object["provisioner"].clone(),
        Kind::PersistentVolume => json!([status["phase"], spec["claimRef"]["name"]]),
        Kind::PersistentVolumeClaim => json!([status["phase"], spec["storageClassName"]]),
        Kind::Deployment | Kind::ReplicaSet => json!({
            "wanted": spec["replicas"],
            "image": spec["template"]["spec"]["containers"][0]["image"],
            "seen": status["observedGeneration"] == object["metadata"]["generation"],
            "replicas": status["replicas"],
            "ready": status["readyReplicas"],
            "available": status["availableReplicas"],
            "updated": status["updatedReplicas"],
            "revision": object["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        }),
        Kind::Pod => json!({
            "image": spec["containers"][0]["image"],
            "node": spec["nodeName"],
            "phase": status["phase"],
            "ready": is_true(object, "Ready"),
            "restarts": status["containerStatuses"][0]["restartCount"],
        }),
        Kind::EndpointSlice => {
            let ready = |endpoint: &&Value| endpoint["conditions"]["ready"] == true;
            let endpoints = object["endpoints"].as_array().cloned().unwrap_or_default();
            json!({
                "ports": object["ports"],
                "endpoints": endpoints.len(),
                "ready": endpoints.iter().filter(ready).count(),
            })
        }
    };
    Some(format!("{} {facts}", name(kind, object)))
}

fn container(instance: &Instance) -> String {
    let of = &instance.identity;
    let what = if of.role == Role::Sandbox { "sandbox" } else { of.container.as_str() };
    let image = if of.role == Role::Sandbox { "pause" } else { instance.settings.image.as_str() };
    let (namespace, pod) = (&of.pod_namespace, stem(&of.pod_name));
    format!("container {what} of {namespace}/{pod}: {image} {:?}", instance.life)
}
