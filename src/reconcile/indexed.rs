//! Pure: the objects of one kind under their keys and under the terms that controllers ask by.
//!
//! A term is a text such as `owner/<uid>`; which terms an object has is a plain function of it, given
//! when the index is made. The last state of a deleted object is handed on, so that its owner is woken.
//!
//! An object costs the index a pointer for itself and one for each of its terms: the sets are ordered
//! by the key that stands in the object itself, and the text of a term is there once.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::object::{Change, Key};
use crate::reconcile::kept::{Facts, Kept, Place};
use crate::reconcile::pod_outline::PodOutline;

/// What a subscriber is told.
#[derive(Clone, Debug)]
pub enum Seen<T> {
    /// Look at everything anew: the beginning, or this subscriber fell behind.
    All,
    /// One object came (`before` is none), changed, or went (`after` is none).
    Changed { before: Option<Arc<T>>, after: Option<Arc<T>> },
}

impl<T> Seen<T> {
    /// The states that this change has to do with: an object that moved from one owner to another
    /// concerns both.
    pub fn states(&self) -> impl Iterator<Item = &Arc<T>> {
        let (before, after) = match self {
            Self::All => (None, None),
            Self::Changed { before, after } => (before.as_ref(), after.as_ref()),
        };
        before.into_iter().chain(after)
    }
}

/// Which terms an object is found under.
pub type Terms<T> = fn(&T) -> Vec<String>;

/// All objects of a kind, as far as the watch has told.
#[derive(Debug)]
pub struct Indexed<T: Kept> {
    terms: Terms<T>,
    objects: BTreeSet<Placed<T>>,
    by_term: BTreeMap<String, BTreeSet<Placed<T>>>,
    /// The highest resourceVersion that went by.
    revision: u64,
}

impl<T: Kept> Indexed<T> {
    pub fn new(terms: Terms<T>) -> Self {
        Self { terms, objects: BTreeSet::new(), by_term: BTreeMap::new(), revision: 0 }
    }

    /// The highest resourceVersion that went by.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<T>> {
        self.objects.get(key as &dyn HasPlace).map(|Placed(object)| object)
    }

    /// In key order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects.iter().map(|Placed(object)| object)
    }

    /// Those of one namespace, in key order.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<T>> {
        let first = Key::new(namespace, "");
        self.objects
            .range::<dyn HasPlace, _>((Bound::Included(&first as &dyn HasPlace), Bound::Unbounded))
            .map(|Placed(object)| object)
            .take_while(move |object| object.place().namespace == namespace)
    }

    /// Those under a term, in key order.
    pub fn under(&self, term: &str) -> impl Iterator<Item = &Arc<T>> {
        self.by_term.get(term).into_iter().flatten().map(|Placed(object)| object)
    }

    /// How many are under a term.
    pub fn count_under(&self, term: &str) -> usize {
        self.by_term.get(term).map_or(0, BTreeSet::len)
    }

    /// Takes a change up and answers what really changed: a `Reset` is compared with what is here.
    pub fn apply(&mut self, change: Change<Arc<T>>) -> Vec<Seen<T>> {
        match change {
            Change::Applied(object) => self.put(object).into_iter().collect(),
            Change::Deleted(last) => {
                self.revision = self.revision.max(last.facts().revision);
                self.remove(&Placed(last.clone()));
                vec![Seen::Changed { before: Some(last), after: None }]
            }
            Change::Reset(objects) => {
                let kept: BTreeSet<Placed<T>> = objects.iter().cloned().map(Placed).collect();
                let mut seen: Vec<Seen<T>> =
                    objects.into_iter().filter_map(|object| self.put(object)).collect();
                let gone: Vec<Placed<T>> = self.objects.difference(&kept).cloned().collect();
                for placed in gone {
                    self.remove(&placed);
                    seen.push(Seen::Changed { before: Some(placed.0), after: None });
                }
                seen
            }
        }
    }

    /// Nothing when the same state is here already.
    fn put(&mut self, object: Arc<T>) -> Option<Seen<T>> {
        self.revision = self.revision.max(object.facts().revision);
        let placed = Placed(object.clone());
        let before = self.objects.get(&placed).map(|Placed(before)| before.clone());
        if before.as_ref().is_some_and(|before| same_state(&**before, &*object)) {
            return None;
        }
        let terms = (self.terms)(&object);
        if let Some(before) = &before {
            let stale = (self.terms)(before).into_iter().filter(|term| !terms.contains(term));
            for term in stale {
                self.leave(&term, &placed);
            }
        }
        for term in terms {
            self.by_term.entry(term).or_default().replace(placed.clone());
        }
        self.objects.replace(placed);
        Some(Seen::Changed { before, after: Some(object) })
    }

    fn remove(&mut self, placed: &Placed<T>) {
        let Some(Placed(object)) = self.objects.take(placed) else { return };
        for term in (self.terms)(&object) {
            self.leave(&term, placed);
        }
    }

    fn leave(&mut self, term: &str, placed: &Placed<T>) {
        if let Some(under) = self.by_term.get_mut(term) {
            under.remove(placed);
            if under.is_empty() {
                self.by_term.remove(term);
            }
        }
    }
}

fn same_state<T: Kept>(one: &T, other: &T) -> bool {
    let (one, other) = (one.facts(), other.facts());
    one.uid == other.uid && one.revision == other.revision
}

/// An object that is ordered by its key, and found by one.
#[derive(Clone, Debug)]
struct Placed<T>(Arc<T>);

/// What has a key to look by: an object of the index, or a [`Key`].
trait HasPlace {
    fn place(&self) -> Place<'_>;
}

impl<T: Kept> HasPlace for Placed<T> {
    fn place(&self) -> Place<'_> {
        self.0.place()
    }
}

impl HasPlace for Key {
    fn place(&self) -> Place<'_> {
        Place { namespace: &self.namespace, name: &self.name }
    }
}

impl<'a, T: Kept> Borrow<dyn HasPlace + 'a> for Placed<T> {
    fn borrow(&self) -> &(dyn HasPlace + 'a) {
        self
    }
}

impl Ord for dyn HasPlace + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for dyn HasPlace + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn HasPlace + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn HasPlace + '_ {}

impl<T: Kept> Ord for Placed<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.place().cmp(&other.0.place())
    }
}

impl<T: Kept> PartialOrd for Placed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Kept> PartialEq for Placed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.place() == other.0.place()
    }
}

impl<T: Kept> Eq for Placed<T> {}

/// The term of what a uid controls.
pub fn owned_by(uid: &str) -> String {
    format!("owner/{uid}")
}

/// The term of what nobody controls in a namespace.
pub fn orphans_of(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// The term of what has a label in a namespace.
pub fn labelled(namespace: &str, label: &str, value: &str) -> String {
    format!("label/{namespace}/{label}={value}")
}

/// No terms: found by key and namespace alone.
pub fn no_terms<T>(_: &T) -> Vec<String> {
    Vec::new()
}

/// Owner or orphan.
pub fn ownership(facts: &Facts<'_>) -> String {
    match facts.controller() {
        Some(owner) => owned_by(&owner.uid),
        None => orphans_of(facts.place.namespace),
    }
}

/// A pod by owner, each of its labels and each of its claims.
pub fn pod_terms(pod: &PodOutline) -> Vec<String> {
    let facts = pod.facts();
    let labels = pod.labels.iter();
    let labels = labels.map(|(label, value)| labelled(facts.place.namespace, label, value));
    let claims = pod.claim_keys().map(|claim| of_claim(&claim));
    std::iter::once(ownership(&facts)).chain(labels).chain(claims).collect()
}

/// The term of the pods that use a claim, and of the volume that is kept for it.
pub fn of_claim(claim: &Key) -> String {
    format!("claim/{claim}")
}

/// A volume by the claim that it is kept for.
pub fn volume_terms(volume: &PersistentVolume) -> Vec<String> {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    claim.map(|claim| of_claim(&key_of(claim))).into_iter().collect()
}

/// Where what is referred to is.
pub fn key_of(reference: &ObjectReference) -> Key {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    Key { namespace: part(&reference.namespace), name: part(&reference.name) }
}

/// A ReplicaSet by owner.
pub fn replica_set_terms(replica_set: &ReplicaSet) -> Vec<String> {
    vec![ownership(&replica_set.facts())]
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
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
    use proptest::prelude::*;

    use super::*;
    use crate::reconcile::pod_outline::outline;

    fn pod(name: &str, revision: u64, owner: Option<&str>) -> Arc<PodOutline> {
        let owner = owner.map(|uid| OwnerReference {
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        });
        outline(&Pod {
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
        assert_eq!(&*last.name, "x");
        assert_eq!(index.count_under(&owned_by("o")), 0);
        assert_eq!(index.revision(), 2);
    }

    #[test]
    fn a_pod_that_changes_owner_leaves_the_old_term_and_concerns_both() {
        let mut index = Indexed::new(pod_terms);
        index.apply(Change::Applied(pod("x", 1, Some("old"))));
        let seen = index.apply(Change::Applied(pod("x", 2, Some("new"))));
        let owners: Vec<_> = seen[0]
            .states()
            .filter_map(|pod| pod.facts().controller())
            .map(|owner| &*owner.uid)
            .collect();
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
            let mut dull: BTreeMap<String, Arc<PodOutline>> = BTreeMap::new();
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
                        .filter(|pod| pod.facts().controller().map(|owner| &*owner.uid) == uid)
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
