//! Pure: which volume a claim gets (`FindMatchingVolume` of component-helpers/storage/volume).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::object::quantity::Quantity;
use crate::object::selector::Selector;
use crate::object::storage::{FILESYSTEM, class_of, is_kept_for};
use crate::reconcile::scheduler::demand::Term;

/// The volume for a claim: one that is kept for it, else the smallest free one that does, of equals
/// the first by name. `volumes` come in the order of their names.
///
/// `on_node` asks for volumes that a node reaches, as the scheduler does; without it a claim that
/// `waits` for its first consumer gets nothing but what is kept for it.
///
/// A volume that is kept for the claim must be large enough and nothing else: who wrote it knew why.
pub fn best<'v>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'v Arc<PersistentVolume>>,
    waits: bool,
    on_node: Option<&dyn Fn(&PersistentVolume) -> bool>,
) -> Option<&'v Arc<PersistentVolume>> {
    let asked = asked(claim);
    let selector = selector(claim)?;
    let mut smallest: Option<(Quantity, &Arc<PersistentVolume>)> = None;
    for volume in volumes {
        let Some(spec) = &volume.spec else { continue };
        let size = capacity(spec);
        if volume.metadata.deletion_timestamp.is_some() || size < asked || mode(spec) != FILESYSTEM
        {
            continue;
        }
        let is_reached = on_node.is_none_or(|reaches| reaches(volume));
        if is_kept_for(volume, claim) {
            return is_reached.then_some(volume);
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if (waits && on_node.is_none()) || spec.claim_ref.is_some() || phase != Some("Available") {
            continue;
        }
        let fits = selector.matches_optional(volume.metadata.labels.as_ref())
            && class_of_volume(spec) == class_of(claim).unwrap_or_default()
            && offers(spec, claim)
            && is_reached;
        if fits && smallest.as_ref().is_none_or(|(least, _)| size < *least) {
            smallest = Some((size, volume));
        }
    }
    smallest.map(|(_, volume)| volume)
}

/// Why a volume that a claim names is not for it (`checkVolumeSatisfyClaim`).
pub fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let Some(spec) = &volume.spec else { return Some("requested PV is too small") };
    if capacity(spec) < asked(claim) {
        return Some("requested PV is too small");
    }
    if class_of_volume(spec) != class_of(claim).unwrap_or_default() {
        return Some("storageClassName does not match");
    }
    if mode(spec) != FILESYSTEM {
        return Some("incompatible volumeMode");
    }
    (!offers(spec, claim)).then_some("incompatible accessMode")
}

/// Whether a node reaches a volume: its affinity holds there.
pub fn is_on(volume: &PersistentVolume, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| {
        selector.node_selector_terms.iter().any(|term| Term::of(term).matches(node, labels))
    })
}

/// Amounts that cannot be read are refused by admission; here such a claim fits nowhere.
fn asked(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    requests.map_or(Quantity::ZERO, |requests| {
        storage(requests).unwrap_or(Quantity::from_units(i64::MAX))
    })
}

fn capacity(spec: &PersistentVolumeSpec) -> Quantity {
    spec.capacity.as_ref().and_then(storage).unwrap_or(Quantity::ZERO)
}

fn storage(amounts: &BTreeMap<String, Text>) -> Option<Quantity> {
    amounts.get("storage").and_then(|amount| Quantity::parse(&amount.0).ok())
}

fn mode(spec: &PersistentVolumeSpec) -> &str {
    spec.volume_mode.as_deref().unwrap_or(FILESYSTEM)
}

fn class_of_volume(spec: &PersistentVolumeSpec) -> &str {
    spec.storage_class_name.as_deref().unwrap_or_default()
}

/// Whether a volume has every mode that a claim asks for.
fn offers(spec: &PersistentVolumeSpec, claim: &PersistentVolumeClaim) -> bool {
    let has = spec.access_modes.as_deref().unwrap_or_default();
    let asked = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref());
    asked.into_iter().flatten().all(|mode| has.contains(mode))
}

/// `None` for one that cannot be read: it selects nothing.
fn selector(claim: &PersistentVolumeClaim) -> Option<Selector> {
    let written = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    written.map_or(Some(Selector::default()), |selector| Selector::of_label_selector(selector).ok())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub fn claim(name: &str, change: Value) -> PersistentVolumeClaim {
        let mut object = json!({"metadata": {"name": name, "namespace": "a", "uid": name,
                "resourceVersion": "1", "finalizers": ["kubernetes.io/pvc-protection"]},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s",
                "volumeMode": "Filesystem", "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": "Pending"}});
        json_patch::merge(&mut object, &change);
        serde_json::from_value(object).expect("a claim")
    }

    pub fn volume(name: &str, size: &str, change: Value) -> Arc<PersistentVolume> {
        let mut object = json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1",
                "finalizers": ["kubernetes.io/pv-protection"], "labels": {"disk": "fast"}},
            "spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"], "storageClassName": "s",
                "capacity": {"storage": size}, "local": {"path": "/srv/v"},
                "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}},
            "status": {"phase": "Available"}});
        json_patch::merge(&mut object, &change);
        Arc::new(serde_json::from_value(object).expect("a volume"))
    }

    fn chosen(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> Option<String> {
        best(claim, volumes, false, None).and_then(|volume| volume.metadata.name.clone())
    }

    #[test]
    fn the_smallest_that_does() {
        let all = [
            volume("big", "10Gi", json!({})),
            volume("fits", "2Gi", json!({})),
            volume("same", "2048Mi", json!({})),
            volume("small", "1Gi", json!({})),
        ];
        assert_eq!(chosen(&claim("c", json!({})), &all).as_deref(), Some("fits"));
        let wide = claim("c", json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}));
        assert_eq!(chosen(&wide, &all).as_deref(), Some("big"));
        let slow = json!({"spec": {"selector": {"matchLabels": {"disk": "slow"}}}});
        assert_eq!(chosen(&claim("c", slow), &all), None);
        for change in [
            json!({"spec": {"storageClassName": "t"}}),
            json!({"spec": {"storageClassName": null}}),
            json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
        ] {
            assert_eq!(chosen(&claim("c", change.clone()), &all), None, "{change}");
        }
    }

    #[test]
    fn what_is_taken_going_or_not_ready_is_for_nobody() {
        for change in [
            json!({"status": {"phase": "Pending"}}),
            json!({"status": {"phase": "Released"}}),
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"spec": {"claimRef": {"namespace": "a", "name": "d"}}}),
            json!({"spec": {"claimRef": {"namespace": "a", "name": "c", "uid": "old"}}}),
            json!({"spec": {"volumeMode": "Block"}}),
        ] {
            let only = [volume("v", "2Gi", change.clone())];
            assert_eq!(chosen(&claim("c", json!({})), &only), None, "{change}");
        }
    }

    #[test]
    fn what_is_kept_for_a_claim_is_its_own() {
        let kept = json!({"spec": {"claimRef": {"namespace": "a", "name": "c"},
            "storageClassName": "other"}, "status": {"phase": "Available"}});
        let all = [volume("fits", "2Gi", json!({})), volume("kept", "5Gi", kept)];
        assert_eq!(chosen(&claim("c", json!({})), &all).as_deref(), Some("kept"));
        // A claim that waits gets that, and nothing else without a node.
        let waits = |claim: &PersistentVolumeClaim| best(claim, &all, true, None).is_some();
        assert!(waits(&claim("c", json!({}))) && !waits(&claim("d", json!({}))));
        let here = |node: &'static str| {
            move |volume: &PersistentVolume| {
                is_on(
                    volume,
                    node,
                    &[("kubernetes.io/hostname".to_owned(), node.to_owned())].into(),
                )
            }
        };
        let on = |node| best(&claim("d", json!({})), &all, true, Some(&here(node))).is_some();
        assert!(on("n1") && !on("n2"));
    }

    #[test]
    fn a_volume_that_is_asked_for_by_name_says_why_not() {
        let own = claim("c", json!({}));
        let why = |size: &str, change: Value| mismatch(&own, &volume("v", size, change));
        assert_eq!(why("2Gi", json!({})), None);
        assert_eq!(why("1Gi", json!({})), Some("requested PV is too small"));
        assert_eq!(
            why("2Gi", json!({"spec": {"storageClassName": null}})),
            Some("storageClassName does not match")
        );
        assert_eq!(
            why("2Gi", json!({"spec": {"accessModes": ["ReadWriteMany"]}})),
            Some("incompatible accessMode")
        );
    }
}
