//! What a repository may ask of the host: the Pod Security Standards by a namespace's labels, and the
//! operator's own key beside them, through the real sync and the real API.

use axum::Router;
use axum::http::{Method, StatusCode};
use ballast::api::{Identity, Local};
use ballast::object::privilege::{Flags, Privileges, WrittenAll};
use ballast::object::{ApiError, Cluster, Key, Reason};
use ballast::offline::validate;
use ballast::ranges::{self, Written};
use ballast::store::Sqlite;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde_json::{Value, json};

use crate::api_http::{Answer, ask};
use crate::fixture::{Fixture, object};
use crate::sync::Scene;

fn allowing(change: impl FnOnce(&mut Flags)) -> WrittenAll {
    let (mut flags, mut written, mut faults) = (Flags::default(), WrittenAll::new(), Vec::new());
    change(&mut flags);
    flags.add_to(&mut written, &mut faults);
    assert_eq!(faults, Vec::<String>::new());
    written
}

fn privileges(change: impl FnOnce(&mut Flags)) -> Privileges {
    let mut faults = Vec::new();
    let privileges = Privileges::read(allowing(change), Vec::new(), &mut faults);
    assert_eq!(faults, Vec::<String>::new());
    privileges
}

fn namespace(label: &str) -> String {
    let label = if label.is_empty() {
        String::new()
    } else {
        format!("\n  labels: {{pod-security.kubernetes.io/enforce: {label}}}")
    };
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop{label}\n")
}

/// A Deployment of the namespace shop, with these lines at the end of its pod.
fn web(lines: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: c
        image: example/web:1
{lines}"
    )
}

const MOUNT: &str = "      volumes:\n      - {name: v, hostPath: {path: /srv/shop/files}}\n";
const BY_POLICY: &str = "web.yaml:13:29 spec.template.spec.volumes[0].hostPath: violates PodSecurity \"baseline:latest\": hostPath volumes (volume \"v\")";
const BY_DAEMON: &str = "web.yaml:13:36 spec.template.spec.volumes[0].hostPath.path: the daemon does not allow namespace \"shop\" the host path /srv/shop/files";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_refused_whole_until_both_keys_are_there() {
    let (plain, mounting) = (web(""), web(MOUNT));
    let mut scene = Scene::with(&[("ns.yaml", &namespace("")), ("web.yaml", &plain)]).await;
    scene.until_applied(&scene.head()).await;

    let bad = scene
        .commit(&[("ns.yaml", &namespace("")), ("web.yaml", &mounting), ("x.yaml", CONFIG)])
        .await;
    assert_eq!(scene.until_refused(&bad).await, [BY_POLICY, BY_DAEMON]);
    let there = |name: &'static str| Key::new("shop", name);
    let web = scene.admin.get::<Deployment>(&there("web")).await.expect("it is there");
    let spec = web.spec.clone().and_then(|spec| spec.template.spec).expect("a template");
    assert_eq!(spec.volumes, None, "nothing of the commit is applied");
    let status = scene.until("refused", |status| status.refused.is_some()).await;
    assert_eq!(
        status.problems.iter().map(|problem| problem.hint.as_str()).collect::<Vec<_>>(),
        [
            "label namespace shop pod-security.kubernetes.io/enforce: privileged in Git",
            "start the daemon with --allow-host-path shop:/srv/shop/files (or allow: in its config file)",
        ]
    );

    // The label comes with the commit that needs it, in whatever file: it is half of what is needed.
    let half = scene.commit(&[("z.yaml", &namespace("privileged")), ("web.yaml", &mounting)]).await;
    assert_eq!(scene.until_refused(&half).await, [BY_DAEMON]);

    scene.stop().await;
    scene.allow(privileges(|flags| flags.host_paths = vec!["shop:/srv/shop".into()]));
    scene.start("app", ".");
    scene.until_applied(&half).await;

    // The operator's key alone is not enough either, and the label goes in the same commit.
    let back = scene.commit(&[("ns.yaml", &namespace("")), ("web.yaml", &mounting)]).await;
    assert_eq!(scene.until_refused(&back).await, [BY_POLICY]);
}

const CONFIG: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: shop}\ndata: {a: b}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_tightens_a_namespace_is_judged_by_it() {
    let files = namespace("");
    let scene = Scene::with(&[("ns.yaml", &files), ("web.yaml", &web(""))]).await;
    let first = scene.head();
    scene.until_applied(&first).await;
    let strict =
        scene.commit(&[("ns.yaml", &namespace("restricted")), ("web.yaml", &web(""))]).await;
    let problems = scene.until_refused(&strict).await;
    assert_eq!(problems.len(), 4, "{problems:#?}");
    assert!(
        problems[0].starts_with("web.yaml:10:9 spec.template.spec.containers[0].securityContext.allowPrivilegeEscalation: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)"),
        "{problems:#?}"
    );
    let wrong = scene.commit(&[("ns.yaml", &namespace("strict")), ("web.yaml", &web(""))]).await;
    let problems = scene.until_refused(&wrong).await;
    assert!(
        problems[0].contains("metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"),
        "{problems:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_the_host_takes_two_keys() {
    let container = |line: &str| web(&format!("        {line}\n"));
    let pod = |line: &str| web(&format!("      {line}\n"));
    let at = "spec.template.spec";
    let c = format!("{at}.containers[0]");
    let folder = tempfile::tempdir().expect("a folder");
    let told = async |label: &str, text: &str, allow: WrittenAll| {
        let all = format!("{}---\n{text}", namespace(label));
        std::fs::write(folder.path().join("a.yaml"), all).expect("written");
        let written = Written { allow, ..Written::default() };
        let ranges = ranges::choose(&[("of a test".to_owned(), written)]).expect("ranges");
        let report = validate(folder.path(), &ranges).await.expect("readable");
        let line = |shown: &ballast::offline_report::Shown| {
            assert!(shown.problem.line > 5, "at the manifest's own line: {:?}", shown.problem);
            format!("{}: {} ({})", shown.problem.field, shown.problem.message, shown.problem.hint)
        };
        report.problems.iter().map(line).collect::<Vec<_>>()
    };
    let by_policy = |field: &str, what: &str| {
        format!(
            "{field}: violates PodSecurity \"baseline:latest\": {what} (label namespace shop pod-security.kubernetes.io/enforce: privileged in Git)"
        )
    };
    let by_daemon = |field: &str, what: &str, flag: &str| {
        format!(
            "{field}: the daemon does not allow namespace \"shop\" {what} (start the daemon with {flag} (or allow: in its config file))"
        )
    };
    type Change = fn(&mut Flags);
    let rows: Vec<(String, String, String, Change)> = vec![
        (
            container("securityContext: {privileged: true}"),
            by_policy(
                &format!("{c}.securityContext.privileged"),
                "privileged (container \"c\" must not set securityContext.privileged=true)",
            ),
            by_daemon(
                &format!("{c}.securityContext.privileged"),
                "a privileged container",
                "--allow-privileged shop",
            ),
            |flags| flags.privileged = vec!["shop".into()],
        ),
        (
            container("securityContext: {capabilities: {add: [NET_ADMIN]}}"),
            by_policy(
                &format!("{c}.securityContext.capabilities.add[0]"),
                "non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
            ),
            by_daemon(
                &format!("{c}.securityContext.capabilities.add[0]"),
                "the capability NET_ADMIN",
                "--allow-capability shop:NET_ADMIN",
            ),
            |flags| flags.capabilities = vec!["shop:NET_ADMIN".into()],
        ),
        (
            container("ports: [{containerPort: 80, hostPort: 8080}]"),
            by_policy(
                &format!("{c}.ports[0].hostPort"),
                "hostPort (container \"c\" uses hostPort 8080)",
            ),
            by_daemon(
                &format!("{c}.ports[0].hostPort"),
                "the host port 8080",
                "--allow-host-ports shop:8080",
            ),
            |flags| flags.host_ports = vec!["shop:8000-9000".into()],
        ),
        (
            pod("volumes: [{name: v, hostPath: {path: /srv/x}}]"),
            by_policy(&format!("{at}.volumes[0].hostPath"), "hostPath volumes (volume \"v\")"),
            by_daemon(
                &format!("{at}.volumes[0].hostPath.path"),
                "the host path /srv/x",
                "--allow-host-path shop:/srv/x",
            ),
            |flags| flags.host_paths = vec!["*:/srv".into()],
        ),
        (
            pod("hostNetwork: true"),
            by_policy(&format!("{at}.hostNetwork"), "host namespaces (hostNetwork=true)"),
            by_daemon(
                &format!("{at}.hostNetwork"),
                "the host's network",
                "--allow-host-namespaces shop",
            ),
            |flags| flags.host_namespaces = vec!["shop".into()],
        ),
        (
            pod("hostPID: true"),
            by_policy(&format!("{at}.hostPID"), "host namespaces (hostPID=true)"),
            by_daemon(
                &format!("{at}.hostPID"),
                "the host's processes",
                "--allow-host-namespaces shop",
            ),
            |flags| flags.host_namespaces = vec!["shop".into()],
        ),
        (
            pod("securityContext: {seccompProfile: {type: Unconfined}}"),
            by_policy(
                &format!("{at}.securityContext.seccompProfile"),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            by_daemon(
                &format!("{at}.securityContext.seccompProfile.type"),
                "a container without a profile (Unconfined)",
                "--allow-privileged shop",
            ),
            |flags| flags.privileged = vec!["shop".into()],
        ),
        (
            pod("securityContext: {sysctls: [{name: net.core.somaxconn, value: '9'}]}"),
            by_policy(
                &format!("{at}.securityContext.sysctls[0]"),
                "forbidden sysctls (net.core.somaxconn)",
            ),
            by_daemon(
                &format!("{at}.securityContext.sysctls[0].name"),
                "the unsafe sysctl net.core.somaxconn",
                "--allow-sysctl shop:net.core.somaxconn",
            ),
            |flags| flags.sysctls = vec!["*:net.core.*".into()],
        ),
    ];
    for (text, policy, daemon, change) in rows {
        let none = WrittenAll::new();
        assert_eq!(told("", &text, none.clone()).await, [policy.clone(), daemon.clone()], "{text}");
        assert_eq!(told("privileged", &text, none).await, [daemon], "{text}");
        assert_eq!(told("baseline", &text, allowing(change)).await, [policy], "{text}");
        assert_eq!(told("privileged", &text, allowing(change)).await, [""; 0], "{text}");
    }
}

fn labelled(labels: &Value) -> Namespace {
    object(json!({"metadata": {"name": "shop", "labels": labels}}))
}

fn pod(name: &str, spec: Value) -> Pod {
    object(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
}

async fn send(router: &Router, method: Method, path: &str, content: &str, body: &str) -> Answer {
    ask(router, method, path, &[("content-type", content)], body.to_owned()).await
}

async fn shop(fixture: &Fixture, labels: Value) -> Local<Sqlite> {
    fixture.admin().create(&labelled(&labels)).await.expect("created");
    fixture.admin()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_forbidden_in_kubernetes_words() {
    let fixture = Fixture::new();
    let admin = shop(&fixture, json!({})).await;
    let spec = json!({"containers": [{"name": "c", "image": "i",
        "securityContext": {"privileged": true}}]});
    let error = admin.create(&pod("a", spec.clone())).await.expect_err("forbidden");
    assert_eq!(error.reason, Reason::Forbidden);
    assert_eq!(
        error.message,
        "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true); the daemon does not allow namespace \"shop\" a privileged container; to allow it: label namespace shop pod-security.kubernetes.io/enforce: privileged in Git, and start the daemon with --allow-privileged shop (or allow: in its config file)"
    );
    let status = error.to_status();
    let details = status.details.expect("details");
    assert_eq!((details.kind.as_deref(), status.code), (Some("pods"), Some(403)));
    assert_eq!(details.causes.map(|causes| causes.len()), Some(2));

    // What a controller makes of an older template is forbidden as a pod; the template is not again.
    let controllers = fixture.local(Identity::Controllers);
    let set: ReplicaSet = object(json!({"metadata": {"name": "r", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": spec}}}));
    let refused =
        |error: &ApiError| error.message.contains("replicasets.apps \"r\" is forbidden: viol");
    assert!(refused(&admin.create(&set).await.expect_err("a person's template")));
    controllers.create(&set).await.expect("a controller's template");
    let pod =
        pod("b", set.spec.clone().and_then(|s| s.template?.spec).map(|s| json!(s)).expect("a pod"));
    controllers.create(&pod).await.expect_err("a controller's pod");

    // A change is judged where the pod changes.
    let plain = json!({"containers": [{"name": "c", "image": "i"}]});
    let made = admin.create(&self::pod("d", plain)).await.expect("created");
    let label =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let patch = ballast::object::Patch::Merge(label);
    admin.patch::<Namespace>(&Key::cluster("shop"), &patch).await.expect("tightened");
    let mut noted: Pod = (*made).clone();
    noted.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    noted.metadata.resource_version = None;
    admin.update(&noted).await.expect("an annotation");
    noted.spec.as_mut().expect("a spec").containers[0].image = Some("i:2".into());
    let error = admin.update(&noted).await.expect_err("another image");
    assert!(error.message.contains("violates PodSecurity \"restricted:latest\""), "{error}");
    assert!(
        error.message.ends_with("; to allow it: label namespace shop pod-security.kubernetes.io/enforce: baseline in Git"),
        "{error}"
    );
    drop((admin, controllers));
    fixture.end().await;
}

#[tokio::test]
async fn other_levels_warn_and_are_logged() {
    let log = crate::log::listen();
    let fixture = Fixture::new();
    let labels = json!({"pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/warn-version": "v1.7",
        "pod-security.kubernetes.io/audit": "restricted"});
    drop(shop(&fixture, labels).await);
    let router = fixture.api.router_as(Identity::Admin);
    let path = "/api/v1/namespaces/shop/pods";
    let spec = json!({"containers": [{"name": "c", "image": "i"}],
        "securityContext": {"runAsNonRoot": false, "runAsUser": 7}});
    let body = json!({"metadata": {"name": "a"}, "spec": spec}).to_string();
    let answer = send(&router, Method::POST, path, "application/json", &body).await;
    assert_eq!(answer.code, StatusCode::CREATED);
    let warned = |answer: &Answer| {
        let all = answer.headers.get_all("warning").iter();
        all.map(|value| value.to_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        warned(&answer),
        [
            "299 - \"would violate PodSecurity \\\"restricted:v1.7\\\": runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)\""
        ]
    );
    // Whoever tries is told as well; only what is written is logged.
    let before = log.text();
    assert!(
        before.contains("audit policy")
            && before.contains("would violate PodSecurity \\\"restricted:latest\\\""),
        "{before}"
    );
    let body = json!({"metadata": {"name": "b"}, "spec": spec}).to_string();
    let tried =
        send(&router, Method::POST, &format!("{path}?dryRun=All"), "application/json", &body).await;
    assert_eq!((warned(&tried).len(), log.text()), (1, before));
    // A change that leaves the pod alone is no news.
    let label = json!({"metadata": {"labels": {"x": "y"}}}).to_string();
    let merge = "application/merge-patch+json";
    let patched = send(&router, Method::PATCH, &format!("{path}/a"), merge, &label).await;
    assert_eq!((patched.code, warned(&patched).len()), (StatusCode::OK, 0));
    drop(router);
    fixture.end().await;
}
