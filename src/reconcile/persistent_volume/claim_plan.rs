//! Pure: what is to be done about a claim: one write at most, and what is said meanwhile
//! (`syncClaim` of the reference's controller, and its claim protection).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::Severity::{self, Normal, Warning};
use crate::object::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, CLAIM_PROTECTION, NO_PROVISIONER, SELECTED_NODE,
    STORAGE_PROVISIONER, WAIT_FOR_FIRST_CONSUMER, annotation, class_of, is_held_by, is_kept_for,
    volume_of,
};
use crate::object::{Kind, Object};
use crate::reconcile::persistent_volume::matching;

/// What a decision about a claim reads.
#[derive(Clone, Copy, Debug)]
pub struct View<'v> {
    pub claim: &'v PersistentVolumeClaim,
    /// In the order of their names.
    pub volumes: &'v [Arc<PersistentVolume>],
    /// The class that the claim names.
    pub class: Option<&'v StorageClass>,
    /// The default class, by name.
    pub default_class: Option<&'v str>,
    /// Whether a pod that is not over has it in its hands.
    pub is_used: bool,
    /// A pod that uses it and waits for a node.
    pub waiting_pod: Option<&'v str>,
}

/// The next write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The first half of a binding: the volume is this claim's.
    HoldVolume {
        volume: Box<PersistentVolume>,
        reason: &'static str,
    },
    /// Everything of a claim but its status.
    Update {
        claim: Box<PersistentVolumeClaim>,
        reason: &'static str,
    },
    Status {
        claim: Box<PersistentVolumeClaim>,
        reason: &'static str,
    },
    /// The last finalizer of ours goes: asked of the store itself first, for a cache may be late.
    Unprotect {
        claim: Box<PersistentVolumeClaim>,
    },
}

/// An Event of the claim.
pub type Said = (Severity, &'static str, String);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub step: Option<Step>,
    pub said: Vec<Said>,
}

impl Plan {
    fn of(step: Step) -> Self {
        Self { step: Some(step), said: Vec::new() }
    }

    fn say(mut self, severity: Severity, reason: &'static str, message: impl Into<String>) -> Self {
        self.said.push((severity, reason, message.into()));
        self
    }
}

/// What comes next for a claim. Nothing to write and nothing to say: it is as it is to be.
pub fn plan(view: &View<'_>) -> Plan {
    let meta = &view.claim.metadata;
    let is_protected = meta.finalizers.iter().flatten().any(|name| name == CLAIM_PROTECTION);
    match (meta.deletion_timestamp.is_some(), is_protected) {
        (true, true) if !view.is_used => {
            let mut claim = view.claim.clone();
            unprotect(&mut claim.metadata, CLAIM_PROTECTION);
            return Plan::of(Step::Unprotect { claim: Box::new(claim) });
        }
        (false, false) => {
            let mut claim = view.claim.clone();
            let finalizers = claim.metadata.finalizers.get_or_insert_default();
            finalizers.push(CLAIM_PROTECTION.to_owned());
            return update(claim, "a claim goes only when nobody uses it");
        }
        _ => {}
    }
    if annotation(meta, BIND_COMPLETED).is_some() { bound(view) } else { unbound(view) }
}

/// Takes a finalizer off.
pub fn unprotect(meta: &mut ObjectMeta, finalizer: &str) {
    if let Some(finalizers) = &mut meta.finalizers {
        finalizers.retain(|name| name != finalizer);
    }
    meta.finalizers.take_if(|list| list.is_empty());
}

fn update(claim: PersistentVolumeClaim, reason: &'static str) -> Plan {
    Plan::of(Step::Update { claim: Box::new(claim), reason })
}

fn named<'v>(view: &View<'v>, name: &str) -> Option<&'v Arc<PersistentVolume>> {
    view.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name))
}

fn unbound(view: &View<'_>) -> Plan {
    let claim = view.claim;
    // One that goes is not bound any more; one that is half bound is its volume's affair.
    if claim.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let Some(name) = volume_of(claim) else { return unnamed(view) };
    let Some(volume) = named(view, name) else { return pending(view) };
    let is_free = volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none());
    if is_free && let Some(why) = matching::mismatch(claim, volume) {
        let message = format!("Cannot bind to requested volume \"{name}\": {why}");
        return pending(view).say(Warning, "VolumeMismatch", message);
    }
    if is_free || is_kept_for(volume, claim) {
        return bind(view, volume);
    }
    let message = format!("volume \"{name}\" already bound to a different claim.");
    pending(view).say(Warning, "FailedBinding", message)
}

/// Nobody has chosen a volume yet.
fn unnamed(view: &View<'_>) -> Plan {
    let claim = view.claim;
    let mode = view.class.and_then(|class| class.volume_binding_mode.as_deref());
    let is_selected = annotation(&claim.metadata, SELECTED_NODE).is_some();
    let waits = mode == Some(WAIT_FOR_FIRST_CONSUMER);
    if let Some(volume) = matching::best(claim, view.volumes, waits, None) {
        return bind(view, volume);
    }
    if class_of(claim).is_none()
        && let Some(default) = view.default_class
    {
        let mut claim = claim.clone();
        claim.spec.get_or_insert_default().storage_class_name = Some(default.to_owned());
        return update(claim, "there is a default storage class now");
    }
    if waits && !is_selected {
        return match view.waiting_pod {
            Some(pod) => pending(view).say(
                Normal,
                "WaitForPodScheduled",
                format!("waiting for pod {pod} to be scheduled"),
            ),
            None => pending(view).say(
                Normal,
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding",
            ),
        };
    }
    let named = class_of(claim).unwrap_or_default();
    match view.class {
        None if named.is_empty() => pending(view).say(
            Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
        None => {
            let message = format!("storageclass.storage.k8s.io \"{named}\" not found");
            pending(view).say(Warning, "ProvisioningFailed", message)
        }
        Some(class) if class.provisioner == NO_PROVISIONER => pending(view).say(
            Warning,
            "ProvisioningFailed",
            format!("no volume plugin matched name: {NO_PROVISIONER}"),
        ),
        Some(class) => provisioned(view, &class.provisioner),
    }
}

/// The agent of the selected node makes the volume; here is said that it is waited for.
fn provisioned(view: &View<'_>, provisioner: &str) -> Plan {
    if annotation(&view.claim.metadata, STORAGE_PROVISIONER) != Some(provisioner) {
        let mut claim = view.claim.clone();
        annotate(&mut claim.metadata, STORAGE_PROVISIONER, provisioner);
        return update(claim, "its volume is to be made");
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    pending(view).say(Normal, "ExternalProvisioning", message)
}

fn annotate(meta: &mut ObjectMeta, name: &str, value: &str) {
    meta.annotations.get_or_insert_default().insert(name.to_owned(), value.to_owned());
}

/// What of a binding is still to be written, the volume's half first.
fn bind(view: &View<'_>, volume: &Arc<PersistentVolume>) -> Plan {
    let claim = view.claim;
    if !is_held_by(volume, claim) {
        return hold(claim, volume);
    }
    let name = volume.metadata.name.clone();
    if volume_of(claim) != name.as_deref() || annotation(&claim.metadata, BIND_COMPLETED).is_none()
    {
        let mut claim = claim.clone();
        if volume_of(&claim).is_none() {
            annotate(&mut claim.metadata, BOUND_BY_CONTROLLER, "yes");
        }
        claim.spec.get_or_insert_default().volume_name = name;
        annotate(&mut claim.metadata, BIND_COMPLETED, "yes");
        return update(claim, "its volume is its own");
    }
    let spec = volume.spec.clone().unwrap_or_default();
    status(view, |status| {
        status.phase = Some("Bound".to_owned());
        status.access_modes = spec.access_modes;
        status.capacity = spec.capacity;
    })
}

/// The volume, as it is when it is the claim's. Also the scheduler's word when it has chosen one.
pub fn held(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolume {
    let mut volume = volume.clone();
    let reference = &mut volume.spec.get_or_insert_default().claim_ref;
    if reference.is_none() {
        annotate(&mut volume.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    *reference = Some(ObjectReference {
        api_version: Some(Kind::PersistentVolumeClaim.api_version()),
        kind: Some(Kind::PersistentVolumeClaim.row().name.to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    });
    volume
}

fn hold(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let volume = Box::new(held(claim, volume));
    Plan::of(Step::HoldVolume { volume, reason: "it is the claim's" })
}

/// Both halves were written once.
fn bound(view: &View<'_>) -> Plan {
    let claim = view.claim;
    let Some(name) = volume_of(claim) else {
        return lost(
            view,
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    };
    let Some(volume) = named(view, name) else {
        return lost(
            view,
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        );
    };
    let is_free = volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none());
    if is_free || is_kept_for(volume, claim) {
        return bind(view, volume);
    }
    lost(
        view,
        "ClaimMisbound",
        "Two claims are bound to the same volume, this one is bound incorrectly",
    )
}

fn pending(view: &View<'_>) -> Plan {
    status(view, |status| status.phase = Some("Pending".to_owned()))
}

fn lost(view: &View<'_>, reason: &'static str, message: &str) -> Plan {
    let plan = status(view, |status| status.phase = Some("Lost".to_owned()));
    // Told once, when it is found out.
    if plan.step.is_some() { plan.say(Warning, reason, message) } else { plan }
}

fn status(view: &View<'_>, change: impl FnOnce(&mut PersistentVolumeClaimStatus)) -> Plan {
    let old = view.claim.status.clone().unwrap_or_default();
    let mut new = old.clone();
    change(&mut new);
    if new == old {
        return Plan::default();
    }
    let mut claim = Box::new(view.claim.clone());
    claim.status = Some(new);
    Plan::of(Step::Status { claim, reason: "its volume's state" })
}

/// Whether a claim is still to be bound: a volume that becomes free may be for it.
pub fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    !claim.uid().is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::reconcile::persistent_volume::matching::tests::{claim, volume};

    fn class(mode: &str, provisioner: &str) -> StorageClass {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "provisioner": provisioner,
            "volumeBindingMode": mode}))
        .expect("a class")
    }

    fn waits() -> StorageClass {
        class(WAIT_FOR_FIRST_CONSUMER, "ballast.dev/local-path")
    }

    fn planned(
        claim: &PersistentVolumeClaim,
        volumes: &[Arc<PersistentVolume>],
        class: Option<&StorageClass>,
    ) -> Plan {
        let default_class = Some("local-path");
        let (is_used, waiting_pod) = (false, None);
        plan(&View { claim, volumes, class, default_class, is_used, waiting_pod })
    }

    fn said(plan: &Plan) -> Vec<String> {
        plan.said.iter().map(|(_, reason, message)| format!("{reason}: {message}")).collect()
    }

    #[test]
    fn a_claim_that_nothing_matches_says_what_it_waits_for() {
        let none = |claim: &PersistentVolumeClaim, class: Option<&StorageClass>| {
            let plan = planned(claim, &[], class);
            assert_eq!(plan.step, None, "it is Pending already");
            said(&plan)
        };
        let own = claim("c", json!({}));
        assert_eq!(
            none(&own, Some(&waits())),
            ["WaitForFirstConsumer: waiting for first consumer to be created before binding"]
        );
        assert_eq!(
            none(&own, None),
            ["ProvisioningFailed: storageclass.storage.k8s.io \"s\" not found"]
        );
        assert_eq!(
            none(&own, Some(&class("Immediate", NO_PROVISIONER))),
            ["ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"]
        );
        let classless = claim("c", json!({"spec": {"storageClassName": ""}}));
        assert_eq!(
            none(&classless, None),
            [
                "FailedBinding: no persistent volumes available for this claim and no storage class is set"
            ]
        );
        let elsewhere = claim("c", json!({"spec": {"volumeName": "v"}}));
        assert_eq!(none(&elsewhere, Some(&waits())), Vec::<String>::new());
    }

    #[test]
    fn a_claim_without_a_class_gets_the_default_when_there_is_one() {
        let own = claim("c", json!({"spec": {"storageClassName": null}}));
        let Some(Step::Update { claim, .. }) = planned(&own, &[], None).step else {
            panic!("it is given one")
        };
        assert_eq!(class_of(&claim), Some("local-path"));
    }

    #[test]
    fn a_selected_node_is_asked_to_provision() {
        let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}});
        let own = claim("c", selected);
        let Some(Step::Update { claim, .. }) = planned(&own, &[], Some(&waits())).step else {
            panic!("who provisions is noted")
        };
        assert_eq!(
            annotation(&claim.metadata, STORAGE_PROVISIONER),
            Some("ballast.dev/local-path")
        );
        let plan = planned(&claim, &[], Some(&waits()));
        assert_eq!((plan.step, plan.said[0].1), (None, "ExternalProvisioning"));
    }

    #[test]
    fn a_binding_is_two_writes_and_a_status() {
        let own = claim("c", json!({}));
        let immediate = class("Immediate", NO_PROVISIONER);
        let all = [volume("v", "5Gi", json!({}))];
        let Some(Step::HoldVolume { volume, .. }) = planned(&own, &all, Some(&immediate)).step
        else {
            panic!("the volume's half first")
        };
        assert!(is_held_by(&volume, &own));
        assert_eq!(annotation(&volume.metadata, BOUND_BY_CONTROLLER), Some("yes"));
        let all = [Arc::new(*volume)];
        let Some(Step::Update { claim: half, .. }) = planned(&own, &all, Some(&immediate)).step
        else {
            panic!("then the claim's")
        };
        assert_eq!(
            (volume_of(&half), annotation(&half.metadata, BIND_COMPLETED)),
            (Some("v"), Some("yes"))
        );
        let Some(Step::Status { claim: whole, .. }) = planned(&half, &all, Some(&immediate)).step
        else {
            panic!("then its status")
        };
        let status = serde_json::to_value(&whole.status).expect("serialises");
        assert_eq!(
            status,
            json!({"phase": "Bound", "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                "capacity": {"storage": "5Gi"}})
        );
        assert_eq!(planned(&whole, &all, Some(&immediate)), Plan::default());
    }

    #[test]
    fn a_volume_that_is_asked_for_by_name_must_do() {
        let asks = claim("c", json!({"spec": {"volumeName": "v"}}));
        let small = [volume("v", "1Gi", json!({}))];
        assert_eq!(
            said(&planned(&asks, &small, Some(&waits()))),
            ["VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small"]
        );
        let other = json!({"spec": {"claimRef": {"namespace": "a", "name": "d", "uid": "d"}}});
        assert_eq!(
            said(&planned(&asks, &[volume("v", "2Gi", other)], Some(&waits()))),
            ["FailedBinding: volume \"v\" already bound to a different claim."]
        );
        let step = planned(&asks, &[volume("v", "2Gi", json!({}))], Some(&waits())).step;
        assert!(matches!(step, Some(Step::HoldVolume { .. })), "{step:?}");
    }

    #[test]
    fn a_bound_claim_without_its_volume_is_lost() {
        let own = |change: Value| {
            let mut own = json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}},
                "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
            json_patch::merge(&mut own, &change);
            claim("c", own)
        };
        let lost = |claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]| {
            let plan = planned(claim, volumes, Some(&waits()));
            let Some(Step::Status { claim, .. }) = &plan.step else { panic!("{plan:?}") };
            let phase = claim.status.as_ref().and_then(|status| status.phase.clone());
            assert_eq!(phase.as_deref(), Some("Lost"));
            plan.said[0].1
        };
        assert_eq!(lost(&own(json!({})), &[]), "ClaimLost");
        assert_eq!(lost(&own(json!({"spec": {"volumeName": null}})), &[]), "ClaimLost");
        let other = json!({"spec": {"claimRef": {"namespace": "a", "name": "d", "uid": "d"}}});
        assert_eq!(lost(&own(json!({})), &[volume("v", "2Gi", other)]), "ClaimMisbound");
        let told = own(json!({"status": {"phase": "Lost"}}));
        assert_eq!(planned(&told, &[], None), Plan::default(), "it is told once");
    }

    #[test]
    fn a_claim_goes_when_nobody_uses_it() {
        let going = claim("c", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        let class = waits();
        let view = View {
            claim: &going,
            volumes: &[],
            class: Some(&class),
            default_class: None,
            is_used: true,
            waiting_pod: None,
        };
        assert_eq!(plan(&view), Plan::default());
        let Some(Step::Unprotect { claim: last }) = plan(&View { is_used: false, ..view }).step
        else {
            panic!("it may go")
        };
        assert_eq!(last.metadata.finalizers, None);
        let bare = claim("c", json!({"metadata": {"finalizers": null}}));
        let Some(Step::Update { claim, .. }) = planned(&bare, &[], None).step else {
            panic!("it is protected")
        };
        assert_eq!(claim.metadata.finalizers, Some(vec![CLAIM_PROTECTION.to_owned()]));
    }
}
