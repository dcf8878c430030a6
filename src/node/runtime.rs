//! The trait behind which a container engine stands. `docker.rs` implements it over the Engine API;
//! the simulation implements it in memory.
//!
//! Every call has a time of its own after which it fails as [`RuntimeError::Unreachable`]: an engine
//! that does not answer is unknown, not empty. No call decides anything.

use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::node::capacity::Engine;
use crate::node::container_spec::ContainerSpec;
pub use crate::node::engine_volumes::{EngineVolume, EngineVolumes, VolumeWish};
pub use crate::node::image_gc::StoredImage;
use crate::node::instance::{Instance, Listed};
pub use crate::node::pull_progress::Pulled;
use crate::node::registry_credentials::Credentials;
pub use crate::node::usage_report::UsageSample;
use crate::object::streams::{Channels, Process};

/// Creating a container; the engine unpacks nothing, but its disk may be slow.
pub const CREATE_TIME: Duration = Duration::from_secs(30);
/// Starting one: network set-up and the first process.
pub const START_TIME: Duration = Duration::from_secs(60);
pub const INSPECT_TIME: Duration = Duration::from_secs(5);
pub const LIST_TIME: Duration = Duration::from_secs(10);
pub const PING_TIME: Duration = Duration::from_secs(2);
/// A pull of a large image over a slow line; its progress is the engine's matter.
pub const PULL_TIME: Duration = Duration::from_secs(3600);
/// Added to a stop's grace: the engine sends SIGKILL at the grace's end and then answers.
pub const STOP_MARGIN: Duration = Duration::from_secs(15);
pub const REMOVE_TIME: Duration = Duration::from_secs(30);

/// Why the engine did not do it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RuntimeError {
    /// No answer, or none in time: nothing is known about what happened.
    #[error("the container engine is unreachable: {0}")]
    Unreachable(String),
    #[error("{0}")]
    NotFound(String),
    /// A create was refused because the name is taken.
    #[error("{0}")]
    NameConflict(String),
    /// The engine or a registry refuses us.
    #[error("{0}")]
    Denied(String),
    /// A container was started, and its program began before it had its pod's host name.
    #[error("no host name: {0}")]
    Unnamed(String),
    #[error("{0}")]
    Other(String),
}

/// The bridge network that pods live on.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSpec {
    pub name: String,
    /// The kernel's interface, at most 15 bytes.
    pub bridge: String,
    pub subnet: Ipv4Net,
    pub installation: String,
}

/// One pull of an image.
#[derive(Debug)]
pub struct Pull {
    pub reference: String,
    /// `None`: as nobody.
    pub credentials: Option<Credentials>,
    /// Hears of every step.
    pub progress: watch::Sender<Pulled>,
}

/// What an image is, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// `sha256:…`; of what, is the engine's matter: its image stores name the same image differently.
    pub id: String,
    /// The digests of its layers' content, the same in every store.
    pub layers: Vec<String>,
    /// Bytes.
    pub size: i64,
    /// Whom its processes run as: `app`, `1000:1000`; empty is root.
    pub user: String,
}

/// What a command inside a container did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecOutcome {
    Ended {
        exit_code: i64,
        /// Standard output and error, at most 10 KiB.
        output: String,
    },
    /// It ran, and did not end in its time.
    Late,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    /// Lines from the end; `None` is all.
    pub tail: Option<i64>,
    pub since: Option<Timestamp>,
}

/// One thing the engine says happened to a container of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeEvent {
    pub container_id: String,
    pub pod_uid: String,
    pub action: EventAction,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventAction {
    Started,
    /// The process ended.
    Died {
        exit_code: i32,
    },
    /// Somebody sent this signal through the engine.
    Killed {
        signal: String,
    },
    OutOfMemory,
    Removed,
    /// Anything else that changes what an inspect tells: update, pause, rename.
    Changed,
}

/// See [`Runtime::list`].
pub type IsKnown<'a> = &'a (dyn Fn(&Instance) -> bool + Send + Sync);

/// A container engine. Cheap to clone.
pub trait Runtime: EngineVolumes + Clone + Send + Sync + 'static {
    fn ping(&self) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    fn engine(&self) -> impl Future<Output = Result<Engine, RuntimeError>> + Send;

    /// Every container with this installation's label, running or not. Those whose other labels are
    /// not whole are left out: we did not make them. One that the engine cannot tell more of is
    /// `vague`; only an engine that does not answer at all is an error. So is one that `is_known`
    /// answers `true` for, given what the list alone tells: nothing more is asked about it.
    fn list(
        &self,
        installation: &str,
        is_known: IsKnown<'_>,
    ) -> impl Future<Output = Result<Listed, RuntimeError>> + Send;

    /// By id or name.
    ///
    /// # Errors
    /// `NotFound` also where the container is not one of ours.
    fn inspect(&self, id: &str) -> impl Future<Output = Result<Instance, RuntimeError>> + Send;

    /// The number, on this host, of a running container's first process.
    fn process(&self, id: &str) -> impl Future<Output = Result<i64, RuntimeError>> + Send;

    /// The host name of a container that runs.
    fn host_name(&self, id: &str) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// What is mounted where the engine runs, as `/proc/self/mountinfo` says it there; `None` where that
    /// cannot be known.
    fn mount_table(&self) -> impl Future<Output = Option<Vec<u8>>> + Send {
        async { None }
    }

    /// Answers the id.
    fn create(
        &self,
        spec: &ContainerSpec,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Also fine where it runs already.
    fn start(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Starts one that joined a sandbox made before its pod: the engine gives it the host name `from`,
    /// and before its program begins it has the name `to`.
    ///
    /// # Errors
    /// `Unnamed`: it runs, and may have seen the wrong name.
    fn start_named(
        &self,
        id: &str,
        from: &str,
        to: &str,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Learns from a running container how others are seen while they start, which `start_named`
    /// needs.
    ///
    /// # Errors
    /// `Other`: they cannot be seen on this host.
    fn learn_from(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Gives a container another name, at once or not at all.
    ///
    /// # Errors
    /// `NameConflict`: another container has it.
    fn rename(&self, id: &str, name: &str)
    -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// SIGTERM (or the image's stop signal), SIGKILL after the grace. Answers when it has ended.
    fn stop(
        &self,
        id: &str,
        grace: Duration,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Kills it if it runs, and removes it with its anonymous volumes. Fine where it is gone.
    fn remove(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Creates the network, or checks that the one with this name is ours and has this subnet.
    /// Answers the gateway's address: the host, as pods see it.
    fn ensure_network(
        &self,
        network: &NetworkSpec,
    ) -> impl Future<Output = Result<Ipv4Addr, RuntimeError>> + Send;

    /// Fine where it is gone.
    fn remove_network(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// `None`: the engine does not have it.
    fn image(
        &self,
        reference: &str,
    ) -> impl Future<Output = Result<Option<ImageFacts>, RuntimeError>> + Send;

    /// Dropping it ends the pull.
    fn pull(&self, pull: &Pull) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Every image that the engine has.
    fn images(&self) -> impl Future<Output = Result<Vec<StoredImage>, RuntimeError>> + Send;

    /// Takes a name from an image, or removes one by its id; with its last name an image goes. Fine
    /// where it is gone, and where somebody needs it: then it stays.
    fn remove_image(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Loads a docker-archive.
    fn load(&self, archive: Bytes) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Standard output and error, interleaved as they came.
    fn logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError>> + Send;

    /// What a running container has used since it started, and holds now.
    fn usage(&self, id: &str) -> impl Future<Output = Result<UsageSample, RuntimeError>> + Send;

    /// Bytes that a container holds on the engine's disk: its own layer and its log.
    fn disk_usage(&self, id: &str) -> impl Future<Output = Result<u64, RuntimeError>> + Send;

    /// Runs a command to its end, or for `limit`: counted from when the engine took it on, so that a
    /// slow engine is `Unreachable` and never a late command.
    fn exec(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> impl Future<Output = Result<ExecOutcome, RuntimeError>> + Send;

    /// Starts a command with the caller at its channels.
    fn enter(
        &self,
        id: &str,
        command: &[String],
        channels: Channels,
    ) -> impl Future<Output = Result<Process<RuntimeError>, RuntimeError>> + Send;

    /// Joins a container's main process, from now on. `channels.tty` says whether it was made with a
    /// terminal.
    fn attach(
        &self,
        id: &str,
        channels: Channels,
    ) -> impl Future<Output = Result<Process<RuntimeError>, RuntimeError>> + Send;

    /// What happened to this installation's containers since then, and what happens from now on: a
    /// list made after `since` and this stream together miss nothing. It ends when the engine is gone.
    fn events(
        &self,
        installation: &str,
        since: Timestamp,
    ) -> impl Future<
        Output = Result<BoxStream<'static, Result<RuntimeEvent, RuntimeError>>, RuntimeError>,
    > + Send;
}
