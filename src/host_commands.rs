//! What the command line does on this host without a daemon: `trace` reads the rules, `reset` removes
//! what is ours after showing it.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::cli::Output;
use crate::daemon::Names;
use crate::network::iptables::Iptables;
use crate::network::kernel;
use crate::network::packet::{End, Host};
use crate::network::{reset as rules_reset, subnet, trace as walk};
use crate::node::docker::Docker;
use crate::node::reset as node_reset;
use crate::store::{OpenError, Sqlite, SqliteOptions};

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

/// `ballast reset`: shows, asks, removes.
///
/// # Errors
/// A daemon that still runs; the first thing that could not be removed. Running it again goes on.
pub async fn reset(
    installation: &str,
    data_dir: &Path,
    docker: &str,
    yes: bool,
) -> Result<ExitCode> {
    let names = Names::of(installation);
    refuse_running(data_dir)?;
    let iptables = Iptables::keeping_sysctls();
    let rules = match kernel::observe(&iptables).await {
        Ok(tables) => rules_reset::plan(&names.chains, &tables),
        Err(error) if error.is_lasting() => {
            eprintln!("ballast: rules are left as they are: {error}");
            rules_reset::ResetPlan::default()
        }
        Err(error) => return Err(error).context("the rules cannot be read"),
    };
    let engine = Docker::new(docker);
    let containers = node_reset::find(&engine, installation)
        .await
        .context("the engine cannot be read; nothing was removed")?;
    let has_data = data_dir.exists();
    if rules.is_empty() && containers.containers.is_empty() && !has_data {
        println!("nothing of installation {installation} is on this host");
        return Ok(ExitCode::SUCCESS);
    }
    println!("Installation {installation} on this host:");
    for (id, name) in &containers.containers {
        println!("container {id:.12} {name}");
    }
    println!("network {}", names.network);
    print!("{rules}");
    if has_data {
        println!("directory {}", data_dir.display());
    }
    if !yes && !asked("Remove all of it? Workloads stop and their scratch data is lost.")? {
        println!("nothing was removed");
        return Ok(ExitCode::FAILURE);
    }
    // Rules first: no new connection may be sent to a container that is about to go.
    rules_reset::perform(&iptables, &rules)
        .await
        .context("rules could not be removed; run it again")?;
    node_reset::remove(&engine, &containers, &names.network, data_dir)
        .await
        .context("containers could not be removed; run it again")?;
    if has_data {
        std::fs::remove_dir_all(data_dir)
            .with_context(|| format!("{} could not be removed", data_dir.display()))?;
    }
    println!("removed");
    Ok(ExitCode::SUCCESS)
}

/// Two writers of one installation would fight.
fn refuse_running(data_dir: &Path) -> Result<()> {
    let store = data_dir.join("store.db");
    if !store.exists() {
        return Ok(());
    }
    // What else may be wrong with the file does not matter: it is about to be removed.
    match Sqlite::open(&store, SqliteOptions::default()) {
        Err(OpenError::InUse { .. }) => {
            bail!("a daemon is running on {}: stop it first", data_dir.display())
        }
        _ => Ok(()),
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
