//! Pure: the storage classes that a cluster has when nobody writes one.

use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::storage::{
    BUILT_IN_CLASSES, DOCKER_VOLUME, IS_DEFAULT_CLASS, LOCAL_PATH, WAIT_FOR_FIRST_CONSUMER,
};

/// The default, and the other one. A commit may take either over, and say of `local-path` that it is
/// the default no more.
pub fn classes() -> [StorageClass; 2] {
    let [local_path, docker_volume] = BUILT_IN_CLASSES;
    [class(local_path, LOCAL_PATH, true), class(docker_volume, DOCKER_VOLUME, false)]
}

fn class(name: &str, provisioner: &str, is_default: bool) -> StorageClass {
    let default = || [(IS_DEFAULT_CLASS.to_owned(), "true".to_owned())].into();
    StorageClass {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: is_default.then(default),
            ..ObjectMeta::default()
        },
        provisioner: provisioner.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some(WAIT_FOR_FIRST_CONSUMER.to_owned()),
        ..StorageClass::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::storage::default_class;

    #[test]
    fn one_of_them_is_the_default() {
        let all = classes();
        let default = default_class(&all).and_then(|class| class.metadata.name.clone());
        assert_eq!(default.as_deref(), Some("local-path"));
    }
}
