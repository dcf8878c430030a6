//! Pure: the objects of one kind under their keys and under the terms that controllers ask by.
//!
//! A term is a text such as `owner/<uid>`; which terms an object has is a plain function of it, given
//! when the index is made. The last state of a deleted object is handed on, so that its owner is woken.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::{Change, Key, Object};

/// What a subscriber is told.
#[derive(Clone, Debug)]
pub enum Seen<K> {
    /// Look at everything anew: the beginning, or this subscriber fell behind.
    All,
    /// One object came (`before` is none), changed, or went (`after` is none).
    Changed { before: Option<Arc<K>>, after: Option<Arc<K>> },
}

impl<K> Seen<K> {
    /// The states that this change has to do with: an object that moved from one owner to another
    /// concerns both.
    pub fn states(&self) -> impl Iterator<Item = &Arc<K>> {
        let (before, after) = match self {
            Self::All => (None, None),
            Self::Changed { before, after } => (before.as_ref(), after.as_ref()),
        };
        before.into_iter().chain(after)
    }
}

/// Which terms an object is found under.
pub type Terms<K> = fn(&K) -> Vec<String>;

/// All objects of a kind, as far as the watch has told.
#[derive(Debug)]
pub struct Indexed<K> {
    terms: Terms<K>,
    objects: BTreeMap<Arc<Key>, Arc<K>>,
    by_term: BTreeMap<String, BTreeMap<Arc<Key>, Arc<K>>>,
    /// The highest resourceVersion that went by.
    revision: u64,
}

impl<K: Object> Indexed<K> {
    pub fn new(terms: Terms<K>) -> Self {
        Self { terms, objects: BTreeMap::new(), by_term: BTreeMap::new(), revision: 0 }
    }

    /// The highest resourceVersion that went by.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// In key order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// Those of one namespace, in key order.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        self.objects
            .range::<Key, _>(Key::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, object)| object)
    }

    /// Those under a term, in key order.
    pub fn under(&self, term: &str) -> impl Iterator<Item = &Arc<K>> {
        self.by_term.get(term).into_iter().flat_map(BTreeMap::values)
    }

    /// How many are under a term.
    pub fn count_under(&self, term: &str) -> usize {
        self.by_term.get(term).map_or(0, BTreeMap::len)
    }

    /// Takes a change up and answers what really changed: a `Reset` is compared with what is here.
    pub fn apply(&mut self, change: Change<Arc<K>>) -> Vec<Seen<K>> {
        match change {
            Change::Applied(object) => self.put(object).into_iter().collect(),
            Change::Deleted(last) => {
                self.revision = self.revision.max(revision_of(&*last));
                self.remove(&last.key());
                vec![Seen::Changed { before: Some(last), after: None }]
            }
            Change::Reset(objects) => {
                let mut kept: BTreeMap<Key, ()> = BTreeMap::new();
                let mut seen = Vec::new();
                for object in objects {
                    kept.insert(object.key(), ());
                    seen.extend(self.put(object));
                }
                let gone: Vec<Arc<Key>> = self
                    .objects
                    .keys()
                    .filter(|key| !kept.contains_key(&***key))
                    .cloned()
                    .collect();
                for key in gone {
                    let before = self.remove(&key);
                    seen.push(Seen::Changed { before, after: None });
                }
                seen
            }
        }
    }

    /// Nothing when the same state is here already.
    fn put(&mut self, object: Arc<K>) -> Option<Seen<K>> {
        self.revision = self.revision.max(revision_of(&*object));
        let key = Arc::new(object.key());
        let before = self.objects.get(&key).cloned();
        if before.as_ref().is_some_and(|before| same_state(&**before, &*object)) {
            return None;
        }
        let terms = (self.terms)(&object);
        if let Some(before) = &before {
            let stale = (self.terms)(before).into_iter().filter(|term| !terms.contains(term));
            for term in stale {
                self.leave(&term, &key);
            }
        }
        for term in terms {
            self.by_term.entry(term).or_default().insert(key.clone(), object.clone());
        }
        self.objects.insert(key, object.clone());
        Some(Seen::Changed { before, after: Some(object) })
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let (key, object) = self.objects.remove_entry(key)?;
        for term in (self.terms)(&object) {
            self.leave(&term, &key);
        }
        Some(object)
    }

    fn leave(&mut self, term: &str, key: &Key) {
        if let Some(under) = self.by_term.get_mut(term) {
            under.remove(key);
            if under.is_empty() {
                self.by_term.remove(term);
            }
        }
    }
}

fn same_state<K: Object>(one: &K, other: &K) -> bool {
    let (one, other) = (one.metadata(), other.metadata());
    one.uid == other.uid && one.resource_version == other.resource_version
}

/// The revision an object was written at; 0 before it is stored.
pub fn revision_of<K: Object>(object: &K) -> u64 {
    let text = object.metadata().resource_version.as_deref().unwrap_or_default();
    text.parse().unwrap_or_default()
}

/// The uid of the owner that controls an object.
pub fn controller_uid(meta: &ObjectMeta) -> Option<&str> {
    let owners = meta.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// The term of what a uid controls.
pub fn owned_by(uid: &str) -> String {
    format!("owner/{uid}")
}

/// The term of what nobody controls in a namespace.
pub fn orphans_of(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// The term of the pods bound to a node; the empty name is "not bound".
pub fn on_node(node: &str) -> String {
    format!("node/{node}")
}

/// The term of what has a label in a namespace.
pub fn labelled(namespace: &str, label: &str, value: &str) -> String {
    format!("label/{namespace}/{label}={value}")
}

/// No terms: found by key and namespace alone.
pub fn no_terms<K>(_: &K) -> Vec<String> {
    Vec::new()
}

/// Owner or orphan.
pub fn ownership(meta: &ObjectMeta) -> String {
    match controller_uid(meta) {
        Some(uid) => owned_by(uid),
        None => orphans_of(meta.namespace.as_deref().unwrap_or_default()),
    }
}

/// A pod by owner, node and each of its labels.
pub fn pod_terms(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let mut terms = vec![ownership(&pod.metadata), on_node(node)];
    let labels = pod.metadata.labels.iter().flatten();
    terms.extend(labels.map(|(label, value)| labelled(namespace, label, value)));
    terms
}

/// A ReplicaSet by owner.
pub fn replica_set_terms(replica_set: &ReplicaSet) -> Vec<String> {
    vec![ownership(&replica_set.metadata)]
}

/// The term of the Services that select a label in a namespace, by their first selector entry.
pub fn selecting(namespace: &str, label: &str, value: &str) -> String {
    format!("selects/{namespace}/{label}={value}")
}

/// A Service by the first entry of its selector: a pod's labels find the Services that may select it.
pub fn service_terms(service: &Service) -> Vec<String> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let first = selector.and_then(|selector| selector.first_key_value());
    first.map(|(label, value)| selecting(namespace, label, value)).into_iter().collect()
}

/// A slice by the label that names its Service.
pub fn slice_terms(slice: &EndpointSlice) -> Vec<String> {
    const SERVICE: &str = "kubernetes.io/service-name";
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE));
    service.map(|name| labelled(namespace, SERVICE, name)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use proptest::prelude::*;

    use super::*;

    fn pod(name: &str, revision: u64, owner: Option<&str>) -> Arc<Pod> {
        let owner = owner.map(|uid| OwnerReference {
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        });
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("a".to_owned()),
                uid: Some(format!("uid-{name}")),
                resource_version: Some(revision.to_string()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        })
    }

    #[test]
    fn a_reset_is_compared_and_deletes_carry_the_last_state() {
        let mut index = Indexed::new(pod_terms);
        assert_eq!(
            index.apply(Change::Reset(vec![pod("x", 1, Some("o")), pod("y", 2, None)])).len(),
            2
        );
        assert_eq!(index.count_under(&owned_by("o")), 1);
        let seen = index.apply(Change::Reset(vec![pod("y", 2, None)]));
        let [Seen::Changed { before: Some(last), after: None }] = &seen[..] else {
            panic!("one deletion, not {seen:?}")
        };
        assert_eq!(last.metadata.name.as_deref(), Some("x"));
        assert_eq!(index.count_under(&owned_by("o")), 0);
        assert_eq!(index.revision(), 2);
    }

    #[test]
    fn a_pod_that_changes_owner_leaves_the_old_term_and_concerns_both() {
        let mut index = Indexed::new(pod_terms);
        index.apply(Change::Applied(pod("x", 1, Some("old"))));
        let seen = index.apply(Change::Applied(pod("x", 2, Some("new"))));
        let owners: Vec<_> =
            seen[0].states().filter_map(|pod| controller_uid(&pod.metadata)).collect();
        assert_eq!(owners, ["old", "new"]);
        assert_eq!(index.count_under(&owned_by("old")), 0);
        assert_eq!(index.count_under(&owned_by("new")), 1);
        assert_eq!(index.count_under(&orphans_of("a")), 0);
    }

    proptest! {
        /// The index answers what a scan of all objects answers.
        #[test]
        fn the_index_agrees_with_a_scan(
            steps in proptest::collection::vec((0_usize..6, 0_usize..3, any::<bool>()), 1..60),
        ) {
            let mut index = Indexed::new(pod_terms);
            let mut dull: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
            for (revision, (name, owner, delete)) in (1..).zip(steps) {
                let name = format!("p{name}");
                let owner = ["u0", "u1"].get(owner).copied();
                let object = pod(&name, revision, owner);
                if delete {
                    dull.remove(&name);
                    index.apply(Change::Deleted(object));
                } else {
                    dull.insert(name, object.clone());
                    index.apply(Change::Applied(object));
                }
                for (term, uid) in [(owned_by("u0"), Some("u0")), (owned_by("u1"), Some("u1")), (orphans_of("a"), None)] {
                    let expected: Vec<_> = dull
                        .values()
                        .filter(|pod| controller_uid(&pod.metadata) == uid)
                        .map(|pod| pod.key())
                        .collect();
                    let answered: Vec<_> = index.under(&term).map(|pod| pod.key()).collect();
                    prop_assert_eq!(answered, expected);
                }
                prop_assert_eq!(index.in_namespace("a").count(), dull.len());
                prop_assert_eq!(index.in_namespace("b").count(), 0);
            }
        }
    }
}
