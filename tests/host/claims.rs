//! Claims of pods on a real engine, by the node's agent alone: the test is the scheduler that chooses the
//! node and the controller that binds. Manifests are those of Kubernetes' documentation where it has one;
//! only folders of the host have another name.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ballast::object::privilege::{Flags, Privileges, WrittenAll};
use ballast::object::{Cluster, Key, Object, Scope};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use crate::node::{Agent, container_id};
use crate::pod_volumes::{
    HostFolder, agent, await_that, execute, gone, inside, parsed, phase, put, runs,
};

fn class(name: &str, provisioner: &str, reclaim: &str) -> StorageClass {
    serde_json::from_value(json!({"metadata": {"name": name}, "provisioner": provisioner,
        "reclaimPolicy": reclaim, "volumeBindingMode": "WaitForFirstConsumer"}))
    .expect("a class")
}

/// As the scheduler leaves a claim whose pod it has placed.
async fn claim(agent: &Agent, name: &str, class: &str, mode: &str) -> Key {
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-of-{name}"),
            "annotations": {"volume.kubernetes.io/selected-node": "n1"}},
        "spec": {"storageClassName": class, "accessModes": [mode],
            "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}}))
    .expect("a claim");
    agent.shelf.create(&claim).await.expect("put");
    claim.key()
}

async fn volume(agent: &Agent, name: &str) -> Option<Arc<PersistentVolume>> {
    agent.shelf.get::<PersistentVolume>(&Key::cluster(name)).await.ok()
}

async fn until_volume(agent: &Agent, name: &str, what: &str, holds: impl Fn(Option<&str>) -> bool) {
    let end = std::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        let now = volume(agent, name).await;
        let phase = now.as_ref().map(|volume| {
            let status = volume.status.as_ref();
            status.and_then(|status| status.phase.clone()).unwrap_or_default()
        });
        if holds(phase.as_deref()) {
            return;
        }
        let notes = agent.shelf.notes().join("\n");
        assert!(std::time::Instant::now() < end, "{name} is not {what}: {phase:?}\n{notes}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn set_phase(agent: &Agent, name: &str, phase: &str) {
    let mut volume = (*volume(agent, name).await.expect("a volume")).clone();
    volume.status.get_or_insert_default().phase = Some(phase.to_owned());
    agent.shelf.update_status(&volume).await.expect("written");
}

/// What the binder does: both halves.
async fn bind(agent: &Agent, claim: &Key, volume: &str) {
    set_phase(agent, volume, "Bound").await;
    let mut claim =
        (*agent.shelf.get::<PersistentVolumeClaim>(claim).await.expect("it is there")).clone();
    let spec = claim.spec.get_or_insert_default();
    spec.volume_name = Some(volume.to_owned());
    claim
        .metadata
        .annotations
        .get_or_insert_default()
        .insert("pv.kubernetes.io/bind-completed".to_owned(), "yes".to_owned());
    let mut claim = (*agent.shelf.update(&claim).await.expect("written")).clone();
    claim.status.get_or_insert_default().phase = Some("Bound".to_owned());
    agent.shelf.update_status(&claim).await.expect("written");
}

/// What the binder does with a claim that nobody uses any more.
async fn release(agent: &Agent, claim: &Key, volume: &str) {
    agent.shelf.delete::<PersistentVolumeClaim>(claim, &Default::default()).await.expect("gone");
    set_phase(agent, volume, "Released").await;
}

/// A pod that sleeps with its claim at `/data`.
fn pod(name: &str, claim: &str, more: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:1.28", "command": ["sleep", "3600"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}});
    merge(&mut pod["spec"], &more);
    pod
}

fn merge(to: &mut Value, more: &Value) {
    match (to, more) {
        (Value::Object(to), Value::Object(more)) => {
            for (name, value) in more {
                merge(to.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (to, more) => *to = more.clone(),
    }
}

async fn told(agent: &Agent, what: &str) {
    await_that(&format!("{what}: {}", agent.shelf.notes().join("\n")), || {
        agent.shelf.notes().iter().any(|note| note.contains(what))
    })
    .await;
}

async fn end_pod(agent: &Agent, key: &Key) {
    agent.shelf.delete_pod(key, 1, jiff::Timestamp::now());
    gone(agent, key).await;
}

fn claims_folder(agent: &Agent) -> PathBuf {
    agent.options.data_dir.join("volumes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pod_writes_outlives_it_and_goes_with_its_claim() {
    let mut agent = agent();
    // Somebody's: no object speaks of it.
    fs::create_dir_all(claims_folder(&agent).join("pvc-old")).expect("made");
    fs::write(claims_folder(&agent).join("pvc-old/data"), "only copy").expect("written");
    agent
        .shelf
        .create(&class("local-path", "ballast.dev/local-path", "Delete"))
        .await
        .expect("put");
    let user = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 3000}});
    let first = put(&agent, &pod("first", "data", user.clone())).await;
    let none = "FailedMount Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: error processing PVC default/data: failed to fetch PVC from API server: persistentvolumeclaims \"data\" not found";
    told(&agent, none).await;
    let key = claim(&agent, "data", "local-path", "ReadWriteOnce").await;
    told(&agent, "error processing PVC default/data: PVC is not bound").await;
    let name = "pvc-uid-of-data";
    until_volume(&agent, name, "made", |phase| phase.is_some()).await;
    told(&agent, &format!("ProvisioningSucceeded Successfully provisioned volume {name}")).await;
    told(
        &agent,
        "Provisioning External provisioner is provisioning volume for claim \"default/data\"",
    )
    .await;
    let folder = claims_folder(&agent).join(name);
    let made = volume(&agent, name).await.expect("made");
    let local = made.spec.as_ref().and_then(|spec| spec.local.as_ref()).expect("a directory");
    assert_eq!(Path::new(&local.path), folder);
    bind(&agent, &key, name).await;

    // A user that is not root writes, its container and its pod go, and the data stays.
    let running = agent.until(&first, "running", runs).await;
    execute(&agent, &running, "echo one > /data/file; mkdir /data/sub; echo two > /data/sub/file");
    let id = container_id(&running, 0);
    agent.docker(&["rm", "-f", &id]);
    let again =
        agent.until(&first, "made anew", |pod| runs(pod) && container_id(pod, 0) != id).await;
    assert_eq!(execute(&agent, &again, "cat /data/file"), "one");
    let id = container_id(&again, 0);
    agent.restart().await;
    let marker = put(&agent, &pod("second", "data", json!({}))).await;
    let second = agent.until(&marker, "running", runs).await;
    assert_eq!(container_id(&agent.pod(&first).await, 0), id, "a restart makes nothing anew");
    execute(&agent, &second, "echo three >> /data/file");
    assert_eq!(execute(&agent, &again, "cat /data/file"), "one\nthree", "they share it");
    end_pod(&agent, &first).await;
    end_pod(&agent, &marker).await;
    assert_eq!(fs::read_to_string(folder.join("file")).expect("there"), "one\nthree\n");

    // Read alone, and a part of it.
    let read_only = json!({"volumes": [{"name": "data",
        "persistentVolumeClaim": {"claimName": "data", "readOnly": true}}]});
    let reader = put(&agent, &pod("reader", "data", read_only)).await;
    let part = json!({"containers": [{"name": "c", "image": "busybox:1.28", "command": ["sleep", "3600"],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "sub"}]}]});
    let part = put(&agent, &pod("part", "data", part)).await;
    let pod = agent.until(&reader, "running", runs).await;
    let refused = execute(&agent, &pod, "echo x > /data/file || echo refused; cat /data/file");
    assert!(refused.ends_with("refused\none\nthree"), "{refused}");
    let pod = agent.until(&part, "running", runs).await;
    assert_eq!(execute(&agent, &pod, "cat /data/file"), "two");
    end_pod(&agent, &part).await;
    assert_eq!(fs::read_to_string(folder.join("sub/file")).expect("there"), "two\n");

    // A volume that is said to be released too early keeps its data as long as a pod has it.
    release(&agent, &key, name).await;
    until_volume(&agent, name, "kept", |phase| phase == Some("Failed")).await;
    told(
        &agent,
        &format!("VolumeFailedDelete persistentvolume {name} is still used by pod default/reader"),
    )
    .await;
    assert!(folder.join("file").exists());
    end_pod(&agent, &reader).await;
    until_volume(&agent, name, "gone", |phase| phase.is_none()).await;
    assert!(!folder.exists());
    let kept = fs::read_to_string(claims_folder(&agent).join("pvc-old/data")).expect("there");
    assert_eq!(kept, "only copy");
    told(&agent, "VolumeLeftOver").await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_of_the_engine_is_made_mounted_and_removed() {
    let agent = agent();
    let mut retain = class("keep", "ballast.dev/docker-volume", "Retain");
    retain.reclaim_policy = Some("Retain".to_owned());
    agent.shelf.create(&retain).await.expect("put");
    agent
        .shelf
        .create(&class("docker-volume", "ballast.dev/docker-volume", "Delete"))
        .await
        .expect("put");
    let (key, kept) = (
        claim(&agent, "data", "docker-volume", "ReadWriteOnce").await,
        claim(&agent, "kept", "keep", "ReadWriteOnce").await,
    );
    let (name, kept_name) = ("pvc-uid-of-data", "pvc-uid-of-kept");
    for (key, name) in [(&key, name), (&kept, kept_name)] {
        until_volume(&agent, name, "made", |phase| phase.is_some()).await;
        bind(&agent, key, name).await;
    }
    let grouped = json!({"securityContext": {"runAsUser": 1000, "fsGroup": 2000}});
    let first = put(&agent, &pod("first", "data", grouped)).await;
    let running = agent.until(&first, "running", runs).await;
    let mounts =
        agent.docker(&["inspect", "-f", "{{json .HostConfig.Mounts}}", &container_id(&running, 0)]);
    let mounts: Value = serde_json::from_str(&mounts).expect("JSON");
    let mount = mounts.as_array().expect("a list").iter().find(|mount| mount["Target"] == "/data");
    let mount = mount.expect("it is mounted");
    assert_eq!((&mount["Type"], &mount["Source"]), (&json!("volume"), &json!(name)));
    assert_eq!(mount["VolumeOptions"]["NoCopy"], json!(true));
    execute(&agent, &running, "mkdir /data/sub; echo one > /data/sub/file");
    let owner = fs::metadata(inside(&agent, &running, "/data/sub/file")).expect("there").gid();
    assert_eq!(owner, 2000);

    // What was asked for and what is told are one: nothing drifts, and nothing is made anew.
    let id = container_id(&running, 0);
    let part = json!({"containers": [{"name": "c", "image": "busybox:1.28", "command": ["sleep", "3600"],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "sub", "readOnly": true}]}]});
    let part = put(&agent, &pod("part", "data", part)).await;
    let of_part = agent.until(&part, "running", runs).await;
    assert_eq!(execute(&agent, &of_part, "cat /data/file"), "one");
    assert_eq!(container_id(&agent.pod(&first).await, 0), id);
    let drifts =
        agent.shelf.list::<ballast::object::drift::Drift>(&Scope::all()).await.expect("read");
    assert!(drifts.items.is_empty(), "{:?}", drifts.items);
    end_pod(&agent, &part).await;
    end_pod(&agent, &first).await;
    let again = put(&agent, &pod("again", "data", json!({}))).await;
    let running = agent.until(&again, "running", runs).await;
    assert_eq!(execute(&agent, &running, "cat /data/sub/file"), "one");
    end_pod(&agent, &again).await;

    // Somebody removes it: the next pod waits, and gets no empty one of its name.
    let volumes = || agent.docker(&["volume", "ls", "-q"]);
    assert!(volumes().contains(name));
    agent.docker(&["volume", "rm", name]);
    put(&agent, &pod("waits", "data", json!({}))).await;
    told(&agent, &format!("FailedMount MountVolume.SetUp failed for volume \"{name}\" : docker volume \"{name}\" does not exist")).await;
    assert!(!volumes().contains(name));
    agent.shelf.delete_pod(&Key::new("default", "waits"), 0, jiff::Timestamp::now());

    release(&agent, &key, name).await;
    until_volume(&agent, name, "gone", |phase| phase.is_none()).await;
    release(&agent, &kept, kept_name).await;
    // One that is provisioned later is there: what is retained had its turn.
    let later = claim(&agent, "later", "docker-volume", "ReadWriteOnce").await;
    until_volume(&agent, "pvc-uid-of-later", "made", |phase| phase.is_some()).await;
    release(&agent, &later, "pvc-uid-of-later").await;
    until_volume(&agent, "pvc-uid-of-later", "gone", |phase| phase.is_none()).await;
    assert!(!volumes().contains("pvc-uid-of-later") && volumes().contains(kept_name));
    assert!(volume(&agent, kept_name).await.is_some());
    agent.end().await;
}

/// https://kubernetes.io/docs/tasks/configure-pod-container/configure-persistent-volume-storage/
const TASK_VOLUME: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata:
  name: task-pv-volume
  labels:
    type: local
spec:
  storageClassName: manual
  capacity:
    storage: 10Gi
  accessModes:
    - ReadWriteOnce
  hostPath:
    path: "/mnt/data"
"#;

const TASK_CLAIM: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: task-pv-claim
spec:
  storageClassName: manual
  accessModes:
    - ReadWriteOnce
  resources:
    requests:
      storage: 3Gi
"#;

const TASK_POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: task-pv-pod
spec:
  volumes:
    - name: task-pv-storage
      persistentVolumeClaim:
        claimName: task-pv-claim
  containers:
    - name: task-pv-container
      image: nginx
      ports:
        - containerPort: 80
          name: "http-server"
      volumeMounts:
        - mountPath: "/usr/share/nginx/html"
          name: task-pv-storage
"#;

/// A volume that somebody wrote, bound to a claim that somebody wrote.
async fn put_bound(agent: &Agent, mut volume: Value, mut claim: Value) -> Key {
    let name = claim["metadata"]["name"].as_str().expect("a name").to_owned();
    merge(
        &mut claim,
        &json!({"metadata": {"namespace": "default", "uid": format!("uid-of-{name}")}}),
    );
    let reference = json!({"claimRef": {"namespace": "default", "name": name, "uid": format!("uid-of-{name}")}});
    merge(&mut volume["spec"], &reference);
    let volume: PersistentVolume = serde_json::from_value(volume).expect("a volume");
    let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
    agent.shelf.create(&volume).await.expect("put");
    agent.shelf.create(&claim).await.expect("put");
    bind(agent, &claim.key(), &volume.key().name).await;
    claim.key()
}

fn allow(path: &Path) -> Arc<Privileges> {
    let (mut written, mut flags) = (WrittenAll::new(), Flags::default());
    flags.host_paths = vec![format!("default:{}", path.display())];
    flags.add_to(&mut written, &mut Vec::new());
    Arc::new(Privileges::read(written, Vec::new(), &mut Vec::new()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_that_somebody_wrote_are_folders_that_are_there_and_allowed() {
    let mut agent = agent();
    let folder = HostFolder::new();
    let mnt = folder.path().join("data");
    let mut written: Value = serde_yaml::from_str(TASK_VOLUME).expect("a manifest");
    written["spec"]["hostPath"]["path"] = json!(mnt);
    put_bound(&agent, written, serde_yaml::from_str(TASK_CLAIM).expect("a manifest")).await;
    agent.docker(&["tag", "busybox:1.28", "nginx"]);
    let mut nginx = parsed(TASK_POD);
    nginx["spec"]["containers"][0]["command"] = json!(["sleep", "3600"]);
    nginx["spec"]["terminationGracePeriodSeconds"] = json!(1);
    nginx["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    let key = put(&agent, &nginx).await;
    let allowed = format!(
        "FailedMount MountVolume.SetUp failed for volume \"task-pv-volume\" : path {0}: the daemon does not allow namespace \"default\" to mount {0}; to allow it: start the daemon with --allow-host-path default:{0} (or allow: in its config file)",
        mnt.display()
    );
    told(&agent, &allowed).await;
    assert!(!mnt.exists(), "nothing is made of what is not allowed");
    agent.options.privileges = allow(folder.path());
    agent.restart().await;
    let running = agent.until(&key, "running", runs).await;
    fs::write(mnt.join("index.html"), "Hello from Kubernetes storage").expect("written");
    let served = execute(&agent, &running, "cat /usr/share/nginx/html/index.html");
    assert_eq!(served, "Hello from Kubernetes storage");

    // A local volume that is not there is never made: an empty one would hide that data is lost.
    let disk = folder.path().join("disk");
    let local = |name: &str, path: &Path, node: &str| {
        let here = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
        json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOncePod"], "local": {"path": path},
            "persistentVolumeReclaimPolicy": "Retain",
            "nodeAffinity": {"required": {"nodeSelectorTerms": here}}}})
    };
    let of = |name: &str| json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOncePod"]}});
    let disk_claim = put_bound(&agent, local("disk", &disk, "n1"), of("disk")).await;
    let grouped = json!({"securityContext": {"runAsUser": 1000, "fsGroup": 2000}});
    let on_disk = put(&agent, &pod("on-disk", "disk", grouped.clone())).await;
    let missing = format!(
        "FailedMount MountVolume.NewMounter initialization failed for volume \"disk\" : path \"{}\" does not exist",
        disk.display()
    );
    told(&agent, &missing).await;
    assert!(!disk.exists());
    fs::create_dir_all(disk.join("sub")).expect("made");
    fs::write(disk.join("sub/file"), "earlier").expect("written");
    fs::set_permissions(disk.join("sub/file"), fs::Permissions::from_mode(0o600)).expect("set");
    // The kubelet tries again by itself; a restart makes the test shorter.
    agent.restart().await;
    let running = agent.until(&on_disk, "running", runs).await;
    let seen = fs::metadata(disk.join("sub/file")).expect("there");
    assert_eq!((seen.gid(), seen.permissions().mode() & 0o777), (2000, 0o660));
    assert_eq!(execute(&agent, &running, "cat /data/sub/file"), "earlier");

    // It is one pod's, and its next one's when that has gone.
    let other = put(&agent, &pod("other", "disk", grouped)).await;
    told(&agent, "MountVolume.SetUp failed for volume \"disk\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod").await;
    assert_eq!(phase(&agent.pod(&other).await), "Pending");
    end_pod(&agent, &on_disk).await;
    agent.until(&other, "running", runs).await;

    put_bound(&agent, local("far", &disk, "n2"), of("far")).await;
    put(&agent, &pod("far", "far", json!({}))).await;
    told(&agent, "FailedMount MountVolume.NodeAffinity check failed for volume \"far\" : no matching NodeSelectorTerms").await;
    let own = claims_folder(&agent).join("pvc-theirs");
    fs::create_dir_all(&own).expect("made");
    put_bound(&agent, local("thief", &own, "n1"), of("thief")).await;
    put(&agent, &pod("thief", "thief", json!({}))).await;
    told(&agent, "MountVolume.SetUp failed for volume \"thief\" : ").await;

    end_pod(&agent, &other).await;
    release(&agent, &disk_claim, "disk").await;
    end_pod(&agent, &key).await;
    assert_eq!(fs::read_to_string(disk.join("sub/file")).expect("there"), "earlier");
    assert!(mnt.join("index.html").exists() && volume(&agent, "disk").await.is_some());
    for name in ["far", "thief"] {
        agent.shelf.delete_pod(&Key::new("default", name), 0, jiff::Timestamp::now());
    }
    agent.end().await;
}

/// A crash at any point: a directory without its object, and an object without the daemon's memory of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_is_taken_up() {
    let mut agent = agent();
    let folder = claims_folder(&agent).join("pvc-uid-of-data");
    agent
        .restart_after(|_| {
            fs::create_dir_all(&folder).expect("made");
            fs::write(folder.join("file"), "kept").expect("written");
        })
        .await;
    agent
        .shelf
        .create(&class("local-path", "ballast.dev/local-path", "Delete"))
        .await
        .expect("put");
    let key = claim(&agent, "data", "local-path", "ReadWriteOnce").await;
    let name = "pvc-uid-of-data";
    until_volume(&agent, name, "made", |phase| phase.is_some()).await;
    bind(&agent, &key, name).await;
    let first = put(&agent, &pod("first", "data", json!({}))).await;
    let running: Pod = agent.until(&first, "running", runs).await;
    assert_eq!(execute(&agent, &running, "cat /data/file"), "kept");
    // The pod, its claim and its data go while nobody looks.
    agent.restart_after(|agent| agent.shelf.delete_pod(&first, 1, jiff::Timestamp::now())).await;
    gone(&agent, &first).await;
    fs::remove_dir_all(&folder).expect("somebody removes it");
    release(&agent, &key, name).await;
    until_volume(&agent, name, "gone", |phase| phase.is_none()).await;
    agent.end().await;
}
