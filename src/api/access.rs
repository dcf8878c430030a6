//! Pure: who may do what. Every request, in process or over HTTP, is one identity's; what it may
//! do is decided here ([`decide`]) before anything is read or written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails;
use serde::{Deserialize, Serialize};

use crate::object::{ApiError, Key, Kind, Reason};

/// What a credential lets its holder do. A credential has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything; Secret values are keyed hashes.
    Viewer,
    /// As a viewer, Secret values in clear, and streams into containers. Off unless the daemon's
    /// configuration turns it on.
    Operator,
    /// The agent of one node.
    Node,
    /// The rooms of this process. No credential has it.
    Controller,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Node => "node",
            Self::Controller => "controller",
        }
    }
}

/// Whose request it is. The rooms of the daemon have one each, so that a mistake in one cannot
/// write what is another's; whoever comes over the served listener is what its credential says, and
/// on loopback without TLS, where there are no credentials, a [`Identity::Reader`].
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
    /// Everyone on loopback, without a credential.
    Reader,
    /// A credential of the role viewer.
    Viewer { name: String },
    /// A credential of the role operator.
    Operator { name: String },
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
    Exec,
    Attach,
    PortForward,
    /// A pod's `spec.ephemeralContainers`, which `kubectl debug` adds to.
    EphemeralContainers,
}

impl Part {
    /// As it stands in a URL; the whole object has no word.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Status => Some("status"),
            Self::Scale => Some("scale"),
            Self::Binding => Some("binding"),
            Self::Log => Some("log"),
            Self::Finalize => Some("finalize"),
            Self::Exec => Some("exec"),
            Self::Attach => Some("attach"),
            Self::PortForward => Some("portforward"),
            Self::EphemeralContainers => Some("ephemeralcontainers"),
        }
    }

    /// A stream into a container. It is a `create`, whichever HTTP method opens it (the reference
    /// server, since 1.35, for WebSockets' GET too).
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Exec | Self::Attach | Self::PortForward)
    }

    /// What no commit says and an operator writes on a live object.
    pub fn is_beside_git(self) -> bool {
        self == Self::EphemeralContainers
    }
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

/// What comes of a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Allow,
    /// With the `Status` that is the answer.
    Deny(Box<ApiError>),
}

impl Decision {
    /// # Errors
    /// The denial.
    pub fn into_result(self) -> Result<(), ApiError> {
        match self {
            Self::Allow => Ok(()),
            Self::Deny(error) => Err(*error),
        }
    }
}

/// Whether the table of rights lets an identity do it. An empty name is a collection, an empty
/// namespace every one. Rights that depend on the stored object (is the pod bound to this node) are
/// [`Identity::owns`]'s; which values of a Secret are shown is [`Identity::sees_secrets`]'s.
pub fn decide(who: &Identity, verb: Verb, kind: Kind, part: Part, key: &Key) -> Decision {
    let allowed = if part.is_stream() {
        kind == Kind::Pod && who.enters_containers()
    } else {
        verb.is_read() || who.writes(verb, kind, part, key)
    };
    if allowed {
        return Decision::Allow;
    }
    Decision::Deny(Box::new(forbidden(who, verb, kind, part, key)))
}

/// The reference server's words (`forbiddenMessage` in `responsewriters/errors.go`).
fn forbidden(who: &Identity, verb: Verb, kind: Kind, part: Part, key: &Key) -> ApiError {
    let (row, what) = (kind.row(), kind.qualified_resource());
    let resource = match part.as_str() {
        None => row.plural.to_owned(),
        Some(part) => format!("{}/{part}", row.plural),
    };
    let named = if key.name.is_empty() { what } else { format!("{what} \"{}\"", key.name) };
    let place = if key.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", key.namespace)
    };
    let verb = match verb {
        Verb::Delete if key.name.is_empty() => "deletecollection",
        other => other.as_str(),
    };
    let message = format!(
        "{named} is forbidden: User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
        who.name(),
        verb,
        row.group
    );
    let mut error = ApiError::new(Reason::Forbidden, message);
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    error.details = Some(Box::new(StatusDetails {
        name: filled(&key.name),
        group: filled(row.group),
        kind: Some(row.plural.to_owned()),
        ..StatusDetails::default()
    }));
    error
}

impl Identity {
    pub fn role(&self) -> Role {
        match self {
            Self::Admin | Self::Sync | Self::Controllers | Self::Scheduler => Role::Controller,
            Self::NodeAgent { .. } | Self::Network { .. } => Role::Node,
            Self::Web | Self::Reader | Self::Viewer { .. } => Role::Viewer,
            Self::Operator { .. } => Role::Operator,
        }
    }

    /// Whether the identity changes nothing that a commit says, whatever the request says: decided
    /// before a body is read. What an operator may write beside that is a [`Part::is_beside_git`].
    pub fn only_reads(&self) -> bool {
        matches!(self.role(), Role::Viewer | Role::Operator)
    }

    /// Whether Secrets are answered in clear. A node agent's are looked up pod by pod instead
    /// ([`Identity::reads_named_secrets`]).
    pub fn sees_secrets(&self) -> bool {
        matches!(self, Self::Admin | Self::Sync | Self::Operator { .. })
    }

    /// Whether it may exec, attach, forward ports and add ephemeral containers.
    fn enters_containers(&self) -> bool {
        matches!(self, Self::Admin | Self::Operator { .. })
    }

    /// Whether the request uses what an operator has and a viewer has not, also where it only reads:
    /// each such use is an Event and a line of the audit log. Writes have a line anyway.
    pub fn uses_operator_rights(&self, kind: Kind, part: Part) -> bool {
        self.role() == Role::Operator && (kind == Kind::Secret || part.is_stream())
    }

    /// The node whose pods' Secrets this identity reads in clear.
    pub fn reads_named_secrets(&self) -> Option<&str> {
        match self {
            Self::NodeAgent { node } => Some(node),
            _ => None,
        }
    }

    /// The user's name, for messages and `auth whoami`. A credential's name has no colon, so that
    /// nobody can take one that begins with `system:`.
    pub fn name(&self) -> String {
        match self {
            Self::Admin => "system:admin".to_owned(),
            Self::Sync => "system:sync".to_owned(),
            Self::Controllers => "system:controllers".to_owned(),
            Self::Scheduler => "system:scheduler".to_owned(),
            Self::NodeAgent { node } => format!("system:node:{node}"),
            Self::Network { node } => format!("system:network:{node}"),
            Self::Web => "system:web".to_owned(),
            Self::Reader => "system:anonymous".to_owned(),
            Self::Viewer { name } | Self::Operator { name } => name.clone(),
        }
    }

    /// The user's groups, for `auth whoami`.
    pub fn groups(&self) -> [&'static str; 2] {
        let known = "system:authenticated";
        match self {
            Self::Reader => ["ballast:viewers", "system:unauthenticated"],
            _ => match self.role() {
                Role::Viewer => ["ballast:viewers", known],
                Role::Operator => ["ballast:operators", known],
                Role::Node => ["system:nodes", known],
                Role::Controller => ["system:masters", known],
            },
        }
    }

    /// [`decide`], as a result.
    ///
    /// # Errors
    /// `Forbidden`, naming who may not do what.
    pub fn may(&self, verb: Verb, kind: Kind, part: Part, key: &Key) -> Result<(), ApiError> {
        decide(self, verb, kind, part, key).into_result()
    }

    fn writes(&self, verb: Verb, kind: Kind, part: Part, key: &Key) -> bool {
        if part.is_beside_git() && *self != Self::Admin {
            let changes = matches!(verb, Verb::Update | Verb::Patch);
            return kind == Kind::Pod && changes && self.enters_containers();
        }
        match self {
            Self::Admin => true,
            Self::Web | Self::Reader | Self::Viewer { .. } | Self::Operator { .. } => false,
            Self::Sync => !matches!(part, Part::Binding),
            Self::Controllers => {
                !matches!(part, Part::Binding)
                    && !matches!((kind, verb), (Kind::Secret | Kind::ConfigMap, Verb::Create))
            }
            Self::Scheduler => match kind {
                Kind::Pod => matches!(part, Part::Binding | Part::Status),
                // Which node a claim's volume is on, and which volume a claim gets, go with the pod.
                Kind::PersistentVolume | Kind::PersistentVolumeClaim => {
                    part == Part::Whole && matches!(verb, Verb::Update | Verb::Patch)
                }
                Kind::Event | Kind::Lease => true,
                _ => false,
            },
            Self::NodeAgent { node } => match kind {
                Kind::Node => key.name == *node && verb != Verb::Delete,
                Kind::Lease => key.name == *node && key.namespace == LEASE_NAMESPACE,
                Kind::Pod => part == Part::Status || verb == Verb::Delete,
                // On its node only: `ownership.rs`.
                Kind::PersistentVolume => match part {
                    Part::Whole => matches!(verb, Verb::Create | Verb::Delete),
                    Part::Status => true,
                    _ => false,
                },
                Kind::Event | Kind::Drift => true,
                _ => false,
            },
            Self::Network { .. } => matches!(kind, Kind::Event | Kind::Drift),
        }
    }

    /// Whether a write of a pod or volume is within a node's rights: only pods bound to it, and
    /// volumes that are on it. `place` is the object's node.
    pub fn owns(&self, place: Option<&str>) -> bool {
        match self {
            Self::NodeAgent { node } => place == Some(node.as_str()),
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
        let volume = Key::cluster("pvc-1");
        for (verb, part, is_fine) in [
            (Verb::Create, Part::Whole, true),
            (Verb::Delete, Part::Whole, true),
            (Verb::Patch, Part::Status, true),
            (Verb::Update, Part::Whole, false),
        ] {
            assert_eq!(may(verb, Kind::PersistentVolume, part, &volume), is_fine, "{verb:?}");
        }
        let claim = Key::new("a", "c");
        assert!(!may(Verb::Patch, Kind::PersistentVolumeClaim, Part::Whole, &claim));
        assert!(!may(Verb::Create, Kind::StorageClass, Part::Whole, &Key::cluster("s")));
        let scheduler = Identity::Scheduler;
        for kind in [Kind::PersistentVolume, Kind::PersistentVolumeClaim] {
            assert!(scheduler.may(Verb::Patch, kind, Part::Whole, &claim).is_ok());
            assert!(scheduler.may(Verb::Patch, kind, Part::Status, &claim).is_err());
            assert!(scheduler.may(Verb::Delete, kind, Part::Whole, &claim).is_err());
        }
    }

    fn people() -> [Identity; 4] {
        let name = "ada".to_owned();
        [
            Identity::Reader,
            Identity::Web,
            Identity::Viewer { name: name.clone() },
            Identity::Operator { name },
        ]
    }

    #[test]
    fn only_an_operator_enters_containers_and_reads_secrets() {
        let key = Key::new("shop", "web");
        for part in [Part::Exec, Part::Attach, Part::PortForward] {
            for verb in [Verb::Get, Verb::Create] {
                let allowed: Vec<bool> = people()
                    .iter()
                    .map(|who| decide(who, verb, Kind::Pod, part, &key) == Decision::Allow)
                    .collect();
                assert_eq!(allowed, [false, false, false, true], "{part:?}");
            }
            let agent = Identity::NodeAgent { node: "n1".to_owned() };
            for who in [agent, Identity::Controllers, Identity::Sync, Identity::Scheduler] {
                assert!(who.may(Verb::Create, Kind::Pod, part, &key).is_err(), "{who:?}");
            }
        }
        assert_eq!(people().map(|who| who.sees_secrets()), [false, false, false, true]);
    }

    #[test]
    fn only_an_operator_adds_ephemeral_containers_and_everybody_reads_them() {
        let (key, part) = (Key::new("shop", "web"), Part::EphemeralContainers);
        for verb in [Verb::Update, Verb::Patch] {
            let allowed = people().map(|who| who.may(verb, Kind::Pod, part, &key).is_ok());
            assert_eq!(allowed, [false, false, false, true], "{verb:?}");
        }
        assert!(people().iter().all(|who| who.may(Verb::Get, Kind::Pod, part, &key).is_ok()));
        let operator = Identity::Operator { name: "ada".to_owned() };
        for verb in [Verb::Create, Verb::Delete] {
            assert!(operator.may(verb, Kind::Pod, part, &key).is_err());
        }
        assert!(operator.may(Verb::Patch, Kind::Deployment, part, &key).is_err());
        let agent = Identity::NodeAgent { node: "n1".to_owned() };
        for who in [agent, Identity::Controllers, Identity::Sync, Identity::Scheduler] {
            assert!(who.may(Verb::Patch, Kind::Pod, part, &key).is_err(), "{who:?}");
        }
    }

    #[test]
    fn a_denial_is_in_the_reference_servers_words() {
        let who = Identity::Viewer { name: "ada".to_owned() };
        let denied = |verb, kind, part, key: &Key| {
            who.may(verb, kind, part, key).expect_err("a viewer only reads")
        };
        let exec = denied(Verb::Create, Kind::Pod, Part::Exec, &Key::new("shop", "web"));
        assert_eq!(
            exec.message,
            "pods \"web\" is forbidden: User \"ada\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"shop\""
        );
        let details = exec.details.expect("details");
        assert_eq!((details.name.as_deref(), details.kind.as_deref()), (Some("web"), Some("pods")));
        let all = Key::new("shop", "");
        let collection = denied(Verb::Delete, Kind::Deployment, Part::Whole, &all);
        assert_eq!(
            collection.message,
            "deployments.apps is forbidden: User \"ada\" cannot deletecollection resource \"deployments\" in API group \"apps\" in the namespace \"shop\""
        );
        let node = denied(Verb::Patch, Kind::Node, Part::Status, &Key::cluster("n1"));
        assert!(node.message.ends_with("in API group \"\" at the cluster scope"), "{node}");
    }

    #[test]
    fn readers_only_read() {
        for kind in Kind::all() {
            for verb in [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete] {
                for identity in people() {
                    assert!(identity.may(verb, kind, Part::Whole, &Key::new("a", "b")).is_err());
                    assert!(identity.may(verb, kind, Part::Status, &Key::new("a", "b")).is_err());
                }
            }
            for identity in people() {
                assert!(identity.may(Verb::Watch, kind, Part::Whole, &Key::default()).is_ok());
            }
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
