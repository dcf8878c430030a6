//! A whole commit through the door: every write is admitted first, all problems are reported at
//! once, and then everything enters the store as one transaction, or nothing does.
//!
//! Controllers write status while a commit is on its way. A write that lost such a race is admitted
//! again on the new state, alone; the rest of the set stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, StatusCause};
use serde_json::Value;

use crate::api::access::{Identity, Part, Verb};
use crate::api::admission::addresses;
use crate::api::admission::lifecycle::{self, DeletePlan};
use crate::api::admission::supported::subject;
use crate::api::admission::{Admit, FieldValidation, decode_body};
use crate::api::body::{draft_of, header_of};
use crate::api::default_class::name_class_of_set;
use crate::api::local::Local;
use crate::api::pod_policy::NamespaceLabels;
use crate::api::service_addresses::{Taken, named_claims};
use crate::api::verbs::{Api, store_error};
use crate::api::write::{Outcome, SYSTEM_NAMESPACES, outcome};
use crate::object::decode::decode;
use crate::object::source::SOURCE_ANNOTATION;
use crate::object::storage::BUILT_IN_CLASSES;
use crate::object::{
    ApiError, ApplySet, DeleteOptions, Key, Kind, Object, Reason, SetAction, SetOutcome,
    SetProblem, SetWrite, Transact,
};
use crate::store::{Expect, Record, Store, StoreError, Transaction, Write};
use crate::with_kind;

/// Rounds of admitting again what lost a race. One round redoes one write, so a set may need as
/// many as it has objects that controllers write at the same time. A round takes about a millisecond:
/// nobody writes the objects of one commit for two seconds on end.
const ROUNDS: usize = 2000;

impl<S: Store> Transact for Local<S> {
    async fn apply_set(
        &self,
        set: &ApplySet,
        dry_run: bool,
    ) -> Result<Vec<SetOutcome>, Vec<SetProblem>> {
        let labels = namespace_labels(&self.api, set);
        let applying = Applying { api: &self.api, who: &self.who, set, dry_run, labels };
        let mut planned = applying.plan_all().await?;
        if dry_run {
            return Ok(planned.into_iter().map(Planned::outcome).collect());
        }
        applying.enter(&mut planned).await
    }
}

/// One write of the set, admitted.
struct Planned {
    kind: Kind,
    key: Key,
    action: SetAction,
    before: Option<Arc<Record>>,
    /// What the store is asked for; `None` where everything is so already.
    write: Option<Write>,
    /// The namespace must live on until then; `None` where this set makes it.
    namespace: Option<Write>,
    /// As it would be stored, for a dry run.
    after: Option<Value>,
}

impl Planned {
    fn outcome(self) -> SetOutcome {
        SetOutcome {
            kind: self.kind,
            key: self.key,
            action: self.action,
            before: self.before.as_deref().and_then(value_of),
            after: self.after.map(Arc::new),
        }
    }
}

fn planned_create<K: Admit>(
    key: &Key,
    mut new: K,
    namespace: Option<Write>,
) -> Result<Planned, ApiError> {
    let kind = K::OBJECT_KIND;
    let (after, header) = (Some(shown_after(&new)), header_of(&new));
    let draft = draft_of(&mut new)?;
    let write = Write::Put { kind, key: key.clone(), expect: Expect::Absent, draft, header };
    let (action, write) = (SetAction::Created, Some(write));
    Ok(Planned { kind, key: key.clone(), action, before: None, write, namespace, after })
}

/// Nothing is written.
fn unchanged(kind: Kind, key: Key, before: Option<Arc<Record>>) -> Planned {
    let after =
        before.as_deref().and_then(|record| serde_json::from_slice(&record.body.text()).ok());
    let action = SetAction::Unchanged;
    Planned { kind, key, action, before, write: None, namespace: None, after }
}

fn value_of(record: &Record) -> Option<Arc<Value>> {
    serde_json::from_slice(&record.body.text()).ok().map(Arc::new)
}

struct Applying<'a, S: Store> {
    api: &'a Api<S>,
    who: &'a Identity,
    set: &'a ApplySet,
    dry_run: bool,
    /// Of every namespace that the set names, as the set leaves it: its objects are judged by that.
    labels: BTreeMap<String, NamespaceLabels>,
}

impl<S: Store> Applying<'_, S> {
    async fn plan_all(&self) -> Result<Vec<Planned>, Vec<SetProblem>> {
        let mut planned = Vec::with_capacity(self.set.writes.len());
        let mut problems = Vec::new();
        let mut named = BTreeSet::new();
        let mut taken = Taken::in_commit(BTreeSet::new(), named_claims(self.set), self.given_up());
        for (index, write) in self.set.writes.iter().enumerate() {
            let (kind, key) = target(write);
            let result = if named.insert((kind, key.clone())) {
                self.plan(write, &mut taken).await
            } else {
                Err(ApiError::bad_request(format!("{kind} {key} stands twice in one commit")))
            };
            match result {
                Ok(plan) => planned.push(plan),
                Err(error) => problems.push(SetProblem { write: index, error }),
            }
        }
        if problems.is_empty() { Ok(planned) } else { Err(problems) }
    }

    async fn plan(&self, write: &SetWrite, taken: &mut Taken) -> Result<Planned, ApiError> {
        let (kind, key) = target(write);
        with_kind!(kind, K => match write {
            SetWrite::Apply { manifest, previous_labels, previous_annotations, adopt, .. } => {
                let previous = Previous { labels: previous_labels, annotations: previous_annotations };
                self.plan_apply::<K>(key, manifest, &previous, *adopt, taken).await
            }
            SetWrite::Delete { uid, .. } => self.plan_delete::<K>(key, uid),
            SetWrite::Own { object, .. } => self.plan_own::<K>(key, object),
            SetWrite::Status { status, .. } => self.plan_status::<K>(key, status),
        })
    }

    async fn plan_apply<K: Admit>(
        &self,
        key: &Key,
        manifest: &Value,
        previous: &Previous<'_>,
        adopt: bool,
        taken: &mut Taken,
    ) -> Result<Planned, ApiError> {
        let kind = K::OBJECT_KIND;
        let mut new = self.wanted::<K>(key, manifest)?;
        let Some(record) = self.api.store().get(kind, key) else {
            self.who.may(Verb::Create, kind, Part::Whole, key)?;
            let namespace = self.namespace_check::<K>(key).await?;
            name_class_of_set(&mut new, self.set);
            let mut new = self.api.admit_new(new)?;
            self.enforce(&new, None)?;
            self.api.allocate(&mut new, &[], taken)?;
            return planned_create(key, new, namespace);
        };
        if record.header.deleting {
            return self.plan_successor(record, new).await;
        }
        let mut new = self.admitted(&record, new, previous, adopt)?;
        self.enforce(&new, self.api.typed::<K>(&record).ok().as_deref())?;
        self.api.allocate(&mut new, &record.header.claims, taken)?;
        self.planned_change(record, new)
    }

    /// What the stored object becomes, new addresses left out.
    fn admitted<K: Admit>(
        &self,
        record: &Arc<Record>,
        mut new: K,
        previous: &Previous<'_>,
        adopt: bool,
    ) -> Result<K, ApiError> {
        self.who.may(Verb::Update, record.kind, Part::Whole, &record.key)?;
        let old = self.api.typed::<K>(record)?;
        if !adopt {
            self.check_owner(record.kind, &record.key, old.metadata())?;
        }
        previous.merge(new.metadata_mut(), old.metadata());
        new.keep_unnamed(&old);
        self.api.admit_change(self.who, Part::Whole, &*old, new)
    }

    /// An object on its way out is not changed any more, and nothing else can have its name yet: the
    /// manifest is judged as the new object that it becomes when the name is free.
    async fn plan_successor<K: Admit>(
        &self,
        record: Arc<Record>,
        new: K,
    ) -> Result<Planned, ApiError> {
        let (kind, key) = (record.kind, record.key.clone());
        self.who.may(Verb::Create, kind, Part::Whole, &key)?;
        self.namespace_check::<K>(&key).await?;
        let new = self.api.admit_new(new)?;
        self.enforce(&new, None)?;
        Ok(unchanged(kind, key, Some(record)))
    }

    /// What did not change is judged too: a commit is right or wrong by what it says, and one that
    /// tightens a namespace says it of what stands in it.
    fn enforce<K: Admit>(&self, new: &K, old: Option<&K>) -> Result<(), ApiError> {
        let namespace = new.key().namespace;
        if subject(new).is_none() && K::OBJECT_KIND != Kind::PersistentVolume {
            return Ok(());
        }
        let labels = match self.labels.get(&namespace) {
            Some(labels) => labels,
            None => &self.api.namespace_labels(&namespace),
        };
        self.api.enforce(self.who, new, labels)?;
        if !self.dry_run {
            self.api.audit_policy(new, old, labels);
        }
        Ok(())
    }

    /// The claims of stored Services that this set ends: another Service may take them in it. What a
    /// Service holds and its manifest does not name, it keeps. A fault is told when the write is
    /// planned.
    fn given_up(&self) -> BTreeSet<String> {
        let mut claims = BTreeSet::new();
        for write in &self.set.writes {
            let (Kind::Service, key) = target(write) else { continue };
            let Some(record) = self.api.store().get(Kind::Service, key) else { continue };
            let kept = match write {
                SetWrite::Delete { uid, .. } => {
                    let planned = self.plan_delete::<Service>(key, uid).ok();
                    let write = planned.and_then(|planned| planned.write);
                    if !matches!(write, Some(Write::Delete { .. })) {
                        continue;
                    }
                    Vec::new()
                }
                SetWrite::Apply {
                    manifest, previous_labels, previous_annotations, adopt, ..
                } if !record.header.deleting => {
                    let previous =
                        Previous { labels: previous_labels, annotations: previous_annotations };
                    let new = self.wanted::<Service>(key, manifest);
                    let new = new.and_then(|new| self.admitted(&record, new, &previous, *adopt));
                    let Ok(new) = new else { continue };
                    addresses::claims(&new)
                }
                _ => continue,
            };
            let ended = record.header.claims.iter().filter(|claim| !kept.contains(claim));
            claims.extend(ended.cloned());
        }
        claims
    }

    /// The manifest as an object of this source. What only the cluster may say is taken out.
    fn wanted<K: Admit>(&self, key: &Key, manifest: &Value) -> Result<K, ApiError> {
        let decoded = decode::<K>(manifest).ok();
        let unknown = decoded.map(|decoded| decoded.unknown).unwrap_or_default();
        if !unknown.is_empty() {
            let causes = unknown.into_iter().map(|path| StatusCause {
                message: Some(format!("unknown field \"{path}\"")),
                field: Some(path),
                reason: Some("FieldValueInvalid".to_owned()),
            });
            return Err(ApiError::invalid(K::OBJECT_KIND, &key.name, causes.collect()));
        }
        let mut object = decode_body::<K>(manifest, FieldValidation::Ignore)?.object;
        let meta = object.metadata_mut();
        *meta = ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            labels: meta.labels.take(),
            annotations: meta.annotations.take(),
            finalizers: meta.finalizers.take(),
            owner_references: meta.owner_references.take(),
            ..ObjectMeta::default()
        };
        meta.annotations
            .get_or_insert_default()
            .insert(SOURCE_ANNOTATION.to_owned(), self.set.source.clone());
        Ok(object)
    }

    fn check_owner(&self, kind: Kind, key: &Key, meta: &ObjectMeta) -> Result<(), ApiError> {
        let owner =
            meta.annotations.as_ref().and_then(|annotations| annotations.get(SOURCE_ANNOTATION));
        match owner {
            Some(owner) if self.is_own(owner) => Ok(()),
            Some(owner) => Err(ApiError::new(
                Reason::Conflict,
                format!(
                    "{kind} {key} belongs to source {owner}: remove it there first, or, if {owner} is configured no more, name it under formerly of this source"
                ),
            )),
            // What the cluster itself made belongs to whoever names it first.
            None if is_made_by_cluster(kind, key.name.as_str()) => Ok(()),
            None => Err(ApiError::new(
                Reason::Conflict,
                format!("{kind} {key} exists and came from no commit: choose another name"),
            )),
        }
    }

    /// Whether the annotation of an object names this source.
    fn is_own(&self, owner: &String) -> bool {
        *owner == self.set.source || self.set.formerly.contains(owner)
    }

    async fn namespace_check<K: Admit>(&self, key: &Key) -> Result<Option<Write>, ApiError> {
        let made_here = self.set.writes.iter().any(|write| {
            matches!(write, SetWrite::Apply { kind: Kind::Namespace, key: namespace, .. }
                if namespace.name == key.namespace)
        });
        let stored = self.api.store().get(Kind::Namespace, &Key::cluster(key.namespace.as_str()));
        if made_here && stored.is_none() {
            return Ok(None);
        }
        let check = self.api.living_namespace::<K>(key, self.dry_run).await;
        check.map(|check| check.filter(|_| !made_here))
    }

    fn planned_change<K: Admit>(&self, record: Arc<Record>, new: K) -> Result<Planned, ApiError> {
        let (kind, key) = (record.kind, record.key.clone());
        let expect = Expect::Revision(record.revision);
        let (action, write, after) = match outcome(&record, new)? {
            Outcome::Same => {
                (SetAction::Unchanged, None, serde_json::from_slice(&record.body.text()).ok())
            }
            Outcome::Put(object, draft) => {
                let header = header_of(&*object);
                let write = Write::Put { kind, key: key.clone(), expect, draft, header };
                (SetAction::Updated, Some(write), Some(shown_after(&*object)))
            }
            Outcome::Remove(_) => {
                (SetAction::Deleted, Some(Write::Delete { kind, key: key.clone(), expect }), None)
            }
        };
        Ok(Planned { kind, key, action, before: Some(record), write, namespace: None, after })
    }

    /// Another incarnation, or one that another source adopted meanwhile, is not ours to delete.
    fn plan_delete<K: Admit>(&self, key: &Key, uid: &str) -> Result<Planned, ApiError> {
        let kind = K::OBJECT_KIND;
        self.who.may(Verb::Delete, kind, Part::Whole, key)?;
        let nothing = |before: Option<Arc<Record>>| unchanged(kind, key.clone(), before);
        let Some(record) = self.api.store().get(kind, key) else { return Ok(nothing(None)) };
        let old = self.api.typed::<K>(&record)?;
        let owner = old.metadata().annotations.as_ref().and_then(|map| map.get(SOURCE_ANNOTATION));
        let protected = kind == Kind::Namespace && SYSTEM_NAMESPACES.contains(&key.name.as_str());
        if old.uid() != uid || owner.is_some_and(|owner| !self.is_own(owner)) || protected {
            return Ok(nothing(Some(record)));
        }
        let options = DeleteOptions { uid: Some(uid.to_owned()), ..DeleteOptions::default() };
        let expect = Expect::Revision(record.revision);
        let write = match lifecycle::plan_delete(&*old, &options, self.api.now()) {
            DeletePlan::Unchanged { .. } => return Ok(nothing(Some(record))),
            DeletePlan::Remove { .. } => Write::Delete { kind, key: key.clone(), expect },
            DeletePlan::Mark { mut object, .. } => {
                let header = header_of(&*object);
                let draft = draft_of(&mut *object)?;
                Write::Put { kind, key: key.clone(), expect, draft, header }
            }
        };
        Ok(Planned {
            kind,
            key: key.clone(),
            action: SetAction::Deleted,
            before: Some(record),
            write: Some(write),
            namespace: None,
            after: None,
        })
    }

    /// The whole object is the sync's own: nothing of another writer is kept.
    fn plan_own<K: Admit>(&self, key: &Key, object: &Value) -> Result<Planned, ApiError> {
        let kind = K::OBJECT_KIND;
        let mut new = decode_body::<K>(object, FieldValidation::Strict)?.object;
        let Some(record) = self.api.store().get(kind, key) else {
            self.who.may(Verb::Create, kind, Part::Whole, key)?;
            return planned_create(key, self.api.admit_new(new)?, None);
        };
        self.who.may(Verb::Update, kind, Part::Whole, key)?;
        let old = self.api.typed::<K>(&record)?;
        new.metadata_mut().clone_from(old.metadata());
        let new = self.api.admit_change(self.who, Part::Whole, &*old, new)?;
        self.planned_change(record, new)
    }

    fn plan_status<K: Admit>(&self, key: &Key, status: &Value) -> Result<Planned, ApiError> {
        let kind = K::OBJECT_KIND;
        self.who.may(Verb::Update, kind, Part::Status, key)?;
        let record =
            self.api.store().get(kind, key).ok_or_else(|| ApiError::not_found(kind, &key.name))?;
        let old = self.api.typed::<K>(&record)?;
        let mut document: Value = serde_json::from_slice(&record.body.text()).map_err(|error| {
            ApiError::internal(format!("the stored object is no JSON: {error}"))
        })?;
        document["status"] = status.clone();
        let asked = decode_body::<K>(&document, FieldValidation::Strict)?.object;
        let new = self.api.admit_change(self.who, Part::Status, &*old, asked)?;
        self.planned_change(record, new)
    }

    /// Enters the whole set; what lost a race is planned again.
    async fn enter(&self, planned: &mut [Planned]) -> Result<Vec<SetOutcome>, Vec<SetProblem>> {
        for _ in 0..ROUNDS {
            let (transaction, origins) = transaction(planned);
            if transaction.writes.is_empty() {
                return Ok(outcomes(planned, &[]));
            }
            let failure = match self.api.store().transact(transaction).await {
                Ok(records) => return Ok(outcomes(planned, &records)),
                Err(failure) => failure,
            };
            let lost = match &failure {
                StoreError::Exists { write, .. }
                | StoreError::Missing { write, .. }
                | StoreError::Stale { write, .. }
                | StoreError::Claimed { write, .. } => origins.get(*write).copied(),
                _ => None,
            };
            let Some(index) = lost else {
                return Err(vec![SetProblem { write: 0, error: store_error(failure) }]);
            };
            let here = planned_claims(planned, index);
            let mut taken = Taken::in_commit(here, named_claims(self.set), self.given_up());
            match self.plan(&self.set.writes[index], &mut taken).await {
                Ok(again) => planned[index] = again,
                Err(error) => return Err(vec![SetProblem { write: index, error }]),
            }
        }
        let error = ApiError::new(
            Reason::Conflict,
            "the commit's objects are being written faster than it can be entered; it will be tried again",
        );
        Err(vec![SetProblem { write: 0, error }])
    }
}

/// The store's transaction, and which write of the set each of its writes came from.
fn transaction(planned: &[Planned]) -> (Transaction, Vec<usize>) {
    let (mut writes, mut origins) = (Vec::new(), Vec::new());
    let mut checked = BTreeSet::new();
    for (index, plan) in planned.iter().enumerate() {
        let Some(write) = &plan.write else { continue };
        if let Some(Write::Check { kind, key, expect }) = &plan.namespace
            && checked.insert(key.clone())
        {
            writes.push(Write::Check { kind: *kind, key: key.clone(), expect: *expect });
            origins.push(index);
        }
        writes.push(copied(write));
        origins.push(index);
    }
    (Transaction { writes }, origins)
}

fn copied(write: &Write) -> Write {
    match write {
        Write::Put { kind, key, expect, draft, header } => Write::Put {
            kind: *kind,
            key: key.clone(),
            expect: *expect,
            draft: draft.clone(),
            header: header.clone(),
        },
        Write::Delete { kind, key, expect } => {
            Write::Delete { kind: *kind, key: key.clone(), expect: *expect }
        }
        Write::Check { kind, key, expect } => {
            Write::Check { kind: *kind, key: key.clone(), expect: *expect }
        }
    }
}

fn outcomes(planned: &[Planned], records: &[Arc<Record>]) -> Vec<SetOutcome> {
    let stored: BTreeMap<(Kind, &Key), &Arc<Record>> =
        records.iter().map(|record| ((record.kind, &record.key), record)).collect();
    planned
        .iter()
        .map(|plan| {
            let after = match (plan.action, stored.get(&(plan.kind, &plan.key))) {
                (SetAction::Deleted, _) => None,
                (_, Some(record)) => value_of(record),
                (_, None) => plan.before.as_deref().and_then(value_of),
            };
            SetOutcome {
                kind: plan.kind,
                key: plan.key.clone(),
                action: plan.action,
                before: plan.before.as_deref().and_then(value_of),
                after,
            }
        })
        .collect()
}

/// The labels of the set's namespaces, as it leaves them.
fn namespace_labels<S: Store>(api: &Api<S>, set: &ApplySet) -> BTreeMap<String, NamespaceLabels> {
    let mut all = BTreeMap::new();
    for write in &set.writes {
        let SetWrite::Apply { kind: Kind::Namespace, key, manifest, previous_labels, .. } = write
        else {
            continue;
        };
        let mut labels = api.namespace_labels(&key.name);
        labels.retain(|label, _| !previous_labels.contains(label));
        let written = manifest["metadata"]["labels"].as_object().into_iter().flatten();
        labels.extend(
            written.filter_map(|(label, value)| Some((label.clone(), value.as_str()?.to_owned()))),
        );
        all.insert(key.name.clone(), labels);
    }
    all
}

fn shown_after<K: Object>(object: &K) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
    }
    value
}

fn is_made_by_cluster(kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Namespace => SYSTEM_NAMESPACES.contains(&name),
        Kind::StorageClass => BUILT_IN_CLASSES.contains(&name),
        _ => false,
    }
}

fn target(write: &SetWrite) -> (Kind, &Key) {
    match write {
        SetWrite::Apply { kind, key, .. }
        | SetWrite::Delete { kind, key, .. }
        | SetWrite::Own { kind, key, .. }
        | SetWrite::Status { kind, key, .. } => (*kind, key),
    }
}

/// What the rest of the set claims, while one of its writes is planned again.
fn planned_claims(planned: &[Planned], except: usize) -> BTreeSet<String> {
    let others = planned.iter().enumerate().filter(|(index, _)| *index != except);
    others
        .filter_map(|(_, plan)| match &plan.write {
            Some(Write::Put { header, .. }) => Some(header.claims.iter().cloned()),
            _ => None,
        })
        .flatten()
        .collect()
}

/// Keys that an earlier commit set: gone if the manifest has them no more.
struct Previous<'a> {
    labels: &'a [String],
    annotations: &'a [String],
}

impl Previous<'_> {
    /// The manifest's metadata over the stored one's.
    fn merge(&self, new: &mut ObjectMeta, old: &ObjectMeta) {
        let over = |wanted: &mut Option<BTreeMap<String, String>>,
                    stored: &Option<BTreeMap<String, String>>,
                    gone: &[String]| {
            let mut merged = stored.clone().unwrap_or_default();
            merged.retain(|key, _| !gone.contains(key));
            merged.extend(wanted.take().unwrap_or_default());
            *wanted = (!merged.is_empty()).then_some(merged);
        };
        over(&mut new.labels, &old.labels, self.labels);
        over(&mut new.annotations, &old.annotations, self.annotations);
        if new.finalizers.is_none() {
            new.finalizers.clone_from(&old.finalizers);
        }
        if new.owner_references.is_none() {
            new.owner_references.clone_from(&old.owner_references);
        }
    }
}
