//! Repositories that are too large, too deep, linked, emptied, renamed or claimed twice, followed as
//! the daemon follows them: what is wrong is told with its place, and the last good commit runs on.

use ballast::object::source::SourceStatus;
use ballast::object::{Cluster, Key};
use ballast::sync::git::Mirror;
use ballast::sync::objects::Objects;
use ballast::sync::tree::Listing;
use ballast::sync::wire::Patience;
use ballast::sync::{Access, SourceUrl};
use git2::{ObjectType, Oid};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio_util::sync::CancellationToken;

use crate::repository::Origin;
use crate::sync::{DEPLOYMENT, NAMESPACE, Scene, config};

/// The listing of the branch's head, fetched as the daemon does.
fn listed(origin: &Origin) -> Listing {
    let data = tempfile::tempdir().expect("a folder");
    let url = SourceUrl::parse(&origin.path().to_string_lossy()).expect("a path");
    let mirror = Mirror::open(data.path(), "app", url, Access::default(), Patience::default());
    let mirror = mirror.expect("a mirror");
    let head = mirror.fetch("main", &CancellationToken::new(), &|_| {}).expect("fetched").head;
    mirror.objects().expect("readable").list(&head.id, ".").expect("listed")
}

fn problems(listing: &Listing) -> Vec<String> {
    let show = |problem: &ballast::object::source::Problem| {
        format!("{}: {} ({})", problem.file, problem.message, problem.hint)
    };
    listing.problems.iter().map(show).collect()
}

fn applied(id: &str) -> impl Fn(&SourceStatus) -> bool {
    let id = id.to_owned();
    move |status| status.applied.as_ref().is_some_and(|commit| commit.id == id)
}

#[test]
fn every_kind_of_link_is_refused_by_name() {
    let origin = Origin::new();
    let link = |target: &str| origin.repository.blob(target.as_bytes()).expect("a blob");
    let inside = format!("{}/a.yaml", origin.path().display());
    let file = link(&config("a"));
    let mut entries = vec![
        ("100644", "a.yaml".to_owned(), file),
        ("120000", "absolute.yaml".to_owned(), link(&inside)),
        ("120000", "folder".to_owned(), link("sub")),
        ("120000", "one.yaml".to_owned(), link("two.yaml")),
        ("120000", "self.yaml".to_owned(), link("self.yaml")),
        ("120000", "system.yaml".to_owned(), link("/etc/passwd")),
        ("120000", "two.yaml".to_owned(), link("one.yaml")),
        ("120000", "up.yaml".to_owned(), link("../../x")),
    ];
    let tree = |entries: &[(&str, String, Oid)]| {
        let raw: Vec<(&str, &[u8], Oid)> =
            entries.iter().map(|(mode, name, id)| (*mode, name.as_bytes(), *id)).collect();
        origin.raw_tree(&raw)
    };
    origin.commit_tree(tree(&entries));
    let listing = listed(&origin);
    assert_eq!(listing.entries.len(), 1);
    let hint = "symbolic links are not followed (commit the file itself, or move the link out of the path)";
    let names =
        ["absolute.yaml", "folder", "one.yaml", "self.yaml", "system.yaml", "two.yaml", "up.yaml"];
    assert_eq!(problems(&listing), names.map(|name| format!("{name}: {hint}")));

    entries.truncate(1);
    let chain = |number: usize| format!("link-{number:04}.yaml");
    entries.extend((0..1000).map(|number| ("120000", chain(number), link(&chain(number + 1)))));
    origin.commit_tree(tree(&entries));
    let listing = listed(&origin);
    assert_eq!((listing.entries.len(), listing.problems.len()), (1, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_files_that_are_no_manifests_cost_their_names() {
    let mut scene = Scene::new().await;
    let repository = &scene.origin.repository;
    let photo = repository.blob(b"not YAML at all: {{{").expect("a blob");
    let manifest = repository.blob(config("a").as_bytes()).expect("a blob");
    let names: Vec<String> = (0..100_000).map(|number| format!("photo-{number:06}.jpg")).collect();
    let mut entries: Vec<(&str, &[u8], Oid)> = vec![("100644", b"a.yaml", manifest)];
    entries.extend(names.iter().map(|name| ("100644", name.as_bytes(), photo)));
    let head = scene.origin.commit_tree(scene.origin.raw_tree(&entries));
    scene.start("app", ".");
    scene.until_applied(&head).await;
    assert_eq!(scene.names::<ConfigMap>().await, ["default/a"]);
}

#[test]
fn half_a_million_files_are_looked_at_and_no_more() {
    let origin = Origin::new();
    let file = origin.repository.blob(b"x").expect("a blob");
    let names: Vec<String> = (0..1000).map(|number| format!("{number:03}.txt")).collect();
    let files: Vec<(&str, &[u8], Oid)> =
        names.iter().map(|name| ("100644", name.as_bytes(), file)).collect();
    let folder = origin.raw_tree(&files);
    let folders: Vec<String> = (0..501).map(|number| format!("{number:03}")).collect();
    let folders: Vec<(&str, &[u8], Oid)> =
        folders.iter().map(|name| ("40000", name.as_bytes(), folder)).collect();
    origin.commit_tree(origin.raw_tree(&folders));
    let told = problems(&listed(&origin));
    assert_eq!(told.len(), 1, "{told:?}");
    let words = "more than 500000 files are below the path (follow a narrower path)";
    assert!(told[0].ends_with(words), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_200_megabytes_is_refused_and_the_last_commit_runs_on() {
    let scene = Scene::with(&[("a.yaml", &config("a"))]).await;
    scene.until_applied(&scene.head()).await;
    let line = "# a line of forty characters, and then\n";
    let large = line.repeat(200 * 1024 * 1024 / line.len());
    let bad = scene.commit(&[("a.yaml", &config("a")), ("large.yaml", &large)]).await;
    let told = scene.until_refused(&bad).await;
    let size = large.len();
    let words = format!("large.yaml:0:0 : the file has {size} bytes, at most 4194304 are read");
    assert_eq!(told, [words]);
    assert_eq!(scene.names::<ConfigMap>().await, ["default/a"]);
    // As something else it is nobody's business.
    let photo = scene.commit(&[("a.yaml", &config("a")), ("large.bin", &large)]).await;
    scene.until_applied(&photo).await;
}

#[test]
fn a_blob_of_five_gigabytes_is_refused_by_its_head() {
    // Only its head is made: whoever read on would find nothing.
    let origin = Origin::new();
    let id = Oid::from_bytes(&[5; 20]).expect("20 bytes");
    let hex = id.to_string();
    let folder = origin.path().join("objects").join(&hex[..2]);
    std::fs::create_dir_all(&folder).expect("a folder");
    // zlib: a header, one stored block with the object's head, and no end.
    let head = b"blob 5368709120\0";
    let length = u16::try_from(head.len()).expect("small");
    let mut bytes = vec![0x78, 0x01, 0x00];
    bytes.extend(length.to_le_bytes());
    bytes.extend((!length).to_le_bytes());
    bytes.extend(head);
    std::fs::write(folder.join(&hex[2..]), bytes).expect("written");
    let head = origin.commit_tree(origin.raw_tree(&[("100644", b"huge.yaml", id)]));
    let objects = Objects::open(origin.path()).expect("a repository");
    let listing = objects.list(&head, ".").expect("listed");
    assert_eq!(
        problems(&listing),
        ["huge.yaml: the file has 5368709120 bytes, at most 4194304 are read (split it)"]
    );
}

#[test]
fn manifests_of_200_megabytes_together_are_refused() {
    let origin = Origin::new();
    let text = format!("# {}\n{}", "x".repeat(4_000_000), config("a"));
    let blob = origin.repository.blob(text.as_bytes()).expect("a blob");
    let names: Vec<String> = (0..50).map(|number| format!("{number:02}.yaml")).collect();
    let files: Vec<(&str, &[u8], Oid)> =
        names.iter().map(|name| ("100644", name.as_bytes(), blob)).collect();
    origin.commit_tree(origin.raw_tree(&files));
    let listing = listed(&origin);
    let bytes = 50 * text.len();
    let words = format!(
        ": the manifests have {bytes} bytes together, at most 67108864 are read (split the path into several sources)"
    );
    assert_eq!((listing.entries.len(), problems(&listing)), (0, vec![words]));
}

#[test]
fn folders_5000_deep_are_refused_where_they_become_too_deep() {
    let origin = Origin::new();
    let odb = origin.repository.odb().expect("an object database");
    let blob = odb.write(ObjectType::Blob, config("a").as_bytes()).expect("written");
    let mut tree = origin.raw_tree(&[("100644", b"a.yaml", blob)]);
    for _ in 0..5000 {
        tree = origin.raw_tree(&[("40000", b"d", tree)]);
    }
    origin.commit_tree(tree);
    let listing = listed(&origin);
    assert_eq!(listing.entries.len(), 0);
    let told = problems(&listing);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("folders are nested deeper than 64"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_without_manifests_is_an_empty_wish() {
    let ignored = [("README.md", "# nothing"), (".github/workflows/ci.yaml", "on: push")];
    let scene = Scene::with(&ignored).await;
    let status = scene.until_applied(&scene.head()).await;
    assert_eq!((scene.inventory().await.len(), status.problems), (0, vec![]));
    let first = scene.commit(&[ignored[0], ignored[1], ("a.yaml", &config("a"))]).await;
    scene.until_applied(&first).await;
    // Once there was something, nothing is a question.
    let emptied = scene.commit(&ignored).await;
    let status = scene.until("held", |status| status.held.is_some()).await;
    assert_eq!(status.held.map(|held| held.commit.id), Some(emptied));
    assert_eq!(scene.names::<ConfigMap>().await, ["default/a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_folder_keeps_every_object() {
    let files =
        |folder: &str| ["a", "b", "c"].map(|name| (format!("{folder}/{name}.yaml"), config(name)));
    let borrowed = |files: &[(String, String); 3]| files.clone().map(|(path, text)| (path, text));
    let old = borrowed(&files("old"));
    let old: Vec<(&str, &str)> = old.iter().map(|(path, text)| (&**path, &**text)).collect();
    let scene = Scene::with(&old).await;
    scene.until_applied(&scene.head()).await;
    let key = Key::new("default", "a");
    let before = scene.admin.get::<ConfigMap>(&key).await.expect("there");
    let new = borrowed(&files("new"));
    let new: Vec<(&str, &str)> = new.iter().map(|(path, text)| (&**path, &**text)).collect();
    let moved = scene.commit(&new).await;
    scene.until_applied(&moved).await;
    let after = scene.admin.get::<ConfigMap>(&key).await.expect("there");
    assert_eq!(before.metadata.resource_version, after.metadata.resource_version);
    assert!(scene.inventory().await.iter().all(|entry| entry.file.starts_with("new/")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_object_enters_before_the_old_one_leaves() {
    let scene = Scene::with(&[("a.yaml", &config("old"))]).await;
    scene.until_applied(&scene.head()).await;
    let renamed = scene.commit(&[("a.yaml", &config("new"))]).await;
    scene.until_applied(&renamed).await;
    assert_eq!(scene.names::<ConfigMap>().await, ["default/new"]);
    assert_eq!(scene.inventory().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_selector_is_refused_and_the_last_commit_runs_on() {
    let scene = Scene::with(&[("ns.yaml", NAMESPACE), ("web.yaml", DEPLOYMENT)]).await;
    scene.until_applied(&scene.head()).await;
    let other = DEPLOYMENT.replace("app: web", "app: other");
    let bad = scene.commit(&[("ns.yaml", NAMESPACE), ("web.yaml", &other)]).await;
    let told = scene.until_refused(&bad).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("web.yaml:9:") && told[0].contains("spec.selector"), "{told:?}");
    assert!(told[0].contains("field is immutable"), "{told:?}");
    let key = Key::new("shop", "web");
    let web = scene.admin.get::<Deployment>(&key).await.expect("there");
    let labels = web.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    assert_eq!(labels.expect("labels")["app"], "web");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_nobody_declared_is_asked_for() {
    let scene = Scene::with(&[("a.yaml", &config("a"))]).await;
    scene.until_applied(&scene.head()).await;
    let elsewhere = config("b").replace("metadata:\n", "metadata:\n  namespace: elsewhere\n");
    let bad = scene.commit(&[("a.yaml", &config("a")), ("b.yaml", &elsewhere)]).await;
    let told = scene.until_refused(&bad).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("b.yaml:4:14 metadata.namespace"), "{told:?}");
    let status = scene.until("refused", |status| status.refused.is_some()).await;
    assert_eq!(status.problems[0].hint, "commit a Namespace named elsewhere");
    assert_eq!(scene.names::<ConfigMap>().await, ["default/a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sources_that_claim_one_object_are_told_both_places() {
    let mut scene = Scene::new().await;
    scene.origin.commit(&[("one/a.yaml", &config("a")), ("two/own.yaml", &config("own"))]);
    scene.start_all(&[("one", "one"), ("two", "two")]);
    let first = scene.head();
    scene.until_of("one", "applied", applied(&first)).await;
    scene.until_of("two", "applied", applied(&first)).await;
    let key = Key::new("default", "a");
    let before = scene.admin.get::<ConfigMap>(&key).await.expect("there");

    let other = config("a").replace("of: a", "of: two");
    let both = scene
        .commit(&[
            ("one/a.yaml", &config("a")),
            ("two/own.yaml", &config("own")),
            ("two/sub/a.yaml", &format!("# theirs\n{other}")),
        ])
        .await;
    let is_refused =
        |status: &SourceStatus| status.refused.as_ref().is_some_and(|commit| commit.id == both);
    let status = scene.until_of("two", "refused", is_refused).await;
    scene.until_of("one", "applied", applied(&both)).await;
    let problem = &status.problems[0];
    assert_eq!(status.problems.len(), 1);
    assert_eq!((problem.file.as_str(), problem.line), ("two/sub/a.yaml", 5));
    assert_eq!(
        problem.message,
        "ConfigMap default/a belongs to source one, which declares it at one/a.yaml:1"
    );
    assert!(problem.hint.starts_with("remove it from one of the two"), "{}", problem.hint);
    let same = scene.admin.get::<ConfigMap>(&key).await.expect("there");
    assert_eq!(before.metadata.resource_version, same.metadata.resource_version);
    assert_eq!(scene.names::<ConfigMap>().await, ["default/a", "default/own"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_moves_between_sources_changes_hands() {
    let mut scene = Scene::new().await;
    let own = [("one/own.yaml", config("one")), ("two/own.yaml", config("two"))];
    let own = own.each_ref().map(|(path, text)| (*path, text.as_str()));
    let moving = config("a");
    scene.origin.commit(&[own[0], own[1], ("one/a.yaml", &moving)]);
    scene.start_all(&[("one", "one"), ("two", "two")]);
    let first = scene.head();
    scene.until_of("one", "applied", applied(&first)).await;
    scene.until_of("two", "applied", applied(&first)).await;
    // Whichever source comes first: the object ends with the one that declares it.
    let moved = scene.commit(&[own[0], own[1], ("two/a.yaml", &moving)]).await;
    scene.until_of("one", "applied", applied(&moved)).await;
    scene.until_of("two", "applied", applied(&moved)).await;
    let object = scene.admin.get::<ConfigMap>(&Key::new("default", "a")).await.expect("there");
    let annotations = object.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations["ballast.dev/source"], "two");
}
