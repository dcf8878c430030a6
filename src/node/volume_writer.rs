//! Writes the files of a volume, all at once. It blocks on the disk.
//!
//! Files change atomically, as Kubernetes' writer does it (`pkg/volume/util/atomic_writer.go`): a new
//! directory is filled, then `..data` is renamed onto it; each file is a symlink through `..data`. A
//! reader sees the old set or the new.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use crate::node::volume_files::{FileContent, Files};

const DATA: &str = "..data";
/// Of the pod's group on what is written for it: reading, and opening a directory
/// (`pkg/volume/volume_linux.go`, of volumes that are read-only).
const GROUP_READS: u32 = 0o440;
const GROUP_OPENS: u32 = 0o2550;

/// Makes the files below `root` these. `group` owns them where a pod has one.
///
/// # Errors
/// What the file system refuses; the set before it stays.
pub fn write_files(root: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    let data = root.join(DATA);
    let before = fs::read_link(&data).ok();
    if before.is_some() && holds(root, files, group) {
        return Ok(());
    }
    let version = next_version(before.as_deref());
    let fresh = root.join(&version);
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    make_directory(&fresh, group)?;
    for (name, file) in files {
        let path = fresh.join(name);
        let parents: Vec<&Path> =
            path.ancestors().skip(1).take_while(|parent| *parent != fresh).collect();
        for parent in parents.into_iter().rev().filter(|parent| !parent.is_dir()) {
            make_directory(parent, group)?;
        }
        fs::write(&path, &file.bytes)?;
        give(&path, group, mode_of(file.mode, group))?;
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

fn mode_of(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | GROUP_READS } else { mode }
}

fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(path)?;
    give(path, group, if group.is_some() { 0o755 | GROUP_OPENS } else { 0o755 })
}

/// The owner first: changing it may take the bits away that stand for it.
fn give(path: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    if group.is_some() {
        chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// `..v1`, `..v2`: the next one after what `..data` points to.
fn next_version(before: Option<&Path>) -> String {
    let number = before
        .and_then(|path| path.to_str()?.strip_prefix("..v")?.parse::<u64>().ok())
        .map_or(1, |number| number + 1);
    format!("..v{number}")
}

/// The files below `root` that are not as they were written, and what stands beside them.
pub fn changed_files(root: &Path, files: &Files, group: Option<u32>) -> Vec<String> {
    let data = root.join(DATA);
    let same = |name: &str, file: &FileContent| {
        let path = data.join(name);
        let is_so = |meta: fs::Metadata| {
            meta.permissions().mode() & 0o777 == mode_of(file.mode, group)
                && group.is_none_or(|group| meta.gid() == group)
        };
        fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
            && fs::metadata(&path).is_ok_and(is_so)
    };
    let changed = files.iter().filter(|(name, file)| !same(name, file));
    let mut changed: Vec<String> = changed.map(|(name, _)| name.clone()).collect();
    let tops = files.keys().filter_map(|name| name.split('/').next());
    let wanted: BTreeSet<&str> = tops.collect();
    let present = fs::read_dir(&data).into_iter().flatten().flatten();
    let present = present.map(|entry| entry.file_name().to_string_lossy().into_owned());
    changed.extend(present.filter(|name| !wanted.contains(name.as_str())));
    changed
}

/// Whether the present set is exactly this one.
fn holds(root: &Path, files: &Files, group: Option<u32>) -> bool {
    root.join(DATA).is_dir() && changed_files(root, files, group).is_empty()
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
        let one = Files::from([("a".to_owned(), file("1")), ("d/b".to_owned(), file("2"))]);
        write_files(dir.path(), &one, None).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("d/b")).expect("b"), "2");
        let before = fs::read_link(dir.path().join(DATA)).expect("a link");
        write_files(dir.path(), &one, None).expect("written");
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("a link"), before);
        assert!(changed_files(dir.path(), &one, None).is_empty());
        fs::write(dir.path().join("d/b"), "by hand").expect("written");
        fs::write(dir.path().join("..data/extra"), "by hand").expect("written");
        assert_eq!(changed_files(dir.path(), &one, None), ["d/b", "extra"]);
        write_files(dir.path(), &one, None).expect("written");
        assert!(changed_files(dir.path(), &one, None).is_empty());
        let before = fs::read_link(dir.path().join(DATA)).expect("a link");
        // Made by a subPath to a key that was not there yet; it is no reason to fail.
        fs::create_dir(dir.path().join("made")).expect("made");
        let two = Files::from([("a".to_owned(), file("3"))]);
        write_files(dir.path(), &two, None).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("a"), "3");
        assert!(!dir.path().join("d").exists() && !dir.path().join(before).exists());
        assert!(dir.path().join("made").is_dir());
    }

    #[test]
    fn the_pods_group_may_read_what_is_written_for_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = rustix::process::getegid().as_raw();
        let secret = FileContent { bytes: b"1".to_vec(), mode: 0o400 };
        let files = Files::from([("d/a".to_owned(), secret)]);
        let mode = |path: &str| {
            let meta = fs::metadata(dir.path().join(path)).expect("it is there");
            (meta.permissions().mode() & 0o7777, meta.gid())
        };
        write_files(dir.path(), &files, None).expect("written");
        assert_eq!(mode("d/a").0, 0o400);
        write_files(dir.path(), &files, Some(own)).expect("written");
        assert_eq!((mode("d/a"), mode("d")), ((0o440, own), (0o2755, own)));
    }
}
