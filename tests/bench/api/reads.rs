//! GET, LIST, pages, gzip and kubectl.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::MANY;
use super::client::Client;
use super::ground::Ground;
use super::pods::key;
use crate::report::Report;

const ROUNDS: usize = 7;
/// GETs of one round: p99 is to mean something.
const GETS: usize = 1000;
/// Pages of one round.
const PAGES: usize = 10;
/// What kubectl asks for.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const GZIP: (&str, &str) = ("accept-encoding", "gzip");
const LIST: &str = "/api/v1/pods";
const PAGE: &str = "/api/v1/pods?limit=500";

/// A request that is asked so many times a round.
struct Row {
    title: String,
    uri: String,
    headers: Vec<(&'static str, &'static str)>,
    times: usize,
}

pub async fn run(ground: &Ground) {
    for row in rows() {
        let mut report = Report::against_first(&row.title);
        let mut bytes = [0, 0];
        for round in 0..=ROUNDS {
            for (index, (who, address)) in contenders(ground).into_iter().enumerate() {
                let mut client = Client::connect(address).await;
                for _ in 0..row.times {
                    let answer = client.get(&row.uri, &row.headers).await;
                    bytes[index] = answer.bytes;
                    // The first round warms up, and tells the floor what to say.
                    if round > 0 {
                        report.milliseconds(who, [answer.took]);
                    }
                }
            }
        }
        // Ages in a Table grow by a digit meanwhile.
        assert!(bytes[0].abs_diff(bytes[1]) * 100 < bytes[0], "the floor says the same: {bytes:?}");
        report.print();
        println!("\n{} bytes an answer.", bytes[0]);
    }
    kubectl(ground).await;
}

fn contenders(ground: &Ground) -> [(&'static str, SocketAddr); 2] {
    [("floor", ground.floor), ("Ballast", ground.ours)]
}

fn rows() -> Vec<Row> {
    let one = key(MANY / 2);
    let one = format!("/api/v1/namespaces/{}/pods/{}", one.namespace, one.name);
    let row = |title: &str, uri: &str, headers: &[(&'static str, &'static str)], times| Row {
        title: format!("{title}, of {MANY} pods"),
        uri: uri.to_owned(),
        headers: headers.to_vec(),
        times,
    };
    vec![
        row("GET one", &one, &[], GETS),
        row("LIST all", LIST, &[], 3),
        row("LIST limit=500", PAGE, &[], PAGES),
        row("LIST all, gzip", LIST, &[GZIP], 1),
        row("LIST limit=500, gzip", PAGE, &[GZIP], PAGES),
        row("Table of all", LIST, &[("accept", TABLE)], 1),
        row("Table limit=500, gzip", PAGE, &[("accept", TABLE), GZIP], PAGES),
    ]
}

/// From its start to its end, with discovery cached as it is from the second call on.
async fn kubectl(ground: &Ground) {
    let Some(program) = newest() else {
        println!("\nno kubectl here: `kubectl get pods -A` was not measured");
        return;
    };
    let mut report = Report::against_first("kubectl get pods -A, wall time");
    let home = tempfile::tempdir().expect("a folder for kubectl's cache");
    for round in 0..=ROUNDS {
        for (who, address) in contenders(ground) {
            let took = get_pods(&program, home.path(), address);
            if round > 0 {
                report.milliseconds(who, [took]);
            }
        }
    }
    report.print();
}

fn get_pods(program: &Path, home: &Path, address: SocketAddr) -> Duration {
    let mut command = Command::new(program);
    command.env("HOME", home).env("KUBECONFIG", "/dev/null").stdout(Stdio::piped());
    command.args(["--server", &format!("http://{address}"), "get", "pods", "-A"]);
    let begun = Instant::now();
    let output = command.output().expect("kubectl starts");
    let took = begun.elapsed();
    let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, MANY + 1, "{}", String::from_utf8_lossy(&output.stderr));
    took
}

/// The newest kubectl of this machine.
fn newest() -> Option<PathBuf> {
    let found = Command::new("find")
        .args(["/usr", "/opt", "-name", "kubectl*", "-type", "f", "-perm", "-u+x"])
        .output()
        .ok()?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    let version = |program: &PathBuf| {
        let output = Command::new(program).args(["version", "--client", "-o", "json"]).output();
        let told: serde_json::Value = serde_json::from_slice(&output.ok()?.stdout).ok()?;
        // A dispatcher only starts another one: it is not the newest of anything.
        let text = told["clientVersion"]["gitVersion"].as_str().filter(|v| !v.contains("disp"))?;
        let mut numbers = text.trim_start_matches('v').split('.').map(|part| part.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    let programs = found.lines().map(PathBuf::from);
    let known = programs.filter_map(|program| Some((version(&program)?, program)));
    known.max_by_key(|(version, _): &((u32, u32), PathBuf)| *version).map(|(_, program)| program)
}
