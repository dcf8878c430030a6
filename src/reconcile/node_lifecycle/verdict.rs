//! Pure: what follows for a node: conditions that nobody vouches for any more, and the taints that
//! conditions ask for.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::object::{condition, taint};
use crate::reconcile::node_lifecycle::heartbeat::{Memory, NodeFacts, Settings};

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// Its agent says so itself.
    NotReady,
    /// Its agent says nothing any more.
    Silent,
    /// It has just been created and has not said anything yet.
    New,
}

/// One change of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Replaces the conditions.
    SetConditions { conditions: Vec<NodeCondition>, reason: String },
    /// Replaces the taints.
    SetTaints { taints: Vec<Taint>, reason: String },
}

/// Conditions that become Unknown with the agent's silence.
const SPOKEN: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that repel new pods while True, with their taints.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Judges one node. A Ready condition that is Unknown was set by us: the node stays lost until its
/// agent speaks again.
pub fn health(node: &NodeFacts, memory: &Memory, settings: &Settings, now: Timestamp) -> Health {
    let ready = condition::find(&node.conditions, "Ready");
    let grace = if ready.is_none() { settings.startup_grace } else { settings.grace };
    if memory.silence(node, now) > grace {
        return Health::Silent;
    }
    match ready.map(|ready| ready.status.as_str()) {
        None => Health::New,
        Some("True") => Health::Ready,
        Some("False") => Health::NotReady,
        Some(_) => Health::Silent,
    }
}

/// Whether so many nodes are lost at once that the fault is probably ours: nobody is evicted then.
///
/// True when no node is ready (a cluster of one included); when all but one of three or more are
/// lost (we are on the one that is left); and by the reference's rule for zones of up to 50 nodes:
/// more than two lost, and at least 55 %. Known limit: of two nodes, one that is cut off cannot be
/// told from one that died; its pods are evicted.
pub fn is_disrupted(healths: &[Health]) -> bool {
    let ready = healths.iter().filter(|health| **health == Health::Ready).count();
    let lost =
        healths.iter().filter(|health| matches!(health, Health::NotReady | Health::Silent)).count();
    ready == 0 || (lost >= 2 && ready == 1) || (lost > 2 && lost * 100 >= (lost + ready) * 55)
}

/// What is to be done about one node.
pub fn plan(node: &NodeFacts, health: Health, disrupted: bool, now: Timestamp) -> Vec<Step> {
    if health == Health::New {
        return Vec::new();
    }
    let mut steps = Vec::new();
    if health == Health::Silent
        && let Some(conditions) = unspoken(node, now)
    {
        let reason = "the node agent stopped posting node status".to_owned();
        steps.push(Step::SetConditions { conditions, reason });
    }
    let wanted = wanted_taints(node, health, disrupted);
    let mut taints: Vec<Taint> = node
        .taints
        .iter()
        .filter(|taint| {
            !is_ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    if taints != node.taints {
        let reason = match health {
            Health::Ready => "the node is ready",
            Health::NotReady => "the node is not ready",
            Health::Silent | Health::New => "the node agent is silent",
        };
        steps.push(Step::SetTaints { taints, reason: reason.to_owned() });
    }
    steps
}

/// `None` when they are Unknown already. The heartbeat times stay: they are the agent's.
fn unspoken(node: &NodeFacts, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.conditions.clone();
    for name in SPOKEN {
        let known = condition::find(&node.conditions, name);
        if known.is_some_and(|known| known.status == "Unknown") {
            continue;
        }
        // A condition that was never posted is Unknown for another reason, and only Ready is
        // made where there is none.
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Node agent stopped posting node status."),
            None if name == "Ready" => {
                ("NodeStatusNeverUpdated", "Node agent never posted node status.")
            }
            None => continue,
        };
        let unknown = NodeCondition {
            type_: name.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: known.and_then(|known| known.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        condition::set(&mut conditions, unknown);
    }
    (conditions != node.conditions).then_some(conditions)
}

fn wanted_taints(
    node: &NodeFacts,
    health: Health,
    disrupted: bool,
) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    let lost = match health {
        Health::NotReady => Some(taint::NOT_READY),
        Health::Silent => Some(taint::UNREACHABLE),
        Health::Ready | Health::New => None,
    };
    if let Some(key) = lost {
        wanted.push((key, taint::NO_SCHEDULE));
        if !disrupted {
            wanted.push((key, taint::NO_EXECUTE));
        }
    }
    for (name, key) in PRESSURES {
        if condition::is_true(&node.conditions, name) {
            wanted.push((key, taint::NO_SCHEDULE));
        }
    }
    if node.unschedulable {
        wanted.push((taint::UNSCHEDULABLE, taint::NO_SCHEDULE));
    }
    wanted
}

fn is_ours(taint: &Taint) -> bool {
    let lost = [taint::NOT_READY, taint::UNREACHABLE];
    let pressures = PRESSURES.iter().map(|(_, key)| *key);
    lost.contains(&taint.key.as_str())
        || (taint.effect == taint::NO_SCHEDULE
            && pressures.chain([taint::UNSCHEDULABLE]).any(|key| key == taint.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::node_lifecycle::heartbeat::tests::{at, node};

    fn taints(steps: &[Step]) -> Vec<String> {
        let set = steps.iter().find_map(|step| match step {
            Step::SetTaints { taints, .. } => Some(taints),
            Step::SetConditions { .. } => None,
        });
        let shown = |taint: &Taint| format!("{}:{}", taint.key, taint.effect);
        set.into_iter().flatten().map(shown).collect()
    }

    fn status(node: &NodeFacts) -> &str {
        &condition::find(&node.conditions, "Ready").expect("it has one").status
    }

    /// Carries the steps out, as the API would.
    fn apply(node: &mut NodeFacts, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::SetConditions { conditions, .. } => node.conditions = conditions,
                Step::SetTaints { taints, .. } => node.taints = taints,
            }
        }
    }

    #[test]
    fn a_silent_node_is_lost_after_the_grace_and_comes_back_clean() {
        let settings = Settings::default();
        let mut lost = node("a", 0);
        let memory = Memory::default().listen(std::slice::from_ref(&lost), &settings, at(0));
        let memory = memory.listen(std::slice::from_ref(&lost), &settings, at(50));
        assert_eq!(health(&lost, &memory, &settings, at(50)), Health::Ready);
        let memory = memory.listen(std::slice::from_ref(&lost), &settings, at(51));
        assert_eq!(health(&lost, &memory, &settings, at(51)), Health::Silent);

        let steps = plan(&lost, Health::Silent, false, at(51));
        assert_eq!(
            taints(&steps),
            [
                "node.kubernetes.io/unreachable:NoSchedule",
                "node.kubernetes.io/unreachable:NoExecute"
            ]
        );
        apply(&mut lost, steps);
        assert_eq!(status(&lost), "Unknown");
        assert_eq!(plan(&lost, Health::Silent, false, at(55)), [], "nothing is said twice");
        let memory = memory.listen(std::slice::from_ref(&lost), &settings, at(55));
        assert_eq!(health(&lost, &memory, &settings, at(55)), Health::Silent, "our own write");

        let back = NodeFacts { taints: lost.taints, ..node("a", 65) };
        let memory = memory.listen(std::slice::from_ref(&back), &settings, at(65));
        assert_eq!(health(&back, &memory, &settings, at(65)), Health::Ready);
        let steps = plan(&back, Health::Ready, false, at(65));
        assert_eq!(steps.len(), 1);
        assert!(taints(&steps).is_empty());
    }

    #[test]
    fn a_disrupted_cluster_evicts_nobody() {
        use Health::{New, NotReady, Ready, Silent};
        for (healths, disrupted) in [
            (vec![Silent], true),
            (vec![Silent, Silent, NotReady], true),
            (vec![Ready, Silent, Silent], true),
            (vec![Ready, Ready, Silent, Silent, Silent], true),
            (vec![Ready, Silent], false),
            (vec![Ready, Ready, Silent], false),
            (vec![Ready, Ready, Ready, Silent, Silent, Silent], false),
            (vec![Ready], false),
            (vec![New], true),
        ] {
            assert_eq!(is_disrupted(&healths), disrupted, "{healths:?}");
        }
        let mut lost = node("a", 0);
        apply(&mut lost, plan(&node("a", 0), Health::Silent, false, at(0)));
        let steps = plan(&lost, Health::Silent, true, at(5));
        assert_eq!(taints(&steps), ["node.kubernetes.io/unreachable:NoSchedule"]);
    }

    #[test]
    fn a_pressure_and_a_cordon_repel_new_pods_and_foreign_taints_stay() {
        let mut node = node("a", 0);
        let theirs = Taint { key: "k".into(), effect: "NoExecute".into(), ..Taint::default() };
        node.taints = vec![theirs];
        node.unschedulable = true;
        node.conditions.push(NodeCondition {
            type_: "DiskPressure".into(),
            status: "True".into(),
            ..NodeCondition::default()
        });
        assert_eq!(
            taints(&plan(&node, Health::Ready, false, at(0))),
            [
                "k:NoExecute",
                "node.kubernetes.io/disk-pressure:NoSchedule",
                "node.kubernetes.io/unschedulable:NoSchedule"
            ]
        );
    }

    #[test]
    fn a_node_that_never_spoke_has_a_longer_grace() {
        let settings = Settings::default();
        let new = NodeFacts { conditions: vec![], lease_renewed: None, ..node("a", 0) };
        let mut memory = Memory::default();
        for second in (0..=60).step_by(10) {
            memory = memory.listen(std::slice::from_ref(&new), &settings, at(second));
            assert_eq!(health(&new, &memory, &settings, at(second)), Health::New);
            assert_eq!(plan(&new, Health::New, false, at(second)), []);
        }
        let memory = memory.listen(std::slice::from_ref(&new), &settings, at(61));
        assert_eq!(health(&new, &memory, &settings, at(61)), Health::Silent);
        let steps = plan(&new, Health::Silent, true, at(61));
        assert!(matches!(&steps[0], Step::SetConditions { conditions, .. }
            if conditions[0].reason.as_deref() == Some("NodeStatusNeverUpdated")));
    }
}
