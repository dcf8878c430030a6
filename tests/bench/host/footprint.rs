//! (g) What the daemon needs with 30 and with 100 pods: resident memory with that of the programs it keeps, and
//! the processor's time while nothing happens.

use std::time::Duration;

use super::ground::{Ground, WEB, deployment};
use crate::process::{busy, children, resident_mb};
use crate::report::Report;

const PODS: [usize; 2] = [30, 100];
/// After the last pod started: its own echo (statuses, events, a relist) is over.
const SETTLING: Duration = Duration::from_secs(35);
const SPANS: usize = 3;
/// As long as the longest timer: a relist of the engine, a full compare of the rules.
const SPAN: Duration = Duration::from_secs(30);

pub async fn run(ground: &Ground) {
    for pods in PODS {
        idle(ground, pods).await;
    }
}

async fn idle(ground: &Ground, pods: usize) {
    let mut report = Report::new(&format!("idle with {pods} pods"));
    report.sample("resident, no pods", "MB", resident_mb(ground.daemon()));
    ground.write("idle.yaml", &deployment("idle", pods, WEB, ""));
    ground.commit("idle");
    ground.until_running("idle", pods).await;
    report.sample("resident, all just started", "MB", resident_mb(ground.daemon()));
    tokio::time::sleep(SETTLING).await;
    for _ in 0..SPANS {
        let place = format!("/proc/{}", ground.daemon());
        let before = busy(&place);
        tokio::time::sleep(SPAN).await;
        let share = (busy(&place) - before).as_secs_f64() / SPAN.as_secs_f64();
        report.sample("processor", "% of a core", share * 100.0);
        report.sample("resident, daemon", "MB", resident_mb(ground.daemon()));
        let kept: f64 = children(ground.daemon()).into_iter().map(resident_mb).sum();
        report.sample("resident, programs it keeps", "MB", kept);
    }
    report.print();
    ground.clear("idle.yaml").await;
}
