//! What keeps an installation whole: one daemon at a time, a node that keeps its name, a directory
//! that is closed and says whose it is, a lost store that costs no workload, and a reset that takes
//! nothing of anybody else's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::harness::{Daemon, Engine, Repo, await_that};
use crate::whole_path::{cluster_ip, get, members};

/// One of Ballast's commands that must end by itself.
fn ballast(engine: &Engine, arguments: &[&str]) -> Output {
    let mut command = engine.inside("timeout");
    command.args(["30", env!("CARGO_BIN_EXE_ballast")]).args(arguments);
    command.args(["--docker", &engine.socket()]).output().expect("ballast starts")
}

fn refused(output: &Output, because: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(told.contains(because), "{told}");
}

/// The ids that the lines of [`members`] begin with.
fn ids(members: &[String]) -> Vec<&str> {
    members.iter().filter_map(|line| line.split(' ').next()).collect()
}

#[test]
fn an_installation_has_one_daemon_and_outlives_its_store() {
    let engine = Engine::with_images();
    let repo = Repo::of_example(&engine.dir.join("repo"));
    let mut daemon = Daemon::prepared(&engine, &[&repo.dir.to_string_lossy()]);
    daemon.spawn_on_host("first-name");
    daemon.ready();
    daemon.rolled_out("shop", "web");
    daemon.rolled_out("shop", "api");
    let before = members(&engine);

    // Mirrors and volumes hold Secrets in files that containers must be able to read.
    let mode = fs::metadata(&daemon.data_dir).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "the data directory is closed to other users");

    // A second daemon, and a reset, by way of another directory.
    let elsewhere = engine.dir.join("elsewhere");
    let (elsewhere, followed) = (elsewhere.to_string_lossy(), repo.dir.to_string_lossy());
    let second = ["run", &*followed, "--data-dir", &elsewhere, "--listen", "127.0.0.1:7450"];
    refused(&ballast(&engine, &second), "installation default is in use by process");
    let reset = ["reset", "--yes", "--installation", "default", "--data-dir", &elsewhere];
    refused(&ballast(&engine, &reset), "installation default is in use by process");
    assert_eq!(members(&engine), before, "nothing of the first one was touched");

    // The host is renamed: the node is not, and its containers are its own still.
    daemon.stop();
    daemon.spawn_on_host("second-name");
    daemon.ready();
    repo.replace("web.yaml", "replicas: 3", "replicas: 4");
    let grown = repo.commit("One more");
    await_that("the commit is applied", &daemon, || {
        let applied =
            daemon.kubectl(&["get", "sources", "main", "-o", "jsonpath={.status.applied.id}"]);
        if applied == grown { Ok(()) } else { Err(applied) }
    });
    daemon.rolled_out("shop", "web");
    let after = members(&engine);
    assert_eq!(after.len(), before.len() + 1, "{after:?}");
    assert!(before.iter().all(|line| after.contains(line)), "{before:?} {after:?}");
    assert_eq!(daemon.kubectl(&["get", "nodes", "-o", "name"]).trim(), "node/first-name");

    // The store is lost and the repository is away: everything runs on, Services too.
    let web = format!("http://{}/", cluster_ip(&daemon, "web"));
    daemon.stop();
    let away = engine.dir.join("away");
    let mut anew = Daemon::prepared(&engine, &[&away.to_string_lossy()]);
    anew.data_dir = engine.dir.join("data-2");
    anew.spawn_on_host("first-name");
    anew.ready();
    await_that("the hold is told", &anew, || {
        let events = anew.kubectl(&["get", "events", "-A"]);
        if events.contains("ContainersHeld") { Ok(()) } else { Err(events) }
    });
    assert_eq!(members(&engine), after, "no pod is known, and no container was removed");
    get(&engine, &web).expect("the Service answers");
    fs::rename(&repo.dir, &away).expect("the repository is back");
    anew.rolled_out("shop", "web");
    await_that("what the lost store ran is replaced", &anew, || {
        let now = members(&engine);
        let old = ids(&after);
        let left: Vec<_> = ids(&now).into_iter().filter(|id| old.contains(id)).collect();
        if left.is_empty() && now.len() == after.len() { Ok(()) } else { Err(now.clone()) }
    });
    anew.stop();

    // A reset takes what is the installation's: the directory must say so.
    let data = anew.data_dir.to_string_lossy().into_owned();
    let other = ["reset", "--yes", "--installation", "other", "--data-dir", &data];
    refused(&ballast(&engine, &other), "belongs to installation default");
    let not_ours = ["reset", "--yes", "--data-dir", &away.to_string_lossy()];
    refused(&ballast(&engine, &not_ours), "does not say that it is Ballast's");
    engine.docker(&["network", "create", "ballast-other"]);
    let other = ["reset", "--yes", "--installation", "other", "--data-dir", &elsewhere];
    let nothing = ballast(&engine, &other);
    assert!(nothing.status.success(), "{nothing:?}");
    assert!(!members(&engine).is_empty() && away.join("web.yaml").exists());
    assert!(anew.data_dir.join("store.db").exists());

    // Without an engine the rules go, and what cannot be looked at stays.
    assert!(engine.iptables_save().contains("BALLAST"));
    let nowhere = format!("unix://{}/nowhere.sock", engine.dir.display());
    let away_engine = engine
        .inside(env!("CARGO_BIN_EXE_ballast"))
        .args(["reset", "--yes", "--data-dir", &data, "--docker", &nowhere])
        .output()
        .expect("ballast starts");
    refused(&away_engine, "stay until Docker answers");
    assert!(!engine.iptables_save().contains("BALLAST"), "{}", engine.iptables_save());
    assert!(!members(&engine).is_empty() && anew.data_dir.exists());

    // Without an answer nothing goes; what would go is shown.
    let (shown, held) = (ballast(&engine, &["reset", "--data-dir", &data]), members(&engine));
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    let told = String::from_utf8_lossy(&shown.stdout);
    for part in ["Installation default on this host:", "_web_", &data, "nothing was removed"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!held.is_empty() && anew.data_dir.exists());
    let all = ballast(&engine, &["reset", "--yes", "--data-dir", &data]);
    assert!(all.status.success(), "{all:?}");
    assert_eq!(engine.ours("{{.Names}}"), Vec::<String>::new());
    assert!(!anew.data_dir.exists());
    assert_eq!(engine.docker(&["images", "-q", "ballast/pause"]), "", "the sandboxes' image");
    let networks = engine.docker(&["network", "ls", "--format", "{{.Name}}"]);
    let ballasts: Vec<_> = networks.lines().filter(|name| name.contains("ballast")).collect();
    assert_eq!(ballasts, ["ballast-other"], "a network without our label is somebody else's");
    // The first directory is the installation's too, and goes by the same word.
    let first = daemon.data_dir.to_string_lossy().into_owned();
    assert!(ballast(&engine, &["reset", "--yes", "--data-dir", &first]).status.success());
    assert!(!daemon.data_dir.exists());
}
