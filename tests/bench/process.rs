//! What a process or a thread has used, as the kernel tells it.

use std::time::Duration;

/// Time in user and kernel mode of a process (`/proc/7`), or of a thread (`/proc/self/task/8`); with
/// that of children that ended.
pub fn busy(place: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("{place}/stat")).expect("it runs");
    let fields: Vec<&str> =
        stat.rsplit(')').next().expect("a stat line").split_whitespace().collect();
    // utime, stime, cutime, cstime (proc(5): 14 to 17), in ticks of 10 ms.
    let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

pub fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let lists = tasks
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
    });
    pids.collect()
}

/// 0 for a process that has just ended.
pub fn resident_mb(pid: u32) -> f64 {
    memory_mb(pid, "VmRSS:")
}

/// The most that was ever resident.
pub fn peak_mb(pid: u32) -> f64 {
    memory_mb(pid, "VmHWM:")
}

fn memory_mb(pid: u32, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|text| text.strip_prefix(line));
    let kilobytes = line.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() / 1024.0
}

/// Which pages the kernel gives: memory is more with huge ones.
pub fn huge_pages() -> String {
    let modes = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let modes = modes.unwrap_or_default();
    let chosen = modes.split_whitespace().find(|mode| mode.starts_with('['));
    chosen.unwrap_or("[unknown]").trim_matches(['[', ']']).to_owned()
}
