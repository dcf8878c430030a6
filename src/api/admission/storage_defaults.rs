//! Pure: what claims, volumes and storage classes begin with, and what a commit that does not name
//! it leaves to the controllers.

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pod_defaults::or_text;
use super::quantities;
use crate::object::storage::{CLAIM_PROTECTION, FILESYSTEM, VOLUME_PROTECTION};

/// Kubernetes' admission (`StorageObjectInUseProtection`) puts the finalizer on what is created.
fn protect(meta: &mut ObjectMeta, finalizer: &str) {
    let all = meta.finalizers.get_or_insert_default();
    if !all.iter().any(|name| name == finalizer) {
        all.push(finalizer.to_owned());
    }
}

pub fn fill_claim(claim: &mut PersistentVolumeClaim) {
    let spec = claim.spec.get_or_insert_default();
    or_text(&mut spec.volume_mode, FILESYSTEM);
    spec.volume_name.take_if(|name| name.is_empty());
    spec.resources.get_or_insert_default();
    quantities::each(claim, &mut quantities::canonical);
}

pub fn begin_claim(claim: &mut PersistentVolumeClaim) {
    protect(&mut claim.metadata, CLAIM_PROTECTION);
    let phase = Some("Pending".to_owned());
    claim.status = Some(PersistentVolumeClaimStatus { phase, ..Default::default() });
}

pub fn fill_volume(volume: &mut PersistentVolume) {
    let spec = volume.spec.get_or_insert_default();
    or_text(&mut spec.persistent_volume_reclaim_policy, "Retain");
    or_text(&mut spec.volume_mode, FILESYSTEM);
    spec.storage_class_name.take_if(|name| name.is_empty());
    if let Some(source) = &mut spec.host_path {
        source.type_.get_or_insert_default();
    }
    quantities::each(volume, &mut quantities::canonical);
}

/// The time is that of its creation, which is given before.
pub fn begin_volume(volume: &mut PersistentVolume) {
    protect(&mut volume.metadata, VOLUME_PROTECTION);
    volume.status = Some(PersistentVolumeStatus {
        phase: Some("Pending".to_owned()),
        last_phase_transition_time: volume.metadata.creation_timestamp.clone(),
        ..Default::default()
    });
}

pub fn fill_class(class: &mut StorageClass) {
    or_text(&mut class.reclaim_policy, "Delete");
    or_text(&mut class.volume_binding_mode, "Immediate");
    class.parameters.take_if(|map| map.is_empty());
    class.mount_options.take_if(|list| list.is_empty());
}

/// A manifest that names no volume and no class leaves both to whoever binds it.
pub fn keep_binding_of_claim(claim: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
    let Some(old) = &old.spec else { return };
    let spec = claim.spec.get_or_insert_default();
    if spec.volume_name.as_deref().unwrap_or_default().is_empty() {
        spec.volume_name.clone_from(&old.volume_name);
    }
    if spec.storage_class_name.is_none() {
        spec.storage_class_name.clone_from(&old.storage_class_name);
    }
}

/// A manifest that names no claim, or the claim that has the volume, leaves it bound.
pub fn keep_binding_of_volume(volume: &mut PersistentVolume, old: &PersistentVolume) {
    let Some(held) = old.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return };
    let asked = &mut volume.spec.get_or_insert_default().claim_ref;
    let is_theirs = asked.as_ref().is_none_or(|asked| {
        asked.uid.as_deref().unwrap_or_default().is_empty()
            && (&asked.namespace, &asked.name) == (&held.namespace, &held.name)
    });
    if is_theirs {
        *asked = Some(held.clone());
    }
}
