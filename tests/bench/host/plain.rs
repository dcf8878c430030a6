//! The peers without a cluster: the same containers by plain API calls, and `docker run`.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
    KillContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions,
};
use futures::stream::{self, StreamExt};

use super::ground::{Ground, LEAVES_AT_ONCE, Moment, WEB, deployment};

/// As many Docker calls at once as the node agent makes.
const AT_ONCE: usize = 8;

/// The two containers of a pod, as create calls.
pub struct Pair<'a> {
    ground: &'a Ground,
    sandbox: ContainerCreateBody,
    member: ContainerCreateBody,
}

impl<'a> Pair<'a> {
    /// The very containers that Ballast makes of a pod, read back from one.
    pub async fn of_ballast(ground: &'a Ground) -> Self {
        // A kernel setting of its own, the kernel's own value: no spare sandbox fits, and a sandbox made
        // before its pod would be no pattern for others.
        let own = "      securityContext:
        sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '1024'}]
";
        let more = [LEAVES_AT_ONCE, own].concat();
        ground.write("pattern.yaml", &deployment("pattern", 1, WEB, &more));
        ground.commit("pattern");
        ground.until_running("pattern", 1).await;
        let sandbox = pattern(ground, "sandbox").await;
        let mut member =
            ContainerCreateBody { hostname: None, ..pattern(ground, "container").await };
        ground.clear("pattern.yaml").await;
        // Files of the pattern's go with it (what it would say last): one of our own stands for them.
        let file = ground.empty_file("of-the-pattern");
        let mounts = member.host_config.iter_mut().filter_map(|host| host.mounts.as_mut());
        for mount in mounts.flatten() {
            mount.source = Some(file.to_string_lossy().into_owned());
        }
        Self { ground, sandbox, member }
    }

    /// The least that two containers can be: no settings, the engine's own network.
    pub fn bare(ground: &'a Ground) -> Self {
        let web = ContainerCreateBody {
            image: Some(WEB.to_owned()),
            host_config: Some(HostConfig::default()),
            ..ContainerCreateBody::default()
        };
        Self { ground, sandbox: web.clone(), member: web }
    }

    /// Pairs made and started in parallel, each one call after the other.
    pub async fn start(&self, pods: usize, name: &str) -> Duration {
        let begun = Instant::now();
        let made: Vec<Vec<String>> = stream::iter(0..pods)
            .map(|index| self.start_one(format!("{name}-{index}")))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let took = begun.elapsed();
        for id in made.iter().flatten() {
            self.remove(id).await;
        }
        took
    }

    /// Pairs that stay; the ids of both containers of each.
    pub async fn keep(&self, pods: usize, name: &str) -> Vec<String> {
        let made = stream::iter(0..pods)
            .map(|index| self.start_one(format!("{name}-{index}")))
            .buffer_unordered(AT_ONCE);
        made.collect::<Vec<_>>().await.into_iter().flatten().collect()
    }

    /// The member's id, then the sandbox's.
    async fn start_one(&self, name: String) -> Vec<String> {
        let sandbox = self.create(&format!("{name}-sandbox"), self.sandbox.clone()).await;
        self.run(&sandbox).await;
        let member = self.create(&name, self.joining(&sandbox)).await;
        self.run(&member).await;
        vec![member, sandbox]
    }

    fn joining(&self, sandbox: &str) -> ContainerCreateBody {
        let host = self.member.host_config.clone().unwrap_or_default();
        let joined = Some(format!("container:{sandbox}"));
        let ipc_mode = host.ipc_mode.as_ref().filter(|mode| mode.starts_with("container:"));
        let ipc_mode = ipc_mode.and(joined.clone());
        let host = HostConfig { network_mode: joined, ipc_mode, ..host };
        ContainerCreateBody { host_config: Some(host), ..self.member.clone() }
    }

    /// From `kill` to its event, and the member made and started anew.
    pub async fn heal(&self, round: usize) -> Duration {
        let docker = &self.ground.docker;
        let mut made = self.start_one(format!("heal-{round}")).await;
        let filters = std::collections::HashMap::from([
            ("type", vec!["container"]),
            ("event", vec!["die"]),
            ("container", vec![made[0].as_str()]),
        ]);
        let since = Moment::now();
        let options = EventsOptionsBuilder::default().since(since.as_str()).filters(&filters);
        let mut events = docker.events(Some(options.build()));
        let begun = Instant::now();
        let kill = docker.kill_container(&made[0], None::<KillContainerOptions>);
        let (killed, died) = tokio::join!(kill, events.next());
        killed.expect("killed");
        died.expect("an event").expect("an event");
        let again = self.create(&format!("heal-{round}-again"), self.joining(&made[1])).await;
        self.run(&again).await;
        let took = begun.elapsed();
        made.insert(0, again);
        for id in &made {
            self.remove(id).await;
        }
        took
    }

    async fn create(&self, name: &str, body: ContainerCreateBody) -> String {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.ground.docker.create_container(Some(options), body).await.expect("creates").id
    }

    async fn run(&self, id: &str) {
        let started = self.ground.docker.start_container(id, None::<StartContainerOptions>).await;
        started.expect("starts");
    }

    async fn remove(&self, id: &str) {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.ground.docker.remove_container(id, Some(options)).await.expect("removes");
    }
}

/// A container of Ballast's as the call that makes another one, without the labels that would make
/// it Ballast's.
async fn pattern(ground: &Ground, kind: &str) -> ContainerCreateBody {
    let filters =
        std::collections::HashMap::from([("label", vec![format!("ballast.dev/kind={kind}")])]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let list = ground.docker.list_containers(Some(options)).await.expect("the engine lists");
    let id = list.into_iter().find_map(|container| container.id).expect("a container of the pod");
    let found = ground.docker.inspect_container(&id, None::<InspectContainerOptions>).await;
    let found = found.expect("the engine inspects");
    let config = found.config.expect("a config");
    ContainerCreateBody {
        hostname: config.hostname,
        user: config.user,
        env: config.env,
        cmd: config.cmd,
        entrypoint: config.entrypoint,
        working_dir: config.working_dir,
        image: config.image,
        host_config: found.host_config,
        ..ContainerCreateBody::default()
    }
}

/// `docker run -d`, as many at once as the others.
pub fn docker_run(ground: &Ground, pods: usize, round: usize) -> Duration {
    let names: Vec<String> = (0..pods).map(|index| format!("run-{round}-{index}")).collect();
    let begun = Instant::now();
    let mut waiting: Vec<Child> = Vec::new();
    for name in &names {
        if waiting.len() >= AT_ONCE {
            waiting.remove(0).wait().expect("docker run");
        }
        let mut run = Command::new("docker");
        run.args(["-H", &ground.socket, "run", "-d", "--name", name, WEB]);
        waiting.push(run.stdout(Stdio::null()).spawn().expect("docker"));
    }
    for mut child in waiting {
        child.wait().expect("docker run");
    }
    let took = begun.elapsed();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ground.docker_cli(&[&["rm", "-f"], names.as_slice()].concat());
    took
}
