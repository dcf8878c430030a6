//! Docker Swarm on the same engine: one container a replica, where Ballast's pods have two.

use std::process::Command;
use std::time::{Duration, Instant};

use bollard::query_parameters::InspectServiceOptions;

use super::ground::{Ground, Moment, WEB, bounded, until};

pub struct Swarm<'a>(&'a Ground);

impl<'a> Swarm<'a> {
    /// Makes the engine a swarm of one, if it is none yet.
    pub fn on(ground: &'a Ground) -> Self {
        // Swarm asks the registry for the image although it is there: a resolver that cannot answer
        // must say so at once, or every service waits 40 s for it. The routes are the namespace's.
        let resolvers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        for server in resolvers.lines().filter_map(|line| line.strip_prefix("nameserver ")) {
            let _ =
                Command::new("ip").args(["route", "add", "unreachable", server.trim()]).output();
        }
        let state = ground.docker_cli(&["info", "--format", "{{.Swarm.LocalNodeState}}"]);
        if state.trim() != "active" {
            ground.docker_cli(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
        }
        Self(ground)
    }

    /// From `service create` to the last container's start.
    pub async fn create(&self, name: &str, replicas: usize) -> Duration {
        let (since, begun) = (Moment::now(), Instant::now());
        self.0.docker_cli(&[
            "service",
            "create",
            "-d",
            "--name",
            name,
            "--replicas",
            &replicas.to_string(),
            "--restart-delay",
            "0s",
            "--no-resolve-image",
            WEB,
        ]);
        self.0.until_started(&label(name), since, replicas).await;
        begun.elapsed()
    }

    /// From `service update` to the state `completed`.
    pub async fn update(&self, name: &str, image: &str) -> Duration {
        let begun = Instant::now();
        self.0.docker_cli(&[
            "service",
            "update",
            "-d",
            "--no-resolve-image",
            "--image",
            image,
            "--update-parallelism",
            "8",
            "--update-order",
            "start-first",
            name,
        ]);
        // Nothing tells of it: asked 50 times a second by the API, which the engine hardly feels.
        let rolled = async {
            while !self.is_updated(name).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        bounded("swarm has rolled", rolled).await;
        begun.elapsed()
    }

    async fn is_updated(&self, name: &str) -> bool {
        let found = self.0.docker.inspect_service(name, None::<InspectServiceOptions>).await;
        let status = found.expect("the service").update_status;
        status.and_then(|status| status.state).is_some_and(|state| state.to_string() == "completed")
    }

    /// The containers of a service.
    pub fn containers(&self, name: &str) -> Vec<String> {
        let filter = format!("label={}", label(name));
        let text = self.0.docker_cli(&["ps", "-q", "--no-trunc", "--filter", &filter]);
        text.lines().map(str::to_owned).collect()
    }

    pub async fn remove(&self, name: &str) {
        self.0.docker_cli(&["service", "rm", name]);
        let filter = format!("label={}", label(name));
        until("the service's containers are gone", || async {
            self.0.docker_cli(&["ps", "-aq", "--filter", &filter]).is_empty()
        })
        .await;
    }
}

/// By which a service's containers are known.
pub fn label(service: &str) -> String {
    format!("com.docker.swarm.service.name={service}")
}
