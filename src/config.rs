//! One validated [`Config`] out of the command line and the config file; each default with its
//! reason. Everything wrong is reported at once, by field.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::installation;
use crate::node::care::{CareSettings, CareWritten};
use crate::object::extended::{self, DeviceClass};
use crate::object::privilege::{self, Privileges, WrittenAll};
use crate::object::{counted, name};
use crate::ranges::{self, network, ports};
use crate::sync::{Access, SourceUrl, TokenFrom};

/// The place Debian's policy gives to state.
pub const DATA_DIR: &str = "/var/lib/ballast";
/// See [`Config::pids_limit`]; below the least no shell would start its second program.
const DEFAULT_PIDS: i64 = 4096;
const LEAST_PIDS: i64 = 16;

/// Sandboxes made before their pods, at most: what a rolling update of a handful of pods can use. A
/// node where nothing happens keeps one.
pub const SPARE_SANDBOXES: usize = 8;
/// A fifth of a node's addresses.
const MOST_SPARE_SANDBOXES: usize = 50;

/// The config file as written: YAML, every field optional, unknown fields refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigFile {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<String>,
    pub tls: Option<bool>,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    #[serde(default)]
    pub tls_names: Vec<String>,
    /// Turns the role operator on. Nowhere else: a flag is too quickly added.
    #[serde(default)]
    pub operator: bool,
    pub webhook_listen: Option<String>,
    pub installation: Option<String>,
    pub node_name: Option<String>,
    pub node_address: Option<String>,
    pub docker: Option<String>,
    pub pod_cidr: Option<String>,
    pub service_cidr: Option<String>,
    pub node_ports: Option<String>,
    pub spare_sandboxes: Option<usize>,
    pub log: Option<String>,
    pub log_format: Option<String>,
    /// What pods may have of this host, by namespace.
    #[serde(default)]
    pub allow: WrittenAll,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Option<u8>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: Option<u8>,
    /// A signal to the amount or percentage below which pods are evicted.
    #[serde(default)]
    pub eviction_hard: BTreeMap<String, String>,
    /// A resource to the amount that pods do not get.
    #[serde(default)]
    pub system_reserved: BTreeMap<String, String>,
    pub pids_limit: Option<i64>,
    #[serde(default)]
    pub resources: BTreeMap<String, i64>,
    #[serde(default)]
    pub devices: BTreeMap<String, DeviceClass>,
    #[serde(default)]
    pub sources: Vec<SourceFile>,
}

/// A source in the config file. Secrets are named by file, never written here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceFile {
    pub name: String,
    pub url: String,
    pub branch: Option<String>,
    pub path: Option<String>,
    pub poll_seconds: Option<u32>,
    /// Turns the webhook of this source on.
    pub webhook_secret_file: Option<PathBuf>,
    /// For `https://`, beside the token; any will do for most servers.
    pub user: Option<String>,
    /// A token for `https://`, sent as the password; read at every fetch.
    pub token_file: Option<PathBuf>,
    /// The environment variable that holds the token.
    pub token_env: Option<String>,
    /// Authorities that are trusted for `https://` besides the system's, in PEM form.
    pub ca_file: Option<PathBuf>,
    /// A private key for `ssh://`, without a passphrase.
    pub ssh_key_file: Option<PathBuf>,
    /// The host keys that are trusted; `~/.ssh/known_hosts` without it.
    pub known_hosts_file: Option<PathBuf>,
    /// Sources that are configured no more, and whose objects this one takes over.
    #[serde(default)]
    pub formerly: Vec<String>,
}

/// What the command line said; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub repository: Option<String>,
    pub branch: Option<String>,
    pub path: Option<String>,
    pub token_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub ssh_key_file: Option<PathBuf>,
    pub known_hosts_file: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub listen: Option<String>,
    pub tls: bool,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_names: Vec<String>,
    pub webhook_listen: Option<String>,
    pub installation: Option<String>,
    pub node_name: Option<String>,
    pub docker: Option<String>,
    pub pod_cidr: Option<String>,
    pub service_cidr: Option<String>,
    pub node_ports: Option<String>,
    pub spare_sandboxes: Option<usize>,
    pub log: Option<String>,
    pub log_format: Option<String>,
    pub allow: privilege::Flags,
    pub pids_limit: Option<i64>,
    /// `NAME=COUNT`
    pub resources: Vec<String>,
}

/// Everything the daemon needs to know, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// [`DATA_DIR`]. Absolute; a relative one is meant from the working directory.
    pub data_dir: PathBuf,
    /// `127.0.0.1:7440`: readers on this machine. Any other address has TLS.
    pub listen: SocketAddr,
    /// On where [`Config::listen`] is no loopback address; then everybody needs a credential.
    pub tls: Option<TlsSettings>,
    /// Off: who may exec and read Secrets could change what Git says behind its back.
    pub operator: bool,
    /// Off. It serves the webhook alone, so it may be public.
    pub webhook_listen: Option<SocketAddr>,
    /// `default`: tells our containers, networks and chains from another daemon's on the same host.
    pub installation: String,
    /// `None`: the name that the data directory keeps, and at the first start the host's.
    pub node_name: Option<String>,
    /// In lower case, as kubelet does.
    pub host_name: String,
    /// The address of the interface with the default route when absent.
    pub node_address: Option<std::net::Ipv4Addr>,
    /// `unix:///var/run/docker.sock`; `DOCKER_HOST` wins, as in every Docker client.
    pub docker: String,
    /// 10.42.0.0/16: what k3s uses, and no common home or office network.
    pub pod_cidr: Ipv4Net,
    /// [`ranges::SERVICE_CIDR`].
    pub service_cidr: Ipv4Net,
    /// [`ranges::NODE_PORTS`].
    pub node_ports: RangeInclusive<u16>,
    /// [`SPARE_SANDBOXES`], at most; 0 makes none.
    pub spare_sandboxes: usize,
    /// `info`.
    pub log: String,
    /// `text` or `json`.
    pub log_json: bool,
    /// Nothing: a pod gets of its host what a container has. Whoever may commit can label a namespace;
    /// what a label then opens is the host itself, so its operator has a word too.
    pub privileges: Privileges,
    /// The kubelet's defaults.
    pub care: CareSettings,
    /// 4096 for each container, what large distributions give a pod: a program with a thread a
    /// connection is far below it, and ten that fork without end leave a default kernel (32,768) alive. 0: none.
    pub pids_limit: i64,
    /// None: what a host has besides cores and memory only its operator knows.
    pub resources: BTreeMap<String, i64>,
    /// None: NVIDIA's GPUs are found by themselves, of others only the operator knows.
    pub devices: BTreeMap<String, DeviceClass>,
    pub sources: Vec<SourceSettings>,
}

/// Where the listener's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSettings {
    /// Our own authority's, for the host's own names and addresses and for these.
    Own { names: Vec<String> },
    /// Given, as PEM files; both are read again when they change.
    Given { certificate: PathBuf, key: PathBuf },
}

#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    pub name: String,
    /// A local path is absolute, without symbolic links.
    pub url: SourceUrl,
    /// `main`: what Git hosts call it.
    pub branch: String,
    /// `.`: the whole repository.
    pub path: String,
    /// 60 s: a webhook makes a push immediate, the poll only catches a lost one.
    pub poll: Duration,
    pub webhook_secret: Option<String>,
    pub access: Access,
    pub formerly: Vec<String>,
}

/// Everything wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {}:\n{}", counted(.0.len(), "fault"), .0.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigFaults(pub Vec<String>);

/// Reads a config file.
///
/// # Errors
/// The file cannot be read, is no YAML, or has a field that does not exist (named with its line).
pub fn read(path: &Path) -> Result<ConfigFile, ConfigFaults> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigFaults(vec![format!("{}: {error}", path.display())]))?;
    if text.trim().is_empty() {
        return Ok(ConfigFile::default());
    }
    serde_yaml::from_str(&text)
        .map_err(|error| ConfigFaults(vec![format!("{}: {error}", path.display())]))
}

/// The validated config.
///
/// # Errors
/// Every fault at once, each naming its field and what is expected.
pub fn build(file: ConfigFile, given: Overrides, host_name: &str) -> Result<Config, ConfigFaults> {
    let mut faults = Vec::new();
    let listen = address(
        "listen",
        given.listen.or(file.listen).as_deref().unwrap_or("127.0.0.1:7440"),
        &mut faults,
    );
    let tls = tls_settings(
        TlsWritten {
            on: given.tls.then_some(true).or(file.tls),
            certificate: given.tls_cert.or(file.tls_cert_file),
            key: given.tls_key.or(file.tls_key_file),
            names: if given.tls_names.is_empty() { file.tls_names } else { given.tls_names },
        },
        listen.is_some_and(|address| address.ip().is_loopback()),
        &mut faults,
    );
    if file.operator && tls.is_none() {
        faults.push("operator: nobody can be one without TLS: listen on an address that is not loopback, or set tls: true".to_owned());
    }
    let webhook_listen = given
        .webhook_listen
        .or(file.webhook_listen)
        .and_then(|text| address("webhookListen", &text, &mut faults));
    let pod_cidr = network(
        "podCidr",
        given.pod_cidr.or(file.pod_cidr).as_deref().unwrap_or("10.42.0.0/16"),
        &mut faults,
    );
    let service_cidr = network(
        "serviceCidr",
        given.service_cidr.or(file.service_cidr).as_deref().unwrap_or(ranges::SERVICE_CIDR),
        &mut faults,
    );
    if pod_cidr.prefix_len() > 24 {
        faults.push(format!("podCidr: {pod_cidr} is smaller than the /24 that a node gets"));
    }
    if pod_cidr.contains(&service_cidr.network()) || service_cidr.contains(&pod_cidr.network()) {
        faults.push(format!("serviceCidr: {service_cidr} overlaps podCidr {pod_cidr}"));
    }
    let installation = given
        .installation
        .or(file.installation)
        .unwrap_or_else(|| installation::DEFAULT.to_owned());
    check_label("installation", &installation, &mut faults);
    let (node_name, host_name) = (given.node_name.or(file.node_name), host_name.to_lowercase());
    let called = node_name.as_ref().unwrap_or(&host_name);
    faults.extend(
        name::subdomain_faults(called)
            .into_iter()
            .map(|fault| format!("nodeName: {called:?}: {fault}")),
    );
    let node_address = file.node_address.and_then(|text| {
        text.parse()
            .map_err(|_| faults.push(format!("nodeAddress: {text:?} is no IPv4 address")))
            .ok()
    });
    let log_format = given.log_format.or(file.log_format).unwrap_or_else(|| "text".to_owned());
    if !["text", "json"].contains(&log_format.as_str()) {
        faults.push(format!("logFormat: {log_format:?} is neither text nor json"));
    }
    let (care, wrong) = CareSettings::of(CareWritten {
        image_gc_high_percent: file.image_gc_high_threshold_percent,
        image_gc_low_percent: file.image_gc_low_threshold_percent,
        eviction_hard: file.eviction_hard,
        system_reserved: file.system_reserved,
    });
    faults.extend(wrong);
    let mut names: Vec<String> = file.sources.iter().map(|source| source.name.clone()).collect();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            faults.push(format!("sources: {name:?} is there twice"));
        }
    }
    let mut sources: Vec<SourceSettings> =
        file.sources.into_iter().filter_map(|source| settings(source, &mut faults)).collect();
    let alone = given.repository.is_none();
    let unused = [
        ("branch", alone && given.branch.is_some()),
        ("path", alone && given.path.is_some()),
        ("token-file", alone && given.token_file.is_some()),
        ("ca-file", alone && given.ca_file.is_some()),
        ("ssh-key-file", alone && given.ssh_key_file.is_some()),
        ("known-hosts-file", alone && given.known_hosts_file.is_some()),
    ];
    if let Some(url) = given.repository {
        let path = given.path.clone();
        let source = SourceFile {
            name: "main".to_owned(),
            url,
            branch: given.branch,
            path,
            token_file: given.token_file,
            ca_file: given.ca_file,
            ssh_key_file: given.ssh_key_file,
            known_hosts_file: given.known_hosts_file,
            ..SourceFile::default()
        };
        if names.contains(&source.name) {
            faults.push("sources: the config file already has a source main; give the repository in one place only".to_owned());
        } else {
            names.push(source.name.clone());
            sources.extend(settings(source, &mut faults));
        }
    }
    for (source, earlier) in
        sources.iter().flat_map(|source| source.formerly.iter().map(move |old| (source, old)))
    {
        if names.contains(earlier) {
            faults.push(format!(
                "sources[{}].formerly: {earlier:?} is configured itself: remove one of the two",
                source.name
            ));
        }
    }
    for (flag, given) in unused {
        if given {
            faults.push(format!("--{flag}: is for the repository on the command line, and none is there; write it into the config file's source"));
        }
    }
    // One that is at fault was named: that there is none would be a second fault of the same.
    if sources.is_empty() && faults.is_empty() {
        faults.push("sources: nothing to follow; give a repository: ballast run <repository>, or a config file with sources".to_owned());
    }
    // The engine mounts volumes by their path, and its working directory is another one.
    let data_dir = given.data_dir.or(file.data_dir).unwrap_or_else(|| PathBuf::from(DATA_DIR));
    let data_dir = std::path::absolute(&data_dir)
        .map_err(|error| faults.push(format!("dataDir: {data_dir:?}: {error}")))
        .unwrap_or_default();
    let node_ports = ports(
        given.node_ports.or(file.node_ports).as_deref().unwrap_or(ranges::NODE_PORTS),
        &mut faults,
    );
    let spare_sandboxes = given.spare_sandboxes.or(file.spare_sandboxes);
    let spare_sandboxes = spare_sandboxes.unwrap_or(SPARE_SANDBOXES);
    if spare_sandboxes > MOST_SPARE_SANDBOXES {
        faults.push(format!(
            "spareSandboxes: {spare_sandboxes} is more than the {MOST_SPARE_SANDBOXES} that a node keeps: each holds an address of the pods' range"
        ));
    }
    let docker =
        given.docker.or(file.docker).unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    let socket = docker.strip_prefix("unix://").map(str::to_owned);
    let own_paths = std::iter::once(data_dir.to_string_lossy().into_owned()).chain(socket);
    let mut allow = file.allow;
    given.allow.add_to(&mut allow, &mut faults);
    let privileges = Privileges::read(allow, own_paths.collect(), &mut faults);
    let pids_limit = given.pids_limit.or(file.pids_limit).unwrap_or(DEFAULT_PIDS);
    if pids_limit != 0 && pids_limit < LEAST_PIDS {
        faults.push(format!(
            "pidsLimit: {pids_limit} is neither 0 (no limit) nor at least {LEAST_PIDS}"
        ));
    }
    let resources = extended::read(file.resources, given.resources, &mut faults);
    let devices = extended::read_devices(file.devices, &mut faults);
    if !faults.is_empty() {
        return Err(ConfigFaults(faults));
    }
    Ok(Config {
        data_dir,
        listen: listen.expect("an address that is none is a fault above"),
        tls,
        operator: file.operator,
        webhook_listen,
        installation,
        node_name,
        host_name,
        node_address,
        docker,
        pod_cidr,
        service_cidr,
        node_ports,
        spare_sandboxes,
        log: given.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
        log_json: log_format == "json",
        privileges,
        care,
        pids_limit,
        resources,
        devices,
        sources,
    })
}

/// What is written about TLS.
struct TlsWritten {
    on: Option<bool>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    names: Vec<String>,
}

/// TLS is on where it must be, and where anything about it is given.
fn tls_settings(
    written: TlsWritten,
    loopback: bool,
    faults: &mut Vec<String>,
) -> Option<TlsSettings> {
    let TlsWritten { on, certificate, key, names } = written;
    if on == Some(false) && !loopback {
        faults.push("tls: an address that other machines can reach is not served without TLS; listen on 127.0.0.1, or leave tls out".to_owned());
        return None;
    }
    for name in &names {
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        let wildcard = name.strip_prefix("*.").unwrap_or(name);
        if let Some(why) = name::subdomain_faults(wildcard).first().filter(|_| !is_address) {
            faults.push(format!("tlsNames: {name:?}: {why}"));
        }
    }
    let given = certificate.is_some() || key.is_some() || !names.is_empty();
    if !on.unwrap_or(given || !loopback) {
        if given {
            faults.push(
                "tls: it is off, and a certificate or names are given; leave one of the two out"
                    .to_owned(),
            );
        }
        return None;
    }
    let mut there = |field: &str, path: PathBuf| {
        if let Err(why) = readable(&path) {
            faults.push(format!("{field}: {why}"));
        }
        path
    };
    match (certificate, key) {
        (None, None) => Some(TlsSettings::Own { names }),
        (Some(certificate), Some(key)) => {
            let certificate = there("tlsCertFile", certificate);
            let key = there("tlsKeyFile", key);
            if !names.is_empty() {
                faults.push(
                    "tlsNames: a given certificate has its own names; leave them out".to_owned(),
                );
            }
            Some(TlsSettings::Given { certificate, key })
        }
        (certificate, _) => {
            let (one, other) = match certificate {
                Some(_) => ("tlsCertFile", "tlsKeyFile"),
                None => ("tlsKeyFile", "tlsCertFile"),
            };
            faults.push(format!("{other}: {one} is given alone; a certificate needs its key"));
            None
        }
    }
}

/// `None`: a fault was told.
fn settings(source: SourceFile, faults: &mut Vec<String>) -> Option<SourceSettings> {
    let at = format!("sources[{}]", source.name);
    check_label(&format!("{at}.name"), &source.name, faults);
    let poll_seconds = source.poll_seconds.unwrap_or(60);
    if poll_seconds == 0 {
        faults.push(format!("{at}.pollSeconds: must be at least 1"));
    }
    let webhook_secret = source.webhook_secret_file.as_deref().and_then(|path| {
        let secret =
            readable(path).map_err(|why| faults.push(format!("{at}.webhookSecretFile: {why}")));
        secret.ok().map(|text| text.trim().to_owned())
    });
    let url =
        address_of(&source.url).map_err(|why| faults.push(format!("{at}.url: {why}"))).ok()?;
    let access = access(&at, &url, &source, faults);
    Some(SourceSettings {
        name: source.name,
        url,
        branch: source.branch.unwrap_or_else(|| "main".to_owned()),
        path: source.path.unwrap_or_else(|| ".".to_owned()),
        poll: Duration::from_secs(u64::from(poll_seconds)),
        webhook_secret,
        access,
        formerly: source.formerly,
    })
}

/// A path that exists is a local repository, however it is written.
fn address_of(text: &str) -> Result<SourceUrl, String> {
    let local = Path::new(text.strip_prefix("file://").unwrap_or(text));
    match local.canonicalize() {
        Ok(path) if !text.is_empty() => Ok(SourceUrl::Local(path)),
        _ => SourceUrl::parse(text).map_err(|error| error.to_string()),
    }
}

/// What cannot be used is a fault now, not at the first fetch; and what the address has no use for
/// is one too, because somebody believes that it is used.
fn access(at: &str, url: &SourceUrl, source: &SourceFile, faults: &mut Vec<String>) -> Access {
    let over_https = matches!(url, SourceUrl::Https { .. });
    let over_ssh = matches!(url, SourceUrl::Ssh { .. });
    let given = [
        ("user", source.user.is_some(), over_https, "https://"),
        ("tokenFile", source.token_file.is_some(), over_https, "https://"),
        ("tokenEnv", source.token_env.is_some(), over_https, "https://"),
        ("caFile", source.ca_file.is_some(), over_https, "https://"),
        ("sshKeyFile", source.ssh_key_file.is_some(), over_ssh, "ssh://"),
        ("knownHostsFile", source.known_hosts_file.is_some(), over_ssh, "ssh://"),
    ];
    for (field, _, _, scheme) in given.iter().filter(|(_, given, fits, _)| *given && !fits) {
        faults.push(format!("{at}.{field}: is for {scheme} addresses, and {url} is none"));
    }
    let mut absolute = |field: &str, path: &Option<PathBuf>| {
        let path = path.as_deref()?;
        if let Err(why) = readable(path) {
            faults.push(format!("{at}.{field}: {why}"));
        }
        // ssh looks for a relative file elsewhere than we do.
        std::path::absolute(path).ok()
    };
    let ca_file = absolute("caFile", &source.ca_file);
    let ssh_key = absolute("sshKeyFile", &source.ssh_key_file);
    let known_hosts = absolute("knownHostsFile", &source.known_hosts_file);
    let token_file = absolute("tokenFile", &source.token_file);
    let token = match (token_file, &source.token_env) {
        (Some(_), Some(_)) => {
            faults.push(format!("{at}.tokenEnv: tokenFile is given too; keep one of the two"));
            None
        }
        (Some(path), None) => Some(TokenFrom::File(path)),
        (None, Some(name)) => match std::env::var(name) {
            Ok(value) => Some(TokenFrom::Variable { name: name.clone(), value }),
            Err(_) => {
                faults.push(format!("{at}.tokenEnv: the environment has no variable {name}"));
                None
            }
        },
        (None, None) => None,
    };
    Access { user: source.user.clone(), token, ca_file, ssh_key, known_hosts }
}

/// The text of a file that must hold one.
fn readable(path: &Path) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Err(format!("{} is empty", path.display())),
        Ok(text) => Ok(text),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn check_label(field: &str, text: &str, faults: &mut Vec<String>) {
    faults.extend(
        name::label_faults(text).into_iter().map(|fault| format!("{field}: {text:?}: {fault}")),
    );
}

fn address(field: &str, text: &str, faults: &mut Vec<String>) -> Option<SocketAddr> {
    text.parse()
        .map_err(|_| {
            faults.push(format!("{field}: {text:?} is no address and port such as 127.0.0.1:7440"))
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_alone_is_enough() {
        let given = Overrides { repository: Some("/srv/repo".into()), ..Overrides::default() };
        let config = build(ConfigFile::default(), given, "Host-1").expect("valid");
        assert_eq!(
            (config.sources[0].branch.as_str(), config.node_name, config.host_name.as_str()),
            ("main", None, "host-1")
        );
        assert_eq!(config.listen.to_string(), "127.0.0.1:7440");
        assert_eq!(config.sources[0].poll, Duration::from_secs(60));
        assert_eq!(config.data_dir, Path::new("/var/lib/ballast"));
    }

    /// What a pod mounts is named by it: an engine refuses a relative path, or has another one there.
    #[test]
    fn a_data_directory_is_absolute_however_it_is_written() {
        let here = std::env::current_dir().expect("a working directory");
        for (written, meant) in
            [("data", here.join("data")), ("./a/data", here.join("a/data")), ("/d", "/d".into())]
        {
            let repository = Some("/srv/repo".into());
            let data_dir = Some(PathBuf::from(written));
            let given = Overrides { repository, data_dir, ..Overrides::default() };
            let config = build(ConfigFile::default(), given, "h").expect("valid");
            assert_eq!(config.data_dir, meant);
        }
        let file: ConfigFile = serde_yaml::from_str("dataDir: ''").expect("parses");
        let ConfigFaults(faults) = build(file, Overrides::default(), "h").expect_err("no path");
        assert!(faults.iter().any(|fault| fault.starts_with("dataDir:")), "{faults:?}");
    }

    #[test]
    fn what_a_host_has_besides_is_declared_by_name() {
        let given = |lines: &str, flags: &[&str]| {
            let text = format!("{lines}sources:\n- {{name: a, url: https://git.example/a}}\n");
            let resources = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let given = Overrides { resources, ..Overrides::default() };
            build(serde_yaml::from_str(&text).expect("parses"), given, "h")
        };
        let plain = given("", &[]).expect("valid");
        assert_eq!((plain.pids_limit, plain.resources.len()), (4096, 0));
        let config =
            given("resources: {example.com/fpga: 2, a.b/c: 1}\n", &["a.b/c=3"]).expect("valid");
        assert_eq!(config.resources["example.com/fpga"], 2);
        assert_eq!(config.resources["a.b/c"], 3, "a flag wins");
        let gpus = given("devices: {nvidia.com/gpu: {ids: [GPU-1, GPU-2]}}\n", &[]).expect("valid");
        let class = &gpus.devices["nvidia.com/gpu"];
        assert_eq!((&*class.driver, &*class.capabilities), ("nvidia", &["gpu".to_owned()][..]));
        assert_eq!(given("pidsLimit: 0\n", &[]).expect("valid").pids_limit, 0);
        for (lines, flags, fault) in [
            ("pidsLimit: 3\n", &[][..], "pidsLimit: 3 is neither"),
            ("resources: {cpu: 2}\n", &[], "resources[cpu]: a resource of your own"),
            ("resources: {kubernetes.io/x: 2}\n", &[], "resources[kubernetes.io/x]: a resource"),
            ("resources: {nvidia.com/gpu: 1}\n", &[], "resources[nvidia.com/gpu]: a count alone"),
            ("resources: {amd.com/gpu: 1}\n", &[], "resources[amd.com/gpu]: a count alone"),
            ("devices: {a.b/c: {ids: [x]}}\n", &[], "devices[a.b/c]: name the engine's driver"),
            (
                "devices: {nvidia.com/gpu: {ids: []}}\n",
                &[],
                "devices[nvidia.com/gpu]: name the ids",
            ),
            (
                "devices: {a.b/c: {driver: cdi, capabilities: [x], ids: [y]}}\n",
                &[],
                "devices[a.b/c]: devices by CDI",
            ),
            (
                "devices: {nvidia.com/gpu: {ids: [\"0\"]}, nvidia.com/mig: {ids: [\"0\"]}}\n",
                &[],
                "devices[nvidia.com/mig]: the id \"0\"",
            ),
            ("", &["a.b/c=-1"], "resources[a.b/c]: -1 is less"),
            ("", &["a.b/c"], "--resource: \"a.b/c\" is not NAME=COUNT"),
        ] {
            let ConfigFaults(faults) = given(lines, flags).expect_err("invalid");
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{faults:?}");
        }
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let file: ConfigFile = serde_yaml::from_str(
            "listen: 0.0.0.0\nserviceCidr: 10.42.8.0/24\nnodePorts: 9-3\nlogFormat: xml\nsources:\n- {name: a, url: ''}\n- {name: b, url: /b, formerly: [a]}\n",
        )
        .expect("parses");
        let ConfigFaults(faults) = build(file, Overrides::default(), "h").expect_err("invalid");
        for field in [
            "listen:",
            "serviceCidr:",
            "nodePorts:",
            "logFormat:",
            "sources[a].url:",
            "sources[b].formerly:",
        ] {
            assert!(faults.iter().any(|fault| fault.starts_with(field)), "{field} in {faults:?}");
        }
        let given = Overrides { branch: Some("main".into()), ..Overrides::default() };
        let ConfigFaults(faults) = build(ConfigFile::default(), given, "h").expect_err("invalid");
        assert!(faults[0].starts_with("--branch: is for the repository"), "{faults:?}");
        let nothing = build(ConfigFile::default(), Overrides::default(), "h").expect_err("invalid");
        assert!(nothing.to_string().contains("sources: nothing to follow"), "{nothing}");
        assert!(
            serde_yaml::from_str::<ConfigFile>("lisen: x")
                .unwrap_err()
                .to_string()
                .contains("unknown field `lisen`")
        );
    }

    #[test]
    fn an_address_that_others_reach_has_tls() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.pem");
        std::fs::write(&file, "x").expect("written");
        let built = |lines: &str| {
            let lines = lines.replace("FILE", &file.to_string_lossy());
            let text = format!("{lines}sources:\n- {{name: a, url: https://git.example/a}}\n");
            build(serde_yaml::from_str(&text).expect("parses"), Overrides::default(), "h")
        };
        let own = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Some(TlsSettings::Own { names })
        };
        for (lines, wanted) in [
            ("", None),
            ("listen: 127.0.0.1:1\n", None),
            ("listen: 0.0.0.0:7440\n", own(&[])),
            (
                "listen: '[::]:7440'\ntlsNames: [ops.example, 192.0.2.1]\n",
                own(&["ops.example", "192.0.2.1"]),
            ),
            ("tls: true\n", own(&[])),
            (
                "tlsCertFile: FILE\ntlsKeyFile: FILE\n",
                Some(TlsSettings::Given { certificate: file.clone(), key: file.clone() }),
            ),
        ] {
            let config = built(lines).unwrap_or_else(|faults| panic!("{lines}: {faults}"));
            assert_eq!((config.tls, config.operator), (wanted, false), "{lines}");
        }
        assert!(built("tls: true\noperator: true\n").expect("valid").operator);
        for (lines, fault) in [
            ("listen: 0.0.0.0:7440\ntls: false\n", "tls: an address that other machines"),
            ("operator: true\n", "operator: nobody can be one without TLS"),
            ("tls: false\ntlsNames: [a.example]\n", "tls: it is off"),
            ("tlsNames: ['a b']\n", "tlsNames: \"a b\""),
            ("tlsCertFile: FILE\n", "tlsKeyFile: tlsCertFile is given alone"),
            ("tlsKeyFile: FILE\n", "tlsCertFile: tlsKeyFile is given alone"),
            ("tlsCertFile: FILE\ntlsKeyFile: /none\n", "tlsKeyFile: /none: No such file"),
            ("tlsCertFile: FILE\ntlsKeyFile: FILE\ntlsNames: [a]\n", "tlsNames: a given"),
        ] {
            let ConfigFaults(faults) = built(lines).expect_err("invalid");
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{lines}: {faults:?}");
        }
    }

    #[test]
    fn what_opens_a_repository_fits_its_address_and_can_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        std::fs::write(&token, "s3cret\n").expect("written");
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "\n").expect("written");
        let sources = |lines: &str| {
            let text = format!("sources:\n- name: a\n{lines}");
            let text = text.replace("TOKEN", &token.to_string_lossy());
            let text = text.replace("EMPTY", &empty.to_string_lossy());
            build(serde_yaml::from_str(&text).expect("parses"), Overrides::default(), "h")
        };
        let config = sources("  url: https://git.example/a\n  tokenFile: TOKEN\n").expect("valid");
        assert_eq!(config.sources[0].access.token, Some(TokenFrom::File(token.clone())));
        assert!(!format!("{config:?}").contains("s3cret"));
        for (lines, fault) in [
            (
                "  url: ssh://git.example/a\n  tokenFile: TOKEN\n",
                "tokenFile: is for https:// addresses",
            ),
            ("  url: https://git.example/a\n  sshKeyFile: TOKEN\n", "sshKeyFile: is for ssh://"),
            (
                "  url: https://git.example/a\n  tokenFile: /none\n",
                "tokenFile: /none: No such file",
            ),
            ("  url: https://git.example/a\n  tokenEnv: NO_SUCH_X\n", "no variable NO_SUCH_X"),
            (
                "  url: https://git.example/a\n  tokenFile: TOKEN\n  tokenEnv: PATH\n",
                "keep one of the two",
            ),
            ("  url: https://me:s3cret@git.example/a\n", "url: the repository's address contains"),
            (
                "  url: https://git.example/a\n  webhookSecretFile: EMPTY\n",
                "webhookSecretFile: EMPTY is empty",
            ),
            ("  url: http://git.example/a\n", "url: http:// is not followed"),
            ("  url: ''\n", "url: the repository's address is empty"),
        ] {
            let ConfigFaults(faults) = sources(lines).expect_err("invalid");
            let fault = fault.replace("EMPTY", &empty.to_string_lossy());
            assert!(faults.len() == 1 && faults[0].contains(&fault), "{lines}: {faults:?}");
            assert!(!faults[0].contains("s3cret"));
        }
    }
}
