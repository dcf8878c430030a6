//! Pure: what is wrong with a pod's containers (`validateContainers`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, EnvVarSource, PodSpec, ResourceRequirements,
    SecurityContext, VolumeMount,
};

use super::admit::{Fault, Faults};
use super::config_map_validation::data_key_faults;
use super::downward_validation as downward;
use super::field_path::{FieldPath, quoted, shown};
use super::metadata_validation::qualified_name_faults;
use super::pod_validation::one_of;
use super::probe_validation::{lifecycle_faults, probes};
use super::service_validation::{port_name_faults, port_number};
use super::volume_validation::descending_path;
use crate::object::name::label_faults;
use crate::object::quantity::Quantity;

const ENV_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const ONE_SOURCE: &str = "may not have more than one field specified at a time";

/// The containers that run side by side. `volumes` are the names that a mount may use.
pub fn containers(spec: &PodSpec, volumes: &BTreeSet<&str>, path: &FieldPath<'_>) -> Faults {
    let containers = &spec.containers[..];
    let mut faults = Faults::new();
    if containers.is_empty() {
        return vec![path.required("")];
    }
    let mut names = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        faults.extend(container_faults(container, volumes, &path));
        if !names.insert(container.name.as_str()) {
            faults.push(path.child("name").duplicate(quoted(&container.name)));
        }
        if let Some(lifecycle) = &container.lifecycle {
            faults.extend(lifecycle_faults(lifecycle, spec, &path.child("lifecycle")));
        }
        faults.extend(probes(container, &path));
    }
    faults.extend(host_port_conflicts(containers, path));
    faults
}

/// The containers that run one after the other, before the others start.
pub fn init_containers(spec: &PodSpec, volumes: &BTreeSet<&str>, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let mut names: BTreeSet<&str> =
        spec.containers.iter().map(|other| other.name.as_str()).collect();
    for (index, container) in init.iter().enumerate() {
        let path = path.index(index);
        faults.extend(container_faults(container, volumes, &path));
        if !names.insert(container.name.as_str()) {
            faults.push(path.child("name").duplicate(quoted(&container.name)));
        }
        if container.restart_policy.as_deref() == Some("Always") {
            if let Some(lifecycle) = &container.lifecycle {
                faults.extend(lifecycle_faults(lifecycle, spec, &path.child("lifecycle")));
            }
            faults.extend(probes(container, &path));
            continue;
        }
        if let Some(policy) = &container.restart_policy {
            faults.push(path.child("restartPolicy").not_supported(policy, &["Always"]));
        }
        for (field, set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if set {
                let detail = "may not be set for init containers without restartPolicy=Always";
                faults.push(path.child(field).forbidden(detail));
            }
        }
    }
    faults
}

pub fn container_faults(
    container: &Container,
    volumes: &BTreeSet<&str>,
    path: &FieldPath<'_>,
) -> Faults {
    let mut faults = Faults::new();
    let name = path.child("name");
    if container.name.is_empty() {
        faults.push(name.required(""));
    } else {
        faults.extend(name.each_invalid(&container.name, label_faults(&container.name)));
    }
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        faults.push(path.child("image").required(""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        faults.push(path.child("image").invalid(quoted(image), detail));
    }
    let policy = container.termination_message_policy.as_deref().unwrap_or_default();
    let policies = ["FallbackToLogsOnError", "File"];
    faults.extend(one_of(policy, &policies, &path.child("terminationMessagePolicy")));
    let ports = container.ports.as_deref().unwrap_or_default();
    faults.extend(port_faults(ports, &path.child("ports")));
    let list = path.child("env");
    for (index, variable) in container.env.iter().flatten().enumerate() {
        faults.extend(variable_faults(variable, &list.index(index)));
    }
    let list = path.child("envFrom");
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        faults.extend(env_from_faults(source, &list.index(index)));
    }
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    faults.extend(mount_faults(mounts, volumes, container, &path.child("volumeMounts")));
    let policy = container.image_pull_policy.as_deref().unwrap_or_default();
    let policies = ["Always", "IfNotPresent", "Never"];
    faults.extend(one_of(policy, &policies, &path.child("imagePullPolicy")));
    if let Some(resources) = &container.resources {
        faults.extend(resource_faults(resources, &path.child("resources")));
    }
    if let Some(context) = &container.security_context {
        faults.extend(security_faults(context, &path.child("securityContext")));
    }
    faults
}

fn port_faults(ports: &[ContainerPort], path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            let sentences = port_name_faults(name);
            if sentences.is_empty() && !names.insert(name) {
                faults.push(path.child("name").duplicate(quoted(name)));
            }
            faults.extend(path.child("name").each_invalid(name, sentences));
        }
        let field = path.child("containerPort");
        if port.container_port == 0 {
            faults.push(field.required(""));
        } else {
            faults.extend(port_number(port.container_port, &field));
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            faults.extend(port_number(number, &path.child("hostPort")));
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        faults.extend(one_of(protocol, &["SCTP", "TCP", "UDP"], &path.child("protocol")));
    }
    faults
}

fn host_port_conflicts(containers: &[Container], path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let mut taken = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        let ports = path.child("ports");
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let claim = format!(
                "{}/{}/{number}",
                port.protocol.as_deref().unwrap_or_default(),
                port.host_ip.as_deref().unwrap_or_default()
            );
            if taken.contains(&claim) {
                let path = ports.index(index);
                faults.push(path.child("hostPort").duplicate(quoted(&claim)));
            }
            taken.insert(claim);
        }
    }
    faults
}

fn env_name_faults(name: &str) -> Vec<String> {
    let good = name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    if good { Vec::new() } else { vec![ENV_NAME.to_owned()] }
}

fn variable_faults(variable: &EnvVar, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let name = path.child("name");
    if variable.name.is_empty() {
        faults.push(name.required(""));
    } else {
        faults.extend(name.each_invalid(&variable.name, env_name_faults(&variable.name)));
    }
    // The kernel ends a variable at NUL: the container would not see what was written.
    if variable.value.as_deref().is_some_and(|value| value.contains('\0')) {
        let value = quoted(variable.value.as_deref().unwrap_or_default());
        faults.push(path.child("value").invalid(value, "must not contain NUL characters"));
    }
    if let Some(source) = &variable.value_from {
        let has_value = variable.value.as_deref().is_some_and(|value| !value.is_empty());
        faults.extend(source_faults(source, has_value, &path.child("valueFrom")));
    }
    faults
}

fn source_faults(source: &EnvVarSource, has_value: bool, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    if let Some(reference) = &source.field_ref {
        let path = path.child("fieldRef");
        faults.extend(downward::field_ref_faults(reference, &downward::VARIABLES, &path));
    }
    if let Some(reference) = &source.resource_field_ref {
        let path = path.child("resourceFieldRef");
        faults.extend(downward::resource_ref_faults(reference, false, &path));
    }
    for (field, reference) in [
        ("configMapKeyRef", source.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", source.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ] {
        let Some((name, key)) = reference else { continue };
        let path = path.child(field);
        if name.is_empty() {
            faults.push(path.child("name").required(""));
        }
        if key.is_empty() {
            faults.push(path.child("key").required(""));
        } else {
            faults.extend(path.child("key").each_invalid(key, data_key_faults(key)));
        }
    }
    let count = [
        source.field_ref.is_some(),
        source.resource_field_ref.is_some(),
        source.config_map_key_ref.is_some(),
        source.secret_key_ref.is_some(),
        source.file_key_ref.is_some(),
    ]
    .into_iter()
    .filter(|set| *set)
    .count();
    let detail = match count {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return faults,
        _ => ONE_SOURCE,
    };
    faults.push(path.invalid(quoted(""), detail));
    faults
}

fn env_from_faults(source: &EnvFromSource, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        faults.extend(path.child("prefix").each_invalid(prefix, env_name_faults(prefix)));
    }
    for (field, name) in [
        ("configMapRef", source.config_map_ref.as_ref().map(|reference| &reference.name)),
        ("secretRef", source.secret_ref.as_ref().map(|reference| &reference.name)),
    ] {
        if name.is_some_and(|name| name.is_empty()) {
            faults.push(path.child(field).child("name").required(""));
        }
    }
    match (&source.config_map_ref, &source.secret_ref) {
        (None, None) => {
            let detail = "must specify one of: `configMapRef` or `secretRef`";
            faults.push(path.invalid(quoted(""), detail));
        }
        (Some(_), Some(_)) => faults.push(path.invalid(quoted(""), ONE_SOURCE)),
        _ => {}
    }
    faults
}

fn mount_faults(
    mounts: &[VolumeMount],
    volumes: &BTreeSet<&str>,
    container: &Container,
    path: &FieldPath<'_>,
) -> Faults {
    let mut faults = Faults::new();
    let mut targets = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let path = path.index(index);
        if mount.name.is_empty() {
            faults.push(path.child("name").required(""));
        }
        if !volumes.contains(mount.name.as_str()) {
            faults.push(path.child("name").not_found(quoted(&mount.name)));
        }
        let target = path.child("mountPath");
        if mount.mount_path.is_empty() {
            faults.push(target.required(""));
        }
        if !targets.insert(mount.mount_path.as_str()) {
            faults.push(target.invalid(quoted(&mount.mount_path), "must be unique"));
        }
        let sub_path = mount.sub_path.as_deref().filter(|text| !text.is_empty());
        if let Some(text) = sub_path {
            faults.extend(descending_path(text, &path.child("subPath")));
        }
        if let Some(text) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
            let field = path.child("subPathExpr");
            if sub_path.is_some() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                faults.push(field.invalid(quoted(text), detail));
            }
            faults.extend(descending_path(text, &field));
        }
        if let Some(mode) = mount.mount_propagation.as_deref() {
            let field = path.child("mountPropagation");
            let privileged = container.security_context.as_ref().and_then(|own| own.privileged);
            if mode == "Bidirectional" && privileged != Some(true) {
                let detail =
                    "Bidirectional mount propagation is available only to privileged containers";
                faults.push(field.forbidden(detail));
            }
            faults.extend(one_of(mode, &["Bidirectional", "HostToContainer", "None"], &field));
        }
        faults.extend(recursion_faults(mount, &path.child("recursiveReadOnly")));
    }
    faults
}

fn recursion_faults(mount: &VolumeMount, path: &FieldPath<'_>) -> Faults {
    let modes = ["Disabled", "Enabled", "IfPossible"];
    let mut faults = Faults::new();
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                faults.push(path.forbidden("may only be specified when readOnly is true"));
            }
            if !matches!(mount.mount_propagation.as_deref(), None | Some("None")) {
                let detail = "may only be specified when mountPropagation is None or not specified";
                faults.push(path.forbidden(detail));
            }
        }
        Some(other) => faults.push(path.not_supported(other, &modes)),
    }
    faults
}

fn resource_faults(resources: &ResourceRequirements, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let nothing = Default::default();
    let limits = resources.limits.as_ref().unwrap_or(&nothing);
    let requests = resources.requests.as_ref().unwrap_or(&nothing);
    let limit_path = path.child("limits");
    for (name, amount) in limits {
        faults.extend(amount_faults(name, &amount.0, &limit_path.key(name)));
    }
    let request_path = path.child("requests");
    for (name, amount) in requests {
        faults.extend(amount_faults(name, &amount.0, &request_path.key(name)));
        let overcommits = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        let Some(limit) = limits.get(name) else {
            if !overcommits {
                let detail = "Limit must be set for non overcommitable resources";
                faults.push(limit_path.required(detail));
            }
            continue;
        };
        let (Ok(asked), Ok(most)) = (Quantity::parse(&amount.0), Quantity::parse(&limit.0)) else {
            continue;
        };
        if !overcommits && asked != most {
            let detail = format!("must be equal to {name} limit of {}", limit.0);
            faults.push(request_path.invalid(quoted(&amount.0), detail));
        } else if asked > most {
            let detail = format!("must be less than or equal to {name} limit of {}", limit.0);
            faults.push(request_path.invalid(quoted(&amount.0), detail));
        }
    }
    faults
}

fn amount_faults(name: &str, amount: &str, path: &FieldPath<'_>) -> Faults {
    let sentences = qualified_name_faults(name);
    let mut faults = path.each_invalid(name, sentences);
    let standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if faults.is_empty() && !name.contains('/') && !standard {
        faults.push(path.invalid(quoted(name), "must be a standard resource for containers"));
    }
    match Quantity::parse(amount) {
        Ok(parsed) if parsed.is_negative() => {
            let detail = "must be greater than or equal to 0";
            faults.push(path.invalid(quoted(amount), detail));
        }
        Ok(parsed) if name.contains('/') && !parsed.is_whole() => {
            faults.push(path.invalid(quoted(amount), "must be an integer"));
        }
        Ok(_) => {}
        Err(sentence) => faults.push(path.invalid(quoted(amount), sentence)),
    }
    faults
}

/// `must be between 0 and 2147483647, inclusive`: user and group ids.
pub fn id_fault(id: Option<i64>, path: &FieldPath<'_>) -> Option<Fault> {
    id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id))
        .map(|id| path.invalid(id.to_string(), "must be between 0 and 2147483647, inclusive"))
}

fn security_faults(context: &SecurityContext, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    faults.extend(id_fault(context.run_as_user, &path.child("runAsUser")));
    faults.extend(id_fault(context.run_as_group, &path.child("runAsGroup")));
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            faults.push(path.invalid(shown(context), detail));
        }
        let added = context.capabilities.as_ref().and_then(|own| own.add.as_ref());
        if added.is_some_and(|list| list.iter().any(|name| name == "CAP_SYS_ADMIN")) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            faults.push(path.invalid(shown(context), detail));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    fn faults_of(extra: Value) -> Vec<String> {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "emptyDir": {}}]}});
        for (key, value) in extra.as_object().unwrap() {
            pod["spec"]["containers"][0][key] = value.clone();
        }
        let mut pod = serde_json::from_value(pod).unwrap();
        super::super::pod_defaults::fill_pod(&mut pod);
        let prefix = "spec.containers[0].";
        super::super::pod_validation::pod(&pod)
            .into_iter()
            .map(|fault| fault.field.strip_prefix(prefix).unwrap_or(&fault.field).to_owned())
            .collect()
    }

    #[test]
    fn each_field_has_its_rule() {
        let port = |extra: Value| {
            let mut port = json!({"containerPort": 80});
            port.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            port
        };
        let probe = |extra: Value| {
            let mut probe = json!({"tcpSocket": {"port": 80}});
            probe.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            probe
        };
        for (extra, fields) in [
            (json!({"image": " i"}), vec!["image"]),
            (json!({"image": ""}), vec!["image"]),
            (json!({"imagePullPolicy": "Sometimes"}), vec!["imagePullPolicy"]),
            (json!({"ports": [{"containerPort": 0}]}), vec!["ports[0].containerPort"]),
            (json!({"ports": [{"containerPort": 65536}]}), vec!["ports[0].containerPort"]),
            (
                json!({"ports": [port(json!({"name": "a"})), port(json!({"name": "a"}))]}),
                vec!["ports[1].name"],
            ),
            (
                json!({"ports": [port(json!({"hostPort": 1})), port(json!({"hostPort": 1}))]}),
                vec!["ports[1].hostPort"],
            ),
            (json!({"env": [{"name": ""}]}), vec!["env[0].name"]),
            (json!({"env": [{"name": "A\n"}]}), vec!["env[0].name"]),
            (json!({"env": [{"name": "A", "value": "a\u{0}b"}]}), vec!["env[0].value"]),
            (json!({"env": [{"name": "A", "valueFrom": {}}]}), vec!["env[0].valueFrom"]),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
                vec!["env[0].valueFrom.fieldRef.fieldPath"],
            ),
            (json!({"envFrom": [{}]}), vec!["envFrom[0]"]),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]}),
                vec!["volumeMounts[1].mountPath"],
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "../b"}]}),
                vec!["volumeMounts[0].subPath"],
            ),
            (
                json!({"resources": {"limits": {"cpu": "-1"}}}),
                vec!["resources.limits[cpu]", "resources.requests[cpu]"],
            ),
            (
                json!({"resources": {"requests": {"coffee": "1"}}}),
                vec!["resources.requests[coffee]", "resources.limits"],
            ),
            (json!({"livenessProbe": {}}), vec!["livenessProbe"]),
            (
                json!({"livenessProbe": probe(json!({"successThreshold": 2}))}),
                vec!["livenessProbe.successThreshold"],
            ),
            (json!({"readinessProbe": probe(json!({"successThreshold": 2}))}), vec![]),
            (
                json!({"readinessProbe": probe(json!({"periodSeconds": -1}))}),
                vec!["readinessProbe.periodSeconds"],
            ),
            (
                json!({"startupProbe": {"httpGet": {"port": "no_name", "scheme": "FTP"}}}),
                vec!["startupProbe.httpGet.port", "startupProbe.httpGet.scheme"],
            ),
            (json!({"securityContext": {"runAsUser": -1}}), vec!["securityContext.runAsUser"]),
        ] {
            assert_eq!(faults_of(extra.clone()), fields, "{extra}");
        }
    }
}
