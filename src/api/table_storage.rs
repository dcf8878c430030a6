//! Pure: rows of claims, volumes and storage classes (`printers.go` of the reference server).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::api::table_cells::{Tabular, age, name};
use crate::object::storage::{is_default, modes_text};

const UNSET: &str = "<unset>";

/// A phase, unless the object is going.
fn status(meta: &ObjectMeta, phase: Option<&str>) -> Value {
    match meta.deletion_timestamp {
        Some(_) => json!("Terminating"),
        None => json!(phase.unwrap_or_default()),
    }
}

fn storage(amounts: Option<&BTreeMap<String, Text>>) -> String {
    let amount = amounts.and_then(|amounts| amounts.get("storage"));
    amount.map_or_else(|| "0".to_owned(), |amount| amount.0.clone())
}

impl Tabular for PersistentVolumeClaim {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let state = self.status.clone().unwrap_or_default();
        let volume = spec.volume_name.unwrap_or_default();
        let (capacity, modes) = match volume.as_str() {
            "" => (String::new(), String::new()),
            _ => (
                storage(state.capacity.as_ref()),
                modes_text(state.access_modes.as_deref().unwrap_or_default()),
            ),
        };
        vec![
            name(&self.metadata),
            status(&self.metadata, state.phase.as_deref()),
            json!(volume),
            json!(capacity),
            json!(modes),
            json!(spec.storage_class_name.unwrap_or_default()),
            json!(spec.volume_attributes_class_name.as_deref().unwrap_or(UNSET)),
            age(&self.metadata, now),
            json!(spec.volume_mode.as_deref().unwrap_or(UNSET)),
        ]
    }
}

impl Tabular for PersistentVolume {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let state = self.status.clone().unwrap_or_default();
        let claim = spec.claim_ref.map(|claim| {
            let part = Option::unwrap_or_default;
            format!("{}/{}", part(claim.namespace), part(claim.name))
        });
        vec![
            name(&self.metadata),
            json!(storage(spec.capacity.as_ref())),
            json!(modes_text(spec.access_modes.as_deref().unwrap_or_default())),
            json!(spec.persistent_volume_reclaim_policy.unwrap_or_default()),
            status(&self.metadata, state.phase.as_deref()),
            json!(claim.unwrap_or_default()),
            json!(spec.storage_class_name.unwrap_or_default()),
            json!(spec.volume_attributes_class_name.as_deref().unwrap_or(UNSET)),
            json!(state.reason.unwrap_or_default()),
            age(&self.metadata, now),
            json!(spec.volume_mode.as_deref().unwrap_or(UNSET)),
        ]
    }
}

impl Tabular for StorageClass {
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        let shown = if is_default(self) { format!("{own} (default)") } else { own.to_owned() };
        vec![
            json!(shown),
            json!(self.provisioner),
            json!(self.reclaim_policy.as_deref().unwrap_or("Delete")),
            json!(self.volume_binding_mode.as_deref().unwrap_or("Immediate")),
            json!(self.allow_volume_expansion.unwrap_or(false)),
            age(&self.metadata, now),
        ]
    }
}
