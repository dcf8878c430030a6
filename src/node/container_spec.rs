//! Pure: what we ask the engine for, from a pod, its resolved environment and its mounts.
//!
//! [`ContainerSpec`] is an allow-list of our own: what is not a field here cannot reach the engine.
//! Numbers: CPU weight is milli-CPUs x 1024 / 1000, at least 2; the quota is a share of a period of
//! 100 ms, at least 1000 us; `oom_score_adj` as the kubelet sets it (kubelet `qos/policy.go`).

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use sha2::{Digest, Sha256};

use crate::node::confinement::{self, AppArmor, Confined, Seccomp};
use crate::node::devices::{DeviceRequest, Devices};
use crate::node::host_name::{self, HostName};
use crate::node::instance::{DEVICES, Identity, MADE_AS, Role, SETTINGS, Settings};
use crate::node::resolver::{self, Resolver};
use crate::node::sidecar::{is_sidecar, lasting};
use crate::node::volume_plan::fs_group;
use crate::object::Object;
use crate::object::quantity::Quantity;

/// Microseconds; the kernel's default.
pub const CPU_PERIOD: i64 = 100_000;
/// The kubelet's log rotation: 10 MiB x 5.
const LOG_SIZE: &str = "10m";
const LOG_FILES: &str = "5";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// Our bridge network, by name.
    Bridge(String),
    /// Another container's network namespace, by id.
    Join(String),
    /// The host's own.
    Host,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpcMode {
    Shareable,
    Join(String),
    /// The host's own.
    Host,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PidMode {
    /// Its own process is number 1.
    Own,
    /// Another container's process namespace, by id.
    Join(String),
    /// The host's own.
    Host,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// A directory or file of the host, or a volume's name; it exists before the container is made.
    pub source: String,
    pub from: MountFrom,
    pub target: String,
    pub read_only: bool,
    pub propagation: Propagation,
    pub recursive_read_only: RecursiveReadOnly,
}

impl MountSpec {
    /// One that nothing crosses.
    pub fn plain(source: impl Into<String>, target: impl Into<String>, read_only: bool) -> Self {
        Self {
            source: source.into(),
            from: MountFrom::Host,
            target: target.into(),
            read_only,
            propagation: Propagation::None,
            recursive_read_only: RecursiveReadOnly::Disabled,
        }
    }
}

/// What a mount's source names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountFrom {
    /// A path.
    #[default]
    Host,
    /// A volume that the engine keeps. What the image has at its place is not copied into it.
    Engine,
}

/// Which mounts that come later cross over, in Kubernetes' words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

/// Whether what is mounted below a read-only mount is read-only too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecursiveReadOnly {
    #[default]
    Disabled,
    IfPossible,
    Enabled,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    pub container_port: u16,
    /// `tcp`, `udp`
    pub protocol: String,
    pub host_ip: String,
    pub host_port: u16,
}

/// Everything that is asked of the engine for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    pub name: String,
    pub identity: Identity,
    /// Of a member: what the manifest asks for, to be found again in its label.
    pub asked: Option<Settings>,
    /// A reference, or an id for the sandbox.
    pub image: String,
    /// `None`: the image's own.
    pub entrypoint: Option<Vec<String>>,
    pub arguments: Option<Vec<String>>,
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
    /// More groups of the process, beside those of its user.
    pub groups: Vec<String>,
    /// Only the sandbox has one; members share it.
    pub hostname: Option<String>,
    /// `None`: the image's own, or SIGTERM.
    pub stop_signal: Option<String>,
    pub network: NetworkMode,
    pub ipc: IpcMode,
    pub pid: PidMode,
    /// Of the sandbox, whose `resolv.conf` its members share; `None`: what the engine gives.
    pub resolver: Option<Resolver>,
    /// Of the sandbox, who owns the namespaces that they are of.
    pub sysctls: Vec<(String, String)>,
    pub ports: Vec<PublishedPort>,
    pub mounts: Vec<MountSpec>,
    pub memory: i64,
    pub cpu_shares: i64,
    pub cpu_quota: i64,
    /// A host may refuse a negative one: then it is left out, with an Event.
    pub oom_score_adj: Option<i64>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub capabilities_added: Vec<String>,
    pub capabilities_dropped: Vec<String>,
    pub seccomp: Seccomp,
    pub app_armor: AppArmor,
    /// Processes and threads; `None`: as many as the host has.
    pub pids_limit: Option<i64>,
    /// `name:address` of the hosts file, which members share with their sandbox.
    pub extra_hosts: Vec<String>,
    /// The node's, that it alone gets.
    pub devices: Vec<DeviceRequest>,
    pub stdin: bool,
    /// The first who attached takes it along: the process reads its end then.
    pub stdin_once: bool,
    pub tty: bool,
}

impl ContainerSpec {
    /// Everything that must be known of it after a restart of the daemon.
    pub fn labels(&self) -> HashMap<String, String> {
        let mut labels = self.identity.to_labels();
        if !self.devices.is_empty() {
            let given: Devices =
                self.devices.iter().map(|one| (one.resource.clone(), one.ids.clone())).collect();
            let text = serde_json::to_string(&given).expect("text is JSON");
            labels.insert(DEVICES.to_owned(), text);
        }
        labels.extend(self.asked.iter().map(|asked| (SETTINGS.to_owned(), asked.to_label())));
        if self.identity.role == Role::Spare {
            labels.extend(self.hostname.iter().map(|name| (MADE_AS.to_owned(), name.clone())));
        }
        labels
    }

    /// The engine's log driver and its options.
    pub fn log_config() -> (&'static str, HashMap<String, String>) {
        let options = [("max-size", LOG_SIZE), ("max-file", LOG_FILES)];
        ("json-file", options.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }
}

/// What is the same for every container of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub installation: String,
    /// Of the engine's names: `ballast`.
    pub prefix: String,
    /// The pods' network.
    pub network: String,
    /// The sandbox image's id.
    pub pause_image: String,
    /// Bytes, for `oom_score_adj` of Burstable pods.
    pub node_memory: i64,
    /// How many processes and threads one container may have; `None`: as many as the host has.
    pub pids_limit: Option<i64>,
    /// What the host itself resolves by; asked where a pod has settings of its own.
    pub resolver: Resolver,
}

/// Kubernetes' three classes; the API writes it into the status, this is for objects without one.
pub fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    if let Some(class) = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        return match class {
            "Guaranteed" => "Guaranteed",
            "Burstable" => "Burstable",
            _ => "BestEffort",
        };
    }
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut any = false;
    let mut guaranteed = true;
    for container in containers() {
        for resource in ["cpu", "memory"] {
            let (limit, request) = (limit(container, resource), request(container, resource));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.or(limit) == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn positive(written: Option<&Written>) -> Option<Quantity> {
    let quantity = Quantity::parse(&written?.0).ok()?;
    (!quantity.is_zero() && !quantity.is_negative()).then_some(quantity)
}

fn limit(container: &Container, resource: &str) -> Option<Quantity> {
    positive(container.resources.as_ref()?.limits.as_ref()?.get(resource))
}

fn request(container: &Container, resource: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    match resources.requests.as_ref().and_then(|requests| requests.get(resource)) {
        Some(written) => positive(Some(written)),
        None => limit(container, resource),
    }
}

fn cpu_shares(container: &Container) -> i64 {
    request(container, "cpu")
        .map_or(2, |cpu| (cpu.millis().saturating_mul(1024) / 1000).clamp(2, 262_144))
}

fn cpu_quota(container: &Container) -> i64 {
    limit(container, "cpu")
        .map_or(0, |cpu| (cpu.millis().saturating_mul(CPU_PERIOD) / 1000).max(1000))
}

fn memory(container: &Container) -> i64 {
    limit(container, "memory").map_or(0, Quantity::units)
}

fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let asked = |one: &Container| request(one, "memory").map_or(0, Quantity::units);
            // A sidecar is not ended before the containers that need it.
            let least = pod.spec.iter().flat_map(|spec| &spec.containers).map(asked).min();
            let asked = match is_sidecar(container) {
                true => asked(container).max(least.unwrap_or(0)),
                false => asked(container),
            };
            let share = i128::from(asked) * 1000 / i128::from(node_memory.max(1));
            (1000 - i64::try_from(share).unwrap_or(1000)).clamp(3, 999)
        }
    }
}

/// The version of the subset below; a new subset gets a new version, and containers made under an
/// old one are judged by the old one for one release.
const HASH_VERSION: &str = "v1";

/// Identifies what a container is made of, over an explicit subset of its spec: name and image, the
/// only part of a bound pod's containers that may change. A hash over the serialised struct would
/// change with every new field and restart every container on an upgrade (kubernetes#53644).
pub fn spec_hash(container: &Container) -> String {
    let subset = format!("{}\n{}", container.name, container.image.as_deref().unwrap_or_default());
    format!("{HASH_VERSION}:{}", hex::encode(&Sha256::digest(subset)[..8]))
}

/// Whether a container was made of something else than the manifest says now. It is judged by the
/// version that its hash was made with; of one that this version does not know (it was made by a later
/// one) only the image is looked at, so that going back a version restarts nothing either.
pub fn is_outdated(container: &Container, hash: &str, image: &str) -> bool {
    match hash.split_once(':') {
        Some((HASH_VERSION, _)) => hash != spec_hash(container),
        _ => container.image.as_deref().unwrap_or_default() != image,
    }
}

/// The spec hash of a sandbox: nothing of it may change while its pod lives.
pub fn sandbox_hash() -> String {
    format!("{HASH_VERSION}:sandbox")
}

/// The settings of a running container that the manifest alone decides, as the engine would tell
/// them. They go into the container's label when it is made, and it is judged by that: a later
/// version may compute others without making every container of every user anew.
pub fn wanted_settings(container: &Container) -> Settings {
    let memory = memory(container);
    let literal = |variable: &k8s_openapi::api::core::v1::EnvVar| {
        let value = variable.value.clone().unwrap_or_default();
        (variable.value_from.is_none() && !value.contains("$("))
            .then(|| format!("{}={}", variable.name, value.replace("$$", "$")))
    };
    // Of two variables with one name the later counts.
    let mut env: Vec<String> = Vec::new();
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let later = container.env.iter().flatten().skip(index + 1);
        if !later.clone().any(|other| other.name == variable.name) {
            env.extend(literal(variable));
        }
    }
    Settings {
        image: container.image.clone().unwrap_or_default(),
        env,
        memory,
        memory_swap: memory,
        cpu_shares: cpu_shares(container),
        cpu_quota: cpu_quota(container),
        restart_policy: "no".to_owned(),
        fields: None,
    }
}

fn identity(pod: &Pod, site: &Site, role: Role, container: &str, attempt: u32) -> Identity {
    let key = pod.key();
    Identity {
        installation: site.installation.clone(),
        pod_uid: pod.uid().to_owned(),
        pod_namespace: key.namespace,
        pod_name: key.name,
        container: container.to_owned(),
        role,
        attempt,
        spec_hash: String::new(),
    }
}

/// The sandbox of a pod: it owns the namespaces and the published ports.
pub fn sandbox(pod: &Pod, site: &Site, attempt: u32) -> ContainerSpec {
    let spec = pod.spec.clone().unwrap_or_default();
    // On the host's network a port is open where it is listened on: there is nothing to publish, and
    // the host has a name already.
    let on_host = confinement::is_on_host_network(pod);
    let of_host = |wanted: Option<bool>| wanted == Some(true);
    let mut ports = Vec::new();
    for port in lasting(&spec).flat_map(|(_, c)| c.ports.iter().flatten()) {
        if let Some(host_port) = port.host_port.filter(|port| *port > 0 && !on_host) {
            ports.push(PublishedPort {
                container_port: u16::try_from(port.container_port).unwrap_or_default(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                host_ip: port.host_ip.clone().unwrap_or_default(),
                host_port: u16::try_from(host_port).unwrap_or_default(),
            });
        }
    }
    let aliases = spec.host_aliases.iter().flatten().flat_map(|alias| {
        alias.hostnames.iter().flatten().map(move |name| format!("{name}:{}", alias.ip))
    });
    let identity =
        Identity { spec_hash: sandbox_hash(), ..identity(pod, site, Role::Sandbox, "", attempt) };
    ContainerSpec {
        name: identity.engine_name(&site.prefix),
        identity,
        asked: None,
        image: site.pause_image.clone(),
        entrypoint: None,
        arguments: None,
        env: Vec::new(),
        working_dir: None,
        user: None,
        groups: Vec::new(),
        // Whoever makes it has looked that the kernel holds the name.
        hostname: (!on_host)
            .then(|| host_name::in_kernel(pod).unwrap_or_else(|_| HostName::of(pod).name)),
        stop_signal: None,
        network: if on_host {
            NetworkMode::Host
        } else {
            NetworkMode::Bridge(site.network.clone())
        },
        ipc: if of_host(spec.host_ipc) { IpcMode::Host } else { IpcMode::Shareable },
        pid: if of_host(spec.host_pid) { PidMode::Host } else { PidMode::Own },
        resolver: resolver::of_pod(&spec, &site.resolver),
        sysctls: confinement::sysctls(pod),
        ports,
        mounts: Vec::new(),
        memory: 0,
        cpu_shares: 2,
        cpu_quota: 0,
        oom_score_adj: None,
        privileged: false,
        read_only_root: true,
        no_new_privileges: true,
        capabilities_added: Vec::new(),
        capabilities_dropped: Vec::new(),
        seccomp: Seccomp::Engine,
        app_armor: AppArmor::Engine,
        pids_limit: None,
        extra_hosts: aliases.collect(),
        devices: Vec::new(),
        stdin: false,
        stdin_once: false,
        tty: false,
    }
}

/// A sandbox that is made before its pod: what one of a plain pod is, with a name of its own.
pub fn spare(site: &Site, name: &str) -> ContainerSpec {
    let plain = sandbox(&Pod::default(), site, 0);
    ContainerSpec {
        name: format!("{}_SPARE_{name}", site.prefix),
        identity: Identity { role: Role::Spare, ..plain.identity },
        hostname: Some(name.to_owned()),
        ..plain
    }
}

/// Whether a pod whose sandbox would be this one can have a spare: all that is fixed when a sandbox is
/// made is the same. Its name and host name can be given later, and what stands in the hosts file.
pub fn is_plain(sandbox: &ContainerSpec, site: &Site) -> bool {
    let plain = spare(site, "");
    let wanted = ContainerSpec {
        name: plain.name.clone(),
        identity: plain.identity.clone(),
        hostname: plain.hostname.clone(),
        extra_hosts: Vec::new(),
        ..sandbox.clone()
    };
    wanted == plain
}

/// What a member is made of, beside its pod and container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// `NAME=value`, in the kubelet's order.
    pub env: Vec<String>,
    /// `command` and `args` with their `$(VAR)` expanded.
    pub command: Vec<String>,
    pub arguments: Vec<String>,
    pub mounts: Vec<MountSpec>,
    pub confined: Confined,
    /// Of an ephemeral container: the instance whose processes it sees.
    pub target: Option<String>,
}

/// A pod container or init container that joins its pod's sandbox.
pub fn member(
    pod: &Pod,
    container: &Container,
    role: Role,
    attempt: u32,
    sandbox_id: &str,
    resolved: &Resolved,
    site: &Site,
) -> ContainerSpec {
    let security = container.security_context.clone().unwrap_or_default();
    let identity = Identity {
        spec_hash: spec_hash(container),
        ..identity(pod, site, role, &container.name, attempt)
    };
    // A command in the manifest replaces the image's entry point and its arguments, as in Kubernetes.
    let entrypoint = (!resolved.command.is_empty()).then(|| resolved.command.clone());
    let arguments = (!resolved.arguments.is_empty() || entrypoint.is_some())
        .then(|| resolved.arguments.clone());
    let capabilities = security.capabilities.clone().unwrap_or_default();
    let of_pod =
        |asked: fn(&PodSpec) -> Option<bool>| pod.spec.as_ref().and_then(asked) == Some(true);
    // The sandbox's own process is number 1 then, and takes the orphans.
    let shares_processes = of_pod(|spec| spec.share_process_namespace);
    ContainerSpec {
        name: identity.engine_name(&site.prefix),
        identity,
        asked: Some(wanted_settings(container)),
        image: container.image.clone().unwrap_or_default(),
        entrypoint,
        arguments,
        env: resolved.env.clone(),
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        user: resolved.confined.user.clone(),
        groups: {
            let mut groups = confinement::supplemental_groups(pod);
            groups.extend(fs_group(pod).iter().map(u32::to_string));
            groups
        },
        hostname: None,
        stop_signal: container.lifecycle.as_ref().and_then(|own| own.stop_signal.clone()),
        network: NetworkMode::Join(sandbox_id.to_owned()),
        ipc: if of_pod(|spec| spec.host_ipc) {
            IpcMode::Host
        } else {
            IpcMode::Join(sandbox_id.to_owned())
        },
        pid: if shares_processes {
            PidMode::Join(sandbox_id.to_owned())
        } else if of_pod(|spec| spec.host_pid) {
            PidMode::Host
        } else if let Some(target) = &resolved.target {
            PidMode::Join(target.clone())
        } else {
            PidMode::Own
        },
        resolver: None,
        sysctls: Vec::new(),
        ports: Vec::new(),
        mounts: resolved.mounts.clone(),
        memory: memory(container),
        cpu_shares: cpu_shares(container),
        cpu_quota: cpu_quota(container),
        oom_score_adj: Some(oom_score_adj(pod, container, site.node_memory)),
        privileged: security.privileged == Some(true),
        read_only_root: security.read_only_root_filesystem == Some(true),
        no_new_privileges: security.allow_privilege_escalation == Some(false),
        capabilities_added: confinement::capabilities(capabilities.add),
        capabilities_dropped: confinement::capabilities(capabilities.drop),
        seccomp: resolved.confined.seccomp.clone(),
        app_armor: confinement::app_armor(pod, container),
        pids_limit: site.pids_limit,
        extra_hosts: Vec::new(),
        devices: Vec::new(),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}),
        )
        .expect("a pod")
    }

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

    #[test]
    fn resources_become_the_kubelets_numbers() {
        let pod = pod(json!({"containers": [{"name": "c", "image": "x:1", "resources": {
            "requests": {"cpu": "250m", "memory": "4Gi"}, "limits": {"cpu": "500m", "memory": "4Gi"}}}]}));
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let spec = member(&pod, container, Role::Container, 0, "s", &Resolved::default(), &site());
        assert_eq!((spec.cpu_shares, spec.cpu_quota, spec.memory), (256, 50_000, 4 << 30));
        assert_eq!(qos_class(&pod), "Burstable");
        assert_eq!(spec.oom_score_adj, Some(500));
        assert_eq!(spec.network, NetworkMode::Join("s".into()));
    }

    #[test]
    fn a_sidecar_does_not_run_out_of_memory_before_its_pod() {
        let asks = |name: &str, memory: &str| json!({"name": name, "image": "x:1", "resources": {"requests": {"memory": memory}}});
        let mut mesh = asks("mesh", "1Gi");
        mesh["restartPolicy"] = json!("Always");
        let pod = pod(json!({"initContainers": [mesh, asks("setup", "1Gi")],
            "containers": [asks("big", "4Gi"), asks("small", "2Gi")]}));
        let spec = pod.spec.as_ref().expect("spec");
        let init = spec.init_containers.as_ref().expect("two");
        let score = |container: &Container| oom_score_adj(&pod, container, 8 << 30);
        assert_eq!((score(&init[0]), score(&init[1])), (750, 875));
        assert_eq!((score(&spec.containers[0]), score(&spec.containers[1])), (500, 750));
    }

    #[test]
    fn the_largest_number_of_cpus_is_still_a_number() {
        let pod = pod(json!({"containers": [{"name": "c", "image": "x:1", "resources": {
            "requests": {"cpu": "9E"}, "limits": {"cpu": "9E"}}}]}));
        let wanted = wanted_settings(&pod.spec.as_ref().expect("spec").containers[0]);
        assert_eq!((wanted.cpu_shares, wanted.cpu_quota), (262_144, i64::MAX / 1000));
    }

    #[test]
    fn a_sandbox_owns_name_ports_and_hosts_of_its_pod() {
        let pod = pod(json!({"hostname": "front",
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["a.example", "b.example"]},
                {"ip": "fd00::7", "hostnames": ["c.example"]}],
            "containers": [
                {"name": "c", "ports": [{"containerPort": 80}, {"containerPort": 53, "hostPort": 5353,
                    "protocol": "UDP", "hostIP": "127.0.0.1"}]},
                {"name": "d", "ports": [{"containerPort": 81, "hostPort": 8081}]}]}));
        let spec = sandbox(&pod, &site(), 0);
        assert_eq!(spec.hostname.as_deref(), Some("front"));
        assert_eq!(
            spec.extra_hosts,
            ["a.example:10.1.2.3", "b.example:10.1.2.3", "c.example:fd00::7"]
        );
        let port = |container_port, protocol: &str, host_ip: &str, host_port| PublishedPort {
            container_port,
            protocol: protocol.into(),
            host_ip: host_ip.into(),
            host_port,
        };
        assert_eq!(spec.ports, [port(53, "udp", "127.0.0.1", 5353), port(81, "tcp", "", 8081)]);
        assert_eq!(
            (spec.network, spec.ipc),
            (NetworkMode::Bridge("ballast-i".into()), IpcMode::Shareable)
        );
    }

    #[test]
    fn a_spare_is_for_pods_that_ask_nothing_of_their_sandbox() {
        let fits = |spec: serde_json::Value| is_plain(&sandbox(&pod(spec), &site(), 3), &site());
        assert!(fits(json!({"containers": [{"name": "c", "image": "x:1"}]})));
        assert!(fits(json!({"hostname": "front", "containers": [{"name": "c"}],
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["a.example"]}]})));
        assert!(!fits(json!({"containers": [{"name": "c",
            "ports": [{"containerPort": 80, "hostPort": 8080}]}]})));
        let spare = spare(&site(), "spare-7");
        assert_eq!(spare.name, "ballast_SPARE_spare-7");
        assert_eq!(spare.labels().get(MADE_AS).map(String::as_str), Some("spare-7"));
        assert_eq!(Identity::of(&spare.labels(), &spare.name), Some(spare.identity));
    }

    #[test]
    fn what_is_the_hosts_is_joined_and_not_made() {
        let pod = pod(json!({"hostNetwork": true, "hostPID": true, "hostIPC": true,
            "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]},
            "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}));
        let made = sandbox(&pod, &site(), 0);
        assert_eq!((&made.network, &made.ipc), (&NetworkMode::Host, &IpcMode::Host));
        assert_eq!((made.hostname, made.ports.len()), (None, 0), "the host has a name and ports");
        assert_eq!(made.resolver.map(|it| it.servers), Some(vec!["192.0.2.1".to_owned()]));
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let spec = member(&pod, container, Role::Container, 0, "s", &Resolved::default(), &site());
        assert_eq!((spec.network, spec.ipc), (NetworkMode::Join("s".into()), IpcMode::Host));
        assert_eq!((made.pid, spec.pid), (PidMode::Host, PidMode::Host));
    }

    #[test]
    fn a_member_is_confined_as_its_manifest_says() {
        let pod = pod(
            json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "supplementalGroups": [7]}, "containers": [
            {"name": "c", "image": "x:1", "workingDir": "/srv", "stdin": true, "stdinOnce": true, "tty": true, "securityContext": {
                "runAsUser": 2000, "readOnlyRootFilesystem": true, "privileged": true,
                "allowPrivilegeEscalation": false, "appArmorProfile": {"type": "Unconfined"},
                "capabilities": {"add": ["CAP_NET_ADMIN"], "drop": ["ALL"]}}},
            {"name": "d", "image": "x:1"}]}),
        );
        let made = |index: usize| {
            let container = &pod.spec.as_ref().expect("spec").containers[index];
            let user = confinement::user(&pod, container, "").expect("it may run");
            let confined = Confined { user, seccomp: Seccomp::Unconfined };
            let resolved = Resolved { confined, ..Resolved::default() };
            member(&pod, container, Role::Container, 0, "s", &resolved, &site())
        };
        let (strict, plain) = (made(0), made(1));
        assert_eq!(strict.user.as_deref(), Some("2000:1001"));
        assert_eq!((strict.seccomp, strict.app_armor), (Seccomp::Unconfined, AppArmor::Unconfined));
        assert_eq!((strict.pids_limit, strict.groups), (Some(4096), vec!["7".to_owned()]));
        assert_eq!(strict.working_dir.as_deref(), Some("/srv"));
        assert!(strict.read_only_root && strict.privileged && strict.no_new_privileges);
        assert!(strict.stdin && strict.stdin_once && strict.tty);
        assert_eq!(strict.capabilities_added, ["NET_ADMIN"]);
        assert_eq!(strict.capabilities_dropped, ["ALL"]);
        assert_eq!(plain.user.as_deref(), Some("1000:1001"));
        assert!(!plain.read_only_root && !plain.privileged && !plain.no_new_privileges);
        assert_eq!(
            (plain.ipc, plain.network),
            (IpcMode::Join("s".into()), NetworkMode::Join("s".into()))
        );
    }

    #[test]
    fn the_hash_sees_the_image_and_nothing_else_that_may_change() {
        let one = pod(json!({"containers": [{"name": "c", "image": "x:1"}]}));
        let two = pod(
            json!({"containers": [{"name": "c", "image": "x:1", "env": [{"name": "A", "value": "b"}]}]}),
        );
        let three = pod(json!({"containers": [{"name": "c", "image": "x:2"}]}));
        let hash = |pod: &Pod| spec_hash(&pod.spec.as_ref().expect("spec").containers[0]);
        assert_eq!(hash(&one), hash(&two));
        assert_ne!(hash(&one), hash(&three));
        // Written down: a change of this value restarts every container of every user.
        assert_eq!(hash(&one), "v1:217bd2b2fc1ea761");
        let outdated = |pod: &Pod, hash: &str, image: &str| {
            is_outdated(&pod.spec.as_ref().expect("spec").containers[0], hash, image)
        };
        assert!(!outdated(&one, "v1:217bd2b2fc1ea761", "x:1"));
        assert!(outdated(&three, "v1:217bd2b2fc1ea761", "x:1"));
        // A later version's word says nothing to this one.
        for unknown in ["v2:00ff", "", "nonsense"] {
            assert!(!outdated(&one, unknown, "x:1") && outdated(&three, unknown, "x:1"));
        }
    }

    #[test]
    fn a_command_replaces_the_images_arguments_too() {
        let pod = pod(json!({"containers": [{"name": "c", "image": "x:1"}]}));
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let resolved = Resolved { command: vec!["/a".into()], ..Resolved::default() };
        let spec = member(&pod, container, Role::Container, 0, "s", &resolved, &site());
        assert_eq!(spec.arguments, Some(vec![]));
        let spec = member(&pod, container, Role::Container, 0, "s", &Resolved::default(), &site());
        assert_eq!((spec.entrypoint, spec.arguments), (None, None));
    }
}
