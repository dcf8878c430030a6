//! Pure: refusals that depend on a value and that no table of fields can say: host paths that give
//! the host away, images that no engine can name, resources that no node offers, IPv6.

use std::any::Any;

use k8s_openapi::api::core::v1::{Capabilities, Container, PodSpec, Service};

use super::admit::{Admit, Fault, Faults};
use super::field_path::{FieldPath, quoted};
use super::supported::refusal;
use super::supported_storage;
use crate::object::ephemeral_container;
use crate::object::host_path;
use crate::object::privilege::CAPABILITIES;

/// What of a pod this version cannot run although the field itself runs.
pub fn pod_refusals(spec: &PodSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let volumes = path.child("volumes");
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = volumes.index(index);
        if let Some(source) = &volume.host_path {
            faults.extend(host_path_refusal(&source.path, &at.child("hostPath").child("path")));
        }
    }
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let ephemeral: Vec<Container> = ephemeral_container::containers(spec).collect();
    for (field, containers) in [
        ("containers", &spec.containers[..]),
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("ephemeralContainers", &ephemeral),
    ] {
        let list = path.child(field);
        for (index, container) in containers.iter().enumerate() {
            let at = list.index(index);
            faults.extend(container_refusals(container, &at));
            if field == "initContainers" && container.restart_policy.is_none() {
                faults.extend(published_refusals(container, &at));
            }
            let own = container.security_context.clone().unwrap_or_default();
            let wanted = own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true);
            if wanted && own.run_as_user.or(of_pod.run_as_user) == Some(0) {
                let reason = "user 0 is root; name a runAsUser other than 0";
                faults.push(refusal(&at.child("securityContext").child("runAsNonRoot"), reason));
            }
            let path = at.child("securityContext");
            faults.extend(capability_refusals(own.capabilities.as_ref(), &path));
        }
    }
    faults
}

/// The engine knows each by its name, or makes no container.
fn capability_refusals(written: Option<&Capabilities>, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let Some(written) = written else { return faults };
    let path = path.child("capabilities");
    for (field, list) in [("add", &written.add), ("drop", &written.drop)] {
        let path = path.child(field);
        for (index, name) in list.iter().flatten().enumerate() {
            let known = name.to_uppercase();
            let known = known.strip_prefix("CAP_").unwrap_or(&known);
            if known != "ALL" && !CAPABILITIES.contains(&known) {
                let detail = "Linux has no such capability";
                faults.push(path.index(index).invalid(shortened(name), detail));
            }
        }
    }
    faults
}

/// A plain init container runs alone and to its end: nothing reaches it. Its pod's sandbox
/// publishes what the others ask for.
fn published_refusals(container: &Container, path: &FieldPath<'_>) -> Faults {
    let ports = path.child("ports");
    let asked = container.ports.iter().flatten().enumerate();
    let published = asked.filter(|(_, port)| port.host_port.is_some_and(|number| number != 0));
    let reason = "an init container publishes no port; give it to a container";
    published.map(|(index, _)| refusal(&ports.index(index).child("hostPort"), reason)).collect()
}

fn container_refusals(container: &Container, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let image = container.image.as_deref().unwrap_or_default();
    if let Err(sentence) = image_reference(image) {
        faults.push(path.child("image").invalid(shortened(image), sentence));
    }
    for (field, words) in [("command", &container.command), ("args", &container.args)] {
        let list = path.child(field);
        for (index, word) in words.iter().flatten().enumerate() {
            // The kernel ends a word at NUL: the program would not get what was written.
            if word.contains('\0') {
                let sentence = "must not contain NUL characters";
                faults.push(list.index(index).invalid(shortened(word), sentence));
            }
        }
    }
    // An image may still say so itself: only a newer runc (1.1.12) holds there.
    if container.working_dir.as_deref().is_some_and(host_path::names_open_files) {
        let reason =
            "a folder below /proc or /dev can lead out of the container; name one of the image";
        faults.push(refusal(&path.child("workingDir"), reason));
    }
    let resources = container.resources.clone().unwrap_or_default();
    let path = path.child("resources");
    for (field, list) in [("limits", resources.limits), ("requests", resources.requests)] {
        let field = path.child(field);
        for name in list.iter().flat_map(|list| list.keys()) {
            if let Some(reason) = unoffered(name) {
                faults.push(refusal(&field.key(name), reason));
            }
        }
    }
    faults
}

/// Why no node can ever offer a resource. What an operator may declare for a node is waited for, as
/// Kubernetes does it.
fn unoffered(name: &str) -> Option<&'static str> {
    match name.split_once('/') {
        None if matches!(name, "cpu" | "memory" | "ephemeral-storage") => None,
        None if name.starts_with("hugepages-") => Some("huge pages are not given to containers"),
        None => Some("no node offers this resource"),
        Some((domain, _)) if domain.ends_with("kubernetes.io") => {
            Some("no node offers this resource")
        }
        Some(_) => None,
    }
}

/// A megabyte of bad image is not answered whole.
fn shortened(image: &str) -> String {
    match image.char_indices().nth(300) {
        Some((cut, _)) => quoted(&format!("{}…", &image[..cut])),
        None => quoted(image),
    }
}

fn host_path_refusal(path: &str, field: &FieldPath<'_>) -> Option<Fault> {
    host_path::refusal(path).map(|reason| refusal(field, &reason))
}

/// # Errors
/// What is wrong with an image's name, by the grammar that registries and Docker share:
/// `[domain[:port]/]path[:tag][@algorithm:hex]`.
pub fn image_reference(image: &str) -> Result<(), &'static str> {
    /// `NameTotalLengthMax` of the reference grammar.
    const LONGEST_NAME: usize = 255;
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if let Some(digest) = digest
        && !is_digest(digest)
    {
        return Err("the digest is malformed: sha256: and 64 hex digits are expected");
    }
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].split_once(':') {
        Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err("the tag is malformed: up to 128 letters, digits, '_', '.' and '-'");
    }
    if name.len() > LONGEST_NAME {
        return Err("the image's name must be no more than 255 characters");
    }
    let path = match name.split_once('/') {
        Some((first, path)) if is_domain_like(first) => {
            if !is_domain(first) {
                return Err("the registry's host name is malformed");
            }
            path
        }
        _ => name,
    };
    if path.split('/').all(is_component) {
        Ok(())
    } else {
        Err(
            "the image's name is malformed: lower case letters, digits and single separators ('.', '_', '__', '-') between slashes",
        )
    }
}

/// What Docker takes for a host rather than for a part of the path.
fn is_domain_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.split('.').all(part) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|byte| word(*byte)) || !bytes.last().is_some_and(|b| word(*b)) {
        return false;
    }
    bytes.split(|byte| word(*byte)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && inner(tag.as_bytes()[0])
        && tag.bytes().all(|byte| inner(byte) || byte == b'.' || byte == b'-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let known = match algorithm {
        "sha256" => hex.len() == 64,
        "sha384" => hex.len() == 96,
        "sha512" => hex.len() == 128,
        _ => false,
    };
    known && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// What of the other kinds this version cannot run although the field itself runs.
pub fn object_refusals<K: Admit>(object: &K) -> Faults {
    let mut faults = supported_storage::value_refusals(object);
    let Some(service) = (object as &dyn Any).downcast_ref::<Service>() else { return faults };
    let root = FieldPath::root("spec");
    let list = root.child("clusterIPs");
    let addresses = service.spec.as_ref().and_then(|spec| spec.cluster_ips.as_ref());
    for (index, address) in addresses.into_iter().flatten().enumerate() {
        if address.parse::<std::net::Ipv6Addr>().is_ok() || index > 0 {
            faults.push(refusal(&list.index(index), "there is no IPv6"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The fields that are refused, below `spec`.
    fn refused(spec: Value) -> Vec<String> {
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let faults = pod_refusals(&spec, &FieldPath::root("spec"));
        faults.into_iter().map(|fault| fault.field).collect()
    }

    fn with(container: Value, mut pod: Value) -> Vec<String> {
        let mut whole = json!({"name": "c", "image": "i"});
        json_patch::merge(&mut whole, &container);
        pod["containers"] = json!([whole]);
        refused(pod)
    }

    #[test]
    fn a_working_directory_leads_to_nothing_that_is_open() {
        let at = |dir: &str| with(json!({"workingDir": dir}), json!({}));
        for dir in [
            "/proc/self/fd/7",
            "//proc/./1/fd/8",
            "/srv/../proc/thread-self/fd/9",
            "/dev/fd/7",
            "/proc",
        ] {
            assert_eq!(at(dir), ["spec.containers[0].workingDir"], "{dir}");
        }
        for dir in ["/srv", "/", "", "/process", "/srv/proc/self"] {
            assert!(at(dir).is_empty(), "{dir}");
        }
        let first = json!({"initContainers": [{"name": "i", "image": "i", "workingDir": "/proc/self/fd/7"}]});
        assert_eq!(with(json!({}), first), ["spec.initContainers[0].workingDir"]);
    }

    #[test]
    fn a_resource_that_no_node_offers_is_refused() {
        let disk =
            |list: &str| json!({"resources": {list: {"ephemeral-storage": "1Gi", "cpu": "1"}}});
        assert!(with(disk("limits"), json!({})).is_empty());
        assert!(with(disk("requests"), json!({})).is_empty());
        for (name, is_refused) in [
            ("example.com/fpga", false),
            ("nvidia.com/gpu", false),
            ("hugepages-2Mi", true),
            ("coffee", true),
            ("node.kubernetes.io/x", true),
        ] {
            let asked = with(json!({"resources": {"limits": {name: "1"}}}), json!({}));
            let field = format!("spec.containers[0].resources.limits[{name}]");
            assert_eq!(asked, Vec::from_iter(is_refused.then_some(field)), "{name}");
        }
    }

    #[test]
    fn what_contradicts_itself_or_has_no_name_is_refused() {
        let own = |fields: Value| json!({"securityContext": fields});
        let promise = "spec.containers[0].securityContext.runAsNonRoot";
        assert!(with(own(json!({"runAsNonRoot": true, "runAsGroup": 7})), json!({})).is_empty());
        let capabilities = json!({"capabilities": {"add": ["CAP_NET_ADMIN", "net_raw", "NET_ADMN"], "drop": ["ALL", ""]}});
        let list = "spec.containers[0].securityContext.capabilities";
        assert_eq!(
            with(own(capabilities), json!({})),
            [format!("{list}.add[2]"), format!("{list}.drop[1]")]
        );
        let root = own(json!({"runAsNonRoot": true, "runAsUser": 0}));
        assert_eq!(with(root, json!({})), [promise]);
        assert!(with(own(json!({"runAsNonRoot": true})), own(json!({"runAsUser": 7}))).is_empty());
    }

    #[test]
    fn paths_that_give_the_host_away_are_refused_in_every_spelling() {
        let field = FieldPath::root("path");
        for bad in [
            "/",
            "//",
            "/.",
            "/a/..",
            "/proc",
            "/proc/1/root",
            "/sys/",
            "/etc/shadow",
            "/dev/sda",
            "/var/run/docker.sock",
            "/run/docker.sock/",
            "/var/./run//docker.sock",
            "/run",
            "/var",
            "/home/me/docker.sock",
            "/var/lib/docker/volumes",
            "relative",
            "",
            "/a/../../etc",
        ] {
            assert!(host_path_refusal(bad, &field).is_some(), "{bad}");
        }
        for good in ["/data", "/var/log", "/srv/../srv/x", "/etcetera", "/home/me/etc", "/devices"]
        {
            assert!(host_path_refusal(good, &field).is_none(), "{good}");
        }
    }

    #[test]
    fn image_names_follow_the_grammar() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for good in [
            "nginx",
            "nginx:1.27",
            "library/nginx",
            "host:5000/a/b:c",
            "localhost/a",
            "a__b",
            "a--b",
            "registry.example/web:1",
            "Host.example/a",
            &format!("a@{digest}"),
            &format!("a:1@{digest}"),
        ] {
            assert_eq!(image_reference(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "UPPER:1",
            "a/UPPER",
            "a b",
            "a:",
            "a:b c",
            "a//b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a@sha256:0",
            "a@",
            "host:port/a",
            "a\n",
            "é",
            "/a",
            "a:$x",
        ] {
            assert!(image_reference(bad).is_err(), "{bad:?}");
        }
        assert!(image_reference(&"x".repeat(1 << 20)).is_err());
    }
}
