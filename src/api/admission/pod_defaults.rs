//! Pure: the defaults of pods and pod templates (`pkg/apis/core/v1/defaults.go`, and the admission
//! plugins DefaultTolerationSeconds and Priority, which act on pods only).

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar, HTTPGetAction,
    LifecycleHandler, ObjectFieldSelector, Pod, PodSpec, PodTemplateSpec, Probe,
    ResourceFieldSelector, Toleration, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::{ephemeral_validation, quantities};

/// 0644, of files that configMap, secret, downwardAPI and projected volumes write.
const DEFAULT_MODE: i32 = 0o644;
/// How long a pod stays on a node that is lost, unless it says otherwise.
const LOST_NODE_SECONDS: i64 = 300;

/// A pod: everything a template gets, and what only pods get.
pub fn fill_pod(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else { return };
    fill_spec(spec);
    spec.enable_service_links.get_or_insert(true);
    spec.priority.get_or_insert(0);
    or_text(&mut spec.preemption_policy, "PreemptLowerPriority");
    if spec.host_network == Some(true) {
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            for port in container.ports.iter_mut().flatten() {
                if port.host_port.unwrap_or(0) == 0 {
                    port.host_port = Some(port.container_port);
                }
            }
        }
    }
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        requests_from_limits(container);
    }
    tolerate_lost_nodes(spec);
}

/// The template of a ReplicaSet or Deployment.
pub fn fill_template(template: &mut PodTemplateSpec) {
    if let Some(meta) = &mut template.metadata {
        meta.labels.take_if(|map| map.is_empty());
        meta.annotations.take_if(|map| map.is_empty());
    }
    if let Some(spec) = &mut template.spec {
        fill_spec(spec);
    }
}

fn fill_spec(spec: &mut PodSpec) {
    or_text(&mut spec.dns_policy, "ClusterFirst");
    or_text(&mut spec.restart_policy, "Always");
    or_text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(30);
    one_service_account(spec);
    drop_zero_values(spec);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        fill_container(container);
    }
    ephemeral_validation::fill(spec, fill_container);
    for volume in spec.volumes.iter_mut().flatten() {
        fill_volume(volume);
    }
    quantities::each_of_pod_spec(spec, &mut quantities::canonical);
}

/// `serviceAccount` is the old name of `serviceAccountName`; the server answers both.
fn one_service_account(spec: &mut PodSpec) {
    spec.service_account.take_if(|name| name.is_empty());
    spec.service_account_name.take_if(|name| name.is_empty());
    if spec.service_account_name.is_none() {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    spec.service_account.clone_from(&spec.service_account_name);
}

/// Values that the reference server does not tell from absent ones, so that `false` in a manifest
/// is no difference from a stored object without it.
fn drop_zero_values(spec: &mut PodSpec) {
    for flag in [&mut spec.host_network, &mut spec.host_pid, &mut spec.host_ipc] {
        flag.take_if(|set| !*set);
    }
    for text in [
        &mut spec.node_name,
        &mut spec.hostname,
        &mut spec.subdomain,
        &mut spec.priority_class_name,
    ] {
        text.take_if(|text| text.is_empty());
    }
    spec.node_selector.take_if(|map| map.is_empty());
    spec.tolerations.take_if(|list| list.is_empty());
    spec.init_containers.take_if(|list| list.is_empty());
    spec.volumes.take_if(|list| list.is_empty());
    spec.host_aliases.take_if(|list| list.is_empty());
    spec.image_pull_secrets.take_if(|list| list.is_empty());
    spec.topology_spread_constraints.take_if(|list| list.is_empty());
    spec.ephemeral_containers.take_if(|list| list.is_empty());
}

fn fill_container(container: &mut Container) {
    for list in [&mut container.command, &mut container.args] {
        list.take_if(|list| list.is_empty());
    }
    for flag in [&mut container.stdin, &mut container.stdin_once, &mut container.tty] {
        flag.take_if(|set| !*set);
    }
    container.working_dir.take_if(|text| text.is_empty());
    container.env.take_if(|list| list.is_empty());
    container.env_from.take_if(|list| list.is_empty());
    container.ports.take_if(|list| list.is_empty());
    container.volume_mounts.take_if(|list| list.is_empty());
    let policy = default_pull_policy(container.image.as_deref().unwrap_or_default());
    or_text(&mut container.image_pull_policy, policy);
    or_text(&mut container.termination_message_path, "/dev/termination-log");
    or_text(&mut container.termination_message_policy, "File");
    let resources = container.resources.get_or_insert_default();
    resources.limits.take_if(|map| map.is_empty());
    resources.requests.take_if(|map| map.is_empty());
    for port in container.ports.iter_mut().flatten() {
        or_text(&mut port.protocol, "TCP");
        port.name.take_if(|name| name.is_empty());
        port.host_port.take_if(|number| *number == 0);
        port.host_ip.take_if(|address| address.is_empty());
    }
    for mount in container.volume_mounts.iter_mut().flatten() {
        mount.read_only.take_if(|set| !*set);
        mount.sub_path.take_if(|path| path.is_empty());
        mount.sub_path_expr.take_if(|path| path.is_empty());
    }
    container.env.iter_mut().flatten().for_each(fill_variable);
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    probes.into_iter().flatten().for_each(fill_probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        let hooks = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
        hooks.into_iter().flatten().for_each(fill_hook);
    }
}

/// `Always` for `:latest` or no tag, else `IfNotPresent`; a digest pins, whatever the tag.
fn default_pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':').map(|(_, tag)| tag) {
        Some("latest") => "Always",
        None if digest.is_none() && !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn fill_variable(variable: &mut EnvVar) {
    variable.value.take_if(|value| value.is_empty());
    if let Some(from) = &mut variable.value_from {
        from.field_ref.as_mut().map(fill_field_ref);
        from.resource_field_ref.as_mut().map(fill_resource_ref);
    }
}

fn fill_field_ref(reference: &mut ObjectFieldSelector) {
    or_text(&mut reference.api_version, "v1");
}

fn fill_resource_ref(reference: &mut ResourceFieldSelector) {
    reference.divisor.get_or_insert_with(|| Text("0".to_owned()));
}

fn fill_probe(probe: &mut Probe) {
    or_number(&mut probe.timeout_seconds, 1);
    or_number(&mut probe.period_seconds, 10);
    or_number(&mut probe.success_threshold, 1);
    or_number(&mut probe.failure_threshold, 3);
    probe.initial_delay_seconds.take_if(|seconds| *seconds == 0);
    probe.http_get.as_mut().map(fill_http);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn fill_http(action: &mut HTTPGetAction) {
    or_text(&mut action.path, "/");
    or_text(&mut action.scheme, "HTTP");
}

fn fill_hook(hook: &mut LifecycleHandler) {
    hook.http_get.as_mut().map(fill_http);
}

fn fill_volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.config_map {
        or_number(&mut source.default_mode, DEFAULT_MODE);
    }
    if let Some(source) = &mut volume.secret {
        or_number(&mut source.default_mode, DEFAULT_MODE);
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.persistent_volume_claim {
        source.read_only.take_if(|set| !*set);
    }
    if let Some(source) = &mut volume.downward_api {
        or_number(&mut source.default_mode, DEFAULT_MODE);
        source.items.iter_mut().flatten().for_each(fill_downward_file);
    }
    if let Some(all) = &mut volume.projected {
        or_number(&mut all.default_mode, DEFAULT_MODE);
        for source in all.sources.iter_mut().flatten() {
            if let Some(files) = &mut source.downward_api {
                files.items.iter_mut().flatten().for_each(fill_downward_file);
            }
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(3600);
            }
        }
    }
    let nothing_but_a_name = Volume { name: volume.name.clone(), ..Volume::default() } == *volume;
    if nothing_but_a_name {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
}

fn fill_downward_file(file: &mut DownwardAPIVolumeFile) {
    file.field_ref.as_mut().map(fill_field_ref);
    file.resource_field_ref.as_mut().map(fill_resource_ref);
}

/// A limit without a request asks for as much as it allows.
fn requests_from_limits(container: &mut Container) {
    let Some(resources) = &mut container.resources else { return };
    let Some(limits) = resources.limits.clone() else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

fn tolerate_lost_nodes(spec: &mut PodSpec) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |toleration: &Toleration| {
            let own_key = toleration.key.as_deref().unwrap_or_default();
            let effect = toleration.effect.as_deref().unwrap_or_default();
            (own_key == key || own_key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        };
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.iter().any(covers) {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(LOST_NODE_SECONDS),
                value: None,
            });
        }
    }
}

/// The class by which the kernel ranks pods when memory ends: `Guaranteed` when every container
/// limits cpu and memory and requests as much, `BestEffort` when none says anything, else `Burstable`.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let resources = container.resources.clone().unwrap_or_default();
        let limits = resources.limits.unwrap_or_default();
        let requests = resources.requests.unwrap_or_default();
        for name in ["cpu", "memory"] {
            let amount = |text: Option<&Text>| {
                let amount = crate::object::quantity::Quantity::parse(&text?.0).ok()?;
                (!amount.is_zero()).then_some(amount)
            };
            let (limit, request) = (amount(limits.get(name)), amount(requests.get(name)));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Text that is absent or empty gets its default.
pub fn or_text(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

/// A number that is absent or 0 gets its default: the reference server cannot tell them apart.
fn or_number(field: &mut Option<i32>, default: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(default);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "Always"),
        ] {
            assert_eq!(default_pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_volume_with_a_name_only_is_an_empty_dir() {
        let mut volume = Volume { name: "v".into(), ..Volume::default() };
        fill_volume(&mut volume);
        assert!(volume.empty_dir.is_some());
    }

    #[test]
    fn the_quality_class_follows_requests_and_limits() {
        let class = |resources: serde_json::Value| {
            let spec = serde_json::from_value(json!({"containers": [
                {"name": "a", "image": "i", "resources": resources}]}));
            qos_class(&spec.unwrap())
        };
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
        assert_eq!(class(json!({"limits": {"cpu": "1"}})), "Burstable");
        assert_eq!(class(json!({"requests": {"cpu": "1m"}})), "Burstable");
    }
}
