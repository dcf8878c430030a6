//! What the tests with a real kubectl stand on: a served listener over a store with one of each kind,
//! and the kubectls of this machine.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use ballast::api::server::{Limits, Surface, bind, serve};
use ballast::object::drift::Drift;
use ballast::object::inventory::Inventory;
use ballast::object::ports::{BoxFuture, LogQuery, Logs, PodUsage, Usage, UsageReport, Usages};
use ballast::object::source::Source;
use ballast::object::{ApiError, Cluster, Key, Object};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use crate::fixture::{Fixture, PATIENCE, config, object};
use crate::golden;
pub use crate::kubectls::Kubectl;
use crate::kubectls::{self, words};

/// The pod, its ReplicaSet and its Deployment are a real cluster's.
pub const POD: &str = "web-7f4cc58bfd-6txfl";
pub const REPLICA_SET: &str = "web-7f4cc58bfd";

/// A cluster that kubectl can be pointed at.
pub struct World {
    pub fixture: Fixture,
    server: String,
    home: PathBuf,
}

impl World {
    pub async fn new() -> Self {
        let fixture = Fixture::new();
        fixture.api.set_logs(Arc::new(Echo));
        fixture.api.set_usages(Arc::new(Measured));
        fill(&fixture).await;
        let address = "127.0.0.1:0".parse().expect("an address");
        let listener = bind(address, Surface::Everything).await.expect("binds");
        let server = format!("http://{}", listener.local_addr().expect("bound"));
        let limits = Limits::new(Surface::Everything);
        let served = serve(listener, fixture.api.router(), limits, fixture.tasks.clone());
        fixture.tasks.spawn_short("listener", served);
        let home = fixture.folder().join("home");
        std::fs::create_dir(&home).expect("a folder for kubectl's cache");
        Self { fixture, server, home }
    }

    fn command(&self, kubectl: &Kubectl, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&kubectl.program);
        let cache = self.home.join(format!("cache-{}", kubectl.minor));
        command
            .env("HOME", &self.home)
            .env("KUBECONFIG", "/dev/null")
            .env_remove("KUBERNETES_SERVICE_HOST");
        command.arg("--server").arg(&self.server).arg("--cache-dir").arg(cache).args(arguments);
        command
    }

    /// Runs to its end.
    pub fn run(&self, kubectl: &Kubectl, arguments: &[impl AsRef<OsStr>]) -> Output {
        self.command(kubectl, arguments).output().expect("kubectl starts")
    }

    /// Runs to a good end, and answers what it printed.
    pub fn told(&self, kubectl: &Kubectl, line: &str) -> String {
        self.tried(kubectl, line).unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn tried(&self, kubectl: &Kubectl, line: &str) -> Result<String, String> {
        let output = self.run(kubectl, &words(line));
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(text),
            false => Err(format!("1.{}: kubectl {line}: {text}", kubectl.minor)),
        }
    }

    /// Each line succeeds and prints all of its words, with each of these kubectls; how text is
    /// broken into lines does not count.
    pub fn prints_with(&self, kubectls: &[&Kubectl], lines: &[(&str, &[&str])]) {
        let mut faults = Vec::new();
        for kubectl in kubectls {
            for (line, wanted) in lines {
                let text = match self.tried(kubectl, line) {
                    Ok(text) => text,
                    Err(fault) => {
                        faults.push(fault);
                        continue;
                    }
                };
                let level = text.split_whitespace().collect::<Vec<_>>().join(" ");
                for word in wanted.iter().filter(|word| !level.contains(**word)) {
                    let minor = kubectl.minor;
                    faults.push(format!("1.{minor}: kubectl {line}: no {word:?} in\n{text}"));
                }
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    /// The same with every kubectl that speaks differently.
    pub fn prints(&self, lines: &[(&str, &[&str])]) {
        self.prints_with(&different(), lines);
    }

    /// Each line fails and says so in these words.
    pub fn refuses(&self, lines: &[(&str, &str)]) {
        let mut faults = Vec::new();
        for kubectl in different() {
            for (line, wanted) in lines {
                let said = match self.tried(kubectl, line) {
                    Ok(text) => format!("1.{}: kubectl {line} succeeds: {text}", kubectl.minor),
                    Err(said) if said.contains(wanted) => continue,
                    Err(said) => format!("no {wanted:?}: {said}"),
                };
                faults.push(said);
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    /// Starts one that goes on; whoever reads its output ends it.
    pub fn start(&self, kubectl: &Kubectl, line: &str) -> Following {
        let mut command = self.command(kubectl, &words(line));
        Following(command.stdout(Stdio::piped()).spawn().expect("kubectl starts"))
    }

    /// Until so many watches are open. What kubectl prints first is what it got before it watches.
    pub async fn is_watched_by(&self, watches: usize) {
        let mut registry = Registry::default();
        self.fixture.api.metrics().register(&mut registry);
        let wanted = format!("_watches {watches}");
        let open = async {
            loop {
                let mut text = String::new();
                prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
                if text.lines().any(|line| line.ends_with(&wanted)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, open).await.expect("the watches are open");
    }
}

/// Ends with the value.
pub struct Following(pub Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The oldest version that is promised to work.
const OLDEST: u32 = 27;

/// Every kubectl of this machine from 1.27 on, the oldest first. Where there is none (the package of a
/// distribution may be older) nothing is driven, which is said; the recorded requests of
/// `kubectl_requests` are made again everywhere.
pub fn all() -> &'static [Kubectl] {
    let all = kubectls::all();
    let promised = &all[all.partition_point(|kubectl| kubectl.minor < OLDEST)..];
    if promised.is_empty() {
        eprintln!("no kubectl from 1.{OLDEST} on is installed here: none was driven");
    }
    promised
}

/// The oldest and the newest: between them they speak every form of what they ask.
pub fn different() -> Vec<&'static Kubectl> {
    match all() {
        [oldest, .., newest] => vec![oldest, newest],
        few => few.iter().collect(),
    }
}

/// Answers what it was asked, and ends.
struct Echo;

impl Logs for Echo {
    fn logs(
        &self,
        pod: Key,
        query: LogQuery,
    ) -> BoxFuture<Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError>> {
        Box::pin(async move {
            let container = query.container.clone().unwrap_or_default();
            let text = format!(
                "{} {container} follow={} previous={} tail={:?} since={:?} sinceTime={:?} timestamps={} limit={:?}\n",
                pod.name,
                query.follow,
                query.previous,
                query.tail_lines,
                query.since_seconds,
                query.since_time,
                query.timestamps,
                query.limit_bytes,
            );
            Ok(futures::stream::iter([Ok(Bytes::from(text))]).boxed())
        })
    }
}

/// A pod that uses a quarter of a core, on a node that uses one and a half.
struct Measured;

impl Usages for Measured {
    fn usage(&self) -> BoxFuture<Result<Arc<UsageReport>, ApiError>> {
        let usage =
            |cpu_nanocores, mebibytes: u64| Usage { cpu_nanocores, memory_bytes: mebibytes << 20 };
        let containers = vec![
            ("web".to_owned(), usage(240_000_000, 60)),
            ("side".to_owned(), usage(10_000_000, 4)),
        ];
        let report = UsageReport {
            at: "2026-11-21T11:40:00Z".parse().expect("a time"),
            window_seconds: 1.0,
            node: "n1".to_owned(),
            node_usage: Some(usage(1_500_000_000, 512)),
            pods: vec![PodUsage { pod: Key::new("default", POD), containers }],
        };
        Box::pin(async move { Ok(Arc::new(report)) })
    }
}

/// The recorded body, as somebody would send it again.
fn recorded(file: &str) -> Value {
    let mut body = golden::value(&format!("objects/{file}.json"))["body"].take();
    if let Some(first) = body.get_mut("items").and_then(|items| items.get_mut(0)) {
        body = first.take();
    }
    let meta = body["metadata"].as_object_mut().expect("metadata");
    for server in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "managedFields",
        "ownerReferences",
    ] {
        meta.remove(server);
    }
    body
}

/// Creates the object, and then its status.
async fn put<K: Object>(fixture: &Fixture, value: Value) -> Arc<K> {
    let admin = fixture.admin();
    let name = value["metadata"]["name"].clone();
    let with_status = value.get("status").is_some();
    let wanted: K = object(value);
    let made = admin.create(&wanted).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    if !with_status {
        return made;
    }
    let mut wanted = wanted;
    *wanted.metadata_mut() = made.metadata().clone();
    admin.update_status(&wanted).await.unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn owned(mut value: Value, kind: &str, owner: &impl Object) -> Value {
    value["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": kind,
        "name": owner.metadata().name, "uid": owner.uid(), "controller": true}]);
    value
}

/// A class, and a claim of it that is bound to a volume of the node n1.
async fn fill_storage(fixture: &Fixture) {
    put::<StorageClass>(
        fixture,
        json!({"metadata": {"name": "local-path",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "ballast.dev/local-path", "volumeBindingMode": "WaitForFirstConsumer"}),
    )
    .await;
    let amount = json!({"storage": "1Gi"});
    let modes = json!(["ReadWriteOnce"]);
    let claim: Arc<PersistentVolumeClaim> = put(
        fixture,
        json!({
        "metadata": {"name": "data", "namespace": "default",
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"accessModes": modes, "resources": {"requests": amount}, "volumeName": "pvc-1"},
        "status": {"phase": "Bound", "accessModes": modes, "capacity": amount}}),
    )
    .await;
    put::<PersistentVolume>(fixture, json!({"metadata": {"name": "pvc-1",
            "annotations": {"pv.kubernetes.io/provisioned-by": "ballast.dev/local-path"}},
        "spec": {"accessModes": modes, "capacity": amount, "storageClassName": "local-path",
            "persistentVolumeReclaimPolicy": "Delete", "local": {"path": "/srv/volumes/pvc-1"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default",
                "name": "data", "uid": claim.uid()},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}},
        "status": {"phase": "Bound"}})).await;
}

async fn fill(fixture: &Fixture) {
    fixture.namespaces(&["kube-node-lease", "shop"]).await;
    let node: Arc<Node> = put(fixture, recorded("node")).await;
    let deployment: Arc<Deployment> = put(fixture, recorded("deployment-available")).await;
    let set = owned(recorded("replicaset"), "Deployment", &*deployment);
    let set: Arc<ReplicaSet> = put(fixture, set).await;
    let mut pod = owned(recorded("pod-running"), "ReplicaSet", &*set);
    pod["spec"]["initContainers"] = json!([{"name": "prepare", "image": "i:1"}]);
    let mut side = pod["spec"]["containers"][0].clone();
    side["name"] = json!("side");
    side.as_object_mut().expect("a container").remove("ports");
    pod["spec"]["containers"].as_array_mut().expect("containers").push(side);
    for server in [
        "serviceAccount",
        "serviceAccountName",
        "tolerations",
        "priority",
        "preemptionPolicy",
        "volumes",
    ] {
        pod["spec"].as_object_mut().expect("a spec").remove(server);
    }
    for container in pod["spec"]["containers"].as_array_mut().expect("containers") {
        container.as_object_mut().expect("a container").remove("volumeMounts");
    }
    let pod: Arc<Pod> = put(fixture, pod).await;
    let lease = json!({"metadata": {"name": "n1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "n1", "renewTime": "2026-11-21T11:00:00.000000Z"}});
    put::<Lease>(fixture, lease).await;
    let service: Arc<Service> = put(fixture, json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})).await;
    put::<EndpointSlice>(fixture, json!({"addressType": "IPv4",
        "metadata": {"name": "web-x1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.0.7"], "conditions": {"ready": true, "serving": true,
            "terminating": false}, "targetRef": {"kind": "Pod", "name": POD, "namespace": "default"}}]})).await;
    put::<Secret>(
        fixture,
        json!({"metadata": {"name": "key", "namespace": "default"},
        "stringData": {"token": "hunter2"}}),
    )
    .await;
    fill_storage(fixture).await;
    for (place, name) in ["c", "a", "e", "b", "d"].into_iter().enumerate() {
        fixture.admin().create(&config(name, &place.to_string())).await.expect("a config map");
    }
    // Of now: an Event lives for an hour.
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for (number, (reason, about, uid)) in [
        ("Scheduled", ("v1", "Pod", POD), pod.uid()),
        ("ScalingReplicaSet", ("apps/v1", "Deployment", "web"), deployment.uid()),
        ("SuccessfulCreate", ("apps/v1", "ReplicaSet", REPLICA_SET), set.uid()),
        ("NodeReady", ("v1", "Node", "n1"), node.uid()),
        ("Programmed", ("v1", "Service", "web"), service.uid()),
    ]
    .into_iter()
    .enumerate()
    {
        put::<Event>(
            fixture,
            json!({
            "metadata": {"name": format!("event-{number}"), "namespace": "default"},
            "involvedObject": {"apiVersion": about.0, "kind": about.1, "name": about.2, "uid": uid,
                "namespace": if about.1 == "Node" { "" } else { "default" }},
            "reason": reason, "message": format!("{reason} was said"), "type": "Normal",
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
            "source": {"component": "tests"}}),
        )
        .await;
    }
    let commit = json!({"id": "0123456789abcdef0123456789abcdef01234567",
        "subject": "web: two replicas", "at": now});
    put::<Source>(fixture, json!({"metadata": {"name": "main"},
        "spec": {"url": "https://example.com/shop.git", "branch": "main", "path": ".", "pollSeconds": 60},
        "status": {"fetched": commit, "applied": commit}})).await;
    put::<Inventory>(
        fixture,
        json!({"metadata": {"name": "main"},
        "commit": "0123456789abcdef0123456789abcdef01234567", "objects": []}),
    )
    .await;
    put::<Drift>(fixture, json!({"metadata": {"name": "web-image", "namespace": "default"},
        "spec": {"object": {"kind": "Deployment", "namespace": "default", "name": "web"},
            "layer": "object", "class": "Changed", "field": "spec.replicas", "wanted": "2", "actual": "3",
            "origin": {"source": "main", "file": "web.yaml", "line": 7,
                "commit": "0123456789abcdef0123456789abcdef01234567"}},
        "status": {"phase": "Open", "since": now, "lastSeen": now, "count": 1, "action": "Healing"}})).await;
}
