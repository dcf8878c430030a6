//! Pure: a set of an object's fields, as `metadata.managedFields` holds it: the tree behind
//! `FieldsV1` and its algebra (`structured-merge-diff`'s `fieldpath`).
//!
//! A path is a chain of elements, each in its wire form: `f:spec`, `k:{"name":"web"}`, `v:"x/a"`. A
//! field is in the set where it is a *member*; what stands above a member is in the set only if it
//! is a member itself (`.` in the wire form).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::api::admission::quoted;

/// One step of a path, in its wire form. The order is the reference's: fields, keys, values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element(String);

impl Element {
    pub fn field(name: &str) -> Self {
        Self(format!("f:{name}"))
    }

    /// The element of a list of maps, by its key fields.
    pub fn key(fields: &BTreeMap<&str, Value>) -> Self {
        let text = serde_json::to_string(fields).expect("keys of a map are texts");
        Self(format!("k:{text}"))
    }

    /// The element of a list of texts or numbers.
    pub fn value(value: &Value) -> Self {
        Self(format!("v:{value}"))
    }

    pub fn index(index: usize) -> Self {
        Self(format!("i:{index}"))
    }

    /// An element of an unknown sort is one of a newer server's and left out, as the reference does.
    fn read(text: &str) -> Result<Option<Self>, String> {
        let bad = |problem: &dyn fmt::Display| format!("path element {text:?}: {problem}");
        match text.split_at_checked(2) {
            Some(("f:", _)) => Ok(Some(Self(text.to_owned()))),
            Some(("k:", json)) => {
                let fields: BTreeMap<String, Value> =
                    serde_json::from_str(json).map_err(|error| bad(&error))?;
                let fields = fields.iter().map(|(name, value)| (name.as_str(), value.clone()));
                Ok(Some(Self::key(&fields.collect())))
            }
            Some(("v:", json)) => {
                let value: Value = serde_json::from_str(json).map_err(|error| bad(&error))?;
                Ok(Some(Self::value(&value)))
            }
            Some(("i:", number)) => {
                let index = number.parse().map_err(|error| bad(&error))?;
                Ok(Some(Self::index(index)))
            }
            Some((sort, _)) if sort.ends_with(':') => Ok(None),
            _ => Err(bad(&"no element")),
        }
    }

    fn is_field(&self) -> bool {
        self.0.starts_with("f:")
    }
}

/// `.spec`, `[name="web"]`, `[="x/a"]`: as messages name it.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sort, rest) = self.0.split_at(2);
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), quoted);
        match sort {
            "f:" => write!(f, ".{rest}"),
            "k:" => {
                let fields: BTreeMap<String, Value> =
                    serde_json::from_str(rest).unwrap_or_default();
                let parts: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
                write!(f, "[{}]", parts.join(","))
            }
            "v:" => {
                let value: Value = serde_json::from_str(rest).unwrap_or_default();
                write!(f, "[={}]", plain(&value))
            }
            _ => write!(f, "[{rest}]"),
        }
    }
}

/// A path as messages name it: `.spec.containers[name="web"].image`.
pub fn path_text(path: &[Element]) -> String {
    path.iter().map(Element::to_string).collect()
}

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<Element, Node>,
}

/// No node is neither a member nor above one: such nodes are never kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = self.nodes.entry(first.clone()).or_default();
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    /// Whether the field right below is a member.
    pub fn contains(&self, element: &Element) -> bool {
        self.nodes.get(element).is_some_and(|node| node.member)
    }

    /// What the set has below an element.
    pub fn below(&self, element: &Element) -> Option<&Self> {
        self.nodes.get(element).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    pub fn union(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (element, node) in &other.nodes {
            let mine = both.nodes.entry(element.clone()).or_default();
            mine.member |= node.member;
            mine.below = mine.below.union(&node.below);
        }
        both
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let pairs = self.nodes.iter().filter_map(|(element, node)| {
            let theirs = other.nodes.get(element)?;
            let below = node.below.intersection(&theirs.below);
            Some((element.clone(), Node { member: node.member && theirs.member, below }))
        });
        Self::of(pairs)
    }

    /// What is a member here and not there; what stands below a member of the other stays.
    pub fn difference(&self, other: &Self) -> Self {
        let pairs = self.nodes.iter().map(|(element, node)| {
            let left = match other.nodes.get(element) {
                None => node.clone(),
                Some(theirs) => Node {
                    member: node.member && !theirs.member,
                    below: node.below.difference(&theirs.below),
                },
            };
            (element.clone(), left)
        });
        Self::of(pairs)
    }

    /// With every named field above a member as a member too, so that a map which a manager fills
    /// belongs to it and goes when its last field does.
    pub fn with_named_fields(&self) -> Self {
        let pairs = self.nodes.iter().map(|(element, node)| {
            let named = element.is_field() && !node.below.is_empty();
            let below = node.below.with_named_fields();
            (element.clone(), Node { member: node.member || named, below })
        });
        Self::of(pairs)
    }

    /// The part of the set below the top level's fields that `keep` holds for.
    pub fn at_the_top(&self, keep: impl Fn(&Element) -> bool) -> Self {
        let kept = self.nodes.iter().filter(|(element, _)| keep(element));
        Self::of(kept.map(|(element, node)| (element.clone(), node.clone())))
    }

    /// Every member, at each level before what stands below it.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, at: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for (element, _) in self.nodes.iter().filter(|(_, node)| node.member) {
            out.push(at.iter().chain([element]).cloned().collect());
        }
        for (element, node) in &self.nodes {
            at.push(element.clone());
            node.below.collect(at, out);
            at.pop();
        }
    }

    fn of(pairs: impl Iterator<Item = (Element, Node)>) -> Self {
        let nodes = pairs.filter(|(_, node)| node.member || !node.below.is_empty()).collect();
        Self { nodes }
    }

    /// The wire form, `FieldsV1`.
    pub fn to_json(&self) -> Value {
        Value::Object(self.to_map(false))
    }

    fn to_map(&self, member: bool) -> Map<String, Value> {
        let mut map = Map::new();
        if member && !self.nodes.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, node) in &self.nodes {
            map.insert(element.0.clone(), Value::Object(node.below.to_map(node.member)));
        }
        map
    }

    /// # Errors
    /// What is not the wire form, with the element at fault.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let Value::Object(map) = value else {
            return Err(format!("fieldsV1 is no map: {}", quoted(&value.to_string())));
        };
        let mut nodes = Vec::new();
        for (text, inside) in map.iter().filter(|(text, _)| *text != ".") {
            let Some(element) = Element::read(text)? else { continue };
            let below = Self::from_json(inside)?;
            let member = below.is_empty() || inside.get(".").is_some();
            nodes.push((element, Node { member, below }));
        }
        Ok(Self::of(nodes.into_iter()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    pub fn set(value: Value) -> FieldSet {
        FieldSet::from_json(&value).expect("fields")
    }

    #[test]
    fn the_wire_form_is_the_references() {
        let wire = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}},
                "f:finalizers": {"v:\"x/a\"": {}}}});
        let fields = set(wire.clone());
        assert_eq!(fields.to_json(), wire);
        let text: Vec<String> = fields.paths().iter().map(|path| path_text(path)).collect();
        assert_eq!(
            text,
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].image",
                ".spec.finalizers[=\"x/a\"]"
            ]
        );
        // The order of an element's keys is no matter, an element of another sort is left out.
        let other = set(json!({"k:{\"b\":1,\"a\":\"x\"}": {}, "z:future": {}}));
        assert_eq!(other, set(json!({"k:{\"a\":\"x\",\"b\":1}": {}})));
        for bad in [json!([]), json!({"nothing": {}}), json!({"k:[": {}}), json!({"f:a": 1})] {
            assert!(FieldSet::from_json(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_map_goes_with_its_last_field() {
        let named = set(json!({"f:data": {"f:a": {}}})).with_named_fields();
        assert_eq!(named, set(json!({"f:data": {".": {}, "f:a": {}}})));
    }

    fn any_path() -> impl Strategy<Value = Vec<Element>> {
        let element = prop_oneof![
            (0..3_u8).prop_map(|n| Element::field(&format!("f{n}"))),
            (0..2_u8).prop_map(|n| Element::key(&BTreeMap::from([("name", json!(n))]))),
            (0..2_u8).prop_map(|n| Element::value(&json!(n.to_string()))),
        ];
        proptest::collection::vec(element, 1..4)
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        proptest::collection::vec(any_path(), 0..8).prop_map(|paths| {
            let mut set = FieldSet::default();
            paths.iter().for_each(|path| set.insert(path));
            set
        })
    }

    /// The dull oracle: a set of paths.
    fn flat(set: &FieldSet) -> std::collections::BTreeSet<Vec<Element>> {
        set.paths().into_iter().collect()
    }

    proptest! {
        #[test]
        fn the_algebra_is_that_of_sets_of_paths(a in any_set(), b in any_set()) {
            let (one, two) = (flat(&a), flat(&b));
            prop_assert_eq!(flat(&a.union(&b)), one.union(&two).cloned().collect());
            prop_assert_eq!(flat(&a.intersection(&b)), one.intersection(&two).cloned().collect());
            prop_assert_eq!(flat(&a.difference(&b)), one.difference(&two).cloned().collect());
            prop_assert_eq!(a.difference(&a), FieldSet::default());
            prop_assert_eq!(FieldSet::from_json(&a.to_json()), Ok(a));
        }
    }
}
