//! The credentials' file, `access/credentials.json` in the data directory. The command line changes
//! it under a lock; a running daemon looks at the file's stamp before each use and once a second, so
//! that a revocation counts at once, also for what is open already.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::api::access::Identity;
use crate::api::gate::credential::{
    Credential, CredentialFault, CredentialList, Fingerprint, Proof,
};
use crate::api::gate::private_file::{self, Stamp};
use crate::clock::Clock;

/// The folder in the data directory that holds everything about access.
pub const FOLDER: &str = "access";
const FILE: &str = "credentials.json";
const LOCK: &str = "credentials.lock";
/// Between two looks, for what is open without asking anything more.
const LOOK: Duration = Duration::from_secs(1);

/// Why the list was not read or not changed.
#[derive(Debug, thiserror::Error)]
pub enum CredentialFileError {
    #[error(transparent)]
    Refused(#[from] CredentialFault),
    #[error("{path} is damaged: remove it, and make the credentials anew")]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

fn read(path: &Path) -> Result<CredentialList, CredentialFileError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| CredentialFileError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(CredentialList::default()),
        Err(source) => {
            Err(CredentialFileError::Io { operation: "read", path: path.to_owned(), source })
        }
    }
}

/// The list as it is now.
///
/// # Errors
/// It cannot be read.
pub fn list(data_dir: &Path) -> Result<CredentialList, CredentialFileError> {
    read(&data_dir.join(FOLDER).join(FILE))
}

/// Changes the list, one process at a time.
///
/// # Errors
/// What `change` refuses; the file cannot be read or written.
pub fn edit<T>(
    data_dir: &Path,
    change: impl FnOnce(CredentialList) -> Result<(CredentialList, T), CredentialFault>,
) -> Result<T, CredentialFileError> {
    let folder = data_dir.join(FOLDER);
    let (path, lock) = (folder.join(FILE), folder.join(LOCK));
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| CredentialFileError::Io { operation, path, source }
    };
    std::fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
    let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
    let held = options.open(&lock).map_err(failed("open", &lock))?;
    held.lock().map_err(failed("lock", &lock))?;
    let (next, made) = change(read(&path)?)?;
    let text = serde_json::to_string_pretty(&next).expect("a list has string keys only") + "\n";
    private_file::write(&path, text.as_bytes()).map_err(failed("write", &path))?;
    Ok(made)
}

/// A credential that was shown and counts.
#[derive(Clone, Debug)]
pub struct Known {
    pub credential: Arc<Credential>,
    pub identity: Identity,
    /// Cancelled when it is revoked or runs out.
    pub ended: CancellationToken,
}

/// The list as a running daemon uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credentials {
    path: Arc<PathBuf>,
    clock: Clock,
    state: Arc<RwLock<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the file that `known` was read from.
    stamp: Option<Stamp>,
    known: HashMap<Fingerprint, Known>,
}

impl Credentials {
    pub fn new(data_dir: &Path, clock: Clock) -> Self {
        let path = Arc::new(data_dir.join(FOLDER).join(FILE));
        let credentials = Self { path, clock, state: Arc::default() };
        credentials.refresh();
        credentials
    }

    /// The credential that somebody shows, if it counts now. Costs a `stat`.
    /// That a map finds it by its hash tells nothing by its timing: nobody chooses a hash.
    pub fn find(&self, proof: Proof, shown: &Fingerprint) -> Option<Known> {
        self.refresh();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let known = state.known.get(shown)?;
        let counts =
            known.credential.proof == proof && !known.credential.has_expired(self.clock.now());
        counts.then(|| known.clone())
    }

    /// Takes up what the command line changed. A file that cannot be read opens to nobody.
    fn refresh(&self) {
        let stamp = Stamp::of(&self.path);
        if self.state.read().unwrap_or_else(PoisonError::into_inner).stamp == stamp {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let list = read(&self.path).unwrap_or_else(|failure| {
            error!(failure = crate::telemetry::chain(&failure), "no credential counts");
            CredentialList::default()
        });
        let mut before = std::mem::take(&mut state.known);
        for credential in list.credentials {
            let print = credential.fingerprint;
            let known = match before.remove(&print) {
                Some(known) if *known.credential == credential => known,
                changed => {
                    // Under the old rights nothing goes on.
                    if let Some(old) = changed {
                        old.ended.cancel();
                    }
                    Known {
                        identity: credential.identity(),
                        credential: Arc::new(credential),
                        ended: CancellationToken::new(),
                    }
                }
            };
            state.known.insert(print, known);
        }
        for gone in before.into_values() {
            info!(credential = gone.credential.name, "credential revoked");
            gone.ended.cancel();
        }
        state.stamp = stamp;
    }

    /// Ends what is open under credentials that run out.
    fn end_expired(&self) {
        let now = self.clock.now();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        for known in state.known.values().filter(|known| known.credential.has_expired(now)) {
            known.ended.cancel();
        }
    }

    /// Looks again and again, until the stop.
    pub async fn follow(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                biased;
                // Cancel safe: a cancelled token stays cancelled.
                () = stop.cancelled() => return,
                // Cancel safe: a tick that was not taken comes again.
                _ = ticks.tick() => {
                    self.refresh();
                    self.end_expired();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::api::access::Role;
    use crate::api::gate::credential::Wish;

    fn make(dir: &Path, name: &str, print: Fingerprint) {
        let ttl = SignedDuration::from_secs(60);
        let role = Role::Viewer;
        let wish = Wish { name: name.to_owned(), role, node: None, proof: Proof::Token, ttl };
        let now = Clock::wall().now();
        edit(dir, |list| list.with(wish, print, now)).expect("made");
    }

    #[test]
    fn a_change_of_the_file_counts_at_the_next_look() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let running = Credentials::new(dir, Clock::wall());
        assert!(running.find(Proof::Token, &[1; 32]).is_none());
        make(dir, "ada", [1; 32]);
        make(dir, "eve", [2; 32]);
        let (ada, eve) =
            (running.find(Proof::Token, &[1; 32]), running.find(Proof::Token, &[2; 32]));
        let (ada, eve) = (ada.expect("known"), eve.expect("known"));
        edit(dir, |list| list.without("eve").map(|list| (list, ()))).expect("revoked");
        assert!(running.find(Proof::Token, &[2; 32]).is_none());
        assert!(running.find(Proof::Certificate, &[1; 32]).is_none(), "what is public is no token");
        assert!(eve.ended.is_cancelled() && !ada.ended.is_cancelled());
        std::fs::write(dir.join(FOLDER).join(FILE), "{").expect("damaged");
        assert!(running.find(Proof::Token, &[1; 32]).is_none(), "a damaged list opens to nobody");
        assert!(ada.ended.is_cancelled());
        std::fs::remove_file(dir.join(FOLDER).join(FILE)).expect("removed");
        assert!(running.find(Proof::Token, &[1; 32]).is_none());
    }

    #[test]
    fn only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        make(folder.path(), "ada", [1; 32]);
        let path = folder.path().join(FOLDER).join(FILE);
        let mode = std::fs::metadata(path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_out_ends_what_is_open() {
        let folder = tempfile::tempdir().expect("a folder");
        make(folder.path(), "ada", [1; 32]);
        let running = Credentials::new(folder.path(), Clock::tokio(Clock::wall().now()));
        let known = running.find(Proof::Token, &[1; 32]).expect("known");
        let stop = CancellationToken::new();
        let following = running.clone().follow(stop.clone());
        let look = async {
            known.ended.cancelled().await;
            stop.cancel();
        };
        tokio::join!(following, look);
        assert!(running.find(Proof::Token, &[1; 32]).is_none());
    }
}
