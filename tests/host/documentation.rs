//! The pods of Kubernetes' documentation, pushed as they stand there: probes, init containers and
//! sidecars, hooks, security contexts, resources. Each says what its page says. The images are small
//! ones of the same names that do what the page needs of them; where a page has no tag they have one, for
//! without it a node asks the registry every time.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Daemon, Engine, Repo, await_that, run};

const PROGRAMS: [&str; 20] = [
    "sh", "sleep", "cat", "echo", "touch", "rm", "id", "ls", "ps", "kill", "killall", "mkdir",
    "dd", "httpd", "tail", "grep", "true", "stat", "test", "tr",
];

/// Answers on port 80 what is in nginx' folder, and ends on `nginx -s quit`.
const NGINX: &str = "#!/bin/sh\n\
    [ \"$1\" = -s ] && exec kill -QUIT 1\n\
    trap 'exit 0' QUIT TERM\n\
    mkdir -p /usr/share/nginx/html\n\
    httpd -f -p 80 -h /usr/share/nginx/html & wait\n";
/// `/healthz` is there for ten seconds.
const AGNHOST: &str = "#!/bin/sh\n\
    mkdir -p /www; echo ok > /www/healthz\n\
    httpd -f -p 8080 -h /www & sleep 10; rm /www/healthz; wait\n";
/// Takes as much memory as `--vm-bytes` says, and keeps running.
const STRESS: &str = "#!/bin/sh\n\
    while [ $# -gt 0 ]; do [ \"$1\" = --vm-bytes ] && bytes=$2; shift; done\n\
    dd if=/dev/zero of=/dev/null bs=$bytes count=1 || exit 1; exec sleep 3600\n";
/// The page that the manifest fetches, from no network.
const WGET: &str = "#!/bin/sh\necho '<title>the first page</title>' > \"$2\"\n";
/// Debian's busybox has none.
const PRINTENV: &str = "#!/bin/sh\neval \"echo \\\"\\$$1\\\"\"\n";
const SERVER: &str = "#!/bin/sh\nmkdir -p /www; exec httpd -f -p 8080 -h /www\n";

/// Programs of its own, how it starts, and under which names.
const IMAGES: [(&str, &str, &str, &[&str]); 5] = [
    ("nginx", NGINX, "ENTRYPOINT [\"nginx\"]", &["nginx:1.14.2"]),
    (
        "agnhost",
        AGNHOST,
        "ENTRYPOINT [\"agnhost\"]",
        &["registry.k8s.io/e2e-test-images/agnhost:2.40"],
    ),
    ("stress", STRESS, "CMD [\"sh\"]", &["polinux/stress:1.0"]),
    (
        "wget",
        WGET,
        "CMD [\"sh\"]",
        &["busybox:1.28", "registry.k8s.io/busybox:1.27.2", "alpine:3.19", "redis:5.0.4"],
    ),
    (
        "server",
        SERVER,
        "ENTRYPOINT [\"server\"]",
        &[
            "registry.k8s.io/goproxy:0.1",
            "gcr.io/google-samples/hello-app:2.0",
            "hashicorp/http-echo:1.0",
        ],
    ),
];

pub fn with_images() -> Engine {
    let engine = Engine::with_images();
    for (program, script, starts, names) in IMAGES {
        let root = engine.dir.join(program);
        let bin = root.join("bin");
        fs::create_dir_all(&bin).expect("a folder");
        for folder in ["tmp", "usr/share"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("set");
        fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for applet in PROGRAMS.iter().filter(|applet| **applet != program) {
            symlink("busybox", bin.join(applet)).expect("a link");
        }
        for (name, script) in [(program, script), ("printenv", PRINTENV)] {
            fs::write(bin.join(name), script).expect("a script");
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("set");
        }
        let tar = engine.dir.join(format!("{program}.tar"));
        run(Command::new("tar")
            .arg("-C")
            .arg(&root)
            .args(["--owner=0", "--group=0", "-cf"])
            .arg(&tar)
            .arg("."));
        for name in names {
            let changes = ["-c", "ENV PATH=/bin", "-c", starts];
            let file = tar.to_string_lossy();
            let arguments = [&["import"][..], &changes, &[&*file, *name]].concat();
            engine.docker(&arguments);
        }
    }
    engine
}

/// Debian's etcd with the libraries that it asks for, where the page's image has it.
fn import_etcd(engine: &Engine) {
    let root = engine.dir.join("etcd-root");
    let needs = run(Command::new("ldd").arg("/usr/bin/etcd"));
    let libraries = needs.split_whitespace().filter(|word| word.starts_with('/'));
    let program = ("/usr/bin/etcd", "/usr/local/bin/etcd");
    for (from, to) in libraries.map(|file| (file, file)).chain([program]) {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::copy(from, to).expect("etcd-server is installed");
    }
    let tar = engine.dir.join("etcd.tar");
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."));
    engine.docker(&["import", &tar.to_string_lossy(), "registry.k8s.io/etcd:3.5.1-0"]);
}

/// Configure Liveness, Readiness and Startup Probes; written as that page is now, in KYAML.
const EXEC_LIVENESS: &str = r#"---
{
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    labels: {
      test: "liveness",
    },
    name: "liveness-exec",
  },
  spec: {
    containers: [{
      name: "liveness",
      image: "registry.k8s.io/busybox:1.27.2",
      args: [
        "/bin/sh",
        "-c",
        "touch /tmp/healthy; sleep 30; rm -f /tmp/healthy; sleep 600",
      ],
      livenessProbe: {
        exec: {
          command: ["cat", "/tmp/healthy"],
        },
        initialDelaySeconds: 5,
        periodSeconds: 5,
      },
    }],
  },
}
"#;

const HTTP_LIVENESS: &str = "
apiVersion: v1
kind: Pod
metadata:
  labels: {test: liveness}
  name: liveness-http
spec:
  containers:
  - name: liveness
    image: registry.k8s.io/e2e-test-images/agnhost:2.40
    args: [liveness]
    livenessProbe:
      httpGet:
        path: /healthz
        port: 8080
        httpHeaders:
        - {name: Custom-Header, value: Awesome}
      initialDelaySeconds: 3
      periodSeconds: 3
";

const TCP_LIVENESS_READINESS: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: goproxy
  labels: {app.kubernetes.io/name: goproxy}
spec:
  containers:
  - name: goproxy
    image: registry.k8s.io/goproxy:0.1
    ports:
    - containerPort: 8080
    readinessProbe:
      tcpSocket: {port: 8080}
      initialDelaySeconds: 15
      periodSeconds: 10
    livenessProbe:
      tcpSocket: {port: 8080}
      initialDelaySeconds: 15
      periodSeconds: 10
";

const GRPC_LIVENESS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: etcd-with-grpc
spec:
  containers:
  - name: etcd
    image: registry.k8s.io/etcd:3.5.1-0
    command: [ "/usr/local/bin/etcd", "--data-dir",  "/var/lib/etcd", "--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", "http://127.0.0.1:2379", "--log-level", "debug"]
    ports:
    - containerPort: 2379
    livenessProbe:
      grpc:
        port: 2379
      initialDelaySeconds: 10
"#;

/// Configure Pod Initialization
const INIT_CONTAINERS: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: init-demo
spec:
  containers:
  - name: nginx
    image: nginx:1.14.2
    ports:
    - containerPort: 80
    volumeMounts:
    - {name: workdir, mountPath: /usr/share/nginx/html}
  initContainers:
  - name: install
    image: busybox:1.28
    command: [wget, -O, /work-dir/index.html, http://info.cern.ch]
    volumeMounts:
    - {name: workdir, mountPath: /work-dir}
  dnsPolicy: Default
  volumes:
  - name: workdir
    emptyDir: {}
";

/// Sidecar Containers
const SIDECAR: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: myapp
  labels: {app.kubernetes.io/name: myapp}
spec:
  replicas: 1
  selector:
    matchLabels: {app.kubernetes.io/name: myapp}
  template:
    metadata:
      labels: {app.kubernetes.io/name: myapp}
    spec:
      containers:
      - name: myapp
        image: alpine:3.19
        command: ['sh', '-c', 'while true; do echo \"logging\" >> /opt/logs.txt; sleep 1; done']
        volumeMounts:
        - {name: data, mountPath: /opt}
      initContainers:
      - name: logshipper
        image: alpine:3.19
        restartPolicy: Always
        command: ['sh', '-c', 'tail -F /opt/logs.txt']
        volumeMounts:
        - {name: data, mountPath: /opt}
      volumes:
      - name: data
        emptyDir: {}
";

/// Attach Handlers to Container Lifecycle Events
const LIFECYCLE: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: lifecycle-demo
spec:
  containers:
  - name: lifecycle-demo-container
    image: nginx:1.14.2
    lifecycle:
      postStart:
        exec:
          command: [/bin/sh, -c, echo Hello from the postStart handler > /usr/share/message]
      preStop:
        exec:
          command: [/bin/sh, -c, nginx -s quit; while killall -0 nginx; do sleep 1; done]
";

/// Configure a Security Context for a Pod or Container
const SECURITY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: security-context-demo}
spec:
  securityContext:
    runAsUser: 1000
    runAsGroup: 3000
    fsGroup: 2000
    supplementalGroups: [4000]
  volumes:
  - name: sec-ctx-vol
    emptyDir: {}
  containers:
  - name: sec-ctx-demo
    image: busybox:1.28
    command: [sh, -c, sleep 1h]
    volumeMounts:
    - {name: sec-ctx-vol, mountPath: /data/demo}
    securityContext:
      allowPrivilegeEscalation: false
---
apiVersion: v1
kind: Pod
metadata: {name: security-context-demo-2}
spec:
  securityContext:
    runAsUser: 1000
  containers:
  - name: sec-ctx-demo-2
    image: gcr.io/google-samples/hello-app:2.0
    command: [sh, -c, sleep 1h]
    securityContext:
      runAsUser: 2000
      allowPrivilegeEscalation: false
---
apiVersion: v1
kind: Pod
metadata: {name: security-context-demo-3}
spec:
  containers:
  - name: sec-ctx-3
    image: gcr.io/google-samples/hello-app:2.0
---
apiVersion: v1
kind: Pod
metadata:
  name: default-pod
  labels: {app: default-pod}
spec:
  securityContext:
    seccompProfile: {type: RuntimeDefault}
  containers:
  - name: test-container
    image: hashicorp/http-echo:1.0
    args: ['-text=just made some more syscalls!']
    securityContext:
      allowPrivilegeEscalation: false
";

const MORE_CAPABILITIES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: security-context-demo-4}
spec:
  containers:
  - name: sec-ctx-4
    image: gcr.io/google-samples/hello-app:2.0
    securityContext:
      capabilities:
        add: [NET_ADMIN, SYS_TIME]
";

/// Assign Memory Resources, Configure Quality of Service
const RESOURCES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: mem-example}
---
apiVersion: v1
kind: Pod
metadata: {name: memory-demo, namespace: mem-example}
spec:
  containers:
  - name: memory-demo-ctr
    image: polinux/stress:1.0
    resources:
      requests: {memory: 100Mi}
      limits: {memory: 200Mi}
    command: [stress]
    args: [--vm, '1', --vm-bytes, 150M, --vm-hang, '1']
---
apiVersion: v1
kind: Pod
metadata: {name: memory-demo-2, namespace: mem-example}
spec:
  containers:
  - name: memory-demo-2-ctr
    image: polinux/stress:1.0
    resources:
      requests: {memory: 50Mi}
      limits: {memory: 100Mi}
    command: [stress]
    args: [--vm, '1', --vm-bytes, 250M, --vm-hang, '1']
---
apiVersion: v1
kind: Pod
metadata: {name: memory-demo-3, namespace: mem-example}
spec:
  containers:
  - name: memory-demo-3-ctr
    image: polinux/stress:1.0
    resources:
      requests: {memory: 1000Gi}
      limits: {memory: 1000Gi}
    command: [stress]
    args: [--vm, '1', --vm-bytes, 150M, --vm-hang, '1']
---
apiVersion: v1
kind: Pod
metadata: {name: qos-demo, namespace: mem-example}
spec:
  containers:
  - name: qos-demo-ctr
    image: nginx:1.14.2
    resources:
      limits: {memory: 200Mi, cpu: 100m}
      requests: {memory: 200Mi, cpu: 100m}
---
apiVersion: v1
kind: Pod
metadata: {name: qos-demo-3, namespace: mem-example}
spec:
  containers:
  - name: qos-demo-3-ctr
    image: nginx:1.14.2
---
apiVersion: v1
kind: Pod
metadata: {name: qos-demo-4, namespace: mem-example}
spec:
  containers:
  - name: qos-demo-4-ctr-1
    image: nginx:1.14.2
    resources:
      requests: {memory: 200Mi}
  - name: qos-demo-4-ctr-2
    image: redis:5.0.4
    command: [sleep, '3600']
";

/// Define Dependent Environment Variables, Share Process Namespace between Containers
const ENVIRONMENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: dependent-envars-demo}
spec:
  containers:
  - name: dependent-envars-demo
    args:
    - while true; do echo -en '\\n'; printenv UNCHANGED_REFERENCE; printenv SERVICE_ADDRESS; printenv ESCAPED_REFERENCE; sleep 30; done;
    command: [sh, -c]
    image: busybox:1.28
    env:
    - {name: SERVICE_PORT, value: '80'}
    - {name: SERVICE_IP, value: 172.17.0.1}
    - {name: UNCHANGED_REFERENCE, value: $(PROTOCOL)://$(SERVICE_IP):$(SERVICE_PORT)}
    - {name: PROTOCOL, value: https}
    - {name: SERVICE_ADDRESS, value: $(PROTOCOL)://$(SERVICE_IP):$(SERVICE_PORT)}
    - {name: ESCAPED_REFERENCE, value: $$(PROTOCOL)://$(SERVICE_IP):$(SERVICE_PORT)}
---
apiVersion: v1
kind: Pod
metadata: {name: nginx}
spec:
  shareProcessNamespace: true
  containers:
  - name: nginx
    image: nginx:1.14.2
  - name: shell
    image: busybox:1.28
    command: [sleep, '3600']
    stdin: true
    tty: true
";

fn pod(daemon: &Daemon<'_>, namespace: &str, name: &str) -> Value {
    let text = daemon.kubectl(&["get", "pod", "-n", namespace, name, "-o", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

fn await_ready(daemon: &Daemon<'_>, namespace: &str, names: &[&str]) {
    for name in names {
        let condition = ["wait", "--for=condition=Ready", "-n", namespace, "pod", name];
        await_that(&format!("{name} is ready"), daemon, || {
            let output = daemon.try_kubectl(&[&condition[..], &["--timeout=5s"]].concat());
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        });
    }
}

/// The container of a pod on the engine.
fn container(daemon: &Daemon<'_>, name: &str, of: usize) -> String {
    let pod = pod(daemon, "default", name);
    let id = pod["status"]["containerStatuses"][of]["containerID"].as_str().expect("it runs");
    id.trim_start_matches("docker://").to_owned()
}

fn inside(engine: &Engine, daemon: &Daemon<'_>, name: &str, script: &str) -> String {
    engine.docker(&["exec", &container(daemon, name, 0), "sh", "-c", script])
}

/// Waits for longer than one step of a test may take: the documentation's probes are slow.
fn await_slow<T>(
    what: &str,
    daemon: &Daemon<'_>,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(150);
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(
                std::time::Instant::now() < deadline,
                "{what}: {why}\n{}",
                daemon.log().lines().rev().take(40).collect::<Vec<_>>().join("\n")
            ),
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn the_pods_of_the_documentation_do_what_their_pages_say() {
    let engine = with_images();
    import_etcd(&engine);
    let repo = Repo::new(&engine.dir.join("repo"));
    for (file, text) in [
        ("exec-liveness", EXEC_LIVENESS),
        ("http-liveness", HTTP_LIVENESS),
        ("grpc-liveness", GRPC_LIVENESS),
        ("tcp-liveness-readiness", TCP_LIVENESS_READINESS),
        ("init-containers", INIT_CONTAINERS),
        ("deployment-sidecar", SIDECAR),
        ("lifecycle-events", LIFECYCLE),
        ("security-context", SECURITY),
        ("resources", RESOURCES),
        ("environment", ENVIRONMENT),
    ] {
        repo.write(&format!("{file}.yaml"), text);
    }
    repo.commit("The documentation");
    let daemon = Daemon::start(&engine, &[&repo.dir.to_string_lossy()]);

    // Init containers: the page that the first one fetched is served by the second.
    await_ready(&daemon, "default", &["init-demo", "lifecycle-demo", "nginx"]);
    let page = inside(&engine, &daemon, "init-demo", "busybox wget -qO- http://127.0.0.1/");
    assert!(page.contains("the first page"), "{page}");
    // Hooks: the message is there; the end asks nginx first.
    let message = inside(&engine, &daemon, "lifecycle-demo", "cat /usr/share/message");
    assert_eq!(message.trim(), "Hello from the postStart handler");

    // Security contexts, as the pages show `ps`, `ls`, `id` and `/proc/1/status`.
    let names = [
        "security-context-demo",
        "security-context-demo-2",
        "security-context-demo-3",
        "default-pod",
    ];
    await_ready(&daemon, "default", &names);
    let seen = |name: &str, script: &str| inside(&engine, &daemon, name, script).trim().to_owned();
    assert_eq!(seen("security-context-demo", "id -u; id -g; id -G"), "1000\n3000\n3000 2000 4000");
    let made = "echo hello > /data/demo/testfile; stat -c '%u %g' /data/demo/testfile";
    assert_eq!(seen("security-context-demo", made), "1000 2000");
    assert_eq!(seen("security-context-demo-2", "id -u"), "2000");
    let capabilities = "grep CapPrm /proc/1/status";
    assert_eq!(seen("security-context-demo-3", capabilities), "CapPrm:\t00000000a80425fb");
    assert_eq!(seen("default-pod", "grep Seccomp: /proc/1/status"), "Seccomp:\t2");
    let words = "grep NoNewPrivs /proc/1/status";
    assert_eq!(seen("default-pod", words), "NoNewPrivs:\t1");

    // Resources: one holds, one is ended by the kernel, one finds no node.
    await_ready(&daemon, "mem-example", &["memory-demo", "qos-demo", "qos-demo-3", "qos-demo-4"]);
    await_that("memory-demo-2 is ended", &daemon, || {
        let status = pod(&daemon, "mem-example", "memory-demo-2")["status"].clone();
        let state = &status["containerStatuses"][0];
        let ended = &state["lastState"]["terminated"]["reason"];
        let waits = &state["state"]["waiting"]["reason"];
        let told = ended == "OOMKilled" && (waits == "CrashLoopBackOff" || waits.is_null());
        if told { Ok(()) } else { Err(status.to_string()) }
    });
    let described = daemon.kubectl(&["describe", "pod", "-n", "mem-example", "memory-demo-3"]);
    assert!(described.contains("Insufficient memory"), "{described}");
    let quality = ["qos-demo", "qos-demo-3", "qos-demo-4", "memory-demo"].map(|name| {
        pod(&daemon, "mem-example", name)["status"]["qosClass"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    });
    assert_eq!(quality, ["Guaranteed", "BestEffort", "Burstable", "Burstable"]);

    // Variables of variables; processes of one namespace.
    await_ready(&daemon, "default", &["dependent-envars-demo"]);
    let told = daemon.kubectl(&["logs", "dependent-envars-demo"]);
    let lines: Vec<&str> = told.split_whitespace().collect();
    assert_eq!(
        lines,
        ["$(PROTOCOL)://172.17.0.1:80", "https://172.17.0.1:80", "$(PROTOCOL)://172.17.0.1:80"]
    );
    let processes = engine.docker(&["exec", &container(&daemon, "nginx", 1), "ps"]);
    assert!(processes.contains("pause") && processes.contains("nginx"), "{processes}");

    // The sidecar ships what the application logs.
    daemon.rolled_out("default", "myapp");
    await_that("the sidecar's log", &daemon, || {
        let arguments = ["logs", "deploy/myapp", "-c", "logshipper"];
        let log = daemon.kubectl(&arguments);
        if log.contains("logging") { Ok(()) } else { Err(log) }
    });

    // Probes: etcd, which answered gRPC's health checks until now, hangs from here on.
    await_slow("etcd was asked", &daemon, || {
        let log = daemon.kubectl(&["logs", "etcd-with-grpc"]);
        let asked = log.contains("/grpc.health.v1.Health/Check");
        if asked { Ok(()) } else { Err(log) }
    });
    assert_eq!(restarted(&daemon, "etcd-with-grpc").ok(), None);
    let id = container(&daemon, "etcd-with-grpc", 0);
    let process = engine.docker(&["inspect", "-f", "{{.State.Pid}}", &id]);
    run(Command::new("kill").args(["-STOP", process.trim()]));
    // Two are restarted for what they say, one is ready after its delay and stays.
    await_slow("liveness-http is restarted", &daemon, || restarted(&daemon, "liveness-http"));
    await_slow("goproxy is ready", &daemon, || {
        let status = pod(&daemon, "default", "goproxy")["status"]["containerStatuses"][0].clone();
        if status["ready"] == true { Ok(()) } else { Err(status.to_string()) }
    });
    await_slow("liveness-exec is restarted", &daemon, || restarted(&daemon, "liveness-exec"));
    let described = daemon.kubectl(&["describe", "pod", "liveness-exec"]);
    for words in [
        "Liveness probe failed: cat: can't open '/tmp/healthy': No such file or directory",
        "Container liveness failed liveness probe, will be restarted",
    ] {
        assert!(described.contains(words), "{described}");
    }
    assert_eq!(restarted(&daemon, "goproxy").ok(), None);
    await_slow("etcd is found hanging", &daemon, || {
        let described = daemon.kubectl(&["describe", "pod", "etcd-with-grpc"]);
        let told = described.contains("Container etcd failed liveness probe, will be restarted");
        if told { Ok(()) } else { Err(described) }
    });

    // What a baseline namespace refuses is refused with its line, and the rest stays as it is.
    repo.write("capabilities.yaml", MORE_CAPABILITIES);
    repo.commit("More capabilities");
    await_that("it is refused", &daemon, || {
        let sources = daemon.kubectl(&["get", "sources", "-A", "-o", "yaml"]);
        let told = sources.contains("capabilities.yaml") && sources.contains("NET_ADMIN");
        if told { Ok(()) } else { Err(sources) }
    });
    // Removed, nginx is asked to quit and is gone long before its grace of 30 s.
    fs::remove_file(repo.dir.join("capabilities.yaml")).expect("it was written");
    fs::remove_file(repo.dir.join("lifecycle-events.yaml")).expect("it was written");
    repo.commit("The hook's pod goes");
    await_that("lifecycle-demo is gone", &daemon, || {
        let pods = daemon.kubectl(&["get", "pods", "-o", "name"]);
        if pods.contains("lifecycle-demo") { Err(pods) } else { Ok(()) }
    });
}

fn restarted(daemon: &Daemon<'_>, name: &str) -> Result<(), String> {
    let status = pod(daemon, "default", name)["status"]["containerStatuses"][0].clone();
    let again = status["restartCount"].as_i64().is_some_and(|count| count > 0);
    if again { Ok(()) } else { Err(status.to_string()) }
}
