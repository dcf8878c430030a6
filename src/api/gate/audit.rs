//! The audit log: one JSON line for each request that is no plain read, `audit/audit.jsonl` in the
//! data directory. A request is answered after its line is handed to the writer; the writer puts
//! many lines into one write. A file that is full is set aside, and the oldest one goes. A line that
//! cannot be written goes to the daemon's own log: none is silently lost.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::api::access::{Identity, Part, Verb};
use crate::api::query::asks_for_watch;
use crate::api::request::{Target, target};
use crate::object::{Key, Kind};
use crate::task::Tasks;

/// The folder in the data directory.
pub const FOLDER: &str = "audit";
/// The file that is written now; the earlier ones have a number after it, the newest 1.
pub const FILE: &str = "audit.jsonl";
/// Lines that wait for the disk, at about 400 bytes each.
const QUEUE: usize = 1024;
/// Lines of one write.
const BATCH: usize = 256;
/// Of a URL: a command of an `exec` stands in it, and may be long.
const LONGEST_PATH: usize = 2048;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Files, the one that is written among them.
    pub files: usize,
}

impl Default for Kept {
    /// 50 MiB, about 130,000 requests: years of a cluster that changes through Git.
    fn default() -> Self {
        Self { file_bytes: 10 * 1024 * 1024, files: 5 }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditLine {
    pub time: Timestamp,
    /// The user; `system:anonymous` without a credential.
    pub who: String,
    pub role: &'static str,
    pub from: SocketAddr,
    pub verb: &'static str,
    /// `deployments.apps`; absent for what is no resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subresource: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub method: String,
    /// With its query, where an `exec` has its command; its first 2 KiB.
    pub path: String,
    /// `allow`, or `deny` for 401, 403 and 429.
    pub decision: &'static str,
    pub code: u16,
}

/// A request that will have a line, before it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Audited {
    verb: &'static str,
    kind: Option<Kind>,
    part: Part,
    key: Key,
    method: String,
    path: String,
}

impl Audited {
    /// `None` for a plain read. No read is plain that uses an operator's rights.
    pub fn of(who: &Identity, method: &str, path_and_query: &str) -> Option<Self> {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let reads = matches!(method, "GET" | "HEAD");
        let (kind, part, key) = match target(path) {
            Some(Target::Object { kind, key, part }) => (Some(kind), part, key),
            Some(Target::Collection { kind, namespace }) => {
                (Some(kind), Part::Whole, Key::new(namespace.unwrap_or_default(), ""))
            }
            Some(Target::Unknown) | None => (None, Part::Whole, Key::default()),
        };
        let uses = kind.is_some_and(|kind| who.uses_operator_rights(kind, part));
        if reads && !uses && !part.is_stream() {
            return None;
        }
        let verb = match method {
            _ if part.is_stream() => Verb::Create.as_str(),
            "GET" | "HEAD" if asks_for_watch(query) => Verb::Watch.as_str(),
            "GET" | "HEAD" if key.name.is_empty() => Verb::List.as_str(),
            "GET" | "HEAD" => Verb::Get.as_str(),
            "POST" => Verb::Create.as_str(),
            "PUT" => Verb::Update.as_str(),
            "PATCH" => Verb::Patch.as_str(),
            "DELETE" if key.name.is_empty() => "deletecollection",
            "DELETE" => Verb::Delete.as_str(),
            _ => "other",
        };
        let path: String = path_and_query.chars().take(LONGEST_PATH).collect();
        Some(Self { verb, kind, part, key, method: method.to_owned(), path })
    }

    pub fn line(self, who: &Identity, from: SocketAddr, code: u16, time: Timestamp) -> AuditLine {
        let denied = matches!(code, 401 | 403 | 429);
        AuditLine {
            time,
            who: who.name(),
            role: who.role().as_str(),
            from,
            verb: self.verb,
            resource: self.kind.map(Kind::qualified_resource),
            subresource: self.part.as_str(),
            namespace: self.key.namespace,
            name: self.key.name,
            method: self.method,
            path: self.path,
            decision: if denied { "deny" } else { "allow" },
            code,
        }
    }
}

/// The callers' end of the log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    lines: mpsc::Sender<AuditLine>,
}

impl Audit {
    /// Opens the log of a data directory, and starts its writer.
    ///
    /// # Errors
    /// The folder or the file cannot be made.
    pub async fn open(data_dir: &Path, kept: Kept, tasks: &Tasks) -> io::Result<Self> {
        let folder = data_dir.join(FOLDER);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let log = Log::open(folder.join(FILE), kept).await?;
        let (lines, waiting) = mpsc::channel(QUEUE);
        tasks.spawn("audit", write(log, waiting, tasks.stop().clone()));
        Ok(Self { lines })
    }

    /// Hands a line to the writer; waits where the disk is slow.
    pub async fn record(&self, line: AuditLine) {
        if let Err(unsent) = self.lines.send(line).await {
            told(&unsent.0, "the daemon is stopping");
        }
    }
}

fn told(line: &AuditLine, why: &str) {
    let line = serde_json::to_string(line).unwrap_or_default();
    error!(why, line, "audit line not written");
}

/// Until the stop, and then what is still waiting.
async fn write(mut log: Log, mut waiting: mpsc::Receiver<AuditLine>, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            // Cancel safe: lines not received stay in the channel.
            received = waiting.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    stop.cancelled().await;
                    return;
                }
                log.append(&batch).await;
                batch.clear();
            }
            // Cancel safe: a cancelled token stays cancelled. Last: what waits is written first.
            () = stop.cancelled() => {
                waiting.close();
                while waiting.recv_many(&mut batch, BATCH).await > 0 {
                    log.append(&batch).await;
                    batch.clear();
                }
                return;
            }
        }
    }
}

struct Log {
    path: PathBuf,
    kept: Kept,
    file: File,
    bytes: u64,
}

impl Log {
    async fn open(path: PathBuf, kept: Kept) -> io::Result<Self> {
        let file = opened(&path).await?;
        let bytes = file.metadata().await?.len();
        Ok(Self { path, kept, file, bytes })
    }

    async fn append(&mut self, lines: &[AuditLine]) {
        let (mut text, mut begin) = (Vec::new(), 0);
        for (index, line) in lines.iter().enumerate() {
            let mut one = serde_json::to_vec(line).expect("a line has string keys only");
            one.push(b'\n');
            // However many come at once: no file grows beyond its size, but for a line that is longer.
            if !text.is_empty() && (text.len() + one.len()) as u64 > self.kept.file_bytes {
                self.put_or_tell(&text, &lines[begin..index]).await;
                (text, begin) = (Vec::new(), index);
            }
            text.append(&mut one);
        }
        self.put_or_tell(&text, &lines[begin..]).await;
    }

    async fn put_or_tell(&mut self, text: &[u8], lines: &[AuditLine]) {
        if let Err(failure) = self.put(text).await {
            let why = failure.to_string();
            lines.iter().for_each(|line| told(line, &why));
        }
    }

    async fn put(&mut self, text: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + text.len() as u64 > self.kept.file_bytes {
            self.turn().await?;
        }
        self.file.write_all(text).await?;
        self.file.flush().await?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// The full file becomes number 1, each earlier one the next, and the last one goes.
    async fn turn(&mut self) -> io::Result<()> {
        let numbered = |number: usize| {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{number}"));
            PathBuf::from(path)
        };
        for number in (1..self.kept.files.saturating_sub(1)).rev() {
            match fs::rename(numbered(number), numbered(number + 1)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.kept.files > 1 {
            fs::rename(&self.path, numbered(1)).await?;
        } else {
            fs::remove_file(&self.path).await?;
        }
        self.file = opened(&self.path).await?;
        self.bytes = 0;
        Ok(())
    }
}

async fn opened(path: &Path) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    OpenOptions::from(options).open(path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXEC: &str = "/api/v1/namespaces/shop/pods/web/exec?command=sh";

    #[test]
    fn plain_reads_have_no_line() {
        let viewer = Identity::Viewer { name: "ada".to_owned() };
        let operator = Identity::Operator { name: "eve".to_owned() };
        let verb = |who: &Identity, method: &str, path: &str| {
            Audited::of(who, method, path).map(|audited| audited.verb)
        };
        for path in ["/api/v1/pods", "/api/v1/namespaces/shop/pods/web/log", "/", "/healthz"] {
            for who in [&Identity::Reader, &viewer, &operator] {
                assert_eq!(verb(who, "GET", path), None, "{path}");
            }
        }
        let secrets = "/api/v1/namespaces/shop/secrets";
        for who in [&Identity::Reader, &viewer] {
            assert_eq!(verb(who, "GET", secrets), None, "they see hashes");
        }
        assert_eq!(verb(&operator, "GET", secrets), Some("list"));
        assert_eq!(verb(&operator, "GET", "/api/v1/secrets?watch=true"), Some("watch"));
        assert_eq!(verb(&operator, "GET", "/api/v1/namespaces/shop/secrets/s"), Some("get"));
        for who in [&Identity::Reader, &viewer, &operator] {
            assert_eq!(verb(who, "GET", EXEC), Some("create"), "a WebSocket opens with a GET");
        }
        for (method, wanted) in [
            ("POST", "create"),
            ("PUT", "update"),
            ("PATCH", "patch"),
            ("DELETE", "deletecollection"),
            ("OPTIONS", "other"),
        ] {
            assert_eq!(verb(&Identity::Reader, method, "/api/v1/pods"), Some(wanted));
        }
    }

    #[test]
    fn a_line_says_who_what_and_what_came_of_it() {
        let who = Identity::Viewer { name: "ada".to_owned() };
        let audited = Audited::of(&who, "POST", EXEC).expect("a line");
        let from = "192.0.2.9:5".parse().expect("an address");
        let line = audited.line(&who, from, 403, Timestamp::UNIX_EPOCH);
        assert_eq!(
            serde_json::to_string(&line).expect("serialises"),
            r#"{"time":"1970-01-01T00:00:00Z","who":"ada","role":"viewer","from":"192.0.2.9:5","verb":"create","resource":"pods","subresource":"exec","namespace":"shop","name":"web","method":"POST","path":"/api/v1/namespaces/shop/pods/web/exec?command=sh","decision":"deny","code":403}"#
        );
    }

    #[tokio::test]
    async fn a_full_file_is_set_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tasks, done) = Tasks::new();
        let kept = Kept { file_bytes: 1000, files: 3 };
        let audit = Audit::open(folder.path(), kept, &tasks).await.expect("opens");
        let from = "192.0.2.9:5".parse().expect("an address");
        for number in 0..40 {
            let path = format!("/api/v1/pods?number={number}");
            let audited = Audited::of(&Identity::Reader, "POST", &path).expect("a line");
            audit.record(audited.line(&Identity::Reader, from, 403, Timestamp::UNIX_EPOCH)).await;
            // One write a line, as if they came far apart.
            tokio::task::yield_now().await;
        }
        tasks.stop().cancel();
        drop((audit, tasks));
        done.wait().await;
        let folder = folder.path().join(FOLDER);
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .expect("there")
            .map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]);
        let newest = std::fs::read_to_string(folder.join(FILE)).expect("there");
        assert!(newest.trim_end().lines().last().is_some_and(|line| line.contains("number=39")));
    }
}
