//! What a repository may do to us: real repositories, hostile trees, a branch that moves.

use ballast::sync::git::{GitError, MOST_PACKS, Mirror};
use ballast::sync::objects::Objects;
use ballast::sync::wire::Patience;
use ballast::sync::{Access, SourceUrl};
use git2::{FileMode, Oid};
use tokio_util::sync::CancellationToken;

use crate::repository::Origin;

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

struct Scene {
    origin: Origin,
    data: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { origin: Origin::new(), data: tempfile::tempdir().expect("a folder") }
    }

    fn mirror(&self) -> Mirror {
        let url = SourceUrl::parse(&self.origin.path().to_string_lossy()).expect("a path");
        Mirror::open(self.data.path(), "app", url, Access::default(), Patience::default())
            .expect("a mirror")
    }

    /// The paths of the manifests, and the problems, of the branch's head.
    fn listed(&self, path: &str) -> Result<(Vec<String>, Vec<String>), GitError> {
        let mirror = self.mirror();
        let head = fetch(&mirror)?.head;
        let listing = mirror.objects()?.list(&head.id, path)?;
        let problems = listing.problems.into_iter();
        Ok((
            listing.entries.into_iter().map(|entry| entry.path).collect(),
            problems.map(|problem| format!("{}: {}", problem.file, problem.message)).collect(),
        ))
    }
}

fn fetch(mirror: &Mirror) -> Result<ballast::sync::git::Fetched, GitError> {
    mirror.fetch("main", &CancellationToken::new(), &|_| {})
}

#[test]
fn a_branch_is_followed_also_when_it_is_rewritten() {
    let scene = Scene::new();
    let mirror = scene.mirror();
    let missing = fetch(&mirror).expect_err("no branch yet").to_string();
    assert!(missing.ends_with("the repository has no branches yet"), "{missing}");

    let first = scene.origin.commit(&[("a.yaml", CONFIG)]);
    let fetched = fetch(&mirror).expect("fetched");
    assert_eq!((fetched.head.id.clone(), fetched.rewritten), (first.clone(), None));
    assert_eq!((fetched.head.subject.as_str(), fetched.head.author.as_str()), ("a change", "Ada"));
    let second = scene.origin.commit(&[("b.yaml", CONFIG)]);
    assert_eq!(fetch(&mirror).expect("fetched").head.id, second);
    let third = scene.origin.rewrite(&[("c.yaml", CONFIG)]);
    let fetched = fetch(&mirror).expect("fetched");
    assert_eq!((fetched.head.id, fetched.rewritten), (third, Some(second)));

    let mut branch = scene.origin.repository.find_reference("refs/heads/main").expect("there");
    branch.rename("refs/heads/trunk", true, "renamed").expect("renamed");
    let error = fetch(&mirror).expect_err("the branch is gone").to_string();
    assert!(
        error.contains("branch \"main\" does not exist") && error.ends_with("it has trunk"),
        "{error}"
    );
    assert!(mirror.objects().expect("usable").list(&first, ".").is_ok(), "what was fetched stays");
}

#[test]
fn what_a_killed_fetch_leaves_is_in_nobodys_way() {
    let scene = Scene::new();
    scene.origin.commit(&[("a.yaml", CONFIG)]);
    fetch(&scene.mirror()).expect("fetched");
    let folder = std::fs::read_dir(scene.data.path().join("git")).expect("git").flatten().next();
    let folder = folder.expect("one mirror").path();
    std::fs::write(folder.join("refs/heads/main.lock"), "").expect("a lock");
    std::fs::write(folder.join("objects/pack/pack_git2_x"), "half").expect("half a pack");
    let second = scene.origin.commit(&[("b.yaml", CONFIG)]);
    assert_eq!(fetch(&scene.mirror()).expect("fetched").head.id, second);
    // A mirror that is no repository any more is made anew.
    std::fs::write(folder.join("HEAD"), "garbage").expect("written");
    std::fs::remove_dir_all(folder.join("refs")).expect("removed");
    assert_eq!(fetch(&scene.mirror()).expect("fetched").head.id, second);
}

#[test]
fn packs_are_joined_and_the_applied_commit_is_kept() {
    let scene = Scene::new();
    let mirror = scene.mirror();
    let text = |number: usize| CONFIG.replace("name: a", &format!("name: a{number}"));
    let lost = scene.origin.commit(&[("lost.yaml", CONFIG)]);
    fetch(&mirror).expect("fetched");
    let applied = scene.origin.rewrite(&[("a.yaml", CONFIG)]);
    fetch(&mirror).expect("fetched");
    mirror.keep(&applied);
    scene.origin.rewrite(&[("b.yaml", &text(0))]);
    let folder = std::fs::read_dir(scene.data.path().join("git")).expect("git").flatten().next();
    let packs = folder.expect("one mirror").path().join("objects/pack");
    let count = || {
        let entries = std::fs::read_dir(&packs).expect("packs").flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|ext| ext == "pack")).count()
    };
    let mut most = 0;
    for number in 1..=MOST_PACKS + 5 {
        let head = scene.origin.commit(&[("b.yaml", &text(number))]);
        assert_eq!(fetch(&mirror).expect("fetched").head.id, head);
        most = most.max(count());
    }
    assert_eq!(most, MOST_PACKS, "a long-lived mirror joins them too");
    assert!(count() < 10, "{}", count());
    let objects = mirror.objects().expect("usable");
    let listing = objects.list(&applied, ".").expect("kept");
    objects.read(&listing.entries[0]).expect("its blob too");
    assert!(objects.list(&lost, ".").is_err(), "what nothing names is gone");
}

#[test]
fn a_repository_that_is_none_is_named() {
    let data = tempfile::tempdir().expect("a folder");
    let url = SourceUrl::parse("/nowhere/at/all").expect("a path");
    let mirror = Mirror::open(data.path(), "app", url, Access::default(), Patience::default())
        .expect("a mirror");
    let error = fetch(&mirror).expect_err("nothing there").to_string();
    assert_eq!(error, "no Git repository at /nowhere/at/all");
    let error = mirror.fetch("../x", &CancellationToken::new(), &|_| {});
    let error = error.expect_err("no branch").to_string();
    assert!(error.contains("the branch's name"), "{error}");
}

#[test]
fn settings_that_are_too_large_are_not_read() {
    let scene = Scene::new();
    let large = format!("confirmPrune: '{}'\n", "1".repeat(100_000));
    scene.origin.commit(&[("a.yaml", CONFIG), (".ballast.yaml", &large)]);
    let (files, problems) = scene.listed(".").expect("there");
    assert_eq!(files, ["a.yaml"]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with(".ballast.yaml: the file has 100017 bytes"), "{problems:?}");
}

#[test]
fn a_path_that_does_not_exist_is_an_error_never_an_empty_set() {
    let scene = Scene::new();
    scene.origin.commit_modes(&[
        ("deploy/web/a.yaml", CONFIG, FileMode::Blob),
        ("file", "x", FileMode::Blob),
        ("link", "deploy", FileMode::Link),
        ("module", "", FileMode::Commit),
    ]);
    assert_eq!(scene.listed("deploy").expect("there").0, ["deploy/web/a.yaml"]);
    for (path, part) in [
        ("deplyo", "does not exist"),
        ("file", "is a file"),
        ("link", "is a symbolic link"),
        ("link/web", "is a symbolic link"),
        ("module", "is a submodule"),
        ("../x", "is not inside the repository"),
        ("/etc", "is not inside the repository"),
    ] {
        let error = scene.listed(path).expect_err("refused").to_string();
        assert!(error.contains(part), "{path}: {error}");
    }
}

#[test]
fn links_and_submodules_are_refused_by_name_also_in_the_second_commit() {
    let scene = Scene::new();
    scene.origin.commit(&[("a.yaml", CONFIG)]);
    assert_eq!(scene.listed(".").expect("read").1, Vec::<String>::new());
    let links = [
        ("a.yaml", CONFIG, FileMode::Blob),
        ("out.yaml", "/etc/passwd", FileMode::Link),
        ("up.yaml", "../../x", FileMode::Link),
        ("self.yaml", "self.yaml", FileMode::Link),
        ("folder", "sub", FileMode::Link),
        ("vendor", "", FileMode::Commit),
        (".hidden/x.yaml", "/etc/passwd", FileMode::Link),
    ];
    scene.origin.commit_modes(&links);
    let (entries, problems) = scene.listed(".").expect("read");
    assert_eq!(entries, ["a.yaml"]);
    assert_eq!(
        problems,
        [
            "folder: symbolic links are not followed",
            "out.yaml: symbolic links are not followed",
            "self.yaml: symbolic links are not followed",
            "up.yaml: symbolic links are not followed",
            "vendor: submodules are not followed",
        ]
    );
}

#[test]
fn a_tree_that_no_git_wrote_is_read_safely() {
    let scene = Scene::new();
    let blob = scene.origin.repository.blob(CONFIG.as_bytes()).expect("a blob");
    let inner = scene.origin.raw_tree(&[("100644", b"x.yaml", blob)]);
    let entries: Vec<(&str, Vec<u8>, Oid)> = vec![
        ("40000", b"..".to_vec(), inner),
        ("40000", b".GIT".to_vec(), inner),
        ("40000", b"git~1".to_vec(), inner),
        ("100644", b"a.yaml".to_vec(), blob),
        ("100644", b"a.yaml".to_vec(), blob),
        ("100644", b"A.yaml".to_vec(), blob),
        ("100644", b"new\nline.yaml".to_vec(), blob),
        ("100644", b"caf\xe9.yaml".to_vec(), blob),
        ("100644", [&[b'n'; 4096][..], b".yaml"].concat(), blob),
        ("100644", b"back\\slash.yaml".to_vec(), blob),
    ];
    let borrowed: Vec<(&str, &[u8], Oid)> =
        entries.iter().map(|(mode, name, id)| (*mode, name.as_slice(), *id)).collect();
    let tree = scene.origin.raw_tree(&borrowed);
    scene.origin.commit_tree(tree);
    let (entries, problems) = scene.listed(".").expect("read");
    // Two names that differ in case are two files: there is no work tree for them to collide in.
    assert_eq!(entries, ["A.yaml", "a.yaml", "back\\slash.yaml"]);
    assert_eq!(problems.len(), 7, "{problems:#?}");
    assert!(problems.iter().all(|problem| !problem.contains('\n') && problem.len() < 400));
}

#[test]
fn sizes_and_depths_are_bounded() {
    let scene = Scene::new();
    let large = format!("# {}\n{CONFIG}", "x".repeat(5 * 1024 * 1024));
    let deep = format!("{}a.yaml", "d/".repeat(100));
    scene.origin.commit(&[
        ("large.yaml", &large),
        ("large.bin", &large),
        (&deep, CONFIG),
        ("a.yaml", CONFIG),
    ]);
    let (entries, problems) = scene.listed(".").expect("read");
    assert_eq!(entries, ["a.yaml"]);
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].ends_with("folders are nested deeper than 64"), "{}", problems[0]);
    assert!(problems[1].starts_with("large.yaml: the file has 52429"), "{}", problems[1]);
}

#[test]
fn twenty_thousand_files_are_read_and_one_more_is_a_problem() {
    let scene = Scene::new();
    let blob = scene.origin.repository.blob(CONFIG.as_bytes()).expect("a blob");
    let names: Vec<String> = (0..20_001).map(|number| format!("{number:05}.yaml")).collect();
    let entries: Vec<(&str, &[u8], Oid)> =
        names.iter().map(|name| ("100644", name.as_bytes(), blob)).collect();
    let tree = scene.origin.raw_tree(&entries);
    scene.origin.commit_tree(tree);
    let (entries, problems) = scene.listed(".").expect("read");
    assert_eq!((entries.len(), problems.len()), (20_000, 1));
    assert!(problems[0].contains("more than 20000 manifest files"), "{}", problems[0]);
}

#[test]
fn a_missing_blob_is_damage_and_no_panic() {
    let scene = Scene::new();
    let ghost = Oid::from_bytes(&[9; 20]).expect("20 bytes");
    let tree = scene.origin.raw_tree(&[("100644", b"a.yaml", ghost)]);
    scene.origin.commit_tree(tree);
    assert!(scene.listed(".").is_err());
}

#[test]
fn references_of_a_local_repository_are_resolved() {
    let scene = Scene::new();
    let id = scene.origin.commit(&[("a.yaml", CONFIG)]);
    let objects = Objects::open(scene.origin.path()).expect("a repository");
    assert_eq!(objects.resolve("main").expect("a branch").id, id);
    assert_eq!(objects.resolve(&id[..10]).expect("an abbreviation").id, id);
    let error = objects.resolve("nothing").expect_err("no commit").to_string();
    assert_eq!(error, "\"nothing\" names no commit");
}
