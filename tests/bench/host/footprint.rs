//! (g) What the daemon needs with 30 pods: resident memory with that of the programs it keeps, and
//! the processor's time while nothing happens.

use std::time::Duration;

use super::ground::{Ground, WEB, deployment};
use crate::report::Report;

const PODS: usize = 30;
/// After the last pod started: its own echo (statuses, events, a relist) is over.
const SETTLING: Duration = Duration::from_secs(35);
const SPANS: usize = 3;
/// As long as the longest timer: a relist of the engine, a full compare of the rules.
const SPAN: Duration = Duration::from_secs(30);

pub async fn run(ground: &Ground) {
    let mut report = Report::new("idle with 30 pods");
    report.sample("resident, no pods", "MB", resident_mb(ground.daemon()));
    ground.write("idle.yaml", &deployment("idle", PODS, WEB, ""));
    ground.commit("idle");
    ground.until_running("idle", PODS).await;
    report.sample("resident, 30 pods just started", "MB", resident_mb(ground.daemon()));
    tokio::time::sleep(SETTLING).await;
    for _ in 0..SPANS {
        let before = busy(ground.daemon());
        tokio::time::sleep(SPAN).await;
        let share = (busy(ground.daemon()) - before).as_secs_f64() / SPAN.as_secs_f64();
        report.sample("processor", "% of a core", share * 100.0);
        report.sample("resident, daemon", "MB", resident_mb(ground.daemon()));
        let kept: f64 = children(ground.daemon()).into_iter().map(resident_mb).sum();
        report.sample("resident, programs it keeps", "MB", kept);
    }
    report.print();
    ground.clear("idle.yaml").await;
}

/// Time in user and kernel mode, with that of the children that ended.
fn busy(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    let fields: Vec<&str> =
        stat.rsplit(')').next().expect("a stat line").split_whitespace().collect();
    // utime, stime, cutime, cstime (proc(5): 14 to 17), in ticks of 10 ms.
    let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs");
    let lists = tasks
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
    });
    pids.collect()
}

/// 0 for a process that has just ended.
fn resident_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() / 1024.0
}
