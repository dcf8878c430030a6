//! The node agent alone, on a real engine: pods are put on a shelf, containers are looked at with
//! docker itself. DOCKER_HOST names an engine to use in place of a private one.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ballast::clock::Clock;
use ballast::node::docker::Docker;
use ballast::node::{HostAddress, NodeHandle, NodeOptions, reset};
use ballast::object::drift::{Class, Drift};
use ballast::object::ports::{BoxFuture, LogQuery, Logs, Withdrawal};
use ballast::object::{Cluster, Key, Object, Scope};
use ballast::task::{AllDone, Tasks};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde_json::{Value, json};

use crate::harness::{Engine, PATIENCE};
use crate::shelf::Shelf;

static NEXT: AtomicU32 = AtomicU32::new(0);

struct NoNetwork;

impl Withdrawal for NoNetwork {
    fn withdrawn(&self, _: Ipv4Addr) -> BoxFuture<()> {
        Box::pin(async {})
    }
}

/// A running agent of an installation of its own.
pub struct Agent {
    pub shelf: Shelf,
    pub options: NodeOptions,
    host: String,
    tasks: Tasks,
    done: Option<AllDone>,
    handle: Arc<NodeHandle>,
    /// Removed last.
    _dir: tempfile::TempDir,
    _engine: Option<Engine>,
}

fn options(data_dir: &Path) -> NodeOptions {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = format!("t{}x{number}", std::process::id());
    NodeOptions {
        node_name: "n1".into(),
        installation: id.clone(),
        prefix: "ballast-test".into(),
        data_dir: data_dir.into(),
        host_ip: HostAddress::Given(Ipv4Addr::new(192, 0, 2, 1)),
        pod_range: format!("10.99.{}.0/24", 100 + number).parse().expect("a range"),
        network: format!("ballast-{id}"),
        bridge: format!("bt{id}").chars().take(15).collect(),
        spare_sandboxes: 0,
        pids_limit: None,
        resources: Default::default(),
        devices: Default::default(),
        privileges: Arc::default(),
        hold: false,
        beat: Arc::new(|_| {}),
        metrics: ballast::node::Metrics::default(),
        care: ballast::node::care::Care::default(),
    }
}

fn start(shelf: &Shelf, host: &str, options: &NodeOptions) -> (Tasks, AllDone, Arc<NodeHandle>) {
    let (tasks, done) = Tasks::new();
    let (docker, network) = (Docker::new(host), Arc::new(NoNetwork));
    let handle =
        ballast::node::run(shelf.clone(), docker, options.clone(), network, Clock::wall(), &tasks);
    (tasks, done, handle)
}

impl Agent {
    pub fn new() -> Self {
        // RUST_LOG=ballast=debug shows what an agent does.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let given = std::env::var("DOCKER_HOST").ok();
        let engine = given.is_none().then(Engine::with_images);
        let host = given.or_else(|| engine.as_ref().map(Engine::socket)).expect("one of both");
        let dir = tempfile::tempdir().expect("a directory");
        let (shelf, options) = (Shelf::new(), options(dir.path()));
        let (tasks, done, handle) = start(&shelf, &host, &options);
        Self { shelf, options, host, tasks, done: Some(done), handle, _dir: dir, _engine: engine }
    }

    /// Kills the agent, as far as one can kill a part of a process, and starts another.
    pub async fn restart(&mut self) {
        self.restart_after(|_| {}).await;
    }

    /// Another agent, that makes sandboxes before their pods.
    pub async fn keep_spares(&mut self, most: usize) {
        self.options.spare_sandboxes = most;
        self.restart().await;
    }

    /// As [`Agent::restart`], and something happens while no agent runs.
    pub async fn restart_after(&mut self, meanwhile: impl FnOnce(&Self)) {
        self.stop().await;
        meanwhile(self);
        let (tasks, done, handle) = start(&self.shelf, &self.host, &self.options);
        (self.tasks, self.done, self.handle) = (tasks, Some(done), handle);
    }

    /// The id of a pod's sandbox.
    fn sandbox(&self, pod: &Pod) -> String {
        let (uid, kind) =
            (format!("label=ballast.dev/pod-uid={}", pod.uid()), "label=ballast.dev/kind=sandbox");
        self.docker(&["ps", "-q", "--no-trunc", "--filter", &uid, "--filter", kind])
    }

    async fn stop(&mut self) {
        self.tasks.stop().cancel();
        let (idle, _) = Tasks::new();
        self.tasks = idle;
        self.done.take().expect("it runs").wait().await;
    }

    pub async fn put(&self, name: &str, spec: Value) -> Key {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": name, "namespace": "default",
                "creationTimestamp": jiff::Timestamp::now().to_string()}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.shelf.create(&pod).await.expect("put");
        Key::new("default", name)
    }

    pub async fn pod(&self, key: &Key) -> Pod {
        (*self.shelf.get::<Pod>(key).await.expect("the pod")).clone()
    }

    /// Until the condition holds of the pod.
    pub async fn until(&self, key: &Key, what: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pod = self.pod(key).await;
            if holds(&pod) {
                return pod;
            }
            assert!(
                Instant::now() < deadline,
                "{key} is not {what}: {}\n{}",
                serde_json::to_string_pretty(&pod.status).expect("JSON"),
                self.shelf.notes().join("\n")
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker")
            .arg("-H")
            .arg(&self.host)
            .args(arguments)
            .output()
            .expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Ids of this installation's containers, sandboxes too.
    fn ids(&self) -> Vec<String> {
        let filter = format!("label=ballast.dev/installation={}", self.options.installation);
        let text = self.docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
        let mut ids: Vec<String> = text.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    }

    pub async fn logs(&self, key: &Key, query: LogQuery) -> String {
        let stream = self.handle.logs(key.clone(), query).await.expect("logs");
        let parts: Vec<_> = stream.map(|part| part.expect("bytes")).collect().await;
        String::from_utf8_lossy(&parts.concat()).into_owned()
    }

    async fn drifts(&self) -> Vec<Drift> {
        let all = self.shelf.list::<Drift>(&Scope::all()).await.expect("a list");
        all.items.iter().map(|drift| (**drift).clone()).collect()
    }

    /// Removes everything, by the code behind `ballast reset`.
    pub async fn end(mut self) {
        self.stop().await;
        let docker = Docker::new(&self.host);
        let home = Some(&*self.options.data_dir);
        let found = reset::find(&docker, &self.options.installation, home).await.expect("found");
        reset::remove(&docker, &found, home, true).await.expect("removed");
        assert_eq!(self.ids(), Vec::<String>::new());
    }
}

fn web(name: &str) -> Value {
    json!({"name": name, "image": "ballast.example/web:v1"})
}

pub fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    ballast::object::condition::is_true(conditions, "Ready")
}

pub fn container_id(pod: &Pod, index: usize) -> String {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let id = statuses.and_then(|list| list[index].container_id.clone()).expect("an id");
    id.trim_start_matches("docker://").to_owned()
}

pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.map_or(0, |list| list[0].restart_count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_becomes_containers_and_goes_again() {
    let agent = Agent::new();
    let config: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "default"},
        "data": {"GREETING": "hi", "file": "content"}}))
        .expect("a config map");
    agent.shelf.create(&config).await.expect("put");
    let mut first = web("web");
    first["envFrom"] = json!([{"configMapRef": {"name": "c"}}]);
    first["env"] = json!([{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    first["resources"] = json!({"limits": {"memory": "32Mi"}, "requests": {"cpu": "100m"}});
    first["volumeMounts"] =
        json!([{"name": "conf", "mountPath": "/conf"}, {"name": "tmp", "mountPath": "/tmp"}]);
    let mut second = web("second");
    second["env"] = json!([{"name": "PORT", "value": "9090"}]);
    second["volumeMounts"] = json!([{"name": "tmp", "mountPath": "/shared"}]);
    let key = agent
        .put("pod", json!({"containers": [first, second],
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["db.example"]}],
            "volumes": [{"name": "conf", "configMap": {"name": "c"}}, {"name": "tmp", "emptyDir": {"medium": "Memory"}}]}))
        .await;
    let pod = agent.until(&key, "ready", is_ready).await;
    let id = container_id(&pod, 0);
    let env = agent.docker(&["inspect", "-f", "{{json .Config.Env}}", &id]);
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).expect("an address");
    for wanted in ["\"GREETING=hi\"", "\"POD_NAME=pod\"", &format!("\"IP={ip}\"")] {
        assert!(env.contains(wanted), "{env}");
    }
    let spec = "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.IpcMode}}";
    let made = agent.docker(&["inspect", "-f", spec, &id]);
    assert!(made.starts_with("33554432 no container:"), "{made}");
    // What the manifest asks for, and nothing that a ConfigMap or Secret filled in.
    let asked = "{{index .Config.Labels \"ballast.dev/settings\"}}";
    let asked = agent.docker(&["inspect", "-f", asked, &id]);
    assert!(asked.contains("33554432") && !asked.contains("GREETING"), "{asked}");
    // The sandbox writes the hosts file, and its members see the same one.
    let hosts = agent.docker(&["inspect", "-f", "{{.HostsPath}}", &id]);
    let hosts = std::fs::read_to_string(hosts).expect("the pod's hosts file");
    assert!(hosts.contains("10.1.2.3\tdb.example"), "{hosts}");
    assert_eq!(agent.ids().len(), 3);
    let query = LogQuery { container: Some("web".into()), ..LogQuery::default() };
    assert!(agent.logs(&key, query).await.contains("listening"));
    let node = agent.shelf.get::<Node>(&Key::cluster("n1")).await.expect("registered");
    assert_eq!(
        node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()),
        Some(agent.options.pod_range.to_string())
    );

    agent.shelf.delete_pod(&key, 10, jiff::Timestamp::now());
    let deadline = Instant::now() + PATIENCE;
    while agent.shelf.get::<Pod>(&key).await.is_ok() {
        assert!(Instant::now() < deadline, "{}", agent.shelf.notes().join("\n"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(agent.ids(), Vec::<String>::new());
    assert!(!agent.options.data_dir.join("pods").join(pod.uid()).exists());
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_container_comes_back_and_is_recorded() {
    let agent = Agent::new();
    let key = agent.put("pod", json!({"containers": [web("web")]})).await;
    let pod = agent.until(&key, "ready", is_ready).await;
    let said = Instant::now() + PATIENCE;
    while !agent.logs(&key, LogQuery::default()).await.contains("listening") {
        assert!(Instant::now() < said, "it says nothing");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agent.docker(&["kill", &container_id(&pod, 0)]);
    let again = agent.until(&key, "restarted", |pod| restarts(pod) == 1 && is_ready(pod)).await;
    assert_ne!(container_id(&again, 0), container_id(&pod, 0));
    let query = LogQuery { previous: true, ..LogQuery::default() };
    assert!(agent.logs(&key, query).await.contains("listening"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let drifts = agent.drifts().await;
        let found = drifts
            .iter()
            .find(|drift| drift.status.as_ref().is_some_and(|status| status.closed_at.is_some()));
        if let Some(drift) = found {
            assert_eq!((drift.spec.class, &*drift.spec.field), (Class::Stopped, "containers[web]"));
            let cause = drift.status.as_ref().and_then(|status| status.cause.clone());
            assert!(cause.expect("a cause").contains("signal 9"));
            break;
        }
        assert!(Instant::now() < deadline, "{drifts:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_restarts_nothing_and_makes_no_duplicate() {
    let mut agent = Agent::new();
    let mut keys = Vec::new();
    for number in 0..4 {
        keys.push(agent.put(&format!("p{number}"), json!({"containers": [web("web")]})).await);
    }
    // Killed in the middle of the work, several times.
    for pause in [30, 120, 200, 350] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        agent.restart().await;
    }
    for key in &keys {
        let pod = agent.until(key, "ready", is_ready).await;
        assert_eq!(restarts(&pod), 0);
    }
    let before = agent.ids();
    assert_eq!(before.len(), 8);
    agent.restart().await;
    let marker = agent.put("after", json!({"containers": [web("web")]})).await;
    agent.until(&marker, "ready", is_ready).await;
    let after = agent.ids();
    assert_eq!(after.len(), 10);
    assert!(before.iter().all(|id| after.contains(id)));
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_or_taken_from_outside_is_made_anew() {
    let agent = Agent::new();
    let mut container = web("web");
    container["resources"] = json!({"limits": {"memory": "64Mi"}});
    let key = agent
        .put("pod", json!({"containers": [container], "terminationGracePeriodSeconds": 5}))
        .await;
    let pod = agent.until(&key, "ready", is_ready).await;
    let id = container_id(&pod, 0);
    agent.docker(&["update", "--memory", "128m", "--memory-swap", "128m", &id]);
    let pod =
        agent.until(&key, "made anew", |pod| is_ready(pod) && container_id(pod, 0) != id).await;
    let memory = agent.docker(&["inspect", "-f", "{{.HostConfig.Memory}}", &container_id(&pod, 0)]);
    assert_eq!(memory, "67108864");
    assert!(agent.drifts().await.iter().any(|drift| drift.spec.class == Class::Changed));

    let id = container_id(&pod, 0);
    let sandbox = agent.sandbox(&pod);
    agent.docker(&["rm", "-f", &sandbox]);
    agent.until(&key, "in a new sandbox", |pod| is_ready(pod) && container_id(pod, 0) != id).await;
    agent.end().await;
}

/// Its id stays, its network namespace does not: the container that runs on has no network.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_was_restarted_while_nobody_looked_is_made_anew() {
    let mut agent = Agent::new();
    let key = agent.put("pod", json!({"containers": [web("web")]})).await;
    let pod = agent.until(&key, "ready", is_ready).await;
    let (id, sandbox) = (container_id(&pod, 0), agent.sandbox(&pod));
    agent
        .restart_after(|agent| {
            agent.docker(&["restart", "-t", "1", &sandbox]);
            assert_eq!(agent.docker(&["inspect", "-f", "{{.State.Running}}", &id]), "true");
        })
        .await;
    let whole =
        |pod: &Pod| is_ready(pod) && container_id(pod, 0) != id && agent.sandbox(pod) != sandbox;
    let pod = agent.until(&key, "in a new sandbox", whole).await;
    let mode = "{{.HostConfig.NetworkMode}}";
    let joined = agent.docker(&["inspect", "-f", mode, &container_id(&pod, 0)]);
    assert_eq!(joined, format!("container:{}", agent.sandbox(&pod)));
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_installations_and_foreign_containers_are_not_touched() {
    let (mine, theirs) = (Agent::new(), Agent::new());
    let key = theirs.put("pod", json!({"containers": [web("web")]})).await;
    theirs.until(&key, "ready", is_ready).await;
    let name = format!("foreign-{}", mine.options.installation);
    mine.docker(&["run", "-d", "--name", &name, "--network", "none", "ballast.example/web:v1"]);
    let (before, key) = (theirs.ids(), mine.put("pod", json!({"containers": [web("web")]})).await);
    mine.until(&key, "ready", is_ready).await;
    mine.shelf.delete_pod(&key, 0, jiff::Timestamp::now());
    let deadline = Instant::now() + PATIENCE;
    while !mine.ids().is_empty() {
        assert!(Instant::now() < deadline, "leftovers stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(theirs.ids(), before);
    assert_eq!(mine.docker(&["inspect", "-f", "{{.State.Running}}", &name]), "true");
    mine.docker(&["rm", "-f", &name]);
    mine.end().await;
    theirs.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_an_absent_image_and_a_guaranteed_pod_are_told() {
    let agent = Agent::new();
    let mut failing = web("web");
    failing["command"] = json!(["/no-such-program"]);
    let crash = agent.put("crash", json!({"containers": [failing]})).await;
    let absent =
        json!({"name": "web", "image": "ballast.example/none:v1", "imagePullPolicy": "Never"});
    let never = agent.put("never", json!({"containers": [absent]})).await;
    let mut guaranteed = web("web");
    guaranteed["resources"] = json!({"limits": {"memory": "32Mi", "cpu": "100m"}, "requests": {"memory": "32Mi", "cpu": "100m"}});
    let sure = agent.put("sure", json!({"containers": [guaranteed]})).await;
    let waits = |pod: &Pod, wanted: &str| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
        statuses.into_iter().flatten().any(|status| {
            let waiting = status.state.and_then(|state| state.waiting);
            waiting.and_then(|waiting| waiting.reason).as_deref() == Some(wanted)
        })
    };
    agent.until(&never, "told", |pod| waits(pod, "ErrImageNeverPull")).await;
    agent.until(&crash, "told", |pod| waits(pod, "CrashLoopBackOff")).await;
    agent.until(&sure, "ready", is_ready).await;
    agent.end().await;
}
