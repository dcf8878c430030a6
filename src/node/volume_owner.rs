//! Gives what is in a volume to its pod's group, before the first container of the node has it: a claim
//! may hold what an earlier pod wrote. It blocks on the disk.
//!
//! The kubelet's bits (`pkg/volume/volume_linux.go`): the group reads and writes every file, enters every
//! folder, and owns what is made in one. No link is followed and no other file system entered.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, chmodat, chownat, fchmod,
    fchown, fstat, openat, openat2, statat,
};
use rustix::io::Errno;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const OF_FILES: u32 = 0o660;
const OF_FOLDERS: u32 = 0o2770;

/// `fsGroupChangePolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangePolicy {
    Always,
    /// Nothing is looked at where the volume's own directory is as it should be.
    OnRootMismatch,
}

/// Makes `group` the owner of a directory and of everything in it.
///
/// # Errors
/// What the file system refuses.
pub fn give(directory: &Path, group: u32, policy: ChangePolicy) -> io::Result<()> {
    let root = openat(CWD, directory, DIRECTORY, Mode::empty())?;
    let seen = fstat(&root)?;
    if policy == ChangePolicy::OnRootMismatch && has(&seen, group, OF_FOLDERS) {
        return Ok(());
    }
    let mut left = vec![PathBuf::from(".")];
    while let Some(path) = left.pop() {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let folder = match openat2(&root, &path, DIRECTORY, Mode::empty(), resolve) {
            // It went, or is another file system.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            opened => opened?,
        };
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match FileType::from_raw_mode(stat_of(&folder, name)?.map_or(0, |seen| seen.st_mode)) {
                FileType::Directory => {
                    use std::os::unix::ffi::OsStrExt;
                    left.push(path.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
                }
                FileType::Unknown => {}
                kind => give_one(&folder, name, kind, group)?,
            }
        }
        if path != Path::new(".") {
            give_folder(&folder, group)?;
        }
    }
    // Last, so that a change that was cut off is seen as one.
    give_folder(&root, group)
}

fn stat_of(folder: &OwnedFd, name: &std::ffi::CStr) -> io::Result<Option<Stat>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        seen => Ok(Some(seen?)),
    }
}

fn has(seen: &Stat, group: u32, bits: u32) -> bool {
    seen.st_gid == group && seen.st_mode & bits == bits
}

fn permissions(seen: &Stat, more: u32) -> Mode {
    Mode::from_raw_mode((seen.st_mode & 0o7777) | more)
}

fn give_folder(folder: &OwnedFd, group: u32) -> io::Result<()> {
    let seen = fstat(folder)?;
    if !has(&seen, group, OF_FOLDERS) {
        fchown(folder, None, Some(Gid::from_raw(group)))?;
        // After the owner, whose change takes the bit away.
        fchmod(folder, permissions(&seen, OF_FOLDERS))?;
    }
    Ok(())
}

/// A file, a socket or a device by what it is, opened without a look at its content; of a link the link.
fn give_one(folder: &OwnedFd, name: &std::ffi::CStr, kind: FileType, group: u32) -> io::Result<()> {
    if kind == FileType::Symlink {
        return match chownat(
            folder,
            name,
            None,
            Some(Gid::from_raw(group)),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        };
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let seen = fstat(&file)?;
    let is_same = FileType::from_raw_mode(seen.st_mode) == kind;
    if !is_same || has(&seen, group, OF_FILES) {
        return Ok(());
    }
    let opened = format!("/proc/self/fd/{}", BorrowedFd::as_raw_fd(&file.as_fd()));
    chownat(CWD, opened.as_str(), None, Some(Gid::from_raw(group)), AtFlags::empty())?;
    chmodat(CWD, opened.as_str(), permissions(&seen, OF_FILES), AtFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// The group needs no right that the tests' own user lacks.
    fn own() -> u32 {
        rustix::process::getegid().as_raw()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("there").permissions().mode() & 0o7777
    }

    #[test]
    fn everything_in_it_is_the_groups_and_nothing_behind_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).expect("made");
        fs::create_dir(&outside).expect("made");
        for (path, bits) in [("v/a/b/file", 0o600), ("v/program", 0o711), ("outside/file", 0o600)] {
            fs::write(dir.path().join(path), "1").expect("written");
            let bits = fs::Permissions::from_mode(bits);
            fs::set_permissions(dir.path().join(path), bits).expect("set");
        }
        symlink(&outside, volume.join("out")).expect("a link");
        symlink(outside.join("file"), volume.join("a/file")).expect("a link");
        give(&volume, own(), ChangePolicy::Always).expect("given");
        let bits = ["", "a", "a/b", "a/b/file", "program"].map(|path| mode(&volume.join(path)));
        assert_eq!(bits.map(|bits| bits & 0o2770), [0o2770, 0o2770, 0o2770, 0o660, 0o770]);
        assert_eq!(mode(&volume.join("program")), 0o771);
        assert_eq!(mode(&outside.join("file")), 0o600);
        assert!(fs::metadata(&volume).expect("there").gid() == own());
    }

    #[test]
    fn a_root_that_fits_is_enough_where_the_policy_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "1").expect("written");
        let close = || fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        close();
        give(dir.path(), own(), ChangePolicy::OnRootMismatch).expect("given");
        assert_eq!(mode(&file), 0o660, "the root did not fit");
        close();
        give(dir.path(), own(), ChangePolicy::OnRootMismatch).expect("given");
        assert_eq!(mode(&file), 0o600);
        give(dir.path(), own(), ChangePolicy::Always).expect("given");
        assert_eq!(mode(&file), 0o660);
        assert!(give(&dir.path().join("none"), own(), ChangePolicy::Always).is_err());
    }
}
