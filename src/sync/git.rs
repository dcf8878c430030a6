//! The one file that speaks to Git: fetches a branch into a bare mirror of our own, and reads trees
//! and blobs out of its object database. There is no work tree, so no symlink, hook, filter or
//! submodule of a repository can act, and a repository that is rewritten or collected while we read
//! takes nothing away from us.
//!
//! Everything here blocks; `run` calls it on the blocking pool. A fetch ends by itself: libgit2's
//! own timeouts bound every wait for the network, and the progress callback ends it on stop, on
//! the deadline and above [`MOST_RECEIVED`].

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use git2::{
    AutotagOption, CertificateCheckStatus, Cred, CredentialType, ErrorClass, ErrorCode,
    FetchOptions, ObjectType, Oid, RemoteCallbacks, RemoteRedirect, Repository,
};
use sha2::{Digest, Sha256};

use crate::sync::known_hosts::{self, Verdict};
use crate::sync::source::{CommitFacts, Credentials, SourceUrl, branch_fault, printable, scrub};
use crate::sync::tree::{Entry, Form, LARGEST_FILE, Listing, MOST_BYTES, Walk, path_parts};

/// Bytes that one fetch may bring.
pub const MOST_RECEIVED: usize = 2 * 1024 * 1024 * 1024;
/// A whole fetch; a first clone of [`MOST_RECEIVED`] takes this long at 35 Mbit/s.
const FETCH_DEADLINE: Duration = Duration::from_secs(600);
/// Without a byte from the server for this long, it is gone.
const SERVER_TIMEOUT_MILLISECONDS: i32 = 30_000;
/// Every fetch that brings something leaves a pack. Above this the mirror is made anew, which
/// joins them: libgit2 has no repack.
const MOST_PACKS: usize = 100;

/// Why Git did not do it. No message contains a credential.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("{0}")]
    Branch(&'static str),
    #[error("branch {branch:?} does not exist in {url}{}", others(.known))]
    BranchMissing { url: String, branch: String, known: Vec<String> },
    #[error("no Git repository at {0}")]
    NoRepository(String),
    #[error(
        "{path} belongs to another user, and Git refuses to read it: run \"git config --global --add safe.directory {path}\" as the user who runs Ballast"
    )]
    ForeignOwner { path: String },
    #[error("{url} refuses the credentials: {message}")]
    Credentials { url: String, message: String },
    #[error(
        "the host key of {host} is {what}: verify it with the server's owner, then put it into the known_hosts file"
    )]
    HostKey { host: String, what: &'static str },
    #[error("{url} cannot be fetched: {message}")]
    Fetch { url: String, message: String },
    #[error("the fetch of {url} was ended: {why}")]
    Ended { url: String, why: &'static str },
    #[error("the path {0:?} is not inside the repository: write it relative, without '..'")]
    Path(String),
    #[error("the path {path:?} does not exist in commit {commit}: nothing is changed")]
    PathMissing { path: String, commit: String },
    #[error("the path {path:?} is {what} in commit {commit}, not a folder")]
    PathNoFolder { path: String, commit: String, what: &'static str },
    #[error("the local copy of the repository is damaged ({0}): it is fetched anew")]
    Damaged(String),
    #[error("{reference:?} names no commit")]
    NoCommit { reference: String },
    #[error("{path}: {source}")]
    Folder { path: String, source: std::io::Error },
}

fn others(known: &[String]) -> String {
    if known.is_empty() {
        ": the repository has no branches yet".to_owned()
    } else {
        format!("; it has {}", known.join(", "))
    }
}

/// The branch's head after a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub head: CommitFacts,
    /// The earlier head that the new one does not descend from: the branch was rewritten.
    pub rewritten: Option<String>,
}

/// Our own bare copy of one repository.
#[derive(Debug)]
pub struct Mirror {
    folder: PathBuf,
    url: SourceUrl,
    credentials: Credentials,
}

impl Mirror {
    /// Opens or makes the copy below `data_dir`, and removes what a killed fetch left behind. Two
    /// repositories never share a copy, also when a source's address changes.
    ///
    /// # Errors
    /// [`GitError::Folder`] when the folder cannot be made.
    pub fn open(
        data_dir: &Path,
        name: &str,
        url: SourceUrl,
        credentials: Credentials,
    ) -> Result<Self, GitError> {
        bound_waits();
        let digest = hex::encode(Sha256::digest(format!("{name}\n{url}")));
        let folder = data_dir.join("git").join(format!("{}.git", &digest[..16]));
        let mirror = Self { folder, url, credentials };
        let usable = Repository::open_bare(&mirror.folder).is_ok();
        if !usable || count_packs(&mirror.folder) > MOST_PACKS {
            mirror.reset()?;
        }
        remove_leftovers(&mirror.folder);
        Ok(mirror)
    }

    /// Empties the copy. The next fetch brings everything again.
    ///
    /// # Errors
    /// [`GitError::Folder`].
    pub fn reset(&self) -> Result<(), GitError> {
        let failed = |source| GitError::Folder { path: self.folder.display().to_string(), source };
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        fs::create_dir_all(&self.folder).map_err(failed)?;
        Repository::init_bare(&self.folder)
            .map(drop)
            .map_err(|error| GitError::Damaged(plain(&error)))
    }

    /// Brings the branch's head. `stop` ends it early.
    ///
    /// # Errors
    /// See [`GitError`]; the copy stays usable.
    pub fn fetch(&self, branch: &str, stop: &AtomicBool) -> Result<Fetched, GitError> {
        if let Some(fault) = branch_fault(branch) {
            return Err(GitError::Branch(fault));
        }
        if let SourceUrl::Local(path) = &self.url {
            open_local(path)?;
        }
        let repository = self.repository()?;
        let reference = format!("refs/heads/{branch}");
        let before = repository.refname_to_id(&reference).ok();
        let head = self.download(&repository, &reference, branch, stop)?;
        let commit = repository
            .find_object(head, None)
            .and_then(|object| object.peel_to_commit())
            .map_err(|error| GitError::Damaged(plain(&error)))?;
        let rewritten = before.filter(|old| {
            *old != commit.id()
                && !repository.graph_descendant_of(commit.id(), *old).unwrap_or(false)
        });
        Ok(Fetched { head: facts(&commit), rewritten: rewritten.map(|old| old.to_string()) })
    }

    fn download(
        &self,
        repository: &Repository,
        reference: &str,
        branch: &str,
        stop: &AtomicBool,
    ) -> Result<Oid, GitError> {
        let url = self.url.as_text();
        let trace = Trace::default();
        let deadline = Instant::now() + FETCH_DEADLINE;
        let mut callbacks = RemoteCallbacks::new();
        let attempts = std::cell::Cell::new(0_u32);
        callbacks.credentials(|asked, user, allowed| {
            attempts.set(attempts.get() + 1);
            self.credential(asked, user, allowed, attempts.get())
        });
        callbacks.certificate_check(|certificate, host| match certificate.as_hostkey() {
            Some(key) => self.check_host_key(host, key.hostkey().unwrap_or_default(), &trace),
            // TLS: libgit2's own verdict, against the system's authorities.
            None => Ok(CertificateCheckStatus::CertificatePassthrough),
        });
        let goes_on = |received: usize| {
            let why = if stop.load(Ordering::Relaxed) {
                Some("Ballast is stopping")
            } else if received > MOST_RECEIVED {
                Some("it brings more than 2 GiB")
            } else if Instant::now() > deadline {
                Some("it takes longer than 10 minutes")
            } else {
                None
            };
            if why.is_some() {
                trace.ended.set(why);
            }
            why.is_none()
        };
        callbacks.transfer_progress(|progress| goes_on(progress.received_bytes()));
        callbacks.sideband_progress(|_| goes_on(0));
        let mut options = FetchOptions::new();
        options
            .remote_callbacks(callbacks)
            .download_tags(AutotagOption::None)
            // Redirects within the host are followed, to another host never: it would be asked
            // for, and given, the credentials of this one.
            .follow_redirects(RemoteRedirect::None)
            .update_fetchhead(false);
        let mut remote =
            repository.remote_anonymous(&url).map_err(|error| self.fetch_error(&error, &trace))?;
        let refspec = format!("+{reference}:{reference}");
        remote
            .fetch(&[refspec.as_str()], Some(&mut options), None)
            .map_err(|error| self.fetch_error(&error, &trace))?;
        // A branch that is gone is no error to libgit2: it fetches nothing and keeps the old head.
        let heads = remote.list().map_err(|error| self.fetch_error(&error, &trace))?;
        if let Some(head) = heads.iter().find(|head| head.name() == reference) {
            return Ok(head.oid());
        }
        let known = heads.iter().filter_map(|head| head.name().strip_prefix("refs/heads/"));
        let known = known.take(10).map(printable).collect();
        Err(GitError::BranchMissing { url, branch: branch.to_owned(), known })
    }

    fn credential(
        &self,
        asked: &str,
        user: Option<&str>,
        allowed: CredentialType,
        attempt: u32,
    ) -> Result<Cred, git2::Error> {
        // libgit2 asks again for as long as the server refuses.
        if attempt > 4 {
            return Err(git2::Error::from_str("the server refuses the credentials"));
        }
        match (&self.credentials, &self.url) {
            (Credentials::Token { user, token }, SourceUrl::Https { host, .. })
                if allowed.contains(CredentialType::USER_PASS_PLAINTEXT) =>
            {
                let same_host = SourceUrl::parse(asked).is_ok_and(
                    |url| matches!(url, SourceUrl::Https { host: asked, .. } if asked == *host),
                );
                if !same_host {
                    return Err(git2::Error::from_str("another host asks for the credentials"));
                }
                Cred::userpass_plaintext(user, token)
            }
            (Credentials::SshKey { key, passphrase, .. }, SourceUrl::Ssh { user: own, .. })
                if allowed.contains(CredentialType::SSH_KEY) =>
            {
                Cred::ssh_key(user.unwrap_or(own), None, key, passphrase.as_deref())
            }
            (Credentials::None, SourceUrl::Ssh { user: own, .. })
                if allowed.contains(CredentialType::SSH_KEY) =>
            {
                Cred::ssh_key_from_agent(user.unwrap_or(own))
            }
            (_, SourceUrl::Ssh { user: own, .. }) if allowed.contains(CredentialType::USERNAME) => {
                Cred::username(user.unwrap_or(own))
            }
            _ => Err(git2::Error::from_str(
                "the server asks for credentials, and none are configured",
            )),
        }
    }

    fn check_host_key(
        &self,
        host: &str,
        key: &[u8],
        trace: &Trace,
    ) -> Result<CertificateCheckStatus, git2::Error> {
        let Credentials::SshKey { known_hosts: Some(file), .. } = &self.credentials else {
            // libgit2 has looked into ~/.ssh/known_hosts and refuses what is not there.
            return Ok(CertificateCheckStatus::CertificatePassthrough);
        };
        let port = match &self.url {
            SourceUrl::Ssh { port, .. } => *port,
            _ => 22,
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        let what = match known_hosts::judge(&text, host, port, key) {
            Verdict::Known => return Ok(CertificateCheckStatus::CertificateOk),
            Verdict::Changed => "not the one in the known_hosts file",
            Verdict::Revoked => "revoked in the known_hosts file",
            Verdict::Unknown => "not in the known_hosts file (hashed names are not read)",
        };
        trace.host_key.set(Some(what));
        Err(git2::Error::from_str("the host key is not accepted"))
    }

    fn fetch_error(&self, error: &git2::Error, trace: &Trace) -> GitError {
        let url = self.url.as_text();
        if let Some(why) = trace.ended.get() {
            return GitError::Ended { url, why };
        }
        let host = match &self.url {
            SourceUrl::Local(_) => String::new(),
            SourceUrl::Https { host, .. } | SourceUrl::Ssh { host, .. } => host.clone(),
        };
        if let Some(what) = trace.host_key.get() {
            return GitError::HostKey { host, what };
        }
        let message = scrub(error.message(), &self.secrets());
        match (error.code(), error.class()) {
            (ErrorCode::Certificate, _) if matches!(self.url, SourceUrl::Ssh { .. }) => {
                GitError::HostKey { host, what: "not in ~/.ssh/known_hosts" }
            }
            (ErrorCode::Auth, _) => GitError::Credentials { url, message },
            (_, ErrorClass::Odb | ErrorClass::Indexer | ErrorClass::Zlib) => {
                GitError::Damaged(message)
            }
            _ => GitError::Fetch { url, message },
        }
    }

    fn secrets(&self) -> Vec<&str> {
        match &self.credentials {
            Credentials::None => Vec::new(),
            Credentials::Token { token, .. } => vec![token],
            Credentials::SshKey { passphrase, .. } => {
                passphrase.iter().map(String::as_str).collect()
            }
        }
    }

    fn repository(&self) -> Result<Repository, GitError> {
        Repository::open_bare(&self.folder).map_err(|error| GitError::Damaged(plain(&error)))
    }

    /// What has been fetched.
    ///
    /// # Errors
    /// [`GitError::Damaged`].
    pub fn objects(&self) -> Result<Objects, GitError> {
        Ok(Objects { repository: self.repository()? })
    }
}

/// What the callbacks saw, because libgit2 tells only that a callback refused.
#[derive(Default)]
struct Trace {
    ended: std::cell::Cell<Option<&'static str>>,
    host_key: std::cell::Cell<Option<&'static str>>,
}

fn plain(error: &git2::Error) -> String {
    scrub(error.message(), &[])
}

fn bound_waits() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: these set plain integers inside libgit2 and must not race with its use by other
        // threads; every use of it in this crate goes through `Mirror::open` or `Objects::open`,
        // which pass here first, and `Once` lets no second caller by before it is done.
        #[allow(unsafe_code)]
        let set = unsafe {
            git2::opts::set_server_connect_timeout_in_milliseconds(SERVER_TIMEOUT_MILLISECONDS)
                .and_then(|()| {
                    git2::opts::set_server_timeout_in_milliseconds(SERVER_TIMEOUT_MILLISECONDS)
                })
        };
        if let Err(error) = set {
            tracing::warn!(%error, "git waits for servers without a timeout");
        }
    });
}

/// What a fetch that was killed leaves: lock files that would refuse every later one, and half
/// packs. Only this process writes to the mirror, so whatever is there at start is nobody's.
fn remove_leftovers(folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        let Ok(entries) = fs::read_dir(&current) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                folders.push(path);
            } else if name.ends_with(".lock")
                || name.starts_with("pack_git2_")
                || name.starts_with("tmp_")
            {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn count_packs(folder: &Path) -> usize {
    fs::read_dir(folder.join("objects/pack")).map_or(0, |entries| {
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|ext| ext == "pack"))
            .count()
    })
}

fn open_local(path: &Path) -> Result<Repository, GitError> {
    let flags = git2::RepositoryOpenFlags::NO_SEARCH;
    let none: [&Path; 0] = [];
    Repository::open_ext(path, flags, none).map_err(|error| match error.code() {
        ErrorCode::Owner => GitError::ForeignOwner { path: path.display().to_string() },
        _ => GitError::NoRepository(path.display().to_string()),
    })
}

/// The folder of a local repository whose `HEAD`, `packed-refs` and `refs/` change when a branch
/// moves; `None` where there is no repository (yet).
pub fn refs_folder(path: &Path) -> Option<PathBuf> {
    bound_waits();
    open_local(path).ok().map(|repository| repository.commondir().to_owned())
}

/// The root of the repository around a folder, and the folder inside it (`.` is the root): how a
/// person names a path inside a work tree.
pub fn around(path: &Path) -> Option<(PathBuf, String)> {
    bound_waits();
    let repository = Repository::discover(path).ok()?;
    let Some(root) = repository.workdir() else { return Some((path.to_owned(), ".".to_owned())) };
    let inside = path.canonicalize().ok()?;
    let inside = inside.strip_prefix(root.canonicalize().ok()?).ok()?.to_str()?.to_owned();
    Some((root.to_owned(), if inside.is_empty() { ".".to_owned() } else { inside }))
}

fn facts(commit: &git2::Commit<'_>) -> CommitFacts {
    let text = |bytes: &[u8]| printable(&String::from_utf8_lossy(bytes));
    CommitFacts {
        id: commit.id().to_string(),
        subject: text(commit.summary_bytes().unwrap_or_default()),
        author: text(commit.author().name_bytes()),
    }
}

/// A readable object database.
pub struct Objects {
    repository: Repository,
}

impl Objects {
    /// A local repository, read where it stands (for `plan` and `validate`; the daemon reads its
    /// mirror).
    ///
    /// # Errors
    /// [`GitError::NoRepository`], [`GitError::ForeignOwner`].
    pub fn open(path: &Path) -> Result<Self, GitError> {
        bound_waits();
        Ok(Self { repository: open_local(path)? })
    }

    /// The commit that a branch, tag or id names.
    ///
    /// # Errors
    /// [`GitError::NoCommit`].
    pub fn resolve(&self, reference: &str) -> Result<CommitFacts, GitError> {
        let commit = self
            .repository
            .revparse_single(reference)
            .and_then(|object| object.peel_to_commit())
            .map_err(|_| GitError::NoCommit { reference: printable(reference) })?;
        Ok(facts(&commit))
    }

    /// The files of a commit below a path. Symbolic links and submodules below it are problems:
    /// they could name what is outside, and what they name is not in the commit.
    ///
    /// # Errors
    /// A path that is not there is an error, never an empty set; [`GitError::Damaged`].
    pub fn list(&self, commit: &str, path: &str) -> Result<Listing, GitError> {
        let damaged = |error: git2::Error| GitError::Damaged(plain(&error));
        let id = Oid::from_str(commit)
            .map_err(|_| GitError::NoCommit { reference: printable(commit) })?;
        let root =
            self.repository.find_commit(id).and_then(|commit| commit.tree()).map_err(damaged)?;
        let (tree, prefix) = self.descend(root.id(), path, commit)?;
        let mut walk = Walk::default();
        let mut folders = vec![(tree, prefix.clone(), 0_usize)];
        while let Some((tree, prefix, depth)) = folders.pop() {
            let tree = self.repository.find_tree(tree).map_err(damaged)?;
            let mut names = BTreeSet::new();
            for entry in tree.iter() {
                if !walk.goes_on(&prefix) {
                    return Ok(walk.into_listing());
                }
                if !names.insert(entry.name_bytes().to_vec()) {
                    let name = printable(&String::from_utf8_lossy(entry.name_bytes()));
                    walk.problem(
                        &format!("{prefix}{name}"),
                        "the tree lists this name twice".to_owned(),
                        "the commit is malformed: make it anew",
                    );
                    continue;
                }
                let (form, blob) = (form_of(&entry), entry.id().to_string());
                if let Some(folder) = walk.visit(entry.name_bytes(), form, &blob, &prefix, depth) {
                    folders.push((entry.id(), folder, depth + 1));
                }
            }
        }
        self.measure(&mut walk)?;
        Ok(walk.into_listing())
    }

    /// Goes down to the source's path, through folders only.
    fn descend(&self, root: Oid, path: &str, commit: &str) -> Result<(Oid, String), GitError> {
        let damaged = |error: git2::Error| GitError::Damaged(plain(&error));
        let parts = path_parts(path).ok_or_else(|| GitError::Path(printable(path)))?;
        let mut tree = root;
        for part in &parts {
            let current = self.repository.find_tree(tree).map_err(damaged)?;
            let Some(entry) = current.get_name(part) else {
                return Err(GitError::PathMissing {
                    path: path.to_owned(),
                    commit: commit.to_owned(),
                });
            };
            if entry.kind() != Some(ObjectType::Tree) {
                let what = match form_of(&entry) {
                    Form::Link => "a symbolic link",
                    Form::Submodule => "a submodule",
                    Form::File | Form::Folder => "a file",
                };
                return Err(GitError::PathNoFolder {
                    path: path.to_owned(),
                    commit: commit.to_owned(),
                    what,
                });
            }
            tree = entry.id();
        }
        let prefix = parts.iter().fold(String::new(), |prefix, part| format!("{prefix}{part}/"));
        Ok((tree, prefix))
    }

    /// Checks the sizes before anything is read.
    fn measure(&self, walk: &mut Walk) -> Result<(), GitError> {
        let odb = self.repository.odb().map_err(|error| GitError::Damaged(plain(&error)))?;
        let mut total = 0;
        let mut kept = Vec::with_capacity(walk.entries.len());
        for entry in std::mem::take(&mut walk.entries) {
            let id =
                Oid::from_str(&entry.blob).map_err(|error| GitError::Damaged(plain(&error)))?;
            let (size, _) =
                odb.read_header(id).map_err(|error| GitError::Damaged(plain(&error)))?;
            if size > LARGEST_FILE {
                walk.problem(
                    &entry.path,
                    format!("the file has {size} bytes, at most {LARGEST_FILE} are read"),
                    "split it",
                );
                continue;
            }
            total += size;
            kept.push(entry);
        }
        if total > MOST_BYTES {
            walk.problem(
                "",
                format!("the manifests have {total} bytes together, at most {MOST_BYTES} are read"),
                "split the path into several sources",
            );
            kept.clear();
        }
        walk.entries = kept;
        Ok(())
    }

    /// # Errors
    /// [`GitError::Damaged`] when the blob is not there.
    pub fn read(&self, entry: &Entry) -> Result<std::sync::Arc<[u8]>, GitError> {
        let id = Oid::from_str(&entry.blob).map_err(|error| GitError::Damaged(plain(&error)))?;
        let blob =
            self.repository.find_blob(id).map_err(|error| GitError::Damaged(plain(&error)))?;
        Ok(blob.content().into())
    }
}

fn form_of(entry: &git2::TreeEntry<'_>) -> Form {
    match (entry.filemode(), entry.kind()) {
        (0o120_000, _) => Form::Link,
        (0o160_000, _) => Form::Submodule,
        (_, Some(ObjectType::Tree)) => Form::Folder,
        _ => Form::File,
    }
}
