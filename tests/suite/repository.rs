//! Git repositories made for a test: bare, in a folder that goes with them.

use std::path::Path;

use git2::build::TreeUpdateBuilder;
use git2::{FileMode, ObjectType, Oid, Repository, Signature};

/// A bare repository with one branch.
pub struct Origin {
    folder: tempfile::TempDir,
    pub repository: Repository,
}

impl Origin {
    pub fn new() -> Self {
        crate::watchdog::watch();
        let folder = tempfile::tempdir().expect("a folder");
        let repository = Repository::init_bare(folder.path()).expect("a repository");
        Self { folder, repository }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Commits exactly these files onto `main`.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        let modes: Vec<(&str, &str, FileMode)> =
            files.iter().map(|(path, text)| (*path, *text, FileMode::Blob)).collect();
        self.commit_modes(&modes)
    }

    /// As [`Origin::commit`], with links (the text is the target).
    pub fn commit_modes(&self, files: &[(&str, &str, FileMode)]) -> String {
        let mut update = TreeUpdateBuilder::new();
        for (path, text, mode) in files {
            let id = match mode {
                FileMode::Commit => Oid::from_bytes(&[7; 20]).expect("20 bytes"),
                _ => self.repository.blob(text.as_bytes()).expect("a blob"),
            };
            update.upsert(*path, id, *mode);
        }
        let empty = self.raw_tree(&[]);
        let empty = self.repository.find_tree(empty).expect("the empty tree");
        let tree = update.create_updated(&self.repository, &empty).expect("a tree");
        self.commit_tree(tree)
    }

    /// A tree as bytes: what no Git program would write.
    pub fn raw_tree(&self, entries: &[(&str, &[u8], Oid)]) -> Oid {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend_from_slice(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(id.as_bytes());
        }
        let odb = self.repository.odb().expect("an object database");
        odb.write(ObjectType::Tree, &bytes).expect("written")
    }

    pub fn commit_tree(&self, tree: Oid) -> String {
        let parents: Vec<Oid> =
            self.repository.refname_to_id("refs/heads/main").into_iter().collect();
        self.commit_onto(tree, &parents)
    }

    /// Rewrites `main`: a commit without parents.
    pub fn rewrite(&self, files: &[(&str, &str)]) -> String {
        self.repository
            .find_reference("refs/heads/main")
            .and_then(|mut reference| reference.delete())
            .expect("main goes");
        self.commit(files)
    }

    fn commit_onto(&self, tree: Oid, parents: &[Oid]) -> String {
        let tree = self.repository.find_tree(tree).expect("the tree");
        let who = Signature::now("Ada", "ada@example").expect("a signature");
        let parents: Vec<git2::Commit<'_>> =
            parents.iter().map(|id| self.repository.find_commit(*id).expect("a parent")).collect();
        let parents: Vec<&git2::Commit<'_>> = parents.iter().collect();
        let id = self
            .repository
            .commit(Some("refs/heads/main"), &who, &who, "a change\n\nwith a body", &tree, &parents)
            .expect("a commit");
        id.to_string()
    }
}
