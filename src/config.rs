//! One validated [`Config`] out of the command line and the config file; each default with its
//! reason. Everything wrong is reported at once, by field.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::object::name;

/// The config file as written: YAML, every field optional, unknown fields refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigFile {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<String>,
    pub webhook_listen: Option<String>,
    pub installation: Option<String>,
    pub node_name: Option<String>,
    pub node_address: Option<String>,
    pub docker: Option<String>,
    pub pod_cidr: Option<String>,
    pub service_cidr: Option<String>,
    pub node_ports: Option<String>,
    pub log: Option<String>,
    pub log_format: Option<String>,
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
    /// A token for `https://`, sent as the password.
    pub token_file: Option<PathBuf>,
    /// A private key for `ssh://`.
    pub ssh_key_file: Option<PathBuf>,
    /// The host keys that are trusted; `~/.ssh/known_hosts` without it.
    pub known_hosts_file: Option<PathBuf>,
}

/// What the command line said; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub repository: Option<String>,
    pub branch: Option<String>,
    pub path: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub listen: Option<String>,
    pub webhook_listen: Option<String>,
    pub installation: Option<String>,
    pub node_name: Option<String>,
    pub docker: Option<String>,
    pub pod_cidr: Option<String>,
    pub service_cidr: Option<String>,
    pub log: Option<String>,
    pub log_format: Option<String>,
}

/// Everything the daemon needs to know, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `/var/lib/ballast`: the place Debian's policy gives to state.
    pub data_dir: PathBuf,
    /// `127.0.0.1:7440`: readers on this machine. Other addresses are refused until TLS exists.
    pub listen: SocketAddr,
    /// Off. It serves the webhook alone, so it may be public.
    pub webhook_listen: Option<SocketAddr>,
    /// `default`: tells our containers, networks and chains from another daemon's on the same host.
    pub installation: String,
    /// The host's name in lower case, as kubelet does.
    pub node_name: String,
    /// The address of the interface with the default route when absent.
    pub node_address: Option<std::net::Ipv4Addr>,
    /// `unix:///var/run/docker.sock`; `DOCKER_HOST` wins, as in every Docker client.
    pub docker: String,
    /// 10.42.0.0/16: what k3s uses, and no common home or office network.
    pub pod_cidr: Ipv4Net,
    /// 10.43.0.0/16, likewise.
    pub service_cidr: Ipv4Net,
    /// 30000-32767: Kubernetes' range, outside Linux' ephemeral ports.
    pub node_ports: RangeInclusive<u16>,
    /// `info`.
    pub log: String,
    /// `text` or `json`.
    pub log_json: bool,
    pub sources: Vec<SourceSettings>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    pub name: String,
    pub url: String,
    /// `main`: what Git hosts call it.
    pub branch: String,
    /// `.`: the whole repository.
    pub path: String,
    /// 60 s: a webhook makes a push immediate, the poll only catches a lost one.
    pub poll: Duration,
    pub webhook_secret: Option<String>,
    pub token: Option<String>,
    pub ssh_key_file: Option<PathBuf>,
    pub known_hosts_file: Option<PathBuf>,
}

/// Everything wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} fault{}:\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n"))]
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
    if listen.is_some_and(|address| !address.ip().is_loopback()) {
        faults.push("listen: only a loopback address is served until TLS exists; use an SSH tunnel, or --webhook-listen for the webhook".to_owned());
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
        given.service_cidr.or(file.service_cidr).as_deref().unwrap_or("10.43.0.0/16"),
        &mut faults,
    );
    if pod_cidr.prefix_len() > 24 {
        faults.push(format!("podCidr: {pod_cidr} is smaller than the /24 that a node gets"));
    }
    if pod_cidr.contains(&service_cidr.network()) || service_cidr.contains(&pod_cidr.network()) {
        faults.push(format!("serviceCidr: {service_cidr} overlaps podCidr {pod_cidr}"));
    }
    let installation =
        given.installation.or(file.installation).unwrap_or_else(|| "default".to_owned());
    check_label("installation", &installation, &mut faults);
    let node_name = given.node_name.or(file.node_name).unwrap_or_else(|| host_name.to_lowercase());
    faults.extend(
        name::subdomain_faults(&node_name)
            .into_iter()
            .map(|fault| format!("nodeName: {node_name:?}: {fault}")),
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
    let mut sources: Vec<SourceSettings> = Vec::new();
    for source in file.sources {
        let name = source.name.clone();
        if sources.iter().any(|earlier| earlier.name == name) {
            faults.push(format!("sources: {name:?} is there twice"));
        }
        sources.push(settings(source, &mut faults));
    }
    if let Some(url) = given.repository {
        let path = given.path.clone();
        let source = SourceFile {
            name: "main".to_owned(),
            url,
            branch: given.branch,
            path,
            ..SourceFile::default()
        };
        match sources.iter_mut().find(|known| known.name == "main") {
            Some(_) => faults.push("sources: the config file already has a source main; give the repository in one place only".to_owned()),
            None => sources.push(settings(source, &mut faults)),
        }
    }
    if sources.is_empty() {
        faults.push("sources: nothing to follow; give a repository: ballast run <repository>, or a config file with sources".to_owned());
    }
    let node_ports = ports(file.node_ports.as_deref().unwrap_or("30000-32767"), &mut faults);
    if !faults.is_empty() {
        return Err(ConfigFaults(faults));
    }
    Ok(Config {
        data_dir: given
            .data_dir
            .or(file.data_dir)
            .unwrap_or_else(|| PathBuf::from("/var/lib/ballast")),
        listen: listen.expect("an address that is none is a fault above"),
        webhook_listen,
        installation,
        node_name,
        node_address,
        docker: given
            .docker
            .or(file.docker)
            .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned()),
        pod_cidr,
        service_cidr,
        node_ports,
        log: given.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
        log_json: log_format == "json",
        sources,
    })
}

fn settings(source: SourceFile, faults: &mut Vec<String>) -> SourceSettings {
    let at = format!("sources[{}]", source.name);
    check_label(&format!("{at}.name"), &source.name, faults);
    if source.url.trim().is_empty() {
        faults.push(format!("{at}.url: required"));
    }
    let poll_seconds = source.poll_seconds.unwrap_or(60);
    if poll_seconds == 0 {
        faults.push(format!("{at}.pollSeconds: must be at least 1"));
    }
    let mut secret = |field: &str, path: Option<PathBuf>| -> Option<String> {
        let path = path?;
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => {
                faults.push(format!("{at}.{field}: {} is empty", path.display()))
            }
            Ok(text) => return Some(text.trim().to_owned()),
            Err(error) => faults.push(format!("{at}.{field}: {}: {error}", path.display())),
        }
        None
    };
    let webhook_secret = secret("webhookSecretFile", source.webhook_secret_file);
    let token = secret("tokenFile", source.token_file);
    SourceSettings {
        name: source.name,
        url: source.url,
        branch: source.branch.unwrap_or_else(|| "main".to_owned()),
        path: source.path.unwrap_or_else(|| ".".to_owned()),
        poll: Duration::from_secs(u64::from(poll_seconds)),
        webhook_secret,
        token,
        ssh_key_file: source.ssh_key_file,
        known_hosts_file: source.known_hosts_file,
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

fn network(field: &str, text: &str, faults: &mut Vec<String>) -> Ipv4Net {
    text.parse::<Ipv4Net>().map(|network| network.trunc()).unwrap_or_else(|_| {
        faults.push(format!("{field}: {text:?} is no IPv4 network such as 10.42.0.0/16"));
        Ipv4Net::default()
    })
}

fn ports(text: &str, faults: &mut Vec<String>) -> RangeInclusive<u16> {
    let bounds =
        text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    match bounds {
        Some((low, high)) if 0 < low && low <= high => low..=high,
        _ => {
            faults.push(format!("nodePorts: {text:?} is no range such as 30000-32767"));
            0..=0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_alone_is_enough() {
        let given = Overrides { repository: Some("/srv/repo".into()), ..Overrides::default() };
        let config = build(ConfigFile::default(), given, "Host-1").expect("valid");
        assert_eq!(
            (config.sources[0].branch.as_str(), config.node_name.as_str()),
            ("main", "host-1")
        );
        assert_eq!(config.listen.to_string(), "127.0.0.1:7440");
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let file: ConfigFile = serde_yaml::from_str(
            "listen: 0.0.0.0:7440\nserviceCidr: 10.42.8.0/24\nnodePorts: 9-3\nlogFormat: xml\n",
        )
        .expect("parses");
        let ConfigFaults(faults) = build(file, Overrides::default(), "h").expect_err("invalid");
        for field in ["listen:", "serviceCidr:", "nodePorts:", "logFormat:", "sources:"] {
            assert!(faults.iter().any(|fault| fault.starts_with(field)), "{field} in {faults:?}");
        }
        assert!(
            serde_yaml::from_str::<ConfigFile>("lisen: x")
                .unwrap_err()
                .to_string()
                .contains("unknown field `lisen`")
        );
    }
}
