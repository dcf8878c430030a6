//! The node agent with its own rights over the real API and store, on an engine in memory.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ballast::api::{Identity, Local};
use ballast::clock::Clock;
use ballast::node::instance::Role;
use ballast::node::{HostAddress, NodeOptions};
use ballast::object::drift::{Action, Class, Drift, Phase};
use ballast::object::ports::{BoxFuture, Withdrawal};
use ballast::object::source::{Commit, Source};
use ballast::object::{Cluster, DeleteOptions, Key, Object, Patch, Scope, condition};
use ballast::store::Sqlite;
use ballast::task::{AllDone, Tasks};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret};
use serde_json::{Value, json};

use crate::fixture::{Fixture, PATIENCE, object};
use crate::sim::fake_runtime::FakeRuntime;

/// A network that has withdrawn every endpoint at once.
pub struct NoNetwork;

impl Withdrawal for NoNetwork {
    fn withdrawn(&self, _: Ipv4Addr) -> BoxFuture<()> {
        Box::pin(async {})
    }
}

/// Of the node `n1`, whose files lie in this folder.
pub fn node_options(folder: &Path) -> NodeOptions {
    NodeOptions {
        node_name: "n1".into(),
        installation: "i".into(),
        prefix: "ballast".into(),
        data_dir: folder.into(),
        host_ip: HostAddress::Given(Ipv4Addr::new(192, 0, 2, 1)),
        pod_range: "10.42.0.0/24".parse().expect("a range"),
        network: "ballast".into(),
        bridge: "ballast0".into(),
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

pub struct World {
    fixture: Fixture,
    pub cluster: Local<Sqlite>,
    pub engine: FakeRuntime,
    /// The running agent.
    agent: (Tasks, AllDone),
}

impl World {
    async fn new() -> Self {
        let engine = FakeRuntime::new(Clock::wall())
            .with_image("app:v1")
            .with_image("app:poison")
            .with_registry_image("far.example/app:v2");
        Self::on(engine, false).await
    }

    /// A new store on this engine.
    pub async fn on(engine: FakeRuntime, hold: bool) -> Self {
        let change = |options: NodeOptions| NodeOptions { hold, ..options };
        Self::as_told(engine, change, Arc::new(NoNetwork)).await
    }

    /// A new store on this engine, a node that is told other things, and a network of its own.
    pub async fn as_told(
        engine: FakeRuntime,
        change: impl FnOnce(NodeOptions) -> NodeOptions,
        network: Arc<dyn Withdrawal>,
    ) -> Self {
        let fixture = Fixture::new();
        fixture.namespaces(&["default", "kube-node-lease"]).await;
        let cluster = fixture.admin();
        let agent = Self::start(&fixture, &engine, change, network);
        Self { fixture, cluster, engine, agent }
    }

    fn start(
        fixture: &Fixture,
        engine: &FakeRuntime,
        change: impl FnOnce(NodeOptions) -> NodeOptions,
        network: Arc<dyn Withdrawal>,
    ) -> (Tasks, AllDone) {
        let options = change(node_options(fixture.folder()));
        let (tasks, done) = Tasks::new();
        let agent = fixture.local(Identity::NodeAgent { node: "n1".to_owned() });
        let handle =
            ballast::node::run(agent, engine.clone(), options, network, Clock::wall(), &tasks);
        fixture.api.set_usages(handle);
        (tasks, done)
    }

    /// Another run of the agent on the same store and engine; `meanwhile` happens between the two.
    pub async fn restart(&mut self, meanwhile: impl FnOnce(&FakeRuntime)) {
        let (tasks, done) = std::mem::replace(&mut self.agent, Tasks::new());
        stop(tasks, done).await;
        meanwhile(&self.engine);
        self.agent = Self::start(&self.fixture, &self.engine, |told| told, Arc::new(NoNetwork));
    }

    pub async fn pod(&self, name: &str, container: Value) -> Key {
        let mut container = container;
        container["name"] = json!("web");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [container]}});
        self.cluster.create::<Pod>(&object(pod)).await.expect("a pod");
        Key::new("default", name)
    }

    pub async fn until(&self, key: &Key, what: &str, holds: impl Fn(&Pod) -> bool) -> Arc<Pod> {
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

    /// The cluster as a room of the daemon has it.
    pub fn local(&self, who: Identity) -> Local<Sqlite> {
        self.fixture.local(who)
    }

    /// The data directory.
    pub fn folder(&self) -> &Path {
        self.fixture.folder()
    }

    pub async fn end(self) {
        let (tasks, done) = self.agent;
        stop(tasks, done).await;
        drop(self.cluster);
        self.fixture.end().await;
    }
}

async fn stop(tasks: Tasks, done: AllDone) {
    assert_eq!(tasks.died(), 0);
    tasks.stop().cancel();
    drop(tasks);
    done.wait().await;
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    condition::is_true(conditions.unwrap_or_default(), "Ready")
}

pub fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    status.map_or(0, |list| list[0].restart_count)
}

pub fn waiting(pod: &Pod) -> Option<String> {
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

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Through admission, the real store and the agent, on an engine in memory.
#[tokio::test]
async fn a_sidecar_runs_from_its_place_among_the_init_containers_to_the_end() {
    let world = World::new().await;
    let container = |name: &str| json!({"name": name, "image": "app:v1"});
    let mut mesh = container("mesh");
    mesh["restartPolicy"] = json!("Always");
    mesh["startupProbe"] = json!({"exec": {"command": ["up"]}, "failureThreshold": 100});
    let mut web = container("web");
    web["lifecycle"] = json!({"postStart": {"exec": {"command": ["open"]}},
        "preStop": {"sleep": {"seconds": 1}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1", "restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
            "initContainers": [mesh, container("setup")], "containers": [web]}});
    world.engine.set_commands_fail(true);
    world.cluster.create::<Pod>(&object(pod)).await.expect("it is admitted");
    let key = Key::new("default", "p");
    let named = |name: &str| {
        let all = world.engine.containers();
        all.into_iter().filter(move |one| one.identity.container == name).collect::<Vec<_>>()
    };
    let runs = |pod: &Pod| {
        let status = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
        status.is_some_and(|list| list[0].state.as_ref().is_some_and(|s| s.running.is_some()))
    };
    world.until(&key, "at its sidecar", runs).await;
    assert!(named("setup").is_empty(), "it has not started");
    world.engine.set_commands_fail(false);
    let begin = Instant::now();
    while !named("setup").iter().any(|one| one.is_running()) {
        assert!(begin.elapsed() < PATIENCE, "setup waits");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    world.engine.end(&named("setup")[0].id, 0, None);
    world.until(&key, "ready", is_ready).await;
    // A sidecar is restarted in a pod that restarts nothing.
    world.engine.end(&named("mesh")[0].id, 3, None);
    let again = |pod: &Pod| {
        let status = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
        is_ready(pod) && status.is_some_and(|list| list[0].restart_count == 1)
    };
    world.until(&key, "ready again", again).await;
    world.engine.end(&named("web")[0].id, 0, None);
    world.until(&key, "over", |pod| phase(pod) == Some("Succeeded")).await;
    assert!(world.engine.doubles().is_empty());
    let started = world.engine.started();
    let short = |name: &String| name.split('_').nth(1).unwrap_or_default().to_owned();
    let order: Vec<String> = started.iter().map(short).collect();
    assert_eq!(order, ["POD", "mesh", "setup", "web", "mesh"]);
    world.end().await;
}

#[tokio::test]
async fn a_hook_that_fails_ends_its_container_and_is_told_without_its_words() {
    let world = World::new().await;
    world.engine.set_commands_fail(true);
    let container = json!({"image": "app:v1",
        "lifecycle": {"postStart": {"exec": {"command": ["open"]}}}});
    let key = world.pod("p", container).await;
    let looping = |pod: &Pod| waiting(pod).as_deref() == Some("CrashLoopBackOff");
    let pod = world.until(&key, "in back-off", looping).await;
    assert!(!is_ready(&pod));
    let events = world.cluster.list::<Event>(&Scope::all()).await.expect("events").items;
    let told = |reason: &str| {
        let found = events.iter().find(|event| event.reason.as_deref() == Some(reason));
        let event = found.unwrap_or_else(|| panic!("no {reason} in {events:#?}"));
        (event.message.clone().unwrap_or_default(), event.involved_object.field_path.clone())
    };
    let web = Some("spec.containers{web}".to_owned());
    assert_eq!(told("FailedPostStartHook"), ("PostStartHook failed".to_owned(), web.clone()));
    assert_eq!(told("Killing"), ("FailedPostStartHook".to_owned(), web.clone()));
    assert_eq!(told("Started"), ("Container started".to_owned(), web));
    world.engine.set_commands_fail(false);
    world.end().await;
}

/// `kubectl top`, from the engine's counters to the API's answer.
#[tokio::test]
async fn usage_is_measured_when_it_is_asked_for() {
    let world = World::new().await;
    let key = world.pod("p", json!({"image": "app:v1"})).await;
    world.until(&key, "ready", is_ready).await;
    let router = world.fixture.api.router();
    let path = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/p";
    let answer = crate::api_http::get(&router, path).await.json();
    assert_eq!(answer["containers"].as_array().map(Vec::len), Some(1), "{answer}");
    let container = &answer["containers"][0];
    assert_eq!(
        (&container["name"], &container["usage"]["memory"]),
        (&json!("web"), &json!("1024Ki"))
    );
    let cpu = container["usage"]["cpu"].as_str().expect("text").trim_end_matches('n');
    let cpu: f64 = cpu.parse().expect("a number");
    assert!((cpu / 1e9 - 0.25).abs() < 0.01, "a quarter of a core: {cpu}");
    let again = crate::api_http::get(&router, path).await.json();
    assert_eq!(again, answer, "one measurement answers for a while");
    let nodes = crate::api_http::get(&router, "/apis/metrics.k8s.io/v1beta1/nodes").await.json();
    assert_eq!(nodes["items"][0]["metadata"]["name"], "n1");
    drop(router);
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
                c.status == "False" && c.reason.as_deref() == Some("KubeletNotReady")
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

#[tokio::test]
async fn a_new_store_lets_what_runs_run_on_until_it_holds_a_commit() {
    let before = World::new().await;
    let key = before.pod("p", json!({"image": "app:v1"})).await;
    before.until(&key, "ready", is_ready).await;
    let engine = before.engine.clone();
    before.end().await;
    let running =
        |engine: &FakeRuntime| engine.containers().iter().filter(|i| i.is_running()).count();
    assert_eq!(running(&engine), 2);

    // The data directory is lost, or its disk is not mounted: the store knows no pod.
    let after = World::on(engine.clone(), true).await;
    let begin = Instant::now();
    loop {
        let events = after.cluster.list::<Event>(&Scope::all()).await.expect("a list");
        if events.items.iter().any(|event| event.reason.as_deref() == Some("ContainersHeld")) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "the hold is not told");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(running(&engine), 2, "nothing was removed");

    let source = json!({"metadata": {"name": "main"}, "spec": {"url": "/r", "branch": "main", "path": ".", "pollSeconds": 60}});
    let stored = after.cluster.create::<Source>(&object(source)).await.expect("a source");
    let mut applied = (*stored).clone();
    let commit = json!({"id": "a".repeat(40), "at": "2026-01-01T00:00:00Z"});
    let commit: Commit = serde_json::from_value(commit).expect("a commit");
    applied.status.get_or_insert_default().applied = Some(commit);
    after.cluster.update_status(&applied).await.expect("applied");
    let begin = Instant::now();
    while !engine.containers().is_empty() {
        assert!(
            begin.elapsed() < PATIENCE,
            "what no commit wants stays: {:?}",
            engine.containers()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    after.end().await;
}

#[tokio::test]
async fn lists_that_panic_are_made_again() {
    let engine = FakeRuntime::new(Clock::wall()).with_image("app:v1");
    engine.curse_lists(2);
    let world = World::on(engine, false).await;
    let key = world.pod("p", json!({"image": "app:v1"})).await;
    world.until(&key, "ready", is_ready).await;
    world.end().await;
}

/// A Drift of the pod that is like this.
async fn drift(world: &World, key: &Key, is: impl Fn(&Drift) -> bool) -> Arc<Drift> {
    let begin = Instant::now();
    loop {
        let all = world.cluster.list::<Drift>(&Scope::all()).await.expect("a list").items;
        let mut of_pod = all.iter().filter(|drift| drift.spec.object.name == key.name);
        if let Some(found) = of_pod.find(|drift| is(drift)) {
            return found.clone();
        }
        assert!(begin.elapsed() < PATIENCE, "{key} has no such drift: {all:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn action(drift: &Drift) -> Option<Action> {
    drift.status.as_ref().map(|status| status.action)
}

/// The deadline is the Deployment's: of the pods' own, ten minutes, nothing would be told here.
#[tokio::test]
async fn pods_that_do_not_get_ready_by_their_deployments_deadline_are_drifts() {
    let world = World::new().await;
    world.engine.set_commands_fail(true);
    let meta = |name: &str, owner: Option<(&str, &str)>| {
        let owners = owner.map(|(kind, uid)| {
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": uid, "controller": true}])
        });
        json!({"name": name, "namespace": "default", "labels": {"app": "web"}, "ownerReferences": owners})
    };
    let template = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "app:v1"}]}});
    let selector = json!({"matchLabels": {"app": "web"}});
    let deployment: Deployment = object(json!({"metadata": meta("web", None),
        "spec": {"progressDeadlineSeconds": 1, "selector": selector, "template": template}}));
    let deployment = world.cluster.create(&deployment).await.expect("a Deployment");
    let set: ReplicaSet =
        object(json!({"metadata": meta("web", Some(("Deployment", deployment.uid()))),
        "spec": {"selector": selector, "template": template}}));
    let set = world.cluster.create(&set).await.expect("a ReplicaSet");
    let pod = async |name: &str, container: Value| {
        let pod: Pod = object(json!({"metadata": meta(name, Some(("ReplicaSet", set.uid()))),
            "spec": {"nodeName": "n1", "containers": [container]}}));
        world.cluster.create(&pod).await.expect("a pod");
        Key::new("default", name)
    };
    let probe = json!({"exec": {"command": ["ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    let unready =
        pod("unready", json!({"name": "web", "image": "app:v1", "readinessProbe": probe})).await;
    let none = pod("none", json!({"name": "web", "image": "far.example/none:v1"})).await;

    let found =
        drift(&world, &none, |drift| drift.spec.actual.as_deref() == Some("ImagePullBackOff"));
    let found = found.await;
    assert_eq!((found.spec.class, action(&found)), (Class::Missing, Some(Action::Healing)));
    let found = drift(&world, &unready, |drift| action(drift) == Some(Action::Reported)).await;
    assert_eq!((found.spec.class, &*found.spec.field), (Class::NotReady, "containers[web]"));
    assert_eq!(found.spec.wanted_by.as_deref(), Some("spec.containers[web].readinessProbe"));

    world.engine.set_commands_fail(false);
    world.until(&unready, "ready", is_ready).await;
    drift(&world, &unready, |drift| action(drift) == Some(Action::Resolved)).await;
    // A deleted pod leaves nothing open behind.
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    world.cluster.delete::<Pod>(&none, &now).await.expect("deleted");
    let closed = |drift: &Drift| drift.status.as_ref().is_some_and(|s| s.phase == Phase::Closed);
    drift(&world, &none, closed).await;
    world.end().await;
}

/// The Events' reasons about one object.
async fn reasons(world: &World, key: &Key) -> Vec<String> {
    let all = world.cluster.list::<Event>(&Scope::all()).await.expect("a list").items;
    let about = all.iter().filter(|event| event.involved_object.name.as_ref() == Some(&key.name));
    about.filter_map(|event| event.reason.clone()).collect()
}

async fn gone(world: &World, key: &Key) {
    let begin = Instant::now();
    while world.cluster.get::<Pod>(key).await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "{key} stays: {:?}", world.engine.containers());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_pod_that_makes_its_worker_panic_is_told_can_be_deleted_and_is_tried_again() {
    let world = World::new().await;
    world.engine.set_poison(Some("app:poison"));
    let first = world.pod("first", json!({"image": "app:poison"})).await;
    let second = world.pod("second", json!({"image": "app:poison"})).await;
    for key in [&first, &second] {
        let begin = Instant::now();
        while !reasons(&world, key).await.contains(&"Quarantined".to_owned()) {
            assert!(begin.elapsed() < PATIENCE, "{key} is not told");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let other = world.pod("other", json!({"image": "app:v1"})).await;
    world.until(&other, "ready", is_ready).await;
    world.cluster.delete::<Pod>(&first, &DeleteOptions::default()).await.expect("deleted");
    gone(&world, &first).await;
    let left = world.engine.containers();
    assert!(left.iter().all(|one| one.identity.pod_name != "first"), "{left:?}");
    world.engine.set_poison(None);
    world.until(&second, "ready", is_ready).await;
    world.end().await;
}

#[tokio::test]
async fn a_container_that_the_engine_cannot_tell_of_is_its_pods_matter_alone() {
    let world = World::new().await;
    let stuck = world.pod("stuck", json!({"image": "app:v1"})).await;
    let other = world.pod("other", json!({"image": "app:v1"})).await;
    for key in [&stuck, &other] {
        world.until(key, "ready", is_ready).await;
    }
    let member = |name: &str| {
        let all = world.engine.containers();
        let mut of_pod = all.into_iter().filter(|i| i.identity.role == Role::Container);
        of_pod.find(|i| i.identity.pod_name == name && i.is_running()).expect("it runs").id
    };
    let id = member("stuck");
    world.engine.set_stuck(&id, true);
    world.cluster.delete::<Pod>(&stuck, &DeleteOptions::default()).await.expect("deleted");
    // Its stop was tried and got no answer: the failure is told by then.
    let begin = Instant::now();
    while !reasons(&world, &stuck).await.contains(&"Killing".to_owned()) {
        assert!(begin.elapsed() < PATIENCE, "it is not stopped");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The others are cared for, and the node says that it is well.
    world.engine.end(&member("other"), 1, None);
    world.until(&other, "restarted", |pod| restarts(pod) == 1 && is_ready(pod)).await;
    let late = world.pod("late", json!({"image": "app:v1"})).await;
    world.until(&late, "ready", is_ready).await;
    let node = world.cluster.get::<Node>(&Key::cluster("n1")).await.expect("a node");
    let conditions = node.status.as_ref().and_then(|status| status.conditions.clone());
    assert!(condition::is_true(&conditions.unwrap_or_default(), "Ready"));
    assert!(world.cluster.get::<Pod>(&stuck).await.is_ok(), "nobody knows that it ended");
    world.engine.set_stuck(&id, false);
    gone(&world, &stuck).await;
    world.end().await;
}

#[tokio::test]
async fn a_restart_of_the_daemon_makes_no_ready_pod_unready() {
    let mut world = World::new().await;
    let probe =
        json!({"exec": {"command": ["ready"]}, "periodSeconds": 1, "failureThreshold": 1000});
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "web", "image": "app:v1", "readinessProbe": probe, "startupProbe": probe},
            {"name": "other", "image": "app:v1"}]}});
    world.cluster.create::<Pod>(&object(pod)).await.expect("a pod");
    let key = Key::new("default", "p");
    let before = world.until(&key, "ready", is_ready).await;
    // From here on no probe succeeds again, and no number of failures has been reached.
    world.restart(|engine| engine.set_commands_fail(true)).await;
    let all = world.engine.containers();
    let other = all.iter().find(|i| i.identity.container == "other").expect("it runs");
    world.engine.end(&other.id, 1, None);
    let status = |pod: &Pod, name: &str| {
        let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        status
            .into_iter()
            .flatten()
            .find(|status| status.name == name)
            .cloned()
            .expect("it has one")
    };
    let again = |pod: &Pod| status(pod, "other").restart_count == 1 && status(pod, "other").ready;
    let after = world.until(&key, "restarted beside it", again).await;
    assert_eq!(status(&after, "web"), status(&before, "web"));
    assert!(is_ready(&after));
    world.end().await;
}

#[tokio::test]
async fn leftovers_leave_no_open_drift_behind() {
    let world = World::new().await;
    let key = world.pod("p", json!({"image": "app:v1"})).await;
    world.until(&key, "ready", is_ready).await;
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    world.cluster.delete::<Pod>(&key, &now).await.expect("deleted");
    let begin = Instant::now();
    loop {
        let all = world.cluster.list::<Drift>(&Scope::all()).await.expect("a list").items;
        let is_closed =
            |drift: &&Arc<Drift>| drift.status.as_ref().is_some_and(|s| s.phase == Phase::Closed);
        let extra = || all.iter().filter(|drift| drift.spec.class == Class::Extra);
        // Its sandbox and its container, each told for itself.
        let told = extra().filter(is_closed).count() == 2;
        let closed = all.iter().all(|drift| is_closed(&drift));
        if told && closed && world.engine.containers().is_empty() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{all:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.end().await;
}

/// What the host answers to who asks for its address; 0 is none, as before its network is up.
static ADDRESS: AtomicU32 = AtomicU32::new(0);

fn own_address() -> Option<Ipv4Addr> {
    match ADDRESS.load(Ordering::Relaxed) {
        0 => None,
        bits => Some(Ipv4Addr::from_bits(bits)),
    }
}

/// At boot the daemon may be earlier than the network: it asks again with every beat, ten seconds
/// apart, and what would have the address for life waits for it.
#[tokio::test]
async fn an_address_that_comes_later_reaches_the_node_and_its_pods() {
    let engine = FakeRuntime::new(Clock::wall()).with_image("app:v1");
    let asks = |options| NodeOptions { host_ip: HostAddress::Asked(own_address), ..options };
    let world = World::as_told(engine, asks, Arc::new(NoNetwork)).await;
    let plain = world.pod("plain", json!({"image": "app:v1"})).await;
    let before = world.until(&plain, "ready", is_ready).await;
    let host = |pod: &Pod| pod.status.as_ref().and_then(|status| status.host_ip.clone());
    assert_eq!(host(&before).as_deref(), Some("127.0.0.1"));
    let variable = json!({"image": "app:v1", "env": [
        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]});
    let told = world.pod("told", variable).await;
    let waits = |pod: &Pod| {
        let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let state = status.and_then(|list| list.first()?.state.clone());
        state
            .and_then(|state| state.waiting?.message)
            .is_some_and(|why| why.contains("no address yet"))
    };
    world.until(&told, "waiting for the address", waits).await;

    let address = Ipv4Addr::new(192, 0, 2, 9);
    ADDRESS.store(address.to_bits(), Ordering::Relaxed);
    world.until(&told, "ready", is_ready).await;
    let all = world.engine.containers();
    let with_host = |one: &&ballast::node::instance::Instance| {
        one.settings.env.iter().any(|line| line == "HOST=192.0.2.9")
    };
    assert_eq!(all.iter().filter(with_host).count(), 1, "{all:?}");
    let after = world.until(&plain, "told", |pod| host(pod).as_deref() == Some("192.0.2.9")).await;
    assert_eq!(restarts(&after), 0, "an address restarts nothing");
    let node = world.cluster.get::<Node>(&Key::cluster("n1")).await.expect("a node");
    let addresses = node.status.as_ref().and_then(|status| status.addresses.clone());
    let internal = addresses.expect("addresses").into_iter().find(|one| one.type_ == "InternalIP");
    assert_eq!(internal.map(|one| one.address).as_deref(), Some("192.0.2.9"));
    world.end().await;
}

/// A network whose rules let an address go when the test says so.
struct Gate(tokio::sync::watch::Sender<bool>);

impl Withdrawal for Gate {
    fn withdrawn(&self, _: Ipv4Addr) -> BoxFuture<()> {
        let mut open = self.0.subscribe();
        Box::pin(async move {
            open.wait_for(|open| *open).await.expect("the gate is there");
        })
    }
}

#[tokio::test]
async fn a_container_is_stopped_when_no_rule_sends_to_it_any_more_or_after_two_seconds() {
    let engine = FakeRuntime::new(Clock::wall()).with_image("app:v1");
    let gate = Arc::new(Gate(tokio::sync::watch::Sender::new(false)));
    let world = World::as_told(engine, |told| told, gate.clone()).await;
    let running =
        |world: &World| world.engine.containers().iter().filter(|i| i.is_running()).count();
    let ends = async |name: &str, opens: bool| {
        let key = world.pod(name, json!({"image": "app:v1"})).await;
        world.until(&key, "ready", is_ready).await;
        world.cluster.delete::<Pod>(&key, &DeleteOptions::default()).await.expect("deleted");
        let begin = Instant::now();
        while gate.0.receiver_count() == 0 {
            assert!(begin.elapsed() < PATIENCE, "nobody asked the network");
            assert_eq!(running(&world), 2, "it is stopped before anybody asked");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let asked = Instant::now();
        let mut still = Duration::ZERO;
        while running(&world) == 2 {
            assert!(begin.elapsed() < PATIENCE, "it is never stopped");
            still = asked.elapsed();
            if opens && still > Duration::from_millis(300) {
                gate.0.send_replace(true);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        while world.cluster.get::<Pod>(&key).await.is_ok() {
            assert!(begin.elapsed() < PATIENCE, "the pod stays");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        gate.0.send_replace(false);
        still
    };
    let withdrawn = ends("withdrawn", true).await;
    assert!(withdrawn >= Duration::from_millis(300), "{withdrawn:?}");
    let given_up = ends("given-up", false).await;
    assert!(given_up >= Duration::from_millis(1900), "{given_up:?}");
    world.end().await;
}

#[tokio::test]
async fn init_containers_end_one_by_one_before_the_others_begin() {
    let world = World::new().await;
    let init = |name: &str| json!({"name": name, "image": "app:v1"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1", "initContainers": [init("first"), init("second")],
            "containers": [init("web")]}});
    world.cluster.create::<Pod>(&object(pod)).await.expect("a pod");
    let key = Key::new("default", "p");
    for name in ["first", "second"] {
        let begin = Instant::now();
        let id = loop {
            let all = world.engine.containers();
            let mut run = all.iter().filter(|i| i.identity.role != Role::Sandbox && i.is_running());
            if let Some(one) = run.next().filter(|one| one.identity.container == name) {
                assert_eq!(run.count(), 0, "{all:?}");
                break one.id.clone();
            }
            assert!(begin.elapsed() < PATIENCE, "{name} does not run: {all:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let pending = world.cluster.get::<Pod>(&key).await.expect("the pod");
        assert!(!is_ready(&pending));
        world.engine.end(&id, 0, None);
    }
    world.until(&key, "ready", is_ready).await;
    assert_eq!(world.engine.started().len(), 4, "{:?}", world.engine.started());
    world.end().await;
}

/// A startup probe by a command holds the readiness probe by a connection back; that one decides.
#[tokio::test]
async fn probes_by_command_and_by_connection_decide_what_is_ready() {
    let world = World::new().await;
    // A probe of another host than the pod is nothing that the baseline takes.
    world.fixture.namespaces(&["default"]).await;
    let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let default = Key::cluster("default");
    world.cluster.patch::<Namespace>(&default, &patch).await.expect("labelled");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    world.engine.set_commands_fail(true);
    let container = json!({"image": "app:v1",
        "startupProbe": {"exec": {"command": ["up"]}, "periodSeconds": 1, "failureThreshold": 1000},
        "readinessProbe": {"tcpSocket": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1, "failureThreshold": 1}});
    let key = world.pod("p", container).await;
    let status = |pod: &Pod| Some(pod.status.as_ref()?.container_statuses.as_ref()?[0].clone());
    let runs =
        |pod: &Pod| status(pod).is_some_and(|one| one.state.is_some_and(|s| s.running.is_some()));
    let before = world.until(&key, "running", runs).await;
    let one = status(&before).expect("told");
    assert_eq!((one.started, one.ready), (Some(false), false));
    world.engine.set_commands_fail(false);
    let ready = world.until(&key, "ready", is_ready).await;
    assert_eq!(status(&ready).expect("told").started, Some(true));
    drop(listener);
    let unready = world.until(&key, "not ready any more", |pod| !is_ready(pod)).await;
    assert_eq!(restarts(&unready), 0, "readiness restarts nothing");
    let begin = Instant::now();
    loop {
        let events = world.cluster.list::<Event>(&Scope::all()).await.expect("a list");
        let told = |event: &Arc<Event>| {
            event.reason.as_deref() == Some("Unhealthy")
                && event.message.as_ref().is_some_and(|text| text.contains("dial tcp 127.0.0.1"))
        };
        if events.items.iter().any(told) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{events:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.end().await;
}
