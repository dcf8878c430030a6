//! `kubectl debug` on a real engine: a container more in a running pod, as an operator over TLS.

use std::io::Write;
use std::process::Stdio;

use crate::harness::{Daemon, Engine, Repo, await_that, kubectl};
use crate::streams::{IMAGE, make_image, text};

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: tools, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: ballast.example/tools:v1
    command: [sleep, '3601']
  - name: other
    image: ballast.example/tools:v1
    command: [sleep, '3602']
";

#[test]
fn kubectl_debug_puts_a_container_into_a_running_pod() {
    let engine = Engine::start();
    make_image(&engine);
    let repo = Repo::new(&engine.dir.join("repo"));
    repo.write("tools.yaml", POD);
    repo.write("more.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: more}}\n");
    repo.commit("Tools");
    let mut daemon = Daemon::start_for_operator(&engine, &repo);
    await_that("the pod is ready", &daemon, || {
        let waited =
            daemon.try_kubectl(&["wait", "--for=condition=Ready", "pod/tools", "--timeout=5s"]);
        if waited.status.success() { Ok(()) } else { Err(text(&waited.stderr)) }
    });
    let running = || {
        let mut all = engine.ours("{{.Label \"ballast.dev/container\"}} {{.ID}}");
        // Sandboxes have no container's name, and spare ones come and go.
        all.retain(|line| !line.starts_with(' '));
        all.sort();
        all
    };
    let before = running();

    // Beside the processes of its target, in the pod's network, and logged.
    let image = format!("--image={IMAGE}");
    let own = "cat /proc/1/cmdline; cat /etc/hostname; sleep 3600";
    let debug = ["debug", "tools", "-c", "look", &image, "--profile=baseline", "--target=shell"];
    daemon.kubectl(&[&debug[..], &["--", "sh", "-c", own]].concat());
    await_that("it looked", &daemon, || {
        let told = daemon.try_kubectl(&["logs", "tools", "-c", "look"]);
        let told = text(&told.stdout);
        if told.contains("3601") && told.contains("tools") { Ok(()) } else { Err(told) }
    });
    let seen = daemon.kubectl(&["exec", "tools", "-c", "look", "--", "cat", "/proc/1/cmdline"]);
    assert!(seen.contains("sleep") && seen.contains("3601"), "{seen}");
    let look = || {
        let all = running();
        let line = all.iter().find(|line| line.starts_with("look ")).cloned();
        line.unwrap_or_default().replace("look ", "")
    };
    let id = look();
    let inspected = |format: &str| engine.docker(&["inspect", "-f", format, &look()]);
    let network = inspected("{{.HostConfig.NetworkMode}} {{.HostConfig.IpcMode}}");
    let target = inspected("{{.HostConfig.PidMode}}");
    let shell = before.iter().find(|line| line.starts_with("shell ")).expect("it runs");
    assert!(target.contains(shell.trim_start_matches("shell ")), "{target} {shell}");
    assert_eq!(network.matches("container:").count(), 2, "{network}");

    // One that is spoken to, and that has ended for good.
    let script = "read line; echo heard $line; exit 3";
    let talk = ["debug", "tools", "-i", "-c", "talk", &image, "--profile=baseline"];
    let mut command = daemon.kubectl_command(&[&talk[..], &["--", "sh", "-c", script]].concat());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    writeln!(stdin, "one line").expect("written");
    let ended = child.wait_with_output().expect("it ends");
    assert!(text(&ended.stdout).contains("heard one line"), "{ended:?}");
    let state = |field: &str| {
        let path = format!(
            "jsonpath={{.status.ephemeralContainerStatuses[?(@.name==\"{field}\")].state}}"
        );
        daemon.kubectl(&["get", "pod", "tools", "-o", &path])
    };
    await_that("its end is told", &daemon, || {
        let told = state("talk");
        if told.contains("\"exitCode\":3") { Ok(()) } else { Err(told) }
    });
    let described = daemon.kubectl(&["describe", "pod", "tools"]);
    assert!(described.contains("Ephemeral Containers:"), "{described}");
    assert!(described.contains("ops added ephemeral container look"), "{described}");

    // In a terminal, which has the size of the one that kubectl runs in.
    let script = r#"until [ "$(stty size)" = "33 99" ]; do sleep 0.1; done; stty size; exit 5"#;
    let kubectl = format!(
        "stty rows 33 cols 99; {} debug tools -it -c term {image} --profile=baseline -- sh -c '{script}'",
        kubectl()
    );
    let mut command = engine.inside("script");
    command.args(["-qec", &kubectl, "/dev/null"]).stdin(Stdio::null());
    command.env("KUBECONFIG", daemon.kubeconfig().expect("an operator's"));
    let ended = command.output().expect("script starts");
    let told = text(&ended.stdout);
    assert!(told.contains("33 99"), "{told}");
    await_that("its end is told", &daemon, || {
        let told = state("term");
        if told.contains("\"exitCode\":5") { Ok(()) } else { Err(told) }
    });

    // An image that is nowhere, and what the namespace does not allow.
    let missing = "--image=ballast.example/no-such:v1";
    daemon.kubectl(&["debug", "tools", "-c", "lost", missing, "--profile=baseline"]);
    await_that("its pull fails", &daemon, || {
        let told = state("lost");
        let failed = told.contains("ErrImagePull") || told.contains("ImagePullBackOff");
        if failed { Ok(()) } else { Err(told) }
    });
    let refused = daemon.try_kubectl(&["debug", "tools", &image, "--profile=general"]);
    assert!(text(&refused.stderr).contains("violates PodSecurity"), "{refused:?}");
    let refused = daemon.try_kubectl(&["debug", "tools", &image, "--copy-to=copy"]);
    assert!(text(&refused.stderr).contains("changes through Git"), "{refused:?}");

    // The daemon dies and comes again: nothing is started, nothing is stopped.
    let all = running();
    daemon.kill();
    daemon.spawn();
    daemon.ready();
    await_that("it is known again", &daemon, || {
        let seen =
            daemon.try_kubectl(&["exec", "tools", "-c", "look", "--", "cat", "/proc/1/cmdline"]);
        if seen.status.success() { Ok(()) } else { Err(text(&seen.stderr)) }
    });
    assert_eq!(running(), all);
    assert_eq!(look(), id);
    for line in before {
        assert!(all.contains(&line), "{line} in {all:?}");
    }
    let restarts = "jsonpath={.status.containerStatuses[*].restartCount} {.status.conditions[?(@.type==\"Ready\")].status}";
    assert_eq!(daemon.kubectl(&["get", "pod", "tools", "-o", restarts]).trim(), "0 0 True");
    // A commit says the pod again: it stays with its pod.
    repo.replace("tools.yaml", "namespace: default}", "namespace: default, labels: {again: said}}");
    repo.commit("Said again");
    await_that("the commit is applied", &daemon, || {
        let told = text(&daemon.try_kubectl(&["get", "pods", "-l", "again=said"]).stdout);
        if told.contains("tools") { Ok(()) } else { Err(told) }
    });
    let spec = "jsonpath={.spec.ephemeralContainers[*].name}";
    assert_eq!(daemon.kubectl(&["get", "pod", "tools", "-o", spec]).trim(), "look talk term lost");
    assert_eq!(look(), id);

    // It goes with its pod.
    std::fs::remove_file(repo.dir.join("tools.yaml")).expect("removed");
    repo.commit("No tools");
    await_that("everything is gone", &daemon, || {
        let left = running();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    daemon.stop();
}
