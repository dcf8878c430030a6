//! Pure: the rows of [`super::supported`] about claims, volumes and storage classes, and what of
//! their values no row can say.

use std::any::Any;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec};
use k8s_openapi::api::storage::v1::StorageClass;

use super::admit::{Admit, Faults};
use super::field_path::{FieldPath, quoted};
use super::supported::Support::{Harmless, Only, Refused, Runs};
use super::supported::{Part, Row, refusal};
use super::supported_table::rows;
use crate::object::storage::{
    DOCKER_VOLUME, DOCKER_VOLUME_DRIVER, LOCAL_PATH, NO_PROVISIONER, WAIT_FOR_FIRST_CONSUMER,
    is_ours, provisioner_of,
};
use crate::object::{Kind, host_path};

const BLOCK: &str = "a volume is a folder: block devices are not given to containers";
const OPTIONS: &str =
    "a volume is a folder of its node or a Docker volume: nothing is mounted with options";
const ATTRIBUTES: &str = "no volume has attributes that could change";
const ELSEWHERE: &str = "volumes are folders of their node (local, hostPath) or Docker volumes (csi with the driver docker-volume.ballast.dev)";
const GONE: &str = "Kubernetes itself has removed this type";
const FORMAT: &str = "nothing is formatted";
const SECRET: &str = "a Docker volume takes no secrets";

pub(super) static CLAIM: &[Row] = rows![Part::Object(Kind::PersistentVolumeClaim);
    Runs => [
        "spec.accessModes",
        "spec.resources.requests",
        "spec.selector.matchExpressions[].key",
        "spec.selector.matchExpressions[].operator",
        "spec.selector.matchExpressions[].values",
        "spec.selector.matchLabels",
        "spec.storageClassName",
        "spec.volumeName",
    ],
    Only(&["\"Filesystem\""], BLOCK) => ["spec.volumeMode"],
    Refused("nothing bounds what a volume holds; a request is enough to bind it") =>
        ["spec.resources.limits"],
    Refused("there are no snapshots, and volumes are not cloned") =>
        ["spec.dataSource", "spec.dataSourceRef"],
    Refused(ATTRIBUTES) => ["spec.volumeAttributesClassName"],
];

pub(super) static VOLUME: &[Row] = rows![Part::Object(Kind::PersistentVolume);
    Runs => [
        "spec.accessModes",
        "spec.capacity",
        "spec.claimRef.name",
        "spec.claimRef.namespace",
        "spec.claimRef.uid",
        // Judged by value: one driver runs.
        "spec.csi.driver",
        "spec.csi.volumeHandle",
        // Judged by value, as a pod's are.
        "spec.hostPath.path",
        "spec.hostPath.type",
        "spec.local.path",
        "spec.nodeAffinity.required.nodeSelectorTerms[].matchExpressions[].key",
        "spec.nodeAffinity.required.nodeSelectorTerms[].matchExpressions[].operator",
        "spec.nodeAffinity.required.nodeSelectorTerms[].matchExpressions[].values",
        "spec.nodeAffinity.required.nodeSelectorTerms[].matchFields[].key",
        "spec.nodeAffinity.required.nodeSelectorTerms[].matchFields[].operator",
        "spec.nodeAffinity.required.nodeSelectorTerms[].matchFields[].values",
        "spec.storageClassName",
    ],
    Only(&["\"v1\""], "only a claim has a volume") => ["spec.claimRef.apiVersion"],
    Only(&["\"PersistentVolumeClaim\""], "only a claim has a volume") => ["spec.claimRef.kind"],
    Harmless("a name and a uid say which claim it is") =>
        ["spec.claimRef.fieldPath", "spec.claimRef.resourceVersion"],
    Only(&["\"Delete\"", "\"Retain\""], "nothing is wiped to be used again") =>
        ["spec.persistentVolumeReclaimPolicy"],
    Only(&["\"Filesystem\""], BLOCK) => ["spec.volumeMode"],
    Refused(OPTIONS) => ["spec.mountOptions"],
    Refused(ATTRIBUTES) => ["spec.volumeAttributesClassName"],
    Refused(FORMAT) => ["spec.csi.fsType", "spec.local.fsType"],
    Refused("say readOnly where the pod mounts it") => ["spec.csi.readOnly"],
    Refused("a Docker volume with options could be any folder of the host; make it on the node and name it by volumeHandle") =>
        ["spec.csi.volumeAttributes"],
    Refused(SECRET) => [
        "spec.csi.controllerExpandSecretRef",
        "spec.csi.controllerPublishSecretRef",
        "spec.csi.nodeExpandSecretRef",
        "spec.csi.nodePublishSecretRef",
        "spec.csi.nodeStageSecretRef",
    ],
    Refused(ELSEWHERE) => [
        "spec.awsElasticBlockStore",
        "spec.azureDisk",
        "spec.azureFile",
        "spec.cephfs",
        "spec.cinder",
        "spec.fc",
        "spec.flexVolume",
        "spec.gcePersistentDisk",
        "spec.iscsi",
        "spec.nfs",
        "spec.portworxVolume",
        "spec.rbd",
        "spec.vsphereVolume",
    ],
    Refused(GONE) => [
        "spec.flocker",
        "spec.glusterfs",
        "spec.photonPersistentDisk",
        "spec.quobyte",
        "spec.scaleIO",
        "spec.storageos",
    ],
];

pub(super) static CLASS: &[Row] = rows![Part::Object(Kind::StorageClass);
    Runs => [
        "allowedTopologies[].matchLabelExpressions[].key",
        "allowedTopologies[].matchLabelExpressions[].values",
        // Judged by value.
        "provisioner",
        "reclaimPolicy",
        "volumeBindingMode",
    ],
    Refused("a volume keeps the size that it was made with") => ["allowVolumeExpansion"],
    Refused(OPTIONS) => ["mountOptions"],
    Refused("neither provisioner takes any") => ["parameters"],
];

/// What of these kinds this version cannot run although the field itself runs.
pub(super) fn value_refusals<K: Admit>(object: &K) -> Faults {
    let object = object as &dyn Any;
    if let Some(class) = object.downcast_ref::<StorageClass>() {
        return class_refusals(class);
    }
    match object.downcast_ref::<PersistentVolume>() {
        Some(volume) => volume_refusals(volume),
        None => Faults::new(),
    }
}

fn class_refusals(class: &StorageClass) -> Faults {
    let mut faults = Faults::new();
    let known = [LOCAL_PATH, DOCKER_VOLUME, NO_PROVISIONER];
    if !class.provisioner.is_empty() && !known.contains(&class.provisioner.as_str()) {
        let reason = format!(
            "nobody here provisions for {} (runs: {}, and {NO_PROVISIONER} for volumes that are written by hand)",
            quoted(&class.provisioner),
            [LOCAL_PATH, DOCKER_VOLUME].join(", ")
        );
        faults.push(refusal(&FieldPath::root("provisioner"), &reason));
    }
    let mode = class.volume_binding_mode.as_deref().unwrap_or_default();
    if is_ours(&class.provisioner) && mode != WAIT_FOR_FIRST_CONSUMER {
        let reason = "a volume lives on one node: use WaitForFirstConsumer";
        faults.push(refusal(&FieldPath::root("volumeBindingMode"), reason));
    }
    faults
}

fn volume_refusals(volume: &PersistentVolume) -> Faults {
    let mut faults = Faults::new();
    let nothing = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&nothing);
    let root = FieldPath::root("spec");
    for (source, path) in [
        ("hostPath", spec.host_path.as_ref().map(|source| &source.path)),
        ("local", spec.local.as_ref().map(|source| &source.path)),
    ] {
        let reason = path.filter(|path| !path.is_empty()).and_then(|path| host_path::refusal(path));
        if let Some(reason) = reason {
            faults.push(refusal(&root.child(source).child("path"), &reason));
        }
    }
    if let Some(csi) = &spec.csi
        && csi.driver != DOCKER_VOLUME_DRIVER
    {
        let reason = format!("there are no CSI drivers but {DOCKER_VOLUME_DRIVER}");
        faults.push(refusal(&root.child("csi").child("driver"), &reason));
    }
    // A local volume without it is Kubernetes' own refusal.
    if spec.node_affinity.is_none() && (spec.host_path.is_some() || spec.csi.is_some()) {
        let detail = "a volume lives on one node: name it (kubernetes.io/hostname In [NODE])";
        faults.push(root.child("nodeAffinity").required(detail));
    }
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    if policy == "Delete" && provisioner_of(volume).is_none() {
        let reason = "only what a provisioner of Ballast made is deleted; use Retain";
        faults.push(refusal(&root.child("persistentVolumeReclaimPolicy"), reason));
    }
    if let Some(claim) = &spec.claim_ref {
        let path = root.child("claimRef");
        for (field, value) in [("namespace", &claim.namespace), ("name", &claim.name)] {
            if value.as_deref().unwrap_or_default().is_empty() {
                faults.push(path.child(field).required("a volume is kept for a claim by its name"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::admission::supported::refusals;

    fn told<K: Admit>(object: Value) -> Vec<String> {
        let mut object: K = serde_json::from_value(object).expect("decodes");
        object.fill_defaults();
        refusals(&object).into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn three_provisioners_and_one_binding_mode_of_ours() {
        let class = |provisioner: &str, mode: &str| {
            told::<StorageClass>(json!({"metadata": {"name": "s"}, "provisioner": provisioner,
                "volumeBindingMode": mode}))
        };
        for provisioner in [LOCAL_PATH, DOCKER_VOLUME, NO_PROVISIONER] {
            assert!(class(provisioner, WAIT_FOR_FIRST_CONSUMER).is_empty(), "{provisioner}");
        }
        assert!(class(NO_PROVISIONER, "Immediate").is_empty());
        assert_eq!(class(LOCAL_PATH, "Immediate"), ["volumeBindingMode"]);
        assert_eq!(class("ebs.csi.aws.com", "Immediate"), ["provisioner"]);
        let more = json!({"metadata": {"name": "s"}, "provisioner": NO_PROVISIONER,
            "allowVolumeExpansion": true, "parameters": {"a": "b"}, "mountOptions": ["ro"]});
        assert_eq!(
            told::<StorageClass>(more),
            ["allowVolumeExpansion", "mountOptions", "parameters"]
        );
    }

    #[test]
    fn a_volume_is_a_folder_of_its_node_or_a_docker_volume() {
        let volume = |change: Value| {
            let mut object = json!({"metadata": {"name": "v"}, "spec": {
                "nodeAffinity": {"required": {"nodeSelectorTerms": []}}}});
            json_patch::merge(&mut object, &change);
            told::<PersistentVolume>(object)
        };
        assert!(volume(json!({"spec": {"local": {"path": "/srv/v"}}})).is_empty());
        assert_eq!(volume(json!({"spec": {"local": {"path": "/etc"}}})), ["spec.local.path"]);
        let docker = |more: Value| {
            let mut csi = json!({"driver": DOCKER_VOLUME_DRIVER, "volumeHandle": "data"});
            json_patch::merge(&mut csi, &more);
            volume(json!({"spec": {"csi": csi}}))
        };
        assert!(docker(json!({})).is_empty());
        assert_eq!(docker(json!({"driver": "x.example.com"})), ["spec.csi.driver"]);
        assert_eq!(
            docker(json!({"volumeAttributes": {"o": "bind"}, "fsType": "ext4"})),
            ["spec.csi.fsType", "spec.csi.volumeAttributes"]
        );
        assert_eq!(
            volume(json!({"spec": {"nfs": {"server": "a", "path": "/"}, "volumeMode": "Block"}})),
            ["spec.volumeMode", "spec.nfs"]
        );
        assert_eq!(
            volume(json!({"spec": {"hostPath": {"path": "/srv/a"}, "nodeAffinity": null,
                "persistentVolumeReclaimPolicy": "Delete", "claimRef": {"name": "c"}}})),
            ["spec.nodeAffinity", "spec.persistentVolumeReclaimPolicy", "spec.claimRef.namespace"]
        );
        let made = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": LOCAL_PATH}},
            "spec": {"local": {"path": "/srv/v"}, "persistentVolumeReclaimPolicy": "Delete"}});
        assert!(volume(made).is_empty());
    }

    #[test]
    fn a_claim_asks_for_a_folder_of_a_size() {
        let claim = |spec: Value| {
            told::<PersistentVolumeClaim>(json!({"metadata": {"name": "c"}, "spec": spec}))
        };
        assert!(claim(json!({"resources": {"requests": {"storage": "1Gi"}}})).is_empty());
        assert_eq!(
            claim(json!({"volumeMode": "Block", "resources": {"limits": {"storage": "1Gi"}},
                "dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}})),
            ["spec.volumeMode", "spec.resources.limits", "spec.dataSource"]
        );
    }
}
