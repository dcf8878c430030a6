//! The Docker Engine behind [`Runtime`]: the one file that knows bollard.
//!
//! Works with Engine 20.10 (API 1.41) and later; the version is negotiated on first use. Translates
//! both ways and decides nothing. At most [`CONCURRENCY`] changing calls run at a time: beyond that
//! the engine gets slower, not faster (11.9 containers/s at 8, with half the latency of 16).

use std::collections::HashMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, EventMessage,
    EventMessageTypeEnum, ExecConfig, HostConfig, HostConfigLogConfig, Ipam, IpamConfig, Mount,
    MountBindOptions, MountType, NetworkCreateRequest, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, EventsOptions, ImportImageOptions,
    InspectContainerOptions, InspectNetworkOptions, ListContainersOptions, LogsOptions,
    RemoveContainerOptions, StartContainerOptions, StopContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker as Client};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use tokio::sync::{OnceCell, Semaphore};

use crate::node::capacity::{Engine, Limits};
use crate::node::container_spec::{CPU_PERIOD, ContainerSpec, IpcMode, NetworkMode};
use crate::node::instance::{INSTALLATION, Identity, Instance, Life, Settings};
use crate::node::runtime::{
    CREATE_TIME, EventAction, ExecOutcome, INSPECT_TIME, ImageFacts, LIST_TIME, LogOptions,
    NetworkSpec, PING_TIME, PULL_TIME, REMOVE_TIME, Runtime, RuntimeError, RuntimeEvent,
    START_TIME, STOP_MARGIN,
};

/// Changing calls at a time: 2 to 4 times the cores of a small host.
const CONCURRENCY: usize = 8;
/// bollard's own limit of a call; ours are shorter and tell which call it was.
const CLIENT_SECONDS: u64 = 7200;
/// Bytes kept of a command's output.
const EXEC_OUTPUT: usize = 10 * 1024;
const POD_UID: &str = "ballast.dev/pod-uid";

/// A Docker engine. Made without touching it: an engine that is not there yet is merely unreachable.
#[derive(Clone, Debug)]
pub struct Docker {
    host: String,
    client: Arc<OnceCell<Client>>,
    permits: Arc<Semaphore>,
}

impl Docker {
    /// `unix:///var/run/docker.sock`, or what DOCKER_HOST may say.
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            client: Arc::new(OnceCell::new()),
            permits: Arc::new(Semaphore::new(CONCURRENCY)),
        }
    }

    async fn client(&self) -> Result<&Client, RuntimeError> {
        let connect = || async {
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
        };
        self.client.get_or_try_init(connect).await
    }

    fn unreachable(&self, what: &str) -> RuntimeError {
        RuntimeError::Unreachable(format!("{} ({})", what, self.host))
    }

    async fn permit(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.permits.acquire().await.expect("the semaphore is never closed")
    }
}

/// Runs one call with its own time.
async fn timed<T>(
    call: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, RuntimeError> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(refusal(error)),
        Err(_) => Err(RuntimeError::Unreachable(format!(
            "{call} did not answer within {} s",
            limit.as_secs()
        ))),
    }
}

fn refusal(error: Error) -> RuntimeError {
    match error {
        Error::DockerResponseServerError { status_code, message } => match status_code {
            404 => RuntimeError::NotFound(message),
            409 => RuntimeError::NameConflict(message),
            401 | 403 => RuntimeError::Denied(message),
            // An engine behind a proxy, or one that is going down.
            502..=504 => RuntimeError::Unreachable(message),
            _ => RuntimeError::Other(message),
        },
        Error::DockerStreamError { error } => RuntimeError::Other(error),
        Error::JsonDataError { .. }
        | Error::JsonSerdeError { .. }
        | Error::StrParseError { .. } => RuntimeError::Other(error.to_string()),
        // The rest is the transport: sockets, HTTP framing, time.
        other => RuntimeError::Unreachable(chain(&other)),
    }
}

/// An error and its causes: hyper's own says little (`client error (Connect)`).
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let sentence = inner.to_string();
        if !text.contains(&sentence) {
            text = format!("{text}: {sentence}");
        }
        cause = inner.source();
    }
    text
}

fn filters(pairs: &[(&str, &str)]) -> Option<HashMap<String, Vec<String>>> {
    let mut filters: HashMap<String, Vec<String>> = HashMap::new();
    for (name, value) in pairs {
        filters.entry((*name).to_owned()).or_default().push((*value).to_owned());
    }
    Some(filters)
}

fn body(spec: &ContainerSpec) -> ContainerCreateBody {
    let key = |port: &crate::node::container_spec::PublishedPort| {
        format!("{}/{}", port.container_port, port.protocol)
    };
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &spec.ports {
        let binding = PortBinding {
            host_ip: Some(port.host_ip.clone()),
            host_port: Some(port.host_port.to_string()),
        };
        bindings.entry(key(port)).or_default().get_or_insert_default().push(binding);
    }
    let mounts = spec.mounts.iter().map(|mount| Mount {
        target: Some(mount.target.clone()),
        source: Some(mount.source.clone()),
        typ: Some(MountType::BIND),
        read_only: Some(mount.read_only),
        bind_options: Some(MountBindOptions::default()),
        ..Mount::default()
    });
    let (log_driver, log_options) = ContainerSpec::log_config();
    let some_list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    ContainerCreateBody {
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        exposed_ports: (!spec.ports.is_empty()).then(|| spec.ports.iter().map(key).collect()),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin),
        env: some_list(&spec.env),
        cmd: spec.arguments.clone(),
        image: Some(spec.image.clone()),
        working_dir: spec.working_dir.clone(),
        entrypoint: spec.entrypoint.clone(),
        labels: Some(spec.identity.to_labels()),
        host_config: Some(HostConfig {
            network_mode: Some(match &spec.network {
                NetworkMode::Bridge(name) => name.clone(),
                NetworkMode::Join(id) => format!("container:{id}"),
                NetworkMode::Host => "host".to_owned(),
            }),
            ipc_mode: Some(match &spec.ipc {
                IpcMode::Shareable => "shareable".to_owned(),
                IpcMode::Join(id) => format!("container:{id}"),
                IpcMode::Host => "host".to_owned(),
            }),
            pid_mode: spec.host_pid.then(|| "host".to_owned()),
            port_bindings: (!bindings.is_empty()).then_some(bindings),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            mounts: (!spec.mounts.is_empty()).then(|| mounts.collect()),
            log_config: Some(HostConfigLogConfig {
                typ: Some(log_driver.to_owned()),
                config: Some(log_options),
            }),
            memory: Some(spec.memory),
            // Swap equal to memory means no swap, as in Kubernetes.
            memory_swap: (spec.memory > 0).then_some(spec.memory),
            cpu_shares: Some(spec.cpu_shares),
            cpu_quota: Some(spec.cpu_quota),
            cpu_period: (spec.cpu_quota > 0).then_some(CPU_PERIOD),
            oom_score_adj: spec.oom_score_adj,
            privileged: Some(spec.privileged),
            readonly_rootfs: Some(spec.read_only_root),
            cap_add: some_list(&spec.capabilities_added),
            cap_drop: some_list(&spec.capabilities_dropped),
            security_opt: spec.no_new_privileges.then(|| vec!["no-new-privileges".to_owned()]),
            extra_hosts: some_list(&spec.extra_hosts),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Docker's zero time is the year 1: a thing that has not happened.
fn moment(text: Option<&str>) -> Option<Timestamp> {
    let text = text.filter(|text| !text.is_empty() && !text.starts_with("0001-"))?;
    text.parse().ok()
}

fn instance(answer: ContainerInspectResponse) -> Option<Instance> {
    let config = answer.config?;
    let identity = Identity::of_labels(&config.labels.unwrap_or_default())?;
    let state = answer.state.unwrap_or_default();
    let host = answer.host_config.unwrap_or_default();
    let life = match state.status {
        Some(ContainerStateStatusEnum::CREATED) => Life::Created,
        Some(ContainerStateStatusEnum::PAUSED) => Life::Paused,
        Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::RESTARTING) => {
            Life::Running
        }
        _ => Life::Exited,
    };
    let networks = answer.network_settings.and_then(|settings| settings.networks);
    let ip = networks
        .into_iter()
        .flatten()
        .find_map(|(_, endpoint)| endpoint.ip_address?.parse::<Ipv4Addr>().ok());
    let mode = host.network_mode.unwrap_or_default();
    Some(Instance {
        id: answer.id?,
        name: answer.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        identity,
        life,
        image_id: answer.image.unwrap_or_default(),
        exit_code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default(),
        oom_killed: state.oom_killed.unwrap_or_default(),
        error: state.error.unwrap_or_default(),
        created_at: moment(answer.created.as_deref()).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: moment(state.started_at.as_deref()),
        finished_at: moment(state.finished_at.as_deref()),
        ip,
        joined: mode.strip_prefix("container:").map(str::to_owned),
        settings: Settings {
            image: config.image.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            memory: host.memory.unwrap_or_default(),
            memory_swap: host.memory_swap.unwrap_or_default(),
            cpu_shares: host.cpu_shares.unwrap_or_default(),
            cpu_quota: host.cpu_quota.unwrap_or_default(),
            restart_policy: host
                .restart_policy
                .and_then(|policy| policy.name)
                .map(|name| name.to_string())
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "no".to_owned()),
        },
    })
}

/// `None` for what changes nothing that we look at (`exec_*`, `top`, `attach`, `resize`).
fn runtime_event(message: EventMessage) -> Option<RuntimeEvent> {
    if message.typ != Some(EventMessageTypeEnum::CONTAINER) {
        return None;
    }
    let actor = message.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let action = match message.action?.as_str() {
        "start" => EventAction::Started,
        "die" => {
            EventAction::Died { exit_code: attributes.get("exitCode")?.parse().unwrap_or_default() }
        }
        "kill" => EventAction::Killed { signal: attributes.get("signal")?.clone() },
        "oom" => EventAction::OutOfMemory,
        "destroy" => EventAction::Removed,
        "update" | "pause" | "unpause" | "rename" => EventAction::Changed,
        _ => return None,
    };
    let nanos = i128::from(message.time_nano.unwrap_or_default());
    Some(RuntimeEvent {
        container_id: actor.id?,
        pod_uid: attributes.get(POD_UID)?.clone(),
        action,
        at: Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

impl Runtime for Docker {
    async fn ping(&self) -> Result<(), RuntimeError> {
        timed("ping", PING_TIME, self.client().await?.ping()).await.map(|_| ())
    }

    async fn engine(&self) -> Result<Engine, RuntimeError> {
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
        })
    }

    async fn list(&self, installation: &str) -> Result<Vec<Instance>, RuntimeError> {
        let client = self.client().await?;
        let options = ListContainersOptions {
            all: true,
            filters: filters(&[("label", &format!("{INSTALLATION}={installation}"))]),
            ..ListContainersOptions::default()
        };
        let summaries = timed("list", LIST_TIME, client.list_containers(Some(options))).await?;
        // The list lacks exit codes, times and limits: one inspect each (1 ms), a few at a time.
        let ids = summaries.into_iter().filter_map(|summary| summary.id);
        let inspected: Vec<_> = futures::stream::iter(ids)
            .map(|id| async move { self.inspect(&id).await })
            .buffered(CONCURRENCY)
            .collect()
            .await;
        let mut instances = Vec::with_capacity(inspected.len());
        for answer in inspected {
            match answer {
                Ok(instance) => instances.push(instance),
                // Removed between the two calls, or not wholly labelled by us.
                Err(RuntimeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(instances)
    }

    async fn inspect(&self, id: &str) -> Result<Instance, RuntimeError> {
        let client = self.client().await?;
        let call = client.inspect_container(id, None::<InspectContainerOptions>);
        instance(timed("inspect", INSPECT_TIME, call).await?)
            .ok_or_else(|| RuntimeError::NotFound(format!("container {id} is not one of ours")))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        let client = self.client().await?;
        let _permit = self.permit().await;
        let options =
            CreateContainerOptions { name: Some(spec.name.clone()), platform: String::new() };
        timed("create", CREATE_TIME, client.create_container(Some(options), body(spec)))
            .await
            .map(|answer| answer.id)
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        let _permit = self.permit().await;
        timed("start", START_TIME, client.start_container(id, None::<StartContainerOptions>)).await
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
        let _permit = self.permit().await;
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        match timed("remove", REMOVE_TIME, client.remove_container(id, Some(options))).await {
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
        let client = self.client().await?;
        match timed("image inspect", INSPECT_TIME, client.inspect_image(reference)).await {
            Ok(answer) => Ok(Some(ImageFacts { id: answer.id.unwrap_or_default() })),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn pull(&self, reference: &str) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        let options = CreateImageOptions {
            from_image: Some(reference.to_owned()),
            // Without a tag the engine would pull every tag of the repository.
            tag: (!has_tag_or_digest(reference)).then(|| "latest".to_owned()),
            ..CreateImageOptions::default()
        };
        let mut progress = client.create_image(Some(options), None, None);
        let drain = async {
            while let Some(step) = progress.next().await {
                step?;
            }
            Ok(())
        };
        timed("pull", PULL_TIME, drain).await
    }

    async fn load(&self, archive: Bytes) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let mut progress = client.import_image(options, bollard::body_full(archive), None);
        let drain = async {
            while let Some(step) = progress.next().await {
                step?;
            }
            Ok(())
        };
        timed("image load", START_TIME, drain).await
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

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutcome, RuntimeError> {
        let client = self.client().await?;
        let run = async {
            let config = ExecConfig {
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                cmd: Some(command.to_vec()),
                ..ExecConfig::default()
            };
            let exec = client.create_exec(id, config).await?.id;
            let started = client.start_exec(&exec, None::<StartExecOptions>).await?;
            let mut output = String::new();
            if let StartExecResults::Attached { output: mut parts, .. } = started {
                while let Some(part) = parts.next().await {
                    let text = part?.to_string();
                    let room = EXEC_OUTPUT.saturating_sub(output.len());
                    output.extend(text.chars().take(room));
                }
            }
            let exit_code = client.inspect_exec(&exec).await?.exit_code.unwrap_or(-1);
            Ok(ExecOutcome { exit_code, output })
        };
        timed("exec", limit, run).await
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

fn network_request(network: &NetworkSpec) -> NetworkCreateRequest {
    let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    NetworkCreateRequest {
        name: network.name.clone(),
        driver: Some("bridge".to_owned()),
        ipam: Some(Ipam {
            config: Some(vec![IpamConfig {
                subnet: Some(network.subnet.to_string()),
                gateway: Some(gateway_of(network).to_string()),
                ..IpamConfig::default()
            }]),
            ..Ipam::default()
        }),
        options: Some([option("com.docker.network.bridge.name", &network.bridge)].into()),
        labels: Some([option(INSTALLATION, &network.installation)].into()),
        ..NetworkCreateRequest::default()
    }
}

/// The first address of the range, as Docker itself chooses.
fn gateway_of(network: &NetworkSpec) -> Ipv4Addr {
    network.subnet.hosts().next().unwrap_or_else(|| network.subnet.addr())
}

fn has_tag_or_digest(reference: &str) -> bool {
    reference.contains('@') || reference.rsplit('/').next().is_some_and(|name| name.contains(':'))
}
