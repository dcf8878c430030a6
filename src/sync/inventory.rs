//! Pure: what a source put into the store. The inventory is written in the same transaction as the
//! objects, so that nothing is ever left behind without an owner. The uid of an object that this
//! transaction creates is not known yet: it is empty there and filled in by the next write of the
//! inventory; until then the annotation `ballast.dev/source`, written with the object, tells whose it is.
//!
//! The uid also stays empty while an earlier object of that name is still ending: the commit's own
//! one is made when the name is free. It is *unmade* until then.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::object::inventory::InventoryEntry;
use crate::object::{Key, Kind, SetOutcome};
use crate::sync::field_lines;
use crate::sync::manifest::Manifest;

/// The entries of a commit, with the uids that are known before it is applied.
pub fn entries(
    manifests: &[Manifest],
    uid_of: &BTreeMap<(Kind, Key), String>,
) -> Vec<InventoryEntry> {
    let keys = |manifest: &Manifest, field: &str| {
        manifest.value["metadata"][field]
            .as_object()
            .map(|map| map.keys().cloned().collect())
            .unwrap_or_default()
    };
    let entry = |manifest: &Manifest| {
        let mut entry = InventoryEntry {
            kind: manifest.kind,
            namespace: manifest.key.namespace.clone(),
            name: manifest.key.name.clone(),
            uid: uid_of.get(&(manifest.kind, manifest.key.clone())).cloned().unwrap_or_default(),
            file: manifest.file.to_string(),
            line: manifest.line(),
            labels: keys(manifest, "labels"),
            annotations: keys(manifest, "annotations"),
            lines: BTreeMap::new(),
        };
        field_lines::fill(&mut entry, manifest);
        entry
    };
    manifests.iter().map(entry).collect()
}

/// Fills in the uids that the store gave.
pub fn learn_uids(inventory: &mut [InventoryEntry], outcomes: &[SetOutcome]) {
    let given: BTreeMap<(Kind, Key), String> = outcomes
        .iter()
        .filter_map(|outcome| {
            let after = outcome.after.as_deref()?;
            let uid = if is_ending(after) { "" } else { after["metadata"]["uid"].as_str()? };
            Some(((outcome.kind, outcome.key.clone()), uid.to_owned()))
        })
        .collect();
    take_uids(inventory, &given);
}

/// Fills in the uids that are known.
pub fn take_uids(inventory: &mut [InventoryEntry], known: &BTreeMap<(Kind, Key), String>) {
    for entry in inventory {
        if let Some(uid) = known.get(&(entry.kind, entry.key())) {
            entry.uid.clone_from(uid);
        }
    }
}

/// Whether an inventory is that of these manifests, to the line: then a commit that was applied means
/// what it meant. It does not where the path of its source was changed since.
pub fn is_of(inventory: &[InventoryEntry], manifests: &[Manifest]) -> bool {
    let wanted = entries(manifests, &BTreeMap::new());
    let without_uid =
        |entry: &InventoryEntry| InventoryEntry { uid: String::new(), ..entry.clone() };
    inventory.iter().map(without_uid).eq(wanted)
}

/// The objects that the commit wants and that are not made yet.
pub fn unmade(inventory: &[InventoryEntry]) -> BTreeSet<(Kind, Key)> {
    let without = inventory.iter().filter(|entry| entry.uid.is_empty());
    without.map(|entry| (entry.kind, entry.key())).collect()
}

/// Whether a stored object is on its way out.
pub fn is_ending(stored: &Value) -> bool {
    stored["metadata"]["deletionTimestamp"].is_string()
}

/// The manifest's own value of an annotation.
pub fn annotation<'a>(manifest: &'a Value, name: &str) -> Option<&'a str> {
    manifest["metadata"]["annotations"].get(name).and_then(Value::as_str)
}
