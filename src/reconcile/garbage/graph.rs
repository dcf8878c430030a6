//! Pure: who owns whom, by uid, over all kinds.
//!
//! There is a vertex for every object but Events, of pods ten thousand: it is held once, by all that
//! look it up, and what it has in common with others (owners, finalizers) once for all of them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::object::{Key, Kind, Pool};

/// On an object that waits for its dependents to go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// On an object whose dependents are to lose the reference to it before it goes.
pub const ORPHAN: &str = "orphan";

/// One object, as far as ownership is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Vertex {
    pub kind: Kind,
    pub key: Key,
    pub uid: Arc<str>,
    /// Its resourceVersion; 0 where it has none.
    pub revision: u64,
    pub owners: Arc<Owners>,
    pub finalizers: Arc<Vec<String>>,
    /// It has a deletionTimestamp.
    pub deleting: bool,
}

/// An object's owner references, in its order, as a value that can be shared: the pods of a
/// ReplicaSet have the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owners(pub Vec<OwnerReference>);

/// Texts and truths: every value equals itself.
impl Eq for Owners {}

impl Hash for Owners {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for one in &self.0 {
            let OwnerReference { api_version, kind, name, uid, controller, block_owner_deletion } =
                one;
            (api_version, kind, name, uid, controller, block_owner_deletion).hash(state);
        }
    }
}

impl Deref for Owners {
    type Target = [OwnerReference];

    fn deref(&self) -> &[OwnerReference] {
        &self.0
    }
}

/// What vertices have in common.
#[derive(Debug, Default)]
pub struct Shared {
    owners: Pool<Owners>,
    finalizers: Pool<Vec<String>>,
}

impl Vertex {
    pub fn of(kind: Kind, meta: &ObjectMeta, shared: &mut Shared) -> Self {
        let revision = meta.resource_version.as_deref();
        let owners = meta.owner_references.clone().unwrap_or_default();
        Self {
            kind,
            key: Key {
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
            },
            uid: Arc::from(meta.uid.as_deref().unwrap_or_default()),
            revision: revision.and_then(|revision| revision.parse().ok()).unwrap_or(0),
            owners: shared.owners.share(Owners(owners)),
            finalizers: shared.finalizers.share(meta.finalizers.clone().unwrap_or_default()),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    /// It goes when its blocking dependents are gone.
    pub fn awaits_dependents(&self) -> bool {
        self.deleting && self.has_finalizer(FOREGROUND)
    }

    /// It goes when no dependent names it any more.
    pub fn orphans_dependents(&self) -> bool {
        self.deleting && self.has_finalizer(ORPHAN)
    }

    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == name)
    }

    /// Whether it names this uid as an owner.
    pub fn is_owned_by(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| reference.uid == owner)
    }

    /// Whether it holds up the foreground deletion of the owner with this uid.
    pub fn blocks(&self, owner: &str) -> bool {
        self.owners
            .iter()
            .any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

/// A vertex as its uid: equal, ordered and found by it alone.
#[derive(Clone, Debug)]
struct ByUid(Arc<Vertex>);

impl PartialEq for ByUid {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid
    }
}

impl Eq for ByUid {}

impl Ord for ByUid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.uid.cmp(&other.0.uid)
    }
}

impl PartialOrd for ByUid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for ByUid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uid.hash(state);
    }
}

impl Borrow<str> for ByUid {
    fn borrow(&self) -> &str {
        &self.0.uid
    }
}

/// A vertex as its name: equal and found by kind and key.
#[derive(Clone, Debug)]
struct ByName(Arc<Vertex>);

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        (self.0.kind, &self.0.key) == (other.0.kind, &other.0.key)
    }
}

impl Eq for ByName {}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.kind, &self.0.key).hash(state);
    }
}

/// All objects, and the dependents of each uid, known or not.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    vertices: HashSet<ByUid>,
    dependents: HashMap<Arc<str>, BTreeSet<ByUid>>,
    /// Which vertex holds a name: a name may be taken again before its deletion was told.
    names: HashSet<ByName>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Vertex> {
        self.vertices.get(uid).map(|found| &*found.0)
    }

    /// The objects that name this uid as owner, itself excepted.
    pub fn dependents<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Vertex> {
        let all = self.dependents.get(uid).into_iter().flatten().map(|found| &*found.0);
        all.filter(move |dependent| &*dependent.uid != uid)
    }

    /// Takes over an object as it is now. Answers the uids whose situation may have changed.
    pub fn apply(&mut self, vertex: Vertex) -> BTreeSet<Arc<str>> {
        let mut touched = BTreeSet::new();
        let vertex = Arc::new(vertex);
        if let Some(ByName(before)) = self.names.replace(ByName(vertex.clone()))
            && before.uid != vertex.uid
        {
            touched.extend(self.drop_vertex(&before.uid));
        }
        let before = self.unlink(&vertex.uid);
        for owner in vertex.owners.iter() {
            let uid = self.shared_uid(&owner.uid);
            self.dependents.entry(uid).or_default().insert(ByUid(vertex.clone()));
        }
        self.vertices.insert(ByUid(vertex.clone()));
        let state = |vertex: &Vertex| (vertex.awaits_dependents(), vertex.orphans_dependents());
        if before.as_deref().map(state) != Some(state(&vertex)) {
            touched.extend(self.uids_of_dependents(&vertex.uid));
        }
        let earlier = before.iter().flat_map(|before| before.owners.iter());
        let owners = earlier.chain(vertex.owners.iter());
        touched.extend(owners.map(|owner| self.shared_uid(&owner.uid)));
        touched.insert(vertex.uid.clone());
        touched
    }

    /// The object is gone. Answers the uids whose situation may have changed.
    pub fn remove(&mut self, uid: &str) -> BTreeSet<Arc<str>> {
        if let Some(ByUid(vertex)) = self.vertices.get(uid) {
            let name = ByName(vertex.clone());
            if self.names.get(&name).is_some_and(|holder| &*holder.0.uid == uid) {
                self.names.remove(&name);
            }
        }
        self.drop_vertex(uid)
    }

    /// The uids of every object of a kind, in no order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<str>> {
        let all = self.vertices.iter().filter(move |found| found.0.kind == kind);
        all.map(|found| &found.0.uid)
    }

    /// The uids of every object that something might have to be done about.
    pub fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        let concerns = |vertex: &Vertex| vertex.deleting || !vertex.owners.is_empty();
        self.vertices.iter().filter(move |found| concerns(&found.0)).map(|found| &found.0.uid)
    }

    fn drop_vertex(&mut self, uid: &str) -> BTreeSet<Arc<str>> {
        let Some(gone) = self.unlink(uid) else { return BTreeSet::new() };
        let owners = gone.owners.iter().map(|owner| self.shared_uid(&owner.uid));
        owners.chain(self.uids_of_dependents(uid)).collect()
    }

    fn unlink(&mut self, uid: &str) -> Option<Arc<Vertex>> {
        let ByUid(vertex) = self.vertices.take(uid)?;
        for owner in vertex.owners.iter() {
            if let Some(dependents) = self.dependents.get_mut(owner.uid.as_str()) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(owner.uid.as_str());
                }
            }
        }
        Some(vertex)
    }

    fn uids_of_dependents(&self, uid: &str) -> impl Iterator<Item = Arc<str>> {
        self.dependents.get(uid).into_iter().flatten().map(|found| found.0.uid.clone())
    }

    /// An owner's uid as it is held already, for the next ten thousand that name it.
    fn shared_uid(&self, uid: &str) -> Arc<str> {
        self.dependents.get_key_value(uid).map_or_else(|| Arc::from(uid), |(held, _)| held.clone())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn reference(kind: Kind, name: &str, uid: &str, blocks: bool) -> OwnerReference {
        OwnerReference {
            api_version: kind.api_version(),
            kind: kind.row().name.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: None,
            block_owner_deletion: Some(blocks),
        }
    }

    pub fn vertex(kind: Kind, namespace: &str, name: &str, owners: Vec<OwnerReference>) -> Vertex {
        Vertex {
            kind,
            key: Key::new(namespace, name),
            uid: format!("{name}-uid").into(),
            revision: 1,
            owners: Arc::new(Owners(owners)),
            finalizers: Arc::default(),
            deleting: false,
        }
    }

    pub fn finalizers(names: &[&str]) -> Arc<Vec<String>> {
        Arc::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_change_touches_its_neighbours() {
        let mut graph = Graph::default();
        let owner = vertex(Kind::ReplicaSet, "n", "r", vec![]);
        let pod =
            vertex(Kind::Pod, "n", "p", vec![reference(Kind::ReplicaSet, "r", "r-uid", true)]);
        let set = |uids: &[&str]| uids.iter().map(|uid| Arc::from(*uid)).collect::<BTreeSet<_>>();
        assert_eq!(graph.apply(pod), set(&["p-uid", "r-uid"]));
        assert_eq!(graph.apply(owner.clone()), set(&["p-uid", "r-uid"]), "its owner has come");
        assert_eq!(graph.apply(owner.clone()), set(&["r-uid"]), "nothing new for its dependents");
        let waiting = Vertex { deleting: true, finalizers: finalizers(&[FOREGROUND]), ..owner };
        assert_eq!(graph.apply(waiting), set(&["p-uid", "r-uid"]));
        assert_eq!(graph.remove("r-uid"), set(&["p-uid"]));
        assert_eq!(graph.remove("p-uid"), set(&["r-uid"]));
    }

    #[test]
    fn a_name_taken_again_ends_the_one_before() {
        let mut graph = Graph::default();
        graph.apply(vertex(Kind::Pod, "n", "p", vec![]));
        graph.apply(Vertex { uid: "new".into(), ..vertex(Kind::Pod, "n", "p", vec![]) });
        assert!(graph.get("p-uid").is_none());
        graph.remove("p-uid");
        assert_eq!(graph.of_kind(Kind::Pod).map(|uid| &**uid).collect::<Vec<_>>(), ["new"]);
        assert_eq!((graph.vertices.len(), graph.names.len()), (1, 1));
    }

    #[test]
    fn what_pods_have_in_common_is_held_once() {
        let mut shared = Shared::default();
        let mut pod = |name: &str, owner: &str| {
            let meta = ObjectMeta {
                name: Some(name.to_owned()),
                uid: Some(format!("{name}-uid")),
                resource_version: Some("42".to_owned()),
                finalizers: Some(vec!["example.com/hold".to_owned()]),
                owner_references: Some(vec![reference(Kind::ReplicaSet, owner, owner, true)]),
                ..ObjectMeta::default()
            };
            Vertex::of(Kind::Pod, &meta, &mut shared)
        };
        let (one, two, other) = (pod("a", "r"), pod("b", "r"), pod("c", "s"));
        assert!(Arc::ptr_eq(&one.owners, &two.owners));
        assert!(Arc::ptr_eq(&one.finalizers, &other.finalizers));
        assert_eq!((one.revision, &*other.owners[0].uid), (42, "s"));
        assert_ne!(one.owners, other.owners);
        assert_eq!(size_of::<ByUid>() + size_of::<ByName>(), 16, "a pointer each");
        assert!(size_of::<Vertex>() <= 104, "{} bytes", size_of::<Vertex>());
    }

    #[test]
    fn a_vertex_is_held_by_its_maps_alone_and_ends_with_them() {
        let mut graph = Graph::default();
        let owner = reference(Kind::ReplicaSet, "r", "r-uid", true);
        for _ in 0..3 {
            graph.apply(vertex(Kind::Pod, "n", "p", vec![owner.clone()]));
        }
        let held = graph.vertices.get("p-uid").map(|found| Arc::downgrade(&found.0));
        let held = held.expect("it is there");
        assert_eq!(held.strong_count(), 3, "by uid, by name, as a dependent");
        graph.remove("p-uid");
        assert_eq!(held.strong_count(), 0);
        assert!(graph.dependents.is_empty() && graph.names.is_empty());
    }
}
