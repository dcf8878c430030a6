//! An installation on a host: what its things are called, and the lock that lets one process at a
//! time work for it.
//!
//! Two daemons of one installation would each remove the other's containers, for neither knows the
//! other's pods, and write over the other's rules. The store's lock cannot see that: each has a data
//! directory of its own. So an installation is locked where its things are: in this network
//! namespace (the rules) and on this engine (the containers).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::network::chain_name::ChainNames;

/// The installation of a host that has only one.
pub const DEFAULT: &str = "default";
/// The kernel's limit of an interface's name, without its NUL.
const LONGEST_INTERFACE: usize = 15;
/// Where locks of root live: on every distribution empty after a boot.
const LOCKS: &str = "/run/ballast";

/// The names of what one installation owns on a host. No two installations share one.
#[derive(Clone, Debug)]
pub struct Names {
    pub chains: ChainNames,
    /// The Docker network.
    pub network: String,
    /// Its bridge, an interface's name of at most 15 bytes.
    pub bridge: String,
}

impl Names {
    /// The installation `default` has the plain names.
    pub fn of(installation: &str) -> Self {
        let chains = ChainNames::of_installation(installation);
        if installation == DEFAULT {
            return Self { chains, network: "ballast".to_owned(), bridge: "ballast0".to_owned() };
        }
        Self { chains, network: format!("ballast-{installation}"), bridge: bridge(installation) }
    }
}

/// `bl-<installation>`; of a name that is too long its beginning, to be recognised, and the
/// beginning of its hash, as in the chains' names: two long names may begin alike.
fn bridge(installation: &str) -> String {
    let plain = format!("bl-{installation}");
    if plain.len() <= LONGEST_INTERFACE {
        return plain;
    }
    let beginning: String = installation.chars().take(5).collect();
    format!("bl-{beginning}-{}", &hash(installation)[..6])
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Why an installation cannot be worked for.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "installation {installation} is in use{}: stop that daemon first, or give --installation another name",
        by(.holder)
    )]
    Held { installation: String, holder: String },
    #[error(
        "a lock has no place to be: run as root, or set XDG_RUNTIME_DIR to a directory of your own"
    )]
    NoPlace,
    #[error("cannot lock {path}")]
    Io { path: PathBuf, source: io::Error },
}

fn by(holder: &str) -> String {
    if holder.is_empty() { String::new() } else { format!(" by process {holder}") }
}

/// Held for as long as the process works for the installation; the kernel lets go of it when the
/// process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    held: Vec<(PathBuf, File)>,
}

/// Locks the installation in this network namespace and on this engine (`--docker`). Root's and an
/// ordinary user's daemons do not see each other's locks, nor do those of two containers with a
/// `/run` of their own.
///
/// # Errors
/// [`LockError::Held`] names the process that has it.
pub fn lock(installation: &str, engine: &str) -> Result<Lock, LockError> {
    let folder = if rustix::process::geteuid().is_root() {
        PathBuf::from(LOCKS)
    } else {
        let own = std::env::var_os("XDG_RUNTIME_DIR").ok_or(LockError::NoPlace)?;
        PathBuf::from(own).join("ballast")
    };
    let space = Path::new("/proc/self/ns/net");
    let space = fs::metadata(space)
        .map_err(|source| LockError::Io { path: space.to_owned(), source })?
        .ino();
    let engine = &hash(&same_engine(engine))[..12];
    lock_in(&folder, installation, &[format!("net-{space}"), format!("engine-{engine}")])
}

/// One text for one engine: `/var/run` is a link to `/run`. The socket itself need not be there yet.
fn same_engine(engine: &str) -> String {
    let path = Path::new(engine.strip_prefix("unix://").unwrap_or(engine));
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) if path.is_absolute() => {
            folder.join(name).to_string_lossy().into_owned()
        }
        _ => engine.to_owned(),
    }
}

fn lock_in(folder: &Path, installation: &str, places: &[String]) -> Result<Lock, LockError> {
    let mut lock = Lock { held: Vec::new() };
    for place in places {
        let path = folder.join(format!("{installation}.{place}.lock"));
        let failed = |source| LockError::Io { path: path.clone(), source };
        match lock_file(&path).map_err(failed)? {
            Ok(file) => lock.held.push((path, file)),
            Err(holder) => {
                return Err(LockError::Held { installation: installation.to_owned(), holder });
            }
        }
    }
    Ok(lock)
}

/// The locked file, or what its holder wrote into it.
fn lock_file(path: &Path) -> io::Result<Result<File, String>> {
    loop {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path);
        let mut file = match opened {
            Ok(file) => file,
            // Whoever left last took the folder along.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                return Ok(Err(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // A holder removes its file while it still has it: one that has no name any more is
        // nobody's lock.
        let (own, named) = (file.metadata()?, fs::metadata(path));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            return Ok(Ok(file));
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        for (path, _still_locked) in &self.held {
            let _ = fs::remove_file(path);
        }
        if let Some(folder) = self.held.first().and_then(|(path, _)| path.parent()) {
            // Stays where another installation has its lock in it.
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_that_begin_alike_have_a_bridge_each() {
        let one = Names::of("production-web-a").bridge;
        let two = Names::of("production-web-b").bridge;
        assert_ne!(one, two);
        for bridge in [&one, &two] {
            assert!(bridge.starts_with("bl-produ-"), "{bridge}");
        }
        for name in ["default", "demo01", "exactly12let", "thirteen-chrs", &"x".repeat(63)] {
            let bridge = Names::of(name).bridge;
            assert!(bridge.len() <= LONGEST_INTERFACE, "{bridge}");
        }
        assert_eq!(Names::of("exactly12let").bridge, "bl-exactly12let");
    }

    #[test]
    fn an_installation_has_one_holder_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("locks");
        let places = |space: &str, engine: &str| [space.to_owned(), engine.to_owned()];
        let first = lock_in(&folder, "default", &places("net-1", "engine-1")).expect("free");
        // The rules collide, or the containers do; another installation collides in nothing.
        for (space, engine) in [("net-1", "engine-2"), ("net-2", "engine-1")] {
            let refused = lock_in(&folder, "default", &places(space, engine)).expect_err("held");
            let told = refused.to_string();
            let process = format!("in use by process {}", std::process::id());
            assert!(told.contains(&process), "{told}");
        }
        let other = lock_in(&folder, "demo01", &places("net-1", "engine-1")).expect("another");
        lock_in(&folder, "default", &places("net-2", "engine-2")).expect("elsewhere");
        drop(first);
        lock_in(&folder, "default", &places("net-1", "engine-1")).expect("free again");
        drop(other);
        assert!(!folder.exists(), "nothing is left behind");
    }

    #[test]
    fn an_engine_is_the_same_by_all_its_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link");
        std::fs::create_dir(folder.path().join("run")).expect("a folder");
        std::os::unix::fs::symlink(folder.path().join("run"), &link).expect("a link");
        let direct = format!("unix://{}/run/docker.sock", folder.path().display());
        let through = format!("{}/docker.sock", link.display());
        assert_eq!(same_engine(&direct), same_engine(&through));
        assert_ne!(same_engine("tcp://one:2375"), same_engine("tcp://two:2375"));
    }
}
