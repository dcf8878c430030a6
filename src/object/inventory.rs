//! Pure: the kind **Inventory**: every object that the applied commit of a source put into the store;
//! what leaves it is pruned. It has the name of its Source.
//!
//! It is an object of its own, because it is as large as the source and changes with a commit only,
//! while the Source's status is written twice a minute: in there it would fill the change log and
//! the disk with copies of itself.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::{InventoryWord, Key, Kind, OwnVersion};

/// `ballast.dev/v1alpha1 Inventory`, cluster-scoped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    #[serde(default)]
    pub api_version: OwnVersion,
    #[serde(default)]
    pub kind: InventoryWord,
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The full id of the commit that is applied.
    #[serde(default)]
    pub commit: String,
    /// What it put into the store, in the order of the commit.
    #[serde(default)]
    pub objects: Vec<InventoryEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryEntry {
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub file: String,
    pub line: u32,
    /// Keys the manifest set, so that a key that leaves the manifest leaves the object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<String>,
    /// The lines of the fields that are compared with containers and rules, by their path in the pod
    /// that is made of it, or in the Service; list items by name (`spec.containers[web].image`). A
    /// field on the line of the one around it is left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lines: BTreeMap<String, u32>,
}

impl InventoryEntry {
    pub fn key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The line of a field, or of the nearest field around it that is written.
    pub fn line_of(&self, field: &str) -> u32 {
        let mut part = field;
        loop {
            if let Some(line) = self.lines.get(part) {
                return *line;
            }
            // Names may contain dots (`env[A.B]`): cutting at each dot still finds the parent.
            match part.rfind(['.', '[']) {
                Some(end) => part = &part[..end],
                None => return self.line,
            }
        }
    }
}

impl Inventory {
    /// The inventory of a source.
    pub fn of(source: &str, commit: &str, objects: Vec<InventoryEntry>) -> Self {
        let metadata = ObjectMeta { name: Some(source.to_owned()), ..ObjectMeta::default() };
        Self { metadata, commit: commit.to_owned(), objects, ..Self::default() }
    }
}

impl k8s_openapi::Resource for Inventory {
    const API_VERSION: &'static str = "ballast.dev/v1alpha1";
    const GROUP: &'static str = "ballast.dev";
    const KIND: &'static str = "Inventory";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "inventories";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for Inventory {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
