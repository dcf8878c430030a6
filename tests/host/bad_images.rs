//! Images that misbehave, all at once beside a neighbour: each ends in the state and the Event that
//! Kubernetes documents for it, the neighbour notices nothing, the daemon's memory stays flat.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::documentation::with_images;
use crate::harness::{Daemon, Engine, Repo, await_that};

/// Bytes that the daemon may grow by while nothing but bad images keeps it busy.
const GROWTH: f64 = 16.0 * 1024.0 * 1024.0;
const BUSY: Duration = Duration::from_secs(40);

const NEIGHBOUR: &str = "
apiVersion: v1
kind: Namespace
metadata:
  name: bad
  labels: {pod-security.kubernetes.io/enforce: privileged}
---
apiVersion: v1
kind: Pod
metadata: {name: neighbour, namespace: bad}
spec:
  containers:
  - name: web
    image: busybox:1.28
    command: [sh, -c, 'dd if=/dev/zero of=/dev/shm/held bs=1M count=40; exec sleep 3600']
    readinessProbe:
      exec: {command: [test, -e, /dev/shm/held]}
      periodSeconds: 1
";

/// A pod of one container.
fn pod(name: &str, image: &str, script: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: bad}}\nspec:\n  \
         terminationGracePeriodSeconds: 2\n  containers:\n  - name: c\n    image: {image}\n    \
         command: [sh, -c, {script:?}]\n{more}---\n"
    )
}

fn bad_pods() -> String {
    let image = "busybox:1.28";
    let port = "    ports:\n    - {containerPort: 80, hostPort: 8090}\n";
    let bound = "    resources: {limits: {ephemeral-storage: 16Mi}}\n";
    let key =
        "    env:\n    - name: KEY\n      valueFrom: {configMapKeyRef: {name: none, key: none}}\n";
    let fill = "dd if=/dev/zero of=/fill bs=1M count=200; sleep 3600";
    [
        pod("missing", "127.0.0.1:9/nothing:1", "true", ""),
        pod("ends", image, "exit 3", ""),
        pod("fills", image, fill, bound),
        pod(
            "bomb",
            image,
            "for i in 1 2 3 4 5 6 7 8 9; do (while true; do sleep 9 & done) & done; wait",
            "",
        ),
        pod("chatty", image, "dd if=/dev/zero bs=1M count=100 | tr '\\000' x; exec sleep 3600", ""),
        pod("keyless", image, "true", key),
        pod("port-1", image, "sleep 3600", port),
        pod("port-2", image, "sleep 3600", port),
    ]
    .concat()
}

fn get(daemon: &Daemon<'_>, name: &str) -> Value {
    let text = daemon.kubectl(&["get", "pod", "-n", "bad", name, "-o", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

/// Waits until the pod's status holds these words, and its Events hold those.
fn await_state(daemon: &Daemon<'_>, name: &str, in_status: &str, in_events: &str) {
    await_that(&format!("{name} is {in_status}"), daemon, || {
        let status = get(daemon, name)["status"].to_string();
        let about = format!("involvedObject.name={name}");
        let events = daemon.kubectl(&["get", "events", "-n", "bad", "--field-selector", &about]);
        let told = status.contains(in_status) && events.contains(in_events);
        if told { Ok(()) } else { Err(format!("{status}\n{events}")) }
    });
}

fn resident(daemon: &Daemon<'_>) -> f64 {
    let text = daemon.curl("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let bytes = line.and_then(|bytes| bytes.trim().parse::<f64>().ok());
    bytes.expect("the daemon counts its memory")
}

fn mebibytes(text: &str) -> f64 {
    text.trim_end_matches("MiB").trim_end_matches("Mi").parse().expect("a size in MiB")
}

fn used_by_docker(engine: &Engine, id: &str) -> f64 {
    let told = engine.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", id]);
    mebibytes(told.split('/').next().expect("a size").trim())
}

#[test]
fn bad_images_get_their_state_and_harm_nobody() {
    let engine = with_images();
    let repo = Repo::new(&engine.dir.join("repo"));
    repo.write("neighbour.yaml", NEIGHBOUR);
    repo.commit("A neighbour");
    let path = repo.dir.to_string_lossy().into_owned();
    let flags = ["--pids-limit", "64", "--allow-host-ports", "bad:8090"];
    let daemon = Daemon::start(&engine, &[&[&*path][..], &flags].concat());
    await_state(&daemon, "neighbour", "\"ready\":true", "Started");
    repo.write("pods.yaml", &bad_pods());
    let deaf = "trap '' TERM; while true; do sleep 1; done";
    repo.write("deaf.yaml", &pod("deaf", "busybox:1.28", deaf, ""));
    repo.commit("Bad images");

    await_state(&daemon, "missing", "ImagePullBackOff", "Failed to pull image");
    await_state(&daemon, "ends", "CrashLoopBackOff", "Back-off restarting failed container");
    await_state(&daemon, "keyless", "CreateContainerConfigError", "configmap \"none\" not found");
    await_state(
        &daemon,
        "fills",
        "Evicted",
        "ephemeral local storage usage exceeds the total limit of containers 16Mi",
    );
    await_that("one of two has the port", &daemon, || {
        let pods = ["port-1", "port-2"].map(|name| get(&daemon, name)["status"].to_string());
        let runs = pods.iter().filter(|status| status.contains("\"ready\":true")).count();
        let waits = |status: &&String| status.contains("didn't have free ports");
        let waiting = pods.iter().filter(waits).count();
        if (runs, waiting) == (1, 1) { Ok(()) } else { Err(pods) }
    });
    await_that("the bomb meets its bound", &daemon, || {
        let mut text = String::new();
        for previous in ["--previous=false", "--previous=true"] {
            let output = daemon.try_kubectl(&["logs", "-n", "bad", "bomb", previous]);
            text.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        if text.contains("fork") { Ok(()) } else { Err(text) }
    });

    // All of that goes on for a while.
    let before = resident(&daemon);
    std::thread::sleep(BUSY);
    let after = resident(&daemon);
    assert!(after < before + GROWTH, "{before} bytes became {after}");

    // `kubectl top` says what `docker stats` says.
    let neighbour = get(&daemon, "neighbour");
    let state = &neighbour["status"]["containerStatuses"][0];
    let id = state["containerID"].as_str().expect("it runs").trim_start_matches("docker://");
    await_that("top and stats agree", &daemon, || {
        let top = daemon.try_kubectl(&["top", "pod", "-n", "bad", "neighbour", "--no-headers"]);
        let top = String::from_utf8_lossy(&top.stdout).into_owned();
        let memory = top.split_whitespace().last().map_or(0.0, mebibytes);
        let stats = used_by_docker(&engine, id);
        // The pod's sandbox is below one mebibyte.
        if memory >= 40.0 && (memory - stats).abs() < 3.0 { Ok(()) } else { Err((top, stats)) }
    });
    assert_eq!(state["restartCount"], 0, "{neighbour}");
    assert_eq!(state["ready"], true, "{neighbour}");

    // Who ignores SIGTERM is killed when its grace is over.
    fs::remove_file(repo.dir.join("deaf.yaml")).expect("it was written");
    repo.commit("It goes");
    await_that("it is gone", &daemon, || {
        let pods = daemon.kubectl(&["get", "pods", "-n", "bad", "-o", "name"]);
        if pods.contains("deaf") { Err(pods) } else { Ok(()) }
    });
}
