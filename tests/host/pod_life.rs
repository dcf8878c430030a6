//! The life of a pod's containers on a real engine: in which order they start and end, what runs at
//! both ends, what is left to read of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ballast::object::extended::DeviceClass;
use ballast::object::{Cluster, Key};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Pod};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{PATIENCE, run};
use crate::node::{Agent, is_ready, restarts};

const IMAGE: &str = "ballast.example/shell:v1";

/// An agent whose engine has a shell, and a folder of the host that containers write to.
struct World {
    agent: Agent,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let (agent, folder) = (Agent::new(), tempfile::tempdir().expect("a folder"));
        let bin = folder.path().join("root/bin");
        fs::create_dir_all(&bin).expect("a folder");
        fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox, statically linked");
        for program in ["sh", "sleep", "cat", "test", "touch", "kill", "ps", "httpd", "seq"] {
            symlink("busybox", bin.join(program)).expect("a link");
        }
        let archive = folder.path().join("shell.tar");
        let root = folder.path().join("root");
        run(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg("."));
        agent.docker(&["import", "-c", "ENV PATH=/bin", &archive.to_string_lossy(), IMAGE]);
        fs::create_dir(folder.path().join("told")).expect("a folder");
        Self { agent, folder }
    }

    fn told_in(&self) -> PathBuf {
        self.folder.path().join("told")
    }

    /// What containers wrote into `/told/lines`.
    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.told_in().join("lines")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn put(&self, name: &str, mut spec: Value) -> Key {
        let folder = self.told_in();
        spec["volumes"] = json!([{"name": "told", "hostPath": {"path": folder}}]);
        self.agent.put(name, spec).await
    }

    async fn delete(&self, key: &Key, grace_seconds: i64) {
        self.agent.shelf.delete_pod(key, grace_seconds, jiff::Timestamp::now());
        let deadline = Instant::now() + PATIENCE;
        while self.agent.shelf.get::<Pod>(key).await.is_ok() {
            assert!(Instant::now() < deadline, "{}", self.agent.shelf.notes().join("\n"));
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    fn noted(&self, words: &str) -> usize {
        self.agent.shelf.notes().iter().filter(|note| note.contains(words)).count()
    }
}

fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "told", "mountPath": "/told"}]})
}

/// Says so at its start and at its end, and ends on SIGTERM.
fn lasting(name: &str) -> Value {
    let script = format!(
        "trap 'echo {name} ends >> /told/lines; exit 0' TERM; echo {name} >> /told/lines; \
         touch /tmp-ready; while :; do sleep 0.05; done"
    );
    shell(name, &script)
}

fn says(words: &str) -> Value {
    json!({"exec": {"command": ["sh", "-c", format!("echo {words} >> /told/lines")]}})
}

fn status<'a>(pod: &'a Pod, name: &str) -> &'a ContainerStatus {
    let status = pod.status.as_ref().expect("a status");
    let init = status.init_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten());
    all.find(|status| status.name == name).expect("the container")
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn exists(path: &Path) -> bool {
    path.exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_and_hooks_keep_their_order() {
    let world = World::new();
    let mut mesh = lasting("mesh");
    mesh["restartPolicy"] = json!("Always");
    mesh["startupProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp-ready"]}, "periodSeconds": 1});
    let mut proxy = lasting("proxy");
    proxy["restartPolicy"] = json!("Always");
    let setup = shell("setup", "echo setup >> /told/lines");
    let mut web = lasting("web");
    let hook = "sleep 0.3; echo web is open >> /told/lines";
    web["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", hook]}},
        "preStop": says("web closes")});
    let second = lasting("second");
    let spec = json!({"initContainers": [mesh, setup, proxy], "containers": [web, second],
        "terminationGracePeriodSeconds": 20});
    let key = world.put("pod", spec).await;
    let pod = world.agent.until(&key, "ready", is_ready).await;
    for name in ["mesh", "proxy", "web", "second"] {
        assert_eq!((status(&pod, name).ready, status(&pod, name).started), (true, Some(true)));
    }
    assert_eq!(
        world.told(),
        ["mesh", "setup", "proxy", "web", "web is open", "second"].map(str::to_owned)
    );
    world.delete(&key, 20).await;
    let told = world.told();
    let at = |words: &str| {
        let found = told.iter().position(|line| line == words);
        found.unwrap_or_else(|| panic!("{words:?} is not in {told:?}"))
    };
    assert!(at("web closes") < at("web ends"), "{told:?}");
    assert!(at("web ends").max(at("second ends")) < at("proxy ends"), "{told:?}");
    assert!(at("proxy ends") < at("mesh ends"), "{told:?}");
    assert_eq!(world.noted("Killing Stopping container"), 4);
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_ends_with_its_own_container_and_its_sidecar_is_restarted_until_then() {
    let world = World::new();
    let script = "trap 'exit 0' TERM; echo mesh >> /told/lines; test -e /told/again || \
        { touch /told/again; exit 3; }; while :; do sleep 0.05; done";
    let mut mesh = shell("mesh", script);
    mesh["restartPolicy"] = json!("Always");
    let work = shell("work", "while ! test -e /told/go; do sleep 0.05; done; exit 0");
    let spec = json!({"initContainers": [mesh], "containers": [work], "restartPolicy": "Never"});
    let key = world.put("job", spec).await;
    let again = |pod: &Pod| is_ready(pod) && status(pod, "mesh").restart_count == 1;
    world.agent.until(&key, "ready again", again).await;
    fs::write(world.told_in().join("go"), "").expect("written");
    let pod = world.agent.until(&key, "done", |pod| phase(pod) == "Succeeded").await;
    let ended = status(&pod, "mesh").state.clone().and_then(|state| state.terminated);
    assert_eq!(ended.map(|ended| ended.exit_code), Some(0));
    assert_eq!(world.told(), ["mesh", "mesh"]);
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_fails_is_told_and_ends_its_container() {
    let mut world = World::new();
    let mut web = lasting("web");
    let once = "test -e /told/second || { touch /told/second; exit 1; }";
    web["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", once]}},
        "preStop": {"exec": {"command": ["no-such-program"]}}});
    let key = world.put("pod", json!({"containers": [web]})).await;
    let again = |pod: &Pod| is_ready(pod) && restarts(pod) == 1;
    world.agent.until(&key, "ready again", again).await;
    assert_eq!(world.noted("FailedPostStartHook PostStartHook failed"), 1);
    assert_eq!(world.noted("Killing FailedPostStartHook"), 1);
    assert_eq!(world.noted("FailedPreStopHook PreStopHook failed"), 1);
    // A new agent runs no hook again that was seen through.
    fs::remove_file(world.told_in().join("second")).expect("it was written");
    world.agent.restart().await;
    let mut long = lasting("long");
    let endless = "touch /told/begun; while :; do sleep 1; done";
    long["lifecycle"] = json!({"preStop": {"exec": {"command": ["sh", "-c", endless]}}});
    let other = world.put("other", json!({"containers": [long]})).await;
    world.agent.until(&other, "ready", is_ready).await;
    assert!(!exists(&world.told_in().join("second")));
    // A hook that does not end has the grace, and the container 2 s more.
    let begun = Instant::now();
    world.delete(&other, 1).await;
    assert!(exists(&world.told_in().join("begun")));
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    assert!(world.told().contains(&"long ends".to_owned()), "{:?}", world.told());
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_are_read_from_the_file_or_from_the_log() {
    let world = World::new();
    let said = shell("said", "echo -n 'all is lost' > /dev/termination-log; exit 4");
    let mut logged = shell("logged", "seq 1 100; exit 1");
    logged["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    logged["terminationMessagePath"] = json!("/told-by/me");
    let mut fine = shell("fine", "echo unheard");
    fine["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let mut containers = vec![said, logged, fine];
    for container in &mut containers {
        // What admission fills in.
        if container["terminationMessagePath"].is_null() {
            container["terminationMessagePath"] = json!("/dev/termination-log");
        }
        container["securityContext"] = json!({"runAsUser": 1000});
    }
    let key = world.put("pod", json!({"containers": containers, "restartPolicy": "Never"})).await;
    let pod = world.agent.until(&key, "over", |pod| phase(pod) == "Failed").await;
    let message = |name: &str| {
        let state = status(&pod, name).state.clone().expect("a state");
        state.terminated.expect("it ended").message
    };
    assert_eq!(message("said").as_deref(), Some("all is lost"));
    let lines: Vec<String> = (21..=100).map(|number| number.to_string()).collect();
    assert_eq!(message("logged"), Some(lines.join("\n") + "\n"));
    assert_eq!(message("fine"), None);
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_are_shared_and_a_deadline_ends_the_pod() {
    let world = World::new();
    let web = lasting("web");
    // An orphan of its shell: the sandbox's own process takes it.
    let script = "(sleep 0.1 &); sleep 1; ps -o pid,ppid,stat,args > /told/processes; \
        while :; do sleep 1; done";
    let look = shell("look", script);
    let spec = json!({"containers": [web, look], "shareProcessNamespace": true,
        "activeDeadlineSeconds": 4, "terminationGracePeriodSeconds": 2});
    let key = world.put("pod", spec).await;
    let pod = world.agent.until(&key, "over", |pod| phase(pod) == "Failed").await;
    let status = pod.status.as_ref().expect("a status");
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(world.noted("DeadlineExceeded Pod was active on the node longer"), 1);
    assert_eq!(world.told(), ["web", "web ends"]);
    let seen = fs::read_to_string(world.told_in().join("processes")).expect("it looked");
    let first = seen.lines().find(|line| line.trim_start().starts_with("1 ")).expect("number 1");
    assert!(first.contains("/pause"), "{seen}");
    assert!(seen.contains("/told/lines"), "{seen}");
    let orphan = seen.lines().find(|line| line.trim_end().ends_with(" sleep 0.1"));
    assert!(orphan.is_none() && !seen.contains("[sleep]"), "{seen}");
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_made_before_its_pod_is_wholly_the_pods() {
    let mut world = World::new();
    world.agent.keep_spares(2).await;
    let ids = |agent: &Agent, filters: &[&str]| {
        let filters = filters.iter().flat_map(|filter| ["--filter", *filter]);
        let arguments: Vec<&str> = ["ps", "-q", "--no-trunc"].into_iter().chain(filters).collect();
        agent.docker(&arguments).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let spare = "label=ballast.dev/kind=spare";
    // The first one is given back, it was there to learn from: one that stays is proved.
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        let now = ids(&world.agent, &[spare]);
        if !now.is_empty() && now == seen {
            break;
        }
        assert!(Instant::now() < deadline, "no spare sandbox stays: {now:?}");
        seen = now;
    }
    let script = "cat /proc/sys/kernel/hostname /etc/hostname > /told/lines; echo $HOSTNAME >> /told/lines; \
        cat /etc/hosts > /told/hosts; echo told > /told/done; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let spec = json!({"containers": [shell("web", script)],
        "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["a.example"]}]});
    let key = world.put("named", spec).await;
    let pod = world.agent.until(&key, "ready", is_ready).await;
    while !exists(&world.told_in().join("done")) {
        assert!(Instant::now() < deadline, "it told nothing");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(world.told(), ["named", "named", "named"].map(str::to_owned));
    let hosts = fs::read_to_string(world.told_in().join("hosts")).expect("its hosts file");
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).expect("an address");
    assert!(hosts.contains(&format!("{ip}\tnamed\n")) && hosts.contains("10.1.2.3\ta.example"));
    let claimed = ids(&world.agent, &[spare, "name=_POD_named_"]);
    assert_eq!(claimed.len(), 1, "its sandbox was made before it");
    // The name alone tells a new agent whose sandbox it is.
    world.agent.restart().await;
    let pod = world.agent.until(&key, "ready", is_ready).await;
    assert_eq!((restarts(&pod), ids(&world.agent, &["name=_named_"]).len()), (0, 2));
    assert_eq!(ids(&world.agent, &[spare, "name=_POD_named_"]), claimed);
    world.delete(&key, 2).await;
    assert_eq!(ids(&world.agent, &["name=_named_"]), Vec::<String>::new());
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_behind_our_back_is_undone() {
    let world = World::new();
    let key = world.put("pod", json!({"containers": [lasting("web")]})).await;
    let pod = world.agent.until(&key, "ready", is_ready).await;
    let ours = |name: &str| {
        let filter = format!("name={name}");
        world.agent.docker(&["ps", "-q", "--no-trunc", "--filter", &filter])
    };
    let web = ours("_web_pod_");
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}: {}", world.agent.shelf.notes().join("\n"));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    // A lost name comes back, and nothing is restarted for it.
    world.agent.docker(&["rename", &web, "somebody"]);
    until("the name is back", &|| ours("_web_pod_") == web).await;
    // Who carries the pod's labels is not the pod's container.
    let format = "{{range $k, $v := .Config.Labels}}--label={{$k}}={{$v}}\n{{end}}";
    let labels = world.agent.docker(&["inspect", "-f", format, &web]);
    let mut copy = vec!["run", "-d", "--name", "copy"];
    copy.extend(labels.lines().filter(|line| !line.is_empty()));
    copy.extend([IMAGE, "sleep", "1000"]);
    world.agent.docker(&copy);
    until("the copy is gone", &|| ours("copy").is_empty()).await;
    assert_eq!(ours("_web_pod_"), web);
    assert_eq!(restarts(&world.agent.pod(&key).await), restarts(&pod));
    // A setting that is no limit: the field is told, and the container made anew.
    world.agent.docker(&["update", "--cpuset-cpus", "0", &web]);
    until("it is made anew", &|| !ours("_web_pod_").is_empty() && ours("_web_pod_") != web).await;
    world.agent.until(&key, "ready", is_ready).await;
    // A sandbox that was taken off its network is made anew with its pod, as without an address.
    let (sandbox, network) = (ours("_POD_pod_"), world.agent.options.network.clone());
    world.agent.docker(&["network", "disconnect", &network, &sandbox]);
    until("its sandbox is made anew", &|| {
        let now = ours("_POD_pod_");
        !now.is_empty() && now != sandbox
    })
    .await;
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let with_address = |pod: &Pod| {
        let now = world.agent.docker(&["inspect", "-f", address, &ours("_POD_pod_")]);
        let told = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        is_ready(pod) && !now.is_empty() && told == Some(&*now)
    };
    world.agent.until(&key, "ready with its new address", with_address).await;
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_config_map_that_somebody_changed_is_put_back() {
    let world = World::new();
    let map: ConfigMap = serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "conf", "namespace": "default"}, "data": {"app.ini": "good"}}))
    .expect("a ConfigMap");
    world.agent.shelf.create(&map).await.expect("put");
    let mut web = lasting("web");
    web["volumeMounts"] = json!([{"name": "told", "mountPath": "/told"},
        {"name": "conf", "mountPath": "/conf"}]);
    let folder = world.told_in();
    let spec = json!({"containers": [web], "volumes": [
        {"name": "told", "hostPath": {"path": folder}},
        {"name": "conf", "configMap": {"name": "conf"}}]});
    let key = world.agent.put("pod", spec).await;
    let pod = world.agent.until(&key, "ready", is_ready).await;
    let uid = pod.metadata.uid.clone().expect("a uid");
    let home = world.agent.options.data_dir.join("pods").join(uid).join("volumes");
    let found = run(Command::new("find").arg(&home).args(["-name", "app.ini", "-type", "f"]));
    let file = PathBuf::from(found.trim());
    fs::write(&file, "bad").expect("root may");
    // The kubelet's sync period, and once more where the first look was before the change.
    let deadline = Instant::now() + Duration::from_secs(180);
    let seen = || fs::read_to_string(home.join("conf/app.ini")).unwrap_or_default();
    let conf = || {
        let path = run(Command::new("find").arg(&home).args(["-name", "app.ini", "-type", "f"]));
        fs::read_to_string(path.trim()).unwrap_or_else(|_| seen())
    };
    while conf() != "good" {
        assert!(Instant::now() < deadline, "it says {:?}", conf());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(restarts(&world.agent.pod(&key).await), 0);
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_told_to_stop_by_its_own_signal() {
    let world = World::new();
    let script = "trap 'echo asked >> /told/lines; exit 0' USR1; trap '' TERM; \
        echo up >> /told/lines; while :; do sleep 0.05; done";
    let mut web = shell("web", script);
    web["lifecycle"] = json!({"stopSignal": "SIGUSR1"});
    let key = world.put("pod", json!({"containers": [web], "os": {"name": "linux"}})).await;
    let up = |pod: &Pod| is_ready(pod) && world.told() == ["up"];
    let pod = world.agent.until(&key, "up", up).await;
    assert_eq!(status(&pod, "web").stop_signal.as_deref(), Some("SIGUSR1"));
    let begun = Instant::now();
    world.delete(&key, 60).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(world.told(), ["up", "asked"]);
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_the_names_that_it_asks_for() {
    let mut world = World::new();
    let script = |name: &str| {
        format!(
            "cat /proc/sys/kernel/hostname /etc/hostname > /told/{name}; echo $HOSTNAME >> /told/{name}; \
             cat /etc/hosts > /told/{name}.hosts; trap 'exit 0' TERM; while :; do sleep 0.05; done"
        )
    };
    // In a sandbox of its own, and in one that was made before it.
    for (round, spares) in [("own", 0), ("spare", 2)] {
        if spares > 0 {
            world.agent.keep_spares(spares).await;
            // The first is given back, it was there to learn from.
            tokio::time::sleep(Duration::from_secs(8)).await;
        }
        for (name, fields, kernel, hosts) in [
            (
                "sub",
                json!({"hostname": "front", "subdomain": "web"}),
                "front",
                "front.web.default.svc.cluster.local\tfront",
            ),
            (
                "full",
                json!({"subdomain": "web", "setHostnameAsFQDN": true}),
                "full-ROUND.web.default.svc.cluster.local",
                "full-ROUND.web.default.svc.cluster.local\tfull-ROUND",
            ),
            (
                "other",
                json!({"hostname": "front", "subdomain": "web", "hostnameOverride": "my.own.name"}),
                "my.own.name",
                "my.own.name",
            ),
        ] {
            let name = format!("{name}-{round}");
            let [kernel, hosts] = [kernel, hosts].map(|text| text.replace("ROUND", round));
            let mut spec = json!({"containers": [shell("web", &script(&name))]});
            json_patch::merge(&mut spec, &fields);
            let key = world.put(&name, spec).await;
            let told = || fs::read_to_string(world.told_in().join(format!("{name}.hosts")));
            let told_all = |pod: &Pod| is_ready(pod) && told().is_ok_and(|text| !text.is_empty());
            let pod = world.agent.until(&key, "ready", told_all).await;
            let ip = pod.status.and_then(|status| status.pod_ip).expect("an address");
            let text = told().expect("it told");
            let line = text.lines().find(|line| line.starts_with(&format!("{ip}\t")));
            let line = line.unwrap_or_default().replace(' ', "\t");
            assert!(line.starts_with(&format!("{ip}\t{hosts}")), "{name}: {text}");
            let names = fs::read_to_string(world.told_in().join(&name)).expect("it told");
            assert_eq!(names.lines().collect::<Vec<_>>(), [&*kernel; 3], "{name}");
            world.delete(&key, 2).await;
        }
    }
    // What the kernel does not hold is told, and nothing is made.
    let long = "a".repeat(50);
    let spec = json!({"containers": [shell("web", "true")], "subdomain": "web", "setHostnameAsFQDN": true});
    world.put(&long, spec).await;
    let deadline = Instant::now() + PATIENCE;
    let words = "FailedCreatePodSandBox Failed to create pod sandbox: failed to construct FQDN from pod hostname and cluster domain, FQDN";
    while world.noted(words) == 0 {
        assert!(Instant::now() < deadline, "{}", world.agent.shelf.notes().join("\n"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_without_the_runtime_says_so_of_a_gpu() {
    let mut world = World::new();
    let class = DeviceClass {
        driver: "nvidia".into(),
        capabilities: vec!["gpu".into()],
        ids: vec!["GPU-0".into()],
    };
    world.agent.options.devices.insert("nvidia.com/gpu".into(), class);
    world.agent.restart().await;
    let mut web = lasting("web");
    web["resources"] = json!({"limits": {"nvidia.com/gpu": "1"}});
    let key = world.put("pod", json!({"containers": [web]})).await;
    let failed = |pod: &Pod| {
        let all = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let text = serde_json::to_string(&all).expect("JSON");
        text.contains("could not select device driver") && text.contains("[[gpu]]")
    };
    world.agent.until(&key, "told what the engine says", failed).await;
    assert!(world.noted("Failed Error: ") > 0, "{}", world.agent.shelf.notes().join("\n"));
    let asked = world.agent.docker(&["ps", "-aq", "--no-trunc", "--filter", "name=_web_pod_"]);
    let first = asked.lines().next().expect("it was made");
    let request =
        world.agent.docker(&["inspect", "-f", "{{json .HostConfig.DeviceRequests}}", first]);
    let request: Value = serde_json::from_str(&request).expect("JSON");
    assert_eq!(
        (&request[0]["Driver"], &request[0]["DeviceIDs"]),
        (&json!("nvidia"), &json!(["GPU-0"]))
    );
    world.agent.end().await;
}
