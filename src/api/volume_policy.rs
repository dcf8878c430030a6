//! What a PersistentVolume that is written by hand opens of the host: the daemon's second key, asked
//! of the namespace whose claim has it. A volume that any claim may take is for every namespace (`*`).
//!
//! Whoever writes decides: what a node's agent provisions below its own data directory is its own
//! affair (`ownership.rs` holds it to its node), and who binds volumes does not choose their paths. Who
//! only tries (`--dry-run=server`) is told what a commit would be.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;

use crate::api::access::Identity;
use crate::api::admission::second_key::{Missing, missing_of_volume};
use crate::api::ownership::owned;
use crate::api::verbs::Api;
use crate::object::privilege::{EVERY, TO_ALLOW};
use crate::object::{ApiError, Kind};
use crate::store::Store;

impl<S: Store> Api<S> {
    /// # Errors
    /// `Forbidden` for a path or Docker volume that the daemon does not allow, or another node's.
    pub(crate) fn enforce_volume(
        &self,
        who: &Identity,
        volume: &PersistentVolume,
    ) -> Result<(), ApiError> {
        match who {
            Identity::NodeAgent { .. } => return owned(who, volume),
            Identity::Controllers | Identity::Scheduler | Identity::Admin => return Ok(()),
            _ => {}
        }
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let namespace = claim.and_then(|claim| claim.namespace.as_deref()).unwrap_or(EVERY);
        let Some(missing) = missing_of_volume(&self.options().privileges, namespace, volume) else {
            return Ok(());
        };
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let sentence = sentence(namespace, &missing);
        let cause = StatusCause {
            field: Some(missing.field),
            message: Some(sentence.clone()),
            reason: Some("FieldValueForbidden".to_owned()),
        };
        Err(ApiError::forbidden(Kind::PersistentVolume, name, &sentence, vec![cause]))
    }
}

fn sentence(namespace: &str, missing: &Missing) -> String {
    let what = &missing.what;
    let why = match namespace {
        EVERY => format!(
            "the daemon does not allow every namespace {what}, and any claim may take the volume"
        ),
        namespace => format!("the daemon does not allow namespace \"{namespace}\" {what}"),
    };
    let Some(flag) = &missing.flag else { return why };
    let how = format!("start the daemon with {flag} (or allow: in its config file)");
    match namespace {
        EVERY => format!(
            "{why}{TO_ALLOW}name the claim in spec.claimRef and allow its namespace, or {how}"
        ),
        _ => format!("{why}{TO_ALLOW}{how}"),
    }
}
