//! Claims as a user sees them: a commit, the whole daemon, and what is on the disk at the end.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Daemon, Engine, Repo, await_that};
use crate::pod_volumes::import_busybox;
use crate::whole_path::members;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

/// Three claims: of the class that everybody has, of Docker's volumes, and of one that keeps its data.
const CLAIMS: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: kept}
provisioner: ballast.dev/local-path
reclaimPolicy: Retain
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: shop}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: cache, namespace: shop}
spec: {storageClassName: docker-volume, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ledger, namespace: shop}
spec: {storageClassName: kept, accessModes: [ReadWriteOncePod], resources: {requests: {storage: 1Gi}}}
"#;

/// Each start of its container is a line in each of its volumes.
const DATABASE: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, namespace: shop}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 1000, fsGroup: 2000}
      containers:
      - name: db
        image: busybox:1.28
        command: [sh, -c, "for place in data cache ledger; do echo $VERSION >> /$place/log; done; sleep 3600"]
        env: [{name: VERSION, value: "one"}]
        volumeMounts:
        - {name: data, mountPath: /data}
        - {name: cache, mountPath: /cache}
        - {name: ledger, mountPath: /ledger}
      volumes:
      - {name: data, persistentVolumeClaim: {claimName: data}}
      - {name: cache, persistentVolumeClaim: {claimName: cache}}
      - {name: ledger, persistentVolumeClaim: {claimName: ledger}}
"#;

/// A folder of the host, by a volume that somebody wrote.
fn static_volume(path: &Path) -> String {
    format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: disk}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  local: {{path: {}}}
  claimRef: {{namespace: shop, name: disk}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [node-1]}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: disk, namespace: shop}}
spec: {{storageClassName: manual, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: reader, namespace: shop}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: reader
    image: busybox:1.28
    command: [sleep, "3600"]
    volumeMounts: [{{name: disk, mountPath: /disk}}]
  volumes: [{{name: disk, persistentVolumeClaim: {{claimName: disk}}}}]
"#,
        path.display()
    )
}

/// The name of the volume that a claim is bound to.
fn bound(daemon: &Daemon<'_>, claim: &str) -> String {
    let path = "jsonpath={.status.phase} {.spec.volumeName}";
    await_that(&format!("{claim} is bound"), daemon, || {
        let told = daemon.kubectl(&["get", "pvc", "-n", "shop", claim, "-o", path]);
        told.strip_prefix("Bound ").map(str::to_owned).ok_or(told.clone())
    })
}

fn lines(daemon: &Daemon<'_>, file: &Path, wanted: &str) {
    await_that(&format!("{} is {wanted:?}", file.display()), daemon, || {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text == wanted { Ok(()) } else { Err(text) }
    });
}

#[test]
fn a_commits_data_outlives_everything_but_its_claim() {
    let engine = Engine::with_images();
    import_busybox(|arguments| engine.docker(arguments));
    let disk = engine.dir.join("disk");
    let repo = Repo::new(&engine.dir.join("repo"));
    repo.write("namespace.yaml", NAMESPACE);
    repo.write("claims.yaml", CLAIMS);
    repo.write("db.yaml", DATABASE);
    repo.write("disk.yaml", &static_volume(&disk));
    repo.commit("A database");
    let allowed = format!("shop:{}", disk.display());
    let (followed, data) = (repo.dir.to_string_lossy(), engine.dir.join("data"));
    let mut daemon = Daemon::start(&engine, &[&followed, "--allow-host-path", &allowed]);
    daemon.rolled_out("shop", "db");
    let [of_data, of_cache, of_ledger] =
        ["data", "cache", "ledger"].map(|claim| bound(&daemon, claim));
    let folder = |name: &str| data.join("volumes").join(name);
    let mountpoint = engine.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", &of_cache]);
    let cache = PathBuf::from(mountpoint.trim()).join("log");
    let logs = [folder(&of_data).join("log"), cache, folder(&of_ledger).join("log")];
    let all =
        |daemon: &Daemon<'_>, wanted: &str| logs.iter().for_each(|log| lines(daemon, log, wanted));
    all(&daemon, "one\n");

    // kubectl shows it, in columns and in words.
    let claims = daemon.kubectl(&["get", "pvc", "-n", "shop", "--no-headers"]);
    assert_eq!(claims.lines().filter(|line| line.contains("Bound")).count(), 4, "{claims}");
    let volumes = daemon.kubectl(&["get", "pv", "--no-headers"]);
    let of_claim = volumes.lines().find(|line| line.starts_with(&of_data)).expect("it is told");
    for part in ["1Gi", "RWO", "Delete", "Bound", "shop/data", "local-path"] {
        assert!(of_claim.contains(part), "{part}: {volumes}");
    }
    let described = daemon.kubectl(&["describe", "pvc", "-n", "shop", "data"]);
    for part in [&*of_data, "Used By:", "Successfully provisioned volume"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let described = daemon.kubectl(&["describe", "pv", &of_cache]);
    for part in ["CSI", "docker-volume.ballast.dev", "shop/cache", "node-1"] {
        assert!(described.contains(part), "{part}: {described}");
    }

    // A folder that is not there holds its pod, and is not made.
    await_that("the missing folder is told", &daemon, || {
        let events = daemon.kubectl(&["describe", "pod", "-n", "shop", "reader"]);
        let wanted = format!("path \"{}\" does not exist", disk.display());
        if events.contains("FailedMount") && events.contains(&wanted) {
            Ok(())
        } else {
            Err(events)
        }
    });
    assert!(!disk.exists());
    fs::create_dir(&disk).expect("made");
    fs::write(disk.join("file"), "the host's").expect("written");

    // Its container goes, the daemon is killed, its pod goes.
    let of_db = |engine: &Engine| {
        let line = members(engine).into_iter().find(|line| line.contains("_db_")).expect("it runs");
        line.split(' ').next().expect("an id").to_owned()
    };
    engine.docker(&["rm", "-f", &of_db(&engine)]);
    all(&daemon, "one\none\n");
    daemon.rolled_out("shop", "db");
    let before = of_db(&engine);
    daemon.kill();
    daemon.spawn();
    daemon.ready();
    repo.replace("db.yaml", "value: \"one\"", "value: \"two\"");
    repo.commit("Another version");
    all(&daemon, "one\none\ntwo\n");
    daemon.rolled_out("shop", "db");
    assert_ne!(of_db(&engine), before);
    await_that("the reader runs", &daemon, || {
        let path = "jsonpath={.status.phase}";
        let phase = daemon.kubectl(&["get", "pod", "-n", "shop", "reader", "-o", path]);
        if phase == "Running" { Ok(()) } else { Err(phase) }
    });
    assert_eq!(
        daemon.kubectl(&["get", "drifts", "-A", "-o", "name"]).lines().count(),
        1,
        "the rm -f"
    );

    // A commit takes the claims away: their pods go first, then the data of those that do not keep it.
    for file in ["db.yaml", "disk.yaml", "claims.yaml"] {
        fs::remove_file(repo.dir.join(file)).expect("removed");
    }
    repo.write(
        "left.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: left, namespace: shop}\n",
    );
    repo.commit("No database");
    await_that("data and cache are gone", &daemon, || {
        let volumes = daemon.kubectl(&["get", "pv", "--no-headers"]);
        let there = [&of_data, &of_cache].iter().any(|name| volumes.contains(&***name));
        if there { Err(volumes) } else { Ok(()) }
    });
    assert!(members(&engine).is_empty(), "the pods went first");
    assert!(!folder(&of_data).exists());
    let left = engine.docker(&["volume", "ls", "-q"]);
    assert!(!left.contains(&of_cache), "{left}");
    await_that("the ledger is kept", &daemon, || {
        let told = daemon.kubectl(&["get", "pv", &of_ledger, "-o", "jsonpath={.status.phase}"]);
        if told == "Released" { Ok(()) } else { Err(told) }
    });
    lines(&daemon, &logs[2], "one\none\ntwo\n");
    assert_eq!(fs::read_to_string(disk.join("file")).expect("there"), "the host's");

    // What is kept outlives a reset too, until somebody says otherwise.
    daemon.stop();
    let home = data.to_string_lossy().into_owned();
    let reset = |more: &[&str]| {
        let mut arguments = vec!["reset", "--yes", "--data-dir", &home];
        arguments.extend(more);
        let mut command = engine.inside(env!("CARGO_BIN_EXE_ballast"));
        let output = command.args(arguments).args(["--docker", &engine.socket()]).output();
        let output = output.expect("ballast starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = reset(&[]);
    assert!(told.contains(&of_ledger) && told.contains("--delete-volumes"), "{told}");
    assert!(logs[2].exists() && !data.join("store.db").exists());
    let mut anew = Daemon::prepared(&engine, &[&followed]);
    anew.spawn();
    anew.ready();
    await_that("what nobody speaks of is told", &anew, || {
        let metrics = anew.curl("/metrics");
        let one = metrics.lines().any(|line| line == "ballast_node_leftover_volumes 1");
        let events = anew.kubectl(&["get", "events", "-A"]);
        if one && events.contains("VolumeLeftOver") { Ok(()) } else { Err(events) }
    });
    assert!(logs[2].exists());
    anew.stop();
    let told = reset(&["--delete-volumes"]);
    assert!(told.contains(&of_ledger), "{told}");
    assert!(!data.exists());
}
