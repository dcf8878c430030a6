//! Pure: Kubernetes' strategic merge patch, with its directives `$patch`, `$retainKeys`,
//! `$setElementOrder/…` and `$deleteFromPrimitiveList/…` (`apimachinery/pkg/util/strategicpatch`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::merge_keys::{ListStrategy, list_strategy};
use crate::object::Kind;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";

/// Deeper than any object of a kind; a patch that is deeper is no patch.
const DEEPEST: usize = 64;

/// A patch that says nothing the merge can do. The sentences are the reference server's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    #[error("invalid JSON document")]
    BadDocument,
    #[error("unknown patch type {0:?} in map")]
    UnknownDirective(String),
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: &'static str },
    #[error("invalid patch format of retainKeys")]
    BadRetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    BadSetElementOrder,
    #[error("invalid patch format of primitive list")]
    BadPrimitiveList,
    #[error("lists of lists are not supported")]
    ListOfLists,
}

type Fields = Map<String, Value>;

/// The object with the patch merged into it.
///
/// # Errors
/// [`StrategicError`]; nothing is merged then.
pub fn merge(kind: Kind, object: &Value, patch: &Value) -> Result<Value, StrategicError> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(StrategicError::BadDocument);
    };
    let merge = Merge { kind };
    merge.maps(object.clone(), patch, "", 0).map(Value::Object)
}

struct Merge {
    kind: Kind,
}

impl Merge {
    fn maps(
        &self,
        mut original: Fields,
        patch: &Fields,
        path: &str,
        depth: usize,
    ) -> Result<Fields, StrategicError> {
        if depth > DEEPEST {
            return Err(StrategicError::BadDocument);
        }
        if let Some(directive) = patch.get(PATCH) {
            return match directive.as_str() {
                Some("replace") => {
                    Ok(patch.iter().filter(|(key, _)| *key != PATCH).map(owned).collect())
                }
                Some("delete") => Ok(Fields::new()),
                _ => Err(StrategicError::UnknownDirective(word(directive))),
            };
        }
        retain_keys(&mut original, patch)?;
        for (key, value) in patch {
            if let Some(name) = key.strip_prefix(DELETE_VALUES) {
                delete_values(&mut original, name, value)?;
            } else if !key.starts_with(SET_ORDER) && key != RETAIN_KEYS {
                self.field(&mut original, key, value, patch, &join(path, key), depth)?;
            }
        }
        for (key, order) in patch {
            if let Some(name) = key.strip_prefix(SET_ORDER) {
                self.set_order(&mut original, name, order, &join(path, name))?;
            }
        }
        Ok(original)
    }

    fn field(
        &self,
        original: &mut Fields,
        key: &str,
        value: &Value,
        patch: &Fields,
        path: &str,
        depth: usize,
    ) -> Result<(), StrategicError> {
        let merged = match (original.remove(key), value) {
            (_, Value::Null) => return Ok(()),
            (Some(Value::Object(old)), Value::Object(new)) => {
                Value::Object(self.maps(old, new, path, depth + 1)?)
            }
            // What is new, or of another type than what was there, is merged into nothing, so that its
            // directives and nulls do not stay.
            (_, Value::Object(new)) => {
                Value::Object(self.maps(Fields::new(), new, path, depth + 1)?)
            }
            (old, Value::Array(new)) => {
                let old = match old {
                    Some(Value::Array(list)) => list,
                    _ => Vec::new(),
                };
                let ordered = patch.contains_key(&format!("{SET_ORDER}{key}"));
                Value::Array(self.lists(old, new, ordered, path, depth + 1)?)
            }
            (_, new) => new.clone(),
        };
        original.insert(key.to_owned(), merged);
        Ok(())
    }

    fn lists(
        &self,
        original: Vec<Value>,
        patch: &[Value],
        ordered_later: bool,
        path: &str,
        depth: usize,
    ) -> Result<Vec<Value>, StrategicError> {
        let (merged, key) = match list_strategy(self.kind, path) {
            ListStrategy::Replace => {
                return Ok(patch.iter().filter(|item| !is_directive(item)).cloned().collect());
            }
            ListStrategy::MergeValues => (merge_values(original.clone(), patch)?, None),
            ListStrategy::MergeBy(key) => {
                let Some(merged) = self.keyed(original.clone(), patch, key, path, depth)? else {
                    return Ok(patch.iter().filter(|item| !is_directive(item)).cloned().collect());
                };
                (merged, Some(key))
            }
        };
        let plain: Vec<Value> = patch.iter().filter(|item| !is_directive(item)).cloned().collect();
        Ok(if ordered_later { merged } else { reorder(merged, &plain, &original, key) })
    }

    /// Merges maps by their key; `None` when the patch says `$patch: replace`. What the patch deletes
    /// goes first, wherever in the patch it stands.
    fn keyed(
        &self,
        mut merged: Vec<Value>,
        patch: &[Value],
        key: &'static str,
        path: &str,
        depth: usize,
    ) -> Result<Option<Vec<Value>>, StrategicError> {
        let mut deleted = BTreeSet::new();
        let mut said = Vec::new();
        for item in patch {
            let Value::Object(fields) = item else {
                return Err(match item {
                    Value::Array(_) => StrategicError::ListOfLists,
                    other => StrategicError::NoMergeKey { map: other.to_string(), key },
                });
            };
            match fields.get(PATCH).map(|directive| (directive.as_str(), directive)) {
                Some((Some("replace"), _)) => return Ok(None),
                Some((Some("delete"), _)) => {
                    deleted.insert(key_of(fields, key)?.to_string());
                }
                Some((Some("merge"), _)) | None => {
                    said.push((key_of(fields, key)?.to_string(), fields));
                }
                Some((_, other)) => return Err(StrategicError::UnknownDirective(word(other))),
            }
        }
        let name = |item: &Value| item.get(key).map(Value::to_string);
        merged.retain(|item| name(item).is_none_or(|name| !deleted.contains(&name)));
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for (place, item) in merged.iter().enumerate() {
            if let Some(name) = name(item) {
                places.entry(name).or_insert(place);
            }
        }
        for (wanted, fields) in said {
            let mut fields = fields.clone();
            fields.remove(PATCH);
            let place = *places.entry(wanted).or_insert(merged.len());
            match merged.get_mut(place) {
                Some(Value::Object(old)) => {
                    let before = std::mem::take(old);
                    *old = self.maps(before, &fields, path, depth + 1)?;
                }
                _ => merged.push(Value::Object(self.maps(
                    Fields::new(),
                    &fields,
                    path,
                    depth + 1,
                )?)),
            }
        }
        Ok(Some(merged))
    }

    fn set_order(
        &self,
        original: &mut Fields,
        name: &str,
        order: &Value,
        path: &str,
    ) -> Result<(), StrategicError> {
        let Value::Array(order) = order else { return Err(StrategicError::BadSetElementOrder) };
        let Some(Value::Array(list)) = original.get(name).cloned() else { return Ok(()) };
        let key = match list_strategy(self.kind, path) {
            ListStrategy::Replace => return Ok(()),
            ListStrategy::MergeValues => None,
            ListStrategy::MergeBy(key) => Some(key),
        };
        let before = list.clone();
        original.insert(name.to_owned(), Value::Array(reorder(list, order, &before, key)));
        Ok(())
    }
}

fn owned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn is_directive(item: &Value) -> bool {
    item.get(PATCH).is_some()
}

fn key_of<'f>(fields: &'f Fields, key: &'static str) -> Result<&'f Value, StrategicError> {
    fields.get(key).ok_or_else(|| StrategicError::NoMergeKey {
        map: Value::Object(fields.clone()).to_string(),
        key,
    })
}

/// Drops what the patch does not list: a change of union type leaves nothing of the old type.
fn retain_keys(original: &mut Fields, patch: &Fields) -> Result<(), StrategicError> {
    let Some(directive) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = directive else { return Err(StrategicError::BadRetainKeys) };
    let keys: BTreeSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let named = |key: &str| keys.contains(key);
    if patch.iter().any(|(key, value)| !key.starts_with('$') && !value.is_null() && !named(key)) {
        return Err(StrategicError::BadRetainKeys);
    }
    original.retain(|key, _| named(key));
    Ok(())
}

fn delete_values(original: &mut Fields, name: &str, gone: &Value) -> Result<(), StrategicError> {
    let Value::Array(gone) = gone else { return Err(StrategicError::BadPrimitiveList) };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        let gone: BTreeSet<String> = gone.iter().map(Value::to_string).collect();
        list.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

fn merge_values(mut merged: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, StrategicError> {
    let mut there: BTreeSet<String> = merged.iter().map(Value::to_string).collect();
    for item in patch {
        if item.is_array() {
            return Err(StrategicError::ListOfLists);
        }
        if there.insert(item.to_string()) {
            merged.push(item.clone());
        }
    }
    Ok(merged)
}

/// The patch's elements in the patch's order, the others in the stored order, and the two merged so
/// that elements which both were stored keep their places (`normalizeElementOrder`).
fn reorder(merged: Vec<Value>, order: &[Value], stored: &[Value], key: Option<&str>) -> Vec<Value> {
    let name = |item: &Value| match key {
        Some(key) => item.get(key).map(Value::to_string),
        None => Some(item.to_string()),
    };
    let places = |list: &[Value]| {
        let mut places = BTreeMap::new();
        for (index, item) in list.iter().enumerate() {
            if let Some(name) = name(item) {
                places.entry(name).or_insert(index);
            }
        }
        places
    };
    let (order, stored) = (places(order), places(stored));
    let place = |list: &BTreeMap<String, usize>, item: &Value| {
        name(item).and_then(|name| list.get(&name).copied())
    };
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(&order, item).is_some());
    named.sort_by_cached_key(|item| place(&order, item));
    others.sort_by_cached_key(|item| place(&stored, item).unwrap_or(usize::MAX));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    let mut sorted = Vec::new();
    loop {
        let first_named = match (named.peek(), others.peek()) {
            (Some(left), Some(right)) => {
                matches!((place(&stored, left), place(&stored, right)), (Some(l), Some(r)) if l < r)
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return sorted,
        };
        sorted.extend(if first_named { named.next() } else { others.next() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(object: Value, patch: Value) -> Value {
        merge(Kind::Pod, &object, &patch).unwrap()
    }

    #[test]
    fn what_was_of_another_type_is_merged_into_nothing() {
        let object = json!({"spec": {"containers": {"a": 1}, "volumes": [], "nodeName": "n"}});
        let patch = json!({"spec": {"containers": [{"name": "w", "$patch": "delete"}],
            "volumes": {"a": null}, "nodeName": {"$patch": "delete", "b": 1}}});
        let merged = merge(Kind::Pod, &object, &patch);
        let wanted = json!({"spec": {"containers": [], "volumes": {}, "nodeName": {}}});
        assert_eq!(merged, Ok(wanted));
    }

    #[test]
    fn containers_merge_by_name_and_their_env_too() {
        let object = json!({"spec": {"containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "env": [{"name": "Y", "value": "2"}], "command": ["x"]}]}});
        assert_eq!(
            pod(object, patch),
            json!({"spec": {"containers": [
                {"name": "a", "image": "1", "command": ["x"],
                    "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "b"}]}})
        );
    }

    #[test]
    fn directives_delete_replace_and_retain() {
        let object = || {
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}],
            "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "a"}]},
            "metadata": {"finalizers": ["x/a", "x/b"], "labels": {"a": "1", "b": "2"}}})
        };
        let delete = json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}});
        assert_eq!(pod(object(), delete)["spec"]["containers"], json!([{"name": "b"}]));
        let replace = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}});
        assert_eq!(pod(object(), replace)["spec"]["containers"], json!([{"name": "c"}]));
        let retain = json!({"spec": {"volumes": [
            {"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/a"}}]}});
        assert_eq!(
            pod(object(), retain)["spec"]["volumes"],
            json!([{"name": "v", "hostPath": {"path": "/a"}}])
        );
        let values = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"],
            "labels": {"a": null, "$patch": "replace", "c": "3"}}});
        let patched = pod(object(), values);
        assert_eq!(patched["metadata"]["finalizers"], json!(["x/b"]));
        assert_eq!(patched["metadata"]["labels"]["c"], "3");
        let atomic = json!({"spec": {"tolerations": [{"key": "b"}]}});
        assert_eq!(pod(object(), atomic)["spec"]["tolerations"], json!([{"key": "b"}]));
        let null = json!({"spec": {"tolerations": null}});
        assert_eq!(pod(object(), null)["spec"].get("tolerations"), None);
    }

    #[test]
    fn the_order_can_be_said() {
        let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "s"}]}});
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
            "containers": [{"name": "c", "image": "1"}]}});
        let names: Vec<String> = pod(object, patch)["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["b", "s", "c", "a"]);
    }

    #[test]
    fn bad_patches_are_told_not_guessed() {
        let object = json!({"spec": {"containers": [{"name": "a"}]}});
        let fail = |patch: Value| merge(Kind::Pod, &object, &patch).unwrap_err().to_string();
        assert_eq!(
            fail(json!({"spec": {"containers": [{"image": "x"}]}})),
            "map: {\"image\":\"x\"} does not contain declared merge key: name"
        );
        assert_eq!(fail(json!({"spec": {"$patch": "melt"}})), "unknown patch type \"melt\" in map");
        assert_eq!(
            fail(json!({"spec": {"$retainKeys": ["a"], "b": 1}})),
            "invalid patch format of retainKeys"
        );
        assert_eq!(fail(json!([])), "invalid JSON document");
    }
}
