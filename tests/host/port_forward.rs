//! `kubectl port-forward` to real pods: into the pod's own network, where a server may listen on
//! localhost alone.

use std::process::Stdio;

use crate::harness::{Daemon, Engine, Repo, await_that};

/// `hidden` listens on 127.0.0.1 inside its pod and nowhere else.
const MANIFESTS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: hidden, namespace: default}
spec:
  containers:
  - name: web
    image: ballast.example/web:v1
    env: [{name: LISTEN, value: 127.0.0.1}, {name: POD_NAME, value: hidden}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front, namespace: default}
spec:
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec:
      containers:
      - name: web
        image: ballast.example/web:v1
        env: [{name: POD_NAME, value: front}]
        ports: [{containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: default}
spec:
  selector: {app: front}
  ports: [{port: 80, targetPort: 8080}]
";

fn curl(engine: &Engine, url: &str) -> Result<String, String> {
    let output = engine.inside("curl").args(["-sS", "--max-time", "10", url]).output();
    let output = output.expect("curl starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The local port of a kubectl that has begun to forward.
fn forwarded(text: &str) -> Result<String, String> {
    let rest = text.split_once("Forwarding from 127.0.0.1:").map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_once(' '))
        .map(|(port, _)| port.to_owned())
        .ok_or(text.to_owned())
}

#[test]
fn kubectl_reaches_what_listens_on_a_pods_localhost() {
    let engine = Engine::with_images();
    let repo = Repo::new(&engine.dir.join("repo"));
    repo.write("all.yaml", MANIFESTS);
    repo.commit("A front and a hidden one");
    let daemon = Daemon::start_for_operator(&engine, &repo);
    daemon.rolled_out("default", "front");
    let address = await_that("hidden listens", &daemon, || {
        let said = daemon.try_kubectl(&["logs", "hidden"]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        if !said.contains("listening on 127.0.0.1:8080") {
            return Err(said);
        }
        let path = "jsonpath={.status.podIP}";
        Ok::<_, String>(daemon.kubectl(&["get", "pod", "hidden", "-o", path]))
    });
    curl(&engine, &format!("http://{address}:8080/")).expect_err("it is hidden");

    for (to, port, pod) in [
        ("pod/hidden", ":8080", "hidden"),
        ("deploy/front", ":8080", "front"),
        ("svc/front", ":80", "front"),
    ] {
        let kubectl = daemon.following(&["port-forward", to, port]);
        let local = await_that("kubectl forwards", &daemon, || forwarded(&kubectl.text()));
        for _ in 0..3 {
            let answer = curl(&engine, &format!("http://127.0.0.1:{local}/")).expect(to);
            assert!(answer.starts_with(&format!("v1 {pod} ")), "{to}: {answer}");
        }
    }

    let mut kubectl = daemon.kubectl_command(&["port-forward", "pod/hidden", "18481:81"]);
    kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let kubectl = kubectl.spawn().expect("kubectl starts");
    await_that("kubectl listens", &daemon, || {
        match curl(&engine, "http://127.0.0.1:18481/") {
            // The one that is taken ends kubectl: nobody listens on the pod's port.
            Err(refused) if !refused.contains("Failed to connect") => Ok(()),
            other => Err(other),
        }
    });
    let output = kubectl.wait_with_output().expect("it ends by itself");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("error forwarding port 81 to pod hidden, uid "), "{words}");
    assert!(words.contains("IPv4: dial tcp4 127.0.0.1:81: connect: connection refused"), "{words}");
    let events = daemon.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"]);
    assert!(events.contains("ops forwards ports, from 127.0.0.1"), "{events}");
}
