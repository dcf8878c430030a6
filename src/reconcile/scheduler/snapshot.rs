//! Pure: the nodes and what is promised on each of them, kept up to date one change at a time.
//!
//! Sums are kept, never recomputed: a decision on 1,000 nodes must not read 10,000 pods. An
//! assumed binding is a charge like any other; who makes and ends assumptions is the loop.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use crate::object::quantity::Quantity;
use crate::object::{Key, Object};
use crate::reconcile::scheduler::demand::{Amounts, Footprint, HostPort, with_tag};

/// One node as decisions see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    pub name: String,
    pub unschedulable: bool,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub allocatable: Amounts,
    /// How many pods the node takes.
    pub allocatable_pods: i64,
    /// Image by name with tag, size in bytes.
    pub images: HashMap<String, i64>,
    pub promised: Promised,
}

/// What the pods on a node take together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Promised {
    pub requests: Amounts,
    pub pods: i64,
    pub scored_cpu_millis: i64,
    pub scored_memory_bytes: i64,
    /// Counted, because two pods that were bound by hand may claim one port.
    pub ports: BTreeMap<HostPort, u32>,
    /// How many pods of an owner are here.
    pub owners: HashMap<u64, u32>,
}

#[derive(Clone, Debug)]
struct Charge {
    node: Arc<str>,
    footprint: Arc<Footprint>,
    /// Bound by us, not yet seen bound.
    assumed: bool,
}

/// All nodes with their promises.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    views: Vec<NodeView>,
    /// Node name to place in `views`.
    place: HashMap<Arc<str>, usize>,
    /// Pod uid to what it takes where.
    charges: HashMap<Arc<str>, Charge>,
    /// Pods on nodes that are not known: charged when the node appears.
    strays: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// On how many nodes an image is.
    image_nodes: HashMap<String, u32>,
    /// How many charged pods have a claim in their hands.
    claim_pods: HashMap<Key, u32>,
}

impl Snapshot {
    /// The nodes, in an order that changes only when a node comes or goes.
    pub fn nodes(&self) -> &[NodeView] {
        &self.views
    }

    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.place.get(name).map(|place| &self.views[*place])
    }

    /// On how many nodes an image is.
    pub fn nodes_with_image(&self, image: &str) -> u32 {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// Takes over a node. `true` when a pod that found no node may find one now; a mere heartbeat
    /// answers `false`.
    pub fn apply_node(&mut self, node: &Node) -> bool {
        let mut view = observe(node);
        self.count_images(&view.images, 1);
        if let Some(place) = self.place.get(view.name.as_str()).copied() {
            view.promised = std::mem::take(&mut self.views[place].promised);
            let old = std::mem::replace(&mut self.views[place], view);
            self.count_images(&old.images, -1);
            let new = &self.views[place];
            return old.unschedulable != new.unschedulable
                || old.labels != new.labels
                || old.taints != new.taints
                || old.allocatable != new.allocatable
                || old.allocatable_pods != new.allocatable_pods;
        }
        let strays = self.strays.remove_entry(view.name.as_str());
        let (name, strays) = strays.unwrap_or_else(|| (view.name.as_str().into(), BTreeSet::new()));
        for uid in strays {
            view.promised.take(&self.charges[&uid].footprint);
        }
        self.place.insert(name, self.views.len());
        self.views.push(view);
        true
    }

    /// The node is gone; its pods stay charged, in case it comes back under the same name.
    pub fn forget_node(&mut self, name: &str) {
        let Some((name, place)) = self.place.remove_entry(name) else { return };
        let gone = self.views.swap_remove(place);
        self.count_images(&gone.images, -1);
        if let Some(moved) = self.views.get(place)
            && let Some(its) = self.place.get_mut(moved.name.as_str())
        {
            *its = place;
        }
        let here = self.charges.iter().filter(|(_, charge)| charge.node == name);
        let uids: BTreeSet<Arc<str>> = here.map(|(uid, _)| uid.clone()).collect();
        if !uids.is_empty() {
            self.strays.insert(name, uids);
        }
    }

    /// Forgets every node that is not named.
    pub fn keep_nodes(&mut self, names: &BTreeSet<&str>) {
        let gone: Vec<String> = self
            .views
            .iter()
            .filter(|view| !names.contains(view.name.as_str()))
            .map(|view| view.name.clone())
            .collect();
        for name in gone {
            self.forget_node(&name);
        }
    }

    /// A pod takes its footprint on a node; what it took before, there or elsewhere, is given back.
    pub fn charge(
        &mut self,
        uid: impl Into<Arc<str>>,
        node: &str,
        footprint: Arc<Footprint>,
        assumed: bool,
    ) {
        let uid = uid.into();
        self.release(&uid);
        let node = match self.place.get_key_value(node) {
            Some((name, place)) => {
                self.views[*place].promised.take(&footprint);
                name.clone()
            }
            None => {
                let known = self.strays.get_key_value(node).map(|(name, _)| name.clone());
                let name = known.unwrap_or_else(|| node.into());
                self.strays.entry(name.clone()).or_default().insert(uid.clone());
                name
            }
        };
        for claim in &footprint.claims {
            *self.claim_pods.entry(claim.clone()).or_insert(0) += 1;
        }
        self.charges.insert(uid, Charge { node, footprint, assumed });
    }

    /// The pod takes nothing any more. `false` when it took nothing.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some(charge) = self.charges.remove(uid) else { return false };
        for claim in &charge.footprint.claims {
            if let Some(count) = self.claim_pods.get_mut(claim) {
                *count -= 1;
                if *count == 0 {
                    self.claim_pods.remove(claim);
                }
            }
        }
        match self.place.get(&charge.node) {
            Some(place) => self.views[*place].promised.give_back(&charge.footprint),
            None => {
                if let Some(uids) = self.strays.get_mut(&charge.node) {
                    uids.remove(uid);
                    if uids.is_empty() {
                        self.strays.remove(&charge.node);
                    }
                }
            }
        }
        true
    }

    /// Whether a pod that has a node uses a claim.
    pub fn is_used(&self, claim: &Key) -> bool {
        self.claim_pods.contains_key(claim)
    }

    /// The node a pod is charged on.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.charges.get(uid).map(|charge| &*charge.node)
    }

    /// Whether the pod's charge is our own assumption, unconfirmed.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.charges.get(uid).is_some_and(|charge| charge.assumed)
    }

    /// The watch shows the pod bound: the charge is no assumption any more.
    pub fn confirm(&mut self, uid: &str) {
        if let Some(charge) = self.charges.get_mut(uid) {
            charge.assumed = false;
        }
    }

    /// The pods that are charged, in no order.
    pub fn charged(&self) -> impl Iterator<Item = &Arc<str>> {
        self.charges.keys()
    }

    fn count_images(&mut self, images: &HashMap<String, i64>, step: i64) {
        for image in images.keys() {
            let count = self.image_nodes.entry(image.clone()).or_insert(0);
            *count = count.saturating_add_signed(if step > 0 { 1 } else { -1 });
            if *count == 0 {
                self.image_nodes.remove(image);
            }
        }
    }
}

impl Promised {
    fn take(&mut self, footprint: &Footprint) {
        self.requests.add(&footprint.requests);
        self.pods += 1;
        self.scored_cpu_millis = self.scored_cpu_millis.saturating_add(footprint.scored_cpu_millis);
        self.scored_memory_bytes =
            self.scored_memory_bytes.saturating_add(footprint.scored_memory_bytes);
        for port in &footprint.ports {
            *self.ports.entry(port.clone()).or_insert(0) += 1;
        }
        if let Some(owner) = footprint.owner {
            *self.owners.entry(owner).or_insert(0) += 1;
        }
    }

    fn give_back(&mut self, footprint: &Footprint) {
        self.requests.subtract(&footprint.requests);
        self.pods -= 1;
        self.scored_cpu_millis = self.scored_cpu_millis.saturating_sub(footprint.scored_cpu_millis);
        self.scored_memory_bytes =
            self.scored_memory_bytes.saturating_sub(footprint.scored_memory_bytes);
        for port in &footprint.ports {
            if let Some(count) = self.ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.ports.remove(port);
                }
            }
        }
        if let Some(owner) = footprint.owner
            && let Some(count) = self.owners.get_mut(&owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&owner);
            }
        }
    }
}

fn observe(node: &Node) -> NodeView {
    let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
    let allocatable = status.and_then(|status| status.allocatable.as_ref());
    let pods = allocatable.and_then(|map| map.get("pods"));
    let images = status.and_then(|status| status.images.as_ref()).into_iter().flatten();
    let names = images.flat_map(|image| {
        let size = image.size_bytes.unwrap_or(0);
        image.names.iter().flatten().map(move |name| (with_tag(name), size))
    });
    NodeView {
        name: node.key().name,
        unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
        allocatable: allocatable.map(readable).unwrap_or_default(),
        allocatable_pods: pods
            .and_then(|quantity| Quantity::parse(&quantity.0).ok())
            .map_or(0, Quantity::units),
        images: names.collect(),
        promised: Promised::default(),
    }
}

/// A node's amounts. One that cannot be read counts as nothing: a node never offers by mistake.
fn readable(map: &BTreeMap<String, WireQuantity>) -> Amounts {
    let parses = |text: &str| Quantity::parse(text).is_ok();
    let sound = map.iter().filter(|(_, quantity)| parses(&quantity.0));
    Amounts::of(&sound.map(|(name, quantity)| (name.clone(), quantity.clone())).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub fn node(name: &str, cpu: &str, memory: &str, pods: i64) -> Node {
        let allocatable = json!({"cpu": cpu, "memory": memory, "pods": pods.to_string()});
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": allocatable},
        }))
        .expect("a node")
    }

    #[test]
    fn a_claim_is_used_as_long_as_a_pod_with_a_node_has_it() {
        let claim = Key::new("a", "c");
        let uses = Arc::new(Footprint { claims: vec![claim.clone()], ..Footprint::default() });
        let mut snapshot = Snapshot::default();
        snapshot.charge("p", "a", uses.clone(), true);
        snapshot.charge("p", "a", uses.clone(), false);
        snapshot.charge("q", "b", uses, false);
        assert!(snapshot.release("p") && snapshot.is_used(&claim));
        assert!(snapshot.release("q") && !snapshot.is_used(&claim));
    }

    fn takes(cpu_millis: i64) -> Arc<Footprint> {
        let requests = Amounts { cpu_millis, ..Amounts::default() };
        Arc::new(Footprint { requests, owner: Some(7), ..Footprint::default() })
    }

    #[test]
    fn what_is_charged_is_given_back_to_the_last_bit() {
        let mut snapshot = Snapshot::default();
        snapshot.apply_node(&node("a", "4", "1Gi", 10));
        let empty = snapshot.node("a").cloned();
        snapshot.charge("p", "a", takes(500), true);
        assert!(snapshot.is_assumed("p"));
        snapshot.charge("p", "a", takes(500), false);
        assert_eq!(snapshot.node("a").expect("known").promised.requests.cpu_millis, 500);
        assert!(snapshot.release("p"));
        assert!(!snapshot.release("p"));
        assert_eq!(snapshot.node("a").cloned(), empty);
    }

    #[test]
    fn pods_of_a_node_that_comes_later_count_when_it_comes() {
        let mut snapshot = Snapshot::default();
        snapshot.charge("p", "a", takes(500), false);
        snapshot.charge("q", "a", takes(250), false);
        snapshot.release("q");
        snapshot.apply_node(&node("b", "4", "1Gi", 10));
        snapshot.apply_node(&node("a", "4", "1Gi", 10));
        assert_eq!(snapshot.node("a").expect("known").promised.requests.cpu_millis, 500);
        snapshot.forget_node("b");
        snapshot.forget_node("a");
        assert!(snapshot.nodes().is_empty());
        snapshot.apply_node(&node("a", "4", "1Gi", 10));
        assert_eq!(snapshot.node("a").expect("known").promised.pods, 1);
    }

    #[test]
    fn a_charge_holds_its_nodes_name_with_all_others() {
        let mut snapshot = Snapshot::default();
        snapshot.charge("p", "a", takes(500), false);
        snapshot.apply_node(&node("a", "4", "1Gi", 10));
        snapshot.apply_node(&node("b", "4", "1Gi", 10));
        snapshot.charge("q", "a", takes(500), true);
        snapshot.forget_node("a");
        snapshot.charge("r", "a", takes(500), false);
        let name = |uid: &str| snapshot.charges[uid].node.clone();
        assert!(Arc::ptr_eq(&name("p"), &name("q")) && Arc::ptr_eq(&name("p"), &name("r")));
        assert_eq!(snapshot.node("b").map(|node| &*node.name), Some("b"), "it has moved up");
    }

    #[test]
    fn a_heartbeat_wakes_nobody_and_an_uncordon_does() {
        let mut snapshot = Snapshot::default();
        let mut wire = node("a", "4", "1Gi", 10);
        assert!(snapshot.apply_node(&wire));
        wire.metadata.resource_version = Some("2".into());
        assert!(!snapshot.apply_node(&wire));
        wire.spec.get_or_insert_default().unschedulable = Some(true);
        assert!(snapshot.apply_node(&wire));
    }
}
