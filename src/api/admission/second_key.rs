//! Pure: what a pod asks of its host that the daemon's operator has not allowed its namespace. The
//! policy of the namespace itself, the first key, is `pod_security`'s: whoever may commit has that one.
//!
//! Everything that the level `baseline` forbids because it opens the host has a second key, also what
//! amounts to a privileged container by another name (a capability, no profile, an open /proc).

use k8s_openapi::api::core::v1::PersistentVolume;

use super::pod_security::Subject;
use super::pod_security_baseline::{SAFE_SYSCTLS, is_baseline_capability, is_profile_of_engine};
use crate::object::privilege::Privileges;

/// One thing that the daemon does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// `spec.volumes[0].hostPath.path`
    pub field: String,
    /// `the host path /srv`
    pub what: String,
    /// What the operator would add: `--allow-host-path shop:/srv`; `None`: nobody ever may.
    pub flag: Option<String>,
}

/// Everything that is missing, a thing and place once.
pub fn missing(privileges: &Privileges, namespace: &str, subject: &Subject<'_>) -> Vec<Missing> {
    let mut all = of_pod(privileges, namespace, subject);
    all.extend(of_containers(privileges, namespace, subject));
    all
}

/// By what is shared, by the volumes and by the pod's own security context.
fn of_pod(privileges: &Privileges, namespace: &str, subject: &Subject<'_>) -> Vec<Missing> {
    let mut all = Vec::new();
    let spec = subject.spec;
    for (field, what, asked) in [
        ("hostNetwork", "the host's network", spec.host_network),
        ("hostPID", "the host's processes", spec.host_pid),
        ("hostIPC", "the host's memory segments", spec.host_ipc),
    ] {
        if asked == Some(true) && !privileges.host_namespaces(namespace) {
            let flag = Some(format!("--allow-host-namespaces {namespace}"));
            all.push(Missing { field: subject.field(field), what: what.to_owned(), flag });
        }
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let Some(source) = &volume.host_path else { continue };
        let field = || subject.field(&format!("volumes[{index}].hostPath.path"));
        all.extend(host_path(privileges, namespace, &source.path, field));
    }
    let security = spec.security_context.as_ref();
    let sysctls = security.and_then(|security| security.sysctls.as_ref());
    for (index, sysctl) in sysctls.into_iter().flatten().enumerate() {
        let name = sysctl.name.replace('/', ".");
        let is_safe = SAFE_SYSCTLS.iter().any(|(_, safe)| *safe == name);
        if !is_safe && !privileges.sysctl(namespace, &name) {
            all.push(Missing {
                field: subject.field(&format!("securityContext.sysctls[{index}].name")),
                what: format!("the unsafe sysctl {name}"),
                flag: Some(format!("--allow-sysctl {namespace}:{name}")),
            });
        }
    }
    let seccomp = security.and_then(|own| own.seccomp_profile.as_ref());
    let app_armor = security.and_then(|own| own.app_armor_profile.as_ref());
    let profiles = [
        ("seccompProfile", seccomp.map(|profile| &profile.type_)),
        ("appArmorProfile", app_armor.map(|profile| &profile.type_)),
    ];
    for (field, kind) in profiles {
        let field = || subject.field(&format!("securityContext.{field}.type"));
        all.extend(profile(privileges, namespace, kind, field));
    }
    all
}

fn host_path(
    privileges: &Privileges,
    namespace: &str,
    path: &str,
    field: impl Fn() -> String,
) -> Option<Missing> {
    if let Some(why) = privileges.own_path(path) {
        let what = format!("the host path {path} ({why})");
        return Some(Missing { field: field(), what, flag: None });
    }
    (!privileges.host_path(namespace, path)).then(|| Missing {
        field: field(),
        what: format!("the host path {path}"),
        flag: Some(format!("--allow-host-path {namespace}:{path}")),
    })
}

/// What a volume gives to the namespace whose claim has it. A Docker volume that somebody made may be
/// any folder of the host (driver option `device`), so only a privileged container has as much.
pub fn missing_of_volume(
    privileges: &Privileges,
    namespace: &str,
    volume: &PersistentVolume,
) -> Option<Missing> {
    let spec = volume.spec.as_ref()?;
    if let Some(source) = &spec.host_path {
        let field = || "spec.hostPath.path".to_owned();
        return host_path(privileges, namespace, &source.path, field);
    }
    if let Some(source) = &spec.local {
        return host_path(privileges, namespace, &source.path, || "spec.local.path".to_owned());
    }
    let handle = &spec.csi.as_ref()?.volume_handle;
    (!privileges.privileged(namespace)).then(|| Missing {
        field: "spec.csi.volumeHandle".to_owned(),
        what: format!("the host's Docker volume {handle}"),
        flag: Some(format!("--allow-privileged {namespace}")),
    })
}

fn profile(
    privileges: &Privileges,
    namespace: &str,
    kind: Option<&String>,
    field: impl Fn() -> String,
) -> Option<Missing> {
    let kind = kind.filter(|kind| !is_profile_of_engine(kind))?;
    (!privileges.privileged(namespace)).then(|| Missing {
        field: field(),
        what: format!("a container without a profile ({kind})"),
        flag: Some(format!("--allow-privileged {namespace}")),
    })
}

fn of_containers(privileges: &Privileges, namespace: &str, subject: &Subject<'_>) -> Vec<Missing> {
    let mut all = Vec::new();
    // A pod on the host's network opens what it likes there: that is a key of its own.
    let on_host = subject.spec.host_network == Some(true);
    for member in subject.members() {
        for (index, port) in member.ports.iter().enumerate() {
            let Some(number) = port.host_port.filter(|port| *port != 0 && !on_host) else {
                continue;
            };
            let is_allowed =
                u16::try_from(number).is_ok_and(|number| privileges.host_port(namespace, number));
            if !is_allowed {
                all.push(Missing {
                    field: member.field(subject, &format!("ports[{index}].hostPort")),
                    what: format!("the host port {number}"),
                    flag: Some(format!("--allow-host-ports {namespace}:{number}")),
                });
            }
        }
        let Some(own) = member.security else { continue };
        let field = |below: &str| member.field(subject, &format!("securityContext.{below}"));
        let by_privilege = |below: &str, what: &str| {
            (!privileges.privileged(namespace)).then(|| Missing {
                field: field(below),
                what: what.to_owned(),
                flag: Some(format!("--allow-privileged {namespace}")),
            })
        };
        if own.privileged == Some(true) {
            all.extend(by_privilege("privileged", "a privileged container"));
        }
        if own.proc_mount.as_deref().is_some_and(|kind| kind != "Default") {
            all.extend(by_privilege("procMount", "an unmasked /proc"));
        }
        let seccomp = own.seccomp_profile.as_ref().map(|profile| &profile.type_);
        let app_armor = own.app_armor_profile.as_ref().map(|profile| &profile.type_);
        for (below, kind) in [("seccompProfile.type", seccomp), ("appArmorProfile.type", app_armor)]
        {
            all.extend(profile(privileges, namespace, kind, || field(below)));
        }
        let added = own.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
        for (index, name) in added.into_iter().flatten().enumerate() {
            let name = name.strip_prefix("CAP_").unwrap_or(name);
            // The engine gives NET_RAW to every container.
            let is_given = is_baseline_capability(name) || name == "NET_RAW";
            if !is_given && !privileges.capability(namespace, name) {
                let flag = match name {
                    "ALL" => format!("--allow-privileged {namespace}"),
                    name => format!("--allow-capability {namespace}:{name}"),
                };
                all.push(Missing {
                    field: field(&format!("capabilities.add[{index}]")),
                    what: format!("the capability {name}"),
                    flag: Some(flag),
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use serde_json::{Value, json};

    use super::*;
    use crate::object::privilege::{Flags, WrittenAll};

    fn told(privileges: &Privileges, spec: Value) -> Vec<String> {
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let subject = Subject { meta: None, spec: &spec, at: "spec" };
        let all = missing(privileges, "shop", &subject);
        let flag = |missing: &Missing| missing.flag.clone().unwrap_or_default();
        all.iter().map(|one| format!("{}: {} [{}]", one.field, one.what, flag(one))).collect()
    }

    fn allowing(change: impl FnOnce(&mut Flags)) -> Privileges {
        let (mut flags, mut written) = (Flags::default(), WrittenAll::new());
        change(&mut flags);
        flags.add_to(&mut written, &mut Vec::new());
        let own = vec!["/var/lib/ballast".to_owned()];
        Privileges::read(written, own, &mut Vec::new())
    }

    /// Everything that has a second key, each with what it takes.
    fn greedy() -> Value {
        json!({
            "hostNetwork": false, "hostPID": true, "hostIPC": true,
            "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"},
                {"name": "kernel/shm_rmid_forced", "value": "1"}],
                "appArmorProfile": {"type": "Unconfined"}},
            "volumes": [{"name": "v", "hostPath": {"path": "/srv/x"}}, {"name": "e", "emptyDir": {}}],
            "containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}, {"containerPort": 2}],
                "securityContext": {"privileged": true, "procMount": "Unmasked",
                    "seccompProfile": {"type": "Unconfined"},
                    "capabilities": {"add": ["CHOWN", "NET_RAW", "CAP_NET_ADMIN", "ALL"]}}}],
        })
    }

    #[test]
    fn everything_of_the_host_needs_a_word_of_its_operator() {
        assert_eq!(
            told(&Privileges::default(), greedy()),
            [
                "spec.hostPID: the host's processes [--allow-host-namespaces shop]",
                "spec.hostIPC: the host's memory segments [--allow-host-namespaces shop]",
                "spec.volumes[0].hostPath.path: the host path /srv/x [--allow-host-path shop:/srv/x]",
                "spec.securityContext.sysctls[0].name: the unsafe sysctl net.core.somaxconn [--allow-sysctl shop:net.core.somaxconn]",
                "spec.securityContext.appArmorProfile.type: a container without a profile (Unconfined) [--allow-privileged shop]",
                "spec.containers[0].ports[0].hostPort: the host port 80 [--allow-host-ports shop:80]",
                "spec.containers[0].securityContext.privileged: a privileged container [--allow-privileged shop]",
                "spec.containers[0].securityContext.procMount: an unmasked /proc [--allow-privileged shop]",
                "spec.containers[0].securityContext.seccompProfile.type: a container without a profile (Unconfined) [--allow-privileged shop]",
                "spec.containers[0].securityContext.capabilities.add[2]: the capability NET_ADMIN [--allow-capability shop:NET_ADMIN]",
                "spec.containers[0].securityContext.capabilities.add[3]: the capability ALL [--allow-privileged shop]",
            ]
        );
        // What each refusal says would help does help.
        let all = allowing(|flags| {
            flags.host_namespaces = vec!["shop".into()];
            flags.host_paths = vec!["shop:/srv/x".into()];
            flags.sysctls = vec!["shop:net.core.somaxconn".into()];
            flags.privileged = vec!["shop".into()];
            flags.host_ports = vec!["shop:80".into()];
        });
        assert_eq!(told(&all, greedy()), Vec::<String>::new());
    }

    #[test]
    fn a_pod_on_the_hosts_network_opens_ports_by_that_key() {
        let spec = json!({"hostNetwork": true, "containers": [{"name": "c",
            "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let missing = told(&Privileges::default(), spec.clone());
        assert_eq!(
            missing,
            ["spec.hostNetwork: the host's network [--allow-host-namespaces shop]"]
        );
        let allowed = allowing(|flags| flags.host_namespaces = vec!["*".into()]);
        assert!(told(&allowed, spec).is_empty());
    }

    #[test]
    fn the_daemons_own_is_for_nobody() {
        let allowed = allowing(|flags| flags.host_paths = vec!["shop:/srv".into()]);
        for path in ["/var/lib/ballast/pods", "/var/lib/../lib/ballast"] {
            let spec =
                json!({"containers": [], "volumes": [{"name": "v", "hostPath": {"path": path}}]});
            assert_eq!(
                told(&allowed, spec),
                [format!(
                    "spec.volumes[0].hostPath.path: the host path {path} ({path} is, is in or holds Ballast's own /var/lib/ballast) []"
                )]
            );
        }
    }
}
