//! Pure: which entries of a tree are manifests, and which must not be there. Names come from whoever
//! can push: nothing is resolved, joined or opened by them.
//!
//! Stated behaviour: links and submodules below the path are problems (what they name is not in the
//! commit); hidden names (`.github/`) and files that are no manifests are not looked at, whatever
//! they are called; two names that differ only in case are two files, because there is no work tree
//! in which they could collide.

use crate::object::source::Problem;
use crate::sync::source::{is_manifest_name, printable};

/// A manifest above this is no manifest.
pub const LARGEST_FILE: usize = 4 * 1024 * 1024;
/// Manifests below one path.
pub const MOST_FILES: usize = 20_000;
/// `.ballast.yaml` holds a line or two.
pub const LARGEST_SETTINGS: usize = 64 * 1024;
/// Tree entries looked at below one path, manifests or not.
pub const MOST_ENTRIES: usize = 500_000;
/// Folders inside each other.
pub const DEEPEST_FOLDER: usize = 64;
/// Bytes of manifests below one path: parsed they take about ten times as much memory.
pub const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Problems told for one tree; more of them say nothing new.
const MOST_PROBLEMS: usize = 100;

/// One manifest file of a tree, not read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the repository's root.
    pub path: String,
    /// Hex id.
    pub blob: String,
}

/// The manifest files below a path, beside what must not be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    /// `.ballast.yaml` at the root of the path.
    pub settings: Option<Entry>,
    pub problems: Vec<Problem>,
}

/// The folders down to a source's path; `None` is a path that could lead out of the repository.
pub fn path_parts(path: &str) -> Option<Vec<&str>> {
    if path.starts_with('/') || path.len() > 4096 || path.chars().any(char::is_control) {
        return None;
    }
    let parts: Vec<&str> =
        path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.iter().any(|part| *part == ".." || is_git_name(part)) {
        return None;
    }
    Some(parts)
}

/// Git's own folder under every name that some file system takes for it.
fn is_git_name(name: &str) -> bool {
    let visible: String = name
        .chars()
        .filter(|c| !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'))
        .collect();
    let plain = visible.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    plain.eq_ignore_ascii_case(".git") || plain.eq_ignore_ascii_case("git~1")
}

/// What a tree entry is, by its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    File,
    Folder,
    Link,
    Submodule,
    /// On disk only: a pipe, a socket, a device.
    Special,
}

/// The judgement about one tree, entry by entry.
#[derive(Debug, Default)]
pub struct Walk {
    pub entries: Vec<Entry>,
    settings: Option<Entry>,
    problems: Vec<Problem>,
    seen: usize,
}

impl Walk {
    /// Counts an entry; `false` ends the walk.
    pub fn goes_on(&mut self, prefix: &str) -> bool {
        self.seen += 1;
        if self.seen > MOST_ENTRIES {
            let message = format!("more than {MOST_ENTRIES} files are below the path");
            self.problem(prefix, message, "follow a narrower path");
        }
        self.seen <= MOST_ENTRIES
    }

    /// A problem of a file as a whole.
    pub fn problem(&mut self, file: &str, message: String, hint: &str) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(Problem {
                file: file.to_owned(),
                message,
                hint: hint.to_owned(),
                ..Problem::default()
            });
        }
    }

    /// Notes a file, or answers the prefix of a folder to go into. Names that no manifest has are
    /// not looked at (a photo may be called anything); hidden ones (`.github/`) neither.
    pub fn visit(
        &mut self,
        name: &[u8],
        form: Form,
        blob: &str,
        prefix: &str,
        depth: usize,
    ) -> Option<String> {
        let lossy = String::from_utf8_lossy(name).into_owned();
        let shown = format!("{prefix}{}", printable(&lossy));
        let valid = std::str::from_utf8(name).is_ok();
        if lossy.is_empty()
            || lossy == "."
            || lossy == ".."
            || lossy.contains('/')
            || is_git_name(&lossy)
        {
            self.problem(
                &shown,
                "a file cannot have this name".to_owned(),
                "the commit was not made by Git: remove the file",
            );
            return None;
        }
        if depth == 0 && lossy == ".ballast.yaml" && form == Form::File {
            self.settings = Some(Entry { path: shown, blob: blob.to_owned() });
            return None;
        }
        if lossy.starts_with('.') {
            return None;
        }
        match form {
            Form::Link => {
                self.problem(
                    &shown,
                    "symbolic links are not followed".to_owned(),
                    "commit the file itself, or move the link out of the path",
                );
                None
            }
            Form::Submodule => {
                self.problem(&shown, "submodules are not followed".to_owned(), "follow the other repository as a source of its own, or move the submodule out of the path");
                None
            }
            Form::Special if is_manifest_name(&lossy) => {
                self.problem(
                    &shown,
                    "this is no file: a pipe, a socket or a device".to_owned(),
                    "remove it",
                );
                None
            }
            Form::Folder => {
                if !valid || shown.len() != prefix.len() + lossy.len() {
                    self.problem(
                        &shown,
                        "the folder's name is not plain UTF-8 text".to_owned(),
                        "rename it",
                    );
                    return None;
                }
                if depth + 1 >= DEEPEST_FOLDER || shown.len() > 4096 {
                    self.problem(
                        &shown,
                        format!("folders are nested deeper than {DEEPEST_FOLDER}"),
                        "",
                    );
                    return None;
                }
                Some(format!("{prefix}{lossy}/"))
            }
            Form::File if is_manifest_name(&lossy) => {
                if !valid || shown.len() != prefix.len() + lossy.len() {
                    self.problem(
                        &shown,
                        "the file's name is not plain UTF-8 text".to_owned(),
                        "rename it",
                    );
                } else if lossy.len() > 255 {
                    self.problem(
                        &shown,
                        "the file's name is longer than 255 bytes".to_owned(),
                        "rename it",
                    );
                } else if self.entries.len() >= MOST_FILES {
                    if self.entries.len() == MOST_FILES {
                        self.problem(
                            "",
                            format!("more than {MOST_FILES} manifest files are below the path"),
                            "split the path into several sources",
                        );
                    }
                } else {
                    self.entries.push(Entry { path: shown, blob: blob.to_owned() });
                }
                None
            }
            Form::File | Form::Special => None,
        }
    }

    /// Judges the sizes, before anything is read: what is too large is a problem and is left out.
    ///
    /// # Errors
    /// A size that cannot be told.
    pub fn weigh<E>(&mut self, size_of: impl Fn(&Entry) -> Result<usize, E>) -> Result<(), E> {
        let mut total = 0;
        let mut kept = Vec::with_capacity(self.entries.len());
        for entry in std::mem::take(&mut self.entries) {
            let size = size_of(&entry)?;
            if self.is_too_large(&entry, size, LARGEST_FILE, "split it") {
                continue;
            }
            total += size;
            kept.push(entry);
        }
        if total > MOST_BYTES {
            self.problem(
                "",
                format!("the manifests have {total} bytes together, at most {MOST_BYTES} are read"),
                "split the path into several sources",
            );
            kept.clear();
        }
        self.entries = kept;
        if let Some(entry) = self.settings.take() {
            let size = size_of(&entry)?;
            if !self.is_too_large(&entry, size, LARGEST_SETTINGS, "it holds a line or two") {
                self.settings = Some(entry);
            }
        }
        Ok(())
    }

    fn is_too_large(&mut self, entry: &Entry, size: usize, most: usize, hint: &str) -> bool {
        if size > most {
            let message = format!("the file has {size} bytes, at most {most} are read");
            self.problem(&entry.path, message, hint);
        }
        size > most
    }

    /// In order of the paths.
    pub fn into_listing(mut self) -> Listing {
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        self.problems.sort_by(|a, b| a.file.cmp(&b.file));
        Listing { entries: self.entries, settings: self.settings, problems: self.problems }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(name: &[u8], form: Form) -> (Option<String>, Listing) {
        let mut walk = Walk::default();
        let folder = walk.visit(name, form, "b", "app/", 0);
        (folder, walk.into_listing())
    }

    #[test]
    fn only_manifests_are_taken() {
        for name in ["a.yaml", "A.YML", "a b.json", "ü.yaml"] {
            let (_, listing) = visit(name.as_bytes(), Form::File);
            assert_eq!(listing.entries[0].path, format!("app/{name}"));
        }
        for name in [&b"README.md"[..], b"photo-\xff.jpg", b".hidden.yaml", b"a\nb.txt"] {
            assert_eq!(visit(name, Form::File).1, Listing::default());
        }
        assert!(visit(b".ballast.yaml", Form::File).1.settings.is_some());
        assert_eq!(visit(b"web", Form::Folder).0.as_deref(), Some("app/web/"));
        assert_eq!(visit(b".github", Form::Folder).0, None);
    }

    #[test]
    fn hostile_names_are_problems_with_a_printable_name() {
        let long = [&[b'a'; 4096][..], b".yaml"].concat();
        let rows: &[(&[u8], Form, &str)] = &[
            (b"..", Form::Folder, "a file cannot have this name"),
            (b".", Form::Folder, "a file cannot have this name"),
            (b"", Form::File, "a file cannot have this name"),
            (b"a/b.yaml", Form::File, "a file cannot have this name"),
            (b".git", Form::Folder, "a file cannot have this name"),
            (b".GIT", Form::Folder, "a file cannot have this name"),
            (b"git~1", Form::Folder, "a file cannot have this name"),
            (b".git::$INDEX_ALLOCATION", Form::Folder, "a file cannot have this name"),
            (".g\u{200c}it".as_bytes(), Form::Folder, "a file cannot have this name"),
            (b".git ", Form::Folder, "a file cannot have this name"),
            (b"a\nb.yaml", Form::File, "the file's name is not plain UTF-8 text"),
            (b"a\xff.yaml", Form::File, "the file's name is not plain UTF-8 text"),
            (b"a\xff", Form::Folder, "the folder's name is not plain UTF-8 text"),
            ("a\u{202e}b.yaml".as_bytes(), Form::File, "the file's name is not plain UTF-8 text"),
            (&long, Form::File, "the file's name is not plain UTF-8 text"),
            (b"a.yaml", Form::Link, "symbolic links are not followed"),
            (b"vendor", Form::Submodule, "submodules are not followed"),
            (b"a.yaml", Form::Special, "this is no file: a pipe, a socket or a device"),
        ];
        for (name, form, message) in rows {
            let (folder, listing) = visit(name, *form);
            let shown = String::from_utf8_lossy(name);
            assert_eq!((folder, listing.entries.len()), (None, 0), "{shown}");
            assert_eq!(listing.problems[0].message, *message, "{shown}");
            assert!(!listing.problems[0].file.chars().any(char::is_control));
        }
    }

    #[test]
    fn what_is_too_large_is_told_and_not_read() {
        let mut walk = Walk::default();
        for name in [".ballast.yaml", "a.yaml", "b.yaml"] {
            walk.visit(name.as_bytes(), Form::File, "b", "", 0);
        }
        let sizes = |entry: &Entry| match entry.path.as_str() {
            ".ballast.yaml" => Ok::<usize, ()>(LARGEST_SETTINGS + 1),
            "a.yaml" => Ok(LARGEST_FILE + 1),
            _ => Ok(1),
        };
        walk.weigh(sizes).expect("every size is known");
        let listing = walk.into_listing();
        assert_eq!((listing.entries.len(), listing.settings), (1, None));
        let files: Vec<&str> = listing.problems.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(files, [".ballast.yaml", "a.yaml"]);
    }

    #[test]
    fn paths_stay_inside() {
        assert_eq!(path_parts("."), Some(vec![]));
        assert_eq!(path_parts("./deploy//web/"), Some(vec!["deploy", "web"]));
        for bad in ["/etc", "../x", "a/../../x", ".git/hooks", "a\nb"] {
            assert_eq!(path_parts(bad), None, "{bad:?}");
        }
    }
}
