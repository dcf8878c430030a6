//! A pod's claims before its containers are made: whether this node may mount what they are bound to, who
//! else has it, and whose group its files are. Which volume a claim is, `volume_claims.rs` decides.
//!
//! A persistent volume that is a folder of the host is the host's, whoever wrote the object: it takes the
//! daemon's allow-list as a hostPath does, or whoever commits could mount anything by way of a claim. What
//! this node made for a claim needs nobody's leave.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::task::spawn_blocking;

use crate::node::agent::{Agent, PodCell, lock};
use crate::node::capacity::Engine;
use crate::node::container_spec::MountSpec;
use crate::node::runtime::Runtime;
use crate::node::termination_plan::is_over;
use crate::node::volume_claims::{self, Claimed, claims_of, is_for_node};
use crate::node::volume_files::Missing;
use crate::node::volume_owner::{self, ChangePolicy};
use crate::node::volume_plan::{PlannedMount, VolumeKind, VolumePlan};
use crate::object::privilege::{Privileges, TO_ALLOW};
use crate::object::{Cluster, Key, Object, host_path};

/// Which pods have a persistent volume, by the volume's name.
pub type Holders = BTreeMap<String, BTreeSet<String>>;

/// What a pod's claims are; `known`: it has been given them before.
///
/// # Errors
/// Why the pod waits.
pub fn claimed<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    pod: &Pod,
    known: bool,
) -> Result<BTreeMap<String, Claimed>, Missing> {
    let begun = known || has_members(agent, pod.uid());
    volume_claims::claimed(pod, &lock(&agent.storage), begun)
}

/// Whether any container of a pod has been made, which has its volumes then.
fn has_members<C: Cluster, R: Runtime>(agent: &Agent<C, R>, uid: &str) -> bool {
    lock(&agent.instances).of_pod(uid).iter().any(|one| !one.identity.is_sandbox())
}

/// Looks whether the node may mount the pod's claims, and notes that the pod has them. Answers the names of
/// those volumes of the pod that nobody else has.
///
/// # Errors
/// The sentence of the `FailedMount` event.
pub async fn take<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    pod: &Arc<Pod>,
    engine: &Engine,
    claimed: &BTreeMap<String, Claimed>,
    plans: &[VolumePlan],
) -> Result<BTreeSet<String>, String> {
    if claimed.is_empty() {
        return Ok(BTreeSet::new());
    }
    are_for_node(agent, engine, claimed).await?;
    if let Some(why) = refusal(agent, pod, engine, plans).await {
        return Err(why);
    }
    for plan in plans {
        let VolumeKind::Engine { volume } = &plan.kind else { continue };
        let failed = |why: String| {
            format!("MountVolume.SetUp failed for volume \"{}\" : {why}", plan.shown())
        };
        let found = match agent.runtime.volume(volume).await {
            Ok(Some(found)) => found,
            Ok(None) => return Err(failed(format!("docker volume \"{volume}\" does not exist"))),
            Err(error) => return Err(failed(error.to_string())),
        };
        // Somebody's may be any folder of the host.
        let namespace = pod.key().namespace;
        let own = found.installation.as_ref() == Some(&agent.options.installation)
            && plan.claimed.as_ref() == Some(volume);
        if !own && !agent.options.privileges.privileged(&namespace) {
            return Err(failed(format!(
                "the daemon does not allow namespace \"{namespace}\" the host's Docker volume {volume}{TO_ALLOW}start the daemon with --allow-privileged {namespace} (or allow: in its config file)"
            )));
        }
    }
    hold(agent, pod, claimed)
}

async fn are_for_node<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    engine: &Engine,
    claimed: &BTreeMap<String, Claimed>,
) -> Result<(), String> {
    let name = &agent.options.node_name;
    let own = [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", &engine.architecture),
    ];
    let mut labels = own.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
    let elsewhere = |labels: &BTreeMap<String, String>| {
        claimed.values().find(|one| !is_for_node(&one.volume, labels)).cloned()
    };
    if elsewhere(&labels).is_none() {
        return Ok(());
    }
    // It may ask for a label that somebody gave the node.
    let node = agent.cluster.get::<Node>(&Key::cluster(name)).await;
    let node = node.map_err(|error| format!("error retrieving node: {error}"))?;
    labels = node.metadata.labels.clone().unwrap_or_default();
    match elsewhere(&labels) {
        None => Ok(()),
        Some(one) => Err(format!(
            "MountVolume.NodeAffinity check failed for volume \"{}\" : no matching NodeSelectorTerms",
            one.volume.key().name
        )),
    }
}

/// Why a persistent volume's path may not be mounted here, also where links lead it since it was looked at.
pub async fn refusal<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    pod: &Pod,
    engine: &Engine,
    plans: &[VolumePlan],
) -> Option<String> {
    let of_host = |plan: &&VolumePlan| {
        let kind = matches!(plan.kind, VolumeKind::HostPath(_) | VolumeKind::Local { own: false });
        plan.claimed.is_some() && kind
    };
    let plans: Vec<VolumePlan> = plans.iter().filter(of_host).cloned().collect();
    if plans.is_empty() {
        return None;
    }
    let (privileges, root) = (agent.options.privileges.clone(), engine.data_root.clone());
    let namespace = pod.key().namespace;
    let looking = spawn_blocking(move || {
        plans.iter().find_map(|plan| path_refusal(plan, &namespace, &privileges, &root))
    });
    looking.await.expect("following links does not panic")
}

/// Blocks on the disk.
fn path_refusal(
    plan: &VolumePlan,
    namespace: &str,
    privileges: &Privileges,
    engine_root: &str,
) -> Option<String> {
    let path = plan.path.display().to_string();
    let failed = |why: String| {
        format!("MountVolume.SetUp failed for volume \"{}\" : path {path}: {why}", plan.shown())
    };
    let refused = |path: &str| {
        failed(format!(
            "the daemon does not allow namespace \"{namespace}\" to mount {path}{TO_ALLOW}start the daemon with --allow-host-path {namespace}:{path} (or allow: in its config file)"
        ))
    };
    if let Some(why) = host_path::refusal(&path).or_else(|| privileges.own_path(&path)) {
        return Some(failed(why));
    }
    if !privileges.host_path(namespace, &path) {
        return Some(refused(&path));
    }
    // What is not there yet is judged when it was made.
    let real = Path::new(&path).canonicalize().ok()?;
    let real = real.to_string_lossy();
    let of_engine = !engine_root.is_empty()
        && (host_path::is_in(&real, engine_root) || host_path::is_in(engine_root, &real));
    if of_engine {
        let why = format!("{real} is, is in or holds the engine's own {engine_root}");
        return Some(failed(why));
    }
    (!privileges.host_path(namespace, &real)).then(|| refused(&real))
}

/// Notes who has what. Done under one lock, so that of two pods that want one volume for themselves one
/// gets it.
fn hold<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    pod: &Pod,
    claimed: &BTreeMap<String, Claimed>,
) -> Result<BTreeSet<String>, String> {
    let mut holders = lock(&agent.holders);
    let cells = agent.cells();
    holders.retain(|_, uids| {
        uids.retain(|uid| cells.iter().any(|cell| cell.uid == *uid));
        !uids.is_empty()
    });
    let mut first = BTreeSet::new();
    for (name, one) in claimed {
        let volume = one.volume.key().name;
        let noted = holders.get(&volume);
        let has = |cell: &&Arc<PodCell>| {
            cell.uid != pod.uid()
                && uses(agent, cell, &one.claim)
                && (noted.is_some_and(|uids| uids.contains(&cell.uid))
                    || has_members(agent, &cell.uid))
        };
        let others = cells.iter().any(|cell| has(&cell));
        if others && one.is_exclusive() {
            return Err(format!(
                "MountVolume.SetUp failed for volume \"{volume}\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod"
            ));
        }
        if !others && !has_members(agent, pod.uid()) {
            first.insert(name.clone());
        }
    }
    for one in claimed.values() {
        holders.entry(one.volume.key().name).or_default().insert(pod.uid().to_owned());
    }
    Ok(first)
}

/// Whether a pod names a claim and is not over.
fn uses<C: Cluster, R: Runtime>(agent: &Agent<C, R>, cell: &PodCell, claim: &Key) -> bool {
    let pod = cell.pod();
    let instances = lock(&agent.instances).of_pod(&cell.uid);
    let ended = is_over(&pod, &instances, agent.clock.now())
        && !instances.iter().any(|one| one.is_running() && !one.identity.is_sandbox());
    !ended && claims_of(&pod).any(|(_, key)| key == *claim)
}

/// Gives what is in the pod's volumes to its group, of those that nobody else has: a file that changes its
/// owner under another pod could be lost to it.
///
/// # Errors
/// The sentence of the `FailedMount` event.
pub async fn give<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    pod: &Pod,
    plans: &[VolumePlan],
    first: &BTreeSet<String>,
) -> Result<(), String> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let policy = match context.and_then(|context| context.fs_group_change_policy.as_deref()) {
        Some("OnRootMismatch") => ChangePolicy::OnRootMismatch,
        _ => ChangePolicy::Always,
    };
    let mut plans: Vec<VolumePlan> =
        plans.iter().filter(|plan| first.contains(&plan.name)).cloned().collect();
    plans.retain(|plan| plan.claimed.is_some() && plan.group.is_some());
    locate(agent, &mut plans).await?;
    for plan in plans {
        let Some(group) = plan.group else { continue };
        let failed = |why: String| {
            let volume = plan.shown();
            format!(
                "MountVolume.SetUp failed for volume \"{volume}\" : applyFSGroup failed for vol {volume}: {why}"
            )
        };
        if plan.path.as_os_str().is_empty() {
            return Err(failed("it is no plain directory of this host".to_owned()));
        }
        let path = plan.path.clone();
        let giving = spawn_blocking(move || volume_owner::give(&path, group, policy)).await;
        giving
            .expect("changing owners does not panic")
            .map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

/// Fills in where volumes of the engine are on this host, of those that are plain directories.
///
/// # Errors
/// The engine does not tell.
async fn locate<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    plans: &mut [VolumePlan],
) -> Result<(), String> {
    for plan in plans {
        let VolumeKind::Engine { volume } = &plan.kind else { continue };
        let found = agent.runtime.volume(volume).await.map_err(|error| error.to_string())?;
        plan.path = found.and_then(|found| found.directory()).unwrap_or_default();
    }
    Ok(())
}

/// A pod's volumes as they are found when one of its containers is made.
///
/// # Errors
/// The sentence behind `CreateContainerConfigError`.
pub async fn found<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    pod: &Pod,
    engine: &Engine,
    planned: &[PlannedMount],
    volumes: &[VolumePlan],
) -> Result<Vec<VolumePlan>, String> {
    let mut volumes = volumes.to_vec();
    if let Some(why) = refusal(agent, pod, engine, &volumes).await {
        return Err(why);
    }
    let wanted = |plan: &VolumePlan| {
        planned.iter().any(|mount| mount.volume == plan.name && mount.wants_a_path())
    };
    let mut engines: Vec<VolumePlan> =
        volumes.iter().filter(|plan| wanted(plan)).cloned().collect();
    locate(agent, &mut engines).await?;
    for one in engines {
        volumes
            .iter_mut()
            .filter(|plan| plan.name == one.name)
            .for_each(|plan| *plan = one.clone());
    }
    Ok(volumes)
}

/// Whether anything is looked at on the disk before these are mounted.
pub fn needs_a_look(volumes: &[VolumePlan], planned: &[PlannedMount]) -> bool {
    let of_host =
        |plan: &VolumePlan| matches!(plan.kind, VolumeKind::HostPath(_) | VolumeKind::Local { .. });
    volumes.iter().any(of_host) || planned.iter().any(PlannedMount::wants_a_path)
}

/// A container whose volume of the engine went would get a new one of its name, and an empty one.
///
/// # Errors
/// The sentence behind `CreateContainerConfigError`.
pub async fn are_there<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    mounts: &[MountSpec],
) -> Result<(), String> {
    use crate::node::container_spec::MountFrom;
    for mount in mounts.iter().filter(|mount| mount.from == MountFrom::Engine) {
        let name = &mount.source;
        match agent.runtime.volume(name).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(format!("docker volume \"{name}\" does not exist")),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

impl<C: Cluster, R: Runtime> Agent<C, R> {
    /// Wakes the pods that wait for this claim, or have it.
    pub fn wake_claimants(&self, claim: &Key) {
        for cell in self.cells() {
            if claims_of(&cell.pod()).any(|(_, key)| key == *claim) {
                cell.wake.notify_one();
            }
        }
    }

    /// A pod is gone: who waits for one of its claims may have it.
    pub fn let_go_of_claims(&self, pod: &Pod) {
        for (_, claim) in claims_of(pod) {
            self.wake_claimants(&claim);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::object::privilege::{Flags, WrittenAll};

    #[test]
    fn a_folder_of_the_host_takes_the_daemons_leave_by_every_way() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it is there");
        for name in ["mine/inner", "other", "engine/volumes"] {
            std::fs::create_dir_all(root.join(name)).expect("made");
        }
        symlink(root.join("other"), root.join("mine/out")).expect("a link");
        symlink(root.join("engine/volumes"), root.join("mine/engine")).expect("a link");
        let (mut written, mut flags) = (WrittenAll::new(), Flags::default());
        flags.host_paths = vec![format!("shop:{}", root.join("mine").display())];
        flags.add_to(&mut written, &mut Vec::new());
        let privileges = Privileges::read(written, vec!["/var/lib/b".into()], &mut Vec::new());
        let engine = root.join("engine").display().to_string();
        let judged = |path: &Path, namespace: &str| {
            let plan = VolumePlan {
                path: path.to_owned(),
                claimed: Some("pv".into()),
                kind: VolumeKind::Local { own: false },
                ..VolumePlan::default()
            };
            path_refusal(&plan, namespace, &privileges, &engine).unwrap_or_default()
        };
        for fine in ["mine", "mine/inner", "mine/none"] {
            assert_eq!(judged(&root.join(fine), "shop"), "", "{fine}");
        }
        let told = judged(&root.join("other"), "shop");
        let path = root.join("other").display().to_string();
        assert_eq!(
            told,
            format!(
                "MountVolume.SetUp failed for volume \"pv\" : path {path}: the daemon does not allow namespace \"shop\" to mount {path}; to allow it: start the daemon with --allow-host-path shop:{path} (or allow: in its config file)"
            )
        );
        assert!(judged(&root.join("mine"), "bank").contains("does not allow namespace \"bank\""));
        assert!(judged(&root.join("mine/out"), "shop").contains("does not allow namespace"));
        assert!(judged(&root.join("mine/engine"), "shop").contains("the engine's own"));
        assert!(judged(Path::new("/etc"), "shop").contains("gives the host away"));
        assert!(judged(Path::new("/var/lib/b/volumes"), "shop").contains("Ballast's own"));
    }
}
