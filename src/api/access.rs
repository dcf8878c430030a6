//! Pure: who may do what. Every request, in process or over HTTP, is one identity's; what it may
//! do is decided here before anything is read or written.

use crate::object::{ApiError, Key, Kind, Reason};

/// Whose request it is. The rooms of the daemon have one each, so that a mistake in one cannot
/// write what is another's; whoever comes over the served listener is a [`Identity::Reader`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Everything: tests, and the daemon's own bootstrap.
    Admin,
    /// Writes what commits say.
    Sync,
    /// Deployment, ReplicaSet, endpoints, garbage, namespaces, node life cycle.
    Controllers,
    /// Binds pods and says why it cannot.
    Scheduler,
    /// The agent of one node: its Node and Lease, the status and end of its pods.
    NodeAgent { node: String },
    /// The rules of one node: reads, and writes Drifts and Events.
    Network { node: String },
    /// The dashboard.
    Web,
    /// Everyone on the served listener.
    Reader,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
}

/// The part of an object that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    Status,
    Scale,
    Binding,
    Log,
    /// A Namespace's `spec.finalizers`.
    Finalize,
}

impl Verb {
    pub fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// Leases of nodes live here.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

impl Identity {
    /// Whether the identity changes nothing at all, whatever the request says: decided before a
    /// body is read.
    pub fn only_reads(&self) -> bool {
        matches!(self, Self::Web | Self::Reader)
    }

    /// Whether Secrets are answered in clear. A node agent's are looked up pod by pod instead
    /// ([`Identity::reads_named_secrets`]).
    pub fn sees_secrets(&self) -> bool {
        matches!(self, Self::Admin | Self::Sync)
    }

    /// The node whose pods' Secrets this identity reads in clear.
    pub fn reads_named_secrets(&self) -> Option<&str> {
        match self {
            Self::NodeAgent { node } => Some(node),
            _ => None,
        }
    }

    /// `node-agent/n1`, for messages.
    pub fn name(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::Sync => "sync".to_owned(),
            Self::Controllers => "controllers".to_owned(),
            Self::Scheduler => "scheduler".to_owned(),
            Self::NodeAgent { node } => format!("node-agent/{node}"),
            Self::Network { node } => format!("network/{node}"),
            Self::Web => "web".to_owned(),
            Self::Reader => "reader".to_owned(),
        }
    }

    /// Whether the table of rights lets the identity do it. Rights that depend on the stored object
    /// (is the pod bound to this node) are [`Identity::owns`]'s.
    ///
    /// # Errors
    /// `Forbidden`, naming who may not do what.
    pub fn may(&self, verb: Verb, kind: Kind, part: Part, key: &Key) -> Result<(), ApiError> {
        if verb.is_read() || self.writes(verb, kind, part, key) {
            return Ok(());
        }
        let what = kind.qualified_resource();
        let place = if key.namespace.is_empty() {
            " at the cluster scope".to_owned()
        } else {
            format!(" in the namespace \"{}\"", key.namespace)
        };
        let name = &key.name;
        Err(ApiError::new(
            Reason::Forbidden,
            format!(
                "{what} \"{name}\" is forbidden: {} cannot {} resource \"{}\"{place}",
                self.name(),
                verb.as_str(),
                kind.row().plural
            ),
        ))
    }

    fn writes(&self, verb: Verb, kind: Kind, part: Part, key: &Key) -> bool {
        match self {
            Self::Admin => true,
            Self::Web | Self::Reader => false,
            Self::Sync => !matches!(part, Part::Binding),
            Self::Controllers => {
                !matches!(part, Part::Binding)
                    && !matches!((kind, verb), (Kind::Secret | Kind::ConfigMap, Verb::Create))
            }
            Self::Scheduler => match kind {
                Kind::Pod => matches!(part, Part::Binding | Part::Status),
                Kind::Event | Kind::Lease => true,
                _ => false,
            },
            Self::NodeAgent { node } => match kind {
                Kind::Node => key.name == *node && verb != Verb::Delete,
                Kind::Lease => key.name == *node && key.namespace == LEASE_NAMESPACE,
                Kind::Pod => part == Part::Status || verb == Verb::Delete,
                Kind::Event | Kind::Drift => true,
                _ => false,
            },
            Self::Network { .. } => matches!(kind, Kind::Event | Kind::Drift),
        }
    }

    /// Whether a write of this pod is within a node's rights: only pods bound to it.
    pub fn owns(&self, pod_node: Option<&str>) -> bool {
        match self {
            Self::NodeAgent { node } => pod_node == Some(node.as_str()),
            _ => true,
        }
    }
}

/// The answer to everyone who would change the cluster past Git.
pub fn through_git(sources: &[String]) -> ApiError {
    let wanted = match sources {
        [] => "the repository it follows".to_owned(),
        many => many.join(" or "),
    };
    ApiError::new(
        Reason::Forbidden,
        format!("this cluster changes through Git: commit to {wanted}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_writes_what_is_its_own() {
        let agent = Identity::NodeAgent { node: "n1".to_owned() };
        let may = |verb, kind, part, key: &Key| agent.may(verb, kind, part, key).is_ok();
        assert!(may(Verb::Patch, Kind::Node, Part::Status, &Key::cluster("n1")));
        assert!(!may(Verb::Patch, Kind::Node, Part::Status, &Key::cluster("n2")));
        assert!(may(Verb::Update, Kind::Lease, Part::Whole, &Key::new(LEASE_NAMESPACE, "n1")));
        assert!(!may(Verb::Update, Kind::Lease, Part::Whole, &Key::new("default", "n1")));
        assert!(!may(Verb::Create, Kind::Pod, Part::Whole, &Key::new("a", "b")));
        assert!(may(Verb::Delete, Kind::Pod, Part::Whole, &Key::new("a", "b")));
        assert!(!agent.owns(Some("n2")) && !agent.owns(None) && agent.owns(Some("n1")));
    }

    #[test]
    fn readers_only_read() {
        for kind in Kind::all() {
            for verb in [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete] {
                for identity in [Identity::Reader, Identity::Web] {
                    assert!(identity.may(verb, kind, Part::Whole, &Key::new("a", "b")).is_err());
                    assert!(identity.may(verb, kind, Part::Status, &Key::new("a", "b")).is_err());
                }
            }
            assert!(Identity::Reader.may(Verb::Watch, kind, Part::Whole, &Key::default()).is_ok());
        }
    }

    #[test]
    fn the_sentence_names_the_sources() {
        let error = through_git(&["web (https://example.com/web.git)".to_owned()]);
        assert_eq!(
            error.message,
            "this cluster changes through Git: commit to web (https://example.com/web.git)"
        );
    }
}
