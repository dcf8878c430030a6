//! (h) One commit with 1,000 Deployments of zero replicas, from the push until it is stored, durably.
//! Each round replaces the thousand of the round before.

use std::time::Instant;

use super::ground::{Ground, WEB, deployment};
use crate::report::Report;

const ROUNDS: usize = 5;
const MANY: usize = 1000;

pub async fn run(ground: &Ground) {
    let mut report = Report::new("1,000 Deployments of zero replicas, push to stored");
    for round in 0..ROUNDS {
        let all: Vec<String> = (0..MANY)
            .map(|index| deployment(&format!("many-{round}-{index}"), 0, WEB, ""))
            .collect();
        ground.write("many.yaml", &all.join("---\n"));
        confirm_prune(ground).await;
        let begun = Instant::now();
        let id = ground.commit("many");
        ground.until_applied(&id).await;
        let what = if round == 0 { "created" } else { "created, and as many removed" };
        report.milliseconds(what, [begun.elapsed()]);
    }
    report.print();
    confirm_prune(ground).await;
    ground.clear("many.yaml").await;
}

/// A commit that removes nearly everything is held until the repository confirms that one step.
async fn confirm_prune(ground: &Ground) {
    ground.write(".ballast.yaml", &format!("confirmPrune: {}\n", ground.applied().await));
}
