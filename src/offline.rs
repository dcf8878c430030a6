//! `validate` and `plan`: the sync's own code on files, without a daemon. A temporary store with the
//! real API over it stands in for the cluster, so that admission is the same too; it is gone when
//! the answer is there.
//!
//! What a temporary store cannot know is said in the answer: namespaces that the path does not
//! declare are taken to exist, and the values of Secrets are not compared (the served API shows
//! hashes of them only).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use crate::api::{Api, ApiOptions, IdSource, Identity, Local};
use crate::clock::Clock;
use crate::object::drift::Class;
use crate::object::inventory::InventoryEntry;
use crate::object::source::{Problem, Source, SourceStatus};
use crate::object::{ApiError, Cluster, Key, Kind, Object, SetAction, SetOutcome};
use crate::offline_report::{FieldChange, PlanReport, PlannedChange, Report, Shown};
use crate::ranges::Ranges;
use crate::store::{OpenError, Sqlite, SqliteOptions, WriterMode};
use crate::sync::apply::{self, ApplyError};
use crate::sync::commit::{self, Commits, Read};
use crate::sync::diff::{self, Observed, Step};
use crate::sync::drift::{self, Wish};
use crate::sync::excerpt::excerpt;
use crate::sync::git::GitError;
use crate::sync::manifest::{self, Manifest};
use crate::sync::objects::Objects;
use crate::sync::observe;
use crate::sync::source::{CommitFacts, SourceFile};
use crate::sync::tree::{Form, LARGEST_FILE, LARGEST_SETTINGS, Walk};
use crate::task::Tasks;
use crate::with_kind;

/// Why there is no answer at all. What is wrong with manifests is in the answer.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error("{path}: {source}")]
    Path { path: String, source: std::io::Error },
    #[error(transparent)]
    Git(#[from] GitError),
    #[error("the temporary store cannot be opened")]
    Store(#[from] OpenError),
    #[error("the temporary cluster cannot be filled: {0}")]
    Fill(ApiError),
    #[error("the temporary cluster cannot tell: {0}")]
    Cluster(String),
}

/// Where the manifests are that `plan` is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A folder or file as it is on disk, committed or not.
    Files(PathBuf),
    /// A commit, branch or tag of a local repository, and the folder inside it.
    Commit { repository: PathBuf, reference: String, path: String },
}

/// Checks a file, a folder or a bare repository (its HEAD): every problem at once.
///
/// # Errors
/// The path cannot be read at all.
pub async fn validate(path: &Path, ranges: &Ranges) -> Result<Report, OfflineError> {
    let wanted = if is_bare_repository(path) {
        Wanted::Commit {
            repository: path.to_owned(),
            reference: "HEAD".to_owned(),
            path: ".".to_owned(),
        }
    } else {
        Wanted::Files(path.to_owned())
    };
    let found = read(&wanted)?;
    let scratch = Scratch::open(ranges).await?;
    let mut notes = Vec::new();
    if found.read.set.objects.iter().any(|manifest| manifest.kind == Kind::Service) {
        notes.push(ranges.note.clone());
    }
    scratch.assume_namespaces(&found.read, &mut notes).await?;
    let observed =
        observe::observe(&scratch.cluster, &SourceStatus::default(), &[], &found.read.set)
            .await
            .map_err(OfflineError::Fill)?;
    let problems =
        apply::every_problem(&scratch.cluster, SCRATCH_SOURCE, &found.read, &observed).await;
    scratch.close().await;
    Ok(Report {
        files: found.read.files,
        objects: found.read.set.objects.len(),
        problems: found.show(problems),
        notes,
    })
}

/// A source as the served API shows it; the default is one that has applied nothing yet.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    pub source: Option<Source>,
    pub inventory: Vec<InventoryEntry>,
    /// The objects of its inventory, and the namespaces.
    pub live: Vec<Value>,
}

/// What applying `wanted` would change in a cluster that holds what is followed.
///
/// # Errors
/// The manifests cannot be read at all, or the live objects cannot be taken over.
pub async fn plan_against(
    followed: Followed,
    wanted: &Wanted,
    ranges: &Ranges,
) -> Result<PlanReport, OfflineError> {
    let found = read(wanted)?;
    let Followed { source, mut inventory, live } = followed;
    let name = source
        .as_ref()
        .and_then(|source| source.metadata.name.clone())
        .unwrap_or_else(|| SCRATCH_SOURCE.to_owned());
    let scratch = Scratch::open(ranges).await?;
    let mut notes = vec![ranges.note.clone()];
    let status = source.and_then(|source| source.status).unwrap_or_default();
    scratch.fill(live, &found.read, &mut inventory, &mut notes).await?;
    scratch.assume_namespaces(&found.read, &mut notes).await?;
    let observed = observe::observe(&scratch.cluster, &status, &inventory, &found.read.set).await;
    let report = match observed {
        Ok(observed) => plan_in(&scratch, &name, &observed, &found, notes).await,
        Err(error) => Err(OfflineError::Fill(error)),
    };
    scratch.close().await;
    report
}

async fn plan_in(
    scratch: &Scratch,
    name: &str,
    observed: &Observed,
    found: &Found,
    mut notes: Vec<String>,
) -> Result<PlanReport, OfflineError> {
    let commit = found.commit.clone().map(|facts| facts.id).unwrap_or_default();
    let refused = |problems: Vec<Problem>, notes: Vec<String>| PlanReport {
        commit: commit.clone(),
        problems: found.show(problems),
        notes,
        ..PlanReport::default()
    };
    if !found.read.problems.is_empty() {
        let problems = apply::every_problem(&scratch.cluster, name, &found.read, observed).await;
        return Ok(refused(problems, notes));
    }
    let plan = diff::plan(name, &found.read.set, observed);
    if !plan.problems.is_empty() {
        return Ok(refused(plan.problems, notes));
    }
    notes.extend(plan.left_alone.iter().cloned());
    let set = apply::set_of(name, &observed.formerly, &plan.steps);
    let outcomes = match apply::perform(&scratch.cluster, &plan.steps, &set, true).await {
        Ok(outcomes) => outcomes,
        Err(ApplyError::Refused(problems)) => return Ok(refused(problems, notes)),
        Err(ApplyError::Later(message)) => return Err(OfflineError::Cluster(message)),
    };
    let unmade = BTreeSet::new();
    let wish = Wish { source: name, commit: &commit, secret_key: &SCRATCH_KEY, unmade: &unmade };
    let pairs = plan.steps.iter().zip(&outcomes);
    let changes: Vec<PlannedChange> =
        pairs.filter_map(|(step, outcome)| change(wish, step, outcome)).collect();
    Ok(PlanReport {
        unchanged: found.read.set.objects.len()
            - changes.iter().filter(|change| change.action != "delete").count(),
        commit,
        changes,
        problems: Vec::new(),
        held: plan.hold.map(|hold| hold.reason),
        notes,
    })
}

fn change(wish: Wish<'_>, step: &Step, outcome: &SetOutcome) -> Option<PlannedChange> {
    let action = match outcome.action {
        SetAction::Created => "create",
        SetAction::Updated => "change",
        SetAction::Deleted => "delete",
        SetAction::Unchanged => return None,
    };
    let object = format!("{} {}", outcome.kind, outcome.key);
    Some(match step {
        Step::Apply { manifest, reason, .. } => PlannedChange {
            action,
            object,
            file: manifest.file.to_string(),
            line: manifest.line(),
            reason: (*reason).to_owned(),
            fields: if action == "change" { fields(wish, manifest, outcome) } else { Vec::new() },
        },
        Step::Prune { entry, reason, .. } => PlannedChange {
            action,
            object,
            file: entry.file.clone(),
            line: entry.line,
            reason: reason.clone(),
            fields: Vec::new(),
        },
    })
}

fn fields(wish: Wish<'_>, manifest: &Manifest, outcome: &SetOutcome) -> Vec<FieldChange> {
    let examined = drift::examine(wish, manifest, outcome);
    let differences = examined.differences.into_iter().map(|difference| FieldChange {
        from: difference.actual.filter(|_| difference.class != Class::Missing),
        to: difference.wanted,
        line: difference.origin.map_or(0, |origin| origin.line),
        field: difference.field,
    });
    differences.collect()
}

/// What was read, with the texts for the excerpts.
struct Found {
    read: Read,
    commit: Option<CommitFacts>,
    texts: HashMap<String, String>,
}

impl Found {
    fn show(&self, problems: Vec<Problem>) -> Vec<Shown> {
        let show = |problem: Problem| Shown {
            excerpt: excerpt(&problem, self.texts.get(&problem.file).map(String::as_str)),
            problem,
        };
        problems.into_iter().map(show).collect()
    }
}

fn read(wanted: &Wanted) -> Result<Found, OfflineError> {
    match wanted {
        Wanted::Files(path) => read_files(path),
        Wanted::Commit { repository, reference, path } => {
            let objects = Objects::open(repository)?;
            let facts = objects.resolve(reference)?;
            let read = Commits::default().read(&objects, &facts.id, path)?;
            let mut texts = HashMap::new();
            let with_problems: BTreeSet<&str> =
                read.set.objects.iter().map(|manifest| &*manifest.file).collect();
            for entry in objects.list(&facts.id, path)?.entries {
                let named = read.problems.iter().any(|problem| problem.file == entry.path);
                if named || with_problems.contains(entry.path.as_str()) {
                    let text = String::from_utf8_lossy(&objects.read(&entry)?).into_owned();
                    texts.insert(entry.path, text);
                }
            }
            Ok(Found { read, commit: Some(facts), texts })
        }
    }
}

/// Whether a repository stands here, with a work tree or bare.
pub(crate) fn is_repository(path: &Path) -> bool {
    path.join(".git").exists() || is_bare_repository(path)
}

fn is_bare_repository(path: &Path) -> bool {
    path.join("HEAD").is_file() && path.join("objects").is_dir() && path.join("refs").is_dir()
}

/// Files on disk, by the rules for trees: links are not followed, hidden names not looked at.
fn read_files(path: &Path) -> Result<Found, OfflineError> {
    let failed =
        |path: &Path, source| OfflineError::Path { path: path.display().to_string(), source };
    // What a person names may be a link; what lies below it may not.
    let path = &fs::canonicalize(path).map_err(|error| failed(path, error))?;
    let meta = fs::metadata(path).map_err(|error| failed(path, error))?;
    let root: &Path = if meta.is_file() { path.parent().unwrap_or(path) } else { path };
    let mut walk = Walk::default();
    if meta.is_file() {
        let name = path.file_name().unwrap_or_default();
        walk.visit(name.as_bytes(), Form::File, "", "", 1);
        if walk.entries.is_empty() {
            let name = path.display().to_string();
            walk.problem(
                &name,
                "the file is no manifest: *.yaml, *.yml and *.json are read".to_owned(),
                "rename it",
            );
        }
    } else {
        walk_folder(path, &mut walk)?;
    }
    let listing = walk.into_listing();
    let (mut files, mut texts, mut problems) = (Vec::new(), HashMap::new(), listing.problems);
    for entry in listing.entries.iter().chain(&listing.settings) {
        let full = root.join(&entry.path);
        let is_settings = listing.settings.as_ref() == Some(entry);
        let most = if is_settings { LARGEST_SETTINGS } else { LARGEST_FILE };
        let bytes = match read_file(&full, most) {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(message)) => {
                let file = entry.path.clone();
                let hint = "split it".to_owned();
                problems.push(Problem { file, message, hint, ..Problem::default() });
                continue;
            }
            Err(error) => return Err(failed(&full, error)),
        };
        texts.insert(entry.path.clone(), String::from_utf8_lossy(&bytes).into_owned());
        let path = entry.path.as_str().into();
        files.push(SourceFile { path, blob: String::new(), bytes: bytes.into() });
    }
    let is_settings = |file: &SourceFile| {
        listing.settings.as_ref().is_some_and(|entry| *entry.path == *file.path)
    };
    let settings = files.iter().find(|file| is_settings(file)).cloned();
    let parsed: Vec<_> = files
        .iter()
        .filter(|file| !is_settings(file))
        .map(|file| Arc::new(manifest::parse(file)))
        .collect();
    Ok(Found { read: commit::join(&parsed, settings.as_ref(), problems), commit: None, texts })
}

/// The bytes of a file, or why there are too many. What was a file when the folder was listed and is
/// a link or a pipe now is neither followed nor waited for.
fn read_file(path: &Path, most: usize) -> io::Result<Result<Vec<u8>, String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("this is no file"));
    }
    let mut bytes = Vec::new();
    // The limit holds for what is read, whatever the size said.
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        let size = meta.len().max(bytes.len() as u64);
        return Ok(Err(format!("the file has {size} bytes, at most {most} are read")));
    }
    Ok(Ok(bytes))
}

fn walk_folder(root: &Path, walk: &mut Walk) -> Result<(), OfflineError> {
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        let failed = |source| OfflineError::Path { path: folder.display().to_string(), source };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Git's own folder stands in every work tree, and in no tree.
            if !walk.goes_on(&prefix) || entry.file_name() == ".git" {
                continue;
            }
            let kind = entry.file_type().map_err(failed)?;
            let form = if kind.is_symlink() {
                Form::Link
            } else if kind.is_dir() {
                Form::Folder
            } else if kind.is_file() {
                Form::File
            } else {
                Form::Special
            };
            let name = entry.file_name();
            if let Some(inner) = walk.visit(name.as_bytes(), form, "", &prefix, depth) {
                folders.push((entry.path(), inner, depth + 1));
            }
        }
    }
    Ok(())
}

/// The source's name where there is none.
const SCRATCH_SOURCE: &str = "main";
/// Hashes of a plan are compared with nothing outside it.
const SCRATCH_KEY: [u8; 32] = [0; 32];

/// A cluster that is gone afterwards.
struct Scratch {
    folder: PathBuf,
    store: Sqlite,
    cluster: Local<Sqlite>,
    admin: Local<Sqlite>,
    tasks: Tasks,
}

impl Scratch {
    async fn open(ranges: &Ranges) -> Result<Self, OfflineError> {
        let folder = std::env::temp_dir().join(format!("ballast-{}", uuid::Uuid::new_v4()));
        let failed = |source| OfflineError::Path { path: folder.display().to_string(), source };
        fs::create_dir(&folder).map_err(failed)?;
        let options = SqliteOptions { writer: WriterMode::Inline, ..SqliteOptions::default() };
        let store = Sqlite::open(&folder.join("scratch.db"), options)?;
        let (tasks, _) = Tasks::new();
        let options = ApiOptions {
            service_range: ranges.services,
            node_ports: ranges.node_ports.clone(),
            clock: Clock::wall(),
            secret_key: SCRATCH_KEY,
            ids: IdSource::random(),
            privileges: Arc::new(ranges.privileges.clone()),
        };
        let api = Api::new(store.clone(), options, &tasks);
        let scratch = Self {
            folder,
            store,
            cluster: api.local(Identity::Sync),
            admin: api.local(Identity::Admin),
            tasks,
        };
        scratch.namespace("default").await?;
        Ok(scratch)
    }

    async fn close(self) {
        self.tasks.stop().cancel();
        let Self { folder, store, cluster, admin, .. } = self;
        drop((store, cluster, admin));
        // What is left of a temporary folder harms nobody.
        let _ = fs::remove_dir_all(folder);
    }

    async fn namespace(&self, name: &str) -> Result<(), OfflineError> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        match self.admin.create(&namespace).await {
            Err(error) if !error.is_already_exists() => Err(OfflineError::Fill(error)),
            _ => Ok(()),
        }
    }

    /// Namespaces that the manifests use, do not declare, and that are not there.
    async fn assume_namespaces(
        &self,
        read: &Read,
        notes: &mut Vec<String>,
    ) -> Result<(), OfflineError> {
        let declared = |name: &str| {
            read.set
                .objects
                .iter()
                .any(|object| object.kind == Kind::Namespace && object.key.name == name)
        };
        let used: BTreeSet<&str> = read
            .set
            .objects
            .iter()
            .map(|object| object.key.namespace.as_str())
            .filter(|name| !name.is_empty() && !declared(name))
            .collect();
        for name in used {
            let there = self.admin.get::<Namespace>(&Key::cluster(name)).await.is_ok();
            if !there && crate::object::name::label_faults(name).is_empty() {
                self.namespace(name).await?;
                notes.push(format!("Namespace {name} is not declared here: it is taken to exist"));
            }
        }
        Ok(())
    }

    /// Takes over the live objects. Each gets a new uid, so the inventory is told the new ones.
    async fn fill(
        &self,
        mut live: Vec<Value>,
        read: &Read,
        inventory: &mut [InventoryEntry],
        notes: &mut Vec<String>,
    ) -> Result<(), OfflineError> {
        let wanted: BTreeMap<(Kind, Key), &Manifest> = read
            .set
            .objects
            .iter()
            .map(|object| ((object.kind, object.key.clone()), object))
            .collect();
        live.sort_by_key(|object| object["kind"] != "Namespace");
        let mut secrets = 0;
        for mut object in live {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let Some(kind) =
                Kind::of_manifest(&word(&object["apiVersion"]), &word(&object["kind"]))
            else {
                continue;
            };
            let meta = &object["metadata"];
            let key = Key { namespace: word(&meta["namespace"]), name: word(&meta["name"]) };
            let old_uid = word(&meta["uid"]);
            if kind == Kind::Secret {
                secrets += 1;
                let manifest = wanted.get(&(kind, key.clone()));
                for field in ["data", "stringData"] {
                    object[field] =
                        manifest.map_or(Value::Null, |manifest| manifest.value[field].clone());
                }
            }
            if let Some(meta) = object["metadata"].as_object_mut() {
                for field in
                    ["uid", "resourceVersion", "creationTimestamp", "ownerReferences", "finalizers"]
                {
                    meta.remove(field);
                }
            }
            object["status"] = json!({});
            let new_uid = with_kind!(kind, K => self.take_over::<K>(object).await)?;
            for entry in &mut *inventory {
                if entry.kind == kind && entry.key() == key && entry.uid == old_uid {
                    entry.uid.clone_from(&new_uid);
                }
            }
        }
        if secrets > 0 {
            notes.push("the values of Secrets are not compared".to_owned());
        }
        Ok(())
    }

    async fn take_over<K: Object>(&self, object: Value) -> Result<String, OfflineError> {
        let object: K = serde_json::from_value(object)
            .map_err(|error| OfflineError::Fill(ApiError::bad_request(error.to_string())))?;
        match self.admin.create(&object).await {
            Ok(created) => Ok(created.uid().to_owned()),
            Err(error) if error.is_already_exists() => {
                let stored =
                    self.admin.get::<K>(&object.key()).await.map_err(OfflineError::Fill)?;
                Ok(stored.uid().to_owned())
            }
            Err(error) => Err(OfflineError::Fill(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_a_link_or_a_pipe_is_neither_followed_nor_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let (link, pipe) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        std::os::unix::fs::symlink("/etc/passwd", &link).expect("a link");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::from_raw_mode(0o600)).expect("a pipe");
        assert!(read_file(&link, LARGEST_FILE).is_err());
        assert!(read_file(&pipe, LARGEST_FILE).is_err());
        let file = folder.path().join("c.yaml");
        fs::write(&file, "a: 1").expect("written");
        assert_eq!(read_file(&file, LARGEST_FILE).expect("read"), Ok(b"a: 1".to_vec()));
    }
}
