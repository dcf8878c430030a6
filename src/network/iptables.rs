//! The iptables programs, the one place that runs them. Bulk goes through `iptables-restore
//! --noflush`; the `iptables` crate keeps the jumps in chains that are not ours.
//!
//! A small text goes through a [`RestoreSession`]: a new process a change costs more than the change.
//!
//! A host has up to two packet filters behind the same name: `nf_tables` and `legacy`. Rules in the
//! one that Docker does not use would be judged in an order nobody can see, so the variant that
//! holds Docker's chains is taken, and where there is no Docker the host's default.

use std::io::ErrorKind;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tracing::{debug, info, warn};

use super::bridge;
use super::generation;
use super::kernel::{BridgeFacts, Kernel, KernelError};
use super::restore_session::RestoreSession;
use super::restore_text::{Flow, JumpStep};
use super::rule::Table;
use super::ruleset::Jump;
use super::tables::Tables;

/// 20,000 rules load in 5 s on the slowest machine measured; more than that is a hanging lock.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds to wait for another program's lock, as kube-proxy does.
const LOCK_SECONDS: &str = "5";
/// The programs' exit status when another has the lock (`RESOURCE_PROBLEM`).
const LOCKED: i32 = 4;
/// Chains that a text does not name stay as they are.
const RESTORE: [&str; 3] = ["-w", LOCK_SECONDS, "--noflush"];
/// A restore reads this much without a pause: the pipe holds it. Bulk has a program of its own, whose
/// memory ends with it.
const SESSION_BYTES: usize = 64 << 10;
/// Legacy tables that are in use; reading it loads none, unlike running `iptables-legacy`.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

/// The programs of this host. Cheap to clone; they are looked for once.
#[derive(Clone, Debug, Default)]
pub struct Iptables(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Filled at the start where the variant was chosen by hand.
    programs: OnceCell<Programs>,
    /// Kernel parameters are left as they are.
    keep_sysctls: bool,
    no_conntrack_said: AtomicBool,
    /// Taken out while it is used: whoever comes meanwhile runs a program of its own.
    session: Mutex<Option<RestoreSession>>,
    /// The program does not answer (iptables before 1.8.5), or it is legacy's, which rewrites the whole
    /// table for every text: there is nothing to save.
    no_session: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Programs {
    variant: &'static str,
    iptables: &'static str,
    restore: &'static str,
    save: &'static str,
}

const NFT: Programs = Programs {
    variant: "nf_tables",
    iptables: "iptables-nft",
    restore: "iptables-nft-restore",
    save: "iptables-nft-save",
};
const LEGACY: Programs = Programs {
    variant: "legacy",
    iptables: "iptables-legacy",
    restore: "iptables-legacy-restore",
    save: "iptables-legacy-save",
};
const PLAIN: Programs = Programs {
    variant: "default",
    iptables: "iptables",
    restore: "iptables-restore",
    save: "iptables-save",
};

impl Iptables {
    pub fn new() -> Self {
        Self::default()
    }

    /// Rules only: the host's kernel parameters are somebody else's business. Service traffic
    /// between pods of one bridge is then masqueraded where the host does not filter bridges.
    pub fn keeping_sysctls() -> Self {
        Self(Arc::new(Inner { keep_sysctls: true, ..Inner::default() }))
    }

    /// `nf_tables` or `legacy`, whatever Docker uses; `None` for any other word.
    pub fn of_variant(variant: &str) -> Option<Self> {
        let programs = [NFT, LEGACY].into_iter().find(|programs| programs.variant == variant)?;
        Some(Self(Arc::new(Inner {
            programs: OnceCell::new_with(Some(programs)),
            ..Inner::default()
        })))
    }

    async fn programs(&self) -> Result<Programs, KernelError> {
        self.0.programs.get_or_try_init(find).await.copied()
    }

    /// Whether a session took the text. `false`: a program of its own has to, and says why if it
    /// cannot.
    async fn restore_in_session(
        &self,
        programs: Programs,
        text: &str,
    ) -> Result<bool, KernelError> {
        if programs.variant != NFT.variant || self.0.no_session.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let kept = self.0.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut session = match kept {
            Some(session) => session,
            None => {
                let arguments = [&RESTORE[..], &["--verbose"]].concat();
                match RestoreSession::begin(programs.restore, &arguments).await {
                    Ok(session) => session,
                    Err(error) => {
                        info!(%error, "{} does not answer comments, one is run a change", programs.restore);
                        self.0.no_session.store(true, Ordering::Relaxed);
                        return Ok(false);
                    }
                }
            }
        };
        match tokio::time::timeout(TIMEOUT, session.restore(text)).await {
            Ok(Ok(())) => {
                *self.0.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
                Ok(true)
            }
            Ok(Err(error)) => {
                debug!(%error, "restore session ended");
                Ok(false)
            }
            Err(_) => Err(KernelError::TimedOut {
                program: programs.restore.to_owned(),
                seconds: TIMEOUT.as_secs(),
            }),
        }
    }
}

impl Kernel for Iptables {
    async fn probe(&self) -> Result<String, KernelError> {
        let programs = self.programs().await?;
        let arguments = ["-w", LOCK_SECONDS, "-t", "nat", "-S", "PREROUTING"];
        run(programs.iptables, &arguments, None).await?;
        Ok(programs.variant.to_owned())
    }

    async fn prepare(&self, name: &str) -> BridgeFacts {
        bridge::prepare(name, self.0.keep_sysctls).await
    }

    async fn generation(&self) -> Option<u32> {
        let programs = self.programs().await.ok()?;
        (programs.variant == NFT.variant).then(generation::generation).flatten()
    }

    async fn save(&self, table: Table) -> Result<Tables, KernelError> {
        let programs = self.programs().await?;
        let text = run(programs.save, &["-t", table.as_str()], None).await?;
        if let Some(line) = text.lines().find(|line| line.contains("' is incompatible, use")) {
            // iptables-nft prints this in place of a table that nft itself wrote to.
            let (program, message) = (programs.save.to_owned(), line.to_owned());
            return Err(KernelError::Failed { program, message });
        }
        // Parsing 25,000 rules takes tens of milliseconds: not on the loop's thread.
        let parsed = tokio::task::spawn_blocking(move || Tables::parse_save(&text)).await;
        Ok(parsed.expect("the parser cannot fail"))
    }

    async fn list(&self, table: Table, chains: &[String]) -> Result<Tables, KernelError> {
        let programs = self.programs().await?;
        let mut found = Tables::default();
        for chain in chains {
            let arguments = ["-w", LOCK_SECONDS, "-t", table.as_str(), "-S", chain];
            match run(programs.iptables, &arguments, None).await {
                Ok(text) => {
                    let part = Tables::parse_listing(table, &text);
                    found.chains.extend(part.chains);
                    found.policies.extend(part.policies);
                }
                Err(KernelError::Failed { message, .. }) if is_no_chain(&message) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn restore(&self, text: &str) -> Result<(), KernelError> {
        let programs = self.programs().await?;
        if text.len() <= SESSION_BYTES && self.restore_in_session(programs, text).await? {
            return Ok(());
        }
        run(programs.restore, &RESTORE, Some(text)).await?;
        Ok(())
    }

    async fn jump(&self, step: &JumpStep) -> Result<(), KernelError> {
        let programs = self.programs().await?;
        let step = step.clone();
        let doing = tokio::task::spawn_blocking(move || jump(programs, &step));
        match tokio::time::timeout(TIMEOUT, doing).await {
            Ok(done) => done.expect("the iptables crate returns its errors"),
            Err(_) => Err(KernelError::TimedOut {
                program: programs.iptables.to_owned(),
                seconds: TIMEOUT.as_secs(),
            }),
        }
    }

    async fn forget(&self, flow: &Flow) -> Result<(), KernelError> {
        let mut arguments: Vec<String> = ["-D", "-p", "udp"].map(str::to_owned).to_vec();
        arguments.extend(match flow {
            Flow::ToEndpoint(to) => {
                vec![
                    "--reply-src".into(),
                    to.ip().to_string(),
                    "--reply-port-src".into(),
                    to.port().to_string(),
                ]
            }
            Flow::ToService(to) => {
                vec![
                    "--orig-dst".into(),
                    to.ip().to_string(),
                    "--orig-port-dst".into(),
                    to.port().to_string(),
                ]
            }
            Flow::ToNodePort(port) => vec!["--orig-port-dst".into(), port.to_string()],
        });
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match run("conntrack", &arguments, None).await {
            Ok(_) => Ok(()),
            // conntrack's answer when nothing matched, with exit status 1.
            Err(KernelError::Failed { message, .. }) if message.contains("0 flow entries") => {
                Ok(())
            }
            Err(error @ KernelError::Missing { .. }) => {
                if !self.0.no_conntrack_said.swap(true, Ordering::Relaxed) {
                    warn!(%error, "udp clients of a removed endpoint keep sending to it");
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// The variant that Docker's chains are in; else the host's default.
async fn find() -> Result<Programs, KernelError> {
    let legacy_in_use = tokio::fs::read_to_string(LEGACY_TABLES)
        .await
        .is_ok_and(|tables| !tables.trim().is_empty());
    for (programs, in_use) in [(NFT, true), (LEGACY, legacy_in_use)] {
        let arguments = ["-w", LOCK_SECONDS, "-t", "nat", "-S", "DOCKER"];
        if in_use && run(programs.iptables, &arguments, None).await.is_ok() {
            info!(variant = programs.variant, "docker's chains found");
            return Ok(programs);
        }
    }
    let version = run(PLAIN.iptables, &["--version"], None).await?;
    let named = if version.contains("nf_tables") { NFT } else { LEGACY };
    let programs = match run(named.iptables, &["--version"], None).await {
        Ok(_) => named,
        // Old packages have only the plain names.
        Err(_) => Programs { variant: named.variant, ..PLAIN },
    };
    info!(variant = programs.variant, "no chains of docker's; the host's default variant is used");
    Ok(programs)
}

/// A chain that is not there, in the words of both variants. iptables-nft 1.8.9 calls a chain that
/// does not exist "incompatible".
fn is_no_chain(message: &str) -> bool {
    ["No chain/target/match", "does not exist", "is incompatible"]
        .iter()
        .any(|words| message.contains(words))
}

fn jump(programs: Programs, step: &JumpStep) -> Result<(), KernelError> {
    let failed = |error: Box<dyn std::error::Error>| KernelError::Failed {
        program: programs.iptables.to_owned(),
        message: error.to_string().trim().to_owned(),
    };
    let mut filter = iptables::new(false).map_err(failed)?;
    filter.cmd = programs.iptables;
    // The crate's `--wait` has no end, and iptables-legacy without it has none either: who hangs
    // with the lock would stop the loop for good. Each command says itself how long it waits.
    filter.has_wait = false;
    let (Jump { from, rule }, insert) = match step {
        JumpStep::Insert(jump) | JumpStep::MoveToFront(jump) => (jump, true),
        JumpStep::Delete(jump) => (jump, false),
    };
    let (table, chain, rule) = (from.table.as_str(), from.name.as_str(), rule.to_string());
    let run = |command: String| -> Result<(ExitStatus, String), KernelError> {
        let command = format!("-w {LOCK_SECONDS} {command}");
        let output = filter.execute(table, &command).map_err(failed)?;
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok((output.status, message))
    };
    let done = |command: String| -> Result<(), KernelError> {
        match run(command)? {
            (status, _) if status.success() => Ok(()),
            (_, message) => Err(failed(message.into())),
        }
    };
    // Out first: a second copy in front would make the deletion take the wrong one. Between the
    // two, some milliseconds of new connections miss our chains.
    loop {
        match run(format!("-C {chain} {rule}"))? {
            (status, _) if status.success() => done(format!("-D {chain} {rule}"))?,
            (status, message) if status.code() == Some(LOCKED) => {
                return Err(failed(message.into()));
            }
            _ => break,
        }
    }
    if insert {
        done(format!("-I {chain} 1 {rule}"))?;
    }
    Ok(())
}

/// Runs a program to its end and returns what it printed.
async fn run(
    program: &str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<String, KernelError> {
    let name = || program.to_owned();
    let failed = |message: String| KernelError::Failed { program: name(), message };
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                KernelError::Missing { program: name(), package: package(program) }
            }
            ErrorKind::PermissionDenied => KernelError::NotPermitted { program: name() },
            _ => failed(error.to_string()),
        })?;
    let pipe = child.stdin.take();
    let feed = async {
        if let (Some(mut pipe), Some(text)) = (pipe, input) {
            // A program that stops reading says why on standard error; that is the error to show.
            let _ = pipe.write_all(text.as_bytes()).await;
        }
    };
    let ended = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(TIMEOUT, ended)
        .await
        .map_err(|_| KernelError::TimedOut { program: name(), seconds: TIMEOUT.as_secs() })?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let refused = ["Permission denied", "Operation not permitted", "you must be root"];
    if refused.iter().any(|words| message.contains(words)) {
        return Err(KernelError::NotPermitted { program: name() });
    }
    Err(failed(if message.is_empty() { output.status.to_string() } else { message }))
}

/// Debian's and Ubuntu's package of a program.
fn package(program: &str) -> &'static str {
    match program {
        "conntrack" => "conntrack",
        "ip" => "iproute2",
        _ => "iptables",
    }
}
