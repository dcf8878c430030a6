//! Pure: a pod's volumes as directories and files, and where its containers see them.
//!
//! emptyDir is a directory (or a tmpfs) under the pod's own; configMap, secret, downwardAPI and
//! projected volumes are directories of files with Kubernetes' atomic swap (`..data`), read-only;
//! hostPath is the path itself after the check that its type asks for; a claim is the persistent volume
//! that it is bound to (`volume_claims.rs`). What files hold is in `volume_files.rs`, the doing in `volume.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};

use crate::node::container_spec::{MountFrom, MountSpec, Propagation, RecursiveReadOnly};
use crate::node::environment::expand;
use crate::node::volume_claims::{self, Backing, Claimed};
use crate::node::volume_files::{self, Content, Files, Missing};
use crate::object::Object;
use crate::object::quantity::Quantity;

/// In a pod's directory: its volumes, and the places that parts of them are bound to.
pub const VOLUMES: &str = "volumes";
pub const PARTS: &str = "volume-subpaths";

/// `type` of a hostPath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathType {
    Unchecked,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VolumeKind {
    #[default]
    Directory,
    /// tmpfs; bytes, `None` is the kernel's default (half the memory).
    Memory {
        size: Option<i64>,
    },
    /// Relative path to content. Secrets are kept in memory where the host allows it.
    Files {
        files: Files,
        in_memory: bool,
    },
    HostPath(HostPathType),
    /// A persistent volume's directory. It is there, or the pod waits: one that were made in its place
    /// would be empty.
    Local {
        /// Made by this node for that volume alone; any other is somebody's folder of the host.
        own: bool,
    },
    /// A volume that the engine keeps.
    Engine {
        volume: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumePlan {
    pub name: String,
    /// On the host; of a volume of the engine unknown until somebody needs it.
    pub path: PathBuf,
    pub kind: VolumeKind,
    /// `fsGroup`: whose the volume is from its making, or from its first mount. Never of a hostPath.
    pub group: Option<u32>,
    /// The persistent volume that it is.
    pub claimed: Option<String>,
    /// No container may write to it, whatever its mount says.
    pub read_only: bool,
}

impl VolumePlan {
    /// As Kubernetes names it where it fails: of a claim, the persistent volume.
    pub fn shown(&self) -> &str {
        self.claimed.as_deref().unwrap_or(&self.name)
    }
}

/// One mount of a container before anything is looked at on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMount {
    /// The name of its volume.
    pub volume: String,
    /// Of the whole volume.
    pub spec: MountSpec,
    pub part: Option<PartOfVolume>,
}

impl PlannedMount {
    /// Of a volume that the engine keeps, the engine alone mounts no part, and nothing crosses over.
    pub fn wants_a_path(&self) -> bool {
        self.part.is_some()
            || self.spec.propagation != Propagation::None
            || self.spec.recursive_read_only == RecursiveReadOnly::Enabled
    }
}

/// A `subPath`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartOfVolume {
    /// Relative, without `..`.
    pub inside: PathBuf,
    /// Where it is bound: a place of ours that no container can write.
    pub at: PathBuf,
    /// Whose mount it is, for who reads what went wrong.
    pub container: String,
}

/// The directory of a pod's volumes.
pub fn pod_directory(data_dir: &Path, pod: &Pod) -> PathBuf {
    data_dir.join("pods").join(pod.uid())
}

/// # Errors
/// The first volume that cannot be made from what is known, in the words of the FailedMount event.
/// `claimed` is what its claims are.
pub fn volumes(
    content: Content<'_>,
    claimed: &BTreeMap<String, Claimed>,
    data_dir: &Path,
) -> Result<Vec<VolumePlan>, Missing> {
    let pod = content.pod;
    let home = pod_directory(data_dir, pod).join(VOLUMES);
    let mut plans = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if volume.persistent_volume_claim.is_some() {
            let claimed = claimed.get(&volume.name).ok_or(Missing::Unknown)?;
            plans.push(of_claim(pod, volume, claimed, data_dir).map_err(Missing::Fault)?);
            continue;
        }
        let mut path = home.join(&volume.name);
        let fault = |sentence: String| {
            Missing::Fault(format!(
                "MountVolume.SetUp failed for volume \"{}\" : {sentence}",
                volume.name
            ))
        };
        let kind = if let Some(made) = volume_files::files(volume, content) {
            let (files, in_memory) = made.map_err(|missing| match missing {
                Missing::Unknown => Missing::Unknown,
                Missing::Fault(sentence) => fault(sentence),
            })?;
            VolumeKind::Files { files, in_memory }
        } else if let Some(source) = &volume.host_path {
            path = PathBuf::from(&source.path);
            VolumeKind::HostPath(host_path_type(source.type_.as_deref()).map_err(fault)?)
        } else if let Some(source) = &volume.empty_dir {
            let size = source.size_limit.as_ref().and_then(|q| Quantity::parse(&q.0).ok());
            match source.medium.as_deref() {
                Some("Memory") => VolumeKind::Memory { size: size.map(Quantity::units) },
                _ => VolumeKind::Directory,
            }
        } else {
            return Err(fault("this version does not run its type".into()));
        };
        let is_ours = !matches!(kind, VolumeKind::HostPath(_));
        let group = fs_group(pod).filter(|_| is_ours);
        let name = volume.name.clone();
        plans.push(VolumePlan { name, path, kind, group, ..VolumePlan::default() });
    }
    Ok(plans)
}

fn of_claim(
    pod: &Pod,
    volume: &Volume,
    claimed: &Claimed,
    data_dir: &Path,
) -> Result<VolumePlan, String> {
    let shown = claimed.volume.key().name;
    let fault = |why: String| format!("MountVolume.SetUp failed for volume \"{shown}\" : {why}");
    let (path, kind) = match volume_claims::backing(&claimed.volume).map_err(fault)? {
        Backing::Local(path) => {
            let own = volume_claims::is_own_path(data_dir, &claimed.volume, &path);
            (path, VolumeKind::Local { own })
        }
        Backing::HostPath { path, check } => {
            (path, VolumeKind::HostPath(host_path_type(check.as_deref()).map_err(fault)?))
        }
        Backing::Engine(volume) => (PathBuf::new(), VolumeKind::Engine { volume }),
    };
    // The kubelet changes nothing of a hostPath, nor of what it mounts to be read alone.
    let keeps_owner = claimed.read_only || matches!(kind, VolumeKind::HostPath(_));
    Ok(VolumePlan {
        name: volume.name.clone(),
        path,
        kind,
        group: fs_group(pod).filter(|_| !keeps_owner),
        claimed: Some(shown),
        read_only: claimed.read_only,
    })
}

/// The group that a pod's volumes belong to, and each of its processes too.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

fn host_path_type(written: Option<&str>) -> Result<HostPathType, String> {
    Ok(match written.unwrap_or_default() {
        "" => HostPathType::Unchecked,
        "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
        "Directory" => HostPathType::Directory,
        "FileOrCreate" => HostPathType::FileOrCreate,
        "File" => HostPathType::File,
        "Socket" => HostPathType::Socket,
        "CharDevice" => HostPathType::CharDevice,
        "BlockDevice" => HostPathType::BlockDevice,
        other => return Err(format!("hostPath type {other} is unknown")),
    })
}

/// Where a container sees its volumes. `env` is its environment, for `subPathExpr`.
///
/// # Errors
/// A mount that names no volume, or a part that is not inside of one.
pub fn mounts(
    pod: &Pod,
    container: &Container,
    volumes: &[VolumePlan],
    env: &[String],
    data_dir: &Path,
) -> Result<Vec<PlannedMount>, String> {
    let plan = |(index, mount): (usize, &VolumeMount)| {
        let volume = volumes
            .iter()
            .find(|volume| volume.name == mount.name)
            .ok_or_else(|| format!("volume \"{}\" does not exist", mount.name))?;
        let is_files = matches!(volume.kind, VolumeKind::Files { .. });
        let (source, from) = match &volume.kind {
            VolumeKind::Engine { volume } => (volume.clone(), MountFrom::Engine),
            _ => (volume.path.display().to_string(), MountFrom::Host),
        };
        let spec = MountSpec {
            source,
            from,
            target: absolute(&mount.mount_path),
            read_only: mount.read_only == Some(true) || volume.read_only || is_files,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::None,
            },
            recursive_read_only: match mount.recursive_read_only.as_deref() {
                Some("IfPossible") => RecursiveReadOnly::IfPossible,
                Some("Enabled") => RecursiveReadOnly::Enabled,
                _ => RecursiveReadOnly::Disabled,
            },
        };
        let part = sub_path(mount, env)?.map(|inside| PartOfVolume {
            inside: PathBuf::from(inside),
            at: pod_directory(data_dir, pod)
                .join(PARTS)
                .join(&mount.name)
                .join(&container.name)
                .join(index.to_string()),
            container: container.name.clone(),
        });
        Ok(PlannedMount { volume: volume.name.clone(), spec, part })
    };
    container.volume_mounts.iter().flatten().enumerate().map(plan).collect()
}

/// The kubelet's rules (`kubelet_pods.go` makeMounts, in its words): a variable that is not there or
/// empty is a fault, and what comes out is looked at once more.
fn sub_path(mount: &VolumeMount, env: &[String]) -> Result<Option<String>, String> {
    let written = mount.sub_path.clone().filter(|path| !path.is_empty());
    let path = match mount.sub_path_expr.as_deref().filter(|path| !path.is_empty()) {
        Some(expression) => {
            let missing = RefCell::new(BTreeSet::new());
            let value = |name: &str| {
                let named = |line: &&String| {
                    line.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
                };
                let found = env.iter().find(named).map(|line| line[name.len() + 1..].to_owned());
                if found.as_ref().is_none_or(String::is_empty) {
                    missing.borrow_mut().insert(name.to_owned());
                }
                Some(found.unwrap_or_default())
            };
            let expanded = expand(expression, value);
            let missing: Vec<String> = missing.into_inner().into_iter().collect();
            if !missing.is_empty() {
                return Err(format!("missing value for {}", missing.join(", ")));
            }
            Some(expanded)
        }
        None => written,
    };
    let Some(path) = path.filter(|path| !path.is_empty()) else { return Ok(None) };
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(Some(path))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::environment::{Place, Sources};
    use crate::node::volume_files::FileContent;
    use crate::object::Key;
    use serde_json::json;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "conf", "mountPath": "/etc/app"},
                {"name": "scratch", "mountPath": "tmp"}]}],
            "volumes": [
                {"name": "conf", "configMap": {"name": "c", "items": [{"key": "a", "path": "dir/a", "mode": 256}]}},
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}}))
        .expect("a pod")
    }

    fn planned(sources: &Sources) -> Result<Vec<VolumePlan>, Missing> {
        planned_of(&pod(), sources)
    }

    fn planned_of(pod: &Pod, sources: &Sources) -> Result<Vec<VolumePlan>, Missing> {
        let place = Place {
            node_name: "n1".into(),
            host_ip: Ipv4Addr::LOCALHOST,
            pod_ip: None,
            cpus: 1,
            memory: 1,
        };
        let content = Content { pod, sources, place: &place };
        volumes(content, &BTreeMap::new(), Path::new("/data"))
    }

    #[test]
    fn volumes_wait_for_what_is_unknown_and_name_what_is_missing() {
        assert_eq!(planned(&Sources::default()), Err(Missing::Unknown));
        let key = Key::new("n", "c");
        let gone = Sources { config_maps: [(key.clone(), None)].into(), ..Sources::default() };
        let sentence = "MountVolume.SetUp failed for volume \"conf\" : configmap \"c\" not found";
        assert_eq!(planned(&gone), Err(Missing::Fault(sentence.into())));
        let config = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).expect("one");
        let known =
            Sources { config_maps: [(key, Some(Arc::new(config)))].into(), ..Sources::default() };
        let plans = planned(&known).expect("all there");
        let VolumeKind::Files { files, in_memory: false } = &plans[0].kind else {
            panic!("{:?}", plans[0]);
        };
        let file = FileContent { bytes: b"1".to_vec(), mode: 0o400 };
        assert_eq!(files, &BTreeMap::from([("dir/a".to_owned(), file)]));
        assert_eq!(plans[0].path, Path::new("/data/pods/u/volumes/conf"));
        assert_eq!(plans[1].kind, VolumeKind::Memory { size: Some(1 << 20) });

        let pod = pod();
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let mounts = mounts(&pod, container, &plans, &[], Path::new("/data")).expect("mounts");
        assert_eq!(mounts[0].spec.source, "/data/pods/u/volumes/conf");
        assert_eq!(mounts[1].spec.target, "/tmp");
        assert!(mounts[0].spec.read_only && !mounts[1].spec.read_only);
    }

    #[test]
    fn a_group_owns_every_volume_but_a_hosts_folder() {
        let mut pod = pod();
        let spec = pod.spec.as_mut().expect("a spec");
        spec.security_context = serde_json::from_value(json!({"fsGroup": 2000})).expect("one");
        spec.volumes = serde_json::from_value(json!([
            {"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/srv"}}]))
        .expect("volumes");
        let plans = planned_of(&pod, &Sources::default()).expect("planned");
        assert_eq!([plans[0].group, plans[1].group], [Some(2000), None]);
        assert_eq!(fs_group(&pod), Some(2000));
    }

    #[test]
    fn a_part_of_a_volume_stays_inside_whatever_the_environment_says() {
        let plan = |mount: serde_json::Value, env: &[&str]| {
            let mut pod = pod();
            let mut mount = mount;
            mount["name"] = json!("v");
            mount["mountPath"] = json!("/x");
            let container = &mut pod.spec.as_mut().expect("a spec").containers[0];
            container.volume_mounts = serde_json::from_value(json!([mount])).expect("mounts");
            let container = container.clone();
            let path = "/data/pods/u/volumes/v".into();
            let volume = VolumePlan { name: "v".into(), path, ..VolumePlan::default() };
            let env: Vec<String> = env.iter().map(|line| (*line).to_owned()).collect();
            let made = mounts(&pod, &container, &[volume], &env, Path::new("/data"));
            made.map(|made| made[0].part.as_ref().map(|part| part.inside.display().to_string()))
        };
        let at = |path: &str| Ok(Some(path.to_owned()));
        assert_eq!(plan(json!({}), &[]), Ok(None));
        assert_eq!(plan(json!({"subPath": "a/b"}), &[]), at("a/b"));
        let pod_name = json!({"subPathExpr": "logs/$(POD)/$$(POD)"});
        assert_eq!(plan(pod_name.clone(), &["PODS=x", "POD=web=1"]), at("logs/web=1/$(POD)"));
        assert_eq!(plan(pod_name.clone(), &["POD="]), Err("missing value for POD".into()));
        assert_eq!(plan(pod_name, &[]), Err("missing value for POD".into()));
        let whole = json!({"subPathExpr": "$(P)"});
        let absolute = "error SubPath `/etc` must not be an absolute path";
        assert_eq!(plan(whole.clone(), &["P=/etc"]), Err(absolute.into()));
        let climbs = "unable to provision SubPath `a/../../b`: must not contain '..'";
        assert_eq!(plan(whole, &["P=a/../../b"]), Err(climbs.into()));
        assert_eq!(plan(json!({"subPath": "a..b"}), &[]), at("a..b"));
    }

    #[test]
    fn propagation_and_recursion_are_the_mounts_own() {
        let mut pod = pod();
        let container = &mut pod.spec.as_mut().expect("a spec").containers[0];
        container.volume_mounts = serde_json::from_value(json!([
            {"name": "v", "mountPath": "/a", "mountPropagation": "HostToContainer"},
            {"name": "v", "mountPath": "/b", "mountPropagation": "Bidirectional"},
            {"name": "v", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "IfPossible"},
            {"name": "v", "mountPath": "/d", "readOnly": true, "recursiveReadOnly": "Enabled"}]))
        .expect("mounts");
        let container = container.clone();
        let path = "/srv".into();
        let kind = VolumeKind::HostPath(HostPathType::Unchecked);
        let volume = VolumePlan { name: "v".into(), path, kind, ..VolumePlan::default() };
        let made = mounts(&pod, &container, &[volume], &[], Path::new("/data")).expect("mounts");
        let told: Vec<_> =
            made.iter().map(|m| (m.spec.propagation, m.spec.recursive_read_only)).collect();
        assert_eq!(
            told,
            [
                (Propagation::HostToContainer, RecursiveReadOnly::Disabled),
                (Propagation::Bidirectional, RecursiveReadOnly::Disabled),
                (Propagation::None, RecursiveReadOnly::IfPossible),
                (Propagation::None, RecursiveReadOnly::Enabled),
            ]
        );
    }
}
