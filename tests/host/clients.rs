//! Clients that nobody here wrote, over HTTPS with the kubeconfig that the command line prints and from
//! outside the daemon's network namespace: every kubectl of this machine, the Kubernetes project's
//! Python client, a program on kube-rs. They read everything, watch while a push rolls a Deployment
//! and while the daemon is restarted, and end when their credential does.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;

use crate::harness::{Daemon, Engine, Following, Repo, await_that};
use crate::kube_rs::Program;
use crate::kubectls::{self, Kubectl, words};

/// One client program, with its credential.
struct Client {
    program: PathBuf,
    /// How it is called in a failure.
    told: String,
    /// 0 for what is no kubectl.
    minor: u32,
    before: Vec<String>,
    home: PathBuf,
    kubeconfig: PathBuf,
}

impl Client {
    fn kubectl(kubectl: &Kubectl, home: &Path, kubeconfig: &Path) -> Self {
        Self {
            program: kubectl.program.clone(),
            told: format!("kubectl 1.{}", kubectl.minor),
            minor: kubectl.minor,
            before: Vec::new(),
            home: home.join(format!("kubectl-{}", kubectl.minor)),
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    /// Of the first Python that has the package.
    fn python(home: &Path, kubeconfig: &Path) -> Self {
        let version = |python: &str| {
            let output = Command::new(python).args(["-c", PYTHON]).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some((python.to_owned(), text))
        };
        // The system's own first: that is where a distribution's package goes.
        let (program, version) = ["/usr/bin/python3", "python3"]
            .into_iter()
            .find_map(version)
            .expect("no Python here has kubernetes 22 or later: run scripts/setup.sh test");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/python_client.py");
        let before = [script.as_path(), kubeconfig].map(|path| path.to_string_lossy().into_owned());
        Self {
            program: program.into(),
            told: format!("Python's kubernetes {version}"),
            minor: 0,
            before: before.into(),
            home: home.join("python"),
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("HOME", &self.home).env("KUBECONFIG", &self.kubeconfig);
        command.args(&self.before).args(words(line));
        command
    }

    fn output(&self, line: &str) -> (ExitStatus, String) {
        let Output { status, stdout, stderr } =
            self.command(line).output().expect("the client starts");
        let text = String::from_utf8_lossy(&stdout).into_owned();
        (status, text + &String::from_utf8_lossy(&stderr))
    }

    /// Ends with this code, and says all of these words; how a text is broken into lines does not count.
    fn says(&self, line: &str, code: i32, wanted: &[&str]) -> String {
        let (status, text) = self.output(line);
        let level = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let missing: Vec<_> = wanted.iter().filter(|word| !level.contains(**word)).collect();
        assert!(
            status.code() == Some(code) && missing.is_empty(),
            "{}: {line}: {status}, and no {missing:?} in:\n{text}",
            self.told
        );
        text
    }

    /// One that goes on until it ends by itself or its value is dropped.
    fn follow(&self, line: &str) -> Following {
        Following::start(self.command(line).stderr(Stdio::inherit()))
    }
}

/// Every kubectl of this machine: one at least, or this fails.
fn every_kubectl(home: &Path, kubeconfig: &Path) -> Vec<Client> {
    let all = kubectls::all();
    assert!(!all.is_empty(), "no kubectl is installed here: run scripts/setup.sh test");
    all.iter().map(|kubectl| Client::kubectl(kubectl, home, kubeconfig)).collect()
}

/// Asks a Python for the package's version, with the typed client of every kind that is served.
const PYTHON: &str = "import kubernetes
from kubernetes.client import DiscoveryV1Api
print(kubernetes.__version__)";

const GIT: &str = "this cluster changes through Git: commit to main (";

/// What kubectl prints of the running shop: since which version it has the command, the line, its exit
/// code, words of the answer.
const READS: [(u32, &str, i32, &[&str]); 17] = [
    (0, "get pods -n shop -o wide", 0, &["NOMINATED NODE", "1/1", "Running", "10.42.", "node-1"]),
    (0, "get pods -A -l app=web --no-headers", 0, &["shop web-", "Running"]),
    (0, "get endpoints -n shop", 0, &["NAME ENDPOINTS AGE", "web 10.42.", ":8080,"]),
    (
        0,
        "describe deployment web -n shop",
        0,
        &["3 desired | 3 updated | 3 total | 3 available", "0 max unavailable, 1 max surge"],
    ),
    (
        0,
        "describe pods -l app=web -n shop",
        0,
        &[
            "Node: node-1/198.18.",
            "Readiness: http-get http://:http/readyz",
            "Successfully assigned",
        ],
    ),
    (0, "describe service web -n shop", 0, &["NodePort: http 30080/TCP", "10.42.", ":8080"]),
    (0, "logs deploy/web -n shop --tail=1", 0, &["listening on 0.0.0.0:8080, version v1"]),
    (26, "events -n shop --for deployment/web", 0, &["ScalingReplicaSet", "from 0 to 3"]),
    (
        0,
        "wait -n shop --for=condition=Available deploy/web --timeout=20s",
        0,
        &["deployment.apps/web condition met"],
    ),
    (0, "rollout status deploy/web -n shop --timeout=20s", 0, &["successfully rolled out"]),
    (0, "rollout history deploy/web -n shop", 0, &["REVISION CHANGE-CAUSE", "1 <none>"]),
    (0, "top pods -n shop", 0, &["CPU(cores) MEMORY(bytes)", "web-", "api-"]),
    (27, "auth whoami", 0, &["Username kubectl", "ballast:viewers"]),
    (
        0,
        "cluster-info dump -n shop",
        0,
        &["NodeList", "ReplicationControllerList", "DaemonSetList", "listening on 0.0.0.0:8080"],
    ),
    (0, "delete service web -n shop", 1, &["(Forbidden)", GIT]),
    (0, "scale deploy/web -n shop --replicas=9", 1, &["(Forbidden)", GIT]),
    (0, "get pods nope -n shop", 1, &["Error from server (NotFound): pods \"nope\" not found"]),
];

fn read_all(kubectl: &Client, same: &Path, other: &Path) {
    for (since, line, code, wanted) in READS {
        if kubectl.minor >= since {
            kubectl.says(line, code, wanted);
        }
    }
    let (same, other) = (same.display(), other.display());
    let diff = kubectl.says(&format!("diff -f {same}"), 0, &[]);
    assert!(!diff.contains("replicas"), "{}: {diff}", kubectl.told);
    kubectl.says(&format!("diff -f {other}"), 1, &["- replicas: 3", "+ replicas: 4"]);
    let configured = "deployment.apps/web configured (server dry run)";
    kubectl.says(&format!("apply -f {other} --dry-run=server"), 0, &[configured]);
    kubectl.says(&format!("apply -f {other}"), 1, &["(Forbidden)", GIT]);
}

fn applied(daemon: &Daemon<'_>, commit: &str) {
    await_that("the commit is applied", daemon, || {
        let applied =
            daemon.kubectl(&["get", "sources", "main", "-o", "jsonpath={.status.applied.id}"]);
        if applied == commit { Ok(()) } else { Err(applied) }
    });
}

/// Waits until a client that is under way has told all of this.
fn tells(daemon: &Daemon<'_>, client: &Following, wanted: &[&str]) {
    await_that(&format!("a client tells {wanted:?}"), daemon, || {
        let text = client.text();
        if wanted.iter().all(|word| text.contains(word)) { Ok(()) } else { Err(text) }
    });
}

/// Waits for a client's end, and for a good one.
fn ends_well(daemon: &Daemon<'_>, client: &mut Following) {
    await_that("a client ends", daemon, || client.exit().map(drop).ok_or_else(|| client.text()));
    assert!(client.has_ended(), "{:?}: {}", client.exit(), client.text());
}

#[test]
fn clients_of_others_read_and_watch_through_a_push_and_a_restart() {
    let engine = Engine::with_images();
    let repo = Repo::of_example(&engine.dir.join("repo"));
    let mut daemon = Daemon::start_secured(&engine, &repo.dir.to_string_lossy());
    let kubectls = every_kubectl(&engine.dir, &daemon.credential("kubectl"));
    let python = Client::python(&engine.dir, &daemon.credential("python"));
    let told: Vec<&str> = kubectls.iter().chain([&python]).map(|one| one.told.as_str()).collect();
    // Past the harness, which shows what a good test prints to nobody.
    let _ = writeln!(std::io::stderr(), "driven: {}, kube-rs", told.join(", "));
    daemon.rolled_out("shop", "web");
    daemon.rolled_out("shop", "api");

    // What one request answers.
    let (same, other) = (engine.dir.join("same.yaml"), engine.dir.join("other.yaml"));
    let manifest = std::fs::read_to_string(repo.dir.join("web.yaml")).expect("a manifest");
    std::fs::write(&same, &manifest).expect("a copy");
    std::fs::write(&other, manifest.replace("replicas: 3", "replicas: 4")).expect("a copy");
    thread::scope(|scope| {
        for kubectl in &kubectls {
            scope.spawn(|| read_all(kubectl, &same, &other));
        }
        scope.spawn(|| python.says("read", 0, &["ok: 18 kinds"]));
    });

    // Watches and logs, while a push rolls the Deployment.
    let program = Program::start(&daemon.credential("kube-rs"));
    await_that("kube-rs has begun", &daemon, || program.agrees());
    let mut resumed = python.follow("follow");
    let names = daemon.kubectl(&["get", "pods", "-n", "shop", "-l", "app=web", "-o", "name"]);
    let old: Vec<&str> = names.lines().map(|name| name.trim_start_matches("pod/")).collect();
    let follow_log = format!("logs -f --tail=1 -n shop {}", old[0]);
    let watches: Vec<Following> = kubectls
        .iter()
        .map(|kubectl| kubectl.follow("get pods -n shop -l app=web -w --no-headers"))
        .collect();
    let mut logs: Vec<Following> =
        kubectls.iter().map(|kubectl| kubectl.follow(&follow_log)).collect();
    logs.push(python.follow(&format!("log {}", old[0])));
    tells(&daemon, &resumed, &["watching"]);
    watches.iter().for_each(|watch| tells(&daemon, watch, &old));
    logs.iter().for_each(|log| tells(&daemon, log, &["listening on 0.0.0.0:8080, version v1"]));
    repo.replace("web.yaml", "ballast.example/web:v1", "ballast.example/web:v2");
    applied(&daemon, &repo.commit("Serve v2"));
    thread::scope(|scope| {
        for kubectl in &kubectls {
            let line = "rollout status deploy/web -n shop --timeout=90s";
            scope.spawn(|| kubectl.says(line, 0, &["successfully rolled out"]));
        }
    });
    daemon.rolled_out("shop", "web");
    for log in &mut logs {
        ends_well(&daemon, log);
        assert!(log.text().contains("SIGTERM: not ready any more"), "{}", log.text());
    }
    let names = daemon.kubectl(&["get", "pods", "-n", "shop", "-l", "app=web", "-o", "name"]);
    let new: Vec<&str> = names.lines().map(|name| name.trim_start_matches("pod/")).collect();
    for watch in &watches {
        tells(&daemon, watch, &new);
        tells(&daemon, watch, &["Terminating"]);
    }
    await_that("kube-rs knows the rollout", &daemon, || program.agrees());

    // The daemon is restarted: kubectl's watches end with it, the others go on where they were.
    daemon.stop();
    for mut watch in watches {
        ends_well(&daemon, &mut watch);
    }
    daemon.spawn();
    daemon.ready();
    repo.replace("web.yaml", "replicas: 3", "replicas: 2");
    applied(&daemon, &repo.commit("Two are enough"));
    daemon.rolled_out("shop", "web");
    await_that("kube-rs knows what came after the restart", &daemon, || program.agrees());
    let (beginnings, breaks) = program.beginnings_and_breaks();
    assert_eq!(beginnings, 1, "the watcher resumed; its stream broke {breaks} times");
    resumed.finish();
    ends_well(&daemon, &mut resumed);
    assert!(resumed.text().contains("\nok: "), "{}", resumed.text());
    let _ = write!(std::io::stderr(), "{}", resumed.text());
    for kubectl in &kubectls {
        kubectl.says("rollout history deploy/web -n shop", 0, &["2 <none>"]);
    }

    // A credential that is revoked counts no more, and what is open under it ends.
    let mut watches: Vec<Following> =
        kubectls.iter().map(|kubectl| kubectl.follow("get pods -n shop -w")).collect();
    watches.iter().for_each(|watch| tells(&daemon, watch, &["web-"]));
    let data_dir = daemon.data_dir.to_string_lossy().into_owned();
    for name in ["kubectl", "python", "kube-rs"] {
        let revoked = daemon.ballast(&["token", "revoke", name, "--data-dir", &data_dir]);
        assert!(revoked.status.success(), "{revoked:?}");
    }
    await_that("the credentials count no more", &daemon, || {
        let (status, text) = kubectls[0].output("get pods -n shop");
        if status.success() { Err(text) } else { Ok(()) }
    });
    for kubectl in &kubectls {
        let refused = "You must be logged in to the server";
        kubectl.says("get pods -n shop", 1, &[refused, "Unauthorized"]);
    }
    python.says("refused", 0, &["ok: 401"]);
    assert_eq!(program.refusal(), Some(401));
    for watch in &mut watches {
        ends_well(&daemon, watch);
    }
}
