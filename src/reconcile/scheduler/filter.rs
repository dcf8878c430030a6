//! Pure: which nodes can take a pod at all, and what speaks against each other one, in
//! kube-scheduler's words (people and tests search for them).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Taint;

use crate::object::taint;
use crate::reconcile::scheduler::demand::Template;
use crate::reconcile::scheduler::snapshot::NodeView;

/// One thing that speaks against a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    Unschedulable,
    Tainted {
        key: String,
        value: String,
    },
    Affinity,
    Ports,
    TooManyPods,
    Insufficient(Cow<'static, str>),
    /// A claim that one pod may have is another's.
    ClaimInUse,
    VolumeMissing,
    /// A volume of the pod is on other nodes.
    VolumeAffinity,
    /// A claim of the pod would get no volume.
    VolumeBinding,
}

impl Refusal {
    /// Whether a pod that leaves the node may lift it; the others wait for the node to change.
    pub fn is_about_room(&self) -> bool {
        matches!(self, Self::Ports | Self::TooManyPods | Self::Insufficient(_) | Self::ClaimInUse)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Tainted { key, value } => {
                write!(f, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
            Self::ClaimInUse => f.write_str(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            ),
            Self::VolumeMissing => f.write_str(
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            ),
            Self::VolumeAffinity => {
                f.write_str("node(s) didn't match PersistentVolume's node affinity")
            }
            Self::VolumeBinding => {
                f.write_str("node(s) didn't find available persistent volumes to bind")
            }
        }
    }
}

/// What speaks against the node, empty when nothing does. As in the reference the first filter
/// that refuses ends the question, in this order; only resources are all named at once.
pub fn refusals(template: &Template, node: &NodeView) -> Vec<Refusal> {
    if node.unschedulable && !bears_cordon(template) {
        return vec![Refusal::Unschedulable];
    }
    if let Some(taint) = untolerated(template, node) {
        let value = taint.value.clone().unwrap_or_default();
        return vec![Refusal::Tainted { key: taint.key.clone(), value }];
    }
    if !matches_affinity(template, node) {
        return vec![Refusal::Affinity];
    }
    if !has_free_ports(template, node) {
        return vec![Refusal::Ports];
    }
    lacking(template, node)
}

fn bears_cordon(template: &Template) -> bool {
    let cordon = Taint {
        key: taint::UNSCHEDULABLE.to_owned(),
        effect: taint::NO_SCHEDULE.to_owned(),
        ..Taint::default()
    };
    taint::tolerating(&template.tolerations, &cordon).is_some()
}

fn untolerated<'a>(template: &Template, node: &'a NodeView) -> Option<&'a Taint> {
    let repels =
        |taint: &&Taint| taint.effect == taint::NO_SCHEDULE || taint.effect == taint::NO_EXECUTE;
    node.taints
        .iter()
        .filter(repels)
        .find(|taint| taint::tolerating(&template.tolerations, taint).is_none())
}

fn matches_affinity(template: &Template, node: &NodeView) -> bool {
    template.node_selector.matches(&node.labels)
        && template
            .required
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, &node.labels)))
}

fn has_free_ports(template: &Template, node: &NodeView) -> bool {
    template
        .footprint
        .ports
        .iter()
        .all(|wanted| !node.promised.ports.keys().any(|taken| taken.conflicts(wanted)))
}

/// A pod that asks nothing of a resource is not refused for it, even on a node that is overfull.
fn lacking(template: &Template, node: &NodeView) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if node.promised.pods + 1 > node.allocatable_pods {
        refusals.push(Refusal::TooManyPods);
    }
    let (asked, has, promised) =
        (&template.footprint.requests, &node.allocatable, &node.promised.requests);
    let short =
        |asked: i64, has: i64, promised: i64| asked > 0 && asked > has.saturating_sub(promised);
    for (name, is_short) in [
        ("cpu", short(asked.cpu_millis, has.cpu_millis, promised.cpu_millis)),
        ("memory", short(asked.memory_bytes, has.memory_bytes, promised.memory_bytes)),
        (
            "ephemeral-storage",
            short(asked.ephemeral_bytes, has.ephemeral_bytes, promised.ephemeral_bytes),
        ),
    ] {
        if is_short {
            refusals.push(Refusal::Insufficient(Cow::Borrowed(name)));
        }
    }
    for (name, amount) in &asked.extended {
        let of = |map: &BTreeMap<String, i64>| map.get(name).copied().unwrap_or(0);
        if short(*amount, of(&has.extended), of(&promised.extended)) {
            refusals.push(Refusal::Insufficient(Cow::Owned(name.clone())));
        }
    }
    refusals
}

/// What is said when no node was looked at, because of the pod itself.
pub fn before_any(nodes: usize, why: &str) -> String {
    if nodes == 0 {
        return sentence(0, &BTreeMap::new());
    }
    format!("0/{nodes} nodes are available: {why}.")
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {k: v}.`: counts
/// with their reasons, sorted as text.
pub fn sentence(nodes: usize, counts: &BTreeMap<Refusal, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut parts: Vec<String> =
        counts.iter().map(|(refusal, count)| format!("{count} {refusal}")).collect();
    parts.sort_unstable();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::reconcile::scheduler::demand::{Demand, Shared};
    use crate::reconcile::scheduler::snapshot::{Snapshot, tests::node};

    fn template(spec: Value) -> Arc<Template> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("pod");
        Demand::of(&pod, &mut Shared::default()).template
    }

    fn says(spec: Value, change: impl FnOnce(&mut NodeView)) -> Vec<String> {
        let mut snapshot = Snapshot::default();
        snapshot.apply_node(&node("a", "1", "1Gi", 2));
        let mut view = snapshot.nodes()[0].clone();
        change(&mut view);
        refusals(&template(spec), &view).iter().map(ToString::to_string).collect()
    }

    fn tainted(effect: &str) -> impl FnOnce(&mut NodeView) {
        let (key, value) = ("k".to_owned(), Some("v".to_owned()));
        let taint = Taint { key, value, effect: effect.to_owned(), time_added: None };
        move |view| view.taints.push(taint)
    }

    #[test]
    fn a_cordoned_node_takes_only_who_bears_it() {
        let bears = json!({"tolerations": [
            {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
        assert_eq!(says(json!({}), |v| v.unschedulable = true), ["node(s) were unschedulable"]);
        assert!(says(bears, |view| view.unschedulable = true).is_empty());
    }

    #[test]
    fn taints_repel_by_effect() {
        let sentence = ["node(s) had untolerated taint {k: v}"];
        assert_eq!(says(json!({}), tainted("NoSchedule")), sentence);
        assert_eq!(says(json!({}), tainted("NoExecute")), sentence);
        assert!(says(json!({}), tainted("PreferNoSchedule")).is_empty());
        let bears = json!({"tolerations": [{"key": "k", "value": "v"}]});
        assert!(says(bears, tainted("NoSchedule")).is_empty());
    }

    #[test]
    fn selector_and_affinity_must_both_hold() {
        let sentence = ["node(s) didn't match Pod's node affinity/selector"];
        let affinity = |operator: &str| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions":
                    [{"key": "kubernetes.io/hostname", "operator": operator, "values": ["a"]}]}]}}})
        };
        let with = |selected: &str, operator: &str| {
            json!({"nodeSelector": {"kubernetes.io/hostname": selected},
                "affinity": affinity(operator)})
        };
        assert!(says(with("a", "In"), |_| {}).is_empty());
        assert_eq!(says(with("b", "In"), |_| {}), sentence);
        assert_eq!(says(with("a", "NotIn"), |_| {}), sentence);
        let none = json!({"affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}});
        assert_eq!(says(none, |_| {}), sentence);
    }

    #[test]
    fn a_taken_port_is_not_free() {
        let spec = json!({"containers": [{"name": "c", "ports":
            [{"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}]}]});
        let taken = template(spec.clone()).footprint.ports[0].clone();
        let everywhere =
            crate::reconcile::scheduler::demand::HostPort { ip: "0.0.0.0".into(), ..taken };
        assert!(says(spec.clone(), |_| {}).is_empty());
        assert_eq!(
            says(spec, |view| {
                view.promised.ports.insert(everywhere, 1);
            }),
            ["node(s) didn't have free ports for the requested pod ports"]
        );
    }

    #[test]
    fn every_lacking_resource_is_named_and_silence_is_never_refused() {
        let asks = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "600m",
            "memory": "2Gi", "ephemeral-storage": "1Gi", "example.com/gpu": "1"}}}]});
        let full = |view: &mut NodeView| {
            view.promised.pods = 2;
            view.promised.requests.cpu_millis = 500;
        };
        assert_eq!(
            says(asks, full),
            [
                "Too many pods",
                "Insufficient cpu",
                "Insufficient memory",
                "Insufficient ephemeral-storage",
                "Insufficient example.com/gpu"
            ]
        );
        assert!(says(json!({}), |view| view.promised.requests.cpu_millis = 5000).is_empty());
    }

    #[test]
    fn the_sentence_is_sorted_by_its_text() {
        let counts = BTreeMap::from([
            (Refusal::Tainted { key: "k".into(), value: "v".into() }, 2),
            (Refusal::Insufficient("cpu".into()), 1),
        ]);
        assert_eq!(
            sentence(3, &counts),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {k: v}."
        );
        assert_eq!(sentence(0, &BTreeMap::new()), "no nodes available to schedule pods");
    }
}
