//! Pure: how the processes of a pod are confined: as whom they run, with which groups, capabilities
//! and profiles, and how many they may be.
//!
//! The container's word counts before the pod's, and where both are silent the image's user. Rules and
//! words are the kubelet's (`kuberuntime/security_context.go`, `pkg/security/apparmor/validate.go`).
//! Two differences: without a word about seccomp a container has the engine's profile, where Kubernetes'
//! default is none; and a limit of processes holds for each container, where the kubelet's is a pod's.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};

use crate::node::instance::{Instance, Role};
use crate::object::Object;

/// The filter of system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The engine's own.
    #[default]
    Engine,
    Unconfined,
    /// The text of a profile of this host.
    Given(String),
}

/// A file of the host's that a container names as its filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeccompSource {
    Known(Seccomp),
    /// Below the node's own folder of profiles.
    File(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AppArmor {
    /// The engine's own, where the host has AppArmor.
    #[default]
    Engine,
    Unconfined,
    /// Loaded on the host under this name.
    Named(String),
}

/// What the node found out for one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confined {
    /// `uid`, `uid:gid` or `name:gid`; `None` is the image's own.
    pub user: Option<String>,
    pub seccomp: Seccomp,
}

fn of_pod(pod: &Pod) -> PodSecurityContext {
    pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default()
}

fn of_container(container: &Container) -> SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

/// Whether the image's user must be known to say as whom a container runs.
pub fn asks_for_image_user(pod: &Pod, container: &Container) -> bool {
    let (all, own) = (of_pod(pod), of_container(container));
    own.run_as_user.or(all.run_as_user).is_none()
        && (own.run_as_group.or(all.run_as_group).is_some()
            || own.run_as_non_root.or(all.run_as_non_root) == Some(true))
}

/// As whom a container runs, given the user that its image names (`app`, `1000:1000`, or nothing).
///
/// # Errors
/// The kubelet's sentence where it must not run as root, and does or may.
pub fn user(pod: &Pod, container: &Container, of_image: &str) -> Result<Option<String>, String> {
    let (all, own) = (of_pod(pod), of_container(container));
    let (uid, gid) = (own.run_as_user.or(all.run_as_user), own.run_as_group.or(all.run_as_group));
    // The image's group goes with its user: what is asked for replaces it.
    let name = of_image.split(':').next().unwrap_or_default();
    let name = if name.is_empty() { "0" } else { name };
    if own.run_as_non_root.or(all.run_as_non_root) == Some(true) {
        let key = pod.key();
        let whose = || {
            let (name, namespace, uid) = (&key.name, &key.namespace, pod.uid());
            format!("(pod: \"{name}_{namespace}({uid})\", container: {})", container.name)
        };
        let of_image = name.parse::<u64>();
        match (uid, of_image) {
            (Some(0), _) => {
                return Err(format!("container's runAsUser breaks non-root policy {}", whose()));
            }
            (Some(_), _) => {}
            (None, Ok(0)) => {
                return Err(format!(
                    "container has runAsNonRoot and image will run as root {}",
                    whose()
                ));
            }
            (None, Ok(_)) => {}
            (None, Err(_)) => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {}",
                    whose()
                ));
            }
        }
    }
    Ok(match (uid, gid) {
        (Some(uid), Some(gid)) => Some(format!("{uid}:{gid}")),
        (Some(uid), None) => Some(uid.to_string()),
        (None, Some(gid)) => Some(format!("{name}:{gid}")),
        (None, None) => None,
    })
}

/// The groups that a pod's processes have beside those of their user.
pub fn supplemental_groups(pod: &Pod) -> Vec<String> {
    let groups = of_pod(pod).supplemental_groups;
    groups.into_iter().flatten().map(|group| group.to_string()).collect()
}

/// Capabilities as engines name them: in capitals and without `CAP_`.
pub fn capabilities(written: Option<Vec<String>>) -> Vec<String> {
    let named = |name: String| {
        let name = name.to_uppercase();
        name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned)
    };
    written.into_iter().flatten().map(named).collect()
}

/// Which filter of system calls a container has.
pub fn seccomp(pod: &Pod, container: &Container) -> SeccompSource {
    let profile = of_container(container).seccomp_profile.or(of_pod(pod).seccomp_profile);
    let Some(profile) = profile else { return SeccompSource::Known(Seccomp::Engine) };
    match (profile.type_.as_str(), profile.localhost_profile) {
        ("Unconfined", _) => SeccompSource::Known(Seccomp::Unconfined),
        ("Localhost", Some(file)) => SeccompSource::File(file),
        _ => SeccompSource::Known(Seccomp::Engine),
    }
}

/// Which AppArmor profile a container has; `None`: it says nothing of one.
fn asked_app_armor(pod: &Pod, container: &Container) -> Option<AppArmor> {
    let profile = of_container(container).app_armor_profile.or(of_pod(pod).app_armor_profile)?;
    Some(match (profile.type_.as_str(), profile.localhost_profile) {
        ("Unconfined", _) => AppArmor::Unconfined,
        ("Localhost", Some(name)) => AppArmor::Named(name),
        _ => AppArmor::Engine,
    })
}

pub fn app_armor(pod: &Pod, container: &Container) -> AppArmor {
    asked_app_armor(pod, container).unwrap_or_default()
}

/// Why a container that asks for a profile cannot have one on this host, in the kubelet's words.
pub fn app_armor_refusal(pod: &Pod, container: &Container, host_has_it: bool) -> Option<String> {
    let asked = asked_app_armor(pod, container)?;
    (!host_has_it && asked != AppArmor::Unconfined)
        .then(|| "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned())
}

/// The kernel parameters of a pod's own namespaces.
pub fn sysctls(pod: &Pod) -> Vec<(String, String)> {
    let written = of_pod(pod).sysctls.into_iter().flatten();
    // Both spellings are the kernel's.
    written.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value)).collect()
}

/// Whether a pod lives on its host's network: it has the host's address and no namespace of its own.
pub fn is_on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}

/// A pod's instances; the engine knows no address of a sandbox that has the host's.
pub fn addressed(pod: &Pod, mut instances: Vec<Instance>, host: Ipv4Addr) -> Vec<Instance> {
    if is_on_host_network(pod) {
        for sandbox in instances.iter_mut().filter(|one| one.identity.role == Role::Sandbox) {
            sandbox.ip = sandbox.is_running().then_some(host);
        }
    }
    instances
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(of_pod: Value, own: Value) -> (Pod, Container) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]}}))
        .expect("a pod");
        let container = pod.spec.as_ref().expect("a spec").containers[0].clone();
        (pod, container)
    }

    #[test]
    fn a_container_runs_as_it_says_or_as_its_image() {
        let ids = |user: Value, group: Value| json!({"runAsUser": user, "runAsGroup": group});
        let nothing = Value::Null;
        for (of_pod, own, image, wanted) in [
            (json!({}), json!({}), "app:app", None),
            (ids(json!(1), json!(2)), json!({}), "app", Some("1:2")),
            (ids(json!(1), json!(2)), ids(json!(3), nothing.clone()), "app", Some("3:2")),
            (ids(json!(1), nothing.clone()), json!({}), "", Some("1")),
            (ids(nothing.clone(), json!(2)), json!({}), "app:staff", Some("app:2")),
            (ids(nothing.clone(), json!(2)), json!({}), "", Some("0:2")),
            (json!({"runAsNonRoot": true}), json!({}), "1000:0", None),
            (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "root", None),
        ] {
            let (pod, container) = pod(of_pod, own);
            let user = user(&pod, &container, image).expect("it may run");
            assert_eq!(user.as_deref(), wanted, "{image}");
        }
        let asks = |of_pod: Value, own: Value| {
            let (pod, container) = pod(of_pod, own);
            asks_for_image_user(&pod, &container)
        };
        assert!(asks(json!({}), ids(nothing.clone(), json!(2))));
        assert!(asks(json!({"runAsNonRoot": true}), json!({})));
        assert!(!asks(json!({"runAsNonRoot": true}), ids(json!(7), nothing)));
        assert!(!asks(json!({}), json!({})));
    }

    #[test]
    fn a_promise_not_to_be_root_is_kept() {
        let whose = "(pod: \"p_n(u)\", container: c)";
        for (own, image, wanted) in [
            (json!({}), "", "container has runAsNonRoot and image will run as root"),
            (json!({}), "0:7", "container has runAsNonRoot and image will run as root"),
            (
                json!({}),
                "app:7",
                "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root",
            ),
            // Named root is no number either: the kubelet says so, not that it is root.
            (
                json!({}),
                "root",
                "container has runAsNonRoot and image has non-numeric user (root), cannot verify user is non-root",
            ),
            (json!({"runAsUser": 0}), "7", "container's runAsUser breaks non-root policy"),
        ] {
            let (pod, container) = pod(json!({"runAsNonRoot": true}), own);
            let refused = user(&pod, &container, image).expect_err(image);
            assert_eq!(refused, format!("{wanted} {whose}"));
        }
    }

    #[test]
    fn profiles_are_the_containers_before_the_pods() {
        let profiles = |kind: &str, file: Option<&str>| {
            let profile = json!({"type": kind, "localhostProfile": file});
            json!({"seccompProfile": profile, "appArmorProfile": profile})
        };
        let known = SeccompSource::Known;
        for (of_pod, own, filter, armor) in [
            (json!({}), json!({}), known(Seccomp::Engine), AppArmor::Engine),
            (
                profiles("Unconfined", None),
                json!({}),
                known(Seccomp::Unconfined),
                AppArmor::Unconfined,
            ),
            (
                profiles("Unconfined", None),
                profiles("RuntimeDefault", None),
                known(Seccomp::Engine),
                AppArmor::Engine,
            ),
            (
                json!({}),
                profiles("Localhost", Some("a/b")),
                SeccompSource::File("a/b".into()),
                AppArmor::Named("a/b".into()),
            ),
        ] {
            let (pod, container) = pod(of_pod, own);
            assert_eq!((seccomp(&pod, &container), app_armor(&pod, &container)), (filter, armor));
        }
        let refused = |own: Value, host_has_it| {
            let (pod, container) = pod(json!({}), own);
            app_armor_refusal(&pod, &container, host_has_it)
        };
        let sentence = Some("Cannot enforce AppArmor: AppArmor is not enabled on the host".into());
        assert_eq!(refused(profiles("RuntimeDefault", None), false), sentence);
        assert_eq!(refused(profiles("Localhost", Some("x")), false), sentence);
        assert_eq!(refused(profiles("Localhost", Some("x")), true), None);
        assert_eq!(refused(profiles("Unconfined", None), false), None);
        assert_eq!(refused(json!({}), false), None);
    }

    #[test]
    fn names_are_the_engines() {
        let written = ["NET_ADMIN", "CAP_SYS_TIME", "cap_chown", "ALL"];
        let written = Some(written.map(str::to_owned).to_vec());
        assert_eq!(capabilities(written), ["NET_ADMIN", "SYS_TIME", "CHOWN", "ALL"]);
        let (pod, _) = pod(
            json!({"supplementalGroups": [7, 8], "sysctls": [{"name": "net/ipv4/a", "value": "1"}]}),
            json!({}),
        );
        assert_eq!(supplemental_groups(&pod), ["7", "8"]);
        assert_eq!(sysctls(&pod), [("net.ipv4.a".to_owned(), "1".to_owned())]);
    }
}
