//! A restore program that stays: texts go in one after the other, and each is answered when the
//! kernel has taken it.
//!
//! Starting `iptables-nft-restore` and letting it end costs more than a small change itself. It has
//! to be loaded with its extensions, and the kernel lets nobody close a netlink socket before what
//! the last transaction removed is freed, which takes a grace period of RCU: about 10 ms on an idle
//! machine, after the packets already go where they should. With `--verbose` the program repeats
//! comments on its standard output and flushes it (since 1.8.5), and it commits a table before it
//! reads on: the comment behind a text is its answer.
//!
//! It is an accelerator and nothing else. Whatever goes wrong in a session, a refused text above
//! all, ends it, and the caller gives the same text to a program of its own: a text is complete in
//! itself, so that taking it twice is taking it once.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A program that repeats no comment within this long is one that never does.
const GREETING: Duration = Duration::from_secs(2);

/// A running program, and how many texts it has taken.
#[derive(Debug)]
pub struct RestoreSession {
    /// Killed when the session is dropped.
    _program: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    texts: u64,
}

impl RestoreSession {
    /// Starts the program. Its complaints go nowhere: who gets none of its answers asks another one.
    ///
    /// # Errors
    /// It cannot be started, or it does not answer.
    pub async fn begin(program: &str, arguments: &[&str]) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).expect("both are piped");
        let output = BufReader::new(output).lines();
        let mut session = Self { _program: child, input, output, texts: 0 };
        tokio::time::timeout(GREETING, session.restore("")).await??;
        Ok(session)
    }

    /// Gives one text, whole tables each ending in `COMMIT`, and waits until it is taken.
    ///
    /// # Errors
    /// The program ended: it refused the text, or somebody ended it. The session is of no more use.
    pub async fn restore(&mut self, text: &str) -> io::Result<()> {
        self.texts += 1;
        let answer = format!("# taken {}", self.texts);
        self.input.write_all(format!("{text}{answer}\n").as_bytes()).await?;
        self.input.flush().await?;
        while let Some(line) = self.output.next_line().await? {
            if line == answer {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for the program: it repeats comments, and ends at a text that it does not like.
    const ECHO: [&str; 2] =
        ["-c", "while read -r l; do case $l in '#'*) echo \"$l\";; bad*) exit 2;; esac; done"];

    #[tokio::test]
    async fn a_text_is_answered_and_a_refused_one_ends_the_session() {
        let mut session = RestoreSession::begin("sh", &ECHO).await.expect("sh is there");
        session.restore("*nat\nCOMMIT\n").await.expect("taken");
        session.restore("*nat\n# taken 2\nCOMMIT\n").await.expect("taken");
        session.restore("bad\n").await.expect_err("refused");
        session.restore("*nat\nCOMMIT\n").await.expect_err("ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_without_answers_is_not_used() {
        RestoreSession::begin("sh", &["-c", "cat >/dev/null"]).await.expect_err("silent");
        RestoreSession::begin("no-such-program", &[]).await.expect_err("missing");
    }
}
