//! What is asked of the engine for a container, and what an inspect tells of it, in one shape: field by
//! field, so that a difference can be named.
//!
//! The request's projection goes into the container's label when it is made and is what the container is
//! judged by; a field that a later version adds stands in no earlier label and is compared with nothing.
//! Words that may come from a Secret (a command with its variables expanded) are told as a hash. What a
//! host may refuse or an engine changes by itself (`oom_score_adj`, the runtime, masked paths) is left
//! out; limits that `Settings` has are compared there.

use bollard::models::{DeviceRequest, HostConfig, Mount, MountType};
use sha2::{Digest, Sha256};

use crate::node::instance::Fields;

/// What a create and an inspect have outside their `HostConfig`. `None`: the image's own, which is
/// compared with nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process<'a> {
    pub user: Option<&'a str>,
    pub working_dir: Option<&'a str>,
    pub entrypoint: Option<&'a [String]>,
    pub arguments: Option<&'a [String]>,
    pub tty: bool,
    pub stdin: bool,
}

/// Every field by the manifest's name where it has one.
pub fn fields(process: Process<'_>, host: &HostConfig) -> Fields {
    let mut all = Fields::new();
    let mut put = |name: &str, value: String| all.insert(name.to_owned(), value);
    if let Some(user) = process.user {
        put("securityContext.runAsUser", user.to_owned());
    }
    if let Some(dir) = process.working_dir {
        put("workingDir", dir.to_owned());
    }
    // An empty list is told as none.
    if let Some(words) = process.entrypoint.filter(|words| !words.is_empty()) {
        put("command", hashed(words));
    }
    if let Some(words) = process.arguments.filter(|words| !words.is_empty()) {
        put("args", hashed(words));
    }
    put("tty", process.tty.to_string());
    put("stdin", process.stdin.to_string());
    put("securityContext.privileged", flag(host.privileged));
    put("securityContext.readOnlyRootFilesystem", flag(host.readonly_rootfs));
    put("securityContext.capabilities.add", capabilities(host.cap_add.as_deref()));
    put("securityContext.capabilities.drop", capabilities(host.cap_drop.as_deref()));
    let options = host.security_opt.as_deref().unwrap_or_default();
    let starting = |prefixes: &[&str]| {
        let named = |option: &&String| prefixes.iter().any(|prefix| option.starts_with(prefix));
        list(options.iter().filter(named).map(|option| match option.split_once('=') {
            Some((name, profile)) if profile.len() > 64 => format!("{name}={}", hash(profile)),
            _ => option.replace(":true", ""),
        }))
    };
    put("securityContext.allowPrivilegeEscalation", starting(&["no-new-privileges"]));
    put("securityContext.profiles", starting(&["seccomp", "apparmor"]));
    put("securityContext.supplementalGroups", words(host.group_add.as_deref()));
    put("securityContext.sysctls", pairs(host.sysctls.iter().flatten()));
    put("network", host.network_mode.clone().unwrap_or_default());
    put("hostIPC", host.ipc_mode.clone().unwrap_or_default());
    put("hostPID", host.pid_mode.clone().unwrap_or_default());
    put("user namespace", host.userns_mode.clone().unwrap_or_default());
    put("UTS namespace", host.uts_mode.clone().unwrap_or_default());
    put("volumeMounts", list(host.mounts.iter().flatten().map(mount)));
    put("binds", words(host.binds.as_deref()));
    put("volumes from", words(host.volumes_from.as_deref()));
    put("hostAliases", words(host.extra_hosts.as_deref()));
    put("dnsConfig.nameservers", words(host.dns.as_deref()));
    put("dnsConfig.searches", words(host.dns_search.as_deref()));
    put("dnsConfig.options", words(host.dns_options.as_deref()));
    put("devices", count(host.devices.as_ref().map(Vec::len)));
    put("device requests", list(host.device_requests.iter().flatten().map(device_request)));
    put("cpuset", host.cpuset_cpus.clone().unwrap_or_default());
    put("memory nodes", host.cpuset_mems.clone().unwrap_or_default());
    put("memory reservation", number(host.memory_reservation));
    put("blkio weight", number(host.blkio_weight.map(i64::from)));
    put("nano CPUs", number(host.nano_cpus));
    put("cgroup parent", host.cgroup_parent.clone().unwrap_or_default());
    put("published ports", ports(host));
    all
}

fn hash(text: &str) -> String {
    format!("sha256:{}", hex::encode(&Sha256::digest(text)[..8]))
}

fn hashed(words: &[String]) -> String {
    format!("{} words, {}", words.len(), hash(&words.join("\0")))
}

fn flag(value: Option<bool>) -> String {
    value.unwrap_or_default().to_string()
}

/// Nothing and 0 are the same to the engine.
fn number(value: Option<i64>) -> String {
    value.filter(|number| *number != 0).map(|number| number.to_string()).unwrap_or_default()
}

fn count(value: Option<usize>) -> String {
    number(value.and_then(|count| i64::try_from(count).ok()))
}

/// In one order: the engine keeps some lists as they came and sorts others.
fn list(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.collect();
    items.sort();
    items.join(", ")
}

fn words(items: Option<&[String]>) -> String {
    list(items.unwrap_or_default().iter().cloned())
}

fn pairs<'a>(items: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    list(items.map(|(name, value)| format!("{name}={value}")))
}

/// `nvidia [gpu] GPU-1 GPU-2`
fn device_request(asked: &DeviceRequest) -> String {
    let ids = asked.device_ids.iter().flatten().cloned();
    let all = asked.count.filter(|count| *count != 0).map(|count| format!("count {count}"));
    let kinds = asked.capabilities.iter().flatten().map(|kinds| format!("[{}]", kinds.join(" ")));
    let driver = asked.driver.clone().into_iter();
    driver.chain(kinds).chain(ids).chain(all).collect::<Vec<_>>().join(" ")
}

/// Newer engines write the prefix that older ones leave out.
fn capabilities(items: Option<&[String]>) -> String {
    let plain = |name: &String| {
        let upper = name.to_uppercase();
        upper.strip_prefix("CAP_").map(str::to_owned).unwrap_or(upper)
    };
    list(items.unwrap_or_default().iter().map(plain))
}

fn mount(mount: &Mount) -> String {
    let options = mount.bind_options.as_ref();
    let propagation = options.and_then(|options| options.propagation);
    let propagation = propagation.map(|mode| mode.to_string()).filter(|mode| !mode.is_empty());
    let of_engine = mount.typ == Some(MountType::VOLUME);
    format!(
        "{}{} at {}{}{}",
        if of_engine { "volume " } else { "" },
        mount.source.as_deref().unwrap_or_default(),
        mount.target.as_deref().unwrap_or_default(),
        if mount.read_only == Some(true) { " (read-only)" } else { "" },
        propagation.map(|mode| format!(" ({mode})")).unwrap_or_default()
    )
}

fn ports(host: &HostConfig) -> String {
    let of = |(port, bindings): (&String, &Option<Vec<bollard::models::PortBinding>>)| {
        let bindings = bindings.iter().flatten().map(|binding| {
            let part = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}:{}", part(&binding.host_ip), part(&binding.host_port))
        });
        format!("{port} on {}", list(bindings))
    };
    list(host.port_bindings.iter().flatten().map(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differing(a: &HostConfig, b: &HostConfig) -> Vec<String> {
        let (a, b) = (fields(Process::default(), a), fields(Process::default(), b));
        a.iter()
            .filter(|(name, value)| b.get(*name) != Some(value))
            .map(|(n, _)| n.clone())
            .collect()
    }

    #[test]
    fn nothing_and_empty_are_the_same_and_order_is_none() {
        let words = |list: &[&str]| Some(list.iter().map(|word| (*word).to_owned()).collect());
        let asked = HostConfig {
            cap_add: words(&["NET_ADMIN", "SYS_TIME"]),
            security_opt: words(&["no-new-privileges"]),
            ..HostConfig::default()
        };
        let told = HostConfig {
            cap_add: words(&["CAP_SYS_TIME", "CAP_NET_ADMIN"]),
            security_opt: words(&["no-new-privileges:true", "label=disable"]),
            devices: Some(Vec::new()),
            dns: Some(Vec::new()),
            privileged: Some(false),
            blkio_weight: Some(0),
            cpuset_cpus: Some(String::new()),
            ..HostConfig::default()
        };
        assert!(differing(&asked, &told).is_empty(), "{:?}", differing(&asked, &told));
    }

    #[test]
    fn each_difference_is_named() {
        let one = |change: &dyn Fn(&mut HostConfig)| {
            let mut changed = HostConfig::default();
            change(&mut changed);
            differing(&HostConfig::default(), &changed)
        };
        assert_eq!(one(&|h| h.privileged = Some(true)), ["securityContext.privileged"]);
        assert_eq!(one(&|h| h.cpuset_cpus = Some("0".into())), ["cpuset"]);
        assert_eq!(one(&|h| h.pid_mode = Some("host".into())), ["hostPID"]);
        assert_eq!(one(&|h| h.binds = Some(vec!["/:/host".into()])), ["binds"]);
        assert_eq!(one(&|h| h.devices = Some(vec![Default::default()])), ["devices"]);
        let gpu = || DeviceRequest { device_ids: Some(vec!["0".into()]), ..Default::default() };
        assert_eq!(one(&|h| h.device_requests = Some(vec![gpu()])), ["device requests"]);
        let mount =
            Mount { source: Some("/".into()), target: Some("/x".into()), ..Mount::default() };
        assert_eq!(one(&|h| h.mounts = Some(vec![mount.clone()])), ["volumeMounts"]);
        // A folder in a volume's place is another mount, also where it has the volume's name.
        let mounts =
            |mount: Mount| HostConfig { mounts: Some(vec![mount]), ..HostConfig::default() };
        let volume = Mount { typ: Some(MountType::VOLUME), ..mount.clone() };
        assert_eq!(differing(&mounts(mount), &mounts(volume)), ["volumeMounts"]);
    }

    #[test]
    fn a_command_is_told_by_its_hash() {
        let secret = ["sh".to_owned(), "--password=hunter2".to_owned()];
        let process = Process { arguments: Some(&secret), ..Process::default() };
        let all = fields(process, &HostConfig::default());
        assert!(all["args"].starts_with("2 words, sha256:") && !all["args"].contains("hunter2"));
        assert!(!all.contains_key("command"), "the image's own is compared with nothing");
    }
}
