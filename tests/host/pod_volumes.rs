//! Volumes of pods on a real engine, looked at from inside their containers. The manifests are those
//! of Kubernetes' documentation, admitted as the daemon admits them; only folders of the host have
//! another name.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ballast::api::admission::{CreateContext, FieldValidation, admit_create, decode_body};
use ballast::object::{Cluster, Key, Object};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, run};
use crate::node::{Agent, container_id};

const PROGRAMS: [&str; 11] =
    ["sh", "sleep", "cat", "echo", "id", "ln", "ls", "mkdir", "mount", "tee", "dd"];

/// An agent whose engine has the images that the documentation names: busybox, with its programs.
pub fn agent() -> Agent {
    let agent = Agent::new();
    import_busybox(|arguments| agent.docker(arguments));
    agent
}

/// busybox, with its programs, by the names that the documentation has for it.
pub fn import_busybox(docker: impl Fn(&[&str]) -> String) {
    let root = tempfile::tempdir().expect("a directory");
    let bin = root.path().join("bin");
    fs::create_dir(&bin).expect("made");
    fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for program in PROGRAMS {
        symlink("busybox", bin.join(program)).expect("a link");
    }
    let tar = root.path().join("busybox.tar");
    run(Command::new("tar").arg("-C").arg(root.path()).arg("-cf").arg(&tar).arg("bin"));
    for image in ["registry.k8s.io/busybox:1.27.2", "busybox:1.28"] {
        docker(&["import", &tar.to_string_lossy(), image]);
    }
}

pub fn parsed(manifest: &str) -> Value {
    let mut value: Value = serde_yaml::from_str(manifest).expect("a manifest");
    if let Some(spec) = value.get_mut("spec") {
        spec["nodeName"] = json!("n1");
    }
    value
}

/// Puts a pod as the API would store it.
pub async fn put(agent: &Agent, value: &Value) -> Key {
    let body = decode_body::<Pod>(value, FieldValidation::Strict).expect("a pod");
    let name = body.object.metadata.name.clone().expect("a name");
    let uid = format!("uid-of-{name}");
    let context = CreateContext::new("default", &uid, "abcde", jiff::Timestamp::now());
    let pod = admit_create(body.object, &context).expect("nothing of it is refused");
    agent.shelf.create(&pod).await.expect("put");
    pod.key()
}

async fn put_secret(agent: &Agent, name: &str, key: &str, text: &str) {
    let secret: Secret = serde_json::from_value(json!({"metadata": {"name": name,
        "namespace": "default"}, "data": {key: base64_of(text)}}))
    .expect("a secret");
    agent.shelf.create(&secret).await.expect("put");
}

fn base64_of(text: &str) -> Value {
    serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).expect("JSON")
}

fn config(name: &str, key: &str, text: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"},
        "data": {key: text}}))
    .expect("a config map")
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn runs(pod: &Pod) -> bool {
    phase(pod) == "Running"
}

/// Where a container's files are, seen from the host.
pub fn inside(agent: &Agent, pod: &Pod, path: &str) -> PathBuf {
    let process = agent.docker(&["inspect", "-f", "{{.State.Pid}}", &container_id(pod, 0)]);
    PathBuf::from(format!("/proc/{process}/root{path}"))
}

pub fn execute(agent: &Agent, pod: &Pod, script: &str) -> String {
    agent.docker(&["exec", &container_id(pod, 0), "sh", "-c", script])
}

pub async fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn gone(agent: &Agent, key: &Key) {
    let deadline = Instant::now() + PATIENCE;
    while agent.shelf.get::<Pod>(key).await.is_ok() {
        assert!(Instant::now() < deadline, "{}", agent.shelf.notes().join("\n"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Mount points of this host below a directory.
fn mounted_below(directory: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(directory)).map(str::to_owned).collect()
}

/// A folder of the host that is unmounted, whatever a test left in it, before it is removed.
pub struct HostFolder(tempfile::TempDir);

impl HostFolder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A mount of its own, so that what is mounted below crosses over.
    fn share(&self) {
        run(Command::new("mount").arg("--bind").args([self.path(), self.path()]));
        run(Command::new("mount").arg("--make-rshared").arg(self.path()));
    }
}

impl Drop for HostFolder {
    fn drop(&mut self) {
        for point in mounted_below(self.path()).into_iter().rev() {
            let _ = Command::new("umount").args(["-l", &point]).stderr(Stdio::null()).status();
        }
    }
}

const DOWNWARD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: kubernetes-downwardapi-volume-example
  labels:
    zone: us-est-coast
    cluster: test-cluster1
    rack: rack-22
  annotations:
    build: two
    builder: john-doe
spec:
  containers:
    - name: client-container
      image: registry.k8s.io/busybox:1.27.2
      command: ["sh", "-c"]
      args:
      - while true; do
          if [[ -e /etc/podinfo/labels ]]; then
            echo -en '\n\n'; cat /etc/podinfo/labels; fi;
          if [[ -e /etc/podinfo/annotations ]]; then
            echo -en '\n\n'; cat /etc/podinfo/annotations; fi;
          sleep 5;
        done;
      volumeMounts:
        - name: podinfo
          mountPath: /etc/podinfo
  volumes:
    - name: podinfo
      downwardAPI:
        items:
          - path: "labels"
            fieldRef:
              fieldPath: metadata.labels
          - path: "annotations"
            fieldRef:
              fieldPath: metadata.annotations
"#;

const PROJECTED: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: volume-test
spec:
  containers:
  - name: container-test
    image: busybox:1.28
    command: ["sleep", "3600"]
    volumeMounts:
    - name: all-in-one
      mountPath: "/projected-volume"
      readOnly: true
  volumes:
  - name: all-in-one
    projected:
      sources:
      - secret:
          name: mysecret
          items:
            - key: username
              path: my-group/my-username
              mode: 511
      - downwardAPI:
          items:
            - path: "labels"
              fieldRef:
                fieldPath: metadata.labels
            - path: "cpu_limit"
              resourceFieldRef:
                containerName: container-test
                resource: limits.cpu
      - configMap:
          name: myconfigmap
          items:
            - key: config
              path: my-group/my-config
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_own_fields_and_several_sources_are_files() {
    let agent = agent();
    put_secret(&agent, "mysecret", "username", "admin").await;
    agent.shelf.create(&config("myconfigmap", "config", "on")).await.expect("put");
    let key = put(&agent, &parsed(DOWNWARD)).await;
    let all = put(&agent, &parsed(PROJECTED)).await;

    let pod = agent.until(&key, "running", runs).await;
    let labels = inside(&agent, &pod, "/etc/podinfo/labels");
    let told = "cluster=\"test-cluster1\"\nrack=\"rack-22\"\nzone=\"us-est-coast\"";
    assert_eq!(fs::read_to_string(&labels).expect("labels"), told);
    let annotations = inside(&agent, &pod, "/etc/podinfo/annotations");
    let told = fs::read_to_string(annotations).expect("annotations");
    assert_eq!(told, "build=\"two\"\nbuilder=\"john-doe\"");
    // A label that changes reaches the file, and no container is made anew for it.
    let mut changed = agent.pod(&key).await;
    changed.metadata.labels.get_or_insert_default().insert("zone".into(), "b".into());
    agent.shelf.update(&changed).await.expect("changed");
    await_that("the label reaches its file", || {
        fs::read_to_string(&labels).is_ok_and(|text| text.ends_with("zone=\"b\""))
    })
    .await;
    assert_eq!(container_id(&agent.pod(&key).await, 0), container_id(&pod, 0));

    let pod = agent.until(&all, "running", runs).await;
    let at = |path: &str| inside(&agent, &pod, &format!("/projected-volume/{path}"));
    let read = |path: &str| fs::read_to_string(at(path)).expect("a file");
    assert_eq!([read("my-group/my-username"), read("my-group/my-config")], ["admin", "on"]);
    let cores = std::thread::available_parallelism().expect("cores").get();
    assert_eq!([read("labels"), read("cpu_limit")], [String::new(), cores.to_string()]);
    let mode = |path: &str| fs::metadata(at(path)).expect("a file").permissions().mode() & 0o777;
    assert_eq!([mode("my-group/my-username"), mode("my-group/my-config")], [0o777, 0o644]);
    let refused = execute(&agent, &pod, "echo x > /projected-volume/labels || echo refused");
    assert!(refused.ends_with("refused"), "{refused}");
    agent.end().await;
}

const EXPANDED: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: pod1
spec:
  containers:
  - name: container1
    env:
    - name: POD_NAME
      valueFrom:
        fieldRef:
          apiVersion: v1
          fieldPath: metadata.name
    image: busybox:1.28
    command: [ "sh", "-c", "while [ true ]; do echo 'Hello'; sleep 10; done | tee -a /logs/hello.txt" ]
    volumeMounts:
    - name: workdir1
      mountPath: /logs
      # The variable expansion uses round brackets (not curly brackets).
      subPathExpr: $(POD_NAME)
  restartPolicy: Never
  volumes:
  - name: workdir1
    hostPath:
      path: /var/log/pods
"#;

/// `/etc/app.conf` is a key of a ConfigMap, `/deep` a folder of an emptyDir that nobody made.
const PARTS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: parts
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: busybox:1.28
    command: ["sleep", "3600"]
    volumeMounts:
    - {name: conf, mountPath: /etc/app.conf, subPath: app.conf}
    - {name: scratch, mountPath: /deep, subPath: one/two}
    - {name: scratch, mountPath: /whole}
  volumes:
  - {name: conf, configMap: {name: app}}
  - {name: scratch, emptyDir: {}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_volume_is_mounted_and_goes_without_what_is_behind_it() {
    let mut agent = agent();
    let folder = HostFolder::new();
    agent.shelf.create(&config("app", "app.conf", "first")).await.expect("put");
    let mut expanded = parsed(EXPANDED);
    expanded["spec"]["volumes"][0]["hostPath"]["path"] = json!(folder.path());
    let logs = put(&agent, &expanded).await;
    let parts = put(&agent, &parsed(PARTS)).await;

    let pod = agent.until(&parts, "running", runs).await;
    let read = |agent: &Agent, pod: &Pod| {
        fs::read_to_string(inside(agent, pod, "/etc/app.conf")).expect("the key")
    };
    assert_eq!(read(&agent, &pod), "first");
    execute(&agent, &pod, "echo here > /deep/file");
    assert_eq!(execute(&agent, &pod, "cat /whole/one/two/file"), "here");
    let made = fs::metadata(inside(&agent, &pod, "/deep")).expect("it is there");
    assert_eq!(made.permissions().mode() & 0o7777, 0o777, "the volume's own mode");
    // The file stays what it was when the container was made, and the next one has the new.
    agent.shelf.update(&config("app", "app.conf", "second")).await.expect("changed");
    let volume = agent.options.data_dir.join("pods").join(pod.uid()).join("volumes/conf");
    await_that("the volume has it", || {
        fs::read_to_string(volume.join("app.conf")).is_ok_and(|text| text == "second")
    })
    .await;
    assert_eq!(read(&agent, &pod), "first");
    agent.docker(&["kill", &container_id(&pod, 0)]);
    let before = container_id(&pod, 0);
    let pod =
        agent.until(&parts, "restarted", |pod| runs(pod) && container_id(pod, 0) != before).await;
    await_that("it runs", || inside(&agent, &pod, "/etc/app.conf").exists()).await;
    assert_eq!(read(&agent, &pod), "second");
    assert_eq!(execute(&agent, &pod, "cat /deep/file"), "here");

    agent.until(&logs, "running", runs).await;
    let file = folder.path().join("pod1/hello.txt");
    await_that("the log is on the host", || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains("Hello"))
    })
    .await;
    // One goes while the daemon runs, the other while it does not.
    agent.shelf.delete_pod(&parts, 1, jiff::Timestamp::now());
    gone(&agent, &parts).await;
    let pods = agent.options.data_dir.join("pods").canonicalize().expect("it is there");
    assert!(mounted_below(&pods.join(pod.uid())).is_empty() && !pods.join(pod.uid()).exists());
    let left = pods.join("uid-of-pod1");
    assert_eq!(mounted_below(&left).len(), 1);
    agent.restart_after(|agent| agent.shelf.delete_pod(&logs, 1, jiff::Timestamp::now())).await;
    gone(&agent, &logs).await;
    assert!(!left.exists());
    assert!(mounted_below(&pods).is_empty());
    let kept = fs::read_to_string(&file).expect("what the pod wrote is the host's");
    assert!(kept.contains("Hello"));
    agent.end().await;
}

/// CVE-2017-1002101: a container of the pod leaves links in a volume, the next one mounts them.
const ATTACK: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: attack
spec:
  initContainers:
  - name: prepare
    image: busybox:1.28
    command: ["sh", "-c", "ln -s / /v/root; ln -s ../../../.. /v/up; ln -s /proc/self/root /v/magic"]
    volumeMounts:
    - {name: v, mountPath: /v}
  containers:
  - name: root
    image: busybox:1.28
    command: ["sleep", "3600"]
    volumeMounts:
    - {name: v, mountPath: /host, subPath: root}
  - name: up
    image: busybox:1.28
    command: ["sleep", "3600"]
    volumeMounts:
    - {name: v, mountPath: /host, subPath: up/new}
  - name: magic
    image: busybox:1.28
    command: ["sleep", "3600"]
    volumeMounts:
    - {name: v, mountPath: /host, subPath: magic/etc}
  volumes:
  - {name: v, emptyDir: {}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_link_in_a_volume_leads_a_part_of_it_to_the_host() {
    let agent = agent();
    let key = put(&agent, &parsed(ATTACK)).await;
    let waiting = |pod: &Pod, index: usize| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let waiting = statuses.get(index)?.state.as_ref()?.waiting.clone()?;
        Some((waiting.reason?, waiting.message?))
    };
    let pod =
        agent.until(&key, "refused", |pod| (0..3).all(|index| waiting(pod, index).is_some())).await;
    for (index, name) in ["root", "up", "magic"].into_iter().enumerate() {
        let (reason, message) = waiting(&pod, index).expect("it waits");
        assert_eq!(reason, "CreateContainerConfigError");
        let sentence = format!(
            "failed to prepare subPath for volumeMount \"v\" of container \"{name}\": it leads out of its volume"
        );
        assert_eq!(message, sentence);
    }
    assert!(mounted_below(&agent.options.data_dir).is_empty());
    agent.end().await;
}

const SECURITY_CONTEXT: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: security-context-demo
spec:
  securityContext:
    runAsUser: 1000
    runAsGroup: 3000
    fsGroup: 2000
  volumes:
  - name: sec-ctx-vol
    emptyDir: {}
  - name: key
    secret: {secretName: mysecret, defaultMode: 256}
  containers:
  - name: sec-ctx-demo
    image: busybox:1.28
    command: [ "sh", "-c", "sleep 1h" ]
    volumeMounts:
    - name: sec-ctx-vol
      mountPath: /data/demo
    - {name: key, mountPath: /key}
    - {name: sec-ctx-vol, mountPath: /part, subPath: part}
    securityContext:
      allowPrivilegeEscalation: false
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_the_pods_groups_and_mounts_cross_as_asked() {
    let agent = agent();
    put_secret(&agent, "mysecret", "username", "admin").await;
    let key = put(&agent, &parsed(SECURITY_CONTEXT)).await;
    let pod = agent.until(&key, "running", runs).await;
    assert_eq!(execute(&agent, &pod, "id"), "uid=1000 gid=3000 groups=2000,3000");
    execute(&agent, &pod, "cd /data/demo; echo hello > testfile; echo x > /part/file");
    let owner = |path: &str| {
        let meta = fs::metadata(inside(&agent, &pod, path)).expect("it is there");
        (meta.permissions().mode() & 0o7777, meta.gid())
    };
    assert_eq!(owner("/data/demo"), (0o2777, 2000));
    assert_eq!(owner("/data/demo/testfile").1, 2000);
    assert_eq!((owner("/part").1, owner("/part/file").1), (2000, 2000));
    assert_eq!(owner("/key/username"), (0o440, 2000));
    assert_eq!(execute(&agent, &pod, "cat /key/username"), "admin");

    let folder = HostFolder::new();
    folder.share();
    fs::create_dir(folder.path().join("late")).expect("made");
    fs::create_dir(folder.path().join("inner")).expect("made");
    // Not every host lets a container be privileged, which Bidirectional takes: this one is put as it
    // is, and admission is asked elsewhere.
    let mount = |mode: &str| {
        json!({"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "busybox:1.28", "command": ["sleep", "3600"],
                "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": mode}]}],
            "volumes": [{"name": "v", "hostPath": {"path": folder.path()}}]})
    };
    let alone = agent.put("alone", mount("None")).await;
    let hears = agent.put("hears", mount("HostToContainer")).await;
    let both = agent.put("both", mount("Bidirectional")).await;
    let alone = agent.until(&alone, "running", runs).await;
    let hears = agent.until(&hears, "running", runs).await;
    let both = agent.until(&both, "running", runs).await;
    run(Command::new("mount").args(["-t", "tmpfs", "late"]).arg(folder.path().join("late")));
    fs::write(folder.path().join("late/file"), "1").expect("written");
    let sees = |pod: &Pod| inside(&agent, pod, "/v/late/file").exists();
    assert_eq!([sees(&alone), sees(&hears), sees(&both)], [false, true, true]);
    let mount_in = |pod: &Pod| {
        let process = agent.docker(&["inspect", "-f", "{{.State.Pid}}", &container_id(pod, 0)]);
        let entered = ["--mount", "--target", &process, "mount", "-t", "tmpfs", "own", "/v/inner"];
        run(Command::new("nsenter").args(entered));
    };
    mount_in(&hears);
    assert!(mounted_below(&folder.path().join("inner")).is_empty(), "it stays in the container");
    mount_in(&both);
    execute(&agent, &both, "echo 1 > /v/inner/file");
    assert!(folder.path().join("inner/file").exists(), "the host has it too");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fills_a_bounded_directory_is_evicted() {
    let agent = agent();
    let pod = |name: &str, megabytes: u32| {
        let script = format!("dd if=/dev/zero of=/v/file bs=1M count={megabytes}; sleep 3600");
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 600,
            "containers": [{"name": "c", "image": "busybox:1.28", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "4Mi"}}]}})
    };
    let modest = put(&agent, &pod("modest", 3)).await;
    let key = put(&agent, &pod("greedy", 8)).await;
    let evicted = agent.until(&key, "evicted", |pod| phase(pod) == "Failed").await;
    let status = evicted.status.as_ref().expect("a status");
    let sentence = "Usage of EmptyDir volume \"v\" exceeds the limit \"4Mi\". ";
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.message.as_deref(), Some(sentence));
    assert!(agent.shelf.notes().contains(&format!("Evicted {sentence}")));
    let ended = agent
        .until(&key, "ended", |pod| {
            let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
            let state = statuses.and_then(|list| list[0].state.as_ref());
            state.is_some_and(|state| state.terminated.is_some())
        })
        .await;
    assert_eq!(phase(&ended), "Failed");
    assert_eq!(ended.status.and_then(|status| status.reason).as_deref(), Some("Evicted"));
    let pods = agent.options.data_dir.join("pods");
    let volumes = |pod: &str| pods.join(format!("uid-of-{pod}/volumes"));
    await_that("its room is given back", || !volumes("greedy").exists()).await;
    assert!(volumes("modest").exists());
    assert!(runs(&agent.pod(&modest).await), "its neighbour runs on");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_more_than_its_limit_is_evicted() {
    let agent = agent();
    let container = |name: &str, megabytes: u32, limit: &str| {
        let script = format!("dd if=/dev/zero of=/file bs=1M count={megabytes}; sleep 3600");
        json!({"name": name, "image": "busybox:1.28", "command": ["sh", "-c", script],
            "resources": {"limits": {"ephemeral-storage": limit}}})
    };
    let pod = |name: &str, containers: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 1, "containers": containers}})
    };
    let modest = put(&agent, &pod("modest", json!([container("c", 3, "4Mi")]))).await;
    let greedy = put(&agent, &pod("greedy", json!([container("c", 8, "4Mi")]))).await;
    let one = json!([container("little", 1, "32Mi"), container("much", 8, "4Mi")]);
    let one = put(&agent, &pod("one", one)).await;
    for (key, sentence) in [
        (&greedy, "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "),
        (&one, "Container much exceeded its local ephemeral storage limit \"4Mi\". "),
    ] {
        let evicted = agent.until(key, "evicted", |pod| phase(pod) == "Failed").await;
        let status = evicted.status.as_ref().expect("a status");
        assert_eq!(status.reason.as_deref(), Some("Evicted"));
        assert_eq!(status.message.as_deref(), Some(sentence));
        let told = format!("Evicted {sentence}");
        await_that("it is told", || agent.shelf.notes().contains(&told)).await;
    }
    assert!(runs(&agent.pod(&modest).await), "its neighbour runs on");
    agent.end().await;
}
