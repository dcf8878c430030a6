//! Pure: what a cache has to know of the things that it keeps, be they whole objects or the part of
//! them that decisions are made by. Claims and selectors ask no more either.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::object::owner::controller_among;
use crate::object::{Key, Object};

/// Where something is, borrowed: ordered as a [`Key`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place<'a> {
    /// Empty for a cluster-scoped object.
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Place<'_> {
    pub fn key(&self) -> Key {
        Key::new(self.namespace, self.name)
    }
}

/// What is asked of every object, of whatever kind.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub place: Place<'a>,
    /// Empty before the API has stored the object.
    pub uid: &'a str,
    /// The revision it was written at; 0 before it is stored.
    pub revision: u64,
    pub labels: Option<&'a BTreeMap<String, String>>,
    pub owners: &'a [OwnerReference],
    /// It has a deletionTimestamp.
    pub is_deleting: bool,
}

impl<'a> Facts<'a> {
    /// The owner that controls it.
    pub fn controller(&self) -> Option<&'a OwnerReference> {
        controller_among(self.owners)
    }
}

/// An object, or what is kept of it.
pub trait Kept: Clone + Debug + Send + Sync + 'static {
    /// What it is, or is a part of.
    type Whole: Object;

    /// Asked at every step of a search, and so apart from the other facts.
    fn place(&self) -> Place<'_>;

    fn facts(&self) -> Facts<'_>;

    /// What is kept of a state that a write has answered.
    fn of_whole(whole: Arc<Self::Whole>) -> Arc<Self>;
}

impl<K: Object> Kept for K {
    type Whole = K;

    fn place(&self) -> Place<'_> {
        let meta = self.metadata();
        Place {
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            name: meta.name.as_deref().unwrap_or_default(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        let meta = self.metadata();
        Facts {
            place: self.place(),
            uid: self.uid(),
            revision: revision_of(self),
            labels: meta.labels.as_ref(),
            owners: meta.owner_references.as_deref().unwrap_or_default(),
            is_deleting: meta.deletion_timestamp.is_some(),
        }
    }

    fn of_whole(whole: Arc<Self>) -> Arc<Self> {
        whole
    }
}

/// The revision an object was written at; 0 before it is stored.
pub fn revision_of<K: Object>(object: &K) -> u64 {
    let text = object.metadata().resource_version.as_deref().unwrap_or_default();
    text.parse().unwrap_or_default()
}
