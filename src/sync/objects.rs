//! Reads trees and blobs out of an object database. There is no work tree, so no symlink, hook,
//! filter or submodule of a repository can act. Everything here blocks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use git2::{ErrorCode, ObjectType, Oid, Repository};

use crate::sync::git::{GitError, plain};
use crate::sync::source::{CommitFacts, printable};
use crate::sync::tree::{Entry, Form, Listing, Walk, path_parts};

pub(super) fn open_local(path: &Path) -> Result<Repository, GitError> {
    let flags = git2::RepositoryOpenFlags::NO_SEARCH;
    let none: [&Path; 0] = [];
    Repository::open_ext(path, flags, none).map_err(|error| match error.code() {
        ErrorCode::Owner => GitError::ForeignOwner { path: path.display().to_string() },
        _ => GitError::NoRepository(path.display().to_string()),
    })
}

/// The folder of a local repository whose `HEAD`, `packed-refs` and `refs/` change when a branch
/// moves; `None` where there is no repository (yet).
pub fn refs_folder(path: &Path) -> Option<PathBuf> {
    open_local(path).ok().map(|repository| repository.commondir().to_owned())
}

pub(super) fn facts(commit: &git2::Commit<'_>) -> CommitFacts {
    let text = |bytes: &[u8]| printable(&String::from_utf8_lossy(bytes));
    CommitFacts {
        id: commit.id().to_string(),
        subject: text(commit.summary_bytes().unwrap_or_default()),
        author: text(commit.author().name_bytes()),
    }
}

/// A readable object database.
pub struct Objects {
    repository: Repository,
}

impl Objects {
    pub(super) fn of(repository: Repository) -> Self {
        Self { repository }
    }

    /// A local repository, read where it stands (for `plan` and `validate`; the daemon reads its
    /// mirror).
    ///
    /// # Errors
    /// [`GitError::NoRepository`], [`GitError::ForeignOwner`].
    pub fn open(path: &Path) -> Result<Self, GitError> {
        Ok(Self { repository: open_local(path)? })
    }

    /// The commit that a branch, tag or id names.
    ///
    /// # Errors
    /// [`GitError::NoCommit`].
    pub fn resolve(&self, reference: &str) -> Result<CommitFacts, GitError> {
        let commit = self
            .repository
            .revparse_single(reference)
            .and_then(|object| object.peel_to_commit())
            .map_err(|_| GitError::NoCommit { reference: printable(reference) })?;
        Ok(facts(&commit))
    }

    /// The files of a commit below a path. Symbolic links and submodules below it are problems:
    /// they could name what is outside, and what they name is not in the commit.
    ///
    /// # Errors
    /// A path that is not there is an error, never an empty set; [`GitError::Damaged`].
    pub fn list(&self, commit: &str, path: &str) -> Result<Listing, GitError> {
        let damaged = |error: git2::Error| GitError::Damaged(plain(&error));
        let id = Oid::from_str(commit)
            .map_err(|_| GitError::NoCommit { reference: printable(commit) })?;
        let root =
            self.repository.find_commit(id).and_then(|commit| commit.tree()).map_err(damaged)?;
        let (tree, prefix) = self.descend(root.id(), path, commit)?;
        let mut walk = Walk::default();
        let mut folders = vec![(tree, prefix.clone(), 0_usize)];
        while let Some((tree, prefix, depth)) = folders.pop() {
            let tree = self.repository.find_tree(tree).map_err(damaged)?;
            let mut names = BTreeSet::new();
            for entry in tree.iter() {
                if !walk.goes_on(&prefix) {
                    return Ok(walk.into_listing());
                }
                if !names.insert(entry.name_bytes().to_vec()) {
                    let name = printable(&String::from_utf8_lossy(entry.name_bytes()));
                    walk.problem(
                        &format!("{prefix}{name}"),
                        "the tree lists this name twice".to_owned(),
                        "the commit is malformed: make it anew",
                    );
                    continue;
                }
                let (form, blob) = (form_of(&entry), entry.id().to_string());
                if let Some(folder) = walk.visit(entry.name_bytes(), form, &blob, &prefix, depth) {
                    folders.push((entry.id(), folder, depth + 1));
                }
            }
        }
        self.measure(&mut walk)?;
        Ok(walk.into_listing())
    }

    /// Goes down to the source's path, through folders only.
    fn descend(&self, root: Oid, path: &str, commit: &str) -> Result<(Oid, String), GitError> {
        let damaged = |error: git2::Error| GitError::Damaged(plain(&error));
        let parts = path_parts(path).ok_or_else(|| GitError::Path(printable(path)))?;
        let mut tree = root;
        for part in &parts {
            let current = self.repository.find_tree(tree).map_err(damaged)?;
            let Some(entry) = current.get_name(part) else {
                return Err(GitError::PathMissing {
                    path: path.to_owned(),
                    commit: commit.to_owned(),
                });
            };
            if entry.kind() != Some(ObjectType::Tree) {
                let what = match form_of(&entry) {
                    Form::Link => "a symbolic link",
                    Form::Submodule => "a submodule",
                    Form::File | Form::Folder | Form::Special => "a file",
                };
                return Err(GitError::PathNoFolder {
                    path: path.to_owned(),
                    commit: commit.to_owned(),
                    what,
                });
            }
            tree = entry.id();
        }
        let prefix = parts.iter().fold(String::new(), |prefix, part| format!("{prefix}{part}/"));
        Ok((tree, prefix))
    }

    /// Checks the sizes before anything is read.
    fn measure(&self, walk: &mut Walk) -> Result<(), GitError> {
        let damaged = |error: git2::Error| GitError::Damaged(plain(&error));
        let odb = self.repository.odb().map_err(damaged)?;
        walk.weigh(|entry| {
            let id = Oid::from_str(&entry.blob).map_err(damaged)?;
            odb.read_header(id).map(|(size, _)| size).map_err(damaged)
        })
    }

    /// # Errors
    /// [`GitError::Damaged`] when the blob is not there.
    pub fn read(&self, entry: &Entry) -> Result<std::sync::Arc<[u8]>, GitError> {
        let id = Oid::from_str(&entry.blob).map_err(|error| GitError::Damaged(plain(&error)))?;
        let blob =
            self.repository.find_blob(id).map_err(|error| GitError::Damaged(plain(&error)))?;
        Ok(blob.content().into())
    }
}

fn form_of(entry: &git2::TreeEntry<'_>) -> Form {
    match (entry.filemode(), entry.kind()) {
        (0o120_000, _) => Form::Link,
        (0o160_000, _) => Form::Submodule,
        (_, Some(ObjectType::Tree)) => Form::Folder,
        _ => Form::File,
    }
}
