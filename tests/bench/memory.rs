//! What the daemon's process keeps with 10,000 pods of 5.5 kB, made by its own controllers of one
//! commit: replicas of one Deployment, and of a hundred that are all different, which select a node
//! that is not there. Engine there is none, so that what is counted is the cluster's state and not
//! 10,000 containers. In a network namespace of its own; needs root.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;

use crate::api::client::Client;
use crate::process::{huge_pages, peak_mb, resident_mb};
use crate::report::Report;

const PODS: usize = 10_000;
/// Deployments that they belong to.
const SCENES: [(usize, &str); 2] = [(1, "one template"), (100, "100 templates")];
/// Of a stored pod.
const BYTES: std::ops::RangeInclusive<usize> = 5_300..=5_800;
/// Environment variables of its two containers: they make the size.
const VARIABLES: usize = 32;
/// For the writes that follow the last pod to be over, and for garbage to be given back.
const SETTLING: Duration = Duration::from_secs(30);
/// Nothing that works takes this long.
const PATIENCE: Duration = Duration::from_secs(240);

pub fn run(report: &mut Report) {
    for (deployments, scene) in SCENES {
        let rows = thread::spawn(move || {
            // SAFETY: NEWNET leaves the table of open files shared, which is what could go wrong.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("the memory benchmark needs root");
            sh(Command::new("ip").args(["link", "set", "lo", "up"]));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(measure(deployments))
        });
        for (row, megabytes) in rows.join().expect("a measurement does not panic") {
            let name = format!("{scene}: {row}, huge pages {}", huge_pages());
            report.sample(&name, "MB", megabytes);
        }
    }
}

/// A daemon that ends with its measurement.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure(deployments: usize) -> Vec<(&'static str, f64)> {
    let folder = tempfile::tempdir_in(".").expect("a folder on this disk");
    let home = folder.path().to_owned();
    write_repository(&home.join("repo"), deployments);
    let (daemon, address) = start(&home).await;
    let pid = daemon.0.id();
    let mut rows = vec![("resident, nothing applied yet", resident_mb(pid))];
    let begun = Instant::now();
    while count(address).await < PODS {
        assert!(begun.elapsed() < PATIENCE, "{}", told(&home));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(SETTLING).await;
    rows.push(("resident, 10,000 pods", resident_mb(pid)));
    rows.push(("most so far", peak_mb(pid)));
    let mut client = Client::connect(address).await;
    let list = client.get("/api/v1/pods", &[]).await;
    assert!(BYTES.contains(&(list.bytes / PODS)), "a pod is {} bytes", list.bytes / PODS);
    rows.push(("the pods' own bytes", list.bytes as f64 / f64::from(1 << 20)));
    rows.push(("resident, after a list of all", resident_mb(pid)));
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    client.get("/api/v1/pods", &accept).await;
    rows.push(("resident, after a table of all", resident_mb(pid)));
    tokio::time::sleep(SETTLING).await;
    rows.push(("resident, 30 s later", resident_mb(pid)));
    drop((client, daemon));
    let (daemon, address) = start(&home).await;
    tokio::time::sleep(SETTLING).await;
    assert_eq!(count(address).await, PODS, "{}", told(&home));
    rows.push(("resident, 30 s after a restart", resident_mb(daemon.0.id())));
    rows.push(("most since the restart", peak_mb(daemon.0.id())));
    rows
}

async fn start(home: &Path) -> (Daemon, SocketAddr) {
    let log = std::fs::File::options().create(true).append(true).open(home.join("ballast.log"));
    let log = log.expect("a log");
    let daemon = Command::new(binary())
        .arg("run")
        .arg(home.join("repo"))
        .args(["--node-name", "bench", "--docker"])
        .arg(format!("unix://{}", home.join("no-engine.sock").display()))
        .arg("--data-dir")
        .arg(home.join("data"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .spawn()
        .expect("ballast starts");
    let daemon = Daemon(daemon);
    let address: SocketAddr = "127.0.0.1:7440".parse().expect("an address");
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "{}", told(home));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (daemon, address)
}

/// The program to measure: another one than was just built where `BALLAST_BENCH_BINARY` names it, such
/// as what is shipped.
fn binary() -> PathBuf {
    let other = std::env::var_os("BALLAST_BENCH_BINARY");
    other.map_or_else(|| env!("CARGO_BIN_EXE_ballast").into(), PathBuf::from)
}

/// How many pods the ReplicaSets count. A list of pods with a limit would make the store keep each
/// state that it was asked for.
async fn count(address: SocketAddr) -> usize {
    let mut client = Client::connect(address).await;
    let request = Request::get("/apis/apps/v1/replicasets").body(Body::empty());
    let (_, _, bytes) = client.whole(request.expect("a request")).await;
    let list: serde_json::Value = serde_json::from_slice(&bytes).expect("a list");
    let sets = list["items"].as_array().into_iter().flatten();
    sets.filter_map(|set| set["status"]["replicas"].as_u64()).sum::<u64>() as usize
}

fn told(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("ballast.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Deployments whose pods no node may take; each has a template of its own.
fn write_repository(repo: &Path, deployments: usize) {
    std::fs::create_dir_all(repo).expect("a folder");
    let container = |number: usize, name: &str| {
        let variables: String = (0..VARIABLES)
            .map(|n| {
                format!(
                    "        - {{name: SETTING_{n:02}, value: value-{number:04}-of-setting-{n:02}}}\n"
                )
            })
            .collect();
        format!(
            "      - name: {name}
        image: registry.example/team/web:v1.27.3
        resources: {{requests: {{cpu: 10m, memory: 8Mi}}}}
        env:
{variables}"
        )
    };
    let deployment = |number: usize| {
        let replicas = PODS / deployments;
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: many-{number}, namespace: bench}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: many-{number}}}}}
  template:
    metadata: {{labels: {{app: many-{number}}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: elsewhere}}
      containers:
{}{}",
            container(number, "web"),
            container(number, "side")
        )
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n";
    std::fs::write(repo.join("namespace.yaml"), namespace).expect("a file");
    for number in 0..deployments {
        let file = repo.join(format!("many-{number}.yaml"));
        std::fs::write(file, deployment(number)).expect("a file");
    }
    sh(Command::new("git").args(["init", "-q", "-b", "main"]).arg(repo));
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=Bench", "-c", "user.email=bench@example.invalid"];
        sh(Command::new("git").arg("-C").arg(repo).args(identity).args(arguments));
    };
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "many"]);
}

fn sh(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
