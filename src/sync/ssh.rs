//! Git over SSH through the `ssh` program, as git itself does it: whatever a host's owner has set up
//! for ssh holds (hashed and patterned `known_hosts`, certificates, agents, jump hosts), and its
//! security updates come with the system. A library inside this process would know a part of that.
//!
//! An unknown host key is refused, never trusted on first use; nobody is asked anything; nothing is
//! forwarded. The host and the user were checked when the address was read, and the path is quoted:
//! none of them can be an option or a command.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::sync::wire::Wire;
use crate::sync::wire_fault::{LOCKED, SshCall, WireFault, is_locked, of_ssh};

/// What the program says, kept for the sentence that tells why it failed.
const MOST_SAID: usize = 16 * 1024;

/// One repository on one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    pub user: String,
    pub host: String,
    pub port: u16,
    /// As the server's git takes it.
    pub path: String,
    /// Without one, ssh's own choice: its configuration, its agent, its default files.
    pub key: Option<PathBuf>,
    /// Without one, ssh's own files.
    pub known_hosts: Option<PathBuf>,
}

impl Ssh {
    /// Starts the conversation.
    ///
    /// # Errors
    /// The program is not there. Everything else is known when it ends, see [`Session::read`].
    pub fn open(&self, wire: Arc<Wire>) -> Result<Session, WireFault> {
        let started = wire.wait(async {
            let mut command = Command::new("ssh");
            command
                .args(self.arguments())
                // Its words are read below.
                .env("LC_ALL", "C")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true);
            command.spawn().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => WireFault::NoSshProgram,
                _ => WireFault::SshNotStarted { cause: error.to_string() },
            })
        });
        let mut child = started?;
        let (input, output, said) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(said)) = (input, output, said) else {
            unreachable!("all three are piped above")
        };
        Ok(Session {
            ssh: self.clone(),
            wire,
            child,
            input: Some(input),
            output,
            said: Said { from: said, text: Vec::new(), ended: false },
            listing: true,
        })
    }

    /// Everything that decides about trust is said here and wins over configuration files.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["-T", "-a", "-x"].map(OsString::from).into();
        let mut option = |text: String| arguments.extend(["-o".into(), text.into()]);
        for fixed in [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            // The file belongs to people: it is read, never written.
            "UpdateHostKeys=no",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "ControlMaster=no",
            "ControlPath=none",
            "ConnectTimeout=20",
            // A connection that a firewall forgot is noticed while the server prepares its answer.
            "ServerAliveInterval=10",
            "ServerAliveCountMax=2",
            "LogLevel=INFO",
        ] {
            option(fixed.to_owned());
        }
        if let Some(file) = &self.known_hosts {
            option(format!("UserKnownHostsFile={}", quoted(&file.to_string_lossy())));
            option("GlobalKnownHostsFile=/dev/null".to_owned());
        }
        if let Some(key) = &self.key {
            // No other key is shown to the server: it would learn who else we are.
            option("IdentitiesOnly=yes".to_owned());
            option("IdentityAgent=none".to_owned());
            arguments.extend(["-i".into(), key.into()]);
        }
        arguments.extend(["-p".into(), self.port.to_string().into()]);
        arguments.extend(["-l".into(), self.user.clone().into(), "--".into()]);
        arguments.push(self.bare_host().into());
        arguments.push(format!("git-upload-pack {}", shell_quoted(&self.path)).into());
        arguments
    }

    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    fn fault(&self, said: &[u8]) -> WireFault {
        let text = String::from_utf8_lossy(said);
        let key = self.key.as_ref().map(|key| key.display().to_string());
        let known_hosts = self.known_hosts.as_ref().map(|file| file.display().to_string());
        let call = SshCall {
            host: self.bare_host(),
            port: self.port,
            key: key.as_deref(),
            known_hosts: known_hosts.as_deref().unwrap_or("~/.ssh/known_hosts"),
        };
        match of_ssh(&text, call) {
            // In batch mode ssh passes over a locked key in silence.
            WireFault::KeyRefused { file: Some(file) }
                if std::fs::read_to_string(&file).is_ok_and(|text| is_locked(&text)) =>
            {
                WireFault::KeyUnusable { file, why: LOCKED }
            }
            fault => fault,
        }
    }
}

/// For ssh's configuration syntax, in which a blank ends a word and `%` begins a token.
fn quoted(path: &str) -> String {
    format!("\"{}\"", path.replace('%', "%%"))
}

/// One word for the login shell at the other end.
fn shell_quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''").replace('!', "'\\!'"))
}

/// The program while it runs; dropping it ends it.
pub struct Session {
    ssh: Ssh,
    wire: Arc<Wire>,
    child: Child,
    /// `None` when it is closed.
    input: Option<ChildStdin>,
    output: ChildStdout,
    said: Said,
    /// Nothing was asked for yet: the server lists its references.
    listing: bool,
}

/// What the program says on the side. It is read whenever something is waited for, so that a
/// talkative server never stands still before a full pipe.
struct Said {
    from: ChildStderr,
    text: Vec<u8>,
    ended: bool,
}

impl Said {
    /// Reads on; never done before the end.
    async fn collect(&mut self) {
        let mut part = [0; 1024];
        while !self.ended {
            match self.from.read(&mut part).await {
                Ok(0) | Err(_) => self.ended = true,
                Ok(length) => {
                    self.text.extend_from_slice(&part[..length]);
                    // The last words tell the reason.
                    let surplus = self.text.len().saturating_sub(MOST_SAID);
                    self.text.drain(..surplus);
                }
            }
        }
    }
}

impl Read for Session {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { wire, output, said, child, input, ssh, .. } = self;
        let length = wire.wait(async {
            let length = tokio::select! {
                biased;
                // Cancel safe: bytes are taken in one piece or stay in the pipe.
                length = output.read(buffer) => length.unwrap_or(0),
                () = async { said.collect().await; std::future::pending().await } => 0,
            };
            if length > 0 {
                return Ok(length);
            }
            // The end: how the program ended tells whether it was the end of an answer.
            drop(input.take());
            said.collect().await;
            match child.wait().await {
                Ok(status) if status.success() => Ok(0),
                _ => Err(ssh.fault(&said.text)),
            }
        })?;
        self.wire.count(length, self.listing)?;
        Ok(length)
    }
}

impl Write for Session {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.listing = false;
        let Self { wire, said, input, .. } = self;
        let Some(input) = input else { return Err(io::ErrorKind::BrokenPipe.into()) };
        // A closed pipe is told by the next read, with the reason beside it.
        let written = wire.wait(async {
            // Cancel safe: what was not written is not counted, and the conversation ends then.
            Ok(tokio::select! {
                biased;
                written = input.write(bytes) => written,
                () = async { said.collect().await; std::future::pending().await } => Ok(0),
            })
        })?;
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nobody waits for a program that was killed: it is waited for here, so that none is left
        // behind as a zombie. Killing cannot take long.
        let _ = self.child.start_kill();
        self.wire.reap(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_address_is_an_option_or_a_command() {
        let ssh = Ssh {
            user: "git".into(),
            host: "[::1]".into(),
            port: 2222,
            path: "/a'; touch /x; '".into(),
            key: Some("/keys/a b".into()),
            known_hosts: Some("/etc/known %h".into()),
        };
        let arguments: Vec<String> =
            ssh.arguments().into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let end = arguments.iter().position(|word| word == "--").expect("ends the options");
        assert_eq!(
            arguments[end + 1..],
            ["::1".to_owned(), "git-upload-pack '/a'\\''; touch /x; '\\'''".to_owned()]
        );
        for option in [
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "UserKnownHostsFile=\"/etc/known %%h\"",
        ] {
            assert!(arguments.contains(&option.to_owned()), "{option}: {arguments:?}");
        }
    }
}
