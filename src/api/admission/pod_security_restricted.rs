//! Pure: the checks of the level `restricted`, which asks a pod to give up what it hardly needs.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Volume;

use super::pod_security::{Setters, Subject, Violation, listed, plural};
use super::pod_security_baseline::{bad_seccomp, has_own_users};

/// Pods of Windows have none of these fields.
fn is_windows(subject: &Subject<'_>) -> bool {
    subject.spec.os.as_ref().is_some_and(|os| os.name == "windows")
}

pub fn escalation(subject: &Subject<'_>) -> Option<Violation> {
    let mut found = Setters::default();
    for member in subject.members() {
        if member.security.and_then(|own| own.allow_privilege_escalation) != Some(false) {
            let below = "securityContext.allowPrivilegeEscalation";
            found.of_container(subject, &member, below);
        }
    }
    found.violation("allowPrivilegeEscalation != false", |found| {
        format!("{} must set securityContext.allowPrivilegeEscalation=false", found.containers())
    })
}

pub fn escalation_25(subject: &Subject<'_>) -> Option<Violation> {
    if is_windows(subject) { None } else { escalation(subject) }
}

pub fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let (mut keeping, mut adding) = (Setters::default(), Setters::default());
    let mut added = BTreeSet::new();
    for member in subject.members() {
        let own = member.security.and_then(|own| own.capabilities.as_ref());
        let dropped = own.and_then(|own| own.drop.as_ref()).into_iter().flatten();
        if !dropped.clone().any(|name| name == "ALL") {
            keeping.of_container(subject, &member, "securityContext.capabilities.drop");
        }
        let names = own.and_then(|own| own.add.as_ref()).into_iter().flatten().enumerate();
        let bad: Vec<(usize, &str)> = names
            .map(|(index, name)| (index, name.as_str()))
            .filter(|(_, name)| *name != "NET_BIND_SERVICE")
            .collect();
        if let Some((index, _)) = bad.first() {
            let below = format!("securityContext.capabilities.add[{index}]");
            adding.of_container(subject, &member, &below);
            added.extend(bad.iter().map(|(_, name)| *name));
        }
    }
    let field = keeping.field.clone().or_else(|| adding.field.clone())?;
    let keeping = (!keeping.is_empty()).then(|| {
        format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", keeping.containers())
    });
    let adding = (!adding.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            adding.containers(),
            listed(added)
        )
    });
    let detail = keeping.into_iter().chain(adding).collect::<Vec<_>>().join("; ");
    Some(Violation { reason: "unrestricted capabilities".to_owned(), detail, field })
}

pub fn capabilities_25(subject: &Subject<'_>) -> Option<Violation> {
    if is_windows(subject) { None } else { capabilities(subject) }
}

/// The type of a volume that is not allowed.
fn restricted_type(volume: &Volume) -> Option<&'static str> {
    let allowed = volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some();
    if allowed {
        return None;
    }
    let kinds = [
        (volume.host_path.is_some(), "hostPath"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.rbd.is_some(), "rbd"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.cinder.is_some(), "cinder"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.flocker.is_some(), "flocker"),
        (volume.fc.is_some(), "fc"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (volume.portworx_volume.is_some(), "portworxVolume"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.storageos.is_some(), "storageos"),
    ];
    let named = kinds.into_iter().find(|(is_it, _)| *is_it).map(|(_, name)| name);
    Some(named.unwrap_or("unknown"))
}

pub fn volumes(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = subject.spec.volumes.iter().flatten().enumerate();
    let bad: Vec<(usize, &str, &str)> = volumes
        .filter_map(|(index, volume)| Some((index, volume.name.as_str(), restricted_type(volume)?)))
        .collect();
    let (index, ..) = bad.first()?;
    let kinds: BTreeSet<&str> = bad.iter().map(|(_, _, kind)| *kind).collect();
    Some(Violation {
        reason: "restricted volume types".to_owned(),
        detail: format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", bad.len()),
            listed(bad.iter().map(|(_, name, _)| *name)),
            plural("uses", "use", bad.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            listed(kinds)
        ),
        field: subject.field(&format!("volumes[{index}]")),
    })
}

pub fn non_root(subject: &Subject<'_>) -> Option<Violation> {
    const FIELD: &str = "securityContext.runAsNonRoot";
    let (mut said, mut silent) = (Setters::default(), Setters::default());
    let of_pod = subject.spec.security_context.as_ref().and_then(|own| own.run_as_non_root);
    if of_pod == Some(false) {
        said.of_pod(subject, FIELD);
    }
    for member in subject.members() {
        match member.security.and_then(|own| own.run_as_non_root) {
            Some(true) => {}
            Some(false) => said.of_container(subject, &member, FIELD),
            None if of_pod == Some(true) => {}
            None => silent.of_container(subject, &member, FIELD),
        }
    }
    const REASON: &str = "runAsNonRoot != true";
    let said = said.violation(REASON, |said| {
        format!("{} must not set securityContext.runAsNonRoot=false", said.all())
    });
    said.or_else(|| {
        silent.violation(REASON, |silent| {
            let containers = silent.containers();
            format!("pod or {containers} must set securityContext.runAsNonRoot=true")
        })
    })
}

pub fn non_root_35(subject: &Subject<'_>) -> Option<Violation> {
    if has_own_users(subject) { None } else { non_root(subject) }
}

pub fn user(subject: &Subject<'_>) -> Option<Violation> {
    const FIELD: &str = "securityContext.runAsUser";
    let mut found = Setters::default();
    if subject.spec.security_context.as_ref().and_then(|own| own.run_as_user) == Some(0) {
        found.of_pod(subject, FIELD);
    }
    for member in subject.members() {
        if member.security.and_then(|own| own.run_as_user) == Some(0) {
            found.of_container(subject, &member, FIELD);
        }
    }
    found.violation("runAsUser=0", |found| format!("{} must not set runAsUser=0", found.all()))
}

pub fn user_35(subject: &Subject<'_>) -> Option<Violation> {
    if has_own_users(subject) { None } else { user(subject) }
}

pub fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    const REASON: &str = "seccompProfile";
    const FIELD: &str = "securityContext.seccompProfile";
    let (bad, values) = bad_seccomp(subject);
    let is_set_by_pod = !bad.pod
        && subject.spec.security_context.as_ref().is_some_and(|own| own.seccomp_profile.is_some());
    let mut silent = Setters::default();
    for member in subject.members() {
        let own = member.security.and_then(|own| own.seccomp_profile.as_ref());
        if own.is_none() && !is_set_by_pod {
            silent.of_container(subject, &member, FIELD);
        }
    }
    let bad = bad.violation(REASON, |bad| {
        let values = listed(values);
        format!("{} must not set securityContext.seccompProfile.type to {values}", bad.all())
    });
    bad.or_else(|| {
        silent.violation(REASON, |silent| {
            format!(
                "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
                silent.containers()
            )
        })
    })
}

pub fn seccomp_25(subject: &Subject<'_>) -> Option<Violation> {
    if is_windows(subject) { None } else { seccomp(subject) }
}
