//! The files of a mirror, as far as we tidy them ourselves: what a killed fetch left, and packs whose
//! objects are in another one. Git itself is `git.rs`'s.

use std::fs;
use std::path::Path;

/// What a fetch that was killed leaves: lock files that would refuse every later one, and half
/// packs. Only this process writes to the mirror, so whatever is there at start is nobody's.
pub fn remove_leftovers(folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        let Ok(entries) = fs::read_dir(&current) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                folders.push(path);
            } else if name.ends_with(".lock")
                || name.starts_with("pack_git2_")
                || name.starts_with("tmp_")
            {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// How many packs there are.
pub fn count_packs(folder: &Path) -> usize {
    fs::read_dir(folder.join("objects/pack")).map_or(0, |entries| {
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|ext| ext == "pack"))
            .count()
    })
}

/// Removes every pack but one, whose name is as libgit2 tells it. What stays is joined, and removed,
/// the next time.
pub fn remove_packs_but(folder: &Path, name: &str) {
    let kept = format!("pack-{name}");
    for entry in fs::read_dir(folder.join("objects/pack")).into_iter().flatten().flatten() {
        let path = entry.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if stem.starts_with("pack-") && stem != kept {
            let _ = fs::remove_file(path);
        }
    }
}
