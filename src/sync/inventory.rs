//! Pure: what a source put into the store. The inventory is written in the same transaction as the
//! objects, so that nothing is ever left behind without an owner. The uid of an object that this
//! transaction creates is not known yet: it is empty there and filled in by the next write of the
//! status; until then the annotation `ballast.dev/source`, written with the object, tells whose it is.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object::source::InventoryEntry;
use crate::object::{Key, Kind, SetOutcome};
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
    manifests
        .iter()
        .map(|manifest| InventoryEntry {
            kind: manifest.kind,
            namespace: manifest.key.namespace.clone(),
            name: manifest.key.name.clone(),
            uid: uid_of.get(&(manifest.kind, manifest.key.clone())).cloned().unwrap_or_default(),
            file: manifest.file.to_string(),
            line: manifest.line(),
            labels: keys(manifest, "labels"),
            annotations: keys(manifest, "annotations"),
        })
        .collect()
}

/// Fills in the uids that the store gave.
pub fn learn_uids(inventory: &mut [InventoryEntry], outcomes: &[SetOutcome]) {
    let given: BTreeMap<(Kind, &Key), &str> = outcomes
        .iter()
        .filter_map(|outcome| {
            let uid = outcome.after.as_deref()?["metadata"]["uid"].as_str()?;
            Some(((outcome.kind, &outcome.key), uid))
        })
        .collect();
    for entry in inventory {
        if let Some(uid) = given.get(&(entry.kind, &entry.key())) {
            (*uid).clone_into(&mut entry.uid);
        }
    }
}

/// The manifest's own value of an annotation.
pub fn annotation<'a>(manifest: &'a Value, name: &str) -> Option<&'a str> {
    manifest["metadata"]["annotations"].get(name).and_then(Value::as_str)
}
