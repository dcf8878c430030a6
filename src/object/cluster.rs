//! Pure: the trait through which every room speaks to the cluster, and the words of that
//! conversation. It is the API's inner skin: `api/local.rs` implements it straight onto the verbs,
//! `api/remote.rs` over a `kube::Client`. A room is generic over `C: Cluster` and cannot tell which.

use std::future::Future;
use std::sync::Arc;

use futures::{Stream, TryFutureExt};
use serde_json::Value;

use crate::object::{ApiError, Key, Kind, Note, Object};

/// Which objects of a kind a list or watch covers. Selectors are in the wire's syntax
/// (`app=web,tier in (a,b)`, `spec.nodeName=n1`) and are evaluated by the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// `None` is every namespace.
    pub namespace: Option<String>,
    pub labels: Option<String>,
    pub fields: Option<String>,
}

impl Scope {
    /// Every object of the kind.
    pub fn all() -> Self {
        Self::default()
    }

    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }

    pub fn fields(fields: impl Into<String>) -> Self {
        Self { fields: Some(fields.into()), ..Self::default() }
    }
}

/// One consistent list.
#[derive(Clone, Debug)]
pub struct Listing<K> {
    /// The revision the whole list was read at.
    pub revision: u64,
    pub items: Vec<Arc<K>>,
}

/// What a watch says, in objects or in what is kept of them. A watch never ends while the cluster
/// lives: it resumes by itself, and when it cannot (it lagged behind, or the revision was compacted)
/// it sends a fresh `Reset`.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// The whole state, at the beginning and after every loss: what is not in it is gone.
    Reset(Vec<T>),
    /// Created or changed.
    Applied(T),
    /// Gone, with the last state the store had of it.
    Deleted(T),
}

/// How a stored object is to change.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902.
    Json(Value),
    /// Kubernetes' strategic merge, by the published patch keys.
    Strategic(Value),
}

/// What happens to the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// The owner goes first, its dependents follow.
    #[default]
    Background,
    /// The owner waits, with a deletionTimestamp, for its blocking dependents.
    Foreground,
    /// The dependents stay and lose the owner reference.
    Orphan,
}

/// The preconditions and manner of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Delete only this incarnation. Every controller sets it: a name may be taken again.
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// `None` is the kind's default (background), unless finalizers on the object say otherwise.
    pub propagation: Option<Propagation>,
    /// Seconds; `Some(0)` removes a pod at once (the node agent, after its containers are gone).
    pub grace_seconds: Option<i64>,
}

/// The cluster, as one identity sees it. Cheap to clone.
///
/// Every call is admitted, authorised and durable before it answers; reads see every write that
/// was answered before. Errors are the API's own, see [`ApiError`].
pub trait Cluster: Clone + Send + Sync + 'static {
    fn get<K: Object>(&self, key: &Key) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send;

    fn list<K: Object>(
        &self,
        scope: &Scope,
    ) -> impl Future<Output = Result<Listing<K>, ApiError>> + Send;

    /// As [`Cluster::list`], of what `keep` makes of each object: for whoever needs a part of ten
    /// thousand pods, which decoded at once are 320 MB.
    fn list_keeping<K: Object, T: Send>(
        &self,
        scope: &Scope,
        keep: impl FnMut(&Arc<K>) -> T + Send,
    ) -> impl Future<Output = Result<Vec<T>, ApiError>> + Send {
        self.list::<K>(scope).map_ok(|listing| listing.items.iter().map(keep).collect())
    }

    /// Endless; see [`Change`]. The first item is a `Reset`.
    fn watch<K: Object>(
        &self,
        scope: Scope,
    ) -> impl Stream<Item = Change<Arc<K>>> + Send + 'static {
        self.watch_keeping(scope, Arc::clone)
    }

    /// As [`Cluster::watch`], of what `keep` makes of each object. Whoever needs a tenth of a pod
    /// says so here: a `Reset` is made one object after the other, as in [`Cluster::list_keeping`].
    fn watch_keeping<K: Object, T: Send + 'static>(
        &self,
        scope: Scope,
        keep: impl Fn(&Arc<K>) -> T + Send + Sync + 'static,
    ) -> impl Stream<Item = Change<T>> + Send + 'static;

    /// `metadata.generateName` is honoured: the answer carries the name.
    fn create<K: Object>(
        &self,
        object: &K,
    ) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send;

    /// Compare-and-swap when `metadata.resourceVersion` is set. The status is left as stored.
    fn update<K: Object>(
        &self,
        object: &K,
    ) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send;

    /// As [`Cluster::update`], for the status alone.
    fn update_status<K: Object>(
        &self,
        object: &K,
    ) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send;

    /// A `metadata.resourceVersion` or `metadata.uid` inside a merge patch is a precondition.
    fn patch<K: Object>(
        &self,
        key: &Key,
        patch: &Patch,
    ) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send;

    fn patch_status<K: Object>(
        &self,
        key: &Key,
        patch: &Patch,
    ) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send;

    /// Sets `spec.replicas` of a Deployment or ReplicaSet; `resource_version` is a precondition.
    fn scale<K: Object>(
        &self,
        key: &Key,
        replicas: i32,
        resource_version: Option<&str>,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Binds a pod to a node, once; `uid` is a precondition.
    fn bind(
        &self,
        pod: &Key,
        uid: &str,
        node: &str,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;

    fn delete<K: Object>(
        &self,
        key: &Key,
        options: &DeleteOptions,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Records an Event, best effort: never waits, never fails; aggregated and bounded by the API.
    fn note(&self, note: Note);
}

/// One object of a commit on its way into the store.
#[derive(Clone, Debug, PartialEq)]
pub enum SetWrite {
    /// Create the object, or make the stored one match: everything the manifest may say (spec, data,
    /// its labels and annotations) is replaced; what the cluster itself adds (status, allocated
    /// addresses, foreign labels and annotations, finalizers, owner references) is kept.
    Apply {
        kind: Kind,
        key: Key,
        /// The manifest as decoded: no defaults filled in.
        manifest: Value,
        /// Label and annotation keys that an earlier commit set: gone if the manifest has them no more.
        previous_labels: Vec<String>,
        previous_annotations: Vec<String>,
        /// Take the object over although its `ballast.dev/source` annotation names another source
        /// or none; without it that is a problem, not a silent theft.
        adopt: bool,
    },
    /// Delete this incarnation, dependents in the background.
    Delete { kind: Kind, key: Key, uid: String },
    /// Create or replace an object of the sync's own (the source's inventory).
    Own { kind: Kind, key: Key, object: Value },
    /// Replace the status of an object (the Source's own).
    Status { kind: Kind, key: Key, status: Value },
}

/// A whole commit. Entered whole or not at all, in this order, at consecutive revisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApplySet {
    /// The source on whose behalf: written to every object as the annotation `ballast.dev/source`.
    pub source: String,
    /// Earlier sources whose objects this one took over: what names one of them is its own.
    pub formerly: Vec<String>,
    pub writes: Vec<SetWrite>,
}

/// What one write of a set did, or would do in a dry run.
#[derive(Clone, Debug, PartialEq)]
pub struct SetOutcome {
    pub kind: Kind,
    pub key: Key,
    pub action: SetAction,
    /// The stored object before; `None` for a create.
    pub before: Option<Arc<Value>>,
    /// The stored object after; `None` for a delete.
    pub after: Option<Arc<Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetAction {
    Created,
    Updated,
    /// Already so: nothing was written, the revision stays.
    Unchanged,
    Deleted,
}

/// One write of a set that admission refused, with every field at fault in `error.details`.
#[derive(Clone, Debug, PartialEq)]
pub struct SetProblem {
    /// Index into [`ApplySet::writes`].
    pub write: usize,
    pub error: ApiError,
}

/// The one thing more that `sync` may do, and only in the same process as the store.
pub trait Transact: Cluster {
    /// Admits every write, then enters all of them as one transaction, or none. A namespace created
    /// earlier in the set counts as existing. `dry_run` stops before the store and tells what would
    /// have happened (`plan`).
    ///
    /// # Errors
    /// Every problem of every write at once, in the order of the writes.
    fn apply_set(
        &self,
        set: &ApplySet,
        dry_run: bool,
    ) -> impl Future<Output = Result<Vec<SetOutcome>, Vec<SetProblem>>> + Send;
}
