//! One push becomes running containers: the whole path as a user sees it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Daemon, Engine, Repo, await_that};

/// A client container on the engine's default bridge that requests a URL for some seconds.
struct Load {
    child: Child,
}

impl Load {
    fn start(engine: &Engine, url: &str, seconds: u32, mode: &str) -> Self {
        let mut command = engine.inside("docker");
        command.arg("-H").arg(engine.socket()).args([
            "run",
            "--rm",
            "ballast.example/client:v1",
            url,
            &seconds.to_string(),
            mode,
            "5",
        ]);
        Self {
            child: command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("docker starts"),
        }
    }

    /// `requests=… failed=… versions=…`, with every failure's sentence behind it.
    fn finish(self) -> String {
        let output = self.child.wait_with_output().expect("the client ends");
        assert!(output.status.success(), "the client: {}", String::from_utf8_lossy(&output.stderr));
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

pub fn get(engine: &Engine, url: &str) -> Result<String, String> {
    let output = engine.try_docker(&["run", "--rm", "ballast.example/client:v1", "get", url]);
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

pub fn cluster_ip(daemon: &Daemon<'_>, service: &str) -> String {
    daemon.kubectl(&["get", "svc", "-n", "shop", service, "-o", "jsonpath={.spec.clusterIP}"])
}

/// Containers of pod members (not sandboxes) as `id name`.
pub fn members(engine: &Engine) -> Vec<String> {
    let mut lines = engine.ours("{{.ID}} {{.Names}} {{.Label \"ballast.dev/kind\"}} {{.State}}");
    lines.retain(|line| line.contains(" container "));
    lines.sort();
    lines
}

/// `file:line` of a Drift's wanted value.
fn origin(drift: &Value) -> String {
    let origin = &drift["spec"]["origin"];
    format!("{}:{}", origin["file"].as_str().unwrap_or_default(), origin["line"])
}

fn shop(bridge_netfilter: &str) {
    let engine = Engine::with_images();
    engine.sysctl("net.bridge.bridge-nf-call-iptables", bridge_netfilter);
    let foreign = engine.docker(&["run", "-d", "--name", "foreign", "ballast.example/web:v1"]);
    let repo = Repo::of_example(&engine.dir.join("repo"));
    let mut daemon = Daemon::start(&engine, &[&repo.dir.to_string_lossy()]);

    // A commit becomes containers behind a Service.
    daemon.rolled_out("shop", "web");
    daemon.rolled_out("shop", "api");
    let web = format!("http://{}/", cluster_ip(&daemon, "web"));
    await_that("the ClusterIP answers", &daemon, || {
        get(&engine, &web).and_then(|body| if body.starts_with("v1 ") { Ok(()) } else { Err(body) })
    });
    let node_port = format!("http://{}:30080/", engine.address());
    await_that("the NodePort answers", &daemon, || get(&engine, &node_port));
    let from_the_node =
        engine.inside("curl").args(["-s", "--max-time", "5", &web]).output().expect("curl starts");
    assert!(
        String::from_utf8_lossy(&from_the_node.stdout).starts_with("v1 "),
        "the node itself reaches the ClusterIP"
    );

    // A pod reaches the Service it stands behind, also when it is answered by itself.
    let pod = daemon.kubectl(&[
        "get",
        "pods",
        "-n",
        "shop",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[0].metadata.uid}",
    ]);
    // By its name: one that was made before its pod has no other word of it.
    let named = format!("name=_POD_.*_{pod}_");
    let sandbox = engine.docker(&["ps", "-q", "--filter", &named]);
    for _ in 0..12 {
        let network = format!("container:{}", sandbox.trim());
        engine.docker(&[
            "run",
            "--rm",
            "--network",
            &network,
            "ballast.example/client:v1",
            "get",
            &web,
        ]);
    }

    // A second commit rolls them without a failed request, and kubectl sees it as it happens.
    let pods = ["-n", "shop", "-l", "app=web"];
    let watched = daemon.following(&[&["get", "pods", "-w", "--no-headers"][..], &pods].concat());
    let old = daemon.kubectl(&[&["get", "pods", "-o", "name"][..], &pods].concat());
    let old: Vec<&str> = old.lines().map(|line| line.trim_start_matches("pod/")).collect();
    let mut logs = daemon.following(&["logs", "-f", "-n", "shop", old[0]]);
    await_that("the watch and the log are open", &daemon, || {
        let (seen, log) = (watched.text(), logs.text());
        if old.iter().all(|name| seen.contains(name)) && log.contains("listening") {
            Ok(())
        } else {
            Err((seen, log))
        }
    });
    let loads = [("new", &web), ("keep-alive", &web), ("new", &node_port)]
        .map(|(mode, url)| Load::start(&engine, url, 20, mode));
    std::thread::sleep(Duration::from_secs(2));
    repo.replace("web.yaml", "ballast.example/web:v1", "ballast.example/web:v2");
    let second = repo.commit("Serve v2");
    await_that("v2 is applied", &daemon, || {
        let source =
            daemon.kubectl(&["get", "sources", "main", "-o", "jsonpath={.status.applied.id}"]);
        if source == second { Ok(()) } else { Err(source) }
    });
    daemon.rolled_out("shop", "web");
    for load in loads {
        let result = load.finish();
        assert!(result.contains(" failed=0 "), "the rolling update lost requests: {result}");
        assert!(result.contains("v2:"), "the client saw the new version: {result}");
    }

    await_that("the log tells the end, and ends", &daemon, || {
        let ended = logs.has_ended();
        if ended && logs.text().contains("SIGTERM: not ready any more") {
            Ok(())
        } else {
            Err((ended, logs.text()))
        }
    });
    await_that("the watch tells the rollout", &daemon, || {
        let seen = watched.text();
        let has = |name: &dyn Fn(&str) -> bool, word: &str| {
            seen.lines()
                .any(|line| line.split_whitespace().next().is_some_and(name) && line.contains(word))
        };
        let all_gone = old.iter().all(|old| has(&|name| name == *old, "Terminating"));
        let new = |name: &str| !old.contains(&name);
        // How it waits is a matter of time: a fast engine leaves no moment for ContainerCreating.
        if all_gone && has(&new, "0/1") && has(&new, "1/1") { Ok(()) } else { Err(seen) }
    });
    drop(watched);

    // A first start and a rollout are progress: nothing was ever called a drift.
    assert_eq!(daemon.kubectl(&["get", "drifts", "-A", "-o", "name"]), "");

    // A killed container comes back, and the drift is recorded with its cause and its line.
    let before = members(&engine);
    let victim = before
        .iter()
        .find(|line| line.contains("_web_"))
        .expect("a web container")
        .split(' ')
        .next()
        .expect("an id")
        .to_owned();
    engine.docker(&["kill", &victim]);
    await_that("the container is running again", &daemon, || {
        let now = members(&engine);
        let running = now.iter().filter(|line| line.ends_with(" running")).count();
        if running == before.len()
            && !now.iter().any(|line| line.starts_with(&victim) && line.ends_with(" running"))
        {
            Ok(())
        } else {
            Err(now)
        }
    });
    daemon.rolled_out("shop", "web");
    await_that("the kill is on record", &daemon, || {
        let drifts = daemon.curl("/api/v1/drift");
        let drifts: Value = serde_json::from_str(&drifts).map_err(|error| error.to_string())?;
        let closed = drifts["closed"].as_array().into_iter().flatten();
        let mut killed = closed.filter(|drift| {
            drift["spec"]["layer"] == "container" && drift["status"]["action"] == "Healed"
        });
        let Some(drift) = killed.next() else { return Err(drifts.to_string()) };
        assert_eq!(
            (&drift["spec"]["class"], &drift["spec"]["field"]),
            (&json!("Stopped"), &json!("containers[web]"))
        );
        assert_eq!(origin(drift), format!("web.yaml:{}", repo.line("web.yaml", "- name: web")));
        Ok(())
    });

    // Flushed rules come back, and the drift is recorded.
    for chain in engine
        .iptables_save()
        .lines()
        .filter_map(|line| line.strip_prefix(":BALLAST-"))
        .map(|line| format!("BALLAST-{}", line.split(' ').next().expect("a name")))
    {
        let _ = engine.inside("iptables").args(["-w", "-t", "nat", "-F", &chain]).output();
    }
    await_that("the ClusterIP answers again", &daemon, || get(&engine, &web));
    await_that("the flush is on record", &daemon, || {
        let drifts = daemon.curl("/api/v1/drift");
        let drifts: Value = serde_json::from_str(&drifts).map_err(|error| error.to_string())?;
        let all = ["open", "closed"].map(|list| drifts[list].as_array().cloned());
        let mut all = all.into_iter().flatten().flatten();
        let flushed = all.find(|drift| {
            let chain = drift["spec"]["field"].as_str().unwrap_or_default();
            drift["spec"]["object"]["name"] == "web" && chain.starts_with("nat/BALLAST-SVC-")
        });
        let Some(drift) = flushed else { return Err(drifts.to_string()) };
        assert_eq!(
            origin(&drift),
            format!("web.yaml:{}", repo.line("web.yaml", "- name: http\n    port"))
        );
        Ok(())
    });
    assert!(daemon.kubectl(&["get", "drifts", "-A"]).contains("network"));

    // Killing the daemon and starting it again restarts no container and creates no duplicate.
    daemon.rolled_out("shop", "web");
    let before = members(&engine);
    daemon.kill();
    daemon.spawn();
    daemon.ready();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(members(&engine), before, "a restart of the daemon touches no container");

    // kubectl reads everything it needs.
    let table = daemon.kubectl(&["get", "pods,deploy,svc,drifts", "-A"]);
    assert!(table.contains("3/3") && table.contains("NodePort"), "{table}");
    assert!(
        daemon.kubectl(&["get", "pods", "-n", "shop", "-o", "yaml"]).contains("containerStatuses:")
    );
    let pod = daemon.kubectl(&["get", "pods", "-n", "shop", "-l", "app=web", "-o", "name"]);
    let pod = pod.lines().next().expect("a pod");
    assert!(
        daemon.kubectl(&["describe", "-n", "shop", pod]).contains("Scheduled"),
        "describe shows events"
    );
    assert!(daemon.kubectl(&["logs", "-n", "shop", pod]).contains("listening"));
    let name = pod.trim_start_matches("pod/");
    assert!(daemon.kubectl(&["top", "pods", "-n", "shop"]).contains(name));
    assert!(daemon.kubectl(&["top", "nodes"]).contains("Mi"));
    let denied = daemon.try_kubectl(&["delete", "-n", "shop", pod, "--wait=false"]);
    assert!(
        String::from_utf8_lossy(&denied.stderr).contains("this cluster changes through Git"),
        "{denied:?}"
    );
    let secret = daemon.kubectl(&["get", "secret", "-n", "shop", "api-key", "-o", "yaml"]);
    assert!(!secret.contains("bm90LWEtcmVhbC1rZXk"), "a reader sees no Secret value: {secret}");

    // A broken commit changes nothing and says where it is broken.
    repo.replace("web.yaml", "replicas: 3", "replicas: many");
    repo.commit("Break it");
    await_that("the commit is refused", &daemon, || {
        let source =
            daemon.kubectl(&["get", "sources", "main", "-o", "jsonpath={.status.problems}"]);
        if source.contains("web.yaml") && source.contains("spec.replicas") {
            Ok(())
        } else {
            Err(source)
        }
    });
    assert!(
        get(&engine, &web).is_ok_and(|body| body.starts_with("v2 ")),
        "the previous commit runs on"
    );

    // A version that never becomes ready takes no request, and `git revert` takes it back.
    repo.replace("web.yaml", "replicas: many", "replicas: 3");
    repo.commit("Mend it");
    repo.replace("web.yaml", "ballast.example/web:v2", "ballast.example/web:v3");
    repo.commit("Serve v3");
    let all = ["get", "pods", "-n", "shop", "-l", "app=web", "--no-headers"];
    let has = |pods: &str, ready: &str| {
        pods.lines().filter(|line| line.contains(ready) && line.contains("Running")).count()
    };
    await_that("one pod of v3 runs and is not ready", &daemon, || {
        let pods = daemon.kubectl(&all);
        if has(&pods, " 0/1 ") == 1 { Ok(()) } else { Err(pods) }
    });
    std::thread::sleep(Duration::from_secs(3));
    let pods = daemon.kubectl(&all);
    assert_eq!((has(&pods, " 1/1 "), has(&pods, " 0/1 ")), (3, 1), "{pods}");
    for _ in 0..8 {
        assert!(get(&engine, &web).is_ok_and(|body| body.starts_with("v2 ")), "v3 is not asked");
    }
    repo.revert();
    daemon.rolled_out("shop", "web");
    let pods = daemon.kubectl(&all);
    assert_eq!(has(&pods, " 0/1 "), 0, "{pods}");

    // What leaves the commit is pruned.
    repo.replace("web.yaml", "replicas: 3", "replicas: 2");
    std::fs::remove_file(repo.dir.join("api.yaml")).expect("removed");
    repo.commit("Close the second tier");
    await_that("the second tier is gone", &daemon, || {
        let left = daemon.kubectl(&["get", "deploy,svc,pods", "-n", "shop", "-o", "name"]);
        if left.contains("api") { Err(left) } else { Ok(()) }
    });
    daemon.rolled_out("shop", "web");

    // Stopping leaves the rules and the containers; reset removes what is ours and nothing else.
    daemon.stop();
    assert!(engine.iptables_save().contains("BALLAST"), "stopping the daemon leaves the rules");
    let reset = daemon.ballast(&[
        "reset",
        "--yes",
        "--data-dir",
        &daemon.data_dir.to_string_lossy(),
        "--docker",
        &engine.socket(),
    ]);
    assert!(reset.status.success(), "{reset:?}");
    assert_eq!(engine.ours("{{.Names}}"), Vec::<String>::new());
    assert!(!engine.iptables_save().contains("BALLAST"), "{}", engine.iptables_save());
    assert!(!daemon.data_dir.exists());
    let state =
        engine.docker(&["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", foreign.trim()]);
    assert_eq!(state.trim(), "running 0", "a foreign container is never touched");
}

#[test]
fn the_shop_opens_rolls_heals_and_closes() {
    shop("1");
}

#[test]
fn the_shop_works_where_the_host_had_bridge_netfilter_off() {
    shop("0");
}

#[test]
fn an_unreachable_engine_is_said_and_waited_for() {
    let engine = Engine::with_images();
    let repo = Repo::of_example(&engine.dir.join("repo"));
    let daemon = Daemon::start(&engine, &[&repo.dir.to_string_lossy()]);
    daemon.rolled_out("shop", "api");
    daemon.rolled_out("shop", "web");
    let before = members(&engine);
    let pid = std::fs::read_to_string(engine.dir.join("dockerd.pid")).expect("dockerd runs");
    crate::harness::run(Command::new("kill").args(["-STOP", pid.trim()]));
    await_that("the node says that Docker does not answer", &daemon, || {
        let node = daemon.kubectl(&[
            "get",
            "node",
            "node-1",
            "-o",
            "jsonpath={.status.conditions[?(@.type=='Ready')].status}",
        ]);
        if node == "False" { Ok(()) } else { Err(node) }
    });
    crate::harness::run(Command::new("kill").args(["-CONT", pid.trim()]));
    await_that("the node is ready again", &daemon, || {
        let node = daemon.kubectl(&[
            "get",
            "node",
            "node-1",
            "-o",
            "jsonpath={.status.conditions[?(@.type=='Ready')].status}",
        ]);
        if node == "True" { Ok(()) } else { Err(node) }
    });
    daemon.rolled_out("shop", "web");
    assert_eq!(members(&engine), before, "nothing was restarted");
}

#[test]
fn without_net_admin_containers_run_and_services_are_said_to_be_missing() {
    let engine = Engine::with_images();
    let repo = Repo::of_example(&engine.dir.join("repo"));
    let mut daemon = Daemon::prepared(&engine, &[&repo.dir.to_string_lossy()]);
    daemon.spawn_without_net_admin();
    daemon.ready();
    daemon.rolled_out("shop", "web");
    let condition = daemon.kubectl(&[
        "get",
        "node",
        "node-1",
        "-o",
        "jsonpath={.status.conditions[?(@.type=='NetworkUnavailable')].message}",
    ]);
    assert!(
        daemon.log().contains("services are not programmed")
            || condition.contains("not programmed"),
        "{condition}\n{}",
        daemon.log()
    );
    assert!(!engine.iptables_save().contains("BALLAST"));
}
