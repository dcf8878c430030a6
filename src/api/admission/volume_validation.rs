//! Pure: what is wrong with a pod's volumes (`ValidateVolumes`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, KeyToPath, ProjectedVolumeSource, Volume};

use super::admit::{Fault, Faults};
use super::downward_validation::file_faults;
use super::field_path::{FieldPath, quoted};
use crate::object::name::label_faults;
use crate::object::quantity::Quantity;

/// The names that a mount may use (volumes without a fault), and every fault.
pub fn volumes<'v>(volumes: &'v [Volume], path: &FieldPath<'_>) -> (BTreeSet<&'v str>, Faults) {
    let (mut usable, mut faults) = (BTreeSet::new(), Faults::new());
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let mut own = source_faults(volume, &path);
        let name = path.child("name");
        if volume.name.is_empty() {
            own.push(name.required(""));
        } else {
            own.extend(name.each_invalid(&volume.name, label_faults(&volume.name)));
        }
        if usable.contains(volume.name.as_str()) {
            own.push(name.duplicate(quoted(&volume.name)));
        }
        if own.is_empty() {
            usable.insert(volume.name.as_str());
        }
        faults.extend(own);
    }
    (usable, faults)
}

/// The volume types in the wire's words, in the reference server's order.
fn sources(volume: &Volume) -> Vec<&'static str> {
    [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("projected", volume.projected.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect()
}

fn source_faults(volume: &Volume, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let sources = sources(volume);
    for (index, source) in sources.iter().enumerate() {
        let path = path.child(source);
        if index > 0 {
            faults.push(path.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        match *source {
            "emptyDir" => faults.extend(empty_dir_fault(volume, &path)),
            "hostPath" => faults.extend(volume.host_path.iter().flat_map(|s| host_path(s, &path))),
            "secret" => {
                let Some(source) = &volume.secret else { continue };
                if source.secret_name.as_deref().unwrap_or_default().is_empty() {
                    faults.push(path.child("secretName").required(""));
                }
                faults.extend(mode_fault(source.default_mode, &path.child("defaultMode")));
                faults.extend(items(source.items.as_deref(), &path.child("items")));
            }
            "configMap" => {
                let Some(source) = &volume.config_map else { continue };
                if source.name.is_empty() {
                    faults.push(path.child("name").required(""));
                }
                faults.extend(mode_fault(source.default_mode, &path.child("defaultMode")));
                faults.extend(items(source.items.as_deref(), &path.child("items")));
            }
            "downwardAPI" => {
                let Some(source) = &volume.downward_api else { continue };
                faults.extend(mode_fault(source.default_mode, &path.child("defaultMode")));
                faults.extend(file_faults(source.items.as_deref(), &path));
            }
            "projected" => {
                faults.extend(volume.projected.iter().flat_map(|all| projected(all, &path)));
            }
            "persistentVolumeClaim" => {
                let source = volume.persistent_volume_claim.as_ref();
                if source.is_some_and(|source| source.claim_name.is_empty()) {
                    faults.push(path.child("claimName").required(""));
                }
            }
            // Every other type is refused by name in the second step.
            _ => {}
        }
    }
    if sources.is_empty() {
        faults.push(path.required("must specify a volume type"));
    }
    faults
}

fn empty_dir_fault(volume: &Volume, path: &FieldPath<'_>) -> Option<Fault> {
    let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
    let negative = Quantity::parse(&limit.0).is_ok_and(Quantity::is_negative);
    negative.then(|| {
        path.child("sizeLimit").forbidden("SizeLimit field must be a valid resource quantity")
    })
}

pub fn host_path(source: &HostPathVolumeSource, path: &FieldPath<'_>) -> Faults {
    const TYPES: [&str; 8] = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let mut faults = Faults::new();
    let field = path.child("path");
    if source.path.is_empty() {
        faults.push(field.required(""));
    } else {
        faults.extend(backstep_fault(&source.path, &field));
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    if !TYPES.contains(&kind) {
        faults.push(path.child("type").not_supported(kind, &TYPES));
    }
    faults
}

/// A path inside a volume: relative, and never up.
pub fn descending_path(text: &str, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    if text.starts_with('/') {
        faults.push(path.invalid(quoted(text), "must be a relative path"));
    }
    faults.extend(backstep_fault(text, path));
    faults
}

/// The path of a file that is written into a volume: names that begin with `..` are the writer's own.
pub fn reserved_path(text: &str, path: &FieldPath<'_>) -> Faults {
    if text.is_empty() {
        return vec![path.required("")];
    }
    let mut faults = descending_path(text, path);
    if text.starts_with("..") && !text.split('/').any(|part| part == "..") {
        faults.push(path.invalid(quoted(text), "must not start with '..'"));
    }
    faults
}

pub fn backstep_fault(text: &str, path: &FieldPath<'_>) -> Option<Fault> {
    let steps_back = text.split('/').any(|part| part == "..");
    steps_back.then(|| path.invalid(quoted(text), "must not contain '..'"))
}

pub fn mode_fault(mode: Option<i32>, path: &FieldPath<'_>) -> Option<Fault> {
    mode.filter(|mode| !(0..=0o777).contains(mode)).map(|mode| {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        path.invalid(mode.to_string(), detail)
    })
}

/// Sources of any types, whose files lie side by side.
fn projected(all: &ProjectedVolumeSource, path: &FieldPath<'_>) -> Faults {
    let mut faults: Faults =
        mode_fault(all.default_mode, &path.child("defaultMode")).into_iter().collect();
    let mut taken = BTreeSet::new();
    let list = path.child("sources");
    for (index, source) in all.sources.iter().flatten().enumerate() {
        let at = list.index(index);
        // Whose path it is, as the reference server names it: its object, or the path itself.
        let mut paths: Vec<(&str, &str)> = Vec::new();
        for (field, source) in [
            ("secret", source.secret.as_ref().map(|own| (&own.name, &own.items))),
            ("configMap", source.config_map.as_ref().map(|own| (&own.name, &own.items))),
        ] {
            let Some((name, chosen)) = source else { continue };
            let at = at.child(field);
            if name.is_empty() {
                faults.push(at.child("name").required(""));
            }
            faults.extend(items(chosen.as_deref(), &at.child("items")));
            let of = chosen.iter().flatten().map(|item| (name.as_str(), item.path.as_str()));
            paths.extend(of);
        }
        if let Some(source) = &source.downward_api {
            faults.extend(file_faults(source.items.as_deref(), &at.child("downwardAPI")));
            let of = source.items.iter().flatten();
            paths.extend(of.map(|file| (file.path.as_str(), file.path.as_str())));
        }
        for (whose, text) in paths {
            if !text.is_empty() && !taken.insert(text) {
                faults.push(path.invalid(quoted(whose), "conflicting duplicate paths"));
            }
        }
        let types = [
            source.secret.is_some(),
            source.config_map.is_some(),
            source.downward_api.is_some(),
            source.service_account_token.is_some(),
            source.cluster_trust_bundle.is_some(),
            source.pod_certificate.is_some(),
        ];
        if types.into_iter().filter(|set| *set).count() > 1 {
            faults.push(at.forbidden("may not specify more than 1 volume type per source"));
        }
    }
    faults
}

fn items(items: Option<&[KeyToPath]>, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        if item.key.is_empty() {
            faults.push(path.child("key").required(""));
        }
        faults.extend(reserved_path(&item.path, &path.child("path")));
        faults.extend(mode_fault(item.mode, &path.child("mode")));
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn faults_of(list: Value) -> Vec<String> {
        let list: Vec<Volume> = serde_json::from_value(list).unwrap();
        let path = FieldPath::root("v");
        volumes(&list, &path).1.into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn a_volume_has_one_name_and_one_source() {
        let map = |name: &str| json!({"name": name, "configMap": {"name": "m"}});
        assert_eq!(faults_of(json!([map("a"), map("b")])), Vec::<String>::new());
        assert_eq!(faults_of(json!([map("a"), map("a")])), ["v[1].name"]);
        assert_eq!(faults_of(json!([map("A")])), ["v[0].name"]);
        assert_eq!(
            faults_of(json!([{"name": "a", "emptyDir": {}, "configMap": {"name": "m"}}])),
            ["v[0].configMap"]
        );
        assert_eq!(faults_of(json!([{"name": "a"}])), ["v[0]"]);
        let claim =
            |name: &str| json!([{"name": "a", "persistentVolumeClaim": {"claimName": name}}]);
        assert_eq!(faults_of(claim("c")), Vec::<String>::new());
        assert_eq!(faults_of(claim("")), ["v[0].persistentVolumeClaim.claimName"]);
        assert_eq!(
            faults_of(json!([{"name": "a", "hostPath": {"path": "/a/../b"}}])),
            ["v[0].hostPath.path"]
        );
        assert_eq!(
            faults_of(json!([{"name": "a", "secret": {"defaultMode": 512}}])),
            ["v[0].secret.secretName", "v[0].secret.defaultMode"]
        );
        let items = |path: &str| {
            faults_of(json!([{"name": "a", "configMap": {"name": "m",
            "items": [{"key": "k", "path": path}]}}]))
        };
        for bad in ["/a", "a/../b", "..a", ""] {
            assert_eq!(items(bad), ["v[0].configMap.items[0].path"], "{bad}");
        }
    }
    #[test]
    fn the_files_of_a_projected_volume_do_not_meet() {
        let part = |kind: &str, path: &str| json!({kind: {"name": "m", "items": [{"key": "k", "path": path}]}});
        let own = |path: &str| {
            json!({"downwardAPI": {"items": [
            {"path": path, "fieldRef": {"fieldPath": "metadata.name"}}]}})
        };
        let all =
            |sources: Value| faults_of(json!([{"name": "a", "projected": {"sources": sources}}]));
        let fine = json!([part("secret", "s"), part("configMap", "c"), own("d/e")]);
        assert_eq!(all(fine), Vec::<String>::new());
        assert_eq!(all(json!([part("secret", "s"), own("s")])), ["v[0].projected"]);
        let mut both = part("secret", "s");
        both["configMap"] = json!({"name": "m"});
        assert_eq!(all(json!([both])), ["v[0].projected.sources[0]"]);
        assert_eq!(
            all(json!([{"configMap": {}}, own("/d")])),
            [
                "v[0].projected.sources[0].configMap.name",
                "v[0].projected.sources[1].downwardAPI.items[0].path"
            ]
        );
        let item = json!({"path": "f", "resourceFieldRef": {"resource": "limits.cpu"}});
        assert_eq!(
            faults_of(json!([{"name": "a", "downwardAPI": {"defaultMode": 512, "items": [item]}}])),
            [
                "v[0].downwardAPI.defaultMode",
                "v[0].downwardAPI.items[0].resourceFieldRef.containerName"
            ]
        );
    }
}
