//! Pure: what is to be done about a volume: one write at most (`syncVolume` of the reference's
//! controller, and its volume protection).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::object::storage::{
    BOUND_BY_CONTROLLER, VOLUME_PROTECTION, annotation, provisioner_of, volume_of,
};
use crate::reconcile::persistent_volume::claim_plan::unprotect;

/// The next write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Everything but its status.
    Update {
        volume: Box<PersistentVolume>,
        reason: &'static str,
    },
    Status {
        volume: Box<PersistentVolume>,
        reason: &'static str,
    },
    /// Our finalizer goes: asked of the store itself first, for a cache may be late.
    Unprotect {
        volume: Box<PersistentVolume>,
    },
}

/// What comes next for a volume. `claim` is what has the name that the volume's `claimRef` says.
pub fn plan(
    volume: &PersistentVolume,
    claim: Option<&PersistentVolumeClaim>,
    now: Timestamp,
) -> Option<Step> {
    let meta = &volume.metadata;
    let is_going = meta.deletion_timestamp.is_some();
    let is_protected = meta.finalizers.iter().flatten().any(|name| name == VOLUME_PROTECTION);
    if !is_going && !is_protected {
        let mut volume = volume.clone();
        volume.metadata.finalizers.get_or_insert_default().push(VOLUME_PROTECTION.to_owned());
        return Some(Step::Update { volume: Box::new(volume), reason: "a bound volume stays" });
    }
    if is_going && is_protected && !is_claimed(volume, claim) {
        let mut volume = volume.clone();
        unprotect(&mut volume.metadata, VOLUME_PROTECTION);
        return Some(Step::Unprotect { volume: Box::new(volume) });
    }
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(reference) = reference else { return phase(volume, "Available", now) };
    let uid = reference.uid.as_deref().unwrap_or_default();
    if uid.is_empty() {
        // Kept for a claim by its name: nobody has it yet.
        return phase(volume, "Available", now);
    }
    let Some(claim) = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) else {
        // The agent that provisioned it removes it then; a failure to do so is told until it works.
        let is_failed = phase_of(volume) == Some("Failed");
        return if is_failed { None } else { phase(volume, "Released", now) };
    };
    match volume_of(claim) {
        // The other half of the binding is the claim's.
        None => None,
        own if own == meta.name.as_deref() => phase(volume, "Bound", now),
        // The claim is another volume's: this one was in vain.
        Some(_) if provisioner_of(volume).is_some() => phase(volume, "Released", now),
        Some(_) => Some(let_go(volume)),
    }
}

/// Whether the claim that a volume names is there: what it has is not taken from it.
pub fn is_claimed(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let uid = reference.and_then(|claim| claim.uid.as_deref()).filter(|uid| !uid.is_empty());
    let Some((uid, claim)) = uid.zip(claim) else { return false };
    claim.metadata.uid.as_deref() == Some(uid)
        && volume_of(claim).is_none_or(|name| Some(name) == volume.metadata.name.as_deref())
}

/// Free again; what a person has said stays, without the uid (`unbindVolume`).
fn let_go(volume: &PersistentVolume) -> Step {
    let mut volume = volume.clone();
    let is_ours = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    if let Some(annotations) = &mut volume.metadata.annotations {
        annotations.remove(BOUND_BY_CONTROLLER);
    }
    let reference = &mut volume.spec.get_or_insert_default().claim_ref;
    if is_ours {
        *reference = None;
    } else if let Some(claim) = reference {
        claim.uid = None;
        claim.resource_version = None;
    }
    Step::Update { volume: Box::new(volume), reason: "its claim has another volume" }
}

fn phase_of(volume: &PersistentVolume) -> Option<&str> {
    volume.status.as_ref().and_then(|status| status.phase.as_deref())
}

fn phase(volume: &PersistentVolume, phase: &str, now: Timestamp) -> Option<Step> {
    if phase_of(volume) == Some(phase) {
        return None;
    }
    let mut volume = Box::new(volume.clone());
    volume.status = Some(PersistentVolumeStatus {
        phase: Some(phase.to_owned()),
        last_phase_transition_time: Some(Time(now)),
        ..PersistentVolumeStatus::default()
    });
    Some(Step::Status { volume, reason: "its claim's state" })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::reconcile::persistent_volume::matching::tests::{claim, volume};

    fn told(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> String {
        match plan(volume, claim, Timestamp::UNIX_EPOCH) {
            None => "nothing".to_owned(),
            Some(Step::Unprotect { volume }) => {
                format!("unprotect {:?}", volume.metadata.finalizers)
            }
            Some(Step::Update { volume, .. }) => {
                let held = volume.spec.and_then(|spec| spec.claim_ref);
                let word = |held: k8s_openapi::api::core::v1::ObjectReference| {
                    format!("{} {}", held.name.unwrap_or_default(), held.uid.unwrap_or_default())
                };
                held.map_or("free".to_owned(), word)
            }
            Some(Step::Status { volume, .. }) => {
                volume.status.and_then(|status| status.phase).unwrap_or_default()
            }
        }
    }

    fn held(uid: &str, phase: &str, more: Value) -> PersistentVolume {
        let mut change = json!({"spec": {"claimRef": {"namespace": "a", "name": "c", "uid": uid}},
            "status": {"phase": phase}});
        json_patch::merge(&mut change, &more);
        (*volume("v", "2Gi", change)).clone()
    }

    #[test]
    fn a_volumes_phase_follows_its_claim() {
        let new = volume("v", "2Gi", json!({"status": {"phase": "Pending"}}));
        assert_eq!(told(&new, None), "Available");
        assert_eq!(told(&held("", "Pending", json!({})), None), "Available", "kept by name");
        let waits = claim("c", json!({}));
        assert_eq!(told(&held("c", "Available", json!({})), Some(&waits)), "nothing");
        let bound = claim("c", json!({"spec": {"volumeName": "v"}}));
        assert_eq!(told(&held("c", "Available", json!({})), Some(&bound)), "Bound");
        assert_eq!(told(&held("c", "Bound", json!({})), Some(&bound)), "nothing");
        assert_eq!(told(&held("c", "Bound", json!({})), None), "Released");
        let again = claim("c", json!({"metadata": {"uid": "new"}}));
        assert_eq!(told(&held("c", "Bound", json!({})), Some(&again)), "Released");
        assert_eq!(told(&held("c", "Failed", json!({})), None), "nothing", "the agent tries again");
    }

    #[test]
    fn a_volume_in_vain_is_free_again_and_one_that_was_made_goes() {
        let elsewhere = claim("c", json!({"spec": {"volumeName": "w"}}));
        let ours = json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}});
        assert_eq!(told(&held("c", "Available", ours), Some(&elsewhere)), "free");
        assert_eq!(told(&held("c", "Available", json!({})), Some(&elsewhere)), "c ");
        let made = json!({"metadata": {"annotations":
            {"pv.kubernetes.io/provisioned-by": "ballast.dev/local-path"}}});
        assert_eq!(told(&held("c", "Available", made), Some(&elsewhere)), "Released");
    }

    #[test]
    fn a_volume_goes_when_its_claim_is_gone() {
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let bound = claim("c", json!({"spec": {"volumeName": "v"}}));
        assert_eq!(told(&held("c", "Bound", going.clone()), Some(&bound)), "nothing");
        assert_eq!(told(&held("c", "Bound", going.clone()), None), "unprotect None");
        let free = volume("v", "2Gi", going);
        assert_eq!(told(&free, None), "unprotect None");
        let bare = volume("v", "2Gi", json!({"metadata": {"finalizers": null}}));
        assert!(matches!(
            plan(&bare, None, Timestamp::UNIX_EPOCH),
            Some(Step::Update { volume, .. }) if volume.metadata.finalizers.is_some()
        ));
    }
}
