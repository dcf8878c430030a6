//! Pure: what the operator of a daemon lets the authors of its repositories ask of the host.
//!
//! One key to a host's own is a namespace's label in Git, and whoever may commit has it. This is the
//! other: it stands in the daemon's config, which no commit can change. Without it nothing of the host
//! is given, whatever a label says.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::object::host_path;

/// Every namespace, in place of a namespace's name.
pub const EVERY: &str = "*";

/// What a namespace may, as a config file writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Written {
    /// Privileged containers, and with them every capability and profile.
    pub privileged: bool,
    /// The host's network, processes and memory segments.
    pub host_namespaces: bool,
    /// Folders and files; each allows what is below it too.
    pub host_paths: Vec<String>,
    /// `9100` or `30000-30100`.
    pub host_ports: Vec<Port>,
    /// Beyond the level baseline: `NET_ADMIN`.
    pub capabilities: Vec<String>,
    /// Beyond the safe ones: `net.core.somaxconn`, `kernel.msg*`.
    pub sysctls: Vec<String>,
}

/// YAML writes one port as a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Port {
    Number(u16),
    Range(String),
}

/// By namespace.
pub type WrittenAll = BTreeMap<String, Written>;

/// Adds what one place allows to what another does.
pub fn add(written: &mut WrittenAll, more: &WrittenAll) {
    for (namespace, more) in more {
        let all = written.entry(namespace.clone()).or_default();
        all.privileged |= more.privileged;
        all.host_namespaces |= more.host_namespaces;
        all.host_paths.extend(more.host_paths.iter().cloned());
        all.host_ports.extend(more.host_ports.iter().cloned());
        all.capabilities.extend(more.capabilities.iter().cloned());
        all.sysctls.extend(more.sysctls.iter().cloned());
    }
}

/// As flags write it: `namespace` or `namespace:value`, each as often as there is need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub privileged: Vec<String>,
    pub host_namespaces: Vec<String>,
    pub host_paths: Vec<String>,
    pub host_ports: Vec<String>,
    pub capabilities: Vec<String>,
    pub sysctls: Vec<String>,
}

impl Flags {
    /// Adds what the flags allow to what a file does.
    pub fn add_to(self, written: &mut WrittenAll, faults: &mut Vec<String>) {
        for namespace in self.privileged {
            written.entry(namespace).or_default().privileged = true;
        }
        for namespace in self.host_namespaces {
            written.entry(namespace).or_default().host_namespaces = true;
        }
        let mut pairs = |flag: &str, example: &str, texts: Vec<String>| {
            let mut pair = |text: String| match text.split_once(':') {
                Some((namespace, value)) if !namespace.is_empty() && !value.is_empty() => {
                    Some((namespace.to_owned(), value.to_owned()))
                }
                _ => {
                    faults.push(format!("--{flag}: {text:?} is not NAMESPACE:{example}"));
                    None
                }
            };
            texts.into_iter().filter_map(&mut pair).collect::<Vec<_>>()
        };
        for (namespace, path) in pairs("allow-host-path", "/srv/files", self.host_paths) {
            written.entry(namespace).or_default().host_paths.push(path);
        }
        for (namespace, range) in pairs("allow-host-ports", "8080", self.host_ports) {
            written.entry(namespace).or_default().host_ports.push(Port::Range(range));
        }
        for (namespace, name) in pairs("allow-capability", "NET_ADMIN", self.capabilities) {
            written.entry(namespace).or_default().capabilities.push(name);
        }
        for (namespace, name) in pairs("allow-sysctl", "net.core.somaxconn", self.sysctls) {
            written.entry(namespace).or_default().sysctls.push(name);
        }
    }
}

/// What one namespace may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Allowed {
    privileged: bool,
    host_namespaces: bool,
    host_paths: Vec<String>,
    host_ports: Vec<RangeInclusive<u16>>,
    capabilities: BTreeSet<String>,
    sysctls: Vec<String>,
}

/// What every namespace may. The default allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    namespaces: BTreeMap<String, Allowed>,
    /// The daemon's own, which nobody may mount.
    own_paths: Vec<String>,
    written: WrittenAll,
}

impl Privileges {
    /// What is written, checked; `own_paths` are the daemon's own files and folders.
    pub fn read(written: WrittenAll, own_paths: Vec<String>, faults: &mut Vec<String>) -> Self {
        let mut namespaces = BTreeMap::new();
        for (namespace, of_namespace) in &written {
            let at = format!("allow[{namespace}]");
            if namespace != EVERY {
                let wrong = crate::object::name::label_faults(namespace);
                faults.extend(wrong.into_iter().map(|fault| format!("{at}: {fault}")));
            }
            namespaces.insert(namespace.clone(), allowed(&at, of_namespace, faults));
        }
        for namespace in &namespaces {
            for path in &namespace.1.host_paths {
                if let Some(why) = refusal_of_own(path, &own_paths) {
                    faults.push(format!("allow[{}].hostPaths: {why}", namespace.0));
                }
            }
        }
        Self { namespaces, own_paths, written }
    }

    /// As it was written, for whoever judges for this daemon elsewhere.
    pub fn written(&self) -> &WrittenAll {
        &self.written
    }

    fn any(&self, namespace: &str, fits: impl Fn(&Allowed) -> bool) -> bool {
        [namespace, EVERY].iter().filter_map(|name| self.namespaces.get(*name)).any(fits)
    }

    pub fn privileged(&self, namespace: &str) -> bool {
        self.any(namespace, |allowed| allowed.privileged)
    }

    pub fn host_namespaces(&self, namespace: &str) -> bool {
        self.any(namespace, |allowed| allowed.host_namespaces)
    }

    pub fn host_port(&self, namespace: &str, port: u16) -> bool {
        self.any(namespace, |allowed| allowed.host_ports.iter().any(|range| range.contains(&port)))
    }

    pub fn capability(&self, namespace: &str, name: &str) -> bool {
        let fits = |allowed: &Allowed| allowed.privileged || allowed.capabilities.contains(name);
        self.any(namespace, fits)
    }

    /// `kernel.msg*` allows what begins so, as the kubelet's `--allowed-unsafe-sysctls` does.
    pub fn sysctl(&self, namespace: &str, name: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == pattern,
        };
        self.any(namespace, |allowed| allowed.sysctls.iter().any(fits))
    }

    pub fn host_path(&self, namespace: &str, path: &str) -> bool {
        let below = |tree: &String| host_path::is_in(path, tree);
        self.any(namespace, |allowed| allowed.host_paths.iter().any(below))
    }

    /// Why nobody at all may mount this path, where it is one of the daemon's own, as a clause.
    pub fn own_path(&self, path: &str) -> Option<String> {
        refusal_of_own(path, &self.own_paths)
    }
}

/// A path that is one of the daemon's own, stands in one, or holds one.
fn refusal_of_own(path: &str, own: &[String]) -> Option<String> {
    let meets = |own: &&String| host_path::is_in(path, own) || host_path::is_in(own, path);
    own.iter().find(meets).map(|own| format!("{path} is, is in or holds Ballast's own {own}"))
}

fn allowed(at: &str, written: &Written, faults: &mut Vec<String>) -> Allowed {
    for path in &written.host_paths {
        if let Some(why) = host_path::refusal(path) {
            faults.push(format!("{at}.hostPaths: {why}"));
        }
    }
    let mut range = |port: &Port| {
        let bounds = match port {
            Port::Number(port) => Some((*port, *port)),
            Port::Range(text) => {
                let (low, high) = text.split_once('-').unwrap_or((text, text));
                low.parse().ok().zip(high.parse().ok())
            }
        };
        let range = bounds.filter(|(low, high)| *low > 0 && low <= high);
        if range.is_none() {
            let text = match port {
                Port::Number(port) => port.to_string(),
                Port::Range(text) => text.clone(),
            };
            faults.push(format!(
                "{at}.hostPorts: {text:?} is no port such as 8080 and no range such as 30000-30100"
            ));
        }
        range.map(|(low, high)| low..=high)
    };
    let host_ports = written.host_ports.iter().filter_map(&mut range).collect();
    for name in &written.capabilities {
        if !CAPABILITIES.contains(&name.as_str()) {
            faults.push(format!("{at}.capabilities: {name:?} is no capability such as NET_ADMIN"));
        }
    }
    for name in &written.sysctls {
        let body = name.strip_suffix('*').unwrap_or(name);
        let is_part = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        if !body.contains('.') || !body.chars().all(is_part) {
            faults.push(format!(
                "{at}.sysctls: {name:?} is no kernel parameter such as net.core.somaxconn"
            ));
        }
    }
    Allowed {
        privileged: written.privileged,
        host_namespaces: written.host_namespaces,
        host_paths: written.host_paths.clone(),
        host_ports,
        capabilities: written.capabilities.iter().cloned().collect(),
        sysctls: written.sysctls.clone(),
    }
}

/// Linux' capabilities as Kubernetes writes them (capabilities(7), to Linux 5.9; later ones have none).
pub const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Stands before what would let a refused thing through, in the sentence that refuses it.
pub const TO_ALLOW: &str = "; to allow it: ";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(written: WrittenAll) -> Result<Privileges, Vec<String>> {
        let mut faults = Vec::new();
        let own = vec!["/var/lib/ballast".to_owned(), "/srv/engine.sock".to_owned()];
        let privileges = Privileges::read(written, own, &mut faults);
        if faults.is_empty() { Ok(privileges) } else { Err(faults) }
    }

    fn flags(change: impl FnOnce(&mut Flags)) -> Result<Privileges, Vec<String>> {
        let (mut flags, mut written, mut faults) =
            (Flags::default(), WrittenAll::new(), Vec::new());
        change(&mut flags);
        flags.add_to(&mut written, &mut faults);
        if faults.is_empty() { read(written) } else { Err(faults) }
    }

    #[test]
    fn nothing_is_allowed_but_what_is_written() {
        let none = Privileges::default();
        assert!(!none.privileged("a") && !none.host_namespaces("a"));
        assert!(!none.host_port("a", 80) && !none.host_path("a", "/srv"));
        assert!(!none.capability("a", "NET_ADMIN") && !none.sysctl("a", "net.core.somaxconn"));
        let some = flags(|flags| {
            flags.privileged = vec!["p".into()];
            flags.host_namespaces = vec!["*".into()];
            flags.host_paths = vec!["a:/srv/files/".into()];
            flags.host_ports = vec!["a:80".into(), "a:30000-30100".into()];
            flags.capabilities = vec!["a:NET_ADMIN".into()];
            flags.sysctls = vec!["a:net.core.*".into(), "a:kernel.sem".into()];
        })
        .expect("flags");
        assert!(some.privileged("p") && !some.privileged("a"));
        assert!(some.host_namespaces("a") && some.host_namespaces("anything"));
        for (path, is_allowed) in [
            ("/srv/files", true),
            ("/srv/files/a/b", true),
            ("/srv/./files//a", true),
            ("/srv/files/..", false),
            ("/srv/files/../other", false),
            ("/srv/filesystem", false),
            ("/srv", false),
            ("srv/files", false),
        ] {
            assert_eq!(some.host_path("a", path), is_allowed, "{path}");
            assert!(!some.host_path("b", path));
        }
        let ports: Vec<u16> = [79, 80, 81, 29999, 30000, 30100, 30101]
            .into_iter()
            .filter(|p| some.host_port("a", *p))
            .collect();
        assert_eq!(ports, [80, 30000, 30100]);
        assert!(some.capability("a", "NET_ADMIN") && !some.capability("a", "SYS_ADMIN"));
        assert!(some.capability("p", "SYS_ADMIN"), "a privileged container has them all");
        assert!(some.sysctl("a", "net.core.somaxconn") && some.sysctl("a", "kernel.sem"));
        assert!(!some.sysctl("a", "kernel.semx") && !some.sysctl("a", "net.ipv4.ip_forward"));
    }

    #[test]
    fn a_file_and_flags_allow_the_union() {
        let mut written: WrittenAll = serde_yaml::from_str(
            "a: {hostPorts: [80, 90-91], hostPaths: [/srv/a]}\nb: {privileged: true}\n",
        )
        .expect("YAML");
        let flags = Flags { host_paths: vec!["a:/srv/b".into()], ..Flags::default() };
        flags.add_to(&mut written, &mut Vec::new());
        let all = read(written).expect("right");
        assert!(all.host_path("a", "/srv/a") && all.host_path("a", "/srv/b"));
        assert!(all.host_port("a", 80) && all.host_port("a", 91) && all.privileged("b"));
        assert!(serde_yaml::from_str::<WrittenAll>("a: {hostPath: [/srv]}").is_err());
    }

    #[test]
    fn what_is_never_given_cannot_be_allowed() {
        for path in [
            "/",
            "/etc",
            "/var/run/docker.sock",
            "/var/lib/ballast",
            "/var/lib/ballast/pods",
            "/srv",
            "/srv/engine.sock",
            "relative",
        ] {
            let allowed = flags(|flags| flags.host_paths = vec![format!("a:{path}")]);
            assert!(allowed.is_err(), "{path}");
        }
        assert_eq!(
            Privileges::read(WrittenAll::new(), vec!["/data/b".into()], &mut Vec::new())
                .own_path("/data"),
            Some("/data is, is in or holds Ballast's own /data/b".into())
        );
    }

    #[test]
    fn what_is_written_wrongly_is_told_by_its_name() {
        for (fault, change) in [
            (
                "--allow-host-path: \"/srv\" is not NAMESPACE:",
                (|f| f.host_paths = vec!["/srv".into()]) as fn(&mut Flags),
            ),
            ("allow[a].hostPorts: \"90-80\"", |f| f.host_ports = vec!["a:90-80".into()]),
            ("allow[a].hostPorts: \"0\"", |f| f.host_ports = vec!["a:0".into()]),
            ("allow[a].capabilities: \"CAP_NET_ADMIN\"", |f| {
                f.capabilities = vec!["a:CAP_NET_ADMIN".into()]
            }),
            ("allow[a].sysctls: \"*\"", |f| f.sysctls = vec!["a:*".into()]),
            ("allow[A b]: ", |f| f.privileged = vec!["A b".into()]),
        ] {
            let faults = flags(change).expect_err(fault);
            assert!(faults[0].starts_with(fault), "{fault}: {faults:?}");
        }
    }
}
