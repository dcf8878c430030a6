//! (k) What a pod costs beside the same container by other means: one pod with and without a sandbox
//! that waits for it, fifty at once, and a hundred that are taken away.

use std::process::Command;
use std::time::{Duration, Instant};

use super::ground::{Ground, LEAVES_AT_ONCE, NAMESPACE, WEB, deployment, sh, until};
use super::plain::{Pair, docker_run};
use super::swarm::Swarm;
use crate::report::Report;

/// One pod, and how often.
const ONE: usize = 12;
/// Many pods, and how often.
const BURST: (usize, usize) = (50, 3);
const REMOVED: (usize, usize) = (100, 2);
/// The daemon's own limit of spare sandboxes, and one for a whole burst.
const SPARES: &str = "8";
const MANY_SPARES: &str = "50";
const NO_SPARES: &str = "0";

pub async fn run(ground: &mut Ground) {
    one(ground).await;
    burst(ground).await;
    removal(ground).await;
}

async fn one(ground: &mut Ground) {
    let mut report = Report::against_first("one pod, until it runs");
    for round in 0..ONE {
        let name = format!("one-{round}");
        rest(ground).await;
        report.milliseconds("docker run -d", [docker_run(ground, 1, round)]);
        report.milliseconds("docker-compose up -d", [compose(ground, &name)]);
        let swarm = Swarm::on(ground);
        let service = format!("swarm-{name}");
        report.milliseconds("Swarm: service create", [swarm.create(&service, 1).await]);
        swarm.remove(&service).await;
        for (row, spares) in [
            ("Ballast: git commit, a spare sandbox waits", SPARES),
            ("Ballast: git commit, no spare sandboxes", NO_SPARES),
        ] {
            ground.restart(&["--spare-sandboxes", spares]).await;
            if spares != NO_SPARES {
                spares_wait(ground, 1).await;
            }
            rest(ground).await;
            let took = push(ground, &format!("{name}-{spares}"), 1).await;
            report.milliseconds(row, [took]);
        }
        ground.restart(&["--spare-sandboxes", SPARES]).await;
    }
    report.print();
}

async fn burst(ground: &mut Ground) {
    let (pods, rounds) = BURST;
    let mut report = Report::against_first(&format!("{pods} pods at once, until all run"));
    for round in 0..rounds {
        let name = format!("burst-{round}");
        rest(ground).await;
        report.milliseconds("docker run -d, 8 at a time", [docker_run(ground, pods, 100 + round)]);
        let swarm = Swarm::on(ground);
        let service = format!("swarm-{name}");
        report.milliseconds("Swarm: service create", [swarm.create(&service, pods).await]);
        swarm.remove(&service).await;
        for (row, spares) in [
            ("Ballast: git commit, at most 8 spares (the default)", SPARES),
            ("Ballast: git commit, 50 spares", MANY_SPARES),
        ] {
            ground.restart(&["--spare-sandboxes", spares]).await;
            // What the daemon keeps follows what it was asked for.
            push(ground, &format!("{name}-{spares}-before"), pods).await;
            spares_wait(ground, spares.parse().expect("a number")).await;
            rest(ground).await;
            report.milliseconds(row, [push(ground, &format!("{name}-{spares}"), pods).await]);
        }
    }
    ground.restart(&["--spare-sandboxes", SPARES]).await;
    report.print();
}

async fn removal(ground: &mut Ground) {
    let (pods, rounds) = REMOVED;
    let mut report = Report::against_first(&format!("{pods} pods stopped and removed"));
    let pair = Pair::of_ballast(ground).await;
    for round in 0..rounds {
        let names = pair.keep(pods, &format!("gone-{round}")).await;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        rest(ground).await;
        let begun = Instant::now();
        ground.docker_cli(&[&["rm", "-f"], names.as_slice()].concat());
        report.milliseconds("docker rm -f of the same containers", [begun.elapsed()]);
        let app = format!("gone-{round}");
        ground.write("gone.yaml", &deployment(&app, pods, WEB, LEAVES_AT_ONCE));
        ground.commit("many");
        ground.until_running(&app, pods).await;
        rest(ground).await;
        let begun = Instant::now();
        ground.clear("gone.yaml").await;
        report.milliseconds("Ballast: git rm, with SIGTERM and its grace", [begun.elapsed()]);
    }
    report.print();
}

pub async fn spares_wait(ground: &Ground, count: usize) {
    let spare = ["ps", "-q", "--filter", "name=_SPARE_"];
    let waits = || std::future::ready(ground.docker_cli(&spare).lines().count() >= count);
    until("spare sandboxes wait", waits).await;
}

/// From the commit until so many pods run; takes them away again.
async fn push(ground: &Ground, app: &str, pods: usize) -> Duration {
    ground.write("push.yaml", &deployment(app, pods, WEB, ""));
    let begun = Instant::now();
    ground.commit("push");
    ground.until_running(app, pods).await;
    let took = begun.elapsed();
    ground.clear("push.yaml").await;
    took
}

/// Until nothing is being made or removed any more: neither by us nor by what was measured before.
async fn rest(ground: &Ground) {
    let (mut before, mut since) = (String::new(), Instant::now());
    until("the engine rests", || {
        let seen = ground.docker_cli(&["ps", "-aq"]);
        if seen != before {
            (before, since) = (seen, Instant::now());
        }
        std::future::ready(since.elapsed() > Duration::from_secs(3))
    })
    .await;
}

fn compose(ground: &Ground, name: &str) -> Duration {
    let folder = std::env::temp_dir().join(format!("{NAMESPACE}-{name}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("docker-compose.yml");
    let text = format!("version: \"3\"\nservices:\n  web: {{image: \"{WEB}\"}}\n");
    std::fs::write(&file, text).expect("a file");
    let compose = |action: &[&str]| {
        let mut command = Command::new("docker-compose");
        command.arg("-H").arg(&ground.socket).arg("-f").arg(&file).args(["-p", name]);
        command.args(action).env("COMPOSE_HTTP_TIMEOUT", "60");
        sh(&mut command);
    };
    let begun = Instant::now();
    compose(&["up", "-d"]);
    let took = begun.elapsed();
    compose(&["down", "-t", "1"]);
    drop(std::fs::remove_dir_all(&folder));
    took
}
