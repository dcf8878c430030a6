//! The node agent with its own rights over the real API and store, on an engine in memory.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballast::api::{Api, ApiOptions, IdSource, Identity, Local};
use ballast::clock::Clock;
use ballast::node::NodeOptions;
use ballast::node::instance::Role;
use ballast::object::ports::{BoxFuture, Withdrawal};
use ballast::object::{Cluster, DeleteOptions, Key, Object, condition};
use ballast::store::{Sqlite, SqliteOptions};
use ballast::task::{AllDone, Tasks};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret};
use serde_json::{Value, json};

use crate::sim::fake_runtime::FakeRuntime;

/// Longer than anything here takes: a condition that never comes fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

struct NoNetwork;

impl Withdrawal for NoNetwork {
    fn withdrawn(&self, _: Ipv4Addr) -> BoxFuture<()> {
        Box::pin(async {})
    }
}

struct World {
    cluster: Local<Sqlite>,
    engine: FakeRuntime,
    tasks: Tasks,
    done: AllDone,
    _folder: tempfile::TempDir,
}

fn object<K: Object>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of its kind")
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Sqlite::open(&folder.path().join("store.db"), SqliteOptions::default())
            .expect("a new store opens");
        let (tasks, done) = Tasks::new();
        let api_options = ApiOptions {
            service_range: "10.43.0.0/16".parse().expect("a range"),
            node_ports: 30_000..=32_767,
            clock: Clock::wall(),
            secret_key: [7; 32],
            ids: IdSource::seeded(1),
        };
        let api = Api::new(store, api_options, &tasks);
        let cluster = api.local(Identity::Admin);
        for name in ["default", "kube-node-lease"] {
            let namespace =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let made = cluster.create::<Namespace>(&object(namespace)).await;
            assert!(made.is_ok() || made.is_err_and(|error| error.is_already_exists()));
        }
        let engine = FakeRuntime::new(Clock::wall())
            .with_image("app:v1")
            .with_registry_image("far.example/app:v2");
        let options = NodeOptions {
            node_name: "n1".into(),
            installation: "i".into(),
            prefix: "ballast".into(),
            data_dir: folder.path().into(),
            host_ip: Ipv4Addr::new(192, 0, 2, 1),
            pod_range: "10.42.0.0/24".parse().expect("a range"),
            network: "ballast".into(),
            bridge: "ballast0".into(),
            beat: Arc::new(|_| {}),
        };
        let agent = api.local(Identity::NodeAgent { node: "n1".to_owned() });
        let network = Arc::new(NoNetwork);
        ballast::node::run(agent, engine.clone(), options, network, Clock::wall(), &tasks);
        Self { cluster, engine, tasks, done, _folder: folder }
    }

    async fn pod(&self, name: &str, container: Value) -> Key {
        let mut container = container;
        container["name"] = json!("web");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [container]}});
        self.cluster.create::<Pod>(&object(pod)).await.expect("a pod");
        Key::new("default", name)
    }

    async fn until(&self, key: &Key, what: &str, holds: impl Fn(&Pod) -> bool) -> Arc<Pod> {
        let begin = Instant::now();
        loop {
            let pod = self.cluster.get::<Pod>(key).await.expect("the pod");
            if holds(&pod) {
                return pod;
            }
            assert!(begin.elapsed() < PATIENCE, "{key} is not {what}: {:#?}", pod.status);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn end(self) {
        self.tasks.stop().cancel();
        drop((self.tasks, self.cluster));
        self.done.wait().await;
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    condition::is_true(conditions.unwrap_or_default(), "Ready")
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    status.map_or(0, |list| list[0].restart_count)
}

fn waiting(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

#[tokio::test]
async fn a_pod_runs_restarts_and_goes() {
    let world = World::new().await;
    let key = world.pod("p", json!({"image": "app:v1"})).await;
    world.until(&key, "ready", is_ready).await;
    let member = |world: &World| {
        let all = world.engine.containers();
        let mut members: Vec<_> = all
            .into_iter()
            .filter(|i| i.identity.role == Role::Container && i.is_running())
            .collect();
        assert!(members.len() <= 1);
        members.pop()
    };
    let first = member(&world).expect("it runs").id;
    world.engine.end(&first, 137, Some("9"));
    world.until(&key, "restarted", |pod| restarts(pod) == 1 && is_ready(pod)).await;
    // The second end waits for its back-off.
    world.engine.end(&member(&world).expect("it runs").id, 1, None);
    let looping = |pod: &Pod| waiting(pod).as_deref() == Some("CrashLoopBackOff");
    world.until(&key, "in back-off", looping).await;
    world.cluster.delete::<Pod>(&key, &DeleteOptions::default()).await.expect("deleted");
    let begin = Instant::now();
    while world.cluster.get::<Pod>(&key).await.is_ok() || !world.engine.containers().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "{:?}", world.engine.containers());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let started = world.engine.started();
    assert_eq!(started.len(), 3, "{started:?}");
    world.end().await;
}

#[tokio::test]
async fn secrets_reach_the_container_and_missing_ones_are_named() {
    let world = World::new().await;
    let container = json!({"image": "app:v1", "env": [
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "envFrom": [{"configMapRef": {"name": "c"}}]});
    let key = world.pod("p", container).await;
    let config = |pod: &Pod| waiting(pod).as_deref() == Some("CreateContainerConfigError");
    world.until(&key, "told", config).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
        "stringData": {"k": "clear"}});
    world.cluster.create::<Secret>(&object(secret)).await.expect("a secret");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"},
        "data": {"A": "b"}});
    world.cluster.create::<ConfigMap>(&object(map)).await.expect("a config map");
    world.until(&key, "ready", is_ready).await;
    let all = world.engine.containers();
    let member = all.iter().find(|i| i.identity.role == Role::Container).expect("one");
    assert_eq!(
        member.settings.env.iter().filter(|e| !e.starts_with("KUBERNETES")).collect::<Vec<_>>(),
        ["A=b", "KEY=clear"]
    );
    world.end().await;
}

#[tokio::test]
async fn an_engine_that_is_away_changes_no_status_and_is_told() {
    let world = World::new().await;
    let key = world.pod("p", json!({"image": "app:v1"})).await;
    let before = world.until(&key, "ready", is_ready).await;
    world.engine.set_away(true);
    let late = world.pod("late", json!({"image": "app:v1"})).await;
    let unready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.clone());
        conditions.is_some_and(|list| {
            condition::find(&list, "Ready").is_some_and(|c| {
                c.status == "False" && c.reason.as_deref() == Some("DockerUnreachable")
            })
        })
    };
    let begin = Instant::now();
    while !unready(&world.cluster.get::<Node>(&Key::cluster("n1")).await.expect("a node")) {
        assert!(begin.elapsed() < PATIENCE, "the node still says it is ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let during = world.cluster.get::<Pod>(&key).await.expect("the pod");
    assert_eq!(during.status, before.status);
    world.engine.set_away(false);
    world.until(&late, "ready", is_ready).await;
    let lease = world.cluster.get::<Lease>(&Key::new("kube-node-lease", "n1")).await;
    assert!(lease.expect("a lease").spec.as_ref().is_some_and(|spec| spec.renew_time.is_some()));
    world.end().await;
}

#[tokio::test]
async fn images_are_pulled_or_their_absence_is_told() {
    let world = World::new().await;
    let far = world.pod("far", json!({"image": "far.example/app:v2"})).await;
    let none = world.pod("none", json!({"image": "far.example/none:v1"})).await;
    world.until(&far, "ready", is_ready).await;
    let told =
        |pod: &Pod| matches!(waiting(pod).as_deref(), Some("ErrImagePull" | "ImagePullBackOff"));
    world.until(&none, "told", told).await;
    world.end().await;
}
