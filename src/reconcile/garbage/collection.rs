//! Pure: what is to be done about one object, in two steps: what the graph says and what must be
//! asked first ([`sight`]), then the decision ([`plan`]).

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::object::owner::{kind_of, place_of};
use crate::object::{Key, Kind, Propagation};
use crate::reconcile::garbage::graph::{FOREGROUND, Graph, ORPHAN, Vertex};

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Present,
    /// It goes when its dependents are gone.
    Waiting,
    /// An uncached read found nothing, or another uid.
    Absent,
    /// Nobody can tell: a kind that is not known, or a namespaced owner of a cluster-scoped
    /// object. It never gets the dependent deleted.
    Unresolvable,
}

/// A read that must be made before an owner may be called absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub uid: String,
    pub kind: Kind,
    /// Where the owner has to be, seen from the dependent.
    pub key: Key,
}

/// A dependent, as far as its owner's deletion is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependent {
    pub blocks: bool,
    pub awaits_dependents: bool,
}

/// What is known about one object, and what must be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    pub kind: Kind,
    pub key: Key,
    pub uid: Arc<str>,
    /// By owner uid; those that must be asked are not in it.
    pub owners: HashMap<String, Owner>,
    pub questions: Vec<Question>,
    pub dependents: Vec<Dependent>,
    /// The object orphans its dependents: they must be listed uncached, because one that is
    /// overlooked would be deleted.
    pub list_dependents: bool,
    /// Sentences about owner references that cannot be right; each is worth a warning Event.
    pub invalid: Vec<String>,
}

/// One change, with everything the doer needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub kind: Kind,
    pub key: Key,
    pub uid: Arc<str>,
    /// Only while the object is at this revision.
    pub revision: Option<u64>,
    pub action: Action,
    /// For the log: why.
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Delete(Propagation),
    /// These references instead of the present ones.
    SetOwners(Vec<OwnerReference>),
    /// These finalizers instead of the present ones.
    SetFinalizers(Vec<String>),
}

/// `None` when nothing has to be done about the object: all its owners are there, and it waits for
/// nobody.
pub fn sight(graph: &Graph, uid: &str) -> Option<Sight> {
    let vertex = graph.get(uid)?;
    let is_ours = vertex.awaits_dependents() || vertex.orphans_dependents();
    if vertex.deleting && !is_ours {
        return None;
    }
    let mut sight = Sight {
        kind: vertex.kind,
        key: vertex.key.clone(),
        uid: vertex.uid.clone(),
        owners: HashMap::new(),
        questions: Vec::new(),
        dependents: graph
            .dependents(uid)
            .map(|dependent| Dependent {
                blocks: dependent.blocks(uid),
                awaits_dependents: dependent.awaits_dependents(),
            })
            .collect(),
        list_dependents: vertex.orphans_dependents(),
        invalid: Vec::new(),
    };
    for reference in vertex.owners.iter() {
        see_owner(graph, vertex, reference, &mut sight);
    }
    let lost = |owner: &Owner| *owner != Owner::Present && *owner != Owner::Unresolvable;
    let concerns = is_ours
        || !sight.questions.is_empty()
        || !sight.invalid.is_empty()
        || sight.owners.values().any(lost);
    concerns.then_some(sight)
}

fn see_owner(graph: &Graph, vertex: &Vertex, reference: &OwnerReference, sight: &mut Sight) {
    let known = graph.get(&reference.uid);
    let Some(kind) = kind_of(reference) else {
        sight.owners.insert(reference.uid.clone(), Owner::Unresolvable);
        return;
    };
    let Some(key) = place_of(kind, reference, &vertex.key.namespace) else {
        sight.owners.insert(reference.uid.clone(), Owner::Unresolvable);
        let sentence = "a cluster-scoped object cannot be owned by a namespaced one";
        sight.invalid.push(format!("{}: {sentence}", described(reference)));
        return;
    };
    match known {
        Some(owner) if owner.kind == kind && owner.key == key => {
            let state = if owner.awaits_dependents() { Owner::Waiting } else { Owner::Present };
            sight.owners.insert(reference.uid.clone(), state);
        }
        elsewhere => {
            if kind.row().namespaced
                && elsewhere.is_some_and(|owner| owner.key.namespace != key.namespace)
            {
                let sentence = format!("does not exist in namespace {:?}", key.namespace);
                sight.invalid.push(format!("{} {sentence}", described(reference)));
            }
            sight.questions.push(Question { uid: reference.uid.clone(), kind, key });
        }
    }
}

fn described(reference: &OwnerReference) -> String {
    format!(
        "ownerRef [{}/{}, name: {}, uid: {}]",
        reference.api_version, reference.kind, reference.name, reference.uid
    )
}

/// Decides about an object as an uncached read shows it. `owners` holds what the sight knew and
/// what the questions answered; a reference that is in neither is newer than the sight and counts
/// as present until it is seen. `dependents` are the uncached ones, where the sight asked for them.
pub fn plan(
    item: &Vertex,
    owners: &HashMap<String, Owner>,
    sight: &Sight,
    dependents: &[Vertex],
) -> Vec<Step> {
    if item.orphans_dependents() {
        return if sight.list_dependents { orphan(item, dependents) } else { Vec::new() };
    }
    if item.awaits_dependents() {
        if sight.dependents.iter().any(|dependent| dependent.blocks) {
            // Each of them is looked at on its own: their owner waits, so they go.
            return Vec::new();
        }
        return vec![without_finalizer(item, FOREGROUND, "no dependent blocks its deletion")];
    }
    if item.deleting || item.owners.is_empty() {
        return Vec::new();
    }
    let state =
        |reference: &OwnerReference| owners.get(&reference.uid).copied().unwrap_or(Owner::Present);
    let holds = |reference: &&OwnerReference| {
        matches!(state(reference), Owner::Present | Owner::Unresolvable)
    };
    let solid: Vec<OwnerReference> = item.owners.iter().filter(holds).cloned().collect();
    if solid.len() == item.owners.len() {
        return Vec::new();
    }
    if !solid.is_empty() {
        return vec![step(item, Action::SetOwners(solid), "some of its owners are gone")];
    }
    let owner_waits = item.owners.iter().any(|reference| state(reference) == Owner::Waiting);
    if owner_waits && !sight.dependents.is_empty() {
        return delete_before_owner(item, sight);
    }
    let propagation = if item.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if item.has_finalizer(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    let reason = if owner_waits { "its owner waits for it" } else { "its owners are gone" };
    vec![step(item, Action::Delete(propagation), reason)]
}

/// The owner waits for this object, which has dependents: they go first too. If one of them waits
/// already, this may be a circle in which everybody waits; the object then blocks nobody.
fn delete_before_owner(item: &Vertex, sight: &Sight) -> Vec<Step> {
    let delete = |revision: Option<u64>| Step {
        revision,
        ..step(item, Action::Delete(Propagation::Foreground), "its owner waits for it")
    };
    let circle = sight.dependents.iter().any(|dependent| dependent.awaits_dependents);
    let blocks = item.owners.iter().any(|owner| owner.block_owner_deletion == Some(true));
    if !circle || !blocks {
        return vec![delete(known(item.revision))];
    }
    let mut freed = item.owners.to_vec();
    for reference in &mut freed {
        reference.block_owner_deletion = Some(false);
    }
    // The first step moves the resourceVersion; the uid still guards the second.
    vec![step(item, Action::SetOwners(freed), "circle of owners"), delete(None)]
}

/// First every dependent loses the reference, then the owner its finalizer: in the other order a
/// crash in between would leave dependents whose owner is gone, and they would be deleted.
fn orphan(item: &Vertex, dependents: &[Vertex]) -> Vec<Step> {
    let named = dependents.iter().filter(|dependent| dependent.is_owned_by(&item.uid));
    let freed = named.map(|dependent| {
        let left =
            dependent.owners.iter().filter(|owner| *owner.uid != *item.uid).cloned().collect();
        step(dependent, Action::SetOwners(left), "its owner leaves it behind")
    });
    freed.chain([without_finalizer(item, ORPHAN, "its dependents are free")]).collect()
}

fn without_finalizer(item: &Vertex, name: &str, reason: &'static str) -> Step {
    let left = item.finalizers.iter().filter(|finalizer| *finalizer != name).cloned().collect();
    step(item, Action::SetFinalizers(left), reason)
}

fn step(item: &Vertex, action: Action, reason: &'static str) -> Step {
    Step {
        kind: item.kind,
        key: item.key.clone(),
        uid: item.uid.clone(),
        revision: known(item.revision),
        action,
        reason,
    }
}

/// What was never stored is at no revision.
fn known(revision: u64) -> Option<u64> {
    (revision > 0).then_some(revision)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::reconcile::garbage::graph::Owners;
    use crate::reconcile::garbage::graph::tests::{finalizers, reference, vertex};

    fn graph(vertices: &[&Vertex]) -> Graph {
        let mut graph = Graph::default();
        for vertex in vertices {
            graph.apply((*vertex).clone());
        }
        graph
    }

    fn owned_by(owner: &Vertex, blocks: bool) -> Vec<OwnerReference> {
        vec![reference(owner.kind, &owner.key.name, &owner.uid, blocks)]
    }

    fn decide(graph: &Graph, item: &Vertex, absent: &[&str]) -> Vec<Action> {
        let Some(sight) = sight(graph, &item.uid) else { return Vec::new() };
        let mut owners = sight.owners.clone();
        for question in &sight.questions {
            let gone = absent.contains(&question.uid.as_str());
            let answer = if gone { Owner::Absent } else { Owner::Present };
            owners.insert(question.uid.clone(), answer);
        }
        let dependents: Vec<Vertex> = graph.dependents(&item.uid).cloned().collect();
        plan(item, &owners, &sight, &dependents).into_iter().map(|step| step.action).collect()
    }

    #[test]
    fn who_has_its_owner_is_left_alone() {
        let owner = vertex(Kind::ReplicaSet, "n", "r", vec![]);
        let pod = vertex(Kind::Pod, "n", "p", owned_by(&owner, true));
        assert_eq!(sight(&graph(&[&owner, &pod]), "p-uid"), None);
        assert_eq!(sight(&graph(&[&owner, &pod]), "r-uid"), None);
    }

    #[test]
    fn an_owner_is_gone_only_when_the_read_says_so() {
        let owner = vertex(Kind::ReplicaSet, "n", "r", vec![]);
        let pod = vertex(Kind::Pod, "n", "p", owned_by(&owner, true));
        let graph = graph(&[&pod]);
        assert_eq!(decide(&graph, &pod, &[]), []);
        let gone = decide(&graph, &pod, &["r-uid"]);
        assert_eq!(gone, [Action::Delete(Propagation::Background)]);
    }

    #[test]
    fn a_second_owner_keeps_it_and_the_lost_reference_goes() {
        let stays = vertex(Kind::ReplicaSet, "n", "stays", vec![]);
        let mut owners = owned_by(&stays, false);
        owners.push(reference(Kind::ReplicaSet, "r", "r-uid", true));
        let pod = vertex(Kind::Pod, "n", "p", owners);
        let steps = decide(&graph(&[&stays, &pod]), &pod, &["r-uid"]);
        assert_eq!(steps, [Action::SetOwners(owned_by(&stays, false))]);
    }

    #[test]
    fn foreground_waits_for_blocking_dependents_only() {
        let mut owner = vertex(Kind::ReplicaSet, "n", "r", vec![]);
        owner.deleting = true;
        owner.finalizers = finalizers(&["other", FOREGROUND]);
        let blocking = vertex(Kind::Pod, "n", "p", owned_by(&owner, true));
        let free = vertex(Kind::Pod, "n", "q", owned_by(&owner, false));
        assert_eq!(decide(&graph(&[&owner, &blocking, &free]), &owner, &[]), []);
        let finished = [Action::SetFinalizers(vec!["other".into()])];
        assert_eq!(decide(&graph(&[&owner, &free]), &owner, &[]), finished);
        let deleted = [Action::Delete(Propagation::Background)];
        assert_eq!(decide(&graph(&[&owner, &blocking]), &blocking, &[]), deleted);
    }

    #[test]
    fn orphaning_frees_the_dependents_before_the_owner_goes() {
        let mut owner = vertex(Kind::ReplicaSet, "n", "r", vec![]);
        owner.deleting = true;
        owner.finalizers = finalizers(&[ORPHAN]);
        let pod = vertex(Kind::Pod, "n", "p", owned_by(&owner, true));
        let steps = decide(&graph(&[&owner, &pod]), &owner, &[]);
        assert_eq!(steps, [Action::SetOwners(vec![]), Action::SetFinalizers(vec![])]);
    }

    #[test]
    fn an_owner_in_another_namespace_is_none_and_is_said() {
        let owner = vertex(Kind::ReplicaSet, "elsewhere", "r", vec![]);
        let pod = vertex(Kind::Pod, "n", "p", owned_by(&owner, true));
        let graph = graph(&[&owner, &pod]);
        let seen = sight(&graph, "p-uid").expect("it must be asked");
        assert_eq!(seen.questions[0].key, Key::new("n", "r"));
        assert_eq!(
            seen.invalid,
            [
                "ownerRef [apps/v1/ReplicaSet, name: r, uid: r-uid] does not exist in namespace \"n\""
            ]
        );
    }

    #[test]
    fn what_nobody_can_resolve_is_never_collected() {
        let strange = OwnerReference {
            kind: "Job".into(),
            ..reference(Kind::Deployment, "j", "j-uid", true)
        };
        let pod = vertex(Kind::Pod, "n", "p", vec![strange]);
        assert_eq!(sight(&graph(&[&pod]), "p-uid"), None);
        let owner = reference(Kind::ReplicaSet, "r", "r-uid", true);
        let node = vertex(Kind::Node, "", "node", vec![owner]);
        let seen = sight(&graph(&[&node]), "node-uid").expect("it is worth an Event");
        assert_eq!((seen.questions.len(), seen.invalid.len()), (0, 1));
        assert_eq!(decide(&graph(&[&node]), &node, &["r-uid"]), []);
    }

    /// A store with Kubernetes' deletion rules, and a collector whose graph is behind it.
    #[derive(Default)]
    struct World {
        stored: BTreeMap<Arc<str>, Vertex>,
        revision: u64,
        /// Told to nobody yet.
        events: std::collections::VecDeque<(Arc<str>, Option<Vertex>)>,
        graph: Graph,
        dirty: BTreeSet<Arc<str>>,
    }

    impl World {
        fn write(&mut self, mut vertex: Vertex) {
            self.revision += 1;
            vertex.revision = self.revision;
            let uid = vertex.uid.clone();
            if vertex.deleting && vertex.finalizers.is_empty() {
                self.stored.remove(&uid);
                self.events.push_back((uid, None));
            } else {
                self.stored.insert(uid.clone(), vertex.clone());
                self.events.push_back((uid, Some(vertex)));
            }
        }

        fn delete(&mut self, uid: &str, propagation: Propagation) {
            let Some(mut vertex) = self.stored.get(uid).cloned() else { return };
            let left = Arc::make_mut(&mut vertex.finalizers);
            left.retain(|name| name != ORPHAN && name != FOREGROUND);
            match propagation {
                Propagation::Background => {}
                Propagation::Foreground => left.push(FOREGROUND.into()),
                Propagation::Orphan => left.push(ORPHAN.into()),
            }
            vertex.deleting = true;
            self.write(vertex);
        }

        fn tell(&mut self) -> bool {
            let Some((uid, vertex)) = self.events.pop_front() else { return false };
            let touched = match vertex {
                Some(vertex) => self.graph.apply(vertex),
                None => self.graph.remove(&uid),
            };
            self.dirty.extend(touched);
            true
        }

        fn look(&mut self, uid: &str) {
            let Some(sight) = sight(&self.graph, uid) else { return };
            let Some(item) = self.stored.get(uid).cloned() else { return };
            let mut owners = sight.owners.clone();
            for question in &sight.questions {
                let answer = match self.stored.get(question.uid.as_str()) {
                    Some(owner) if owner.awaits_dependents() => Owner::Waiting,
                    Some(_) => Owner::Present,
                    None => Owner::Absent,
                };
                owners.insert(question.uid.clone(), answer);
            }
            let dependents: Vec<Vertex> = self.stored.values().cloned().collect();
            for step in plan(&item, &owners, &sight, &dependents) {
                let Some(mut stored) = self.stored.get(&step.uid).cloned() else { break };
                if step.revision.is_some_and(|revision| revision != stored.revision) {
                    self.dirty.insert(uid.into());
                    break;
                }
                match step.action {
                    Action::Delete(propagation) => self.delete(&step.uid, propagation),
                    Action::SetOwners(owners) => {
                        stored.owners = Arc::new(Owners(owners));
                        self.write(stored);
                    }
                    Action::SetFinalizers(finalizers) => {
                        stored.finalizers = Arc::new(finalizers);
                        self.write(stored);
                    }
                }
            }
        }

        /// Tells and looks in an order drawn from `draws` until nothing is left to do.
        fn settle(&mut self, draws: &mut impl Iterator<Item = usize>) -> Result<(), String> {
            for _ in 0..5000 {
                let draw = draws.next().unwrap_or(0);
                let tell_first = draw.is_multiple_of(2) || self.dirty.is_empty();
                if tell_first && self.tell() {
                    continue;
                }
                let Some(uid) = self.dirty.iter().nth(draw % self.dirty.len().max(1)).cloned()
                else {
                    if self.events.is_empty() {
                        return Ok(());
                    }
                    continue;
                };
                self.dirty.remove(&uid);
                self.look(&uid);
            }
            Err(format!("never settles: {:?}", self.stored))
        }
    }

    /// The same, the dull way: owners as sets, deletion as a fixed point.
    fn expected(owners: &mut BTreeMap<String, BTreeSet<String>>, gone: &str, orphan: bool) {
        if owners.remove(gone).is_none() {
            return;
        }
        if orphan {
            for left in owners.values_mut() {
                left.remove(gone);
            }
        }
        loop {
            let lost = owners
                .iter()
                .find(|(_, of)| !of.is_empty() && of.iter().all(|uid| !owners.contains_key(uid)))
                .map(|(uid, _)| uid.clone());
            let Some(lost) = lost else { break };
            owners.remove(&lost);
        }
        let here: BTreeSet<String> = owners.keys().cloned().collect();
        for of in owners.values_mut() {
            of.retain(|uid| here.contains(uid));
        }
    }

    fn propagation() -> impl Strategy<Value = Propagation> {
        prop_oneof![
            Just(Propagation::Background),
            Just(Propagation::Foreground),
            Just(Propagation::Orphan)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn any_owner_graph_ends_as_the_dull_rule_says(
            edges in prop::collection::vec((0_usize..8, 0_usize..8, any::<bool>()), 0..16),
            deletions in prop::collection::vec((0_usize..8, propagation()), 1..5),
            draws in prop::collection::vec(0_usize..64, 400),
        ) {
            let mut draws = draws.into_iter().cycle();
            let (mut world, mut oracle) = (World::default(), BTreeMap::new());
            let uid = |number: usize| format!("{number}-uid");
            for number in 0..8 {
                let mut owners: Vec<OwnerReference> = Vec::new();
                for (_, owner, blocks) in edges.iter().filter(|(dependent, _, _)| *dependent == number) {
                    if owners.iter().all(|known| known.uid != uid(*owner)) {
                        let name = owner.to_string();
                        owners.push(reference(Kind::ConfigMap, &name, &uid(*owner), *blocks));
                    }
                }
                oracle.insert(uid(number), owners.iter().map(|owner| owner.uid.clone()).collect());
                world.write(vertex(Kind::ConfigMap, "n", &number.to_string(), owners));
            }
            while world.tell() {}
            for (number, propagation) in deletions {
                world.delete(&uid(number), propagation);
                world.settle(&mut draws).map_err(TestCaseError::fail)?;
                expected(&mut oracle, &uid(number), propagation == Propagation::Orphan);
                let survivors: BTreeMap<String, BTreeSet<String>> = world
                    .stored
                    .values()
                    .map(|v| (v.uid.to_string(), v.owners.iter().map(|o| o.uid.clone()).collect()))
                    .collect();
                prop_assert_eq!(&survivors, &oracle, "after {} {:?}", number, propagation);
                prop_assert!(world.stored.values().all(|vertex| !vertex.deleting));
            }
        }
    }
}
