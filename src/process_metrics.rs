//! This process, as every Prometheus client shows it: the names are theirs (`process_…`), so that any
//! dashboard finds them. Read from `/proc` at every scrape.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks of `/proc/self/stat` in a second: a constant of Linux' interface to programs.
const TICKS: f64 = 100.0;

/// Reads itself when it is asked. What cannot be read is not shown.
#[derive(Debug)]
pub struct Process {
    /// When the machine booted, in seconds since 1970; it is read once.
    booted: Option<f64>,
}

impl Process {
    /// This process, on the machine as it is.
    pub fn of_this_machine() -> Self {
        let booted = fs::read_to_string("/proc/stat").ok();
        Self { booted: booted.and_then(|text| line_value(&text, "btime")) }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let times = Times::parse(&stat);
        let open = fs::read_dir("/proc/self/fd").ok();
        // The folder that is being read is one of them.
        let open = open.map(|all| all.count().saturating_sub(1) as f64);
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let kilobytes = |name| line_value(&status, name).map(|value| value * 1024.0);
        let started = times.as_ref().zip(self.booted).map(|(times, booted)| booted + times.started);
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Memory of this process that is in RAM.",
                kilobytes("VmRSS:"),
            ),
            (
                "process_virtual_memory_bytes",
                "Address space of this process.",
                kilobytes("VmSize:"),
            ),
            ("process_open_fds", "Open file descriptors.", open),
            (
                "process_max_fds",
                "The limit of open file descriptors.",
                line_value(&limits, "Max open files"),
            ),
            ("process_threads", "Threads of this process.", line_value(&status, "Threads:")),
            (
                "process_start_time_seconds",
                "When this process was started, in seconds since 1970.",
                started,
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(
                    name,
                    help,
                    None,
                    gauge.metric_type(),
                )?)?;
            }
        }
        if let Some(times) = times {
            let (name, help) = ("process_cpu_seconds", "Time spent on processors.");
            let counter = ConstCounter::new(times.cpu);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// Seconds out of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Times {
    /// By the process and by the kernel for it.
    cpu: f64,
    /// After the machine's boot.
    started: f64,
}

impl Times {
    fn parse(stat: &str) -> Option<Self> {
        // The second field is the program's name, which may hold anything, brackets too.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // proc(5) counts from 1, and the first one here is its third.
        let seconds = |field: usize| Some(fields.get(field - 3)?.parse::<f64>().ok()? / TICKS);
        Some(Self { cpu: seconds(14)? + seconds(15)?, started: seconds(22)? })
    }
}

/// The first number behind a name at the begin of a line.
fn line_value(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_it_is_written() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 12345 1000 200";
        assert_eq!(Times::parse(stat), Some(Times { cpu: 2.0, started: 123.45 }));
        assert_eq!(Times::parse(""), None);
        let status = "Name:\tballast\nVmRSS:\t   61440 kB\nThreads:\t9\n";
        assert_eq!(line_value(status, "VmRSS:"), Some(61_440.0));
        assert_eq!(line_value(status, "VmSwap:"), None);
        let limits =
            "Limit   Soft Limit  Hard Limit  Units\nMax open files    1024   4096   files\n";
        assert_eq!(line_value(limits, "Max open files"), Some(1024.0));
        assert_eq!(
            line_value("Max open files  unlimited unlimited files\n", "Max open files"),
            None
        );
    }
}
