//! Pure: what is wrong with a pod's profiles, kernel parameters and resolver settings, in the reference
//! server's words (`pkg/apis/core/validation/validation.go`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{AppArmorProfile, PodDNSConfig, PodSpec, SeccompProfile, Sysctl};

use super::admit::Faults;
use super::field_path::{FieldPath, quoted};
use crate::object::name::subdomain_faults;

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
/// `maxLocalhostProfileLength`: a path's longest, without the NUL.
const LONGEST_PROFILE: usize = 4095;
const LONGEST_SYSCTL: usize = 253;
const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCHES: usize = 2048;

/// Of the pod and of its containers.
pub fn faults(spec: &PodSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let security_path = path.child("securityContext");
    if let Some(security) = &spec.security_context {
        faults.extend(profiles(
            security.seccomp_profile.as_ref(),
            security.app_armor_profile.as_ref(),
            &security_path,
        ));
        let list = security.sysctls.as_deref().unwrap_or_default();
        faults.extend(sysctls(list, spec, &security_path.child("sysctls")));
    }
    for (field, containers) in [
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", &spec.containers[..]),
    ] {
        let list = path.child(field);
        for (index, container) in containers.iter().enumerate() {
            let Some(own) = &container.security_context else { continue };
            let at = list.index(index);
            let (seccomp, app_armor) =
                (own.seccomp_profile.as_ref(), own.app_armor_profile.as_ref());
            faults.extend(profiles(seccomp, app_armor, &at.child("securityContext")));
        }
    }
    let alone = spec.dns_policy.as_deref() == Some("None");
    faults.extend(dns(spec.dns_config.as_ref(), alone, &path.child("dnsConfig")));
    faults
}

fn profiles(
    seccomp: Option<&SeccompProfile>,
    app_armor: Option<&AppArmorProfile>,
    path: &FieldPath<'_>,
) -> Faults {
    let mut faults = Faults::new();
    if let Some(profile) = seccomp {
        let path = path.child("seccompProfile");
        let file = profile.localhost_profile.as_deref();
        faults.extend(profile_type(&profile.type_, "seccompProfile", &path));
        faults.extend(profile_name(&profile.type_, file, "seccomp", &path));
        if let (Some(file), true) = (file, profile.type_ == "Localhost") {
            let path = path.child("localhostProfile");
            if file.starts_with('/') {
                faults.push(path.invalid(quoted(file), "must be a relative path"));
            }
            if file.split('/').any(|part| part == "..") {
                faults.push(path.invalid(quoted(file), "must not contain '..'"));
            }
        }
    }
    if let Some(profile) = app_armor {
        let path = path.child("appArmorProfile");
        let name = profile.localhost_profile.as_deref();
        faults.extend(profile_type(&profile.type_, "appArmorProfile", &path));
        faults.extend(profile_name(&profile.type_, name, "AppArmor", &path));
        if let (Some(name), true) = (name, profile.type_ == "Localhost") {
            let path = path.child("localhostProfile");
            if name.trim() != name {
                faults.push(path.invalid(quoted(name), "must not be padded with whitespace"));
            } else if name.is_empty() {
                faults.push(path.required("must be set when AppArmor type is Localhost"));
            }
            if name.len() > LONGEST_PROFILE {
                faults.push(path.too_long(LONGEST_PROFILE));
            }
        }
    }
    faults
}

fn profile_type(kind: &str, field: &str, path: &FieldPath<'_>) -> Faults {
    let path = path.child("type");
    if kind.is_empty() {
        vec![path.required(format!("type is required when {field} is set"))]
    } else if PROFILES.contains(&kind) {
        Faults::new()
    } else {
        vec![path.not_supported(kind, &PROFILES)]
    }
}

fn profile_name(kind: &str, name: Option<&str>, what: &str, path: &FieldPath<'_>) -> Faults {
    let path = path.child("localhostProfile");
    match (kind, name) {
        ("Localhost", None) => {
            vec![path.required(format!("must be set when {what} type is Localhost"))]
        }
        ("Localhost", Some(_)) | (_, None) => Faults::new(),
        (_, Some(name)) => {
            let detail = format!("can only be set when {what} type is Localhost");
            vec![path.invalid(quoted(name), detail)]
        }
    }
}

fn sysctls(list: &[Sysctl], spec: &PodSpec, path: &FieldPath<'_>) -> Faults {
    let (mut faults, mut names) = (Faults::new(), BTreeSet::new());
    for (index, sysctl) in list.iter().enumerate() {
        let at = path.index(index);
        let at = at.child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            faults.push(at.required(""));
        } else if name.len() > LONGEST_SYSCTL || !is_sysctl(name) {
            let detail =
                format!("must have at most {LONGEST_SYSCTL} characters and match regex {SYSCTL}");
            faults.push(at.invalid(quoted(name), detail));
        } else if !names.insert(name) {
            faults.push(at.duplicate(quoted(name)));
        }
        let dotted = name.replace('/', ".");
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            let detail = "may not be specified when 'hostNetwork' is true";
            faults.push(at.invalid(quoted(name), detail));
        } else if spec.host_ipc == Some(true) && is_of_ipc(&dotted) {
            let detail = "may not be specified when 'hostIPC' is true";
            faults.push(at.invalid(quoted(name), detail));
        }
    }
    faults
}

/// What the kernel keeps for each IPC namespace (`component-helpers/node/util/sysctl`).
fn is_of_ipc(name: &str) -> bool {
    name == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|begin| name.starts_with(begin))
}

fn is_sysctl(name: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.split(['.', '/']).all(|part| {
        part.starts_with(word)
            && part.ends_with(word)
            && part.chars().all(|c| word(c) || c == '-' || c == '_')
    })
}

fn dns(config: Option<&PodDNSConfig>, alone: bool, path: &FieldPath<'_>) -> Faults {
    let servers_path = path.child("nameservers");
    let Some(config) = config else {
        let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
        return if alone { vec![path.required(detail)] } else { Faults::new() };
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if alone && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        return vec![servers_path.required(detail)];
    }
    let shown = |list: &[String]| serde_json::to_string(list).unwrap_or_default();
    let mut faults = Faults::new();
    if servers.len() > MOST_SERVERS {
        let detail = format!("must not have more than {MOST_SERVERS} nameservers");
        faults.push(servers_path.invalid(shown(servers), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        if server.parse::<IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            faults.push(servers_path.index(index).invalid(quoted(server), detail));
        }
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let searches_path = path.child("searches");
    if searches.len() > MOST_SEARCHES {
        let detail = format!("must not have more than {MOST_SEARCHES} search paths");
        faults.push(searches_path.invalid(shown(searches), detail));
    }
    if searches.join(" ").len() > LONGEST_SEARCHES {
        let detail = format!(
            "must not have more than {LONGEST_SEARCHES} characters (including spaces) in the search list"
        );
        faults.push(searches_path.invalid(shown(searches), detail));
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        // An underscore may stand where a letter may (`_sip._tcp`).
        let wrong = subdomain_faults(&name.replace('_', "x"));
        faults.extend(searches_path.index(index).each_invalid(name, wrong));
    }
    let options = path.child("options");
    for (index, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            faults.push(options.index(index).required("must not be empty"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(spec: Value) -> Vec<String> {
        let mut whole = json!({"containers": []});
        json_patch::merge(&mut whole, &spec);
        let spec: PodSpec = serde_json::from_value(whole).expect("a spec");
        let all = faults(&spec, &FieldPath::root("spec"));
        let message = |fault: &super::super::Fault| fault.to_cause().message.unwrap_or_default();
        all.iter().map(|fault| format!("{}: {}", fault.field, message(fault))).collect()
    }

    #[test]
    fn profiles_are_named_when_and_only_when_they_are_files() {
        let own = |own: Value| json!({"containers": [{"name": "c", "securityContext": own}]});
        let seccomp = |profile: Value| told(own(json!({"seccompProfile": profile})));
        let at = "spec.containers[0].securityContext.seccompProfile";
        assert_eq!(seccomp(json!({"type": "Localhost", "localhostProfile": "a/b.json"})), [""; 0]);
        assert_eq!(
            seccomp(json!({"type": "Localhost"})),
            [format!(
                "{at}.localhostProfile: Required value: must be set when seccomp type is Localhost"
            )]
        );
        assert_eq!(
            seccomp(json!({"type": "Localhost", "localhostProfile": "/a/../b"})),
            [
                format!(
                    "{at}.localhostProfile: Invalid value: \"/a/../b\": must be a relative path"
                ),
                format!("{at}.localhostProfile: Invalid value: \"/a/../b\": must not contain '..'"),
            ]
        );
        assert_eq!(
            seccomp(json!({"type": "RuntimeDefault", "localhostProfile": "a"})),
            [format!(
                "{at}.localhostProfile: Invalid value: \"a\": can only be set when seccomp type is Localhost"
            )]
        );
        assert_eq!(
            seccomp(json!({"type": "Mine"})),
            [format!(
                "{at}.type: Unsupported value: \"Mine\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\""
            )]
        );
        let armor = |profile: Value| told(json!({"securityContext": {"appArmorProfile": profile}}));
        let at = "spec.securityContext.appArmorProfile";
        assert_eq!(armor(json!({"type": "Localhost", "localhostProfile": "x"})), [""; 0]);
        assert_eq!(
            armor(json!({"type": "Localhost", "localhostProfile": " x"})),
            [format!(
                "{at}.localhostProfile: Invalid value: \" x\": must not be padded with whitespace"
            )]
        );
        assert_eq!(
            armor(json!({"type": ""})),
            [format!("{at}.type: Required value: type is required when appArmorProfile is set")]
        );
    }

    #[test]
    fn kernel_parameters_are_named_once_and_are_the_pods_own() {
        let sysctls = |names: &[&str], more: Value| {
            let list: Vec<Value> =
                names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
            let mut spec = json!({"securityContext": {"sysctls": list}});
            json_patch::merge(&mut spec, &more);
            told(spec)
        };
        let good = ["net.ipv4.tcp_syncookies", "kernel.shm_rmid_forced", "net/ipv4/conf.eth0.x"];
        assert_eq!(sysctls(&good, json!({})), [""; 0]);
        let at = |index: usize| format!("spec.securityContext.sysctls[{index}].name");
        let found = sysctls(&["", "A.b", "a..b", "x", "x"], json!({}));
        assert_eq!(found[0], format!("{}: Required value", at(0)));
        assert!(
            found[1]
                .starts_with(&format!("{}: Invalid value: \"A.b\": must have at most 253", at(1)))
        );
        assert!(found[2].starts_with(&at(2)), "{found:?}");
        assert_eq!(found[3], format!("{}: Duplicate value: \"x\"", at(4)));
        assert_eq!(
            sysctls(&["net.ipv4.x"], json!({"hostNetwork": true})),
            [format!(
                "{}: Invalid value: \"net.ipv4.x\": may not be specified when 'hostNetwork' is true",
                at(0)
            )]
        );
        assert_eq!(sysctls(&["kernel.shm_rmid_forced"], json!({"hostIPC": true})).len(), 1);
        assert_eq!(sysctls(&["kernel.shm_rmid_forced"], json!({"hostNetwork": true})), [""; 0]);
    }

    #[test]
    fn a_resolver_has_servers_that_are_addresses() {
        let dns =
            |policy: &str, config: Value| told(json!({"dnsPolicy": policy, "dnsConfig": config}));
        let fine = json!({"nameservers": ["192.0.2.1", "2001:db8::1"], "searches": ["a.example.", ".", "_tcp.b"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        assert_eq!(dns("None", fine.clone()), [""; 0]);
        assert_eq!(dns("Default", fine), [""; 0]);
        assert_eq!(
            told(json!({"dnsPolicy": "None"})),
            ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]
        );
        assert_eq!(
            dns("None", json!({"searches": ["a"]})),
            [
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"
            ]
        );
        let bad = json!({"nameservers": ["a", "1.1.1.1", "1.1.1.2", "1.1.1.3"], "searches": ["A b"], "options": [{"value": "x"}]});
        let found = dns("Default", bad);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].contains("must not have more than 3 nameservers"));
        assert_eq!(found[3], "spec.dnsConfig.options[0]: Required value: must not be empty");
        let many: Vec<String> =
            (0..33).map(|number| format!("{number}.{}", "a".repeat(62))).collect();
        let found = dns("Default", json!({"searches": many}));
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
