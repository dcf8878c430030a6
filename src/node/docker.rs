//! The Docker Engine behind [`Runtime`]: the calls, by bollard; their bodies and answers are
//! translated in `docker_translation.rs`; images are in `docker_images.rs`.
//!
//! Works with Engine 20.10 (API 1.41) and later; the version is negotiated whenever the engine is
//! reached anew, for it may have been upgraded meanwhile. Decides nothing. At most [`CONCURRENCY`]
//! changing calls run at a time: beyond that the engine gets slower, not faster (11.9 containers/s at
//! 8, with half the latency of 16).

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerSummary, ExecConfig, Network};
use bollard::query_parameters::{
    CreateContainerOptions, EventsOptions, InspectContainerOptions, InspectNetworkOptions,
    ListContainersOptions, ListNetworksOptions, LogsOptions, RemoveContainerOptions,
    RenameContainerOptions, ResizeContainerTTYOptions, ResizeExecOptions, StartContainerOptions,
    StatsOptions, StopContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker as Client};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;

use crate::node::capacity::{Engine, Limits};
use crate::node::container_spec::ContainerSpec;
use crate::node::docker_frames::{Frames, Reading};
use crate::node::docker_images;
use crate::node::docker_translation::{
    body, filters, gateway_of, instance, network_request, refusal, runtime_event, usage_sample,
    vague,
};
use crate::node::hijack::{EngineAddress, Hijacked, hijack};
use crate::node::instance::{INSTALLATION, Instance, Listed};
use crate::node::runtime::{
    CREATE_TIME, ExecOutcome, INSPECT_TIME, ImageFacts, IsKnown, LIST_TIME, LogOptions,
    NetworkSpec, PING_TIME, Pull, REMOVE_TIME, Runtime, RuntimeError, RuntimeEvent, START_TIME,
    STOP_MARGIN, StoredImage, UsageSample,
};
use crate::node::turns::Turns;
use crate::node::uts::{Groups, Naming, host_name_of};
use crate::object::streams::{Channels, Process};

/// Changing calls at a time: 2 to 4 times the cores of a small host.
const CONCURRENCY: usize = 8;
/// bollard's own limit of a call; ours are shorter and tell which call it was.
const CLIENT_SECONDS: u64 = 7200;
/// The engine would keep ctrl-p for itself, to see whether ctrl-q follows and the caller means to go.
/// It wants some such sequence: this one nobody types, and of its first key nobody sees that it waits
/// for the next one.
const DETACH_KEYS: &str = "ctrl-@,ctrl-_,ctrl-@,ctrl-_,ctrl-@,ctrl-_,ctrl-@,ctrl-_";
/// Between two looks whether a command has ended whose output has: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// For the engine to know an exit code, of a command that is not running.
const EXIT_CODE_TIME: Duration = Duration::from_secs(10);
/// Bytes kept of a command's output.
const EXEC_OUTPUT: usize = 10 * 1024;

/// A Docker engine. Made without touching it: an engine that is not there yet is merely unreachable.
#[derive(Clone, Debug)]
pub struct Docker {
    pub(super) host: String,
    client: Arc<Mutex<Option<Client>>>,
    turns: Turns,
    /// Where starting containers are seen, once learnt.
    groups: Arc<Mutex<Option<Groups>>>,
}

impl Docker {
    /// `unix:///var/run/docker.sock`, or what DOCKER_HOST may say.
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            client: Arc::default(),
            turns: Turns::of(CONCURRENCY),
            groups: Arc::default(),
        }
    }

    /// A client that speaks the version this engine has now.
    async fn connect(&self) -> Result<Client, RuntimeError> {
        // bollard checks nothing but the socket's existence here.
        let client = if self.host.starts_with("unix://") || self.host.starts_with('/') {
            Client::connect_with_unix(&self.host, CLIENT_SECONDS, API_DEFAULT_VERSION)
        } else {
            Client::connect_with_host(&self.host)
                .map(|client| client.with_timeout(Duration::from_secs(CLIENT_SECONDS)))
        };
        let client = client.map_err(|error| self.unreachable(&error.to_string()))?;
        let negotiated = timed("version", PING_TIME * 2, client.negotiate_version()).await;
        negotiated.map_err(|error| self.unreachable(&error.to_string()))
    }

    /// Cheap to clone. The lock is held while connecting: all callers wait for the same client.
    pub(super) async fn client(&self) -> Result<Client, RuntimeError> {
        let mut known = self.client.lock().await;
        if let Some(client) = &*known {
            return Ok(client.clone());
        }
        let client = self.connect().await?;
        Ok(known.insert(client).clone())
    }

    fn unreachable(&self, what: &str) -> RuntimeError {
        RuntimeError::Unreachable(format!("{} ({})", what, self.host))
    }
}

/// What became of one container of a list.
enum Looked {
    Whole(Instance),
    Vague(Instance),
}

impl Docker {
    /// One container of a list; `None` if it went since, or is not wholly labelled by us. The engine
    /// holds a container's lock while it starts or stops it, and knows damaged ones that it cannot
    /// tell of: that is no fault of the engine, as long as it answers.
    async fn look(
        &self,
        summary: ContainerSummary,
        is_known: IsKnown<'_>,
    ) -> Result<Option<Looked>, RuntimeError> {
        let id = summary.id.clone().unwrap_or_default();
        let seen = vague(summary);
        if seen.as_ref().is_some_and(is_known) {
            return Ok(seen.map(Looked::Vague));
        }
        let error = match self.inspect(&id).await {
            Ok(instance) => return Ok(Some(Looked::Whole(instance))),
            Err(RuntimeError::NotFound(_)) => return Ok(None),
            Err(error) => error,
        };
        if let RuntimeError::Unreachable(_) = error {
            self.ping().await?;
        }
        if let Some(instance) = &seen {
            warn!(container = %instance.name, %error, "container listed, but it cannot be inspected");
        }
        Ok(seen.map(Looked::Vague))
    }

    /// Every network with some installation's label, as `(id, name, installation)`.
    pub async fn networks(&self) -> Result<Vec<(String, String, String)>, RuntimeError> {
        let options = ListNetworksOptions { filters: filters(&[("label", INSTALLATION)]) };
        let client = self.client().await?;
        let call = client.list_networks(Some(options));
        let all = timed("network list", LIST_TIME, call).await?.into_iter();
        let facts = |network: Network| {
            Some((network.id?, network.name?, network.labels?.remove(INSTALLATION)?))
        };
        Ok(all.filter_map(facts).collect())
    }

    /// A call that the engine answers with a connection.
    async fn hijack(
        &self,
        path: &str,
        asked: &serde_json::Value,
    ) -> Result<Hijacked, RuntimeError> {
        let address = EngineAddress::of(&self.host).ok_or_else(|| {
            let host = &self.host;
            RuntimeError::Other(format!(
                "streams into containers go over unix:// and tcp:// alone, not over {host}"
            ))
        })?;
        let version = self.client().await?.client_version();
        let path = format!("/v{version}{path}");
        let called = timeout(START_TIME, hijack(&address, &path, asked)).await;
        called.unwrap_or_else(|_| Err(self.unreachable("no stream within its time")))
    }
}

/// Runs one call with its own time.
pub(super) async fn timed<T>(
    call: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, RuntimeError> {
    match timeout(limit, future).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(refusal(error)),
        Err(_) => Err(RuntimeError::Unreachable(format!(
            "{call} did not answer within {} s",
            limit.as_secs()
        ))),
    }
}

impl Runtime for Docker {
    async fn ping(&self) -> Result<(), RuntimeError> {
        timed("ping", PING_TIME, self.client().await?.ping()).await.map(|_| ())
    }

    async fn engine(&self) -> Result<Engine, RuntimeError> {
        // Asked when the engine was away: what comes back may speak another version.
        *self.client.lock().await = None;
        let client = self.client().await?;
        let version = timed("version", INSPECT_TIME, client.version()).await?;
        let info = timed("info", LIST_TIME, client.info()).await?;
        let architecture = version.arch.unwrap_or_default();
        Ok(Engine {
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            cpus: info.ncpu.unwrap_or_default(),
            memory: info.mem_total.unwrap_or_default(),
            kernel: info.kernel_version.unwrap_or_default(),
            os_image: info.operating_system.unwrap_or_default(),
            architecture,
            limits: Limits {
                memory: info.memory_limit.unwrap_or_default(),
                swap: info.swap_limit.unwrap_or_default(),
                cpu_quota: info.cpu_cfs_quota.unwrap_or_default(),
                cpu_shares: info.cpu_shares.unwrap_or_default(),
            },
            live_restore: info.live_restore_enabled.unwrap_or_default(),
            data_root: info.docker_root_dir.unwrap_or_default(),
            app_armor: (info.security_options.iter().flatten())
                .any(|option| option.starts_with("name=apparmor")),
            gpus: self.gpus(info.runtimes.iter().flatten().any(|(name, _)| name == "nvidia")),
        })
    }

    async fn list(
        &self,
        installation: &str,
        is_known: IsKnown<'_>,
    ) -> Result<Listed, RuntimeError> {
        let client = self.client().await?;
        let options = ListContainersOptions {
            all: true,
            filters: filters(&[("label", &format!("{INSTALLATION}={installation}"))]),
            ..ListContainersOptions::default()
        };
        let summaries = timed("list", LIST_TIME, client.list_containers(Some(options))).await?;
        // The list lacks exit codes, times and limits: one inspect each (1 ms), a few at a time.
        let looked: Vec<_> = futures::stream::iter(summaries)
            .map(|summary| self.look(summary, is_known))
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        let mut listed = Listed::default();
        for one in looked.into_iter().flatten() {
            match one {
                Looked::Whole(instance) => listed.instances.push(instance),
                Looked::Vague(instance) => listed.vague.push(instance),
            }
        }
        Ok(listed)
    }

    async fn inspect(&self, id: &str) -> Result<Instance, RuntimeError> {
        let client = self.client().await?;
        let call = client.inspect_container(id, None::<InspectContainerOptions>);
        instance(timed("inspect", INSPECT_TIME, call).await?)
            .ok_or_else(|| RuntimeError::NotFound(format!("container {id} is not one of ours")))
    }

    async fn process(&self, id: &str) -> Result<i64, RuntimeError> {
        let client = self.client().await?;
        let call = client.inspect_container(id, None::<InspectContainerOptions>);
        let seen = timed("inspect", INSPECT_TIME, call).await?;
        // 0 of one that does not run.
        let process = seen.state.and_then(|state| state.pid).filter(|process| *process > 0);
        process.ok_or_else(|| RuntimeError::Other(format!("container {id} is not running")))
    }

    async fn host_name(&self, id: &str) -> Result<String, RuntimeError> {
        host_name_of(self, id).await
    }

    async fn mount_table(&self) -> Option<Vec<u8>> {
        EngineAddress::of(&self.host)?.mount_table().await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        let client = self.client().await?;
        let options =
            CreateContainerOptions { name: Some(spec.name.clone()), platform: String::new() };
        let call = client.create_container(Some(options), body(spec));
        self.turns.take(timed("create", CREATE_TIME, call)).await.map(|answer| answer.id)
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        let call = client.start_container(id, None::<StartContainerOptions>);
        self.turns.take(timed("start", START_TIME, call)).await
    }

    async fn start_named(&self, id: &str, from: &str, to: &str) -> Result<(), RuntimeError> {
        let groups = self.groups.lock().await.clone();
        let groups = groups.ok_or_else(|| RuntimeError::Other("learnt from nobody".to_owned()))?;
        let naming = Naming::begin(&groups, id, from, to);
        let naming = naming.map_err(|why| RuntimeError::Other(why.to_string()))?;
        let started = self.start(id).await;
        let named = naming.end().await;
        started?;
        named.map_err(|why| RuntimeError::Unnamed(why.to_string()))
    }

    async fn learn_from(&self, id: &str) -> Result<(), RuntimeError> {
        let learnt = Groups::learn(id, self.process(id).await?).ok_or_else(|| {
            RuntimeError::Other("the engine's control groups are not this host's".to_owned())
        })?;
        *self.groups.lock().await = Some(learnt);
        Ok(())
    }

    async fn rename(&self, id: &str, name: &str) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        let options = RenameContainerOptions { name: name.to_owned() };
        timed("rename", INSPECT_TIME, client.rename_container(id, options)).await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        // No permit: the engine only waits, and eight slow stops must not hold up a start.
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptions { signal: None, t: Some(seconds) };
        match timed("stop", grace + STOP_MARGIN, client.stop_container(id, Some(options))).await {
            Err(RuntimeError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        let call = client.remove_container(id, Some(options));
        match self.turns.take(timed("remove", REMOVE_TIME, call)).await {
            Err(RuntimeError::NotFound(_)) => Ok(()),
            // "removal of container … is already in progress"
            Err(RuntimeError::NameConflict(_)) => Ok(()),
            other => other,
        }
    }

    async fn ensure_network(&self, network: &NetworkSpec) -> Result<Ipv4Addr, RuntimeError> {
        let client = self.client().await?;
        let look = || client.inspect_network(&network.name, None::<InspectNetworkOptions>);
        let found = match timed("network inspect", INSPECT_TIME, look()).await {
            Ok(found) => found,
            Err(RuntimeError::NotFound(_)) => {
                let call = client.create_network(network_request(network));
                match timed("network create", CREATE_TIME, call).await {
                    Ok(_) | Err(RuntimeError::NameConflict(_)) => {}
                    Err(error) => return Err(error),
                }
                timed("network inspect", INSPECT_TIME, look()).await?
            }
            Err(error) => return Err(error),
        };
        let owner = found.labels.as_ref().and_then(|labels| labels.get(INSTALLATION));
        let config = found.ipam.and_then(|ipam| ipam.config).into_iter().flatten().next();
        let subnet = config.as_ref().and_then(|config| config.subnet.clone()).unwrap_or_default();
        if owner != Some(&network.installation) || subnet != network.subnet.to_string() {
            return Err(RuntimeError::Other(format!(
                "the Docker network {} exists with range {subnet} and is not this installation's with range {}: run `ballast reset`, or remove it with `docker network rm {}`",
                network.name, network.subnet, network.name
            )));
        }
        let gateway = config.and_then(|config| config.gateway?.parse().ok());
        Ok(gateway.unwrap_or_else(|| gateway_of(network)))
    }

    async fn remove_network(&self, name: &str) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        match timed("network remove", REMOVE_TIME, client.remove_network(name)).await {
            Err(RuntimeError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageFacts>, RuntimeError> {
        docker_images::image(&self.client().await?, reference).await
    }

    async fn pull(&self, pull: &Pull) -> Result<(), RuntimeError> {
        docker_images::pull(&self.client().await?, pull).await
    }

    async fn load(&self, archive: Bytes) -> Result<(), RuntimeError> {
        docker_images::load(&self.client().await?, archive).await
    }

    async fn images(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        docker_images::images(&self.client().await?).await
    }

    async fn remove_image(&self, name: &str) -> Result<(), RuntimeError> {
        docker_images::remove(&self.client().await?, name).await
    }

    async fn logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError> {
        let client = self.client().await?;
        let options = LogsOptions {
            follow: options.follow,
            stdout: true,
            stderr: true,
            since: options
                .since
                .map_or(0, |since| i32::try_from(since.as_second()).unwrap_or(i32::MAX)),
            until: 0,
            timestamps: options.timestamps,
            tail: options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
        };
        let stream = client.logs(id, Some(options));
        Ok(stream.map(|part| part.map(LogOutput::into_bytes).map_err(refusal)).boxed())
    }

    async fn usage(&self, id: &str) -> Result<UsageSample, RuntimeError> {
        let client = self.client().await?;
        // One look: the second one, which makes a rate, is at all containers at once.
        let options = StatsOptions { stream: false, one_shot: true };
        let mut answers = pin!(client.stats(id, Some(options)));
        let answer = timed("stats", INSPECT_TIME, answers.try_next()).await?;
        let sample = answer.as_ref().and_then(usage_sample);
        sample.ok_or_else(|| RuntimeError::Other(format!("no usage is known of {id}")))
    }

    async fn disk_usage(&self, id: &str) -> Result<u64, RuntimeError> {
        docker_images::disk_usage(&self.client().await?, id).await
    }

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutcome, RuntimeError> {
        let client = self.client().await?;
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..ExecConfig::default()
        };
        let exec = timed("exec create", INSPECT_TIME, client.create_exec(id, config)).await?.id;
        let start = client.start_exec(&exec, None::<StartExecOptions>);
        let started = timed("exec start", INSPECT_TIME, start).await?;
        let mut output = String::new();
        let drain = async {
            if let StartExecResults::Attached { output: mut parts, .. } = started {
                while let Some(part) = parts.next().await {
                    let text = part?.to_string();
                    let room = EXEC_OUTPUT.saturating_sub(output.len());
                    output.extend(text.chars().take(room));
                }
            }
            Ok(())
        };
        let ended = timeout(limit, drain).await;
        let seen = timed("exec inspect", INSPECT_TIME, client.inspect_exec(&exec)).await?;
        match ended {
            Ok(Ok(())) => {
                Ok(ExecOutcome::Ended { exit_code: seen.exit_code.unwrap_or(-1), output })
            }
            Ok(Err(error)) => Err(refusal(error)),
            // The engine answers before the command runs; its process id comes with the process.
            Err(_) if seen.pid.unwrap_or_default() > 0 => Ok(ExecOutcome::Late),
            Err(_) => Err(RuntimeError::Unreachable(format!(
                "the engine did not start a command within {} s",
                limit.as_secs()
            ))),
        }
    }

    async fn enter(
        &self,
        id: &str,
        command: &[String],
        channels: Channels,
    ) -> Result<Process<RuntimeError>, RuntimeError> {
        let client = self.client().await?;
        let config = ExecConfig {
            attach_stdin: Some(channels.stdin),
            attach_stdout: Some(channels.stdout),
            attach_stderr: Some(channels.stderr),
            tty: Some(channels.tty),
            detach_keys: Some(DETACH_KEYS.to_owned()),
            cmd: Some(command.to_vec()),
            ..ExecConfig::default()
        };
        let exec = timed("exec create", INSPECT_TIME, client.create_exec(id, config)).await?.id;
        let asked = json!({"Detach": false, "Tty": channels.tty});
        let hijacked = self.hijack(&format!("/exec/{exec}/start"), &asked).await?;
        let (input, output) = hijacked.split(reading(channels.tty));
        let (resizing, terminal) = (client.clone(), exec.clone());
        Ok(Process {
            input,
            output,
            resize: Box::new(move |size| {
                let (client, exec) = (resizing.clone(), terminal.clone());
                let options = ResizeExecOptions { h: size.height.into(), w: size.width.into() };
                Box::pin(async move {
                    timed("exec resize", INSPECT_TIME, client.resize_exec(&exec, options)).await
                })
            }),
            ended: Box::pin(async move { exit_code(&client, &exec).await.map(Some) }),
        })
    }

    async fn attach(
        &self,
        id: &str,
        channels: Channels,
    ) -> Result<Process<RuntimeError>, RuntimeError> {
        let client = self.client().await?;
        let Channels { stdin, stdout, stderr, tty } = channels;
        // Both where there is a terminal: the engine sends nothing else otherwise.
        let stderr = stderr && !tty;
        let path = format!(
            "/containers/{id}/attach?stream=true&stdin={stdin}&stdout={stdout}&stderr={stderr}&detachKeys={DETACH_KEYS}"
        );
        let hijacked = self.hijack(&path, &json!({})).await?;
        let (input, output) = hijacked.split(reading(tty));
        let id = id.to_owned();
        Ok(Process {
            input,
            output,
            resize: Box::new(move |size| {
                let (client, id) = (client.clone(), id.clone());
                let (h, w) = (size.height.into(), size.width.into());
                let options = ResizeContainerTTYOptions { h, w };
                Box::pin(async move {
                    timed("resize", INSPECT_TIME, client.resize_container_tty(&id, options)).await
                })
            }),
            ended: Box::pin(futures::future::ok(None)),
        })
    }

    async fn events(
        &self,
        installation: &str,
        since: Timestamp,
    ) -> Result<BoxStream<'static, Result<RuntimeEvent, RuntimeError>>, RuntimeError> {
        let client = self.client().await?;
        let options = EventsOptions {
            since: Some(since.as_second().to_string()),
            filters: filters(&[
                ("type", "container"),
                ("label", &format!("{INSTALLATION}={installation}")),
            ]),
            ..EventsOptions::default()
        };
        let stream = client.events(Some(options));
        let translated = stream.filter_map(|message| async {
            match message {
                Ok(message) => runtime_event(message).map(Ok),
                Err(error) => Some(Err(refusal(error))),
            }
        });
        Ok(translated.boxed())
    }
}

fn reading(tty: bool) -> Reading {
    if tty { Reading::Raw } else { Reading::Framed(Frames::default()) }
}

/// How a command ended, as soon as it has: its output may have been closed long before.
async fn exit_code(client: &Client, exec: &str) -> Result<i64, RuntimeError> {
    let (mut pause, mut untold) = (FIRST_LOOK, Duration::ZERO);
    loop {
        let seen = timed("exec inspect", INSPECT_TIME, client.inspect_exec(exec)).await?;
        match (seen.running, seen.exit_code) {
            (Some(true), _) => untold = Duration::ZERO,
            (_, Some(code)) => return Ok(code),
            _ if untold > EXIT_CODE_TIME => {
                return Err(RuntimeError::Other("the engine lost the exit code".to_owned()));
            }
            _ => untold += pause,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}
