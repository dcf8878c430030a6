//! (c) From `docker kill` to the container running again. Each sample is a container that has not
//! restarted before: back-off is a promise of its own, and tested elsewhere.

use std::time::Instant;

use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptions, ListContainersOptionsBuilder,
};

use super::ground::{Ground, Moment, WEB, deployment};
use super::plain::Pair;
use super::swarm::{Swarm, label};
use crate::report::Report;

const ROUNDS: usize = 15;
/// By which Ballast's containers are known to be of one pod.
const POD: &str = "ballast.dev/pod-uid";

pub async fn run(ground: &Ground) {
    let swarm = Swarm::on(ground);
    let pair = Pair::of_ballast(ground).await;
    ground.write("kill.yaml", &deployment("kill", ROUNDS, WEB, ""));
    ground.commit("kill");
    ground.until_running("kill", ROUNDS).await;
    swarm.create("kill", ROUNDS).await;
    let mut report = Report::against_first("docker kill to running again");
    let tasks = swarm.containers("kill");
    for (round, (member, task)) in members(ground).await.iter().zip(&tasks).enumerate() {
        report
            .milliseconds("floor: event, create and start by plain API", [pair.heal(round).await]);
        let begun = kill(ground, task, &label("kill")).await;
        report.milliseconds("Swarm: restart-delay 0", [begun.elapsed()]);
        let found = ground.docker.inspect_container(member, None::<InspectContainerOptions>).await;
        let labels = found.expect("it runs").config.and_then(|config| config.labels);
        let pod = labels.and_then(|labels| labels.get(POD).cloned()).expect("Ballast's labels");
        let begun = kill(ground, member, &format!("{POD}={pod}")).await;
        report.milliseconds("Ballast", [begun.elapsed()]);
    }
    report.print();
    swarm.remove("kill").await;
    ground.clear("kill.yaml").await;
}

/// Kills a container and waits for the next start among those with the label; when it began.
async fn kill(ground: &Ground, id: &str, label: &str) -> Instant {
    let (since, begun) = (Moment::now(), Instant::now());
    ground.docker.kill_container(id, None::<KillContainerOptions>).await.expect("killed");
    ground.until_started(label, since, 1).await;
    begun
}

/// Ballast's containers that are no sandboxes.
async fn members(ground: &Ground) -> Vec<String> {
    let filters = std::collections::HashMap::from([("label", vec!["ballast.dev/kind=container"])]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let list = ground.docker.list_containers(Some(options)).await.expect("the engine lists");
    list.into_iter().filter_map(|container| container.id).collect()
}
