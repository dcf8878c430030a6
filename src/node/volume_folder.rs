//! The directories behind persistent volumes: made, listed, and removed with all that is in them. All of
//! it blocks on the disk.
//!
//! What is removed is data of somebody who trusts us, and what is in it was written by containers: a link
//! is unlinked and never followed, another file system is never entered (somebody mounted it there, and
//! what is on it is not the claim's), and a tree of any depth takes two open directories: what is deep is
//! lifted up first.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags, fsync, openat, openat2,
    renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::node::volume_mount_table::mounts_below;

const MOUNT_TABLE: &str = "/proc/self/mountinfo";
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Whoever a container runs as may write, as with every provisioner of directories.
const MODE: u32 = 0o777;

/// Makes the directory `name` in `folder`, durably: after a power failure it is there, as what is said of
/// it in the store. One that is there is left as it is.
///
/// # Errors
/// What the file system refuses; something else has its name.
pub fn make(folder: &Path, name: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let path = folder.join(name);
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(io::Error::other(format!("{} is no directory", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Aside, so that whoever sees it sees it whole; no volume has such a name.
    let aside = folder.join(format!(".{name}"));
    match fs::create_dir(&aside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(&aside, fs::Permissions::from_mode(MODE))?;
    fs::rename(&aside, &path)?;
    fs::File::open(folder)?.sync_all()
}

/// The names of all directories in `folder`; none where it is not there.
///
/// # Errors
/// It cannot be read.
pub fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Begun, and nobody's yet.
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes the directory `name` of `folder` with everything in it. Fine where it is gone.
///
/// # Errors
/// Something is mounted on it or below it; it is a link or a file; what the file system refuses.
pub fn remove(folder: &Path, name: &str) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let folder = match folder.canonicalize() {
        Err(error) if gone(&error) => return Ok(()),
        real => real?,
    };
    let path = folder.join(name);
    // Before anything is touched: half a removal helps nobody.
    if let Some(point) = mounts_below(&fs::read(MOUNT_TABLE)?, &path).first() {
        return Err(io::Error::other(format!("{} is mounted, unmount it", point.display())));
    }
    let parent = openat(CWD, &folder, DIRECTORY, Mode::empty())?;
    let name = CString::new(name)?;
    let volume = match open_below(&parent, name.as_bytes()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(io::Error::other(format!("{} is no directory", path.display())));
        }
        opened => opened.map_err(|error| explained(error, name.as_bytes()))?,
    };
    empty(&volume)?;
    unlinkat(&parent, &name, AtFlags::REMOVEDIR)?;
    fsync(&parent)?;
    Ok(())
}

/// One name further, and neither by a link nor into another file system.
fn open_below(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(parent, name, DIRECTORY, Mode::empty(), resolve)
}

fn explained(error: Errno, name: &[u8]) -> io::Error {
    let name = OsStr::from_bytes(name).to_string_lossy().into_owned();
    let kind = io::Error::from(error).kind();
    match error {
        Errno::XDEV => io::Error::other(format!("{name:?} is another file system, unmount it")),
        Errno::NOSYS => io::Error::other("this kernel has no openat2 (Linux 5.6 has it)"),
        other => io::Error::new(kind, format!("{name:?}: {other}")),
    }
}

/// Removes everything in a directory, whatever is written into it meanwhile, until it is empty or a whole
/// pass over it came no further.
fn empty(root: &OwnedFd) -> io::Result<()> {
    let mut lifted = 0_u64;
    loop {
        let (mut left, mut went) = (false, false);
        for entry in Dir::read_from(root)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            left = true;
            went |= remove_entry(root, name.to_bytes(), &mut lifted)?;
        }
        match (left, went) {
            (false, _) => return Ok(()),
            (true, true) => {}
            (true, false) => return Err(io::Error::other("it is written to while it is removed")),
        }
    }
}

/// Removes one entry, a folder's own folders lifted beside it first. Answers whether anything changed.
fn remove_entry(root: &OwnedFd, name: &[u8], lifted: &mut u64) -> io::Result<bool> {
    match unlinkat(root, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(explained(error, name)),
    }
    let folder = open_below(root, name).map_err(|error| explained(error, name))?;
    let mut went = false;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let inner = entry.file_name();
        if matches!(inner.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&folder, inner, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => lift(&folder, inner.to_bytes(), root, lifted)?,
            Err(error) => return Err(explained(error, inner.to_bytes())),
        }
        went = true;
    }
    match unlinkat(root, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // Something was written into it since: the next pass sees it.
        Err(Errno::NOTEMPTY) => Ok(went),
        Err(error) => Err(explained(error, name)),
    }
}

/// Moves a folder up, under a name that nothing has.
fn lift(from: &OwnedFd, name: &[u8], root: &OwnedFd, lifted: &mut u64) -> io::Result<()> {
    loop {
        *lifted += 1;
        let to = format!(".removed-{lifted}");
        match renameat_with(from, name, root, to, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(explained(error, name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_directory_is_made_for_everybody_once() {
        let home = tempfile::tempdir().expect("a directory");
        let folder = home.path().join("volumes");
        assert_eq!(names(&folder).expect("none yet"), [""; 0]);
        make(&folder, "pvc-1").expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
        assert_eq!(mode(&folder.join("pvc-1")), 0o777);
        fs::write(folder.join("pvc-1/data"), "kept").expect("written");
        fs::set_permissions(folder.join("pvc-1"), fs::Permissions::from_mode(0o2770)).expect("set");
        // A crash before the object was stored: the second make finds what the first one made.
        fs::create_dir(folder.join(".pvc-2")).expect("a crash left it");
        make(&folder, "pvc-1").expect("it is there");
        make(&folder, "pvc-2").expect("made");
        assert_eq!(mode(&folder.join("pvc-1")), 0o2770, "what is there is left as it is");
        assert_eq!(fs::read_to_string(folder.join("pvc-1/data")).expect("there"), "kept");
        assert_eq!(names(&folder).expect("two"), ["pvc-1", "pvc-2"]);
        fs::write(folder.join("pvc-3"), "").expect("somebody's file");
        assert!(make(&folder, "pvc-3").is_err());
        symlink(home.path(), folder.join("pvc-4")).expect("a link");
        assert!(make(&folder, "pvc-4").is_err());
    }

    #[test]
    fn all_of_it_goes_and_nothing_behind_a_link() {
        let home = tempfile::tempdir().expect("a directory");
        let (folder, other) = (home.path().join("volumes"), home.path().join("other"));
        fs::create_dir(&other).expect("made");
        fs::write(other.join("data"), "kept").expect("written");
        make(&folder, "pvc-1").expect("made");
        make(&folder, "pvc-2").expect("made");
        let volume = folder.join("pvc-1");
        fs::create_dir_all(volume.join("a/b/c")).expect("made");
        fs::write(volume.join("a/b/c/file"), "1").expect("written");
        fs::create_dir(volume.join(".removed-1")).expect("a name that somebody has");
        symlink(&other, volume.join("out")).expect("a link");
        symlink("/", volume.join("a/b/root")).expect("a link");
        fs::set_permissions(volume.join("a"), fs::Permissions::from_mode(0o000)).expect("closed");
        remove(&folder, "pvc-1").expect("removed");
        assert_eq!(names(&folder).expect("one"), ["pvc-2"]);
        assert_eq!(fs::read_to_string(other.join("data")).expect("there"), "kept");
        remove(&folder, "pvc-1").expect("it is gone");
        // In its place stands a link to somebody's data.
        symlink(&other, folder.join("pvc-3")).expect("a link");
        assert!(
            remove(&folder, "pvc-3").is_err_and(|why| why.to_string().contains("no directory"))
        );
        fs::write(folder.join("pvc-4"), "").expect("a file");
        assert!(remove(&folder, "pvc-4").is_err());
        assert!(other.join("data").exists());
        remove(&home.path().join("never"), "pvc-1").expect("nothing is there");
    }

    /// Deeper than a path can be written, and than a process may open folders.
    #[test]
    fn a_tree_of_any_depth_goes() {
        let home = tempfile::tempdir().expect("a directory");
        make(home.path(), "pvc-1").expect("made");
        let mut there = openat(CWD, home.path().join("pvc-1"), DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&there, "deeper", Mode::from_raw_mode(0o700)).expect("made");
            there = openat(&there, "deeper", DIRECTORY, Mode::empty()).expect("opened");
        }
        remove(home.path(), "pvc-1").expect("removed");
        assert!(!home.path().join("pvc-1").exists());
    }
}
