//! Pure: the kind **Drift**: one difference between what a commit wants and what is, named down to
//! the field. Written by `sync` (layer object), `node` (container) and `network` (network), by way
//! of the one [`ledger`](crate::object::ledger) that decides when a difference is worth a Drift.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::{DriftWord, Kind, OwnVersion};

/// `ballast.dev/v1alpha1 Drift`, in the namespace of the object it is about (`default` for a
/// cluster-scoped one).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    #[serde(default)]
    pub api_version: OwnVersion,
    #[serde(default)]
    pub kind: DriftWord,
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What differs.
    pub spec: DriftSpec,
    /// How it stands with the difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DriftStatus>,
}

/// What differs. One Drift an (object, layer, field).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftSpec {
    /// The object that differs.
    pub object: DriftObject,
    /// Where the difference was seen.
    pub layer: Layer,
    /// How it differs.
    pub class: Class,
    /// `spec.replicas`, `containers[web].image`, `nat/BALLAST-SVC-…`; `.` is the whole object.
    pub field: String,
    /// The field of the manifest that wants it, where `field` is no path in one: by its path in the
    /// object, list items by name (`spec.containers[web].image`, `spec.ports[http]`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_by: Option<String>,
    /// As text; Secret values as keyed hashes. Absent where nothing is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// Where the wanted value is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl Default for DriftSpec {
    fn default() -> Self {
        Self {
            object: DriftObject {
                kind: Kind::Pod,
                namespace: String::new(),
                name: String::new(),
                uid: String::new(),
            },
            layer: Layer::Object,
            class: Class::Changed,
            field: String::new(),
            wanted_by: None,
            wanted: None,
            actual: None,
            origin: None,
        }
    }
}

#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct DriftObject {
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// `file:line@commit`
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    pub source: String,
    pub file: String,
    pub line: u32,
    /// The full hex id of the applied commit.
    pub commit: String,
}

/// Where the difference was seen.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The stored object against the commit.
    Object,
    /// Docker against the stored object.
    Container,
    /// Kernel rules against the stored objects.
    Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Class {
    /// Wanted, not there.
    Missing,
    /// There, not wanted.
    Extra,
    /// There, different.
    Changed,
    /// There, not running.
    Stopped,
    WrongImage,
    /// Wanted to be ready, and is not.
    NotReady,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftStatus {
    pub phase: Phase,
    /// When the difference began, as far as is known.
    pub since: Time,
    /// When it was last confirmed; written at most every 10 s.
    pub last_seen: Time,
    /// How often it opened, this time included.
    pub count: u32,
    /// What made it, where Docker's events or the rules tell: `docker kill (signal 9) at 12:00:01Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    pub action: Action,
    /// One sentence beside the action: the error of a failed heal, the reason of a report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    Open,
    Closed,
}

/// What Ballast does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Being put right.
    Healing,
    /// Was put right by Ballast.
    Healed,
    /// Shown only: healing is off for this object, or not possible.
    Reported,
    /// Healed three times in ten minutes and back again: someone else writes this field. Backing off.
    Fighting,
    /// Gone without our doing: the wanted value changed, or somebody else put it right.
    Resolved,
}

impl k8s_openapi::Resource for Drift {
    const API_VERSION: &'static str = "ballast.dev/v1alpha1";
    const GROUP: &'static str = "ballast.dev";
    const KIND: &'static str = "Drift";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "drifts";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for Drift {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
