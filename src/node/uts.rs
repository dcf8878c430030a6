//! The host name of a container whose sandbox was made before its pod.
//!
//! The engine gives a container that joins a sandbox the sandbox's host name, and a spare sandbox has
//! one of its own. A runtime starts a container in two steps: it makes the namespaces with a process of
//! its own in them, which sets the host name and waits; then that process becomes the container's
//! program. Between the two (10 to 30 ms, measured with runc 1.1) a thread of ours enters the
//! container's UTS namespace and gives it the pod's name. That it was in time is no matter of luck:
//! the waiting process is looked at again *after* the name was set, and when it still is the runtime's
//! own, the program has not begun. Else the answer is [`Late`], and the caller makes the container anew.
//!
//! Where containers' control groups lie is learned from one that runs: the path of its process, with
//! its id in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::system::{sethostname, uname};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::node::runtime::{Runtime, RuntimeError};

/// What runc calls its process as long as it waits to become the container's program.
const WAITING: &str = "runc:[2:INIT]";
/// Between two looks at the control group.
const LOOK: Duration = Duration::from_millis(1);
/// Where the kernel shows control groups: one tree in version 2, one for each controller in version 1.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Why a container did not get its name in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Late {
    #[error("the program began before its host name was set")]
    Began,
    #[error("the runtime's waiting process was never seen")]
    NeverSeen,
    #[error("its namespace cannot be entered: {0}")]
    NotEntered(String),
}

/// Where containers' control groups lie: the file that lists their processes, around their id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    before: String,
    after: String,
}

impl Groups {
    /// Learned from a container that runs. `None`: its processes are in a control group that does not
    /// name it, or the daemon counts processes or sees control groups otherwise than the engine.
    pub fn learn(id: &str, process: i64) -> Option<Self> {
        let lines = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
        candidates(&lines, id).into_iter().find(|groups| {
            fs::read_to_string(groups.processes(id))
                .is_ok_and(|all| all.lines().any(|line| line == process.to_string()))
        })
    }

    fn processes(&self, id: &str) -> PathBuf {
        PathBuf::from(format!("{}{id}{}", self.before, self.after))
    }
}

/// Every place that `/proc/PID/cgroup` may mean.
fn candidates(lines: &str, id: &str) -> Vec<Groups> {
    let place = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let tree = match controllers.strip_prefix("name=").unwrap_or(controllers) {
            "" => CGROUPS.to_owned(),
            tree => format!("{CGROUPS}/{tree}"),
        };
        let (before, after) = path.split_once(id)?;
        Some(Groups { before: format!("{tree}{before}"), after: format!("{after}/cgroup.procs") })
    };
    lines.lines().filter_map(place).collect()
}

/// A thread that waits for one container's start.
pub(crate) struct Naming {
    thread: JoinHandle<Result<(), Late>>,
    started: Arc<AtomicBool>,
}

impl Naming {
    /// Begins to look, before the engine is told to start the container `id`. `from` is the name that
    /// the engine gives it.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn begin(groups: &Groups, id: &str, from: &str, to: &str) -> io::Result<Self> {
        let started = Arc::new(AtomicBool::new(false));
        let file = groups.processes(id);
        let (from, to, over) = (from.to_owned(), to.to_owned(), started.clone());
        // A thread of its own that ends with it: it never leaves the namespace that it entered.
        let thread = std::thread::Builder::new().name("host name".to_owned());
        let thread = thread.spawn(move || name(&file, &from, &to, &over))?;
        Ok(Self { thread, started })
    }

    /// The engine has answered, whatever it said: what is not done now is too late.
    ///
    /// # Errors
    /// [`Late`]
    pub async fn end(self) -> Result<(), Late> {
        self.started.store(true, Ordering::Relaxed);
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        joined.ok().and_then(Result::ok).unwrap_or(Err(Late::NeverSeen))
    }
}

fn name(file: &PathBuf, from: &str, to: &str, over: &AtomicBool) -> Result<(), Late> {
    let own = namespace_id("/proc/self/ns/uts").map_err(|why| Late::NotEntered(why.to_string()))?;
    // The last look is after the end of the start.
    loop {
        let last = over.load(Ordering::Relaxed);
        let processes = fs::read_to_string(file).unwrap_or_default();
        for process in processes.lines() {
            if attempt(process, own, from, to)? {
                return Ok(());
            }
        }
        if last {
            return Err(Late::NeverSeen);
        }
        std::thread::sleep(LOOK);
    }
}

/// `Ok(false)`: it is not waiting yet.
fn attempt(process: &str, own: u64, from: &str, to: &str) -> Result<bool, Late> {
    let waits = || {
        let called = fs::read_to_string(format!("/proc/{process}/comm"));
        called.is_ok_and(|called| called.trim_end() == WAITING)
    };
    let path = format!("/proc/{process}/ns/uts");
    // Gone, or not yet in a namespace of its own.
    let Ok(namespace) = namespace_id(&path) else { return Ok(false) };
    if namespace == own || !waits() {
        return Ok(false);
    }
    let not_entered = |why: io::Error| Late::NotEntered(why.to_string());
    let handle = File::open(&path).map_err(not_entered)?;
    move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::HostNameAndNISDomainName))
        .map_err(|why| not_entered(why.into()))?;
    // The runtime sets its name once; before that, ours would be written over.
    if uname().nodename().to_bytes() != from.as_bytes() {
        return Ok(false);
    }
    sethostname(to.as_bytes()).map_err(|why| not_entered(why.into()))?;
    if waits() { Ok(true) } else { Err(Late::Began) }
}

/// The host name of a container that runs.
pub(crate) async fn host_name_of<R: Runtime>(
    runtime: &R,
    id: &str,
) -> Result<String, RuntimeError> {
    let process = runtime.process(id).await?;
    let name = host_name(process).await;
    // Else the number may have been another's meanwhile.
    if runtime.process(id).await? != process {
        return Err(RuntimeError::Other(format!("container {id} was started again")));
    }
    name.map_err(|error| RuntimeError::Other(format!("host name not read: {error}")))
}

/// The host name that a process has.
async fn host_name(process: i64) -> io::Result<String> {
    let (tell, told) = oneshot::channel();
    let read = move || -> io::Result<String> {
        let handle = File::open(format!("/proc/{process}/ns/uts"))?;
        let which = LinkNameSpaceType::HostNameAndNISDomainName;
        move_into_link_name_space(handle.as_fd(), Some(which))?;
        Ok(uname().nodename().to_string_lossy().into_owned())
    };
    let thread = std::thread::Builder::new().name("host name".to_owned());
    // Nobody waits for the answer any more when it is not taken.
    thread.spawn(move || tell.send(read()).ok())?;
    told.await.map_err(io::Error::other)?
}

fn namespace_id(path: &str) -> io::Result<u64> {
    fs::metadata(path).map(|seen| seen.st_ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_of_both_versions_and_both_drivers() {
        let found = |lines: &str| {
            let places = candidates(lines, "c0ffee");
            places.iter().map(|g| g.processes("beef").display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            found("0::/system.slice/docker-c0ffee.scope\n"),
            ["/sys/fs/cgroup/system.slice/docker-beef.scope/cgroup.procs"]
        );
        assert_eq!(
            found(
                "8:pids:/docker/c0ffee\n4:cpu,cpuacct:/docker/c0ffee\n1:name=systemd:/docker/c0ffee\n0::/\n"
            ),
            [
                "/sys/fs/cgroup/pids/docker/beef/cgroup.procs",
                "/sys/fs/cgroup/cpu,cpuacct/docker/beef/cgroup.procs",
                "/sys/fs/cgroup/systemd/docker/beef/cgroup.procs",
            ]
        );
        assert!(found("0::/\n").is_empty() && found("nonsense").is_empty() && found("").is_empty());
    }

    #[test]
    fn a_process_that_is_not_the_engines_teaches_nothing() {
        assert_eq!(Groups::learn("c0ffee", i64::from(std::process::id())), None);
        assert_eq!(Groups::learn("c0ffee", 0), None);
    }

    #[tokio::test]
    async fn a_process_tells_its_host_name() {
        let own = uname().nodename().to_string_lossy().into_owned();
        match host_name(i64::from(std::process::id())).await {
            Ok(name) => assert_eq!(name, own),
            // Who may not enter a namespace learns that.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        assert!(host_name(0).await.is_err());
    }

    #[tokio::test]
    async fn a_container_that_is_never_seen_is_late() {
        let groups = Groups { before: "/no/such/".into(), after: "/cgroup.procs".into() };
        let naming = Naming::begin(&groups, "c0ffee", "from", "to").expect("a thread");
        assert_eq!(naming.end().await, Err(Late::NeverSeen));
    }
}
