//! Pure: a container as the engine holds it, and the labels by which it is ours.
//!
//! A pod container has one *instance* an attempt, a sandbox too. The labels say everything the agent
//! must know after a restart of its own: nothing of it stands in local files.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::node::devices::Devices;

/// Whose container it is. A container without this label, or with another value, is never touched.
pub const INSTALLATION: &str = "ballast.dev/installation";
const POD_UID: &str = "ballast.dev/pod-uid";
const POD_NAMESPACE: &str = "ballast.dev/pod-namespace";
const POD_NAME: &str = "ballast.dev/pod-name";
const CONTAINER: &str = "ballast.dev/container";
const ROLE: &str = "ballast.dev/kind";
const ATTEMPT: &str = "ballast.dev/attempt";
const SPEC_HASH: &str = "ballast.dev/spec-hash";
/// What was asked for when the container was made, see [`Instance::asked`].
pub const SETTINGS: &str = "ballast.dev/settings";
/// Which devices it was given, see [`Instance::devices`].
pub const DEVICES: &str = "ballast.dev/devices";
/// The host name of a spare sandbox, see [`Instance::made_as`].
pub const MADE_AS: &str = "ballast.dev/made-as";

/// What a label says of devices; none where there is no such label.
pub fn devices_of(labels: &HashMap<String, String>) -> Devices {
    let text = labels.get(DEVICES);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What an instance is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Owns the network and IPC namespaces; runs our pause binary.
    Sandbox,
    /// A sandbox that was made before the pod that will have it. It is claimed by its name, see
    /// [`Identity::of`].
    Spare,
    Init,
    Container,
    /// Added to the running pod; started once.
    Ephemeral,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Spare => SPARE,
            Self::Init => "init",
            Self::Container => "container",
            Self::Ephemeral => "ephemeral",
        }
    }
}

/// The word of a spare sandbox in its label, which stays when a pod claims it.
const SPARE: &str = "spare";

/// What our labels say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub installation: String,
    pub pod_uid: String,
    pub pod_namespace: String,
    pub pod_name: String,
    /// The pod container's name; empty for the sandbox.
    pub container: String,
    pub role: Role,
    /// 0 is the first one; the highest is the present one.
    pub attempt: u32,
    /// Of the container's spec when it was made, see `container_spec::spec_hash`.
    pub spec_hash: String,
}

impl Identity {
    pub fn to_labels(&self) -> HashMap<String, String> {
        [
            (INSTALLATION, self.installation.clone()),
            (POD_UID, self.pod_uid.clone()),
            (POD_NAMESPACE, self.pod_namespace.clone()),
            (POD_NAME, self.pod_name.clone()),
            (CONTAINER, self.container.clone()),
            (ROLE, self.role.as_str().to_owned()),
            (ATTEMPT, self.attempt.to_string()),
            (SPEC_HASH, self.spec_hash.clone()),
        ]
        .map(|(label, value)| (label.to_owned(), value))
        .into()
    }

    /// What a container is by its labels, and a spare sandbox by its name: a pod claims it by giving
    /// it the name that the pod's own sandbox would have, which the engine does at once or not at all.
    /// `None` for labels that are not ours or not whole.
    pub fn of(labels: &HashMap<String, String>, name: &str) -> Option<Self> {
        let identity = Self::of_labels(labels)?;
        if identity.role != Role::Spare {
            return Some(identity);
        }
        let claim = name.rsplitn(6, '_').collect::<Vec<_>>();
        let [attempt, uid, namespace, pod, "POD", _] = claim[..] else { return Some(identity) };
        let Ok(attempt) = attempt.parse() else { return Some(identity) };
        Some(Self {
            pod_uid: uid.to_owned(),
            pod_namespace: namespace.to_owned(),
            pod_name: pod.to_owned(),
            role: Role::Sandbox,
            attempt,
            ..identity
        })
    }

    fn of_labels(labels: &HashMap<String, String>) -> Option<Self> {
        let text = |label: &str| labels.get(label).cloned();
        let role = match labels.get(ROLE)?.as_str() {
            "sandbox" => Role::Sandbox,
            SPARE => Role::Spare,
            "init" => Role::Init,
            "container" => Role::Container,
            "ephemeral" => Role::Ephemeral,
            _ => return None,
        };
        Some(Self {
            installation: text(INSTALLATION)?,
            pod_uid: text(POD_UID)?,
            pod_namespace: text(POD_NAMESPACE)?,
            pod_name: text(POD_NAME)?,
            container: text(CONTAINER)?,
            role,
            attempt: labels.get(ATTEMPT)?.parse().ok()?,
            spec_hash: text(SPEC_HASH)?,
        })
    }

    pub fn is_sandbox(&self) -> bool {
        matches!(self.role, Role::Sandbox | Role::Spare)
    }

    /// The engine's name for it, the same for the same attempt: a second create of it is refused by
    /// the engine, which is how a create whose answer was lost is found again.
    pub fn engine_name(&self, prefix: &str) -> String {
        let container = if self.container.is_empty() { "POD" } else { &self.container };
        format!(
            "{prefix}_{container}_{}_{}_{}_{}",
            self.pod_name, self.pod_namespace, self.pod_uid, self.attempt
        )
    }
}

/// Where in its life the engine says an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Made, never started; or its start failed (then [`Instance::error`] says why).
    Created,
    Running,
    Paused,
    /// Ended, or the engine is removing it.
    Exited,
}

/// The settings that are compared with what is wanted: what can be changed from outside while a
/// container lives, or by making it anew under our labels.
///
/// Written into a label, and read by every later version: a field that is new one day is an
/// `Option`, and `None` in an old label is compared with nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// As it was asked for: a reference or an id.
    pub image: String,
    /// `NAME=value`; of a wanted container only those written literally in the manifest.
    pub env: Vec<String>,
    /// Bytes, 0 is unlimited.
    pub memory: i64,
    /// Memory and swap in bytes; -1 is unlimited, 0 the engine's default.
    pub memory_swap: i64,
    /// Weight; 0 is the engine's default (1024).
    pub cpu_shares: i64,
    /// Microseconds a period of 100 ms; 0 is unlimited.
    pub cpu_quota: i64,
    /// `no`, always: restarts are ours.
    pub restart_policy: String,
    /// Everything else, see `docker_projection.rs`. `None` in labels of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Fields>,
}

/// Name and value, as text.
pub type Fields = BTreeMap<String, String>;

impl Settings {
    pub fn to_label(&self) -> String {
        serde_json::to_string(self).expect("text and numbers are JSON")
    }

    /// `None` for what another version wrote in another shape.
    pub fn of_label(label: &str) -> Option<Self> {
        serde_json::from_str(label).ok()
    }
}

/// One container of ours, as the engine tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    pub id: String,
    pub name: String,
    pub identity: Identity,
    pub life: Life,
    /// `sha256:…`
    pub image_id: String,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// The engine's sentence when a start failed; else empty.
    pub error: String,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// A running sandbox's address on our bridge.
    pub ip: Option<Ipv4Addr>,
    /// The sandbox whose network it joined, by id.
    pub joined: Option<String>,
    /// Of a sandbox that was made before its pod: the host name that it was made with. Its members
    /// get the pod's when they start (`uts.rs`).
    pub made_as: Option<String>,
    /// Which of the node's it was given, by its label.
    pub devices: Devices,
    /// It should be on a network of ours by its own request, and is on none.
    pub is_detached: bool,
    pub settings: Settings,
    /// What was asked for when it was made, by its label; a difference from `settings` comes from
    /// outside. `None`: it was made before there was such a label.
    pub asked: Option<Settings>,
}

/// A whole list of containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    pub instances: Vec<Instance>,
    /// Those that could not be looked at one by one, as far as the list alone tells of them. Their
    /// life is right; what was known of the rest before is better.
    pub vague: Vec<Instance>,
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    pub exit_code: i32,
    pub finished_at: Timestamp,
    /// Kubernetes' word: `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`.
    pub reason: &'static str,
    pub message: Option<String>,
}

impl Instance {
    pub fn is_running(&self) -> bool {
        matches!(self.life, Life::Running | Life::Paused)
    }

    /// How it ended; `None` while it runs or waits to be started. A start that failed is an end:
    /// the engine leaves such a container `created`, with an error.
    pub fn ended(&self) -> Option<Ended> {
        let (failed_start, exited) =
            (self.life == Life::Created && !self.error.is_empty(), self.life == Life::Exited);
        if !failed_start && !exited {
            return None;
        }
        let reason = if failed_start || (self.started_at.is_none() && !self.error.is_empty()) {
            "ContainerCannotRun"
        } else if self.oom_killed {
            "OOMKilled"
        } else if self.exit_code == 0 {
            "Completed"
        } else {
            "Error"
        };
        // A failed start without an exit code of its own is 128, as the container runtimes report it.
        let exit_code = if failed_start && self.exit_code == 0 { 128 } else { self.exit_code };
        Some(Ended {
            exit_code,
            finished_at: self.finished_at.unwrap_or(self.created_at),
            reason,
            message: (!self.error.is_empty()).then(|| self.error.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_identity_are_the_same_thing() {
        let identity = Identity {
            installation: "i".into(),
            pod_uid: "u".into(),
            pod_namespace: "ns".into(),
            pod_name: "web-1".into(),
            container: String::new(),
            role: Role::Sandbox,
            attempt: 3,
            spec_hash: "v1:ab".into(),
        };
        assert_eq!(Identity::of(&identity.to_labels(), "any"), Some(identity.clone()));
        assert_eq!(identity.engine_name("ballast"), "ballast_POD_web-1_ns_u_3");
        let mut foreign = identity.to_labels();
        foreign.remove(POD_UID);
        assert_eq!(Identity::of(&foreign, "any"), None);
    }

    #[test]
    fn a_spare_sandbox_is_claimed_by_its_name() {
        let spare = Identity {
            installation: "i".into(),
            pod_uid: String::new(),
            pod_namespace: String::new(),
            pod_name: String::new(),
            container: String::new(),
            role: Role::Spare,
            attempt: 0,
            spec_hash: "v1:sandbox".into(),
        };
        let wanted = Identity {
            pod_uid: "0b5e-7".into(),
            pod_namespace: "shop".into(),
            pod_name: "web-1".into(),
            role: Role::Sandbox,
            attempt: 3,
            ..spare.clone()
        };
        let labels = spare.to_labels();
        for prefix in ["ballast", "my_own"] {
            assert_eq!(Identity::of(&labels, &wanted.engine_name(prefix)), Some(wanted.clone()));
        }
        for other in
            ["ballast_SPARE_17", "", "POD_web_ns_u_0", "b_POD_web_ns_u_x", "b_web_p_ns_u_0"]
        {
            assert_eq!(Identity::of(&labels, other), Some(spare.clone()), "{other}");
        }
        // A name claims nothing that was made for a pod.
        let made = Identity { pod_uid: "own".into(), role: Role::Sandbox, ..spare.clone() };
        assert_eq!(Identity::of(&made.to_labels(), &wanted.engine_name("ballast")), Some(made));
    }

    #[test]
    fn labels_of_every_version_are_read() {
        let settings =
            Settings { image: "a:1".into(), env: vec!["A=b".into()], ..Settings::default() };
        assert_eq!(Settings::of_label(&settings.to_label()), Some(settings.clone()));
        // Written down: what this version writes, a later one must read.
        assert_eq!(
            settings.to_label(),
            r#"{"image":"a:1","env":["A=b"],"memory":0,"memory_swap":0,"cpu_shares":0,"cpu_quota":0,"restart_policy":""}"#
        );
        let later = r#"{"image":"a:1","env":[],"memory":0,"memory_swap":0,"cpu_shares":2,"cpu_quota":0,"restart_policy":"no","new":1}"#;
        assert!(Settings::of_label(later).is_some());
        assert_eq!(Settings::of_label("v9:..."), None);
    }
}
