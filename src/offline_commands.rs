//! What the command line does with files: `validate`, and `plan` against a running daemon.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};

use crate::cli::{self, Output};
use crate::commands;
use crate::config::{self, ConfigFaults};
use crate::object::inventory::Inventory;
use crate::object::privilege::{self, WrittenAll};
use crate::object::source::Source;
use crate::object::{Key, Kind};
use crate::offline::{self, Followed, Wanted};
use crate::ranges::{self, Ranges, Written};
use crate::sync::git::GitError;
use crate::sync::objects::Objects;

/// `ballast validate <path>`: exit 1 when anything is wrong.
///
/// # Errors
/// The path or the config file cannot be read at all.
pub async fn validate(path: &Path, flags: &cli::Ranges, output: Output) -> Result<ExitCode> {
    let report = offline::validate(path, &ranges(flags, None)?).await?;
    match output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{:#}", serde_json::to_value(&report)?),
    }
    Ok(ExitCode::from(u8::from(!report.is_valid())))
}

/// What `ballast plan` was asked.
#[derive(Clone, Debug)]
pub struct PlanQuestion {
    /// A folder or file on disk; what is none is a commit, branch or tag.
    pub path_or_ref: String,
    /// `None`: the one around the working directory.
    pub repository: Option<PathBuf>,
    /// The folder inside the repository; `None`: the source's.
    pub path: Option<String>,
    pub source: String,
    pub ranges: cli::Ranges,
    /// `None` compares with an empty cluster.
    pub server: Option<cli::Server>,
}

/// `ballast plan`: exit 0 for nothing, 1 for changes, 2 for problems.
///
/// # Errors
/// The manifests or the daemon cannot be read at all.
pub async fn plan(question: &PlanQuestion, output: Output) -> Result<ExitCode> {
    let repository = repository(question)?;
    let (followed, daemon) = match &question.server {
        Some(server) => {
            let origin = format!("of the daemon at {server}");
            let followed = followed(server, &question.source).await?;
            (followed, Some((origin, commands::written_ranges(server).await?)))
        }
        None => (Followed::default(), None),
    };
    let wanted = match repository {
        Some(repository) => {
            let of_source = followed.source.as_ref().map(|source| source.spec.path.clone());
            let path = question.path.clone().or(of_source).unwrap_or_else(|| ".".to_owned());
            Wanted::Commit { repository, reference: question.path_or_ref.clone(), path }
        }
        None => Wanted::Files(PathBuf::from(&question.path_or_ref)),
    };
    let ranges = ranges(&question.ranges, daemon)?;
    let report = offline::plan_against(followed, &wanted, &ranges).await?;
    match output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{:#}", serde_json::to_value(&report)?),
    }
    Ok(ExitCode::from(report.exit_code()))
}

/// The repository whose commit is meant; `None`: files on disk are.
fn repository(question: &PlanQuestion) -> Result<Option<PathBuf>> {
    let PlanQuestion { path_or_ref, repository, path, .. } = question;
    if repository.is_some() {
        return Ok(repository.clone());
    }
    if Path::new(path_or_ref).exists() {
        if path.is_some() {
            bail!(
                "--path is the folder inside a commit, and {path_or_ref:?} is a path on disk: give the folder itself, or --repository with a commit, branch or tag"
            );
        }
        return Ok(None);
    }
    let here = std::env::current_dir().context("the working directory is gone")?;
    let Some(around) = here.ancestors().find(|folder| offline::is_repository(folder)) else {
        bail!(
            "there is no path {path_or_ref:?}; if it is a commit, branch or tag, say of which repository: --repository <folder>"
        );
    };
    match Objects::open(around)?.resolve(path_or_ref) {
        Ok(_) => Ok(Some(around.to_owned())),
        Err(GitError::NoCommit { .. }) => bail!(
            "there is no path {path_or_ref:?}, and it names no commit, branch or tag of the repository at {}; another one is given with --repository <folder>",
            around.display()
        ),
        Err(error) => Err(error.into()),
    }
}

/// A flag wins over the config file, the file over the daemon, the daemon over the defaults.
fn ranges(flags: &cli::Ranges, daemon: Option<(String, Written)>) -> Result<Ranges> {
    let (mut allow, mut faults) = (WrittenAll::new(), Vec::new());
    privilege::Flags::from(flags.allow.clone()).add_to(&mut allow, &mut faults);
    if !faults.is_empty() {
        return Err(ConfigFaults(faults).into());
    }
    let (service_cidr, node_ports) = (flags.service_cidr.clone(), flags.node_ports.clone());
    let by_flag = Written { service_cidr, node_ports, allow };
    let mut written = vec![("given on the command line".to_owned(), by_flag)];
    if let Some(path) = &flags.config {
        let file = config::read(path)?;
        let config::ConfigFile { service_cidr, node_ports, allow, .. } = file;
        let by_file = Written { service_cidr, node_ports, allow };
        written.push((format!("of {}", path.display()), by_file));
    }
    written.extend(daemon);
    Ok(ranges::choose(&written).map_err(ConfigFaults)?)
}

/// The source, every object of its inventory, and every namespace, as the daemon shows them.
async fn followed(server: &cli::Server, name: &str) -> Result<Followed> {
    let client = commands::client(server).await?;
    let sources: Api<Source> = Api::all(client.clone());
    let source = sources
        .get_opt(name)
        .await
        .with_context(|| format!("no daemon answers at {server}; --empty compares with nothing"))?;
    let mut live = Vec::new();
    for namespace in Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await? {
        live.push(serde_json::to_value(namespace)?);
    }
    let inventory = Api::<Inventory>::all(client.clone()).get_opt(name).await?;
    let inventory = inventory.map(|inventory| inventory.objects).unwrap_or_default();
    let wanted: BTreeSet<(Kind, Key)> =
        inventory.iter().map(|entry| (entry.kind, entry.key())).collect();
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
    Ok(Followed { source, inventory, live })
}
