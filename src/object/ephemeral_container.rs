//! Pure: an ephemeral container, which somebody adds to a running pod to look into it. It is written as
//! a container is, but for the container whose processes it sees.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

/// The same as a container of the pod.
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let own = ephemeral.clone();
    Container {
        args: own.args,
        command: own.command,
        env: own.env,
        env_from: own.env_from,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        lifecycle: own.lifecycle,
        liveness_probe: own.liveness_probe,
        name: own.name,
        ports: own.ports,
        readiness_probe: own.readiness_probe,
        resize_policy: own.resize_policy,
        resources: own.resources,
        restart_policy: own.restart_policy,
        restart_policy_rules: own.restart_policy_rules,
        security_context: own.security_context,
        startup_probe: own.startup_probe,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        tty: own.tty,
        volume_devices: own.volume_devices,
        volume_mounts: own.volume_mounts,
        working_dir: own.working_dir,
    }
}

/// The other way round: what is written of a container, and whose processes it sees.
pub fn of_container(own: Container, target: Option<String>) -> EphemeralContainer {
    EphemeralContainer {
        args: own.args,
        command: own.command,
        env: own.env,
        env_from: own.env_from,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        lifecycle: own.lifecycle,
        liveness_probe: own.liveness_probe,
        name: own.name,
        ports: own.ports,
        readiness_probe: own.readiness_probe,
        resize_policy: own.resize_policy,
        resources: own.resources,
        restart_policy: own.restart_policy,
        restart_policy_rules: own.restart_policy_rules,
        security_context: own.security_context,
        startup_probe: own.startup_probe,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        target_container_name: target,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        tty: own.tty,
        volume_devices: own.volume_devices,
        volume_mounts: own.volume_mounts,
        working_dir: own.working_dir,
    }
}

/// The ephemeral containers of a pod, each as a container.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = Container> + '_ {
    spec.ephemeral_containers.iter().flatten().map(as_container)
}

/// Whatever may run in a pod: init containers, its own, ephemeral ones.
pub fn every_container(spec: &PodSpec) -> impl Iterator<Item = Cow<'_, Container>> {
    let init = spec.init_containers.iter().flatten();
    let written = init.chain(&spec.containers).map(Cow::Borrowed);
    written.chain(containers(spec).map(Cow::Owned))
}

/// The name of every such container.
pub fn every_name(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let init = spec.init_containers.iter().flatten();
    let written = init.chain(&spec.containers).map(|container| &*container.name);
    written.chain(spec.ephemeral_containers.iter().flatten().map(|one| &*one.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_container_with_a_target() {
        let written: EphemeralContainer = serde_json::from_value(serde_json::json!({
            "name": "debugger", "image": "tools:1", "command": ["sh"], "stdin": true, "tty": true,
            "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}], "targetContainerName": "web"}))
        .expect("one");
        let again = of_container(as_container(&written), Some("web".to_owned()));
        assert_eq!(again, written);
    }
}
