//! Pure: who owns which field of an object: `metadata.managedFields` decoded, and what a write makes
//! of it (`structured-merge-diff`'s `merge.Updater` and the managers around it in apimachinery's
//! `managedfields`, for kinds of one version).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use serde_json::{Value, json};

use super::conflict::Conflict;
use super::field_set::{Element, FieldSet};
use super::structured::{Comparison, Structure};
use crate::api::access::Part;
use crate::object::Kind;

/// `DefaultMaxUpdateManagers`: as many are told apart that changed an object without applying it.
const MOST_UPDATERS: usize = 10;
/// Who owns what the oldest of more than those had.
const ANCIENT: &str = "ancient-changes";
/// Who owns what nobody applied, once somebody applies.
const BEFORE: &str = "before-first-apply";

/// How a manager came to own a field. The order is the one in which entries are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One manager in one role: the same name owns apart what it applied and what it updated, and what
/// it wrote through a subresource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub manager: String,
    pub operation: Operation,
    /// Empty for the object itself.
    pub subresource: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Owned {
    fields: FieldSet,
    time: Option<Timestamp>,
}

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub part: Part,
    pub now: Timestamp,
}

impl Writer<'_> {
    fn as_owner(&self, operation: Operation) -> Owner {
        let subresource = match self.part {
            Part::Status => "status",
            Part::Scale => "scale",
            Part::EphemeralContainers => "ephemeralcontainers",
            // A stream and a log write nothing.
            Part::Whole
            | Part::Binding
            | Part::Finalize
            | Part::Log
            | Part::Exec
            | Part::Attach
            | Part::PortForward => "",
        };
        let manager = if self.manager.is_empty() { "unknown" } else { self.manager };
        Owner { manager: manager.to_owned(), operation, subresource: subresource.to_owned() }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_second(self.now.as_second()).unwrap_or(self.now)
    }
}

/// What an apply comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The object, to be decoded and admitted; a field that is null is absent.
    pub object: Value,
    pub owners: Owners,
}

/// Every owner of an object's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    kind: Kind,
    entries: BTreeMap<Owner, Owned>,
}

impl Owners {
    pub fn none(kind: Kind) -> Self {
        Self { kind, entries: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// # Errors
    /// What cannot be read. Entries of a version that is not served are left out: their fields
    /// cannot be found.
    pub fn decode(kind: Kind, entries: &[ManagedFieldsEntry]) -> Result<Self, String> {
        let mut owners = Self::none(kind);
        for (index, entry) in entries.iter().enumerate() {
            let operation = match entry.operation.as_deref() {
                Some("Apply") => Operation::Apply,
                Some("Update") => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            let version = entry.api_version.as_deref().unwrap_or_default();
            if version.is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            if entry.fields_type.as_deref() != Some("FieldsV1") {
                return Err(format!(
                    "missing or invalid fieldsType in managed fields entry {index}"
                ));
            }
            let fields = match &entry.fields_v1 {
                Some(fields) => FieldSet::from_json(&fields.0)?,
                None => FieldSet::default(),
            };
            if version != kind.api_version() || fields.is_empty() {
                continue;
            }
            let owner = Owner {
                manager: entry.manager.clone().unwrap_or_default(),
                operation,
                subresource: entry.subresource.clone().unwrap_or_default(),
            };
            let time = entry.time.as_ref().map(|time| time.0);
            owners.entries.insert(owner, Owned { fields, time });
        }
        Ok(owners)
    }

    /// For `metadata.managedFields`; `None` where nobody owns anything.
    pub fn encode(&self) -> Option<Vec<ManagedFieldsEntry>> {
        let mut entries: Vec<(&Owner, &Owned)> = self.entries.iter().collect();
        // Stable: what is as old stays in the order of names.
        entries.sort_by_key(|(owner, owned)| {
            (owner.operation, owned.time.map_or(0, Timestamp::as_second))
        });
        let entry = |(owner, owned): (&Owner, &Owned)| ManagedFieldsEntry {
            manager: Some(owner.manager.clone()),
            operation: Some(owner.operation.as_str().to_owned()),
            api_version: Some(self.kind.api_version()),
            time: owned.time.map(Time),
            fields_type: Some("FieldsV1".to_owned()),
            fields_v1: Some(FieldsV1(owned.fields.to_json())),
            subresource: Some(owner.subresource.clone()).filter(|name| !name.is_empty()),
        };
        (!entries.is_empty()).then(|| entries.into_iter().map(entry).collect())
    }

    /// After a create, update or patch: the writer owns what it changed, and nobody else does. A write
    /// that is no apply takes without asking.
    pub fn updated(mut self, old: &Value, new: &Value, writer: &Writer<'_>) -> Self {
        let told = self.compare(old, new, writer.part);
        let own = without_identity(&told.set());
        self.take_from_others(&told, None);
        if !own.is_empty() {
            let entry = self.entries.entry(writer.as_owner(Operation::Update)).or_default();
            entry.fields = entry.fields.union(&own);
            entry.time = Some(writer.time());
        }
        self.cap();
        self
    }

    /// After a create: what an object that was not there has now.
    pub fn created(self, new: &Value, writer: &Writer<'_>) -> Self {
        let nothing = never_written(self.kind);
        self.updated(&nothing, new, writer)
    }

    /// Applies a configuration: everything that it says, less what this manager applied before and
    /// says no more and nobody else owns.
    ///
    /// # Errors
    /// The fields that would change and belong to others, unless `force` takes them.
    pub fn applied(
        self,
        live: &Value,
        config: &Value,
        writer: &Writer<'_>,
        force: bool,
    ) -> Result<Applied, Vec<Conflict>> {
        let structure = self.structure();
        let mut owners = self;
        if owners.is_empty() && live.get("metadata").is_some() {
            let before = Writer { manager: BEFORE, part: Part::Whole, now: writer.now };
            owners = owners.created(live, &before);
        }
        let me = writer.as_owner(Operation::Apply);
        let last = owners.entries.remove(&me).unwrap_or_default();
        let said = structure.fields_of(config);
        let merged = structure.merge(live, config);
        let object = owners.pruned(merged, &last.fields, &said);
        let told = owners.compare(live, &object, writer.part);
        let conflicts = owners.conflicts(&told);
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        owners.take_from_others(&told, Some(&me));
        let fields = without_identity(&said);
        if !fields.is_empty() {
            let same = fields == last.fields && object == *live;
            let time = if same { last.time } else { Some(writer.time()) };
            owners.entries.insert(me, Owned { fields, time });
        }
        Ok(Applied { object, owners })
    }

    fn structure(&self) -> Structure {
        Structure { kind: self.kind }
    }

    /// What a write through this part can change: a status is not written with its object, and
    /// nothing else with it.
    fn compare(&self, old: &Value, new: &Value, part: Part) -> Comparison {
        let told = self.structure().compare(old, new);
        let status = Element::field("status");
        match part {
            Part::Status => {
                let metadata = Element::field("metadata");
                told.at_the_top(|element| *element == status || *element == metadata)
            }
            _ if self.kind.row().has_status => told.at_the_top(|element| *element != status),
            _ => told,
        }
    }

    fn conflicts(&self, told: &Comparison) -> Vec<Conflict> {
        let set = told.set();
        let of = |(owner, owned): (&Owner, &Owned)| {
            let owner = owner.clone();
            let paths = owned.fields.intersection(&set).paths();
            paths.into_iter().map(move |path| Conflict { owner: owner.clone(), path })
        };
        self.entries.iter().flat_map(of).collect()
    }

    /// What changed belongs to others no more, and what is gone to nobody.
    fn take_from_others(&mut self, told: &Comparison, but: Option<&Owner>) {
        let set = told.set();
        for (owner, owned) in &mut self.entries {
            if Some(owner) == but {
                continue;
            }
            owned.fields = owned.fields.difference(&set.intersection(&owned.fields));
            owned.fields = owned.fields.difference(&told.removed);
        }
        self.entries.retain(|_, owned| !owned.fields.is_empty());
    }

    /// `merged` without what this manager applied last and does not say now, as far as no other
    /// manager owns it (`prune`).
    fn pruned(&self, merged: Value, last: &FieldSet, said: &FieldSet) -> Value {
        if last.is_empty() {
            return merged;
        }
        let structure = self.structure();
        let all = structure.fields_of(&merged).with_named_fields();
        let last = last.with_named_fields();
        let kept = |object: &Value| structure.fields_of(object).with_named_fields();
        let first = structure.without(&merged, &last);
        let owned = self.entries.values().fold(said.clone(), |all, one| all.union(&one.fields));
        // What others own, or this manager says again, comes back.
        let back = kept(&first).union(&owned.with_named_fields());
        let second = structure.without(&merged, &all.difference(&back));
        // And what stood below a removed field without being this manager's.
        let gone = all.difference(&kept(&second)).intersection(&last);
        structure.without(&merged, &gone)
    }

    /// Keeps the number of entries bounded: the oldest updaters become one.
    fn cap(&mut self) {
        let mut updaters: Vec<(Option<Timestamp>, Owner)> = self
            .entries
            .iter()
            .filter(|(owner, _)| owner.operation == Operation::Update)
            .map(|(owner, owned)| (owned.time, owner.clone()))
            .collect();
        if updaters.len() <= MOST_UPDATERS {
            return;
        }
        updaters.sort();
        let bucket = Owner {
            manager: ANCIENT.to_owned(),
            operation: Operation::Update,
            subresource: String::new(),
        };
        // The bucket is one of those that stay.
        let over = updaters.len() + 1 - MOST_UPDATERS;
        for (time, owner) in updaters.into_iter().take(over) {
            let Some(old) = self.entries.remove(&owner) else { continue };
            let entry = self.entries.entry(bucket.clone()).or_default();
            entry.fields = entry.fields.union(&old.fields);
            entry.time = time.max(entry.time);
        }
    }
}

/// Without the fields that belong to no manager: they say which object it is.
fn without_identity(fields: &FieldSet) -> FieldSet {
    const TOP: [&str; 3] = ["apiVersion", "kind", "metadata"];
    const META: [&str; 9] = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let mut identity = FieldSet::default();
    for name in TOP {
        identity.insert(&[Element::field(name)]);
    }
    for name in META {
        identity.insert(&[Element::field("metadata"), Element::field(name)]);
    }
    fields.difference(&identity)
}

/// An object of a kind as Go writes it when nothing is set: fields that are always there are no
/// change of whoever creates one.
fn never_written(kind: Kind) -> Value {
    let template = || json!({"metadata": {}, "spec": {"containers": null}});
    let mut object = match kind {
        Kind::Pod => json!({"spec": {"containers": null}}),
        Kind::Deployment => {
            json!({"spec": {"selector": null, "strategy": {}, "template": template()}})
        }
        Kind::ReplicaSet => json!({"spec": {"selector": null, "template": template()}}),
        Kind::Service => json!({"spec": {}, "status": {"loadBalancer": {}}}),
        Kind::EndpointSlice => json!({"addressType": "", "endpoints": null, "ports": null}),
        Kind::Event => json!({"involvedObject": {}, "source": {}, "reportingComponent": "",
            "reportingInstance": ""}),
        Kind::ConfigMap | Kind::Secret => json!({}),
        Kind::Namespace
        | Kind::Node
        | Kind::Lease
        | Kind::Source
        | Kind::Drift
        | Kind::Inventory
        | Kind::PersistentVolume => json!({"spec": {}}),
        Kind::PersistentVolumeClaim => json!({"spec": {"resources": {}}}),
        Kind::StorageClass => json!({"provisioner": ""}),
    };
    object["metadata"] = json!({});
    object
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::field_set::tests::set;
    use super::super::structured::tests::{any_object, without_nulls};
    use super::*;

    fn writer(manager: &str, second: i64) -> Writer<'_> {
        let now = Timestamp::from_second(second).unwrap();
        Writer { manager, part: Part::Whole, now }
    }

    fn map(data: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "g"}, "data": data})
    }

    /// A configuration that says nothing: an empty `data` would be a word about it.
    fn nothing() -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "g"}})
    }

    fn fields(owners: &Owners, manager: &str) -> Value {
        let held = owners.entries.iter().find(|(owner, _)| owner.manager == manager);
        held.map_or(Value::Null, |(_, owned)| owned.fields.to_json())
    }

    fn apply(
        owners: &Owners,
        live: &Value,
        config: &Value,
        manager: &str,
        force: bool,
    ) -> Result<(Value, Owners), Vec<Conflict>> {
        let applied = owners.clone().applied(live, config, &writer(manager, 7), force)?;
        Ok((without_nulls(applied.object), applied.owners))
    }

    #[test]
    fn the_recorded_applies() {
        let none = Owners::none(Kind::ConfigMap);
        let live = map(json!({"b": "3", "c": "4"}));
        let (live, owners) = apply(&none, &live, &map(json!({"d": "5"})), "t1", false).unwrap();
        assert_eq!(live["data"], json!({"b": "3", "c": "4", "d": "5"}));
        assert_eq!(fields(&owners, "t1"), json!({"f:data": {"f:d": {}}}));
        assert_eq!(fields(&owners, BEFORE), json!({"f:data": {".": {}, "f:b": {}, "f:c": {}}}));
        let six = map(json!({"d": "6"}));
        let conflicts = apply(&owners, &live, &six, "t2", false).unwrap_err();
        let refused = super::super::conflict::refusal(Kind::ConfigMap, &conflicts);
        assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"t1\": .data.d");
        let (live, owners) = apply(&owners, &live, &six, "t2", true).unwrap();
        assert_eq!(live["data"]["d"], "6");
        assert_eq!(fields(&owners, "t1"), Value::Null);
        // What was there before anybody applied is nobody's to prune.
        let (live, owners) = apply(&owners, &live, &nothing(), "t2", false).unwrap();
        assert_eq!(live["data"], json!({"b": "3", "c": "4"}));
        assert_eq!(fields(&owners, "t2"), Value::Null);
    }

    #[test]
    fn what_two_managers_say_stays_while_one_says_it() {
        let none = Owners::none(Kind::ConfigMap);
        let (a, ab) = (map(json!({"a": "1"})), map(json!({"a": "1", "b": "2"})));
        let (live, owners) = apply(&none, &json!({}), &ab, "t1", false).unwrap();
        let (live, owners) = apply(&owners, &live, &a, "t2", false).unwrap();
        let (live, owners) = apply(&owners, &live, &nothing(), "t1", false).unwrap();
        assert_eq!(live["data"], json!({"a": "1"}));
        let (live, _) = apply(&owners, &live, &nothing(), "t2", false).unwrap();
        assert_eq!(live.get("data"), None);
    }

    #[test]
    fn an_update_takes_without_asking_and_is_named_in_conflicts() {
        let none = Owners::none(Kind::ConfigMap);
        let first = map(json!({"a": "1", "b": "2"}));
        let (live, owners) = apply(&none, &json!({}), &first, "t1", false).unwrap();
        let changed = map(json!({"a": "9", "c": "3"}));
        let owners = owners.updated(&live, &changed, &writer("kubectl-edit", 9));
        assert_eq!(fields(&owners, "t1"), Value::Null, "a is taken and b is gone");
        assert_eq!(fields(&owners, "kubectl-edit"), json!({"f:data": {"f:a": {}, "f:c": {}}}));
        let conflicts = apply(&owners, &changed, &first, "t1", false).unwrap_err();
        let refused = super::super::conflict::refusal(Kind::ConfigMap, &conflicts);
        assert_eq!(
            refused.message,
            "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.a"
        );
        assert_eq!(owners.clone().updated(&changed, &changed, &writer("x", 10)), owners);
    }

    #[test]
    fn what_is_created_is_owned_as_the_reference_tells_it() {
        // Of a real server's answer to `kubectl create deployment`, the defaults left out.
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "w", "uid": "u", "labels": {"app": "w"}},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "w"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
                "template": {"metadata": {"labels": {"app": "w"}}, "spec": {
                    "containers": [{"name": "c", "image": "i", "resources": {}}]}}},
            "status": {"replicas": 1}});
        let owners = Owners::none(Kind::Deployment).created(&deployment, &writer("k", 1));
        let wanted = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {},
                        "f:name": {}, "f:resources": {}}}}}}});
        assert_eq!(fields(&owners, "k"), set(wanted).to_json());
        let entries = owners.encode().expect("an entry");
        assert_eq!(entries[0].operation.as_deref(), Some("Update"));
        assert_eq!(Owners::decode(Kind::Deployment, &entries), Ok(owners));
    }

    #[test]
    fn entries_are_bounded_and_bad_ones_refused() {
        let mut owners = Owners::none(Kind::ConfigMap);
        let mut live = map(json!({}));
        for n in 0..14_u8 {
            let mut next = live.clone();
            next["data"][format!("k{n}")] = json!("1");
            owners = owners.updated(&live, &next, &writer(&format!("m{n}"), i64::from(n)));
            live = next;
        }
        assert_eq!(owners.entries.len(), MOST_UPDATERS);
        let ancient = fields(&owners, ANCIENT);
        assert_eq!(ancient["f:data"].as_object().unwrap().len(), 5, "what the oldest had");
        let entry = |operation: &str, version: &str, sort: &str| {
            let text = |text: &str| Some(text.to_owned());
            vec![ManagedFieldsEntry {
                manager: text("m"),
                operation: text(operation),
                api_version: text(version),
                fields_type: text(sort),
                fields_v1: Some(FieldsV1(json!({"f:data": {}}))),
                ..ManagedFieldsEntry::default()
            }]
        };
        let decode = |entries: Vec<ManagedFieldsEntry>| Owners::decode(Kind::ConfigMap, &entries);
        assert!(decode(entry("Replace", "v1", "FieldsV1")).is_err());
        assert!(decode(entry("Apply", "", "FieldsV1")).is_err());
        assert!(decode(entry("Apply", "v1", "FieldsV2")).is_err());
        assert!(decode(entry("Apply", "v0", "FieldsV1")).unwrap().is_empty());
        assert!(!decode(entry("Apply", "v1", "FieldsV1")).unwrap().is_empty());
    }

    /// The dull oracle of the properties: the test's pods as leaves with values.
    fn leaves(pod: &Value) -> BTreeMap<String, Value> {
        let mut out = BTreeMap::new();
        let mut put = |name: String, value: Option<&Value>| {
            out.extend(value.map(|value| (name, value.clone())));
        };
        for (name, value) in pod["metadata"]["labels"].as_object().into_iter().flatten() {
            put(format!("label {name}"), Some(value));
        }
        for name in pod["metadata"]["finalizers"].as_array().into_iter().flatten() {
            put(format!("finalizer {name}"), Some(name));
        }
        for whole in ["tolerations", "nodeSelector"] {
            put(whole.to_owned(), pod["spec"].get(whole));
        }
        for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
            let name = &container["name"];
            put(format!("container {name}"), Some(name));
            put(format!("image {name}"), container.get("image"));
            for variable in container["env"].as_array().into_iter().flatten() {
                put(format!("env {name} {}", variable["name"]), Some(&variable["value"]));
            }
        }
        out
    }

    fn pods() -> Owners {
        Owners::none(Kind::Pod)
    }

    proptest! {
        #[test]
        fn an_apply_again_changes_nothing(a in any_object(), b in any_object()) {
            let (live, owners) = apply(&pods(), &json!({}), &a, "t1", false).unwrap();
            let (live, owners) = apply(&owners, &live, &b, "t2", true).unwrap();
            let again = owners.clone().applied(&live, &b, &writer("t2", 99), false);
            let again = again.expect("what is so already is no conflict");
            prop_assert_eq!(without_nulls(again.object), live);
            prop_assert_eq!(again.owners, owners);
        }

        #[test]
        fn it_conflicts_exactly_if_another_owns_what_changes(a in any_object(), b in any_object()) {
            let (live, owners) = apply(&pods(), &json!({}), &a, "t1", false).unwrap();
            prop_assert_eq!(leaves(&live), leaves(&a));
            let (mine, theirs) = (leaves(&b), leaves(&a));
            let changed = mine.iter().any(|(place, value)| {
                theirs.get(place).is_some_and(|other| other != value)
            });
            let applied = apply(&owners, &live, &b, "t2", false);
            prop_assert_eq!(applied.is_err(), changed);
            if let Ok((live, owners)) = applied {
                let mut both = theirs;
                both.extend(mine);
                prop_assert_eq!(leaves(&live), both);
                // Nobody's apply conflicts with its own fields.
                prop_assert!(apply(&owners, &live, &a, "t1", false).is_ok());
            }
        }

        #[test]
        fn who_says_nothing_more_leaves_what_others_said(a in any_object(), b in any_object()) {
            let (live, owners) = apply(&pods(), &json!({}), &a, "t1", false).unwrap();
            let (live, owners) = apply(&owners, &live, &b, "t2", true).unwrap();
            let (live, owners) = apply(&owners, &live, &json!({}), "t1", false).unwrap();
            prop_assert_eq!(leaves(&live), leaves(&b));
            let (live, owners) = apply(&owners, &live, &json!({}), "t2", false).unwrap();
            prop_assert!(leaves(&live).is_empty());
            prop_assert!(owners.is_empty());
        }

        #[test]
        fn a_forced_apply_owns_all_that_it_says(a in any_object(), b in any_object()) {
            let (live, owners) = apply(&pods(), &json!({}), &a, "t1", false).unwrap();
            let (live, owners) = apply(&owners, &live, &b, "t2", true).unwrap();
            let said = Structure { kind: Kind::Pod }.fields_of(&b);
            let owner = writer("t2", 0).as_owner(Operation::Apply);
            let held = owners.entries.get(&owner).map(|owned| owned.fields.clone());
            prop_assert_eq!(held.unwrap_or_default(), said);
            let mut both = leaves(&a);
            both.extend(leaves(&b));
            prop_assert_eq!(leaves(&live), both);
            let entries = owners.encode().unwrap_or_default();
            prop_assert_eq!(Owners::decode(Kind::Pod, &entries), Ok(owners));
        }

        #[test]
        fn an_update_owns_what_it_changed_and_nobody_else_does(a in any_object(), b in any_object()) {
            let (live, owners) = apply(&pods(), &json!({}), &a, "t1", false).unwrap();
            let owners = owners.updated(&live, &b, &writer("u", 9));
            let all: Vec<FieldSet> = owners.entries.values().map(|one| one.fields.clone()).collect();
            if let [one, two] = all.as_slice() {
                prop_assert!(one.intersection(two).is_empty());
            }
            // What is owned is there.
            let there = Structure { kind: Kind::Pod }.fields_of(&b).with_named_fields();
            for one in all {
                prop_assert!(one.difference(&there).is_empty(), "{:?}", one.difference(&there));
            }
        }
    }
}
