//! Pure: which containers of a pod run beside each other.
//!
//! A sidecar is an init container with `restartPolicy: Always` (KEP-753): it starts in its place
//! among the init containers, the next one waits until it has started and not until it ended, it is
//! restarted whatever the pod's policy says, and it is stopped after the pod's own containers, the
//! last started first. Its instances have the role of an init container.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::node::instance::{Instance, Role};
use crate::node::pod_plan::latest;

/// Of an init container: whether it stays.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The containers that are kept running, in the order they start.
pub fn lasting(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let sidecars = spec.init_containers.iter().flatten().filter(|init| is_sidecar(init));
    let sidecars = sidecars.map(|container| (Role::Init, container));
    sidecars.chain(spec.containers.iter().map(|container| (Role::Container, container)))
}

/// The container an instance was made of; `None`: the manifest has none of that name.
pub fn container_of<'a>(spec: &'a PodSpec, instance: &Instance) -> Option<&'a Container> {
    let list = match instance.identity.role {
        Role::Init => spec.init_containers.as_deref().unwrap_or_default(),
        Role::Container => &spec.containers,
        // It is made of what `object::ephemeral_container` makes of it: it has no hooks and no probes.
        Role::Sandbox | Role::Spare | Role::Ephemeral => return None,
    };
    list.iter().find(|container| container.name == instance.identity.container)
}

/// How an Event names a container of a pod.
pub fn field_path(pod: &Pod, container: &str) -> String {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let is_init = init.into_iter().any(|one| one.name == container);
    let ephemeral = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    let is_ephemeral = ephemeral.into_iter().any(|one| one.name == container);
    let list = match (is_init, is_ephemeral) {
        (true, _) => "initContainers",
        (_, true) => "ephemeralContainers",
        _ => "containers",
    };
    format!("spec.{list}{{{container}}}")
}

/// What counts when a container has ended: the pod's word, but a sidecar is always restarted.
pub fn restart_policy<'a>(spec: &'a PodSpec, role: Role, container: &Container) -> &'a str {
    if role == Role::Init && is_sidecar(container) {
        return "Always";
    }
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// Whether a container of an ending pod may be told to stop: a sidecar waits for the pod's own
/// containers and for the sidecars after it. Plain init containers are waited for by nobody.
pub fn may_stop(spec: &PodSpec, instances: &[Instance], instance: &Instance) -> bool {
    let init = || spec.init_containers.iter().flatten();
    let place = init().position(|container| container.name == instance.identity.container);
    let Some(place) = place.filter(|_| instance.identity.role == Role::Init) else { return true };
    let is_running = |role: Role, container: &Container| {
        latest(instances, role, &container.name).is_some_and(Instance::is_running)
    };
    if !init().nth(place).is_some_and(is_sidecar) {
        return true;
    }
    let own = spec.containers.iter().any(|container| is_running(Role::Container, container));
    let mut later = init().skip(place + 1).filter(|container| is_sidecar(container));
    !own && !later.any(|container| is_running(Role::Init, container))
}
