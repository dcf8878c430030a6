//! The one file that watches a local repository's refs. It only says "look again": what changed is
//! the fetch's to find out, and a timer backs every signal.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Watches until it is dropped.
pub struct Trigger {
    /// Held for its threads; dropping it ends them.
    _watcher: RecommendedWatcher,
}

/// The repository cannot be watched; it is polled.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be watched", .folder.display())]
pub struct WatchError {
    folder: PathBuf,
    source: notify::Error,
}

impl Trigger {
    /// Notifies `wake` whenever a branch of the repository moves. Signals coalesce: `wake` holds one
    /// permit, so a thousand pushes are one look, and one that comes during a look is not lost.
    /// `refs` is the repository's common folder, see [`crate::sync::objects::refs_folder`].
    ///
    /// # Errors
    /// [`WatchError`]: the folder is gone, or the host's inotify limit is reached.
    pub fn new(refs: &Path, wake: Arc<Notify>) -> Result<Self, WatchError> {
        let failed = |source| WatchError { folder: refs.to_owned(), source };
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
                Ok(event) if !moves_a_branch(&event) => {}
                // An error is an overflow of the kernel's queue: something was lost, look.
                Ok(_) | Err(_) => wake.notify_one(),
            })
            .map_err(failed)?;
        // The folder itself for `packed-refs` and `HEAD`, `refs` for the branches.
        watcher.watch(refs, RecursiveMode::NonRecursive).map_err(failed)?;
        watcher.watch(&refs.join("refs"), RecursiveMode::Recursive).map_err(failed)?;
        Ok(Self { _watcher: watcher })
    }
}

/// Git writes `main.lock` and renames it to `main`: only the second is a move. Reading moves nothing.
fn moves_a_branch(event: &notify::Event) -> bool {
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    event.paths.iter().any(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_ref = path.components().any(|part| part.as_os_str() == "refs");
        !name.ends_with(".lock") && (is_ref || name == "packed-refs" || name == "HEAD")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moved_branch_wakes() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("refs/heads")).expect("refs");
        let wake = Arc::new(Notify::new());
        let _trigger = Trigger::new(folder.path(), wake.clone()).expect("watched");
        let heads = folder.path().join("refs/heads");
        std::fs::write(heads.join("main.lock"), "1").expect("written");
        std::fs::rename(heads.join("main.lock"), heads.join("main")).expect("renamed");
        wake.notified().await;
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(Trigger::new(Path::new("/nowhere/at/all"), Arc::new(Notify::new())).is_err());
    }
}
