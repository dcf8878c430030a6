//! Reads a commit: every manifest below the source's path, parsed once. A blob has the same meaning
//! for ever, so what a commit costs is what changed in it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::object::source::Problem;
use crate::sync::git::GitError;
use crate::sync::manifest::{self, Parsed};
use crate::sync::objects::Objects;
use crate::sync::render::{self, ObjectSet};
use crate::sync::source::SourceFile;
use crate::sync::tree::Entry;

/// What a commit wants, beside everything wrong with it. It can be applied when nothing is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    pub set: ObjectSet,
    /// By file and line.
    pub problems: Vec<Problem>,
    /// Files read, manifests or not.
    pub files: usize,
}

/// Parsed files by path and blob, those of the last two reads (the commit that is applied, and one
/// that is refused while it runs on).
#[derive(Debug, Default)]
pub struct Commits {
    parsed: HashMap<(String, String), (u64, Arc<Parsed>)>,
    reads: u64,
}

impl Commits {
    /// Blocks: reads from the object database.
    ///
    /// # Errors
    /// A path that is not there, or a damaged repository; what is wrong with the content is a
    /// problem, not an error.
    pub fn read(&mut self, objects: &Objects, commit: &str, path: &str) -> Result<Read, GitError> {
        let listing = objects.list(commit, path)?;
        self.reads += 1;
        let mut files = Vec::with_capacity(listing.entries.len());
        for entry in &listing.entries {
            files.push(self.parsed(objects, entry)?);
        }
        let settings = match &listing.settings {
            Some(entry) => Some(source_file(objects, entry)?),
            None => None,
        };
        let oldest = self.reads.saturating_sub(1);
        self.parsed.retain(|_, (read, _)| *read >= oldest);
        Ok(join(&files, settings.as_ref(), listing.problems))
    }

    fn parsed(&mut self, objects: &Objects, entry: &Entry) -> Result<Arc<Parsed>, GitError> {
        let id = (entry.path.clone(), entry.blob.clone());
        if let Some((read, parsed)) = self.parsed.get_mut(&id) {
            *read = self.reads;
            return Ok(parsed.clone());
        }
        let parsed = Arc::new(manifest::parse(&source_file(objects, entry)?));
        self.parsed.insert(id, (self.reads, parsed.clone()));
        Ok(parsed)
    }
}

fn source_file(objects: &Objects, entry: &Entry) -> Result<SourceFile, GitError> {
    let bytes = objects.read(entry)?;
    Ok(SourceFile { path: entry.path.as_str().into(), blob: entry.blob.clone(), bytes })
}

/// Renders parsed files, and puts the problems into the order in which a person reads them.
pub fn join(
    files: &[Arc<Parsed>],
    settings: Option<&SourceFile>,
    mut problems: Vec<Problem>,
) -> Read {
    let (set, rendering) = render::render(files, settings);
    problems.extend(rendering);
    sort(&mut problems);
    Read { set, problems, files: files.len() }
}

/// By file, line and column: the order in which a person reads.
pub fn sort(problems: &mut [Problem]) {
    problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
}
