//! What people and attackers commit, through `validate`: the sync's own code with the real admission
//! behind it. Every row is refused with file, line and field, or taken with a stated meaning.

use ballast::offline::{Followed, Wanted, plan_against, validate};
use ballast::offline_report::Report;
use ballast::ranges::Ranges;

const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  containers:
  - name: a
    image: example/a:1
";
const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  selector: {app: a}
  ports:
  - port: 80
";
const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec:
  replicas: 1
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec:
      containers:
      - name: a
        image: example/a:1
";

async fn validated(text: &str) -> Report {
    crate::watchdog::watch();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.yaml"), text).expect("written");
    validate(folder.path(), &Ranges::default()).await.expect("readable")
}

/// Checks rows of (name, manifest, a field that is at fault); the empty field is a valid manifest.
async fn check(rows: Vec<(&str, String, &str)>) {
    let mut wrong = Vec::new();
    for (name, text, field) in rows {
        let report = validated(&text).await;
        let problems: Vec<_> = report.problems.iter().map(|shown| &shown.problem).collect();
        let places = problems.iter().all(|problem| {
            problem.file == "a.yaml" && problem.line > 0 && !problem.message.is_empty()
        });
        let named = problems.iter().any(|problem| problem.field.contains(field));
        if !places || problems.is_empty() != field.is_empty() || (!field.is_empty() && !named) {
            wrong.push(format!("{name}: wanted {field:?}, got {problems:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn shapes_of_manifests() {
    let name = |name: &str| POD.replace("name: a\nspec", &format!("name: {name}\nspec"));
    let meta = |line: &str| POD.replace("  name: a\nspec", &format!("  name: a\n  {line}\nspec"));
    check(vec![
        ("valid", POD.to_owned(), ""),
        ("empty", String::new(), ""),
        ("comments", "# nothing\n---\n# here\n".to_owned(), ""),
        ("long name", name(&"a".repeat(254)), "metadata.name"),
        ("bad characters", name("A_b"), "metadata.name"),
        ("path as name", name("../x"), "metadata.name"),
        ("bad namespace", meta("namespace: ../x"), "metadata.namespace"),
        ("long label", meta(&format!("labels: {{a: {}}}", "b".repeat(64))), "metadata.labels"),
        (
            "large annotation",
            meta(&format!("annotations: {{a: {}}}", "b".repeat(300_000))),
            "metadata.annotations",
        ),
        (
            "generateName",
            POD.replace("  name: a\nspec", "  generateName: a-\nspec"),
            "metadata.generateName",
        ),
        (
            "the controller's revision",
            DEPLOYMENT.replace(
                "{name: a}",
                "{name: a, annotations: {deployment.kubernetes.io/revision: '1'}}",
            ),
            "metadata.annotations.deployment.kubernetes.io/revision",
        ),
        ("unknown field", POD.replace("image:", "imagee:"), "containers[0].imagee"),
        ("wrong type", POD.replace("  containers:\n", "  containers: x\n  x:\n"), "spec"),
    ])
    .await;
}

#[tokio::test]
async fn values_of_workloads() {
    let spec = |line: &str| POD.replace("spec:\n", &format!("spec:\n  {line}\n"));
    let container = |line: &str| format!("{POD}    {line}\n");
    let deployment = |from: &str, to: &str| DEPLOYMENT.replace(from, to);
    check(vec![
        ("valid", DEPLOYMENT.to_owned(), ""),
        ("replicas -1", deployment("replicas: 1", "replicas: -1"), "spec.replicas"),
        ("replicas 2^31", deployment("replicas: 1", "replicas: 2147483648"), "spec.replicas"),
        ("replicas text", deployment("replicas: 1", "replicas: 'x'"), "spec.replicas"),
        (
            "selector and labels",
            deployment("labels: {app: a}", "labels: {app: b}"),
            "spec.template.metadata.labels",
        ),
        (
            "surge and unavailable 0",
            deployment(
                "replicas: 1",
                "replicas: 1\n  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}",
            ),
            "spec.strategy.rollingUpdate.maxUnavailable",
        ),
        (
            "container port 0",
            container("ports: [{containerPort: 0}]"),
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            "container port 65536",
            container("ports: [{containerPort: 65536}]"),
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            "quantity -1",
            container("resources: {limits: {cpu: '-1'}}"),
            "spec.containers[0].resources.limits",
        ),
        ("quantity bogus", container("resources: {limits: {memory: much}}"), "resources.limits"),
        (
            "probe 0 s",
            container("livenessProbe: {periodSeconds: -1, tcpSocket: {port: 80}}"),
            "livenessProbe.periodSeconds",
        ),
        ("image empty", POD.replace("example/a:1", "''"), "spec.containers[0].image"),
        (
            "host path ..",
            format!("{POD}  volumes: [{{name: v, hostPath: {{path: /a/../b}}}}]\n"),
            "spec.volumes[0].hostPath.path",
        ),
        (
            "container name twice",
            format!("{POD}  - name: a\n    image: b\n"),
            "spec.containers[1].name",
        ),
        ("restart policy", spec("restartPolicy: Sometimes"), "spec.restartPolicy"),
    ])
    .await;
}

#[tokio::test]
async fn values_of_services() {
    let port = |port: &str| SERVICE.replace("port: 80", port);
    check(vec![
        ("valid", SERVICE.to_owned(), ""),
        ("port 0", port("port: 0"), "spec.ports[0].port"),
        ("port 65536", port("port: 65536"), "spec.ports[0].port"),
        ("port twice", port("port: 80\n    name: a\n  - port: 80\n    name: b"), "spec.ports[1]"),
        ("injected name", port("port: 80\n    name: '\"; -j ACCEPT'"), "spec.ports[0].name"),
        (
            "address outside",
            SERVICE.replace("spec:\n", "spec:\n  clusterIP: 10.99.0.1\n"),
            "spec.clusterIP",
        ),
        ("type", SERVICE.replace("spec:\n", "spec:\n  type: Sometimes\n"), "spec.type"),
    ])
    .await;
}

#[tokio::test]
async fn a_file_that_is_half_written_hides_no_other_problem() {
    crate::watchdog::watch();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("half.yaml"), &DEPLOYMENT[..90]).expect("written");
    std::fs::write(folder.path().join("b.yaml"), POD.replace("image:", "imagee:"))
        .expect("written");
    std::fs::write(folder.path().join("c.yaml"), DEPLOYMENT.replace("replicas: 1", "replicas: -1"))
        .expect("written");
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("d.yaml")).expect("a link");
    let report = validate(folder.path(), &Ranges::default()).await.expect("readable");
    let files: Vec<&str> =
        report.problems.iter().map(|shown| shown.problem.file.as_str()).collect();
    for file in ["b.yaml", "c.yaml", "d.yaml", "half.yaml"] {
        assert!(files.contains(&file), "{file}: {files:?}");
    }
    let text = report.text();
    assert!(text.contains("b.yaml:8:5") && text.contains("8 |     imagee: example/a:1"), "{text}");
    assert!(text.contains("^^^^^^\n") && text.contains("= help: did you mean image?"), "{text}");
}

fn holding(live: serde_json::Value) -> Followed {
    Followed { live: vec![live], ..Followed::default() }
}

#[tokio::test]
async fn a_plan_is_what_the_sync_would_do() {
    crate::watchdog::watch();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.yaml"), DEPLOYMENT).expect("written");
    let wanted = Wanted::Files(folder.path().to_owned());
    let ranges = Ranges::default();
    let report = plan_against(Followed::default(), &wanted, &ranges).await.expect("planned");
    assert_eq!((report.exit_code(), report.changes.len()), (1, 1), "{}", report.text());
    assert!(report.text().starts_with("+ create Deployment default/a (a.yaml:1)\n"));

    let mut live: serde_json::Value = serde_json::from_str(
        r#"{"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "default", "uid": "u1",
                "annotations": {"ballast.dev/source": "main"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}},
                    "spec": {"containers": [{"name": "a", "image": "example/a:1"}]}}}}"#,
    )
    .expect("JSON");
    let report = plan_against(holding(live.clone()), &wanted, &ranges).await.expect("planned");
    assert!(report.text().contains("    spec.replicas: 3 -> 1\n"), "{}", report.text());
    live["spec"]["replicas"] = 1.into();
    let report = plan_against(holding(live), &wanted, &ranges).await.expect("planned");
    assert_eq!(report.exit_code(), 0, "{}", report.text());
}
