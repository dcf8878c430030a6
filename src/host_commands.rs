//! What the command line does on this host without a daemon: `trace` reads the rules, `reset` removes
//! what is ours after showing it.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::cli::Output;
use crate::config::DATA_DIR;
use crate::home::{self, Found, Mark};
use crate::installation::{self, Names};
use crate::network::iptables::Iptables;
use crate::network::kernel;
use crate::network::packet::{End, Host};
use crate::network::{reset as rules_reset, subnet, trace as walk};
use crate::node::docker::Docker;
use crate::node::reset::{self as node_reset, Belongings};
use crate::node::runtime::RuntimeError;
use crate::object::name::label_faults;
use crate::store;

/// `ballast trace <from> <to:port>`: exit 0 when the packet arrives somewhere.
///
/// # Errors
/// A side that cannot be read; rules that cannot be read.
pub async fn trace(from: &str, to: &str, output: Output) -> Result<ExitCode> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let host = Host { addresses: subnet::parse_local_addresses(&read("/proc/net/fib_trie")) };
    let packet = walk::question(from, to, &host)?;
    let tables = kernel::observe(&Iptables::new()).await.context("the rules cannot be read")?;
    let told = walk::trace(&tables, packet, &host, BTreeMap::new());
    match output {
        Output::Text => print!("{told}"),
        Output::Json => println!("{:#}", serde_json::to_value(&told)?),
    }
    Ok(ExitCode::from(u8::from(!arrives(&told))))
}

/// Nobody loses a database to a command that promises a clean host.
const STAYS: &str = "The data of claims stays: --delete-volumes removes it too.\n";

/// `ballast reset`: shows, asks, removes.
///
/// # Errors
/// A daemon that still runs; a directory of somebody else; the first thing that could not be
/// removed. Running it again goes on.
pub async fn reset(
    installation: Option<&str>,
    data_dir: Option<&Path>,
    docker: &str,
    yes: bool,
    delete_volumes: bool,
) -> Result<ExitCode> {
    // Shown before it is removed: nobody should have to guess from where it is meant.
    let dir = &std::path::absolute(data_dir.unwrap_or(Path::new(DATA_DIR)))
        .context("--data-dir is no path")?;
    let Scope { installation, directory, note } =
        scope(installation, data_dir.is_some(), dir, &home::look(dir)?)?;
    // Both are held until everything is gone: nobody starts meanwhile.
    let _lock = installation::lock(&installation, docker)?;
    let _store = if directory { Some(store::hold(&dir.join("store.db"))?) } else { None };
    let (engine, iptables) = (Docker::new(docker), Iptables::keeping_sysctls());
    let names = Names::of(&installation);
    let rules = match kernel::observe(&iptables).await {
        Ok(tables) => rules_reset::plan(&names.chains, &tables),
        Err(error) if error.is_lasting() => {
            eprintln!("ballast: rules are left as they are: {error}");
            rules_reset::ResetPlan::default()
        }
        Err(error) => return Err(error).context("the rules cannot be read"),
    };
    let claims = directory.then_some(&**dir);
    let belongings = match node_reset::find(&engine, &installation, claims).await {
        Ok(found) => Some(found),
        Err(RuntimeError::Unreachable(why)) => {
            eprintln!("ballast: containers and networks are not known: {why}");
            None
        }
        Err(error) => return Err(error).context("the engine cannot be read; nothing was removed"),
    };
    if let Some(note) = note {
        println!("{note}");
    }
    let nothing = |found: &Belongings| found.is_empty() && !(delete_volumes && found.has_data());
    if rules.is_empty() && !directory && belongings.as_ref().is_some_and(nothing) {
        if let Some(found) = belongings.as_ref().filter(|found| found.has_data()) {
            print!("{}{STAYS}", found.data(dir));
        }
        println!("nothing of installation {installation} is on this host");
        return Ok(ExitCode::SUCCESS);
    }
    println!("Installation {installation} on this host:");
    if let Some(found) = &belongings {
        print!("{found}");
    }
    print!("{rules}");
    if directory && belongings.is_some() {
        println!("directory {}", dir.display());
    }
    let data = belongings.as_ref().filter(|found| found.has_data());
    if let Some(found) = data {
        print!("{}", found.data(dir));
    }
    let question = match data {
        None => "Remove all of it? Workloads stop and their scratch data is lost.",
        Some(_) if delete_volumes => {
            "Remove all of it? Workloads stop and their data is lost, that of their claims too."
        }
        Some(_) => {
            print!("{STAYS}");
            "Remove the rest of it? Workloads stop and their scratch data is lost."
        }
    };
    if !yes && !asked(question)? {
        println!("nothing was removed");
        return Ok(ExitCode::FAILURE);
    }
    // Rules first: no new connection may be sent to a container that is about to go.
    rules_reset::perform(&iptables, &rules)
        .await
        .context("rules could not be removed; run it again")?;
    let Some(found) = belongings else {
        // The volumes may be in use, and the directory says whose the containers are.
        bail!(
            "the rules are removed; containers, networks and the data directory stay until Docker answers: start it and run this again"
        );
    };
    node_reset::remove(&engine, &found, directory.then_some(dir), delete_volumes)
        .await
        .context("containers could not be removed; run it again")?;
    if directory && let Some(why) = home::remove(dir)? {
        println!("{} itself stays: {why}", dir.display());
    }
    println!("removed");
    Ok(ExitCode::SUCCESS)
}

/// What a reset is about.
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    installation: String,
    /// The data directory goes too.
    directory: bool,
    /// Why it stays.
    note: Option<String>,
}

/// Ties the installation to the data directory: what a person names must be one thing. `named`: the
/// directory was given, and is not merely the default one.
fn scope(installation: Option<&str>, named: bool, dir: &Path, found: &Found) -> Result<Scope> {
    if let Some(fault) = installation.and_then(|text| label_faults(text).into_iter().next()) {
        bail!("--installation: {fault}");
    }
    let place = dir.display();
    let alone = |note: Option<String>| {
        let installation = installation.unwrap_or(installation::DEFAULT).to_owned();
        Ok(Scope { installation, directory: false, note })
    };
    match found {
        Found::Marked(mark) if installation.is_none_or(|given| given == mark.installation) => {
            Ok(Scope { installation: mark.installation.clone(), directory: true, note: None })
        }
        Found::Marked(Mark { installation: owner, .. }) if named => bail!(
            "{place} belongs to installation {owner}: give --installation {owner}, or the directory of the one you mean; nothing was removed"
        ),
        Found::Marked(Mark { installation: owner, .. }) => {
            alone(Some(format!("directory {place} stays: it belongs to installation {owner}")))
        }
        Found::Nothing if named && installation.is_none() => bail!(
            "there is no data directory at {place}: give --installation to remove the containers and rules of one whose directory is gone; nothing was removed"
        ),
        Found::Nothing => alone(None),
        Found::Unmarked | Found::Foreign(_) if named => bail!(
            "{place} does not say that it is Ballast's (it has no installation.json): remove it by hand if it is; nothing was removed"
        ),
        Found::Unmarked | Found::Foreign(_) => {
            alone(Some(format!("directory {place} stays: it does not say that it is Ballast's")))
        }
    }
}

fn asked(question: &str) -> Result<bool> {
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Whether every way the packet may take ends at somebody who can answer.
fn arrives(trace: &walk::Trace) -> bool {
    trace.fates.iter().all(|fate| matches!(fate.end, End::Forwarded(_) | End::Local(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_for(
        installation: Option<&str>,
        named: bool,
        found: &Found,
    ) -> Result<(String, bool), String> {
        scope(installation, named, Path::new("/d"), found)
            .map(|scope| (scope.installation, scope.directory))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_directory_goes_only_with_the_installation_that_is_written_in_it() {
        let shops =
            Found::Marked(Mark { installation: "shop".to_owned(), node_name: "h".to_owned() });
        let shop = |directory| Ok(("shop".to_owned(), directory));
        assert_eq!(asked_for(None, true, &shops), shop(true));
        assert_eq!(asked_for(None, false, &shops), shop(true), "the default directory says whose");
        assert_eq!(asked_for(Some("shop"), true, &shops), shop(true));
        // Another installation's things never take this one's store along.
        assert_eq!(asked_for(Some("demo"), false, &shops), Ok(("demo".to_owned(), false)));
        let told = asked_for(Some("demo"), true, &shops).expect_err("two things");
        assert!(told.contains("belongs to installation shop"), "{told}");
    }

    #[test]
    fn what_does_not_say_whose_it_is_stays() {
        for found in [Found::Foreign("thesis.tex".to_owned()), Found::Unmarked] {
            assert!(asked_for(Some("default"), true, &found).is_err());
            assert_eq!(asked_for(None, false, &found), Ok(("default".to_owned(), false)));
        }
        // A mistyped directory does not mean the installation that everybody has.
        assert!(asked_for(None, true, &Found::Nothing).is_err());
        assert_eq!(asked_for(Some("shop"), true, &Found::Nothing), Ok(("shop".to_owned(), false)));
        assert_eq!(asked_for(None, false, &Found::Nothing), Ok(("default".to_owned(), false)));
        assert!(asked_for(Some("../etc"), false, &Found::Nothing).is_err());
    }
}
