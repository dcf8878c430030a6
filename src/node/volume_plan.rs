//! Pure: a pod's volumes as directories and files, and where its containers see them.
//!
//! emptyDir is a directory (or a tmpfs) under the pod's own; configMap and secret volumes are
//! directories of files with Kubernetes' atomic swap (`..data`), read-only; hostPath is the path
//! itself after the check that its type asks for. The doing is in `volume.rs`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, KeyToPath, Pod, VolumeMount};

use crate::node::container_spec::MountSpec;
use crate::node::environment::Sources;
use crate::object::quantity::Quantity;
use crate::object::{Key, Object};

/// Kubernetes' `defaultMode`.
const DEFAULT_MODE: u32 = 0o644;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeKind {
    Directory,
    /// tmpfs; bytes, `None` is the kernel's default (half the memory).
    Memory {
        size: Option<i64>,
    },
    /// Relative path to content. Secrets are kept in memory where the host allows it.
    Files {
        files: BTreeMap<String, FileContent>,
        in_memory: bool,
    },
    HostPath(HostPathType),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    pub name: String,
    /// On the host.
    pub path: PathBuf,
    pub kind: VolumeKind,
}

/// Why volumes cannot be prepared yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Not read yet: look again when it is.
    Unknown,
    /// The kubelet's sentence for the FailedMount event.
    Fault(String),
}

/// The directory of a pod's volumes.
pub fn pod_directory(data_dir: &Path, pod: &Pod) -> PathBuf {
    data_dir.join("pods").join(pod.uid())
}

/// # Errors
/// The first volume that cannot be made from what is known.
pub fn volumes(pod: &Pod, sources: &Sources, data_dir: &Path) -> Result<Vec<VolumePlan>, Missing> {
    let namespace = pod.key().namespace;
    let home = pod_directory(data_dir, pod).join("volumes");
    let mut plans = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let mut path = home.join(&volume.name);
        let fault = |sentence: String| {
            Missing::Fault(format!(
                "MountVolume.SetUp failed for volume \"{}\" : {sentence}",
                volume.name
            ))
        };
        let kind = if let Some(source) = &volume.config_map {
            let key = Key::new(&namespace, &source.name);
            let found = sources.config_maps.get(&key).ok_or(Missing::Unknown)?;
            let optional = source.optional == Some(true);
            let mut content: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
            match found {
                Some(map) => {
                    let text = map.data.iter().flatten();
                    content.extend(text.map(|(k, v)| (k.as_str(), v.clone().into_bytes())));
                    let binary = map.binary_data.iter().flatten();
                    content.extend(binary.map(|(k, v)| (k.as_str(), v.0.clone())));
                }
                None if optional => {}
                None => return Err(fault(format!("configmap \"{}\" not found", source.name))),
            }
            let files = files(&content, source.items.as_deref(), source.default_mode, optional)
                .map_err(|key| {
                    fault(format!("configmap references non-existent config key: {key}"))
                })?;
            VolumeKind::Files { files, in_memory: false }
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.clone().unwrap_or_default();
            let key = Key::new(&namespace, &name);
            let found = sources.secrets.get(&key).ok_or(Missing::Unknown)?;
            let optional = source.optional == Some(true);
            let mut content: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
            match found {
                Some(secret) => {
                    let data = secret.data.iter().flatten();
                    content.extend(data.map(|(k, v)| (k.as_str(), v.0.clone())));
                }
                None if optional => {}
                None => return Err(fault(format!("secret \"{name}\" not found"))),
            }
            let files = files(&content, source.items.as_deref(), source.default_mode, optional)
                .map_err(|key| fault(format!("references non-existent secret key: {key}")))?;
            VolumeKind::Files { files, in_memory: true }
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
            return Err(fault("this version runs emptyDir, configMap, secret and hostPath".into()));
        };
        plans.push(VolumePlan { name: volume.name.clone(), path, kind });
    }
    Ok(plans)
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

/// Every key as a file, or the items alone. `Err` is the key of an item that does not exist.
fn files(
    content: &BTreeMap<&str, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<BTreeMap<String, FileContent>, String> {
    let bits = |mode: Option<i32>| mode.and_then(|mode| u32::try_from(mode).ok());
    let default = bits(default_mode).unwrap_or(DEFAULT_MODE) & 0o777;
    let file = |bytes: &Vec<u8>, mode| FileContent { bytes: bytes.clone(), mode };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let all = content.iter();
        return Ok(all.map(|(key, bytes)| ((*key).to_owned(), file(bytes, default))).collect());
    };
    let mut chosen = BTreeMap::new();
    for item in items {
        match content.get(item.key.as_str()) {
            Some(bytes) if is_inside(&item.path) => {
                let mode = bits(item.mode).map_or(default, |mode| mode & 0o777);
                chosen.insert(item.path.clone(), file(bytes, mode));
            }
            Some(_) => return Err(item.key.clone()),
            None if optional => {}
            None => return Err(item.key.clone()),
        }
    }
    Ok(chosen)
}

/// Relative and without `..`: it cannot leave the directory it is joined to.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Where a container sees its volumes. A part of a volume (`subPath`) is refused at admission: the
/// engine resolves the path by itself, so a container could swap a directory for a symlink between
/// our look and the engine's mount (CVE-2017-1002101).
///
/// # Errors
/// A mount that names no volume.
pub fn mounts(container: &Container, volumes: &[VolumePlan]) -> Result<Vec<MountSpec>, String> {
    let mount = |mount: &VolumeMount| {
        let volume = volumes
            .iter()
            .find(|volume| volume.name == mount.name)
            .ok_or_else(|| format!("volume \"{}\" does not exist", mount.name))?;
        let is_files = matches!(volume.kind, VolumeKind::Files { .. });
        Ok(MountSpec {
            source: volume.path.display().to_string(),
            target: absolute(&mount.mount_path),
            read_only: mount.read_only == Some(true) || is_files,
        })
    };
    container.volume_mounts.iter().flatten().map(mount).collect()
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
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

    #[test]
    fn volumes_wait_for_what_is_unknown_and_name_what_is_missing() {
        let data = Path::new("/data");
        assert_eq!(volumes(&pod(), &Sources::default(), data), Err(Missing::Unknown));
        let key = Key::new("n", "c");
        let gone = Sources { config_maps: [(key.clone(), None)].into(), ..Sources::default() };
        let sentence = "MountVolume.SetUp failed for volume \"conf\" : configmap \"c\" not found";
        assert_eq!(volumes(&pod(), &gone, data), Err(Missing::Fault(sentence.into())));
        let config = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).expect("one");
        let known =
            Sources { config_maps: [(key, Some(Arc::new(config)))].into(), ..Sources::default() };
        let plans = volumes(&pod(), &known, data).expect("all there");
        let VolumeKind::Files { files, in_memory: false } = &plans[0].kind else {
            panic!("{:?}", plans[0]);
        };
        let file = FileContent { bytes: b"1".to_vec(), mode: 0o400 };
        assert_eq!(files, &BTreeMap::from([("dir/a".to_owned(), file)]));
        assert_eq!(plans[0].path, Path::new("/data/pods/u/volumes/conf"));
        assert_eq!(plans[1].kind, VolumeKind::Memory { size: Some(1 << 20) });

        let spec = pod().spec.expect("spec");
        let mounts = mounts(&spec.containers[0], &plans).expect("mounts");
        assert_eq!(mounts[0].source, "/data/pods/u/volumes/conf");
        assert_eq!(mounts[1].target, "/tmp");
        assert!(mounts[0].read_only && !mounts[1].read_only);
    }

    #[test]
    fn no_path_leaves_its_volume() {
        for (path, inside) in
            [("a/b", true), ("../a", false), ("/a", false), ("a/../../b", false), ("", false)]
        {
            assert_eq!(is_inside(path), inside, "{path}");
        }
    }
}
