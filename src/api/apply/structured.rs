//! Pure: an object as fields: which it has, how two differ, what one applied over another makes, and
//! what is left without some (`structured-merge-diff`'s `typed`). No typed schema is needed: a JSON
//! value says itself what is a map and what a scalar, and [`merge_keys`] says which lists and maps
//! are one value.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::field_set::{Element, FieldSet};
use crate::api::admission::merge_keys::{ListType, MapKey, is_atomic_map, list_type};
use crate::object::Kind;

/// What changed from one object to another. No field is in two of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub removed: FieldSet,
    pub modified: FieldSet,
    pub added: FieldSet,
}

impl Comparison {
    /// What the new object sets: the fields of which its writer becomes an owner.
    pub fn set(&self) -> FieldSet {
        self.modified.union(&self.added)
    }

    /// The comparison of some of the top level's fields alone.
    pub fn at_the_top(&self, keep: impl Fn(&Element) -> bool) -> Self {
        Self {
            removed: self.removed.at_the_top(&keep),
            modified: self.modified.at_the_top(&keep),
            added: self.added.at_the_top(&keep),
        }
    }
}

/// The objects of one kind, as fields.
#[derive(Clone, Copy, Debug)]
pub struct Structure {
    pub kind: Kind,
}

type Fields = Map<String, Value>;

/// A value at one place: `None` is absent, which is not null.
type Place<'v> = Option<&'v Value>;

/// Elements of a list beside their values.
type Items<'v> = Vec<(Element, &'v Value)>;

impl Structure {
    /// Every field that the object names (`ToFieldSet`).
    pub fn fields_of(&self, object: &Value) -> FieldSet {
        let mut out = FieldSet::default();
        self.collect(object, "", &mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, value: &Value, path: &str, at: &mut Vec<Element>, out: &mut FieldSet) {
        match value {
            Value::Object(fields) if !is_atomic_map(self.kind, path) => {
                for (name, value) in fields {
                    at.push(Element::field(name));
                    self.collect(value, &join(path, name), at, out);
                    if value.as_object().is_some_and(Map::is_empty) {
                        out.insert(at);
                    }
                    at.pop();
                }
            }
            Value::Array(items) if self.list(path) != ListType::Atomic => {
                let items = self.elements(items, path);
                let mut twice = BTreeSet::new();
                let mut seen = BTreeSet::new();
                for (element, _) in &items {
                    if !seen.insert(element) {
                        twice.insert(element);
                    }
                }
                for (element, value) in &items {
                    at.push(element.clone());
                    // What is there twice has no fields that could be told apart.
                    if !twice.contains(element) && !self.atomic_items(path) {
                        self.collect(value, path, at, out);
                    }
                    out.insert(at);
                    at.pop();
                }
            }
            _ => out.insert(at),
        }
    }

    /// What `new` adds, changes and lacks beside `old` (`Compare`).
    pub fn compare(&self, old: &Value, new: &Value) -> Comparison {
        let mut out = Comparison::default();
        self.differ(Some(old), Some(new), "", &mut Vec::new(), &mut out);
        out
    }

    fn differ(
        &self,
        old: Place<'_>,
        new: Place<'_>,
        path: &str,
        at: &mut Vec<Element>,
        out: &mut Comparison,
    ) {
        if let Some((old_fields, new_fields)) = both_maps(old, new)
            && !is_atomic_map(self.kind, path)
        {
            let names: BTreeSet<&String> = old_fields.keys().chain(new_fields.keys()).collect();
            for name in names {
                at.push(Element::field(name));
                let path = join(path, name);
                self.differ(old_fields.get(name), new_fields.get(name), &path, at, out);
                at.pop();
            }
        } else if let Some((old_items, new_items)) = both_lists(old, new)
            && self.list(path) != ListType::Atomic
        {
            self.differ_lists(old_items, new_items, path, at, out);
        } else {
            match (old, new) {
                (Some(old), Some(new)) if old != new => out.modified.insert(at),
                (None, Some(_)) => out.added.insert(at),
                (Some(_), None) => out.removed.insert(at),
                _ => {}
            }
            return;
        }
        // A map or list that comes or goes is itself a change, beside what it holds.
        match (old, new) {
            (None, _) => out.added.insert(at),
            (_, None) => out.removed.insert(at),
            _ => {}
        }
    }

    fn differ_lists(
        &self,
        old: &[Value],
        new: &[Value],
        path: &str,
        at: &mut Vec<Element>,
        out: &mut Comparison,
    ) {
        let mut pairs: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for (element, value) in self.elements(old, path) {
            pairs.entry(element).or_default().0.push(value);
        }
        for (element, value) in self.elements(new, path) {
            pairs.entry(element).or_default().1.push(value);
        }
        for (element, (before, after)) in pairs {
            at.push(element);
            match (before.as_slice(), after.as_slice()) {
                (before @ ([] | [_]), after @ ([] | [_])) => {
                    self.item(before.first().copied(), after.first().copied(), path, at, out);
                }
                // What is there twice is compared as one value.
                (before @ [_, _, ..], after @ [_, _, ..]) => {
                    if before != after {
                        out.modified.insert(at);
                    }
                }
                ([_, _, ..], after) => {
                    if let Some(after) = after.first() {
                        self.item(None, Some(after), path, at, out);
                    }
                    out.removed.insert(at);
                }
                (before, _) => {
                    if let Some(before) = before.first() {
                        self.item(Some(before), None, path, at, out);
                    }
                    out.added.insert(at);
                }
            }
            at.pop();
        }
    }

    fn item(
        &self,
        old: Place<'_>,
        new: Place<'_>,
        path: &str,
        at: &mut Vec<Element>,
        out: &mut Comparison,
    ) {
        if !self.atomic_items(path) {
            return self.differ(old, new, path, at, out);
        }
        match (old, new) {
            (Some(old), Some(new)) if old != new => out.modified.insert(at),
            (None, Some(_)) => out.added.insert(at),
            (Some(_), None) => out.removed.insert(at),
            _ => {}
        }
    }

    /// `live` with everything that `config` says (`Merge`). What `config` does not name stays.
    pub fn merge(&self, live: &Value, config: &Value) -> Value {
        self.over(live, config, "")
    }

    fn over(&self, live: &Value, config: &Value, path: &str) -> Value {
        match (live, config) {
            (Value::Object(live), Value::Object(config))
                if !is_atomic_map(self.kind, path) && !live.is_empty() =>
            {
                let mut merged = live.clone();
                for (name, value) in config {
                    let value = match live.get(name) {
                        Some(live) => self.over(live, value, &join(path, name)),
                        None => value.clone(),
                    };
                    merged.insert(name.clone(), value);
                }
                Value::Object(merged)
            }
            (Value::Array(live), Value::Array(config))
                if self.list(path) != ListType::Atomic && !live.is_empty() =>
            {
                Value::Array(self.lists(live, config, path))
            }
            // Nothing said about what a map or a list of elements holds.
            (Value::Object(fields), Value::Null)
                if !is_atomic_map(self.kind, path) && !fields.is_empty() =>
            {
                live.clone()
            }
            (Value::Array(items), Value::Null)
                if self.list(path) != ListType::Atomic && !items.is_empty() =>
            {
                live.clone()
            }
            _ => config.clone(),
        }
    }

    /// The elements of both, those of the configuration in its order, the others as near to where
    /// they were as that leaves them (`visitListItems`, rule by rule).
    fn lists(&self, live: &[Value], config: &[Value], path: &str) -> Vec<Value> {
        let (left, right) = (self.elements(live, path), self.elements(config, path));
        let mut stored: BTreeMap<&Element, Vec<&Value>> = BTreeMap::new();
        for (element, value) in &left {
            stored.entry(element).or_default().push(value);
        }
        let said: BTreeSet<&Element> = right.iter().map(|(element, _)| element).collect();
        let in_right: Vec<bool> = left.iter().map(|(element, _)| said.contains(element)).collect();
        let shared: Vec<&Element> =
            right.iter().map(|(el, _)| el).filter(|el| stored.contains_key(el)).collect();
        let merged_item = |element: &Element, config: &Value| {
            match stored.get(element).map(Vec::as_slice) {
                // What is stored twice is not merged with: there is no telling with which.
                Some([live]) if !self.atomic_items(path) => self.over(live, config, path),
                _ => config.clone(),
            }
        };
        let mut out = Vec::with_capacity(left.len().max(right.len()));
        let mut merged: BTreeSet<&Element> = BTreeSet::new();
        let (mut l, mut r, mut next_shared) = (0, 0, 0);
        while l < left.len() || r < right.len() {
            if l < left.len() && r < right.len() {
                let element = &left[l].0;
                if *element == right[r].0 {
                    merged.insert(element);
                    out.push(merged_item(element, right[r].1));
                    (l, r, next_shared) = (l + 1, r + 1, next_shared + 1);
                    continue;
                }
                if in_right[l] && shared.get(next_shared).is_some_and(|next| *next != element) {
                    l += 1;
                    continue;
                }
            }
            if l < left.len() {
                if !in_right[l] {
                    out.push(left[l].1.clone());
                    l += 1;
                    continue;
                }
                if merged.contains(&left[l].0) {
                    l += 1;
                }
            }
            if let Some((element, config)) = right.get(r) {
                merged.insert(element);
                out.push(merged_item(element, config));
                r += 1;
                if shared.get(next_shared) == Some(&element) {
                    next_shared += 1;
                }
            }
        }
        out
    }

    /// The object without some fields (`RemoveItems`). A map or list that is left with nothing is
    /// null: absent once it is decoded.
    pub fn without(&self, object: &Value, gone: &FieldSet) -> Value {
        self.rest(object, gone, "")
    }

    fn rest(&self, value: &Value, gone: &FieldSet, path: &str) -> Value {
        match value {
            Value::Object(fields) if !is_atomic_map(self.kind, path) => {
                let mut kept = Fields::new();
                for (name, value) in fields {
                    let element = Element::field(name);
                    if gone.contains(&element) {
                        continue;
                    }
                    let value = match gone.below(&element) {
                        Some(gone) => self.rest(value, gone, &join(path, name)),
                        None => value.clone(),
                    };
                    kept.insert(name.clone(), value);
                }
                if kept.is_empty() { Value::Null } else { Value::Object(kept) }
            }
            Value::Array(items) if self.list(path) != ListType::Atomic => {
                let kept: Vec<Value> = self
                    .elements(items, path)
                    .into_iter()
                    .filter(|(element, _)| !gone.contains(element))
                    .map(|(element, value)| match gone.below(&element) {
                        Some(gone) => self.rest(value, gone, path),
                        None => value.clone(),
                    })
                    .collect();
                if kept.is_empty() { Value::Null } else { Value::Array(kept) }
            }
            Value::Object(_) | Value::Array(_) => Value::Null,
            scalar => scalar.clone(),
        }
    }

    pub fn list(&self, path: &str) -> ListType {
        list_type(self.kind, path)
    }

    fn atomic_items(&self, path: &str) -> bool {
        matches!(self.list(path), ListType::MapOfAtomic(_))
    }

    /// A list's elements by name; one that has none, which no admitted object has, by its place.
    fn elements<'v>(&self, items: &'v [Value], path: &str) -> Items<'v> {
        let of = |(index, item)| {
            let element = self.element(path, item).unwrap_or_else(|_| Element::index(index));
            (element, item)
        };
        items.iter().enumerate().map(of).collect()
    }

    /// What an element of the list at a path is called.
    ///
    /// # Errors
    /// The reference server's sentence for an element that cannot be told from others.
    pub fn element(&self, path: &str, item: &Value) -> Result<Element, String> {
        match self.list(path) {
            ListType::Map(keys) | ListType::MapOfAtomic(keys) => keyed(keys, item),
            ListType::Set => match item {
                Value::Object(_) => {
                    Err("associative list without keys has an element that's a map type".to_owned())
                }
                Value::Array(_) => {
                    Err("not supported: associative list with lists as elements".to_owned())
                }
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null"
                        .to_owned())
                }
                scalar => Ok(Element::value(scalar)),
            },
            ListType::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        }
    }
}

fn keyed(keys: &[MapKey], item: &Value) -> Result<Element, String> {
    let Value::Object(fields) = item else {
        let what = if item.is_null() { "a null element" } else { "non-map elements" };
        return Err(format!("associative list with keys may not have {what}"));
    };
    let default = |key: &MapKey| key.default.map(Value::from);
    let named: BTreeMap<&str, Value> = keys
        .iter()
        .filter_map(|key| Some((key.name, fields.get(key.name).cloned().or(default(key))?)))
        .collect();
    if named.is_empty() {
        let names: Vec<String> = keys.iter().map(|key| format!("{:?}", key.name)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            names.join(" ")
        ));
    }
    Ok(Element::key(&named))
}

/// Both places as maps, unless neither holds anything: that is a leaf, so that an empty map is told
/// from none.
fn both_maps<'v>(old: Place<'v>, new: Place<'v>) -> Option<(&'v Fields, &'v Fields)> {
    static NONE: std::sync::LazyLock<Fields> = std::sync::LazyLock::new(Fields::new);
    let fields = |place: Place<'v>| match place {
        Some(Value::Object(fields)) => Some(fields),
        Some(Value::Null) | None => Some(&*NONE),
        Some(_) => None,
    };
    let (old, new) = (fields(old)?, fields(new)?);
    (!old.is_empty() || !new.is_empty()).then_some((old, new))
}

/// As [`both_maps`], for lists.
fn both_lists<'v>(old: Place<'v>, new: Place<'v>) -> Option<(&'v [Value], &'v [Value])> {
    let items = |place: Place<'v>| match place {
        Some(Value::Array(items)) => Some(items.as_slice()),
        Some(Value::Null) | None => Some([].as_slice()),
        Some(_) => None,
    };
    let (old, new) = (items(old)?, items(new)?);
    (!old.is_empty() || !new.is_empty()).then_some((old, new))
}

pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::field_set::path_text;
    use super::*;

    const POD: Structure = Structure { kind: Kind::Pod };

    fn texts(set: &FieldSet) -> Vec<String> {
        set.paths().iter().map(|path| path_text(path)).collect()
    }

    #[test]
    fn an_object_names_its_leaves_and_its_elements() {
        let pod = json!({"metadata": {"labels": {"a": "1"}, "annotations": {}},
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["x", "y"],
                "ports": [{"containerPort": 80}]}],
                "nodeSelector": {"disk": "ssd"}, "imagePullSecrets": [{"name": "s"}]}});
        assert_eq!(
            texts(&POD.fields_of(&pod)),
            [
                ".metadata.annotations",
                ".metadata.labels.a",
                ".spec.nodeSelector",
                ".spec.containers[name=\"c\"]",
                ".spec.containers[name=\"c\"].args",
                ".spec.containers[name=\"c\"].image",
                ".spec.containers[name=\"c\"].name",
                ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"].containerPort",
                ".spec.imagePullSecrets[name=\"s\"]"
            ]
        );
    }

    #[test]
    fn a_comparison_tells_what_came_changed_and_went() {
        let old = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "1"}],
            "tolerations": [{"key": "x"}]}});
        let new = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [
            {"name": "a", "image": "2"}], "tolerations": [{"key": "y"}]}});
        let told = POD.compare(&old, &new);
        assert_eq!(texts(&told.added), [".metadata.labels", ".metadata.labels.a"]);
        assert_eq!(
            texts(&told.modified),
            [".spec.tolerations", ".spec.containers[name=\"a\"].image"]
        );
        assert!(told.removed.is_empty());
        assert_eq!(POD.compare(&new, &old).removed, told.added);
    }

    #[test]
    fn lists_keep_the_configurations_order_and_the_others_places() {
        let of = |text: &str| {
            let items: Vec<String> = text.chars().map(String::from).collect();
            json!({"metadata": {"finalizers": items}})
        };
        // The reference's own cases (`typed/merge_test.go`), a letter an element.
        for (live, config, wanted) in [
            ("abc", "ab", "abc"),
            ("ab", "abc", "abc"),
            ("abc", "", "abc"),
            ("", "abc", "abc"),
            ("ab", "ba", "ba"),
            ("abc", "def", "abcdef"),
            ("abc", "cdef", "abcdef"),
            ("abcgf", "cdef", "abcgdef"),
            ("cdef", "ace", "acdef"),
            ("abcxyz", "def", "abcxyzdef"),
            ("abcxyz", "defxyz", "abcdefxyz"),
            ("cagf", "cfag", "cfag"),
            ("abcd", "defa", "bcdefa"),
            ("cdefghij", "2h3e4kl", "cdfg2hij3e4kl"),
            ("abcdefghij", "1b2h3e4kl", "a1bcdfg2hij3e4kl"),
            ("abb", "c", "abbc"),
            ("abb", "b", "ab"),
            ("abb", "a", "abb"),
            ("abcdec", "1b2ed", "a1bc2ecd"),
            ("abcdec", "1b2ced", "a1b2ced"),
            ("aabb", "bcd", "aabcd"),
            ("aabb", "", "aabb"),
            ("cagfca", "cfag", "cfag"),
        ] {
            assert_eq!(POD.merge(&of(live), &of(config)), of(wanted), "{live:?} {config:?}");
        }
    }

    #[test]
    fn what_is_removed_leaves_the_rest() {
        let pod = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [
            {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}});
        let gone =
            super::super::field_set::tests::set(json!({"f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {},
                "k:{\"name\":\"b\"}": {"f:image": {}}}}}));
        assert_eq!(
            POD.without(&pod, &gone),
            json!({"metadata": {"labels": null}, "spec": {"containers": [{"name": "b"}]}})
        );
    }

    #[test]
    fn elements_without_a_name_are_told() {
        assert_eq!(
            POD.element("spec.containers", &json!({"image": "x"})).unwrap_err(),
            "associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)"
        );
        assert!(POD.element("metadata.finalizers", &json!({})).is_err());
        assert!(POD.element("spec.containers", &Value::Null).is_err());
    }

    /// Pods with a few of everything: maps, keyed lists, sets, atomic lists and maps.
    pub fn any_object() -> impl Strategy<Value = Value> {
        let text = || (0..3_u8).prop_map(|n| json!(n.to_string()));
        let map = || proptest::collection::btree_map("[ab]", text(), 0..3).prop_map(|m| json!(m));
        let maybe = |value: BoxedStrategy<Value>| proptest::option::of(value);
        let env = proptest::sample::subsequence(vec!["x", "y", "z"], 0..3)
            .prop_flat_map(move |names| {
                let values = proptest::collection::vec(0..2_u8, names.len());
                (Just(names), values)
            })
            .prop_map(|(names, values)| {
                let items: Vec<Value> = names
                    .iter()
                    .zip(values)
                    .map(|(name, value)| json!({"name": name, "value": value.to_string()}))
                    .collect();
                json!(items)
            });
        let container = (maybe(text().boxed()), maybe(env.boxed()))
            .prop_map(|(image, env)| json!({"image": image, "env": env}));
        let containers = proptest::sample::subsequence(vec!["a", "b", "c"], 0..4)
            .prop_shuffle()
            .prop_flat_map(move |names| {
                let bodies = proptest::collection::vec(container.clone(), names.len());
                (Just(names), bodies)
            })
            .prop_map(|(names, bodies)| {
                let items: Vec<Value> = names
                    .iter()
                    .zip(bodies)
                    .map(|(name, mut body)| {
                        body["name"] = json!(name);
                        body
                    })
                    .collect();
                json!(items)
            });
        let finalizers =
            proptest::sample::subsequence(vec!["x/a", "x/b"], 0..3).prop_map(|all| json!(all));
        let args = proptest::collection::vec(text(), 0..3).prop_map(|all| json!(all));
        (
            maybe(map().boxed()),
            maybe(containers.boxed()),
            maybe(finalizers.boxed()),
            maybe(args.boxed()),
            maybe(map().boxed()),
        )
            .prop_map(|(labels, containers, finalizers, tolerations, selector)| {
                without_nulls(json!({
                    "metadata": {"labels": labels, "finalizers": finalizers},
                    "spec": {"containers": containers, "tolerations": tolerations,
                        "nodeSelector": selector}}))
            })
    }

    /// As a typed object serialises: what is null or empty is absent.
    pub fn without_nulls(value: Value) -> Value {
        match value {
            Value::Object(fields) => Value::Object(
                fields
                    .into_iter()
                    .map(|(name, value)| (name, without_nulls(value)))
                    .filter(|(_, value)| {
                        !value.is_null()
                            && value.as_array().is_none_or(|items| !items.is_empty())
                            && value.as_object().is_none_or(|fields| !fields.is_empty())
                    })
                    .collect(),
            ),
            Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
            other => other,
        }
    }

    proptest! {
        #[test]
        fn a_merge_has_all_that_the_configuration_says(a in any_object(), b in any_object()) {
            let merged = POD.merge(&a, &b);
            let said = POD.fields_of(&b);
            prop_assert_eq!(said.difference(&POD.fields_of(&merged)), FieldSet::default());
            // Nothing that the configuration says differs in the result.
            let changed = POD.compare(&merged, &POD.merge(&merged, &b));
            prop_assert_eq!(changed, Comparison::default());
            // And nothing is lost that it does not say.
            prop_assert!(POD.compare(&a, &merged).removed.is_empty());
        }

        #[test]
        fn merges_can_be_grouped(a in any_object(), b in any_object(), c in any_object()) {
            let left = POD.merge(&POD.merge(&a, &b), &c);
            let right = POD.merge(&a, &POD.merge(&b, &c));
            // But for the order of elements, which each merge decides by what it sees.
            prop_assert_eq!(POD.compare(&left, &right), Comparison::default());
        }

        #[test]
        fn what_is_equal_does_not_differ_and_what_differs_is_told(a in any_object(), b in any_object()) {
            prop_assert_eq!(POD.compare(&a, &a), Comparison::default());
            let there = POD.compare(&a, &b);
            let back = POD.compare(&b, &a);
            prop_assert_eq!(&there.added, &back.removed);
            prop_assert_eq!(&there.modified, &back.modified);
            let none = POD.without(&a, &POD.fields_of(&a));
            let left = POD.fields_of(&without_nulls(none));
            prop_assert!(left.is_empty(), "{:?}", left);
        }
    }
}
