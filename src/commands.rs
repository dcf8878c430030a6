//! What the command line asks of a running daemon: `status` and `drift`, over its own API with the
//! client that others wrote. The words are pure functions of what was read.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::{GetParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use serde_json::json;

use crate::cli::Server;
use crate::object::age::human_age;
use crate::object::counted;
use crate::object::drift::{Drift, Phase};
use crate::object::source::{Commit, Source};
use crate::ranges::Written;

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{server:?} is no address such as http://127.0.0.1:7440")]
    Address { server: String },
    #[error("{path} cannot be used as a kubeconfig ({cause})")]
    Kubeconfig { path: PathBuf, cause: String },
    #[error(
        "the daemon at {server} wants a credential that counts: `ballast kubeconfig --role viewer` on its host prints one, give it with --kubeconfig"
    )]
    Unauthorized { server: String },
    #[error("the daemon at {server} refuses ({cause})")]
    Refused { server: String, cause: String },
    #[error("no daemon answers at {server}: is `ballast run` running? ({cause})")]
    Unreachable { server: String, cause: String },
}

/// A client of the daemon at `server`, with the credential of its kubeconfig where one is given.
///
/// # Errors
/// An address that is none; a kubeconfig that cannot be used.
pub async fn client(server: &Server) -> Result<kube::Client, AskError> {
    let wrong = || AskError::Address { server: server.to_string() };
    let mut config = match &server.kubeconfig {
        None => kube::Config::new(server.server.parse().map_err(|_| wrong())?),
        Some(path) => {
            let unusable = |error: KubeconfigError| AskError::Kubeconfig {
                path: path.clone(),
                cause: crate::telemetry::chain(&error),
            };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(file, &options).await.map_err(unusable)?
        }
    };
    // A bare host or port is a URI too; the client panics over one.
    if config.cluster_url.scheme().is_none() || config.cluster_url.host().is_none() {
        return Err(wrong());
    }
    config.connect_timeout = Some(std::time::Duration::from_secs(5));
    config.read_timeout = Some(std::time::Duration::from_secs(30));
    kube::Client::try_from(config).map_err(|_| wrong())
}

/// Every Source and Drift of the daemon.
///
/// # Errors
/// The daemon does not answer.
pub async fn ask(server: &Server) -> Result<(Vec<Source>, Vec<Drift>), AskError> {
    let client = client(server).await?;
    let unreachable = |error: kube::Error| not_asked(server, &error);
    let sources: kube::Api<Source> = kube::Api::all(client.clone());
    let drifts: kube::Api<Drift> = kube::Api::all(client);
    let all = ListParams::default();
    let sources = sources.list(&all).await.map_err(unreachable)?.items;
    Ok((sources, drifts.list(&all).await.map_err(unreachable)?.items))
}

/// The ranges by which the daemon admits Services.
///
/// # Errors
/// The daemon does not answer.
pub async fn written_ranges(server: &Server) -> Result<Written, AskError> {
    let question = kube::core::Request::new("/api/v1")
        .get("configuration", &GetParams::default())
        .expect("a path of our own makes a request");
    let answer = client(server).await?.request::<Written>(question).await;
    answer.map_err(|error| not_asked(server, &error))
}

/// A daemon that answers and refuses is running.
fn not_asked(server: &Server, error: &kube::Error) -> AskError {
    let (server, cause) = (server.to_string(), crate::telemetry::chain(error));
    match error {
        kube::Error::Api(status) if status.code == 401 => AskError::Unauthorized { server },
        kube::Error::Api(_) => AskError::Refused { server, cause },
        _ => AskError::Unreachable { server, cause },
    }
}

/// Whether every source that is followed is fetched, applied and converged.
pub fn is_converged(sources: &[Source]) -> bool {
    let is_followed =
        |source: &&Source| source.status.as_ref().is_none_or(|status| status.unfollowed.is_none());
    let whole = |source: &Source| {
        let Some(status) = &source.status else { return false };
        let id = |commit: &Option<Commit>| commit.as_ref().map(|commit| commit.id.clone());
        let applied = id(&status.applied);
        applied.is_some()
            && applied == id(&status.fetched)
            && status.converged.as_ref().is_some_and(|verdict| {
                verdict.converged && Some(&verdict.commit) == applied.as_ref()
            })
    };
    let mut followed = sources.iter().filter(is_followed).peekable();
    followed.peek().is_some() && followed.all(whole)
}

/// `ballast status` for people.
pub fn status_text(sources: &[Source], now: Timestamp) -> String {
    let mut text = String::new();
    if sources.is_empty() {
        text.push_str("no source yet\n");
    }
    for source in sources {
        let status = source.status.clone().unwrap_or_default();
        let name = source.metadata.name.clone().unwrap_or_default();
        let _ = writeln!(
            text,
            "{name}  {} · {} · {}",
            source.spec.url, source.spec.branch, source.spec.path
        );
        let commit = |commit: &Option<Commit>| {
            commit.as_ref().map_or_else(
                || "nothing yet".to_owned(),
                |commit| {
                    format!(
                        "{:.7} {} ({} ago)",
                        commit.id,
                        commit.subject,
                        human_age(commit.at.0, now)
                    )
                },
            )
        };
        if let Some(why) = &status.unfollowed {
            let _ = writeln!(text, "  Unfollowed {why}");
        }
        let _ = writeln!(text, "  Fetched    {}", commit(&status.fetched));
        if let Some(error) = &status.fetch_error {
            let _ = writeln!(text, "             the last fetch failed: {error}");
        }
        let _ = writeln!(text, "  Applied    {}", commit(&status.applied));
        if let Some(refused) = &status.refused {
            let _ = writeln!(
                text,
                "             {:.7} was refused, the applied commit runs on:",
                refused.id
            );
            for problem in &status.problems {
                let _ = writeln!(
                    text,
                    "               {}:{}:{} {}: {}",
                    problem.file, problem.line, problem.column, problem.field, problem.message
                );
            }
        }
        if let Some(why) = &status.delayed {
            let _ = writeln!(text, "             the fetched commit waits: {why}");
        }
        if let Some(held) = &status.held {
            let _ = writeln!(text, "             {:.7} is held: {}", held.commit.id, held.reason);
        }
        let verdict = status.converged.as_ref().map_or_else(
            || "not known yet".to_owned(),
            |verdict| {
                let word = if verdict.converged { "yes" } else { "not yet" };
                format!(
                    "{word}, {:.7}, for {}, {} (checked {} ago)",
                    verdict.commit,
                    human_age(verdict.since.0, now),
                    counted(verdict.open_drifts as usize, "open drift"),
                    human_age(verdict.checked_at.0, now)
                )
            },
        );
        let _ = writeln!(text, "  Converged  {verdict}");
        for line in status.converged.iter().flat_map(|verdict| &verdict.waiting_for) {
            let _ = writeln!(text, "             {line}");
        }
    }
    text
}

/// `ballast status --output json`.
pub fn status_json(sources: &[Source]) -> serde_json::Value {
    let fact = |source: &Source| {
        let status = source.status.clone().unwrap_or_default();
        json!({
            "name": source.metadata.name, "url": source.spec.url, "branch": source.spec.branch, "path": source.spec.path,
            "fetched": status.fetched, "fetchError": status.fetch_error, "applied": status.applied, "refused": status.refused,
            "unfollowed": status.unfollowed, "problems": status.problems, "held": status.held, "delayed": status.delayed, "converged": status.converged,
        })
    };
    json!({ "converged": is_converged(sources), "sources": sources.iter().map(fact).collect::<Vec<_>>() })
}

/// The Drifts to show, open ones first, the newest first among equals.
pub fn chosen(drifts: Vec<Drift>, all: bool) -> Vec<Arc<Drift>> {
    let mut chosen: Vec<Arc<Drift>> = drifts.into_iter().map(Arc::new).collect();
    chosen.retain(|drift| all || is_open(drift));
    chosen.sort_by_key(|drift| {
        (!is_open(drift), std::cmp::Reverse(drift.status.as_ref().map(|status| status.last_seen.0)))
    });
    chosen
}

pub fn is_open(drift: &Drift) -> bool {
    drift.status.as_ref().is_some_and(|status| status.phase == Phase::Open)
}

/// `ballast drift` for people: one paragraph a drift.
pub fn drift_text(drifts: &[Arc<Drift>], now: Timestamp) -> String {
    if drifts.is_empty() {
        return "no open drift (what is still on its way is none: see `ballast status`)\n"
            .to_owned();
    }
    let mut text = String::new();
    for drift in drifts {
        let spec = &drift.spec;
        let Some(status) = &drift.status else { continue };
        let key = crate::object::Key::new(spec.object.namespace.clone(), spec.object.name.clone());
        let _ = writeln!(
            text,
            "{} {key}  {:?} {:?}, {:?} since {}{}",
            spec.object.kind,
            spec.layer,
            spec.class,
            status.phase,
            human_age(status.since.0, now),
            if status.count > 1 { format!(", {} times", status.count) } else { String::new() }
        );
        let _ = writeln!(text, "  field   {}", spec.field);
        let origin = spec.origin.as_ref().map_or_else(String::new, |origin| {
            format!("   ({}:{}@{:.7})", origin.file, origin.line, origin.commit)
        });
        // Several rules of one chain stand one below the other.
        let value = |text: &Option<String>| {
            text.as_deref().unwrap_or("nothing").replace('\n', "\n          ")
        };
        let _ = writeln!(text, "  wanted  {}{origin}", value(&spec.wanted));
        let _ = writeln!(text, "  actual  {}", value(&spec.actual));
        if let Some(cause) = &status.cause {
            let _ = writeln!(text, "  cause   {cause}");
        }
        let message =
            status.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        let _ =
            writeln!(text, "  action  {}{message}", format!("{:?}", status.action).to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::source::{Convergence, SourceStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn converged_means_the_newest_commit() {
        let at = Time(Timestamp::UNIX_EPOCH);
        let commit = |id: &str| {
            Some(Commit {
                id: id.into(),
                subject: String::new(),
                author: String::new(),
                at: at.clone(),
            })
        };
        let verdict = Convergence {
            converged: true,
            since: at.clone(),
            checked_at: at.clone(),
            commit: "a".into(),
            waiting_for: vec![],
            open_drifts: 0,
        };
        let mut source = Source {
            status: Some(SourceStatus {
                fetched: commit("a"),
                applied: commit("a"),
                converged: Some(verdict),
                ..SourceStatus::default()
            }),
            ..Source::default()
        };
        assert!(is_converged(std::slice::from_ref(&source)));
        source.status.as_mut().expect("set").fetched = commit("b");
        assert!(
            !is_converged(std::slice::from_ref(&source)),
            "a fetched commit that is not applied"
        );
        assert!(!is_converged(&[]));
    }
}
