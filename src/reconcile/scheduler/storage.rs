//! Pure: what the volumes of a pod say about nodes (kube-scheduler's VolumeBinding and
//! VolumeRestrictions).
//!
//! A claim that is bound ties its pod to where its volume is. One that waits for its first consumer
//! gets, with the node, a volume that is there already or the node's word to make one; the pod is
//! bound when all its claims are. What was chosen counts from the moment it is chosen: the next pod
//! with the same claim must come to the same node, and another claim must not get the same volume.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::object::storage::{
    READ_WRITE_ONCE_POD, SELECTED_NODE, WAIT_FOR_FIRST_CONSUMER, annotation, class_of, is_bound,
    is_kept_for, is_ours, volume_of,
};
use crate::object::{Change, Key, Object};
use crate::reconcile::persistent_volume::matching::{best, is_on};
use crate::reconcile::scheduler::filter::Refusal;
use crate::reconcile::scheduler::snapshot::NodeView;

/// Claims, volumes and classes as the watches have told, and what was chosen since.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    claims: HashMap<Key, Arc<PersistentVolumeClaim>>,
    /// In the order of their names, as a match is drawn.
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    /// By the claim's uid.
    chosen: HashMap<String, Chosen>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chosen {
    what: Choice,
    /// The write was answered; its watch may not have told yet.
    is_written: bool,
}

/// What a claim gets with its pod's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The node makes a volume.
    Node(String),
    /// A volume that is there.
    Volume(String),
}

/// A choice that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub claim: Arc<PersistentVolumeClaim>,
    pub what: Choice,
    /// The volume, for [`Choice::Volume`].
    pub volume: Option<Arc<PersistentVolume>>,
}

/// The claims of one pod that is looked at.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'s> {
    /// Of claims that are bound.
    volumes: Vec<&'s PersistentVolume>,
    /// A bound claim's volume is not there.
    is_volume_missing: bool,
    waiting: Vec<&'s Arc<PersistentVolumeClaim>>,
    /// A claim for one pod is another pod's.
    is_in_use: bool,
}

impl Wanted<'_> {
    /// Whether a claim of the pod waits for its node.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// How far the claims of a pod are whose node is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// All are bound to volumes that the node reaches.
    Ready,
    NotYet,
    /// The choice holds no more: the pod looks for a node again.
    Broken,
}

impl Storage {
    pub fn see_claims(&mut self, change: Change<Arc<PersistentVolumeClaim>>) {
        match change {
            Change::Reset(claims) => {
                // A choice that was written and is not there was taken back while nobody looked.
                self.chosen.retain(|_, chosen| !chosen.is_written);
                self.claims.clear();
                claims.into_iter().for_each(|claim| self.see_claim(claim));
            }
            Change::Applied(claim) => self.see_claim(claim),
            Change::Deleted(claim) => {
                self.chosen.remove(claim.uid());
                self.claims.remove(&claim.key());
            }
        }
    }

    fn see_claim(&mut self, claim: Arc<PersistentVolumeClaim>) {
        let is_selected = annotation(&claim.metadata, SELECTED_NODE).is_some();
        if volume_of(&claim).is_some() || is_selected {
            self.chosen.remove(claim.uid());
        }
        self.claims.insert(claim.key(), claim);
    }

    pub fn see_volumes(&mut self, change: Change<Arc<PersistentVolume>>) {
        match change {
            Change::Reset(volumes) => {
                self.volumes = volumes.into_iter().map(|own| (own.key().name, own)).collect();
            }
            Change::Applied(volume) => {
                self.volumes.insert(volume.key().name, volume);
            }
            Change::Deleted(volume) => {
                self.volumes.remove(&volume.key().name);
            }
        }
    }

    pub fn see_classes(&mut self, change: Change<Arc<StorageClass>>) {
        match change {
            Change::Reset(classes) => {
                self.classes = classes.into_iter().map(|own| (own.key().name, own)).collect();
            }
            Change::Applied(class) => {
                self.classes.insert(class.key().name, class);
            }
            Change::Deleted(class) => {
                self.classes.remove(&class.key().name);
            }
        }
    }

    /// What a pod's claims ask of a node. `is_used` tells of a claim whether another pod has it.
    ///
    /// # Errors
    /// Why no node will do, in kube-scheduler's words.
    pub fn wanted(
        &self,
        claims: &[Key],
        is_used: impl Fn(&Key) -> bool,
    ) -> Result<Wanted<'_>, String> {
        let mut wanted = Wanted::default();
        let mut is_unbound = false;
        for key in claims {
            let name = &key.name;
            let claim = self
                .claims
                .get(key)
                .ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase == Some("Lost") {
                let volume = volume_of(claim).unwrap_or_default();
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref());
            let is_for_one = modes.into_iter().flatten().any(|mode| mode == READ_WRITE_ONCE_POD);
            wanted.is_in_use |= is_for_one && is_used(key);
            match self.volume_of(claim) {
                Some(volume) if is_bound(claim, volume) => wanted.volumes.push(volume),
                None if volume_of(claim).is_some() && phase == Some("Bound") => {
                    wanted.is_volume_missing = true;
                }
                _ if self.waits(claim) && volume_of(claim).is_none() => wanted.waiting.push(claim),
                _ => is_unbound = true,
            }
        }
        if is_unbound {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        Ok(wanted)
    }

    fn volume_of(&self, claim: &PersistentVolumeClaim) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(volume_of(claim)?)
    }

    /// Whether a claim's class waits for a pod.
    fn waits(&self, claim: &PersistentVolumeClaim) -> bool {
        let class = class_of(claim).and_then(|name| self.classes.get(name));
        let mode = class.and_then(|class| class.volume_binding_mode.as_deref());
        mode == Some(WAIT_FOR_FIRST_CONSUMER)
    }

    /// What speaks against a node.
    pub fn refusal(&self, wanted: &Wanted<'_>, node: &NodeView) -> Option<Refusal> {
        if wanted.is_in_use {
            return Some(Refusal::ClaimInUse);
        }
        if wanted.is_volume_missing {
            return Some(Refusal::VolumeMissing);
        }
        if !wanted.volumes.iter().all(|volume| is_on(volume, &node.name, &node.labels)) {
            return Some(Refusal::VolumeAffinity);
        }
        self.assignments(wanted, node).is_none().then_some(Refusal::VolumeBinding)
    }

    /// What each waiting claim gets on a node, as far as it is not written yet; `None`: not all get
    /// something.
    pub fn assignments(&self, wanted: &Wanted<'_>, node: &NodeView) -> Option<Vec<Assignment>> {
        let mut all = Vec::new();
        let mut taken: HashSet<String> = self
            .chosen
            .values()
            .filter_map(|chosen| match &chosen.what {
                Choice::Volume(name) => Some(name.clone()),
                Choice::Node(_) => None,
            })
            .collect();
        for claim in &wanted.waiting {
            match self.chosen.get(claim.uid()).map(|chosen| &chosen.what) {
                Some(Choice::Node(own)) if *own == node.name => continue,
                Some(Choice::Volume(name)) if self.is_there(name, node) => continue,
                Some(_) => return None,
                None => {}
            }
            match annotation(&claim.metadata, SELECTED_NODE) {
                Some(own) if own == node.name => continue,
                Some(_) => return None,
                None => {}
            }
            let free = self.volumes.iter().filter(|(name, _)| !taken.contains(*name));
            let here = |volume: &PersistentVolume| is_on(volume, &node.name, &node.labels);
            let matched = best(claim, free.map(|(_, volume)| volume), true, Some(&here));
            let (what, volume) = match matched {
                Some(volume) => {
                    let name = volume.key().name;
                    taken.insert(name.clone());
                    (Choice::Volume(name), Some(volume.clone()))
                }
                None if self.is_kept_elsewhere(claim) || !self.provisions(claim, node) => {
                    return None;
                }
                None => (Choice::Node(node.name.clone()), None),
            };
            all.push(Assignment { claim: (*claim).clone(), what, volume });
        }
        Some(all)
    }

    fn is_there(&self, volume: &str, node: &NodeView) -> bool {
        self.volumes.get(volume).is_some_and(|volume| is_on(volume, &node.name, &node.labels))
    }

    /// A volume that was written for the claim is on another node: no other is made.
    fn is_kept_elsewhere(&self, claim: &PersistentVolumeClaim) -> bool {
        self.volumes.values().any(|volume| is_kept_for(volume, claim))
    }

    /// Whether a node makes volumes of the claim's class. A provisioner makes what is asked for by
    /// class and size; it cannot make a volume that has labels.
    fn provisions(&self, claim: &PersistentVolumeClaim, node: &NodeView) -> bool {
        let Some(class) = class_of(claim).and_then(|name| self.classes.get(name)) else {
            return false;
        };
        let has_selector = claim.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
        is_ours(&class.provisioner) && !has_selector && reaches(class, node)
    }

    /// The choices count from now on.
    pub fn choose(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            let chosen = Chosen { what: assignment.what.clone(), is_written: false };
            self.chosen.insert(assignment.claim.uid().to_owned(), chosen);
        }
    }

    /// The writes were answered.
    pub fn confirm(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            if let Some(chosen) = self.chosen.get_mut(assignment.claim.uid()) {
                chosen.is_written = true;
            }
        }
    }

    /// A write failed: what the watches tell counts again.
    pub fn take_back(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            self.chosen.remove(assignment.claim.uid());
        }
    }

    /// How far the claims of a pod are on the node that was chosen for it.
    pub fn readiness(&self, claims: &[Key], node: &NodeView) -> Readiness {
        let mut all = Readiness::Ready;
        for key in claims {
            let Some(claim) = self.claims.get(key) else { return Readiness::Broken };
            if claim.metadata.deletion_timestamp.is_some() {
                return Readiness::Broken;
            }
            let is_here = |volume: &Arc<PersistentVolume>| is_on(volume, &node.name, &node.labels);
            match self.volume_of(claim) {
                Some(volume) if is_bound(claim, volume) && is_here(volume) => {}
                Some(volume) if is_bound(claim, volume) => return Readiness::Broken,
                _ if volume_of(claim).is_some() => all = Readiness::NotYet,
                _ => {
                    let selected = annotation(&claim.metadata, SELECTED_NODE);
                    let is_chosen = self.chosen.contains_key(claim.uid())
                        || selected == Some(&node.name)
                        || self.volumes.values().any(|own| is_kept_for(own, claim) && is_here(own));
                    if !is_chosen {
                        return Readiness::Broken;
                    }
                    all = Readiness::NotYet;
                }
            }
        }
        all
    }

    /// The claims of a pod that wait for a volume of a node, if `is_given_up` says so of the node.
    pub fn selected(
        &self,
        claims: &[Key],
        is_given_up: impl Fn(&str) -> bool,
    ) -> Vec<Arc<PersistentVolumeClaim>> {
        let found = claims.iter().filter_map(|key| self.claims.get(key));
        let waits = found.filter(|claim| {
            let node = annotation(&claim.metadata, SELECTED_NODE);
            volume_of(claim).is_none() && node.is_some_and(&is_given_up)
        });
        waits.cloned().collect()
    }
}

/// Whether a class' volumes may be made on a node: one of its terms holds, or it has none.
fn reaches(class: &StorageClass, node: &NodeView) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    terms.is_empty()
        || terms.iter().any(|term| {
            term.match_label_expressions.iter().flatten().all(|expression| {
                let value = node.labels.get(&expression.key);
                value.is_some_and(|value| expression.values.contains(value))
            })
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn class(name: &str, mode: &str, change: Value) -> Arc<StorageClass> {
        let mut object = json!({"metadata": {"name": name}, "volumeBindingMode": mode,
            "provisioner": "ballast.dev/local-path"});
        json_patch::merge(&mut object, &change);
        Arc::new(serde_json::from_value(object).expect("a class"))
    }

    fn claim(name: &str, change: Value) -> Arc<PersistentVolumeClaim> {
        let mut object = json!({"metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "waits",
                "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
        json_patch::merge(&mut object, &change);
        Arc::new(serde_json::from_value(object).expect("a claim"))
    }

    fn volume(name: &str, node: &str, change: Value) -> Arc<PersistentVolume> {
        let mut object = json!({"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "waits",
            "capacity": {"storage": "1Gi"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In",
                    "values": [node]}]}]}}}, "status": {"phase": "Available"}});
        json_patch::merge(&mut object, &change);
        Arc::new(serde_json::from_value(object).expect("a volume"))
    }

    fn bound(name: &str, volume: &str) -> Arc<PersistentVolumeClaim> {
        claim(
            name,
            json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": volume}, "status": {"phase": "Bound"}}),
        )
    }

    fn of(name: &str) -> Value {
        json!({"spec": {"claimRef": {"namespace": "a", "name": name, "uid": name}},
            "status": {"phase": "Bound"}})
    }

    fn node(name: &str) -> NodeView {
        let labels = [("kubernetes.io/hostname".to_owned(), name.to_owned())].into();
        NodeView { name: name.to_owned(), labels, ..NodeView::default() }
    }

    fn storage(
        claims: &[Arc<PersistentVolumeClaim>],
        volumes: &[Arc<PersistentVolume>],
    ) -> Storage {
        let mut storage = Storage::default();
        storage.see_claims(Change::Reset(claims.to_vec()));
        storage.see_volumes(Change::Reset(volumes.to_vec()));
        storage.see_classes(Change::Reset(vec![
            class("waits", "WaitForFirstConsumer", json!({})),
            class("now", "Immediate", json!({})),
            class(
                "static",
                "WaitForFirstConsumer",
                json!({"provisioner": "kubernetes.io/no-provisioner"}),
            ),
            class(
                "east",
                "WaitForFirstConsumer",
                json!({"allowedTopologies": [
                {"matchLabelExpressions": [{"key": "zone", "values": ["east"]}]}]}),
            ),
        ]));
        storage
    }

    fn keys(names: &[&str]) -> Vec<Key> {
        names.iter().map(|name| Key::new("a", *name)).collect()
    }

    /// What is told of a pod with these claims: why nowhere, or what speaks against each of two nodes.
    fn told(storage: &Storage, claims: &[&str], is_used: bool) -> Vec<String> {
        match storage.wanted(&keys(claims), |_| is_used) {
            Err(message) => vec![message],
            Ok(wanted) => ["n1", "n2"]
                .map(|name| {
                    let refusal = storage.refusal(&wanted, &node(name));
                    refusal.map_or("fine".to_owned(), |refusal| refusal.to_string())
                })
                .to_vec(),
        }
    }

    #[test]
    fn a_claim_that_cannot_be_used_speaks_against_all_nodes() {
        let going =
            claim("going", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        let lost = claim("lost", json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}}));
        let now = claim("now", json!({"spec": {"storageClassName": "now"}}));
        let half = claim("half", json!({"spec": {"volumeName": "v"}}));
        let all = storage(&[going, lost, now, half], &[]);
        for (claim, wanted) in [
            ("none", "persistentvolumeclaim \"none\" not found"),
            ("going", "persistentvolumeclaim \"going\" is being deleted"),
            ("lost", "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"v\""),
            ("now", "pod has unbound immediate PersistentVolumeClaims"),
            ("half", "pod has unbound immediate PersistentVolumeClaims"),
        ] {
            assert_eq!(told(&all, &[claim], false), [wanted]);
        }
    }

    #[test]
    fn a_bound_claim_ties_its_pod_to_its_volumes_node() {
        let all = storage(&[bound("c", "v"), bound("d", "gone")], &[volume("v", "n1", of("c"))]);
        assert_eq!(
            told(&all, &["c"], true),
            ["fine", "node(s) didn't match PersistentVolume's node affinity"]
        );
        assert_eq!(
            told(&all, &["c", "d"], false),
            ["node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"; 2]
        );
        let mut alone = (*bound("c", "v")).clone();
        alone.spec.as_mut().expect("a spec").access_modes =
            Some(vec![READ_WRITE_ONCE_POD.to_owned()]);
        let all = storage(&[Arc::new(alone)], &[volume("v", "n1", of("c"))]);
        assert_eq!(told(&all, &["c"], false)[0], "fine");
        assert_eq!(
            told(&all, &["c"], true),
            ["node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
                2]
        );
    }

    const NOWHERE: &str = "node(s) didn't find available persistent volumes to bind";

    #[test]
    fn a_waiting_claim_gets_what_is_there_before_what_is_made() {
        let all = storage(
            &[claim("c", json!({})), claim("d", json!({}))],
            &[volume("v", "n1", json!({}))],
        );
        let choices = |claims: &[&str], name: &str| {
            let wanted = all.wanted(&keys(claims), |_| false).expect("they wait");
            let all = all.assignments(&wanted, &node(name)).expect("each gets something");
            all.into_iter().map(|own| own.what).collect::<Vec<_>>()
        };
        let (made_1, made_2) = (Choice::Node("n1".to_owned()), Choice::Node("n2".to_owned()));
        let there = Choice::Volume("v".to_owned());
        assert_eq!(choices(&["c", "d"], "n1"), [there, made_1], "one volume is one claim's");
        assert_eq!(choices(&["c"], "n2"), [made_2]);
        let by_hand = |change: Value| storage(&[claim("c", change)], &[]);
        let selector = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
        assert_eq!(told(&by_hand(selector), &["c"], false), [NOWHERE; 2]);
        let by_class = |class: &str| by_hand(json!({"spec": {"storageClassName": class}}));
        assert_eq!(told(&by_class("static"), &["c"], false), [NOWHERE; 2]);
        assert_eq!(told(&by_class("east"), &["c"], false), [NOWHERE; 2]);
        let kept = json!({"spec": {"claimRef": {"namespace": "a", "name": "c"}}});
        let all = storage(&[claim("c", json!({}))], &[volume("v", "n1", kept)]);
        assert_eq!(told(&all, &["c"], false), ["fine", NOWHERE]);
    }

    #[test]
    fn what_is_chosen_counts_at_once_and_until_it_is_taken_back() {
        let mut all = storage(
            &[claim("c", json!({})), claim("d", json!({}))],
            &[volume("v", "n1", json!({}))],
        );
        let chosen = |all: &Storage, name: &str, at: &str| {
            let wanted = all.wanted(&keys(&[name]), |_| false).expect("it waits");
            all.assignments(&wanted, &node(at)).expect("it gets something")
        };
        let first = chosen(&all, "c", "n1");
        all.choose(&first);
        assert_eq!(told(&all, &["c"], false), ["fine", NOWHERE], "the next pod comes here too");
        assert_eq!(chosen(&all, "c", "n1"), [], "and has nothing to write");
        assert_eq!(chosen(&all, "d", "n1")[0].what, Choice::Node("n1".to_owned()));
        assert_eq!(all.readiness(&keys(&["c"]), &node("n1")), Readiness::NotYet);
        all.take_back(&first);
        assert_eq!(told(&all, &["c"], false), ["fine", "fine"]);
        assert_eq!(all.readiness(&keys(&["c"]), &node("n1")), Readiness::Broken);
        // Written, and lost from sight: the next whole state decides.
        all.choose(&first);
        all.confirm(&first);
        all.see_claims(Change::Applied(claim("c", json!({}))));
        assert_eq!(told(&all, &["c"], false), ["fine", NOWHERE], "an older state changes nothing");
        all.see_claims(Change::Reset(vec![claim("c", json!({}))]));
        assert_eq!(told(&all, &["c"], false), ["fine", "fine"]);
    }

    #[test]
    fn a_pod_waits_until_all_its_claims_are_bound_where_it_goes() {
        let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}});
        let mut all =
            storage(&[claim("c", selected), bound("d", "w")], &[volume("w", "n1", of("d"))]);
        let claims = keys(&["c", "d"]);
        assert_eq!(all.readiness(&claims, &node("n1")), Readiness::NotYet);
        assert_eq!(all.readiness(&claims, &node("n2")), Readiness::Broken);
        all.see_volumes(Change::Applied(volume("v", "n1", of("c"))));
        assert_eq!(all.readiness(&claims, &node("n1")), Readiness::NotYet, "half bound");
        all.see_claims(Change::Applied(bound("c", "v")));
        assert_eq!(all.readiness(&claims, &node("n1")), Readiness::Ready);
        assert_eq!(all.readiness(&claims, &node("n2")), Readiness::Broken);
        all.see_claims(Change::Deleted(bound("d", "w")));
        assert_eq!(all.readiness(&claims, &node("n1")), Readiness::Broken);
        let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "n9"}}});
        all.see_claims(Change::Applied(claim("e", selected)));
        let gone = all.selected(&keys(&["e", "c"]), |node| node == "n9");
        assert_eq!(gone.iter().map(|claim| claim.key().name).collect::<Vec<_>>(), ["e"]);
    }

    proptest! {
        /// Pods with any claims, on any of three nodes, one after the other: no volume is given twice,
        /// and pods with one claim come to one node.
        #[test]
        fn no_volume_is_two_claims_and_no_claim_on_two_nodes(
            volumes in prop::collection::vec((0_usize..3, 1_u32..4), 0..6),
            sizes in prop::collection::vec(1_u32..4, 1..5),
            pods in prop::collection::vec((prop::collection::vec(0_usize..5, 1..3), 0_usize..3), 1..12),
        ) {
            let volumes: Vec<_> = volumes.iter().enumerate().map(|(number, (node, size))| {
                let size = json!({"spec": {"capacity": {"storage": format!("{size}Gi")}}});
                volume(&format!("v{number}"), &format!("n{node}"), size)
            }).collect();
            let claims: Vec<_> = sizes.iter().enumerate().map(|(number, size)| {
                let size = json!({"spec": {"resources": {"requests": {"storage": format!("{size}Gi")}}}});
                claim(&format!("c{number}"), size)
            }).collect();
            let mut all = storage(&claims, &volumes);
            let mut places: HashMap<String, String> = HashMap::new();
            let mut given: HashMap<String, String> = HashMap::new();
            for (names, at) in pods {
                let mut names: Vec<String> =
                    names.iter().map(|number| format!("c{}", number % claims.len())).collect();
                names.sort();
                names.dedup();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let at = format!("n{at}");
                let own = all.clone();
                let wanted = own.wanted(&keys(&names), |_| false).expect("they wait");
                let Some(assignments) = own.assignments(&wanted, &node(&at)) else {
                    prop_assert!(names.iter().any(|name| places.get(*name).is_some_and(|own| *own != at)));
                    continue;
                };
                for name in &names {
                    let before = places.entry((*name).to_owned()).or_insert_with(|| at.clone());
                    prop_assert_eq!(&*before, &at);
                }
                for assignment in &assignments {
                    if let Choice::Volume(volume) = &assignment.what {
                        let before = given.insert(volume.clone(), assignment.claim.key().name);
                        prop_assert!(before.is_none(), "{} twice", volume);
                    }
                }
                all.choose(&assignments);
            }
        }
    }
}
