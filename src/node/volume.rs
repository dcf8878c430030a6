//! Makes the directories and files of a pod's volumes, and takes them away. What they are is
//! decided in `volume_plan.rs`. All of it blocks on the disk: called on a blocking thread.
//!
//! Files change atomically, as Kubernetes' writer does it: a new directory is filled, then `..data`
//! is renamed onto it; each file is a symlink through `..data`. A reader sees the old set or the new.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::node::container_spec::MountSpec;
use crate::node::volume_plan::{FileContent, HostPathType, MountPlan, VolumeKind, VolumePlan};

/// What could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {what}: {source}")]
    Io { volume: String, what: String, source: io::Error },
    #[error(
        "MountVolume.SetUp failed for volume \"{volume}\" : hostPath type check failed: {path} is not {wanted}"
    )]
    HostPath { volume: String, path: String, wanted: &'static str },
    #[error("subPath {0} leaves its volume through a symlink")]
    Escape(String),
}

fn failed(volume: &VolumePlan, what: &str, source: io::Error) -> VolumeError {
    VolumeError::Io { volume: volume.name.clone(), what: what.to_owned(), source }
}

/// Makes every volume what the plan says. Idempotent: called again when a ConfigMap changed.
///
/// # Errors
/// The first volume that cannot be made.
pub fn prepare(plans: &[VolumePlan]) -> Result<(), VolumeError> {
    for plan in plans {
        match &plan.kind {
            VolumeKind::HostPath(check) => check_host_path(plan, *check)?,
            VolumeKind::Directory => directory(plan, 0o777)?,
            VolumeKind::Memory { size } => {
                directory(plan, 0o777)?;
                let size = size.map(|bytes| format!("size={bytes},")).unwrap_or_default();
                mount_memory(&plan.path, &format!("{size}mode=0777"));
            }
            VolumeKind::Files { files, in_memory } => {
                directory(plan, 0o755)?;
                if *in_memory {
                    mount_memory(&plan.path, "mode=0755");
                }
                write_files(&plan.path, files)
                    .map_err(|error| failed(plan, "files not written", error))?;
            }
        }
    }
    Ok(())
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
fn mount_memory(path: &Path, options: &str) {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let mounted = path.parent().is_some_and(|parent| device(parent) != device(path));
    if mounted {
        return;
    }
    let options = std::ffi::CString::new(options).expect("made of digits and words");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    if let Err(error) = mount("tmpfs", path, "tmpfs", flags, Some(options.as_c_str())) {
        tracing::warn!(path = %path.display(), %error, "tmpfs refused, using a plain directory");
    }
}

const DATA: &str = "..data";

fn write_files(root: &Path, files: &BTreeMap<String, FileContent>) -> io::Result<()> {
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
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if !text.starts_with("..") && !wanted.contains(&&*text) {
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
fn holds(data: &Path, files: &BTreeMap<String, FileContent>) -> bool {
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

fn check_host_path(plan: &VolumePlan, check: HostPathType) -> Result<(), VolumeError> {
    let path = &plan.path;
    let kind = fs::metadata(path).map(|meta| meta.file_type()).ok();
    let wrong = |wanted| VolumeError::HostPath {
        volume: plan.name.clone(),
        path: path.display().to_string(),
        wanted,
    };
    let made =
        |result: io::Result<()>| result.map_err(|error| failed(plan, "hostPath not made", error));
    let (fits, wanted) = match check {
        HostPathType::Unchecked if kind.is_none() => {
            // The engine refuses a bind whose source is missing; the kubelet's runtime makes it.
            return made(fs::create_dir_all(path));
        }
        HostPathType::Unchecked => (true, ""),
        HostPathType::DirectoryOrCreate if kind.is_none() => {
            return made(fs::create_dir_all(path));
        }
        HostPathType::FileOrCreate if kind.is_none() => {
            return made(fs::OpenOptions::new().create(true).append(true).open(path).map(|_| ()));
        }
        HostPathType::DirectoryOrCreate | HostPathType::Directory => {
            (kind.is_some_and(|kind| kind.is_dir()), "a directory")
        }
        HostPathType::FileOrCreate | HostPathType::File => {
            (kind.is_some_and(|kind| kind.is_file()), "a file")
        }
        HostPathType::Socket => (kind.is_some_and(|kind| kind.is_socket()), "a socket"),
        HostPathType::CharDevice => {
            (kind.is_some_and(|kind| kind.is_char_device()), "a character device")
        }
        HostPathType::BlockDevice => {
            (kind.is_some_and(|kind| kind.is_block_device()), "a block device")
        }
    };
    if fits { Ok(()) } else { Err(wrong(wanted)) }
}

/// Resolves where the mounts lead on the host.
///
/// # Errors
/// A subPath that does not exist in a read-only volume, or that leaves its volume by a symlink.
pub fn resolve(mounts: &[MountPlan]) -> Result<Vec<MountSpec>, VolumeError> {
    mounts
        .iter()
        .map(|mount| {
            let source = match &mount.sub_path {
                None => mount.root.clone(),
                Some(sub_path) => inside(mount, sub_path)?,
            };
            Ok(MountSpec {
                source: source.display().to_string(),
                target: mount.target.clone(),
                read_only: mount.read_only,
            })
        })
        .collect()
}

fn inside(mount: &MountPlan, sub_path: &Path) -> Result<PathBuf, VolumeError> {
    let shown = || sub_path.display().to_string();
    let io = |what: &str, source| VolumeError::Io {
        volume: mount.root.display().to_string(),
        what: format!("subPath {}: {what}", shown()),
        source,
    };
    let root = mount.root.canonicalize().map_err(|error| io("no such volume", error))?;
    // Step by step, so that nothing is made behind a symlink that leads out.
    let mut path = root.clone();
    for part in sub_path.components() {
        let Component::Normal(part) = part else { return Err(VolumeError::Escape(shown())) };
        path.push(part);
        if fs::symlink_metadata(&path).is_err() && mount.may_create {
            fs::create_dir(&path).map_err(|error| io("not made", error))?;
        }
        path = path.canonicalize().map_err(|error| io("no such path", error))?;
        if !path.starts_with(&root) {
            return Err(VolumeError::Escape(shown()));
        }
    }
    Ok(path)
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
    use super::*;

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
    fn a_symlink_cannot_lead_a_sub_path_out() {
        let dir = tempfile::tempdir().expect("a directory");
        symlink("/etc", dir.path().join("evil")).expect("a link");
        let mount = |sub_path: &str| MountPlan {
            root: dir.path().into(),
            sub_path: Some(sub_path.into()),
            target: "/x".into(),
            read_only: false,
            may_create: true,
        };
        assert!(matches!(resolve(&[mount("evil/hosts")]), Err(VolumeError::Escape(_))));
        assert!(resolve(&[mount("new/deep")]).is_ok());
        assert!(dir.path().join("new/deep").is_dir());
    }

    #[test]
    fn host_paths_are_checked_by_type() {
        let dir = tempfile::tempdir().expect("a directory");
        let plan = |path: &str, check| VolumePlan {
            name: "v".into(),
            path: dir.path().join(path),
            kind: VolumeKind::HostPath(check),
        };
        assert!(prepare(&[plan("no", HostPathType::Directory)]).is_err());
        assert!(prepare(&[plan("new", HostPathType::DirectoryOrCreate)]).is_ok());
        assert!(prepare(&[plan("new", HostPathType::File)]).is_err());
        assert!(prepare(&[plan("f", HostPathType::FileOrCreate)]).is_ok());
        assert!(prepare(&[plan("f", HostPathType::File)]).is_ok());
        remove(&dir.path().join("new")).expect("gone");
    }
}
