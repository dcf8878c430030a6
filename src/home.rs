//! The data directory: whose it is, what in it is ours, and who may look into it.
//!
//! It carries a mark that says which installation and which node it belongs to. A daemon refuses a
//! directory of another installation, keeps the node's name over a change of the host's, and makes
//! the directory readable by root alone: the mirrors hold whole private repositories and the volumes
//! hold Secrets, in files whose own modes must let containers read them. `ballast reset` removes a
//! directory only where the mark says whose it is, and in it only what we made.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const MARK: &str = "installation.json";
/// The mark before it has its name.
const NEW_MARK: &str = "installation.json.new";
/// Everything else that is ever made in the directory itself.
const OURS: [&str; 14] = [
    "access",
    "audit",
    "git",
    "pods",
    "pulled-images.json",
    "seccomp",
    "secret.key",
    "store.db",
    "store.db-journal",
    "store.db-shm",
    "store.db-wal",
    "store.db.lock",
    VOLUMES,
    NEW_MARK,
];
/// The data of claims: it outlives a reset unless somebody says that it shall not.
const VOLUMES: &str = "volumes";
/// What a file system brings along.
const NOBODYS: &str = "lost+found";

/// Whose the directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    pub installation: String,
    /// Pods are bound to it: a node that called itself otherwise would have none.
    pub node_name: String,
}

/// What stands at the place of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or an empty directory.
    Nothing,
    /// Only things that are called as ours are: a start that was cut off, or an earlier version.
    Unmarked,
    Marked(Mark),
    /// Somebody else's: the first thing in it that is not ours.
    Foreign(String),
}

/// What a daemon is told at start.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    pub installation: &'a str,
    /// Given by a person.
    pub node_name: Option<&'a str>,
    /// Taken at the first start where no name is given.
    pub host_name: &'a str,
}

/// Why a data directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error(
        "{dir} holds {entry:?}, which is not Ballast's: give --data-dir a directory of its own; nothing was changed"
    )]
    Foreign { dir: PathBuf, entry: String },
    #[error(
        "{dir} belongs to installation {kept}, not {wanted}: give --installation {kept}, or another --data-dir"
    )]
    Installation { dir: PathBuf, kept: String, wanted: String },
    #[error(
        "{dir} belongs to node {kept}, not {wanted}: its pods are bound to that name, so a node keeps it; give --node-name {kept}, or begin anew after `ballast reset`"
    )]
    Node { dir: PathBuf, kept: String, wanted: String },
    #[error("{path} is damaged: write {{\"installation\":\"…\",\"nodeName\":\"…\"}} into it")]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

/// A closure that names what failed.
fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> HomeError + 'a {
    move |source| HomeError::Io { operation, path: path.to_owned(), source }
}

/// Looks without changing anything.
///
/// # Errors
/// It cannot be read, or its mark cannot.
pub fn look(dir: &Path) -> Result<Found, HomeError> {
    let path = dir.join(MARK);
    match fs::read(&path) {
        Ok(bytes) => {
            return serde_json::from_slice(&bytes)
                .map(Found::Marked)
                .map_err(|source| HomeError::Damaged { path, source });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", &path)(error)),
    }
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(failed("read", dir)(error)),
    };
    let mut found = Found::Nothing;
    for entry in entries {
        let name = entry.map_err(failed("read", dir))?.file_name().to_string_lossy().into_owned();
        if OURS.contains(&&*name) {
            found = Found::Unmarked;
        } else if name != NOBODYS {
            return Ok(Found::Foreign(name));
        }
    }
    Ok(found)
}

/// Makes the directory, or takes up an earlier run's: ours, marked, and closed to everybody else.
///
/// # Errors
/// It is another installation's, another node's or somebody else's; nothing is changed then.
pub fn open(dir: &Path, wish: Wish<'_>) -> Result<Mark, HomeError> {
    let found = look(dir)?;
    let mark = settle(dir, &found, wish)?;
    close_to_others(dir)?;
    if found != Found::Marked(mark.clone()) {
        write_mark(dir, &mark)?;
    }
    Ok(mark)
}

/// Which mark the directory is to carry.
fn settle(dir: &Path, found: &Found, wish: Wish<'_>) -> Result<Mark, HomeError> {
    let dir = dir.to_owned();
    let wanted = wish.installation.to_owned();
    match found {
        Found::Foreign(entry) => Err(HomeError::Foreign { dir, entry: entry.clone() }),
        Found::Nothing | Found::Unmarked => {
            let node_name = wish.node_name.unwrap_or(wish.host_name).to_owned();
            Ok(Mark { installation: wanted, node_name })
        }
        Found::Marked(mark) if mark.installation != wanted => {
            Err(HomeError::Installation { dir, kept: mark.installation.clone(), wanted })
        }
        Found::Marked(mark) => match wish.node_name {
            Some(other) if other != mark.node_name => {
                let (kept, wanted) = (mark.node_name.clone(), other.to_owned());
                Err(HomeError::Node { dir, kept, wanted })
            }
            _ => Ok(mark.clone()),
        },
    }
}

fn close_to_others(dir: &Path) -> Result<(), HomeError> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(failed("create", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", dir)(error));
        }
        _ => {}
    }
    let mode = fs::metadata(dir).map_err(failed("read", dir))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed("close", dir))
}

/// Whole or not at all, also over a power failure.
fn write_mark(dir: &Path, mark: &Mark) -> Result<(), HomeError> {
    let (new, path) = (dir.join(NEW_MARK), dir.join(MARK));
    let mut text = serde_json::to_string(mark).expect("a mark has string keys only");
    text.push('\n');
    let write = || -> io::Result<()> {
        let options =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
        let mut file = options.open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(failed("write", &path))
}

/// Removes what we made in a marked directory, but the data of claims, and the directory where nothing
/// else is in it. The mark goes last: a removal that was cut off can go on. Answers why the directory
/// stays.
///
/// # Errors
/// The first thing that cannot be removed.
pub fn remove(dir: &Path) -> Result<Option<String>, HomeError> {
    for name in OURS.into_iter().chain([MARK]) {
        let path = dir.join(name);
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|entry| entry.is_dir());
        let removed = match is_folder {
            // Empty, or somebody's data is in it.
            true if name == VOLUMES => match fs::remove_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                other => other,
            },
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(None),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            // Something else is in it, a file system is mounted on it, or it is a link.
            io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::NotADirectory => Ok(Some(error.to_string())),
            _ => Err(failed("remove", dir)(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish<'a>(installation: &'a str, given: Option<&'a str>, host_name: &'a str) -> Wish<'a> {
        Wish { installation, node_name: given, host_name }
    }

    #[test]
    fn a_node_keeps_its_name_when_the_host_is_renamed() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("state/ballast");
        let first = open(&dir, wish("default", None, "host-1")).expect("made");
        assert_eq!(first.node_name, "host-1");
        let second = open(&dir, wish("default", None, "renamed")).expect("opens");
        assert_eq!(second, first, "the kept name wins over the host's");
        open(&dir, wish("default", Some("host-1"), "renamed")).expect("said again");
        let told = open(&dir, wish("default", Some("other"), "renamed")).expect_err("another node");
        assert!(told.to_string().contains("give --node-name host-1"), "{told}");
    }

    #[test]
    fn a_directory_is_one_installations() {
        let folder = tempfile::tempdir().expect("a folder");
        open(folder.path(), wish("shop", None, "h")).expect("an empty directory is taken");
        let told = open(folder.path(), wish("default", None, "h")).expect_err("the shop's");
        assert!(told.to_string().contains("give --installation shop"), "{told}");
    }

    #[test]
    fn nobody_else_may_look_into_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let made = folder.path().join("made");
        open(&made, wish("default", None, "h")).expect("made");
        assert_eq!((mode(&made), mode(&made.join(MARK))), (0o700, 0o600));
        // An earlier version's: tightened at the next start.
        let open_to_all = folder.path().join("earlier");
        fs::create_dir_all(open_to_all.join("git")).expect("a folder");
        fs::write(open_to_all.join("store.db"), "").expect("a file");
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o755)).expect("opened");
        open(&open_to_all, wish("default", None, "h")).expect("taken up");
        assert_eq!(mode(&open_to_all), 0o700);
    }

    #[test]
    fn somebody_elses_directory_is_not_touched() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("thesis.tex"), "").expect("a file");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opened");
        let told = open(folder.path(), wish("default", None, "h")).expect_err("not ours");
        assert!(told.to_string().contains("\"thesis.tex\""), "{told}");
        assert_eq!(look(folder.path()).expect("read"), Found::Foreign("thesis.tex".into()));
        let mode = fs::metadata(folder.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn a_damaged_mark_is_no_mark_of_somebody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(MARK), "").expect("a file");
        let told = open(folder.path(), wish("default", None, "h")).expect_err("damaged");
        assert!(told.to_string().contains("is damaged"), "{told}");
    }

    #[test]
    fn only_what_we_made_is_removed_and_the_mark_goes_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("ballast");
        open(&dir, wish("default", None, "h")).expect("made");
        fs::create_dir_all(dir.join("git/x.git/objects")).expect("a folder");
        fs::write(dir.join("store.db"), "").expect("a file");
        fs::write(dir.join("notes.txt"), "mine").expect("a file");
        // Cut off before the mark: it can go on.
        fs::remove_dir_all(dir.join("git")).expect("removed");
        assert!(matches!(look(&dir), Ok(Found::Marked(_))));
        assert!(remove(&dir).expect("removed").is_some(), "it stays for the notes");
        let left: Vec<_> = fs::read_dir(&dir).expect("there").flatten().collect();
        assert_eq!(left.len(), 1);
        fs::remove_file(dir.join("notes.txt")).expect("removed");
        // Data of claims stays, and the next daemon takes the directory up.
        fs::create_dir_all(dir.join("volumes/pvc-1")).expect("a folder");
        assert!(remove(&dir).expect("removed").is_some());
        assert!(dir.join("volumes/pvc-1").exists());
        assert_eq!(look(&dir).expect("read"), Found::Unmarked);
        fs::remove_dir(dir.join("volumes/pvc-1")).expect("removed");
        assert_eq!(remove(&dir).expect("removed"), None);
        assert!(!dir.exists());
        assert_eq!(remove(&dir).expect("nothing to do"), None);
    }
}
