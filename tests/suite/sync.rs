//! A commit becomes objects, through the real API over a real store: whole or not at all, with every
//! problem at its place; what leaves is pruned, unless it is most of everything.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ballast::api::{Api, ApiOptions, IdSource, Identity, Local};
use ballast::clock::Clock;
use ballast::object::drift::{Action, Drift, Phase};
use ballast::object::inventory::{Inventory, InventoryEntry};
use ballast::object::ports::WakeSync;
use ballast::object::privilege::Privileges;
use ballast::object::source::{Source, SourceStatus};
use ballast::object::{Cluster, DeleteOptions, Key, Object, Patch, Scope};
use ballast::store::{Sqlite, SqliteOptions, WriterMode};
use ballast::sync::{Access, SourceConfig, SourceUrl, SyncHandle, SyncOptions};
use ballast::task::{AllDone, Tasks};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::repository::Origin;

/// A daemon that has only the sync, and a repository that it follows.
pub struct Scene {
    pub origin: Origin,
    folder: tempfile::TempDir,
    pub admin: Local<Sqlite>,
    api: Api<Sqlite>,
    store: Sqlite,
    tasks: Tasks,
    sync: Option<Sync>,
    /// Every loop's sign of life, by name.
    beats: (UnboundedSender<String>, UnboundedReceiver<String>),
}

/// The loops of one run of the daemon.
struct Sync {
    names: Vec<String>,
    handle: Arc<SyncHandle>,
    tasks: Tasks,
    done: AllDone,
}

impl Scene {
    pub async fn new() -> Self {
        crate::watchdog::watch();
        let folder = tempfile::tempdir().expect("a folder");
        let options = SqliteOptions { writer: WriterMode::Inline, ..SqliteOptions::default() };
        let store = Sqlite::open(&folder.path().join("store.db"), options).expect("a store");
        let (tasks, _) = Tasks::new();
        let (ids, nothing) = (IdSource::seeded(1), Arc::default());
        let api = api_over(&store, "10.43.0.0/16", 30_000..=32_767, ids, nothing, &tasks);
        let admin = api.local(Identity::Admin);
        let mut default = Namespace::default();
        default.metadata.name = Some("default".to_owned());
        if let Err(error) = admin.create(&default).await {
            assert!(error.is_already_exists(), "{error}");
        }
        let beats = unbounded_channel();
        Self { origin: Origin::new(), folder, admin, api, store, tasks, sync: None, beats }
    }

    /// As a daemon that is started with other ranges over the same store.
    pub fn serve_ranges(&mut self, services: &str, node_ports: RangeInclusive<u16>) {
        let (ids, nothing) = (IdSource::random(), Arc::default());
        self.api = api_over(&self.store, services, node_ports, ids, nothing, &self.tasks);
        self.admin = self.api.local(Identity::Admin);
    }

    /// As a daemon that is started over the same store by an operator who allows this.
    pub fn allow(&mut self, privileges: Privileges) {
        let (ids, ports) = (IdSource::random(), 30_000..=32_767);
        let privileges = Arc::new(privileges);
        self.api = api_over(&self.store, "10.43.0.0/16", ports, ids, privileges, &self.tasks);
        self.admin = self.api.local(Identity::Admin);
    }

    /// A scene with a first commit on its way.
    pub async fn with(files: &[(&str, &str)]) -> Self {
        let mut scene = Self::new().await;
        scene.origin.commit(files);
        scene.start("app", ".");
        scene
    }

    pub fn start(&mut self, name: &str, path: &str) {
        self.start_all(&[(name, path)]);
    }

    /// Follows several paths, each as a source of its own.
    pub fn start_all(&mut self, sources: &[(&str, &str)]) {
        self.start_configs(sources.iter().map(|(name, path)| self.config(name, path)).collect());
    }

    /// What the command line and the config file say of one source.
    pub fn config(&self, name: &str, path: &str) -> SourceConfig {
        let url = SourceUrl::parse(&self.origin.path().to_string_lossy()).expect("a path");
        SourceConfig {
            name: name.to_owned(),
            url,
            branch: "main".to_owned(),
            path: path.to_owned(),
            poll_seconds: 3600,
            access: Access::default(),
            formerly: vec![],
        }
    }

    pub fn start_configs(&mut self, configs: Vec<SourceConfig>) {
        let names = configs.iter().map(|config| config.name.clone()).collect();
        let beats = self.beats.0.clone();
        let options = SyncOptions {
            data_dir: PathBuf::from(self.folder.path()),
            secret_key: [7; 32],
            beat: Some(Arc::new(move |name: &str| drop(beats.send(name.to_owned())))),
            metrics: ballast::sync::Metrics::default(),
        };
        let (tasks, done) = Tasks::new();
        let cluster = self.api.local(Identity::Sync);
        let handle = ballast::sync::run(cluster, configs, options, Clock::wall(), &tasks);
        self.sync = Some(Sync { names, handle, tasks, done });
    }

    /// Ends the loops, as a stopping daemon does; the store stays.
    pub async fn stop(&mut self) {
        let Some(Sync { tasks, done, .. }) = self.sync.take() else { return };
        tasks.stop().cancel();
        drop(tasks);
        done.wait().await;
    }

    pub async fn commit(&self, files: &[(&str, &str)]) -> String {
        let id = self.origin.commit(files);
        self.wake();
        id
    }

    pub fn wake(&self) {
        let sync = self.sync.as_ref().expect("started");
        assert!(sync.names.iter().all(|name| sync.handle.wake(name)));
    }

    /// The Source's status as soon as it is so.
    pub async fn until(&self, what: &str, is: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        self.until_of("app", what, is).await
    }

    pub async fn until_of(
        &self,
        source: &str,
        what: &str,
        is: impl Fn(&SourceStatus) -> bool,
    ) -> SourceStatus {
        let key = Key::cluster(source);
        let waited = async {
            loop {
                if let Ok(source) = self.admin.get::<Source>(&key).await {
                    let status = source.status.clone().unwrap_or_default();
                    if is(&status) {
                        return status;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), waited).await {
            Ok(status) => status,
            Err(_) => {
                let source = self.admin.get::<Source>(&key).await;
                panic!("never {what}: {:#?}", source.map(|source| source.status.clone()))
            }
        }
    }

    /// The object as soon as it is so.
    pub async fn until_object<K: Object>(&self, key: &Key, is: impl Fn(&K) -> bool) -> Arc<K> {
        let waited = async {
            loop {
                match self.admin.get::<K>(key).await {
                    Ok(object) if is(&object) => return object,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), waited).await {
            Ok(object) => object,
            Err(_) => panic!("never so: {:#?}", self.admin.get::<K>(key).await),
        }
    }

    pub async fn until_applied(&self, commit: &str) -> SourceStatus {
        self.until("applied", |status| {
            status.applied.as_ref().is_some_and(|applied| applied.id == commit)
        })
        .await
    }

    pub async fn until_refused(&self, commit: &str) -> Vec<String> {
        let status = self
            .until("refused", |status| {
                status.refused.as_ref().is_some_and(|refused| refused.id == commit)
            })
            .await;
        let show = |problem: ballast::object::source::Problem| {
            let place = format!("{}:{}:{}", problem.file, problem.line, problem.column);
            format!("{place} {}: {}", problem.field, problem.message)
        };
        status.problems.into_iter().map(show).collect()
    }

    pub async fn names<K: Object>(&self) -> Vec<String> {
        let listing = self.admin.list::<K>(&Scope::all()).await.expect("a list");
        listing.items.iter().map(|item| item.key().to_string()).collect()
    }

    pub async fn inventory(&self) -> Vec<InventoryEntry> {
        let stored = self.admin.get::<Inventory>(&Key::cluster("app")).await.expect("there");
        stored.objects.clone()
    }

    pub fn head(&self) -> String {
        let head = self.origin.repository.refname_to_id("refs/heads/main").expect("main");
        head.to_string()
    }
}

fn api_over(
    store: &Sqlite,
    services: &str,
    node_ports: RangeInclusive<u16>,
    ids: IdSource,
    privileges: Arc<Privileges>,
    tasks: &Tasks,
) -> Api<Sqlite> {
    let options = ApiOptions {
        service_range: services.parse().expect("a network"),
        node_ports,
        clock: Clock::wall(),
        secret_key: [7; 32],
        ids,
        privileges,
    };
    Api::new(store.clone(), options, tasks)
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
        if let Some(sync) = &self.sync {
            sync.tasks.stop().cancel();
        }
    }
}

pub fn config(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  of: {name}\n")
}

fn configs(names: &[&str]) -> Vec<(String, String)> {
    names.iter().map(|name| (format!("{name}.yaml"), config(name))).collect()
}

fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect()
}

pub const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
  labels: {tier: front}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example/web:v1
";
pub const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_applied_with_namespace_and_inventory() {
    let scene = Scene::with(&[("ns.yaml", NAMESPACE), ("web/deploy.yaml", DEPLOYMENT)]).await;
    scene.until_applied(&scene.head()).await;
    assert_eq!(scene.names::<Deployment>().await, ["shop/web"]);
    let inventory = scene.admin.get::<Inventory>(&Key::cluster("app")).await.expect("there");
    assert_eq!(inventory.commit, scene.head());
    let places: Vec<String> = inventory
        .objects
        .iter()
        .map(|entry| format!("{} {} {}:{}", entry.kind, entry.key(), entry.file, entry.line))
        .collect();
    assert_eq!(places, ["Namespace shop ns.yaml:1", "Deployment shop/web web/deploy.yaml:1"]);
    scene
        .until_object::<Inventory>(&Key::cluster("app"), |inventory| {
            inventory.objects.iter().all(|entry| !entry.uid.is_empty())
        })
        .await;
    // No controller runs here: the verdict says what it waits for.
    let status = scene.until("judged", |status| status.converged.is_some()).await;
    let verdict = status.converged.expect("judged");
    assert!(!verdict.converged && verdict.waiting_for[0].contains("Deployment shop/web"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_faults_in_three_files_are_told_at_once_and_nothing_is_applied() {
    let scene = Scene::with(&[("ns.yaml", NAMESPACE), ("web.yaml", DEPLOYMENT)]).await;
    let good = scene.head();
    scene.until_applied(&good).await;
    let unknown = DEPLOYMENT.replace("image:", "imagee:");
    let negative = DEPLOYMENT
        .replace("name: web\n  name", "name: b\n  name")
        .replace("replicas: 2", "replicas: -1");
    let negative = negative.replacen("name: web", "name: other", 1);
    let bad = scene
        .commit(&[
            ("ns.yaml", NAMESPACE),
            ("web.yaml", &unknown),
            ("other.yaml", &negative),
            ("tab.yaml", "kind: Pod\n\tmetadata: x\n"),
            ("new.yaml", &config("new")),
        ])
        .await;
    let problems = scene.until_refused(&bad).await;
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(
        problems[0].starts_with("other.yaml:8:13 spec.replicas: Invalid value: -1"),
        "{}",
        problems[0]
    );
    assert!(
        problems[1].starts_with("tab.yaml:1:7 : while scanning a plain scalar"),
        "{}",
        problems[1]
    );
    assert_eq!(
        problems[2],
        "web.yaml:15:9 spec.template.spec.containers[0].imagee: unknown field \"imagee\""
    );
    assert_eq!(scene.names::<ConfigMap>().await, Vec::<String>::new());
    let status = scene.until_applied(&good).await;
    assert_eq!(status.fetched.map(|commit| commit.id), Some(bad));

    // A fix takes over; the refusal is gone.
    let fixed = scene.commit(&[("ns.yaml", NAMESPACE), ("web.yaml", DEPLOYMENT)]).await;
    let status = scene.until_applied(&fixed).await;
    assert_eq!((status.refused, status.problems), (None, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leaves_is_pruned_and_what_moves_is_not() {
    let files = configs(&["a", "b", "c"]);
    let scene = Scene::with(&borrowed(&files)).await;
    scene.until_applied(&scene.head()).await;
    let before = scene.admin.get::<ConfigMap>(&Key::new("default", "a")).await.expect("there");

    // `a` moves to another file, `b` into the same file as `c`, and nothing of it is touched.
    let both = format!("{}---\n{}", config("b"), config("c"));
    let moved = scene.commit(&[("new/a.yaml", &config("a")), ("c.yaml", &both)]).await;
    scene.until_applied(&moved).await;
    let after = scene.admin.get::<ConfigMap>(&Key::new("default", "a")).await.expect("there");
    assert_eq!(before.metadata.resource_version, after.metadata.resource_version);
    assert_eq!(scene.inventory().await[0].file, "new/a.yaml");

    let pruned = scene.commit(&[("c.yaml", &both)]).await;
    scene.until_applied(&pruned).await;
    assert_eq!(scene.names::<ConfigMap>().await, ["default/b", "default/c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_object_is_neither_taken_nor_removed() {
    let mut scene = Scene::new().await;
    let mut foreign = ConfigMap::default();
    foreign.metadata.name = Some("theirs".to_owned());
    foreign.metadata.namespace = Some("default".to_owned());
    scene.admin.create(&foreign).await.expect("created");
    scene.origin.commit(&[("a.yaml", &config("theirs")), ("b.yaml", &config("ours"))]);
    scene.start("app", ".");
    let problems = scene.until_refused(&scene.head()).await;
    assert!(
        problems[0].starts_with("a.yaml:1:1 : ConfigMap default/theirs exists"),
        "{problems:?}"
    );
    assert_eq!(scene.names::<ConfigMap>().await, ["default/theirs"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_repository_is_held_until_it_is_confirmed() {
    let files = configs(&["a", "b"]);
    let scene = Scene::with(&borrowed(&files)).await;
    let first = scene.head();
    scene.until_applied(&first).await;

    let emptied = scene.commit(&[("README.md", "nothing here")]).await;
    let is_held = |id: &str| {
        let id = id.to_owned();
        move |status: &SourceStatus| status.held.as_ref().is_some_and(|held| held.commit.id == id)
    };
    let status = scene.until("held", is_held(&emptied)).await;
    let held = status.held.expect("held");
    assert_eq!(held.removes, ["ConfigMap default/b", "ConfigMap default/a"]);
    assert!(held.reason.contains(&first), "{}", held.reason);
    assert_eq!(scene.names::<ConfigMap>().await.len(), 2);

    let stale = format!("confirmPrune: '{}'\n", "1".repeat(40));
    let stale = scene.commit(&[(".ballast.yaml", &stale)]).await;
    scene.until("held again", is_held(&stale)).await;
    assert_eq!(scene.names::<ConfigMap>().await.len(), 2);

    let confirmed = format!("confirmPrune: '{first}'\n");
    let confirmed = scene.commit(&[(".ballast.yaml", &confirmed)]).await;
    let status = scene.until_applied(&confirmed).await;
    assert_eq!((status.held, scene.inventory().await), (None, vec![]));
    assert_eq!(scene.names::<ConfigMap>().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_half_of_more_than_ten_is_held_and_a_restored_file_ends_it() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
    let all = configs(&names);
    let scene = Scene::with(&borrowed(&all)).await;
    scene.until_applied(&scene.head()).await;
    let few = scene.commit(&borrowed(&all[..5])).await;
    let status = scene.until("held", |status| status.held.is_some()).await;
    assert_eq!(status.held.map(|held| held.commit.id), Some(few));
    let more = scene.commit(&borrowed(&all[..6])).await;
    let status = scene.until_applied(&more).await;
    assert_eq!((status.held, scene.names::<ConfigMap>().await.len()), (None, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_vanishes_changes_nothing() {
    let mut scene = Scene::new().await;
    scene.origin.commit(&[("deploy/a.yaml", &config("a"))]);
    scene.start("app", "deploy");
    scene.until_applied(&scene.head()).await;
    let gone = scene.commit(&[("other/a.yaml", &config("a"))]).await;
    let problems = scene.until_refused(&gone).await;
    assert!(problems[0].contains("the path \"deploy\" does not exist"), "{problems:?}");
    assert_eq!(scene.names::<ConfigMap>().await, ["default/a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_push_is_seen_without_a_hook() {
    let scene = Scene::with(&[("a.yaml", &config("a"))]).await;
    scene.until_applied(&scene.head()).await;
    // The poll is an hour away: only the watch on the refs can tell.
    let second = scene.origin.commit(&[("a.yaml", &config("a")), ("b.yaml", &config("b"))]);
    scene.until_applied(&second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_leaves_with_what_the_commit_had_in_it() {
    let scene =
        Scene::with(&[("ns.yaml", NAMESPACE), ("web.yaml", DEPLOYMENT), ("a.yaml", &config("a"))])
            .await;
    scene.until_applied(&scene.head()).await;
    let homeless = scene.commit(&[("web.yaml", DEPLOYMENT), ("a.yaml", &config("a"))]).await;
    let problems = scene.until_refused(&homeless).await;
    assert!(problems[0].contains("Namespace shop left the commit"), "{problems:?}");
    let gone = scene.commit(&[("a.yaml", &config("a"))]).await;
    scene.until_applied(&gone).await;
    assert_eq!(scene.names::<Deployment>().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_and_a_missing_object_are_put_back_and_told() {
    let mut scene = Scene::new().await;
    scene.origin.commit(&[
        ("ns.yaml", NAMESPACE),
        ("web.yaml", DEPLOYMENT),
        ("a.yaml", &config("a")),
    ]);
    scene.start("app", ".");
    scene.until_applied(&scene.head()).await;
    let web = Key::new("shop", "web");
    let patch = Patch::Merge(json!({"spec": {"replicas": 9}}));
    scene.admin.patch::<Deployment>(&web, &patch).await.expect("patched");
    let a = Key::new("default", "a");
    scene.admin.delete::<ConfigMap>(&a, &DeleteOptions::default()).await.expect("deleted");
    // A hook is answered by a pass, and every pass compares.
    scene.wake();
    let healed = async {
        loop {
            let drifts = scene.admin.list::<Drift>(&Scope::all()).await.expect("a list");
            let closed = drifts.items.iter().filter(|drift| {
                drift.status.as_ref().is_some_and(|status| {
                    status.phase == Phase::Closed && status.action == Action::Healed
                })
            });
            if closed.count() == 2 {
                return drifts;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let drifts =
        tokio::time::timeout(Duration::from_secs(30), healed).await.expect("put back in time");
    let mut told: Vec<String> = drifts
        .items
        .iter()
        .map(|drift| {
            let spec = &drift.spec;
            let origin = spec.origin.as_ref().expect("from a file");
            format!(
                "{} {} wanted {:?} actual {:?} {}:{}",
                spec.object.name, spec.field, spec.wanted, spec.actual, origin.file, origin.line
            )
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "a . wanted Some(\"present\") actual None a.yaml:1",
            "web spec.replicas wanted Some(\"2\") actual Some(\"9\") web.yaml:8",
        ]
    );
    let web = scene.admin.get::<Deployment>(&web).await.expect("there");
    assert_eq!(web.spec.as_ref().and_then(|spec| spec.replicas), Some(2));
    assert_eq!(scene.names::<ConfigMap>().await, ["default/a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_cannot_claim_one_port() {
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  selector: {{app: x}}\n  ports: [{{port: 80, nodePort: 30080}}]\n"
        )
    };
    let scene = Scene::with(&[("a.yaml", &service("a")), ("b.yaml", &service("b"))]).await;
    let problems = scene.until_refused(&scene.head()).await;
    assert!(problems[0].starts_with("b.yaml:"), "{problems:?}");
    assert_eq!(scene.names::<Service>().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_deployments_are_one_transaction() {
    let all: String = (0..1000)
        .map(|number| {
            format!(
                "---\n{}",
                DEPLOYMENT.replacen("name: web", &format!("name: web-{number:04}"), 1)
            )
            .replace("replicas: 2", "replicas: 0")
        })
        .collect();
    let scene = Scene::with(&[("ns.yaml", NAMESPACE), ("all.yaml", &all)]).await;
    scene.until_applied(&scene.head()).await;
    assert_eq!(scene.inventory().await.len(), 1001);
    // The Source is written twice a minute: it must not carry the inventory along.
    let source = scene.admin.get::<Source>(&Key::cluster("app")).await.expect("there");
    let bytes = serde_json::to_vec(&*source).expect("JSON").len();
    assert!(bytes < 8192, "{bytes}");
    assert_eq!(scene.names::<Deployment>().await.len(), 1000);
}

#[tokio::test]
async fn a_source_shows_that_it_is_followed_however_seldom_it_is_polled() {
    // Nothing here ever runs the pod, so that the loop looks for it every second; it fetches once.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n  - {name: c, image: i}\n";
    let mut scene = Scene::with(&[("pod.yaml", pod)]).await;
    scene.until_applied(&scene.head()).await;
    for _ in 0..4 {
        let beat = tokio::time::timeout(Duration::from_secs(20), scene.beats.1.recv()).await;
        assert_eq!(beat.expect("in time").as_deref(), Some("sync app"));
    }
}

/// On one thread: the log is the thread's.
#[tokio::test]
async fn a_long_way_to_convergence_is_told_with_what_is_missing_and_its_end() {
    let log = crate::log::listen();
    let scene = Scene::with(&[("ns.yaml", NAMESPACE), ("web.yaml", DEPLOYMENT)]).await;
    let line = log.line("waiting for convergence").await;
    for part in ["pods_ready=0", "of=2", "open_drifts=0", "waits for its controller"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(line.contains("first=\"Deployment shop/web"), "{line}");
    // The pods come.
    let key = Key::new("shop", "web");
    let mut there = (*scene.admin.get::<Deployment>(&key).await.expect("there")).clone();
    let status = json!({"observedGeneration": there.metadata.generation, "replicas": 2,
        "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2});
    there.status = serde_json::from_value(status).expect("a status");
    scene.admin.update_status(&there).await.expect("written");
    let line = log.line("converged: the world matches the applied commit").await;
    let seconds = line.split("seconds=").nth(1).and_then(|text| text.trim().parse::<f32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 2.0), "{line}");
}
