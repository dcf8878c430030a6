//! Pure: the checks of the level `baseline`: what is known to give a pod more of its host than a
//! container has. Each is named after Kubernetes' own, in the revisions that its versions had.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{LifecycleHandler, SELinuxOptions};

use super::pod_security::{Setters, Subject, Violation, listed, plural};

const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// What may be added: the defaults of container engines, without NET_RAW.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Safe kernel parameters, with the minor version that took each in.
pub const SAFE_SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

pub fn is_baseline_capability(name: &str) -> bool {
    CAPABILITIES.contains(&name)
}

pub fn is_profile_of_engine(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

pub fn app_armor(subject: &Subject<'_>) -> Option<Violation> {
    const FIELD: &str = "securityContext.appArmorProfile";
    let (mut found, mut values) = (Setters::default(), BTreeSet::new());
    let of_pod = subject.spec.security_context.as_ref();
    if let Some(profile) = of_pod.and_then(|security| security.app_armor_profile.as_ref())
        && !is_profile_of_engine(&profile.type_)
    {
        found.of_pod(subject, FIELD);
        values.insert(profile.type_.clone());
    }
    for member in subject.members() {
        if let Some(profile) = member.security.and_then(|own| own.app_armor_profile.as_ref())
            && !is_profile_of_engine(&profile.type_)
        {
            found.of_container(subject, &member, FIELD);
            values.insert(profile.type_.clone());
        }
    }
    let mut values: Vec<String> = values.into_iter().collect();
    let bad = |value: &str| {
        !value.is_empty() && value != "runtime/default" && !value.starts_with("localhost/")
    };
    let annotations: Vec<(&String, String)> = (subject.annotations())
        .filter(|(key, value)| key.starts_with(APPARMOR) && bad(value))
        .map(|(key, value)| (key, format!("{key}={value:?}")))
        .collect();
    let mut setters: Vec<String> = Vec::new();
    if !found.is_empty() {
        setters.push(found.all());
    }
    if let Some((key, _)) = annotations.first() {
        setters.push(plural("annotation", "annotations", annotations.len()).to_owned());
        let field = || subject.metadata_field(&format!("annotations[{key}]"));
        found.field.get_or_insert_with(field);
        values.extend(annotations.iter().map(|(_, text)| text.clone()));
    }
    if setters.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    Some(Violation {
        reason: reason.to_owned(),
        detail: format!(
            "{} must not set AppArmor profile type to {}",
            setters.join(" and "),
            listed(values.iter().map(String::as_str))
        ),
        field: found.field.unwrap_or_default(),
    })
}

pub fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let (mut found, mut names) = (Setters::default(), BTreeSet::new());
    for member in subject.members() {
        let capabilities = member.security.and_then(|own| own.capabilities.as_ref());
        let added = capabilities.and_then(|capabilities| capabilities.add.as_ref());
        let bad: Vec<(usize, &String)> = (added.into_iter().flatten().enumerate())
            .filter(|(_, name)| !is_baseline_capability(name))
            .collect();
        if let Some((index, _)) = bad.first() {
            let below = format!("securityContext.capabilities.add[{index}]");
            found.of_container(subject, &member, &below);
            names.extend(bad.iter().map(|(_, name)| name.as_str()));
        }
    }
    found.violation("non-default capabilities", |found| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            found.containers(),
            listed(names)
        )
    })
}

pub fn host_namespaces(subject: &Subject<'_>) -> Option<Violation> {
    let asked = [
        ("hostNetwork", subject.spec.host_network),
        ("hostPID", subject.spec.host_pid),
        ("hostIPC", subject.spec.host_ipc),
    ];
    let asked: Vec<&str> =
        asked.into_iter().filter(|(_, on)| *on == Some(true)).map(|(field, _)| field).collect();
    let first = asked.first()?;
    let told: Vec<String> = asked.iter().map(|field| format!("{field}=true")).collect();
    Some(Violation {
        reason: "host namespaces".to_owned(),
        detail: told.join(", "),
        field: subject.field(first),
    })
}

pub fn host_paths(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = subject.spec.volumes.iter().flatten().enumerate();
    let bad: Vec<(usize, &str)> = volumes
        .filter(|(_, volume)| volume.host_path.is_some())
        .map(|(index, volume)| (index, volume.name.as_str()))
        .collect();
    let (index, _) = bad.first()?;
    let word = plural("volume", "volumes", bad.len());
    Some(Violation {
        reason: "hostPath volumes".to_owned(),
        detail: format!("{word} {}", listed(bad.iter().map(|(_, name)| *name))),
        field: subject.field(&format!("volumes[{index}].hostPath")),
    })
}

pub fn host_ports(subject: &Subject<'_>) -> Option<Violation> {
    let (mut found, mut ports) = (Setters::default(), BTreeSet::new());
    for member in subject.members() {
        let published = member.ports.iter().enumerate();
        let bad: Vec<(usize, i32)> = published
            .filter_map(|(index, port)| Some((index, port.host_port.filter(|port| *port != 0)?)))
            .collect();
        if let Some((index, _)) = bad.first() {
            found.of_container(subject, &member, &format!("ports[{index}].hostPort"));
            // Sorted as text, as the library does it.
            ports.extend(bad.iter().map(|(_, port)| port.to_string()));
        }
    }
    found.violation("hostPort", |found| {
        format!(
            "{} {} {} {}",
            found.containers(),
            plural("uses", "use", found.containers.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.into_iter().collect::<Vec<_>>().join(", ")
        )
    })
}

/// A probe is made by the node: with a host of its own it reaches what the pod cannot.
pub fn probe_hosts(subject: &Subject<'_>) -> Option<Violation> {
    let (mut field, mut containers) = (None, BTreeSet::new());
    let mut hosts: BTreeSet<&str> = BTreeSet::new();
    fn set(host: Option<&String>) -> Option<&str> {
        host.map(String::as_str).filter(|host| !host.is_empty())
    }
    fn of_hook(hook: Option<&LifecycleHandler>) -> [(&'static str, Option<&str>); 2] {
        let http = hook.and_then(|hook| hook.http_get.as_ref()).and_then(|to| to.host.as_ref());
        let tcp = hook.and_then(|hook| hook.tcp_socket.as_ref()).and_then(|to| to.host.as_ref());
        [("httpGet.host", set(http)), ("tcpSocket.host", set(tcp))]
    }
    for member in subject.members() {
        let mut asked: Vec<(String, Option<&str>)> = Vec::new();
        for (name, probe) in member.probes {
            let http = probe.and_then(|probe| probe.http_get.as_ref()?.host.as_ref());
            let tcp = probe.and_then(|probe| probe.tcp_socket.as_ref()?.host.as_ref());
            asked.push((format!("{name}.httpGet.host"), set(http)));
            asked.push((format!("{name}.tcpSocket.host"), set(tcp)));
        }
        let lifecycle = member.lifecycle;
        for (name, hook) in [
            ("postStart", lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref())),
            ("preStop", lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref())),
        ] {
            let of_hook = of_hook(hook).into_iter();
            asked.extend(of_hook.map(|(to, host)| (format!("lifecycle.{name}.{to}"), host)));
        }
        for (below, host) in asked {
            let Some(host) = host else { continue };
            containers.insert(member.name);
            hosts.insert(host);
            field.get_or_insert_with(|| member.field(subject, &below));
        }
    }
    let field = field?;
    let found =
        Setters { pod: false, containers: containers.into_iter().collect(), field: Some(field) };
    found.violation("probe or lifecycle host", |found| {
        format!(
            "{} {} {} {}",
            found.containers(),
            plural("uses", "use", found.containers.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            listed(hosts)
        )
    })
}

pub fn privileged(subject: &Subject<'_>) -> Option<Violation> {
    let mut found = Setters::default();
    for member in subject.members() {
        if member.security.is_some_and(|own| own.privileged == Some(true)) {
            found.of_container(subject, &member, "securityContext.privileged");
        }
    }
    found.violation("privileged", |found| {
        format!("{} must not set securityContext.privileged=true", found.containers())
    })
}

pub fn proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    let (mut found, mut kinds) = (Setters::default(), BTreeSet::new());
    for member in subject.members() {
        let kind = member.security.and_then(|own| own.proc_mount.as_deref());
        if let Some(kind) = kind.filter(|kind| *kind != "Default") {
            found.of_container(subject, &member, "securityContext.procMount");
            kinds.insert(kind);
        }
    }
    found.violation("procMount", |found| {
        format!(
            "{} must not set securityContext.procMount to {}",
            found.containers(),
            listed(kinds)
        )
    })
}

/// Whether the pod has a user namespace of its own: root in it is nobody outside.
pub fn has_own_users(subject: &Subject<'_>) -> bool {
    subject.spec.host_users == Some(false)
}

pub fn proc_mount_35(subject: &Subject<'_>) -> Option<Violation> {
    if has_own_users(subject) { None } else { proc_mount(subject) }
}

pub fn se_linux(subject: &Subject<'_>) -> Option<Violation> {
    se_linux_types(subject, &["", "container_t", "container_init_t", "container_kvm_t"])
}

pub fn se_linux_31(subject: &Subject<'_>) -> Option<Violation> {
    let types = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    se_linux_types(subject, &types)
}

fn se_linux_types(subject: &Subject<'_>, allowed: &[&str]) -> Option<Violation> {
    const FIELD: &str = "securityContext.seLinuxOptions";
    let mut found = Setters::default();
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: &SELinuxOptions| {
        let is_set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let kind = options.type_.clone().unwrap_or_default();
        let bad_type = !allowed.contains(&kind.as_str());
        if bad_type {
            types.insert(kind);
        }
        let (bad_user, bad_role) = (is_set(&options.user), is_set(&options.role));
        user |= bad_user;
        role |= bad_role;
        bad_type || bad_user || bad_role
    };
    let of_pod = subject.spec.security_context.as_ref();
    if of_pod.and_then(|security| security.se_linux_options.as_ref()).is_some_and(&mut is_bad) {
        found.of_pod(subject, FIELD);
    }
    for member in subject.members() {
        if member.security.and_then(|own| own.se_linux_options.as_ref()).is_some_and(&mut is_bad) {
            found.of_container(subject, &member, FIELD);
        }
    }
    let mut told = Vec::new();
    if !types.is_empty() {
        let word = plural("type", "types", types.len());
        told.push(format!("{word} {}", listed(types.iter().map(String::as_str))));
    }
    told.extend(user.then(|| "user may not be set".to_owned()));
    told.extend(role.then(|| "role may not be set".to_owned()));
    found.violation("seLinuxOptions", |found| {
        let told = told.join("; ");
        format!("{} set forbidden securityContext.seLinuxOptions: {told}", found.all())
    })
}

/// Before 1.19 the profile was an annotation.
pub fn seccomp_annotations(subject: &Subject<'_>) -> Option<Violation> {
    let of_members =
        subject.members().map(|member| format!("{SECCOMP_OF_CONTAINER}{}", member.name));
    let mut bad = BTreeSet::new();
    for key in std::iter::once(SECCOMP_OF_POD.to_owned()).chain(of_members) {
        let value = subject.annotations().find(|(name, _)| **name == key);
        let is_fine = |value: &str| {
            matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
        };
        if let Some(value) = value.map(|(_, value)| value).filter(|value| !is_fine(value)) {
            bad.insert((format!("{key}={value:?}"), key));
        }
    }
    let (_, key) = bad.first()?;
    let field = subject.metadata_field(&format!("annotations[{key}]"));
    let told: Vec<&str> = bad.iter().map(|(text, _)| text.as_str()).collect();
    let word = plural("annotation", "annotations", told.len());
    let detail = format!("forbidden {word} {}", told.join(", "));
    Some(Violation { reason: "seccompProfile".to_owned(), detail, field })
}

/// Who names a profile that is none of the engine's or the operator's, and which.
pub fn bad_seccomp<'a>(subject: &Subject<'a>) -> (Setters<'a>, BTreeSet<&'a str>) {
    const FIELD: &str = "securityContext.seccompProfile";
    let (mut found, mut values) = (Setters::default(), BTreeSet::new());
    let of_pod = subject.spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|security| security.seccomp_profile.as_ref());
    if let Some(profile) = of_pod.filter(|profile| !is_profile_of_engine(&profile.type_)) {
        found.of_pod(subject, FIELD);
        values.insert(profile.type_.as_str());
    }
    for member in subject.members() {
        let profile = member.security.and_then(|own| own.seccomp_profile.as_ref());
        if let Some(profile) = profile.filter(|profile| !is_profile_of_engine(&profile.type_)) {
            found.of_container(subject, &member, FIELD);
            values.insert(profile.type_.as_str());
        }
    }
    (found, values)
}

pub fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    let (found, values) = bad_seccomp(subject);
    found.violation("seccompProfile", |found| {
        let values = listed(values);
        format!("{} must not set securityContext.seccompProfile.type to {values}", found.all())
    })
}

pub fn sysctls(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_since(subject, 0)
}

pub fn sysctls_27(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_since(subject, 27)
}

pub fn sysctls_29(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_since(subject, 29)
}

pub fn sysctls_32(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_since(subject, 32)
}

fn sysctls_since(subject: &Subject<'_>, minor: u32) -> Option<Violation> {
    let of_pod = subject.spec.security_context.as_ref()?;
    let is_safe =
        |name: &str| SAFE_SYSCTLS.iter().any(|(from, safe)| *from <= minor && *safe == name);
    let bad: Vec<(usize, &str)> = (of_pod.sysctls.iter().flatten().enumerate())
        .map(|(index, sysctl)| (index, sysctl.name.as_str()))
        .filter(|(_, name)| !is_safe(name))
        .collect();
    let (index, _) = bad.first()?;
    Some(Violation {
        reason: "forbidden sysctls".to_owned(),
        detail: bad.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", "),
        field: subject.field(&format!("securityContext.sysctls[{index}]")),
    })
}

pub fn windows_host_process(subject: &Subject<'_>) -> Option<Violation> {
    const FIELD: &str = "securityContext.windowsOptions.hostProcess";
    let mut found = Setters::default();
    for member in subject.members() {
        let options = member.security.and_then(|own| own.windows_options.as_ref());
        if options.is_some_and(|options| options.host_process == Some(true)) {
            found.of_container(subject, &member, FIELD);
        }
    }
    let of_pod = subject.spec.security_context.as_ref();
    let options = of_pod.and_then(|security| security.windows_options.as_ref());
    if options.is_some_and(|options| options.host_process == Some(true)) {
        found.of_pod(subject, FIELD);
    }
    found.violation("hostProcess", |found| {
        format!("{} must not set securityContext.windowsOptions.hostProcess=true", found.all())
    })
}
