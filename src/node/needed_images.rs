//! Which images of a pod are on the node: asked of the engine for what is going to be made.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use tracing::debug;

use crate::node::agent::{Agent, lock};
use crate::node::instance::{Instance, Role};
use crate::node::pod_plan::latest;
use crate::node::runtime::{Runtime, RuntimeError};
use crate::object::Cluster;
use crate::object::ephemeral_container::every_container;

/// Init containers first, ephemeral ones last.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = Cow<'_, Container>> {
    pod.spec.iter().flat_map(every_container)
}

/// Asks the engine for the images of containers that are going to be made and are not known to be
/// there. `None`: it went away.
pub async fn look_for_images<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    pod: &Pod,
    instances: &[Instance],
) -> Option<()> {
    for container in all_containers(pod) {
        let Some(image) = &container.image else { continue };
        let runs = [Role::Container, Role::Init, Role::Ephemeral].into_iter().any(|role| {
            latest(instances, role, &container.name)
                .is_some_and(|i| i.is_running() || i.ended().is_some_and(|e| e.exit_code == 0))
        });
        if runs || lock(&agent.images).is_settled(image) {
            continue;
        }
        match agent.runtime.image(image).await {
            Ok(facts) => {
                lock(&agent.images).see(image, facts.map(|facts| facts.id));
            }
            Err(error @ RuntimeError::Unreachable(_)) => {
                agent.is_away(&error).await;
                return None;
            }
            // An engine that cannot read the name: the plan says so of an invalid one.
            Err(error) => debug!(%image, %error, "image not found"),
        }
    }
    Some(())
}
