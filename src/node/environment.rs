//! Pure: a container's environment, and the `$(VAR)` in its command and arguments.
//!
//! The kubelet's order (`kubelet_pods.go` makeEnvironmentVariables): service links first, then
//! `envFrom`, then `env`; of two with one name the later counts. `$(NAME)` stands for a variable
//! defined before it, `$$` for a dollar sign, and an unknown `$(NAME)` stays as it is written.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service,
};

use crate::node::registry_credentials;
use crate::object::ephemeral_container::every_container;
use crate::object::quantity::Quantity;
use crate::object::{Key, Object, go_text};

/// What a pod's environment and volumes are filled from: the objects as the watch last told them.
/// A key with `None` was asked for and does not exist; a key that is absent is not known yet.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<Key, Option<Arc<ConfigMap>>>,
    pub secrets: BTreeMap<Key, Option<Arc<Secret>>>,
    pub services: Vec<Arc<Service>>,
}

/// What the node knows and a `fieldRef` may ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub node_name: String,
    pub host_ip: Ipv4Addr,
    pub pod_ip: Option<Ipv4Addr>,
    /// The node's cores and bytes, for a `resourceFieldRef` to a limit that is not set.
    pub cpus: i64,
    pub memory: i64,
}

/// A container's variables and its expanded command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NAME=value`, one a name.
    pub env: Vec<String>,
    pub command: Vec<String>,
    pub arguments: Vec<String>,
    /// Keys of `envFrom` that are no variable names, for an Event.
    pub skipped: Vec<String>,
}

/// Which ConfigMaps and Secrets a pod names, by environment or volume, or to pull its images with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub config_maps: Vec<Key>,
    pub secrets: Vec<Key>,
}

/// Every ConfigMap and Secret that must be read before the pod's containers can be made.
pub fn named(pod: &Pod) -> Named {
    let namespace = pod.key().namespace;
    let mut named = Named::default();
    let Some(spec) = &pod.spec else { return named };
    for container in every_container(spec) {
        for source in container.env_from.iter().flatten() {
            let config = source.config_map_ref.as_ref().map(|reference| &reference.name);
            named.config_maps.extend(config.map(|name| Key::new(&namespace, name)));
            let secret = source.secret_ref.as_ref().map(|reference| &reference.name);
            named.secrets.extend(secret.map(|name| Key::new(&namespace, name)));
        }
        for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
            let config = source.config_map_key_ref.as_ref().map(|reference| &reference.name);
            named.config_maps.extend(config.map(|name| Key::new(&namespace, name)));
            let secret = source.secret_key_ref.as_ref().map(|reference| &reference.name);
            named.secrets.extend(secret.map(|name| Key::new(&namespace, name)));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        let config = volume.config_map.as_ref().map(|source| &source.name);
        named.config_maps.extend(config.map(|name| Key::new(&namespace, name)));
        let secret = volume.secret.as_ref().and_then(|source| source.secret_name.as_ref());
        named.secrets.extend(secret.map(|name| Key::new(&namespace, name)));
        for source in volume.projected.iter().flat_map(|all| all.sources.iter().flatten()) {
            let config = source.config_map.as_ref().map(|own| Key::new(&namespace, &own.name));
            named.config_maps.extend(config);
            let secret = source.secret.as_ref().map(|own| Key::new(&namespace, &own.name));
            named.secrets.extend(secret);
        }
    }
    let pulls = registry_credentials::named(pod);
    named.secrets.extend(pulls.map(|name| Key::new(&namespace, name)));
    for list in [&mut named.config_maps, &mut named.secrets] {
        list.sort();
        list.dedup();
    }
    named
}

/// Whether the container can be made only when the pod has its address.
pub fn needs_pod_ip(container: &Container) -> bool {
    names_field(container, "status.podIP")
}

/// Whether the container can be made only when the node has its address.
pub fn needs_host_ip(container: &Container) -> bool {
    names_field(container, "status.hostIP")
}

fn names_field(container: &Container, path: &str) -> bool {
    container.env.iter().flatten().any(|variable| {
        let source = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
        source.is_some_and(|field| field.field_path.starts_with(path))
    })
}

/// # Errors
/// The kubelet's sentence behind `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    place: &Place,
) -> Result<Environment, String> {
    let namespace = pod.key().namespace;
    let links = pod.spec.as_ref().is_none_or(|spec| spec.enable_service_links != Some(false));
    let services = service_variables(&sources.services, &namespace, links);
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    let mut skipped = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let mut take = |name: &str, value: String| {
            let name = format!("{prefix}{name}");
            if is_variable_name(&name) {
                variables.insert(name, value);
            } else {
                skipped.push(name);
            }
        };
        if let Some(reference) = &source.config_map_ref {
            let key = Key::new(&namespace, &reference.name);
            for (name, value) in config_map(sources, &key, reference.optional)?
                .iter()
                .flat_map(|map| map.data.iter().flatten())
            {
                take(name, value.clone());
            }
        }
        if let Some(reference) = &source.secret_ref {
            let key = Key::new(&namespace, &reference.name);
            for (name, value) in secret(sources, &key, reference.optional)?
                .iter()
                .flat_map(|secret| secret.data.iter().flatten())
            {
                take(name, String::from_utf8_lossy(&value.0).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => match referred(pod, container, source, sources, place)? {
                Some(value) => value,
                // An optional key that does not exist leaves the variable out.
                None => continue,
            },
            (Some(written), None) => {
                expand(written, |name| variables.get(name).or_else(|| services.get(name)).cloned())
            }
            (None, None) => String::new(),
        };
        variables.insert(variable.name.clone(), value);
    }
    for (name, value) in services {
        variables.entry(name).or_insert(value);
    }
    let expand_all = |words: &Option<Vec<String>>| {
        let one = |word: &String| expand(word, |name| variables.get(name).cloned());
        words.iter().flatten().map(one).collect()
    };
    Ok(Environment {
        command: expand_all(&container.command),
        arguments: expand_all(&container.args),
        env: variables.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        skipped,
    })
}

/// Kubernetes' rule since 1.34: any printable ASCII but `=`.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

fn config_map(
    sources: &Sources,
    key: &Key,
    optional: Option<bool>,
) -> Result<Option<Arc<ConfigMap>>, String> {
    match sources.config_maps.get(key).cloned().flatten() {
        Some(map) => Ok(Some(map)),
        None if optional == Some(true) => Ok(None),
        None => Err(format!("configmap \"{}\" not found", key.name)),
    }
}

fn secret(
    sources: &Sources,
    key: &Key,
    optional: Option<bool>,
) -> Result<Option<Arc<Secret>>, String> {
    match sources.secrets.get(key).cloned().flatten() {
        Some(secret) => Ok(Some(secret)),
        None if optional == Some(true) => Ok(None),
        None => Err(format!("secret \"{}\" not found", key.name)),
    }
}

fn referred(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
    place: &Place,
) -> Result<Option<String>, String> {
    let namespace = pod.key().namespace;
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, place).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return resource_value(pod, Some(container), field, place).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let key = Key::new(&namespace, &reference.name);
        let map = config_map(sources, &key, reference.optional)?;
        let value = map.and_then(|map| map.data.as_ref()?.get(&reference.key).cloned());
        return match value {
            Some(value) => Ok(Some(value)),
            None if reference.optional == Some(true) => Ok(None),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                reference.key, reference.name
            )),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let key = Key::new(&namespace, &reference.name);
        let secret = secret(sources, &key, reference.optional)?;
        let value = secret.and_then(|secret| {
            let bytes = secret.data.as_ref()?.get(&reference.key)?;
            Some(String::from_utf8_lossy(&bytes.0).into_owned())
        });
        return match value {
            Some(value) => Ok(Some(value)),
            None if reference.optional == Some(true) => Ok(None),
            None => Err(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                reference.key, reference.name
            )),
        };
    }
    Err("valueFrom names no source".to_owned())
}

/// The value of a downward field.
///
/// # Errors
/// A path that Kubernetes does not know, or an address that the pod does not have yet.
pub fn field_value(pod: &Pod, path: &str, place: &Place) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let of_map = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    let whole_map = |map: &Option<BTreeMap<String, String>>| {
        let line = |(key, value): (&String, &String)| format!("{key}={}", go_text::quoted(value));
        map.iter().flatten().map(line).collect::<Vec<_>>().join("\n")
    };
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(of_map(&meta.labels, key));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(of_map(&meta.annotations, key));
    }
    let pod_ip = || {
        let ip = place.pod_ip.map(|ip| ip.to_string());
        ip.ok_or_else(|| "the pod has no address yet".to_owned())
    };
    match path {
        // A file may tell them whole, one a line (kubelet `fieldpath.FormatMap`).
        "metadata.labels" => Ok(whole_map(&meta.labels)),
        "metadata.annotations" => Ok(whole_map(&meta.annotations)),
        "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
        "spec.nodeName" => Ok(place.node_name.clone()),
        "spec.serviceAccountName" => {
            Ok(spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default())
        }
        "status.hostIP" | "status.hostIPs" => Ok(place.host_ip.to_string()),
        "status.podIP" | "status.podIPs" => pod_ip(),
        other => Err(format!("unsupported fieldPath: {other}")),
    }
}

/// The key of `metadata.labels['key']`.
fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

/// What a container asks for or may use, in the divisor's units. `own` is whose it is where the field
/// names none.
///
/// # Errors
/// A container or a resource that is not there.
pub fn resource_value(
    pod: &Pod,
    own: Option<&Container>,
    field: &ResourceFieldSelector,
    place: &Place,
) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let named = field.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match (named, own) {
        (None, Some(own)) => own,
        (name, _) => spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .find(|container| Some(&*container.name) == name)
            .ok_or_else(|| format!("container {} not found", name.unwrap_or_default()))?,
    };
    let resources = container.resources.clone().unwrap_or_default();
    let (kind, name) = field.resource.split_once('.').unwrap_or(("", &field.resource));
    let list = match kind {
        "limits" => resources.limits,
        "requests" => resources.requests,
        _ => return Err(format!("unsupported container resource : {}", field.resource)),
    };
    let written = list.as_ref().and_then(|list| list.get(name));
    let parsed = written.and_then(|quantity| Quantity::parse(&quantity.0).ok());
    let whole = match (kind, name) {
        (_, "cpu") => Quantity::from_units(place.cpus),
        (_, "memory") => Quantity::from_bytes(place.memory),
        _ => Quantity::ZERO,
    };
    let none = if kind == "limits" { whole } else { Quantity::ZERO };
    let amount = parsed.unwrap_or(none);
    let divisor = field.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let divisor = divisor.filter(|divisor| !divisor.is_zero()).unwrap_or(Quantity::from_units(1));
    // Kubernetes divides CPUs in thousandths and the rest in units, and rounds up.
    let (amount, divisor) = if name == "cpu" {
        (amount.millis(), divisor.millis())
    } else {
        (amount.units(), divisor.units())
    };
    let divisor = divisor.max(1);
    Ok((amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)).to_string())
}

/// Expands `$(NAME)` (third_party/forked/golang/expansion).
pub fn expand(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) =
            tail.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match value_of(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

/// Docker-links variables of the Services a pod sees: those of its namespace if it wants links, and
/// `kubernetes` of `default` always.
fn service_variables(
    services: &[Arc<Service>],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let key = service.key();
        let is_master = key.namespace == "default" && key.name == "kubernetes";
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")
        else {
            continue;
        };
        let ports = spec.ports.clone().unwrap_or_default();
        if !(is_master || (links && key.namespace == namespace)) || ports.is_empty() {
            continue;
        }
        let prefix = key.name.to_uppercase().replace('-', "_");
        let mut set = |name: String, value: String| variables.insert(name, value);
        set(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        set(format!("{prefix}_SERVICE_PORT"), ports[0].port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) {
                let name = name.to_uppercase().replace('-', "_");
                set(format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string());
            }
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let url = format!("{}://{ip}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                set(format!("{prefix}_PORT"), url.clone());
            }
            let head = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            set(head.clone(), url);
            set(format!("{head}_PROTO"), protocol.to_lowercase());
            set(format!("{head}_PORT"), port.port.to_string());
            set(format!("{head}_ADDR"), ip.to_owned());
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place() -> Place {
        Place {
            node_name: "n1".into(),
            host_ip: Ipv4Addr::new(192, 0, 2, 2),
            pod_ip: Some(Ipv4Addr::new(10, 42, 0, 9)),
            cpus: 2,
            memory: 1 << 30,
        }
    }

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u",
            "labels": {"app": "web"}}, "spec": {"containers": [container]}}))
        .expect("a pod")
    }

    fn made(pod: &Pod, sources: &Sources) -> Result<Environment, String> {
        environment(pod, &pod.spec.as_ref().expect("spec").containers[0], sources, &place())
    }

    #[test]
    fn dollars_are_expanded_as_the_reference_does() {
        let value = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expanded) in [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("x$(A)y$(A)", "x1y1"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
        ] {
            assert_eq!(expand(text, value), expanded, "{text}");
        }
    }

    #[test]
    fn later_variables_win_and_see_earlier_ones() {
        let config: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "n"}, "data": {"A": "from", "B": "b"}}),
        )
        .expect("a config map");
        let key = Key::new("n", "c");
        let sources =
            Sources { config_maps: [(key, Some(Arc::new(config)))].into(), ..Sources::default() };
        let pod = pod(json!({"name": "web", "command": ["$(A)", "$(NONE)"],
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "env": [{"name": "A", "value": "own"}, {"name": "C", "value": "$(A)-$(B)-$$(A)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]}));
        let made = made(&pod, &sources).expect("an environment");
        assert_eq!(made.env, ["A=own", "APP=web", "B=b", "C=own-b-$(A)", "IP=10.42.0.9"]);
        assert_eq!(made.command, ["own", "$(NONE)"]);
    }

    #[test]
    fn resources_are_told_in_the_divisors_units_rounded_up() {
        let own = json!({"name": "web", "resources": {
            "requests": {"cpu": "250m", "memory": "100M", "ephemeral-storage": "1Gi"},
            "limits": {"cpu": "1500m"}}});
        let told = |resource: &str, divisor: &str, of: &str| {
            let mut container = own.clone();
            container["env"] = json!([{"name": "V", "valueFrom": {"resourceFieldRef":
                {"resource": resource, "divisor": divisor, "containerName": of}}}]);
            let mut pod = pod(container);
            pod.spec.as_mut().expect("spec").init_containers = Some(
                serde_json::from_value(
                    json!([{"name": "early", "resources": {"limits": {"cpu": "3"}}}]),
                )
                .expect("containers"),
            );
            made(&pod, &Sources::default()).map(|made| made.env[0].clone())
        };
        // (resource, divisor, whose, told): an absent limit is the node's 2 cores and 1 GiB.
        for (resource, divisor, of, value) in [
            ("limits.cpu", "0", "", "V=2"),
            ("limits.cpu", "1m", "", "V=1500"),
            ("requests.cpu", "1m", "web", "V=250"),
            ("requests.memory", "1Mi", "", "V=96"),
            ("limits.memory", "0", "", "V=1073741824"),
            ("limits.cpu", "0", "early", "V=3"),
            ("requests.ephemeral-storage", "1Mi", "", "V=1024"),
        ] {
            assert_eq!(
                told(resource, divisor, of).as_deref(),
                Ok(value),
                "{resource} {divisor} {of}"
            );
        }
        assert_eq!(told("limits.cpu", "0", "none"), Err("container none not found".into()));
    }

    #[test]
    fn what_is_missing_is_named_in_the_reference_words() {
        let missing = pod(json!({"name": "web", "envFrom": [{"secretRef": {"name": "s"}}]}));
        assert_eq!(made(&missing, &Sources::default()), Err("secret \"s\" not found".into()));
        let sources = Sources {
            config_maps: [(Key::new("n", "c"), Some(Arc::default()))].into(),
            ..Sources::default()
        };
        let no_key = pod(json!({"name": "web", "env": [{"name": "A",
            "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}));
        assert_eq!(made(&no_key, &sources), Err("couldn't find key k in ConfigMap n/c".into()));
        let optional = pod(json!({"name": "web", "env": [{"name": "A",
            "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": true}}}]}));
        assert_eq!(made(&optional, &sources).expect("fine").env, Vec::<String>::new());
    }

    #[test]
    fn services_of_the_namespace_are_linked() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "my-db", "namespace": "n"},
            "spec": {"clusterIP": "10.43.0.5", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}}))
        .expect("a service");
        let sources = Sources { services: vec![Arc::new(service)], ..Sources::default() };
        let linked = made(&pod(json!({"name": "web"})), &sources).expect("fine").env;
        assert!(linked.contains(&"MY_DB_SERVICE_HOST=10.43.0.5".to_owned()));
        assert!(linked.contains(&"MY_DB_PORT_5432_TCP_ADDR=10.43.0.5".to_owned()));
        assert!(linked.contains(&"MY_DB_SERVICE_PORT_SQL=5432".to_owned()));
        assert_eq!(linked.len(), 8);
    }
}
