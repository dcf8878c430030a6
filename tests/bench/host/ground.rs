//! What every benchmark on an engine stands on: the engine, a repository, a daemon that follows it,
//! and the ways to wait for what they do. Waits listen (watches, engine events) and do not poll:
//! who asks every few milliseconds slows down what it measures.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ballast::object::source::Source;
use bollard::Docker;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};

/// The example server: prints its version, is ready at once, leaves in three seconds.
pub const WEB: &str = "ballast.example/web:v1";
pub const NAMESPACE: &str = "bench";
/// Nothing that works takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Ground {
    pub docker: Docker,
    pub socket: String,
    client: Client,
    dir: PathBuf,
    repo: PathBuf,
    daemon: Child,
}

/// Starts the daemon on the repository in this folder.
fn daemon(dir: &Path, socket: &str, more: &[&str]) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("ballast.log"));
    let log = log.expect("a log");
    Command::new(env!("CARGO_BIN_EXE_ballast"))
        .arg("run")
        .arg(dir.join("repo"))
        .args(["--node-name", "bench", "--docker", socket, "--data-dir"])
        .arg(dir.join("data"))
        .args(more)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .spawn()
        .expect("ballast starts")
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Ground {
    /// Starts the daemon on a repository with one namespace, and waits until it reconciles.
    pub async fn prepare(dir: &Path) -> Self {
        let socket = format!("unix://{}/docker.sock", dir.display());
        let docker = Docker::connect_with_unix(&socket, 120, bollard::API_DEFAULT_VERSION)
            .expect("the socket")
            .negotiate_version()
            .await
            .expect("the engine");
        let repo = dir.join("repo");
        std::fs::create_dir_all(&repo).expect("a folder");
        sh(Command::new("git").args(["init", "-q", "-b", "main"]).arg(&repo));
        let namespace =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
        std::fs::write(repo.join("namespace.yaml"), namespace).expect("a file");
        let daemon = daemon(dir, &socket, &[]);
        let address = "http://127.0.0.1:7440".parse().expect("an address");
        let client = Client::try_from(kube::Config::new(address)).expect("a client");
        let dir = dir.to_owned();
        let ground = Self { docker, socket, client, dir, repo, daemon };
        let first = ground.commit("begin");
        until("the daemon is ready", || async { ground.is_ready().await }).await;
        ground.until_applied(&first).await;
        ground
    }

    /// Ends the daemon and starts it again with other options; its containers run on.
    pub async fn restart(&mut self, more: &[&str]) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        self.daemon.wait().expect("it ends");
        self.daemon = daemon(&self.dir, &self.socket, more);
        until("the daemon is ready", || async { self.is_ready().await }).await;
    }

    async fn is_ready(&self) -> bool {
        let request = axum::http::Request::get("/readyz").body(Vec::new()).expect("a request");
        self.client.request_text(request).await.is_ok()
    }

    /// A file that the daemon knows nothing of.
    pub fn empty_file(&self, name: &str) -> PathBuf {
        let file = self.dir.join(name);
        std::fs::write(&file, "").expect("a file");
        file
    }

    pub fn daemon(&self) -> u32 {
        self.daemon.id()
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.repo.join(file), text).expect("a file");
        sh(self.git().args(["add", "-A"]));
    }

    fn git(&self) -> Command {
        let mut command = Command::new("git");
        let identity = ["-c", "user.name=Bench", "-c", "user.email=bench@example.invalid"];
        command.arg("-C").arg(&self.repo).args(identity);
        command
    }

    /// Commits what was written; the commit's id.
    pub fn commit(&self, message: &str) -> String {
        sh(self.git().args(["commit", "-q", "--allow-empty", "-a", "-m", message]));
        sh(self.git().args(["rev-parse", "HEAD"])).trim().to_owned()
    }

    /// Takes a file out and waits until no pod is left.
    pub async fn clear(&self, file: &str) {
        sh(self.git().args(["rm", "-q", "-f", file]));
        let id = self.commit("clear");
        self.until_applied(&id).await;
        until("no pod is left", || async {
            let pods = self.pods().list(&ListParams::default()).await.expect("the API answers");
            pods.items.is_empty()
        })
        .await;
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The commit that the store holds.
    pub async fn applied(&self) -> String {
        let sources: Api<Source> = Api::all(self.client.clone());
        let source = sources.get("main").await.expect("the source");
        source.status.and_then(|status| status.applied).map(|commit| commit.id).unwrap_or_default()
    }

    pub async fn until_applied(&self, id: &str) {
        let sources: Api<Source> = Api::all(self.client.clone());
        let is_applied = |source: Option<&Source>| {
            let applied = source.and_then(|source| source.status.as_ref()?.applied.as_ref());
            applied.is_some_and(|commit| commit.id == id)
        };
        bounded("the commit is applied", await_condition(sources, "main", is_applied))
            .await
            .expect("the API answers");
    }

    /// Until so many pods with the label `app` are Running.
    pub async fn until_running(&self, app: &str, count: usize) {
        bounded("pods run", self.follow_running(app, count)).await;
    }

    async fn follow_running(&self, app: &str, count: usize) {
        let label = format!("app={app}");
        let params = ListParams::default().labels(&label);
        let list = self.pods().list(&params).await.expect("the API answers");
        let version = list.metadata.resource_version.unwrap_or_default();
        let is_running = |pod: &Pod| {
            pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
        };
        let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
        let mut running: HashSet<String> =
            list.items.iter().filter(|pod| is_running(pod)).map(name).collect();
        let params = WatchParams::default().labels(&label);
        let changes = self.pods().watch(&params, &version).await.expect("the API answers");
        let mut changes = std::pin::pin!(changes);
        while running.len() < count {
            match changes.next().await.expect("the watch goes on").expect("the watch goes on") {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) if is_running(&pod) => {
                    running.insert(name(&pod));
                }
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod) => {
                    running.remove(&name(&pod));
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(error) => panic!("the watch ended: {error:?}"),
            }
        }
    }

    /// Until every wanted pod of a Deployment has this image and is ready, and no older one counts.
    pub async fn until_rolled(&self, name: &str, image: &str) {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        let is_rolled = |deployment: Option<&Deployment>| {
            deployment.is_some_and(|deployment| is_rolled(deployment, image))
        };
        bounded("it is rolled out", await_condition(deployments, name, is_rolled))
            .await
            .expect("the API answers");
    }

    /// Until so many containers with the label have started since then.
    pub async fn until_started(&self, label: &str, since: Moment, count: usize) {
        let filters = HashMap::from([
            ("type", vec!["container"]),
            ("event", vec!["start"]),
            ("label", vec![label]),
        ]);
        let options =
            EventsOptionsBuilder::default().since(since.as_str()).filters(&filters).build();
        let started = self.docker.events(Some(options)).take(count).for_each(|event| async {
            event.expect("the engine's events go on");
        });
        bounded("containers have started", started).await;
    }

    pub fn docker_cli(&self, arguments: &[&str]) -> String {
        sh(Command::new("docker").args(["-H", &self.socket]).args(arguments))
    }
}

fn is_rolled(deployment: &Deployment, image: &str) -> bool {
    let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else { return false };
    let pod = spec.template.spec.as_ref();
    let has_image = pod.is_some_and(|pod| {
        pod.containers.iter().all(|container| container.image.as_deref() == Some(image))
    });
    has_image
        && status.observed_generation == deployment.metadata.generation
        && [status.updated_replicas, status.ready_replicas, status.replicas]
            .iter()
            .all(|count| *count == spec.replicas)
}

/// Where the engine's events are asked from, so that none is missed between an action and the
/// question.
pub struct Moment(String);

impl Moment {
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Self(format!("{}.{:09}", now.as_secs(), now.subsec_nanos()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A Deployment of the example server; `more` is written below the container.
pub fn deployment(name: &str, replicas: usize, image: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  replicas: {replicas}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        image: {image}
        resources:
          requests: {{cpu: 10m, memory: 8Mi}}
{more}"
    )
}

/// For [`deployment`]: the server leaves as soon as it is asked to, instead of serving on for 3 s.
pub const LEAVES_AT_ONCE: &str = "        env: [{name: LEAVING_SECONDS, value: '0'}]\n";

/// What is waited for outside of every measurement: looks again every 100 ms.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let look = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    bounded(what, look).await;
}

pub async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("gave up waiting until {what}"))
}

pub fn sh(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
