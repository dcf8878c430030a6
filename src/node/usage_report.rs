//! Pure: what a node and its pods use, out of two looks at counters that only grow.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::node::instance::{Instance, Role};
use crate::object::Key;
use crate::object::ports::{PodUsage, Usage, UsageReport};

/// One look at the counters of a container, or of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageSample {
    pub at: Timestamp,
    /// Time on all cores so far.
    pub cpu_nanos: u64,
    /// The working set.
    pub memory_bytes: u64,
    /// Processes and threads; not counted of the host.
    pub processes: u64,
}

/// One look: the host's own counters, and those of containers by their ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    pub host: Option<UsageSample>,
    pub containers: BTreeMap<String, UsageSample>,
}

/// The report of a node. A container that was there for one look only has no rate and is left out, and
/// so is a pod's sandbox, as in the kubelet's.
pub fn report(
    node: &str,
    pods: &[(Key, Vec<Instance>)],
    first: &Look,
    second: &Look,
) -> UsageReport {
    let mut usages = Vec::new();
    for (pod, instances) in pods {
        let members = instances.iter().filter(|one| one.identity.role != Role::Sandbox);
        let containers: Vec<(String, Usage)> = members
            .filter_map(|one| {
                let (then, now) = (first.containers.get(&one.id)?, second.containers.get(&one.id)?);
                Some((one.identity.container.clone(), between(*then, *now)?))
            })
            .collect();
        if !containers.is_empty() {
            usages.push(PodUsage { pod: pod.clone(), containers });
        }
    }
    let host = first.host.zip(second.host);
    UsageReport {
        at: second.host.map_or(Timestamp::UNIX_EPOCH, |host| host.at),
        window_seconds: host
            .map_or(0.0, |(then, now)| now.at.duration_since(then.at).as_secs_f64()),
        node: node.to_owned(),
        node_usage: host.and_then(|(then, now)| between(then, now)),
        pods: usages,
    }
}

/// `None` where no time passed, or where the counter began anew: the container was restarted.
fn between(then: UsageSample, now: UsageSample) -> Option<Usage> {
    let nanos = u128::try_from(now.at.duration_since(then.at).as_nanos()).ok()?;
    let used = u128::from(now.cpu_nanos.checked_sub(then.cpu_nanos)?);
    let cpu_nanocores = (used * 1_000_000_000).checked_div(nanos)?;
    Some(Usage {
        cpu_nanocores: u64::try_from(cpu_nanocores).ok()?,
        memory_bytes: now.memory_bytes,
    })
}

/// The host's counters out of `/proc/stat` and `/proc/meminfo`: time that was neither idle nor spent
/// waiting for disks, in ticks of 10 ms (`USER_HZ` of every Linux that Docker runs on), and memory that
/// is not available, which is what `free` and `kubectl top nodes` call used.
pub fn host_sample(stat: &str, memory: &str, at: Timestamp) -> Option<UsageSample> {
    const TICK_NANOS: u64 = 10_000_000;
    let total = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = total.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are counted in user already.
    let busy = [0, 1, 2, 5, 6, 7].into_iter().filter_map(|place| ticks.get(place)).sum::<u64>();
    let kibibytes = |name: &str| -> Option<u64> {
        let rest = memory.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    let used = kibibytes("MemTotal")?.saturating_sub(kibibytes("MemAvailable")?);
    let (cpu_nanos, memory_bytes) = (busy * TICK_NANOS, used * 1024);
    Some(UsageSample { at, cpu_nanos, memory_bytes, processes: 0 })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::node::pod_plan::tests::{instance, pod};

    fn sample(milliseconds: i64, cpu_nanos: u64, memory_bytes: u64) -> UsageSample {
        let at = Timestamp::from_millisecond(milliseconds).expect("a time");
        UsageSample { at, cpu_nanos, memory_bytes, processes: 1 }
    }

    #[test]
    fn a_rate_needs_two_looks_at_one_run() {
        let pod = pod(json!({}));
        let web = instance(&pod, Role::Container, "web", 0);
        let named = |name: &str| {
            let mut other = web.clone();
            (other.id, other.identity.container) = (name.to_owned(), name.to_owned());
            other
        };
        let sandbox = instance(&pod, Role::Sandbox, "", 0);
        let all = [sandbox, web.clone(), named("late"), named("again")];
        let look = |at: i64, samples: &[(usize, u64)]| Look {
            host: Some(sample(at, 0, 1)),
            containers: samples
                .iter()
                .map(|(place, cpu)| (all[*place].id.clone(), sample(at, *cpu, 7)))
                .collect(),
        };
        let first = look(1000, &[(0, 0), (1, 500_000_000), (3, 900)]);
        let second = look(3000, &[(0, 9), (1, 1_000_000_000), (2, 5), (3, 100)]);
        let key = Key::new("default", "p");
        let report = report("n1", &[(key.clone(), all.to_vec())], &first, &second);
        let web = Usage { cpu_nanocores: 250_000_000, memory_bytes: 7 };
        assert_eq!(report.pods, [PodUsage { pod: key, containers: vec![("web".to_owned(), web)] }]);
        assert_eq!(report.window_seconds, 2.0);
        assert_eq!(report.node_usage, Some(Usage { cpu_nanocores: 0, memory_bytes: 1 }));
    }

    #[test]
    fn the_host_is_read_from_its_files() {
        let stat = "cpu  100 10 50 9000 400 1 2 3 70 0\ncpu0 1 1 1 1\n";
        let memory = "MemTotal:       1000 kB\nMemFree: 100 kB\nMemAvailable:    400 kB\n";
        let at = Timestamp::UNIX_EPOCH;
        let read = host_sample(stat, memory, at).expect("whole files");
        assert_eq!((read.cpu_nanos, read.memory_bytes), (1_660_000_000, 600 * 1024));
        assert_eq!(host_sample("", memory, at), None);
        assert_eq!(host_sample(stat, "MemTotal: 5 kB", at), None);
    }
}
