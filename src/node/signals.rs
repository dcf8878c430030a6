//! Reads what eviction and image collection look at, of the host that this process runs on.

use std::fs;
use std::path::Path;

use crate::node::eviction::{Reading, Readings, Signal};

/// `node_files` and `image_files` are directories on the disks in question. What cannot be read is left
/// out: nobody is evicted for it.
pub fn of_this_host(node_files: &Path, image_files: &Path) -> Readings {
    let mut readings = Readings::new();
    let mut put = |signal, reading: Option<Reading>| {
        readings.extend(reading.map(|reading| (signal, reading)));
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    put(Signal::MemoryAvailable, memory(&read("/proc/meminfo")));
    let (bytes, inodes) = disk(node_files);
    put(Signal::NodefsAvailable, bytes);
    put(Signal::NodefsInodesFree, inodes);
    let (bytes, inodes) = disk(image_files);
    put(Signal::ImagefsAvailable, bytes);
    put(Signal::ImagefsInodesFree, inodes);
    let limits = [read("/proc/sys/kernel/pid_max"), read("/proc/sys/kernel/threads-max")];
    put(Signal::PidAvailable, processes(&limits, &read("/proc/loadavg")));
    readings
}

/// What a new process could have without swapping: the kernel's own estimate.
fn memory(meminfo: &str) -> Option<Reading> {
    let bytes = |name: &str| -> Option<u64> {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = rest.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes * 1024)
    };
    Some(Reading { available: bytes("MemAvailable:")?, capacity: bytes("MemTotal:")? })
}

/// Bytes and inodes. Some file systems (btrfs) count no inodes. The whole is what is used and what is
/// available, so that the share is the one that `df` shows: blocks that are kept back (for root, by a
/// quota) are neither, and would make an empty disk look full.
fn disk(directory: &Path) -> (Option<Reading>, Option<Reading>) {
    let Ok(disk) = rustix::fs::statvfs(directory) else { return (None, None) };
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    let bytes = Reading {
        available: disk.f_bavail.saturating_mul(disk.f_frsize),
        capacity: (used + disk.f_bavail).saturating_mul(disk.f_frsize),
    };
    let inodes = Reading { available: disk.f_favail, capacity: disk.f_files };
    (Some(bytes).filter(|it| it.capacity > 0), Some(inodes).filter(|it| it.capacity > 0))
}

/// The lower of both limits, and how many threads there are (`running/all` in loadavg).
fn processes(limits: &[String], load: &str) -> Option<Reading> {
    let limits = limits.iter().filter_map(|text| text.trim().parse::<u64>().ok());
    let capacity = limits.min()?;
    let (_, all) = load.split_whitespace().nth(3)?.split_once('/')?;
    Some(Reading { available: capacity.saturating_sub(all.parse().ok()?), capacity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let text = "MemTotal:       1000 kB\nMemFree: 100 kB\nMemAvailable:    400 kB\n";
        let read = Reading { available: 400 * 1024, capacity: 1000 * 1024 };
        assert_eq!(memory(text), Some(read));
        assert_eq!(memory("MemTotal: 5 kB"), None);
        let limits = ["4194304\n".to_owned(), "90000\n".to_owned()];
        let read = Reading { available: 89_500, capacity: 90_000 };
        assert_eq!(processes(&limits, "0.1 0.2 0.3 2/500 1234\n"), Some(read));
        assert_eq!(processes(&[], "0.1 0.2 0.3 2/500 1234\n"), None);
    }

    #[test]
    fn a_linux_host_tells_all_of_them_and_nothing_is_read_of_what_is_not_there() {
        let all = of_this_host(Path::new("/"), Path::new("/no/such/directory"));
        for signal in [Signal::MemoryAvailable, Signal::NodefsAvailable, Signal::PidAvailable] {
            let read = all[&signal];
            assert!(read.capacity > 0 && read.available <= read.capacity, "{signal:?} {read:?}");
        }
        assert!(!all.contains_key(&Signal::ImagefsAvailable));
    }
}
