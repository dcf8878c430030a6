//! Keeps [`PulledImages`] in a file of the node: which images are its own to remove.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::warn;

use crate::node::agent::lock;
use crate::node::image_gc::PulledImages;

/// In the data directory.
pub const FILE: &str = "pulled-images.json";

/// The file, and what stands in it.
#[derive(Debug)]
pub struct PulledFile {
    path: PathBuf,
    images: Mutex<PulledImages>,
}

impl PulledFile {
    /// What cannot be read counts as empty: no image is ours then.
    pub fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
        let images = read.unwrap_or_else(|error: io::Error| {
            if error.kind() != ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "what was pulled is not known any more");
            }
            PulledImages::default()
        });
        Self { path, images: Mutex::new(images) }
    }

    /// Changes it, also in the file. A write that fails is tried again with the next one.
    pub fn change<T>(&self, change: impl FnOnce(&mut PulledImages) -> T) -> T {
        // Locked while it is written: a later change is written later.
        let mut images = lock(&self.images);
        let before = images.clone();
        let answer = change(&mut images);
        if *images != before
            && let Err(error) = write(&self.path, &images)
        {
            warn!(path = %self.path.display(), %error, "what was pulled is not written down");
        }
        answer
    }
}

/// Whole or not at all. Not synced: it survives whatever ends the daemon, takes microseconds, and what a
/// power cut takes with it is only kept longer than needed.
fn write(path: &Path, images: &PulledImages) -> io::Result<()> {
    let new = path.with_extension("json.new");
    fs::write(&new, serde_json::to_vec(images)?)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_was_pulled_is_known_after_a_crash_and_a_damaged_file_is_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = PulledFile::open(dir.path());
        file.change(|all| all.begin("web", None, Timestamp::UNIX_EPOCH));
        // Nobody said goodbye.
        drop(file);
        let again = PulledFile::open(dir.path());
        let known = again.change(|all| all.images[0].reference.clone());
        assert_eq!(known, "web");
        fs::write(dir.path().join(FILE), "{").expect("written");
        let damaged = PulledFile::open(dir.path());
        assert_eq!(damaged.change(|all| all.clone()), PulledImages::default());
    }
}
