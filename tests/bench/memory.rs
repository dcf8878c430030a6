//! What the daemon's process keeps with 10,000 pods of 5.5 kB, made by its own controllers of one
//! commit: a Deployment of as many replicas that select a node which is not there. Engine there is
//! none, so that what is counted is the cluster's state and not 10,000 containers. In a network
//! namespace of its own; needs root.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;

use crate::api::client::Client;
use crate::process::{huge_pages, peak_mb, resident_mb};
use crate::report::Report;

const PODS: usize = 10_000;
/// Of a stored pod.
const BYTES: std::ops::RangeInclusive<usize> = 5_300..=5_700;
/// Environment variables of its two containers: they make the size.
const VARIABLES: usize = 32;
/// For the writes that follow the last pod to be over, and for garbage to be given back.
const SETTLING: Duration = Duration::from_secs(15);
/// Nothing that works takes this long.
const PATIENCE: Duration = Duration::from_secs(240);

pub fn run(report: &mut Report) {
    let rows = thread::spawn(|| {
        // SAFETY: NEWNET leaves the table of open files shared, which is what could go wrong.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("the memory benchmark needs root");
        sh(Command::new("ip").args(["link", "set", "lo", "up"]));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(measure())
    });
    for (row, megabytes) in rows.join().expect("a measurement does not panic") {
        report.sample(&format!("{row}, huge pages {}", huge_pages()), "MB", megabytes);
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

async fn measure() -> Vec<(&'static str, f64)> {
    let folder = tempfile::tempdir_in(".").expect("a folder on this disk");
    let repo = folder.path().join("repo");
    write_repository(&repo);
    let log = std::fs::File::create(folder.path().join("ballast.log")).expect("a log");
    let daemon = Command::new(env!("CARGO_BIN_EXE_ballast"))
        .arg("run")
        .arg(&repo)
        .args(["--node-name", "bench", "--docker"])
        .arg(format!("unix://{}", folder.path().join("no-engine.sock").display()))
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .spawn()
        .expect("ballast starts");
    let daemon = Daemon(daemon);
    let pid = daemon.0.id();
    let address: SocketAddr = "127.0.0.1:7440".parse().expect("an address");
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "{}", told(folder.path()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut rows = vec![("resident, nothing applied yet", resident_mb(pid))];
    let mut client = Client::connect(address).await;
    while count(&mut client).await < PODS {
        assert!(begun.elapsed() < PATIENCE, "{}", told(folder.path()));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(SETTLING).await;
    rows.push(("resident, 10,000 pods", resident_mb(pid)));
    rows.push(("most so far", peak_mb(pid)));
    // The one from before was idle for too long and is closed.
    let mut client = Client::connect(address).await;
    let list = client.get("/api/v1/pods", &[]).await;
    assert!(BYTES.contains(&(list.bytes / PODS)), "a pod is {} bytes", list.bytes / PODS);
    rows.push(("resident, after a list of all", resident_mb(pid)));
    for table in ["", "?limit=500"] {
        let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        client.get(&format!("/api/v1/pods{table}"), &accept).await;
    }
    rows.push(("resident, after a table of all", resident_mb(pid)));
    tokio::time::sleep(SETTLING).await;
    rows.push(("resident, 15 s later", resident_mb(pid)));
    rows.push(("most ever", peak_mb(pid)));
    rows.push(("the pods' own bytes", list.bytes as f64 / f64::from(1 << 20)));
    rows
}

/// How many pods there are.
async fn count(client: &mut Client) -> usize {
    let request = Request::get("/api/v1/pods?limit=1").body(Body::empty()).expect("a request");
    let (_, _, bytes) = client.whole(request).await;
    let list: serde_json::Value = serde_json::from_slice(&bytes).expect("a list");
    let remaining = list["metadata"]["remainingItemCount"].as_u64().unwrap_or_default() as usize;
    remaining + list["items"].as_array().map_or(0, Vec::len)
}

fn told(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("ballast.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

fn write_repository(repo: &Path) {
    std::fs::create_dir_all(repo).expect("a folder");
    let variables: String = (0..VARIABLES)
        .map(|n| {
            format!("        - {{name: SETTING_{n:02}, value: value-of-setting-{n:02}-for-web}}\n")
        })
        .collect();
    let container = |name: &str| {
        format!(
            "      - name: {name}
        image: registry.example/team/web:v1.27.3
        resources: {{requests: {{cpu: 10m, memory: 8Mi}}}}
        env:
{variables}"
        )
    };
    let text = format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: bench}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: many, namespace: bench}}
spec:
  replicas: {PODS}
  selector: {{matchLabels: {{app: many}}}}
  template:
    metadata: {{labels: {{app: many}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: elsewhere}}
      containers:
{}{}",
        container("web"),
        container("side")
    );
    std::fs::write(repo.join("many.yaml"), text).expect("a file");
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
