//! Pure: what is mounted below a directory, by the kernel's own table.
//!
//! A pod's directory is removed with everything in it. What is mounted inside is somebody's data (a
//! folder of the host behind a subPath, what a container mounted and the host sees too), so it is
//! asked first, and nothing is removed while anything is left.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mount points at and below a directory, the latest first: as they can be unmounted. `table` is
/// `/proc/self/mountinfo`, `directory` a path without links.
pub fn mounts_below(table: &[u8], directory: &Path) -> Vec<PathBuf> {
    let point = |line: &[u8]| {
        // The fifth word; what would end a word is written in octal.
        let word = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(unescaped(word))))
    };
    let mut found: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(point)
        .filter(|point| point.starts_with(directory))
        .collect();
    found.reverse();
    found
}

/// `\040` is a space.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /data/pods/u/volumes/secret rw - tmpfs tmpfs rw
23 21 0:21 / /data/pods/u2/volumes/secret rw - tmpfs tmpfs rw
24 21 8:1 /srv/a\\040b /data/pods/u/volume-subpaths/v/c/0 rw - ext4 /dev/sda1 rw
25 24 8:1 / /data/pods/u/volumes/odd\\134\\040name rw shared:7 - ext4 /dev/sda1 rw
";

    #[test]
    fn the_latest_mount_of_a_pod_comes_first_and_others_do_not_come() {
        assert_eq!(
            mounts_below(TABLE, Path::new("/data/pods/u")),
            [
                Path::new("/data/pods/u/volumes/odd\\ name"),
                Path::new("/data/pods/u/volume-subpaths/v/c/0"),
                Path::new("/data/pods/u/volumes/secret"),
            ]
        );
        assert!(mounts_below(TABLE, Path::new("/data/pods/none")).is_empty());
        assert!(mounts_below(b"", Path::new("/")).is_empty());
    }
}
