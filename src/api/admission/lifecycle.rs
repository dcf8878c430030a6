//! Pure: the life of an object's metadata, the same for all kinds: what a create gives it, what an
//! update may not change, and what a delete does before the object is really gone.
//!
//! Follows `registry/rest` and `registry/generic/registry/store.go` of the reference server.

use std::any::Any;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::admit::{Admit, Faults};
use super::field_path::{FieldPath, quoted, shown};
use crate::object::{ApiError, DeleteOptions, Key, Kind, Propagation, Reason, condition};

/// The owner waits for its blocking dependents.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
/// The dependents stay and lose their owner reference before the owner goes.
pub const ORPHAN_FINALIZER: &str = "orphan";
/// `names.maxGeneratedNameLength`: 63 less the 5 random characters.
const LONGEST_GENERATED_PREFIX: usize = 58;
/// Where a pod's manifest names no grace (`DefaultTerminationGracePeriodSeconds`).
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Whether objects of the kind carry `metadata.generation` (golden answers: ConfigMaps, Secrets,
/// Namespaces, Nodes, Services, Leases and Events have none).
pub fn has_generation(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Pod
            | Kind::ReplicaSet
            | Kind::Deployment
            | Kind::EndpointSlice
            | Kind::Source
            | Kind::Drift
    )
}

/// What the world gives a new object: time, identity and chance, drawn by the caller.
#[derive(Clone, Copy, Debug)]
pub struct Birth<'a> {
    pub uid: &'a str,
    pub now: Timestamp,
    /// Five characters of `[bcdfghjklmnpqrstvwxz2456789]` behind `generateName`.
    pub suffix: &'a str,
}

/// Metadata of a new object: system fields are ours whatever the client sent.
pub fn begin(meta: &mut ObjectMeta, kind: Kind, birth: &Birth<'_>) {
    if meta.name.as_deref().unwrap_or_default().is_empty()
        && let Some(prefix) = meta.generate_name.as_deref().filter(|prefix| !prefix.is_empty())
    {
        let cut = (0..=LONGEST_GENERATED_PREFIX.min(prefix.len()))
            .rev()
            .find(|end| prefix.is_char_boundary(*end))
            .unwrap_or(0);
        meta.name = Some(format!("{}{}", &prefix[..cut], birth.suffix));
    }
    meta.uid = Some(birth.uid.to_owned());
    meta.creation_timestamp = Some(seconds(birth.now));
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
    meta.resource_version = None;
    meta.generation = has_generation(kind).then_some(1);
    meta.managed_fields = None;
    tidy(meta);
}

/// What a client may leave out of an update comes from the stored object; the generation is ours.
pub fn carry_over(meta: &mut ObjectMeta, old: &ObjectMeta) {
    let or = |new: &mut Option<String>, old: &Option<String>| {
        if new.as_deref().unwrap_or_default().is_empty() {
            new.clone_from(old);
        }
    };
    or(&mut meta.uid, &old.uid);
    or(&mut meta.name, &old.name);
    or(&mut meta.namespace, &old.namespace);
    or(&mut meta.generate_name, &old.generate_name);
    if meta.creation_timestamp.is_none() {
        meta.creation_timestamp.clone_from(&old.creation_timestamp);
    }
    if meta.deletion_timestamp.is_none() {
        meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if meta.deletion_grace_period_seconds.is_none() {
        meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    meta.self_link = None;
    meta.generation = old.generation;
    // Who owns which field is decided behind admission, by `api/apply/`.
    meta.managed_fields.clone_from(&old.managed_fields);
    tidy(meta);
}

/// Empty is absent.
fn tidy(meta: &mut ObjectMeta) {
    meta.labels.take_if(|map| map.is_empty());
    meta.annotations.take_if(|map| map.is_empty());
    meta.finalizers.take_if(|list| list.is_empty());
    meta.owner_references.take_if(|list| list.is_empty());
    meta.generate_name.take_if(|text| text.is_empty());
}

/// Times in metadata have whole seconds.
fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Metadata that an update may not change (`ValidateObjectMetaAccessorUpdate`).
pub fn update_faults(new: &ObjectMeta, old: &ObjectMeta) -> Faults {
    const IMMUTABLE: &str = "field is immutable";
    let root = FieldPath::root("metadata");
    let mut faults = Faults::new();
    if old.deletion_timestamp.is_some() {
        let known = old.finalizers.as_deref().unwrap_or_default();
        let added: Vec<&String> =
            new.finalizers.iter().flatten().filter(|name| !known.contains(name)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|name| quoted(name)).collect();
            faults.push(root.child("finalizers").forbidden(format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            )));
        }
    }
    for (field, new, old) in [
        ("name", &new.name, &old.name),
        ("namespace", &new.namespace, &old.namespace),
        ("uid", &new.uid, &old.uid),
    ] {
        if new != old {
            let value = quoted(new.as_deref().unwrap_or_default());
            faults.push(root.child(field).invalid(value, IMMUTABLE));
        }
    }
    for (field, new, old) in [
        ("creationTimestamp", &new.creation_timestamp, &old.creation_timestamp),
        ("deletionTimestamp", &new.deletion_timestamp, &old.deletion_timestamp),
    ] {
        if new.as_ref().map(|at| at.0.as_second()) != old.as_ref().map(|at| at.0.as_second()) {
            faults.push(root.child(field).invalid(shown(new), IMMUTABLE));
        }
    }
    if new.deletion_grace_period_seconds != old.deletion_grace_period_seconds {
        let value = shown(&new.deletion_grace_period_seconds);
        faults.push(root.child("deletionGracePeriodSeconds").invalid(value, IMMUTABLE));
    }
    faults
}

/// Whether an update was the last step of a delete: the object is going, its grace has ended and
/// nobody holds it any more. The verb then removes it instead of storing it.
pub fn removed_by_update<K: Admit>(object: &K) -> bool {
    let meta = object.metadata();
    let held_by_spec = (object as &dyn Any)
        .downcast_ref::<Namespace>()
        .and_then(|namespace| namespace.spec.as_ref())
        .and_then(|spec| spec.finalizers.as_ref())
        .is_some_and(|finalizers| !finalizers.is_empty());
    meta.deletion_timestamp.is_some()
        && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
        && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
        && !held_by_spec
}

/// What a delete does to the store.
#[derive(Clone, Debug, PartialEq)]
pub enum DeletePlan<K> {
    /// Take the object away now.
    Remove { reason: RemoveReason },
    /// Store `object`: it is going, and somebody has to let it go first.
    Mark { object: Box<K>, reason: MarkReason },
    /// It is going already, and this request asks for nothing more.
    Unchanged { reason: MarkReason },
}

/// Why nothing stands in the way of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveReason {
    /// No finalizers, and the kind knows no grace.
    NothingHolds,
    /// The pod was bound to no node: no container can run.
    NeverBound,
    /// The pod's containers have ended.
    Terminal,
    /// Grace 0: forced, or the node agent says that the containers are gone.
    NoGrace,
}

/// What a deleted object still waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkReason {
    /// The node agent stops the containers within the grace.
    Grace { seconds: i64 },
    /// Finalizers on the object, `foregroundDeletion` and `orphan` among them.
    Finalizers,
    /// The namespace's content goes first.
    NamespaceContent,
}

/// Decides what a delete does. The preconditions were checked by [`check_preconditions`].
pub fn plan_delete<K: Admit>(object: &K, options: &DeleteOptions, now: Timestamp) -> DeletePlan<K> {
    if let Some(namespace) = (object as &dyn Any).downcast_ref::<Namespace>() {
        return plan_namespace_delete(object, namespace, options, now);
    }
    let mut going = object.clone();
    let mut remove_reason = RemoveReason::NothingHolds;
    let mut grace = None;
    if let Some(pod) = (object as &dyn Any).downcast_ref::<Pod>() {
        match pod_grace(pod, options) {
            PodGrace::Pending { seconds } => {
                return DeletePlan::Unchanged { reason: MarkReason::Grace { seconds } };
            }
            PodGrace::Start { seconds, why_none } => {
                let first = going.metadata().deletion_timestamp.is_none();
                start_grace(going.metadata_mut(), seconds, first, now);
                (grace, remove_reason) = (Some(seconds), why_none);
            }
            PodGrace::Over => remove_reason = RemoveReason::NoGrace,
        }
    }
    let finalizers = finalizers_after(object.metadata(), options);
    if !finalizers.is_empty() {
        let meta = going.metadata_mut();
        let unchanged = object.metadata().deletion_timestamp.is_some()
            && object.metadata().finalizers.as_ref() == Some(&finalizers);
        if grace.is_none() {
            if unchanged {
                return DeletePlan::Unchanged { reason: MarkReason::Finalizers };
            }
            mark_ungraceful(meta, now);
        }
        meta.finalizers = Some(finalizers);
        return DeletePlan::Mark { object: Box::new(going), reason: MarkReason::Finalizers };
    }
    match grace {
        Some(seconds) if seconds > 0 => {
            going.metadata_mut().finalizers = None;
            DeletePlan::Mark { object: Box::new(going), reason: MarkReason::Grace { seconds } }
        }
        _ => DeletePlan::Remove { reason: remove_reason },
    }
}

/// A namespace first switches to Terminating; its controller empties it and clears
/// `spec.finalizers`, and that update removes it ([`removed_by_update`]).
fn plan_namespace_delete<K: Admit>(
    object: &K,
    namespace: &Namespace,
    options: &DeleteOptions,
    now: Timestamp,
) -> DeletePlan<K> {
    if namespace.metadata.deletion_timestamp.is_some() {
        let held = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        if held.is_some_and(|finalizers| !finalizers.is_empty()) {
            return DeletePlan::Unchanged { reason: MarkReason::NamespaceContent };
        }
        if namespace.metadata.finalizers.as_ref().is_some_and(|list| !list.is_empty()) {
            return DeletePlan::Unchanged { reason: MarkReason::Finalizers };
        }
        return DeletePlan::Remove { reason: RemoveReason::NothingHolds };
    }
    let mut going = object.clone();
    let finalizers = finalizers_after(&namespace.metadata, options);
    let meta = going.metadata_mut();
    meta.deletion_timestamp = Some(seconds(now));
    meta.finalizers = (!finalizers.is_empty()).then_some(finalizers);
    if let Some(namespace) = (&mut going as &mut dyn Any).downcast_mut::<Namespace>() {
        namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
    }
    DeletePlan::Mark { object: Box::new(going), reason: MarkReason::NamespaceContent }
}

enum PodGrace {
    /// Going already, and no shorter grace is asked for.
    Pending { seconds: i64 },
    /// Set or shorten the grace.
    Start { seconds: i64, why_none: RemoveReason },
    /// Marked as deleted without a grace: remove.
    Over,
}

fn pod_grace(pod: &Pod, options: &DeleteOptions) -> PodGrace {
    let asked = options.grace_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    if pod.metadata.deletion_timestamp.is_some() {
        let Some(running) = pod.metadata.deletion_grace_period_seconds else {
            return PodGrace::Over;
        };
        return match asked {
            Some(seconds) if seconds < running => {
                PodGrace::Start { seconds, why_none: RemoveReason::NoGrace }
            }
            _ => PodGrace::Pending { seconds: running },
        };
    }
    let spec = pod.spec.as_ref();
    let bound =
        spec.and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    if !bound {
        return PodGrace::Start { seconds: 0, why_none: RemoveReason::NeverBound };
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return PodGrace::Start { seconds: 0, why_none: RemoveReason::Terminal };
    }
    let own = spec.and_then(|spec| spec.termination_grace_period_seconds);
    let seconds = asked.or(own).unwrap_or(DEFAULT_GRACE_SECONDS);
    let seconds = if seconds < 0 { 1 } else { seconds };
    PodGrace::Start { seconds, why_none: RemoveReason::NoGrace }
}

/// `deletionTimestamp` is when the grace ends; shortening moves it, and only the first mark counts
/// as a generation.
fn start_grace(meta: &mut ObjectMeta, grace: i64, first: bool, now: Timestamp) {
    let started = if first {
        now
    } else {
        let before = meta.deletion_grace_period_seconds.unwrap_or(0);
        let end = meta.deletion_timestamp.as_ref().map_or(now, |at| at.0);
        end.checked_sub(SignedDuration::from_secs(before)).unwrap_or(now)
    };
    let end = started.checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    meta.deletion_timestamp = Some(seconds(end));
    meta.deletion_grace_period_seconds = Some(grace);
    if first {
        meta.generation = meta.generation.map(|generation| generation + 1);
    }
}

/// `markAsDeleting`: kinds without grace that finalizers hold.
fn mark_ungraceful(meta: &mut ObjectMeta, now: Timestamp) {
    if meta.deletion_grace_period_seconds.is_none() {
        meta.generation = meta.generation.map(|generation| generation + 1);
    }
    if meta.deletion_timestamp.as_ref().is_none_or(|at| at.0 > now) {
        meta.deletion_timestamp = Some(seconds(now));
    }
    meta.deletion_grace_period_seconds = Some(0);
}

/// The options decide about the garbage collector's finalizers, else those already there, else the
/// default, which is background: none.
fn finalizers_after(meta: &ObjectMeta, options: &DeleteOptions) -> Vec<String> {
    let existing = meta.finalizers.as_deref().unwrap_or_default();
    let has = |name: &str| existing.iter().any(|finalizer| finalizer == name);
    let propagation = options.propagation.unwrap_or({
        if has(ORPHAN_FINALIZER) {
            Propagation::Orphan
        } else if has(FOREGROUND_FINALIZER) {
            Propagation::Foreground
        } else {
            Propagation::Background
        }
    });
    let mut after: Vec<String> = existing
        .iter()
        .filter(|name| *name != ORPHAN_FINALIZER && *name != FOREGROUND_FINALIZER)
        .cloned()
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => after.push(FOREGROUND_FINALIZER.to_owned()),
        Propagation::Orphan => after.push(ORPHAN_FINALIZER.to_owned()),
    }
    after
}

/// # Errors
/// A Conflict in the reference server's words when the stored object is another incarnation or
/// another version than the options name.
pub fn check_preconditions(
    kind: Kind,
    key: &Key,
    stored: &ObjectMeta,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let uid = stored.uid.as_deref().unwrap_or_default();
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        let what = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        );
        return Err(ApiError::precondition(kind, key, &what));
    }
    let version = stored.resource_version.as_deref().unwrap_or_default();
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        let what = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        );
        return Err(ApiError::precondition(kind, key, &what));
    }
    Ok(())
}

/// Owners that want this object gone before they go (`blockOwnerDeletion`): uids.
pub fn blocked_owners(meta: &ObjectMeta) -> impl Iterator<Item = &str> {
    meta.owner_references
        .iter()
        .flatten()
        .filter(|owner| owner.block_owner_deletion == Some(true))
        .map(|owner| owner.uid.as_str())
}

/// The pod bound to a node. A binding is no generation (golden: a bound pod is at 1).
///
/// # Errors
/// A Conflict when the pod is another incarnation, is going, or is bound already.
pub fn bind(pod: &Pod, uid: &str, node: &str, now: Timestamp) -> Result<Pod, ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let conflict = |what: String| {
        let message = format!("Operation cannot be fulfilled on pods/binding \"{name}\": {what}");
        ApiError::new(Reason::Conflict, message)
    };
    let stored = pod.metadata.uid.as_deref().unwrap_or_default();
    if !uid.is_empty() && uid != stored {
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}"
        )));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let current = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if !current.is_empty() {
        return Err(conflict(format!("pod {name} is already assigned to node {current:?}")));
    }
    let mut bound = pod.clone();
    bound.spec.get_or_insert_default().node_name = Some(node.to_owned());
    let scheduled = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(seconds(now)),
        ..PodCondition::default()
    };
    let conditions = &mut bound.status.get_or_insert_default().conditions;
    condition::set(conditions.get_or_insert_default(), scheduled);
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_new_object_gets_its_identity_and_loses_what_is_not_the_clients() {
        let mut meta = ObjectMeta {
            generate_name: Some("web-".into()),
            uid: Some("forged".into()),
            deletion_timestamp: Some(Time(now())),
            generation: Some(9),
            labels: Some(Default::default()),
            ..ObjectMeta::default()
        };
        begin(&mut meta, Kind::Pod, &Birth { uid: "u", now: now(), suffix: "abcde" });
        assert_eq!(meta.name.as_deref(), Some("web-abcde"));
        assert_eq!((meta.uid.as_deref(), meta.generation), (Some("u"), Some(1)));
        assert!(meta.deletion_timestamp.is_none() && meta.labels.is_none());
        begin(&mut meta, Kind::ConfigMap, &Birth { uid: "u", now: now(), suffix: "abcde" });
        assert_eq!(meta.generation, None);
    }

    #[test]
    fn a_bound_pod_gets_its_grace_and_an_unbound_one_goes_at_once() {
        let unbound = pod(json!({"metadata": {"name": "p"}, "spec": {"containers": []}}));
        let plan = plan_delete(&unbound, &DeleteOptions::default(), now());
        assert_eq!(plan, DeletePlan::Remove { reason: RemoveReason::NeverBound });

        let bound = pod(json!({"metadata": {"name": "p", "generation": 1},
            "spec": {"nodeName": "n", "containers": [], "terminationGracePeriodSeconds": 5}}));
        let DeletePlan::Mark { object, reason } =
            plan_delete(&bound, &DeleteOptions::default(), now())
        else {
            panic!("a bound pod waits for its node");
        };
        assert_eq!(reason, MarkReason::Grace { seconds: 5 });
        assert_eq!(object.metadata.generation, Some(2));
        let end = object.metadata.deletion_timestamp.as_ref().unwrap().0;
        assert_eq!(end, now() + SignedDuration::from_secs(5));

        // Asking again changes nothing; a shorter grace moves the end; 0 removes.
        let again = plan_delete(&*object, &DeleteOptions::default(), now());
        assert_eq!(again, DeletePlan::Unchanged { reason: MarkReason::Grace { seconds: 5 } });
        let shorter = DeleteOptions { grace_seconds: Some(2), ..DeleteOptions::default() };
        let DeletePlan::Mark { object: sooner, .. } = plan_delete(&*object, &shorter, now()) else {
            panic!("a shorter grace is accepted");
        };
        let end = sooner.metadata.deletion_timestamp.as_ref().unwrap().0;
        assert_eq!(
            (end, sooner.metadata.generation),
            (now() + SignedDuration::from_secs(2), Some(2))
        );
        let zero = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
        let plan = plan_delete(&*sooner, &zero, now());
        assert_eq!(plan, DeletePlan::Remove { reason: RemoveReason::NoGrace });
    }

    #[test]
    fn propagation_becomes_finalizers_and_background_takes_them_away() {
        let map = ConfigMap::default();
        let foreground = DeleteOptions {
            propagation: Some(Propagation::Foreground),
            ..DeleteOptions::default()
        };
        let DeletePlan::Mark { object, reason } = plan_delete(&map, &foreground, now()) else {
            panic!("foreground waits for dependents");
        };
        assert_eq!(reason, MarkReason::Finalizers);
        assert_eq!(object.metadata.finalizers, Some(vec![FOREGROUND_FINALIZER.to_owned()]));
        assert_eq!(object.metadata.deletion_grace_period_seconds, Some(0));
        assert!(!removed_by_update(&*object));
        // The existing finalizer decides while no option is given.
        let plan = plan_delete(&*object, &DeleteOptions::default(), now());
        assert_eq!(plan, DeletePlan::Unchanged { reason: MarkReason::Finalizers });
        let background = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        let plan = plan_delete(&*object, &background, now());
        assert_eq!(plan, DeletePlan::Remove { reason: RemoveReason::NothingHolds });
        let mut released = (*object).clone();
        released.metadata.finalizers = None;
        assert!(removed_by_update(&released));
    }

    #[test]
    fn a_namespace_is_emptied_first() {
        let namespace: Namespace = serde_json::from_value(
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}),
        )
        .unwrap();
        let DeletePlan::Mark { object, .. } =
            plan_delete(&namespace, &DeleteOptions::default(), now())
        else {
            panic!("a namespace is marked first");
        };
        assert_eq!(object.status.as_ref().unwrap().phase.as_deref(), Some("Terminating"));
        assert!(!removed_by_update(&*object));
        let mut emptied = (*object).clone();
        emptied.spec.as_mut().unwrap().finalizers = None;
        assert!(removed_by_update(&emptied));
    }

    #[test]
    fn a_pod_is_bound_once() {
        let unbound =
            pod(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": []}}));
        let bound = bind(&unbound, "u", "n1", now()).unwrap();
        assert!(condition::is_true(
            bound.status.as_ref().unwrap().conditions.as_ref().unwrap(),
            "PodScheduled"
        ));
        assert!(bind(&bound, "u", "n2", now()).is_err());
        assert!(bind(&unbound, "other", "n2", now()).is_err());
    }

    #[test]
    fn deleting_objects_take_no_new_finalizers() {
        let old = ObjectMeta { deletion_timestamp: Some(Time(now())), ..ObjectMeta::default() };
        let new = ObjectMeta { finalizers: Some(vec!["a/b".into()]), ..old.clone() };
        assert_eq!(update_faults(&new, &old)[0].field, "metadata.finalizers");
        let renamed = ObjectMeta { uid: Some("x".into()), ..old.clone() };
        assert_eq!(update_faults(&renamed, &old)[0].field, "metadata.uid");
    }
}
