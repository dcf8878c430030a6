//! Fetches a branch into a bare mirror of our own. A repository that is rewritten or collected while
//! we read takes nothing away from us.
//!
//! libgit2 speaks Git's protocol and keeps the objects; the bytes go over [`https`](crate::sync::https)
//! and [`ssh`](crate::sync::ssh), which bound every wait. Everything here blocks; `run` calls it on the
//! blocking pool.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use git2::{AutotagOption, ErrorClass, FetchOptions, Oid, Progress, RemoteCallbacks, Repository};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::sync::access::{ANY_USER, Access, TokenFrom, token_in};
use crate::sync::https::{Https, Token};
use crate::sync::mirror_folder::{count_packs, remove_leftovers, remove_packs_but};
use crate::sync::objects::{Objects, facts, open_local};
use crate::sync::source::{CommitFacts, SourceUrl, branch_fault, printable, scrub};
use crate::sync::ssh::Ssh;
use crate::sync::wire::{Patience, Wire};
use crate::sync::wire_fault::{Asker, WireFault};

/// Every fetch that brings something leaves a pack, and every read of an object asks all of them.
/// Above this they are joined into one.
pub const MOST_PACKS: usize = 100;
/// Keeps the applied commit, also when its branch was rewritten since.
const APPLIED: &str = "refs/ballast/applied";

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
    #[error("{url} cannot be fetched: {message}")]
    Fetch { url: String, message: String },
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

/// How far a fetch is: what the server announced, and what is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub objects: usize,
    pub of: usize,
    pub bytes: usize,
}

/// Our own bare copy of one repository.
#[derive(Debug)]
pub struct Mirror {
    folder: PathBuf,
    url: SourceUrl,
    access: Access,
    patience: Patience,
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
        access: Access,
        patience: Patience,
    ) -> Result<Self, GitError> {
        let digest = hex::encode(Sha256::digest(format!("{name}\n{url}")));
        let folder = data_dir.join("git").join(format!("{}.git", &digest[..16]));
        let mirror = Self { folder, url, access, patience };
        if Repository::open_bare(&mirror.folder).is_err() {
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

    /// Keeps what a commit reaches when packs are joined. A commit that is not here keeps nothing: it
    /// comes with the next fetch, or is gone.
    pub fn keep(&self, commit: &str) {
        let kept = self.repository().ok().zip(Oid::from_str(commit).ok());
        if let Some((repository, id)) = kept
            && repository.refname_to_id(APPLIED).ok() != Some(id)
            && let Err(error) = repository.reference(APPLIED, id, true, "applied")
        {
            tracing::debug!(%error, commit, "applied commit not kept");
        }
    }

    /// Joins all packs into one that holds what the branches and the kept commit reach: libgit2 has
    /// no repack. Cut short it leaves what was there, and one pack more.
    fn join_packs(&self, repository: &Repository) -> Result<(), git2::Error> {
        let mut walk = repository.revwalk()?;
        walk.push_glob("refs/*")?;
        let mut joined = repository.packbuilder()?;
        joined.insert_walk(&mut walk)?;
        joined.write(&self.folder.join("objects/pack"), 0o444)?;
        if let Some(name) = joined.name()? {
            remove_packs_but(&self.folder, name);
        }
        tracing::info!(objects = joined.object_count(), "packs of the mirror joined");
        Ok(())
    }

    /// Brings the branch's head. `stop` ends it early; `progress` is told how far it is, often.
    ///
    /// # Errors
    /// See [`GitError`]; the copy stays usable.
    pub fn fetch(
        &self,
        branch: &str,
        stop: &CancellationToken,
        progress: &dyn Fn(Received),
    ) -> Result<Fetched, GitError> {
        if let Some(fault) = branch_fault(branch) {
            return Err(GitError::Branch(fault));
        }
        if let SourceUrl::Local(path) = &self.url {
            open_local(path)?;
        }
        let repository = self.repository()?;
        let reference = format!("refs/heads/{branch}");
        let before = repository.refname_to_id(&reference).ok();
        let head = self.download(&repository, &reference, branch, stop, progress)?;
        let commit = repository
            .find_object(head, None)
            .and_then(|object| object.peel_to_commit())
            .map_err(|error| GitError::Damaged(plain(&error)))?;
        let rewritten = before.filter(|old| {
            *old != commit.id()
                && !repository.graph_descendant_of(commit.id(), *old).unwrap_or(false)
        });
        let fetched =
            Fetched { head: facts(&commit), rewritten: rewritten.map(|old| old.to_string()) };
        if count_packs(&self.folder) > MOST_PACKS
            && let Err(error) = self.join_packs(&repository)
        {
            tracing::warn!(%error, "packs of the mirror not joined");
        }
        Ok(fetched)
    }

    fn download(
        &self,
        repository: &Repository,
        reference: &str,
        branch: &str,
        stop: &CancellationToken,
        progress: &dyn Fn(Received),
    ) -> Result<Oid, GitError> {
        let url = self.url.as_text();
        let mut secrets = Vec::new();
        let line =
            self.line(stop, &mut secrets).map_err(|fault| self.wire_error(&fault, &secrets))?;
        // A local repository has no wire: its bounds hold here.
        let ended: Cell<Option<WireFault>> = Cell::new(None);
        let deadline = Instant::now() + self.patience.whole;
        let goes_on = |at: Progress<'_>| {
            let Patience { whole, most_bytes, .. } = self.patience;
            let server = || url.clone();
            let fault = if stop.is_cancelled() {
                Some(WireFault::Stopped)
            } else if at.received_bytes() > most_bytes {
                let hint = "follow a smaller repository, or one without large files";
                Some(WireFault::TooMuch { server: server(), most: most_bytes, hint })
            } else if Instant::now() > deadline {
                Some(WireFault::TooSlow { server: server(), patience: whole })
            } else {
                None
            };
            progress(Received {
                objects: at.received_objects(),
                of: at.total_objects(),
                bytes: at.received_bytes(),
            });
            let goes_on = fault.is_none();
            ended.set(fault);
            goes_on
        };
        let mut callbacks = RemoteCallbacks::new();
        callbacks.transfer_progress(goes_on);
        let mut options = FetchOptions::new();
        options
            .remote_callbacks(callbacks)
            .download_tags(AutotagOption::None)
            .update_fetchhead(false);
        let failed = |error: git2::Error| {
            let fault = line.as_ref().and_then(|line| line.wire().fault()).or_else(|| ended.take());
            match fault {
                Some(fault) => self.wire_error(&fault, &secrets),
                None => self.fetch_error(&error, &secrets),
            }
        };
        let _line = OnThisThread::put(line.clone());
        let mut remote = repository.remote_anonymous(&url).map_err(failed)?;
        let refspec = format!("+{reference}:{reference}");
        remote.fetch(&[refspec.as_str()], Some(&mut options), None).map_err(failed)?;
        // A branch that is gone is no error to libgit2: it fetches nothing and keeps the old head.
        let heads = remote.list().map_err(failed)?;
        if let Some(head) = heads.iter().find(|head| head.name() == reference) {
            return Ok(head.oid());
        }
        let known = heads.iter().filter_map(|head| head.name().strip_prefix("refs/heads/"));
        let known = known.take(10).map(printable).collect();
        Err(GitError::BranchMissing { url: url.clone(), branch: branch.to_owned(), known })
    }

    /// The conversation for one fetch; none for a local repository. What is secret in it is noted.
    fn line(
        &self,
        stop: &CancellationToken,
        secrets: &mut Vec<String>,
    ) -> Result<Option<Line>, WireFault> {
        prepare();
        let wire = |host: &str, port: u16| {
            Wire::new(format!("{host}:{port}"), self.patience, stop.clone())
                .map(Arc::new)
                .map_err(|error| WireFault::RemoteSays { what: error.to_string() })
        };
        Ok(match &self.url {
            SourceUrl::Local(_) => None,
            SourceUrl::Https { url, host, port } => {
                let token = self.token(secrets)?;
                let (wire, ca_file) = (wire(host, *port)?, self.access.ca_file.as_deref());
                let https = Https::new(wire.clone(), url, host, *port, token, ca_file)?;
                Some(Line::Https(Arc::new(https), wire))
            }
            SourceUrl::Ssh { user, host, port, path, .. } => {
                let ssh = Ssh {
                    user: user.clone(),
                    host: host.clone(),
                    port: *port,
                    path: path.clone(),
                    key: self.access.ssh_key.clone(),
                    known_hosts: self.access.known_hosts.clone(),
                };
                Some(Line::Ssh(Arc::new(ssh), wire(host, *port)?))
            }
        })
    }

    fn token(&self, secrets: &mut Vec<String>) -> Result<Option<Token>, WireFault> {
        let Some(from) = &self.access.token else { return Ok(None) };
        let failed = |cause: &str| WireFault::TokenUnreadable {
            place: from.to_string(),
            cause: cause.to_owned(),
        };
        let text = match from {
            TokenFrom::Variable { value, .. } => value.clone(),
            TokenFrom::File(path) => {
                fs::read_to_string(path).map_err(|error| failed(&error.to_string()))?
            }
        };
        let secret = token_in(&text).map_err(failed)?.to_owned();
        let user = self.access.user.clone().unwrap_or_else(|| ANY_USER.to_owned());
        // A server may say back what it was told, in either form.
        secrets.extend([secret.clone(), STANDARD.encode(format!("{user}:{secret}"))]);
        Ok(Some(Token { asker: Asker { user, place: from.to_string() }, secret }))
    }

    fn wire_error(&self, fault: &WireFault, secrets: &[String]) -> GitError {
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let message = scrub(&fault.to_string(), &secrets);
        GitError::Fetch { url: self.url.as_text(), message }
    }

    fn fetch_error(&self, error: &git2::Error, secrets: &[String]) -> GitError {
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let message = scrub(error.message(), &secrets);
        match error.class() {
            ErrorClass::Odb | ErrorClass::Indexer | ErrorClass::Zlib => GitError::Damaged(message),
            _ => GitError::Fetch { url: self.url.as_text(), message },
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
        Ok(Objects::of(self.repository()?))
    }
}

pub(super) fn plain(error: &git2::Error) -> String {
    scrub(error.message(), &[])
}

/// One conversation, as libgit2 is to have it.
#[derive(Clone)]
enum Line {
    Https(Arc<Https>, Arc<Wire>),
    Ssh(Arc<Ssh>, Arc<Wire>),
}

impl Line {
    fn wire(&self) -> &Wire {
        match self {
            Self::Https(_, wire) | Self::Ssh(_, wire) => wire,
        }
    }
}

thread_local! {
    /// The conversation of the fetch that runs on this thread: libgit2 asks for a transport by the
    /// address alone, and two sources may follow one address with different keys.
    static LINE: RefCell<Option<Line>> = const { RefCell::new(None) };
}

/// Takes the conversation away again, however the fetch ends.
struct OnThisThread;

impl OnThisThread {
    fn put(line: Option<Line>) -> Self {
        LINE.set(line);
        Self
    }
}

impl Drop for OnThisThread {
    fn drop(&mut self) {
        LINE.take();
    }
}

/// Tells libgit2, which is built without a network of its own, who speaks `https://` and `ssh://`.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: registering must not race with the making of other transports. Transports are
        // made by fetches alone, each of which passes here first, and `Once` lets no second caller
        // by before the first is done.
        #[allow(unsafe_code)]
        let registered = unsafe {
            git2::transport::register("https", transport)
                .and_then(|()| git2::transport::register("ssh", transport))
        };
        if let Err(error) = registered {
            tracing::error!(%error, "no source over https:// or ssh:// can be fetched");
        }
    });
}

fn transport(remote: &git2::Remote<'_>) -> Result<Transport, git2::Error> {
    let line = LINE.with_borrow(Clone::clone);
    let line = line.ok_or_else(|| git2::Error::from_str("no fetch runs on this thread"))?;
    // Over HTTPS every question is a request of its own.
    let stateless = matches!(line, Line::Https(..));
    Transport::smart(remote, stateless, line)
}

impl SmartSubtransport for Line {
    fn action(
        &self,
        _: &str,
        service: Service,
    ) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        fn stream<S: Read + Write + Send + 'static>(
            result: Result<S, WireFault>,
        ) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
            match result {
                Ok(stream) => Ok(Box::new(stream)),
                Err(fault) => Err(git2::Error::from_str(&fault.to_string())),
            }
        }
        match (self, service) {
            (Self::Https(https, _), Service::UploadPackLs) => stream(https.list()),
            (Self::Https(https, _), Service::UploadPack) => stream(Ok(https.ask())),
            (Self::Ssh(ssh, wire), Service::UploadPackLs) => stream(ssh.open(wire.clone())),
            _ => Err(git2::Error::from_str("nothing is ever pushed")),
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}
