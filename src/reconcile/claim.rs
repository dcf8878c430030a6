//! Pure: which objects a controller may count as its own: adoption and release by selector and uid.
//!
//! An object belongs to the owner whose uid its controlling reference carries, never to a name. One
//! that another controller owns is never touched.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::object::selector::Selector;
use crate::object::{Object, Patch};
use crate::reconcile::kept::{Facts, Kept};
use crate::reconcile::owner::{controller_reference, is_deleting};

/// What is to be done with each candidate; candidates of other owners are in none of these.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims<T> {
    /// Ours, and the selector still says so.
    pub owned: Vec<Arc<T>>,
    /// Nobody's, and the selector selects it.
    pub adopt: Vec<Arc<T>>,
    /// Ours, but its labels say so no more.
    pub release: Vec<Arc<T>>,
}

/// Sorts candidates. An owner that is being deleted adopts and releases nothing; an orphan that is
/// being deleted is left alone.
pub fn claims<O: Object, T: Kept>(
    owner: &O,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<T>>,
) -> Claims<T> {
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    let owner_goes = is_deleting(owner.metadata());
    for candidate in candidates {
        let facts = candidate.facts();
        if facts.place.namespace != owner.place().namespace {
            continue;
        }
        let selected = selector.matches_optional(facts.labels);
        let goes_to = match facts.controller() {
            Some(reference) if reference.uid != owner.uid() => None,
            Some(_) if selected => Some(&mut claims.owned),
            Some(_) if owner_goes => None,
            Some(_) => Some(&mut claims.release),
            None if selected && !owner_goes && !facts.is_deleting => Some(&mut claims.adopt),
            None => None,
        };
        if let Some(list) = goes_to {
            list.push(candidate);
        }
    }
    claims
}

/// Makes `owner` the controller of exactly this state of the object.
pub fn adoption<O: Object, T: Kept>(owner: &O, object: &T) -> Patch {
    let mut references = others(owner.uid(), &object.facts());
    references.push(controller_reference(owner));
    ownership_patch(&object.facts(), &references)
}

/// Takes the owner's reference off exactly this state of the object.
pub fn release<T: Kept>(owner_uid: &str, object: &T) -> Patch {
    ownership_patch(&object.facts(), &others(owner_uid, &object.facts()))
}

/// The references of an object to other owners than this one.
fn others(owner_uid: &str, object: &Facts<'_>) -> Vec<OwnerReference> {
    object.owners.iter().filter(|reference| reference.uid != owner_uid).cloned().collect()
}

fn ownership_patch(object: &Facts<'_>, references: &[OwnerReference]) -> Patch {
    Patch::Merge(json!({"metadata": {
        "uid": object.uid,
        "resourceVersion": object.revision.to_string(),
        "ownerReferences": references,
    }}))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    use super::*;
    use crate::reconcile::pod_outline::{PodOutline, outline};

    fn meta(name: &str, uid: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some("a".into()),
            uid: Some(uid.into()),
            resource_version: Some("7".into()),
            ..ObjectMeta::default()
        }
    }

    fn pod(name: &str, app: &str, owner: Option<&ReplicaSet>) -> Arc<Pod> {
        let mut metadata = meta(name, name);
        metadata.labels = Some(BTreeMap::from([("app".to_owned(), app.to_owned())]));
        metadata.owner_references = owner.map(|owner| vec![controller_reference(owner)]);
        Arc::new(Pod { metadata, ..Pod::default() })
    }

    fn names<T: Kept>(kept: &[Arc<T>]) -> Vec<&str> {
        kept.iter().map(|one| one.place().name).collect()
    }

    #[test]
    fn by_uid_and_selector() {
        sorts_candidates(|pod| pod);
    }

    /// The same of what a cache keeps of them.
    #[test]
    fn by_uid_and_selector_of_outlines() {
        sorts_candidates(|pod| -> Arc<PodOutline> { outline(&pod) });
    }

    fn sorts_candidates<T: Kept>(keep: fn(Arc<Pod>) -> Arc<T>) {
        let ours = ReplicaSet { metadata: meta("web", "u1"), ..ReplicaSet::default() };
        // The same name with another uid: an earlier incarnation owns nothing of ours.
        let earlier = ReplicaSet { metadata: meta("web", "u0"), ..ReplicaSet::default() };
        let selector = Selector::of_map(&BTreeMap::from([("app".into(), "web".into())]));
        let mut dying_orphan = (*pod("dying", "web", None)).clone();
        dying_orphan.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        let candidates = vec![
            pod("owned", "web", Some(&ours)),
            pod("relabelled", "db", Some(&ours)),
            pod("orphan", "web", None),
            pod("stranger", "db", None),
            pod("theirs", "web", Some(&earlier)),
            Arc::new(dying_orphan),
        ];
        let candidates: Vec<Arc<T>> = candidates.into_iter().map(keep).collect();
        let found = claims(&ours, &selector, candidates.clone());
        assert_eq!(names(&found.owned), ["owned"]);
        assert_eq!(names(&found.adopt), ["orphan"]);
        assert_eq!(names(&found.release), ["relabelled"]);

        let mut going = ours;
        going.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        let found = claims(&going, &selector, candidates);
        assert_eq!(names(&found.owned), ["owned"]);
        assert!(found.adopt.is_empty() && found.release.is_empty());
    }

    #[test]
    fn the_patches_carry_their_precondition() {
        let ours = ReplicaSet { metadata: meta("web", "u1"), ..ReplicaSet::default() };
        let Patch::Merge(adopted) = adoption(&ours, &*pod("x", "web", None)) else {
            panic!("a merge patch")
        };
        assert_eq!(adopted["metadata"]["resourceVersion"], "7");
        assert_eq!(adopted["metadata"]["ownerReferences"][0]["uid"], "u1");
        let Patch::Merge(released) = release("u1", &*pod("x", "web", Some(&ours))) else {
            panic!("a merge patch")
        };
        assert_eq!(released["metadata"]["ownerReferences"], json!([]));
        // Of an outline they are the same to the letter, with all that an owner reference says.
        let owned = pod("x", "web", Some(&ours));
        assert_eq!(release("u1", &*outline(&owned)), release("u1", &*owned));
        assert_eq!(release("u2", &*outline(&owned)), release("u2", &*owned));
        let orphan = pod("x", "web", None);
        assert_eq!(adoption(&ours, &*outline(&orphan)), adoption(&ours, &*orphan));
    }
}
