//! Pure: which of the nodes that can take a pod should, by kube-scheduler's default scores and
//! weights. Every score is 0 to 100; the weighted sum decides.

use crate::object::taint;
use crate::reconcile::scheduler::demand::Template;
use crate::reconcile::scheduler::snapshot::{NodeView, Snapshot};

const BEST: i64 = 100;
/// kube-scheduler's default weights (`default_plugins.go`): TaintToleration 3, NodeAffinity 2,
/// PodTopologySpread 2 (here: by owner and host), the others 1.
const TAINTS: i64 = 3;
const AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
/// Images smaller than this say nothing (kube-scheduler ImageLocality: 23 MB).
const IMAGE_FLOOR_BYTES: i64 = 23 * 1024 * 1024;
/// A container's worth of images that earns the full score (1000 MB).
const IMAGE_CEILING_BYTES: i64 = 1000 * 1024 * 1024;

/// What is measured on one node, before nodes are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Measured {
    /// `PreferNoSchedule` taints that the pod does not bear: fewer is better.
    repelling_taints: i64,
    /// Weights of the preferred terms that hold: more is better.
    affinity: i64,
    /// Pods of the same owner here: fewer is better.
    siblings: i64,
    /// Already 0 to 100: emptiest, most even, most of the images here.
    absolute: i64,
}

/// The weighted score of every candidate (an index into the snapshot's nodes), in their order.
pub fn scores(snapshot: &Snapshot, template: &Template, candidates: &[usize]) -> Vec<i64> {
    let measured: Vec<Measured> = candidates
        .iter()
        .map(|place| measure(snapshot, template, &snapshot.nodes()[*place]))
        .collect();
    let most = |of: fn(&Measured) -> i64| measured.iter().map(of).max().unwrap_or(0);
    let (most_taints, most_affinity) = (most(|m| m.repelling_taints), most(|m| m.affinity));
    let most_siblings = most(|m| m.siblings);
    let fewest_siblings = measured.iter().map(|m| m.siblings).min().unwrap_or(0);
    let score = |m: &Measured| {
        let taints =
            if most_taints == 0 { BEST } else { BEST - BEST * m.repelling_taints / most_taints };
        let affinity = if most_affinity == 0 { 0 } else { BEST * m.affinity / most_affinity };
        let spread = if most_siblings == 0 {
            BEST
        } else {
            BEST * (most_siblings + fewest_siblings - m.siblings) / most_siblings
        };
        TAINTS * taints + AFFINITY * affinity + SPREAD * spread + m.absolute
    };
    measured.iter().map(score).collect()
}

fn measure(snapshot: &Snapshot, template: &Template, node: &NodeView) -> Measured {
    let repels = |taint: &&k8s_openapi::api::core::v1::Taint| {
        taint.effect == taint::PREFER_NO_SCHEDULE
            && taint::tolerating(&template.tolerations, taint).is_none()
    };
    let preferred = template.preferred.iter();
    let holding = preferred.filter(|(_, term)| term.matches(&node.name, &node.labels));
    let siblings = template.footprint.owner.and_then(|owner| node.promised.owners.get(&owner));
    Measured {
        repelling_taints: as_score(node.taints.iter().filter(repels).count()),
        affinity: holding.map(|(weight, _)| weight).sum(),
        siblings: siblings.copied().map_or(0, i64::from),
        absolute: least_allocated(template, node)
            + balanced(template, node)
            + image_locality(snapshot, template, node),
    }
}

/// The mean of what stays free of CPU and memory, counting a default for pods that ask nothing.
fn least_allocated(template: &Template, node: &NodeView) -> i64 {
    let cpu = node.promised.scored_cpu_millis.saturating_add(template.footprint.scored_cpu_millis);
    let memory =
        node.promised.scored_memory_bytes.saturating_add(template.footprint.scored_memory_bytes);
    let pairs = [(cpu, node.allocatable.cpu_millis), (memory, node.allocatable.memory_bytes)];
    let (mut sum, mut counted) = (0, 0);
    for (asked, has) in pairs.into_iter().filter(|(_, has)| *has > 0) {
        counted += 1;
        if asked <= has {
            // In 128 bits: bytes of memory times 100 pass 2^63 at 92 PB.
            sum += as_score(i128::from(has - asked) * i128::from(BEST) / i128::from(has));
        }
    }
    if counted == 0 { 0 } else { sum / counted }
}

/// 100 when CPU and memory would be used to the same fraction, down to 50 when only one is. A pod
/// that asks for neither changes nothing and is not judged.
fn balanced(template: &Template, node: &NodeView) -> i64 {
    let (asked, promised, has) =
        (&template.footprint.requests, &node.promised.requests, &node.allocatable);
    if asked.cpu_millis == 0 && asked.memory_bytes == 0 {
        return 0;
    }
    let (cpu, memory) = (
        thousandths(promised.cpu_millis.saturating_add(asked.cpu_millis), has.cpu_millis),
        thousandths(promised.memory_bytes.saturating_add(asked.memory_bytes), has.memory_bytes),
    );
    // Of two fractions the standard deviation is half of their distance.
    (1000 - (cpu - memory).abs() / 2) * BEST / 1000
}

fn thousandths(part: i64, whole: i64) -> i64 {
    if whole <= 0 {
        return 0;
    }
    as_score((i128::from(part) * 1000 / i128::from(whole)).clamp(0, 1000))
}

/// Bytes of the pod's images that are here already, each weighed by how many nodes have it, so
/// that one node with an image does not attract every pod.
fn image_locality(snapshot: &Snapshot, template: &Template, node: &NodeView) -> i64 {
    let nodes = as_score(snapshot.nodes().len()).max(1);
    let weighed = |image: &String| {
        let having = i64::from(snapshot.nodes_with_image(image));
        // Asked first: most images are on no node or the node has none, and a look-up costs.
        if having == 0 {
            return 0;
        }
        node.images.get(image).map_or(0, |size| size.saturating_mul(having) / nodes)
    };
    let sum: i64 = template.images.iter().map(weighed).sum();
    let ceiling = IMAGE_CEILING_BYTES * as_score(template.images.len()).max(1);
    let clamped = sum.clamp(IMAGE_FLOOR_BYTES, ceiling);
    BEST * (clamped - IMAGE_FLOOR_BYTES) / (ceiling - IMAGE_FLOOR_BYTES)
}

fn as_score<N: TryInto<i64>>(number: N) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};
    use std::sync::Arc;

    use super::*;
    use crate::reconcile::scheduler::demand::{Amounts, Demand, Footprint, Shared};
    use crate::reconcile::scheduler::snapshot::tests::node;

    fn template(cpu: &str, memory: &str, more: Value) -> Arc<Template> {
        let mut spec = json!({"containers": [{"name": "c", "image": "web",
            "resources": {"requests": {"cpu": cpu, "memory": memory}}}]});
        json_patch::merge(&mut spec, &more);
        let pod = json!({"metadata": {"name": "p", "ownerReferences": [{"apiVersion": "apps/v1",
            "kind": "ReplicaSet", "name": "r", "uid": "r1", "controller": true}]}, "spec": spec});
        Demand::of(&serde_json::from_value(pod).expect("a pod"), &mut Shared::default()).template
    }

    fn two(change: impl FnOnce(&mut Node)) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.apply_node(&node("a", "4", "4Gi", 110));
        let mut other = node("b", "4", "4Gi", 110);
        change(&mut other);
        snapshot.apply_node(&other);
        snapshot
    }

    fn footprint(cpu_millis: i64, memory_bytes: i64, owner: Option<u64>) -> Arc<Footprint> {
        Arc::new(Footprint {
            requests: Amounts { cpu_millis, memory_bytes, ..Amounts::default() },
            scored_cpu_millis: cpu_millis,
            scored_memory_bytes: memory_bytes,
            ports: Vec::new(),
            claims: Vec::new(),
            owner,
        })
    }

    fn compare(snapshot: &Snapshot, template: &Template) -> (i64, i64) {
        let scores = scores(snapshot, template, &[0, 1]);
        (scores[0], scores[1])
    }

    #[test]
    fn the_emptier_node_wins_by_its_free_share() {
        let mut snapshot = two(|_| {});
        snapshot.charge("x", "b", footprint(1000, 1 << 30, None), false);
        let pod = template("1", "1Gi", json!({}));
        // Free after it: 75 of 100 on a, 50 on b; both stay balanced.
        let (a, b) = compare(&snapshot, &pod);
        assert_eq!(a - b, 25);
    }

    #[test]
    fn the_node_that_stays_even_wins() {
        let mut snapshot = two(|_| {});
        snapshot.charge("x", "a", footprint(2000, 0, None), false);
        snapshot.charge("y", "b", footprint(0, 2 << 30, None), false);
        let pod = template("0", "2Gi", json!({}));
        let (a, b) = compare(&snapshot, &pod);
        assert!(a > b, "{a} {b}");
    }

    #[test]
    fn a_soft_taint_repels_unless_borne() {
        let tainted = |node: &mut Node| {
            let taint = json!([{"key": "k", "value": "v", "effect": "PreferNoSchedule"}]);
            node.spec.get_or_insert_default().taints =
                Some(serde_json::from_value(taint).expect("taints"));
        };
        let (a, b) = compare(&two(tainted), &template("1", "1Gi", json!({})));
        assert_eq!(a - b, 300);
        let bears = json!({"tolerations": [{"operator": "Exists"}]});
        let (a, b) = compare(&two(tainted), &template("1", "1Gi", bears));
        assert_eq!(a, b);
    }

    #[test]
    fn preferred_terms_add_their_weights() {
        let term = |weight: i64, name: &str| {
            json!({"weight": weight, "preference": {"matchExpressions":
                [{"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}]}})
        };
        let prefers = json!({"affinity": {"nodeAffinity":
            {"preferredDuringSchedulingIgnoredDuringExecution": [term(10, "a"), term(40, "b")]}}});
        let (a, b) = compare(&two(|_| {}), &template("1", "1Gi", prefers));
        assert_eq!(b - a, 2 * (100 - 25));
    }

    #[test]
    fn pods_of_one_owner_spread() {
        let mut snapshot = two(|_| {});
        let pod = template("0", "0", json!({}));
        snapshot.charge("x", "a", pod.footprint.clone(), false);
        let (a, b) = compare(&snapshot, &pod);
        assert_eq!(b - a, 200);
    }

    #[test]
    fn an_image_that_is_here_attracts() {
        let snapshot = two(|node| {
            let images = json!([{"names": ["web:latest"], "sizeBytes": 1_000_000_000}]);
            node.status.get_or_insert_default().images =
                Some(serde_json::from_value(images).expect("images"));
        });
        let (a, b) = compare(&snapshot, &template("1", "1Gi", json!({})));
        assert!(b > a, "{a} {b}");
    }
}
