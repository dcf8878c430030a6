//! Looks whether pods keep to the bounds of their emptyDirs on disk and of what their containers write, and
//! evicts who does not; and gives back the disk of those that are over.
//!
//! One pod after the other, on one blocking thread, and at most a twentieth of the time: a volume of
//! a million files is looked at seldom. A look ends as soon as the bound is passed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat,
};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::node::agent::{Agent, PodCell, lock};
use crate::node::instance::Instance;
use crate::node::pod_worker::{COMPONENT, Observed, directory};
use crate::node::runtime::{Runtime, RuntimeError};
use crate::node::volume;
use crate::node::volume_eviction::{Bound, EVICTED, bounds, disk_limits, evicted_status};
use crate::node::volume_plan::{PARTS, VOLUMES};
use crate::object::{Cluster, Note};
use crate::task::caught_async;

/// The kubelet's eviction monitor.
const LOOK: Duration = Duration::from_secs(10);
/// A pod's measurements rest so many times as long as they took.
const REST: u32 = 19;

/// Until the tasks stop.
pub async fn run<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    let mut rests: HashMap<String, Instant> = HashMap::new();
    loop {
        // Cancel safe, both.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            () = sleep(LOOK) => {}
        }
        let cells = agent.cells();
        rests.retain(|uid, _| cells.iter().any(|cell| cell.uid == *uid));
        for cell in &cells {
            if rests.get(&cell.uid).is_some_and(|until| Instant::now() < *until) {
                continue;
            }
            let begun = Instant::now();
            let looked = caught_async(look(&agent, cell)).await;
            if let Err(panic) = looked {
                warn!(object = %cell.key, %panic, "volumes not measured");
            }
            rests.insert(cell.uid.clone(), Instant::now() + begun.elapsed() * REST);
        }
    }
}

async fn look<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>, cell: &Arc<PodCell>) {
    let pod = cell.pod();
    let bounds = bounds(&pod);
    if !bounds.is_empty() && look_at_volumes(agent, cell, bounds).await {
        return;
    }
    let limits = disk_limits(&pod);
    if limits.is_empty() {
        return;
    }
    // What cannot be measured is not held against anybody.
    let Some(used) = used(agent, &cell.uid).await else { return };
    let shared = below(&directory(agent, &pod)).await;
    if let Some(sentence) = limits.passed(&used, shared) {
        evict(agent, cell, &sentence).await;
    }
}

/// Bytes that each running container has written, in its layer and its log.
async fn used<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    uid: &str,
) -> Option<BTreeMap<String, u64>> {
    let instances = lock(&agent.instances).of_pod(uid);
    let mut used = BTreeMap::new();
    for one in instances.iter().filter(|one| one.is_running() && !one.identity.is_sandbox()) {
        match agent.runtime.disk_usage(&one.id).await {
            Ok(bytes) => {
                used.insert(one.identity.container.clone(), bytes);
            }
            Err(RuntimeError::NotFound(_)) => {}
            Err(error) => {
                warn!(container = %one.name, %error, "container's disk not measured");
                return None;
            }
        }
    }
    Some(used)
}

/// Bytes on disk below a pod's directory. Other file systems (volumes in memory) are left out, and so is
/// what of volumes is bound to a place of its own: it is a claim's, the host's, or counted already.
pub async fn below(directory: &Path) -> u64 {
    let directory = directory.to_owned();
    let counting = tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::MetadataExt;
        let Ok(root) = std::fs::symlink_metadata(&directory) else { return 0 };
        let parts = directory.join(PARTS);
        let (mut folders, mut bytes) = (vec![directory], 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(seen) = std::fs::symlink_metadata(entry.path()) else { continue };
                if seen.dev() != root.dev() || entry.path() == parts {
                    continue;
                }
                bytes += seen.blocks() * 512;
                if seen.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        bytes
    });
    counting.await.expect("counting bytes does not panic")
}

/// Answers whether the pod was evicted, or could not be measured.
async fn look_at_volumes<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    cell: &Arc<PodCell>,
    bounds: Vec<Bound>,
) -> bool {
    let volumes = directory(agent, &cell.pod()).join(VOLUMES);
    let measuring = tokio::task::spawn_blocking(move || first_broken(&volumes, bounds));
    match measuring.await.expect("measuring does not panic") {
        Ok(None) => return false,
        Ok(Some(bound)) => evict(agent, cell, &bound.sentence()).await,
        Err(error) => warn!(object = %cell.key, %error, "volumes not measured"),
    }
    true
}

fn first_broken(volumes: &Path, bounds: Vec<Bound>) -> io::Result<Option<Bound>> {
    for bound in bounds {
        if exceeds(&volumes.join(&bound.volume), bound.bytes)? {
            return Ok(Some(bound));
        }
    }
    Ok(None)
}

/// The status is written first: what it says ends the pod, now or after a restart of the daemon.
async fn evict<C: Cluster, R: Runtime>(agent: &Agent<C, R>, cell: &PodCell, message: &str) {
    let mut pod = (*cell.pod()).clone();
    pod.status = Some(evicted_status(&pod, message, agent.clock.now()));
    match agent.cluster.update_status(&pod).await {
        Ok(stored) => {
            info!(object = %cell.key, %message, "pod evicted");
            let note = Note::warning(&*stored, COMPONENT, EVICTED, message.to_owned());
            agent.cluster.note(note);
            cell.set_pod(stored);
            cell.wake.notify_one();
        }
        // Its worker wrote in between, or it went: the next look sees it.
        Err(error) => {
            warn!(object = %cell.key, %error, "pod not evicted, the next look tries again")
        }
    }
}

/// Gives back what a pod that is over has on disk: its object stays until somebody deletes it, and an
/// evicted one would go on taking the room it was evicted for (kubelet SyncTerminatedPod). Answers
/// whether nothing is left.
pub async fn clear_finished<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    observed: &Observed,
) -> bool {
    let phase = observed.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    if !over || observed.instances.iter().any(Instance::is_running) {
        return false;
    }
    let home = directory(agent, &observed.pod);
    let clearing = tokio::task::spawn_blocking(move || volume::clear(&home));
    let cleared = clearing.await.expect("removing volumes does not panic");
    if let Err(error) = &cleared {
        warn!(%error, "volumes of a finished pod not removed");
    }
    cleared.is_ok()
}

/// Whether a directory holds more on disk, in blocks as `du` counts them and a file with several
/// names once. A container may rename anything meanwhile: no link is followed, and no other file
/// system entered. `false` where there is no such directory yet.
fn exceeds(root: &Path, limit: u64) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match openat(CWD, root, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        opened => opened?,
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let blocks = |stat: &rustix::fs::Stat| u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
    let mut used = blocks(&fstat(&root)?);
    let mut several_names = BTreeSet::new();
    let mut left = vec![Vec::from(b".")];
    while let Some(path) = left.pop() {
        let directory = match openat2(&root, path.as_slice(), flags, Mode::empty(), resolve) {
            // It went, was swapped for something else, or is another file system.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::AGAIN) => {
                continue;
            }
            opened => opened?,
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_directory && stat.st_nlink > 1 && !several_names.insert(stat.st_ino) {
                continue;
            }
            used = used.saturating_add(blocks(&stat));
            if used > limit {
                return Ok(true);
            }
            if is_directory {
                left.push([path.as_slice(), b"/", name.to_bytes()].concat());
            }
        }
    }
    Ok(used > limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_on_disk_is_counted_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("v");
        assert!(!exceeds(&volume, 0).expect("not there yet"));
        fs::create_dir_all(volume.join("a/b")).expect("made");
        let big = dir.path().join("big");
        fs::write(&big, vec![1; 4 << 20]).expect("written");
        symlink(&big, volume.join("file")).expect("a link");
        symlink(dir.path(), volume.join("folder")).expect("a link");
        assert!(!exceeds(&volume, 1 << 20).expect("measured"), "nothing of it is inside");
        fs::write(volume.join("a/b/one"), vec![1; 600 << 10]).expect("written");
        fs::hard_link(volume.join("a/b/one"), volume.join("a/two")).expect("another name");
        assert!(!exceeds(&volume, 1 << 20).expect("measured"), "it is one file");
        assert!(exceeds(&volume, 512 << 10).expect("measured"));
        // A hole takes no room.
        let sparse = fs::File::create(volume.join("sparse")).expect("made");
        sparse.set_len(1 << 30).expect("a hole");
        assert!(!exceeds(&volume, 1 << 20).expect("measured"));
        fs::write(volume.join("a/three"), vec![1; 600 << 10]).expect("written");
        assert!(exceeds(&volume, 1 << 20).expect("measured"));
    }
}
