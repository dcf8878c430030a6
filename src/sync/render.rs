//! Pure: from the files of a commit to the set of objects it wants: namespaces filled in, every
//! object declared once, in the order in which they enter the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::object::source::Problem;
use crate::object::{Key, Kind};
use crate::sync::document;
use crate::sync::manifest::{Manifest, Parsed};
use crate::sync::order;
use crate::sync::source::SourceFile;

/// Where an object lives that names no namespace.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Objects of one source; the next one is a problem, not an out-of-memory.
pub const MAX_OBJECTS: usize = 20_000;

/// Everything one commit wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectSet {
    /// In order of [`order::rank`], namespace and name.
    pub objects: Vec<Manifest>,
    /// What `.ballast.yaml` says about this one step.
    pub settings: Settings,
}

/// The content of `.ballast.yaml` at the root of the source's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The commit that is applied while its removals are confirmed. Any other id confirms nothing.
    pub confirm_prune: Option<String>,
}

/// Joins the files. The set is complete only when there are no problems.
pub fn render(
    files: &[Arc<Parsed>],
    settings_file: Option<&SourceFile>,
) -> (ObjectSet, Vec<Problem>) {
    let mut problems: Vec<Problem> =
        files.iter().flat_map(|file| file.problems.iter().cloned()).collect();
    let mut objects: Vec<Manifest> = Vec::new();
    let mut places: BTreeMap<(Kind, Key), String> = BTreeMap::new();
    for manifest in files.iter().flat_map(|file| &file.manifests) {
        let manifest = in_its_namespace(manifest);
        let id = (manifest.kind, manifest.key.clone());
        let place = format!("{}:{}", manifest.file, manifest.line());
        if let Some(first) = places.get(&id) {
            let mut problem = manifest.problem(
                "metadata.name",
                format!("{} is declared twice: first at {first}, again here", manifest.title()),
            );
            "keep one of the two".clone_into(&mut problem.hint);
            problems.push(problem);
        } else {
            places.insert(id, place);
            objects.push(manifest);
        }
    }
    if objects.len() > MAX_OBJECTS {
        problems.push(Problem {
            message: format!("the path holds {} objects, at most {MAX_OBJECTS}", objects.len()),
            hint: "split it into several sources".to_owned(),
            ..Problem::default()
        });
    }
    order::sort_for_apply(&mut objects, |manifest| (manifest.kind, manifest.key.clone()));
    let settings = settings_file.map(|file| read_settings(file, &mut problems)).unwrap_or_default();
    (ObjectSet { objects, settings }, problems)
}

fn in_its_namespace(manifest: &Manifest) -> Manifest {
    let mut manifest = manifest.clone();
    if manifest.kind.row().namespaced && manifest.key.namespace.is_empty() {
        DEFAULT_NAMESPACE.clone_into(&mut manifest.key.namespace);
        if let Some(metadata) = Arc::make_mut(&mut manifest.value)["metadata"].as_object_mut() {
            metadata.insert("namespace".to_owned(), Value::from(DEFAULT_NAMESPACE));
        }
    }
    manifest
}

fn read_settings(file: &SourceFile, problems: &mut Vec<Problem>) -> Settings {
    let read = document::read(&file.path, &file.bytes);
    let problem = |line: u32, column: u32, field: &str, message: String, hint: &str| Problem {
        file: file.path.to_string(),
        line,
        column,
        field: field.to_owned(),
        message,
        hint: hint.to_owned(),
        ..Problem::default()
    };
    for fault in read.faults {
        let place = fault.place;
        problems.push(problem(place.line, place.column, "", fault.message, &fault.hint));
    }
    let mut settings = Settings::default();
    for document in &read.documents {
        let Some(fields) = document.value.as_object() else {
            problems.push(problem(
                1,
                1,
                "",
                "the settings are no object".to_owned(),
                "write confirmPrune: <commit id>",
            ));
            continue;
        };
        for (name, value) in fields {
            let place = document.positions.key(name);
            match (name.as_str(), value.as_str()) {
                ("confirmPrune", Some(id)) if is_commit_id(id) => {
                    settings.confirm_prune = Some(id.to_ascii_lowercase());
                }
                ("confirmPrune", _) => problems.push(problem(
                    place.line,
                    place.column,
                    name,
                    "confirmPrune is no full commit id".to_owned(),
                    "write the 40 hex digits of the commit that is applied now, in quotes",
                )),
                _ => problems.push(problem(
                    place.line,
                    place.column,
                    name,
                    format!("unknown setting {name:?}"),
                    "confirmPrune is the only one",
                )),
            }
        }
    }
    settings
}

fn is_commit_id(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::manifest::parse;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), blob: String::new(), bytes: text.as_bytes().into() }
    }

    fn parsed(path: &str, text: &str) -> Arc<Parsed> {
        Arc::new(parse(&file(path, text)))
    }

    const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n";

    #[test]
    fn the_namespace_is_default_and_stands_in_the_object() {
        let (set, problems) = render(&[parsed("a.yaml", CONFIG)], None);
        assert_eq!(problems, vec![]);
        assert_eq!(set.objects[0].key, Key::new("default", "a"));
        assert_eq!(set.objects[0].value["metadata"]["namespace"], "default");
    }

    #[test]
    fn an_object_declared_twice_names_both_places() {
        let explicit =
            "# x\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\n";
        let (_, problems) = render(&[parsed("a.yaml", CONFIG), parsed("b.yaml", explicit)], None);
        assert_eq!(problems.len(), 1);
        assert_eq!((problems[0].file.as_str(), problems[0].line), ("b.yaml", 4));
        assert_eq!(
            problems[0].message,
            "ConfigMap default/a is declared twice: first at a.yaml:1, again here"
        );
    }

    #[test]
    fn settings_are_strict() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let (set, problems) =
            render(&[], Some(&file(".ballast.yaml", &format!("confirmPrune: {id}\n"))));
        assert_eq!((set.settings.confirm_prune.as_deref(), problems), (Some(id), vec![]));
        for (text, message) in [
            ("confirmPrune: abc\n", "confirmPrune is no full commit id"),
            ("confirmprune: x\n", "unknown setting \"confirmprune\""),
            ("- a\n", "the settings are no object"),
        ] {
            let (_, problems) = render(&[], Some(&file(".ballast.yaml", text)));
            assert_eq!(problems[0].message, message);
        }
    }
}
