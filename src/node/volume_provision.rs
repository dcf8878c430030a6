//! Pure: which volumes a node makes for claims, and behind which released ones it removes the data.
//!
//! The scheduler writes on a claim which node its first pod will be on; that node makes a directory or a
//! volume of the engine and the persistent volume that says so. Who binds the two is another's matter.
//! Names and rules are those of Kubernetes' external provisioner (`lib/controller/controller.go`) and of
//! its reclaiming (`pv_controller.go`). A claim is provisioned once: the volume's name is made of its uid,
//! so that whoever tries again after a crash finds what it made.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, LocalVolumeSource, NodeSelector, NodeSelectorRequirement,
    NodeSelectorTerm, ObjectReference, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::node::volume_claims::{Backing, Storage, backing, is_own_path, own_path};
use crate::object::storage::{
    self, DOCKER_VOLUME, DOCKER_VOLUME_DRIVER, HOSTNAME, LOCAL_PATH, PROVISIONED_BY, SELECTED_NODE,
};
use crate::object::{Key, Object};

/// Where the data of a volume of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory below the data directory.
    Directory,
    /// A volume of the engine.
    Engine,
}

impl Place {
    fn of(provisioner: &str) -> Option<Self> {
        match provisioner {
            LOCAL_PATH => Some(Self::Directory),
            DOCKER_VOLUME => Some(Self::Engine),
            _ => None,
        }
    }

    pub fn provisioner(self) -> &'static str {
        match self {
            Self::Directory => LOCAL_PATH,
            Self::Engine => DOCKER_VOLUME,
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// Make what `volume` says, then store it.
    Provision { claim: Arc<PersistentVolumeClaim>, place: Place, volume: Box<PersistentVolume> },
    /// A claim of ours that cannot be provisioned as it is.
    Refuse { claim: Arc<PersistentVolumeClaim>, place: Place, why: String },
    /// Remove the data, then the object.
    Reclaim { volume: Arc<PersistentVolume>, place: Place },
    /// It says that it is ours, and its data is not where ours is.
    Keep { volume: Arc<PersistentVolume>, why: String },
}

impl Job {
    /// Of the object that it is about.
    pub fn uid(&self) -> &str {
        match self {
            Self::Provision { claim, .. } | Self::Refuse { claim, .. } => claim.uid(),
            Self::Reclaim { volume, .. } | Self::Keep { volume, .. } => volume.uid(),
        }
    }
}

/// The name of the volume that is made for a claim.
pub fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid())
}

/// Everything that is this node's to do; nothing before all of it is known.
pub fn plan(storage: &Storage, node: &str, data_dir: &Path) -> Vec<Job> {
    let known =
        storage.claims.is_known() && storage.volumes.is_known() && storage.classes.is_known();
    if !known {
        return Vec::new();
    }
    let claims =
        storage.claims.iter().filter_map(|claim| provision(claim, storage, node, data_dir));
    let volumes = storage.volumes.iter().filter_map(|one| reclaim(one, storage, node, data_dir));
    claims.chain(volumes).collect()
}

fn provision(
    claim: &Arc<PersistentVolumeClaim>,
    storage: &Storage,
    node: &str,
    data_dir: &Path,
) -> Option<Job> {
    let spec = claim.spec.as_ref()?;
    let wanted = storage::annotation(&claim.metadata, SELECTED_NODE) == Some(node)
        && storage::volume_of(claim).is_none()
        && claim.metadata.deletion_timestamp.is_none()
        && storage.volumes.get(&Key::cluster(volume_name(claim))).is_none();
    if !wanted {
        return None;
    }
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    let class = storage.classes.get(&Key::cluster(class))?;
    let place = Place::of(&class.provisioner)?;
    let claim = claim.clone();
    Some(match volume_of(&claim, class, place, node, data_dir) {
        Ok(volume) => Job::Provision { claim, place, volume: Box::new(volume) },
        Err(why) => Job::Refuse { claim, place, why },
    })
}

/// What is made for a claim.
fn volume_of(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    place: Place,
    node: &str,
    data_dir: &Path,
) -> Result<PersistentVolume, String> {
    let spec = claim.spec.clone().unwrap_or_default();
    let provisioner = place.provisioner();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!("{provisioner} does not support block volume provisioning"));
    }
    if spec.selector.is_some() {
        return Err("claim.Spec.Selector is not supported".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err(format!("{provisioner} fills no volume from a data source"));
    }
    if let Some(name) = class.parameters.iter().flat_map(|all| all.keys()).next() {
        return Err(format!("{provisioner} knows no parameter \"{name}\""));
    }
    if class.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(format!("{provisioner} does not support mount options"));
    }
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let request = requests.and_then(|requests| requests.get("storage"));
    let request = request.ok_or_else(|| "it requests no storage".to_owned())?;
    let (name, key) = (volume_name(claim), claim.key());
    let (mut local, mut csi) = (None, None);
    match place {
        Place::Directory => {
            let path = own_path(data_dir, &name).display().to_string();
            local = Some(LocalVolumeSource { path, fs_type: None });
        }
        Place::Engine => {
            csi = Some(CSIPersistentVolumeSource {
                driver: DOCKER_VOLUME_DRIVER.to_owned(),
                volume_handle: name.clone(),
                ..CSIPersistentVolumeSource::default()
            });
        }
    }
    let here = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), match_fields: None };
    let annotation = (PROVISIONED_BY.to_owned(), provisioner.to_owned());
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name),
            annotations: Some([annotation].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some([("storage".to_owned(), request.clone())].into()),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: Some(key.namespace),
                name: Some(key.name),
                uid: Some(claim.uid().to_owned()),
                ..ObjectReference::default()
            }),
            local,
            csi,
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: Some(
                class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned()),
            ),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

/// Whether this is the volume that was made for this claim, so that it may be met after a crash.
pub fn is_same(stored: &PersistentVolume, wanted: &PersistentVolume) -> bool {
    let reference = |volume: &PersistentVolume| {
        let spec = volume.spec.as_ref()?;
        Some((spec.claim_ref.as_ref()?.uid.clone()?, backing(volume).ok()?))
    };
    reference(stored).is_some() && reference(stored) == reference(wanted)
}

fn reclaim(
    volume: &Arc<PersistentVolume>,
    storage: &Storage,
    node: &str,
    data_dir: &Path,
) -> Option<Job> {
    let spec = volume.spec.as_ref()?;
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let place = Place::of(storage::provisioner_of(volume)?)?;
    let deletes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let released = matches!(phase, Some("Released" | "Failed"));
    if !deletes || !released || storage::node_of(volume) != Some(node) {
        return None;
    }
    // Whose it was is gone, not merely said to be.
    let reference = spec.claim_ref.as_ref()?;
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let key = Key::new(text(&reference.namespace), text(&reference.name));
    let uid = reference.uid.as_deref()?;
    let name = volume.key().name;
    // One whose claim took another volume was in vain.
    let holds = |claim: &&Arc<PersistentVolumeClaim>| {
        claim.uid() == uid && storage::volume_of(claim).is_none_or(|own| own == name)
    };
    if storage.claims.get(&key).filter(holds).is_some() {
        return None;
    }
    let is_ours = match (place, backing(volume)) {
        (Place::Directory, Ok(Backing::Local(path))) => is_own_path(data_dir, volume, &path),
        (Place::Engine, Ok(Backing::Engine(handle))) => name.starts_with("pvc-") && handle == name,
        _ => false,
    };
    let volume = volume.clone();
    Some(if is_ours {
        Job::Reclaim { volume, place }
    } else {
        let why = "its data is not where this node makes volumes; nothing of it was removed";
        Job::Keep { volume, why: why.to_owned() }
    })
}

/// Directories or volumes of ours that no object speaks of: a claim went between the making and the
/// storing, or the store was lost. Nobody removes them but a person.
pub fn left_over(found: &[String], storage: &Storage) -> BTreeSet<String> {
    if !storage.claims.is_known() || !storage.volumes.is_known() {
        return BTreeSet::new();
    }
    let volumes = storage.volumes.iter().map(|volume| volume.key().name);
    let spoken: BTreeSet<String> =
        volumes.chain(storage.claims.iter().map(|claim| volume_name(claim))).collect();
    found.iter().filter(|name| !spoken.contains(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Change;
    use serde_json::{Value, json};

    fn typed<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).expect("its kind"))
    }

    fn claim(class: &str, node: &str, more: Value) -> Arc<PersistentVolumeClaim> {
        let mut claim = json!({"metadata": {"name": "data", "namespace": "shop", "uid": "u1",
                "annotations": {"volume.kubernetes.io/selected-node": node}},
            "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
        json_patch::merge(&mut claim, &more);
        typed(claim)
    }

    fn class(name: &str, provisioner: &str, more: Value) -> Arc<StorageClass> {
        let mut class = json!({"metadata": {"name": name}, "provisioner": provisioner,
            "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"});
        json_patch::merge(&mut class, &more);
        typed(class)
    }

    fn storage(
        claims: Vec<Arc<PersistentVolumeClaim>>,
        volumes: Vec<Arc<PersistentVolume>>,
        more: Value,
    ) -> Storage {
        let mut storage = Storage::default();
        storage.claims.take(Change::Reset(claims));
        storage.volumes.take(Change::Reset(volumes));
        storage.classes.take(Change::Reset(vec![
            class("local-path", "ballast.dev/local-path", more),
            class("docker-volume", "ballast.dev/docker-volume", json!({"reclaimPolicy": "Retain"})),
            class("manual", "kubernetes.io/no-provisioner", json!({})),
        ]));
        storage
    }

    fn planned(storage: &Storage) -> Vec<Job> {
        plan(storage, "n1", Path::new("/data"))
    }

    #[test]
    fn a_claim_for_this_node_gets_a_volume_of_its_own() {
        let all = storage(vec![claim("local-path", "n1", json!({}))], vec![], json!({}));
        let [Job::Provision { volume, place: Place::Directory, .. }] = &planned(&all)[..] else {
            panic!("{:?}", planned(&all));
        };
        let wanted = json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": "pvc-u1",
                "annotations": {"pv.kubernetes.io/provisioned-by": "ballast.dev/local-path"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": "shop", "name": "data", "uid": "u1"},
                "local": {"path": "/data/volumes/pvc-u1"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}},
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "local-path",
                "volumeMode": "Filesystem"}});
        assert_eq!(serde_json::to_value(&**volume).expect("JSON"), wanted);

        let engine = storage(vec![claim("docker-volume", "n1", json!({}))], vec![], json!({}));
        let [Job::Provision { volume, place: Place::Engine, .. }] = &planned(&engine)[..] else {
            panic!("{:?}", planned(&engine));
        };
        let spec = serde_json::to_value(&volume.spec).expect("JSON");
        let source = json!({"driver": "docker-volume.ballast.dev", "volumeHandle": "pvc-u1"});
        assert_eq!((&spec["csi"], &spec["local"]), (&source, &Value::Null));
        assert_eq!(spec["persistentVolumeReclaimPolicy"], "Retain");
    }

    #[test]
    fn what_is_not_this_nodes_is_left() {
        let none = |claim| assert_eq!(planned(&storage(vec![claim], vec![], json!({}))), []);
        none(claim("local-path", "n2", json!({})));
        none(claim("local-path", "n1", json!({"metadata": {"annotations": null}})));
        none(claim("local-path", "n1", json!({"spec": {"volumeName": "pv"}})));
        none(claim("manual", "n1", json!({})));
        none(claim("unheard-of", "n1", json!({})));
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        none(claim("local-path", "n1", going));
        // Made, and the binder has not seen it yet.
        let all = storage(vec![claim("local-path", "n1", json!({}))], vec![], json!({}));
        let [Job::Provision { volume, claim, .. }] = &planned(&all)[..] else { panic!("one") };
        let made = storage(vec![claim.clone()], vec![Arc::new((**volume).clone())], json!({}));
        assert_eq!(planned(&made), []);
        // Nothing is decided on half of it.
        let mut half = Storage::default();
        half.claims.take(Change::Reset(vec![claim.clone()]));
        assert_eq!(planned(&half), []);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        let refused = |more: Value, of_class: Value| {
            let claim = claim("local-path", "n1", json!({"spec": more}));
            match &planned(&storage(vec![claim], vec![], of_class))[..] {
                [Job::Refuse { why, .. }] => why.clone(),
                other => panic!("{other:?}"),
            }
        };
        for (more, of_class, why) in [
            (json!({"volumeMode": "Block"}), json!({}), "block volume"),
            (json!({"selector": {}}), json!({}), "claim.Spec.Selector is not supported"),
            (json!({"dataSource": {"kind": "a", "name": "b"}}), json!({}), "data source"),
            (json!({"resources": null}), json!({}), "it requests no storage"),
            (json!({}), json!({"parameters": {"nodePath": "/x"}}), "no parameter \"nodePath\""),
            (json!({}), json!({"mountOptions": ["ro"]}), "mount options"),
        ] {
            let told = refused(more, of_class);
            assert!(told.contains(why), "{told}");
        }
    }

    fn released(more: Value) -> Arc<PersistentVolume> {
        let all = storage(vec![claim("local-path", "n1", json!({}))], vec![], json!({}));
        let [Job::Provision { volume, .. }] = &planned(&all)[..] else { panic!("one") };
        let mut volume = serde_json::to_value(&**volume).expect("JSON");
        json_patch::merge(
            &mut volume,
            &json!({"metadata": {"uid": "v1"}, "status": {"phase": "Released"}}),
        );
        json_patch::merge(&mut volume, &more);
        typed(volume)
    }

    #[test]
    fn data_goes_only_behind_a_released_volume_of_ours() {
        let of = |more: Value, claims: Vec<Arc<PersistentVolumeClaim>>| {
            planned(&storage(claims, vec![released(more)], json!({})))
        };
        let [Job::Reclaim { place: Place::Directory, .. }] = &of(json!({}), vec![])[..] else {
            panic!("{:?}", of(json!({}), vec![]));
        };
        assert_eq!(of(json!({"status": {"phase": "Failed"}}), vec![]).len(), 1, "tried again");
        // Another claim of the name is another claim.
        let other = claim("local-path", "n2", json!({"metadata": {"uid": "u2"}}));
        assert_eq!(of(json!({}), vec![other]).len(), 1);
        let nothing = |more: Value| assert_eq!(of(more.clone(), vec![]), [], "{more}");
        for phase in ["Bound", "Available", "Pending"] {
            nothing(json!({"status": {"phase": phase}}));
        }
        nothing(json!({"status": null}));
        nothing(json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
        nothing(json!({"metadata": {"annotations": null}}));
        nothing(json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x"}}}));
        nothing(json!({"spec": {"nodeAffinity": null}}));
        nothing(json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": []}}}}));
        let there = claim("local-path", "n2", json!({}));
        assert_eq!(of(json!({}), vec![there]), [], "the claim is still there");
        let elsewhere = claim("local-path", "n2", json!({"spec": {"volumeName": "other"}}));
        assert_eq!(of(json!({}), vec![elsewhere]).len(), 1, "it was made in vain");
        for path in ["/data/volumes", "/data/volumes/pvc-u2", "/srv", "/data/volumes/pvc-u1/../x"] {
            let elsewhere = of(json!({"spec": {"local": {"path": path}}}), vec![]);
            assert!(matches!(&elsewhere[..], [Job::Keep { .. }]), "{path}: {elsewhere:?}");
        }
        let engine = json!({"spec": {"local": null, "csi": {"driver": "docker-volume.ballast.dev",
            "volumeHandle": "somebodys"}},
            "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "ballast.dev/docker-volume"}}});
        assert!(matches!(&of(engine, vec![])[..], [Job::Keep { .. }]));
    }

    #[test]
    fn a_second_try_knows_what_the_first_one_made() {
        let (one, other) =
            (released(json!({})), released(json!({"spec": {"claimRef": {"uid": "u2"}}})));
        assert!(is_same(&one, &one) && !is_same(&one, &other));
        let bare = typed::<PersistentVolume>(json!({"metadata": {"name": "pvc-u1"}}));
        assert!(!is_same(&bare, &bare), "it says nothing of a claim");
    }

    #[test]
    fn what_nobody_speaks_of_is_found() {
        let found = ["pvc-u1", "pvc-u2", "old"].map(str::to_owned);
        let claims = vec![claim("local-path", "n1", json!({"metadata": {"uid": "u2"}}))];
        let all = storage(claims, vec![released(json!({}))], json!({}));
        assert_eq!(left_over(&found, &all).into_iter().collect::<Vec<_>>(), ["old"]);
        assert!(left_over(&found, &Storage::default()).is_empty(), "not known yet");
    }
}
