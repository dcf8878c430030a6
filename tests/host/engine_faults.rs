//! dockerd is killed, stopped, restarted and hung under a running daemon: it is noticed and said, no
//! status is invented meanwhile, nothing is made twice, and all is back when it is. And what containers
//! leave on the engine's disk stays within bounds.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Daemon, Engine, Repo, await_that, run};
use crate::whole_path::members;

/// A shop that is open, and its members.
fn opened<'e>(engine: &'e Engine, repo: &Repo) -> (Daemon<'e>, Vec<String>) {
    let daemon = Daemon::start(engine, &[&repo.dir.to_string_lossy()]);
    open(&daemon);
    let before = members(engine);
    (daemon, before)
}

fn open(daemon: &Daemon<'_>) {
    daemon.rolled_out("shop", "api");
    daemon.rolled_out("shop", "web");
}

/// A condition of the node, as `status reason message`.
fn node_says(daemon: &Daemon<'_>, kind: &str) -> String {
    let found = format!(".status.conditions[?(@.type=='{kind}')]");
    let path = format!("jsonpath={{{found}.status}} {{{found}.reason}} {{{found}.message}}");
    daemon.kubectl(&["get", "node", "node-1", "-o", &path])
}

fn await_node(daemon: &Daemon<'_>, kind: &str, says: &str) {
    await_that(&format!("{kind} is {says:?}"), daemon, || {
        let said = node_says(daemon, kind);
        if said.starts_with(says) { Ok(()) } else { Err(said) }
    });
}

const DOWN: &str = "False KubeletNotReady container runtime is down: ";
const UP: &str = "True KubeletReady kubelet is posting ready status";

/// Every pod's name and status.
fn statuses(daemon: &Daemon<'_>) -> Vec<(Value, Value)> {
    let text = daemon.kubectl(&["get", "pods", "-A", "-o", "json"]);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let pods = list["items"].as_array().expect("a list").iter();
    pods.map(|pod| (pod["metadata"]["name"].clone(), pod["status"].clone())).collect()
}

/// What runs for pods, as the engine's name without its attempt; none of it twice. A spare sandbox is
/// nobody's until a pod's name is given to it.
fn running_once(engine: &Engine) -> BTreeSet<String> {
    let all = engine.ours("{{.State}} {{.Names}}");
    let names = all.iter().filter_map(|line| line.strip_prefix("running "));
    let running: Vec<String> = names
        .filter(|name| !name.contains("_SPARE_"))
        .map(|name| name.rsplit_once('_').expect("an attempt at its end").0.to_owned())
        .collect();
    let once: BTreeSet<String> = running.iter().cloned().collect();
    assert_eq!(once.len(), running.len(), "something runs twice: {running:?}");
    once
}

#[test]
fn a_dockerd_that_is_killed_under_live_restore_costs_no_container() {
    let engine = Engine::with_images();
    let repo = Repo::of_example(&engine.dir.join("repo"));
    let (daemon, before) = opened(&engine, &repo);
    await_node(&daemon, "LiveRestore", "True LiveRestoreEnabled ");
    let told = statuses(&daemon);
    for signal in ["KILL", "TERM"] {
        engine.signal(signal);
        await_node(&daemon, "Ready", DOWN);
        assert_eq!(statuses(&daemon), told, "nobody knows better than before");
        engine.start_dockerd();
        await_node(&daemon, "Ready", UP);
        open(&daemon);
        assert_eq!(members(&engine), before, "nothing was restarted after {signal}");
    }
    // What is asked for from now on is done.
    repo.replace("web.yaml", "replicas: 3", "replicas: 4");
    repo.commit("One more");
    await_that("there is one more", &daemon, || {
        let now = running_once(&engine).len();
        // A pod is a sandbox and a container.
        if now == 2 * (before.len() + 1) { Ok(()) } else { Err(now) }
    });
    assert!(before.iter().all(|line| members(&engine).contains(line)));
}

#[test]
fn without_live_restore_the_node_says_so_and_all_comes_back_once() {
    let engine = Engine::without_live_restore();
    let repo = Repo::of_example(&engine.dir.join("repo"));
    let (daemon, before) = opened(&engine, &repo);
    await_node(&daemon, "LiveRestore", "False LiveRestoreDisabled every container stops when");
    assert!(node_says(&daemon, "LiveRestore").contains("\"live-restore\": true"));
    let told = statuses(&daemon);
    engine.signal("KILL");
    await_node(&daemon, "Ready", DOWN);
    assert_eq!(statuses(&daemon), told, "nobody knows better than before");
    engine.start_dockerd();
    await_node(&daemon, "Ready", UP);
    await_that("every container runs again", &daemon, || {
        let now = running_once(&engine);
        if now.len() == 2 * before.len() { Ok(()) } else { Err(now) }
    });
    open(&daemon);
    let names = |pods: &[(Value, Value)]| pods.iter().map(|(name, _)| name.clone()).collect();
    let (were, are): (Vec<Value>, Vec<Value>) = (names(&told), names(&statuses(&daemon)));
    assert_eq!(were, are, "the pods are the same: their containers were made anew");
}

#[test]
fn a_dockerd_that_hangs_is_noticed_and_nothing_is_made_twice_when_it_goes_on() {
    let engine = Engine::with_images();
    let repo = Repo::of_example(&engine.dir.join("repo"));
    let (daemon, before) = opened(&engine, &repo);
    let told = statuses(&daemon);
    engine.signal("STOP");
    await_node(&daemon, "Ready", DOWN);
    assert_eq!(statuses(&daemon), told, "nobody knows better than before");
    repo.replace("web.yaml", "replicas: 3", "replicas: 5");
    repo.commit("Two more");
    await_that("the commit is in the store", &daemon, || {
        let path = "jsonpath={.spec.replicas}";
        let replicas = daemon.kubectl(&["get", "deploy", "-n", "shop", "web", "-o", path]);
        if replicas == "5" { Ok(()) } else { Err(replicas) }
    });
    engine.signal("CONT");
    await_node(&daemon, "Ready", UP);
    await_that("there are two more", &daemon, || {
        let now = running_once(&engine).len();
        if now == 2 * (before.len() + 2) { Ok(()) } else { Err(now) }
    });
    open(&daemon);
    assert!(before.iter().all(|line| members(&engine).contains(line)), "nothing was restarted");
}

/// An image of nothing but busybox.
fn import_busybox(engine: &Engine, reference: &str) {
    let dir = engine.dir.join("busybox");
    std::fs::create_dir_all(dir.join("bin")).expect("a directory");
    run(std::process::Command::new("cp").arg("/bin/busybox").arg(dir.join("bin/busybox")));
    let archive = engine.dir.join("busybox.tar");
    let archive = archive.to_string_lossy();
    run(std::process::Command::new("tar").arg("-C").arg(&dir).args(["-cf", &*archive, "bin"]));
    engine.docker(&["import", "-c", "ENTRYPOINT [\"/bin/busybox\"]", &archive, reference]);
}

fn bytes_below(directory: &Path) -> u64 {
    let text = run(std::process::Command::new("du").args(["-sb"]).arg(directory));
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("du")
}

#[test]
fn a_gigabyte_of_logs_keeps_fifty_mebibytes_and_ends_leave_one_dead_container_each() {
    let engine = Engine::start();
    import_busybox(&engine, "busybox:v1");
    let repo = Repo::new(&engine.dir.join("repo"));
    let says = "/bin/busybox head -c 1073741824 /dev/zero | /bin/busybox tr '\\000' x; echo said; exec /bin/busybox sleep 3600";
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: chatty}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: web\n    image: busybox:v1\n    args: [sh, -c, {says:?}]\n  - name: short\n    image: busybox:v1\n    args: [sleep, '1']\n"
    );
    repo.write("pod.yaml", &pod);
    repo.commit("Much to say");
    let daemon = Daemon::start(&engine, &[&repo.dir.to_string_lossy()]);
    await_that("all is said", &daemon, || {
        let output = daemon.try_kubectl(&["logs", "chatty", "-c", "web", "--tail", "1"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.trim_end().ends_with("said") { Ok(()) } else { Err(text.len()) }
    });
    let kept = bytes_below(&engine.dir.join("docker/containers"));
    assert!(kept < 64 << 20, "{kept} bytes of logs are kept");

    // A container that ends again and again: the one that runs or waits, and the one before.
    await_that("it ended three times", &daemon, || {
        let path = "jsonpath={.status.containerStatuses[?(@.name=='short')].restartCount}";
        let restarts = daemon.kubectl(&["get", "pod", "chatty", "-o", path]);
        if restarts.parse().is_ok_and(|count: u32| count >= 2) { Ok(()) } else { Err(restarts) }
    });
    await_that("two instances are left", &daemon, || {
        let mut all = engine.ours("{{.Label \"ballast.dev/container\"}} {{.Names}}");
        all.retain(|line| line.starts_with("short "));
        if all.len() == 2 { Ok(()) } else { Err(all) }
    });
    daemon.kubectl(&["logs", "chatty", "-c", "short", "--previous"]);
}
