//! Pure: a pod's volumes as directories and files, and where its containers see them.
//!
//! emptyDir is a directory (or a tmpfs) under the pod's own; configMap, secret, downwardAPI and
//! projected volumes are directories of files with Kubernetes' atomic swap (`..data`), read-only;
//! hostPath is the path itself after the check that its type asks for. What files hold is in
//! `volume_files.rs`, the doing in `volume.rs`.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use crate::node::container_spec::MountSpec;
use crate::node::volume_files::{self, Content, Files, Missing};
use crate::object::Object;
use crate::object::quantity::Quantity;

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
        files: Files,
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

/// The directory of a pod's volumes.
pub fn pod_directory(data_dir: &Path, pod: &Pod) -> PathBuf {
    data_dir.join("pods").join(pod.uid())
}

/// # Errors
/// The first volume that cannot be made from what is known, in the words of the FailedMount event.
pub fn volumes(content: Content<'_>, data_dir: &Path) -> Result<Vec<VolumePlan>, Missing> {
    let pod = content.pod;
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
    use crate::node::environment::{Place, Sources};
    use crate::node::volume_files::FileContent;
    use crate::object::Key;
    use serde_json::json;
    use std::collections::BTreeMap;
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
        let place = Place {
            node_name: "n1".into(),
            host_ip: Ipv4Addr::LOCALHOST,
            pod_ip: None,
            cpus: 1,
            memory: 1,
        };
        volumes(Content { pod: &pod(), sources, place: &place }, Path::new("/data"))
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

        let spec = pod().spec.expect("spec");
        let mounts = mounts(&spec.containers[0], &plans).expect("mounts");
        assert_eq!(mounts[0].source, "/data/pods/u/volumes/conf");
        assert_eq!(mounts[1].target, "/tmp");
        assert!(mounts[0].read_only && !mounts[1].read_only);
    }
}
