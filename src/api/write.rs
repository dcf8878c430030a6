//! The door's writes: create, update, patch, scale, bind, delete. Each is a short loop: read,
//! admit (pure, `admission/`), store on condition that nothing moved in between, else again. A
//! caller's own `resourceVersion` or `uid` ends the loop with a Conflict instead.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde_json::Value;

use crate::api::access::{Identity, Part, Verb};
use crate::api::admission::ephemeral_validation;
use crate::api::admission::lifecycle::{self, DeletePlan};
use crate::api::admission::patch::{self, keep_all_but_status};
use crate::api::admission::{
    Admit, CreateContext, FieldValidation, admit_create, admit_status_update, admit_update,
    decode_body,
};
use crate::api::apply::Writer;
use crate::api::apply::tracking::{self, Entries};
use crate::api::body::{draft_of, header_of};
use crate::api::ownership::owned;
use crate::api::secret_view::{only_metadata, sighted};
use crate::api::service_addresses::Taken;
use crate::api::verbs::{Api, store_error};
use crate::api::write_options::WriteOptions;
use crate::object::{ApiError, DeleteOptions, Key, Kind, Object, Patch, Reason};
use crate::store::{Draft, Expect, Record, Store, StoreError, Transaction, Write};

/// Rounds of read, admit, store before a write gives up: each lost round means that another writer
/// won one, so this is reached only where sixteen writers fight for one object.
pub(crate) const ATTEMPTS: usize = 16;

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

/// What a write asks the object to become.
pub(crate) struct Asked<K> {
    pub object: K,
    pub owning: Owning,
}

/// Who owns which field afterwards.
pub(crate) enum Owning {
    /// The writer what it changes, where the object is tracked at all.
    Written,
    /// As an apply has decided.
    Applied(Entries),
}

impl<K> Asked<K> {
    fn written(object: K) -> Self {
        Self { object, owning: Owning::Written }
    }
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
        options: &WriteOptions,
    ) -> Result<Arc<K>, ApiError> {
        self.insert(who, object, &Owning::Written, options).await
    }

    /// As [`Api::create`], for what is created and for what is applied.
    pub(crate) async fn insert<K: Admit>(
        &self,
        who: &Identity,
        object: &K,
        owning: &Owning,
        options: &WriteOptions,
    ) -> Result<Arc<K>, ApiError> {
        let (kind, dry_run) = (K::OBJECT_KIND, options.dry_run);
        self.permit(who, Verb::Create, kind, Part::Whole, &object.key(), dry_run)?;
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
            let labels = self.namespace_labels(&new.key().namespace);
            self.enforce(who, &new, &labels)?;
            match owning {
                Owning::Applied(entries) => new.metadata_mut().managed_fields.clone_from(entries),
                Owning::Written if options.manager.is_some() => {
                    let manager = manager_of(who, options);
                    let writer = self.writer(&manager, Part::Whole);
                    let said = object.metadata().managed_fields.clone();
                    tracking::begin(&mut new, said, &writer)?;
                }
                Owning::Written => {}
            }
            self.allocate(&mut new, &[], &mut Taken::default())?;
            let key = new.key();
            if dry_run {
                if self.store().get(kind, &key).is_some() {
                    return Err(ApiError::already_exists(kind, &key.name));
                }
                new.metadata_mut().resource_version = None;
                // The writer's own words, and nothing stored.
                return Ok(Arc::new(new));
            }
            self.audit_policy(&new, None, &labels);
            let header = header_of(&new);
            let draft = draft_of(&mut new)?;
            let put = Write::Put { kind, key: key.clone(), expect: Expect::Absent, draft, header };
            let mut writes = vec![put];
            writes.extend(namespace.into_iter().chain(controller));
            match self.store().transact(Transaction { writes }).await {
                Ok(records) => return Ok(self.redacted(who, stored(new, &records[0]))),
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
        options: &WriteOptions,
    ) -> Result<Arc<K>, ApiError> {
        let key = object.key();
        self.permit(who, Verb::Update, K::OBJECT_KIND, part, &key, options.dry_run)?;
        sighted::<K>(who, &key, options.dry_run)?;
        self.change(who, part, &key, options, |_, _| Ok(Asked::written(object.clone()))).await
    }

    /// `twice` are the fields that the patch's text names twice.
    ///
    /// # Errors
    /// As [`Api::update`]; `BadRequest` or `Invalid` for a patch that does not apply.
    pub(crate) async fn patch<K: Admit>(
        &self,
        who: &Identity,
        part: Part,
        key: &Key,
        wanted: &Patch,
        twice: &[String],
        options: &WriteOptions,
    ) -> Result<(Arc<K>, Vec<String>), ApiError> {
        self.permit(who, Verb::Patch, K::OBJECT_KIND, part, key, options.dry_run)?;
        if !only_metadata(wanted) {
            sighted::<K>(who, key, options.dry_run)?;
        }
        let warnings = Mutex::new(Vec::new());
        let object = self
            .change(who, part, key, options, |body, _old: &Arc<K>| {
                let before = value_of(body)?;
                let mut after = patch::apply(K::OBJECT_KIND, &before, wanted)?;
                if part == Part::Status {
                    after = keep_all_but_status(&before, &after);
                }
                let read = decode_body::<K>(&after, FieldValidation::Warn)?;
                let told: Vec<String> = twice.iter().cloned().chain(read.warnings).collect();
                match options.validation {
                    FieldValidation::Strict if !told.is_empty() => {
                        return Err(patch::too_strict(&after, wanted, &told));
                    }
                    FieldValidation::Warn => {
                        *warnings.lock().unwrap_or_else(PoisonError::into_inner) = told;
                    }
                    FieldValidation::Strict | FieldValidation::Ignore => {}
                }
                Ok(Asked::written(read.object))
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
        options: &WriteOptions,
    ) -> Result<Arc<K>, ApiError> {
        self.permit(who, Verb::Update, K::OBJECT_KIND, Part::Scale, key, options.dry_run)?;
        self.change(who, Part::Scale, key, options, |_, old: &Arc<K>| {
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
            Ok(Asked::written(new))
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
        self.permit(who, Verb::Create, Kind::Pod, Part::Binding, key, dry_run)?;
        if node.is_empty() {
            return Err(ApiError::bad_request("the binding names no node (target.name)"));
        }
        let now = self.options().clock.now();
        let options = WriteOptions { dry_run, ..WriteOptions::default() };
        self.change(who, Part::Binding, key, &options, |_, old: &Arc<Pod>| {
            lifecycle::bind(old, uid, node, now).map(Asked::written)
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
        self.permit(who, Verb::Delete, kind, Part::Whole, key, dry_run)?;
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
                DeletePlan::Unchanged { .. } => {
                    return Ok(Deletion::Going(self.redacted(who, old)));
                }
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
                    Some(object) => Deletion::Going(self.redacted(who, Arc::new(*object))),
                    None => Deletion::Removed(self.redacted(who, old)),
                });
            }
            match self.store().transact(Transaction { writes: vec![write] }).await {
                Ok(records) => {
                    return Ok(match after {
                        Some(object) => {
                            let object = stored(*object, &records[0]);
                            Deletion::Going(self.redacted(who, object))
                        }
                        None => Deletion::Removed(self.redacted(who, old)),
                    });
                }
                Err(StoreError::Stale { .. }) => {}
                Err(other) => return Err(store_error(other)),
            }
        }
        Err(ApiError::conflict(kind, &key.name))
    }

    /// Read, decide, store; again when another writer was faster. `next` gets the stored object as
    /// JSON text and typed. Answers what `who` may see.
    ///
    /// Who may not see a Secret's values tries a write on the object with hashes in their place: no
    /// patch, test or validation meets a value then, and the answer has none to hide. Hashing what the
    /// request itself brought would be worse than showing it: whoever can have a guess hashed knows
    /// when it is right.
    pub(crate) async fn change<K: Admit>(
        &self,
        who: &Identity,
        part: Part,
        key: &Key,
        options: &WriteOptions,
        next: impl Fn(&Bytes, &Arc<K>) -> Result<Asked<K>, ApiError> + Send,
    ) -> Result<Arc<K>, ApiError> {
        let (kind, dry_run) = (K::OBJECT_KIND, options.dry_run);
        let hidden = dry_run && kind == Kind::Secret && !who.sees_secrets();
        let mut lost = None;
        for _ in 0..ATTEMPTS {
            let record =
                self.store().get(kind, key).ok_or_else(|| ApiError::not_found(kind, &key.name))?;
            let mut old = self.typed::<K>(&record)?;
            let mut body = record.body.to_bytes();
            if hidden {
                old = self.redacted(who, old);
                body = Bytes::from(serde_json::to_vec(&*old).map_err(|error| {
                    ApiError::internal(format!("the object does not serialise: {error}"))
                })?);
            }
            owned(who, &*old)?;
            let asked = next(&body, &old)?;
            incarnation(&*old, &asked.object)?;
            let mut new = self.admit_asked(who, part, &*old, asked, options)?;
            if matches!(part, Part::Whole | Part::EphemeralContainers) {
                self.enforce_change(who, &new, &*old)?;
            }
            if part == Part::Whole {
                self.allocate(&mut new, &record.header.claims, &mut Taken::default())?;
            }
            let controller =
                if part == Part::Whole { self.living_controller(&new, Some(&*old))? } else { None };
            let expect = Expect::Revision(record.revision);
            let (write, after) = match outcome(&record, new)? {
                Outcome::Same => return Ok(self.redacted(who, old)),
                Outcome::Remove(last) => (Write::Delete { kind, key: key.clone(), expect }, last),
                Outcome::Put(object, draft) => {
                    let header = header_of(&*object);
                    (Write::Put { kind, key: key.clone(), expect, draft, header }, object)
                }
            };
            if dry_run {
                let mut after = *after;
                after.metadata_mut().resource_version = Some(record.revision.to_string());
                let after = Arc::new(after);
                return Ok(if hidden { after } else { self.redacted(who, after) });
            }
            let writes = [write].into_iter().chain(controller).collect();
            match self.store().transact(Transaction { writes }).await {
                Ok(records) => return Ok(self.redacted(who, stored(*after, &records[0]))),
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
    pub(crate) fn admit_new<K: Admit>(&self, mut new: K) -> Result<K, ApiError> {
        self.name_class(&mut new);
        let ids = &self.options().ids;
        let (uid, suffix) = (ids.uid(), ids.suffix());
        let namespace = new.metadata().namespace.clone().unwrap_or_default();
        admit_create(new, &CreateContext::new(&namespace, &uid, &suffix, self.now()))
    }

    /// As [`Api::admit_new`], for what a stored object becomes by a write of a room.
    pub(crate) fn admit_change<K: Admit>(
        &self,
        who: &Identity,
        part: Part,
        old: &K,
        asked: K,
    ) -> Result<K, ApiError> {
        self.admit_asked(who, part, old, Asked::written(asked), &WriteOptions::default())
    }

    fn admit_asked<K: Admit>(
        &self,
        who: &Identity,
        part: Part,
        old: &K,
        asked: Asked<K>,
        options: &WriteOptions,
    ) -> Result<K, ApiError> {
        let said = asked.object.metadata().managed_fields.clone();
        let mut new = match part {
            // The reference server's binding owns nothing either.
            Part::Binding => return Ok(asked.object),
            Part::Status => {
                let mut new = admit_status_update(asked.object, old)?;
                new.metadata_mut().clone_from(old.metadata());
                new
            }
            Part::EphemeralContainers => ephemeral_validation::admitted(&asked.object, old)?,
            // A stream and a log change nothing and never come here.
            _ => {
                let finalizers = namespace_finalizers(&asked.object);
                let mut new = admit_update(asked.object, old)?;
                keep_namespace_finalizers(who, part, old, &mut new, finalizers);
                new
            }
        };
        match asked.owning {
            Owning::Applied(entries) => {
                new.metadata_mut().managed_fields = entries;
                tracking::settle(old, &mut new);
            }
            Owning::Written if said.is_some() || old.metadata().managed_fields.is_some() => {
                let manager = manager_of(who, options);
                tracking::follow(old, &mut new, said, &self.writer(&manager, part))?;
            }
            Owning::Written => {}
        }
        Ok(new)
    }

    pub(crate) fn writer<'m>(&self, manager: &'m str, part: Part) -> Writer<'m> {
        Writer { manager, part, now: self.now() }
    }

    /// Whether the identity may write this, or only see what would come of it: who changes nothing
    /// may try everything.
    pub(crate) fn permit(
        &self,
        who: &Identity,
        verb: Verb,
        kind: Kind,
        part: Part,
        key: &Key,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        match (who.only_reads(), dry_run) {
            (true, true) => Ok(()),
            (true, false) if !part.is_beside_git() => Err(self.through_git()),
            _ => who.may(verb, kind, part, key),
        }
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.options().clock.now()
    }
}

/// Whose name the written fields get: the one that the client says, else its program's, else the
/// room's (a node agent's without the node).
pub(crate) fn manager_of(who: &Identity, options: &WriteOptions) -> String {
    let agent = Some(options.agent.clone()).filter(|agent| !agent.is_empty());
    let room = || {
        let name = who.name();
        let name = name.strip_prefix("system:").unwrap_or(&name);
        name.split(':').next().unwrap_or_default().to_owned()
    };
    options.manager.clone().or(agent).unwrap_or_else(room)
}

/// The text of a stored object as a value.
pub(crate) fn value_of(body: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::internal(format!("the stored object is no JSON: {error}")))
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
        && *record.body.text() == *[head, revision.as_bytes(), tail].concat()
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

fn generated<K: Object>(object: &K) -> bool {
    object.metadata().name.as_deref().unwrap_or_default().is_empty()
}
