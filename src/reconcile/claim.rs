//! Pure: which objects a controller may count as its own: adoption and release by selector and uid.
//!
//! An object belongs to the owner whose uid its controlling reference carries, never to a name. One
//! that another controller owns is never touched.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::object::selector::Selector;
use crate::object::{Object, Patch};
use crate::reconcile::owner::{controller_of, controller_reference, is_deleting};

/// What is to be done with each candidate; candidates of other owners are in none of these.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims<K> {
    /// Ours, and the selector still says so.
    pub owned: Vec<Arc<K>>,
    /// Nobody's, and the selector selects it.
    pub adopt: Vec<Arc<K>>,
    /// Ours, but its labels say so no more.
    pub release: Vec<Arc<K>>,
}

/// Sorts candidates. An owner that is being deleted adopts and releases nothing; an orphan that is
/// being deleted is left alone.
pub fn claims<O: Object, K: Object>(
    owner: &O,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Claims<K> {
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    let owner_goes = is_deleting(owner.metadata());
    for candidate in candidates {
        let meta = candidate.metadata();
        if meta.namespace != owner.metadata().namespace {
            continue;
        }
        let selected = selector.matches_optional(meta.labels.as_ref());
        match controller_of(meta) {
            Some(reference) if reference.uid != owner.uid() => {}
            Some(_) if selected => claims.owned.push(candidate),
            Some(_) if owner_goes => {}
            Some(_) => claims.release.push(candidate),
            None if selected && !owner_goes && !is_deleting(meta) => claims.adopt.push(candidate),
            None => {}
        }
    }
    claims
}

/// Makes `owner` the controller of exactly this state of the object.
pub fn adoption<O: Object, K: Object>(owner: &O, object: &K) -> Patch {
    let mut references = object.metadata().owner_references.clone().unwrap_or_default();
    references.retain(|reference| reference.uid != owner.uid());
    references.push(controller_reference(owner));
    ownership_patch(object.metadata(), &references)
}

/// Takes the owner's reference off exactly this state of the object.
pub fn release<K: Object>(owner_uid: &str, object: &K) -> Patch {
    let mut references = object.metadata().owner_references.clone().unwrap_or_default();
    references.retain(|reference| reference.uid != owner_uid);
    ownership_patch(object.metadata(), &references)
}

fn ownership_patch(meta: &ObjectMeta, references: &[OwnerReference]) -> Patch {
    Patch::Merge(json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "ownerReferences": references,
    }}))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

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

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
    }

    #[test]
    fn by_uid_and_selector() {
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
    }
}
