//! Pure: what the reference server warns of although it takes the object: names that were replaced, and
//! values that hide or contradict each other (`pkg/api/pod/warnings.go`, `pkg/api/service/warnings.go`).
//!
//! Left out is what can only be said of fields that this version refuses. The order is the reference
//! server's; where it goes over a map in no order, ours is the keys'.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, KeyToPath, NodeSelectorTerm, PodSpec, PodTemplateSpec, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::field_path::{FieldPath, quoted};
use crate::object::name::label_faults;
use crate::object::quantity::Quantity;

/// Labels of nodes, and what is said of who asks for them (`pkg/api/node/util.go`).
const OLD_NODE_LABELS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const APPARMOR_OF_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";
const APPARMOR: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
const OLD_TOPOLOGY: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY: &str = "service.kubernetes.io/topology-mode";

/// A name that is longer or has more dots than a host's may.
pub fn of_name(meta: &ObjectMeta, used: &str) -> Option<String> {
    let faults = label_faults(meta.name.as_deref().unwrap_or_default());
    (!faults.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            faults.join(" ")
        )
    })
}

/// Of a pod with its default values.
pub fn of_pod(meta: &ObjectMeta, spec: &PodSpec) -> Vec<String> {
    Pod { meta, spec, meta_at: FieldPath::root("metadata"), at: FieldPath::root("spec") }.warnings()
}

/// The same of a workload's template.
pub fn of_template(template: &PodTemplateSpec) -> Vec<String> {
    let (no_meta, no_spec) = (ObjectMeta::default(), PodSpec::default());
    let root = FieldPath::root("spec");
    let at = root.child("template");
    let pod = Pod {
        meta: template.metadata.as_ref().unwrap_or(&no_meta),
        spec: template.spec.as_ref().unwrap_or(&no_spec),
        meta_at: at.child("metadata"),
        at: at.child("spec"),
    };
    pod.warnings()
}

/// Of a Service: what else the reference server says of one is of fields that are refused here.
pub fn of_service(service: &Service) -> Vec<String> {
    let old = annotation(&service.metadata, OLD_TOPOLOGY);
    let told = || format!("annotation {OLD_TOPOLOGY} is deprecated, please use {TOPOLOGY} instead");
    old.then(told).into_iter().collect()
}

fn annotation(meta: &ObjectMeta, key: &str) -> bool {
    meta.annotations.as_ref().is_some_and(|all| all.contains_key(key))
}

fn old_label(key: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, told)| *told)
}

/// A pod or a template, and where it stands.
struct Pod<'a> {
    meta: &'a ObjectMeta,
    spec: &'a PodSpec,
    meta_at: FieldPath<'a>,
    at: FieldPath<'a>,
}

impl Pod<'_> {
    fn warnings(&self) -> Vec<String> {
        let mut told = self.placement();
        for (key, message) in OLD_ANNOTATIONS {
            told.extend(self.of_annotation(key, message));
        }
        told.extend(self.volumes());
        told.extend(self.host_aliases());
        let pod_security = self.spec.security_context.as_ref();
        if pod_security.is_none_or(|security| security.seccomp_profile.is_none()) {
            told.extend(self.of_annotation(SECCOMP_OF_POD, SECCOMP));
        }
        self.each_container(|container, at| told.extend(self.container(container, at)));
        told.extend(self.ports());
        if self.spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
            told.push(format!(
                "{}: must be >= 0; negative values are invalid and will be treated as 1",
                self.at.child("terminationGracePeriodSeconds")
            ));
        }
        told
    }

    fn of_annotation(&self, key: &str, message: &str) -> Option<String> {
        let at = || format!("{}: {message}", self.meta_at.child("annotations").key(key));
        annotation(self.meta, key).then(at)
    }

    /// Init containers first, as the reference server visits them.
    fn each_container(&self, mut visit: impl FnMut(&Container, &FieldPath<'_>)) {
        let init = self.spec.init_containers.as_deref().unwrap_or_default();
        for (name, all) in [("initContainers", init), ("containers", &self.spec.containers)] {
            let list = self.at.child(name);
            for (index, container) in all.iter().enumerate() {
                visit(container, &list.index(index));
            }
        }
    }

    fn placement(&self) -> Vec<String> {
        let mut told = Vec::new();
        let selector = self.at.child("nodeSelector");
        for key in self.spec.node_selector.iter().flatten().map(|(key, _)| key) {
            told.extend(old_label(key).map(|message| format!("{}: {message}", selector.key(key))));
        }
        let Some(affinity) =
            self.spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref())
        else {
            return told;
        };
        let affinity_at = self.at.child("affinity");
        let at = affinity_at.child("nodeAffinity");
        if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
            let terms_at = at.child("requiredDuringSchedulingIgnoredDuringExecution");
            let terms_at = terms_at.child("nodeSelectorTerms");
            for (index, term) in required.node_selector_terms.iter().enumerate() {
                told.extend(node_term(term, &terms_at.index(index)));
            }
        }
        let preferred = &affinity.preferred_during_scheduling_ignored_during_execution;
        let preferred_at = at.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in preferred.iter().flatten().enumerate() {
            let one = preferred_at.index(index);
            told.extend(node_term(&term.preference, &one.child("preference")));
        }
        told
    }

    /// Two keys of one ConfigMap or Secret at the same path, or one inside the other.
    fn volumes(&self) -> Vec<String> {
        let mut told = Vec::new();
        for volume in self.spec.volumes.iter().flatten() {
            let name = quoted(&volume.name);
            if let Some(map) = &volume.config_map {
                let whose = format!("volume {name} (ConfigMap {})", quoted(&map.name));
                told.extend(overlaps(map.items.as_deref().unwrap_or_default(), &whose));
            }
            if let Some(secret) = &volume.secret {
                let named = quoted(secret.secret_name.as_deref().unwrap_or_default());
                let whose = format!("volume {name} (Secret {named})");
                told.extend(overlaps(secret.items.as_deref().unwrap_or_default(), &whose));
            }
        }
        told
    }

    fn host_aliases(&self) -> Vec<String> {
        let (list, mut seen) = (self.at.child("hostAliases"), BTreeSet::new());
        let aliases = self.spec.host_aliases.iter().flatten().enumerate();
        aliases
            .filter(|(_, alias)| !seen.insert(alias.ip.as_str()))
            .map(|(index, alias)| {
                let at = list.index(index);
                format!("{}: duplicate ip {}", at.child("ip"), quoted(&alias.ip))
            })
            .collect()
    }

    fn container(&self, container: &Container, at: &FieldPath<'_>) -> Vec<String> {
        let mut told = Vec::new();
        let security = container.security_context.as_ref();
        if security.is_none_or(|security| security.seccomp_profile.is_none()) {
            let key = format!("{SECCOMP_OF_CONTAINER}{}", container.name);
            told.extend(self.of_annotation(&key, SECCOMP));
        }
        let of_pod = self.spec.security_context.as_ref();
        let profiled = of_pod.is_some_and(|security| security.app_armor_profile.is_some())
            || security.is_some_and(|security| security.app_armor_profile.is_some());
        if !profiled {
            let key = format!("{APPARMOR_OF_CONTAINER}{}", container.name);
            told.extend(self.of_annotation(&key, APPARMOR));
        }
        told.extend(fractional_bytes(container, at));
        told.extend(hidden_variables(container, at));
        told
    }

    /// A port and protocol that two of the pod's containers name.
    fn ports(&self) -> Vec<String> {
        let mut told = Vec::new();
        let mut seen: BTreeMap<(i32, String), Vec<(String, ContainerPort)>> = BTreeMap::new();
        self.each_container(|container, at| {
            let list = at.child("ports");
            for (index, port) in container.ports.iter().flatten().enumerate() {
                let at = list.index(index).to_string();
                if !host_ip(port).is_empty() && host_port(port) == 0 {
                    told.push(format!("{at}: hostIP set without hostPort: {}", go_struct(port)));
                }
                let protocol = port.protocol.clone().unwrap_or_default();
                let others = seen.entry((port.container_port, protocol)).or_default();
                for (other_at, other) in others.iter() {
                    told.extend(
                        clash(port, other)
                            .map(|what| format!("{at}: {what} port definition with {other_at}")),
                    );
                }
                others.push((at, port.clone()));
            }
        });
        told
    }
}

fn node_term(term: &NodeSelectorTerm, at: &FieldPath<'_>) -> Vec<String> {
    let list = at.child("matchExpressions");
    let expressions = term.match_expressions.iter().flatten().enumerate();
    expressions
        .filter_map(|(index, expression)| {
            let message = old_label(&expression.key)?;
            let at = list.index(index);
            Some(format!("{}: {} is {message}", at.child("key"), expression.key))
        })
        .collect()
}

fn overlaps(items: &[KeyToPath], whose: &str) -> Vec<String> {
    let (mut told, mut seen) = (Vec::new(), BTreeSet::new());
    for item in items {
        let path = item.path.trim_end_matches('/');
        let inside = |outer: &str, inner: &str| format!("{inner}/").starts_with(outer);
        let hit = seen.iter().find(|other: &&&str| {
            !path.is_empty() && !other.is_empty() && (inside(path, other) || inside(other, path))
        });
        if let Some(other) = hit {
            let (path, other) = (quoted(path), quoted(other));
            told.push(format!("{whose}: overlapping paths: {path} with {other}"));
        }
        seen.insert(path);
    }
    told
}

fn fractional_bytes(container: &Container, at: &FieldPath<'_>) -> Vec<String> {
    let mut told = Vec::new();
    let resources = container.resources.clone().unwrap_or_default();
    let at = at.child("resources");
    for name in ["memory", "ephemeral-storage"] {
        for (list, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
            let Some(amount) = amounts.as_ref().and_then(|amounts| amounts.get(name)) else {
                continue;
            };
            if Quantity::parse(&amount.0).is_ok_and(|amount| !amount.is_whole()) {
                told.push(format!(
                    "{}: fractional byte value {} is invalid, must be an integer",
                    at.child(list).key(name),
                    quoted(&amount.0)
                ));
            }
        }
    }
    told
}

/// A variable that is named again, unless its new value is made of the old one.
fn hidden_variables(container: &Container, at: &FieldPath<'_>) -> Vec<String> {
    let (list, mut seen) = (at.child("env"), BTreeSet::new());
    let mut told = Vec::new();
    for (index, variable) in container.env.iter().flatten().enumerate() {
        if seen.insert(variable.name.as_str()) {
            continue;
        }
        let reference = format!("$({})", variable.name);
        let value = variable.value.as_deref().unwrap_or_default();
        if variable.value_from.is_some() || value == reference || !value.contains(&reference) {
            told.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                list.index(index),
                quoted(&variable.name)
            ));
        }
    }
    told
}

fn host_ip(port: &ContainerPort) -> &str {
    port.host_ip.as_deref().unwrap_or_default()
}

fn host_port(port: &ContainerPort) -> i32 {
    port.host_port.unwrap_or(0)
}

fn clash(one: &ContainerPort, other: &ContainerPort) -> Option<&'static str> {
    let (ip, other_ip) = (host_ip(one), host_ip(other));
    let (port, other_port) = (host_port(one), host_port(other));
    if ip == other_ip && port == other_port {
        Some("duplicate")
    } else if port == 0 || other_port == 0 {
        Some("overlapping")
    } else if port == other_port && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

/// As Go prints the structure.
fn go_struct(port: &ContainerPort) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        port.name.as_deref().unwrap_or_default(),
        host_port(port),
        port.container_port,
        port.protocol.as_deref().unwrap_or_default(),
        host_ip(port)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(annotations: Value, spec: Value) -> Vec<String> {
        let template = json!({"metadata": {"annotations": annotations}, "spec": spec});
        of_template(&serde_json::from_value(template).expect("a template"))
    }

    fn of_container(container: Value) -> Vec<String> {
        told(json!({}), json!({"containers": [container]}))
    }

    #[test]
    fn a_variable_that_hides_another_is_told() {
        let env = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"},
            {"name": "A", "value": "3"}, {"name": "B"}, {"name": "B", "value": "$(B)"},
            {"name": "C", "value": "c"},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        let at = |index: u8, name: &str| {
            format!(
                "spec.template.spec.containers[0].env[{index}]: hides previous definition of \"{name}\", which may be dropped when using apply"
            )
        };
        assert_eq!(
            of_container(json!({"name": "c", "env": env})),
            [at(2, "A"), at(4, "B"), at(6, "C")]
        );
    }

    #[test]
    fn names_that_were_replaced_are_told() {
        let annotations = json!({"scheduler.alpha.kubernetes.io/critical-pod": "",
            "seccomp.security.alpha.kubernetes.io/pod": "runtime/default",
            "container.apparmor.security.beta.kubernetes.io/c": "runtime/default"});
        let term = json!({"matchExpressions": [
            {"key": "beta.kubernetes.io/arch", "operator": "Exists"}]});
        let spec = json!({"containers": [{"name": "c"}],
            "nodeSelector": {"beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
            "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": term}]}}});
        let affinity = "spec.template.spec.affinity.nodeAffinity";
        let arch =
            "beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead";
        let annotation = "spec.template.metadata.annotations";
        assert_eq!(told(annotations.clone(), spec), [
            "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead".to_owned(),
            format!("{affinity}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: {arch}"),
            format!("{affinity}.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key: {arch}"),
            format!("{annotation}[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead"),
            format!("{annotation}[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead"),
            format!("{annotation}[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead"),
        ]);
        let profile = json!({"type": "RuntimeDefault"});
        let with_fields = json!({"securityContext": {"seccompProfile": profile,
            "appArmorProfile": profile}, "containers": [{"name": "c"}]});
        assert_eq!(told(annotations, with_fields).len(), 1, "the fields say it already");
    }

    #[test]
    fn values_against_each_other_are_told() {
        let items = json!([{"key": "a", "path": "p/"}, {"key": "b", "path": "p/q"},
            {"key": "c", "path": "other"}]);
        let spec = json!({"terminationGracePeriodSeconds": -1,
            "hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}],
            "volumes": [{"name": "v", "configMap": {"name": "m", "items": items}},
                {"name": "w", "secret": {"secretName": "s", "items": items}}],
            "initContainers": [{"name": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
            "containers": [{"name": "c", "resources": {"limits": {"memory": "1500m"}},
                "ports": [{"containerPort": 80, "protocol": "TCP", "hostIP": "1.2.3.4"},
                    {"containerPort": 80, "protocol": "UDP"},
                    {"containerPort": 80, "protocol": "UDP"}]}]});
        let pod = serde_json::from_value(spec).expect("a spec");
        assert_eq!(
            of_pod(&ObjectMeta::default(), &pod),
            [
                "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"p/q\" with \"p\"",
                "volume \"w\" (Secret \"s\"): overlapping paths: \"p/q\" with \"p\"",
                "spec.hostAliases[1].ip: duplicate ip \"10.0.0.1\"",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
                "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:1.2.3.4}",
                "spec.containers[0].ports[0]: overlapping port definition with spec.initContainers[0].ports[0]",
                "spec.containers[0].ports[2]: duplicate port definition with spec.containers[0].ports[1]",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            ]
        );
    }

    #[test]
    fn nothing_is_said_of_what_is_well() {
        let fine = json!({"name": "c", "env": [{"name": "A"}, {"name": "B"}],
            "resources": {"limits": {"memory": "64Mi", "cpu": "100m"}},
            "ports": [{"containerPort": 80, "protocol": "TCP"}]});
        assert_eq!(of_container(fine), Vec::<String>::new());
        let named =
            |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        assert_eq!(of_name(&named("web"), "x"), None);
        assert!(of_name(&named("web.v1"), "x").is_some_and(|text| text.ends_with("[a-z0-9])?')]")));
    }
}
