//! Pure: the Pod Security Standards: which of them a namespace's labels ask for, and what a pod or a
//! template does against one. As Kubernetes' pod-security-admission library decides and words it
//! (v1.36), with one default of our own: a namespace without labels enforces `baseline`, where
//! Kubernetes' default enforces nothing.
//!
//! The single checks are in `pod_security_baseline` and `pod_security_restricted`. What they are to
//! the host is not theirs: a pod that the policy lets through may still need the daemon's own key
//! (`second_key`).

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EphemeralContainer, Lifecycle, PodSpec, Probe, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::admit::Faults;
use super::field_path::{FieldPath, quoted};
use super::{pod_security_baseline as baseline, pod_security_restricted as restricted};

const LABELS: &str = "pod-security.kubernetes.io/";
/// The label that decides what is refused.
pub const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// The newest minor version whose checks stand here; a newer one asks for the same.
const NEWEST: u32 = 36;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level as a version of Kubernetes understood it; `None` is the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub minor: Option<u32>,
}

impl LevelVersion {
    const fn latest(level: Level) -> Self {
        Self { level, minor: None }
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(minor) => write!(out, "{level}:v1.{minor}"),
            None => write!(out, "{level}:latest"),
        }
    }
}

/// What a namespace asks of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What violates it is refused.
    pub enforce: LevelVersion,
    /// What violates it is logged.
    pub audit: LevelVersion,
    /// What violates it is told to the writer.
    pub warn: LevelVersion,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enforce: LevelVersion::latest(Level::Baseline),
            audit: LevelVersion::latest(Level::Privileged),
            warn: LevelVersion::latest(Level::Privileged),
        }
    }
}

fn level(text: &str) -> Option<Level> {
    Some(match text {
        "privileged" => Level::Privileged,
        "baseline" => Level::Baseline,
        "restricted" => Level::Restricted,
        _ => return None,
    })
}

/// `latest` or `v1.x`, without leading zeros.
fn minor(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let number: u32 = text.strip_prefix("v1.")?.parse().ok()?;
    (text == format!("v1.{number}")).then_some(Some(number))
}

/// The policy that a namespace's labels ask for, and what is wrong with them. A label that cannot be
/// read enforces the strictest level; audit and warn fail open.
pub fn policy(labels: &BTreeMap<String, String>) -> (Policy, Faults) {
    let (mut policy, mut faults) = (Policy::default(), Faults::new());
    let mut enforce_is_given = false;
    for (mode, failing, mine) in [
        ("enforce", Level::Restricted, &mut policy.enforce),
        ("audit", Level::Privileged, &mut policy.audit),
        ("warn", Level::Privileged, &mut policy.warn),
    ] {
        let mut fault = |label: &str, text: &str, detail: &str| {
            let (metadata, key) = (FieldPath::root("metadata"), format!("{LABELS}{label}"));
            faults.push(metadata.child("labels").key(&key).invalid(quoted(text), detail));
        };
        if let Some(text) = labels.get(&format!("{LABELS}{mode}")) {
            let read = level(text);
            if read.is_none() {
                fault(mode, text, "must be one of privileged, baseline, restricted");
            }
            enforce_is_given |= mode == "enforce" && read.is_some();
            mine.level = read.unwrap_or(failing);
        }
        let label = format!("{mode}-version");
        if let Some(text) = labels.get(&format!("{LABELS}{label}")) {
            let read = minor(text);
            if read.is_none() {
                fault(&label, text, "must be \"latest\" or \"v1.x\"");
            }
            mine.minor = read.unwrap_or(None);
        }
    }
    let is_given = |label: &str| labels.contains_key(&format!("{LABELS}{label}"));
    if !is_given("warn") && enforce_is_given && policy.enforce.level > policy.warn.level {
        policy.warn.level = policy.enforce.level;
        if !is_given("warn-version") {
            policy.warn.minor = policy.enforce.minor;
        }
    }
    (policy, faults)
}

/// A pod or a template, and where its spec stands in its object (`spec.template.spec`).
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub meta: Option<&'a ObjectMeta>,
    pub spec: &'a PodSpec,
    pub at: &'static str,
}

/// One container of a subject: what the checks look at.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    list: &'static str,
    index: usize,
    pub name: &'a str,
    pub security: Option<&'a SecurityContext>,
    pub ports: &'a [ContainerPort],
    /// `livenessProbe`, `readinessProbe`, `startupProbe`.
    pub probes: [(&'static str, Option<&'a Probe>); 3],
    pub lifecycle: Option<&'a Lifecycle>,
}

macro_rules! member {
    ($list:literal, $index:expr, $container:expr) => {
        Member {
            list: $list,
            index: $index,
            name: &$container.name,
            security: $container.security_context.as_ref(),
            ports: $container.ports.as_deref().unwrap_or_default(),
            probes: [
                ("livenessProbe", $container.liveness_probe.as_ref()),
                ("readinessProbe", $container.readiness_probe.as_ref()),
                ("startupProbe", $container.startup_probe.as_ref()),
            ],
            lifecycle: $container.lifecycle.as_ref(),
        }
    };
}

impl<'a> Member<'a> {
    fn init((index, container): (usize, &'a Container)) -> Self {
        member!("initContainers", index, container)
    }

    fn main((index, container): (usize, &'a Container)) -> Self {
        member!("containers", index, container)
    }

    fn ephemeral((index, container): (usize, &'a EphemeralContainer)) -> Self {
        member!("ephemeralContainers", index, container)
    }

    /// `spec.containers[0].securityContext.privileged`
    pub fn field(&self, subject: &Subject<'_>, below: &str) -> String {
        format!("{}.{}[{}].{below}", subject.at, self.list, self.index)
    }
}

impl<'a> Subject<'a> {
    /// Init containers first, as Kubernetes visits them.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        let spec = self.spec;
        let init = spec.init_containers.iter().flatten().enumerate().map(Member::init);
        let ephemeral = spec.ephemeral_containers.iter().flatten().enumerate();
        init.chain(spec.containers.iter().enumerate().map(Member::main))
            .chain(ephemeral.map(Member::ephemeral))
    }

    pub fn annotations(&self) -> impl Iterator<Item = (&'a String, &'a String)> + use<'a> {
        self.meta.and_then(|meta| meta.annotations.as_ref()).into_iter().flatten()
    }

    /// `spec.template.spec.hostNetwork`
    pub fn field(&self, below: &str) -> String {
        format!("{}.{below}", self.at)
    }

    /// Beside the spec: `spec.template.metadata`.
    pub fn metadata_field(&self, below: &str) -> String {
        let around = self.at.strip_suffix("spec").unwrap_or_default();
        format!("{around}metadata.{below}")
    }
}

/// What a subject does against a level, by one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `hostPort`
    pub reason: String,
    /// `container "c" uses hostPort 80`
    pub detail: String,
    /// The first field at fault; where one is missing, what it would stand in.
    pub field: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.reason, self.detail)
    }
}

type Decide = fn(&Subject<'_>) -> Option<Violation>;

/// One check, in the revisions that it had.
struct Check {
    id: &'static str,
    level: Level,
    /// From which minor version on; ascending.
    revisions: &'static [(u32, Decide)],
    /// Checks of the baseline that say less than this one and are left out beside it.
    overrides: &'static [&'static str],
}

macro_rules! checks {
    ($($level:ident $id:literal [$($from:literal => $decide:path),*] over [$($over:literal),*];)*) => {
        &[$(Check { id: $id, level: Level::$level, revisions: &[$(($from, $decide)),*],
            overrides: &[$($over),*] },)*]
    };
}

/// In the order in which Kubernetes tells violations: by level, then by name.
static CHECKS: &[Check] = checks! {
    Baseline "appArmorProfile" [0 => baseline::app_armor] over [];
    Baseline "capabilities_baseline" [0 => baseline::capabilities] over [];
    Baseline "hostNamespaces" [0 => baseline::host_namespaces] over [];
    Baseline "hostPathVolumes" [0 => baseline::host_paths] over [];
    Baseline "hostPorts" [0 => baseline::host_ports] over [];
    Baseline "hostProbesAndHostLifecycle" [34 => baseline::probe_hosts] over [];
    Baseline "privileged" [0 => baseline::privileged] over [];
    Baseline "procMount" [0 => baseline::proc_mount, 35 => baseline::proc_mount_35] over [];
    Baseline "seLinuxOptions" [0 => baseline::se_linux, 31 => baseline::se_linux_31] over [];
    Baseline "seccompProfile_baseline" [0 => baseline::seccomp_annotations, 19 => baseline::seccomp] over [];
    Baseline "sysctls" [0 => baseline::sysctls, 27 => baseline::sysctls_27,
        29 => baseline::sysctls_29, 32 => baseline::sysctls_32] over [];
    Baseline "windowsHostProcess" [0 => baseline::windows_host_process] over [];
    Restricted "allowPrivilegeEscalation" [8 => restricted::escalation,
        25 => restricted::escalation_25] over [];
    Restricted "capabilities_restricted" [22 => restricted::capabilities,
        25 => restricted::capabilities_25] over ["capabilities_baseline"];
    Restricted "procMount_restricted" [35 => baseline::proc_mount] over ["procMount"];
    Restricted "restrictedVolumes" [0 => restricted::volumes] over ["hostPathVolumes"];
    Restricted "runAsNonRoot" [0 => restricted::non_root, 35 => restricted::non_root_35] over [];
    Restricted "runAsUser" [23 => restricted::user, 35 => restricted::user_35] over [];
    Restricted "seccompProfile_restricted" [19 => restricted::seccomp,
        25 => restricted::seccomp_25] over ["seccompProfile_baseline"];
};

/// Everything that a subject does against a level, in Kubernetes' order.
pub fn violations(asked: LevelVersion, subject: &Subject<'_>) -> Vec<Violation> {
    let minor = asked.minor.map_or(NEWEST, |minor| minor.min(NEWEST));
    let revision = |check: &Check| {
        let mut fitting = check.revisions.iter().rev().filter(|(from, _)| *from <= minor);
        fitting.next().filter(|_| check.level <= asked.level).map(|(_, decide)| *decide)
    };
    let overridden: Vec<&str> = CHECKS
        .iter()
        .filter(|check| revision(check).is_some())
        .flat_map(|check| check.overrides.iter().copied())
        .collect();
    CHECKS
        .iter()
        .filter(|check| !overridden.contains(&check.id))
        .filter_map(|check| revision(check)?(subject))
        .collect()
}

/// `violates PodSecurity "baseline:latest": privileged (…), host namespaces (…)`
pub fn sentence(verb: &str, asked: LevelVersion, violations: &[Violation]) -> String {
    let told: Vec<String> = violations.iter().map(ToString::to_string).collect();
    format!("{verb} PodSecurity \"{asked}\": {}", told.join(", "))
}

/// `"a", "b"`
pub fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

pub fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// Who set a thing: the pod, containers by name, or both; and the first field of it.
#[derive(Debug, Default)]
pub struct Setters<'a> {
    pub pod: bool,
    pub containers: Vec<&'a str>,
    pub field: Option<String>,
}

impl<'a> Setters<'a> {
    pub fn of_pod(&mut self, subject: &Subject<'_>, below: &str) {
        self.pod = true;
        self.field.get_or_insert_with(|| subject.field(below));
    }

    pub fn of_container(&mut self, subject: &Subject<'_>, member: &Member<'a>, below: &str) {
        self.containers.push(member.name);
        self.field.get_or_insert_with(|| member.field(subject, below));
    }

    pub fn is_empty(&self) -> bool {
        !self.pod && self.containers.is_empty()
    }

    /// `container "a"`, `containers "a", "b"`
    pub fn containers(&self) -> String {
        let word = plural("container", "containers", self.containers.len());
        format!("{word} {}", listed(self.containers.iter().copied()))
    }

    /// `pod and container "a"`
    pub fn all(&self) -> String {
        let containers = (!self.containers.is_empty()).then(|| self.containers());
        let pod = self.pod.then(|| "pod".to_owned());
        pod.into_iter().chain(containers).collect::<Vec<_>>().join(" and ")
    }

    /// `None` where nobody is at fault.
    pub fn violation(
        self,
        reason: impl Into<String>,
        detail: impl FnOnce(&Self) -> String,
    ) -> Option<Violation> {
        if self.is_empty() {
            return None;
        }
        let detail = detail(&self);
        Some(Violation { reason: reason.into(), detail, field: self.field.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("{LABELS}{key}"), (*value).to_owned())).collect()
    }

    fn shown(policy: Policy) -> String {
        format!("{} {} {}", policy.enforce, policy.audit, policy.warn)
    }

    #[test]
    fn labels_decide_and_baseline_is_the_default() {
        for (given, wanted) in [
            (&[][..], "baseline:latest privileged:latest privileged:latest"),
            (&[("enforce", "privileged")], "privileged:latest privileged:latest privileged:latest"),
            // What is enforced more strictly than the default is warned of too.
            (&[("enforce", "restricted")], "restricted:latest privileged:latest restricted:latest"),
            (
                &[("enforce", "restricted"), ("enforce-version", "v1.20")],
                "restricted:v1.20 privileged:latest restricted:v1.20",
            ),
            (
                &[("enforce", "restricted"), ("warn", "privileged")],
                "restricted:latest privileged:latest privileged:latest",
            ),
            (
                &[("audit", "restricted"), ("warn", "baseline"), ("warn-version", "v1.9")],
                "baseline:latest restricted:latest baseline:v1.9",
            ),
        ] {
            let (policy, faults) = policy(&labels(given));
            assert_eq!((shown(policy).as_str(), faults.len()), (wanted, 0), "{given:?}");
        }
    }

    #[test]
    fn a_label_that_cannot_be_read_enforces_the_strictest() {
        let given =
            [("enforce", "Baseline"), ("audit", "x"), ("warn", ""), ("enforce-version", "v1.07")];
        let (policy, faults) = policy(&labels(&given));
        assert_eq!(shown(policy), "restricted:latest privileged:latest privileged:latest");
        let told: Vec<String> = faults
            .iter()
            .map(|fault| {
                format!("{}: {}", fault.field, fault.to_cause().message.unwrap_or_default())
            })
            .collect();
        assert_eq!(
            told,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"Baseline\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/enforce-version]: Invalid value: \"v1.07\": must be \"latest\" or \"v1.x\"",
                "metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"\": must be one of privileged, baseline, restricted",
            ]
        );
        for bad in ["1.2", "v2.0", "v1.", "v1.x", "Latest", "v1.99999999999", "v1.+1"] {
            assert_eq!(minor(bad), None, "{bad}");
        }
        assert_eq!((minor("v1.0"), minor("v1.99")), (Some(Some(0)), Some(Some(99))));
    }

    /// What is found, as `field: reason (detail)`.
    fn found(asked: LevelVersion, annotations: Value, spec: Value) -> Vec<String> {
        let meta: ObjectMeta =
            serde_json::from_value(json!({"annotations": annotations})).expect("metadata");
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let subject = Subject { meta: Some(&meta), spec: &spec, at: "spec" };
        let all = violations(asked, &subject);
        all.iter().map(|found| format!("{}: {found}", found.field)).collect()
    }

    fn at(level: Level, minor: u32) -> LevelVersion {
        LevelVersion { level, minor: Some(minor) }
    }

    const BASELINE: LevelVersion = LevelVersion::latest(Level::Baseline);
    const RESTRICTED: LevelVersion = LevelVersion::latest(Level::Restricted);

    /// The least that a level takes, with something changed: as the library's own fixtures are made.
    fn pod(level: Level, change: Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}],
            "initContainers": [{"name": "i", "image": "i"}]});
        if level == Level::Restricted {
            let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
            spec["securityContext"] =
                json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
            spec["containers"][0]["securityContext"] = own.clone();
            spec["initContainers"][0]["securityContext"] = own;
        }
        json_patch::merge(&mut spec, &change);
        spec
    }

    /// Both containers, with this security context over the least that a level takes.
    fn both(level: Level, own: Value) -> Value {
        let mut spec = pod(level, json!({}));
        for list in ["containers", "initContainers"] {
            let container = &mut spec[list][0];
            if container["securityContext"].is_null() {
                container["securityContext"] = json!({});
            }
            json_patch::merge(&mut container["securityContext"], &own);
        }
        spec
    }

    #[test]
    fn the_least_that_a_level_takes_passes_in_every_version() {
        for minor in 0..=NEWEST + 3 {
            let none = Vec::<String>::new();
            let plain = pod(Level::Baseline, json!({}));
            assert_eq!(found(at(Level::Baseline, minor), json!({}), plain.clone()), none);
            let least = pod(Level::Restricted, json!({}));
            assert_eq!(found(at(Level::Restricted, minor), json!({}), least), none, "{minor}");
            assert_eq!(found(at(Level::Privileged, minor), json!({}), plain), none);
        }
    }

    #[test]
    fn the_baseline_names_what_opens_the_host() {
        let (level, none) = (Level::Baseline, json!({}));
        let app_armor = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        let seccomp = |kind: &str| json!({"seccompProfile": {"type": kind}});
        let pass = |spec: Value| {
            assert_eq!(found(BASELINE, json!({}), spec.clone()), Vec::<String>::new(), "{spec}");
        };
        let fail = |annotations: &Value, spec: Value, wanted: &str| {
            assert_eq!(found(BASELINE, annotations.clone(), spec.clone()), [wanted], "{spec}");
        };
        fail(
            &none,
            both(level, json!({"privileged": true})),
            "spec.initContainers[0].securityContext.privileged: privileged (containers \"i\", \"c\" must not set securityContext.privileged=true)",
        );
        pass(both(level, json!({"privileged": false})));
        fail(
            &none,
            pod(level, json!({"hostNetwork": true, "hostPID": true, "hostIPC": true})),
            "spec.hostNetwork: host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
        );
        fail(
            &none,
            pod(level, json!({"hostIPC": true, "hostPID": false})),
            "spec.hostIPC: host namespaces (hostIPC=true)",
        );
        let volumes = json!([{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/a"}},
            {"name": "g", "hostPath": {"path": "/b"}}]);
        fail(
            &none,
            pod(level, json!({"volumes": volumes})),
            "spec.volumes[1].hostPath: hostPath volumes (volumes \"h\", \"g\")",
        );
        let ports = |ports: Value| {
            let containers = json!([{"name": "c", "image": "i", "ports": ports}]);
            pod(level, json!({"containers": containers}))
        };
        fail(
            &none,
            ports(
                json!([{"containerPort": 1}, {"containerPort": 2, "hostPort": 9}, {"containerPort": 3, "hostPort": 10}]),
            ),
            "spec.containers[0].ports[1].hostPort: hostPort (container \"c\" uses hostPorts 10, 9)",
        );
        pass(ports(json!([{"containerPort": 1, "hostPort": 0}])));
        let probed = json!({"httpGet": {"port": 1, "host": "127.0.0.1"}});
        let hook = json!({"preStop": {"tcpSocket": {"port": 1, "host": "10.0.0.1"}}});
        fail(
            &none,
            pod(
                level,
                json!({"containers": [{"name": "c", "image": "i", "readinessProbe": probed, "lifecycle": hook}]}),
            ),
            "spec.containers[0].readinessProbe.httpGet.host: probe or lifecycle host (container \"c\" uses probe or lifecycle hosts \"10.0.0.1\", \"127.0.0.1\")",
        );
        pass(pod(
            level,
            json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {"tcpSocket": {"port": 1, "host": ""}}}]}),
        ));
        fail(
            &none,
            both(level, json!({"capabilities": {"add": ["CHOWN", "NET_RAW", "CAP_CHOWN"]}})),
            "spec.initContainers[0].securityContext.capabilities.add[1]: non-default capabilities (containers \"i\", \"c\" must not include \"CAP_CHOWN\", \"NET_RAW\" in securityContext.capabilities.add)",
        );
        pass(both(
            level,
            json!({"capabilities": {"add": ["NET_BIND_SERVICE", "MKNOD"], "drop": ["ALL"]}}),
        ));
        fail(
            &none,
            both(level, json!({"procMount": "Unmasked"})),
            "spec.initContainers[0].securityContext.procMount: procMount (containers \"i\", \"c\" must not set securityContext.procMount to \"Unmasked\")",
        );
        pass(both(level, json!({"procMount": "Default"})));
        let mut users = both(level, json!({"procMount": "Unmasked"}));
        users["hostUsers"] = json!(false);
        pass(users.clone());
        assert_eq!(found(at(level, 34), json!({}), users).len(), 1, "relaxed since 1.35");
        let mut spec = both(level, seccomp("Localhost"));
        spec["securityContext"] = seccomp("Unconfined");
        fail(
            &none,
            spec,
            "spec.securityContext.seccompProfile: seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        );
        fail(
            &none,
            both(level, seccomp("Unconfined")),
            "spec.initContainers[0].securityContext.seccompProfile: seccompProfile (containers \"i\", \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        );
        pass(both(level, seccomp("RuntimeDefault")));
        let mut spec = both(level, app_armor("Unconfined"));
        spec["securityContext"] = app_armor("Unconfined");
        fail(
            &none,
            spec,
            "spec.securityContext.appArmorProfile: forbidden AppArmor profile (pod and containers \"i\", \"c\" must not set AppArmor profile type to \"Unconfined\")",
        );
        pass(both(level, app_armor("Localhost")));
        let annotation = json!({"container.apparmor.security.beta.kubernetes.io/c": "unconfined"});
        fail(
            &annotation,
            pod(level, json!({})),
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")",
        );
        let options = json!({"seLinuxOptions": {"type": "spc_t", "user": "u", "role": "r"}});
        fail(
            &none,
            pod(level, json!({"securityContext": options})),
            "spec.securityContext.seLinuxOptions: seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set; role may not be set)",
        );
        let engine =
            both(level, json!({"seLinuxOptions": {"type": "container_engine_t", "level": "s0"}}));
        pass(engine.clone());
        assert_eq!(found(at(level, 30), json!({}), engine).len(), 1, "allowed since 1.31");
        let sysctl = |name: &str| {
            pod(level, json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}))
        };
        fail(
            &none,
            sysctl("kernel.msgmax"),
            "spec.securityContext.sysctls[0]: forbidden sysctls (kernel.msgmax)",
        );
        for (since, name) in SAFE {
            pass(sysctl(name));
            let before = since.checked_sub(1).map(|minor| at(level, minor));
            assert!(before.is_none_or(|asked| found(asked, json!({}), sysctl(name)).len() == 1));
        }
        let windows = json!({"windowsOptions": {"hostProcess": true}});
        fail(
            &none,
            pod(level, json!({"securityContext": windows})),
            "spec.securityContext.windowsOptions.hostProcess: hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        );
    }

    use super::super::pod_security_baseline::SAFE_SYSCTLS as SAFE;

    #[test]
    fn checks_hold_in_the_versions_that_had_them() {
        let probed = json!({"containers": [{"name": "c", "image": "i",
            "livenessProbe": {"tcpSocket": {"port": 1, "host": "a"}}}]});
        let spec = pod(Level::Baseline, probed);
        assert_eq!(found(at(Level::Baseline, 33), json!({}), spec.clone()).len(), 0);
        assert_eq!(found(at(Level::Baseline, 34), json!({}), spec).len(), 1);
        // Before 1.19 seccomp was an annotation, and the field was not looked at.
        let old = json!({"seccomp.security.alpha.kubernetes.io/pod": "unconfined",
            "container.seccomp.security.alpha.kubernetes.io/c": "docker/default"});
        let plain = pod(Level::Baseline, json!({}));
        assert_eq!(
            found(at(Level::Baseline, 18), old.clone(), plain.clone()),
            [
                "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
            ]
        );
        assert_eq!(found(BASELINE, old, plain.clone()).len(), 0);
        for (minor, wanted) in [(7, 1), (8, 2), (18, 2), (19, 3), (22, 4), (36, 4)] {
            let found = found(at(Level::Restricted, minor), json!({}), plain.clone());
            assert_eq!(found.len(), wanted, "{minor}: {found:?}");
        }
    }

    #[test]
    fn the_restricted_level_asks_for_what_is_not_given() {
        let fail = |spec: Value, wanted: &[&str]| {
            assert_eq!(found(RESTRICTED, json!({}), spec.clone()), wanted, "{spec}");
        };
        fail(
            pod(Level::Baseline, json!({})),
            &[
                "spec.initContainers[0].securityContext.allowPrivilegeEscalation: allowPrivilegeEscalation != false (containers \"i\", \"c\" must set securityContext.allowPrivilegeEscalation=false)",
                "spec.initContainers[0].securityContext.capabilities.drop: unrestricted capabilities (containers \"i\", \"c\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "spec.initContainers[0].securityContext.runAsNonRoot: runAsNonRoot != true (pod or containers \"i\", \"c\" must set securityContext.runAsNonRoot=true)",
                "spec.initContainers[0].securityContext.seccompProfile: seccompProfile (pod or containers \"i\", \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ],
        );
        let level = Level::Restricted;
        fail(
            both(level, json!({"capabilities": {"add": ["NET_BIND_SERVICE", "CHOWN"]}})),
            &[
                "spec.initContainers[0].securityContext.capabilities.add[1]: unrestricted capabilities (containers \"i\", \"c\" must not include \"CHOWN\" in securityContext.capabilities.add)",
            ],
        );
        fail(both(level, json!({"capabilities": {"add": ["NET_BIND_SERVICE"]}})), &[]);
        fail(
            both(level, json!({"runAsNonRoot": false})),
            &[
                "spec.initContainers[0].securityContext.runAsNonRoot: runAsNonRoot != true (containers \"i\", \"c\" must not set securityContext.runAsNonRoot=false)",
            ],
        );
        fail(
            pod(level, json!({"securityContext": {"runAsUser": 0}})),
            &["spec.securityContext.runAsUser: runAsUser=0 (pod must not set runAsUser=0)"],
        );
        let mut own = both(level, json!({"runAsUser": 0}));
        own["hostUsers"] = json!(false);
        fail(own.clone(), &[]);
        assert_eq!(found(at(level, 34), json!({}), own).len(), 1, "relaxed since 1.35");
        fail(
            pod(
                level,
                json!({"volumes": [{"name": "n", "nfs": {"server": "s", "path": "/"}},
                {"name": "h", "hostPath": {"path": "/a"}}, {"name": "u"}, {"name": "e", "emptyDir": {}}]}),
            ),
            &[
                "spec.volumes[0]: restricted volume types (volumes \"n\", \"h\", \"u\" use restricted volume types \"hostPath\", \"nfs\", \"unknown\")",
            ],
        );
        fail(
            both(level, json!({"seccompProfile": {"type": "Unconfined"}})),
            &[
                "spec.initContainers[0].securityContext.seccompProfile: seccompProfile (containers \"i\", \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ],
        );
        // A user namespace excuses an open /proc from the baseline, not from this level.
        let mut open = both(level, json!({"procMount": "Unmasked"}));
        open["hostUsers"] = json!(false);
        assert_eq!(found(RESTRICTED, json!({}), open).len(), 1);
        let windows = pod(
            Level::Baseline,
            json!({"os": {"name": "windows"},
            "securityContext": {"runAsNonRoot": true}}),
        );
        fail(windows, &[]);
    }

    #[test]
    fn a_template_and_an_ephemeral_container_are_told_by_their_place() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [],
            "ephemeralContainers": [{"name": "e", "securityContext": {"privileged": true}}]}))
        .expect("a spec");
        let subject = Subject { meta: None, spec: &spec, at: "spec.template.spec" };
        let all = violations(BASELINE, &subject);
        assert_eq!(
            all[0].field,
            "spec.template.spec.ephemeralContainers[0].securityContext.privileged"
        );
        assert_eq!(
            sentence("violates", BASELINE, &all),
            "violates PodSecurity \"baseline:latest\": privileged (container \"e\" must not set securityContext.privileged=true)"
        );
    }
}
