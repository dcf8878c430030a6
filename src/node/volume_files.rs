//! Pure: the files of configMap, secret, downwardAPI and projected volumes, by their paths inside.
//!
//! Kubernetes' rules (`pkg/volume/configmap`, `secret`, `downwardapi`, `projected`): every key is a
//! file unless items choose some; a key that is chosen and missing is a fault, but of an optional
//! source; a file has its item's mode, else the volume's default; of two sources of a projected
//! volume with one path the later counts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume,
};

use crate::node::environment::{Place, Sources, field_value, resource_value};
use crate::object::{Key, Object};

/// Kubernetes' `defaultMode`.
const DEFAULT_MODE: u32 = 0o644;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// By path, relative to the volume.
pub type Files = BTreeMap<String, FileContent>;

/// Why volumes cannot be prepared yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Not read yet: look again when it is.
    Unknown,
    /// The kubelet's sentence.
    Fault(String),
}

/// What files are filled from.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    pub pod: &'a Pod,
    pub sources: &'a Sources,
    pub place: &'a Place,
}

/// The files of a volume, and whether one of them is a Secret's; `None` for another type of volume.
///
/// # Errors
/// The first thing that is missing; of a projected volume all of them.
pub fn files(volume: &Volume, content: Content<'_>) -> Option<Result<(Files, bool), Missing>> {
    if let Some(source) = &volume.config_map {
        let default = default_mode(source.default_mode);
        let items = source.items.as_deref();
        let files = content.config_map(&source.name, items, source.optional, default);
        return Some(files.map(|files| (files, false)));
    }
    if let Some(source) = &volume.secret {
        let default = default_mode(source.default_mode);
        let (name, items) = (source.secret_name.as_deref(), source.items.as_deref());
        let files = content.secret(name.unwrap_or_default(), items, source.optional, default);
        return Some(files.map(|files| (files, true)));
    }
    if let Some(source) = &volume.downward_api {
        let default = default_mode(source.default_mode);
        let files = content.own_fields(source.items.as_deref(), default);
        return Some(files.map(|files| (files, false)));
    }
    let source = volume.projected.as_ref()?;
    let has_secret = source.sources.iter().flatten().any(|source| source.secret.is_some());
    Some(content.projected(source).map(|files| (files, has_secret)))
}

impl Content<'_> {
    fn key(&self, name: &str) -> Key {
        Key::new(self.pod.key().namespace, name)
    }

    fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        default: u32,
    ) -> Result<Files, Missing> {
        let found = self.sources.config_maps.get(&self.key(name)).ok_or(Missing::Unknown)?;
        let optional = optional == Some(true);
        let content = match found {
            Some(map) => bytes_of_map(map),
            None if optional => BTreeMap::new(),
            None => return Err(Missing::Fault(format!("configmap \"{name}\" not found"))),
        };
        let fault = |key| format!("configmap references non-existent config key: {key}");
        chosen(&content, items, default, optional).map_err(|key| Missing::Fault(fault(key)))
    }

    fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        default: u32,
    ) -> Result<Files, Missing> {
        let found = self.sources.secrets.get(&self.key(name)).ok_or(Missing::Unknown)?;
        let optional = optional == Some(true);
        let content = match found {
            Some(secret) => bytes_of_secret(secret),
            None if optional => BTreeMap::new(),
            None => return Err(Missing::Fault(format!("secret \"{name}\" not found"))),
        };
        let fault = |key| format!("references non-existent secret key: {key}");
        chosen(&content, items, default, optional).map_err(|key| Missing::Fault(fault(key)))
    }

    /// What the pod says of itself. It changes with the pod: labels and annotations may.
    fn own_fields(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        default: u32,
    ) -> Result<Files, Missing> {
        let mut files = Files::new();
        for item in items.unwrap_or_default() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => field_value(self.pod, &field.field_path, self.place),
                (None, Some(field)) => resource_value(self.pod, None, field, self.place),
                (None, None) => Err("one of fieldRef and resourceFieldRef is required".to_owned()),
            };
            let bytes = text.map_err(Missing::Fault)?.into_bytes();
            let path = inside(&item.path).ok_or_else(|| leaves(&item.path))?;
            files.insert(path, FileContent { bytes, mode: own_mode(item.mode, default) });
        }
        Ok(files)
    }

    fn projected(&self, all: &ProjectedVolumeSource) -> Result<Files, Missing> {
        let default = default_mode(all.default_mode);
        let (mut files, mut faults) = (Files::new(), Vec::new());
        for source in all.sources.iter().flatten() {
            let made = if let Some(own) = &source.secret {
                self.secret(&own.name, own.items.as_deref(), own.optional, default)
            } else if let Some(own) = &source.config_map {
                self.config_map(&own.name, own.items.as_deref(), own.optional, default)
            } else if let Some(own) = &source.downward_api {
                self.own_fields(own.items.as_deref(), default)
            } else {
                let known = "this version projects configMap, secret and downwardAPI";
                Err(Missing::Fault(known.to_owned()))
            };
            match made {
                Ok(made) => files.extend(made),
                Err(Missing::Unknown) => return Err(Missing::Unknown),
                Err(Missing::Fault(sentence)) => faults.push(sentence),
            }
        }
        match faults.len() {
            0 => Ok(files),
            1 => Err(Missing::Fault(faults.remove(0))),
            _ => Err(Missing::Fault(format!("[{}]", faults.join(", ")))),
        }
    }
}

fn bytes_of_map(map: &ConfigMap) -> BTreeMap<&str, Cow<'_, [u8]>> {
    let text = map.data.iter().flatten();
    let binary = map.binary_data.iter().flatten();
    text.map(|(key, text)| (key.as_str(), Cow::Borrowed(text.as_bytes())))
        .chain(binary.map(|(key, bytes)| (key.as_str(), Cow::Borrowed(&bytes.0[..]))))
        .collect()
}

fn bytes_of_secret(secret: &Secret) -> BTreeMap<&str, Cow<'_, [u8]>> {
    let data = secret.data.iter().flatten();
    data.map(|(key, bytes)| (key.as_str(), Cow::Borrowed(&bytes.0[..]))).collect()
}

fn default_mode(written: Option<i32>) -> u32 {
    own_mode(written, DEFAULT_MODE)
}

fn own_mode(written: Option<i32>, default: u32) -> u32 {
    written.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default) & 0o777
}

/// Every key as a file, or the items alone. `Err` is the key of an item that does not exist.
fn chosen(
    content: &BTreeMap<&str, Cow<'_, [u8]>>,
    items: Option<&[KeyToPath]>,
    default: u32,
    optional: bool,
) -> Result<Files, String> {
    let file = |bytes: &[u8], mode| FileContent { bytes: bytes.to_vec(), mode };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let all = content.iter();
        return Ok(all.map(|(key, bytes)| ((*key).to_owned(), file(bytes, default))).collect());
    };
    let mut chosen = Files::new();
    for item in items {
        match (content.get(item.key.as_str()), inside(&item.path)) {
            (Some(bytes), Some(path)) => {
                chosen.insert(path, file(bytes, own_mode(item.mode, default)));
            }
            (None, _) if optional => {}
            _ => return Err(item.key.clone()),
        }
    }
    Ok(chosen)
}

fn leaves(path: &str) -> Missing {
    Missing::Fault(format!("invalid path: must be relative path without '..': {path}"))
}

/// The path without `.` and doubled slashes; `None` where it is not relative, climbs, or names what
/// is the writer's own: it cannot leave the directory it is joined to.
fn inside(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    let is_own = parts.first().is_none_or(|first| first.starts_with(".."));
    (!is_own).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    fn place() -> Place {
        Place {
            node_name: "n1".into(),
            host_ip: Ipv4Addr::new(192, 0, 2, 2),
            pod_ip: None,
            cpus: 2,
            memory: 1 << 30,
        }
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u",
            "labels": {"zone": "a", "app": "web"},
            "annotations": {"note": "two\n\"lines\""}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "250m"}}}]}}))
        .expect("a pod")
    }

    fn filled(volume: serde_json::Value, sources: &Sources) -> Result<(Files, bool), Missing> {
        let volume: Volume = serde_json::from_value(volume).expect("a volume");
        let (pod, place) = (pod(), place());
        files(&volume, Content { pod: &pod, sources, place: &place }).expect("a volume of files")
    }

    fn known() -> Sources {
        let map = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).expect("a map");
        let secret = serde_json::from_value(json!({"data": {"key": "czNjcmV0"}})).expect("one");
        Sources {
            config_maps: [(Key::new("n", "c"), Some(Arc::new(map))), (Key::new("n", "gone"), None)]
                .into(),
            secrets: [(Key::new("n", "s"), Some(Arc::new(secret))), (Key::new("n", "gone"), None)]
                .into(),
            services: Vec::new(),
        }
    }

    /// `path mode text`, one a file.
    fn texts(files: &Files) -> Vec<String> {
        let text = |file: &FileContent| String::from_utf8(file.bytes.clone()).expect("text");
        files.iter().map(|(path, f)| format!("{path} {:o} {}", f.mode, text(f))).collect()
    }

    #[test]
    fn a_pod_tells_of_itself_in_files() {
        let field =
            |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
        let mut mode = field("deep/name", "metadata.name");
        mode["mode"] = json!(0o400);
        let of_container = json!({"path": "cpu", "resourceFieldRef":
            {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}});
        let (files, secret) = filled(
            json!({"name": "v", "downwardAPI": {"defaultMode": 0o440, "items": [
                field("labels", "metadata.labels"), field("annotations", "metadata.annotations"),
                field("zone", "metadata.labels['zone']"), mode, of_container]}}),
            &Sources::default(),
        )
        .expect("filled");
        assert!(!secret);
        assert_eq!(
            texts(&files),
            [
                "annotations 440 note=\"two\\n\\\"lines\\\"\"",
                "cpu 440 250",
                "deep/name 400 p",
                "labels 440 app=\"web\"\nzone=\"a\"",
                "zone 440 a",
            ]
        );
        let of_none = json!({"path": "cpu", "resourceFieldRef":
            {"containerName": "none", "resource": "limits.cpu"}});
        assert_eq!(
            filled(json!({"name": "v", "downwardAPI": {"items": [of_none]}}), &Sources::default()),
            Err(Missing::Fault("container none not found".into()))
        );
    }

    #[test]
    fn a_projected_volume_lays_its_sources_side_by_side() {
        let projected =
            |sources: serde_json::Value| json!({"name": "v", "projected": {"sources": sources}});
        let map = json!({"configMap": {"name": "c", "items": [{"key": "a", "path": "conf/./a"}]}});
        let secret = json!({"secret": {"name": "s", "items": [
            {"key": "key", "path": "conf/key", "mode": 0o400}]}});
        let own = json!({"downwardAPI": {"items": [
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}});
        let absent = json!({"secret": {"name": "gone", "optional": true}});
        let sources = json!([map, secret, own, absent]);
        let (files, has_secret) = filled(projected(sources.clone()), &known()).expect("filled");
        assert!(has_secret, "it is kept in memory");
        assert_eq!(texts(&files), ["conf/a 644 1", "conf/key 400 s3cret", "name 644 p"]);
        assert_eq!(filled(projected(sources), &Sources::default()), Err(Missing::Unknown));
        let gone = json!([{"secret": {"name": "gone"}}, {"configMap": {"name": "gone"}}]);
        let sentence = "[secret \"gone\" not found, configmap \"gone\" not found]";
        assert_eq!(filled(projected(gone), &known()), Err(Missing::Fault(sentence.into())));
    }

    #[test]
    fn a_key_that_is_chosen_must_be_there_unless_its_source_is_optional() {
        let volume = |optional: bool| {
            json!({"name": "v", "configMap": {"name": "c", "optional": optional,
                "items": [{"key": "none", "path": "x"}, {"key": "b", "path": "y"}]}})
        };
        let sentence = "configmap references non-existent config key: none";
        assert_eq!(filled(volume(false), &known()), Err(Missing::Fault(sentence.into())));
        let (files, _) = filled(volume(true), &known()).expect("filled");
        assert_eq!(texts(&files), ["y 644 2"]);
    }

    #[test]
    fn no_path_leaves_its_volume() {
        for (path, is) in [
            ("a/b", Some("a/b")),
            ("./a//b", Some("a/b")),
            ("../a", None),
            ("/a", None),
            ("a/../../b", None),
            ("", None),
            (".", None),
            ("..data/a", None),
        ] {
            assert_eq!(inside(path).as_deref(), is, "{path}");
        }
    }
}
