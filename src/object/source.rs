//! Pure: the kind **Source**: a repository, branch and path to follow, and how far the cluster
//! follows it. Written by the daemon from its command line and config; read by everyone.

use std::future::ready;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::{Change, Cluster, OwnVersion, Scope, SourceWord};

/// `ballast.dev/v1alpha1 Source`, cluster-scoped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    #[serde(default)]
    pub api_version: OwnVersion,
    #[serde(default)]
    pub kind: SourceWord,
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is followed.
    #[serde(default)]
    pub spec: SourceSpec,
    /// How far the cluster follows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SourceStatus>,
}

impl Source {
    /// Whether a commit of it ever entered the store.
    pub fn has_applied(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.applied.is_some())
    }
}

/// Resolves when the store holds a commit of some source, which it may do already. Before that an
/// empty store says nothing: it may be a new one beside what an earlier one's commits left running.
pub fn first_commit<C: Cluster>(cluster: &C) -> impl Future<Output = ()> + Send + 'static {
    let changes = cluster.watch::<Source>(Scope::all());
    changes
        .filter(|change| {
            ready(match change {
                Change::Reset(all) => all.iter().any(|source| source.has_applied()),
                Change::Applied(source) => source.has_applied(),
                Change::Deleted(_) => false,
            })
        })
        .take(1)
        .for_each(|_| ready(()))
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceSpec {
    /// A local path, `file://`, `https://` or `ssh://`, without credentials.
    pub url: String,
    pub branch: String,
    /// The folder inside the repository; `.` is all of it.
    pub path: String,
    /// Seconds between two polls where no change notification exists.
    pub poll_seconds: u32,
}

/// Three facts, never one word: Fetched, Applied, Converged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The branch's head at the last fetch that worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched: Option<Commit>,
    /// Why the last fetch failed; cleared by the next one that works. No credentials in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_error: Option<String>,
    /// When the last fetch was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_tried_at: Option<Time>,
    /// The commit that the store holds, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Commit>,
    /// A fetched commit that was refused: its problems are in `problems`, the applied one runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Commit>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// A fetched commit that waits for a confirmation because of what it would remove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Earlier sources whose objects this one took over: what still names one of them is its own.
    /// Empty again when a commit has entered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formerly: Vec<String>,
    /// Nobody follows this source any more: what that means for its objects, and the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfollowed: Option<String>,
    /// Why the fetched commit has not entered yet although nothing is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converged: Option<Convergence>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// The full hex id.
    pub id: String,
    /// The first line of the message, bounded to 200 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// When this fact became true here (fetched, applied, refused): not the author's clock.
    pub at: Time,
}

/// One thing wrong with a commit, at a place a person can open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Inside the repository; empty for a problem of the whole commit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// 1-based; 0 is unknown.
    #[serde(default)]
    pub line: u32,
    #[serde(default)]
    pub column: u32,
    /// `spec.template.spec.containers[0].image`
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// `Deployment web/frontend`, where the document got that far.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    pub message: String,
    /// The next step.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub commit: Commit,
    /// One sentence: what it would remove and how to confirm or undo it.
    pub reason: String,
    /// `Kind namespace/name`, bounded to 100.
    pub removes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Convergence {
    /// Does the world match the applied commit.
    pub converged: bool,
    /// Since when the answer is this one.
    pub since: Time,
    /// When it was last computed: an old verdict is shown as stale.
    pub checked_at: Time,
    /// The commit the verdict is about.
    pub commit: String,
    /// Workloads still on their way, one sentence each, bounded to 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
    pub open_drifts: u32,
}

/// Names the source that put an object into the store.
pub const SOURCE_ANNOTATION: &str = "ballast.dev/source";
/// `"false"` makes an object report-only: its drifts are shown and not healed.
pub const HEAL_ANNOTATION: &str = "ballast.dev/heal";

/// Whether an object is report-only.
pub fn is_report_only(meta: &ObjectMeta) -> bool {
    let annotations = meta.annotations.as_ref();
    annotations.and_then(|all| all.get(HEAL_ANNOTATION)).is_some_and(|value| value == "false")
}

impl k8s_openapi::Resource for Source {
    const API_VERSION: &'static str = "ballast.dev/v1alpha1";
    const GROUP: &'static str = "ballast.dev";
    const KIND: &'static str = "Source";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "sources";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for Source {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
