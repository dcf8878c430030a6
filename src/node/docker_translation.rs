//! Our words in those of the Engine API, and its answers in ours. It asks nothing: the calls are in
//! `docker.rs`.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum,
    ContainerStatsResponse, ContainerSummary, ContainerSummaryStateEnum, DeviceRequest,
    EndpointSettings, EventMessage, EventMessageTypeEnum, HostConfig, HostConfigLogConfig, Ipam,
    IpamConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType,
    MountVolumeOptions, NetworkCreateRequest, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use jiff::Timestamp;

use crate::node::confinement::{AppArmor, Seccomp};
use crate::node::container_spec::{
    CPU_PERIOD, ContainerSpec, IpcMode, MountFrom, MountSpec, NetworkMode, PidMode, Propagation,
    RecursiveReadOnly,
};
use crate::node::devices;
use crate::node::docker_projection::{Process, fields};
use crate::node::instance::{
    INSTALLATION, Identity, Instance, Life, MADE_AS, SETTINGS, Settings, devices_of,
};
use crate::node::runtime::{EventAction, NetworkSpec, RuntimeError, RuntimeEvent, UsageSample};
use crate::telemetry::chain;

/// What the kernel may take back from a container at any time, in the words of both versions of control
/// groups; the rest of its memory is the working set (cAdvisor's arithmetic).
const RECLAIMABLE: [&str; 2] = ["total_inactive_file", "inactive_file"];
const POD_UID: &str = "ballast.dev/pod-uid";

/// `None` of a container that does not run: the engine answers zeros without a time.
pub fn usage_sample(stats: &ContainerStatsResponse) -> Option<UsageSample> {
    let memory = stats.memory_stats.as_ref()?;
    let parts = memory.stats.as_ref();
    let reclaimable = RECLAIMABLE.iter().find_map(|name| parts?.get(*name)).copied();
    Some(UsageSample {
        at: stats.read.as_ref()?.parse().ok()?,
        cpu_nanos: stats.cpu_stats.as_ref()?.cpu_usage.as_ref()?.total_usage?,
        memory_bytes: memory.usage?.saturating_sub(reclaimable.unwrap_or(0)),
        processes: stats.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or(0),
    })
}

/// What a list or the event stream is narrowed by.
pub fn filters(pairs: &[(&str, &str)]) -> Option<HashMap<String, Vec<String>>> {
    let mut filters: HashMap<String, Vec<String>> = HashMap::new();
    for (name, value) in pairs {
        filters.entry((*name).to_owned()).or_default().push((*value).to_owned());
    }
    Some(filters)
}

/// The body of a create. A member's label says field by field what was asked for.
pub fn body(spec: &ContainerSpec) -> ContainerCreateBody {
    let mut body = request(spec);
    if let (Some(asked), Some(host)) = (&spec.asked, &body.host_config) {
        let process = Process {
            user: spec.user.as_deref(),
            working_dir: spec.working_dir.as_deref(),
            entrypoint: spec.entrypoint.as_deref(),
            arguments: spec.arguments.as_deref(),
            tty: spec.tty,
            stdin: spec.stdin,
        };
        let asked = Settings { fields: Some(fields(process, host)), ..asked.clone() };
        body.labels.get_or_insert_default().insert(SETTINGS.to_owned(), asked.to_label());
    }
    body
}

fn request(spec: &ContainerSpec) -> ContainerCreateBody {
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
        read_only: Some(mount.read_only),
        ..kind_of(mount)
    });
    let (log_driver, log_options) = ContainerSpec::log_config();
    let resolver = spec.resolver.as_ref();
    let some_list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    ContainerCreateBody {
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        stop_signal: spec.stop_signal.clone(),
        exposed_ports: (!spec.ports.is_empty()).then(|| spec.ports.iter().map(key).collect()),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin),
        stdin_once: Some(spec.stdin_once),
        env: some_list(&spec.env),
        cmd: spec.arguments.clone(),
        image: Some(spec.image.clone()),
        working_dir: spec.working_dir.clone(),
        entrypoint: spec.entrypoint.clone(),
        labels: Some(spec.labels()),
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
            pid_mode: match &spec.pid {
                PidMode::Own => None,
                PidMode::Join(id) => Some(format!("container:{id}")),
                PidMode::Host => Some("host".to_owned()),
            },
            dns: resolver.map(|resolver| resolver.servers.clone()),
            dns_search: resolver.map(|resolver| resolver.searches.clone()),
            dns_options: resolver.map(|resolver| resolver.options.clone()),
            sysctls: (!spec.sysctls.is_empty()).then(|| spec.sysctls.iter().cloned().collect()),
            group_add: some_list(&spec.groups),
            pids_limit: spec.pids_limit,
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
            security_opt: some_list(&security_options(spec)),
            extra_hosts: some_list(&spec.extra_hosts),
            device_requests: (!spec.devices.is_empty())
                .then(|| spec.devices.iter().map(device_request).collect()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn device_request(asked: &devices::DeviceRequest) -> DeviceRequest {
    DeviceRequest {
        driver: Some(asked.driver.clone()),
        device_ids: Some(asked.ids.clone()),
        capabilities: Some(vec![asked.capabilities.clone()]),
        ..DeviceRequest::default()
    }
}

/// Kubernetes never fills a volume with what the image has at its place; Docker would.
fn kind_of(mount: &MountSpec) -> Mount {
    match mount.from {
        MountFrom::Host => Mount {
            typ: Some(MountType::BIND),
            bind_options: Some(bind_options(mount)),
            ..Mount::default()
        },
        MountFrom::Engine => Mount {
            typ: Some(MountType::VOLUME),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        },
    }
}

/// An engine since 25.0 (API 1.44) makes what is below a read-only mount read-only too, unless it is
/// told not to; one before it never does, and knows neither word.
fn bind_options(mount: &MountSpec) -> MountBindOptions {
    let recursion = mount.read_only.then_some(mount.recursive_read_only);
    MountBindOptions {
        propagation: match mount.propagation {
            // The engine wants it said where it is made to.
            Propagation::None if recursion == Some(RecursiveReadOnly::Enabled) => {
                Some(MountBindOptionsPropagationEnum::RPRIVATE)
            }
            Propagation::None => None,
            Propagation::HostToContainer => Some(MountBindOptionsPropagationEnum::RSLAVE),
            Propagation::Bidirectional => Some(MountBindOptionsPropagationEnum::RSHARED),
        },
        read_only_non_recursive: (recursion == Some(RecursiveReadOnly::Disabled)).then_some(true),
        read_only_force_recursive: (recursion == Some(RecursiveReadOnly::Enabled)).then_some(true),
        ..MountBindOptions::default()
    }
}

/// What the engine takes as words of one list.
fn security_options(spec: &ContainerSpec) -> Vec<String> {
    let mut options = Vec::new();
    if spec.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match &spec.seccomp {
        Seccomp::Engine => {}
        Seccomp::Unconfined => options.push("seccomp=unconfined".to_owned()),
        Seccomp::Given(text) => options.push(format!("seccomp={text}")),
    }
    match &spec.app_armor {
        AppArmor::Engine => {}
        AppArmor::Unconfined => options.push("apparmor=unconfined".to_owned()),
        AppArmor::Named(name) => options.push(format!("apparmor={name}")),
    }
    options
}

/// Docker's zero time is the year 1: a thing that has not happened.
fn moment(text: Option<&str>) -> Option<Timestamp> {
    let text = text.filter(|text| !text.is_empty() && !text.starts_with("0001-"))?;
    text.parse().ok()
}

/// What an inspect tells; `None` for a container that is not one of ours.
pub fn instance(answer: ContainerInspectResponse) -> Option<Instance> {
    let config = answer.config?;
    let labels = config.labels.unwrap_or_default();
    let name = answer.name.unwrap_or_default().trim_start_matches('/').to_owned();
    let identity = Identity::of(&labels, &name)?;
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
    let process = Process {
        user: config.user.as_deref(),
        working_dir: config.working_dir.as_deref(),
        entrypoint: config.entrypoint.as_deref(),
        arguments: config.cmd.as_deref(),
        tty: config.tty.unwrap_or_default(),
        stdin: config.open_stdin.unwrap_or_default(),
    };
    let fields = Some(fields(process, &host));
    let settings = Settings {
        fields,
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
    };
    // What another version wrote in words that this one cannot read is compared with nothing.
    let asked = labels.get(SETTINGS);
    let asked = asked.map(|label| Settings::of_label(label).unwrap_or_else(|| settings.clone()));
    let networks = answer.network_settings.and_then(|settings| settings.networks);
    let mode = host.network_mode.unwrap_or_default();
    // Joined, the host's and none have no network of their own; every other mode is a network's name.
    let has_own = !mode.is_empty() && !mode.contains(':') && !["host", "none"].contains(&&*mode);
    let is_detached = has_own && networks.as_ref().is_some_and(|all| !all.contains_key(&mode));
    Some(Instance {
        id: answer.id?,
        name,
        identity,
        life,
        image_id: answer.image.unwrap_or_default(),
        exit_code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default(),
        oom_killed: state.oom_killed.unwrap_or_default(),
        error: state.error.unwrap_or_default(),
        created_at: moment(answer.created.as_deref()).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: moment(state.started_at.as_deref()),
        finished_at: moment(state.finished_at.as_deref()),
        ip: address(networks),
        joined: joined(&mode),
        made_as: labels.get(MADE_AS).cloned(),
        devices: devices_of(&labels),
        is_detached,
        settings,
        asked,
    })
}

/// What an error of bollard's means.
pub fn refusal(error: Error) -> RuntimeError {
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
        // The rest is the transport: sockets, HTTP framing, time. hyper's own words say little
        // (`client error (Connect)`), so the causes are told too.
        other => RuntimeError::Unreachable(chain(&other)),
    }
}

/// What the list alone tells of a container that cannot be inspected. Its settings are unknown, so
/// they pass for what was asked for.
pub fn vague(summary: ContainerSummary) -> Option<Instance> {
    let labels = summary.labels.unwrap_or_default();
    let life = match summary.state? {
        ContainerSummaryStateEnum::CREATED => Life::Created,
        ContainerSummaryStateEnum::PAUSED => Life::Paused,
        ContainerSummaryStateEnum::RUNNING
        | ContainerSummaryStateEnum::RESTARTING
        | ContainerSummaryStateEnum::STOPPING => Life::Running,
        _ => Life::Exited,
    };
    // "Exited (137) 3 minutes ago"; where it is not told, the code of a process that was killed: an
    // end that nobody saw is no success.
    let told = summary
        .status
        .as_deref()
        .and_then(|text| text.strip_prefix("Exited (")?.split_once(')')?.0.parse().ok());
    let exit_code = if life == Life::Exited { told.unwrap_or(137) } else { 0 };
    let name = summary.names.unwrap_or_default().into_iter().next().unwrap_or_default();
    let name = name.trim_start_matches('/').to_owned();
    let mode = summary.host_config.and_then(|host| host.network_mode).unwrap_or_default();
    let asked = labels.get(SETTINGS).and_then(|label| Settings::of_label(label));
    let settings = asked.unwrap_or_default();
    Some(Instance {
        id: summary.id?,
        identity: Identity::of(&labels, &name)?,
        made_as: labels.get(MADE_AS).cloned(),
        devices: devices_of(&labels),
        is_detached: false,
        name,
        life,
        image_id: summary.image_id.unwrap_or_default(),
        exit_code,
        oom_killed: false,
        error: String::new(),
        created_at: Timestamp::from_second(summary.created.unwrap_or_default())
            .unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: None,
        finished_at: None,
        ip: address(summary.network_settings.and_then(|settings| settings.networks)),
        joined: joined(&mode),
        settings: settings.clone(),
        asked: Some(settings),
    })
}

fn address(networks: Option<HashMap<String, EndpointSettings>>) -> Option<Ipv4Addr> {
    networks.into_iter().flatten().find_map(|(_, endpoint)| endpoint.ip_address?.parse().ok())
}

fn joined(network_mode: &str) -> Option<String> {
    network_mode.strip_prefix("container:").map(str::to_owned)
}

/// `None` for what changes nothing that we look at (`exec_*`, `top`, `attach`, `resize`).
pub fn runtime_event(message: EventMessage) -> Option<RuntimeEvent> {
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
    let name = attributes.get("name").map_or("", String::as_str);
    let identity = Identity::of(&attributes, name);
    Some(RuntimeEvent {
        container_id: actor.id?,
        pod_uid: match identity {
            Some(identity) => identity.pod_uid,
            None => attributes.get(POD_UID)?.clone(),
        },
        action,
        at: Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

/// The body of the network's create.
pub fn network_request(network: &NetworkSpec) -> NetworkCreateRequest {
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
pub fn gateway_of(network: &NetworkSpec) -> Ipv4Addr {
    network.subnet.hosts().next().unwrap_or_else(|| network.subnet.addr())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::node::confinement::Confined;
    use crate::node::container_spec::{Resolved, Site, member, sandbox};
    use crate::node::instance::Role;
    use crate::node::resolver::Resolver;

    fn site() -> Site {
        Site {
            installation: "i".into(),
            prefix: "ballast".into(),
            network: "ballast-i".into(),
            pause_image: "sha256:p".into(),
            node_memory: 8 << 30,
            pids_limit: Some(4096),
            resolver: Resolver::default(),
        }
    }

    /// Every field that a pod can ask something with, asked as greedily as it can be.
    fn greedy() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "hostname": "h", "hostPID": true,
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["a.example"]}],
            "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}]},
            "securityContext": {"runAsUser": 1, "runAsGroup": 2, "supplementalGroups": [3],
                "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]},
            "containers": [{"name": "c", "image": "x:1", "command": ["a"], "args": ["b"], "workingDir": "/srv",
                "stdin": true, "stdinOnce": true, "tty": true, "ports": [{"containerPort": 80, "hostPort": 81}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "securityContext": {"privileged": true, "readOnlyRootFilesystem": true,
                    "allowPrivilegeEscalation": false, "capabilities": {"add": ["CHOWN"], "drop": ["ALL"]},
                    "seccompProfile": {"type": "Unconfined"},
                    "appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}}}]}}))
        .expect("a pod")
    }

    fn bodies() -> [Value; 2] {
        let pod = greedy();
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let mount = MountSpec::plain("/a", "/b", true);
        let volume =
            MountSpec { from: MountFrom::Engine, ..MountSpec::plain("pvc-1", "/data", false) };
        let resolved = Resolved {
            env: vec!["A=b".into()],
            command: vec!["a".into()],
            arguments: vec!["b".into()],
            mounts: vec![mount, volume],
            confined: Confined { user: Some("1:2".into()), seccomp: Seccomp::Unconfined },
            target: None,
        };
        let mut own = member(&pod, container, Role::Container, 0, "s", &resolved, &site());
        own.devices = vec![devices::DeviceRequest {
            resource: "nvidia.com/gpu".into(),
            driver: "nvidia".into(),
            capabilities: vec!["gpu".into()],
            ids: vec!["GPU-1".into()],
        }];
        let made = [sandbox(&pod, &site(), 0), own];
        made.map(|spec| serde_json::to_value(body(&spec)).expect("JSON"))
    }

    fn set(value: &Value) -> BTreeSet<&str> {
        let fields = value.as_object().into_iter().flatten();
        fields.filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str()).collect()
    }

    /// What is not on these lists cannot be asked of the engine, whatever a manifest says: devices,
    /// other mounts, cgroups of others, capabilities by another name. A new word is added here knowingly.
    #[test]
    fn the_request_has_no_field_outside_the_list() {
        let of_config = [
            "Cmd",
            "Entrypoint",
            "Env",
            "ExposedPorts",
            "HostConfig",
            "Hostname",
            "Image",
            "Labels",
            "OpenStdin",
            "StdinOnce",
            "StopSignal",
            "Tty",
            "User",
            "WorkingDir",
        ];
        let of_host = [
            "CapAdd",
            "CapDrop",
            "CpuPeriod",
            "CpuQuota",
            "CpuShares",
            "DeviceRequests",
            "Dns",
            "DnsOptions",
            "DnsSearch",
            "ExtraHosts",
            "GroupAdd",
            "IpcMode",
            "LogConfig",
            "Memory",
            "MemorySwap",
            "Mounts",
            "NetworkMode",
            "OomScoreAdj",
            "PidMode",
            "PidsLimit",
            "PortBindings",
            "Privileged",
            "ReadonlyRootfs",
            "RestartPolicy",
            "SecurityOpt",
            "Sysctls",
        ];
        let (mut config, mut host) = (BTreeSet::new(), BTreeSet::new());
        let bodies = bodies();
        for body in &bodies {
            config.extend(set(body));
            host.extend(set(&body["HostConfig"]));
        }
        let outside = |found: &BTreeSet<&str>, list: &[&str]| -> Vec<String> {
            found
                .iter()
                .filter(|name| !list.contains(name))
                .map(|name| (*name).to_owned())
                .collect()
        };
        assert_eq!(outside(&config, &of_config), [""; 0]);
        assert_eq!(outside(&host, &of_host), [""; 0]);
        // The lists hold nothing that is never asked, but what other versions of a pod ask.
        let unasked: Vec<&str> = of_host.into_iter().filter(|name| !host.contains(name)).collect();
        assert_eq!(unasked, [""; 0]);
        let mounts = bodies[1]["HostConfig"]["Mounts"].as_array().expect("mounts");
        let types: Vec<_> = mounts.iter().map(|mount| mount["Type"].clone()).collect();
        assert_eq!(types, ["bind", "volume"]);
        // A volume of the engine is never made by a create, and nothing of the image goes into it.
        let volume = json!({"Type": "volume", "Source": "pvc-1", "Target": "/data",
            "ReadOnly": false, "VolumeOptions": {"NoCopy": true}});
        assert_eq!(mounts[1], volume);
    }

    #[test]
    fn words_of_confinement_are_the_engines() {
        let [sandbox, member] = bodies().map(|mut body| body["HostConfig"].take());
        assert_eq!(
            member["SecurityOpt"],
            json!(["no-new-privileges", "seccomp=unconfined", "apparmor=x"])
        );
        assert_eq!((&member["PidsLimit"], &member["GroupAdd"]), (&json!(4096), &json!(["3"])));
        assert_eq!((&member["PidMode"], &sandbox["PidMode"]), (&json!("host"), &json!("host")));
        assert_eq!(
            member["DeviceRequests"],
            json!([{"Driver": "nvidia", "DeviceIDs": ["GPU-1"], "Capabilities": [["gpu"]]}])
        );
        assert_eq!(sandbox["SecurityOpt"], json!(["no-new-privileges"]));
        assert_eq!(sandbox["Sysctls"], json!({"net.ipv4.tcp_syncookies": "1"}));
        assert_eq!(
            (&sandbox["Dns"], &sandbox["DnsSearch"], &sandbox["DnsOptions"]),
            (&json!(["192.0.2.1"]), &json!(["a"]), &json!(["ndots:2"]))
        );
        assert!(member["Sysctls"].is_null() && member["Dns"].is_null(), "the sandbox has them");
    }

    #[test]
    fn a_mount_says_how_it_crosses_and_what_is_read_only_below() {
        let told = |propagation, recursive_read_only, read_only| {
            let plain = MountSpec::plain("/a", "/b", read_only);
            let options = bind_options(&MountSpec { propagation, recursive_read_only, ..plain });
            serde_json::to_value(options).expect("JSON")
        };
        use {Propagation as P, RecursiveReadOnly as R};
        for (propagation, recursion, read_only, body) in [
            (P::None, R::Disabled, false, json!({})),
            (P::None, R::Disabled, true, json!({"ReadOnlyNonRecursive": true})),
            (P::None, R::IfPossible, true, json!({})),
            (
                P::None,
                R::Enabled,
                true,
                json!({"Propagation": "rprivate", "ReadOnlyForceRecursive": true}),
            ),
            (P::HostToContainer, R::Disabled, false, json!({"Propagation": "rslave"})),
            (P::Bidirectional, R::Disabled, false, json!({"Propagation": "rshared"})),
        ] {
            assert_eq!(told(propagation, recursion, read_only), body);
        }
    }
}
