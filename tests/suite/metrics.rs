//! `/metrics` of a whole control plane in one process: it is read by a strict reader, every family is
//! described, named by Prometheus' conventions and listed in METRICS.md, and the figures of each room
//! move when something happens in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, StatusCode};
use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::metrics::{self, Rooms};
use ballast::network::chain_name::ChainNames;
use ballast::network::{self, NetworkOptions};
use ballast::node::instance::Role;
use ballast::node::{self, NodeOptions};
use ballast::object::Cluster;
use ballast::object::source::Source;
use ballast::reconcile::{self, scheduler};
use ballast::state_metrics::ClusterState;
use ballast::sync::{self, Access, SourceConfig, SourceUrl, SyncOptions};
use http_body_util::BodyExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::json;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::api_http::{ask, get, signed};
use crate::exposition::{Exposition, Family};
use crate::fixture::{Fixture, PATIENCE, object, until};
use crate::node::node_options;
use crate::repository::Origin;
use crate::sim::fake_kernel::FakeKernel;
use crate::sim::fake_runtime::FakeRuntime;

const SECRET: &str = "a-value-that-nobody-may-see";

/// A daemon without a listener, over an engine and a kernel in memory.
struct Daemon {
    fixture: Fixture,
    router: Router,
    state: ClusterState,
    engine: FakeRuntime,
    origin: Origin,
    sync: Arc<sync::SyncHandle>,
}

fn files(extra: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
    let mut files = vec![
        ("ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned()),
        (
            "secret.yaml",
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: door, namespace: shop}}\nstringData: {{key: {SECRET}}}\n"
            ),
        ),
        (
            "web.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - name: web\n        image: far.example/app:v1\n        imagePullPolicy: IfNotPresent\n        env: [{name: KEY, valueFrom: {secretKeyRef: {name: door, key: key}}}]\n        ports: [{containerPort: 8080}]\n"
                .to_owned(),
        ),
        (
            "service.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n"
                .to_owned(),
        ),
    ];
    files.extend(extra.iter().cloned());
    files
}

fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\n")
}

/// A series' name, its labels, and by how much it must grow.
type Growth<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

impl Daemon {
    /// As `daemon.rs` composes it. The source `nowhere` follows a branch that is not there.
    fn start() -> Self {
        let fixture = Fixture::new();
        let (rooms, state) = (Rooms::default(), ClusterState::default());
        let registry = metrics::registry(&fixture.store, &fixture.api, &rooms, &state);
        fixture.api.set_registry(Arc::new(registry));
        let (tasks, clock) = (&fixture.tasks, Clock::wall());
        let network_options = NetworkOptions {
            service_range: "10.97.0.0/16".parse().expect("a range"),
            canary: Duration::from_millis(50),
            full: Duration::from_millis(200),
            metrics: rooms.network,
            ..NetworkOptions::new("n1", ChainNames::default_installation(), "ballast0")
        };
        let identity = Identity::Network { node: "n1".to_owned() };
        let kernel = FakeKernel::new();
        let rules = network::run(fixture.local(identity), kernel, network_options, clock, tasks);
        let engine = FakeRuntime::new(clock).with_registry_image("far.example/app:v1");
        let node_options = NodeOptions { metrics: rooms.node, ..node_options(fixture.folder()) };
        let identity = Identity::NodeAgent { node: "n1".to_owned() };
        node::run(fixture.local(identity), engine.clone(), node_options, rules, clock, tasks);
        let options = reconcile::Options { metrics: rooms.reconcile.clone(), ..Default::default() };
        reconcile::run_with(fixture.local(Identity::Controllers), options, clock, tasks);
        let options =
            scheduler::Options { seed: 1, metrics: rooms.reconcile, ..Default::default() };
        scheduler::run_with(fixture.local(Identity::Scheduler), options, clock, tasks);
        let origin = Origin::new();
        let source = |name: &str, branch: &str| SourceConfig {
            name: name.to_owned(),
            url: SourceUrl::parse(&origin.path().to_string_lossy()).expect("a path"),
            branch: branch.to_owned(),
            path: ".".to_owned(),
            poll_seconds: 3600,
            access: Access::default(),
            formerly: Vec::new(),
        };
        commit(&origin, &files(&[("extra.yaml", config_map("extra"))]));
        let sources = vec![source("app", "main"), source("nowhere", "nowhere")];
        let options = SyncOptions {
            data_dir: fixture.folder().join("sync"),
            secret_key: [7; 32],
            beat: None,
            metrics: rooms.sync,
        };
        let sync = sync::run(fixture.local(Identity::Sync), sources, options, clock, tasks);
        fixture.api.set_wake(sync.clone());
        let router = fixture.api.router();
        Self { fixture, router, state, engine, origin, sync }
    }

    fn push(&self, files: &[(&'static str, String)]) {
        use ballast::object::ports::WakeSync;
        commit(&self.origin, files);
        assert!(self.sync.wake("app"));
    }

    async fn text(&self) -> String {
        self.state.look(&self.fixture.local(Identity::Reader)).await.expect("it is read");
        let answer = get(&self.router, "/metrics").await;
        assert_eq!(answer.code, StatusCode::OK);
        let kind = answer.headers["content-type"].to_str().expect("text");
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        String::from_utf8(answer.body.to_vec()).expect("UTF-8")
    }

    async fn scrape(&self) -> Exposition {
        let text = self.text().await;
        Exposition::parse(&text).unwrap_or_else(|fault| panic!("{fault}\nin\n{text}"))
    }

    /// Waits until every series has grown by so much since `before`; one that is not there is 0.
    async fn moved(&self, before: &Exposition, series: &[Growth<'_>]) {
        let begin = Instant::now();
        loop {
            let now = self.scrape().await;
            let still = series.iter().find(|(name, labels, by)| {
                let grown = now.value(name, labels).unwrap_or(0.0)
                    - before.value(name, labels).unwrap_or(0.0);
                grown < *by
            });
            let Some(still) = still else { return };
            assert!(begin.elapsed() < PATIENCE, "never: {still:?}\n{}", self.text().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops. Whoever still held the API would be waited for.
    async fn end(self) {
        let Self { fixture, router, sync, .. } = self;
        drop((router, sync));
        fixture.end().await;
    }

    async fn converged(&self) {
        until::<Deployment>(&self.fixture.admin(), "web is ready", |all| {
            all.iter()
                .any(|one| one.status.as_ref().and_then(|status| status.ready_replicas) == Some(2))
        })
        .await;
    }
}

fn commit(origin: &Origin, files: &[(&'static str, String)]) {
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    origin.commit(&files);
}

/// Starts, converges, and makes every family have a series.
async fn lived() -> Daemon {
    let daemon = Daemon::start();
    daemon.converged().await;
    get(&daemon.router, "/api/v1/pods").await;
    until::<Source>(&daemon.fixture.admin(), "both are told", |all| {
        let status = |one: &Arc<Source>| one.status.clone().unwrap_or_default();
        all.len() == 2 && all.iter().any(|one| status(one).applied.is_some())
    })
    .await;
    daemon
        .moved(
            &Exposition::default(),
            &[
                ("ballast_network_endpoints_programmed", &[], 2.0),
                ("ballast_source_applied_timestamp_seconds", &[("source", "app")], 1e9),
                ("ballast_network_restore_seconds_count", &[("table", "nat")], 1.0),
            ],
        )
        .await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_moves_the_figures_of_every_room() {
    let daemon = Daemon::start();
    let nothing = Exposition::default();
    daemon.converged().await;
    daemon
        .moved(
            &nothing,
            &[
                ("ballast_sync_fetches_total", &[("source", "app"), ("result", "ok")], 1.0),
                ("ballast_sync_fetches_total", &[("source", "nowhere"), ("result", "failed")], 1.0),
                ("ballast_sync_fetch_seconds_count", &[("source", "app")], 1.0),
                ("ballast_sync_applies_total", &[("source", "app"), ("result", "applied")], 1.0),
                ("ballast_sync_apply_seconds_count", &[("source", "app")], 1.0),
                ("ballast_sync_objects_total", &[("source", "app"), ("action", "created")], 5.0),
                ("ballast_source_applied_timestamp_seconds", &[("source", "app")], 1e9),
                ("ballast_store_writes_total", &[], 10.0),
                ("ballast_store_commit_seconds_count", &[], 1.0),
                ("ballast_store_revision", &[], 10.0),
                ("ballast_store_watches", &[], 5.0),
                (
                    "ballast_reconciles_total",
                    &[("controller", "deployment-controller"), ("result", "done")],
                    1.0,
                ),
                (
                    "ballast_reconcile_seconds_count",
                    &[("controller", "endpointslice-controller")],
                    1.0,
                ),
                ("ballast_scheduler_attempts_total", &[("result", "scheduled")], 2.0),
                ("ballast_node_pod_start_seconds_count", &[], 2.0),
                ("ballast_node_image_pulls_total", &[("result", "ok")], 1.0),
                ("ballast_node_image_pull_seconds_count", &[], 1.0),
                (
                    "ballast_node_runtime_operations_total",
                    &[("operation", "create"), ("result", "ok")],
                    4.0,
                ),
                ("ballast_node_runtime_operation_seconds_count", &[("operation", "start")], 4.0),
                ("ballast_node_relist_seconds_count", &[], 1.0),
                ("ballast_network_restores_total", &[("table", "nat"), ("result", "ok")], 1.0),
                ("ballast_network_restore_seconds_count", &[("table", "nat")], 1.0),
                ("ballast_network_chains_written_total", &[("table", "nat")], 1.0),
                ("ballast_network_passes_total", &[("look", "full"), ("result", "ok")], 2.0),
                ("ballast_network_full_compares_total", &[], 2.0),
                ("ballast_network_services_programmed", &[], 1.0),
                ("ballast_network_endpoints_programmed", &[], 2.0),
                (
                    "ballast_deployment_replicas_ready",
                    &[("namespace", "shop"), ("deployment", "web")],
                    2.0,
                ),
                ("process_resident_memory_bytes", &[], 1e6),
                ("process_open_fds", &[], 5.0),
                ("process_start_time_seconds", &[], 1.7e9),
            ],
        )
        .await;

    // A process that ends is a restart; a pod that fits nowhere is told as such.
    let before = daemon.scrape().await;
    let member = |one: &ballast::node::instance::Instance| {
        one.identity.role == Role::Container && one.is_running()
    };
    let victim = daemon.engine.containers().into_iter().find(member).expect("one runs");
    daemon.engine.end(&victim.id, 1, None);
    let nowhere: Pod = object(json!({"metadata": {"name": "nowhere", "namespace": "default"},
        "spec": {"nodeSelector": {"no": "such"}, "containers": [{"name": "c", "image": "i:1"}]}}));
    daemon.fixture.namespaces(&["default"]).await;
    daemon.fixture.admin().create(&nowhere).await.expect("a pod");
    daemon
        .moved(
            &before,
            &[
                ("ballast_node_container_restarts_total", &[], 1.0),
                ("ballast_scheduler_attempts_total", &[("result", "unschedulable")], 1.0),
                ("ballast_scheduler_pending_pods", &[("queue", "waiting")], 1.0),
            ],
        )
        .await;

    // A commit with a mistake is refused with its problems; the next one prunes.
    let before = daemon.scrape().await;
    daemon.push(&files(&[("extra.yaml", "apiVersion: v1\nkind: Nothing\n".to_owned())]));
    daemon
        .moved(
            &before,
            &[
                ("ballast_sync_applies_total", &[("source", "app"), ("result", "refused")], 1.0),
                ("ballast_sync_problems_total", &[("source", "app")], 1.0),
                ("ballast_source_problems", &[("source", "app")], 1.0),
            ],
        )
        .await;
    daemon.push(&files(&[]));
    daemon
        .moved(
            &before,
            &[
                ("ballast_sync_objects_total", &[("source", "app"), ("action", "pruned")], 1.0),
                ("ballast_sync_applies_total", &[("source", "app"), ("result", "applied")], 1.0),
            ],
        )
        .await;
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_watches_and_webhooks_are_counted() {
    let daemon = Daemon::start();
    daemon.converged().await;
    let before = daemon.scrape().await;
    let router = &daemon.router;
    get(router, "/api/v1/namespaces/shop/configmaps").await;
    get(router, "/api/v1/namespaces/shop/pods/none").await;
    let body = Body::from(serde_json::to_vec(&ConfigMap::default()).expect("JSON"));
    ask(router, Method::POST, "/api/v1/namespaces/shop/configmaps", &[], body).await;
    get(router, "/apis/made.up/v1/by-a-stranger").await;
    let request = axum::http::Request::get("/api/v1/pods?watch=1").body(Body::empty());
    let watch = router.clone().oneshot(request.expect("a request")).await.expect("infallible");
    let hook = "x-hub-signature-256";
    daemon.fixture.api.set_webhook_secret("app", b"a secret").expect("set");
    let good = signed(b"a secret", b"{}");
    for (path, signature) in [
        ("/webhook/app", good.as_str()),
        ("/webhook/app", "sha256=00"),
        ("/webhook/by-a-stranger", good.as_str()),
    ] {
        ask(router, Method::POST, path, &[(hook, signature)], "{}").await;
    }
    let asked = |verb, resource, code| [("verb", verb), ("resource", resource), ("code", code)];
    daemon
        .moved(
            &before,
            &[
                ("ballast_api_requests_total", &asked("list", "configmaps", "200"), 1.0),
                ("ballast_api_requests_total", &asked("get", "pods", "404"), 1.0),
                ("ballast_api_requests_total", &asked("create", "configmaps", "403"), 1.0),
                ("ballast_api_requests_total", &asked("get", "none", "404"), 1.0),
                ("ballast_api_requests_total", &asked("watch", "pods", "200"), 1.0),
                ("ballast_api_request_seconds_count", &[("verb", "list")], 1.0),
                ("ballast_api_watches", &[], 1.0),
                ("ballast_webhook_requests_total", &[("result", "accepted")], 1.0),
                ("ballast_webhook_requests_total", &[("result", "unauthorized")], 1.0),
                ("ballast_webhook_requests_total", &[("result", "unknown")], 1.0),
                ("ballast_sync_fetches_total", &[("source", "app"), ("result", "ok")], 1.0),
            ],
        )
        .await;
    let mut lines = watch.into_body();
    assert!(lines.frame().await.is_some(), "the watch runs");
    drop(lines);
    let after = daemon.scrape().await;
    assert_eq!(after.value("ballast_api_watches", &[]), Some(0.0));
    let text = daemon.text().await;
    assert!(!text.contains("stranger"), "what a stranger chose is no label:\n{text}");
    daemon.end().await;
}

/// Every label there is. A new one is a decision about how many series there can be.
const LABELS: [&str; 17] = [
    "action",
    "class",
    "code",
    "controller",
    "deployment",
    "layer",
    "le",
    "look",
    "namespace",
    "operation",
    "queue",
    "resource",
    "result",
    "source",
    "table",
    "verb",
    "version",
];
/// Histograms of something else than time.
const COUNTS: [&str; 1] = ["ballast_store_batch_writes"];

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_the_conventions_and_no_secret_is_shown() {
    let daemon = lived().await;
    let text = daemon.text().await;
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    assert!(!text.contains(SECRET) && !text.contains(&encoded));
    let read = daemon.scrape().await;
    for (name, family) in &read.families {
        let words: Vec<&str> = name.split('_').collect();
        let plain = |word: &&str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        assert!(words.iter().all(plain), "{name}");
        assert!(matches!(words[0], "ballast" | "process"), "{name}");
        let last = *words.last().expect("a word");
        for word in ["total", "count", "sum", "bucket", "info", "created"] {
            assert_ne!(last, word, "{name} ends like a sample");
        }
        for word in ["ms", "millis", "milliseconds", "minutes", "kb", "mb", "percent", "time"] {
            assert!(!words.contains(&word) || name == "process_start_time_seconds", "{name}");
        }
        if family.kind == "histogram" && !COUNTS.contains(&name.as_str()) {
            assert!(name.ends_with("_seconds"), "{name} is a histogram without a unit");
        }
        assert!(family.help.ends_with('.') && !family.help.ends_with(".."), "{name}");
        for sample in &family.samples {
            for (label, value) in &sample.labels {
                assert!(LABELS.contains(&label.as_str()), "{name}: label {label}");
                assert!(value.len() < 64, "{name}: {label}={value} is a text");
            }
        }
    }
    daemon.end().await;
}

/// A row of the table: sample name, type, labels, meaning.
type Row = (String, String, String, String);

fn row(name: &str, family: &Family) -> Row {
    let suffix = match family.kind.as_str() {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    };
    let labels: BTreeSet<&str> = family
        .samples
        .iter()
        .flat_map(|sample| sample.labels.keys())
        .map(String::as_str)
        .filter(|label| *label != "le")
        .collect();
    let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
    let help = family.help.trim_end_matches('.').to_owned();
    (format!("{name}{suffix}"), family.kind.clone(), labels, help)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_in_the_docs_is_what_is_served() {
    let daemon = lived().await;
    let read = daemon.scrape().await;
    let served: BTreeSet<Row> =
        read.families.iter().map(|(name, family)| row(name, family)).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("METRICS.md");
    let page = std::fs::read_to_string(path).expect("METRICS.md");
    let rows: Vec<Row> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, meaning] = cells[..] else { panic!("four cells: {line}") };
            let name = name.trim_matches('`');
            (name.to_owned(), kind.to_owned(), labels.to_owned(), meaning.to_owned())
        })
        .collect();
    let told: BTreeSet<Row> = rows.iter().cloned().collect();
    assert_eq!(told.len(), rows.len(), "a row is there twice");
    let shown = |rows: Vec<&Row>| {
        let lines = rows.iter().map(|(name, kind, labels, meaning)| {
            format!("| `{name}` | {kind} | {labels} | {meaning} |")
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let missing = shown(served.difference(&told).collect());
    let extra = shown(told.difference(&served).collect());
    assert!(
        missing.is_empty() && extra.is_empty(),
        "served, not in METRICS.md:\n{missing}\nin METRICS.md, not served:\n{extra}"
    );
    daemon.end().await;
}
