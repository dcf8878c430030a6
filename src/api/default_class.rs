//! The storage class of a claim that names none: Kubernetes' admission `DefaultStorageClass`. A claim
//! that finds no default stays without; the volume controller gives it one when there is one.

use std::any::Any;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::api::admission::Admit;
use crate::api::verbs::Api;
use crate::object::storage::{IS_DEFAULT_CLASS, default_class};
use crate::object::{ApplySet, Kind, SetWrite};
use crate::store::{ListRequest, Store};

impl<S: Store> Api<S> {
    /// Names the class that is the default at the moment.
    pub(crate) fn name_class<K: Admit>(&self, object: &mut K) {
        if unnamed(object).is_none() {
            return;
        }
        let request =
            ListRequest { namespace: None, limit: 0, after: None, at: None, select: &|_| true };
        let Ok(page) = self.store().list(Kind::StorageClass, &request) else {
            return;
        };
        let classes: Vec<_> = page
            .items
            .iter()
            .filter_map(|record| self.typed::<StorageClass>(record).ok())
            .collect();
        let default = default_class(classes.iter().map(|class| &**class));
        if let (Some(name), Some(class)) = (unnamed(object), default) {
            name.clone_from(&class.metadata.name);
        }
    }
}

/// Where a claim that names no class would name it.
fn unnamed<K: Admit>(object: &mut K) -> Option<&mut Option<String>> {
    let claim = (object as &mut dyn Any).downcast_mut::<PersistentVolumeClaim>()?;
    let name = &mut claim.spec.get_or_insert_default().storage_class_name;
    name.is_none().then_some(name)
}

/// The default that a commit brings: it is newer than every stored one.
pub(crate) fn name_class_of_set<K: Admit>(object: &mut K, set: &ApplySet) {
    let Some(name) = unnamed(object) else { return };
    let brought = set.writes.iter().filter_map(|write| match write {
        SetWrite::Apply { kind: Kind::StorageClass, key, manifest, .. } => {
            let default = &manifest["metadata"]["annotations"][IS_DEFAULT_CLASS];
            (default == "true").then_some(&key.name)
        }
        _ => None,
    });
    *name = brought.min().cloned();
}
