//! What of the stored objects is a node's own: pods that are bound to it and volumes that are on it.
//! A node that is somebody else's now must not reach other nodes' work.

use std::any::Any;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};

use crate::api::access::Identity;
use crate::object::storage::{node_of, provisioner_of};
use crate::object::{ApiError, Object, Reason};

/// # Errors
/// `Forbidden` for a node's agent and an object of another node.
pub(crate) fn owned<K: Object>(who: &Identity, object: &K) -> Result<(), ApiError> {
    let any: &dyn Any = object;
    if let Some(volume) = any.downcast_ref::<PersistentVolume>() {
        return owned_volume(who, volume);
    }
    let Some(pod) = any.downcast_ref::<Pod>() else { return Ok(()) };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if who.owns(node) {
        return Ok(());
    }
    Err(ApiError::new(
        Reason::Forbidden,
        format!(
            "pods \"{}\" is forbidden: {} writes only pods bound to its node, this one is bound to {}",
            pod.metadata.name.as_deref().unwrap_or_default(),
            who.name(),
            node.unwrap_or("none")
        ),
    ))
}

/// An agent makes, fails and removes what it provisions, on its own node; whoever writes volumes by
/// hand removes them by hand.
fn owned_volume(who: &Identity, volume: &PersistentVolume) -> Result<(), ApiError> {
    let (node, provisioner) = (node_of(volume), provisioner_of(volume));
    let is_agent = matches!(who, Identity::NodeAgent { .. });
    if who.owns(node) && (!is_agent || provisioner.is_some()) {
        return Ok(());
    }
    Err(ApiError::new(
        Reason::Forbidden,
        format!(
            "persistentvolumes \"{}\" is forbidden: {} writes only volumes that it provisions on its node, this one is on {}, provisioned by {}",
            volume.metadata.name.as_deref().unwrap_or_default(),
            who.name(),
            node.unwrap_or("none"),
            provisioner.unwrap_or("nobody")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_agent_writes_what_it_provisions_on_its_node() {
        let agent = Identity::NodeAgent { node: "n1".to_owned() };
        let volume = |node: &str, by: Value| -> PersistentVolume {
            serde_json::from_value(json!({
                "metadata": {"name": "v", "annotations": {"pv.kubernetes.io/provisioned-by": by}},
                "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}}))
            .expect("decodes")
        };
        assert!(owned(&agent, &volume("n1", json!("ballast.dev/local-path"))).is_ok());
        let message = |node, by| owned(&agent, &volume(node, by)).expect_err("refused").message;
        assert_eq!(
            message("n2", json!("ballast.dev/local-path")),
            "persistentvolumes \"v\" is forbidden: system:node:n1 writes only volumes that it provisions on its node, this one is on n2, provisioned by ballast.dev/local-path"
        );
        assert!(message("n1", json!("")).ends_with("provisioned by nobody"));
        let by_hand = volume("n2", json!(""));
        assert!(owned(&Identity::Controllers, &by_hand).is_ok());
    }
}
