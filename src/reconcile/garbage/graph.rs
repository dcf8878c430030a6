//! Pure: who owns whom, by uid, over all kinds.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::object::{Key, Kind};

/// On an object that waits for its dependents to go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// On an object whose dependents are to lose the reference to it before it goes.
pub const ORPHAN: &str = "orphan";

/// One object, as far as ownership is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Vertex {
    pub kind: Kind,
    pub key: Key,
    pub uid: String,
    pub resource_version: Option<String>,
    pub owners: Vec<OwnerReference>,
    pub finalizers: Vec<String>,
    /// It has a deletionTimestamp.
    pub deleting: bool,
}

impl Vertex {
    pub fn of(kind: Kind, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            key: Key {
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
            },
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
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

    /// Whether it holds up the foreground deletion of the owner with this uid.
    pub fn blocks(&self, owner: &str) -> bool {
        self.owners
            .iter()
            .any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

/// All objects, and the dependents of each uid, known or not.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    vertices: HashMap<String, Vertex>,
    dependents: HashMap<String, BTreeSet<String>>,
    /// Which uid holds a name: a name may be taken again before its deletion was told.
    names: HashMap<(Kind, Key), String>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Vertex> {
        self.vertices.get(uid)
    }

    /// The objects that name this uid as owner, itself excepted.
    pub fn dependents<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Vertex> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter(move |dependent| *dependent != uid).filter_map(|uid| self.vertices.get(uid))
    }

    /// Takes over an object as it is now. Answers the uids whose situation may have changed.
    pub fn apply(&mut self, vertex: Vertex) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        let name = (vertex.kind, vertex.key.clone());
        if let Some(before) = self.names.insert(name, vertex.uid.clone())
            && before != vertex.uid
        {
            touched.extend(self.drop_vertex(&before));
        }
        let uid = vertex.uid.clone();
        let before = self.unlink(&uid);
        for owner in &vertex.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let is_new = before.is_none();
        let state = |vertex: &Vertex| (vertex.awaits_dependents(), vertex.orphans_dependents());
        let state_changed = before.as_ref().map(state) != Some(state(&vertex));
        let owners = before.iter().flat_map(|before| &before.owners).chain(&vertex.owners);
        touched.extend(owners.map(|owner| owner.uid.clone()));
        touched.insert(uid.clone());
        self.vertices.insert(uid.clone(), vertex);
        if is_new || state_changed {
            touched.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        touched
    }

    /// The object is gone. Answers the uids whose situation may have changed.
    pub fn remove(&mut self, uid: &str) -> BTreeSet<String> {
        if let Some(vertex) = self.vertices.get(uid) {
            let name = (vertex.kind, vertex.key.clone());
            if self.names.get(&name).is_some_and(|holder| holder == uid) {
                self.names.remove(&name);
            }
        }
        self.drop_vertex(uid)
    }

    /// The uids of every object of a kind, in no order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.vertices
            .values()
            .filter(move |vertex| vertex.kind == kind)
            .map(|vertex| vertex.uid.as_str())
    }

    /// The uids of every object that something might have to be done about.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.vertices
            .values()
            .filter(|vertex| vertex.deleting || !vertex.owners.is_empty())
            .map(|vertex| vertex.uid.as_str())
    }

    fn drop_vertex(&mut self, uid: &str) -> BTreeSet<String> {
        let Some(gone) = self.unlink(uid) else { return BTreeSet::new() };
        let owners = gone.owners.into_iter().map(|owner| owner.uid);
        owners.chain(self.dependents.get(uid).into_iter().flatten().cloned()).collect()
    }

    fn unlink(&mut self, uid: &str) -> Option<Vertex> {
        let vertex = self.vertices.remove(uid)?;
        for owner in &vertex.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        Some(vertex)
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
            uid: format!("{name}-uid"),
            resource_version: Some("1".to_owned()),
            owners,
            finalizers: Vec::new(),
            deleting: false,
        }
    }

    #[test]
    fn a_change_touches_its_neighbours() {
        let mut graph = Graph::default();
        let owner = vertex(Kind::ReplicaSet, "n", "r", vec![]);
        let pod =
            vertex(Kind::Pod, "n", "p", vec![reference(Kind::ReplicaSet, "r", "r-uid", true)]);
        let set = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(graph.apply(pod), set(&["p-uid", "r-uid"]));
        assert_eq!(graph.apply(owner.clone()), set(&["p-uid", "r-uid"]), "its owner has come");
        assert_eq!(graph.apply(owner.clone()), set(&["r-uid"]), "nothing new for its dependents");
        let waiting = Vertex { deleting: true, finalizers: vec![FOREGROUND.into()], ..owner };
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
        assert_eq!(graph.of_kind(Kind::Pod).collect::<Vec<_>>(), ["new"]);
    }
}
