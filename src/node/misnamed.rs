//! Whether containers of a sandbox that was made before its pod have the pod's host name.
//!
//! They get it while they start ([`uts`](crate::node::uts)), and until it is there the program waits.
//! A daemon that is killed just then leaves a program that begins under the sandbox's name, and so may
//! an engine that starts a container after it said that it cannot. So a running container is asked once
//! for its name by every agent that did not give it that name itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use tracing::warn;

use crate::node::host_name;
use crate::node::instance::{Instance, Role};
use crate::node::runtime::Runtime;

/// Running containers of claimed sandboxes of which it is not known yet.
pub fn unsure(instances: &[Instance], known: &BTreeMap<String, bool>) -> Vec<String> {
    let claimed = |id: &String| {
        instances.iter().any(|sandbox| {
            sandbox.id == *id && sandbox.identity.role == Role::Sandbox && sandbox.made_as.is_some()
        })
    };
    let unknown = instances.iter().filter(|one| {
        one.is_running() && one.joined.as_ref().is_some_and(claimed) && !known.contains_key(&one.id)
    });
    unknown.map(|one| one.id.clone()).collect()
}

/// What cannot be asked now is asked again with the next pass: nothing is made anew for a guess.
pub async fn read<R: Runtime>(runtime: &R, pod: &Pod, unsure: Vec<String>) -> Vec<(String, bool)> {
    let Ok(wanted) = host_name::in_kernel(pod) else { return Vec::new() };
    let mut read = Vec::new();
    for id in unsure {
        match runtime.host_name(&id).await {
            Ok(name) => read.push((id, name == wanted)),
            Err(error) => warn!(container = %id, %error, "host name not known"),
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::instance::Life;
    use crate::node::pod_plan::tests::{instance, pod};
    use serde_json::json;

    #[test]
    fn only_containers_of_claimed_sandboxes_are_asked_and_each_once() {
        let pod = pod(json!({}));
        let mut all = vec![
            instance(&pod, Role::Sandbox, "", 0),
            instance(&pod, Role::Container, "web", 0),
            instance(&pod, Role::Container, "web", 1),
        ];
        assert_eq!(unsure(&all, &BTreeMap::new()), [""; 0], "made for its pod");
        all[0].made_as = Some("spare-1".to_owned());
        let known = BTreeMap::from([("web-1".to_owned(), true)]);
        assert_eq!(unsure(&all, &known), ["web-0"]);
        all[1].life = Life::Created;
        assert_eq!(unsure(&all, &known), [""; 0]);
    }
}
