//! (a) From `git commit` to 1, 10 and 30 pods Running. A pod is two containers, so the floor is the
//! same two by plain API calls; once as Ballast makes them, once as bare as can be.

use std::time::Instant;

use super::ground::{Ground, WEB, deployment};
use super::plain::{Pair, docker_run};
use super::swarm::Swarm;
use crate::report::Report;

/// Pods, and how often.
const SIZES: [(usize, usize); 3] = [(1, 10), (10, 3), (30, 3)];

pub async fn run(ground: &Ground) {
    let swarm = Swarm::on(ground);
    let same = Pair::of_ballast(ground).await;
    let bare = Pair::bare(ground);
    for (pods, rounds) in SIZES {
        let mut report = Report::against_first(&format!("push to {pods} pods Running"));
        for round in 0..rounds {
            let name = format!("{pods}-{round}");
            let took = same.start(pods, &format!("same-{name}")).await;
            report.milliseconds("floor: the same two containers by plain API", [took]);
            let took = bare.start(pods, &format!("bare-{name}")).await;
            report.milliseconds("bare: no settings, on the engine's own bridge", [took]);
            report.milliseconds("docker run -d", [docker_run(ground, pods, round)]);
            let service = format!("swarm-{name}");
            report.milliseconds("Swarm: service create", [swarm.create(&service, pods).await]);
            swarm.remove(&service).await;
            let app = format!("push-{name}");
            ground.write("push.yaml", &deployment(&app, pods, WEB, ""));
            let begun = Instant::now();
            ground.commit("push");
            ground.until_running(&app, pods).await;
            report.milliseconds("Ballast: git commit", [begun.elapsed()]);
            ground.clear("push.yaml").await;
        }
        report.print();
    }
}
