//! Makes the directories and files of a pod's volumes, and takes them away. What they are is
//! decided in `volume_plan.rs`. All of it blocks on the disk: called on a blocking thread.
//!
//! A hostPath is judged by where it leads on this host, links followed, and what is missing of it is
//! made below a directory that was opened without following any. Known limit: the engine resolves the
//! path once more when it mounts it, so whoever may write to a directory above can still swap it then.
//!
//! A persistent volume's directory is never made here: one that is not there holds the pod, for an empty
//! one in its place would hide that data is lost.
//!
//! What a volume is when it is first seen it is at once, its owner too: it is made aside and renamed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::node::container_spec::{MountFrom, MountSpec};
use crate::node::volume_mount_table::mounts_below;
use crate::node::volume_plan::{
    HostPathType, PARTS, PlannedMount, VOLUMES, VolumeKind, VolumePlan,
};
use crate::node::volume_subpath;
use crate::node::volume_writer::write_files;
use crate::object::host_path::{self, FORBIDDEN_TREES};

const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// What could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {what}: {source}")]
    Io { volume: String, what: String, source: io::Error },
    #[error(
        "MountVolume.SetUp failed for volume \"{volume}\" : hostPath type check failed: {path} is not {wanted}"
    )]
    HostPath { volume: String, path: String, wanted: &'static str },
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : hostPath {path}: {why}")]
    Refused { volume: String, path: String, why: String },
    #[error(
        "MountVolume.NewMounter initialization failed for volume \"{volume}\" : path \"{path}\" does not exist"
    )]
    NotThere { volume: String, path: String },
    #[error(
        "MountVolume.NewMounter initialization failed for volume \"{volume}\" : {path} is no directory, and only directories are supported"
    )]
    NoDirectory { volume: String, path: String },
}

fn failed(volume: &VolumePlan, what: &str, source: io::Error) -> VolumeError {
    VolumeError::Io { volume: volume.shown().to_owned(), what: what.to_owned(), source }
}

/// Makes every volume what the plan says. Idempotent: called again when a ConfigMap changed. Answers
/// a sentence for each volume that is less than what was asked, for an Event. `home` is the daemon's
/// own directory, which no pod may see.
///
/// # Errors
/// The first volume that cannot be made.
pub fn prepare(plans: &[VolumePlan], home: &Path) -> Result<Vec<String>, VolumeError> {
    let mut degraded = Vec::new();
    for plan in plans {
        let mut in_memory = |options: &str| {
            let refused = mount_memory(&plan.path, options).err();
            degraded.extend(refused.map(|error| {
                format!(
                    "this host refuses a tmpfs ({error}): volume \"{}\" is a directory on disk, without a bound",
                    plan.name
                )
            }));
        };
        match &plan.kind {
            VolumeKind::HostPath(check) => check_host_path(plan, *check, home)?,
            VolumeKind::Local { .. } => drop(real_path(plan, home)?),
            // The engine makes none, and whether it has it only the engine says.
            VolumeKind::Engine { .. } => {}
            VolumeKind::Directory => directory(plan, 0o777)?,
            VolumeKind::Memory { size } => {
                directory(plan, 0o777)?;
                let size = size.map(|bytes| format!("size={bytes},")).unwrap_or_default();
                in_memory(&format!("{size}{}", ownership(plan, 0o777)));
            }
            VolumeKind::Files { files, in_memory: secret } => {
                directory(plan, 0o755)?;
                if *secret {
                    in_memory(&ownership(plan, 0o755));
                }
                write_files(&plan.path, files, plan.group)
                    .map_err(|error| failed(plan, "files not written", error))?;
            }
        }
    }
    Ok(degraded)
}

fn directory(plan: &VolumePlan, mode: u32) -> Result<(), VolumeError> {
    if plan.path.is_dir() {
        return Ok(());
    }
    make_directory(plan, mode).map_err(|error| failed(plan, "directory not made", error))
}

fn make_directory(plan: &VolumePlan, mode: u32) -> io::Result<()> {
    // No volume has such a name: what a crash left is nobody's.
    let aside = plan.path.with_file_name(format!(".{}", plan.name));
    fs::create_dir_all(&aside)?;
    if plan.group.is_some() {
        chown(&aside, None, plan.group)?;
    }
    fs::set_permissions(&aside, fs::Permissions::from_mode(with_group(plan, mode)))?;
    fs::rename(&aside, &plan.path)
}

/// The kubelet's bits for a pod's group on a volume's root: reading, writing and opening it, and what
/// is made inside is the group's (`pkg/volume/volume_linux.go`).
fn with_group(plan: &VolumePlan, mode: u32) -> u32 {
    let files = matches!(plan.kind, VolumeKind::Files { .. });
    match plan.group {
        Some(_) if files => mode | 0o2550,
        Some(_) => mode | 0o2770,
        None => mode,
    }
}

fn ownership(plan: &VolumePlan, mode: u32) -> String {
    let group = plan.group.map(|group| format!("gid={group},")).unwrap_or_default();
    format!("{group}mode={:04o}", with_group(plan, mode))
}

/// Mounts a tmpfs, once. A host that refuses (no CAP_SYS_ADMIN) keeps the plain directory: the pod
/// still runs, and the directory is readable by root alone from the data directory on.
fn mount_memory(path: &Path, options: &str) -> Result<(), rustix::io::Errno> {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let mounted = path.parent().is_some_and(|parent| device(parent) != device(path));
    if mounted {
        return Ok(());
    }
    let options = std::ffi::CString::new(options).expect("made of digits and words");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", path, "tmpfs", flags, Some(options.as_c_str()))
}

/// Where a host path really leads, and what is missing at its end: the longest part that exists, with
/// every link followed, and the rest.
fn follow(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let mut missing = PathBuf::new();
    let mut there = path;
    loop {
        match there.canonicalize() {
            Ok(real) => return Ok((real, missing)),
            // A link to nowhere is there, and nothing can be made behind it.
            Err(error) if fs::symlink_metadata(there).is_ok() => return Err(error),
            Err(error) => {
                let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else {
                    return Err(error);
                };
                missing = if missing.as_os_str().is_empty() {
                    PathBuf::from(name)
                } else {
                    Path::new(name).join(missing)
                };
                there = parent;
            }
        }
    }
}

/// Why no pod may have what is at this real path.
fn gives_away(real: &Path, home: &Path) -> Option<String> {
    let real_home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    if real.starts_with(&real_home) || real_home.starts_with(real) {
        return Some(format!("{} is or holds Ballast's own directory", real.display()));
    }
    // The engine's directories may be links to a larger disk.
    let holds = FORBIDDEN_TREES.iter().filter_map(|tree| Path::new(tree).canonicalize().ok());
    let mut holds = holds.filter(|tree| real.starts_with(tree) || tree.starts_with(real));
    let sentence =
        || format!("{} gives the host away; mount a folder made for the pod", real.display());
    host_path::refusal(&real.to_string_lossy()).or_else(|| holds.next().map(|_| sentence()))
}

fn refuse_what_gives_away(plan: &VolumePlan, real: &Path, home: &Path) -> Result<(), VolumeError> {
    let (volume, path) = (plan.shown().to_owned(), plan.path.display().to_string());
    match gives_away(real, home) {
        Some(why) => Err(VolumeError::Refused { volume, path, why }),
        None => Ok(()),
    }
}

/// A directory opened step by step, no link followed: who swaps one in meanwhile is refused.
fn open_straight(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = openat(CWD, "/", flags, Mode::empty())?;
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        let part: &Path = part.as_ref();
        directory = openat(&directory, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(directory)
}

/// Makes the missing part of a path as directories.
fn make_directories(there: &Path, missing: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut directory = open_straight(there)?;
    for part in missing {
        match mkdirat(&directory, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        directory = openat(&directory, part, flags, Mode::empty())?;
    }
    Ok(())
}

fn make_file(there: &Path, missing: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&open_straight(there)?, missing, flags, Mode::from_raw_mode(0o644))?;
    Ok(())
}

/// Makes what is missing, if the type says so, and checks what is there.
fn check_host_path(plan: &VolumePlan, check: HostPathType, home: &Path) -> Result<(), VolumeError> {
    let (there, missing) =
        follow(&plan.path).map_err(|error| failed(plan, "hostPath leads nowhere", error))?;
    let real = if missing.as_os_str().is_empty() { there.clone() } else { there.join(&missing) };
    refuse_what_gives_away(plan, &real, home)?;
    let wrong = |wanted| VolumeError::HostPath {
        volume: plan.shown().to_owned(),
        path: plan.path.display().to_string(),
        wanted,
    };
    let made =
        |result: io::Result<()>| result.map_err(|error| failed(plan, "hostPath not made", error));
    let kind = fs::symlink_metadata(&real).map(|meta| meta.file_type()).ok();
    let is = |fits: fn(&fs::FileType) -> bool| kind.as_ref().is_some_and(fits);
    let (fits, wanted) = match check {
        // The engine refuses a bind whose source is missing; the kubelet's runtime makes it.
        HostPathType::Unchecked | HostPathType::DirectoryOrCreate if kind.is_none() => {
            return made(make_directories(&there, &missing));
        }
        HostPathType::FileOrCreate if kind.is_none() => return made(make_file(&there, &missing)),
        HostPathType::Unchecked => (true, ""),
        HostPathType::DirectoryOrCreate | HostPathType::Directory => {
            (is(fs::FileType::is_dir), "a directory")
        }
        HostPathType::FileOrCreate | HostPathType::File => (is(fs::FileType::is_file), "a file"),
        HostPathType::Socket => (is(FileTypeExt::is_socket), "a socket"),
        HostPathType::CharDevice => (is(FileTypeExt::is_char_device), "a character device"),
        HostPathType::BlockDevice => (is(FileTypeExt::is_block_device), "a block device"),
    };
    if fits { Ok(()) } else { Err(wrong(wanted)) }
}

/// Where the path of a hostPath or a persistent volume leads, if a pod may have what is there.
fn real_path(plan: &VolumePlan, home: &Path) -> Result<PathBuf, VolumeError> {
    let is_local = matches!(plan.kind, VolumeKind::Local { .. });
    let (volume, path) = (plan.shown().to_owned(), plan.path.display().to_string());
    let leads_nowhere = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound if is_local => {
            VolumeError::NotThere { volume: volume.clone(), path: path.clone() }
        }
        _ => failed(plan, "path leads nowhere", error),
    };
    let own = plan.kind == VolumeKind::Local { own: true };
    let real = match (own, plan.path.parent(), plan.path.file_name()) {
        // The folder of all of them may be a link to a larger disk; what was made in it is none.
        (true, Some(folder), Some(name)) => {
            folder.canonicalize().map_err(&leads_nowhere)?.join(name)
        }
        _ => plan.path.canonicalize().map_err(&leads_nowhere)?,
    };
    if is_local && !fs::symlink_metadata(&real).map_err(&leads_nowhere)?.is_dir() {
        return Err(VolumeError::NoDirectory { volume, path });
    }
    if !own {
        refuse_what_gives_away(plan, &real, home)?;
    }
    Ok(real)
}

/// What the engine is told to mount: paths without links, so that what was judged is what is mounted,
/// and for a part of a volume the place that it was bound to.
///
/// # Errors
/// The sentence behind `CreateContainerConfigError`.
pub fn lead(
    mounts: &[PlannedMount],
    volumes: &[VolumePlan],
    home: &Path,
) -> Result<Vec<MountSpec>, String> {
    let lead = |mount: &PlannedMount| -> Result<MountSpec, String> {
        let plan = volumes.iter().find(|plan| plan.name == mount.volume);
        let plan = plan.ok_or_else(|| format!("volume \"{}\" does not exist", mount.volume))?;
        let mut spec = mount.spec.clone();
        match &plan.kind {
            VolumeKind::HostPath(_) | VolumeKind::Local { .. } => {
                let real = real_path(plan, home).map_err(|error| error.to_string())?;
                spec.source = real.display().to_string();
            }
            VolumeKind::Engine { volume } if mount.wants_a_path() => {
                if plan.path.as_os_str().is_empty() {
                    return Err(format!(
                        "docker volume {volume} is no plain directory of this host: subPath, mountPropagation and recursiveReadOnly need one"
                    ));
                }
                (spec.source, spec.from) = (plan.path.display().to_string(), MountFrom::Host);
            }
            _ => {}
        }
        if let Some(part) = &mount.part {
            let of_host =
                matches!(plan.kind, VolumeKind::HostPath(_) | VolumeKind::Local { own: false });
            let root = open_root(Path::new(&spec.source), of_host);
            let bound = root.and_then(|root| volume_subpath::bind(&root, &part.inside, &part.at));
            bound.map_err(|error| {
                format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                    mount.volume, part.container
                )
            })?;
            spec.source = part.at.display().to_string();
        }
        Ok(spec)
    };
    mounts.iter().map(lead).collect()
}

/// Our own directories are below the data directory, which may stand behind a link of the user's; in
/// a host's folder nothing above may be swapped meanwhile.
fn open_root(path: &Path, of_host: bool) -> io::Result<OwnedFd> {
    if of_host {
        return open_straight(path);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Removes the directories of all pods but those that `is_used` knows by their uid, and answers what
/// could not be removed. It is asked when a directory was found: a pod is known before its worker
/// makes anything, so one that came meanwhile is known by then.
pub fn sweep(pods: &Path, mut is_used: impl FnMut(&str) -> bool) -> Vec<(PathBuf, io::Error)> {
    let mut failed = Vec::new();
    for entry in fs::read_dir(pods).into_iter().flatten().flatten() {
        if !is_used(&entry.file_name().to_string_lossy()) {
            failed.extend(remove(&entry.path()).err().map(|error| (entry.path(), error)));
        }
    }
    failed
}

/// Unmounts and removes a pod's volumes; what else is kept of it stays.
///
/// # Errors
/// As [`remove`].
pub fn clear(pod_directory: &Path) -> io::Result<()> {
    remove(&pod_directory.join(PARTS))?;
    remove(&pod_directory.join(VOLUMES))
}

/// Unmounts and removes everything of a pod.
///
/// # Errors
/// What the file system refuses; the caller tries again. Nothing is removed while anything is still
/// mounted inside: it would be removed from where it really is.
pub fn remove(pod_directory: &Path) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let real = match pod_directory.canonicalize() {
        Err(error) if gone(&error) => return Ok(()),
        real => real?,
    };
    detach_below(&real)?;
    match fs::remove_dir_all(real) {
        Err(error) if gone(&error) => Ok(()),
        other => other,
    }
}

fn detach_below(directory: &Path) -> io::Result<()> {
    let left = || Ok::<_, io::Error>(mounts_below(&fs::read(MOUNT_TABLE)?, directory));
    for point in left()? {
        match unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // It went with the one above it.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => {
                let what = format!("{} not unmounted: {error}", point.display());
                return Err(io::Error::new(io::Error::from(error).kind(), what));
            }
        }
    }
    match left()?.first() {
        None => Ok(()),
        Some(point) => Err(io::Error::other(format!("{} is still mounted", point.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::volume_plan::PartOfVolume;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tmpfs_that_is_refused_leaves_a_directory_and_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("v");
        // No kernel takes this size, with or without the right to mount.
        let kind = VolumeKind::Memory { size: Some(-1) };
        let plans =
            [VolumePlan { name: "v".into(), path: path.clone(), kind, ..VolumePlan::default() }];
        let degraded = prepare(&plans, dir.path());
        let degraded = degraded.expect("the pod still runs");
        assert!(degraded[0].contains("volume \"v\" is a directory on disk"), "{degraded:?}");
        assert!(path.is_dir());
    }

    /// A pod comes while the sweep is under way: its directory is found, and it was not known when the
    /// sweep began.
    #[test]
    fn a_sweep_spares_a_pod_that_has_just_made_its_volumes() {
        let dir = tempfile::tempdir().expect("a directory");
        let uids = ["gone-1", "gone-2", "runs", "starts"];
        for uid in uids {
            fs::create_dir_all(dir.path().join(uid).join("volumes/v")).expect("made");
            fs::write(dir.path().join(uid).join("volumes/v/a"), "1").expect("written");
        }
        let mut known = vec!["runs"];
        let mut asked = Vec::new();
        let failed = sweep(dir.path(), |uid| {
            known.push("starts");
            asked.push(uid.to_owned());
            known.contains(&uid)
        });
        assert!(failed.is_empty(), "{failed:?}");
        asked.sort();
        assert_eq!(asked, uids, "each is asked for by itself");
        let mut left: Vec<_> = fs::read_dir(dir.path()).expect("there").flatten().collect();
        left.sort_by_key(fs::DirEntry::file_name);
        assert_eq!(
            left.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>(),
            ["runs", "starts"]
        );
        assert!(sweep(&dir.path().join("none"), |_| false).is_empty(), "no pod had a volume yet");
    }

    fn mount_of(plan: &VolumePlan, part: Option<PartOfVolume>) -> PlannedMount {
        PlannedMount {
            volume: plan.name.clone(),
            spec: MountSpec::plain(plan.path.display().to_string(), "/x", true),
            part,
        }
    }

    #[test]
    fn a_directory_is_its_pods_groups_from_the_first_moment() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = rustix::process::getegid().as_raw();
        let made = |name: &str, kind: VolumeKind, group: Option<u32>| {
            let path = dir.path().join("volumes").join(name);
            let plans = [VolumePlan {
                name: name.into(),
                path: path.clone(),
                kind,
                group,
                ..VolumePlan::default()
            }];
            prepare(&plans, dir.path()).expect("made");
            let meta = fs::metadata(path).expect("it is there");
            (meta.permissions().mode() & 0o7777, meta.gid())
        };
        assert_eq!(made("plain", VolumeKind::Directory, None).0, 0o777);
        assert_eq!(made("grouped", VolumeKind::Directory, Some(own)), (0o2777, own));
        let files = VolumeKind::Files { files: Default::default(), in_memory: false };
        assert_eq!(made("files", files, Some(own)), (0o2755, own));
        // A container may have changed it since: what is there is left as it is.
        let path = dir.path().join("volumes/grouped");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("changed");
        assert_eq!(made("grouped", VolumeKind::Directory, Some(own)).0, 0o700);
        assert_eq!(fs::read_dir(dir.path().join("volumes")).expect("there").count(), 3);
    }

    #[test]
    fn a_part_that_leads_out_is_refused_by_its_mount() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("v");
        fs::create_dir(&path).expect("made");
        symlink("/etc", path.join("link")).expect("a link");
        let plan = VolumePlan { name: "v".into(), path, ..VolumePlan::default() };
        let part = PartOfVolume {
            inside: "link/new".into(),
            at: dir.path().join("at"),
            container: "c".into(),
        };
        let sentence =
            lead(&[mount_of(&plan, Some(part))], std::slice::from_ref(&plan), dir.path());
        let wanted = "failed to prepare subPath for volumeMount \"v\" of container \"c\": it leads out of its volume";
        assert_eq!(sentence, Err(wanted.to_owned()));
        assert!(!dir.path().join("at").exists());
    }

    #[test]
    fn host_paths_are_checked_by_type() {
        let dir = tempfile::tempdir().expect("a directory");
        let plan = |path: &str, check| VolumePlan {
            name: "v".into(),
            path: dir.path().join(path),
            kind: VolumeKind::HostPath(check),
            ..VolumePlan::default()
        };
        let made = |path: &str, check| prepare(&[plan(path, check)], Path::new("/no/such/home"));
        assert!(made("no", HostPathType::Directory).is_err());
        assert!(made("new/deep", HostPathType::DirectoryOrCreate).is_ok());
        assert!(made("new", HostPathType::File).is_err());
        assert!(made("f", HostPathType::FileOrCreate).is_ok());
        assert!(made("f", HostPathType::File).is_ok());
        assert!(made("other/deep", HostPathType::Unchecked).is_ok());
        assert!(dir.path().join("other/deep").is_dir());
        assert!(made("no/f", HostPathType::FileOrCreate).is_err(), "only the file is made");
        remove(&dir.path().join("new")).expect("gone");
    }

    #[test]
    fn a_host_path_is_what_its_links_lead_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = dir.path().join("home");
        fs::create_dir_all(home.join("pods")).expect("made");
        fs::create_dir(dir.path().join("data")).expect("made");
        let link = |to: &Path, name: &str| symlink(to, dir.path().join(name)).expect("a link");
        link(Path::new("/"), "root");
        link(&home, "own");
        link(&dir.path().join("data"), "fine");
        link(&dir.path().join("nothing"), "dangling");
        let leads = |path: &str| {
            let path = dir.path().join(path);
            let kind = VolumeKind::HostPath(HostPathType::Unchecked);
            let plans = [VolumePlan {
                name: "v".into(),
                path: path.clone(),
                kind,
                ..VolumePlan::default()
            }];
            let prepared = prepare(&plans, &home);
            let led = lead(&[mount_of(&plans[0], None)], &plans, &home);
            assert_eq!(prepared.is_err(), led.is_err(), "{prepared:?} {led:?}");
            led.map(|mounts| mounts[0].source.clone())
        };
        for bad in ["root", "root/etc", "root/proc/1", "own", "own/pods", "home", ".", "dangling"] {
            assert!(leads(bad).is_err(), "{bad}");
        }
        let real = dir.path().canonicalize().expect("it is there");
        for (good, leads_to) in [("data", "data"), ("fine", "data"), ("fine/new", "data/new")] {
            let source = real.join(leads_to).display().to_string();
            assert_eq!(leads(good), Ok(source), "{good}");
        }
        assert!(fs::symlink_metadata(dir.path().join("nothing")).is_err());
    }
}
