//! What the command line does with files: `validate`, and `plan` against a running daemon.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use serde_json::Value;

use crate::cli::Output;
use crate::commands;
use crate::object::source::Source;
use crate::object::{Key, Kind};
use crate::offline::{self, Wanted};

/// `ballast validate <path>`: exit 1 when anything is wrong.
///
/// # Errors
/// The path cannot be read at all.
pub async fn validate(path: &Path, output: Output) -> Result<ExitCode> {
    let report = offline::validate(path).await?;
    match output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{:#}", serde_json::to_value(&report)?),
    }
    Ok(ExitCode::from(u8::from(!report.is_valid())))
}

/// What `ballast plan` was asked.
#[derive(Clone, Debug)]
pub struct PlanQuestion {
    /// A folder on disk, or a commit, branch or tag of `repository`.
    pub path_or_ref: String,
    pub repository: Option<PathBuf>,
    /// The folder inside the repository.
    pub path: String,
    pub source: String,
    /// `None` compares with an empty cluster.
    pub server: Option<String>,
}

/// `ballast plan`: exit 0 for nothing, 1 for changes, 2 for problems.
///
/// # Errors
/// The manifests or the daemon cannot be read at all.
pub async fn plan(question: &PlanQuestion, output: Output) -> Result<ExitCode> {
    let wanted = match &question.repository {
        Some(repository) => Wanted::Commit {
            repository: repository.clone(),
            reference: question.path_or_ref.clone(),
            path: question.path.clone(),
        },
        None => Wanted::Files(PathBuf::from(&question.path_or_ref)),
    };
    let (source, live) = match &question.server {
        Some(server) => live(server, &question.source).await?,
        None => (None, Vec::new()),
    };
    let report = offline::plan_against(source, live, &wanted).await?;
    match output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{:#}", serde_json::to_value(&report)?),
    }
    Ok(ExitCode::from(report.exit_code()))
}

/// The source, every object of its inventory, and every namespace, as the daemon shows them.
async fn live(server: &str, name: &str) -> Result<(Option<Source>, Vec<Value>)> {
    let client = commands::client(server)?;
    let sources: Api<Source> = Api::all(client.clone());
    let source = sources
        .get_opt(name)
        .await
        .with_context(|| format!("no daemon answers at {server}; --empty compares with nothing"))?;
    let mut live = Vec::new();
    for namespace in Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await? {
        live.push(serde_json::to_value(namespace)?);
    }
    let status = source.as_ref().and_then(|source| source.status.as_ref());
    let entries = status.iter().flat_map(|status| status.inventory.iter());
    let wanted: BTreeSet<(Kind, Key)> = entries.map(|entry| (entry.kind, entry.key())).collect();
    for (kind, key) in wanted.into_iter().filter(|(kind, _)| *kind != Kind::Namespace) {
        let row = kind.row();
        let named = GroupVersionKind::gvk(row.group, row.version, row.name);
        let resource = ApiResource::from_gvk_with_plural(&named, row.plural);
        let api: Api<DynamicObject> = if row.namespaced {
            Api::namespaced_with(client.clone(), &key.namespace, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        if let Some(object) = api.get_opt(&key.name).await? {
            live.push(serde_json::to_value(object)?);
        }
    }
    Ok((source, live))
}
