//! Rows a, b, c, g and h: the whole path against plain Docker and Docker Swarm, on one private
//! engine, interleaved. The bench starts the engine and runs itself again inside its network
//! namespace, so that daemon, client and engine share one loopback.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use futures::stream::{self, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::table::{Sample, Table};

/// As many Docker calls at once as the node agent makes.
const AT_ONCE: usize = 8;
const WEB: &str = "ballast.example/web:v1";

/// Starts the engine, runs the rows inside its namespace, stops the engine.
pub fn run() {
    if let Ok(dir) = std::env::var("BALLAST_BENCH_INSIDE") {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(rows(PathBuf::from(dir)));
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let name = format!("bt{}-b", std::process::id());
    let dir = format!("/tmp/{name}");
    let engine = |action: &str| {
        let mut command = Command::new(project.join("scripts/engine.sh"));
        assert!(
            command
                .args([action, &name, &dir])
                .env("ENGINE_LIVE_RESTORE", "")
                .status()
                .expect("engine.sh")
                .success()
        );
    };
    engine("start");
    let images = project.join("target/host-images");
    sh(Command::new(project.join("examples/images.sh")).arg(&images));
    sh(Command::new("docker")
        .args(["-H", &format!("unix://{dir}/docker.sock"), "load", "-q", "-i"])
        .arg(images.join("images.tar")));
    let own = std::env::current_exe().expect("own path");
    let status = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{name}"))
        .arg(own)
        .arg("whole_path")
        .env("BALLAST_BENCH_INSIDE", &dir)
        .status();
    engine("stop");
    assert!(status.expect("nsenter").success(), "the rows inside the namespace");
}

struct Bench {
    docker: Docker,
    socket: String,
    repo: PathBuf,
    client: Client,
    daemon: Child,
}

async fn rows(dir: PathBuf) {
    let socket = format!("unix://{}/docker.sock", dir.display());
    let docker = Docker::connect_with_unix(&socket, 120, bollard::API_DEFAULT_VERSION)
        .expect("the socket")
        .negotiate_version()
        .await
        .expect("the engine");
    // Swarm asks the registry for the image although it is there: a resolver that cannot answer must
    // say so at once, or every service waits 40 s for it.
    let resolvers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for server in resolvers.lines().filter_map(|line| line.strip_prefix("nameserver ")) {
        let _ = Command::new("ip").args(["route", "add", "unreachable", server.trim()]).status();
    }
    docker_cli(&socket, &["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    let repo = dir.join("repo");
    std::fs::create_dir_all(&repo).expect("a folder");
    sh(Command::new("git").args(["init", "-q", "-b", "main"]).arg(&repo));
    std::fs::write(
        repo.join("namespace.yaml"),
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: bench\n",
    )
    .expect("a file");
    commit(&repo, "begin");
    let log = std::fs::File::create(dir.join("ballast.log")).expect("a log");
    let daemon = Command::new(env!("CARGO_BIN_EXE_ballast"))
        .args([
            "run",
            &repo.to_string_lossy(),
            "--node-name",
            "bench",
            "--docker",
            &socket,
            "--data-dir",
        ])
        .arg(dir.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("ballast starts");
    let client =
        Client::try_from(kube::Config::new("http://127.0.0.1:7440".parse().expect("an address")))
            .expect("a client");
    let mut bench = Bench { docker, socket, repo, client, daemon };
    until("the daemon is ready", || async { bench.ready().await }).await;
    bench.push_rows().await;
    bench.rollout_rows().await;
    bench.kill_rows().await;
    bench.footprint_rows().await;
    bench.store_rows().await;
    let _ = bench.daemon.kill();
    let _ = bench.daemon.wait();
}

impl Bench {
    async fn ready(&self) -> bool {
        let request = http_request("/readyz");
        self.client.request_text(request).await.is_ok()
    }

    /// (a) push to 1, 10 and 30 pods running.
    async fn push_rows(&self) {
        for (pods, rounds) in [(1, 10), (10, 4), (30, 3)] {
            let mut table = Table::new(&format!("(a) push to {pods} pods running"), "ms");
            for round in 0..rounds {
                table.add(
                    "floor: the same two containers by plain API",
                    self.floor(pods, round).await,
                );
                table.add("docker run -d, in parallel", self.docker_run(pods, round));
                table.add("Swarm: service create", self.swarm_create(pods, round).await);
                table.add("ballast: git commit", self.push(pods, round).await);
            }
            table.print();
        }
    }

    async fn floor(&self, pods: usize, round: usize) -> Sample {
        let begun = Instant::now();
        let made: Vec<(String, String)> = stream::iter(0..pods)
            .map(|index| self.floor_pod(format!("floor-{round}-{index}")))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let sample = Sample::since(begun);
        for (sandbox, member) in made {
            self.remove(&member).await;
            self.remove(&sandbox).await;
        }
        sample
    }

    async fn floor_pod(&self, name: String) -> (String, String) {
        let sandbox = self.create(&format!("{name}-sandbox"), HostConfig::default()).await;
        self.docker
            .start_container(&sandbox, None::<bollard::query_parameters::StartContainerOptions>)
            .await
            .expect("starts");
        let joined = Some(format!("container:{sandbox}"));
        let member = self
            .create(
                &name,
                HostConfig {
                    network_mode: joined.clone(),
                    ipc_mode: None,
                    ..HostConfig::default()
                },
            )
            .await;
        self.docker
            .start_container(&member, None::<bollard::query_parameters::StartContainerOptions>)
            .await
            .expect("starts");
        (sandbox, member)
    }

    async fn create(&self, name: &str, host: HostConfig) -> String {
        let options =
            bollard::query_parameters::CreateContainerOptionsBuilder::default().name(name).build();
        let body = ContainerCreateBody {
            image: Some(WEB.to_owned()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        self.docker.create_container(Some(options), body).await.expect("creates").id
    }

    async fn remove(&self, id: &str) {
        let options =
            bollard::query_parameters::RemoveContainerOptionsBuilder::default().force(true).build();
        self.docker.remove_container(id, Some(options)).await.expect("removes");
    }

    fn docker_run(&self, pods: usize, round: usize) -> Sample {
        let begun = Instant::now();
        let mut waiting: Vec<Child> = Vec::new();
        for index in 0..pods {
            if waiting.len() >= AT_ONCE {
                waiting.remove(0).wait().expect("docker run");
            }
            let name = format!("run-{round}-{index}");
            waiting.push(
                Command::new("docker")
                    .args(["-H", &self.socket, "run", "-d", "--name", &name, WEB])
                    .stdout(Stdio::null())
                    .spawn()
                    .expect("docker"),
            );
        }
        for mut child in waiting {
            child.wait().expect("docker run");
        }
        let sample = Sample::since(begun);
        let names: Vec<String> = (0..pods).map(|index| format!("run-{round}-{index}")).collect();
        docker_cli(
            &self.socket,
            &[&["rm", "-f"], names.iter().map(String::as_str).collect::<Vec<_>>().as_slice()]
                .concat(),
        );
        sample
    }

    async fn swarm_create(&self, pods: usize, round: usize) -> Sample {
        let name = format!("swarm-{round}");
        let begun = Instant::now();
        docker_cli(
            &self.socket,
            &[
                "service",
                "create",
                "-d",
                "--name",
                &name,
                "--replicas",
                &pods.to_string(),
                "--no-resolve-image",
                WEB,
            ],
        );
        let filter = format!("label=com.docker.swarm.service.name={name}");
        self.until_running(&filter, pods).await;
        let sample = Sample::since(begun);
        docker_cli(&self.socket, &["service", "rm", &name]);
        self.until_gone(&filter).await;
        sample
    }

    async fn until_running(&self, filter: &str, count: usize) {
        until("containers run", || async {
            docker_cli(&self.socket, &["ps", "-q", "--filter", filter]).lines().count() >= count
        })
        .await;
    }

    async fn until_gone(&self, filter: &str) {
        until("containers are gone", || async {
            docker_cli(&self.socket, &["ps", "-aq", "--filter", filter]).is_empty()
        })
        .await;
    }

    async fn push(&self, pods: usize, round: usize) -> Sample {
        let name = format!("push-{round}");
        std::fs::write(self.repo.join("push.yaml"), deployment(&name, pods, "v1", ""))
            .expect("a file");
        let begun = Instant::now();
        commit(&self.repo, "push");
        until("pods run", || async { self.running(&name).await >= pods }).await;
        let sample = Sample::since(begun);
        self.clear("push.yaml").await;
        sample
    }

    async fn running(&self, app: &str) -> usize {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "bench");
        let list = pods
            .list(&ListParams::default().labels(&format!("app={app}")))
            .await
            .expect("the API answers");
        list.items
            .iter()
            .filter(|pod| {
                pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
            })
            .count()
    }

    async fn clear(&self, file: &str) {
        std::fs::remove_file(self.repo.join(file)).expect("a file");
        commit(&self.repo, "clear");
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "bench");
        until("pods are gone", || async {
            pods.list(&ListParams::default()).await.expect("the API answers").items.is_empty()
        })
        .await;
    }

    /// (b) a rolling update of 30, with a client that counts failed requests.
    async fn rollout_rows(&self) {
        let mut table = Table::new("(b) rolling update of 30", "ms");
        let probe = "        readinessProbe:\n          httpGet: {path: /readyz, port: 8080}\n          periodSeconds: 1\n";
        for round in 0..3 {
            docker_cli(
                &self.socket,
                &[
                    "service",
                    "create",
                    "-d",
                    "--name",
                    "roll",
                    "--replicas",
                    "30",
                    "--no-resolve-image",
                    WEB,
                ],
            );
            let filter = "label=com.docker.swarm.service.name=roll";
            self.until_running(filter, 30).await;
            let begun = Instant::now();
            docker_cli(
                &self.socket,
                &[
                    "service",
                    "update",
                    "-d",
                    "--no-resolve-image",
                    "--image",
                    "ballast.example/web:v2",
                    "--update-parallelism",
                    "8",
                    "--update-order",
                    "start-first",
                    "roll",
                ],
            );
            until("Swarm has rolled", || async {
                let state = docker_cli(
                    &self.socket,
                    &[
                        "service",
                        "inspect",
                        "roll",
                        "--format",
                        "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}",
                    ],
                );
                state.trim() == "completed"
            })
            .await;
            table.add("Swarm: parallelism 8, start-first", Sample::since(begun));
            docker_cli(&self.socket, &["service", "rm", "roll"]);
            self.until_gone(filter).await;

            let name = format!("roll-{round}");
            let service = format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: roll, namespace: bench}}\nspec:\n  clusterIP: 10.43.7.7\n  selector: {{app: {name}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
            );
            std::fs::write(
                self.repo.join("roll.yaml"),
                deployment(&name, 30, "v1", probe) + &service,
            )
            .expect("a file");
            commit(&self.repo, "roll v1");
            until("v1 is ready", || async { self.rolled(&name).await }).await;
            let load = Command::new("docker")
                .args([
                    "-H",
                    &self.socket,
                    "run",
                    "--rm",
                    "ballast.example/client:v1",
                    "http://10.43.7.7/",
                    "30",
                    "new",
                    "5",
                ])
                .stdout(Stdio::piped())
                .spawn()
                .expect("docker");
            tokio::time::sleep(Duration::from_secs(1)).await;
            std::fs::write(
                self.repo.join("roll.yaml"),
                deployment(&name, 30, "v2", probe) + &service,
            )
            .expect("a file");
            let begun = Instant::now();
            let second = commit(&self.repo, "roll v2");
            until("v2 is applied", || async { self.applied().await == second }).await;
            until("v2 is rolled out", || async { self.rolled(&name).await }).await;
            table.add("ballast: 25 % surge, readiness probed", Sample::since(begun));
            let said = load.wait_with_output().expect("the client ends");
            println!(
                "    requests during the rolling update: {}",
                String::from_utf8_lossy(&said.stdout).trim()
            );
            self.clear("roll.yaml").await;
        }
        table.print();
    }

    async fn applied(&self) -> String {
        let sources: Api<ballast::object::source::Source> = Api::all(self.client.clone());
        let source = sources.get("main").await.expect("the source");
        source.status.and_then(|status| status.applied).map(|commit| commit.id).unwrap_or_default()
    }

    async fn rolled(&self, name: &str) -> bool {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), "bench");
        let Ok(Some(deployment)) = deployments.get_opt(name).await else { return false };
        let Some(status) = deployment.status else { return false };
        let wanted = deployment.spec.and_then(|spec| spec.replicas);
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.ready_replicas == wanted
            && status.replicas == wanted
    }

    /// (c) docker kill to running again; each sample a container that has not restarted before.
    async fn kill_rows(&self) {
        let mut table = Table::new("(c) docker kill to running again", "ms");
        let rounds = 10;
        std::fs::write(self.repo.join("kill.yaml"), deployment("kill", rounds, "v1", ""))
            .expect("a file");
        commit(&self.repo, "kill");
        until("pods run", || async { self.running("kill").await >= rounds }).await;
        docker_cli(
            &self.socket,
            &[
                "service",
                "create",
                "-d",
                "--name",
                "kill",
                "--replicas",
                "10",
                "--restart-delay",
                "0s",
                "--no-resolve-image",
                WEB,
            ],
        );
        self.until_running("label=com.docker.swarm.service.name=kill", rounds).await;
        let members =
            docker_cli(&self.socket, &["ps", "-q", "--filter", "label=ballast.dev/kind=container"]);
        let tasks = docker_cli(
            &self.socket,
            &["ps", "-q", "--filter", "label=com.docker.swarm.service.name=kill"],
        );
        for (round, (member, task)) in members.lines().zip(tasks.lines()).enumerate() {
            table.add("floor: event, create and start by plain API", self.floor_heal(round).await);
            table.add(
                "Swarm: restart-delay 0",
                self.kill_and_wait(task, "label=com.docker.swarm.service.name=kill", rounds).await,
            );
            table.add(
                "ballast",
                self.kill_and_wait(member, "label=ballast.dev/kind=container", rounds).await,
            );
        }
        table.print();
        docker_cli(&self.socket, &["service", "rm", "kill"]);
        self.clear("kill.yaml").await;
    }

    async fn floor_heal(&self, round: usize) -> Sample {
        let (sandbox, member) = self.floor_pod(format!("heal-{round}")).await;
        let filters = std::collections::HashMap::from([
            ("type", vec!["container"]),
            ("event", vec!["die"]),
            ("container", vec![member.as_str()]),
        ]);
        let options =
            bollard::query_parameters::EventsOptionsBuilder::default().filters(&filters).build();
        let mut events = self.docker.events(Some(options));
        let begun = Instant::now();
        let (killed, _) = tokio::join!(
            self.docker
                .kill_container(&member, None::<bollard::query_parameters::KillContainerOptions>),
            events.next()
        );
        killed.expect("killed");
        let again = self
            .create(
                &format!("heal-{round}-again"),
                HostConfig {
                    network_mode: Some(format!("container:{sandbox}")),
                    ..HostConfig::default()
                },
            )
            .await;
        self.docker
            .start_container(&again, None::<bollard::query_parameters::StartContainerOptions>)
            .await
            .expect("starts");
        let sample = Sample::since(begun);
        for id in [again, member, sandbox] {
            self.remove(&id).await;
        }
        sample
    }

    async fn kill_and_wait(&self, id: &str, filter: &str, count: usize) -> Sample {
        let begun = Instant::now();
        docker_cli(&self.socket, &["kill", id]);
        until("all run again", || async {
            docker_cli(&self.socket, &["ps", "-q", "--filter", filter])
                .lines()
                .filter(|line| *line != id)
                .count()
                >= count
        })
        .await;
        Sample::since(begun)
    }

    /// (g) resident memory and idle CPU with 30 pods.
    async fn footprint_rows(&self) {
        std::fs::write(self.repo.join("idle.yaml"), deployment("idle", 30, "v1", ""))
            .expect("a file");
        commit(&self.repo, "idle");
        until("pods run", || async { self.running("idle").await >= 30 }).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let pid = self.daemon.id();
        let before = cpu_ticks(pid);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let used = (cpu_ticks(pid) - before) as f64 / 100.0 / 30.0 * 100.0;
        println!(
            "\n(g) with 30 pods: resident {:.1} MB, {used:.2} % of one core idle over 30 s",
            resident_mb(pid)
        );
        self.clear("idle.yaml").await;
    }

    /// (h) one commit with 1,000 Deployments of zero replicas.
    async fn store_rows(&self) {
        let mut table = Table::new("(h) 1,000 Deployments of zero replicas, push to stored", "ms");
        for round in 0..3 {
            let all: Vec<String> = (0..1000)
                .map(|index| deployment(&format!("many-{round}-{index}"), 0, "v1", ""))
                .collect();
            std::fs::write(self.repo.join("many.yaml"), all.join("---\n")).expect("a file");
            std::fs::write(
                self.repo.join(".ballast.yaml"),
                format!("confirmPrune: {}\n", self.applied().await),
            )
            .expect("a file");
            let begun = Instant::now();
            let id = commit(&self.repo, "many");
            until("the commit is applied", || async { self.applied().await == id }).await;
            table.add("ballast", Sample::since(begun));
        }
        table.print();
    }
}

fn deployment(name: &str, replicas: usize, version: &str, probe: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: bench}}\nspec:\n  replicas: {replicas}\n  selector:\n    matchLabels: {{app: {name}}}\n  template:\n    metadata:\n      labels: {{app: {name}}}\n    spec:\n      terminationGracePeriodSeconds: 10\n      containers:\n      - name: web\n        image: ballast.example/web:{version}\n        resources:\n          requests: {{cpu: 10m, memory: 8Mi}}\n{probe}"
    )
}

fn commit(repo: &Path, message: &str) -> String {
    let git = || {
        let mut command = Command::new("git");
        command.arg("-C").arg(repo).args([
            "-c",
            "user.name=Bench",
            "-c",
            "user.email=bench@example.invalid",
        ]);
        command
    };
    sh(git().args(["add", "-A"]));
    sh(git().args(["commit", "-q", "--allow-empty", "-m", message]));
    sh(git().args(["rev-parse", "HEAD"])).trim().to_owned()
}

async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let end = Instant::now() + Duration::from_secs(180);
    while !condition().await {
        assert!(Instant::now() < end, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn docker_cli(socket: &str, arguments: &[&str]) -> String {
    sh(Command::new("docker").args(["-H", socket]).args(arguments))
}

fn sh(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn http_request(path: &str) -> axum::http::Request<Vec<u8>> {
    axum::http::Request::get(path).body(Vec::new()).expect("a request")
}

/// User and system time in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    let fields: Vec<&str> =
        stat.rsplit(')').next().expect("a stat line").split_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

fn resident_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|text| text.parse::<f64>().ok()).expect("a number")
        / 1024.0
}
