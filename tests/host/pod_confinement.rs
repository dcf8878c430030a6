//! How pods are confined, as the processes inside see it: users, groups, capabilities, profiles, kernel
//! parameters, host namespaces, resolvers and a bound of processes. Both keys are asked for on the way.

use std::fs;
use std::process::Command;

use crate::harness::{Daemon, Engine, Repo, await_that, run};

/// What the containers are made of: programs of this machine, with their libraries.
const PROGRAMS: [&str; 9] =
    ["sh", "cat", "id", "sleep", "seq", "mkdir", "touch", "readlink", "grep"];

/// One image whose user is root, one whose is a number, one whose is a name.
fn make_images(engine: &Engine) {
    let folder = engine.dir.join("probe");
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).expect("a folder");
    for program in PROGRAMS {
        let found =
            run(Command::new("sh").args(["-c", &format!("readlink -f $(which {program})")]));
        let path = found.trim();
        run(Command::new("cp").arg(path).arg(bin.join(program)));
        for library in run(Command::new("ldd").arg(path)).split_whitespace() {
            if library.starts_with('/') {
                run(Command::new("cp").args(["-L", "--parents", library]).arg(&folder));
            }
        }
    }
    for path in ["tmp", "etc"] {
        fs::create_dir_all(folder.join(path)).expect("a folder");
    }
    fs::write(folder.join("etc/passwd"), "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
        .expect("the users");
    let archive = engine.dir.join("probe.tar");
    run(Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&archive).arg("."));
    let archive = archive.to_string_lossy();
    for (tag, user) in [("root", ""), ("number", "USER 1000:1000"), ("name", "USER app")] {
        let image = format!("ballast.example/probe:{tag}");
        let mut arguments = vec!["import", "-c", "ENV PATH=/bin"];
        if !user.is_empty() {
            arguments.extend(["-c", user]);
        }
        arguments.extend([&*archive, &*image]);
        engine.docker(&arguments);
    }
}

/// A pod that says what it sees and ends; `more` are lines of its spec, `own` of its container.
fn pod(namespace: &str, name: &str, image: &str, script: &str, more: &str, own: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
{more}  containers:
  - name: c
    image: ballast.example/probe:{image}
    command: [sh, -c, {script:?}]
{own}---
"
    )
}

fn spec(line: &str) -> String {
    format!("  {line}\n")
}

fn own(line: &str) -> String {
    format!("    {line}\n")
}

const NAMESPACES: &str = "apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Namespace
metadata:
  name: open
  labels: {pod-security.kubernetes.io/enforce: privileged}
---
";

const STATUS: &str = "id; grep -E 'NoNewPrivs|Cap|Seccomp:' /proc/self/status";

/// What a pod printed, once it has ended.
fn said(daemon: &Daemon<'_>, namespace: &str, name: &str) -> String {
    await_that(&format!("{namespace}/{name} has ended"), daemon, || {
        let phase = daemon.kubectl(&[
            "get",
            "pod",
            "-n",
            namespace,
            name,
            "-o",
            "jsonpath={.status.phase}",
        ]);
        if phase == "Succeeded" || phase == "Failed" { Ok(()) } else { Err(phase) }
    });
    daemon.kubectl(&["logs", "-n", namespace, name])
}

/// Why a pod's container waits.
fn waits(daemon: &Daemon<'_>, namespace: &str, name: &str) -> String {
    let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}";
    await_that(&format!("{namespace}/{name} waits"), daemon, || {
        let state = daemon.kubectl(&["get", "pod", "-n", namespace, name, "-o", path]);
        if state.starts_with("CreateContainer") { Ok(state) } else { Err(state) }
    })
}

fn assert_says(said: &str, wanted: &[&str]) {
    for words in wanted {
        assert!(said.contains(words), "{words:?} in {said}");
    }
}

#[test]
fn a_process_is_what_its_manifest_and_its_image_say() {
    let engine = Engine::start();
    make_images(&engine);
    let repo = Repo::new(&engine.dir.join("repo"));
    let resolver = spec("dnsPolicy: None")
        + &spec(
            "dnsConfig: {nameservers: [192.0.2.53], searches: [a.example, b.example], options: [{name: ndots, value: '3'}]}",
        );
    let all = [
        NAMESPACES.to_owned(),
        pod(
            "plain",
            "ids",
            "root",
            STATUS,
            &spec(
                "securityContext: {runAsUser: 1234, runAsGroup: 5678, supplementalGroups: [42, 43]}",
            ),
            "",
        ),
        pod(
            "plain",
            "image-user",
            "number",
            "id",
            &spec("securityContext: {runAsNonRoot: true, runAsGroup: 77}"),
            "",
        ),
        pod(
            "plain",
            "root-refused",
            "root",
            "id",
            &spec("securityContext: {runAsNonRoot: true}"),
            "",
        ),
        pod(
            "plain",
            "name-refused",
            "name",
            "id",
            "",
            &own("securityContext: {runAsNonRoot: true}"),
        ),
        pod(
            "plain",
            "strict",
            "root",
            &format!("{STATUS}; touch /x"),
            "",
            &own(
                "securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}",
            ),
        ),
        pod("plain", "loose", "root", STATUS, "", ""),
        pod(
            "plain",
            "sysctl",
            "root",
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
            &spec(
                "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '8'}]}",
            ),
            "",
        ),
        pod(
            "plain",
            "filtered",
            "root",
            "mkdir /tmp/x; id",
            "",
            &own(
                "securityContext: {seccompProfile: {type: Localhost, localhostProfile: no/mkdir.json}}",
            ),
        ),
        pod(
            "plain",
            "unfiltered",
            "root",
            "id",
            "",
            &own(
                "securityContext: {seccompProfile: {type: Localhost, localhostProfile: none.json}}",
            ),
        ),
        pod("plain", "resolver", "root", "cat /etc/resolv.conf", &resolver, ""),
    ];
    repo.write("pods.yaml", &all.concat());
    repo.commit("The confined");
    let daemon = Daemon::prepared(&engine, &[&repo.dir.to_string_lossy()]);
    let profiles = daemon.data_dir.join("seccomp/no");
    fs::create_dir_all(&profiles).expect("the folder of profiles");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(profiles.join("mkdir.json"), profile).expect("a profile");
    let mut daemon = daemon;
    daemon.spawn();
    daemon.ready();

    let plain = |name: &str| said(&daemon, "plain", name);
    assert_says(
        &plain("ids"),
        &["uid=1234 gid=5678", "groups=5678,42,43", "CapEff:\t0000000000000000"],
    );
    assert_says(&plain("image-user"), &["uid=1000", "gid=77"]);
    assert_says(
        &waits(&daemon, "plain", "root-refused"),
        &[
            "CreateContainerConfigError: container has runAsNonRoot and image will run as root (pod: \"root-refused_plain(",
        ],
    );
    assert_says(
        &waits(&daemon, "plain", "name-refused"),
        &[
            "CreateContainerConfigError: container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: ",
        ],
    );
    // NET_BIND_SERVICE is capability 10.
    assert_says(
        &plain("strict"),
        &[
            "uid=0",
            "NoNewPrivs:\t1",
            "CapEff:\t0000000000000400",
            "CapBnd:\t0000000000000400",
            "Seccomp:\t2",
        ],
    );
    let path = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    let code = daemon.kubectl(&["get", "pod", "-n", "plain", "strict", "-o", path]);
    assert_eq!(code, "1", "nothing is written into a root that is read-only");
    assert_says(
        &plain("loose"),
        &["uid=0", "NoNewPrivs:\t0", "CapEff:\t00000000a80425fb", "Seccomp:\t2"],
    );
    assert_eq!(plain("sysctl").trim(), "8");
    assert_says(&plain("filtered"), &["uid=0", "Operation not permitted"]);
    assert_says(
        &waits(&daemon, "plain", "unfiltered"),
        &[
            "CreateContainerConfigError: cannot load seccomp profile \"",
            "/seccomp/none.json\": No such file",
        ],
    );
    // Our bridge network has the engine's own server in between.
    let resolver = plain("resolver");
    assert_says(&resolver, &["nameserver ", "search a.example b.example", "ndots:3"]);
    daemon.stop();
}

#[test]
fn what_is_the_hosts_is_had_with_both_keys_only() {
    let engine = Engine::start();
    make_images(&engine);
    let repo = Repo::new(&engine.dir.join("repo"));
    let namespaces = "for kind in net pid ipc; do readlink /proc/self/ns/$kind; done";
    let host = spec("hostNetwork: true") + &spec("hostPID: true") + &spec("hostIPC: true");
    let files = engine.dir.join("files");
    fs::create_dir_all(&files).expect("a folder");
    fs::write(files.join("note"), "from the host").expect("a file");
    std::os::unix::fs::symlink("/root", files.join("away")).expect("a link");
    let mount = |path: &str| {
        spec(&format!("volumes: [{{name: v, hostPath: {{path: {}}}}}]", files.join(path).display()))
    };
    let mounted = own("volumeMounts: [{name: v, mountPath: /v}]");
    let somaxconn = spec("securityContext: {sysctls: [{name: net.core.somaxconn, value: '99'}]}");
    let all = [
        NAMESPACES.to_owned(),
        pod("open", "host", "root", namespaces, &host, ""),
        pod("open", "privileged", "root", STATUS, "", &own("securityContext: {privileged: true}")),
        pod(
            "open",
            "unconfined",
            "root",
            STATUS,
            "",
            &own("securityContext: {seccompProfile: {type: Unconfined}}"),
        ),
        pod(
            "open",
            "admin",
            "root",
            STATUS,
            "",
            &own("securityContext: {capabilities: {add: [NET_ADMIN]}}"),
        ),
        pod("open", "unsafe", "root", "cat /proc/sys/net/core/somaxconn", &somaxconn, ""),
        pod("open", "mounting", "root", "cat /v/note", &mount("."), &mounted),
        pod("open", "leading-away", "root", "cat /v/note", &mount("away"), &mounted),
    ];
    repo.write("pods.yaml", &all.concat());
    repo.commit("The open");
    let path = repo.dir.to_string_lossy().into_owned();
    let mut daemon = Daemon::start(&engine, &[&path]);
    let problems = await_that("the commit is refused", &daemon, || {
        let text = daemon.kubectl(&[
            "get",
            "source",
            "main",
            "-o",
            "jsonpath={.status.problems[*].message}",
        ]);
        if text.is_empty() { Err(text) } else { Ok(text) }
    });
    assert_says(&problems, &["the daemon does not allow namespace \"open\" the host's network"]);
    assert_eq!(engine.ours("{{.ID}}"), Vec::<String>::new(), "nothing of it runs");
    daemon.stop();

    let allow_path = format!("open:{}", files.display());
    let mut daemon = Daemon::start(
        &engine,
        &[
            &path,
            "--allow-privileged",
            "open",
            "--allow-host-namespaces",
            "open",
            "--allow-sysctl",
            "open:net.core.*",
            "--allow-host-path",
            &allow_path,
        ],
    );
    let open = |name: &str| said(&daemon, "open", name);
    let of_engine = run(engine.inside("readlink").arg("/proc/self/ns/net"));
    let own_namespace = |kind: &str| {
        fs::read_link(format!("/proc/self/ns/{kind}")).expect("a link").display().to_string()
    };
    assert_says(&open("host"), &[of_engine.trim(), &own_namespace("pid"), &own_namespace("ipc")]);
    let ips = "jsonpath={.status.podIP} {.status.hostIP}";
    let ips = daemon.kubectl(&["get", "pod", "-n", "open", "host", "-o", ips]);
    let (pod_ip, host_ip) = ips.split_once(' ').expect("two addresses");
    assert!(!pod_ip.is_empty() && pod_ip == host_ip, "{ips}");
    // A host that has not every capability itself starts no such container; it is asked for one.
    await_that("open/privileged has ended", &daemon, || {
        let arguments =
            ["get", "pod", "-n", "open", "privileged", "-o", "jsonpath={.status.phase}"];
        let phase = daemon.kubectl(&arguments);
        if phase == "Succeeded" || phase == "Failed" { Ok(()) } else { Err(phase) }
    });
    let of_pod = ["label=ballast.dev/pod-name=privileged", "label=ballast.dev/kind=container"];
    let id = engine.docker(&["ps", "-aq", "--filter", of_pod[0], "--filter", of_pod[1]]);
    let inspected = engine.docker(&["inspect", "-f", "{{.HostConfig.Privileged}}", id.trim()]);
    assert_eq!(inspected.trim(), "true");
    assert_says(&open("unconfined"), &["Seccomp:\t0", "CapEff:\t00000000a80425fb"]);
    // NET_ADMIN is capability 12.
    assert_says(&open("admin"), &["CapEff:\t00000000a80435fb"]);
    assert_eq!(open("unsafe").trim(), "99");
    assert_eq!(open("mounting").trim(), "from the host");
    let away = waits(&daemon, "open", "leading-away");
    assert_says(&away, &["it leads to /root, which the daemon does not allow namespace \"open\""]);
    daemon.stop();
}

#[test]
fn a_fork_bomb_ends_at_the_bound_and_harms_nobody() {
    let engine = Engine::start();
    make_images(&engine);
    let repo = Repo::new(&engine.dir.join("repo"));
    let bomb = "for i in $(seq 400); do sleep 600 & done; sleep 600";
    let all = [
        NAMESPACES.to_owned(),
        pod("plain", "bomb", "root", bomb, "", "").replace("Never", "Always"),
        pod("plain", "neighbour", "root", "id; echo still here", "", ""),
    ];
    repo.write("pods.yaml", &all.concat());
    repo.commit("A bomb");
    let path = repo.dir.to_string_lossy().into_owned();
    let mut daemon = Daemon::start(&engine, &[&path, "--pids-limit", "64"]);
    await_that("the bomb meets its bound", &daemon, || {
        let logs = ["logs", "-n", "plain", "bomb"];
        let before = ["logs", "-n", "plain", "bomb", "--previous"];
        let mut text = String::new();
        for arguments in [&logs[..], &before[..]] {
            let output = daemon.try_kubectl(arguments);
            text.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        if text.contains("fork") { Ok(()) } else { Err(text) }
    });
    assert_says(&said(&daemon, "plain", "neighbour"), &["uid=0", "still here"]);
    let ids = engine.docker(&["ps", "-aq", "--filter", "label=ballast.dev/container=c"]);
    for id in ids.split_whitespace() {
        let limit = engine.docker(&["inspect", "-f", "{{.HostConfig.PidsLimit}}", id]);
        assert_eq!(limit.trim(), "64");
    }
    daemon.stop();
}
