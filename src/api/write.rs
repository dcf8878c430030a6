//! The door's writes: create, update, patch, scale, bind, delete. Each is a short loop: read,
//! admit (pure, `admission/`), store on condition that nothing moved in between, else again. A
//! caller's own `resourceVersion` or `uid` ends the loop with a Conflict instead.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde_json::Value;

use crate::api::access::{Identity, Part, Verb};
use crate::api::admission::lifecycle::{self, DeletePlan};
use crate::api::admission::patch::{self, keep_all_but_status};
use crate::api::admission::{
    Admit, CreateContext, FieldValidation, admit_create, admit_status_update, admit_update,
    decode_body,
};
use crate::api::body::{draft_of, header_of};

use crate::api::service_addresses::Taken;
use crate::api::verbs::{Api, store_error};
use crate::object::{ApiError, DeleteOptions, Key, Kind, Object, Patch, Reason};
use crate::store::{Draft, Expect, Record, Store, StoreError, Transaction, Write};

/// Rounds of read, admit, store before a write gives up: each lost round means that another writer
/// won one, so this is reached only where sixteen writers fight for one object.
const ATTEMPTS: usize = 16;

/// Namespaces that exist from the start, made when they are first needed, and never deleted.
pub const SYSTEM_NAMESPACES: [&str; 4] =
    ["default", "kube-system", "kube-public", "kube-node-lease"];

/// What a delete did.
pub(crate) enum Deletion<K> {
    /// Gone; the last state.
    Removed(Arc<K>),
    /// Going: a grace, finalizers or a namespace's content come first.
    Going(Arc<K>),
}

/// What a change of a stored object comes to.
pub(crate) enum Outcome<K> {
    /// Byte for byte what is stored: nothing to write, the revision stays.
    Same,
    Put(Box<K>, Draft),
    /// The last finalizer went: the update is the end of a delete.
    Remove(Box<K>),
}

impl<S: Store> Api<S> {
    /// # Errors
    /// `Forbidden`, a missing or ending namespace, `Conflict` for a controller that is gone or going,
    /// `Invalid` with every field at fault, `AlreadyExists`.
    pub(crate) async fn create<K: Admit>(
        &self,
        who: &Identity,
        object: &K,
        dry_run: bool,
    ) -> Result<Arc<K>, ApiError> {
        let kind = K::OBJECT_KIND;
        who.may(Verb::Create, kind, Part::Whole, &object.key())?;
        if object.metadata().resource_version.as_deref().is_some_and(|text| !text.is_empty()) {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let mut lost = None;
        for _ in 0..ATTEMPTS {
            let namespace = self.living_namespace::<K>(&object.key(), dry_run).await?;
            let controller = self.living_controller(object, None)?;
            let mut new = self.admit_new(object.clone())?;
            self.allocate(&mut new, &[], &mut Taken::default())?;
            let key = new.key();
            if dry_run {
                if self.store().get(kind, &key).is_some() {
                    return Err(ApiError::already_exists(kind, &key.name));
                }
                new.metadata_mut().resource_version = None;
                return Ok(Arc::new(new));
            }
            let header = header_of(&new);
            let draft = draft_of(&mut new)?;
            let put = Write::Put { kind, key: key.clone(), expect: Expect::Absent, draft, header };
            let mut writes = vec![put];
            writes.extend(namespace.into_iter().chain(controller));
            match self.store().transact(Transaction { writes }).await {
                Ok(records) => return Ok(stored(new, &records[0])),
                Err(StoreError::Exists { .. }) if !generated(object) => {
                    return Err(ApiError::already_exists(kind, &key.name));
                }
                Err(error @ StoreError::Exists { .. }) => lost = Some(store_error(error)),
                // The namespace or the controller moved: it is read again.
                Err(
                    StoreError::Stale { write: 1.., .. } | StoreError::Missing { write: 1.., .. },
                ) => lost = Some(ApiError::conflict(kind, &key.name)),
                Err(error @ StoreError::Claimed { .. }) => lost = Some(store_error(error)),
                Err(other) => return Err(store_error(other)),
            }
        }
        Err(lost.unwrap_or_else(|| ApiError::conflict(kind, &object.key().name)))
    }

    /// Replaces the whole object, or its status.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` for a stale version, `Invalid`, `Forbidden`.
    pub(crate) async fn update<K: Admit>(
        &self,
        who: &Identity,
        part: Part,
        object: &K,
        dry_run: bool,
    ) -> Result<Arc<K>, ApiError> {
        who.may(Verb::Update, K::OBJECT_KIND, part, &object.key())?;
        if K::OBJECT_KIND == Kind::Secret && !who.sees_secrets() {
            return Err(hidden_values(who, &object.key()));
        }
        self.change(who, part, &object.key(), dry_run, |_, _| Ok(object.clone())).await
    }

    /// # Errors
    /// As [`Api::update`]; `BadRequest` or `Invalid` for a patch that does not apply.
    pub(crate) async fn patch<K: Admit>(
        &self,
        who: &Identity,
        part: Part,
        key: &Key,
        wanted: &Patch,
        validation: FieldValidation,
        dry_run: bool,
    ) -> Result<(Arc<K>, Vec<String>), ApiError> {
        who.may(Verb::Patch, K::OBJECT_KIND, part, key)?;
        if K::OBJECT_KIND == Kind::Secret && !who.sees_secrets() && !only_metadata(wanted) {
            return Err(hidden_values(who, key));
        }
        let warnings = Mutex::new(Vec::new());
        let object = self
            .change(who, part, key, dry_run, |record, _old: &Arc<K>| {
                let before: Value = serde_json::from_slice(&record.body).map_err(|error| {
                    ApiError::internal(format!("the stored object is no JSON: {error}"))
                })?;
                let mut after = patch::apply(K::OBJECT_KIND, &before, wanted)?;
                if part == Part::Status {
                    after = keep_all_but_status(&before, &after);
                }
                let body = decode_body::<K>(&after, validation)?;
                *warnings.lock().unwrap_or_else(PoisonError::into_inner) = body.warnings;
                Ok(body.object)
            })
            .await?;
        Ok((object, warnings.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid` for a negative number, `BadRequest` where the kind does
    /// not scale.
    pub(crate) async fn scale<K: Admit>(
        &self,
        who: &Identity,
        key: &Key,
        replicas: i32,
        version: Option<&str>,
        dry_run: bool,
    ) -> Result<Arc<K>, ApiError> {
        who.may(Verb::Update, K::OBJECT_KIND, Part::Scale, key)?;
        self.change(who, Part::Scale, key, dry_run, |_, old: &Arc<K>| {
            let mut new = (**old).clone();
            if let Some(version) = version.filter(|version| !version.is_empty()) {
                new.metadata_mut().resource_version = Some(version.to_owned());
            }
            let any: &mut dyn Any = &mut new;
            if let Some(deployment) = any.downcast_mut::<Deployment>() {
                deployment.spec.get_or_insert_default().replicas = Some(replicas);
            } else if let Some(set) = any.downcast_mut::<ReplicaSet>() {
                set.spec.get_or_insert_default().replicas = Some(replicas);
            } else {
                return Err(ApiError::bad_request(format!(
                    "{} do not scale",
                    K::OBJECT_KIND.qualified_resource()
                )));
            }
            Ok(new)
        })
        .await
    }

    /// Binds a pod to a node, once.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it is bound, going, or another incarnation.
    pub(crate) async fn bind(
        &self,
        who: &Identity,
        key: &Key,
        uid: &str,
        node: &str,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        who.may(Verb::Create, Kind::Pod, Part::Binding, key)?;
        if node.is_empty() {
            return Err(ApiError::bad_request("the binding names no node (target.name)"));
        }
        let now = self.options().clock.now();
        self.change(who, Part::Binding, key, dry_run, |_, old: &Arc<Pod>| {
            lifecycle::bind(old, uid, node, now)
        })
        .await
        .map(drop)
    }

    /// # Errors
    /// `NotFound`, `Conflict` for a failed precondition, `Forbidden`.
    pub(crate) async fn delete<K: Admit>(
        &self,
        who: &Identity,
        key: &Key,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Deletion<K>, ApiError> {
        let kind = K::OBJECT_KIND;
        who.may(Verb::Delete, kind, Part::Whole, key)?;
        if kind == Kind::Namespace && SYSTEM_NAMESPACES.contains(&key.name.as_str()) {
            return Err(ApiError::new(
                Reason::Forbidden,
                format!(
                    "namespaces \"{}\" is forbidden: this namespace may not be deleted",
                    key.name
                ),
            ));
        }
        for _ in 0..ATTEMPTS {
            let record =
                self.store().get(kind, key).ok_or_else(|| ApiError::not_found(kind, &key.name))?;
            let old = self.typed::<K>(&record)?;
            owned(who, &*old)?;
            lifecycle::check_preconditions(kind, key, old.metadata(), options)?;
            let expect = Expect::Revision(record.revision);
            let (write, after) = match lifecycle::plan_delete(&*old, options, self.now()) {
                DeletePlan::Unchanged { .. } => return Ok(Deletion::Going(old)),
                DeletePlan::Remove { .. } => {
                    (Write::Delete { kind, key: key.clone(), expect }, None)
                }
                DeletePlan::Mark { mut object, .. } => {
                    let header = header_of(&*object);
                    let draft = draft_of(&mut *object)?;
                    (Write::Put { kind, key: key.clone(), expect, draft, header }, Some(object))
                }
            };
            if dry_run {
                return Ok(match after {
                    Some(object) => Deletion::Going(Arc::new(*object)),
                    None => Deletion::Removed(old),
                });
            }
            match self.store().transact(Transaction { writes: vec![write] }).await {
                Ok(records) => {
                    return Ok(match after {
                        Some(object) => Deletion::Going(stored(*object, &records[0])),
                        None => Deletion::Removed(old),
                    });
                }
                Err(StoreError::Stale { .. }) => {}
                Err(other) => return Err(store_error(other)),
            }
        }
        Err(ApiError::conflict(kind, &key.name))
    }

    /// Read, decide, store; again when another writer was faster.
    async fn change<K: Admit>(
        &self,
        who: &Identity,
        part: Part,
        key: &Key,
        dry_run: bool,
        next: impl Fn(&Record, &Arc<K>) -> Result<K, ApiError> + Send,
    ) -> Result<Arc<K>, ApiError> {
        let kind = K::OBJECT_KIND;
        let mut lost = None;
        for _ in 0..ATTEMPTS {
            let record =
                self.store().get(kind, key).ok_or_else(|| ApiError::not_found(kind, &key.name))?;
            let old = self.typed::<K>(&record)?;
            owned(who, &*old)?;
            let asked = next(&record, &old)?;
            incarnation(&*old, &asked)?;
            let mut new = self.admit_change(who, part, &*old, asked)?;
            if part == Part::Whole {
                self.allocate(&mut new, &record.header.claims, &mut Taken::default())?;
            }
            let controller =
                if part == Part::Whole { self.living_controller(&new, Some(&*old))? } else { None };
            let expect = Expect::Revision(record.revision);
            let (write, after) = match outcome(&record, new)? {
                Outcome::Same => return Ok(old),
                Outcome::Remove(last) => (Write::Delete { kind, key: key.clone(), expect }, last),
                Outcome::Put(object, draft) => {
                    let header = header_of(&*object);
                    (Write::Put { kind, key: key.clone(), expect, draft, header }, object)
                }
            };
            if dry_run {
                let mut after = *after;
                after.metadata_mut().resource_version = Some(record.revision.to_string());
                return Ok(Arc::new(after));
            }
            let writes = [write].into_iter().chain(controller).collect();
            match self.store().transact(Transaction { writes }).await {
                Ok(records) => return Ok(stored(*after, &records[0])),
                Err(StoreError::Stale { .. } | StoreError::Missing { write: 1.., .. }) => {
                    lost = Some(ApiError::conflict(kind, &key.name));
                }
                Err(error @ StoreError::Claimed { .. }) => lost = Some(store_error(error)),
                Err(other) => return Err(store_error(other)),
            }
        }
        Err(lost.unwrap_or_else(|| ApiError::conflict(kind, &key.name)))
    }

    /// Everything that turns a request's object into one that may be stored, addresses left out.
    pub(crate) fn admit_new<K: Admit>(&self, new: K) -> Result<K, ApiError> {
        let ids = &self.options().ids;
        let (uid, suffix) = (ids.uid(), ids.suffix());
        let namespace = new.metadata().namespace.clone().unwrap_or_default();
        admit_create(new, &CreateContext::new(&namespace, &uid, &suffix, self.now()))
    }

    /// As [`Api::admit_new`], for what a stored object becomes.
    pub(crate) fn admit_change<K: Admit>(
        &self,
        who: &Identity,
        part: Part,
        old: &K,
        asked: K,
    ) -> Result<K, ApiError> {
        match part {
            Part::Binding => Ok(asked),
            Part::Status => {
                let mut new = admit_status_update(asked, old)?;
                new.metadata_mut().clone_from(old.metadata());
                Ok(new)
            }
            // A stream and a log change nothing and never come here.
            Part::Whole
            | Part::Scale
            | Part::Finalize
            | Part::Log
            | Part::Exec
            | Part::Attach
            | Part::PortForward => {
                let finalizers = namespace_finalizers(&asked);
                let mut new = admit_update(asked, old)?;
                keep_namespace_finalizers(who, part, old, &mut new, finalizers);
                Ok(new)
            }
        }
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.options().clock.now()
    }
}

/// Who sees hashes would store them with an update, and could copy or test a value with a JSON
/// patch: such an identity changes a Secret's metadata alone, by a merge.
fn only_metadata(patch: &Patch) -> bool {
    let Patch::Merge(Value::Object(fields)) = patch else { return false };
    fields.keys().all(|field| matches!(field.as_str(), "metadata" | "kind" | "apiVersion"))
}

fn hidden_values(who: &Identity, key: &Key) -> ApiError {
    ApiError::new(
        Reason::Forbidden,
        format!(
            "secrets \"{}\" is forbidden: {} does not see its values and changes its metadata only, by a merge patch",
            key.name,
            who.name()
        ),
    )
}

fn namespace_finalizers<K: Object>(object: &K) -> Option<Vec<String>> {
    let any: &dyn Any = object;
    let spec = any.downcast_ref::<Namespace>()?.spec.as_ref()?;
    spec.finalizers.clone()
}

/// The namespace controller lets a namespace go by an update without `spec.finalizers`; everyone
/// else's update leaves them as stored (the reference server has a subresource for it).
fn keep_namespace_finalizers<K: Object>(
    who: &Identity,
    part: Part,
    old: &K,
    new: &mut K,
    asked: Option<Vec<String>>,
) {
    let going = old.metadata().deletion_timestamp.is_some();
    let may =
        part == Part::Finalize || matches!(who, Identity::Controllers | Identity::Admin) && going;
    let any: &mut dyn Any = new;
    if may && let Some(namespace) = any.downcast_mut::<Namespace>() {
        namespace.spec.get_or_insert_default().finalizers = asked.filter(|list| !list.is_empty());
    }
}

/// What a change comes to, judged by the bytes: what serialises alike is alike.
pub(crate) fn outcome<K: Admit>(record: &Record, mut new: K) -> Result<Outcome<K>, ApiError> {
    if lifecycle::removed_by_update(&new) {
        return Ok(Outcome::Remove(Box::new(new)));
    }
    let draft = draft_of(&mut new)?;
    Ok(if same(record, &draft) { Outcome::Same } else { Outcome::Put(Box::new(new), draft) })
}

fn same(record: &Record, draft: &Draft) -> bool {
    let (head, tail) = draft.json.split_at(draft.revision_at);
    let revision = record.revision.to_string();
    record.body.len() == draft.json.len() + revision.len()
        && record.body.starts_with(head)
        && record.body.ends_with(tail)
        && record.body[head.len()..].starts_with(revision.as_bytes())
}

/// The typed object with the revision that its write got.
fn stored<K: Object>(mut object: K, record: &Record) -> Arc<K> {
    object.metadata_mut().resource_version = Some(record.revision.to_string());
    Arc::new(object)
}

/// The caller's `resourceVersion` and `uid`, where given, are those of the stored object.
fn incarnation<K: Object>(old: &K, new: &K) -> Result<(), ApiError> {
    let (stored, wanted) = (old.metadata(), new.metadata());
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let name = stored.name.as_deref().unwrap_or_default();
    if let Some(uid) = given(&wanted.uid)
        && Some(&uid) != stored.uid.as_ref()
    {
        let mut error = ApiError::conflict(K::OBJECT_KIND, name);
        error.message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            K::OBJECT_KIND.qualified_resource(),
            stored.uid.as_deref().unwrap_or_default()
        );
        return Err(error);
    }
    if let Some(version) = given(&wanted.resource_version)
        && Some(&version) != stored.resource_version.as_ref()
    {
        return Err(ApiError::conflict(K::OBJECT_KIND, name));
    }
    Ok(())
}

/// A node's agent writes only pods that are bound to its node.
fn owned<K: Object>(who: &Identity, object: &K) -> Result<(), ApiError> {
    let any: &dyn Any = object;
    let Some(pod) = any.downcast_ref::<Pod>() else { return Ok(()) };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if who.owns(node) {
        return Ok(());
    }
    Err(ApiError::new(
        Reason::Forbidden,
        format!(
            "pods \"{}\" is forbidden: {} writes only pods bound to its node, this one is bound to {}",
            pod.metadata.name.as_deref().unwrap_or_default(),
            who.name(),
            node.unwrap_or("none")
        ),
    ))
}

fn generated<K: Object>(object: &K) -> bool {
    object.metadata().name.as_deref().unwrap_or_default().is_empty()
}
