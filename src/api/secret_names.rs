//! Pure: which Secrets a pod names. A node's agent reads those of its own pods in clear, no others.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::object::ephemeral_container::every_container;

/// Whether the pod's containers or volumes, or its image pulls, need the Secret of its namespace.
pub fn names_secret(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = spec.volumes.iter().flatten().any(|volume| {
        let direct = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref());
        let projected = volume.projected.iter().flat_map(|projected| {
            projected.sources.iter().flatten().filter_map(|source| source.secret.as_ref())
        });
        direct == Some(name) || projected.into_iter().any(|secret| secret.name == name)
    });
    let pulls = spec.image_pull_secrets.iter().flatten().any(|secret| secret.name == name);
    volumes || pulls || every_container(spec).any(|container| container_names(&container, name))
}

fn container_names(container: &Container, name: &str) -> bool {
    let whole = container.env_from.iter().flatten();
    let single = container.env.iter().flatten().filter_map(|env| env.value_from.as_ref());
    whole.into_iter().any(|from| from.secret_ref.as_ref().is_some_and(|secret| secret.name == name))
        || single
            .into_iter()
            .any(|from| from.secret_key_ref.as_ref().is_some_and(|secret| secret.name == name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_name_a_secret() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "mounted"}},
                {"name": "b", "projected": {"sources": [{"secret": {"name": "projected"}}]}}],
            "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "debugged"}}]}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "all"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "X", "valueFrom": {"secretKeyRef": {"name": "one", "key": "k"}}}]}]}}))
        .expect("a pod");
        for name in ["pull", "mounted", "projected", "all", "one", "debugged"] {
            assert!(names_secret(&pod, name), "{name}");
        }
        assert!(!names_secret(&pod, "other") && !names_secret(&Pod::default(), "other"));
    }
}
