//! A part of a volume, bound to a place of our own. All of it blocks on the disk.
//!
//! The engine resolves a path by itself, and a container that may write to its volume could swap a
//! folder for a link to anywhere between our look and the engine's mount (CVE-2017-1002101). So the
//! part is opened beneath its volume by the kernel itself (`openat2`, which no rename can lead out),
//! what was opened is bound to a path that no container can write, and the engine is given that path.
//! Where the host lets nobody bind, the container is not made: there is no second way.
//!
//! As the kubelet does it (`pkg/volume/util/subpath`): what is missing is made as directories, the
//! last with the volume's own mode; a part of a configMap volume stays the file that it was.
//! Known limit: a link inside a volume is followed where it stays inside and is relative.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{
    FileType, Mode, OFlags, ResolveFlags, Stat, fchmod, fstat, lstat, mkdirat, openat, openat2,
};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

/// Renames that may come between while the kernel walks a path.
const TRIES: u32 = 64;
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Binds what is at `inside` of the volume to `at`, and makes it first where it is missing.
///
/// # Errors
/// A path that leads out of the volume, or what the file system or the kernel refuses.
pub fn bind(volume: &OwnedFd, inside: &Path, at: &Path) -> io::Result<()> {
    let part = match open_beneath(volume, inside, OFlags::PATH | OFlags::CLOEXEC) {
        Err(Errno::NOENT) => make_directories(volume, inside)?,
        opened => opened.map_err(explained)?,
    };
    let wanted = fstat(&part)?;
    if is_there(at, &wanted) {
        return Ok(());
    }
    release(at)?;
    place(at, FileType::from_raw_mode(wanted.st_mode) == FileType::Directory)?;
    let source = format!("/proc/self/fd/{}", part.as_fd().as_raw_fd());
    mount_bind(source.as_str(), at).map_err(|error| {
        let what = "this host does not let Ballast bind a part of a volume";
        io::Error::new(io::Error::from(error).kind(), format!("{what}: {error}"))
    })?;
    if is_there(at, &wanted) {
        return Ok(());
    }
    release(at)?;
    Err(io::Error::other("what was bound is not what was opened"))
}

fn explained(error: Errno) -> io::Error {
    match error {
        Errno::XDEV | Errno::LOOP => io::Error::other("it leads out of its volume"),
        Errno::NOSYS => io::Error::other("this kernel has no openat2 (Linux 5.6 has it)"),
        other => other.into(),
    }
}

/// Every link on the way is followed by the kernel as long as it stays beneath.
fn open_beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

/// Makes what is missing at the end of the path, and answers the last directory.
fn make_directories(volume: &OwnedFd, inside: &Path) -> io::Result<OwnedFd> {
    let parts: Vec<Component<'_>> = inside.components().collect();
    let (mut there, missing) = longest(volume, &parts)?;
    let mode = Mode::from_raw_mode(fstat(volume)?.st_mode & 0o2777);
    let Some((last, before)) = missing.split_last() else {
        return Err(io::Error::other("it went while it was looked for"));
    };
    for part in before {
        there = make_directory(&there, part, mode, DIRECTORY)?;
    }
    let readable = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let made = make_directory(&there, last, mode, readable)?;
    // The process' mask took bits away; whoever writes to the volume writes to its part too.
    fchmod(&made, mode)?;
    Ok(made)
}

/// The longest part of the path that exists, and the rest.
fn longest<'c>(
    volume: &OwnedFd,
    parts: &'c [Component<'c>],
) -> io::Result<(OwnedFd, &'c [Component<'c>])> {
    for count in (0..parts.len()).rev() {
        let before: PathBuf = parts[..count].iter().collect();
        let before = if count == 0 { Path::new(".") } else { &before };
        match open_beneath(volume, before, DIRECTORY) {
            Err(Errno::NOENT) => {}
            opened => return Ok((opened.map_err(explained)?, &parts[count..])),
        }
    }
    Err(Errno::NOENT.into())
}

/// No link is followed: whoever puts one where we made a directory is refused.
fn make_directory(
    parent: &OwnedFd,
    name: &Component<'_>,
    mode: Mode,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    match mkdirat(parent, name.as_os_str(), mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    openat(parent, name.as_os_str(), flags | OFlags::NOFOLLOW, Mode::empty()).map_err(explained)
}

fn is_there(at: &Path, wanted: &Stat) -> bool {
    let same = |found: Stat| (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino);
    lstat(at).is_ok_and(same)
}

/// Unmounts whatever was bound to this place, also where it was twice.
fn release(at: &Path) -> io::Result<()> {
    for _ in 0..TRIES {
        match unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            // Who may not unmount has not mounted either; if another did, the place is not empty.
            Err(Errno::PERM) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::BUSY.into())
}

/// An empty directory, or an empty file, for something to be bound to.
fn place(at: &Path, directory: bool) -> io::Result<()> {
    let parent = at.parent().ok_or(Errno::INVAL)?;
    fs::create_dir_all(parent)?;
    fs::set_permissions(parent, fs::Permissions::from_mode(0o750))?;
    match fs::symlink_metadata(at).map(|meta| meta.is_dir()) {
        Ok(is) if is == directory => return Ok(()),
        // Never more than the empty place itself.
        Ok(true) => fs::remove_dir(at)?,
        Ok(false) => fs::remove_file(at)?,
        Err(_) => {}
    }
    if directory { fs::create_dir(at) } else { fs::File::create(at).map(drop) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use rustix::fs::CWD;

    struct Volume {
        dir: tempfile::TempDir,
        root: OwnedFd,
    }

    impl Volume {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("volume");
            fs::create_dir(&path).expect("made");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2777)).expect("its mode");
            fs::create_dir(dir.path().join("outside")).expect("made");
            let root = openat(CWD, &path, DIRECTORY, Mode::empty()).expect("opened");
            Self { dir, root }
        }

        fn path(&self, inside: &str) -> PathBuf {
            self.dir.path().join("volume").join(inside)
        }

        /// What would be bound.
        fn opened(&self, inside: &str) -> io::Result<OwnedFd> {
            let inside = Path::new(inside);
            match open_beneath(&self.root, inside, OFlags::PATH | OFlags::CLOEXEC) {
                Err(Errno::NOENT) => make_directories(&self.root, inside),
                opened => opened.map_err(explained),
            }
        }
    }

    fn inode(fd: &OwnedFd) -> u64 {
        fstat(fd).expect("a stat").st_ino
    }

    #[test]
    fn what_is_missing_is_made_with_the_mode_of_the_volume() {
        let volume = Volume::new();
        let made = volume.opened("a/b/c").expect("made");
        let there = fs::metadata(volume.path("a/b/c")).expect("it is there");
        assert_eq!(there.permissions().mode() & 0o7777, 0o2777);
        assert_eq!(inode(&made), inode(&volume.opened("a/./b/c").expect("there")));
        fs::write(volume.path("file"), "1").expect("written");
        assert!(volume.opened("file").is_ok(), "a file is a part too");
        assert!(volume.opened("file/below").is_err());
    }

    #[test]
    fn no_link_leads_out_of_the_volume() {
        let volume = Volume::new();
        let outside = volume.dir.path().join("outside");
        symlink(&outside, volume.path("absolute")).expect("a link");
        symlink("../outside", volume.path("climbs")).expect("a link");
        symlink("/proc/self/root", volume.path("magic")).expect("a link");
        symlink("nowhere", volume.path("dangles")).expect("a link");
        fs::create_dir(volume.path("real")).expect("made");
        symlink("real", volume.path("stays")).expect("a link");
        for bad in [
            "absolute",
            "absolute/new",
            "climbs",
            "climbs/new/deep",
            "magic/etc",
            "dangles",
            "dangles/new",
            "../outside",
            "real/../../outside",
        ] {
            assert!(volume.opened(bad).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(outside).expect("there").count(), 0, "nothing was made outside");
        let followed = volume.opened("stays/new").expect("it stays inside");
        assert_eq!(inode(&followed), inode(&volume.opened("real/new").expect("the same")));
    }

    /// A container swaps a folder for a link to the outside, as fast as it can.
    #[test]
    fn a_swap_under_way_never_leads_out() {
        let volume = Volume::new();
        let outside = volume.dir.path().join("outside");
        fs::create_dir(outside.join("part")).expect("made");
        let secret = inode(&openat(CWD, outside.join("part"), DIRECTORY, Mode::empty()).unwrap());
        fs::create_dir_all(volume.path("folder/part")).expect("made");
        symlink(&outside, volume.path("link")).expect("a link");
        let (one, other) = (volume.path("folder"), volume.path("link"));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, &one, CWD, &other, flags).expect("swapped");
                }
            });
            let mut found = 0;
            for _ in 0..20_000 {
                if let Ok(part) = volume.opened("folder/part") {
                    assert_ne!(inode(&part), secret);
                    found += 1;
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(found > 0, "now and then it is the folder");
        });
    }
}
