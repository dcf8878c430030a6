//! Pure: which persistent volume a pod gets for each of its claims, and what that is on this host.
//!
//! The kubelet's rules and words (`desired_state_of_world_populator.go` getPVCExtractPV and getPVSpec,
//! `operation_generator.go`): a claim counts when it is Bound, and its volume when that says by uid that
//! it is bound to this very claim. Until then the pod waits.
//! One difference: an error names the volumes that fail, not those that wait with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::node::volume_files::Missing;
use crate::object::storage::{DOCKER_VOLUME_DRIVER, HOSTNAME, READ_WRITE_ONCE_POD};
use crate::object::{Change, Key, Object};

/// Below the data directory: a directory for each persistent volume that was made there.
pub const CLAIMS: &str = "volumes";

/// All objects of a kind, once the watch has told them.
#[derive(Debug)]
pub struct Told<K>(Option<BTreeMap<Key, Arc<K>>>);

impl<K> Default for Told<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Object> Told<K> {
    /// Takes what a watch says.
    pub fn take(&mut self, change: Change<Arc<K>>) {
        let all = self.0.get_or_insert_default();
        match change {
            Change::Reset(list) => *all = list.into_iter().map(|one| (one.key(), one)).collect(),
            Change::Applied(one) => drop(all.insert(one.key(), one)),
            Change::Deleted(one) => drop(all.remove(&one.key())),
        }
    }

    pub fn is_known(&self) -> bool {
        self.0.is_some()
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.0.as_ref()?.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.0.iter().flat_map(BTreeMap::values)
    }
}

/// What a node knows of storage.
#[derive(Debug, Default)]
pub struct Storage {
    pub claims: Told<PersistentVolumeClaim>,
    pub volumes: Told<PersistentVolume>,
    pub classes: Told<StorageClass>,
}

/// What a pod gets for a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    pub volume: Arc<PersistentVolume>,
    pub claim: Key,
    /// The pod says so for all of its containers, or the persistent volume itself.
    pub read_only: bool,
}

impl Claimed {
    /// Only one pod of the cluster may have it.
    pub fn is_exclusive(&self) -> bool {
        let modes = self.volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
        modes.is_some_and(|modes| matches!(modes, [only] if only == READ_WRITE_ONCE_POD))
    }
}

/// What is behind a persistent volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A directory that somebody made.
    Local(PathBuf),
    /// With the check that it asks for, as it is written.
    HostPath { path: PathBuf, check: Option<String> },
    /// A volume of the engine, by name.
    Engine(String),
}

/// The claims that a pod names, by its volumes' names.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = (&Volume, Key)> {
    let namespace = pod.key().namespace;
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| {
        let source = volume.persistent_volume_claim.as_ref()?;
        Some((volume, Key::new(&namespace, &source.claim_name)))
    })
}

pub fn names_claims(pod: &Pod) -> bool {
    claims_of(pod).next().is_some()
}

/// What each claim of a pod is, by the volume's name in the pod. `begun`: its containers have been made
/// with them already, and a claim that is to go waits for this pod.
///
/// # Errors
/// Why the pod waits, in the words of the `FailedMount` event.
pub fn claimed(
    pod: &Pod,
    storage: &Storage,
    begun: bool,
) -> Result<BTreeMap<String, Claimed>, Missing> {
    if !names_claims(pod) {
        return Ok(BTreeMap::new());
    }
    if !storage.claims.is_known() || !storage.volumes.is_known() {
        return Err(Missing::Unknown);
    }
    let mut all = BTreeMap::new();
    let (mut failed, mut why) = (Vec::new(), Vec::new());
    for (volume, key) in claims_of(pod) {
        match one(volume, &key, storage, begun) {
            Ok(claimed) => drop(all.insert(volume.name.clone(), claimed)),
            Err(sentence) => {
                failed.push(volume.name.as_str());
                why.push(format!("error processing PVC {key}: {sentence}"));
            }
        }
    }
    if failed.is_empty() {
        return Ok(all);
    }
    let failed = failed.join(" ");
    Err(Missing::Fault(format!(
        "Unable to attach or mount volumes: unmounted volumes=[{failed}], unattached volumes=[], failed to process volumes=[{failed}]: {}",
        why.join("; ")
    )))
}

fn one(volume: &Volume, key: &Key, storage: &Storage, begun: bool) -> Result<Claimed, String> {
    let claim = storage.claims.get(key).ok_or_else(|| {
        let name = &key.name;
        format!("failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found")
    })?;
    if claim.metadata.deletion_timestamp.is_some() && !begun {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let name = name.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| "PVC has empty pvc.Spec.VolumeName".to_owned())?;
    let bound = storage.volumes.get(&Key::cluster(name)).ok_or_else(|| {
        format!("failed to get PV {name} from API server: persistentvolumes \"{name}\" not found")
    })?;
    let spec = bound.spec.as_ref();
    let reference = spec.and_then(|spec| spec.claim_ref.as_ref()).ok_or_else(|| {
        format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        )
    })?;
    let (told, wanted) = (reference.uid.as_deref().unwrap_or_default(), claim.uid());
    if told != wanted {
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {told} does not point to claim.UID {wanted}"
        ));
    }
    let is_block = |mode: Option<&str>| mode == Some("Block");
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    if is_block(of_claim) || is_block(spec.and_then(|spec| spec.volume_mode.as_deref())) {
        let volume = &volume.name;
        return Err(format!(
            "volume {volume} has volumeMode Block, but is specified in volumeMounts"
        ));
    }
    let source = volume.persistent_volume_claim.as_ref();
    let by_pod = source.is_some_and(|source| source.read_only == Some(true));
    let csi = spec.and_then(|spec| spec.csi.as_ref());
    let by_volume = csi.is_some_and(|csi| csi.read_only == Some(true));
    Ok(Claimed { volume: bound.clone(), claim: key.clone(), read_only: by_pod || by_volume })
}

/// # Errors
/// Why this node mounts no such volume.
pub fn backing(volume: &PersistentVolume) -> Result<Backing, String> {
    let Some(spec) = &volume.spec else { return Err("it has no spec".to_owned()) };
    if let Some(source) = &spec.local {
        return Ok(Backing::Local(PathBuf::from(&source.path)));
    }
    if let Some(source) = &spec.host_path {
        let (path, check) = (PathBuf::from(&source.path), source.type_.clone());
        return Ok(Backing::HostPath { path, check });
    }
    match &spec.csi {
        Some(source) if source.driver == DOCKER_VOLUME_DRIVER => {
            Ok(Backing::Engine(source.volume_handle.clone()))
        }
        Some(source) => Err(format!(
            "kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name {} not found in the list of registered CSI drivers",
            source.driver
        )),
        None => Err("this version does not run its type".to_owned()),
    }
}

/// Where a node keeps what was made for a persistent volume of this name.
pub fn own_path(data_dir: &Path, volume: &str) -> PathBuf {
    data_dir.join(CLAIMS).join(volume)
}

/// Whether a directory is the one that a node made for this persistent volume, and no other's.
pub fn is_own_path(data_dir: &Path, volume: &PersistentVolume, path: &Path) -> bool {
    let name = volume.key().name;
    name.starts_with("pvc-") && path == own_path(data_dir, &name)
}

/// Whether a persistent volume may be mounted on a node with these labels.
pub fn is_for_node(volume: &PersistentVolume, labels: &BTreeMap<String, String>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else {
        return true;
    };
    required.node_selector_terms.iter().any(|term| matches(term, labels))
}

/// A term without a word fits nobody, as in Kubernetes.
fn matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>) -> bool {
    let (words, fields) = (&term.match_expressions, &term.match_fields);
    let mut all = words.iter().flatten().peekable();
    let name = labels.get(HOSTNAME).cloned();
    let fields_fit = fields
        .iter()
        .flatten()
        .all(|word| word.key == "metadata.name" && fits(word, name.as_deref()));
    let any = all.peek().is_some() || fields.iter().flatten().next().is_some();
    any && fields_fit && all.all(|word| fits(word, labels.get(&word.key).map(String::as_str)))
}

fn fits(word: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values: BTreeSet<&str> = word.values.iter().flatten().map(String::as_str).collect();
    let than = |compare: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(|text| text.parse().ok());
        let value = value.and_then(|text| text.parse().ok());
        value.zip(bound).is_some_and(|(value, bound): (i64, i64)| compare(value, bound))
    };
    match word.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => than(|value, bound| value > bound),
        "Lt" => than(|value, bound| value < bound),
        _ => false,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub fn claim(spec: Value, phase: &str) -> Arc<PersistentVolumeClaim> {
        let claim = json!({"metadata": {"name": "data", "namespace": "shop", "uid": "u1"},
            "spec": spec, "status": {"phase": phase}});
        Arc::new(serde_json::from_value(claim).expect("a claim"))
    }

    pub fn volume(name: &str, spec: Value) -> Arc<PersistentVolume> {
        let volume = json!({"metadata": {"name": name, "uid": "v"}, "spec": spec});
        Arc::new(serde_json::from_value(volume).expect("a volume"))
    }

    fn pod(read_only: bool) -> Pod {
        let source = json!({"claimName": "data", "readOnly": read_only});
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop", "uid": "p"},
            "spec": {"containers": [], "volumes": [
                {"name": "scratch", "emptyDir": {}}, {"name": "d", "persistentVolumeClaim": source}]}}))
        .expect("a pod")
    }

    fn bound_to(uid: &str) -> Arc<PersistentVolume> {
        let reference = json!({"namespace": "shop", "name": "data", "uid": uid});
        volume(
            "pv",
            json!({"claimRef": reference, "local": {"path": "/srv"},
            "accessModes": ["ReadWriteOncePod"]}),
        )
    }

    fn storage(
        claims: Vec<Arc<PersistentVolumeClaim>>,
        volumes: Vec<Arc<PersistentVolume>>,
    ) -> Storage {
        let mut storage = Storage::default();
        storage.claims.take(Change::Reset(claims));
        storage.volumes.take(Change::Reset(volumes));
        storage
    }

    fn waits(storage: &Storage) -> String {
        match claimed(&pod(false), storage, false) {
            Err(Missing::Fault(sentence)) => sentence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_waits_for_its_claim_in_the_kubelets_words() {
        let unknown = claimed(&pod(false), &Storage::default(), false);
        assert_eq!(unknown, Err(Missing::Unknown), "nothing was told yet");
        let none = "Unable to attach or mount volumes: unmounted volumes=[d], unattached volumes=[], failed to process volumes=[d]: error processing PVC shop/data: ";
        let named = || json!({"volumeName": "pv"});
        for (claims, volumes, why) in [
            (
                vec![],
                vec![],
                "failed to fetch PVC from API server: persistentvolumeclaims \"data\" not found",
            ),
            (vec![claim(json!({}), "Pending")], vec![], "PVC is not bound"),
            (vec![claim(named(), "Lost")], vec![], "PVC is not bound"),
            (vec![claim(json!({}), "Bound")], vec![], "PVC has empty pvc.Spec.VolumeName"),
            (
                vec![claim(named(), "Bound")],
                vec![],
                "failed to get PV pv from API server: persistentvolumes \"pv\" not found",
            ),
            (
                vec![claim(named(), "Bound")],
                vec![volume("pv", json!({}))],
                "found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim",
            ),
            (
                vec![claim(named(), "Bound")],
                vec![bound_to("earlier")],
                "found PV object pv but its pv.Spec.ClaimRef.UID earlier does not point to claim.UID u1",
            ),
            (
                vec![claim(json!({"volumeName": "pv", "volumeMode": "Block"}), "Bound")],
                vec![bound_to("u1")],
                "volume d has volumeMode Block, but is specified in volumeMounts",
            ),
        ] {
            assert_eq!(waits(&storage(claims, volumes)), format!("{none}{why}"));
        }
        let mut going = (*claim(named(), "Bound")).clone();
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Default::default()));
        let storage = storage(vec![Arc::new(going)], vec![bound_to("u1")]);
        assert_eq!(waits(&storage), format!("{none}PVC is being deleted"));
        // Whoever has it already keeps it: the claim waits for the pod.
        assert!(claimed(&pod(false), &storage, true).is_ok());
    }

    #[test]
    fn a_bound_claim_is_its_volume() {
        let storage =
            storage(vec![claim(json!({"volumeName": "pv"}), "Bound")], vec![bound_to("u1")]);
        let all = claimed(&pod(true), &storage, false).expect("bound");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["d"]);
        assert!(all["d"].read_only && all["d"].is_exclusive());
        assert_eq!(all["d"].claim, Key::new("shop", "data"));
        let none: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": []}}))
            .expect("a pod");
        assert!(claimed(&none, &Storage::default(), false).expect("none").is_empty());
    }

    #[test]
    fn what_is_behind_a_volume_is_one_of_three() {
        let of = |spec: Value| backing(&volume("pv", spec));
        assert_eq!(of(json!({"local": {"path": "/a"}})), Ok(Backing::Local("/a".into())));
        let path = json!({"hostPath": {"path": "/a", "type": "Directory"}});
        let check = Some("Directory".to_owned());
        assert_eq!(of(path), Ok(Backing::HostPath { path: "/a".into(), check }));
        let csi = |driver: &str| json!({"csi": {"driver": driver, "volumeHandle": "h"}});
        assert_eq!(of(csi(DOCKER_VOLUME_DRIVER)), Ok(Backing::Engine("h".to_owned())));
        assert!(of(csi("x")).is_err_and(|why| why.contains("driver name x not found")));
        assert!(of(json!({"nfs": {"server": "s", "path": "/"}})).is_err());
    }

    #[test]
    fn a_directory_of_ours_is_one_volumes() {
        let own = volume("pvc-1", json!({}));
        let is = |volume: &PersistentVolume, path: &str| {
            is_own_path(Path::new("/data"), volume, Path::new(path))
        };
        assert!(is(&own, "/data/volumes/pvc-1"));
        for other in ["/data/volumes/pvc-2", "/data/volumes", "/data/pods/pvc-1", "/x/pvc-1"] {
            assert!(!is(&own, other), "{other}");
        }
        assert!(!is(&volume("..", json!({})), "/data/volumes/.."));
    }

    #[test]
    fn a_volume_of_another_node_fits_none_of_ours() {
        let labels: BTreeMap<String, String> = [("kubernetes.io/hostname", "n1"), ("disks", "4")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
        let fits = |terms: Value| {
            let affinity = json!({"required": {"nodeSelectorTerms": terms}});
            is_for_node(&volume("pv", json!({"nodeAffinity": affinity})), &labels)
        };
        let word = |key: &str, operator: &str, values: &[&str]| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
        assert!(is_for_node(&volume("pv", json!({})), &labels));
        assert!(fits(word("kubernetes.io/hostname", "In", &["n0", "n1"])));
        assert!(!fits(word("kubernetes.io/hostname", "In", &["n2"])));
        assert!(fits(word("disks", "Gt", &["3"])) && !fits(word("disks", "Lt", &["4"])));
        assert!(fits(word("gpu", "NotIn", &["a"])) && !fits(word("gpu", "Exists", &[])));
        assert!(!fits(json!([{}])) && !fits(json!([])));
        let name = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]);
        assert!(fits(name));
    }
}
