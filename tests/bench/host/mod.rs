//! The whole path against plain Docker and Docker Swarm, on one private engine, interleaved. The
//! bench starts the engine and runs itself again inside its network namespace, so that daemon,
//! clients and engine share one loopback. Needs root.

mod deployments;
mod footprint;
mod ground;
mod kill;
mod plain;
mod pods;
mod push;
mod rollout;
mod swarm;

use std::path::{Path, PathBuf};
use std::process::Command;

use futures::future::BoxFuture;

use ground::{Ground, sh};

/// Where the benchmark runs again inside the namespace: the engine's directory.
const INSIDE: &str = "BALLAST_BENCH_INSIDE";

/// What runs on one ground.
type Run = for<'a> fn(&'a mut Ground) -> BoxFuture<'a, ()>;

/// Name, and what measures it.
pub const ON_ENGINE: &[(&str, Run)] = &[
    ("pods", |ground| Box::pin(pods::run(ground))),
    ("push", |ground| Box::pin(push::run(ground))),
    ("rollout", |ground| Box::pin(rollout::run(ground))),
    ("kill", |ground| Box::pin(kill::run(ground))),
    ("footprint", |ground| Box::pin(footprint::run(ground))),
    ("deployments", |ground| Box::pin(deployments::run(ground))),
];

pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// An engine that is stopped whatever happens.
struct Engine {
    name: String,
    dir: PathBuf,
}

impl Engine {
    fn start() -> Self {
        // As the host tests name theirs: what a killed run leaves behind, the next of them sweeps.
        let name = format!("bt{}-b", std::process::id());
        let engine = Self { dir: PathBuf::from(format!("/tmp/{name}")), name };
        sh(&mut engine.script("start"));
        engine
    }

    fn script(&self, action: &str) -> Command {
        let mut command = Command::new(project().join("scripts/engine.sh"));
        command.args([action, &self.name]).arg(&self.dir);
        // Swarm refuses an engine with live-restore.
        command.env("ENGINE_LIVE_RESTORE", "");
        command
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.script("stop").status();
    }
}

pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The example programs and their images, built where they are not there yet.
pub fn images() -> PathBuf {
    project().join("target/host-images")
}

/// Starts the engine, runs the named benchmarks inside its namespace, stops the engine.
pub fn run(names: &[&str]) {
    assert!(
        rustix::process::geteuid().is_root(),
        "benchmarks on an engine need root: sudo -E make bench"
    );
    sh(Command::new(project().join("examples/images.sh")).arg(images()));
    let engine = Engine::start();
    let socket = format!("unix://{}/docker.sock", engine.dir.display());
    sh(Command::new("docker")
        .args(["-H", &socket, "load", "-q", "-i"])
        .arg(images().join("images.tar")));
    let own = std::env::current_exe().expect("own path");
    let status = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", engine.name))
        .arg(own)
        .args(names)
        .env(INSIDE, &engine.dir)
        .status();
    let log = std::fs::read_to_string(engine.dir.join("ballast.log")).unwrap_or_default();
    drop(engine);
    if !status.expect("nsenter starts").success() {
        let lines: Vec<&str> = log.lines().collect();
        eprintln!(
            "the daemon's last lines:\n{}",
            lines[lines.len().saturating_sub(40)..].join("\n")
        );
        std::process::exit(1);
    }
}

/// The part of [`run`] that is inside.
pub fn inside(wanted: &dyn Fn(&str) -> bool) {
    let dir = PathBuf::from(std::env::var_os(INSIDE).expect("asked before"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut ground = Ground::prepare(&dir).await;
        for (_, run) in ON_ENGINE.iter().filter(|(name, _)| wanted(name)) {
            run(&mut ground).await;
        }
    });
}
