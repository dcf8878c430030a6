//! Pure: managed fields at the door: what a write makes of an object's, and an apply of an object.
//!
//! An object has managed fields if it was created by a client that names a `fieldManager`, or was
//! applied once. Every write of such an object is tracked then, a controller's too; of any other
//! object none is, which costs it no byte (the reference server's own rule for objects from before
//! it tracked: `skipNonAppliedManager`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Map, Value};

use super::configuration;
use super::conflict::refusal;
use super::field_set::FieldSet;
use super::last_applied;
use super::owners::{Owners, Writer};
use super::structured::Structure;
use crate::api::access::Part;
use crate::api::admission::{Admit, FieldValidation, decode_body};
use crate::object::{ApiError, Object};

/// As `metadata.managedFields` has it.
pub type Entries = Option<Vec<ManagedFieldsEntry>>;

/// A new object that begins to be tracked; `said` is what the client sent as its managed fields.
///
/// # Errors
/// None of our kinds fails to serialise.
pub fn begin<K: Object>(new: &mut K, said: Entries, writer: &Writer<'_>) -> Result<(), ApiError> {
    let kind = K::OBJECT_KIND;
    let owners = Owners::decode(kind, &said.unwrap_or_default());
    let owners = owners.unwrap_or_else(|_| Owners::none(kind));
    let owners = owners.created(&plain(new)?, writer);
    new.metadata_mut().managed_fields = owners.encode();
    Ok(())
}

/// What a change makes of the owners of an object's fields. `new` is admitted; `said` is what the
/// request has as its managed fields: a client may correct or, with an empty list, reset them.
///
/// # Errors
/// As [`begin`].
pub fn follow<K: Object>(
    old: &K,
    new: &mut K,
    said: Entries,
    writer: &Writer<'_>,
) -> Result<(), ApiError> {
    let held = &old.metadata().managed_fields;
    if held.is_none() && said.is_none() {
        return Ok(());
    }
    let decoded = |entries: &[ManagedFieldsEntry]| {
        Owners::decode(K::OBJECT_KIND, entries).ok().filter(|owners| !owners.is_empty())
    };
    let held = || held.as_deref().and_then(decoded);
    // A subresource has no say in it.
    let owners = match said.filter(|_| matches!(writer.part, Part::Whole | Part::Finalize)) {
        Some(entries) if is_reset(&entries) => None,
        Some(entries) => decoded(&entries).or_else(held),
        None => held(),
    };
    new.metadata_mut().managed_fields = match owners {
        Some(owners) => owners.updated(&plain(old)?, &plain(new)?, writer).encode(),
        None => None,
    };
    Ok(())
}

fn is_reset(entries: &[ManagedFieldsEntry]) -> bool {
    entries.is_empty() || entries == [ManagedFieldsEntry::default()]
}

/// What an apply asks for.
#[derive(Clone, Copy, Debug)]
pub struct Application<'a> {
    /// Checked by [`check`].
    pub config: &'a Value,
    pub writer: Writer<'a>,
    /// Take what belongs to others.
    pub force: bool,
}

/// # Errors
/// As [`configuration::check`].
pub fn check<K: Object>(config: &Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    configuration::check::<K>(config, namespace, name)
}

/// The object that an apply asks for, to be admitted, and its managed fields. `live` is the stored
/// object as JSON, `None` where there is none.
///
/// # Errors
/// Conflict with every field that others own, BadRequest for what cannot be decoded.
pub fn apply<K: Admit>(
    live: Option<&Value>,
    asked: &Application<'_>,
) -> Result<(K, Entries), ApiError> {
    let kind = K::OBJECT_KIND;
    let structure = Structure { kind };
    let mut live = live.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let meta = live.get_mut("metadata").and_then(Value::as_object_mut);
    let entries = meta.and_then(|meta| meta.remove("managedFields")).unwrap_or_default();
    let entries: Entries = serde_json::from_value(entries)
        .map_err(|error| ApiError::internal(format!("the managed fields: {error}")))?;
    let owners = Owners::decode(kind, &entries.unwrap_or_default())
        .map_err(|error| ApiError::internal(format!("failed to decode managed fields: {error}")))?;
    let config = configuration::about::<K>(asked.config, asked.writer.part);
    let manager = asked.writer.manager;
    let applied = match owners.clone().applied(&live, &config, &asked.writer, asked.force) {
        Ok(applied) => applied,
        Err(conflicts) => {
            let mine = last_applied::taken_over(structure, manager, &live);
            let is_mine = |path: &[_]| has(&mine, path);
            let left: Vec<_> =
                conflicts.into_iter().filter(|conflict| !is_mine(&conflict.path)).collect();
            if !left.is_empty() {
                return Err(refusal(kind, &left));
            }
            owners
                .applied(&live, &config, &asked.writer, true)
                .map_err(|conflicts| refusal(kind, &conflicts))?
        }
    };
    let mut object = without_nulls(applied.object);
    last_applied::renew(manager, &mut object, asked.config);
    let object = decode_body::<K>(&object, FieldValidation::Ignore)?.object;
    Ok((object, applied.owners.encode()))
}

fn has(set: &FieldSet, path: &[super::field_set::Element]) -> bool {
    match path {
        [] => false,
        [last] => set.contains(last),
        [first, rest @ ..] => set.below(first).is_some_and(|below| has(below, rest)),
    }
}

/// Null is absent to a typed object.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Keeps the stored times where nothing but a time is new, so that the write is none: a value that
/// is applied in another spelling (`1000m` for 1) is changed by every apply until it is decoded.
pub fn settle<K: Object>(old: &K, new: &mut K) {
    let untimed = |entries: &Entries| -> Vec<ManagedFieldsEntry> {
        let all = entries.iter().flatten().cloned();
        all.map(|entry| ManagedFieldsEntry { time: None, ..entry }).collect()
    };
    let entries = new.metadata().managed_fields.clone();
    if untimed(&entries) != untimed(&old.metadata().managed_fields) {
        return;
    }
    let meta = new.metadata_mut();
    meta.managed_fields.clone_from(&old.metadata().managed_fields);
    meta.resource_version.clone_from(&old.metadata().resource_version);
    if new != old {
        new.metadata_mut().managed_fields = entries;
    }
}

/// The object as JSON, without its managed fields.
fn plain<K: Object>(object: &K) -> Result<Value, ApiError> {
    let mut value = serde_json::to_value(object)
        .map_err(|error| ApiError::internal(format!("the object does not serialise: {error}")))?;
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, part: Part::Whole, now: Timestamp::from_second(5).unwrap() }
    }

    fn map(value: Value) -> ConfigMap {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_not_tracked_stays_so_and_a_reset_ends_it() {
        let plain = map(json!({"metadata": {"name": "m"}, "data": {"a": "1"}}));
        let mut next = map(json!({"metadata": {"name": "m"}, "data": {"a": "2"}}));
        follow(&plain, &mut next, None, &writer("t")).unwrap();
        assert_eq!(next.metadata.managed_fields, None);
        let mut tracked = plain.clone();
        begin(&mut tracked, None, &writer("t")).unwrap();
        let held = tracked.metadata.managed_fields.clone();
        assert_eq!(held.as_ref().map(Vec::len), Some(1));
        // What cannot be read is no reason to forget, what is empty is.
        for (said, kept) in [
            (Some(vec![ManagedFieldsEntry { manager: Some("x".into()), ..Default::default() }]), 1),
            (Some(Vec::new()), 0),
            (Some(vec![ManagedFieldsEntry::default()]), 0),
        ] {
            let mut same = tracked.clone();
            follow(&tracked, &mut same, said, &writer("u")).unwrap();
            assert_eq!(same.metadata.managed_fields.iter().flatten().count(), kept);
        }
        let mut status = tracked.clone();
        let through = Writer { part: Part::Status, ..writer("u") };
        follow(&tracked, &mut status, Some(Vec::new()), &through).unwrap();
        assert_eq!(status.metadata.managed_fields, held, "a subresource has no say");
    }

    #[test]
    fn a_value_in_another_spelling_is_no_write() {
        let mut old = map(json!({"metadata": {"name": "m"}, "data": {"a": "1"}}));
        begin(&mut old, None, &writer("t")).unwrap();
        let mut new = old.clone();
        for entry in new.metadata.managed_fields.iter_mut().flatten() {
            entry.time = None;
        }
        settle(&old, &mut new);
        assert_eq!(new, old);
        new.metadata.managed_fields.iter_mut().flatten().for_each(|entry| entry.time = None);
        new.data.get_or_insert_default().insert("b".into(), "2".into());
        settle(&old, &mut new);
        assert_ne!(new.metadata.managed_fields, old.metadata.managed_fields);
    }

    /// JSON in the words of a pod, in any order and of any type.
    fn any_json() -> impl Strategy<Value = Value> {
        const WORDS: [&str; 18] = [
            "metadata",
            "spec",
            "status",
            "containers",
            "env",
            "ports",
            "containerPort",
            "name",
            "finalizers",
            "labels",
            "conditions",
            "type",
            "tolerations",
            "ownerReferences",
            "uid",
            "managedFields",
            "annotations",
            "kubectl.kubernetes.io/last-applied-configuration",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            proptest::sample::select(vec!["", "a", "web", "{}", "k:{"]).prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            let word = proptest::sample::select(WORDS.to_vec());
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(word, inner, 0..5).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_configuration_is_too_bad(live in any_json(), said in any_json()) {
            let mut config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
            for (name, value) in said.as_object().into_iter().flatten() {
                config[name] = value.clone();
            }
            drop(check::<Pod>(&config, "default", "p"));
            let mut stored = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
            for (name, value) in live.as_object().into_iter().flatten() {
                stored[name] = value.clone();
            }
            for force in [false, true] {
                let asked = Application { config: &config, writer: writer("kubectl"), force };
                drop(apply::<Pod>(Some(&stored), &asked));
                drop(apply::<Pod>(None, &asked));
            }
        }
    }
}
