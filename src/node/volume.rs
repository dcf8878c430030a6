//! Makes the directories and files of a pod's volumes, and takes them away. What they are is
//! decided in `volume_plan.rs`. All of it blocks on the disk: called on a blocking thread.
//!
//! A hostPath is judged by where it leads on this host, links followed, and what is missing of it is
//! made below a directory that was opened without following any. Known limit: the engine resolves the
//! path once more when it mounts it, so whoever may write to a directory above can still swap it then.
//!
//! Files change atomically, as Kubernetes' writer does it: a new directory is filled, then `..data`
//! is renamed onto it; each file is a symlink through `..data`. A reader sees the old set or the new.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::node::container_spec::MountSpec;
use crate::node::volume_files::Files;
use crate::node::volume_plan::{HostPathType, VolumeKind, VolumePlan};
use crate::object::host_path::{self, FORBIDDEN_TREES};

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
}

fn failed(volume: &VolumePlan, what: &str, source: io::Error) -> VolumeError {
    VolumeError::Io { volume: volume.name.clone(), what: what.to_owned(), source }
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
            VolumeKind::Directory => directory(plan, 0o777)?,
            VolumeKind::Memory { size } => {
                directory(plan, 0o777)?;
                let size = size.map(|bytes| format!("size={bytes},")).unwrap_or_default();
                in_memory(&format!("{size}mode=0777"));
            }
            VolumeKind::Files { files, in_memory: secret } => {
                directory(plan, 0o755)?;
                if *secret {
                    in_memory("mode=0755");
                }
                write_files(&plan.path, files)
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
    fs::create_dir_all(&plan.path)
        .and_then(|()| fs::set_permissions(&plan.path, fs::Permissions::from_mode(mode)))
        .map_err(|error| failed(plan, "directory not made", error))
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

const DATA: &str = "..data";

fn write_files(root: &Path, files: &Files) -> io::Result<()> {
    let data = root.join(DATA);
    let before = fs::read_link(&data).ok();
    if before.is_some() && holds(&data, files) {
        return Ok(());
    }
    let version = next_version(before.as_deref());
    let fresh = root.join(&version);
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (name, file) in files {
        let path = fresh.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    let swap = root.join("..data_tmp");
    let _ = fs::remove_file(&swap);
    symlink(&version, &swap)?;
    fs::rename(&swap, &data)?;
    // The names that people open: the first part of each path, through `..data`.
    let wanted: Vec<&str> = files.keys().filter_map(|name| name.split('/').next()).collect();
    for name in &wanted {
        let link = root.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        // A directory is not the writer's: a subPath to a key that is not there makes one.
        let ours = entry.file_type()?.is_symlink() && !text.starts_with("..");
        if ours && !wanted.contains(&&*text) {
            fs::remove_file(root.join(&name))?;
        }
    }
    if let Some(old) = before {
        fs::remove_dir_all(root.join(old))?;
    }
    Ok(())
}

/// `..1`, `..2`: the next one after what `..data` points to.
fn next_version(before: Option<&Path>) -> String {
    let number = before
        .and_then(|path| path.to_str()?.strip_prefix("..v")?.parse::<u64>().ok())
        .map_or(1, |number| number + 1);
    format!("..v{number}")
}

/// Whether the present set is exactly this one.
fn holds(data: &Path, files: &Files) -> bool {
    let same = files.iter().all(|(name, file)| {
        let path = data.join(name);
        let mode = fs::metadata(&path).map(|meta| meta.permissions().mode() & 0o777);
        fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
            && mode.is_ok_and(|mode| mode == file.mode)
    });
    let tops = files.keys().filter_map(|name| name.split('/').next());
    let wanted: std::collections::BTreeSet<&str> = tops.collect();
    same && fs::read_dir(data).is_ok_and(|entries| entries.count() == wanted.len())
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
    let (volume, path) = (plan.name.clone(), plan.path.display().to_string());
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
        volume: plan.name.clone(),
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

/// Where mounts of host paths lead by now. The engine gets paths without links: what was judged is
/// what is mounted.
///
/// # Errors
/// One that leads nowhere, or where no pod may be.
pub fn lead(
    mounts: Vec<MountSpec>,
    host_paths: &[VolumePlan],
    home: &Path,
) -> Result<Vec<MountSpec>, VolumeError> {
    let lead = |mount: MountSpec| -> Result<MountSpec, VolumeError> {
        let of_host =
            host_paths.iter().find(|plan| plan.path.display().to_string() == mount.source);
        let Some(plan) = of_host else { return Ok(mount) };
        let real = plan.path.canonicalize();
        let real = real.map_err(|error| failed(plan, "hostPath leads nowhere", error))?;
        refuse_what_gives_away(plan, &real, home)?;
        Ok(MountSpec { source: real.display().to_string(), ..mount })
    };
    mounts.into_iter().map(lead).collect()
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

/// Unmounts and removes everything of a pod.
///
/// # Errors
/// What the file system refuses; the caller tries again.
pub fn remove(pod_directory: &Path) -> io::Result<()> {
    let volumes = pod_directory.join("volumes");
    if let Ok(entries) = fs::read_dir(&volumes) {
        for entry in entries {
            // A plain directory answers EINVAL: nothing was mounted there.
            let _ = unmount(entry?.path(), UnmountFlags::DETACH);
        }
    }
    match fs::remove_dir_all(pod_directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::node::volume_files::FileContent;

    fn file(text: &str) -> FileContent {
        FileContent { bytes: text.as_bytes().to_vec(), mode: 0o640 }
    }

    #[test]
    fn files_swap_as_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let one = BTreeMap::from([("a".to_owned(), file("1")), ("d/b".to_owned(), file("2"))]);
        write_files(dir.path(), &one).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("d/b")).expect("b"), "2");
        let before = fs::read_link(dir.path().join(DATA)).expect("a link");
        write_files(dir.path(), &one).expect("written");
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("a link"), before);
        let two = BTreeMap::from([("a".to_owned(), file("3"))]);
        write_files(dir.path(), &two).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("a"), "3");
        assert!(!dir.path().join("d").exists() && !dir.path().join(before).exists());
    }

    #[test]
    fn a_tmpfs_that_is_refused_leaves_a_directory_and_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("v");
        // No kernel takes this size, with or without the right to mount.
        let kind = VolumeKind::Memory { size: Some(-1) };
        let plans = [VolumePlan { name: "v".into(), path: path.clone(), kind }];
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

    #[test]
    fn host_paths_are_checked_by_type() {
        let dir = tempfile::tempdir().expect("a directory");
        let plan = |path: &str, check| VolumePlan {
            name: "v".into(),
            path: dir.path().join(path),
            kind: VolumeKind::HostPath(check),
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
            let plans = [VolumePlan { name: "v".into(), path: path.clone(), kind }];
            let prepared = prepare(&plans, &home);
            let source = path.display().to_string();
            let mount = MountSpec { source, target: "/x".into(), read_only: true };
            let led = lead(vec![mount], &plans, &home);
            assert_eq!(prepared.is_err(), led.is_err(), "{prepared:?} {led:?}");
            led.map(|mounts| mounts[0].source.clone()).map_err(|error| error.to_string())
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
